import doctest

import numpy as np
import pytest
from scipy.stats import beta, kstest, kstwo, norm

from keras_cosmo.inference.posterior import GridPosterior, SamplePosterior
from keras_cosmo.statistics import calibration
from keras_cosmo.statistics.calibration import (
    CalibrationNumbers,
    CdfRecalibration,
    calibration_numbers,
    calibration_scores,
    central_credibility,
    coverage,
    credibility,
    fit_temperature,
    pit,
    rank_histogram,
    sbc_ranks,
    tarp,
    uniformity,
)

LOW, HIGH = np.array([0.1, 0.6]), np.array([0.5, 1.0])
SIGMA = np.array([0.05, 0.04])
MIX = np.linalg.cholesky([[1.0, -0.7], [-0.7, 1.0]])
AXES = [low + (high - low) * (np.arange(28) + 0.5) / 28 for low, high in zip(LOW, HIGH, strict=True)]
GRID = np.stack(np.meshgrid(*AXES, indexing="ij"), axis=-1)


def observations(simulations, maps=1, seed=0, shared=0.0):
    """True parameters, observed ones with correlated Gaussian errors, and simulations; maps may share their error."""
    generator = np.random.default_rng(seed)
    true = np.repeat(generator.uniform(LOW, HIGH, (simulations, 2)), maps, axis=0)
    common = np.repeat(generator.normal(size=(simulations, 2)), maps, axis=0)
    noise = np.sqrt(shared) * common + np.sqrt(1 - shared) * generator.normal(size=true.shape)
    return true, true + (noise @ MIX.T) * SIGMA, np.repeat(np.arange(simulations) + 5, maps)


def log_likelihood(points, observed, excess=1.0):
    """Of a Gaussian in two parameters whose covariance is divided by ``excess``."""
    whitened = np.linalg.solve(MIX, ((points - observed) / SIGMA).reshape(-1, 2).T)
    return -0.5 * excess * np.sum(whitened**2, axis=0).reshape(points.shape[:-1])


def grids(observed, excess=1.0):
    """Posteriors with a uniform prior, over-confident with an excess above 1."""
    return [GridPosterior(AXES, log_likelihood(GRID, row, excess)) for row in observed]


def samples(observed, excess=1.0, n=2000, seed=0):
    """The same as samples from the prior."""
    generator = np.random.default_rng(seed)
    found = []
    for row in observed:
        points = generator.uniform(LOW, HIGH, (n, 2))

        def evaluate(points, row=row):
            return log_likelihood(points, row, excess), np.zeros(len(points))

        found.append(SamplePosterior(points, log_likelihood(points, row, excess), evaluate=evaluate))
    return found


TRUE, OBSERVED, _ = observations(600, seed=1)


@pytest.mark.parametrize("kind", [grids, samples])
def test_right_posteriors_are_flat_and_on_the_diagonal(kind):
    count = 600 if kind is grids else 300
    true, posteriors = TRUE[:count], kind(OBSERVED[:count])
    numbers = calibration_numbers(posteriors, true, LOW, HIGH, seed=3)
    assert numbers.pit.shape == numbers.ranks.shape == numbers.pull.shape == (count, 2)
    columns = np.column_stack([numbers.pit, numbers.ranks, numbers.credibility, numbers.tarp])
    # An outside test: SciPy's.
    assert min(kstest(column, "uniform").pvalue for column in columns.T) > 0.01
    assert uniformity(columns).p_value.min() > 0.01
    histogram = rank_histogram(columns, bins=10)
    outside = (histogram.counts < histogram.low) | (histogram.counts > histogram.high)
    assert outside.sum() <= 8  # of 60 at 95%
    curve = coverage(np.column_stack([central_credibility(numbers.pit), numbers.credibility, numbers.tarp]))
    deviation = (curve.observed - curve.levels[:, None]) / np.maximum(curve.standard_error, 1e-3)
    assert np.abs(deviation).max() < 3.5
    np.testing.assert_allclose(np.mean(numbers.pull**2, axis=0), 1.0, atol=0.15)
    # One by one they are what all at once gives.
    np.testing.assert_allclose(pit(posteriors[:5], true[:5]), numbers.pit[:5])
    np.testing.assert_allclose(credibility(posteriors[:5], true[:5]), numbers.credibility[:5])
    ranks = sbc_ranks(posteriors, true, draws=99)
    assert ranks.shape == (count, 2)
    assert ranks.min() >= 0
    assert ranks.max() <= 99
    np.testing.assert_allclose(ranks / 100, numbers.pit, atol=0.3)
    assert uniformity((ranks + 0.5) / 100).p_value.min() > 0.01


def test_the_numbers_are_those_of_gaussians():
    """Far from the prior's edges PIT and credibility are known."""
    centre = 0.5 * (LOW + HIGH) + [0.003, 0.001]
    offsets = np.array([[0.0, 0.0], [0.5, -0.3], [-1.0, 1.0]]) * SIGMA
    posteriors = grids(np.tile(centre, (3, 1)), excess=4.0)
    found = pit(posteriors, centre + offsets)
    np.testing.assert_allclose(found, norm.cdf(offsets / (SIGMA / 2)), atol=2e-3)
    distance = -2 * log_likelihood(centre + offsets, centre, 4.0)
    np.testing.assert_allclose(credibility(posteriors, centre + offsets), 1 - np.exp(-0.5 * distance), atol=0.01)
    # TARP: part of the posterior within a circle, here by SciPy's normal distribution in one dimension.
    axis = np.linspace(0.005, 0.995, 100)
    one = GridPosterior([axis], -0.5 * ((axis - 0.5) / 0.1) ** 2)
    values = [tarp([one], [[0.6]], [0.0], [1.0], draws=2000, seed=seed, references=[[0.4]])[0] for seed in range(10)]
    np.testing.assert_allclose(np.mean(values), norm.cdf(1.0) - norm.cdf(-3.0), atol=0.01)


@pytest.mark.parametrize(("excess", "sign"), [(4.0, -1), (0.25, 1)])
def test_wrong_posteriors_are_found_and_mended(excess, sign):
    """A covariance divided or multiplied by 4: the temperature that mends it is 1 / excess."""
    true, observed, simulation = observations(320, seed=2)
    posteriors = grids(observed, excess)
    first, second = slice(0, 200), slice(200, 320)
    before = calibration_numbers(posteriors[second], true[second], LOW, HIGH)
    columns = np.column_stack([before.pit, before.credibility, before.tarp])
    p_values = uniformity(columns).p_value
    # Ranks and TARP see too wide posteriors less clearly than credibilities do.
    assert p_values.max() < 0.01 if excess > 1 else p_values[:2].max() < 0.05 and p_values[2] < 1e-6
    regions = np.column_stack([central_credibility(before.pit), before.credibility])
    curve = coverage(regions, levels=[0.68])
    assert np.all(sign * (curve.observed - 0.68) > 4 * curve.standard_error)
    histogram = rank_histogram(before.pit, bins=10)
    ends, middle = histogram.counts[[0, -1]].sum(axis=0), histogram.counts[4:6].sum(axis=0)
    assert np.all(ends > middle) if excess > 1 else np.all(ends < middle)
    fits = [fit_temperature(posteriors[first], true[first], simulation[first])]
    if excess > 1:
        fits.append(fit_temperature(posteriors[:80], true[:80], simulation[:80], method="coverage"))
    for fit in fits:
        assert not fit.at_bound
        assert 0 < fit.standard_error < 0.3 * fit.temperature
        assert abs(fit.temperature - 1 / excess) < 3 * fit.standard_error
        assert fit.gain > 0.05
    fit = fits[0]
    after = calibration_numbers(posteriors[second], true[second], LOW, HIGH, temperature=fit.temperature)
    columns = np.column_stack([after.pit, after.credibility, after.tarp])
    assert uniformity(columns).p_value.min() > 0.01
    regions = np.column_stack([central_credibility(after.pit), after.credibility])
    curve = coverage(regions, levels=[0.68, 0.95])
    assert np.all(np.abs(curve.observed - curve.levels[:, None]) < 3.5 * curve.standard_error + 0.01)
    np.testing.assert_allclose(np.sqrt(np.mean(after.pull**2, axis=0)), 1.0, atol=0.25)
    # The parameters by themselves are mended by their own curves, too, without a temperature.
    correction = CdfRecalibration.fit(pit(posteriors[first], true[first]))
    # Two samples, that of the fit and this one: their largest difference at 1%.
    assert uniformity(correction.transform(before.pit)).statistic.max() < 1.63 * np.sqrt(1 / 200 + 1 / 120)
    held = [
        (p.quantile(correction.inverse([[0.16] * 2, [0.84] * 2])) - row)
        for p, row in zip(posteriors[second], true[second], strict=True)
    ]
    inside = np.mean([(low < 0) & (high > 0) for low, high in held], axis=0)
    np.testing.assert_allclose(inside, 0.68, atol=0.13)


def test_temperature_of_samples():
    true, observed, simulation = observations(80, seed=4)
    fit = fit_temperature(samples(observed, 4.0), true, simulation)
    assert abs(fit.temperature - 0.25) < 3 * fit.standard_error
    exact = fit_temperature(grids(observed, 4.0), true, simulation)
    np.testing.assert_allclose(fit.temperature, exact.temperature, rtol=0.15)
    # What is right stays.
    fit = fit_temperature(grids(observed), true, simulation)
    assert abs(fit.temperature - 1) < 3 * fit.standard_error


class Sluggish:
    """Log-likelihoods of a Gaussian, -scale at the truth and -1 / (2 T) on average, whose variance is overstated."""

    def __init__(self, scale, temperature=1.0):
        self.scale, self.temperature = scale, temperature

    def tempered(self, temperature):
        return Sluggish(self.scale, temperature)

    def log_likelihood_at(self, point):
        return -self.scale

    def log_likelihood_moments(self):
        return -0.5 / self.temperature, 10.0 / self.temperature**2

    def log_density(self, point):
        return -self.temperature * self.scale + 0.5 * np.log(self.temperature)


@pytest.mark.parametrize(("expected", "at_bound"), [(0.02, False), (5.0, False), (0.001, True), (200.0, True)])
def test_temperature_is_found_where_newton_crawls(expected, at_bound):
    fit = fit_temperature([Sluggish(0.5 / expected)] * 3, np.zeros((3, 1)), bounds=(0.005, 50.0))
    assert fit.at_bound == at_bound
    assert fit.temperature == pytest.approx(np.clip(expected, 0.005, 50.0), rel=2e-4)


def test_error_of_the_temperature_holds_over_simulations():
    """Maps of a simulation that are alike: the error over simulations is the scatter from set to set."""
    fits, naive = [], []
    for trial in range(20):
        true, observed, simulation = observations(20, 4, seed=100 + trial, shared=0.9)
        posteriors = [GridPosterior([AXES[0]], -0.5 * ((AXES[0] - row[0]) / SIGMA[0]) ** 2) for row in observed]
        fits.append(fit_temperature(posteriors, true[:, :1], simulation))
        if trial < 5:
            naive.append(fit_temperature(posteriors, true[:, :1]).standard_error / fits[-1].standard_error)
    scatter = np.std([np.log(fit.temperature) for fit in fits])
    errors = np.array([fit.standard_error / fit.temperature for fit in fits])
    np.testing.assert_allclose(np.median(errors), scatter, rtol=0.3)
    assert np.mean(naive) < 0.75


def test_temperature_at_the_bound():
    true, observed, _ = observations(50, seed=5)
    fit = fit_temperature(grids(observed, 4.0), true, bounds=(0.6, 2.0))
    assert fit.at_bound
    assert fit.temperature == pytest.approx(0.6)
    assert np.isnan(fit.standard_error)
    fit = fit_temperature(grids(observed, 0.25), true, bounds=(0.2, 0.5))
    assert fit.at_bound
    assert fit.temperature == pytest.approx(0.5)


def clustered(simulations, maps, generator, shared=0.5):
    """Uniform numbers that are alike within a simulation."""
    common = generator.normal(size=simulations)
    noise = np.sqrt(shared) * np.repeat(common, maps) + np.sqrt(1 - shared) * generator.normal(size=simulations * maps)
    return norm.cdf(noise), np.repeat(np.arange(simulations), maps)


def test_errors_hold_for_maps_of_one_simulation():
    generator = np.random.default_rng(0)
    levels = [0.16, 0.5, 0.68, 0.95]
    observed, errors, inside, naive, failed, failed_naive, in_band, in_naive = ([] for _ in range(8))
    for trial in range(100):
        values, ids = clustered(60, 15, generator)
        curve = coverage(values, levels, ids, n=200, seed=trial)
        observed.append(curve.observed[:, 0])
        errors.append(curve.standard_error[:, 0])
        inside.append((curve.low[:, 0] <= levels) & (levels <= curve.high[:, 0]))
        naive.append(np.sqrt(curve.observed[:, 0] * (1 - curve.observed[:, 0]) / len(values)))
        failed.append(uniformity(values, ids, n=300, seed=trial).p_value[0] < 0.05)
        failed_naive.append(uniformity(values).p_value[0] < 0.05)
        for simulation, found in ((ids, in_band), (None, in_naive)):
            histogram = rank_histogram(values, 10, simulation)
            found.append(((histogram.counts >= histogram.low) & (histogram.counts <= histogram.high)).mean())
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(errors), axis=0)), np.std(observed, axis=0), rtol=0.15)
    assert np.all(np.mean(inside, axis=0) > 0.89)
    assert np.all(np.mean(naive, axis=0) < 0.8 * np.std(observed, axis=0))
    assert 0.005 <= np.mean(failed) <= 0.12
    assert np.mean(failed_naive) > 0.3
    assert 0.92 <= np.mean(in_band) <= 0.985
    assert np.mean(in_naive) < np.mean(in_band) - 0.05


def test_independent_numbers():
    generator = np.random.default_rng(1)
    failed, in_band = [], []
    for _ in range(300):
        values = generator.random(100)
        failed.append(uniformity(values).p_value[0] < 0.05)
        histogram = rank_histogram(values, 5)
        in_band.append(((histogram.counts >= histogram.low) & (histogram.counts <= histogram.high)).mean())
    assert 0.02 < np.mean(failed) < 0.09
    assert 0.93 < np.mean(in_band) < 0.98
    assert uniformity(values).p_value[0] == pytest.approx(kstest(values, "uniform").pvalue)
    # A column of blocks of one map each needs no bootstrap.
    assert uniformity(values, np.arange(100)) == uniformity(values)
    assert uniformity(values).band[0] == pytest.approx(kstwo.ppf(0.95, 100), rel=0.003)


def test_bins_of_the_histogram():
    values = np.array([0.0, 0.19, 0.2, 0.999, 1.0])
    histogram = rank_histogram(values, 5)
    assert histogram.counts[:, 0].tolist() == [2, 1, 0, 0, 2]
    np.testing.assert_allclose(histogram.edges, np.linspace(0, 1, 6))
    assert histogram.expected == 1.0
    # All maps of a simulation alike: the band is that of as many numbers as simulations.
    values = np.repeat(np.random.default_rng(0).random(200), 15)
    alike = rank_histogram(values, 10, np.repeat(np.arange(200), 15))
    np.testing.assert_allclose(alike.effective, 200, rtol=0.1)
    few = rank_histogram(values[::15], 10)
    np.testing.assert_allclose(alike.low / 15, few.low, rtol=0.15)
    np.testing.assert_allclose(alike.high / 15, few.high, rtol=0.15)


def test_coverage_is_a_count():
    values = np.array([[0.1, 0.5], [0.3, 0.7], [0.6, 0.9], [0.9, 0.95]])
    curve = coverage(values, [0.5, 0.9])
    np.testing.assert_allclose(curve.observed, [[0.5, 0.25], [1.0, 0.75]])
    alike = coverage(np.repeat(values, 15, axis=0), [0.5, 0.9], np.repeat(np.arange(4), 15), n=4000)
    np.testing.assert_allclose(alike.standard_error, coverage(values, [0.5, 0.9], n=4000).standard_error, atol=1e-12)


def test_recalibration_is_a_rising_curve():
    generator = np.random.default_rng(0)
    values = np.column_stack([generator.beta(0.5, 0.5, 3000), generator.beta(3, 2, 3000)])
    correction = CdfRecalibration.fit(values)
    grid = np.repeat(np.linspace(0, 1, 501)[:, None], 2, axis=1)
    curve = correction.transform(grid)
    assert np.all(np.diff(curve, axis=0) > 0)
    np.testing.assert_allclose(curve[[0, -1]], [[0, 0], [1, 1]])
    np.testing.assert_allclose(curve[:, 1], beta(3, 2).cdf(grid[:, 1]), atol=0.03)
    np.testing.assert_allclose(correction.inverse(curve), grid, atol=1e-3)
    slope = np.gradient(curve, grid[:, 0], axis=0)
    np.testing.assert_allclose(correction.factor(grid)[5:-5], slope[5:-5], atol=0.05)
    np.testing.assert_allclose(np.trapezoid(correction.factor(grid), grid[:, 0], axis=0), 1.0, atol=1e-3)
    # Steps without any number stay possible.
    gap = CdfRecalibration.fit(np.concatenate([generator.uniform(0, 0.3, 200), generator.uniform(0.7, 1, 200)]), 10)
    assert gap.factor([[0.5]])[0, 0] > 0
    # What is uniform stays.
    nothing = CdfRecalibration.fit(generator.random((5000, 1)))
    np.testing.assert_allclose(nothing.transform(grid[:, :1]), grid[:, :1], atol=0.03)


def test_scores_are_a_flat_table():
    true, observed, simulation = observations(40, 3, seed=8, shared=0.5)
    numbers = calibration_numbers(grids(observed, 4.0), true, LOW, HIGH)
    scores = calibration_scores(numbers, ["Omega_m", "sigma_8"], simulation)
    curve = coverage(central_credibility(numbers.pit), [0.68, 0.95], simulation)
    assert scores["coverage_68/Omega_m"] == curve.observed[0, 0]
    assert scores["coverage_95/sigma_8"] == curve.observed[1, 1]
    assert scores["coverage_68_standard_error/sigma_8"] == pytest.approx(curve.standard_error[0, 1])
    assert scores["coverage_68/joint"] == np.mean(numbers.credibility <= 0.68)
    assert scores["uniformity_p_value/Omega_m"] < 0.05
    assert scores["root_mean_square_pull/Omega_m"] == pytest.approx(np.sqrt(np.mean(numbers.pull[:, 0] ** 2)))
    assert scores["largest_deviation/joint"] > 0.3
    assert scores["largest_deviation/tarp"] > 0.05
    assert set(map(type, scores.values())) == {float}
    assert np.all(np.isfinite(list(scores.values())))
    with pytest.raises(ValueError, match=r"names: expected one per parameter, 2, got \['Omega_m'\]"):
        calibration_scores(numbers, ["Omega_m"], simulation)


@pytest.mark.parametrize(("seed", "of_truth"), [(0, 0), (3, 3), (0, 1), (0, [1, 0])])
def test_points_of_tarp_are_not_the_truth(seed, of_truth):
    """Whatever seed the true parameters were drawn with: else none of the posterior would be nearer."""
    true = np.random.default_rng(of_truth).uniform(LOW, HIGH, (200, 2))
    noise = np.random.default_rng(9).normal(size=true.shape) @ MIX.T * SIGMA
    posteriors = grids(true + noise)
    for values in (
        tarp(posteriors, true, LOW, HIGH, seed=seed),
        calibration_numbers(posteriors, true, LOW, HIGH, seed=seed).tarp,
    ):
        assert np.mean(values) == pytest.approx(0.5, abs=0.1)


def test_arguments_are_checked():
    true, observed, _ = observations(3)
    posteriors = grids(observed)
    values = np.linspace(0.1, 0.9, 30)
    cases = [
        (lambda: pit(posteriors[:2], true), "posteriors: expected one per row of true, 3, got 2"),
        (lambda: pit(posteriors, true[:, 0]), r"true: expected finite parameters of shape \(n, n_parameters\)"),
        (lambda: credibility(posteriors, true * np.nan), "true: expected finite parameters"),
        (lambda: sbc_ranks(posteriors, true, 0), "draws: expected a whole number of at least 1, got 0"),
        (lambda: tarp(posteriors, true, HIGH, LOW), "low, high: expected rising ends of the prior of 2 parameters"),
        (lambda: tarp(posteriors, true, LOW[:1], HIGH), "low, high: expected rising ends"),
        (lambda: tarp(posteriors, true, LOW, HIGH, references=true[:2]), "references: expected one point per map"),
        (lambda: uniformity(values + 0.2), r"values: expected numbers from 0 to 1 .*\(30, 1\) with others"),
        (lambda: uniformity(values, np.zeros(3, int)), r"simulation: expected one integer id per map, shape \(30,\)"),
        (lambda: uniformity(values, np.zeros(30)), "simulation: expected one integer id per map.*float64"),
        (lambda: uniformity(values, np.zeros(30, int)), "simulation: a bootstrap over simulations needs at least two"),
        (lambda: uniformity(values, np.arange(30) // 2, n=1), "n: expected at least 2 bootstrap samples, got 1"),
        (lambda: rank_histogram(values, 1), "bins: expected a whole number of at least 2, got 1"),
        (lambda: rank_histogram(values, level=95), "level: expected a probability between 0 and 1, got 95"),
        (lambda: coverage(values, [68, 95]), r"levels: expected probabilities between 0 and 1, shape \(m,\)"),
        (lambda: fit_temperature(posteriors, true, method="mode"), "method: expected 'density' or 'coverage', got"),
        (lambda: fit_temperature(posteriors, true, bounds=(2, 1)), "bounds: expected rising positive temperatures"),
        (lambda: fit_temperature(posteriors, true + 1), "true: expected parameters within the prior .*for 3 of 3 maps"),
        (lambda: CdfRecalibration.fit(values), "knots: expected at least ten maps per knot, 120, got 30 maps"),
        (lambda: CdfRecalibration([0, 1], [0, 1]), r"values: expected shape \(n_knots, n_parameters\)"),
        (lambda: CdfRecalibration([0, 0.5], [[0], [1]]), "knots: expected probabilities that rise from 0 to 1"),
        (lambda: CdfRecalibration([0, 1], [[1], [0]]), "values: expected probabilities that rise from 0 to 1"),
        (lambda: CdfRecalibration([0, 1], [[0], [1]]).transform([[0.1, 0.2]]), "values: expected 1 parameters, got 2"),
    ]
    for use, message in cases:
        with pytest.raises(ValueError, match=message):
            use()


def test_numbers_have_their_names():
    assert CalibrationNumbers._fields == ("pit", "ranks", "credibility", "tarp", "pull")


def test_examples():
    assert doctest.testmod(calibration).failed == 0
