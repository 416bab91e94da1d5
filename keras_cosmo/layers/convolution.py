"""Convolution of maps with few channels, whose gradients are computed for several pixels at once."""

import keras
from keras import ops

DTYPES = ("float32", "bfloat16")


@keras.saving.register_keras_serializable("keras_cosmo")
class Conv2D(keras.layers.Conv2D):
    """``keras.layers.Conv2D`` whose training with few channels is up to three times faster on processors.

    With 8 filters a processor has a quarter of its lanes at work in bfloat16, and the gradient of the filters takes
    seven times as long as the convolution. Here, in training, neighbouring pixels of a row share the axis of channels
    (memory stays as it is), so that the gradient of the filters is that of fewer and larger ones, of which the copies
    for each place are added; in float32 the gradient of few input channels is computed for several pixels at once.
    Outputs are the same, gradients up to rounding: copies are added in float32.

    It does so for maps ``(batch, height, width, channels)`` of known height and width without padding ("valid"), with
    steps of one pixel, in float32 and bfloat16. Everything else is left to Keras, and so are more filters than a
    register of the processor holds. Arguments, weights, outputs and saved files are those of Keras's layer.

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
        if not (training and self._may_pack(inputs)):
            return super().call(inputs)
        from keras_cosmo.layers.packed_convolution import packed_convolution

        bias = ops.convert_to_tensor(self.bias) if self.use_bias else ops.zeros((self.filters,), self.compute_dtype)
        outputs = packed_convolution(inputs, ops.convert_to_tensor(self.kernel), bias)
        return outputs if self.activation is None else self.activation(outputs)

    def _may_pack(self, inputs) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and self.compute_dtype in DTYPES
            and keras.backend.standardize_dtype(inputs.dtype) == self.compute_dtype
            and None not in inputs.shape[1:]
            and self.data_format == "channels_last"
            and self.padding == "valid"
            and set(self.strides) == set(self.dilation_rate) == {self.groups} == {1}
            and self._gains(inputs.shape[-1])
        )

    def _gains(self, channels) -> bool:
        from keras_cosmo.layers.packed_convolution import filter_pixels, input_pixels

        dtype = self.compute_dtype
        return filter_pixels(self.filters, dtype) > 1 or input_pixels(channels, dtype) > 1
