"""The training loop: one for every task and every `tf.distribute` strategy, resumable at any step."""

import csv
import json
import logging
import pathlib
import time
import zipfile

import keras
import numpy as np
import tensorflow as tf

from keras_cosmo import progress
from keras_cosmo.files import written_aside
from keras_cosmo.training.interruption import Interruption

logger = logging.getLogger(__name__)

CHECKPOINTS_KEPT = 2

# What the callbacks of Keras remember between epochs; without it a resumed run would take another course.
CALLBACK_STATE = {
    keras.callbacks.ReduceLROnPlateau: ("best", "wait", "cooldown_counter"),
    keras.callbacks.EarlyStopping: ("best", "best_epoch", "wait", "stopped_epoch"),
}


class Trainer:
    """Trains a compiled Keras model step by step, so that a killed run continues as if nothing had happened.

    ``model.fit`` cannot do that: it loses the random state, the place in the data and the callbacks' memory.
    Here a checkpoint holds every variable (weights, optimizer slots, dropout generators, running metrics), the
    step number, the history and the state of plateau and early-stopping callbacks, and the data of step k are
    a pure function of k (`keras_cosmo.data.pipeline.MapPipeline`). A resumed run makes the same updates as an
    uninterrupted one; on the same machine with the same number of threads the weights are equal bit for bit
    wherever TensorFlow's kernels are deterministic (``--deterministic`` forces them to be).

    The folder receives ``history.csv``, ``checkpoints/last-*`` (to resume), ``checkpoints/best.npz`` (weights at
    the lowest monitored value) and TensorBoard events under ``tensorboard/``.

    Args:
        model: Compiled model. ``model.train_step`` and ``model.test_step`` do the work, so a model with its own
            ``train_step`` and several optimizers (attribute ``optimizers``) trains on the same loop.
        folder: Run folder.
        strategy: ``tf.distribute`` strategy. Defaults to the current one.
        monitor: Name in the epoch's logs whose minimum marks the best weights. Defaults to "val_loss".
        checkpoint_seconds: Seconds between checkpoints, looked at after every step. Defaults to 30.
        progress: Whether to show a progress bar.

    Attributes:
        history: Dict of lists, one entry per finished epoch.
        steps_made: Number of updates that the last `fit` made itself.
        interrupted: The signal that ended training early, or None.
    """

    def __init__(self, model, folder, *, strategy=None, monitor="val_loss", checkpoint_seconds=30.0, progress=False):
        self.model = model
        self.folder = pathlib.Path(folder)
        self.strategy = strategy or tf.distribute.get_strategy()
        self.monitor = monitor
        self.checkpoint_seconds = checkpoint_seconds
        self.progress = progress
        self.history = {}
        self.interrupted = None
        self.steps_made = 0
        self._best = np.inf
        self._optimizers = []
        self._train_step = tf.function(lambda batch: self._reduce(self.strategy.run(model.train_step, args=(batch,))))
        self._test_step = tf.function(
            lambda batch: self._reduce(self.strategy.run(model.test_step, args=(batch,))),
            reduce_retracing=True,
        )

    @property
    def best_weights(self) -> pathlib.Path:
        """File of the weights with the lowest monitored value so far, in the order of ``model.weights``."""
        return self.folder / "checkpoints" / "best.npz"

    @property
    def has_checkpoint(self) -> bool:
        """Whether the folder holds a checkpoint to resume from."""
        return bool(self._checkpoints())

    def load_best(self) -> None:
        """Give the model its best weights; the optimizer is not touched.

        Raises:
            ValueError: If the file is damaged, or belongs to another network.
        """
        try:
            with np.load(self.best_weights) as file:
                self.model.set_weights([file[name] for name in sorted(file.files)])
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise ValueError(
                f"{self.best_weights} is damaged or of another network: {error}. Delete it and train on with --resume."
            ) from error

    def fit(self, training, validation, *, epochs, callbacks=(), resume=False):
        """Train until ``epochs`` are done, a callback stops, or Ctrl-C.

        Args:
            training: Object with ``steps_per_epoch`` and ``training(start_step, total_steps)`` that returns a
                ``tf.data.Dataset`` whose element k depends on k alone.
            validation: ``tf.data.Dataset``, read once per epoch, or None.
            epochs: Total number of epochs, those before a resume included.
            callbacks: Keras callbacks; their ends of epochs are called, with the learning rate among the logs.
            resume: Continue from the last checkpoint of the folder, if there is one.

        Returns:
            The history, a dict of lists with one entry per epoch.

        Raises:
            ValueError: If the model is not compiled, or the checkpoint does not fit it.
            FloatingPointError: If the training loss is no longer finite.
        """
        callbacks = list(callbacks)
        if any(getattr(callback, "restore_best_weights", False) for callback in callbacks):
            raise ValueError(
                "`callbacks`: restore_best_weights does not survive a kill; `Trainer.load_best` does that."
            )
        steps_per_epoch = training.steps_per_epoch
        total_steps = epochs * steps_per_epoch
        self._build(training)

        board = keras.callbacks.TensorBoard(self.folder / "tensorboard", write_graph=False)
        callback_list = keras.callbacks.CallbackList([*callbacks, board], add_history=False, model=self.model)
        step = tf.Variable(0, dtype=tf.int64, trainable=False)
        state = tf.Variable("{}", trainable=False)
        checkpoint = tf.train.Checkpoint(
            model=_values(self.model.variables),
            metrics=_values(self.model.metrics_variables),
            optimizers=[_values(optimizer.variables) for optimizer in self._optimizers],
            step=step,
            state=state,
        )
        self.model.stop_training = False
        callback_list.on_train_begin()
        if resume and self._restore_newest(checkpoint):
            self._set_state(json.loads(state.numpy().decode()), callbacks)
            logger.info("Resumed at step %d of %d.", int(step), total_steps)
        elif resume:
            logger.info("No checkpoint yet: starting at step 0.")
        self._write_history()

        def save():
            self._check_finite({name: float(value) for name, value in self.model.get_metrics_result().items()})
            # The loss of a step is that of the weights before it.
            if not all(np.isfinite(weight).all() for weight in self.model.get_weights()):
                self._check_finite({"loss": np.nan})
            state.assign(json.dumps(self._get_state(callbacks)))
            self._save(checkpoint, int(step))

        first = done = int(step)
        last_save = time.monotonic()
        batches = iter(self.strategy.experimental_distribute_dataset(training.training(done, max(done, total_steps))))
        steps = progress.bar(total=total_steps, initial=done, disable=not self.progress, unit="step", desc="training")
        with Interruption() as interruption, steps:
            while done < total_steps and not self.model.stop_training and not interruption.received:
                epoch, step_in_epoch = divmod(done, steps_per_epoch)
                if step_in_epoch == 0:
                    self.model.reset_metrics()
                    callback_list.on_epoch_begin(epoch)
                self._train_step(next(batches))
                step.assign_add(1)
                done += 1
                steps.update()
                if done % steps_per_epoch == 0:
                    logs = self._end_epoch(epoch, validation)
                    callback_list.on_epoch_end(epoch, logs)
                    steps.set_postfix({name: f"{value:.4g}" for name, value in logs.items() if "loss" in name})
                if time.monotonic() - last_save > self.checkpoint_seconds:
                    save()
                    last_save = time.monotonic()
            self.interrupted = interruption.received
            save()
        self.steps_made = done - first
        callback_list.on_train_end()
        return self.history

    def _build(self, training):
        """Make every variable, so that a checkpoint can name them all before the first step."""
        optimizers = getattr(self.model, "optimizers", None) or [getattr(self.model, "optimizer", None)]
        if any(optimizer is None for optimizer in optimizers):
            raise ValueError("`model` is not compiled: call model.compile(optimizer=..., loss=...) before training.")
        for optimizer in optimizers:
            if not optimizer.built:
                optimizer.build(self.model.trainable_variables)
        self._optimizers = list(optimizers)
        # Keras makes the variables of compiled metrics at their first update; testing changes no weight.
        for batch in training.training(0, 1):
            self.strategy.run(self.model.test_step, args=(batch,))
        self.model.reset_metrics()

    def _reduce(self, logs):
        return tf.nest.map_structure(lambda value: self.strategy.reduce("MEAN", value, axis=None), logs)

    def _end_epoch(self, epoch, validation):
        """Metrics of the epoch, validation, history and best weights; returns the epoch's logs."""
        logs = {name: float(value) for name, value in self.model.get_metrics_result().items()}
        self._check_finite(logs)
        if validation is not None:
            self.model.reset_metrics()
            for batch in self.strategy.experimental_distribute_dataset(validation):
                self._test_step(batch)
            logs |= {f"val_{name}": float(value) for name, value in self.model.get_metrics_result().items()}
        logs["learning_rate"] = float(self._optimizers[0].learning_rate)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        self._write_history()
        monitor = self.monitor if validation is not None else self.monitor.removeprefix("val_")
        if monitor not in logs:
            raise ValueError(f"`monitor`: {monitor!r} is not among {sorted(logs)}, which this model logs.")
        # NaN counts as worse than anything.
        monitored = logs[monitor] if np.isfinite(logs[monitor]) else np.inf
        if monitored < self._best or not self.best_weights.exists():
            self._best = monitored
            self._save_best()
        return logs

    def _check_finite(self, logs):
        if not np.isfinite(logs.get("loss", 0.0)):
            raise FloatingPointError(
                f"The training loss became {logs['loss']}. Train anew into another --out, with a lower learning rate "
                "or in float32; resuming would take the same course."
            )

    def _checkpoints(self):
        """Complete checkpoints, oldest first; TensorFlow writes the index of each last."""
        found = [path.with_suffix("") for path in (self.folder / "checkpoints").glob("last-*.index")]
        return sorted(found, key=lambda path: int(path.name.removeprefix("last-")))

    def _save(self, checkpoint, step):
        # Written once only: writing a checkpoint again in place could damage the one to resume from.
        path = self.folder / "checkpoints" / f"last-{step}"
        if path in self._checkpoints():
            return
        try:
            checkpoint.write(str(path))
        except tf.errors.OpError as error:
            raise OSError(
                f"Could not write the checkpoint {path}: {error.message}. Is the disk full? Make room, then continue "
                "with --resume."
            ) from error
        for old in self._checkpoints()[:-CHECKPOINTS_KEPT]:
            # The index first: without it the rest is no checkpoint any more.
            for file in sorted(old.parent.glob(old.name + ".*"), reverse=True):
                file.unlink()

    def _restore_newest(self, checkpoint):
        """Restore the newest checkpoint that is whole; False if there is none at all."""
        candidates = self._checkpoints()
        for path in reversed(candidates):
            try:
                checkpoint.read(str(path)).assert_consumed()
            except (AssertionError, ValueError) as error:
                raise ValueError(
                    f"The checkpoint {path} does not fit this model: {str(error).splitlines()[0]} It was written by "
                    "another configuration: resume with that one, or train into another folder."
                ) from error
            except (tf.errors.OpError, IndexError) as error:
                logger.warning("The checkpoint %s is damaged (%s); trying the one before.", path, error)
            else:
                return True
        if candidates:
            raise ValueError(
                f"Every checkpoint in {self.folder / 'checkpoints'} is damaged. Delete that folder to train anew with "
                "--resume, or restore it from a backup."
            )
        return False

    def _save_best(self):
        # Not ``save_weights``: that would add the optimizer, twice the size, and ask for the same one when loading.
        self.best_weights.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(self.best_weights) as aside:
            np.savez(aside, **{f"{index:05d}": weight for index, weight in enumerate(self.model.get_weights())})

    def _write_history(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        with written_aside(self.folder / "history.csv") as aside, aside.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *self.history])
            rows = zip(*self.history.values(), strict=True)
            writer.writerows([number, *values] for number, values in enumerate(rows, start=1))

    def _get_state(self, callbacks):
        remembered = [
            {name: _plain(getattr(callback, name)) for name in _state_names(callback)} for callback in callbacks
        ]
        return {
            "callbacks": remembered,
            "history": self.history,
            "best": self._best,
            "stop_training": bool(self.model.stop_training),
        }

    def _set_state(self, state, callbacks):
        if len(state["callbacks"]) != len(callbacks):
            raise ValueError(
                f"The checkpoint was written with {len(state['callbacks'])} callbacks, this run has {len(callbacks)}. "
                "Resume with the same callbacks, or train into another folder."
            )
        for callback, values in zip(callbacks, state["callbacks"], strict=True):
            for name, value in values.items():
                setattr(callback, name, value)
        self.history = state["history"]
        self._best = state["best"]
        self.model.stop_training = state["stop_training"]


def _values(variables):
    return [variable.value for variable in variables]


def _state_names(callback):
    return [name for kind, names in CALLBACK_STATE.items() if isinstance(callback, kind) for name in names]


def _plain(value):
    return value.item() if hasattr(value, "item") else value
