"""The discriminator of Moriwaki et al. (2020), which judges the map of a line beside the observed map."""

import keras
from keras import layers

from keras_cosmo.models import arguments
from keras_cosmo.models.separation_generator import LEAKY_SLOPE, WEIGHT_DEVIATION, convolution, to_network


@keras.saving.register_keras_serializable("keras_cosmo")
class LineDiscriminator(keras.Model):
    """Logit of the probability that the map of a line is the true one behind an observed map.

    Four convolutions of ``width``, 2, 4 and 8 ``width`` channels, the first three with stride 2, each followed by a
    LeakyReLU (slope 0.2) and, but for the first, by batch normalisation before it; then one fully connected
    layer over all pixels and channels. With the defaults it has 4,830,145 trainable weights.

    Args:
        map_shape: Shape ``(height, width)`` of the maps in pixels.
        scale: Intensity that becomes +1 in the network, erg s^-1 cm^-2 sr^-1; zero becomes -1.
        line_scale: The same for the map of the line alone. Defaults to ``scale``.
        width: Channels of the first convolution. Defaults to 64.
        kernel_size: Side of the square filters in pixels, an odd number. Defaults to 5.
        seed: Integer from which the seeds of the starting weights follow. Defaults to None, which takes them from
            Keras.
        dtype: Dtype policy of the hidden layers. None takes the global policy of the moment. Scaling, statistics
            of batch normalisation and the logit are float32 whatever the policy.
        name: Name of the model.
        trainable: Whether the weights are trained.

    Input shape:
        List of two: the observed map and the map of the line, each ``(batch, height, width)``, intensity in
        erg s^-1 cm^-2 sr^-1.

    Output shape:
        ``(batch, 1)``, float32, logit.

    Raises:
        ValueError: If the sides of the maps are not known, or an argument is out of range or not finite.

    Example:
        >>> discriminator = LineDiscriminator((32, 32), 1e-7, width=8)
        >>> discriminator([keras.ops.zeros((1, 32, 32))] * 2).shape
        TensorShape([1, 1])

    Reference:
        Moriwaki, Filippova, Shirasaki & Yoshida 2020, MNRAS 496, L54 (arXiv:2002.07991), section 2.2, and the code
        named there, https://github.com/yenchenlin/pix2pix-tensorflow, for what the paper leaves open.

    Deviations: as in `SeparationGenerator`, convolutions before batch normalisation have no bias (896 weights fewer
    than in that code), and the normalisation of the intensities is ours.
    """

    def __init__(
        self,
        map_shape=(256, 256),
        scale=None,
        *,
        line_scale=None,
        width=64,
        kernel_size=5,
        seed=None,
        dtype=None,
        name="line_discriminator",
        trainable=True,
    ):
        sides = map_shape if hasattr(map_shape, "__len__") and not isinstance(map_shape, str) else ()
        if len(sides) != 2 or None in tuple(sides):
            raise ValueError(
                f"`map_shape`: the fully connected layer of a discriminator needs maps of one known size, (height, "
                f"width) in pixels, got {map_shape!r}; give it."
            )
        map_shape = arguments.positive_integers("map_shape", sides)
        scale = arguments.finite("scale", scale, positive=True)
        line_scale = arguments.finite("line_scale", scale if line_scale is None else line_scale, positive=True)
        width = arguments.positive_integer("width", width)
        kernel_size = arguments.odd_integer("kernel_size", kernel_size)
        seeds = arguments.layer_seeds(seed)
        policy = keras.dtype_policies.get(dtype)

        observed = keras.Input(map_shape, dtype="float32", name="observed")
        line = keras.Input(map_shape, dtype="float32", name="line")
        x = layers.Concatenate(dtype="float32", name="pair")(
            [to_network(observed, scale, name="observed"), to_network(line, line_scale, name="line")]
        )
        for number in range(1, 5):
            strides = 2 if number < 4 else 1
            block = f"block_{number}"
            x = convolution(x, width * 2 ** (number - 1), kernel_size, strides, number > 1, next(seeds), policy, block)
            x = layers.LeakyReLU(LEAKY_SLOPE, dtype=policy, name=f"{block}_leaky_relu")(x)
        x = layers.Flatten(dtype=policy, name="flatten")(x)
        logit = layers.Dense(
            1,
            kernel_initializer=keras.initializers.RandomNormal(0.0, WEIGHT_DEVIATION, next(seeds)),
            dtype="float32",
            name="logit",
        )(x)
        super().__init__(inputs=[observed, line], outputs=logit, name=name, trainable=trainable)

        self.map_shape = map_shape
        self.scale = scale
        self.line_scale = line_scale
        self.width = width
        self.kernel_size = kernel_size
        self.seed = None if seed is None else int(seed)
        self.layer_dtype_policy = policy

    def get_config(self):
        """Constructor arguments as plain values; the dtype policy by its name, or as Keras serialises it."""
        return {
            "map_shape": self.map_shape,
            "scale": self.scale,
            "line_scale": self.line_scale,
            "width": self.width,
            "kernel_size": self.kernel_size,
            "seed": self.seed,
            "dtype": arguments.policy_config(self.layer_dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }
