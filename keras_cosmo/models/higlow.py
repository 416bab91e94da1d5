"""The conditional flow of Friedman & Hassan (2022): maps of HI, their densities and samples."""

import math
import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_cosmo.bijectors.flow_distribution import flow_distribution, with_transform
from keras_cosmo.bijectors.map_transform import TRANSFORMS, check_transform, map_transform
from keras_cosmo.bijectors.multi_scale import MultiScale
from keras_cosmo.layers.glow_block import INJECTORS, GlowBlock
from keras_cosmo.layers.split_prior import SplitPrior
from keras_cosmo.models import arguments
from keras_cosmo.optimizers import Adam

NOT_FINITE = "`parameters`: expected finite numbers, but {} are not."


def default_optimizer() -> keras.optimizers.Optimizer:
    """Adam with learning rate 3e-4 and the norm of all gradients clipped at 2 (public code; the paper gives none)."""
    return Adam(3e-4, global_clipnorm=2.0)


@keras.saving.register_keras_serializable("keras_cosmo")
class NegativeLogLikelihood(keras.losses.Loss):
    """Negative log-likelihood per pixel, in nats, of log-densities that a flow predicts.

    Args:
        n_pixels: Number of pixels of a map.
        reduction, name: As in ``keras.losses.Loss``.

    Call:
        ``loss(y_true, log_prob)``; ``y_true`` is not looked at. Computed in float32 at least.

    Example:
        >>> float(NegativeLogLikelihood(4)(None, keras.ops.array([-8.0, -4.0])))
        1.5
    """

    def __init__(self, n_pixels, reduction="sum_over_batch_size", name="negative_log_likelihood"):
        super().__init__(name=name, reduction=reduction)
        self.n_pixels = arguments.positive_integer("n_pixels", n_pixels)

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Loss of a batch."""
        y_pred = ops.convert_to_tensor(y_pred)
        return super().__call__(ops.zeros_like(y_pred), y_pred, sample_weight)

    def call(self, y_true, y_pred):
        """Loss of every map."""
        return -y_pred / self.n_pixels

    def get_config(self):
        """Configuration that rebuilds the loss."""
        return {"n_pixels": self.n_pixels, "reduction": self.reduction, "name": self.name}


@keras.saving.register_keras_serializable("keras_cosmo")
class HIGlow(keras.Model):
    """Conditional Glow: density and samples of maps for given parameters (Friedman & Hassan 2022, section 2.2).

    Maps are brought to the units of the flow (``transform``), parameters to -1 to 1; then ``blocks`` times squares of
    2 x 2 pixels become channels, ``steps`` flow steps follow (`GlowBlock`), and half of the channels is finished
    (`MultiScale`). Latent variables are standard normal. With the defaults and maps of 64 x 64 pixels this is the
    network of the paper.

    All densities are those of the physical map, in nats: the Jacobian of ``transform`` is part of them, so that
    flows with different transforms can be compared.

    Args:
        map_shape: ``(height, width)`` in pixels, each divisible by ``2 ** blocks``.
        parameter_names: Names of the parameters, such as ("Omega_m", "sigma_8").
        parameter_low, parameter_high: Range of every parameter in the training simulations, which becomes -1 to 1.
        transform: "log10-minmax" (the paper's preparation of the maps), "log10-standardise", "log10-logit" or "none",
            see `map_transform`. Defaults to "log10-minmax".
        transform_constants: The two constants of the transform, in log10 of the maps' unit, measured on the training
            maps (`transform_constants`); none for "none". Defaults to (0, 1).
        blocks: Number of blocks. Defaults to 6 (section 3).
        steps: Flow steps per block. Defaults to 20 (section 3).
        width: Width of the hidden layers of injectors and couplings. Defaults to 16 (section 3).
        final_block: Whether one more block follows, without squeezing, on what the last one passed on, as in the
            public code. Defaults to False.
        injector: "scalar" (the paper's text), "channel" or "convolutional" (public code), see `GlowBlock`. Defaults
            to "scalar".
        conditional_prior: Whether mean and scale of the finished channels depend on those that go on and on the
            parameters (`SplitPrior`). Defaults to False: standard normal, as in the public code.
        smallest_scale: Lower bound of the scales of the couplings, ``c`` of `ConditionalCoupling`. Defaults to 0.5
            (public code).
        seed: Integer from which the starting weights follow. Defaults to None, which takes them from Keras
            (``keras.utils.set_random_seed``).
        dtype: "float64", or anything else for float32, whatever the global policy: sums of log-determinants over
            thousands of pixels need it.
        name: Name of the model.
        trainable: Whether the weights are trained.

    Input:
        A pair ``(maps, parameters)``: maps ``(batch, height, width)`` in physical units, such as Msun/h (Mpc/h)^-2;
        parameters ``(batch, n_parameters)``, as the simulations have them, unscaled.

    Output:
        ``(batch,)``, log-density of the maps, nats. The loss is its negative per pixel (`NegativeLogLikelihood`),
        and set by ``compile`` itself. Training takes batches ``(maps, parameters)``: ``model.fit(maps, parameters)``.

    Raises:
        ValueError: If the sides of the maps are not divisible by ``2 ** blocks``, or an argument has a wrong length
            or is out of range; on maps or parameters of a wrong shape or not finite, maps that are not positive under
            a logarithm, or that lie outside the bounds of "log10-logit".
        tf.errors.InvalidArgumentError: For such values within a graph, as in ``fit``, ``evaluate`` and ``predict``, in
            the same words; in training before weights and moments are changed (the step is counted).

    Example:
        >>> flow = HIGlow((8, 8), ("Omega_m", "sigma_8"), (0.1, 0.6), (0.5, 1.0), blocks=2, steps=2)
        >>> maps = flow.sample([[0.3, 0.8]], n=3, seed=(1, 2))
        >>> maps.shape, flow.log_prob(maps[:, 0], [[0.3, 0.8]] * 3).shape
        (TensorShape([3, 1, 8, 8]), TensorShape([3]))

    Reference:
        Friedman & Hassan 2022 (arXiv:2211.12724), sections 2 and 3 and figure 1; Kingma & Dhariwal 2018
        (arXiv:1807.03039).

    Deviations: constants of the transform come from the training maps alone, where the public code takes all. In a
    step the injector stands before the convolution, as in figure 1-C; in the public code after it. Compared with the
    public code, the default has no final block, and the paper's injector. Optional and ours: ``conditional_prior``,
    ``injector="channel"``, "log10-standardise", "log10-logit".
    """

    def __init__(
        self,
        map_shape,
        parameter_names,
        parameter_low,
        parameter_high,
        transform="log10-minmax",
        transform_constants=None,
        *,
        blocks=6,
        steps=20,
        width=16,
        final_block=False,
        injector="scalar",
        conditional_prior=False,
        smallest_scale=0.5,
        seed=None,
        dtype=None,
        name="higlow",
        trainable=True,
    ):
        # Kept as a name, so that neither a global policy nor a mixed one reaches the log-determinants.
        precision = "float64" if keras.dtype_policies.get(dtype).variable_dtype == "float64" else "float32"
        super().__init__(name=name, dtype=precision, trainable=trainable)
        self.blocks = arguments.positive_integer("blocks", blocks)
        self.map_shape = _check_map_shape(map_shape, self.blocks)
        self.parameter_names = _check_names(parameter_names)
        self.parameter_low, self.parameter_high = _check_range(parameter_low, parameter_high, self.parameter_names)
        if transform_constants is None:
            transform_constants = (0.0, 1.0) if TRANSFORMS.get(transform) else ()
        self.transform_constants = check_transform(transform, transform_constants)
        self.transform = transform
        self.steps = arguments.positive_integer("steps", steps)
        self.width = arguments.positive_integer("width", width)
        self.final_block = bool(final_block)
        self.injector = arguments.one_of("injector", injector, INJECTORS)
        self.conditional_prior = bool(conditional_prior)
        self.smallest_scale = arguments.fraction("smallest_scale", smallest_scale)
        seeds = arguments.layer_seeds(seed)
        self.seed = None if seed is None else int(seed)
        self.likelihood_loss = NegativeLogLikelihood(math.prod(self.map_shape))

        self.glow_blocks, self.split_priors = [], []
        (height, width_), channels = self.map_shape, 1
        n_blocks = self.blocks + self.final_block
        for index in range(n_blocks):
            if index < self.blocks:
                height, width_, channels = height // 2, width_ // 2, 4 * channels
            self.glow_blocks.append(
                GlowBlock(
                    channels,
                    (height, width_),
                    len(self.parameter_names),
                    self.steps,
                    self.width,
                    self.injector,
                    self.smallest_scale,
                    seed=next(seeds),
                    dtype=precision,
                    name=f"block_{index + 1}",
                )
            )
            if index < n_blocks - 1:
                channels //= 2
                if self.conditional_prior:
                    self.split_priors.append(
                        SplitPrior(
                            channels,
                            (height, width_),
                            len(self.parameter_names),
                            dtype=precision,
                            name=f"prior_{index + 1}",
                        )
                    )
        self.supports_jit = False
        self._compiled = {}
        self.built = True
        if not trainable:
            self.trainable = False

    def build(self, *_):
        """Nothing to do: the weights are made with the model."""

    def compile(self, optimizer=None, *, run_eagerly=False, steps_per_execution=1, **others):
        """Set the optimizer; the loss is the negative log-likelihood per pixel.

        Args:
            optimizer: Optimizer, or its name. Defaults to Adam as in the public code (`default_optimizer`).
            run_eagerly: Whether to run without a graph, several times slower.
            steps_per_execution: As in ``keras.Model.compile``.
            **others: Nothing else: what ``keras.Model.compile`` takes besides is set.

        Raises:
            TypeError: On a loss, metrics, ``jit_compile`` or any other argument.
        """
        if others:
            raise TypeError(
                f"compile: expected optimizer, run_eagerly and steps_per_execution only, got {', '.join(others)}. The "
                f"loss is set, the negative log-likelihood per pixel, and is the only measure of a batch; XLA is off, "
                f"since on CPU it makes these small convolutions ten times slower."
            )
        super().compile(
            optimizer=keras.optimizers.get(optimizer or default_optimizer()),
            run_eagerly=run_eagerly,
            jit_compile=False,
            steps_per_execution=steps_per_execution,
        )
        # Variables made in the first step would have it traced twice.
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def get_compile_config(self):
        """Optimizer and options of `compile` as plain values."""
        if not self.compiled:
            return {}
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "run_eagerly": self.run_eagerly,
            "steps_per_execution": self.steps_per_execution,
        }

    def compile_from_config(self, config):
        """Compile with what `get_compile_config` returned."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def export(self, filepath, format="tf_saved_model", verbose=None, input_signature=None, **kwargs):
        """Write a SavedModel or another format for inference, whose one function is the log-density.

        `keras_cosmo.export.saved_model.export_saved_model` writes one of several named functions with metadata, such as
        samples and posteriors.

        Args:
            filepath: Folder or file to write.
            format: As in ``keras.Model.export``.
            verbose: As there.
            input_signature: As there. Defaults to maps and parameters, any number of rows.
            **kwargs: As there.
        """
        if input_signature is None:
            shapes = {"maps": self.map_shape, "parameters": (len(self.parameter_names),)}
            pair = (tf.TensorSpec((None, *shape), self.variable_dtype, name=name) for name, shape in shapes.items())
            input_signature = [tuple(pair)]
        super().export(filepath, format=format, verbose=verbose, input_signature=input_signature, **kwargs)

    # Not in `call`: there Keras would add every pixel of the maps to the message.
    def __call__(self, inputs, *args, **kwargs):
        """Log-density of a pair (maps, parameters), whose shapes and values are looked at first."""
        if not isinstance(inputs, (tuple, list)) or len(inputs) != 2:
            raise ValueError(f"HIGlow: expected a pair (maps, parameters), got {type(inputs).__name__}.")
        if not any(keras.backend.is_keras_tensor(each) for each in inputs):
            inputs = self._checked(*inputs)
        else:
            self._check_shapes(*inputs)
        return super().__call__(tuple(inputs), *args, **kwargs)

    def call(self, inputs):
        """Log-density of a pair (maps, parameters)."""
        maps, parameters = inputs
        return self.distribution(parameters).log_prob(ops.convert_to_tensor(maps, dtype=self.variable_dtype))

    def distribution(self, parameters, temperature=1.0):
        """Distribution of the maps for every row of the parameters, as TensorFlow Probability has it.

        It reads the weights as they are; outside of a ``tf.function`` its `log_prob` and `sample` run without a
        graph, slower than those of the model, and check nothing.

        Args:
            parameters: ``(batch, n_parameters)``.
            temperature: Standard deviation of the latent variables. Defaults to 1.

        Returns:
            ``tfp.distributions.Distribution`` with batch shape ``(batch,)`` and event shape ``(height, width)``.
        """
        parameters = ops.convert_to_tensor(parameters, dtype=self.variable_dtype)
        dtype = parameters.dtype
        return flow_distribution(
            self._bijector(parameters), ops.shape(parameters)[0], math.prod(self.map_shape), temperature, dtype
        )

    def log_prob(self, maps, parameters):
        """Log-density of maps, nats.

        Args:
            maps: ``(batch, height, width)``, physical units.
            parameters: ``(batch, n_parameters)``. If there is one map or one row of parameters, it is taken with all
                of the other.

        Returns:
            ``(batch,)``.
        """
        return self._run("log_prob", *self._check(maps, parameters))

    def sample(self, parameters, n=1, temperature=1.0, seed=None):
        """Maps drawn for every row of the parameters.

        Args:
            parameters: ``(batch, n_parameters)``. Outside of the training range there is a warning.
            n: Number of maps per row. Defaults to 1.
            temperature: Standard deviation of the latent variables. Defaults to 1; only with it the maps have the
                density `log_prob`.
            seed: Two integers, from which everything random follows. Defaults to None: new ones at every call.

        Returns:
            ``(n, batch, height, width)``, physical units.
        """
        parameters = self._check_parameters(parameters, sampling=True)
        if seed is None:
            seed = np.random.default_rng().integers(2**31, size=2)
        seed = ops.convert_to_tensor(seed, dtype="int32")
        if tuple(seed.shape) != (2,):
            raise ValueError(f"`seed`: expected two integers, got the shape {tuple(seed.shape)}.")
        if not tf.is_tensor(n):
            n = arguments.positive_integer("n", n)
        if not tf.is_tensor(temperature):
            temperature = arguments.finite("temperature", temperature, positive=True)
        temperature = ops.convert_to_tensor(temperature, dtype=self.variable_dtype)
        return self._run("sample", parameters, ops.convert_to_tensor(n, dtype="int32"), temperature, seed)

    def latent(self, maps, parameters):
        """Latent variables of maps, ``(batch, height * width)``; arguments as in `log_prob`."""
        return self._run("latent", *self._check(maps, parameters))

    def from_latent(self, latent, parameters):
        """Maps of latent variables, the inverse of `latent`.

        Args:
            latent: ``(batch, height * width)``.
            parameters: ``(batch, n_parameters)``.

        Returns:
            ``(batch, height, width)``, physical units.
        """
        parameters = self._check_parameters(parameters, sampling=True)
        latent = ops.convert_to_tensor(latent, dtype=self.variable_dtype)
        size = math.prod(self.map_shape)
        if len(latent.shape) != 2 or latent.shape[1] != size:
            raise ValueError(f"`latent`: expected (batch, {size}), got the shape {tuple(latent.shape)}.")
        _check_batches("latent", latent, parameters)
        return self._run("from_latent", latent, parameters)

    def start_from(self, maps, parameters):
        """Set the biases of the injectors so that behind each of them these maps have mean 0 and variance 1.

        The data-dependent start of Glow's activation normalisation, which the injectors replace. Optional, for a new
        model, before training. Where the maps are so narrow or so wide that a log-scale would reach 98% of its bound
        of 5 to either side (`GlowBlock`), it is clipped there, and the variance is another one.

        Args:
            maps: Some hundred training maps, as in `log_prob`.
            parameters: Their parameters.

        Raises:
            ValueError: If the model has been trained already.
        """
        maps, parameters = self._check(maps, parameters)
        parameters = self._scaled(parameters)
        x = self._transform().inverse(maps)[..., None]
        for index, block in enumerate(self.glow_blocks):
            if index < self.blocks:
                x = tf.nn.space_to_depth(x, 2)
            x = block.start_from(x, parameters)[..., : block.channels // 2]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Negative log-likelihood per pixel of a batch."""
        return self.likelihood_loss(None, y_pred, sample_weight)

    def train_step(self, data):
        """One update with a batch (maps, parameters); returns the logs."""
        return super().train_step(_as_pair(data))

    def test_step(self, data):
        """Logs of a batch (maps, parameters)."""
        return super().test_step(_as_pair(data))

    def predict_step(self, data):
        """Log-density of a batch (maps, parameters)."""
        return super().predict_step(_as_pair(data))

    def get_config(self):
        """Constructor arguments as plain values."""
        return {
            "map_shape": self.map_shape,
            "parameter_names": self.parameter_names,
            "parameter_low": self.parameter_low,
            "parameter_high": self.parameter_high,
            "transform": self.transform,
            "transform_constants": self.transform_constants,
            "blocks": self.blocks,
            "steps": self.steps,
            "width": self.width,
            "final_block": self.final_block,
            "injector": self.injector,
            "conditional_prior": self.conditional_prior,
            "smallest_scale": self.smallest_scale,
            "seed": self.seed,
            "dtype": self.variable_dtype,
            "name": self.name,
            "trainable": self.trainable,
        }

    def _transform(self):
        return map_transform(self.transform, self.transform_constants, self.variable_dtype)

    def _scaled(self, parameters):
        """Parameters from -1 to 1."""
        low, high = (
            ops.convert_to_tensor(values, dtype=self.variable_dtype)
            for values in (self.parameter_low, self.parameter_high)
        )
        return 2 * (parameters - low) / (high - low) - 1

    def _bijector(self, parameters):
        """From latent vectors to physical maps."""
        parameters = self._scaled(parameters)
        priors = [lambda kept, prior=prior: prior(kept, parameters) for prior in self.split_priors]
        multi_scale = MultiScale(
            [block.bijector(parameters) for block in self.glow_blocks],
            self.map_shape,
            ops.shape(parameters)[0],
            self.blocks,
            priors or None,
            dtype=parameters.dtype,
        )
        return with_transform(self._transform(), multi_scale)

    def _run(self, name, *tensors):
        """One of the functions below, as a graph that is made once."""
        if not tf.executing_eagerly():
            return getattr(self, f"_{name}")(*tensors)
        if name not in self._compiled:
            shapes = [[None, *tensor.shape[1:]] if tensor.shape.rank > 1 else tensor.shape for tensor in tensors]
            signature = [tf.TensorSpec(shape, tensor.dtype) for shape, tensor in zip(shapes, tensors, strict=True)]
            self._compiled[name] = tf.function(getattr(self, f"_{name}"), input_signature=signature, autograph=False)
        return self._compiled[name](*tensors)

    def _log_prob(self, maps, parameters):
        return self.distribution(parameters).log_prob(maps)

    def _sample(self, parameters, n, temperature, seed):
        maps = self.distribution(parameters, temperature).sample(n, seed=seed)
        return tf.ensure_shape(maps, [None, None, *self.map_shape])

    def _latent(self, maps, parameters):
        return self._bijector(parameters).inverse(maps)

    def _from_latent(self, latent, parameters):
        return self._bijector(parameters).forward(latent)

    def _check_shapes(self, maps, parameters):
        maps_shape, parameters_shape = (
            tuple(np.shape(a) if isinstance(a, list) else a.shape) for a in (maps, parameters)
        )
        if len(maps_shape) != 3 or maps_shape[1:] != self.map_shape:
            raise ValueError(f"{self._expected_maps()}{maps_shape}.")
        if len(parameters_shape) != 2 or parameters_shape[1:] != (len(self.parameter_names),):
            raise ValueError(f"{self._expected_parameters()}{parameters_shape}.")

    def _expected_maps(self):
        height, width = self.map_shape
        return f"`maps`: expected (batch, {height}, {width}), got the shape "

    def _expected_parameters(self):
        names = list(self.parameter_names)
        return f"`parameters`: expected (batch, {len(names)}), the columns {names}, got the shape "

    def _checked(self, maps, parameters):
        """Maps and parameters as tensors whose shapes and values were looked at, in a graph when it runs."""
        maps, parameters = (ops.convert_to_tensor(a, dtype=self.variable_dtype) for a in (maps, parameters))
        maps = _with_shape(maps, self.map_shape, self._expected_maps())
        parameters = _with_shape(parameters, (len(self.parameter_names),), self._expected_parameters())
        self._check_shapes(maps, parameters)
        if tf.executing_eagerly():
            self._check_values(maps.numpy())
            _check_finite(parameters.numpy())
            return maps, parameters
        checks = [
            _raise_unless(tf.reduce_all(good), lambda good=good, words=words: _count_maps(good, words))
            for good, words in self._conditions(maps, tf.math.is_finite, tf.math.log)
        ]
        finite = tf.math.is_finite(parameters)
        checks.append(
            _raise_unless(
                tf.reduce_all(finite),
                lambda: tf.strings.format(NOT_FINITE, tf.math.count_nonzero(~finite)),
            )
        )
        # Everything that is computed of them waits for the checks, and so do the weights.
        with tf.control_dependencies(checks):
            return tf.identity(maps), tf.identity(parameters)

    def _check(self, maps, parameters):
        """Maps and parameters as tensors, their shapes and, outside of graphs, values."""
        parameters = self._check_parameters(parameters)
        maps = ops.convert_to_tensor(maps, dtype=self.variable_dtype)
        self._check_shapes(maps, parameters)
        _check_batches("maps", maps, parameters)
        if tf.executing_eagerly():
            self._check_values(maps.numpy())
        return maps, parameters

    def _check_values(self, maps):
        for good, words in self._conditions(maps, np.isfinite, np.log):
            if not good.all():
                bad = ~good
                counts = np.count_nonzero(bad), np.count_nonzero(bad.any((1, 2))), len(maps)
                raise ValueError(words.format(*counts))

    def _conditions(self, maps, is_finite, logarithm):
        """Pairs of which pixels are good, and the message with places for three numbers if some are not."""
        words, remedy = "`maps`: {{}} pixels in {{}} of {{}} maps are not {}. {}.", "Leave such maps out"
        good = is_finite(maps)
        if self.transform == "none":
            return [(good, words.format("finite", remedy))]
        good &= maps > 0
        remedy += f', as {self.transform!r} takes log10, or use the transform "none"'
        found = [(good, words.format("finite and positive", remedy))]
        if self.transform == "log10-logit":
            low, high = self.transform_constants
            # Of others the message above tells.
            scaled = logarithm(ops.where(good, maps, 10.0 ** (0.5 * (low + high)))) / math.log(10.0)
            expected = f"between 10^{low:g} and 10^{high:g}"
            found.append(((scaled > low) & (scaled < high), words.format(expected, "Give the transform wider bounds")))
        return found

    def _check_parameters(self, parameters, sampling=False):
        parameters = ops.convert_to_tensor(parameters, dtype=self.variable_dtype)
        if len(parameters.shape) != 2 or parameters.shape[1] != len(self.parameter_names):
            raise ValueError(f"{self._expected_parameters()}{tuple(parameters.shape)}.")
        if tf.executing_eagerly():
            values = parameters.numpy()
            _check_finite(values)
            if sampling:
                self._warn_outside(values)
        return parameters

    def _warn_outside(self, values):
        # The bounds themselves, in float32, are inside.
        margin = 1e-5 * np.subtract(self.parameter_high, self.parameter_low)
        outside = (values < self.parameter_low - margin) | (values > self.parameter_high + margin)
        columns = [
            f"{name} ({low:g} to {high:g})"
            for name, low, high, out in zip(
                self.parameter_names, self.parameter_low, self.parameter_high, outside.any(0), strict=True
            )
            if out
        ]
        if columns:
            warnings.warn(
                f"{np.count_nonzero(outside.any(1))} of {len(values)} rows of `parameters` lie outside of the range of "
                f"the training simulations: {', '.join(columns)}. The flow has seen nothing there.",
                stacklevel=4,
            )


def _as_pair(data):
    """A batch ((maps, parameters), None, weights) from that or from (maps, parameters[, weights])."""
    maps, parameters, weights = keras.utils.unpack_x_y_sample_weight(data)
    pair = tuple(maps) if isinstance(maps, (tuple, list)) else (maps, parameters)
    if len(pair) != 2 or pair[1] is None:
        raise ValueError("HIGlow: expected batches (maps, parameters).")
    return pair, None, weights


def _check_finite(parameters):
    if not np.isfinite(parameters).all():
        raise ValueError(NOT_FINITE.format(np.count_nonzero(~np.isfinite(parameters))))


def _with_shape(values, shape, expected):
    """The tensor, its shape (batch, *shape) known; looked at when the graph runs if it was not.

    TensorFlow forgets sides, or even how many there are, once a model was given batches of different shapes.
    """
    rank = values.shape.rank
    if rank is not None and (rank != 1 + len(shape) or None not in values.shape[1:]):
        return values
    found = tf.shape(values)
    # As text, since numbers of axes that differ could not be compared.
    sides = tf.strings.reduce_join(tf.strings.as_string(found[1:]), separator=" ")
    good = tf.equal(sides, " ".join(map(str, shape)))
    with tf.control_dependencies([_raise_unless(good, lambda: tf.strings.format(f"{expected}{{}}.", found))]):
        return tf.ensure_shape(tf.identity(values), (None, *shape))


def _raise_unless(good, message):
    """Tensor of a graph that raises ``tf.errors.InvalidArgumentError`` with the message when it is computed."""

    def failed():
        with tf.control_dependencies([tf.debugging.Assert(False, [message()])]):
            return tf.constant(False)

    return tf.cond(good, lambda: tf.constant(True), failed)


def _count_maps(good, words):
    """The message about pixels, a tensor."""
    bad = ~good
    counts = tf.math.count_nonzero(bad), tf.math.count_nonzero(tf.reduce_any(bad, (1, 2))), tf.shape(good)[0]
    return tf.strings.format(words, counts)


def _check_batches(argument, values, parameters):
    sizes = {values.shape[0], parameters.shape[0]} - {1, None}
    if len(sizes) > 1:
        raise ValueError(
            f"`{argument}` and `parameters`: expected as many rows in both, or one in either, got {values.shape[0]} "
            f"and {parameters.shape[0]}."
        )


def _check_map_shape(map_shape, blocks):
    sides = arguments.divisible_shape(
        "map_shape", map_shape, blocks, what=f"{blocks} blocks", remedy="use fewer `blocks`"
    )
    if None in sides:
        raise ValueError(f"`map_shape`: a flow needs (height, width) in pixels, got {map_shape!r}.")
    return sides


def _check_names(names):
    names = () if isinstance(names, str) or not hasattr(names, "__iter__") else tuple(names)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(
            f'`parameter_names`: expected different names such as ("Omega_m", "sigma_8"), got {names or "none"}.'
        )
    return names


def _check_range(low, high, names):
    low, high = (
        arguments.finite_per_axis(argument, values, len(names), "parameter")
        for argument, values in (("parameter_low", low), ("parameter_high", high))
    )
    for name, smallest, largest in zip(names, low, high, strict=True):
        if not smallest < largest:
            raise ValueError(
                f"`parameter_low`, `parameter_high`: expected low < high for {name}, got {smallest} and {largest}."
            )
    return low, high
