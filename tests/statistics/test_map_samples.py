import numpy as np
import pytest
from scipy import stats

from keras_cosmo.statistics.map_samples import (
    check_samples,
    compare_moments,
    compare_peak_counts,
    compare_pixels,
    compare_sample_spectra,
    compare_spectra_by_simulation,
    compare_statistics,
    memorization_test,
    nearest_training_maps,
)
from keras_cosmo.statistics.peaks import find_peaks
from keras_cosmo.statistics.spectra import power_spectrum


def fields(count, size=16, seed=0, slope=-2.0, width=None):
    """Periodic Gaussian maps; positive ones are 10 to the power of these."""
    shape = (size, width or size)
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    amplitude = (0.03 + frequency) ** (slope / 2)
    white = np.random.default_rng(seed).standard_normal((count, *shape))
    maps = np.fft.ifft2(np.fft.fft2(white) * amplitude).real
    return maps / maps.std()


def simulations(count, maps_each=15, seed=0):
    """Maps of simulations that differ in amplitude and share a part of the field, and their ids."""
    generator = np.random.default_rng(seed)
    amplitude = generator.uniform(0.5, 1.5, count)[:, None, None, None]
    maps = fields(count * maps_each, seed=seed + 1).reshape(count, maps_each, 16, 16)
    shared = fields(count, seed=seed + 2)[:, None]
    maps = amplitude * (maps + shared)
    return maps.reshape(-1, 16, 16), np.repeat(np.arange(count) * 3 + 5, maps_each)


def test_counts_of_failed_maps():
    maps = np.ones((7, 3, 3), np.float32)
    maps[0, 1, 1], maps[1, 0, 0], maps[2, 2, 2], maps[3, 0, 1], maps[4, 0, 0] = np.nan, -np.inf, 0.0, -1.0, 50.0
    check = check_samples(maps, low=0.5, high=10.0)
    assert check.counts == {"maps": 7, "not_finite": 2, "not_positive": 2, "out_of_range": 3, "used": 5}
    assert check.failure_rate == pytest.approx(5 / 7)
    assert check_samples(maps, log10=True).counts["used"] == 3
    np.testing.assert_array_equal(check.finite, [False, False, *[True] * 5])
    np.testing.assert_array_equal(check.within, [*[False] * 5, True, True])


def test_spectra_equal_their_definition():
    true, generated = 10 ** fields(30, seed=1), 10 ** (1.3 * fields(20, seed=2))
    found = compare_sample_spectra(true, generated, 0.5, bootstrap_sets=10)
    one, other = (power_spectrum(np.log10(maps), 0.5) for maps in (true, generated))
    np.testing.assert_array_equal(found.k, one.k)
    np.testing.assert_allclose(found.true_mean, one.power.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.true_scatter, one.power.std(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.generated_mean, other.power.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.generated_scatter, other.power.std(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.mean_error, other.power.mean(axis=0) / one.power.mean(axis=0) - 1, rtol=1e-8)
    np.testing.assert_allclose(found.scatter_error, other.power.std(axis=0) / one.power.std(axis=0) - 1, rtol=1e-8)
    linear = compare_sample_spectra(true, generated, 0.5, log10=False, bootstrap_sets=10)
    np.testing.assert_allclose(linear.true_mean, power_spectrum(true, 0.5).power.mean(axis=0), rtol=1e-10)


def test_failed_maps_are_left_out_and_counted():
    true, generated = 10 ** fields(30, seed=1), 10 ** fields(20, seed=2)
    spoiled = np.concatenate([generated, generated[:3]])
    spoiled[20, 0, 0], spoiled[21, 3, 3], spoiled[22] = np.nan, -1.0, np.inf
    ids, true_ids = np.arange(23) // 3, np.arange(30) // 3
    expected = compare_sample_spectra(true, generated, 1.0, true_ids, ids[:20], high=1e4, bootstrap_sets=20)
    found = compare_sample_spectra(true, spoiled, 1.0, true_ids, ids, high=1e4, bootstrap_sets=20)
    for one, other in zip(expected[1:-1], found[1:-1], strict=True):
        np.testing.assert_array_equal(one, other)
    outside = int((generated > 1e4).any(axis=(1, 2)).sum())
    counts = {"maps": 23, "not_finite": 2, "not_positive": 1, "out_of_range": outside, "used": 20}
    assert found.check.counts == counts
    for function in (compare_moments, compare_peak_counts, compare_pixels):
        assert function(true, spoiled, high=1e4, bootstrap_sets=2).check.counts == counts
    by_simulation = compare_spectra_by_simulation(true, spoiled, 1.0, true_ids, ids, high=1e4)
    assert by_simulation.check.counts == counts
    assert nearest_training_maps(spoiled, true, high=1e4).check.counts == counts


@pytest.mark.parametrize("paired", [True, False])
def test_bootstrap_errors_equal_the_scatter_of_repetitions(paired):
    """Simulations of different amplitude that share a field: repeated with new seeds."""
    errors, values = [], []
    for seed in range(60):
        true, ids = simulations(20, 5, seed=10 * seed)
        other, _ = simulations(20, 5, seed=10 * seed if paired else 10 * seed + 100_000)
        if paired:
            # The same amplitudes, and as many maps whose fields are their own.
            scale = true.reshape(20, -1).std(axis=1)[:, None, None, None]
            other = (scale * fields(100, seed=10 * seed + 7).reshape(20, 5, 16, 16)).reshape(-1, 16, 16)
        found = compare_sample_spectra(
            true, other, 1.0, ids, ids if paired else ids + 1000, log10=False, bootstrap_sets=100, seed=seed
        )
        errors.append([found.mean_error_standard_error, found.scatter_error_standard_error])
        values.append([found.mean_error, found.scatter_error])
    ratio = np.mean(errors, axis=0) / np.std(values, axis=0)
    np.testing.assert_allclose(ratio.mean(axis=1), 1, atol=0.25)


def test_errors_need_more_than_one_simulation():
    maps = 10 ** fields(6)
    found = compare_sample_spectra(maps, maps, 1.0, np.zeros(6, int))
    assert np.isnan(found.mean_error_standard_error).all()
    np.testing.assert_allclose(found.mean_error, 0, atol=1e-12)
    pixels = compare_pixels(maps, maps, np.zeros(6, int), bootstrap_sets=5)
    assert np.isnan(pixels.kolmogorov_smirnov_expected)
    assert np.isnan(pixels.true_standard_error).all()


def test_spectra_by_simulation():
    true, ids = simulations(4, 6)
    order = np.random.default_rng(0).permutation(24)
    generated = np.concatenate([2.0 * true[ids == 5], 3.0 * true[ids == 11], true[ids == 14][:1]])
    of_generated = np.array([5] * 6 + [11] * 6 + [14])
    generated[12, 0, 0] = np.nan
    found = compare_spectra_by_simulation(true[order], generated, 1.0, ids[order], of_generated, log10=False)
    np.testing.assert_array_equal(found.simulation, [5, 8, 11, 14])
    power = power_spectrum(true, 1.0).power.reshape(4, 6, -1)
    np.testing.assert_allclose(found.true_mean, power.mean(axis=1), rtol=1e-10)
    scatter = power.std(axis=1, ddof=1)
    np.testing.assert_allclose(found.true_scatter, scatter, rtol=1e-10)
    np.testing.assert_allclose(found.mean_error[[0, 2]], [[3.0] * 8, [8.0] * 8], rtol=1e-10)
    np.testing.assert_allclose(found.generated_scatter[0], 4 * scatter[0], rtol=1e-10)
    np.testing.assert_allclose(found.deviation[0], 3 * power.mean(axis=1)[0] / scatter[0], rtol=1e-8)
    assert np.isnan(found.mean_error[[1, 3]]).all()
    # Simulations 5 and 11 alone have generated maps, of 4 and 9 times the power.
    variance = scatter[[0, 2]] ** 2
    expected = np.sqrt((16 * variance[0] + 81 * variance[1]) / variance.sum(axis=0)) - 1
    np.testing.assert_allclose(found.scatter_error, expected, rtol=1e-8)


def test_scatter_of_a_single_map_is_not_known():
    maps, ids = fields(12), np.repeat(np.arange(4), 3)
    found = compare_spectra_by_simulation(maps, maps[::3], 1.0, ids, np.arange(4), log10=False)
    assert np.isfinite(found.generated_mean).all()
    assert np.isnan(found.generated_scatter).all()
    assert np.isnan(found.scatter_error).all()


def test_scatter_of_equal_distributions_is_equal():
    """Fifteen true maps of each simulation and five generated ones, as in the paper's geometry."""
    count = 400
    errors = []
    for seed in range(3):
        true, generated = fields(15 * count, seed=seed), fields(5 * count, seed=seed + 100)
        ids = np.arange(count)
        found = compare_spectra_by_simulation(true, generated, 1.0, np.repeat(ids, 15), np.repeat(ids, 5), log10=False)
        errors.append(found.scatter_error)
    errors = np.ravel(errors)
    # With population standard deviations the mean is -0.07.
    assert abs(errors.mean()) < 3 * errors.std() / np.sqrt(len(errors))
    assert errors.std() / np.sqrt(len(errors)) < 0.01


def test_moments_and_peaks():
    true, generated = 10 ** fields(40, seed=1), 10 ** (2 * fields(30, seed=2) + 1)
    found = compare_moments(true, generated, bootstrap_sets=10)
    assert found.names == ("mean", "standard_deviation", "skewness", "kurtosis")
    log10 = np.log10(true).reshape(40, -1)
    table = np.stack([log10.mean(1), log10.std(1), stats.skew(log10, axis=1), stats.kurtosis(log10, axis=1)])
    np.testing.assert_allclose(found.true_mean, table.mean(axis=1), rtol=1e-8)
    np.testing.assert_allclose(found.true_scatter, table.std(axis=1), rtol=1e-8)
    np.testing.assert_allclose(found.mean_error, (found.generated_mean - found.true_mean) / found.true_scatter)
    # Twice the amplitude moves the mean by one and doubles the standard deviation.
    np.testing.assert_allclose(found.generated_mean[:2] - 2 * found.true_mean[:2], [1, 0], atol=0.6)
    peaks = compare_peak_counts(true, generated, (2.0, 1.0), bootstrap_sets=10)
    assert peaks.names == ("peaks above 2 sigma", "peaks above 1 sigma")
    expected = [find_peaks(np.log10(true), threshold).counts for threshold in (2.0, 1.0)]
    np.testing.assert_allclose(peaks.true_mean, np.mean(expected, axis=1))
    np.testing.assert_allclose(peaks.true_scatter, np.std(expected, axis=1))
    own = compare_statistics(lambda maps: maps.max(axis=(1, 2))[:, None], ["highest"], true, generated)
    assert own.true_mean == pytest.approx(log10.max(axis=1).mean())


def test_pixel_distances_equal_scipy():
    true, generated = 10 ** fields(20, seed=1), 10 ** (1.2 * fields(30, seed=2) + 0.1)
    found = compare_pixels(true, generated, edges=np.linspace(-8, 8, 4001), bootstrap_sets=20)
    one, other = np.log10(true).ravel(), np.log10(generated).ravel()
    assert found.kolmogorov_smirnov == pytest.approx(stats.ks_2samp(one, other).statistic, abs=2e-3)
    assert found.wasserstein == pytest.approx(stats.wasserstein_distance(one, other), abs=2e-3)
    default = compare_pixels(true, generated, bootstrap_sets=20)
    assert len(default.edges) == 257
    assert (default.true @ np.diff(default.edges)) == pytest.approx(1)
    np.testing.assert_allclose(
        default.generated, np.histogram(other, default.edges)[0] / other.size / np.diff(default.edges)[0]
    )
    assert default.kolmogorov_smirnov == pytest.approx(found.kolmogorov_smirnov, abs=0.02)


def test_pixel_distance_of_equal_distributions_is_that_of_halves():
    true, ids = simulations(40, 5, seed=3)
    other, _ = simulations(40, 5, seed=77)
    found = compare_pixels(true, other, ids, log10=False, bootstrap_sets=50)
    assert 0.2 < found.kolmogorov_smirnov / found.kolmogorov_smirnov_expected < 2.5
    assert 0.2 < found.wasserstein / found.wasserstein_expected < 2.5
    shifted = compare_pixels(true, other + 2.0, ids, log10=False, bootstrap_sets=50)
    assert shifted.kolmogorov_smirnov > 4 * shifted.kolmogorov_smirnov_expected
    # Maps of one simulation are not independent: errors over maps are too small.
    single = compare_pixels(true, other, log10=False, bootstrap_sets=50)
    middle = slice(110, 150)
    assert found.true_standard_error[middle].mean() > 1.3 * single.true_standard_error[middle].mean()


def test_expected_pixel_distance_at_equal_parameters():
    """With the parameters of the true simulations the distances of new maps scatter about the expected one."""
    ratios = []
    for seed in range(12):
        generator = np.random.default_rng(seed)
        level = np.repeat(generator.uniform(0, 5, 30), 5)[:, None, None]
        one, other = (level + generator.standard_normal((150, 16, 16)) for _ in range(2))
        ids = np.repeat(np.arange(30), 5)
        other[0] = np.nan
        found = compare_pixels(one, other, ids, ids, log10=False, bootstrap_sets=50)
        apart = compare_pixels(one, other, ids, log10=False, bootstrap_sets=50)
        ratios.append([found.kolmogorov_smirnov / found.kolmogorov_smirnov_expected])
        ratios[-1] += [found.wasserstein / found.wasserstein_expected]
        assert apart.kolmogorov_smirnov_expected > 5 * found.kolmogorov_smirnov_expected
    np.testing.assert_allclose(np.mean(ratios, axis=0), 1, atol=0.3)
    shifted = compare_pixels(one, other + 0.1, ids, ids, log10=False, bootstrap_sets=50)
    assert shifted.wasserstein > 4 * shifted.wasserstein_expected


def symmetric(image, element):
    turned = np.rot90(image, element % 4)
    return turned[:, ::-1] if element >= 4 else turned


def brute_force(image, training, elements, shifts):
    """Smallest root mean square difference of normalised maps over everything, and the training map."""

    def normal(values):
        return (values - values.mean()) / values.std()

    best = (np.inf, -1)
    for index, other in enumerate(training):
        for element in elements:
            for shift in shifts:
                moved = np.roll(symmetric(other, element), shift, axis=(0, 1))
                distance = np.sqrt(np.mean((normal(image) - normal(moved)) ** 2))
                best = min(best, (distance, index))
    return best


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("symmetries", [True, False])
@pytest.mark.parametrize("width", [8, 6])
def test_nearest_maps_equal_brute_force(periodic, symmetries, width):
    shifts = [(row, column) for row in range(8) for column in range(width)] if periodic else [(0, 0)]
    training, maps = 10 ** fields(5, 8, seed=1, width=width), 10 ** fields(3, 8, seed=2, width=width)
    elements = [0] if not symmetries else range(8) if width == 8 else [0, 2, 4, 6]
    found = nearest_training_maps(maps, training, symmetries=symmetries, periodic=periodic)
    for image, distance, index in zip(np.log10(maps), found.distance, found.index, strict=True):
        expected = brute_force(image, np.log10(training), elements, shifts)
        assert distance == pytest.approx(expected[0], rel=1e-10)
        assert index == expected[1]


@pytest.mark.parametrize("slope", [0.0, -2.0])
def test_copies_are_found(slope):
    """Turned, mirrored, rolled, with another amplitude and a little noise; also maps without large scales."""
    training = fields(300, 64, seed=1, slope=slope)
    generator = np.random.default_rng(5)
    index = generator.integers(0, 300, 16)
    copies = np.stack(
        [
            np.roll(symmetric(training[number], element % 8), generator.integers(0, 64, 2), axis=(0, 1))
            for element, number in enumerate(index)
        ]
    )
    exact = nearest_training_maps(10 ** (0.5 * copies + 3), 10**training)
    np.testing.assert_array_equal(exact.index, index)
    np.testing.assert_allclose(exact.distance, 0, atol=1e-7)
    np.testing.assert_allclose(exact.aligned(training), copies, atol=1e-12)
    noise = 0.3 * generator.standard_normal(copies.shape)
    noisy = nearest_training_maps(copies + noise, training, log10=False)
    np.testing.assert_array_equal(noisy.index, index)
    np.testing.assert_allclose(noisy.distance, 0.3, atol=0.03)


def test_candidates_lose_little():
    training, maps = fields(150, 32, seed=1), fields(6, 32, seed=2)
    quick = nearest_training_maps(maps, training, log10=False)
    full = nearest_training_maps(maps, training, log10=False, candidates=None)
    assert (full.distance <= quick.distance + 1e-12).all()
    np.testing.assert_allclose(quick.distance, full.distance, rtol=0.02)


def test_memorization():
    training, unseen = fields(120, 16, seed=1), fields(30, 16, seed=2)
    fresh = fields(40, 16, seed=3)
    honest = memorization_test(fresh, unseen, training, log10=False)
    assert honest.probability_nearer == pytest.approx(0.5, abs=0.15)
    assert np.isnan(honest.probability_nearer_standard_error)
    np.testing.assert_allclose(np.median(honest.ratio), 1, atol=0.1)
    mixed = np.concatenate([fresh[:20], training[:20] + 0.05 * fresh[20:]])
    found = memorization_test(mixed, unseen, training, log10=False)
    assert (found.ratio < 0.3).sum() == 20
    assert (found.ratio[20:] < 0.3).all()
    assert found.probability_nearer == pytest.approx(0.75, abs=0.1)


def test_memorization_at_the_parameters_of_each_simulation():
    """Smooth maps are nearer to the training maps; compared at their own parameters they are not."""
    rough, smooth = {"size": 16, "slope": 0.0}, {"size": 16, "slope": -5.0}
    training = np.concatenate([fields(60, seed=1, **rough), fields(60, seed=2, **smooth)])
    unseen = np.concatenate([fields(20, seed=3, **rough), fields(20, seed=4, **smooth)])
    generated = np.concatenate([fields(5, seed=5, **rough), fields(20, seed=6, **smooth)])
    generated[0, 0, 0] = np.nan
    plain = memorization_test(generated, unseen, training, log10=False)
    assert plain.probability_nearer > 0.55
    of_unseen, of_generated = np.repeat([4, 9], 20), np.repeat([4, 9], [5, 20])
    found = memorization_test(generated, unseen, training, of_generated, of_unseen, log10=False)
    assert found.probability_nearer == pytest.approx(0.5, abs=0.2)
    assert 0 < found.probability_nearer_standard_error < 0.3
    assert np.isnan(found.ratio[0])
    assert found.generated.index[0] == -1
    assert np.isnan(found.generated.aligned(training)[0]).all()
    assert found.generated.check.counts["not_finite"] == 1
    np.testing.assert_allclose([found.ratio[1:5].mean(), found.ratio[5:].mean()], 1, atol=0.15)
    probabilities = []
    for number in (4, 9):
        mine, theirs = (
            nearest.distance[ids == number][:, None]
            for nearest, ids in ((found.generated, of_generated), (found.unseen, of_unseen))
        )
        mine = mine[~np.isnan(mine)][:, None]
        probabilities.append((mine < theirs.T).mean())
    assert found.probability_nearer == pytest.approx(np.mean(probabilities))


MAPS = 10 ** fields(6, 8)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: check_samples(MAPS, 3.0, 3.0), "high: expected a value above low, 3.0, got 3.0"),
        (lambda: check_samples(MAPS[0]), r"maps: expected shape \(n_maps, nx, ny\), nothing empty, got \(8, 8\)"),
        (lambda: compare_moments(MAPS, MAPS[:, :4]), r"generated: expected maps of \(8, 8\) cells, got \(4, 8\)"),
        (lambda: compare_moments(MAPS, -MAPS), "at least one map that can be measured, got {'maps': 6"),
        (lambda: compare_moments(-MAPS, MAPS), "true: expected positive values, got .* in map 0; add a floor"),
        (lambda: compare_moments(MAPS * np.nan, MAPS), "true: expected finite values"),
        (lambda: compare_moments(MAPS, MAPS, [1, 2]), r"simulation: expected one integer id per map, shape \(6,\)"),
        (lambda: compare_moments(MAPS, MAPS, None, [1.0] * 6), "generated_simulation: expected one integer id per map"),
        (lambda: compare_moments(MAPS, MAPS, bootstrap_sets=1), "bootstrap_sets: expected at least 2"),
        (lambda: compare_peak_counts(MAPS, MAPS, ()), "thresholds: expected at least one"),
        (
            lambda: compare_statistics(lambda maps: maps.mean(axis=(1, 2)), ["mean"], MAPS, MAPS),
            r"statistic: expected an array of shape \(6, 1\).* got \(6,\)",
        ),
        (lambda: compare_pixels(MAPS, MAPS, edges=[1.0, 1.0]), "edges: expected at least two rising values"),
        (
            lambda: compare_spectra_by_simulation(MAPS, MAPS, 1.0, np.arange(6), np.arange(6) + 2),
            r"expected ids of simulations with true maps, got \[6, 7\] \(2 of them",
        ),
        (lambda: nearest_training_maps(MAPS, MAPS, candidates=0), "candidates: expected None or a number"),
        (lambda: nearest_training_maps(MAPS, MAPS[:, :4]), r"maps: expected the size of the training maps, \(4, 8\)"),
        (
            lambda: nearest_training_maps(MAPS, np.ones((3, 8, 8))),
            "training: expected maps with structure, .* in map 0",
        ),
        (lambda: nearest_training_maps(np.ones((3, 8, 8)), MAPS), "maps: expected maps with structure, .* in map 0"),
        (lambda: nearest_training_maps(MAPS, MAPS - 100), "training: expected positive values"),
        (lambda: memorization_test(MAPS, -MAPS, MAPS), "unseen: expected finite maps, above zero, for they are true"),
        (lambda: memorization_test(MAPS, MAPS, MAPS, np.zeros(6, int)), "expected both or none of them"),
        (
            lambda: memorization_test(MAPS, MAPS, MAPS, np.ones(6, int), np.zeros(6, int)),
            "expected ids of simulations with true maps",
        ),
    ],
)
def test_wrong_arguments(function, message):
    with pytest.raises(ValueError, match=message):
        function()


def test_wrong_types():
    with pytest.raises(TypeError, match="generated: expected an array of maps"):
        compare_moments(MAPS, MAPS.tolist())
    with pytest.raises(TypeError, match="true: expected real numbers, got complex128"):
        compare_moments(MAPS.astype(complex), MAPS)
