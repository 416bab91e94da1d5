"""The contract of a task: what differs from paper to paper. `keras_cosmo.tasks.run` does the rest."""

import abc
import dataclasses
from typing import Any, ClassVar


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
        split: `keras_cosmo.data.splits.Split`, by simulation.
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

    @abc.abstractmethod
    def evaluate(self, preset, model, prepared: Prepared, seed: int) -> Evaluation:
        """Metrics and baselines on the test part."""

    @abc.abstractmethod
    def figures(self, preset, model, prepared: Prepared, evaluation: Evaluation, history: dict) -> dict:
        """Name -> (Matplotlib figure, caption)."""

    @abc.abstractmethod
    def signatures(self, preset, model, prepared: Prepared) -> dict:
        """Signature name -> `keras_cosmo.export.saved_model.Signature`, in physical units."""
