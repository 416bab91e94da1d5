import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.layers.cropping import Cropping2D


@pytest.mark.parametrize("cropping", [1, (0, 2), ((1, 0), (1, 0)), ((0, 0), (0, 0)), ((2, 1), (0, 3))])
def test_equals_keras_with_its_gradient(cropping):
    maps = tf.constant(np.random.default_rng(0).standard_normal((2, 6, 7, 3)), "float32")
    results = []
    for cls in (keras.layers.Cropping2D, Cropping2D):
        layer = cls(cropping)
        with tf.GradientTape() as tape:
            tape.watch(maps)
            outputs = layer(maps)
            total = tf.reduce_sum(outputs**3)
        results.append((outputs, tape.gradient(total, maps)))
        assert tuple(outputs.shape) == layer.compute_output_shape(maps.shape)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_sides_may_be_unknown():
    layer = Cropping2D(((1, 0), (0, 2)))
    graph = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 3))])
    assert graph(tf.zeros((2, 5, 6, 3))).shape == (2, 4, 4, 3)
    assert graph.get_concrete_function().structured_outputs.shape[-1] == 3
    assert layer(keras.Input((None, None, 3))).shape == (None, None, None, 3)


def test_config_round_trip():
    layer = Cropping2D(((1, 0), (2, 3)), name="cut")
    assert Cropping2D.from_config(layer.get_config()).get_config() == layer.get_config()


def test_channels_must_be_last():
    with pytest.raises(ValueError, match="expected \"channels_last\", got 'channels_first'"):
        Cropping2D(1, data_format="channels_first")
