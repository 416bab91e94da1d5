"""Functions for `keras_cosmo.layers.convolution.Conv2D`: gradients computed for several pixels at once."""

import tensorflow as tf

# Bytes that a processor multiplies at once (AVX-512): 16 numbers of float32, 32 of bfloat16.
REGISTER_BYTES = 64
BYTES = {"float32": 4, "bfloat16": 2}
# More would make kernels of mostly zeros, and in bfloat16 sums of many rounded parts.
MOST_PIXELS = 8


def on_processors() -> bool:
    """Whether TensorFlow sees no GPU: there all this has not been measured."""
    return not tf.config.get_visible_devices("GPU")


def gains(kernel_shape, dtype: str) -> bool:
    """Whether several pixels are computed at once, for kernels ``(rows, columns, inputs, filters)``."""
    return filter_pixels(kernel_shape[3], dtype) > 1 or input_pixels(*kernel_shape[2:], dtype) > 1


def filter_pixels(filters: int, dtype: str) -> int:
    """Neighbouring pixels, a power of two up to 8, of which the channels fit into a register of the processor."""
    return min(1 << max(REGISTER_BYTES // (BYTES[dtype] * filters), 1).bit_length() - 1, MOST_PIXELS)


def input_pixels(inputs: int, filters: int, dtype: str) -> int:
    """The same for the gradient of the inputs; in bfloat16 that gains nothing."""
    # oneDNN's strided convolution of a single channel reads memory that nobody wrote, on narrow maps.
    return filter_pixels(inputs, dtype) if dtype == "float32" and filters > 1 else 1


def packed_convolution(maps, kernel, bias):
    """``tf.nn.conv2d(maps, kernel, 1, "VALID") + bias``, whose gradients are computed for several pixels at once.

    Args:
        maps: ``(batch, height, width, inputs)``, with known height, width and inputs, float32 or bfloat16.
        kernel: ``(rows, columns, inputs, filters)``, in the same dtype.
        bias: ``(filters,)``, in the same dtype.
    """
    # Eager gradients of variables would need more of a function than those of tensors.
    maps, kernel, bias = map(tf.convert_to_tensor, (maps, kernel, bias))

    @tf.custom_gradient
    def convolution(maps, kernel, bias):
        outputs = tf.nn.bias_add(tf.nn.conv2d(maps, kernel, 1, "VALID"), bias)

        def gradient(upstream):
            # It may come without its shape, or as some of its rows.
            upstream = tf.ensure_shape(upstream, outputs.shape)
            of_kernel, of_bias = _filter_gradient(maps, kernel, upstream)
            return _input_gradient(maps, kernel, upstream), of_kernel, of_bias

        return outputs, gradient

    return convolution(maps, kernel, bias)


def moved_copies(kernel, pixels):
    """Copies of a kernel for neighbouring pixels of a row, ``(..., rows, columns + pixels - 1, inputs, pixels, n)``."""
    none = [[0, 0]] * (kernel.shape.rank - 3)
    moved = [tf.pad(kernel, [*none, [i, pixels - 1 - i], [0, 0], [0, 0]]) for i in range(pixels)]
    return tf.stack(moved, -2)


def _filter_gradient(maps, kernel, upstream):
    """Gradients for the kernel and the bias, of cells of several pixels."""
    rows, columns, inputs, filters = kernel.shape
    pixels = filter_pixels(filters, kernel.dtype.name)
    across = -(-upstream.shape[2] // pixels)
    # A cell's kernel covers those of all its pixels.
    cells = -(-(columns + pixels - 1) // pixels)
    upstream = _in_cells(upstream, across, pixels)
    maps = _in_cells(maps, across + cells - 1, pixels)
    of_kernel = tf.raw_ops.Conv2DBackpropFilter(
        input=maps,
        filter_sizes=[rows, cells, pixels * inputs, pixels * filters],
        out_backprop=upstream,
        strides=[1, 1, 1, 1],
        padding="VALID",
    )
    of_kernel = tf.reshape(tf.cast(of_kernel, "float32"), [rows, cells * pixels, inputs, pixels, filters])
    of_kernel = tf.add_n([of_kernel[:, pixel : pixel + columns, :, pixel] for pixel in range(pixels)])
    # By the operation that oneDNN makes one with the above.
    of_bias = tf.cast(tf.raw_ops.BiasAddGrad(out_backprop=upstream), "float32")
    of_bias = tf.reduce_sum(tf.reshape(of_bias, [pixels, filters]), 0)
    return tf.cast(of_kernel, kernel.dtype), tf.cast(of_bias, kernel.dtype)


def _in_cells(maps, across, pixels):
    """Maps with ``across`` cells of neighbouring pixels in a row, padded with zeros or cut."""
    _, height, width, channels = maps.shape
    missing = across * pixels - width
    if missing > 0:
        maps = tf.pad(maps, [[0, 0], [0, 0], [0, missing], [0, 0]])
    elif missing < 0:
        maps = maps[:, :, :missing]
    return tf.reshape(maps, [-1, height, across, pixels * channels])


def _input_gradient(maps, kernel, upstream):
    """Gradient for the maps: a convolution of the upstream one with the turned kernel."""
    rows, columns, inputs, filters = kernel.shape
    pixels = input_pixels(inputs, filters, kernel.dtype.name)
    if pixels == 1:
        return tf.nn.conv2d_transpose(upstream, kernel, tf.shape(maps), 1, "VALID")
    _, height, width, _ = maps.shape
    across = -(-width // pixels)
    turned = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
    copies = tf.reshape(moved_copies(turned, pixels), [rows, columns + pixels - 1, filters, pixels * inputs])
    margins = [[0, 0], [rows - 1, rows - 1], [columns - 1, columns - 1 + across * pixels - width], [0, 0]]
    of_maps = tf.nn.conv2d(upstream, copies, [1, 1, pixels, 1], margins)
    return tf.reshape(of_maps, [-1, height, across * pixels, inputs])[:, :, :width]
