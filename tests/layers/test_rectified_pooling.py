import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.layers.rectified_pooling import RectifiedMaxPooling2D


def maps(shape=(3, 7, 10, 4), seed=0):
    """Numbers with ties in many windows, and windows without a positive number."""
    return np.random.default_rng(seed).integers(-6, 4, shape).astype("float64")


def two_layers(*args, **kwargs):
    return keras.Sequential([keras.layers.ReLU(dtype=kwargs["dtype"]), keras.layers.MaxPooling2D(*args, **kwargs)])


def differentiated(layer, inputs, dtype, training=True, **compilation):
    @tf.function(**compilation)
    def run(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=training)
            total = tf.reduce_sum(outputs * tf.cast(maps(outputs.shape, seed=1), outputs.dtype))
        return outputs, tape.gradient(total, inputs)

    inputs = tf.constant(inputs, dtype)
    found = [tf.cast(value, "float64").numpy() for value in run(inputs)]
    return found, run.get_concrete_function(inputs).graph.get_operations()


OPTIONS = [{"pool_size": 2}, {"pool_size": (3, 2)}, {"pool_size": 3, "strides": 1}, {"pool_size": 2, "padding": "same"}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("training", [True, False])
def test_equals_two_layers_of_keras(options, dtype, training):
    expected, _ = differentiated(two_layers(dtype=dtype, **options), maps(), dtype, training)
    found, _ = differentiated(RectifiedMaxPooling2D(dtype=dtype, **options), maps(), dtype, training)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(other, one)
    assert (found[1] != 0).any()


def test_no_gradient_where_nothing_is_positive():
    inputs = -np.ones((1, 4, 4, 1))
    inputs[0, 2, 3] = 2.0
    found, _ = differentiated(RectifiedMaxPooling2D(2), inputs, "float32")
    np.testing.assert_array_equal(found[0][0, ..., 0], [[0, 0], [0, 2]])
    assert np.flatnonzero(found[1]).tolist() == [2 * 4 + 3]


def test_gradient_of_relu_is_of_the_pooled_map():
    _, operations = differentiated(RectifiedMaxPooling2D(2), maps(), "float32")
    (rectifier,) = (operation for operation in operations if operation.type == "ReluGrad")
    assert rectifier.outputs[0].shape == (3, 3, 5, 4)


def test_compiled_by_xla():
    expected, _ = differentiated(two_layers(2, dtype="float32"), maps(), "float32")
    found, _ = differentiated(RectifiedMaxPooling2D(2), maps(), "float32", jit_compile=True)
    np.testing.assert_array_equal(found[0], expected[0])
    # XLA chooses another one of equal numbers in a window, which get the same sum.
    np.testing.assert_array_equal(found[1].sum((1, 2)), expected[1].sum((1, 2)))


def test_channels_first_are_left_to_keras():
    layer = RectifiedMaxPooling2D(2, data_format="channels_first")
    assert layer(keras.Input((4, 8, 6)), training=True).shape == (None, 4, 4, 3)


def test_config_round_trip():
    layer = RectifiedMaxPooling2D((2, 3), strides=1, padding="same", name="pooling")
    assert RectifiedMaxPooling2D.from_config(layer.get_config()).get_config() == layer.get_config()
