"""The best linear, isotropic reconstruction of maps: a baseline for networks."""

import math
from collections.abc import Iterable

import numpy as np


class WienerFilter:
    """Linear reconstruction of target maps from input maps, mode by mode in Fourier space.

    Every annulus of wavenumber |k| has its own real matrix ``W(k) = P_xx(k)^-1 P_xy(k)``, with the auto and cross
    power spectra of the training maps after subtraction of the training means. Of all filters that are constant in
    the annuli this one leaves the smallest mean squared error on the training maps, and no other one correlates
    better with the target at any k. A network that does no better has learnt no more than power spectra.

    Maps are taken as periodic; of others the margins suffer, about one correlation length wide.

    Args:
        ridge: Fraction of its own power added to the power of every input channel before inversion, which keeps
            (nearly) identical channels and annuli with few modes solvable. Defaults to 1e-8.

    Attributes:
        wavenumber: Mean |k| of the modes in each annulus, radians per cell, ``(n_annuli,)``; annuli are
            one fundamental mode of the shorter side wide, the first one holds k = 0 alone.
        response: ``W``, target unit per input unit, ``(n_annuli, c_in, c_out)``.
        input_mean, target_mean: Means of the training maps, ``(c_in,)`` and ``(c_out,)``.

    Input shape:
        Maps ``(batch, height, width, c_in)`` in any unit, such as mK; targets ``(batch, height, width, c_out)``.

    Output shape:
        ``(batch, height, width, c_out)``, float64, unit of the targets.

    Raises:
        ValueError: If ``ridge`` is negative, on maps of a wrong shape or not finite, and on prediction before fitting.

    Example:
        >>> wiener_filter = WienerFilter()
        >>> density = wiener_filter.fit(training_batches).predict(maps)  # doctest: +SKIP

    Reference:
        Wiener 1949; for maps with several channels Tegmark & Efstathiou 1996, MNRAS 281, 1297.

    Villanueva-Domingo & Villaescusa-Navarro (2021) have no linear baseline; this one is ours.
    """

    def __init__(self, ridge: float = 1e-8):
        if not (isinstance(ridge, (int, float)) and 0 <= ridge < math.inf):
            raise ValueError(f"`ridge`: expected a finite number of at least 0, got {ridge!r}.")
        self.ridge = float(ridge)
        self.wavenumber = self.response = self.input_mean = self.target_mean = None
        self._shape = self._annulus = None

    def fit(self, batches: Iterable) -> "WienerFilter":
        """Fit to the training part, read once, batch by batch.

        Args:
            batches: Iterable of pairs ``(maps, targets)`` of the shapes above.

        Returns:
            This object.
        """
        shape = None
        for pair in batches:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ValueError(f"`batches`: expected pairs (maps, targets), got {type(pair).__name__}.")
            maps, targets = (_as_maps(name, values) for name, values in zip(("maps", "targets"), pair, strict=True))
            if maps.shape[:3] != targets.shape[:3]:
                raise ValueError(
                    f"`batches`: maps and targets must agree in number, height and width, got {maps.shape} and "
                    f"{targets.shape}."
                )
            if shape is None:
                shape = (maps.shape[1:], targets.shape[1:])
                annulus, weight, wavenumber = _annuli(*shape[0][:2])
                # Close to the means, so that the power at k = 0 is not a difference of large numbers.
                first = np.concatenate([maps.mean(axis=(0, 1, 2)), targets.mean(axis=(0, 1, 2))])
                power = np.zeros((len(wavenumber), len(first), len(first)))
                total, count = np.zeros(len(first)), 0
            elif (maps.shape[1:], targets.shape[1:]) != shape:
                raise ValueError(
                    f"`batches`: expected maps and targets of shape {shape[0]} and {shape[1]} as in the first batch, "
                    f"got {maps.shape[1:]} and {targets.shape[1:]}."
                )
            fields = np.concatenate([maps, targets], axis=-1) - first
            total += fields.sum(axis=(0, 1, 2))
            count += fields.shape[0] * fields.shape[1] * fields.shape[2]
            power += _power(np.fft.rfft2(fields, axes=(1, 2)), annulus, weight, len(wavenumber))
        if shape is None:
            raise ValueError("`batches`: expected at least one batch of maps, got none.")
        channels = shape[0][2]
        mean = total / count
        # The first annulus is k = 0 alone, where a map has its sum over cells.
        power[0] -= count * math.prod(shape[0][:2]) * np.outer(mean, mean)
        auto, cross = power[:, :channels, :channels], power[:, :channels, channels:]
        diagonal = np.einsum("kii->ki", auto)
        # A channel without power in an annulus gets no weight there.
        diagonal += np.where(diagonal > 0, self.ridge * diagonal, 1.0)
        self.response = np.linalg.solve(auto, cross)
        self.wavenumber = wavenumber
        self.input_mean, self.target_mean = np.split(first + mean, [channels])
        self._shape, self._annulus = shape[0], annulus
        return self

    def predict(self, maps) -> np.ndarray:
        """Reconstructed targets of maps ``(batch, height, width, c_in)`` of the size that was fitted."""
        if self.response is None:
            raise ValueError("WienerFilter is not fitted: call fit with batches of the training part first.")
        maps = _as_maps("maps", maps)
        if maps.shape[1:] != self._shape:
            raise ValueError(f"`maps`: the filter was fitted to maps of shape {self._shape}, got {maps.shape[1:]}.")
        modes = np.fft.rfft2(maps - self.input_mean, axes=(1, 2))
        filtered = np.einsum("bhwi,hwio->bhwo", modes, self.response[self._annulus])
        return np.fft.irfft2(filtered, s=self._shape[:2], axes=(1, 2)) + self.target_mean


def _annuli(height, width):
    """Annulus of each mode of ``rfft2``, how often it counts in the whole plane, and the mean |k| of each annulus."""
    k = 2 * np.pi * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    annulus = np.rint(k * min(height, width) / (2 * np.pi)).astype(int)
    # On a long map the first annulus would hold more than k = 0.
    annulus[(annulus == 0) & (k > 0)] = 1
    _, annulus = np.unique(annulus, return_inverse=True)
    annulus = annulus.reshape(k.shape)
    weight = np.full(k.shape, 2.0)
    weight[:, 0] = 1
    if width % 2 == 0:
        weight[:, -1] = 1
    number = np.bincount(annulus.ravel(), weight.ravel())
    return annulus, weight, np.bincount(annulus.ravel(), (k * weight).ravel()) / number


def _power(modes, annulus, weight, n_annuli):
    """Sums of ``conj(a) b`` over maps and the modes of each annulus; real, as k and -k are in the same one."""
    channels = modes.shape[-1]
    power = np.empty((n_annuli, channels, channels))
    for i in range(channels):
        for j in range(i, channels):
            product = (np.conj(modes[..., i]) * modes[..., j]).real.sum(axis=0) * weight
            power[:, i, j] = power[:, j, i] = np.bincount(annulus.ravel(), product.ravel(), n_annuli)
    return power


def _as_maps(name, values):
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 4:
        raise ValueError(f"`{name}`: expected shape (batch, height, width, channels), got {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"`{name}`: expected finite maps, got NaN or infinity.")
    return values
