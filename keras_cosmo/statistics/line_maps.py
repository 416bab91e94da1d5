"""How well emission lines were separated: mean intensity, power spectrum, leakage between lines, pixels and peaks.

Section 3 of Moriwaki et al. (2020, MNRAS 496, L54). Sets of maps are ``(n_maps, nx, ny, n_lines)`` with the lines in
one order, cells are squares of ``cell_size`` arcmin and wavenumbers ``2 pi / wavelength`` in 1/arcmin. Errors are over
simulations, because maps of one simulation share their structures. All sums are float64.

Maps of the sky do not wrap around. Their spectra are taken as if they did, like those of figure 3 of the paper: the
steps between opposite sides scatter power of large scales to all k, most visibly where the beam has left little. In
Gaussian maps of 256 pixels of 0.4 arcmin, cut out of a larger one with a beam of 1.2 arcmin and a spectrum like that of
Halpha, power is 5% too high at 0.9 to 1.8 per arcmin, 50% at 1.8 to 2.2, and nothing but this beyond 3; in maps of 64
pixels it is 5% and a factor of 2.7. A taper over a tenth of the side (`apodize`) leaves 2% and 4% in maps of 256
pixels; its price is a wider coupling between neighbouring k and errors that are a tenth larger. Either way, scales near
the size of the map lose power with the map's own mean: 10% below 0.45 per arcmin for 256 pixels, 26% for 64.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from keras_cosmo.statistics.distributions import distribution_distance
from keras_cosmo.statistics.peaks import agreement_curve, bootstrap_draws, find_peaks, match_peaks, score_peaks
from keras_cosmo.statistics.spectra import (
    FourierBins,
    MapSummary,
    SpectrumComparison,
    map_batches,
    over_maps,
    power_spectrum,
)

#: Edges of the default bands in 1/arcmin: from the scale of a map to where a beam of 1.2 arcmin leaves 1% of the power.
BAND_EDGES = (0.0, 0.45, 0.9, 1.8)
_ROUNDING = 32 * np.finfo(np.float64).eps


class MeanAccuracy(NamedTuple):
    """Accuracy of the mean intensity of single maps (figure 2 of the paper), each with its standard error.

    The fractional error is ``predicted / true - 1``.

    Args:
        median: Median fractional error.
        half_width: Half of the distance between the 16th and the 84th percentile of the fractional error.
        rms: Root mean square of the fractional error.
        correlation: Pearson's coefficient between true and predicted means; NaN if one of them does not vary.
        median_standard_error: From a bootstrap over simulations, NaN with fewer than two simulations; so are the rest.
        half_width_standard_error: See above.
        rms_standard_error: See above.
        correlation_standard_error: See above.
    """

    median: float
    half_width: float
    rms: float
    correlation: float
    median_standard_error: float
    half_width_standard_error: float
    rms_standard_error: float
    correlation_standard_error: float


class LineSpectra(NamedTuple):
    """Auto and cross spectra of all true and predicted lines, map by map, in (unit of the maps)^2 arcmin^2.

    Args:
        k: Mean wavenumber of the modes in each bin in 1/arcmin, ``(n_k,)``.
        modes: Number of modes in each bin, ``(n_k,)``.
        true: Real parts of the cross spectra of the true lines, ``(n_maps, n_k, n_lines, n_lines)``.
        cross: Of predicted lines with true lines, ``(n_maps, n_k, predicted line, true line)``.
        predicted: Auto spectra of the predicted lines, ``(n_maps, n_k, n_lines)``.
    """

    k: np.ndarray
    modes: np.ndarray
    true: np.ndarray
    cross: np.ndarray
    predicted: np.ndarray

    def line(self, index: int) -> SpectrumComparison:
        """Spectra of one line and its prediction: transfer function, correlation coefficient."""
        return SpectrumComparison(
            self.k, self.true[..., index, index], self.predicted[..., index], self.cross[..., index, index]
        )


class LineTransfer(NamedTuple):
    """What of each true line there is in each predicted line, scale by scale.

    Args:
        k: Wavenumbers in 1/arcmin, ``(n_k,)``.
        coefficients: ``(n_k, predicted line, true line)``: 1 on and 0 off the diagonal for a perfect separation.
        standard_error: From a bootstrap over simulations, same shape; NaN with fewer than two simulations.
    """

    k: np.ndarray
    coefficients: np.ndarray
    standard_error: np.ndarray


def apodize(maps, fraction: float):
    """Maps whose sides fall smoothly to their mean, for spectra of maps that do not wrap around.

    Over a part of the map at each side, the difference from the map's mean is multiplied by half a period of a squared
    sine along each axis; all is divided by the root mean square of this window, so that white noise keeps its power.

    Args:
        maps: Real maps ``(n_maps, nx, ny)``, an array or an open HDF5 dataset.
        fraction: Part of the side over which the window rises, at most 0.5; 0 gives the maps as they are.

    Returns:
        Something that has a shape and gives float64 maps when it is sliced, for `power_spectrum`, `compare_spectra`
        and the like; nothing is computed before.

    Raises:
        ValueError: If the fraction is out of range.

    Example:
        >>> slope = np.arange(9.0)[None, :, None] * np.ones(9)  # its mean is 4
        >>> apodize(slope, 0.5)[:1][0, ::4, 4].round(1).tolist()
        [4.0, 4.0, 4.0]
    """
    if not 0 <= fraction <= 0.5:
        raise ValueError(f"fraction: expected a part of the side of the map, from 0 to 0.5, got {fraction}.")
    return _ApodizedMaps(maps, fraction) if fraction > 0 else maps


class _ApodizedMaps:
    def __init__(self, maps, fraction: float):
        self.shape, self.dtype = tuple(maps.shape), np.dtype(np.float64)
        self._maps = maps
        window = np.multiply.outer(*(_taper(cells, fraction) for cells in self.shape[1:3]))
        self._window = window / np.sqrt(np.mean(window**2))

    def __getitem__(self, rows) -> np.ndarray:
        values = np.asarray(self._maps[rows], dtype=np.float64)
        mean = values.mean(axis=(-2, -1), keepdims=True)
        return mean + (values - mean) * self._window


def _taper(cells: int, fraction: float) -> np.ndarray:
    distance = np.minimum(np.arange(cells), np.arange(cells)[::-1]) / (fraction * (cells - 1))
    return np.sin(0.5 * np.pi * np.minimum(distance, 1.0)) ** 2


def mean_intensity(maps) -> np.ndarray:
    """Mean of each map, ``(n_maps,)``, of an array or an open HDF5 dataset ``(n_maps, nx, ny)``."""
    return np.concatenate([batch.mean(axis=(1, 2)) for _, batch in map_batches(maps)])


def mean_accuracy(true, predicted, simulation=None, *, bootstrap_sets: int = 1000, seed: int = 0) -> MeanAccuracy:
    """Accuracy of the mean intensities of single maps.

    Args:
        true: True mean of each map, positive, ``(n_maps,)``; see `mean_intensity`.
        predicted: Predicted means ``(n_maps,)``, or of several networks ``(n_networks, n_maps)``, of which the median
            is taken for each map (section 3.2 of the paper, five networks).
        simulation: Simulation id of each map, integers ``(n_maps,)``. Without it, every map counts as independent.
        bootstrap_sets: Number of bootstrap sets, at least 2.
        seed: Seed of the draws.

    Raises:
        ValueError: On shapes that do not match, values that are not finite, or a true mean that is not positive.

    Example:
        >>> accuracy = mean_accuracy([1.0, 2.0, 4.0], [1.1, 2.2, 4.4])
        >>> round(accuracy.median, 6), round(accuracy.half_width, 6), round(accuracy.correlation, 6)
        (0.1, 0.0, 1.0)
    """
    true, predicted = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if true.ndim != 1 or not len(true) or not np.all(np.isfinite(true) & (true > 0)):
        raise ValueError(
            f"true: expected positive means of shape (n_maps,), got shape {true.shape}"
            f"{'' if true.ndim != 1 else f' with {np.count_nonzero(~(true > 0))} that are not positive'}."
        )
    if predicted.shape[-1:] != true.shape or predicted.ndim > 2 or not np.isfinite(predicted).all():
        raise ValueError(
            f"predicted: expected finite means of shape {true.shape} or (n_networks, {len(true)}), "
            f"got shape {predicted.shape}."
        )
    predicted = np.median(np.atleast_2d(predicted), axis=0)
    table = np.stack([true, predicted])

    def statistics(columns: np.ndarray) -> np.ndarray:
        error = columns[1] / columns[0] - 1.0
        low, middle, high = np.percentile(error, [15.865525393145708, 50.0, 84.13447460685429])
        return np.array([middle, 0.5 * (high - low), np.sqrt(np.mean(error**2)), _pearson(*columns)])

    errors = _bootstrap(statistics, table, simulation, bootstrap_sets, seed)
    return MeanAccuracy(*statistics(table).tolist(), *errors.tolist())


def line_spectra(true, predicted, cell_size: float, edges=None, *, apodization: float = 0.0) -> LineSpectra:
    """Auto and cross spectra of all lines and their predictions.

    Args:
        true: True maps ``(n_maps, nx, ny, n_lines)``, an array or an open HDF5 dataset.
        predicted: Predicted maps, same shape and order.
        cell_size: Side of a cell in arcmin.
        edges: Rising edges of the wavenumber bins in 1/arcmin. Defaults to those of
            `keras_cosmo.statistics.spectra.wavenumber_edges`.
        apodization: Part of the side over which `apodize` tapers the maps; 0 for none, as in the paper.

    Raises:
        TypeError: If maps are not real numbers.
        ValueError: On shapes that differ, values that are not finite, or bad edges.

    Example:
        >>> maps = np.random.default_rng(0).normal(size=(3, 16, 16, 2))
        >>> spectra = line_spectra(maps, maps[..., ::-1], cell_size=0.4)
        >>> spectra.line(0).transfer.shape, spectra.cross.shape
        ((3, 8), (3, 8, 2, 2))
    """
    lines, count = _check_maps(true, predicted), true.shape[0]
    bins = FourierBins(true.shape[1:3], cell_size, edges)
    maps = [
        (name, apodize(_Line(values, line), apodization))
        for name, values in (("true", true), ("predicted", predicted))
        for line in range(lines)
    ]
    pairs = np.empty((2, count, len(bins.k), lines, lines))
    predictions = np.empty((count, len(bins.k), lines))
    for step in zip(*(map_batches(item, name) for name, item in maps), strict=True):
        rows = step[0][0]
        transforms = [bins.transform(batch) for _, batch in step]
        truth, guess = transforms[:lines], transforms[lines:]
        for i in range(lines):
            pairs[0, rows, :, i, i] = bins.auto(*truth[i])
            predictions[rows, :, i] = bins.auto(*guess[i])
            for j in range(lines):
                pairs[1, rows, :, i, j] = bins.average(_real_product(guess[i][0], truth[j][0]))
            for j in range(i):
                product = bins.average(_real_product(truth[i][0], truth[j][0]))
                pairs[0, rows, :, i, j] = pairs[0, rows, :, j, i] = product
    return LineSpectra(bins.k, bins.modes, *pairs, predictions)


def line_transfer(spectra: LineSpectra, simulation=None, *, bootstrap_sets: int = 1000, seed: int = 0) -> LineTransfer:
    """Regression of each predicted line on all true lines, in each bin of wavenumbers.

    Over all modes of all maps in a bin, the coefficients ``a_ij`` make ``sum |Y_i - sum_j a_ij X_j|^2`` smallest, with
    the Fourier modes X of the true and Y of the predicted lines. The true lines come from different redshifts and are
    independent, so that ``a_ij`` tells which part of line j went into the prediction of line i; regressing on all of
    them at once removes the chance correlations of few modes. Modes count with their power.

    Args:
        spectra: From `line_spectra`.
        simulation: Simulation id of each map, integers ``(n_maps,)``. Without it, every map counts as independent.
        bootstrap_sets: Number of bootstrap sets, at least 2.
        seed: Seed of the draws.

    Raises:
        ValueError: On wrong ids or fewer than two bootstrap sets.

    Example:
        >>> maps = np.random.default_rng(0).normal(size=(3, 16, 16, 2))
        >>> mixed = maps @ np.array([[0.9, 0.2], [0.1, 0.8]])
        >>> line_transfer(line_spectra(maps, mixed, 0.4, [0.0, 7.0])).coefficients.round(6).tolist()
        [[[0.9, 0.1], [0.2, 0.8]]]
    """
    draws, group = bootstrap_draws(len(spectra.true), simulation, bootstrap_sets, seed)
    weight = spectra.modes[:, None, None]
    sums = [_sum_by_group(weight * values, group) for values in (spectra.true, spectra.cross)]
    coefficients = _regress(*(values.sum(axis=0) for values in sums))
    error = np.full(coefficients.shape, np.nan)
    if draws is not None:
        drawn = [np.tensordot(draws, values, axes=1) for values in sums]
        error = _deviation(_regress(*drawn))
    return LineTransfer(spectra.k, coefficients, error)


def power_residual(true, predicted, simulation=None) -> MapSummary:
    """Predicted less true power in units of the standard deviation of the true power over maps.

    The upper panel of figure 3 of the paper. Its mean, deviation and standard error over maps.

    Args:
        true: True power of each map, ``(n_maps, n_k)``.
        predicted: Predicted power ``(n_maps, n_k)``, or of several networks ``(n_networks, n_maps, n_k)``, of which the
            median is taken for each map, as in the paper.
        simulation: Simulation id of each map, integers ``(n_maps,)``. Without it, every map counts as independent.

    Raises:
        ValueError: On shapes that do not match, values that are not finite, or fewer than two maps.

    Example:
        >>> power_residual([[1.0], [3.0]], [[2.0], [4.0]]).mean
        array([1.])
    """
    true, predicted = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if true.ndim != 2 or len(true) < 2 or not np.isfinite(true).all():
        raise ValueError(f"true: expected finite power of at least two maps, (n_maps, n_k), got shape {true.shape}.")
    if predicted.ndim not in (2, 3) or predicted.shape[-2:] != true.shape or not np.isfinite(predicted).all():
        raise ValueError(
            f"predicted: expected finite power of shape {true.shape} or (n_networks, *{true.shape}), "
            f"got shape {predicted.shape}."
        )
    predicted = np.median(predicted, axis=0) if predicted.ndim == 3 else predicted
    sigma = true.std(axis=0)
    return over_maps((predicted - true) / np.where(sigma > 0, sigma, np.nan), simulation)


def band_names(edges: Sequence[float] = BAND_EDGES) -> list[str]:
    """Names of bands of wavenumbers: the mean wavenumber of the modes of a plane within each.

    Args:
        edges: Rising wavenumbers in 1/arcmin.

    Raises:
        ValueError: If they do not rise, or are so close that two bands have one name.

    Example:
        >>> band_names()
        ['k0.3', 'k0.7', 'k1.4']
    """
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0) or edges[0] < 0:
        raise ValueError(f"band_edges: expected at least two rising wavenumbers of at least 0, got {edges.tolist()}.")
    names = [f"k{mean:.2g}" for mean in 2 / 3 * np.diff(edges**3) / np.diff(edges**2)]
    if len(set(names)) < len(names):
        raise ValueError(f"band_edges: expected bands whose mean wavenumbers differ, got {names}; take wider bands.")
    return names


def separation_scores(
    true,
    predicted,
    lines: Sequence[str],
    cell_size: float,
    simulation=None,
    *,
    band_edges: Sequence[float] = BAND_EDGES,
    apodization: float = 0.0,
    peaks: Mapping | None = None,
    radius: float = 2.0,
    bootstrap_sets: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """All scores of a separation as one flat mapping, such as ``{"halpha/peaks/precision": 0.74, ...}``.

    For each line:

    - ``mean/median_fractional_error``, ``mean/half_width_fractional_error``, ``mean/rms_fractional_error`` and
      ``mean/correlation``: see `MeanAccuracy`.
    - ``transfer_<band>`` and ``correlation_<band>``: means over maps of ``sqrt(P_predicted / P_true)`` and of the
      correlation coefficient; ``power_ratio_<band>``: mean predicted over mean true power;
      ``power_residual_<band>``: see `power_residual`, which needs two maps.
    - ``response_<band>`` and ``leakage_from_<line>_<band>``: see `line_transfer`.
    - ``pixels/relative_l1``: mean absolute error over mean true intensity; ``pixels/correlation``: mean over maps of
      Pearson's coefficient.
    - ``pdf_distance``: see `keras_cosmo.statistics.distributions.distribution_distance`.
    - ``peaks/true`` and ``peaks/predicted``: peaks per map; ``peaks/precision`` and ``peaks/recall``; and
      ``peaks/on_<line>``: part of the predicted peaks that lie on a peak of another line and on none of their own.

    ``<key>_standard_error`` follows where there is one, and ``sum/relative_rms`` is the root mean square error of the
    sum of all lines over the standard deviation of the true sum.

    Args:
        true: True maps ``(n_maps, nx, ny, n_lines)``, an array or an open HDF5 dataset.
        predicted: Predicted maps, same shape and order.
        lines: Name of each line, in the order of the last axis.
        cell_size: Side of a cell in arcmin.
        simulation: Simulation id of each map, integers ``(n_maps,)``. Without it, every map counts as independent.
        band_edges: Rising edges of the bands of wavenumbers in 1/arcmin. A band is named after the mean wavenumber of
            the modes of a plane in it: k0.3, k0.7 and k1.4 by default, which suit pixels of 0.4 arcmin, a beam of
            1.2 arcmin and maps of 64 to 256 pixels. Bands on scales that the maps do not have are left out.
        apodization: As in `line_spectra`.
        peaks: Arguments of `keras_cosmo.statistics.peaks.find_peaks`, such as ``{"threshold": 4.0}``. With
            ``{"reference": "true"}`` the predicted maps are measured with the mean and sigma of the true ones.
        radius: Largest distance of matching peaks in pixels.
        bootstrap_sets: Number of bootstrap sets, at least 2.
        seed: Seed of the draws.

    Raises:
        TypeError: If maps are not real numbers.
        ValueError: On shapes that do not match or values that are not finite.

    Example:
        >>> maps = np.random.default_rng(0).lognormal(size=(4, 64, 64, 2))
        >>> scores = separation_scores(maps, maps, ("halpha", "oiii"), cell_size=0.4)
        >>> scores["halpha/peaks/precision"], round(scores["oiii/leakage_from_halpha_k0.7"], 6) + 0.0
        (1.0, 0.0)
    """
    count = _check_maps(true, predicted)
    lines = _check_names(lines, count)
    band_edges = _reached(band_edges, true.shape[1:3], cell_size)
    names = band_names(band_edges)
    truth, guess = ([_Line(values, line) for line in range(count)] for values in (true, predicted))
    draw = {"simulation": simulation, "bootstrap_sets": bootstrap_sets, "seed": seed}
    found = _find_all(truth, guess, peaks)
    spectra = line_spectra(true, predicted, cell_size, band_edges, apodization=apodization)
    transfer = line_transfer(spectra, **draw)
    scores: dict[str, float] = {}

    def put(key: str, value, error=np.nan) -> None:
        scores[key] = float(value)
        if np.isfinite(error):
            scores[f"{key}_standard_error"] = float(error)

    for index, line in enumerate(lines):
        accuracy = mean_accuracy(mean_intensity(truth[index]), mean_intensity(guess[index]), **draw)
        for name in ("median", "half_width", "rms", "correlation"):
            key = name if name == "correlation" else f"{name}_fractional_error"
            put(f"{line}/mean/{key}", getattr(accuracy, name), getattr(accuracy, f"{name}_standard_error"))
        comparison = spectra.line(index)
        summaries = {key: over_maps(getattr(comparison, key), simulation) for key in ("transfer", "correlation")}
        if len(comparison.true) > 1:
            summaries["power_residual"] = power_residual(comparison.true, comparison.predicted, simulation)
        ratio = comparison.predicted.mean(axis=0), comparison.true.mean(axis=0)
        for band, name in enumerate(names):
            for key, summary in summaries.items():
                put(f"{line}/{key}_{name}", summary.mean[band], summary.standard_error[band])
            put(f"{line}/power_ratio_{name}", _divide(ratio[0][band], ratio[1][band]))
            for other, source in enumerate(lines):
                key = "response" if other == index else f"leakage_from_{source}"
                place = band, index, other
                put(f"{line}/{key}_{name}", transfer.coefficients[place], transfer.standard_error[place])
        pixels = _pixels(truth[index], guess[index])
        put(f"{line}/pixels/relative_l1", pixels[0])
        summary = over_maps(pixels[1][:, None], simulation)
        put(f"{line}/pixels/correlation", summary.mean[0], summary.standard_error[0])
        put(f"{line}/pdf_distance", distribution_distance(truth[index], guess[index]))
        own, predictions = found[0][index], found[1][index]
        result = score_peaks(own, predictions, radius, **draw)
        put(f"{line}/peaks/true", result.true / own.maps)
        put(f"{line}/peaks/predicted", result.predicted / own.maps)
        for key in ("precision", "recall"):
            put(f"{line}/peaks/{key}", getattr(result, key), getattr(result, f"{key}_standard_error"))
        matched = np.zeros(len(predictions.map_index), bool)
        matched[match_peaks(own, predictions, radius).predicted] = True
        for other, source in enumerate(lines):
            if other != index:
                foreign = match_peaks(found[0][other], predictions.where(~matched), radius)
                put(f"{line}/peaks/on_{source}", _divide(len(foreign.true), result.predicted))
    put("sum/relative_rms", _sum_error(true, predicted))
    return scores


def ensemble_scores(
    true,
    predictions: Sequence,
    lines: Sequence[str],
    simulation=None,
    *,
    cell_size: float | None = None,
    band_edges: Sequence[float] = BAND_EDGES,
    peaks: Mapping | None = None,
    radius: float = 2.0,
    bootstrap_sets: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """What several networks know together: peaks that they agree on, and the medians of their statistics.

    For each line, ``peaks/precision_<k>_of_<n>`` and ``peaks/recall_<k>_of_<n>`` of the peaks that at least k of the n
    networks found (`keras_cosmo.statistics.peaks.agreement_curve`), ``mean/..._of_median`` as in `separation_scores`
    for the median of the networks' mean intensities, and with ``cell_size`` also ``power_ratio_of_median_<band>`` and
    ``power_residual_of_median_<band>`` for the median of their power spectra, map by map. Maps are not averaged over
    networks: that smooths small structures away (section 3.1 of the paper).

    Args:
        true: True maps ``(n_maps, nx, ny, n_lines)``.
        predictions: Predicted maps of each network, each of the shape of `true`.
        lines: As in `separation_scores`.
        simulation: As in `separation_scores`.
        cell_size: Side of a cell in arcmin; without it there is no power.
        band_edges: As in `separation_scores`.
        peaks: As in `separation_scores`.
        radius: As in `separation_scores`.
        bootstrap_sets: As in `separation_scores`.
        seed: As in `separation_scores`.

    Raises:
        ValueError: As `separation_scores`, or if there is no network.
    """
    predictions = list(predictions)
    if not predictions:
        raise ValueError("predictions: expected the maps of at least one network, got none.")
    count = max(_check_maps(true, predicted) for predicted in predictions)
    lines = _check_names(lines, count)
    draw = {"simulation": simulation, "bootstrap_sets": bootstrap_sets, "seed": seed}
    scores: dict[str, float] = {}
    for index, line in enumerate(lines):
        truth = _Line(true, index)
        members = [_Line(predicted, index) for predicted in predictions]
        found = [_find_all([truth], [member], peaks) for member in members]
        curve = agreement_curve(found[0][0][0], [item[1][0] for item in found], radius, **draw)
        for row, networks in enumerate(curve.selection):
            for key in ("precision", "recall"):
                name = f"{line}/peaks/{key}_{networks}_of_{len(members)}"
                scores[name] = float(getattr(curve, key)[row])
                error = getattr(curve, f"{key}_standard_error")[row]
                if np.isfinite(error):
                    scores[f"{name}_standard_error"] = float(error)
        means = np.stack([mean_intensity(member) for member in members])
        accuracy = mean_accuracy(mean_intensity(truth), means, **draw)
        for name in ("median", "half_width", "rms"):
            scores[f"{line}/mean/{name}_fractional_error_of_median"] = getattr(accuracy, name)
        if cell_size is not None:
            scores |= _median_power(line, truth, members, cell_size, _reached(band_edges, true.shape[1:3], cell_size))
    return scores


def _median_power(line: str, truth, members: Sequence, cell_size: float, edges: Sequence[float]) -> dict[str, float]:
    """Scores of the median over networks of the power in bands, map by map."""
    power = power_spectrum(truth, cell_size, edges).power
    median = np.median([power_spectrum(member, cell_size, edges).power for member in members], axis=0)
    residual = power_residual(power, median).mean if len(power) > 1 else None
    scores = {}
    for band, name in enumerate(band_names(edges)):
        scores[f"{line}/power_ratio_of_median_{name}"] = _divide(median[:, band].mean(), power[:, band].mean())
        if residual is not None:
            scores[f"{line}/power_residual_of_median_{name}"] = float(residual[band])
    return scores


def _real_product(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one.real * other.real + one.imag * other.imag


class _Line:
    """One line of maps ``(n_maps, nx, ny, n_lines)``, read when it is sliced."""

    def __init__(self, maps, line: int):
        self.shape, self.dtype = tuple(maps.shape[:3]), maps.dtype
        self._maps, self._line = maps, line

    def __getitem__(self, rows) -> np.ndarray:
        return self._maps[rows, :, :, self._line]


def _check_maps(true, predicted) -> int:
    for maps, name in ((true, "true"), (predicted, "predicted")):
        if not hasattr(maps, "shape") or not hasattr(maps, "dtype"):
            raise TypeError(f"{name}: expected an array of maps, got {type(maps)}; use numpy.asarray.")
        if len(maps.shape) != 4 or 0 in maps.shape:
            raise ValueError(
                f"{name}: expected shape (n_maps, nx, ny, n_lines), nothing empty, got {tuple(maps.shape)}; "
                f"use numpy.stack(maps of each line, axis=-1)."
            )
    if tuple(true.shape) != tuple(predicted.shape):
        raise ValueError(
            f"predicted: expected the shape of true, {tuple(true.shape)}, got {tuple(predicted.shape)}; "
            f"both must hold the same maps and lines in the same order."
        )
    return int(true.shape[-1])


def _check_names(lines: Sequence[str], count: int) -> list[str]:
    names = [lines] if isinstance(lines, str) else list(lines)
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"lines: expected {count} different names, one per line of the maps, got {names}.")
    return names


def _reached(edges: Sequence[float], shape: tuple[int, int], cell_size: float) -> list[float]:
    """Edges of the bands between the lowest and the highest wavenumber of the maps."""
    band_names(edges)
    lowest = 2 * np.pi / (max(shape) * cell_size) * (1 + 1e-9)
    highest = max(np.pi / cell_size * np.hypot(*(2 * (cells // 2) / cells for cells in shape)), lowest)
    kept = [
        (low, high)
        for low, high in itertools.pairwise(float(edge) for edge in edges)
        if high > lowest and low < highest
    ]
    if not kept:
        raise ValueError(
            f"band_edges: expected at least one band between {lowest:.3g} and {highest:.3g} per arcmin, the modes of "
            f"{shape[0]} x {shape[1]} cells of {cell_size:g} arcmin, got {[float(edge) for edge in edges]}."
        )
    return [kept[0][0], *(high for _, high in kept)]


def _find_all(truth: Sequence, guess: Sequence, options: Mapping | None):
    options = dict(options or {})
    reference = options.pop("reference", None)
    if reference is not None and not (isinstance(reference, str) and reference == "true"):
        raise ValueError(f'peaks: expected the reference None or "true", got {reference!r}.')
    true = [find_peaks(maps, **options) for maps in truth]
    references = truth if reference == "true" else [None] * len(guess)
    predicted = [find_peaks(maps, reference=known, **options) for maps, known in zip(guess, references, strict=True)]
    return true, predicted


def _bootstrap(
    statistics: Callable[[np.ndarray], np.ndarray], columns: np.ndarray, simulation, sets: int, seed: int
) -> np.ndarray:
    """Standard errors of statistics of ``(n_columns, n_maps)`` over sets of simulations drawn with replacement."""
    draws, group = bootstrap_draws(columns.shape[1], simulation, sets, seed)
    if draws is None:
        return np.full(len(statistics(columns)), np.nan)
    return _deviation(np.stack([statistics(np.repeat(columns, draw[group], axis=1)) for draw in draws]))


def _deviation(values: np.ndarray) -> np.ndarray:
    """Standard deviation over the first axis, NaN left out; NaN with fewer than two values."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1)
    squares = np.where(known, (values - mean) ** 2, 0.0).sum(axis=0)
    return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)


def _sum_by_group(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    out = np.zeros((group.max() + 1, *values.shape[1:]))
    np.add.at(out, group, values)
    return out


def _regress(true: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Solve ``a @ true = cross`` for a; NaN where the true lines do not determine it."""
    # Lines may differ by any factor: scaled to their own power, a bad condition is one of the lines, not of units.
    power = np.sqrt(np.maximum(np.diagonal(true, axis1=-2, axis2=-1), 0.0))
    known = (power > 0).all(axis=-1)
    scale = np.where(known[..., None], power, 1.0)
    matrix = true / (scale[..., :, None] * scale[..., None, :])
    matrix = np.where(known[..., None, None], matrix, np.eye(true.shape[-1]))
    known &= np.linalg.cond(matrix) < 1e10
    matrix = np.where(known[..., None, None], matrix, np.eye(true.shape[-1]))
    right = np.swapaxes(cross / scale[..., None, :], -1, -2)
    solved = np.swapaxes(np.linalg.solve(matrix, right), -1, -2) / scale[..., None, :]
    return np.where(known[..., None, None], solved, np.nan)


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    deviations = []
    for values in (one, other):
        values, largest = values - values.mean(), np.abs(values).max()
        # Rounding leaves deviations of a few epsilon times the values of what is constant.
        if np.abs(values).max() <= _ROUNDING * largest:
            return float("nan")
        deviations.append(values / np.sqrt(np.sum(values**2)))
    return float(np.sum(deviations[0] * deviations[1]))


def _pixels(true, predicted) -> tuple[float, np.ndarray]:
    """Mean absolute error over mean intensity, and the correlation of each map."""
    error, total, correlation = 0.0, 0.0, []
    for (_, one), (_, other) in zip(map_batches(true), map_batches(predicted), strict=True):
        error += np.abs(one - other).sum()
        total += one.sum()
        correlation += [_pearson(*pair) for pair in zip(one, other, strict=True)]
    return _divide(error, total), np.array(correlation)


def _sum_error(true, predicted) -> float:
    squares, values, count = 0.0, [], 0
    sums = [_Sum(maps) for maps in (true, predicted)]
    for (_, one), (_, other) in zip(*(map_batches(maps) for maps in sums), strict=True):
        squares += np.sum((one - other) ** 2)
        count += one.size
        values.append((one.mean(axis=(1, 2)), one.var(axis=(1, 2))))
    mean, variance = (np.concatenate(column) for column in zip(*values, strict=True))
    return _divide(np.sqrt(squares / count), np.sqrt(np.mean(variance) + np.var(mean)))


class _Sum:
    """Sum over lines of maps ``(n_maps, nx, ny, n_lines)``, made when it is sliced."""

    def __init__(self, maps):
        self.shape, self.dtype = tuple(maps.shape[:3]), np.dtype(np.float64)
        self._maps = maps

    def __getitem__(self, rows) -> np.ndarray:
        return np.asarray(self._maps[rows], dtype=np.float64).sum(axis=-1)


def _divide(numerator, denominator) -> float:
    return float(numerator / denominator) if denominator > 0 else float("nan")
