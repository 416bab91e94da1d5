"""The U-Net of Villanueva-Domingo & Villaescusa-Navarro (2021): from a 21-cm map to a matter map."""

import functools
import math

import keras
from keras import layers

from keras_cosmo.layers.batch_normalization import BatchNormalization
from keras_cosmo.layers.convolution import Conv2D
from keras_cosmo.layers.cropping import Cropping2D
from keras_cosmo.layers.periodic_padding import PeriodicPadding2D
from keras_cosmo.layers.transposed_convolution import Conv2DTranspose
from keras_cosmo.models import arguments

PADDINGS = ("same", "periodic")


@keras.saving.register_keras_serializable("keras_cosmo")
class MatterUNet(keras.Model):
    """Matter overdensity from a map of the 21-cm signal (Villanueva-Domingo & Villaescusa-Navarro 2021, Table II).

    A unit is a 3 x 3 convolution, batch normalisation and ReLU. The encoder has one block of two units and a
    2 x 2 max pooling for each of ``widths``; two units of twice the last width follow; then, from the coarsest
    grid to the finest, a transposed convolution (3 x 3, stride 2) to the width of that grid, concatenation with
    what the encoder had there before pooling (upsampled channels first) and two units. A last convolution
    without activation gives the map. With the defaults it has 8,562,497 trainable weights ("about 8.5
    million"). It takes brightness temperature in mK and returns overdensity: the normalisation of both is part
    of the network (fixed, not trained) and saved with it.

    Args:
        map_shape: Shape ``(height, width)`` of the maps in cells, None for any size. Each side must be divisible
            by ``2 ** len(widths)``. Defaults to any size.
        in_channels: Number of input maps, such as redshifts. Defaults to 1.
        out_channels: Number of predicted maps. Defaults to 1.
        widths: Channels of the encoder's blocks, from the finest grid to the coarsest.
        kernel_size: Side of the square filters in cells, an odd number. Defaults to 3.
        padding: "same" pads every convolution with zeros; "periodic" with the cells from the opposite side, for
            maps that are whole faces of a periodic box. Then a map rolled by ``2 ** len(widths)`` cells gives the
            same prediction, rolled. Defaults to "same".
        batch_normalization_momentum: Share of the old running mean and variance that a training step keeps.
            Defaults to 0.9 (PyTorch, which counts the share of the new ones, calls it 0.1).
        batch_normalization_epsilon: Added to the variance. Defaults to 1e-5, as in PyTorch.
        input_mean, input_standard_deviation: Of the training maps, mK; one number, or one per input channel.
        output_mean, output_standard_deviation: Of the training overdensity; one number, or one per output channel.
        dtype: Dtype policy of the hidden layers, such as "mixed_bfloat16". None takes the global policy of the
            moment; a saved model keeps it, whatever the global policy is on loading. Normalisation, statistics of
            batch normalisation and the last convolution are float32 whatever the policy.
        name: Name of the model.
        trainable: Whether the weights are trained. Saved for the whole model only: layers frozen one by one are
            not frozen any more after saving and loading, so freeze them again.

    Attributes:
        encoder_layer_names: Names of the encoder's layers that have weights, in their order. An `AstroNet` of the
            same widths has layers of the same names.

    Input shape:
        ``(batch, height, width, in_channels)``, brightness temperature in mK.

    Output shape:
        ``(batch, height, width, out_channels)``, float32, overdensity.

    Raises:
        ValueError: If a side of the maps is not divisible by ``2 ** len(widths)`` (the message gives the nearest
            sizes that are), or an argument has a wrong length, is out of range or is not finite.

    Example:
        >>> network = MatterUNet()
        >>> sum(weight.shape.num_elements() for weight in network.trainable_weights)
        8562497
        >>> network(keras.ops.zeros((1, 64, 64, 1))).shape
        TensorShape([1, 64, 64, 1])

    Reference:
        Villanueva-Domingo & Villaescusa-Navarro 2021, ApJ 907, 44 (arXiv:2006.14305), section III and Table II.

    What the paper leaves open follows PyTorch, which the authors use: kernels and biases start uniform within
    1 / sqrt(fan-in), Keras would start the kernels wider (Glorot) and the biases at zero; a transposed
    convolution adds its input cell i and filter cell k to the output cell 2 i - 1 + k, one less than in Keras. One
    thing differs: PyTorch's running variance is that of the batch times n / (n - 1) for n cells, Keras's is not.

    Deviations from the paper: none with the defaults; ``padding="periodic"`` is ours. The text counts 15 units of
    convolution, batch normalisation and ReLU; its list of blocks (Table II) has 14 and a last bare convolution, and
    so has this network.
    """

    def __init__(
        self,
        map_shape=(None, None),
        in_channels=1,
        out_channels=1,
        *,
        widths=(64, 128, 256),
        kernel_size=3,
        padding="same",
        batch_normalization_momentum=0.9,
        batch_normalization_epsilon=1e-5,
        input_mean=0.0,
        input_standard_deviation=1.0,
        output_mean=0.0,
        output_standard_deviation=1.0,
        dtype=None,
        name="matter_unet",
        trainable=True,
    ):
        in_channels = arguments.positive_integer("in_channels", in_channels)
        out_channels = arguments.positive_integer("out_channels", out_channels)
        widths = arguments.positive_integers("widths", widths)
        map_shape = check_map_shape(map_shape, len(widths))
        kernel_size = arguments.odd_integer("kernel_size", kernel_size)
        padding = arguments.one_of("padding", padding, PADDINGS)
        momentum = arguments.fraction("batch_normalization_momentum", batch_normalization_momentum)
        epsilon = arguments.finite("batch_normalization_epsilon", batch_normalization_epsilon, positive=True)
        input_scale = channel_scale("input", input_mean, input_standard_deviation, in_channels, "input channel")
        output_scale = channel_scale("output", output_mean, output_standard_deviation, out_channels, "output channel")
        # Kept, so that a model loaded under another global policy is the one that was saved.
        policy = keras.dtype_policies.get(dtype)

        unit = functools.partial(
            convolution_unit,
            kernel_size=kernel_size,
            padding=padding,
            momentum=momentum,
            epsilon=epsilon,
            policy=policy,
        )
        maps = keras.Input((*map_shape, in_channels), dtype="float32", name="brightness_temp")
        x = normalization(*input_scale, name="input_normalization")(maps)
        x, skips = encode(x, widths, unit)
        for number in (1, 2):
            x = unit(x, 2 * widths[-1], block="bottleneck", number=number)
        for level in reversed(range(len(widths))):
            block = f"decoder_{level + 1}"
            x = _upsample(x, widths[level], kernel_size, padding, policy, block)
            x = layers.Concatenate(dtype=policy, name=f"{block}_concatenation")([x, skips[level]])
            for number in (1, 2):
                x = unit(x, widths[level], block=block, number=number)
        x = convolution(x, out_channels, kernel_size, padding, keras.DTypePolicy("float32"), name="output")
        density = normalization(*output_scale, invert=True, name="physical_units")(x)
        super().__init__(inputs=maps, outputs=density, name=name, trainable=trainable)

        self.map_shape = map_shape
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.widths = widths
        self.kernel_size = kernel_size
        self.padding = padding
        self.batch_normalization_momentum = momentum
        self.batch_normalization_epsilon = epsilon
        self.input_mean, self.input_standard_deviation = input_scale
        self.output_mean, self.output_standard_deviation = output_scale
        self.layer_dtype_policy = policy

    @property
    def encoder_layer_names(self) -> list[str]:
        """Names of the encoder's layers that have weights."""
        return encoder_layer_names(self)

    # Not in `call`: there Keras would add every cell of the maps to the message.
    def __call__(self, inputs, *args, **kwargs):
        """Overdensity maps of brightness-temperature maps, whose size is looked at first."""
        check_map_shape(tuple(getattr(inputs, "shape", (None,) * 4))[1:3], len(self.widths), argument="inputs")
        return super().__call__(inputs, *args, **kwargs)

    def get_config(self):
        """Constructor arguments as plain values; the dtype policy by its name, or as Keras serialises it."""
        return {
            "map_shape": self.map_shape,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "widths": self.widths,
            "kernel_size": self.kernel_size,
            "padding": self.padding,
            "batch_normalization_momentum": self.batch_normalization_momentum,
            "batch_normalization_epsilon": self.batch_normalization_epsilon,
            "input_mean": self.input_mean,
            "input_standard_deviation": self.input_standard_deviation,
            "output_mean": self.output_mean,
            "output_standard_deviation": self.output_standard_deviation,
            "dtype": arguments.policy_config(self.layer_dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }


def encode(x, widths, unit):
    """The encoder: per width two units and a 2 x 2 max pooling.

    Returns:
        The maps after the last pooling, and those before each pooling, finest grid first.
    """
    skips = []
    for level, width in enumerate(widths, start=1):
        for number in (1, 2):
            x = unit(x, width, block=f"encoder_{level}", number=number)
        skips.append(x)
        x = layers.MaxPooling2D(2, dtype=x.dtype, name=f"encoder_{level}_pooling")(x)
    return x, skips


def encoder_layer_names(model) -> list[str]:
    """Names of a network's encoder layers that have weights, in their order."""
    return [layer.name for layer in model.layers if layer.name.startswith("encoder_") and layer.weights]


def convolution_unit(
    x, filters, kernel_size, padding, momentum, epsilon, policy, *, block, number, strides=1, **options
):
    """Convolution, batch normalisation and ReLU; ``block`` and ``number`` make the names of the layers."""
    name = f"{block}_convolution_{number}"
    x = convolution(x, filters, kernel_size, padding, policy, name=name, strides=strides, **options)
    x = BatchNormalization(
        momentum=momentum, epsilon=epsilon, dtype=policy, name=f"{block}_batch_normalization_{number}"
    )(x)
    return layers.ReLU(dtype=policy, name=f"{block}_relu_{number}")(x)


def convolution(x, filters, kernel_size, padding, policy, *, name, strides=1, **options):
    """A convolution padded alike on both sides, as in PyTorch; Keras's "same" pads less in front with strides.

    It starts as in PyTorch, unless ``options``, further arguments of ``keras.layers.Conv2D``, say otherwise.
    """
    margin = kernel_size // 2
    explicit = margin > 0 and (padding == "periodic" or strides > 1)
    if explicit:
        pad = PeriodicPadding2D if padding == "periodic" else layers.ZeroPadding2D
        x = pad(margin, dtype=policy, name=f"{name}_padding")(x)
    return Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="valid" if explicit else "same",
        dtype=policy,
        name=name,
        **{**uniform_start(x.shape[-1] * kernel_size**2), **options},
    )(x)


def uniform_start(fan_in: int) -> dict:
    """Initializers of kernel and bias as in PyTorch: uniform within 1 / sqrt(fan-in)."""
    limit = 1 / math.sqrt(fan_in)
    return {
        "kernel_initializer": keras.initializers.RandomUniform(-limit, limit),
        "bias_initializer": keras.initializers.RandomUniform(-limit, limit),
    }


def normalization(mean, standard_deviation, *, name, invert=False):
    """Fixed normalisation of the last axis in float32: subtract the mean, divide by the deviation, or back."""
    return layers.Normalization(
        axis=-1,
        mean=list(mean),
        variance=[value**2 for value in standard_deviation],
        invert=invert,
        dtype="float32",
        name=name,
    )


def channel_scale(which, mean, standard_deviation, count, what):
    """The arguments ``<which>_mean`` and ``<which>_standard_deviation`` as ``count`` plain floats each."""
    return (
        arguments.finite_per_axis(f"{which}_mean", mean, count, what),
        arguments.finite_per_axis(f"{which}_standard_deviation", standard_deviation, count, what, positive=True),
    )


def check_map_shape(map_shape, num_poolings: int, argument: str = "map_shape") -> tuple:
    """`arguments.divisible_shape` for a number of poolings."""
    what, remedy = f"{num_poolings} poolings by 2", "use another number of `widths`"
    return arguments.divisible_shape(argument, map_shape, num_poolings, what=what, remedy=remedy)


def _upsample(x, filters, kernel_size, padding, policy, block):
    """Transposed convolution with stride 2, output cell = 2 * input cell - kernel_size // 2 + filter cell."""
    name = f"{block}_transposed_convolution"
    margin = kernel_size // 2
    before = after = 0
    if padding == "periodic":
        before, after = margin // 2, (margin + 1) // 2
        x = PeriodicPadding2D(((before, after),) * 2, dtype=policy, name=f"{name}_padding")(x)
    x = Conv2DTranspose(
        filters,
        kernel_size,
        strides=2,
        padding="valid",
        dtype=policy,
        name=name,
        # PyTorch takes the number of output channels for the fan-in of a transposed convolution.
        **uniform_start(filters * kernel_size**2),
    )(x)
    crop = (2 * before + margin, 2 * after + max(kernel_size - 2, 0) - margin)
    return Cropping2D((crop, crop), dtype=policy, name=f"{block}_cropping")(x)
