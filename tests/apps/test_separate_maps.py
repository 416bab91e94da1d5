import pathlib
import runpy

import numpy as np
import pytest
import small_lines
import small_separation
import tensorflow as tf

from keras_cosmo.data.database import Database

APP = pathlib.Path(__file__).parents[2] / "apps" / "separate_maps.py"
MAPS = (1e-9 * np.random.default_rng(1).lognormal(0.0, 0.3, (3, small_separation.SIDE, small_separation.SIDE))).astype(
    np.float32
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_separation.write(tmp_path_factory.mktemp("models") / "separation")


@pytest.fixture
def main():
    return runpy.run_path(str(APP))["main"]


def failure(main, capsys, *flags, status=1):
    """The one line of standard error of a call that fails."""
    try:
        returned = main([str(flag) for flag in flags])
    except SystemExit as error:
        returned = error.code
    output = capsys.readouterr()
    assert returned == status
    assert output.out == ""
    if status == 1:
        assert len(output.err.splitlines()) == 1
    return output.err


def test_it_separates(main, model, tmp_path, capsys):
    np.save(tmp_path / "maps.npy", MAPS)
    out = tmp_path / "lines.h5"
    assert main(["--model", str(model), "--data", str(tmp_path / "maps.npy"), "--out", str(out)]) == 0
    unit = "[erg s^-1 cm^-2 sr^-1]"
    assert capsys.readouterr().out == f"{out}: halpha {unit}, oiii {unit}, residual {unit}\n"
    np.testing.assert_allclose(Database(out).read("halpha", range(3)), 0.6 * MAPS, rtol=1e-5)


def test_failures_are_one_line_with_the_flags(main, model, tmp_path, capsys):
    data = small_lines.write(tmp_path / "two.h5", fields={"a": MAPS, "b": MAPS})
    out = ("--out", tmp_path / "lines.h5")
    message = failure(main, capsys, "--model", model, "--data", data, *out)
    assert "expected a field intensity or observed, got a, b." in message
    assert "give --field." in message
    message = failure(main, capsys, "--model", model, "--data", data, *out, "--field", "a", "--batch-size", "0")
    assert "error: --batch-size: expected an integer of at least 1, got 0." in message
    message = failure(main, capsys, "--model", tmp_path / "no", "--data", data, *out, "--field", "a")
    assert f"No SavedModel in {tmp_path / 'no'}" in message
    assert "--data" in failure(main, capsys, "--model", model, status=2)
    assert [path.name for path in tmp_path.iterdir()] == ["two.h5"]


def test_errors_of_tensorflow_are_one_line_and_defects_are_not(main, model, tmp_path, capsys, monkeypatch):
    import keras_cosmo.inference.separated_maps as separated_maps

    flags = ("--model", model, "--data", tmp_path / "maps.npy")

    def fails_with(error):
        def fail(*arguments):
            raise error

        monkeypatch.setattr(separated_maps, "separate_maps", fail)

    fails_with(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\ntensor"))
    message = failure(main, capsys, *flags)
    assert "OOM when allocating tensor If memory is short, give a smaller --batch-size." in message
    fails_with(KeyboardInterrupt())
    assert "was not written" in failure(main, capsys, *flags, status=130)
    fails_with(KeyError("x"))
    with pytest.raises(KeyError):
        main([str(flag) for flag in flags])
