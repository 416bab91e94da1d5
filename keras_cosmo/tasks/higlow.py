"""Maps of HI and the posterior of their parameters, from a conditional flow (Friedman & Hassan 2022).

Sections, equations and figures are those of that paper.
"""

import dataclasses
import logging

from keras_cosmo.tasks.presets import preset_field, show
from keras_cosmo.tasks.task import Paper, Prepared, Task

logger = logging.getLogger(__name__)

HI, HI_UNIT = "hi", "Msun/h (Mpc/h)^-2"
MAPS_PER_SIMULATION = 15
# Training maps that the start of the injectors is measured on.
START_MAPS = 128

PAPER = Paper(
    citation="Friedman & Hassan 2022 (arXiv:2211.12724)",
    title="HIGlow: Conditional Normalizing Flows for High-Fidelity HI Map Modeling",
    bibtex=(
        "@article{Friedman2022,\n  author = {Friedman, Roy and Hassan, Sultan},\n  title = {{HIGlow}: Conditional "
        "Normalizing Flows for High-Fidelity {HI} Map Modeling},\n  year = {2022},\n  eprint = {2211.12724},\n  "
        "archivePrefix = {arXiv}\n}"
    ),
    # Section 3.2, on maps of CAMELS IllustrisTNG, whose simulations are in the training, too.
    values={"rmse/Omega_m": 0.058, "rmse/sigma_8": 0.065},
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HIGlowPreset:
    """Every number of the recipe, with its source; the defaults are the paper's."""

    simulations: int = preset_field(1000, source="section 1.1", text="simulations, 15 maps each", low=8)
    map_cells: int = preset_field(64, source="section 3", text="pixels along each side of a map", low=16, high=256)
    redshift: float = preset_field(
        5.99, source="the data file of the public code", text="redshift of the maps", low=3.0, high=10.0
    )
    fractions: tuple[float, ...] = preset_field(
        (0.8, 0.1, 0.1),
        source="ours: the public code has maps of all simulations in its training",
        text="training, validation and test fractions of the simulations",
        low=0,
        high=1,
    )
    transform: str = preset_field(
        "log10-minmax",
        source="the public code",
        text="how maps enter the flow; its Jacobian is part of all densities",
        choices=("log10-minmax", "log10-standardise", "log10-logit", "none"),
    )
    blocks: int = preset_field(6, source="section 3", text="blocks, each after a squeeze", low=1, high=10)
    steps: int = preset_field(20, source="section 3", text="flow steps in a block", low=1)
    width: int = preset_field(16, source="section 3", text="filters of hidden layers", low=1)
    final_block: bool = preset_field(
        False, source="section 3; the public code has one", text="one more block without a squeeze"
    )
    injector: str = preset_field(
        "scalar",
        source="section 2.2; the public code: convolutional",
        text="affine injector: one scale and shift, one for each channel, or a convolutional network",
        choices=("scalar", "channel", "convolutional"),
    )
    conditional_prior: bool = preset_field(
        False, source="not in the paper", text="prior of a block's latent variables depends on what goes on"
    )
    data_start: bool = preset_field(
        False,
        source="not in the paper; Kingma & Dhariwal 2018, section 3.1",
        text="start of the injectors from the first training maps",
    )
    symmetries: str = preset_field(
        "random",
        source="the public code: flips and cyclic shifts",
        text="training maps as they are, or each in a random symmetry of the square and a random cyclic shift",
        choices=("random", "none"),
    )
    learning_rate: float = preset_field(
        3e-4, source="assumption: the public code", text="learning rate of Adam", low=1e-12, high=1.0
    )
    gradient_norm: float = preset_field(
        2.0, source="assumption: the public code", text="largest norm of all gradients together", low=1e-6
    )
    schedule: str = preset_field(
        "plateau",
        source="assumption: the public code; cosine is ours",
        text="learning rate: lowered at plateaus of the validation loss, or along half a cosine over all epochs",
        choices=("plateau", "cosine"),
    )
    plateau_factor: float = preset_field(
        0.8, source="assumption: the public code", text="factor on the learning rate at a plateau", low=0.01, high=0.99
    )
    plateau_patience: int = preset_field(
        10, source="assumption: the public code", text="epochs without progress that make a plateau", low=1
    )
    smallest_learning_rate: float = preset_field(
        1e-5, source="assumption: the public code", text="smallest learning rate", low=0.0
    )
    batch_size: int = preset_field(64, source="assumption: the public code", text="maps per update", low=1)
    epochs: int = preset_field(1000, source="section 3", text="passes over the training maps", low=1)
    posterior_maps: int = preset_field(
        15,
        source="section 3.2",
        text="maps of each validation and test simulation whose posterior is measured",
        low=1,
    )
    grid_cells: int = preset_field(
        32,
        source="assumption: number of samples not stated",
        text="cells along each parameter of the posterior, of one or two parameters",
        low=4,
    )
    generated_maps: int = preset_field(
        5,
        source="section 3.1: 500 maps in all",
        text="maps generated with the parameters of each test simulation",
        low=2,
    )
    moment_epochs: int = preset_field(
        20, source="ours: a baseline", text="epochs of the moment network it is compared with; 0 leaves it out", low=0
    )


PRESETS = {
    "quick": HIGlowPreset(
        simulations=600,
        fractions=(0.7, 0.15, 0.15),
        steps=8,
        injector="channel",
        data_start=True,
        learning_rate=3e-3,
        schedule="cosine",
        batch_size=32,
        epochs=8,
        posterior_maps=2,
        grid_cells=20,
        moment_epochs=15,
    ),
    "paper": HIGlowPreset(),
}


class HIGlowTask(Task):
    """Parameters -> density and samples of HI maps; map -> posterior of the parameters (section 2.2, equation 2)."""

    name = "higlow"
    title = "HI maps and the posterior of their parameters"
    model_name = "higlow"
    presets = PRESETS
    paper = PAPER
    simulator_fields = ("simulations", "map_cells", "redshift")
    design = "latin-hypercube"
    advice = "a lower --learning-rate or --gradient-norm, with --data-start, or with another --transform"

    def check_settings(self, settings):
        """Flags that exclude each other."""
        preset = settings.preset
        if settings.data is None and preset.map_cells % 2**preset.blocks:
            raise ValueError(
                f"--map-cells {preset.map_cells}: with --blocks {preset.blocks} maps must have a multiple of "
                f"{2**preset.blocks} pixels on a side. Choose another size, or fewer --blocks."
            )
        if preset.posterior_maps > MAPS_PER_SIMULATION and settings.data is None:
            raise ValueError(f"--posterior-maps {preset.posterior_maps}: a simulation has {MAPS_PER_SIMULATION} maps.")

    def simulator(self, preset):
        """Embedded HI maps in the geometry of CAMELS."""
        from keras_cosmo.simulations.hydrogen import HydrogenMapSimulator

        return HydrogenMapSimulator(cells=preset.map_cells, redshift=preset.redshift)

    def simulations(self, preset):
        """Number of boxes."""
        return preset.simulations

    def field(self, database) -> str:
        """The field of maps: ``hi``, or the only one there is."""
        return HI if HI in database.fields else next(iter(database.fields))

    def prepare(self, preset, database, seed):
        """Split by simulation; the constants of the transform come from the training part."""
        import numpy as np

        from keras_cosmo.bijectors.map_transform import transform_constants
        from keras_cosmo.data.augmentation import augment_periodic_squares
        from keras_cosmo.data.splits import split_by_simulation

        self.check(preset, database)
        field = self.field(database)
        scan = database.scan()
        bad = int((scan.minimum[field] <= 0).sum())
        # Whatever the transform: spectra, pixels and the Gaussian field are those of the logarithm.
        if bad:
            raise ValueError(
                f"{database.path}: {bad} of {database.n_maps} maps of {field} have pixels that are zero or negative, "
                "of which no logarithm can be taken. Leave them out, or raise them (convert_camels.py --floor)."
            )
        split = split_by_simulation(database.simulation, preset.fractions, seed)
        if min(len(split.validation), len(split.test)) < 2:
            raise ValueError(
                f"{database.path}: {database.n_simulations} simulations leave {len(split.validation)} for "
                f"validation and {len(split.test)} for the test, but errors over simulations need 2 at least. "
                "Bring more simulations, or choose other --fractions."
            )
        if len(split.train) <= len(database.parameters):
            raise ValueError(
                f"{database.path}: {len(split.train)} simulations in the training cannot tell "
                f"{len(database.parameters)} parameters apart. Bring more simulations, or fewer parameters."
            )
        training = split.maps("train", database.simulation)
        augment = augment_periodic_squares if preset.symmetries == "random" else None
        constants = transform_constants(preset.transform, database.stored(field, training))
        if preset.transform == "log10-logit":
            low, high = 10.0 ** np.array(constants)
            outside = int(((scan.minimum[field] <= low) | (scan.maximum[field] >= high)).sum())
            if outside:
                raise ValueError(
                    f"{database.path}: {outside} of {database.n_maps} maps of {field} have pixels beyond all training "
                    "maps, where a flow with --transform log10-logit has no density. Choose log10-minmax or "
                    "log10-standardise."
                )
        return Prepared(
            database=database,
            split=split,
            training=self.pipeline(preset, database, training, seed, augment=augment),
            validation=self.pipeline(preset, database, split.maps("validation", database.simulation), seed),
            normalization={
                "transform": preset.transform,
                "transform_constants": list(constants),
                "parameter_low": [float(parameter.low) for parameter in database.parameters],
                "parameter_high": [float(parameter.high) for parameter in database.parameters],
                "start_maps": training[len(training) * np.arange(START_MAPS) // START_MAPS].tolist(),
            },
            fingerprint=scan.fingerprint,
        )

    def pipeline(self, preset, database, maps, seed, **options):
        """Batches of maps and of their parameters."""
        from keras_cosmo.data.pipeline import MapPipeline

        return MapPipeline(
            database, self.field(database), None, maps, min(preset.batch_size, len(maps)), seed, **options
        )

    def check(self, preset, database):
        """Everything that training, figures and export will ask of the data, before any of them begins."""
        import numpy as np

        database.require(task="higlow")
        if HI not in database.fields and len(database.fields) != 1:
            raise ValueError(
                f"{database.path}: expected the field {HI!r} or one field only, got {list(database.fields)}."
            )
        shape = database.fields[self.field(database)].shape
        for column, parameter in enumerate(database.parameters):
            values = database.targets(np.arange(database.n_maps))[:, column]
            outside = (values < parameter.low) | (values > parameter.high)
            if outside.any():
                raise ValueError(
                    f"{database.path}: {parameter.name} of {int(outside.sum())} maps lies outside of its range, "
                    f"{parameter.low:g} to {parameter.high:g}, which is the prior of all posteriors. Correct the "
                    "attributes 'low' and 'high' of /parameters, or leave these simulations out."
                )
        multiple = 2**preset.blocks
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] % multiple:
            raise ValueError(
                f"{database.path}: expected square maps with a multiple of {multiple} pixels on a side for --blocks "
                f"{preset.blocks}, got {shape}. Convert them to another --side, or choose fewer --blocks."
            )
        if not database.parameters:
            raise ValueError(f"{database.path}: maps without parameters; a conditional flow needs some.")
        if database.cell_size is None:
            raise ValueError(f"{database.path}: expected the root attribute 'cell_size', which spectra need. Add it.")
        if preset.symmetries == "random" and not database.attributes.get("periodic_across_sky", False):
            raise ValueError(
                f"{database.path}: these maps are not periodic (root attribute 'periodic_across_sky'), so they cannot "
                "be shifted cyclically. Give --symmetries none."
            )

    def build(self, preset, database, normalization, dtype):
        """`HIGlow` at the size of the maps; float32 whatever the precision of other networks."""
        from keras_cosmo.models.higlow import HIGlow

        side = database.fields[self.field(database)].shape[0] if database else preset.map_cells
        parameters = database.parameters if database else self.simulator(preset).parameters
        # Of the run that this one starts from, if its normalisation is kept: they are part of the network.
        low = normalization["parameter_low"] if normalization else [parameter.low for parameter in parameters]
        high = normalization["parameter_high"] if normalization else [parameter.high for parameter in parameters]
        return HIGlow(
            (side, side),
            tuple(parameter.name for parameter in parameters),
            low,
            high,
            transform=preset.transform,
            transform_constants=normalization["transform_constants"] if normalization else None,
            blocks=preset.blocks,
            steps=preset.steps,
            width=preset.width,
            final_block=preset.final_block,
            injector=preset.injector,
            conditional_prior=preset.conditional_prior,
        )

    def model(self, preset, database, normalization, dtype):
        """The compiled network, started from the data if asked for."""
        model = super().model(preset, database, normalization, dtype)
        if preset.data_start and normalization:
            chosen = normalization["start_maps"]
            model.start_from(database.read(self.field(database), chosen), database.targets(chosen).astype("float32"))
        return model

    def compile(self, preset, model, normalization):
        """Adam with clipped gradients; the loss is the negative log-likelihood per pixel."""
        from keras_cosmo.optimizers import Adam

        model.compile(Adam(preset.learning_rate, global_clipnorm=preset.gradient_norm))

    def callbacks(self, preset):
        """Learning rate on a plateau of the validation loss, or along a cosine; and a look at the inversion."""
        import math

        import keras

        from keras_cosmo.training.inversion_monitor import InversionMonitor

        if preset.schedule == "cosine":
            lowest, height = preset.smallest_learning_rate, preset.learning_rate - preset.smallest_learning_rate

            def rate(epoch):
                return lowest + height * (1.0 + math.cos(math.pi * epoch / preset.epochs)) / 2.0

            return [InversionMonitor(), keras.callbacks.LearningRateScheduler(rate)]
        return [
            InversionMonitor(),
            keras.callbacks.ReduceLROnPlateau(
                monitor="val_loss",
                factor=preset.plateau_factor,
                patience=preset.plateau_patience,
                min_lr=preset.smallest_learning_rate,
                min_delta=0.0,
            ),
        ]

    def check_start(self, settings, start, prepared):
        """The same transform, and a network that has not seen the test."""
        before, now = start["normalization"]["transform"], prepared.normalization["transform"]
        if before != now:
            raise ValueError(
                f"--start-from {settings.start_from} has --transform {before}, this run {now}. Choose the same."
            )
        super().check_start(settings, start, prepared)

    def normalization_of_start(self, start, own):
        """Transform and ranges of the parameters; maps to start from have the numbers of this database."""
        return {**start["normalization"], "start_maps": own["start_maps"]}

    def copy_start(self, path, model):
        """Weights of a saved flow of the same architecture."""
        from keras_cosmo.tasks.task import load_start

        weights = load_start(path).get_weights()
        shapes = [value.shape for value in weights], [tuple(weight.shape) for weight in model.weights]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"The flow of {path} has other weights than this one: start from a run with the same "
                f"{show(FLOW_FLAGS)}."
            )
        model.set_weights(weights)

    def chosen(self, preset, prepared, part):
        """Maps of one part that posteriors are measured on, their parameters and simulations."""
        import numpy as np

        database = prepared.database
        ids = prepared.split.maps(part, database.simulation)
        kept = []
        for simulation in np.unique(database.simulation[ids]):
            own = ids[database.simulation[ids] == simulation]
            count = min(preset.posterior_maps, len(own))
            kept.append(own[len(own) * np.arange(count) // count])
        kept = np.sort(np.concatenate(kept))
        return database.read(self.field(database), kept), database.targets(kept), database.simulation[kept]

    def evaluate(self, preset, model, prepared, seed):
        """Posteriors and their calibration, generated maps and their statistics, beside simpler models."""
        from keras_cosmo.tasks.higlow_measures import evaluate

        return evaluate(self, preset, model, prepared, seed)

    def figures(self, preset, model, prepared, evaluation, history):
        """Figures 2 and 3 of the paper, from this run, and the calibration."""
        from keras_cosmo.tasks.higlow_measures import draw_figures

        return draw_figures(self, preset, prepared, evaluation, history)

    def signatures(self, preset, model, prepared, evaluation):
        """``log_prob``, ``sample`` and ``posterior`` (also as ``serving_default``)."""
        from keras_cosmo.tasks.higlow_signatures import signatures

        return signatures(self, preset, model, prepared, evaluation.arrays["correction"])


FLOW_FLAGS = ("--blocks", "--steps", "--width", "--injector", "--final-block", "--conditional-prior")
