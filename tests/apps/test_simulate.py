import importlib.util
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from keras_cosmo.data.database import Database, write_database
from keras_cosmo.quantities import Parameter

SCRIPT = pathlib.Path(__file__).parents[2] / "apps" / "simulate.py"
SMALL = ("--n-perp", "8", "--n-los", "64", "--workers", "1")


@pytest.fixture(scope="module")
def app():
    specification = importlib.util.spec_from_file_location("simulate_app", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def run(app, *arguments):
    return app.main(["lightcones", *map(str, arguments)])


def test_help_is_fast_because_nothing_is_imported():
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{str(SCRIPT)!r}, 'lightcones', '--help']\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "heavy = {'numpy', 'h5py', 'scipy', 'tensorflow', 'tqdm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for flag in ("--simulator", "--count", "--out", "--like", "--n-perp", "--maps-per-simulation", "--box-cells"):
        assert flag in result.stdout


def test_light_cones(app, tmp_path, capsys):
    out = tmp_path / "cones.h5"
    arguments = (*SMALL, "--count", 3, "--out", out, "--seed", 4, "--dtype", "float16", "--maps-per-simulation", 2)
    assert run(app, *arguments, "--design", "sobol") == 0
    output = capsys.readouterr()
    assert f"{out}: 3 simulations x 2 maps: brightness_temp (8, 64) [mK]" in output.out
    assert "3/3" in output.err
    database = Database(out).require("regression", ("brightness_temp",))
    assert (database.n_maps, database.fields["brightness_temp"].shape) == (6, (8, 64))
    assert database.attributes["seed"] == 4
    assert database.attributes["design"] == "sobol"
    assert np.isfinite(database.read("brightness_temp", range(6))).all()
    before = out.stat().st_mtime_ns
    assert run(app, *arguments, "--design", "sobol") == 0
    assert out.stat().st_mtime_ns == before


def test_like_another_database(app, tmp_path):
    like = tmp_path / "like.h5"
    redshifts = np.linspace(7.0, 9.0, 48)
    write_database(
        like, task="regression", fields={"brightness_temp": (np.zeros((1, 12, 48)), "mK")}, simulation=[0],
        parameters=(Parameter(name="zeta", low=0, high=1),), parameter_values=[[0.5]],
        attributes={"cell_size": 2.0, "cell_size_units": "Mpc", "redshifts": redshifts},
    )  # fmt: skip
    arguments = app.parse_args(["lightcones", "--count", "1", "--out", "x.h5", "--like", str(like), "--n-los", "40"])
    simulator = app.lightcone_simulator(arguments)
    assert (simulator.n_perp, simulator.n_los, simulator.cell_size, simulator.z_min) == (12, 40, 2.0, 7.0)
    assert app.geometry_of(like, "py21cmfast") == {
        "box_cells": 12, "slices": 1, "parts": 1, "cell_size": 2.0, "z_min": 7.0, "z_max": 9.0,
    }  # fmt: skip
    bare = tmp_path / "bare.h5"
    write_database(
        bare, task="regression", fields={"brightness_temp": (np.zeros((1, 12, 48)), "mK")}, simulation=[0],
        parameters=(), parameter_values=np.zeros((1, 0)), attributes={},
    )  # fmt: skip
    with pytest.raises(ValueError, match="--like needs the root attributes redshifts and cell_size"):
        app.geometry_of(bare, "embedded")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--box-cells", 10), "--box-cells is not for --simulator embedded, which has --n-perp, --n-los"),
        (
            ("--simulator", "py21cmfast", "--n-perp", 10),
            "--n-perp is not for --simulator py21cmfast, which has --box-cells",
        ),
        (("--n-perp", 1), "n_perp"),
        (("--cell-size", 3.0, "--z-max", 20.0), "--z-max has no effect beside --cell-size"),
        (("--like", "/nowhere/cones.h5"), "there is no such file"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(app, tmp_path, capsys, arguments, message):
    assert run(app, "--count", 2, "--out", tmp_path / "a.h5", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("arguments", [("lightcones",), ("lightcones", "--count", "x", "--out", "a"), ("boxes",), ()])
def test_unparsable_usage(app, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        app.main(list(arguments))
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_failures_are_one_line_and_status_1(app, tmp_path, capsys):
    out = tmp_path / "a.h5"
    assert run(app, *SMALL, "--count", 0, "--out", out) == 1
    assert "count: expected a positive number of simulations, got 0" in capsys.readouterr().err
    out.write_text("x")
    assert run(app, *SMALL, "--count", 1, "--out", out) == 1
    error = capsys.readouterr().err
    assert "exists and is not a database" in error
    assert "Traceback" not in error
    long = tmp_path / ("a" * 300)
    assert run(app, *SMALL, "--count", 1, "--out", long) == 1
    assert f"{long}: File name too long" in capsys.readouterr().err


def test_ctrl_c_is_status_130_and_resumable(tmp_path):
    out = tmp_path / "a.h5"
    command = [sys.executable, str(SCRIPT), "lightcones", "--count", "5000", "--out", str(out), *SMALL]
    seen = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not re.search(r"\b[1-9]\d*/5000 ", seen):
            character = process.stderr.read(1)
            assert character, seen[-1000:]
            seen += character
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Run the same command again to resume" in errors
    assert "Traceback" not in errors
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5.partial"]
