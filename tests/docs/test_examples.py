"""The examples of CONTRIBUTING.md run."""

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
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from keras_cosmo.data.campaign import run_campaign
from keras_cosmo.data.database import Database
from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.regression import PRESETS
from keras_cosmo.tasks.task import Evaluation

EXAMPLES = pathlib.Path(__file__).parents[2] / "docs" / "examples"


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
