"""Scores of point estimates against the truth, per parameter.

Conventions: arrays are ``(n, n_parameters)`` in physical units, the residual is predicted minus true, and all sums are
float64 over centred values, so that targets with an offset (``log10 L_X`` near 40) lose no digits.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binned_statistic
from sklearn.metrics import r2_score, root_mean_squared_error

from keras_cosmo.quantities import Parameter


class BinnedResiduals(NamedTuple):
    """Residuals in bins of a reference value, one entry per bin.

    Args:
        counts: Number of residuals, integers.
        mean: Mean residual, NaN in empty bins.
        standard_deviation: Population standard deviation, NaN in bins with fewer than two residuals.
    """

    counts: np.ndarray
    mean: np.ndarray
    standard_deviation: np.ndarray


class SimulationAverage(NamedTuple):
    """Predictions averaged over the maps of each simulation.

    Args:
        simulation: Simulation ids, sorted, shape ``(n_simulations,)``.
        mean: Mean prediction, shape ``(n_simulations, n_parameters)``.
        standard_error: Standard error of that mean, NaN for a simulation with a single map. Maps cut from one
            light-cone are correlated, so this is a lower limit of the true error.
    """

    simulation: np.ndarray
    mean: np.ndarray
    standard_error: np.ndarray


def _finite_table(values, name: str) -> np.ndarray:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(
            f"{name}: expected shape (n, n_parameters) with n and n_parameters at least 1, got {table.shape}; "
            f"use values[:, None] for a single parameter."
        )
    bad_rows = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if bad_rows.size:
        raise ValueError(
            f"{name}: expected finite values, got NaN or infinity in {bad_rows.size} of {len(table)} rows "
            f"(first: row {bad_rows[0]}); find out why before leaving such rows out."
        )
    return table


def _pair(true, predicted) -> tuple[np.ndarray, np.ndarray]:
    true, predicted = _finite_table(true, "true"), _finite_table(predicted, "predicted")
    if true.shape != predicted.shape:
        raise ValueError(
            f"predicted: expected the shape of true, {true.shape}, got {predicted.shape}; "
            f"both must hold the same rows and parameters in the same order."
        )
    return true, predicted


def _simulation_ids(simulation, rows: int) -> np.ndarray:
    simulation = np.asarray(simulation)
    if simulation.shape != (rows,) or not np.issubdtype(simulation.dtype, np.integer):
        raise ValueError(
            f"simulation: expected one integer id per row, shape ({rows},), "
            f"got shape {simulation.shape} of {simulation.dtype}."
        )
    return simulation


def r2(true, predicted) -> np.ndarray:
    """Coefficient of determination per parameter, equation 3 of Gillet et al. 2019 (its right-hand form).

    It depends on the width of the prior: read it together with `rmse`.

    Args:
        true: True parameters ``(n, n_parameters)``.
        predicted: Predicted parameters, same shape.

    Returns:
        Shape ``(n_parameters,)``: 1 is perfect, 0 is as good as the mean, negative is worse.

    Raises:
        ValueError: On shapes that differ, values that are not finite, fewer than two rows, or a parameter that
            does not vary.

    Example:
        >>> r2([[40.0], [41.0], [42.0]], [[40.0], [41.0], [41.0]])
        array([0.5])
    """
    true, predicted = _pair(true, predicted)
    constant = np.flatnonzero(np.ptp(true, axis=0) == 0)
    if constant.size:
        raise ValueError(
            f"true: R2 needs at least two different true values of each parameter, got one value in all "
            f"{len(true)} rows of column {constant[0]}; score more simulations."
        )
    # Both are shifted by the same mean first: R2 does not change, and offsets cannot cost digits.
    centre = true.mean(axis=0)
    return r2_score(true - centre, predicted - centre, multioutput="raw_values")


def rmse(true, predicted) -> np.ndarray:
    """Root-mean-square residual per parameter, in the parameter's unit, shape ``(n_parameters,)``."""
    true, predicted = _pair(true, predicted)
    return root_mean_squared_error(true, predicted, multioutput="raw_values")


def prior_standard_deviation(parameters: Sequence[Parameter]) -> np.ndarray:
    """Standard deviation of each parameter's uniform prior, ``(high - low) / sqrt(12)``."""
    return np.array([(parameter.high - parameter.low) / np.sqrt(12.0) for parameter in parameters])


def rmse_over_prior(true, predicted, parameters: Sequence[Parameter]) -> np.ndarray:
    """Root-mean-square residual in units of the prior's standard deviation: 1 is what the prior mean scores."""
    _check_parameters(parameters, _finite_table(true, "true"))
    return rmse(true, predicted) / prior_standard_deviation(parameters)


def bias(true, predicted) -> np.ndarray:
    """Mean residual per parameter, predicted minus true, in the parameter's unit."""
    true, predicted = _pair(true, predicted)
    return np.mean(predicted - true, axis=0)


def scatter(true, predicted) -> np.ndarray:
    """Population standard deviation of the residual: ``rmse**2 == bias**2 + scatter**2``."""
    true, predicted = _pair(true, predicted)
    return np.std(predicted - true, axis=0)


def binned_residuals(reference, residual, edges) -> BinnedResiduals:
    """Mean and standard deviation of the residual in bins of a reference value.

    With the true value as reference this is the network's error given the truth, with the prediction as
    reference the uncertainty given the prediction (Gillet et al. 2019, section 4.2 and figure 5).

    Args:
        reference: Value to bin by, shape ``(n,)``; values outside the edges are left out.
        residual: Predicted minus true, shape ``(n,)``.
        edges: Rising bin edges, shape ``(n_bins + 1,)``; the last bin includes its upper edge.

    Raises:
        ValueError: On wrong shapes, values that are not finite, or edges that do not rise.

    Example:
        >>> binned_residuals([0.5, 0.6, 1.5], [1.0, 3.0, 5.0], [0.0, 1.0, 2.0, 3.0]).mean
        array([ 2.,  5., nan])
    """
    reference, residual, edges = (np.asarray(values, dtype=np.float64) for values in (reference, residual, edges))
    if reference.ndim != 1 or reference.shape != residual.shape:
        raise ValueError(
            f"reference and residual: expected two arrays of one shape (n,), got {reference.shape} and "
            f"{residual.shape}; pass one parameter at a time."
        )
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise ValueError(f"edges: expected at least two rising values, got {edges.tolist()}.")
    if not (np.isfinite(reference).all() and np.isfinite(residual).all()):
        raise ValueError("reference and residual: expected finite values, got NaN or infinity.")
    bins = len(edges) - 1
    if not len(reference):
        nothing = np.full(bins, np.nan)
        return BinnedResiduals(np.zeros(bins, dtype=np.int64), nothing, nothing.copy())
    counts = np.histogram(reference, edges)[0]
    mean, _, _ = binned_statistic(reference, residual, "mean", edges)
    deviation, _, _ = binned_statistic(reference, residual, "std", edges)
    return BinnedResiduals(counts, mean, np.where(counts > 1, deviation, np.nan))


def average_by_simulation(predictions, simulation) -> SimulationAverage:
    """Average the predictions from all maps of each simulation, such as the slices of one light-cone.

    Args:
        predictions: Shape ``(n, n_parameters)``.
        simulation: Simulation id of each row, integers ``(n,)``, in any order.

    Raises:
        ValueError: On wrong shapes or values that are not finite.
    """
    predictions = _finite_table(predictions, "predictions")
    ids, group = np.unique(_simulation_ids(simulation, len(predictions)), return_inverse=True)
    counts = np.bincount(group)[:, None]
    centre = predictions.mean(axis=0)
    mean = centre + _sum_by_group(predictions - centre, group) / counts
    squares = _sum_by_group((predictions - mean[group]) ** 2, group)
    variance = np.divide(squares, counts - 1, out=np.full_like(squares, np.nan), where=counts > 1)
    return SimulationAverage(ids, mean, np.sqrt(variance / counts))


def _sum_by_group(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(group, weights=column) for column in values.T], axis=1)


def bootstrap_r2(true, predicted, simulation, n: int = 1000, seed: int = 0) -> np.ndarray:
    """Standard error of R2 per parameter from a bootstrap over simulations.

    Whole simulations are drawn, because maps of one simulation share their parameters and are not independent.

    Args:
        true: True parameters ``(n_maps, n_parameters)``.
        predicted: Predicted parameters, same shape.
        simulation: Simulation id of each row, integers ``(n_maps,)``.
        n: Number of bootstrap sets.
        seed: Seed of the draws.

    Returns:
        Shape ``(n_parameters,)``. Sets in which a parameter does not vary (possible with a handful of simulations)
        are left out of that parameter's error; NaN where fewer than two remain.

    Raises:
        ValueError: As `r2`, and with fewer than two simulations or ``n`` below 2.
    """
    true, predicted = _pair(true, predicted)
    ids, group = np.unique(_simulation_ids(simulation, len(true)), return_inverse=True)
    if len(ids) < 2:
        raise ValueError("simulation: a bootstrap over simulations needs at least two of them, got 1.")
    if n < 2:
        raise ValueError(f"n: expected at least two bootstrap sets, got {n}.")
    centred = true - true.mean(axis=0)
    per_simulation = [
        _sum_by_group(values, group) for values in (np.ones_like(true), centred, centred**2, (predicted - true) ** 2)
    ]
    draws = np.random.default_rng(seed).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=n)
    rows, first, second, residual = (draws @ sums for sums in per_simulation)
    total = second - first**2 / rows
    # Rounding leaves a set of equal targets with a spread of about epsilon, not zero.
    usable = total > 1e-12 * second
    drawn = 1.0 - np.divide(residual, total, out=np.full_like(total, np.nan), where=usable)
    errors = [
        np.std(column[keep], ddof=1) if keep.sum() > 1 else np.nan
        for column, keep in zip(drawn.T, usable.T, strict=True)
    ]
    return np.array(errors)


def scores(
    true,
    predicted,
    parameters: Sequence[Parameter],
    simulation=None,
    bootstrap_sets: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """All scores as one flat mapping, such as ``{"r2/zeta": 0.95, "rmse/zeta": 15.2, ...}``.

    Args:
        true: True parameters ``(n, n_parameters)``.
        predicted: Predicted parameters, same shape.
        parameters: The parameters, in the order of the columns.
        simulation: Simulation id of each row. If given, ``"r2_standard_error/<name>"`` is added from
            `bootstrap_r2`, unless there is only one simulation.
        bootstrap_sets: Number of bootstrap sets.
        seed: Seed of the bootstrap.

    Returns:
        Keys ``r2``, ``rmse``, ``rmse_over_prior``, ``bias`` and ``scatter``, each ``/<parameter name>``; plain floats.

    Raises:
        ValueError: As `r2`, and if the number of parameters differs from the number of columns.
    """
    true, predicted = _pair(true, predicted)
    _check_parameters(parameters, true)
    columns = {
        "r2": r2(true, predicted),
        "rmse": rmse(true, predicted),
        "rmse_over_prior": rmse_over_prior(true, predicted, parameters),
        "bias": bias(true, predicted),
        "scatter": scatter(true, predicted),
    }
    if simulation is not None and len(np.unique(_simulation_ids(simulation, len(true)))) > 1:
        columns["r2_standard_error"] = bootstrap_r2(true, predicted, simulation, bootstrap_sets, seed)
    return _flat(columns, parameters)


def _flat(columns: Mapping[str, np.ndarray], parameters: Sequence[Parameter]) -> dict[str, float]:
    return {
        f"{key}/{parameter.name}": float(value)
        for key, values in columns.items()
        for parameter, value in zip(parameters, values, strict=True)
    }


def _check_parameters(parameters: Sequence[Parameter], table: np.ndarray) -> None:
    if len(parameters) != table.shape[1]:
        raise ValueError(
            f"parameters: expected one per column, {table.shape[1]}, got {len(parameters)} "
            f"({[parameter.name for parameter in parameters]})."
        )
