import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.layers.batch_normalization import BatchNormalization


def maps(shape=(4, 6, 5, 3), offset=0.0, seed=0):
    return np.random.default_rng(seed).normal(offset, 2.0, shape).astype("float32")


def pair(dtype="float32", **options):
    """Keras's layer and this one, with equal weights other than the start's."""
    layers = [cls(dtype=dtype, **options) for cls in (keras.layers.BatchNormalization, BatchNormalization)]
    for layer in layers:
        layer.build((None, None, None, 3))
        layer.gamma.assign([0.5, -1.0, 2.0])
        layer.beta.assign([1.0, 0.0, -3.0])
    return layers


def step(layer, inputs, weights, training=True):
    """Outputs, gradients and running statistics after a training step in a graph."""

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))])
    def run(inputs):
        inputs = tf.cast(inputs, layer.compute_dtype)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=training)
            total = tf.reduce_sum(tf.cast(outputs, "float32") * weights)
        return outputs, *tape.gradient(total, [inputs, layer.gamma.value, layer.beta.value])

    found = run(inputs)
    assert found[0].dtype == layer.compute_dtype
    values = [tf.cast(value, "float32").numpy() for value in found]
    return [*values, layer.moving_mean.numpy(), layer.moving_variance.numpy()]


@pytest.mark.parametrize("offset", [0.0, 10.0])
@pytest.mark.parametrize("training", [True, False])
def test_equals_keras(offset, training):
    weights = maps(seed=1)
    expected, found = (step(layer, maps(offset=offset), weights, training) for layer in pair(momentum=0.7))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * np.abs(one).max() + 1e-5)


def test_equals_the_formula_in_double_precision():
    layer = pair(epsilon=1e-5, momentum=0.0)[1]
    inputs = maps((16, 20, 20, 3), offset=10.0)
    outputs = layer(inputs, training=True)
    double = inputs.astype(np.float64)
    mean, variance = double.mean((0, 1, 2)), double.var((0, 1, 2))
    expected = (double - mean) / np.sqrt(variance + 1e-5) * [0.5, -1.0, 2.0] + [1.0, 0.0, -3.0]
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)


def test_bfloat16_differs_from_keras_by_its_own_rounding():
    weights = maps(seed=1)
    expected, found = (step(layer, maps(), weights) for layer in pair("mixed_bfloat16"))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, atol=2**-7 * np.abs(one).max())
    assert all(weight.dtype == "float32" for weight in pair("mixed_bfloat16")[1].weights)


@pytest.mark.parametrize(
    "case",
    ["vectors", "float64", "synchronized", "no scale", "mask", "axis"],
)
def test_everything_else_is_left_to_keras(case, monkeypatch):
    monkeypatch.setattr(tf.raw_ops, "FusedBatchNormV3", None)
    options = {
        "float64": {"dtype": "float64"},
        "synchronized": {"synchronized": True},
        "no scale": {"scale": False},
        "axis": {"axis": 1},
    }.get(case, {})
    inputs = maps((4, 3) if case == "vectors" else (4, 3, 3, 3)).astype(options.get("dtype", "float32"))
    mask = {"mask": np.ones((4, 3, 3), bool)} if case == "mask" else {}
    expected, found = (
        cls(**options)(inputs, training=True, **mask) for cls in (keras.layers.BatchNormalization, BatchNormalization)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("options", "training"), [({}, False), ({}, None), ({"trainable": False}, True), ({"synchronized": True}, False)]
)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_running_statistics_in_one_operation(options, training, dtype):
    """Against the formula in float64; nothing is updated."""
    layer = pair(dtype, epsilon=1e-5, **options)[1]
    mean, variance = np.array([0.5, -2.0, 10.0]), np.array([4.0, 0.25, 1e-4])
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    inputs = tf.cast(maps() * np.sqrt(variance) + mean, layer.compute_dtype)
    graph = tf.function(lambda x: layer(x, training=training))
    found = graph(inputs)
    assert "FusedBatchNormV3" in {node.type for node in graph.get_concrete_function(inputs).graph.get_operations()}
    assert found.dtype == layer.compute_dtype
    normalized = (tf.cast(inputs, "float64").numpy() - mean) / np.sqrt(variance + 1e-5)
    expected = normalized * layer.gamma.numpy() + layer.beta.numpy()
    accuracy = 1e-4 if dtype == "float32" else 2**-8
    np.testing.assert_allclose(tf.cast(found, "float64"), expected, rtol=accuracy, atol=accuracy)
    np.testing.assert_array_equal(layer.moving_mean, mean.astype("float32"))
    np.testing.assert_array_equal(layer.moving_variance, variance.astype("float32"))


def test_maps_of_one_pixel_and_a_batch_of_one():
    layer = BatchNormalization(momentum=0.5)
    assert np.all(layer(maps((1, 1, 1, 3)), training=True) == 0.0)
    np.testing.assert_array_equal(layer.moving_variance, [0.5] * 3)


def test_saved_files_of_keras_are_read(tmp_path):
    def model(cls):
        return keras.Sequential([keras.Input((4, 4, 3)), cls(name="normalization"), cls(name="another")])

    theirs, ours = model(keras.layers.BatchNormalization), model(BatchNormalization)
    theirs(maps((2, 4, 4, 3), offset=3.0), training=True)
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    ours.load_weights(tmp_path / "theirs.weights.h5")
    np.testing.assert_allclose(ours(maps((2, 4, 4, 3))), theirs(maps((2, 4, 4, 3))), rtol=1e-5, atol=1e-6)
    ours.save(tmp_path / "ours.keras")
    loaded = keras.models.load_model(tmp_path / "ours.keras")
    assert type(loaded.get_layer("another")) is BatchNormalization
    np.testing.assert_array_equal(loaded(maps((2, 4, 4, 3))), ours(maps((2, 4, 4, 3))))
