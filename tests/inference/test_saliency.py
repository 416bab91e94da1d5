import logging
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_cosmo.inference.saliency import gradient_saliency, randomized, saliency
from keras_cosmo.models.astro_net import AstroNet
from keras_cosmo.statistics.distributions import rank_correlation

SHAPE = (5, 7, 2)
GENERATOR = np.random.default_rng(8)
LINEAR, SQUARE = GENERATOR.standard_normal((2, 3, *SHAPE)).astype("float32")


class Quadratic(keras.layers.Layer):
    """output_i = sum of linear_i x + square_i x^2 / 2."""

    def __init__(self, square=True, **kwargs):
        super().__init__(**kwargs)
        self.square = SQUARE if square else 0 * SQUARE

    def call(self, x):
        x = ops.expand_dims(x, 1)
        return ops.sum(LINEAR * x + self.square / 2 * x**2, axis=(2, 3, 4))


def quadratic(square=True):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, Quadratic(square)(inputs))


def maps(count=5):
    return np.random.default_rng(0).normal(3.0, 2.0, (count, *SHAPE)).astype("float32")


def small_network(**changes):
    keras.utils.set_random_seed(1)
    settings = {"input_mean": -100.0, "input_standard_deviation": 40.0, "encoder_widths": (4,), "widths": (6,)}
    return AstroNet((12, 8), **{**settings, "dense_units": 8, **changes})


def temperature(count=6):
    return np.random.default_rng(3).normal(-100, 40, (count, 12, 8, 1)).astype("float32")


def test_gradient_of_a_known_function():
    fields = maps()
    expected = LINEAR + SQUARE * fields[:, None]
    signed = saliency(quadratic(), fields, absolute=False, batch_size=2)
    assert (signed.shape, signed.dtype) == ((5, 3, *SHAPE), np.float32)
    np.testing.assert_allclose(signed, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(saliency(quadratic(), fields), np.abs(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("outputs", "rows"), [([2, 0], [2, 0]), (1, [1]), (None, [0, 1, 2])])
def test_choice_of_outputs(outputs, rows):
    fields = maps(2)
    np.testing.assert_array_equal(
        saliency(quadratic(), fields, outputs=outputs), saliency(quadratic(), fields)[:, rows]
    )


def test_maps_without_channels():
    inputs = keras.Input((4, 6))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    found = saliency(model, np.ones((3, 4, 6)), absolute=False)
    kernel = model.layers[-1].kernel.numpy().T.reshape(2, 4, 6)
    np.testing.assert_allclose(found, np.broadcast_to(kernel, (3, 2, 4, 6)), rtol=1e-6)


def test_output_that_depends_on_no_pixel():
    inputs = keras.Input(SHAPE)
    constant = keras.layers.Lambda(lambda x: tf.zeros((tf.shape(x)[0], 2)), output_shape=(2,))
    assert not saliency(keras.Model(inputs, constant(inputs)), maps(2)).any()


def test_smoothgrad():
    """Of a linear model it is the gradient; of a quadratic one it tells the noise, which averages out."""
    fields = maps(3)
    linear = saliency(quadratic(square=False), fields, "smoothgrad", samples=3)
    np.testing.assert_allclose(linear, saliency(quadratic(square=False), fields), rtol=1e-5)
    one = saliency(quadratic(), fields, "smoothgrad", samples=1, noise=0.2, absolute=False)
    noise = (one - saliency(quadratic(), fields, absolute=False)) / SQUARE
    np.testing.assert_allclose(noise[:, 0], noise[:, 1], rtol=1e-2, atol=1e-2)
    expected = 0.2 * (fields.max(axis=(1, 2)) - fields.min(axis=(1, 2)))
    np.testing.assert_allclose(noise[:, 0].std(axis=(1, 2)) / expected, 1, atol=0.45)
    many = saliency(quadratic(), fields, "smoothgrad", samples=400, noise=0.2, absolute=False)
    assert np.abs(many - one).max() > 0.1
    np.testing.assert_allclose(
        (many - saliency(quadratic(), fields, absolute=False)).std(), noise.std() * SQUARE.std() / 20, rtol=0.3
    )


def test_noise_depends_on_seed_and_map_only():
    fields = maps(5)
    first = saliency(quadratic(), fields, "smoothgrad", samples=2, batch_size=5)
    np.testing.assert_allclose(first, saliency(quadratic(), fields, "smoothgrad", samples=2, batch_size=2), rtol=1e-4)
    assert not np.allclose(first, saliency(quadratic(), fields, "smoothgrad", samples=2, seed=1), rtol=1e-2)


@pytest.mark.parametrize("reference", [None, 1.5, np.array([-2.0, 4.0]), maps(1)[0] - 1])
def test_integrated_gradients_are_complete(reference):
    """The shares add up to the difference of the outputs; of a quadratic each share is known."""
    fields, model = maps(3), quadratic()
    found = saliency(model, fields, "integrated_gradients", steps=4, reference=reference, absolute=False)
    start = np.broadcast_to(np.float32(0.0 if reference is None else reference), fields.shape)
    difference = model(fields) - model(np.array(start))
    np.testing.assert_allclose(found.sum(axis=(2, 3, 4)), difference, rtol=1e-4, atol=1e-3)
    each = LINEAR * (fields - start)[:, None] + SQUARE / 2 * (fields**2 - start**2)[:, None]
    np.testing.assert_allclose(found, each, rtol=1e-3, atol=1e-3)


def test_integrated_gradients_of_a_network():
    model, fields = small_network(), temperature(3)
    found = saliency(model, fields, "integrated_gradients", steps=200, absolute=False)
    difference = model(fields) - model(np.full_like(fields, -100.0))
    np.testing.assert_allclose(found.sum(axis=(2, 3, 4)), difference, atol=0.02 * np.abs(difference).max())


def test_frozen_encoder_does_not_change_the_gradient():
    model, fields = small_network(), temperature()
    free = saliency(model, fields)
    assert (free.max(axis=(2, 3, 4)) > 0).all()
    model.trainable_encoder = False
    np.testing.assert_array_equal(saliency(model, fields), free)


def test_gradient_is_in_output_units_per_input_unit():
    """Wider input scatter or narrower output ranges make the same network's gradient smaller in proportion."""
    fields, model = temperature(), small_network()
    normal = small_network(input_mean=0.0, input_standard_deviation=1.0)
    scaled = small_network(output_standard_deviation=[1.0, 2.0, 3.0])
    for other in (normal, scaled):
        other.set_weights(model.get_weights())
    found = saliency(model, fields)
    np.testing.assert_allclose(found, saliency(normal, (fields + 100) / 40) / 40, rtol=1e-3, atol=1e-9)
    factors = np.array([1, 2, 3])[:, None, None, None]
    np.testing.assert_allclose(saliency(scaled, fields), found * factors, rtol=1e-4, atol=1e-9)


def test_in_an_exported_signature(tmp_path):
    model, fields = small_network(), temperature()
    module = tf.Module()
    module.variables_ = [weight.value for weight in model.weights]
    module.saliency = tf.function(
        lambda maps: gradient_saliency(model, maps),
        input_signature=[tf.TensorSpec((None, 12, 8, 1), name="maps")],
    )
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(loaded.saliency(fields), saliency(model, fields), rtol=1e-4, atol=1e-9)


def test_randomized():
    model = small_network()
    model.get_layer("regression_batch_normalization_1").moving_mean.assign([5.0] * 6)
    state = random.getstate()
    first, again, other = randomized(model, 1), randomized(model, 1), randomized(model, 2)
    assert random.getstate() == state
    assert first.get_config() == model.get_config()
    for old, new, same, different in zip(model.weights, first.weights, again.weights, other.weights, strict=True):
        np.testing.assert_array_equal(new, same)
        if "kernel" in old.path:
            assert not np.allclose(old, new)
            assert not np.allclose(new, different)
    assert not np.any(first.get_layer("regression_batch_normalization_1").moving_mean)


def test_randomized_keeps_a_fixed_scaling():
    scaling = keras.layers.Normalization()
    scaling.adapt(temperature())
    model = keras.Sequential([keras.Input((12, 8, 1)), scaling, keras.layers.Flatten(), keras.layers.Dense(2)])
    copy = randomized(model)
    np.testing.assert_array_equal(copy.layers[0](temperature()), scaling(temperature()))
    assert not np.allclose(copy.layers[-1].kernel, model.layers[-1].kernel)


def test_saliency_of_a_trained_network_is_lost_with_its_weights():
    """The network learns the sum over one corner; there its gradients are large, and a random one's are not."""
    inputs = keras.Input((12, 8, 1))
    keras.utils.set_random_seed(2)
    x = keras.layers.Conv2D(8, 3, activation="relu", padding="same")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(x)))
    fields = np.random.default_rng(4).standard_normal((512, 12, 8, 1)).astype("float32")
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(fields, fields[:, :4, :4].sum(axis=(1, 2)), epochs=15, batch_size=64, verbose=0)
    trained = saliency(model, fields[:16])
    corner = np.zeros((12, 8), bool)
    corner[:4, :4] = True
    assert trained[:, 0, corner].mean() > 3 * trained[:, 0, ~corner].mean()
    one = trained[..., 0]
    assert np.broadcast_to(corner, one.shape)[one >= np.sort(one, axis=None)[-100]].mean() > 0.9
    lost = saliency(randomized(model), fields[:16])[..., 0]
    assert np.median(rank_correlation(one, lost)) < 0.3
    assert rank_correlation(one, one) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "guided"}, "`method`: expected one of"),
        ({"maps": np.zeros((5, 7))}, "`maps`: expected shape"),
        ({"maps": np.zeros((0, *SHAPE))}, "`maps`: expected shape"),
        ({"maps": np.full((1, *SHAPE), np.nan)}, "`maps`: expected finite"),
        ({"samples": 0}, "`samples`: expected at least 1"),
        ({"steps": 0}, "`steps`: expected at least 1"),
        ({"batch_size": 0}, "`batch_size`: expected at least 1"),
        ({"noise": 0.0}, "`noise`: expected a positive"),
        ({"outputs": [3]}, r"`outputs`: expected indices from 0 to 2, got \[3\]"),
        ({"outputs": []}, "`outputs`: expected indices"),
        ({"reference": np.zeros(3)}, r"`reference`: shape \(3,\) does not broadcast"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        saliency(quadratic(), **{"maps": maps(1), **arguments})


def test_networks_that_return_maps():
    inputs = keras.Input(SHAPE)
    with pytest.raises(ValueError, match=r"`model`: expected one output of shape \(batch, n_outputs\), got \(None, 5"):
        saliency(keras.Model(inputs, keras.layers.ReLU()(inputs)), maps(1))


def test_many_calls_are_not_taken_for_retracing():
    """TensorFlow warns of functions that are traced anew at each call, which the user could do nothing about."""
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    tf.get_logger().addHandler(handler)
    try:
        for _ in range(8):
            saliency(quadratic(), maps(1))
    finally:
        tf.get_logger().removeHandler(handler)
    assert not [message for message in said if "retracing" in message]
