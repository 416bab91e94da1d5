import dataclasses
import json
import pickle
import time

import numpy as np
import pytest
from colossus.cosmology import cosmology as colossus_cosmology
from colossus.lss import mass_function as colossus_mass_function

from keras_cosmo.simulations.cosmology import Cosmology
from keras_cosmo.simulations.hydrogen import (
    HYDROGEN_PARAMETERS,
    HydrogenMapSimulator,
    _barrier,
    _first_crossing,
    halo_hydrogen_mass,
)
from keras_cosmo.simulations.particles import ParticleBox

SMALL = HydrogenMapSimulator(cells=32, particles=48)
CENTRE = np.array([0.3, 0.8])
H = 0.6711


@pytest.fixture(scope="module")
def maps():
    return SMALL.simulate(CENTRE, 1)["hi"]


@pytest.fixture(scope="module")
def particles():
    positions, masses = SMALL.simulate_particles(CENTRE, 1)
    return positions.astype(float), masses.astype(float)


def background(values):
    return Cosmology(
        omega_m=values[0], sigma_8=values[1], omega_b=0.049, h=H, n_s=0.9624, transfer_function="eisenstein_hu_1998"
    ).background()


def clouds(positions, weights, cells, box_size=25.0):
    """Cloud-in-cell assignment in as many dimensions as there are ``positions``, one particle corner after another."""
    shape = (cells,) * len(positions)
    grid = np.zeros(cells ** len(positions))
    place = positions / box_size * cells - 0.5
    low = np.floor(place).astype(int)
    for corner in np.ndindex((2,) * len(positions)):
        corner = np.array(corner)[:, None]
        share = np.prod(np.where(corner, place - low, 1.0 - (place - low)), axis=0)
        grid += np.bincount(np.ravel_multi_index(tuple((low + corner) % cells), shape), weights * share, grid.size)
    return grid.reshape(shape)


def test_simulator_contract(maps):
    assert (SMALL.name, SMALL.task, SMALL.version, SMALL.maps_per_simulation) == ("embedded", "higlow", "1", 15)
    assert SMALL.parameters == HYDROGEN_PARAMETERS
    assert [(each.name, each.low, each.high) for each in SMALL.parameters] == [
        ("Omega_m", 0.1, 0.5),
        ("sigma_8", 0.6, 1.0),
    ]
    assert list(SMALL.fields) == ["hi"]
    assert (SMALL.fields["hi"].shape, SMALL.fields["hi"].unit) == ((32, 32), "Msun/h (Mpc/h)^-2")
    assert (maps.shape, maps.dtype) == ((15, 32, 32), np.float32)
    assert pickle.loads(pickle.dumps(SMALL)) == SMALL
    assert HydrogenMapSimulator().fields["hi"].shape == (64, 64)


def test_attributes():
    attributes = SMALL.attributes()
    assert (attributes["cell_size"], attributes["cell_size_units"]) == (25.0 / 32, "Mpc/h")
    assert attributes["periodic_across_sky"]
    assert attributes["redshifts"].tolist() == [6.0]
    assert json.loads(attributes["cosmology"]) == {"hlittle": 0.6711, "OMb": 0.049, "POWER_INDEX": 0.9624}
    assert "map i of a simulation is slab i % 5 along axis i // 5" in attributes["description"]


def test_same_seed_same_maps(maps):
    np.testing.assert_array_equal(SMALL.simulate(CENTRE, 1)["hi"], maps)
    np.testing.assert_array_equal(dataclasses.replace(SMALL).simulate([0.3, 0.8], np.int64(1))["hi"], maps)
    other = SMALL.simulate(CENTRE, 2)["hi"]
    assert abs(np.corrcoef(np.log(other).ravel(), np.log(maps).ravel())[0, 1]) < 0.3
    # Of the same initial conditions in another universe.
    near = SMALL.simulate([0.3, 0.85], 1)["hi"]
    assert np.corrcoef(np.log(near).ravel(), np.log(maps).ravel())[0, 1] > 0.9


@pytest.mark.parametrize("values", [(0.1, 0.6), (0.1, 1.0), (0.5, 0.6), (0.5, 1.0), (0.08, 0.5), (0.7, 1.2)])
def test_maps_are_positive_wherever_the_model_holds(values):
    maps = SMALL.simulate(np.array(values), 3)["hi"]
    assert np.isfinite(maps).all()
    # All pixels have particles: none is at the smallest value that is allowed.
    diffuse = SMALL.mean_density(values) * 5.0 * 0.05 / 1.05
    assert maps.min() > 0.05 * diffuse
    assert maps.max() < 1e4 * maps.mean()


def test_slabs_of_a_box_sum_to_its_columns(maps, particles):
    positions, masses = particles
    cell = 25.0 / 32
    for axis in range(3):
        across = np.delete(np.arange(3), axis)
        column = maps[5 * axis : 5 * axis + 5].sum(axis=0, dtype=float)
        np.testing.assert_allclose(column, clouds(positions[across], masses, 32) / cell**2, rtol=1e-4)
        for slab in (0, 3):
            inside = (positions[axis] >= 5.0 * slab) & (positions[axis] < 5.0 * slab + 5.0)
            expected = clouds(positions[across][:, inside], masses[inside], 32) / cell**2
            # Particles on the border may be rounded to the other side.
            assert np.mean(np.abs(maps[5 * axis + slab] / expected - 1.0) > 1e-4) < 0.01
    totals = maps.reshape(3, -1).sum(axis=1, dtype=float) * cell**2
    np.testing.assert_allclose(totals, masses.sum(), rtol=1e-5)


def test_particles_fill_the_periodic_box(particles):
    positions, masses = particles
    assert positions.shape == (3, 48**3)
    assert positions.min() >= 0.0
    assert positions.max() < 25.0
    assert masses.min() > 0.0


def test_maps_are_periodic():
    """Across the border, pixels are as alike as elsewhere."""
    maps = np.log(np.concatenate([SMALL.simulate(CENTRE, seed)["hi"] for seed in range(3)]).astype(float))
    for axis in (1, 2):
        steps = np.mean((maps - np.roll(maps, 1, axis)) ** 2, axis=(0, 3 - axis))
        assert steps[0] < 1.5 * steps[1:].mean()


def test_relation_of_halo_and_hydrogen_mass():
    """The numbers of Villaescusa-Navarro et al. (2018) for friends-of-friends haloes, M_0 and M_min in Msun/h."""
    for z, slope, scale, minimum in ((0.0, 0.24, 4.3e10, 2e12), (3.0, 0.76, 2.9e9, 6.7e10), (5.0, 0.74, 1.9e9, 2e10)):
        assert halo_hydrogen_mass(minimum, z) == pytest.approx(scale / np.e)
        heavy = halo_hydrogen_mass(np.array([1e20, 1e21]), z)
        assert np.log10(heavy[1] / heavy[0]) == pytest.approx(slope, abs=2e-3)
    np.testing.assert_array_equal(halo_hydrogen_mass(1e10, 6.0), halo_hydrogen_mass(1e10, 5.0))
    between = halo_hydrogen_mass(1e10, np.array([4.0, 4.5, 5.0]))
    assert min(between[0], between[2]) < between[1] < max(between[0], between[2])


@pytest.mark.parametrize("values", [(0.3, 0.8), (0.1, 0.7), (0.5, 1.0)])
def test_mean_density_is_the_integral_over_haloes(values):
    parameters = {
        "flat": True, "H0": 67.11, "Om0": values[0], "Ob0": 0.049, "sigma8": values[1], "ns": 0.9624, "Tcmb0": 2.7255,
    }  # fmt: skip
    colossus_cosmology.setCosmology("camels", parameters, persistence="")
    log_mass = np.linspace(np.log(1e7 * H), np.log(1e14), 400)
    mass = np.exp(log_mass)
    density = colossus_mass_function.massFunction(mass, 6.0, mdef="fof", model="watson13", q_out="dndlnM")
    expected = np.trapezoid(density * halo_hydrogen_mass(mass, 6.0), log_mass)
    assert SMALL.mean_density(values) == pytest.approx(1.05 * expected, rel=0.03)


@pytest.mark.parametrize("values", [(0.3, 0.8), (0.5, 1.0), (0.15, 0.7)])
def test_boxes_have_the_mean_density(values):
    densities = [SMALL.simulate_particles(values, seed)[1].sum(dtype=float) / 25.0**3 for seed in range(16)]
    error = np.std(densities) / np.sqrt(15.0)
    expected = SMALL.mean_density(values)
    assert abs(np.mean(densities) - expected) < 3.5 * error + 0.01 * expected


def test_density_grows_with_both_parameters():
    means = {
        values: SMALL.simulate(np.array(values), 1)["hi"].mean(dtype=float)
        for values in ((0.1, 0.8), (0.3, 0.8), (0.5, 0.8), (0.3, 0.6), (0.3, 1.0))
    }
    assert means[0.1, 0.8] < means[0.3, 0.8] < means[0.5, 0.8]
    assert means[0.3, 0.6] < means[0.3, 0.8] < means[0.3, 1.0]
    assert 20.0 < means[0.5, 0.8] / means[0.1, 0.8] < 100.0
    assert 5.0 < means[0.3, 1.0] / means[0.3, 0.6] < 15.0


def test_contrast_falls_with_both_parameters():
    """Haloes are the less biased the more common they are."""

    def contrast(values):
        maps = np.concatenate([SMALL.simulate(np.array(values), seed)["hi"] for seed in range(3)]).astype(float)
        return np.mean(maps.var(axis=(1, 2)) / maps.mean(axis=(1, 2)) ** 2)

    assert contrast((0.1, 0.8)) > contrast((0.3, 0.8)) > contrast((0.5, 0.8))
    assert contrast((0.3, 0.6)) > contrast((0.3, 1.0))


def test_large_scales_follow_linear_theory_times_bias():
    """In boxes of 40 Mpc/h, the longest modes, k = 0.16 to 0.31 h/Mpc."""
    side, n_particles = 40.0, 72
    simulator = HydrogenMapSimulator(cells=32, box_size=side, particles=n_particles)
    values, cells, seeds = (0.5, 1.0), 24, 6
    linear_theory = background(values)
    growth = linear_theory.growth(6.0)
    hydrogen = linear_theory.halo_mass_function(6.0) * halo_hydrogen_mass(10.0**linear_theory.log10_masses * H, 6.0)
    bias = np.sum(hydrogen * linear_theory.halo_bias(6.0)) / np.sum(hydrogen)
    # What is not in haloes has the bias of matter.
    bias = (bias + 0.05) / 1.05
    k = np.fft.fftfreq(cells, 1.0 / cells)
    chosen = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    chosen = (chosen > 0.0) & (chosen <= 2.0)
    # Particle i is at (i + 1/2) / 72 of the side, cell j at (j + 1/2) / 24.
    shift = np.exp(-1j * np.pi * k * (1.0 / n_particles - 1.0 / cells))
    shift = (shift[:, None, None] * shift[:, None] * shift)[chosen]
    window = (np.sinc(k / cells)[:, None, None] * np.sinc(k / cells)[:, None] * np.sinc(k / cells))[chosen] ** 2
    auto = cross = matter = 0.0
    for seed in range(seeds):
        positions, masses = simulator.simulate_particles(values, seed)
        density = clouds(positions.astype(float), masses.astype(float), cells, side)
        modes = np.fft.fftn(density / density.mean())[chosen] / window / cells**3
        box = ParticleBox(linear_theory, n_particles, side / n_particles / H, refinement=1)
        initial = box.draw(np.random.default_rng(seed))[0]
        keep = np.r_[0 : cells // 2, n_particles - cells // 2 : n_particles]
        linear = np.fft.fftn(initial * growth)[np.ix_(keep, keep, keep)][chosen] / n_particles**3 * shift
        auto += np.sum(np.abs(modes) ** 2) / seeds
        cross += np.sum((modes * linear.conj()).real) / seeds
        matter += np.sum(np.abs(linear) ** 2) / seeds
    n = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)[chosen]
    power = np.interp(n * 2.0 * np.pi / side * H, linear_theory.wavenumbers, linear_theory.power)
    # 32 modes, each with its complex conjugate.
    assert matter == pytest.approx(np.sum(power) * growth**2 * (H / side) ** 3, rel=0.25)
    assert cross / matter == pytest.approx(bias, rel=0.12)
    assert auto / matter == pytest.approx(bias**2, rel=0.3)
    assert cross / np.sqrt(auto * matter) > 0.96


def test_first_crossing_is_that_of_random_walks():
    variances = np.array([0.1, 0.25, 0.45, 0.8])
    barriers = _barrier(variances)
    crossing, nodes, remaining = _first_crossing(variances, barriers)
    steps = np.random.default_rng(0).standard_normal((400000, 4)) * np.sqrt(np.diff(variances, prepend=0.0))
    above = np.cumsum(steps, axis=1) > barriers
    counts = np.bincount(np.where(above.any(axis=1), above.argmax(axis=1), 4), minlength=5) / len(steps)
    assert np.all(np.abs(crossing - counts[:4]) < 3.5 * np.sqrt(counts[:4] / len(steps)) + 3e-6)
    assert np.sum(remaining) == pytest.approx(counts[4], abs=1e-3)
    free = np.cumsum(steps, axis=1)[~above.any(axis=1), -1]
    assert np.sum(remaining * nodes) / np.sum(remaining) == pytest.approx(free.mean(), abs=5e-3)


def test_barrier_is_that_of_the_conditional_mass_function():
    """A sphere at 0.99 of the barrier is one halo by itself."""
    cosmology = background((0.3, 0.8))
    growth, mass = cosmology.growth(6.0), 1e10
    barrier = _barrier(cosmology.sigma(mass) ** 2 * growth**2) / growth
    _, full = cosmology.conditional_mass_fraction(growth, np.array([1e9]), mass, np.array([0.985, 0.995]) * barrier)
    assert full.tolist() == [False, True]


def test_other_geometries():
    simulator = HydrogenMapSimulator(cells=20, box_size=12.0, slabs=3, redshift=4.0, particles=32, diffuse_share=0.5)
    maps = simulator.simulate(CENTRE, 0)["hi"]
    assert maps.shape == (9, 20, 20)
    assert simulator.maps_per_simulation == 9
    assert maps.mean() == pytest.approx(4.0 * simulator.mean_density(CENTRE), rel=0.3)
    assert simulator.attributes()["redshifts"].tolist() == [4.0]
    assert "4 Mpc/h thick" in simulator.fields["hi"].description


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"cells": 8}, r"expected cells in \[16, 256\], got 8"),
        ({"slabs": 0}, r"expected slabs in \[1, 64\], got 0"),
        ({"particles": 31}, r"expected particles in \[32, 256\], got 31"),
        ({"box_size": 5.0}, r"expected box_size in \[10, 100\], got 5.0"),
        ({"redshift": 0.0}, r"expected redshift in \[3, 10\], got 0.0"),
        ({"redshift": np.nan}, r"expected redshift in \[3, 10\], got nan"),
        ({"diffuse_share": 0.0}, r"expected diffuse_share in \[1e-06, 1\], got 0.0"),
        ({"particles": 97}, "expected an even number of particles, .* got 97 along 25 Mpc/h"),
        ({"box_size": 100.0}, "got 96 along 100 Mpc/h, 1.04 apart. Choose particles from 167 to 256"),
        ({"particles": 256}, "Choose particles from 42 to 250"),
    ],
)
def test_wrong_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        HydrogenMapSimulator(**arguments)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"cells": 64.0}, "expected cells to be an integer, got 64.0"),
        ({"particles": True}, "expected particles to be an integer, got True"),
        ({"cosmology": None}, "expected cosmology to be a Cosmology, got NoneType"),
    ],
)
def test_wrong_types(arguments, match):
    with pytest.raises(TypeError, match=match):
        HydrogenMapSimulator(**arguments)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([0.3], r"parameter_values: expected shape \(2,\) for \['Omega_m', 'sigma_8'\], got shape \(1,\)"),
        (
            [0.05, 0.8],
            r"expected Omega_m in \[0.08, 0.7\], where the model holds \(prior range \[0.1, 0.5\]\), got 0.05",
        ),
        ([0.3, 1.5], r"expected sigma_8 in \[0.5, 1.2\]"),
        ([np.nan, 0.8], "Omega_m is not finite"),
    ],
)
def test_parameters_out_of_range(values, match):
    for method in (SMALL.mean_density, lambda v: SMALL.simulate(v, 0), lambda v: SMALL.simulate_particles(v, 0)):
        with pytest.raises(ValueError, match=match):
            method(values)


@pytest.mark.parametrize("seed", [-1, 2**31, 1.0, True])
def test_wrong_seeds(seed):
    with pytest.raises(ValueError, match="expected seed to be an integer in"):
        SMALL.simulate(CENTRE, seed)


@pytest.mark.slow
def test_takes_less_than_a_second():
    simulator = HydrogenMapSimulator()
    start = time.process_time()
    for seed in range(4):
        simulator.simulate([0.3 + 0.01 * seed, 0.8], seed)
    assert (time.process_time() - start) / 4.0 < 1.0
