"""The conditional adversarial networks of Moriwaki et al. (2020), which separate confused emission lines."""

import keras
from keras import ops

from keras_cosmo.models import arguments
from keras_cosmo.models.line_discriminator import LineDiscriminator
from keras_cosmo.models.separation_generator import SeparationGenerator
from keras_cosmo.optimizers import Adam


def default_optimizer() -> keras.optimizers.Optimizer:
    """Adam as in Moriwaki et al. (2020), section 2.2: learning rate 0.0002, decay rates 0.5 and 0.999."""
    return Adam(2e-4, beta_1=0.5, beta_2=0.999)


@keras.saving.register_keras_serializable("keras_cosmo")
class LineSeparator(keras.Model):
    """Maps of every line from the map of their sum, trained with one discriminator per line (Moriwaki et al. 2020).

    A `SeparationGenerator` G predicts the lines, a `LineDiscriminator` D_i for each line i tells true from predicted
    maps. Calling the model calls the generator; the discriminators serve training alone. With X the observed map,
    X_i the true map of line i, G_i the predicted one and all of them in units of half of ``scale`` (the units of
    the network, whose tanh spans 2), a training step lowers

    - the loss of the generator, ``sum_i [a gan_i + w_i l1_i] + w_total l1_total`` with
      ``gan_i = mean(-log D_i(X, G_i))``, ``l1_i = mean |X_i - G_i|``, ``l1_total = mean |X - sum_i G_i|``,
    - the loss of every discriminator, ``discriminator_i = mean(-log D_i(X, X_i)) + mean(-log(1 - D_i(X, G_i)))``,

    all gradients taken before any weight moves, means over the pixels and the batch. X is the observed map as
    given, noise included if it has any.

    Args:
        map_shape: Shape ``(height, width)`` of the maps in pixels, each divisible by ``2 ** depth``. None for any
            size is possible where ``adversarial_weight`` is 0.
        lines: Names of the lines, in the order of the last axis of the maps.
        scale: Intensity that becomes +1 in the networks, erg s^-1 cm^-2 sr^-1; zero becomes -1. With "tanh" no
            predicted pixel can be brighter: take it from the training maps, somewhat above their brightest pixel.
            Half of it is the unit of all L1 terms, so that equations 2 to 5 of the paper hold as they stand.
        input_scale: The same for the observed map as input of the networks alone. Defaults to ``scale``.
        line_scales: The same for the maps of the lines as output of the generator and input of the
            discriminators, one number or one per line. Defaults to ``scale``.
        depth: Number of convolutions of the generator's encoder, and of each decoder. Defaults to 8.
        width: Channels of the first convolution of each network. Defaults to 64.
        kernel_size: Side of the square filters in pixels, an odd number. Defaults to 5.
        dropout: Share dropped in the first three layers of each decoder. Defaults to 0.5.
        output_activation: "tanh", "softplus" or "linear", see `SeparationGenerator`.
        adversarial_weight: Weight a of the adversarial terms. Defaults to 1. With 0 there are no discriminators: the
            baseline that knows the L1 terms only.
        line_weights: Weights w_i of the L1 terms, one number or one per line. Defaults to 100.
        total_weight: Weight w_total of the L1 term of the sum. Defaults to 100.
        stochastic: Whether dropout acts in inference too. Defaults to False.
        seed: Integer from which the seeds of starting weights and dropout follow. Defaults to None, which takes them
            from Keras (``keras.utils.set_random_seed``).
        dtype: Dtype policy of the hidden layers, such as "mixed_bfloat16". None takes the global policy of the
            moment; a saved model keeps it. Outputs and losses are float32 whatever the policy.
        name: Name of the model.
        trainable: Whether the weights are trained.

    Attributes:
        generator: The `SeparationGenerator`, which can be saved and used alone.
        discriminators: List of one `LineDiscriminator` per line, empty with ``adversarial_weight=0``.
        optimizers: List of the optimizers, that of the generator first.

    Input shape:
        ``(batch, height, width)``, observed intensity in erg s^-1 cm^-2 sr^-1. Training and testing take pairs of
        it and the true maps, shaped as the output.

    Output shape:
        ``(batch, height, width, number of lines)``, float32, same unit.

    Raises:
        ValueError: If a side of the maps is not divisible by ``2 ** depth``, all weights of the loss are 0, or
            an argument has a wrong length, is out of range or is not finite.

    Example:
        >>> model = LineSeparator((32, 32), scale=1e-7, depth=3, width=8)
        >>> model.compile()
        >>> intensity = 1e-8 * keras.random.uniform((4, 32, 32, 2))
        >>> logs = model.train_on_batch(keras.ops.sum(intensity, -1), intensity, return_dict=True)
        >>> model.generator.save("separation_generator.keras")

    Reference:
        Moriwaki, Filippova, Shirasaki & Yoshida 2020, MNRAS 496, L54 (arXiv:2002.07991), section 2.2, and the code
        named there, https://github.com/yenchenlin/pix2pix-tensorflow, after Isola et al. 2017 (arXiv:1611.07004).

    The logs of training have every term above without its weight (``gan_halpha``, ``l1_halpha``,
    ``discriminator_halpha`` and so on, ``l1_total``), the share of maps that a discriminator takes for what they are
    (``accuracy_halpha``), and as ``loss`` that of the generator. In testing ``loss`` is the weighted sum of the L1
    terms alone, which can be compared between trainings with and without discriminators; everything else has the
    same names, with dropout off and the running statistics of batch normalisation.

    True and predicted maps go through a discriminator as two batches, each with its own batch normalisation, as in
    that code. In inference all networks use the running statistics, as the paper says.

    Deviations: equation 3 of the paper makes the generator lower ``log(1 - D)``; here, as in the code, it lowers
    ``-log D``, whose gradient does not vanish where the discriminator is sure. The code updates the discriminator,
    then the generator twice per batch; the paper does not say so, here each is updated once. Biases and the
    normalisation of intensities: see `SeparationGenerator`.
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
        adversarial_weight=1.0,
        line_weights=100.0,
        total_weight=100.0,
        stochastic=False,
        seed=None,
        dtype=None,
        name="line_separator",
        trainable=True,
    ):
        # Its own policy is float32: Keras would round the intensities to that of the hidden layers.
        super().__init__(name=name, trainable=trainable, dtype="float32")
        policy = keras.dtype_policies.get(dtype)
        seeds = arguments.layer_seeds(seed)
        self.generator = SeparationGenerator(
            map_shape,
            lines,
            scale,
            input_scale=input_scale,
            line_scales=line_scales,
            depth=depth,
            width=width,
            kernel_size=kernel_size,
            dropout=dropout,
            output_activation=output_activation,
            stochastic=stochastic,
            seed=next(seeds),
            dtype=policy,
            name="generator",
        )
        self.lines = self.generator.lines
        self.adversarial_weight = arguments.non_negative("adversarial_weight", adversarial_weight)
        self.line_weights = arguments.non_negative_per_axis("line_weights", line_weights, len(self.lines), "line")
        self.total_weight = arguments.non_negative("total_weight", total_weight)
        if not any((self.adversarial_weight, self.total_weight, *self.line_weights)):
            raise ValueError(
                "`adversarial_weight`, `line_weights`, `total_weight`: all are 0, so there is nothing to train on; "
                "give at least one that is not."
            )
        self.discriminators = []
        if self.adversarial_weight:
            self.discriminators = [
                LineDiscriminator(
                    map_shape,
                    self.generator.input_scale,
                    line_scale=line_scale,
                    width=width,
                    kernel_size=kernel_size,
                    seed=next(seeds),
                    dtype=policy,
                    name=f"discriminator_{line}",
                )
                for line, line_scale in zip(self.lines, self.generator.line_scales, strict=True)
            ]
        self.seed = None if seed is None else int(seed)
        self.discriminator_optimizers = []
        self._trackers = [keras.metrics.Mean(name=name) for name in ("loss", *self._term_names())]
        if not trainable:
            self.trainable = False
        self.built = True

    @property
    def map_shape(self) -> tuple:
        """Shape ``(height, width)`` of the maps in pixels."""
        return self.generator.map_shape

    @property
    def scale(self) -> float:
        """Intensity that becomes +1 in the networks; half of it is the unit of the L1 terms."""
        return self.generator.scale

    @property
    def optimizers(self) -> list:
        """Optimizers of the generator and of every discriminator; empty before `compile`."""
        optimizer = getattr(self, "optimizer", None)
        return [] if optimizer is None else [optimizer, *self.discriminator_optimizers]

    @property
    def metrics(self) -> list:
        """Running means of everything that is logged."""
        return list(self._trackers)

    def compile(
        self,
        generator_optimizer=None,
        discriminator_optimizers=None,
        *,
        run_eagerly=False,
        jit_compile=False,
        steps_per_execution=1,
    ):
        """Set the optimizers and make their variables.

        Args:
            generator_optimizer: Optimizer, or its name. Defaults to Adam as in the paper (`default_optimizer`).
            discriminator_optimizers: List of one per line, or one of which every discriminator gets a copy of its
                own. Defaults to copies of that of the generator.
            run_eagerly: Whether to run without a graph.
            jit_compile: Whether to compile with XLA. Defaults to False.
            steps_per_execution: As in ``keras.Model.compile``.

        Raises:
            ValueError: If the number of optimizers is not that of the discriminators, or one serves two networks.
        """
        generator_optimizer = keras.optimizers.get(generator_optimizer or default_optimizer())
        template = generator_optimizer if discriminator_optimizers is None else discriminator_optimizers
        if isinstance(template, (list, tuple)):
            optimizers = [keras.optimizers.get(optimizer) for optimizer in template]
        else:
            config = keras.saving.serialize_keras_object(keras.optimizers.get(template))
            optimizers = [keras.saving.deserialize_keras_object(config) for _ in self.discriminators]
        if len(optimizers) != len(self.discriminators):
            raise ValueError(
                f"`discriminator_optimizers`: expected one optimizer, or {len(self.discriminators)} (one per "
                f"discriminator), got {len(optimizers)}."
            )
        if len({id(optimizer) for optimizer in (generator_optimizer, *optimizers)}) <= len(optimizers):
            raise ValueError(
                "`discriminator_optimizers`: an optimizer cannot serve two networks; give one of its own to each, or "
                "one alone to be copied."
            )
        super().compile(
            optimizer=generator_optimizer,
            run_eagerly=run_eagerly,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
        )
        self.discriminator_optimizers = optimizers
        for optimizer, network in self._trained():
            if not optimizer.built:
                optimizer.build(network.trainable_variables)

    def get_compile_config(self):
        """Optimizers and options of `compile` as plain values."""
        if not self.compiled:
            return {}
        generator_optimizer, *discriminator_optimizers = map(keras.saving.serialize_keras_object, self.optimizers)
        return {
            "generator_optimizer": generator_optimizer,
            "discriminator_optimizers": discriminator_optimizers,
            "run_eagerly": self.run_eagerly,
            "jit_compile": self.jit_compile,
            "steps_per_execution": self.steps_per_execution,
        }

    def compile_from_config(self, config):
        """Compile with what `get_compile_config` returned."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    # Not in `call`: there Keras would add every pixel of the maps to the message.
    def __call__(self, inputs, *args, **kwargs):
        """Maps of every line, of observed maps whose size is looked at first."""
        self.generator.check_inputs(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs, training=None):
        """Predicted maps of every line."""
        return self.generator(inputs, training=training)

    def train_step(self, data):
        """One update of every network with a batch of (observed maps, maps of every line); returns the logs."""
        import tensorflow as tf

        observed, lines = self._unpack(data)
        # The optimizers add up the gradients of the replicas.
        share = 1.0 / tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as generator_tape:
            predicted = self.generator(observed, training=True)
        # Two tapes, so that the gradients of the discriminators do not run through the generator.
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(predicted)
            terms = self._terms(observed, lines, predicted, training=True)
            loss = self._reconstruction_loss(terms) + self.adversarial_weight * self._sum(terms, "gan")
            losses = [loss, *(terms[f"discriminator_{line}"] for line in self._judged)]
            scaled = [
                optimizer.scale_loss(share * value) for optimizer, value in zip(self.optimizers, losses, strict=True)
            ]
        variables = [network.trainable_variables for _, network in self._trained()]
        gradients = [
            generator_tape.gradient(predicted, variables[0], output_gradients=tape.gradient(scaled[0], predicted))
        ]
        gradients += [tape.gradient(value, weights) for value, weights in zip(scaled[1:], variables[1:], strict=True)]
        for optimizer, gradient, weights in zip(self.optimizers, gradients, variables, strict=True):
            if weights:
                optimizer.apply(gradient, weights)
        return self._log(loss, terms, observed)

    def test_step(self, data):
        """Logs of a batch; ``loss`` is the weighted sum of the L1 terms."""
        observed, lines = self._unpack(data)
        terms = self._terms(observed, lines, self.generator(observed, training=False), training=False)
        return self._log(self._reconstruction_loss(terms), terms, observed)

    def get_config(self):
        """Constructor arguments as plain values; the dtype policy by its name, or as Keras serialises it."""
        return {
            **self.generator.get_config(),
            "adversarial_weight": self.adversarial_weight,
            "line_weights": self.line_weights,
            "total_weight": self.total_weight,
            "seed": self.seed,
            "name": self.name,
            "trainable": self.trainable,
        }

    @property
    def _judged(self):
        """Names of the lines that have a discriminator."""
        return self.lines if self.adversarial_weight else ()

    def _trained(self):
        """Pairs of optimizer and network."""
        return list(zip(self.optimizers, [self.generator, *self.discriminators], strict=True))

    def _term_names(self):
        names = [f"l1_{line}" for line in self.lines] + ["l1_total"]
        return names + [f"{term}_{line}" for term in ("gan", "discriminator", "accuracy") for line in self._judged]

    def _unpack(self, data):
        """Observed maps and maps of every line, float32."""
        observed, lines, weights = keras.utils.unpack_x_y_sample_weight(data)
        if lines is None or weights is not None:
            raise ValueError(
                "LineSeparator: expected batches (observed maps, maps of every line), without sample weights."
            )
        expected = (*observed.shape, len(self.lines))
        if tuple(lines.shape) != expected:
            raise ValueError(
                f"LineSeparator: the true maps of {self.lines} must have the shape {expected}, (batch, height, width, "
                f"lines), got {tuple(lines.shape)}."
            )
        return ops.cast(observed, "float32"), ops.cast(lines, "float32")

    def _terms(self, observed, lines, predicted, training):
        """Every term of the losses, without weights, in units of half the scale."""
        unit = self.scale / 2
        terms = {
            f"l1_{line}": ops.mean(ops.abs((lines[..., index] - predicted[..., index]) / unit))
            for index, line in enumerate(self.lines)
        }
        terms["l1_total"] = ops.mean(ops.abs((observed - ops.sum(predicted, axis=-1)) / unit))
        for index, (line, discriminator) in enumerate(zip(self._judged, self.discriminators, strict=True)):
            true = discriminator([observed, lines[..., index]], training=training)
            false = discriminator([observed, predicted[..., index]], training=training)
            # -log sigmoid(x) = softplus(-x)
            terms[f"gan_{line}"] = ops.mean(ops.softplus(-false))
            terms[f"discriminator_{line}"] = ops.mean(ops.softplus(-true)) + ops.mean(ops.softplus(false))
            right = [ops.mean(ops.cast(logit > 0, "float32")) for logit in (true, -false)]
            terms[f"accuracy_{line}"] = (right[0] + right[1]) / 2
        return terms

    def _reconstruction_loss(self, terms):
        loss = self.total_weight * terms["l1_total"]
        for line, weight in zip(self.lines, self.line_weights, strict=True):
            loss = loss + weight * terms[f"l1_{line}"]
        return loss

    def _sum(self, terms, name):
        return sum((terms[f"{name}_{line}"] for line in self._judged), 0.0)

    def _log(self, loss, terms, observed):
        values = {"loss": loss, **terms}
        maps = ops.shape(observed)[0]
        for tracker in self._trackers:
            tracker.update_state(values[tracker.name], sample_weight=maps)
        return {tracker.name: tracker.result() for tracker in self._trackers}
