"""One bijector between a latent vector and a map."""

import math
from collections.abc import Sequence

import tensorflow as tf

from keras_cosmo.bijectors.joint_bijector import JointBijector
from keras_cosmo.bijectors.squeeze import Squeeze


class MultiScale(JointBijector):
    """Multi-scale flow between a vector of latent variables and a map (Friedman & Hassan 2022, figure 1-B).

    From the map to the vector (``inverse``), every block first makes channels of squares of 2 x 2 pixels (`Squeeze`),
    then runs its flow steps. Behind a block half of the channels goes on to the next one, the other half is finished
    and becomes part of the vector, until the last block, whose channels all become part of it. A prior may
    standardise the finished half with a mean and a scale that depend on the half that goes on, so that the vector is
    standard normal with or without it.

    Args:
        blocks: Bijectors of the flow steps, one per block, such as `GlowSteps`.
        map_shape: ``(height, width)`` in pixels.
        batch: Rows of the condition of the blocks, an integer or a scalar tensor. Latent vectors and maps broadcast
            against it. Defaults to 1.
        squeezes: How many of the blocks squeeze. Defaults to all; one less if the last block works on the half that
            the block before it passed on.
        priors: For every block but the last, None or a function from the half that goes on, ``(n * batch, height,
            width, channels)``, to mean and logarithm of the scale of the other half, same shape. Defaults to None
            for all.
        name: Name of the bijector.

    Shapes: latent vectors ``(..., height * width)``, maps ``(..., height, width)``. The last of the leading axes
    must be the batch.

    Raises:
        ValueError: If height or width is not divisible by ``2 ** squeezes``, or the number of priors is wrong.

    Example:
        >>> import tensorflow_probability as tfp
        >>> scale = tfp.bijectors.Identity()
        >>> flow = MultiScale([scale, scale], (4, 4))
        >>> flow.inverse(tf.ones((3, 4, 4))).shape
        TensorShape([3, 16])

    Reference:
        Kingma & Dhariwal 2018 (arXiv:1807.03039), section 3; Dinh, Sohl-Dickstein & Bengio 2017 (arXiv:1605.08803),
        section 3.6.
    """

    def __init__(
        self,
        blocks: Sequence,
        map_shape: tuple,
        batch=1,
        squeezes: int | None = None,
        priors: Sequence | None = None,
        dtype=tf.float32,
        name: str = "multi_scale",
    ):
        parameters = dict(locals())
        self.blocks = list(blocks)
        self.map_shape = tuple(map_shape)
        self.batch = batch
        self.squeezes = len(self.blocks) if squeezes is None else squeezes
        self.priors = [None] * (len(self.blocks) - 1) if priors is None else list(priors)
        if len(self.priors) != len(self.blocks) - 1:
            raise ValueError(
                f"`priors`: expected {len(self.blocks) - 1}, one for every block but the last, got {len(self.priors)}."
            )
        if self.squeezes not in (len(self.blocks) - 1, len(self.blocks)):
            raise ValueError(
                f"`squeezes`: expected {len(self.blocks)}, or one less, for {len(self.blocks)} blocks, got "
                f"{self.squeezes}."
            )
        if any(side % 2**self.squeezes for side in self.map_shape):
            raise ValueError(
                f"`map_shape`: height and width must be divisible by {2**self.squeezes} for {self.squeezes} squeezes, "
                f"got {self.map_shape}."
            )
        self._squeeze = Squeeze()
        super().__init__(
            forward_min_event_ndims=1, inverse_min_event_ndims=2, dtype=dtype, name=name, parameters=parameters
        )

    @property
    def latent_size(self) -> int:
        """Number of latent variables, that of the pixels."""
        return math.prod(self.map_shape)

    def _joint_inverse(self, y):
        y, leading = self._flatten(y, 2)
        x, finished, log_det = y[..., None], [], tf.zeros(tf.shape(y)[:1], y.dtype)
        for index, block in enumerate(self.blocks):
            if index < self.squeezes:
                x = self._squeeze.inverse(x)
            x, block_log_det = _inverse(block, x)
            log_det += block_log_det
            if index < len(self.priors):
                x, latent = tf.split(x, 2, -1)
                if self.priors[index] is not None:
                    mean, log_scale = self.priors[index](x)
                    latent = (latent - mean) * tf.exp(-log_scale)
                    log_det -= tf.reduce_sum(log_scale, [1, 2, 3])
                finished.append(latent)
        vectors = [tf.reshape(part, [-1, math.prod(part.shape[1:])]) for part in (*finished, x)]
        return self._restore(tf.concat(vectors, -1), leading), tf.reshape(log_det, leading)

    def _joint_forward(self, x):
        x, leading = self._flatten(x, 1)
        shapes = self._latent_shapes()
        *finished, last = tf.split(x, [math.prod(shape) for shape in shapes], -1)
        y, log_det = tf.reshape(last, [-1, *shapes[-1]]), tf.zeros(tf.shape(x)[:1], x.dtype)
        for index in reversed(range(len(self.blocks))):
            if index < len(self.priors):
                latent = tf.reshape(finished[index], [-1, *shapes[index]])
                if self.priors[index] is not None:
                    mean, log_scale = self.priors[index](y)
                    latent = latent * tf.exp(log_scale) + mean
                    log_det += tf.reduce_sum(log_scale, [1, 2, 3])
                y = tf.concat([y, latent], -1)
            y, block_log_det = _forward(self.blocks[index], y)
            log_det += block_log_det
            if index < self.squeezes:
                y = self._squeeze.forward(y)
        return self._restore(y[..., 0], leading), tf.reshape(log_det, leading)

    def _flatten(self, values, event_ndims):
        """Values with one leading axis, and the leading axes they had after broadcasting against the batch."""
        shape = tf.shape(values)
        event = values.shape[-event_ndims:].as_list()
        expected = list(self.map_shape) if event_ndims == 2 else [self.latent_size]
        if event != expected:
            raise ValueError(
                f"{self.name}: expected the shape (..., {', '.join(map(str, expected))}), got {values.shape}."
            )
        leading = tf.broadcast_dynamic_shape(shape[:-event_ndims], tf.reshape(self.batch, [1]))
        values = tf.broadcast_to(values, tf.concat([leading, expected], 0))
        return tf.reshape(values, [-1, *expected]), leading

    def _restore(self, values, leading):
        return tf.reshape(values, tf.concat([leading, values.shape[1:]], 0))

    def _latent_shapes(self):
        """Shape (height, width, channels) of the part of the vector that every block finishes."""
        height, width = self.map_shape
        channels, shapes = 1, []
        for index in range(len(self.blocks)):
            if index < self.squeezes:
                height, width, channels = height // 2, width // 2, 4 * channels
            if index < len(self.priors):
                channels //= 2
            shapes.append((height, width, channels))
        return shapes

    def _forward_event_shape(self, shape):
        return tf.TensorShape([*shape[:-1], *self.map_shape])

    def _inverse_event_shape(self, shape):
        return tf.TensorShape([*shape[:-2], self.latent_size])

    def _forward_event_shape_tensor(self, shape):
        return tf.concat([shape[:-1], self.map_shape], 0)

    def _inverse_event_shape_tensor(self, shape):
        return tf.concat([shape[:-2], [self.latent_size]], 0)


# Asked about the same tensor twice, so that a `JointBijector` computes once.
def _inverse(bijector, maps):
    return bijector.inverse(maps), bijector.inverse_log_det_jacobian(maps, event_ndims=3)


def _forward(bijector, latent):
    return bijector.forward(latent), bijector.forward_log_det_jacobian(latent, event_ndims=3)
