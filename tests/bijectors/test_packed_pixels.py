import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.bijectors.packed_pixels import PackedPixels

# Height and width, channels, pixels that are packed together.
CASES = {
    "four": ((3, 8), 4, 4),
    "two": ((4, 6), 4, 2),
    "two of eight": ((2, 4), 8, 2),
    "odd": ((5, 3), 4, 1),
    "many channels": ((4, 4), 16, 1),
}
N_PARAMETERS = 3


@pytest.fixture(params=list(CASES))
def case(request):
    map_shape, channels, pixels = CASES[request.param]
    packed = PackedPixels(map_shape, channels, N_PARAMETERS)
    assert packed.pixels == pixels
    generator = np.random.default_rng(0)
    maps = tf.constant(generator.normal(size=(2, *map_shape, channels)))
    condition = tf.constant(generator.normal(size=(2, N_PARAMETERS)))
    return packed, maps, condition, generator


def test_maps_come_back_and_the_network_sees_the_condition(case):
    packed, maps, condition, _ = case
    x = packed.pack(maps, condition)
    np.testing.assert_array_equal(packed.unpack(x), maps)
    seen, changed = packed.split(x)
    half = maps.shape[-1] // 2
    np.testing.assert_array_equal(seen[..., :half], maps[..., :half])
    np.testing.assert_array_equal(seen[..., half:], np.broadcast_to(condition[:, None, None], seen[..., half:].shape))
    np.testing.assert_array_equal(packed.join(seen, changed), x)


def test_matrices_and_shifts_are_those_of_the_channels(case):
    packed, maps, condition, generator = case
    matrix = generator.normal(size=(2, maps.shape[-1], maps.shape[-1]))
    shift = generator.normal(size=(2, maps.shape[-1]))
    matrices, shifts = packed.matrices(tf.constant(matrix)), packed.channels(tf.constant(shift))
    for step in range(2):
        x = packed.pack(maps, condition) @ matrices[step] + shifts[step]
        np.testing.assert_allclose(packed.unpack(x), np.asarray(maps) @ matrix[step] + shift[step], rtol=1e-12)
        np.testing.assert_allclose(x, packed.pack(packed.unpack(x), condition), rtol=1e-12)


def plain_network(seen, weights):
    x = tf.nn.relu(tf.nn.conv2d(seen, weights[0], 1, "SAME") + weights[1])
    x = tf.nn.relu(tf.nn.conv2d(x, weights[2], 1, "SAME") + weights[3])
    return tf.nn.conv2d(x, weights[4], 1, "SAME") + weights[5]


@pytest.mark.parametrize("side", [3, 2, 5])
@pytest.mark.parametrize("graph", [False, True])
def test_network_and_its_gradients_are_those_of_plain_convolutions(case, graph, side):
    packed, maps, condition, generator = case
    channels, width = maps.shape[-1], 5
    shapes = [(side, side, channels // 2 + N_PARAMETERS, width), (width,), (1, 1, width, width), (width,)]
    shapes += [(side, side, width, channels), (channels,)]
    weights = [tf.constant(generator.normal(size=shape)) for shape in shapes]
    seen, _ = packed.split(packed.pack(maps, condition))
    upstream = tf.constant(generator.normal(size=(*maps.shape[:3], channels)))

    def outputs_and_gradients(of_packed):
        with tf.GradientTape() as tape:
            tape.watch([seen, *weights])
            if of_packed:
                outputs = packed.network(seen, *weights[:4], *packed.kernels(*weights[4:]))
                halves = [tf.reshape(half, [*maps.shape[:3], channels // 2]) for half in tf.split(outputs, 2, -1)]
                outputs = tf.concat(halves, -1)
            else:
                outputs = plain_network(seen, weights)
            loss = tf.reduce_sum(outputs * upstream)
        return outputs, *tape.gradient(loss, [seen, *weights])

    function = tf.function(outputs_and_gradients) if graph else outputs_and_gradients
    for found, expected in zip(function(True), outputs_and_gradients(False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
