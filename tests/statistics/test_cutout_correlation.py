import cmath
import doctest
import itertools

import h5py
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.ndimage import gaussian_filter

from keras_cosmo.statistics import cutout_correlation, spectra
from keras_cosmo.statistics.cutout_correlation import (
    amplitudes,
    apodisation,
    band_correlations,
    correlation,
    expected_mode_average,
    fundamental_multipole,
    multipole_edges,
    paper_bands,
)

PIXEL = 23.4
PAIR = np.random.default_rng(0).normal(size=(2, 3, 8, 8))


def red(ell):
    return (1 + (ell / 20) ** 2) ** -1.4


def multipoles(side):
    grid = 2 * np.pi * np.fft.fftfreq(side, np.radians(PIXEL / 60))
    return np.hypot(grid[:, None], grid)


def gaussian(count, side, seed, power=red):
    """Periodic Gaussian maps of a spectrum, on the full plane."""
    white = np.fft.fft2(np.random.default_rng(seed).normal(size=(count, side, side)))
    return np.fft.ifft2(white * np.sqrt(power(multipoles(side)))).real


def pair_of_coherence(count, side, coherence, seed=0):
    """Two fields of one spectrum whose modes have the coherence ``coherence(ell)``."""
    first = gaussian(count, side, seed)
    known = np.fft.ifft2(np.fft.fft2(first) * coherence(multipoles(side))).real
    return first, known + gaussian(count, side, seed + 1, lambda ell: red(ell) * (1 - coherence(ell) ** 2))


def direct(first, second, low, high, estimator):
    """Coefficient of one pair of maps by explicit sums over pixels and modes, the whole plane."""
    side = len(first)
    total, one, other, coefficients = 0.0, 0.0, 0.0, []
    for m, n in itertools.product(range(-side // 2, side // 2), repeat=2):
        ell = np.hypot(m, n) * 360 / (side * PIXEL / 60)
        if not low <= ell < high or m == n == 0:
            continue
        a = b = 0j
        for x, y in itertools.product(range(side), repeat=2):
            wave = cmath.exp(-2j * cmath.pi * (m * x + n * y) / side)
            a += first[x, y] * wave
            b += second[x, y] * wave
        cross = (a * b.conjugate()).real
        coefficients.append(cross / (abs(a) * abs(b)))
        total, one, other = total + cross, one + abs(a) ** 2, other + abs(b) ** 2
    return np.mean(coefficients) if estimator == "modes" else total / np.sqrt(one * other)


@pytest.mark.parametrize("estimator", ["modes", "bands"])
def test_against_a_direct_sum_over_modes(estimator):
    edges = multipole_edges(8, PIXEL)
    found = correlation(*PAIR, PIXEL, estimator=estimator)
    assert found.correlation.shape == (3, 4)
    for row, (first, second) in enumerate(zip(*PAIR, strict=True)):
        expected = [direct(first, second, low, high, estimator) for low, high in itertools.pairwise(edges)]
        np.testing.assert_allclose(found.correlation[row], expected, rtol=1e-12)
    bands = ((115.0, 300.0), (115.0, 240.0), (230.0, 500.0))
    found = band_correlations(*PAIR, PIXEL, bands, estimator)
    for row, column in itertools.product(range(3), range(3)):
        expected = direct(PAIR[0, row], PAIR[1, row], *bands[column], estimator)
        np.testing.assert_allclose(found[row, column], expected, rtol=1e-12)


def test_numbers_of_the_paper():
    """Section 2: ell_F = 14.4, bins ell_F wide, bands ell_F to 100 and 100 to 200."""
    assert round(fundamental_multipole(64, PIXEL), 1) == 14.4
    edges = multipole_edges(64, PIXEL)
    np.testing.assert_allclose(np.diff(edges), fundamental_multipole(64, PIXEL))
    assert len(edges) == 33
    np.testing.assert_allclose([edges[0], edges[-1]], [14.423 / 2, 461.54 + 14.423 / 2], rtol=1e-4)
    assert paper_bands(64, PIXEL) == ((fundamental_multipole(64, PIXEL), 100.0), (100.0, 200.0))
    maps = np.random.default_rng(0).normal(size=(1, 64, 64))
    found = correlation(maps, maps, PIXEL)
    assert np.all((found.ell > edges[:-1]) & (found.ell < edges[1:]))
    ell = multipoles(64)
    assert found.modes.tolist() == [np.sum((ell > low) & (ell < high)) for low, high in itertools.pairwise(edges)]


@pytest.mark.parametrize("estimator", ["modes", "bands"])
def test_identical_rescaled_and_opposite_maps(estimator):
    maps = gaussian(4, 32, 0)
    for factor, expected in ((1.0, 1.0), (1e-5, 1.0), (-3.0, -1.0)):
        for values in (
            correlation(maps, factor * maps + 7.0, PIXEL, estimator=estimator).correlation,
            band_correlations(maps, factor * maps, PIXEL, estimator=estimator),
        ):
            np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_rescaling_changes_nothing_in_either_map():
    first, second = gaussian(2, 32, 0), gaussian(2, 32, 1) + gaussian(2, 32, 0)
    for estimator in ("modes", "bands"):
        expected = band_correlations(first, second, PIXEL, estimator=estimator)
        found = band_correlations(1e6 * first - 5, 1e-4 * second + 2, PIXEL, estimator=estimator)
        np.testing.assert_allclose(found, expected, rtol=1e-8)
        np.testing.assert_allclose(band_correlations(second, first, PIXEL, estimator=estimator), expected, rtol=1e-12)


@pytest.mark.parametrize("estimator", ["modes", "bands"])
def test_independent_maps_are_uncorrelated_within_the_error(estimator):
    found = correlation(gaussian(300, 32, 0), gaussian(300, 32, 1), PIXEL, estimator=estimator)
    summary = spectra.over_maps(found.correlation)
    assert np.abs(summary.mean / summary.standard_error).max() < 4
    # Half of the modes are independent; the cosine of a random phase has the variance 1/2, as has the ratio of a mode.
    np.testing.assert_allclose(summary.standard_deviation[2:], 1 / np.sqrt(found.modes[2:]), rtol=0.15)


@pytest.mark.parametrize("coherence", [0.3, 0.8, 0.95])
def test_gaussian_fields_of_a_known_correlation(coherence):
    first, second = pair_of_coherence(300, 32, lambda ell: np.full(ell.shape, coherence))
    for estimator, expected in (("modes", expected_mode_average(coherence)), ("bands", coherence)):
        summary = spectra.over_maps(correlation(first, second, PIXEL, estimator=estimator).correlation)
        # The ratio of two sums over few modes is biased, and 3 modes of the last bin have no imaginary part.
        assert np.abs((summary.mean - expected) / summary.standard_error)[3:-1].max() < 4.5
    assert expected_mode_average(coherence) < coherence


def test_expected_average_is_the_integral_over_phases():
    for rho in (-0.9, 0.2, 0.5, 0.8, 0.97):
        # Mean of cos over the phase difference of correlated circular Gaussian numbers, from the density of their
        # ratio of moduli w and phase difference p: w (1 - rho^2) / (pi (1 + w^2 - 2 rho w cos p)^2).
        def over_phase(w, rho=rho):
            return quad(lambda p: np.cos(p) / (1 + w * w - 2 * rho * w * np.cos(p)) ** 2, 0, np.pi)[0]

        inner = quad(lambda w: w * over_phase(w), 0, 1, epsrel=1e-9, points=[abs(rho)])[0]
        # The density of 1 / w is that of w, so that both halves are equal.
        np.testing.assert_allclose(2 * inner * 2 * (1 - rho**2) / np.pi, expected_mode_average(rho), rtol=1e-5)
    np.testing.assert_allclose(expected_mode_average([-1.0, 0.0, 1.0]), [-1, 0, 1], atol=1e-12)


def test_every_mode_counts_the_same_in_one_estimator_and_by_its_power_in_the_other():
    side = 32
    x = np.arange(side)
    strong = np.cos(2 * np.pi * 2 * x / side)[:, None] * np.ones(side)
    weak, shifted = (np.cos(2 * np.pi * 3 * x / side + phase)[:, None] * np.ones(side) for phase in (0, np.pi / 2))
    step = fundamental_multipole(side, PIXEL)
    band = [(1.5 * step, 3.5 * step)]
    pair = (strong + 0.1 * weak)[None], (strong + 0.1 * shifted)[None]
    # All other modes of the band have no phase: they hold rounding only.
    np.testing.assert_allclose(band_correlations(*pair, PIXEL, band, "modes"), 0.5, rtol=1e-9)
    np.testing.assert_allclose(band_correlations(*pair, PIXEL, band, "bands"), 1 / 1.01, rtol=1e-9)


def test_a_constant_prediction_has_no_correlation():
    maps = gaussian(2, 16, 0)
    for value in (0.0, 3.7e5):
        for estimator in ("modes", "bands"):
            found = correlation(maps, np.full(maps.shape, value), PIXEL, estimator=estimator)
            assert np.isnan(found.correlation).all()


def test_amplitudes_are_those_of_regressions():
    first, noise = gaussian(200, 32, 0), gaussian(200, 32, 1)
    found = amplitudes(first, 0.5 * first + 0.25 * noise, PIXEL)
    mean = spectra.over_maps(found.gain)
    assert np.abs((mean.mean - 0.5) / mean.standard_error).max() < 4
    np.testing.assert_allclose(np.sqrt(np.mean(found.transfer**2, axis=0))[4:], np.hypot(0.5, 0.25), rtol=0.05)
    np.testing.assert_allclose(found.template_coefficient.mean(axis=0)[4:], 0.5 / (0.25 + 0.0625), rtol=0.05)
    r = correlation(first, 0.5 * first + 0.25 * noise, PIXEL, estimator="bands").correlation
    np.testing.assert_allclose(found.gain, r * found.transfer, rtol=1e-9)
    np.testing.assert_allclose(found.template_coefficient, r / found.transfer, rtol=1e-9)
    # The slope of least squares over the Fourier modes of one band, as numpy finds it.
    a, b = (
        np.fft.fft2(values[0])[(multipoles(32) > 100) & (multipoles(32) < 200)] for values in (first, noise + first)
    )
    slope = np.linalg.lstsq(np.concatenate([a.real, a.imag])[:, None], np.concatenate([b.real, b.imag]), rcond=None)[0]
    found = amplitudes(first[:1], (first + noise)[:1], PIXEL, edges=[100.0, 200.0])
    np.testing.assert_allclose(found.gain[0], slope, rtol=1e-9)
    nothing = amplitudes(first[:1], 0 * first[:1], PIXEL)
    assert np.all(nothing.gain == 0)
    assert np.isnan(nothing.template_coefficient).all()


def blobs(count, side, part, seed=5):
    """Masks with holes some pixels wide, ``part`` of the sky open."""
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=(count, side, side)), (0, 5, 5), mode="wrap")
    return (smooth < np.quantile(smooth, part)).astype(float)


def test_the_shape_of_a_mask_is_counted_as_correlation_unless_the_mean_is_taken_out():
    """A Gaussian sky whose correlation falls from 0.95 to 0.1, cut out of larger maps, 28% masked, as LR72 masks it.

    With a mean of three standard deviations, the plain estimator finds 0.17 and 0.31 too much in r50 and r150; with the
    mean of the open pixels subtracted 0.02 and 0.08, with soft edges besides 0.02 and 0.05.
    """
    count, side = 150, 64
    maps = [
        values[:, :side, :side] for values in pair_of_coherence(count, 160, lambda ell: 0.95 / (1 + (ell / 150) ** 2))
    ]
    whole = pair_of_coherence(count, side, lambda ell: 0.95 / (1 + (ell / 150) ** 2), seed=7)
    mask = blobs(count, side, 0.72)
    first, second = ((values + 3 * maps[0].std()) * mask for values in maps)
    window = apodisation(mask, 3.0)

    def bias(**options):
        found, right = (
            band_correlations(*pair, PIXEL, **chosen).mean(axis=0)
            for pair, chosen in (((first, second), options), (whole, {}))
        )
        return found - right

    plain, subtracted, tapered = bias(), bias(mask=mask), bias(mask=mask, window=window)
    np.testing.assert_allclose(plain, [0.17, 0.31], atol=0.03)
    np.testing.assert_allclose(subtracted, [0.02, 0.08], atol=0.02)
    np.testing.assert_allclose(tapered, [0.02, 0.05], atol=0.02)
    assert tapered[1] < subtracted[1]
    # Without a mean in the maps, the mask does little more to the plain estimator than to the others.
    np.testing.assert_allclose(
        band_correlations(maps[0] * mask, maps[1] * mask, PIXEL).mean(axis=0),
        band_correlations(first, second, PIXEL, mask=mask).mean(axis=0),
        atol=0.01,
    )


@pytest.mark.parametrize("estimator", ["modes", "bands"])
def test_mask_and_window_by_hand(estimator):
    true, predicted = PAIR
    mask = np.random.default_rng(1).uniform(0.2, 1.0, true.shape)
    mask[:, 2:4, 2:4] = 0.0
    window = apodisation((mask > 0).astype(float), 1.0)

    def by_hand(maps):
        # A map of the value c under the mask comes as mask * c, which must vanish for every c.
        mean = (maps * mask * window).sum(axis=(1, 2)) / (mask * window).sum(axis=(1, 2))
        return (maps - mean[:, None, None]) * mask * window

    found = correlation(true * mask, (predicted + 50.0) * mask, PIXEL, None, estimator, mask, window)
    expected = correlation(by_hand(true), by_hand(predicted), PIXEL, estimator=estimator)
    np.testing.assert_allclose(found.correlation, expected.correlation, rtol=1e-9)
    one_for_all = correlation(true, predicted, PIXEL, None, estimator, window=window[0])
    repeated = correlation(true, predicted, PIXEL, None, estimator, window=np.stack([window[0]] * 3))
    np.testing.assert_array_equal(one_for_all.correlation, repeated.correlation)
    one, other = (
        amplitudes(true * mask, predicted * mask, PIXEL, mask=mask),
        amplitudes(
            *(
                (maps - (maps * mask).sum(axis=(1, 2), keepdims=True) / mask.sum(axis=(1, 2), keepdims=True)) * mask
                for maps in PAIR
            ),
            PIXEL,
        ),
    )
    np.testing.assert_allclose(one.gain, other.gain, rtol=1e-9)


def test_weights_fall_towards_masked_pixels_and_the_border():
    mask = np.ones((2, 21, 21))
    mask[0, 10, 10] = 0.4
    window = apodisation(mask, 4.0)
    steps = 0.5 * (1 - np.cos(np.pi * np.arange(6) / 5))
    np.testing.assert_allclose(window[1, 10, :6], [*steps[1:], 1.0])
    np.testing.assert_allclose(window[0, 10, 10:16], steps)
    # Distances are those of the plane, not along rows.
    np.testing.assert_allclose(window[0, 12, 12], 0.5 * (1 - np.cos(np.pi * np.sqrt(8) / 5)))
    assert window[1, 4:17, 4:17].min() == 1.0
    inner = apodisation(mask, 4.0, border=False)
    assert inner[1].min() == 1.0
    np.testing.assert_allclose(inner[0, 10, 10:16], steps)
    np.testing.assert_array_equal(apodisation(mask, 0.0), mask >= 0.5)


def test_datasets_are_read_in_batches_and_agree_with_arrays(tmp_path, monkeypatch):
    first, second = gaussian(7, 16, 0), gaussian(7, 16, 1)
    mask = blobs(7, 16, 0.7)
    mask[:, :4] = 1.0
    expected = [
        band_correlations(first * mask, second * mask, PIXEL, mask=mask, estimator=e) for e in ("modes", "bands")
    ]
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["true"], file["predicted"] = first * mask, second * mask
        monkeypatch.setattr(spectra, "_BATCH_PIXELS", 3 * 16 * 16)
        for estimator, values in zip(("modes", "bands"), expected, strict=True):
            found = band_correlations(file["true"], file["predicted"], PIXEL, mask=mask, estimator=estimator)
            np.testing.assert_allclose(found, values, rtol=1e-12)
            found = correlation(file["true"], file["predicted"], PIXEL, estimator=estimator)
            assert found.correlation.shape == (7, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: correlation(PAIR[0], PAIR[1, :2], PIXEL), r"predicted: expected the shape of true, .*\(2, 8, 8\)"),
        (lambda: correlation(PAIR[0, 0], PAIR[1, 0], PIXEL), r"true: expected square cutouts .*use values\[None\]"),
        (lambda: correlation(PAIR[0, :, 1:], PAIR[1, :, 1:], PIXEL), r"true: expected square cutouts .*\(3, 7, 8\)"),
        (lambda: correlation(*PAIR, 0.0), r"pixel_size: expected a positive size in arcmin, got 0"),
        (
            lambda: correlation(*PAIR, PIXEL, estimator="mean"),
            r"estimator: expected one of 'modes', 'bands', got 'mean'",
        ),
        (lambda: correlation(*PAIR, PIXEL, [200.0, 100.0]), r"edges: expected at least two rising"),
        (lambda: correlation(PAIR[0], PAIR[1] * np.nan, PIXEL), r"predicted: expected finite values.* map 0"),
        (lambda: correlation(*PAIR, PIXEL, mask=np.ones((2, 8, 8))), r"mask: expected weights of shape \(3, 8, 8\) or"),
        (lambda: correlation(*PAIR, PIXEL, window=2 * np.ones((8, 8))), r"window: expected weights from 0 to 1"),
        (
            lambda: correlation(*PAIR, PIXEL, mask=np.ones((3, 8, 8)) * [[[1]], [[0]], [[1]]]),
            r"mask: expected open pixels in every cutout, got none in cutout 1",
        ),
        (lambda: band_correlations(*PAIR, PIXEL, []), r"bands: expected at least one pair"),
        (lambda: band_correlations(*PAIR, PIXEL, [(200.0, 100.0)]), r"bands: expected pairs .* got \(200.0, 100.0\)"),
        (lambda: band_correlations(*PAIR, PIXEL, [100.0, 200.0]), r"bands: expected pairs .* got 100.0"),
        (lambda: band_correlations(*PAIR, PIXEL), r"bands: expected pairs .* got \(115.3.*, 100.0\)"),
        (lambda: band_correlations(*PAIR, PIXEL, [(1.0, 2.0)]), r"edges: expected modes in every bin"),
        (lambda: amplitudes(PAIR[0], PAIR[1], -1.0), r"pixel_size: expected a positive size"),
        (lambda: fundamental_multipole(1, PIXEL), r"side: expected at least 2 pixels, got 1"),
        (lambda: apodisation(np.ones((8, 8))), r"mask: expected weights .*got shape \(8, 8\); use mask\[None\]"),
        (lambda: apodisation(np.full((1, 8, 8), np.nan)), r"mask: expected weights from 0 to 1 .* with others or NaN"),
        (lambda: apodisation(np.ones((1, 8, 8)), -1.0), r"width: expected a number of pixels of at least 0, got -1"),
        (lambda: expected_mode_average(1.2), r"coherence: expected values from -1 to 1, got 1.2"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_maps_that_are_no_arrays():
    with pytest.raises(TypeError, match=r"true: expected an array of cutouts.*use numpy.asarray"):
        correlation(PAIR[0].tolist(), PAIR[1], PIXEL)
    with pytest.raises(TypeError, match=r"true: expected real numbers, got complex128"):
        correlation(PAIR[0] * 1j, PAIR[1], PIXEL)


def test_examples():
    assert doctest.testmod(cutout_correlation).failed == 0
