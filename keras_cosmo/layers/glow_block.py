"""Weights of the flow steps of one block."""

import math
import random

import keras
import numpy as np
import scipy.linalg
from keras import ops

from keras_cosmo.bijectors.activation_normalization import ActivationNormalization
from keras_cosmo.bijectors.glow_steps import GlowSteps

INJECTORS = ("scalar", "channel", "convolutional")
LARGEST_LOG_SCALE = 5.0


@keras.saving.register_keras_serializable("keras_cosmo")
class GlowBlock(keras.layers.Layer):
    """The flow steps of one block on one grid; owns their weights, stacked over the steps (Friedman & Hassan 2022).

    A step is an affine injector, an invertible 1 x 1 convolution and a conditional affine coupling (section 2.2 and
    figure 1-C); what they compute is said at `GlowSteps`. The networks of the injectors are, with ``injector``

    - "scalar": as the paper has it, one MLP for the scale and one for the shift, each from the parameters over one
      hidden layer to a scalar, the same for all channels and pixels;
    - "channel": the same with one output per channel;
    - "convolutional": as in the authors' public code, one network of three convolutions (3 x 3, 1 x 1, 3 x 3) on
      constant maps of the parameters, with one scale and one shift per channel, which differ near the edges of the
      maps. It is computed on 5 x 5 pixels, which is the same as on the whole map (`border_classes`).

    The logarithm of an injector's scale is kept within -5 and 5, as in the code (there clipped, here by a tanh).

    Args:
        channels: Channels of the maps, an even number.
        map_shape: ``(height, width)`` of the maps as the steps see them, after squeezing.
        n_parameters: Number of parameters.
        steps: Number of steps. Defaults to 20 (section 3).
        width: Width of the hidden layers. Defaults to 16 (section 3).
        injector: See above. Defaults to "scalar".
        smallest_scale: Lower bound of the scale of the couplings. Defaults to 0.5 (public code).
        seed: Integer from which the starting weights follow. Defaults to None, which takes one from Python's
            ``random``, as Keras does.
        dtype: "float64", or anything else for float32: log-determinants need it.
        name: Name of the layer.

    Call:
        ``layer(maps, parameters)`` with maps ``(n * batch, height, width, channels)`` and parameters ``(batch,
        n_parameters)``, about -1 to 1, returns latent variables of the shape of the maps and log-determinants ``(n *
        batch,)``. ``layer.bijector(parameters)`` is the same in both directions.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> layer = GlowBlock(4, (8, 8), n_parameters=2, steps=3)
        >>> latent, log_determinant = layer(keras.ops.ones((5, 8, 8, 4)), keras.ops.zeros((5, 2)))
        >>> latent.shape, log_determinant.shape
        (TensorShape([5, 8, 8, 4]), TensorShape([5]))

    Reference:
        Friedman & Hassan 2022 (arXiv:2211.12724); Kingma & Dhariwal 2018 (arXiv:1807.03039).

    Starting weights, after the public code: random rotations as convolutions; kernels normal with standard deviation
    0.05, the last one of every network 0, biases 0. The MLPs, which that code does not have, start after He et al.
    (2015) and 0 in their last layer. Deviations from the code: the last convolution of a coupling pads with 0, not 1,
    and has no further factor per channel; on maps of one pixel kernels have one pixel, as the others would see padding
    alone.
    """

    def __init__(
        self,
        channels,
        map_shape,
        n_parameters,
        steps=20,
        width=16,
        injector="scalar",
        smallest_scale=0.5,
        seed=None,
        dtype=None,
        name=None,
        **kwargs,
    ):
        policy = keras.dtype_policies.get(dtype)
        super().__init__(dtype="float64" if policy.variable_dtype == "float64" else "float32", name=name, **kwargs)
        for argument, value in {
            "channels": channels,
            "n_parameters": n_parameters,
            "steps": steps,
            "width": width,
        }.items():
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"`{argument}`: expected an integer of at least 1, got {value!r}.")
        if channels % 2:
            raise ValueError(f"`channels`: a coupling halves them; expected an even number, got {channels}.")
        if injector not in INJECTORS:
            raise ValueError(f"`injector`: expected one of {list(INJECTORS)}, got {injector!r}.")
        if not 0 <= smallest_scale < 1:
            raise ValueError(f"`smallest_scale`: expected from 0 up to, but not including, 1, got {smallest_scale!r}.")
        self.channels, self.n_parameters = int(channels), int(n_parameters)
        self.map_shape = tuple(int(side) for side in map_shape)
        self.steps, self.width = int(steps), int(width)
        self.injector, self.smallest_scale = injector, float(smallest_scale)
        self.seed = seed
        # Squeezing and steps run in TensorFlow graphs; XLA is far slower with small convolutions on a CPU.
        self.supports_jit = False
        self.build()

    def build(self, *_):
        """Make the weights, which do not depend on the inputs."""
        if self.built:
            return
        generator = np.random.default_rng(random.randrange(2**31) if self.seed is None else self.seed)
        channels, width, inputs = self.channels, self.width, self.n_parameters
        side = 1 if self.map_shape == (1, 1) else 3
        if self.injector == "convolutional":
            self._injector = self._network("injector", side, inputs, 2 * channels, generator)
        else:
            outputs = channels if self.injector == "channel" else 1
            hidden = generator.normal(0.0, math.sqrt(2.0 / inputs), (self.steps, 2, inputs, width))
            self._injector = [
                self._weight("injector_hidden_kernel", hidden),
                self._weight("injector_hidden_bias", np.zeros((self.steps, 2, width))),
                self._weight("injector_kernel", np.zeros((self.steps, 2, width, outputs))),
                self._weight("injector_bias", np.zeros((self.steps, 2, outputs))),
            ]
        factors = [lu_factors(channels, generator) for _ in range(self.steps)]
        permutation, lower, upper, sign, log_diagonal = (np.stack(values) for values in zip(*factors, strict=True))
        # Below the diagonal the one factor, above it the other.
        triangles = self._weight("triangles", lower + upper)
        self._convolution = [
            self._weight("permutation", permutation, trainable=False),
            triangles,
            triangles,
            self._weight("sign", sign, trainable=False),
            self._weight("log_diagonal", log_diagonal),
        ]
        self._coupling = self._network("coupling", side, channels // 2 + inputs, channels, generator)
        self.built = True

    def _weight(self, name, values, trainable=True):
        return self.add_weight(
            shape=values.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(values.astype(dtype or self.variable_dtype)),
            trainable=trainable,
            name=name,
        )

    def _network(self, name, side, inputs, outputs, generator):
        """Weights of a 3 x 3, a 1 x 1 and a 3 x 3 convolution (or all 1 x 1)."""
        steps, width = self.steps, self.width
        values = {
            "kernel_1": generator.normal(0.0, 0.05, (steps, side, side, inputs, width)),
            "bias_1": np.zeros((steps, width)),
            "kernel_2": generator.normal(0.0, 0.05, (steps, 1, 1, width, width)),
            "bias_2": np.zeros((steps, width)),
            "kernel_3": np.zeros((steps, side, side, width, outputs)),
            "bias_3": np.zeros((steps, outputs)),
        }
        return [self._weight(f"{name}_{key}", value) for key, value in values.items()]

    def bijector(self, parameters) -> GlowSteps:
        """The steps as a bijector, for these parameters ``(batch, n_parameters)``."""
        parameters = ops.convert_to_tensor(parameters, dtype=self.variable_dtype)
        return self._steps(parameters)

    def call(self, maps, parameters):
        """Latent variables of maps, and their log-determinants."""
        bijector = self.bijector(parameters)
        return bijector.inverse(maps), bijector.inverse_log_det_jacobian(maps, event_ndims=3)

    def start_from(self, maps, parameters):
        """Set the biases of the injectors so that behind every injector these maps have mean 0 and variance 1.

        The data-dependent start of Glow (Kingma & Dhariwal 2018, section 3.1): for "scalar" over all channels
        together, else channel by channel.

        Args:
            maps: ``(batch, height, width, channels)``.
            parameters: ``(batch, n_parameters)``.

        Returns:
            Latent variables of the maps.

        Raises:
            ValueError: If the injectors have been trained already, or the maps are constant.
        """
        kernel, bias = self._injector[-2:]
        if np.any(ops.convert_to_numpy(kernel)):
            raise ValueError(f"{self.name}: the injectors have been trained already; start from a new model.")
        maps = ops.convert_to_tensor(maps, dtype=self.variable_dtype)
        parameters = ops.convert_to_tensor(parameters, dtype=self.variable_dtype)
        values = np.zeros(bias.shape)
        for index in range(self.steps):
            start = ActivationNormalization.starting_values(maps, per_channel=self.injector != "scalar")
            log_scale, shift = (ops.convert_to_numpy(value) for value in start)
            # Where the bound of the scale allows it.
            bounded = np.clip(log_scale, -0.98 * LARGEST_LOG_SCALE, 0.98 * LARGEST_LOG_SCALE)
            raw = LARGEST_LOG_SCALE * np.arctanh(bounded / LARGEST_LOG_SCALE)
            shift = shift * np.exp(bounded - log_scale)
            values[index] = np.reshape([raw, shift], bias.shape[1:])
            bias.assign(values)
            maps = self._steps(parameters, slice(index, index + 1)).inverse(maps)
        return maps

    def _steps(self, parameters, which=None):
        """The bijector of all steps, or of some."""
        stacks = [
            self._injections(parameters),
            [weight.value for weight in self._convolution],
            [weight.value for weight in self._coupling],
        ]
        if which is not None:
            stacks = [[values[which] for values in stack] for stack in stacks]
        return GlowSteps(parameters, *stacks, self.smallest_scale, name=self.name)

    def _injections(self, parameters):
        """Logarithm of the scale and shift of all injectors, in a shape that `GlowSteps` takes."""
        weights = [weight.value for weight in self._injector]
        if self.injector == "convolutional":
            raw, shift = ops.split(self._injector_maps(parameters, *weights), 2, axis=-1)
        else:
            hidden_kernel, hidden_bias, kernel, bias = weights
            hidden = ops.relu(ops.einsum("bp,snpw->snbw", parameters, hidden_kernel) + hidden_bias[:, :, None])
            outputs = ops.matmul(hidden, kernel) + bias[:, :, None]
            shape = ops.shape(outputs)
            raw, shift = ops.unstack(ops.broadcast_to(outputs, (*shape[:-1], self.channels)), 2, axis=1)
        return LARGEST_LOG_SCALE * ops.tanh(raw / LARGEST_LOG_SCALE), shift

    def _injector_maps(self, parameters, kernel_1, bias_1, kernel_2, bias_2, kernel_3, bias_3):
        """Raw scale and shift of all steps on at most 5 x 5 pixels, ``(steps, batch, rows, columns, 2 channels)``."""
        rows, columns = (min(side, 5) for side in self.map_shape)
        side, width = kernel_1.shape[1], self.width
        # Which weights of a kernel meet the map, not its padding with 0, for every pixel.
        inside = [np.eye(n + 2)[:, 1:-1].sum(1) if side == 3 else np.ones(n) for n in (rows, columns)]
        windows = [np.lib.stride_tricks.sliding_window_view(mask, side) for mask in inside]
        met = ops.convert_to_tensor(np.einsum("ry,cx->rcyx", *windows), dtype=self.variable_dtype)
        x = ops.einsum("bp,srcpw->sbrcw", parameters, ops.einsum("rcyx,syxpw->srcpw", met, kernel_1))
        x = ops.relu(x + bias_1[:, None, None, None])
        x = ops.einsum("sbrcw,swv->sbrcv", x, kernel_2[:, 0, 0])
        x = ops.relu(x + bias_2[:, None, None, None])
        margin = side // 2
        x = ops.pad(x, [(0, 0), (0, 0), (margin, margin), (margin, margin), (0, 0)], constant_values=1)
        shifted = [x[:, :, y : y + rows, z : z + columns] for y in range(side) for z in range(side)]
        kernel_3 = ops.reshape(kernel_3, (self.steps, side * side * width, 2 * self.channels))
        x = ops.einsum("sbrcw,swv->sbrcv", ops.concatenate(shifted, axis=-1), kernel_3)
        return x + bias_3[:, None, None, None]

    def get_config(self):
        """Constructor arguments as plain values."""
        return {
            **super().get_config(),
            "channels": self.channels,
            "map_shape": self.map_shape,
            "n_parameters": self.n_parameters,
            "steps": self.steps,
            "width": self.width,
            "injector": self.injector,
            "smallest_scale": self.smallest_scale,
            "seed": self.seed,
            "dtype": self.variable_dtype,
        }


def lu_factors(channels: int, generator: np.random.Generator) -> tuple:
    """Permutation, lower, upper, sign and log_diagonal (see `InvertibleConvolution`) of a random rotation."""
    rotation, _ = np.linalg.qr(generator.normal(size=(channels, channels)))
    permutation, lower, upper = scipy.linalg.lu(rotation)
    diagonal = np.diag(upper)
    return permutation, np.tril(lower, -1), np.triu(upper, 1), np.sign(diagonal), np.log(np.abs(diagonal))
