"""Layout of maps in which neighbouring pixels share a row of channels."""

import tensorflow as tf

from keras_cosmo.layers.packed_convolution import moved_copies

# Channels that a processor multiplies at once (AVX-512: 16 numbers of float32).
LANES = 16


class PackedPixels:
    """Neighbouring pixels of a map's row side by side in the channels, for flow steps with few channels.

    Convolutions and copies of 2 or 4 channels use a fraction of what a processor does at once. Here ``pixels`` pixels
    that follow one another share a row of channels: first the halves of their channels that a coupling keeps, each
    with the condition behind it, as the network of the coupling sees them; then the halves that it changes. Splitting
    and joining the halves then moves long pieces, and the last convolution of a coupling computes that many pixels at
    once (`network`). The numbers are the same.

    Args:
        map_shape: ``(height, width)``.
        channels: Channels of the maps, an even number.
        n_parameters: Number of parameters, which the couplings see as constant channels.

    Example:
        >>> packed = PackedPixels((8, 8), 4, 2)
        >>> packed.pixels, packed.pack(tf.ones((3, 8, 8, 4)), tf.zeros((3, 2))).shape
        (4, TensorShape([3, 16, 24]))
    """

    def __init__(self, map_shape, channels: int, n_parameters: int):
        self.height, self.width = map_shape
        self.half, self.n_parameters = channels // 2, n_parameters
        self.pixels = 1
        while self.pixels * channels < LANES and self.width % (2 * self.pixels) == 0:
            self.pixels *= 2
        self._rows = self.height * self.width // self.pixels
        self._seen = self.half + n_parameters

    def pack(self, maps, condition):
        """Packed form of maps ``(maps, height, width, channels)`` and their condition ``(maps, n_parameters)``."""
        kept, changed = tf.split(maps, 2, -1)
        shape = tf.concat([tf.shape(maps)[:3], [self.n_parameters]], 0)
        planes = tf.broadcast_to(condition[:, None, None], shape)
        return self.join(tf.concat([kept, planes], -1), changed)

    def unpack(self, x):
        """Maps of their packed form."""
        seen, changed = self.split(x)
        changed = tf.reshape(changed, [-1, self.height, self.width, self.half])
        return tf.concat([seen[..., : self.half], changed], -1)

    def split(self, x):
        """What the network sees, ``(maps, height, width, channels / 2 + n_parameters)``, and the half it changes."""
        seen, changed = tf.split(x, [self.pixels * self._seen, self.pixels * self.half], -1)
        return tf.reshape(seen, [-1, self.height, self.width, self._seen]), changed

    def join(self, seen, changed):
        """The inverse of `split`."""
        parts = (seen, self._seen), (changed, self.half)
        return tf.concat([tf.reshape(x, [-1, self._rows, self.pixels * size]) for x, size in parts], -1)

    def matrices(self, matrix):
        """Matrices of channels ``(..., channels, channels)`` as matrices of packed ones; the condition stays."""
        half, more = self.half, self.n_parameters
        leading, none = matrix.shape[:-2], [[0, 0]] * (matrix.shape.rank - 2)
        eye, pixels = tf.eye(more, dtype=matrix.dtype), tf.eye(self.pixels, dtype=matrix.dtype)
        rows = []
        for first, above in ((slice(None, half), more), (slice(half, None), 0)):
            columns = []
            for second, left in ((slice(None, half), more), (slice(half, None), 0)):
                part = tf.pad(matrix[..., first, second], [*none, [0, above], [0, left]])
                if above and left:
                    part += tf.pad(eye, [[half, 0], [half, 0]])
                part = tf.einsum("...ab,qr->...qarb", part, pixels)
                columns.append(tf.reshape(part, [*leading, self.pixels * (half + above), self.pixels * (half + left)]))
            rows.append(tf.concat(columns, -1))
        return tf.concat(rows, -2)

    def channels(self, values):
        """Numbers of every channel ``(..., channels)`` as those of packed channels; 0 for the condition."""
        kept, changed = tf.split(values, 2, -1)
        none = [[0, 0]] * (values.shape.rank - 1)
        kept = tf.pad(kept, [*none, [0, self.n_parameters]])
        return tf.concat([self._of_pixels(kept), self._of_pixels(changed)], -1)

    def _of_pixels(self, values):
        return tf.tile(values, [*[1] * (values.shape.rank - 1), self.pixels])

    def kernels(self, kernel, bias):
        """Weights of the last convolution, ``(..., rows, columns, inputs, channels)``, as `network` takes them.

        Every pixel of a row of channels has its own copy of the kernel, moved to its place.
        """
        copies = moved_copies(kernel, self.pixels)
        copies = tf.reshape(copies, [*copies.shape[:-1], 2, self.half])
        # By halves, then pixels.
        kernel = tf.concat([copies[..., 0, :], copies[..., 1, :]], -2)
        bias = tf.concat([self._of_pixels(half) for half in tf.split(bias, 2, -1)], -1)
        return tf.reshape(kernel, [*kernel.shape[:-2], -1]), bias

    def network(self, seen, kernel_1, bias_1, kernel_2, bias_2, kernel_3, bias_3):
        """The network of a coupling, whose last weights are those of `kernels`; its outputs are packed."""
        x = tf.nn.relu(self._first_convolution(seen, kernel_1, bias_1))
        x = tf.nn.relu(_convolution(x, kernel_2, bias_2))
        x = self._last_convolution(x, kernel_3, bias_3)
        return tf.reshape(x, [-1, self._rows, kernel_3.shape[-1]])

    # TensorFlow's gradients are the same; on few channels these are up to twice as fast.

    def _first_convolution(self, seen, kernel, bias):
        """A convolution whose gradient for what is seen is computed for several pixels at once."""
        # Two pixels at once are no faster; kernels of even width are padded on one side more.
        if self.pixels <= 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
            return _convolution(seen, kernel, bias)

        @tf.custom_gradient
        def convolution(seen, kernel, bias):
            def gradient(upstream):
                turned = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
                copies = moved_copies(turned, self.pixels)
                copies = tf.reshape(copies, [*copies.shape[:-2], -1])
                of_seen = tf.nn.conv2d(upstream, copies, [1, 1, self.pixels, 1], "SAME")
                return tf.reshape(of_seen, tf.shape(seen)), *_weight_gradients(seen, kernel, upstream)

            return _convolution(seen, kernel, bias), gradient

        return convolution(seen, kernel, bias)

    def _last_convolution(self, x, kernel, bias):
        """A convolution for several pixels at once, whose gradient for x is computed for single pixels."""
        if self.pixels == 1:
            return _convolution(x, kernel, bias)

        @tf.custom_gradient
        def convolution(x, kernel, bias):
            def gradient(upstream):
                of_pixels, single = self._of_single_pixels(upstream), self._single_kernel(kernel)
                of_x = tf.nn.conv2d_transpose(of_pixels, single, tf.shape(x), 1, "SAME")
                return of_x, *_weight_gradients(x, kernel, upstream, self.pixels)

            return _convolution(x, kernel, bias, self.pixels), gradient

        return convolution(x, kernel, bias)

    def _of_single_pixels(self, outputs):
        """Outputs of the network, unpacked."""
        outputs = tf.reshape(outputs, [-1, self._rows, 2, self.pixels, self.half])
        outputs = tf.transpose(outputs, [0, 1, 3, 2, 4])
        return tf.reshape(outputs, [-1, self.height, self.width, 2 * self.half])

    def _single_kernel(self, kernel):
        """The kernel that `kernels` copied."""
        *shape, _ = kernel.shape
        copies = tf.reshape(kernel, [*shape, 2, self.pixels, self.half])
        columns = shape[1] - self.pixels + 1
        return tf.reshape(copies[:, :columns, :, :, 0], [shape[0], columns, shape[2], 2 * self.half])


def _convolution(inputs, kernel, bias, stride=1):
    # The bias beside the convolution, where oneDNN makes one operation of them.
    return tf.nn.bias_add(tf.nn.conv2d(inputs, kernel, [1, 1, stride, 1], "SAME"), bias)


def _weight_gradients(inputs, kernel, upstream, stride=1):
    of_kernel = tf.raw_ops.Conv2DBackpropFilter(
        input=inputs, filter_sizes=kernel.shape, out_backprop=upstream, strides=[1, 1, stride, 1], padding="SAME"
    )
    return of_kernel, tf.raw_ops.BiasAddGrad(out_backprop=upstream)
