import pathlib
import runpy

import numpy as np
import pytest
from coeval_files import boxes, write_modern, write_runs

from keras_cosmo.data.database import Database
from keras_cosmo.simulations.coeval import COEVAL_PARAMETERS

APP = pathlib.Path(__file__).parents[2] / "apps" / "convert_coeval.py"


@pytest.fixture(scope="module")
def app():
    return runpy.run_path(str(APP))


def test_names_are_those_of_the_simulators(app):
    assert app["PARAMETERS"] == tuple(parameter.name for parameter in COEVAL_PARAMETERS)


def test_converts_files(app, tmp_path, capsys):
    out = tmp_path / "out.h5"
    files = [str(write_modern(tmp_path / f"{seed}.h5", seed=seed, arrays=boxes(seed))) for seed in (1, 2)]
    command = [*files, "--out", str(out), "--slabs", "3", "--slab-cells", "2", "--dtype", "float16"]
    assert app["main"](command) == 1
    error = capsys.readouterr().err
    assert "does not say whether velocities are included" in error
    assert "Traceback" not in error
    assert app["main"]([*command, "--velocity-gradient", "apply", "--redshifts", "10", "--projection", "sum"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    database = Database(out).require("matter", ("brightness_temp_z10", "density_z10"))
    assert (database.n_maps, database.attributes["projection"]) == (6, "sum")
    assert database.parameters == COEVAL_PARAMETERS
    assert app["main"](command) == 1
    assert "exists already" in capsys.readouterr().err


def test_converts_the_folders_of_the_paper(app, tmp_path, capsys):
    runs = write_runs(tmp_path / "runs")
    command = [str(runs), "--slabs", "3", "--slab-cells", "2", "--redshifts", "10.16,15.78"]
    assert app["main"]([*command, "--out", str(tmp_path / "a.h5")]) == 0
    assert Database(tmp_path / "a.h5").parameter_values.shape == (3, 3)
    table = runs / "params_simulation_mturn_lumx_ngamma.txt"
    table.rename(tmp_path / "table.txt")
    assert app["main"]([*command, "--out", str(tmp_path / "b.h5")]) == 1
    error = capsys.readouterr().err
    assert "--parameter-table: boxes without header" in error
    assert "convert without labels (--parameters without names)." in error
    assert app["main"]([*command, "--out", str(tmp_path / "b.h5"), "--parameters"]) == 0
    assert Database(tmp_path / "b.h5").parameters == ()
    # Commas as above, or spaces.
    spaces = [*command[:-1], "10.16", "15.78", "--parameters", "--out", str(tmp_path / "d.h5")]
    assert app["main"](spaces) == 0
    assert Database(tmp_path / "d.h5").fields == Database(tmp_path / "b.h5").fields
    options = ["--parameter-table", str(tmp_path / "table.txt"), "--parameters", "log10_M_min"]
    assert app["main"]([*command, "--out", str(tmp_path / "c.h5"), *options]) == 0
    np.testing.assert_allclose(Database(tmp_path / "c.h5").parameter_values[:, 0], np.log10([1e8, 2e8, 3e8]))


def test_repeated_seeds(app, tmp_path, capsys):
    files = [str(write_modern(tmp_path / f"{x}.h5", astrophysics={"L_X": x})) for x in (40.1, 40.2)]
    command = [*files, "--out", str(tmp_path / "o.h5"), "--slabs", "3", "--velocity-gradient", "included"]
    assert app["main"](command) == 1
    assert "share a random seed" in capsys.readouterr().err
    assert app["main"]([*command, "--allow-repeated-seeds"]) == 0


@pytest.mark.parametrize(
    "arguments", ["folder", "--out a", "folder --out a --redshifts ten", "folder --out a --velocity-gradient yes"]
)
def test_wrong_usage(app, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        app["main"](arguments.split())
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err
