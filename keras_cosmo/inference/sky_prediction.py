"""Whole-sky maps out of overlapping square predictions."""

import dataclasses
import json
import logging
import numbers
import pathlib
from collections.abc import Callable, Mapping

import healpy
import numpy as np
import scipy.ndimage

from keras_cosmo.data.database import Database
from keras_cosmo.data.sky_areas import east_west, half_sky, north_south
from keras_cosmo.data.sky_masks import MASKED_BELOW, cutout_shares, fractional_weights, log_fractions
from keras_cosmo.data.sky_split import FEWEST_SKIES
from keras_cosmo.files import written_aside
from keras_cosmo.gnomonic import GnomonicGrid
from keras_cosmo.sphere import nside_of

logger = logging.getLogger(__name__)

CUBE, MASK = "hi_cube", "mask"
FINEST_CENTRES = 64
PAPER_GRID = GnomonicGrid(side=64, pixel_size=23.4)
VELOCITY_TOLERANCE = 0.2
"""In km/s; a channel of HI4PI is 1.29 km/s wide."""

INTERPOLATIONS = ("nearest", "bilinear")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
LOW_PASS_TOLERANCE = 1e-6
# Share of a pixel's interpolation that has to come from pixels that are used.
_LEAST_USED = 0.1
# The window ends this many pixels outside the outermost ones, so that these still have a weight.
_MARGIN = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class SkyPrediction:
    """A map of the whole sky, HEALPix in RING order.

    Args:
        mean: Weighted mean of all patches ``(n_pixels,)`` float32; NaN where the mask hides the sky or no patch was
            predicted.
        scatter: Weighted standard deviation between patches, same shape and unit: how much the prediction depends on
            what is around; 0 where there is one patch, NaN where there is none.
        patches: Number of patches ``(n_pixels,)`` int32, 0 where there is no prediction.
    """

    mean: np.ndarray
    scatter: np.ndarray
    patches: np.ndarray

    @property
    def nside(self) -> int:
        """HEALPix resolution."""
        return nside_of(self.mean)


def predict_sky(
    predict: Callable[[np.ndarray], np.ndarray],
    data: Database | Mapping[str, np.ndarray],
    sky: int,
    grid: GnomonicGrid,
    *,
    centres_nside: int | None = None,
    rotations: int = 1,
    batch_size: int = 16,
    interpolation: str = "nearest",
    most_masked: float = 0.7,
    progress: Callable[[int, int], None] | None = None,
) -> SkyPrediction:
    """Predict overlapping square patches all over the sky and blend them into one HEALPix map.

    Patches are centred on the pixels of a coarse HEALPix grid. Each is cut out as in the training, HI times a mask of 0
    and 1 (`keras_cosmo.data.sky_masks`), and predicted; each pixel of the sky gets the values of the patches that it
    falls into, averaged with a window sin^2 in both directions that vanishes at the edges, where a network sees least
    of the surroundings. Values between the pixels of a patch are those of cubic convolution (Keys 1981), which keeps
    scales of a few pixels where bilinear interpolation smooths them; beside masked pixels they are bilinear ones
    between the pixels that are left. Mean and scatter are summed up patch by patch in float64, so that beside the
    patches and the data, which stay in their file, 40 bytes per pixel of the sky are needed.

    Args:
        predict: Function from HI times mask ``(n, side, side, channels)`` float32 in K to ``(n, side, side)``.
        data: Database of the task "dust", or a mapping with ``hi_cube`` ``(n_skies, n_pixels, channels)`` in K and
            ``mask`` ``(n_skies, n_pixels)``, RING order. Weights of the mask become 0 or 1 at 0.5, so that the map is
            the dust itself up to the edge of the mask.
        sky: Number of the sky.
        grid: Pixels of a patch: those of the training.
        centres_nside: HEALPix resolution of the grid of centres, a power of two up to 64. By default the coarsest with
            which no pixel of the sky is farther from a centre than 0.65 of the way to the edge of its patch; for the
            patches of Zhang et al. (2019) this is 8, that is 768 patches.
        rotations: Orientations in which each patch is predicted, evenly spread over 360 degrees.
        batch_size: Patches per call of ``predict``.
        interpolation: How a patch is cut out of the sky, ``"nearest"`` or ``"bilinear"``: as in the training.
        most_masked: Patches with a larger share of masked pixels, in their orientation, are left out, since training
            has none.
        progress: Called with the number of patches that are done, and of all.

    Returns:
        The map and the scatter in the unit of ``predict``, at the resolution of the data.

    Raises:
        ValueError: If the data, or what ``predict`` returns, have another shape or are not finite, a number is outside
            its range, the centres are too far apart to cover the sky, or all of it is masked.

    Example:
        >>> sky = {"hi_cube": np.ones((1, 3072, 4), np.float32), "mask": np.ones((1, 3072), np.float32)}
        >>> result = predict_sky(lambda hi: hi.sum(axis=-1), sky, 0, GnomonicGrid(side=16, pixel_size=120.0))
        >>> result.nside, float(result.mean.min()), float(result.mean.max()), round(float(result.scatter.max()), 6)
        (16, 4.0, 4.0, 0.0)
    """
    cube, used = _sky(data, sky)
    for name, value in (("rotations", rotations), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}.")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation: expected one of {list(INTERPOLATIONS)}, got {interpolation!r}.")
    if not 0.0 <= most_masked <= 1.0:
        raise ValueError(f"most_masked: expected a share in [0, 1], got {most_masked!r}.")
    centres = _centres(grid, centres_nside)
    blend, nside = _Blend(len(used)), nside_of(used)
    longitude, latitude = healpy.pix2ang(centres, np.arange(12 * centres**2), lonlat=True)
    longitude, latitude = (np.repeat(angle, rotations) for angle in (longitude, latitude))
    rotation = np.tile(np.arange(rotations) * 360.0 / rotations, 12 * centres**2)
    keep = np.array(
        [
            np.mean(~used[grid.pixels(nside, *where)]) <= most_masked
            for where in zip(longitude, latitude, rotation, strict=True)
        ]
    )
    if not keep.any():
        raise ValueError(
            f"mask: no patch has at most {most_masked:.0%} of its pixels masked. Correct it, or raise most_masked."
        )
    longitude, latitude, rotation = longitude[keep], latitude[keep], rotation[keep]
    logger.info("Predicting %d patches of %d x %d pixels.", len(rotation), grid.side, grid.side)
    for start in range(0, len(rotation), batch_size):
        where = tuple(angle[start : start + batch_size] for angle in (longitude, latitude, rotation))
        hi, shown = _cut(cube, used, nside, grid, where, interpolation)
        _check_hi(hi, sky)
        patches = np.asarray(predict(hi))
        _check_patches(patches, hi.shape[:3])
        for patch, leaves, *angles in zip(patches, shown, *where, strict=True):
            pixels, x, y = _within(grid, nside, used, *angles)
            blend.add(pixels, _interpolated(patch, leaves, x, y), _weights(leaves, x, y))
        if progress is not None:
            progress(min(start + batch_size, len(rotation)), len(rotation))
    return blend.result()


def write_sky(
    path,
    prediction: SkyPrediction,
    unit: str = "uK_RJ",
    facts: Mapping[str, object] | None = None,
    unseen: np.ndarray | None = None,
) -> None:
    """Write a predicted sky as a standard HEALPix FITS table, which healpy, Aladin and TOPCAT read.

    The columns are ``DUST``, ``SCATTER`` (same unit) and ``PATCHES``, in RING order and galactic coordinates, with
    healpy.UNSEEN in the first two where there is no prediction, and ``UNSEEN`` if it is given. It is written aside and
    renamed, so that it is complete or absent; an existing file is replaced.

    Args:
        path: File to write, .fits or .fits.gz.
        prediction: Of `predict_sky`.
        unit: Of the prediction.
        facts: What to say in the header, such as model, data and sky: name -> text or number. Names of up to 8 letters
            become cards of their own, all are in a comment as JSON.
        unseen: Whether a pixel lies outside the half of the sky that the network was trained on, booleans
            ``(n_pixels,)``; 1 and 0 in the file.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the name has another ending, or is that of a folder, or ``unseen`` has another shape.
        OSError: If the file cannot be written.
    """
    path = check_fits_path(path)
    if unseen is not None and np.shape(unseen) != prediction.mean.shape:
        raise ValueError(f"unseen: expected one per pixel, {prediction.mean.shape}, got shape {np.shape(unseen)}.")
    facts = dict(facts or {})
    columns = [
        ("DUST", unit, _without_nan(prediction.mean)),
        ("SCATTER", unit, _without_nan(prediction.scatter)),
        ("PATCHES", "", prediction.patches.astype(np.int32)),
    ]
    if unseen is not None:
        columns.append(("UNSEEN", "", np.asarray(unseen, np.uint8)))
    names, units, values = zip(*columns, strict=True)
    cards = [(name.upper(), _card(value)) for name, value in facts.items() if name.isalnum() and len(name) <= 8]
    cards += [("COMMENT", line) for line in _lines(json.dumps(facts, default=str))]
    with written_aside(path, "run the same again") as aside:
        healpy.write_map(
            aside,
            values,
            nest=False,
            dtype=[column.dtype.type for column in values],
            coord="G",
            column_names=names,
            column_units=units,
            extra_header=cards,
            overwrite=True,
        )


def check_fits_path(path) -> pathlib.Path:
    """A path that a FITS table can be written to.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the name has another ending, or is that of a folder.
    """
    path = pathlib.Path(path)
    if not path.name.endswith((".fits", ".fits.gz")):
        raise ValueError(f"{path}: expected a file to write that ends in .fits or .fits.gz. Give such a name.")
    if path.is_dir():
        raise ValueError(f"{path}: expected a file to write, got a folder. Give a file name, such as {path}/dust.fits.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist. Make it first.")
    return path


def write_sky_prediction(
    model,
    data,
    out,
    sky: int = 0,
    centres_nside: int | None = None,
    rotations: int = 1,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, object]:
    """Predict a whole sky of a database with a SavedModel, and write it as HEALPix FITS.

    Size and interpolation of the patches are those of the training, or those of Zhang et al. (2019) for a model that
    says nothing about them.

    Where the model says which half of the sky it was trained on, the header does as well: ``TRAINED`` (north, south,
    east or west), ``SPLITBY`` (area, or sky and area) and ``TRAINSKY`` (checksum of the training data), and the column
    ``UNSEEN`` is 1 on the other side of the sky, no pixel of which is in a training cutout. A warning is logged if the
    data are those of the training, or were low-passed otherwise.

    Args:
        model: SavedModel version folder, or the folder of its versions; from cubes ``(n, side, side, channels)`` to
            maps ``(n, side, side)``.
        data: Database of the task "dust".
        out: File to write, see `write_sky`. An existing one is replaced.
        sky: Number of the sky.
        centres_nside: See `predict_sky`.
        rotations: See `predict_sky`.
        batch_size: See `predict_sky`.
        progress: See `predict_sky`.

    Returns:
        ``unit`` of the map, ``patches`` per pixel (median), ``share`` of the sky that is predicted, and what it was
        ``trained`` on, in words.

    Raises:
        FileNotFoundError: If model or data are missing, or the folder to write to.
        ValueError: If the model takes other fields or channels, ``out`` has another ending, or as `predict_sky`.
        OSError: If the file cannot be written.
    """
    out = check_fits_path(out)
    database = Database(data).require(fields=(CUBE, MASK))
    # Only now: it imports TensorFlow, which takes seconds.
    from keras_cosmo.inference.saved_model_predictor import SavedModelPredictor

    predictor = SavedModelPredictor(model)
    name = _check_model(predictor, database)
    trained = _training_of(predictor.facts)
    _compare_preparation(predictor, database)
    _warn_of_training_data(database, int(sky), trained)
    preset = predictor.facts.get("preset", {})
    side = predictor.inputs[CUBE][1] or preset.get("cutout_cells", PAPER_GRID.side)
    grid = GnomonicGrid(int(side), float(preset.get("pixel_size", PAPER_GRID.pixel_size)))
    if "pixel_size" not in preset:
        logger.warning(
            "%s does not say how large the pixels of its patches are: those of the paper are taken, %g arcmin.",
            predictor.folder, grid.pixel_size,
        )  # fmt: skip
    prediction = predict_sky(
        lambda hi: predictor.predict(batch_size=len(hi), **{CUBE: hi})[name],
        database,
        sky,
        grid,
        centres_nside=centres_nside,
        rotations=rotations,
        batch_size=batch_size,
        interpolation=preset.get("interpolation", INTERPOLATIONS[0]),
        most_masked=float(preset.get("most_masked", 0.7)),
        progress=progress,
    )
    unit = predictor.units.get(name, "uK_RJ")
    facts = {
        "model": predictor.facts.get("name", predictor.folder.parent.name),
        "version": predictor.folder.name,
        "data": database.path.name,
        "sky": int(sky),
        "side": grid.side,
        "pixsize": grid.pixel_size,
        "rotates": int(rotations),
        "content": "dust predicted from HI; SCATTER is that between patches",
        **trained,
    }
    low_pass_ell = database.attributes.get("low_pass_ell")
    if low_pass_ell is not None:
        facts["lowpass"] = float(low_pass_ell)
    write_sky(out, prediction, unit, facts, _outside(trained.get("trained"), prediction.nside))
    seen = prediction.patches > 0
    return {
        "unit": unit,
        "patches": float(np.median(prediction.patches[seen])),
        "share": float(np.mean(seen)),
        "trained": _in_words(trained),
    }


def _training_of(facts) -> dict[str, str]:
    """What a model says about the sky it was trained on, as facts for the header."""
    area, data = facts.get("preset", {}).get("train_area"), facts.get("data", {})
    found = {}
    if area in OPPOSITE:
        found["trained"] = area
    if "simulations" in data:
        found["splitby"] = "area" if data["simulations"] < FEWEST_SKIES else "sky and area"
    if "fingerprint" in data:
        found["trainsky"] = str(data["fingerprint"])
    return found


def _in_words(trained) -> str:
    if "trained" not in trained:
        return "the model does not say which part of the sky it was trained on"
    details = [f"split by {trained['splitby']}"] if "splitby" in trained else []
    details += [f"training data {trained['trainsky'][:19]}"] if "trainsky" in trained else []
    return f"trained on the {trained['trained']}" + (f" ({', '.join(details)})" if details else "")


def _outside(area, nside):
    """Pixels on the side of the sky where no training cutout reaches, or None if the area is not known."""
    if area is None:
        return None
    areas = dict(zip(OPPOSITE, (*north_south(), *east_west()), strict=True))
    return half_sky(areas[OPPOSITE[area]], nside)


def _warn_of_training_data(database, sky, trained):
    """Log a warning if the data are those of the training."""
    if "trainsky" not in trained:
        return
    logger.info("Reading %s once, to compare it with the training data.", database.path)
    if database.scan().fingerprint != trained["trainsky"]:
        return
    area = f" in the {trained['trained']}" if "trained" in trained else ""
    unless = f", unless sky {sky} was one of the test skies" if trained.get("splitby") == "sky and area" else ""
    logger.warning(
        "%s: the network was trained on these data: predictions%s are no test of it%s.", database.path, area, unless
    )


def _compare_preparation(predictor, database):
    """Log a warning if the data were low-passed in another way than those of the training."""
    trained, here = predictor.facts.get("normalization", {}), database.attributes
    both = {
        name: (float(trained[name]), float(here[name]))
        for name in ("low_pass_ell", "low_pass_order", "nside")
        if trained.get(name) is not None and here.get(name) is not None
    }
    ells, orders = both.get("low_pass_ell"), both.get("low_pass_order")
    # The order of no filter says nothing.
    if ells and (_differ(*ells) or (orders and ells[0] and _differ(*orders))):
        filters = [_filter_in_words(ell, order) for ell, order in zip(ells, orders or (None, None), strict=True)]
        logger.warning(
            "%s: the HI is %s, that of the training %s: the network knows other structure. Prepare the sky as "
            "that of the training.",
            database.path, filters[1], filters[0],
        )  # fmt: skip
    if "nside" in both and _differ(*both["nside"]):
        logger.info("%s: nside is %g, that of the training %g.", database.path, both["nside"][1], both["nside"][0])


def _differ(first, second):
    return abs(first - second) > LOW_PASS_TOLERANCE * max(abs(first), abs(second))


def _filter_in_words(ell, order):
    if not ell:
        return "not low-passed"
    return f"low-passed at multipole {ell:g}" + ("" if order is None else f" with order {order:g}")


def _check_model(predictor, database) -> str:
    """Name of the output; ``ValueError`` unless the model turns cubes of these channels into maps."""
    maps = [name for name, shape in predictor.outputs.items() if len(shape) == 3]
    if list(predictor.inputs) != [CUBE] or len(predictor.inputs[CUBE]) != 4 or len(maps) != 1:
        raise ValueError(
            f"{predictor.folder}: expected a model from {CUBE} (batch, side, side, channels) to one map, got one from "
            f"{predictor.inputs} to {predictor.outputs}. apps/train_dust.py exports such."
        )
    _, height, width, channels = predictor.inputs[CUBE]
    if height != width:
        raise ValueError(f"{predictor.folder}: expected square patches, got {height} x {width} pixels.")
    field = database.fields[CUBE]
    if channels not in (None, field.shape[-1]):
        raise ValueError(
            f"{database.path}: the cube has {field.shape[-1]} channels, but {predictor.folder} takes {channels}. "
            f"Prepare the sky with the channels of the training."
        )
    expected = predictor.units.get(CUBE, field.unit)
    if expected != field.unit:
        raise ValueError(f"{database.path}: the cube is in {field.unit!r}, but {predictor.folder} takes {expected!r}.")
    trained, here = (
        None if values is None else np.atleast_1d(np.asarray(values, float))
        for values in (
            predictor.facts.get("normalization", {}).get("velocities"),
            database.attributes.get("velocities"),
        )
    )
    known = trained is not None and here is not None
    if known and (len(trained) != len(here) or np.abs(trained - here).max() > VELOCITY_TOLERANCE):
        raise ValueError(
            f"{database.path}: the {len(here)} channels from {here[0]:g} to {here[-1]:g} km/s are not those of the "
            f"training, {len(trained)} from {trained[0]:g} to {trained[-1]:g} km/s. Prepare the sky with these."
        )
    return maps[0]


class _Blend:
    """Weighted mean and scatter of values that arrive patch by patch, without cancellation (West 1979)."""

    def __init__(self, n_pixels: int):
        self.weight, self.mean, self.squares = (np.zeros(n_pixels) for _ in range(3))
        self.count = np.zeros(n_pixels, np.int32)

    def add(self, pixels, values, weights):
        """Values of different pixels; those without weight are not counted."""
        some = weights > 0.0
        pixels, values, weights = pixels[some], values[some], weights[some]
        total = self.weight[pixels] + weights
        difference = values - self.mean[pixels]
        self.squares[pixels] += self.weight[pixels] * weights / total * difference**2
        self.mean[pixels] += weights / total * difference
        self.weight[pixels] = total
        self.count[pixels] += 1

    def result(self) -> SkyPrediction:
        """The map; the sums are used up."""
        seen = self.count > 0
        np.divide(self.squares, self.weight, out=self.squares, where=seen)
        np.sqrt(self.squares, out=self.squares)
        for values in (self.mean, self.squares):
            values[~seen] = np.nan
        return SkyPrediction(self.mean.astype(np.float32), self.squares.astype(np.float32), self.count)


def _sky(data, sky):
    """Cube ``(n_pixels, channels)``, which may be on disk, and whether the pixels of one sky are used."""
    if isinstance(data, Database):
        data.require(fields=(CUBE, MASK))
        source, ordering = str(data.path), data.attributes.get("ordering", "RING")
        if ordering != "RING":
            raise ValueError(
                f"{source}: expected maps in RING order, got {ordering}. Convert them with healpy.reorder."
            )
        cubes, masks = data.memory_map(CUBE), data.memory_map(MASK)
    else:
        source = "data"
        missing = [name for name in (CUBE, MASK) if name not in data]
        if missing:
            raise ValueError(f"data: expected {CUBE} and {MASK}, {missing} is missing; there is {list(data)}.")
        cubes, masks = (np.asarray(data[name]) for name in (CUBE, MASK))
    if cubes.ndim != 3 or masks.shape != cubes.shape[:2] or not healpy.isnpixok(masks.shape[1]):
        raise ValueError(
            f"{source}: expected {CUBE} of shape (n_skies, n_pixels, channels) and {MASK} of shape (n_skies, n_pixels) "
            f"with the pixels of a HEALPix map, got {cubes.shape} and {masks.shape}."
        )
    if isinstance(sky, bool) or not isinstance(sky, numbers.Integral) or not 0 <= sky < len(cubes):
        raise ValueError(f"{source}: there are skies 0 to {len(cubes) - 1}, got {sky!r}.")
    mask = masks[sky]
    if not np.isfinite(mask).all():
        raise ValueError(f"{source}: {MASK} of sky {sky} is not finite everywhere. Set it to 0 where pixels are bad.")
    log_fractions(source, fractional_weights(mask), mask.size)
    return np.asarray(cubes[sky]), np.asarray(mask >= MASKED_BELOW)


def _centres(grid, nside) -> int:
    """Resolution of the centres, checked, or chosen."""
    inside = float(np.degrees(np.arctan(0.5 * grid.side * np.radians(grid.pixel_size / 60.0))))
    reach = {1 << i: float(np.degrees(healpy.max_pixrad(1 << i))) for i in range(FINEST_CENTRES.bit_length())}
    if nside is None:
        fine = [n for n, distance in reach.items() if distance <= 0.65 * inside]
        if not fine:
            raise ValueError(
                f"grid: patches of {2.0 * inside:.3g} degrees are too small to cover the sky with the centres of nside "
                f"{FINEST_CENTRES}. Choose larger patches."
            )
        return fine[0]
    if isinstance(nside, bool) or not isinstance(nside, numbers.Integral) or nside not in reach:
        raise ValueError(f"centres_nside: expected a power of two from 1 to {FINEST_CENTRES}, got {nside!r}.")
    if reach[nside] >= 0.9 * inside:
        enough = next((n for n, distance in reach.items() if distance < 0.9 * inside), None)
        raise ValueError(
            f"centres_nside: with {nside}, centres are up to {reach[nside]:.3g} degrees from a pixel and patches reach "
            f"{inside:.3g} degrees from their centres, so that gaps are left. Choose at least {enough}."
        )
    return int(nside)


def _cut(cube, used, nside, grid, where, interpolation):
    """HI times mask ``(n, side, side, channels)``, and whether the pixels of the patches are used."""
    if interpolation == "nearest":
        pixels, weights = grid.pixels(nside, *where)[None], None
    else:
        pixels, weights = (np.moveaxis(array, -1, 0) for array in grid.neighbours(nside, *where))
    shares, shown = cutout_shares(used, pixels, weights)
    hi = np.zeros((*shown.shape, cube.shape[1]), np.float32)
    for taken, share in zip(pixels, shares, strict=True):
        hi += share[..., None] * cube[taken]
    return hi, shown


def _check_hi(hi, sky):
    if not np.isfinite(hi.sum()) and not np.isfinite(hi).all():
        raise ValueError(f"{CUBE}: sky {sky} is not finite everywhere. Bad pixels must be 0, also in the mask.")


def _check_patches(patches, expected):
    if patches.shape != expected:
        raise ValueError(f"predict: expected patches of shape {expected}, got {patches.shape}.")
    if not np.isfinite(patches).all():
        bad = np.count_nonzero(~np.isfinite(patches).all(axis=(1, 2)))
        raise ValueError(f"predict: {bad} of {len(patches)} patches are not finite. Is the model trained, the HI in K?")


def _within(grid, nside, used, longitude, latitude, rotation):
    """Used pixels of the sky inside a patch, and where in it they are."""
    centre = healpy.ang2vec(longitude, latitude, lonlat=True)
    reach = np.radians(min(grid.reach + 2.0 * grid.pixel_size / 60.0, 89.9))
    pixels = healpy.query_disc(nside, centre, reach)
    pixels = pixels[used[pixels]]
    vectors = np.stack(healpy.pix2vec(nside, pixels), axis=-1).reshape(-1, 3)
    x, y, front = grid.project(vectors, longitude, latitude, rotation)
    last = grid.side - 1
    inside = front & (x >= 0.0) & (y >= 0.0) & (x <= last) & (y <= last)
    return pixels[inside], x[inside], y[inside]


def _interpolated(patch, used, x, y):
    """Values of a patch between its pixels."""
    used = used.astype(np.float64)
    share = scipy.ndimage.map_coordinates(used, (y, x), order=1, mode="nearest")
    values = scipy.ndimage.map_coordinates(used * patch, (y, x), order=1, mode="nearest")
    values /= np.maximum(share, _LEAST_USED)
    if min(patch.shape) < 4:
        return values
    # Whether all 4 x 4 pixels from each one on are used.
    complete = np.lib.stride_tricks.sliding_window_view(used, (4, 4)).min(axis=(2, 3)) > 0.0
    row, column = np.floor(y).astype(int) - 1, np.floor(x).astype(int) - 1
    inside = (row >= 0) & (column >= 0) & (row < complete.shape[0]) & (column < complete.shape[1])
    inside[inside] = complete[row[inside], column[inside]]
    row, column = row[inside], column[inside]
    down, across = (_cubic(position[inside] - np.floor(position[inside])) for position in (y, x))
    cubic = np.zeros(len(row))
    for i, vertical in enumerate(down):
        line = sum(horizontal * patch[row + i, column + j] for j, horizontal in enumerate(across))
        cubic += vertical * line
    values[inside] = cubic
    return values


def _cubic(fraction):
    """Weights of the four pixels around a place in cubic convolution (Keys 1981, IEEE TASSP 29, 1153, a = -1/2)."""
    t = fraction
    return (
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t**2 + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t**2,
    )


def _weights(used, x, y):
    """Weights of a patch in the mean over patches."""
    share = scipy.ndimage.map_coordinates(used.astype(np.float64), (y, x), order=1, mode="nearest")
    window = np.prod(
        [np.sin(np.pi * (p + _MARGIN) / (n - 1 + 2.0 * _MARGIN)) ** 2 for p, n in zip((y, x), used.shape, strict=True)],
        axis=0,
    )
    return np.where(share >= _LEAST_USED, share * window, 0.0)


def _without_nan(values):
    return np.where(np.isfinite(values), values, np.float32(healpy.UNSEEN)).astype(np.float32)


def _card(value):
    """A value that a FITS card can hold."""
    if isinstance(value, (bool, int, float)):
        return value
    return "".join(letter if 32 <= ord(letter) < 127 else "?" for letter in str(value))[:60]


def _lines(text, length=70):
    return [text[start : start + length] for start in range(0, len(text), length)]
