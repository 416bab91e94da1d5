"""Warm-up requests for TensorFlow Serving: what the server replays before it takes traffic."""

import pathlib

import numpy as np
import tensorflow as tf

# Field numbers of tensorflow_serving/apis: prediction_log.proto, predict.proto and model.proto.
PREDICT_LOG, REQUEST = 6, 1
MODEL_SPEC, INPUTS = 1, 2
MODEL_NAME, SIGNATURE_NAME = 1, 3
MAP_KEY, MAP_VALUE = 1, 2
MAXIMUM_RECORDS = 1000


def write_warmup_requests(version_folder, model_name: str, requests) -> pathlib.Path:
    """Write ``assets.extra/tf_serving_warmup_requests`` into a SavedModel folder.

    The records are ``PredictionLog`` messages, encoded here field by field, since the package with their
    definitions (tensorflow-serving-api) is a client library that nothing else needs.

    Args:
        version_folder: Folder with ``saved_model.pb``.
        model_name: Name under which the model is served.
        requests: Sequence of ``(signature_name, {input name: array with the batch first})``.

    Raises:
        ValueError: If there are more than 1000 requests, which the server refuses to load.
    """
    requests = list(requests)
    if len(requests) > MAXIMUM_RECORDS:
        raise ValueError(f"`requests`: TensorFlow Serving accepts {MAXIMUM_RECORDS} at most, got {len(requests)}.")
    path = pathlib.Path(version_folder) / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature_name, inputs in requests:
            writer.write(encode_prediction_log(model_name, signature_name, inputs))
    return path


def encode_prediction_log(model_name: str, signature_name: str, inputs: dict) -> bytes:
    """One ``PredictionLog`` message, serialised."""
    model_spec = _field(MODEL_NAME, model_name.encode()) + _field(SIGNATURE_NAME, signature_name.encode())
    request = _field(MODEL_SPEC, model_spec)
    for name, array in inputs.items():
        tensor = tf.make_tensor_proto(np.asarray(array)).SerializeToString()
        request += _field(INPUTS, _field(MAP_KEY, name.encode()) + _field(MAP_VALUE, tensor))
    return _field(PREDICT_LOG, _field(REQUEST, request))


def _field(number: int, payload: bytes) -> bytes:
    length_delimited = 2
    return _varint(number << 3 | length_delimited) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(encoded + bytes([value]))
