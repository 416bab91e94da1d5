import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from keras_cosmo.bijectors.joint_bijector import JointBijector


class Counted(JointBijector):
    """y = 2 x, which counts how often it is computed."""

    def __init__(self):
        self.passes = []
        super().__init__(forward_min_event_ndims=1, parameters={})

    def _log_det(self, values):
        return tf.fill(tf.shape(values)[:-1], values.shape[-1] * np.float32(np.log(2.0)))

    def _joint_forward(self, x):
        self.passes.append("forward")
        return 2 * x, self._log_det(x)

    def _joint_inverse(self, y):
        self.passes.append("inverse")
        return y / 2, -self._log_det(y)


@pytest.mark.parametrize("graph", [False, True])
def test_one_pass_for_value_and_log_determinant(graph):
    def both(values):
        bijector = Counted()
        y = bijector.forward(values)
        forward = bijector.forward_log_det_jacobian(values, 1)
        x = bijector.inverse(tf.identity(values))
        other = tf.identity(values)
        inverse = bijector.inverse_log_det_jacobian(other, 1)
        again = bijector.inverse(other)
        passes.extend(bijector.passes)
        return y, forward, x, inverse, again

    passes = []
    y, forward, x, inverse, again = (tf.function(both) if graph else both)(tf.ones((5, 3)))
    np.testing.assert_array_equal(y, 2.0)
    np.testing.assert_array_equal(x, 0.5)
    np.testing.assert_array_equal(again, 0.5)
    np.testing.assert_allclose(forward, np.full(5, 3 * np.log(2.0)), rtol=1e-6)
    np.testing.assert_allclose(inverse, -forward)
    # The log-determinant alone is not worth a place for the value; the rest is asked for once each.
    assert passes in (["forward", "inverse", "inverse"], ["forward", "inverse", "inverse", "inverse"])


def test_a_distribution_computes_once():
    bijector = Counted()
    latent = tfp.distributions.Independent(tfp.distributions.Normal(tf.zeros((5, 3)), 1.0), 1)
    distribution = tfp.distributions.TransformedDistribution(latent, bijector)
    value = distribution.log_prob(tf.ones((5, 3)))
    assert bijector.passes == ["inverse"]
    np.testing.assert_allclose(value, np.full(5, 3 * (-0.125 - 0.5 * np.log(2 * np.pi) - np.log(2.0))), rtol=1e-6)
    bijector.passes.clear()
    sample = distribution.sample(seed=[1, 2])
    assert bijector.passes == ["forward"]
    distribution.log_prob(sample)
    # A sample is remembered with its latent variables.
    assert bijector.passes == ["forward"]


def test_without_the_cache():
    bijector = Counted()
    np.testing.assert_array_equal(bijector._forward(tf.ones((2, 3))), 2.0)
    np.testing.assert_array_equal(bijector._inverse(tf.ones((2, 3))), 0.5)
    np.testing.assert_allclose(bijector._forward_log_det_jacobian(tf.ones((2, 3))), 3 * np.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(bijector._inverse_log_det_jacobian(tf.ones((2, 3))), -3 * np.log(2.0), rtol=1e-6)


def test_an_undefined_direction_is_named():
    class Empty(JointBijector):
        def __init__(self):
            super().__init__(forward_min_event_ndims=1, parameters={})

    with pytest.raises(NotImplementedError, match=r"Empty\._joint_forward"):
        Empty().forward(tf.ones(3))
    with pytest.raises(NotImplementedError, match=r"Empty\._joint_inverse"):
        Empty().inverse(tf.ones(3))
