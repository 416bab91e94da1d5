"""Gaussian prior of the channels that a block finishes, given those that go on."""

import keras
from keras import ops

LARGEST_LOG_SCALE = 5.0


@keras.saving.register_keras_serializable("keras_cosmo")
class SplitPrior(keras.layers.Layer):
    """Mean and scale of the channels that a block finishes, given those that go on and the parameters.

    A 3 x 3 convolution on the channels that go on and one constant channel per parameter. It starts with zeros, which
    is the standard normal prior. The logarithm of the scale is kept within -5 and 5 by a tanh.

    Args:
        channels: Channels that go on; as many are finished.
        map_shape: ``(height, width)`` of the maps there. Of one pixel the kernel has one pixel.
        n_parameters: Number of parameters.
        dtype: "float64", or anything else for float32.
        name: Name of the layer.

    Call:
        ``layer(kept, parameters)`` with kept ``(n * batch, height, width, channels)`` and parameters ``(batch,
        n_parameters)`` returns mean and logarithm of the scale, both of the shape of ``kept``.

    Example:
        >>> mean, log_scale = SplitPrior(2, (8, 8), 2)(keras.ops.ones((3, 8, 8, 2)), keras.ops.zeros((3, 2)))
        >>> mean.shape
        TensorShape([3, 8, 8, 2])

    Reference:
        Kingma & Dhariwal 2018 (arXiv:1807.03039), public code: the prior of the factored-out half is a convolution of
        the other half. Friedman & Hassan 2022 (arXiv:2211.12724) do not say which prior they have; the default of
        their public code is the standard normal one.
    """

    def __init__(self, channels, map_shape, n_parameters, dtype=None, name=None, **kwargs):
        policy = keras.dtype_policies.get(dtype)
        super().__init__(dtype="float64" if policy.variable_dtype == "float64" else "float32", name=name, **kwargs)
        self.channels, self.n_parameters = int(channels), int(n_parameters)
        self.map_shape = tuple(int(side) for side in map_shape)
        self.supports_jit = False
        side = 1 if self.map_shape == (1, 1) else 3
        inputs = self.channels + self.n_parameters
        self.kernel = self.add_weight(shape=(side, side, inputs, 2 * self.channels), initializer="zeros", name="kernel")
        self.bias = self.add_weight(shape=(2 * self.channels,), initializer="zeros", name="bias")
        self.built = True

    def call(self, kept, parameters):
        """Mean and logarithm of the scale."""
        parameters = ops.cast(parameters, kept.dtype)
        n_maps, height, width = ops.shape(kept)[:3]
        parameters = ops.tile(parameters, (n_maps // ops.shape(parameters)[0], 1))
        planes = ops.broadcast_to(parameters[:, None, None], (n_maps, height, width, self.n_parameters))
        x = ops.conv(ops.concatenate([kept, planes], axis=-1), self.kernel, padding="same") + self.bias
        mean, raw = ops.split(x, 2, axis=-1)
        return mean, LARGEST_LOG_SCALE * ops.tanh(raw / LARGEST_LOG_SCALE)

    def get_config(self):
        """Constructor arguments as plain values."""
        return {
            **super().get_config(),
            "channels": self.channels,
            "map_shape": self.map_shape,
            "n_parameters": self.n_parameters,
            "dtype": self.variable_dtype,
        }
