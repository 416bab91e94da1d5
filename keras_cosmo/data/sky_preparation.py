"""From the HI cube of a survey, a dust map and a mask to one sky of the task "dust", as a database."""

import concurrent.futures
import dataclasses
import logging
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator

import h5py
import numpy as np

from keras_cosmo import __version__
from keras_cosmo.data.database import Database
from keras_cosmo.data.database_writer import DatabasePlan, DatabaseWriter, difference_from_plan, partial_path
from keras_cosmo.data.formats.cube_files import SUFFIXES
from keras_cosmo.data.formats.healpix_cube import IN_MEMORY, HealpixCube
from keras_cosmo.data.formats.healpix_maps import (
    COORDINATE_KEYS,
    HealpixMap,
    open_fits,
    read_healpix,
    read_mask,
    rotate_to_galactic,
    to_nside,
)
from keras_cosmo.data.formats.hi4pi import Hi4piCube, open_cube
from keras_cosmo.data.sky_masks import fractional_weights, log_fractions
from keras_cosmo.data.worker_pool import WorkerPool
from keras_cosmo.files import written_aside
from keras_cosmo.quantities import MapField

logger = logging.getLogger(__name__)

TASK = "dust"
UNITS = {"hi_cube": "K", "dust": "uK_RJ", "mask": ""}
"""Fields of a sky and their units."""
VELOCITIES = (-64.5, 17.0)
"""Velocity range in km/s, of the local standard of rest (Zhang et al. 2019, section 2 and figure 1)."""
HI4PI_CHANNELS = 64
"""Channels of HI4PI in that range (section 2)."""
LOW_PASS_ELL = 460
"""Multipole of the Butterworth filter (section 2)."""
LOW_PASS_ORDER = 4
"""Order of the filter: an assumption, the paper gives none."""
# What a header may call the Rayleigh-Jeans temperature of dust, and how many uK_RJ it is.
DUST_UNITS = {"uk_rj": 1.0, "ukrj": 1.0, "microk_rj": 1.0, "mk_rj": 1e3, "mkrj": 1e3, "k_rj": 1e6, "krj": 1e6}
GALACTIC = "galactic"
# What a header says that does not say it.
SILENT = ("", "UNKNOWN", "NONE")
CELL_SIZE_TOLERANCE = 0.01
# Values that are turned from planes to spectra at once: 64 MB, and as much again for the transpose.
BLOCK_VALUES = 2**24
STAGING_SUFFIX = ".planes"


@dataclasses.dataclass(frozen=True, eq=False)
class SkySummary:
    """What a sky holds, in numbers.

    Args:
        path: Database.
        nside: HEALPix resolution.
        velocities: ``(n_channels,)`` km/s.
        sky_fraction: Mean of the mask.
        dust_mean, dust_rms: Mean, and root of the mean square about it, in uK_RJ, each pixel weighted by the mask.
        hi_mean, hi_rms: Likewise of the cube, in K, over all channels.
    """

    path: pathlib.Path
    nside: int
    velocities: np.ndarray
    sky_fraction: float
    dust_mean: float
    dust_rms: float
    hi_mean: float
    hi_rms: float

    @property
    def n_channels(self) -> int:
        """Number of velocity channels."""
        return len(self.velocities)

    def __str__(self):
        return (
            f"{self.path}: nside {self.nside}, {self.n_channels} channels from {self.velocities[0]:.3f} to "
            f"{self.velocities[-1]:.3f} km/s, sky fraction {self.sky_fraction:.4f}; under the mask, dust has mean "
            f"{self.dust_mean:.4g} and rms {self.dust_rms:.4g} uK_RJ, HI mean {self.hi_mean:.4g} and rms "
            f"{self.hi_rms:.4g} K"
        )


def prepare_sky(
    path: str | os.PathLike,
    *,
    cube: str | os.PathLike | Iterable[str | os.PathLike],
    dust: str | os.PathLike,
    mask: str | os.PathLike | None = None,
    cube_velocities: str | os.PathLike | None = None,
    cube_column: str | None = None,
    dust_column: str | None = None,
    mask_column: str | None = None,
    ordering: str | None = None,
    coordinates: str | None = None,
    nside: int | None = None,
    velocities: tuple[float, float] = VELOCITIES,
    low_pass_ell: float = LOW_PASS_ELL,
    low_pass_order: float = LOW_PASS_ORDER,
    workers: int = 1,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> pathlib.Path:
    """Make the database of one sky, as Zhang et al. (2019, section 2) prepare HI4PI and COMMANDER.

    Channels within the velocity range are put on the HEALPix pixels of ``nside`` and low-passed, and so is the dust.
    Pixels where the dust, the mask or any of the channels has no data are bad: for the filter they are filled in with
    `fill_bad_pixels`, and they are stored as 0 in all three fields, so that the mask leaves them out. The mask itself
    is neither filtered nor multiplied into the maps.

    The database appears under ``path`` when it is complete. Until then, ``<path>.partial`` holds its place on the disk
    and the folder ``<path>.partial.planes`` the maps that are done, one file each; after a kill, ``resume`` goes on
    with them. Only a few maps are in memory at once, whatever the number of channels.

    Args:
        path: Database to write.
        cube: File, files or folder of the HI cube: FITS cube, tiles, HEALPix tables, or ``.npy``.
        dust: HEALPix FITS file in uK_RJ (mK_RJ and K_RJ are converted).
        mask: HEALPix FITS file with weights from 0 (left out) to 1; by default all pixels with data count.
        cube_velocities: Text or ``.npy`` file with the velocity of each channel in km/s, for cubes without such an
            axis.
        cube_column: Name of the column of spectra, for HEALPix tables with several.
        dust_column: Name of the column of the dust map; by default that of Planck's dust intensity, or the first.
        mask_column: Name of the column of the mask; needed if there are several.
        ordering: ``"RING"`` or ``"NESTED"``, for files whose header does not say.
        coordinates: ``"galactic"``, ``"equatorial"`` or ``"ecliptic"``, for files whose header does not say.
        nside: HEALPix resolution of the sky, to which cube, dust and mask are brought. By default theirs, which has
            to be the same. The paper works at 1024.
        velocities: Lowest and highest channel centre in km/s (LSR).
        low_pass_ell: Multipole of the Butterworth filter; 0 for none.
        low_pass_order: Order of the filter.
        workers: Processes that share the channels; 0 and 1 stay in this one, where healpy uses all cores.
        resume: Whether to go on with what an earlier call has begun, from the same files and settings.
        progress: Called as ``progress(done, total)`` at the begin and after each step: the dust, each channel, and
            the final file.

    Returns:
        ``path``.

    Raises:
        FileNotFoundError: If an input file does not exist.
        FileExistsError: If ``path`` exists, or was begun before and ``resume`` is not set.
        TypeError: If a number is of another type.
        ValueError: If an argument is out of range; a file is not usable or has another unit; the files differ in nside
            and none is asked for; no channel lies in the range; no pixel is left that all files have; or what was
            begun has other inputs or settings.
        RuntimeError: If another process is writing the same file, or a worker process died.
        OSError: If the disk is full; the message says how much is needed.

    Example:
        >>> prepare_sky("sky.h5", cube="CAR.fits", dust="dust.fits", mask="LR72.fits", nside=1024)  # doctest: +SKIP

    Deviations from the paper: the order of the filter and the treatment of pixels without data are assumptions, since
    the paper names neither.
    """
    path = pathlib.Path(path)
    workers = _integer("workers", workers, 0)
    settings = _Settings.of(nside, velocities, low_pass_ell, low_pass_order)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist. Make it first.")
    if path.exists() and not resume:
        raise FileExistsError(f"{path} exists already. Choose another output file, or delete it first.")
    partial = partial_path(path)
    if partial.exists() and not resume:
        raise FileExistsError(
            f"{partial} was begun before. Go on with it by --resume (resume=True), or delete it and the folder "
            f"{staging_folder(path).name} beside it."
        )

    cube = _open_cube(cube, settings, cube_velocities, cube_column, ordering, coordinates)
    dust = read_healpix(dust, dust_column, **_where_unsaid(dust, ordering, coordinates))
    if mask is not None:
        mask = read_mask(mask, mask_column, **_where_unsaid(mask, ordering, coordinates))
    settings = dataclasses.replace(settings, nside=_common_nside(settings.nside, cube, dust, mask))
    settings.check_low_pass()
    _log_velocities(cube, settings)
    plan = _plan(cube, cube_velocities, settings, dust, mask)
    if path.exists():
        _check_already_complete(path, plan)
        if progress is not None:
            progress(cube.n_channels + 2, cube.n_channels + 2)
        return path
    if cube.nside is not None:
        _log_change(cube.paths[0], cube.nside, settings.nside)
    dust_values, weights = _dust_and_weights(dust, mask, settings.nside)
    del dust, mask
    stage = _Stage(staging_folder(path), settings, tuple(cube.velocities.tolist()))
    if not partial.exists():
        # Maps without the file that says what they were made from could be anything.
        shutil.rmtree(stage.folder, ignore_errors=True)
    _check_room(stage, plan, partial, cube)
    with DatabaseWriter.open(path, plan) as writer:
        try:
            stage.folder.mkdir(exist_ok=True)
            _stage_all(stage, cube, dust_values, weights, workers, progress)
            _assemble(stage, writer)
        except ValueError as error:
            kept = sum(stage.has(channel) for channel in range(len(stage.velocities)))
            if kept:
                raise ValueError(
                    f"{error} {kept} channels are done and kept for --resume from the same files; to begin again with "
                    f"others, delete {partial} and {stage.folder}."
                ) from error
            # Nothing half-written stays behind: the next attempt may have other arguments.
            partial.unlink(missing_ok=True)
            shutil.rmtree(stage.folder, ignore_errors=True)
            raise
        writer.mark_finished(0)
        writer.finish()
    shutil.rmtree(stage.folder, ignore_errors=True)
    if progress is not None:
        progress(stage.steps, stage.steps)
    return path


def staging_folder(path: str | os.PathLike) -> pathlib.Path:
    """Folder that keeps the finished maps of a sky that is not complete yet.

    Args:
        path: Database to be made.
    """
    partial = partial_path(path)
    return partial.with_name(partial.name + STAGING_SUFFIX)


def fill_bad_pixels(values: np.ndarray) -> np.ndarray:
    """Map whose pixels that are not finite are filled in smoothly from those around them.

    Each is interpolated bilinearly on the finest coarser map, of nside / 2, / 4 and so on, in which its surroundings
    have data; a pixel of a coarser map is the mean of its pixels with data. Pixels with data stay as they are. A filter
    in spherical harmonics so sees no edges of the gaps, as it would with zeros.

    Args:
        values: ``(n_pixels,)`` HEALPix map in RING order.

    Returns:
        Float64 map of the same shape.

    Raises:
        ValueError: If no pixel is finite.

    Example:
        >>> values = np.ones(768)
        >>> values[100:120] = np.nan
        >>> bool(np.allclose(fill_bad_pixels(values), 1.0))
        True
    """
    import healpy

    filled = np.array(values, np.float64)
    bad = ~np.isfinite(filled)
    if bad.all():
        raise ValueError("values: expected a map with data, got no finite pixel.")
    if not bad.any():
        return filled
    nside = healpy.npix2nside(len(filled))
    if nside == 1:
        filled[bad] = filled[~bad].mean()
        return filled
    nested = healpy.ring2nest(nside, np.arange(len(filled)))
    children = np.empty_like(filled)
    children[nested] = filled
    children = children.reshape(-1, 4)
    counts = np.isfinite(children).sum(axis=1)
    sums = np.where(np.isfinite(children), children, 0.0).sum(axis=1)
    coarse = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    coarse = fill_bad_pixels(coarse[healpy.ring2nest(nside // 2, np.arange(len(coarse)))])
    theta, phi = healpy.pix2ang(nside, np.flatnonzero(bad))
    filled[bad] = healpy.get_interp_val(coarse, theta, phi)
    return filled


def check_sky(database: Database) -> Database:
    """Check that a database holds skies of the task "dust": HEALPix maps in RING order and galactic coordinates.

    Args:
        database: With the fields ``hi_cube`` ``(n_pixels, n_channels)``, ``dust`` and ``mask`` ``(n_pixels,)``, and
            the root attributes nside, ordering, coordinates and velocities. The attributes low_pass_ell and cell_size
            are checked where they are there. Whether a mask has fractional weights, which count as 0 or 1 later on, is
            logged.

    Returns:
        The database itself.

    Raises:
        ValueError: If the task, a field, a shape, a unit or an attribute differs, a weight of a mask is outside [0, 1],
            or a mask leaves nothing; names what was expected and what to do.
    """
    database.require(TASK, UNITS)
    where, attributes = database.path, database.attributes
    advice = "Make it with apps/prepare_sky.py or the embedded simulator."
    missing = [name for name in ("nside", "ordering", "coordinates", "velocities") if name not in attributes]
    if missing:
        raise ValueError(f"{where}: expected root attributes that say {missing}. {advice}")
    nside = attributes["nside"]
    if not isinstance(nside, int) or isinstance(nside, bool) or nside < 1 or nside & (nside - 1):
        raise ValueError(f"{where}: expected nside to be a power of two, got {nside!r}. {advice}")
    for name, expected in (("ordering", "RING"), ("coordinates", GALACTIC)):
        if attributes[name] != expected:
            raise ValueError(f"{where}: expected {name} {expected!r}, got {attributes[name]!r}. {advice}")
    for name, unit in UNITS.items():
        if database.fields[name].unit != unit:
            got = database.fields[name].unit
            raise ValueError(f"{where}: /maps/{name}: expected the unit {unit!r}, got {got!r}. Convert it. {advice}")
    velocities = np.atleast_1d(attributes["velocities"])
    ascending = velocities.ndim == 1 and velocities.dtype.kind in "fiu" and np.isfinite(velocities).all()
    if not ascending or not (np.diff(velocities) > 0.0).all():
        raise ValueError(
            f"{where}: expected velocities that increase from channel to channel, in km/s, got {velocities}. {advice}"
        )
    n_pixels = 12 * nside**2
    shapes = {"hi_cube": (n_pixels, len(velocities)), "dust": (n_pixels,), "mask": (n_pixels,)}
    for name, shape in shapes.items():
        if database.fields[name].shape != shape:
            raise ValueError(
                f"{where}: /maps/{name}: expected maps of shape {shape} for nside {nside} and {len(velocities)} "
                f"velocities, got {database.fields[name].shape}. {advice}"
            )
    if database.cell_size is not None and abs(database.cell_size / pixel_side(nside) - 1.0) > CELL_SIZE_TOLERANCE:
        raise ValueError(
            f"{where}: expected cell_size {pixel_side(nside):.4f} arcmin, the side of a pixel at nside {nside}, got "
            f"{database.cell_size:g}. {advice}"
        )
    low_pass_ell = attributes.get("low_pass_ell", 0)
    if not np.isscalar(low_pass_ell) or not isinstance(low_pass_ell, (int, float)) or not 0 <= low_pass_ell < np.inf:
        raise ValueError(f"{where}: expected low_pass_ell to be 0 or a multipole, got {low_pass_ell!r}. {advice}")
    fractional = 0
    for sky in range(database.n_maps):
        weights = database.read("mask", [sky], check_finite=True)
        if weights.min() < 0.0 or weights.max() > 1.0:
            raise ValueError(
                f"{where}: /maps/mask: expected weights from 0 to 1, got {weights.min():g} to {weights.max():g} in sky "
                f"{sky}. {advice}"
            )
        if not weights.any():
            raise ValueError(f"{where}: /maps/mask: nothing of sky {sky} is left. {advice}")
        fractional += fractional_weights(weights)
    if fractional:
        log_fractions(where, fractional, database.n_maps * n_pixels)
    return database


def summarize_sky(path: str | os.PathLike) -> SkySummary:
    """Read the first sky of a database once, block by block, and say what it holds.

    Args:
        path: Database of the task "dust".

    Raises:
        ValueError: If it is not such a database, or a pixel is not finite.
    """
    database = check_sky(Database(path))
    totals = dict.fromkeys(("weight", "dust", "dust_squared", "hi", "hi_squared"), 0.0)
    n_pixels, n_channels = database.fields["hi_cube"].shape
    with h5py.File(database.path, "r", locking=False) as file:
        maps = file["maps"]
        for first, last in _blocks(n_pixels, n_channels):
            weights = maps["mask"][0, first:last].astype(np.float64)
            dust = maps["dust"][0, first:last].astype(np.float64)
            spectra = maps["hi_cube"][0, first:last].astype(np.float64)
            totals["weight"] += weights.sum()
            totals["dust"] += weights @ dust
            totals["dust_squared"] += weights @ dust**2
            totals["hi"] += weights @ spectra.sum(axis=1)
            totals["hi_squared"] += weights @ np.einsum("pc,pc->p", spectra, spectra)
    if not all(map(math.isfinite, totals.values())):
        raise ValueError(f"{database.path}: a pixel is not finite. Make the database again.")
    dust_mean, dust_rms = _moments(totals["dust"], totals["dust_squared"], totals["weight"])
    hi_mean, hi_rms = _moments(totals["hi"], totals["hi_squared"], totals["weight"] * n_channels)
    return SkySummary(
        path=database.path,
        nside=database.attributes["nside"],
        velocities=np.atleast_1d(database.attributes["velocities"]),
        sky_fraction=totals["weight"] / n_pixels,
        dust_mean=dust_mean,
        dust_rms=dust_rms,
        hi_mean=hi_mean,
        hi_rms=hi_rms,
    )


def pixel_side(nside: int) -> float:
    """Side of a HEALPix pixel, the square root of its area, in arcmin.

    Args:
        nside: HEALPix resolution.

    Example:
        >>> round(pixel_side(1024), 3)
        3.435
    """
    return math.degrees(math.sqrt(math.pi / 3.0) / nside) * 60.0


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What the maps depend on besides the files; ``nside`` is None until the files have said theirs."""

    nside: int | None
    velocity_low: float
    velocity_high: float
    low_pass_ell: float
    low_pass_order: float

    @classmethod
    def of(cls, nside, velocities, low_pass_ell, low_pass_order) -> "_Settings":
        if nside is not None:
            nside = _integer("nside", nside, 1)
            if nside & (nside - 1):
                raise ValueError(f"nside: expected a power of two, got {nside}. The paper has 1024.")
        try:
            low, high = (float(velocity) for velocity in velocities)
        except (TypeError, ValueError) as error:
            raise TypeError(f"velocities: expected two numbers (low, high) in km/s, got {velocities!r}.") from error
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"velocities: expected low < high in km/s, got {low:g} and {high:g}.")
        for name, value in (("low_pass_ell", low_pass_ell), ("low_pass_order", low_pass_order)):
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
                raise TypeError(f"{name}: expected a number, got {value!r}.")
        if not 0.0 <= low_pass_ell < math.inf:
            raise ValueError(f"low_pass_ell: expected a multipole, or 0 for no filter, got {low_pass_ell!r}.")
        if not 0.0 < low_pass_order < math.inf:
            raise ValueError(f"low_pass_order: expected a positive number, got {low_pass_order!r}.")
        return cls(nside, low, high, float(low_pass_ell), float(low_pass_order))

    @property
    def n_pixels(self) -> int:
        return 12 * self.nside**2

    def check_low_pass(self) -> None:
        finest = 3 * self.nside - 1
        if self.low_pass_ell > finest:
            raise ValueError(
                f"low_pass_ell: expected at most 3 nside - 1 = {finest} at nside {self.nside}, got "
                f"{self.low_pass_ell:g}. These pixels hold nothing beyond it: give a larger nside, or 0 for no filter."
            )

    def filtered(self, values: np.ndarray) -> np.ndarray:
        """Low-passed map; what is not finite is filled in for the filter and NaN again after it."""
        if not self.low_pass_ell:
            return np.asarray(values, np.float32)
        from keras_cosmo.sphere import low_pass

        smooth = low_pass(fill_bad_pixels(values), self.low_pass_ell, self.low_pass_order)
        smooth[~np.isfinite(values)] = np.nan
        return smooth


@dataclasses.dataclass(frozen=True)
class _Stage:
    """Folder of finished maps, one file of float32 each; picklable."""

    folder: pathlib.Path
    settings: _Settings
    velocities: tuple[float, ...]

    @property
    def steps(self) -> int:
        """The dust, the channels, and the final file."""
        return len(self.velocities) + 2

    def file(self, name: str | int) -> pathlib.Path:
        return self.folder / (f"{name}.f32" if isinstance(name, str) else f"channel_{name:04d}.f32")

    def has(self, name: str | int) -> bool:
        """Whether a map is there and whole."""
        file = self.file(name)
        return file.is_file() and file.stat().st_size == 4 * self.settings.n_pixels

    def write(self, name: str | int, values: np.ndarray) -> None:
        with written_aside(self.file(name)) as aside, aside.open("wb") as file:
            file.write(np.ascontiguousarray(values, "<f4").data)
            file.flush()
            os.fsync(file.fileno())

    def write_filtered(self, name: str | int, values: np.ndarray) -> str | int:
        self.write(name, self.settings.filtered(values))
        return name

    def read(self, name: str | int, first: int = 0, last: int | None = None) -> np.ndarray:
        count = -1 if last is None else last - first
        return np.fromfile(self.file(name), "<f4", count=count, offset=4 * first)


def _check_room(stage: _Stage, plan: DatabasePlan, partial: pathlib.Path, cube: Hi4piCube | HealpixCube) -> None:
    missing = sum(not stage.has(name) for name in ("dust", "mask", *range(len(stage.velocities))))
    beside = 4 * stage.settings.n_pixels * missing
    needed = beside + (0 if partial.exists() else plan.data_bytes)
    folder, temporary = pathlib.Path(tempfile.gettempdir()), _temporary_bytes(cube) if missing else 0
    more = ""
    if temporary:
        more = f" {temporary / 1e9:.2f} GB for a temporary file of the cube's spectra in {folder}"
        if folder.stat().st_dev == partial.parent.stat().st_dev:
            needed += temporary
            more = f" and{more}, on the same disk,"
        else:
            more = f" (beside{more}, on another disk)"
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise OSError(
            f"{partial.parent}: expected {needed} bytes ({needed / 1e9:.2f} GB) of free space, {beside / 1e9:.2f} GB "
            f"of them{more} until the sky is complete, got {free / 1e9:.2f} GB. Make room, or choose another folder, a "
            f"smaller nside or fewer channels."
        )


def _temporary_bytes(cube: Hi4piCube | HealpixCube) -> int:
    """Size of the file in which `HealpixCube` turns spectra into planes."""
    if not isinstance(cube, HealpixCube):
        return 0
    n_pixels = 12 * cube.nside**2
    if cube.paths[0].suffix == ".npy" and np.load(cube.paths[0], mmap_mode="r").shape[-1] == n_pixels:
        return 0
    size = 4 * cube.n_channels * n_pixels
    return size if size > IN_MEMORY else 0


def _stage_all(
    stage: _Stage,
    cube: Hi4piCube | HealpixCube,
    dust: np.ndarray,
    weights: np.ndarray,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Make the maps that are not there yet."""
    todo = [channel for channel in range(len(stage.velocities)) if not stage.has(channel)]
    dust_is_there = stage.has("dust") and stage.has("mask")
    done = len(stage.velocities) - len(todo) + dust_is_there
    if done:
        logger.info("%s: resuming with %d of %d maps done.", stage.folder, done, stage.steps - 1)
    if progress is not None:
        progress(done, stage.steps)
    if not dust_is_there:
        stage.write("mask", weights)
        stage.write_filtered("dust", dust)
        done += 1
        if progress is not None:
            progress(done, stage.steps)
    planes = ((channel, _plane(stage, cube, channel, weights)) for channel in todo)
    for _ in _staged(stage, planes, min(workers, len(todo))):
        done += 1
        if progress is not None:
            progress(done, stage.steps)


def _plane(stage: _Stage, cube: Hi4piCube | HealpixCube, channel: int, weights: np.ndarray) -> np.ndarray:
    values = cube.plane(channel, stage.settings.nside)
    good = np.isfinite(values)
    if not (good & (weights > 0.0)).any():
        raise ValueError(
            f"{cube.paths[0]}: the channel at {stage.velocities[channel]:.3f} km/s has "
            + ("no data where dust and mask leave the sky" if good.any() else "no data at all")
            + ". Check that cube, dust and mask show the same part of the sky, or choose other velocities."
        )
    return values


def _staged(stage: _Stage, planes: Iterator[tuple[int, np.ndarray]], workers: int) -> Iterator[int]:
    """Filter and keep planes, in this process or in several, and yield each that is done.

    The planes are read in this process, since a cube keeps what it has learnt of its files for the next plane.
    """
    if workers <= 1:
        for channel, values in planes:
            yield stage.write_filtered(channel, values)
        return
    pool, pending = WorkerPool(workers), set()
    try:
        for channel, values in planes:
            pending.add(pool.submit(stage.write_filtered, channel, values))
            if len(pending) > workers:
                finished, pending = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        for future in concurrent.futures.as_completed(pending):
            yield future.result()
    except concurrent.futures.BrokenExecutor as error:
        raise RuntimeError(
            f"A worker process died, most often of too little memory for {workers} workers. The maps that are done "
            f"are kept: continue with --resume and fewer workers."
        ) from error
    finally:
        pool.kill()


def _assemble(stage: _Stage, writer: DatabaseWriter) -> None:
    """From planes to spectra: all channels of one block of pixels at a time."""
    n_pixels, n_channels = stage.settings.n_pixels, len(stage.velocities)
    masked = without_data = 0
    for first, last in _blocks(n_pixels, n_channels):
        dust, weights = stage.read("dust", first, last), stage.read("mask", first, last)
        planes = np.empty((n_channels, last - first), np.float32)
        for channel in range(n_channels):
            planes[channel] = stage.read(channel, first, last)
        bad = ~(np.isfinite(dust) & np.isfinite(weights) & np.isfinite(planes).all(axis=0))
        for values in (dust, weights):
            values[bad] = 0.0
        planes[:, bad] = 0.0
        writer.write_part("dust", 0, first, dust)
        writer.write_part("mask", 0, first, weights)
        writer.write_part("hi_cube", 0, first, planes.T)
        masked += np.count_nonzero(weights == 0.0)
        without_data += np.count_nonzero(bad)
    if masked == n_pixels:
        raise ValueError(
            f"{writer.path}: no pixel has a weight above 0 and data in the dust and in all channels. Choose velocities "
            f"where the cube is complete, and check that cube, dust and mask show the same part of the sky."
        )
    logger.info(
        "%s: %d of %d pixels have no data in the dust or in a channel; %d have weight 0.",
        writer.path, without_data, n_pixels, masked,
    )  # fmt: skip


def _plan(
    cube: Hi4piCube | HealpixCube,
    cube_velocities: str | os.PathLike | None,
    settings: _Settings,
    dust: HealpixMap,
    mask: HealpixMap | None,
) -> DatabasePlan:
    n_pixels, n_channels = settings.n_pixels, cube.n_channels
    attributes = {
        "nside": settings.nside,
        "ordering": "RING",
        "coordinates": GALACTIC,
        "velocities": cube.velocities,
        "low_pass_ell": settings.low_pass_ell,
        "low_pass_order": settings.low_pass_order,
        "cell_size": pixel_side(settings.nside),
        "cell_size_units": "arcmin",
        "periodic_across_sky": False,
        "preparation": f"keras_cosmo {__version__}",
        "cube_files": np.array([_identity(path) for path in cube.paths]),
        "description": "HI brightness temperature, dust and mask of the sky, for predicting dust from HI",
    }
    if cube_velocities is not None:
        attributes["cube_velocities_file"] = _identity(pathlib.Path(cube_velocities))
    for name, content in {"dust": dust, "mask": mask}.items():
        attributes[f"{name}_file"] = "none" if content is None else _identity(content.path)
        attributes[f"{name}_column"] = "none" if content is None else content.column
    descriptions = {
        "hi_cube": "brightness temperature of neutral hydrogen at each velocity",
        "dust": "brightness temperature of dust",
        "mask": "weight of a pixel, 0 where it is left out",
    }
    shapes = {"hi_cube": (n_pixels, n_channels), "dust": (n_pixels,), "mask": (n_pixels,)}
    return DatabasePlan(
        task=TASK,
        fields={name: MapField(unit=UNITS[name], shape=shapes[name], description=descriptions[name]) for name in UNITS},
        parameters=(),
        parameter_values=np.zeros((1, 0)),
        simulation=np.zeros(1, np.int64),
        attributes=attributes,
    )


def _check_already_complete(path: pathlib.Path, plan: DatabasePlan) -> None:
    difference = difference_from_plan(path, plan)
    if difference:
        raise FileExistsError(
            f"{path} exists and was made with other inputs or settings: {difference}. Choose another output file, or "
            f"delete it."
        )
    # Left over where a kill came between the last two steps.
    partial = partial_path(path)
    if partial.exists() and partial.samefile(path):
        partial.unlink()
    shutil.rmtree(staging_folder(path), ignore_errors=True)
    logger.info("%s is already complete.", path)


def _open_cube(cube, settings: _Settings, velocities, column, ordering, coordinates) -> Hi4piCube | HealpixCube:
    paths = [cube] if isinstance(cube, (str, os.PathLike)) else list(cube)
    if not paths:
        raise ValueError("cube: expected at least one file, got none.")
    return open_cube(
        paths[0] if len(paths) == 1 else paths,
        velocity_low=settings.velocity_low,
        velocity_high=settings.velocity_high,
        velocities=velocities,
        column=column,
        **_where_unsaid(paths[0], ordering, coordinates),
    )


def _common_nside(asked: int | None, cube: Hi4piCube | HealpixCube, *maps: HealpixMap | None) -> int:
    """The nside to work at: the one that was asked for, or the one that all files share."""
    if asked is not None:
        return asked
    found = {} if cube.nside is None else {str(cube.paths[0]): cube.nside}
    found |= {str(content.path): content.nside for content in maps if content is not None}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{nside} in {path}" for path, nside in found.items())
        raise ValueError(
            f"nside: the files differ: {listed}. Say to which one to bring them (--nside; the paper has 1024)."
        )
    return next(iter(found.values()))


def _log_velocities(cube: Hi4piCube | HealpixCube, settings: _Settings) -> None:
    expected = ""
    if (settings.velocity_low, settings.velocity_high) == VELOCITIES:
        expected = f"; HI4PI has {HI4PI_CHANNELS}"
    logger.log(
        logging.WARNING if expected and cube.n_channels != HI4PI_CHANNELS else logging.INFO,
        "%d channels in [%g, %g] km/s, from %.3f to %.3f km/s%s.",
        cube.n_channels, settings.velocity_low, settings.velocity_high, cube.velocities[0], cube.velocities[-1],
        expected,
    )  # fmt: skip


def _dust_and_weights(dust: HealpixMap, mask: HealpixMap | None, nside: int) -> tuple[np.ndarray, np.ndarray]:
    """Dust in uK_RJ, NaN where there is none, and mask, 0 there."""
    values = _at_nside(dust, nside) * np.float32(_dust_unit(dust))
    weights = np.ones(len(values), np.float32) if mask is None else _at_nside(mask, nside)
    weights = np.where(np.isfinite(values) & np.isfinite(weights), weights, np.float32(0.0))
    if not weights.any():
        raise ValueError(
            f"{dust.path} and {'no mask' if mask is None else mask.path}: no pixel is left with dust and a weight "
            f"above 0. Are these the right columns, and is the mask 1 where the sky is used?"
        )
    return values, weights


def _dust_unit(dust: HealpixMap) -> float:
    """Unit of the dust map in uK_RJ."""
    key = dust.unit.strip().lower().replace(" ", "")
    if not key:
        logger.warning("%s does not say the unit of %s; taken as %s.", dust.path, dust.column, UNITS["dust"])
        return 1.0
    if key not in DUST_UNITS:
        raise ValueError(
            f"{dust.path}: expected {dust.column} in {UNITS['dust']}, mK_RJ or K_RJ, got {dust.unit!r}. Name the "
            f"column of the dust intensity (there are {', '.join(dust.columns)}), or convert it."
        )
    return DUST_UNITS[key]


def _at_nside(content: HealpixMap, nside: int) -> np.ndarray:
    """Float32 map in galactic coordinates at ``nside``; says what it does to the map."""
    values = np.asarray(content.values, np.float32)
    if not content.coordinates:
        raise ValueError(
            f"{content.path}: the header does not say the coordinates. Give those of its documentation (--coordinates)."
        )
    if content.coordinates != GALACTIC:
        logger.info("%s: rotated from %s to galactic coordinates.", content.path, content.coordinates)
        values = rotate_to_galactic(values, content.coordinates)
    _log_change(content.path, content.nside, nside)
    return values if content.nside == nside else to_nside(values, nside)


def _log_change(path: pathlib.Path, before: int, after: int) -> None:
    if before != after:
        rule = "each pixel is the mean of those within it" if before > after else "interpolated bilinearly"
        logger.info("%s: from nside %d to nside %d, %s.", path, before, after, rule)


def _where_unsaid(path: str | os.PathLike, ordering: str | None, coordinates: str | None) -> dict[str, str | None]:
    """Ordering and coordinates as given, but None where the header of the file says its own."""
    path = pathlib.Path(path)
    if path.is_dir():
        path = next((each for each in sorted(path.iterdir()) if each.name.endswith(SUFFIXES)), path)
    if (ordering is None and coordinates is None) or path.suffix == ".npy" or not path.is_file():
        return {"ordering": ordering, "coordinates": coordinates}
    with open_fits(path) as file:
        said = {key for hdu in file for key in hdu.header if str(hdu.header[key]).strip().upper() not in SILENT}
    return {
        "ordering": None if said & {"ORDERING", "CTYPE1"} else ordering,
        "coordinates": None if said & {*COORDINATE_KEYS, "CTYPE1"} else coordinates,
    }


def _identity(path: pathlib.Path) -> str:
    """What tells a file from another one without reading it all."""
    status = path.stat()
    return f"{path.name}, {status.st_size} bytes, modified {status.st_mtime_ns}"


def _blocks(n_pixels: int, n_channels: int) -> Iterator[tuple[int, int]]:
    size = max(1, BLOCK_VALUES // n_channels)
    for first in range(0, n_pixels, size):
        yield first, min(first + size, n_pixels)


def _moments(total: float, squared: float, weight: float) -> tuple[float, float]:
    mean = total / weight
    return mean, math.sqrt(max(squared / weight - mean**2, 0.0))


def _integer(name: str, value: object, lowest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer, got {value!r}.")
    if value < lowest:
        raise ValueError(f"{name}: expected at least {lowest}, got {value}.")
    return int(value)
