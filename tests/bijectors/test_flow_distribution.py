import numpy as np
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from keras_cosmo.bijectors.flow_distribution import flow_distribution, with_transform


def test_against_scipy():
    # A log-normal distribution, as exp of a scaled normal variable.
    bijector = with_transform(tfp.bijectors.Exp(), tfp.bijectors.Scale(np.float64(0.5)))
    distribution = flow_distribution(bijector, 3, 2, dtype=tf.float64)
    assert distribution.batch_shape == [3]
    assert distribution.event_shape == [2]
    values = np.random.default_rng(0).uniform(0.1, 3.0, (3, 2))
    np.testing.assert_allclose(distribution.log_prob(values), scipy.stats.lognorm.logpdf(values, 0.5).sum(1))


def test_temperature():
    samples = flow_distribution(tfp.bijectors.Identity(), tf.constant(2), 3, 0.25).sample(2000, seed=[1, 2]).numpy()
    assert samples.shape == (2000, 2, 3)
    np.testing.assert_allclose(samples.std(0), 0.25, rtol=0.1)
