import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.export.saved_model import Signature, export_saved_model, versions
from keras_cosmo.inference.saved_model_predictor import SavedModelPredictor
from keras_cosmo.models.lightcone_regressor import LightconeRegressor

NAMES = ["zeta", "log10_L_X", "E_0"]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return LightconeRegressor((32, 36), 3, output_mean=[130.0, 40.0, 0.8], dtype="mixed_bfloat16")


def signature(model, **changes):
    def predict(brightness_temp):
        return dict(zip(NAMES, tf.unstack(model(brightness_temp, training=False), axis=-1), strict=True))

    options = {
        "function": predict,
        "inputs": {"brightness_temp": tf.TensorSpec([None, 32, 36], tf.float32)},
        "units": {"brightness_temp": "mK", "zeta": "", "log10_L_X": "erg s^-1 Msun^-1 yr", "E_0": "keV"},
        "example": {"brightness_temp": maps(1)},
    }
    return Signature(**{**options, **changes})


def maps(count):
    return np.random.default_rng(2).normal(-20, 40, (count, 32, 36)).astype("float32")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_models") / "lightcone_regressor"
    return export_saved_model(model, folder, {"serving_default": signature(model)}, {"task": "regression"})


def test_versions_count_up_and_nothing_else_is_left(model, exported):
    again = export_saved_model(model, exported.parent, {"serving_default": signature(model)})
    (exported.parent / "notes").mkdir()
    assert [path.name for path in versions(exported.parent)] == ["1", "2"]
    assert again.name == "2"
    assert not list(exported.parent.glob("aside-*"))


def test_a_clean_process_answers(exported, model):
    """Neither Keras nor this package: TensorFlow alone, and the graph-session loader that servers use."""
    np.save(exported.parent / "maps.npy", maps(4))
    code = f"""
import sys, json
sys.modules["keras"] = sys.modules["keras_cosmo"] = None   # any import of them fails
import numpy as np, tensorflow as tf
maps = np.load({str(exported.parent / "maps.npy")!r})
loaded = tf.saved_model.load({str(exported)!r})
eager = loaded.signatures["serving_default"](brightness_temp=tf.constant(maps))
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    meta = tf.compat.v1.saved_model.load(session, ["serve"], {str(exported)!r})
    definition = meta.signature_def["serving_default"]
    feed = {{definition.inputs["brightness_temp"].name: maps}}
    graph = session.run({{name: info.name for name, info in definition.outputs.items()}}, feed)
print(json.dumps([{{k: v.numpy().tolist() for k, v in eager.items()}}, {{k: v.tolist() for k, v in graph.items()}}]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    eager, graph = json.loads(result.stdout.splitlines()[-1])
    expected = dict(zip(NAMES, model.predict(maps(4), verbose=0).T, strict=True))
    for answer in (eager, graph):
        assert sorted(answer) == sorted(NAMES)
        for name in NAMES:
            np.testing.assert_allclose(answer[name], expected[name], rtol=1e-5)


def test_signature_is_named_and_float32_whatever_the_precision(exported):
    function = tf.saved_model.load(str(exported)).signatures["serving_default"]
    (spec,) = function.structured_input_signature[1].values()
    assert (spec.name, spec.shape.as_list(), spec.dtype) == ("brightness_temp", [None, 32, 36], tf.float32)
    assert {name: (s.shape.as_list(), s.dtype) for name, s in function.structured_outputs.items()} == {
        name: ([None], tf.float32) for name in NAMES
    }


def test_warmup_requests_are_what_the_server_reads(exported):
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    records = list(tf.data.TFRecordDataset(str(exported / "assets.extra" / "tf_serving_warmup_requests")))
    log = apis.PredictionLog.FromString(records[0].numpy())
    request = log.predict_log.request
    assert len(records) == 1
    assert (request.model_spec.name, request.model_spec.signature_name) == ("lightcone_regressor", "serving_default")
    np.testing.assert_array_equal(tf.make_ndarray(request.inputs["brightness_temp"]), maps(1))


def test_facts_beside_the_model(exported):
    facts = json.loads((exported / "assets.extra" / "keras_cosmo.json").read_text())
    described = facts["signatures"]["serving_default"]
    assert described["inputs"]["brightness_temp"] == {"shape": [None, 32, 36], "dtype": "float32", "unit": "mK"}
    assert described["outputs"]["E_0"]["unit"] == "keV"
    assert facts["task"] == "regression"


def test_a_failed_export_leaves_nothing(model, tmp_path):
    def broken(brightness_temp):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        export_saved_model(model, tmp_path / "m", {"serving_default": signature(model, function=broken)})
    with pytest.raises(ValueError, match="named 'serving_default'"):
        export_saved_model(model, tmp_path / "m", {"predict": signature(model)})
    scalar = signature(model, function=lambda brightness_temp: {"total": tf.reduce_sum(brightness_temp)})
    with pytest.raises(ValueError, match=r"'total' with the batch as first dimension.*got shape \(\)"):
        export_saved_model(model, tmp_path / "m", {"serving_default": scalar})
    assert not list(tmp_path.rglob("saved_model.pb"))
    assert not list(tmp_path.rglob("aside-*"))


def test_predictor(exported, model):
    predictor = SavedModelPredictor(exported.parent)
    assert predictor.units["brightness_temp"] == "mK"
    answer = predictor.predict(brightness_temp=maps(5), batch_size=2)
    assert list(answer) == NAMES
    np.testing.assert_allclose(answer["zeta"], model.predict(maps(5), verbose=0)[:, 0], rtol=1e-5)


def test_predictor_errors(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No SavedModel in .*expected saved_model.pb"):
        SavedModelPredictor(tmp_path)
    with pytest.raises(ValueError, match=r"no signature 'x'; it has .*serving_default"):
        SavedModelPredictor(exported, "x")
    predictor = SavedModelPredictor(exported)
    with pytest.raises(ValueError, match=r"Expected the inputs \['brightness_temp'\], got \['maps'\]"):
        predictor.predict(maps=maps(1))
    with pytest.raises(ValueError, match=r"expected shape \(None, 32, 36\) .*got \(2, 32, 30\)"):
        predictor.predict(brightness_temp=maps(2)[:, :, :30])
    bad = maps(3)
    bad[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"maps \[1\] hold NaN"):
        predictor.predict(brightness_temp=bad)
