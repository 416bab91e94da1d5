import numpy as np
import pytest
import tensorflow as tf


def jacobian_log_det(function, values):
    """log |det| of the Jacobian of every row, by autodiff, and the result."""
    values = tf.constant(values, tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(values)
        result = function(values)
        components = tf.unstack(tf.reshape(result, [len(values), -1]), axis=1)
    rows = [tf.reshape(tape.gradient(component, values), [len(values), -1]) for component in components]
    return np.linalg.slogdet(np.stack([row.numpy() for row in rows], axis=1))[1], result


@pytest.fixture
def check_bijector():
    """Both directions and log-determinants against autodiff, without and within a graph, all in float64."""

    def check(make, maps, event_ndims, latent_event_ndims=None, tolerance=1e-8):
        latent_event_ndims = latent_event_ndims or event_ndims
        bijector = make()
        expected, latent = jacobian_log_det(bijector.inverse, maps)
        assert np.isfinite(expected).all()

        def both(maps, latent):
            bijector = make()
            return (
                bijector.inverse(maps),
                bijector.inverse_log_det_jacobian(maps, event_ndims),
                bijector.forward(latent),
                bijector.forward_log_det_jacobian(latent, latent_event_ndims),
            )

        for function in (both, tf.function(both)):
            # Copies, so that no direction finds the answer of the other in the cache.
            found = function(tf.constant(maps), tf.constant(latent.numpy()))
            wanted = (latent, expected, maps, -expected)
            for values, reference in zip(found, wanted, strict=True):
                assert values.dtype == tf.float64
                np.testing.assert_allclose(values, reference, rtol=tolerance, atol=tolerance)
        return latent.numpy(), expected

    return check
