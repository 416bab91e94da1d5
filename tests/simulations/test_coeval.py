import dataclasses
import json
import pickle

import numpy as np
import pytest

from keras_cosmo.simulations.coeval import COEVAL_PARAMETERS, CoevalSimulator
from keras_cosmo.slicing import slice_box

FIDUCIAL = np.array([40.5, 8.5, 3.5])
SMALL = CoevalSimulator(box_cells=32, slabs=8, redshifts=(15.0, 10.0))

# Boxes of 96 Mpc by py21cmfast 4.1.1: parameters; mean and deviation in mK of 8 slabs at redshift 15, then at 10.
REAL = (
    ((40.06889, 8.73206, 3.72608), (-25.70, 7.98), (-54.90, 15.32)),
    ((40.76961, 8.43811, 3.23148), (-13.69, 3.78), (5.82, 3.37)),
    ((40.66329, 8.78864, 3.84559), (-28.87, 8.82), (-3.93, 3.60)),
    ((40.48991, 8.01044, 3.35490), (-30.02, 6.04), (0.19, 2.29)),
)


def changed(**changes):
    values = FIDUCIAL.copy()
    for name, value in changes.items():
        values[[p.name for p in COEVAL_PARAMETERS].index(name)] = value
    return values


def mean_signal(redshift, **changes):
    return SMALL.simulate(changed(**changes), 1)[f"brightness_temp_z{redshift:g}"].mean()


def power_along_axes(box, modes=6):
    """Power of the longest modes along each axis, summed."""
    power = np.abs(np.fft.fftn(box - box.mean())) ** 2
    return np.array([power[1:modes, 0, 0].sum(), power[0, 1:modes, 0].sum(), power[0, 0, 1:modes].sum()])


def test_simulator_contract():
    maps = SMALL.simulate(FIDUCIAL, 3)
    assert list(maps) == ["brightness_temp_z15", "density_z15", "brightness_temp_z10", "density_z10"]
    assert list(maps) == list(SMALL.fields)
    for name, field in SMALL.fields.items():
        assert maps[name].shape == (8, *field.shape) == (8, 32, 32)
        assert maps[name].dtype == np.float32
        assert np.isfinite(maps[name]).all()
        assert field.unit == ("" if name.startswith("density") else "mK")
    assert [p.name for p in SMALL.parameters] == ["log10_L_X", "log10_M_min", "log10_N_gamma"]
    assert (SMALL.name, SMALL.task, SMALL.maps_per_simulation) == ("embedded", "matter", 8)


def test_defaults_are_sixteen_slabs_at_redshift_fifteen():
    simulator = CoevalSimulator()
    assert simulator.maps_per_simulation == 16
    assert {name: field.shape for name, field in simulator.fields.items()} == {
        "brightness_temp_z15": (64, 64),
        "density_z15": (64, 64),
    }


def test_attributes_describe_the_geometry():
    attributes = SMALL.attributes()
    assert attributes["redshifts"].tolist() == [15.0, 10.0]
    assert (attributes["cell_size"], attributes["cell_size_units"], attributes["slab_cells"]) == (1.5, "Mpc", 4)
    assert attributes["periodic_across_sky"] is True
    assert attributes["projection"] == "mean"
    assert json.loads(attributes["cosmology"])["hlittle"] == 0.6766


def test_maps_are_slabs_of_the_boxes():
    maps, boxes = SMALL.simulate(FIDUCIAL, 5), SMALL.simulate_boxes(FIDUCIAL, 5)
    for name, array in maps.items():
        np.testing.assert_array_equal(array, slice_box(boxes[name], slabs=8, slab_cells=4))
    summed = dataclasses.replace(SMALL, projection="sum").simulate(FIDUCIAL, 5)
    np.testing.assert_allclose(summed["density_z10"], 4.0 * maps["density_z10"], rtol=1e-4, atol=1e-6)
    assert all(box.shape == (32, 32, 32) and box.dtype == np.float32 for box in boxes.values())
    assert abs(boxes["density_z10"].mean(dtype=float)) < 1e-6
    neutral = boxes["neutral_fraction_z10"]
    assert neutral.min() >= 0.0
    assert neutral.max() <= 1.0


def test_pure_function_of_values_and_seed():
    first = SMALL.simulate(FIDUCIAL, 7)
    again = SMALL.simulate(tuple(FIDUCIAL), np.int64(7))
    copy = pickle.loads(pickle.dumps(SMALL))
    assert copy == SMALL
    assert len(pickle.dumps(SMALL)) < 3000
    copied, other = copy.simulate(FIDUCIAL, 7), SMALL.simulate(FIDUCIAL, 8)
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        np.testing.assert_array_equal(array, copied[name])
    density = first["density_z15"].ravel(), other["density_z15"].ravel()
    assert abs(np.corrcoef(*density)[0, 1]) < 0.3


def test_density_does_not_depend_on_astrophysics():
    first, second = SMALL.simulate(FIDUCIAL, 2), SMALL.simulate(changed(log10_M_min=9.0, log10_N_gamma=4.0), 2)
    for z in ("15", "10"):
        np.testing.assert_array_equal(first[f"density_z{z}"], second[f"density_z{z}"])
        assert not np.array_equal(first[f"brightness_temp_z{z}"], second[f"brightness_temp_z{z}"])


def test_redshifts_share_their_initial_conditions():
    maps = SMALL.simulate(FIDUCIAL, 2)
    assert np.corrcoef(maps["density_z15"].ravel(), maps["density_z10"].ravel())[0, 1] > 0.95
    alone = dataclasses.replace(SMALL, redshifts=(10,)).simulate(FIDUCIAL, 2)
    # Time steps are spaced from the lowest redshift, so maps at the lowest do not depend on the others.
    np.testing.assert_array_equal(alone["brightness_temp_z10"], maps["brightness_temp_z10"])
    np.testing.assert_array_equal(alone["density_z10"], maps["density_z10"])


def test_parameters_act_in_the_physical_direction():
    assert mean_signal(10, log10_L_X=41.0) > mean_signal(10) + 3.0  # heated gas
    assert mean_signal(15, log10_M_min=9.0) > mean_signal(15) + 3.0  # fewer stars: weaker coupling
    assert mean_signal(15, log10_N_gamma=4.0) < mean_signal(15) - 10.0  # more Lyman-alpha photons
    boxes = [SMALL.simulate_boxes(changed(log10_N_gamma=value), 1) for value in (3.0, 3.5, 4.0)]
    neutral = [box["neutral_fraction_z10"].mean() for box in boxes]
    assert neutral[0] > neutral[1] > neutral[2]
    dark = [(box["neutral_fraction_z10"] == 0.0).mean() for box in boxes]
    assert dark[2] > 0.2 > dark[0]


def test_ionised_cells_are_dark_and_dense():
    boxes = SMALL.simulate_boxes(changed(log10_N_gamma=3.9), 1)
    ionised = boxes["neutral_fraction_z10"] == 0.0
    assert np.all(boxes["brightness_temp_z10"][ionised] == 0.0)
    assert boxes["density_z10"][ionised].mean() > boxes["density_z10"][~ionised].mean() + 0.1


def test_nothing_shines_without_sources():
    boxes = dataclasses.replace(SMALL, redshifts=(20.0,)).simulate_boxes([30.0, 10.5, 1.0], 1)
    # 9.03 K is RECFAST's temperature at redshift 20 for 21cmFAST; explicit steps of 1.04 make it colder.
    assert 7.0 < boxes["kinetic_temperature_z20"].mean() < 9.1
    assert boxes["neutral_fraction_z20"].min() > 0.999
    assert -3.0 < boxes["brightness_temp_z20"].mean() < 0.0


def test_only_the_velocity_gradient_knows_the_line_of_sight():
    simulator = CoevalSimulator(box_cells=32, slabs=8, cell_size=3.0)
    bare, distorted, density = np.zeros(3), np.zeros(3), np.zeros(3)
    for seed in range(12):
        boxes = simulator.simulate_boxes(FIDUCIAL, seed)
        signal, gradient = boxes["brightness_temp_z15"], boxes["velocity_gradient_z15"]
        bare += power_along_axes(signal * np.abs(1.0 + gradient))
        distorted += power_along_axes(signal)
        density += power_along_axes(boxes["density_z15"])
        # Linear theory in an almost Einstein-de Sitter universe: the gradient is -mu^2 delta.
        (along,) = np.fft.fft(gradient.mean(axis=(0, 1)))[1:2]
        assert along == pytest.approx(-np.fft.fft(boxes["density_z15"].mean(axis=(0, 1)))[1], rel=0.02)
        assert abs(gradient.mean(axis=2)).max() < 1e-4
    for power in (bare, density):
        assert max(power) / min(power) < 1.6
    # The density appears twice along the line of sight: its own and that of the velocity.
    enhancement = (distorted / bare)[2]
    assert enhancement > 1.4
    np.testing.assert_allclose((distorted / bare)[:2], 1.0, atol=0.1)


def test_colder_gas_with_longer_steps():
    values = [38.0, 8.5, 3.5]
    means = []
    for factor in (1.02, 1.06):
        simulator = dataclasses.replace(SMALL, redshifts=(12.0,), redshift_factor=factor)
        means.append(simulator.simulate_boxes(values, 1)["kinetic_temperature_z12"].mean())
    assert 0.7 < means[1] / means[0] < 0.95


@pytest.mark.parametrize(("values", "at_15", "at_10"), REAL)
def test_signal_is_that_of_21cmfast(values, at_15, at_10):
    maps = CoevalSimulator(redshifts=(15.0, 10.0)).simulate(values, 0)
    for real, signal in ((at_15, maps["brightness_temp_z15"]), (at_10, maps["brightness_temp_z10"])):
        assert signal.mean() == pytest.approx(real[0], abs=0.5 + 0.02 * abs(real[0]))
        assert signal.std() == pytest.approx(real[1], rel=0.25)


@pytest.mark.slow
def test_the_box_of_the_paper():
    maps = CoevalSimulator(box_cells=200, slabs=20, redshifts=(10.0, 15.0, 20.0)).simulate(FIDUCIAL, 0)
    assert all(array.shape == (20, 200, 200) and np.isfinite(array).all() for array in maps.values())


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"box_cells": 32.0}, TypeError, "expected box_cells to be an integer, got 32.0"),
        ({"slabs": True}, TypeError, "expected slabs to be an integer, got True"),
        ({"slab_cells": "4"}, TypeError, "expected slab_cells to be an integer, got '4'"),
        ({"box_cells": 33}, ValueError, "expected box_cells even, from 16 to 200, got 33"),
        ({"box_cells": 256}, ValueError, "expected box_cells even, from 16 to 200, got 256"),
        ({"slabs": 5}, ValueError, "a box of 64 cells cannot be divided into 5 equal parts"),
        ({"slab_cells": 8}, ValueError, "16 slabs of 8 cells overlap in a box of 64 cells"),
        ({"projection": "max"}, ValueError, "expected projection one of .*, got 'max'"),
        ({"redshifts": ()}, ValueError, r"expected redshifts in \[6, 34\] .*, got \(\)"),
        ({"redshifts": (5.0,)}, ValueError, r"expected redshifts in \[6, 34\] .*, got \(5.0,\)"),
        ({"redshifts": (10.0, 10.0)}, ValueError, "expected redshifts that differ by name, got"),
        ({"cell_size": 0.1}, ValueError, r"expected cell_size in \[0.5, 10\], got 0.1"),
        ({"r_mfp": 0.0}, ValueError, r"expected r_mfp in \[1, 150\], got 0.0"),
        ({"x_ray_threshold": 2.0}, ValueError, r"expected x_ray_threshold in \[0.1, 1.99\], got 2.0"),
        ({"redshift_factor": 1.2}, ValueError, r"expected redshift_factor in \[1.001, 1.1\], got 1.2"),
        ({"cell_size": float("nan")}, ValueError, "expected cell_size in .*, got nan"),
    ],
)
def test_wrong_geometry_is_refused(changes, error, match):
    with pytest.raises(error, match=match):
        CoevalSimulator(**changes)


@pytest.mark.parametrize(
    ("values", "seed", "match"),
    [
        (
            [40.5, 8.5],
            0,
            r"expected shape \(3,\) for \['log10_L_X', 'log10_M_min', 'log10_N_gamma'\], got shape \(2,\)",
        ),
        ([np.nan, 8.5, 3.5], 0, "log10_L_X is not finite"),
        ([40.5, 8e8, 3.5], 0, r"expected log10_M_min in \[7, 10.5\], where the model holds"),
        ([40.5, 8.5, 3500.0], 0, r"expected log10_N_gamma in \[1, 5\], where the model holds \(prior range \[3, 4\]"),
        (FIDUCIAL, -1, r"expected seed to be an integer in \[0, 2\*\*31\), got -1"),
        (FIDUCIAL, 1.5, r"expected seed to be an integer in \[0, 2\*\*31\), got 1.5"),
    ],
)
def test_wrong_values_and_seeds_are_refused(values, seed, match):
    with pytest.raises(ValueError, match=match):
        SMALL.simulate(values, seed)
    with pytest.raises(ValueError, match=match):
        SMALL.simulate_boxes(values, seed)


@pytest.mark.parametrize("corner", [(30.0, 7.0, 1.0), (43.0, 7.0, 5.0), (43.0, 10.5, 5.0), (30.0, 10.5, 1.0)])
def test_values_at_the_ends_of_the_physical_ranges(corner):
    simulator = CoevalSimulator(box_cells=16, slabs=4, redshifts=(34.0, 6.0))
    for array in simulator.simulate(corner, 0).values():
        assert np.isfinite(array).all()
