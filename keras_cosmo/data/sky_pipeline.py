"""Square cutouts of whole-sky maps: random centres and rotations, and batches that are cut when they are needed."""

import dataclasses
import logging
from collections.abc import Sequence

import healpy
import numpy as np

from keras_cosmo.data.aligned_array import aligned_empty
from keras_cosmo.data.database import Database
from keras_cosmo.data.sky_areas import SkyArea
from keras_cosmo.data.sky_masks import MASKED_BELOW, cutout_shares
from keras_cosmo.data.step_pipeline import ALL_ROWS, StepPipeline
from keras_cosmo.gnomonic import GnomonicGrid

logger = logging.getLogger(__name__)

CUBE, DUST, MASK = FIELDS = ("hi_cube", "dust", "mask")
"""Fields of a database of the task "dust"."""

INTERPOLATIONS = ("nearest", "bilinear")
"""Ways to give a pixel of a cutout its value: that of the HEALPix pixel it falls in, or between the four around it."""

MOST_MASKED = 0.7
"""Largest masked fraction of a cutout (Zhang et al. 2019, section 2: more than 70 % are discarded)."""

# Candidates come in blocks of a fixed size, so that the first n cutouts are the same whatever n is.
CANDIDATES = 256
# With fewer accepted ones than 1 in so many candidates, there is no point in going on.
ONE_IN = 100
# First words of the seeds, beside those of the other pipelines.
CENTRE_STREAM, FRESH_STREAM = 5, 6


@dataclasses.dataclass(frozen=True)
class CutoutSource:
    """Where random cutouts come from.

    Args:
        skies: Numbers of the skies, all with the same probability.
        area: Where the centres are.
        most_masked: Largest masked fraction of a cutout.
    """

    skies: tuple[int, ...]
    area: SkyArea
    most_masked: float = MOST_MASKED


@dataclasses.dataclass(frozen=True, eq=False)
class Cutouts:
    """Which sky, where and how turned: everything about cutouts but their pixels.

    Args:
        sky: Numbers of the skies, ``(n,)`` integers.
        longitude: Of the centres in degrees, ``(n,)``.
        latitude: Of the centres in degrees, ``(n,)``.
        rotation: About the centres in degrees, as `GnomonicGrid` has it, ``(n,)``.
        source: Where they were drawn from; needed to draw more. None if they were not drawn.

    Raises:
        ValueError: If the arrays are not of one length.

    Example:
        >>> cutouts = Cutouts(sky=[0, 0], longitude=[10.0, 20.0], latitude=[60.0, 70.0], rotation=[0.0, 45.0])
        >>> len(cutouts), cutouts[:1].latitude.tolist()
        (2, [60.0])
    """

    sky: np.ndarray
    longitude: np.ndarray
    latitude: np.ndarray
    rotation: np.ndarray
    source: CutoutSource | None = None

    def __post_init__(self):
        sky = np.array(self.sky)
        if sky.ndim != 1 or (sky.size and sky.dtype.kind not in "iu"):
            raise ValueError(f"sky: expected one integer per cutout, got {sky.dtype} of shape {sky.shape}.")
        object.__setattr__(self, "sky", sky.astype(np.int64))
        for name in ("longitude", "latitude", "rotation"):
            angles = np.array(getattr(self, name), np.float64)
            if angles.shape != sky.shape:
                raise ValueError(f"{name}: expected one angle per cutout, shape {sky.shape}, got {angles.shape}.")
            object.__setattr__(self, name, angles)

    def __len__(self):
        return len(self.sky)

    def __getitem__(self, places) -> "Cutouts":
        """Cutouts at places, a slice or an array of integers."""
        arrays = (getattr(self, name)[places] for name in ("sky", "longitude", "latitude", "rotation"))
        return Cutouts(*arrays, self.source)

    def take(self, most: int) -> "Cutouts":
        """The first so many, or all if there are fewer."""
        return self[:most]


def draw_cutouts(
    database: Database | np.ndarray,
    skies: Sequence[int] | np.ndarray,
    area: SkyArea,
    grid: GnomonicGrid,
    n: int,
    seed: int,
    most_masked: float = MOST_MASKED,
) -> Cutouts:
    """Random cutouts as in Zhang et al. 2019 (section 2), without those that are mostly masked.

    Skies have equal probabilities, centres are uniform on the sphere within the area and rotations uniform. Each
    candidate is a pure function of the seed and its number, so that of two sets that differ only in ``n`` the smaller
    one is the begin of the larger one.

    Args:
        database: Database of the task "dust", or its masks ``(n_skies, n_pixels)``, weights 0 to 1 in RING ordering.
        skies: Numbers of the skies to cut from.
        area: Where the centres are.
        grid: Pixels of a cutout.
        n: Number of cutouts.
        seed: Not negative.
        most_masked: Cutouts with a larger fraction of pixels of a weight below 0.5 are dropped.

    Returns:
        ``n`` cutouts.

    Raises:
        ValueError: If an argument is out of range, or (nearly) all candidates are masked.
    """
    masks = _masks(database)
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n: expected a positive number of cutouts, got {n!r}.")
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed: expected an integer >= 0, got {seed!r}.")
    if not 0.0 <= most_masked <= 1.0:
        raise ValueError(f"most_masked: expected a fraction from 0 to 1, got {most_masked!r}.")
    source = CutoutSource(tuple(int(sky) for sky in _checked_skies("skies", skies, len(masks))), area, most_masked)
    blocks = (np.random.default_rng([CENTRE_STREAM, int(seed), block]) for block in range(n * ONE_IN))
    return _draw(masks, source, grid, n, CANDIDATES, blocks)


class SkyPipeline(StepPipeline):
    """Batches of (HI, target) cutouts from whole-sky maps; the content of each step is a pure function of (seed, step).

    The skies stay in the file, mapped into memory, and cutouts are made for each batch: stored, 50,000 cutouts of 64 x
    64 pixels with 64 channels and the dust would take 53 GB. As in Zhang et al. 2019 (section 2), maps are multiplied
    by the mask. Its weights become 0 or 1 at 0.5: with the fractions of an apodised mask, the network would have to
    tell how much of the HI the mask has taken away.

    Inputs are the HI brightness temperature times the mask in K, ``(side, side, n_channels)``. Targets are
    ``(side, side, 2)``: the dust times the mask in uK_RJ, and the mask, 0 or 1. Interpolated values are means over the
    neighbours that are not masked; where these have less than half of the weight, the pixel is masked.

    Args:
        database: Database of the task "dust" with the fields ``hi_cube``, ``dust`` and ``mask``, not chunked.
        cutouts: Examples of an epoch, and of the evaluation.
        grid: Pixels of a cutout.
        batch_size: Cutouts per step; more than there are is reduced to all of them, with a logged warning.
        seed: Seed of the order and of fresh cutouts, not negative.
        interpolation: ``"nearest"`` (Zhang et al. 2019) or ``"bilinear"``.
        fresh: Whether every step of the training has new cutouts, drawn from where ``cutouts`` were, which then only
            give the number of steps in an epoch. The evaluation always has ``cutouts``.

    Raises:
        ValueError: If the database has other fields, shapes or ordering, a sky does not exist, an argument is out of
            range, or ``fresh`` is asked for cutouts that were not drawn. On reading: if a pixel is not finite.

    Example:
        >>> grid = GnomonicGrid(64, 23.4)  # doctest: +SKIP
        >>> cutouts = draw_cutouts(database, [0], north_south()[0], grid, 1000, seed=1)  # doctest: +SKIP
        >>> pipeline = SkyPipeline(database, cutouts, grid, 64, seed=1)  # doctest: +SKIP
        >>> for hi, target in pipeline.training(start_step=0, total_steps=10): ...  # doctest: +SKIP

    Deviations from Zhang et al. 2019: the last cutouts of an epoch that do not fill a batch are left out (others in
    each epoch). Weights of an apodised mask become 0 or 1; with a binary mask there is no difference.
    """

    examples = "cutouts"

    def __init__(
        self,
        database: Database,
        cutouts: Cutouts,
        grid: GnomonicGrid,
        batch_size: int,
        seed: int,
        interpolation: str = "nearest",
        fresh: bool = False,
    ):
        if len(cutouts) == 0:
            raise ValueError("cutouts: expected at least one, got none.")
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation: expected one of {list(INTERPOLATIONS)}, got {interpolation!r}.")
        if fresh and cutouts.source is None:
            raise ValueError(
                "fresh: expected cutouts of draw_cutouts, which know where to draw more from, got others. Draw them, "
                "or set fresh to False."
            )
        super().__init__(len(cutouts), batch_size, seed)
        self.nside = _check_database(database)
        _checked_skies("cutouts", np.unique(cutouts.sky), database.n_maps)
        self.database = database
        self.cutouts = cutouts
        self.grid = grid
        self.interpolation = interpolation
        self.fresh = bool(fresh)
        self.input_shape = (grid.side, grid.side, database.fields[CUBE].shape[1])
        self.target_shape = (grid.side, grid.side, 2)
        self._opened = None

    def __getstate__(self):
        # Memory maps would be pickled with all their pixels.
        return {**super().__getstate__(), "_opened": None}

    def step_cutouts(self, step: int) -> Cutouts:
        """Cutouts of one training step."""
        if not self.fresh:
            return self.cutouts[self._positions(step)]
        generator = np.random.default_rng([FRESH_STREAM, int(self.seed), int(step)])
        # Rounds of a few, so that few are drawn in vain.
        size = max(1, self.batch_size // 4)
        rounds = (generator for _ in range(self.batch_size * 10 * ONE_IN))
        return _draw(self._maps()[2], self.cutouts.source, self.grid, self.batch_size, size, rounds)

    def load(self, step: int, rows: slice = ALL_ROWS) -> tuple[np.ndarray, np.ndarray]:
        """HI ``(batch_size, side, side, n_channels)`` and targets ``(batch_size, side, side, 2)`` of one step."""
        return self._cut(self.step_cutouts(step)[rows])

    def _pairs(self, positions):
        return self._cut(self.cutouts[positions])

    def _maps(self):
        """Cube, dust and mask of all skies, mapped into memory once."""
        if self._opened is None:
            self._opened = tuple(np.asarray(self.database.memory_map(field)) for field in FIELDS)
        return self._opened

    def _cut(self, cutouts):
        cube, dust, mask = self._maps()
        where = (self.nside, cutouts.longitude, cutouts.latitude, cutouts.rotation)
        weights = [None] * len(cutouts)
        if self.interpolation == "nearest":
            pixels = self.grid.pixels(*where).reshape(len(cutouts), 1, -1)
        else:
            # (n, side, side, 4) as (n, 4, side * side).
            pixels, weights = (
                np.moveaxis(array, -1, 1).reshape(len(cutouts), 4, -1) for array in self.grid.neighbours(*where)
            )
        n_pixels, n_channels = self.grid.side**2, self.input_shape[-1]
        hi = aligned_empty((len(cutouts), n_pixels, n_channels))
        target = aligned_empty((len(cutouts), n_pixels, 2))
        target[...] = 0.0
        scratch = np.empty((n_pixels, n_channels), np.float32)
        # What overflows is found below, with a message of its own.
        with np.errstate(over="ignore", invalid="ignore"):
            for row, sky in enumerate(cutouts.sky):
                shares, target[row, :, 1] = cutout_shares(mask[sky], pixels[row], weights[row])
                for number, (taken, share) in enumerate(zip(pixels[row], shares, strict=True)):
                    spectra = scratch if number else hi[row]
                    _gather(cube[sky], taken, spectra)
                    spectra *= share[:, None]
                    if number:
                        hi[row] += spectra
                    target[row, :, 0] += share * dust[sky].take(taken)
                # A sum is not finite if any value is not, and much cheaper than isfinite. What became 0 or 1 no longer
                # shows whether the weights of the mask are finite.
                if not np.isfinite(hi[row].sum() + target[row].sum() + mask[sky].take(pixels[row]).sum()):
                    self._check_finite(hi[row], target[row], sky, pixels[row])
        side = self.grid.side
        return hi.reshape(-1, side, side, n_channels), target.reshape(-1, side, side, 2)

    def _check_finite(self, hi, target, sky, pixels):
        """Raise ValueError if a value is not finite; the sum of huge values may overflow without it."""
        for name, maps in zip(FIELDS, self._maps(), strict=True):
            values = maps[sky][pixels.ravel()].reshape(pixels.size, -1)
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(bad):
                raise ValueError(
                    f"{self.database.path}: /maps/{name}: sky {sky} is not finite at pixel {pixels.ravel()[bad[0]]} "
                    f"({len(bad)} such pixels in one cutout). Bad pixels must be 0 in all fields; make it again."
                )
        if not (np.isfinite(hi).all() and np.isfinite(target).all()):
            raise ValueError(f"{self.database.path}: values of sky {sky} are too large for float32. Correct the units.")


def _draw(masks, source, grid, n, size, generators) -> Cutouts:
    """The first ``n`` cutouts that are not masked, out of blocks of candidates of one generator after the other."""
    nside = healpy.npix2nside(masks.shape[1])
    skies = np.array(source.skies)
    accepted, count, tried = [], 0, 0
    for generator in generators:
        sky = skies[generator.integers(len(skies), size=size)]
        longitude, latitude = source.area.draw(size, generator)
        rotation = generator.uniform(0.0, 360.0, size)
        pixels = grid.pixels(nside, longitude, latitude, rotation).reshape(size, -1)
        weights = (masks[one].take(taken) for one, taken in zip(sky, pixels, strict=True))
        masked = np.array([(weight < MASKED_BELOW).mean() for weight in weights])
        keep = masked <= source.most_masked
        accepted.append([array[keep] for array in (sky, longitude, latitude, rotation)])
        count, tried = count + int(keep.sum()), tried + size
        if count >= n:
            logger.debug("%d of %d cutouts were masked.", tried - count, tried)
            return Cutouts(*(np.concatenate(arrays)[:n] for arrays in zip(*accepted, strict=True)), source)
        if tried > 10 * ONE_IN and count * ONE_IN < tried:
            break
    raise ValueError(
        f"mask: only {count} of {tried} random cutouts in {source.area} have at most {source.most_masked:.0%} of their "
        f"pixels masked. Choose another area, correct the mask, or raise most_masked."
    )


def _gather(spectra, pixels, out):
    """Rows of ``spectra`` into float32 ``out``."""
    if spectra.dtype == out.dtype:
        # "clip" only because "raise" goes through a buffer; the pixels exist.
        spectra.take(pixels, axis=0, out=out, mode="clip")
    else:
        out[...] = spectra.take(pixels, axis=0)


def _masks(database):
    if isinstance(database, Database):
        _check_database(database)
        return np.asarray(database.memory_map(MASK))
    masks = np.asarray(database)
    if masks.ndim != 2 or not healpy.isnpixok(masks.shape[1]):
        raise ValueError(f"masks: expected HEALPix maps of shape (n_skies, n_pixels), got {masks.shape}.")
    return masks


def _check_database(database) -> int:
    """Nside of the maps."""
    shapes = {name: tuple(field.shape) for name, field in database.require(fields=FIELDS).fields.items()}
    n_pixels = shapes[CUBE][0]
    if len(shapes[CUBE]) != 2 or shapes[DUST] != (n_pixels,) or shapes[MASK] != (n_pixels,):
        raise ValueError(
            f"{database.path}: expected hi_cube of shape (n_pixels, n_channels), dust and mask of shape (n_pixels,), "
            f"got {shapes}. Make the database again."
        )
    ordering = database.attributes.get("ordering", "RING")
    if not healpy.isnpixok(n_pixels) or ordering != "RING":
        raise ValueError(
            f"{database.path}: expected HEALPix maps in RING ordering, got {n_pixels} pixels in {ordering} ordering. "
            f"Convert them with healpy.reorder."
        )
    return healpy.npix2nside(n_pixels)


def _checked_skies(argument, skies, n_skies) -> np.ndarray:
    skies = np.asarray(skies)
    if skies.ndim != 1 or skies.size == 0 or skies.dtype.kind not in "iu":
        raise ValueError(
            f"{argument}: expected at least one number of a sky, got {skies.dtype} of shape {skies.shape}."
        )
    if skies.min() < 0 or skies.max() >= n_skies:
        raise ValueError(f"{argument}: there are skies 0 to {n_skies - 1}, got {skies.min()} to {skies.max()}.")
    return skies
