"""One-point statistics of maps: distribution of normalised pixel values, moments, and where large values lie.

A map is normalised by itself: its own mean subtracted and divided by its own standard deviation, as in figure 5 of
Villanueva-Domingo & Villaescusa-Navarro (2021, ApJ 907, 44, section IV.2). A map that is the same everywhere cannot be
normalised: its row is NaN and it is left out of means over maps. All sums are float64.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from keras_cosmo.statistics.spectra import map_batches

# Steps of the grid on which cumulative distributions are compared, in standard deviations.
_CUMULATIVE_EDGES = np.linspace(-12.0, 12.0, 24001)
# Rounding leaves deviations of a few epsilon times the values of a map; less than this is a constant map.
_ROUNDING = 32 * np.finfo(np.float64).eps


class MapDistribution(NamedTuple):
    """Distribution of the normalised pixel values of each map.

    Args:
        edges: Edges of the bins in standard deviations, ``(n_bins + 1,)``.
        density: Probability density, ``(n_maps, n_bins)``. It integrates to the fraction of the pixels within the
            edges. NaN for a map that is the same everywhere.
    """

    edges: np.ndarray
    density: np.ndarray

    @property
    def centres(self) -> np.ndarray:
        """Centres of the bins, ``(n_bins,)``."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])


class MapMoments(NamedTuple):
    """Moments of the pixel values of each map, ``(n_maps,)`` each.

    Args:
        mean: Mean, in the unit of the maps.
        standard_deviation: Population standard deviation, in the unit of the maps.
        skewness: Third standardised moment, 0 for a Gaussian map. NaN for a map that is the same everywhere.
        kurtosis: Fourth standardised moment less 3, 0 for a Gaussian map. NaN for a map that is the same everywhere.
    """

    mean: np.ndarray
    standard_deviation: np.ndarray
    skewness: np.ndarray
    kurtosis: np.ndarray


def normalize_maps(maps) -> np.ndarray:
    """Each map with its own mean subtracted, in units of its own standard deviation; NaN for a constant map.

    Args:
        maps: Real maps ``(n_maps, nx, ny)``, which must fit into memory in float64.

    Raises:
        TypeError: If the maps are not real numbers.
        ValueError: On a wrong shape or values that are not finite.

    Example:
        >>> normalize_maps(np.array([[[1.0, 3.0], [3.0, 1.0]]])).tolist()
        [[[-1.0, 1.0], [1.0, -1.0]]]
    """
    return np.concatenate([_normalize(batch)[0] for _, batch in map_batches(maps)])


def normalized_distribution(maps, edges=None) -> MapDistribution:
    """Distribution of the normalised pixel values of each map: figure 5 of the paper.

    Args:
        maps: Real maps ``(n_maps, nx, ny)``, or an open HDF5 dataset of that shape, which is read in batches.
        edges: Rising edges of the bins in standard deviations. Defaults to steps of 0.1 from -4 to 6.

    Raises:
        TypeError: If the maps are not real numbers.
        ValueError: On a wrong shape, values that are not finite, or edges that do not rise.

    Example:
        >>> distribution = normalized_distribution(np.random.default_rng(0).normal(size=(2, 100, 100)))
        >>> (distribution.density.sum(axis=1) * 0.1).round(2).tolist()
        [1.0, 1.0]
    """
    edges = np.linspace(-4.0, 6.0, 101) if edges is None else _check_edges(edges)
    rows = [_density(image, edges) for _, batch in map_batches(maps) for image in _normalize(batch)[0]]
    return MapDistribution(edges, np.stack(rows))


def distribution_distance(true, predicted) -> float:
    """Kolmogorov-Smirnov distance of the normalised pixels of all true maps from those of all predicted maps.

    The largest difference between the two cumulative distributions: 0 where they agree, at most 1. It is evaluated on
    a grid of 0.001 standard deviations from -12 to 12, which keeps memory small and may miss at most the part of the
    pixels within one step. Pixels of one map are not independent, so that no significance can be read from it: compare
    it with that of a baseline. The numbers of maps may differ.

    Args:
        true: True maps ``(n_maps, nx, ny)``, an array or an open HDF5 dataset.
        predicted: Predicted maps.

    Returns:
        The distance; NaN if all maps of one set are the same everywhere.

    Raises:
        TypeError: If maps are not real numbers.
        ValueError: On a wrong shape or values that are not finite.

    Example:
        >>> maps = np.random.default_rng(0).normal(size=(2, 50, 50))
        >>> distribution_distance(maps, 3.0 * maps + 1.0) < 1e-3, distribution_distance(maps, np.exp(maps)) > 0.1
        (True, True)
    """
    return float(np.abs(_cumulative(true, "true") - _cumulative(predicted, "predicted")).max())


def map_moments(maps) -> MapMoments:
    """Mean, standard deviation, skewness and excess kurtosis of the pixel values of each map.

    Args:
        maps: Real maps ``(n_maps, nx, ny)``, or an open HDF5 dataset of that shape, which is read in batches.

    Raises:
        TypeError: If the maps are not real numbers.
        ValueError: On a wrong shape or values that are not finite.

    Example:
        >>> map_moments(np.array([[[0.0, 0.0], [0.0, 4.0]]])).skewness.round(4)
        array([1.1547])
    """
    parts = []
    for _, batch in map_batches(maps):
        normalized, mean, deviation = _normalize(batch)
        cubes = np.mean(normalized**3, axis=(1, 2))
        parts.append((mean, deviation, cubes, np.mean(normalized**4, axis=(1, 2)) - 3.0))
    return MapMoments(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def brightest_pixels(maps, fraction: float = 0.02) -> np.ndarray:
    """The pixels with the largest absolute values of each map, such as of a saliency map.

    Args:
        maps: Real maps ``(n_maps, nx, ny)``.
        fraction: Part of the pixels of each map, rounded to whole pixels and at least one. Pixels that equal the
            faintest of them are chosen by their place, so that each map has the same number.

    Returns:
        Booleans ``(n_maps, nx, ny)``.

    Raises:
        TypeError: If the maps are not real numbers.
        ValueError: On a wrong shape, values that are not finite, or a fraction outside (0, 1].

    Example:
        >>> brightest_pixels(np.array([[[1.0, -5.0], [3.0, 2.0]]]), fraction=0.5).tolist()
        [[[False, True], [True, False]]]
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: expected a part of the pixels, above 0 and at most 1, got {fraction}.")
    chosen = []
    for _, batch in map_batches(maps):
        sizes = np.abs(batch).reshape(len(batch), -1)
        count = max(1, round(fraction * sizes.shape[1]))
        order = np.argsort(-sizes, axis=1, kind="stable")[:, :count]
        mask = np.zeros(sizes.shape, bool)
        np.put_along_axis(mask, order, True, axis=1)
        chosen.append(mask.reshape(batch.shape))
    return np.concatenate(chosen)


def mean_at_brightest(maps, saliency, fraction: float = 0.02) -> np.ndarray:
    """Mean of the normalised map over the pixels where another map is brightest, for each map.

    With the brightness temperature and its saliency it says where a network looks: above 0 at pixels warmer than the
    mean of their map, which in absorption are the underdense ones (section IV.5 of the paper), below 0 at colder ones,
    and 0 on average if the network looks anywhere.

    Args:
        maps: Real maps ``(n_maps, nx, ny)``.
        saliency: Maps of the same shape; `brightest_pixels` says which pixels count.
        fraction: Part of the pixels.

    Returns:
        Shape ``(n_maps,)`` in standard deviations, NaN for a map that is the same everywhere.

    Raises:
        TypeError: If maps are not real numbers.
        ValueError: On shapes that differ, values that are not finite, or a fraction outside (0, 1].

    Example:
        >>> maps = np.array([[[1.0, 3.0], [3.0, 1.0]]])
        >>> mean_at_brightest(maps, -maps, 0.5), mean_at_brightest(maps, 1 / maps, 0.5)
        (array([1.]), array([-1.]))
    """
    normalized, chosen = normalize_maps(maps), brightest_pixels(saliency, fraction)
    if chosen.shape != normalized.shape:
        raise ValueError(f"saliency: expected the shape of maps, {normalized.shape}, got {chosen.shape}.")
    return np.mean(normalized[chosen].reshape(len(chosen), -1), axis=1)


def rank_correlation(first, second) -> np.ndarray:
    """Spearman's rank correlation of two sets of maps over the pixels of each map, such as of saliency maps.

    Args:
        first: Maps ``(..., height, width)``, without an axis of channels.
        second: As many of the same shape.

    Returns:
        Of shape ``(...)``, from -1 to 1; NaN where a map is constant.

    Raises:
        ValueError: If the shapes differ or have less than two axes.

    Example:
        >>> maps = np.array([[1.0, 5.0], [3.0, 2.0]])
        >>> float(rank_correlation(maps, maps**3)), float(rank_correlation(maps, -maps))
        (1.0, -1.0)
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or first.ndim < 2:
        raise ValueError(
            f"`first`, `second`: expected equal shapes (..., height, width), got {first.shape} and {second.shape}."
        )
    ranks = [rankdata(values.reshape(*first.shape[:-2], -1), axis=-1) for values in (first, second)]
    ranks = [values - values.mean(axis=-1, keepdims=True) for values in ranks]
    scale = np.sqrt(np.prod([(values**2).sum(axis=-1) for values in ranks], axis=0))
    covariance = np.asarray((ranks[0] * ranks[1]).sum(axis=-1))
    return np.divide(covariance, scale, out=np.full(covariance.shape, np.nan), where=scale > 0)


def _normalize(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, deviation = batch.mean(axis=(1, 2)), batch.std(axis=(1, 2))
    deviation = np.where(deviation > _ROUNDING * np.abs(batch).max(axis=(1, 2)), deviation, 0.0)
    usable = np.where(deviation > 0, deviation, np.nan)
    return (batch - mean[:, None, None]) / usable[:, None, None], mean, deviation


def _density(image: np.ndarray, edges: np.ndarray) -> np.ndarray:
    if np.isnan(image[0, 0]):
        return np.full(len(edges) - 1, np.nan)
    return np.histogram(image, edges)[0] / (image.size * np.diff(edges))


def _cumulative(maps, name: str) -> np.ndarray:
    counts, total = np.zeros(len(_CUMULATIVE_EDGES) - 1), 0
    below = 0
    for _, batch in map_batches(maps, name):
        pixels = _normalize(batch)[0]
        pixels = pixels[~np.isnan(pixels)]
        counts += np.histogram(pixels, _CUMULATIVE_EDGES)[0]
        below += np.count_nonzero(pixels < _CUMULATIVE_EDGES[0])
        total += pixels.size
    return (below + np.cumsum(counts)) / total if total else np.full(counts.shape, np.nan)


def _check_edges(edges) -> np.ndarray:
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not np.isfinite(edges).all() or not np.all(np.diff(edges) > 0):
        raise ValueError(f"edges: expected at least two rising values, got {edges.tolist()}.")
    return edges
