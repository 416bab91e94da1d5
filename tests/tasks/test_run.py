import csv
import html
import json
import re
import shutil
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
import small_lightcones
import tensorflow as tf

from keras_cosmo.models.replace_layers import replace_layers
from keras_cosmo.tasks.command_line import as_flags, innermost, main
from keras_cosmo.tasks.regression import RegressionTask

FLAGS = ["--epochs", "2", "--batch-size", "8"]


def run(folder, *flags, task=None):
    return main(task or RegressionTask(), [*map(str, flags), "--saved-models", str(folder / "saved_models")])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    data = small_lightcones.write(folder / "cones.h5")
    assert run(folder, "--data", data, "--out", folder / "run", *FLAGS, "--epochs", "12") == 0
    return folder


def test_what_a_run_leaves_behind(done, tmp_path):
    folder = done / "run"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "history.csv",
        "checkpoints",
        "tensorboard",
        "metrics.json",
        "predictions.csv",
        "averaged_predictions.csv",
        "binned_residuals.csv",
        "figures",
        "report.html",
        "model.keras",
    }
    assert {path.stem for path in (folder / "figures").iterdir()} == {
        "lightcones",
        "loss_history",
        "predicted_against_true",
        "scores",
        "first_layer_filters",
        "first_layer_responses",
    }
    report = html.unescape((folder / "report.html").read_text())
    config = json.loads((folder / "config.json").read_text())
    for text in (
        f"apps/train_regression.py --preset quick --batch-size 8 --epochs 12 --out {folder} --data {done}/cones.h5",
        f"<dt>started</dt>\n  <dd>{config['started']}</dd>",
        f"<dt>checksum</dt>\n  <dd>{config['data']['fingerprint']}</dd>",
        f"keras {keras.__version__}",
        "What this is not",
        "@article{Gillet2019,",
        "@software{keras_cosmo,",
    ):
        assert text in report
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["paper/r2/log10_T_vir"] == 0.997
    assert metrics["baseline/r2/zeta"] > 0.9, "the made-up cones are linear in the parameters"
    assert config["settings"]["preset"]["epochs"] == 12
    assert config["data"]["fingerprint"].startswith("sha256:")
    assert set(config["split"]) >= {"train", "validation", "test"}
    assert (done / "saved_models" / "lightcone_regressor" / "1" / "saved_model.pb").exists()
    assert not list(done.rglob("*.partial"))


def test_metrics_are_those_of_the_written_predictions(done):
    """From the files alone, with the formula of the paper."""
    with (done / "run" / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["scored"] == "1"]
    metrics = json.loads((done / "run" / "metrics.json").read_text())
    config = json.loads((done / "run" / "config.json").read_text())
    assert {int(row["simulation"]) for row in rows} == set(config["split"]["test"])
    for name in ("zeta", "log10_L_X", "log10_T_vir", "E_0"):
        true, predicted = (np.array([float(row[f"{name}_{kind}"]) for row in rows]) for kind in ("true", "predicted"))
        r2 = 1 - ((predicted - true) ** 2).sum() / ((true - true.mean()) ** 2).sum()
        np.testing.assert_allclose(metrics[f"r2/{name}"], r2, rtol=1e-4, atol=1e-6)


def test_model_reloads_in_a_fresh_process_with_equal_predictions(done):
    maps = np.random.default_rng(0).normal(0, 30, (3, *small_lightcones.SHAPE)).astype("float32")
    np.save(done / "maps.npy", maps)
    code = (
        "import numpy as np, keras, keras_cosmo.models.lightcone_regressor, keras_cosmo.losses\n"
        f"model = keras.models.load_model({str(done / 'run' / 'model.keras')!r})\n"
        f"np.save({str(done / 'answer.npy')!r}, model.predict(np.load({str(done / 'maps.npy')!r}), verbose=0))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    here = keras.models.load_model(done / "run" / "model.keras").predict(maps, verbose=0)
    np.testing.assert_array_equal(np.load(done / "answer.npy"), here)


@pytest.mark.usefixtures("undrawn_figures", "no_export")
def test_interrupted_run_resumed_equals_uninterrupted(done, tmp_path):
    """Two epochs, then ten more, equal twelve at once; settings come from the folder."""
    data = done / "cones.h5"
    assert run(tmp_path, "--data", data, "--out", tmp_path / "run", *FLAGS) == 0
    assert run(tmp_path, "--out", tmp_path / "run", "--resume", "--epochs", "12") == 0
    assert (tmp_path / "run" / "history.csv").read_text() == (done / "run" / "history.csv").read_text()
    assert (tmp_path / "run" / "predictions.csv").read_text() == (done / "run" / "predictions.csv").read_text()


def test_out_holds_another_run(done, tmp_path, capsys):
    assert run(tmp_path, "--data", done / "cones.h5", "--out", done / "run") == 1
    assert "holds another run. Continue it with --resume" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    assert run(tmp_path, "--data", done / "cones.h5", "--out", tmp_path / "full") == 1
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dropout", "0.5"], "preset/dropout was 0.2, now 0.5"),
        (["--seed", "4"], "seed was 0, now 4"),
        (["--precision", "mixed_bfloat16"], "precision was float32, now mixed_bfloat16"),
        (["--preset", "paper"], "preset_name was quick, now paper"),
    ],
)
def test_resume_with_another_configuration(flags, message, done, tmp_path, capsys):
    assert run(tmp_path, "--out", done / "run", "--resume", *flags) == 2
    assert message in capsys.readouterr().err


def test_resume_without_a_run(tmp_path, capsys):
    assert run(tmp_path, "--out", tmp_path / "nothing", "--resume") == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn_figures", "no_export")
def test_resume_with_changed_data(done, tmp_path, capsys):
    data = small_lightcones.write(tmp_path / "cones.h5", seed=1)
    assert run(tmp_path, "--data", data, "--out", tmp_path / "run", *FLAGS) == 0
    data.unlink()
    small_lightcones.write(data, seed=2)
    assert run(tmp_path, "--out", tmp_path / "run", "--resume") == 1
    assert "The data changed since" in capsys.readouterr().err


def corrupt(path, kind):
    """Make the database bad in one way."""
    if kind == "not HDF5":
        path.write_text("hello")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "missing":
        path.unlink()
    else:
        with h5py.File(path, "r+") as file:
            if kind == "NaN":
                file["maps/brightness_temp"][7, 3, 4] = np.nan
            elif kind == "unit":
                file["maps/brightness_temp"].attrs["units"] = "K"
            elif kind == "order":
                names = list(file["parameters"].attrs["names"])
                file["parameters"].attrs["names"] = names[::-1]
            elif kind in ("redshifts", "cell_size"):
                del file.attrs[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"cones\.h5"),
        ("not HDF5", r"cones\.h5.*HDF5"),
        ("truncated", r"cones\.h5"),
        ("NaN", r"cones\.h5.*brightness_temp.*map 7"),
        ("unit", r"cones\.h5: expected brightness_temp in mK, got 'K'"),
        ("order", r"cones\.h5: expected the parameters zeta, log10_L_X.*got E_0, log10_T_vir"),
        ("redshifts", r"cones\.h5: expected the root attribute 'redshifts'"),
        ("cell_size", r"cones\.h5: expected the root attribute 'cell_size'"),
    ],
)
def test_bad_data_leaves_no_run_folder(kind, message, tmp_path, capsys):
    data = small_lightcones.write(tmp_path / "cones.h5")
    corrupt(data, kind)
    assert run(tmp_path, "--data", data, "--out", tmp_path / "run", *FLAGS) == 1
    error = capsys.readouterr().err
    assert re.search(message, error, re.DOTALL), error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "none.h5"], "none.h5: there is no such file"),
        (["--data", "text.h5"], "text.h5: expected an HDF5 file, got something else"),
        (["--data", "cut.h5"], "cut.h5: the HDF5 file is truncated"),
        (["--data", "cones.h5", "--start-from", "nothing"], "nothing holds no run: expected"),
        (["--data", "cones.h5", "--start-from", "unfinished"], "the run to start from has not finished"),
        (["--data", "cones.h5", "--start-from", "damaged"], "model.keras is damaged: expected a whole zip archive"),
        (["--data", "cones.h5", "--out", "cones.h5/run"], "cones.h5 is a file, expected a folder"),
        (["--data", "cones.h5", "--out", "run"], "holds another run. Continue it with --resume"),
        (["--data", "cones.h5", "--saved-models", "text.h5"], "text.h5 is a file, expected a folder"),
        (["--cache", "text.h5"], "text.h5 is a file, expected a folder"),
    ],
)
def test_wrong_paths_are_said_before_tensorflow_is_imported(flags, message, done, tmp_path):
    shutil.copy(done / "cones.h5", tmp_path / "cones.h5")
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "cut.h5").write_bytes((done / "cones.h5").read_bytes()[:5000])
    for name in ("unfinished", "damaged", "run"):
        (tmp_path / name).mkdir()
        shutil.copy(done / "run" / "config.json", tmp_path / name)
    (tmp_path / "damaged" / "model.keras").write_bytes((done / "run" / "model.keras").read_bytes()[:5000])
    script = "import sys; from keras_cosmo.tasks.command_line import main; from keras_cosmo.tasks.regression import *\n"
    script += "status = main(RegressionTask(), sys.argv[1:])\n"
    script += "sys.exit(9 if {'tensorflow', 'keras'} & set(sys.modules) else status)"
    flags = flags if "--out" in flags else [*flags, "--out", "new"]
    result = subprocess.run([sys.executable, "-c", script, *flags], capture_output=True, text=True, cwd=tmp_path)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.returncode == 1
    assert not (tmp_path / "new").exists()


def test_messages_in_the_words_of_a_command_line():
    flags = {"box_size": "--box-size", "hubble": "--hubble", "lines": "--lines"}
    for message, expected in (
        ("a: give box_size, the side", "a: give --box-size, the side"),
        ("/box_size/a.h5: box_size is 3.", "/box_size/a.h5: --box-size is 3."),
        ("hubble: expected h.", "--hubble: expected h."),
        ("/hubble/lines: lines are blank.", "/hubble/lines: --lines are blank."),
        ("Edwin Hubble. A hubble. Or give hubble.", "Edwin Hubble. A hubble. Or give --hubble."),
        ("2 from the argument box_size, 3 from its name.", "2 from --box-size, 3 from its name."),
        ("Simulator: expected lines to differ.", "expected --lines to differ."),
    ):  # fmt: skip
        assert as_flags(message, flags) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dropout", "2"], "--dropout: expected from 0 to 0.99, got 2.0"),
        (["--epochs", "0"], "--epochs: expected at least 1, got 0"),
        (["--learning-rate", "nan"], "--learning-rate: expected"),
        (["--learning-rate", "-1"], "--learning-rate: expected"),
        (["--filters", "0", "4"], "--filters: expected at least 1, got 0 4"),
        (["--kernel-size", "0"], "--kernel-size: expected"),
        (["--plateau-factor", "1.5"], "--plateau-factor: expected"),
        (["--seed", "-1"], "--seed: expected"),
        (["--checkpoint-seconds", "-5"], "--checkpoint-seconds: expected"),
        (["--simulation-workers", "-4"], "--simulation-workers: expected"),
        (["--n-perp", "64"], "--n-perp: only for simulated data"),
        (["--start-normalization", "refit"], "--start-from, which is not given"),
        (["--preset", "fine-tune"], "Name its run with --start-from"),
    ],
)
def test_flags_out_of_range_are_wrong_usage(flags, message, done, tmp_path, capsys):
    assert run(tmp_path, "--data", done / "cones.h5", "--out", tmp_path / "run", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_built_leaves_no_run_folder(done, tmp_path, capsys):
    flags = ["--data", done / "cones.h5", "--out", tmp_path / "run"]
    assert run(tmp_path, *flags, "--frozen", "dense_9", "--start-from", done / "run") == 1
    assert "no layer 'dense_9'; did you mean dense_" in capsys.readouterr().err
    few = small_lightcones.write(tmp_path / "few.h5", simulations=10)
    assert run(tmp_path, "--data", few, "--out", tmp_path / "run") == 1
    assert "leave 1 for the test" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("undrawn_figures", "no_export")
def test_resume_keeps_the_first_normalisation_whatever_became_of_the_source(done, tmp_path):
    data = small_lightcones.write(tmp_path / "cones.h5", seed=5, simulations=20)
    source = tmp_path / "source"
    shutil.copytree(done / "run", source)
    flags = ["--data", data, "--out", tmp_path / "run", "--start-from", source, *FLAGS]
    assert run(tmp_path, *flags) == 0
    before = json.loads((tmp_path / "run" / "config.json").read_text())["normalization"]
    shutil.rmtree(source)
    moved = data.rename(tmp_path / "moved.h5")
    assert run(tmp_path, "--out", tmp_path / "run", "--resume", "--epochs", "3", "--data", moved) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["normalization"] == before


def test_a_finished_run_is_not_exported_again(done, capsys):
    assert run(done, "--out", done / "run", "--resume") == 0
    assert [path.name for path in (done / "saved_models" / "lightcone_regressor").iterdir()] == ["1"]


@pytest.mark.usefixtures("undrawn_figures", "no_export")
def test_metrics_of_an_earlier_epoch_do_not_pass_for_finished(done, tmp_path):
    """A run that went on after it was measured, and was killed before it was measured again."""
    shutil.copytree(done / "run", tmp_path / "run")
    path = tmp_path / "run" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": 3}))
    assert run(tmp_path, "--out", tmp_path / "run", "--resume") == 0
    assert json.loads(path.read_text())["epochs"] == 12


def test_damaged_config(done, tmp_path, capsys):
    shutil.copytree(done / "run", tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{")
    assert run(tmp_path, "--out", tmp_path / "run", "--resume") == 2
    assert "config.json is damaged" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn_figures", "no_export")
def test_disk_full(done, tmp_path, monkeypatch, capsys):
    """No room for a checkpoint: one clear line, and the run resumes when there is room."""
    from keras_cosmo.training import trainer

    def full(self, path):
        raise tf.errors.ResourceExhaustedError(None, None, f"{path}; No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(trainer.tf.train.Checkpoint, "write", full)
        assert run(tmp_path, "--data", done / "cones.h5", "--out", tmp_path / "run", *FLAGS) == 1
    error = capsys.readouterr().err
    assert "Could not write the checkpoint" in error
    assert "No space left on device" in error
    assert "--resume" in error
    assert not (tmp_path / "saved_models").exists()
    assert run(tmp_path, "--out", tmp_path / "run", "--resume") == 0


def test_errors_inside_the_data_pipeline_are_one_line():
    text = "{{function_node x}} ValueError: maps: file changed.\nTraceback (most recent call last):\n  ..."
    assert innermost(text) == "maps: file changed."
    assert "Is the disk full" in innermost("a.data; No space left on device\n more")


@pytest.mark.usefixtures("undrawn_figures", "no_export")
def test_start_from_keeps_or_refits_the_normalisation(done, tmp_path):
    data = small_lightcones.write(tmp_path / "cones.h5", seed=5, simulations=20)
    before = json.loads((done / "run" / "config.json").read_text())["normalization"]
    for choice in ("keep", "refit"):
        flags = ["--start-from", done / "run", "--start-normalization", choice, "--learning-rate", "1e-8", *FLAGS]
        assert run(tmp_path, "--data", data, "--out", tmp_path / choice, *flags) == 0
        config = json.loads((tmp_path / choice / "config.json").read_text())
        assert (config["normalization"] == before) == (choice == "keep")
        assert (config["normalization_from"] == "training part") == (choice == "refit")
    # At a vanishing learning rate the kept network still is the one it started from.
    maps = np.random.default_rng(0).normal(0, 30, (3, *small_lightcones.SHAPE)).astype("float32")
    old, new = (keras.models.load_model(path / "model.keras") for path in (done / "run", tmp_path / "keep"))
    np.testing.assert_allclose(
        old.get_layer("dense_1").get_weights()[0], new.get_layer("dense_1").get_weights()[0], atol=1e-5
    )
    assert np.isfinite(new.predict(maps, verbose=0)).all()


def test_start_from_maps_of_another_size(done, tmp_path, capsys):
    data = small_lightcones.write(tmp_path / "cones.h5", shape=(36, 80))
    assert run(tmp_path, "--data", data, "--out", tmp_path / "run", "--start-from", done / "run", *FLAGS) == 1
    assert "Layer 'dense_1'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_start_from_other_parameters(done, tmp_path, capsys):
    data = small_lightcones.write(tmp_path / "cones.h5", parameters=small_lightcones.PARAMETERS[:3])
    assert run(tmp_path, "--data", data, "--out", tmp_path / "run", "--start-from", done / "run", *FLAGS) == 1
    assert "Start from a run with the same parameters" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_binned_residuals_are_those_of_the_predictions(done):
    with (done / "run" / "predictions.csv").open() as file:
        scored = [row for row in csv.DictReader(file) if row["scored"] == "1"]
    with (done / "run" / "binned_residuals.csv").open() as file:
        bins = [row for row in csv.DictReader(file) if (row["parameter"], row["given"]) == ("E_0", "true")]
    assert len(bins) == 20
    for row in bins:
        low, high = float(row["from"]), float(row["to"])
        residuals = [
            float(each["E_0_predicted"]) - float(each["E_0_true"])
            for each in scored
            if low <= float(each["E_0_true"]) < high
        ]
        assert int(row["count"]) == len(residuals)
        if residuals:
            np.testing.assert_allclose(float(row["bias"]), np.mean(residuals), rtol=1e-3, atol=1e-6)


@keras.saving.register_keras_serializable("my_project")
class SwishDense(keras.layers.Layer):
    """A user's own layer: fully connected, with an activation whose slope is learned."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.slope = self.add_weight(shape=(self.units,), initializer="ones", name="slope")

    def call(self, x):
        x = keras.ops.matmul(x, self.kernel)
        return x * keras.ops.sigmoid(self.slope * x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class MyTask(RegressionTask):
    """The paper's task with the second pooling (and ReLU) swapped for an average, and a layer of the user's own."""

    def build(self, preset, database, normalization, dtype):
        network = super().build(preset, database, normalization, dtype)
        swaps = {"pooling_2": keras.layers.AveragePooling2D(2), "dense_2": SwishDense(16, name="my_layer")}
        return replace_layers(network, swaps)


@pytest.mark.usefixtures("undrawn_figures")
def test_own_layer_trains_saves_reloads_and_exports(done, tmp_path):
    assert run(tmp_path, "--data", done / "cones.h5", "--out", tmp_path / "run", *FLAGS, task=MyTask()) == 0
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    _, slope = model.get_layer("my_layer").get_weights()
    assert not np.array_equal(slope, np.ones(16)), "the user's weight was not trained"
    assert (tmp_path / "saved_models" / "lightcone_regressor" / "1" / "saved_model.pb").exists()


def test_summary_prints_the_exact_count(capsys, tmp_path):
    assert run(tmp_path, "--preset", "paper", "--summary") == 0
    assert "10,023,604" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_deterministic_bfloat16_twice_alike(done, tmp_path):
    """In processes of their own: the determinism of TensorFlow cannot be switched off again."""
    script = "import sys; from keras_cosmo.tasks.command_line import main; from keras_cosmo.tasks.regression import *\n"
    script += "sys.exit(main(RegressionTask(), sys.argv[1:]))"
    for name in ("one", "two"):
        flags = ["--data", done / "cones.h5", "--out", tmp_path / name, "--saved-models", tmp_path / "models", *FLAGS]
        flags += ["--deterministic", "--precision", "mixed_bfloat16"]
        result = subprocess.run([sys.executable, "-c", script, *flags], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "one" / "predictions.csv").read_text() == (tmp_path / "two" / "predictions.csv").read_text()
    model = keras.models.load_model(tmp_path / "one" / "model.keras")
    assert model.get_layer("convolution_1").compute_dtype == "bfloat16"
    function = tf.saved_model.load(str(tmp_path / "models" / "lightcone_regressor" / "2")).signatures["serving_default"]
    assert {spec.dtype for spec in function.structured_outputs.values()} == {tf.float32}
