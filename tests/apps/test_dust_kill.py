"""The script of the dust task, killed while its U-Net trains: what is resumed is what would have been."""

import csv
import json
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import small_skies

from keras_cosmo.export import saved_model
from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.dust import DustTask

HERE = pathlib.Path(__file__).parent
FLAGS = ["--epochs", "2", "--batch-size", "4", "--cutout-cells", "16", "--pixel-size", "93.6", "--widths", "4", "8"]
FLAGS += ["--bottleneck", "8", "--train-cutouts", "24", "--test-cutouts", "12", "--validation-cutouts", "8"]
FLAGS += ["--fractions", "0.5", "0.25", "0.25"]
KILLED_AT = 9  # of six updates in each of two epochs


def test_killed_run_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    """Weights, optimizer, dropout and fresh cutouts; the learning rate too."""
    monkeypatch.setattr(saved_model, "export_saved_model", lambda model, folder, *_, **__: folder)
    monkeypatch.setattr(DustTask, "figures", lambda *_: {})
    monkeypatch.setattr(DustTask, "signatures", lambda *_: {})
    data = small_skies.write(tmp_path / "skies.h5")
    flags = ["--data", data, "--saved-models", tmp_path / "saved_models", *FLAGS]
    assert main(DustTask(), list(map(str, [*flags, "--out", tmp_path / "whole"]))) == 0

    command = [sys.executable, HERE / "killed_run.py", HERE.parents[1] / "apps" / "train_dust.py", KILLED_AT]
    command += [*flags, "--out", tmp_path / "killed", "--checkpoint-seconds", "1e-6"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not {"metrics.json", "model.keras"} & {path.name for path in (tmp_path / "killed").iterdir()}
    assert main(DustTask(), ["--resume", "--out", str(tmp_path / "killed")]) == 0

    folders = tmp_path / "whole", tmp_path / "killed"
    assert (folders[0] / "history.csv").read_bytes() == (folders[1] / "history.csv").read_bytes()
    with (folders[0] / "history.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    networks = [keras.models.load_model(folder / "model.keras", compile=False) for folder in folders]
    for one, other in zip(*(network.weights for network in networks), strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    assert metrics[0] == metrics[1]
