"""All flow steps of one block, fused."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_cosmo.bijectors.conditional_coupling import (
    couple,
    scale_and_shift,
    sum_of_logarithms,
    uncouple,
)
from keras_cosmo.bijectors.invertible_convolution import lu_inverse, lu_product
from keras_cosmo.bijectors.joint_bijector import JointBijector
from keras_cosmo.bijectors.packed_pixels import PackedPixels


class GlowSteps(JointBijector):
    """The flow steps of one block on one grid (Friedman & Hassan 2022, figure 1-C), all weights stacked over the steps.

    A step from maps to latent variables is an `AffineInjector`, an `InvertibleConvolution` and a
    `ConditionalCoupling`, in this order; the result is that of these bijectors one after the other. All that does not
    depend on the maps (product and inverse of the LU factors, their log-determinants and that of the injectors) is
    done once for all steps; where a map has more pixels than channels, scale and matrix are applied as one product, and
    pixels are packed (`PackedPixels`).
    In a graph, every step calls one function, which is traced once and which TensorFlow keeps from inlining: that
    makes tracing and the first call several times shorter.

    Args:
        condition: Parameters of every map as the couplings see them, ``(batch, n_parameters)``.
        injector: ``(log_scale, shift)`` of every step, each ``(n_steps, batch, channels)``, or ``(n_steps, batch, 5,
            5, channels)`` where they depend on the distance to the edges of the map, see `border_classes` (a side
            shorter than 5 pixels has its own length instead).
        convolution: ``(permutation, lower, upper, sign, log_diagonal)`` as in `InvertibleConvolution`, with a leading
            axis of steps.
        coupling: The six tensors of `ConditionalCoupling`, with a leading axis of steps.
        smallest_scale: As in `ConditionalCoupling`. Defaults to 0.5.
        name: Name of the bijector.

    Shape of maps and latent variables: ``(n * batch, height, width, channels)`` with any n: map i belongs to row
    ``i % batch`` of the condition.

    Example:
        >>> n_steps, channels, eye = 3, 4, tf.eye(4, batch_shape=[3])
        >>> zeros = tf.zeros((3, 4, 4)), tf.zeros((3, 4, 4)), tf.ones((3, 4)), tf.zeros((3, 4))
        >>> shapes = [(3, 3, 3, 4, 8), (3, 8), (3, 1, 1, 8, 8), (3, 8), (3, 3, 3, 8, 4), (3, 4)]
        >>> coupling = [tf.zeros(shape) for shape in shapes]
        >>> injector = tf.zeros((3, 1, 4)), tf.zeros((3, 1, 4))
        >>> steps = GlowSteps(tf.zeros((1, 2)), injector, (eye, *zeros), coupling)
        >>> steps.inverse(tf.ones((6, 8, 8, 4))).shape
        TensorShape([6, 8, 8, 4])
    """

    def __init__(
        self,
        condition,
        injector: Sequence,
        convolution: Sequence,
        coupling: Sequence,
        smallest_scale: float = 0.5,
        name: str = "glow_steps",
    ):
        parameters = dict(locals())
        self.condition = tf.convert_to_tensor(condition)
        self.log_scale, self.shift = (tf.convert_to_tensor(values) for values in injector)
        self.convolution = [tf.convert_to_tensor(values) for values in convolution]
        self.coupling = [tf.convert_to_tensor(values) for values in coupling]
        self.smallest_scale = smallest_scale
        self.n_steps = self.coupling[0].shape[0]
        self._by_position = self.log_scale.shape.rank == 5
        super().__init__(forward_min_event_ndims=3, dtype=self.condition.dtype, name=name, parameters=parameters)

    def _joint_inverse(self, y):
        height, width, channels = y.shape[1:]
        matrix = lu_product(*self.convolution)
        condition, log_scale, shift = self._for_maps(tf.shape(y)[0])
        smallest_scale = self.smallest_scale
        if self._fused(y):
            packed = PackedPixels((height, width), channels, condition.shape[1])

            def step(x, log_scale, shift, matrix, *coupling):
                x = tf.matmul(x, tf.exp(log_scale)[:, :, None] * matrix) + shift[:, None]
                seen, changed, scale, translation = self._coupling_of(packed, x, coupling)
                return packed.join(seen, (changed + translation) * scale), sum_of_logarithms(scale)

            stacks = self._packed_stacks(packed, log_scale, tf.matmul(shift, matrix), matrix)
            x, log_det = self._run(step, [packed.pack(y, condition)], stacks, range(self.n_steps))
            x = packed.unpack(x)
        else:

            def step(x, condition, log_scale, shift, matrix, *coupling):
                log_scale, shift = self._on_map(log_scale, x), self._on_map(shift, x)
                x = tf.matmul(tf.reshape(x * tf.exp(log_scale) + shift, [-1, channels]), matrix)
                return couple(tf.reshape(x, [-1, height, width, channels]), condition, coupling, smallest_scale)

            stacks = [log_scale, shift, matrix, *self.coupling]
            x, log_det = self._run(step, [y, condition], stacks, range(self.n_steps))
        return x, log_det + self._constant_log_det(log_scale, height, width)

    def _joint_forward(self, x):
        height, width, channels = x.shape[1:]
        matrix = lu_inverse(*self.convolution)
        condition, log_scale, shift = self._for_maps(tf.shape(x)[0])
        shift = shift * tf.exp(-log_scale)
        smallest_scale = self.smallest_scale
        order = reversed(range(self.n_steps))
        if self._fused(x):
            packed = PackedPixels((height, width), channels, condition.shape[1])

            def step(x, log_scale, shift, matrix, *coupling):
                seen, changed, scale, translation = self._coupling_of(packed, x, coupling)
                x = packed.join(seen, changed / scale - translation)
                return tf.matmul(x, matrix * tf.exp(-log_scale)[:, None]) - shift[:, None], -sum_of_logarithms(scale)

            stacks = self._packed_stacks(packed, log_scale, shift, matrix)
            y, log_det = self._run(step, [packed.pack(x, condition)], stacks, order)
            y = packed.unpack(y)
        else:

            def step(x, condition, log_scale, shift, matrix, *coupling):
                x, log_det = uncouple(x, condition, coupling, smallest_scale)
                x = tf.reshape(tf.matmul(tf.reshape(x, [-1, channels]), matrix), [-1, height, width, channels])
                return x * tf.exp(-self._on_map(log_scale, x)) - self._on_map(shift, x), log_det

            y, log_det = self._run(step, [x, condition], [log_scale, shift, matrix, *self.coupling], order)
        return y, log_det - self._constant_log_det(log_scale, height, width)

    def _packed_stacks(self, packed, log_scale, shift, matrix):
        """What the steps on packed maps get, stacked over the steps."""
        coupling = [*self.coupling[:4], *packed.kernels(*self.coupling[4:])]
        return [packed.channels(log_scale), packed.channels(shift), packed.matrices(matrix), *coupling]

    def _coupling_of(self, packed, x, coupling):
        """What the network sees of packed maps, the half to be changed, and scale and shift for it."""
        seen, changed = packed.split(x)
        return seen, changed, *scale_and_shift(packed.network(seen, *coupling), self.smallest_scale)

    def _run(self, step, inputs, stacks, order):
        """Apply the steps one after the other; value and the log-determinants that depend on the maps."""
        if not tf.executing_eagerly():
            step = tf.function(step, autograph=False, experimental_attributes={"_noinline": True})
        stacks = [tf.unstack(stack, num=self.n_steps) for stack in stacks]
        (maps, *others), log_dets = inputs, []
        for index in order:
            maps, log_det = step(maps, *others, *[stack[index] for stack in stacks])
            log_dets.append(log_det)
        return maps, tf.add_n(log_dets)

    def _fused(self, maps):
        """Whether a matrix per map costs less than scaling every pixel."""
        height, width, channels = maps.shape[1:]
        return not self._by_position and height * width > channels

    def _for_maps(self, count):
        """Condition and injector of every map, where several maps share a row of the condition."""
        times = count // tf.shape(self.condition)[0]
        ones = [1] * (self.log_scale.shape.rank - 2)
        injector = (tf.tile(values, [1, times, *ones]) for values in (self.log_scale, self.shift))
        return tf.tile(self.condition, [times, 1]), *injector

    def _on_map(self, values, maps):
        """Scale or shift of every pixel, or of all alike, from what a step gets."""
        if not self._by_position:
            return values[:, None, None]
        height, width = maps.shape[1:3]
        if height > values.shape[1]:
            values = tf.gather(values, border_classes(height), axis=1)
        if width > values.shape[2]:
            values = tf.gather(values, border_classes(width), axis=2)
        return values

    def _constant_log_det(self, log_scale, height, width):
        """What injectors and convolutions add to the log-determinant, ``(batch,)``."""
        log_diagonal = height * width * tf.reduce_sum(self.convolution[-1])
        if not self._by_position:
            return height * width * tf.reduce_sum(log_scale, [0, 2]) + log_diagonal
        rows, columns = (
            np.bincount(border_classes(side)).astype(log_scale.dtype.as_numpy_dtype) for side in (height, width)
        )
        return tf.einsum("sbrcx,r,c->b", log_scale, rows, columns) + log_diagonal


def border_classes(side: int) -> np.ndarray:
    """Which of five classes a row (or column) belongs to: first, second, inside, last but one, last.

    A 3 x 3, a 1 x 1 and a 3 x 3 convolution see two pixels far, so that on a constant map with padding all rows
    inside are alike: a network on a map of 5 x 5 pixels knows them all.

    Args:
        side: Number of rows.

    Returns:
        ``(side,)`` integers, 0 to 4; 0 to ``side - 1`` where there are fewer than five rows.
    """
    if side <= 5:
        return np.arange(side)
    return np.array([0, 1, *[2] * (side - 4), 3, 4])
