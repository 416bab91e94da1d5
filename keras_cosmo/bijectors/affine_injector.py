"""Scale and shift that depend on the parameters alone."""

import tensorflow as tf

from keras_cosmo.bijectors.joint_bijector import JointBijector


class AffineInjector(JointBijector):
    """y = s(z) x + t(z): scale and shift that depend on the parameters z alone (Friedman & Hassan 2022, equation 1).

    The equation is ``inverse``, from maps x to latent variables y.

    Args:
        log_scale: Logarithm of s for every map of the batch, any shape that broadcasts to (batch, height, width,
            channels), such as (batch, 1, 1, 1).
        shift: t, likewise.
        name: Name of the bijector.

    Shape of maps and latent variables: ``(batch, height, width, channels)``.

    Example:
        >>> injector = AffineInjector(log_scale=tf.zeros((1, 1, 1, 1)), shift=tf.ones((1, 1, 1, 1)))
        >>> float(injector.inverse(tf.zeros((1, 1, 1, 1)))[0, 0, 0, 0])
        1.0

    Reference:
        Friedman & Hassan 2022 (arXiv:2211.12724), section 2.2; Lugmayr et al. 2020 (arXiv:2006.14200), section 3.3.
    """

    def __init__(self, log_scale, shift, name: str = "affine_injector"):
        parameters = dict(locals())
        self.log_scale = tf.convert_to_tensor(log_scale)
        self.shift = tf.convert_to_tensor(shift, self.log_scale.dtype)
        super().__init__(forward_min_event_ndims=3, dtype=self.log_scale.dtype, name=name, parameters=parameters)

    def _joint_forward(self, x):
        return (x - self.shift) * tf.exp(-self.log_scale), -self._log_det(x)

    def _joint_inverse(self, y):
        return y * tf.exp(self.log_scale) + self.shift, self._log_det(y)

    def _log_det(self, maps):
        return tf.reduce_sum(tf.broadcast_to(self.log_scale, tf.shape(maps)), [1, 2, 3])
