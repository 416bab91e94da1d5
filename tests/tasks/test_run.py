import csv
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import small_lightcones

from keras_cosmo.models.replace_layers import replace_layers
from keras_cosmo.tasks.regression import RegressionTask
from keras_cosmo.tasks.run import main

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
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["paper/r2/log10_T_vir"] == 0.997
    assert metrics["baseline/r2/zeta"] > 0.9, "the made-up cones are linear in the parameters"
    config = json.loads((folder / "config.json").read_text())
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
        np.testing.assert_allclose(metrics[f"r2/{name}"], r2, rtol=1e-4)


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


def test_resume_with_changed_data(done, tmp_path, capsys):
    data = small_lightcones.write(tmp_path / "cones.h5", seed=1)
    assert run(tmp_path, "--data", data, "--out", tmp_path / "run", *FLAGS) == 0
    data.unlink()
    small_lightcones.write(data, seed=2)
    assert run(tmp_path, "--out", tmp_path / "run", "--resume") == 1
    assert "The data changed since" in capsys.readouterr().err


def test_bad_data_leaves_no_run_folder(tmp_path, capsys):
    assert run(tmp_path, "--data", tmp_path / "nothing.h5", "--out", tmp_path / "run") == 1
    assert "nothing.h5" in capsys.readouterr().err
    maps = np.zeros((40, *small_lightcones.SHAPE), "float32")
    maps[7, 3, 4] = np.nan
    with pytest.raises(ValueError, match="finite"):
        small_lightcones.write(tmp_path / "nan.h5", per_simulation=1, fields={"brightness_temp": (maps, "mK")})
    small = small_lightcones.write(tmp_path / "small.h5", shape=(30, 70))
    assert run(tmp_path, "--data", small, "--out", tmp_path / "run") == 1
    assert "at least 31 cells" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


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
    """The paper's task with the second pooling swapped for an average, and a layer of the user's own."""

    def build(self, preset, database, normalization, dtype):
        network = super().build(preset, database, normalization, dtype)
        swaps = {"pooling_2": keras.layers.AveragePooling2D(2), "dense_2": SwishDense(16, name="my_layer")}
        return replace_layers(network, swaps)


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
