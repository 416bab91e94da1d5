"""Thermal and ionisation history of the intergalactic medium, and the 21-cm signal it gives.

The model is that of 21cmFAST (Mesinger, Furlanetto & Cen 2011, MNRAS 411, 955, MFC11 below; Murray et al. 2020,
JOSS 5, 2582): sources follow the collapsed fraction of spheres around each point, at the time the light now arriving
left them, with a constant efficiency (`mean_history`) or one that depends on halo mass (`radiative_history` of a
`keras_cosmo.simulations.galaxies.GalaxyModel`). Where the mean over the sky is needed it is computed here in one
dimension; where each cell is, the responses in `MeanHistory` say how it follows its smoothed density.

Redshifts run in increasing order in every table. Rates are per baryon (a nucleus of hydrogen or helium).
"""

import dataclasses

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.special import erfc, erfcinv

from keras_cosmo.simulations.cosmology import MEGAPARSEC_IN_CENTIMETRES, SOLAR_MASS_IN_GRAMS, Background

BOLTZMANN = 1.380649e-16  # erg/K
LIGHT_SPEED = 2.99792458e10  # cm/s
PROTON_MASS = 1.67262192e-24  # g
ELECTRON_VOLT = 1.602176634e-12  # erg
YEAR = 3.15576e7  # s
CMB_TEMPERATURE = 2.7255  # K, Fixsen (2009, ApJ 707, 916)
TEMPERATURE_21CM = 0.0682  # K, energy of the hyperfine transition
EINSTEIN_A_21CM = 2.85e-15  # 1/s, Furlanetto, Oh & Briggs (2006, Phys. Rep. 433, 181), section 2
LYMAN_ALPHA_FREQUENCY = 2.46606727e15  # Hz
CRITICAL_CONTRAST = 1.686

# fmt: off
RECYCLED_FRACTIONS = np.array([
    1.0, 0.0, 0.2609, 0.3078, 0.3259, 0.3353, 0.3410, 0.3448, 0.3476, 0.3496, 0.3512, 0.3524, 0.3535, 0.3543, 0.3550,
    0.3556, 0.3561, 0.3565, 0.3569, 0.3572, 0.3575, 0.3578,
])
"""Fraction of Lyman-n photons, n = 2 to 23, that end as Lyman-alpha: Pritchard & Furlanetto (2006, MNRAS 367, 1057),
table 1."""

LYMAN_BAND_SHARES = np.array([
    1.49494, 0.393277, 0.160398, 0.0729365, 0.0349985, 0.0174907, 0.0102821, 0.00730747, 0.00544619, 0.00417057,
    0.00326463, 0.00260298, 0.00210843, 0.00173139, 0.00143814, 0.00118812, 9.86257e-4, 8.28343e-4, 7.029e-4,
    6.019e-4, 5.19604e-4, 4.51832e-4,
])
LYMAN_BAND_SLOPES = np.array([
    0.142018, -2.17044, 2.14591, -17.4677, -34.0605, -42.9493, -13.5722, 3.95519, 5.1087, 5.73644, 6.11457, 6.3601,
    6.52889, 6.65021, 3.86785e-3, -54.8366, -54.8176, -54.8015, -54.7877, -54.7758, -54.7655, -54.7564,
])
# fmt: on
"""Photons emitted between Lyman-n and Lyman-(n + 1), n = 2 to 23, per ionising photon, for Population II stars:
the spectrum of Barkana & Loeb (2005, ApJ 626, 1), section 2 (9690 photons, 6520 of them below Lyman-beta, per
stellar baryon that emits 4361 ionising photons). Within a band, photons per frequency go as frequency to the power
LYMAN_BAND_SLOPES (21cmFAST ``stellar_spectra.dat``)."""

SECONDARY_ENERGIES = np.array([60.0, 100.0, 200.0, 300.0, 500.0, 1000.0, 3000.0, 9000.0])  # eV
SECONDARY_IONISED = np.array([1e-4, 2.5119e-4, 1e-3, 5.0119e-3, 1e-2, 5.0119e-2, 0.1, 0.5, 0.9])
SECONDARY_HEAT = np.array(
    [
        [0.172, 0.152, 0.136, 0.131, 0.126, 0.123, 0.118, 0.117],
        [0.208, 0.181, 0.161, 0.153, 0.148, 0.143, 0.138, 0.135],
        [0.289, 0.246, 0.214, 0.203, 0.192, 0.185, 0.177, 0.173],
        [0.459, 0.387, 0.330, 0.306, 0.288, 0.271, 0.257, 0.249],
        [0.582, 0.496, 0.422, 0.390, 0.365, 0.342, 0.322, 0.308],
        [0.830, 0.758, 0.679, 0.642, 0.605, 0.568, 0.533, 0.508],
        [0.914, 0.865, 0.806, 0.775, 0.745, 0.708, 0.673, 0.646],
        [0.989, 0.981, 0.969, 0.962, 0.955, 0.945, 0.933, 0.923],
        [0.999, 0.998, 0.996, 0.995, 0.993, 0.992, 0.990, 0.987],
    ]
)
SECONDARY_IONISATION = np.array(
    [
        [0.315, 0.353, 0.376, 0.385, 0.391, 0.393, 0.391, 0.388],
        [0.310, 0.344, 0.373, 0.381, 0.387, 0.390, 0.388, 0.385],
        [0.285, 0.329, 0.359, 0.369, 0.375, 0.380, 0.379, 0.376],
        [0.228, 0.276, 0.316, 0.330, 0.342, 0.348, 0.351, 0.350],
        [0.182, 0.230, 0.275, 0.295, 0.308, 0.319, 0.324, 0.325],
        [0.074, 0.114, 0.156, 0.175, 0.194, 0.212, 0.225, 0.234],
        [0.037, 0.064, 0.096, 0.112, 0.127, 0.144, 0.159, 0.169],
        [0.005, 0.009, 0.016, 0.019, 0.023, 0.028, 0.033, 0.038],
        [0.001, 0.001, 0.002, 0.002, 0.003, 0.004, 0.005, 0.008],
    ]
)
SECONDARY_LYMAN_ALPHA = np.array([0.374, 0.360, 0.332, 0.284, 0.250, 0.145, 0.090, 0.015, 0.002])
"""Shares of a photo-electron's energy (columns: SECONDARY_ENERGIES) that heat, ionise, or (at 400 eV) end as
Lyman-alpha photons, by ionised fraction (rows: SECONDARY_IONISED): Furlanetto & Stoever (2010, MNRAS 404, 1869)."""


@dataclasses.dataclass(frozen=True, eq=False)
class SecondaryElectrons:
    """Where the energy of photo-electrons goes: rows are ionised fractions, columns SECONDARY_ENERGIES."""

    ionised: np.ndarray
    heat: np.ndarray
    ionisation: np.ndarray
    lyman_alpha: np.ndarray


SHORT_SECONDARIES = SecondaryElectrons(SECONDARY_IONISED, SECONDARY_HEAT, SECONDARY_IONISATION, SECONDARY_LYMAN_ALPHA)
"""The rows above. Between them, heat is up to 7 % too high when read off logarithmically."""

_INSERTED = (2, 3, 5)
FULL_SECONDARIES = SecondaryElectrons(
    np.insert(SECONDARY_IONISED, _INSERTED, (5.0119e-4, 2.5119e-3, 2.5119e-2)),
    np.insert(
        SECONDARY_HEAT,
        _INSERTED,
        [
            [0.241, 0.209, 0.183, 0.174, 0.166, 0.160, 0.154, 0.151],
            [0.359, 0.304, 0.260, 0.245, 0.231, 0.220, 0.210, 0.204],
            [0.710, 0.623, 0.538, 0.502, 0.471, 0.439, 0.409, 0.392],
        ],
        axis=0,
    ),
    np.insert(
        SECONDARY_IONISATION,
        _INSERTED,
        [
            [0.304, 0.339, 0.367, 0.377, 0.383, 0.387, 0.385, 0.382],
            [0.270, 0.308, 0.344, 0.355, 0.362, 0.368, 0.368, 0.366],
            [0.129, 0.176, 0.225, 0.242, 0.258, 0.274, 0.283, 0.288],
        ],
        axis=0,
    ),
    np.insert(SECONDARY_LYMAN_ALPHA, _INSERTED, (0.350, 0.318, 0.208)),
)
"""With the rows of the same table for 10^-3.3, 10^-2.6 and 10^-1.6."""

COLLISION_TEMPERATURES = np.array([1, 2, 4, 6, 8, 10, 15, 20, 25, 30, 40, 50, 70, 100, 200, 300, 500, 1e3, 3e3, 1e4])
COLLISION_RATES = 1e-13 * np.array(
    [1.38, 1.43, 2.71, 6.60, 14.7, 28.8, 91.0, 178, 273, 367, 538, 686, 925, 1190, 1750, 2090, 2565, 3310, 4970, 7870]
)
"""Spin-exchange rate coefficient of hydrogen atoms, cm^3/s: Zygelman (2005, ApJ 622, 1356), table 2, above 300 K
with the extension in Furlanetto, Oh & Briggs (2006), table 2."""


@dataclasses.dataclass(frozen=True)
class SourceModel:
    """Efficiencies of stars and X-ray sources that are not varied.

    Args:
        star_fraction: Baryons of a halo that turn into stars (Mesinger, Ferrara & Spiegel 2013, MNRAS 431, 621,
            section 2; 21cmFAST ``F_STAR10``).
        ionising_photons: Ionising photons per stellar baryon; sets the Lyman bands through `LYMAN_BAND_SHARES`
            (21cmFAST ``POP2_ION``).
        luminosity_band_max: The X-ray luminosity is that between E_0 and this energy in keV (Greig & Mesinger
            2017, MNRAS 472, 2651, equation 4).
        spectrum_max: The X-ray spectrum, luminosity per unit energy falling as 1/E, ends at this energy in keV
            (21cmFAST ``NU_X_MAX``).
        helium_fraction: Primordial helium by mass (21cmFAST ``Y_He``).
        clumping_factor: Of the recombining gas outside bubbles (21cmFAST ``CLUMPING_FACTOR``).
        lyman_heating: Whether Lyman photons heat the gas (21cmFAST ``USE_LYA_HEATING``).
        detailed: Whether to follow 21cmFAST in details that `LightconeSimulator` leaves out: `FULL_SECONDARIES` instead
            of `SHORT_SECONDARIES`, `LYMAN_BAND_SLOPES` instead of flat bands, and shells of sources in explicit steps
            of redshift, of which the one at the horizon of Lyman-alpha photons counts in part.

    Raises:
        ValueError: If a number is outside its physical range.
    """

    star_fraction: float = 0.05
    ionising_photons: float = 5000.0
    luminosity_band_max: float = 2.0
    spectrum_max: float = 10.0
    helium_fraction: float = 0.24
    clumping_factor: float = 2.0
    lyman_heating: bool = True
    detailed: bool = False

    def __post_init__(self):
        if not 0.0 < self.star_fraction <= 1.0:
            raise ValueError(f"SourceModel: expected star_fraction in (0, 1], got {self.star_fraction}.")
        if not 0.0 <= self.helium_fraction < 1.0:
            raise ValueError(f"SourceModel: expected helium_fraction in [0, 1), got {self.helium_fraction}.")
        if not 0.0 < self.luminosity_band_max <= self.spectrum_max:
            raise ValueError(
                "SourceModel: expected 0 < luminosity_band_max <= spectrum_max in keV, got "
                f"{self.luminosity_band_max} and {self.spectrum_max}."
            )

    @property
    def secondaries(self) -> SecondaryElectrons:
        """Where the energy of photo-electrons goes."""
        return FULL_SECONDARIES if self.detailed else SHORT_SECONDARIES

    @property
    def hydrogen_share(self) -> float:
        """Hydrogen nuclei per baryon."""
        return (1.0 - self.helium_fraction) / (1.0 - 0.75 * self.helium_fraction)

    def baryon_number_density(self, background: Background) -> float:
        """Comoving nuclei of hydrogen and helium per cm^3."""
        return background.baryon_density / PROTON_MASS * (1.0 - 0.75 * self.helium_fraction)


def virial_mass(background: Background, temperature: float, redshift) -> np.ndarray:
    """Halo mass in solar masses of a virial temperature in K: Barkana & Loeb (2001, Phys. Rep. 349, 125), equation 26.

    The mean molecular weight is 0.6 (ionised gas) from 10^4 K on and 1.22 (neutral) below.
    """
    redshift = np.asarray(redshift, float)
    omega_m = background.cosmology.omega_m
    omega_z = omega_m * (1.0 + redshift) ** 3
    omega_z = omega_z / (omega_z + 1.0 - omega_m)
    overdensity = 18.0 * np.pi**2 + 82.0 * (omega_z - 1.0) - 39.0 * (omega_z - 1.0) ** 2
    molecular_weight = 0.6 if temperature > 9.99999e3 else 1.22
    virial_term = (omega_m / omega_z * overdensity / (18.0 * np.pi**2)) ** (-1.0 / 3.0)
    base = temperature / 1.98e4 * (0.6 / molecular_weight) * 10.0 / (1.0 + redshift) * virial_term
    return 1e8 / background.cosmology.h * base**1.5


def photoionisation_cross_sections(energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cross sections in cm^2 of neutral hydrogen and neutral helium for photons of ``energy`` in eV.

    Hydrogen: Osterbrock & Ferland (2006), equation 2.4. Helium: Verner et al. (1996, ApJ 465, 487), table 1.
    """
    ratio = np.maximum(energy / 13.6, 1.0 + 1e-9)
    epsilon = np.sqrt(ratio - 1.0)
    hydrogen = 6.3e-18 * ratio**-4 * np.exp(4.0 - 4.0 * np.arctan(epsilon) / epsilon)
    hydrogen /= 1.0 - np.exp(-2.0 * np.pi / epsilon)
    x = energy / 13.61 - 0.4434
    y = np.hypot(x, 2.136)
    helium = 9.492e-16 * ((x - 1.0) ** 2 + 2.039**2) * y ** (0.5 * 3.188 - 5.5)
    helium *= (1.0 + np.sqrt(y / 1.469)) ** -3.188
    return hydrogen * (energy > 13.6), helium * (energy > 24.59)


def first_light_state(redshift: float, background: Background) -> tuple[float, float]:
    """Kinetic temperature in K and ionised fraction of the gas before the first sources, near redshift 35.

    RECFAST (Seager, Sasselov & Scott 1999, ApJ 523, L1) gives 25.64 K and 2.05e-4 at redshift 35 for Omega_b h^2 =
    0.022; away from there the gas cools as it expands, and decouples earlier or later with Omega_b h^2 to the power
    0.4 (Furlanetto, Oh & Briggs 2006, equation 70).
    """
    baryons = background.cosmology.omega_b * background.cosmology.h**2 / 0.022
    return 25.64 * ((1.0 + redshift) / 36.0) ** 2 * baryons**-0.4, 2.05e-4


def first_light_response(redshift: float) -> float:
    """Contrast of the gas temperature per contrast of density before the first sources.

    Less than the adiabatic 2/3, because the gas was tied to the CMB: Munoz (2023, MNRAS 523, 2587), section 2, as
    21cmFAST fits it.
    """
    return 0.58 - 0.006 * (redshift - 10.0)


class CollapseModel:
    """Collapsed fraction, and its growth, of spheres of given radii as functions of their smoothed density.

    The conditional collapsed fraction of extended Press-Schechter theory (Lacey & Cole 1993, MNRAS 262, 627,
    equation 2.15), scaled so that its mean over space is the Sheth-Tormen collapsed fraction (Barkana & Loeb 2004,
    ApJ 609, 474; MFC11, equation 14). As there, the evolved contrast takes the place of the linear one; it is
    log-normal (Coles & Jones 1991, MNRAS 248, 1) in the linear field.

    Args:
        background: Cosmology tables.
        redshift: ``(n_z,)`` increasing.
        threshold_mass: ``(n_z,)`` smallest halo mass with sources, in solar masses.
        radii: ``(n_radii,)`` sphere radii in Mpc.
        deviations: ``(n_radii,)`` root mean square of the drawn linear field of each radius, at redshift zero.
        half_width: Reach of the contrast table in deviations.

    Attributes:
        redshift: As given.
        radii: As given.
        contrast: ``(n_delta,)`` grid of the linear contrast in units of its deviation.
        mean: ``(n_z,)`` collapsed fraction.
        fraction: ``(n_radii, n_z, n_delta)`` collapsed fraction of spheres.
        growth: ``(n_radii, n_z, n_delta)`` rate of collapse -df/dz times the density, floored at zero; the derivative
            holds the evolved contrast and the threshold mass fixed, as 21cmFAST does.
        mean_growth: ``(n_radii, n_z)`` its mean over space.
    """

    def __init__(self, background, redshift, threshold_mass, radii, deviations, half_width=5.0):
        radii, deviations = np.asarray(radii, float), np.asarray(deviations, float)
        self.redshift, self.radii = redshift, radii
        self.mean = background.collapsed_fraction(threshold_mass, redshift)
        self.growth_factor = background.growth(redshift)
        self.deviations = deviations
        sphere_mass = 4.0 / 3.0 * np.pi * radii**3 * background.mean_matter_density
        smallest = background.sigma(threshold_mass)[None] ** 2
        remaining = np.maximum(smallest - background.sigma(sphere_mass)[:, None] ** 2, 0.05 * smallest)
        # Barrier height in the argument of erfc per unit contrast.
        self.slope = 1.0 / (np.sqrt(2.0 * remaining) * self.growth_factor)
        self.contrast = np.linspace(-half_width, half_width, 41)
        probability = np.exp(-(self.contrast**2) / 2.0)
        probability /= probability.sum()
        amplitude = deviations[:, None, None] * self.growth_factor[None, :, None]
        density = np.exp(amplitude * self.contrast - amplitude**2 / 2.0)
        argument = (CRITICAL_CONTRAST + 1.0 - density) * self.slope[:, :, None]
        fraction = erfc(argument)
        self.scaling = self.mean / np.maximum(fraction @ probability, 1e-300)
        self.fraction = fraction * self.scaling[:, :, None]
        log_slope = np.gradient(np.log(self.growth_factor), redshift)
        rate = 2.0 / np.sqrt(np.pi) * np.maximum(argument, 0.0) * np.exp(-(argument**2)) * -log_slope[None, :, None]
        self.growth = density * rate * self.scaling[:, :, None]
        self.mean_growth = self.growth @ probability

    def linear_threshold(self, level: np.ndarray) -> np.ndarray:
        """Linear contrast today above which a sphere's collapsed fraction exceeds ``level``.

        Args:
            level: ``(n_z,)``.

        Returns:
            ``(n_radii, n_z)`` contrasts; minus infinity where every sphere exceeds the level.
        """
        erfc_value = level / self.scaling
        argument = erfcinv(np.minimum(erfc_value, 2.0))
        density = 1.0 + CRITICAL_CONTRAST - argument / self.slope
        variance = (self.deviations[:, None] * self.growth_factor) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            linear = (np.log(np.maximum(density, 0.0)) + variance / 2.0) / self.growth_factor
        return np.where(density > 0.0, linear, -np.inf)


@dataclasses.dataclass(frozen=True)
class MeanHistory:
    """History of the mean intergalactic medium, and how each cell departs from it.

    Attributes:
        redshift: ``(n_z,)`` increasing.
        threshold_mass: ``(n_z,)`` smallest halo mass with sources, solar masses.
        collapsed_fraction: ``(n_z,)``.
        neutral_filling: ``(n_z,)`` share of the volume outside ionised bubbles, 1 - zeta f_coll.
        electron_fraction: ``(n_z,)`` ionised fraction of the gas outside bubbles.
        unheated_temperature: ``(n_z,)`` kinetic temperature in K without any source.
        x_ray_temperature: ``(n_z,)`` what X-rays add, K.
        lyman_temperature: ``(n_z,)`` what Lyman photons add, K.
        lyman_flux: ``(n_z,)`` Lyman-alpha photons per cm^2, s, Hz and steradian.
        heating_age: ``(n_z,)`` mean ratio of the growth factor when the X-ray heat was deposited to that now.
        heating_feedback: ``(n_z,)`` X-rays heat ionised gas more: where they bring c times the mean heat, it is c to
            the power 1 + heating_feedback times as hot.
        x_ray_response: ``(n_radii, n_z, n_delta)`` temperature in K that sources seen at each radius add in cells
            of given linear contrast at that radius. Its mean over cells and sum over radii is ``x_ray_temperature``.
        lyman_response: ``(n_radii, n_z, n_delta)`` the same for ``lyman_flux``.
        collapse: The `CollapseModel` or `GalaxyModel` of the radii.
    """

    redshift: np.ndarray
    threshold_mass: np.ndarray
    collapsed_fraction: np.ndarray
    neutral_filling: np.ndarray
    electron_fraction: np.ndarray
    unheated_temperature: np.ndarray
    x_ray_temperature: np.ndarray
    lyman_temperature: np.ndarray
    lyman_flux: np.ndarray
    heating_age: np.ndarray
    heating_feedback: np.ndarray
    x_ray_response: np.ndarray
    lyman_response: np.ndarray
    collapse: CollapseModel

    @property
    def kinetic_temperature(self) -> np.ndarray:
        """``(n_z,)`` mean kinetic temperature outside bubbles, K."""
        return self.unheated_temperature + self.x_ray_temperature + self.lyman_temperature


def mean_history(
    background: Background,
    sources: SourceModel,
    *,
    ionising_efficiency: float,
    x_ray_luminosity: float,
    virial_temperature: float,
    x_ray_threshold: float,
    radii,
    deviations,
    redshift_max: float = 35.0,
    redshift_min: float = 5.8,
    redshift_factor: float = 1.04,
) -> MeanHistory:
    """History of the intergalactic medium for one set of astrophysical parameters.

    Args:
        background: Cosmology tables.
        sources: Fixed efficiencies.
        ionising_efficiency: zeta.
        x_ray_luminosity: Luminosity between E_0 and 2 keV per star formation rate, erg/s per solar mass a year.
        virial_temperature: Threshold for star formation in K.
        x_ray_threshold: E_0 in keV: X-rays below are absorbed in their galaxy.
        radii: ``(n_radii,)`` increasing radii in Mpc at which cells know their smoothed density; sources further
            away than the last are taken at their mean.
        deviations: ``(n_radii,)`` root mean square of these smoothed linear fields at redshift zero.
        redshift_max: Sources shine from here on (21cmFAST ``Z_HEAT_MAX``).
        redshift_min: End of the history.
        redshift_factor: Ratio of 1 + z between time steps. They are explicit as in 21cmFAST, where each step cools the
            gas a little too much: with steps of 1.04 it is 14 % colder at redshift 10 than the exact solution, with
            1.02 7 %. Steps of 1.003 are as good as exact.
    """
    count = int(np.ceil(np.log((1.0 + redshift_max) / (1.0 + redshift_min)) / np.log(redshift_factor))) + 1
    z = np.geomspace(1.0 + redshift_min, 1.0 + redshift_max, count) - 1.0
    z[-1] = redshift_max
    radii = np.asarray(radii, float)
    mass = virial_mass(background, virial_temperature, z)
    collapse = CollapseModel(background, z, mass, radii, deviations)
    return radiative_history(
        background,
        sources,
        collapse,
        neutral_filling=np.clip(1.0 - ionising_efficiency * collapse.mean, 1e-4, 1.0),
        threshold_mass=mass,
        x_ray_luminosity=x_ray_luminosity,
        x_ray_threshold=x_ray_threshold,
    )


def radiative_history(
    background: Background,
    sources: SourceModel,
    collapse,
    *,
    neutral_filling: np.ndarray,
    threshold_mass: np.ndarray,
    x_ray_luminosity: float,
    x_ray_threshold: float,
    shells: np.ndarray | None = None,
) -> MeanHistory:
    """History of the intergalactic medium for a given history of star formation.

    Args:
        background: Cosmology tables.
        sources: Fixed efficiencies.
        collapse: A `CollapseModel`, or a `keras_cosmo.simulations.galaxies.GalaxyModel`: star formation around
            each point. Its largest redshift is that of the first sources.
        neutral_filling: ``(n_z,)`` share of the volume outside ionised bubbles, which absorbs X-rays.
        threshold_mass: ``(n_z,)`` smallest halo mass with sources, solar masses; kept in the result.
        x_ray_luminosity: Luminosity between E_0 and 2 keV per star formation rate, erg/s per solar mass a year.
        x_ray_threshold: E_0 in keV: X-rays below are absorbed in their galaxy.
        shells: Outer radii in Mpc of the shells of sources, increasing; the default is 33 up to 500 Mpc.
    """
    z, radii = collapse.redshift, collapse.radii
    # Shells around the receiving cell: (receiver redshift, shell).
    edges = np.concatenate([[0.0], np.geomspace(radii[0], 500.0, 33) if shells is None else shells])
    if sources.detailed:
        edge_redshift = _stepped_redshifts(background, z, edges)
    else:
        distance = background.comoving_distance(z)
        edge_redshift = background.redshift_at(distance[:, None] + edges)
    emitted_at = 0.5 * (edge_redshift[:, 1:] + edge_redshift[:, :-1])
    width = np.diff(edge_redshift, axis=1)
    shares = _radius_shares(edges[1:], radii)
    visible = emitted_at <= z[-1]
    if sources.detailed:
        formation = np.exp([np.interp(emitted_at, z, np.log(rate + 1e-300)) for rate in collapse.mean_growth])
    else:
        formation = np.stack([np.interp(emitted_at, z, rate) for rate in collapse.mean_growth])
    formed = sources.star_fraction * formation * width * visible * shares[:, None, :]  # stars per baryon
    ratio = (1.0 + emitted_at) / (1.0 + z)[:, None]

    continuum, injected = _lyman_fluxes(sources, background, z, ratio, formed)
    heating, ionising = _x_ray_rates(
        sources, background, z, emitted_at, neutral_filling, formed, x_ray_luminosity, x_ray_threshold * 1e3
    )
    return _evolve(
        background, sources, z, threshold_mass, collapse, neutral_filling, radii, continuum, injected, heating, ionising
    )


def _stepped_redshifts(background, z, edges):
    """Redshifts ``(n_z, n_edges)`` at distances ``edges`` in Mpc from ``z``."""
    redshifts = [z]
    for width in np.diff(edges):
        rate = background.hubble(redshifts[-1]) * MEGAPARSEC_IN_CENTIMETRES / LIGHT_SPEED
        redshifts.append(redshifts[-1] + width * rate)
    return np.stack(redshifts, axis=1)


def _radius_shares(shell_radii, radii):
    """Weights ``(n_radii, n_shells)`` that read each shell off its two neighbouring tabulated radii."""
    log_shell, log_radii = np.log(shell_radii), np.log(radii)
    return np.stack([np.interp(log_shell, log_radii, unit) for unit in np.eye(len(radii))])


def _lyman_fluxes(sources, background, z, ratio, formed):
    """Lyman-alpha flux ``(n_radii, n_z)`` from photons redshifted into the line and from Lyman-n cascades.

    Pritchard & Furlanetto (2006), equation 16 with MFC11, equation 25.
    """
    levels = np.arange(2, 24)
    resonance = 4.0 / 3.0 * (1.0 - 1.0 / levels**2)  # in units of the Lyman-alpha frequency
    upper = 4.0 / 3.0 * (1.0 - 1.0 / (levels + 1) ** 2)
    per_frequency = sources.ionising_photons * LYMAN_BAND_SHARES / (upper - resonance) / LYMAN_ALPHA_FREQUENCY
    reaches = ratio[None] < (upper / resonance)[:, None, None]
    emissivity = RECYCLED_FRACTIONS[:, None, None] * per_frequency[:, None, None] * reaches
    if sources.detailed:
        # Photons per frequency where they were emitted, over their mean in the band.
        power = (LYMAN_BAND_SLOPES + 1.0)[:, None, None]
        width = (upper / resonance)[:, None, None]
        emissivity *= ratio ** (power - 1.0) * (width - 1.0) * power / (width**power - 1.0)
        emissivity[0] += _horizon_share(ratio, upper[0]) * np.roll(emissivity[0], 1, axis=-1)
    density = sources.baryon_number_density(background)
    scale = LIGHT_SPEED / (4.0 * np.pi) * density * (1.0 + z[:, None]) ** 3 * ratio
    continuum = (formed * (scale * emissivity[0])).sum(axis=-1)
    injected = (formed * (scale * emissivity[1:].sum(axis=0))).sum(axis=-1)
    return continuum, injected


def _horizon_share(ratio, limit):
    """For the first shell whose middle is beyond ``limit`` in ``ratio``, the part of the way there that is not."""
    before = np.roll(ratio, 1, axis=-1)
    before[:, 0] = 1.0
    share = (limit - before) / (ratio - before)
    return np.where((ratio >= limit) & (before < limit), share, 0.0)


def _x_ray_rates(sources, background, z, emitted_at, filling, formed, luminosity, threshold):
    """Heat in erg/s and ionisations per s, per baryon: two arrays ``(n_ionised, n_radii, n_z)``.

    MFC11, equations 18 to 22, with the optical depth as a step: photons arrive where it is below one.
    """
    # The absorption of the mixture is close to a power law of energy, so the energy of unit optical depth follows
    # from one cumulative integral, and one correction by the exact cross section.
    index, pivot = 3.1, 300.0
    reference = _mixture_cross_section(sources, np.array([pivot]))[0]
    density = sources.baryon_number_density(background)
    time = LIGHT_SPEED / (background.hubble(z) * (1.0 + z))
    column = density * (1.0 + z) ** (3.0 - index) * filling * reference * time
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (column[1:] + column[:-1]) * np.diff(z))])
    depth = np.interp(emitted_at, z, cumulative) - cumulative[:, None]
    depth = np.maximum(depth * (1.0 + z[:, None]) ** index, 1e-30)
    opaque = pivot * depth ** (1.0 / index)
    exact = _mixture_cross_section(sources, opaque)
    opaque *= np.maximum(exact / (reference * (opaque / pivot) ** -index), 1e-3) ** (1.0 / index)
    lowest = np.maximum(opaque, threshold)

    energy = np.geomspace(min(threshold, 100.0), 1e3 * sources.spectrum_max, 48)
    heat, ions = _energy_integrals(sources, energy)
    rates = []
    emitted = formed * (1.0 + z[:, None]) ** 4 / (1.0 + emitted_at) * background.baryon_density
    energy_per_gram = luminosity * YEAR / SOLAR_MASS_IN_GRAMS
    emitted = emitted * LIGHT_SPEED * energy_per_gram / np.log(1e3 * sources.luminosity_band_max / threshold)
    for table in (heat, ions):
        received = np.stack([np.interp(np.log(lowest), np.log(energy), row) for row in table])
        rates.append(np.einsum("rzs,xzs->xrz", emitted, received))
    return rates


def _mixture_cross_section(sources, energy):
    hydrogen, helium = photoionisation_cross_sections(energy)
    return sources.hydrogen_share * hydrogen + (1.0 - sources.hydrogen_share) * helium


def _energy_integrals(sources, energy):
    """Heat (cm^2) and ionisations (cm^2/erg) per unit 1/E^2 spectrum above each energy: ``(n_ionised, n_energy)``."""
    secondaries = sources.secondaries
    heat = np.zeros((len(secondaries.ionised), len(energy)))
    ions = np.zeros_like(heat)
    cross_sections = photoionisation_cross_sections(energy)
    shares = (sources.hydrogen_share, 1.0 - sources.hydrogen_share)
    for cross_section, share, binding in zip(cross_sections, shares, (13.6, 24.59), strict=True):
        electron = energy - binding
        for row, ionised in enumerate(secondaries.ionised):
            log_electron = np.log(np.maximum(electron, 1.0))
            f_heat = np.interp(log_electron, np.log(SECONDARY_ENERGIES), secondaries.heat[row])
            f_ions = np.interp(log_electron, np.log(SECONDARY_ENERGIES), secondaries.ionisation[row])
            weight = share * (1.0 - ionised) * cross_section / energy  # times d ln E
            heat[row] += weight * electron * f_heat
            ions[row] += weight * (1.0 + f_ions * electron / 13.6) / ELECTRON_VOLT
    step = np.diff(np.log(energy))
    for table in (heat, ions):
        pieces = 0.5 * (table[:, 1:] + table[:, :-1]) * step
        table[:, :-1] = np.cumsum(pieces[:, ::-1], axis=1)[:, ::-1]
        table[:, -1] = 0.0
    return heat, ions


def _evolve(background, sources, z, mass, collapse, filling, radii, continuum, injected, heating, ionising):
    """Integrate temperature and ionised fraction from the first sources on."""
    count = len(z)
    cosmology = background.cosmology
    density = sources.baryon_number_density(background) * (1.0 + z) ** 3
    hubble = background.hubble(z)
    time = 1.0 / (hubble * (1.0 + z))  # seconds per unit redshift
    cmb = CMB_TEMPERATURE * (1.0 + z)
    # Compton coupling to the CMB: Seager, Sasselov & Scott (1999, ApJ 523, L1), per unit redshift and ionised share.
    present_rate = cosmology.h * 1e7 / MEGAPARSEC_IN_CENTIMETRES
    compton = 1.51e-4 * cmb**4 / (hubble / present_rate * cosmology.h * (1.0 + z))
    helium_share = 1.0 - sources.hydrogen_share
    hydrogen_density = sources.hydrogen_share * density
    optical_depth = 1.342881e-7 * hydrogen_density / hubble  # Lyman-alpha, Gunn & Peterson (1965)
    lyman_photons = 4.0 * np.pi * LYMAN_ALPHA_FREQUENCY / (density * (1.0 + z) * LIGHT_SPEED)  # per unit redshift
    total_continuum, total_injected = continuum.sum(axis=0), injected.sum(axis=0)
    total_ions = ionising.sum(axis=1)

    # Explicit steps, as 21cmFAST takes them: rates of the new redshift act on the state of the one before.
    secondaries = sources.secondaries
    log_ionised = np.log(secondaries.ionised)
    cold, hot, lyman, ionised, age, dark, feedback = (np.zeros(count) for _ in range(7))
    x_ray_lyman = np.zeros(count)
    heat_rate = np.zeros((len(radii), count))
    kept = np.ones(count)
    steps = np.append(np.diff(z), 0.0)
    cold[-1], ionised[-1] = first_light_state(z[-1], background)
    dark[-1] = ionised[-1]
    for i in range(count - 1, -1, -1):
        above, step = min(i + 1, count - 1), steps[i]
        x, temperature = ionised[above], cold[above] + hot[above] + lyman[above]
        position = np.interp(np.log(max(x, 1e-4)), log_ionised, np.arange(len(log_ionised)))
        low = min(int(position), len(log_ionised) - 2)
        part = position - low
        ions = (1.0 - part) * total_ions[low, i] + part * total_ions[low + 1, i]
        shares = (1.0 - part) * heating[low, :, i] + part * heating[low + 1, :, i]
        alpha_share = (1.0 - part) * secondaries.lyman_alpha[low] + part * secondaries.lyman_alpha[low + 1]
        # Lyman-alpha photons from X-rays reach the line where they are made.
        f_heat = np.interp(np.log(max(x, 1e-4)), log_ionised, secondaries.heat[:, 3])
        made = shares.sum() * alpha_share / f_heat / (10.2 * ELECTRON_VOLT)
        x_ray_lyman[i] = made * density[i] * LIGHT_SPEED / (4.0 * np.pi * LYMAN_ALPHA_FREQUENCY * hubble[i])

        per_particle = 2.0 / 3.0 / (1.0 + x)
        heat_rate[:, i] = per_particle / BOLTZMANN * time[i] * shares
        new = step * heat_rate[:, i].sum()
        recoil, cascade = lyman_heating(temperature, optical_depth[i])
        lyman_rate = per_particle * lyman_photons[i] * (total_continuum[i] * recoil + total_injected[i] * cascade)
        lyman_rate = lyman_rate if sources.lyman_heating else 0.0
        coupling = step * compton[i] * x / (1.0 + x + helium_share)
        kept[i] = 1.0 - 2.0 * step / (1.0 + z[i]) - coupling
        cold[i] = kept[i] * cold[above] + coupling * cmb[i]
        growth = collapse.growth_factor[above] / collapse.growth_factor[i]
        age[i] = (age[above] * growth * hot[above] * kept[i] + new) / max(hot[above] * kept[i] + new, 1e-30)
        slope = np.log(max(heating[low + 1, :, i].sum(), 1e-300) / max(heating[low, :, i].sum(), 1e-300))
        slope *= (1.0 - dark[above] / x) / (log_ionised[low + 1] - log_ionised[low]) if x > dark[above] > 0.0 else 0.0
        feedback[i] = (feedback[above] * hot[above] * kept[i] + slope * new) / max(hot[above] * kept[i] + new, 1e-30)
        hot[i] = hot[above] * kept[i] + new
        lyman[i] = lyman[above] * kept[i] + step * lyman_rate
        recombined = _recombination(temperature) * sources.clumping_factor * x**2 * hydrogen_density[i]
        ionised[i] = min(max(x + step * time[i] * (ions - recombined), 0.0), 0.999)
        recombined = _recombination(cold[above]) * sources.clumping_factor * dark[above] ** 2 * hydrogen_density[i]
        dark[i] = max(dark[above] - step * time[i] * recombined, 0.0)

    # The contrast at which sources of a radius formed is that of the mean time their light took.
    x_ray_response = np.empty_like(collapse.growth)
    lyman_response = np.empty_like(collapse.growth)
    star_flux = continuum + injected
    distance = background.comoving_distance(z)
    heat_total = np.maximum(heat_rate.sum(axis=0), 1e-300)
    for j, radius in enumerate(radii):
        source_redshift = np.minimum(background.redshift_at(distance + 0.75 * radius), z[-1])
        relative = collapse.growth[j] / np.maximum(collapse.mean_growth[j], 1e-300)[:, None]
        position = np.interp(source_redshift, z, np.arange(count))
        low = np.minimum(position.astype(int), count - 2)
        part = (position - low)[:, None]
        relative = (1.0 - part) * relative[low] + part * relative[low + 1]
        lyman_response[j] = (star_flux[j] + x_ray_lyman * heat_rate[j] / heat_total)[:, None] * relative
        x_ray_response[j] = heat_rate[j][:, None] * relative
    rates = x_ray_response.copy()
    x_ray_response[:, -1] = 0.0
    for i in range(count - 2, -1, -1):
        x_ray_response[:, i] = x_ray_response[:, i + 1] * kept[i] + steps[i] * rates[:, i]
    return MeanHistory(
        redshift=z,
        threshold_mass=mass,
        collapsed_fraction=collapse.mean,
        neutral_filling=filling,
        electron_fraction=ionised,
        unheated_temperature=cold,
        x_ray_temperature=hot,
        lyman_temperature=lyman,
        lyman_flux=star_flux.sum(axis=0) + x_ray_lyman,
        heating_age=age,
        heating_feedback=feedback,
        x_ray_response=x_ray_response,
        lyman_response=lyman_response,
        collapse=collapse,
    )


def _recombination(temperature: float) -> float:
    """Case-A recombination coefficient of hydrogen in cm^3/s: Abel et al. (1997, New Astron. 2, 181), leading terms."""
    x = np.log(max(temperature, 1.0) / 1.1604505e4)
    return float(np.exp(-28.6130338 - 0.72411256 * x - 2.02604473e-2 * x**2 - 2.38086188e-3 * x**3))


def lyman_heating(temperature: float, optical_depth: float) -> tuple[float, float]:
    """Energy in K per Lyman-alpha photon given to the gas: of photons redshifted into the line, and of injected ones.

    Quadratic fits, for 2 to 400 K and Gunn-Peterson depths of 5e4 to 3e6, to the solution of Reis, Fialkov & Barkana
    (2021, MNRAS 506, 5479) in the form that 21cmFAST tabulates, with spin and kinetic temperature equal.
    """
    t = np.log(min(max(temperature, 1.5), 400.0) / 10.0)
    d = np.log(min(max(optical_depth, 5e4), 3e6) / 5e5)
    recoil = np.exp(0.2527 - 0.2311 * t + 0.5543 * d + 0.0280 * t**2 - 0.0416 * t * d)
    cascade = -0.9712 - 1.1234 * t - 0.1408 * d - 0.1482 * t**2 - 0.4548 * t * d
    return float(recoil), float(cascade)


_COLLISION_RANGE = np.log([1.5, 1000.0])  # hotter gas is coupled by light alone


def _collision_fit():
    """Coefficients of a polynomial of the logarithmic rate in the logarithm of the temperature, good to 3 %."""
    smooth = PchipInterpolator(np.log(COLLISION_TEMPERATURES), np.log(COLLISION_RATES))
    log_temperature = np.linspace(*_COLLISION_RANGE, 200)
    return np.polynomial.polynomial.polyfit(log_temperature, smooth(log_temperature), 7)


_COLLISION_FIT = _collision_fit()


def brightness_temperature(
    background,
    sources,
    *,
    redshift,
    density,
    log_density,
    neutral,
    temperature,
    lyman_flux,
    velocity_gradient,
    electron_fraction,
):
    """Differential brightness temperature of the 21-cm line against the CMB, in mK.

    MFC11, equations 1 and 2; coupling by Lyman-alpha photons as fitted by Hirata (2006, MNRAS 367, 259), equations
    40 to 42; by collisions with `COLLISION_RATES`.

    Args:
        background: Cosmology tables.
        sources: Fixed efficiencies (helium fraction).
        redshift: ``(n_los,)``.
        density: ``(..., n_los)`` matter density in units of the mean; ``log_density`` its natural logarithm.
        log_density: See ``density``.
        neutral: Neutral fraction of each cell.
        temperature: Kinetic temperature in K outside ionised bubbles.
        lyman_flux: Lyman-alpha photons per cm^2, s, Hz, steradian.
        velocity_gradient: Peculiar velocity gradient along the line of sight in units of the Hubble rate.
        electron_fraction: ``(n_los,)`` mean ionised fraction outside bubbles.

    Returns:
        float32 array of the shape of ``density``.
    """
    single = np.float32
    cosmology = background.cosmology
    z = np.asarray(redshift, float)
    hydrogen = sources.hydrogen_share * sources.baryon_number_density(background) * (1.0 + z) ** 3
    cmb = (CMB_TEMPERATURE * (1.0 + z)).astype(single)
    depth_root = (1e-7 * 1.342881e-7 * hydrogen * (1.0 - electron_fraction) / background.hubble(z)) ** (1.0 / 3.0)
    log_temperature = np.log(temperature)
    inverse = 1.0 / temperature
    xi = np.exp(log_density * single(1.0 / 3.0) - log_temperature * single(2.0 / 3.0))
    xi *= depth_root.astype(single)
    suppression = 1.0 / (1.0 + xi * (single(2.98394) + xi * (single(1.53583) + xi * single(3.85289))))
    photons = (lyman_flux * (1.81e11 / (1.0 + z)).astype(single)) * suppression
    log_rate = np.full_like(temperature, _COLLISION_FIT[-1])
    tabulated = np.clip(log_temperature, *_COLLISION_RANGE.astype(single))
    for coefficient in _COLLISION_FIT[-2::-1]:
        log_rate *= tabulated
        log_rate += single(coefficient)
    collisions = (TEMPERATURE_21CM / EINSTEIN_A_21CM * hydrogen * (1.0 - electron_fraction) / cmb).astype(single)
    collisions = collisions * density * np.exp(log_rate)
    inverse_cmb = 1.0 / cmb
    inverse_spin = (inverse_cmb + (photons + collisions) * inverse) / (1.0 + photons + collisions)
    base = 1.0 + inverse * (single(-0.0631789) + single(0.115995) * inverse)
    slope = inverse * (single(-0.401403) + single(0.336463) * inverse)
    amplitude = 27.0 * cosmology.omega_b * cosmology.h**2 / 0.023
    amplitude = amplitude * np.sqrt(0.15 / (cosmology.omega_m * cosmology.h**2) * (1.0 + z) / 10.0)
    half_depth = (0.5 * amplitude * (1.0 + z) / 1000.0).astype(single)
    for _ in range(2):
        alpha = photons * (base + slope * inverse_spin)
        colour = inverse + single(0.405535) * inverse * (inverse_spin - inverse)
        # The line absorbs part of the CMB that would drive it: Venumadhav et al. (2018, PRD 98, 103513), equation 17.
        radiation = 1.0 - half_depth * inverse_spin
        inverse_spin = radiation * inverse_cmb + alpha * colour + collisions * inverse
        inverse_spin /= radiation + alpha + collisions
    stretch = np.abs(1.0 + velocity_gradient)
    depth = (amplitude * (1.0 + z) / 1000.0).astype(single) * neutral * density * inverse_spin
    depth /= np.maximum(stretch, single(1e-3))
    np.negative(depth, out=depth)
    contrast = 1.0 / inverse_spin - cmb
    return -np.expm1(depth) * contrast * (1000.0 / (1.0 + z)).astype(single)
