"""Maps of emission lines out of observed intensity maps, by an exported separation."""

import contextlib
import dataclasses
import functools
import json
import logging
import pathlib
import shutil
import tempfile
import warnings
import zipfile

import numpy as np

from keras_cosmo.data.database import Database
from keras_cosmo.data.database_writer import DatabasePlan, DatabaseWriter, partial_path
from keras_cosmo.files import disk_array, written_aside
from keras_cosmo.quantities import MapField
from keras_cosmo.simulations.emission_lines import INTENSITY_UNIT, PLAUSIBLE_MEAN

logger = logging.getLogger(__name__)

OUTPUTS = (".h5", ".hdf5", ".fits", ".npz")
FITS_ENDINGS = (".fits", ".fit", ".fts", ".fits.gz")
# Names that a field of observed maps goes by, without being asked for.
USUAL_FIELDS = ("intensity", "observed")
# Cards of an observed image that hold for its lines as well, beside the coordinates on the sky.
KEPT_CARDS = ("OBJECT", "TELESCOP", "INSTRUME", "OBSERVER")
# Pixels that are looked at in one go.
_PIXELS = 2**19
_FITS_BLOCK = 2880


@dataclasses.dataclass(frozen=True, eq=False)
class ObservedMaps:
    """Observed intensity maps, and what their file says about them.

    Args:
        path: The file.
        maps: Intensity ``(n_maps, height, width)``, float32, erg s^-1 cm^-2 sr^-1: an array, or what looks like one and
            reads the maps of a slice from the file.
        single: Whether the file holds one map without an axis for maps.
        simulation: Simulation of each map, ``(n_maps,)`` integers from 0 on.
        cell_size: Side of a pixel in arcmin, or None if the file does not say.
        header: FITS cards that hold for maps of its lines: coordinates on the sky, what was observed and by whom. None
            for other files.
        redshifts: None; maps of confused lines have no redshift.
    """

    path: pathlib.Path
    maps: np.ndarray
    single: bool
    simulation: np.ndarray
    cell_size: float | None = None
    header: object = None
    redshifts: None = None

    @functools.cached_property
    def unusable_pixels(self) -> np.ndarray:
        """Pixels of each map that are not finite, ``(n_maps,)``."""
        return self._seen[0]

    @functools.cached_property
    def means(self) -> np.ndarray:
        """Mean of each map, ``(n_maps,)`` float64."""
        return self._seen[1]

    @functools.cached_property
    def _seen(self):
        count, height, width = self.maps.shape
        unusable, means = np.zeros(count, np.int64), np.zeros(count)
        for rows in _slices(count, max(1, _PIXELS // (height * width))):
            maps = self.maps[rows]
            unusable[rows] = np.count_nonzero(~np.isfinite(maps), axis=(1, 2))
            with np.errstate(invalid="ignore"):
                means[rows] = maps.mean(axis=(1, 2), dtype=np.float64)
        return unusable, means


class _MapsOfFile:
    """Maps that are read from a file when they are asked for.

    Args:
        shape: ``(n_maps, height, width)``.
        read: Slice of maps -> float32 array of them.
    """

    def __init__(self, shape, read):
        self.shape = tuple(shape)
        self._read = read

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        return self._read(rows)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[: len(self)], dtype)


def separate_maps(model, data, out, field: str | None = None, batch_size: int = 16) -> dict[str, str]:
    """Separate observed intensity maps into one map per line with a SavedModel, and write them with their residual.

    ``out`` holds one array per output of the model, such as ``halpha``, ``oiii`` and ``residual`` (what the lines leave
    of the observed map), those of an ensemble also ``<line>_disagreement``; shaped as the observed maps, with units and
    what is known of the model. A database (.h5) is in the layout of `keras_cosmo.data.database` with the task
    ``"separated"``; an image (.fits) has one extension per array and keeps the coordinates on the sky of an observed
    image, without its axes of frequency or polarisation; .npz has the arrays, and ``units`` and ``model`` as JSON. It
    is written aside and renamed, so that it is complete or absent. A warning is logged where pixels or the mean
    intensity are not those of the training maps, as far as the model says what these were. Maps are read, separated
    and written batch by batch, so that there may be more of them than the memory holds; images in .fits.gz and outputs
    in .npz are kept in temporary files meanwhile.

    Args:
        model: SavedModel version folder, or the folder of its versions.
        data: Observed maps: a database, an array ``(height, width)`` or ``(n_maps, height, width)`` in .npy, or a FITS
            image of this shape, which is converted if ``BUNIT`` is another unit of intensity.
        out: File to write, .h5, .fits or .npz.
        field: Field of a database. Defaults to ``intensity``, ``observed``, or the only one there is.
        batch_size: Maps per call.

    Returns:
        Output name -> unit.

    Raises:
        FileNotFoundError: If model or data are missing, or the folder to write to.
        ValueError: If maps have another shape or unit than the model takes, are not finite, or have no light in all; if
            the model is no separation, ``out`` has another ending, the batch size is not positive, or files are
            damaged.
        OSError: If the file cannot be written.
    """
    data, out = pathlib.Path(data), pathlib.Path(out)
    _check_out(out, data)
    observed = read_observed(data, field)
    check_light(observed)
    # Only now: it imports TensorFlow, which takes seconds.
    from keras_cosmo.inference.predictions import warn_of_other_geometry
    from keras_cosmo.inference.saved_model_predictor import SavedModelPredictor, check_batch_size

    check_batch_size(batch_size)
    predictor = SavedModelPredictor(model)
    name = _check_model(predictor, observed)
    warn_of_other_geometry(predictor, observed)
    warn_of_brightness(predictor, observed)
    logger.info("Separating %d maps of %s with %s.", len(observed.maps), data, predictor.folder)
    units = {key: predictor.units.get(key, INTENSITY_UNIT) for key in predictor.output_names}
    sides = {
        key: tuple(want or have for want, have in zip(predictor.outputs[key][1:], observed.maps.shape[1:], strict=True))
        for key in units
    }
    with written_aside(out, "run the same again") as aside:
        aside.unlink(missing_ok=True)
        writer = {".fits": _fits_writer, ".npz": _npz_writer}.get(out.suffix, _database_writer)
        with writer(aside, observed, sides, units, _facts(predictor, observed)) as write:
            for rows in _slices(len(observed.maps), batch_size):
                write(rows, predictor.predict(batch_size=batch_size, **{name: observed.maps[rows]}))
    return units


def read_observed(path, field: str | None = None) -> ObservedMaps:
    """Observed maps of a database, a .npy array or a FITS image; see `separate_maps`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, holds no maps, or they are in another unit.
    """
    path = pathlib.Path(path)
    if path.suffix == ".npy" or path.name.endswith(FITS_ENDINGS):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file. Give your observed maps.")
        if field is not None:
            raise ValueError(f"{path}: field names one of a database; here there is none. Leave it out.")
        return _read_numpy(path) if path.suffix == ".npy" else _read_fits(path)
    database = Database(path)
    if field is None:
        usual = [name for name in USUAL_FIELDS if name in database.fields] or list(database.fields)
        if usual[0] not in USUAL_FIELDS and len(usual) > 1:
            raise ValueError(
                f"{path}: expected a field {' or '.join(USUAL_FIELDS)}, got {', '.join(database.fields)}. To say which "
                "one holds the observed maps, give field."
            )
        field = usual[0]
    database.require(fields=(field,))
    unit = database.fields[field].unit
    if unit != INTENSITY_UNIT:
        raise ValueError(
            f"{path}: expected {field} in {INTENSITY_UNIT}, got {unit!r}. Convert the maps and correct the attribute "
            "`units`."
        )
    in_arcmin = database.attributes.get("cell_size_units") == "arcmin"
    maps = database.stored(field)
    _check_maps(path, maps.shape, maps.dtype)
    return ObservedMaps(path, maps, False, database.simulation, database.cell_size if in_arcmin else None)


def check_light(observed: ObservedMaps) -> None:
    """Raise ``ValueError`` for maps that are not finite, or that have no light in all."""
    bad = np.flatnonzero(observed.unusable_pixels)
    if len(bad):
        raise ValueError(
            f"{observed.path}: {observed.unusable_pixels.sum()} pixels in {len(bad)} of {len(observed.maps)} maps are "
            f"not finite, the first in map {bad[0]}. A network has no place for gaps: cut them off, or fill them first."
        )
    dark = np.flatnonzero(~(observed.means > 0.0))
    if len(dark):
        raise ValueError(
            f"{observed.path}: the total of {len(dark)} of {len(observed.maps)} maps is not positive, the first of map "
            f"{dark[0]}, whose mean is {observed.means[dark[0]]:.3g} {INTENSITY_UNIT}. The mean belongs to the signal: "
            "add it again if it was subtracted, and leave empty maps out."
        )


def warn_of_brightness(predictor, observed: ObservedMaps) -> None:
    """Log a warning for mean intensities beyond any model of the lines, or beyond the maps of the training."""
    means = observed.means
    found = f"{means.min():.3g}" if len(means) == 1 else f"{means.min():.3g} to {means.max():.3g}"
    lines = predictor.facts.get("preset", {}).get("lines", ["halpha", "oiii"])
    low, high = PLAUSIBLE_MEAN[0], len(lines) * PLAUSIBLE_MEAN[1]
    if means.min() < low or means.max() > high:
        logger.warning(
            "%s: the mean intensity of the maps is %s %s; models give %g to %g. Is the unit right?",
            observed.path, found, INTENSITY_UNIT, low, high,
        )  # fmt: skip
        return
    known = predictor.facts.get("normalization", {}).get("observed_mean_range")
    if known is None:
        return
    low, high = known
    outside = np.count_nonzero((means < low) | (means > high))
    if outside:
        logger.warning(
            "%s: the mean intensity of %d of %d maps (%s) is outside that of the training maps, %.3g to %.3g %s: the "
            "lines may be separated wrongly. Train on maps as bright as these, or with --amplitude-scatter.",
            observed.path, outside, len(means), found, low, high, INTENSITY_UNIT,
        )  # fmt: skip


def _slices(count, length):
    """Slices of so many maps each."""
    return [slice(start, min(start + length, count)) for start in range(0, count, length)]


def _check_out(out, data):
    if out.suffix not in OUTPUTS:
        raise ValueError(f"{out}: expected a file to write that ends in {', '.join(OUTPUTS)}. Give such a name.")
    if out.is_dir():
        raise ValueError(f"{out}: expected a file to write, got a folder. Give a file name, such as {out}/lines.h5.")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out}: the folder {out.parent} does not exist. Make it first.")
    if out.exists() and data.exists() and out.samefile(data):
        raise ValueError(f"{out}: these are the observed maps, which would be overwritten. Give another file to write.")


def _check_model(predictor, observed) -> str:
    """Name of the input; ``ValueError`` unless the model turns maps of this shape and unit into maps."""
    task = predictor.facts.get("task", "separation")
    outputs = predictor.outputs
    if task != "separation" or len(predictor.inputs) != 1 or any(len(shape) != 3 for shape in outputs.values()):
        raise ValueError(
            f"{predictor.folder}: expected a model that separates lines, maps in and maps out, got one of task "
            f"{task!r} with {list(predictor.inputs)} in and {list(outputs)} out. apps/train_separation.py exports such."
        )
    (name, (_, *expected)), got = next(iter(predictor.inputs.items())), observed.maps.shape[1:]
    if any(want not in (None, have) for want, have in zip(expected, got, strict=True)):
        raise ValueError(
            f"{observed.path}: maps have {got[0]} x {got[1]} pixels, but {predictor.folder} takes {expected[0]} x "
            f"{expected[1]}. Cut them into such maps, or train a network on maps of this size."
        )
    unit = predictor.units.get(name, INTENSITY_UNIT)
    if unit != INTENSITY_UNIT:
        raise ValueError(f"{predictor.folder}: it takes maps in {unit!r}, expected {INTENSITY_UNIT}. Give another.")
    return name


def _check_maps(path, shape, dtype):
    """Raise ``ValueError`` unless an array of this shape and type holds maps."""
    if dtype.kind not in "fiu":
        raise ValueError(f"{path}: expected real numbers, got {dtype}. Give intensities in {INTENSITY_UNIT}.")
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(
            f"{path}: expected one map (height, width) or several (n_maps, height, width), got the shape "
            f"{tuple(shape)}."
        )


def _read_numpy(path):
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as .npy ({error}). Write it again with numpy.save.") from error
    _check_maps(path, array.shape, array.dtype)
    maps = array.reshape(-1, *array.shape[-2:])
    maps = _MapsOfFile(maps.shape, lambda rows, maps=maps: np.asarray(maps[rows], np.float32))
    return ObservedMaps(path, maps, array.ndim == 2, np.arange(len(maps)))


def _read_fits(path):
    with _images_of(path) as images:
        shapes = [(image.shape, image.header) for image in images]
        if not shapes:
            raise ValueError(
                f"{path}: expected a FITS image, got no extension with pixels. Give one with the observed map."
            )
        if len(shapes) > 1:
            logger.info("%s: of %d images the first is taken.", path, len(shapes))
        whole, header = shapes[0]
        # Axes of length 1 for frequency or polarisation are usual.
        shape = [side for side in whole[:-2] if side > 1] + list(whole[-2:])
        _check_maps(path, shape, np.dtype(np.float32))
        factor = _unit_factor(path, header)
        maps = shape if len(shape) == 3 else (1, *shape)

        def read(image, rows):
            where = [rows if side > 1 else slice(None) for side in whole[:-2]]
            part = _pixels_of(path, image, where).reshape(-1, *maps[1:])
            return (part if factor == 1.0 else part * factor).astype(np.float32)

        if path.suffix == ".gz":
            # Every slice would be looked for from the beginning on.
            kept = disk_array(maps)
            for rows in _slices(maps[0], max(1, _PIXELS // (maps[1] * maps[2]))):
                kept[rows] = read(images[0], rows)
            stored = _MapsOfFile(maps, kept.__getitem__)
        else:

            def read_again(rows):
                with _images_of(path) as images:
                    return read(images[0], rows)

            stored = _MapsOfFile(maps, read_again)
    sky = _coordinates(header)
    single = len(shape) == 2
    return ObservedMaps(path, stored, single, np.arange(maps[0]), _pixel_side(sky), _kept(header, sky))


@contextlib.contextmanager
def _images_of(path):
    """The extensions of a FITS file that have pixels, which are not read yet."""
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyUserWarning

    with contextlib.ExitStack() as stack:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="File may have been truncated", category=AstropyUserWarning)
                file = stack.enter_context(path.open("rb"))
                units = stack.enter_context(fits.open(file, memmap=False))
                images = [unit for unit in units if unit.is_image and unit.header["NAXIS"] > 0]
        except (OSError, ValueError, TypeError, AstropyUserWarning) as error:
            raise _not_fits(path, error) from error
        yield images


def _pixels_of(path, image, where):
    """A part of an extension."""
    try:
        return image.section[(*where, slice(None), slice(None))]
    except (OSError, ValueError, TypeError) as error:
        raise _not_fits(path, error) from error


def _not_fits(path, error):
    return ValueError(f"{path}: cannot be read as FITS ({error}). Copy it again.")


def _unit_factor(path, header):
    """What the pixels of a FITS image are to be multiplied by."""
    from astropy import units

    said = str(header.get("BUNIT", "")).strip()
    if not said:
        logger.warning("%s: no BUNIT in the header: the map is taken to be in %s.", path, INTENSITY_UNIT)
        return 1.0
    try:
        return float(units.Unit(said).to(units.Unit(INTENSITY_UNIT)))
    except (ValueError, TypeError, units.UnitConversionError) as error:
        raise ValueError(
            f"{path}: BUNIT is {said!r}, expected a unit of the intensity of a whole band, such as "
            f"{INTENSITY_UNIT}; densities per frequency or wavelength have to be multiplied by the band. Convert the "
            "map."
        ) from error


def _coordinates(header):
    """Coordinates of the pixels on the sky, an astropy WCS of two axes, or None if the header does not say."""
    from astropy.wcs import WCS

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = WCS(header)
            # Columns and rows of the image have to be the axes on the sky.
            on_sky = whole.has_celestial and {whole.wcs.lng, whole.wcs.lat} == {0, 1}
            return whole.celestial if on_sky else None
    except Exception:  # astropy has errors of many kinds for headers; without coordinates the separation is the same.
        logger.warning("The coordinates in the header cannot be read; pixels are not compared with those of training.")
        return None


def _pixel_side(sky):
    """Side of a pixel on the sky in arcmin, or None."""
    from astropy.wcs.utils import proj_plane_pixel_scales

    # In degrees, whatever the unit of the header.
    return None if sky is None else 60.0 * float(np.mean(proj_plane_pixel_scales(sky)))


def _kept(header, sky):
    """Cards for maps of the lines."""
    from astropy.io import fits

    kept = fits.Header() if sky is None else sky.to_header(relax=True)
    kept.extend([header.cards[name] for name in KEPT_CARDS if name in header], update=True)
    return kept


def _facts(predictor, observed) -> dict:
    """What is known of the model, without its measurements."""
    facts = {key: value for key, value in predictor.facts.items() if key not in ("signatures", "metrics")}
    return {"saved_model": str(predictor.folder), "observed": observed.path.name, **facts}


@contextlib.contextmanager
def _database_writer(path, observed, sides, units, facts):
    attributes = {"model": json.dumps(facts), "description": f"{facts['observed']}, separated into lines"}
    if observed.cell_size is not None:
        attributes |= {"cell_size": observed.cell_size, "cell_size_units": "arcmin"}
    plan = DatabasePlan(
        task="separated",
        fields={name: MapField(unit=units[name], shape=shape) for name, shape in sides.items()},
        parameters=(),
        parameter_values=np.zeros((int(observed.simulation.max()) + 1, 0)),
        simulation=observed.simulation,
        attributes=attributes,
    )
    partial = partial_path(path)
    partial.unlink(missing_ok=True)
    try:
        with DatabaseWriter.create(path, plan) as writer:

            def write(rows, lines):
                for name, maps in lines.items():
                    for row, image in enumerate(maps, start=rows.start):
                        writer.write_part(name, row, 0, image)

            yield write
            for simulation in range(plan.n_simulations):
                writer.mark_finished(simulation)
            writer.finish()
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _npz_writer(path, observed, sides, units, facts):
    # Members of an archive are written one after the other.
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for name in sides}

        def write(rows, lines):
            for name, maps in lines.items():
                files[name].write(maps.astype("<f4").tobytes())

        yield write
        with zipfile.ZipFile(path, "w") as archive:
            for name, file in files.items():
                file.seek(0)
                shape = _shape_as_given(observed, sides[name])
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(member, header)
                    shutil.copyfileobj(file, member, 2**20)
            for name, said in (("units", units), ("model", facts)):
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(json.dumps(said)), allow_pickle=False)


@contextlib.contextmanager
def _fits_writer(path, observed, sides, units, facts):
    from astropy.io import fits

    first = fits.PrimaryHDU()
    first.header["OBSERVED"] = (_plain(facts["observed"]), "file of the observed maps")
    first.header["MODEL"] = (_plain(facts.get("name", pathlib.Path(facts["saved_model"]).name)), "what separated them")
    first.header.add_comment(json.dumps(facts))
    fits.HDUList([first]).writeto(path)
    begins = {}
    with path.open("r+b") as file:
        for name in sides:
            header = None if observed.header is None else observed.header.copy()
            shape = _shape_as_given(observed, sides[name])
            # Of one number, for the cards that describe it.
            image = fits.ImageHDU(np.broadcast_to(np.float32(0.0), shape), header, name=name.upper())
            image.header["BUNIT"] = units[name].replace("^", "")
            file.seek(0, 2)
            file.write(image.header.tostring().encode("ascii"))
            begins[name] = file.tell()
            file.truncate(begins[name] + -(-4 * int(np.prod(shape)) // _FITS_BLOCK) * _FITS_BLOCK)

        def write(rows, lines):
            for name, maps in lines.items():
                file.seek(begins[name] + rows.start * 4 * maps[0].size)
                file.write(maps.astype(">f4").tobytes())

        yield write


def _shape_as_given(observed, sides):
    return sides if observed.single else (len(observed.maps), *sides)


def _plain(text) -> str:
    """Text that a FITS card can hold."""
    return "".join(letter if 32 <= ord(letter) < 127 else "?" for letter in str(text))[:60]
