import concurrent.futures
import doctest
import logging
import pickle

import h5py
import healpy
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from healpy.projector import GnomonicProj

from keras_cosmo.data import sky_pipeline
from keras_cosmo.data.database import Database, write_database
from keras_cosmo.data.sky_areas import SkyArea, east_west, half_sky, north_south
from keras_cosmo.data.sky_pipeline import Cutouts, SkyPipeline, draw_cutouts
from keras_cosmo.gnomonic import GnomonicGrid
from keras_cosmo.statistics.cutout_correlation import apodisation

NSIDE, CHANNELS, SKIES = 32, 3, 3
PIXELS = healpy.nside2npix(NSIDE)
GRID = GnomonicGrid(side=12, pixel_size=124.8)
NORTH, SOUTH = north_south(guard=20.0)
LONGITUDE, LATITUDE = healpy.pix2ang(NSIDE, np.arange(PIXELS), lonlat=True)


def fields():
    """Skies whose values tell the sky, the pixel and the channel; masks of which large parts are 0."""
    numbers = np.arange(SKIES)[:, None] + np.arange(PIXELS) / PIXELS
    cube = (numbers[..., None] + 10.0 * np.arange(CHANNELS)).astype(np.float32)
    generator = np.random.default_rng(0)
    mask = np.ones((SKIES, PIXELS), np.float32)
    mask[:, np.abs(LATITUDE) < 30] = 0
    mask[:, (np.abs(LATITUDE) > 30) & (np.abs(LATITUDE) < 34)] = 0.25
    mask[generator.random((SKIES, PIXELS)) < 0.1] = 0
    mask[:, (np.abs(LATITUDE) > 50) & (LONGITUDE > 270)] = 0.75
    return {"hi_cube": (cube, "K"), "dust": (-100.0 * numbers.astype(np.float32), "uK_RJ"), "mask": (mask, "")}


def write(path, content=None, dtype="float32", **attributes):
    write_database(
        path, task="dust", fields=fields() if content is None else content, parameters=(),
        parameter_values=np.zeros((SKIES, 0)), simulation=np.arange(SKIES),
        attributes={"nside": NSIDE, "ordering": "RING", **attributes}, dtype=dtype,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("sky_pipeline") / "skies.h5")


@pytest.fixture(scope="module")
def database(path):
    return Database(path)


@pytest.fixture(scope="module")
def cutouts(database):
    return draw_cutouts(database, range(SKIES), NORTH, GRID, 22, seed=1)


def pipeline_of(database, cutouts, batch_size=4, seed=1, **options):
    return SkyPipeline(database, cutouts, GRID, batch_size, seed, **options)


def batches_of(dataset):
    return [(hi.numpy(), target.numpy()) for hi, target in dataset]


def check_same(batch, expected):
    for array, other in zip(batch, expected, strict=True):
        np.testing.assert_array_equal(array, other)


def projected(values, longitude, latitude, rotation):
    """A cutout by healpy."""
    projector = GnomonicProj(rot=(longitude, latitude, rotation), xsize=GRID.side, reso=GRID.pixel_size)
    return projector.projmap(values, lambda x, y, z: healpy.vec2pix(NSIDE, x, y, z))


def interpolated(values, longitude, latitude, rotation):
    """Bilinear between the pixels that are not NaN, which need half of the weight."""
    colatitude, azimuth = healpy.vec2ang(GRID.vectors(longitude, latitude, rotation).reshape(-1, 3))
    share = healpy.get_interp_val(np.isfinite(values).astype(float), colatitude, azimuth)
    total = healpy.get_interp_val(np.nan_to_num(values), colatitude, azimuth)
    found = np.where(share > 0.5 - 1e-9, total / np.maximum(share, 0.4), np.nan)
    return found.reshape(GRID.side, GRID.side)


def arrays_of(cutouts):
    return cutouts.sky, cutouts.longitude, cutouts.latitude, cutouts.rotation


@pytest.mark.parametrize(("interpolation", "cut"), [("nearest", projected), ("bilinear", interpolated)])
def test_cutouts_are_those_of_healpy(database, cutouts, interpolation, cut):
    pipeline = pipeline_of(database, cutouts, batch_size=5, interpolation=interpolation)
    hi, target = (np.concatenate(arrays) for arrays in zip(*batches_of(pipeline.evaluation()), strict=True))
    assert (hi.shape, target.shape) == ((22, 12, 12, CHANNELS), (22, 12, 12, 2))
    assert hi.dtype == target.dtype == np.float32
    content = {name: values.astype(np.float64) for name, (values, _) in fields().items()}
    for row, (sky, *where) in enumerate(zip(*arrays_of(cutouts), strict=True)):
        # Masked, as in section 2, but by 0 and 1.
        unmasked = np.where(content["mask"][sky] >= 0.5, 1.0, np.nan)
        for channel in range(CHANNELS):
            expected = np.nan_to_num(cut(content["hi_cube"][sky, :, channel] * unmasked, *where))
            np.testing.assert_allclose(hi[row, ..., channel], expected, rtol=1e-6, atol=1e-5)
        expected = np.nan_to_num(cut(content["dust"][sky] * unmasked, *where))
        np.testing.assert_allclose(target[row, ..., 0], expected, rtol=1e-6, atol=1e-4)
        np.testing.assert_array_equal(target[row, ..., 1], np.isfinite(cut(unmasked, *where)))
    assert set(cutouts.sky) == set(range(SKIES))
    assert set(np.unique(target[..., 1])) == {0.0, 1.0}


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_fractions_of_an_apodised_mask_change_no_brightness(tmp_path, interpolation):
    """What is shown is HI and dust themselves, not a fraction of them that a network would have to guess."""
    content = fields()
    content["hi_cube"][0][:], content["dust"][0][:] = 5.0, 3.0
    content["mask"][0][:] = np.clip((np.abs(LATITUDE) - 40.0) / 20.0, 0.0, 1.0)
    database = Database(write(tmp_path / "apodised.h5", content))
    cutouts = draw_cutouts(database, range(SKIES), NORTH, GRID, 8, seed=1)
    hi, target = SkyPipeline(database, cutouts, GRID, 8, 1, interpolation).load(0)
    mask = target[..., 1]
    assert 0.1 < mask.mean() < 0.95
    assert set(np.unique(mask)) == {0.0, 1.0}
    np.testing.assert_allclose(hi, np.broadcast_to(5.0 * mask[..., None], hi.shape), rtol=1e-6)
    np.testing.assert_allclose(target[..., 0], 3.0 * mask, rtol=1e-6)
    # As statistics of masked maps want it.
    apodisation(mask)


def test_float16_databases(tmp_path, cutouts):
    content = {name: (np.round(values * 8) / 8, unit) for name, (values, unit) in fields().items()}
    exact, half = (Database(write(tmp_path / f"{dtype}.h5", content, dtype)) for dtype in ("float32", "float16"))
    check_same(pipeline_of(half, cutouts).load(3), pipeline_of(exact, cutouts).load(3))


def test_shapes_and_steps(database, cutouts):
    pipeline = pipeline_of(database, cutouts)
    assert (pipeline.input_shape, pipeline.target_shape) == ((12, 12, CHANNELS), (12, 12, 2))
    assert (pipeline.batch_size, pipeline.steps_per_epoch) == (4, 5)
    spec = pipeline.training(0, 3).element_spec
    assert spec == (tf.TensorSpec((4, 12, 12, CHANNELS), tf.float32), tf.TensorSpec((4, 12, 12, 2), tf.float32))
    assert [len(hi) for hi, _ in batches_of(pipeline.evaluation(9))] == [9, 9, 4]
    assert pipeline.evaluation(11).element_spec[0].shape.as_list() == [11, 12, 12, CHANNELS]


def test_every_cutout_once_in_an_epoch(database, cutouts):
    pipeline = pipeline_of(database, cutouts, batch_size=11)
    epochs = [[longitude for step in (k, k + 1) for longitude in pipeline.step_cutouts(step).longitude] for k in (0, 2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(cutouts.longitude)
    assert epochs[0] != epochs[1]
    every = dict(zip(cutouts.longitude, np.concatenate([hi for hi, _ in pipeline.evaluation()]), strict=True))
    for step, (hi, _) in enumerate(batches_of(pipeline.training(0, 2))):
        np.testing.assert_array_equal(hi, [every[longitude] for longitude in pipeline.step_cutouts(step).longitude])


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("fresh", [False, True])
def test_steps_are_a_pure_function_of_seed_and_step(path, database, cutouts, fresh, interpolation):
    options = {"fresh": fresh, "interpolation": interpolation}
    pipeline = pipeline_of(database, cutouts, **options)
    whole = batches_of(pipeline.training(0, 12))
    # In another order, resumed in the middle, in other processes, and by several threads at once.
    for step in (11, 0, 5, 0):
        check_same(pipeline.load(step), whole[step])
    resumed = batches_of(pipeline_of(Database(path), cutouts, **options).training(7, 12))
    for batch, expected in zip(resumed, whole[7:], strict=True):
        check_same(batch, expected)
    copy = pickle.loads(pickle.dumps(pipeline))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for batch, expected in zip(pool.map(copy.load, range(12)), whole, strict=True):
            check_same(batch, expected)
    other = pipeline_of(database, cutouts, seed=2, **options)
    assert not np.array_equal(other.load(0)[0], whole[0][0])


def test_a_pickled_pipeline_is_small(database, cutouts):
    pipeline = pipeline_of(database, cutouts)
    pipeline.load(0)
    assert len(pickle.dumps(pipeline)) < PIXELS * 4


def test_fresh_cutouts_are_new_in_every_step_and_of_the_same_kind(database, cutouts):
    pipeline = pipeline_of(database, cutouts, batch_size=20, fresh=True)
    drawn = [pipeline.step_cutouts(step) for step in range(60)]
    longitude, latitude, rotation = (
        np.concatenate([getattr(one, name) for one in drawn]) for name in ("longitude", "latitude", "rotation")
    )
    assert all(len(one) == 20 for one in drawn)
    assert len(np.unique(longitude)) == 1200
    assert not np.isin(longitude, cutouts.longitude).any()
    assert NORTH.contains(longitude, latitude).all()
    assert scipy.stats.kstest(rotation, "uniform", (0, 360)).pvalue > 1e-3
    # Longitudes of what is left by masks that do not depend much on it.
    assert scipy.stats.kstest(longitude, "uniform", (0, 360)).pvalue > 1e-3
    assert np.bincount(np.concatenate([one.sky for one in drawn])).min() > 300
    assert max(masked_fraction(database, one).max() for one in drawn) <= 0.7
    # Evaluation and the number of steps are those of the cutouts that were given.
    fixed = pipeline_of(database, cutouts, batch_size=20)
    assert pipeline.steps_per_epoch == fixed.steps_per_epoch
    for batch, expected in zip(pipeline.evaluation(), fixed.evaluation(), strict=True):
        check_same(batch, expected)


def masked_fraction(database, cutouts):
    masks = database.read("mask", range(SKIES))
    return np.array(
        [(projected(masks[sky], *where) < 0.5).mean() for sky, *where in zip(*arrays_of(cutouts), strict=True)]
    )


def test_cutouts_that_are_mostly_masked_are_dropped(database):
    everything = draw_cutouts(database, range(SKIES), NORTH, GRID, 300, seed=4, most_masked=1.0)
    fractions = masked_fraction(database, everything)
    kept = draw_cutouts(database, range(SKIES), NORTH, GRID, int((fractions <= 0.7).sum()), seed=4)
    assert 0.1 < (fractions > 0.7).mean() < 0.7
    check_same(arrays_of(kept), [array[fractions <= 0.7] for array in arrays_of(everything)])
    assert masked_fraction(database, kept).max() <= 0.7
    # Weights below 1/2 count as masked, those above do not.
    assert 0 < (database.read("mask", [0]) == 0.25).mean() < 1


def test_a_smaller_set_is_the_begin_of_a_larger_one(database):
    small, large = (draw_cutouts(database, [0, 2], SOUTH, GRID, n, seed=5) for n in (10, 700))
    assert (len(small), len(large)) == (10, 700)
    check_same(arrays_of(large[:10]), arrays_of(small))
    check_same(arrays_of(large.take(10)), arrays_of(small))
    assert len(small.take(99)) == 10
    assert set(large.sky) == {0, 2}
    assert SOUTH.contains(large.longitude, large.latitude).all()
    again, other = (draw_cutouts(database, [0, 2], SOUTH, GRID, 10, seed) for seed in (5, 6))
    check_same(arrays_of(again), arrays_of(small))
    assert not np.isin(other.longitude, small.longitude).any()


def test_masks_instead_of_a_database(database):
    masks = database.read("mask", range(SKIES))
    check_same(
        arrays_of(draw_cutouts(masks, [1], NORTH, GRID, 20, seed=7)),
        arrays_of(draw_cutouts(database, [1], NORTH, GRID, 20, seed=7)),
    )


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_training_never_contains_a_pixel_of_the_test_area(tmp_path, fresh, interpolation):
    content = fields()
    for values, _ in content.values():
        values[:] = 1.0
    for pair in (north_south(guard=20.5), east_west(guard=20.5)):
        train, test = (half_sky(area, NSIDE) for area in pair)
        content["hi_cube"][0][:, test] = 1e9
        content["dust"][0][:, test] = 1e9
        content["hi_cube"][0][:, train] = content["dust"][0][:, train] = 1.0
        database = Database(write(tmp_path / f"{pair[0].pole_latitude}.h5", content))
        cutouts = draw_cutouts(database, range(SKIES), pair[0], GRID, 100, seed=1)
        pipeline = SkyPipeline(database, cutouts, GRID, 50, 1, interpolation, fresh)
        highest = max(max(hi.max(), target.max()) for hi, target in map(pipeline.load, range(6)))
        assert highest < 2
        # The check is worth something: the other area shows them.
        other = draw_cutouts(database, range(SKIES), pair[1], GRID, 5, seed=1)
        assert SkyPipeline(database, other, GRID, 5, 1, interpolation, fresh).load(0)[0].max() > 1e8


def test_too_large_a_batch_is_reduced(database, cutouts, caplog):
    with caplog.at_level(logging.WARNING):
        assert pipeline_of(database, cutouts, batch_size=100).batch_size == 22
    assert "batch_size 100 is reduced to 22, the number of cutouts" in caplog.text


@pytest.mark.parametrize("field", ["hi_cube", "dust", "mask"])
def test_bad_pixels_never_reach_training(path, tmp_path, field):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(path.read_bytes())
    pixel = healpy.ang2pix(NSIDE, 40.0, 70.0, lonlat=True)
    with h5py.File(bad, "r+") as file:
        file["maps"][field][1, pixel] = np.nan
    cutouts = Cutouts([0, 1], [40.0, 40.0], [70.0, 70.0], [0.0, 0.0])
    message = f"/maps/{field}: sky 1 is not finite at pixel {pixel}"
    with pytest.raises(ValueError, match=message):
        pipeline_of(Database(bad), cutouts).load(0)
    with pytest.raises(Exception, match=message):
        batches_of(pipeline_of(Database(bad), cutouts).evaluation())


def test_values_whose_sum_overflows_are_fine_and_those_that_overflow_are_not(tmp_path):
    content = fields()
    content["hi_cube"][0][:] = 3e38
    huge = Database(write(tmp_path / "huge.h5", content))
    cutouts = Cutouts([0], [40.0], [70.0], [0.0])
    assert pipeline_of(huge, cutouts).load(0)[0].max() == np.float32(3e38)
    with h5py.File(tmp_path / "huge.h5", "r+") as file:
        del file["maps/hi_cube"]
        file["maps"]["hi_cube"] = np.full((SKIES, PIXELS, CHANNELS), 1e39)
        file["maps/hi_cube"].attrs["units"] = "K"
    with pytest.raises(ValueError, match="values of sky 0 are too large for float32"):
        pipeline_of(Database(tmp_path / "huge.h5"), cutouts).load(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "n: expected a positive number of cutouts, got 0"),
        ({"n": 2.0}, "n: expected a positive number of cutouts, got 2.0"),
        ({"seed": -1}, "seed: expected an integer >= 0, got -1"),
        ({"most_masked": 1.5}, "most_masked: expected a fraction from 0 to 1, got 1.5"),
        ({"skies": []}, r"skies: expected at least one number of a sky, got float64 of shape \(0,\)"),
        ({"skies": [0, 3]}, "skies: there are skies 0 to 2, got 0 to 3"),
        ({"database": np.ones(PIXELS)}, r"masks: expected HEALPix maps of shape \(n_skies, n_pixels\), got \(12288,\)"),
        ({"database": np.ones((3, 100))}, r"masks: expected HEALPix maps .* got \(3, 100\)"),
        (
            {"database": np.zeros((3, 192))},
            r"only 0 of \d+ random cutouts in SkyArea.* have at most 70% of their pixels masked\. Choose another area",
        ),
    ],
)
def test_arguments_of_a_draw(database, changes, message):
    arguments = {"database": database, "skies": [0], "area": NORTH, "grid": GRID, "n": 3, "seed": 1, **changes}
    with pytest.raises(ValueError, match=message):
        draw_cutouts(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cutouts": Cutouts([], [], [], [])}, "cutouts: expected at least one, got none"),
        ({"cutouts": Cutouts([3], [0.0], [60.0], [0.0])}, "cutouts: there are skies 0 to 2, got 3 to 3"),
        ({"cutouts": Cutouts([0], [0.0], [60.0], [0.0]), "fresh": True}, "fresh: expected cutouts of draw_cutouts"),
        ({"interpolation": "cubic"}, r"interpolation: expected one of \['nearest', 'bilinear'\], got 'cubic'"),
        ({"batch_size": 0}, "batch_size: expected a positive integer, got 0"),
        ({"seed": -1}, "seed: expected an integer >= 0, got -1"),
    ],
)
def test_arguments_of_the_pipeline(database, cutouts, changes, message):
    with pytest.raises(ValueError, match=message):
        pipeline_of(**{"database": database, "cutouts": cutouts, **changes})


def test_databases_that_do_not_fit(tmp_path, cutouts):
    content = fields()
    nested = Database(write(tmp_path / "nested.h5", content, ordering="NESTED"))
    with pytest.raises(ValueError, match=r"nested.h5: expected HEALPix maps in RING ordering, got 12288 pixels in NES"):
        pipeline_of(nested, cutouts)
    flat = {**content, "hi_cube": (content["hi_cube"][0][..., 0], "K")}
    with pytest.raises(ValueError, match=r"flat.h5: expected hi_cube of shape \(n_pixels, n_channels\)"):
        pipeline_of(Database(write(tmp_path / "flat.h5", flat)), cutouts)
    del content["mask"]
    with pytest.raises(ValueError, match=r"missing: \['mask'\]"):
        draw_cutouts(Database(write(tmp_path / "bare.h5", content)), [0], NORTH, GRID, 3, seed=1)


def test_records_of_cutouts():
    with pytest.raises(ValueError, match=r"sky: expected one integer per cutout, got float64 of shape \(1,\)"):
        Cutouts([0.5], [0.0], [0.0], [0.0])
    with pytest.raises(ValueError, match=r"rotation: expected one angle per cutout, shape \(2,\), got \(1,\)"):
        Cutouts([0, 1], [0.0, 1.0], [0.0, 1.0], [0.0])


def test_a_cutout_of_a_small_area(database):
    area = SkyArea(40.0, 70.0, guard=89.0)
    drawn = draw_cutouts(database, [0], area, GRID, 50, seed=1)
    assert healpy.rotator.angdist([40.0, 70.0], [drawn.longitude, drawn.latitude], lonlat=True).max() < np.radians(1)


def test_examples_in_docstrings():
    assert doctest.testmod(sky_pipeline).failed == 0


@pytest.mark.parametrize("fresh", [False, True])
def test_workers_make_the_rows_of_one_batch(database, cutouts, fresh):
    pipeline = pipeline_of(database, cutouts, fresh=fresh)
    parts = [batches_of(pipeline.training(3, 5, part, 2)) for part in range(2)]
    for step in (3, 4):
        for kind, whole in enumerate(pipeline.load(step)):
            np.testing.assert_array_equal(np.concatenate([part[step - 3][kind] for part in parts]), whole)
