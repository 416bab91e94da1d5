"""The two-layer convolutional network of Gillet et al. (2019)."""

import keras
from keras import layers

from keras_cosmo.layers.convolution import Conv2D
from keras_cosmo.layers.rectified_pooling import RectifiedMaxPooling2D
from keras_cosmo.models import arguments


@keras.saving.register_keras_serializable("keras_cosmo")
class LightconeRegressor(keras.Model):
    """Astrophysical parameters from a 21-cm light-cone image (Gillet et al. 2019, section 3.5 and Table 1).

    Two stages of convolution, ReLU and pooling, then fully connected layers of 64, 16, 8 and one neuron per
    parameter. With the defaults and ``map_shape=(100, 2200)`` it has 10,023,604 trainable weights, row by
    row those of Table 1. It takes brightness temperature in mK and returns parameters in physical units:
    the standardisation of both is part of the network (fixed, not trained) and saved with it. The ReLU of a stage is
    in the layer of its pooling, ``pooling_1`` or ``pooling_2``, where its gradient costs a quarter: a pooling of your
    own comes without ReLU, and to give a stage another activation you replace its convolution and its pooling.

    Args:
        map_shape: Shape ``(n_perp, n_los)`` of one image in cells. Defaults to the paper's (100, 2200).
        num_parameters: Number of parameters to predict. Defaults to 4.
        filters: Number of filters of each convolution.
        kernel_size: Side of the square filters in cells, "valid" padding. Defaults to 10.
        pool_size: Side of the max pooling. Defaults to 2.
        dense_units: Neurons of the fully connected layers before the output.
        dropout: Fraction dropped between flattening and the first fully connected layer, the one place
            where the paper has dropout. Defaults to 0.2.
        input_mean, input_standard_deviation: Of the training images, mK.
        output_mean, output_standard_deviation: Of the training parameters, one value each, in physical
            units. Defaults to 0 and 1, that is no scaling.
        dtype: Dtype policy of convolutions and hidden layers, such as "mixed_bfloat16". None takes the global
            policy of the moment; a saved model keeps it, whatever the global policy is on loading.
            Standardisation and the output layer are float32 whatever the policy.
        name: Name of the model.
        trainable: Whether the weights are trained. Saved for the whole model only: layers frozen one by one are
            not frozen any more after saving and loading, so freeze them again.

    Input shape:
        ``(batch, n_perp, n_los)``, brightness temperature in mK, line of sight last, lowest redshift first.

    Output shape:
        ``(batch, num_parameters)``, float32, physical units.

    Raises:
        ValueError: If the image is too small for the convolutions (the message gives the minimum), or an
            argument has a wrong length, is out of range or is not finite.

    Example:
        >>> network = LightconeRegressor()
        >>> sum(weight.shape.num_elements() for weight in network.trainable_weights)
        10023604

    Reference:
        Gillet, Mesinger, Greig, Liu & Ucci 2019, MNRAS 484, 282 (arXiv:1805.02699).

    Deviations from the paper: it does not say how images and parameters were scaled; here both are
    standardised with the mean and standard deviation of the training part. It does not place the
    activation relative to batch normalisation; here it comes before, as the order of Table 1 suggests.
    """

    def __init__(
        self,
        map_shape=(100, 2200),
        num_parameters=4,
        *,
        filters=(8, 16),
        kernel_size=10,
        pool_size=2,
        dense_units=(64, 16, 8),
        dropout=0.2,
        input_mean=0.0,
        input_standard_deviation=1.0,
        output_mean=None,
        output_standard_deviation=None,
        dtype=None,
        name="lightcone_regressor",
        trainable=True,
    ):
        num_parameters = arguments.positive_integer("num_parameters", num_parameters)
        kernel_size = arguments.positive_integer("kernel_size", kernel_size)
        pool_size = arguments.positive_integer("pool_size", pool_size)
        filters = arguments.positive_integers("filters", filters)
        dense_units = arguments.positive_integers("dense_units", dense_units)
        map_shape = arguments.positive_integers("map_shape", map_shape)
        check_map_shape(map_shape, len(filters), kernel_size, pool_size)
        dropout = arguments.fraction("dropout", dropout)
        input_mean = arguments.finite("input_mean", input_mean)
        input_standard_deviation = arguments.finite("input_standard_deviation", input_standard_deviation, positive=True)
        output_mean = _one_per_parameter("output_mean", output_mean, num_parameters)
        output_standard_deviation = _one_per_parameter(
            "output_standard_deviation", output_standard_deviation, num_parameters, positive=True
        )
        # Kept, so that a model loaded under another global policy is the one that was saved.
        policy = keras.dtype_policies.get(dtype)

        images = keras.Input(map_shape, dtype="float32", name="brightness_temp")
        x = layers.Normalization(
            axis=None,
            mean=input_mean,
            variance=input_standard_deviation**2,
            dtype="float32",
            name="input_normalization",
        )(images)
        x = layers.Reshape((*map_shape, 1), dtype="float32", name="channel")(x)
        for index, count in enumerate(filters, start=1):
            x = Conv2D(count, kernel_size, dtype=policy, name=f"convolution_{index}")(x)
            x = RectifiedMaxPooling2D(pool_size, dtype=policy, name=f"pooling_{index}")(x)
        x = layers.Flatten(dtype=policy, name="flatten")(x)
        x = layers.Dropout(dropout, dtype=policy, name="dropout")(x)
        for index, units in enumerate(dense_units, start=1):
            x = layers.Dense(units, activation="relu", dtype=policy, name=f"dense_{index}")(x)
            if index == 1:
                x = layers.BatchNormalization(dtype=policy, name="batch_normalization")(x)
        x = layers.Dense(num_parameters, dtype="float32", name="output")(x)
        parameters = layers.Normalization(
            axis=-1,
            mean=[0.0] * num_parameters if output_mean is None else output_mean,
            variance=[value**2 for value in output_standard_deviation or [1.0] * num_parameters],
            invert=True,
            dtype="float32",
            name="physical_units",
        )(x)
        super().__init__(inputs=images, outputs=parameters, name=name, trainable=trainable)

        self.map_shape = map_shape
        self.num_parameters = num_parameters
        self.filters = filters
        self.kernel_size = kernel_size
        self.pool_size = pool_size
        self.dense_units = dense_units
        self.dropout = dropout
        self.input_mean = input_mean
        self.input_standard_deviation = input_standard_deviation
        self.output_mean = output_mean
        self.output_standard_deviation = output_standard_deviation
        self.layer_dtype_policy = policy

    def get_config(self):
        """Constructor arguments as plain values; the dtype policy by its name, or as Keras serialises it."""
        policy = self.layer_dtype_policy
        plain = type(policy) is keras.dtype_policies.DTypePolicy
        return {
            "map_shape": self.map_shape,
            "num_parameters": self.num_parameters,
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "pool_size": self.pool_size,
            "dense_units": self.dense_units,
            "dropout": self.dropout,
            "input_mean": self.input_mean,
            "input_standard_deviation": self.input_standard_deviation,
            "output_mean": _plain(self.output_mean),
            "output_standard_deviation": _plain(self.output_standard_deviation),
            "dtype": policy.name if plain else keras.dtype_policies.serialize(policy),
            "name": self.name,
            "trainable": self.trainable,
        }


def minimum_map_side(num_stages: int, kernel_size: int, pool_size: int) -> int:
    """Smallest image side in cells that leaves one cell after ``num_stages`` valid convolutions + poolings."""
    side = 1
    for _ in range(num_stages):
        side = side * pool_size + kernel_size - 1
    return side


def check_map_shape(map_shape, num_stages: int, kernel_size: int, pool_size: int) -> None:
    """Raise ``ValueError`` if an image of ``map_shape`` cells does not survive the convolutions."""
    minimum = minimum_map_side(num_stages, kernel_size, pool_size)
    if len(tuple(map_shape)) != 2 or min(map_shape) < minimum:
        raise ValueError(
            f"`map_shape`: {num_stages} convolutions of {kernel_size} x {kernel_size} cells, each followed by pooling "
            f"by {pool_size}, need images (n_perp, n_los) of at least {minimum} cells a side, got {tuple(map_shape)}. "
            "Use larger maps, or a smaller kernel size."
        )


def _one_per_parameter(argument, values, num_parameters, positive=False):
    if values is None:
        return None
    values = list(values) if hasattr(values, "__len__") and getattr(values, "ndim", 1) else [values]
    if len(values) != num_parameters:
        raise ValueError(f"`{argument}`: expected {num_parameters} values, one per parameter, got {len(values)}.")
    return [arguments.finite(argument, value, positive) for value in values]


def _plain(values):
    # Keras wraps lists that are attributes of a model.
    return None if values is None else list(values)
