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

from keras_cosmo.simulations.coeval import COEVAL_PARAMETERS
from keras_cosmo.simulations.py21cmfast_coeval import Py21cmfastCoevalSimulator

VALUES = np.array([40.5, 8.7, 3.7])
SMALL = {"box_cells": 16, "cell_size": 3.0, "redshifts": (10, 15), "slabs": 4, "slab_cells": 2, "redshift_step": 1.3}


def test_default_geometry_is_the_papers():
    simulator = Py21cmfastCoevalSimulator()
    assert simulator.maps_per_simulation == 20
    assert list(simulator.fields) == [
        "brightness_temp_z10", "density_z10", "brightness_temp_z15", "density_z15", "brightness_temp_z20",
        "density_z20",
    ]  # fmt: skip
    assert {field.shape for field in simulator.fields.values()} == {(200, 200)}
    assert simulator.fields["brightness_temp_z15"].unit == "mK"
    assert simulator.fields["density_z15"].unit == ""
    assert simulator.parameters == COEVAL_PARAMETERS
    assert (simulator.name, simulator.task) == ("py21cmfast", "matter")


def test_attributes():
    attributes = Py21cmfastCoevalSimulator(**SMALL).attributes()
    np.testing.assert_array_equal(attributes["redshifts"], [10.0, 15.0])
    assert (attributes["cell_size"], attributes["cell_size_units"]) == (3.0, "Mpc")
    assert (attributes["slab_cells"], attributes["projection"]) == (2, "mean")
    assert attributes["periodic_across_sky"] is True
    assert json.loads(attributes["cosmology"]) == {
        "hlittle": 0.6766, "OMm": 0.30964144154550644, "OMb": 0.04897468161869667, "POWER_INDEX": 0.9665,
        "SIGMA_8": 0.8102,
    }  # fmt: skip
    for part in ("48 Mpc and 16 cells", "4 slabs of 2 cells", "velocity-gradient", "park19", "down to z = 10"):
        assert part in attributes["description"]


def test_arguments_of_the_template():
    arguments = Py21cmfastCoevalSimulator().template_arguments(VALUES)
    expected = {
        "L_X": 40.5, "M_TURN": 8.7, "POP2_ION": 10**3.7, "R_BUBBLE_MAX": 15.0, "INHOMO_RECO": False,
        "USE_TS_FLUCT": True, "X_RAY_SPEC_INDEX": 1.0, "NU_X_THRESH": 500.0, "HII_DIM": 200, "BOX_LEN": 300.0,
        "N_THREADS": 1, "ZPRIME_STEP_FACTOR": 1.02, "Z_HEAT_MAX": 35.0, "SIGMA_8": 0.8102,
    }  # fmt: skip
    assert {name: arguments[name] for name in expected} == expected


def test_the_lowest_redshift_is_evolved_to_and_the_others_are_not_nodes():
    nodes = Py21cmfastCoevalSimulator(redshifts=(15, 10), redshift_step=1.04).node_redshifts()
    assert nodes[-1] == 10.0
    assert nodes[0] >= 35 > nodes[1]
    np.testing.assert_allclose((1 + np.array(nodes[:-1])) / (1 + np.array(nodes[1:])), 1.04)
    assert len(nodes) == 32


def test_can_be_pickled():
    simulator = Py21cmfastCoevalSimulator(**SMALL)
    assert pickle.loads(pickle.dumps(simulator)) == simulator


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"box_cells": 64.0}, TypeError, "box_cells: expected an integer, got 64.0"),
        ({"box_cells": 0}, ValueError, "box_cells: expected at least 1"),
        ({"box_cells": 20}, ValueError, "make a box of 30 Mpc; expected at least 45 Mpc, .* Take 30 cells or more"),
        ({"cell_size": -1.0}, ValueError, "cell_size: expected a positive size"),
        ({"cell_size": np.nan}, ValueError, "cell_size: expected a positive size"),
        ({"redshifts": ()}, ValueError, r"redshifts: expected one or more numbers from 5.5 to 35, .* got \(\)"),
        ({"redshifts": (4.0, 10.0)}, ValueError, r"redshifts: .* got \(4.0, 10.0\)"),
        ({"redshifts": (10.0, 36.0)}, ValueError, "redshifts: expected one or more numbers"),
        ({"redshifts": (10.0, np.nan)}, ValueError, "redshifts: expected one or more numbers"),
        ({"redshifts": ((10.0,),)}, ValueError, "redshifts: expected one or more numbers"),
        ({"redshifts": (10.0, 10.00000001)}, ValueError, "numbers that differ in their first six digits"),
        ({"slabs": 30}, ValueError, "a box of 200 cells cannot be divided into 30 equal parts. Take 25 slabs"),
        ({"slab_cells": 11}, ValueError, "20 slabs of 11 cells overlap"),
        ({"projection": "max"}, ValueError, "projection: expected one of"),
        ({"redshift_step": 1.0}, ValueError, "redshift_step: expected a ratio above 1"),
        ({"threads": 0}, ValueError, "threads: expected at least 1"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        Py21cmfastCoevalSimulator(**arguments)


@pytest.mark.parametrize("values", [[40.5, 8.7], [40.5, np.nan, 3.7]])
def test_parameter_values_are_checked(values):
    with pytest.raises(ValueError, match=r"parameter_values: expected 3 finite numbers \['log10_L_X', "):
        Py21cmfastCoevalSimulator().simulate(np.array(values), 1)


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_seed_is_checked(seed):
    with pytest.raises(ValueError, match="seed: expected 0 to"):
        Py21cmfastCoevalSimulator().simulate(VALUES, seed)


def test_says_how_to_install_21cmfast(monkeypatch):
    monkeypatch.setitem(sys.modules, "py21cmfast", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_cosmo\[21cmfast\]'"):
        Py21cmfastCoevalSimulator().simulate(VALUES, 1)


class FakeCoeval:
    """Boxes that hold their line-of-sight index; the velocity gradient adds 100 mK."""

    def __init__(self, redshift, cells, fill=0.0):
        self.redshift = redshift
        self.density = np.broadcast_to(np.arange(cells) / 16 + redshift, (cells, cells, cells)).astype(np.float32)
        self.brightness_temp = np.full((cells, cells, cells), fill, np.float32)

    def include_dvdr_in_tau21(self, axis):
        assert axis == "z"
        return self.brightness_temp + self.density + 100.0


def stand_in(monkeypatch, generate):
    """A package that looks like 21cmFAST, whose evolution is ``generate(**options)``."""
    caching = types.ModuleType("py21cmfast.io.caching")
    caching.CacheConfig = types.SimpleNamespace(off=lambda: "nothing written")
    caching.OutputCache = lambda folder: folder
    package = types.ModuleType("py21cmfast")
    package.__version__ = "4.1.1"
    package.InputParameters = types.SimpleNamespace(
        from_template=lambda name, **arguments: types.SimpleNamespace(arguments={"template": name, **arguments})
    )
    package.generate_coeval = generate
    for name, module in (
        ("py21cmfast", package), ("py21cmfast.io", types.ModuleType("py21cmfast.io")),
        ("py21cmfast.io.caching", caching),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)


def test_slices_what_21cmfast_returns_and_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = {}

    def generate(*, inputs, out_redshifts, cache, **options):
        seen.update(inputs.arguments, out_redshifts=out_redshifts, **options)
        (pathlib.Path(cache) / "box").write_text("a box")
        warnings.warn("advice", UserWarning, stacklevel=1)
        for redshift in (20.0, 15.0, 12.0, 10.0):
            yield FakeCoeval(redshift, 16), redshift in out_redshifts
        seen["exhausted"] = True

    stand_in(monkeypatch, generate)
    simulator = Py21cmfastCoevalSimulator(**SMALL)
    maps = simulator.simulate(VALUES, 7)
    assert set(maps) == set(simulator.fields)
    assert {field.dtype for field in maps.values()} == {np.dtype(np.float32)}
    assert {field.shape for field in maps.values()} == {(4, 16, 16)}
    # Slabs of cells 0-1, 4-5, 8-9 and 12-13.
    np.testing.assert_allclose(maps["density_z10"][:, 3, 4], 10 + (np.arange(4) * 4 + 0.5) / 16)
    np.testing.assert_allclose(maps["brightness_temp_z15"][:, 3, 4], 115 + (np.arange(4) * 4 + 0.5) / 16)
    assert seen["template"] == "park19"
    assert seen["random_seed"] == 7
    assert seen["node_redshifts"] == simulator.node_redshifts()
    assert seen["out_redshifts"] == (10.0, 15.0)
    assert seen["write"] == "nothing written"
    assert seen["progressbar"] is False
    assert seen["exhausted"]
    assert list(tmp_path.iterdir()) == []
    total = Py21cmfastCoevalSimulator(**SMALL, projection="sum").simulate(VALUES, 7)
    np.testing.assert_allclose(total["density_z10"], 2 * maps["density_z10"])


def test_failures_name_parameters_and_seed(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail(**options):
        raise ArithmeticError("table out of range")

    stand_in(monkeypatch, fail)
    with pytest.raises(RuntimeError, match=r"log10_L_X = 40.5, .*log10_N_gamma = 3.7, seed = 7: table out of range"):
        Py21cmfastCoevalSimulator(**SMALL).simulate(VALUES, 7)
    assert list(tmp_path.iterdir()) == []
    assert logging.getLogger("py21cmfast").level == logging.NOTSET


def test_values_that_are_not_finite_are_refused(monkeypatch):
    stand_in(monkeypatch, lambda **options: ((FakeCoeval(z, 16, fill=np.nan), True) for z in (15.0, 10.0)))
    with pytest.raises(RuntimeError, match=r"1024 values that are not finite for log10_L_X = 40.5"):
        Py21cmfastCoevalSimulator(**SMALL).simulate(VALUES, 7)


def test_boxes_at_other_redshifts_are_refused(monkeypatch):
    stand_in(monkeypatch, lambda **options: ((FakeCoeval(z, 16), True) for z in (15.0,)))
    with pytest.raises(RuntimeError, match=r"returned boxes \['brightness_temp_z15', 'density_z15'\] .* seed = 7"):
        Py21cmfastCoevalSimulator(**SMALL).simulate(VALUES, 7)


@pytest.mark.slow
def test_21cmfast_itself():
    pytest.importorskip("py21cmfast")
    simulator = Py21cmfastCoevalSimulator(**SMALL)
    faint, again, massive, photons, other = (
        simulator.simulate(np.array(values), seed)
        for values, seed in (
            ([40.0, 8.0, 3.0], 1), ([40.0, 8.0, 3.0], 1), ([40.0, 9.0, 3.0], 1), ([40.0, 8.0, 4.0], 1),
            ([40.0, 8.0, 3.0], 2),
        )
    )  # fmt: skip
    for name in simulator.fields:
        np.testing.assert_array_equal(faint[name], again[name])
        assert np.abs(faint[name] - other[name]).mean() > 0.05 * np.std(faint[name])
    for changed in (massive, photons):
        assert np.abs(changed["brightness_temp_z10"] - faint["brightness_temp_z10"]).mean() > 1.0
        # Matter knows nothing of astrophysics.
        np.testing.assert_array_equal(changed["density_z10"], faint["density_z10"])
    assert simulator.version.startswith("4.")
