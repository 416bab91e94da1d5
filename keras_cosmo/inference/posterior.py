"""Posterior of the parameters of a map from any likelihood: on a grid, or by importance sampling for more parameters.

Equation 2 of Friedman & Hassan 2022 (section 3.2, "HIGlow", arXiv:2211.12724): ``p(z|x) = p(z) p(x|z) / p(x)``, where
the likelihood ``p(x|z)`` is a density of the map x given the parameters z, such as that of a flow. It comes in as a
callable ``log_likelihood(maps (B, H, W), parameters (B, P)) -> (B,)`` in nats, which takes and returns arrays;
parameters are passed in the dtype of the maps, and all calls for one set of maps have the same B. With p parameters in
a box:

- `grid_posterior`, `grid_posteriors`: the likelihood at the centres of a regular grid of cells, for up to three or so
  parameters; `GridPosterior` interpolates its logarithm between them.
- `importance_posterior`: weighted samples, drawn from the prior as in the paper or from a mixture that is fitted to the
  posterior round by round; `SamplePosterior`. It has to be told nothing about the posterior, and says by its effective
  sample size how well it did.

Both classes have the same methods, so that what works with one (`keras_cosmo.statistics.calibration`) works with the
other. All sums are float64, and sums of densities go through logarithms.

Deviations from the paper: the prior is in the weights once, not twice as equation 2 reads if its samples are drawn from
p(z); a grid besides random samples; and a temperature, the factor on the log-likelihood that
`keras_cosmo.statistics.calibration.fit_temperature` finds.
"""

import copy
import functools
import logging
import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.signal import fftconvolve
from scipy.special import logsumexp
from scipy.stats import multivariate_t

from keras_cosmo.quantities import Parameter

logger = logging.getLogger(__name__)

LogLikelihood = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Cells of the interpolated grid on each axis, by the number of parameters.
_FINE_CELLS = {1: 256, 2: 96, 3: 32}
# The same if they reach over the whole prior.
_WHOLE_CELLS = {1: 256, 2: 60, 3: 24}
# Nats below the peak where a posterior ends: the mass outside is negligible at any number of cells in use.
_NEGLIGIBLE = 25.0
_SMALLEST = 100.0
# Zooming keeps what is this many nats below the peak.
_ZOOM_NATS = 20.0
# Where a cubic and a linear interpolation differ by more nats than this, the cells are too wide for the cubic.
_LARGEST_STEP = 2.0
# A ridge can lie this many nats above all centres; a spline that rises more has met a cliff and rings.
_LARGEST_OVERSHOOT = 1000.0
_MOST_CELLS = 2**20
# Proposal of the importance sampling: a mixture of t-distributions, with uniform draws so that no weight is unbounded.
_DEGREES_OF_FREEDOM = 5
_UNIFORM_PART = 0.1
_MOST_COMPONENTS = 3
_EPSILON = 1e-12


class GridPosterior:
    """Posterior of the parameters of a map on a regular grid of cells.

    The likelihood is known at the centres of the cells. Its logarithm is interpolated between them by a cubic spline,
    which is exact for a Gaussian posterior however narrow, and everything below is summed over the finer cells of that.
    Next to points where the likelihood is zero the interpolation is local, and linear where cells are too wide for a
    cubic.

    Args:
        axes: Centres of the cells along each parameter, evenly spaced and rising, at least 4 each. The prior ends half
            a cell beyond the first and the last.
        log_likelihood: In nats at the centres, of the shape of the grid. Values that are not finite count as minus
            infinity; `not_finite` is their number.
        log_prior: Logarithm of the normalised density of the prior at the centres; uniform if None.
        temperature: Factor on the log-likelihood: below 1 it widens the posterior.
        names: Of the parameters.
        zoomed: Whether the grid covers only the part of the prior where the posterior is not negligible.

    Raises:
        ValueError: On axes that are not regular, shapes that differ, a temperature that is not positive, or a posterior
            that is zero everywhere.

    Example:
        >>> axis = (np.arange(40) + 0.5) / 40
        >>> posterior = GridPosterior([axis], -0.5 * ((axis - 0.5) / 0.1) ** 2, names=["Omega_m"])
        >>> posterior.mean.round(3), posterior.standard_deviation.round(3), posterior.cdf([0.6]).round(3)
        (array([0.5]), array([0.1]), array([0.841]))
    """

    def __init__(self, axes, log_likelihood, log_prior=None, temperature=1.0, names=None, zoomed=False):
        self.axes = tuple(_check_axis(axis, index) for index, axis in enumerate(axes))
        shape = tuple(len(axis) for axis in self.axes)
        self.names = _check_names(names, len(shape))
        self.cell_sizes = np.array([(axis[-1] - axis[0]) / (len(axis) - 1) for axis in self.axes])
        self.low = np.array([axis[0] for axis in self.axes]) - 0.5 * self.cell_sizes
        self.high = np.array([axis[-1] for axis in self.axes]) + 0.5 * self.cell_sizes
        log_likelihood = np.array(log_likelihood, dtype=np.float64)
        if log_likelihood.shape != shape:
            raise ValueError(f"log_likelihood: expected the shape of the grid, {shape}, got {log_likelihood.shape}.")
        bad = ~np.isfinite(log_likelihood)
        self.not_finite = int(bad.sum())
        log_likelihood[bad] = -np.inf
        self.log_likelihood = log_likelihood
        if log_prior is None:
            log_prior = np.full(shape, -np.log(self.high - self.low).sum())
        self.log_prior = np.asarray(log_prior, dtype=np.float64)
        if self.log_prior.shape != shape or np.isnan(self.log_prior).any() or np.any(self.log_prior == np.inf):
            raise ValueError(
                f"log_prior: expected the shape of the grid, {shape}, and numbers or minus infinity, got shape "
                f"{self.log_prior.shape}."
            )
        self.temperature = _check_temperature(temperature)
        self.zoomed = bool(zoomed)
        if not np.any(np.isfinite(self._log_density)):
            raise ValueError(
                f"log_likelihood: expected finite values where the prior is not zero, got none in {self.not_finite} "
                f"values that are not finite and {log_likelihood.size - self.not_finite} that are; check the map."
            )

    @property
    def log_evidence(self) -> float:
        """Logarithm of the integral of prior times likelihood, in nats: how well the model predicts the map."""
        return self._sums[0]

    @property
    def mean(self) -> np.ndarray:
        """Posterior mean ``(P,)``, the estimate with the least mean squared error (section 3.2 of the paper)."""
        return self._sums[1]

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of the parameters, ``(P, P)``."""
        return self._sums[2]

    @property
    def standard_deviation(self) -> np.ndarray:
        """Standard deviation of each parameter, ``(P,)``."""
        return np.sqrt(np.diagonal(self.covariance))

    @functools.cached_property
    def mode(self) -> np.ndarray:
        """Parameters of the highest density on the finer cells, ``(P,)``."""
        edges, mass = self._fine()
        return np.array(
            [0.5 * (e[i] + e[i + 1]) for e, i in zip(edges, np.unravel_index(np.argmax(mass), mass.shape), strict=True)]
        )

    def marginal(self, *parameters) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Density of one or more parameters, the others integrated over: centres of the finer cells, and density.

        Args:
            parameters: Their names or places.

        Raises:
            ValueError: If a parameter is unknown or named twice.
        """
        chosen = [_place(parameter, self.names) for parameter in parameters]
        if not chosen or len(set(chosen)) != len(chosen):
            raise ValueError(f"parameters: expected different ones of {list(self.names)}, got {list(parameters)}.")
        edges, mass = self._fine()
        mass = mass.sum(axis=tuple(axis for axis in range(mass.ndim) if axis not in chosen))
        mass = np.transpose(mass, np.argsort(np.argsort(chosen)).tolist() if len(chosen) > 1 else None)
        centres = tuple(0.5 * (edges[axis][1:] + edges[axis][:-1]) for axis in chosen)
        return centres, mass / math.prod(edges[axis][1] - edges[axis][0] for axis in chosen)

    def cdf(self, values) -> np.ndarray:
        """Posterior probability that each parameter lies below its value; of the true value, its PIT.

        Args:
            values: ``(P,)`` or ``(n, P)``.
        """
        values = _check_points(values, len(self.axes), "values")
        columns = [
            np.interp(values[..., axis], edges, cumulative, left=0.0, right=1.0)
            for axis, (edges, cumulative) in enumerate(self._cumulative)
        ]
        return np.stack(columns, axis=-1)

    def quantile(self, levels) -> np.ndarray:
        """Values below which each parameter lies with the given probabilities.

        Args:
            levels: Probabilities ``(m,)`` for all parameters, or ``(m, P)``.

        Returns:
            Shape ``(m, P)``.
        """
        levels = _check_levels(levels, len(self.axes))
        columns = []
        for axis, (edges, cumulative) in enumerate(self._cumulative):
            rising = np.concatenate([[True], np.diff(cumulative) > 0])
            columns.append(np.interp(levels[:, axis], cumulative[rising], edges[rising]))
        return np.stack(columns, axis=-1)

    def interval(self, level: float = 0.68) -> np.ndarray:
        """Central interval of each parameter, ``(P, 2)``: as much probability below it as above it."""
        tail = 0.5 * (1.0 - _check_level(level))
        return self.quantile([tail, 1.0 - tail]).T

    def highest_density_intervals(self, level: float = 0.68) -> list[np.ndarray]:
        """Smallest set of values of each parameter that holds the probability; ``(m, 2)`` for m separate intervals."""
        level = _check_level(level)
        found = []
        for edges, cumulative in self._cumulative:
            mass = np.diff(cumulative)
            inside = np.concatenate([[False], mass >= _mass_threshold(mass, level), [False]])
            steps = np.flatnonzero(np.diff(inside.astype(np.int8)))
            found.append(edges[steps].reshape(-1, 2))
        return found

    def threshold(self, level: float = 0.68) -> float:
        """Logarithm of the joint density at the border of the smallest region that holds the probability."""
        edges, mass = self._fine()
        return float(np.log(_mass_threshold(mass, _check_level(level))) - _log_volume(edges))

    def content(self, points) -> np.ndarray:
        """Probability of the region where the joint density is higher than at each point.

        For the true parameters of many maps it is uniform from 0 to 1 if the posteriors are right.

        Args:
            points: ``(P,)`` or ``(n, P)``; outside the prior it is 1.

        Returns:
            Of shape ``()`` or ``(n,)``.
        """
        density = self.log_density(points)
        edges, mass = self._fine()
        with np.errstate(divide="ignore"):
            log_mass = np.log(mass.ravel()) - _log_volume(edges)
        return _content(log_mass, mass.ravel(), density)

    def log_density(self, points) -> np.ndarray:
        """Logarithm of the posterior density in nats, minus infinity outside the prior.

        Args:
            points: ``(P,)`` or ``(n, P)``.
        """
        return self._at(points, self._log_density) - self.log_evidence

    def log_likelihood_at(self, points) -> np.ndarray:
        """Log-likelihood at points within the grid, interpolated; minus infinity outside.

        Args:
            points: ``(P,)`` or ``(n, P)``.
        """
        return self._at(points, self.log_likelihood)

    def log_likelihood_moments(self) -> tuple[float, float]:
        """Mean and variance of the log-likelihood over the posterior, which `fit_temperature` needs."""
        edges, log_density = self._fine_log_density()
        log_prior = self.log_prior.flat[0]
        if np.ptp(self.log_prior) > 0:
            log_prior = _interpolated(self.axes, self.log_prior, _centres(edges), grid=True)
        with np.errstate(invalid="ignore"):
            values = (log_density - log_prior) / self.temperature
        return _weighted_moments(values.ravel(), _exponential(log_density).ravel())

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Random draws ``(n, P)`` from the posterior: cells by their probability, uniform within a cell."""
        _check_count(n, "n")
        generator = np.random.default_rng(seed)
        edges, mass = self._fine()
        cumulative = np.cumsum(mass.ravel())
        cells = np.searchsorted(cumulative, generator.random(n) * cumulative[-1], side="right")
        indices = np.stack(np.unravel_index(np.minimum(cells, mass.size - 1), mass.shape), axis=-1)
        start = np.array([axis[0] for axis in edges])
        step = np.array([axis[1] - axis[0] for axis in edges])
        return start + step * (indices + generator.random(indices.shape))

    def tempered(self, temperature: float) -> "GridPosterior":
        """The same with another factor on the log-likelihood.

        Raises:
            ValueError: If the grid is zoomed and the posterior would become wider than it.
        """
        temperature = _check_temperature(temperature)
        if self.zoomed and temperature < self.temperature:
            raise ValueError(
                f"temperature: expected at least {self.temperature:g}, for this grid was zoomed in at that temperature "
                f"and a wider posterior does not fit, got {temperature:g}; evaluate the map again with it."
            )
        found = copy.copy(self)
        for name in ("mode", "_sums"):
            found.__dict__.pop(name, None)
        found.temperature = temperature
        return found

    def quadrature(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points ``(n, P)``, log-likelihood there and logarithm of what each point has of the prior.

        Centres of finer cells all over the grid; of all posteriors on one grid they are the same.
        """
        axes, mass = _whole(self.low, self.high, [len(axis) for axis in self.axes])
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
        log_likelihood = _interpolated(self.axes, self.log_likelihood, axes, grid=True).ravel()
        if np.ptp(self.log_prior) > 0:
            return points, log_likelihood, _interpolated(self.axes, self.log_prior, axes, grid=True).ravel() + mass
        return points, log_likelihood, np.full(len(points), mass + self.log_prior.flat[0])

    def convolved(self, covariance, low=None, high=None) -> "GridPosterior":
        """The posterior after a Gaussian error of the parameters, within the prior.

        Args:
            covariance: Of the error, ``(P, P)``.
            low: Lower ends of the prior; here those of the grid, which has to cover it.
            high: Upper ends.

        Raises:
            ValueError: If the grid is zoomed, or the covariance has another shape.
        """
        covariance = _check_covariance(covariance, len(self.axes))
        if self.zoomed:
            raise ValueError("covariance: expected a grid over the whole prior, this one was zoomed in.")
        centres, _ = _whole(self.low, self.high, [len(axis) for axis in self.axes])
        sizes = [axis[1] - axis[0] for axis in centres]
        cells = [len(axis) for axis in centres]
        mass = _exponential(_interpolated(self.axes, self._log_density, centres, grid=True))
        offsets = np.meshgrid(
            *[size * np.arange(1 - n, n) for size, n in zip(sizes, cells, strict=True)], indexing="ij"
        )
        offsets = np.stack(offsets, axis=-1)
        kernel = np.exp(-0.5 * np.einsum("...i,ij,...j->...", offsets, np.linalg.inv(covariance), offsets))
        density = fftconvolve(mass, kernel, mode="same")
        # Beyond that it is rounding of the Fourier transforms.
        density = np.maximum(density, density.max() * 1e-13)
        return GridPosterior(centres, np.log(density), names=self.names)

    @property
    def _log_density(self) -> np.ndarray:
        """Logarithm of prior times likelihood at the centres."""
        return self.temperature * self.log_likelihood + self.log_prior

    def _at(self, points, values: np.ndarray) -> np.ndarray:
        points = _check_points(points, len(self.axes), "points")
        rows = points.reshape(-1, len(self.axes))
        found = _interpolated(self.axes, values, list(rows.T), grid=False)
        inside = np.all((rows >= self.low) & (rows <= self.high), axis=1)
        return np.where(inside, found, -np.inf).reshape(points.shape[:-1])

    def _fine_log_density(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Edges of the finer cells around the posterior, and the interpolated log-density at their centres."""
        log_density = self._log_density
        kept = log_density > log_density.max() - _NEGLIGIBLE
        edges = []
        for axis, (low, size) in enumerate(zip(self.low, self.cell_sizes, strict=True)):
            used = np.flatnonzero(kept.any(axis=tuple(other for other in range(kept.ndim) if other != axis)))
            first, last = max(used[0] - 1, 0), min(used[-1] + 1, kept.shape[axis] - 1)
            cells = last + 1 - first
            factor = max(1, round(_FINE_CELLS.get(kept.ndim, 1) / cells))
            edges.append(low + size * (first + np.arange(cells * factor + 1) / factor))
        return edges, _interpolated(self.axes, log_density, _centres(edges), grid=True)

    def _fine(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Edges of the finer cells and the probability in each; not kept, for thousands of posteriors fit in memory."""
        edges, log_density = self._fine_log_density()
        mass = _exponential(log_density)
        return edges, mass / mass.sum()

    @functools.cached_property
    def _sums(self) -> tuple[float, np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """Log-evidence, mean, covariance, and edges and cumulative probability of each parameter."""
        edges, log_density = self._fine_log_density()
        mass = _exponential(log_density)
        evidence = float(log_density.max() + np.log(mass.sum()) + _log_volume(edges))
        mass /= mass.sum()
        axes = range(mass.ndim)
        single = [mass.sum(axis=tuple(other for other in axes if other != axis)) for axis in axes]
        centres = _centres(edges)
        mean = np.array([m @ c for m, c in zip(single, centres, strict=True)])
        offsets = [c - m for c, m in zip(centres, mean, strict=True)]
        covariance = np.empty((mass.ndim, mass.ndim))
        for i in axes:
            covariance[i, i] = single[i] @ offsets[i] ** 2
            for j in range(i):
                pair = mass.sum(axis=tuple(other for other in axes if other not in (i, j)))
                covariance[i, j] = covariance[j, i] = offsets[j] @ pair @ offsets[i]
        cumulative = [np.concatenate([[0.0], np.cumsum(m)]) for m in single]
        return evidence, mean, covariance, [(e, c / c[-1]) for e, c in zip(edges, cumulative, strict=True)]

    @property
    def _cumulative(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return self._sums[3]


class SamplePosterior:
    """Posterior of the parameters of a map as weighted samples.

    Args:
        samples: Shape ``(n, P)``.
        log_likelihood: In nats at the samples, ``(n,)``; values that are not finite count as minus infinity. None if
            it is not known, as for the samples of a network that gives a posterior directly.
        log_weights: Logarithm of prior over proposal, ``(n,)``: with the log-likelihood times the temperature it is
            the logarithm of the weights. The average weight is the evidence if both densities are normalised. None for
            samples that come from the prior, or, without a log-likelihood, from the posterior.
        log_prior: Logarithm of the prior density at the samples, ``(n,)``, for `content`; uniform if None.
        temperature: Factor on the log-likelihood.
        names: Of the parameters.
        evaluate: Callable that gives log-likelihood and log-prior at points ``(n, P)``, for `log_density` and
            `content` at points that are no samples.

    Raises:
        ValueError: On shapes that differ, samples that are not finite, or no sample with a weight.

    Example:
        >>> samples = np.random.default_rng(0).uniform(size=(20000, 1))
        >>> posterior = SamplePosterior(samples, -0.5 * ((samples[:, 0] - 0.5) / 0.1) ** 2)
        >>> posterior.mean.round(2), posterior.standard_deviation.round(2), posterior.effective_samples > 5000
        (array([0.5]), array([0.1]), True)
    """

    def __init__(
        self,
        samples,
        log_likelihood=None,
        log_weights=None,
        log_prior=None,
        temperature: float = 1.0,
        names=None,
        evaluate=None,
    ):
        self.samples = np.asarray(samples, dtype=np.float64)
        if self.samples.ndim != 2 or 0 in self.samples.shape or not np.isfinite(self.samples).all():
            raise ValueError(
                f"samples: expected finite values of shape (n, n_parameters), got shape {self.samples.shape}."
            )
        self.names = _check_names(names, self.samples.shape[1])
        self.temperature = _check_temperature(temperature)
        self.not_finite = 0
        if log_likelihood is not None:
            log_likelihood = np.array(log_likelihood, dtype=np.float64)
            bad = ~np.isfinite(log_likelihood)
            self.not_finite = int(bad.sum())
            log_likelihood[bad] = -np.inf
            _check_column(log_likelihood, len(self.samples), "log_likelihood")
        self.log_likelihood = log_likelihood
        zeros = np.zeros(len(self.samples))
        self.log_weights = zeros if log_weights is None else np.asarray(log_weights, dtype=np.float64)
        self.log_prior = zeros if log_prior is None else np.asarray(log_prior, dtype=np.float64)
        _check_column(self.log_weights, len(zeros), "log_weights")
        _check_column(self.log_prior, len(zeros), "log_prior")
        self._evaluate = evaluate
        total = self.log_weights + (0.0 if log_likelihood is None else self.temperature * log_likelihood)
        if not np.any(np.isfinite(total)):
            raise ValueError(
                f"log_likelihood: expected finite values at samples with a prior, got none at {len(total)} samples; "
                f"check the map."
            )
        self._log_total = total
        self.weights = np.exp(total - logsumexp(total))

    @property
    def log_evidence(self) -> float:
        """Logarithm of the average weight, in nats: the integral of prior times likelihood."""
        return float(logsumexp(self._log_total) - np.log(len(self._log_total)))

    @property
    def effective_samples(self) -> float:
        """How many samples of equal weight these are worth: ``1 / sum w^2`` (Kish 1965, Survey Sampling)."""
        return float(1.0 / np.sum(self.weights**2))

    @property
    def mean(self) -> np.ndarray:
        """Posterior mean ``(P,)``, the estimate with the least mean squared error (section 3.2 of the paper)."""
        return self.weights @ self.samples

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of the parameters, ``(P, P)``."""
        offsets = self.samples - self.mean
        return (offsets * self.weights[:, None]).T @ offsets

    @property
    def standard_deviation(self) -> np.ndarray:
        """Standard deviation of each parameter, ``(P,)``."""
        return np.sqrt(np.diagonal(self.covariance))

    @property
    def mode(self) -> np.ndarray:
        """The sample of the highest density, ``(P,)``."""
        return self.samples[np.argmax(self._log_density())]

    def marginal(self, *parameters, bins: int = 40) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Density of one or more parameters as a histogram: centres of the bins, and density.

        Args:
            parameters: Their names or places.
            bins: Number along each parameter.

        Raises:
            ValueError: If a parameter is unknown or named twice, or there are no bins.
        """
        _check_count(bins, "bins")
        chosen = [_place(parameter, self.names) for parameter in parameters]
        if not chosen or len(set(chosen)) != len(chosen):
            raise ValueError(f"parameters: expected different ones of {list(self.names)}, got {list(parameters)}.")
        used = self.samples[:, chosen][self.weights > 0]
        density, edges = np.histogramdd(used, bins, weights=self.weights[self.weights > 0], density=True)
        return tuple(0.5 * (e[1:] + e[:-1]) for e in edges), density

    def cdf(self, values) -> np.ndarray:
        """Posterior probability that each parameter lies below its value; of the true value, its PIT.

        Args:
            values: ``(P,)`` or ``(n, P)``.
        """
        values = _check_points(values, self.samples.shape[1], "values")
        columns = []
        for axis, column in enumerate(self.samples.T):
            ordered, cumulative = self._ordered(column)
            sides = [np.searchsorted(ordered, values[..., axis], side=side) for side in ("left", "right")]
            columns.append(0.5 * (cumulative[sides[0]] + cumulative[sides[1]]))
        return np.clip(np.stack(columns, axis=-1), 0.0, 1.0)

    def quantile(self, levels) -> np.ndarray:
        """Values below which each parameter lies with the given probabilities.

        Args:
            levels: Probabilities ``(m,)`` for all parameters, or ``(m, P)``.

        Returns:
            Shape ``(m, P)``.
        """
        levels = _check_levels(levels, self.samples.shape[1])
        columns = []
        for axis, column in enumerate(self.samples.T):
            ordered, cumulative = self._ordered(column)
            columns.append(np.interp(levels[:, axis], 0.5 * (cumulative[1:] + cumulative[:-1]), ordered))
        return np.stack(columns, axis=-1)

    def interval(self, level: float = 0.68) -> np.ndarray:
        """Central interval of each parameter, ``(P, 2)``: as much probability below it as above it."""
        tail = 0.5 * (1.0 - _check_level(level))
        return self.quantile([tail, 1.0 - tail]).T

    def highest_density_intervals(self, level: float = 0.68) -> list[np.ndarray]:
        """Shortest interval of each parameter that holds the probability, ``(1, 2)`` each."""
        level = _check_level(level)
        found = []
        for column in self.samples.T:
            ordered, cumulative = self._ordered(column)
            last = np.searchsorted(cumulative[1:], cumulative[:-1] + level - _EPSILON)
            first = np.flatnonzero(last < len(ordered))
            best = first[np.argmin(ordered[last[first]] - ordered[first])]
            found.append(np.array([[ordered[best], ordered[last[best]]]]))
        return found

    def threshold(self, level: float = 0.68) -> float:
        """Logarithm of the joint density at the border of the smallest region that holds the probability."""
        density = self._log_density() - self.log_evidence
        order = np.argsort(-density)
        reached = np.searchsorted(np.cumsum(self.weights[order]), _check_level(level) - _EPSILON)
        return float(density[order[min(reached, len(order) - 1)]])

    def content(self, points) -> np.ndarray:
        """Probability of the region where the joint density is higher than at each point.

        For the true parameters of many maps it is uniform from 0 to 1 if the posteriors are right.

        Args:
            points: ``(P,)`` or ``(n, P)``.

        Returns:
            Of shape ``()`` or ``(n,)``.

        Raises:
            ValueError: If the likelihood is not known at the samples or cannot be evaluated.
        """
        return _content(self._log_density() - self.log_evidence, self.weights, self.log_density(points))

    def log_density(self, points) -> np.ndarray:
        """Logarithm of the posterior density in nats, minus infinity outside the prior.

        Args:
            points: ``(P,)`` or ``(n, P)``.

        Raises:
            ValueError: If the likelihood cannot be evaluated.
        """
        log_likelihood, log_prior = self._evaluated(points)
        return self.temperature * log_likelihood + log_prior - self.log_evidence

    def log_likelihood_at(self, points) -> np.ndarray:
        """Log-likelihood at points, evaluated with the map; minus infinity outside the prior.

        Args:
            points: ``(P,)`` or ``(n, P)``.

        Raises:
            ValueError: If the likelihood cannot be evaluated.
        """
        return self._evaluated(points)[0]

    def log_likelihood_moments(self) -> tuple[float, float]:
        """Mean and variance of the log-likelihood over the posterior, which `fit_temperature` needs."""
        self._log_density()
        return _weighted_moments(self.log_likelihood, self.weights)

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Random draws ``(n, P)`` from the posterior: samples with replacement, by their weights."""
        _check_count(n, "n")
        cumulative = np.cumsum(self.weights)
        drawn = np.random.default_rng(seed).random(n) * cumulative[-1]
        return self.samples[np.minimum(np.searchsorted(cumulative, drawn, side="right"), len(cumulative) - 1)]

    def tempered(self, temperature: float) -> "SamplePosterior":
        """The same samples weighted for another factor on the log-likelihood.

        Raises:
            ValueError: If the log-likelihood is not known.
        """
        self._log_density()
        found = SamplePosterior(
            self.samples, self.log_likelihood, self.log_weights, self.log_prior, temperature, self.names, self._evaluate
        )
        found.not_finite = self.not_finite
        return found

    def quadrature(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points ``(n, P)``, log-likelihood there and logarithm of what each point has of the prior: the samples."""
        self._log_density()
        return self.samples, self.log_likelihood, self.log_weights - np.log(len(self.samples))

    def convolved(self, covariance, low=None, high=None) -> "SamplePosterior":
        """The posterior after a Gaussian error of the parameters, within the prior.

        Args:
            covariance: Of the error, ``(P, P)``.
            low: Lower ends of the prior, ``(P,)``; None: there are none.
            high: Upper ends.

        Returns:
            As many samples of equal weight; their density is known, as the sum over the errors of all samples.

        Raises:
            ValueError: If the covariance has another shape, or hardly any sample remains within the prior.
        """
        covariance = _check_covariance(covariance, self.samples.shape[1])
        low = np.full(len(covariance), -np.inf) if low is None else np.asarray(low, np.float64)
        high = np.full(len(covariance), np.inf) if high is None else np.asarray(high, np.float64)
        points, mass = self.samples, self.weights
        kept = mass > 1e-7 * mass.max()
        points, mass = points[kept], mass[kept] / mass[kept].sum()
        root = np.linalg.cholesky(covariance)
        generator = np.random.default_rng(0)
        count, kept, drawn = len(self.samples), [], 0
        while sum(map(len, kept)) < count:
            chosen = generator.choice(len(points), count, p=mass)
            moved = points[chosen] + generator.standard_normal((count, len(covariance))) @ root.T
            kept.append(moved[np.all((moved >= low) & (moved <= high), axis=1)])
            drawn += count
            if drawn >= 100 * count:
                raise ValueError("covariance: expected an error that leaves samples within the prior, it left none.")
        accepted = np.concatenate(kept)
        log_inside = np.log(len(accepted) / drawn)
        inverse = np.linalg.inv(root)
        constant = np.log(np.diagonal(inverse)).sum() - 0.5 * len(covariance) * np.log(2.0 * np.pi) - log_inside

        def log_density(places):
            whitened, centres = places @ inverse.T, points @ inverse.T
            found = [logsumexp(-0.5 * np.sum((centres - place) ** 2, axis=1), b=mass) + constant for place in whitened]
            inside = np.all((places >= low) & (places <= high), axis=1)
            return np.where(inside, found, -np.inf)

        samples = accepted[:count]
        at_samples = log_density(samples)
        return SamplePosterior(
            samples,
            at_samples,
            -at_samples,
            names=self.names,
            evaluate=lambda places: (log_density(places), np.zeros(len(places))),
        )

    def _log_density(self) -> np.ndarray:
        """Logarithm of prior times likelihood at the samples."""
        if self.log_likelihood is None:
            raise ValueError("log_likelihood: expected values at the samples for densities and temperatures, got none.")
        return self.temperature * self.log_likelihood + self.log_prior

    def _evaluated(self, points) -> tuple[np.ndarray, np.ndarray]:
        points = _check_points(points, self.samples.shape[1], "points")
        if self._evaluate is None:
            raise ValueError(
                "evaluate: densities at points that are no samples need the likelihood as a callable, got none; make "
                "the posterior with importance_posterior."
            )
        log_likelihood, log_prior = self._evaluate(points.reshape(-1, points.shape[-1]))
        return log_likelihood.reshape(points.shape[:-1]), log_prior.reshape(points.shape[:-1])

    def _ordered(self, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Samples with a weight in rising order, and the probability below each and below the end."""
        order = np.argsort(column)
        order = order[self.weights[order] > 0]
        cumulative = np.concatenate([[0.0], np.cumsum(self.weights[order])])
        return column[order], cumulative / cumulative[-1]


def posterior_log_evidence(log_likelihood, log_prior_mass, temperature: float = 1.0) -> float:
    """Logarithm of the evidence, ``log sum_i m_i L_i^T``: the denominator of equation 2 of the paper, in nats.

    Args:
        log_likelihood: In nats at the points, any shape; values that are not finite count as minus infinity.
        log_prior_mass: Logarithm of the prior probability that each point stands for, same shape or a number:
            ``-log(n)`` for n samples of the prior or n equal cells of a uniform one.
        temperature: Factor on the log-likelihood.

    Raises:
        ValueError: If it is not finite anywhere.

    Example:
        >>> round(posterior_log_evidence([-3000.0, -3001.0], np.log(0.5)), 4)
        -3000.3799
    """
    values = np.asarray(log_likelihood, dtype=np.float64)
    total = _check_temperature(temperature) * np.where(np.isfinite(values), values, -np.inf) + log_prior_mass
    if not np.any(np.isfinite(total)):
        raise ValueError(
            f"log_likelihood: expected finite values where the prior is not zero, got none of {total.size}."
        )
    return float(logsumexp(total))


def grid_posterior(
    log_likelihood: LogLikelihood,
    maps,
    parameters: Sequence[Parameter],
    cells: int | Sequence[int] = 32,
    low=None,
    high=None,
    log_prior: Callable[[np.ndarray], np.ndarray] | None = None,
    temperature: float = 1.0,
    zoom: int = 0,
    batch_size: int = 256,
    extrapolate: bool = False,
) -> GridPosterior:
    """Posterior of one map, or of several independent maps that share their parameters, on a grid.

    For several maps the log-likelihoods are added, which is right only if the maps are independent given the
    parameters. Maps cut from one simulation share their field: the posterior of their sum is too narrow, by a factor
    that `keras_cosmo.statistics.calibration` measures.

    Args:
        log_likelihood: ``(maps (B, H, W), parameters (B, P)) -> (B,)`` in nats.
        maps: One map ``(H, W)``, or several ``(n, H, W)`` of one sky or of one set of parameters.
        parameters: With the ranges the likelihood was trained for.
        cells: Cells along each parameter, at least 4. The paper does not state its number of samples; 32 x 32 cells
            are 1,024 evaluations.
        low: Lower ends of the prior, ``(P,)``; by default those of the parameters.
        high: Upper ends of the prior, ``(P,)``.
        log_prior: Logarithm of the prior's density at points ``(n, P)``, which need not be normalised; uniform if None.
        temperature: Factor on the log-likelihood, from `fit_temperature`.
        zoom: How often the grid may be laid again around the posterior where that is narrower than half of the grid.
        batch_size: Evaluations per call of the likelihood.
        extrapolate: Allow a prior that is wider than the range the likelihood was trained for.

    Raises:
        TypeError: If maps are not real numbers.
        ValueError: On wrong shapes, maps that are not finite, a prior beyond the trained range, too many cells, or a
            likelihood that returns another shape or is not finite anywhere.

    Example:
        >>> parameters = [Parameter(name="amplitude", low=0.0, high=4.0)]
        >>> def log_likelihood(maps, parameters):
        ...     return -0.5 * np.sum((maps - parameters[:, :, None]) ** 2, axis=(1, 2))
        >>> posterior = grid_posterior(log_likelihood, np.full((5, 5), 2.0), parameters)
        >>> posterior.mean.round(3), posterior.standard_deviation.round(3)  # 1 / sqrt(25 pixels)
        (array([2.]), array([0.2]))
    """
    maps = np.asarray(maps)
    maps = _check_maps(maps[None] if maps.ndim == 2 else maps)
    grid = _Grid(parameters, cells, low, high, log_prior, extrapolate)
    _check_temperature(temperature)
    if not (isinstance(zoom, int) and zoom >= 0):
        raise ValueError(f"zoom: expected how often to lay the grid again, 0 or more, got {zoom!r}.")
    for step in range(zoom + 1):
        values, not_finite = _evaluate(log_likelihood, maps, grid.points(), batch_size)
        posterior = grid.posterior(values.sum(axis=0), temperature, int(not_finite.sum()))
        if step < zoom and not grid.zoom(posterior):
            break
    _report(posterior.not_finite, values.size, "the map" if len(maps) == 1 else "the maps")
    _warn_if_coarse([posterior])
    return posterior


def grid_posteriors(
    log_likelihood: LogLikelihood,
    maps,
    parameters: Sequence[Parameter],
    cells: int | Sequence[int] = 32,
    low=None,
    high=None,
    log_prior: Callable[[np.ndarray], np.ndarray] | None = None,
    temperature: float = 1.0,
    batch_size: int = 256,
    extrapolate: bool = False,
) -> list[GridPosterior]:
    """Posterior of each of many maps on the same grid, such as of a test set.

    Args:
        log_likelihood: As in `grid_posterior`.
        maps: Shape ``(n, H, W)``, an array or an open HDF5 dataset, read map by map.
        parameters: As in `grid_posterior`, and so all others.
        cells: Cells along each parameter.
        low: Lower ends of the prior.
        high: Upper ends of the prior.
        log_prior: Logarithm of the prior's density.
        temperature: Factor on the log-likelihood.
        batch_size: Evaluations per call.
        extrapolate: Allow a prior wider than the trained range.

    Raises:
        TypeError: As `grid_posterior`.
        ValueError: As `grid_posterior`; a map whose likelihood is not finite anywhere is named.
    """
    grid = _Grid(parameters, cells, low, high, log_prior, extrapolate)
    points = grid.points()
    if len(np.shape(maps)) != 3:
        raise ValueError(f"maps: expected shape (n, height, width), got {np.shape(maps)}; use maps[None] for one map.")
    found = []
    for index in range(len(maps)):
        values, not_finite = _evaluate(
            log_likelihood, _check_maps(np.asarray(maps[index])[None], index), points, batch_size, index
        )
        found.append(grid.posterior(values[0], temperature, int(not_finite[0])))
    _report(sum(p.not_finite for p in found), len(found) * len(points), f"{len(found)} maps")
    _warn_if_coarse(found)
    return found


def importance_posterior(
    log_likelihood: LogLikelihood,
    maps,
    parameters: Sequence[Parameter],
    draws: int = 1024,
    rounds: int = 8,
    enough: float = 1000.0,
    proposal: str = "adaptive",
    low=None,
    high=None,
    log_prior: Callable[[np.ndarray], np.ndarray] | None = None,
    temperature: float = 1.0,
    batch_size: int = 256,
    seed: int = 0,
    extrapolate: bool = False,
    least_effective: float = 100.0,
) -> SamplePosterior:
    """Posterior of one map, or of several independent maps, by importance sampling; for any number of parameters.

    With ``proposal="prior"`` draws are uniform in the prior's box, as in equation 2 of the paper. With
    ``"adaptive"`` that is the first round; in each further one a mixture of t-distributions is fitted to all samples so
    far, on the logits of the parameters' places in the box, and drawn from. All samples are kept, weighted by the
    mixture of all proposals (Cornuet et al. 2012, Scandinavian Journal of Statistics 39, 798).

    Args:
        log_likelihood: As in `grid_posterior`.
        maps: One map ``(H, W)``, or several ``(n, H, W)`` that are independent given the parameters.
        parameters: With the ranges the likelihood was trained for.
        draws: Samples per round.
        rounds: Most rounds; without ``"adaptive"`` all draws of all rounds are uniform.
        enough: Effective sample size at which no further round is made.
        proposal: ``"adaptive"`` or ``"prior"``.
        low: Lower ends of the prior, ``(P,)``; by default those of the parameters.
        high: Upper ends of the prior, ``(P,)``.
        log_prior: Logarithm of the prior's density at points ``(n, P)``, which need not be normalised; uniform if None.
        temperature: Factor on the log-likelihood.
        batch_size: Evaluations per call of the likelihood.
        seed: Of the draws. They follow from it and from the maps: with the same seed those of other maps are
            independent, so that errors of importance sampling do not add up over many maps.
        extrapolate: Allow a prior that is wider than the range the likelihood was trained for.
        least_effective: Effective sample size below which a warning is logged.

    Raises:
        TypeError: As `grid_posterior`.
        ValueError: As `grid_posterior`, and on an unknown proposal.

    Example:
        >>> parameters = [Parameter(name=name, low=0.0, high=4.0) for name in "abcd"]
        >>> def log_likelihood(maps, parameters):
        ...     return -0.5 * np.sum((maps.reshape(len(maps), -1) - parameters) ** 2, axis=1) / 0.01
        >>> posterior = importance_posterior(log_likelihood, np.array([[1.0, 2.0], [2.0, 3.0]]), parameters)
        >>> posterior.mean.round(1), posterior.effective_samples > 500
        (array([1., 2., 2., 3.]), True)
    """
    maps = np.asarray(maps)
    maps = _check_maps(maps[None] if maps.ndim == 2 else maps)
    if proposal not in ("adaptive", "prior"):
        raise ValueError(f"proposal: expected 'adaptive' or 'prior', got {proposal!r}.")
    for value, name in ((draws, "draws"), (rounds, "rounds")):
        _check_count(value, name)
    temperature = _check_temperature(temperature)
    low, high, names = _box(parameters, low, high, extrapolate)
    generator = np.random.default_rng([int(seed), zlib.crc32(np.ascontiguousarray(maps, dtype=np.float64))])
    uniform = -float(np.log(high - low).sum())

    def evaluate(points):
        """Log-likelihood and log-prior at any points; minus infinity outside the prior."""
        inside = np.all((points >= low) & (points <= high), axis=1)
        found = np.full((2, len(points)), -np.inf)
        if inside.any():
            values, not_finite = _evaluate(log_likelihood, maps, points[inside], batch_size, required=False)
            found[:, inside] = values.sum(axis=0), _log_prior(log_prior, points[inside], uniform)
            counted[0] += int(not_finite.sum())
        return found[0], found[1]

    counted = [0]
    mixture = _Mixture(len(low))
    places, values, priors = (np.empty((0, len(low))), np.empty(0), np.empty(0))
    for step in range(rounds):
        new = mixture.draw(draws, generator)
        found = evaluate(low + (high - low) * new)
        places = np.concatenate([places, new])
        values, priors = np.concatenate([values, found[0]]), np.concatenate([priors, found[1]])
        # Volume of the box: proposals are densities of places within it, priors those of parameters.
        log_weights = priors - uniform - mixture.log_density(places)
        total = temperature * values + log_weights
        if not np.any(np.isfinite(total)):
            if step + 1 < rounds:
                mixture.add_uniform()
                continue
            raise ValueError(
                f"log_likelihood: expected finite values where the prior is not zero, got none at {len(total)} "
                f"points; check the map."
            )
        effective = np.exp(2 * logsumexp(total) - logsumexp(2 * total))
        if effective >= enough or step + 1 == rounds:
            break
        if proposal == "prior":
            mixture.add_uniform()
        else:
            mixture.fit(places, total, generator)
    log_normal = 0.0 if log_prior is None else logsumexp(log_weights) - np.log(len(log_weights))
    not_finite = counted[0]
    posterior = SamplePosterior(
        low + (high - low) * places,
        values,
        log_weights - log_normal,
        priors - log_normal,
        temperature,
        names,
        lambda points: (lambda pair: (pair[0], pair[1] - log_normal))(evaluate(points)),
    )
    posterior.not_finite = not_finite
    _report(not_finite, len(values) * len(maps), "the map" if len(maps) == 1 else "the maps")
    if posterior.effective_samples < least_effective:
        logger.warning(
            "Importance sampling is worth %.0f samples of equal weight only, out of %d: the summaries are noisy. Draw "
            "more, allow more rounds, or use a grid for few parameters.", posterior.effective_samples, len(values),
        )  # fmt: skip
    return posterior


class _Grid:
    """Cells over the prior, which may be laid again around a posterior."""

    def __init__(self, parameters, cells, low, high, log_prior, extrapolate):
        self.low, self.high, self.names = _box(parameters, low, high, extrapolate)
        self.prior, self.zoomed = log_prior, False
        cells = [cells] * len(self.low) if isinstance(cells, (int, np.integer)) else list(cells)
        if len(cells) != len(self.low) or not all(isinstance(n, (int, np.integer)) and n >= 4 for n in cells):
            raise ValueError(f"cells: expected at least 4 for each of {len(self.low)} parameters, got {cells}.")
        if math.prod(cells) > _MOST_CELLS:
            raise ValueError(
                f"cells: expected at most {_MOST_CELLS} in all, got {math.prod(cells)} for {len(cells)} parameters; "
                f"use importance_posterior."
            )
        self.cells = cells
        self.uniform = -float(np.log(self.high - self.low).sum())
        log_prior = _log_prior(self.prior, self.points(), self.uniform)
        volume = np.log((self.high - self.low) / cells).sum()
        self.normal = 0.0 if self.prior is None else float(logsumexp(log_prior) + volume)
        if not np.isfinite(self.normal):
            raise ValueError("log_prior: expected a prior that is not zero everywhere in the box, got minus infinity.")

    def axes(self) -> list[np.ndarray]:
        return [
            low + (high - low) * (np.arange(n) + 0.5) / n
            for low, high, n in zip(self.low, self.high, self.cells, strict=True)
        ]

    def points(self) -> np.ndarray:
        return np.stack(np.meshgrid(*self.axes(), indexing="ij"), axis=-1).reshape(-1, len(self.low))

    def posterior(self, values: np.ndarray, temperature: float, not_finite: int) -> GridPosterior:
        log_prior = _log_prior(self.prior, self.points(), self.uniform) - self.normal
        values, log_prior = (array.reshape(self.cells) for array in (values, log_prior))
        found = GridPosterior(self.axes(), values, log_prior, temperature, self.names, self.zoomed)
        found.not_finite = not_finite
        return found

    def zoom(self, posterior: GridPosterior) -> bool:
        """Lay the grid around the posterior, if that is narrower than half of the grid along some parameter."""
        log_density = posterior._log_density
        kept = log_density > log_density.max() - _ZOOM_NATS
        low, high, narrower = self.low.copy(), self.high.copy(), False
        for axis, cells in enumerate(self.cells):
            used = np.flatnonzero(kept.any(axis=tuple(other for other in range(kept.ndim) if other != axis)))
            first, last = max(used[0] - 1, 0), min(used[-1] + 2, cells)
            if last - first <= cells // 2:
                size = (self.high[axis] - self.low[axis]) / cells
                low[axis], high[axis] = self.low[axis] + first * size, self.low[axis] + last * size
                narrower = True
        self.low, self.high, self.zoomed = low, high, self.zoomed or narrower
        return narrower


class _Mixture:
    """Proposals of all rounds so far: densities of places in the unit cube."""

    def __init__(self, parameters: int):
        self.parameters = parameters
        self.rounds = [None]

    def add_uniform(self) -> None:
        self.rounds.append(None)

    def draw(self, n: int, generator: np.random.Generator) -> np.ndarray:
        """Places from the last proposal."""
        places = generator.random((n, self.parameters))
        components = self.rounds[-1]
        if components is not None:
            parts = np.array([_UNIFORM_PART, *((1 - _UNIFORM_PART) * part for part, _, _ in components)])
            counts = generator.multinomial(n, parts / parts.sum())
            logits = [
                np.reshape(
                    multivariate_t.rvs(mean, shape, _DEGREES_OF_FREEDOM, count, random_state=generator), (count, -1)
                )
                for (_, mean, shape), count in zip(components, counts[1:], strict=True)
                if count
            ]
            if logits:
                places[counts[0] :] = 1.0 / (1.0 + np.exp(-np.clip(np.concatenate(logits), -700.0, 700.0)))
        return np.clip(places, _EPSILON, 1.0 - _EPSILON)

    def log_density(self, places: np.ndarray) -> np.ndarray:
        """Logarithm of the average of all proposals, which had the same number of draws each."""
        jacobian = -np.sum(np.log(places) + np.log1p(-places), axis=1)
        logits = np.log(places) - np.log1p(-places)
        terms = []
        for components in self.rounds:
            uniform = np.zeros(len(places))
            if components is None:
                terms.append(uniform)
                continue
            parts = [np.log(_UNIFORM_PART) + uniform]
            for part, mean, shape in components:
                density = multivariate_t.logpdf(logits, mean, shape, _DEGREES_OF_FREEDOM)
                parts.append(np.log((1 - _UNIFORM_PART) * part) + density + jacobian)
            terms.append(logsumexp(parts, axis=0))
        return logsumexp(terms, axis=0) - np.log(len(terms))

    def fit(self, places: np.ndarray, log_weights: np.ndarray, generator: np.random.Generator) -> None:
        """Add a proposal fitted to weighted samples, their weights flattened until enough of them count."""
        from sklearn.mixture import GaussianMixture

        usable = np.isfinite(log_weights)
        logits = np.log(places[usable]) - np.log1p(-places[usable])
        log_weights = log_weights[usable]
        wanted = min(30.0 * self.parameters, 0.5 * len(log_weights))
        low, high = 0.0, 1.0
        if _effective(log_weights) < wanted:
            for _ in range(40):
                middle = 0.5 * (low + high)
                low, high = (middle, high) if _effective(middle * log_weights) >= wanted else (low, middle)
        else:
            low = 1.0
        weights = np.exp(low * log_weights - logsumexp(low * log_weights))
        chosen = logits[generator.choice(len(logits), size=2000, p=weights / weights.sum())]
        # Of repeated points alone a covariance would be singular.
        smallest = 1e-6 + 1e-4 * float(np.var(chosen, axis=0).max())
        most = _MOST_COMPONENTS if _effective(low * log_weights) >= 100 * self.parameters else 1
        fits = [
            GaussianMixture(n, reg_covar=smallest, random_state=int(generator.integers(2**31)), max_iter=200, tol=1e-2)
            for n in range(1, most + 1)
        ]
        best = min((fit.fit(chosen) for fit in fits), key=lambda fit: fit.bic(chosen))
        self.rounds.append(list(zip(best.weights_, best.means_, best.covariances_, strict=True)))


def _evaluate(log_likelihood, maps, points, batch_size, first_map: int | None = None, required: bool = True):
    """Log-likelihood of each map at each point ``(n_maps, n_points)`` in float64, and how many are not finite."""
    _check_count(batch_size, "batch_size")
    count = len(maps) * len(points)
    calls = -(-count // batch_size)
    size = -(-count // calls)
    points = points.astype(maps.dtype) if np.issubdtype(maps.dtype, np.floating) else points
    values = np.empty(count)
    for start in range(0, count, size):
        # The last call is filled up with the last pair: a compiled likelihood sees one shape only.
        index = np.minimum(np.arange(start, start + size), count - 1)
        found = np.asarray(log_likelihood(maps[index // len(points)], points[index % len(points)]), dtype=np.float64)
        if found.shape != (size,):
            raise ValueError(
                f"log_likelihood: expected one number per map, shape ({size},), from the callable, got {found.shape}."
            )
        values[start : start + size] = found[: min(size, count - start)]
    values = values.reshape(len(maps), len(points))
    finite = np.isfinite(values)
    nowhere = np.flatnonzero(~finite.any(axis=1))
    if nowhere.size and required:
        which = f"map {first_map if first_map is not None else nowhere[0]}"
        raise ValueError(
            f"log_likelihood: expected finite values for {which}, got none at {len(points)} points; is the map in the "
            f"unit and range of the training data?"
        )
    return np.where(finite, values, -np.inf), np.sum(~finite, axis=1)


def _report(not_finite: int, count: int, what: str) -> None:
    if not_finite:
        logger.warning(
            "The log-likelihood of %s is not finite at %d of %d points; the posterior is taken as zero there.",
            what, not_finite, count,
        )  # fmt: skip


def _warn_if_coarse(posteriors: list[GridPosterior]) -> None:
    """A Gaussian needs a cell below about twice its deviation; interpolation is exact only for that."""
    coarse = sum(bool(np.any(p.standard_deviation < 0.5 * p.cell_sizes)) for p in posteriors)
    if coarse:
        logger.warning(
            "%d of %d posteriors are narrower than the cells of the grid: take more cells%s.",
            coarse, len(posteriors), ", or zoom in" if len(posteriors) == 1 else "",
        )  # fmt: skip


def _box(parameters, low, high, extrapolate):
    """Ends of the prior, within the trained range, and the names of the parameters."""
    parameters = list(parameters)
    if not parameters or not all(isinstance(parameter, Parameter) for parameter in parameters):
        raise ValueError(f"parameters: expected at least one keras_cosmo.quantities.Parameter, got {parameters}.")
    trained = np.array([[p.low, p.high] for p in parameters])
    ends = []
    for value, default, name in ((low, trained[:, 0], "low"), (high, trained[:, 1], "high")):
        value = default if value is None else np.asarray(value, dtype=np.float64)
        if value.shape != default.shape or not np.isfinite(value).all():
            raise ValueError(f"{name}: expected one finite number per parameter, {len(default)}, got {value}.")
        ends.append(value.astype(np.float64))
    low, high = ends
    if not np.all(low < high):
        raise ValueError(f"low: expected values below high, got {low.tolist()} and {high.tolist()}.")
    slack = 1e-9 * (trained[:, 1] - trained[:, 0])
    outside = np.flatnonzero((low < trained[:, 0] - slack) | (high > trained[:, 1] + slack))
    if outside.size and not extrapolate:
        place = outside[0]
        raise ValueError(
            f"low, high: expected a prior of {parameters[place].name!r} within {trained[place, 0]:g} to "
            f"{trained[place, 1]:g}, the range the likelihood was trained for, got {low[place]:g} to {high[place]:g}; "
            f"narrow the prior, or set extrapolate=True."
        )
    return low, high, _check_names([p.name for p in parameters], len(parameters))


def _log_prior(log_prior, points: np.ndarray, uniform: float) -> np.ndarray:
    if log_prior is None:
        return np.full(len(points), uniform)
    values = np.asarray(log_prior(points), dtype=np.float64)
    if values.shape != (len(points),) or np.isnan(values).any() or np.any(values == np.inf):
        raise ValueError(
            f"log_prior: expected one number or minus infinity per point, shape ({len(points)},), from the callable, "
            f"got shape {values.shape}{' with NaN or infinity' if values.shape == (len(points),) else ''}."
        )
    return values


def _stencils(axis: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights ``(len(x), len(axis))`` of the cubic and the linear interpolation at ``x``."""
    count, rows = len(axis), np.arange(len(x))
    s = (x - axis[0]) / ((axis[-1] - axis[0]) / (count - 1))
    floor = np.floor(s).astype(np.int64)
    cubic, linear = np.zeros((len(x), count)), np.zeros((len(x), count))
    left = np.clip(floor, 0, count - 2)
    linear[rows, left], linear[rows, left + 1] = 1.0 - (s - left), s - left
    first = np.clip(floor - 1, 0, count - 4)
    t = s - first
    cubic[rows, first] = -(t - 1) * (t - 2) * (t - 3) / 6
    cubic[rows, first + 1] = t * (t - 2) * (t - 3) / 2
    cubic[rows, first + 2] = -t * (t - 1) * (t - 3) / 2
    cubic[rows, first + 3] = t * (t - 1) * (t - 2) / 6
    return cubic, linear


def _spline(axis: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Weights ``(len(x), len(axis))`` of a cubic spline through all centres."""
    return make_interp_spline(axis, np.eye(len(axis)), k=3)(x)


def _nearest(axis: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Weights of the nearest centre."""
    place = np.rint((x - axis[0]) / (axis[-1] - axis[0]) * (len(axis) - 1)).astype(np.int64)
    return np.eye(len(axis))[np.clip(place, 0, len(axis) - 1)]


def _interpolated(axes, values: np.ndarray, where: list[np.ndarray], grid: bool) -> np.ndarray:
    """Values between the centres: on the grid of the coordinates ``where``, or at the points they make together.

    A cubic spline if all values are finite and none falls off a cliff. Else the cubic through the four centres around
    where these are finite and the cells narrow enough, linear elsewhere, and next to minus infinity the nearest
    centre's value.
    """
    # Points far outside are not interpolated but refused later: their weights need only be finite.
    where = [np.clip(x, 2 * axis[0] - axis[1], 2 * axis[-1] - axis[-2]) for axis, x in zip(axes, where, strict=True)]
    finite = np.isfinite(values)
    if finite.all():
        found = _contract(values, [_spline(axis, x) for axis, x in zip(axes, where, strict=True)], grid)
        if found.max() - values.max() <= _LARGEST_OVERSHOOT:
            return found
    cubic, linear = zip(*(_stencils(axis, x) for axis, x in zip(axes, where, strict=True)), strict=True)
    filled = values if finite.all() else np.where(finite, values, 0.0)
    straight, smooth = _contract(filled, linear, grid), _contract(filled, cubic, grid)
    resolved = np.abs(smooth - straight) <= _LARGEST_STEP
    if filled is values:
        return np.where(resolved, smooth, straight)
    nearest = [_nearest(axis, x) for axis, x in zip(axes, where, strict=True)]
    holes = (~finite).astype(np.float64)
    touched = [
        _contract(holes, [np.abs(m) for m in stencils], grid) > _EPSILON for stencils in (cubic, linear, nearest)
    ]
    close = np.where(touched[2], -np.inf, _contract(filled, nearest, grid))
    return np.where(touched[1], close, np.where(resolved & ~touched[0], smooth, straight))


def _contract(values: np.ndarray, stencils, grid: bool) -> np.ndarray:
    if grid:
        for stencil in stencils:
            values = np.tensordot(values, stencil, axes=(0, 1))
        return values
    values = np.tensordot(stencils[0], values, axes=(1, 0))
    for stencil in stencils[1:]:
        values = np.einsum("ki,ki...->k...", stencil, values)
    return values


def _mass_threshold(mass: np.ndarray, level: float) -> float:
    """Smallest probability of a cell within the smallest region that holds the level."""
    ordered = np.sort(mass.ravel())[::-1]
    reached = np.searchsorted(np.cumsum(ordered), level - _EPSILON)
    return float(ordered[min(reached, len(ordered) - 1)])


def _content(log_density: np.ndarray, mass: np.ndarray, at: np.ndarray) -> np.ndarray:
    at = np.asarray(at)
    if at.size == 1:
        # The usual case, for the truth of each of many maps: no need to sort.
        above, least = mass[log_density > at].sum(), mass[log_density >= at].sum()
        # Sums of parts round in another way than the whole.
        return np.reshape(min(0.5 * (above + least) / mass.sum(), 1.0), at.shape)
    order = np.argsort(-log_density)
    cumulative = np.concatenate([[0.0], np.cumsum(mass[order])])
    above, least = (np.searchsorted(-log_density[order], -at, side=side) for side in ("left", "right"))
    return 0.5 * (cumulative[above] + cumulative[least]) / cumulative[-1]


def _weighted_moments(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    used = weights > 0
    values, weights = values[used], weights[used] / weights[used].sum()
    mean = float(weights @ values)
    return mean, float(weights @ (values - mean) ** 2)


def _exponential(values: np.ndarray) -> np.ndarray:
    """Exponential over its largest value; zero where it is so small that processors get slow."""
    values = values - values.max()
    return np.exp(values, where=values > -_SMALLEST, out=np.zeros(values.shape))


def _effective(log_weights: np.ndarray) -> float:
    return float(np.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights)))


def _centres(edges: list[np.ndarray]) -> list[np.ndarray]:
    return [0.5 * (axis[1:] + axis[:-1]) for axis in edges]


def _log_volume(edges: list[np.ndarray]) -> float:
    return float(sum(np.log(axis[1] - axis[0]) for axis in edges))


def _place(parameter, names: tuple[str, ...]) -> int:
    if isinstance(parameter, str) and parameter in names:
        return names.index(parameter)
    if isinstance(parameter, (int, np.integer)) and 0 <= parameter < len(names):
        return int(parameter)
    raise ValueError(f"parameters: expected a name or place of {list(names)}, got {parameter!r}.")


def _check_axis(axis, index: int) -> np.ndarray:
    axis = np.asarray(axis, dtype=np.float64)
    steps = np.diff(axis) if axis.ndim == 1 else np.empty(0)
    if len(steps) < 3 or not np.isfinite(axis).all() or not np.all(steps > 0):
        raise ValueError(f"axes: expected at least 4 rising values for parameter {index}, got shape {axis.shape}.")
    if np.ptp(steps) > 1e-6 * steps.mean():
        raise ValueError(
            f"axes: expected evenly spaced centres of cells for parameter {index}, got steps from {steps.min():g} to "
            f"{steps.max():g}."
        )
    return axis


def _check_names(names, count: int) -> tuple[str, ...]:
    names = tuple(f"parameter {index}" for index in range(count)) if names is None else tuple(names)
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"names: expected {count} different names, one per parameter, got {list(names)}.")
    return names


def _check_covariance(covariance, parameters: int) -> np.ndarray:
    covariance = np.asarray(covariance, np.float64)
    if covariance.shape != (parameters, parameters):
        raise ValueError(f"covariance: expected shape {(parameters, parameters)}, got {covariance.shape}.")
    return covariance


def _whole(low, high, cells) -> tuple[list[np.ndarray], float]:
    """Centres of finer cells from end to end, and the logarithm of the volume of one."""
    fine = _WHOLE_CELLS.get(len(cells), 1)
    counts = [count * max(1, -(-fine // count)) for count in cells]
    axes = [a + (b - a) * (np.arange(n) + 0.5) / n for a, b, n in zip(low, high, counts, strict=True)]
    return axes, float(np.log([(b - a) / n for a, b, n in zip(low, high, counts, strict=True)]).sum())


def _check_temperature(temperature: float) -> float:
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature: expected a positive factor on the log-likelihood, got {temperature}.")
    return float(temperature)


def _check_level(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level: expected a probability between 0 and 1, got {level}.")
    return float(level)


def _check_levels(levels, parameters: int) -> np.ndarray:
    levels = np.asarray(levels, dtype=np.float64)
    if levels.ndim == 1:
        levels = np.repeat(levels[:, None], parameters, axis=1)
    if levels.ndim != 2 or levels.shape[1] != parameters or not np.all((levels >= 0) & (levels <= 1)):
        raise ValueError(
            f"levels: expected probabilities from 0 to 1 of shape (m,) or (m, {parameters}), got {levels.shape}."
        )
    return levels


def _check_points(points, parameters: int, name: str) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim not in (1, 2) or points.shape[-1] != parameters or not np.isfinite(points).all():
        raise ValueError(
            f"{name}: expected finite parameters of shape ({parameters},) or (n, {parameters}), got {points.shape}."
        )
    return points


def _check_column(values: np.ndarray, count: int, name: str) -> None:
    if values.shape != (count,) or np.isnan(values).any() or np.any(values == np.inf):
        raise ValueError(
            f"{name}: expected one number or minus infinity per sample, shape ({count},), got shape {values.shape}"
            f"{' with NaN or infinity' if values.shape == (count,) else ''}."
        )


def _check_count(value, name: str) -> None:
    if not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}.")


def _check_maps(maps: np.ndarray, index: int | None = None) -> np.ndarray:
    if not (np.issubdtype(maps.dtype, np.floating) or np.issubdtype(maps.dtype, np.integer)):
        raise TypeError(f"maps: expected real numbers, got {maps.dtype}.")
    if maps.ndim != 3 or 0 in maps.shape:
        raise ValueError(f"maps: expected one map (height, width) or several (n, height, width), got {maps.shape}.")
    bad = np.flatnonzero(~np.isfinite(maps).all(axis=(1, 2)))
    if bad.size:
        raise ValueError(
            f"maps: expected finite values, got NaN or infinity in map {index if index is not None else bad[0]}."
        )
    return maps
