import csv
import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
import small_coeval
import tensorflow as tf
from scipy.stats import spearmanr

from keras_cosmo.data.database import Database
from keras_cosmo.tasks.astro import PRESETS, AstroTask
from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.matter import MatterTask
from keras_cosmo.tasks.settings import settings_from

TASK = AstroTask()
SMALL = dataclasses.replace(
    PRESETS["quick"], batch_size=8, epochs=1, widths=(4, 8), regression_widths=(8, 8), encoder="scratch"
)
UNET = ["--batch-size", "8", "--widths", "4", "8"]
FLAGS = [*UNET, "--regression-widths", "8", "8", "--epochs", "2"]


def run(folder, *flags, task=TASK):
    return main(task, [*map(str, flags), "--saved-models", str(folder / "saved_models")])


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """A finished run of the U-Net."""
    folder = tmp_path_factory.mktemp("unet")
    data = small_coeval.write(folder / "boxes.h5", simulations=30)
    flags = ["--data", data, "--out", folder / "run", "--epochs", "3", *UNET]
    assert run(folder, *flags, task=MatterTask()) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def compared(unet, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    flags = ["--start-from", unet, "--encoder", "all", "--out", folder / "run", *FLAGS, "--epochs", "20"]
    assert run(folder, *flags) == 0
    return folder


def encoder_weights(path):
    network = keras.models.load_model(path / "model.keras", compile=False)
    return [network.get_layer(name).get_weights() for name in network.encoder_layer_names]


def equal(first, second):
    return all(
        np.array_equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_the_three_encoders_side_by_side(compared, unet):
    metrics = json.loads((compared / "run" / "metrics.json").read_text())
    assert {"scratch/r2/mean", "frozen/r2/mean", "fine-tune/r2/mean"} <= set(metrics)
    report = (compared / "run" / "report.html").read_text()
    for word in ("frozen", "fine-tune", "scratch", "0.76", "0.89"):
        assert word in report
    for part in ("What this is not", "What was run", "--encoder all", "by simulation: 20 training", "How to cite"):
        assert part in report
    assert {path.stem for path in (compared / "run" / "figures").iterdir()} == {"recovery", "encoder_comparison"}
    parent = encoder_weights(unet)
    assert equal(encoder_weights(compared / "run" / "frozen"), parent)
    assert not equal(encoder_weights(compared / "run" / "fine-tune"), parent)
    # What the table says is what the runs wrote.
    for encoder in ("scratch", "frozen", "fine-tune"):
        with (compared / "run" / encoder / "predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        scores = []
        for name in ("log10_L_X", "log10_M_min", "log10_N_gamma"):
            true, predicted = (np.array([float(r[f"{name}_{kind}"]) for r in rows]) for kind in ("true", "predicted"))
            scores.append(1 - ((predicted - true) ** 2).sum() / ((true - true.mean()) ** 2).sum())
        np.testing.assert_allclose(metrics[f"{encoder}/r2/mean"], np.mean(scores), atol=2e-3)
    # The encoder trained along is the one that is served.
    versions = sorted(path.name for path in (compared / "saved_models" / "astro").iterdir())
    assert versions == ["1", "2", "3"]


def test_it_learns(compared):
    """The made-up maps hold the parameters in their mean and spread."""
    metrics = json.loads((compared / "run" / "metrics.json").read_text())
    assert metrics["fine-tune/baseline/r2/mean"] > 0.2
    with (compared / "run" / "scratch" / "history.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_run_leaves_saliency_behind(compared):
    folder = compared / "run" / "fine-tune"
    assert {path.stem for path in (folder / "figures").iterdir()} == {
        "recovery",
        "saliency_pixels",
        "saliency_density",
        "saliency_statistics",
        "saliency_randomization",
        "loss_history",
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    assert abs(metrics["saliency/rank_correlation_with_random/log10_M_min"]) < 0.9
    assert metrics["paper/r2/mean"] == 0.89


def test_signatures(compared):
    """Named parameters, and their gradients: a small change of one pixel moves a parameter as the saliency says."""
    config = json.loads((compared / "run" / "fine-tune" / "config.json").read_text())
    database = Database(config["data"]["path"])
    served = tf.saved_model.load(str(compared / "saved_models" / "astro" / "3"))
    maps = database.read("brightness_temp_z15", [0, 1, 2])
    parameters = served.signatures["serving_default"](brightness_temp=tf.constant(maps))
    assert {name: value.shape for name, value in parameters.items()} == dict.fromkeys(database.parameter_names, (3,))
    saliency = served.signatures["saliency"](brightness_temp=tf.constant(maps))
    assert {name: value.shape for name, value in saliency.items()} == dict.fromkeys(
        database.parameter_names, (3, 16, 16)
    )
    gradient = saliency["log10_L_X"].numpy()[1]
    place = np.unravel_index(gradient.argmax(), gradient.shape)
    changed = maps.copy()
    changed[1][place] += 0.5
    moved = served.signatures["serving_default"](brightness_temp=tf.constant(changed))
    slope = abs(float(moved["log10_L_X"][1] - parameters["log10_L_X"][1])) / 0.5
    np.testing.assert_allclose(slope, gradient[place], rtol=0.2)
    np.testing.assert_allclose(moved["log10_L_X"][0], parameters["log10_L_X"][0], rtol=1e-6)
    for name in ("serving_default", "saliency"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"brightness_temp.*\[\d+,15,16\].*\[\?,16,16\]"):
            served.signatures[name](brightness_temp=tf.constant(maps[:, 1:]))


@pytest.mark.usefixtures("undrawn_figures")
def test_resume_of_the_comparison(unet, compared, tmp_path, capsys, monkeypatch):
    """Killed in the first, then in the second of the three runs: what is finished is not made again."""
    from keras_cosmo.training.trainer import Trainer

    fit, calls = Trainer.fit, []

    def stopped(self, *arguments, **options):
        calls.append(self.folder.name)
        if len(calls) in (1, 3):
            raise KeyboardInterrupt
        return fit(self, *arguments, **options)

    flags = ["--start-from", unet, "--encoder", "all", "--out", tmp_path / "run", *FLAGS]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", stopped)
        assert run(tmp_path, *flags) == 130
        assert "--resume" in capsys.readouterr().err
        assert run(tmp_path, "--out", tmp_path / "run", "--resume") == 130
    assert calls == ["frozen", "frozen", "scratch"]
    assert run(tmp_path, "--out", tmp_path / "run", "--resume") == 0
    assert sorted(path.name for path in (tmp_path / "saved_models" / "astro").iterdir()) == ["1", "2", "3"]
    assert (tmp_path / "run" / "report.html").exists()


def test_the_data_are_those_of_the_unet(compared, unet):
    theirs = json.loads((unet / "config.json").read_text())
    for encoder in ("scratch", "frozen"):
        config = json.loads((compared / "run" / encoder / "config.json").read_text())
        assert config["data"]["fingerprint"] == theirs["data"]["fingerprint"]
        assert config["split"] == theirs["split"]
    frozen = json.loads((compared / "run" / "frozen" / "config.json").read_text())
    assert frozen["normalization"]["brightness_temp_z15"] == theirs["normalization"]["brightness_temp_z15"]


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--encoder", "frozen"], 2, "takes the encoder of a trained U-Net: name its run with --start-from"),
        (["--encoder", "scratch", "START"], 2, "Leave one of them out"),
        (["START", "--start-normalization", "refit"], 2, "an encoder needs the normalisation it was trained with"),
        (["START", "--seed", "5"], 1, "the splits differ. Use --seed 0"),
        (["START", "--redshifts", "10"], 1, "reads redshifts 15.0, this run 10.0"),
        (["START", "--widths", "4", "6"], 1, "The flags are --widths, --kernel-size, --padding"),
        (["--start-from", "/nowhere"], 1, "holds no run"),
        (["START", "--encoder", "all", "--redshifts", "10"], 1, "reads redshifts 15.0, this run 10.0"),
        (["START", "--encoder", "all", "--widths", "4", "6"], 1, "The flags are --widths, --kernel-size, --padding"),
        (["START", "--simulations", "40", "--slabs", "8"], 1, "--simulations, --slabs: only for simulated data"),
    ],
)
def test_starts_that_do_not_fit(flags, status, message, unet, tmp_path, capsys):
    flags = [part for flag in flags for part in (["--start-from", unet] if flag == "START" else [flag])]
    assert run(tmp_path, *FLAGS, "--out", tmp_path / "run", *flags) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_comparison_is_no_start(compared, tmp_path, capsys):
    flags = ["--start-from", compared / "run", "--out", tmp_path / "run"]
    assert run(tmp_path, *FLAGS, *flags) == 1
    assert "holds three runs: choose one of its folders frozen, scratch, fine-tune" in capsys.readouterr().err


def test_data_of_the_unet_that_are_gone_are_not_simulated_anew(unet, tmp_path, capsys):
    shutil.copytree(unet, tmp_path / "unet")
    path = tmp_path / "unet" / "config.json"
    config = json.loads(path.read_text())
    config["data"]["path"] = str(tmp_path / "gone.h5")
    path.write_text(json.dumps(config))
    for encoder in ("frozen", "all"):
        flags = ["--start-from", tmp_path / "unet", "--encoder", encoder, "--out", tmp_path / "run"]
        assert run(tmp_path, *FLAGS, *flags) == 1
        assert "gone.h5 is missing, the data of --start-from" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_a_unet_of_boxes_without_parameters_is_a_start(unet, tmp_path):
    """It predicts none; its encoder serves for any."""
    data = small_coeval.write(tmp_path / "boxes.h5", seed=7)
    shutil.copytree(unet, tmp_path / "unet")
    path = tmp_path / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parameters": []}))
    prepared = TASK.prepare(SMALL, Database(data), seed=0)
    start = json.loads(path.read_text())
    settings = settings_from(TASK, {"start_from": tmp_path / "unet", "data": data, "out": tmp_path / "run"})
    TASK.check_start(settings, start, prepared)
    with pytest.raises(ValueError, match=r"predicts \[\], but"):
        TASK.check_start(settings, start | {"task": "astro"}, prepared)


def test_a_parameter_that_does_not_vary(tmp_path, capsys):
    import h5py

    path = small_coeval.write(tmp_path / "boxes.h5")
    with h5py.File(path, "r+") as file:
        file["parameters"][:, 1] = 8.5
    assert run(tmp_path, "--data", path, "--encoder", "scratch", "--out", tmp_path / "run", *FLAGS) == 1
    assert "log10_M_min has one value in all 14 simulations of the training" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_maps_too_small_for_the_baseline(tmp_path, capsys):
    path = small_coeval.write(tmp_path / "boxes.h5", side=8)
    assert run(tmp_path, "--data", path, "--encoder", "scratch", "--out", tmp_path / "run", *FLAGS) == 1
    assert "boxes.h5: expected maps of 16 cells along each side at least" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_saliency_metrics_are_of_whole_maps():
    """Rank correlation by SciPy over all pixels of a map; a map without any structure is left out."""
    generator = np.random.default_rng(0)
    gradients, random = np.abs(generator.standard_normal((2, 3, 1, 6, 8)))
    brightness = generator.standard_normal((3, 6, 8))
    brightness[2], random[2] = -3.0, 1.0
    looked = {"saliency_maps": brightness, "saliency": gradients, "random_saliency": random}
    metrics = TASK.saliency_metrics(["log10_L_X"], looked)
    expected = [spearmanr(gradients[row, 0], random[row, 0], axis=None).statistic for row in range(2)]
    np.testing.assert_allclose(metrics["saliency/rank_correlation_with_random/log10_L_X"], np.mean(expected))
    normalised = [(image - image.mean()) / image.std() for image in brightness[:2]]
    expected = [image.ravel()[gradients[row].argmax()] for row, image in enumerate(normalised)]
    np.testing.assert_allclose(metrics["saliency/brightness_of_brightest/log10_L_X"], np.mean(expected))


def test_order_of_parameters(tmp_path, capsys):
    import h5py

    path = small_coeval.write(tmp_path / "boxes.h5")
    with h5py.File(path, "r+") as file:
        file["parameters"].attrs["names"] = list(file["parameters"].attrs["names"])[::-1]
    assert run(tmp_path, "--data", path, "--encoder", "scratch", "--out", tmp_path / "run", *FLAGS) == 1
    assert "expected the parameters log10_L_X, log10_M_min, log10_N_gamma" in capsys.readouterr().err


CHANGES = {
    "encoder": "frozen",
    "regression_widths": (8, 12),
    "dense_units": 50,
    "dropout": 0.5,
    "epochs": 7,
    "redshifts": (10.0,),
}


@pytest.mark.parametrize("field", CHANGES)
def test_moving_a_field_changes_something(field, tmp_path_factory, tmp_path):
    database = Database(small_coeval.write(tmp_path / "boxes.h5"))

    def everything(preset):
        prepared = TASK.prepare(preset, database, seed=1)
        model = TASK.model(preset, database, prepared.normalization, "float32")
        return model.get_config(), preset.epochs

    assert everything(SMALL) != everything(dataclasses.replace(SMALL, **{field: CHANGES[field]}))


def test_paper_values_belong_to_their_encoder_and_redshift():
    quoted = {
        (encoder, z): TASK.paper_values(dataclasses.replace(SMALL, encoder=encoder, redshifts=(z,))).get("r2/mean")
        for encoder in ("scratch", "frozen", "fine-tune")
        for z in (10.0, 15.0)
    }
    assert {key: value for key, value in quoted.items() if value} == {
        ("frozen", 15.0): 0.76,
        ("fine-tune", 15.0): 0.89,
        ("fine-tune", 10.0): 0.97,
    }
