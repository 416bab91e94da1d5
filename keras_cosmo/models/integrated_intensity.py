"""The simplest model of Zhang et al. (2019): dust follows the HI intensity integrated over velocity."""

from collections.abc import Iterable

import numpy as np

from keras_cosmo.models.linear_combination import LinearCombination, as_cutouts, pairs, weighted_sum


class IntegratedIntensity:
    """Dust as the sum of the HI maps of all velocities, ``T' = sum_i I_i`` (Zhang et al. 2019, section 2.1).

    The baseline that every other model is judged by. It has no parameters: `predict` needs no `fit`. Correlations
    ignore amplitudes; to compare maps and their amplitudes, `fit` finds the one factor from the sum to the dust.

    Args:
        channel_width: Width of the velocity channels, km/s, one number or one per channel; then the sum is the
            integral over velocity in K km/s. Defaults to 1, the plain sum.
        pixel_size: Side of a pixel, arcmin; needed with ``ell_max`` only.
        ell_max: Find the factor from the modes with ``ell < ell_max``, as `LinearCombination` its weights. Defaults
            to None, all modes but the mean of a cutout.

    Attributes:
        scale: Factor from the sum to the dust, 1 before `fit`; then uK_RJ per K (or per K km/s).

    Input shape:
        HI times mask, ``(batch, height, width, n_channels)``, K; targets ``(batch, height, width, 2)``: dust times
        mask, uK_RJ, and the mask.

    Output shape:
        ``(batch, height, width)``, float64, K (or K km/s) before `fit`, uK_RJ after it.

    Raises:
        ValueError: If an argument is out of range, or on cutouts of a wrong shape or not finite.

    Example:
        >>> IntegratedIntensity(channel_width=1.25).predict(np.ones((1, 2, 2, 64)))[0].tolist()
        [[80.0, 80.0], [80.0, 80.0]]

    Reference:
        Zhang, Chiang, Sheehy, Slosar & Wang 2019 (arXiv:1904.13265), section 2.1.

    Deviations from the paper: none with the defaults; the factor and the channel width are ours.
    """

    def __init__(self, channel_width=1.0, pixel_size: float | None = None, ell_max: float | None = None):
        width = np.asarray(channel_width, dtype=np.float64)
        if width.ndim > 1 or not width.size or not (np.isfinite(width).all() and (width > 0).all()):
            raise ValueError(
                f"`channel_width`: expected a positive number of km/s, or one per channel, got {channel_width!r}."
            )
        self.channel_width = width
        self.scale = 1.0
        # The same model with one channel, the sum; here it also checks the other arguments.
        self._of_the_sum = LinearCombination(ridge=0.0, pixel_size=pixel_size, ell_max=ell_max)

    def fit(self, batches: Iterable) -> "IntegratedIntensity":
        """Find the factor that leaves the smallest squared difference on the training cutouts, read once.

        Args:
            batches: Iterable of pairs ``(hi, target)`` of the shapes above.

        Returns:
            This object.
        """
        sums = ((self._integrated(hi)[..., None], target) for hi, target in pairs(batches))
        self.scale = float(self._of_the_sum.fit(sums).weights[0])
        return self

    def predict(self, hi) -> np.ndarray:
        """The sum over the channels of cutouts ``(batch, height, width, n_channels)``, times `scale`."""
        return self.scale * self._integrated(as_cutouts("hi", hi))

    def _integrated(self, hi):
        channels = hi.shape[-1]
        if self.channel_width.size not in (1, channels):
            raise ValueError(
                f"`hi`: expected {self.channel_width.size} channels as `channel_width` has, got {channels}."
            )
        return weighted_sum(hi, np.broadcast_to(self.channel_width, channels))
