"""Background cosmology of the embedded simulators: power spectrum, growth, distances, haloes, all tabulated once.

The only module that imports pyccl. Units: Mpc and solar masses without h, redshift-zero linear density
contrasts unless said otherwise.
"""

import dataclasses
import functools

import numpy as np
import pyccl
from scipy.interpolate import CubicSpline

CRITICAL_DENSITY = 2.77536627e11
"""Critical density today over h^2, in solar masses per Mpc^3: 3 H^2 / (8 pi G) with G Msun = 1.32712440e20 m^3/s^2."""

MEGAPARSEC_IN_CENTIMETRES = 3.0856775814913673e24
SOLAR_MASS_IN_GRAMS = 1.98841e33


@dataclasses.dataclass(frozen=True)
class Cosmology:
    """A flat cosmology with a cosmological constant; the default is that of Gillet et al. 2019, section 2.1.

    Args:
        omega_m: Total matter density today, in units of the critical density.
        omega_b: Baryon density today, in units of the critical density.
        h: Hubble constant in units of 100 km/s/Mpc.
        sigma_8: Root mean square of the linear density contrast in spheres of 8 Mpc/h, today.
        n_s: Spectral index of the primordial power spectrum.
        transfer_function: ``"eisenstein_hu_1999"``, the smooth fit of Eisenstein & Hu (1999, ApJ 511, 5) that 21cmFAST
            uses, or ``"eisenstein_hu_1998"``, with baryon oscillations (ApJ 496, 605). At fixed sigma_8 the first has
            1.4 % less structure on the scale of the first galaxies, which delays them visibly.
        growth: ``"exact"``, the solution of the growth equation, or ``"carroll_1992"``, the fit of Carroll, Press &
            Turner (1992, ARA&A 30, 499, equation 29), which 21cmFAST uses. Scaled to today the fit is 0.1 % lower at
            redshift 10 and 0.4 % at redshift 20, which makes 8 % fewer stars there.

    Raises:
        ValueError: If a value is not finite or outside the range in which the fits used here hold.

    Example:
        >>> Cosmology(sigma_8=0.85).background().growth(0.0)
        1.0
    """

    omega_m: float = 0.31
    omega_b: float = 0.048
    h: float = 0.68
    sigma_8: float = 0.81
    n_s: float = 0.97
    transfer_function: str = "eisenstein_hu_1999"
    growth: str = "exact"

    def __post_init__(self):
        if self.growth not in ("exact", "carroll_1992"):
            raise ValueError(f"Cosmology: expected growth 'exact' or 'carroll_1992', got {self.growth!r}.")
        if self.transfer_function not in ("eisenstein_hu_1999", "eisenstein_hu_1998"):
            raise ValueError(
                "Cosmology: expected transfer_function 'eisenstein_hu_1999' or 'eisenstein_hu_1998', got "
                f"{self.transfer_function!r}."
            )
        ranges = {
            "omega_m": (0.05, 1.0),
            "omega_b": (0.005, 0.5),
            "h": (0.3, 1.2),
            "sigma_8": (0.2, 2.0),
            "n_s": (0.5, 1.5),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"Cosmology: expected {name} in [{low}, {high}], got {value}.")
        if self.omega_b >= self.omega_m:
            raise ValueError(
                f"Cosmology: expected omega_b < omega_m, got omega_b={self.omega_b}, omega_m={self.omega_m}."
            )

    def background(self) -> "Background":
        """Tables of this cosmology, computed on the first call and shared afterwards."""
        return _background(self)

    def attributes(self) -> dict[str, float]:
        """The same numbers under the names that 21cmFAST files use."""
        return {
            "hlittle": self.h,
            "OMm": self.omega_m,
            "OMb": self.omega_b,
            "POWER_INDEX": self.n_s,
            "SIGMA_8": self.sigma_8,
        }


@functools.lru_cache(maxsize=16)
def _background(cosmology: Cosmology) -> "Background":
    return Background(cosmology)


class Background:
    """Tabulated background quantities and halo statistics of one `Cosmology`.

    Growth, distances and the oscillating power spectrum come from pyccl (Chisari et al. 2019, ApJS 242, 2), with
    photons and massless neutrinos. The cells of a light-cone are laid out with massive ones, as 21cmFAST does: see
    `keras_cosmo.distances`.

    Args:
        cosmology: The cosmological parameters.

    Attributes:
        wavenumbers: ``(n,)`` in 1/Mpc.
        power: ``(n,)`` linear matter power spectrum at redshift zero, in Mpc^3.
        redshifts: ``(n,)`` increasing grid of the tables below.
        comoving_distances: ``(n,)`` in Mpc.
        growth_factors: ``(n,)`` linear growth, 1 at redshift zero.
        hubble_rates: ``(n,)`` in 1/s.
        log10_masses: ``(n,)`` grid of log10 of halo masses in solar masses.
        mass_deviations: ``(n,)`` sigma(M) at redshift zero (top-hat filter).
        mean_matter_density: Comoving, in solar masses per Mpc^3.
    """

    def __init__(self, cosmology: Cosmology):
        self.cosmology = cosmology
        self._ccl = pyccl.Cosmology(
            Omega_c=cosmology.omega_m - cosmology.omega_b,
            Omega_b=cosmology.omega_b,
            h=cosmology.h,
            sigma8=cosmology.sigma_8,
            n_s=cosmology.n_s,
            transfer_function="eisenstein_hu",
        )
        self.wavenumbers = np.logspace(-4, 3, 1500)
        if cosmology.transfer_function == "eisenstein_hu_1998":
            self.power = pyccl.linear_matter_power(self._ccl, self.wavenumbers, 1.0)
        else:
            self.power = self.wavenumbers**cosmology.n_s * smooth_transfer_function(cosmology, self.wavenumbers) ** 2
            self.power *= (cosmology.sigma_8 / self.filtered_deviation(_top_hat(8.0 / cosmology.h))) ** 2
        self.redshifts = np.expm1(np.linspace(0.0, np.log(61.0), 800))
        scale_factors = 1.0 / (1.0 + self.redshifts)
        self.comoving_distances = pyccl.comoving_radial_distance(self._ccl, scale_factors)
        if cosmology.growth == "exact":
            self.growth_factors = pyccl.growth_factor(self._ccl, scale_factors)
        else:
            self.growth_factors = _fitted_growth(cosmology.omega_m, self.redshifts)
        self.hubble_rates = pyccl.h_over_h0(self._ccl, scale_factors) * cosmology.h * 1e7 / MEGAPARSEC_IN_CENTIMETRES
        self.log10_masses = np.linspace(5.0, 16.0, 331)
        self.mean_matter_density = CRITICAL_DENSITY * cosmology.omega_m * cosmology.h**2
        radii = (10.0**self.log10_masses / self.mean_matter_density * 0.75 / np.pi) ** (1.0 / 3.0)
        self.mass_deviations = np.array([self.filtered_deviation(_top_hat(radius)) for radius in radii])
        self._log_variance = CubicSpline(self.log10_masses * np.log(10.0), 2.0 * np.log(self.mass_deviations))
        self._collapsed_fractions: dict[tuple, np.ndarray] = {}

    @property
    def baryon_density(self) -> float:
        """Mean comoving baryon density in g/cm^3."""
        cosmology = self.cosmology
        density = CRITICAL_DENSITY * cosmology.omega_b * cosmology.h**2
        return density * SOLAR_MASS_IN_GRAMS / MEGAPARSEC_IN_CENTIMETRES**3

    def growth(self, redshift):
        """Linear growth factor, 1 at redshift zero."""
        return _unwrapped(np.interp(redshift, self.redshifts, self.growth_factors))

    def growth_rate(self, redshift):
        """Logarithmic derivative of the growth factor with the scale factor."""
        logarithm = np.log(self.growth_factors)
        return _unwrapped(np.interp(redshift, self.redshifts, -np.gradient(logarithm, np.log1p(self.redshifts))))

    def comoving_distance(self, redshift):
        """Comoving distance in Mpc."""
        return _unwrapped(np.interp(redshift, self.redshifts, self.comoving_distances))

    def redshift_at(self, comoving_distance):
        """Redshift at a comoving distance in Mpc."""
        return _unwrapped(np.interp(comoving_distance, self.comoving_distances, self.redshifts))

    def hubble(self, redshift):
        """Hubble rate in 1/s."""
        log_rate = np.interp(np.log1p(redshift), np.log1p(self.redshifts), np.log(self.hubble_rates))
        return _unwrapped(np.exp(log_rate))

    def sigma(self, mass):
        """Root mean square linear density contrast of spheres that contain ``mass`` (solar masses), today."""
        return _unwrapped(np.interp(np.log10(mass), self.log10_masses, self.mass_deviations))

    def filtered_deviation(self, window) -> float:
        """Root mean square linear density contrast today after a filter.

        Args:
            window: Callable from wavenumbers in 1/Mpc to the filter's Fourier transform.
        """
        integrand = self.power * window(self.wavenumbers) ** 2 * self.wavenumbers**3
        return float(np.sqrt(np.trapezoid(integrand, np.log(self.wavenumbers)) / (2.0 * np.pi**2)))

    def mass_function(self, redshift: float, shape: tuple[float, float, float] = (0.353, 0.73, 0.175)) -> np.ndarray:
        """Comoving number density of haloes per decade of mass, in 1/Mpc^3, on ``log10_masses``.

        The ellipsoidal-collapse form of Sheth & Tormen (1999, MNRAS 308, 119), with critical contrast 1.686.

        Args:
            redshift: Redshift.
            shape: ``(amplitude, a, p)``. The default is the fit of Jenkins et al. (2001, MNRAS 321, 372) to the
                same form, which 21cmFAST uses; ``(0.3222, 0.707, 0.3)`` is the original.
        """
        amplitude, a, p = shape
        peak_height = 1.686 / (self.mass_deviations * self.growth(redshift))
        scaled = a * peak_height**2
        multiplicity = amplitude * np.sqrt(2.0 * scaled / np.pi) * (1.0 + scaled**-p) * np.exp(-scaled / 2.0)
        log_slope = -np.gradient(np.log(self.mass_deviations), self.log10_masses)
        return multiplicity * self.mean_matter_density / 10.0**self.log10_masses * log_slope

    def halo_mass_function(self, redshift: float) -> np.ndarray:
        """Comoving number density of friends-of-friends haloes per decade of mass, in 1/Mpc^3, on ``log10_masses``.

        The universal fit of Watson et al. (2013, MNRAS 433, 1230) to N-body simulations, linking length 0.2. For
        galaxies and clusters; `mass_function` is for the first stars.

        Args:
            redshift: Redshift.
        """
        deviation = self.mass_deviations * self.growth(redshift)
        multiplicity = 0.282 * ((1.406 / deviation) ** 2.163 + 1.0) * np.exp(-1.210 / deviation**2)
        log_slope = -np.gradient(np.log(self.mass_deviations), self.log10_masses)
        return multiplicity * self.mean_matter_density / 10.0**self.log10_masses * log_slope

    def halo_bias(self, redshift: float) -> np.ndarray:
        """Linear bias of haloes on ``log10_masses``: Sheth & Tormen (1999, MNRAS 308, 119, equation 12).

        Args:
            redshift: Redshift.
        """
        critical, a, p = 1.686, 0.707, 0.3
        scaled = a * (critical / (self.mass_deviations * self.growth(redshift))) ** 2
        return 1.0 + (scaled - 1.0) / critical + 2.0 * p / critical / (1.0 + scaled**p)

    def second_order_bias(self, redshift: float) -> np.ndarray:
        """Quadratic bias of haloes on ``log10_masses``: Scoccimarro et al. (2001, ApJ 546, 20).

        Args:
            redshift: Redshift.
        """
        critical, a, p = 1.686, 0.707, 0.3
        scaled = a * (critical / (self.mass_deviations * self.growth(redshift))) ** 2
        first, second = (scaled - 1.0) / critical, scaled / critical**2 * (scaled - 3.0)
        ellipsoidal = 2.0 * p / critical / (1.0 + scaled**p)
        correction = ellipsoidal * ((1.0 + 2.0 * p) / critical + 2.0 * first)
        return 2.0 * (1.0 - 17.0 / 21.0) * (first + ellipsoidal) + second + correction

    def nonlinear_power(self, redshift: float) -> np.ndarray:
        """Non-linear matter power spectrum on ``wavenumbers``, in Mpc^3.

        The linear spectrum times the growth of structure after Takahashi et al. (2012, ApJ 761, 152; "halofit"), which
        pyccl evaluates for a spectrum with baryon oscillations. It is known up to 50 / Mpc and extrapolated beyond.

        Args:
            redshift: Redshift.
        """
        scale_factor = 1.0 / (1.0 + redshift)
        boost = pyccl.nonlin_matter_power(self._ccl, self.wavenumbers, scale_factor)
        boost = boost / pyccl.linear_matter_power(self._ccl, self.wavenumbers, scale_factor)
        return self.power * self.growth(redshift) ** 2 * boost

    def conditional_mass_fraction(self, growth, mass, sphere_mass, contrast) -> tuple[np.ndarray, np.ndarray]:
        """Share of a sphere's matter in haloes of each mass, per unit of the mass's natural logarithm.

        Sheth & Tormen (2002, MNRAS 329, 61): first crossing of the ellipsoidal-collapse barrier (with
        their Taylor series to fifth order, and the barrier of Jenkins et al. 2001, as 21cmFAST does) after a walk
        that starts at the sphere.

        Args:
            growth: Growth factor of the redshift, 1 at redshift zero.
            mass: ``(n_mass,)`` halo masses below ``sphere_mass``, solar masses.
            sphere_mass: Mass of the sphere, solar masses.
            contrast: ``(n_delta,)`` contrast of the sphere, scaled to redshift zero with the growth factor.

        Returns:
            ``(n_delta, n_mass)`` shares, and ``(n_delta,)`` whether the sphere is dense enough (0.99 of the barrier)
            to be one halo by itself: there the shares mean nothing and are zero.
        """
        a, beta, alpha = 0.73, 0.34, 0.81
        log_variance = self._log_variance(np.log(np.append(mass, sphere_mass)))
        slope = self._log_variance(np.log(mass), 1)
        variance, outer = np.exp(log_variance[:-1]), np.exp(log_variance[-1])
        critical = 1.686 / growth
        remaining = np.maximum(variance - outer, 1e-9 * outer)
        term, series = np.ones_like(variance), np.ones_like(variance)
        for order in range(1, 6):
            term = term * (-remaining / variance) * (alpha - order + 1.0) / order
            series = series + term
        ellipsoidal = beta * (variance / (a * critical**2)) ** alpha
        barrier = np.sqrt(a) * critical * (1.0 + ellipsoidal)
        tangent = np.sqrt(a) * critical * (1.0 + ellipsoidal * series)
        own_barrier = np.sqrt(a) * critical * (1.0 + beta * (outer / (a * critical**2)) ** alpha)
        contrast = np.asarray(contrast, float)[:, None]
        exponent = -((barrier - contrast) ** 2) / (2.0 * remaining)
        scale = -variance * slope / np.sqrt(2.0 * np.pi) * remaining**-1.5
        full = contrast > 0.99 * own_barrier
        share = (tangent - contrast) * scale * np.exp(exponent)
        return np.where(full, 0.0, share), full[:, 0]

    def collapsed_fraction(self, threshold_mass, redshift) -> np.ndarray:
        """Fraction of matter in haloes above a mass.

        Args:
            threshold_mass: Solar masses; scalar or one per redshift.
            redshift: Redshifts ``(n,)``, increasing or not.

        Returns:
            ``(n,)`` fractions.
        """
        redshift = np.atleast_1d(np.asarray(redshift, float))
        threshold = np.log10(np.broadcast_to(np.asarray(threshold_mass, float), redshift.shape))
        key = (redshift.shape, redshift.tobytes())
        if key not in self._collapsed_fractions:
            self._collapsed_fractions.clear()
            step = self.log10_masses[1] - self.log10_masses[0]
            masses = 10.0**self.log10_masses
            density = np.stack([self.mass_function(z) * masses for z in redshift]) / self.mean_matter_density
            pieces = 0.5 * step * (density[:, 1:] + density[:, :-1])
            above = np.concatenate([np.cumsum(pieces[:, ::-1], axis=1)[:, ::-1], np.zeros((len(redshift), 1))], axis=1)
            self._collapsed_fractions[key] = np.log(above + 1e-300)
        table = self._collapsed_fractions[key]
        position = (threshold - self.log10_masses[0]) / (self.log10_masses[1] - self.log10_masses[0])
        index = np.clip(position.astype(int), 0, len(self.log10_masses) - 2)
        weight = position - index
        rows = np.arange(len(redshift))
        return np.exp((1.0 - weight) * table[rows, index] + weight * table[rows, index + 1])


def smooth_transfer_function(cosmology: Cosmology, wavenumber: np.ndarray) -> np.ndarray:
    """Matter transfer function without baryon oscillations or neutrinos: Eisenstein & Hu (1999), equations 1-24.

    Args:
        cosmology: The cosmological parameters.
        wavenumber: In 1/Mpc.
    """
    matter, baryons = cosmology.omega_m * cosmology.h**2, cosmology.omega_b * cosmology.h**2
    share = cosmology.omega_b / cosmology.omega_m
    temperature = 2.7255 / 2.7
    equality = 25000.0 * matter * temperature**-4 - 1.0
    equality_wavenumber = 0.0746 * matter / temperature**2
    drag = 0.313 * matter**-0.419 * (1.0 + 0.607 * matter**0.674)
    drag = 1.0 + drag * baryons ** (0.238 * matter**0.223)
    drag *= 1291.0 * matter**0.251 / (1.0 + 0.659 * matter**0.828)
    ratio_drag = 31.5e3 * baryons * temperature**-4 / (1.0 + drag)
    ratio_equality = 31.5e3 * baryons * temperature**-4 / (1.0 + equality)
    horizon = np.log(
        (np.sqrt(1.0 + ratio_drag) + np.sqrt(ratio_drag + ratio_equality)) / (1.0 + np.sqrt(ratio_equality))
    )
    horizon *= 2.0 / 3.0 / equality_wavenumber * np.sqrt(6.0 / ratio_equality)
    since = (1.0 + equality) / (1.0 + drag)
    p = -(5.0 - np.sqrt(1.0 + 24.0 * (1.0 - share))) / 4.0
    alpha = (1.0 - share) * (2.0 * p + 5.0) / 5.0 * (1.0 - 0.553 * share + 0.126 * share**3)
    alpha *= (1.0 + since) ** p * (1.0 - p / 2.0 * (1.0 + 1.0 / (4.0 * p + 3.0) / 7.0) / (1.0 + since))
    root = np.sqrt(alpha)
    shape = root + (1.0 - root) / (1.0 + (0.43 * wavenumber * horizon) ** 4)
    q = wavenumber * temperature**2 / matter / shape
    logarithm = np.log(np.e + 1.84 * root * q / (1.0 - 0.949 * share))
    return logarithm / (logarithm + q**2 * (14.4 + 325.0 / (1.0 + 60.5 * q**1.11)))


RADIATION_DENSITY = 8.6e-5
"""Photons and massless neutrinos today in units of the critical density, as 21cmFAST takes them (``OMr``)."""


def _fitted_growth(omega_m: float, redshift: np.ndarray) -> np.ndarray:
    matter, radiation = omega_m * (1.0 + redshift) ** 3, RADIATION_DENSITY * (1.0 + redshift) ** 4
    share = matter / (1.0 - omega_m - RADIATION_DENSITY + matter + radiation)

    def suppression(omega):
        return 2.5 * omega / (1.0 / 70.0 + omega * (209.0 - omega) / 140.0 + omega ** (4.0 / 7.0))

    return suppression(share) / suppression(omega_m) / (1.0 + redshift)


def _top_hat(radius: float):
    """Fourier transform of a sphere of ``radius`` in Mpc."""

    def window(wavenumber):
        x = np.maximum(wavenumber * radius, 1e-2)
        return 3.0 * (np.sin(x) - x * np.cos(x)) / x**3

    return window


def _unwrapped(value):
    """A float for scalar input, the array otherwise."""
    return float(value) if np.ndim(value) == 0 else value
