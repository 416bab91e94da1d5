"""Coeval files as 21cmFAST saves them (``Coeval.save`` of py21cmfast 3.0 to 4.2), and single boxes of its caches.

Facts about the files, from the writer's own source and from files it wrote:

- All boxes are float32 in C order, the line of sight last. ``density`` is the overdensity in real space.
- Parameter attributes are what users typed: ``M_TURN`` and ``L_X`` are logarithms, ``POP2_ION`` is not. Version 3 has
  ``Pop2_ion`` among its global parameters (group ``_globals``; ``global_params`` in a file of the cache).
- 4.x keeps the inputs in each group of boxes, and a group ``photon_nonconservation_data`` without boxes. It has no
  ``SIGMA_8`` among the cosmological parameters; it is ``ps_norm`` of the cosmological tables.
- 4.x saves the brightness temperature in real space: ``Coeval.include_dvdr_in_tau21`` returns another array and leaves
  the saved one as it is. Nothing in the file would tell if somebody replaced it.
- 3.x saves it with the velocity-gradient correction along the last axis, unless ``T_USE_VELOCITIES`` (3.0 to 3.3) or
  ``APPLY_RSDS`` (3.4) is off; both are in the file.
- A matter box of a cache can come from a run with other astrophysical parameters, since it does not depend on them.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

import h5py
import numpy as np

from keras_cosmo.data.formats.box_pieces import slice_in_pieces
from keras_cosmo.data.formats.py21cmfast_header import HeaderReader, text
from keras_cosmo.distances import MEGAPARSEC, SPEED_OF_LIGHT, comoving_distance

ATTRIBUTE_OF = {"log10_L_X": "L_X", "log10_M_min": "M_TURN", "log10_N_gamma": "POP2_ION"}
"""Parameter of Villanueva-Domingo & Villaescusa-Navarro 2021 -> attribute of version 4 (POP2_ION is not a log10)."""
STRUCTURES = {
    "brightness_temp": "BrightnessTemp",
    "tau_21": "BrightnessTemp",
    "density": "PerturbedField",
    "velocity_z": "PerturbedField",
}
"""Box -> group it is in."""
FIELDS = ("brightness_temp", "density")
INPUT_GROUPS = ("simulation_options", "matter_options", "astro_options", "astro_params", "cosmo_params")
# Where 21cmFAST takes the optical depth for zero (py21cmfast.rsds).
SMALLEST_OPTICAL_DEPTH = 1e-10
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Py21cmfastCoeval:
    """A coeval file of 21cmFAST: what it says about itself, and maps of its boxes on demand.

    Use :meth:`from_file`. No file handle is kept: boxes are read when asked for, piece by piece.

    Args:
        path: The file.
        version: Version of 21cmFAST that wrote it.
        redshift: Redshift of its boxes.
        random_seed: Seed of its initial conditions.
        datasets: Box -> where it is in the file; ``brightness_temp`` [mK] or ``density`` or both, and what is needed
            for the velocity gradient, ``tau_21`` and ``velocity_z`` [Mpc/s], if it is there.
        shape: ``(nx, ny, nz)`` of the boxes.
        cell_size: Side of a cell in Mpc.
        cosmology: hlittle, OMm, OMb, POWER_INDEX and SIGMA_8 (None where the file does not say).
        parameters: log10_L_X [erg s^-1 Msun^-1 yr]; log10_M_min [Msun]; log10_N_gamma. Empty where there is no
            brightness temperature.
        inactive: Parameter name -> why it had no effect on this simulation. Such a value must not become a label.
        velocity_gradient: Whether the brightness temperature holds the velocity-gradient correction; None where the
            file does not say.
        settings: All other settings of the run, ``group.name`` -> value.

    Example:
        >>> coeval = Py21cmfastCoeval.from_file("coeval.h5")  # doctest: +SKIP
        >>> coeval.maps("density", slabs=20, slab_cells=4).shape  # doctest: +SKIP
        (20, 200, 200)
    """

    path: pathlib.Path
    version: str
    redshift: float
    random_seed: int
    datasets: dict[str, str]
    shape: tuple[int, int, int]
    cell_size: float
    cosmology: dict[str, float | None]
    parameters: dict[str, float]
    inactive: dict[str, str]
    velocity_gradient: bool | None
    settings: dict[str, object]

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "Py21cmfastCoeval":
        """Read everything but the pixels.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a coeval file of 21cmFAST with a brightness temperature or a density, or these two
                are not of one simulation; the message says what it is instead, or what it lacks.
        """
        path = pathlib.Path(path)
        header = HeaderReader(path, "coeval box", "Coeval.save")
        with header.open() as file:
            modern = _check_is_coeval(path, file)
            datasets = {}
            for name, group in STRUCTURES.items():
                dataset = f"{group}/OutputFields/{name}" if modern else f"{group}/{name}"
                if dataset in file:
                    datasets[name] = dataset
            if not set(FIELDS) & set(datasets):
                raise ValueError(
                    f"{path}: expected a box of {' or '.join(FIELDS)}, got only {sorted(file)}. Give files written by "
                    f"Coeval.save, or the files BrightnessTemp and PerturbedField of the cache."
                )
            shape = _common_shape(path, {name: file[dataset] for name, dataset in datasets.items()})
            record = (_read_modern if modern else _read_old)(header, file, "brightness_temp" in datasets)
        return cls(path=path, datasets=datasets, shape=shape, **record)

    @property
    def box_length(self) -> float:
        """Side of the box in Mpc."""
        return self.shape[0] * self.cell_size

    def maps(
        self,
        field: str,
        *,
        slabs: int = 20,
        slab_cells: int = 4,
        projection: str = "mean",
        velocities: "Py21cmfastCoeval | None" = None,
    ) -> np.ndarray:
        """Maps of slabs; reads the box once, in pieces.

        Args:
            field: ``"brightness_temp"`` or ``"density"``.
            slabs: Number of slabs, spread evenly; it must divide the cells along the line of sight.
            slab_cells: Cells that each slab is thick.
            projection: ``"mean"`` or ``"sum"``; see `keras_cosmo.slicing.slice_box`.
            velocities: File with ``velocity_z`` of the same simulation and redshift (of version 4, usually this same
                file), to apply the velocity-gradient correction to the brightness temperature of this one.

        Returns:
            float32 array ``(slabs, nx, ny)`` in mK, or without unit.

        Raises:
            ValueError: If the box is not there, the slabs do not fit, a value is not finite, or boxes that the velocity
                gradient needs are missing; names the file.
        """
        if field not in FIELDS or field not in self.datasets:
            raise ValueError(f"{self.path}: there is no box of {field!r}; expected one of {sorted(self.datasets)}.")
        correct = velocities is not None and field == "brightness_temp"
        if correct:
            self.check_velocities(velocities)

        def read(start: int, stop: int) -> np.ndarray:
            box = self._read(field, start, stop)
            return self._with_velocity_gradient(box, velocities, start, stop) if correct else box

        maps = slice_in_pieces(read, self.shape, self.path, slabs=slabs, slab_cells=slab_cells, projection=projection)
        finite = np.isfinite(maps)
        if not finite.all():
            raise ValueError(
                f"{self.path}: expected finite values in {field}, got slabs with {np.count_nonzero(~finite)} pixels "
                f"that are not among {finite.size}. Run this box again, or leave it out."
            )
        if field == "density" and not maps.any():
            raise ValueError(f"{self.path}: the box of density holds only zeros. Run it again, or leave it out.")
        return maps

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        with HeaderReader(self.path, "coeval box", "Coeval.save").open() as file:
            dataset = file[self.datasets[name]]
            if dataset.shape != self.shape:
                raise ValueError(
                    f"{self.path}: {name} changed since the file was opened: its shape is {dataset.shape}."
                )
            return dataset[start:stop]

    def check_velocities(self, velocities: "Py21cmfastCoeval") -> None:
        """Whether the velocity gradient can be applied.

        Args:
            velocities: File with ``velocity_z`` of the same simulation and redshift.

        Raises:
            ValueError: If it cannot; names the file and what is missing.
        """
        advice = "Apply it in 21cmFAST (Coeval.include_dvdr_in_tau21) and save that."
        if self.velocity_gradient is not None:
            state = "includes it already" if self.velocity_gradient else "is of version 3, which saves no optical depth"
            raise ValueError(f"{self.path}: the velocity gradient cannot be applied: the file {state}.")
        for coeval, name in ((self, "tau_21"), (velocities, "velocity_z")):
            if name not in coeval.datasets and (name != "tau_21" or self._has_spin_temperature):
                raise ValueError(
                    f"{coeval.path}: the velocity gradient needs the box {name}, got {sorted(coeval.datasets)}. "
                    f"{advice}"
                )
        if velocities.shape != self.shape or not np.isclose(velocities.redshift, self.redshift, rtol=TOLERANCE):
            raise ValueError(
                f"{velocities.path}: expected velocities of shape {self.shape} at z = {self.redshift:g} as in "
                f"{self.path}, got {velocities.shape} at z = {velocities.redshift:g}. Give files of one simulation."
            )

    @property
    def _has_spin_temperature(self) -> bool:
        return bool(self.settings.get("astro_options.USE_TS_FLUCT", True))

    def _with_velocity_gradient(
        self, temperature: np.ndarray, velocities: "Py21cmfastCoeval", start: int, stop: int
    ) -> np.ndarray:
        """As py21cmfast.rsds.include_dvdr_in_tau21 for a periodic box and the last axis."""
        cells = self.shape[2]
        wavenumbers = 2.0 * np.pi * np.fft.rfftfreq(cells, self.cell_size)
        velocity = velocities._read("velocity_z", start, stop).astype(np.float64)
        gradient = np.fft.irfft(1j * wavenumbers * np.fft.rfft(velocity, axis=-1), n=cells, axis=-1)
        gradient /= _hubble_rate(self.redshift, self.cosmology)
        if not self._has_spin_temperature:
            largest = float(self.settings.get("astro_params.MAX_DVDR", 0.2))
            return temperature / np.abs(1.0 + np.clip(gradient, -largest, largest))
        depth = self._read("tau_21", start, stop).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.expm1(-depth / np.abs(1.0 + gradient)) / np.expm1(-depth)
        return temperature * np.where(depth < SMALLEST_OPTICAL_DEPTH, 1.0, factor)


def _hubble_rate(redshift: float, cosmology: Mapping[str, float]) -> float:
    """In 1/s, from the slope of the distance, so that it has the radiation and the neutrinos of 21cmFAST."""
    step = 0.01
    ends = comoving_distance(redshift + np.array([-step, step]), h=cosmology["hlittle"], omega_m=cosmology["OMm"])
    return SPEED_OF_LIGHT * 2.0 * step / (ends[1] - ends[0]) / (MEGAPARSEC / 1e3)


def _check_is_coeval(path: pathlib.Path, file: h5py.File) -> bool:
    """Whether the file is of version 4 (True) or 3 (False); raise if it holds no coeval boxes."""
    groups = {"BrightnessTemp", "PerturbedField"} & set(file)
    if "lightcones" in file:
        raise ValueError(
            f"{path}: expected a coeval box, got a light-cone of 21cmFAST. Give files written by Coeval.save; "
            f"light-cones are read by convert_lightcones."
        )
    if groups and all("InputParameters" in file[group] for group in groups):
        return True
    if groups and "user_params" in file:
        return False
    raise ValueError(
        f"{path}: expected coeval boxes of 21cmFAST, got an HDF5 file with {sorted(file)[:8]} and no group "
        f"BrightnessTemp or PerturbedField with its inputs. Give files written by Coeval.save of 21cmFAST 3 or 4."
    )


def _common_shape(path: pathlib.Path, boxes: dict[str, h5py.Dataset]) -> tuple[int, int, int]:
    for name, box in boxes.items():
        if not isinstance(box, h5py.Dataset) or box.ndim != 3 or box.dtype.kind != "f" or 0 in box.shape:
            got = f"{box.dtype} of shape {box.shape}" if isinstance(box, h5py.Dataset) else "a group"
            raise ValueError(f"{path}: expected {name} as real numbers of shape (nx, ny, nz), got {got}.")
    shapes = {name: box.shape for name, box in boxes.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"{path}: the boxes do not belong together: expected one shape, got {shapes}. Run this simulation again."
        )
    return next(iter(shapes.values()))


def _read_modern(header: HeaderReader, file: h5py.File, has_temperature: bool) -> dict:
    """Header of a file of version 4."""
    records = {}
    for group in sorted({"BrightnessTemp", "PerturbedField"} & set(file)):
        inputs = file[f"{group}/InputParameters"]
        parts = {name: header.attributes(inputs, name) for name in INPUT_GROUPS}
        records[group] = {
            "redshift": header.number(file[group].attrs, "redshift", group),
            "random_seed": int(header.number(inputs.attrs, "random_seed", f"{group}/InputParameters")),
            "cell_size": header.cell_size(parts["simulation_options"], "simulation_options"),
            "cosmology": header.cosmology(parts["cosmo_params"], inputs.get("cosmo_tables")),
        }
    _check_together(header.path, records)
    main = "BrightnessTemp" if has_temperature else "PerturbedField"
    inputs = file[f"{main}/InputParameters"]
    parts = {name: dict(inputs[name].attrs) for name in INPUT_GROUPS}
    source_model = text(parts["matter_options"].get("SOURCE_MODEL", "E-INTEGRAL"))
    constant = "SOURCE_MODEL is 'CONST-ION-EFF'" if source_model == "CONST-ION-EFF" else None
    return {
        "version": text(inputs.attrs.get("21cmFAST-version", file.attrs.get("__version__", "4"))),
        **records[main],
        "parameters": _parameters(header, parts["astro_params"], parts["astro_params"], "POP2_ION", has_temperature),
        "inactive": _inactive(parts["astro_options"], constant),
        "velocity_gradient": None,
        "settings": _settings(parts, {"L_X", "M_TURN", "POP2_ION"}),
    }


def _check_together(path: pathlib.Path, records: dict[str, dict]) -> None:
    if len(records) < 2:
        return
    temperature, matter = records["BrightnessTemp"], records["PerturbedField"]
    for name, value in temperature.items():
        pairs = (
            zip(value.values(), matter[name].values(), strict=True) if name == "cosmology" else [(value, matter[name])]
        )
        # Seeds are large numbers that differ however little they do.
        tolerance = 0.0 if name == "random_seed" else TOLERANCE
        if not all(one == two or np.isclose(one or 0.0, two or 0.0, rtol=tolerance, atol=0.0) for one, two in pairs):
            raise ValueError(
                f"{path}: the boxes do not belong together: expected one {name.replace('_', ' ')}, got {value} of "
                f"BrightnessTemp and {matter[name]} of PerturbedField. Run this simulation again."
            )


def _read_old(header: HeaderReader, file: h5py.File, has_temperature: bool) -> dict:
    """Header of a file of version 3."""
    user, cosmology = header.attributes(file, "user_params"), header.attributes(file, "cosmo_params")
    # A matter box of the cache knows nothing of astrophysics.
    astrophysics, flags, global_parameters = {}, {}, {}
    if has_temperature:
        astrophysics, flags = header.attributes(file, "astro_params"), header.attributes(file, "flag_options")
        global_parameters = header.attributes(file, "global_params" if "global_params" in file else "_globals")
    constant = None if flags.get("USE_MASS_DEPENDENT_ZETA", False) else "USE_MASS_DEPENDENT_ZETA is off"
    gradient = flags.get("APPLY_RSDS", global_parameters.get("T_USE_VELOCITIES"))
    parts = {"user_params": user, "flag_options": flags, "astro_params": astrophysics}
    return {
        "version": text(file.attrs.get("version", "3")),
        "redshift": header.number(file.attrs, "redshift", "the root"),
        "random_seed": int(header.number(file.attrs, "random_seed", "the root")),
        "cell_size": header.cell_size(user, "user_params"),
        "cosmology": header.cosmology(cosmology),
        "parameters": _parameters(header, astrophysics, global_parameters, "Pop2_ion", has_temperature),
        "inactive": _inactive(flags, constant),
        "velocity_gradient": None if gradient is None else bool(gradient),
        "settings": _settings(parts, {"L_X", "M_TURN"}),
    }


def _parameters(
    header: HeaderReader, astrophysics: dict, photons_in: dict, photons: str, has_temperature: bool
) -> dict[str, float]:
    if not has_temperature:
        return {}
    number_of_photons = header.number(photons_in, photons, "the inputs")
    if number_of_photons <= 0:
        raise ValueError(f"{header.path}: expected a positive number of photons in {photons}, got {number_of_photons}.")
    return {
        "log10_L_X": header.number(astrophysics, "L_X", "astro_params"),
        "log10_M_min": header.number(astrophysics, "M_TURN", "astro_params"),
        "log10_N_gamma": float(np.log10(number_of_photons)),
    }


def _inactive(options: dict, constant: str | None) -> dict[str, str]:
    """Parameters that could not act in this run, with the reason."""
    inactive = {}
    if constant is not None:
        inactive["log10_N_gamma"] = f"HII_EFF_FACTOR sets the ionising efficiency in its place: {constant}"
        if not options.get("M_MIN_in_Mass", False):
            inactive["log10_M_min"] = f"ION_Tvir_MIN sets the sources in its place: {constant}, M_MIN_in_Mass is off"
    if not options.get("USE_TS_FLUCT", True):
        inactive["log10_L_X"] = "L_X has no effect: USE_TS_FLUCT is off"
    return inactive


def _settings(parts: dict[str, dict], labels: set[str]) -> dict[str, object]:
    ignored = labels | {"N_THREADS"}
    astrophysics = parts["astro_params"]
    if "L_X" in astrophysics and astrophysics.get("L_X_MINI") == astrophysics["L_X"]:
        # Its default is to follow L_X.
        ignored.add("L_X_MINI")
    return {
        f"{group}.{name}": text(value) if isinstance(value, bytes) else value
        for group, values in parts.items()
        if group != "cosmo_params"
        for name, value in values.items()
        if name not in ignored
    }
