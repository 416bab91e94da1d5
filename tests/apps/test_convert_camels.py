import pathlib
import runpy

import numpy as np
import pytest

from keras_cosmo.data.database import Database

APP = pathlib.Path(__file__).parents[2] / "apps" / "convert_camels.py"
CSV = """Name,,,,,,,seed
LH_0,0.309,0.979,3.11234,1.12194,0.6685,0.53182,0
LH_1,0.3026,0.9394,3.42,3.96,1.03,1.16,1
LH_2,0.4282,0.753,0.70613,0.37423,1.96292,0.6272,2"""


@pytest.fixture(scope="module")
def app():
    return runpy.run_path(str(APP))


@pytest.fixture
def files(tmp_path):
    maps, table = tmp_path / "Images_HI_IllustrisTNG_z=5.99.npy", tmp_path / "CAMELs_params.csv"
    np.save(maps, np.random.default_rng(0).uniform(1.0, 2.0, (45, 16, 16)).astype(np.float32))
    table.write_text(CSV)
    return [str(maps), str(table)]


def test_converts_files(app, files, tmp_path, capsys):
    out = tmp_path / "out.h5"
    assert app["main"]([*files, "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "error: --side: expected 1 to 16" in error
    assert "Traceback" not in error
    command = [*files, "--out", str(out), "--side", "8", "--parameters", "Omega_m", "A_SN1"]
    assert app["main"](command) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{out}: ")
    assert "simulations x 15 maps: hi (" in first
    assert second.startswith("labels: Omega_m 0.1 to 0.5, log10_A_SN1 -0.6021 to 0.6021")
    database = Database(out).require("higlow", ("hi",))
    assert (database.n_maps, database.fields["hi"].shape) == (45, (8, 8))
    assert database.parameter_names == ("Omega_m", "log10_A_SN1")
    np.testing.assert_allclose(database.parameter_values[:, 1], np.log10([3.11234, 3.42, 0.70613]))
    assert app["main"](command) == 1
    assert "exists already" in capsys.readouterr().err


def test_every_option_is_passed_on(app, files, tmp_path):
    maps = tmp_path / "temperature.npy"
    pathlib.Path(files[0]).rename(maps)
    out = tmp_path / "o.h5"
    options = "--field T --redshift 1.5 --side 0 --simulations 1-2 --box-size 50 --floor 1e-3 --dtype float16"
    assert app["main"]([str(maps), files[1], "--out", str(out), *options.split()]) == 0
    database = Database(out)
    assert (list(database.fields), database.redshifts.tolist(), database.n_maps) == (["t"], [1.5], 30)
    assert database.cell_size == 50.0 / 16
    assert database.attributes["floor"] == 1e-3
    assert len(database.parameters) == 6
    np.testing.assert_allclose(database.read("t", np.arange(30)), np.load(maps)[15:], rtol=1e-3)


def test_missing_file(app, files, tmp_path, capsys):
    assert app["main"]([str(tmp_path / "no.npy"), files[1], "--out", "o.h5", "--field", "HI", "--redshift", "6"]) == 1
    assert "there is no such file of maps" in capsys.readouterr().err


def test_messages_name_flags(app, files, tmp_path, capsys):
    nameless = tmp_path / "maps.npy"
    nameless.write_bytes(pathlib.Path(files[0]).read_bytes())
    for maps, options, message in (
        (nameless, "", "Give --field, one of"),
        (nameless, "--field HI", "Give --redshift."),
        (files[0], "--side 8 --parameters Omega_X", "error: --parameters: expected some of"),
        (files[0], "--side 8 --simulations 7", "error: --simulations: expected different numbers from 0 to 2"),
        (files[0], "--side 8 --box-size 0", "error: --box-size: expected a positive size"),
    ):
        assert app["main"]([str(maps), files[1], "--out", str(tmp_path / "o.h5"), *options.split()]) == 1
        assert message in capsys.readouterr().err


def test_numbers(app):
    assert app["number_list"]("0-2,7 9-9") == [0, 1, 2, 7, 9]


@pytest.mark.parametrize(
    "arguments",
    [
        "maps table",
        "maps --out a",
        "maps table --out a --side big",
        "maps table --out a --simulations one",
        "maps table --out a --simulations 3-",
        "maps table --out a --simulations 3-1",
        "maps table --out a --dtype float64",
    ],
)
def test_wrong_usage(app, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        app["main"](arguments.split())
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err
