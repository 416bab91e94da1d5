"""21-cm light-cones from four astrophysical parameters, without a three-dimensional box."""

import dataclasses
import functools
import json

import numpy as np

from keras_cosmo.distances import comoving_distance, redshift_at_distance
from keras_cosmo.quantities import MapField, Parameter
from keras_cosmo.simulations.cosmology import Cosmology
from keras_cosmo.simulations.fields import CELL_RADIUS, Filter, PlaneDraw
from keras_cosmo.simulations.thermal import (
    CollapseModel,
    MeanHistory,
    SourceModel,
    brightness_temperature,
    mean_history,
)

LIGHTCONE_PARAMETERS = (
    Parameter(
        name="zeta",
        low=10.0,
        high=250.0,
        symbol=r"\zeta",
        description="ionising efficiency of galaxies",
    ),
    Parameter(
        name="log10_L_X",
        low=38.0,
        high=42.0,
        unit="erg s^-1 Msun^-1 yr",
        symbol=r"\log_{10} L_{X<2\,\mathrm{keV}}/\mathrm{SFR}",
        description="X-ray luminosity below 2 keV per star formation rate",
    ),
    Parameter(
        name="log10_T_vir",
        low=4.0,
        high=6.0,
        unit="K",
        symbol=r"\log_{10} T_\mathrm{vir}",
        description="smallest virial temperature of haloes that form stars",
    ),
    Parameter(
        name="E_0",
        low=0.1,
        high=1.5,
        unit="keV",
        symbol="E_0",
        description="X-ray energy below which galaxies absorb their own X-rays",
    ),
)

# Checked at the corners: beyond them the explicit steps overshoot, or nothing shines at all.
_PHYSICAL_RANGES = ((1.0, 1e3), (30.0, 43.0), (3.5, 6.9), (0.1, 1.99))

_DEGREE = 4
_REACH = 5.0  # of the contrast tables, in deviations


@dataclasses.dataclass(frozen=True)
class LightconeSimulator:
    """Embedded simulator of 21-cm light-cone slices, after 21cmFAST as Gillet et al. 2019 ran it (section 2.1).

    One simulation draws a plane of a Gaussian density field, jointly under all the smoothing filters the physics
    asks for (`PlaneDraw`), and turns it into the brightness temperature of the 21-cm line: excursion-set
    reionisation with sharp-k filters up to ``r_mfp``, X-ray and Lyman-alpha backgrounds from the collapsed fraction
    around each cell at the time the light left it, spin temperature, and the velocity gradient. A plane of
    100 x 2200 cells takes under 0.1 s of one core.

    Args:
        n_perp: Cells across the sky (periodic).
        n_los: Cells along the line of sight.
        z_min: Redshift where the cone begins.
        z_max: Redshift where it ends; without effect where ``cell_size`` is given.
        cell_size: Side of a cell in Mpc. The default, None, divides the comoving length from ``z_min`` to ``z_max``
            by ``n_los``. With a size given, ``n_los`` cells follow ``z_min`` (21cmFAST: 2085 cells of 1.5 Mpc). The
            first cell is at ``z_min`` itself, and the redshifts of all are those of 21cmFAST (`keras_cosmo.distances`).
        r_mfp: Largest radius of ionised bubbles in Mpc (Gillet et al. 2019, section 2.1: 15).
        maps_per_simulation: Planes with the same parameters. Each is an independent universe with initial
            conditions of its own, unlike slices of one box; the mean history is computed once for all.
        box_size: Leave out density modes longer than this, in Mpc, as a simulation in a periodic box does. The default,
            None, keeps all. Cones from small boxes have a smoother mean signal along the line of sight.
        redshift_factor: Ratio of 1 + z between time steps of the thermal history (21cmFAST ``ZPRIME_STEP_FACTOR``,
            1.02 there by default). The steps are explicit, as there: see `mean_history`.
        cosmology: Cosmological parameters.
        sources: Efficiencies that are not varied.

    Raises:
        ValueError: If a size, redshift or parameter is outside its range.

    Example:
        >>> simulator = LightconeSimulator(n_perp=32, n_los=512)
        >>> maps = simulator.simulate(np.array([60.0, 40.0, 4.7, 0.5]), seed=1)
        >>> maps["brightness_temp"].shape
        (1, 32, 512)

    Deviations from 21cmFAST: the density is log-normal instead of second-order Lagrangian; sources see the field of
    one redshift plane scaled by the growth factor; the electron fraction outside bubbles is a mean over the sky;
    there is no box, so nothing repeats along the line of sight, and modes of any length are present unless
    ``box_size`` is given; snapshots are not interpolated in redshift. ``benchmarks/compare_lightcones.py`` measures
    the agreement.
    """

    n_perp: int = 100
    n_los: int = 2200
    z_min: float = 6.0
    z_max: float = 30.0
    cell_size: float | None = None
    r_mfp: float = 15.0
    maps_per_simulation: int = 1
    box_size: float | None = None
    redshift_factor: float = 1.04
    cosmology: Cosmology = dataclasses.field(default_factory=Cosmology)
    sources: SourceModel = dataclasses.field(default_factory=SourceModel)

    def __post_init__(self):
        for name, least in (("n_perp", 8), ("n_los", 8), ("maps_per_simulation", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"LightconeSimulator: expected {name} to be an integer, got {value!r}.")
            if value < least:
                raise ValueError(f"LightconeSimulator: expected {name} >= {least}, got {value}.")
        if not 5.9 <= self.z_min < self.z_max <= 34.0:
            raise ValueError(
                "LightconeSimulator: expected 5.9 <= z_min < z_max <= 34 (the sources light up at redshift 35), got "
                f"z_min={self.z_min}, z_max={self.z_max}."
            )
        if self.cell_size is not None and not 0.1 <= self.cell_size <= 50.0:
            raise ValueError(f"LightconeSimulator: expected cell_size in [0.1, 50] Mpc, got {self.cell_size}.")
        if self.box_size is not None and not 30.0 <= self.box_size < np.inf:
            raise ValueError(f"LightconeSimulator: expected box_size None or at least 30 Mpc, got {self.box_size}.")
        if not 1.001 <= self.redshift_factor <= 1.1:
            raise ValueError(
                f"LightconeSimulator: expected redshift_factor in [1.001, 1.1], got {self.redshift_factor}."
            )
        if not 1.0 <= self.r_mfp <= 150.0:
            raise ValueError(f"LightconeSimulator: expected r_mfp in [1, 150] Mpc, got {self.r_mfp}.")
        if self.cell_size is not None:
            start, limit = comoving_distance([self.z_min, 34.0], h=self.cosmology.h, omega_m=self.cosmology.omega_m)
            fit = int((limit - start) / self.cell_size)
            if self.n_los > fit:
                raise ValueError(
                    f"LightconeSimulator: {self.n_los} cells of {self.cell_size} Mpc from redshift {self.z_min} reach "
                    f"beyond redshift 34; use at most n_los={fit}, or smaller cells."
                )

    @property
    def name(self) -> str:
        """Name recorded in databases."""
        return "embedded"

    @property
    def version(self) -> str:
        """Version of the physics: changes whenever the same seed gives other maps."""
        return "2"

    @property
    def task(self) -> str:
        """Task whose maps these are."""
        return "regression"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The astrophysical parameters, in the order `simulate` takes them."""
        return LIGHTCONE_PARAMETERS

    @property
    def fields(self) -> dict[str, MapField]:
        """The maps `simulate` returns."""
        description = "21-cm brightness temperature against the CMB; line of sight last, lowest redshift first"
        return {"brightness_temp": MapField(unit="mK", shape=(self.n_perp, self.n_los), description=description)}

    @property
    def redshifts(self) -> np.ndarray:
        """``(n_los,)`` redshift of each cell along the line of sight."""
        return _geometry(self).redshifts.copy()

    def attributes(self) -> dict:
        """What a database records of the maps' geometry and cosmology."""
        geometry = _geometry(self)
        return {
            "cell_size": float(geometry.cell_size),
            "cell_size_units": "Mpc",
            "periodic_across_sky": True,
            "redshifts": geometry.redshifts.copy(),
            "cosmology": json.dumps(self.cosmology.attributes()),
            "description": (
                f"{self.n_perp} x {self.n_los} slices (across the sky, line of sight) from the embedded simulator, "
                f"{self.maps_per_simulation} per simulation, each with its own initial conditions; bubbles up to "
                f"{self.r_mfp:g} Mpc"
            ),
        }

    def simulate(self, parameter_values, seed: int) -> dict[str, np.ndarray]:
        """Light-cone slices of one simulation.

        Args:
            parameter_values: ``(4,)`` values in the order and units of `LIGHTCONE_PARAMETERS`.
            seed: Integer from 0 to 2**31 - 1; the maps are a function of the values and the seed alone.

        Returns:
            ``{"brightness_temp": (maps_per_simulation, n_perp, n_los) float32}`` in mK.

        Raises:
            ValueError: If the values have the wrong shape, are not finite, or are outside the range in which the
                model holds, or if the seed is outside its range.
        """
        planes = self._planes(parameter_values, seed)
        return {"brightness_temp": np.stack([plane["brightness_temp"] for plane in planes])}

    def simulate_fields(self, parameter_values, seed: int) -> dict[str, np.ndarray]:
        """Like `simulate`, with the intermediate fields.

        Returns:
            Float32 arrays ``(maps_per_simulation, n_perp, n_los)``: ``brightness_temp`` (mK), ``density`` (contrast),
            ``neutral_fraction``, ``kinetic_temperature`` (K, outside bubbles), ``lyman_flux`` (photons per cm^2, s,
            Hz and steradian), ``velocity_gradient`` (in units of the Hubble rate).
        """
        planes = self._planes(parameter_values, seed)
        return {name: np.stack([plane[name] for plane in planes]) for name in planes[0]}

    def history(self, parameter_values) -> MeanHistory:
        """Mean history of the intergalactic medium for one set of parameters."""
        values = _checked(parameter_values)
        geometry = _geometry(self)
        return mean_history(
            self.cosmology.background(),
            self.sources,
            ionising_efficiency=values[0],
            x_ray_luminosity=10.0 ** values[1],
            virial_temperature=10.0 ** values[2],
            x_ray_threshold=values[3],
            radii=geometry.light_radii,
            deviations=geometry.light_deviations,
            redshift_factor=self.redshift_factor,
        )

    def _planes(self, parameter_values, seed):
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**31:
            raise ValueError(f"LightconeSimulator: expected seed to be an integer in [0, 2**31), got {seed!r}.")
        history = self.history(parameter_values)
        geometry = _geometry(self)
        zeta = float(np.asarray(parameter_values, float)[0])
        columns = _Columns(self.cosmology.background(), history, geometry, zeta)
        generators = np.random.default_rng(int(seed)).spawn(self.maps_per_simulation)
        background = self.cosmology.background()
        return [columns.plane(background, self.sources, geometry.draw(generator)) for generator in generators]


def _checked(parameter_values) -> np.ndarray:
    values = np.asarray(parameter_values, float)
    names = [parameter.name for parameter in LIGHTCONE_PARAMETERS]
    if values.shape != (len(names),):
        raise ValueError(f"parameter_values: expected shape ({len(names)},) for {names}, got shape {values.shape}.")
    for parameter, value, (low, high) in zip(LIGHTCONE_PARAMETERS, values, _PHYSICAL_RANGES, strict=True):
        if not np.isfinite(value):
            raise ValueError(f"parameter_values: {parameter.name} is not finite ({value}).")
        if not low <= value <= high:
            raise ValueError(
                f"parameter_values: expected {parameter.name} in [{low:g}, {high:g}], where the model holds (prior "
                f"range [{parameter.low:g}, {parameter.high:g}]), got {value:g}."
            )
    return values


@dataclasses.dataclass(frozen=True)
class _Geometry:
    """Tables that depend on the simulator's geometry and cosmology only."""

    cell_size: float
    redshifts: np.ndarray
    growth: np.ndarray
    bubble_radii: np.ndarray
    bubble_deviations: np.ndarray
    light_radii: np.ndarray
    light_deviations: np.ndarray
    draw: PlaneDraw


@functools.lru_cache(maxsize=8)
def _tables(cosmology, n_perp, n_los, z_min, z_max, cell_size, r_mfp, box_size) -> _Geometry:
    background = cosmology.background()
    expansion = {"h": cosmology.h, "omega_m": cosmology.omega_m}
    start, end = comoving_distance([z_min, z_max], **expansion).tolist()
    size = cell_size or (end - start) / n_los
    redshifts = redshift_at_distance(start + np.arange(n_los) * size, **expansion)
    smallest = CELL_RADIUS * size
    # The field of the cell itself serves both lists; then the bubbles' sharp-k filters, then top-hats for the light.
    count = max(2, int(np.ceil(np.log(max(r_mfp / smallest, 1.0)) / np.log(1.2))))
    bubbles = np.geomspace(smallest, max(r_mfp, 1.2 * smallest), count + 1)[1:]
    light = np.geomspace(smallest, max(160.0, 4.0 * smallest), 8)[1:]
    filters = (
        Filter("cell", size),
        *(Filter("sharp_k", radius, cell_size=size) for radius in bubbles),
        *(Filter("tophat", radius, cell_size=size) for radius in light),
    )
    longest = 0.0 if box_size is None else 2.0 * np.pi / box_size
    deviations = np.array([background.filtered_deviation(lambda k, f=f: f(k) * (k >= longest)) for f in filters])
    return _Geometry(
        cell_size=size,
        redshifts=redshifts,
        growth=background.growth(redshifts),
        bubble_radii=bubbles,
        bubble_deviations=deviations[1 : count + 1],
        light_radii=np.concatenate([[smallest], light]),
        light_deviations=np.concatenate([deviations[:1], deviations[count + 1 :]]),
        draw=PlaneDraw(background, (n_perp, n_los), size, filters, box_size=box_size),
    )


def _geometry(simulator: LightconeSimulator) -> _Geometry:
    s = simulator
    return _tables(s.cosmology, s.n_perp, s.n_los, s.z_min, s.z_max, s.cell_size, s.r_mfp, s.box_size)


class _Columns:
    """The history read off at each cell along the line of sight, in single precision, and applied to planes."""

    def __init__(self, background, history: MeanHistory, geometry: _Geometry, zeta: float):
        self.geometry = geometry
        log_grid, log_z = np.log1p(history.redshift), np.log1p(geometry.redshifts)
        position = np.interp(log_z, log_grid, np.arange(len(log_grid)))
        low = np.minimum(position.astype(int), len(log_grid) - 2)
        part = position - low

        def read(table):
            return ((1.0 - part) * table[..., low] + part * table[..., low + 1]).astype(np.float32)

        self.growth = geometry.growth.astype(np.float32)
        self.unheated = read(history.unheated_temperature)
        self.lyman_temperature = read(history.lyman_temperature)
        self.lyman_flux = read(history.lyman_flux)
        self.electrons = read(history.electron_fraction)
        self.heating_age = read(history.heating_age)
        self.heat_profile = read(_log_polynomials(history.x_ray_response, history.collapse))
        self.flux_profile = read(_log_polynomials(history.lyman_response, history.collapse))
        self.collapse_profile = read(_log_polynomials(zeta * history.collapse.fraction[:1], history.collapse))[0]
        level = (1.0 - history.electron_fraction) / zeta
        bubbles = CollapseModel(
            background, history.redshift, history.threshold_mass, geometry.bubble_radii, geometry.bubble_deviations
        )
        self.thresholds = read(bubbles.linear_threshold(level))

    def plane(self, background, sources, fields: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Signal on one plane of drawn fields."""
        geometry = self.geometry
        single = np.float32
        n_bubble = len(geometry.bubble_radii)
        cell, bubbles, light = fields[0], fields[1 : n_bubble + 1], [fields[0], *fields[n_bubble + 1 : -1]]
        variance = (self.growth * single(geometry.light_deviations[0])) ** 2
        log_density = cell * self.growth - variance / 2
        density = np.exp(log_density)

        ionised = np.zeros(cell.shape, bool)
        for field, threshold in zip(bubbles, self.thresholds, strict=True):
            ionised |= field > threshold
        heat, flux = 0.0, 0.0
        for j, field in enumerate(light):
            scaled = np.clip(field * single(1.0 / (_REACH * geometry.light_deviations[j])), -1.0, 1.0)
            if j == 0:
                collapsed = np.exp(_horner(self.collapse_profile, scaled))
            heat = heat + np.exp(_horner(self.heat_profile[j], scaled))
            flux = flux + np.exp(_horner(self.flux_profile[j], scaled))
        neutral = np.clip(1.0 - collapsed - self.electrons, 0.0, 1.0)
        neutral[ionised | (collapsed > 1.0 - self.electrons)] = 0.0

        # Gas heats as it contracts: from the start of the history, and from when it was heated.
        temperature = self.unheated * np.exp(single(2.0 / 3.0) * log_density)
        temperature += heat * np.exp((single(2.0 / 3.0) * (1.0 - self.heating_age)) * log_density)
        temperature += self.lyman_temperature * (flux / np.maximum(self.lyman_flux, single(1e-36)))
        brightness = brightness_temperature(
            background,
            sources,
            redshift=geometry.redshifts,
            density=density,
            log_density=log_density,
            neutral=neutral,
            temperature=temperature,
            lyman_flux=flux,
            velocity_gradient=-self.growth * fields[-1],
            electron_fraction=self.electrons,
        )
        return {
            "brightness_temp": brightness,
            "density": density - 1.0,
            "neutral_fraction": neutral,
            "kinetic_temperature": temperature,
            "lyman_flux": flux,
            "velocity_gradient": -self.growth * fields[-1],
        }


def _log_polynomials(response: np.ndarray, collapse: CollapseModel) -> np.ndarray:
    """Coefficients ``(n_radii, degree + 1, n_z)`` of the logarithm of responses in the scaled contrast."""
    scaled = collapse.contrast / _REACH
    weight = np.exp(-(collapse.contrast**2) / 8.0)
    basis = np.polynomial.polynomial.polyvander(scaled, _DEGREE)
    solve = np.linalg.pinv(basis * weight[:, None]) * weight
    logarithm = np.log(np.maximum(response, 1e-30 * response.max(axis=-1, keepdims=True)) + 1e-36)
    return np.einsum("pd,rzd->rpz", solve, logarithm)


def _horner(coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Polynomials, one per column: ``coefficients`` ``(degree + 1, n_los)``, ``x`` ``(n_perp, n_los)``."""
    value = coefficients[-1] * x
    for coefficient in coefficients[-2:0:-1]:
        value += coefficient
        value *= x
    value += coefficients[0]
    return value
