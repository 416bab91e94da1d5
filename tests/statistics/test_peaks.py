import doctest
import itertools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from keras_cosmo.statistics import peaks as module
from keras_cosmo.statistics.peaks import (
    Peaks,
    agreement_curve,
    combine_peaks,
    find_peaks,
    match_peaks,
    precision_recall_curve,
    score_peaks,
)


def smooth_maps(count, size=64, sigma=2.0, seed=0):
    noise = np.random.default_rng(seed).normal(size=(count, size, size))
    return np.exp(2.0 * gaussian_filter(noise, (0, sigma, sigma), mode="wrap") * sigma)


def by_hand(image, floor):
    """Regional maxima from connected regions of equal pixels, one after the other."""
    found = []
    padded = np.pad(image, 1, constant_values=-np.inf)
    for value in np.unique(image[image > floor]):
        regions, count = label(image == value, np.ones((3, 3)))
        for region in range(1, count + 1):
            places = np.argwhere(regions == region)
            around = {(row + i, column + j) for row, column in places for i in (0, 1, 2) for j in (0, 1, 2)} - {
                (row + 1, column + 1) for row, column in places
            }
            values = np.array([padded[place] for place in around])
            if np.isfinite(values).any() and (values < value).all():
                found.append((*places.mean(axis=0), value))
    return sorted(found)


def catalogue(*positions, maps=None, significance=None):
    """Peaks at given (map, row, column)."""
    table = np.array(positions, dtype=float).reshape(-1, 3)
    index = table[:, 0].astype(int)
    heights = np.full(len(table), 4.0) if significance is None else np.array(significance, dtype=float)
    return Peaks(maps or 1 + index.max(initial=0), index, table[:, 1:], heights, heights, np.ones(len(table), int))


@pytest.mark.parametrize("levels", [None, 40, 6])
@pytest.mark.parametrize("threshold", [-10.0, 0.5, 3.0])
def test_maxima_are_those_of_a_plain_search(levels, threshold):
    maps = smooth_maps(3, 24, 1.0)
    if levels:
        maps = np.round(maps / maps.max() * levels)
    found = find_peaks(maps, threshold)
    assert len(found.map_index)
    for index, image in enumerate(maps):
        expected = by_hand(image, image.mean() + threshold * image.std())
        here = found.where(found.map_index == index)
        rows = np.column_stack([here.position, here.height])
        np.testing.assert_allclose(rows, np.array(expected).reshape(-1, 3))
        np.testing.assert_allclose(here.significance, (here.height - image.mean()) / image.std())
    assert found.counts.tolist() == [np.sum(found.map_index == index) for index in range(3)]
    assert (found.agreement == 1).all()


def test_a_plateau_counts_once_and_a_slope_beside_it_does_not():
    image = np.zeros((12, 12))
    image[2:4, 2:5] = 5.0  # a plateau
    image[8, 2:6] = 4.0  # another one with a higher pixel at its end: one peak there
    image[8, 6] = 6.0
    image[6, 10], image[7, 11] = 3.0, 3.0  # equal pixels that touch at a corner
    found = find_peaks(image[None], 1.0)
    assert found.position.tolist() == [[2.5, 3.0], [6.5, 10.5], [8.0, 6.0]]
    assert found.height.tolist() == [5.0, 3.0, 6.0]


def test_maxima_at_the_border_can_be_left_out():
    image = np.zeros((1, 10, 10))
    image[0, 0, 0], image[0, 1, 5], image[0, 5, 8], image[0, 5, 5] = 3.0, 3.0, 3.0, 3.0
    assert len(find_peaks(image, 2.0).map_index) == 4
    assert find_peaks(image, 2.0, border=1).position.tolist() == [[1, 5], [5, 5], [5, 8]]
    assert find_peaks(image, 2.0, border=2).position.tolist() == [[5, 5]]


@pytest.mark.parametrize("value", [0.0, 7.3])
def test_a_map_without_structure_has_no_peaks(value):
    flat = np.full((2, 16, 16), value)
    assert find_peaks(flat, -1.0).counts.tolist() == [0, 0]
    mixed = np.concatenate([flat, smooth_maps(1, 16)])
    assert find_peaks(mixed).counts[:2].tolist() == [0, 0]
    # Measured with the truth's sigma, a bright constant map is above the threshold everywhere but has no maximum.
    reference = smooth_maps(2, 16)
    assert find_peaks(flat + 1e3, reference=reference).counts.tolist() == [0, 0]
    assert len(score_peaks(find_peaks(flat), find_peaks(flat))) == 7


def test_level_and_sigma_are_as_asked_for():
    maps = smooth_maps(4) * np.array([1.0, 2.0, 3.0, 4.0])[:, None, None]
    other = 0.5 * maps + 0.1
    for (about, sigma_of), reference in itertools.product(
        itertools.product(("mean", "zero"), ("map", "set")), (None, maps)
    ):
        source = other if reference is None else reference
        mean = source.mean(axis=(1, 2)) if sigma_of == "map" else np.full(4, source.mean())
        sigma = source.std(axis=(1, 2)) if sigma_of == "map" else np.full(4, source.std())
        level = mean if about == "mean" else np.zeros(4)
        found = find_peaks(other, 1.5, about=about, sigma_of=sigma_of, reference=reference)
        np.testing.assert_allclose(found.significance, (found.height - level[found.map_index]) / sigma[found.map_index])
        assert len(found.map_index) == sum(
            len(by_hand(image, here + 1.5 * width)) for image, here, width in zip(other, level, sigma, strict=True)
        )


def test_a_gaussian_field_has_the_known_density_of_high_peaks():
    """Bond & Efstathiou (1987), high peaks: n(>nu) = gamma^2 nu exp(-nu^2 / 2) / ((2 pi)^(3/2) theta^2).

    White noise smoothed by a Gaussian of width w has gamma^2 = 1/2 and theta = w.
    """
    size, width, count, threshold = 128, 3.0, 250, 3.0
    noise = np.random.default_rng(5).normal(size=(count, size, size))
    maps = gaussian_filter(noise, (0, width, width), mode="wrap", truncate=6)
    found = len(find_peaks(maps, threshold, sigma_of="set", about="zero").map_index)
    expected = count * size**2 * 0.5 * threshold * np.exp(-(threshold**2) / 2) / ((2 * np.pi) ** 1.5 * width**2)
    assert found == pytest.approx(expected, rel=0.12)


def test_scale_and_offset_do_not_matter_for_own_sigma():
    maps = smooth_maps(5)
    one, other = find_peaks(maps), find_peaks(3e-9 * maps + 1e-8)
    np.testing.assert_array_equal(one.position, other.position)
    np.testing.assert_allclose(one.significance, other.significance, rtol=1e-6)
    np.testing.assert_array_equal(find_peaks(maps.astype(np.float32)).position, one.position)


def test_thresholds_select():
    found = find_peaks(smooth_maps(5), 1.0)
    np.testing.assert_array_equal(find_peaks(smooth_maps(5), 3.0).position, found.above(3.0).position)


def test_peaks_of_different_maps_never_match():
    one, other = catalogue((0, 5, 5), (1, 9, 9)), catalogue((0, 9, 9), (1, 5, 5))
    assert len(match_peaks(one, other, 3.0).true) == 0
    assert len(match_peaks(one, other, 6.0).true) == 2


@pytest.mark.parametrize("method", ["nearest", "optimal"])
def test_matching_is_one_to_one_within_the_radius(method):
    true, predicted = catalogue((0, 0, 0), (0, 10, 10)), catalogue((0, 0, 1), (0, 1, 0), (0, 10, 12), (0, 13, 10))
    found = match_peaks(true, predicted, 2.0, method)
    assert found.true.tolist() == [0, 1]
    assert found.predicted.tolist() == [0, 2]
    assert found.distance.tolist() == [1.0, 2.0]
    assert len(match_peaks(true, predicted, 1.9, method).true) == 1
    assert len(match_peaks(true, predicted, 0.0, method).true) == 0
    assert len(match_peaks(true, true, 0.0, method).true) == 2


def test_optimal_matching_finds_pairs_that_the_nearest_blocks():
    true, predicted = catalogue((0, 0, 0), (0, 0, 3)), catalogue((0, 0, 1.8), (0, 0, 4.9))
    # The nearest pair is the second true and the first predicted peak.
    nearest = match_peaks(true, predicted, 2.0)
    assert (nearest.true.tolist(), nearest.predicted.tolist()) == ([1], [0])
    assert match_peaks(true, predicted, 2.0, "optimal").predicted.tolist() == [0, 1]


@pytest.mark.parametrize("radius", [1.0, 2.0, 4.0])
def test_optimal_matching_is_the_assignment_of_scipy(radius):
    generator = np.random.default_rng(3)
    table = [np.column_stack([np.zeros(60), generator.uniform(0, 30, (60, 2))]) for _ in range(2)]
    true, predicted = (catalogue(*rows) for rows in table)
    distance = cdist(table[0][:, 1:], table[1][:, 1:])
    cost = np.where(distance <= radius, distance - 1e4, 0.0)
    rows, columns = linear_sum_assignment(cost)
    keep = distance[rows, columns] <= radius
    found = match_peaks(true, predicted, radius, "optimal")
    assert len(found.true) == keep.sum()
    np.testing.assert_allclose(found.distance.sum(), distance[rows, columns][keep].sum())
    nearest = match_peaks(true, predicted, radius)
    # By hand: again and again the smallest distance that is left.
    left, pairs = distance.copy(), []
    while left.min() <= radius:
        row, column = np.unravel_index(left.argmin(), left.shape)
        pairs.append((row, column))
        left[row], left[:, column] = np.inf, np.inf
    assert sorted(pairs) == list(zip(nearest.true.tolist(), nearest.predicted.tolist(), strict=True))


def test_swapping_the_roles_swaps_precision_and_recall():
    one, other = find_peaks(smooth_maps(6), 1.0), find_peaks(smooth_maps(6) + 0.3 * smooth_maps(6, seed=1), 1.0)
    first, second = score_peaks(one, other), score_peaks(other, one)
    assert 0 < first.matched == second.matched < first.true
    assert (first.precision, first.recall) == (second.recall, second.precision)
    assert first.precision_standard_error == second.recall_standard_error


def test_the_numbers_of_the_paper_give_its_rates():
    true = catalogue(*((0, 0, 10 * index) for index in range(24089)))
    predicted = catalogue(
        *((0, 0, 10 * index) for index in range(18262)), *((0, 50, index * 9) for index in range(6538))
    )
    scores = score_peaks(true, predicted)
    assert (scores.true, scores.predicted, scores.matched) == (24089, 24800, 18262)
    assert (round(scores.recall, 2), round(scores.precision, 2)) == (0.76, 0.74)
    assert np.isnan(scores.precision_standard_error)


def test_bootstrap_errors_are_binomial_for_independent_peaks():
    generator = np.random.default_rng(0)
    maps, each = 400, 6
    hit = generator.random((maps, each)) < 0.7
    true = catalogue(*((index, 10 * peak, 0) for index in range(maps) for peak in range(each)))
    shift = np.where(hit, 0, 5)
    predicted = catalogue(*((index, 10 * peak, shift[index, peak]) for index in range(maps) for peak in range(each)))
    scores = score_peaks(true, predicted, bootstrap_sets=2000)
    assert scores.precision == scores.recall == hit.mean()
    expected = np.sqrt(hit.mean() * (1 - hit.mean()) / hit.size)
    assert scores.precision_standard_error == pytest.approx(expected, rel=0.12)
    assert scores == score_peaks(true, predicted, bootstrap_sets=2000)
    # Maps that repeat one simulation carry no more information than one of them.
    repeated = np.arange(maps) // 8
    shift = np.repeat(shift[::8], 8, axis=0)
    predicted = catalogue(*((index, 10 * peak, shift[index, peak]) for index in range(maps) for peak in range(each)))
    honest = score_peaks(true, predicted, simulation=repeated, bootstrap_sets=2000)
    naive = score_peaks(true, predicted, bootstrap_sets=2000)
    assert honest.recall_standard_error / naive.recall_standard_error == pytest.approx(np.sqrt(8), rel=0.25)


def test_no_peaks_have_no_rate():
    nothing, some = catalogue(maps=3), catalogue((0, 1, 1), maps=3)
    scores = score_peaks(some, nothing)
    assert (scores.recall, scores.predicted) == (0.0, 0)
    assert np.isnan([scores.precision, scores.precision_standard_error]).all()
    assert np.isnan(score_peaks(nothing, some).recall)


def test_curve_over_the_threshold():
    true = find_peaks(smooth_maps(10))
    noisy = find_peaks(smooth_maps(10) + 0.5 * smooth_maps(10, seed=1), 1.0)
    thresholds = [1.0, 2.0, 3.0, 5.0, 50.0]
    curve = precision_recall_curve(true, noisy, thresholds)
    for index, threshold in enumerate(thresholds[:4]):
        scores = score_peaks(true, noisy.above(threshold))
        for name in ("precision", "recall", "precision_standard_error", "recall_standard_error", "predicted"):
            np.testing.assert_equal(getattr(curve, name)[index], getattr(scores, name))
    assert np.all(np.diff(curve.recall) <= 0)
    assert curve.predicted[-1] == 0
    assert np.isnan(curve.precision[-1])
    assert curve.selection.tolist() == thresholds


def test_votes_of_three_networks():
    first = catalogue((0, 5, 5), (0, 20, 20), (1, 8, 8), significance=[4, 5, 6])
    second = catalogue((0, 5, 6), (0, 20, 23), (1, 8, 8), significance=[5, 5, 6])
    third = catalogue((0, 5, 7), (1, 8, 8), significance=[6, 9])
    joined = combine_peaks([first, second, third], 2.0)
    assert joined.position.tolist() == [[5, 6], [20, 20], [20, 23], [8, 8]]
    assert joined.agreement.tolist() == [3, 1, 1, 3]
    assert joined.map_index.tolist() == [0, 0, 0, 1]
    assert joined.significance.tolist() == [5, 5, 5, 7]
    assert joined.found_by(2).position.tolist() == [[5, 6], [8, 8]]
    # A chain longer than the radius is cut: the nearest pair stays together.
    chain = [catalogue((0, 0, 0.0)), catalogue((0, 0, 1.5)), catalogue((0, 0, 2.9))]
    cut = combine_peaks(chain, 2.0)
    assert cut.agreement.tolist() == [1, 2]
    np.testing.assert_allclose(cut.position, [[0, 0], [0, 2.2]])
    # Two peaks of one network are never joined.
    pair = combine_peaks([catalogue((0, 0, 0.0), (0, 0, 2.0)), catalogue((0, 0, 0.9))], 2.0)
    assert sorted(pair.agreement.tolist()) == [1, 2]


def test_votes_do_not_depend_on_the_order_of_the_networks():
    members = [find_peaks(smooth_maps(6) + 0.3 * smooth_maps(6, seed=seed), 1.0) for seed in (1, 2, 3, 4)]
    one, other = combine_peaks(members, 3.0), combine_peaks(members[::-1], 3.0)
    assert np.mean(one.agreement == 4) > 0.1
    assert one.agreement.sum() == sum(len(peaks.map_index) for peaks in members)
    # Peaks on the grid have equal distances, which the order decides; hardly any peak is concerned.
    assert len(one.map_index) == pytest.approx(len(other.map_index), abs=3)
    for count in (1, 2, 3, 4):
        assert len(one.found_by(count).map_index) == pytest.approx(len(other.found_by(count).map_index), abs=4)


def test_agreement_raises_precision_and_lowers_recall():
    true = find_peaks(smooth_maps(20))
    members = [find_peaks(smooth_maps(20) + 0.5 * smooth_maps(20, seed=seed)) for seed in (1, 2, 3)]
    curve = agreement_curve(true, members)
    assert curve.selection.tolist() == [1, 2, 3]
    assert curve.precision[2] > curve.precision[0]
    assert np.all(np.diff(curve.recall) < 0)
    assert curve.predicted[2] == np.sum(combine_peaks(members).agreement == 3)
    same = agreement_curve(true, [true, true])
    assert same.precision.tolist() == same.recall.tolist() == [1.0, 1.0]


def test_one_network_is_an_ensemble_too():
    peaks = find_peaks(smooth_maps(3))
    joined = combine_peaks([peaks])
    np.testing.assert_array_equal(joined.position, peaks.position)
    np.testing.assert_array_equal(joined.map_index, peaks.map_index)


MAPS = smooth_maps(3, 16)
PEAKS = find_peaks(MAPS, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_peaks(MAPS[0]), r"maps: expected shape \(n_maps, nx, ny\)"),
        (lambda: find_peaks(MAPS * np.nan), r"maps: expected finite values"),
        (lambda: find_peaks(MAPS, np.nan), r"threshold: expected a number of standard deviations, got nan"),
        (lambda: find_peaks(MAPS, about="median"), r'about: expected "mean" or "zero", got \'median\''),
        (lambda: find_peaks(MAPS, sigma_of="truth"), r'sigma_of: expected "map" or "set", got \'truth\''),
        (lambda: find_peaks(MAPS, reference=MAPS[:2]), r"reference: expected the shape of maps, .* got \(2, 16, 16\)"),
        (lambda: find_peaks(MAPS, border=-1), r"border: expected a number of pixels, at least 0, got -1"),
        (lambda: find_peaks(MAPS, border=1.5), r"border: .* got 1.5"),
        (
            lambda: match_peaks(PEAKS, find_peaks(MAPS[:2])),
            r"predicted: expected peaks of as many maps as true, 3, got 2",
        ),
        (lambda: match_peaks(PEAKS, PEAKS, -1.0), r"radius: expected a distance in pixels, at least 0, got -1"),
        (lambda: match_peaks(PEAKS, PEAKS, method="best"), r'method: expected "nearest" or "optimal", got \'best\''),
        (
            lambda: score_peaks(PEAKS, PEAKS, simulation=[0]),
            r"simulation: expected one integer id per map, shape \(3,\)",
        ),
        (lambda: score_peaks(PEAKS, PEAKS, bootstrap_sets=1), r"bootstrap_sets: expected at least 2, got 1"),
        (lambda: precision_recall_curve(PEAKS, PEAKS, []), r"thresholds: expected numbers of standard deviations"),
        (lambda: combine_peaks([]), r"members: expected the peaks of at least one network.* got 0"),
        (lambda: combine_peaks([PEAKS, find_peaks(MAPS[:2])]), r"members: .* got 2 with \[3, 2\] maps"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_examples():
    assert doctest.testmod(module).failed == 0


def test_of_peaks_that_are_too_close_the_highest_counts():
    maps = np.zeros((2, 20, 20))
    # A chain: 9 rules out 8, so that 7, which is near 8 alone, stays.
    maps[0, 5, 5], maps[0, 5, 7], maps[0, 5, 9], maps[0, 15, 15] = 9.0, 8.0, 7.0, 6.0
    maps[1, 5, 7] = 5.0  # of another map

    def heights(separation):
        return find_peaks(maps, 1.0, minimum_separation=separation).height.tolist()

    assert heights(0.0) == heights(2.0) == [9.0, 8.0, 7.0, 6.0, 5.0]
    assert heights(2.1) == heights(4.0) == [9.0, 7.0, 6.0, 5.0]
    assert heights(4.1) == [9.0, 6.0, 5.0]
    assert heights(100.0) == [9.0, 5.0]
    # Of equal ones the first.
    maps[0, 5, 7] = 9.0
    assert find_peaks(maps, 1.0, minimum_separation=3.0).position[0].tolist() == [5.0, 5.0]


@pytest.mark.parametrize("separation", [-1.0, np.nan, np.inf])
def test_a_separation_that_is_none(separation):
    with pytest.raises(ValueError, match="minimum_separation: expected a distance in pixels, at least 0, got"):
        find_peaks(np.zeros((1, 4, 4)), minimum_separation=separation)


def test_separation_is_that_of_a_plain_loop():
    maps = np.random.default_rng(3).normal(size=(4, 40, 40))
    every = find_peaks(maps, 0.5)
    expected = []
    for index in np.argsort(-every.height):
        near = [
            other
            for other in expected
            if every.map_index[other] == every.map_index[index]
            and np.hypot(*(every.position[other] - every.position[index])) < 4.5
        ]
        if not near:
            expected.append(index)
    found = find_peaks(maps, 0.5, minimum_separation=4.5)
    np.testing.assert_array_equal(found.position, every.position[np.sort(expected)])
    assert len(found.height) < len(every.height)
