"""Posteriors of a likelihood that errs in where it puts the parameters of a map."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit, ndtri
from scipy.stats import qmc

# Of the search: temperature, width and share of the correlation where it starts.
_START = (0.5, 0.5, 0.9)
_DRAWS, _MOST_MAPS, _MOST_POINTS = 64, 400, 4000


@dataclasses.dataclass(frozen=True)
class PosteriorConvolution:
    """The posterior at a temperature, convolved with a Gaussian error of the parameters, within the prior.

    A flow is too sure of the parameters, and not by the same in all directions: small errors of the density add up over
    thousands of pixels and shift the peak, above all along the degeneracy of the parameters. A factor on the
    log-likelihood alone (`keras_cosmo.statistics.calibration.fit_temperature`) has to widen the posterior across the
    degeneracy as well until it holds the truth along it. Here the shift is a Gaussian random variable, over which the
    posterior is marginalised: ``p(z|x) ~ prior(z) int N(z - z'; 0, C) p_T(z'|x) dz'``, ``p_T ~ prior p(x|z)^T``.

    ``C`` is the matrix of the mean squared errors of the posterior means, times a number, with correlations that are
    lowered by a common factor. These two and the temperature maximise the mean logarithm of the density at the true
    parameters. Fit them to maps of simulations that the likelihood was not trained with, and judge them on others. See
    `fit`.

    Args:
        temperature: Factor on the log-likelihood.
        covariance: Of the error of the parameters, ``(P, P)``.
        low, high: Ends of the prior, ``(P,)``.
        gain: Mean gain per map of the logarithm of the posterior density at the true parameters over the posteriors as
            they were, on the maps of the fit, in nats.

    Raises:
        ValueError: On shapes that differ, a temperature or a covariance that is not positive, or an empty prior.

    Example:
        >>> from keras_cosmo.inference.posterior import GridPosterior
        >>> axis = (np.arange(64) + 0.5) / 64
        >>> wider = PosteriorConvolution(1.0, [[0.04**2]], [0.0], [1.0])
        >>> posterior = wider.apply(GridPosterior([axis], -0.5 * ((axis - 0.5) / 0.03) ** 2))
        >>> posterior.standard_deviation.round(3)
        array([0.05])
    """

    temperature: float
    covariance: np.ndarray
    low: np.ndarray
    high: np.ndarray
    gain: float = np.nan

    def __post_init__(self):
        covariance, low, high = (np.asarray(value, np.float64) for value in (self.covariance, self.low, self.high))
        if low.ndim != 1 or low.shape != high.shape or covariance.shape != (*low.shape, *low.shape):
            raise ValueError(
                f"covariance: expected shape (P, P) for low and high of shape (P,), got {covariance.shape}, "
                f"{low.shape} and {high.shape}."
            )
        if not np.all(low < high):
            raise ValueError(f"high: expected ends above low, {low.tolist()}, got {high.tolist()}.")
        if not self.temperature > 0 or not np.isfinite(self.temperature):
            raise ValueError(f"temperature: expected a positive factor, got {self.temperature}.")
        if not np.allclose(covariance, covariance.T) or np.linalg.eigvalsh(covariance)[0] <= 0:
            raise ValueError(f"covariance: expected a symmetric positive matrix, got {covariance.tolist()}.")
        for name, value in (("covariance", covariance), ("low", low), ("high", high)):
            object.__setattr__(self, name, value)

    @classmethod
    def fit(cls, posteriors: Sequence, true, low, high) -> "PosteriorConvolution":
        """Fit temperature and error to maps with known parameters.

        Args:
            posteriors: One per map, as those of `keras_cosmo.inference.posterior`, over the whole prior.
            true: True parameters ``(n, P)``.
            low: Lower ends of the prior, ``(P,)``.
            high: Upper ends.

        Raises:
            ValueError: On shapes that differ, fewer than two maps, or true parameters outside the prior.
        """
        true, low, high = (np.asarray(value, np.float64) for value in (true, low, high))
        if true.ndim != 2 or len(true) != len(posteriors) or true.shape[1:] != low.shape or low.shape != high.shape:
            raise ValueError(
                f"true: expected parameters of {len(posteriors)} maps, shape (n, P), got {true.shape} for ends of the "
                f"prior of shape {low.shape} and {high.shape}."
            )
        if len(true) < 2:
            raise ValueError(f"true: expected two maps at least, better hundreds, got {len(true)}.")
        outside = np.flatnonzero(np.any((true < low) | (true > high), axis=1))
        if outside.size:
            raise ValueError(
                f"true: expected parameters within the prior, got others for {outside.size} of {len(true)} maps "
                f"(first: map {outside[0]})."
            )
        # Evenly spread over all; the three numbers need no more.
        chosen = np.arange(len(true))[:: -(-len(true) // _MOST_MAPS)]
        size = high - low
        # In units of the prior.
        error = (np.array([posteriors[row].mean for row in chosen]) - true[chosen]) / size
        error = error.T @ error / len(error) + 1e-8 * np.eye(len(low))
        maps = _Maps([posteriors[row] for row in chosen], true[chosen], low, size)
        start = np.log(_START[0]), np.log(_START[1]), logit(_START[2])
        found = minimize(
            lambda place: maps.loss(*_decoded(place, error)),
            start,
            method="Nelder-Mead",
            options={"xatol": 0.02, "fatol": 1e-4, "maxiter": 300},
        )
        temperature, covariance = _decoded(found.x, error)
        before = np.mean([float(posteriors[row].log_density(true[row])) for row in chosen])
        gain = float(-found.fun - np.log(size).sum() - before)
        return cls(float(temperature), covariance * np.outer(size, size), low, high, gain)

    def apply(self, posterior):
        """The corrected posterior of one map, of the same kind as ``posterior``."""
        return posterior.tempered(self.temperature).convolved(self.covariance, self.low, self.high)


def _decoded(place, error) -> tuple[float, np.ndarray]:
    """Temperature and covariance of three numbers without bounds."""
    temperature, width, share = np.exp(place[0]), np.exp(place[1]), expit(place[2])
    diagonal = np.diag(np.diag(error))
    return temperature, width**2 * (diagonal + share * (error - diagonal))


class _Maps:
    """Points, likelihoods and true parameters of all maps, in units where the prior is a cube."""

    def __init__(self, posteriors, true, low, size):
        self.true = (true - low) / size
        self.parts, previous, places = [], None, None
        for posterior in posteriors:
            points, log_likelihood, log_prior = posterior.quadrature()
            every = slice(None, None, -(-len(points) // _MOST_POINTS))
            points = points[every]
            # Those on one grid share their points.
            if previous is None or not np.array_equal(points, previous):
                previous, places = points, (points - low) / size
            self.parts.append((places, log_likelihood[every] - log_likelihood.max(), log_prior[every]))
        draws = qmc.Sobol(len(low), scramble=True, rng=np.random.default_rng(0)).random(_DRAWS)
        self.noise = ndtri(draws)

    def loss(self, temperature, covariance) -> float:
        """Mean negative logarithm of the density at the true parameters."""
        root = np.linalg.cholesky(covariance)
        inverse = np.linalg.inv(root)
        constant = np.log(np.diagonal(inverse)).sum() - 0.5 * len(root) * np.log(2.0 * np.pi)
        noise = self.noise @ root.T
        total, places, inside, whitened = 0.0, None, None, None
        for (points, log_likelihood, log_prior), row in zip(self.parts, self.true, strict=True):
            if points is not places:
                places, whitened = points, points @ inverse.T
                inside = np.zeros(len(points))
                for shift in noise:
                    inside += np.all((points + shift >= 0.0) & (points + shift <= 1.0), axis=1)
                inside /= len(noise)
            mass = temperature * log_likelihood + log_prior
            mass = np.exp(mass - mass.max())
            distance = np.sum((whitened - inverse @ row) ** 2, axis=1)
            least = distance[mass > 1e-12].min()
            at_truth = mass @ np.exp(-0.5 * np.maximum(distance - least, 0.0))
            total += np.log(at_truth) - 0.5 * least + constant - np.log(max(mass @ inside, 1e-12))
        return -total / len(self.true)
