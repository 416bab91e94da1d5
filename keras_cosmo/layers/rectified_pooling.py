"""ReLU and max pooling, whose gradient passes ReLU on the pooled map."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cosmo")
class RectifiedMaxPooling2D(keras.layers.MaxPooling2D):
    """ReLU, then ``keras.layers.MaxPooling2D``, with a cheaper gradient.

    The largest value of a window passes ReLU where the pooled value is positive, so the gradient of ReLU is taken
    of the pooled map instead of all pixels: a quarter of them for windows of 2 x 2. Outputs and gradients are those of
    the two layers in turn.

    Args:
        args: As of ``keras.layers.MaxPooling2D``.
        kwargs: As of ``keras.layers.MaxPooling2D``.

    Example:
        >>> RectifiedMaxPooling2D(2)(-keras.ops.ones((1, 4, 4, 3)))[0, 0, 0, 0].numpy().item()
        0.0
    """

    def call(self, inputs, training=None):
        """The pooled maps."""
        by_hand = keras.backend.backend() == "tensorflow" and self.data_format == "channels_last"
        return self._pool(inputs) if training and by_hand else super().call(ops.relu(inputs))

    def _pool(self, inputs):
        import tensorflow as tf

        windows = {
            "ksize": [1, *self.pool_size, 1],
            "strides": [1, *self.strides, 1],
            "padding": self.padding.upper(),
        }

        @tf.custom_gradient
        def pool(inputs):
            rectified = tf.nn.relu(inputs)
            pooled = tf.nn.max_pool2d(rectified, **windows)

            def gradient(upstream):
                upstream = tf.raw_ops.ReluGrad(gradients=upstream, features=pooled)
                return tf.raw_ops.MaxPoolGrad(orig_input=rectified, orig_output=pooled, grad=upstream, **windows)

            return pooled, gradient

        return pool(inputs)
