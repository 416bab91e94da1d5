"""Whether a flow can still be inverted, epoch by epoch."""

import logging

import keras
import numpy as np

logger = logging.getLogger(__name__)

# Of latent variables with deviation 1.
LARGEST_ERROR = 0.01


class InversionMonitor(keras.callbacks.Callback):
    """Logs after every epoch how well a flow inverts itself: a Keras callback for `HIGlow`.

    A flow is exact in theory; in float32 scales that grow during training lose digits, and then samples and densities
    no longer belong together. The same latent variables, normal, and parameters, uniform over the range of the
    training, are taken to maps and back. The largest difference is logged, with a warning from 0.01 on, or if it is
    not finite; callbacks that follow find it in the epoch's logs as ``latent_inversion_error``.

    Args:
        maps: Number of maps. Defaults to 8.
        seed: Of latent variables and parameters. Defaults to 0.

    Example:
        >>> from keras_cosmo.models.higlow import HIGlow
        >>> flow = HIGlow((4, 4), ("Omega_m",), (0.1,), (0.5,), "none", blocks=1, steps=1)
        >>> monitor, logs = InversionMonitor(), {}
        >>> monitor.set_model(flow)
        >>> monitor.on_epoch_end(0, logs)
        >>> logs["latent_inversion_error"] < 1e-5
        True
    """

    def __init__(self, maps: int = 8, seed: int = 0):
        super().__init__()
        if maps < 1:
            raise ValueError(f"`maps`: expected at least 1, got {maps}.")
        self.maps, self.seed = maps, seed

    def on_epoch_end(self, epoch, logs=None):
        """Measure, log and, where it is needed, warn."""
        error = self.error()
        if logs is not None:
            logs["latent_inversion_error"] = error
        if error <= LARGEST_ERROR:
            logger.info("Epoch %d: latent variables come back from maps to %.2g.", epoch + 1, error)
            return
        logger.warning(
            "Epoch %d: latent variables come back from maps with errors of up to %.2g, so that samples and densities "
            "no longer belong together. Train with a lower learning rate, or fewer steps.",
            epoch + 1,
            error,
        )

    def error(self) -> float:
        """Largest difference of a latent variable on its way to a map and back."""
        flow, generator = self.model, np.random.default_rng(self.seed)
        latent = generator.standard_normal((self.maps, np.prod(flow.map_shape))).astype("float32")
        shape = (self.maps, len(flow.parameter_names))
        parameters = generator.uniform(flow.parameter_low, flow.parameter_high, shape).astype("float32")
        maps = flow.from_latent(latent, parameters)
        try:
            back = flow.latent(maps, parameters)
        except ValueError:
            # Maps that are not finite, or outside of what the transform takes, are refused.
            return float("inf")
        return float(np.max(np.abs(np.asarray(back) - latent)))
