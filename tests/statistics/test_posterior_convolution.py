import doctest

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from keras_cosmo.inference.posterior import GridPosterior, SamplePosterior
from keras_cosmo.statistics import posterior_convolution
from keras_cosmo.statistics.calibration import calibration_numbers, coverage, fit_temperature
from keras_cosmo.statistics.posterior_convolution import PosteriorConvolution

LOW, HIGH = np.array([0.1, 0.6]), np.array([0.5, 1.0])
AXES = [low + (high - low) * (np.arange(24) + 0.5) / 24 for low, high in zip(LOW, HIGH, strict=True)]
GRID = np.stack(np.meshgrid(*AXES, indexing="ij"), axis=-1)
# What the likelihood knows of, and a shift along the degeneracy that it knows nothing of.
KNOWN = np.array([[0.015**2, -0.5 * 0.015 * 0.03], [-0.5 * 0.015 * 0.03, 0.03**2]])
SHIFT = np.array([[0.04**2, -0.9 * 0.04 * 0.07], [-0.9 * 0.04 * 0.07, 0.07**2]])


def log_likelihood(points, observed):
    """Of a Gaussian with the covariance that is known."""
    offset = points - observed
    return -0.5 * np.einsum("...i,ij,...j->...", offset, np.linalg.inv(KNOWN), offset)


def observations(n, seed, shift=SHIFT):
    """True parameters, and observed ones with both errors."""
    generator = np.random.default_rng(seed)
    true = generator.uniform(LOW, HIGH, (n, 2))
    return true, true + generator.multivariate_normal(np.zeros(2), KNOWN + shift, n)


def grids(observed):
    """Posteriors that know nothing of the shift."""
    return [GridPosterior(AXES, log_likelihood(GRID, row)) for row in observed]


def samples(observed, n=3000):
    """The same as samples from the prior."""
    points = np.random.default_rng(7).uniform(LOW, HIGH, (n, 2))
    volume = np.full(n, -np.log(HIGH - LOW).sum())
    return [
        SamplePosterior(
            points,
            log_likelihood(points, row),
            log_prior=volume,
            evaluate=lambda places, row=row: (log_likelihood(places, row), np.full(len(places), volume[0])),
        )
        for row in observed
    ]


@pytest.fixture(scope="module")
def fitted():
    true, observed = observations(400, 1)
    return PosteriorConvolution.fit(grids(observed), true, LOW, HIGH)


def test_the_shift_is_found(fitted):
    """Convolved with it, the posterior has the covariance of both errors: of that alone a map can tell."""
    found = KNOWN / fitted.temperature + fitted.covariance
    np.testing.assert_allclose(np.sqrt(np.diag(found)), np.sqrt(np.diag(KNOWN + SHIFT)), rtol=0.12)
    expected = (KNOWN + SHIFT)[0, 1] / np.sqrt(np.prod(np.diag(KNOWN + SHIFT)))
    assert found[0, 1] / np.sqrt(np.prod(np.diag(found))) == pytest.approx(expected, abs=0.1)
    assert fitted.gain > 1.0


@pytest.mark.parametrize("kind", [grids, samples])
def test_posteriors_are_mended_where_one_temperature_fails(fitted, kind):
    """Judged on other maps than fitted: any one factor is too wide across the degeneracy or too narrow along it."""
    true, observed = observations(300, 2)
    posteriors = kind(observed)
    mended = [fitted.apply(posterior) for posterior in posteriors]
    numbers = calibration_numbers(mended, true, LOW, HIGH)
    levels = [0.5, 0.68, 0.95]
    np.testing.assert_allclose(coverage(numbers.credibility, levels=levels).observed[:, 0], levels, atol=0.07)
    for column in range(2):
        held = coverage(np.abs(2.0 * numbers.pit[:, column] - 1.0), levels=levels).observed[:, 0]
        np.testing.assert_allclose(held, levels, atol=0.07)
    single = fit_temperature(posteriors, true).temperature
    density = [
        np.mean([float(p.log_density(row)) for p, row in zip(found, true, strict=True)])
        for found in (mended, [posterior.tempered(single) for posterior in posteriors])
    ]
    assert density[0] > density[1] + 0.1


def test_right_posteriors_stay_as_they_are():
    true, observed = observations(400, 3, shift=0.0 * SHIFT)
    found = PosteriorConvolution.fit(grids(observed), true, LOW, HIGH)
    width = np.sqrt(np.diag(KNOWN / found.temperature + found.covariance) / np.diag(KNOWN))
    np.testing.assert_allclose(width, 1.0, atol=0.1)
    assert abs(found.gain) < 0.03


def test_convolution_of_gaussians():
    """Far from the ends of the prior the covariances add up, on grids and of samples."""
    observed = np.array([0.3, 0.8])
    correction = PosteriorConvolution(0.5, 0.2 * SHIFT, LOW, HIGH)
    expected = multivariate_normal(observed, 2.0 * KNOWN + 0.2 * SHIFT)
    places = np.array([[0.3, 0.8], [0.33, 0.76], [0.27, 0.88]])
    for kind, tolerance in ((grids, 0.01), (samples, 0.1)):
        found = correction.apply(kind([observed])[0])
        np.testing.assert_allclose(found.mean, observed, atol=0.1 * tolerance + 2e-3)
        np.testing.assert_allclose(found.covariance, expected.cov, rtol=0.15 if kind is samples else 0.02)
        np.testing.assert_allclose(found.log_density(places), expected.logpdf(places), atol=5 * tolerance)
        assert found.log_density([0.05, 0.8]) == -np.inf


@pytest.mark.parametrize("kind", [grids, samples])
def test_nothing_is_beyond_the_prior(kind):
    """At a corner of it the posterior is that of the infinite one, cut off and normalised again."""
    observed, correction = np.array([0.11, 0.98]), PosteriorConvolution(1.0, 0.3 * SHIFT, LOW, HIGH)
    found = correction.apply(kind([observed])[0])
    axes = [low + (high - low) * (np.arange(200) + 0.5) / 200 for low, high in zip(LOW, HIGH, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    # The posterior ends at the prior, and so does what comes of its error.
    known = np.exp(log_likelihood(points, observed))
    drawn = np.random.default_rng(0).choice(known.size, 40000, p=(known / known.sum()).ravel())
    moved = points.reshape(-1, 2)[drawn] + np.random.default_rng(1).multivariate_normal([0, 0], 0.3 * SHIFT, 40000)
    moved = moved[np.all((moved > LOW) & (moved < HIGH), axis=1)]
    np.testing.assert_allclose(found.mean, moved.mean(axis=0), atol=3e-3)
    np.testing.assert_allclose(found.standard_deviation, moved.std(axis=0), rtol=0.08)


def test_zoomed_grids_are_refused():
    zoomed = GridPosterior(AXES, log_likelihood(GRID, [0.3, 0.8]), zoomed=True)
    with pytest.raises(ValueError, match="expected a grid over the whole prior, this one was zoomed in"):
        zoomed.convolved(SHIFT)


def test_an_error_that_leaves_nothing():
    (posterior,) = samples([np.array([0.3, 0.8])], n=300)
    with pytest.raises(ValueError, match="it left none"):
        posterior.convolved(SHIFT * 1e12, LOW, HIGH)
    with pytest.raises(ValueError, match=r"covariance: expected shape \(2, 2\), got \(1, 1\)"):
        posterior.convolved([[1.0]])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"temperature": 0.0}, "temperature: expected a positive factor, got 0.0"),
        ({"covariance": np.eye(3)}, r"covariance: expected shape \(P, P\)"),
        ({"covariance": [[1.0, 2.0], [2.0, 1.0]]}, "covariance: expected a symmetric positive matrix"),
        ({"high": LOW}, "high: expected ends above low"),
    ],
)
def test_wrong_corrections(changes, match):
    known = {"temperature": 1.0, "covariance": SHIFT, "low": LOW, "high": HIGH}
    with pytest.raises(ValueError, match=match):
        PosteriorConvolution(**{**known, **changes})


@pytest.mark.parametrize(
    ("rows", "true", "match"),
    [
        (3, [[0.3, 0.8]], "true: expected parameters of 3 maps"),
        (1, [[0.3, 0.8]], "true: expected two maps at least, better hundreds, got 1"),
        (3, [[0.3, 0.8], [0.3, 0.8], [0.6, 0.8]], r"got others for 1 of 3 maps \(first: map 2\)"),
    ],
)
def test_wrong_data(rows, true, match):
    with pytest.raises(ValueError, match=match):
        PosteriorConvolution.fit(grids(np.full((rows, 2), (0.4, 0.8))), true, LOW, HIGH)


def test_examples():
    assert doctest.testmod(posterior_convolution, extraglobs={"np": np}).failed == 0
