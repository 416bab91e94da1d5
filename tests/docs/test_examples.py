"""The examples of CONTRIBUTING.md and of docs/python.md run."""

import dataclasses
import importlib.util
import json
import pathlib
import re
import sys
import textwrap

import keras
import numpy as np
import pytest
import small_lightcones
import small_served
import tensorflow as tf
from sklearn.metrics import r2_score, roc_auc_score

from keras_cosmo.data.campaign import run_campaign
from keras_cosmo.data.database import Database
from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.regression import PRESETS
from keras_cosmo.tasks.task import Evaluation

EXAMPLES = pathlib.Path(__file__).parents[2] / "docs" / "examples"
PAGE = EXAMPLES.parent / "python.md"
# Line of constants of each example as it stands, and small ones for its place; everything else runs as it is.
SIZES = {
    "regression": ("SIMULATIONS, EPOCHS", "20, 1"),
    "matter": ("SIMULATIONS, EPOCHS, WIDTHS", "20, 1, (4, 4)"),
    "astro": ("SIMULATIONS, EPOCHS, WIDTHS", "20, 1, (4, 4, 4)"),
    "separation": ("SIMULATIONS, EPOCHS, WIDTH", "20, 1, 4"),
    "dust": ("NSIDE, CUTOUTS, EPOCHS, WIDTHS", "32, 16, 1, (4, 4)"),
    "higlow": ("SIMULATIONS, EPOCHS, BLOCKS, STEPS", "20, 1, 2, 1"),
}


def load(name):
    """An example as a module, found again by workers that unpickle its classes."""
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def heating():
    return load("heating_task")


@pytest.fixture(scope="module")
def trained(heating, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heating")
    data = small_lightcones.write(folder / "cones.h5", simulations=80)
    flags = ["--data", data, "--out", folder / "run", "--saved-models", folder / "saved_models"]
    flags += ["--epochs", 30, "--batch-size", 16, "--learning-rate", 0.01, "--filters", 4, 8]
    flags += ["--fractions", 0.6, 0.2, 0.2]
    assert main(heating.HeatingTask(), list(map(str, flags))) == 0
    return folder


def test_the_sixth_task_learns_on_the_common_road(trained):
    metrics = json.loads((trained / "run" / "metrics.json").read_text())
    assert metrics["ranking_score"] > 0.9
    assert metrics["baseline/ranking_score"] > 0.9
    assert (trained / "run" / "report.html").is_file()
    assert [path.name for path in (trained / "run" / "figures").iterdir()] == ["probabilities.png"]


def test_its_saved_model_is_its_network(trained):
    maps = Database(trained / "cones.h5").read("brightness_temp", np.arange(5))
    served = tf.saved_model.load(str(trained / "saved_models" / "heating" / "1")).signatures["serving_default"]
    network = keras.models.load_model(trained / "run" / "model.keras", compile=False)
    answer = served(brightness_temp=tf.constant(maps))["probability"].numpy()
    np.testing.assert_allclose(answer, network.predict(maps, verbose=0)[:, 0], rtol=1e-5)


def test_its_data_are_checked(heating, trained, tmp_path, capsys):
    flags = ["--data", str(trained / "cones.h5"), "--out", str(tmp_path / "run"), "--threshold", "41.99"]
    assert main(heating.HeatingTask(), flags) == 1
    assert "expected some on both sides. Choose another --threshold" in capsys.readouterr().err


def test_its_measure(heating):
    generator = np.random.default_rng(0)
    above, score = generator.random(50) > 0.5, generator.integers(0, 9, 50)
    assert heating.ranking_score(above, score) == pytest.approx(roc_auc_score(above, score))
    with pytest.raises(ValueError, match="expected maps on both sides of the threshold, got 3 of 3 above"):
        heating.ranking_score(np.ones(3, bool), np.zeros(3))


def test_its_loss_and_layer(heating):
    loss = heating.AboveThreshold(1, 40.0)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    true, predicted = np.array([[0.0, 41.0], [0.0, 39.0]]), np.array([[0.8], [0.8]])
    assert float(again(true, predicted)) == pytest.approx(-(np.log(0.8) + np.log(0.2)) / 2, rel=1e-5)
    maps = np.random.default_rng(1).normal(size=(2, 5, 7)).astype("float32")
    moments = keras.ops.convert_to_numpy(heating.SkyMoments()(maps))
    np.testing.assert_allclose(moments[..., 0], maps.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(moments[..., 1], maps.std(axis=1), rtol=1e-4)
    assert heating.SkyMoments().compute_output_shape((None, 5, 7)) == (None, 7, 2)


def test_a_layer_of_ones_own():
    """The code of CONTRIBUTING.md: a layer in the place of another, and a measure beside those of the paper."""
    page = (EXAMPLES.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    layer, measure = (
        textwrap.dedent(each) for each in re.findall(r"^ *```python\n(.*?)^ *```", page, flags=re.DOTALL | re.MULTILINE)
    )
    names = {"__name__": "my_project"}
    exec(layer, names)
    preset = dataclasses.replace(PRESETS["quick"], n_perp=32, n_los=70)
    network = names["MyTask"]().build(preset, None, None, "float32")
    assert type(network.get_layer("my_layer")).__name__ == "SwishDense"
    exec(f"class Measured(MyTask):\n{textwrap.indent(measure, '    ')}", names)
    arrays = {"true": np.array([[10.0, 0.0], [20.0, 0.0]]), "predicted": np.array([[13.0, 9.0], [19.0, 0.0]])}
    found = Evaluation(metrics={"r2": 0.5}, tables=[], arrays=arrays, columns={})
    names["MyTask"].evaluate = lambda *arguments: found
    assert names["Measured"]().evaluate(preset, network, None, 0).metrics == {"r2": 0.5, "worst_zeta": 3.0}


def test_own_simulator(tmp_path):
    simulator = load("own_simulator").BlobSimulator(side=16)
    database = Database(run_campaign(simulator, tmp_path / "blobs.h5", count=6, seed=1, workers=1))
    assert (database.n_maps, database.parameter_names) == (12, ("number", "width"))
    maps = database.read("density", np.arange(12))
    # Smoothing keeps the sum, which is the number of blobs.
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), np.round(database.targets(np.arange(12))[:, 0]), rtol=1e-4)


@pytest.fixture(scope="module", params=SIZES)
def example(request, tmp_path_factory):
    """Name, folder and variables of an example that ran from its first to its last line with small sizes."""
    constants, small = SIZES[request.param]
    path = EXAMPLES / f"{request.param}.py"
    source, changed = re.subn(f"(?m)^{constants} = .*$", f"{constants} = {small}", path.read_text(encoding="utf-8"))
    assert changed == 1
    names = {"__name__": request.param}
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp(request.param)
        patch.chdir(folder)
        exec(compile(source, path, "exec"), names)
    return request.param, folder / "runs" / "examples" / request.param, names


def test_from_maps_to_a_figure(example):
    name, folder, found = example
    assert (folder / "figure.png").read_bytes()[:4] == b"\x89PNG"
    metrics = found["metrics"]
    # Beside every network stands at least one simpler model, measured on the same maps.
    assert len(metrics) >= 2
    for scores in metrics.values():
        values = list(scores.values()) if isinstance(scores, dict) else scores
        assert np.isfinite(np.asarray(values, np.float64)).all() or name == "separation"
    saved = keras.models.load_model(folder / "model.keras", compile=False)
    trained = next(found[each] for each in ("network", "unet", "model", "flow") if each in found)
    for weight, expected in zip(saved.weights, getattr(trained, "generator", trained).weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    split = found["split"]
    assert not {*split.test} & {*split.train, *split.validation}


def test_numbers_and_units_of_the_examples(example):
    name, _, found = example
    if name == "regression":
        true, predicted = found["true"], found["predicted"]
        expected = r2_score(true, predicted, multioutput="raw_values")
        np.testing.assert_allclose(found["metrics"]["network"], expected, rtol=1e-6)
        assert predicted.shape == (2, 4)
    elif name == "matter":
        # An overdensity has mean 0 over its box, and the filter is unbiased there.
        assert np.abs(found["true"].mean()) < 0.05
        assert np.abs(found["predicted"]["Wiener filter"].mean()) < 0.05
        assert found["metrics"]["Wiener filter"] > 0
    elif name == "astro":
        assert found["predicted"].shape == (16, 3)
        assert found["derivatives"].shape == (2, 3, 32, 32)
        # One mK more in a pixel changes a parameter by what the derivative says, to first order.
        warmer = found["maps"][found["rows"][:1]].copy()
        warmer[0, 3, 5, 0] += 0.01
        change = found["network"].predict(warmer, verbose=0) - found["predicted"][found["rows"][:1]]
        np.testing.assert_allclose(np.abs(change[0]) / 0.01, found["derivatives"][0, :, 3, 5], rtol=0.2, atol=1e-4)
    elif name == "separation":
        np.testing.assert_allclose(found["true"].sum(axis=-1), found["observed"], rtol=1e-5)
        error = np.abs(found["predicted"]["baseline"] - found["true"]).mean(axis=(0, 1, 2))
        mean = found["true"].mean(axis=(0, 1, 2))
        scores = found["metrics"]["baseline"]
        np.testing.assert_allclose(
            [scores[f"{line}/pixels/relative_l1"] for line in ("halpha", "oiii")], error / mean, rtol=1e-4
        )
    elif name == "dust":
        assert (found["testing"].cutouts.latitude < 0).all()
        assert (found["training"].step_cutouts(0).latitude > 0).all()
    else:
        low, high = np.array(found["low"]), np.array(found["high"])
        means = np.array([posterior.mean for posterior in found["found"]["HIGlow"]])
        assert ((means > low) & (means < high)).all()
        assert found["new_maps"].shape == (3, 1, 32, 32)


def test_code_of_the_page(tmp_path, monkeypatch):
    """Loading a trained network, and single pieces, as docs/python.md has them."""
    small_served.export(tmp_path, "lightcone_regressor")
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("count=500") == page.count("epochs=10") == 1
    page = page.replace("count=500", "count=30").replace("epochs=10", "epochs=1")
    task, presets, sizes, _ = small_served.SMALL[0]
    database = Database(tmp_path / "lightcone_regressor.h5")
    network = task.build(dataclasses.replace(presets["quick"], **sizes), database, None, "float32")
    (tmp_path / "runs" / "regression-quick").mkdir(parents=True)
    network.save(tmp_path / "runs" / "regression-quick" / "model.keras")
    monkeypatch.chdir(tmp_path)
    found = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(block, found)
    assert (tmp_path / "recovery.png").read_bytes()[:4] == b"\x89PNG"
    assert found["parameters"].shape == (2, 4)
    assert list(found["found"]) == ["zeta", "log10_L_X", "log10_T_vir", "E_0"]
    assert found["predictor"].units["brightness_temp"] == "mK"
    assert found["first_filters"].shape == (10, 10, 1, 8)
    assert found["derivatives"].shape == (2, 4, *found["maps"].shape[1:])
    # White noise of variance 1 has as power the area of a cell.
    assert found["spectrum"].power.mean() == pytest.approx(1.5**2, rel=0.05)
    np.testing.assert_allclose(found["transfer"].mean, 0.9)
    assert found["cutouts"][:, 32, 32] == pytest.approx(np.cos(np.radians([30.0, 75.0])), abs=0.02)
    np.testing.assert_allclose(found["again"], found["images"], atol=1e-5)
    assert found["posteriors"][0].standard_deviation == pytest.approx(0.25, rel=0.02)
    assert found["scores"]["coverage_68/mean"] == pytest.approx(0.68, abs=0.1)
    assert found["scores"]["coverage_68/tarp"] == pytest.approx(0.68, abs=0.1)


def test_the_page_has_every_example_and_small_figures():
    page = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"literalinclude\} examples/(\w+)\.py", page) == list(SIZES)
    figures = [PAGE.parent / name for name in re.findall(r"\((python_\w+\.png)\)", page)]
    assert sorted(figures) == sorted(PAGE.parent.glob("python_*.png"))
    assert sum(figure.stat().st_size for figure in figures) < 200_000
