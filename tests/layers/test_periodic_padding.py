import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.layers.periodic_padding import PeriodicPadding2D


@pytest.mark.parametrize("padding", [0, 1, 3, (0, 2), ((0, 1), (2, 0)), [[1, 2], [3, 0]]])
@pytest.mark.parametrize("size", [(3, 3), (3, 7), (8, 5)])
def test_equals_numpy_wrap(padding, size):
    maps = np.random.default_rng(0).standard_normal((2, *size, 3)).astype("float32")
    layer = PeriodicPadding2D(padding)
    expected = np.pad(maps, ((0, 0), *layer.padding, (0, 0)), mode="wrap")
    np.testing.assert_array_equal(layer(maps), expected)
    assert layer.compute_output_shape(maps.shape) == expected.shape
    assert layer.compute_output_shape((None, None, 7, 3))[:2] == (None, None)
    graph = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 3))])
    np.testing.assert_array_equal(graph(maps), expected)


def test_forms_of_padding():
    assert PeriodicPadding2D().padding == ((1, 1), (1, 1))
    assert PeriodicPadding2D((1, 2)).padding == ((1, 1), (2, 2))
    assert PeriodicPadding2D(((1, 2), (3, 4))).padding == ((1, 2), (3, 4))


def test_gradient_goes_back_to_the_cell_it_came_from():
    maps = tf.random.normal((1, 3, 3, 1), seed=1)
    weights = np.random.default_rng(1).standard_normal((1, 5, 5, 1)).astype("float32")
    with tf.GradientTape() as tape:
        tape.watch(maps)
        total = tf.reduce_sum(PeriodicPadding2D()(maps) * weights)
    expected = np.zeros((3, 3))
    for row in range(5):
        for column in range(5):
            expected[(row - 1) % 3, (column - 1) % 3] += weights[0, row, column, 0]
    np.testing.assert_allclose(tape.gradient(total, maps)[0, :, :, 0], expected, rtol=1e-5)


def test_saves_in_a_model(tmp_path):
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, PeriodicPadding2D(((0, 1), (2, 0)), name="wrap")(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("wrap").padding == ((0, 1), (2, 0))
    assert loaded.output.shape == (None, None, None, 1)


def test_maps_smaller_than_the_padding():
    with pytest.raises(ValueError, match="at least 3 cells along axis 2 to wrap around"):
        PeriodicPadding2D((1, 3))(np.zeros((1, 2, 2, 1)))


@pytest.mark.parametrize("padding", [-1, 1.5, True, "same", (1,), (1, 2, 3), ((1, 2), (3,)), ((1, 2), (3, -4)), None])
def test_wrong_padding(padding):
    with pytest.raises(ValueError, match="`padding`: expected a number of cells"):
        PeriodicPadding2D(padding)
