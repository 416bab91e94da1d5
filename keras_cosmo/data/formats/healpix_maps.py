"""Maps and masks of the sky as HEALPix tables in FITS files (Gorski et al. 2005, ApJ 622, 759), such as Planck's.

Facts about the files:

- A map is a column of a binary table, one pixel per row (Planck's component maps) or 1024 per row (healpy, Planck's
  masks). ``ORDERING`` says RING or NESTED; ``COORDSYS`` says the coordinates, as G or GALACTIC.
- A table of part of the sky, or in another order, has a column with the number of each pixel: ``PIXEL`` (healpy),
  ``HPXINDEX`` (HI4PI and EBHIS, with ``GLON`` and ``GLAT`` in degrees beside it; there ``ORDERING`` may be absent).
- A bad pixel is -1.6375e30, which is another number once it is stored in single precision. Anything up to -1e30, and
  anything that is not finite, is taken as bad.
- The thermal dust of Commander is ``I_ML_FULL`` of ``COM_CompMap_ThermalDust-commander_2048_R2.00.fits`` (Planck 2015
  results X), in uK_RJ at 545 GHz, NESTED, galactic. The masks of Planck's ``HFI_Mask_GalPlane`` files have columns
  GAL020 to GAL099, 0 or 1, or in between where apodised.
"""

import contextlib
import dataclasses
import gzip
import logging
import os
import pathlib
import warnings
import zlib
from collections.abc import Callable, Iterator

import healpy
import numpy as np
from astropy.io import fits

logger = logging.getLogger(__name__)

ORDERINGS = ("RING", "NESTED")
COORDINATES = {
    "galactic": ("G", "GAL", "GALACTIC"),
    "equatorial": ("C", "Q", "EQ", "EQU", "CELESTIAL", "EQUATORIAL", "ICRS", "FK5", "J2000"),
    "ecliptic": ("E", "ECL", "ECLIPTIC"),
}
"""Coordinates -> what ``COORDSYS`` (or another key) says of them."""
COORDINATE_KEYS = ("COORDSYS", "COORDSYS1", "SKYCOORD", "COORDTYPE", "FRAME", "COORD")
LETTERS = {"galactic": "G", "equatorial": "C", "ecliptic": "E"}
INDEX_COLUMNS = ("HPXINDEX", "PIXEL", "PIX", "IPIX", "HEALPIX", "HPX_INDEX", "INDEX")
POSITION_COLUMNS = {
    "galactic": (("GLON", "GLAT"),),
    "equatorial": (("RA2000", "DEC2000"), ("RAJ2000", "DEJ2000"), ("RA", "DEC")),
}
"""Coordinates -> names of the columns with longitude and latitude in degrees."""
MAP_COLUMNS = ("I_ML_FULL", "I_ML", "I", "I_STOKES", "TEMPERATURE", "T", "INTENSITY", "NHI", "DUST")
"""Columns that are read if none is named, the first that is there; DUST stands for every name that begins so."""
BAD = -1e30
"""Values up to this are bad pixels, whichever precision they are stored in."""
LARGEST_NSIDE = 2**13
# Rows whose positions are compared with their pixels, and by how much of a pixel they may be off.
CHECKED, OFF = 4096, 0.25
BLOCK = 2**19
# What rounding may add to a mask.
MASK_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HealpixMap:
    """A map of the sky.

    Args:
        path: File it came from.
        values: ``(12 nside^2,)`` float32 or float64 in RING order, NaN where bad or absent.
        nside: HEALPix resolution of ``values``.
        coordinates: ``"galactic"``, ``"equatorial"``, ``"ecliptic"``, or ``""`` if the file does not say.
        ordering: ``"RING"`` or ``"NESTED"``, what the file had.
        unit: Unit of the column, or ``""``.
        column: Name of the column.
        columns: All columns of the table.
        header: Keys of the header of the table, without comments.

    Example:
        >>> dust = HealpixMap(path=pathlib.Path("dust.fits"), values=np.ones(12), nside=1, coordinates="galactic",
        ...     ordering="NESTED", unit="uK_RJ", column="I_ML_FULL", columns=("I_ML_FULL",), header={})
        >>> dust.good
        1.0
    """

    path: pathlib.Path
    values: np.ndarray
    nside: int
    coordinates: str
    ordering: str
    unit: str
    column: str
    columns: tuple[str, ...]
    header: dict[str, object]

    @property
    def good(self) -> float:
        """Part of the pixels that are neither bad nor absent."""
        return float(np.mean(np.isfinite(self.values)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HealpixTable:
    """Where a HEALPix table lies, and which pixels its rows are.

    Args:
        path: The file.
        hdu: Number of the table in the file.
        columns: Names of its columns.
        column: The one to read.
        index: Name of the column with the pixel numbers, or None if the rows are in order.
        first: Pixel of the first row, where they are in order.
        nside: HEALPix resolution.
        ordering: ``"RING"`` or ``"NESTED"``.
        coordinates: As in `HealpixMap`.
        unit: Unit of ``column``, or ``""``.
        header: Keys of the header.
    """

    path: pathlib.Path
    hdu: int
    columns: tuple[str, ...]
    column: str
    index: str | None
    first: int
    nside: int
    ordering: str
    coordinates: str
    unit: str
    header: dict[str, object]

    @property
    def n_pixels(self) -> int:
        """Pixels of the whole sky."""
        return 12 * self.nside**2


def read_healpix(
    path: str | os.PathLike,
    column: str | None = None,
    *,
    nside: int | None = None,
    ordering: str | None = None,
    coordinates: str | None = None,
    minimum_good: float = 0.5,
) -> HealpixMap:
    """Read one map of a HEALPix table in a FITS file, which may be compressed by gzip.

    Args:
        path: The file.
        column: Name of the column, in upper or lower case. If None, the first of `MAP_COLUMNS` that is there, else the
            first column; the log says which.
        nside: Resolution of the result, by `to_nside`; the file's own if None.
        ordering: ``"RING"`` or ``"NESTED"``, where the file does not say.
        coordinates: ``"galactic"``, ``"equatorial"`` or ``"ecliptic"``, where the file does not say.
        minimum_good: As in `to_nside`.

    Returns:
        The map in RING order and in the coordinates that it has in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no HEALPix table or is damaged, there is no such column, the ordering is not known, or
            the pixel numbers, positions, header and arguments contradict each other.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "map.fits"
        >>> healpy.write_map(path, np.arange(48.0), nest=True, coord="G", column_names=["I_ML"], dtype=np.float32)
        >>> dust = read_healpix(path)
        >>> dust.nside, dust.ordering, dust.coordinates, dust.column
        (2, 'NESTED', 'galactic', 'I_ML')
        >>> dust.values[:4].tolist()
        [3.0, 7.0, 11.0, 15.0]
    """
    _check_good(minimum_good)
    return _at(_read(path, column, _default_column, ordering, coordinates), nside, minimum_good)


def read_mask(
    path: str | os.PathLike,
    column: str | None = None,
    *,
    nside: int | None = None,
    ordering: str | None = None,
    coordinates: str | None = None,
) -> HealpixMap:
    """Read a mask: 1 where the sky is kept, 0 where it is masked, and in between where the edge is apodised.

    Args:
        path: The file.
        column: Name of the column; may be None only if there is one.
        nside: Resolution of the result, by `to_nside`; the file's own if None.
        ordering: As in `read_healpix`.
        coordinates: As in `read_healpix`.

    Returns:
        Weights as float32 from 0 to 1 in RING order; 0 where bad or absent.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As `read_healpix`; and if there are several columns and none is named, or a weight is not in [0, 1].
    """
    mask = _read(path, column, _only_column, ordering, coordinates)
    values = np.nan_to_num(mask.values, nan=0.0)
    outside = (values < -MASK_TOLERANCE) | (values > 1.0 + MASK_TOLERANCE)
    if outside.any():
        raise ValueError(
            f"{mask.path}: expected weights from 0 (masked) to 1 (kept) in the column {mask.column}, got "
            f"{values[outside][0]:g} in pixel {int(np.argmax(outside))} (RING) and {np.count_nonzero(outside)} such "
            f"pixels. Give a mask, or another column of {list(mask.columns)}."
        )
    values = np.clip(values, 0.0, 1.0).astype(np.float32)
    logger.info("%s: the mask %s keeps %.1f %% of the sky.", mask.path, mask.column, 100.0 * values.mean(dtype=float))
    return _at(dataclasses.replace(mask, values=values), nside)


def to_nside(values, nside: int, *, minimum_good: float = 0.5, upgrade: str = "bilinear") -> np.ndarray:
    """A map at another resolution.

    Args:
        values: ``(12 n^2,)`` in RING order, NaN where bad.
        nside: Resolution of the result, a power of two. Coarser: the mean of the good pixels within each new one.
            Finer: see ``upgrade``.
        minimum_good: Part of the pixels (finer: of the weight of the neighbours) that have to be good, more than 0 up
            to 1; else the new pixel is NaN.
        upgrade: ``"bilinear"`` interpolates between the four neighbours, ``"copy"`` repeats each pixel.

    Returns:
        ``(12 nside^2,)`` in RING order, in the precision of ``values``; a copy if the resolution is the same.

    Raises:
        ValueError: If ``values`` is no map, a resolution is not a power of two, or an argument is not among those
            above.

    Example:
        >>> to_nside(np.arange(12.0), 2, upgrade="copy").reshape(6, 8)[0]
        array([0., 1., 2., 3., 0., 0., 1., 1.])
        >>> to_nside(np.arange(48.0), 1)[0]
        np.float64(5.5)
    """
    values, own = _check_map(values)
    _check_good(minimum_good)
    if upgrade not in ("bilinear", "copy"):
        raise ValueError(f"upgrade: expected 'bilinear' or 'copy', got {upgrade!r}.")
    for name, number in (("nside", nside), ("the nside of values", own)):
        if number != int(number) or not healpy.isnsideok(int(number), nest=True):
            raise ValueError(f"{name}: expected a power of two, such as 512, got {number!r}.")
    nside = int(nside)
    if nside == own:
        return values.copy()
    if nside < own:
        children = healpy.reorder(values, r2n=True).reshape(12 * nside**2, -1)
        good = np.isfinite(children)
        count = good.sum(axis=1)
        with np.errstate(invalid="ignore"):
            means = np.where(good, children, 0.0).sum(axis=1, dtype=np.float64) / count
        means[count < minimum_good * children.shape[1]] = np.nan
        return healpy.reorder(means, n2r=True).astype(values.dtype)
    if upgrade == "copy":
        nested = np.repeat(healpy.reorder(values, r2n=True), (nside // own) ** 2)
        return healpy.reorder(nested, n2r=True)
    return _interpolate(values, own, nside, None, minimum_good)


def rotate_to_galactic(values, coordinates: str, *, minimum_good: float = 0.5) -> np.ndarray:
    """A map in galactic coordinates, interpolated bilinearly at the centres of the new pixels.

    Args:
        values: ``(12 n^2,)`` in RING order, NaN where bad.
        coordinates: Of ``values``: ``"galactic"`` (copied as it is), ``"equatorial"`` or ``"ecliptic"``, J2000.
        minimum_good: Part of the weight of the four neighbours that has to be good, more than 0 up to 1; else the
            pixel is NaN.

    Returns:
        ``(12 n^2,)`` in RING order, in the precision of ``values``.

    Raises:
        ValueError: If ``values`` is no map or ``coordinates`` are others.

    Example:
        >>> float(rotate_to_galactic(np.ones(192), "equatorial").min())
        1.0
    """
    values, nside = _check_map(values)
    _check_good(minimum_good)
    if coordinates not in LETTERS:
        raise ValueError(
            f"coordinates: expected one of {list(LETTERS)}, got {coordinates!r}. If the file does not say, give the "
            f"ones that its documentation says."
        )
    if coordinates == "galactic":
        return values.copy()
    return _interpolate(values, nside, nside, rotation(coordinates), minimum_good)


def rotation(coordinates: str) -> np.ndarray:
    """Matrix that takes galactic unit vectors to ``coordinates``, which are ``"equatorial"`` or ``"ecliptic"``."""
    return healpy.Rotator(coord=["G", LETTERS[coordinates]]).mat


def _read(path, column, choose, ordering, coordinates) -> HealpixMap:
    table = find_table(path, column, choose=choose, ordering=ordering, coordinates=coordinates)
    return HealpixMap(
        path=table.path,
        values=_ring(table),
        nside=table.nside,
        coordinates=table.coordinates,
        ordering=table.ordering,
        unit=table.unit,
        column=table.column,
        columns=table.columns,
        header=table.header,
    )


def _at(found: HealpixMap, nside: int | None, minimum_good: float = 0.5) -> HealpixMap:
    if nside is None or nside == found.nside:
        return found
    values = to_nside(found.values, nside, minimum_good=minimum_good)
    return dataclasses.replace(found, values=values, nside=int(nside))


def _check_map(values) -> tuple[np.ndarray, int]:
    values = np.asarray(values)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if values.ndim != 1 or not healpy.isnpixok(values.size):
        raise ValueError(f"values: expected a map of 12 nside^2 pixels, got an array of shape {values.shape}.")
    return values, healpy.npix2nside(values.size)


def _check_good(minimum_good: float) -> None:
    if not 0.0 < minimum_good <= 1.0:
        raise ValueError(f"minimum_good: expected more than 0 up to 1, got {minimum_good!r}.")


def _interpolate(values, own: int, nside: int, matrix: np.ndarray | None, minimum_good: float) -> np.ndarray:
    n_pixels = 12 * nside**2
    result = np.empty(n_pixels, values.dtype)
    for start in range(0, n_pixels, BLOCK):
        pixels = np.arange(start, min(start + BLOCK, n_pixels))
        vectors = np.array(healpy.pix2vec(nside, pixels))
        if matrix is not None:
            vectors = matrix @ vectors
        neighbours, weights = healpy.get_interp_weights(own, *healpy.vec2ang(vectors.T))
        found = values[neighbours].astype(np.float64)
        good = np.isfinite(found)
        weight = np.where(good, weights, 0.0).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(good, found * weights, 0.0).sum(axis=0) / weight
        # Weights add up to 1 but for rounding.
        mean[weight < minimum_good - 1e-9] = np.nan
        result[pixels] = mean
    return result


# ---- The tables.


@contextlib.contextmanager
def open_fits(path: pathlib.Path, *, memory_map: bool = True) -> Iterator[fits.HDUList]:
    """Open a FITS file for reading; what goes wrong becomes one clear error.

    Args:
        path: The file.
        memory_map: Whether data are mapped into memory, which scaled images cannot be.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no FITS file or is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file. Correct the path.")
    with warnings.catch_warnings():
        # astropy only warns of these; check_complete() refuses them.
        warnings.filterwarnings("ignore", message=".*truncated")
        warnings.filterwarnings("ignore", message="Error validating header")
        try:
            file = fits.open(path, memmap=memory_map)
        except (OSError, EOFError, zlib.error) as error:
            with path.open("rb") as raw:
                begin = raw.read(16)
            raise ValueError(
                f"{path}: expected a FITS file, got one of {path.stat().st_size} bytes that begins with {begin!r} "
                f"({error}). Download it again."
            ) from error
        with file:
            try:
                yield file
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise ValueError(f"{path}: the file is truncated or damaged ({error}). Download it again.") from error


def check_complete(path: pathlib.Path, hdu) -> None:
    """Compare the size of a file with what the header of one of its parts says.

    Raises:
        ValueError: If the file is too small.
    """
    begin, size = hdu.fileinfo()["datLoc"], hdu.size
    compressed = _compressed(path)
    if compressed:
        got = begin
        with gzip.open(path) as raw:
            raw.seek(begin)
            while got < begin + size and (piece := raw.read(min(2**24, begin + size - got))):
                got += len(piece)
    else:
        got = path.stat().st_size
    if got < begin + size:
        raise ValueError(
            f"{path}: the file is truncated: expected at least {begin + size} bytes by its header"
            f"{' when decompressed' if compressed else ''}, got {got}. Download it again."
        )


def _compressed(path: pathlib.Path) -> bool:
    with path.open("rb") as raw:
        return raw.read(2) == b"\x1f\x8b"


def describe(path: pathlib.Path, file: fits.HDUList) -> str:
    """What a FITS file has instead of what was expected.

    Raises:
        EOFError, zlib.error: If it is compressed and does not decompress.
    """
    if _compressed(path):
        with gzip.open(path) as raw:
            while raw.read(2**24):
                pass
    parts = []
    for hdu in file:
        name = f" {hdu.name}" if hdu.name and hdu.name != "PRIMARY" else ""
        if isinstance(hdu, fits.BinTableHDU):
            parts.append(f"a table{name} of {hdu.header['NAXIS2']} rows with the columns {_shown(hdu.columns.names)}")
        elif isinstance(hdu, fits.TableHDU):
            parts.append(f"an ascii table{name}")
        elif hdu.header.get("NAXIS", 0):
            shape = " x ".join(str(hdu.header[f"NAXIS{axis + 1}"]) for axis in range(hdu.header["NAXIS"]))
            axes = [str(hdu.header.get(f"CTYPE{axis + 1}", "?")) for axis in range(hdu.header["NAXIS"])]
            parts.append(f"an image{name} of {shape} pixels with the axes {', '.join(axes)}")
    if path.stat().st_size % 2880 and not _compressed(path):
        parts.append(f"and a part of a block, so that the file of {path.stat().st_size} bytes may be truncated")
    return "; ".join(parts) or "no data"


def _shown(names) -> str:
    names = list(names)
    return ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")


def find_table(
    path: str | os.PathLike,
    column: str | None = None,
    *,
    choose: Callable[[pathlib.Path, list[str]], str] | None = None,
    ordering: str | None = None,
    coordinates: str | None = None,
    spectra: bool = False,
) -> HealpixTable:
    """Find the HEALPix table of a file, and which pixels its rows are.

    Args:
        path: The file.
        column: Name of the column to read.
        choose: What chooses it from the file and its columns where ``column`` is None; as `read_healpix` does if None.
        ordering: ``"RING"`` or ``"NESTED"``, where the file does not say.
        coordinates: As in `read_healpix`.
        spectra: Whether each row is one pixel with a value per channel, instead of one or more pixels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As `read_healpix`.
    """
    path = pathlib.Path(path)
    if ordering is not None and ordering not in ORDERINGS:
        raise ValueError(f"ordering: expected 'RING' or 'NESTED', got {ordering!r}.")
    if coordinates is not None and coordinates not in LETTERS:
        raise ValueError(f"coordinates: expected one of {list(LETTERS)}, got {coordinates!r}.")
    with open_fits(path) as file:
        tables = [number for number, hdu in enumerate(file) if _may_be_healpix(hdu)]
        if not tables:
            raise ValueError(
                f"{path}: expected a HEALPix table, with the keys PIXTYPE, NSIDE and ORDERING, got "
                f"{describe(path, file)}. Give the HEALPix version of the map."
            )
        number = tables[0]
        if column is not None:
            having = [each for each in tables if _column(file[each].columns.names, column)]
            if not having:
                names = [name for each in tables for name in file[each].columns.names]
                raise ValueError(
                    f"{path}: expected a column {column!r}, got {_shown(names)}. Name one of these (column=...)."
                )
            number = having[0]
        elif len(tables) > 1:
            logger.info("%s: reading the first of %d HEALPix tables.", path, len(tables))
        names = file[number].columns.names
        column = (choose or _default_column)(path, names) if column is None else _column(names, column)
        return _Finder(path, number, file[number], spectra).find(column, ordering, coordinates)


def _column(names, wanted: str) -> str | None:
    return next((name for name in names if name.upper() == wanted.strip().upper()), None)


def _one_of(names, wanted) -> str | None:
    return next((found for name in wanted if (found := _column(names, name)) is not None), None)


def _positions(names) -> tuple[str, str, str] | None:
    """Coordinates and the two columns of the positions of the pixels."""
    for coordinates, pairs in POSITION_COLUMNS.items():
        for pair in pairs:
            found = [_column(names, name) for name in pair]
            if None not in found:
                return coordinates, *found
    return None


def _map_columns(names) -> list[str]:
    """Columns that are neither pixel numbers nor positions."""
    other = {name for pairs in POSITION_COLUMNS.values() for pair in pairs for name in pair} | set(INDEX_COLUMNS)
    return [name for name in names if name.upper() not in other] or list(names)


def _only_column(path: pathlib.Path, names) -> str:
    choice = _map_columns(names)
    if len(choice) > 1:
        raise ValueError(f"{path}: expected the name of one of the masks {_shown(choice)}. Name one (column=...).")
    return choice[0]


def _default_column(path: pathlib.Path, names) -> str:
    choice = _map_columns(names)
    column = _one_of(choice, MAP_COLUMNS)
    if column is None:
        column = next((name for name in choice if name.upper().startswith("DUST")), choice[0])
    if len(choice) > 1:
        logger.info("%s: reading the column %s of %s.", path, column, _shown(choice))
    return column


def _may_be_healpix(hdu) -> bool:
    if not isinstance(hdu, fits.BinTableHDU) or isinstance(hdu, fits.CompImageHDU) or not hdu.columns.names:
        return False
    header = hdu.header
    if "HEALPIX" in str(header.get("PIXTYPE", "")).upper() or "NSIDE" in header:
        return True
    names = hdu.columns.names
    if _one_of(names, INDEX_COLUMNS) is not None and _positions(names) is not None:
        return True
    return any(_whole_sky(header["NAXIS2"] * repeat) for repeat in (1, _repeat(hdu, names[0])))


def _whole_sky(count: int) -> bool:
    return count >= 12 and bool(healpy.isnpixok(count)) and healpy.isnsideok(healpy.npix2nside(count), nest=True)


def _repeat(hdu, column: str) -> int:
    """Values in one row."""
    return int(np.prod(hdu.columns.dtype[column].shape, dtype=int))


class _Finder:
    """Finds out which pixels the rows of one table are."""

    def __init__(self, path: pathlib.Path, number: int, hdu, spectra: bool):
        self.path, self.number, self.hdu, self.spectra = path, number, hdu, spectra
        self.header, self.names = hdu.header, hdu.columns.names
        self.index = _one_of(self.names, INDEX_COLUMNS)
        check_complete(path, hdu)

    def find(self, column: str, ordering: str | None, coordinates: str | None) -> HealpixTable:
        path, names = self.path, self.names
        repeat = 1 if self.spectra else _repeat(self.hdu, column)
        count = self.header["NAXIS2"] * repeat
        if self.index is not None and not self.spectra and _repeat(self.hdu, self.index) != repeat:
            raise ValueError(
                f"{path}: expected one value of {column} for each pixel number in {self.index}, got {repeat}. If these "
                f"are the channels of a spectrum, open it by keras_cosmo.data.formats.hi4pi.open_cube."
            )
        partial = "EXPLICIT" in str(self.header.get("INDXSCHM", "")).upper()
        if self.index is None and partial:
            raise ValueError(
                f"{path}: the table says INDXSCHM = EXPLICIT, and so expected a column with pixel numbers, one of "
                f"{list(INDEX_COLUMNS)}, got {_shown(names)}. Rename the one that has them."
            )
        said_order = self._said_ordering(ordering)
        said_coordinates = self._said_coordinates(coordinates)
        nside = self._said_nside()
        if nside is None and _whole_sky(count):
            nside = healpy.npix2nside(count)
        first = 0
        if self.index is None and nside is not None and count != 12 * nside**2:
            first = self._first(nside, count, column, repeat)
        sampled = self._sampled(first) if repeat == 1 else None
        if nside is None:
            nside = self._searched(sampled)
        ordering, coordinates = self._agreed(nside, sampled, said_order, said_coordinates)
        if not healpy.isnsideok(nside, nest=ordering == "NESTED"):
            raise ValueError(f"{path}: expected NSIDE to be a power of two for the ordering NESTED, got {nside}.")
        return HealpixTable(
            path=path,
            hdu=self.number,
            columns=tuple(names),
            column=column,
            index=self.index,
            first=first,
            nside=nside,
            ordering=ordering,
            coordinates=coordinates,
            unit=str(self.hdu.columns[column].unit or ""),
            header={
                key: value
                for key, value in self.header.items()
                if key not in ("", "COMMENT", "HISTORY") and isinstance(value, (str, bool, int, float))
            },
        )

    def _said_ordering(self, given: str | None) -> str | None:
        word = str(self.header.get("ORDERING", "")).strip().upper()
        said = {"RING": "RING", "NEST": "NESTED", "NESTED": "NESTED"}.get(word)
        if said is None and word:
            raise ValueError(
                f"{self.path}: expected ORDERING to be RING or NESTED, got {word}. Maps of several resolutions "
                f"(NUNIQ) are not read: write this one at a single one first."
            )
        if None not in (said, given) and said != given:
            raise ValueError(f"{self.path}: ordering is given as {given}, but the header says {said}. Leave it out.")
        return said or given

    def _said_coordinates(self, given: str | None) -> str:
        words = [str(self.header[key]).strip().upper() for key in COORDINATE_KEYS if key in self.header]
        words = [word for word in words if word not in ("", "UNKNOWN", "NONE")]
        said = next((name for name, known in COORDINATES.items() for word in words if word in known), None)
        if said is None and words and given is None:
            raise ValueError(
                f"{self.path}: expected coordinates such as {', '.join(LETTERS)} (COORDSYS), got {words[0]}. Give the "
                f"right ones (coordinates=...)."
            )
        if None not in (said, given) and said != given:
            raise ValueError(
                f"{self.path}: coordinates are given as {given}, but the header says {said}. Leave them out."
            )
        return said or given or ""

    def _said_nside(self) -> int | None:
        nside = self.header.get("NSIDE")
        if nside is None:
            return None
        if isinstance(nside, bool) or nside != int(nside) or not healpy.isnsideok(int(nside)):
            raise ValueError(f"{self.path}: expected NSIDE to be a positive integer, got {nside!r}. Is it damaged?")
        return int(nside)

    def _first(self, nside: int, count: int, column: str, repeat: int) -> int:
        """Pixel of the first row of a part of the sky without pixel numbers."""
        first, last = self.header.get("FIRSTPIX"), self.header.get("LASTPIX")
        if isinstance(first, int) and isinstance(last, int) and count == last - first + 1 <= 12 * nside**2 - first:
            return first
        raise ValueError(
            f"{self.path}: expected {12 * nside**2} pixels for NSIDE = {nside}, got {count} in the column {column} "
            f"({self.header['NAXIS2']} rows of {repeat}), and no column with pixel numbers, one of "
            f"{list(INDEX_COLUMNS)}. Is it a map, and the whole file? If a row is a spectrum, open it by "
            f"keras_cosmo.data.formats.hi4pi.open_cube."
        )

    def _sampled(self, first: int):
        """Pixel numbers of some rows, the coordinates of their positions, and the positions as vectors."""
        positions = _positions(self.names)
        if positions is None:
            return None
        coordinates, longitude, latitude = positions
        rows = slice(None, None, max(1, self.header["NAXIS2"] // CHECKED))
        data = self.hdu.data[rows]
        longitude, latitude = (np.array(data[name], np.float64) for name in (longitude, latitude))
        if self.index is None:
            pixels = first + np.arange(self.header["NAXIS2"])[rows]
        else:
            pixels = np.array(data[self.index], np.int64)
        good = np.isfinite(longitude) & (np.abs(latitude) <= 90.0)
        if pixels.ndim != 1 or longitude.ndim != 1 or not good.any():
            return None
        return pixels[good], coordinates, healpy.ang2vec(longitude[good], latitude[good], lonlat=True)

    def _fits(self, nside: int, sampled) -> list[tuple[str, str]]:
        """Orderings and coordinates for which the pixels lie at their positions."""
        pixels, coordinates, vectors = sampled
        if pixels.min() < 0 or pixels.max() >= 12 * nside**2:
            return []
        found = []
        for each in LETTERS:
            there = vectors @ healpy.Rotator(coord=[LETTERS[coordinates], LETTERS[each]]).mat.T
            for ordering in ORDERINGS:
                nested = ordering == "NESTED"
                if healpy.isnsideok(nside, nest=nested):
                    centres = np.array(healpy.pix2vec(nside, pixels, nest=nested)).T
                    if np.linalg.norm(there - centres, axis=1).max() < OFF * healpy.nside2resol(nside):
                        found.append((ordering, each))
        return found

    def _searched(self, sampled) -> int:
        """Nside from the positions, where neither header nor number of rows says it."""
        if sampled is not None:
            candidates = (2**power for power in range(LARGEST_NSIDE.bit_length()))
            nside = next((each for each in candidates if self._fits(each, sampled)), None)
            if nside is not None:
                logger.info("%s: no NSIDE in the header; by the positions of the pixels it is %d.", self.path, nside)
                return nside
        raise ValueError(
            f"{self.path}: its resolution is not known: the header has no NSIDE, and {self.header['NAXIS2']} rows are "
            f"not the whole sky. Add the key: astropy.io.fits.setval(path, 'NSIDE', value=..., ext={self.number})."
        )

    def _agreed(self, nside: int, sampled, ordering: str | None, coordinates: str) -> tuple[str, str]:
        if sampled is None:
            if ordering is None:
                raise ValueError(
                    f"{self.path}: its ordering is not known: there is no ORDERING in the header, and there are no "
                    f"columns with positions (GLON and GLAT). Give ordering ('RING' or 'NESTED')."
                )
            return ordering, coordinates
        found = self._fits(nside, sampled)
        where = ", ".join(_positions(self.names)[1:])
        if not found:
            raise ValueError(
                f"{self.path}: the pixel numbers do not lie at their positions ({where}), neither in RING nor in "
                f"NESTED order, for NSIDE = {nside}. Are the pixel numbers in another column, or is NSIDE wrong?"
            )
        agreeing = [each for each in found if each[0] == (ordering or each[0]) and each[1] == (coordinates or each[1])]
        if not agreeing:
            raise ValueError(
                f"{self.path}: header or arguments say {ordering or 'no ordering'}, {coordinates or 'no coordinates'}, "
                f"but by their positions ({where}) the pixels are in {' or '.join(', '.join(each) for each in found)}. "
                f"One of them is wrong: correct the header, or leave the argument out."
            )
        if ordering is None:
            logger.info("%s: no ORDERING in the header; by the positions it is %s.", self.path, agreeing[0][0])
        return agreeing[0]


# ---- The values.


def as_float(values: np.ndarray, null=None, bad=None) -> np.ndarray:
    """Values of a column in native byte order, NaN where they are bad; a copy."""
    values = np.asarray(values)
    kind = values.dtype
    if kind.kind == "f":
        single = kind.itemsize <= 4
    elif kind.kind in "iub":
        single = kind.itemsize <= 2
    else:
        raise ValueError(f"expected numbers, got {kind}")
    result = values.astype(np.float32 if single else np.float64)
    if null is not None and kind.kind in "iu":
        result[values == null] = np.nan
    with np.errstate(invalid="ignore"):
        result[~(np.isfinite(result) & (result > BAD))] = np.nan
        if isinstance(bad, (int, float)) and not isinstance(bad, bool) and bad > BAD:
            result[np.abs(result - result.dtype.type(bad)) <= 1e-6 * abs(bad)] = np.nan
    return result


def check_pixels(path: pathlib.Path, name: str, pixels: np.ndarray, n_pixels: int) -> np.ndarray:
    """Pixel numbers as int64.

    Raises:
        ValueError: If one is out of range or occurs twice.
    """
    pixels = pixels.astype(np.int64)
    outside = (pixels < 0) | (pixels >= n_pixels)
    if outside.any():
        raise ValueError(
            f"{path}: expected pixel numbers from 0 to {n_pixels - 1} in the column {name}, got "
            f"{int(pixels[outside][0])}. Is NSIDE right?"
        )
    seen = np.zeros(n_pixels, bool)
    seen[pixels] = True
    if np.count_nonzero(seen) != pixels.size:
        values, counts = np.unique(pixels, return_counts=True)
        raise ValueError(
            f"{path}: expected each pixel once, got pixel {int(values[counts > 1][0])} {int(counts.max())} times in "
            f"the column {name}. Remove the doubles."
        )
    return pixels


def _ring(table: HealpixTable) -> np.ndarray:
    """The column as a map of the whole sky in RING order."""
    with open_fits(table.path) as file:
        hdu = file[table.hdu]
        raw = np.ravel(hdu.data[table.column])
        try:
            values = as_float(raw, hdu.columns[table.column].null, table.header.get("BAD_DATA"))
        except ValueError as error:
            raise ValueError(
                f"{table.path}: {error} in the column {table.column}. Name another of {_shown(table.columns)}."
            ) from error
        pixels = None if table.index is None else np.array(hdu.data[table.index]).ravel()
    if pixels is not None:
        pixels = check_pixels(table.path, table.index, pixels, table.n_pixels)
    elif values.size != table.n_pixels:
        pixels = np.arange(table.first, table.first + values.size)
    if pixels is None:
        return healpy.reorder(values, n2r=True) if table.ordering == "NESTED" else values
    if table.ordering == "NESTED":
        pixels = healpy.nest2ring(table.nside, pixels)
    result = np.full(table.n_pixels, np.nan, values.dtype)
    result[pixels] = values
    return result
