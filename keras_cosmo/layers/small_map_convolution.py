"""Functions for `Conv2D` and `Conv2DTranspose`: gradients on small maps as products of matrices."""

import math

import tensorflow as tf

# Up to this side of the coarser map, and from so many pairs of channels on, the products are faster.
LARGEST_SIDE = 8
FEWEST_PAIRS = 2**17
# Up to so many pixels of a batch on the coarser map a convolution, too, is faster as a product of matrices; it takes a
# batch of known size, as those of a pipeline are.
FEW_PIXELS, FEW_SIDE = 128, 2


def gains(coarse, kernel_shape) -> bool:
    """Whether it is worth it.

    Args:
        coarse: Height and width of the coarser map: of the outputs of a convolution, the inputs of a transposed one.
        kernel_shape: ``(rows, columns, channels, channels)``.
    """
    return max(coarse) <= LARGEST_SIDE and kernel_shape[2] * kernel_shape[3] >= FEWEST_PAIRS


def convolution(maps, kernel, strides, padding: str):
    """``tf.nn.conv2d`` whose gradients are products of matrices.

    The gradient of the filters is the product of the pixels that a place of the kernel sees and of the upstream
    gradient, place by place. On small maps that is a few large products, where oneDNN's takes up to forty times as
    long as the convolution.

    Args:
        maps: ``(batch, height, width, inputs)``, with known sizes other than the batch.
        kernel: ``(rows, columns, inputs, filters)``.
        strides: Two numbers.
        padding: "VALID" or "SAME".
    """
    maps, kernel = map(tf.convert_to_tensor, (maps, kernel))
    places = _Places(maps.shape, kernel.shape, strides, padding)

    def gradients(upstream, maps, kernel):
        return places.transposed(upstream, kernel), places.filter_gradient(maps, upstream)

    return _with_gradients(places.convolved, gradients, maps, kernel)


def transposed_convolution(maps, kernel, size, strides, padding: str):
    """``tf.nn.conv2d_transpose`` whose gradients are products of matrices.

    Args:
        maps: ``(batch, height, width, inputs)``, with known sizes other than the batch.
        kernel: ``(rows, columns, filters, inputs)``.
        size: Height and width of the outputs.
        strides: Two numbers.
        padding: "VALID" or "SAME".
    """
    maps, kernel = map(tf.convert_to_tensor, (maps, kernel))
    places = _Places((maps.shape[0], *size, kernel.shape[2]), kernel.shape, strides, padding)

    def gradients(upstream, maps, kernel):
        return places.convolved(upstream, kernel), places.filter_gradient(upstream, maps)

    return _with_gradients(places.transposed, gradients, maps, kernel)


def _with_gradients(function, gradients, maps, kernel):
    @tf.custom_gradient
    def applied(maps, kernel):
        outputs = function(maps, kernel)

        def gradient(upstream):
            # It may come without its shape, or as some of its rows.
            return gradients(tf.ensure_shape(upstream, outputs.shape), maps, kernel)

        return outputs, gradient

    return applied(maps, kernel)


class _Places:
    """Which pixels of the finer map each place of a kernel sees, and the three products of a convolution."""

    def __init__(self, fine_shape, kernel_shape, strides, padding):
        batch, *size, _ = fine_shape
        self.kernel_shape, self.size, self.strides, self.padding = tuple(kernel_shape), size, tuple(strides), padding
        axes = [_Axis(*each, padding) for each in zip(size, kernel_shape[:2], strides, strict=True)]
        self.rows, self.columns = axes
        self.coarse = [axis.outputs for axis in axes]
        pixels = None if batch is None else batch * math.prod(self.coarse)
        self.few = pixels is not None and pixels <= FEW_PIXELS and max(self.coarse) <= FEW_SIDE

    def convolved(self, maps, kernel):
        if not self.few:
            return tf.nn.conv2d(maps, kernel, self.strides, self.padding)
        seen = tf.concat(self._seen(maps), -1)
        outputs = tf.matmul(tf.reshape(seen, [-1, seen.shape[-1]]), self._used(kernel))
        return tf.reshape(outputs, [-1, *self.coarse, self.kernel_shape[3]])

    def transposed(self, upstream, kernel):
        if not self.few:
            size = [tf.shape(upstream)[0], *self.size, self.kernel_shape[2]]
            return tf.nn.conv2d_transpose(upstream, kernel, size, self.strides, self.padding)
        parts = tf.matmul(tf.reshape(upstream, [-1, self.kernel_shape[3]]), self._used(kernel), transpose_b=True)
        used = [len(self.rows.used), len(self.columns.used)]
        parts = tf.reshape(parts, [-1, *self.coarse, *used, self.kernel_shape[2]])
        nothing = tf.zeros_like(parts[:, 0, 0, 0, 0])

        def pixel(row, column):
            found = [parts[:, p, q, i, j] for p, i in self.rows.sources[row] for q, j in self.columns.sources[column]]
            return tf.add_n(found) if found else nothing

        height, width = self.size
        return tf.stack([tf.stack([pixel(y, x) for x in range(width)], 1) for y in range(height)], 1)

    def filter_gradient(self, maps, upstream):
        inputs, filters = self.kernel_shape[2:]
        upstream = tf.reshape(upstream, [-1, filters])
        seen = self._seen(maps)
        if self.few:
            seen = tf.concat(seen, -1)
            found = tf.matmul(tf.reshape(seen, [-1, seen.shape[-1]]), upstream, transpose_a=True)
        else:
            found = tf.stack([tf.matmul(tf.reshape(one, [-1, inputs]), upstream, transpose_a=True) for one in seen])
        axes = self.rows, self.columns
        found = tf.reshape(found, [*(len(axis.used) for axis in axes), inputs, filters])
        unseen = [axis.unseen for axis in axes]
        return tf.pad(found, [*unseen, [0, 0], [0, 0]]) if any(map(any, unseen)) else found

    def _used(self, kernel):
        """The part of the kernel that sees any pixel, as a matrix."""
        rows, columns = (slice(axis.used.start, axis.used.stop) for axis in (self.rows, self.columns))
        return tf.reshape(kernel[rows, columns], [-1, self.kernel_shape[3]])

    def _seen(self, maps):
        """For every place of that part, what it sees at all pixels of the coarser map."""
        margins = [axis.margins for axis in (self.rows, self.columns)]
        if any(map(any, margins)):
            maps = tf.pad(maps, [[0, 0], *margins, [0, 0]])
        down, across = self.strides
        height, width = self.coarse
        return [
            maps[:, i : i + down * (height - 1) + 1 : down, j : j + across * (width - 1) + 1 : across]
            for i in self.rows.used
            for j in self.columns.used
        ]


class _Axis:
    """One axis of a convolution: outputs, margins of zeros, and which places of the kernel see anything but these."""

    def __init__(self, size, kernel_size, stride, padding):
        if padding == "SAME":
            self.outputs = -(-size // stride)
            zeros = max((self.outputs - 1) * stride + kernel_size - size, 0)
            self.margins = [zeros // 2, zeros - zeros // 2]
        else:
            self.outputs = (size - kernel_size) // stride + 1
            self.margins = [0, 0]
        seen = {
            (output, place): output * stride + place - self.margins[0]
            for output in range(self.outputs)
            for place in range(kernel_size)
        }
        inside = {key: pixel for key, pixel in seen.items() if 0 <= pixel < size}
        self.used = range(min(place for _, place in inside), max(place for _, place in inside) + 1)
        self.unseen = [self.used.start, kernel_size - self.used.stop]
        # For every pixel the outputs that see it, and by which of the places that are used.
        self.sources = [
            [(output, place - self.used[0]) for (output, place), where in inside.items() if where == pixel]
            for pixel in range(size)
        ]
