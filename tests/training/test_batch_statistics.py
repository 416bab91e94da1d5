import keras
import numpy as np
import pytest

from keras_cosmo.training.batch_statistics import recalibrate_batch_statistics


def network():
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="dense"), keras.layers.BatchNormalization()]
    )
    outer = [keras.Input((4,)), inner, keras.layers.Dropout(0.5), keras.layers.BatchNormalization(momentum=0.7)]
    return keras.Sequential(outer)


def test_statistics_are_the_averages_over_the_batches():
    keras.utils.set_random_seed(0)
    model = network()
    batches = [np.random.default_rng(number).normal(3.0, 2.0, (8, 4)).astype(np.float32) for number in range(5)]
    first, second = model.layers[0].layers[-1], model.layers[-1]
    trainable = [weight.numpy() for weight in model.trainable_weights]
    assert recalibrate_batch_statistics(model, batches) == 5

    kernel, bias = (weight.numpy() for weight in model.layers[0].layers[0].weights)
    hidden = [batch @ kernel + bias for batch in batches]
    np.testing.assert_allclose(first.moving_mean, np.mean([each.mean(0) for each in hidden], axis=0), rtol=1e-4)
    np.testing.assert_allclose(first.moving_variance, np.mean([each.var(0) for each in hidden], axis=0), rtol=1e-4)
    # Of the second layer with the statistics of the batch in the first, and without dropout.
    normalized = [(each - each.mean(0)) / np.sqrt(each.var(0) + first.epsilon) for each in hidden]
    np.testing.assert_allclose(second.moving_mean, np.mean([each.mean(0) for each in normalized], axis=0), atol=1e-5)
    np.testing.assert_allclose(second.moving_variance, np.mean([each.var(0) for each in normalized], 0), rtol=1e-3)

    for before, weight in zip(trainable, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(before, weight)
    assert (first.momentum, second.momentum, model.layers[1].rate) == (0.99, 0.7, 0.5)


def test_what_was_changed_is_restored_after_an_error():
    model = network()
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate_batch_statistics(model, [])
    with pytest.raises(ValueError, match="incompatible with the layer"):
        recalibrate_batch_statistics(model, [np.ones((2, 7), np.float32)])
    assert (model.layers[-1].momentum, model.layers[1].rate) == (0.7, 0.5)
