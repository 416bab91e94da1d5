import doctest

import h5py
import numpy as np
import pytest
from scipy import stats

from keras_cosmo.statistics import distributions, spectra
from keras_cosmo.statistics.distributions import (
    brightest_pixels,
    distribution_distance,
    map_moments,
    mean_at_brightest,
    normalize_maps,
    normalized_distribution,
    rank_correlation,
)


def skewed_maps(count=5, size=40, seed=0):
    return 7.0 + 0.3 * np.random.default_rng(seed).gamma(3.0, size=(count, size, size))


def test_gaussian_maps_have_the_normal_density():
    maps = 40.0 - 3.0 * np.random.default_rng(0).normal(size=(50, 64, 64))
    distribution = normalized_distribution(maps)
    # The mean of the density over each bin.
    expected = np.diff(stats.norm.cdf(distribution.edges)) / 0.1
    error = np.sqrt(np.maximum(expected, 1e-4) / (0.1 * maps.size))
    assert np.abs((distribution.density.mean(axis=0) - expected) / error).max() < 4.5
    np.testing.assert_allclose(distribution.centres[[0, -1]], [-3.95, 5.95])


def test_densities_are_those_of_numpy_and_count_pixels_outside():
    maps = skewed_maps()
    edges = np.array([-1.0, 0.0, 0.5, 1.0])
    distribution = normalized_distribution(maps, edges)
    for image, density in zip(maps, distribution.density, strict=True):
        values = stats.zscore(image, axis=None)
        inside = np.mean((values >= -1) & (values <= 1))
        np.testing.assert_allclose(density, np.histogram(values, edges, density=True)[0] * inside, rtol=1e-12)
        np.testing.assert_allclose(np.sum(density * np.diff(edges)), inside, rtol=1e-12)


def test_normalized_maps_are_z_scores():
    maps = skewed_maps().astype(np.float32)
    np.testing.assert_allclose(
        normalize_maps(maps), stats.zscore(maps.astype(float).reshape(5, -1), axis=1).reshape(maps.shape), atol=1e-9
    )


def test_moments_are_those_of_scipy():
    maps = skewed_maps()
    moments = map_moments(maps)
    flat = maps.reshape(len(maps), -1)
    np.testing.assert_allclose(moments.mean, flat.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(moments.standard_deviation, flat.std(axis=1), rtol=1e-12)
    np.testing.assert_allclose(moments.skewness, stats.skew(flat, axis=1), rtol=1e-9)
    np.testing.assert_allclose(moments.kurtosis, stats.kurtosis(flat, axis=1), rtol=1e-9)
    # A gamma distribution of shape 3: 2 / sqrt(3) and 6 / 3.
    many = map_moments(skewed_maps(50, 64, 1))
    np.testing.assert_allclose(many.skewness.mean(), 2 / np.sqrt(3), rtol=0.02)
    np.testing.assert_allclose(many.kurtosis.mean(), 2.0, rtol=0.05)


def test_the_distance_is_that_of_kolmogorov_and_smirnov():
    true, predicted = skewed_maps(4), np.random.default_rng(1).normal(size=(3, 32, 32))
    expected = stats.ks_2samp(
        np.concatenate([stats.zscore(image, axis=None) for image in true]).ravel(),
        np.concatenate([stats.zscore(image, axis=None) for image in predicted]).ravel(),
    ).statistic
    found = distribution_distance(true, predicted)
    assert isinstance(found, float)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert distribution_distance(predicted, true) == found
    assert distribution_distance(true, true) == 0
    assert distribution_distance(true, 5.0 * true - 2.0) < 2e-3


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_distance_counts_pixels_beyond_its_grid(sign):
    """Four of 1,600 pixels, the most that fit, lie 20 standard deviations out."""
    spikes, flat = np.random.default_rng(0).normal(size=(2, 1, 40, 40))
    spikes[0, 0, :4] = sign * 1e4
    expected = stats.ks_2samp(*(stats.zscore(maps, axis=None).ravel() for maps in (spikes, flat))).statistic
    np.testing.assert_allclose(distribution_distance(spikes, flat), expected, atol=5e-4)


def test_the_distance_of_a_single_spike():
    """One bright pixel of 40,000 lies 200 standard deviations out: in the tail, and it moves all others."""
    spike = np.zeros((1, 200, 200))
    spike[0, 3, 4] = 1.0
    flat = np.random.default_rng(0).normal(size=(1, 200, 200))
    assert distribution_distance(spike, spike) == 0
    np.testing.assert_allclose(distribution_distance(spike, flat), 0.5, atol=0.01)
    np.testing.assert_allclose(distribution_distance(-spike, flat), 0.5, atol=0.01)


@pytest.mark.parametrize("value", [0.0, 0.3, -1.1, 3e7])  # the mean of 1,600 times 0.3 is not 0.3 in float64
def test_a_constant_map_has_no_distribution(value):
    maps = skewed_maps(3)
    maps[1] = value
    assert np.isnan(normalize_maps(maps)[1]).all()
    density = normalized_distribution(maps).density
    assert np.isnan(density[1]).all()
    assert np.isfinite(density[[0, 2]]).all()
    moments = map_moments(maps)
    np.testing.assert_allclose(moments.mean[1], value)
    assert moments.standard_deviation[1] == 0
    assert np.isnan([moments.skewness[1], moments.kurtosis[1]]).all()
    assert distribution_distance(maps, maps[[0, 2]]) == 0
    assert np.isnan(distribution_distance(maps, maps[[1]]))


def test_brightest_pixels():
    maps = np.random.default_rng(0).normal(size=(4, 20, 30))
    mask = brightest_pixels(maps, 0.05)
    assert mask.sum(axis=(1, 2)).tolist() == [30] * 4
    for image, chosen in zip(np.abs(maps), mask, strict=True):
        assert image[chosen].min() > image[~chosen].max()
    assert brightest_pixels(np.ones((2, 5, 5)), 0.2).sum(axis=(1, 2)).tolist() == [5, 5]
    assert brightest_pixels(maps, 1e-9).sum(axis=(1, 2)).tolist() == [1] * 4
    assert brightest_pixels(maps, 1.0).all()


def test_mean_at_the_brightest_pixels():
    maps = skewed_maps(3)
    values = stats.zscore(maps.reshape(3, -1), axis=1)
    expected = np.sort(values, axis=1)[:, -160:].mean(axis=1)
    np.testing.assert_allclose(mean_at_brightest(maps, 1e3 * maps, 0.1), expected)
    expected = np.sort(values, axis=1)[:, :160].mean(axis=1)
    np.testing.assert_allclose(mean_at_brightest(maps, 1 / maps, 0.1), expected)
    anywhere = mean_at_brightest(skewed_maps(200), np.random.default_rng(1).normal(size=(200, 40, 40)), 0.1)
    assert abs(anywhere.mean()) < 4 / np.sqrt(200 * 160)
    maps[1] = 2.0
    assert np.isnan(mean_at_brightest(maps, values.reshape(maps.shape))).tolist() == [False, True, False]


def test_datasets_are_read_in_batches(tmp_path, monkeypatch):
    maps = skewed_maps(7, 12).astype(np.float16)
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["maps"] = maps
        monkeypatch.setattr(spectra, "_BATCH_PIXELS", 3 * 144)
        np.testing.assert_array_equal(
            normalized_distribution(file["maps"]).density, normalized_distribution(maps).density
        )
        assert distribution_distance(file["maps"], maps) == 0
        np.testing.assert_array_equal(map_moments(file["maps"]).skewness, map_moments(maps).skewness)
        assert len(brightest_pixels(file["maps"])) == len(normalize_maps(file["maps"])) == 7
    monkeypatch.undo()
    np.testing.assert_allclose(map_moments(maps).skewness, stats.skew(maps.astype(float).reshape(7, -1), axis=1))


MAPS = skewed_maps(2, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: normalized_distribution(MAPS[0]), r"maps: expected shape \(n_maps, nx, ny\)"),
        (lambda: normalized_distribution(MAPS, [0.0]), r"edges: expected at least two rising values, got \[0.0\]"),
        (lambda: normalized_distribution(MAPS, [0.0, np.nan]), r"edges: expected at least two rising"),
        (lambda: map_moments(MAPS * np.nan), r"maps: expected finite values.*map 0"),
        (lambda: distribution_distance(MAPS * np.nan, MAPS), r"true: expected finite values"),
        (lambda: distribution_distance(MAPS, MAPS[0]), r"predicted: expected shape"),
        (lambda: brightest_pixels(MAPS, 0.0), r"fraction: expected a part .* got 0.0"),
        (
            lambda: mean_at_brightest(MAPS, MAPS[:1]),
            r"saliency: expected the shape of maps, .* got \(1, 8, 8\)",
        ),
        (lambda: brightest_pixels(MAPS, 2), r"fraction: expected a part .* got 2"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_complex_maps():
    with pytest.raises(TypeError, match=r"maps: expected real numbers"):
        map_moments(MAPS * 1j)


def test_examples():
    assert doctest.testmod(distributions).failed == 0


def test_rank_correlation_is_that_of_scipy():
    first, second = np.random.default_rng(2).integers(0, 9, (2, 2, 3, 4, 5))
    second[..., :2] = first[..., :2]
    first[1, 2] = 4
    found = rank_correlation(first, second)
    assert found.shape == (2, 3)
    assert found[0, 1] == pytest.approx(stats.spearmanr(first[0, 1].ravel(), second[0, 1].ravel()).statistic)
    assert np.isnan(found[1, 2])
    assert np.isnan(found).sum() == 1
    np.testing.assert_allclose(rank_correlation(first**3, np.exp(second)), found)
    assert float(rank_correlation(first[0, 0], second[0, 0])) == pytest.approx(found[0, 0])


def test_wrong_shapes_for_rank_correlation():
    with pytest.raises(ValueError, match="expected equal shapes"):
        rank_correlation(np.zeros((1, 2, 3)), np.zeros((1, 2, 4)))
