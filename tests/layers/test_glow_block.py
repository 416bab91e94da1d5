import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.bijectors.glow_steps import border_classes
from keras_cosmo.layers.glow_block import INJECTORS, GlowBlock, lu_factors
from keras_cosmo.layers.split_prior import SplitPrior


def randomise(layer, seed=0, scale=0.2):
    generator = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(weight.numpy() + generator.normal(0, scale, weight.shape))


def batch(channels=4, sides=(4, 4), seed=1):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((3, *sides, channels)), generator.uniform(-1, 1, (3, 2))


@pytest.mark.parametrize("injector", INJECTORS)
def test_bijector_and_call(injector):
    layer = GlowBlock(4, (4, 4), 2, steps=2, width=5, injector=injector, seed=1, dtype="float64")
    randomise(layer)
    maps, parameters = batch()
    latent, log_det = layer(maps, parameters)
    bijector = layer.bijector(parameters)
    np.testing.assert_allclose(bijector.forward(tf.identity(latent)), maps, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(bijector.forward_log_det_jacobian(tf.identity(latent), 3), -log_det, rtol=1e-8)
    assert log_det.shape == (3,)
    assert np.std(log_det) > 0.1
    again = GlowBlock.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert [tuple(weight.shape) for weight in again.weights] == [tuple(weight.shape) for weight in layer.weights]


def test_scalar_and_channel_injectors_in_plain_numpy():
    _, parameters = batch()
    for injector, outputs in (("scalar", 1), ("channel", 4)):
        layer = GlowBlock(4, (4, 4), 2, steps=2, width=5, injector=injector, dtype="float64")
        randomise(layer, scale=1.0)
        hidden_kernel, hidden_bias, kernel, bias = (
            next(w.numpy() for w in layer.weights if w.name == name)
            for name in ("injector_hidden_kernel", "injector_hidden_bias", "injector_kernel", "injector_bias")
        )
        assert kernel.shape == (2, 2, 5, outputs)
        bijector = layer.bijector(parameters)
        for step in range(2):
            raw, shift = (
                np.maximum(parameters @ hidden_kernel[step, i] + hidden_bias[step, i], 0) @ kernel[step, i]
                + bias[step, i]
                for i in range(2)
            )
            np.testing.assert_allclose(bijector.log_scale[step], np.tile(5 * np.tanh(raw / 5), (1, 4 // outputs)))
            np.testing.assert_allclose(bijector.shift[step], np.tile(shift, (1, 4 // outputs)))


@pytest.mark.parametrize("sides", [(7, 3), (1, 2), (6, 6), (1, 1)])
def test_convolutional_injector_equals_the_network_on_the_whole_map(sides):
    layer = GlowBlock(4, sides, 2, steps=2, width=5, injector="convolutional", dtype="float64")
    randomise(layer, scale=0.5)
    weights = {weight.name: weight.numpy() for weight in layer.weights}
    _, parameters = batch()
    bijector = layer.bijector(parameters)
    planes = np.broadcast_to(parameters[:, None, None], (3, *sides, 2))
    for step in range(2):
        one, two, three = ([weights[f"injector_{name}_{i}"][step] for name in ("kernel", "bias")] for i in (1, 2, 3))
        x = tf.nn.relu(tf.nn.conv2d(planes, one[0], 1, "SAME") + one[1])
        x = tf.nn.relu(tf.nn.conv2d(x, two[0], 1, "SAME") + two[1])
        margin = len(three[0]) // 2
        x = tf.pad(x, [[0, 0], [margin, margin], [margin, margin], [0, 0]], constant_values=1)
        raw, shift = tf.split(tf.nn.conv2d(x, three[0], 1, "VALID") + three[1], 2, -1)
        rows, columns = (border_classes(side) for side in sides)
        np.testing.assert_allclose(bijector.shift[step].numpy()[:, rows][:, :, columns], shift, rtol=1e-10)
        log_scale = bijector.log_scale[step].numpy()[:, rows][:, :, columns]
        np.testing.assert_allclose(log_scale, 5 * np.tanh(raw / 5), rtol=1e-10)


@pytest.mark.parametrize("injector", INJECTORS)
def test_start_from_maps(injector):
    layer = GlowBlock(4, (4, 4), 2, steps=2, width=5, injector=injector, dtype="float64")
    maps, parameters = batch()
    maps = 3 * maps + [1.0, 2.0, 3.0, 40.0]
    latent = layer.start_from(maps, parameters)
    np.testing.assert_allclose(layer(maps, parameters)[0], latent, rtol=1e-8, atol=1e-8)
    log_scale, shift = (np.array(values)[0, :1] for values in layer._injections(tf.constant(parameters)))
    if injector == "convolutional":
        log_scale, shift = log_scale[:, 2, 2], shift[:, 2, 2]
    injected = maps * np.exp(log_scale) + shift
    axes = None if injector == "scalar" else (0, 1, 2)
    np.testing.assert_allclose(injected.mean(axes), 0.0, atol=1e-8)
    np.testing.assert_allclose(injected.std(axes), 1.0, rtol=1e-8)
    randomise(layer)
    with pytest.raises(ValueError, match=r"the injectors have been trained already"):
        layer.start_from(maps, parameters)


def test_start_from_maps_far_beyond_the_bound_of_the_scale():
    layer = GlowBlock(4, (4, 4), 2, steps=1, width=5, dtype="float64")
    maps, parameters = batch()
    assert np.isfinite(layer.start_from(1e-9 * maps + 5, parameters)).all()


def test_starting_convolutions_are_rotations():
    permutation, lower, upper, sign, log_diagonal = lu_factors(6, np.random.default_rng(0))
    matrix = permutation @ (lower + np.eye(6)) @ (upper + np.diag(sign * np.exp(log_diagonal)))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(6), atol=1e-12)


def test_seeds():
    def kernel(seed):
        return next(w.numpy() for w in GlowBlock(4, (4, 4), 2, steps=1, seed=seed).weights if w.name == "triangles")

    np.testing.assert_array_equal(kernel(3), kernel(3))
    assert not np.array_equal(kernel(3), kernel(4))
    keras.utils.set_random_seed(1)
    first = kernel(None)
    assert not np.array_equal(first, kernel(None))
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(first, kernel(None))


def test_precision():
    assert {weight.dtype for weight in GlowBlock(4, (4, 4), 2, steps=1, dtype="mixed_bfloat16").weights} == {"float32"}
    assert {weight.dtype for weight in GlowBlock(4, (4, 4), 2, steps=1, dtype="bfloat16").weights} == {"float32"}
    assert {weight.dtype for weight in GlowBlock(4, (4, 4), 2, steps=1, dtype="float64").weights} == {"float64"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 3}, r"`channels`: a coupling halves them; expected an even number, got 3"),
        ({"steps": 0}, r"`steps`: expected an integer of at least 1, got 0"),
        ({"n_parameters": 1.5}, r"`n_parameters`: expected an integer of at least 1, got 1.5"),
        ({"injector": "cnn"}, r"`injector`: expected one of \['scalar', .*got 'cnn'"),
        ({"smallest_scale": 1.0}, r"`smallest_scale`: expected from 0 up to"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        GlowBlock(**{"channels": 4, "map_shape": (4, 4), "n_parameters": 2, **changes})


def test_split_prior():
    layer = SplitPrior(2, (4, 4), 2, dtype="float64")
    kept, parameters = batch(2)
    mean, log_scale = layer(kept, parameters)
    np.testing.assert_array_equal(mean, 0.0)
    np.testing.assert_array_equal(log_scale, 0.0)
    randomise(layer)
    mean, log_scale = layer(np.concatenate([kept, kept]), parameters)
    np.testing.assert_allclose(mean[3:], mean[:3])
    planes = np.broadcast_to(parameters[:, None, None], (3, 4, 4, 2))
    x = tf.nn.conv2d(np.concatenate([kept, planes], -1), layer.kernel.numpy(), 1, "SAME") + layer.bias.numpy()
    np.testing.assert_allclose(mean[:3], x[..., :2])
    np.testing.assert_allclose(log_scale[:3], 5 * np.tanh(x[..., 2:] / 5))
    assert SplitPrior.from_config(layer.get_config()).get_config() == layer.get_config()
