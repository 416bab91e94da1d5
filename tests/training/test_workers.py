"""Two processes on this machine train as one: losses, weights, folders."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from keras_cosmo.training.cluster import local_addresses

SCRIPT = pathlib.Path(__file__).with_name("train_together.py")
spec = importlib.util.spec_from_file_location("train_together", SCRIPT)
train_together = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train_together)


def two_workers(folder, kinds):
    """Run both; what they printed is in the message if one fails."""
    addresses = local_addresses(2)
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, SCRIPT, ",".join(kinds), str(folder), str(index), *addresses],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for index in range(2)
    ]
    outputs = [worker.communicate(timeout=1500)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(outputs)


def compare(folder, kinds, tolerance):
    """One process against two: all numbers of the histories, and the weights."""
    for kind in kinds:
        train_together.task_of(kind)[1].write(folder / f"{kind}.h5")
    two_workers(folder, kinds)
    for kind in kinds:
        alone, _ = train_together.train(kind, folder)
        found = [json.loads((folder / f"{kind}-{index}.json").read_text()) for index in range(2)]
        assert found[0] == found[1], "workers that log different numbers would stop at different epochs"
        assert found[1]["told"] == {"greeting": "grüße"}
        assert found[0]["history"].keys() == alone.history.keys()
        assert len(set(alone.history["loss"])) > 1
        assert len(set(alone.history["learning_rate"])) > 1
        for name, values in alone.history.items():
            np.testing.assert_allclose(found[0]["history"][name], values, rtol=tolerance, err_msg=f"{kind} {name}")
        files = [np.load(folder / f"{kind}-{index}.npz") for index in range(2)]
        assert len(files[0].files) == len(alone.model.get_weights())
        for name, one in zip(files[0].files, alone.model.get_weights(), strict=True):
            chief, other = (file[name] for file in files)
            np.testing.assert_array_equal(chief, other)
            np.testing.assert_allclose(chief, one, rtol=1e-3, atol=2e-4)
        assert {path.name for path in (folder / f"{kind}-2").iterdir()} == {"history.csv", "checkpoints", "tensorboard"}
        kept = [path.name for path in (folder / f"{kind}-2" / "checkpoints").iterdir()]
        assert sorted(kept) == sorted(path.name for path in (folder / f"{kind}-1" / "checkpoints").iterdir())


def test_two_workers_equal_one(tmp_path):
    """A supervised network, and a flow whose gradients are clipped; dropout, batch normalisation, ragged validation."""
    compare(tmp_path, ["regression", "higlow"], 2e-6)


def test_two_devices_equal_one(tmp_path):
    """One process with `tf.distribute.MirroredStrategy`, of whose devices one is left without a last batch."""
    train_together.task_of("regression")[1].write(tmp_path / "regression.h5")
    command = [sys.executable, SCRIPT, "regression", str(tmp_path), "mirrored"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    alone, (_, _, prepared) = train_together.train("regression", tmp_path)
    assert len(list(prepared.validation.evaluation())) % 2
    found = json.loads((tmp_path / "regression-mirrored.json").read_text())["history"]
    assert found.keys() == alone.history.keys()
    for name, values in alone.history.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-6, err_msg=name)


@pytest.mark.slow
def test_two_workers_equal_one_for_a_gan(tmp_path):
    compare(tmp_path, ["separation"], 1e-5)
