import json
import logging
import re
import tracemalloc
import types
import warnings

import healpy
import keras
import numpy as np
import pytest
import tensorflow as tf
from astropy.io import fits

from keras_cosmo.data.database import Database, write_database
from keras_cosmo.data.sky_areas import east_west, north_south
from keras_cosmo.export.saved_model import Signature, export_saved_model
from keras_cosmo.gnomonic import GnomonicGrid
from keras_cosmo.inference.sky_prediction import (
    _compare_preparation,
    _interpolated,
    _outside,
    _training_of,
    _warn_of_training_data,
    predict_sky,
    write_sky,
    write_sky_prediction,
)

NSIDE = 64
PIXELS = 12 * NSIDE**2
GRID = GnomonicGrid(side=32, pixel_size=46.8)
VELOCITIES = np.array([-10.0, -5.0, 0.0])


def smooth_maps(count, lmax=20, seed=1, nside=NSIDE):
    """Maps without small scales, float32, about 10 with a scatter of about 1."""
    rng = np.random.default_rng(seed)
    maps = []
    for _ in range(count):
        n = healpy.Alm.getsize(lmax)
        harmonics = rng.standard_normal(n) + 1j * rng.standard_normal(n)
        values = healpy.alm2map(harmonics, nside, lmax=lmax)
        maps.append(10.0 + values / values.std())
    return np.array(maps, np.float32)


@pytest.fixture(scope="module")
def sky():
    latitude = healpy.pix2ang(NSIDE, np.arange(PIXELS), lonlat=True)[1]
    return {
        "hi_cube": np.ascontiguousarray(smooth_maps(3).T)[None],
        "mask": (np.abs(latitude) > 15.0).astype(np.float32)[None],
    }


@pytest.fixture(scope="module")
def whole(sky):
    return {**sky, "mask": np.ones_like(sky["mask"])}


def channel(number):
    return lambda hi: hi[..., number]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_a_predicted_channel_is_that_channel(whole, interpolation):
    result = predict_sky(channel(1), whole, 0, GRID, interpolation=interpolation)
    truth = whole["hi_cube"][0, :, 1]
    error = result.mean - truth
    assert result.nside == NSIDE
    assert np.isfinite(error).all()
    limit = 0.01 if interpolation == "bilinear" else 0.05
    assert error.std() < limit * truth.std()
    assert np.abs(error).max() < 8.0 * limit * truth.std()
    assert abs(error.mean()) < 0.001 * truth.std()
    # Patches agree where they overlap.
    assert np.median(result.scatter) < 2.0 * limit * truth.std()
    assert result.patches.min() >= 1


def test_small_scales_are_kept():
    """Waves of six pixels of a patch keep their amplitude."""
    patch = np.sin(np.arange(32) * 2.0 * np.pi / 6.0) * np.ones((32, 1))
    x, y = np.random.default_rng(1).uniform(4.0, 27.0, (2, 20000))
    found = _interpolated(patch, np.ones((32, 32), bool), x, y)
    truth = np.sin(x * 2.0 * np.pi / 6.0)
    assert np.sum(found * truth) / np.sum(truth**2) > 0.95
    assert np.abs(found - truth).max() < 0.1
    # A parabola is exact, and so is a plane beside masked pixels.
    rows, columns = np.mgrid[:32, :32]
    np.testing.assert_allclose(
        _interpolated(rows**2.0 + rows * columns, np.ones((32, 32), bool), x, y), y**2 + x * y, rtol=1e-9
    )
    used = columns > 10
    beside = (x > 11.0) & (x < 14.0)
    found = _interpolated(np.where(used, 2.0 * rows + columns, 1e6), used, x[beside], y[beside])
    np.testing.assert_allclose(found, 2.0 * y[beside] + x[beside], rtol=1e-9)


def test_at_the_edge_of_the_mask_too(sky):
    result = predict_sky(channel(0), sky, 0, GRID, interpolation="nearest")
    used = sky["mask"][0] > 0.0
    assert np.isnan(result.mean[~used]).all()
    assert np.isnan(result.scatter[~used]).all()
    assert not result.patches[~used].any()
    assert np.isfinite(result.mean[used]).all()
    neighbours = healpy.get_all_neighbours(NSIDE, np.arange(PIXELS)).T
    edge = used & ~used[neighbours].all(axis=1)
    error = result.mean - sky["hi_cube"][0, :, 0]
    assert np.abs(error[edge]).max() < 0.5
    assert np.abs(error[edge]).mean() < 0.05


def test_mean_scatter_and_number_of_patches(whole):
    """A prediction that is another constant for each patch: numbers by hand from the same windows."""
    given = []

    def predict(hi):
        constants = np.arange(len(given), len(given) + len(hi), dtype=float)
        given.extend(constants)
        return np.broadcast_to(constants[:, None, None], hi.shape[:3])

    result = predict_sky(predict, whole, 0, GRID, centres_nside=8, rotations=2, batch_size=50)
    assert len(given) == 2 * 768
    longitude, latitude = (np.repeat(angle, 2) for angle in healpy.pix2ang(8, np.arange(768), lonlat=True))
    rotation = np.tile([0.0, 180.0], 768)
    for pixel in (0, 5000, 25000, PIXELS - 1):
        vector = np.array(healpy.pix2vec(NSIDE, pixel))[None]
        x, y, front = (a[:, 0] for a in GRID.project(vector, longitude, latitude, rotation))
        inside = front & (np.nan_to_num(np.abs(x - 15.5), nan=99.0) <= 15.5) & (np.abs(y - 15.5) <= 15.5)
        window = np.sin(np.pi * (x[inside] + 0.5) / 32) ** 2 * np.sin(np.pi * (y[inside] + 0.5) / 32) ** 2
        values = np.flatnonzero(inside)
        mean = np.average(values, weights=window)
        assert result.patches[pixel] == len(values)
        assert result.mean[pixel] == pytest.approx(mean, rel=1e-4)
        assert result.scatter[pixel] == pytest.approx(
            np.sqrt(np.average((values - mean) ** 2, weights=window)), rel=1e-3
        )


def test_one_patch_has_no_scatter():
    """A mask that leaves the surroundings of one centre."""
    vectors = np.array(healpy.pix2vec(NSIDE, np.arange(PIXELS)))
    mask = (vectors.T @ healpy.pix2vec(8, 300) > np.cos(np.radians(11.0))).astype(np.float32)[None]
    cube = np.ones((1, PIXELS, 2), np.float32)
    result = predict_sky(channel(0), {"hi_cube": cube, "mask": mask}, 0, GRID, centres_nside=8, most_masked=0.42)
    np.testing.assert_array_equal(result.patches, mask[0])
    assert (result.scatter[mask[0] > 0.0] == 0.0).all()
    np.testing.assert_allclose(result.mean[mask[0] > 0.0], 1.0, rtol=1e-6)


def test_what_predict_is_given(sky):
    """HI times the mask, float32, in batches."""
    shapes = []

    def predict(hi):
        shapes.append(hi.shape)
        assert hi.dtype == np.float32
        return (hi[..., 0] > 0.0).astype(float)

    calls = []
    result = predict_sky(predict, sky, 0, GRID, batch_size=7, progress=lambda *numbers: calls.append(numbers))
    assert all(shape[0] <= 7 and shape[1:] == (32, 32, 3) for shape in shapes)
    total = sum(shape[0] for shape in shapes)
    assert calls[-1] == (total, total)
    np.testing.assert_allclose(result.mean[sky["mask"][0] > 0], 1.0, rtol=1e-5)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_an_apodised_mask_takes_nothing_away(sky, interpolation, caplog):
    """The map is the prediction from the HI itself, not from a fraction of it, up to where the weight is 1/2."""
    latitude = np.abs(healpy.pix2ang(NSIDE, np.arange(PIXELS), lonlat=True)[1])
    apodised = {**sky, "mask": np.clip((latitude - 5.0) / 20.0, 0.0, 1.0)[None]}
    binary = {**sky, "mask": (apodised["mask"] >= 0.5).astype(np.float32)}
    with caplog.at_level(logging.INFO):
        found = predict_sky(channel(0), apodised, 0, GRID, interpolation=interpolation, centres_nside=8)
    assert sum("pixels of the mask have a weight between 0 and 1" in message for message in caplog.messages) == 1
    caplog.clear()
    with caplog.at_level(logging.INFO):
        expected = predict_sky(channel(0), binary, 0, GRID, interpolation=interpolation, centres_nside=8)
    assert "have a weight between" not in caplog.text
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(np.isfinite(found.mean), (latitude >= 15.0) & (found.patches > 0))
    edge = np.isfinite(found.mean) & (latitude < 25.0)
    truth = sky["hi_cube"][0, :, 0]
    assert np.mean(found.mean[edge] / truth[edge]) == pytest.approx(1.0, abs=0.003)
    assert np.abs(found.mean - truth)[edge].mean() < 0.05


def test_patches_are_left_out_in_the_orientations_in_which_they_are_masked(whole):
    """A band in the mask across one patch, which covers more of it the one way than turned by 45 degrees."""
    longitude, latitude = healpy.pix2ang(NSIDE, np.arange(PIXELS), lonlat=True)
    mask = np.zeros(PIXELS, np.float32)
    mask[(np.abs(latitude - 0.0) < 3.0) & (np.abs((longitude - 90.0 + 180.0) % 360.0 - 180.0) < 17.5)] = 1.0
    centre = healpy.ang2pix(8, 90.0, 0.0, lonlat=True)
    shares = {}
    for rotation in (0.0, 45.0):
        pixels = GRID.pixels(NSIDE, *healpy.pix2ang(8, centre, lonlat=True), rotation)
        shares[rotation] = np.mean(mask[pixels] == 0.0)
    assert shares[45.0] < shares[0.0] - 0.005
    between = 0.5 * sum(shares.values())
    given = []

    def predict(hi):
        given.extend(np.mean(hi[..., 0] == 0.0, axis=(1, 2)))
        return hi[..., 0]

    # Eight orientations: 0, 45, 90, ... of which only the odd ones of this patch pass.
    predict_sky(predict, {**whole, "mask": mask[None]}, 0, GRID, centres_nside=8, rotations=8, most_masked=between)
    assert given
    assert max(given) <= between
    assert min(given) == pytest.approx(shares[45.0], abs=0.02)


def test_memory_is_what_is_said():
    """40 bytes per pixel of the sky, beside patches that are small here."""
    nside = 512
    n_pixels = 12 * nside**2
    mask = np.zeros((1, n_pixels), np.float32)
    mask[0, healpy.query_disc(nside, healpy.pix2vec(8, 300), np.radians(5.0))] = 1.0
    cube = np.broadcast_to(np.float32(1.0), (1, n_pixels, 1))
    grid = GnomonicGrid(side=16, pixel_size=46.8)
    tracemalloc.start()
    try:
        predict_sky(channel(0), {"hi_cube": cube, "mask": mask}, 0, grid, batch_size=4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 35.0 < peak / n_pixels < 42.0


def test_batches_change_nothing(sky):
    one, many = (predict_sky(channel(2), sky, 0, GRID, batch_size=size) for size in (1, 50))
    np.testing.assert_array_equal(one.mean, many.mean)
    np.testing.assert_array_equal(one.scatter, many.scatter)


def test_default_centres_of_the_papers_patches(whole):
    calls = []
    predict_sky(
        channel(0), whole, 0, GnomonicGrid(64, 23.4), batch_size=768, progress=lambda *numbers: calls.append(numbers)
    )
    assert calls == [(768, 768)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sky": 1}, "data: there are skies 0 to 0, got 1"),
        ({"sky": True}, "data: there are skies 0 to 0, got True"),
        ({"rotations": 0}, "rotations: expected an integer of at least 1, got 0"),
        ({"batch_size": 1.5}, "batch_size: expected an integer of at least 1, got 1.5"),
        ({"interpolation": "cubic"}, r"interpolation: expected one of \['nearest', 'bilinear'\], got 'cubic'"),
        ({"most_masked": 2.0}, r"most_masked: expected a share in \[0, 1\], got 2.0"),
        ({"centres_nside": 3}, "centres_nside: expected a power of two from 1 to 64, got 3"),
        ({"centres_nside": 4}, "centres_nside: with 4, centres are up to .* gaps are left. Choose at least 8"),
        ({"grid": GnomonicGrid(4, 5.0)}, "grid: patches of 0.333 degrees are too small to cover the sky"),
        ({"data": {"mask": np.ones((1, 12))}}, r"data: expected hi_cube and mask, \['hi_cube'\] is missing"),
        (
            {"data": {"hi_cube": np.ones((1, 12)), "mask": np.ones((1, 12))}},
            r"expected hi_cube of shape \(n_skies, n_pixels, channels\) .* got \(1, 12\) and \(1, 12\)",
        ),
        ({"data": {"hi_cube": np.ones((1, 12, 2)), "mask": np.full((1, 12), np.nan)}}, "mask of sky 0 is not finite"),
        (
            {"data": {"hi_cube": np.ones((1, PIXELS, 1)), "mask": np.zeros((1, PIXELS))}},
            "mask: no patch has at most 70% of its pixels masked",
        ),
        (
            {"data": {"hi_cube": np.full((1, PIXELS, 1), np.inf), "mask": np.ones((1, PIXELS))}},
            "hi_cube: sky 0 is not finite everywhere. Bad pixels must be 0",
        ),
        ({"predict": lambda hi: hi}, r"predict: expected patches of shape \(16, 32, 32\), got \(16, 32, 32, 3\)"),
        ({"predict": lambda hi: hi[..., 0] * np.nan}, "predict: 16 of 16 patches are not finite"),
    ],
)
def test_wrong_arguments(whole, arguments, message):
    arguments = {"predict": channel(0), "data": whole, "sky": 0, "grid": GRID, **arguments}
    with pytest.raises(ValueError, match=message):
        predict_sky(**arguments)


@pytest.fixture
def prediction(sky):
    return predict_sky(channel(0), sky, 0, GRID)


def test_file_is_standard_healpix(prediction, tmp_path):
    path = tmp_path / "dust.fits"
    path.write_text("old")
    write_sky(path, prediction, facts={"model": "d\u00fcst", "sky": 0, "longer_name": 1.5, "run": True})
    assert [entry.name for entry in tmp_path.iterdir()] == ["dust.fits"]
    columns, header = healpy.read_map(path, field=(0, 1, 2), h=True, dtype=None)
    header = dict(header)
    for values, found in zip((prediction.mean, prediction.scatter), columns, strict=False):
        np.testing.assert_array_equal(np.isnan(values), found == np.float32(healpy.UNSEEN))
        np.testing.assert_array_equal(values[~np.isnan(values)], found[~np.isnan(values)])
    np.testing.assert_array_equal(columns[2], prediction.patches)
    assert [header[f"TTYPE{i}"] for i in (1, 2, 3)] == ["DUST", "SCATTER", "PATCHES"]
    assert (header["TUNIT1"], header["TUNIT2"]) == ("uK_RJ", "uK_RJ")
    assert (header["ORDERING"], header["COORDSYS"], header["NSIDE"]) == ("RING", "G", NSIDE)
    assert (header["MODEL"], header["SKY"], header["RUN"]) == ("d?st", 0, True)
    with fits.open(path) as units:
        comment = "".join(units[1].header["COMMENT"])
        assert units[1].data["PATCHES"].dtype.kind == "i"
    assert json.loads(comment)["longer_name"] == 1.5


def test_file_may_be_compressed(prediction, tmp_path):
    write_sky(tmp_path / "dust.fits.gz", prediction, unit="K")
    values = healpy.read_map(tmp_path / "dust.fits.gz", dtype=None)
    np.testing.assert_array_equal(values == np.float32(healpy.UNSEEN), np.isnan(prediction.mean))


def test_files_that_cannot_be_written(prediction, tmp_path):
    with pytest.raises(ValueError, match=r"dust.h5: expected a file to write that ends in .fits or .fits.gz"):
        write_sky(tmp_path / "dust.h5", prediction)
    with pytest.raises(ValueError, match=r"unseen: expected one per pixel, \(49152,\), got shape \(5,\)"):
        write_sky(tmp_path / "dust.fits", prediction, unseen=np.ones(5))
    with pytest.raises(FileNotFoundError, match=r"none does not exist. Make it first"):
        write_sky(tmp_path / "none" / "dust.fits", prediction)
    (tmp_path / "folder.fits").mkdir()
    with pytest.raises(ValueError, match="expected a file to write, got a folder"):
        write_sky(tmp_path / "folder.fits", prediction)


def export(folder, channels=3, side=None, factor=2.0, facts=None, maps=True):
    """A model that is a factor times the first channel."""
    shape = (side, side, channels)
    cubes = keras.Input(shape, name="hi_cube")
    network = keras.Model(cubes, keras.layers.Rescaling(factor)(cubes))

    def predict(hi_cube):
        dust = network(hi_cube, training=False)[..., 0]
        return {"dust": dust if maps else tf.reduce_mean(dust, (1, 2))}

    signature = Signature(
        predict,
        {"hi_cube": tf.TensorSpec([None, *shape], tf.float32)},
        {"hi_cube": "K", "dust": "uK_RJ"},
        {"hi_cube": np.zeros((1, side or 32, side or 32, channels), "float32")},
    )
    export_saved_model(network, folder, {"serving_default": signature}, facts)
    return folder


FACTS = {
    "preset": {
        "cutout_cells": 32, "pixel_size": 46.8, "interpolation": "bilinear", "most_masked": 0.7, "train_area": "north",
    },
    "data": {"fingerprint": "sha256:" + "0123456789abcdef" * 4, "simulations": 1, "maps": 1},
    "normalization": {
        "velocities": VELOCITIES.tolist(), "low_pass_ell": 60.0, "low_pass_order": 4.0, "nside": NSIDE,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return export(tmp_path_factory.mktemp("models") / "dust", facts=FACTS)


def write_sky_database(path, sky, velocities=VELOCITIES, unit="K", **attributes):
    count = len(sky["mask"])
    write_database(
        path,
        task="dust",
        fields={"hi_cube": (sky["hi_cube"], unit), "mask": (sky["mask"], "")},
        parameters=(),
        parameter_values=np.zeros((count, 0)),
        simulation=np.arange(count),
        attributes={"nside": NSIDE, "ordering": "RING", "velocities": velocities, **attributes},
    )
    return path


def test_a_model_and_a_database_become_a_file(model, sky, tmp_path, caplog):
    data = write_sky_database(tmp_path / "sky.h5", sky, low_pass_ell=60.0)
    facts = write_sky_prediction(model, data, tmp_path / "dust.fits", batch_size=9)
    expected = predict_sky(lambda hi: 2.0 * hi[..., 0], sky, 0, GRID, interpolation="bilinear")
    found, header = healpy.read_map(tmp_path / "dust.fits", h=True, dtype=None)
    seen = expected.patches > 0
    np.testing.assert_allclose(found[seen], expected.mean[seen], rtol=1e-5)
    assert (found[~seen] < -1e30).all()
    assert facts["unit"] == "uK_RJ"
    assert facts["share"] == pytest.approx(sky["mask"].mean())
    header = dict(header)
    assert (header["MODEL"], header["DATA"], header["SKY"], header["SIDE"]) == ("dust", "sky.h5", 0, 32)
    assert (header["PIXSIZE"], header["LOWPASS"], header["VERSION"]) == (46.8, 60.0, "1")
    assert (header["TRAINED"], header["SPLITBY"]) == ("north", "area")
    assert FACTS["data"]["fingerprint"].startswith(header["TRAINSKY"])
    assert len(header["TRAINSKY"]) == 60
    assert facts["trained"] == "trained on the north (split by area, training data sha256:0123456789ab)"
    latitude = healpy.pix2ang(NSIDE, np.arange(PIXELS), lonlat=True)[1]
    unseen = healpy.read_map(tmp_path / "dust.fits", field=3, dtype=None)
    np.testing.assert_array_equal(unseen, latitude < -1e-5)
    assert header["TTYPE4"] == "UNSEEN"
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("area", "inside", "outside"),
    [("south", -45.0, 45.0), ("east", (270.0, 0.0), (90.0, 0.0)), ("west", (90.0, 0.0), (270.0, 0.0))],
)
def test_what_is_unseen_is_the_other_side(area, inside, outside):
    unseen = _outside(area, NSIDE)
    inside, outside = (
        healpy.ang2pix(NSIDE, *(where if np.ndim(where) else (10.0, where)), lonlat=True) for where in (inside, outside)
    )
    assert (unseen[inside], unseen[outside]) == (False, True)
    assert unseen.mean() == pytest.approx(0.5, abs=0.01)
    # Nothing of it is in any cutout of the training.
    drawn = dict(zip(("north", "south", "east", "west"), (*north_south(), *east_west()), strict=True))[area]
    centres = drawn.draw(300, np.random.default_rng(1))
    assert not unseen[GnomonicGrid().pixels(NSIDE, *centres, np.arange(300.0))].any()


@pytest.mark.parametrize(
    ("simulations", "ending"),
    [
        (1, r"predictions in the north are no test of it\."),
        (3, "no test of it, unless sky 1 was one of the test skies"),
    ],
)
def test_predictions_of_the_training_data_are_no_test(sky, tmp_path, caplog, simulations, ending):
    several = {name: np.repeat(maps, 3, axis=0) for name, maps in sky.items()}
    data = write_sky_database(tmp_path / "sky.h5", several)
    known = {"fingerprint": Database(data).scan().fingerprint, "simulations": simulations}
    trained = _training_of({**FACTS, "data": known})
    _warn_of_training_data(Database(data), 1, trained)
    assert re.search(r"sky\.h5: the network was trained on these data: .*" + ending, caplog.text)
    assert trained["splitby"] == ("area" if simulations == 1 else "sky and area")
    caplog.clear()
    _warn_of_training_data(Database(data), 1, {**trained, "trainsky": "sha256:0"})
    _warn_of_training_data(Database(data), 1, {})
    assert not caplog.records


@pytest.mark.parametrize(
    ("attributes", "warning"),
    [
        ({}, None),
        ({"low_pass_ell": 60.0, "low_pass_order": 4.0}, None),
        (
            {"low_pass_ell": 40.0, "low_pass_order": 4.0},
            "the HI is low-passed at multipole 40 with order 4, that of the training low-passed at multipole 60 with",
        ),
        ({"low_pass_ell": 60.0, "low_pass_order": 2.0}, "the HI is .* 60 with order 2, that of .* 60 with order 4: "),
        ({"low_pass_ell": 0.0}, "the HI is not low-passed, that of the training low-passed at multipole 60: the"),
    ],
)
def test_another_preparation_is_named(sky, tmp_path, caplog, attributes, warning):
    predictor = types.SimpleNamespace(facts=FACTS)
    _compare_preparation(predictor, Database(write_sky_database(tmp_path / "sky.h5", sky, **attributes)))
    assert len(caplog.records) == (warning is not None)
    if warning:
        assert re.search(r"sky\.h5: " + warning, caplog.text)
        assert caplog.records[0].levelname == "WARNING"
    caplog.clear()
    # Models that do not say it are taken as they are.
    _compare_preparation(types.SimpleNamespace(facts={}), Database(tmp_path / "sky.h5"))
    assert not caplog.records


def test_another_nside_is_no_warning(sky, tmp_path, caplog):
    facts = {"normalization": {"nside": 1024, "low_pass_ell": 0.0, "low_pass_order": 4.0}}
    data = write_sky_database(tmp_path / "sky.h5", sky, low_pass_ell=0.0, low_pass_order=2.0)
    with caplog.at_level(logging.INFO):
        _compare_preparation(types.SimpleNamespace(facts=facts), Database(data))
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "sky.h5: nside is 64, that of the training 1024" in caplog.text


def test_a_model_of_other_origin_gets_the_papers_patches(sky, tmp_path, caplog):
    model = export(tmp_path / "plain", side=64)
    data = write_sky_database(tmp_path / "sky.h5", sky)
    facts = write_sky_prediction(model, data, tmp_path / "dust.fits", centres_nside=8, batch_size=64)
    assert facts["trained"] == "the model does not say which part of the sky it was trained on"
    with fits.open(tmp_path / "dust.fits") as units:
        assert units[1].columns.names == ["DUST", "SCATTER", "PATCHES"]
        assert not {"TRAINED", "TRAINSKY", "SPLITBY"} & set(units[1].header)
    assert "does not say how large the pixels of its patches are" in caplog.text
    assert dict(healpy.read_map(tmp_path / "dust.fits", h=True)[1])["PIXSIZE"] == 23.4


def test_models_and_data_that_do_not_fit(model, sky, tmp_path):
    data = write_sky_database(tmp_path / "sky.h5", sky)
    out = tmp_path / "dust.fits"
    with pytest.raises(FileNotFoundError, match="No SavedModel in"):
        write_sky_prediction(tmp_path / "none", data, out)
    with pytest.raises(ValueError, match=r"expected a model from hi_cube \(batch, side, side, channels\) to one map"):
        write_sky_prediction(export(tmp_path / "numbers", maps=False), data, out)
    with pytest.raises(ValueError, match=r"the cube has 3 channels, but .* takes 2"):
        write_sky_prediction(export(tmp_path / "two", channels=2), data, out)
    other = write_sky_database(tmp_path / "other.h5", sky, velocities=VELOCITIES + 1.0)
    with pytest.raises(ValueError, match="the 3 channels from -9 to 1 km/s are not those of the training"):
        write_sky_prediction(model, other, out)
    kelvin = write_sky_database(tmp_path / "mk.h5", sky, unit="mK")
    with pytest.raises(ValueError, match=r"the cube is in 'mK', but .* takes 'K'"):
        write_sky_prediction(model, kelvin, out)
    nested = write_sky_database(tmp_path / "nested.h5", sky, ordering="NESTED")
    with pytest.raises(ValueError, match="expected maps in RING order, got NESTED"):
        write_sky_prediction(model, nested, out)
    with pytest.raises(ValueError, match="there are skies 0 to 0, got 3"):
        write_sky_prediction(model, data, out, sky=3)
    with pytest.raises(ValueError, match=r"ends in .fits or"):
        write_sky_prediction(model, data, tmp_path / "dust.csv")
    assert not out.exists()


@pytest.mark.slow
def test_full_size_in_bounded_memory(tmp_path):
    """Nside 1024 from a file: pixels of the cube are read where patches are."""
    nside = 1024
    cube = np.lib.format.open_memmap(tmp_path / "cube.npy", "w+", np.float32, (1, 12 * nside**2, 2))
    cube[0] = smooth_maps(2, lmax=100, nside=nside).T
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = {"hi_cube": cube, "mask": np.ones(cube.shape[:2], np.float32)}
        result = predict_sky(channel(1), data, 0, GnomonicGrid(64, 23.4), interpolation="bilinear")
    error = result.mean - cube[0, :, 1]
    assert error.std() < 0.01
