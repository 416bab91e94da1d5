"""Posteriors that are right on average though the likelihood is too sure by more on some maps than on others."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp

#: Factors on the log-likelihood, down to where hardly anything but the prior is left.
TEMPERATURES = tuple((0.5 ** np.arange(11)).tolist())

_ITERATIONS = 2000
_TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True)
class TemperedStacking:
    """Mixture of the posteriors at several temperatures: ``p(z|x) = sum_k w_k p_k(z|x)``, ``p_k ~ p(z) p(x|z)^T_k``.

    A single temperature (`keras_cosmo.statistics.calibration.fit_temperature`) fits a likelihood that errs by the same
    on all maps. That of a flow is nearly right on most and far off on some; then no single one is right, as a few maps
    ask for one at which all others are much too wide. The mixture has heavier tails instead. Its weights maximise the
    mean logarithm of the density at the true parameters, which is concave in them (stacking of predictive
    distributions, Yao, Vehtari, Simpson & Gelman 2018, arXiv:1704.02030), found by expectation and maximisation.

    Fit it to maps of simulations that the likelihood was not trained with, and judge it on others. See `fit`.

    Args:
        temperatures: Factors on the log-likelihood, ``(K,)``, positive.
        weights: Of the posteriors at them, ``(K,)``, positive, with the sum 1.
        gain: Mean gain per map of the logarithm of the posterior density at the true parameters over the posteriors as
            they were, on the maps of the fit, in nats.

    Raises:
        ValueError: On shapes that differ, temperatures that are not positive, or weights that are negative or do not
            have the sum 1.

    Example:
        >>> from keras_cosmo.inference.posterior import GridPosterior
        >>> axis = (np.arange(64) + 0.5) / 64
        >>> mixture = TemperedStacking((1.0, 0.25), (0.5, 0.5))
        >>> wider = mixture.apply(GridPosterior([axis], -0.5 * ((axis - 0.5) / 0.05) ** 2))
        >>> wider.standard_deviation.round(3)
        array([0.079])
    """

    temperatures: np.ndarray
    weights: np.ndarray
    gain: float = np.nan

    def __post_init__(self):
        temperatures, weights = (np.asarray(values, np.float64) for values in (self.temperatures, self.weights))
        if temperatures.ndim != 1 or not temperatures.size or weights.shape != temperatures.shape:
            raise ValueError(
                f"weights: expected one for each temperature, got shapes {weights.shape} and {temperatures.shape}."
            )
        if not np.all((temperatures > 0) & np.isfinite(temperatures)):
            raise ValueError(f"temperatures: expected positive factors, got {temperatures.tolist()}.")
        if np.any(weights < 0) or not np.isclose(weights.sum(), 1.0):
            raise ValueError(f"weights: expected numbers of at least 0 with the sum 1, got {weights.tolist()}.")
        object.__setattr__(self, "temperatures", temperatures)
        object.__setattr__(self, "weights", weights)

    @classmethod
    def fit(cls, posteriors: Sequence, true, temperatures: Sequence[float] = TEMPERATURES) -> "TemperedStacking":
        """Fit the weights to maps with known parameters.

        As if one map more had been seen that belongs to all temperatures alike, so that none is ruled out.

        Args:
            posteriors: One per map, as those of `keras_cosmo.inference.posterior`, with the log-likelihood known.
            true: True parameters ``(n, P)``.
            temperatures: Factors on the log-likelihood.

        Raises:
            ValueError: On shapes that differ, or a likelihood that is zero at the true parameters of some map.
        """
        true = np.asarray(true, np.float64)
        if true.ndim != 2 or len(true) != len(posteriors) or not len(true):
            raise ValueError(f"true: expected parameters of the {len(posteriors)} maps, got shape {true.shape}.")
        log_density = np.array(
            [
                [float(posterior.tempered(temperature).log_density(row)) for temperature in temperatures]
                for posterior, row in zip(posteriors, true, strict=True)
            ]
        )
        lost = np.flatnonzero(~np.isfinite(log_density).all(axis=1))
        if lost.size:
            raise ValueError(
                f"true: expected parameters within the prior where the likelihood is not zero, got others for "
                f"{lost.size} of {len(true)} maps (first: map {lost[0]})."
            )
        count = len(temperatures)
        weights = np.full(count, 1.0 / count)
        for _ in range(_ITERATIONS):
            share = log_density + np.log(weights)
            share = np.exp(share - logsumexp(share, axis=1, keepdims=True))
            updated = (share.sum(axis=0) + 1.0 / count) / (len(true) + 1.0)
            change = np.abs(updated - weights).max()
            weights = updated
            if change < _TOLERANCE:
                break
        before = np.array([float(p.log_density(row)) for p, row in zip(posteriors, true, strict=True)])
        gain = float(np.mean(logsumexp(log_density + np.log(weights), axis=1) - before))
        return cls(np.asarray(temperatures, np.float64), weights / weights.sum(), gain)

    def apply(self, posterior):
        """The mixture for one map, of the same kind as ``posterior``."""
        log_evidence = np.array([posterior.tempered(temperature).log_evidence for temperature in self.temperatures])
        with np.errstate(divide="ignore"):
            offset = np.log(self.weights) - log_evidence

        def mixed(log_likelihood):
            return logsumexp(self.temperatures * np.asarray(log_likelihood)[..., None] + offset, axis=-1)

        return posterior.transformed(mixed)
