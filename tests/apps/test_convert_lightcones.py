import pathlib
import runpy

import h5py
import numpy as np
import pytest

from keras_cosmo.data.database import Database

APP = pathlib.Path(__file__).parents[2] / "apps" / "convert_lightcones.py"


@pytest.fixture
def main():
    return runpy.run_path(str(APP))["main"]


def write_lightcone(path, seed):
    """The smallest file that 21cmFAST 3 could have written."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"redshift": 8.2, "random_seed": seed, "version": "3.4.0"})
        for group, values in {
            "user_params": {"HII_DIM": 8, "BOX_LEN": 12.0},
            "cosmo_params": {"hlittle": 0.68, "OMm": 0.31, "OMb": 0.048, "POWER_INDEX": 0.97, "SIGMA_8": 0.81},
            "astro_params": {"HII_EFF_FACTOR": 42.0, "L_X": 40.5, "ION_Tvir_MIN": 4.7, "NU_X_THRESH": 300.0},
            "flag_options": {"USE_TS_FLUCT": True, "M_MIN_in_Mass": True},
        }.items():
            file.create_group(group).attrs.update(values)
        file["lightcones/brightness_temp"] = np.full((8, 8, 16), seed, np.float32)


def test_converts_a_folder(main, tmp_path, capsys):
    cones, out = tmp_path / "cones", tmp_path / "out.h5"
    cones.mkdir()
    for seed in (3, 4):
        write_lightcone(cones / f"cone_{seed}.h5", seed)
    command = [str(cones), "--out", str(out), "--slices", "2", "--spacing", "6", "--axes", "0", "1"]
    assert main(command) == 1
    assert "log10_T_vir = 4.7 cannot be a label" in capsys.readouterr().err
    assert main([*command, "--parameters", "zeta", "log10_L_X", "E_0"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    database = Database(out)
    assert database.parameter_names == ("zeta", "log10_L_X", "E_0")
    assert database.n_maps == 16
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err


def test_wrong_usage(main):
    with pytest.raises(SystemExit, match="2"):
        main(["folder"])
