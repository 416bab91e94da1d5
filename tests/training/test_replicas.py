import keras
import numpy as np
import pytest

from keras_cosmo.losses import CorrelationLoss, MomentLoss
from keras_cosmo.training.replicas import train_as_one
from keras_cosmo.training.trainer import Trainer


def halves(loss, *arrays):
    """The loss of a batch, and the mean of those of its halves."""
    parts = slice(8), slice(4), slice(4, 8)
    whole, first, second = (float(loss(*(array[rows] for array in arrays))) for rows in parts)
    return whole, (first + second) / 2


def test_the_correlation_loss_is_a_mean_over_cutouts():
    generator = np.random.default_rng(0)
    dust = generator.gamma(2.0, 100.0, (8, 32, 32, 1)).astype("float32")
    mask = (generator.random((8, 32, 32, 1)) < 0.8).astype("float32")
    predicted = dust + generator.normal(0.0, 100.0, dust.shape).astype("float32")
    whole, mean = halves(CorrelationLoss(23.4), np.concatenate([dust * mask, mask], axis=-1), predicted)
    assert mean == pytest.approx(whole, rel=1e-6)


def test_a_logarithm_of_means_is_another_loss_for_parts_of_a_batch():
    """As the documentation says: such a loss is not that of one process."""
    generator = np.random.default_rng(0)
    true = generator.normal(size=(8, 1)).astype("float32")
    predicted = np.concatenate([np.zeros_like(true), np.ones_like(true)], axis=-1)
    whole, mean = halves(MomentLoss([1.0]), true, predicted)
    assert abs(mean - whole) > 0.01


def network(**options):
    inputs = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5, seed=1), keras.layers.BatchNormalization()])
    model = keras.Model(inputs, keras.layers.Dense(1)(inner(inputs)))
    model.compile(keras.optimizers.SGD(0.1, **options), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.parametrize("options", [{}, {"clipnorm": 0.01}, {"global_clipnorm": 0.01}, {"clipvalue": 0.01}])
def test_one_replica_goes_on_as_before(options):
    """Of one replica the batch is the whole batch; nested models are found, and nothing else is changed."""
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    weights = []
    for change in (False, True):
        keras.utils.set_random_seed(0)
        model = network(**options)
        if change:
            train_as_one(model, [model.optimizer])
            assert model.layers[1].layers[1].synchronized
        for _ in range(3):
            model.train_on_batch(x, x[:, :1])
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_batch_that_cannot_be_divided(tmp_path):
    trainer = Trainer(network(), tmp_path)
    trainer._replicas = 3

    class Data:
        batch_size = 8

    with pytest.raises(ValueError, match="--batch-size: 8 examples per update cannot be divided among 3 workers"):
        trainer.fit(Data(), None, epochs=1)
