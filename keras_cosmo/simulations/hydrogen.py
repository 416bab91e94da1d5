"""Maps of the neutral hydrogen after reionisation, from two cosmological parameters: a stand-in for those of CAMELS."""

import dataclasses
import functools
import json

import numpy as np
import scipy.fft

from keras_cosmo.quantities import MapField, Parameter
from keras_cosmo.simulations.cosmology import Background, Cosmology
from keras_cosmo.simulations.fields import SHARP_K_RADIUS
from keras_cosmo.simulations.particles import ParticleBox

HYDROGEN_PARAMETERS = (
    Parameter(
        name="Omega_m",
        low=0.1,
        high=0.5,
        symbol=r"\Omega_\mathrm{m}",
        description="matter density today in units of the critical density",
    ),
    Parameter(
        name="sigma_8",
        low=0.6,
        high=1.0,
        symbol=r"\sigma_8",
        description="root mean square of the linear density contrast in spheres of 8 Mpc/h today",
    ),
)
"""Prior ranges of the CAMELS simulations: Villaescusa-Navarro et al. (2021, ApJ 915, 71)."""

SURFACE_DENSITY_UNIT = "Msun/h (Mpc/h)^-2"

# Checked at the corners: beyond, hardly a halo has hydrogen, or particles cross their haloes long before.
_PHYSICAL_RANGES = ((0.08, 0.7), (0.5, 1.2))

_CAMELS = Cosmology(
    omega_m=0.3, omega_b=0.049, h=0.6711, sigma_8=0.8, n_s=0.9624, transfer_function="eisenstein_hu_1998"
)
"""What the CAMELS simulations have in common: Villaescusa-Navarro et al. (2021, ApJ 915, 71)."""

_RELATION_REDSHIFTS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
_RELATION_SLOPE = (0.24, 0.53, 0.60, 0.76, 0.79, 0.74)
_RELATION_MASS = (4.3e10, 1.5e10, 1.3e10, 2.9e9, 1.4e9, 1.9e9)  # Msun/h
_RELATION_MINIMUM = (2.0e12, 6.0e11, 3.6e11, 6.7e10, 2.1e10, 2.0e10)  # Msun/h
_RELATION_CUT = 0.35

_SMALLEST_HALO = 1e7  # Msun; exp(-14) of the hydrogen of a power law is left there at redshift 5
_RADIUS_STEP = 1.2  # ratio of the radii of patches
_LARGEST_PATCH = 4.5  # Mpc/h, a halo of 3e13 Msun/h
_RAREST_PATCH = 1e-5  # share of the matter; larger haloes count with the largest that are not so rare
_NODES = 64  # of contrast and of halo mass, for haloes smaller than the smallest patch
_HIGHEST = 7.0  # contrast, in deviations
_EMPTIEST = 1e-3  # of the mean diffuse hydrogen: what a pixel that no particle reaches is left with
# Barrier of ellipsoidal collapse, as in Background.conditional_mass_fraction.
_BARRIER_A, _BARRIER_BETA, _BARRIER_ALPHA = 0.73, 0.34, 0.81


def halo_hydrogen_mass(mass: np.ndarray, redshift: float) -> np.ndarray:
    """Mean mass of neutral hydrogen in haloes, M_0 (M / M_min)^alpha exp(-(M_min / M)^0.35).

    Fitted by Villaescusa-Navarro et al. (2018, ApJ 866, 135) to the friends-of-friends haloes of the simulation TNG100
    at redshifts 0 to 5. Between these, alpha, log M_0 and log M_min are interpolated; beyond
    redshift 5 its values are kept.

    Args:
        mass: Halo masses in Msun/h.
        redshift: Redshift.

    Returns:
        Masses in Msun/h, in the shape of ``mass``.

    Example:
        >>> float(np.round(halo_hydrogen_mass(2e10, 5.0) / 1e8, 3))
        6.99
    """
    slope = np.interp(redshift, _RELATION_REDSHIFTS, _RELATION_SLOPE)
    scale = np.exp(np.interp(redshift, _RELATION_REDSHIFTS, np.log(_RELATION_MASS)))
    ratio = np.asarray(mass, float) / np.exp(np.interp(redshift, _RELATION_REDSHIFTS, np.log(_RELATION_MINIMUM)))
    return scale * ratio**slope * np.exp(-(ratio**-_RELATION_CUT))


@dataclasses.dataclass(frozen=True)
class HydrogenMapSimulator:
    """Embedded simulator of maps of neutral hydrogen, in the geometry of CAMELS: 3 axes x 5 slabs of a 25 Mpc/h box.

    Stands in for the maps of Friedman & Hassan (2022, section 3) where there are none; about 0.5 s per box.

    1. `ParticleBox` displaces particles by second-order Lagrangian perturbation theory.
    2. Around each particle, the linear density is smoothed with a sharp-k filter, from large scales to small. The
       largest on which it is above the barrier of ellipsoidal collapse is the halo that the particle is in (Bond et al.
       1991, ApJ 379, 440; barrier: Sheth & Tormen 2002, MNRAS 329, 61, with the numbers of Jenkins et al. 2001).
       Particles in none have smaller haloes, with the conditional mass function of Sheth & Tormen (2002).
    3. Particles carry the hydrogen of their haloes: `halo_hydrogen_mass`. For every mass of halo, the mean over all
       boxes is that of the mass function of Watson et al. (2013, MNRAS 433, 1230).
    4. The hydrogen of a slab is shared among the pixels by cloud-in-cell assignment (Hockney & Eastwood 1981).

    Args:
        cells: Pixels along each side of a map, 16 to 256. Friedman & Hassan (2022), section 3: 64.
        box_size: Side of the periodic box in Mpc/h, 10 to 100. CAMELS: 25.
        slabs: Slabs along each axis, one map each. CAMELS: 5.
        redshift: 3 to 10. The file that the code of Friedman & Hassan reads is of redshift 5.99.
        particles: Particles along each side of the box; even, 32 to 256, between 0.1 and 0.6 Mpc/h apart.
        diffuse_share: Hydrogen outside of haloes, which follows the matter, over that in haloes. Villaescusa-Navarro et
            al. (2018) find most of it in haloes; the number is a choice.
        cosmology: Parameters that are not varied; Omega_m and sigma_8 are replaced.

    Raises:
        TypeError: If a number of pixels, slabs or particles is not an integer.
        ValueError: If an argument is outside its range.

    Example:
        >>> simulator = HydrogenMapSimulator(cells=32, particles=48)
        >>> simulator.simulate(np.array([0.3, 0.8]), seed=1)["hi"].shape
        (15, 32, 32)

    Deviations from CAMELS: no hydrodynamics, no feedback and so none of its parameters, no scatter between haloes of
    one mass, haloes without profile; the relation of hydrogen and halo mass is that of redshift 5 and of one cosmology,
    TNG100's. Maps have the signs and about the difficulty of those of CAMELS, not their numbers.
    """

    cells: int = 64
    box_size: float = 25.0
    slabs: int = 5
    redshift: float = 6.0
    particles: int = 96
    diffuse_share: float = 0.05
    cosmology: Cosmology = _CAMELS

    def __post_init__(self):
        for name, low, high in (("cells", 16, 256), ("slabs", 1, 64), ("particles", 32, 256)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"HydrogenMapSimulator: expected {name} to be an integer, got {value!r}.")
            if not low <= value <= high:
                raise ValueError(f"HydrogenMapSimulator: expected {name} in [{low}, {high}], got {value}.")
        for name, low, high in (("box_size", 10.0, 100.0), ("redshift", 3.0, 10.0), ("diffuse_share", 1e-6, 1.0)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"HydrogenMapSimulator: expected {name} in [{low:g}, {high:g}], got {value}.")
        spacing = self.box_size / self.particles
        if self.particles % 2 or not 0.1 <= spacing <= 0.6:
            raise ValueError(
                f"HydrogenMapSimulator: expected an even number of particles, 0.1 to 0.6 Mpc/h apart, got "
                f"{self.particles} along {self.box_size:g} Mpc/h, {spacing:.3g} apart. Choose particles from "
                f"{max(32, int(np.ceil(self.box_size / 0.6)))} to {min(256, int(self.box_size / 0.1))}."
            )
        if not isinstance(self.cosmology, Cosmology):
            raise TypeError(
                f"HydrogenMapSimulator: expected cosmology to be a Cosmology, got {type(self.cosmology).__name__}."
            )

    @property
    def name(self) -> str:
        """Name recorded in databases."""
        return "embedded"

    @property
    def version(self) -> str:
        """Version of the physics: changes whenever the same seed gives other maps."""
        return "1"

    @property
    def task(self) -> str:
        """Task whose maps these are."""
        return "higlow"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The cosmological parameters, in the order `simulate` takes them."""
        return HYDROGEN_PARAMETERS

    @property
    def maps_per_simulation(self) -> int:
        """Maps of one box: slabs along each of its three axes."""
        return 3 * self.slabs

    @property
    def fields(self) -> dict[str, MapField]:
        """The maps `simulate` returns."""
        return {
            "hi": MapField(
                unit=SURFACE_DENSITY_UNIT,
                shape=(self.cells, self.cells),
                description=(
                    f"surface density of neutral hydrogen at redshift {self.redshift:g} in a slab "
                    f"{self.box_size / self.slabs:g} Mpc/h thick"
                ),
            )
        }

    def attributes(self) -> dict:
        """What a database records of the maps' geometry and cosmology."""
        fixed = self.cosmology.attributes()
        return {
            "cell_size": self.box_size / self.cells,
            "cell_size_units": "Mpc/h",
            "periodic_across_sky": True,
            "redshifts": np.array([float(self.redshift)]),
            "cosmology": json.dumps({name: fixed[name] for name in ("hlittle", "OMb", "POWER_INDEX")}),
            "description": (
                f"{self.cells} x {self.cells} maps of neutral hydrogen in periodic boxes of {self.box_size:g} Mpc/h "
                f"from the embedded simulator, {self.slabs} slabs along each of three axes: map i of a simulation is "
                f"slab i % {self.slabs} along axis i // {self.slabs}"
            ),
        }

    def simulate(self, parameter_values, seed: int) -> dict[str, np.ndarray]:
        """Maps of one simulation.

        Args:
            parameter_values: ``(2,)`` Omega_m and sigma_8.
            seed: Integer from 0 to 2**31 - 1, of the initial conditions. The maps are a function of the values and the
                seed alone.

        Returns:
            ``hi``: ``(3 * slabs, cells, cells)`` float32, positive, in Msun/h (Mpc/h)^-2. Map ``slabs * axis + slab``
            is seen along ``axis``; its rows and columns are the other two axes in their order.

        Raises:
            ValueError: If the values have the wrong shape, are not finite, or are outside the range in which the
                model holds, or if the seed is outside its range.
        """
        positions, masses = self.simulate_particles(parameter_values, seed)
        n, cell = self.cells, self.box_size / self.cells
        pixels, slab, shares = [], [], []
        for position in positions:
            place = position / np.float32(cell) - np.float32(0.5)
            low = np.floor(place)
            upper = place - low
            low = low.astype(np.int32)
            pixels.append((low % n, (low + 1) % n))
            shares.append((1.0 - upper, upper))
            slab.append(
                np.minimum((position * np.float32(self.slabs / self.box_size)).astype(np.int32), self.slabs - 1)
            )
        maps = np.zeros((3, self.slabs * n * n))
        for axis in range(3):
            first, second = (other for other in range(3) if other != axis)
            for i in range(2):
                row, mass = (slab[axis] * n + pixels[first][i]) * n, masses * shares[first][i]
                for j in range(2):
                    index = row + pixels[second][j]
                    maps[axis] += np.bincount(index, mass * shares[second][j], maps.shape[1])
        diffuse = self.mean_density(parameter_values) * self.diffuse_share / (1.0 + self.diffuse_share)
        maps = np.maximum(maps / cell**2, _EMPTIEST * diffuse * self.box_size / self.slabs)
        return {"hi": maps.reshape(3 * self.slabs, n, n).astype(np.float32)}

    def simulate_particles(self, parameter_values, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The particles that `simulate` projects.

        Args:
            parameter_values: As in `simulate`.
            seed: As in `simulate`.

        Returns:
            Comoving positions in Mpc/h, ``(3, particles**3)`` in [0, box_size), and masses of their neutral hydrogen in
            Msun/h, ``(particles**3,)``; float32.

        Raises:
            ValueError: As `simulate`.
        """
        values = _checked(parameter_values)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**31:
            raise ValueError(f"HydrogenMapSimulator: expected seed to be an integer in [0, 2**31), got {seed!r}.")
        background, n = self._background(values), self.particles
        spacing = self.box_size / n / self.cosmology.h
        box = ParticleBox(background, n, spacing, refinement=1)
        linear, first, second = box.draw(np.random.default_rng(int(seed)))
        growth = background.growth(self.redshift)
        position = first * np.float32(growth / spacing)
        position += second * np.float32(3.0 / 7.0 * growth**2 / spacing)
        for axis in range(3):
            position[axis] += np.arange(n, dtype=np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        position += np.float32(0.5)
        np.mod(position, np.float32(n), out=position)
        # A remainder of a tiny negative number is rounded up to the whole box.
        position[position >= n] = 0.0
        position *= np.float32(self.box_size / n)
        share = _hydrogen_shares(background, self.redshift, n, self.box_size).paint(linear)
        mean_share = self.mean_density(values) / self._matter_density(values)
        share += np.float32(mean_share * self.diffuse_share / (1.0 + self.diffuse_share))
        share *= np.float32(self._matter_density(values) * (self.box_size / n) ** 3)
        return position.reshape(3, -1), share.ravel()

    def mean_density(self, parameter_values) -> float:
        """Mean comoving density of neutral hydrogen over all boxes, in Msun/h (Mpc/h)^-3.

        Args:
            parameter_values: As in `simulate`.

        Raises:
            ValueError: As `simulate`.
        """
        values = _checked(parameter_values)
        above = _hydrogen_above(self._background(values), self.redshift)[0]
        return float(above * self._matter_density(values) * (1.0 + self.diffuse_share))

    def _background(self, values) -> Background:
        return dataclasses.replace(self.cosmology, omega_m=float(values[0]), sigma_8=float(values[1])).background()

    def _matter_density(self, values) -> float:
        """Of the universe, in Msun/h (Mpc/h)^-3."""
        return self._background(values).mean_matter_density / self.cosmology.h**2


def _checked(parameter_values) -> np.ndarray:
    values = np.asarray(parameter_values, float)
    names = [parameter.name for parameter in HYDROGEN_PARAMETERS]
    if values.shape != (len(names),):
        raise ValueError(f"parameter_values: expected shape ({len(names)},) for {names}, got shape {values.shape}.")
    for parameter, value, (low, high) in zip(HYDROGEN_PARAMETERS, values, _PHYSICAL_RANGES, strict=True):
        if not np.isfinite(value):
            raise ValueError(f"parameter_values: {parameter.name} is not finite ({value}).")
        if not low <= value <= high:
            raise ValueError(
                f"parameter_values: expected {parameter.name} in [{low:g}, {high:g}], where the model holds (prior "
                f"range [{parameter.low:g}, {parameter.high:g}]), got {value:g}."
            )
    return values


def _hydrogen_above(background: Background, redshift: float) -> np.ndarray:
    """Neutral hydrogen in haloes above each of ``log10_masses``, as a share of all matter."""
    masses, h = 10.0**background.log10_masses, background.cosmology.h
    hydrogen = background.halo_mass_function(redshift) * halo_hydrogen_mass(masses * h, redshift) / h
    hydrogen = np.where(masses >= _SMALLEST_HALO, hydrogen, 0.0)
    pieces = 0.5 * (hydrogen[1:] + hydrogen[:-1]) * np.diff(background.log10_masses)
    return np.append(np.cumsum(pieces[::-1])[::-1], 0.0) / background.mean_matter_density


@functools.lru_cache(maxsize=2)
def _modes(cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a half-complex grid: squares of wavenumbers over the smallest, how many modes have each, and a factor.

    The factor undoes the sharpening by which `ParticleBox` prepares the contrast of its particles, three in a row.
    """
    full = np.round(scipy.fft.fftfreq(cells, 1.0 / cells)).astype(np.int32)
    half = np.arange(cells // 2 + 1, dtype=np.int32)
    square = full[:, None, None] ** 2 + full[None, :, None] ** 2 + half**2
    twice = np.where((half > 0) & (half < half[-1]), 2.0, 1.0)
    counts = np.bincount(square.ravel(), np.broadcast_to(twice, square.shape).ravel())
    one, other = ((1.0 + 2.0 * np.cos(2.0 * np.pi / 3.0 * k / cells)) / 3.0 for k in (full, half))
    spread = one[:, None, None] * one[None, :, None] * other
    return square, counts, spread.astype(np.float32)


@functools.lru_cache(maxsize=4)
def _hydrogen_shares(background: Background, redshift: float, cells: int, box_size: float) -> "_HydrogenShares":
    return _HydrogenShares(background, redshift, cells, box_size)


class _HydrogenShares:
    """Neutral hydrogen per mass of matter around each particle, from the linear density of the box.

    Sharp-k filters are nested: the density at a point changes from one to the next by an independent Gaussian number.
    So the share of matter that is first above the barrier at each of them follows from the variances of the modes that
    the box has, and dividing the hydrogen of haloes by it gives the mean density of hydrogen without bias.
    """

    def __init__(self, background: Background, redshift: float, cells: int, box_size: float):
        self.growth = background.growth(redshift)
        longest = 2.0 * np.pi * background.cosmology.h / box_size
        _, counts, _ = _modes(cells)
        smallest = max(background.cosmology.h / (SHARP_K_RADIUS * _LARGEST_PATCH * longest), 1.5)
        steps = int(np.log((cells / 2.0 - 0.5) / smallest) / np.log(_RADIUS_STEP)) + 1
        cuts = (cells / 2.0 - 0.5) / _RADIUS_STEP ** np.arange(steps)[::-1]
        limits = np.floor(cuts**2).astype(int)
        wavenumber = longest * np.sqrt(np.arange(len(counts)))
        power = np.interp(
            np.log(np.maximum(wavenumber, 1e-4)), np.log(background.wavenumbers), np.log(background.power)
        )
        power = np.exp(power) * counts * (self.growth**2 * (longest / (2.0 * np.pi)) ** 3)
        power[0] = 0.0
        variances = np.cumsum(power)[limits]
        barriers = _barrier(variances)
        # From the rarest patches that count on: they have all the hydrogen of the heavier haloes.
        common = _first_crossing(variances, barriers)[0] >= _RAREST_PATCH
        first = int(np.argmax(common)) if common.any() else steps - 1
        self.limits, self.barriers, cuts = limits[first:], barriers[first:], cuts[first:]
        crossing, nodes, remaining = _first_crossing(variances[first:], self.barriers)
        masses = 4.0 / 3.0 * np.pi * background.mean_matter_density / (longest * cuts * SHARP_K_RADIUS) ** 3
        hydrogen = _hydrogen_above(background, redshift)
        above = np.interp(np.log10(masses), background.log10_masses, hydrogen)
        self.contrast = np.linspace(-_HIGHEST * np.sqrt(variances[-1]), 0.95 * barriers[-1], 2 * _NODES)
        table = self._smaller_haloes(background, redshift, masses[-1])
        mean = np.sum(remaining * np.interp(nodes, self.contrast, table))
        if common.any():
            self.patches = np.diff(above, prepend=0.0) / crossing
            self.table = table * ((hydrogen[0] - above[-1]) / mean)
        else:
            # Haloes as large as a patch are too rare for a box: their hydrogen is with that of the smaller ones.
            self.table = table * (hydrogen[0] / mean)
            self.patches = self.table[-1:]

    def _smaller_haloes(self, background, redshift, patch_mass):
        """Hydrogen per mass of matter in haloes smaller than a patch, for patches of each contrast; unnormalized."""
        points, weights = np.polynomial.legendre.leggauss(_NODES)
        span = np.log(patch_mass / _SMALLEST_HALO)
        mass = _SMALLEST_HALO * np.exp(0.5 * span * (points + 1.0))
        share, full = background.conditional_mass_fraction(self.growth, mass, patch_mass, self.contrast / self.growth)
        h = background.cosmology.h
        table = share @ (0.5 * span * weights * halo_hydrogen_mass(mass * h, redshift) / h / mass)
        # Just below the barrier a patch is as good as one halo.
        table = np.where(full, table[~full].max(), table)
        return np.maximum(table, 1e-6 * table.max())

    def paint(self, linear: np.ndarray) -> np.ndarray:
        """Shares ``(cells, cells, cells)`` float32, from the contrast of the particles that `ParticleBox` draws."""
        cells = len(linear)
        square, _, spread = _modes(cells)
        modes = scipy.fft.rfftn(linear) * (spread * np.float32(self.growth))
        share = np.zeros(linear.shape, np.float32)
        free = np.ones(linear.shape, bool)
        for limit, barrier, patch in zip(self.limits, self.barriers, self.patches, strict=True):
            field = scipy.fft.irfftn(modes * (square <= limit), linear.shape, overwrite_x=True)
            crossed = free & (field > np.float32(barrier))
            share[crossed] = patch
            free &= ~crossed
        share[free] = np.interp(field[free], self.contrast, self.table)
        return share


def _barrier(variance: np.ndarray) -> np.ndarray:
    """Linear contrast of ellipsoidal collapse on scales of a variance: Sheth & Tormen (2002, MNRAS 329, 61)."""
    scaled = variance / (_BARRIER_A * 1.686**2)
    return np.sqrt(_BARRIER_A) * 1.686 * (1.0 + _BARRIER_BETA * scaled**_BARRIER_ALPHA)


def _first_crossing(variances: np.ndarray, barriers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of walks with independent Gaussian steps, seen at ``variances`` only, in increasing order.

    Returns:
        Share of walks that are first above the barrier at each variance; contrasts ``nodes`` at the last; share of
        walks at each node that never were above.
    """
    steps = np.sqrt(np.diff(variances, prepend=0.0))
    width = min(np.sqrt(variances[-1]) / 200.0, 0.5 * steps.min())
    low, high = _HIGHEST * np.sqrt(variances[-1]), barriers.max() + _HIGHEST * steps.max()
    nodes = width * np.arange(-np.ceil(low / width), np.ceil(high / width) + 1.0)
    walks = np.zeros_like(nodes)
    walks[np.argmin(np.abs(nodes))] = 1.0
    crossing = []
    for step, barrier in zip(steps, barriers, strict=True):
        reach = np.arange(-np.ceil(_HIGHEST * step / width), np.ceil(_HIGHEST * step / width) + 1.0) * width
        kernel = np.exp(-0.5 * (reach / step) ** 2)
        walks = np.convolve(walks, kernel / kernel.sum(), "same")
        below = np.clip((barrier - nodes) / width + 0.5, 0.0, 1.0)
        crossing.append(np.sum(walks * (1.0 - below)))
        walks *= below
    return np.array(crossing), nodes, walks
