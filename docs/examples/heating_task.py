"""A sixth task in one file, which asks whether the intergalactic gas was heated early.

    python docs/examples/heating_task.py                          2,000 embedded light-cones, a minute of one core
    python docs/examples/heating_task.py --data cones.h5          a database of light-cones of your own
    python docs/examples/heating_task.py --help

From a 21-cm light-cone image to the probability that log10 L_X is above a threshold, with a layer, a loss and a measure
of its own. CONTRIBUTING.md goes through it.
"""

import dataclasses
import sys

import keras
import numpy as np
from keras import ops

from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.presets import preset_field
from keras_cosmo.tasks.task import Evaluation, Paper, Prepared, Task

FIELD, PARAMETER = "brightness_temp", "log10_L_X"


@keras.saving.register_keras_serializable("heating")
class SkyMoments(keras.layers.Layer):
    """Mean and standard deviation across the sky: ``(batch, n_perp, n_los)`` -> ``(batch, n_los, 2)``."""

    def call(self, maps):
        """The two, at each place along the line of sight."""
        mean = ops.mean(maps, axis=1)
        return ops.stack([mean, ops.sqrt(ops.var(maps, axis=1) + 1e-6)], axis=-1)

    def compute_output_shape(self, shape):
        """``(batch, n_los, 2)``."""
        return (shape[0], shape[2], 2)


@keras.saving.register_keras_serializable("heating")
class AboveThreshold(keras.losses.Loss):
    """Binary cross-entropy of "the parameter in this column is above the threshold".

    Args:
        column: Which of the parameters.
        threshold: In its unit.
    """

    def __init__(self, column, threshold, reduction="sum_over_batch_size", name="above_threshold"):
        super().__init__(reduction=reduction, name=name)
        self.column, self.threshold = column, threshold

    def call(self, y_true, y_pred):
        """Cross-entropy of each row; ``y_true`` holds parameters, ``y_pred`` probabilities ``(batch, 1)``."""
        above = ops.cast(y_true[:, self.column] > self.threshold, "float32")
        return keras.losses.binary_crossentropy(above[:, None], y_pred)

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "column": self.column, "threshold": self.threshold}


def ranking_score(above, score) -> float:
    """Chance that a random map above the threshold scores higher than one below it (area under the ROC curve).

    Args:
        above: bool ``(n,)``, both values present.
        score: ``(n,)``.
    """
    above, score = np.asarray(above, bool), np.asarray(score, np.float64)
    if above.all() or not above.any():
        raise ValueError(
            f"above: expected maps on both sides of the threshold, got {above.sum()} of {above.size} above."
        )
    return float(np.mean((score[above][:, None] > score[~above]) + 0.5 * (score[above][:, None] == score[~above])))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeatingPreset:
    """Every number of the recipe; each becomes a flag."""

    simulations: int = preset_field(20_000, source="assumption", text="light-cones to simulate", low=10)
    n_perp: int = preset_field(64, source="assumption", text="cells across the sky", low=8)
    n_los: int = preset_field(512, source="assumption", text="cells along the line of sight", low=16)
    threshold: float = preset_field(40.0, source="assumption", text="log10 L_X that counts as early", low=38, high=42)
    fractions: tuple[float, ...] = preset_field(
        (0.8, 0.1, 0.1), source="assumption", text="training, validation and test fractions", low=0, high=1
    )
    filters: tuple[int, ...] = preset_field((16, 32), source="assumption", text="filters of each convolution", low=1)
    learning_rate: float = preset_field(1e-3, source="assumption", text="of Adam", low=1e-12, high=10.0)
    batch_size: int = preset_field(64, source="assumption", text="images per update", low=1)
    epochs: int = preset_field(20, source="assumption", text="passes over the training images", low=1)


FULL = HeatingPreset()
PRESETS = {"quick": dataclasses.replace(FULL, simulations=2000, n_perp=32, n_los=256), "paper": FULL}


class HeatingTask(Task):
    """Light-cone image -> probability of early heating."""

    name = "heating"
    title = "Early heating from 21-cm light-cone images"
    model_name = "heating"
    presets = PRESETS
    simulator_fields = ("simulations", "n_perp", "n_los")
    paper = Paper(citation="no paper: an example", title="Early heating", bibtex="", values={})

    def simulator(self, preset):
        """Embedded light-cones."""
        from keras_cosmo.simulations.lightcones import LightconeSimulator

        return LightconeSimulator(n_perp=preset.n_perp, n_los=preset.n_los)

    def simulations(self, preset):
        """Number of light-cones."""
        return preset.simulations

    def prepare(self, preset, database, seed):
        """Split by simulation, normalise with the training part."""
        from keras_cosmo.data.normalization import fit_normalization
        from keras_cosmo.data.pipeline import MapPipeline
        from keras_cosmo.data.splits import split_by_simulation

        database.require(task="regression", fields=(FIELD,))
        if PARAMETER not in database.parameter_names:
            raise ValueError(f"{database.path}: expected the parameter {PARAMETER}, got {database.parameter_names}.")
        split = split_by_simulation(database.simulation, preset.fractions, seed)
        parts = {part: split.maps(part, database.simulation) for part in ("train", "validation", "test")}
        for part, maps in parts.items():
            above = database.targets(maps)[:, self.column(database)] > preset.threshold
            if above.all() or not above.any():
                raise ValueError(
                    f"{database.path}: in the {part} part {above.sum()} of {above.size} maps have {PARAMETER} above "
                    f"{preset.threshold}, expected some on both sides. Choose another --threshold, or more simulations."
                )
        scan = database.scan()
        image = fit_normalization(scan, FIELD, parts["train"])
        return Prepared(
            database=database,
            split=split,
            training=MapPipeline(database, FIELD, None, parts["train"], preset.batch_size, seed),
            validation=MapPipeline(database, FIELD, None, parts["validation"], preset.batch_size, seed),
            normalization={FIELD: {"mean": image.mean, "standard_deviation": image.standard_deviation}},
            fingerprint=scan.fingerprint,
        )

    def column(self, database):
        """Which of the parameters counts."""
        return database.parameter_names.index(PARAMETER)

    def build(self, preset, database, normalization, dtype):
        """Moments across the sky, convolutions along the line of sight."""
        shape = database.fields[FIELD].shape if database else (preset.n_perp, preset.n_los)
        scale = normalization[FIELD] if normalization else {"mean": 0.0, "standard_deviation": 1.0}
        maps = keras.Input(shape, name=FIELD)
        size = scale["standard_deviation"]
        x = keras.layers.Rescaling(1.0 / size, -scale["mean"] / size, name="normalization")(maps)
        x = SkyMoments(name="sky_moments")(x)
        for number, filters in enumerate(preset.filters, 1):
            x = keras.layers.Conv1D(filters, 8, 4, activation="relu", dtype=dtype, name=f"convolution_{number}")(x)
        x = keras.layers.GlobalAveragePooling1D(name="pooling")(x)
        return keras.Model(maps, keras.layers.Dense(1, "sigmoid", dtype="float32", name="probability")(x))

    def compile(self, preset, model, normalization):
        """Adam and the loss above. Light-cones have their parameters in the order of the paper: L_X is the second."""
        model.compile(optimizer=keras.optimizers.Adam(preset.learning_rate), loss=AboveThreshold(1, preset.threshold))

    def callbacks(self, preset):
        """None."""
        return []

    def evaluate(self, preset, model, prepared, seed):
        """Ranking score and accuracy on unseen simulations, beside ridge regression on the global signal."""
        from keras_cosmo.figures.report import Table
        from keras_cosmo.models.baselines import GlobalSignalRidge

        database, split = prepared.database, prepared.split
        train, test = (split.maps(part, database.simulation) for part in ("train", "test"))
        column = self.column(database)
        above = database.targets(test)[:, column] > preset.threshold
        images = database.read(FIELD, test)
        probability = model.predict(images, batch_size=preset.batch_size, verbose=0)[:, 0]
        ridge = GlobalSignalRidge(bins=min(32, images.shape[2]))
        ridge.fit(database.read(FIELD, train), database.targets(train), database.simulation[train])
        linear = ridge.predict(images)[:, column]
        metrics = {
            "ranking_score": ranking_score(above, probability),
            "accuracy": float(np.mean((probability > 0.5) == above)),
            "baseline/ranking_score": ranking_score(above, linear),
            "baseline/accuracy": float(np.mean((linear > preset.threshold) == above)),
        }
        rows = [
            [name, *(f"{metrics[key + name]:.3f}" for key in ("", "baseline/"))]
            for name in ("ranking_score", "accuracy")
        ]
        return Evaluation(
            metrics=metrics,
            tables=[Table(title="Unseen simulations", header=["", "network", "ridge regression"], rows=rows, note="")],
            arrays={"above": above, "probability": probability},
            columns={"predictions": {"map": test, "above": above, "probability": probability}},
        )

    def figures(self, preset, model, prepared, evaluation, history):
        """Probabilities on both sides of the threshold."""
        from matplotlib.figure import Figure

        from keras_cosmo.figures.style import figure_style

        above, probability = evaluation.arrays["above"], evaluation.arrays["probability"]
        with figure_style():
            figure = Figure(figsize=(5, 3), layout="constrained")
            axes = figure.subplots()
            groups = [probability[~above], probability[above]]
            axes.hist(groups, np.linspace(0, 1, 11), label=["below", "above"])
            axes.set(xlabel="predicted probability", ylabel="maps")
            axes.legend(title=f"{PARAMETER}, threshold {preset.threshold}")
        return {
            "probabilities": (figure, "Predicted probability of unseen light-cones on both sides of the threshold.")
        }

    def signatures(self, preset, model, prepared, evaluation):
        """``serving_default``: brightness temperature [mK] -> probability."""
        import tensorflow as tf

        from keras_cosmo.export.saved_model import Signature

        database = prepared.database
        spec = tf.TensorSpec([None, *database.fields[FIELD].shape], tf.float32)
        return {
            "serving_default": Signature(
                function=lambda brightness_temp: {"probability": model(brightness_temp, training=False)[:, 0]},
                inputs={FIELD: spec},
                units={FIELD: "mK", "probability": ""},
                example={FIELD: database.read(FIELD, np.array([0]))},
            )
        }


if __name__ == "__main__":
    sys.exit(main(HeatingTask()))
