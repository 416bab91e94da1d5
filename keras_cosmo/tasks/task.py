"""The contract of a task: what differs from paper to paper. `keras_cosmo.tasks.run` does the rest."""

import abc
import dataclasses
import pathlib
import zipfile
from typing import Any, ClassVar

from keras_cosmo.tasks.seen_simulations import check_unseen


@dataclasses.dataclass(frozen=True)
class Paper:
    """The publication that a task reproduces.

    Args:
        citation: One line: authors, year, journal.
        title: Title.
        bibtex: Entry for the reader's bibliography.
        values: Metric name -> value stated by the paper, under the names that our own metrics have.
    """

    citation: str
    title: str
    bibtex: str
    values: dict


@dataclasses.dataclass
class Prepared:
    """Data made ready for training.

    Attributes:
        database: `keras_cosmo.data.database.Database`.
        split: `keras_cosmo.data.splits.Split`, by simulation (or, only to measure what it hides, a leaking one).
        training, validation: `keras_cosmo.data.pipeline.MapPipeline`.
        normalization: JSON-able constants fitted on the training part.
        fingerprint: Checksum of the data.
    """

    database: Any
    split: Any
    training: Any
    validation: Any
    normalization: dict
    fingerprint: str


@dataclasses.dataclass
class Evaluation:
    """What was measured on the test part.

    Attributes:
        metrics: Flat name -> float; the baselines' under ``baseline/...``.
        tables: `keras_cosmo.figures.report.Table` list, printed and put into the report.
        arrays: Name -> array, kept for the figures.
        columns: File name without ending -> (column name -> 1-D array), written as CSV.
    """

    metrics: dict
    tables: list
    arrays: dict
    columns: dict


class Task(abc.ABC):
    """One paper: its presets, data, network, recipe, measurements, figures and signatures.

    A new task is a subclass in a module of its own and a script of some twenty lines in ``apps``. Modules
    of tasks import TensorFlow, Keras and Matplotlib inside methods, so that ``--help`` is instant.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    model_name: ClassVar[str]
    paper: ClassVar[Paper]
    presets: ClassVar[dict]
    simulator_fields: ClassVar[tuple] = ()  # preset fields that only the simulator reads
    design: ClassVar[str] = "uniform"  # of the parameters of embedded simulations
    advice: ClassVar[str] = "a lower learning rate, or --precision float32"  # if the loss is no longer finite
    earlier_tasks: ClassVar[tuple] = ()  # tasks whose runs --start-from takes too, and whose data serve again

    @property
    def starts_from(self) -> tuple:
        """Names of the tasks whose runs can be the start."""
        return (self.name, *self.earlier_tasks)

    def check_settings(self, settings) -> None:
        """Raise ``ValueError`` if flags exclude each other; called before anything is done."""
        return

    def run(self, settings, progress: bool = False) -> dict:
        """Train, measure, draw and export; returns the metrics."""
        from keras_cosmo.tasks.run import run

        return run(self, settings, progress)

    def paper_values(self, preset) -> dict:
        """What the paper states for this preset, under the names that our own metrics have."""
        return self.paper.values

    def check_start(self, settings, start: dict, prepared: Prepared) -> None:
        """Raise ``ValueError`` if the run ``start`` (its ``config.json``) does not fit the data."""
        database = prepared.database
        if start["parameters"] != list(database.parameter_names):
            raise ValueError(
                f"--start-from {settings.start_from} predicts {start['parameters']}, but {database.path} has "
                f"{list(database.parameter_names)}. Start from a run with the same parameters in the same order."
            )
        check_unseen(settings, start, prepared)

    def normalization_of_start(self, start: dict, own: dict) -> dict:
        """Normalisation to keep from the run ``start``; ``own`` is that of the training part."""
        return start["normalization"]

    def copy_start(self, path, model) -> None:
        """Give the network the weights of the saved network ``path``."""
        copy_weights(path, model)

    @abc.abstractmethod
    def simulator(self, preset):
        """The embedded simulator that makes the data when the user brings none."""

    @abc.abstractmethod
    def simulations(self, preset) -> int:
        """How many simulations the preset asks for."""

    @abc.abstractmethod
    def prepare(self, preset, database, seed: int) -> Prepared:
        """Check, split and normalise a database; raise ``ValueError`` if it does not fit the task."""

    @abc.abstractmethod
    def build(self, preset, database, normalization: dict | None, dtype: str):
        """The network. Without a database: at the preset's map size, without normalisation.

        Override it to train a network of your own on the same road.
        """

    @abc.abstractmethod
    def compile(self, preset, model, normalization: dict | None) -> None:
        """Give the network its loss and optimizer."""

    def model(self, preset, database, normalization: dict | None, dtype: str):
        """The compiled network."""
        model = self.build(preset, database, normalization, dtype)
        self.compile(preset, model, normalization)
        return model

    @abc.abstractmethod
    def callbacks(self, preset) -> list:
        """Keras callbacks of the recipe."""

    def keeps_best(self, preset) -> bool:
        """Whether the weights with the lowest validation loss are measured and exported, or the last ones."""
        return True

    def finalize(self, preset, model, prepared: Prepared) -> None:
        """What is done to the chosen weights once, between training and measurement."""
        return

    def networks(self, model) -> list:
        """The networks that ``--summary`` prints, each with its own weights."""
        return [model]

    def cell_size(self, preset, database):
        """Side of a pixel of the maps that the network takes, in the unit of the database; None if it does not say."""
        return database.cell_size

    def served(self, model):
        """The part of the network whose variables go into the SavedModel."""
        return model

    @abc.abstractmethod
    def evaluate(self, preset, model, prepared: Prepared, seed: int) -> Evaluation:
        """Metrics and baselines on the test part."""

    @abc.abstractmethod
    def figures(self, preset, model, prepared: Prepared, evaluation: Evaluation, history: dict) -> dict:
        """Name -> (Matplotlib figure, caption)."""

    @abc.abstractmethod
    def signatures(self, preset, model, prepared: Prepared, evaluation: Evaluation | None) -> dict:
        """Signature name -> `keras_cosmo.export.saved_model.Signature`, in physical units.

        What was measured may be part of them, such as a correction of the posterior.
        """


def check_network(path) -> pathlib.Path:
    """The path of the saved network of a run, if it is one; does not wait for Keras.

    Raises:
        FileNotFoundError: If the run has not finished and so saved no network.
        ValueError: If the file is damaged.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the run to start from has not finished. Finish it with --resume.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is damaged: expected a whole zip archive, as Keras saves networks, got "
            f"{path.stat().st_size} bytes of something else. Copy the run again, or train anew."
        )
    return path


def load_start(path):
    """The saved network of a run.

    Raises:
        FileNotFoundError: If the run has not finished and so saved no network.
        ValueError: If the file is damaged.
    """
    path = check_network(path)
    import keras

    return keras.models.load_model(path, compile=False)


def copy_weights(path, model) -> None:
    """Copy the weights of a saved network into a new one of the same architecture, layer by layer.

    Raises:
        FileNotFoundError: If the run has not finished and so saved no network.
        ValueError: If a layer is missing or has weights of another shape.
    """
    saved = {layer.name: layer.get_weights() for layer in load_start(path).layers}
    for layer in model.layers:
        shapes = [tuple(weight.shape) for weight in layer.weights]
        given = [weight.shape for weight in saved.get(layer.name, [])]
        if shapes != given:
            raise ValueError(
                f"Layer {layer.name!r} of this network has weights of shape {shapes}, that of {path} {given}. "
                "Start from a run on maps of the same size, with the same network."
            )
        layer.set_weights(saved.get(layer.name, []))
