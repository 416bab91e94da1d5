import dataclasses

import numpy as np
import pytest

from keras_cosmo.simulations import thermal
from keras_cosmo.simulations.cosmology import Cosmology
from keras_cosmo.simulations.lightcones import LightconeSimulator

BACKGROUND = Cosmology().background()
SOURCES = thermal.SourceModel()


def history(zeta=60.0, log10_luminosity=40.0, log10_temperature=4.7, threshold=0.5):
    simulator = LightconeSimulator(n_perp=50, n_los=64, cell_size=1.5)
    return simulator.history([zeta, log10_luminosity, log10_temperature, threshold])


def at(table, redshifts, z):
    return np.interp(z, redshifts, table)


def test_virial_mass_of_atomic_cooling_haloes():
    # Barkana & Loeb (2001), equation 26, for their constants: T = 1e4 K, mu = 0.6, z = 9.
    assert thermal.virial_mass(BACKGROUND, 1.98e4, 9.0) == pytest.approx(1e8 / 0.68 / np.sqrt(0.31 * 1.0), rel=0.01)
    jump = thermal.virial_mass(BACKGROUND, 9.9e3, 9.0) / thermal.virial_mass(BACKGROUND, 1.0e4, 9.0)
    assert jump == pytest.approx((0.99 * 0.6 / 1.22) ** 1.5, rel=1e-6)


def test_cross_sections_at_known_points():
    hydrogen, helium = thermal.photoionisation_cross_sections(np.array([13.6, 24.6, 1000.0]))
    assert hydrogen[0] == pytest.approx(0.0)  # the threshold itself is excluded
    # Verner et al. (1996): 7.4e-18 cm^2 for helium at its threshold; hydrogen falls nearly as E^-3.
    assert helium[1] == pytest.approx(7.4e-18, rel=0.02)
    assert hydrogen[1] == pytest.approx(1.24e-18, rel=0.03)
    assert 10.0 < helium[2] / hydrogen[2] < 40.0


def test_x_ray_mean_free_path_of_the_neutral_medium():
    # Furlanetto, Oh & Briggs (2006), equation 96: 4.9 x_HI^(1/3) ((1 + z) / 15)^-2 (E / 300 eV)^3 comoving Mpc.
    density = SOURCES.baryon_number_density(BACKGROUND) * 15.0**3
    cross_section = thermal._mixture_cross_section(SOURCES, np.array([300.0]))[0]
    comoving = 15.0 / (density * cross_section) / 3.0856775814913673e24
    assert comoving == pytest.approx(4.9, rel=0.2)


def test_lyman_bands_are_those_of_population_two_stars():
    # Barkana & Loeb (2005): 9690 photons between Lyman-alpha and the limit, 6520 of them below Lyman-beta.
    assert 4361.0 * thermal.LYMAN_BAND_SHARES.sum() == pytest.approx(9690.0, rel=0.005)
    assert 4361.0 * thermal.LYMAN_BAND_SHARES[0] == pytest.approx(6520.0, rel=0.005)
    assert len(thermal.LYMAN_BAND_SHARES) == len(thermal.RECYCLED_FRACTIONS) == 22


def test_collision_rates_follow_the_power_law_fit_where_it_holds():
    # Kuhlen, Madau & Montgomery (2006): 3.1e-11 T^0.357 exp(-32 / T) cm^3/s for 10 to 1000 K.
    temperature = np.array([20.0, 100.0, 500.0])
    fitted = np.exp(np.polynomial.polynomial.polyval(np.log(temperature), thermal._COLLISION_FIT))
    np.testing.assert_allclose(fitted, 3.1e-11 * temperature**0.357 * np.exp(-32.0 / temperature), rtol=0.15)


def test_unheated_gas_follows_recfast():
    def dark(redshift_factor):
        simulator = LightconeSimulator(n_perp=50, n_los=64, cell_size=1.5, redshift_factor=redshift_factor)
        return simulator.history([60.0, 30.0, 6.9, 0.5])

    fine = dark(1.003)
    for z, temperature in ((30.0, 19.248), (20.0, 9.0324), (10.0, 2.5225)):
        assert at(fine.unheated_temperature, fine.redshift, z) == pytest.approx(temperature, rel=0.03)
    assert at(fine.electron_fraction, fine.redshift, 20.0) == pytest.approx(1.92e-4, rel=0.15)
    # The explicit steps of 21cmFAST cool the gas further, the more the longer they are.
    ratios = []
    for factor in (1.02, 1.04):
        coarse = dark(factor)
        cooled = at(coarse.unheated_temperature, coarse.redshift, 10.0)
        ratios.append(cooled / at(fine.unheated_temperature, fine.redshift, 10.0))
    np.testing.assert_allclose(ratios, [0.93, 0.86], atol=0.02)


def test_conditional_collapse_has_the_right_mean():
    z = np.array([7.0, 10.0, 15.0])
    mass = thermal.virial_mass(BACKGROUND, 10**4.7, z)
    deviations = np.array([1.8, 0.9])
    model = thermal.CollapseModel(BACKGROUND, z, mass, np.array([1.5, 10.0]), deviations)
    linear = np.random.default_rng(0).standard_normal(200_000)
    for j in range(2):
        for i in range(3):
            values = np.interp(linear, model.contrast, model.fraction[j, i])
            assert values.mean() == pytest.approx(model.mean[i], rel=0.05)
            assert np.all(np.diff(model.fraction[j, i]) >= 0.0)
    level = model.mean * 2.0
    threshold = model.linear_threshold(level)
    for j in range(2):
        for i in range(3):
            logarithm = np.interp(threshold[j, i] / deviations[j], model.contrast, np.log(model.fraction[j, i]))
            assert logarithm == pytest.approx(np.log(level[i]), abs=0.02)
    assert np.all(model.linear_threshold(np.zeros(3)) == -np.inf)


def test_responses_add_up_to_the_mean():
    mean = history()
    weight = np.exp(-(mean.collapse.contrast**2) / 2.0)
    weight /= weight.sum()
    late = mean.redshift < 20.0
    summed = (mean.x_ray_response @ weight).sum(axis=0)
    np.testing.assert_allclose(summed[late], mean.x_ray_temperature[late], rtol=0.02)
    flux = (mean.lyman_response @ weight).sum(axis=0)
    np.testing.assert_allclose(flux[late], mean.lyman_flux[late], rtol=0.02)


def test_parameters_act_in_the_physical_direction():
    base = history()
    z = base.redshift
    assert np.all(history(zeta=120.0).neutral_filling <= base.neutral_filling)
    brighter = history(log10_luminosity=41.0)
    assert at(brighter.x_ray_temperature / base.x_ray_temperature.clip(1e-12), z, 12.0) > 8.0
    assert at(brighter.electron_fraction, z, 8.0) > at(base.electron_fraction, z, 8.0)
    rarer = history(log10_temperature=5.5)
    assert at(rarer.lyman_flux, z, 15.0) < at(base.lyman_flux, z, 15.0)
    harder = history(threshold=1.5)
    assert at(harder.x_ray_temperature, z, 10.0) < at(base.x_ray_temperature, z, 10.0)


def test_brightness_temperature_limits():
    redshift = np.array([10.0])
    one = np.ones((1, 1), np.float32)

    def signal(**changes):
        arguments = {
            "redshift": redshift,
            "density": one,
            "log_density": 0 * one,
            "neutral": one,
            "temperature": 1e4 * one,
            "lyman_flux": 1e-6 * one,
            "velocity_gradient": 0 * one,
            "electron_fraction": np.array([2e-4]),
        }
        return float(thermal.brightness_temperature(BACKGROUND, SOURCES, **(arguments | changes))[0, 0])

    saturated = 27.0 * 0.048 * 0.68**2 / 0.023 * np.sqrt(0.15 / (0.31 * 0.68**2) * 1.1)
    assert signal() == pytest.approx(saturated, rel=0.01)
    assert signal(neutral=0 * one) == 0.0
    assert signal(velocity_gradient=-0.2 * one) == pytest.approx(saturated / 0.8, rel=0.01)
    assert abs(signal(lyman_flux=1e-20 * one, temperature=3 * one)) < 1.0  # nothing couples cold gas to the line
    assert signal(temperature=3.0 * one) < -150.0


def detailed_history(**changes):
    redshift = np.geomspace(11.0, 36.0, 31) - 1.0
    radii, mass = np.array([1.0, 5.0, 20.0]), np.full(31, 3e8)
    collapse = thermal.CollapseModel(BACKGROUND, redshift, mass, radii, np.array([2.0, 1.0, 0.5]))
    return thermal.radiative_history(
        BACKGROUND,
        dataclasses.replace(SOURCES, **changes),
        collapse,
        neutral_filling=np.ones(31),
        threshold_mass=mass,
        x_ray_luminosity=10**40.5,
        x_ray_threshold=0.5,
        shells=np.geomspace(1.0, 430.0, 40),
    )


def test_detailed_tables_refine_the_short_ones():
    short, full = thermal.SHORT_SECONDARIES, thermal.FULL_SECONDARIES
    for name in ("ionised", "heat", "ionisation", "lyman_alpha"):
        coarse, fine = getattr(short, name), getattr(full, name)
        assert len(fine) == len(full.ionised) == len(short.ionised) + 3
        np.testing.assert_array_equal(np.delete(fine, (2, 4, 7), axis=0), coarse)
        assert np.all(np.diff(fine, axis=0) > 0.0) or np.all(np.diff(fine, axis=0) < 0.0)
    assert len(thermal.LYMAN_BAND_SLOPES) == len(thermal.LYMAN_BAND_SHARES)
    rough, detailed = detailed_history(), detailed_history(detailed=True)
    assert 1.0 < detailed.lyman_flux[0] / rough.lyman_flux[0] < 1.15  # the last shell before the horizon counts in part
    assert 0.9 < detailed.x_ray_temperature[0] / rough.x_ray_temperature[0] < 1.0


def test_lyman_heating_can_be_left_out():
    with_heat, without = detailed_history(), detailed_history(lyman_heating=False)
    assert with_heat.lyman_temperature[0] > 0.1
    assert np.all(without.lyman_temperature == 0.0)
    np.testing.assert_array_equal(with_heat.lyman_flux > 0.0, without.lyman_flux > 0.0)


def test_ionised_gas_is_heated_more():
    feedback = detailed_history(detailed=True).heating_feedback
    assert np.all(feedback >= 0.0)
    # The heated share goes as ionised fraction to the power 0.1 to 0.3 where it matters.
    assert 0.05 < feedback[0] < 0.3


def test_gas_before_first_light_is_less_than_adiabatic():
    assert thermal.first_light_response(10.0) == 0.58
    assert thermal.first_light_response(35.0) == pytest.approx(0.43)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"star_fraction": 0.0}, r"expected star_fraction in \(0, 1\], got 0.0"),
        ({"helium_fraction": 1.0}, r"expected helium_fraction in \[0, 1\), got 1.0"),
        ({"luminosity_band_max": 20.0}, "expected 0 < luminosity_band_max <= spectrum_max in keV, got 20.0"),
    ],
)
def test_unphysical_sources_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        thermal.SourceModel(**changes)
