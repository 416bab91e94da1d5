import numpy as np
import pytest

from keras_cosmo.distances import comoving_distance, lightcone_distances, redshift_at_distance

PAPER = {"h": 0.68, "omega_m": 0.31}


def test_agrees_with_astropy():
    cosmology = pytest.importorskip("astropy.cosmology")
    units = pytest.importorskip("astropy.units")
    theirs = cosmology.FlatLambdaCDM(
        H0=68.0, Om0=0.31, Ob0=0.048, Tcmb0=2.7255, Neff=3.044, m_nu=[0.0, 0.0, 0.06] * units.eV
    )
    redshifts = np.linspace(0.1, 40.0, 50)
    distances = theirs.comoving_distance(redshifts).value
    np.testing.assert_allclose(comoving_distance(redshifts, **PAPER), distances, rtol=1e-8)
    np.testing.assert_allclose(redshift_at_distance(distances, **PAPER), redshifts, atol=1e-6)


def test_known_distances():
    # astropy 8.0 with the neutrinos above, to 0.1 Mpc; without radiation z = 6 would be 8395 Mpc away.
    np.testing.assert_allclose(comoving_distance(6.0, **PAPER), 8380.02, atol=0.1)
    np.testing.assert_allclose(comoving_distance(0.0, **PAPER), 0.0, atol=1e-12)


def test_agrees_with_pyccl_to_the_radiation():
    pyccl = pytest.importorskip("pyccl")
    cosmology = pyccl.Cosmology(Omega_c=0.262, Omega_b=0.048, h=0.68, sigma8=0.81, n_s=0.97, m_nu=0.0)
    redshifts = np.array([1.0, 6.0, 30.0])
    theirs = pyccl.comoving_radial_distance(cosmology, 1 / (1 + redshifts))
    np.testing.assert_allclose(comoving_distance(redshifts, **PAPER), theirs, rtol=3e-3)


def test_inverse():
    redshifts = np.linspace(0.0, 60.0, 200)
    distances = comoving_distance(redshifts, **PAPER)
    np.testing.assert_allclose(redshift_at_distance(distances, **PAPER), redshifts, atol=1e-8)


def test_lightcone_has_the_cells_of_21cmfast():
    # A light-cone of py21cmfast 4.1.1 from z = 6 to 30 in cells of 1.5 Mpc: 2085 of them, ending at z = 30.00732.
    distances = lightcone_distances(6.0, 30.0, 1.5, **PAPER)
    assert distances.shape == (2085,)
    np.testing.assert_allclose(np.diff(distances), 1.5)
    redshifts = redshift_at_distance(distances, **PAPER)
    np.testing.assert_allclose(redshifts[[0, -1]], [6.0, 30.00731907], atol=1e-7)


def test_a_lightcone_can_be_laid_out_again_from_its_own_redshifts():
    redshifts = redshift_at_distance(lightcone_distances(6.0, 30.0, 1.5, **PAPER), **PAPER)
    again = lightcone_distances(redshifts[0], redshifts[-1], 1.5, **PAPER)
    assert again.shape == (2085,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: comoving_distance(-1.0, **PAPER), "redshift: expected finite values of at least 0"),
        (lambda: comoving_distance(np.nan, **PAPER), "redshift: expected finite values"),
        (lambda: comoving_distance(1.0, h=0.0, omega_m=0.3), "h: expected a positive number"),
        (lambda: comoving_distance(1.0, h=0.7, omega_m=1.3), "omega_m: expected a number above 0 and at most 1"),
        (lambda: redshift_at_distance(-1.0, **PAPER), "distance: expected 0 to"),
        (lambda: redshift_at_distance(1e6, **PAPER), "Check unit and cosmology"),
        (lambda: lightcone_distances(6.0, 5.0, 1.5, **PAPER), "expected 0 <= z_min < z_max, got 6.0 and 5.0"),
        (lambda: lightcone_distances(6.0, 7.0, 0.0, **PAPER), "cell_size: expected a positive size"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
