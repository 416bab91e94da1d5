import json
import logging
import pathlib
import pickle
import sys
import tempfile
import types
import warnings

import numpy as np
import pytest

from keras_cosmo.simulations.lightcones import LIGHTCONE_PARAMETERS
from keras_cosmo.simulations.py21cmfast import Py21cmfastLightconeSimulator
from keras_cosmo.simulations.py21cmfast_package import import_py21cmfast

VALUES = np.array([30.0, 40.0, 4.7, 0.5])
SMALL = {"box_cells": 16, "cell_size": 3.0, "z_max": 8.0, "slices": 2, "spacing": 24.0, "redshift_step": 1.2}


def test_default_geometry_is_the_papers():
    simulator = Py21cmfastLightconeSimulator()
    assert simulator.maps_per_simulation == 10
    assert simulator.fields["brightness_temp"].unit == "mK"
    assert simulator.fields["brightness_temp"].shape == (100, 2085)
    assert [each.name for each in simulator.parameters] == [each.name for each in LIGHTCONE_PARAMETERS]
    assert simulator.task == "regression"
    assert simulator.name == "py21cmfast"


def test_attributes():
    simulator = Py21cmfastLightconeSimulator(box_cells=50, slices=2, spacing=36.0, parts=1)
    attributes = simulator.attributes()
    assert attributes["redshifts"].shape == (simulator.fields["brightness_temp"].shape[1],)
    assert attributes["cell_size"] == 1.5
    assert json.loads(attributes["cosmology"]) == {
        "hlittle": 0.68, "OMm": 0.31, "OMb": 0.048, "POWER_INDEX": 0.97, "SIGMA_8": 0.81,
    }  # fmt: skip
    assert "75 Mpc box" in attributes["description"]
    assert "M_MIN_in_Mass False" in attributes["description"]


def test_the_virial_temperature_is_made_to_act():
    arguments = Py21cmfastLightconeSimulator().template_arguments(VALUES)
    assert arguments["M_MIN_in_Mass"] is False
    assert arguments["ION_Tvir_MIN"] == arguments["X_RAY_Tvir_MIN"] == 4.7
    assert arguments["USE_TS_FLUCT"] is True


def test_arguments_of_the_template():
    arguments = Py21cmfastLightconeSimulator().template_arguments(VALUES)
    expected = {
        "HII_EFF_FACTOR": 30.0, "L_X": 40.0, "NU_X_THRESH": 500.0, "R_BUBBLE_MAX": 15.0, "X_RAY_SPEC_INDEX": 1.0,
        "HII_DIM": 200, "BOX_LEN": 300.0, "N_THREADS": 1, "hlittle": 0.68, "OMm": 0.31, "OMb": 0.048,
        "SIGMA_8": 0.81, "POWER_INDEX": 0.97,
    }  # fmt: skip
    assert {name: arguments[name] for name in expected} == expected


def test_boxes_are_evolved_as_21cmfast_spaces_them_and_no_further_than_needed():
    nodes = Py21cmfastLightconeSimulator(redshift_step=1.04).node_redshifts()
    np.testing.assert_allclose(nodes[-2:], [6.5 * 1.04**2 - 1, 6.5 * 1.04 - 1])
    np.testing.assert_allclose((1 + np.array(nodes[:-1])) / (1 + np.array(nodes[1:])), 1.04)
    assert nodes[0] >= 35 > nodes[1]


def test_prior_of_the_virial_temperature_ends_where_a_halo_outweighs_a_cell():
    # Found by trial with 21cmFAST 4.1.1: 10^5.93 K runs and 10^5.936 K fails, for this cell and lowest node.
    simulator = Py21cmfastLightconeSimulator(redshift_step=1.04)
    assert simulator.hottest_log10_T_vir() == 5.93
    assert [each.high for each in simulator.parameters] == [250.0, 42.0, 5.93, 1.5]
    assert "log10_T_vir up to 5.93" in simulator.attributes()["description"]
    assert Py21cmfastLightconeSimulator(cell_size=1.65).parameters == LIGHTCONE_PARAMETERS
    with pytest.raises(ValueError, match=r"log10_T_vir = 5.97 is too high for cells of 1.5 Mpc: down to z = 6"):
        simulator.template_arguments(np.array([30.0, 40.0, 5.97, 0.5]))


def test_can_be_pickled():
    simulator = Py21cmfastLightconeSimulator(**SMALL)
    assert pickle.loads(pickle.dumps(simulator)) == simulator


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"box_cells": 50.0}, TypeError, "box_cells: expected an integer, got 50.0"),
        ({"box_cells": 0}, ValueError, "box_cells: expected at least 1"),
        (
            {"box_cells": 20, "slices": 1},
            ValueError,
            "make a box of 30 Mpc; expected at least 45 Mpc, .* Take 30 cells or more",
        ),
        ({"cell_size": -1.0}, ValueError, "cell_size: expected a positive size"),
        (
            {"cell_size": 0.1, "box_cells": 450, "slices": 1},
            ValueError,
            "cell_size: a cell of 0.1 Mpc is lighter than every halo",
        ),
        ({"z_min": 5.0}, ValueError, "expected 5.5 <= z_min < z_max <= 35"),
        ({"z_max": 40.0}, ValueError, "expected 5.5 <= z_min < z_max <= 35"),
        ({"z_min": 9.0, "z_max": 9.0}, ValueError, "expected 5.5 <= z_min < z_max <= 35"),
        ({"slices": 6}, ValueError, "6 slices 60.0 Mpc apart need 201 cells"),
        ({"axes": (2,)}, ValueError, "Axis 2 is the line of sight"),
        ({"redshift_step": 1.0}, ValueError, "redshift_step: expected a ratio above 1"),
        ({"threads": 0}, ValueError, "threads: expected at least 1"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        Py21cmfastLightconeSimulator(**arguments)


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [30.0, 40.0, np.nan, 0.5]])
def test_parameter_values_are_checked(values):
    with pytest.raises(ValueError, match=r"parameter_values: expected 4 finite numbers \['zeta', "):
        Py21cmfastLightconeSimulator().simulate(np.array(values), 1)


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_seed_is_checked(seed):
    with pytest.raises(ValueError, match="seed: expected 0 to"):
        Py21cmfastLightconeSimulator().simulate(VALUES, seed)


def test_says_how_to_install_21cmfast(monkeypatch):
    monkeypatch.setitem(sys.modules, "py21cmfast", None)
    for call in (lambda: Py21cmfastLightconeSimulator().simulate(VALUES, 1), import_py21cmfast):
        with pytest.raises(ImportError, match=r"pip install 'keras_cosmo\[21cmfast\]'") as caught:
            call()
        for part in ("libfftw3-dev", "libgsl-dev", "conda install -c conda-forge 21cmfast"):
            assert part in str(caught.value)


def test_refuses_versions_with_other_inputs(monkeypatch):
    monkeypatch.setitem(sys.modules, "py21cmfast", types.SimpleNamespace(__version__="3.4.0"))
    with pytest.raises(ImportError, match=r"21cmFAST 3\.4\.0 is installed; expected 4.1.1 or newer"):
        import_py21cmfast()


def stand_in(monkeypatch, run):
    """A package that looks like 21cmFAST, whose simulation is ``run(arguments of the template)``."""
    cells = types.SimpleNamespace(to_value=lambda unit: 8000.0)
    cosmology = types.SimpleNamespace(comoving_distance=lambda z: cells)
    template = types.SimpleNamespace(
        from_template=lambda name, **arguments: types.SimpleNamespace(
            cosmo_params=types.SimpleNamespace(cosmo=cosmology), arguments={"template": name, **arguments}
        )
    )
    caching = types.ModuleType("py21cmfast.io.caching")
    caching.CacheConfig = types.SimpleNamespace(last_step_only=lambda: None)
    caching.OutputCache = lambda folder: folder
    units = types.ModuleType("astropy")
    units.units = types.SimpleNamespace(Mpc=1.0)
    package = types.ModuleType("py21cmfast")
    package.__version__ = "4.1.1"
    package.InputParameters = template
    package.RectilinearLightconer = lambda **arguments: arguments
    package.run_lightcone = run
    for name, module in (
        ("py21cmfast", package), ("py21cmfast.io", types.ModuleType("py21cmfast.io")),
        ("py21cmfast.io.caching", caching), ("astropy", units),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)


def test_slices_what_21cmfast_returns_and_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = {}

    def run(*, lightconer, inputs, cache, **options):
        seen.update(inputs.arguments, **options, cells=len(lightconer["lc_distances"]))
        (pathlib.Path(cache) / "box").write_text("a box")
        warnings.warn("advice", UserWarning, stacklevel=1)
        cone = np.zeros((16, 16, seen["cells"]), np.float32) + np.arange(16)[:, None, None]
        return types.SimpleNamespace(lightcones={"brightness_temp": cone})

    stand_in(monkeypatch, run)
    simulator = Py21cmfastLightconeSimulator(**SMALL)
    maps = simulator.simulate(VALUES, 7)["brightness_temp"]
    assert maps.dtype == np.float32
    assert maps.shape == (4, *simulator.fields["brightness_temp"].shape)
    np.testing.assert_array_equal(maps[:, 0, 0], [0, 0, 8, 8])
    assert seen["template"] == "const-zeta"
    assert seen["random_seed"] == 7
    assert seen["include_dvdr_in_tau21"] is True
    assert seen["progressbar"] is False
    assert seen["cells"] == len(simulator.attributes()["redshifts"])
    assert list(tmp_path.iterdir()) == []


def test_failures_name_parameters_and_seed(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail(**options):
        raise ArithmeticError("table out of range")

    stand_in(monkeypatch, fail)
    with pytest.raises(RuntimeError, match=r"zeta = 30, .*E_0 = 0.5, seed = 7: table out of range"):
        Py21cmfastLightconeSimulator(**SMALL).simulate(VALUES, 7)
    assert list(tmp_path.iterdir()) == []
    assert logging.getLogger("py21cmfast").level == logging.NOTSET


def test_values_that_are_not_finite_are_refused(monkeypatch):
    def run(*, lightconer, **options):
        cone = np.full((16, 16, len(lightconer["lc_distances"])), np.nan, np.float32)
        return types.SimpleNamespace(lightcones={"brightness_temp": cone})

    stand_in(monkeypatch, run)
    with pytest.raises(RuntimeError, match=r"values that are not finite for zeta = 30"):
        Py21cmfastLightconeSimulator(**SMALL).simulate(VALUES, 7)


@pytest.mark.slow
def test_21cmfast_itself():
    pytest.importorskip("py21cmfast")
    simulator = Py21cmfastLightconeSimulator(**SMALL)
    cold, again, hot, other = (
        simulator.simulate(np.array([30.0, 40.0, temperature, 0.5]), seed)["brightness_temp"]
        for temperature, seed in ((4.2, 1), (4.2, 1), (5.8, 1), (4.2, 2))
    )
    assert cold.shape == (4, *simulator.fields["brightness_temp"].shape)
    np.testing.assert_array_equal(cold, again)
    # With the template as it comes, the virial temperature changes nothing at all.
    assert np.abs(cold - hot).mean() > 5.0
    assert np.abs(cold - other).mean() > 0.1
    assert simulator.version.startswith("4.")
