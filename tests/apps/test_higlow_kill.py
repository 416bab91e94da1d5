"""The script of the HIGlow task, killed while its flow trains: what is resumed is what would have been."""

import csv
import json
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import small_hydrogen

from keras_cosmo.export import saved_model
from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.higlow import HIGlowTask

HERE = pathlib.Path(__file__).parent
FLAGS = ["--epochs", "3", "--batch-size", "6", "--blocks", "1", "--steps", "1", "--width", "4", "--grid-cells", "6"]
FLAGS += ["--posterior-maps", "1", "--generated-maps", "2", "--moment-epochs", "0", "--fractions", "0.5", "0.25"]
FLAGS += ["0.25", "--learning-rate", "0.05", "--plateau-patience", "1"]
KILLED_AT = 12  # of five updates in each of three epochs


def test_killed_run_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    """Weights, optimizer, turns and shifts of the maps; the learning rate on a plateau too."""
    monkeypatch.setattr(saved_model, "export_saved_model", lambda model, folder, *_, **__: folder)
    monkeypatch.setattr(HIGlowTask, "figures", lambda *_: {})
    monkeypatch.setattr(HIGlowTask, "signatures", lambda *_: {})
    data = small_hydrogen.write(tmp_path / "hydrogen.h5")
    flags = ["--data", data, "--saved-models", tmp_path / "saved_models", *FLAGS]
    assert main(HIGlowTask(), list(map(str, [*flags, "--out", tmp_path / "whole"]))) == 0

    command = [sys.executable, HERE / "killed_run.py", HERE.parents[1] / "apps" / "train_higlow.py", KILLED_AT]
    command += [*flags, "--out", tmp_path / "killed", "--checkpoint-seconds", "1e-6"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not {"metrics.json", "model.keras"} & {path.name for path in (tmp_path / "killed").iterdir()}
    assert main(HIGlowTask(), ["--resume", "--out", str(tmp_path / "killed")]) == 0

    folders = tmp_path / "whole", tmp_path / "killed"
    assert (folders[0] / "history.csv").read_bytes() == (folders[1] / "history.csv").read_bytes()
    with (folders[0] / "history.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3
    networks = [keras.models.load_model(folder / "model.keras", compile=False) for folder in folders]
    for one, other in zip(*(network.weights for network in networks), strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    assert metrics[0] == metrics[1]
