"""What every exported network refuses, and what it answers to maps that are not finite."""

import json
import pathlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import small_served
import tensorflow as tf

from keras_cosmo.export.request_checks import blank_rows, check_request

ERROR = tf.errors.InvalidArgumentError


class Served:
    """An exported network, loaded twice: as functions, and as a graph in a session."""

    def __init__(self, version_folder):
        self.functions = tf.saved_model.load(str(version_folder)).signatures
        self.server = small_served.SessionServer(version_folder)
        self.described = json.loads((version_folder / "assets.extra" / "keras_cosmo.json").read_text())["signatures"]

    def both(self, signature, inputs):
        """The answers of both."""
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        yield {name: value.numpy() for name, value in self.functions[signature](**tensors).items()}
        yield self.server.run(signature, inputs)

    def example(self, signature, rows=2):
        """A request with that many rows: made-up maps that are positive, since the flow takes their logarithm."""
        generator = np.random.default_rng(3)
        result = {}
        for name, about in self.described[signature]["inputs"].items():
            shape = (rows, *(16 if side is None else side for side in about["shape"][1:]))
            values = generator.uniform(0.2, 0.9, shape) if about["dtype"] == "float32" else np.full(shape, 3)
            result[name] = values.astype(about["dtype"])
        return result


@pytest.fixture(scope="module", params=small_served.NAMES)
def served(request, tmp_path_factory):
    return Served(small_served.export(tmp_path_factory.mktemp(request.param), request.param))


def test_shapes_and_units_are_those_that_stand_beside_the_model(served):
    for signature, about in served.described.items():
        inputs = served.example(signature)
        for answer in served.both(signature, inputs):
            assert set(answer) == set(about["outputs"])
            for name, value in answer.items():
                expected = about["outputs"][name]
                assert value.dtype == expected["dtype"]
                assert all(want in (None, have) for want, have in zip(expected["shape"], value.shape, strict=True))


def test_a_row_with_nan_is_answered_with_nan_and_its_neighbour_as_if_alone(served):
    for signature in served.described:
        good = served.example(signature)
        alone = next(served.both(signature, {name: value[:1] for name, value in good.items()}))
        for bad_value in (np.nan, np.inf):
            bad = {name: value.copy() for name, value in good.items()}
            first = next(name for name, value in bad.items() if value.dtype == np.float32)
            bad[first][1].flat[5 % bad[first][1].size] = bad_value
            for answer in served.both(signature, bad):
                for name, value in answer.items():
                    assert np.isnan(value[1]).all(), (signature, name)
                    np.testing.assert_allclose(value[0], alone[name][0], rtol=1e-4, atol=1e-6)


def test_no_rows(served):
    for signature in served.described:
        inputs = served.example(signature, rows=0)
        names = ", ".join(inputs)
        with pytest.raises(ERROR, match=rf"{names}: expected at least one row .*rows received\] \[0"):
            next(served.both(signature, inputs))
        with pytest.raises(ERROR, match=rf"{names}: expected at least one row"):
            served.server.run(signature, inputs)


def test_wrong_shape_and_type(served):
    for signature, about in served.described.items():
        inputs = served.example(signature)
        for name, value in inputs.items():
            for wrong in (value[0], value[..., None], np.concatenate([value, value], axis=-1)[..., :-1]):
                if wrong.ndim == value.ndim and about["inputs"][name]["shape"][-1] is None:
                    continue
                with pytest.raises(ERROR, match=rf"Shape of tensor {name} \[.*\] is not compatible with .*\[\?,"):
                    next(served.both(signature, {**inputs, name: wrong}))
            if value.dtype == np.float32:
                with pytest.raises(ERROR, match="expected to be a float tensor but is a double tensor"):
                    next(served.both(signature, {**inputs, name: value.astype("float64")}))


def test_a_transposed_image_is_not_read_in_another_order(tmp_path):
    """It has as many numbers as the network takes, and servers do not hold requests to the shape of the signature."""
    folder = small_served.export(tmp_path, "lightcone_regressor")
    function = tf.saved_model.load(str(folder)).signatures["serving_default"]
    with pytest.raises(ERROR, match=r"brightness_temp \[2,70,32\] is not compatible with expected shape \[\?,32,70\]"):
        function(brightness_temp=tf.ones((2, 70, 32)))


def test_rows_of_unequal_number():
    specs = {"maps": tf.TensorSpec([None, 3]), "seed": tf.TensorSpec([None, 2], tf.int32)}

    @tf.function
    def check(maps, seed):
        return check_request({"maps": maps, "seed": seed}, specs)[1]

    assert check(tf.ones((2, 3)), tf.ones((2, 2), tf.int32)).numpy().tolist() == [True, True]
    with pytest.raises(ERROR, match=r"maps, seed: expected the same number of rows .*\[2 1\]"):
        check(tf.ones((2, 3)), tf.ones((1, 2), tf.int32))


def test_integers_and_strings_of_bad_rows_stay():
    finite = tf.constant([True, False])
    assert blank_rows(tf.constant([4, 5]), finite).numpy().tolist() == [4, 5]
    assert blank_rows(tf.constant(["a", "b"]), finite).numpy().tolist() == [b"a", b"b"]
    np.testing.assert_array_equal(blank_rows(tf.constant([[4.0], [5.0]]), finite), [[4.0], [np.nan]])


def test_the_page_on_serving_names_every_signature_with_its_units(served):
    page = (pathlib.Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    for signature, about in served.described.items():
        assert f"`{signature}`" in page
        for name, each in {**about["inputs"], **about["outputs"]}.items():
            assert f"`{name}`" in page
            if each["unit"] and "," not in each["unit"]:
                assert each["unit"].split("/")[0] in page


def python_blocks(page):
    """Code of the page that is marked as Python."""
    return [part.split("```")[0] for part in page.split("```python\n")[1:]]


class StandIn(BaseHTTPRequestHandler):
    """Answers REST requests in columns, as TensorFlow Serving does, from an exported network."""

    server_version = "stand-in"

    def do_POST(self):
        """Predict."""
        assert self.path == "/v1/models/matter:predict"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        inputs = {name: np.array(value, np.float32) for name, value in body["inputs"].items()}
        (output,) = self.server.network.run("serving_default", inputs).values()
        reply = json.dumps({"outputs": output.tolist()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments):
        """Nothing."""


def test_the_requests_of_the_page_are_understood(tmp_path):
    """By stand-ins that read them with the messages of TensorFlow Serving; both give the same answer."""
    grpc = pytest.importorskip("grpc")
    service = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    from tensorflow_serving.apis import predict_pb2

    network = small_served.SessionServer(small_served.export(tmp_path, "matter"))

    class Servicer(service.PredictionServiceServicer):
        def Predict(self, request, context):
            assert request.model_spec.name == "matter"
            inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
            reply = predict_pb2.PredictResponse()
            for name, value in network.run(request.model_spec.signature_name, inputs).items():
                reply.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return reply

    rest = HTTPServer(("localhost", 0), StandIn)
    rest.network = network
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    server = grpc.server(ThreadPoolExecutor(1))
    service.add_PredictionServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    page = (pathlib.Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    answers = []
    try:
        for code in python_blocks(page):
            names = {}
            code = code.replace("localhost:8501", f"localhost:{rest.server_port}")
            exec(code.replace("localhost:8500", f"localhost:{port}"), names)
            answers.append(names["overdensity"])
    finally:
        server.stop(None).wait()
        rest.shutdown()
        rest.server_close()
    assert len(answers) == 2
    assert answers[0].shape == (2, 16, 16)
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-6)
