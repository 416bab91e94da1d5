import doctest

import numpy as np
import pytest
from powerbox import PowerBox, get_power
from scipy.ndimage import gaussian_filter

from keras_cosmo.statistics import beam
from keras_cosmo.statistics.beam import beam_transfer, unsmooth_power
from keras_cosmo.statistics.spectra import power_spectrum

CELL, SIGMA = 0.4, 1.2


def smoothed(maps):
    """By convolution in real space, which knows nothing of wavenumbers."""
    return gaussian_filter(maps, (0, SIGMA / CELL, SIGMA / CELL), mode="wrap", truncate=12)


def test_the_beam_of_white_noise_is_undone():
    noise = 3.0 * np.random.default_rng(0).normal(size=(20, 128, 128))
    k, power, modes = power_spectrum(smoothed(noise), CELL)
    expected = power_spectrum(noise, CELL).power
    found = unsmooth_power(k, power, SIGMA)
    known = np.exp(k**2 * SIGMA**2) <= 1e3
    assert 5 < known.sum() < len(k)
    assert np.isnan(found[:, ~known]).all()
    # Within a bin the beam varies, which the mean wavenumber of the bin does not show: some per cent of the power.
    np.testing.assert_allclose(found[:, known].mean(axis=0), expected[:, known].mean(axis=0), rtol=0.06)
    error = 9.0 * CELL**2 / np.sqrt(20 * modes / 2)
    assert np.all(np.abs(found.mean(axis=0) - 9.0 * CELL**2)[known] < 5 * error[known] + 0.06 * 9.0 * CELL**2)


def test_powerbox_agrees_before_the_beam():
    side = 256
    box = PowerBox(
        shape=(side, side), pk=lambda k: 2.0 * (k + 0.05) ** -1.5, size=(side * CELL, side * CELL), seed=3, a=1, b=1
    )
    field = box.delta_x()
    edges = np.linspace(0.06, 2.0, 60)
    theirs = get_power(field, side * CELL, bins=edges, a=1, b=1, ignore_zero_mode=True)
    k, power, _ = power_spectrum(smoothed(field[None]), CELL, edges)
    found = unsmooth_power(k, power[0], SIGMA)
    np.testing.assert_allclose(k, theirs.bin_avg)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, theirs.power, rtol=0.03)


def test_transfer():
    np.testing.assert_allclose(beam_transfer([0.0, 1 / 1.2], 1.2), [1.0, np.exp(-0.5)])
    assert beam_transfer(5.0, 0.0) == 1.0
    assert beam_transfer(1e6, 10.0) == 0.0


def test_noise_is_subtracted_and_masked_where_it_dominates():
    k = np.linspace(0.1, 2.0, 20)
    signal, noise = 5.0 * k**-1.2, 0.05
    power = np.stack([0.8, 1.2])[:, None] * signal * np.exp(-(k**2) * SIGMA**2) + noise
    found = unsmooth_power(k, power, SIGMA, noise_power=noise)
    known = noise <= 0.5 * power.mean(axis=0)
    assert 0 < known.sum() < 20
    np.testing.assert_allclose(found.mean(axis=0)[known], signal[known])
    np.testing.assert_array_equal(np.isnan(found), np.stack([~known, ~known]))
    several = unsmooth_power(k, power, SIGMA, noise_power=np.full(20, noise))
    np.testing.assert_array_equal(several, found)
    strict = unsmooth_power(k, power, SIGMA, noise_power=noise, largest_noise_fraction=0.1)
    assert np.isnan(strict).sum() > np.isnan(found).sum()


def test_rounding_to_single_precision_is_below_the_default_limit():
    noise = np.random.default_rng(0).normal(size=(4, 256, 256))
    maps = smoothed(noise) + 10.0
    k, power, _ = power_spectrum(maps, CELL)
    rounded = power_spectrum(maps.astype(np.float32), CELL).power
    one, other = unsmooth_power(k, power, SIGMA), unsmooth_power(k, rounded, SIGMA)
    np.testing.assert_allclose(other, one, rtol=1e-4)
    far = unsmooth_power(k, rounded, SIGMA, largest_amplification=1e30)
    assert np.nanmax(far) > 1e3 * CELL**2
    guarded = unsmooth_power(k, rounded, SIGMA, largest_amplification=1e30, noise_power=(3e-8 * 10) ** 2 * CELL**2)
    wide = np.isfinite(guarded[0])
    assert wide.sum() > 1.5 * np.isfinite(one[0]).sum()
    np.testing.assert_allclose(
        guarded.mean(axis=0)[wide], power_spectrum(noise, CELL).power.mean(axis=0)[wide], rtol=0.6
    )


@pytest.mark.parametrize("limit", [1.0, 10.0, 1e3, 1e300])
def test_the_amplification_is_limited(limit):
    k = np.linspace(0.0, 30.0, 301)
    found = unsmooth_power(k, np.ones(301), 1.2, largest_amplification=limit)
    assert np.nanmax(found) <= limit * (1 + 1e-9)
    np.testing.assert_array_equal(np.isfinite(found), (k * 1.2) ** 2 <= np.log(limit) + 1e-12)


K = np.array([0.5, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: beam_transfer([-1.0], 1.2), r"k: expected wavenumbers of at least 0.* got \[-1.0\]"),
        (lambda: beam_transfer(K, -1.2), r"sigma: expected the beam's standard deviation.* got -1.2"),
        (lambda: beam_transfer(K, np.nan), r"sigma: .* got nan"),
        (
            lambda: unsmooth_power(K, np.ones((2, 3)), 1.2),
            r"power: expected shape \(..., n_k\).* got \(2, 3\) for \(2,\)",
        ),
        (lambda: unsmooth_power(K, [1.0, np.nan], 1.2), r"power: expected finite values of at least 0"),
        (lambda: unsmooth_power(K, [1.0, -1.0], 1.2), r"power: expected finite values of at least 0"),
        (
            lambda: unsmooth_power(K, K, 1.2, largest_amplification=0.5),
            r"largest_amplification: .* at least 1, got 0.5",
        ),
        (lambda: unsmooth_power(K, K, 1.2, largest_noise_fraction=0), r"largest_noise_fraction: .* got 0"),
        (lambda: unsmooth_power(K, K, 1.2, noise_power=-1.0), r"noise_power: expected one power.* the 2 wavenumbers"),
        (
            lambda: unsmooth_power(K, K, 1.2, noise_power=[1.0] * 3),
            r"noise_power: expected one power.* got shape \(3,\)",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_examples():
    assert doctest.testmod(beam).failed == 0
