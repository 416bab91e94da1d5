"""Spectra of the 21 cm line over the sky: HI4PI (HI4PI Collaboration 2016, A&A 594, A116) and surveys of its kind.

Facts about the files:

- Cubes are ``(velocity, latitude, longitude)`` in K, with pixels of 5', as one cube of the whole sky
  (``ALLSKY/GAL/CAR.fits``, 33 GB) or as tiles of 20 degrees, galactic (``GLON-CAR``) or equatorial (``RA---CAR``). The
  whole sky is a few pixels wider than 360 degrees; world coordinates of the pixels at its edges are not defined, so
  that pixels are looked up by world coordinates here, never the other way round.
- The third axis is the radio velocity in the local standard of rest, in m/s. The number of channels differs between
  products (933 of 1288.2 m/s in one of them): channels are chosen by velocity.
- The tables of EBHIS, the northern half of the survey (Winkel et al. 2016, A&A 585, A41), have one pixel per row,
  ``HPXINDEX``, with the spectrum as a vector column ``DATA`` and weights ``WDATA``, which are 0 where there is no data;
  they come in many parts. Columns of other tables may have other names, and headers need not say the velocities: both
  can be given.
- A cube can also be a .npy file ``(channels, pixels)`` or ``(pixels, channels)`` with the velocities beside it.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable

import healpy
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from keras_cosmo.data.formats.healpix_maps import (
    HealpixTable,
    as_float,
    check_complete,
    check_pixels,
    describe,
    find_table,
    open_fits,
    rotate_to_galactic,
    rotation,
    to_nside,
)
from keras_cosmo.files import disk_array

logger = logging.getLogger(__name__)

SUFFIXES = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.fz")
VELOCITY_TYPES = ("VRAD", "VELO", "VELOCITY", "VELO-LSR", "VLSR")
FRAMES_OF_REST = ("", "LSRK", "LSR")
SPEED_UNITS = {"m/s": 1e-3, "m s-1": 1e-3, "m.s-1": 1e-3, "km/s": 1.0, "km s-1": 1.0, "km.s-1": 1.0}
TEMPERATURE_UNITS = {"K": 1.0, "KELVIN": 1.0, "K (TB)": 1.0, "K(TB)": 1.0}
LARGEST_VELOCITY = 3000.0
"""km/s; the line of the Galaxy is within 600, and m/s given for km/s are beyond."""
SPECTRUM_COLUMNS = ("DATA", "SPECTRUM", "SPECTRA", "T_B", "TB", "TEMPERATURE")
WEIGHT_COLUMNS = ("WDATA", "WEIGHTS", "WEIGHT")
KEY_NAMES = ("type", "value", "pixel", "step", "unit")
IMAGE_KEYS = ("CTYPE{axis}", "CRVAL{axis}", "CRPIX{axis}", "CDELT{axis}", "CUNIT{axis}")
CELESTIAL_KEYS = ("CTYPE", "CRVAL", "CRPIX", "CDELT", "CUNIT", "CROTA")
# Of a channel: how far axes of parts, or of header and argument, may be apart.
SAME = 0.05
BLOCK = 2**19
ROWS = 2**16
IN_MEMORY = 2**28
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
        self.paths = _paths(paths)
        given = None if velocities is None else read_velocities(velocities)
        self._tiles = [_Tile.of(path, velocity_low, velocity_high, given) for path in self.paths]
        first = self._tiles[0]
        self.velocities, self.coordinates = first.velocities, first.coordinates
        for tile in self._tiles[1:]:
            _check_same_velocities(self.paths[0], self.velocities, tile.path, tile.velocities)
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
        i, nside = _check_plane(i, nside, self.n_channels)
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


class HealpixCube:
    """Channels of spectra that are on HEALPix already: tables with a spectrum per row, or a .npy file.

    Spectra of tables, and .npy files ``(pixels, channels)``, are read once, at the first plane, into a temporary file
    of 4 bytes for each channel taken and pixel of the sky (3 GB for 64 channels at Nside 1024).

    Args:
        paths: FITS file with a table, or its parts; or one .npy file.
        velocity_low: As in `Hi4piCube`.
        velocity_high: As in `Hi4piCube`.
        velocities: As in `Hi4piCube`; always needed for .npy.
        ordering: ``"RING"`` or ``"NESTED"``, where the file does not say; always needed for .npy.
        coordinates: ``"galactic"`` or ``"equatorial"``, where the file does not say; galactic is assumed.
        column: Column with the spectra, if it is not found by its name.

    Attributes:
        paths: The files.
        velocities: As in `Hi4piCube`.
        coordinates: Of the files. Planes are always galactic, interpolated if the files are not.
        nside: Of the files.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: As `Hi4piCube`, and as `keras_cosmo.data.formats.healpix_maps.read_healpix`.
        OSError: At the first plane, if the disk is too small for the temporary file.

    Example:
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "cube.npy"
        >>> np.save(path, np.arange(36.0).reshape(3, 12))
        >>> cube = HealpixCube(path, -1.5, 1.5, velocities=[-1.3, 0.0, 1.3], ordering="RING", coordinates="galactic")
        >>> cube.n_channels, cube.nside, cube.plane(2, nside=1)[:3].tolist()
        (3, 1, [24.0, 25.0, 26.0])
    """

    def __init__(
        self,
        paths: str | os.PathLike | Iterable[str | os.PathLike],
        velocity_low: float,
        velocity_high: float,
        velocities=None,
        ordering: str | None = None,
        coordinates: str | None = None,
        column: str | None = None,
    ):
        self.paths = _paths(paths)
        given = None if velocities is None else read_velocities(velocities)
        options = {"ordering": ordering, "coordinates": coordinates}
        if any(path.suffix == ".npy" for path in self.paths):
            self._source = _NpySpectra(self.paths, given, **options)
        else:
            self._source = _TableSpectra(self.paths, given, column=column, **options)
        self._channels = _select(self.paths[0], self._source.velocities, velocity_low, velocity_high)
        self.velocities = self._source.velocities[self._channels]
        self.nside, self.coordinates = self._source.nside, self._source.coordinates
        if not self.coordinates:
            logger.warning("%s: the coordinates are not known; galactic ones are assumed.", self.paths[0])
            self.coordinates = "galactic"
        self._planes = None

    @property
    def n_channels(self) -> int:
        """Channels taken."""
        return len(self.velocities)

    def plane(self, i: int, nside: int) -> np.ndarray:
        """One channel; see `Hi4piCube.plane`. Other resolutions than the file's are made by `to_nside`."""
        i, nside = _check_plane(i, nside, self.n_channels)
        if self._planes is None:
            self._planes = self._source.planes(self._channels)
        values = self._planes(i)
        if self.coordinates != "galactic":
            values = rotate_to_galactic(values, self.coordinates)
        return values if nside == self.nside else to_nside(values, nside)


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
    paths = _paths(paths)
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


def read_velocities(velocities) -> np.ndarray:
    """Centres of channels in km/s, from numbers or from a file.

    Args:
        velocities: Array ``(channels,)``, or the path of a .npy file with one or of a text file with one per line.

    Returns:
        float64 ``(channels,)``, ascending or descending as they are.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If they are no velocities in km/s.
    """
    name = "velocities"
    if isinstance(velocities, str | os.PathLike):
        path = pathlib.Path(velocities)
        name = str(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file. Expected velocities in km/s, one per line.")
        try:
            if path.suffix == ".npy":
                velocities = np.load(path, allow_pickle=False)
            else:
                # An empty file is no reason for a warning: the error below says so.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    velocities = np.loadtxt(path, ndmin=1)
        except ValueError as error:
            raise ValueError(f"{path}: expected velocities in km/s, one number per line: {error}.") from error
    velocities = np.asarray(velocities, np.float64)
    steps = np.diff(velocities) if velocities.ndim == 1 else None
    if velocities.ndim != 1 or not velocities.size or not (np.all(steps > 0) or np.all(steps < 0)):
        raise ValueError(
            f"{name}: expected the centres of the channels in km/s in ascending or descending order, got an array of "
            f"shape {velocities.shape}{'' if velocities.ndim != 1 else ' in another order, or with NaN'}."
        )
    if not np.abs(velocities).max() < LARGEST_VELOCITY:
        raise ValueError(
            f"{name}: expected velocities in km/s within {LARGEST_VELOCITY:g}, got {velocities[0]:g} to "
            f"{velocities[-1]:g}. Are they in m/s? Divide them by 1000."
        )
    return velocities


# ---- Files and velocities.


def _paths(paths) -> tuple[pathlib.Path, ...]:
    if isinstance(paths, str | os.PathLike):
        folder = pathlib.Path(paths)
        if not folder.is_dir():
            paths = [folder]
        else:
            paths = sorted(each for each in folder.iterdir() if each.name.lower().endswith(SUFFIXES))
            if not paths:
                others = sorted(each.name for each in folder.iterdir())[:5]
                raise FileNotFoundError(
                    f"{folder}: expected FITS files, ending in one of {list(SUFFIXES)}, got {others or 'nothing'}. "
                    f"Give the folder with the tiles (subfolders are not searched)."
                )
    paths = tuple(pathlib.Path(each) for each in paths)
    if not paths:
        raise ValueError("paths: expected a folder or at least one file, got an empty list.")
    if len(set(paths)) != len(paths):
        raise ValueError("paths: expected each file once, got one of them twice.")
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file. Correct the path.")
    return paths


def _axis_velocities(path: pathlib.Path, header, keys: dict[str, str], count: int, given) -> np.ndarray:
    """Velocities of all channels in km/s, by header or argument; both have to agree where both are there."""
    if given is not None and len(given) != count:
        raise ValueError(f"velocities: expected {count} for the channels of {path}, got {len(given)}.")
    try:
        said = _header_velocities(path, header, keys, count)
    except ValueError:
        if given is None:
            raise
        return given
    if given is None:
        return said
    _check_same_velocities("the argument velocities", given, path, said)
    return given


def _header_velocities(path: pathlib.Path, header, keys: dict[str, str], count: int) -> np.ndarray:
    kind = str(header.get(keys["type"], "")).strip().upper()
    advice = "Give velocities, the centres of the channels in km/s (LSR)."
    if kind not in VELOCITY_TYPES:
        raise ValueError(
            f"{path}: expected the radio velocity along the spectra ({keys['type']} = 'VRAD'), got "
            f"{kind or 'nothing'}. {advice}"
        )
    frame = str(header.get("SPECSYS", "")).strip().upper()
    if frame not in FRAMES_OF_REST:
        raise ValueError(
            f"{path}: expected velocities in the local standard of rest (SPECSYS = 'LSRK'), got {frame}. {advice}"
        )
    unit = " ".join(str(header.get(keys["unit"], "")).split())
    factor = {name.lower(): value for name, value in SPEED_UNITS.items()}.get(unit.lower())
    if factor is None:
        raise ValueError(f"{path}: expected {keys['unit']} to be m/s or km/s, got {unit or 'nothing'}. {advice}")
    numbers = {}
    for name in ("value", "pixel", "step"):
        value = header.get(keys[name], header.get(keys["step2"]) if name == "step" and "step2" in keys else None)
        numbers[name] = value
        if not isinstance(value, (int, float)) or not np.isfinite(value) or (name == "step" and not value):
            raise ValueError(f"{path}: expected a number for {keys[name]} in the header, got {value!r}. {advice}")
    velocities = (numbers["value"] + (np.arange(count) + 1 - numbers["pixel"]) * numbers["step"]) * factor
    if not np.abs(velocities).max() < LARGEST_VELOCITY:
        raise ValueError(
            f"{path}: expected velocities within {LARGEST_VELOCITY:g} km/s, got {velocities[0]:g} to "
            f"{velocities[-1]:g} by the header ({keys['unit']} = {unit}). {advice}"
        )
    return velocities


def _select(path: pathlib.Path, velocities: np.ndarray, low: float, high: float) -> np.ndarray:
    """Indices of the channels with centres within the ends, by ascending velocity."""
    if not -np.inf < low < high < np.inf:
        raise ValueError(
            f"velocity_low, velocity_high: expected two velocities in km/s, the lower first, got {low}, {high}."
        )
    order = np.argsort(velocities)
    ascending = velocities[order]
    half = np.median(np.diff(ascending)) / 2 if len(ascending) > 1 else 0.0
    begin, end = ascending[0] - half, ascending[-1] + half
    # Half a channel more than the centres, and rounding.
    slack = 1e-6 * max(half, 1e-3)
    if low < begin - slack or high > end + slack:
        raise ValueError(
            f"{path}: expected velocities from {low:g} to {high:g} km/s, but the file has {begin:.3f} to {end:.3f} "
            f"km/s ({len(velocities)} channels). Choose velocity_low and velocity_high within, or give another file."
        )
    chosen = order[(ascending >= low) & (ascending <= high)]
    if not chosen.size:
        raise ValueError(
            f"{path}: no channel has its centre from {low:g} to {high:g} km/s; channels are {2 * half:.3f} km/s wide. "
            f"Choose a wider range."
        )
    return chosen


def _check_same_velocities(one: object, first: np.ndarray, two: object, second: np.ndarray) -> None:
    if len(first) == len(second):
        width = np.abs(np.median(np.diff(first))) if len(first) > 1 else 1.0
        if np.abs(first - second).max() <= SAME * width:
            return
    raise ValueError(
        f"{two} and {one} do not belong together: expected the same velocities, got {len(second)} channels from "
        f"{second[0]:.3f} to {second[-1]:.3f} km/s and {len(first)} from {first[0]:.3f} to {first[-1]:.3f} km/s."
    )


def _check_plane(i: int, nside: int, n_channels: int) -> tuple[int, int]:
    if not 0 <= i < n_channels:
        raise IndexError(f"i: expected a channel from 0 to {n_channels - 1}, got {i}.")
    if nside != int(nside) or not healpy.isnsideok(int(nside), nest=True):
        raise ValueError(f"nside: expected a power of two, such as 1024, got {nside!r}.")
    return int(i), int(nside)


def _scale(path: pathlib.Path, key: str, unit: object) -> float:
    """Factor that makes K."""
    unit = str(unit or "").strip()
    if not unit:
        logger.warning("%s: the unit is not known (no %s); K is assumed.", path, key)
        return 1.0
    if unit == "mK":
        return 1e-3
    scale = TEMPERATURE_UNITS.get(unit.upper())
    if scale is None:
        raise ValueError(f"{path}: expected brightness temperature in K or mK ({key}), got {unit}. Convert the file.")
    return scale


# ---- Cubes on a grid of longitude and latitude.


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
        velocities = _axis_velocities(path, header, keys, header[f"NAXIS{number_of_axis}"], given)
        channels = _select(path, velocities, low, high)
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
            scale=_scale(path, "BUNIT", header.get("BUNIT")),
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


# ---- Spectra on HEALPix.


class _TableSpectra:
    """Tables with a spectrum per row."""

    def __init__(self, paths, given, *, column, ordering, coordinates):
        self.paths = paths
        self.tables = [
            find_table(
                path, column, choose=_spectrum_column, ordering=ordering, coordinates=coordinates, spectra=True
            )
            for path in paths
        ]  # fmt: skip
        first = self.tables[0]
        self.nside, self.coordinates = first.nside, first.coordinates
        axes = [self._velocities(table, given) for table in self.tables]
        self.velocities = axes[0]
        for table, velocities in zip(self.tables, axes, strict=True):
            _check_same_velocities(first.path, self.velocities, table.path, velocities)
            if (table.nside, table.coordinates) != (first.nside, first.coordinates):
                raise ValueError(
                    f"{table.path} and {first.path} do not belong together: expected the same NSIDE and coordinates, "
                    f"got {table.nside} {table.coordinates} and {first.nside} {first.coordinates}."
                )
        self.scales = [_scale(table.path, f"unit of {table.column}", table.unit) for table in self.tables]

    @staticmethod
    def _velocities(table: HealpixTable, given) -> np.ndarray:
        with open_fits(table.path) as file:
            hdu = file[table.hdu]
            shape = hdu.columns.dtype[table.column].shape
        count = int(np.prod(shape, dtype=int))
        if len(shape) != 1 or count < 2:
            raise ValueError(
                f"{table.path}: expected a spectrum in each row of the column {table.column}, got values of shape "
                f"{shape}. Name another column of {list(table.columns)}."
            )
        n = table.columns.index(table.column) + 1
        # Vector columns, pixel lists, and images.
        spellings = [
            {name: key.format(axis=axis, n=n) for name, key in zip(KEY_NAMES, keys, strict=True)}
            for keys, axis in (
                (("1CTYP{n}", "1CRVL{n}", "1CRPX{n}", "1CDLT{n}", "1CUNI{n}"), 1),
                (("TCTYP{n}", "TCRVL{n}", "TCRPX{n}", "TCDLT{n}", "TCUNI{n}"), 1),
                *((IMAGE_KEYS, axis) for axis in (1, 2, 3)),
            )
        ]
        keys = next((keys for keys in spellings if _is_velocity(table.header, keys)), spellings[0])
        return _axis_velocities(table.path, table.header, keys, count, given)

    def planes(self, channels: np.ndarray):
        """Read the channels of all parts; a function of the number of a channel that gives its plane."""
        n_pixels = 12 * self.nside**2
        spectra = _store(len(channels), n_pixels)
        seen = np.zeros(n_pixels, bool)
        for table, scale in zip(self.tables, self.scales, strict=True):
            with open_fits(table.path) as file:
                hdu = file[table.hdu]
                rows = hdu.header["NAXIS2"]
                if table.index is None:
                    pixels = table.first + np.arange(rows)
                else:
                    pixels = check_pixels(table.path, table.index, np.array(hdu.data[table.index]), n_pixels)
                if seen[pixels].any():
                    raise ValueError(
                        f"{table.path}: pixel {int(pixels[seen[pixels]][0])} is in an earlier part as well. Give each "
                        f"part once."
                    )
                seen[pixels] = True
                if table.ordering == "NESTED":
                    pixels = healpy.nest2ring(table.nside, pixels)
                weights = next((name for name in table.columns if name.upper() in WEIGHT_COLUMNS), None)
                null, bad = hdu.columns[table.column].null, table.header.get("BAD_DATA")
                for start in range(0, rows, ROWS):
                    data = hdu.data[start : start + ROWS]
                    block = as_float(data[table.column][:, channels], null, bad).astype(np.float32, copy=False)
                    if weights is not None:
                        weight = np.asarray(data[weights])
                        weight = weight[:, channels] if weight.shape == data[table.column].shape else weight
                        weight = weight.reshape(len(block), -1)
                        with np.errstate(invalid="ignore"):
                            block[np.broadcast_to(~(weight > 0), block.shape)] = np.nan
                    spectra[:, pixels[start : start + ROWS]] = (block * np.float32(scale)).T
        if not seen.all():
            logger.warning(
                "%s: %d of %d pixels of the sky are in none of the %d files, and are NaN.",
                self.paths[0].parent, n_pixels - np.count_nonzero(seen), n_pixels, len(self.paths),
            )  # fmt: skip
        return lambda i: np.array(spectra[i])


class _NpySpectra:
    """An array (channels, pixels) or (pixels, channels) in a .npy file."""

    def __init__(self, paths, given, *, ordering, coordinates):
        if len(paths) > 1:
            raise ValueError(f"paths: expected one .npy file with all channels, got {len(paths)} files.")
        self.path = paths[0]
        if given is None or ordering is None:
            raise ValueError(
                f"{self.path}: a .npy file says neither its velocities nor its ordering. Give velocities (km/s, an "
                f"array or a .txt or .npy file) and ordering ('RING' or 'NESTED')."
            )
        if ordering not in ("RING", "NESTED"):
            raise ValueError(f"ordering: expected 'RING' or 'NESTED', got {ordering!r}.")
        if coordinates not in (None, "galactic", "equatorial", "ecliptic"):
            raise ValueError(f"coordinates: expected galactic, equatorial or ecliptic, got {coordinates!r}.")
        self.velocities, self.ordering, self.coordinates = given, ordering, coordinates or ""
        array = self._open()
        if array.dtype.kind not in "fiu" or array.ndim != 2:
            raise ValueError(
                f"{self.path}: expected numbers of shape (channels, pixels) or (pixels, channels), got {array.dtype} "
                f"of shape {array.shape}."
            )
        count = len(given)
        fits_first, fits_last = (
            array.shape[axis] == count and bool(healpy.isnpixok(array.shape[1 - axis])) for axis in (0, 1)
        )
        if fits_first == fits_last:
            raise ValueError(
                f"{self.path}: expected {count} channels, as there are velocities, along one axis and 12 nside^2 "
                f"pixels along the other, got an array of shape {array.shape}."
            )
        self.transposed = fits_last
        self.nside = healpy.npix2nside(array.shape[0 if fits_last else 1])

    def _open(self) -> np.ndarray:
        with contextlib.suppress(ValueError, EOFError, OSError):
            return np.load(self.path, mmap_mode="r", allow_pickle=False)
        raise ValueError(
            f"{self.path}: the file is no array as numpy.save writes it, or is truncated ({self.path.stat().st_size} "
            f"bytes). Write it again."
        )

    def planes(self, channels: np.ndarray):
        """A function of the number of a channel that gives its plane."""
        array = self._open()
        if self.transposed:
            spectra = _store(len(channels), array.shape[0])
            for start in range(0, array.shape[0], ROWS):
                spectra[:, start : start + ROWS] = array[start : start + ROWS][:, channels].T
            array, channels = spectra, np.arange(len(channels))

        def plane(i: int) -> np.ndarray:
            values = as_float(array[channels[i]]).astype(np.float32, copy=False)
            return healpy.reorder(values, n2r=True) if self.ordering == "NESTED" else values

        return plane


def _store(n_channels: int, n_pixels: int) -> np.ndarray:
    """Array of NaN, in a temporary file if it is large."""
    shape, size = (n_channels, n_pixels), 4 * n_channels * n_pixels
    if size <= IN_MEMORY:
        return np.full(shape, np.nan, np.float32)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    # The file would be made all the same, and the program killed when the disk is full.
    if free < 1.05 * size:
        raise OSError(
            f"{folder}: expected {size / 1e9:.1f} GB free for a temporary file of {n_channels} channels, got "
            f"{free / 1e9:.1f} GB. Make room, or set TMPDIR to a folder on a larger disk."
        )
    spectra = disk_array(shape)
    for row in spectra:
        row[:] = np.nan
    return spectra


def _is_velocity(header, keys: dict[str, str]) -> bool:
    return str(header.get(keys["type"], "")).strip().upper() in VELOCITY_TYPES


def _spectrum_column(path: pathlib.Path, names: list[str]) -> str:
    found = next((name for wanted in SPECTRUM_COLUMNS for name in names if name.upper() == wanted), None)
    if found is None:
        raise ValueError(
            f"{path}: expected a column with spectra, one of {list(SPECTRUM_COLUMNS)}, got {names}. Name it "
            f"(column=...)."
        )
    return found
