"""Coeval boxes of the 21-cm signal and of the matter behind it, from three astrophysical parameters."""

import dataclasses
import functools
import json

import numpy as np
import scipy.fft

from keras_cosmo.quantities import MapField, Parameter, field_at_redshift
from keras_cosmo.simulations.cosmology import Cosmology
from keras_cosmo.simulations.fields import CELL_RADIUS, Filter
from keras_cosmo.simulations.galaxies import GalaxyModel, GalaxyScaling, HaloMassFractions
from keras_cosmo.simulations.particles import ParticleBox
from keras_cosmo.simulations.thermal import (
    MeanHistory,
    SourceModel,
    brightness_temperature,
    first_light_response,
    radiative_history,
)
from keras_cosmo.slicing import PROJECTIONS, slab_starts, slice_box

COEVAL_PARAMETERS = (
    Parameter(
        name="log10_L_X",
        low=40.0,
        high=41.0,
        unit="erg s^-1 Msun^-1 yr",
        symbol=r"\log_{10} L_{X<2\,\mathrm{keV}}/\mathrm{SFR}",
        description="X-ray luminosity below 2 keV per star formation rate",
    ),
    Parameter(
        name="log10_M_min",
        low=8.0,
        high=9.0,
        unit="Msun",
        symbol=r"\log_{10} M_\mathrm{min}",
        description="halo mass below which star formation is exponentially rare",
    ),
    Parameter(
        name="log10_N_gamma",
        low=3.0,
        high=4.0,
        symbol=r"\log_{10} N_{\gamma/b}",
        description="ionising photons per stellar baryon",
    ),
)

# Checked at the corners: beyond them nothing shines, or all is ionised long before.
_PHYSICAL_RANGES = ((30.0, 43.0), (7.0, 10.5), (1.0, 5.0))

_PLANCK = Cosmology(omega_m=0.30964144, omega_b=0.04897468, h=0.6766, sigma_8=0.8102, n_s=0.9665, growth="carroll_1992")
"""Planck Collaboration (2020, A&A 641, A6), table 2, last column: the default of 21cmFAST 4.1.1."""

_SOURCES = SourceModel(lyman_heating=False, detailed=True)

_FIRST_LIGHT = 35.0  # 21cmFAST Z_HEAT_MAX
_BUBBLE_STEP = 1.1  # ratio of bubble radii, 21cmFAST DELTA_R_HII_FACTOR
_FIRST_BUBBLES = 1e-5  # mean ionised share below which none are looked for, 21cmFAST HII_ROUND_ERR
_BINS = 4096  # of density contrast, to look up what depends on it
_NODES = 56  # of density contrast, where integrals over haloes are done
_HIGHEST = 6.0  # contrast, in deviations: one cell in 10^9
_DENSEST = 15.0  # contrast that is told apart: far beyond collapse
_SHELLS = 40  # of sources, out to _SHELL_LIMIT: 21cmFAST N_STEP_TS
_SHELL_LIMIT = 500.0  # Mpc, 21cmFAST R_MAX_TS
_STRIDE = 3  # the density is smoothed for every third shell only
_REACH = 0.7  # of the box: beyond, spheres contain the mean density


@dataclasses.dataclass(frozen=True)
class CoevalSimulator:
    """Embedded simulator of coeval boxes, after 21cmFAST 4.1.1 with galaxies as in Park et al. 2019.

    The model of Villanueva-Domingo & Villaescusa-Navarro (2021, ApJ 907, 44, section II): matter by second-order
    Lagrangian perturbation theory (`ParticleBox`); galaxies in haloes above M_min, from the conditional mass function
    of spheres around each cell; excursion-set reionisation with sharp-k filters; X-ray and Lyman-alpha backgrounds,
    spin temperature, and the velocity gradient along the last axis. All redshifts of one simulation share their
    initial conditions.

    Args:
        box_cells: Cells along each side of the periodic box; even, 16 to 200. The paper: 200.
        cell_size: Side of a cell in Mpc. The paper, section II: 1.5.
        redshifts: Redshifts of the boxes, 6 to 34. The paper: 10, 15 and 20.
        slabs: Maps per box; must divide ``box_cells``. The paper: 20 of 200 cells.
        slab_cells: Cells each slab is thick. The paper: 4, that is 6 Mpc.
        projection: ``"mean"`` or ``"sum"`` over the cells of a slab.
        r_mfp: Largest radius of ionised bubbles in Mpc (the paper, section II: 15).
        x_ray_threshold: E_0 in keV, below which galaxies absorb their X-rays (the paper: 0.5).
        redshift_factor: Ratio of 1 + z between time steps of the thermal history (21cmFAST ``ZPRIME_STEP_FACTOR``). The
            steps are explicit, and spaced upwards from the lowest of ``redshifts``, as there: longer ones give colder
            gas before X-rays heat it, and hotter gas after. Give the factor that the maps to compare with were made
            with (1.02 by default in 21cmFAST).
        cosmology: Cosmological parameters; by default those of 21cmFAST 4.1.1 (Planck 2018).
        sources: Efficiencies of sources that are not varied; ``ionising_photons`` is replaced by N_gamma.
        galaxies: How galaxies scale with the mass of their haloes.

    Raises:
        TypeError: If a number of cells is not an integer.
        ValueError: If an argument is outside its range.

    Example:
        >>> simulator = CoevalSimulator(box_cells=32, slabs=8)
        >>> maps = simulator.simulate(np.array([40.5, 8.5, 3.7]), seed=1)
        >>> {name: array.shape for name, array in maps.items()}
        {'brightness_temp_z15': (8, 32, 32), 'density_z15': (8, 32, 32)}

    Deviations from 21cmFAST: initial conditions on two instead of three cells per cell and side; at earlier times the
    sources and the gas see the density of the box's redshift, scaled with the linear growth factor; shells of sources
    are grouped into fewer radii; the ionised fraction outside bubbles is a mean over the box.
    ``benchmarks/compare_coeval.py`` measures the agreement.
    """

    box_cells: int = 64
    cell_size: float = 1.5
    redshifts: tuple[float, ...] = (15.0,)
    slabs: int = 16
    slab_cells: int = 4
    projection: str = "mean"
    r_mfp: float = 15.0
    x_ray_threshold: float = 0.5
    redshift_factor: float = 1.04
    cosmology: Cosmology = _PLANCK
    sources: SourceModel = _SOURCES
    galaxies: GalaxyScaling = dataclasses.field(default_factory=GalaxyScaling)

    def __post_init__(self):
        for name in ("box_cells", "slabs", "slab_cells"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"CoevalSimulator: expected {name} to be an integer, got {value!r}.")
        if not 16 <= self.box_cells <= 200 or self.box_cells % 2:
            raise ValueError(f"CoevalSimulator: expected box_cells even, from 16 to 200, got {self.box_cells}.")
        slab_starts(self.box_cells, slabs=self.slabs, slab_cells=self.slab_cells)
        if self.projection not in PROJECTIONS:
            raise ValueError(
                f"CoevalSimulator: expected projection one of {list(PROJECTIONS)}, got {self.projection!r}."
            )
        redshifts = tuple(float(z) for z in np.atleast_1d(self.redshifts))
        if not redshifts or not all(6.0 <= z <= 34.0 for z in redshifts):
            raise ValueError(
                f"CoevalSimulator: expected redshifts in [6, 34] (sources light up at redshift 35), got {redshifts}."
            )
        names = [f"{z:g}" for z in redshifts]
        if len(set(names)) < len(names):
            raise ValueError(f"CoevalSimulator: expected redshifts that differ by name, got {names}.")
        object.__setattr__(self, "redshifts", redshifts)
        for name, low, high in (
            ("cell_size", 0.5, 10.0),
            ("r_mfp", 1.0, 150.0),
            ("x_ray_threshold", 0.1, 1.99),
            ("redshift_factor", 1.001, 1.1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"CoevalSimulator: expected {name} in [{low:g}, {high:g}], got {value}.")

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
        return "matter"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The astrophysical parameters, in the order `simulate` takes them."""
        return COEVAL_PARAMETERS

    @property
    def maps_per_simulation(self) -> int:
        """Maps of each field."""
        return self.slabs

    @property
    def fields(self) -> dict[str, MapField]:
        """The maps `simulate` returns."""
        shape = (self.box_cells, self.box_cells)
        fields = {}
        for z in self.redshifts:
            fields[field_at_redshift("brightness_temp", z)] = MapField(
                unit="mK",
                shape=shape,
                description=f"21-cm brightness temperature against the CMB at redshift {z:g}, in redshift space",
            )
            fields[field_at_redshift("density", z)] = MapField(
                unit="", shape=shape, description=f"matter overdensity at redshift {z:g}, in real space"
            )
        return fields

    def attributes(self) -> dict:
        """What a database records of the maps' geometry and cosmology."""
        return {
            "cell_size": float(self.cell_size),
            "cell_size_units": "Mpc",
            "periodic_across_sky": True,
            "redshifts": np.array(self.redshifts),
            "projection": self.projection,
            "slab_cells": int(self.slab_cells),
            "cosmology": json.dumps(self.cosmology.attributes()),
            "description": (
                f"{self.box_cells} x {self.box_cells} maps of periodic boxes from the embedded simulator, {self.slabs} "
                f"slabs of {self.slab_cells} cells per box; bubbles up to {self.r_mfp:g} Mpc"
            ),
        }

    def simulate(self, parameter_values, seed: int) -> dict[str, np.ndarray]:
        """Maps of one simulation.

        Args:
            parameter_values: ``(3,)`` values in the order and units of `COEVAL_PARAMETERS`.
            seed: Integer from 0 to 2**31 - 1. It sets the initial conditions; the maps are a function of the values and
                the seed alone.

        Returns:
            ``(slabs, box_cells, box_cells)`` float32 arrays: ``brightness_temp_z<z>`` in mK and ``density_z<z>``,
            the overdensity, for each redshift. Map i is slab i of all.

        Raises:
            ValueError: If the values have the wrong shape, are not finite, or are outside the range in which the
                model holds, or if the seed is outside its range.
        """
        maps = {}
        for z, box in zip(self.redshifts, self._boxes(parameter_values, seed), strict=True):
            for kind in ("brightness_temp", "density"):
                maps[field_at_redshift(kind, z)] = slice_box(
                    box[kind], slabs=self.slabs, slab_cells=self.slab_cells, projection=self.projection
                )
        return maps

    def simulate_boxes(self, parameter_values, seed: int) -> dict[str, np.ndarray]:
        """The boxes that `simulate` cuts, with the intermediate fields.

        Returns:
            Float32 arrays ``(box_cells, box_cells, box_cells)``, line of sight last, each with ``_z<z>`` added to its
            name: ``brightness_temp`` (mK), ``density`` (contrast), ``neutral_fraction``, ``kinetic_temperature`` (K,
            outside bubbles), ``lyman_flux`` (photons per cm^2, s, Hz and steradian), ``velocity_gradient`` (in units
            of the Hubble rate).
        """
        boxes = zip(self.redshifts, self._boxes(parameter_values, seed), strict=True)
        return {field_at_redshift(kind, z): array for z, box in boxes for kind, array in box.items()}

    def _boxes(self, parameter_values, seed):
        values = _checked(parameter_values)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**31:
            raise ValueError(f"CoevalSimulator: expected seed to be an integer in [0, 2**31), got {seed!r}.")
        particles = _particles(self.cosmology, self.box_cells, self.cell_size)
        initial = particles.draw(np.random.default_rng(int(seed)))
        for z in self.redshifts:
            geometry = _geometry(
                self.cosmology, self.box_cells, self.cell_size, z, min(self.redshifts), self.r_mfp, self.redshift_factor
            )
            yield _Signal(self, values, geometry).box(particles.density(initial, z))


def _checked(parameter_values) -> np.ndarray:
    values = np.asarray(parameter_values, float)
    names = [parameter.name for parameter in COEVAL_PARAMETERS]
    if values.shape != (len(names),):
        raise ValueError(f"parameter_values: expected shape ({len(names)},) for {names}, got shape {values.shape}.")
    for parameter, value, (low, high) in zip(COEVAL_PARAMETERS, values, _PHYSICAL_RANGES, strict=True):
        if not np.isfinite(value):
            raise ValueError(f"parameter_values: {parameter.name} is not finite ({value}).")
        if not low <= value <= high:
            raise ValueError(
                f"parameter_values: expected {parameter.name} in [{low:g}, {high:g}], where the model holds (prior "
                f"range [{parameter.low:g}, {parameter.high:g}]), got {value:g}."
            )
    return values


@functools.lru_cache(maxsize=2)
def _particles(cosmology, cells, cell_size) -> ParticleBox:
    return ParticleBox(cosmology.background(), cells, cell_size)


@dataclasses.dataclass(frozen=True)
class _Geometry:
    """Tables that depend on the geometry, the cosmology and the redshift only."""

    redshift: float
    square: np.ndarray  # of each mode's wavenumber, in units of the longest mode's
    longest: float  # that mode's wavenumber in 1/Mpc
    line_of_sight: np.ndarray
    shells: np.ndarray
    light: HaloMassFractions
    bubbles: HaloMassFractions


@functools.lru_cache(maxsize=8)
def _geometry(cosmology, cells, cell_size, redshift, lowest_redshift, r_mfp, redshift_factor) -> _Geometry:
    background = cosmology.background()
    full = np.round(scipy.fft.fftfreq(cells, 1.0 / cells)).astype(np.int32)
    half = np.arange(cells // 2 + 1, dtype=np.int32)
    square = full[:, None, None] ** 2 + full[None, :, None] ** 2 + half**2
    # The gradient of a real field has no part at the Nyquist wavenumber.
    line_of_sight = np.where(half < half[-1], half**2, 0) / np.maximum(square, 1)

    smallest = CELL_RADIUS * cell_size
    steps = int(np.log(max(r_mfp / smallest, 1.0)) / np.log(_BUBBLE_STEP) + 1.0)
    bubbles = np.minimum(smallest * _BUBBLE_STEP ** np.arange(steps), r_mfp)
    side = cells * cell_size
    shells = np.geomspace(smallest, _SHELL_LIMIT, _SHELLS + 1)[:-1]
    light = np.append(shells[shells < _REACH * side][::_STRIDE], 3.0 * side)
    history = _history_redshifts(redshift, lowest_redshift, redshift_factor)
    return _Geometry(
        redshift=redshift,
        square=square,
        longest=2.0 * np.pi / side,
        line_of_sight=line_of_sight.astype(np.float32),
        shells=shells,
        light=HaloMassFractions(background, history, light, _contrasts(background, redshift, light, cell_size)),
        bubbles=HaloMassFractions(
            background, history[:1], bubbles, _contrasts(background, redshift, bubbles, cell_size)
        ),
    )


def _history_redshifts(redshift, lowest_redshift, factor):
    """Redshifts of the time steps down to ``redshift``, increasing: spaced from the lowest box up to first light."""
    count = int(np.ceil(np.log((1.0 + _FIRST_LIGHT) / (1.0 + lowest_redshift)) / np.log(factor)))
    steps = (1.0 + lowest_redshift) * factor ** np.arange(count + 1) - 1.0
    return np.append(redshift, steps[steps > redshift + 1e-6])


def _contrasts(background, redshift, radii, cell_size):
    """Contrasts ``(n_radii, _NODES)`` that smoothed fields may reach, evenly spaced in the logarithm of density."""
    growth = background.growth(redshift)
    rows = []
    for radius in radii:
        deviation = max(growth * background.filtered_deviation(Filter("tophat", radius, cell_size=cell_size)), 1e-3)
        highest = min(_HIGHEST * deviation, np.log1p(_DENSEST))
        rows.append(np.expm1(np.linspace(-_HIGHEST * deviation, highest, _NODES)))
    return np.array(rows)


class _Signal:
    """The signal of one set of parameters at one redshift."""

    def __init__(self, simulator: CoevalSimulator, values, geometry: _Geometry):
        luminosity, minimum_mass, photons = 10.0**values
        self.geometry = geometry
        self.background = simulator.cosmology.background()
        self.sources = dataclasses.replace(simulator.sources, ionising_photons=photons)
        self.galaxies, self.minimum_mass = simulator.galaxies, minimum_mass
        self.luminosity, self.threshold = luminosity, simulator.x_ray_threshold
        self.efficiency = photons * self.sources.star_fraction * self.galaxies.escape_fraction

    def box(self, density: np.ndarray) -> dict[str, np.ndarray]:
        """All fields of a box of density contrasts."""
        single = np.float32
        geometry = self.geometry
        modes = scipy.fft.rfftn(density)
        indices, occurrence = self._light_bins(modes, density)
        history = self.history(occurrence)
        electrons = float(history.electron_fraction[0])

        contrast = np.maximum(density, single(-0.999))
        log_density = np.log1p(contrast)
        heat = self._looked_up(indices, history.x_ray_response[:, 0])
        flux = self._looked_up(indices, history.lyman_response[:, 0])
        neutral = self._neutral_fraction(modes, density, electrons)
        # Gas heats as it contracts: from the start of the history, and from when it was heated.
        adiabatic = 2.0 / 3.0
        earlier = contrast * single(self.background.growth(_FIRST_LIGHT) / self.background.growth(geometry.redshift))
        response = single(first_light_response(_FIRST_LIGHT) - adiabatic)
        temperature = np.exp(single(adiabatic) * log_density + response * np.log1p(earlier))
        temperature *= single(history.unheated_temperature[0])
        mean_heat = single(max(history.x_ray_temperature[0], 1e-6))
        log_heat = np.log(np.maximum(heat / mean_heat, single(1e-6))) * single(1.0 + history.heating_feedback[0])
        log_heat += single(adiabatic * (1.0 - history.heating_age[0])) * log_density
        temperature += mean_heat * np.exp(log_heat)
        temperature += single(history.lyman_temperature[0]) * (flux / single(max(history.lyman_flux[0], 1e-36)))
        rate = self.background.growth_rate(geometry.redshift)
        gradient = scipy.fft.irfftn(modes * (geometry.line_of_sight * single(-rate)), density.shape)
        brightness = brightness_temperature(
            self.background,
            self.sources,
            redshift=np.array([geometry.redshift]),
            density=1.0 + contrast,
            log_density=log_density,
            neutral=neutral,
            temperature=temperature,
            lyman_flux=flux,
            velocity_gradient=gradient,
            electron_fraction=np.array([electrons]),
        )
        return {
            "brightness_temp": brightness,
            "density": density,
            "neutral_fraction": neutral,
            "kinetic_temperature": temperature,
            "lyman_flux": flux,
            "velocity_gradient": gradient,
        }

    def history(self, occurrence: np.ndarray) -> MeanHistory:
        """History of a box in which spheres of each radius have the contrasts in ``occurrence``."""
        galaxies = GalaxyModel(
            self.geometry.light, self.galaxies, self.sources.star_fraction, self.minimum_mass, occurrence
        )
        return radiative_history(
            self.background,
            self.sources,
            galaxies,
            neutral_filling=np.clip(1.0 - self.efficiency * galaxies.mean, 1e-4, 1.0),
            threshold_mass=np.full(len(galaxies.redshift), self.minimum_mass),
            x_ray_luminosity=self.luminosity,
            x_ray_threshold=self.threshold,
            shells=self.geometry.shells,
        )

    def _light_bins(self, modes, density):
        """For each radius of light, the bin of contrast of every cell, and the share of cells at each node."""
        indices, shares = [], []
        for radius, nodes in zip(self.geometry.light.radii, self.geometry.light.contrast, strict=True):
            field = density if not indices else self._filtered(modes, Filter("tophat", radius), density.shape)
            index = _bins(field, nodes)
            indices.append(index)
            shares.append(_share_of_nodes(index, nodes))
        return indices, np.array(shares)

    def _filtered(self, modes, window: Filter, shape):
        table = window(self.geometry.longest * np.sqrt(np.arange(self.geometry.square.max() + 1)))
        return scipy.fft.irfftn(modes * table.astype(np.float32)[self.geometry.square], shape, overwrite_x=True)

    def _looked_up(self, indices, responses):
        """Sum over radii of ``responses`` ``(n_radii, n_delta)`` at the contrast of every cell."""
        total = 0.0
        for index, response, nodes in zip(indices, responses, self.geometry.light.contrast, strict=True):
            logarithm = np.log(np.maximum(response, 1e-36))
            total = total + np.exp(np.interp(_centres(nodes), nodes, logarithm)).astype(np.float32)[index]
        return total

    def _neutral_fraction(self, modes, density, electrons):
        """Excursion set: a cell is ionised if around it, at any radius, photons outnumber neutral atoms."""
        single = np.float32
        halos = self.geometry.bubbles

        def photons(mass):
            return self.galaxies.photons(mass, self.minimum_mass, self.sources.star_fraction)

        mean = self.efficiency * halos.mean(photons)[0]
        if mean < _FIRST_BUBBLES:
            return np.full(density.shape, single(1.0 - electrons))
        tables = halos.conditional(photons)[:, 0]
        neutral = 1.0 - electrons
        # Radii at which not even the densest sphere is ionised need no filter.
        logarithm = np.log1p(halos.contrast)
        gaussian = np.exp(-((_HIGHEST * logarithm / logarithm[:, :1]) ** 2) / 2.0)
        highest = mean * tables[:, -1] * gaussian.sum(axis=1) / np.sum(tables * gaussian, axis=1)
        ionised = np.zeros(density.shape, bool)
        for j in range(len(tables) - 1, 0, -1):
            if highest[j] < neutral:
                continue
            radius, nodes = halos.radii[j], halos.contrast[j]
            field = self._filtered(modes, Filter("sharp_k", radius), density.shape)
            # A smooth field is known from every other cell.
            sampled = field[::2, ::2, ::2] if radius > 2.0 * halos.radii[0] / CELL_RADIUS else field
            share = _share_of_nodes(_bins(sampled, nodes), nodes)
            supplied = tables[j] * (mean / (share @ tables[j]))
            above = np.flatnonzero(supplied > neutral)
            if above.size:
                ionised |= field > _crossing(nodes, supplied, neutral, above[0])
        nodes, index = halos.contrast[0], _bins(density, halos.contrast[0])
        table = np.exp(np.interp(_centres(nodes), nodes, np.log(tables[0])))
        table *= mean / (np.bincount(index.ravel(), minlength=_BINS) @ table / index.size)
        partial = np.clip(1.0 - table - electrons, 0.0, 1.0).astype(single)[index]
        partial[ionised] = 0.0
        return partial


def _crossing(nodes, values, level, first):
    """Contrast at which ``values``, increasing, cross ``level``; ``first`` is the first node above."""
    if first == 0:
        return -np.inf
    low, high = np.log(values[first - 1]), np.log(values[first])
    part = (np.log(level) - low) / (high - low)
    return np.float32(nodes[first - 1] + part * (nodes[first] - nodes[first - 1]))


def _bins(field, nodes):
    """Bin of every value among `_BINS` of equal width between the first and the last node."""
    width = (nodes[-1] - nodes[0]) / (_BINS - 1)
    position = (field - np.float32(nodes[0] - 0.5 * width)) * np.float32(1.0 / width)
    return np.clip(position, 0, _BINS - 1).astype(np.int16)


def _centres(nodes):
    return np.linspace(nodes[0], nodes[-1], _BINS)


def _share_of_nodes(index, nodes):
    """Share of the cells at each node, from their bins; a cell between two nodes counts for both."""
    counts = np.bincount(index.ravel(), minlength=_BINS) / index.size
    position = np.interp(_centres(nodes), nodes, np.arange(len(nodes)))
    low = np.minimum(position.astype(int), len(nodes) - 2)
    part = position - low
    upper = np.bincount(low + 1, counts * part, len(nodes))
    return upper + np.bincount(low, counts * (1.0 - part), len(nodes))
