"""Base of the bijectors whose value and log-determinant come out of one pass."""

import tensorflow_probability as tfp

# Not public: a test counts the passes, so that a TFP that changes it is noticed.
from tensorflow_probability.python.internal import cache_util


class JointBijector(tfp.bijectors.Bijector):
    """Bijector that computes value and log-determinant together, in both directions.

    A coupling needs its network for both. TFP asks for them one after the other; here the first question fills the
    cache of TFP with both answers, so that the second one costs nothing as long as it is asked about the same tensor.

    As in TFP, ``forward`` goes from the latent variables to the maps and ``inverse`` from the maps to the latent
    variables. Papers on flows mostly write the second direction, y = f(x).

    A subclass defines

    - ``_joint_forward(x)``: value and log |det dy/dx|,
    - ``_joint_inverse(y)``: value and log |det dx/dy|,

    both log-determinants with the shape of the batch. It has no weights: tensors come with the constructor.

    Example:
        >>> import tensorflow as tf
        >>> class Double(JointBijector):
        ...     def __init__(self):
        ...         super().__init__(forward_min_event_ndims=1, parameters={})
        ...     def _joint_forward(self, x):
        ...         return 2 * x, tf.fill(tf.shape(x)[:-1], x.shape[-1] * tf.math.log(2.0))
        ...     def _joint_inverse(self, y):
        ...         return y / 2, tf.fill(tf.shape(y)[:-1], -y.shape[-1] * tf.math.log(2.0))
        >>> float(Double().forward_log_det_jacobian([1.0, 1.0], event_ndims=1))  # doctest: +ELLIPSIS
        1.386...
    """

    _cache = cache_util.BijectorCacheWithGreedyAttrs(
        forward_name="_augmented_forward", inverse_name="_augmented_inverse"
    )

    def _joint_forward(self, x):
        raise NotImplementedError(f"{type(self).__name__}._joint_forward is not defined.")

    def _joint_inverse(self, y):
        raise NotImplementedError(f"{type(self).__name__}._joint_inverse is not defined.")

    # The cache wants log |det dx/dy| in both directions.
    def _augmented_forward(self, x):
        y, log_det = self._joint_forward(x)
        return y, {"ildj": -log_det}

    def _augmented_inverse(self, y):
        x, log_det = self._joint_inverse(y)
        return x, {"ildj": log_det}

    def _forward(self, x):
        return self._joint_forward(x)[0]

    def _inverse(self, y):
        return self._joint_inverse(y)[0]

    def _forward_log_det_jacobian(self, x):
        return self._joint_forward(x)[1]

    def _inverse_log_det_jacobian(self, y):
        return self._joint_inverse(y)[1]

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}
