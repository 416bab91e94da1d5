import pathlib
import runpy

import healpy
import keras
import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure

from keras_cosmo.data.database import Database, write_database
from keras_cosmo.export.saved_model import Signature, export_saved_model
from keras_cosmo.simulations.galactic import GalacticSkySimulator

APP = pathlib.Path(__file__).parents[2] / "apps" / "predict_sky.py"
CHANNELS = 4
SIMULATOR = GalacticSkySimulator(nside=32, channels=CHANNELS, low_pass_ell=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory, data):
    """A model whose answer is known: the first channel."""
    shape = (None, None, CHANNELS)
    cubes = keras.Input(shape, name="hi_cube")
    network = keras.Model(cubes, keras.layers.Rescaling(1.0)(cubes))
    signature = Signature(
        lambda hi_cube: {"dust": network(hi_cube, training=False)[..., 0]},
        {"hi_cube": tf.TensorSpec([None, *shape], tf.float32)},
        {"hi_cube": "K", "dust": "uK_RJ"},
        {"hi_cube": np.zeros((1, 16, 16, CHANNELS), "float32")},
    )
    facts = {
        "preset": {"cutout_cells": 16, "pixel_size": 90.0, "interpolation": "nearest", "train_area": "east"},
        "normalization": {"velocities": SIMULATOR.velocities.tolist()},
        "data": {"fingerprint": Database(data).scan().fingerprint, "simulations": 1},
    }
    folder = tmp_path_factory.mktemp("models") / "dust"
    export_saved_model(network, folder, {"serving_default": signature}, facts)
    return folder


@pytest.fixture(scope="module")
def sky():
    return SIMULATOR.simulate((), 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory, sky):
    path = tmp_path_factory.mktemp("data") / "sky.h5"
    write_database(
        path,
        task="dust",
        fields={name: (maps, SIMULATOR.fields[name].unit) for name, maps in sky.items()},
        parameters=(),
        parameter_values=np.zeros((1, 0)),
        simulation=np.zeros(1, int),
        attributes=SIMULATOR.attributes(),
    )
    return path


@pytest.fixture
def main():
    return runpy.run_path(str(APP))["main"]


def failure(main, capsys, *flags, status=1):
    """Standard error of a call that fails."""
    try:
        returned = main([str(flag) for flag in flags])
    except SystemExit as error:
        returned = error.code
    output = capsys.readouterr()
    assert returned == status
    assert output.out == ""
    assert "Traceback" not in output.err
    if status == 1:
        assert len(output.err.splitlines()) == 1
    return output.err


def test_whole_sky(main, model, data, sky, tmp_path, capsys, caplog):
    out = tmp_path / "dust.fits"
    assert main(["--model", str(model), "--data", str(data), "--out", str(out), "--rotations", "2"]) == 0
    output = capsys.readouterr()
    assert output.out.startswith(f"{out}: DUST [uK_RJ] on 72.0 % of the sky, ")
    assert "; trained on the east (split by area, training data sha256:" in output.out
    assert "the network was trained on these data: predictions in the east are no test of it." in caplog.text
    dust, scatter, patches, unseen = healpy.read_map(out, field=(0, 1, 2, 3), dtype=None)
    assert unseen[healpy.ang2pix(32, [90.0, 270.0], [30.0, 30.0], lonlat=True)].tolist() == [1, 0]
    used = sky["mask"][0] > 0.0
    assert (dust[~used] < -1e30).all()
    assert patches[used].min() >= 2
    assert scatter[used].min() >= 0.0
    truth = sky["hi_cube"][0, used, 0]
    assert np.corrcoef(dust[used], truth)[0, 1] > 0.8
    assert output.out.splitlines()[1] == f"{tmp_path / 'dust.png'}: the same as a picture"
    assert (tmp_path / "dust.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_picture(main, model, data, tmp_path, capsys):
    out = tmp_path / "dust.fits.gz"
    assert main(["--model", str(model), "--data", str(data), "--out", str(out), "--no-figure"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [out]


def test_the_picture_has_the_dust_of_the_database_and_the_difference(data, sky, tmp_path, monkeypatch):
    drawn = {}

    def keep(maps, unit, shared):
        drawn.update(maps=maps, unit=unit, shared=shared)
        return Figure()

    monkeypatch.setattr("keras_cosmo.figures.dust.sky_maps", keep)
    used = sky["mask"][0] > 0.0
    predicted = np.where(used, sky["dust"][0] + 3.0, healpy.UNSEEN)
    healpy.write_map(tmp_path / "my dust.fits.gz", [predicted, np.ones_like(predicted)], dtype=np.float64)
    path = runpy.run_path(str(APP))["draw"](data, 0, tmp_path / "my dust.fits.gz", "uK_RJ")
    assert path == tmp_path / "my dust.png"
    assert path.is_file()
    assert list(drawn["maps"]) == ["dust of the database", "predicted dust", "difference", "scatter between patches"]
    assert (drawn["unit"], drawn["shared"]) == ("uK_RJ", ("dust of the database", "predicted dust"))
    np.testing.assert_allclose(drawn["maps"]["difference"][used], 3.0, atol=1e-4)
    assert np.isnan(drawn["maps"]["dust of the database"][~used]).all()


def test_failures_are_one_line(main, model, data, tmp_path, capsys):
    out = tmp_path / "dust.fits"
    good = ("--model", model, "--data", data, "--out", out)
    for flags, message in (
        (("--model", tmp_path / "none"), "No SavedModel in"),
        (("--data", tmp_path / "none.h5"), "none.h5"),
        (("--sky", 5), "there are skies 0 to 0, got 5"),
        (("--rotations", 0), "--rotations: expected an integer of at least 1, got 0"),
        (("--batch-size", 0), "--batch-size: expected an integer of at least 1, got 0"),
        (("--centres-nside", 1), "--centres-nside: with 1, centres are up to"),
        (("--out", tmp_path / "dust.csv"), "ends in .fits or .fits.gz"),
        (("--out", tmp_path / "none" / "dust.fits"), "does not exist. Make it first"),
    ):
        assert message in failure(main, capsys, *good, *flags)
    assert not list(tmp_path.iterdir())


def test_help_says_that_files_are_replaced(main, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "an existing file is replaced" in " ".join(capsys.readouterr().out.split())


def test_wrong_usage(main, capsys):
    assert "--model" in failure(main, capsys, "--data", "sky.h5", status=2)
    assert "invalid int value" in failure(main, capsys, "--model", "m", "--data", "d", "--sky", "one", status=2)


def test_interrupted(main, model, data, tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_cosmo.inference.sky_prediction.healpy.write_map", stop)
    out = tmp_path / "dust.fits"
    flags = ["--model", str(model), "--data", str(data), "--out", str(out)]
    assert main(flags) == 130
    assert f"stopped; {out} was not written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
