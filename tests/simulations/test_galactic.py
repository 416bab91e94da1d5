import dataclasses

import healpy
import numpy as np
import pytest
import scipy.integrate
from astropy import units

from keras_cosmo.simulations.galactic import COLUMN_PER_KELVIN, PHASES, GalacticSkySimulator
from keras_cosmo.sphere import butterworth

SMALL = GalacticSkySimulator(nside=32)
CLEAN = dataclasses.replace(SMALL, noise=0.0, low_pass_ell=0.0)
LINEAR = dataclasses.replace(SMALL, linear=True)


@pytest.fixture(scope="module")
def sky():
    return {name: array[0] for name, array in SMALL.simulate((), 1).items()}


@pytest.fixture(scope="module")
def clean():
    return {name: array[0] for name, array in CLEAN.simulate((), 1).items()}


@pytest.fixture(scope="module")
def linear():
    return {name: array[0] for name, array in LINEAR.simulate((), 1).items()}


def unexplained(cube, dust, used):
    """Share of the variance that the best sum of channels and a constant leaves."""
    design = np.c_[cube[used], np.ones(np.count_nonzero(used))].astype(float)
    solution = np.linalg.lstsq(design, dust[used].astype(float), rcond=None)[0]
    return np.var(dust[used] - design @ solution) / np.var(dust[used], dtype=float)


def test_simulator_contract(sky):
    assert list(sky) == list(SMALL.fields) == ["hi_cube", "dust", "mask"]
    for name, array in sky.items():
        assert array.dtype == np.float32
        assert array.shape == SMALL.fields[name].shape
        assert np.isfinite(array).all()
    assert SMALL.fields["hi_cube"].shape == (12 * 32**2, 64)
    assert [SMALL.fields[name].unit for name in sky] == ["K", "uK_RJ", ""]
    assert (SMALL.name, SMALL.task, SMALL.version, SMALL.parameters) == ("embedded", "dust", "1", ())
    assert SMALL.maps_per_simulation == 1
    assert SMALL.simulate((), 2)["hi_cube"].shape == (1, 12288, 64)


def test_attributes():
    attributes = SMALL.attributes()
    assert (attributes["nside"], attributes["ordering"], attributes["coordinates"]) == (32, "RING", "galactic")
    assert (attributes["low_pass_ell"], attributes["low_pass_order"]) == (460.0, 4.0)
    assert attributes["cell_size"] == pytest.approx(healpy.nside2resol(32, arcmin=True))
    assert attributes["cell_size_units"] == "arcmin"
    np.testing.assert_array_equal(attributes["velocities"], SMALL.velocities)
    assert "dust, not linear in them and 20 % independent" in attributes["description"]
    assert "dust, linear in them" in LINEAR.attributes()["description"]


def test_velocities_are_those_of_the_survey():
    velocities = SMALL.velocities
    assert len(velocities) == 64
    # HI4PI: a channel at zero velocity to 0.1 km/s, of 933 channels 1.288215 km/s apart.
    survey = (np.arange(933) - 465.92171) * 1.2882150
    inside = survey[(survey >= -64.5) & (survey <= 17.0)]
    np.testing.assert_allclose(velocities, inside, atol=2e-4)
    assert (round(velocities[0], 3), round(velocities[-1], 3)) == (-64.310, 16.848)


def test_fewer_channels_cover_the_same_range():
    coarse = dataclasses.replace(CLEAN, channels=16)
    np.testing.assert_allclose(coarse.velocities, SMALL.velocities.reshape(16, 4).mean(axis=1), atol=1e-9)
    averaged = CLEAN.simulate((), 1)["hi_cube"].reshape(-1, 16, 4).mean(axis=2)
    np.testing.assert_allclose(coarse.simulate((), 1)["hi_cube"][0], averaged, rtol=1e-3, atol=1e-3)


def test_same_seed_same_sky(sky):
    again, other = SMALL.simulate(np.empty(0), 1), SMALL.simulate((), 2)
    for name, array in sky.items():
        np.testing.assert_array_equal(again[name][0], array)
        assert not np.array_equal(other[name][0], array)
    correlation = np.corrcoef(np.log(sky["dust"]), np.log(other["dust"][0]))
    assert 0.0 < correlation[0, 1] < 0.9  # of latitude alone


def test_a_seed_is_the_same_sky_at_other_resolutions(clean):
    finer = dataclasses.replace(CLEAN, nside=64).simulate((), 1)
    # In pixels larger than what the coarser sky lacks.
    for name in ("dust", "hi_cube"):
        coarse, fine = (
            healpy.ud_grade(np.log(values.T if values.ndim == 2 else values).astype(float), 8)
            for values in (np.maximum(clean[name], 1e-3), np.maximum(finer[name][0], 1e-3))
        )
        assert np.corrcoef(np.ravel(coarse), np.ravel(fine))[0, 1] > 0.99


def test_mask_leaves_its_share_of_the_sky(sky):
    assert set(np.unique(sky["mask"])) == {0.0, 1.0}
    assert abs(sky["mask"].mean(dtype=float) - 0.72) < 1e-4
    for fraction in (0.4, 1.0):
        mask = dataclasses.replace(CLEAN, sky_fraction=fraction).simulate((), 1)["mask"]
        assert abs(mask.mean(dtype=float) - fraction) < 1e-4


def test_mask_hides_the_brightest_smoothed_dust(clean):
    smooth = healpy.smoothing(clean["dust"].astype(float), fwhm=np.radians(5.0))
    used = clean["mask"] > 0.0
    agreeing = np.mean((smooth < np.quantile(smooth, 0.72)) == used)
    assert agreeing > 0.998


def test_without_noise_and_low_pass_all_is_positive(clean):
    assert clean["hi_cube"].min() >= 0.0
    assert clean["dust"].min() > 0.0


def test_brightness_is_realistic(clean):
    """Columns of some 1e20 and dust of some 100 uK_RJ at high latitudes, tens of K at most."""
    latitude = np.abs(90.0 - np.degrees(healpy.pix2ang(32, np.arange(12 * 32**2))[0]))
    high = latitude > 30.0
    width = np.diff(SMALL.velocities).mean()
    column = clean["hi_cube"].sum(axis=1) * width * COLUMN_PER_KELVIN
    assert np.quantile(column[high], 0.02) > 1e20
    assert 2e20 < np.median(column[high]) < 8e20
    assert np.quantile(column[high], 0.98) < 4e21
    assert 5.0 < np.median(clean["hi_cube"].max(axis=1)[high]) < 50.0
    assert 30.0 < np.median(clean["dust"][high]) < 300.0
    ratio = np.median(CLEAN.dust_of_gas(1) / sum(CLEAN._gas(CLEAN._generators(1)["gas"])[0]))
    assert ratio == pytest.approx(CLEAN.emissivity, rel=1e-4)


def test_lines_hold_the_columns_of_the_phases():
    wide = dataclasses.replace(CLEAN, nside=8, velocity_low=-200.0, velocity_high=150.0, channels=272)
    columns, velocities, widths = wide._gas(wide._generators(4)["gas"])
    cube = wide.simulate((), 4)["hi_cube"][0]
    step = np.diff(wide.velocities).mean()
    assert step == pytest.approx(1.2882150, rel=1e-6)
    np.testing.assert_allclose(cube.sum(axis=1) * step * COLUMN_PER_KELVIN / 1e20, sum(columns), rtol=1e-4)
    pixel, channel = 100, 150

    def line(velocity):
        """Brightness temperature at one velocity."""
        return sum(
            column[pixel] * 1e20 / COLUMN_PER_KELVIN / np.sqrt(2.0 * np.pi) / width[pixel]
            * np.exp(-0.5 * ((velocity - centre[pixel]) / width[pixel]) ** 2)
            for column, centre, width in zip(columns, velocities, widths, strict=True)
        )  # fmt: skip

    low, high = wide.velocities[channel] - step / 2, wide.velocities[channel] + step / 2
    mean = scipy.integrate.quad(line, low, high, epsrel=1e-9)[0] / step
    assert cube[pixel, channel] == pytest.approx(mean, rel=1e-3, abs=1e-4)


def test_low_pass_is_the_filter_of_the_harmonics(clean):
    filtered = dataclasses.replace(CLEAN, low_pass_ell=40.0, low_pass_order=3.0).simulate((), 1)
    for before, after in (
        (clean["dust"], filtered["dust"][0]),
        (clean["hi_cube"][:, 30], filtered["hi_cube"][0][:, 30]),
    ):
        spectra = [healpy.anafast(values.astype(float), lmax=60) for values in (before, after)]
        np.testing.assert_allclose(
            np.sqrt(spectra[1][2:] / spectra[0][2:]), butterworth(np.arange(2, 61), 40, 3), rtol=0.05
        )
    np.testing.assert_array_equal(filtered["mask"][0], clean["mask"])


def test_noise(clean):
    noisy = dataclasses.replace(CLEAN, noise=0.5).simulate((), 1)
    difference = noisy["hi_cube"][0] - clean["hi_cube"]
    assert abs(difference.std() / 0.5 - 1.0) < 0.01
    assert abs(np.corrcoef(difference[:, 3], difference[:, 4])[0, 1]) < 0.05
    np.testing.assert_array_equal(noisy["dust"][0], clean["dust"])


def test_linear_dust_is_exactly_the_weighted_sum_of_channels():
    for simulator in (dataclasses.replace(LINEAR, uncorrelated=0.0), dataclasses.replace(CLEAN, linear=True)):
        sky = dataclasses.replace(simulator, uncorrelated=0.0).simulate((), 5)
        expected = sky["hi_cube"][0].astype(float) @ simulator.channel_weights
        np.testing.assert_allclose(sky["dust"][0], expected, rtol=1e-4, atol=1e-3)


def test_channel_weights_are_positive_and_vary():
    weights = SMALL.channel_weights
    assert weights.shape == (64,)
    assert weights.min() > 0.0
    assert weights.max() / weights.min() > 2.0
    # The weight of a channel that is wider is larger: its temperature stands for more gas.
    coarse = dataclasses.replace(SMALL, channels=16).channel_weights
    np.testing.assert_allclose(coarse, weights.reshape(16, 4).sum(axis=1), rtol=0.05)


def test_only_the_linear_sky_is_linear(sky, linear):
    left = unexplained(sky["hi_cube"], sky["dust"], sky["mask"] > 0.0)
    left_linear = unexplained(linear["hi_cube"], linear["dust"], linear["mask"] > 0.0)
    assert left > 1.5 * left_linear
    exact = dataclasses.replace(LINEAR, uncorrelated=0.0).simulate((), 1)
    assert unexplained(exact["hi_cube"][0], exact["dust"][0], exact["mask"][0] > 0.0) < 1e-6
    bare = dataclasses.replace(SMALL, uncorrelated=0.0).simulate((), 1)
    assert unexplained(bare["hi_cube"][0], bare["dust"][0], bare["mask"][0] > 0.0) > 0.1


def test_uncorrelated_share_of_the_variance(clean):
    gas = dataclasses.replace(CLEAN, uncorrelated=0.0)
    other = clean["dust"] - gas.simulate((), 1)["dust"][0]
    used = clean["mask"] > 0.0
    share = np.var(other[used]) / (np.var(other[used]) + np.var((clean["dust"] - other)[used]))
    assert share == pytest.approx(0.2, abs=0.04)
    # The same in a linear sky, but for its amount.
    straight = dataclasses.replace(CLEAN, linear=True)
    again = straight.simulate((), 1)["dust"] - dataclasses.replace(straight, uncorrelated=0.0).simulate((), 1)["dust"]
    assert np.corrcoef(again[0], other)[0, 1] > 0.999


def test_emissivity_is_close_to_what_planck_measured():
    """0.14 MJy/sr for 1e20 atoms per cm^2 at 545 GHz, as a Rayleigh-Jeans temperature."""
    intensity = 0.14 * units.MJy / units.sr
    temperature = intensity.to(units.uK, units.brightness_temperature(545 * units.GHz))
    assert temperature.value == pytest.approx(15.3, abs=0.05)
    assert pytest.approx(temperature.value, rel=0.05) == GalacticSkySimulator().emissivity
    assert "that is 15.3 uK_RJ" in " ".join(GalacticSkySimulator.__doc__.split())


def test_independent_dust_shares_the_latitudes_of_the_gas(clean):
    independent = clean["dust"] - dataclasses.replace(CLEAN, uncorrelated=0.0).simulate((), 1)["dust"][0]
    used = clean["mask"] > 0.0
    sine = np.abs(np.sin(np.radians(healpy.pix2ang(32, np.arange(12 * 32**2), lonlat=True)[1])))
    slope = np.polyfit(np.log(sine[used]), np.log(independent[used]), 1)[0]
    assert slope == pytest.approx(-0.3, abs=0.25)
    assert slope < 0.0


def test_dust_of_gas_is_the_dust_without_its_other_parts():
    plain = dataclasses.replace(CLEAN, uncorrelated=0.0, modulation=0.0)
    np.testing.assert_allclose(plain.simulate((), 6)["dust"][0], plain.dust_of_gas(6), rtol=1e-6)
    modulated = dataclasses.replace(plain, modulation=0.1).simulate((), 6)["dust"][0]
    factor = np.log(modulated / plain.dust_of_gas(6))
    assert factor.std() == pytest.approx(0.1, rel=0.05)


def test_narrow_lines_and_molecules_have_more_dust():
    simulator = dataclasses.replace(CLEAN, uncorrelated=0.0, modulation=0.0)
    columns, _, widths = simulator._gas(simulator._generators(1)["gas"])
    ratio = simulator.dust_of_gas(1) / sum(columns)
    cold = columns[0] > 0.5 * sum(columns)
    assert np.corrcoef(ratio[cold], np.log(widths[0][cold]))[0, 1] < -0.5
    plain = dataclasses.replace(simulator, cold_gain=0.0, molecular_gain=0.0).dust_of_gas(1)
    expected = sum(phase.dust * column for phase, column in zip(PHASES.values(), columns, strict=True))
    np.testing.assert_allclose(
        plain / np.median(plain / sum(columns)), expected / np.median(expected / sum(columns)), rtol=1e-4
    )
    molecular = dataclasses.replace(simulator, cold_gain=0.0, molecular_gain=2.0).dust_of_gas(1) / plain
    dense = columns[0] * np.abs(np.cos(healpy.pix2ang(32, np.arange(12288))[0])) > 3.0 * PHASES["cold"].column
    assert molecular[dense].min() > np.median(molecular)


def test_parameters_are_refused():
    with pytest.raises(ValueError, match=r"parameter_values: expected none, shape \(0,\), got shape \(2,\)"):
        SMALL.simulate((0.3, 0.8), 1)


@pytest.mark.parametrize("seed", [-1, 2**31, 1.5, True, "1"])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=r"expected seed to be an integer in \[0, 2\*\*31\)"):
        SMALL.simulate((), seed)


def test_linear_sky_has_no_dust_of_gas():
    with pytest.raises(ValueError, match="with linear=True the dust is the sum of `channel_weights`"):
        LINEAR.dust_of_gas(1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"nside": 128.0}, TypeError, "expected nside to be an integer, got 128.0"),
        ({"nside": 4}, ValueError, r"expected nside in \[8, 4096\], got 4"),
        ({"nside": 96}, ValueError, "expected nside to be a power of two, got 96"),
        ({"channels": True}, TypeError, "expected channels to be an integer, got True"),
        ({"channels": 0}, ValueError, r"expected channels in \[1, 1024\], got 0"),
        ({"linear": 1}, TypeError, "expected linear to be True or False, got 1"),
        ({"noise": "0.1"}, TypeError, "expected noise to be a number, got '0.1'"),
        ({"velocity_low": -500.0}, ValueError, r"expected velocity_low in \[-470, 470\], got -500.0"),
        ({"velocity_high": 500.0}, ValueError, r"expected velocity_high in \[-470, 470\], got 500.0"),
        ({"velocity_low": 20.0}, ValueError, "expected velocity_low below velocity_high with a channel of the survey"),
        ({"velocity_low": 1.0, "velocity_high": 1.1}, ValueError, ".* every 1.2882 km/s, in between, got 1.0 and 1.1"),
        ({"low_pass_ell": 0.5}, ValueError, "expected low_pass_ell to be 0 for no low-pass, or at least 1, got 0.5"),
        ({"low_pass_ell": -1.0}, ValueError, r"expected low_pass_ell in \[0, 100000\], got -1.0"),
        ({"low_pass_order": 0.0}, ValueError, r"expected low_pass_order in \[0.5, 100\], got 0.0"),
        ({"uncorrelated": 1.0}, ValueError, r"expected uncorrelated in \[0, 0.95\], got 1.0"),
        ({"sky_fraction": 0.0}, ValueError, r"expected sky_fraction in \[0.05, 1\], got 0.0"),
        ({"noise": -0.1}, ValueError, r"expected noise in \[0, 100\], got -0.1"),
        ({"noise": np.nan}, ValueError, r"expected noise in \[0, 100\], got nan"),
        ({"cold_gain": -1.0}, ValueError, r"expected cold_gain in \[0, 100\]"),
        ({"molecular_gain": -1.0}, ValueError, r"expected molecular_gain in \[0, 100\]"),
        ({"molecular_threshold": -1.0}, ValueError, r"expected molecular_threshold in \[0, 100\]"),
        ({"modulation": 3.0}, ValueError, r"expected modulation in \[0, 2\]"),
        ({"emissivity": 0.0}, ValueError, r"expected emissivity in \[0.001, 1000\]"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=f"GalacticSkySimulator: {message}"):
        GalacticSkySimulator(**arguments)


@pytest.mark.slow
def test_full_size():
    sky = GalacticSkySimulator().simulate((), 1)
    assert sky["hi_cube"].shape == (1, 196608, 64)
    assert abs(sky["mask"].mean(dtype=float) - 0.72) < 1e-5
    left = unexplained(sky["hi_cube"][0][::7], sky["dust"][0][::7], sky["mask"][0][::7] > 0.0)
    assert 0.25 < left < 0.5
