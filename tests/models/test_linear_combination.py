import itertools

import numpy as np
import pytest

from keras_cosmo.models.linear_combination import LinearCombination

PIXEL = 23.4


def cutouts(count=6, height=16, width=16, channels=4, seed=0):
    """Correlated HI channels with large means, dust that is partly linear in them, and a ragged mask."""
    generator = np.random.default_rng(seed)
    hi = generator.normal(size=(count, height, width, channels)) @ generator.normal(size=(channels, channels)) + 20.0
    dust = hi @ np.arange(1.0, channels + 1) + 5 * generator.normal(size=hi.shape[:3]) + 0.01 * hi[..., 0] ** 3
    mask = (generator.uniform(size=hi.shape[:3]) > 0.1).astype(float)
    return hi * mask[..., None], np.stack([dust * mask, mask], axis=-1)


def multipoles(height, width):
    """Of every mode of the whole plane."""
    return 360 / (PIXEL / 60) * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))


def least_squares(hi, target, chosen):
    """Brute force: all chosen modes of the whole plane, real and imaginary parts, one row each."""
    channels = np.fft.fft2(hi, axes=(1, 2))[:, chosen].reshape(-1, hi.shape[-1])
    dust = np.fft.fft2(target[..., 0], axes=(1, 2))[:, chosen].ravel()
    rows, values = np.concatenate([channels.real, channels.imag]), np.concatenate([dust.real, dust.imag])
    return np.linalg.lstsq(rows, values, rcond=None)[0]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 15), (9, 8)])
def test_equals_brute_force_least_squares(height, width):
    hi, target = cutouts(height=height, width=width)
    model = LinearCombination(ridge=0.0).fit((hi[rows], target[rows]) for rows in (slice(0, 1), slice(1, 6)))
    np.testing.assert_allclose(model.weights, least_squares(hi, target, multipoles(height, width) > 0), rtol=1e-9)
    np.testing.assert_allclose(model.predict(hi), hi @ model.weights, rtol=1e-12)


def test_limit_of_multipoles():
    hi, target = cutouts()
    ell = multipoles(16, 16)
    model = LinearCombination(ridge=0.0, pixel_size=PIXEL, ell_max=200.0).fit([(hi, target)])
    np.testing.assert_allclose(model.weights, least_squares(hi, target, (ell > 0) & (ell < 200)), rtol=1e-9)
    everything = LinearCombination(ridge=0.0, pixel_size=PIXEL).fit([(hi, target)])
    assert not np.allclose(model.weights, everything.weights, rtol=1e-3)
    np.testing.assert_array_equal(everything.weights, LinearCombination(ridge=0.0).fit([(hi, target)]).weights)


def test_recovers_known_weights():
    """Exactly, whatever the amplitude: 1 K is 1000 uK_RJ here."""
    hi, target = cutouts(channels=8)
    known = 1000 * np.random.default_rng(1).normal(size=8)
    target[..., 0] = hi @ known
    model = LinearCombination(ridge=0.0).fit([(hi.astype("float32"), target)])
    np.testing.assert_allclose(model.weights, known, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(model.predict(hi), target[..., 0], rtol=1e-5, atol=1)
    assert np.abs(LinearCombination().fit([(hi, target)]).weights - known).max() < 1e-3 * np.abs(known).max()


def test_no_other_weights_correlate_better():
    """Equation A.7, the correlation of the mean spectra over all modes but k = 0."""
    hi, target = cutouts(count=20)
    weights = LinearCombination(ridge=0.0).fit([(hi, target)]).weights
    channels = np.fft.fft2(hi, axes=(1, 2)).reshape(20, -1, 4)[:, 1:]
    dust = np.fft.fft2(target[..., 0]).reshape(20, -1)[:, 1:]

    def correlation(trial):
        predicted = channels @ trial
        return (dust * predicted.conj()).real.sum() / np.sqrt((abs(dust) ** 2).sum() * (abs(predicted) ** 2).sum())

    best = correlation(weights)
    assert 0.5 < best < 1
    assert correlation(np.ones(4)) < best
    assert correlation(17 * weights) == pytest.approx(best, rel=1e-12)
    generator = np.random.default_rng(2)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(20):
            assert correlation(weights * (1 + size * generator.normal(size=4))) < best


def test_every_band_has_its_own_least_squares():
    hi, target = cutouts(count=10, height=16, width=24)
    ell, edges = multipoles(16, 24), (40.0, 150.0, 400.0)
    model = LinearCombination(ridge=0.0, pixel_size=PIXEL, bands=edges).fit([(hi, target)])
    chosen = [(ell >= low) & (ell < high) for low, high in itertools.pairwise(edges)]
    expected = [least_squares(hi, target, modes) for modes in chosen]
    np.testing.assert_allclose(model.weights, expected, rtol=1e-9)
    predicted = np.fft.fft2(model.predict(hi))
    modes = np.fft.fft2(hi, axes=(1, 2))
    for band, weights in zip(chosen, expected, strict=True):
        np.testing.assert_allclose(predicted[:, band], (modes @ weights)[:, band], rtol=1e-9, atol=1e-7)
    outside = (ell > 0) & ~np.any(chosen, axis=0)
    assert outside.any()
    np.testing.assert_allclose(predicted[:, outside], 0, atol=1e-8)
    np.testing.assert_allclose(predicted[:, 0, 0], modes[:, 0, 0] @ expected[0], rtol=1e-9)


def test_bands_on_the_edges_and_one_band_of_all():
    """The fundamental mode belongs to the band that begins there; one band of all modes is the scale-free model."""
    hi, target = cutouts()
    fundamental = 360 / (16 * PIXEL / 60)
    model = LinearCombination(ridge=0.0, pixel_size=PIXEL, bands=(fundamental, 1e9)).fit([(hi, target)])
    free = LinearCombination(ridge=0.0).fit([(hi, target)])
    np.testing.assert_allclose(model.weights[0], free.weights, rtol=1e-12)
    np.testing.assert_allclose(model.predict(hi), free.predict(hi), rtol=1e-9, atol=1e-9)


def test_ridge_shrinks_and_keeps_identical_and_empty_channels_solvable():
    hi, target = cutouts()
    lengths = [np.linalg.norm(LinearCombination(ridge).fit([(hi, target)]).weights) for ridge in (0, 0.01, 1, 100)]
    assert (np.diff(lengths) < 0).all()
    assert lengths[-1] < 0.1 * lengths[0]
    doubled = np.concatenate([hi, hi[..., :1], np.zeros_like(hi[..., :1])], axis=-1)
    weights, alone = (
        LinearCombination().fit([(doubled, target)]).weights,
        LinearCombination().fit([(hi, target)]).weights,
    )
    np.testing.assert_allclose([weights[0] + weights[4], *weights[1:4]], alone, rtol=1e-4)
    assert weights[0] == pytest.approx(weights[4], rel=1e-5)
    assert weights[5] == 0
    for channel in (hi[..., :1], np.zeros_like(hi[..., :1])):
        with pytest.raises(ValueError, match=r"The 5 x 5 matrix of HI spectra is singular.*`ridge` such as 1e-8"):
            LinearCombination(ridge=0.0).fit([(np.concatenate([hi, channel], axis=-1), target)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ridge": -1.0}, "`ridge`: expected a finite number of at least 0, got -1.0"),
        ({"ridge": float("nan")}, "`ridge`: expected a finite number, got nan"),
        ({"ridge": "small"}, "`ridge`: expected a finite number, got 'small'"),
        ({"pixel_size": 0}, "`pixel_size`: expected a positive number"),
        ({"pixel_size": PIXEL, "ell_max": -3}, "`ell_max`: expected a positive number"),
        ({"ell_max": 200}, "`pixel_size`: `ell_max` and `bands` need the side of a pixel"),
        ({"bands": (0, 100)}, "`pixel_size`: `ell_max` and `bands` need the side of a pixel"),
        ({"pixel_size": PIXEL, "ell_max": 200, "bands": (0, 100)}, "`ell_max` and `bands`: give one of them"),
        ({"pixel_size": PIXEL, "bands": (100,)}, "`bands`: expected increasing edges"),
        ({"pixel_size": PIXEL, "bands": 100}, "`bands`: expected increasing edges"),
        ({"pixel_size": PIXEL, "bands": (100, 100)}, "`bands`: expected increasing edges"),
        ({"pixel_size": PIXEL, "bands": (-1, 100)}, "`bands`: expected increasing edges"),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        LinearCombination(**changes)


def test_wrong_cutouts():
    hi, target = cutouts(2)
    model = LinearCombination()
    with pytest.raises(ValueError, match="not fitted"):
        model.predict(hi)
    with pytest.raises(ValueError, match="at least one batch"):
        model.fit([])
    with pytest.raises(ValueError, match=r"expected pairs \(hi, target\), got ndarray"):
        model.fit((hi, target))
    with pytest.raises(ValueError, match=r"`hi`: expected shape \(batch, height, width, channels\), got \(2, 16, 16\)"):
        model.fit([(hi[..., 0], target)])
    with pytest.raises(ValueError, match=r"expected targets of shape \(2, 16, 16, 2\)"):
        model.fit([(hi, target[..., :1])])
    with pytest.raises(ValueError, match="`target`: expected finite cutouts"):
        model.fit([(hi, np.full_like(target, np.nan))])
    with pytest.raises(ValueError, match=r"expected cutouts of shape \(16, 16, 4\) as in the first batch"):
        model.fit([(hi, target), (hi[:, :8], target[:, :8])])
    with pytest.raises(ValueError, match="no fluctuations"):
        model.fit([(np.zeros_like(hi), target)])
    with pytest.raises(ValueError, match=r"`bands`: no Fourier mode of cutouts of 16 x 16 pixels.*from 1 to 2;"):
        LinearCombination(pixel_size=PIXEL, bands=(1, 2, 300)).fit([(hi, target)])
    with pytest.raises(ValueError, match=r"`ell_max`: no Fourier mode of cutouts.*multipoles go from 57.69 to 652.7"):
        LinearCombination(pixel_size=PIXEL, ell_max=3).fit([(hi, target)])
    model.fit([(hi, target)])
    with pytest.raises(ValueError, match="fitted to 4 channels, got 3"):
        model.predict(hi[..., :3])


def test_pooled_bands_are_one_set_of_weights():
    """Bands that hold all modes, summed: the scale-independent weights of the same cutouts."""
    generator = np.random.default_rng(5)
    hi = generator.normal(size=(3, 16, 16, 4))
    dust = hi @ [1.0, -2.0, 0.5, 3.0] + generator.normal(size=(3, 16, 16))
    batches = [(hi, np.stack([dust, np.ones_like(dust)], axis=-1))]
    by_scale = LinearCombination(pixel_size=60.0, bands=(0.0, 60.0, 120.0, 400.0)).fit(batches)
    np.testing.assert_allclose(by_scale.pooled().weights, LinearCombination().fit(batches).weights, rtol=1e-9)
    with pytest.raises(ValueError, match="is not fitted"):
        LinearCombination().pooled()
