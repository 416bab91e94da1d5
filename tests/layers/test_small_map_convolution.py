import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.layers import small_map_convolution, transposed_convolution
from keras_cosmo.layers.convolution import Conv2D
from keras_cosmo.layers.transposed_convolution import Conv2DTranspose

PAIRS = [(keras.layers.Conv2D, Conv2D), (keras.layers.Conv2DTranspose, Conv2DTranspose)]


def numbers(*shape, seed=0):
    """Numbers that bfloat16 holds."""
    values = np.random.default_rng(seed).standard_normal(shape)
    return tf.cast(tf.cast(values, "bfloat16"), "float64").numpy()


def built(cls, shape, filters, kernel_size, dtype, **options):
    layer = cls(filters, kernel_size, dtype=dtype, **options)
    layer.build(shape)
    # Sums of few roundings: a quarter of whole numbers.
    layer.set_weights([np.round(4 * numbers(*weight.shape, seed=1)) / 4 for weight in layer.weights])
    return layer


def differentiated(layer, maps, batch="known", jit_compile=False):
    """Outputs and gradients of a layer, and the types of the operations on convolutions and matrices."""
    upstream = numbers(*layer.compute_output_shape(maps.shape), seed=3)
    rows = None if batch == "unknown" else len(maps)

    @tf.function(input_signature=[tf.TensorSpec((rows, *maps.shape[1:]), "float64")], jit_compile=jit_compile)
    def run(maps):
        maps = tf.cast(maps, layer.compute_dtype)
        with tf.GradientTape() as tape:
            tape.watch(maps)
            outputs = layer(maps, training=True)
            total = tf.reduce_sum(outputs * tf.cast(upstream, outputs.dtype))
        return outputs, *tape.gradient(total, [maps, *(weight.value for weight in layer.trainable_weights)])

    found = [tf.cast(value, "float64").numpy() for value in run(maps)]
    operations = run.get_concrete_function().graph.get_operations()
    return found, sorted(node.type for node in operations if node.type.startswith("Conv2D") or node.type == "MatMul")


CASES = [
    # Height and width, kernel, strides, padding; the finer or the coarser map, by the layer.
    ((2, 2), 5, 2, "same"),
    ((1, 1), 5, 2, "same"),
    ((4, 4), 5, 2, "same"),
    ((2, 2), 2, 2, "valid"),
    ((4, 6), 3, 1, "same"),
    ((3, 5), (3, 2), (1, 2), "valid"),
    ((5, 4), 3, 2, "valid"),
    ((7, 5), (2, 4), 2, "same"),
    ((2, 3), 1, 1, "valid"),
]


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(small_map_convolution, "FEWEST_PAIRS", 1)


@pytest.mark.parametrize("classes", PAIRS)
@pytest.mark.parametrize(("size", "kernel_size", "strides", "padding"), CASES)
@pytest.mark.parametrize("few", [0, 2**20])
@pytest.mark.parametrize("batch", ["known", "unknown"])
@pytest.mark.usefixtures("always")
def test_equals_keras_in_double_precision(classes, size, kernel_size, strides, padding, few, batch, monkeypatch):
    monkeypatch.setattr(small_map_convolution, "FEW_PIXELS", few)
    monkeypatch.setattr(small_map_convolution, "FEW_SIDE", 8)
    maps = numbers(3, *size, 4)
    options = {"strides": strides, "padding": padding, "activation": "relu"}
    theirs = built(classes[0], maps.shape, 5, kernel_size, "float64", **options)
    ours = built(classes[1], maps.shape, 5, kernel_size, "float32", **options)
    expected, _ = differentiated(theirs, maps, batch)
    found, operations = differentiated(ours, maps, batch)
    assert "Conv2DBackpropFilter" not in operations
    assert "MatMul" in operations
    # With few pixels everything is.
    assert any(name.startswith("Conv2D") for name in operations) == (not few or batch == "unknown")
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("classes", PAIRS)
@pytest.mark.parametrize("side", [2, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("mixed_bfloat16", 6e-3)])
def test_layers_of_the_networks(classes, side, dtype, tolerance):
    """512 x 256 channels as they are, with the patience of one place of a kernel being summed over few pixels."""
    maps = numbers(2, side, side, 512)
    options = {"strides": 2, "padding": "same", "use_bias": False}
    theirs = built(classes[0], maps.shape, 256, 3, "float64", **options)
    expected, plain = differentiated(theirs, maps)
    found, operations = differentiated(built(classes[1], maps.shape, 256, 3, dtype, **options), maps)
    assert "Conv2DBackpropFilter" in plain
    assert "Conv2DBackpropFilter" not in operations
    for one, other in zip(expected, found, strict=True):
        assert np.linalg.norm(other - one) < tolerance * np.linalg.norm(one)


@pytest.mark.parametrize("classes", PAIRS)
@pytest.mark.parametrize(
    ("shape", "filters", "options"),
    [
        ((1, 4, 4, 512), 255, {}),
        ((1, 18, 4, 512), 256, {}),
        ((1, 4, 4, 512), 256, {"dilation_rate": 2, "padding": "same"}),
    ],
)
def test_all_else_is_left_to_keras(classes, shape, filters, options):
    maps = numbers(*shape)
    results = [differentiated(built(cls, shape, filters, 2, "float32", **options), maps) for cls in classes]
    assert results[0][1] == results[1][1]
    for one, other in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("options", "dtype"),
    [({"strides": 3}, "float32"), ({"strides": 2, "output_padding": 1}, "float32"), ({}, "float64")],
)
def test_other_transposed_convolutions_are_left_to_keras(options, dtype):
    maps = numbers(2, 3, 4, 3)
    results = [differentiated(built(cls, maps.shape, 2, 2, dtype, **options), maps) for cls in PAIRS[1]]
    assert results[0][1] == results[1][1]
    for one, other in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("classes", PAIRS)
@pytest.mark.parametrize("few", [0, 2**20])
@pytest.mark.usefixtures("always")
def test_compiled_by_xla(classes, few, monkeypatch):
    monkeypatch.setattr(small_map_convolution, "FEW_PIXELS", few)
    maps = numbers(3, 2, 2, 4)
    layer = built(classes[1], maps.shape, 5, 3, "float32", strides=2, padding="same")
    for one, other in zip(
        differentiated(layer, maps)[0], differentiated(layer, maps, jit_compile=True)[0], strict=True
    ):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def test_inference_is_that_of_keras():
    maps = numbers(2, 4, 4, 512)
    for theirs, ours in PAIRS:
        layers = [built(cls, maps.shape, 256, 3, "float32", strides=2) for cls in (theirs, ours)]
        one, other = (layer(tf.constant(maps, "float32")) for layer in layers)
        np.testing.assert_array_equal(other, one)


def test_transposed_convolution_saves_like_that_of_keras(tmp_path):
    inputs = keras.Input((4, 4, 3))
    for name, cls in zip(("theirs", "ours"), PAIRS[1], strict=True):
        model = keras.Model(inputs, cls(2, 3, strides=2)(inputs))
        model.save(tmp_path / f"{name}.keras")
    loaded = keras.models.load_model(tmp_path / "ours.keras")
    assert type(loaded.layers[1]) is Conv2DTranspose
    loaded.load_weights(tmp_path / "theirs.keras")


def test_example():
    assert doctest.testmod(transposed_convolution).failed == 0


@pytest.mark.parametrize("classes", PAIRS)
@pytest.mark.parametrize("few", [0, 2**20])
@pytest.mark.usefixtures("always")
def test_rows_of_the_batch_and_second_derivatives_and_eagerly(classes, few, monkeypatch):
    monkeypatch.setattr(small_map_convolution, "FEW_PIXELS", few)
    maps = tf.constant(numbers(3, 2, 2, 4), "float32")
    found = []
    for cls in classes:
        layer = built(cls, maps.shape, 5, 3, "float32", strides=2, padding="same")

        def run(maps, layer=layer):
            with tf.GradientTape() as outer:
                with tf.GradientTape() as tape:
                    tape.watch(maps)
                    total = tf.reduce_sum(tf.gather(layer(maps, training=True), [2, 0]) ** 2)
                penalty = tf.reduce_sum(tape.gradient(total, maps) ** 2)
            return outer.gradient(penalty, layer.kernel.value)

        found += [run(maps), tf.function(run)(maps)]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-3)
