"""Optimizers that Keras does not have."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cosmo")
class AdamL2(keras.optimizers.Adam):
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
        dtype = variable.dtype
        index = self._get_variable_index(variable)
        momentum, velocity = self._momentums[index], self._velocities[index]
        gradient = ops.cast(gradient, dtype) + self.l2 * variable
        step = ops.cast(self.iterations + 1, dtype)

        self.assign_add(momentum, (gradient - momentum) * (1 - self.beta_1))
        self.assign_add(velocity, (ops.square(gradient) - velocity) * (1 - self.beta_2))
        mean = momentum / _bias_correction(self.beta_1, step)
        deviation = ops.sqrt(velocity / _bias_correction(self.beta_2, step))
        self.assign_sub(variable, ops.cast(learning_rate, dtype) * mean / (deviation + self.epsilon))

    def get_config(self):
        """Configuration that rebuilds the optimizer."""
        return {**super().get_config(), "l2": self.l2}


def _bias_correction(beta, step):
    """``1 - beta**step``, where float32 would lose four digits for 0.999 if it were written like that."""
    return -ops.expm1(step * math.log(beta)) if beta > 0 else 1.0
