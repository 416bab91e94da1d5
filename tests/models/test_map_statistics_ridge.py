import numpy as np
import pytest
from scipy import stats

from keras_cosmo.models.map_statistics_ridge import MapStatisticsRidge


def maps_of(count, seed=0, channels=1):
    return np.random.default_rng(seed).gamma(2.0, size=(count, 16, 16, channels))


def test_features_are_those_of_each_map_alone():
    maps = maps_of(5, channels=2)
    table = MapStatisticsRidge().features(maps)
    assert table.shape == (5, 68)
    np.testing.assert_allclose(table[3:4], MapStatisticsRidge().features(maps[3:4]))
    first = maps[2, ..., 0].ravel()
    np.testing.assert_allclose(table[2, :4], [first.mean(), first.std(), stats.skew(first), stats.kurtosis(first)])
    np.testing.assert_allclose(table[2, 6], np.median(first))
    np.testing.assert_allclose(table[:, 34:], table[:, :34] ** 2)


def test_finds_what_is_in_the_statistics():
    """Amplitude and correlation length of Gaussian maps."""
    generator = np.random.default_rng(0)
    true = generator.uniform((1.0, 0.5), (3.0, 2.0), (300, 2))
    k = np.hypot(np.fft.fftfreq(16)[:, None], np.fft.fftfreq(16)) * 2 * np.pi
    noise = np.fft.fft2(generator.standard_normal((300, 16, 16)))
    maps = np.fft.ifft2(noise * np.exp(-0.5 * (k * true[:, 1, None, None]) ** 2)).real
    maps = (maps / maps.std(axis=(1, 2), keepdims=True) * true[:, 0, None, None])[..., None]
    model = MapStatisticsRidge().fit(maps[:200], true[:200])
    residual = model.predict(maps[200:]) - true[200:]
    assert (1 - residual.var(axis=0) / true[200:].var(axis=0) > (0.99, 0.9)).all()


def test_errors():
    with pytest.raises(ValueError, match=r"expected shape \(n, height, width, channels\), got \(3, 16, 16\)"):
        MapStatisticsRidge().features(maps_of(3)[..., 0])
    with pytest.raises(ValueError, match=r"expected 16 cells along each side at least, got \(14, 14\)"):
        MapStatisticsRidge().features(np.zeros((2, 14, 14, 1)))
    with pytest.raises(ValueError, match="MapStatisticsRidge is not fitted"):
        MapStatisticsRidge().predict(maps_of(3))
    model = MapStatisticsRidge().fit(maps_of(20), np.random.default_rng(1).normal(size=(20, 1)))
    with pytest.raises(ValueError, match=r"features \(n, 34\), got \(3, 5\)"):
        model.predict(np.zeros((3, 5)))


def test_a_constant_map_has_features():
    assert np.isfinite(MapStatisticsRidge().features(np.ones((2, 16, 16, 1)))).all()
