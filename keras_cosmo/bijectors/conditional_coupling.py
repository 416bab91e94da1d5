"""Affine coupling that also sees the parameters."""

from collections.abc import Sequence

import tensorflow as tf

from keras_cosmo.bijectors.joint_bijector import JointBijector


class ConditionalCoupling(JointBijector):
    """Affine coupling whose network also sees the parameters (Friedman & Hassan 2022, section 2.2).

    The first half of the channels, a, stays. With a and one constant channel per parameter as input, a network (3 x 3
    convolution, ReLU, 1 x 1 convolution, ReLU, 3 x 3 convolution) gives r and t for the other half, b, which becomes
    ``s (b + t)`` with ``s = (1 - c) sigmoid(r + 2) + c`` in ``inverse``, from maps to latent variables. The scale
    thus lies between c = ``smallest_scale`` and 1: with c = 0.5 a latent variable grows by a factor of 2 at most on
    its way back.

    Args:
        condition: Parameters of every map, ``(batch, n_parameters)``.
        weights: Kernel and bias of the three convolutions, six tensors: kernels ``(3, 3, channels / 2 +
            n_parameters, width)``, ``(1, 1, width, width)``, ``(3, 3, width, channels)``. Kernels of one pixel do for
            maps of one pixel.
        smallest_scale: c, from 0 up to, but not including, 1. Defaults to 0.5.
        name: Name of the bijector.

    Shape of maps and latent variables: ``(batch, height, width, channels)``.

    Example:
        >>> shapes = [(3, 3, 3, 8), (8,), (1, 1, 8, 8), (8,), (3, 3, 8, 2), (2,)]
        >>> coupling = ConditionalCoupling(tf.zeros((1, 2)), [tf.zeros(shape) for shape in shapes])
        >>> coupling.inverse(tf.ones((1, 4, 4, 2))).shape
        TensorShape([1, 4, 4, 2])

    Reference:
        Friedman & Hassan 2022 (arXiv:2211.12724), section 2.2; the network's layers, ``s (b + t)`` and the bound of s
        after the authors' public code, as the paper gives none.
    """

    def __init__(self, condition, weights: Sequence, smallest_scale: float = 0.5, name: str = "conditional_coupling"):
        parameters = dict(locals())
        self.condition = tf.convert_to_tensor(condition)
        self.weights = list(weights)
        self.smallest_scale = smallest_scale
        super().__init__(forward_min_event_ndims=3, dtype=self.condition.dtype, name=name, parameters=parameters)

    def _joint_forward(self, x):
        return uncouple(x, self.condition, self.weights, self.smallest_scale)

    def _joint_inverse(self, y):
        return couple(y, self.condition, self.weights, self.smallest_scale)


def couple(maps, condition, weights, smallest_scale):
    """From maps to latent variables: value and log-determinant, ``(batch,)``."""
    kept, changed = tf.split(maps, 2, -1)
    scale, shift = scale_and_shift(_network(kept, condition, *weights), smallest_scale)
    return tf.concat([kept, (changed + shift) * scale], -1), sum_of_logarithms(scale)


def uncouple(latent, condition, weights, smallest_scale):
    """From latent variables to maps: value and log-determinant, ``(batch,)``."""
    kept, changed = tf.split(latent, 2, -1)
    scale, shift = scale_and_shift(_network(kept, condition, *weights), smallest_scale)
    return tf.concat([kept, changed / scale - shift], -1), -sum_of_logarithms(scale)


def scale_and_shift(outputs, smallest_scale):
    """Scale s and shift t of what the network gives, r in the first half of the channels."""
    raw, shift = tf.split(outputs, 2, -1)
    return (1 - smallest_scale) * tf.sigmoid(raw + 2) + smallest_scale, shift


def sum_of_logarithms(scale):
    """Log-determinant, ``(batch,)``."""
    return tf.reduce_sum(tf.math.log(scale), list(range(1, scale.shape.rank)))


def _network(kept, condition, kernel_1, bias_1, kernel_2, bias_2, kernel_3, bias_3):
    if kept.shape[1] == kept.shape[2] == 1:
        # Of one pixel a convolution sees its central weights alone.
        x = tf.concat([kept[:, 0, 0], condition], -1)
        x = tf.nn.relu(tf.nn.bias_add(tf.matmul(x, _centre(kernel_1)), bias_1))
        x = tf.nn.relu(tf.nn.bias_add(tf.matmul(x, _centre(kernel_2)), bias_2))
        return tf.nn.bias_add(tf.matmul(x, _centre(kernel_3)), bias_3)[:, None, None]
    planes = tf.broadcast_to(condition[:, None, None], tf.concat([tf.shape(kept)[:3], tf.shape(condition)[1:]], 0))
    x = tf.concat([kept, planes], -1)
    x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel_1, 1, "SAME"), bias_1))
    x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel_2, 1, "SAME"), bias_2))
    return tf.nn.bias_add(tf.nn.conv2d(x, kernel_3, 1, "SAME"), bias_3)


def _centre(kernel):
    return kernel[kernel.shape[0] // 2, kernel.shape[1] // 2]
