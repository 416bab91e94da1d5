"""One small untrained network of every task, exported, for tests of what servers meet."""

import dataclasses

import numpy as np
import small_coeval
import small_hydrogen
import small_lightcones
import small_lines
import small_skies
import tensorflow as tf

from keras_cosmo.data.database import Database
from keras_cosmo.export.saved_model import export_saved_model
from keras_cosmo.statistics.posterior_convolution import PosteriorConvolution
from keras_cosmo.tasks import astro, dust, higlow, matter, regression, separation
from keras_cosmo.tasks.task import Evaluation

UNET = {"widths": (4, 8), "batch_size": 8}
# Task, its small sizes, and the module that writes its database.
SMALL = (
    (regression.RegressionTask(), regression.PRESETS, {}, small_lightcones),
    (matter.MatterTask(), matter.PRESETS, {**UNET, "redshifts": (15.0,)}, small_coeval),
    (astro.AstroTask(), astro.PRESETS, {**UNET, "regression_widths": (8, 8), "encoder": "scratch"}, small_coeval),
    (
        separation.SeparationTask(),
        separation.PRESETS,
        {"depth": 3, "width": 4, "batch_size": 4, "l1_baseline": False},
        small_lines,
    ),
    (
        dust.DustTask(),
        dust.PRESETS,
        {
            **UNET,
            "bottleneck": 8,
            "cutout_cells": 16,
            "pixel_size": 93.6,
            "fractions": (0.5, 0.25, 0.25),
            "train_cutouts": 8,
            "test_cutouts": 4,
            "validation_cutouts": 4,
        },
        small_skies,
    ),
    (
        higlow.HIGlowTask(),
        higlow.PRESETS,
        {
            "blocks": 1,
            "steps": 1,
            "width": 4,
            "grid_cells": 4,
            "map_cells": 16,
            "data_start": False,
            "fractions": (0.5, 0.25, 0.25),
        },
        small_hydrogen,
    ),
)
NAMES = tuple(task.model_name for task, *_ in SMALL)


def export(folder, model_name):
    """Export the task's network to ``folder/<model name>``; returns the version folder."""
    task, presets, sizes, data = next(each for each in SMALL if each[0].model_name == model_name)
    preset = dataclasses.replace(presets["quick"], epochs=1, **sizes)
    database = Database(data.write(folder / f"{model_name}.h5"))
    prepared = task.prepare(preset, database, 1)
    model = task.model(preset, database, prepared.normalization, "float32")
    # What only the flow asks for.
    correction = PosteriorConvolution(1.0, np.diag([1e-4, 1e-4]), [0.1, 0.6], [0.5, 1.0])
    evaluation = Evaluation(metrics={}, tables=[], arrays={"correction": correction}, columns={})
    signatures = task.signatures(preset, model, prepared, evaluation)
    return export_saved_model(task.served(model), folder / "saved_models" / model_name, signatures, {"task": task.name})


class SessionServer:
    """Runs signatures as servers do: the graph in a session, no Keras, requests by name."""

    def __init__(self, version_folder):
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            self.signatures = tf.compat.v1.saved_model.load(self.session, ["serve"], str(version_folder)).signature_def

    def run(self, signature, inputs):
        """Outputs by name."""
        definition = self.signatures[signature]
        feed = {definition.inputs[name].name: value for name, value in inputs.items()}
        return self.session.run({name: info.name for name, info in definition.outputs.items()}, feed)
