"""Spectra of the 21 cm line that are on HEALPix already: tables with a spectrum per row, and .npy files.

Facts about the files:

- The tables of EBHIS, the northern half of HI4PI (Winkel et al. 2016, A&A 585, A41), have one pixel per row,
  ``HPXINDEX``, with the spectrum as a vector column ``DATA`` and weights ``WDATA``, which are 0 where there is no data;
  they come in many parts. Columns of other tables may have other names, and headers need not say the velocities: both
  can be given.
- A cube can also be a .npy file ``(channels, pixels)`` or ``(pixels, channels)`` with the velocities beside it.
"""

import contextlib
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable

import healpy
import numpy as np

from keras_cosmo.data.formats.cube_files import (
    IMAGE_KEYS,
    KEY_NAMES,
    axis_velocities,
    check_plane,
    check_same_velocities,
    cube_paths,
    is_velocity,
    kelvin_factor,
    read_velocities,
    select_channels,
)
from keras_cosmo.data.formats.healpix_maps import (
    HealpixTable,
    as_float,
    check_pixels,
    find_table,
    open_fits,
    rotate_to_galactic,
    to_nside,
)
from keras_cosmo.files import disk_array

logger = logging.getLogger(__name__)

SPECTRUM_COLUMNS = ("DATA", "SPECTRUM", "SPECTRA", "T_B", "TB", "TEMPERATURE")
WEIGHT_COLUMNS = ("WDATA", "WEIGHTS", "WEIGHT")
ROWS = 2**16
IN_MEMORY = 2**28


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
        self.paths = cube_paths(paths)
        given = None if velocities is None else read_velocities(velocities)
        options = {"ordering": ordering, "coordinates": coordinates}
        if any(path.suffix == ".npy" for path in self.paths):
            self._source = _NpySpectra(self.paths, given, **options)
        else:
            self._source = _TableSpectra(self.paths, given, column=column, **options)
        self._channels = select_channels(self.paths[0], self._source.velocities, velocity_low, velocity_high)
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
        i, nside = check_plane(i, nside, self.n_channels)
        if self._planes is None:
            self._planes = self._source.planes(self._channels)
        values = self._planes(i)
        if self.coordinates != "galactic":
            values = rotate_to_galactic(values, self.coordinates)
        return values if nside == self.nside else to_nside(values, nside)


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
            check_same_velocities(first.path, self.velocities, table.path, velocities)
            if (table.nside, table.coordinates) != (first.nside, first.coordinates):
                raise ValueError(
                    f"{table.path} and {first.path} do not belong together: expected the same NSIDE and coordinates, "
                    f"got {table.nside} {table.coordinates} and {first.nside} {first.coordinates}."
                )
        self.scales = [kelvin_factor(table.path, f"unit of {table.column}", table.unit) for table in self.tables]

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
        keys = next((keys for keys in spellings if is_velocity(table.header, keys)), spellings[0])
        return axis_velocities(table.path, table.header, keys, count, given)

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


def _spectrum_column(path: pathlib.Path, names: list[str]) -> str:
    found = next((name for wanted in SPECTRUM_COLUMNS for name in names if name.upper() == wanted), None)
    if found is None:
        raise ValueError(
            f"{path}: expected a column with spectra, one of {list(SPECTRUM_COLUMNS)}, got {names}. Name it "
            f"(column=...)."
        )
    return found
