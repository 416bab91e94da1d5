"""The U-Net of Zhang et al. (2019): from the velocity cube of Galactic HI to a map of dust."""

import keras
from keras import layers

from keras_cosmo.layers.dropout import Dropout
from keras_cosmo.layers.transposed_convolution import Conv2DTranspose
from keras_cosmo.models import arguments
from keras_cosmo.models.matter_unet import check_map_shape, convolution, convolution_unit, encode

KERNEL_SIZE = 3


@keras.saving.register_keras_serializable("keras_cosmo")
class DustUNet(keras.Model):
    """Intensity of thermal dust from the velocity channels of HI (Zhang et al. 2019, section 2.3 and figure 2).

    A unit is a 3 x 3 convolution, batch normalisation, ReLU and dropout. The encoder has one block of two units and a
    2 x 2 max pooling for each of ``widths``; two units of the width ``bottleneck`` follow; then, from the coarsest
    grid to the finest, a transposed convolution (2 x 2, stride 2) to the width of that grid, concatenation with what
    the encoder had there before pooling (upsampled channels first) and two units. A last 1 x 1 convolution without
    activation gives the map. With the defaults the network has 31,072,769 trainable weights, and 11,776 running means
    and variances.

    It has no dense layer, so that one network takes cutouts of any size divisible by ``2 ** len(widths)``. The scales
    of input and output are part of the network (fixed, not trained) and saved with it. The input is divided by its
    scale and nothing is subtracted: a masked pixel, 0 in every channel, stays 0.

    Args:
        in_channels: Number of velocity channels. Defaults to 64, the paper's.
        map_shape: Shape ``(height, width)`` of the cutouts in pixels, None for any size. Defaults to any size.
        widths: Channels of the encoder's blocks, from the finest grid to the coarsest. Defaults to
            (64, 128, 256, 512): the paper has four blocks, their widths are in its figure only.
        bottleneck: Channels of the coarsest grid. Defaults to 1024.
        dropout: Share of the values that every unit drops in training. Defaults to 0.3 (figure 2).
        input_scale: By which the input is divided, K; one number, or one per velocity channel, such as the standard
            deviation of the training sky. Defaults to 1.
        output_scale: By which the network's own output is multiplied, uK_RJ, such as the standard deviation of the
            training dust. Defaults to 1.
        batch_normalization_momentum: Share of the old running mean and variance that a training step keeps.
            Defaults to 0.99, as in Keras; the paper gives none.
        batch_normalization_epsilon: Added to the variance. Defaults to 1e-3, as in Keras; the paper gives none.
        seed: Integer from which the seeds of the starting weights and of dropout follow. Defaults to None, which
            takes them from Keras (``keras.utils.set_random_seed``).
        dtype: Dtype policy of the hidden layers, such as "mixed_bfloat16". None takes the global policy of the
            moment; a saved model keeps it, whatever the global policy is on loading. Scaling, statistics of batch
            normalisation and the last convolution are float32 whatever the policy.
        name: Name of the model.
        trainable: Whether the weights are trained. Saved for the whole model only: layers frozen one by one are
            not frozen any more after saving and loading, so freeze them again.

    Input shape:
        ``(batch, height, width, in_channels)``, HI brightness temperature times mask, K.

    Output shape:
        ``(batch, height, width, 1)``, float32, dust intensity, uK_RJ. It is not multiplied by the mask.

    Raises:
        ValueError: If a side of the cutouts is not divisible by ``2 ** len(widths)`` (the message gives the nearest
            sizes that are), or an argument has a wrong length, is out of range or is not finite.

    Example:
        >>> network = DustUNet(in_channels=8, widths=(8, 16), bottleneck=32, output_scale=300.0)
        >>> network(keras.ops.zeros((1, 64, 64, 8))).shape
        TensorShape([1, 64, 64, 1])

    Reference:
        Zhang, Chiang, Sheehy, Slosar & Wang 2019 (arXiv:1904.13265), section 2.3 and figure 2; after Ronneberger,
        Fischer & Brox 2015 (arXiv:1505.04597).

    What the paper leaves open follows Keras: kernels start uniform after Glorot & Bengio (2010), biases at zero.

    Assumptions: widths and bottleneck; the last 1 x 1 convolution, which the text does not mention but a map of one
    channel needs; the order of transposed convolution and concatenation, that of the original U-Net (the text names
    the concatenation first); the fixed scales. Deviation: a convolution that batch normalisation follows has no bias.
    It would be taken away at once, so that in training it has no gradient; with them there were 5,888 weights more.
    """

    def __init__(
        self,
        in_channels=64,
        map_shape=(None, None),
        *,
        widths=(64, 128, 256, 512),
        bottleneck=1024,
        dropout=0.3,
        input_scale=1.0,
        output_scale=1.0,
        batch_normalization_momentum=0.99,
        batch_normalization_epsilon=1e-3,
        seed=None,
        dtype=None,
        name="dust_unet",
        trainable=True,
    ):
        in_channels = arguments.positive_integer("in_channels", in_channels)
        widths = arguments.positive_integers("widths", widths)
        bottleneck = arguments.positive_integer("bottleneck", bottleneck)
        map_shape = check_map_shape(map_shape, len(widths))
        dropout = arguments.fraction("dropout", dropout)
        input_scale = arguments.finite_per_axis(
            "input_scale", input_scale, in_channels, "velocity channel", positive=True
        )
        output_scale = arguments.finite("output_scale", output_scale, positive=True)
        momentum = arguments.fraction("batch_normalization_momentum", batch_normalization_momentum)
        epsilon = arguments.finite("batch_normalization_epsilon", batch_normalization_epsilon, positive=True)
        seeds = arguments.layer_seeds(seed)
        # Kept, so that a model loaded under another global policy is the one that was saved.
        policy = keras.dtype_policies.get(dtype)

        def unit(x, filters, *, block, number):
            x = convolution_unit(
                x,
                filters,
                KERNEL_SIZE,
                "same",
                momentum,
                epsilon,
                policy,
                block=block,
                number=number,
                use_bias=False,
                kernel_initializer=keras.initializers.GlorotUniform(next(seeds)),
            )
            return Dropout(dropout, seed=next(seeds), dtype=policy, name=f"{block}_dropout_{number}")(x)

        maps = keras.Input((*map_shape, in_channels), dtype="float32", name="brightness_temp")
        shares = [1.0 / scale for scale in input_scale]
        x = layers.Rescaling(shares, dtype="float32", name="network_units")(maps)
        x, skips = encode(x, widths, unit)
        for number in (1, 2):
            x = unit(x, bottleneck, block="bottleneck", number=number)
        for level in reversed(range(len(widths))):
            block = f"decoder_{level + 1}"
            x = Conv2DTranspose(
                widths[level],
                2,
                strides=2,
                kernel_initializer=keras.initializers.GlorotUniform(next(seeds)),
                dtype=policy,
                name=f"{block}_transposed_convolution",
            )(x)
            x = layers.Concatenate(dtype=policy, name=f"{block}_concatenation")([x, skips[level]])
            for number in (1, 2):
                x = unit(x, widths[level], block=block, number=number)
        x = convolution(
            x,
            1,
            1,
            "same",
            keras.DTypePolicy("float32"),
            name="output",
            kernel_initializer=keras.initializers.GlorotUniform(next(seeds)),
            bias_initializer="zeros",
        )
        dust = layers.Rescaling(output_scale, dtype="float32", name="physical_units")(x)
        super().__init__(inputs=maps, outputs=dust, name=name, trainable=trainable)

        self.in_channels = in_channels
        self.map_shape = map_shape
        self.widths = widths
        self.bottleneck = bottleneck
        self.dropout = dropout
        self.input_scale = input_scale
        self.output_scale = output_scale
        self.batch_normalization_momentum = momentum
        self.batch_normalization_epsilon = epsilon
        self.seed = None if seed is None else int(seed)
        self.layer_dtype_policy = policy

    # Not in `call`: there Keras would add every pixel of the cutouts to the message.
    def __call__(self, inputs, *args, **kwargs):
        """Dust maps of cutouts, whose size is looked at first."""
        check_map_shape(tuple(getattr(inputs, "shape", (None,) * 4))[1:3], len(self.widths), argument="inputs")
        return super().__call__(inputs, *args, **kwargs)

    def get_config(self):
        """Constructor arguments as plain values; the dtype policy by its name, or as Keras serialises it."""
        return {
            "in_channels": self.in_channels,
            "map_shape": self.map_shape,
            "widths": self.widths,
            "bottleneck": self.bottleneck,
            "dropout": self.dropout,
            "input_scale": self.input_scale,
            "output_scale": self.output_scale,
            "batch_normalization_momentum": self.batch_normalization_momentum,
            "batch_normalization_epsilon": self.batch_normalization_epsilon,
            "seed": self.seed,
            "dtype": arguments.policy_config(self.layer_dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }
