"""Squares of pixels become channels."""

import tensorflow as tf

from keras_cosmo.bijectors.joint_bijector import JointBijector


class Squeeze(JointBijector):
    """Squares of ``factor x factor`` pixels become channels of one pixel (Friedman & Hassan 2022, section 2.1).

    ``inverse`` takes maps ``(batch, height, width, channels)`` to ``(batch, height / factor, width / factor,
    channels * factor ** 2)``, ``forward`` takes them back. The log-determinant is 0.

    Args:
        factor: Side of the squares in pixels. Defaults to 2.
        name: Name of the bijector.

    Raises:
        ValueError: If height and width, or the channels on the way back, are not divisible.

    Example:
        >>> Squeeze().inverse(tf.zeros((1, 8, 8, 1))).shape
        TensorShape([1, 4, 4, 4])

    Reference:
        Dinh, Sohl-Dickstein & Bengio 2017 (arXiv:1605.08803), section 3.6.
    """

    def __init__(self, factor: int = 2, name: str = "squeeze"):
        parameters = dict(locals())
        self.factor = factor
        super().__init__(forward_min_event_ndims=3, name=name, parameters=parameters)

    def _joint_forward(self, x):
        self._forward_event_shape(x.shape[1:])
        return tf.nn.depth_to_space(x, self.factor), tf.zeros(tf.shape(x)[:1], x.dtype)

    def _joint_inverse(self, y):
        self._inverse_event_shape(y.shape[1:])
        return tf.nn.space_to_depth(y, self.factor), tf.zeros(tf.shape(y)[:1], y.dtype)

    def _forward_event_shape(self, shape):
        height, width, channels = shape[-3:]
        area = self.factor**2
        if channels is not None and channels % area:
            raise ValueError(f"Squeeze: on the way back {channels} channels must be divisible by {area}.")
        sides = [None if side is None else side * self.factor for side in (height, width)]
        return tf.TensorShape([*shape[:-3], *sides, None if channels is None else channels // area])

    def _inverse_event_shape(self, shape):
        height, width, channels = shape[-3:]
        if any(side is not None and side % self.factor for side in (height, width)):
            raise ValueError(
                f"Squeeze: height and width must be divisible by {self.factor}, got {height} x {width} pixels."
            )
        sides = [None if side is None else side // self.factor for side in (height, width)]
        return tf.TensorShape([*shape[:-3], *sides, None if channels is None else channels * self.factor**2])

    def _forward_event_shape_tensor(self, shape):
        return tf.concat([shape[:-3], shape[-3:-1] * self.factor, shape[-1:] // self.factor**2], 0)

    def _inverse_event_shape_tensor(self, shape):
        return tf.concat([shape[:-3], shape[-3:-1] // self.factor, shape[-1:] * self.factor**2], 0)
