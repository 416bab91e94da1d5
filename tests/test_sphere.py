import healpy
import numpy as np
import pytest
import scipy.signal

from keras_cosmo.sphere import butterworth, filter_harmonics, low_pass, nside_of

NSIDE = 32
RNG = np.random.default_rng(3)


def single(ell, m, nside=NSIDE):
    """Map of one spherical harmonic."""
    lmax = 3 * nside - 1
    harmonics = np.zeros(healpy.Alm.getsize(lmax), complex)
    harmonics[healpy.Alm.getidx(lmax, ell, m)] = 1.0 + (0.5j if m else 0.0)
    return healpy.alm2map(harmonics, nside, lmax=lmax)


@pytest.mark.parametrize("order", [1, 4, 7])
def test_butterworth_is_the_analogue_filter_of_scipy(order):
    ell = np.arange(0, 1500, 10)
    numerator, denominator = scipy.signal.butter(order, 460.0, analog=True)
    _, response = scipy.signal.freqs(numerator, denominator, ell)
    np.testing.assert_allclose(butterworth(ell, 460, order), np.abs(response), rtol=1e-6, atol=1e-12)


def test_butterworth_has_no_overflow():
    factor = butterworth(np.array([0.0, 1.0, 1e30]), 10, 400)
    np.testing.assert_allclose(factor, [1.0, 1.0, 0.0], atol=1e-300)


@pytest.mark.parametrize(("ell", "m"), [(1, 0), (7, 3), (20, 20), (30, 11), (40, 0), (50, 26)])
def test_a_single_multipole_is_scaled_by_exactly_its_factor(ell, m):
    before = single(ell, m)
    after = low_pass(before, cutoff=30, order=4, lmax=2 * NSIDE, iterations=10)
    np.testing.assert_allclose(after, butterworth(ell, 30, 4) * before, atol=3e-6 * np.abs(before).max())


def test_default_lmax_and_iterations_are_accurate_where_the_filter_lets_pass():
    for ell, m in ((5, 2), (16, 9), (28, 28)):
        before = single(ell, m)
        after = low_pass(before, cutoff=24)
        np.testing.assert_allclose(after, butterworth(ell, 24, 4) * before, atol=1e-3 * np.abs(before).max())


def test_a_constant_map_is_kept():
    np.testing.assert_allclose(low_pass(np.full(12 * NSIDE**2, 7.5), cutoff=20), 7.5, rtol=1e-6)


def test_equals_healpy():
    before = RNG.standard_normal(12 * NSIDE**2)
    before -= before.mean()
    harmonics = healpy.almxfl(healpy.map2alm(before, lmax=70, iter=2), butterworth(np.arange(71), 25, 3))
    expected = healpy.alm2map(harmonics, NSIDE, lmax=70)
    after = low_pass(before, cutoff=25, order=3, lmax=70, iterations=2)
    assert after.dtype == np.float32
    np.testing.assert_allclose(after, expected, atol=1e-5)


def test_maps_are_filtered_one_by_one_and_left_as_they_are():
    before = RNG.standard_normal((3, 12 * 16**2)).astype(np.float32)
    copy = before.copy()
    after = low_pass(before, cutoff=10)
    np.testing.assert_array_equal(before, copy)
    assert after.shape == before.shape
    for one, together in zip(before, after, strict=True):
        np.testing.assert_array_equal(low_pass(one, cutoff=10), together)


def test_small_scales_go_and_large_ones_stay():
    smooth, rough = single(3, 1), single(60, 30)
    after = low_pass(smooth + rough, cutoff=15)
    np.testing.assert_allclose(after, smooth, atol=0.01 * np.abs(smooth).max())


def test_filter_harmonics_scales_the_mean_too():
    after = filter_harmonics(np.full(12 * 8**2, 2.0), np.full(5, 3.0))
    np.testing.assert_allclose(after, 6.0, rtol=1e-6)


def test_nside():
    assert [nside_of(np.zeros(12 * n * n)) for n in (1, 2, 64)] == [1, 2, 64]


@pytest.mark.parametrize("shape", [(), (0,), (100,), (12 * 9,), (2, 2, 48), (48, 5)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"12 nside\^2 pixels of a HEALPix map"):
        low_pass(np.zeros(shape), cutoff=2)


def test_not_finite_is_refused():
    maps = np.zeros((2, 48))
    maps[1, 5] = np.nan
    with pytest.raises(ValueError, match="map 1: 1 of 48 pixels are not finite"):
        low_pass(maps, cutoff=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cutoff": 0.0}, "`cutoff` of the low-pass: expected a positive number, got 0.0"),
        ({"cutoff": np.nan}, "`cutoff` of the low-pass: expected a positive number, got nan"),
        ({"cutoff": "460"}, "`cutoff` of the low-pass: expected a positive number, got '460'"),
        ({"cutoff": 460}, "at most 3 nside - 1 = 5 for maps of nside 2, got 460"),
        ({"cutoff": 2, "order": -1}, "`order` of the low-pass: expected a positive number, got -1"),
        ({"cutoff": 2, "lmax": 6}, r"`lmax` of the low-pass: expected an integer in \[1, 5\], 3 nside - 1, got 6"),
        ({"cutoff": 2, "lmax": 2.5}, r"`lmax` of the low-pass: expected an integer in \[1, 5\]"),
        ({"cutoff": 2, "iterations": -1}, r"`iterations`: expected an integer in \[0, 100\], got -1"),
    ],
)
def test_other_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        low_pass(np.zeros(48), **arguments)


@pytest.mark.parametrize("factor", [np.ones((2, 2)), np.ones(7), [], [1.0, np.inf]])
def test_other_factors_are_refused(factor):
    with pytest.raises(ValueError, match="`factor`: expected finite numbers for multipoles 0 to 3 nside - 1 = 5"):
        filter_harmonics(np.zeros(48), factor)
