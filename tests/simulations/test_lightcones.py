import dataclasses
import json
import pathlib
import pickle

import numpy as np
import pytest

from keras_cosmo.distances import comoving_distance, lightcone_distances, redshift_at_distance
from keras_cosmo.simulations.lightcones import LIGHTCONE_PARAMETERS, LightconeSimulator

REFERENCE = json.loads((pathlib.Path(__file__).parent / "lightcones_21cmfast.json").read_text())
FIDUCIAL = np.array([60.0, 40.0, 4.7, 0.5])
SMALL = LightconeSimulator(n_perp=32, n_los=256)


def mean_signal(z, seeds=range(4), **changes):
    values = FIDUCIAL.copy()
    for name, value in changes.items():
        values[[p.name for p in LIGHTCONE_PARAMETERS].index(name)] = value
    near = np.abs(SMALL.redshifts - z) < 0.5
    return np.mean([SMALL.simulate(values, seed)["brightness_temp"][..., near].mean() for seed in seeds])


def test_simulator_contract():
    maps = SMALL.simulate(FIDUCIAL, 3)
    assert set(maps) == set(SMALL.fields) == {"brightness_temp"}
    assert maps["brightness_temp"].shape == (1, *SMALL.fields["brightness_temp"].shape) == (1, 32, 256)
    assert maps["brightness_temp"].dtype == np.float32
    assert np.isfinite(maps["brightness_temp"]).all()
    assert SMALL.fields["brightness_temp"].unit == "mK"
    assert [p.name for p in SMALL.parameters] == ["zeta", "log10_L_X", "log10_T_vir", "E_0"]
    assert (SMALL.name, SMALL.task, SMALL.maps_per_simulation) == ("embedded", "regression", 1)


def test_attributes_describe_the_geometry():
    attributes = SMALL.attributes()
    redshifts = attributes["redshifts"]
    assert redshifts.shape == (256,)
    assert np.all(np.diff(redshifts) > 0.0)
    assert redshifts[0] == pytest.approx(6.0, abs=1e-3)
    assert 29.4 < redshifts[-1] < 30.0
    assert json.loads(attributes["cosmology"])["OMm"] == 0.31
    assert attributes["cell_size_units"] == "Mpc"
    distance = comoving_distance(redshifts, h=0.68, omega_m=0.31)
    np.testing.assert_allclose(np.diff(distance), attributes["cell_size"], rtol=1e-6)


def test_cells_are_at_the_redshifts_of_21cmfast():
    # A light-cone of py21cmfast 4.1.1 from z = 6 to 30 in cells of 1.5 Mpc: 2085 of them, ending at z = 30.00732.
    redshifts = LightconeSimulator(n_perp=8, n_los=2085, cell_size=1.5).redshifts
    np.testing.assert_allclose(redshifts[[0, -1]], [6.0, 30.00731907], atol=1e-6)
    distances = lightcone_distances(6.0, 30.0, 1.5, h=0.68, omega_m=0.31)
    np.testing.assert_allclose(redshifts, redshift_at_distance(distances, h=0.68, omega_m=0.31), atol=1e-6)


def test_pure_function_of_values_and_seed():
    first = SMALL.simulate(FIDUCIAL, 7)["brightness_temp"]
    np.testing.assert_array_equal(first, SMALL.simulate(tuple(FIDUCIAL), np.int64(7))["brightness_temp"])
    copy = pickle.loads(pickle.dumps(SMALL))
    assert copy == SMALL
    np.testing.assert_array_equal(first, copy.simulate(FIDUCIAL, 7)["brightness_temp"])
    assert len(pickle.dumps(SMALL)) < 2000
    np.random.default_rng(0)
    other = SMALL.simulate(FIDUCIAL, 8)["brightness_temp"]
    detrended = [m[0] - m[0].mean(axis=0) for m in (first, other)]
    assert abs(np.corrcoef(detrended[0].ravel(), detrended[1].ravel())[0, 1]) < 0.1


def test_maps_of_one_simulation_are_independent_planes():
    several = dataclasses.replace(SMALL, maps_per_simulation=3)
    maps = several.simulate(FIDUCIAL, 7)["brightness_temp"]
    assert maps.shape == (3, 32, 256)
    np.testing.assert_array_equal(maps[0], SMALL.simulate(FIDUCIAL, 7)["brightness_temp"][0])
    detrended = maps - maps.mean(axis=1, keepdims=True)
    assert abs(np.corrcoef(detrended[0].ravel(), detrended[1].ravel())[0, 1]) < 0.1


def test_parameters_act_as_in_21cmfast():
    # Brighter X-rays lift the absorption trough; rarer galaxies delay it; more ionising photons end the signal
    # earlier; a higher X-ray threshold leaves the gas colder.
    assert mean_signal(12.0, log10_L_X=41.0) > mean_signal(12.0) + 10.0
    assert mean_signal(12.0, log10_L_X=39.0) < mean_signal(12.0) - 50.0
    assert mean_signal(16.0, log10_T_vir=5.3) > mean_signal(16.0) + 30.0
    assert mean_signal(12.0, log10_T_vir=5.3) < mean_signal(12.0) - 30.0
    assert mean_signal(8.5, zeta=25.0) > mean_signal(8.5, zeta=60.0) > mean_signal(8.5, zeta=180.0) - 0.01
    assert mean_signal(12.0, E_0=1.2) < mean_signal(12.0) - 10.0


def test_intermediate_fields():
    simulator = LightconeSimulator(n_perp=64, n_los=300, cell_size=3.0)
    fields = simulator.simulate_fields(FIDUCIAL, 1)
    np.testing.assert_array_equal(fields["brightness_temp"], simulator.simulate(FIDUCIAL, 1)["brightness_temp"])
    assert fields["density"].min() > -1.0
    assert abs(fields["density"].mean()) < 0.1
    neutral = fields["neutral_fraction"]
    assert neutral.min() == 0.0
    assert neutral.max() <= 1.0
    history = simulator.history(FIDUCIAL)
    # The excursion set with sharp-k filters leaves more neutral gas than photons could: but never less than a little.
    expected = np.interp(simulator.redshifts, history.redshift, history.neutral_filling)
    assert np.abs(neutral.mean(axis=(0, 1)) - expected).mean() < 0.15
    assert np.all(fields["brightness_temp"][neutral == 0.0] == 0.0)
    assert fields["kinetic_temperature"].min() > 0.5


@pytest.mark.parametrize("run", REFERENCE["simulations"], ids=lambda run: "-".join(f"{v:g}" for v in run["parameters"]))
def test_mean_and_scatter_agree_with_21cmfast(run):
    """Numbers of real 21cmFAST simulations with the same parameters, in boxes that hold no mode above 75 Mpc."""
    simulator = LightconeSimulator(n_perp=50, n_los=2085, cell_size=1.5, maps_per_simulation=2, box_size=75.0)
    maps = simulator.simulate(run["parameters"], 12)["brightness_temp"]
    redshifts = simulator.redshifts
    mean, deviation = [], []
    for z in REFERENCE["redshift"]:
        start = max(np.argmin(np.abs(redshifts - z)) - 24, 0)
        window = maps[..., start : start + 49]
        mean.append(window.mean())
        deviation.append(window.std(axis=1).mean())
    error = np.array(mean) - run["mean"]
    deepest = np.abs(run["mean"]).max()
    assert np.sqrt(np.mean(error**2)) < 1.5 + 0.04 * deepest
    assert np.corrcoef(mean, run["mean"])[0, 1] > 0.99
    strong = np.array(run["deviation"]) > 3.0
    ratio = np.array(deviation)[strong] / np.array(run["deviation"])[strong]
    assert 0.8 < np.exp(np.mean(np.log(ratio))) < 1.25


@pytest.mark.parametrize("values", [[1.0, 30.0, 6.9, 1.99], [1e3, 43.0, 3.5, 0.1], [1.0, 43.0, 3.5, 0.1]])
def test_extreme_values_give_finite_maps(values):
    assert np.isfinite(SMALL.simulate(values, 1)["brightness_temp"]).all()


@pytest.mark.parametrize(
    ("values", "seed", "match"),
    [
        ([60.0, 40.0, 4.7], 0, r"expected shape \(4,\) .*got shape \(3,\)"),
        ([60.0, np.nan, 4.7, 0.5], 0, r"log10_L_X is not finite"),
        ([0.0, 40.0, 4.7, 0.5], 0, r"expected zeta in \[1, 1000\]"),
        ([60.0, 40.0, 4.7, 500.0], 0, r"expected E_0 in \[0.1, 1.99\].*got 500"),
        ([60.0, 1e40, 4.7, 0.5], 0, r"expected log10_L_X in \[30, 43\]"),
        ([60.0, 40.0, 4.7, 0.5], -1, r"expected seed to be an integer in \[0, 2\*\*31\), got -1"),
        ([60.0, 40.0, 4.7, 0.5], 0.5, r"expected seed to be an integer .*got 0.5"),
    ],
)
def test_bad_values_and_seeds_are_refused(values, seed, match):
    with pytest.raises(ValueError, match=match):
        SMALL.simulate(values, seed)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"n_perp": 4}, ValueError, "expected n_perp >= 8, got 4"),
        ({"n_los": 2.5}, TypeError, "expected n_los to be an integer, got 2.5"),
        ({"maps_per_simulation": 0}, ValueError, "expected maps_per_simulation >= 1, got 0"),
        ({"z_min": 20.0, "z_max": 10.0}, ValueError, "expected 5.9 <= z_min < z_max <= 34"),
        ({"cell_size": 0.0}, ValueError, r"expected cell_size in \[0.1, 50\] Mpc, got 0.0"),
        ({"box_size": 10.0}, ValueError, "expected box_size None or at least 30 Mpc, got 10.0"),
        ({"redshift_factor": 1.0}, ValueError, r"expected redshift_factor in \[1.001, 1.1\], got 1.0"),
        ({"r_mfp": 500.0}, ValueError, r"expected r_mfp in \[1, 150\] Mpc, got 500.0"),
        ({"n_los": 4000, "cell_size": 1.5}, ValueError, "reach beyond redshift 34; use at most n_los="),
    ],
)
def test_bad_geometry_is_refused(changes, error, match):
    with pytest.raises(error, match=match):
        dataclasses.replace(SMALL, **changes)
