import dataclasses
import itertools

import numpy as np
import pytest
from colossus.cosmology import cosmology as colossus_cosmology
from colossus.lss import mass_function as colossus_mass_function

from keras_cosmo.simulations.cosmology import Background, Cosmology, smooth_transfer_function

WIGGLES = Cosmology(transfer_function="eisenstein_hu_1998")


@pytest.fixture(scope="module")
def colossus():
    parameters = {"flat": True, "H0": 68.0, "Om0": 0.31, "Ob0": 0.048, "sigma8": 0.81, "ns": 0.97, "Tcmb0": 2.7255}
    return colossus_cosmology.setCosmology("paper", parameters, persistence="")


def test_distances_growth_and_expansion_agree_with_colossus(colossus):
    background = Cosmology().background()
    redshift = np.array([0.5, 2.0, 6.0, 12.3, 30.0])
    distance = colossus.comovingDistance(0.0, redshift) / 0.68
    np.testing.assert_allclose(background.comoving_distance(redshift), distance, rtol=1e-4)
    np.testing.assert_allclose(background.growth(redshift), colossus.growthFactor(redshift), rtol=2e-3)
    per_second = colossus.Hz(redshift) / 3.0856775814913673e19
    np.testing.assert_allclose(background.hubble(redshift), per_second, rtol=1e-4)
    np.testing.assert_allclose(background.redshift_at(background.comoving_distance(redshift)), redshift, rtol=1e-6)


def test_oscillating_power_and_mass_deviation_agree_with_colossus(colossus):
    background = WIGGLES.background()
    k = np.geomspace(1e-3, 20.0, 30)
    power = np.exp(np.interp(np.log(k), np.log(background.wavenumbers), np.log(background.power)))
    np.testing.assert_allclose(power, colossus.matterPowerSpectrum(k / 0.68) / 0.68**3, rtol=5e-3)
    radius = np.array([0.1, 0.5, 2.0, 8.0 / 0.68, 20.0])
    mass = 4.0 / 3.0 * np.pi * radius**3 * background.mean_matter_density
    np.testing.assert_allclose(background.sigma(mass), colossus.sigma(radius * 0.68), rtol=3e-3)


def test_smooth_power_averages_the_oscillations_and_keeps_sigma_8(colossus):
    background = Cosmology().background()
    k = np.geomspace(1e-3, 1e-2, 5)
    ratio = smooth_transfer_function(Cosmology(), k) / np.sqrt(
        colossus.matterPowerSpectrum(k / 0.68, model="eisenstein98_zb") / k**0.97
    )
    np.testing.assert_allclose(ratio / ratio[0], 1.0, rtol=0.03)
    eight = 4.0 / 3.0 * np.pi * (8.0 / 0.68) ** 3 * background.mean_matter_density
    assert background.sigma(eight) == pytest.approx(0.81, rel=1e-3)
    small = 1e8
    assert 0.98 < background.sigma(small) / WIGGLES.background().sigma(small) < 0.99


@pytest.mark.parametrize("redshift", [0.0, 6.0, 12.0])
def test_original_sheth_tormen_mass_function_agrees_with_colossus(colossus, redshift):
    background = WIGGLES.background()
    numbers = background.mass_function(redshift, shape=(0.3222, 0.707, 0.3))
    masses = np.array([1e8, 1e9, 1e10, 1e11])
    ours = np.exp(np.interp(np.log10(masses), background.log10_masses, np.log(np.maximum(numbers, 1e-300))))
    theirs = colossus_mass_function.massFunction(
        masses * 0.68, redshift, mdef="fof", model="sheth99", q_out="dndlnM", deltac_args={"corrections": False}
    )
    np.testing.assert_allclose(ours, theirs * np.log(10.0) * 0.68**3, rtol=0.02)


def test_collapsed_fraction_is_the_integral_of_the_mass_function():
    background = Cosmology().background()
    redshift = np.array([7.0, 10.0, 15.0])
    threshold = np.array([1e8, 3e8, 1e9])
    fraction = background.collapsed_fraction(threshold, redshift)
    for value, mass, z in zip(fraction, threshold, redshift, strict=True):
        grid = np.linspace(np.log10(mass), 16.0, 4000)
        density = np.interp(grid, background.log10_masses, background.mass_function(z)) * 10**grid
        assert value == pytest.approx(np.trapezoid(density, grid) / background.mean_matter_density, rel=0.01)
    higher = background.collapsed_fraction(threshold * 3.0, redshift)
    assert np.all(higher < fraction)
    assert np.all(np.diff(background.collapsed_fraction(1e9, redshift)) < 0.0)


def test_background_is_shared_and_attributes_use_21cmfast_names():
    assert Cosmology().background() is Cosmology().background()
    assert isinstance(Cosmology().background(), Background)
    assert Cosmology().attributes() == {
        "hlittle": 0.68,
        "OMm": 0.31,
        "OMb": 0.048,
        "POWER_INDEX": 0.97,
        "SIGMA_8": 0.81,
    }
    assert Cosmology().background().growth(0.0) == 1.0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"omega_m": 3.0}, r"expected omega_m in \[0.05, 1.0\], got 3.0"),
        ({"sigma_8": float("nan")}, "expected sigma_8 in .*got nan"),
        ({"omega_b": 0.35}, "expected omega_b < omega_m"),
        ({"transfer_function": "camb"}, "expected transfer_function .*got 'camb'"),
    ],
)
def test_unphysical_cosmologies_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(Cosmology(), **changes)


def test_fitted_growth_is_that_of_21cmfast():
    # py21cmfast 4.1.1, cfuncs.get_growth_factor with its default cosmology.
    planck = Cosmology(omega_m=0.30964144, omega_b=0.04897468, h=0.6766, sigma_8=0.8102, n_s=0.9665)
    fitted = dataclasses.replace(planck, growth="carroll_1992").background()
    redshift = np.array([0.0, 10.0, 15.0, 20.0])
    np.testing.assert_allclose(fitted.growth(redshift), [1.0, 0.1158839, 0.0796665, 0.0606865], rtol=1e-4)
    np.testing.assert_allclose(fitted.growth(redshift), planck.background().growth(redshift), rtol=5e-3)


def test_growth_rate_follows_the_matter_density():
    background = Cosmology().background()
    for z in (0.5, 2.0, 10.0):
        matter = 0.31 * (1.0 + z) ** 3 / (0.31 * (1.0 + z) ** 3 + 0.69)
        assert background.growth_rate(z) == pytest.approx(matter**0.55, rel=0.01)


@pytest.mark.parametrize(
    ("redshift", "radius", "contrast"), [(10.0, 2.0, 0.2), (10.0, 2.0, 0.6), (15.0, 5.0, 0.2), (8.0, 5.0, 0.0)]
)
def test_conditional_mass_fraction_counts_random_walks(redshift, radius, contrast):
    """Share of random walks from a sphere's contrast that cross the ellipsoidal barrier before a halo mass."""
    background = Cosmology().background()
    growth = background.growth(redshift)
    sphere = 4.0 / 3.0 * np.pi * radius**3 * background.mean_matter_density
    smallest = 2e8
    variance = np.linspace(background.sigma(sphere) ** 2, background.sigma(smallest) ** 2, 400)
    critical = 1.686 / growth
    barrier = np.sqrt(0.73) * critical * (1.0 + 0.34 * (variance / (0.73 * critical**2)) ** 0.81)
    step = variance[1] - variance[0]
    generator = np.random.default_rng(0)
    walk = np.full(40_000, contrast / growth)
    survival = np.ones_like(walk)
    for before, after in itertools.pairwise(barrier):
        moved = walk + generator.standard_normal(len(walk)) * np.sqrt(step)
        # A walk below the barrier at both ends of a step may have crossed it in between.
        below = (walk < before) & (moved < after)
        bridge = np.exp(-2.0 * np.maximum(before - walk, 0.0) * np.maximum(after - moved, 0.0) / step)
        survival *= np.where(below, 1.0 - bridge, 0.0)
        walk = moved
    mass = np.geomspace(smallest, sphere, 4001)[:-1]
    share, _ = background.conditional_mass_fraction(growth, mass, sphere, np.array([contrast / growth]))
    counted, error = 1.0 - survival.mean(), survival.std() / np.sqrt(len(survival))
    # The Taylor series of Sheth & Tormen is good to a few per cent.
    assert np.trapezoid(share[0], np.log(mass)) == pytest.approx(counted, abs=4.0 * error, rel=0.08)


def test_dense_spheres_are_whole_haloes():
    background = Cosmology().background()
    share, full = background.conditional_mass_fraction(0.1, np.array([1e8, 1e9]), 1e11, np.array([0.0, 30.0]))
    assert full.tolist() == [False, True]
    assert share[1].tolist() == [0.0, 0.0]
    assert np.all(share[0] > 0.0)


def test_unknown_growth_is_refused():
    with pytest.raises(ValueError, match="expected growth 'exact' or 'carroll_1992', got 'liddle'"):
        Cosmology(growth="liddle")


@pytest.mark.parametrize("redshift", [0.0, 1.3, 3.0])
def test_halo_mass_function_agrees_with_colossus(colossus, redshift):
    background = WIGGLES.background()
    masses = np.geomspace(3e10, 1e14, 8)
    ours = np.exp(np.interp(np.log10(masses), background.log10_masses, np.log(background.halo_mass_function(redshift))))
    theirs = colossus_mass_function.massFunction(
        masses * 0.68, redshift, mdef="fof", model="watson13", q_out="dndlnM", q_in="M"
    )
    np.testing.assert_allclose(ours, theirs * np.log(10.0) * 0.68**3, rtol=0.02)


def test_biases_are_consistent_with_the_peak_background_split():
    # With all matter in haloes of the Sheth-Tormen mass function it has no bias, at first and at second order.
    background = WIGGLES.background()
    height = 1.686 / background.mass_deviations
    grid = np.linspace(np.log(1e-4), np.log(8.0), 40000)
    scaled = 0.707 * np.exp(2.0 * grid)
    share = 0.3222 * np.sqrt(2.0 * scaled / np.pi) * (1.0 + scaled**-0.3) * np.exp(-scaled / 2.0)
    # Below the lightest tabulated halo the bias hardly changes any more.
    first, second = (
        np.interp(grid, np.log(height), bias) for bias in (background.halo_bias(0.0), background.second_order_bias(0.0))
    )
    assert np.trapezoid(share * first, grid) == pytest.approx(1.0, abs=0.04)
    assert np.trapezoid(share * second, grid) == pytest.approx(0.0, abs=0.04)
    # Growth only shifts the height of peaks: as rare haloes earlier are as biased.
    earlier = background.halo_bias(2.0), background.second_order_bias(2.0)
    shifted = np.log(height / background.growth(2.0))
    common = (shifted > np.log(height[0])) & (shifted < np.log(height[-1]))
    for now, then in zip((background.halo_bias(0.0), background.second_order_bias(0.0)), earlier, strict=True):
        np.testing.assert_allclose(then[common], np.interp(shifted[common], np.log(height), now), atol=0.02, rtol=0.01)


def test_nonlinear_power_is_that_of_halofit_and_keeps_the_linear_scales():
    # Takahashi et al. 2012, from this background's own linear spectrum.
    background = WIGGLES.background()
    k, redshift = background.wavenumbers, 1.3
    linear = background.power * background.growth(redshift) ** 2
    power = background.nonlinear_power(redshift)
    np.testing.assert_allclose(power[k < 5e-3], linear[k < 5e-3], rtol=0.01)
    spectrum, logarithm = k**3 * linear / (2.0 * np.pi**2), np.log(k)

    def variance(radius, weight=lambda x: 1.0):
        x = (k * radius) ** 2
        return np.trapezoid(spectrum * np.exp(-x) * weight(x), logarithm)

    radii = np.geomspace(0.1, 5.0, 400)
    radius = np.exp(np.interp(0.0, [-np.log(variance(r)) for r in radii], np.log(radii)))
    first, second = variance(radius, lambda x: 2.0 * x), variance(radius, lambda x: 4.0 * x**2 - 4.0 * x)
    n, c = first - 3.0, first**2 - second
    alpha = abs(6.0835 + 1.3373 * n - 0.1959 * n**2 - 5.5274 * c)
    beta = 2.0379 - 0.7354 * n + 0.3157 * n**2 + 1.2490 * n**3 + 0.3980 * n**4 - 0.1682 * c
    y = k * radius
    quasilinear = spectrum * (1.0 + spectrum) ** beta / (1.0 + alpha * spectrum) * np.exp(-y / 4.0 - y**2 / 8.0)
    a = 10.0 ** (1.5222 + 2.8553 * n + 2.3706 * n**2 + 0.9903 * n**3 + 0.2250 * n**4 - 0.6038 * c)
    b = 10.0 ** (-0.5642 + 0.5864 * n + 0.5716 * n**2 - 1.5474 * c)
    d = 10.0 ** (0.3698 + 2.0404 * n + 0.8161 * n**2 + 0.5869 * c)
    gamma, nu = 0.1971 - 0.0843 * n + 0.8460 * c, 10.0 ** (5.2105 + 3.6902 * n)
    matter = 0.31 * (1.0 + redshift) ** 3
    matter /= matter + 0.69
    halo = a * y ** (3.0 * matter**-0.0307)
    halo /= 1.0 + b * y ** (matter**-0.0585) + (d * matter**0.0743 * y) ** (3.0 - gamma)
    halo /= 1.0 + nu / y**2
    expected = (quasilinear + halo) * 2.0 * np.pi**2 / k**3
    chosen = (k > 1e-3) & (k < 20.0)
    np.testing.assert_allclose(power[chosen], expected[chosen], rtol=5e-3)


def test_smooth_spectra_grow_as_those_with_oscillations():
    smooth, wiggly = Cosmology().background(), WIGGLES.background()
    ratio = (smooth.nonlinear_power(1.3) / smooth.power) / (wiggly.nonlinear_power(1.3) / wiggly.power)
    np.testing.assert_allclose(ratio, 1.0, rtol=1e-6)
