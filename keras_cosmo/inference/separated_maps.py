"""Maps of emission lines out of observed intensity maps, by an exported separation."""

import dataclasses
import json
import logging
import pathlib
import warnings

import numpy as np

from keras_cosmo.data.database import Database, write_database
from keras_cosmo.files import written_aside
from keras_cosmo.simulations.emission_lines import INTENSITY_UNIT, PLAUSIBLE_MEAN

logger = logging.getLogger(__name__)

OUTPUTS = (".h5", ".hdf5", ".fits", ".npz")
FITS_ENDINGS = (".fits", ".fit", ".fts", ".fits.gz")
# Names that a field of observed maps goes by, without being asked for.
USUAL_FIELDS = ("intensity", "observed")
# Cards of an observed image that hold for its lines as well, beside the coordinates on the sky.
KEPT_CARDS = ("OBJECT", "TELESCOP", "INSTRUME", "OBSERVER")


@dataclasses.dataclass(frozen=True, eq=False)
class ObservedMaps:
    """Observed intensity maps, and what their file says about them.

    Args:
        path: The file.
        maps: Intensity ``(n_maps, height, width)``, float32, erg s^-1 cm^-2 sr^-1.
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


def separate_maps(model, data, out, field: str | None = None, batch_size: int = 16) -> dict[str, str]:
    """Separate observed intensity maps into one map per line with a SavedModel, and write them with their residual.

    ``out`` holds one array per output of the model, such as ``halpha``, ``oiii`` and ``residual`` (what the lines leave
    of the observed map), those of an ensemble also ``<line>_disagreement``; shaped as the observed maps, with units and
    what is known of the model. A database (.h5) is in the layout of `keras_cosmo.data.database` with the task
    ``"separated"``; an image (.fits) has one extension per array and keeps the coordinates on the sky of an observed
    image, without its axes of frequency or polarisation; .npz has the arrays, and ``units`` and ``model`` as JSON. It
    is written aside and renamed, so that it is complete or absent. A warning is logged where pixels or the mean
    intensity are not those of the training maps, as far as the model says what these were.

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
    from keras_cosmo.inference.saved_model_predictor import SavedModelPredictor

    predictor = SavedModelPredictor(model)
    name = _check_model(predictor, observed)
    warn_of_other_geometry(predictor, observed)
    warn_of_brightness(predictor, observed)
    logger.info("Separating %d maps of %s with %s.", len(observed.maps), data, predictor.folder)
    lines = predictor.predict(batch_size=batch_size, **{name: observed.maps})
    units = {key: predictor.units.get(key, INTENSITY_UNIT) for key in lines}
    with written_aside(out, "run the same again") as aside:
        aside.unlink(missing_ok=True)
        write = {".fits": _write_fits, ".npz": _write_npz}.get(out.suffix, _write_database)
        write(aside, observed, lines, units, _facts(predictor, observed))
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
    maps = _checked(path, database.read(field, range(database.n_maps)))[0]
    return ObservedMaps(path, maps, False, database.simulation, database.cell_size if in_arcmin else None)


def check_light(observed: ObservedMaps) -> None:
    """Raise ``ValueError`` for maps that are not finite, or that have no light in all."""
    finite = np.isfinite(observed.maps)
    if not finite.all():
        bad = np.flatnonzero(~finite.all(axis=(1, 2)))
        raise ValueError(
            f"{observed.path}: {np.count_nonzero(~finite)} pixels in {len(bad)} of {len(finite)} maps are not finite, "
            f"the first in map {bad[0]}. A network has no place for gaps: cut them off, or fill them first."
        )
    means = _means(observed)
    dark = np.flatnonzero(~(means > 0.0))
    if len(dark):
        raise ValueError(
            f"{observed.path}: the total of {len(dark)} of {len(means)} maps is not positive, the first of map "
            f"{dark[0]}, whose mean is {means[dark[0]]:.3g} {INTENSITY_UNIT}. The mean belongs to the signal: add it "
            "again if it was subtracted, and leave empty maps out."
        )


def warn_of_brightness(predictor, observed: ObservedMaps) -> None:
    """Log a warning for mean intensities beyond any model of the lines, or beyond the maps of the training."""
    means = _means(observed)
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


def _means(observed):
    return observed.maps.mean(axis=(1, 2), dtype=np.float64)


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


def _checked(path, array, factor=1.0):
    """Maps ``(n_maps, height, width)`` in float32, and whether there was no axis for maps."""
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: expected real numbers, got {array.dtype}. Give intensities in {INTENSITY_UNIT}.")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            f"{path}: expected one map (height, width) or several (n_maps, height, width), got the shape {array.shape}."
        )
    maps = (array if factor == 1.0 else array * factor).astype(np.float32, copy=False)
    return maps.reshape(-1, *maps.shape[-2:]), array.ndim == 2


def _read_numpy(path):
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as .npy ({error}). Write it again with numpy.save.") from error
    maps, single = _checked(path, array)
    return ObservedMaps(path, maps, single, np.arange(len(maps)))


def _read_fits(path):
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyUserWarning

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="File may have been truncated", category=AstropyUserWarning)
            with path.open("rb") as file, fits.open(file, memmap=False) as units:
                images = [(unit.data, unit.header) for unit in units if unit.is_image and unit.header["NAXIS"] > 0]
    except (OSError, ValueError, TypeError, AstropyUserWarning) as error:
        raise ValueError(f"{path}: cannot be read as FITS ({error}). Copy it again.") from error
    if not images:
        raise ValueError(
            f"{path}: expected a FITS image, got no extension with pixels. Give one with the observed map."
        )
    if len(images) > 1:
        logger.info("%s: of %d images the first is taken.", path, len(images))
    array, header = images[0]
    # Axes of length 1 for frequency or polarisation are usual.
    array = array.reshape([side for side in array.shape[:-2] if side > 1] + list(array.shape[-2:]))
    maps, single = _checked(path, array, _unit_factor(path, header))
    sky = _coordinates(header)
    return ObservedMaps(path, maps, single, np.arange(len(maps)), _pixel_side(sky), _kept(header, sky))


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


def _write_database(path, observed, lines, units, facts):
    attributes = {"model": json.dumps(facts), "description": f"{facts['observed']}, separated into lines"}
    if observed.cell_size is not None:
        attributes |= {"cell_size": observed.cell_size, "cell_size_units": "arcmin"}
    write_database(
        path,
        task="separated",
        fields={name: (maps, units[name]) for name, maps in lines.items()},
        parameters=(),
        parameter_values=np.zeros((int(observed.simulation.max()) + 1, 0)),
        simulation=observed.simulation,
        attributes=attributes,
    )


def _write_npz(path, observed, lines, units, facts):
    arrays = {name: _as_given(observed, maps) for name, maps in lines.items()}
    np.savez(path, **arrays, units=json.dumps(units), model=json.dumps(facts))


def _write_fits(path, observed, lines, units, facts):
    from astropy.io import fits

    first = fits.PrimaryHDU()
    first.header["OBSERVED"] = (_plain(facts["observed"]), "file of the observed maps")
    first.header["MODEL"] = (_plain(facts.get("name", pathlib.Path(facts["saved_model"]).name)), "what separated them")
    first.header.add_comment(json.dumps(facts))
    images = []
    for name, maps in lines.items():
        header = None if observed.header is None else observed.header.copy()
        image = fits.ImageHDU(_as_given(observed, maps), header, name=name.upper())
        image.header["BUNIT"] = units[name].replace("^", "")
        images.append(image)
    fits.HDUList([first, *images]).writeto(path)


def _as_given(observed, maps):
    return maps[0] if observed.single else maps


def _plain(text) -> str:
    """Text that a FITS card can hold."""
    return "".join(letter if 32 <= ord(letter) < 127 else "?" for letter in str(text))[:60]
