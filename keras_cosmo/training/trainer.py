"""The training loop: one for every task and every `tf.distribute` strategy, resumable at any step."""

import contextlib
import csv
import itertools
import json
import logging
import pathlib
import signal
import tempfile
import time
import zipfile

import keras
import numpy as np
import tensorflow as tf

from keras_cosmo import progress
from keras_cosmo.files import written_aside
from keras_cosmo.training.interruption import Interruption
from keras_cosmo.training.replicas import train_as_one
from keras_cosmo.training.worker_lost import LOST, worker_lost_as_such

logger = logging.getLogger(__name__)

CHECKPOINTS_KEPT = 2
# Steps after which their losses are looked at: reading one waits for the device.
LOOK_STEPS = 20
SIGNALS = (signal.SIGINT, signal.SIGTERM)

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

    Under a strategy with several replicas every step is that of one process with the whole batch, up to rounding:
    each replica gets its rows of the batch, losses are means over all rows, and `train_as_one` does the rest. Of
    several workers the chief alone writes the folder; when to save and when to stop is decided together.

    The folder receives ``history.csv``, ``checkpoints/last-*`` (to resume), ``checkpoints/best.npz`` (weights at
    the lowest monitored value) and TensorBoard events under ``tensorboard/``.

    Args:
        model: Compiled model. ``model.train_step`` and ``model.test_step`` do the work, so a model with its own
            ``train_step`` and several optimizers (attribute ``optimizers``) trains on the same loop.
        folder: Run folder, which all workers can read.
        strategy: ``tf.distribute`` strategy, under which the model was built. Defaults to that of the workers, or the
            current one.
        workers: `keras_cosmo.training.workers.Workers`, or None if this process trains alone.
        monitor: Name in the epoch's logs whose minimum marks the best weights. Defaults to "val_loss".
        checkpoint_seconds: Seconds between checkpoints, looked at after every step. Defaults to 30.
        progress: Whether to show a progress bar.
        advice: What to train with instead if the loss is no longer finite, as the end of a sentence.

    Attributes:
        history: Dict of lists, one entry per finished epoch.
        steps_made: Number of updates that the last `fit` made itself.
        interrupted: The signal that ended training early, or None.
    """

    def __init__(
        self,
        model,
        folder,
        *,
        strategy=None,
        workers=None,
        monitor="val_loss",
        checkpoint_seconds=30.0,
        progress=False,
        advice="a lower learning rate, or float32",
    ):
        self.model = model
        self.folder = pathlib.Path(folder)
        self.strategy = strategy or (workers.strategy if workers else tf.distribute.get_strategy())
        self.workers = workers
        self.monitor = monitor
        self.checkpoint_seconds = checkpoint_seconds
        self.progress = progress
        self.advice = advice
        self.history = {}
        self.interrupted = None
        self.steps_made = 0
        self._best = np.inf
        self._saved = None
        self._as_one = False
        self._optimizers = []
        self._writes = workers is None or workers.is_chief
        self._replicas = self.strategy.num_replicas_in_sync
        # Numbers of the replicas of this process: several where it has several devices.
        count = len(self.strategy.extended.worker_devices) if self._replicas > 1 else 1
        first = workers.index * count if workers else 0
        self._here = range(first, first + count)
        self._train_step = tf.function(lambda batch: self._on_replicas(model.train_step, batch))
        self._test_step = tf.function(lambda batch: self._on_replicas(self._test, batch), reduce_retracing=True)

    @property
    def best_weights(self) -> pathlib.Path:
        """File of the weights with the lowest monitored value so far, in the order of ``model.weights``."""
        return self.folder / "checkpoints" / "best.npz"

    @property
    def has_checkpoint(self) -> bool:
        """Whether the folder holds a checkpoint to resume from."""
        return bool(self._checkpoints())

    def load_best(self, model=None) -> None:
        """Give the model, or another one of the same kind, the best weights; the optimizer is not touched.

        Raises:
            ValueError: If the file is damaged, or belongs to another network.
        """
        try:
            with np.load(self.best_weights) as file:
                (model or self.model).set_weights([file[name] for name in sorted(file.files)])
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise ValueError(
                f"{self.best_weights} is damaged or of another network: {error}. Delete it and train on with --resume."
            ) from error

    def fit(self, training, validation, *, epochs, callbacks=(), resume=False):
        """Train until ``epochs`` are done, a callback stops, or Ctrl-C.

        Args:
            training: Object with ``steps_per_epoch`` and ``training(start_step, total_steps)`` that returns a
                ``tf.data.Dataset`` whose element k depends on k alone. For several replicas also with ``batch_size``
                and ``training(start_step, total_steps, part, parts)`` for a part of the rows of each element, as
                `keras_cosmo.data.step_pipeline.StepPipeline` has it.
            validation: Object with ``evaluation(part=part, parts=parts)`` that returns every ``parts``-th batch as a
                ``tf.data.Dataset``, or such a dataset with all batches, read once per epoch; or None.
            epochs: Total number of epochs, those before a resume included.
            callbacks: Keras callbacks; their ends of epochs are called, with the learning rate among the logs.
            resume: Continue from the last checkpoint of the folder, if there is one.

        Returns:
            The history, a dict of lists with one entry per epoch.

        Raises:
            ValueError: If the model is not compiled, the checkpoint does not fit it, or the batches cannot be divided
                among the replicas.
            FloatingPointError: If the training loss is no longer finite, at the latest `LOOK_STEPS` steps later, or if
                the monitored value was not finite after any epoch.
            WorkerLost: If one of several workers died.
        """
        callbacks = list(callbacks)
        if any(getattr(callback, "restore_best_weights", False) for callback in callbacks):
            raise ValueError(
                "`callbacks`: restore_best_weights does not survive a kill; `Trainer.load_best` does that."
            )
        self.check_batch(training)
        self._saved = None
        # Not under the strategy, which could not copy text to all replicas.
        step = tf.Variable(0, dtype=tf.int64, trainable=False)
        state = tf.Variable("{}", trainable=False)
        with self._together():
            return self._fit(training, validation, epochs, callbacks, resume, step, state)

    def check_batch(self, training) -> None:
        """Raise ``ValueError`` if the batches of ``training`` cannot be divided among the replicas."""
        if self._replicas > 1 and training.batch_size % self._replicas:
            raise ValueError(
                f"--batch-size: {training.batch_size} examples per update cannot be divided among {self._replicas} "
                f"workers. Choose a multiple of {self._replicas}, or another number of workers."
            )

    def copy_into(self, model) -> None:
        """Give another compiled model of the same kind all variables, those of the optimizers too."""
        optimizers = _optimizers_of(model)
        for optimizer in optimizers:
            if not optimizer.built:
                optimizer.build(model.trainable_variables)
        for one, other in zip([self.model, *self._optimizers], [model, *optimizers], strict=True):
            for source, target in zip(one.variables, other.variables, strict=True):
                target.assign(source.numpy())

    def _fit(self, training, validation, epochs, callbacks, resume, step, state):
        steps_per_epoch = training.steps_per_epoch
        total_steps = epochs * steps_per_epoch
        self._build(training)

        boards = [keras.callbacks.TensorBoard(self.folder / "tensorboard", write_graph=False)] if self._writes else []
        callback_list = keras.callbacks.CallbackList([*callbacks, *boards], add_history=False, model=self.model)
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
            self._check_steps(recent, training)
            # At the end of an epoch they are those of the validation.
            if done % steps_per_epoch:
                self._check_finite({name: float(value) for name, value in self.model.get_metrics_result().items()})
            # The loss of a step is that of the weights before it.
            if not all(np.isfinite(weight).all() for weight in self.model.get_weights()):
                self._check_finite({"loss": np.nan})
            state.assign(json.dumps(self._get_state(callbacks)))
            self._save(checkpoint, int(step))

        first = done = int(step)
        last_save = time.monotonic()
        stop, recent = None, []
        batches = self._training_batches(training, done, max(done, total_steps))
        disable = not (self.progress and self._writes)
        steps = progress.bar(total=total_steps, initial=done, disable=disable, unit="step", desc="training")
        with Interruption() as interruption, steps:
            while done < total_steps and not self.model.stop_training and not stop:
                epoch, step_in_epoch = divmod(done, steps_per_epoch)
                if step_in_epoch == 0:
                    self.model.reset_metrics()
                    callback_list.on_epoch_begin(epoch)
                recent.append((done, self._train_step(next(batches))))
                step.assign_add(1)
                done += 1
                steps.update()
                if done % LOOK_STEPS == 0 or done % steps_per_epoch == 0:
                    self._check_steps(recent, training)
                if done % steps_per_epoch == 0:
                    logs = self._end_epoch(epoch, validation)
                    callback_list.on_epoch_end(epoch, logs)
                    steps.set_postfix({name: f"{value:.4g}" for name, value in logs.items() if "loss" in name})
                due = time.monotonic() - last_save > self.checkpoint_seconds
                due, stop = self._agree(due, interruption.received)
                if due:
                    save()
                    last_save = time.monotonic()
            self.interrupted = stop
            save()
        if self.history and not np.isfinite(self._best):
            raise FloatingPointError(
                f"{self.monitor} was not finite after any of {len(next(iter(self.history.values())))} epochs, so no "
                f"weights are the best. Look for maps unlike those of the training, or train anew into another --out "
                f"with {self.advice}."
            )
        self.steps_made = done - first
        callback_list.on_train_end()
        return self.history

    @contextlib.contextmanager
    def _together(self):
        """Under the strategy, where there is more than one replica; what a worker that died causes is said as such."""
        if self._replicas == 1:
            yield
            return
        with worker_lost_as_such("training") if self.workers else contextlib.nullcontext(), self.strategy.scope():
            yield

    def _build(self, training):
        """Make every variable, so that a checkpoint can name them all before the first step."""
        self._optimizers = _optimizers_of(self.model)
        for optimizer in self._optimizers:
            if not optimizer.built:
                optimizer.build(self.model.trainable_variables)
        if self._replicas > 1 and not self._as_one:
            train_as_one(self.model, self._optimizers)
            self._as_one = True
        # Keras makes the variables of compiled metrics at their first update; testing changes no weight.
        for batch in self._training_batches(training, 0, 1):
            self._test_step(batch) if self._replicas > 1 else self.model.test_step(batch)
        self.model.reset_metrics()

    def _on_replicas(self, step, batch):
        logs = self.strategy.run(step, args=(batch,))
        # Not needed, since the model keeps its metrics; but without them TensorFlow would make another graph, which
        # rounds otherwise.
        return logs if self._replicas == 1 else None

    def _test(self, batch):
        if len(self._here) == 1:
            return self.model.test_step(batch)

        def tested():
            self.model.test_step(batch)
            return True

        # A replica for which no batch is left gets an empty one, of which there is no mean.
        rows = tf.shape(tf.nest.flatten(batch)[0])[0]
        return tf.cond(rows > 0, tested, lambda: False)

    def _training_batches(self, training, start, stop):
        """For every step the rows of all replicas of this process."""
        if self._replicas == 1:
            return iter(training.training(start, stop))
        parts = [training.training(start, stop, part, self._replicas) for part in self._here]
        return map(self._per_replica, zip(*parts, strict=True))

    def _validation_batches(self, validation):
        """Every batch once on one of the replicas. Nothing is exchanged, so workers may have different numbers."""
        if self._replicas == 1:
            yield from validation.evaluation() if hasattr(validation, "evaluation") else validation
            return
        if hasattr(validation, "evaluation"):
            parts = [validation.evaluation(part=part, parts=self._replicas) for part in self._here]
        else:
            parts = [validation.shard(self._replicas, part) for part in self._here]
        for batches in itertools.zip_longest(*parts):
            empty = tf.nest.map_structure(lambda array: array[:0], batches[0])
            yield self._per_replica([empty if batch is None else batch for batch in batches])

    def _per_replica(self, batches):
        if len(batches) == 1:
            return batches[0]
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: batches[context.replica_id_in_sync_group - self._here.start]
        )

    def _agree(self, due, received):
        """Whether all workers save, by the chief's clock, and the signal that any of them got."""
        if not self.workers:
            return due, received
        wishes = [due and self._writes, *(received == number for number in SIGNALS)]
        due, *signals = self.workers.sums([float(wish) for wish in wishes]) > 0
        return due, next((number for number, got in zip(SIGNALS, signals, strict=True) if got), None)

    def _end_epoch(self, epoch, validation):
        """Metrics of the epoch, validation, history and best weights; returns the epoch's logs."""
        logs = {name: float(value) for name, value in self.model.get_metrics_result().items()}
        self._check_finite(logs)
        if validation is not None:
            self.model.reset_metrics()
            for batch in self._validation_batches(validation):
                self._test_step(batch)
            logs |= {f"val_{name}": float(value) for name, value in self.model.get_metrics_result().items()}
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self._optimizers[0].learning_rate))
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        self._write_history()
        monitor = self.monitor if validation is not None else self.monitor.removeprefix("val_")
        if monitor not in logs:
            raise ValueError(f"`monitor`: {monitor!r} is not among {sorted(logs)}, which this model logs.")
        # NaN counts as worse than anything.
        monitored = logs[monitor] if np.isfinite(logs[monitor]) else np.inf
        if monitored == np.inf:
            logger.warning(
                "%s is %s after epoch %d: its weights cannot become the best ones.", monitor, logs[monitor], epoch + 1
            )
        if monitored < self._best or not self.best_weights.exists():
            self._best = monitored
            self._save_best()
        return logs

    def _check_steps(self, recent, training):
        """Raise at the first of the recent steps whose loss was not finite; then forget them."""
        for done, logs in recent:
            loss = float(logs["loss"]) if logs and "loss" in logs else 0.0
            if not np.isfinite(loss):
                epoch, batch = divmod(done, training.steps_per_epoch)
                maps = f", maps {training.step_indices(done).tolist()}" if hasattr(training, "step_indices") else ""
                self._check_finite({"loss": loss}, f" in step {done + 1} (epoch {epoch + 1}, batch {batch + 1}{maps})")
        recent.clear()

    def _check_finite(self, logs, where=""):
        if not np.isfinite(logs.get("loss", 0.0)):
            raise FloatingPointError(
                f"The training loss became {logs['loss']}{where}. Train anew into another --out, with {self.advice}; "
                "resuming would take the same course."
            )

    def _checkpoints(self):
        """Complete checkpoints, oldest first; TensorFlow writes the index of each last."""
        found = [path.with_suffix("") for path in (self.folder / "checkpoints").glob("last-*.index")]
        return sorted(found, key=lambda path: int(path.name.removeprefix("last-")))

    def _save(self, checkpoint, step):
        # Written once only: writing a checkpoint again in place could damage the one to resume from.
        if step == self._saved:
            return
        self._saved = step
        if not self._writes:
            # Reading the metrics, which are sums over all replicas, takes all workers.
            with tempfile.TemporaryDirectory() as folder:
                checkpoint.write(f"{folder}/last-{step}")
            return
        path = self.folder / "checkpoints" / f"last-{step}"
        try:
            checkpoint.write(str(path))
        except tf.errors.OpError as error:
            if isinstance(error, LOST):
                raise
            raise OSError(
                f"Could not write the checkpoint {path}: {error.message}. Is the disk full? Make room, then continue "
                "with --resume."
            ) from error
        for old in self._checkpoints()[:-CHECKPOINTS_KEPT]:
            # The index first: without it the rest is no checkpoint any more.
            for file in sorted(old.parent.glob(old.name + ".*"), reverse=True):
                file.unlink()

    def _restore_newest(self, checkpoint):
        """Restore the newest checkpoint that is whole; False if there is none at all. The chief says which it is."""
        if self._writes:
            path = self._restore_whole(checkpoint)
            name = path and path.name
        if self.workers:
            name = self.workers.tell(name if self._writes else None)
        if name and not self._writes:
            checkpoint.read(str(self.folder / "checkpoints" / name)).assert_consumed()
        self._saved = name and int(name.removeprefix("last-"))
        return bool(name)

    def _restore_whole(self, checkpoint):
        """The newest checkpoint that is whole, restored, or None."""
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
                return path
        if candidates:
            raise ValueError(
                f"Every checkpoint in {self.folder / 'checkpoints'} is damaged. Delete that folder to train anew with "
                "--resume, or restore it from a backup."
            )
        return None

    def _save_best(self):
        if not self._writes:
            return
        # Not ``save_weights``: that would add the optimizer, twice the size, and ask for the same one when loading.
        self.best_weights.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(self.best_weights) as aside:
            np.savez(aside, **{f"{index:05d}": weight for index, weight in enumerate(self.model.get_weights())})

    def _write_history(self):
        if not self._writes:
            return
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
            # One that only looks on may come or go.
            "callbacks": [values for values in remembered if values],
            "history": self.history,
            "best": self._best,
            "stop_training": bool(self.model.stop_training),
        }

    def _set_state(self, state, callbacks):
        remembering = [callback for callback in callbacks if _state_names(callback)]
        saved = [values for values in state["callbacks"] if values]
        if len(saved) != len(remembering):
            raise ValueError(
                f"The checkpoint has the state of {len(saved)} callbacks, this run has {len(remembering)} that "
                "remember something between epochs. Resume with the same callbacks, or train into another folder."
            )
        for callback, values in zip(remembering, saved, strict=True):
            for name, value in values.items():
                setattr(callback, name, value)
        self.history = state["history"]
        self._best = state["best"]
        self.model.stop_training = state["stop_training"]


def _optimizers_of(model):
    optimizers = getattr(model, "optimizers", None) or [getattr(model, "optimizer", None)]
    if any(optimizer is None for optimizer in optimizers):
        raise ValueError("`model` is not compiled: call model.compile(optimizer=..., loss=...) before training.")
    return list(optimizers)


def _values(variables):
    return [variable.value for variable in variables]


def _state_names(callback):
    return [name for kind, names in CALLBACK_STATE.items() if isinstance(callback, kind) for name in names]


def _plain(value):
    return value.item() if hasattr(value, "item") else value
