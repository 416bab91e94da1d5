"""Adam whose update of a weight is one operation, and with L2 regularisation in the gradient."""

import math
import typing

import keras
import numpy as np
from keras import ops

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


class _Rates(typing.NamedTuple):
    """Numbers of one update, the same for all weights.

    ``root`` is the root of 1 - beta_2**t; ``corrected`` is the learning rate times that over 1 - beta_1**t.
    """

    learning_rate: typing.Any
    root: typing.Any
    corrected: typing.Any


@keras.saving.register_keras_serializable("keras_cosmo")
class Adam(keras.optimizers.Adam):
    """``keras.optimizers.Adam`` whose update of a weight is one operation of TensorFlow.

    Keras writes the update out in some ten operations over every weight and its two moments, and in as many with
    numbers for each weight. This class calls TensorFlow's own operation, which passes over them once, and computes
    the bias corrections once for all weights. Only float32 weights with dense gradients have it, in one process or
    under ``MirroredStrategy`` or ``MultiWorkerMirroredStrategy``; ``amsgrad`` and everything else (other dtypes and
    backends, gradients of ``Embedding``) is left to Keras. Arguments, variables and saved files are those of Keras's
    optimizer, and each can go on where the other stopped.

    The updates are Keras's up to rounding, of which ``1 - beta_2`` has most: the operation computes it in float32, for
    0.999 as 0.0009999871. Second moments are up to 1.3e-5 of themselves smaller for it. The bias correction here is
    that of the rounded ``beta_2``, which makes up for it in the step; Keras's own steps are up to 1.0e-5 of themselves
    too small in the beginning, by the powers that it takes in float32.

    Args:
        args: As of ``keras.optimizers.Adam``.
        kwargs: As of ``keras.optimizers.Adam``.

    Example:
        >>> optimizer = Adam(1e-3)

    Reference:
        Kingma & Ba 2015 (arXiv:1412.6980), Algorithm 1, with the epsilon of the end of its section 2.
    """

    def update_step(self, gradient, variable, learning_rate):
        """Update one weight and its moments."""
        rates = self._rates(learning_rate)
        if not self._has_operation(gradient, variable, rates):
            return super().update_step(gradient, variable, rates.learning_rate)
        return self._apply_operation(gradient, variable, rates, self.epsilon)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        super()._backend_update_step(grads, trainable_variables, self._rates(learning_rate))

    def _rates(self, learning_rate) -> _Rates:
        """Numbers of this update; they are there already when `update_step` is called for all weights."""
        if isinstance(learning_rate, _Rates):
            return learning_rate
        if not (_is_tensorflow() and all(isinstance(beta, (int, float)) for beta in (self.beta_1, self.beta_2))):
            return _Rates(learning_rate, None, None)
        step = tf.cast(self.iterations + 1, "float32")
        # The operation has beta_2 in float32, so that is the one to correct for.
        mean, square = (_bias_correction(float(np.float32(beta)), step) for beta in (self.beta_1, self.beta_2))
        root = tf.sqrt(square)
        return _Rates(learning_rate, root, tf.cast(learning_rate, "float32") * root / mean)

    def _has_operation(self, gradient, variable, rates) -> bool:
        return rates.root is not None and not self.amsgrad and _is_plain(gradient, variable)

    def _apply_operation(self, gradient, variable, rates, epsilon):
        index = self._get_variable_index(variable)
        # The powers of the betas correct the learning rate only, and that is done.
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=0.0,
            beta2_power=0.0,
            lr=rates.corrected,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=epsilon,
            grad=tf.cast(gradient, "float32"),
        )


@keras.saving.register_keras_serializable("keras_cosmo")
class AdamL2(Adam):
    """Adam with L2 regularisation in the gradient: ``torch.optim.Adam(weight_decay=...)``.

    Every step adds ``l2`` times the weight to the gradient, for every trainable weight (kernels, biases, and scale
    and offset of batch normalisation), and only then updates the moments and the weight:

    ``g = gradient + l2 * weight``, ``m = beta_1 m + (1 - beta_1) g``, ``v = beta_2 v + (1 - beta_2) g**2``,
    ``weight -= learning_rate * m / (1 - beta_1**t) / (sqrt(v / (1 - beta_2**t)) + epsilon)``.

    This differs from two things of Keras. ``weight_decay`` of its optimizers (as in AdamW) shrinks the weight
    directly, past the moments, so that Adam does not rescale it. ``kernel_regularizer=keras.regularizers.L2(l2 / 2)``
    makes the same update, but is part of the reported loss, also that of the validation part, and has to be set for
    each weight of each layer.

    Args:
        learning_rate: Number or schedule. Defaults to 0.001.
        beta_1, beta_2: Decay rates of the moments. Defaults to 0.9 and 0.999.
        epsilon: Added to the root of the second moment after its bias correction, as in PyTorch; Keras adds its
            own before, which in the first steps weighs up to 1 / sqrt(1 - beta_2) = 32 times more. Defaults to
            1e-8, PyTorch's.
        l2: Strength of the regularisation. Defaults to 0, which is Adam.
        name: Name of the optimizer.
        kwargs: Further arguments of ``keras.optimizers.Adam``, except ``weight_decay`` and ``amsgrad``.

    Raises:
        ValueError: If ``l2`` is negative or not finite, or ``weight_decay`` or ``amsgrad`` is asked for.

    Example:
        >>> optimizer = AdamL2(1e-3, beta_1=0.5, l2=1e-4)

    Reference:
        Kingma & Ba 2015 (arXiv:1412.6980), Algorithm 1; Loshchilov & Hutter 2019 (arXiv:1711.05101), Algorithm 2,
        "Adam with L2 regularization".
    """

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-8, l2=0.0, name="adam_l2", **kwargs):
        if isinstance(l2, bool) or not isinstance(l2, (int, float)) or not 0 <= l2 < math.inf:
            raise ValueError(f"`l2`: expected a finite number of at least 0, got {l2!r}.")
        # Keras hands them over as None and False when it loads a saved optimizer.
        if kwargs.pop("weight_decay", None) is not None:
            raise ValueError("`weight_decay`: AdamL2 puts the decay into the gradient; give its strength as `l2`.")
        if kwargs.pop("amsgrad", False):
            raise ValueError("`amsgrad`: AdamL2 does not have it; use keras.optimizers.Adam.")
        super().__init__(
            learning_rate=learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, name=name, **kwargs
        )
        self.l2 = float(l2)

    def update_step(self, gradient, variable, learning_rate):
        """Update one weight and its moments."""
        rates = self._rates(learning_rate)
        if self._has_operation(gradient, variable, rates):
            if self.l2:
                gradient = tf.cast(gradient, "float32") + self.l2 * variable
            return self._apply_operation(gradient, variable, rates, self.epsilon * rates.root)
        dtype = variable.dtype
        index = self._get_variable_index(variable)
        momentum, velocity = self._momentums[index], self._velocities[index]
        gradient = ops.cast(gradient, dtype) + self.l2 * variable
        step = ops.cast(self.iterations + 1, dtype)

        self.assign_add(momentum, (gradient - momentum) * (1 - self.beta_1))
        self.assign_add(velocity, (ops.square(gradient) - velocity) * (1 - self.beta_2))
        mean = momentum / _bias_correction(self.beta_1, step)
        deviation = ops.sqrt(velocity / _bias_correction(self.beta_2, step))
        self.assign_sub(variable, ops.cast(rates.learning_rate, dtype) * mean / (deviation + self.epsilon))

    def get_config(self):
        """Configuration that rebuilds the optimizer."""
        return {**super().get_config(), "l2": self.l2}


def _is_tensorflow() -> bool:
    return keras.backend.backend() == "tensorflow"


def _is_float32(variable) -> bool:
    return keras.backend.standardize_dtype(variable.dtype) == "float32"


def _is_plain(gradient, variable) -> bool:
    """Whether it is a dense gradient of a float32 weight, of one process or a strategy whose replicas are alike."""
    alike = tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy
    return (
        isinstance(gradient, tf.Tensor)
        and _is_float32(variable)
        and (not tf.distribute.has_strategy() or isinstance(tf.distribute.get_strategy(), alike))
    )


def _bias_correction(beta, step):
    """``1 - beta**step``, where float32 would lose four digits for 0.999 if it were written like that."""
    return -ops.expm1(step * math.log(beta)) if beta > 0 else 1.0
