import csv
import pathlib
import runpy

import h5py
import keras
import numpy as np
import pytest
import small_lightcones
import tensorflow as tf

from keras_cosmo.export.saved_model import Signature, export_saved_model

APP = pathlib.Path(__file__).parents[2] / "apps" / "predict.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model whose answer is known: mean and largest pixel of each map."""
    images = keras.Input(small_lightcones.SHAPE, name="brightness_temp")
    network = keras.Model(images, keras.layers.Reshape(small_lightcones.SHAPE)(images))

    def predict(brightness_temp):
        maps = network(brightness_temp, training=False)
        return {"mean": tf.reduce_mean(maps, (1, 2)), "count": tf.reduce_max(maps, (1, 2))}

    signature = Signature(
        predict,
        {"brightness_temp": tf.TensorSpec([None, *small_lightcones.SHAPE], tf.float32)},
        {"brightness_temp": "mK", "mean": "mK", "count": ""},
        {"brightness_temp": np.zeros((1, *small_lightcones.SHAPE), "float32")},
    )
    folder = tmp_path_factory.mktemp("models") / "m"
    export_saved_model(network, folder, {"serving_default": signature})
    return folder


@pytest.fixture
def data(tmp_path):
    return small_lightcones.write(tmp_path / "cones.h5", simulations=3)


@pytest.fixture
def main():
    return runpy.run_path(str(APP))["main"]


def failure(main, capsys, *flags, status=1):
    """Standard error of a call that fails with one line."""
    try:
        returned = main([str(flag) for flag in flags])
    except SystemExit as error:
        returned = error.code
    output = capsys.readouterr()
    assert returned == status
    assert output.out == ""
    assert "Traceback" not in output.err
    assert output.err.endswith("\n")
    assert [line for line in output.err.splitlines() if "error: " in line] == [output.err.splitlines()[-1]]
    if status == 1:
        assert len(output.err.splitlines()) == 1
    return output.err


def test_predictions(main, model, data, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert main(["--model", str(model), "--data", str(data), "--out", str(out), "--batch-size", "4"]) == 0
    assert capsys.readouterr().out == f"{out}: mean [mK], count\n"
    with h5py.File(data) as file:
        maps = file["maps/brightness_temp"][()]
    with out.open() as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["mean"]) for row in rows], maps.mean((1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([float(row["count"]) for row in rows], maps.max((1, 2)), rtol=1e-5)


def test_failures_are_one_line(main, model, data, tmp_path, capsys):
    out = tmp_path / "out.csv"
    message = failure(main, capsys, "--model", tmp_path / "none", "--data", data, "--out", out)
    assert f"No SavedModel in {tmp_path / 'none'}" in message
    message = failure(main, capsys, "--model", model, "--data", tmp_path / "none.h5", "--out", out)
    assert f"{tmp_path / 'none.h5'}: there is no such file." in message
    message = failure(main, capsys, "--model", model, "--data", data, "--out", tmp_path)
    assert f"{tmp_path}: expected the CSV file to write, got a folder" in message
    message = failure(main, capsys, "--model", model, "--data", data, "--out", tmp_path / "no" / "out.csv")
    assert "does not exist" in message
    with h5py.File(data, "r+") as file:
        file["maps/brightness_temp"].attrs["units"] = "K"
    message = failure(main, capsys, "--model", model, "--data", data, "--out", out)
    assert f"{data}: maps of 'brightness_temp' are in 'K'" in message
    assert "expects 'mK'" in message
    assert [path.name for path in tmp_path.iterdir()] == ["cones.h5"]


@pytest.mark.parametrize("size", ["0", "-1", "2.5", "many"])
def test_a_bad_batch_size_is_wrong_usage(size, main, model, data, tmp_path, capsys):
    flags = ("--model", model, "--data", data, "--out", tmp_path / "out.csv", f"--batch-size={size}")
    message = failure(main, capsys, *flags, status=2)
    assert f"--batch-size: expected an integer of at least 1, got '{size}'" in message
    assert not (tmp_path / "out.csv").exists()


def test_missing_flags_are_wrong_usage(main, capsys):
    assert "--data" in failure(main, capsys, "--model", "m", status=2)


def test_errors_of_tensorflow_are_one_line_and_defects_are_not(main, model, data, tmp_path, capsys, monkeypatch):
    import keras_cosmo.inference.predictions as predictions

    def short_of_memory(*arguments):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\ntensor")

    monkeypatch.setattr(predictions, "write_predictions", short_of_memory)
    message = failure(main, capsys, "--model", model, "--data", data)
    assert "OOM when allocating tensor" in message
    assert "smaller --batch-size" in message

    def defect(*arguments):
        raise KeyError("x")

    monkeypatch.setattr(predictions, "write_predictions", defect)
    with pytest.raises(KeyError):
        main(["--model", str(model), "--data", str(data)])

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(predictions, "write_predictions", interrupted)
    assert "was not written" in failure(main, capsys, "--model", model, "--data", data, status=130)
