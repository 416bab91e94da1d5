"""The Gaussian beam of an intensity map in its power spectrum, and the spectrum before the beam.

A beam ``exp(-r^2 / 2 sigma^2)`` of unit area multiplies the Fourier transform of a map by ``exp(-k^2 sigma^2 / 2)`` and
its power spectrum by ``exp(-k^2 sigma^2)``, so that ``P(k) = exp(k^2 sigma^2) P_smoothed(k)`` (footnote 5 of Moriwaki
et al. 2020, MNRAS 496, L54, who take sigma = 1.2 arcmin). Undoing it multiplies whatever else the smoothed spectrum
holds by the same factor: noise, rounding, and the power that the sides of a map that does not wrap around scatter to
all k. The last comes first: `keras_cosmo.statistics.line_maps` says how much there is and how to taper the maps.
Wavenumbers are ``2 pi / wavelength`` in the inverse unit of sigma.
"""

import numpy as np


def beam_transfer(k, sigma: float) -> np.ndarray:
    """Factor ``exp(-k^2 sigma^2 / 2)`` by which the beam lowers amplitudes; its square lowers power.

    Args:
        k: Wavenumbers, such as in 1/arcmin, any shape.
        sigma: Standard deviation of the beam, such as in arcmin; 0 for none.

    Raises:
        ValueError: If a wavenumber or sigma is negative or not finite.

    Example:
        >>> beam_transfer([0.0, 1.0], 1.2).round(4).tolist()
        [1.0, 0.4868]
    """
    k = np.asarray(k, dtype=np.float64)
    if not np.all(np.isfinite(k) & (k >= 0)):
        raise ValueError(f"k: expected wavenumbers of at least 0, such as in 1/arcmin, got {k.tolist()}.")
    if not (np.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma: expected the beam's standard deviation, such as 1.2 arcmin, at least 0, got {sigma}.")
    return np.exp(-0.5 * (k * sigma) ** 2)


def unsmooth_power(
    k, power, sigma: float, *, noise_power=None, largest_amplification: float = 1e3, largest_noise_fraction: float = 0.5
) -> np.ndarray:
    """Power spectrum before the beam from that after it, where it can be had; NaN elsewhere.

    Args:
        k: Wavenumbers, ``(n_k,)``.
        power: Power spectra of the smoothed maps, ``(..., n_k)``.
        sigma: Standard deviation of the beam in the inverse unit of `k`.
        noise_power: Mean power that was added after the beam, a number (white noise of variance ``s^2`` per pixel has
            ``s^2 cell_size^2``) or ``(n_k,)``. It is subtracted before the beam is undone. For the rounding of maps
            kept as float32 take ``s = 3e-8`` times the values.
        largest_amplification: Wavenumbers at which the power would be multiplied by more than this are NaN.
        largest_noise_fraction: Wavenumbers at which the noise makes up more than this part of the spectrum, averaged
            over all leading axes, are NaN. One mask for all maps, so that means over maps stay means over all of them.

    Returns:
        Shape of `power`. A value may be negative where noise was subtracted.

    Raises:
        ValueError: On shapes that do not match, negative or not finite values, or limits out of range.

    Example:
        >>> k = np.array([0.5, 1.0, 2.0, 3.0])
        >>> smoothed = 7.0 * beam_transfer(k, 1.2) ** 2
        >>> unsmooth_power(k, smoothed, 1.2).round(9).tolist()
        [7.0, 7.0, 7.0, nan]
    """
    k, power = np.asarray(k, dtype=np.float64), np.asarray(power, dtype=np.float64)
    if k.ndim != 1 or power.ndim < 1 or power.shape[-1] != len(k):
        raise ValueError(
            f"power: expected shape (..., n_k) for k of shape (n_k,), got {power.shape} for {k.shape}; "
            f"pass the k and power of one power_spectrum."
        )
    if not np.all(np.isfinite(power) & (power >= 0)):
        raise ValueError("power: expected finite values of at least 0, got others.")
    if not (np.isfinite(largest_amplification) and largest_amplification >= 1):
        raise ValueError(f"largest_amplification: expected at least 1, got {largest_amplification}.")
    if not 0 < largest_noise_fraction <= 1:
        raise ValueError(f"largest_noise_fraction: expected above 0 and at most 1, got {largest_noise_fraction}.")
    transfer = beam_transfer(k, sigma) ** 2
    # A beam that rounds to nothing must not become a division by zero.
    usable = transfer * largest_amplification >= 1.0 - 1e-12
    if noise_power is not None:
        noise = np.asarray(noise_power, dtype=np.float64)
        if noise.shape not in ((), k.shape) or not np.all(np.isfinite(noise) & (noise >= 0)):
            raise ValueError(
                f"noise_power: expected one power of at least 0 or one for each of the {len(k)} wavenumbers, "
                f"got shape {noise.shape} of {noise_power!r}."
            )
        mean = power.reshape(-1, len(k)).mean(axis=0)
        usable &= noise <= largest_noise_fraction * mean
        power = power - noise
    return np.where(usable, power / np.where(usable, transfer, 1.0), np.nan)
