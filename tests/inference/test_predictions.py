import csv

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
    export_saved_model(network, folder, {"serving_default": Signature(predict, spec, units, example)})
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
    with pytest.raises(ValueError, match=r"expected shape \(None, 32, 70\)"):
        write_predictions(model[0], other, tmp_path / "out.csv")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_predictions(model[0], other, tmp_path / "no" / "out.csv")
    with pytest.raises(FileNotFoundError, match=r"missing\.h5"):
        write_predictions(model[0], tmp_path / "missing.h5", tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["other.h5"]
