"""Spectra of the 21 cm line over the sky: HI4PI (HI4PI Collaboration 2016, A&A 594, A116) and surveys of its kind.

Facts about the files:

- Cubes are ``(velocity, latitude, longitude)`` in K, with pixels of 5', as one cube of the whole sky
  (``ALLSKY/GAL/CAR.fits``, 33 GB) or as tiles of 20 degrees, galactic (``GLON-CAR``) or equatorial (``RA---CAR``). The
  whole sky is a few pixels wider than 360 degrees; world coordinates of the pixels at its edges are not defined, so
  that pixels are looked up by world coordinates here, never the other way round.
- The third axis is the radio velocity in the local standard of rest, in m/s. The number of channels differs between
  products (933 of 1288.2 m/s in one of them): channels are chosen by velocity.
"""

import dataclasses
import logging
import os
import pathlib
import re
import warnings
from collections.abc import Iterable

import healpy
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from keras_cosmo.data.formats.cube_files import (
    IMAGE_KEYS,
    KEY_NAMES,
    axis_velocities,
    check_plane,
    check_same_velocities,
    cube_paths,
    kelvin_factor,
    read_velocities,
    select_channels,
)
from keras_cosmo.data.formats.healpix_cube import HealpixCube
from keras_cosmo.data.formats.healpix_maps import as_float, check_complete, describe, open_fits, rotation

logger = logging.getLogger(__name__)

CELESTIAL_KEYS = ("CTYPE", "CRVAL", "CRPIX", "CDELT", "CUNIT", "CROTA")
BLOCK = 2**19
LARGEST_DISC = 60.0


class Hi4piCube:
    """Channels of a cube on a grid of longitude and latitude, as HEALPix maps: one cube of the whole sky, or tiles.

    Channels are interpolated bilinearly at the centres of HEALPix pixels. A pixel next to a blank one is blank. Where
    tiles overlap, the first that has data counts. One channel is read at a time, so that a cube may be larger than
    the memory; at Nside 1024 a channel takes some seconds and less than 1 GB.

    Args:
        paths: One FITS file, or tiles of one survey.
        velocity_low: Lower end of the velocities in km/s (LSR). Channels whose centre lies within the ends are taken.
        velocity_high: Upper end.
        velocities: Centres of all channels of the files in km/s, or a .txt or .npy file with them, for files whose
            header does not say.

    Attributes:
        paths: The files.
        velocities: Centres of the channels taken, ``(n_channels,)`` float64 in km/s, ascending.
        coordinates: Of the files, ``"galactic"`` or ``"equatorial"``. Planes are always galactic.
        nside: None: the files are no HEALPix maps.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is no such cube or is damaged, its unit, axes or frame are others, tiles do not belong
            together, or the velocities are not all within the file.

    Example:
        >>> cube = Hi4piCube("CAR.fits", -64.5, 17.0)  # doctest: +SKIP
        >>> cube.n_channels, cube.plane(0, nside=1024).shape  # doctest: +SKIP
        (64, (12582912,))

    Zhang et al. 2019, section 2, take 64 maps from -64.5 to 17 km/s at Nside 1024. They do not say how they
    interpolate.
    """

    nside = None

    def __init__(
        self,
        paths: str | os.PathLike | Iterable[str | os.PathLike],
        velocity_low: float,
        velocity_high: float,
        velocities=None,
    ):
        self.paths = cube_paths(paths)
        given = None if velocities is None else read_velocities(velocities)
        self._tiles = [_Tile.of(path, velocity_low, velocity_high, given) for path in self.paths]
        first = self._tiles[0]
        self.velocities, self.coordinates = first.velocities, first.coordinates
        for tile in self._tiles[1:]:
            check_same_velocities(self.paths[0], self.velocities, tile.path, tile.velocities)
            if tile.coordinates != self.coordinates:
                raise ValueError(
                    f"{tile.path} and {self.paths[0]} do not belong together: expected the same coordinates, got "
                    f"{tile.coordinates} and {self.coordinates}. Open them as two cubes."
                )
        self._sampled: tuple[int, list[_Samples]] | None = None

    @property
    def n_channels(self) -> int:
        """Channels taken."""
        return len(self.velocities)

    def plane(self, i: int, nside: int) -> np.ndarray:
        """One channel.

        Args:
            i: Which, from 0 to n_channels - 1.
            nside: HEALPix resolution of the result, a power of two.

        Returns:
            Brightness temperature in K, float32 ``(12 nside^2,)`` in RING order and galactic coordinates; NaN where
            there is no data.

        Raises:
            IndexError: If there is no such channel.
            ValueError: If ``nside`` is not a power of two.
        """
        i, nside = check_plane(i, nside, self.n_channels)
        if self._sampled is None or self._sampled[0] != nside:
            self._sampled = None
            samples = [_Samples.of(tile, nside) for tile in self._tiles]
            self._sampled = nside, samples
            covered = np.zeros(12 * nside**2, bool)
            for each in samples:
                covered[each.pixels] = True
            logger.info("%d files cover %.1f %% of the sky.", len(samples), 100.0 * covered.mean())
        result = np.full(12 * nside**2, np.nan, np.float32)
        edges = []
        for tile, samples in zip(self._tiles, self._sampled[1], strict=True):
            image = tile.read(i)
            for start in range(0, len(samples.pixels), BLOCK):
                block = slice(start, start + BLOCK)
                pixels, values = samples.pixels[block], samples.take(image, block)
                edge = samples.edge[block]
                if edge.any():
                    edges.append((pixels[edge], values[edge]))
                    pixels, values = pixels[~edge], values[~edge]
                _fill(result, pixels, values)
        for pixels, values in edges:
            _fill(result, pixels, values)
        return result


def open_cube(
    paths: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    velocity_low: float,
    velocity_high: float,
    velocities=None,
    ordering: str | None = None,
    coordinates: str | None = None,
    column: str | None = None,
) -> Hi4piCube | HealpixCube:
    """Open spectra in any of the formats that are read here, which is recognised from the first file.

    Args:
        paths: One file, several, or a folder, which stands for all its FITS files.
        velocity_low: As in `Hi4piCube`.
        velocity_high: As in `Hi4piCube`.
        velocities: As in `Hi4piCube`.
        ordering: As in `HealpixCube`.
        coordinates: As in `HealpixCube`.
        column: As in `HealpixCube`.

    Raises:
        FileNotFoundError: If a file or folder does not exist, or a folder holds no FITS files.
        ValueError: As `Hi4piCube` and `HealpixCube`; and if an argument is given that the format has no use for.

    Example:
        >>> cube = open_cube("CUBES/GAL/CAR", velocity_low=-64.5, velocity_high=17.0)  # doctest: +SKIP
        >>> cube.n_channels  # doctest: +SKIP
        64
    """
    paths = cube_paths(paths)
    options = {"ordering": ordering, "coordinates": coordinates, "column": column}
    if paths[0].suffix != ".npy":
        with open_fits(paths[0]) as file:
            if any(_is_cube(hdu) for hdu in file):
                useless = [name for name, value in options.items() if value is not None]
                if useless:
                    raise ValueError(
                        f"{paths[0]} is a cube of longitude, latitude and velocity, whose header says everything: "
                        f"leave out {', '.join(useless)}."
                    )
                return Hi4piCube(paths, velocity_low, velocity_high, velocities)
            if not any(isinstance(hdu, fits.BinTableHDU) for hdu in file):
                raise ValueError(
                    f"{paths[0]}: expected a cube of longitude, latitude and velocity, or a HEALPix table with a "
                    f"spectrum per row, got {describe(paths[0], file)}. Give the file with the channels."
                )
    return HealpixCube(paths, velocity_low, velocity_high, velocities, **options)


def _is_cube(hdu) -> bool:
    if not isinstance(hdu, (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)):
        return False
    return sum(hdu.header.get(f"NAXIS{axis + 1}", 0) > 1 for axis in range(hdu.header.get("NAXIS", 0))) >= 3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Tile:
    path: pathlib.Path
    hdu: int
    shape: tuple[int, int]  # latitude, longitude
    axis: int  # of the velocity, in the order of numpy
    axes: int
    wcs: WCS
    period: int | None  # pixels around the sky
    coordinates: str
    channels: np.ndarray
    velocities: np.ndarray
    scale: float

    @classmethod
    def of(cls, path: pathlib.Path, low: float, high: float, given: np.ndarray | None) -> "_Tile":
        with open_fits(path) as file:
            number = next((number for number, hdu in enumerate(file) if _is_cube(hdu)), None)
            if number is None:
                raise ValueError(
                    f"{path}: expected a cube of longitude, latitude and velocity, got {describe(path, file)}. "
                    f"Give the file with the channels."
                )
            if not isinstance(file[number], fits.CompImageHDU):
                check_complete(path, file[number])
            header = file[number].header.copy()
        if path.suffix in (".gz", ".fz"):
            logger.warning("%s is compressed, and is decompressed for every channel: decompress it first.", path)
        types = [str(header.get(f"CTYPE{axis + 1}", "")).strip().upper() for axis in range(header["NAXIS"])]
        coordinates = _celestial(path, header, types)
        long = [axis for axis in range(2, len(types)) if header[f"NAXIS{axis + 1}"] > 1]
        if len(long) != 1:
            raise ValueError(
                f"{path}: expected a cube of longitude, latitude and velocity, got the axes {', '.join(types)}. Write "
                f"it so, with one spectrum for each position."
            )
        number_of_axis = long[0] + 1
        keys = {name: key.format(axis=number_of_axis) for name, key in zip(KEY_NAMES, IMAGE_KEYS, strict=True)}
        keys["step2"] = f"CD{number_of_axis}_{number_of_axis}"
        velocities = axis_velocities(path, header, keys, header[f"NAXIS{number_of_axis}"], given)
        channels = select_channels(path, velocities, low, high)
        wcs = _celestial_wcs(path, header)
        return cls(
            path=path,
            hdu=number,
            shape=(header["NAXIS2"], header["NAXIS1"]),
            axis=len(types) - number_of_axis,
            axes=len(types),
            wcs=wcs,
            period=_period(wcs, types[0], header["NAXIS1"]),
            coordinates=coordinates,
            channels=channels,
            velocities=velocities[channels],
            scale=kelvin_factor(path, "BUNIT", header.get("BUNIT")),
        )

    def read(self, i: int) -> np.ndarray:
        """Channel i in K, NaN where blank."""
        place: list = [0] * (self.axes - 2) + [slice(None), slice(None)]
        place[self.axis] = int(self.channels[i])
        # A section is read alone in either case.
        with open_fits(self.path, memory_map=False) as file:
            image = as_float(file[self.hdu].section[tuple(place)]).astype(np.float32, copy=False)
        if self.scale != 1.0:
            image *= np.float32(self.scale)
        if self.period is not None and (margin := self.shape[1] - self.period) > 0:
            # Columns beyond a full circle are copies of others; either may be blank.
            for here, there in (
                (slice(0, margin), slice(self.period, None)),
                (slice(self.period, None), slice(0, margin)),
            ):
                blank = np.isnan(image[:, here])
                image[:, here][blank] = image[:, there][blank]
        return image


def _celestial(path: pathlib.Path, header, types: list[str]) -> str:
    pairs = {("GLON", "GLAT"): "galactic", ("RA", "DEC"): "equatorial"}
    coordinates = pairs.get(tuple(each.split("-")[0] for each in types[:2]))
    if coordinates is None:
        raise ValueError(
            f"{path}: expected longitude and latitude first, as GLON-CAR, GLAT-CAR or RA---CAR, DEC--CAR, then the "
            f"velocity, got the axes {', '.join(each or '?' for each in types)}. Write the cube with its axes so."
        )
    if coordinates == "equatorial":
        system, equinox = str(header.get("RADESYS", header.get("RADECSYS", ""))).strip().upper(), header.get("EQUINOX")
        if system not in ("", "ICRS", "FK5") or equinox not in (None, 2000, "J2000", "2000"):
            raise ValueError(
                f"{path}: expected coordinates of J2000 (RADESYS ICRS or FK5), got {system or 'equinox'} "
                f"{equinox or ''}. Transform the cube first."
            )
    return coordinates


def _celestial_wcs(path: pathlib.Path, header) -> WCS:
    """World coordinates of the first two axes; everything else in the header is left out."""
    wanted = re.compile(
        rf"({'|'.join(CELESTIAL_KEYS)})[12]|(PC|CD)[12]_[12]|PC00[12]00[12]|PV[12]_\d+|LONPOLE|LATPOLE|RADESYS|EQUINOX"
    )
    celestial = fits.Header()
    for key in header:
        if wanted.fullmatch(key):
            celestial[key] = header[key]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        try:
            wcs = WCS(celestial, naxis=2)
            wcs.wcs.set()
        except Exception as error:
            raise ValueError(
                f"{path}: the world coordinates of longitude and latitude are not readable "
                f"({' '.join(str(error).split())}). Correct the header."
            ) from error
    return wcs


def _period(wcs: WCS, kind: str, width: int) -> int | None:
    """Columns around the whole sky, if columns are steps of longitude."""
    matrix = wcs.pixel_scale_matrix
    if not kind.endswith("-CAR") or matrix[0, 1] or matrix[1, 0] or not matrix[0, 0]:
        return None
    period = 360.0 / abs(matrix[0, 0])
    # A part of a column off at the end of the circle; rounded steps of longitude are usual.
    return round(period) if abs(period - round(period)) < 0.05 and width >= 2 else None


@dataclasses.dataclass(frozen=True, eq=False)
class _Samples:
    """HEALPix pixels within a tile and where they lie on it: lower neighbours and the way to the upper ones."""

    pixels: np.ndarray
    x: np.ndarray
    y: np.ndarray
    to_right: np.ndarray
    to_upper: np.ndarray
    edge: np.ndarray  # beyond the centres of the outermost pixels, by up to half a pixel
    period: int | None

    @classmethod
    def of(cls, tile: _Tile, nside: int) -> "_Samples":
        candidates = _candidates(tile, nside)
        count = 12 * nside**2 if candidates is None else len(candidates)
        matrix = None if tile.coordinates == "galactic" else rotation(tile.coordinates)
        parts = []
        for start in range(0, count, BLOCK):
            stop = min(start + BLOCK, count)
            pixels = np.arange(start, stop) if candidates is None else candidates[start:stop]
            if matrix is None:
                longitude, latitude = healpy.pix2ang(nside, pixels, lonlat=True)
            else:
                vectors = matrix @ np.array(healpy.pix2vec(nside, pixels))
                longitude, latitude = healpy.vec2ang(vectors.T, lonlat=True)
            x, y = tile.wcs.wcs_world2pix(longitude, latitude, 0)
            parts.append(_placed(pixels, x, y, tile.shape, tile.period))
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)), tile.period)

    def take(self, image: np.ndarray, block: slice) -> np.ndarray:
        """Bilinear interpolation; NaN where a neighbour with any weight is."""
        height, width = image.shape
        x, y, right, upper = self.x[block], self.y[block], self.to_right[block], self.to_upper[block]
        x1, y1 = x + 1, np.minimum(y + 1, height - 1)
        x1 = np.where(x1 < width, x1, width - 1 if self.period is None else x1 - self.period)
        # A neighbour without weight may be outside: any pixel will do.
        x1 = np.clip(x1, 0, width - 1)
        result = np.zeros(len(x), np.float32)
        for row, column, weight in (
            (y, x, (1 - upper) * (1 - right)),
            (y, x1, (1 - upper) * right),
            (y1, x, upper * (1 - right)),
            (y1, x1, upper * right),
        ):
            result += np.where(weight > 0, image[row, column] * weight, np.float32(0))
        return result


def _placed(pixels, x, y, shape: tuple[int, int], period: int | None):
    """The pixels that lie on a tile, and their places on it."""
    height, width = shape
    # Rounding must not give weight to a neighbour.
    x, y = (np.where(np.abs(each - np.rint(each)) < 1e-6, np.rint(each), each) for each in (x, y))
    if period is not None:
        for shift in (period, -period):
            inside = (x >= 0) & (x <= width - 1)
            moved = x + shift
            better = (moved >= 0) & (moved <= width - 1)
            near = (moved >= -0.5) & (moved < width - 0.5) & ~((x >= -0.5) & (x < width - 0.5))
            x = np.where(~inside & (better | near), moved, x)
    circle = period is not None and width >= period
    if circle:
        # Between the last column and the first.
        x = np.where((x < 0) & (x > -1), x + period, x)
        in_x = (x >= 0) & (x < width)
        edge_x = np.zeros(len(x), bool)
    else:
        in_x = (x >= -0.5) & (x <= width - 0.5)
        edge_x = (x < 0) | (x > width - 1)
    kept = in_x & (y >= -0.5) & (y <= height - 0.5)
    x, y, edge = x[kept], y[kept], (edge_x | (y < 0) | (y > height - 1))[kept]
    if not circle:
        x = np.clip(x, 0, width - 1)
    y = np.clip(y, 0, height - 1)
    left, lower = np.floor(x), np.floor(y)
    return (
        pixels[kept].astype(np.int32),
        left.astype(np.int32),
        lower.astype(np.int32),
        (x - left).astype(np.float32),
        (y - lower).astype(np.float32),
        edge,
    )


def _candidates(tile: _Tile, nside: int) -> np.ndarray | None:
    """HEALPix pixels in a disc around a tile, or None for the whole sky."""
    height, width = tile.shape
    steps = 32
    grid = np.meshgrid(np.linspace(-0.5, width - 0.5, steps), np.linspace(-0.5, height - 0.5, steps))
    longitude, latitude = tile.wcs.wcs_pix2world(*(each.ravel() for each in grid), 0)
    known = np.isfinite(longitude) & np.isfinite(latitude)
    if not known.any():
        return None
    vectors = healpy.ang2vec(longitude[known], latitude[known], lonlat=True)
    centre = vectors.mean(axis=0)
    length = np.linalg.norm(centre)
    scale = np.abs(tile.wcs.pixel_scale_matrix).max() * max(height, width) / (steps - 1)
    if length < 0.1:
        return None
    radius = np.degrees(np.arccos(np.clip(vectors @ centre / length, -1.0, 1.0).min())) + 2.0 * scale
    if radius > LARGEST_DISC:
        return None
    if tile.coordinates != "galactic":
        centre = rotation(tile.coordinates).T @ centre
    return healpy.query_disc(nside, centre / length, np.radians(radius), inclusive=True)


def _fill(result: np.ndarray, pixels: np.ndarray, values: np.ndarray) -> None:
    empty = np.isnan(result[pixels])
    result[pixels[empty]] = values[empty]
