import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.layers import convolution
from keras_cosmo.layers.convolution import Conv2D


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def built(cls, maps, filters, kernel_size, dtype, **options):
    """A layer with the same weights for every class and dtype, all of them numbers that bfloat16 holds."""
    layer = cls(filters, kernel_size, dtype=dtype, **options)
    layer.build(maps.shape)
    kernel = numbers(*layer.kernel.shape, seed=1) / np.sqrt(np.prod(layer.kernel.shape[:3]))
    layer.set_weights([rounded(kernel), *([rounded(numbers(filters, seed=2))] if layer.use_bias else [])])
    return layer


def rounded(values):
    return tf.cast(tf.cast(values, "bfloat16"), "float64").numpy()


def differentiated(layer, maps, training=True, jit_compile=False):
    """Outputs and gradients, and the operations of the graph that computed them."""
    weights = rounded(numbers(*layer.compute_output_shape(maps.shape), seed=3))

    @tf.function(jit_compile=jit_compile)
    def run(maps):
        maps = tf.cast(maps, layer.compute_dtype)
        with tf.GradientTape() as tape:
            tape.watch(maps)
            outputs = layer(maps, training=training)
            total = tf.reduce_sum(outputs * tf.cast(weights, outputs.dtype))
        return outputs, *tape.gradient(total, [maps, *(weight.value for weight in layer.trainable_weights)])

    found = [tf.cast(value, "float64").numpy() for value in run(tf.constant(maps))]
    graph = run.get_concrete_function(tf.constant(maps)).graph
    return found, [operation for operation in graph.get_operations() if "Conv2D" in operation.type]


SHAPES = [
    # maps, filters, kernel: the two of the light-cone network, a row shorter than a cell, one filter.
    ((2, 30, 44, 1), 8, 10),
    ((2, 14, 31, 8), 16, 10),
    ((3, 5, 6, 2), 4, (3, 5)),
    ((1, 4, 9, 3), 1, (4, 1)),
    # One filter on narrow maps, of which oneDNN's strided convolution makes anything.
    ((5, 8, 6, 2), 1, (5, 6)),
    ((2, 3, 8, 1), 1, (1, 2)),
    ((3, 4, 4, 1), 1, 3),
    ((2, 6, 3, 5), 3, 3),
    ((2, 12, 10, 24), 5, 2),
]


@pytest.mark.parametrize(("shape", "filters", "kernel_size"), SHAPES)
@pytest.mark.parametrize("options", [{"activation": "relu"}, {"use_bias": False}])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("mixed_bfloat16", 2e-2)])
def test_equals_keras_in_double_precision(shape, filters, kernel_size, options, dtype, tolerance):
    maps = rounded(numbers(*shape))
    # ReLU passes or stops where the sign is clear.
    expected, _ = differentiated(built(keras.layers.Conv2D, maps, filters, kernel_size, "float64", **options), maps)
    found, _ = differentiated(built(Conv2D, maps, filters, kernel_size, dtype, **options), maps)
    assert len(found) == (3 if "use_bias" in options else 4)
    for one, other in zip(expected, found, strict=True):
        assert np.linalg.norm(other - one) < tolerance * np.linalg.norm(one)


@pytest.mark.parametrize(("shape", "filters", "kernel_size"), SHAPES)
def test_is_no_less_exact_than_keras_in_bfloat16(shape, filters, kernel_size):
    maps = rounded(numbers(*shape))
    exact, _ = differentiated(built(keras.layers.Conv2D, maps, filters, kernel_size, "float64"), maps)
    errors = []
    for cls in (keras.layers.Conv2D, Conv2D):
        found, _ = differentiated(built(cls, maps, filters, kernel_size, "mixed_bfloat16"), maps)
        errors.append(
            [np.linalg.norm(one - other) / np.linalg.norm(one) for one, other in zip(exact[:3], found[:3], strict=True)]
        )
    theirs, ours = np.array(errors)
    # Not the gradient of the bias: few numbers, in which roundings of its parts do not average out.
    # Beside theirs the rounding of one number, 2**-8.
    assert (ours < theirs + 2**-8).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs_are_those_of_keras(dtype):
    maps = rounded(numbers(2, 14, 31, 8))
    expected, _ = differentiated(built(keras.layers.Conv2D, maps, 8, 5, dtype), maps)
    found, _ = differentiated(built(Conv2D, maps, 8, 5, dtype), maps)
    np.testing.assert_array_equal(found[0], expected[0])


def types(operations):
    return sorted(operation.type for operation in operations)


def filter_sizes(operations):
    """As this layer wrote them down; None where TensorFlow's gradient takes the shape of the kernel."""
    found = [operation for operation in operations if operation.type == "Conv2DBackpropFilter"]
    sizes = tf.get_static_value(found[0].inputs[1]) if found else None
    return None if sizes is None else sizes.tolist()


def test_gradients_are_of_several_pixels():
    maps = numbers(2, 14, 31, 8)
    _, operations = differentiated(built(Conv2D, maps, 8, 10, "bfloat16"), maps)
    # Four pixels of 8 numbers; 13 columns of them are in four cells.
    assert filter_sizes(operations) == [10, 4, 32, 32]
    assert types(operations) == ["Conv2D", "Conv2DBackpropFilter", "Conv2DBackpropInput"]
    _, operations = differentiated(built(Conv2D, maps, 16, 10, "float32"), maps)
    assert filter_sizes(operations) == [10, 10, 8, 16]
    assert types(operations) == ["Conv2D", "Conv2D", "Conv2DBackpropFilter"]


@pytest.mark.parametrize(
    ("options", "dtype", "training"),
    [
        ({"padding": "same"}, "bfloat16", True),
        ({"strides": 2}, "bfloat16", True),
        ({"strides": (1, 2)}, "bfloat16", True),
        ({"dilation_rate": 2}, "bfloat16", True),
        ({"groups": 2}, "float32", True),
        ({}, "float64", True),
        ({}, "bfloat16", False),
    ],
)
def test_all_else_is_left_to_keras(options, dtype, training):
    maps = numbers(2, 9, 12, 4)
    expected, plain = differentiated(built(keras.layers.Conv2D, maps, 8, 3, dtype, **options), maps, training)
    found, operations = differentiated(built(Conv2D, maps, 8, 3, dtype, **options), maps, training)
    assert types(operations) == types(plain)
    assert filter_sizes(operations) is filter_sizes(plain) is None
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def test_many_channels_are_left_to_keras():
    maps = numbers(1, 6, 8, 32)
    for dtype in ("float32", "bfloat16"):
        _, operations = differentiated(built(Conv2D, maps, 32, 3, dtype), maps)
        assert filter_sizes(operations) is None


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_compiled_by_xla(dtype):
    maps = rounded(numbers(2, 14, 31, 8))
    layer = built(Conv2D, maps, 8, 5, dtype, activation="relu")
    (expected, _), (found, _) = (differentiated(layer, maps, jit_compile=compiled) for compiled in (False, True))
    for one, other in zip(expected, found, strict=True):
        # XLA adds up in bfloat16.
        assert np.linalg.norm(other - one) < 2e-2 * np.linalg.norm(one)


def test_unknown_sizes_are_left_to_keras_and_unknown_batches_are_not():
    layer = built(Conv2D, numbers(1, 12, 15, 1), 4, 3, "bfloat16")
    for shape, kernel in (((None, 12, 15, 1), [3, 2, 8, 32]), ((None, None, None, 1), None)):

        @tf.function(input_signature=[tf.TensorSpec(shape, "bfloat16")])
        def run(maps):
            with tf.GradientTape() as tape:
                total = tf.reduce_sum(layer(maps, training=True))
            return tape.gradient(total, layer.kernel.value)

        assert filter_sizes(run.get_concrete_function().graph.get_operations()) == kernel
        maps = tf.cast(rounded(numbers(3, 12, 15, 1)), "bfloat16")
        expected = tf.reduce_sum(
            tf.cast(tf.nn.conv2d(maps, tf.ones((10, 13, 1, 1), "bfloat16"), 1, "VALID"), "float32"), 0
        )
        np.testing.assert_allclose(tf.cast(run(maps), "float32")[..., 0, 0], expected[..., 0], rtol=2e-2, atol=0.3)


def test_saves_and_trains_like_the_layer_of_keras(tmp_path):
    maps = numbers(4, 20, 22, 1).astype("float32")
    losses = []
    for cls in (keras.layers.Conv2D, Conv2D):
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [keras.Input((20, 22, 1)), cls(8, 10, activation="relu"), keras.layers.GlobalMaxPooling2D()]
        )
        model.compile("sgd", "mse", jit_compile=False)
        losses.append(model.fit(maps, numbers(4, 8).astype("float32"), epochs=3, verbose=0).history["loss"])
        model.save(tmp_path / f"{cls.__module__}.keras")
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    loaded = keras.models.load_model(tmp_path / f"{Conv2D.__module__}.keras")
    assert type(loaded.layers[0]) is Conv2D
    np.testing.assert_array_equal(loaded.predict(maps, verbose=0), model.predict(maps, verbose=0))
    # Weights of a file with Keras's layers fit.
    model.load_weights(tmp_path / f"{keras.layers.Conv2D.__module__}.keras")


def test_example():
    assert doctest.testmod(convolution).failed == 0


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_eager_training(dtype):
    maps = numbers(4, 20, 22, 1).astype("float32")
    inputs = keras.Input((20, 22, 1))
    outputs = keras.layers.GlobalMaxPooling2D()(Conv2D(8, 10, dtype=dtype)(inputs))
    model = keras.Model(inputs, outputs)
    losses, start = [], model.get_weights()
    for eager in (False, True):
        model.set_weights(start)
        model.compile("sgd", "mse", jit_compile=False, run_eagerly=eager)
        losses.append(model.fit(maps, numbers(4, 8).astype("float32"), epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5 if dtype == "float32" else 2e-2)


@pytest.mark.parametrize("behind", ["no shape", "rows"])
def test_upstream_gradients_of_any_kind(behind):
    """Without a static shape, as behind a function of NumPy, and as some of the rows of the batch."""
    maps = tf.constant(numbers(4, 12, 15, 1), "float32")
    found = []
    for cls in (keras.layers.Conv2D, Conv2D):
        layer = built(cls, maps, 4, 3, "float32")

        @tf.custom_gradient
        def shapeless(values):
            return values, lambda upstream: tf.numpy_function(lambda array: array, [upstream], tf.float32)

        @tf.function
        def run(maps, layer=layer):
            with tf.GradientTape() as tape:
                outputs = layer(maps, training=True)
                outputs = shapeless(outputs) if behind == "no shape" else tf.gather(outputs, [2, 0])
                total = tf.reduce_sum(outputs**2)
            return tape.gradient(total, layer.kernel.value)

        found.append(run(maps))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_second_derivatives(dtype):
    maps = tf.constant(rounded(numbers(2, 9, 11, 2)))
    found = []
    for cls, kind in ((keras.layers.Conv2D, "float64"), (Conv2D, dtype)):
        layer = built(cls, maps, 8, 3, kind)

        @tf.function
        def run(maps, layer=layer):
            maps = tf.cast(maps, layer.compute_dtype)
            with tf.GradientTape() as outer:
                with tf.GradientTape() as tape:
                    tape.watch(maps)
                    total = tf.reduce_sum(layer(maps, training=True) ** 2)
                penalty = tf.reduce_sum(tape.gradient(total, maps) ** 2)
            return outer.gradient(penalty, layer.kernel.value)

        found.append(tf.cast(run(maps), "float64").numpy())
    assert np.linalg.norm(found[1] - found[0]) < (1e-5 if dtype == "float32" else 3e-2) * np.linalg.norm(found[0])


def test_gpus_are_left_to_keras(monkeypatch):
    maps = numbers(2, 14, 31, 8)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: ["GPU:0"])
    _, operations = differentiated(built(Conv2D, maps, 8, 10, "bfloat16"), maps)
    assert filter_sizes(operations) is None
