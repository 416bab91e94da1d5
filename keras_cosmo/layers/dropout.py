"""Dropout that draws sixteen random bits for a unit."""

import keras

# float64 would lose digits of its factor, float16 and integers are left alone.
DTYPES = ("float32", "bfloat16")
# Values of sixteen bits, and how many of them an integer of 64 bits has.
LEVELS = 2**16
PARTS = 4


@keras.saving.register_keras_serializable("keras_cosmo")
class Dropout(keras.layers.Dropout):
    """``keras.layers.Dropout`` whose random numbers cost half as much.

    Keras draws a float32 for every unit and compares it with the rate. With TensorFlow, in float32 and bfloat16, this
    layer draws integers of 64 bits, takes 16 of their bits for each unit and keeps it if they are below ``threshold =
    round(65536 (1 - rate))``. Kept units are multiplied by 65536 / threshold, the inverse of the probability with
    which they are kept, so that the expected output is the input. Everything else (inference, ``noise_shape``, rates
    whose threshold is 0 or 65536, other dtypes, other backends) is left to Keras. Arguments, the state of the
    random numbers and how it goes on, and saved files are those of Keras's layer.

    Args:
        rate: Share of the units to drop, from 0 to 1.
        args: The others, as of ``keras.layers.Dropout``.
        kwargs: As of ``keras.layers.Dropout``.

    Example:
        >>> outputs = Dropout(0.25, seed=1)(keras.ops.ones((100, 100)), training=True)
        >>> sorted({round(float(value), 4) for value in keras.ops.ravel(outputs)})
        [0.0, 1.3333]

    Deviations: the rate is that asked for to within 1 / 131072. The units dropped for a seed are not those Keras's
    layer drops. The factor is rounded to the dtype, by up to 0.4 % in bfloat16, as it is in Keras's layer. A dropped
    unit that is infinite or not a number becomes not a number, where Keras gives 0. For the gradient it holds the
    factors in the dtype of the units, where Keras holds one byte for each.
    """

    def call(self, inputs, training=False):
        """The inputs in inference; in training some of them 0 and the others multiplied."""
        threshold = round(LEVELS * (1.0 - self.rate))
        if not (training and 0 < threshold < LEVELS and self._has_operation(inputs)):
            return super().call(inputs, training=training)
        import tensorflow as tf

        # As Keras does it: compiled graphs take seeds of 32 bits only.
        seed = tf.cast(self.seed_generator.next() % (tf.int32.max - 1), "int32")
        count = tf.size(inputs)
        integers = tf.random.stateless_uniform(
            [(count + PARTS - 1) // PARTS], seed, minval=None, maxval=None, dtype=tf.uint64
        )
        bits = tf.reshape(tf.bitcast(integers, tf.uint16), [-1])[:count]
        kept = tf.reshape(bits < threshold, tf.shape(inputs))
        # One array for both ways: the gradient is multiplied by it too.
        factors = tf.where(kept, tf.constant(LEVELS / threshold, inputs.dtype), tf.zeros([], inputs.dtype))
        return inputs * factors

    def _has_operation(self, inputs) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and self.noise_shape is None
            and keras.backend.standardize_dtype(inputs.dtype) in DTYPES
        )
