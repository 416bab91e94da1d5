import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.training.trainer import Trainer

SCRIPT = pathlib.Path(__file__).with_name("train_once.py")
spec = importlib.util.spec_from_file_location("train_once", SCRIPT)
train_once = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train_once)


def variables(model):
    return [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]


def assert_equal(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = train_once.train(folder)
    return folder, trainer


class Stop(Exception):
    """Stands for a crash."""


def crashing(model, at):
    """The model, raising before its step number ``at``."""
    counter = iter(range(1000))
    step = model.train_step

    def crash():
        if next(counter) == at:
            raise Stop

    def train_step(batch):
        with tf.control_dependencies([tf.py_function(crash, [], [])]):
            return step(batch)

    model.train_step = train_step
    return model


@pytest.mark.parametrize("at", [3, 6, 16])
def test_crash_and_resume_equals_uninterrupted(at, tmp_path, uninterrupted):
    with pytest.raises(Exception, match="Stop"):
        train_once.train(tmp_path, crashing(train_once.build(), at))
    resumed = train_once.train(tmp_path)
    folder, reference = uninterrupted
    assert_equal(variables(resumed.model), variables(reference.model))
    assert resumed.history == reference.history
    assert (tmp_path / "history.csv").read_text() == (folder / "history.csv").read_text()
    assert len(set(reference.history["learning_rate"])) > 1, "the plateau never struck: the test shows too little"
    with np.load(resumed.best_weights) as one, np.load(reference.best_weights) as other:
        assert_equal([one[name] for name in one.files], [other[name] for name in other.files])


@pytest.mark.parametrize(
    "moment",
    [
        "step:15",
        pytest.param("step:5", marks=pytest.mark.slow),
        pytest.param("save:9", marks=pytest.mark.slow),
        pytest.param("best:2", marks=pytest.mark.slow),
    ],
)
def test_kill_9_and_resume_equals_uninterrupted(moment, tmp_path, uninterrupted):
    killed = subprocess.run([sys.executable, SCRIPT, tmp_path, moment], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "final.npz").exists()
    subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=True)
    with np.load(tmp_path / "final.npz") as file:
        assert_equal([file[name] for name in file.files], variables(uninterrupted[1].model))


def test_ctrl_c_finishes_the_step_and_saves(tmp_path, uninterrupted):
    model = train_once.build()
    step = model.train_step

    def train_step(batch):
        tf.py_function(
            lambda: os.kill(os.getpid(), signal.SIGINT) if not tmp_path.joinpath("once").exists() else None, [], []
        )
        tf.py_function(lambda: tmp_path.joinpath("once").touch(), [], [])
        return step(batch)

    model.train_step = train_step
    before = signal.getsignal(signal.SIGINT)
    trainer = train_once.train(tmp_path, model, checkpoint_seconds=1000.0)
    assert trainer.interrupted == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
    resumed = train_once.train(tmp_path)
    assert resumed.interrupted is None
    assert_equal(variables(resumed.model), variables(uninterrupted[1].model))


def test_best_weights_are_those_of_the_lowest_validation_loss(uninterrupted):
    _, trainer = uninterrupted
    model = train_once.build()
    Trainer(model, trainer.folder).load_best()
    validation = train_once.Data().training(1000, 1003)
    logs = model.evaluate(validation, return_dict=True, verbose=0)
    np.testing.assert_allclose(logs["loss"], min(trainer.history["val_loss"]), rtol=1e-5)


def test_same_updates_as_keras_fit(tmp_path):
    """One epoch without anything random equals ``model.fit`` on the same batches."""

    def build():
        keras.utils.set_random_seed(5)
        model = keras.Sequential([keras.Input((12, 12)), keras.layers.Flatten(), keras.layers.Dense(2)])
        model.compile(keras.optimizers.RMSprop(1e-2), "mse")
        return model

    data = train_once.Data()
    ours, theirs = build(), build()
    Trainer(ours, tmp_path).fit(data, None, epochs=1)
    history = theirs.fit(data.training(0, data.steps_per_epoch), epochs=1, verbose=0, shuffle=False)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    row = (tmp_path / "history.csv").read_text().splitlines()[1].split(",")
    np.testing.assert_allclose(float(row[1]), history.history["loss"][0], rtol=1e-5)


def test_checkpoint_of_another_network(tmp_path, uninterrupted):
    train_once.train(tmp_path)
    keras.utils.set_random_seed(3)
    other = keras.Sequential([keras.Input((12, 12)), keras.layers.Flatten(), keras.layers.Dense(2)])
    other.compile("rmsprop", "mse", metrics=["mae"])
    with pytest.raises(ValueError, match="does not fit this model"):
        train_once.train(tmp_path, other)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, uninterrupted, caplog):
    with pytest.raises(Exception, match="Stop"):
        train_once.train(tmp_path, crashing(train_once.build(), 9))
    data = sorted((tmp_path / "checkpoints").glob("last-9.data*"))[0]
    data.write_bytes(data.read_bytes()[:100])
    resumed = train_once.train(tmp_path)
    assert "last-9 is damaged" in caplog.text
    assert_equal(variables(resumed.model), variables(uninterrupted[1].model))


def test_only_damaged_checkpoints(tmp_path):
    train_once.train(tmp_path)
    for data in (tmp_path / "checkpoints").glob("last-*.data*"):
        data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"Every checkpoint in .* is damaged"):
        train_once.train(tmp_path)


def test_damaged_best_weights(tmp_path):
    trainer = train_once.train(tmp_path)
    trainer.best_weights.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"best\.npz is damaged"):
        trainer.load_best()


def test_a_finished_run_is_not_written_again(tmp_path):
    train_once.train(tmp_path)
    files = sorted((tmp_path / "checkpoints").glob("last-*"))
    before = [(path.name, path.stat().st_mtime_ns) for path in files]
    assert train_once.train(tmp_path).steps_made == 0
    assert [(path.name, path.stat().st_mtime_ns) for path in files] == before


def test_two_checkpoints_are_kept(uninterrupted):
    kept = sorted(path.name for path in (uninterrupted[0] / "checkpoints").glob("last-*.index"))
    assert kept == ["last-23.index", "last-24.index"]


def test_restoring_best_weights_belongs_to_the_trainer(tmp_path):
    early = keras.callbacks.EarlyStopping(restore_best_weights=True)
    with pytest.raises(ValueError, match="restore_best_weights does not survive"):
        Trainer(train_once.build(), tmp_path).fit(train_once.Data(), None, epochs=1, callbacks=[early])


def test_unknown_monitor(tmp_path):
    data = train_once.Data()
    with pytest.raises(ValueError, match="'val_los' is not among"):
        Trainer(train_once.build(), tmp_path, monitor="val_los").fit(data, data.training(0, 1), epochs=1)


def test_early_stopping_is_remembered(tmp_path):
    data = train_once.Data()

    def stopped(resume):
        trainer = Trainer(train_once.build(), tmp_path)
        patience = keras.callbacks.EarlyStopping(monitor="loss", min_delta=10.0, patience=1)
        return trainer.fit(data, None, epochs=10, callbacks=[patience], resume=resume)

    first = stopped(False)
    assert len(first["loss"]) == 2
    assert stopped(True) == first


def test_callbacks_that_remember_must_come_back(tmp_path):
    data = train_once.Data()

    def fit(*callbacks):
        return Trainer(train_once.build(), tmp_path).fit(data, None, epochs=1, callbacks=callbacks, resume=True)

    plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss")
    fit(plateau)
    # One that only looks on may come with them.
    fit(keras.callbacks.LambdaCallback(), plateau)
    with pytest.raises(ValueError, match="has the state of 1 callbacks, this run has 0 that remember"):
        fit(keras.callbacks.LambdaCallback())


def test_not_compiled(tmp_path):
    model = keras.Sequential([keras.Input((12, 12)), keras.layers.Flatten(), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="not compiled"):
        Trainer(model, tmp_path).fit(train_once.Data(), None, epochs=1)


def test_loss_that_is_not_finite(tmp_path):
    model = train_once.build()
    model.optimizer.learning_rate = 1e30
    with pytest.raises(FloatingPointError, match=r"in step \d+ .*with a lower learning rate"):
        Trainer(model, tmp_path, checkpoint_seconds=0.0).fit(train_once.Data(), None, epochs=3)
    for path in (tmp_path / "checkpoints").glob("last-*.index"):
        reader = tf.train.load_checkpoint(str(path.with_suffix("")))
        for name, _ in tf.train.list_variables(str(path.with_suffix(""))):
            if name.startswith("model/"):
                assert np.isfinite(reader.get_tensor(name)).all(), f"{path} holds a spoilt network"


class Numbered(train_once.Data):
    """The same batches, of which the maps are known."""

    def step_indices(self, step):
        return np.arange(2) + 10 * step


def test_step_that_is_not_finite_is_named(tmp_path):
    """Long before the end of the epoch, and without any checkpoint in between."""
    model, bad = train_once.build(), 3
    once = model.train_step

    def train_step(batch):
        logs = once(batch)
        return logs | {"loss": tf.where(model.optimizer.iterations.value > bad, np.nan, logs["loss"])}

    model.train_step = train_step
    data = Numbered()
    epoch, batch = divmod(bad, data.steps_per_epoch)
    where = re.escape(f"in step {bad + 1} (epoch {epoch + 1}, batch {batch + 1}, maps [30, 31])")
    with pytest.raises(FloatingPointError, match=where + r".*with more care; resuming"):
        Trainer(model, tmp_path, advice="more care").fit(data, None, epochs=50)


def test_validation_that_is_never_finite(tmp_path, caplog):
    model, data = train_once.build(), train_once.Data()
    spoilt = data.training(0, 1).map(lambda maps, targets: (maps, targets * np.nan))
    with pytest.raises(FloatingPointError, match="val_loss was not finite after any of 2 epochs"):
        Trainer(model, tmp_path).fit(data, spoilt, epochs=2)
    assert "val_loss is nan after epoch 1: its weights cannot become the best ones." in caplog.text


def test_tensorboard_events(uninterrupted):
    folder, trainer = uninterrupted
    files = sorted((folder / "tensorboard").rglob("events*"))
    tags = [
        value.tag
        for file in files
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    ]
    assert tags.count("epoch_loss") >= len(trainer.history["loss"])
    assert "epoch_learning_rate" in tags
