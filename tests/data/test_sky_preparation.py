import logging
import os
import pathlib
import pickle
import re
import shutil
import signal
import subprocess
import sys

import h5py
import healpy
import numpy as np
import pytest
import threadpoolctl
from sky_files import channel_velocities, make_masks, smooth_sky, write_cube, write_masks, write_planck_map

from keras_cosmo.data import sky_preparation
from keras_cosmo.data.campaign import run_campaign
from keras_cosmo.data.database import Database, write_database
from keras_cosmo.data.database_writer import partial_path
from keras_cosmo.data.sky_preparation import (
    UNITS,
    check_sky,
    fill_bad_pixels,
    pixel_side,
    prepare_sky,
    staging_folder,
    summarize_sky,
)
from keras_cosmo.simulations.galactic import GalacticSkySimulator

NSIDE, CHANNELS = 16, 6
PIXELS = 12 * NSIDE**2
VELOCITIES = np.array([-70.0, -60.0, -20.0, 0.0, 10.0, 20.0])
WITHIN = slice(1, 5)
RUNNER = pathlib.Path(__file__).parent / "run_prepare_sky.py"


def make_map(seed, ell=None):
    """Map of multipoles up to 16, from their coefficients; those of the Butterworth filter with cutoff ``ell``."""
    generator = np.random.default_rng(seed)
    harmonics = generator.standard_normal((2, healpy.Alm.getsize(16))).T.copy().view(complex)[:, 0]
    harmonics[:17] = harmonics[:17].real
    harmonics[0] = 100.0
    if ell:
        harmonics = healpy.almxfl(harmonics, 1.0 / np.sqrt(1.0 + (np.arange(17) / ell) ** 8))
    return healpy.alm2map(harmonics, NSIDE, lmax=16, pol=False).astype(np.float32)


@pytest.fixture(scope="module")
def first_files(tmp_path_factory):
    """Cube of six channels, dust in NESTED order, and an apodised mask."""
    folder = tmp_path_factory.mktemp("first") / "in"
    folder.mkdir()
    np.save(folder / "cube.npy", np.stack([make_map(seed) for seed in range(CHANNELS)]))
    np.savetxt(folder / "velocities.txt", VELOCITIES)
    write_map(folder / "dust.fits", make_map(100), "I_ML_FULL", "uK_RJ")
    write_map(folder / "mask.fits", make_mask(), "GAL070")
    return folder


@pytest.fixture
def files(first_files, tmp_path):
    """A copy of them, in which files may be changed."""
    return pathlib.Path(shutil.copytree(first_files, tmp_path / "in"))


@pytest.fixture(scope="module")
def reference(first_files):
    """The sky made from them at one go."""
    path = first_files.parent / "reference.h5"
    with threadpoolctl.threadpool_limits(1):
        return prepare_sky(path, **inputs(first_files))


@pytest.fixture(scope="module")
def killed(first_files):
    """What a run leaves that was killed when three maps were done."""
    path = first_files.parent / "killed.h5"
    process = start(path, first_files, "channel")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    return path


@pytest.fixture
def begun(killed, files, tmp_path):
    """A copy of that, beside the copies of the files."""
    path = tmp_path / "sky.h5"
    shutil.copy2(f"{killed}.partial", f"{path}.partial")
    shutil.copytree(staging_folder(killed), staging_folder(path))
    return path


def make_mask():
    _, latitude = healpy.pix2ang(NSIDE, np.arange(PIXELS), lonlat=True)
    return np.clip((np.abs(latitude) - 15.0) / 10.0, 0.0, 1.0).astype(np.float32)


def write_map(path, values, column="T", unit="", coordinates="G", nest=True):
    values = np.where(np.isfinite(values), values, healpy.UNSEEN)
    values = healpy.reorder(values, r2n=True) if nest else values
    healpy.write_map(
        path, values, nest=nest, coord=coordinates, column_names=[column], column_units=unit or None,
        dtype=np.float32, overwrite=True,
    )  # fmt: skip


def inputs(files, **changes):
    options = {
        "cube": files / "cube.npy",
        "cube_velocities": files / "velocities.txt",
        "dust": files / "dust.fits",
        "mask": files / "mask.fits",
        "ordering": "RING",
        "coordinates": "galactic",
        "low_pass_ell": 12.0,
    }
    return {**options, **changes}


def read(path):
    database = Database(path)
    return {name: database.read(name, [0])[0] for name in UNITS}


def names_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_is_what_healpy_gives(files, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "sky.h5"
    steps = []
    assert prepare_sky(path, **inputs(files), progress=lambda *step: steps.append(step)) == path
    assert steps == [(done, 6) for done in range(7)]
    assert names_in(tmp_path) == ["in", "sky.h5"]
    database = check_sky(Database(path))
    assert database.task == "dust"
    assert {name: field.unit for name, field in database.fields.items()} == UNITS
    assert (database.n_maps, database.n_simulations, database.parameters) == (1, 1, ())
    attributes = database.attributes
    assert (attributes["nside"], attributes["ordering"], attributes["coordinates"]) == (NSIDE, "RING", "galactic")
    assert (attributes["low_pass_ell"], attributes["low_pass_order"]) == (12.0, 4.0)
    assert attributes["velocities"].tolist() == VELOCITIES[WITHIN].tolist()
    assert database.cell_size == pytest.approx(healpy.nside2resol(NSIDE, arcmin=True))
    assert attributes["dust_file"].startswith("dust.fits, ")
    assert attributes["dust_column"] == "I_ML_FULL"
    maps = read(path)
    assert maps["hi_cube"].shape == (PIXELS, 4)
    np.testing.assert_array_equal(maps["mask"], make_mask())
    np.testing.assert_allclose(maps["dust"], make_map(100, ell=12), atol=0.05)
    for column, channel in enumerate(range(CHANNELS)[WITHIN]):
        np.testing.assert_allclose(maps["hi_cube"][:, column], make_map(channel, ell=12), atol=0.05)
    with h5py.File(path) as file:
        for name in UNITS:
            assert file["maps"][name].chunks is None
            assert file["maps"][name].compression is None
            assert file["maps"][name].dtype == np.float32
    assert "4 channels in [-64.5, 17] km/s, from -60.000 to 10.000 km/s; HI4PI has 64" in caplog.text


def test_files_of_the_surveys(tmp_path, caplog):
    cube = write_cube(tmp_path / "CAR.fits", channel_velocities(), (91, 181), 2.0)
    masks = make_masks(NSIDE, apodised=True)
    prepare_sky(
        tmp_path / "sky.h5",
        cube=cube,
        dust=write_planck_map(tmp_path / "dust.fits", make_map(100)),
        mask=write_masks(tmp_path / "masks.fits", masks, apodised=True),
        mask_column="GAL070",
        low_pass_ell=0,
    )
    assert not caplog.records
    database = check_sky(Database(tmp_path / "sky.h5"))
    velocities = database.attributes["velocities"]
    assert (len(velocities), velocities[0], velocities[-1]) == (
        64,
        pytest.approx(-64.310, abs=1e-3),
        pytest.approx(16.848, abs=1e-3),
    )
    maps = read(tmp_path / "sky.h5")
    longitude, latitude = healpy.pix2ang(NSIDE, np.arange(PIXELS), lonlat=True)
    expected = smooth_sky(longitude[:, None], latitude[:, None], velocities)
    np.testing.assert_allclose(maps["hi_cube"], expected, atol=2e-3)
    np.testing.assert_array_equal(maps["dust"], make_map(100))
    np.testing.assert_allclose(maps["mask"], masks["GAL070"], rtol=1e-6)


def test_without_filter_and_mask(files, tmp_path):
    prepare_sky(tmp_path / "sky.h5", **inputs(files, mask=None, low_pass_ell=0, velocities=(-72, 22)))
    maps = read(tmp_path / "sky.h5")
    np.testing.assert_array_equal(maps["mask"], 1.0)
    np.testing.assert_array_equal(maps["dust"], make_map(100))
    np.testing.assert_array_equal(maps["hi_cube"].T, np.load(files / "cube.npy"))
    assert Database(tmp_path / "sky.h5").attributes["mask_file"] == "none"


def test_blocks_of_pixels_make_no_difference(files, tmp_path, monkeypatch, reference):
    monkeypatch.setattr(sky_preparation, "BLOCK_VALUES", 1001)
    prepare_sky(tmp_path / "b.h5", **inputs(files))
    assert reference.read_bytes() == (tmp_path / "b.h5").read_bytes()
    summary = summarize_sky(tmp_path / "b.h5")
    maps = {name: values.astype(np.float64) for name, values in read(tmp_path / "b.h5").items()}
    weights = maps["mask"]
    assert summary.sky_fraction == pytest.approx(weights.mean())
    mean = np.average(maps["dust"], weights=weights)
    assert summary.dust_mean == pytest.approx(mean)
    assert summary.dust_rms == pytest.approx(np.average((maps["dust"] - mean) ** 2, weights=weights) ** 0.5)
    weights = np.repeat(weights[:, None], 4, axis=1)
    mean = np.average(maps["hi_cube"], weights=weights)
    assert summary.hi_mean == pytest.approx(mean)
    assert summary.hi_rms == pytest.approx(np.average((maps["hi_cube"] - mean) ** 2, weights=weights) ** 0.5)
    assert (summary.nside, summary.n_channels) == (NSIDE, 4)
    assert "nside 16, 4 channels from -60.000 to 10.000 km/s, sky fraction" in str(summary)


def test_bad_pixels(files, tmp_path):
    cube = np.load(files / "cube.npy")
    cube[2, 300:320] = np.nan
    cube[0, 1000] = np.nan
    np.save(files / "cube.npy", cube)
    dust = make_map(100)
    dust[40] = np.nan
    write_map(files / "dust.fits", dust, "I_ML_FULL", "uK_RJ")
    prepare_sky(tmp_path / "sky.h5", **inputs(files))
    maps = read(tmp_path / "sky.h5")
    bad = np.r_[40, 300:320]
    for values in maps.values():
        assert not values[bad].any()
    # The channel of pixel 1000 is outside the range.
    assert maps["dust"][1000] != 0.0
    expected = healpy.map2alm(fill_bad_pixels(cube[2]), lmax=47, iter=3)
    expected = healpy.alm2map(healpy.almxfl(expected, 1.0 / np.sqrt(1.0 + (np.arange(48) / 12.0) ** 8)), NSIDE, lmax=47)
    expected[bad] = 0.0
    np.testing.assert_allclose(maps["hi_cube"][:, 1], expected, atol=0.05)
    # Far from the gap nothing of it is seen.
    vectors = np.array(healpy.pix2vec(NSIDE, np.arange(PIXELS)))
    far = (vectors[:, 310] @ vectors < 0.5) & (np.arange(PIXELS) != 40)
    np.testing.assert_allclose(maps["hi_cube"][far, 1], make_map(2, ell=12)[far], atol=0.1)
    assert np.count_nonzero(maps["mask"]) == np.count_nonzero(np.delete(make_mask(), bad))


def test_fill_bad_pixels_is_smooth():
    vectors = np.array(healpy.pix2vec(NSIDE, np.arange(PIXELS)))
    values = 5.0 + 2.0 * vectors[2] - vectors[0]
    holed = values.copy()
    holed[healpy.query_disc(NSIDE, [0.6, 0.0, 0.8], np.radians(12.0))] = np.nan
    holed[[0, 50, 3000]] = np.nan
    filled = fill_bad_pixels(holed)
    good = np.isfinite(holed)
    np.testing.assert_array_equal(filled[good], values[good])
    assert np.abs(filled - values)[~good].max() < 0.35
    assert np.abs(filled - values)[[0, 50, 3000]].max() < 0.06
    # One pixel with data is enough for a whole sky.
    lonely = np.full(PIXELS, np.nan)
    lonely[7] = 3.0
    np.testing.assert_allclose(fill_bad_pixels(lonely), 3.0)
    with pytest.raises(ValueError, match="expected a map with data, got no finite pixel"):
        fill_bad_pixels(np.full(12, np.nan))


def test_filling_keeps_the_filter_from_ringing():
    values = np.full(PIXELS, 10.0)
    values[healpy.query_disc(NSIDE, [0.0, 0.0, 1.0], np.radians(20.0))] = np.nan
    settings = sky_preparation._Settings.of(NSIDE, (-1.0, 1.0), 12.0, 4)
    smooth = settings.filtered(values)
    np.testing.assert_array_equal(np.isnan(smooth), np.isnan(values))
    np.testing.assert_allclose(smooth[np.isfinite(values)], 10.0, atol=1e-4)


def test_other_nside_only_if_asked(files, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    fine = healpy.ud_grade(make_map(100), 32)
    write_map(files / "dust.fits", fine, "I_ML_FULL", "uK_RJ")
    with pytest.raises(ValueError, match=r"nside: the files differ: 16 in .*cube.npy, 32 in .*dust.fits.*--nside"):
        prepare_sky(tmp_path / "sky.h5", **inputs(files))
    assert names_in(tmp_path) == ["in"]
    prepare_sky(tmp_path / "sky.h5", **inputs(files, nside=16, low_pass_ell=0))
    np.testing.assert_allclose(read(tmp_path / "sky.h5")["dust"], make_map(100), rtol=1e-6)
    assert re.search(r"dust.fits: from nside 32 to nside 16, each pixel is the mean of those within it", caplog.text)
    prepare_sky(tmp_path / "fine.h5", **inputs(files, nside=32, low_pass_ell=0))
    assert re.search(r"mask.fits: from nside 16 to nside 32, interpolated bilinearly", caplog.text)
    assert read(tmp_path / "fine.h5")["hi_cube"].shape == (4 * PIXELS, 4)


def test_other_coordinates(files, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    # The mask in equatorial coordinates: a cap about the celestial pole.
    write_map(files / "mask.fits", healpy.pix2vec(NSIDE, np.arange(PIXELS))[2] > 0.5, "cap", coordinates="C")
    prepare_sky(tmp_path / "sky.h5", **inputs(files, low_pass_ell=0))
    assert re.search("mask.fits: rotated from equatorial to galactic coordinates", caplog.text)
    weights = read(tmp_path / "sky.h5")["mask"]
    pole = healpy.ang2vec(122.93192, 27.12825, lonlat=True)
    above = pole @ np.array(healpy.pix2vec(NSIDE, np.arange(PIXELS)))
    assert weights[above > 0.6].min() == 1.0
    assert weights[above < 0.4].max() == 0.0
    write_map(files / "mask.fits", make_mask(), "GAL070", coordinates=None)
    with pytest.raises(ValueError, match=r"mask.fits: the header does not say the coordinates.*--coordinates"):
        sky_preparation._at_nside(sky_preparation.read_mask(files / "mask.fits"), NSIDE)
    prepare_sky(tmp_path / "said.h5", **inputs(files, low_pass_ell=0))
    np.testing.assert_array_equal(read(tmp_path / "said.h5")["mask"], make_mask())


@pytest.mark.parametrize(("unit", "factor"), [("uK_RJ", 1.0), ("K_RJ", 1e6), ("mK_RJ", 1e3), ("", 1.0)])
def test_units_of_dust(files, tmp_path, unit, factor, caplog):
    write_map(files / "dust.fits", make_map(100), "I_ML_FULL", unit)
    prepare_sky(tmp_path / "sky.h5", **inputs(files, low_pass_ell=0))
    np.testing.assert_allclose(read(tmp_path / "sky.h5")["dust"], make_map(100) * factor, rtol=1e-6)
    assert ("does not say the unit of I_ML_FULL; taken as uK_RJ" in caplog.text) is (unit == "")


def test_wrong_unit(files, tmp_path):
    write_map(files / "dust.fits", make_map(100), "I_ML_FULL", "MJy/sr")
    with pytest.raises(ValueError, match=r"dust.fits: expected I_ML_FULL in uK_RJ, mK_RJ or K_RJ, got 'MJy/sr'"):
        prepare_sky(tmp_path / "sky.h5", **inputs(files))
    assert names_in(tmp_path) == ["in"]


def test_several_workers(files, tmp_path, reference):
    steps = []
    prepare_sky(tmp_path / "b.h5", **inputs(files), workers=2, progress=lambda *step: steps.append(step))
    assert steps == [(done, 6) for done in range(7)]
    for name, values in read(reference).items():
        np.testing.assert_allclose(read(tmp_path / "b.h5")[name], values, atol=1e-4)


def start(path, files, when, workers=0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(RUNNER), str(path), str(files), when, str(workers)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_in_a_channel(begun, files, reference, tmp_path):
    assert names_in(tmp_path) == ["in", "sky.h5.partial", "sky.h5.partial.planes"]
    assert "channel_0002.partial.f32" in names_in(staging_folder(begun))
    with pytest.raises(FileExistsError, match=r"sky.h5.partial was begun before. Go on with it by --resume"):
        prepare_sky(begun, **inputs(files))
    steps = []
    prepare_sky(begun, **inputs(files), resume=True, progress=lambda *step: steps.append(step))
    assert steps == [(step, 6) for step in range(3, 7)]
    assert begun.read_bytes() == reference.read_bytes()
    assert names_in(tmp_path) == ["in", "sky.h5"]


@pytest.mark.parametrize(("when", "done"), [("assembly", 5), ("rename", 6)])
def test_killed_and_resumed_gives_the_same_bytes(files, tmp_path, reference, when, done):
    path = tmp_path / "sky.h5"
    process = start(path, files, when)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    assert path.exists() is (when == "rename")
    steps = []
    prepare_sky(path, **inputs(files), resume=True, progress=lambda *step: steps.append(step))
    assert steps == [(step, 6) for step in range(done, 7)]
    assert path.read_bytes() == reference.read_bytes()
    assert names_in(tmp_path) == ["in", "sky.h5"]


@pytest.mark.parametrize(
    ("difference", "changes"),
    [
        ("low_pass_ell is 12.0, expected 21.0", {"low_pass_ell": 21.0}),
        ("velocities is", {"velocities": (-72.0, 17.0)}),
        ("mask_column is GAL070, expected none", {"mask": None}),
        (r"dust_file is dust.fits, \d+ bytes, .*, expected .*, modified 5.", {}),
    ],
)
def test_resume_refuses_other_inputs_and_settings(files, begun, difference, changes):
    if not changes:
        os.utime(files / "dust.fits", ns=(5, 5))
    with pytest.raises(ValueError, match=f"was begun with another plan: attribute {difference}"):
        prepare_sky(begun, **inputs(files, **changes), resume=True)
    assert len(names_in(staging_folder(begun))) == 5


def test_damaged_maps_are_made_again(files, begun, reference):
    os.truncate(staging_folder(begun) / "channel_0001.f32", 100)
    steps = []
    prepare_sky(begun, **inputs(files), resume=True, progress=lambda *step: steps.append(step))
    assert steps[0] == (2, 6)
    assert begun.read_bytes() == reference.read_bytes()


def test_maps_of_another_run_are_not_used(files, begun):
    partial_path(begun).unlink()
    np.save(files / "cube.npy", np.load(files / "cube.npy") + 1.0)
    prepare_sky(begun, **inputs(files, low_pass_ell=0))
    np.testing.assert_array_equal(read(begun)["hi_cube"].T, np.load(files / "cube.npy")[WITHIN])


def test_two_at_once(files, tmp_path):
    path = tmp_path / "sky.h5"
    process = start(path, files, "slow")
    while process.stdout.readline().strip() != "1":
        assert process.poll() is None
    with pytest.raises(RuntimeError, match="is being written by another process"):
        prepare_sky(path, **inputs(files), resume=True)
    process.kill()
    process.communicate(timeout=60)


def test_complete_already(files, tmp_path):
    path = tmp_path / "sky.h5"
    prepare_sky(path, **inputs(files))
    content = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"sky.h5 exists already. Choose another output file, or delete it"):
        prepare_sky(path, **inputs(files))
    assert prepare_sky(path, **inputs(files), resume=True) == path
    with pytest.raises(FileExistsError, match=r"other inputs or settings: attribute low_pass_ell is 12.0, expected 5"):
        prepare_sky(path, **inputs(files, low_pass_ell=5), resume=True)
    assert path.read_bytes() == content


def test_nothing_left_of_the_sky(files, tmp_path):
    write_map(files / "mask.fits", np.zeros(PIXELS), "none")
    with pytest.raises(ValueError, match=r"mask.fits: no pixel is left with dust and a weight above 0"):
        prepare_sky(tmp_path / "sky.h5", **inputs(files))
    write_map(files / "mask.fits", np.arange(PIXELS) < 100, "begin")
    cube = np.load(files / "cube.npy")
    cube[3, :100] = np.nan
    np.save(files / "cube.npy", cube)
    with pytest.raises(
        ValueError, match=r"channel at 0.000 km/s has no data where dust and mask leave.*2 channels are"
    ):
        prepare_sky(tmp_path / "sky.h5", **inputs(files))
    shutil.rmtree(staging_folder(tmp_path / "sky.h5"))
    (tmp_path / "sky.h5.partial").unlink()
    cube[1] = np.nan
    np.save(files / "cube.npy", cube)
    with pytest.raises(ValueError, match=r"channel at -60.000 km/s has no data at all"):
        prepare_sky(tmp_path / "sky.h5", **inputs(files))
    # The first channel failed: nothing half-written is left.
    assert names_in(tmp_path) == ["in"]
    # Channels whose data nowhere come together.
    cube = np.load(files / "cube.npy")
    cube[1], cube[3] = 1.0, 1.0
    cube[1, :50], cube[3, 50:] = np.nan, np.nan
    np.save(files / "cube.npy", cube)
    with pytest.raises(ValueError, match=r"no pixel has a weight above 0 and data in the dust and in all channels"):
        prepare_sky(tmp_path / "sky.h5", **inputs(files))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"nside": 12}, ValueError, "nside: expected a power of two, got 12"),
        ({"nside": 16.0}, TypeError, "nside: expected an integer, got 16.0"),
        ({"workers": -1}, ValueError, "workers: expected at least 0, got -1"),
        ({"velocities": (17.0, -64.5)}, ValueError, "velocities: expected low < high in km/s, got 17 and -64.5"),
        ({"velocities": 17.0}, TypeError, r"velocities: expected two numbers \(low, high\) in km/s, got 17.0"),
        ({"velocities": (300.0, 310.0)}, ValueError, "300.*310"),
        ({"low_pass_ell": -1.0}, ValueError, "low_pass_ell: expected a multipole, or 0 for no filter, got -1.0"),
        ({"low_pass_ell": "460"}, TypeError, "low_pass_ell: expected a number, got '460'"),
        ({"low_pass_ell": 48.0}, ValueError, "low_pass_ell: expected at most 3 nside - 1 = 47 at nside 16, got 48"),
        ({"low_pass_order": 0}, ValueError, "low_pass_order: expected a positive number, got 0"),
        ({"cube": ()}, ValueError, "cube: expected at least one file, got none"),
        ({"cube": "nowhere.npy"}, FileNotFoundError, "nowhere.npy"),
        ({"dust": "nowhere.fits"}, FileNotFoundError, "nowhere.fits: there is no such file"),
        ({"mask": "nowhere.fits"}, FileNotFoundError, "nowhere.fits: there is no such file"),
        ({"dust_column": "I_ML"}, ValueError, "expected a column 'I_ML'"),
        ({"cube_velocities": "nowhere.txt"}, FileNotFoundError, "nowhere.txt: there is no such file"),
    ],
)
def test_wrong_arguments(files, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        prepare_sky(tmp_path / "sky.h5", **inputs(files, **changes))
    assert names_in(tmp_path) == ["in"]


def test_damaged_inputs(files, tmp_path):
    path = tmp_path / "sky.h5"
    os.truncate(files / "dust.fits", 8000)
    with pytest.raises(ValueError, match=r"dust.fits: the file is truncated"):
        prepare_sky(path, **inputs(files))
    (files / "velocities.txt").write_text("-60\nfast\n")
    with pytest.raises(ValueError, match=r"velocities.txt: expected velocities in km/s, one number per line"):
        prepare_sky(path, **inputs(files))
    (files / "velocities.txt").write_text("1 2\n3 4\n")
    with pytest.raises(ValueError, match=r"velocities.txt: expected the centres.*of shape \(2, 2\)"):
        prepare_sky(path, **inputs(files))
    np.save(files / "velocities.npy", VELOCITIES)
    os.truncate(files / "cube.npy", 5000)
    with pytest.raises(ValueError, match=r"cube.npy: the file is no array.*or is truncated"):
        prepare_sky(path, **inputs(files, cube_velocities=files / "velocities.npy"))
    assert names_in(tmp_path) == ["in"]


def test_no_room(files, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"expected 1\d{5} bytes \(0.00 GB\) of free space.*got 0.00 GB. Make room"):
        prepare_sky(tmp_path / "sky.h5", **inputs(files))
    assert names_in(tmp_path) == ["in"]


@pytest.mark.parametrize("same_disk", [True, False])
def test_room_for_the_temporary_file_of_spectra(files, tmp_path, monkeypatch, same_disk):
    """Spectra per pixel, which are turned into planes in a temporary file."""
    np.save(files / "cube.npy", np.load(files / "cube.npy").T)
    monkeypatch.setattr(sky_preparation, "IN_MEMORY", 1000)
    temporary = tmp_path if same_disk else pathlib.Path("/proc")
    monkeypatch.setattr(sky_preparation.tempfile, "gettempdir", lambda: str(temporary))
    usage = shutil.disk_usage(tmp_path)
    # The database and six planes have 0.12 MB, four channels of spectra 0.05 MB.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=150_000 if same_disk else 1000))
    where = "same disk" if same_disk else "another disk"
    with pytest.raises(OSError, match=rf"0.00 GB for a temporary file of the cube's spectra in .*, on (the )?{where}"):
        prepare_sky(tmp_path / "sky.h5", **inputs(files))
    # Planes need none: now it is the file itself that finds too little room, beside what HDF5 takes.
    np.save(files / "cube.npy", np.load(files / "cube.npy").T)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=150_000))
    with pytest.raises(OSError, match="the database needs"):
        prepare_sky(tmp_path / "sky.h5", **inputs(files))


def test_no_folder(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"sky.h5: the folder .*nowhere does not exist. Make it first"):
        prepare_sky(tmp_path / "nowhere" / "sky.h5", **inputs(files))


def test_what_workers_get_is_small(files):
    settings = sky_preparation._Settings.of(NSIDE, (-64.5, 17.0), 460, 4)
    stage = sky_preparation._Stage(files, settings, (1.0, 2.0))
    assert pickle.loads(pickle.dumps(stage)) == stage
    assert len(pickle.dumps(stage)) < 5000


def make_sky(path, fields=None, attributes=None, task="dust", skies=2):
    generator = np.random.default_rng(1)
    arrays = {
        "hi_cube": (generator.random((skies, 192, 3)), "K"),
        "dust": (generator.random((skies, 192)), "uK_RJ"),
        "mask": (np.ones((skies, 192)), ""),
        **(fields or {}),
    }
    attributes = {
        "nside": 4,
        "ordering": "RING",
        "coordinates": "galactic",
        "velocities": np.array([-1.0, 0.0, 1.0]),
        "low_pass_ell": 0.0,
        "cell_size": pixel_side(4),
        **(attributes or {}),
    }
    path.unlink(missing_ok=True)
    write_database(
        path, task=task, fields={name: value for name, value in arrays.items() if value is not None}, parameters=(),
        parameter_values=np.zeros((skies, 0)), simulation=np.arange(skies),
        attributes={name: value for name, value in attributes.items() if value is not None},
    )  # fmt: skip
    return Database(path)


def test_check_sky_accepts_several_skies(tmp_path):
    database = make_sky(tmp_path / "a.h5")
    assert check_sky(database) is database
    check_sky(make_sky(tmp_path / "a.h5", attributes={"low_pass_ell": None, "cell_size": None}))


def test_check_sky_tells_of_fractional_weights(tmp_path, caplog):
    mask = np.ones((2, 192))
    database = make_sky(tmp_path / "a.h5", {"mask": (mask, "")})
    with caplog.at_level(logging.INFO):
        check_sky(database)
    assert not caplog.records
    mask[:, :5] = 0.3
    database = make_sky(tmp_path / "b.h5", {"mask": (mask, "")})
    with caplog.at_level(logging.INFO):
        check_sky(database)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "b.h5: 10 of 384 pixels of the mask have a weight between 0 and 1" in caplog.text


def test_check_sky_accepts_simulated_skies(tmp_path):
    simulator = GalacticSkySimulator(nside=8, channels=4, low_pass_ell=10)
    path = run_campaign(simulator, tmp_path / "a.h5", count=2)
    assert check_sky(Database(path)).n_maps == 2
    assert summarize_sky(path).n_channels == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "matter"}, "expected a database of task 'dust', got task 'matter'"),
        ({"fields": {"mask": None}}, r"missing: \['mask'\]"),
        ({"attributes": {"ordering": "NESTED"}}, "expected ordering 'RING', got 'NESTED'"),
        ({"attributes": {"ordering": None}}, r"expected root attributes that say \['ordering'\]"),
        ({"attributes": {"coordinates": "equatorial"}}, "expected coordinates 'galactic', got 'equatorial'"),
        ({"attributes": {"velocities": np.array([1.0, 0.0, -1.0])}}, "expected velocities that increase"),
        ({"attributes": {"velocities": np.array([1.0, np.nan, 2.0])}}, "expected velocities that increase"),
        ({"attributes": {"velocities": np.array([0.0, 1.0])}}, r"/maps/hi_cube: expected maps of shape \(192, 2\)"),
        ({"attributes": {"cell_size": 3.4}}, r"expected cell_size 879\.\d+ arcmin, the side of a pixel at nside 4"),
        ({"attributes": {"low_pass_ell": -1.0}}, "expected low_pass_ell to be 0 or a multipole, got -1.0"),
        ({"fields": {"dust": (np.ones((2, 192, 3)), "uK_RJ")}}, r"/maps/dust: expected maps of shape \(192,\)"),
        ({"fields": {"dust": (np.ones((2, 192)), "K_CMB")}}, "/maps/dust: expected the unit 'uK_RJ', got 'K_CMB'"),
        ({"fields": {"hi_cube": (np.ones((2, 192, 3)), "mK")}}, "/maps/hi_cube: expected the unit 'K', got 'mK'"),
        ({"fields": {"mask": (np.full((2, 192), 1.5), "")}}, "expected weights from 0 to 1, got 1.5 to 1.5 in sky 0"),
        ({"fields": {"mask": (np.eye(2)[:, :1] * np.ones(192), "")}}, "nothing of sky 1 is left"),
    ],
)
def test_check_sky_refuses(tmp_path, changes, message):
    database = make_sky(tmp_path / "a.h5", **changes)
    with pytest.raises(ValueError, match=message):
        check_sky(database)


def test_check_sky_without_nside(tmp_path):
    shape = {"hi_cube": (np.ones((1, 12, 3)), "K"), "dust": (np.ones((1, 12, 1)), "uK_RJ")}
    shape["mask"] = (np.ones((1, 12, 1)), "")
    database = make_sky(tmp_path / "a.h5", fields=shape, attributes={"nside": None, "cell_size": None}, skies=1)
    with pytest.raises(ValueError, match=r"expected root attributes that say \['nside'\].*prepare_sky.py"):
        check_sky(database)
