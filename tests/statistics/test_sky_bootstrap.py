import doctest

import healpy
import numpy as np
import pytest
from scipy.stats import binomtest

from keras_cosmo.gnomonic import GnomonicGrid
from keras_cosmo.statistics import sky_bootstrap
from keras_cosmo.statistics.cutout_correlation import band_correlations
from keras_cosmo.statistics.sky_bootstrap import (
    block_bootstrap,
    effective_number,
    independent_patches,
    paired,
    sky_cells,
)


def block_data(generator, cells=20, least=5, most=60, shared=1.0, own=1.0):
    """Values of which a part is the same for all of a cell; cells of unequal numbers, as on the sky."""
    sizes = generator.integers(least, most, cells)
    ids = np.repeat(np.arange(cells), sizes)
    return shared * generator.normal(size=cells)[ids] + own * generator.normal(size=len(ids)), ids


def test_cells_are_pixels_of_healpix():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(500, 3))
    longitude, latitude = healpy.vec2ang(vectors, lonlat=True)
    for nside in (1, 2, 4):
        cells = sky_cells(longitude, latitude, nside)
        np.testing.assert_array_equal(cells, healpy.vec2pix(nside, *vectors.T))
        sky = generator.integers(0, 3, 500)
        both = sky_cells(longitude, latitude, nside, sky)
        assert len(np.unique(both)) == len({(int(a), int(b)) for a, b in zip(sky, cells, strict=True)})
        np.testing.assert_array_equal(both // (12 * nside**2), sky)
        np.testing.assert_array_equal(both % (12 * nside**2), cells)
    assert abs(healpy.nside2resol(2) - np.radians(29.3)) < 0.01


def test_independent_values_have_the_error_of_the_textbook():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(2000, 4))
    found = block_bootstrap(values, np.arange(2000))
    np.testing.assert_allclose(found.mean, values.mean(axis=0))
    np.testing.assert_allclose(found.standard_error, values.std(axis=0, ddof=1) / np.sqrt(2000), rtol=0.08)
    np.testing.assert_allclose((found.high - found.low) / found.standard_error, 2 * 1.96, rtol=0.08)
    np.testing.assert_allclose(effective_number(values, np.arange(2000)), 2000, rtol=0.15)
    # Cells that have nothing in common inside give the same error, with less precision.
    ids = np.random.default_rng(1).integers(0, 100, 2000)
    assert np.all(np.abs(np.log(effective_number(values, ids) / 2000)) < 0.6)


def test_values_that_are_alike_in_a_cell_count_once():
    ids = np.repeat(np.arange(50), 20)
    values = np.random.default_rng(0).normal(size=50)[ids]
    found = block_bootstrap(values, ids, n=4000)
    np.testing.assert_allclose(found.standard_error, np.std(values[::20], ddof=1) / np.sqrt(50), rtol=0.05)
    np.testing.assert_allclose(effective_number(values, ids, n=4000), 50, rtol=0.1)
    naive = values.std() / np.sqrt(1000)
    assert found.standard_error / naive > 4


def test_a_set_is_worth_no_more_than_its_cutouts():
    # Both cells have the same mean, so that chance makes the error of the mean small.
    values = np.array([1.0, 2.0, 3.0, 1.0, 2.0, 3.01])
    cells = np.array([0, 0, 0, 1, 1, 1])
    found = block_bootstrap(values, cells)
    assert values.var(ddof=1) / found.standard_error**2 > 1000
    assert effective_number(values, cells) == 6
    both = np.stack([values, values], axis=1)
    both[0, 1] = np.nan
    assert np.all(effective_number(both, cells) <= [6, 5])
    # From 20 cells: by a factor of two up and down.
    generator, numbers = np.random.default_rng(3), []
    for trial in range(60):
        values, ids = block_data(generator)
        numbers.append(effective_number(values, ids, n=300, seed=trial) * np.sum(np.bincount(ids) ** 2) / len(ids) ** 2)
    assert 1.2 < np.quantile(numbers, 0.84) / np.quantile(numbers, 0.16) < 4


@pytest.mark.parametrize("cells", [8, 20])
def test_intervals_cover_the_truth(cells):
    generator = np.random.default_rng(5)
    hits, errors, means, naive = [], [], [], []
    for trial in range(800):
        values, ids = block_data(generator, cells)
        found = block_bootstrap(values, ids, n=400, seed=trial)
        hits.append(found.low <= 0.0 <= found.high)
        errors.append(found.standard_error)
        means.append(found.mean)
        naive.append(values.std() / np.sqrt(len(values)))
    assert 0.915 < np.mean(hits) < 0.97
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(errors))), np.std(means), rtol=0.1)
    # Taken as independent, the same cutouts give an error that is far too small.
    assert np.std(means) / np.mean(naive) > 3


@pytest.mark.slow
def test_errors_are_the_scatter_over_skies():
    """Overlapping cutouts of random skies whose correlation varies from place to place."""
    grid, ell = GnomonicGrid(), np.arange(129.0)
    power = np.where(ell > 1, np.maximum(ell, 8) ** -2.8, 0.0)
    means, errors, naive, patches = [], [], [], []
    for seed in range(120):
        generator = np.random.default_rng(seed)

        def field(spectrum, generator=generator):
            size = healpy.Alm.getsize(128)
            harmonics = generator.normal(size=size) + 1j * generator.normal(size=size)
            harmonics[:129] = np.sqrt(2) * harmonics[:129].real
            values = healpy.alm2map(healpy.almxfl(harmonics, np.sqrt(spectrum)), 64, lmax=128)
            return values / values.std()

        gas, noise, place = field(power), field(power), field(np.where(ell > 1, np.maximum(ell, 4) ** -3.5, 0.0))
        share = 1 / (1 + np.exp(-2 * place))
        true, predicted = np.exp(0.5 * gas), np.exp(0.5 * (gas * (1 - 0.7 * share) + 0.9 * noise * share))
        longitude, rotation = generator.uniform(0, 360, (2, 200))
        latitude = -np.degrees(np.arcsin(generator.uniform(np.sin(np.radians(17.65)), 1, 200)))
        pixels = grid.pixels(64, longitude, latitude, rotation)
        r = band_correlations(true[pixels], predicted[pixels], 23.4)
        found = block_bootstrap(r, sky_cells(longitude, latitude), n=300)
        means.append(found.mean)
        errors.append(found.standard_error)
        naive.append(r.std(axis=0) / np.sqrt(200))
        patches.append(independent_patches(longitude, latitude, rotation, 24.96)[0])
    scatter = np.std(means, axis=0, ddof=1)
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(errors), axis=0)) / scatter, 1.07, atol=0.25)
    assert np.all(np.mean(naive, axis=0) / scatter < 0.55)
    np.testing.assert_allclose(200 * np.mean(np.square(naive), axis=0) / scatter**2, np.mean(patches), rtol=0.5)


def test_columns_are_resampled_together_and_nan_is_left_out():
    values, ids = block_data(np.random.default_rng(0))
    both = np.stack([values, values], axis=1)
    found = block_bootstrap(both, ids, seed=3)
    for name in ("mean", "standard_error", "low", "high"):
        assert getattr(found, name)[0] == getattr(found, name)[1]
        alone = getattr(block_bootstrap(values, ids, seed=3), name)
        np.testing.assert_allclose(getattr(found, name)[0], alone, rtol=1e-12)
    assert found.cells == 20
    both[ids == 0, 1] = np.nan
    both[5:7, 0] = np.nan
    found = block_bootstrap(both, ids)
    np.testing.assert_allclose(found.mean, [np.nanmean(both[:, 0]), values[ids > 0].mean()])
    assert np.isfinite(found.standard_error).all()
    assert np.isfinite(effective_number(both, ids)).all()
    both[:, 1] = np.nan
    found = block_bootstrap(both, ids)
    assert np.isnan([found.mean[1], found.standard_error[1], found.low[1], found.high[1]]).all()
    assert np.isfinite(found.low[0])
    # A single cutout with a value: some sets of cells have none.
    both[0, 1] = 2.0
    assert block_bootstrap(both, ids).mean[1] == 2.0


def test_an_offset_costs_no_digits_and_a_seed_gives_the_same_again():
    values, ids = block_data(np.random.default_rng(0))
    values = np.round(values * 2**10) / 2**10
    one, other = block_bootstrap(values, ids), block_bootstrap(values + 2.0**30, ids)
    np.testing.assert_allclose(one.standard_error, other.standard_error, rtol=1e-6)
    assert one == block_bootstrap(values, ids)
    assert one.standard_error != block_bootstrap(values, ids, seed=1).standard_error
    wide = block_bootstrap(values, ids, level=0.99)
    assert wide.low < one.low < one.mean < one.high < wide.high


def test_a_single_cell_has_no_error():
    found = block_bootstrap([1.0, 2.0, 3.0], [4, 4, 4])
    assert found.mean == 2.0
    assert found.cells == 1
    assert np.isnan([found.standard_error, found.low, found.high]).all()
    assert np.isnan(effective_number([1.0, 2.0, 3.0], [4, 4, 4]))
    assert np.isnan(effective_number([1.0, 1.0, 1.0], [4, 5, 6]))


def test_pairs_by_hand():
    difference = [0.1, 0.3, -0.1, 0.0, -0.2, -0.2, 0.4, 0.2]
    cells = [0, 0, 0, 1, 2, 2, 7, 7]
    found = paired(difference, cells, n=500)
    assert (found.wins, found.ties, found.cutouts, found.fraction) == (4, 1, 8, 0.5)
    assert (found.cells_won, found.cells) == (2, 4)
    np.testing.assert_allclose(found.mean, np.mean(difference))
    assert found.sign_test == binomtest(2, 3).pvalue
    same = block_bootstrap(difference, cells, n=500)
    assert (found.mean, found.standard_error, found.low, found.high) == tuple(float(value) for value in same[:4])
    assert 0.0 < found.not_positive < 1.0
    nothing = paired([0.0, 0.0], [0, 1])
    assert (nothing.wins, nothing.ties, nothing.sign_test, nothing.not_positive) == (0, 2, 1.0, 1.0)


def test_a_clear_difference_and_none():
    generator = np.random.default_rng(0)
    values, ids = block_data(generator, cells=30)
    clear = paired(values + 3.0, ids)
    assert clear.not_positive == 0.0
    assert clear.sign_test < 1e-6
    assert clear.low > 0
    # Without a difference, the probability that it is not positive is uniform, so that 10% lie below 0.1.
    chances = []
    for trial in range(300):
        values, ids = block_data(generator, cells=30)
        chances.append(paired(values, ids, n=200, seed=trial).not_positive)
    assert 0.05 < np.mean(np.array(chances) < 0.1) < 0.17
    assert 0.4 < np.mean(chances) < 0.6


def test_patches_of_separate_and_equal_cutouts():
    longitude, latitude = np.array([0.0, 90.0, 180.0, 270.0]), np.zeros(4)
    patches, covered = independent_patches(longitude, latitude, np.zeros(4), 24.96)
    np.testing.assert_allclose(patches, 4.0)
    # Solid angle of a pyramid of the half sides a in the tangent plane: 4 arcsin(a^2 / (1 + a^2)).
    half = np.radians(24.96) / 2
    np.testing.assert_allclose(covered, 4 * 4 * np.arcsin(half**2 / (1 + half**2)) / (4 * np.pi), rtol=0.02)
    np.testing.assert_allclose(independent_patches(np.full(3, 20.0), np.full(3, 50.0), np.full(3, 9.0), 24.96)[0], 1.0)
    # Two squares of which one covers half of the other.
    half, _ = independent_patches(np.array([0.0, 12.3]), np.zeros(2), np.zeros(2), 24.96)
    np.testing.assert_allclose(half, 1.5, atol=0.04)
    # A rotation of 45 deg leaves an eight-pointed star: 2 * (2 - sqrt 2) of a flat square are covered twice at most.
    star, _ = independent_patches(np.zeros(2), np.zeros(2), np.array([0.0, 45.0]), 10.0)
    np.testing.assert_allclose(star, 2 - 2 * (np.sqrt(2) - 1), atol=0.04)


def test_patches_lie_where_the_pixels_of_the_cutouts_do():
    generator = np.random.default_rng(0)
    longitude, rotation = generator.uniform(0, 360, (2, 5))
    latitude = generator.uniform(-80, 80, 5)
    directions = np.stack(healpy.pix2vec(64, np.arange(12 * 64**2)), axis=-1)
    x, y, front = GnomonicGrid(64, 23.4).project(directions, longitude, latitude, rotation)
    inside = front & (np.abs(np.where(front, x, 99) - 31.5) <= 32) & (np.abs(np.where(front, y, 99) - 31.5) <= 32)
    patches, covered = independent_patches(longitude, latitude, rotation, 24.96)
    np.testing.assert_allclose(covered, inside.any(axis=0).mean(), rtol=1e-3)
    np.testing.assert_allclose(patches, inside.any(axis=0).sum() / inside.sum(axis=1).mean(), rtol=1e-3)


def test_many_cutouts_cover_a_hemisphere():
    generator = np.random.default_rng(0)
    longitude, rotation = generator.uniform(0, 360, (2, 1000))
    latitude = np.degrees(np.arcsin(generator.uniform(np.sin(np.radians(17.65)), 1, 1000)))
    patches, covered = independent_patches(longitude, latitude, rotation, 24.96)
    # All of the sky above 17.65 deg less at most, all of the hemisphere and one cutout's side below it at most.
    assert 0.35 < covered < 0.51
    area = 4 * np.arcsin(np.radians(12.48) ** 2 / (1 + np.radians(12.48) ** 2))
    np.testing.assert_allclose(patches, covered * 4 * np.pi / area, rtol=0.01)
    assert 24 < patches < 36


def test_masked_sky_does_not_count_and_skies_add_up():
    centres = np.array([0.0, 90.0, 180.0]), np.zeros(3), np.zeros(3)
    direction = healpy.pix2vec(128, np.arange(12 * 128**2))
    mask = np.where(direction[2] > 0, 1.0, 0.3)
    patches, covered = independent_patches(*centres, 24.96, mask)
    whole = independent_patches(*centres, 24.96)
    np.testing.assert_allclose(patches, 3.0)
    np.testing.assert_allclose(covered, whole[1], rtol=0.05)
    # The third cutout is masked: two areas, of which each set of three has two thirds of one.
    patches, _ = independent_patches(*centres, 24.96, np.where(direction[0] > -0.5, 1.0, 0.0))
    np.testing.assert_allclose(patches, 3.0)
    same = np.zeros(2), np.zeros(2), np.zeros(2)
    np.testing.assert_allclose(independent_patches(*same, 24.96)[0], 1.0)
    np.testing.assert_allclose(independent_patches(*same, 24.96, sky=[0, 3])[0], 2.0)
    masks = np.stack([np.ones(12), np.zeros(12), np.zeros(12), np.ones(12)])
    np.testing.assert_allclose(independent_patches(*same, 24.96, masks, sky=[0, 3])[0], 2.0)


GOOD = [0.1, 0.2, 0.3], [0, 1, 2]
CENTRES = np.zeros(2), np.zeros(2), np.zeros(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sky_cells([0.0, 1.0], [0.0]), r"latitude: expected centres of shape \(n,\).*\(2,\) and \(1,\)"),
        (lambda: sky_cells([0.0], [91.0]), r"latitude: expected finite longitudes and latitudes from -90 to 90"),
        (lambda: sky_cells([np.nan], [0.0]), r"latitude: expected finite longitudes"),
        (lambda: sky_cells([0.0], [0.0], nside=3), r"nside: expected a power of 2, got 3"),
        (lambda: sky_cells([0.0], [0.0], sky=[0.0]), r"sky: expected one integer of at least 0 .* of float64"),
        (lambda: sky_cells([0.0], [0.0], sky=[-1]), r"sky: expected one integer of at least 0"),
        (lambda: block_bootstrap([[[1.0]]], [0]), r"values: expected finite values or NaN .* got shape \(1, 1, 1\)"),
        (lambda: block_bootstrap([np.inf], [0]), r"values: .* with infinities"),
        (lambda: block_bootstrap([1.0], [0, 1]), r"cells: expected one integer id per cutout, shape \(1,\)"),
        (lambda: block_bootstrap([1.0], [0.5]), r"cells: .* of float64"),
        (lambda: block_bootstrap(*GOOD, n=1), r"n: expected at least 2 bootstrap samples, got 1"),
        (lambda: block_bootstrap(*GOOD, level=95), r"level: expected a probability between 0 and 1, got 95"),
        (lambda: paired([0.1, np.nan], [0, 1]), r"difference: expected one finite number .* with NaN"),
        (lambda: paired([[0.1], [0.2]], [0, 1]), r"difference: expected one finite number .* got shape \(2, 1\)"),
        (lambda: independent_patches(*CENTRES[:2], [0.0], 25.0), r"rotation: expected one finite angle per centre"),
        (lambda: independent_patches(*CENTRES, 120.0), r"grid_side: expected a side above 0 and up to 90 deg, got 120"),
        (lambda: independent_patches(*CENTRES, 25.0, np.ones(13)), r"mask: expected a HEALPix map .*\(13,\)"),
        (lambda: independent_patches(*CENTRES, 25.0, np.zeros(12)), r"mask: expected cutouts with open sky, got none"),
        (
            lambda: independent_patches(*CENTRES, 25.0, np.ones((1, 12)), sky=[0, 1]),
            r"mask: expected a row for sky 1, got 1 rows",
        ),
        (lambda: independent_patches(*CENTRES, 25.0, nside=5), r"nside: expected a power of 2, got 5"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_examples():
    assert doctest.testmod(sky_bootstrap).failed == 0
