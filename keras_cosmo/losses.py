"""Losses in physical units, differentiable, written in ``keras.ops``."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cosmo")
class StandardizedMeanSquaredError(keras.losses.Loss):
    """Mean squared error of quantities in physical units, each in units of its own standard deviation.

    Networks of this package take and return physical units, so that a saved model needs no companion
    file. The loss divides the residual by the standard deviation that the training targets have, which
    makes it the mean squared error between standardised quantities (Gillet et al. 2019, section 3.3):

    ``loss = mean over parameters of ((y_pred - y_true) / standard_deviation)**2``

    Args:
        standard_deviation: Sequence of positive floats, one per parameter, in the parameter's unit.
        reduction: As in ``keras.losses.Loss``.
        name: Name of the loss.

    Call arguments:
        y_true, y_pred: Tensors of shape ``(batch, parameters)``, physical units.

    Raises:
        ValueError: If a standard deviation is not positive and finite.

    Example:
        >>> loss = StandardizedMeanSquaredError([10.0, 0.5])
        >>> float(loss([[100.0, 40.0]], [[110.0, 40.5]]))
        1.0
    """

    def __init__(
        self,
        standard_deviation,
        reduction="sum_over_batch_size",
        name="standardized_mean_squared_error",
        **kwargs,
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.standard_deviation = [float(value) for value in standard_deviation]
        if not all(0 < value < float("inf") for value in self.standard_deviation):
            raise ValueError(
                "StandardizedMeanSquaredError: expected positive finite `standard_deviation` for every parameter, "
                f"got {self.standard_deviation}. A parameter that never varies cannot be learned: leave it out."
            )

    def call(self, y_true, y_pred):
        """Squared standardised residual, averaged over the last axis: ``(batch, n)`` -> ``(batch,)``."""
        y_pred = ops.convert_to_tensor(y_pred)
        y_true = ops.cast(y_true, y_pred.dtype)
        residual = (y_pred - y_true) / ops.convert_to_tensor(self.standard_deviation, dtype=y_pred.dtype)
        return ops.mean(ops.square(residual), axis=-1)

    def get_config(self):
        """Configuration that rebuilds the loss."""
        return {**super().get_config(), "standard_deviation": self.standard_deviation}
