"""The scripts of the two coeval tasks, killed while they train: what is resumed is what would have been."""

import csv
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_cosmo.export import saved_model
from keras_cosmo.tasks.astro import AstroTask
from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.matter import MatterTask

HERE = pathlib.Path(__file__).parent
APPS = HERE.parents[1] / "apps"
# Ten updates in each of two epochs; the kill is in the second one.
KILLED_AT = 14
DATA = ["--simulations", "14", "--box-cells", "16", "--slabs", "4"]
SMALL = ["--widths", "4", "8", "--batch-size", "4", "--epochs", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kill")


@pytest.fixture(autouse=True)
def nothing_after_the_measurement(monkeypatch):
    """Figures and the SavedModel come after what is compared here, take longer than it, and have tests of their own."""
    monkeypatch.setattr(saved_model, "export_saved_model", lambda model, folder, *_, **__: folder)
    for task in (MatterTask, AstroTask):
        monkeypatch.setattr(task, "figures", lambda *_: {})
        monkeypatch.setattr(task, "signatures", lambda *_: {})


def run(task, folder, name, *flags):
    places = ["--out", folder / name, "--cache", folder / "cache", "--saved-models", folder / "saved_models"]
    assert main(task, [*map(str, places), "--simulation-workers", "1", *map(str, flags)]) == 0


def killed(app, folder, name, *flags):
    """Start the script in a process of its own, which is killed in the middle of an epoch."""
    places = ["--out", folder / name, "--cache", folder / "cache", "--saved-models", folder / "saved_models"]
    command = [sys.executable, HERE / "killed_run.py", APPS / app, KILLED_AT, *places, *flags]
    done = subprocess.run([*map(str, command), "--checkpoint-seconds", "1e-6"], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with (folder / name / "history.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1
    left = {path.name for path in (folder / name).iterdir()}
    assert not left & {"metrics.json", "model.keras", "report.html"}
    return max(int(path.stem.removeprefix("last-")) for path in (folder / name / "checkpoints").glob("last-*.index"))


def assert_equal(first, second):
    """Bit for bit."""
    assert (first / "history.csv").read_bytes() == (second / "history.csv").read_bytes()
    networks = [keras.models.load_model(path / "model.keras", compile=False) for path in (first, second)]
    for one, other in zip(*(network.weights for network in networks), strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


def test_killed_u_net_resumed_equals_uninterrupted(folder):
    run(MatterTask(), folder, "unet", *DATA, *SMALL)
    assert killed("train_matter.py", folder, "killed_unet", *DATA, *SMALL) == KILLED_AT - 1
    run(MatterTask(), folder, "killed_unet", "--resume")
    assert_equal(folder / "unet", folder / "killed_unet")
    assert (folder / "unet" / "spectra_z15.csv").read_text() == (folder / "killed_unet" / "spectra_z15.csv").read_text()


def test_killed_network_on_its_encoder_resumed_equals_uninterrupted(folder):
    """The U-Net's weights are not copied again over those that were trained since."""
    if not (folder / "unet" / "model.keras").exists():
        run(MatterTask(), folder, "unet", *DATA, *SMALL)
    flags = ["--start-from", folder / "unet", *SMALL, "--regression-widths", "8", "8"]
    run(AstroTask(), folder, "astro", *flags)
    assert killed("train_astro.py", folder, "killed_astro", *flags) == KILLED_AT - 1
    run(AstroTask(), folder, "killed_astro", "--resume")
    assert_equal(folder / "astro", folder / "killed_astro")
    assert (folder / "astro" / "metrics.json").read_text() == (folder / "killed_astro" / "metrics.json").read_text()
