"""Dust from the Galactic HI velocity cube (Zhang et al. 2019).

Sections, equations and figures are those of that paper.
"""

import dataclasses
import logging

from keras_cosmo.tasks.presets import preset_field, show
from keras_cosmo.tasks.seen_simulations import check_unseen
from keras_cosmo.tasks.task import Paper, Prepared, Task

logger = logging.getLogger(__name__)

CUBE, DUST, MASK = FIELDS = ("hi_cube", "dust", "mask")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
PARTS = ("train", "validation", "test")
BLOCK_PIXELS = 2**18
# km/s; a channel of the survey is 1.29 km/s wide.
VELOCITY_TOLERANCE = 0.2
# Degrees; the plane of a wider one is far from the sphere.
WIDEST_CUTOUT = 60.0
PREPARATION = ("nside", "low_pass_ell", "low_pass_order")

PAPER = Paper(
    citation="Zhang, Chiang, Sheehy, Slosar & Wang 2019 (arXiv:1904.13265)",
    title="Predicting dust emission using galactic 21 cm data",
    bibtex=(
        "@article{Zhang2019,\n  author = {Zhang, Guangyu and Chiang, Chi-Ting and Sheehy, Chris and Slosar, An\\v{z}e "
        "and Wang, Jian},\n  title = {Predicting dust emission using galactic 21 cm data},\n  year = {2019},\n"
        "  eprint = {1904.13265},\n  archivePrefix = {arXiv}\n}"
    ),
    # Section 3: test cutouts in which the U-Net has the higher correlation.
    values={"wins/r50": 0.764, "wins/r150": 0.889},
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DustPreset:
    """Every number of the recipe, with its source; the defaults are the paper's."""

    skies: int = preset_field(1, source="there is one sky", text="skies to simulate", low=1, high=10000)
    nside: int = preset_field(1024, source="section 2", text="HEALPix nside of simulated skies", low=16, high=4096)
    dust_law: str = preset_field(
        "nonlinear",
        source="ours: a sky on which no network can be better than a linear combination",
        text="how the dust of simulated skies follows from the velocity channels",
        choices=("nonlinear", "linear"),
    )
    uncorrelated: float = preset_field(
        0.2,
        source="assumption: the embedded sky",
        text="share of the variance of the simulated dust that is independent of the HI",
        low=0.0,
        high=0.9,
    )
    fractions: tuple[float, ...] = preset_field(
        (0.6, 0.2, 0.2),
        source="ours: there is one sky in the paper",
        text="training, validation and test fractions of the skies, where there are three or more",
        low=0,
        high=1,
    )
    train_area: str = preset_field(
        "north",
        source="section 2; appendix C: east",
        text="Galactic hemisphere to train on; the opposite one is the test",
        choices=tuple(OPPOSITE),
    )
    validation_sector: float = preset_field(
        0.0,
        source="section 2 has no validation",
        text="degrees of azimuth of the training area that are kept for validation, about 90; with 0, cutouts for "
        "validation overlap those for training if there is one sky",
        low=0.0,
        high=180.0,
    )
    train_cutouts: int = preset_field(50000, source="section 2", text="training cutouts of all skies", low=8)
    test_cutouts: int = preset_field(1000, source="section 2", text="test cutouts of all skies", low=8)
    validation_cutouts: int = preset_field(
        500, source="ours: section 2 has no validation", text="validation cutouts of all skies", low=8
    )
    centres: str = preset_field(
        "fixed",
        source="section 2",
        text="training cutouts are the same in every epoch, or have new random centres and rotations in every step",
        choices=("fixed", "fresh"),
    )
    cutout_cells: int = preset_field(64, source="section 2", text="pixels along each side of a cutout", low=16)
    pixel_size: float = preset_field(
        23.4, source="section 2", text="side of a pixel of the cutouts in arcmin", low=0.1, high=300.0
    )
    interpolation: str = preset_field(
        "nearest",
        source="section 2: gnomonic projection of the HEALPix package",
        text="value of a pixel of a cutout: of the nearest HEALPix pixel, or between the four nearest",
        choices=("nearest", "bilinear"),
    )
    most_masked: float = preset_field(
        0.7, source="section 2", text="cutouts with more masked pixels than this are dropped", low=0.0, high=0.99
    )
    widths: tuple[int, ...] = preset_field(
        (64, 128, 256, 512), source="assumption: only drawn in figure 2", text="filters of the encoder's levels", low=1
    )
    bottleneck: int = preset_field(
        1024, source="assumption: only drawn in figure 2", text="filters of the lowest level", low=1
    )
    dropout: float = preset_field(0.3, source="figure 2", text="fraction dropped in every unit", low=0.0, high=0.99)
    batch_normalization_momentum: float = preset_field(
        0.99, source="assumption: Keras", text="running statistics keep this fraction per update", low=0.0, high=0.9999
    )
    correlation_weight: float = preset_field(
        30.0, source="section 2.3 and appendix B: lambda", text="weight of the correlations in the loss", low=0.0
    )
    study: tuple[float, ...] = preset_field(
        (),
        source="appendix B, figure 6: 0 to 120",
        text="values of --correlation-weight to train one network each with, and to compare",
        low=0.0,
        kind=float,
    )
    difference_units: float = preset_field(
        10.0,
        source="assumption: the unit of the dust is not stated; section 2.3 wants loss terms of similar amplitudes",
        text="the standard deviation of the dust counts as so many in the mean absolute difference of the loss",
        low=1e-6,
    )
    estimator: str = preset_field(
        "modes",
        source="section 2: individual Fourier modes first",
        text="correlation of the loss: the mean over Fourier modes, or of the power summed over a band",
        choices=("modes", "bands"),
    )
    mean_subtracted: bool = preset_field(
        False,
        source="section 2 does not say so",
        text="subtract the mean of the unmasked pixels before the correlations of the loss, so that the shape of the "
        "mask is not rewarded",
    )
    learning_rate: float = preset_field(1e-3, source="section 2.3", text="learning rate of Adam", low=1e-12, high=1.0)
    learning_rate_period: int = preset_field(
        10, source="section 2.3", text="epochs after which the learning rate falls", low=1
    )
    learning_rate_factor: float = preset_field(
        0.1, source="section 2.3", text="factor by which it falls", low=1e-6, high=1.0
    )
    batch_size: int = preset_field(64, source="section 2.3", text="cutouts per update", low=1)
    epochs: int = preset_field(40, source="section 2.3", text="passes over the training cutouts", low=1)
    weights: str = preset_field(
        "last",
        source="section 2.3 has no validation",
        text="weights that are measured: the last, or the best in the loss of the validation part",
        choices=("last", "best"),
    )
    ridge: float = preset_field(
        1e-8,
        source="ours, for channels without emission; appendix A has none",
        text="ridge of the linear combinations, in units of their mean variance",
        low=0.0,
    )


PRESETS = {
    "quick": DustPreset(
        skies=8,
        nside=128,
        train_cutouts=1600,
        test_cutouts=400,
        validation_cutouts=128,
        centres="fresh",
        fractions=(0.625, 0.125, 0.25),
        widths=(16, 32, 64, 128),
        bottleneck=256,
        dropout=0.1,
        batch_normalization_momentum=0.9,
        learning_rate_period=5,
        batch_size=32,
        epochs=12,
    ),
    "paper": DustPreset(),
}


@dataclasses.dataclass
class DustPrepared(Prepared):
    """Data made ready for training, and the cutouts of the test.

    Attributes:
        test_cutouts: `keras_cosmo.data.sky_pipeline.Cutouts`.
    """

    test_cutouts: object = None


class DustTask(Task):
    """Cutouts of the HI velocity cube -> cutouts of the dust map, with the U-Net of section 2.3."""

    name = "dust"
    title = "Dust from the Galactic HI velocity cube"
    model_name = "dust"
    presets = PRESETS
    paper = PAPER
    simulator_fields = ("skies", "nside", "dust_law", "uncorrelated")

    def check_settings(self, settings):
        """Flags that exclude each other."""
        preset = settings.preset
        multiple = 2 ** len(preset.widths)
        if preset.cutout_cells % multiple:
            raise ValueError(
                f"--cutout-cells {preset.cutout_cells}: with {len(preset.widths)} --widths cutouts must have a "
                f"multiple of {multiple} pixels on a side."
            )
        if preset.study and len(set(preset.study)) != len(preset.study):
            raise ValueError(f"--study: expected values that differ, got {show(preset.study)}.")
        width = preset.cutout_cells * preset.pixel_size / 60.0
        if width > WIDEST_CUTOUT:
            raise ValueError(
                f"--cutout-cells {preset.cutout_cells}, --pixel-size {preset.pixel_size:g}: cutouts of {width:.0f} "
                f"deg; expected at most {WIDEST_CUTOUT} deg, as they are flat."
            )
        fundamental, highest = 360.0 / width, 180.0 * 60.0 / preset.pixel_size
        if fundamental >= 100.0 or highest <= 100.0:
            raise ValueError(
                f"--cutout-cells {preset.cutout_cells}, --pixel-size {preset.pixel_size:g}: cutouts have multipoles "
                f"from {fundamental:.0f} to {highest:.0f}, but correlations are measured below and above 100."
            )
        if preset.weights == "best" and not preset.validation_sector and settings.data is None and preset.skies < 3:
            logger.warning(
                "--weights best: cutouts for validation overlap those for training. Give --validation-sector 90."
            )
        if settings.data is None and preset.nside >= 512:
            logger.warning(
                "--nside %d: a simulation takes about %.0f GB of memory for each of --simulation-workers.",
                preset.nside, 12.0 * (preset.nside / 1024.0) ** 2,
            )  # fmt: skip
        if preset.nside & (preset.nside - 1):
            raise ValueError(f"--nside: expected a power of two, got {preset.nside}.")
        if settings.data is None:
            self.areas(preset, preset.nside)

    def run(self, settings, progress=False):
        """One network, or one for each value of ``--study``."""
        from keras_cosmo.tasks.dust_study import run_study

        return run_study(self, settings, progress) if settings.preset.study else super().run(settings, progress)

    def simulator(self, preset):
        """The embedded Galactic sky."""
        from keras_cosmo.simulations.galactic import GalacticSkySimulator

        return GalacticSkySimulator(
            nside=preset.nside, linear=preset.dust_law == "linear", uncorrelated=preset.uncorrelated
        )

    def simulations(self, preset):
        """Number of skies."""
        return preset.skies

    def grid(self, preset):
        """Pixels of a cutout."""
        from keras_cosmo.gnomonic import GnomonicGrid

        return GnomonicGrid(side=preset.cutout_cells, pixel_size=preset.pixel_size)

    def areas(self, preset, nside) -> dict:
        """Where cutouts of each part are centred (section 2; appendix C).

        The guards are the paper's, or as much more as keeps training and test apart: for larger cutouts, or pixels of
        the sky so large that one of them reaches to the other side.
        """
        from keras_cosmo.data.sky_areas import (
            EAST_WEST_GUARD,
            NORTH_SOUTH_GUARD,
            east_west,
            north_south,
            smallest_guard,
        )

        needed = smallest_guard(self.grid(preset), nside, preset.interpolation)
        if preset.train_area in ("north", "south"):
            pair = dict(zip(("north", "south"), north_south(max(NORTH_SOUTH_GUARD, needed)), strict=True))
        else:
            pair = dict(zip(("east", "west"), east_west(max(EAST_WEST_GUARD, needed)), strict=True))
        train, test = pair[preset.train_area], pair[OPPOSITE[preset.train_area]]
        validation = train
        if preset.validation_sector:
            try:
                train, validation = train.divide(preset.validation_sector)
            except ValueError as error:
                raise ValueError(f"--validation-sector {preset.validation_sector:g}: {error}") from error
        return {"train": train, "validation": validation, "test": test}

    def prepare(self, preset, database, seed):
        """Split by sky and area; scales of HI and dust come from the training part."""
        from keras_cosmo.data.sky_preparation import check_sky
        from keras_cosmo.data.sky_split import split_skies

        check_sky(database)
        scan = database.scan()
        split = split_skies(
            database.n_simulations, preset.fractions, seed, preset.train_area, OPPOSITE[preset.train_area]
        )
        # The test ones too, so that a sky that has none is refused now.
        cutouts = {part: self.cutouts(preset, database, split, part, seed) for part in PARTS}
        return DustPrepared(
            database=database,
            split=split,
            training=self.pipeline(preset, database, cutouts["train"], seed, fresh=preset.centres == "fresh"),
            validation=self.pipeline(preset, database, cutouts["validation"], seed),
            normalization=self.normalization(preset, database, split),
            fingerprint=scan.fingerprint,
            test_cutouts=cutouts["test"],
        )

    def cutouts(self, preset, database, split, part, seed):
        """Random centres and rotations of the cutouts of one part."""
        from keras_cosmo.data.sky_pipeline import draw_cutouts

        return draw_cutouts(
            database,
            getattr(split, part),
            self.areas(preset, int(database.attributes["nside"]))[part],
            self.grid(preset),
            getattr(preset, f"{part}_cutouts"),
            self.seed(seed, part),
            preset.most_masked,
        )

    def seed(self, seed, part) -> int:
        """Seed of the cutouts of one part."""
        import numpy as np

        return int(np.random.SeedSequence([seed, PARTS.index(part)]).generate_state(1)[0])

    def pipeline(self, preset, database, cutouts, seed, **options):
        """Batches of cutouts, made when they are needed."""
        from keras_cosmo.data.sky_pipeline import SkyPipeline

        return SkyPipeline(
            database,
            cutouts,
            self.grid(preset),
            preset.batch_size,
            seed,
            interpolation=preset.interpolation,
            **options,
        )

    def normalization(self, preset, database, split):
        """Root mean square of each channel [K], and standard deviation of the dust, over the training area."""
        import numpy as np

        from keras_cosmo.data.sky_areas import half_sky

        nside = int(database.attributes["nside"])
        inside = half_sky(self.areas(preset, nside)["train"], nside)
        cube, dust, mask = (database.memory_map(field) for field in FIELDS)
        squares = np.zeros(cube.shape[-1])
        sums = np.zeros(3)
        for sky in split.train:
            for first in range(0, len(inside), BLOCK_PIXELS):
                block = slice(first, first + BLOCK_PIXELS)
                seen = inside[block] & (mask[sky, block] >= 0.5)
                squares += np.square(cube[sky, block][seen], dtype=np.float64).sum(axis=0)
                values = dust[sky, block][seen].astype(np.float64)
                sums += [len(values), values.sum(), np.square(values).sum()]
        count, total, total_squares = sums
        variance = total_squares / max(count, 1) - (total / max(count, 1)) ** 2
        if not variance > 0:
            raise ValueError(
                f"{database.path}: the dust does not vary over the {preset.train_area} of the training skies, so there "
                "is nothing to learn. Check the dust map and the mask."
            )
        scale = np.sqrt(squares / count)
        # A channel without emission stays without, instead of a division by zero.
        scale[scale == 0] = 1.0
        return {
            "input_scale": scale.tolist(),
            "output_scale": float(np.sqrt(variance)),
            "velocities": np.atleast_1d(database.attributes["velocities"]).tolist(),
            **{name: float(database.attributes.get(name, 0.0)) for name in PREPARATION},
        }

    def build(self, preset, database, normalization, dtype):
        """`DustUNet` for cutouts of any size."""
        from keras_cosmo.models.dust_unet import DustUNet

        channels = database.fields[CUBE].shape[-1] if database else 64
        scales = {key: normalization[key] for key in ("input_scale", "output_scale")} if normalization else {}
        return DustUNet(
            in_channels=channels,
            widths=preset.widths,
            bottleneck=preset.bottleneck,
            dropout=preset.dropout,
            batch_normalization_momentum=preset.batch_normalization_momentum,
            dtype=dtype,
            **scales,
        )

    def compile(self, preset, model, normalization):
        """Adam, and the correlations and the mean absolute difference of equation 2.3."""
        from keras_cosmo.losses import CorrelationLoss, CorrelationMetric, MaskedDifference
        from keras_cosmo.optimizers import Adam

        unit = normalization["output_scale"] / preset.difference_units if normalization else 1.0
        bands = ((None, 100.0), (100.0, 200.0))
        model.compile(
            optimizer=Adam(preset.learning_rate),
            loss=CorrelationLoss(
                preset.pixel_size,
                bands=bands,
                correlation_weight=preset.correlation_weight,
                difference_unit=unit,
                estimator=preset.estimator,
                mean_subtracted=preset.mean_subtracted,
            ),
            metrics=[
                *(
                    CorrelationMetric(preset.pixel_size, band, preset.estimator, preset.mean_subtracted)
                    for band in bands
                ),
                MaskedDifference(unit),
            ],
        )

    def callbacks(self, preset):
        """Learning rate that falls by a factor after so many epochs (section 2.3)."""
        import keras

        def rate(epoch, _):
            return preset.learning_rate * preset.learning_rate_factor ** (epoch // preset.learning_rate_period)

        return [keras.callbacks.LearningRateScheduler(rate)]

    def keeps_best(self, preset):
        """As ``--weights`` says."""
        return preset.weights == "best"

    def check_start(self, settings, start, prepared):
        """The same channels, and a network that has not seen what is tested."""
        import numpy as np

        before = start["normalization"]["velocities"]
        now = prepared.normalization["velocities"]
        if len(before) != len(now) or np.abs(np.subtract(before, now)).max() > VELOCITY_TOLERANCE:
            raise ValueError(
                f"--start-from {settings.start_from} takes {len(before)} channels from {before[0]:g} to "
                f"{before[-1]:g} km/s, {prepared.database.path} has {len(now)} from {now[0]:g} to {now[-1]:g}. Start "
                "from a run on the same channels."
            )
        differing = [
            f"{name} {start['normalization'].get(name, 0.0):g}, now {prepared.normalization[name]:g}"
            for name in PREPARATION[1:]
            if start["normalization"].get(name, 0.0) != prepared.normalization[name]
        ]
        if differing:
            logger.warning("--start-from %s was trained on skies of %s.", settings.start_from, "; ".join(differing))
        before, now = start["split"], prepared.split
        if before["train_area"] != now.train_area and not (before["by_sky"] and now.by_sky):
            raise ValueError(
                f"--start-from {settings.start_from} was trained on the {before['train_area']} of a sky, and this run "
                f"tests there; if it is the same sky, the network has seen the test. Use --train-area "
                f"{before['train_area']} as that run."
            )
        if now.by_sky:
            check_unseen(settings, start, prepared)

    def cell_size(self, preset, database):
        """Side of a pixel of the cutouts in arcmin, which is what the network knows."""
        return preset.pixel_size

    def paper_values(self, preset):
        """For the north; appendix C counts no cutouts."""
        return self.paper.values if preset.train_area == "north" else {}

    def test_pipeline(self, preset, prepared, part="test", most=None):
        """Cutouts of one part for measurement, and where they are."""
        pipelines = {"train": prepared.training, "validation": prepared.validation}
        cutouts = prepared.test_cutouts if part == "test" else pipelines[part].cutouts
        if most is not None:
            cutouts = cutouts.take(most)
        return self.pipeline(preset, prepared.database, cutouts, 0), cutouts

    def evaluate(self, preset, model, prepared, seed):
        """Correlations on unseen sky, beside the integrated intensity and linear combinations."""
        from keras_cosmo.tasks.dust_measures import evaluate

        return evaluate(self, preset, model, prepared, seed)

    def figures(self, preset, model, prepared, evaluation, history):
        """Figures 1 and 3 to 5 (7) of the paper, from this run, and more."""
        from keras_cosmo.tasks.dust_measures import draw_figures

        return draw_figures(self, preset, prepared, evaluation, history)

    def signatures(self, preset, model, prepared, evaluation):
        """``serving_default``: velocity cube [K] -> dust [uK_RJ], for cutouts of any size the network takes."""
        import tensorflow as tf

        from keras_cosmo.export.saved_model import Signature

        multiple = 2 ** len(preset.widths)
        channels = prepared.database.fields[CUBE].shape[-1]

        def predict(hi_cube):
            message = f"hi_cube: expected sides that are multiples of {multiple} pixels."
            check = tf.debugging.assert_equal(tf.shape(hi_cube)[1:3] % multiple, 0, message)
            with tf.control_dependencies([check]):
                cutouts = tf.identity(hi_cube)
            return {"dust": model(cutouts, training=False)[..., 0]}

        example = next(iter(self.test_pipeline(preset, prepared, most=1)[0].evaluation()))[0].numpy()
        return {
            "serving_default": Signature(
                function=predict,
                inputs={CUBE: tf.TensorSpec([None, None, None, channels], tf.float32)},
                units={CUBE: "K", "dust": "uK_RJ"},
                example={CUBE: example},
            )
        }
