import json
import pathlib
import runpy

import numpy as np
import pytest
from halo_files import HUBBLE, OMEGA_M, SIDE, make_haloes, write_ascii, write_joined, write_parameters, write_sliced

from keras_cosmo.data.database import Database
from keras_cosmo.simulations.emission_lines import HALPHA, LINES
from keras_cosmo.simulations.halo_luminosity import RELATIONS, HaloLuminosity

APP = pathlib.Path(__file__).parents[2] / "apps" / "convert_haloes.py"
SMALL = ["--projections", "3", "--map-cells", "16", "--map-side", "0.4", "--minimum-mass", "1e12"]


@pytest.fixture(scope="module")
def app():
    return runpy.run_path(str(APP))


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    for seed, writer in ((1, write_joined), (2, write_sliced), (3, write_ascii)):
        write_parameters(folder, run=f"s{seed}", seed=seed, changes={"OmegaBaryon": 0.044})
        for redshift in (1.3, 2.0):
            writer(folder, make_haloes(3000, seed=seed), redshift=redshift, run=f"s{seed}")
    return folder


def test_names_are_those_of_the_simulator(app):
    assert app["LINES"] == tuple(LINES)
    assert app["RELATIONS"] == RELATIONS


def test_published_relations_and_scatter(app, runs, tmp_path, capsys):
    means = {}
    for name, flags in {"gong2017": [], "silva2015": ["--relation", "silva2015"]}.items():
        out = tmp_path / f"{name}.h5"
        command = [str(runs), "--out", str(out), *SMALL, "--lines", "halpha", "--luminosity-scatter", "0", *flags]
        assert app["main"](command) == 0
        means[name] = Database(out).read("intensity_halpha", np.arange(9)).mean()
    masses = make_haloes(3000, seed=1)["mass"] / HUBBLE
    masses = masses[masses > 1e12]
    rates = [HaloLuminosity(relation).star_formation_rate(masses, HALPHA.redshift(1.5)).sum() for relation in means]
    assert means["silva2015"] / means["gong2017"] == pytest.approx(rates[1] / rates[0], rel=0.3)
    assert app["main"]([str(runs), "--out", str(tmp_path / "c.h5"), *SMALL, "--luminosity-scatter", "3"]) == 1
    assert "error: expected --luminosity-scatter in [0, 1] dex, got 3.0.\n" in capsys.readouterr().err


def test_converts_a_folder(app, runs, tmp_path, capsys):
    out = tmp_path / "out.h5"
    assert app["main"]([str(runs), "--out", str(out), *SMALL]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    fields = ["intensity_halpha", "intensity_oiii"]
    database = Database(out).require("separation", fields)
    assert sorted(database.fields) == sorted([*fields, *(f"{field}_unsmoothed" for field in fields)])
    assert (database.n_maps, database.n_simulations, database.parameters) == (9, 3, ())
    assert database.fields["intensity_oiii"].shape == (16, 16)
    cosmology = json.loads(database.attributes["cosmology"])
    assert (cosmology["OMm"], cosmology["hlittle"], cosmology["OMb"]) == (OMEGA_M, HUBBLE, 0.044)
    assert database.attributes["beam_sigma"] == 1.2
    assert database.cell_size == pytest.approx(1.5)
    assert database.read("intensity_halpha", np.arange(9)).max() > 0.0
    assert app["main"]([str(runs), "--out", str(out), *SMALL]) == 1
    error = capsys.readouterr().err
    assert "exists already" in error
    assert "Traceback" not in error


def test_without_parameter_files(app, tmp_path, capsys):
    paths = [str(write_joined(tmp_path, make_haloes(500), redshift=redshift)) for redshift in (1.3, 2.0)]
    command = [*paths, "--out", str(tmp_path / "out.h5"), *SMALL, "--no-unsmoothed", "--beam-sigma", "0"]
    assert app["main"](command) == 1
    error = capsys.readouterr().err
    assert "give --mass-unit ('Msun/h' if OutputInH100 was set" in error
    assert "mass_unit" not in error
    assert app["main"]([*command, "--mass-unit", "Msun/h"]) == 1
    assert "Put it there, or give --hubble, such as 0.7." in capsys.readouterr().err
    assert app["main"]([*command, "--mass-unit", "Msun"]) == 1
    assert "or give --box-size, the side in Mpc (not Mpc/h)." in capsys.readouterr().err
    given = ["--mass-unit", "Msun/h", "--hubble", str(HUBBLE), "--box-size", str(SIDE / HUBBLE)]
    assert app["main"]([*command, *given]) == 0
    database = Database(tmp_path / "out.h5")
    assert sorted(database.fields) == ["intensity_halpha", "intensity_oiii"]
    assert json.loads(database.attributes["cosmology"])["hlittle"] == HUBBLE


def write_table(path, dust, line="halpha"):
    header = f"# line: {line}\n# redshift: 1.3\n# dust: {dust}\nlog10M_lo,log10M_hi,L_mean,L_std\n"
    path.write_text(header + "11,12,1e40,0\n12,15,1e42,0\n")
    return str(path)


def test_luminosity_tables(app, runs, tmp_path, capsys):
    maps = {}
    for dust in ("applied", "not applied"):
        out = tmp_path / f"{dust}.h5"
        table = write_table(tmp_path / f"{dust}.csv", dust)
        command = [str(runs), "--out", str(out), *SMALL, "--lines", "halpha", "--luminosity-table", table]
        assert app["main"](command) == 0
        maps[dust] = Database(out).read("intensity_halpha", np.arange(9))
    np.testing.assert_allclose(maps["not applied"], maps["applied"] * 10 ** (-0.4 * HALPHA.attenuation), rtol=1e-5)
    command = [str(runs), "--out", str(tmp_path / "b.h5"), *SMALL, "--lines", "halpha", "--luminosity-table"]
    assert app["main"]([*command, write_table(tmp_path / "oiii.csv", "applied", "oiii")]) == 1
    assert "expected a table of one of the lines halpha, got 'oiii'" in capsys.readouterr().err
    assert app["main"]([*command, str(tmp_path / "nowhere.csv")]) == 1
    assert "there is no such table of luminosities" in capsys.readouterr().err


def test_a_line_without_catalogue(app, runs, tmp_path, capsys):
    assert app["main"]([str(runs), "--out", str(tmp_path / "out.h5"), *SMALL, "--lines", "oii"]) == 1
    assert "expected a catalogue within 0.02 of z = 3.025, where oii is seen" in capsys.readouterr().err
    assert app["main"]([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out.h5")]) == 1
    assert "nowhere: there is no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--box-size", "100"], "--box-size is given as 100 Mpc, but parameters_s1 says 142.857 Mpc. Leave it out"),
        (["--hubble", "0.9"], "--hubble is given as 0.9, but parameters_s1 says 0.7. Leave it out"),
        (["--projections", "0"], "error: --projections: expected at least 1, got 0."),
        (["--seed", "-1"], "error: --seed: expected at least 0, got -1."),
        (["--map-cells", "1"], "error: expected --map-cells in ["),
        (["--beam-sigma", "99"], "error: expected --beam-sigma in ["),
        (["--lines", "halpha", "halpha"], "error: expected --lines to be different names"),
        (["--observed-wavelength", "0.5"], "error: --observed-wavelength: Halpha is emitted at 0.6563 um"),
    ],
)
def test_messages_name_the_flags(app, runs, tmp_path, flags, message, capsys):
    assert app["main"]([str(runs), "--out", str(tmp_path / "out.h5"), *SMALL, *flags]) == 1
    assert message in capsys.readouterr().err


def test_a_warning_of_haloes_that_are_not_there(app, runs, tmp_path, caplog):
    flags = ["--minimum-mass", "1e10", "--projections", "1"]
    assert app["main"]([str(runs), "--out", str(tmp_path / "out.h5"), *SMALL, *flags]) == 0
    assert "Haloes of 1e+10 Msun and more shine, but the catalogues begin at" in caplog.text


@pytest.mark.parametrize(
    "arguments", ["folder", "--out a", "folder --out a --lines hbeta", "folder --out a --seed one"]
)
def test_wrong_usage(app, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        app["main"](arguments.split())
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err
