import dataclasses
import importlib.util
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import small_hydrogen
import small_skies

from keras_cosmo.data.campaign import DESIGNS
from keras_cosmo.data.database import Database, write_database
from keras_cosmo.data.sky_preparation import check_sky
from keras_cosmo.quantities import Parameter
from keras_cosmo.simulations.coeval import CoevalSimulator
from keras_cosmo.simulations.emission_lines import HALPHA
from keras_cosmo.simulations.galactic import GalacticSkySimulator
from keras_cosmo.simulations.halo_luminosity import RELATIONS, HaloLuminosity
from keras_cosmo.simulations.hydrogen import HydrogenMapSimulator
from keras_cosmo.simulations.line_intensity import LineIntensitySimulator
from keras_cosmo.simulations.py21cmfast_coeval import Py21cmfastCoevalSimulator
from keras_cosmo.slicing import PROJECTIONS
from keras_cosmo.tasks.higlow import HIGlowTask

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


def run_coeval(app, *arguments):
    return app.main(["coeval", *map(str, arguments)])


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("lightcones", "--simulator --count --out --like --n-perp --maps-per-simulation --box-cells --redshift-step"),
        ("coeval", "--simulator --count --out --like --redshifts --box-cells --cell-size --slab-cells --projection"),
        ("lines", "--simulator --count --out --like --lines --map-cells --map-side --beam-sigma --maps --amplitude-"),
        (
            "hi-maps",
            "--count --out --like --cells --box-size --slabs --redshift --particles --diffuse-share --scheduler",
        ),
        (
            "skies",
            "--count --out --like --nside --channels --velocity-low --low-pass-ell --no-linear --noise --cluster",
        ),
    ],
)
def test_help_is_fast_because_nothing_is_imported(kind, flags):
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{str(SCRIPT)!r}, {kind!r}, '--help']\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "heavy = {'numpy', 'h5py', 'scipy', 'tensorflow', 'tqdm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for flag in (*flags.split(), "latin-hypercube"):
        assert flag in result.stdout


def test_choices_are_those_of_the_library(app):
    assert app.DESIGNS == DESIGNS
    assert app.PROJECTIONS == PROJECTIONS


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


def test_coeval_boxes(app, tmp_path, capsys):
    out = tmp_path / "boxes.h5"
    arguments = ("--count", 2, "--out", out, "--workers", 1, "--box-cells", 16, "--slabs", 4, "--slab-cells", 2)
    assert (
        run_coeval(app, *arguments, "--redshifts", "10", "15", "--design", "latin-hypercube", "--projection", "sum")
        == 0
    )
    output = capsys.readouterr().out
    assert f"{out}: 2 simulations x 4 maps: brightness_temp_z10 (16, 16) [mK], " in output
    database = Database(out).require("matter", ("brightness_temp_z10", "density_z10", "density_z15"))
    assert (database.n_maps, database.attributes["design"]) == (8, "latin-hypercube")
    assert (database.attributes["projection"], database.attributes["slab_cells"]) == ("sum", 2)
    command = ["coeval", "--count", "1", "--out", "x.h5", "--like", str(out)]
    like = app.coeval_simulator(app.parse_args([*command, "--redshifts", "12"]))
    expected = CoevalSimulator(box_cells=16, slabs=4, slab_cells=2, projection="sum", redshifts=(12.0,))
    assert like == expected
    real = ("--simulator", "py21cmfast", "--cell-size", "4", "--redshift-step", "1.3")
    assert app.coeval_simulator(app.parse_args([*command, *real])) == Py21cmfastCoevalSimulator(
        box_cells=16, slabs=4, slab_cells=2, projection="sum", redshifts=(10.0, 15.0), cell_size=4.0, redshift_step=1.3
    )


def matter_database(
    path, *, shape=(8, 8), names=("brightness_temp_z10", "density_z10"), simulation=(0, 0), **attributes
):
    write_database(
        path, task="matter", fields={name: (np.ones((len(simulation), *shape)), "") for name in names},
        simulation=simulation, parameters=(), parameter_values=np.zeros((max(simulation) + 1, 0)),
        attributes=attributes,
    )  # fmt: skip
    return path


def test_coeval_boxes_like_a_database_that_says_less(app, tmp_path, caplog):
    path = matter_database(tmp_path / "a.h5", cell_size=3.0)
    with caplog.at_level("INFO"):
        geometry = app.coeval_geometry_of(path, {"projection": "sum"})
    assert geometry == {"box_cells": 8, "cell_size": 3.0, "redshifts": (10.0,), "slabs": 2}
    assert "does not say slab_cells: that of the simulator is taken, unless you give --slab-cells" in caplog.text
    assert "projection" not in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "cell_size None. Give --box-cells"),
        ({"cell_size": 3.0, "names": ("density",)}, r"--like needs square maps .* got \['density'\]"),
        ({"cell_size": 3.0, "shape": (8, 4)}, r"of shapes \[\(8, 4\)\]"),
        ({"cell_size": 3.0, "simulation": (0, 1, 1)}, r"\[1, 2\] maps per simulation"),
        ({"cell_size": 3.0, "periodic_across_sky": False}, "its maps are parts of a box"),
    ],
)
def test_databases_that_coeval_boxes_cannot_be_like(app, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        app.coeval_geometry_of(matter_database(tmp_path / "a.h5", **options))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--redshift-step", 1.1), "--redshift-step is not for --simulator embedded, which has --redshifts, "),
        (("--slabs", 7), "--slabs: a box of 64 cells cannot be divided into 7"),
        (("--like", "/nowhere/boxes.h5"), "there is no such file"),
        (("--simulator", "py21cmfast", "--box-cells", 10), "expected at least 45 Mpc"),
        (("--simulator", "py21cmfast", "--redshifts", "3"), "--redshifts: expected one or more numbers from 5.5"),
    ],
)  # fmt: skip
def test_wrong_usage_of_coeval_is_one_line_and_status_2(app, tmp_path, capsys, arguments, message):
    assert run_coeval(app, "--count", 2, "--out", tmp_path / "a.h5", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def run_lines(app, *arguments):
    return app.main(["lines", *map(str, arguments)])


def test_line_maps(app, tmp_path, capsys):
    out = tmp_path / "lines.h5"
    arguments = ("--count", 2, "--out", out, "--workers", 1, "--map-cells", 32, "--map-side", 0.2125, "--maps", 3)
    assert run_lines(app, *arguments, "--lines", "halpha, oii", "--beam-sigma", 0.8) == 0
    output = capsys.readouterr().out
    assert f"{out}: 2 simulations x 3 maps: intensity_halpha (32, 32) [erg s^-1 cm^-2 sr^-1], " in output
    fields = [f"intensity_{line}{stage}" for line in ("halpha", "oii") for stage in ("", "_unsmoothed")]
    database = Database(out).require("separation", fields)
    assert (database.n_maps, database.parameter_values.shape) == (6, (2, 0))
    assert database.cell_size == pytest.approx(0.2125 * 60 / 32)
    assert [str(name) for name in database.attributes["lines"]] == ["halpha", "oii"]
    assert database.attributes["beam_sigma"] == 0.8
    maps = database.read("intensity_oii", range(6))
    assert 1e-13 < maps.mean() < 1e-8
    command = ["lines", "--count", "1", "--out", "x.h5", "--like", str(out)]
    like = app.line_simulator(app.parse_args([*command, "--maps", "2", "--without-unsmoothed"]))
    assert like == LineIntensitySimulator(
        lines=("halpha", "oii"), map_cells=32, map_side=0.2125, beam_sigma=0.8, maps=2, unsmoothed=False
    )


def test_light_of_haloes(app, tmp_path, capsys):
    table = tmp_path / "halpha.csv"
    header = "# line: halpha\n# redshift: 1.3\n# dust: not applied\nlog10M_lo,log10M_hi,L_mean,L_std\n"
    table.write_text(header + "10.5,12,1e40,0\n12,15,1e42,1e41\n")
    command = ["lines", "--count", "1", "--out", "x.h5", "--map-cells", "32", "--map-side", "0.2125"]
    default = app.line_simulator(app.parse_args(command))
    assert app.RELATIONS == RELATIONS
    assert default.luminosity == HaloLuminosity()
    flags = ["--relation", "silva2015", "--luminosity-scatter", "0.1", "--luminosity-table", str(table)]
    made = app.line_simulator(app.parse_args([*command, *flags]))
    assert (made.luminosity.relation, made.luminosity.scatter) == ("silva2015", 0.1)
    mean, deviation = made.luminosity.moments(HALPHA, 1e13, 1.286)
    passed = 10.0 ** (-0.4 * HALPHA.attenuation)
    assert (mean, deviation) == (pytest.approx(1e42 * passed), pytest.approx(1e41 * passed))
    assert made.mean_intensity("halpha") != pytest.approx(default.mean_intensity("halpha"), rel=0.01)
    assert run_lines(app, *command[1:], "--lines", "oiii", "--luminosity-table", table) == 2
    assert "expected a table of one of the lines oiii, got 'halpha'" in capsys.readouterr().err


def test_databases_that_line_maps_cannot_be_like(app, tmp_path):
    path = tmp_path / "a.h5"
    write_database(
        path, task="separation", fields={"intensity_halpha": (np.zeros((1, 8, 4)), "")}, simulation=[0],
        parameters=(), parameter_values=np.zeros((1, 0)), attributes={"cell_size": 1.0, "lines": ["halpha"]},
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"--like needs square maps .* shapes \[\(8, 4\)\], cell_size 1.0, without"):
        app.line_geometry_of(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lines", "lyman"), "expected --lines to be different names out of"),
        (("--map-cells", 4), "error: expected --map-cells in [16, 1024], got 4"),
        (("--observed-wavelength", 0.5), "Halpha is emitted at 0.6563 um"),
        (("--dtype", "float16"), "--dtype float16 cannot hold intensities of 1e-9"),
        (("--like", "/nowhere/lines.h5"), "there is no such file"),
    ],
)  # fmt: skip
def test_wrong_usage_of_lines_is_one_line_and_status_2(app, tmp_path, capsys, arguments, message):
    assert run_lines(app, "--count", 2, "--out", tmp_path / "a.h5", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_line_maps_have_one_simulator(app, capsys):
    with pytest.raises(SystemExit) as stop:
        run_lines(app, "--count", 1, "--out", "a.h5", "--simulator", "py21cmfast")
    assert stop.value.code == 2
    assert "invalid choice: 'py21cmfast'" in capsys.readouterr().err


def test_flags_are_the_fields_of_the_simulators(app):
    for kind, simulator, without in (
        ("hi-maps", HydrogenMapSimulator, {"cosmology"}),
        ("skies", GalacticSkySimulator, set()),
    ):
        flags = {name for name, (_, simulators, _) in app.GEOMETRY[kind].items() if "embedded" in simulators}
        assert flags == {field.name for field in dataclasses.fields(simulator)} - without
    assert set(app.KINDS) == set(app.GEOMETRY) == set(app.LIKE) == set(app.SIMULATORS)


def test_hydrogen_maps(app, tmp_path, capsys):
    out = tmp_path / "hi.h5"
    flags = ["hi-maps", "--count", "2", "--out", str(out), "--workers", "1", "--cells", "16", "--box-size", "12.5"]
    assert app.main([*flags, "--slabs", "2", "--redshift", "5"]) == 0
    output = capsys.readouterr().out
    assert f"{out}: 2 simulations x 6 maps: hi (16, 16) [Msun/h (Mpc/h)^-2]" in output
    database = Database(out).require("higlow", ("hi",), ("Omega_m", "sigma_8"))
    assert (database.n_maps, database.attributes["design"]) == (12, "latin-hypercube")
    task = HIGlowTask()
    task.check(dataclasses.replace(task.presets["quick"], map_cells=16, blocks=4), database)
    command = ["hi-maps", "--count", "1", "--out", "x.h5"]
    like = app.hydrogen_simulator(app.parse_args([*command, "--like", str(out), "--redshift", "6"]))
    # As many particles per volume as in the default box.
    assert like == HydrogenMapSimulator(cells=16, box_size=12.5, slabs=2, particles=48)
    flags = ["--particles", "50", "--diffuse-share", "0.1"]
    assert app.hydrogen_simulator(app.parse_args([*command, *flags])) == HydrogenMapSimulator(
        particles=50, diffuse_share=0.1
    )
    assert app.hydrogen_simulator(app.parse_args(command)) == HydrogenMapSimulator()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": {"hi": np.ones((24, 8, 4))}}, r"--like needs square maps at one redshift.*\[\(8, 4\)\]"),
        ({"fields": {"hi": np.ones((24, 8, 8))}}, r"\[2\] maps per simulation"),
        ({"redshifts": None}, "0 redshifts"),
        ({"cell_size": None}, "cell_size None. Give --cells"),
        ({"cell_size_units": "Mpc"}, "--like needs cell_size in Mpc/h, got Mpc"),
    ],
)
def test_databases_that_hydrogen_maps_cannot_be_like(app, tmp_path, options, message):
    known = small_hydrogen.values(12)
    fields = {"hi": np.ones((36, 8, 8))}
    path = small_hydrogen.write(tmp_path / "a.h5", **{"known": known, "fields": fields, **options})
    with pytest.raises(ValueError, match=message):
        app.hydrogen_geometry_of(path)


def test_skies(app, tmp_path, capsys):
    out = tmp_path / "skies.h5"
    flags = ["skies", "--count", "2", "--out", str(out), "--workers", "1", "--nside", "16", "--channels", "8"]
    changes = ["--velocity-low", "-30", "--velocity-high", "10.5", "--low-pass-ell", "30", "--linear"]
    assert app.main([*flags, *changes]) == 0
    output = capsys.readouterr().out
    assert f"{out}: 2 simulations x 1 maps: hi_cube (3072, 8) [K], dust (3072,) [uK_RJ], mask (3072,)\n" in output
    database = check_sky(Database(out))
    made = GalacticSkySimulator(
        nside=16, channels=8, velocity_low=-30.0, velocity_high=10.5, low_pass_ell=30.0, linear=True
    )
    np.testing.assert_array_equal(database.attributes["velocities"], made.velocities)
    assert (database.attributes["linear"], database.attributes["low_pass_ell"]) == (True, 30.0)
    command = ["skies", "--count", "1", "--out", "x.h5"]
    like = app.sky_simulator(app.parse_args([*command, "--like", str(out), "--noise", "0.1"]))
    assert (like.nside, like.channels, like.low_pass_ell, like.noise) == (16, 8, 30.0, 0.1)
    np.testing.assert_allclose(like.velocities, made.velocities, rtol=0, atol=1e-9)
    assert app.sky_simulator(app.parse_args(command)) == GalacticSkySimulator()
    assert app.sky_simulator(app.parse_args([*command, "--uncorrelated", "0.4"])).uncorrelated == 0.4


def test_skies_like_others(app, tmp_path):
    command = ["skies", "--count", "1", "--out", "x.h5", "--like"]
    channels = GalacticSkySimulator().velocities
    fields = {name: array[:1] for name, array in small_skies.skies().items()}
    fields["hi_cube"] = np.ones((1, 3072, 64))
    survey = small_skies.write(tmp_path / "a.h5", fields=fields, velocities=np.round(channels, 3))
    like = app.sky_simulator(app.parse_args([*command, str(survey)]))
    np.testing.assert_allclose(like.velocities, channels, rtol=0, atol=1e-9)
    assert like.low_pass_ell == 0.0
    other = small_skies.write(tmp_path / "b.h5", velocities=[-60.0, -30.0, -10.0, 0.0, 5.0, 15.0])
    with pytest.raises(ValueError, match="--like needs channels of one width made of those of HI4PI, got velocities"):
        app.sky_simulator(app.parse_args([*command, str(other)]))
    given = ["--channels", "6", "--velocity-low", "-60", "--velocity-high", "15"]
    assert app.sky_simulator(app.parse_args([*command, str(other), *given])).channels == 6


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("hi-maps", ("--cells", 4), "error: expected --cells in [16, 256], got 4"),
        ("hi-maps", ("--redshift", 0), "expected --redshift in [3, 10], got 0.0"),
        ("hi-maps", ("--particles", 20), "expected --particles in [32, 256], got 20"),
        ("hi-maps", ("--dtype", "float16"), "--dtype float16 cannot hold surface densities of 1e10"),
        ("hi-maps", ("--like", "/nowhere/hi.h5"), "there is no such file"),
        ("skies", ("--nside", 100), "expected --nside to be a power of two, got 100"),
        ("skies", ("--velocity-low", 20, "--velocity-high", 10), "expected --velocity-low below --velocity-high"),
        ("skies", ("--uncorrelated", 1), "expected --uncorrelated in [0, 0.95], got 1.0"),
        ("skies", ("--like", "/nowhere/sky.h5"), "there is no such file"),
    ],
)
def test_wrong_usage_of_hydrogen_maps_and_skies_is_one_line(app, tmp_path, capsys, kind, arguments, message):
    assert app.main([kind, "--count", "2", "--out", str(tmp_path / "a.h5"), *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--redshifts", "ten"), "expected numbers, such as 10 15 20 or 10,15,20, got 'ten'"),
        (("--projection", "max"), "invalid choice: 'max'"),
        (("--design", "grid"), "invalid choice: 'grid'"),
    ],
)
def test_unparsable_usage_of_coeval(app, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run_coeval(app, "--count", 1, "--out", "a.h5", *arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--box-cells", 10), "--box-cells is not for --simulator embedded, which has --n-perp, --n-los"),
        (
            ("--simulator", "py21cmfast", "--n-perp", 10),
            "--n-perp is not for --simulator py21cmfast, which has --box-cells",
        ),
        (("--n-perp", 1), "expected --n-perp >= 8, got 1"),
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
