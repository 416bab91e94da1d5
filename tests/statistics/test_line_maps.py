import doctest
import itertools
import warnings

import h5py
import numpy as np
import pytest
from powerbox import get_power
from scipy.ndimage import gaussian_filter
from scipy.stats import pearsonr

from keras_cosmo.statistics import line_maps
from keras_cosmo.statistics.distributions import distribution_distance
from keras_cosmo.statistics.line_maps import (
    LineTransfer,
    apodize,
    band_names,
    ensemble_scores,
    line_spectra,
    line_transfer,
    mean_accuracy,
    mean_intensity,
    power_residual,
    separation_scores,
)
from keras_cosmo.statistics.peaks import agreement_curve, find_peaks, score_peaks
from keras_cosmo.statistics.spectra import compare_spectra, power_spectrum, wavenumber_edges

CELL = 0.4
LINES = ("halpha", "oiii")


def intensities(count=6, size=64, seed=0, lines=2):
    noise = np.random.default_rng(seed).normal(size=(count, size, size, lines))
    return 5e-10 * np.exp(gaussian_filter(noise, (0, 3, 3, 0), mode="wrap") * 8)


MIXING = np.array([[0.9, 0.2], [0.1, 0.7]])  # predicted line, true line


def mixed(true, noise=0.0, seed=9):
    clean = np.einsum("ij,nxyj->nxyi", MIXING, true)
    return clean + noise * intensities(len(true), true.shape[1], seed)


def test_spectra_of_all_pairs_are_those_of_powerbox():
    true, predicted = intensities(2, 32), intensities(2, 32, 1)
    edges = wavenumber_edges((32, 32), CELL) * (1 + 1e-6)
    spectra = line_spectra(true, predicted, CELL, edges)
    box = {"boxlength": 32 * CELL, "bins": edges, "dimensionless": False, "ignore_zero_mode": True}
    for index in range(2):
        for i in range(2):
            for j in range(2):
                for values, one in ((spectra.true, true), (spectra.cross, predicted)):
                    pair = (one[index, ..., i], true[index, ..., j])
                    theirs = get_power(pair[0], deltax2=pair[1], **box)
                    np.testing.assert_allclose(values[index, :, i, j], theirs.power, rtol=1e-9, atol=1e-30)
            theirs = get_power(predicted[index, ..., i], **box)
            np.testing.assert_allclose(spectra.predicted[index, :, i], theirs.power, rtol=1e-9)
    np.testing.assert_allclose(spectra.k, theirs.bin_avg)


def test_one_line_is_the_comparison_of_its_maps():
    true = intensities(3)
    predicted = mixed(true, 0.3)
    spectra = line_spectra(true, predicted, CELL)
    for index in (0, 1):
        expected = compare_spectra(true[..., index], predicted[..., index], CELL)
        for one, other in zip(spectra.line(index), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-40)


def test_datasets_are_read_in_batches(tmp_path, monkeypatch):
    from keras_cosmo.statistics import spectra as batches

    true = intensities(5, 64).astype(np.float32)
    predicted = mixed(true)
    expected = line_spectra(true, predicted, CELL)
    scores = separation_scores(true, predicted, LINES, CELL)
    monkeypatch.setattr(batches, "_BATCH_PIXELS", 2 * 64 * 64)
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["true"], file["predicted"] = true, predicted
        found = line_spectra(file["true"], file["predicted"], CELL)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)
        again = separation_scores(file["true"], file["predicted"], LINES, CELL)
    assert again.keys() == scores.keys()
    np.testing.assert_allclose(list(again.values()), list(scores.values()), rtol=1e-9)


def test_the_regression_is_that_of_least_squares_over_modes():
    true = intensities(3, 32) + 0.4 * intensities(3, 32)[..., ::-1]
    predicted = mixed(true, 0.5)
    edges = [0.4, 1.0, 3.0]
    found = line_transfer(line_spectra(true, predicted, CELL, edges)).coefficients
    grid = 2 * np.pi * np.fft.fftfreq(32, CELL)
    k = np.hypot(grid[:, None], grid)
    for band, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = (k >= low) & (k < high)
        x, y = (np.fft.fft2(maps, axes=(1, 2))[:, inside].reshape(-1, 2) * 1e9 for maps in (true, predicted))
        x, y = (np.concatenate([values.real, values.imag]) for values in (x, y))
        np.testing.assert_allclose(found[band], np.linalg.lstsq(x, y, rcond=None)[0].T, rtol=1e-8)


def test_a_mixture_of_correlated_lines_is_found_exactly():
    true = intensities(2) + 0.9 * intensities(2, seed=3)[..., :1]
    found = line_transfer(line_spectra(true, mixed(true), CELL))
    # Smooth maps have no power left at high k.
    known = found.k < 2
    np.testing.assert_allclose(found.coefficients[known], np.broadcast_to(MIXING, (known.sum(), 2, 2)), rtol=1e-6)


def test_lines_of_very_different_brightness_do_not_disturb_the_regression():
    true = intensities(3) * np.array([1.0, 1e-6])
    predicted = np.einsum("ij,nxyj->nxyi", np.array([[1.0, 2.0], [1e-8, 0.5]]), true)
    found = line_transfer(line_spectra(true, predicted, CELL, [0.0, 1.5]))
    np.testing.assert_allclose(found.coefficients[0], [[1.0, 2.0], [1e-8, 0.5]], rtol=1e-6)


def test_lines_that_cannot_be_told_apart_have_no_coefficients():
    true = intensities(2)
    for second in (0.0 * true[..., 0], 2.0 * true[..., 0]):
        both = np.stack([true[..., 0], second], axis=-1)
        assert np.isnan(line_transfer(line_spectra(both, true, CELL, [0.0, 1.0])).coefficients).all()


def test_errors_of_the_regression_cover_the_truth():
    pulls = []
    for seed in range(12):
        generator = np.random.default_rng(seed)
        true, noise = generator.normal(size=(2, 60, 16, 16, 2))
        found = line_transfer(line_spectra(true, mixed_noise(true, noise), CELL, [0.5, 3.0, 7.0]), bootstrap_sets=300)
        pulls.append((found.coefficients - MIXING) / found.standard_error)
    pulls = np.array(pulls)
    assert np.sqrt(np.mean(pulls**2)) == pytest.approx(1.0, abs=0.25)


def mixed_noise(true, noise):
    return np.einsum("ij,nxyj->nxyi", MIXING, true) + noise


def test_maps_of_one_simulation_are_not_counted_as_independent():
    true, noise = np.random.default_rng(0).normal(size=(2, 40, 16, 16, 2))
    predicted = mixed_noise(true, noise)
    many = [np.repeat(maps, 4, axis=0) for maps in (true, predicted)]
    simulation = np.arange(160) // 4
    spectra = line_spectra(*many, CELL, [0.5, 7.0])
    honest, naive = line_transfer(spectra, simulation), line_transfer(spectra)
    np.testing.assert_allclose(honest.standard_error / naive.standard_error, 2.0, rtol=0.25)
    single = line_transfer(spectra, np.zeros(160, int))
    assert np.isnan(single.standard_error).all()
    np.testing.assert_allclose(single.coefficients, naive.coefficients, rtol=1e-9)
    assert isinstance(single, LineTransfer)


def test_mean_accuracy_by_hand():
    generator = np.random.default_rng(0)
    true = generator.uniform(1, 2, 500)
    error = 0.05 + 0.1 * generator.normal(size=500)
    found = mean_accuracy(true, true * (1 + error))
    assert found.median == pytest.approx(np.median(error))
    assert found.half_width == pytest.approx(0.1, rel=0.1)
    assert found.rms == pytest.approx(np.sqrt(np.mean(error**2)))
    assert found.correlation == pytest.approx(pearsonr(true, true * (1 + error)).statistic)
    # The error of the median of a normal distribution is sqrt(pi / 2) that of the mean.
    assert found.median_standard_error == pytest.approx(np.sqrt(np.pi / 2) * 0.1 / np.sqrt(500), rel=0.3)
    width = np.sqrt(0.0025 * 4 * 0.01 + 2 * 0.0001) / (2 * found.rms) / np.sqrt(500)
    assert found.rms_standard_error == pytest.approx(width, rel=0.2)
    scaled = mean_accuracy(1e-10 * true, 1e-10 * true * (1 + error))
    np.testing.assert_allclose(scaled, found, rtol=1e-9)
    repeated = np.arange(500) // 5
    true, error = np.repeat(true[:100], 5), np.repeat(error[:100], 5)
    honest = mean_accuracy(true, true * (1 + error), repeated)
    naive = mean_accuracy(true, true * (1 + error))
    assert honest.rms_standard_error / naive.rms_standard_error == pytest.approx(np.sqrt(5), rel=0.2)


def test_the_median_over_networks_is_taken_map_by_map():
    true = np.array([1.0, 2.0, 3.0])
    networks = np.array([[1.1, 2.0, 9.0], [1.3, 2.2, 3.0], [0.1, 2.4, 3.3]])
    assert mean_accuracy(true, networks)[:4] == mean_accuracy(true, [1.1, 2.2, 3.3])[:4]
    power = np.random.default_rng(0).uniform(1, 2, (3, 5, 4))
    one, other = power_residual(power[0], power), power_residual(power[0], np.median(power, axis=0))
    np.testing.assert_array_equal(one.mean, other.mean)


def test_constant_predictions_have_no_correlation():
    found = mean_accuracy([1.0, 2.0, 3.0], [0.1 + 0.2, 0.3, 0.3])
    assert np.isnan(found.correlation)
    assert np.isfinite(found[:3]).all()
    assert np.isnan(mean_accuracy([2.0], [1.0])[4:]).all()


def test_power_residual_is_the_upper_panel_of_figure_3():
    generator = np.random.default_rng(0)
    true, predicted = generator.uniform(1, 2, (2, 50, 6))
    found = power_residual(true, predicted)
    expected = (predicted - true) / true.std(axis=0)
    np.testing.assert_allclose(found.mean, expected.mean(axis=0))
    np.testing.assert_allclose(found.standard_deviation, expected.std(axis=0))
    assert np.isnan(power_residual(np.ones((3, 1)), np.ones((3, 1))).mean).all()


def test_means_of_maps():
    maps = intensities(4)[..., 0].astype(np.float32)
    np.testing.assert_allclose(mean_intensity(maps), maps.astype(np.float64).mean(axis=(1, 2)))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_apodised_white_noise_keeps_its_power(fraction):
    noise = 3.0 + 0.7 * np.random.default_rng(0).normal(size=(200, 48, 32))
    power = power_spectrum(apodize(noise, fraction), CELL).power
    np.testing.assert_allclose(power.mean(axis=0), 0.49 * CELL**2, rtol=0.12)
    tapered = apodize(noise, fraction)[:]
    np.testing.assert_allclose(tapered[:, 0], np.broadcast_to(noise.mean(axis=(1, 2))[:, None], (200, 32)))
    assert tapered.shape == noise.shape


def test_apodisation_removes_the_power_that_the_sides_scatter():
    """A cut-out of a larger smooth map that does wrap around, of which the spectrum is known."""
    size, cut = 768, 128
    k = np.hypot(*np.meshgrid(*(2 * np.pi * np.fft.fftfreq(size, CELL),) * 2, indexing="ij"))
    amplitude = np.sqrt(1.0 + 0.9 * np.where(k > 0, k, 1.0) ** -1.2) * np.exp(-0.5 * (1.2 * k) ** 2) * (k > 0)
    noise = np.random.default_rng(0).normal(size=(4, size, size))
    large = np.fft.ifft2(np.fft.fft2(noise) * amplitude).real
    pieces = np.concatenate(
        [large[:, i : i + cut, j : j + cut] for i in range(0, size, cut) for j in range(0, size, cut)]
    )
    edges = [0.45, 0.9, 1.8, 2.2]
    truth = power_spectrum(large, CELL, edges).power.mean(axis=0)
    plain, tapered = (power_spectrum(apodize(pieces, part), CELL, edges).power.mean(axis=0) for part in (0.0, 0.25))
    assert plain[2] > 1.7 * truth[2]
    np.testing.assert_allclose(tapered / truth, 1.0, atol=0.14)


def test_no_apodisation_leaves_maps_as_they_are():
    maps = intensities(2)[..., 0]
    assert apodize(maps, 0.0) is maps
    true = intensities(2)
    one, other = line_spectra(true, mixed(true), CELL), line_spectra(true, mixed(true), CELL, apodization=0.3)
    assert not np.allclose(one.true, other.true, rtol=0.01, atol=0.0)


def test_bands_are_named_after_their_modes():
    assert band_names() == ["k0.3", "k0.7", "k1.4"]
    for size in (64, 128, 256):
        k = power_spectrum(np.random.default_rng(0).normal(size=(1, size, size)), CELL, line_maps.BAND_EDGES).k
        np.testing.assert_allclose(k, [0.3, 0.7, 1.4], rtol=0.08)


def test_a_perfect_separation():
    true = intensities(5)
    scores = separation_scores(true, true, LINES, CELL, np.arange(5) // 2)
    for line, other in (LINES, LINES[::-1]):
        for band in ("k0.3", "k0.7", "k1.4"):
            for key in ("transfer", "correlation", "power_ratio", "response"):
                assert scores[f"{line}/{key}_{band}"] == pytest.approx(1.0)
            assert scores[f"{line}/leakage_from_{other}_{band}"] == pytest.approx(0.0, abs=1e-9)
            assert scores[f"{line}/power_residual_{band}"] == 0.0
        assert scores[f"{line}/mean/rms_fractional_error"] == scores[f"{line}/pixels/relative_l1"] == 0.0
        assert scores[f"{line}/mean/correlation"] == pytest.approx(1.0)
        assert scores[f"{line}/peaks/precision"] == scores[f"{line}/peaks/recall"] == 1.0
        assert scores[f"{line}/pdf_distance"] == scores[f"{line}/peaks/on_{other}"] == 0.0
    assert scores["sum/relative_rms"] == 0.0
    assert all(type(value) is float for value in scores.values())


def test_scores_are_those_of_the_single_functions():
    true = intensities(6)
    predicted = mixed(true, 0.3)
    simulation = np.arange(6) // 2
    scores = separation_scores(true, predicted, LINES, CELL, simulation, radius=3.0, peaks={"threshold": 2.0})
    for index, line in enumerate(LINES):
        one, other = true[..., index], predicted[..., index]
        accuracy = mean_accuracy(one.mean(axis=(1, 2)), other.mean(axis=(1, 2)), simulation)
        assert scores[f"{line}/mean/median_fractional_error"] == pytest.approx(accuracy.median)
        assert scores[f"{line}/mean/half_width_fractional_error_standard_error"] == pytest.approx(
            accuracy.half_width_standard_error
        )
        comparison = compare_spectra(one, other, CELL, line_maps.BAND_EDGES)
        assert scores[f"{line}/transfer_k0.7"] == pytest.approx(comparison.transfer[:, 1].mean())
        assert scores[f"{line}/correlation_k1.4"] == pytest.approx(comparison.correlation[:, 2].mean())
        ratio = comparison.predicted[:, 0].mean() / comparison.true[:, 0].mean()
        assert scores[f"{line}/power_ratio_k0.3"] == pytest.approx(ratio)
        peaks = score_peaks(find_peaks(one, 2.0), find_peaks(other, 2.0), 3.0, simulation=simulation)
        assert scores[f"{line}/peaks/precision"] == peaks.precision
        assert scores[f"{line}/peaks/recall_standard_error"] == peaks.recall_standard_error
        assert scores[f"{line}/peaks/true"] == peaks.true / 6
        assert scores[f"{line}/pdf_distance"] == distribution_distance(one, other)
        assert scores[f"{line}/pixels/relative_l1"] == pytest.approx(np.abs(one - other).sum() / one.sum())
        pixels = [pearsonr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)]
        assert scores[f"{line}/pixels/correlation"] == pytest.approx(np.mean(pixels))
    error = predicted.sum(-1) - true.sum(-1)
    assert scores["sum/relative_rms"] == pytest.approx(np.sqrt(np.mean(error**2)) / true.sum(-1).std())


def test_swapped_lines_show_as_leakage_and_as_peaks_of_the_other_line():
    true = intensities(6)
    scores = separation_scores(true, true[..., ::-1], LINES, CELL)
    assert scores["halpha/leakage_from_oiii_k0.7"] == pytest.approx(1.0)
    assert scores["halpha/response_k0.7"] == pytest.approx(0.0, abs=1e-9)
    assert scores["oiii/peaks/on_halpha"] > 0.95
    assert scores["oiii/peaks/precision"] < 0.05


def test_predicted_peaks_can_be_measured_by_the_sigma_of_the_truth():
    true = intensities(6)
    own = separation_scores(true, 0.5 * true, LINES, CELL)
    shared = separation_scores(true, 0.5 * true, LINES, CELL, peaks={"reference": "true"})
    assert own["halpha/peaks/recall"] == 1.0
    assert shared["halpha/peaks/recall"] < 0.7
    assert shared["halpha/peaks/true"] == own["halpha/peaks/true"]


def test_three_lines_one_map_and_a_constant_prediction():
    true = intensities(1, lines=3)
    names = ("halpha", "oiii", "oii")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = separation_scores(true, np.full_like(true, 5e-10), names, CELL)
    assert scores["oii/peaks/predicted"] == 0.0
    assert scores["oii/peaks/recall"] == 0.0
    for key in ("peaks/precision", "correlation_k0.3", "pixels/correlation", "mean/correlation", "peaks/on_oiii"):
        assert np.isnan(scores[f"halpha/{key}"])
    assert scores["halpha/transfer_k0.3"] == scores["halpha/leakage_from_oii_k0.3"] == 0.0
    assert "halpha/power_residual_k0.3" not in scores
    assert not any(key.endswith("standard_error") for key in scores)


def test_other_bands():
    true = intensities(2)
    scores = separation_scores(true, true, LINES, CELL, band_edges=(0.5, 1.0))
    assert scores["halpha/transfer_k0.78"] == pytest.approx(1.0)
    assert "halpha/transfer_k0.3" not in scores


@pytest.mark.parametrize(("size", "bands"), [(16, ["k1.4"]), (32, ["k0.7", "k1.4"]), (64, ["k0.3", "k0.7", "k1.4"])])
def test_bands_that_small_maps_do_not_reach_are_left_out(size, bands):
    true = intensities(2)[:, :size, :size]
    scores = separation_scores(true, true, LINES, CELL)
    assert [key.split("_")[1] for key in scores if key.startswith("oiii/transfer") and key.count("_") == 1] == bands
    coarse = separation_scores(true, true, LINES, 2.0, band_edges=(0.45, 0.9, 2.3, 4.0))
    assert "oiii/transfer_k3.2" not in coarse


def test_ensembles():
    true = intensities(8)
    members = [mixed(true, 0.6, seed) for seed in (1, 2, 3)]
    scores = ensemble_scores(true, members, LINES, np.arange(8), peaks={"threshold": 2.0})
    for index, line in enumerate(LINES):
        curve = agreement_curve(
            find_peaks(true[..., index], 2.0), [find_peaks(maps[..., index], 2.0) for maps in members]
        )
        for row in range(3):
            assert scores[f"{line}/peaks/precision_{row + 1}_of_3"] == curve.precision[row]
            assert scores[f"{line}/peaks/recall_{row + 1}_of_3"] == curve.recall[row]
        means = np.median([maps[..., index].mean(axis=(1, 2)) for maps in members], axis=0)
        error = means / true[..., index].mean(axis=(1, 2)) - 1
        assert scores[f"{line}/mean/median_fractional_error_of_median"] == pytest.approx(np.median(error))
    assert "halpha/peaks/recall_3_of_3_standard_error" in scores
    assert not any("power" in key for key in scores)


def test_medians_of_power_over_networks():
    true = intensities(4)
    factors = (0.5, 0.9, 3.0)
    scores = ensemble_scores(true, [factor * true for factor in factors], LINES, cell_size=CELL)
    single = separation_scores(true, 0.9 * true, LINES, CELL)
    for line in LINES:
        for band in band_names():
            assert scores[f"{line}/power_ratio_of_median_{band}"] == pytest.approx(0.81)
            expected = single[f"{line}/power_residual_{band}"]
            assert scores[f"{line}/power_residual_of_median_{band}"] == pytest.approx(expected)


MAPS = intensities(3, 64)
SMALL = MAPS[:, :16, :16]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: apodize(SMALL[..., 0], 0.6),
            r"fraction: expected a part of the side of the map, from 0 to 0.5, got 0.6",
        ),
        (
            lambda: mean_accuracy([[1.0]], [1.0]),
            r"true: expected positive means of shape \(n_maps,\), got shape \(1, 1\)",
        ),
        (
            lambda: mean_accuracy([1.0, 0.0], [1.0, 1.0]),
            r"true: expected positive means.* with 1 that are not positive",
        ),
        (lambda: mean_accuracy([1.0, 2.0], [1.0]), r"predicted: expected finite means of shape \(2,\) or .* \(1,\)"),
        (lambda: mean_accuracy([1.0, 2.0], [1.0, np.nan]), r"predicted: expected finite means"),
        (lambda: mean_accuracy([1.0], [1.0], [0.5]), r"simulation: expected one integer id per map"),
        (
            lambda: line_spectra(SMALL[0], SMALL[0], CELL),
            r"true: expected shape \(n_maps, nx, ny, n_lines\).*numpy.stack",
        ),
        (
            lambda: line_spectra(SMALL, SMALL[:2], CELL),
            r"predicted: expected the shape of true, .* got \(2, 16, 16, 2\)",
        ),
        (lambda: line_spectra(SMALL, SMALL * np.nan, CELL), r"predicted: expected finite values"),
        (lambda: line_spectra(SMALL, SMALL, 0.0), r"cell_size: expected a positive size"),
        (lambda: line_spectra(SMALL, SMALL, CELL, apodization=1), r"fraction: expected a part of the side"),
        (lambda: line_transfer(line_spectra(SMALL, SMALL, CELL), [1]), r"simulation: expected one integer id per map"),
        (lambda: power_residual([[1.0]], [[1.0]]), r"true: expected finite power of at least two maps"),
        (
            lambda: power_residual(np.ones((2, 3)), np.ones((2, 2))),
            r"predicted: expected finite power of shape \(2, 3\)",
        ),
        (lambda: separation_scores(MAPS, MAPS, ("halpha",), CELL), r"lines: expected 2 different names.* \['halpha'\]"),
        (lambda: separation_scores(MAPS, MAPS, ("a", "a"), CELL), r"lines: expected 2 different names"),
        (
            lambda: separation_scores(SMALL, SMALL, LINES, CELL, band_edges=(0.1, 0.2, 0.5)),
            r"band_edges: expected at least one band between 0.982 and 11.1 per arcmin.*\[0.1, 0.2, 0.5\]",
        ),
        (
            lambda: separation_scores(MAPS, MAPS, LINES, CELL, band_edges=(1.05, 1.09, 1.5)),
            r"edges: expected modes in every",
        ),
        (lambda: band_names([0.5]), r"band_edges: expected at least two rising wavenumbers"),
        (lambda: band_names([1.0, 1.001, 1.002]), r"band_edges: expected bands whose mean wavenumbers differ"),
        (
            lambda: separation_scores(MAPS, MAPS, LINES, CELL, peaks={"reference": MAPS}),
            r'peaks: expected the reference None or "true"',
        ),
        (lambda: ensemble_scores(MAPS, [], LINES), r"predictions: expected the maps of at least one network"),
        (lambda: ensemble_scores(MAPS, [MAPS[:2]], LINES), r"predicted: expected the shape of true"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_maps_that_are_no_arrays():
    with pytest.raises(TypeError, match=r"true: expected an array of maps.*use numpy.asarray"):
        line_spectra(SMALL.tolist(), SMALL, CELL)
    with pytest.raises(TypeError, match=r"true: expected real numbers, got complex128"):
        line_spectra(SMALL * 1j, SMALL, CELL)


def test_examples():
    assert doctest.testmod(line_maps).failed == 0
