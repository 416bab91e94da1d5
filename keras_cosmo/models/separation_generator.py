"""The generator of Moriwaki et al. (2020): from one map of confused lines to one map per line."""

import keras
from keras import layers

from keras_cosmo.layers.batch_normalization import BatchNormalization
from keras_cosmo.layers.convolution import Conv2D
from keras_cosmo.layers.dropout import Dropout
from keras_cosmo.layers.transposed_convolution import Conv2DTranspose
from keras_cosmo.models import arguments

ACTIVATIONS = ("tanh", "softplus", "linear")
BATCH_NORMALIZATION_MOMENTUM = 0.9
BATCH_NORMALIZATION_EPSILON = 1e-5
WEIGHT_DEVIATION = 0.02
LEAKY_SLOPE = 0.2
DROPOUT_LAYERS = 3


@keras.saving.register_keras_serializable("keras_cosmo")
class SeparationGenerator(keras.Model):
    """Intensity of every line from their sum: one shared encoder, one decoder per line (Moriwaki et al. 2020).

    The encoder has ``depth`` convolutions with stride 2, of ``width``, 2, 4 and then always 8 ``width`` channels,
    each but the first after a LeakyReLU (slope 0.2) and followed by batch normalisation. Each decoder has ``depth``
    transposed convolutions with stride 2, each after a ReLU, that go back through the same numbers of channels to one
    map; all but the last are followed by batch normalisation, the first three also by dropout, and then by what the
    encoder had on that grid, before its activation (decoder channels first). With the defaults the generator has
    139,492,738 trainable weights.

    It takes and returns intensities. Inside, an intensity I is ``2 I / scale - 1``, so that the range of the last
    tanh, -1 to 1, is 0 to ``scale``; the map is linear, in float32, and saved with the network.

    Args:
        map_shape: Shape ``(height, width)`` of the maps in pixels, None for any size. Each side must be divisible by
            ``2 ** depth``.
        lines: Names of the lines, in the order of the output's last axis.
        scale: Intensity that becomes +1 in the network, erg s^-1 cm^-2 sr^-1. With "tanh" no predicted pixel can be
            brighter: take it from the training maps, somewhat above their brightest pixel.
        input_scale: The same for the observed map alone. Defaults to ``scale``.
        line_scales: The same for the predicted maps, one number or one per line. Defaults to ``scale``.
        depth: Number of convolutions of the encoder, and of each decoder. Defaults to 8.
        width: Channels of the first convolution. Defaults to 64.
        kernel_size: Side of the square filters in pixels, an odd number. Defaults to 5.
        dropout: Share of the values that the first three layers of a decoder drop in training. Defaults to 0.5.
        output_activation: "tanh", or without an upper bound "softplus", or without any bound "linear" (then negative
            intensities are possible).
        stochastic: Whether dropout acts in inference too, as in the code that the paper builds on; then a map gives
            another answer each time. Batch normalisation uses its running statistics in inference either way.
        seed: Integer from which the seeds of the starting weights and of dropout follow. Defaults to None, which
            takes them from Keras (``keras.utils.set_random_seed``).
        dtype: Dtype policy of the hidden layers, such as "mixed_bfloat16". None takes the global policy of the
            moment; a saved model keeps it. Scaling, statistics of batch normalisation and the last transposed
            convolutions are float32 whatever the policy.
        name: Name of the model.
        trainable: Whether the weights are trained.

    Input shape:
        ``(batch, height, width)``, intensity in erg s^-1 cm^-2 sr^-1.

    Output shape:
        ``(batch, height, width, number of lines)``, float32, same unit.

    Raises:
        ValueError: If a side of the maps is not divisible by ``2 ** depth`` (the message gives the nearest sizes
            that are), or an argument has a wrong length, is out of range or is not finite.

    Example:
        >>> generator = SeparationGenerator((32, 32), scale=1e-7, depth=3, width=8)
        >>> generator(keras.ops.zeros((1, 32, 32))).shape
        TensorShape([1, 32, 32, 2])

    Reference:
        Moriwaki, Filippova, Shirasaki & Yoshida 2020, MNRAS 496, L54 (arXiv:2002.07991), section 2.2: numbers of
        layers, filters of 5 x 5, the shared encoder. Channels, activations, dropout, batch normalisation and start
        of the weights (normal with deviation 0.02, that of the convolutions cut at two deviations) are those of
        the code named there, https://github.com/yenchenlin/pix2pix-tensorflow, after Isola et al. 2017
        (arXiv:1611.07004).

    Padding is TensorFlow's "SAME", as in that code: with stride 2 and a filter of 5, one pixel before and two after.

    Deviations: the code also has biases where batch normalisation follows. It takes away what they add, so that in
    training they have no gradient; here those layers have none (the code's network has 7,936 weights more). The
    normalisation of the intensities is not given in the paper; "softplus", "linear" and the separate scales are ours.
    """

    def __init__(
        self,
        map_shape=(256, 256),
        lines=("halpha", "oiii"),
        scale=None,
        *,
        input_scale=None,
        line_scales=None,
        depth=8,
        width=64,
        kernel_size=5,
        dropout=0.5,
        output_activation="tanh",
        stochastic=False,
        seed=None,
        dtype=None,
        name="separation_generator",
        trainable=True,
    ):
        depth = arguments.positive_integer("depth", depth)
        width = arguments.positive_integer("width", width)
        map_shape = check_map_shape(map_shape, depth)
        lines = arguments.layer_names("lines", lines)
        scale = arguments.finite("scale", scale, positive=True)
        input_scale = arguments.finite("input_scale", scale if input_scale is None else input_scale, positive=True)
        line_scales = arguments.finite_per_axis(
            "line_scales", scale if line_scales is None else line_scales, len(lines), "line", positive=True
        )
        kernel_size = arguments.odd_integer("kernel_size", kernel_size)
        dropout = arguments.fraction("dropout", dropout)
        output_activation = arguments.one_of("output_activation", output_activation, ACTIVATIONS)
        seeds = arguments.layer_seeds(seed)
        # Kept, so that a model loaded under another global policy is the one that was saved.
        policy = keras.dtype_policies.get(dtype)

        maps = keras.Input(map_shape, dtype="float32", name="intensity")
        x = to_network(maps, input_scale, name="observed")
        widths = [width * min(2**level, 8) for level in range(depth)]
        skips = []
        for level, channels in enumerate(widths, start=1):
            block = f"encoder_{level}"
            x = convolution(x, channels, kernel_size, 2, level > 1, next(seeds), policy, block)
            if level < depth:
                x = layers.LeakyReLU(LEAKY_SLOPE, dtype=policy, name=f"{block}_leaky_relu")(x)
            # The ReLU before a transposed convolution acts on both parts of its input: here once for all decoders.
            # After the LeakyReLU it gives the same, and leaves it to be fused with the convolution.
            skips.append(layers.ReLU(dtype=policy, name=f"{block}_relu")(x))
        predicted = [_decode(skips, line, kernel_size, dropout, stochastic, seeds, policy) for line in lines]
        x = layers.Concatenate(dtype="float32", name="lines")(predicted) if len(lines) > 1 else predicted[0]
        x = layers.Activation(output_activation, dtype="float32", name="output_activation")(x)
        halves = [line_scale / 2 for line_scale in line_scales]
        # The softplus begins at 0 rather than at -1, and so do intensities.
        darkest = [0.0] * len(lines) if output_activation == "softplus" else halves
        x = layers.Rescaling(halves, darkest, dtype="float32", name="physical_units")(x)
        super().__init__(inputs=maps, outputs=x, name=name, trainable=trainable)

        self.map_shape = map_shape
        self.lines = lines
        self.scale = scale
        self.input_scale = input_scale
        self.line_scales = line_scales
        self.depth = depth
        self.width = width
        self.kernel_size = kernel_size
        self.dropout = dropout
        self.output_activation = output_activation
        self.stochastic = bool(stochastic)
        self.seed = None if seed is None else int(seed)
        self.layer_dtype_policy = policy

    # Not in `call`: there Keras would add every pixel of the maps to the message.
    def __call__(self, inputs, *args, **kwargs):
        """Maps of every line, of observed maps whose size is looked at first."""
        self.check_inputs(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def check_inputs(self, inputs) -> None:
        """``ValueError`` if maps are not ``(batch, height, width)``, or of a size the network cannot take."""
        shape = tuple(getattr(inputs, "shape", ()))
        if len(shape) != 3:
            raise ValueError(f"`inputs`: expected intensity maps (batch, height, width), got the shape {shape}.")
        check_map_shape(shape[1:], self.depth, argument="inputs")
        if any(None not in pair and pair[0] != pair[1] for pair in zip(shape[1:], self.map_shape, strict=True)):
            raise ValueError(
                f"`inputs`: this network takes maps of {self.map_shape} pixels, got {shape[1:]}. Cut the maps, or "
                "build it with the `map_shape` of yours."
            )

    def get_config(self):
        """Constructor arguments as plain values; the dtype policy by its name, or as Keras serialises it."""
        return {
            "map_shape": self.map_shape,
            "lines": self.lines,
            "scale": self.scale,
            "input_scale": self.input_scale,
            "line_scales": self.line_scales,
            "depth": self.depth,
            "width": self.width,
            "kernel_size": self.kernel_size,
            "dropout": self.dropout,
            "output_activation": self.output_activation,
            "stochastic": self.stochastic,
            "seed": self.seed,
            "dtype": arguments.policy_config(self.layer_dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }


def to_network(maps, scale: float, *, name: str):
    """Intensity maps (batch, height, width) as network input (batch, height, width, 1), ``2 I / scale - 1``."""
    x = layers.Rescaling(2.0 / scale, -1.0, dtype="float32", name=f"{name}_network_units")(maps)
    return keras.ops.expand_dims(x, -1)


def convolution(x, channels, kernel_size, strides, normalized, seed, policy, block):
    """A convolution, followed by batch normalisation (then without a bias) if ``normalized``."""
    x = Conv2D(
        channels,
        kernel_size,
        strides,
        padding="same",
        use_bias=not normalized,
        kernel_initializer=keras.initializers.TruncatedNormal(0.0, WEIGHT_DEVIATION, seed),
        dtype=policy,
        name=f"{block}_convolution",
    )(x)
    return batch_normalization(x, policy, block) if normalized else x


def batch_normalization(x, policy, block):
    """Batch normalisation with the constants of the original code."""
    return BatchNormalization(
        momentum=BATCH_NORMALIZATION_MOMENTUM,
        epsilon=BATCH_NORMALIZATION_EPSILON,
        dtype=policy,
        name=f"{block}_batch_normalization",
    )(x)


def check_map_shape(map_shape, depth: int, argument: str = "map_shape") -> tuple:
    """`arguments.divisible_shape` for a depth."""
    what, remedy = f"depth {depth}", "take a smaller `depth`"
    return arguments.divisible_shape(argument, map_shape, depth, what=what, remedy=remedy)


class _StochasticDropout(Dropout):
    """Dropout in inference as in training."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


def _decode(skips, line, kernel_size, dropout, stochastic, seeds, policy):
    """One decoder: from the encoder's activated maps, finest grid first, to the map of one line before activation."""
    dropout_class = _StochasticDropout if stochastic else Dropout
    x = skips[-1]
    for number, skip in enumerate(reversed(skips[:-1]), start=1):
        block = f"{line}_decoder_{number}"
        x = _transposed_convolution(x, skip.shape[-1], kernel_size, False, next(seeds), policy, block)
        x = batch_normalization(x, policy, block)
        if number <= DROPOUT_LAYERS:
            x = dropout_class(dropout, seed=next(seeds), dtype=policy, name=f"{block}_dropout")(x)
        x = layers.ReLU(dtype=policy, name=f"{block}_relu")(x)
        x = layers.Concatenate(dtype=policy, name=f"{block}_concatenation")([x, skip])
    return _transposed_convolution(x, 1, kernel_size, True, next(seeds), "float32", f"{line}_decoder_{len(skips)}")


def _transposed_convolution(x, channels, kernel_size, use_bias, seed, policy, block):
    return Conv2DTranspose(
        channels,
        kernel_size,
        strides=2,
        padding="same",
        use_bias=use_bias,
        kernel_initializer=keras.initializers.RandomNormal(0.0, WEIGHT_DEVIATION, seed),
        dtype=policy,
        name=f"{block}_transposed_convolution",
    )(x)
