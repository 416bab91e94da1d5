"""Whether posteriors are right: ranks, coverage and TARP over many maps with known parameters, and what mends them.

A posterior is any object with the methods of `keras_cosmo.inference.posterior.GridPosterior` and ``SamplePosterior``,
gridded or of weighted samples. From the posteriors of many maps and their true parameters come numbers between 0 and 1
that are uniform if the posteriors are right, and too often near some value if they are not:

- `pit`: posterior probability below the true value of each parameter; `sbc_ranks` the same with random draws
  (simulation-based calibration, Talts et al. 2018, arXiv:1804.06788). Too narrow posteriors heap up at both ends.
- `credibility`: probability of the region of higher joint density than at the truth; that of the smallest credible
  region that holds it. Too narrow posteriors heap up near 1.
- `tarp`: part of the posterior's draws that lie closer to a random point than the truth does (TARP, Lemos et al. 2023,
  arXiv:2302.03026, section 3). It needs no density. Too narrow posteriors heap up at both ends.

`rank_histogram`, `uniformity` and `coverage` compare them with what is expected. This holds if the true parameters were
drawn from the prior, as in a Latin hypercube.

The 15 maps of a simulation share its field and parameters, so that their numbers are not independent. With
``simulation`` all errors and bands come from the scatter over simulations (block bootstrap). On 300 sets of 60
simulations with 15 maps each, half of whose variance is common, right posteriors fail `uniformity` at the 5% level in
4.7% of the sets (6.3% with 20 simulations), and in 51% if all maps are taken as independent; the error of `coverage` is
0.97 to 1.10 of the scatter from set to set, and 0.4 to 0.6 with independent maps.

What mends posteriors is found on one set of simulations and has to be judged on another: `fit_temperature`, a factor on
the log-likelihood, and `CdfRecalibration`, a correction of the probabilities of each parameter.

Sums are float64.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq
from scipy.sparse import csr_array
from scipy.special import kolmogi
from scipy.stats import binom, kstest
from sklearn.isotonic import IsotonicRegression

from keras_cosmo.statistics.sky_bootstrap import block_bootstrap

#: Probabilities of one and two standard deviations of a Gaussian, as in the figures, among others.
LEVELS = tuple(np.round(np.arange(0.05, 1.0, 0.05), 2).tolist())

_STEPS = np.arange(1, 256) / 256
_ITERATIONS = 60
_TOLERANCE = 1e-4


class RankHistogram(NamedTuple):
    """Histogram of numbers that should be uniform, per column.

    Args:
        edges: Of the bins, from 0 to 1, ``(bins + 1,)``.
        counts: ``(bins, n_columns)``.
        expected: Count of a bin if uniform.
        low: Lower end of the band that holds each count of a uniform column with the probability asked for,
            ``(n_columns,)``.
        high: Upper end, ``(n_columns,)``.
        effective: How many independent numbers a column is worth, ``(n_columns,)``.
    """

    edges: np.ndarray
    counts: np.ndarray
    expected: float
    low: np.ndarray
    high: np.ndarray
    effective: np.ndarray


class Uniformity(NamedTuple):
    """Test of Kolmogorov and Smirnov whether numbers are uniform, per column.

    Args:
        statistic: Largest difference between the cumulative distribution and a uniform one, ``(n_columns,)``.
        p_value: Probability of one as large if uniform, ``(n_columns,)``.
        band: Half width of the band around the diagonal that a uniform column stays in with 95%, ``(n_columns,)``.
    """

    statistic: np.ndarray
    p_value: np.ndarray
    band: np.ndarray


class Coverage(NamedTuple):
    """How often credible regions hold the truth.

    Args:
        levels: Probability of the regions, ``(m,)``.
        observed: Part of the maps whose truth they hold, ``(m, n_columns)``; equal to the levels if right, below if the
            posteriors are too narrow.
        standard_error: Of that, ``(m, n_columns)``.
        low: Lower end of its 95% interval.
        high: Upper end.
    """

    levels: np.ndarray
    observed: np.ndarray
    standard_error: np.ndarray
    low: np.ndarray
    high: np.ndarray


class TemperatureFit(NamedTuple):
    """The factor on the log-likelihood that makes posteriors right.

    Args:
        temperature: Below 1 if the posteriors were too narrow.
        standard_error: Of it, over simulations.
        gain: Mean gain per map of the logarithm of the posterior density at the true parameters, in nats; what a map
            with the right posterior tells more about its parameters.
        at_bound: Whether the best one lies outside of the range that was searched.
    """

    temperature: float
    standard_error: float
    gain: float
    at_bound: bool


class CalibrationNumbers(NamedTuple):
    """All numbers of `calibration_numbers`, uniform if the posteriors are right.

    Args:
        pit: ``(n, P)``.
        ranks: Uniform version of the ranks, ``(n, P)``.
        credibility: ``(n,)``.
        tarp: ``(n,)``.
        pull: True value less posterior mean, over posterior standard deviation, ``(n, P)``: of mean square 1 if right.
    """

    pit: np.ndarray
    ranks: np.ndarray
    credibility: np.ndarray
    tarp: np.ndarray
    pull: np.ndarray


def pit(posteriors: Sequence, true) -> np.ndarray:
    """Posterior probability below the true value of each parameter (probability integral transform).

    Args:
        posteriors: One per map.
        true: True parameters ``(n, P)``.

    Returns:
        Shape ``(n, P)``, uniform from 0 to 1 if the posteriors are right.

    Raises:
        ValueError: If the numbers of posteriors and rows differ.
    """
    true = _truth(posteriors, true)
    return np.stack([posterior.cdf(row) for posterior, row in zip(posteriors, true, strict=True)])


def credibility(posteriors: Sequence, true) -> np.ndarray:
    """Probability of the joint region of higher density than at the true parameters, ``(n,)``.

    Args:
        posteriors: One per map.
        true: True parameters ``(n, P)``.

    Raises:
        ValueError: If the numbers of posteriors and rows differ, or densities are not known.
    """
    true = _truth(posteriors, true)
    return np.array([float(posterior.content(row)) for posterior, row in zip(posteriors, true, strict=True)])


def sbc_ranks(posteriors: Sequence, true, draws: int = 99, seed: int = 0) -> np.ndarray:
    """How many of random draws from each posterior lie below the truth: integers from 0 to ``draws``, ``(n, P)``.

    For `rank_histogram` and the others take ``(ranks + 0.5) / (draws + 1)``, with bins that divide ``draws + 1``.

    Args:
        posteriors: One per map.
        true: True parameters ``(n, P)``.
        draws: Draws from each posterior, independent ones: well below the effective number of weighted samples.
        seed: Of the draws.

    Raises:
        ValueError: If the numbers of posteriors and rows differ, or there are no draws.
    """
    true = _truth(posteriors, true)
    _whole(draws, "draws", 1)
    seeds = np.random.default_rng(seed).integers(2**31, size=len(true)).tolist()
    return np.stack([_rank(p.sample(draws, s), row) for p, row, s in zip(posteriors, true, seeds, strict=True)])


def tarp(posteriors: Sequence, true, low, high, draws: int = 200, seed: int = 0, references=None) -> np.ndarray:
    """Part of the draws from each posterior that lie closer to a reference point than the truth (TARP).

    Distances are Euclidean in units of the prior's width.

    Args:
        posteriors: One per map.
        true: True parameters ``(n, P)``.
        low: Lower ends of the prior, ``(P,)``.
        high: Upper ends of the prior, ``(P,)``.
        draws: Draws from each posterior.
        seed: Of draws and references.
        references: One point per map, ``(n, P)``, that may depend on the map but not on its truth; uniform in the
            prior if None.

    Returns:
        Shape ``(n,)``, exactly uniform from 0 to 1 if the posteriors are right: ties are broken at random.

    Raises:
        ValueError: On shapes that differ or ends that do not rise.
    """
    true = _truth(posteriors, true)
    _whole(draws, "draws", 1)
    low, high = _prior(low, high, true.shape[1])
    generator = np.random.default_rng(seed)
    if references is None:
        references = _references(low, high, true.shape, seed)
    references = np.asarray(references, dtype=np.float64)
    if references.shape != true.shape:
        raise ValueError(f"references: expected one point per map, shape {true.shape}, got {references.shape}.")
    seeds = generator.integers(2**31, size=len(true)).tolist()
    width = high - low
    nearer = [
        _nearer(posterior.sample(draws, s), row, reference, width)
        for posterior, row, reference, s in zip(posteriors, true, references, seeds, strict=True)
    ]
    return (np.array(nearer) + generator.random(len(true))) / (draws + 1)


def _references(low, high, shape, seed) -> np.ndarray:
    """Random points of TARP, with a stream of their own: those of a plain seed may be the true parameters."""
    stream = np.random.SeedSequence(seed, spawn_key=(1,))
    return np.random.default_rng(stream).uniform(low, high, shape)


def calibration_numbers(
    posteriors: Sequence, true, low, high, temperature: float | None = None, draws: int = 199, seed: int = 0
) -> CalibrationNumbers:
    """All numbers of this module for a set of posteriors, in one pass.

    Args:
        posteriors: One per map.
        true: True parameters ``(n, P)``.
        low: Lower ends of the prior, ``(P,)``.
        high: Upper ends of the prior, ``(P,)``.
        temperature: Factor on the log-likelihoods, such as from `fit_temperature`; that of the posteriors if None.
        draws: Draws from each posterior, for ranks and TARP.
        seed: Of the draws.

    Raises:
        ValueError: As `pit`, `credibility`, `sbc_ranks` and `tarp`.
    """
    true = _truth(posteriors, true)
    _whole(draws, "draws", 1)
    low, high = _prior(low, high, true.shape[1])
    generator = np.random.default_rng(seed)
    references = _references(low, high, true.shape, seed)
    rows = []
    for posterior, row, reference in zip(posteriors, true, references, strict=True):
        used = posterior if temperature is None else posterior.tempered(temperature)
        points = used.sample(draws, int(generator.integers(2**31)))
        counts = np.append(_rank(points, row), _nearer(points, row, reference, high - low))
        uniform = (counts + generator.random(len(counts))) / (draws + 1)
        # A posterior that is one cell of its grid has no width.
        with np.errstate(divide="ignore"):
            pull = (row - used.mean) / used.standard_deviation
        rows.append((used.cdf(row), uniform[:-1], float(used.content(row)), uniform[-1], pull))
    return CalibrationNumbers(*(np.stack(column) for column in zip(*rows, strict=True)))


def central_credibility(values) -> np.ndarray:
    """Probability of the smallest central interval that holds the truth, ``|2 u - 1|``.

    Args:
        values: From `pit`.

    Example:
        >>> central_credibility([0.5, 0.16, 0.975]).round(2)
        array([0.  , 0.68, 0.95])
    """
    return np.abs(2.0 * np.asarray(values, dtype=np.float64) - 1.0)


def rank_histogram(values, bins: int = 20, simulation=None, level: float = 0.95) -> RankHistogram:
    """Histogram of numbers that should be uniform, with the band of a binomial distribution.

    With ``simulation`` the band is that of as many independent numbers as the maps are worth, which the variance of the
    counts over simulations says, on average over the bins.

    Args:
        values: From 0 to 1, ``(n,)`` or ``(n, n_columns)``.
        bins: Number of bins; n over bins should not be much below 10.
        simulation: Simulation id of each map, integers ``(n,)``; without it all maps count as independent.
        level: Probability of the band, for each bin by itself.

    Raises:
        ValueError: On values outside 0 to 1, wrong shapes, or an argument out of range.

    Example:
        >>> found = rank_histogram((np.arange(200) + 0.5) / 200, bins=10)
        >>> found.counts[:, 0].tolist(), found.expected, found.low, found.high
        ([20, 20, 20, 20, 20, 20, 20, 20, 20, 20], 20.0, array([12.]), array([29.]))
    """
    values, simulation, blocks = _uniform_values(values, simulation)
    _whole(bins, "bins", 2)
    if not 0 < level < 1:
        raise ValueError(f"level: expected a probability between 0 and 1, got {level}.")
    n, columns = values.shape
    place = np.minimum((values * bins).astype(np.int64), bins - 1)
    counts = np.stack([np.bincount(column, minlength=bins) for column in place.T], axis=1)
    effective = np.full(columns, float(n))
    if blocks:
        ids, group = np.unique(simulation, return_inverse=True)
        for column in range(columns):
            part = counts[:, column] / n
            # Variance of a mean over clusters: numbers of one simulation may be alike.
            sums = _group_sums((place[:, column, None] == np.arange(bins)) - part, group)
            variance = np.sum(sums**2) * len(ids) / max(len(ids) - 1, 1) / n**2
            # At most as many as there are maps, and at least as there are simulations.
            worth = np.sum(part * (1 - part)) / variance if variance > 0 else n
            effective[column] = np.clip(worth, len(ids), n)
    whole = np.maximum(np.rint(effective), 1)
    ends = [binom.ppf(tail, whole, 1.0 / bins) * n / whole for tail in (0.5 * (1 - level), 0.5 * (1 + level))]
    return RankHistogram(np.linspace(0.0, 1.0, bins + 1), counts, n / bins, *ends, effective)


def uniformity(values, simulation=None, n: int = 1000, seed: int = 0) -> Uniformity:
    """Test whether numbers are uniform from 0 to 1: the largest difference between cumulative distributions.

    Independent numbers have the exact distribution of it; with ``simulation`` it comes from a block bootstrap.

    Args:
        values: From 0 to 1, ``(n_maps,)`` or ``(n_maps, n_columns)``.
        simulation: Simulation id of each map, integers ``(n_maps,)``; without it all maps count as independent.
        n: Number of bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        ValueError: On values outside 0 to 1, wrong shapes, or fewer than two simulations.

    Example:
        >>> found = uniformity((np.arange(200) + 0.5) / 200)
        >>> found.statistic.round(4), found.p_value.round(2)
        (array([0.0025]), array([1.]))
    """
    values, simulation, blocks = _uniform_values(values, simulation)
    if not blocks:
        tests = [kstest(column, "uniform") for column in values.T]
        root = np.sqrt(len(values))
        # Stephens 1970 (Journal of the Royal Statistical Society B 32, 115), within 1% from n = 5 on.
        band = np.full(values.shape[1], kolmogi(0.05) / (root + 0.12 + 0.11 / root))
        return Uniformity(np.array([t.statistic for t in tests]), np.array([t.pvalue for t in tests]), band)
    if n < 2:
        raise ValueError(f"n: expected at least 2 bootstrap samples, got {n}.")
    ids, group = np.unique(simulation, return_inverse=True)
    if len(ids) < 2:
        raise ValueError("simulation: a bootstrap over simulations needs at least two of them, got 1.")
    sizes = np.bincount(group).astype(np.float64)
    draws = np.random.default_rng(seed).multinomial(len(ids), np.full(len(ids), 1.0 / len(ids)), size=n)
    rows = (draws @ sizes)[:, None]
    found = []
    for column in values.T:
        below = _group_sums(column[:, None] <= _STEPS, group)
        observed = below.sum(axis=0) / len(column)
        differences = np.abs(draws @ below / rows - observed).max(axis=1) * np.sqrt(len(ids) / (len(ids) - 1))
        statistic = np.abs(observed - _STEPS).max()
        found.append((statistic, (1 + np.sum(differences >= statistic)) / (n + 1), np.quantile(differences, 0.95)))
    return Uniformity(*(np.array(column) for column in zip(*found, strict=True)))


def coverage(values, levels=LEVELS, simulation=None, n: int = 1000, seed: int = 0) -> Coverage:
    """How often regions of given probabilities hold the truth, with errors over simulations.

    Args:
        values: Probability of the smallest region that holds the truth: `central_credibility` of `pit` for the
            intervals of each parameter, `credibility` for joint regions, and `tarp` for the curve of TARP.
        levels: Probabilities of the regions, ``(m,)``.
        simulation: Simulation id of each map, integers ``(n_maps,)``; without it all maps count as independent.
        n: Number of bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        ValueError: On values or levels outside 0 to 1, or wrong shapes.

    Example:
        >>> found = coverage([0.1, 0.3, 0.6, 0.9], levels=[0.5, 0.95])
        >>> found.observed[:, 0].tolist()
        [0.5, 1.0]
    """
    values, simulation, _ = _uniform_values(values, simulation)
    levels = np.asarray(levels, dtype=np.float64)
    if levels.ndim != 1 or not levels.size or not np.all((levels > 0) & (levels < 1)):
        raise ValueError(f"levels: expected probabilities between 0 and 1, shape (m,), got {levels.tolist()}.")
    held = (values[:, None, :] <= levels[:, None]).astype(np.float64)
    found = block_bootstrap(held.reshape(len(values), -1), simulation, n, seed)
    shape = held.shape[1:]
    return Coverage(levels, *(np.reshape(part, shape) for part in found[:4]))


def fit_temperature(
    posteriors: Sequence,
    true,
    simulation=None,
    method: str = "density",
    bounds: tuple[float, float] = (0.01, 10.0),
) -> TemperatureFit:
    """The single factor on all log-likelihoods that makes the posteriors right.

    With ``method="density"`` it maximises the mean logarithm of the posterior density at the true parameters, which has
    one maximum only; its error is that of clustered data over simulations (the sandwich formula). With ``"coverage"``
    the mean of `credibility` becomes 1/2, that of a uniform number.

    Fit it to maps of simulations that the likelihood was not trained with, and judge it on others.

    Args:
        posteriors: One per map, with the log-likelihood known.
        true: True parameters ``(n, P)``.
        simulation: Simulation id of each map, integers ``(n,)``; without it all maps count as independent.
        method: ``"density"`` or ``"coverage"``.
        bounds: Range of temperatures that is searched.

    Raises:
        ValueError: On shapes that differ, an unknown method or bounds that do not rise, if the likelihood is not known,
            or if it is zero at the true parameters of some map.
    """
    true = _truth(posteriors, true)
    low, high = (float(value) for value in bounds)
    if not 0 < low < high:
        raise ValueError(f"bounds: expected rising positive temperatures, got {bounds}.")
    if method not in ("density", "coverage"):
        raise ValueError(f"method: expected 'density' or 'coverage', got {method!r}.")
    simulation = np.arange(len(true)) if simulation is None else _ids(simulation, len(true))
    at_truth = np.array([float(p.log_likelihood_at(row)) for p, row in zip(posteriors, true, strict=True)])
    lost = np.flatnonzero(~np.isfinite(at_truth))
    if lost.size:
        raise ValueError(
            f"true: expected parameters within the prior where the likelihood is not zero, got others for {lost.size} "
            f"of {len(true)} maps (first: map {lost[0]})."
        )

    def scores(temperature):
        """Derivative of each map's log-density at the truth, and its slope, by the temperature."""
        moments = [p.tempered(temperature).log_likelihood_moments() for p in posteriors]
        mean, variance = np.array(moments).T
        return at_truth - mean, -variance

    def excess(temperature):
        """0.5 less the credibility of each map."""
        return 0.5 - credibility([p.tempered(temperature) for p in posteriors], true)

    if method == "density":
        temperature, at_bound = _newton(scores, low, high)
        score, slopes = scores(temperature)
        slope = slopes.mean()
    else:
        temperature, at_bound = _falling_root(lambda t: excess(t).mean(), low, high)
        score = excess(temperature)
        slope = (excess(1.05 * temperature).mean() - excess(temperature / 1.05).mean()) / (
            temperature * (1.05 - 1 / 1.05)
        )
    ids, group = np.unique(simulation, return_inverse=True)
    error = np.nan
    if len(ids) > 1 and slope != 0 and not at_bound:
        sums = np.bincount(group, score - score.mean())
        error = float(np.sqrt(np.sum(sums**2) * len(ids) / (len(ids) - 1)) / (len(score) * abs(slope)))
    gain = np.mean(
        [
            float(p.tempered(temperature).log_density(row) - p.log_density(row))
            for p, row in zip(posteriors, true, strict=True)
        ]
    )
    return TemperatureFit(temperature, error, float(gain), at_bound)


@dataclasses.dataclass(frozen=True)
class CdfRecalibration:
    """Correction of the probabilities of each parameter so that its PIT becomes uniform (Kuleshov et al. 2018).

    A rising curve from (0, 0) to (1, 1) maps the posterior's cumulative probability to the one observed: isotonic
    regression of the cumulative distribution of `pit` through a monotone cubic spline, so that a density stays a
    density. It mends each parameter by itself and leaves their correlation alone. See `fit`.

    Args:
        knots: Probabilities of the posterior, ``(n_knots,)``, from 0 to 1.
        values: Observed probabilities, ``(n_knots, P)``, from 0 to 1.

    Raises:
        ValueError: On shapes that do not match or values that do not rise from 0 to 1.

    Example:
        >>> too_narrow = np.random.default_rng(0).beta(0.5, 0.5, size=(4000, 1))
        >>> correction = CdfRecalibration.fit(too_narrow)
        >>> correction.transform([[0.1], [0.5]]).round(1).tolist()
        [[0.2], [0.5]]
    """

    knots: np.ndarray
    values: np.ndarray

    def __post_init__(self):
        knots, values = (np.asarray(array, dtype=np.float64) for array in (self.knots, self.values))
        if knots.ndim != 1 or len(knots) < 2 or values.ndim != 2 or len(values) != len(knots):
            raise ValueError(
                f"values: expected shape (n_knots, n_parameters) for knots (n_knots,), at least 2, got {values.shape} "
                f"and {knots.shape}."
            )
        for name, curve in (("knots", knots[:, None]), ("values", values)):
            ends = np.all(curve[0] == 0) and np.all(curve[-1] == 1)
            if not (ends and np.all(np.diff(curve, axis=0) > 0)):
                raise ValueError(f"{name}: expected probabilities that rise from 0 to 1, got others.")
        object.__setattr__(self, "knots", knots)
        object.__setattr__(self, "values", values)

    @classmethod
    def fit(cls, values, knots: int = 12) -> "CdfRecalibration":
        """Fit the curve to the PIT of maps with known parameters.

        Args:
            values: From `pit`, ``(n, P)``.
            knots: Number of steps of the curve. With few of them it follows less noise.

        Raises:
            ValueError: On wrong shapes, values outside 0 to 1, or fewer than ten maps per knot.
        """
        values = _uniform_values(values, None)[0]
        _whole(knots, "knots", 2)
        if len(values) < 10 * knots:
            raise ValueError(
                f"knots: expected at least ten maps per knot, {10 * knots}, got {len(values)} maps; take fewer knots."
            )
        steps = np.linspace(0.0, 1.0, knots + 1)
        columns = []
        for column in values.T:
            ordered = np.sort(column)
            observed = (np.arange(len(ordered)) + 0.5) / len(ordered)
            curve = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit_transform(ordered, observed)
            # Knots evenly spaced in between: those of the posterior's and those of the observed probability.
            found = np.interp(steps, np.concatenate([[0.0], ordered, [1.0]]), np.concatenate([[0.0], curve, [1.0]]))
            found[0], found[-1] = 0.0, 1.0
            # No step without any probability: a density of zero would forbid what is only rare.
            least = 0.5 / len(ordered)
            rises = np.maximum(np.diff(found), least)
            found = np.concatenate([[0.0], np.cumsum(rises)])
            columns.append(found / found[-1])
        return cls(steps, np.stack(columns, axis=1))

    def transform(self, values) -> np.ndarray:
        """Corrected probabilities, such as of `pit`.

        Args:
            values: ``(n, P)``.
        """
        values = self._check(values)
        return self._map(lambda column: PchipInterpolator(self.knots, self.values[:, column]), values)

    def inverse(self, values) -> np.ndarray:
        """Probabilities of the posterior for corrected ones: where to take its quantiles.

        ``posterior.quantile(correction.inverse([[0.16] * P, [0.84] * P]))`` are the corrected 68% intervals.

        Args:
            values: ``(n, P)``.
        """
        values = self._check(values)
        found = np.empty(values.shape)
        for column in range(values.shape[1]):
            grid = np.linspace(0.0, 1.0, 4097)
            curve = PchipInterpolator(self.knots, self.values[:, column])(grid)
            found[:, column] = np.interp(values[:, column], curve, grid)
        return found

    def factor(self, values) -> np.ndarray:
        """Factor on the posterior density of each parameter at probabilities ``(n, P)``: slope of the curve."""
        values = self._check(values)
        return self._map(lambda column: PchipInterpolator(self.knots, self.values[:, column]).derivative(), values)

    def _map(self, curve, values: np.ndarray) -> np.ndarray:
        return np.stack([curve(column)(values[:, column]) for column in range(values.shape[1])], axis=1)

    def _check(self, values) -> np.ndarray:
        values = _uniform_values(values, None)[0]
        if values.shape[1] != self.values.shape[1]:
            raise ValueError(f"values: expected {self.values.shape[1]} parameters, got {values.shape[1]}.")
        return values


def calibration_scores(
    numbers: CalibrationNumbers,
    names: Sequence[str],
    simulation=None,
    levels=(0.68, 0.95),
    n: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """The calibration as one flat mapping, such as ``{"coverage_68/Omega_m": 0.66, ...}``.

    Args:
        numbers: From `calibration_numbers`.
        names: Of the parameters.
        simulation: Simulation id of each map, integers ``(n_maps,)``.
        levels: Probabilities of the regions.
        n: Number of bootstrap samples.
        seed: Of the bootstrap.

    Returns:
        Keys ``coverage_<percent>``, ``coverage_<percent>_standard_error``, ``largest_deviation`` of the coverage curve
        from the diagonal, ``uniformity_p_value`` and ``root_mean_square_pull``, each ``/<parameter name>``, and all but
        the last also ``/joint`` (credible regions) and ``/tarp``; plain floats.

    Raises:
        ValueError: If the number of names differs from that of the parameters, and as `coverage`.
    """
    names = list(names)
    if len(names) != numbers.pit.shape[1]:
        raise ValueError(f"names: expected one per parameter, {numbers.pit.shape[1]}, got {names}.")
    columns = np.column_stack([central_credibility(numbers.pit), numbers.credibility, numbers.tarp])
    tested = np.column_stack([numbers.pit, numbers.credibility, numbers.tarp])
    rows = [*names, "joint", "tarp"]
    found, curve = coverage(columns, levels, simulation, n, seed), coverage(columns, LEVELS, simulation, 2, seed)
    tests = uniformity(tested, simulation, n, seed)
    scores = {}
    for place, level in enumerate(found.levels):
        key = f"coverage_{100 * level:g}"
        scores |= {f"{key}/{name}": float(value) for name, value in zip(rows, found.observed[place], strict=True)}
        errors = found.standard_error[place]
        scores |= {f"{key}_standard_error/{name}": float(value) for name, value in zip(rows, errors, strict=True)}
    deviation = np.abs(curve.observed - curve.levels[:, None]).max(axis=0)
    scores |= {f"largest_deviation/{name}": float(value) for name, value in zip(rows, deviation, strict=True)}
    scores |= {f"uniformity_p_value/{name}": float(value) for name, value in zip(rows, tests.p_value, strict=True)}
    pull = np.sqrt(np.mean(numbers.pull**2, axis=0))
    return scores | {f"root_mean_square_pull/{name}": float(value) for name, value in zip(names, pull, strict=True)}


def _rank(points: np.ndarray, true: np.ndarray) -> np.ndarray:
    """How many draws lie below the truth, per parameter."""
    return np.sum(points < true, axis=0)


def _nearer(points: np.ndarray, true: np.ndarray, reference: np.ndarray, width: np.ndarray) -> int:
    """How many draws lie nearer to the reference than the truth."""
    distance = np.sum(((points - reference) / width) ** 2, axis=1)
    return int(np.sum(distance < np.sum(((true - reference) / width) ** 2)))


def _prior(low, high, parameters: int) -> tuple[np.ndarray, np.ndarray]:
    low, high = (np.asarray(values, dtype=np.float64) for values in (low, high))
    if low.shape != (parameters,) or high.shape != low.shape or not np.all(low < high):
        raise ValueError(f"low, high: expected rising ends of the prior of {parameters} parameters, got {low}, {high}.")
    return low, high


def _newton(scores, low: float, high: float) -> tuple[float, bool]:
    """Temperature at which the mean score is zero, or the end nearest to it.

    In 1 / temperature the score of a Gaussian posterior is a straight line, so that few steps are enough. If they are
    not, what is left of the range is halved until it is found.
    """
    temperature, ends = min(max(1.0, low), high), [low, high]
    for _ in range(_ITERATIONS):
        score, slopes = scores(temperature)
        score, slope = score.mean(), slopes.mean()
        ends[0 if score > 0 else 1] = temperature
        inverse = 1.0 / temperature + score / (slope * temperature**2) if slope < 0 else -1.0
        step = 1.0 / inverse if inverse > 0 else (high if score > 0 else low)
        step = min(max(step, low), high)
        if abs(np.log(step / temperature)) < _TOLERANCE:
            return float(step), step in (low, high) and bool(score != 0)
        temperature = float(step if ends[0] <= step <= ends[1] else np.sqrt(ends[0] * ends[1]))
    while np.log(ends[1] / ends[0]) > _TOLERANCE:
        temperature = float(np.sqrt(ends[0] * ends[1]))
        ends[0 if scores(temperature)[0].mean() > 0 else 1] = temperature
    # An end that was never passed is still one of those asked for.
    return (low, True) if ends[0] == low else (high, True) if ends[1] == high else (temperature, False)


def _falling_root(function, low: float, high: float) -> tuple[float, bool]:
    """Temperature at which a falling function is zero, or the end nearest to it."""
    near = min(max(1.0, low), high)
    value, factor = function(near), 1.6
    if value == 0:
        return near, False
    while True:
        far = min(max(near * factor if value > 0 else near / factor, low), high)
        if far == near:
            return near, True
        if np.sign(function(far)) != np.sign(value):
            ends = np.log(sorted((near, far)))
            root = brentq(lambda t: function(np.exp(t)), *ends, xtol=_TOLERANCE, rtol=_TOLERANCE, maxiter=_ITERATIONS)
            return float(np.exp(root)), False
        near = far


def _truth(posteriors: Sequence, true) -> np.ndarray:
    true = np.asarray(true, dtype=np.float64)
    if true.ndim != 2 or 0 in true.shape or not np.isfinite(true).all():
        raise ValueError(f"true: expected finite parameters of shape (n, n_parameters), got shape {true.shape}.")
    if len(posteriors) != len(true):
        raise ValueError(f"posteriors: expected one per row of true, {len(true)}, got {len(posteriors)}.")
    return true


def _uniform_values(values, simulation) -> tuple[np.ndarray, np.ndarray, bool]:
    """Columns of numbers from 0 to 1, ids of the blocks, and whether any block holds more than one of them."""
    values = np.asarray(values, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or 0 in values.shape or not np.all((values >= 0) & (values <= 1)):
        raise ValueError(
            f"values: expected numbers from 0 to 1 of shape (n,) or (n, n_columns), got shape {values.shape}"
            f"{' with others' if values.size else ''}."
        )
    simulation = np.arange(len(values)) if simulation is None else _ids(simulation, len(values))
    return values, simulation, len(np.unique(simulation)) < len(values)


def _group_sums(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Sums of rows ``(n, m)`` over groups numbered from 0, ``(n_groups, m)``."""
    members = csr_array((np.ones(len(group)), (group, np.arange(len(group)))), shape=(group.max() + 1, len(group)))
    return members @ values.astype(np.float64)


def _ids(simulation, rows: int) -> np.ndarray:
    simulation = np.asarray(simulation)
    if simulation.shape != (rows,) or not np.issubdtype(simulation.dtype, np.integer):
        raise ValueError(
            f"simulation: expected one integer id per map, shape ({rows},), got shape {simulation.shape} of "
            f"{simulation.dtype}."
        )
    return simulation


def _whole(value, name: str, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}.")
