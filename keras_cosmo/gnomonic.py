"""Gnomonic projection of the sphere onto small square images, many at once."""

import dataclasses
import functools
import math

import healpy
import numpy as np

# Pixels that are worked on at a time, so that temporary arrays stay below some tens of MB whatever is asked for.
BLOCK_PIXELS = 2**18


@dataclasses.dataclass(frozen=True)
class GnomonicGrid:
    """A square image in the plane that touches the sphere in its centre, seen from the middle of the sphere.

    The conventions are those of `healpy.gnomview`, seen from inside the sphere as in the sky. Without a rotation,
    longitude (east) grows towards the left, that is with falling column, and latitude (north) grows with the row, so
    that ``imshow(..., origin="lower")`` shows north up and east to the left. A rotation psi turns the image by psi from
    east towards north about its centre: its upward direction has position angle -psi (west of north for psi > 0). The
    grid is uniform in the tangent plane: a pixel side is ``pixel_size`` at the centre and shrinks outwards, by
    cos(distance) across and cos^2(distance) along the direction to the centre.

    Centres are given as numbers or as arrays of one shape ``(n,)``, which becomes the leading axis of every result;
    all angles are in degrees, images are ``(row, column)``.

    Args:
        side: Pixels along each side. Zhang et al. 2019 (section 2): 64.
        pixel_size: Side of a pixel at the centre in arcmin. Zhang et al. 2019 (section 2): 23.4, for a side of 24.96
            degrees.

    Raises:
        TypeError: If ``side`` is not an integer.
        ValueError: If an argument is not positive, or the image is wider than 180 degrees.

    Example:
        >>> grid = GnomonicGrid(side=64, pixel_size=23.4)
        >>> round(grid.fundamental, 1), round(grid.reach, 2), round(grid.half_diagonal, 2)
        (14.4, 16.87, 17.65)
        >>> grid.pixels(128, [10.0, 20.0], [60.0, 70.0], [0.0, 45.0]).shape
        (2, 64, 64)
    """

    side: int = 64
    pixel_size: float = 23.4

    def __post_init__(self):
        if isinstance(self.side, bool) or not isinstance(self.side, (int, np.integer)):
            raise TypeError(f"side: expected an integer number of pixels, got {self.side!r}.")
        if self.side < 1:
            raise ValueError(f"side: expected at least 1 pixel, got {self.side}.")
        if not (self.pixel_size > 0 and self.side * self.pixel_size / 60.0 <= 180.0):
            raise ValueError(
                f"pixel_size: expected a positive size in arcmin and an image of at most 180 degrees, got "
                f"{self.side} pixels of {self.pixel_size} arcmin."
            )

    @property
    def fundamental(self) -> float:
        """Multipole of the largest wave that fits, 360 degrees / width of the image (ell_F of the paper: 14.4)."""
        return 360.0 * 60.0 / (self.side * self.pixel_size)

    @property
    def half_diagonal(self) -> float:
        """Half the diagonal of a flat square of this side in degrees (17.65 for the paper's cutouts).

        More than the corners of the image are from its centre, since the plane touches the sphere only there.
        """
        return self.side * self.pixel_size / 60.0 / math.sqrt(2.0)

    @property
    def reach(self) -> float:
        """Largest angle between the centre of the image and the centre of a pixel in degrees, at the corners."""
        return math.degrees(math.atan((self.side - 1) / math.sqrt(2.0) * math.radians(self.pixel_size / 60.0)))

    def vectors(self, longitude, latitude, rotation=0.0) -> np.ndarray:
        """Directions of all pixels.

        Args:
            longitude: Of the centres in degrees.
            latitude: Of the centres in degrees.
            rotation: psi in degrees.

        Returns:
            Unit vectors ``(n, side, side, 3)`` float64; ``(side, side, 3)`` for a single centre.
        """
        shape, matrices = _frames(longitude, latitude, rotation)
        vectors = _turn(matrices, _plane(self.side, self.pixel_size))
        return np.moveaxis(vectors, 1, -1).reshape(*shape, self.side, self.side, 3)

    def pixels(self, nside: int, longitude, latitude, rotation=0.0) -> np.ndarray:
        """HEALPix pixels that contain the centres of the image's pixels: the nearest-pixel cutout.

        Args:
            nside: Of the HEALPix map, a power of two.
            longitude: As for `vectors`.
            latitude: As for `vectors`.
            rotation: As for `vectors`.

        Returns:
            Pixel numbers ``(n, side, side)`` int64 in RING ordering, as `healpy.projector.GnomonicProj` finds them.
        """
        _check_nside(nside)
        shape, matrices = _frames(longitude, latitude, rotation)
        plane = _plane(self.side, self.pixel_size)
        pixels = np.empty((len(matrices), self.side**2), np.int64)
        for block in self._blocks(len(matrices)):
            x, y, z = np.moveaxis(_turn(matrices[block], plane), 1, 0)
            pixels[block] = healpy.vec2pix(nside, x, y, z)
        return pixels.reshape(*shape, self.side, self.side)

    def neighbours(self, nside: int, longitude, latitude, rotation=0.0) -> tuple[np.ndarray, np.ndarray]:
        """Four HEALPix pixels around each pixel's centre and their weights: the bilinear cutout.

        Args:
            nside: Of the HEALPix map, a power of two.
            longitude: As for `vectors`.
            latitude: As for `vectors`.
            rotation: As for `vectors`.

        Returns:
            Pixel numbers ``(n, side, side, 4)`` int64 in RING ordering, and weights of the same shape, float64, that
            sum to 1 (`healpy.get_interp_weights`).
        """
        _check_nside(nside)
        shape, matrices = _frames(longitude, latitude, rotation)
        plane = _plane(self.side, self.pixel_size)
        pixels = np.empty((len(matrices), 4, self.side**2), np.int64)
        weights = np.empty(pixels.shape)
        for block in self._blocks(len(matrices)):
            x, y, z = np.moveaxis(_turn(matrices[block], plane), 1, 0)
            found = healpy.get_interp_weights(nside, np.arctan2(np.hypot(x, y), z), np.arctan2(y, x))
            pixels[block], weights[block] = (np.moveaxis(array, 0, 1) for array in found)
        return tuple(np.moveaxis(array.reshape(*shape, 4, self.side, self.side), -3, -1) for array in (pixels, weights))

    def project(self, vectors, longitude, latitude, rotation=0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where directions fall in images; the inverse of `vectors`.

        Args:
            vectors: Directions ``(m, 3)`` of any length.
            longitude: As for `vectors`.
            latitude: As for `vectors`.
            rotation: As for `vectors`.

        Returns:
            Column x and row y ``(n, m)`` (``(m,)`` for a single centre) as float64 with the centre of the first pixel
            at 0 and of the last at ``side`` - 1, and whether the direction is in front, less than 90 degrees from the
            centre. Where it is not, x and y are NaN. Directions outside the image have x or y outside
            [-0.5, ``side`` - 0.5].

        Raises:
            ValueError: If ``vectors`` has another shape.
        """
        vectors = np.asarray(vectors, np.float64)
        if vectors.ndim != 2 or vectors.shape[1] != 3:
            raise ValueError(f"vectors: expected directions of shape (m, 3), got {vectors.shape}.")
        shape, matrices = _frames(longitude, latitude, rotation)
        towards, east, north = np.moveaxis(_turn(np.moveaxis(matrices, 1, 2), vectors.T), 1, 0)
        front = towards > 0.0
        depth = np.where(front, towards, np.nan) * math.radians(self.pixel_size / 60.0)
        middle = 0.5 * (self.side - 1)
        x, y = middle - east / depth, middle + north / depth
        return tuple(array.reshape(*shape, len(vectors)) for array in (x, y, front))

    def _blocks(self, count):
        """Slices of centres with not too many pixels each."""
        step = max(1, BLOCK_PIXELS // self.side**2)
        return (slice(start, start + step) for start in range(0, count, step))


@functools.lru_cache(maxsize=8)
def _plane(side: int, pixel_size: float) -> np.ndarray:
    """Unit vectors of the pixels about the direction (1, 0, 0), east (0, 1, 0) and north (0, 0, 1), ``(3, side^2)``."""
    steps = (np.arange(side) - 0.5 * (side - 1)) * math.radians(pixel_size / 60.0)
    north, west = np.meshgrid(steps, steps, indexing="ij")
    plane = np.stack([np.ones_like(west), -west, north]).reshape(3, -1)
    plane /= np.sqrt(np.square(plane).sum(axis=0))
    plane.flags.writeable = False
    return plane


def _frames(longitude, latitude, rotation) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape of the centres, and matrices ``(n, 3, 3)`` whose columns are their directions of centre, east and north."""
    try:
        angles = np.broadcast_arrays(*(np.asarray(angle, np.float64) for angle in (longitude, latitude, rotation)))
    except ValueError as error:
        shapes = [np.shape(angle) for angle in (longitude, latitude, rotation)]
        raise ValueError(
            f"longitude, latitude, rotation: expected numbers or arrays of one shape, got shapes {shapes}."
        ) from error
    shape = angles[0].shape
    if len(shape) > 1:
        raise ValueError(f"longitude, latitude, rotation: expected numbers or arrays (n,), got shape {shape}.")
    for name, angle in zip(("longitude", "latitude", "rotation"), angles, strict=True):
        if not np.isfinite(angle).all():
            raise ValueError(f"{name}: expected finite degrees, got {angle[~np.isfinite(angle)].flat[0]}.")
    if (np.abs(angles[1]) > 90.0).any():
        wrong = angles[1][np.abs(angles[1]) > 90.0].flat[0]
        raise ValueError(f"latitude: expected -90 to 90 degrees, got {wrong}. Check the order of the arguments.")
    (cos_lon, cos_lat, cos_psi), (sin_lon, sin_lat, sin_psi) = (
        [function(np.radians(angle.reshape(-1))) for angle in angles] for function in (np.cos, np.sin)
    )
    centre = np.stack([cos_lat * cos_lon, cos_lat * sin_lon, sin_lat], axis=-1)
    east = np.stack([-sin_lon, cos_lon, np.zeros_like(sin_lon)], axis=-1)
    north = np.stack([-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat], axis=-1)
    cos_psi, sin_psi = cos_psi[:, None], sin_psi[:, None]
    return shape, np.stack([centre, cos_psi * east + sin_psi * north, cos_psi * north - sin_psi * east], axis=-1)


def _turn(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Products ``(n, 3, m)`` of matrices and vectors ``(3, m)``.

    Not by a matrix product of BLAS, whose rounding depends on how many centres come together.
    """
    first, second, third = (matrices[:, :, column, None] * vectors[column] for column in range(3))
    first += second
    first += third
    return first


def _check_nside(nside: int) -> None:
    if isinstance(nside, bool) or not isinstance(nside, (int, np.integer)) or not healpy.isnsideok(int(nside), True):
        raise ValueError(f"nside: expected a power of two, got {nside!r}.")
