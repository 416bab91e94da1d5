"""Every signature of every model answers in a process without Keras and this package, to the bytes of a request."""

import json
import subprocess
import sys

import numpy as np
import pytest
import small_served
import tensorflow as tf

CODE = """
import json, pathlib, sys
sys.modules["keras"] = sys.modules["keras_cosmo"] = None   # any import of them fails
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
answers = {}
for folder in map(pathlib.Path, sys.argv[2:]):
    loaded = tf.saved_model.load(str(folder))
    for record in tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests")):
        request = PredictionLog.FromString(record.numpy()).predict_log.request
        name, signature = request.model_spec.name, request.model_spec.signature_name
        inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
        for key, value in loaded.signatures[signature](**inputs).items():
            answers[f"{name}/{signature}/{key}"] = value.numpy()
np.savez(sys.argv[1], **answers)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return {name: small_served.export(folder, name) for name in small_served.NAMES}


def test_every_signature_answers_to_its_request(exported, tmp_path):
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    command = [sys.executable, "-c", CODE, tmp_path / "answers.npz", *exported.values()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = dict(np.load(tmp_path / "answers.npz"))
    expected = set()
    for name, folder in exported.items():
        described = json.loads((folder / "assets.extra" / "keras_cosmo.json").read_text())["signatures"]
        functions = tf.saved_model.load(str(folder)).signatures
        records = tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests"))
        requests = [apis.PredictionLog.FromString(record.numpy()).predict_log.request for record in records]
        assert sorted(request.model_spec.signature_name for request in requests) == sorted(described)
        for request in requests:
            signature = request.model_spec.signature_name
            assert set(request.inputs) == set(described[signature]["inputs"])
            inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
            here = functions[signature](**inputs)
            assert set(here) == set(described[signature]["outputs"])
            for key, value in here.items():
                answer = answers[f"{name}/{signature}/{key}"]
                assert np.isfinite(answer).all(), (name, signature, key)
                np.testing.assert_allclose(answer, value, rtol=1e-5, atol=1e-6 * float(np.abs(value).max()))
                expected.add(f"{name}/{signature}/{key}")
    assert set(answers) == expected
