import csv
import json
import shutil

import h5py
import numpy as np
import pytest
import small_lightcones
import tensorflow as tf

from keras_cosmo.data.database import Database
from keras_cosmo.export.saved_model import Signature, export_saved_model
from keras_cosmo.inference.predictions import write_predictions
from keras_cosmo.models.lightcone_regressor import LightconeRegressor


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    network = LightconeRegressor(small_lightcones.SHAPE, 2, output_mean=[5.0, 40.0])

    def predict(brightness_temp):
        low, high = tf.unstack(network(brightness_temp, training=False), axis=-1)
        return {"log10_T_vir": low, "log10_L_X": high}

    spec = {"brightness_temp": tf.TensorSpec([None, *small_lightcones.SHAPE], tf.float32)}
    units = {"brightness_temp": "mK", "log10_T_vir": "K", "log10_L_X": "erg s^-1 Msun^-1 yr"}
    example = {"brightness_temp": np.zeros((1, *small_lightcones.SHAPE), "float32")}
    folder = tmp_path_factory.mktemp("models") / "m"
    geometry = {"redshifts": np.linspace(6, 30, small_lightcones.SHAPE[1]).tolist(), "cell_size": 1.5}
    export_saved_model(network, folder, {"serving_default": Signature(predict, spec, units, example)}, geometry)
    return folder, network


def test_every_map_gets_its_row(model, tmp_path):
    data = small_lightcones.write(tmp_path / "cones.h5", simulations=5, per_simulation=2)
    folder, network = model
    units = write_predictions(folder, data, tmp_path / "out.csv", batch_size=3)
    assert units == {"log10_T_vir": "K", "log10_L_X": "erg s^-1 Msun^-1 yr"}
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["map"]), int(row["simulation"])) for row in rows] == [(i, i // 2) for i in range(10)]
    expected = network.predict(Database(data).read("brightness_temp", range(10)), verbose=0)
    np.testing.assert_allclose([float(row["log10_T_vir"]) for row in rows], expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose([float(row["log10_L_X"]) for row in rows], expected[:, 1], rtol=1e-5)


def test_nothing_half_written(model, tmp_path):
    other = small_lightcones.write(tmp_path / "other.h5", simulations=3, shape=(32, 71))
    message = r"other\.h5: maps of 'brightness_temp' have shape \(32, 71\), .*expects shape \(32, 70\)\. Cut or"
    with pytest.raises(ValueError, match=message):
        write_predictions(model[0], other, tmp_path / "out.csv")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_predictions(model[0], other, tmp_path / "no" / "out.csv")
    with pytest.raises(FileNotFoundError, match=r"missing\.h5"):
        write_predictions(model[0], tmp_path / "missing.h5", tmp_path / "out.csv")
    for batch_size in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match=f"`batch_size`: expected an integer of at least 1, got {batch_size}"):
            write_predictions(model[0], other, tmp_path / "out.csv", batch_size)
    with pytest.raises(ValueError, match="expected the CSV file to write, got a folder"):
        write_predictions(model[0], other, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other.h5"]


def maps_of(path):
    return Database(path).read("brightness_temp", range(Database(path).n_maps))


def test_another_unit_is_an_error(model, tmp_path):
    maps = maps_of(small_lightcones.write(tmp_path / "mk.h5", simulations=3))
    data = small_lightcones.write(tmp_path / "k.h5", simulations=3, fields={"brightness_temp": (maps / 1000, "K")})
    with pytest.raises(ValueError, match=r"k\.h5: maps of 'brightness_temp' are in 'K', .*expects 'mK'\. Convert"):
        write_predictions(model[0], data, tmp_path / "out.csv")


def test_a_bad_map_is_named(model, tmp_path):
    data = small_lightcones.write(tmp_path / "bad.h5", simulations=3)
    with h5py.File(data, "r+") as file:
        file["maps/brightness_temp"][5, 3, 4] = np.nan
    with pytest.raises(ValueError, match=r"bad\.h5: /maps/brightness_temp: map 5 of simulation 2 has 1 pixels"):
        write_predictions(model[0], data, tmp_path / "out.csv", batch_size=4)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.h5"]


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({}, None),
        ({"redshifts": np.linspace(6, 30.04, 70), "cell_size": 1.5001}, None),
        ({"redshifts": np.linspace(6, 30.2, 70)}, "redshifts that differ by up to 0.2."),
        ({"redshifts": np.linspace(6, 30, 71)}, "71 redshifts instead of 70"),
        ({"cell_size": 2.0}, "cells of 2 instead of 1.5"),
    ],
)
def test_another_geometry_is_a_warning(changes, warning, model, tmp_path, caplog):
    data = small_lightcones.write(tmp_path / "cones.h5", simulations=3, attributes=changes)
    write_predictions(model[0], data, tmp_path / "out.csv")
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(found) == (warning is not None)
    assert all(f"{data}: not the geometry" in message and warning in message for message in found)


def test_damaged_geometry_of_the_model(model, tmp_path):
    data = small_lightcones.write(tmp_path / "cones.h5", simulations=3)
    folder = shutil.copytree(model[0], tmp_path / "m")
    path = folder / "1" / "assets.extra" / "keras_cosmo.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cell_size": "large"}))
    with pytest.raises(ValueError, match=r"keras_cosmo\.json: expected numbers for 'cell_size', got 'large'"):
        write_predictions(folder, data, tmp_path / "out.csv")


def test_models_that_return_maps(tmp_path):
    """Said before the data are read: they are not there."""
    network = LightconeRegressor(small_lightcones.SHAPE, 2)
    spec = {"brightness_temp": tf.TensorSpec([None, *small_lightcones.SHAPE], tf.float32)}
    example = {"brightness_temp": np.zeros((1, *small_lightcones.SHAPE), "float32")}

    def both(brightness_temp):
        return {"both": network(brightness_temp, training=False)}

    units = {"brightness_temp": "mK", "both": ""}
    folder = tmp_path / "m"
    export_saved_model(network, folder, {"serving_default": Signature(both, spec, units, example)}, {})
    message = r"m/1 returns arrays \{'both': \(2,\)\}, expected one number per map"
    with pytest.raises(ValueError, match=message):
        write_predictions(folder, tmp_path / "missing.h5", tmp_path / "out.csv")
