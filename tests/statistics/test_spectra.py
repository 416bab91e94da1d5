import doctest
import itertools
import tracemalloc

import h5py
import numpy as np
import pytest
from powerbox import get_power
from scipy.stats import kstest

from keras_cosmo.statistics import spectra
from keras_cosmo.statistics.spectra import (
    MapSummary,
    SpectrumComparison,
    compare_spectra,
    map_batches,
    over_maps,
    power_spectrum,
    wavenumber_edges,
)

CELL = 1.5


def gaussian_maps(count, shape, spectrum, cell_size=CELL, seed=0):
    """Gaussian maps of a spectrum given as a function of k, by filtering white noise."""
    noise = np.random.default_rng(seed).normal(size=(count, *shape))
    k = np.hypot(*np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n, cell_size) for n in shape), indexing="ij"))
    amplitude = np.sqrt(spectrum(np.where(k > 0, k, 1.0)) / cell_size**2) * (k > 0)
    return np.fft.ifft2(np.fft.fft2(noise) * amplitude).real


def red(k):
    return 3.0 * (k / 0.3) ** -1.7


@pytest.mark.parametrize("shape", [(32, 32), (33, 31), (24, 60), (60, 25)])
def test_powerbox_agrees_bin_by_bin(shape):
    first = gaussian_maps(2, shape, red)
    second = first + gaussian_maps(2, shape, lambda k: 0.5 * red(k), seed=1) + 0.3
    # Edges that no mode lies on: powerbox leaves modes on the last edge out.
    edges = wavenumber_edges(shape, CELL) * (1 + 1e-6)
    comparison = compare_spectra(first, second, CELL, edges)
    spectrum = power_spectrum(second, CELL, edges)
    np.testing.assert_array_equal(spectrum.power, comparison.predicted)
    for index, (one, other) in enumerate(zip(first, second, strict=True)):
        box = {"boxlength": np.array(shape) * CELL, "bins": edges, "dimensionless": False, "ignore_zero_mode": True}
        for values, maps in ((comparison.true, (one, one)), (comparison.cross, (one, other))):
            theirs = get_power(maps[0], deltax2=maps[1], **box)
            np.testing.assert_allclose(values[index], theirs.power, rtol=1e-9, atol=1e-9 * theirs.power.max())
        np.testing.assert_allclose(spectrum.k, theirs.bin_avg, rtol=1e-12)
        np.testing.assert_array_equal(spectrum.modes, theirs.nsamples)


@pytest.mark.parametrize(("mode", "bin_"), [((5, 0), 5), ((0, 5), 5), ((3, 4), 5), ((-3, 4), 5), ((16, 0), 16)])
def test_a_plane_wave_lands_in_one_bin(mode, bin_):
    n, amplitude = 32, 0.7
    x, y = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    wave = 4.0 + amplitude * np.cos(2 * np.pi * (mode[0] * x + mode[1] * y) / n)
    spectrum = power_spectrum(wave[None], CELL)
    # Two modes of |F|^2 / area = A^2 / 4 * area each; the Nyquist wave is one mode of A^2 * area.
    total = amplitude**2 * (n * CELL) ** 2 * (1.0 if mode[0] == n // 2 else 0.5)
    expected = np.zeros(n // 2)
    expected[bin_ - 1] = total / spectrum.modes[bin_ - 1]
    np.testing.assert_allclose(spectrum.power[0], expected, rtol=1e-12, atol=1e-12 * total)
    fundamental = 2 * np.pi / (n * CELL)
    assert abs(spectrum.k[bin_ - 1] - bin_ * fundamental) < 0.5 * fundamental


def test_white_noise_has_the_variance_times_the_cell_area():
    maps = 0.8 * np.random.default_rng(0).normal(size=(200, 32, 48))
    _, power, modes = power_spectrum(maps, CELL)
    expected = 0.8**2 * CELL**2
    # Half of the modes are independent; the power of one scatters by itself.
    error = expected / np.sqrt(200 * modes / 2)
    pulls = (power.mean(axis=0) - expected) / error
    assert np.abs(pulls).max() < 4
    assert kstest(pulls, "norm").pvalue > 1e-3
    # The scatter among maps is that of the modes, also where the half plane has single columns.
    np.testing.assert_allclose(power.std(axis=0), expected / np.sqrt(modes / 2), rtol=0.25)


def test_a_gaussian_field_of_a_known_spectrum():
    maps = gaussian_maps(100, (64, 64), red)
    spectrum = power_spectrum(maps, CELL)
    mean = spectrum.power.mean(axis=0)
    # The mean of the spectrum over the modes of a bin, from the unfolded grid.
    grid = 2 * np.pi * np.fft.fftfreq(64, CELL)
    k = np.hypot(grid[:, None], grid)
    edges = wavenumber_edges((64, 64), CELL)
    expected = [red(k[(k >= low) & (k < high)]).mean() for low, high in itertools.pairwise(edges)]
    assert np.abs((mean / expected - 1) * np.sqrt(100 * spectrum.modes / 2)).max() < 4
    assert np.abs(mean / red(spectrum.k) - 1)[5:].max() < 0.06


def test_parseval():
    maps = gaussian_maps(4, (20, 30), red) + 5.0
    everything = power_spectrum(maps, CELL, [0.0, 10.0])
    assert everything.modes.tolist() == [20 * 30 - 1]
    area = 20 * 30 * CELL**2
    np.testing.assert_allclose(everything.power[:, 0] * everything.modes / area, maps.var(axis=(1, 2)), rtol=1e-12)


@pytest.mark.parametrize("shape", [(16, 16), (17, 17), (16, 40), (15, 8)])
def test_default_edges(shape):
    edges = wavenumber_edges(shape, CELL)
    fundamental, nyquist = 2 * np.pi / (max(shape) * CELL), np.pi / CELL
    np.testing.assert_allclose(np.diff(edges), fundamental)
    np.testing.assert_allclose(edges[0], fundamental / 2)
    assert nyquist - fundamental / 2 < edges[-1] - fundamental / 2 + 1e-9 <= nyquist + 1e-8
    spectrum = power_spectrum(np.random.default_rng(0).normal(size=(1, *shape)), CELL)
    assert np.all((spectrum.k > edges[:-1]) & (spectrum.k < edges[1:]))


@pytest.mark.parametrize("cell", [0.3, 0.7, 0.9, 1.1, 1.5, 2.3])
@pytest.mark.parametrize("n", [10, 12, 14, 24])
def test_modes_on_an_edge_belong_to_the_bin_above_and_on_the_last_edge_to_the_last(n, cell):
    """Whatever way the wavenumbers were rounded: with 12 cells of 0.3, all on the axes come out below their edge."""
    edges = 2 * np.pi / (n * cell) * np.arange(1, n // 2 + 1)
    spectrum = power_spectrum(np.random.default_rng(0).normal(size=(1, n, n)), cell, edges)
    squares = np.rint(np.add.outer(np.fft.fftfreq(n, 1 / n) ** 2, np.fft.fftfreq(n, 1 / n) ** 2))
    expected = [np.sum((squares >= m**2) & (squares < (m + 1) ** 2)) for m in range(1, n // 2)]
    expected[-1] += np.sum(squares == (n // 2) ** 2)
    assert spectrum.modes.tolist() == expected


def test_an_offset_of_the_maps_costs_no_digits():
    # Multiples of 2^-10 stay exact after adding 2^30.
    maps = np.round(gaussian_maps(2, (30, 30), red) * 2**10) / 2**10
    expected, found = power_spectrum(maps, CELL).power, power_spectrum(maps + 2.0**30, CELL).power
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    values = np.round(np.random.default_rng(0).normal(size=(40, 3)) * 2**10) / 2**10
    ids = np.arange(40) // 4
    for name in ("standard_deviation", "standard_error"):
        one, other = (getattr(over_maps(table, ids), name) for table in (values, values + 2.0**30))
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_scaled_maps_have_their_scale_as_transfer():
    maps = gaussian_maps(3, (32, 32), red)
    comparison = compare_spectra(maps, 0.25 * maps + 3.0, CELL)
    np.testing.assert_allclose(comparison.transfer, 0.25, rtol=1e-9)
    np.testing.assert_allclose(comparison.correlation, 1.0, rtol=1e-9)
    np.testing.assert_allclose(compare_spectra(maps, -maps, CELL).correlation, -1.0, rtol=1e-9)


def test_independent_maps_are_uncorrelated_within_the_error():
    first, second = gaussian_maps(300, (32, 32), red), gaussian_maps(300, (32, 32), red, seed=1)
    comparison = compare_spectra(first, second, CELL)
    summary = over_maps(comparison.correlation)
    assert np.abs(summary.mean / summary.standard_error).max() < 4
    modes = power_spectrum(first[:1], CELL).modes
    # A bin of n modes holds n independent pairs of real numbers, whose correlation scatters by 1 / sqrt(n).
    np.testing.assert_allclose(summary.standard_deviation[2:], 1 / np.sqrt(modes[2:]), rtol=0.15)


def test_a_known_correlation_is_measured():
    maps, noise = gaussian_maps(100, (32, 32), red), gaussian_maps(100, (32, 32), red, seed=1)
    summary = over_maps(compare_spectra(maps, 0.8 * maps + 0.6 * noise, CELL).correlation)
    assert np.abs((summary.mean - 0.8) / summary.standard_error)[5:].max() < 4.5


def test_correlation_does_not_depend_on_scale_or_orientation():
    first = gaussian_maps(2, (24, 24), red)
    second = first + gaussian_maps(2, (24, 24), red, seed=1)
    expected = compare_spectra(first, second, CELL)
    np.testing.assert_allclose(
        compare_spectra(1e-6 * first, 1e6 * second - 40, CELL).correlation, expected.correlation, atol=1e-8
    )
    for turn in range(4):
        for flip in (False, True):
            one, other = (np.rot90(maps, turn, axes=(1, 2)) for maps in (first, second))
            one, other = (maps[:, ::-1] if flip else maps for maps in (one, other))
            turned = compare_spectra(one, other, CELL)
            for name in ("true", "predicted", "cross", "correlation", "transfer"):
                np.testing.assert_allclose(getattr(turned, name), getattr(expected, name), rtol=1e-8, atol=1e-10)
    rolled = compare_spectra(np.roll(first, (5, -3), (1, 2)), np.roll(second, (5, -3), (1, 2)), CELL)
    np.testing.assert_allclose(rolled.cross, expected.cross, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7e8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_prediction_has_no_power_and_no_correlation(value, dtype):
    maps = gaussian_maps(2, (30, 30), red)
    predicted = np.full(maps.shape, value, dtype)
    comparison = compare_spectra(maps, predicted, CELL)
    assert np.all(comparison.predicted == 0)
    assert np.all(comparison.transfer == 0)
    assert np.isnan(comparison.correlation).all()
    swapped = compare_spectra(predicted, maps, CELL)
    assert np.isnan(swapped.transfer).all()
    assert np.isnan(swapped.correlation).all()


def test_a_band_without_power_has_no_correlation():
    """A prediction cut off in Fourier space leaves rounding there, which is no signal."""
    maps = gaussian_maps(2, (32, 32), red)
    half = 8 * 2 * np.pi / (32 * CELL)
    cut = gaussian_maps(2, (32, 32), lambda k: red(k) * (k < half))
    comparison = compare_spectra(maps, cut + 100.0, CELL)
    known = comparison.k < half
    assert np.isfinite(comparison.correlation[:, known]).all()
    assert np.isnan(comparison.correlation[:, comparison.k > half * 1.1]).all()


def test_summary_over_maps_by_hand():
    values = np.array([[1.0, 1.0], [3.0, np.nan], [5.0, np.nan], [9.0, np.nan]])
    summary = over_maps(values, np.array([4, 4, 2, 2]))
    np.testing.assert_allclose(summary.mean, [4.5, 1.0])
    np.testing.assert_allclose(summary.standard_deviation, [np.std([1, 3, 5, 9]), 0.0])
    # Means 2 and 7 of the two simulations: sample deviation 5 / sqrt(2), error 2.5; one simulation has none.
    np.testing.assert_allclose(summary.standard_error, [2.5, np.nan])
    assert summary.maps.tolist() == [4, 1]
    nothing = over_maps([[np.nan], [np.nan]])
    assert np.isnan([nothing.mean, nothing.standard_deviation, nothing.standard_error]).all()
    assert nothing.maps.tolist() == [0]


def test_maps_of_one_simulation_are_not_counted_as_independent():
    generator = np.random.default_rng(0)
    shared = np.repeat(generator.normal(size=(50, 1)), 8, axis=0)
    ids = np.repeat(np.arange(50), 8)
    summary = over_maps(40.0 + shared + 0.1 * generator.normal(size=(400, 1)), ids)
    naive = over_maps(40.0 + shared)
    np.testing.assert_allclose(summary.standard_error / naive.standard_error, np.sqrt(8), rtol=0.05)
    np.testing.assert_allclose(summary.standard_deviation, shared.std(), rtol=0.05)


def test_values_at_given_wavenumbers():
    k = np.array([0.1, 0.2, 0.4])
    comparison = SpectrumComparison(
        k, np.array([[4.0, 2.0, 1.0]]), np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, -1.0, 0.0]])
    )
    there = comparison.at([0.1, 0.15, 0.3, 0.4])
    np.testing.assert_array_equal(there.k, [0.1, 0.15, 0.3, 0.4])
    np.testing.assert_allclose(there.true, [[4.0, 3.0, 1.5, 1.0]])
    np.testing.assert_allclose(there.predicted, [[1.0, 1.5, 2.5, 3.0]])
    np.testing.assert_allclose(there.cross, [[1.0, 0.0, -0.5, 0.0]], atol=1e-15)
    assert comparison.at(0.2).correlation == comparison.correlation[0, 1]
    single = SpectrumComparison(k[:1], *(np.ones((2, 1)),) * 3)
    np.testing.assert_array_equal(single.at(0.1).true, [[1.0], [1.0]])
    maps = gaussian_maps(5, (32, 32), red)
    noisy = compare_spectra(maps, maps + gaussian_maps(5, (32, 32), red, seed=1), CELL)
    assert np.all(np.abs(noisy.at(np.linspace(noisy.k[0], noisy.k[-1], 99)).correlation) <= 1 + 1e-12)


def test_datasets_are_read_in_batches_and_agree_with_arrays(tmp_path, monkeypatch):
    maps = (100 * gaussian_maps(7, (16, 20), red)).astype(np.float16)
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["maps"] = maps
        expected = compare_spectra(maps, maps[::-1], CELL)
        monkeypatch.setattr(spectra, "_BATCH_PIXELS", 3 * 16 * 20)
        assert [len(batch) for _, batch in map_batches(file["maps"])] == [3, 3, 1]
        found = compare_spectra(file["maps"], maps[::-1], CELL)
        np.testing.assert_array_equal(power_spectrum(file["maps"], CELL).power, expected.true)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_memory_does_not_grow_with_the_number_of_maps():
    class Endless:
        """Maps that exist only when read."""

        shape, dtype = (4000, 100, 100), np.dtype(np.float32)

        def __getitem__(self, rows):
            return np.ones((len(range(*rows.indices(4000))), 100, 100), np.float32)

    tracemalloc.start()
    try:
        power_spectrum(Endless(), CELL, [0.01, 0.5, 2.0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 * 2**20


def test_integer_maps_are_maps():
    maps = np.random.default_rng(0).integers(0, 9, (2, 8, 8))
    np.testing.assert_array_equal(power_spectrum(maps, CELL).power, power_spectrum(maps.astype(float), CELL).power)


MAPS = np.random.default_rng(0).normal(size=(3, 8, 8))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power_spectrum(MAPS[0], CELL), r"maps: expected shape \(n_maps, nx, ny\).*\(8, 8\).*values\[None\]"),
        (lambda: power_spectrum(MAPS[..., None], CELL), r"maps: expected shape.*channel\]"),
        (lambda: power_spectrum(MAPS[:0], CELL), r"maps: expected shape .* nothing empty"),
        (lambda: power_spectrum(MAPS[:, :1], CELL), r"maps: expected at least 2 x 2 cells, got 1 x 8"),
        (lambda: power_spectrum(MAPS * [[[1]], [[np.nan]], [[1]]], CELL), r"maps: .* infinity in map 1"),
        (lambda: power_spectrum(MAPS, 0.0), r"cell_size: expected a positive size.* got 0"),
        (lambda: power_spectrum(MAPS, np.nan), r"cell_size: expected a positive size.* got nan"),
        (lambda: power_spectrum(MAPS, CELL, [1.0]), r"edges: expected at least two rising.*\[1.0\]"),
        (lambda: power_spectrum(MAPS, CELL, [1.0, 1.0]), r"edges: expected at least two rising"),
        (lambda: power_spectrum(MAPS, CELL, [-1.0, 1.0]), r"edges: expected wavenumbers of at least 0, got -1"),
        (
            lambda: power_spectrum(MAPS, CELL, [0.0, 0.1, 1.0, 9.0, 10.0]),
            r"edges: .* none from 0 to 0.1 \(2 of 4 bins .* run from 0.5236 to 2.962. Take wider bins",
        ),
        (
            lambda: compare_spectra(MAPS, MAPS[:2], CELL),
            r"predicted: expected the shape of true, .* got \(2, 8",
        ),
        (lambda: compare_spectra(MAPS, MAPS * np.inf, CELL), r"predicted: expected finite values.* map 0"),
        (lambda: compare_spectra(MAPS, MAPS, CELL).at([0.6, 9.0]), r"k: expected wavenumbers from .* got \[0.6, 9.0\]"),
        (lambda: compare_spectra(MAPS, MAPS, CELL).at(np.nan), r"k: expected wavenumbers from"),
        (lambda: over_maps([1.0, 2.0]), r"values: expected .* \(n_maps, n\).* got shape \(2,\)"),
        (lambda: over_maps([[np.inf]]), r"values: expected finite values or NaN.* with infinities"),
        (lambda: over_maps([[1.0], [2.0]], [1]), r"simulation: expected one integer id per map, shape \(2,\)"),
        (lambda: over_maps([[1.0], [2.0]], [1.0, 2.0]), r"simulation: .* of float64"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_maps_that_are_no_real_numbers():
    with pytest.raises(TypeError, match=r"maps: expected real numbers, got complex128"):
        power_spectrum(MAPS * 1j, CELL)
    with pytest.raises(TypeError, match=r"true: expected an array of maps.*use numpy.asarray"):
        compare_spectra(MAPS.tolist(), MAPS, CELL)


def test_examples():
    assert doctest.testmod(spectra).failed == 0
    assert isinstance(over_maps([[1.0]]), MapSummary)
