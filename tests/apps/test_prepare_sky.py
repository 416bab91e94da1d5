import pathlib
import runpy

import healpy
import numpy as np
import pytest

from keras_cosmo.data import sky_preparation
from keras_cosmo.data.database import Database
from keras_cosmo.data.formats.healpix_maps import COORDINATES
from keras_cosmo.data.sky_preparation import check_sky

APP = pathlib.Path(__file__).parents[2] / "apps" / "prepare_sky.py"
NSIDE = 8
PIXELS = 12 * NSIDE**2


@pytest.fixture(scope="module")
def app():
    return runpy.run_path(str(APP))


@pytest.fixture
def command(tmp_path):
    """Flags for a small cube, dust and mask."""
    generator = np.random.default_rng(3)
    np.save(tmp_path / "cube.npy", generator.random((3, PIXELS)).astype(np.float32))
    np.savetxt(tmp_path / "velocities.txt", [-80.0, 0.0, 80.0])
    for name, values in {"dust": generator.random(PIXELS), "mask": np.arange(PIXELS) < 600}.items():
        options = {"column_names": [f"{name}_column"], "column_units": "uK_RJ" if name == "dust" else None}
        healpy.write_map(tmp_path / f"{name}.fits", values, coord="G", dtype=np.float32, **options)
    flags = (
        f"--cube cube.npy --cube-velocities velocities.txt --dust dust.fits --mask mask.fits --out {tmp_path}/sky.h5"
    )
    words = [str(tmp_path / word) if (tmp_path / word).is_file() else word for word in flags.split()]
    return [
        *words,
        "--out",
        f"{tmp_path}/sky.h5",
        "--ordering",
        "RING",
        "--coordinates",
        "galactic",
        "--low-pass",
        "10",
    ]


def test_defaults_are_those_of_the_library(app, monkeypatch):
    seen, defaults = {}, sky_preparation.prepare_sky.__kwdefaults__
    monkeypatch.setattr(sky_preparation, "prepare_sky", lambda path, **options: seen.update(options))
    monkeypatch.setattr(sky_preparation, "summarize_sky", str)
    assert app["main"](["--cube", "a", "b", "--dust", "c", "--out", "d"]) == 0
    assert (seen.pop("cube"), seen.pop("dust"), callable(seen.pop("progress"))) == (["a", "b"], "c", True)
    assert seen == {name: defaults[name] for name in seen}
    assert set(defaults) - set(seen) == {"progress"}
    assert app["COORDINATES"] == tuple(COORDINATES)


def test_help(app, capsys):
    with pytest.raises(SystemExit):
        app["main"](["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for text in (
        "HFI_Mask_GalPlane-apo0_2048_R2.00.fits --mask-column GAL070",
        "its column, needed if there are several",
        "the 65 filters take about 17 s of processor time each",
    ):
        assert text in said


def test_a_mask_with_several_columns(app, command, tmp_path, capsys):
    columns = np.ones((2, PIXELS), np.float32)
    healpy.write_map(tmp_path / "mask.fits", columns, coord="G", column_names=["GAL060", "GAL070"], overwrite=True)
    assert app["main"](command) == 1
    assert "GAL060" in capsys.readouterr().err
    assert app["main"]([*command, "--mask-column", "GAL060"]) == 0


def test_prepares_a_sky(app, command, tmp_path, capsys):
    assert app["main"](command) == 0
    output = capsys.readouterr().out
    assert f"{tmp_path}/sky.h5: nside 8, 1 channels from 0.000 to 0.000 km/s, sky fraction 0.7812" in output
    database = check_sky(Database(tmp_path / "sky.h5"))
    assert database.attributes["low_pass_ell"] == 10.0
    assert database.attributes["velocities"].tolist() == [0.0]
    assert app["main"](command) == 1
    error = capsys.readouterr().err
    assert "exists already" in error
    assert "Traceback" not in error
    assert app["main"]([*command, "--resume"]) == 0
    assert app["main"]([*command, "--resume", "--low-pass", "5"]) == 1
    assert "attribute --low-pass is 10.0, expected 5.0" in capsys.readouterr().err


def test_all_flags(app, command, tmp_path, capsys):
    flags = "--velocities -90 90 --low-pass 0 --low-pass-order 2 --nside 4 --dust-column dust_column --mask-column "
    assert app["main"]([*command, *flags.split(), "mask_column"]) == 0
    database = Database(tmp_path / "sky.h5")
    assert database.fields["hi_cube"].shape == (192, 3)
    assert database.attributes["low_pass_order"] == 2.0
    assert app["main"]([*command, "--dust-column", "nothing", "--out", str(tmp_path / "b.h5")]) == 1
    assert "expected a column 'nothing'" in capsys.readouterr().err
    assert app["main"]([*command, "--nside", "10", "--out", str(tmp_path / "b.h5")]) == 1
    assert "nside: expected a power of two, got 10" in capsys.readouterr().err


def test_interrupted(app, command, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sky_preparation, "prepare_sky", interrupted)
    assert app["main"](command) == 130
    assert "interrupted. What is done is kept; give --resume to go on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", ["--cube a --dust b", "--cube a --out b", "--cube a --dust b --out c --ordering nest"]
)
def test_wrong_usage(app, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        app["main"](arguments.split())
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err
