"""Maps of coeval boxes by 21cmFAST itself, through its Python package py21cmfast 4 (an optional dependency)."""

import dataclasses
import json
import tempfile

import numpy as np

from keras_cosmo.quantities import MapField, Parameter, field_at_redshift
from keras_cosmo.simulations.coeval import COEVAL_PARAMETERS
from keras_cosmo.simulations.cosmology import Cosmology
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
from keras_cosmo.slicing import PROJECTIONS, slab_starts, slice_box

PLANCK_2018 = Cosmology(omega_m=0.30964144154550644, omega_b=0.04897468161869667, h=0.6766, sigma_8=0.8102, n_s=0.9665)
"""Planck collaboration (2020, A&A 641, A6), table 2, last column, in the digits that 21cmFAST 4 has by default."""
X_RAY_SPECTRAL_INDEX = 1.0
"""Slope of the X-ray energy spectrum (Villanueva-Domingo & Villaescusa-Navarro 2021, section II.2)."""
X_RAY_THRESHOLD = 500.0
"""Lowest energy in eV of X-rays that leave their galaxy (Villanueva-Domingo & Villaescusa-Navarro 2021, II.2)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Py21cmfastCoevalSimulator:
    """Pairs of 21-cm and matter maps by 21cmFAST (Villanueva-Domingo & Villaescusa-Navarro 2021, section III.1).

    Every simulation is a box of its own with its own random seed, evolved with spin temperature fluctuations. At each
    redshift, slabs of a few cells are projected along the line of sight, the last axis: the 21-cm brightness
    temperature in redshift space, and the overdensity of matter in real space, of the same slabs.

    The source model is 21cmFAST's template ``park19`` (Park et al. 2019, MNRAS 484, 933), in which the stars are in
    haloes of mass M with weight ``exp(-M_min / M)``: ``M_TURN`` is ``log10_M_min``, ``L_X`` is ``log10_L_X``, and
    ``POP2_ION`` is ``10**log10_N_gamma``. Recombinations are homogeneous, ionised bubbles at most 15 Mpc large.

    21cmFAST returns coeval boxes in real space. Here its velocity-gradient correction of the 21-cm optical depth is
    applied along the line of sight (``Coeval.include_dvdr_in_tau21``), which in slabs of 6 Mpc at z = 15 multiplies the
    power by 1.6 to 1.9. Cells are not moved (``apply_rsds``); neither are they in light-cones of 21cmFAST 4.

    All redshifts come out of one evolution, which ends at the lowest of them and is spaced from there upwards. The
    spacing matters: ``redshift_step`` 1.02 and 1.04 give mean temperatures at z = 10 that differ by 4 mK of 55, at
    z = 15 by 1 mK of 26, and another lowest redshift changes the maps at z = 15 by up to 0.3 mK. Do not mix them.

    Cost, measured on one core at 64 cells, ``redshift_step=1.04``, z = 10 and 15 together: 45 s and 1.1 GB. Both grow
    with the number of cells, and time with that of the redshifts: about half an hour to an hour and 15 GB (estimated)
    for the paper's box.

    When 21cmFAST fails it may leave damaged memory behind, which can kill its process later: run campaigns with two
    workers or more, which survive that.

    Args:
        box_cells: Cells along each side of the box. The paper: 200.
        cell_size: Side of a cell in Mpc. The paper: 1.5. The box must be at least 45 Mpc wide, three times the largest
            bubbles.
        redshifts: Where to make maps, each between 5.5 and 35. The paper: 10, 15, 20.
        slabs: Slabs of each box, spread evenly; it must divide ``box_cells``. The paper: 20.
        slab_cells: Cells that each slab is thick. The paper: 4, that is 6 Mpc.
        projection: ``"mean"``, or ``"sum"`` as the paper's public code; see `keras_cosmo.slicing.slice_box`.
        redshift_step: Ratio of (1+z) between two evolved boxes. 21cmFAST's own default: 1.02.
        threads: OpenMP threads of one simulation. With 1, run as many simulations at once as there are cores.
        cosmology: Cosmological parameters. Default: Planck 2018, as the paper and 21cmFAST itself.

    Raises:
        TypeError: If an integer argument is not an integer.
        ValueError: If an argument is out of range, or the slabs do not fit into the box.
        ImportError: When first used, if 21cmFAST is not installed; the message says how to install it.

    Example:
        >>> simulator = Py21cmfastCoevalSimulator(box_cells=64, slabs=8, redshifts=(10, 15))
        >>> {name: field.shape for name, field in simulator.fields.items()}["density_z15"]
        (64, 64)
        >>> maps = simulator.simulate(np.array([40.5, 8.7, 3.7]), seed=1)  # doctest: +SKIP

    The paper used 21cmFAST's C code 1.2 or 2, whose spin temperature, collapse and velocity corrections differ in
    detail, and does not say which star formation efficiency; it is that of the template here (0.05 at 10^10 Msun).
    """

    box_cells: int = 200
    cell_size: float = 1.5
    redshifts: tuple[float, ...] = (10.0, 15.0, 20.0)
    slabs: int = 20
    slab_cells: int = 4
    projection: str = "mean"
    redshift_step: float = 1.02
    threads: int = 1
    cosmology: Cosmology = PLANCK_2018

    name = "py21cmfast"
    task = "matter"

    def __post_init__(self):
        check_box(self.box_cells, self.cell_size, self.threads, self.redshift_step)
        object.__setattr__(self, "redshifts", _checked_redshifts(self.redshifts))
        slab_starts(self.box_cells, slabs=self.slabs, slab_cells=self.slab_cells)
        if self.projection not in PROJECTIONS:
            raise ValueError(f"projection: expected one of {list(PROJECTIONS)}, got {self.projection!r}.")

    @property
    def version(self) -> str:
        """Version of the installed 21cmFAST."""
        return import_py21cmfast().__version__

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Names, units and prior ranges."""
        return COEVAL_PARAMETERS

    @property
    def maps_per_simulation(self) -> int:
        """Maps of each field: one per slab."""
        return self.slabs

    @property
    def fields(self) -> dict[str, MapField]:
        """Brightness temperature and overdensity at each redshift, ``(box_cells, box_cells)``."""
        fields, shape = {}, (self.box_cells, self.box_cells)
        for redshift in self.redshifts:
            fields[field_at_redshift("brightness_temp", redshift)] = MapField(
                unit="mK", shape=shape, description=f"21-cm brightness temperature in redshift space, z = {redshift:g}"
            )
            fields[field_at_redshift("density", redshift)] = MapField(
                unit="", shape=shape, description=f"overdensity of matter in real space, z = {redshift:g}"
            )
        return fields

    def attributes(self) -> dict[str, object]:
        """What a database of these maps says about all of them."""
        return {
            "cell_size": self.cell_size,
            "cell_size_units": "Mpc",
            "redshifts": np.array(self.redshifts),
            "periodic_across_sky": True,
            "projection": self.projection,
            "slab_cells": int(self.slab_cells),
            "cosmology": json.dumps(self.cosmology.attributes()),
            "description": (
                f"Boxes of {self.box_cells * self.cell_size:g} Mpc and {self.box_cells} cells a side; {self.slabs} "
                f"slabs of {self.slab_cells} cells per box, {self.projection} along the line of sight (last axis); "
                f"brightness_temp with the velocity-gradient correction of the optical depth along the line of sight, "
                f"density in real space; template park19, INHOMO_RECO False, R_BUBBLE_MAX {MEAN_FREE_PATH:g} Mpc, "
                f"spin temperature on, ZPRIME_STEP_FACTOR {self.redshift_step:g}, evolved down to "
                f"z = {min(self.redshifts):g}"
            ),
        }

    def node_redshifts(self) -> tuple[float, ...]:
        """Redshifts of the evolved boxes, descending to the lowest of ``redshifts``."""
        return evolved_redshifts(min(self.redshifts), self.redshift_step)

    def template_arguments(self, parameter_values: np.ndarray) -> dict[str, object]:
        """Arguments for ``InputParameters.from_template("park19", ...)`` of py21cmfast.

        Args:
            parameter_values: log10 of L_X [erg s^-1 Msun^-1 yr]; log10 of M_min [Msun]; log10 of N_gamma.

        Raises:
            ValueError: If the values are not three finite numbers.
        """
        log10_luminosity, log10_mass, log10_photons = check_parameter_values(self.parameters, parameter_values)
        return {
            **self.cosmology.attributes(),
            "HII_DIM": int(self.box_cells),
            "BOX_LEN": float(self.box_cells * self.cell_size),
            "N_THREADS": int(self.threads),
            "ZPRIME_STEP_FACTOR": float(self.redshift_step),
            "Z_HEAT_MAX": HIGHEST_REDSHIFT,
            "USE_TS_FLUCT": True,
            "INHOMO_RECO": False,
            "R_BUBBLE_MAX": MEAN_FREE_PATH,
            "X_RAY_SPEC_INDEX": X_RAY_SPECTRAL_INDEX,
            "NU_X_THRESH": X_RAY_THRESHOLD,
            "L_X": log10_luminosity,
            "M_TURN": log10_mass,
            # The only one of the three that 21cmFAST takes as it is, not as a logarithm.
            "POP2_ION": 10.0**log10_photons,
        }

    def simulate(self, parameter_values: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Run 21cmFAST once and slice its boxes at all redshifts.

        Args:
            parameter_values: log10 of L_X [erg s^-1 Msun^-1 yr]; log10 of M_min [Msun]; log10 of N_gamma.
            seed: Random seed of the initial conditions, 0 to 2^31 - 1.

        Returns:
            Field name -> float32 array ``(slabs, box_cells, box_cells)``: ``brightness_temp_z<z>`` in mK and
            ``density_z<z>`` without unit.

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
            maps = self._run(package, arguments, seed)
        except Exception as error:
            raise RuntimeError(f"21cmFAST failed for {simulation}: {error}") from error
        if set(maps) != set(self.fields):
            raise RuntimeError(
                f"21cmFAST returned boxes {sorted(maps)} for {simulation}, expected {sorted(self.fields)}. Install "
                f"21cmFAST 4.1.1, for which this was written."
            )
        for field in maps.values():
            check_finite(field, simulation)
        return maps

    def _run(self, package, arguments: dict[str, object], seed: int) -> dict[str, np.ndarray]:
        from py21cmfast.io.caching import CacheConfig, OutputCache

        slabs = {"slabs": self.slabs, "slab_cells": self.slab_cells, "projection": self.projection}
        maps = {}
        # The advice it warns about (resolution, mass function) is about choices that are the paper's.
        with tempfile.TemporaryDirectory(prefix="keras_cosmo_21cmfast_") as folder, silence():
            inputs = package.InputParameters.from_template(
                "park19", random_seed=seed, node_redshifts=self.node_redshifts(), **arguments
            )
            # One box after the other is cut and let go, which run_coeval would keep all of.
            for coeval, wanted in package.generate_coeval(
                inputs=inputs,
                out_redshifts=self.redshifts,
                write=CacheConfig.off(),
                cache=OutputCache(folder),
                progressbar=False,
            ):
                if wanted:
                    temperature = coeval.include_dvdr_in_tau21(axis="z")
                    maps[field_at_redshift("brightness_temp", coeval.redshift)] = slice_box(temperature, **slabs)
                    maps[field_at_redshift("density", coeval.redshift)] = slice_box(coeval.density, **slabs)
        return maps


def _checked_redshifts(redshifts) -> tuple[float, ...]:
    values = np.atleast_1d(np.asarray(redshifts, np.float64))
    if values.ndim != 1 or not values.size or not np.all((values >= LOWEST_REDSHIFT) & (values <= HIGHEST_REDSHIFT)):
        raise ValueError(
            f"redshifts: expected one or more numbers from {LOWEST_REDSHIFT} to {HIGHEST_REDSHIFT:g}, the range "
            f"21cmFAST evolves, got {redshifts!r}."
        )
    names = [f"{value:g}" for value in values]
    if len(set(names)) != len(names):
        raise ValueError(f"redshifts: expected numbers that differ in their first six digits, got {redshifts!r}.")
    return tuple(values.tolist())
