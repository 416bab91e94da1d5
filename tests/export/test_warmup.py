import numpy as np
import pytest

from keras_cosmo.export.warmup import encode_prediction_log, write_warmup_requests


def test_encoding_is_parsed_by_the_official_package():
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    tf = pytest.importorskip("tensorflow")
    # More than 127 bytes, so that lengths take two bytes.
    inputs = {"maps": np.arange(300, dtype="float32").reshape(3, 100), "seed": np.array([1, 2], "int32")}
    request = apis.PredictionLog.FromString(encode_prediction_log("name", "sample", inputs)).predict_log.request
    assert (request.model_spec.name, request.model_spec.signature_name) == ("name", "sample")
    for name, array in inputs.items():
        np.testing.assert_array_equal(tf.make_ndarray(request.inputs[name]), array)


def test_too_many(tmp_path):
    with pytest.raises(ValueError, match="accepts 1000 at most, got 1001"):
        write_warmup_requests(tmp_path, "m", [("serving_default", {})] * 1001)
