"""Ridge regression from the summary statistics of a map, which a network has to beat on the same test split."""

import numpy as np

from keras_cosmo.models.feature_ridge import FeatureRidge
from keras_cosmo.statistics.distributions import map_moments
from keras_cosmo.statistics.spectra import power_spectrum

POWER_BINS = 8
SMALLEST_SIDE = 16
"""Cells of the shorter side of a map, of which no bin is without modes."""


class MapStatisticsRidge(FeatureRidge):
    """Ridge regression from mean, spread, quantiles and power spectrum of a map to the parameters.

    It sees what a reader of summary statistics would use: mean, standard deviation, skewness, kurtosis, five quantiles,
    and the logarithm of the power spectrum in eight bins, and the squares of all of these. A network that reads more
    from a map must score higher.

    Args:
        options: ``alphas`` and ``folds`` of `FeatureRidge`.

    Input shape:
        Maps ``(n, height, width, channels)`` in any one unit; or features ``(n, 34 * channels)``.

    Output shape:
        ``(n, n_parameters)`` in the units of the targets.

    Raises:
        ValueError: On maps of a wrong shape, with less than 16 cells along a side, or not finite, and as
            `FeatureRidge`.

    Example:
        >>> MapStatisticsRidge().features(np.random.default_rng(0).normal(size=(3, 32, 32, 1))).shape
        (3, 34)

    The paper (Villanueva-Domingo & Villaescusa-Navarro 2021) has no baseline; this one is ours.
    """

    def features(self, maps) -> np.ndarray:
        """Summary statistics and their squares, float64 ``(n, 34 * channels)``."""
        maps = np.asarray(maps, np.float64)
        if maps.ndim != 4:
            raise ValueError(f"maps: expected shape (n, height, width, channels), got {maps.shape}.")
        if min(maps.shape[1:3]) < SMALLEST_SIDE:
            raise ValueError(f"maps: expected {SMALLEST_SIDE} cells along each side at least, got {maps.shape[1:3]}.")
        columns = []
        for images in np.moveaxis(maps, -1, 0):
            moments = map_moments(images)
            quantiles = np.quantile(images, (0.02, 0.2, 0.5, 0.8, 0.98), axis=(1, 2))
            # The unit of length is the cell: only bins of wavenumber matter here.
            edges = np.geomspace(0.9 * 2 * np.pi / max(images.shape[1:]), np.pi, POWER_BINS + 1)
            power = power_spectrum(images, 1.0, edges).power
            floor = 1e-12 * power.max(axis=1, keepdims=True) + 1e-300
            columns += [*map(np.nan_to_num, moments), *quantiles, *np.log10(np.maximum(power, floor)).T]
        table = np.stack(columns, axis=1)
        return np.concatenate([table, table**2], axis=1)
