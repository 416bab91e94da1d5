"""Light-cones by 21cmFAST itself, through its Python package py21cmfast 4 (an optional dependency)."""

import dataclasses
import json
import tempfile

import numpy as np

from keras_cosmo.distances import lightcone_distances, redshift_at_distance
from keras_cosmo.quantities import MapField, Parameter
from keras_cosmo.simulations.cosmology import CRITICAL_DENSITY, Cosmology
from keras_cosmo.simulations.lightcones import LIGHTCONE_PARAMETERS
from keras_cosmo.simulations.py21cmfast_package import (
    HIGHEST_REDSHIFT,
    LOWEST_REDSHIFT,
    MEAN_FREE_PATH,
    check_box,
    check_finite,
    check_parameter_values,
    check_seed,
    describe,
    evolved_redshifts,
    import_py21cmfast,
    silence,
)
from keras_cosmo.slicing import slice_lightcone, sliced_shape

X_RAY_SPECTRAL_INDEX = 1.0
"""Slope of the X-ray energy spectrum (Gillet et al. 2019, section 2.1)."""
TEMPERATURE = next(parameter for parameter in LIGHTCONE_PARAMETERS if parameter.name == "log10_T_vir")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Py21cmfastLightconeSimulator:
    """Images of 21-cm light-cones computed by 21cmFAST, in the geometry of Gillet et al. 2019, section 2.

    Every simulation is a box of its own with its own random seed, evolved with spin temperature fluctuations and seen
    as a light-cone, from which slices along the line of sight are taken. The source model is the constant ionising
    efficiency of the paper (template ``const-zeta``) with the minimum halo mass set by the virial temperature:
    ``M_MIN_in_Mass`` is off, and ``ION_Tvir_MIN`` and ``X_RAY_Tvir_MIN`` are both ``log10_T_vir``. (With the
    template as it comes, the virial temperature has no effect whatever.) The velocity-gradient correction of the
    21-cm optical depth is on.

    The box is tiled along the line of sight. A small one therefore repeats: 75 Mpc come 42 times between z = 6 and 30,
    structures recur every 50 cells and the mean temperature wiggles with that period. Prefer the paper's 300 Mpc for
    results, and small boxes for tests.

    21cmFAST 4 cannot evolve haloes that outweigh a cell. With cells of 1.5 Mpc down to z = 6 the prior of log10_T_vir
    therefore ends at 5.93, not at the paper's 6 (see ``parameters``); from 1.65 Mpc on it is the whole.

    Cost, measured on one core: 50 cells at ``redshift_step=1.04`` take 35 s and 0.7 to 1.2 GB. Both grow with the
    number of cells, and time with that of the redshifts: one to two hours and 10 to 20 GB (estimated) for one
    light-cone of the paper.

    When 21cmFAST fails it may leave damaged memory behind, which can kill its process later: run campaigns with two
    workers or more, which survive that.

    Args:
        box_cells: Cells along each side of the box. The paper: 200.
        cell_size: Side of a cell in Mpc. The paper: 1.5. The box must be at least 45 Mpc wide, three times the mean
            free path.
        z_min: Redshift of the nearest cell, at least 5.5. The paper: 6.
        z_max: Redshift that the farthest cell reaches, at most 35. The paper: 30.
        slices: Slices per transverse axis. The paper: 5.
        spacing: Distance between neighbouring slices in Mpc. The paper: 60.
        parts: Images each slice is cut into across the sky. The paper: 2.
        axes: Transverse axes normal to the slices: ``(0,)``, ``(1,)`` or ``(0, 1)``.
        redshift_step: Ratio of (1+z) between two evolved boxes. 21cmFAST's own default: 1.02.
        threads: OpenMP threads of one simulation. With 1, run as many simulations at once as there are cores.
        cosmology: Cosmological parameters. Default: those of the paper, section 2.1.

    Raises:
        TypeError: If an integer argument is not an integer.
        ValueError: If an argument is out of range, or the slices do not fit into the box.
        ImportError: When first used, if 21cmFAST is not installed; the message says how to install it.

    Example:
        >>> simulator = Py21cmfastLightconeSimulator(box_cells=50, slices=2, spacing=36.0, parts=1)
        >>> simulator.fields["brightness_temp"].shape
        (50, 2085)
        >>> maps = simulator.simulate(np.array([30.0, 40.0, 4.7, 0.5]), seed=1)  # doctest: +SKIP
    """

    box_cells: int = 200
    cell_size: float = 1.5
    z_min: float = 6.0
    z_max: float = 30.0
    slices: int = 5
    spacing: float = 60.0
    parts: int = 2
    axes: tuple[int, ...] = (0,)
    redshift_step: float = 1.02
    threads: int = 1
    cosmology: Cosmology = dataclasses.field(default_factory=Cosmology)

    name = "py21cmfast"
    task = "regression"

    def __post_init__(self):
        check_box(self.box_cells, self.cell_size, self.threads, self.redshift_step)
        if not LOWEST_REDSHIFT <= self.z_min < self.z_max <= HIGHEST_REDSHIFT:
            raise ValueError(
                f"z_min, z_max: expected {LOWEST_REDSHIFT} <= z_min < z_max <= {HIGHEST_REDSHIFT:g}, the range "
                f"21cmFAST evolves, got {self.z_min} and {self.z_max}."
            )
        object.__setattr__(self, "axes", tuple(self.axes))
        self._sliced_shape()
        if self.hottest_log10_T_vir() <= TEMPERATURE.low:
            raise ValueError(
                f"cell_size: a cell of {self.cell_size} Mpc is lighter than every halo of interest; 21cmFAST cannot "
                f"evolve it. Take larger cells, such as the paper's 1.5 Mpc."
            )

    @property
    def version(self) -> str:
        """Version of the installed 21cmFAST."""
        return import_py21cmfast().__version__

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Names, units and prior ranges; the range of log10_T_vir ends where 21cmFAST does."""
        high = min(TEMPERATURE.high, self.hottest_log10_T_vir())
        replaced = {TEMPERATURE.name: dataclasses.replace(TEMPERATURE, high=high)}
        return tuple(replaced.get(parameter.name, parameter) for parameter in LIGHTCONE_PARAMETERS)

    @property
    def maps_per_simulation(self) -> int:
        """Images of one light-cone."""
        return self._sliced_shape()[0]

    @property
    def fields(self) -> dict[str, MapField]:
        """The 21-cm brightness temperature, ``(across the sky, line of sight)``, nearest cell first."""
        shape = self._sliced_shape()[1:]
        return {"brightness_temp": MapField(unit="mK", shape=shape, description="21-cm brightness temperature")}

    def attributes(self) -> dict[str, object]:
        """What a database of these images says about all of them."""
        hottest = next(parameter.high for parameter in self.parameters if parameter.name == TEMPERATURE.name)
        return {
            "cell_size": self.cell_size,
            "cell_size_units": "Mpc",
            "periodic_across_sky": self.parts == 1,
            "redshifts": redshift_at_distance(self._distances(), h=self.cosmology.h, omega_m=self.cosmology.omega_m),
            "cosmology": json.dumps(self.cosmology.attributes()),
            "description": (
                f"Light-cones of a {self.box_cells * self.cell_size:g} Mpc box of {self.box_cells} cells, repeated "
                f"along the line of sight, z = {self.z_min:g} to {self.z_max:g}; {self.slices} slices {self.spacing:g} "
                f"Mpc apart normal to transverse axes {list(self.axes)}, each cut into {self.parts}; template "
                f"const-zeta, M_MIN_in_Mass False, spin temperature on, R_BUBBLE_MAX {MEAN_FREE_PATH:g} Mpc, "
                f"ZPRIME_STEP_FACTOR {self.redshift_step:g}; log10_T_vir up to {hottest:g}, so that no smallest halo "
                f"outweighs a cell"
            ),
        }

    def node_redshifts(self) -> tuple[float, ...]:
        """Redshifts of the evolved boxes, descending, in the spacing of 21cmFAST; only one is below ``z_min``."""
        nodes = evolved_redshifts(LOWEST_REDSHIFT, self.redshift_step)
        lowest = max(node for node in nodes if node <= self.z_min)
        return tuple(node for node in nodes if node >= lowest)

    def hottest_log10_T_vir(self) -> float:
        """Largest log10 of T_vir [K] that 21cmFAST 4 evolves down to ``z_min``, rounded down to 0.01.

        It stops with an error, and with damaged memory, once the smallest halo outweighs the matter of one cell.
        The mass of a halo is that of Barkana & Loeb (2001, Phys. Rep. 349, 125), equation 26.
        """
        matter, growth = self.cosmology.omega_m, 1.0 + min(self.node_redshifts())
        cell_mass = CRITICAL_DENSITY * self.cosmology.h**2 * matter * self.cell_size**3
        matter_then = matter * growth**3 / (matter * growth**3 + 1.0 - matter)
        overdensity = 18.0 * np.pi**2 + 82.0 * (matter_then - 1.0) - 39.0 * (matter_then - 1.0) ** 2
        virial = (matter / matter_then * overdensity / (18.0 * np.pi**2)) ** (1.0 / 3.0)
        temperature = 1.98e4 * (cell_mass * self.cosmology.h / 1e8) ** (2.0 / 3.0) * virial * growth / 10.0
        return float(np.floor(100.0 * (np.log10(temperature) - 0.001)) / 100.0)

    def template_arguments(self, parameter_values: np.ndarray) -> dict[str, object]:
        """Arguments for ``InputParameters.from_template("const-zeta", ...)`` of py21cmfast.

        Args:
            parameter_values: zeta; log10 of L_X [erg s^-1 Msun^-1 yr]; log10 of T_vir [K]; E_0 [keV].

        Raises:
            ValueError: If the values are not four finite numbers, or T_vir is higher than 21cmFAST can evolve.
        """
        values = check_parameter_values(self.parameters, parameter_values)
        zeta, log10_luminosity, log10_virial_temperature, threshold_energy = values
        if log10_virial_temperature > self.hottest_log10_T_vir():
            raise ValueError(
                f"parameter_values: log10_T_vir = {log10_virial_temperature:g} is too high for cells of "
                f"{self.cell_size:g} Mpc: down to z = {self.z_min:g} 21cmFAST evolves up to "
                f"{self.hottest_log10_T_vir():g}, where the smallest halo has the mass of a cell. Stay below, "
                f"take larger cells, or a higher z_min."
            )
        cosmology = self.cosmology.attributes()
        return {
            **cosmology,
            "HII_DIM": int(self.box_cells),
            "BOX_LEN": float(self.box_cells * self.cell_size),
            "N_THREADS": int(self.threads),
            "ZPRIME_STEP_FACTOR": float(self.redshift_step),
            "Z_HEAT_MAX": HIGHEST_REDSHIFT,
            "USE_TS_FLUCT": True,
            "M_MIN_in_Mass": False,
            "R_BUBBLE_MAX": MEAN_FREE_PATH,
            "X_RAY_SPEC_INDEX": X_RAY_SPECTRAL_INDEX,
            "HII_EFF_FACTOR": zeta,
            "L_X": log10_luminosity,
            "ION_Tvir_MIN": log10_virial_temperature,
            "X_RAY_Tvir_MIN": log10_virial_temperature,
            "NU_X_THRESH": 1000.0 * threshold_energy,
        }

    def simulate(self, parameter_values: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Run 21cmFAST once and slice its light-cone.

        Args:
            parameter_values: zeta; log10 of L_X [erg s^-1 Msun^-1 yr]; log10 of T_vir [K]; E_0 [keV].
            seed: Random seed of the initial conditions, 0 to 2^31 - 1.

        Returns:
            ``{"brightness_temp": float32 array (maps_per_simulation, n_perpendicular, n_los)}`` in mK.

        Raises:
            ImportError: If 21cmFAST is missing.
            ValueError: If the parameters or the seed are unusable.
            RuntimeError: If 21cmFAST fails or returns values that are not finite; names parameters and seed.
        """
        arguments = self.template_arguments(parameter_values)
        seed = check_seed(seed)
        simulation = describe(self.parameters, parameter_values, seed)
        package = import_py21cmfast()
        try:
            lightcone = self._run(package, arguments, seed)
        except Exception as error:
            raise RuntimeError(f"21cmFAST failed for {simulation}: {error}") from error
        maps = slice_lightcone(
            lightcone, self.cell_size, slices=self.slices, spacing=self.spacing, parts=self.parts, axes=self.axes
        )
        check_finite(maps, simulation)
        return {"brightness_temp": maps}

    def _run(self, package, arguments: dict[str, object], seed: int) -> np.ndarray:
        from astropy import units
        from py21cmfast.io.caching import CacheConfig, OutputCache

        # The advice it warns about (resolution, mass function) is about choices that are the paper's.
        with tempfile.TemporaryDirectory(prefix="keras_cosmo_21cmfast_") as folder, silence():
            inputs = package.InputParameters.from_template(
                "const-zeta", random_seed=seed, node_redshifts=self.node_redshifts(), **arguments
            )
            cosmology = inputs.cosmo_params.cosmo
            # Its own distance to the first cell, so that cells fall exactly where its own layout puts them.
            near = cosmology.comoving_distance(self.z_min).to_value("Mpc")
            cells = len(self._distances())
            distances = np.arange(near, near + (cells - 0.5) * self.cell_size, self.cell_size) * units.Mpc
            lightcone = package.run_lightcone(
                lightconer=package.RectilinearLightconer(
                    lc_distances=distances, cosmo=cosmology, quantities=("brightness_temp",)
                ),
                inputs=inputs,
                include_dvdr_in_tau21=True,
                write=CacheConfig.last_step_only(),
                cache=OutputCache(folder),
                progressbar=False,
            )
        return lightcone.lightcones["brightness_temp"]

    def _distances(self) -> np.ndarray:
        return lightcone_distances(
            self.z_min, self.z_max, self.cell_size, h=self.cosmology.h, omega_m=self.cosmology.omega_m
        )

    def _sliced_shape(self) -> tuple[int, int, int]:
        return sliced_shape(
            (self.box_cells, self.box_cells, len(self._distances())),
            self.cell_size,
            slices=self.slices,
            spacing=self.spacing,
            parts=self.parts,
            axes=self.axes,
        )
