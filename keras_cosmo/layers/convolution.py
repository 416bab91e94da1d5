"""Convolution of maps with few channels, whose gradients are computed for several pixels at once."""

import keras
from keras import ops

DTYPES = ("float32", "bfloat16")


@keras.saving.register_keras_serializable("keras_cosmo")
class Conv2D(keras.layers.Conv2D):
    """``keras.layers.Conv2D`` whose training is faster on processors where there are few channels, or few pixels.

    Few channels: with 8 filters a processor has a quarter of its lanes at work in bfloat16, and the gradient of the
    filters takes many times as long as the convolution. Here neighbouring pixels of a row share the axis of channels
    (`keras_cosmo.layers.packed_convolution`). For "valid" padding and strides of 1.

    Few pixels: on maps of 8 x 8 and fewer with hundreds of channels the gradient of the filters is as slow. Here it is
    a product of matrices for every place of the kernel (`keras_cosmo.layers.small_map_convolution`). For any padding
    and strides.

    Both in training, for maps ``(batch, height, width, channels)`` of known height and width, in float32 and bfloat16,
    with TensorFlow where it sees no GPU; everything else is left to Keras. Outputs and gradients are the same up to
    rounding. Arguments, weights and saved files are those of Keras's layer. What is gained on one processor with
    AVX-512 and AMX is in docs/benchmarks.md.

    Args:
        args: As of ``keras.layers.Conv2D``.
        kwargs: As of ``keras.layers.Conv2D``.

    Example:
        >>> layer = Conv2D(8, 10, activation="relu")
        >>> layer(keras.ops.zeros((2, 100, 120, 1)), training=True).shape
        TensorShape([2, 91, 111, 8])
    """

    def call(self, inputs, training=None):
        """The convolved maps."""
        outputs = self._convolved(inputs) if training and self._may_differ(inputs) else None
        if outputs is None:
            return super().call(inputs)
        return outputs if self.activation is None else self.activation(outputs)

    def _may_differ(self, inputs) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and self.compute_dtype in DTYPES
            and keras.backend.standardize_dtype(inputs.dtype) == self.compute_dtype
            and None not in inputs.shape[1:]
            and self.data_format == "channels_last"
            and set(self.dilation_rate) == {self.groups} == {1}
        )

    def _convolved(self, inputs):
        """Before the activation; None if Keras's way is as fast."""
        from keras_cosmo.layers import packed_convolution, small_map_convolution

        if not packed_convolution.on_processors():
            return None
        dtype, shape = self.compute_dtype, (*self.kernel_size, inputs.shape[-1], self.filters)
        size = self.compute_output_shape(inputs.shape)[1:3]
        if small_map_convolution.gains(size, shape):
            outputs = small_map_convolution.convolution(inputs, self.kernel, self.strides, self.padding.upper())
            return outputs + self.bias if self.use_bias else outputs
        if self.padding == "valid" and set(self.strides) == {1} and packed_convolution.gains(shape, dtype):
            bias = self.bias if self.use_bias else ops.zeros((self.filters,), dtype)
            return packed_convolution.packed_convolution(inputs, self.kernel, bias)
        return None
