"""Stars and ionising photons of galaxies whose properties follow the mass of their haloes."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class GalaxyScaling:
    """How the galaxy of a halo depends on the halo's mass M: Park et al. (2019, MNRAS 484, 933), section 2.1.

    Stars hold ``star_fraction (M / 1e10 Msun)^star_slope`` of the baryons (``star_fraction`` is that of `SourceModel`),
    a share ``escape_fraction (M / 1e10 Msun)^escape_slope`` of their ionising photons gets out, neither more than all,
    a share exp(-M_min / M) of the haloes has a galaxy, and stars form in ``formation_time`` Hubble times.

    Args:
        star_slope: Park et al., table 1 (21cmFAST ``ALPHA_STAR``).
        escape_fraction: At 1e10 Msun (21cmFAST ``F_ESC10``).
        escape_slope: 21cmFAST ``ALPHA_ESC``.
        formation_time: In units of 1 / H(z) (21cmFAST ``t_STAR``).

    Raises:
        ValueError: If a number is outside its physical range.
    """

    star_slope: float = 0.5
    escape_fraction: float = 0.1
    escape_slope: float = -0.5
    formation_time: float = 0.5

    def __post_init__(self):
        if not 0.0 < self.escape_fraction <= 1.0:
            raise ValueError(f"GalaxyScaling: expected escape_fraction in (0, 1], got {self.escape_fraction}.")
        if not 0.0 < self.formation_time <= 1.0:
            raise ValueError(f"GalaxyScaling: expected formation_time in (0, 1], got {self.formation_time}.")
        for name in ("star_slope", "escape_slope"):
            if not -3.0 <= getattr(self, name) <= 3.0:
                raise ValueError(f"GalaxyScaling: expected {name} in [-3, 3], got {getattr(self, name)}.")

    def stars(self, mass: np.ndarray, minimum_mass: float, star_fraction: float) -> np.ndarray:
        """Average stellar fraction of haloes of ``mass`` in solar masses, in units of ``star_fraction``."""
        fraction = np.minimum((mass / 1e10) ** self.star_slope, 1.0 / star_fraction)
        return fraction * np.exp(-minimum_mass / mass)

    def photons(self, mass: np.ndarray, minimum_mass: float, star_fraction: float) -> np.ndarray:
        """`stars` times the escape fraction in units of ``escape_fraction``."""
        escape = np.minimum((mass / 1e10) ** self.escape_slope, 1.0 / self.escape_fraction)
        return self.stars(mass, minimum_mass, star_fraction) * escape


class HaloMassFractions:
    """Share of the matter in haloes of each mass, on average and in spheres of given density; tabulated.

    The table depends on the cosmology and the geometry alone. Averages of any property of haloes are sums over it.

    Args:
        background: Cosmology tables.
        redshift: ``(n_z,)`` increasing.
        radii: ``(n_radii,)`` sphere radii in Mpc.
        contrast: ``(n_radii, n_delta)`` density contrasts of the spheres at ``redshift[0]``. They are scaled to other
            redshifts with the linear growth factor, as 21cmFAST does.
        smallest_mass: Solar masses; lighter haloes are left out.

    Attributes:
        redshift, radii, contrast: As given.
        growth_factor: ``(n_z,)`` growth factor, 1 at redshift zero.
        density: ``(n_radii, n_z, n_delta)`` of the spheres in units of the mean, not below zero.
    """

    def __init__(self, background, redshift, radii, contrast, smallest_mass=1e6):
        self.redshift, self.radii = np.asarray(redshift, float), np.asarray(radii, float)
        self.contrast = np.asarray(contrast, float)
        self.growth_factor = background.growth(self.redshift)
        self.mean_mass = 10.0**background.log10_masses
        step = (background.log10_masses[1] - background.log10_masses[0]) / background.mean_matter_density
        table = np.stack([background.mass_function(z) for z in self.redshift]) * self.mean_mass * step
        self._mean_share = table * (self.mean_mass >= smallest_mass)
        self.sphere_mass = 4.0 / 3.0 * np.pi * self.radii**3 * background.mean_matter_density
        points, weights = np.polynomial.legendre.leggauss(48)
        span = np.log(self.sphere_mass / smallest_mass)
        log_mass = np.log(smallest_mass) + 0.5 * span[:, None] * (points + 1.0)
        self.mass = np.exp(log_mass)
        relative = self.growth_factor / self.growth_factor[0]
        self.density = np.maximum(1.0 + self.contrast[:, None, :] * relative[:, None], 0.0)
        shape = (*self.density.shape, len(points))
        self._share = np.empty(shape, np.float32)
        self._full = np.empty(shape[:3], bool)
        for j, mass in enumerate(self.mass):
            for i, growth in enumerate(self.growth_factor):
                linear = (self.density[j, i] - 1.0) / growth
                share, full = background.conditional_mass_fraction(growth, mass, self.sphere_mass[j], linear)
                self._share[j, i] = share * (0.5 * span[j] * weights)
                self._full[j, i] = full

    def mean(self, efficiency) -> np.ndarray:
        """``(n_z,)`` average over all matter of ``efficiency``, a callable of the mass in solar masses."""
        return self._mean_share @ efficiency(self.mean_mass)

    def conditional(self, efficiency) -> np.ndarray:
        """``(n_radii, n_z, n_delta)`` average over the matter of spheres; a sphere dense enough is one halo."""
        weight = efficiency(self.mass).astype(np.float32)
        table = np.einsum("rzdm,rm->rzd", self._share, weight, optimize=True).astype(float)
        table = np.where(self._full, efficiency(self.sphere_mass)[:, None, None], table)
        return np.maximum(table, 1e-22)


class GalaxyModel:
    """Star formation and ionising photons of spheres whose galaxies follow their haloes' masses.

    The source model of Park et al. (2019, MNRAS 484, 933) as 21cmFAST 4.1.1 integrates it (``E-INTEGRAL``): over the
    conditional mass function of each sphere, from its evolved contrast scaled with the linear
    growth factor; at every radius and redshift the mean over the box is set to that of the Sheth-Tormen mass function.

    Args:
        halos: Table of halo masses.
        galaxies: Scaling of galaxies with halo mass.
        star_fraction: Stellar fraction at 1e10 Msun.
        minimum_mass: M_min in solar masses.
        occurrence: ``(n_radii, n_delta)`` share of the cells with each contrast of ``halos``, summing to 1.

    Attributes:
        redshift, radii, contrast, growth_factor: As in ``halos``.
        mean: ``(n_z,)`` stars that emitted escaping photons, as a share of all baryons, in units of ``star_fraction``
            times ``escape_fraction``.
        growth: ``(n_radii, n_z, n_delta)`` stars formed per unit redshift and mean baryon, in units of
            ``star_fraction``.
        mean_growth: ``(n_radii, n_z)`` its mean over the box.
    """

    def __init__(self, halos, galaxies, star_fraction, minimum_mass, occurrence):
        self.redshift, self.radii, self.contrast = halos.redshift, halos.radii, halos.contrast
        self.growth_factor = halos.growth_factor

        def stars(mass):
            return galaxies.stars(mass, minimum_mass, star_fraction)

        self.mean = halos.mean(lambda mass: galaxies.photons(mass, minimum_mass, star_fraction))
        # Stars form in a fixed share of the Hubble time, and |dt/dz| = 1 / (H (1 + z)).
        rate = 1.0 / (galaxies.formation_time * (1.0 + self.redshift))
        formed = halos.conditional(stars)
        formed *= (halos.mean(stars) * rate / np.einsum("rzd,rd->rz", formed, occurrence))[:, :, None]
        self.growth = halos.density * formed
        self.mean_growth = np.einsum("rzd,rd->rz", self.growth, occurrence)
