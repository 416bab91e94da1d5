"""Transposed convolution whose training on small maps with many channels is faster."""

import keras

from keras_cosmo.layers.convolution import DTYPES


@keras.saving.register_keras_serializable("keras_cosmo")
class Conv2DTranspose(keras.layers.Conv2DTranspose):
    """``keras.layers.Conv2DTranspose`` whose training is faster on processors where there are few pixels.

    On maps of 8 x 8 and fewer with hundreds of channels TensorFlow's gradient of the filters takes many times as long
    as the convolution; here it is a product of matrices for every place of the kernel
    (`keras_cosmo.layers.small_map_convolution`). In training, for maps ``(batch, height, width, channels)`` of known
    height and width, in float32 and bfloat16, with TensorFlow where it sees no GPU; everything else is left to Keras.
    Outputs and gradients are the same up to rounding. Arguments, weights and saved files are those of Keras's layer.

    Args:
        args: As of ``keras.layers.Conv2DTranspose``.
        kwargs: As of ``keras.layers.Conv2DTranspose``.

    Example:
        >>> Conv2DTranspose(256, 2, strides=2)(keras.ops.zeros((2, 4, 4, 512)), training=True).shape
        TensorShape([2, 8, 8, 256])
    """

    def call(self, inputs, training=None):
        """The maps on the finer grid."""
        if not (training and self._may_differ(inputs)):
            return super().call(inputs)
        from keras_cosmo.layers import small_map_convolution

        size = self.compute_output_shape(inputs.shape)[1:3]
        outputs = small_map_convolution.transposed_convolution(
            inputs, self.kernel, size, self.strides, self.padding.upper()
        )
        if self.use_bias:
            outputs = outputs + self.bias
        return outputs if self.activation is None else self.activation(outputs)

    def _may_differ(self, inputs) -> bool:
        if not (
            keras.backend.backend() == "tensorflow"
            and self.compute_dtype in DTYPES
            and keras.backend.standardize_dtype(inputs.dtype) == self.compute_dtype
            and None not in inputs.shape[1:]
            and self.data_format == "channels_last"
            and set(self.dilation_rate) == {1}
            and self.output_padding is None
            # Where filters are narrower than the strides Keras's sizes are not those of a convolution turned round.
            and all(side >= stride for side, stride in zip(self.kernel_size, self.strides, strict=True))
        ):
            return False
        from keras_cosmo.layers.packed_convolution import on_processors
        from keras_cosmo.layers.small_map_convolution import gains

        return on_processors() and gains(inputs.shape[1:3], (*self.kernel_size, self.filters, inputs.shape[-1]))
