"""``train_together.py KINDS FOLDER INDEX ADDRESS ADDRESS``: train networks of tasks as one of two workers.

``train_together.py KINDS FOLDER mirrored``: as one process with two devices.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import contextlib

import keras
import numpy as np
import tensorflow as tf

# Rates so small that rounding does not grow within a few updates; dropout and augmentation are as in the presets.
RUNS = {
    "regression": {"batch_size": 8, "epochs": 3, "learning_rate": 1e-5},
    "separation": {"batch_size": 4, "epochs": 3, "depth": 2, "width": 4, "learning_rate": 1e-5},
    "higlow": {
        "batch_size": 6,
        "epochs": 3,
        "blocks": 1,
        "steps": 1,
        "width": 4,
        "fractions": (0.5, 0.25, 0.25),
        "learning_rate": 1e-4,
        # Less than the norm of the gradients: all are clipped.
        "gradient_norm": 1e-3,
    },
}


def task_of(kind):
    """The task, and the module that writes its data."""
    if kind == "regression":
        import small_lightcones as small

        from keras_cosmo.tasks.regression import RegressionTask as Task
    elif kind == "separation":
        import small_lines as small

        from keras_cosmo.tasks.separation import SeparationTask as Task
    else:
        import small_hydrogen as small

        from keras_cosmo.tasks.higlow import HIGlowTask as Task
    return Task(), small


def train(kind, folder, workers=None, strategy=None):
    """Train from ``folder/<kind>.h5`` into a folder; returns the trainer and what it was trained with."""
    strategy = workers.strategy if workers else strategy
    from keras_cosmo.data.database import Database
    from keras_cosmo.tasks.presets import resolve_preset
    from keras_cosmo.training.trainer import Trainer

    task, _ = task_of(kind)
    preset = resolve_preset(task.presets, "quick", RUNS[kind])
    prepared = task.prepare(preset, Database(folder / f"{kind}.h5"), 0)
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = task.model(preset, prepared.database, prepared.normalization, "float32")
    out = folder / f"{kind}-{workers.count if workers else 1}{'-mirrored' if strategy and not workers else ''}"
    trainer = Trainer(model, out, strategy=strategy, workers=workers, checkpoint_seconds=0.0)
    # Strikes after every epoch.
    callbacks = [keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1, min_delta=1e3)]
    trainer.fit(prepared.training, prepared.validation, epochs=preset.epochs, callbacks=callbacks, resume=True)
    return trainer, (task, preset, prepared)


def main(kinds, folder, index, *addresses):
    """Train every kind as one of two workers and write histories and weights, one file for each worker."""
    from keras_cosmo.training.cluster import Cluster
    from keras_cosmo.training.rendezvous import meet
    from keras_cosmo.training.workers import Workers

    folder = pathlib.Path(folder)
    if index == "mirrored":
        device = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        for kind in kinds.split(","):
            trainer, _ = train(kind, folder, strategy=strategy)
            (folder / f"{kind}-mirrored.json").write_text(json.dumps({"history": trainer.history}))
        return
    cluster = Cluster(addresses, int(index))
    meet(cluster, 300.0)
    workers = Workers(cluster)
    told = workers.tell({"greeting": "grüße"} if workers.is_chief else None)
    for kind in kinds.split(","):
        trainer, (task, preset, prepared) = train(kind, folder, workers)
        alone = task.model(preset, prepared.database, prepared.normalization, "float32")
        trainer.copy_into(alone)
        np.savez(folder / f"{kind}-{index}.npz", *alone.get_weights())
        (folder / f"{kind}-{index}.json").write_text(json.dumps({"history": trainer.history, "told": told}))
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
