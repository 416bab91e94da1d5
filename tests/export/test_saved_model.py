import json
import pathlib
import shutil
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


def test_numbers_that_other_entries_have_are_not_taken(model, tmp_path):
    folder = tmp_path / "m"
    (folder / "2").mkdir(parents=True)
    (folder / "7").write_text("a plain file")
    (folder / "\N{SUPERSCRIPT TWO}").mkdir()
    assert export_saved_model(model, folder, {"serving_default": signature(model)}).name == "8"
    assert [path.name for path in versions(folder)] == ["2", "8"]
    assert (folder / "7").read_text() == "a plain file"


def test_a_number_taken_while_writing_is_left_to_its_owner(model, tmp_path, monkeypatch):
    folder, rename, taken = tmp_path / "m", pathlib.Path.rename, []

    def slow_rename(path, target):
        if not taken:
            taken.append(target)
            (target / "variables").mkdir(parents=True)
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", slow_rename)
    assert export_saved_model(model, folder, {"serving_default": signature(model)}).name == "2"
    assert [path.name for path in (folder / "1").iterdir()] == ["variables"]


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_other_errors_of_renaming_are_raised(error, model, tmp_path, monkeypatch):
    def rename(path, target):
        raise error

    monkeypatch.setattr(pathlib.Path, "rename", rename)
    with pytest.raises(OSError, match=rf"{tmp_path / 'm'}: could not write the SavedModel .*{error.strerror}.*again"):
        export_saved_model(model, tmp_path / "m", {"serving_default": signature(model)})
    assert list((tmp_path / "m").iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "variables/variables.data; No space left on device"),
        OSError(28, "No space left on device"),
    ],
)
def test_a_full_disk_leaves_nothing(error, model, tmp_path, monkeypatch):
    def save(module, folder, signatures):
        (pathlib.Path(folder) / "variables").mkdir()
        raise error

    monkeypatch.setattr(tf.saved_model, "save", save)
    with pytest.raises(OSError, match=rf"{tmp_path / 'm'}: .*No space left on device.*disk full\? Free space"):
        export_saved_model(model, tmp_path / "m", {"serving_default": signature(model)})
    assert list((tmp_path / "m").iterdir()) == []


def test_a_file_in_place_of_the_folder(model, tmp_path):
    (tmp_path / "m").write_text("")
    with pytest.raises(OSError, match=r"m: could not write the SavedModel .*Is it a folder, and may you write there\?"):
        export_saved_model(model, tmp_path / "m", {"serving_default": signature(model)})


def test_rests_of_dead_exports_are_removed_and_nothing_else(model, tmp_path):
    folder = tmp_path / "m"
    for name in ("aside-0a_bcdef/variables", "aside-01234567/assets.extra", "aside-mine/variables", "other"):
        (folder / name).mkdir(parents=True)
    (folder / "aside-pictures").mkdir()
    (folder / "aside-pictures" / "me.png").write_text("")
    (folder / "aside-89abcdef").symlink_to(folder / "other")
    export_saved_model(model, folder, {"serving_default": signature(model)})
    left = {path.name for path in folder.iterdir()}
    assert left == {"1", "other", "aside-mine", "aside-pictures", "aside-89abcdef"}


def test_a_living_export_keeps_its_folder(model, tmp_path, monkeypatch):
    """A second export begins and ends in the middle of the first."""
    save, begun = tf.saved_model.save, []

    def slow_save(module, folder, signatures):
        if not begun:
            begun.append(folder)
            assert export_saved_model(model, tmp_path / "m", {"serving_default": signature(model)}).name == "1"
        save(module, folder, signatures=signatures)

    monkeypatch.setattr(tf.saved_model, "save", slow_save)
    assert export_saved_model(model, tmp_path / "m", {"serving_default": signature(model)}).name == "2"
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["1", "2"]
    SavedModelPredictor(tmp_path / "m" / "2")


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
    with pytest.raises(ValueError, match="`batch_size`: expected an integer of at least 1, got 0"):
        predictor.predict(brightness_temp=maps(1), batch_size=0)
    with pytest.raises(ValueError, match=r"same number of maps, at least one, .*\{'brightness_temp': 0\}"):
        predictor.predict(brightness_temp=maps(0))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "variables" / "variables.index").write_bytes(b"x"), r"under variables/ is damaged"),
        (lambda folder: (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"x"), r"IndexError"),
        (lambda folder: shutil.rmtree(folder / "variables"), r"damaged or missing\. Copy the whole folder again"),
        (lambda folder: (folder / "saved_model.pb").write_bytes(b"x" * 99), r"cannot be read"),
        (lambda folder: (folder / "saved_model.pb").write_bytes(b""), r"cannot be read"),
        (lambda folder: facts(folder).write_bytes(b'{"name": \xff'), r"keras_cosmo\.json is damaged .*Export"),
        (lambda folder: facts(folder).write_text("[]"), r"keras_cosmo\.json is damaged"),
        (lambda folder: facts(folder).write_text('{"signatures": {}}'), r"keras_cosmo\.json .*'serving_default'"),
        (
            lambda folder: facts(folder).write_text(facts(folder).read_text().replace("zeta", "eta")),
            r"keras_cosmo\.json is of another model",
        ),
    ],
)
def test_damaged_files(damage, message, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "1")
    damage(folder)
    with pytest.raises(ValueError, match=rf"{folder}.*{message}"):
        SavedModelPredictor(tmp_path)


def facts(folder):
    return folder / "assets.extra" / "keras_cosmo.json"
