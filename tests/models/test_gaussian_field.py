import numpy as np
import pytest
from scipy import stats

from keras_cosmo.models.gaussian_field import GaussianField
from keras_cosmo.statistics.spectra import power_spectrum


def wavenumbers(height, width):
    """|k| of every mode of the whole plane, radians per cell."""
    return 2 * np.pi * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))


def annuli(height, width):
    """Nearest annulus of every mode, from the rule in the docstring."""
    index = np.rint(wavenumbers(height, width) * min(height, width) / (2 * np.pi)).astype(int)
    index[(index == 0) & (wavenumbers(height, width) > 0)] = 1
    return index


def true_mean(parameters):
    return 4.0 + 2.0 * parameters[:, 0] - 0.5 * parameters[:, 1] ** 2


def true_power(parameters, k):
    """Power of each mode of log10 of the map, ``(n, height, width)``; quadratic in the parameters, as a logarithm."""
    first, second = parameters[:, 0, None, None], parameters[:, 1, None, None]
    slope = np.log(0.05) + 0.5 * first - (1.0 + second + 0.5 * first * second) * np.log1p(k)
    return np.exp(np.where(k > 0, slope, -1.0 + first))


def simulate(parameters, height, width, seed):
    """Plain NumPy: white noise, filtered on the whole plane."""
    white = np.random.default_rng(seed).standard_normal((len(parameters), height, width))
    # Constant in the annuli, as the model has it.
    power, index = true_power(parameters, wavenumbers(height, width)), annuli(height, width)
    for annulus in range(index.max() + 1):
        power[:, index == annulus] = power[:, index == annulus].mean(axis=1, keepdims=True)
    field = np.fft.ifft2(np.fft.fft2(white) * np.sqrt(power)).real
    return 10 ** (field + true_mean(parameters)[:, None, None]), power


def training_set(count=3000, height=8, width=8, seed=0):
    parameters = np.random.default_rng(seed).uniform([0.1, 0.6], [0.5, 1.0], (count, 2))
    return simulate(parameters, height, width, seed + 1)[0], parameters


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 3), (4, 6)])
def test_density_equals_scipy(height, width):
    """The covariance between cells from the power of all modes of the plane; the Jacobian from its definition."""
    maps, parameters = training_set(200, height, width)
    field = GaussianField().fit(maps, parameters)
    index = annuli(height, width)
    cells = height * width
    # Cell x of mode k: an orthonormal basis.
    fourier = np.fft.fft2(np.eye(cells).reshape(cells, height, width)).reshape(cells, cells) / np.sqrt(cells)
    for image, row in zip(maps[:5], parameters[:5], strict=True):
        power = field.power(row[None])[0][index].ravel()
        covariance = (fourier @ np.diag(power) @ fourier.conj().T).real
        log10 = np.log10(image).ravel()
        normal = stats.multivariate_normal(np.full(cells, field.mean(row[None])[0]), covariance)
        expected = normal.logpdf(log10) - np.log(image * np.log(10)).sum()
        assert field.log_prob(image[None], row[None])[0] == pytest.approx(expected, rel=1e-10)
        assert field.variance(row[None])[0] == pytest.approx(covariance[0, 0], rel=1e-10)


def test_density_follows_the_unit_of_the_map():
    maps, parameters = training_set(200)
    field = GaussianField().fit(maps, parameters)
    other = GaussianField().fit(1000 * maps, parameters)
    expected = field.log_prob(maps, parameters) - 64 * np.log(1000)
    np.testing.assert_allclose(other.log_prob(1000 * maps, parameters), expected, rtol=1e-8)


def test_density_integrates_to_one():
    """Maps of 2 x 2 cells, by importance sampling from a wider log-normal distribution."""
    maps, parameters = training_set(200, 2, 2)
    field = GaussianField().fit(maps, parameters)
    middle = np.array([[0.3, 0.8]])
    covariance = 1.5 * np.cov(np.log10(field.sample(middle, 2000, seed=5)).reshape(2000, 4).T)
    proposal = stats.multivariate_normal(np.full(4, field.mean(middle)[0] + 0.1), covariance, seed=3)
    log10 = proposal.rvs(20_000)
    density = field.log_prob(10 ** log10.reshape(-1, 2, 2), np.repeat(middle, len(log10), axis=0))
    weight = np.exp(density + np.log(10**log10 * np.log(10)).sum(axis=1) - proposal.logpdf(log10))
    error = weight.std() / np.sqrt(len(weight))
    assert error < 0.01
    assert weight.mean() == pytest.approx(1, abs=4 * error)


def test_fit_finds_mean_and_power():
    maps, parameters = training_set(4000, 12, 10)
    field = GaussianField().fit(maps, parameters)
    points = np.array([[0.15, 0.65], [0.3, 0.8], [0.45, 0.95], [0.2, 0.9]])
    np.testing.assert_allclose(field.mean(points), true_mean(points), atol=0.01)
    _, power = simulate(points, 12, 10, 0)
    index = annuli(12, 10)
    expected = np.stack([power[:, index == annulus].mean(axis=1) for annulus in range(index.max() + 1)], axis=1)
    # k = 0 has one value per map, the others many.
    assert np.abs(np.log(field.power(points) / expected))[:, 0].max() < 0.15
    assert np.abs(np.log(field.power(points) / expected))[:, 1:].max() < 0.06
    np.testing.assert_array_equal(field.modes, np.bincount(index.ravel()))
    k = wavenumbers(12, 10)
    np.testing.assert_allclose(field.wavenumber, [k[index == annulus].mean() for annulus in range(index.max() + 1)])


def test_fit_has_the_largest_likelihood():
    """No coefficient can be moved to gain likelihood."""
    maps, parameters = training_set(300)
    field = GaussianField().fit(maps, parameters)
    best = field.log_prob(maps, parameters).sum()
    generator = np.random.default_rng(0)
    for name in ("_mean_weights", "_power_weights"):
        weights = getattr(field, name)
        for _ in range(10):
            step = 1e-3 * generator.standard_normal(weights.shape)
            gains = []
            for sign in (1, -1):
                setattr(field, name, weights + sign * step)
                gains.append(field.log_prob(maps, parameters).sum() - best)
            assert max(gains) < 0
            # At a maximum the two sides are alike.
            assert abs(gains[0] - gains[1]) < 0.05 * abs(sum(gains))
        setattr(field, name, weights)


def test_degree_zero_is_the_average():
    maps, parameters = training_set(50)
    field = GaussianField(degree=0).fit(maps, parameters)
    log10 = np.log10(maps)
    power = (np.abs(np.fft.fft2(log10 - log10.mean())) ** 2 / 64).mean(axis=0)
    index = annuli(8, 8)
    expected = [power[index == annulus].mean() for annulus in range(index.max() + 1)]
    np.testing.assert_allclose(field.mean(parameters[:2]), log10.mean(), rtol=1e-12)
    np.testing.assert_allclose(field.power(parameters[:1])[0], expected, rtol=1e-8)


def test_samples_have_the_fitted_spectra():
    maps, parameters = training_set(500, 16, 16)
    field = GaussianField().fit(maps, parameters)
    points = np.array([[0.2, 0.7], [0.4, 0.9]])
    samples = field.sample(points, n=2000, seed=4)
    assert samples.shape == (2, 2000, 16, 16)
    for drawn, mean, power, variance in zip(
        samples, field.mean(points), field.power(points), field.variance(points), strict=True
    ):
        log10 = np.log10(drawn)
        means = log10.mean(axis=(1, 2))
        assert means.mean() == pytest.approx(mean, abs=5 * means.std() / np.sqrt(2000))
        assert 256 * means.var() == pytest.approx(power[0], rel=0.15)
        # In cells of side 1 the fundamental is 2 pi / 16.
        found = power_spectrum(log10, 1.0, (np.arange(len(power)) + 0.5) * 2 * np.pi / 16)
        np.testing.assert_allclose(found.power.mean(axis=0), power[1:], rtol=0.06)
        assert np.mean((log10 - mean) ** 2) == pytest.approx(variance, rel=0.05)
        assert abs(stats.skew(log10[:, 3, 5])) < 0.2


def test_samples_are_distributed_as_their_density():
    """The mean of -2 ln p of Gaussian samples, from the determinant of the covariance alone."""
    maps, parameters = training_set(300)
    field = GaussianField().fit(maps, parameters)
    points = np.tile([[0.3, 0.8]], (3000, 1))
    samples = field.sample(points[:1], n=3000, seed=1)[0]
    entropy = 0.5 * np.log(2 * np.pi * np.e * field.power(points[:1])[0]) @ field.modes
    jacobian = np.log(samples * np.log(10)).sum(axis=(1, 2))
    found = field.log_prob(samples, points) + jacobian
    assert found.mean() == pytest.approx(-entropy, abs=5 * np.sqrt(32 / 3000))
    # Half a chi-square variable with 64 degrees of freedom.
    assert found.var() == pytest.approx(32, rel=0.15)


def test_posterior_of_a_toy_is_calibrated():
    """Means and widths on a grid; the truth lies where the posterior says."""
    maps, parameters = training_set(3000, 8, 8, seed=7)
    field = GaussianField().fit(maps, parameters)
    unseen, truth = training_set(400, 8, 8, seed=20)
    axes = [np.linspace(low, high, 41)[:-1] + (high - low) / 80 for low, high in ((0.1, 0.5), (0.6, 1.0))]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    table = field.log_prob_table(unseen, grid)
    posterior = np.exp(table - table.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    mean = posterior @ grid
    deviation = np.sqrt(posterior @ grid**2 - mean**2)
    pull = (truth - mean) / deviation
    np.testing.assert_allclose(pull.mean(axis=0), 0, atol=0.2)
    np.testing.assert_allclose(pull.std(axis=0), 1, atol=0.12)
    rank = np.array([(weights[grid[:, 0] < value[0]]).sum() for weights, value in zip(posterior, truth, strict=True)])
    assert stats.kstest(rank, "uniform").pvalue > 1e-3
    # The maps tell more than the prior, of which the standard deviation is 0.115.
    assert np.sqrt(np.mean((mean - truth) ** 2, axis=0))[0] < 0.09


def test_table_equals_pairs():
    maps, parameters = training_set(60)
    field = GaussianField().fit(maps, parameters)
    table = field.log_prob_table(maps[:4], parameters[:7])
    index = np.indices((4, 7)).reshape(2, -1)
    pairs = field.log_prob(maps[index[0]], parameters[index[1]].astype(np.float32))
    np.testing.assert_allclose(table.ravel(), pairs, rtol=1e-6)
    one_by_one = [field.log_prob(maps[i : i + 1], parameters[j : j + 1])[0] for i, j in index.T]
    np.testing.assert_allclose(table.ravel(), one_by_one, rtol=1e-12)


def test_many_parameters_and_strange_units():
    """Six parameters have 28 coefficients; single precision maps of a huge unit."""
    generator = np.random.default_rng(0)
    parameters = generator.uniform(0.5, 2.0, (400, 6))
    maps = (1e12 * 10 ** (parameters.sum(axis=1)[:, None, None] * 0.1 * generator.normal(size=(400, 8, 8)))).astype(
        "f4"
    )
    field = GaussianField().fit(maps, parameters)
    assert np.isfinite(field.log_prob(maps, parameters)).all()
    spread = np.sqrt(field.variance(parameters))
    assert np.corrcoef(spread, parameters.sum(axis=1))[0, 1] > 0.95


def test_seeds():
    maps, parameters = training_set(60)
    field = GaussianField(degree=1).fit(maps, parameters)
    first, again, other = (field.sample(parameters[:2], 2, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.isin(first, other).any()
    assert len(np.unique(first)) == first.size


MAPS, PARAMETERS = training_set(30)


@pytest.mark.parametrize(
    ("maps", "parameters", "message"),
    [
        (MAPS[0], PARAMETERS, r"`maps`: expected shape \(n, height, width\)"),
        (MAPS[:, :1], PARAMETERS, "at least 2 x 2 cells"),
        (MAPS, PARAMETERS[:-1], "one row per map, 30, got 29"),
        (MAPS, PARAMETERS[:, 0], r"expected shape \(n, n_parameters\)"),
        (MAPS, np.full((30, 2), np.nan), "expected finite values, got NaN"),
        (MAPS, np.c_[PARAMETERS[:, 0], np.ones(30)], "got 1 in all rows of column 1"),
        (MAPS, PARAMETERS > [[0.3, 0.8]], "which 30 maps with 4 different parameter sets"),
        (MAPS[:7], PARAMETERS[:7], "has 6 coefficients, which 7 maps with 7 different"),
        (-MAPS, PARAMETERS, "expected positive maps.* in map 0"),
        (np.where(np.arange(30)[:, None, None] == 4, np.nan, MAPS), PARAMETERS, "NaN or infinity in map 4"),
        (np.full_like(MAPS, 7.3), PARAMETERS, "no map has power at 0.9481 radians per cell"),
        (MAPS / 10 ** np.log10(MAPS).mean(axis=(1, 2), keepdims=True), PARAMETERS, "exact function of the parameters"),
    ],
)
def test_wrong_training_data(maps, parameters, message):
    with pytest.raises(ValueError, match=message):
        GaussianField().fit(maps, parameters)


def test_wrong_use():
    for degree in (-1, 4, 1.5, True):
        with pytest.raises(ValueError, match="`degree`: expected the degree of a polynomial from 0 to 3"):
            GaussianField(degree)
    with pytest.raises(ValueError, match="not fitted: call fit"):
        GaussianField().sample(PARAMETERS)
    with pytest.raises(ValueError, match="not fitted: call fit"):
        GaussianField().log_prob(MAPS, PARAMETERS)
    field = GaussianField(1).fit(MAPS, PARAMETERS)
    with pytest.raises(ValueError, match=r"expected shape \(n, 8, 8\), got \(30, 8, 4\)"):
        field.log_prob(MAPS[:, :, :4], PARAMETERS)
    with pytest.raises(ValueError, match=r"expected shape \(n, 2\) as fitted, got \(30, 1\)"):
        field.mean(PARAMETERS[:, :1])
    with pytest.raises(ValueError, match="expected one row per map, 30, got 29"):
        field.log_prob(MAPS, PARAMETERS[1:])
    with pytest.raises(ValueError, match="`n`: expected a number of maps"):
        field.sample(PARAMETERS, n=0)
    with pytest.raises(TypeError, match="expected real numbers"):
        field.log_prob(MAPS.astype(complex), PARAMETERS)
