"""What the two tasks on coeval 21-cm maps share: simulations, splits, augmentation and recipe.

Both are of Villanueva-Domingo & Villaescusa-Navarro (2021); sections and tables are those of that paper.
"""

import dataclasses
import logging

from keras_cosmo.quantities import field_at_redshift, redshift_of_field
from keras_cosmo.tasks.presets import preset_field, show
from keras_cosmo.tasks.seen_simulations import check_unseen
from keras_cosmo.tasks.task import Paper, Prepared, Task

logger = logging.getLogger(__name__)

BRIGHTNESS, DENSITY = "brightness_temp", "density"
PARAMETERS = ("log10_L_X", "log10_M_min", "log10_N_gamma")

PAPER = Paper(
    citation="Villanueva-Domingo & Villaescusa-Navarro 2021, ApJ 907, 44 (arXiv:2006.14305)",
    title="Removing Astrophysics in 21 cm Maps with Neural Networks",
    bibtex=(
        "@article{VillanuevaDomingo2021,\n  author = {Villanueva-Domingo, Pablo and Villaescusa-Navarro, Francisco},\n"
        "  title = {Removing Astrophysics in 21 cm Maps with Neural Networks},\n  journal = {The Astrophysical "
        "Journal},\n  volume = {907},\n  pages = {44},\n  year = {2021},\n  eprint = {2006.14305}\n}"
    ),
    values={},
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoevalPreset:
    """Every number that both recipes share, with its source; the defaults are the paper's."""

    simulations: int = preset_field(1000, source="section III.1", text="number of boxes to simulate", low=3)
    box_cells: int = preset_field(200, source="section III.1", text="cells along each side of a box", low=16, high=200)
    cell_size: float = preset_field(1.5, source="section III.1", text="side of a cell in Mpc", low=0.5, high=10.0)
    slabs: int = preset_field(20, source="section III.1", text="maps of each box, evenly spread along it", low=1)
    slab_cells: int = preset_field(4, source="section III.1", text="cells that each map is thick", low=1)
    projection: str = preset_field(
        "mean",
        source="section III.1 says projected; the public code sums, which differs by a factor only",
        text="how the cells of a map are projected along the line of sight",
        choices=("mean", "sum"),
    )
    redshifts: tuple[float, ...] = preset_field(
        (15.0,), source="section IV", text="redshifts of the 21-cm maps; several become input channels", low=6, high=34
    )
    fractions: tuple[float, ...] = preset_field(
        (0.7, 0.15, 0.15),
        source="section III.3",
        text="training, validation and test fractions of the simulations",
        low=0,
        high=1,
    )
    split: str = preset_field(
        "simulation",
        source="assumption: the paper does not say; its public code splits copies of maps, which is the choice paper",
        text="what is split: whole simulations, or (paper, only to measure how much it flatters) copies of maps",
        choices=("simulation", "paper"),
    )
    symmetries: str = preset_field(
        "all",
        source="section III.3",
        text="training maps in all 8 symmetries of the square each epoch, in one at random, or as they are; --split "
        "paper has copies of its own",
        choices=("all", "random", "none"),
    )
    shifts: str = preset_field(
        "none",
        source="assumption: the paper has none",
        text="random periodic shifts of the training maps: never, always, or (auto) where the database says that its "
        "maps are periodic",
        choices=("none", "always", "auto"),
    )
    widths: tuple[int, ...] = preset_field(
        (64, 128, 256), source="figure 2", text="filters of each block of the encoder", low=1
    )
    kernel_size: int = preset_field(3, source="section III.2", text="side of the convolution filters in cells", low=1)
    padding: str = preset_field(
        "same",
        source="section III.2",
        text="at the edges of the maps: zeros (same), periodic, or (auto) periodic where the database says so",
        choices=("same", "periodic", "auto"),
    )
    batch_normalization_momentum: float = preset_field(
        0.9,
        source="assumption: not stated, the default of the authors' library",
        text="weight of the past in the moving averages of batch normalisation",
        low=0.0,
        high=0.9999,
    )
    learning_rate: float = preset_field(
        1e-3, source="section III.3", text="learning rate of Adam at the start", low=1e-12, high=10.0
    )
    beta_1: float = preset_field(0.5, source="section III.3", text="beta_1 of Adam", low=0.0, high=0.9999)
    beta_2: float = preset_field(0.999, source="section III.3", text="beta_2 of Adam", low=0.0, high=0.999999)
    l2: float = preset_field(
        1e-4, source="section III.3", text="L2 regularisation: added to each gradient times the weight", low=0.0, high=1
    )
    batch_size: int = preset_field(30, source="section III.3", text="maps per update", low=1)
    epochs: int = preset_field(40, source="section III.3", text="passes over the training maps", low=1)
    plateau_patience: int = preset_field(
        10, source="section III.3", text="epochs without a lower validation loss before the learning rate falls", low=1
    )
    plateau_factor: float = preset_field(
        0.1, source="section III.3", text="factor on the learning rate at a plateau", low=1e-6, high=0.999
    )


# Presets are deltas on the paper's. This one ends within minutes on two cores ...
QUICK = {
    "simulations": 300,
    "box_cells": 64,
    "slabs": 16,
    "widths": (16, 32, 64),
    "symmetries": "random",
    "shifts": "auto",
    "padding": "auto",
    "plateau_patience": 3,
}
# ... and this one starts from a network that was trained on other boxes, with --start-from.
FINE_TUNE = {"symmetries": "random", "shifts": "auto", "padding": "auto", "learning_rate": 2e-4, "epochs": 60}


# Standard deviations that differ by this factor are hardly of one quantity: the sum over 4 cells is 4 times the mean.
UNLIKE = 3.0


class CoevalTask(Task):
    """Common road of the two tasks: embedded boxes, checks, split, normalisation and pipelines."""

    presets: dict
    paper = PAPER
    simulator_fields = ("simulations", "box_cells", "cell_size", "slabs", "slab_cells", "projection")
    design = "latin-hypercube"

    def simulator(self, preset):
        """Embedded coeval boxes at the preset's geometry; refused at once where the network could not take the maps."""
        from keras_cosmo.simulations.coeval import CoevalSimulator

        try:
            self.check_map_shape(preset, (preset.box_cells, preset.box_cells))
        except ValueError as error:
            raise ValueError(f"--box-cells {preset.box_cells}: {error}") from error
        return CoevalSimulator(
            box_cells=preset.box_cells,
            cell_size=preset.cell_size,
            redshifts=self.all_redshifts(preset),
            slabs=preset.slabs,
            slab_cells=preset.slab_cells,
            projection=preset.projection,
        )

    def simulations(self, preset):
        """Number of boxes; refused at once where they could not be split."""
        if preset.split != "paper":
            self.split(preset, range(preset.simulations), 0, "--simulations")
        return preset.simulations

    def all_redshifts(self, preset) -> tuple:
        """Redshifts of everything that is read, increasing."""
        return tuple(sorted(set(preset.redshifts)))

    def inputs(self, preset) -> tuple:
        """Fields that become the channels of the input."""
        return tuple(field_at_redshift(BRIGHTNESS, redshift) for redshift in preset.redshifts)

    def outputs(self, preset):
        """What is learned: fields, or ``"parameters"``."""
        raise NotImplementedError

    def read_fields(self, preset) -> tuple:
        """All fields of the database that the task reads."""
        raise NotImplementedError

    def prepare(self, preset, database, seed):
        """Split by simulation; normalise the maps with the training part."""
        import numpy as np

        from keras_cosmo.data.leaking_split import SYMMETRIES, LeakingSplit
        from keras_cosmo.data.normalization import fit_normalization

        self.check(preset, database)
        if preset.split == "paper":
            split = LeakingSplit(database.n_maps, preset.fractions, seed)
            training, validation = split.copies("train"), split.copies("validation")
            fitted = np.arange(database.n_maps)  # as in the public code, the test included
        else:
            split = self.split(preset, database.simulation, seed, database.path)
            fitted = split.maps("train", database.simulation)
            training, validation = (fitted, None), (split.maps("validation", database.simulation), None)
            if preset.symmetries == "all":
                training = np.repeat(fitted, SYMMETRIES), np.tile(np.arange(SYMMETRIES), len(fitted))
        scan = database.scan()
        normalization = {}
        for field in self.read_fields(preset):
            moments = fit_normalization(scan, field, fitted)
            normalization[field] = {"mean": moments.mean, "standard_deviation": moments.standard_deviation}
        return Prepared(
            database=database,
            split=split,
            training=self.pipeline(preset, database, *training, seed=seed, augment=self.augmentation(preset, database)),
            validation=self.pipeline(preset, database, *validation, seed=seed),
            normalization=normalization,
            fingerprint=scan.fingerprint,
        )

    def split(self, preset, simulation, seed, source):
        """Split by simulation, with two at least in the test; ``source`` is named in errors."""
        from keras_cosmo.data.splits import split_by_simulation

        try:
            split = split_by_simulation(simulation, preset.fractions, seed)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        if len(split.test) < 2:
            total = sum(map(len, (split.train, split.validation, split.test)))
            raise ValueError(
                f"{source}: {total} simulations leave {len(split.test)} for the test, but errors over simulations need "
                "2 at least. Bring more simulations, or choose other --fractions."
            )
        return split

    def tested_on(self, preset) -> str:
        """What the test part is, for titles and captions."""
        return "unseen simulations" if preset.split == "simulation" else "LEAKING split: the test was seen in training"

    def pipeline(self, preset, database, maps, symmetries=None, *, seed=0, augment=None):
        """Batches of inputs and targets."""
        from keras_cosmo.data.pipeline import MapPipeline

        return MapPipeline(
            database,
            self.inputs(preset),
            self.outputs(preset),
            maps,
            min(preset.batch_size, len(maps)),
            seed,
            augment=augment,
            symmetries=symmetries,
        )

    def test_pipeline(self, preset, prepared):
        """Batches of the test part, and the map behind each row."""
        if preset.split == "paper":
            maps, symmetries = prepared.split.copies("test")
        else:
            maps, symmetries = prepared.split.maps("test", prepared.database.simulation), None
        return self.pipeline(preset, prepared.database, maps, symmetries), maps

    def augmentation(self, preset, database):
        """Random changes of the training maps, beyond the copies that come in every epoch."""
        from keras_cosmo.data import augmentation

        periodic = is_periodic(database)
        if preset.shifts == "always" and periodic is False:
            raise ValueError(
                f"{database.path}: its maps are not periodic, so --shifts always would put seams into them. Choose "
                "none or auto."
            )
        shifts = preset.shifts == "always" or (preset.shifts == "auto" and bool(periodic))
        random = preset.symmetries == "random" and preset.split != "paper"
        return {
            (False, False): None,
            (False, True): augmentation.shift_periodic,
            (True, False): augmentation.augment_squares,
            (True, True): augmentation.augment_periodic_squares,
        }[random, shifts]

    def resolved_padding(self, preset, database) -> str:
        """``"same"`` or ``"periodic"``."""
        if preset.padding != "auto":
            return preset.padding
        return "periodic" if database is None or is_periodic(database) else "same"

    def check(self, preset, database):
        """Everything that training, figures and export will ask of the data, before any of them begins."""
        from keras_cosmo.data.initial_conditions import find_repeated_initial_conditions

        database.require(task="matter")
        self._check_redshifts(preset, database)
        fields = self.read_fields(preset)
        database.require(fields=fields)
        for field in fields:
            units = ("mK",) if field.startswith(BRIGHTNESS) else ("", "1", "overdensity")
            if database.fields[field].unit not in units:
                raise ValueError(
                    f"{database.path}: expected {field} in {units[0] or 'no unit (overdensity)'}, got "
                    f"{database.fields[field].unit!r}. Convert the maps and correct the attribute `units`."
                )
        shapes = {field: database.fields[field].shape for field in fields}
        first = shapes[fields[0]]
        if len(set(shapes.values())) > 1 or len(first) != 2 or first[0] != first[1]:
            raise ValueError(
                f"{database.path}: expected square maps of one shape in all fields, got "
                f"{', '.join(f'{field} {shape}' for field, shape in shapes.items())}."
            )
        if database.cell_size is None:
            raise ValueError(
                f"{database.path}: expected the root attribute 'cell_size' in Mpc, which spectra and figures need. "
                "Add it."
            )
        if (unit := database.attributes.get("cell_size_units", "Mpc")) != "Mpc":
            raise ValueError(
                f"{database.path}: expected the root attribute 'cell_size' in Mpc, got {unit!r}. Convert it, and "
                "correct cell_size_units."
            )
        try:
            self.check_map_shape(preset, first)
        except ValueError as error:
            raise ValueError(f"{database.path}: {error}") from error
        densities = [field for field in database.fields if (redshift_of_field(field) or ("",))[0] == DENSITY]
        # Astrophysics does not touch the density, so equal initial conditions are equal maps of it.
        repeated = find_repeated_initial_conditions(database, densities[0]) if densities else []
        if repeated and preset.split != "paper":
            groups = "; ".join(", ".join(map(str, group)) for group in repeated[:5])
            more = f" and {len(repeated) - 5} more groups" if len(repeated) > 5 else ""
            raise ValueError(
                f"{database.path}: simulations with the same initial conditions: {groups}{more}. A network would know "
                "the density of the test by heart. Keep one simulation of each group, or run them with seeds of their "
                "own."
            )

    def check_map_shape(self, preset, shape):
        """Raise ``ValueError`` if the network cannot take maps of this shape."""
        from keras_cosmo.models.matter_unet import check_map_shape

        check_map_shape(shape, len(preset.widths))

    def _check_redshifts(self, preset, database):
        for name in ("redshifts", "target_redshifts"):
            values = getattr(preset, name, ())
            # Redshifts are one where the names of their fields are.
            if len({field_at_redshift(BRIGHTNESS, value) for value in values}) < len(values):
                raise ValueError(f"--{name.replace('_', '-')}: expected each redshift once, got {show(values)}.")
        known = sorted(
            found[1] for field in database.fields if (found := redshift_of_field(field)) and found[0] == BRIGHTNESS
        )
        missing = [
            redshift
            for redshift in self.all_redshifts(preset)
            if field_at_redshift(BRIGHTNESS, redshift) not in database.fields
        ]
        if missing:
            there = ", ".join(f"{redshift:g}" for redshift in known) or "none (no field brightness_temp_z<redshift>)"
            raise ValueError(
                f"{database.path}: no maps at redshift {', '.join(f'{redshift:g}' for redshift in missing)}; there are "
                f"{there}. Choose among them with --redshifts."
            )

    def check_redshifts(self, settings, start):
        """Raise ``ValueError`` if the run ``start`` maps other redshifts."""
        raise NotImplementedError

    def check_start(self, settings, start, prepared):
        """The network to start from must be of the same redshifts, and must not have seen the test."""
        self.check_redshifts(settings, start)
        for field in self.read_fields(settings.preset):
            before = start["normalization"].get(field, prepared.normalization[field])["standard_deviation"]
            now = prepared.normalization[field]["standard_deviation"]
            if settings.start_normalization == "keep" and not 1 / UNLIKE < now / before < UNLIKE:
                logger.warning(
                    "%s varies by %.3g in %s, by %.3g where --start-from was trained: are both projected alike "
                    "(mean or sum), and in the same unit?",
                    field, now, prepared.database.path, before,
                )  # fmt: skip
        if settings.preset.split != "paper":
            check_unseen(settings, start, prepared)

    def optimizer(self, preset):
        """Adam with L2 regularisation as the authors' library has it (section III.3)."""
        from keras_cosmo.optimizers import AdamL2

        return AdamL2(preset.learning_rate, beta_1=preset.beta_1, beta_2=preset.beta_2, l2=preset.l2)

    def callbacks(self, preset):
        """Learning rate on a plateau of the validation loss (section III.3)."""
        import keras

        return [
            keras.callbacks.ReduceLROnPlateau(
                monitor="val_loss", factor=preset.plateau_factor, patience=preset.plateau_patience, min_delta=0.0
            )
        ]


def is_periodic(database):
    """True or False as the database says, None where it does not."""
    periodic = database.attributes.get("periodic_across_sky")
    return None if periodic is None else bool(periodic)


def scales(normalization: dict, fields) -> tuple[list, list]:
    """Means and standard deviations of fields, as the arguments of the networks."""
    return tuple([normalization[field][key] for field in fields] for key in ("mean", "standard_deviation"))
