import doctest
import logging
import time

import numpy as np
import pytest
from scipy.stats import chi2, multivariate_normal, norm, truncnorm

from keras_cosmo.inference import posterior as module
from keras_cosmo.inference.posterior import (
    GridPosterior,
    SamplePosterior,
    grid_posterior,
    grid_posteriors,
    importance_posterior,
    posterior_log_evidence,
)
from keras_cosmo.quantities import Parameter

PARAMETERS = (Parameter(name="Omega_m", low=0.1, high=0.5), Parameter(name="sigma_8", low=0.6, high=1.0))
SIDE = 4


class LinearGaussian:
    """Maps that are linear in the parameters, with white noise: the posterior without a prior is a Gaussian."""

    def __init__(self, parameters=2, noise=0.1, seed=0, offset=-9000.0):
        self.response = np.random.default_rng(seed).normal(size=(parameters, SIDE, SIDE))
        self.noise, self.offset, self.shapes = noise, offset, []

    def maps(self, parameters, seed=1):
        parameters = np.atleast_2d(parameters)
        noise = self.noise * np.random.default_rng(seed).normal(size=(len(parameters), SIDE, SIDE))
        return np.tensordot(parameters, self.response, axes=1) + noise

    def __call__(self, maps, parameters):
        self.shapes.append((maps.shape, parameters.shape))
        difference = maps - np.tensordot(parameters, self.response, axes=1)
        return self.offset - 0.5 * np.sum(difference**2, axis=(1, 2)) / self.noise**2

    def exact(self, maps):
        """Mean and covariance of the Gaussian for one map or several of the same parameters."""
        response = self.response.reshape(len(self.response), -1)
        maps = np.atleast_3d(maps.T).T.reshape(-1, SIDE * SIDE)
        covariance = self.noise**2 * np.linalg.inv(response @ response.T)
        return covariance @ response @ maps.mean(axis=0) / self.noise**2, covariance / len(maps)


def narrow(seed=1, noise=0.1):
    """A posterior well inside of the prior: mean, covariance and everything else of a Gaussian."""
    model = LinearGaussian(noise=noise)
    image = model.maps([0.3, 0.8], seed)[0]
    return model, image, *model.exact(image)


def test_grid_of_a_gaussian_is_exact():
    model, image, mean, covariance = narrow()
    posterior = grid_posterior(model, image, PARAMETERS)
    assert posterior.names == ("Omega_m", "sigma_8")
    assert posterior.not_finite == 0
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-6)
    np.testing.assert_allclose(posterior.covariance, covariance, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(posterior.standard_deviation, np.sqrt(np.diag(covariance)), rtol=1e-4)
    truth = multivariate_normal(mean, covariance)
    points = truth.rvs(40, random_state=2)
    np.testing.assert_allclose(posterior.log_density(points), truth.logpdf(points), atol=1e-3)
    # The box holds all of the Gaussian, so that the evidence is known, too.
    peak = model(image[None], mean[None])[0]
    evidence = peak + 0.5 * np.log(np.linalg.det(2 * np.pi * covariance)) - np.log(0.4**2)
    np.testing.assert_allclose(posterior.log_evidence, evidence, atol=1e-3)
    np.testing.assert_allclose(
        posterior.log_likelihood_at(points), model(np.repeat(image[None], 40, 0), points), atol=1e-6
    )
    deviation = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(posterior.cdf(points), norm.cdf((points - mean) / deviation), atol=2e-3)
    np.testing.assert_allclose(
        posterior.quantile([0.025, 0.5, 0.84]),
        mean + np.outer(norm.ppf([0.025, 0.5, 0.84]), deviation),
        atol=0.01 * deviation.min(),
    )
    np.testing.assert_allclose(
        posterior.interval(0.95),
        mean[:, None] + np.outer(deviation, norm.ppf([0.025, 0.975])),
        atol=0.01 * deviation.min(),
    )
    # The probability within an ellipse is that of chi squared with two degrees of freedom.
    distance = np.einsum("ni,ij,nj->n", points - mean, np.linalg.inv(covariance), points - mean)
    np.testing.assert_allclose(posterior.content(points), chi2.cdf(distance, 2), atol=0.01)
    np.testing.assert_allclose(posterior.threshold(0.68), truth.logpdf(mean) - 0.5 * chi2.ppf(0.68, 2), atol=0.03)
    assert np.all(np.abs(posterior.mode - mean) < 0.25 * deviation)
    for interval, centre, width in zip(posterior.highest_density_intervals(0.68), mean, deviation, strict=True):
        np.testing.assert_allclose(interval, [centre + width * norm.ppf([0.16, 0.84])], atol=0.2 * width)
    (axis,), density = posterior.marginal("sigma_8")
    np.testing.assert_allclose(density, norm.pdf(axis, mean[1], deviation[1]), rtol=2e-3, atol=1e-3 * density.max())
    (first, second), density = posterior.marginal(1, 0)
    grid = np.stack(np.meshgrid(second, first), axis=-1)
    np.testing.assert_allclose(density, truth.pdf(grid), atol=2e-3 * density.max())
    draws = posterior.sample(20000, seed=3)
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=4 * deviation.max() / np.sqrt(20000))
    np.testing.assert_allclose(np.cov(draws.T), covariance, rtol=0.06, atol=0.02 * deviation.min() ** 2)
    np.testing.assert_array_equal(draws, posterior.sample(20000, seed=3))
    mean_likelihood, variance = posterior.log_likelihood_moments()
    # Half a chi squared with two degrees of freedom: mean 1, variance 1.
    np.testing.assert_allclose([mean_likelihood, variance], [peak - 1.0, 1.0], atol=5e-3)


def test_prior_and_edges_of_the_box():
    """Close to an edge the posterior is a truncated Gaussian; another one comes from a prior."""
    parameter = Parameter(name="a", low=0.0, high=1.0)
    image = np.full((SIDE, SIDE), 0.05)

    def log_likelihood(maps, parameters):
        return -0.5 * ((maps.mean(axis=(1, 2)) - parameters[:, 0]) / 0.2) ** 2

    def prior(points):
        return -0.5 * ((points[:, 0] - 0.4) / 0.2) ** 2 + 17.0

    plain = grid_posterior(log_likelihood, image, [parameter])
    truth = truncnorm(-0.25, 4.75, 0.05, 0.2)
    np.testing.assert_allclose(plain.mean, truth.mean(), atol=1e-5)
    np.testing.assert_allclose(plain.standard_deviation, truth.std(), atol=1e-5)
    x = np.linspace(0, 1, 11)[:, None]
    np.testing.assert_allclose(plain.cdf(x), truth.cdf(x), atol=1e-4)
    np.testing.assert_allclose(plain.log_density(x), truth.logpdf(x[:, 0]), atol=1e-4)
    assert plain.log_density([-0.01]) == -np.inf
    assert plain.content([1.01]) == 1.0
    with_prior = grid_posterior(log_likelihood, image, [parameter], log_prior=prior)
    product = truncnorm(*((np.array([0, 1]) - 0.225) / np.sqrt(0.02)), 0.225, np.sqrt(0.02))
    np.testing.assert_allclose(with_prior.mean, product.mean(), atol=1e-5)
    np.testing.assert_allclose(with_prior.log_density(x), product.logpdf(x[:, 0]), atol=1e-3)
    # A prior that is not normalised gives the same evidence: integral of N(0.4, 0.2) in the box times likelihood.
    grid = (np.arange(100000) + 0.5) / 100000
    density = truncnorm(-2, 3, 0.4, 0.2).pdf(grid)
    np.testing.assert_allclose(
        with_prior.log_evidence, np.log(np.mean(density * np.exp(-0.5 * ((grid - 0.05) / 0.2) ** 2))), atol=1e-3
    )
    narrower = grid_posterior(log_likelihood, image, [parameter], low=[0.0], high=[0.3])
    np.testing.assert_allclose(narrower.mean, truncnorm(-0.25, 1.25, 0.05, 0.2).mean(), atol=1e-5)


def test_several_independent_maps_and_zooming(caplog):
    model = LinearGaussian(noise=0.03)
    maps = model.maps(np.tile([0.31, 0.77], (20, 1)))
    mean, covariance = model.exact(maps)
    # 80 times narrower than the prior.
    with caplog.at_level(logging.WARNING):
        coarse = grid_posterior(model, maps, PARAMETERS, cells=12)
    assert "1 of 1 posteriors are narrower than the cells of the grid: take more cells, or zoom in." in caplog.text
    caplog.clear()
    posterior = grid_posterior(model, maps, PARAMETERS, cells=12, zoom=5)
    assert not caplog.records
    assert posterior.zoomed
    assert not coarse.zoomed
    assert np.all(posterior.high - posterior.low < 0.1)
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-5)
    np.testing.assert_allclose(posterior.covariance, covariance, rtol=1e-3)
    peak = np.sum(model(maps, np.tile(mean, (20, 1))))
    evidence = peak + 0.5 * np.log(np.linalg.det(2 * np.pi * covariance)) - np.log(0.4**2)
    np.testing.assert_allclose(posterior.log_evidence, evidence, atol=1e-3)
    with pytest.raises(ValueError, match=r"temperature: expected at least 1, for this grid was zoomed.*got 0\.5"):
        posterior.tempered(0.5)
    np.testing.assert_allclose(posterior.tempered(2.0).covariance, covariance / 2, rtol=1e-3)


def test_three_parameters():
    model = LinearGaussian(parameters=3, noise=0.3)
    parameters = [Parameter(name=name, low=-1.0, high=1.0) for name in "abc"]
    image = model.maps([0.1, -0.2, 0.3])[0]
    mean, covariance = model.exact(image)
    posterior = grid_posterior(model, image, parameters, cells=(20, 24, 28))
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-4)
    np.testing.assert_allclose(posterior.covariance, covariance, rtol=5e-3, atol=1e-5)
    (first, second), density = posterior.marginal("c", "a")
    truth = multivariate_normal(mean[[2, 0]], covariance[np.ix_([2, 0], [2, 0])])
    grid = np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1)
    np.testing.assert_allclose(density, truth.pdf(grid), atol=0.01 * density.max())


def test_temperature_widens():
    model, image, mean, covariance = narrow(noise=0.05)
    posterior = grid_posterior(model, image, PARAMETERS).tempered(0.25)
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-3)
    np.testing.assert_allclose(posterior.covariance, 4 * covariance, rtol=1e-3, atol=1e-6)
    direct = grid_posterior(model, image, PARAMETERS, temperature=0.25)
    np.testing.assert_array_equal(direct.covariance, posterior.covariance)
    assert posterior.temperature == 0.25


def test_many_maps_in_calls_of_one_shape():
    model = LinearGaussian(noise=0.05)
    maps = model.maps(np.random.default_rng(0).uniform([0.2, 0.7], [0.4, 0.9], (5, 2)))
    model.shapes.clear()
    posteriors = grid_posteriors(model, maps.astype(np.float32), PARAMETERS, cells=(20, 15), batch_size=64)
    assert len(posteriors) == 5
    assert {shape for shape, _ in model.shapes} == {(60, SIDE, SIDE)}  # 300 points in 5 calls
    for image, posterior in zip(maps, posteriors, strict=True):
        np.testing.assert_allclose(posterior.mean, model.exact(image)[0], atol=1e-4)
    one = grid_posterior(model, maps[2], PARAMETERS, cells=(20, 15), batch_size=7)
    np.testing.assert_allclose(one.log_likelihood, posteriors[2].log_likelihood, rtol=1e-4)


def test_parameters_come_in_the_dtype_of_the_maps():
    found = []

    def log_likelihood(maps, parameters):
        found.append((maps.dtype, parameters.dtype))
        return np.zeros(len(maps), dtype=np.float32)

    for dtype in (np.float32, np.float64):
        posterior = grid_posterior(log_likelihood, np.zeros((2, 2), dtype), PARAMETERS, cells=4)
        assert posterior.log_likelihood.dtype == np.float64
    assert found == [(np.float32, np.float32), (np.float64, np.float64)]
    # Nothing learnt: the posterior is the prior.
    np.testing.assert_allclose(posterior.mean, [0.3, 0.8], atol=1e-9)
    np.testing.assert_allclose(posterior.standard_deviation, 0.4 / np.sqrt(12), rtol=1e-3)
    np.testing.assert_allclose(posterior.log_evidence, 0.0, atol=1e-12)


def test_values_that_are_not_finite_are_counted(caplog):
    model, image, mean, _ = narrow()

    def partly(maps, parameters):
        values = model(maps, parameters)
        values[parameters[:, 0] > 0.45] = np.nan
        values[parameters[:, 1] < 0.62] = np.inf
        return values

    with caplog.at_level(logging.WARNING):
        posterior = grid_posterior(partly, image, PARAMETERS)
    bad = int(((posterior.axes[0][:, None] > 0.45) | (posterior.axes[1] < 0.62)).sum())
    assert posterior.not_finite == bad > 0
    assert f"The log-likelihood of the map is not finite at {bad} of 1024 points" in caplog.text
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-4)
    assert posterior.log_density([0.49, 0.8]) == -np.inf
    assert posterior.log_likelihood_at([0.3, 0.61]) == -np.inf
    assert np.all(np.isfinite(posterior.log_density(posterior.sample(1000))))
    # An edge through the posterior cuts it there, to half a cell.
    cut = GridPosterior([np.linspace(0.0125, 0.9875, 40)], np.where(np.arange(40) < 20, 0.0, np.nan))
    assert cut.not_finite == 20
    np.testing.assert_allclose(cut.mean, 0.25, atol=1e-3)
    np.testing.assert_allclose(cut.cdf([[0.25], [0.6]]), [[0.5], [1.0]], atol=1e-3)
    assert cut.tempered(0.5).not_finite == 20


def test_a_map_without_any_likelihood_is_named():
    maps = np.ones((3, 2, 2))
    maps[1] = 2.0

    def log_likelihood(maps, parameters):
        return np.where(maps[:, 0, 0] == 2.0, np.nan, 0.0)

    for dataset in (maps, list(maps)):
        with pytest.raises(ValueError, match="log_likelihood: expected finite values for map 1, got none at 16 points"):
            grid_posteriors(log_likelihood, np.asarray(dataset), PARAMETERS, cells=4)
    with pytest.raises(ValueError, match="expected finite values for map 1"):
        grid_posterior(log_likelihood, maps, PARAMETERS, cells=4)
    with pytest.raises(ValueError, match="expected finite values where the prior is not zero, got none at 4096 points"):
        importance_posterior(log_likelihood, maps[1], PARAMETERS, draws=1024, rounds=4)


def test_two_peaks_have_two_intervals():
    axis = np.linspace(0.005, 0.995, 100)
    values = np.logaddexp(-0.5 * ((axis - 0.2) / 0.03) ** 2, -0.5 * ((axis - 0.8) / 0.03) ** 2)
    posterior = GridPosterior([axis], values)
    (found,) = posterior.highest_density_intervals(0.6827)
    np.testing.assert_allclose(found, [[0.17, 0.23], [0.77, 0.83]], atol=0.004)
    np.testing.assert_allclose(posterior.mean, 0.5, atol=1e-6)
    np.testing.assert_allclose(posterior.content([0.5]), 1.0, atol=1e-6)


def test_a_ridge_between_the_cells():
    """A degeneracy much narrower than the cells across, as of flows: its logarithm is smooth all the same."""
    axes = [0.1 + 0.4 * (np.arange(20) + 0.5) / 20, 0.6 + 0.4 * (np.arange(20) + 0.5) / 20]
    mean = np.array([0.283, 0.791])
    covariance = np.array([[0.02**2, -0.98 * 0.02 * 0.04], [-0.98 * 0.02 * 0.04, 0.04**2]])
    offset = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - mean
    values = -0.5 * np.einsum("...i,ij,...j", offset, np.linalg.inv(covariance), offset)
    # The largest of all centres lies several deviations from the ridge.
    assert np.partition(values.ravel(), -3)[-3] < -1.0
    posterior = GridPosterior(axes, values)
    np.testing.assert_allclose(posterior.mean, mean, atol=5e-4)
    np.testing.assert_allclose(posterior.covariance, covariance, rtol=0.03)


def test_a_cliff_is_not_overshot():
    """A likelihood that falls off a cliff must not rise beside it, as a cubic would."""
    axis = np.linspace(0.0125, 0.9875, 40)
    values = np.where(axis < 0.5, 0.0, -1e6)
    posterior = GridPosterior([axis], values)
    np.testing.assert_allclose(posterior.cdf([[0.25], [0.45]])[:, 0], [0.513, 0.923], atol=3e-3)
    assert posterior.log_density(np.linspace(0.01, 0.48, 30)[:, None]).max() < 0.75


def test_every_map_has_draws_of_its_own():
    model, image, *_ = narrow()
    drawn = []

    def log_likelihood(maps, parameters):
        drawn.append(parameters)
        return model(maps, parameters)

    def first_points(image, **options):
        drawn.clear()
        importance_posterior(log_likelihood, image, PARAMETERS, draws=50, rounds=1, least_effective=0.0, **options)
        return np.concatenate(drawn)[:50]

    expected = first_points(image)
    np.testing.assert_array_equal(first_points(image), expected)
    np.testing.assert_array_equal(first_points(image[::-1, ::-1][::-1, ::-1]), expected)
    for other in (first_points(image + 0.01), first_points(image.T), first_points(image, seed=1)):
        assert np.abs(other - expected).min() > 0
    single = image.astype(np.float32)
    np.testing.assert_allclose(first_points(single), first_points(single.astype(np.float64)), rtol=1e-6)


def test_importance_sampling_of_a_gaussian():
    model, image, mean, covariance = narrow()
    exact = grid_posterior(model, image, PARAMETERS)
    posterior = importance_posterior(model, image, PARAMETERS, seed=1)
    assert posterior.effective_samples >= 1000
    deviation = np.sqrt(np.diag(covariance))
    error = deviation / np.sqrt(posterior.effective_samples)
    assert np.all(np.abs(posterior.mean - mean) < 4 * error)
    np.testing.assert_allclose(posterior.standard_deviation, deviation, rtol=0.1)
    np.testing.assert_allclose(posterior.log_evidence, exact.log_evidence, atol=0.15)
    points = exact.sample(20, seed=5)
    np.testing.assert_allclose(posterior.log_density(points), exact.log_density(points), atol=0.15)
    np.testing.assert_allclose(posterior.log_likelihood_at(points), exact.log_likelihood_at(points), atol=1e-6)
    np.testing.assert_allclose(posterior.cdf(points), exact.cdf(points), atol=0.06)
    np.testing.assert_allclose(posterior.content(points), exact.content(points), atol=0.06)
    np.testing.assert_allclose(
        posterior.quantile([0.16, 0.5]), exact.quantile([0.16, 0.5]), atol=0.15 * deviation.max()
    )
    np.testing.assert_allclose(posterior.interval(), exact.interval(), atol=0.15 * deviation.max())
    np.testing.assert_allclose(posterior.threshold(), exact.threshold(), atol=0.2)
    np.testing.assert_allclose(posterior.mode, mean, atol=deviation.max())
    moments = posterior.log_likelihood_moments(), exact.log_likelihood_moments()
    np.testing.assert_allclose(moments[0], moments[1], atol=0.25)
    for one, other in zip(posterior.highest_density_intervals(), exact.highest_density_intervals(), strict=True):
        np.testing.assert_allclose(one, other, atol=0.4 * deviation.max())
    np.testing.assert_allclose(posterior.tempered(0.5).covariance, 2 * covariance, rtol=0.25, atol=1e-6)
    np.testing.assert_array_equal(posterior.sample(50, seed=1), posterior.sample(50, seed=1))
    assert posterior.log_density([0.05, 0.8]) == -np.inf
    assert posterior.content([0.05, 0.8]) > 0.999
    (axis,), density = posterior.marginal("Omega_m", bins=20)
    np.testing.assert_allclose(density.sum() * (axis[1] - axis[0]), 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_importance_sampling_in_six_dimensions(seed):
    """The six parameters of CAMELS: two that are known well, two weakly and two not at all."""
    generator = np.random.default_rng(seed)
    widths = np.array([0.02, 0.03, 0.2, 0.3, 30.0, 30.0])
    names = ("Omega_m", "sigma_8", "A_SN1", "A_AGN1", "A_SN2", "A_AGN2")
    parameters = [Parameter(name=name, low=0.0, high=1.0) for name in names]
    rotation = np.eye(6)
    rotation[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    centre = generator.uniform(0.2, 0.8, 6)
    calls = []

    def log_likelihood(maps, points):
        calls.append(len(points))
        return -5e4 - 0.5 * np.sum(((points - centre) @ rotation / widths) ** 2, axis=1)

    posterior = importance_posterior(
        log_likelihood, np.zeros((2, 2)), parameters, draws=2048, rounds=8, enough=2000, seed=seed
    )
    assert posterior.effective_samples > 1000
    assert sum(calls) <= 8 * 2048 + 8 * 256
    cut = truncnorm((0 - centre) / widths, (1 - centre) / widths, centre, widths)
    expected = np.where(np.arange(6) < 2, centre, cut.mean())
    deviation = cut.std()
    deviation[:2] = np.sqrt(np.square(rotation[:2, :2]) @ np.square(widths[:2]))
    error = 5 * deviation / np.sqrt(posterior.effective_samples)
    assert np.all(np.abs(posterior.mean - expected) < error)
    np.testing.assert_allclose(posterior.standard_deviation, deviation, rtol=0.12)
    evidence = -5e4 + np.sum(
        np.log(np.sqrt(2 * np.pi) * widths) + np.log(norm.cdf((1 - centre) / widths) - norm.cdf(-centre / widths))
    )
    np.testing.assert_allclose(posterior.log_evidence, evidence, atol=0.15)


def test_importance_sampling_finds_two_peaks():
    parameters = [Parameter(name=name, low=0.0, high=1.0) for name in "ab"]

    def log_likelihood(maps, points):
        return np.logaddexp(
            np.log(0.7) - 0.5 * np.sum(((points - 0.2) / 0.03) ** 2, axis=1),
            np.log(0.3) - 0.5 * np.sum(((points - 0.8) / 0.03) ** 2, axis=1),
        )

    posterior = importance_posterior(log_likelihood, np.zeros((2, 2)), parameters, enough=1500)
    assert posterior.effective_samples >= 1500
    np.testing.assert_allclose(posterior.weights[posterior.samples[:, 0] > 0.5].sum(), 0.3, atol=0.05)


def test_draws_from_the_prior_as_in_the_paper(caplog):
    model, image, _, _ = narrow()
    wide = importance_posterior(model, image, PARAMETERS, proposal="prior", draws=4000, rounds=4, temperature=0.02)
    assert len(wide.samples) in (4000, 8000, 12000, 16000)
    assert np.ptp(wide.log_weights) == 0.0
    with caplog.at_level(logging.WARNING):
        poor = importance_posterior(model, image, PARAMETERS, proposal="prior", draws=500, rounds=1)
    assert poor.effective_samples < 100
    assert f"worth {poor.effective_samples:.0f} samples of equal weight only, out of 500" in caplog.text
    # Equation 2 of the paper, written out.
    weights = np.exp(poor.log_likelihood - poor.log_likelihood.max())
    np.testing.assert_allclose(poor.weights, weights / weights.sum(), rtol=1e-9)
    assert poor.log_evidence == pytest.approx(posterior_log_evidence(poor.log_likelihood, -np.log(500)))
    np.testing.assert_allclose(poor.effective_samples, weights.sum() ** 2 / (weights**2).sum(), rtol=1e-9)


def test_importance_sampling_with_a_prior():
    parameter = Parameter(name="a", low=0.0, high=1.0)
    image = np.full((SIDE, SIDE), 0.05)

    def log_likelihood(maps, parameters):
        return -0.5 * ((maps.mean(axis=(1, 2)) - parameters[:, 0]) / 0.2) ** 2

    def log_prior(points):
        return np.where(points[:, 0] > 0.9, -np.inf, -0.5 * ((points[:, 0] - 0.4) / 0.2) ** 2 + 17.0)

    grid = grid_posterior(log_likelihood, image, [parameter], cells=200, log_prior=log_prior)
    posterior = importance_posterior(log_likelihood, image, [parameter], log_prior=log_prior, enough=4000)
    np.testing.assert_allclose(posterior.mean, grid.mean, atol=0.01)
    np.testing.assert_allclose(posterior.log_evidence, grid.log_evidence, atol=0.03)
    points = np.array([[0.1], [0.3], [0.5]])
    np.testing.assert_allclose(posterior.log_density(points), grid.log_density(points), atol=0.05)
    np.testing.assert_allclose(posterior.content(points), grid.content(points), atol=0.04)


def test_samples_without_a_likelihood():
    samples = np.random.default_rng(0).normal(size=(5000, 2)) * [1.0, 2.0]
    posterior = SamplePosterior(samples, names=["a", "b"])
    assert posterior.effective_samples == pytest.approx(5000)
    np.testing.assert_allclose(posterior.standard_deviation, samples.std(axis=0))
    np.testing.assert_allclose(posterior.cdf([0.0, 2.0]), [0.5, 0.841], atol=0.02)
    np.testing.assert_allclose(posterior.highest_density_intervals(0.68)[1], [[-2, 2]], atol=0.3)
    for use in (lambda: posterior.content([0.0, 0.0]), lambda: posterior.tempered(0.5), lambda: posterior.threshold()):
        with pytest.raises(ValueError, match="log_likelihood: expected values at the samples for densities"):
            use()
    known = SamplePosterior(samples, np.zeros(5000))
    with pytest.raises(ValueError, match="evaluate: densities at points that are no samples need the likelihood"):
        known.log_density([0.0, 0.0])


def test_a_thousand_points_take_no_time():
    model, image, _, _ = narrow()
    start = time.process_time()
    grid_posterior(model, image, PARAMETERS)
    assert time.process_time() - start < 1.0


def test_log_evidence():
    values = np.array([-5000.0, -5001.0, np.nan, np.inf])
    expected = -2500.0 + np.log(0.25 * (1 + np.exp(-0.5)))
    assert posterior_log_evidence(values, -np.log(4), temperature=0.5) == pytest.approx(expected)
    with pytest.raises(ValueError, match="expected finite values where the prior is not zero, got none of 2"):
        posterior_log_evidence([np.nan, -np.inf], 0.0)


def zero(maps, parameters):
    return np.zeros(len(maps))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": 3}, r"cells: expected at least 4 for each of 2 parameters, got \[3, 3\]"),
        ({"cells": (8,)}, r"cells: expected at least 4 for each of 2"),
        ({"cells": 2000}, "cells: expected at most 1048576 in all, got 4000000 for 2 parameters; use importance"),
        ({"low": [0.05, 0.6]}, r"prior of 'Omega_m' within 0\.1 to 0\.5, the range .*got 0\.05 to 0\.5; narrow"),
        ({"high": [0.5, 1.1]}, r"prior of 'sigma_8' within 0\.6 to 1.*extrapolate=True"),
        ({"low": [0.1]}, "low: expected one finite number per parameter, 2, got"),
        ({"high": [0.5, np.nan]}, "high: expected one finite number per parameter"),
        ({"low": [0.3, 0.7], "high": [0.2, 0.9]}, "low: expected values below high"),
        ({"temperature": 0.0}, r"temperature: expected a positive factor on the log-likelihood, got 0\.0"),
        ({"zoom": -1}, "zoom: expected how often to lay the grid again, 0 or more, got -1"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"log_prior": lambda points: 0.0}, r"log_prior: expected one number or minus infinity per point.*shape \(\)"),
        ({"log_prior": lambda points: np.full(len(points), np.nan)}, "log_prior: .* with NaN or infinity"),
        ({"log_prior": lambda points: np.full(len(points), -np.inf)}, "log_prior: expected a prior that is not zero"),
        ({"log_likelihood": lambda maps, points: 0.0}, r"log_likelihood: expected one number per map, shape \(256,\)"),
        ({"maps": np.zeros((2, 2, 2, 2))}, r"maps: expected one map \(height, width\) or several"),
        ({"maps": np.zeros((2, 2), complex)}, "maps: expected real numbers, got complex128"),
        ({"maps": np.full((3, 2, 2), np.nan)}, "maps: expected finite values, got NaN or infinity in map 0"),
        ({"parameters": []}, "parameters: expected at least one keras_cosmo.quantities.Parameter"),
        ({"parameters": ["Omega_m"]}, "parameters: expected at least one keras_cosmo.quantities.Parameter"),
    ],
)
def test_arguments_are_checked(options, message):
    arguments = {"log_likelihood": zero, "maps": np.zeros((2, 2)), "parameters": PARAMETERS, **options}
    with pytest.raises((ValueError, TypeError), match=message):
        grid_posterior(**arguments)


def test_a_wider_prior_if_asked():
    posterior = grid_posterior(zero, np.zeros((2, 2)), PARAMETERS, low=[0.0, 0.5], extrapolate=True)
    np.testing.assert_allclose(posterior.mean, [0.25, 0.75], atol=1e-9)


def test_other_arguments_are_checked():
    with pytest.raises(ValueError, match=r"maps: expected shape \(n, height, width\), got \(2, 2\)"):
        grid_posteriors(zero, np.zeros((2, 2)), PARAMETERS)
    with pytest.raises(ValueError, match="maps: expected finite values, got NaN or infinity in map 1"):
        grid_posteriors(zero, np.array([np.zeros((2, 2)), np.full((2, 2), np.nan)]), PARAMETERS)
    with pytest.raises(ValueError, match="proposal: expected 'adaptive' or 'prior', got 'mcmc'"):
        importance_posterior(zero, np.zeros((2, 2)), PARAMETERS, proposal="mcmc")
    with pytest.raises(ValueError, match=r"draws: expected a whole number of at least 1, got 0\.5"):
        importance_posterior(zero, np.zeros((2, 2)), PARAMETERS, draws=0.5)
    axis = np.linspace(0, 1, 10)
    cases = [
        (([axis[:3]], np.zeros(3)), "axes: expected at least 4 rising values for parameter 0"),
        (([axis**2], np.zeros(10)), "axes: expected evenly spaced centres of cells for parameter 0, got steps from"),
        (([axis], np.zeros(9)), r"log_likelihood: expected the shape of the grid, \(10,\), got \(9,\)"),
        (([axis], np.zeros(10), np.zeros(9)), r"log_prior: expected the shape of the grid, \(10,\)"),
        (([axis], np.full(10, np.nan)), "log_likelihood: expected finite values where the prior is not zero, got none"),
        (([axis], np.zeros(10), None, 1.0, ["a", "b"]), "names: expected 1 different names, one per parameter"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            GridPosterior(*arguments)
    cases = [
        ((np.zeros(3),), r"samples: expected finite values of shape \(n, n_parameters\), got shape \(3,\)"),
        ((np.zeros((3, 1)), np.zeros(2)), r"log_likelihood: expected one number .*shape \(3,\), got shape \(2,\)"),
        (
            (np.zeros((3, 1)), np.zeros(3), np.full(3, np.nan)),
            "log_weights: expected one number .*with NaN or infinity",
        ),
        ((np.zeros((3, 1)), np.full(3, np.nan)), "log_likelihood: expected finite values at samples with a prior"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            SamplePosterior(*arguments)
    for posterior in (GridPosterior([axis], np.zeros(10), names="a"), SamplePosterior(np.zeros((3, 1)), names="a")):
        with pytest.raises(ValueError, match=r"parameters: expected a name or place of \['a'\], got 'b'"):
            posterior.marginal("b")
        with pytest.raises(ValueError, match=r"parameters: expected different ones of \['a'\], got \['a', 0\]"):
            posterior.marginal("a", 0)
        with pytest.raises(ValueError, match="level: expected a probability between 0 and 1, got 68"):
            posterior.interval(68)
        with pytest.raises(ValueError, match="levels: expected probabilities from 0 to 1"):
            posterior.quantile([1.5])
        with pytest.raises(ValueError, match=r"values: expected finite parameters of shape \(1,\) or \(n, 1\)"):
            posterior.cdf([0.1, 0.2])
        with pytest.raises(ValueError, match="n: expected a whole number of at least 1, got 0"):
            posterior.sample(0)


def test_examples():
    assert doctest.testmod(module).failed == 0


def test_content_of_a_point_far_from_the_posterior_is_one_at_most():
    """Without rounding, which would make it no probability."""
    axes = [(np.arange(12) + 0.5) / 12] * 2
    generator, found = np.random.default_rng(0), []
    for _ in range(60):
        centre, width = generator.uniform(0.6, 0.9, 2), generator.uniform(0.03, 0.05)
        nats = [-0.5 * ((axis - place) / width) ** 2 for axis, place in zip(axes, centre, strict=True)]
        found.append(float(GridPosterior(axes, nats[0][:, None] + nats[1]).content([0.05, 0.05])))
    assert max(found) == 1.0
    assert min(found) > 1.0 - 1e-12
