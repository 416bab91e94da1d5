import doctest

import numpy as np
import pytest
from scipy.stats import chi2

from keras_cosmo.inference.posterior import GridPosterior, SamplePosterior
from keras_cosmo.statistics import tempered_stacking
from keras_cosmo.statistics.calibration import calibration_numbers, coverage, fit_temperature
from keras_cosmo.statistics.tempered_stacking import TemperedStacking

LOW, HIGH, SIGMA = 0.0, 1.0, 0.03
AXIS = (np.arange(80) + 0.5) / 80


def observations(n, seed, excess):
    """True values, observed ones, and by how much the likelihood of each is too sure (a factor on the variance)."""
    generator = np.random.default_rng(seed)
    true = generator.uniform(LOW, HIGH, n)
    excess = generator.choice(excess, n)
    return true[:, None], true + SIGMA * np.sqrt(excess) * generator.normal(size=n)


def grids(observed):
    """Posteriors that take all errors for those without any excess."""
    return [GridPosterior([AXIS], -0.5 * ((AXIS - row) / SIGMA) ** 2) for row in observed]


@pytest.fixture(scope="module")
def uneven():
    return [observations(1200, seed, (1.0, 25.0)) for seed in (1, 2)]


def test_right_posteriors_stay_as_they_are():
    true, observed = observations(500, 0, (1.0,))
    found = TemperedStacking.fit(grids(observed), true)
    assert found.weights[found.temperatures > 0.4].sum() > 0.97
    assert abs(found.gain) < 0.02


def test_evenly_wrong_posteriors_get_one_temperature():
    true, observed = observations(500, 3, (4.0,))
    found = TemperedStacking.fit(grids(observed), true)
    assert found.weights[np.abs(np.log2(found.temperatures / 0.25)) < 1.5].sum() > 0.95
    single = fit_temperature(grids(observed), true)
    assert found.gain == pytest.approx(single.gain, abs=0.02)


def test_unevenly_wrong_posteriors_are_mended_where_one_temperature_fails(uneven):
    """Half of the maps right, half with five times the error; judged on other maps than fitted."""
    (fit_true, fit_observed), (true, observed) = uneven
    posteriors = grids(observed)
    stacking = TemperedStacking.fit(grids(fit_observed), fit_true)
    single = fit_temperature(grids(fit_observed), fit_true).temperature
    held, density = {}, {}
    for name, mended in (
        ("stacked", [stacking.apply(posterior) for posterior in posteriors]),
        ("single", [posterior.tempered(single) for posterior in posteriors]),
    ):
        numbers = calibration_numbers(mended, true, [LOW], [HIGH])
        held[name] = coverage(numbers.credibility, levels=[0.5, 0.68, 0.95]).observed[:, 0]
        density[name] = np.mean([float(p.log_density(row)) for p, row in zip(mended, true, strict=True)])
    np.testing.assert_allclose(held["stacked"], [0.5, 0.68, 0.95], atol=0.05)
    assert held["single"][0] > 0.6
    assert density["stacked"] > density["single"] + 0.1


def test_weights_are_those_of_the_highest_density(uneven):
    """Against a plain search over the share of two temperatures."""
    true, observed = uneven[0]
    found = TemperedStacking.fit(grids(observed), true, (1.0, 0.04))
    densities = np.array(
        [
            [float(p.tempered(t).log_density(row)) for t in (1.0, 0.04)]
            for p, row in zip(grids(observed), true, strict=True)
        ]
    )
    shares = np.linspace(0.01, 0.99, 99)
    best = shares[np.argmax([np.log(np.exp(densities) @ [share, 1 - share]).mean() for share in shares])]
    assert found.weights[0] == pytest.approx(best, abs=0.01)


def test_mixture_is_the_weighted_sum():
    stacking = TemperedStacking((1.0, 0.1), (0.7, 0.3))
    (posterior,) = grids([0.4])
    mixed = stacking.apply(posterior)
    points = np.array([[0.3], [0.4], [0.55]])
    expected = 0.7 * np.exp(posterior.log_density(points)) + 0.3 * np.exp(posterior.tempered(0.1).log_density(points))
    np.testing.assert_allclose(np.exp(mixed.log_density(points)), expected, rtol=2e-3)
    assert mixed.log_evidence == pytest.approx(0.0, abs=1e-3)
    np.testing.assert_allclose(mixed.mean, posterior.mean, atol=1e-3)


def test_samples_and_grids_agree():
    """In six dimensions' way of working, here in two, where a grid can tell."""
    generator = np.random.default_rng(0)
    axes, low = [AXIS, AXIS], np.zeros(2)
    covariance = np.array([[1.0, -0.6], [-0.6, 1.0]]) * 0.05**2
    inverse = np.linalg.inv(covariance)

    def likelihood(points):
        offset = points - np.array([0.5, 0.45])
        return -0.5 * np.einsum("...i,ij,...j", offset, inverse, offset)

    grid = GridPosterior(axes, likelihood(np.stack(np.meshgrid(*axes, indexing="ij"), -1)))
    points = generator.uniform(low, 1.0, (40000, 2))
    drawn = SamplePosterior(
        points, likelihood(points), evaluate=lambda points: (likelihood(points), np.zeros(len(points)))
    )
    stacking = TemperedStacking((1.0, 0.2), (0.4, 0.6))
    on_grid, of_samples = stacking.apply(grid), stacking.apply(drawn)
    np.testing.assert_allclose(of_samples.mean, on_grid.mean, atol=3e-3)
    np.testing.assert_allclose(of_samples.standard_deviation, on_grid.standard_deviation, rtol=0.03)
    at = np.array([[0.5, 0.45], [0.6, 0.35]])
    np.testing.assert_allclose(of_samples.log_density(at), on_grid.log_density(at), atol=0.05)
    assert of_samples.effective_samples > drawn.effective_samples
    # The part of a Gaussian mixture within an ellipse is known.
    radius = 4.0
    inside = 0.4 * chi2.cdf(radius, 2) + 0.6 * chi2.cdf(0.2 * radius, 2)
    chosen = -2.0 * likelihood(points) < radius
    assert of_samples.weights[chosen].sum() == pytest.approx(inside, abs=0.02)


@pytest.mark.parametrize(
    ("temperatures", "weights", "match"),
    [
        ((1.0,), (0.5, 0.5), "weights: expected one for each temperature"),
        ((), (), "weights: expected one"),
        ((1.0, 0.0), (0.5, 0.5), "temperatures: expected positive factors"),
        ((1.0, 0.5), (0.5, 0.6), "with the sum 1"),
        ((1.0, 0.5), (1.5, -0.5), "at least 0"),
    ],
)
def test_wrong_mixtures(temperatures, weights, match):
    with pytest.raises(ValueError, match=match):
        TemperedStacking(temperatures, weights)


def test_wrong_data():
    posteriors = grids([0.4, 0.5])
    with pytest.raises(ValueError, match="true: expected parameters of the 2 maps, got shape"):
        TemperedStacking.fit(posteriors, [[0.4]])
    with pytest.raises(ValueError, match=r"got others for 1 of 2 maps \(first: map 1"):
        TemperedStacking.fit(posteriors, [[0.4], [1.5]])


def test_examples():
    assert doctest.testmod(tempered_stacking, extraglobs={"np": np}).failed == 0
