"""The parameter regression on the U-Net's encoder of Villanueva-Domingo & Villaescusa-Navarro (2021)."""

import functools

import keras
from keras import layers

from keras_cosmo.layers.dropout import Dropout
from keras_cosmo.models import arguments
from keras_cosmo.models.matter_unet import (
    PADDINGS,
    MatterUNet,
    channel_scale,
    check_map_shape,
    convolution_unit,
    encode,
    encoder_layer_names,
    normalization,
    uniform_start,
)


@keras.saving.register_keras_serializable("keras_cosmo")
class AstroNet(keras.Model):
    """Astrophysical parameters from a 21-cm map (Villanueva-Domingo & Villaescusa-Navarro 2021, Table III).

    The encoder of `MatterUNet` up to its last pooling; a unit (3 x 3 convolution, batch normalisation, ReLU)
    with stride 2 for each of ``widths``; flattening; a fully connected layer with ReLU and dropout; one neuron
    per parameter. The encoder is either trained along, or copied from a trained U-Net and kept fixed, to see what
    that one has learnt about astrophysics. With the defaults it has 18,226,683 trainable weights, 17,080,635
    with ``trainable_encoder=False``. It takes brightness temperature in mK and returns parameters in physical
    units: the scaling of both is part of the network (fixed, not trained) and saved with it.

    Args:
        map_shape: Shape ``(height, width)`` of the maps in cells, each divisible by ``2 ** len(encoder_widths)``.
            Defaults to the paper's (200, 200).
        in_channels: Number of input maps, such as redshifts. Defaults to 1.
        num_parameters: Number of parameters to predict. Defaults to 3.
        encoder_widths: Channels of the encoder's blocks, the ``widths`` of a `MatterUNet`.
        widths: Channels of the units with stride 2.
        kernel_size: Side of the square filters in cells, an odd number. Defaults to 3.
        dense_units: Neurons of the fully connected layer before the output. Defaults to 100.
        dropout: Fraction dropped after that layer. Defaults to 0.2.
        trainable_encoder: Whether the encoder is trained. If not, its batch normalisation uses the running mean and
            variance also in training. It can be changed later (attribute of the same name; compile again
            then) and is saved as it is.
        padding: "same" or "periodic", as in `MatterUNet`. Defaults to "same".
        batch_normalization_momentum: Share of the old running mean and variance that a training step keeps.
            Defaults to 0.9.
        batch_normalization_epsilon: Added to the variance. Defaults to 1e-5.
        input_mean, input_standard_deviation: Of the training maps, mK; one number, or one per input channel. For
            the encoder of a U-Net they must be those of the U-Net.
        output_mean, output_standard_deviation: The network's own output times the deviation plus the mean is the
            parameter; one number, or one per parameter. For parameters that the network sees scaled to
            [0, 1], as the authors', give the lower end of the range and its width. Defaults to 0 and 1.
        dtype: Dtype policy of the hidden layers, such as "mixed_bfloat16". None takes the global policy of the
            moment; a saved model keeps it, whatever the global policy is on loading. Scaling, statistics of batch
            normalisation and the output layer are float32 whatever the policy.
        name: Name of the model.
        trainable: Whether the weights are trained. Setting it later sets it for every layer, the encoder's too.
            Saved for the whole model and the encoder only: freeze other layers again after loading.

    Input shape:
        ``(batch, height, width, in_channels)``, brightness temperature in mK.

    Output shape:
        ``(batch, num_parameters)``, float32, physical units.

    Raises:
        ValueError: If a side of the maps is not divisible by ``2 ** len(encoder_widths)`` (the message gives the
            nearest sizes that are), or an argument has a wrong length, is out of range or is not finite.

    Example:
        >>> network = AstroNet((64, 64), input_mean=-100.0, input_standard_deviation=30.0, trainable_encoder=False)
        >>> network.copy_encoder(MatterUNet(input_mean=-100.0, input_standard_deviation=30.0))
        >>> network(keras.ops.zeros((1, 64, 64, 1))).shape
        TensorShape([1, 3])

    Reference:
        Villanueva-Domingo & Villaescusa-Navarro 2021, ApJ 907, 44 (arXiv:2006.14305), section IV.3 and Table III.

    Padding, start of the weights and batch normalisation follow PyTorch, as described for `MatterUNet`: a unit with
    stride 2 pads one cell on every side, so that 25 cells become 13, 7 and 4.

    Deviations from the paper: none with the defaults; ``padding="periodic"`` is ours.
    """

    def __init__(
        self,
        map_shape=(200, 200),
        in_channels=1,
        num_parameters=3,
        *,
        encoder_widths=(64, 128, 256),
        widths=(512, 1028, 1028),
        kernel_size=3,
        dense_units=100,
        dropout=0.2,
        trainable_encoder=True,
        padding="same",
        batch_normalization_momentum=0.9,
        batch_normalization_epsilon=1e-5,
        input_mean=0.0,
        input_standard_deviation=1.0,
        output_mean=0.0,
        output_standard_deviation=1.0,
        dtype=None,
        name="astro_net",
        trainable=True,
    ):
        in_channels = arguments.positive_integer("in_channels", in_channels)
        num_parameters = arguments.positive_integer("num_parameters", num_parameters)
        encoder_widths = arguments.positive_integers("encoder_widths", encoder_widths)
        map_shape = check_map_shape(map_shape, len(encoder_widths))
        if None in map_shape:
            raise ValueError(
                f"`map_shape`: the fully connected layer needs maps of one known size, got {map_shape}; give it."
            )
        widths = arguments.positive_integers("widths", widths)
        kernel_size = arguments.odd_integer("kernel_size", kernel_size)
        dense_units = arguments.positive_integer("dense_units", dense_units)
        dropout = arguments.fraction("dropout", dropout)
        padding = arguments.one_of("padding", padding, PADDINGS)
        momentum = arguments.fraction("batch_normalization_momentum", batch_normalization_momentum)
        epsilon = arguments.finite("batch_normalization_epsilon", batch_normalization_epsilon, positive=True)
        input_scale = channel_scale("input", input_mean, input_standard_deviation, in_channels, "input channel")
        output_scale = channel_scale("output", output_mean, output_standard_deviation, num_parameters, "parameter")
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
        x, _ = encode(x, encoder_widths, unit)
        for number, width in enumerate(widths, start=1):
            x = unit(x, width, block="regression", number=number, strides=2)
        x = layers.Flatten(dtype=policy, name="flatten")(x)
        x = layers.Dense(dense_units, "relu", dtype=policy, name="dense", **uniform_start(x.shape[-1]))(x)
        x = Dropout(dropout, dtype=policy, name="dropout")(x)
        x = layers.Dense(num_parameters, dtype="float32", name="output", **uniform_start(dense_units))(x)
        parameters = normalization(*output_scale, invert=True, name="physical_units")(x)
        super().__init__(inputs=maps, outputs=parameters, name=name, trainable=trainable)

        self.map_shape = map_shape
        self.in_channels = in_channels
        self.num_parameters = num_parameters
        self.encoder_widths = encoder_widths
        self.widths = widths
        self.kernel_size = kernel_size
        self.dense_units = dense_units
        self.dropout = dropout
        self.padding = padding
        self.batch_normalization_momentum = momentum
        self.batch_normalization_epsilon = epsilon
        self.input_mean, self.input_standard_deviation = input_scale
        self.output_mean, self.output_standard_deviation = output_scale
        self.layer_dtype_policy = policy
        # After `super().__init__`, which sets the flag of every layer.
        if not trainable_encoder:
            self.trainable_encoder = False

    @property
    def encoder_layer_names(self) -> list[str]:
        """Names of the encoder's layers that have weights, those of `MatterUNet.encoder_layer_names`."""
        return encoder_layer_names(self)

    @property
    def trainable_encoder(self) -> bool:
        """Whether any layer of the encoder is trained."""
        return any(self.get_layer(name).trainable for name in self.encoder_layer_names)

    @trainable_encoder.setter
    def trainable_encoder(self, value):
        for name in self.encoder_layer_names:
            self.get_layer(name).trainable = bool(value)

    def copy_encoder(self, matter_unet: MatterUNet) -> None:
        """Take over the encoder's weights, running means and variances of a `MatterUNet`.

        Values are copied: training one network afterwards, or freezing its encoder, leaves the other as it is.

        Args:
            matter_unet: The trained U-Net.

        Raises:
            TypeError: If ``matter_unet`` is not a `MatterUNet`.
            ValueError: If its encoder is another one, or it scales its input in another way; the message gives
                the arguments to build this network with.
        """
        if not isinstance(matter_unet, MatterUNet):
            raise TypeError(f"`matter_unet`: expected a MatterUNet, got {type(matter_unet).__name__}.")
        theirs = {
            "in_channels": matter_unet.in_channels,
            "encoder_widths": matter_unet.widths,
            "kernel_size": matter_unet.kernel_size,
            "padding": matter_unet.padding,
            "batch_normalization_epsilon": matter_unet.batch_normalization_epsilon,
            "input_mean": matter_unet.input_mean,
            "input_standard_deviation": matter_unet.input_standard_deviation,
        }
        ours = {name: getattr(self, name) for name in theirs}
        different = [name for name in theirs if ours[name] != theirs[name]]
        if different:
            here = ", ".join(f"{name}={ours[name]!r}" for name in different)
            there = ", ".join(f"{name}={theirs[name]!r}" for name in different)
            raise ValueError(
                f"`matter_unet`: its encoder fits only a network that agrees with it, but this AstroNet has {here}. "
                f"Build it with {there}."
            )
        for name in self.encoder_layer_names:
            self.get_layer(name).set_weights(matter_unet.get_layer(name).get_weights())

    def get_config(self):
        """Constructor arguments as plain values; the dtype policy by its name, or as Keras serialises it."""
        return {
            "map_shape": self.map_shape,
            "in_channels": self.in_channels,
            "num_parameters": self.num_parameters,
            "encoder_widths": self.encoder_widths,
            "widths": self.widths,
            "kernel_size": self.kernel_size,
            "dense_units": self.dense_units,
            "dropout": self.dropout,
            "trainable_encoder": self.trainable_encoder,
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
