import numpy as np
import pytest

from keras_cosmo.simulations.cosmology import Cosmology
from keras_cosmo.simulations.galaxies import GalaxyModel, GalaxyScaling, HaloMassFractions

PLANCK = Cosmology(
    omega_m=0.30964144, omega_b=0.04897468, h=0.6766, sigma_8=0.8102, n_s=0.9665, growth="carroll_1992"
).background()
GALAXIES = GalaxyScaling()
MINIMUM = 10**8.5


def stars(mass):
    return GALAXIES.stars(mass, MINIMUM, 0.05)


def photons(mass):
    return GALAXIES.photons(mass, MINIMUM, 0.05)


def test_scaling_with_halo_mass():
    mass = np.array([1e8, 1e10, 1e12, 1e14])
    np.testing.assert_allclose(GALAXIES.stars(mass, 0.0, 0.05), [0.1, 1.0, 10.0, 20.0])
    np.testing.assert_allclose(GALAXIES.photons(mass, 0.0, 0.05), [1.0, 1.0, 1.0, 0.2])
    assert GALAXIES.stars(1e9, 1e9, 0.05) == pytest.approx(np.exp(-1.0) * 10**-0.5)


def test_integrals_are_those_of_21cmfast():
    # Its own integrals (py21cmfast 4.1.1, cfuncs.evaluate_SFRD_z and evaluate_Nion_z), park19 with M_TURN = 8.5.
    redshift = np.array([10.0, 15.0, 20.0])
    halos = HaloMassFractions(PLANCK, redshift, [3.0], [[0.0]])
    np.testing.assert_allclose(halos.mean(stars), [4.30518e-3, 8.82647e-5, 1.02197e-6], rtol=2e-3)
    np.testing.assert_allclose(halos.mean(photons), [9.69282e-3, 3.50906e-4, 5.68887e-6], rtol=2e-3)


@pytest.mark.parametrize(
    ("redshift", "radius", "contrast", "expected_stars", "expected_photons"),
    [
        # cfuncs.evaluate_SFRD_cond and evaluate_Nion_cond of py21cmfast 4.1.1.
        (10.0, 3.0, (-0.5, 0.2, 0.9), (8.5118e-5, 6.8577e-3, 0.39592), (3.6868e-4, 1.6319e-2, 0.24892)),
        (15.0, 3.0, (-0.5, 0.2, 0.9), (1.4499e-7, 2.4485e-4, 0.10164), (9.4322e-7, 9.6609e-4, 0.11679)),
        (10.0, 0.9305, (-0.6, 0.35, 1.3), (7.0739e-6, 5.1022e-3, 1.18569), (4.2304e-5, 1.6140e-2, 0.64515)),
    ],
)
def test_conditional_integrals_are_those_of_21cmfast(redshift, radius, contrast, expected_stars, expected_photons):
    halos = HaloMassFractions(PLANCK, [redshift], [radius], [contrast])
    np.testing.assert_allclose(halos.conditional(stars)[0, 0], expected_stars, rtol=4e-3)
    np.testing.assert_allclose(halos.conditional(photons)[0, 0], expected_photons, rtol=4e-3)


def test_conditional_integrals_agree_with_fine_summation():
    contrast = np.array([-0.6, 0.0, 0.8])
    halos = HaloMassFractions(PLANCK, [12.0], [2.0], [contrast])
    mass = np.geomspace(1e6, halos.sphere_mass[0], 20_001)[:-1]
    growth = PLANCK.growth(12.0)
    share, full = PLANCK.conditional_mass_fraction(growth, mass, halos.sphere_mass[0], contrast / growth)
    assert not full.any()
    expected = np.trapezoid(share * stars(mass), np.log(mass), axis=1)
    np.testing.assert_allclose(halos.conditional(stars)[0, 0], expected, rtol=1e-3)


def test_spheres_beyond_the_barrier_are_one_halo():
    halos = HaloMassFractions(PLANCK, [10.0], [0.9305], [[1.0, 3.0]])
    table = halos.conditional(stars)[0, 0]
    assert table[1] == stars(halos.sphere_mass)[0]
    assert table[0] < table[1]


def test_contrasts_are_scaled_with_the_growth_factor():
    halos = HaloMassFractions(PLANCK, [10.0, 15.0], [3.0], [[-1.0, 0.5]])
    scaled = 0.5 * PLANCK.growth(15.0) / PLANCK.growth(10.0)
    np.testing.assert_allclose(halos.density[0, :, 1], [1.5, 1.0 + scaled])
    alone = HaloMassFractions(PLANCK, [15.0], [3.0], [[scaled]])
    assert halos.conditional(stars)[0, 1, 1] == pytest.approx(alone.conditional(stars)[0, 0, 0], rel=1e-5)
    assert np.all(halos.density >= 0.0)


def test_model_has_the_mean_of_the_mass_function():
    redshift = np.array([10.0, 12.0, 15.0])
    nodes = np.linspace(-0.6, 0.8, 30)
    halos = HaloMassFractions(PLANCK, redshift, [1.0, 5.0], np.stack([nodes, 0.5 * nodes]))
    occurrence = np.exp(-((nodes / 0.25) ** 2) / 2.0)[None] * np.ones((2, 1))
    occurrence /= occurrence.sum(axis=1, keepdims=True)
    model = GalaxyModel(halos, GALAXIES, 0.05, MINIMUM, occurrence)
    np.testing.assert_allclose(model.mean, halos.mean(photons))
    # Stars of matter, without its density, average to the mean; |dt/dz| of half a Hubble time is 2 / (1 + z).
    formed = np.einsum("rzd,rd->rz", model.growth / halos.density, occurrence)
    np.testing.assert_allclose(formed, np.tile(halos.mean(stars) * 2.0 / (1.0 + redshift), (2, 1)))
    assert np.all(model.mean_growth > formed)  # dense spheres count more
    rarer = GalaxyModel(halos, GALAXIES, 0.05, 3.0 * MINIMUM, occurrence)
    assert np.all(rarer.mean_growth < model.mean_growth)
    contrast = model.growth[:, :, -1] / model.mean_growth
    assert np.all(rarer.growth[:, :, -1] / rarer.mean_growth > contrast)  # rarer haloes are more biased


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"escape_fraction": 0.0}, r"expected escape_fraction in \(0, 1\], got 0.0"),
        ({"formation_time": 2.0}, r"expected formation_time in \(0, 1\], got 2.0"),
        ({"star_slope": 5.0}, r"expected star_slope in \[-3, 3\], got 5.0"),
        ({"escape_slope": -5.0}, r"expected escape_slope in \[-3, 3\], got -5.0"),
    ],
)
def test_unphysical_scalings_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        GalaxyScaling(**changes)
