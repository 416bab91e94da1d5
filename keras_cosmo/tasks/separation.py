"""Emission lines from one confused intensity map (Moriwaki et al. 2020).

Sections, equations and figures are those of that paper.
"""

import dataclasses
import logging
import math

from keras_cosmo.simulations.emission_lines import INTENSITY_UNIT, PLAUSIBLE_MEAN
from keras_cosmo.tasks.presets import preset_field, show
from keras_cosmo.tasks.seen_simulations import check_unseen
from keras_cosmo.tasks.task import Paper, Prepared, Task

logger = logging.getLogger(__name__)

# Noise per pixel, or a continuum, of so many times the mean of all lines is taken for a mistake.
DROWNED = 100.0

PAPER = Paper(
    citation="Moriwaki, Filippova, Shirasaki & Yoshida 2020, MNRAS 496, L54 (arXiv:2002.07991)",
    title="Deep learning for intensity mapping observations: component extraction",
    bibtex=(
        "@article{Moriwaki2020,\n  author = {Moriwaki, Kana and Filippova, Nina and Shirasaki, Masato and Yoshida, "
        "Naoki},\n  title = {Deep learning for intensity mapping observations: component extraction},\n  journal = "
        "{Monthly Notices of the Royal Astronomical Society},\n  volume = {496},\n  pages = {L54},\n  year = {2020},\n"
        "  eprint = {2002.07991}\n}"
    ),
    # Section 3.1 and figure 2.
    values={
        "halpha/peaks/recall": 0.76,
        "halpha/peaks/precision": 0.74,
        "oiii/peaks/recall": 0.27,
        "oiii/peaks/precision": 0.29,
    },
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeparationPreset:
    """Every number of the recipe, with its source; the defaults are the paper's."""

    simulations: int = preset_field(
        32000,
        source="section 2.1: 300 halo catalogues in 100 projections to train, 1000 more to test",
        text="number of slabs to simulate of each line, one map each",
        low=6,
    )
    lines: tuple[str, ...] = preset_field(
        ("halpha", "oiii"), source="section 2", text="emission lines that are confused, by name"
    )
    observed_wavelength: float = preset_field(
        1.5, source="section 2", text="observed wavelength in micrometres", low=0.4, high=10.0
    )
    resolving_power: float = preset_field(
        40.0, source="section 2.1", text="spectral resolution, which sets how deep a slab is", low=2.0, high=2000.0
    )
    map_cells: int = preset_field(256, source="section 2.1", text="pixels along each side of a map", low=16, high=2048)
    map_side: float = preset_field(1.7, source="section 2.1", text="side of a map in degrees", low=0.05, high=10.0)
    beam_sigma: float = preset_field(
        1.2, source="section 2.1", text="standard deviation of the Gaussian beam in arcmin", low=0.0, high=60.0
    )
    maps: str = preset_field(
        "smoothed",
        source="section 2.1; its footnote 1 tries the other",
        text="maps after or before the beam",
        choices=("smoothed", "unsmoothed"),
    )
    fractions: tuple[float, ...] = preset_field(
        (0.9375, 0.03125, 0.03125),
        source="section 2.1: 30,000 to train, 1,000 to test; it has no validation",
        text="training, validation and test fractions of the simulations",
        low=0,
        high=1,
    )
    pairing: str = preset_field(
        "fixed",
        source="section 2.2, footnote 4: a set of training pairs; that they stay the same is an assumption",
        text="maps of different lines are added row by row, or at random within each part, which makes N^2 pairs",
        choices=("random", "fixed"),
    )
    symmetries: str = preset_field(
        "none",
        source="assumption: the paper has none",
        text="training maps as they are, or each in a random one of the 8 symmetries of the square",
        choices=("random", "none"),
    )
    amplitude_scatter: float = preset_field(
        0.0,
        source="the paper has none; section 3.2 asks for a wider variety",
        text="scatter of a random factor on each line of each training map, natural logarithm",
        low=0.0,
        high=1.0,
    )
    noise: float = preset_field(
        0.0,
        source="section 2: left to later work",
        text=f"standard deviation of white noise per pixel before the beam, {INTENSITY_UNIT}",
        low=0.0,
        high=1.0,
    )
    continuum: float = preset_field(
        0.0,
        source="section 2: left to later work",
        text=f"residual continuum, constant over a map, {INTENSITY_UNIT}",
        low=0.0,
        high=1.0,
    )
    continuum_scatter: float = preset_field(
        0.0,
        source="section 2: left to later work",
        text="its scatter from map to map, as a fraction",
        low=0.0,
        high=1.0,
    )
    depth: int = preset_field(8, source="section 2.2", text="convolutions of the encoder, each halving the map", low=2)
    width: int = preset_field(64, source="the code the paper builds on", text="filters of the first convolution", low=1)
    kernel_size: int = preset_field(5, source="section 2.2", text="side of the convolution filters in pixels", low=1)
    dropout: float = preset_field(
        0.5, source="the code the paper builds on", text="fraction dropped in the decoders", low=0.0, high=0.99
    )
    output_activation: str = preset_field(
        "tanh",
        source="the code the paper builds on",
        text="last activation of the decoders",
        choices=("tanh", "softplus", "linear"),
    )
    scale: str = preset_field(
        "brightest",
        source="assumption: not stated",
        text="what the intensity that becomes +1 in the network (the upper end of tanh) is measured by: the brightest "
        "pixel of one line in the training part, or the mean of the observed maps",
        choices=("brightest", "mean"),
    )
    scale_factor: float = preset_field(
        1.2, source="assumption: not stated", text="that intensity in units of it", low=0.01, high=1000.0
    )
    adversarial_weight: float = preset_field(
        1.0, source="equation 2", text="weight of the adversarial loss; 0 trains without discriminators", low=0.0
    )
    line_weight: float = preset_field(
        100.0, source="section 2.2: lambda_1 and lambda_2", text="weight of the L1 loss of each line", low=0.0
    )
    total_weight: float = preset_field(
        100.0, source="section 2.2: lambda_tot", text="weight of the L1 loss of the sum of the lines", low=0.0
    )
    learning_rate: float = preset_field(2e-4, source="section 2.2", text="learning rate of Adam", low=1e-12, high=1.0)
    beta_1: float = preset_field(0.5, source="section 2.2", text="beta_1 of Adam", low=0.0, high=0.9999)
    beta_2: float = preset_field(0.999, source="section 2.2", text="beta_2 of Adam", low=0.0, high=0.999999)
    batch_size: int = preset_field(4, source="section 2.2", text="maps per update", low=1)
    epochs: int = preset_field(8, source="section 2.2", text="passes over the training maps", low=1)
    weights: str = preset_field(
        "last",
        source="section 2.2 has no validation",
        text="weights that are measured: the last, or the best in the L1 losses of the validation part",
        choices=("last", "best"),
    )
    statistics_batches: int = preset_field(
        0,
        source="section 2.2, footnote 3: the running statistics of training, which is 0",
        text="training batches over which the statistics of batch normalisation are averaged anew after training; with "
        "0 they are those of the last few batches",
        low=0,
    )
    parts: int = preset_field(
        1, source="section 3.1", text="parts that the training simulations are divided into", low=1, high=100
    )
    part: int = preset_field(1, source="section 3.1", text="which of them to train on, from 1", low=1, high=100)
    ensemble: int = preset_field(
        1,
        source="section 3.1; figures 2 and 3 are of 5 networks, its numbers of peaks of 1",
        text="networks, each trained on a part of its own, and compared in one table",
        low=1,
        high=100,
    )
    l1_baseline: bool = preset_field(
        True,
        source="ours: a GAN has to be compared with the same generator without discriminators",
        text="train that one too, in the folder <out>-l1, and put it into every table",
    )
    peak_threshold: float = preset_field(
        3.0, source="section 3.1", text="height of a peak in standard deviations", low=0.0, high=100.0
    )
    peak_radius: float = preset_field(
        2.0, source="assumption: not stated", text="distance in pixels at which two peaks match", low=0.0, high=100.0
    )


PRESETS = {
    "quick": SeparationPreset(
        simulations=4000,
        map_cells=64,
        map_side=0.425,
        fractions=(0.8, 0.1, 0.1),
        pairing="random",
        symmetries="random",
        depth=6,
        width=16,
        output_activation="softplus",
        scale="mean",
        scale_factor=1.0,
        batch_size=8,
        learning_rate=5e-4,
        epochs=6,
        statistics_batches=100,
    ),
    "paper": SeparationPreset(),
}


def warn_of_additions(preset, mean: float) -> None:
    """Log a warning if noise or continuum drown lines of this total mean intensity, as in a wrong unit."""
    for flag, value in (("--noise", preset.noise), ("--continuum", preset.continuum)):
        if value > DROWNED * mean:
            logger.warning(
                "%s %g %s: the lines have a mean of %.3g in all; expected at most some %.1g. Is the unit right?",
                flag, value, INTENSITY_UNIT, mean, DROWNED * mean,
            )  # fmt: skip


class SeparationTask(Task):
    """One observed intensity map -> one map per emission line, with the conditional GAN of section 2.2."""

    name = "separation"
    title = "Emission lines from one confused intensity map"
    model_name = "separation"
    presets = PRESETS
    paper = PAPER
    simulator_fields = (
        "simulations",
        "observed_wavelength",
        "resolving_power",
        "map_cells",
        "map_side",
        "beam_sigma",
    )

    def __init__(self):
        self.companions = {}  # name in tables -> network that is measured beside the one of the run
        self.is_baseline = False

    def without_discriminators(self):
        """The task as it trains the baseline of L1 losses alone, which is exported under a name of its own."""
        baseline = type(self)()
        baseline.model_name = f"{self.model_name}_l1"
        baseline.is_baseline = True
        return baseline

    def check_settings(self, settings):
        """Flags that exclude each other."""
        preset = settings.preset
        if any("," in line for line in preset.lines):
            raise ValueError(f"--lines: expected names separated by spaces, got {show(preset.lines)}.")
        if len(set(preset.lines)) != len(preset.lines) or len(preset.lines) < 2:
            raise ValueError(f"--lines: expected two different lines at least, got {show(preset.lines)}.")
        if preset.part > preset.parts:
            raise ValueError(f"--part {preset.part}: there are {preset.parts} --parts only.")
        if preset.ensemble > 1 and preset.parts > 1:
            raise ValueError("--ensemble divides the training part itself. Leave out --parts and --part.")
        if preset.adversarial_weight + preset.line_weight + preset.total_weight <= 0:
            raise ValueError(
                "--adversarial-weight, --line-weight and --total-weight are all 0: there is nothing to learn."
            )
        if settings.data is None and preset.map_cells % 2**preset.depth:
            below, factor = preset.map_cells // 2**preset.depth * 2**preset.depth, 2**preset.depth
            nearest = f"{below} or {below + factor}" if below else f"{factor}"
            raise ValueError(
                f"--map-cells {preset.map_cells}: with --depth {preset.depth} maps must have a multiple of {factor} "
                f"pixels on a side, such as {nearest}. Choose another size, or a smaller --depth."
            )

    def run(self, settings, progress=False):
        """Train the network of L1 losses alone, then the GAN, measured on the same test maps; or an ensemble."""
        from keras_cosmo.tasks.separation_runs import run_ensemble, run_with_baseline

        return (run_ensemble if settings.preset.ensemble > 1 else run_with_baseline)(self, settings, progress)

    def paper_values(self, preset):
        """For the paper's two lines."""
        return self.paper.values if tuple(preset.lines) == ("halpha", "oiii") and preset.maps == "smoothed" else {}

    def check_start(self, settings, start, prepared):
        """The lines and their maps must be the same, and the network must not have seen the test."""
        if start["settings"]["preset"].get("ensemble", 1) > 1:
            raise ValueError(
                f"--start-from {settings.start_from} is an ensemble: start from one of its networks, such as "
                f"{settings.start_from / 'member-1'}."
            )
        keys = ("lines", "maps")
        before = {key: start["settings"]["preset"][key] for key in keys}
        now = {key: dataclasses.asdict(settings.preset)[key] for key in keys}
        if [list(before["lines"]), before["maps"]] != [list(now["lines"]), now["maps"]]:
            raise ValueError(
                f"--start-from {settings.start_from} separates {show(tuple(before['lines']))} in {before['maps']} "
                f"maps, this run {show(now['lines'])} in {now['maps']} maps. Choose the same --lines and --maps."
            )
        check_unseen(settings, start, prepared)

    def normalization_of_start(self, start, own):
        """That of the run it starts from; what is too bright or too faint is said of the new training part."""
        return {**start["normalization"], "observed_mean_range": own["observed_mean_range"]}

    def networks(self, model):
        """The generator and the discriminators."""
        return [model.generator, *model.discriminators]

    def simulator(self, preset):
        """Embedded slabs of haloes, painted with line luminosities (section 2.1)."""
        from keras_cosmo.simulations.line_intensity import LineIntensitySimulator

        return LineIntensitySimulator(
            lines=tuple(preset.lines),
            observed_wavelength=preset.observed_wavelength,
            resolving_power=preset.resolving_power,
            map_cells=preset.map_cells,
            map_side=preset.map_side,
            beam_sigma=preset.beam_sigma,
        )

    def simulations(self, preset):
        """Number of slabs of each line."""
        return preset.simulations

    def fields(self, preset) -> tuple:
        """Fields that are added and told apart."""
        suffix = "_unsmoothed" if preset.maps == "unsmoothed" else ""
        return tuple(f"intensity_{line}{suffix}" for line in preset.lines)

    def prepare(self, preset, database, seed):
        """Split by simulation; the scale of the intensities comes from the training part."""
        import numpy as np

        from keras_cosmo.data.augmentation import augment_squares
        from keras_cosmo.data.splits import split_by_simulation

        fields = self.fields(preset)
        self.check(preset, database)
        scan = database.scan()
        self.check_intensities(database, scan, fields)
        split = split_by_simulation(database.simulation, preset.fractions, seed)
        if len(split.test) < 2:
            raise ValueError(
                f"{database.path}: {database.n_simulations} simulations leave {len(split.test)} for the test, but "
                "errors over simulations need 2 at least. Bring more simulations, or choose other --fractions."
            )
        chosen = split.train[preset.part - 1 :: preset.parts]
        # Said of the first part already: an ensemble would come to the empty ones last.
        if preset.parts > len(split.train):
            raise ValueError(
                f"--parts {preset.parts} (or --ensemble): there are {len(split.train)} simulations to train on only."
            )
        training = np.flatnonzero(np.isin(database.simulation, chosen))
        means = {
            line: float(scan.mean[field][training].mean()) for line, field in zip(preset.lines, fields, strict=True)
        }
        warn_of_additions(preset, sum(means.values()))
        # Two standard deviations of what is drawn for every map.
        low, high = observed_range(preset, [scan.mean[field][training] for field in fields])
        scatter, spread = 2 * preset.amplitude_scatter, 2 * preset.continuum_scatter
        low = low * math.exp(-scatter) + preset.continuum * (1 - spread)
        high = high * math.exp(scatter) + preset.continuum * (1 + spread)
        if preset.scale == "brightest":
            unit = max(float(scan.maximum[field][training].max()) for field in fields)
        else:
            unit = sum(means.values()) + preset.continuum
        return Prepared(
            database=database,
            split=split,
            training=self.pipeline(
                preset,
                database,
                training,
                seed,
                augment=augment_squares if preset.symmetries == "random" else None,
                pairing=preset.pairing,
                amplitude_scatter=preset.amplitude_scatter,
            ),
            validation=self.pipeline(preset, database, split.maps("validation", database.simulation), seed),
            normalization={
                "scale": preset.scale_factor * unit,
                "mean_intensity": means,
                "observed_mean_range": [low, high],
            },
            fingerprint=scan.fingerprint,
        )

    def pipeline(self, preset, database, maps, seed, **options):
        """Batches of observed maps and of the lines in them."""
        from keras_cosmo.data.mixture_pipeline import MixturePipeline

        pixel = database.cell_size
        beam = float(database.attributes.get("beam_sigma", 0.0)) if preset.maps == "smoothed" else 0.0
        return MixturePipeline(
            database,
            self.fields(preset),
            maps,
            min(preset.batch_size, len(maps)),
            seed,
            noise=preset.noise,
            noise_smoothing=beam / pixel,
            background=preset.continuum,
            background_scatter=preset.continuum_scatter,
            **options,
        )

    def test_pipeline(self, preset, prepared, most=None, **options):
        """Batches of the test part (of ``most`` maps, spread over it), and its maps."""
        from keras_cosmo.data.stored_maps import evenly_spread

        maps = prepared.split.maps("test", prepared.database.simulation)
        maps = maps if most is None else evenly_spread(maps, most)
        # Evaluation noise depends on the map only, so the seed need not be that of the run.
        return self.pipeline(preset, prepared.database, maps, 0, **options), maps

    def check(self, preset, database):
        """Everything that training, figures and export will ask of the data, before any of them begins."""
        database.require(task="separation")
        there = sorted(field.removeprefix("intensity_") for field in database.fields if "unsmoothed" not in field)
        missing = [line for line in preset.lines if line not in there]
        if missing:
            raise ValueError(
                f"{database.path}: no maps of {', '.join(missing)}; there are {', '.join(there) or 'none'}. Choose "
                "among them with --lines."
            )
        fields = self.fields(preset)
        if preset.maps == "unsmoothed" and not set(fields) <= set(database.fields):
            raise ValueError(
                f"{database.path}: no unsmoothed maps. Make the database with them, or choose --maps smoothed."
            )
        for field in fields:
            if database.fields[field].unit != INTENSITY_UNIT:
                raise ValueError(
                    f"{database.path}: expected {field} in {INTENSITY_UNIT}, got {database.fields[field].unit!r}. "
                    "Convert the maps and correct the attribute `units`."
                )
        shapes = {field: database.fields[field].shape for field in fields}
        first = shapes[fields[0]]
        if len(set(shapes.values())) > 1 or len(first) != 2 or first[0] != first[1]:
            raise ValueError(
                f"{database.path}: expected square maps of one shape in all fields, got "
                f"{', '.join(f'{field} {shape}' for field, shape in shapes.items())}."
            )
        if database.cell_size is None or database.attributes.get("cell_size_units") != "arcmin":
            raise ValueError(
                f"{database.path}: expected the root attributes 'cell_size' and 'cell_size_units' = 'arcmin', the side "
                "of a pixel, which spectra and peaks need. Add them."
            )
        from keras_cosmo.models.separation_generator import check_map_shape

        try:
            check_map_shape(first, preset.depth)
        except ValueError as error:
            raise ValueError(f"{database.path}: {error} Or choose another --depth.") from error

    def check_intensities(self, database, scan, fields):
        """Raise ``ValueError`` for intensities that cannot be, warn of those that are far from any model."""
        import numpy as np

        for field in fields:
            negative = np.flatnonzero(scan.minimum[field] < 0.0)
            if len(negative):
                raise ValueError(
                    f"{database.path}: {field} is negative in {len(negative)} maps, the first one number {negative[0]} "
                    f"({scan.minimum[field][negative[0]]:.3g}). Intensities of a line are not; add noise with --noise "
                    "rather than to the maps."
                )
            dark = np.flatnonzero(scan.mean[field] == 0.0)
            if len(dark):
                raise ValueError(
                    f"{database.path}: {field} is zero everywhere in {len(dark)} maps, the first one number {dark[0]}. "
                    "Leave these maps out."
                )
            mean = float(scan.mean[field].mean())
            if not PLAUSIBLE_MEAN[0] <= mean <= PLAUSIBLE_MEAN[1]:
                logger.warning(
                    "%s: the mean of %s is %.3g %s; models give %g to %g. Is the unit right?",
                    database.path,
                    field,
                    mean,
                    INTENSITY_UNIT,
                    *PLAUSIBLE_MEAN,
                )

    def build(self, preset, database, normalization, dtype):
        """`LineSeparator` at the size of the maps."""
        import random

        from keras_cosmo.models.line_separator import LineSeparator

        side = database.fields[self.fields(preset)[0]].shape[0] if database else preset.map_cells
        # The networks of an ensemble differ in their start as well; the seed of the run decides about it, too.
        seed = None if preset.parts == 1 else [random.getrandbits(31) for _ in range(preset.part)][-1]
        return LineSeparator(
            map_shape=(side, side),
            lines=tuple(preset.lines),
            scale=normalization["scale"] if normalization else 1.0,
            depth=preset.depth,
            width=preset.width,
            kernel_size=preset.kernel_size,
            dropout=preset.dropout,
            output_activation=preset.output_activation,
            adversarial_weight=preset.adversarial_weight,
            line_weights=preset.line_weight,
            total_weight=preset.total_weight,
            seed=seed,
            dtype=dtype,
        )

    def compile(self, preset, model, normalization):
        """Adam for the generator and for each discriminator (section 2.2)."""
        from keras_cosmo.optimizers import Adam

        model.compile(Adam(preset.learning_rate, beta_1=preset.beta_1, beta_2=preset.beta_2))

    def callbacks(self, preset):
        """None: the learning rate is constant."""
        return []

    def finalize(self, preset, model, prepared):
        """Statistics of batch normalisation, over ``--statistics-batches``."""
        from keras_cosmo.training.batch_statistics import recalibrate_batch_statistics

        if preset.statistics_batches:
            batches = prepared.training.training(0, preset.statistics_batches)
            recalibrate_batch_statistics(model.generator, (observed for observed, _ in batches))

    def served(self, model):
        """The generator: discriminators are of no use to a server."""
        return model.generator

    def keeps_best(self, preset):
        """As ``--weights`` says."""
        return preset.weights == "best"

    def evaluate(self, preset, model, prepared, seed):
        """Peaks, mean intensities, spectra and distributions on the test part, beside every baseline."""
        from keras_cosmo.tasks.separation_measures import evaluate

        return evaluate(self, preset, model, prepared)

    def figures(self, preset, model, prepared, evaluation, history):
        """Figures 1 to 3 of the paper, and those of the tests it describes."""
        from keras_cosmo.tasks.separation_measures import figures

        return figures(self, preset, prepared, evaluation, history)

    def ensemble_signatures(self, preset, members, prepared):
        """``serving_default`` of several networks: their mean for each line, and how much they disagree."""
        import tensorflow as tf

        from keras_cosmo.export.saved_model import Signature

        one = self.signatures(preset, members[0], prepared, None)["serving_default"]
        shape = one.inputs["intensity"].shape[1:]

        def separate(intensity):
            intensity = _of_size(intensity, shape)
            separated = tf.stack([member(intensity, training=False) for member in members])
            mean = tf.reduce_mean(separated, axis=0)
            variance = tf.reduce_sum(tf.square(separated - mean), axis=0) / (len(members) - 1.0)
            result = {"residual": intensity - tf.reduce_sum(mean, axis=-1)}
            for number, line in enumerate(preset.lines):
                result[line] = mean[..., number]
                result[f"{line}_disagreement"] = tf.sqrt(variance[..., number])
            return result

        units = one.units | {f"{line}_disagreement": INTENSITY_UNIT for line in preset.lines}
        return {"serving_default": Signature(function=separate, inputs=one.inputs, units=units, example=one.example)}

    def signatures(self, preset, model, prepared, evaluation):
        """``serving_default``: observed intensity -> one map per line, and what they leave of the observed one."""
        import tensorflow as tf

        from keras_cosmo.export.saved_model import Signature

        lines = tuple(preset.lines)
        shape = prepared.database.fields[self.fields(preset)[0]].shape

        def separate(intensity):
            intensity = _of_size(intensity, shape)
            separated = model(intensity, training=False)
            parts = {line: separated[..., number] for number, line in enumerate(lines)}
            return {**parts, "residual": intensity - tf.reduce_sum(separated, axis=-1)}

        pipeline = self.test_pipeline(preset, prepared)[0]
        example = next(iter(pipeline.evaluation(batch_size=1)))[0].numpy()
        return {
            "serving_default": Signature(
                function=separate,
                inputs={"intensity": tf.TensorSpec([None, *shape], tf.float32)},
                units=dict.fromkeys(("intensity", *lines, "residual"), INTENSITY_UNIT),
                example={"intensity": example},
            )
        }


def _of_size(intensity, shape):
    """The maps, in a graph that says so where they have another size; servers do not hold them to the signature."""
    import tensorflow as tf

    height, width = shape
    text = f"intensity: expected maps of {height} x {width} pixels, those of the training. Cut or simulate such; got"
    got = tf.shape(intensity)[1:]
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(tf.equal(got, list(shape))), [text, got])]):
        return tf.identity(intensity)


def observed_range(preset, means) -> tuple[float, float]:
    """Smallest and largest mean intensity of all lines together that maps of a set can have.

    Args:
        preset: Preset of the run.
        means: For each line, the mean of every map ``(n_maps,)``.
    """
    if preset.pairing == "random":
        # Any map of one line is added to any of another.
        return tuple(float(sum(function(each) for each in means)) for function in (min, max))
    total = sum(means)
    return float(total.min()), float(total.max())
