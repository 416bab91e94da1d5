import dataclasses
import itertools
import json
import pickle

import numpy as np
import pyccl
import pytest
import scipy.integrate
import scipy.ndimage
from scipy.spatial.transform import Rotation

from keras_cosmo.haloes import HaloCatalogue
from keras_cosmo.simulations.emission_lines import HALPHA, LINES
from keras_cosmo.simulations.halo_luminosity import HaloLuminosity, LuminosityTable
from keras_cosmo.simulations.line_intensity import LineIntensitySimulator, smooth

SMALL = LineIntensitySimulator(map_cells=64, map_side=0.425)
WIDE = LineIntensitySimulator(map_cells=128, map_side=0.85, lines=("halpha", "oiii"), maps=150)
MEGAPARSEC = 3.0856775814913673e24
SPEED_OF_LIGHT = 299792.458


@pytest.fixture(scope="module")
def universe():
    """The paper's cosmology in pyccl, which tabulates nothing here."""
    return pyccl.Cosmology(
        Omega_c=0.316 - 0.0494, Omega_b=0.0494, h=0.673, sigma8=0.811, n_s=0.965, transfer_function="eisenstein_hu"
    )


@pytest.fixture(scope="module")
def many():
    return WIDE.simulate((), 3)


def geometry(universe, line, resolving_power=40.0):
    """Redshift, depth in Mpc, and Mpc per arcmin."""
    z = LINES[line].redshift(1.5)
    scale = 1.0 / (1.0 + z)
    hubble = 67.3 * pyccl.h_over_h0(universe, scale)
    distance = pyccl.comoving_radial_distance(universe, scale)
    return z, SPEED_OF_LIGHT * (1.0 + z) / hubble / resolving_power, distance * np.pi / 180.0 / 60.0


def light(universe, line, simulator):
    """Masses, luminosity density per mass bin and squared, in erg/s/Mpc^3, and bias."""
    z = LINES[line].redshift(1.5)
    masses = np.geomspace(simulator.minimum_mass, 10**15.4, 3000)
    density = pyccl.halos.MassFuncWatson13(mass_def="fof")(universe, masses, 1.0 / (1.0 + z))
    density *= np.log10(masses[1] / masses[0])
    mean, deviation = simulator.luminosity.moments(LINES[line], masses, z)
    bias = pyccl.halos.HaloBiasSheth99(mass_def="fof")(universe, masses, 1.0 / (1.0 + z))
    return density * mean, density * (mean**2 + deviation**2), bias


def map_power(maps, cell, edges):
    """Power of contrasts ``(maps, bands)``, after a Hann window."""
    n = maps.shape[-1]
    window = np.outer(np.hanning(n), np.hanning(n))
    axis = 2.0 * np.pi * np.fft.fftfreq(n, cell)
    k = np.hypot(axis[:, None], axis)
    power = np.abs(np.fft.fft2(maps * window)) ** 2 * cell**2 / (window**2).sum()
    bands = [(k >= low) & (k < high) for low, high in itertools.pairwise(edges)]
    return np.array([[p[band].mean() for band in bands] for p in power]), [k[band] for band in bands]


def test_simulator_contract():
    maps = SMALL.simulate((), 1)
    assert list(maps) == list(SMALL.fields)
    assert list(maps) == [
        "intensity_halpha", "intensity_halpha_unsmoothed", "intensity_oiii", "intensity_oiii_unsmoothed",
    ]  # fmt: skip
    for name, array in maps.items():
        assert array.shape == (1, *SMALL.fields[name].shape) == (1, 64, 64)
        assert array.dtype == np.float32
        assert array.min() >= 0.0
        assert SMALL.fields[name].unit == "erg s^-1 cm^-2 sr^-1"
    assert (SMALL.name, SMALL.task, SMALL.version, SMALL.parameters) == ("embedded", "separation", "1", ())
    assert dataclasses.replace(SMALL, maps=3).maps_per_simulation == 3


def test_attributes_are_those_of_the_paper():
    attributes = LineIntensitySimulator().attributes()
    assert (attributes["cell_size"], attributes["cell_size_units"]) == (pytest.approx(1.7 * 60 / 256), "arcmin")
    assert (attributes["beam_sigma"], attributes["observed_wavelength"]) == (1.2, 1.5)
    assert (attributes["resolving_power"], attributes["lines"]) == (40.0, ["halpha", "oiii"])
    np.testing.assert_allclose(attributes["line_redshifts"], [1.2855, 1.9958], atol=1e-4)
    assert attributes["periodic_across_sky"] is False
    cosmology = json.loads(attributes["cosmology"])
    assert (cosmology["OMm"], cosmology["hlittle"]) == (0.316, 0.673)


def test_maps_depend_on_seed_and_line_alone():
    first, again = SMALL.simulate((), 7), pickle.loads(pickle.dumps(SMALL)).simulate(np.zeros(0), np.int64(7))
    other = SMALL.simulate((), 8)
    alone = dataclasses.replace(SMALL, lines=("oiii",), maps=2).simulate((), 7)
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert not np.array_equal(array, other[name])
    np.testing.assert_array_equal(alone["intensity_oiii"][:1], first["intensity_oiii"])
    assert not np.array_equal(alone["intensity_oiii"][1], alone["intensity_oiii"][0])
    assert abs(np.corrcoef(first["intensity_halpha"].ravel(), first["intensity_oiii"].ravel())[0, 1]) < 0.5


def test_mean_intensity_is_the_integral_over_the_mass_function(universe, many):
    for line in WIDE.lines:
        z, _, _ = geometry(universe, line)
        emissivity = light(universe, line, WIDE)[0].sum()
        # I = c / (4 pi H (1 + z) R) times the luminosity density, over the band.
        hubble = 67.3 * pyccl.h_over_h0(universe, 1.0 / (1.0 + z))
        expected = emissivity * SPEED_OF_LIGHT / (4.0 * np.pi * hubble * (1.0 + z) * 40.0) / MEGAPARSEC**2
        assert WIDE.mean_intensity(line) == pytest.approx(expected, rel=0.01)
        means = many[f"intensity_{line}_unsmoothed"].mean(axis=(1, 2), dtype=float)
        assert means.mean() == pytest.approx(expected, abs=4.0 * means.std() / np.sqrt(len(means)))


def test_power_on_large_scales_is_biased_matter_and_shot_noise(universe, many):
    edges = np.array([0.15, 0.22, 0.32])
    for line in WIDE.lines:
        z, depth, per_arcmin = geometry(universe, line)
        first, second, bias = light(universe, line, WIDE)
        effective = (first * bias).sum() / first.sum()
        along = np.concatenate([[0.0], np.geomspace(1e-4, 20.0, 4000)])
        maps = many[f"intensity_{line}_unsmoothed"].astype(float) / WIDE.mean_intensity(line) - 1.0
        power, wavenumbers = map_power(maps, per_arcmin * WIDE.cell_size, edges)
        for i, k in enumerate(wavenumbers):
            centre = np.sqrt((k**2).mean())
            matter = pyccl.nonlin_matter_power(universe, np.hypot(centre, along), 1.0 / (1.0 + z))
            projected = scipy.integrate.trapezoid(matter * np.sinc(along * depth / 2.0 / np.pi) ** 2, along) / np.pi
            expected = effective**2 * projected + second.sum() / first.sum() ** 2 / depth
            error = power[:, i].std() / np.sqrt(len(power))
            # That haloes keep a distance and their bias depends on scale changes the power by up to 6 % here.
            assert power[:, i].mean() == pytest.approx(expected, abs=4.0 * error + 0.06 * expected)


def test_power_spectrum_is_that_of_the_maps(many):
    edges = np.array([0.2, 0.4, 0.7, 1.2, 2.0, 3.5])
    background = WIDE.cosmology.background()
    for line in WIDE.lines:
        cell = background.comoving_distance(LINES[line].redshift(1.5)) * np.deg2rad(WIDE.cell_size / 60.0)
        maps = many[f"intensity_{line}_unsmoothed"].astype(float) / WIDE.mean_intensity(line) - 1.0
        power, wavenumbers = map_power(maps, cell, edges)
        error = power.std(axis=0) / np.sqrt(len(power))
        for i, k in enumerate(wavenumbers):
            expected = np.interp(
                k, *(grid := np.linspace(k.min(), k.max(), 30), WIDE.power_spectrum(line, grid))
            ).mean()
            assert power[:, i].mean() == pytest.approx(expected, abs=4.0 * error[i] + 0.03 * expected)


def test_power_on_small_scales_is_the_shot_noise_of_haloes(universe):
    for line in WIDE.lines:
        _, depth, _ = geometry(universe, line)
        first, second, _ = light(universe, line, WIDE)
        shot = second.sum() / first.sum() ** 2 / depth
        assert WIDE.power_spectrum(line, np.array([30.0]))[0] == pytest.approx(shot, rel=0.02)


def test_mean_intensity_of_maps_scatters_as_the_power_says(many):
    # Of squares of 60 and 79 Mpc, by integrating the projected power over the transform of the square.
    axis = np.concatenate([-np.geomspace(1e-4, 1.5, 150)[::-1], np.geomspace(1e-4, 1.5, 150)])
    k = np.hypot(axis[:, None], axis)
    for line in WIDE.lines:
        background = WIDE.cosmology.background()
        side = background.comoving_distance(LINES[line].redshift(1.5)) * np.deg2rad(WIDE.map_side)
        grid = np.geomspace(1e-4, 3.0, 80)
        power = np.interp(k, grid, WIDE.power_spectrum(line, grid))
        window = np.sinc(axis * side / 2.0 / np.pi) ** 2
        variance = np.trapezoid(np.trapezoid(power * window[:, None] * window, axis), axis) / (2.0 * np.pi) ** 2
        means = many[f"intensity_{line}"].mean(axis=(1, 2), dtype=float) / WIDE.mean_intensity(line)
        assert means.std() == pytest.approx(np.sqrt(variance), rel=0.25)


def test_peaks_are_as_many_as_the_paper_finds():
    maps = LineIntensitySimulator(maps=12, unsmoothed=False).simulate((), 0)
    for line, paper in (("halpha", 24.1), ("oiii", 18.9)):
        intensity = maps[f"intensity_{line}"]
        highest = scipy.ndimage.maximum_filter(intensity, size=(1, 3, 3)) == intensity
        mean, deviation = (f(axis=(1, 2), keepdims=True) for f in (intensity.mean, intensity.std))
        peaks = (highest & (intensity > mean + 3.0 * deviation)).sum(axis=(1, 2))
        assert peaks.mean() == pytest.approx(paper, rel=0.3)
    ratio = maps["intensity_oiii"].mean() / maps["intensity_halpha"].mean()
    assert ratio == pytest.approx(0.6, abs=0.1)


def test_beam_conserves_light_and_has_the_power_of_a_gaussian():
    rng = np.random.default_rng(0)
    field = rng.exponential(size=(96, 96))
    smoothed = smooth(field, 3.0)
    assert smoothed.sum() == pytest.approx(field.sum(), rel=1e-9)
    np.testing.assert_allclose(smoothed, scipy.ndimage.gaussian_filter(field, 3.0, mode="wrap", truncate=8), rtol=1e-3)
    k = 2.0 * np.pi * np.hypot(np.fft.fftfreq(96)[:, None], np.fft.fftfreq(96))
    ratio = np.abs(np.fft.fft2(smoothed)) ** 2 / np.abs(np.fft.fft2(field)) ** 2
    np.testing.assert_allclose(ratio[k < 1.2], np.exp(-((3.0 * k[k < 1.2]) ** 2)), rtol=1e-6)
    np.testing.assert_allclose(smooth(field, 1e-6), field, atol=1e-9)


def one_halo(where, box_size=400.0, redshift=1.3):
    """A catalogue with one halo at ``where`` from the middle, in Mpc."""
    return HaloCatalogue(redshift, box_size, np.full((1, 3), 0.5 * box_size) + where, np.array([1e12]))


def test_one_painted_halo_has_its_flux_and_the_profile_of_the_beam(universe):
    exact = HaloLuminosity(scatter=0.0)
    simulator = LineIntensitySimulator(lines=("halpha",), map_cells=96, map_side=0.64, luminosity=exact)
    z, _, _ = geometry(universe, "halpha")
    flux = exact.moments(HALPHA, 1e12, z)[0] / (4.0 * np.pi * MEGAPARSEC**2)
    flux /= ((1.0 + z) * pyccl.comoving_radial_distance(universe, 1.0 / (1.0 + z))) ** 2
    pixel = np.deg2rad(simulator.cell_size / 60.0) ** 2
    painted = simulator.paint({"halpha": one_halo(np.zeros(3), box_size=150.0)}, 40, 0)
    bare, smoothed = painted["intensity_halpha_unsmoothed"], painted["intensity_halpha"]
    lit = np.flatnonzero(bare.max(axis=(1, 2)) > 0)
    assert 1 <= len(lit) < 20
    checked = 0
    for i in lit:
        images = bare[i].sum(dtype=float) * pixel / flux
        assert images == pytest.approx(round(images), rel=1e-4)
        row, column = np.unravel_index(bare[i].argmax(), bare[i].shape)
        if min(row, column) > 20 and max(row, column) < 75 and round(images) == 1:
            checked += 1
            assert smoothed[i].sum(dtype=float) * pixel == pytest.approx(flux, rel=1e-4)
            distance = np.hypot(*(np.indices((96, 96)) - np.array([row, column])[:, None, None]))
            sigma = 1.2 / simulator.cell_size
            near = distance < 3.0 * sigma
            expected = flux / pixel / (2.0 * np.pi * sigma**2) * np.exp(-0.5 * (distance / sigma) ** 2)
            np.testing.assert_allclose(smoothed[i][near], expected[near], rtol=1e-3)
    assert checked


def test_light_from_outside_comes_in_but_does_not_wrap_around():
    # Haloes fill half the box only: with a periodic beam the far edge of the map would light up.
    rng = np.random.default_rng(2)
    simulator = LineIntensitySimulator(lines=("halpha",), map_cells=64, map_side=0.425, beam_sigma=3.0)
    wide = dataclasses.replace(simulator, map_cells=128, map_side=0.85)
    haloes = HaloCatalogue(1.3, 300.0, rng.uniform(0.0, 300.0, (20000, 3)), np.full(20000, 1e12))
    inner, outer = (s.paint({"halpha": haloes}, 3, 5)["intensity_halpha"] for s in (simulator, wide))
    np.testing.assert_allclose(inner, outer[:, 32:96, 32:96], rtol=2e-3, atol=1e-3 * inner.mean())


def test_painted_maps_are_the_haloes_in_a_rotated_box():
    """Against every periodic image, one by one."""
    rng = np.random.default_rng(4)
    simulator = LineIntensitySimulator(
        lines=("halpha",), map_cells=32, map_side=0.85, beam_sigma=0.0, luminosity=HaloLuminosity(scatter=0.0)
    )
    haloes = HaloCatalogue(1.3, 90.0, rng.uniform(0.0, 90.0, (300, 3)), 10 ** rng.uniform(11.0, 13.0, 300))
    background = simulator.cosmology.background()
    z = HALPHA.redshift(1.5)
    side = background.comoving_distance(z) * np.deg2rad(0.85)
    depth = SPEED_OF_LIGHT * (1.0 + z) / (background.hubble(z) * MEGAPARSEC / 1e5) / 40.0
    painted = simulator.paint({"halpha": haloes}, 2, 9)["intensity_halpha"]
    shifts = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) * 90.0
    luminosity = simulator.luminosity.moments(HALPHA, haloes.masses, z)[0]
    ((_, generator),) = simulator._generators("paint", 9)
    generator.standard_normal(300)  # of the luminosities
    for image in painted:
        rotation = Rotation.from_quat(generator.standard_normal(4)).as_matrix()
        seen = (haloes.positions + shifts[:, None] - generator.uniform(0.0, 90.0, 3)) @ rotation
        inside = (np.abs(seen[..., :2]) < side / 2).all(axis=-1) & (np.abs(seen[..., 2]) < depth / 2)
        weights = np.broadcast_to(luminosity, inside.shape)[inside]
        edges = np.linspace(-side / 2, side / 2, 33)
        expected = np.histogram2d(*seen[inside][:, :2].T, bins=(edges, edges), weights=weights)[0]
        expected /= (side / 32) ** 2 * 4.0 * np.pi * (1.0 + z) ** 2 * MEGAPARSEC**2
        np.testing.assert_allclose(image, expected, rtol=1e-5)
        assert (image > 0).sum() > 100


def test_paint_depends_on_seed_and_line_alone(caplog):
    rng = np.random.default_rng(1)
    simulator = LineIntensitySimulator(map_cells=64, map_side=0.425)
    catalogues = {
        line: HaloCatalogue(z, 100.0, rng.uniform(0, 100, (2000, 3)), np.full(2000, 1e12), label=line)
        for line, z in (("halpha", 1.3), ("oiii", 2.0))
    }
    with caplog.at_level("INFO"):
        three = simulator.paint(catalogues, 3, 1)
    assert "wider than the box of 100 Mpc, which is repeated" in caplog.text
    one = dataclasses.replace(simulator, lines=("oiii",)).paint({"oiii": catalogues["oiii"]}, 1, 1)
    np.testing.assert_array_equal(one["intensity_oiii"], three["intensity_oiii"][:1])
    assert list(three) == list(simulator.fields)
    other = simulator.paint(catalogues, 3, 2)
    assert all(not np.array_equal(three[name], other[name]) for name in three)
    # Mean intensity of many projections is that of the box.
    many = simulator.paint(catalogues, 60, 3)["intensity_halpha_unsmoothed"].mean(axis=(1, 2), dtype=float)
    z = HALPHA.redshift(1.5)
    hubble = simulator.cosmology.background().hubble(z) * MEGAPARSEC / 1e5
    emissivity = 2000 * simulator.luminosity.moments(HALPHA, 1e12, z)[0] / 100.0**3
    expected = emissivity * SPEED_OF_LIGHT / (4.0 * np.pi * hubble * (1.0 + z) * 40.0) / MEGAPARSEC**2
    assert many.mean() == pytest.approx(expected, rel=0.05)


def test_haloes_below_the_minimum_mass_do_not_shine():
    haloes = HaloCatalogue(1.3, 100.0, np.random.default_rng(1).uniform(0, 100, (500, 3)), np.full(500, 4e10))
    dark = LineIntensitySimulator(lines=("halpha",), map_cells=32, map_side=0.4).paint({"halpha": haloes}, 2, 0)
    assert dark["intensity_halpha"].max() == 0.0


def test_tables_reach_the_maps():
    table = LuminosityTable((10.0, 11.5), (11.5, 16.0), (0.0, 1e42), (0.0, 0.0), "halpha", 1.3)
    simulator = LineIntensitySimulator(
        lines=("halpha",), map_cells=64, map_side=0.425, luminosity=HaloLuminosity(tables=(table,)), maps=40
    )
    maps = simulator.simulate((), 0)["intensity_halpha_unsmoothed"].astype(float)
    smallest = maps[maps > 0].min()
    np.testing.assert_allclose(maps / smallest, np.round(maps / smallest), atol=1e-3)
    means = maps.mean(axis=(1, 2))
    expected = simulator.mean_intensity("halpha")
    assert means.mean() == pytest.approx(expected, abs=4.0 * means.std() / np.sqrt(40))


def test_amplitude_scatter_multiplies_whole_maps():
    plain = dataclasses.replace(SMALL, lines=("halpha",), maps=1)
    varied = dataclasses.replace(plain, amplitude_scatter=0.3)
    factors = []
    for seed in range(200):
        one, other = (s.simulate((), seed)["intensity_halpha_unsmoothed"][0] for s in (plain, varied))
        lit = one > 0
        ratio = other[lit] / one[lit]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
        factors.append(ratio[0])
    assert np.mean(factors) == pytest.approx(1.0, abs=0.08)
    assert np.log(factors).std() == pytest.approx(0.3, rel=0.2)


def test_without_a_beam_there_is_one_field_per_line():
    bare = dataclasses.replace(SMALL, beam_sigma=0.0)
    assert list(bare.simulate((), 1)) == list(bare.fields) == ["intensity_halpha", "intensity_oiii"]
    beam = SMALL.simulate((), 1)
    assert list(dataclasses.replace(SMALL, unsmoothed=False).fields) == ["intensity_halpha", "intensity_oiii"]
    # The same universe is behind them, but a beam needs a margin, and so another random field.
    assert beam["intensity_halpha"].std() < 0.5 * beam["intensity_halpha_unsmoothed"].std()


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"map_cells": 64.0}, TypeError, "expected map_cells to be an integer, got 64.0"),
        ({"maps": True}, TypeError, "expected maps to be an integer, got True"),
        ({"map_cells": 8}, ValueError, r"expected map_cells in \[16, 1024\], got 8"),
        ({"maps": 0}, ValueError, r"expected maps in \[1, 100000\], got 0"),
        (
            {"lines": ()},
            ValueError,
            r"expected lines to be different names out of \['halpha', 'oiii', 'oii'\], got \(\)",
        ),
        ({"lines": ("halpha", "halpha")}, ValueError, "expected lines to be different names"),
        ({"lines": ("lyman",)}, ValueError, r"got \('lyman',\)"),
        ({"resolving_power": 0.0}, ValueError, r"expected resolving_power in \[2, 1000\], got 0.0"),
        ({"map_side": 0.0}, ValueError, r"expected map_side in \[0.01, 20\], got 0.0"),
        ({"minimum_mass": float("nan")}, ValueError, r"expected minimum_mass in \[1e\+08, 1e\+14\], got nan"),
        ({"amplitude_scatter": -0.1}, ValueError, r"expected amplitude_scatter in \[0, 2\], got -0.1"),
        ({"beam_sigma": 30.0}, ValueError, r"expected beam_sigma in \[0, 25.5\] arcmin, a quarter of the map, got 30"),
        ({"luminosity": "gong2017"}, TypeError, "expected luminosity to be a HaloLuminosity, got str"),
        ({"observed_wavelength": 0.5}, ValueError, "Halpha is emitted at 0.6563 um"),
        ({"observed_wavelength": 0.9}, ValueError, "gong2017 are known for redshifts 1 to 3.3"),
    ],
)
def test_wrong_settings_are_refused(changes, error, match):
    with pytest.raises(error, match=match):
        LineIntensitySimulator(**changes)


def test_one_line_may_be_given_by_its_name():
    assert LineIntensitySimulator(lines="halpha") == LineIntensitySimulator(lines=["halpha"])


@pytest.mark.parametrize(
    ("values", "seed", "match"),
    [
        ([1.0], 0, r"parameter_values: expected none, shape \(0,\), got shape \(1,\)"),
        (3.0, 0, "parameter_values: expected none"),
        ((), -1, r"expected seed to be an integer in \[0, 2\*\*31\), got -1"),
        ((), 1.5, "expected seed to be an integer"),
        ((), True, "expected seed to be an integer"),
    ],
)
def test_wrong_values_and_seeds_are_refused(values, seed, match):
    with pytest.raises(ValueError, match=match):
        SMALL.simulate(values, seed)


@pytest.mark.parametrize(
    ("catalogues", "projections", "seed", "error", "match"),
    [
        ({"halpha": one_halo(0.0)}, 1, 0, ValueError, r"expected one for each line \['halpha', 'oiii'\], got \['halp"),
        ({"halpha": one_halo(0.0), "oiii": [1.0]}, 1, 0, TypeError, "expected a HaloCatalogue for oiii, got list"),
        (
            {"halpha": one_halo(0.0), "oiii": one_halo(0.0)},
            1,
            0,
            ValueError,
            r"\[OIII\] 5007 at 1.5 um is from redshift 1.996, the catalogue  is at redshift 1.3",
        ),
        ({}, 0, 0, ValueError, "projections: expected a positive number of maps, got 0"),
        ({}, 1.0, 0, ValueError, "projections: expected a positive number of maps, got 1.0"),
        ({"halpha": one_halo(0.0), "oiii": one_halo(0.0, redshift=2.0)}, 1, -1, ValueError, "expected seed to be"),
    ],
)
def test_wrong_paint_is_refused(catalogues, projections, seed, error, match):
    with pytest.raises(error, match=match):
        SMALL.paint(catalogues, projections, seed)


def test_unknown_lines_and_dark_tables_are_refused():
    with pytest.raises(ValueError, match=r"line: expected one of \['halpha', 'oiii'\], got 'oii'"):
        SMALL.mean_intensity("oii")
    with pytest.raises(ValueError, match=r"line: expected one of"):
        SMALL.power_spectrum("oii", [1.0])
    table = LuminosityTable((10.0,), (16.0,), (0.0,), (0.0,), "halpha", 1.3)
    dark = LineIntensitySimulator(lines=("halpha",), luminosity=HaloLuminosity(tables=(table,)))
    with pytest.raises(ValueError, match=r"no halo above 4.45765e\+10 Msun shines in Halpha. Check the masses"):
        dark.simulate((), 0)
