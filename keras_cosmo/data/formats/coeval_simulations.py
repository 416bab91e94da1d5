"""Which files of coeval boxes make up which simulation."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from keras_cosmo.data.database_writer import PARTIAL_SUFFIX
from keras_cosmo.data.formats.py21cmfast_coeval import Py21cmfastCoeval
from keras_cosmo.data.formats.raw_boxes import RawBox
from keras_cosmo.quantities import field_at_redshift

SUFFIXES = (".h5", ".hdf5")
CACHE_NAMES = ("BrightnessTemp.h5", "PerturbedField.h5")
# Cell sizes and cosmologies that agree to this are the same run settings.
TOLERANCE = 1e-5
# Settings that make another matter box from the same seed.
MATTER_SETTINGS = ("simulation_options.DIM", "user_params.DIM", "matter_options.PERTURB_ALGORITHM")
SHOWN = 5


@dataclasses.dataclass(eq=False)
class CoevalSimulation:
    """All boxes of one simulation, by the text of their redshifts.

    Args:
        name: Folder or first file, for messages.
        seed: Random seed, where the files say.
        values: Parameters by name, where the files say.
        temperature: Redshift as text -> file with the brightness temperature.
        matter: Redshift as text -> file with the overdensity; often the same file.
    """

    name: str
    seed: int | None = None
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    temperature: dict[str, Py21cmfastCoeval | RawBox] = dataclasses.field(default_factory=dict)
    matter: dict[str, Py21cmfastCoeval | RawBox] = dataclasses.field(default_factory=dict)

    def keep(self, redshifts: Sequence[str]) -> None:
        """Forget all other redshifts."""
        self.temperature = {key: self.temperature[key] for key in redshifts}
        self.matter = {key: box for key, box in self.matter.items() if key in redshifts}

    def boxes(self) -> list[Py21cmfastCoeval | RawBox]:
        """All files."""
        return [*self.temperature.values(), *self.matter.values()]

    def first(self) -> Py21cmfastCoeval | RawBox:
        """File with the brightness temperature of the lowest redshift."""
        return next(iter(self.temperature.values()))

    def maps(self, cut: dict, apply: bool) -> dict[str, np.ndarray]:
        """Maps of all fields.

        Args:
            cut: ``slabs``, ``slab_cells`` and ``projection``.
            apply: Whether to apply the velocity gradient.
        """
        maps = {}
        for key, box in self.temperature.items():
            matter, redshift = self.matter[key], float(key)
            names = {kind: field_at_redshift(kind, redshift) for kind in ("brightness_temp", "density")}
            if isinstance(box, RawBox):
                maps[names["brightness_temp"]], maps[names["density"]] = box.maps(**cut), matter.maps(**cut)
            else:
                velocities = matter if apply else None
                maps[names["brightness_temp"]] = box.maps("brightness_temp", velocities=velocities, **cut)
                maps[names["density"]] = matter.maps("density", **cut)
        return maps


def _in_natural_order(path: pathlib.Path) -> list:
    """Key that puts Simulation_9 before Simulation_10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", str(path)) if part]


def find_coeval_files(
    sources: str | os.PathLike | Iterable[str | os.PathLike], output: pathlib.Path
) -> list[pathlib.Path]:
    """Files of coeval boxes in natural order.

    Args:
        sources: Folder, or files and folders.
        output: File that is none of them.

    Raises:
        FileNotFoundError: If something does not exist, or a folder holds no boxes.
        ValueError: If nothing is given.
    """
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    files = set()
    for source in map(pathlib.Path, sources):
        if source.is_dir():
            files.update(_files_in(source, output))
        elif source.exists():
            files.add(source)
        else:
            raise FileNotFoundError(f"{source}: there is no such file or folder. Give your coeval boxes.")
    if not files:
        raise ValueError("sources: expected a folder or at least one file, got an empty list.")
    return sorted(files, key=_in_natural_order)


def _files_in(folder: pathlib.Path, output: pathlib.Path) -> list[pathlib.Path]:
    simulations = [each for each in folder.iterdir() if each.is_dir() and re.fullmatch(r"Simulation_\d+", each.name)]
    if simulations:
        files = []
        for simulation in simulations:
            boxes = simulation / "Boxes" if (simulation / "Boxes").is_dir() else simulation
            found = [file for file in boxes.iterdir() if RawBox.redshift_of(file.name) is not None]
            if not found:
                raise FileNotFoundError(
                    f"{boxes}: expected boxes delta_T_... and updated_smoothed_deltax_..., got none. Remove the folder "
                    f"{simulation.name}, or run this simulation again."
                )
            files += found
        return files
    files = [file for file in folder.iterdir() if file.suffix in SUFFIXES and file != output]
    files += [file for file in folder.iterdir() if RawBox.redshift_of(file.name) is not None]
    files = files or [file for name in CACHE_NAMES for file in folder.rglob(name)]
    if not files:
        others = sorted(file.name for file in folder.iterdir() if not file.name.endswith(PARTIAL_SUFFIX))[:SHOWN]
        raise FileNotFoundError(
            f"{folder}: expected files ending in {' or '.join(SUFFIXES)}, boxes delta_T_... and "
            f"updated_smoothed_deltax_..., folders Simulation_<i> of such boxes, or a cache of 21cmFAST 4, got "
            f"{others or 'nothing'}. Give the folder with your coeval boxes."
        )
    return files


def redshift_key(redshift: float) -> str:
    """Text that stands for a redshift, as in the names of fields."""
    return f"{redshift:g}"


def read_simulations(files: list[pathlib.Path], velocity_gradient: str | None) -> list[CoevalSimulation]:
    """Read headers and names, and put together what belongs together, in the order of the files.

    Args:
        files: From `find_coeval_files`.
        velocity_gradient: ``"absent"`` prefers boxes without velocities, where a run left both.

    Raises:
        ValueError: If a file is not usable, or the boxes do not make simulations; names the files.
    """
    raw = [file for file in files if RawBox.redshift_of(file.name) is not None]
    if raw and len(raw) < len(files):
        other = next(file for file in files if file not in set(raw))
        raise ValueError(
            f"{raw[0]} and {other} do not belong together: one is a box without header, one is not. Convert them into "
            f"two databases."
        )
    simulations = _read_raw(raw, velocity_gradient) if raw else _read_hdf5(files)
    if not simulations:
        raise ValueError(
            f"{files[0]}: expected boxes of brightness temperature, got matter alone in {len(files)} files. Give the "
            f"21-cm boxes too."
        )
    return simulations


def _read_raw(files: list[pathlib.Path], velocity_gradient: str | None) -> list[CoevalSimulation]:
    folders: dict[pathlib.Path, list[RawBox]] = {}
    for file in files:
        folder = file.parent.parent if file.parent.name == "Boxes" else file.parent
        folders.setdefault(folder, []).append(RawBox.from_name(file))
    simulations = []
    for folder, boxes in folders.items():
        simulation = CoevalSimulation(str(folder))
        temperature = [box for box in boxes if box.field == "brightness_temp"]
        # A run can leave boxes with and without velocities side by side.
        wanted = [box for box in temperature if (box.velocity_axis is None) == (velocity_gradient == "absent")]
        _place(simulation.temperature, wanted or temperature)
        _place(simulation.matter, [box for box in boxes if box.field == "density"])
        if not simulation.temperature:
            raise ValueError(
                f"{folder}: expected boxes of brightness temperature (delta_T_...), got matter alone. Remove the "
                f"folder, or run this simulation again."
            )
        simulations.append(simulation)
    return simulations


def _place(boxes_at: dict[str, RawBox], boxes: list[RawBox]) -> None:
    for box in boxes:
        key = redshift_key(box.redshift)
        if key in boxes_at:
            raise ValueError(
                f"{box.path} and {boxes_at[key].path} are both boxes of {box.field} at z = {key}. Move one elsewhere."
            )
        boxes_at[key] = box


def _read_hdf5(files: list[pathlib.Path]) -> list[CoevalSimulation]:
    coevals = [Py21cmfastCoeval.from_file(file) for file in files]
    simulations: dict[tuple, CoevalSimulation] = {}
    alone: dict[tuple[int, str], list[Py21cmfastCoeval]] = {}
    for coeval in coevals:
        key = redshift_key(coeval.redshift)
        if "brightness_temp" not in coeval.datasets:
            alone.setdefault((coeval.random_seed, key), []).append(coeval)
            continue
        identity = (coeval.random_seed, *(round(value, 9) for value in coeval.parameters.values()))
        simulation = simulations.setdefault(
            identity, CoevalSimulation(str(coeval.path), coeval.random_seed, dict(coeval.parameters))
        )
        if key in simulation.temperature:
            raise ValueError(
                f"{coeval.path} and {simulation.temperature[key].path} hold the same simulation: random seed "
                f"{coeval.random_seed}, redshift {key} and all parameters are equal. Remove one."
            )
        simulation.temperature[key] = coeval
        if "density" in coeval.datasets:
            simulation.matter[key] = coeval
    used = set()
    for simulation in simulations.values():
        for key, coeval in simulation.temperature.items():
            candidates = alone.get((coeval.random_seed, key), [])
            if key in simulation.matter or not candidates:
                continue
            fitting = [matter for matter in candidates if not box_difference(coeval, matter)]
            if not fitting:
                raise ValueError(
                    f"{coeval.path} and {candidates[0].path} do not belong together though their random seed and "
                    f"redshift are equal: expected the same {box_difference(coeval, candidates[0])}. Give the matter "
                    f"box of the same run."
                )
            if len(fitting) > 1:
                raise ValueError(
                    f"{fitting[0].path} and {fitting[1].path} hold the same matter box: random seed "
                    f"{coeval.random_seed}, redshift {key}. Remove one."
                )
            simulation.matter[key] = fitting[0]
            used.add(fitting[0].path)
    if not simulations:
        return []
    seeds = sorted({simulation.seed for simulation in simulations.values()})
    for (seed, key), boxes in alone.items():
        orphans = [box for box in boxes if box.path not in used]
        if orphans and seed not in seeds:
            raise ValueError(
                f"{orphans[0].path}: no 21-cm box belongs to this matter box: its random seed is {seed}, those of the "
                f"21-cm boxes are {seeds[:SHOWN]}{' ...' if len(seeds) > SHOWN else ''} (z = {key}). Remove it, or "
                f"give the 21-cm box of the same run."
            )
    return list(simulations.values())


def box_difference(one: Py21cmfastCoeval | RawBox, other: Py21cmfastCoeval | RawBox) -> str:
    """In words what differs between a 21-cm box and a matter box that should be of one run, or nothing."""
    if one.shape != other.shape:
        return f"shape, got {one.shape} and {other.shape}"
    if not np.isclose(one.cell_size, other.cell_size, rtol=TOLERANCE, atol=0):
        lengths = [box.shape[0] * box.cell_size for box in (one, other)]
        return f"box length in Mpc, got {lengths[0]:g} and {lengths[1]:g}"
    if isinstance(one, RawBox):
        return ""
    return cosmology_difference(one, other) or _settings_difference(one, other, MATTER_SETTINGS)


def cosmology_difference(one: Py21cmfastCoeval, other: Py21cmfastCoeval) -> str:
    """In words what differs between two cosmologies, or nothing."""
    names = [name for name, value in one.cosmology.items() if not _same(value, other.cosmology[name])]
    pair = [{name: coeval.cosmology[name] for name in names} for coeval in (one, other)]
    return f"cosmology, got {pair[0]} and {pair[1]}" if names else ""


def _settings_difference(one: Py21cmfastCoeval, other: Py21cmfastCoeval, names: Iterable[str]) -> str:
    names = [name for name in names if name in one.settings and name in other.settings]
    names = [name for name in names if one.settings[name] != other.settings[name]]
    return ", ".join(f"{name}, got {one.settings[name]} and {other.settings[name]}" for name in names)


def _same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return bool(np.isclose(a, b, rtol=TOLERANCE, atol=0))
