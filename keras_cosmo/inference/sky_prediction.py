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
from keras_cosmo.files import written_aside
from keras_cosmo.gnomonic import GnomonicGrid
from keras_cosmo.sphere import nside_of

logger = logging.getLogger(__name__)

CUBE, MASK = "hi_cube", "mask"
MASKED_BELOW = 0.5
"""Pixels of a smaller weight of the mask are not used."""

FINEST_CENTRES = 64
PAPER_GRID = GnomonicGrid(side=64, pixel_size=23.4)
VELOCITY_TOLERANCE = 0.2
"""In km/s; a channel of HI4PI is 1.29 km/s wide."""

INTERPOLATIONS = ("nearest", "bilinear")
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

    Patches are centred on the pixels of a coarse HEALPix grid. Each is cut out as in the training, HI times the mask,
    and predicted; each pixel of the sky gets the values of the patches that it falls into, averaged with a window sin^2
    in both directions that vanishes at the edges, where a network sees least of the surroundings. Values between the
    pixels of a patch are those of cubic convolution (Keys 1981), which keeps scales of a few pixels where bilinear
    interpolation smooths them; beside masked pixels they are bilinear ones between the pixels that are left. Mean and
    scatter are summed up patch by patch in float64, so that beside the data, which stay in their file, 34 bytes per
    pixel of the sky are needed.

    Args:
        predict: Function from HI times mask ``(n, side, side, channels)`` float32 in K to ``(n, side, side)``.
        data: Database of the task "dust", or a mapping with ``hi_cube`` ``(n_skies, n_pixels, channels)`` in K and
            ``mask`` ``(n_skies, n_pixels)``, RING order.
        sky: Number of the sky.
        grid: Pixels of a patch: those of the training.
        centres_nside: HEALPix resolution of the grid of centres, a power of two up to 64. By default the coarsest with
            which no pixel of the sky is farther from a centre than 0.65 of the way to the edge of its patch; for the
            patches of Zhang et al. (2019) this is 8, that is 768 patches.
        rotations: Orientations in which each patch is predicted, evenly spread over 360 degrees.
        batch_size: Patches per call of ``predict``.
        interpolation: How a patch is cut out of the sky, ``"nearest"`` or ``"bilinear"``: as in the training.
        most_masked: Patches with a larger share of masked pixels are left out, since training has none.
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
    cube, mask = _sky(data, sky)
    for name, value in (("rotations", rotations), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}.")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation: expected one of {list(INTERPOLATIONS)}, got {interpolation!r}.")
    if not 0.0 <= most_masked <= 1.0:
        raise ValueError(f"most_masked: expected a share in [0, 1], got {most_masked!r}.")
    centres = _centres(grid, centres_nside)
    used = mask >= MASKED_BELOW
    blend, nside = _Blend(len(mask)), nside_of(mask)
    longitude, latitude = healpy.pix2ang(centres, np.arange(12 * centres**2), lonlat=True)
    keep = [
        np.mean(~used[grid.pixels(nside, lon, lat, 0.0)]) <= most_masked
        for lon, lat in zip(longitude, latitude, strict=True)
    ]
    if not np.any(keep):
        raise ValueError(
            f"mask: no patch has at most {most_masked:.0%} of its pixels masked. Correct it, or raise most_masked."
        )
    longitude, latitude = (np.repeat(angle[keep], rotations) for angle in (longitude, latitude))
    rotation = np.tile(np.arange(rotations) * 360.0 / rotations, np.count_nonzero(keep))
    logger.info("Predicting %d patches of %d x %d pixels.", len(rotation), grid.side, grid.side)
    for start in range(0, len(rotation), batch_size):
        where = tuple(angle[start : start + batch_size] for angle in (longitude, latitude, rotation))
        hi, shown = _cut(cube, mask, used, nside, grid, where, interpolation)
        _check_hi(hi, sky)
        patches = np.asarray(predict(hi))
        _check_patches(patches, hi.shape[:3])
        for patch, leaves, *angles in zip(patches, shown, *where, strict=True):
            pixels, x, y = _within(grid, nside, used, *angles)
            blend.add(pixels, _interpolated(patch, leaves, x, y), _weights(leaves, x, y))
        if progress is not None:
            progress(min(start + batch_size, len(rotation)), len(rotation))
    return blend.result()


def write_sky(path, prediction: SkyPrediction, unit: str = "uK_RJ", facts: Mapping[str, object] | None = None) -> None:
    """Write a predicted sky as a standard HEALPix FITS table, which healpy, Aladin and TOPCAT read.

    The columns are ``DUST``, ``SCATTER`` (same unit) and ``PATCHES``, in RING order and galactic coordinates, with
    healpy.UNSEEN in the first two where there is no prediction. It is written aside and renamed, so that it is complete
    or absent.

    Args:
        path: File to write, .fits or .fits.gz.
        prediction: Of `predict_sky`.
        unit: Of the prediction.
        facts: What to say in the header, such as model, data and sky: name -> text or number. Names of up to 8 letters
            become cards of their own, all are in a comment as JSON.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the name has another ending, or is that of a folder.
        OSError: If the file cannot be written.
    """
    path = check_fits_path(path)
    facts = dict(facts or {})
    columns = [np.where(np.isfinite(a), a, healpy.UNSEEN) for a in (prediction.mean, prediction.scatter)]
    cards = [(name.upper(), _card(value)) for name, value in facts.items() if name.isalnum() and len(name) <= 8]
    cards += [("COMMENT", line) for line in _lines(json.dumps(facts, default=str))]
    with written_aside(path, "run the same again") as aside:
        healpy.write_map(
            aside,
            [*(column.astype(np.float32) for column in columns), prediction.patches.astype(np.int32)],
            nest=False,
            dtype=[np.float32, np.float32, np.int32],
            coord="G",
            column_names=["DUST", "SCATTER", "PATCHES"],
            column_units=[unit, unit, ""],
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

    Args:
        model: SavedModel version folder, or the folder of its versions; from cubes ``(n, side, side, channels)`` to
            maps ``(n, side, side)``.
        data: Database of the task "dust".
        out: File to write, see `write_sky`.
        sky: Number of the sky.
        centres_nside: See `predict_sky`.
        rotations: See `predict_sky`.
        batch_size: See `predict_sky`.
        progress: See `predict_sky`.

    Returns:
        ``unit`` of the map, ``patches`` per pixel (median) and ``share`` of the sky that is predicted.

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
    }
    low_pass_ell = database.attributes.get("low_pass_ell")
    if low_pass_ell is not None:
        facts["lowpass"] = float(low_pass_ell)
    write_sky(out, prediction, unit, facts)
    seen = prediction.patches > 0
    return {"unit": unit, "patches": float(np.median(prediction.patches[seen])), "share": float(np.mean(seen))}


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
        seen = self.count > 0
        mean, scatter = (np.full(len(seen), np.nan, np.float32) for _ in range(2))
        mean[seen] = self.mean[seen]
        scatter[seen] = np.sqrt(self.squares[seen] / self.weight[seen])
        return SkyPrediction(mean, scatter, self.count)


def _sky(data, sky):
    """Cube ``(n_pixels, channels)``, which may be on disk, and mask ``(n_pixels,)`` of one sky."""
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
    mask = np.array(masks[sky], np.float32)
    if not np.isfinite(mask).all():
        raise ValueError(f"{source}: {MASK} of sky {sky} is not finite everywhere. Set it to 0 where pixels are bad.")
    return np.asarray(cubes[sky]), mask


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


def _cut(cube, mask, used, nside, grid, where, interpolation):
    """HI times mask ``(n, side, side, channels)``, and whether the pixels of the patches are used."""
    if interpolation == "nearest":
        pixels = grid.pixels(nside, *where)
        hi = cube[pixels].astype(np.float32, copy=False) * mask[pixels][..., None]
        return hi, used[pixels]
    neighbours, weights = grid.neighbours(nside, *where)
    hi = np.zeros((*neighbours.shape[:3], cube.shape[1]), np.float32)
    for i in range(4):
        pixels = neighbours[..., i]
        hi += (weights[..., i] * mask[pixels]).astype(np.float32)[..., None] * cube[pixels]
    return hi, np.sum(weights * used[neighbours], axis=-1) >= MASKED_BELOW


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


def _card(value):
    """A value that a FITS card can hold."""
    if isinstance(value, (bool, int, float)):
        return value
    return "".join(letter if 32 <= ord(letter) < 127 else "?" for letter in str(value))[:60]


def _lines(text, length=70):
    return [text[start : start + length] for start in range(0, len(text), length)]
