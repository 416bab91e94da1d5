"""A network that predicts the posterior mean and standard deviation of each parameter from a map."""

import math

import keras
import numpy as np
from keras import layers, ops

from keras_cosmo.layers.periodic_padding import PeriodicPadding2D
from keras_cosmo.models import arguments


@keras.saving.register_keras_serializable("keras_cosmo")
class MomentNetwork(keras.Model):
    """Posterior mean and standard deviation of each parameter given a periodic map (Jeffrey & Wandelt 2020).

    The network sees log10 of the map, normalised. For each of ``widths`` there is a 3 x 3 convolution with periodic
    padding, leaky ReLU (slope 0.2) and 2 x 2 average pooling; then the average over the cells that are left, batch
    normalisation, a dense layer with leaky ReLU and two neurons per parameter. With the defaults and two parameters
    it has 105,924 trainable weights and takes 64 x 64 maps through an epoch at about 550 per second of one core. The
    prediction does not change when a map is rolled by ``2 ** len(widths)`` cells. Train it with
    `keras_cosmo.losses.MomentLoss`: then what it predicts are mean and standard deviation of the posterior under the
    distribution of the training parameters, without any likelihood, to set beside those of a flow. The normalisation
    of the maps and the ranges of the parameters are part of the network (fixed, not trained) and saved with it.

    Args:
        map_shape: Shape ``(height, width)`` of the maps in cells, each divisible by ``2 ** len(widths)``.
        parameter_names: Names of the parameters, in their order, such as ("Omega_m", "sigma_8").
        parameter_low, parameter_high: Range of each parameter's prior. A network that has learnt nothing predicts
            about its centre and its standard deviation, ``(high - low) / sqrt(12)``.
        input_mean, input_standard_deviation: Of log10 of the training maps. Defaults to 0 and 1.
        minimum: Smaller values, zero and negative ones too, are taken for this one before the logarithm. Unit of the
            maps. Defaults to 1e-10.
        widths: Channels of the convolutions. Defaults to (16, 32, 64, 128).
        dense_units: Neurons of the dense layer. Defaults to 64.
        batch_normalization_momentum: Share of the old running mean and variance that a training step keeps.
            Defaults to 0.9.
        batch_normalization_epsilon: Added to the variance. Defaults to 1e-5.
        seed: Integer from which the seeds of the starting weights follow. Defaults to None, which takes them from
            Keras (``keras.utils.set_random_seed``).
        dtype: Dtype policy of the hidden layers, such as "mixed_bfloat16". None takes the global policy of the
            moment; a saved model keeps it, whatever the global policy is on loading. Logarithm, normalisation and
            output are float32 whatever the policy.
        name: Name of the model.
        trainable: Whether the weights are trained.

    Input shape:
        ``(batch, height, width)``, physical units.

    Output shape:
        ``(batch, 2 * parameters)``, float32, physical units: first the means, then the standard deviations, in the
        order of ``parameter_names``. `moments` gives them one by one.

    Raises:
        ValueError: If a side of the maps is not divisible by ``2 ** len(widths)`` (the message gives the nearest
            sizes that are), or an argument has a wrong length, is out of range or is not finite.

    Example:
        >>> network = MomentNetwork((64, 64), ("Omega_m", "sigma_8"), (0.1, 0.6), (0.5, 1.0), input_mean=4.8)
        >>> network(keras.ops.ones((2, 64, 64))).shape
        TensorShape([2, 4])

    Reference:
        Jeffrey & Wandelt 2020 (arXiv:2011.05991); Villaescusa-Navarro et al. 2022, ApJS 259, 61 (arXiv:2109.10915),
        who train such networks on maps of CAMELS.

    Friedman & Hassan (2022) have no such network; it is ours. Deviations from Villaescusa-Navarro et al.: one
    convolution per size of the maps instead of three, average pooling instead of convolutions with stride 2, an
    average over cells instead of a convolution over all that are left, batch normalisation of that average only, no
    dropout, and standard deviations kept positive by a softplus. It is small enough for one core.
    """

    def __init__(
        self,
        map_shape,
        parameter_names,
        parameter_low,
        parameter_high,
        *,
        input_mean=0.0,
        input_standard_deviation=1.0,
        minimum=1e-10,
        widths=(16, 32, 64, 128),
        dense_units=64,
        batch_normalization_momentum=0.9,
        batch_normalization_epsilon=1e-5,
        seed=None,
        dtype=None,
        name="moment_network",
        trainable=True,
    ):
        widths = arguments.positive_integers("widths", widths)
        map_shape = _check_map_shape(map_shape, len(widths))
        parameter_names = arguments.layer_names("parameter_names", parameter_names)
        count = len(parameter_names)
        low = arguments.finite_per_axis("parameter_low", parameter_low, count, "parameter")
        high = arguments.finite_per_axis("parameter_high", parameter_high, count, "parameter")
        if not all(first < last for first, last in zip(low, high, strict=True)):
            raise ValueError(f"`parameter_high`: expected values above `parameter_low`, got {high} above {low}.")
        input_mean = arguments.finite("input_mean", input_mean)
        input_deviation = arguments.finite("input_standard_deviation", input_standard_deviation, positive=True)
        minimum = arguments.finite("minimum", minimum, positive=True)
        dense_units = arguments.positive_integer("dense_units", dense_units)
        momentum = arguments.fraction("batch_normalization_momentum", batch_normalization_momentum)
        epsilon = arguments.finite("batch_normalization_epsilon", batch_normalization_epsilon, positive=True)
        seeds = arguments.layer_seeds(seed)
        # Kept, so that a model loaded under another global policy is the one that was saved.
        policy = keras.dtype_policies.get(dtype)

        def start():
            return keras.initializers.HeNormal(next(seeds))

        maps = keras.Input(map_shape, dtype="float32", name="maps")
        x = ops.log10(ops.maximum(maps, minimum))
        x = layers.Rescaling(1.0 / input_deviation, -input_mean / input_deviation, dtype="float32", name="scaling")(x)
        x = layers.Reshape((*map_shape, 1), dtype="float32", name="channel")(x)
        for level, width in enumerate(widths, start=1):
            x = PeriodicPadding2D(1, dtype=policy, name=f"padding_{level}")(x)
            x = layers.Conv2D(width, 3, kernel_initializer=start(), dtype=policy, name=f"convolution_{level}")(x)
            x = layers.LeakyReLU(0.2, dtype=policy, name=f"activation_{level}")(x)
            x = layers.AveragePooling2D(2, dtype=policy, name=f"pooling_{level}")(x)
        x = layers.GlobalAveragePooling2D(dtype=policy, name="average")(x)
        # Averages of leaky ReLUs vary little between maps: without this the network learns far more slowly.
        x = layers.BatchNormalization(momentum=momentum, epsilon=epsilon, dtype=policy, name="batch_normalization")(x)
        x = layers.Dense(dense_units, kernel_initializer=start(), dtype=policy, name="dense")(x)
        x = layers.LeakyReLU(0.2, dtype=policy, name="dense_activation")(x)
        mean = layers.Dense(
            count, kernel_initializer=keras.initializers.GlorotUniform(next(seeds)), dtype="float32", name="mean"
        )(x)
        # softplus(0.5413) = 1: the untrained network predicts the prior's standard deviation.
        deviation = layers.Dense(
            count,
            "softplus",
            kernel_initializer=keras.initializers.GlorotUniform(next(seeds)),
            bias_initializer=keras.initializers.Constant(math.log(math.e - 1.0)),
            dtype="float32",
            name="standard_deviation",
        )(x)
        prior = [(last - first) / math.sqrt(12.0) for first, last in zip(low, high, strict=True)]
        centre = [(last + first) / 2 for first, last in zip(low, high, strict=True)]
        values = layers.Concatenate(dtype="float32", name="network_units")([mean, deviation])
        outputs = layers.Rescaling(2 * prior, [*centre, *([0.0] * count)], dtype="float32", name="physical_units")(
            values
        )
        super().__init__(inputs=maps, outputs=outputs, name=name, trainable=trainable)

        self.map_shape = map_shape
        self.parameter_names = parameter_names
        self.parameter_low = low
        self.parameter_high = high
        self.input_mean = input_mean
        self.input_standard_deviation = input_deviation
        self.minimum = minimum
        self.widths = widths
        self.dense_units = dense_units
        self.batch_normalization_momentum = momentum
        self.batch_normalization_epsilon = epsilon
        self.seed = None if seed is None else int(seed)
        self.layer_dtype_policy = policy

    @property
    def prior_standard_deviation(self) -> tuple[float, ...]:
        """Standard deviation of each parameter's uniform prior, for `keras_cosmo.losses.MomentLoss`."""
        pairs = zip(self.parameter_low, self.parameter_high, strict=True)
        return tuple((high - low) / math.sqrt(12.0) for low, high in pairs)

    def moments(self, maps, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """Posterior means and standard deviations of maps.

        Args:
            maps: ``(n, height, width)``, physical units.
            batch_size: Maps at a time.

        Returns:
            Means and standard deviations, NumPy arrays ``(n, parameters)`` each, physical units.
        """
        values = self.predict(maps, batch_size=batch_size, verbose=0)
        return values[:, : len(self.parameter_names)], values[:, len(self.parameter_names) :]

    def get_config(self):
        """Constructor arguments as plain values; the dtype policy by its name, or as Keras serialises it."""
        return {
            "map_shape": self.map_shape,
            "parameter_names": self.parameter_names,
            "parameter_low": self.parameter_low,
            "parameter_high": self.parameter_high,
            "input_mean": self.input_mean,
            "input_standard_deviation": self.input_standard_deviation,
            "minimum": self.minimum,
            "widths": self.widths,
            "dense_units": self.dense_units,
            "batch_normalization_momentum": self.batch_normalization_momentum,
            "batch_normalization_epsilon": self.batch_normalization_epsilon,
            "seed": self.seed,
            "dtype": arguments.policy_config(self.layer_dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }


def _check_map_shape(map_shape, halvings: int) -> tuple[int, int]:
    what, remedy = f"{halvings} poolings by 2", "use another number of `widths`"
    sides = arguments.divisible_shape("map_shape", map_shape, halvings, what=what, remedy=remedy)
    if None in sides:
        raise ValueError(f"`map_shape`: expected the size of the maps, got {sides}; give both sides.")
    return sides
