"""A small training run: ``train_once.py FOLDER [KILL_AT]`` kills itself there, or resumes and finishes."""

import os
import pathlib
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import tensorflow as tf

from keras_cosmo.training.trainer import Trainer

STEPS, EPOCHS, BATCH = 6, 4, 4


class Data:
    """Batches that depend on the step alone."""

    steps_per_epoch = STEPS

    def training(self, start, stop):
        def load(step):
            generator = np.random.default_rng([7, step])
            x = generator.standard_normal((BATCH, 12, 12)).astype("float32")
            return x, np.stack([x.mean((1, 2)), x.std((1, 2))], -1).astype("float32")

        def element(step):
            x, y = tf.numpy_function(load, [step], [tf.float32, tf.float32])
            return tf.ensure_shape(x, (BATCH, 12, 12)), tf.ensure_shape(y, (BATCH, 2))

        return tf.data.Dataset.range(start, stop).map(element).prefetch(2)


def build():
    """A network with everything that remembers: dropout, batch normalisation, optimizer slots, a metric."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((12, 12)),
            layers.Reshape((12, 12, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.Dense(2),
        ]
    )
    model.compile(keras.optimizers.RMSprop(1e-2), "mse", metrics=["mae"])
    return model


def callbacks():
    """A plateau that strikes within the run."""
    return [keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1, min_delta=1.0)]


def train(folder, model=None, **options):
    """Train or resume in ``folder``; returns the trainer."""
    trainer = Trainer(model or build(), folder, checkpoint_seconds=options.pop("checkpoint_seconds", 0.0))
    data = Data()
    trainer.fit(data, data.training(1000, 1003), epochs=EPOCHS, callbacks=callbacks(), resume=True, **options)
    return trainer


def main(folder, kill_at):
    """Kill at ``step:N``, ``save:N`` (in the N-th save) or ``best:N`` (between best weights and checkpoint)."""
    what, _, number = kill_at.partition(":")
    calls = {"step": 0, "save": 0, "best": 0}

    def lethal(kind, function):
        def wrapped(*arguments, **options):
            result = function(*arguments, **options)
            calls[kind] += 1
            if kind == what and calls[kind] == int(number):
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    Trainer._save_best = lethal("best", Trainer._save_best)
    # The data of a checkpoint are on disk before the manager renames its index: kill in between.
    tf.train.Checkpoint.write = lethal("save", tf.train.Checkpoint.write)
    tf.train.Checkpoint._write = lethal("save", tf.train.Checkpoint._write)
    model = build()
    step = model.train_step
    if what == "step":
        counted = lethal("step", lambda: None)

        def train_step(batch):
            tf.py_function(counted, [], [])
            return step(batch)

        model.train_step = train_step
    train(folder, model, **({"checkpoint_seconds": 0.05} if what == "step" else {}))
    arrays = [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]
    np.savez(pathlib.Path(folder) / "final.npz", *arrays)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "never")
