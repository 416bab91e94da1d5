"""Parts of the sky for training, validation and test, so far apart that cutouts centred in them share no pixel."""

import dataclasses
import math
import numbers

import healpy
import numpy as np

from keras_cosmo.gnomonic import GnomonicGrid

NORTH_SOUTH_GUARD, EAST_WEST_GUARD = 17.65, 18.0
"""Degrees between centres of cutouts and the great circle that divides the sky (Zhang et al. 2019, section 2: no
centre below a declination of 17.65; appendix C: a buffer of 36 degrees, 18 on either side)."""

BLOCK_PIXELS = 2**20
# Degrees within which a pixel counts as centred on a border.
ON_A_BORDER = 1e-6
FEWEST_DRAWN, MOST_ROUNDS = 256, 4096


@dataclasses.dataclass(frozen=True)
class SkyArea:
    """Directions that stand at least ``guard`` above the great circle around a pole, or a part of them.

    A ``sector`` between two meridians about the pole divides the area again: into the part inside the sector and the
    part outside, each of which keeps ``sector_guard`` away from both meridians. The azimuth about the pole is 0 towards
    the south and 90 towards the east; about the pole at latitude 90 (with ``pole_longitude`` 0) it is the longitude.

    Args:
        pole_longitude, pole_latitude: Of the pole in degrees.
        guard: Least angle above the great circle in degrees, -90 (the whole sky) to less than 90.
        sector: Azimuths of its two edges in degrees, the second up to 360 more than the first. None: no sector.
        outside: Whether the area is what is outside the sector.
        sector_guard: Least angle from the edges of the sector in degrees. None: as ``guard``, at least 0.

    Raises:
        ValueError: If an angle is out of its range, or no room is left for any direction.

    Example:
        >>> north, south = north_south()
        >>> north.contains([0.0, 0.0], [30.0, 10.0]).tolist()
        [True, False]
        >>> longitude, latitude = south.draw(5, np.random.default_rng(0))
        >>> bool((latitude <= -17.65).all())
        True

    Deviations from Zhang et al. 2019: they have no validation part, so no sectors. Of their east and west only the
    ranges at the equator are given (appendix C); here these are caps about poles on the equator.
    """

    pole_longitude: float
    pole_latitude: float
    guard: float
    sector: tuple[float, float] | None = None
    outside: bool = False
    sector_guard: float | None = None

    def __post_init__(self):
        for name, low, high in (("pole_longitude", -360, 360), ("pole_latitude", -90, 90), ("guard", -90, 89.9)):
            value = getattr(self, name)
            if not (isinstance(value, numbers.Real) and low <= value <= high):
                raise ValueError(f"{name}: expected {low} to {high} degrees, got {value!r}.")
        if self.sector is None:
            if self.outside or self.sector_guard is not None:
                raise ValueError("sector: expected two azimuths with outside or sector_guard, got None.")
            return
        start, stop = (float(edge) for edge in self.sector)
        if not 0.0 < stop - start < 360.0:
            raise ValueError(
                f"sector: expected two azimuths in degrees, the second larger by less than 360, got {self.sector}."
            )
        sector_guard = max(self.guard, 0.0) if self.sector_guard is None else float(self.sector_guard)
        if not 0.0 <= sector_guard < 90.0:
            raise ValueError(f"sector_guard: expected 0 to less than 90 degrees, got {self.sector_guard}.")
        object.__setattr__(self, "sector", (start, stop))
        object.__setattr__(self, "sector_guard", sector_guard)
        width = 360.0 - (stop - start) if self.outside else stop - start
        # The direction that is farthest from both edges: half-way between them and as low as the guard lets it.
        widest = math.cos(math.radians(max(self.guard, 0.0))) * math.sin(math.radians(min(0.5 * width, 90.0)))
        if math.degrees(math.asin(widest)) <= sector_guard:
            raise ValueError(
                f"sector: {width:g} degrees wide, all directions are closer than the guard of {sector_guard:g} degrees "
                f"to an edge. Take a wider one (or a narrower one, for the area outside), or a smaller guard."
            )

    def contains(self, longitude, latitude) -> np.ndarray:
        """Whether directions in degrees lie in the area; boolean array of their shape."""
        return self._inside(healpy.ang2vec(*_healpix_angles(longitude, latitude)), self.guard, self.sector_guard)

    def draw(self, n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Directions that are uniform on the sphere within the area.

        Args:
            n: How many.
            generator: Source of the random numbers.

        Returns:
            Longitude (0 to 360) and latitude in degrees, ``(n,)`` float64 each. About the Galactic pole the density of
            latitudes b is that of Zhang et al. 2019 (section 2), proportional to cos(b).

        Raises:
            ValueError: If ``n`` is negative, or the area is all but empty.
        """
        if n < 0:
            raise ValueError(f"n: expected at least 0 directions, got {n}.")
        accepted, count, rounds = [np.empty((0, 3))], 0, 0
        lowest = math.sin(math.radians(self.guard))
        size = n if self.sector is None else max(n, FEWEST_DRAWN)
        while count < n:
            rounds += 1
            if rounds > MOST_ROUNDS:
                raise ValueError(
                    f"sector: only {count} of {rounds * size} directions fell into the area {self}. Give it more room."
                )
            height = generator.uniform(lowest, 1.0, size)
            azimuth = generator.uniform(0.0, 2.0 * np.pi, size)
            across = np.sqrt(1.0 - height**2)
            vectors = np.stack([across * np.cos(azimuth), across * np.sin(azimuth), height], axis=-1) @ self._axes()
            if self.sector is not None:
                vectors = vectors[self._inside(vectors, self.guard, self.sector_guard)]
            accepted.append(vectors)
            count += len(vectors)
        x, y, z = np.concatenate(accepted)[:n].T
        return np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))

    def divide(self, width: float, start: float = 0.0) -> tuple["SkyArea", "SkyArea"]:
        """The area outside a sector and the one inside it, for training and validation.

        Args:
            width: Of the sector in degrees.
            start: Azimuth of its first edge in degrees.

        Raises:
            ValueError: If this area is divided already, or one of the parts would be empty.
        """
        if self.sector is not None:
            raise ValueError(f"sector: the area is divided already, at {self.sector}. Divide the whole one.")
        sector = (start, start + width)
        return tuple(dataclasses.replace(self, sector=sector, outside=outside) for outside in (True, False))

    def _axes(self):
        """Rows: directions of azimuth 0 and 90, and of the pole."""
        longitude, colatitude = math.radians(self.pole_longitude), math.radians(90.0 - self.pole_latitude)
        cos_lon, sin_lon, cos_col, sin_col = (
            function(angle) for angle in (longitude, colatitude) for function in (math.cos, math.sin)
        )
        return np.array(
            [
                [cos_col * cos_lon, cos_col * sin_lon, -sin_col],
                [-sin_lon, cos_lon, 0.0],
                [sin_col * cos_lon, sin_col * sin_lon, cos_col],
            ]
        )

    def _inside(self, vectors, guard, sector_guard):
        """Whether unit vectors ``(..., 3)`` keep the guards; guards below 0 reach over the edges."""
        x, y, z = np.moveaxis(vectors @ self._axes().T, -1, 0)
        inside = z >= math.sin(math.radians(guard))
        if self.sector is None:
            return inside
        azimuth = np.degrees(np.arctan2(y, x))
        within = (azimuth - self.sector[0]) % 360.0 <= self.sector[1] - self.sector[0]
        distance = np.full(z.shape, np.inf)
        for edge in np.radians(self.sector):
            along, across = x * math.cos(edge) + y * math.sin(edge), y * math.cos(edge) - x * math.sin(edge)
            # An edge is half a great circle: from behind it, its ends are nearest.
            nearest = np.where(along >= 0.0, np.abs(across), np.hypot(along, across))
            distance = np.minimum(distance, np.degrees(np.arcsin(np.minimum(nearest, 1.0))))
        return inside & (np.where(within == self.outside, -distance, distance) >= sector_guard)


def north_south(guard: float = NORTH_SOUTH_GUARD) -> tuple[SkyArea, SkyArea]:
    """Northern and southern Galactic hemisphere, at latitudes of at least ``guard`` degrees.

    The default is that of Zhang et al. 2019 (section 2), half the diagonal of a flat square of 24.96 degrees
    (`GnomonicGrid.half_diagonal`). The cutouts reach less far, see `smallest_guard`.
    """
    return SkyArea(0.0, 90.0, guard), SkyArea(0.0, -90.0, guard)


def east_west(guard: float = EAST_WEST_GUARD) -> tuple[SkyArea, SkyArea]:
    """Eastern and western Galactic hemisphere, about longitudes 270 and 90.

    With the default guard they cover the longitudes 198 to 342 and 18 to 162 at the equator (Zhang et al. 2019,
    appendix C).
    """
    return SkyArea(270.0, 0.0, guard), SkyArea(90.0, 0.0, guard)


def smallest_guard(grid: GnomonicGrid, nside: int, interpolation: str = "nearest") -> float:
    """Guard in degrees that suffices for cutouts on both sides of a great circle to share no HEALPix pixel.

    The angle between the centre of a cutout and its corners, and the radius of the largest HEALPix pixel: twice that
    radius for bilinear interpolation.

    Example:
        >>> round(smallest_guard(GnomonicGrid(64, 23.4), nside=1024), 2)
        16.93
    """
    radii = {"nearest": 1, "bilinear": 2}
    if interpolation not in radii:
        raise ValueError(f"interpolation: expected one of {list(radii)}, got {interpolation!r}.")
    return grid.reach + radii[interpolation] * float(healpy.max_pixrad(nside, degrees=True))


def half_sky(area: SkyArea, nside: int) -> np.ndarray:
    """HEALPix pixels on the side of its great circle, and of the edges of its sector, where an area is.

    Cutouts centred in the area with the guard of `smallest_guard` lie within. Pixels centred right on the circle or an
    edge belong to neither side. A guard below 0 is kept as it is.

    Args:
        area: The area.
        nside: Of the HEALPix map.

    Returns:
        Boolean array ``(12 * nside**2,)`` in RING ordering.
    """
    inside = np.empty(healpy.nside2npix(nside), bool)
    for start in range(0, len(inside), BLOCK_PIXELS):
        pixels = np.arange(start, min(start + BLOCK_PIXELS, len(inside)))
        vectors = np.stack(healpy.pix2vec(nside, pixels), axis=-1)
        inside[pixels] = area._inside(vectors, min(area.guard, ON_A_BORDER), ON_A_BORDER)
    return inside


def _healpix_angles(longitude, latitude):
    """Colatitude and longitude in radians."""
    longitude, latitude = np.broadcast_arrays(np.asarray(longitude, np.float64), np.asarray(latitude, np.float64))
    if not (np.isfinite(longitude).all() and (np.abs(latitude) <= 90.0).all()):
        raise ValueError("longitude, latitude: expected finite degrees and latitudes of -90 to 90.")
    return np.radians(90.0 - latitude), np.radians(longitude)
