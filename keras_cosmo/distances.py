"""Comoving distances with radiation and massive neutrinos, as 21cmFAST measures its light-cones.

21cmFAST lays out a light-cone in steps of comoving distance and never stores redshifts. They are rebuilt here from
the cosmology of the cone, for cones read from files and for cones about to be simulated alike. NumPy and SciPy only.
"""

import numpy as np
from scipy import constants
from scipy.integrate import cumulative_simpson
from scipy.interpolate import CubicSpline

# The background that 21cmFAST clones (astropy's Planck15 with N_eff of Planck18) and never writes to a file:
# Planck Collaboration 2016, A&A 594, A13, section 3.4 for the neutrino mass, Fixsen 2009, ApJ 707, 916 for T_CMB.
CMB_TEMPERATURE = 2.7255  # K
EFFECTIVE_NEUTRINOS = 3.044
NEUTRINO_MASSES = (0.0, 0.0, 0.06)  # eV

SPEED_OF_LIGHT = constants.c / 1e3  # km/s
MEGAPARSEC = constants.mega * constants.parsec  # m
NODES = 4097


def comoving_distance(redshift, *, h: float, omega_m: float) -> np.ndarray:
    """Comoving distance in a flat universe with photons and massive neutrinos.

    Args:
        redshift: Redshift or array of redshifts, not negative.
        h: Hubble constant in units of 100 km/s/Mpc.
        omega_m: Matter density today without neutrinos, in units of the critical density.

    Returns:
        Distance in Mpc, in the shape of ``redshift``.

    Raises:
        ValueError: If a redshift is negative or not finite, or the cosmology is not physical.

    Example:
        >>> round(float(comoving_distance(6.0, h=0.68, omega_m=0.31)))
        8380
    """
    redshift = np.asarray(redshift, np.float64)
    if redshift.size and not (np.isfinite(redshift).all() and redshift.min() >= 0):
        raise ValueError(f"redshift: expected finite values of at least 0, got {redshift}.")
    largest = float(redshift.max()) if redshift.size else 0.0
    nodes, distances = _distance_table(max(largest, 0.01), h, omega_m)
    return CubicSpline(nodes, distances)(np.log1p(redshift))


def redshift_at_distance(distance, *, h: float, omega_m: float, z_max: float = 100.0) -> np.ndarray:
    """Redshift at which the comoving distance takes a given value.

    Args:
        distance: Comoving distance or array of distances in Mpc.
        h: Hubble constant in units of 100 km/s/Mpc.
        omega_m: Matter density today without neutrinos, in units of the critical density.
        z_max: Highest redshift looked at.

    Returns:
        Redshift, in the shape of ``distance``, within 1e-8 of the exact value. (21cmFAST itself interpolates
        linearly between 100 redshifts, which is off by up to 1.4e-3 at z = 30.)

    Raises:
        ValueError: If a distance is negative, not finite or beyond ``z_max``, or the cosmology is not physical.

    Example:
        >>> d = comoving_distance(6.0, h=0.68, omega_m=0.31)
        >>> round(float(redshift_at_distance(d, h=0.68, omega_m=0.31)), 6)
        6.0
    """
    distance = np.asarray(distance, np.float64)
    nodes, distances = _distance_table(z_max, h, omega_m)
    if distance.size and not (distance.min() >= 0 and distance.max() <= distances[-1]):
        raise ValueError(
            f"distance: expected 0 to {distances[-1]:.1f} Mpc (z = {z_max:g} for h = {h}, Omega_m = "
            f"{omega_m}), got {distance.min()} to {distance.max()}. Check unit and cosmology."
        )
    return np.expm1(CubicSpline(distances, nodes)(distance))


def lightcone_distances(z_min: float, z_max: float, cell_size: float, *, h: float, omega_m: float):
    """Comoving distances of the cells of a light-cone: from ``z_min`` in steps of one cell until ``z_max`` is reached.

    The layout of ``RectilinearLightconer.between_redshifts`` of 21cmFAST 4; only, when ``z_max`` is the redshift of a
    cell to a thousandth of a cell, that cell is the last one whatever the rounding.

    Args:
        z_min: Redshift of the nearest cell.
        z_max: Redshift that the farthest cell reaches.
        cell_size: Side of a cell in Mpc.
        h: Hubble constant in units of 100 km/s/Mpc.
        omega_m: Matter density today without neutrinos, in units of the critical density.

    Returns:
        Increasing distances in Mpc, ``(n_los,)``.

    Raises:
        ValueError: If the redshifts are not ``0 <= z_min < z_max``, or an argument is not positive.

    Example:
        >>> len(lightcone_distances(6.0, 30.0, 1.5, h=0.68, omega_m=0.31))
        2085
    """
    if not 0 <= z_min < z_max:
        raise ValueError(f"z_min, z_max: expected 0 <= z_min < z_max, got {z_min} and {z_max}.")
    if not cell_size > 0:
        raise ValueError(f"cell_size: expected a positive size in Mpc, got {cell_size}.")
    near, far = comoving_distance([z_min, z_max], h=h, omega_m=omega_m)
    return near + cell_size * np.arange(int(np.ceil((far - near) / cell_size - 1e-3)) + 1)


def _distance_table(z_max: float, h: float, omega_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in ln(1+z) and the comoving distance there, in Mpc."""
    if not h > 0:
        raise ValueError(f"h: expected a positive number (0.68 for 68 km/s/Mpc), got {h}.")
    if not 0 < omega_m <= 1:
        raise ValueError(f"omega_m: expected a number above 0 and at most 1, got {omega_m}.")
    nodes = np.linspace(0.0, np.log1p(z_max), NODES)
    scale = np.exp(nodes)
    hubble = 100.0 * h  # km/s/Mpc
    hubble_per_second = hubble * 1e3 / MEGAPARSEC
    critical = 3.0 * hubble_per_second**2 / (8.0 * np.pi * constants.G)  # kg/m^3
    photons = 4.0 * constants.Stefan_Boltzmann * CMB_TEMPERATURE**4 / constants.c**3 / critical
    relativistic = photons * (1.0 + _neutrino_to_photon(scale))
    vacuum = 1.0 - omega_m - relativistic[0]
    expansion = np.sqrt(relativistic * scale**4 + omega_m * scale**3 + vacuum)
    return nodes, SPEED_OF_LIGHT / hubble * cumulative_simpson(scale / expansion, x=nodes, initial=0.0)


def _neutrino_to_photon(scale: np.ndarray) -> np.ndarray:
    """Energy density of all neutrinos over that of photons at 1+z = ``scale`` (Komatsu et al. 2011, eq. 26)."""
    temperature = CMB_TEMPERATURE * (4.0 / 11.0) ** (1.0 / 3.0) * scale  # K
    boltzmann = constants.k / constants.e  # eV/K
    species = 0.0
    for mass in NEUTRINO_MASSES:
        species = species + (1.0 + (0.3173 * mass / (boltzmann * temperature)) ** 1.83) ** (1.0 / 1.83)
    per_species = EFFECTIVE_NEUTRINOS / len(NEUTRINO_MASSES)
    return 7.0 / 8.0 * (4.0 / 11.0) ** (4.0 / 3.0) * per_species * species
