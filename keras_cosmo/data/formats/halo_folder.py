"""From halo catalogues of PINOCCHIO to one database of maps of emission lines."""

import dataclasses
import json
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np

from keras_cosmo.data.database_writer import DatabasePlan, DatabaseWriter
from keras_cosmo.data.formats.pinocchio import (
    NAME,
    PinocchioCatalogue,
    PinocchioParameters,
    find_parameter_files,
)
from keras_cosmo.haloes import HaloCatalogue
from keras_cosmo.quantities import MapField

logger = logging.getLogger(__name__)

REDSHIFT_TOLERANCE = 0.02
"""How far a catalogue may be from the redshift of its line (Moriwaki et al. 2020: 1.3 for 1.286, 2.0 for 1.996)."""
# First word of the seeds of paint, so that they are not those of any other random numbers.
PAINT_STREAM = 5
COSMOLOGY_TOLERANCE = 0.01
COSMOLOGY_NAMES = {"omega_m": "OMm", "h": "hlittle"}
SHOWN = 5


class HaloPainter(Protocol):
    """What a conversion asks of a simulator, such as `LineIntensitySimulator` of `keras_cosmo.simulations`."""

    name: str
    version: str
    task: str
    fields: dict[str, MapField]

    def paint(self, catalogues: Mapping[str, HaloCatalogue], *, projections: int, seed: int) -> dict[str, np.ndarray]:
        """``(projections, *shape)`` of every field; a pure function of its arguments."""

    def attributes(self) -> dict:
        """Root attributes for the database, with ``lines`` and their ``line_redshifts``."""


@dataclasses.dataclass(frozen=True, eq=False)
class HaloRun:
    """The catalogues that one run of PINOCCHIO left in a folder.

    Args:
        folder: Where they are.
        name: ``RunFlag``, from their names.
        paths: Redshift, from their names -> catalogue, without the number of a part.
        parameters: Parameter file of the run, or None if it is not in the folder.
    """

    folder: pathlib.Path
    name: str
    paths: dict[float, pathlib.Path]
    parameters: PinocchioParameters | None

    def __str__(self):
        return f"run {self.name} in {self.folder}"

    @property
    def seed(self) -> int | None:
        """Random seed of the initial conditions, or None if it is not known."""
        return None if self.parameters is None else self.parameters.seed


def convert_halo_catalogues(
    sources: str | os.PathLike | Iterable[str | os.PathLike],
    path: str | os.PathLike,
    *,
    simulator: HaloPainter,
    projections: int = 100,
    seed: int = 0,
    box_size: float | None = None,
    hubble: float | None = None,
    mass_unit: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pathlib.Path:
    """Paint halo catalogues of PINOCCHIO with the light of emission lines, many projections of each, into one database.

    One simulation is all catalogues of one random seed, or, where no parameter file lies beside them, of one run (and
    folder). All its projections belong to it, since they show the same haloes. Each line is painted on the catalogue
    of the nearest redshift. Names, headers and parameter files of all simulations are checked before anything is
    written. The database appears under ``path`` when it is complete; after a kill the same call goes on where it
    stopped, and so it does once a damaged catalogue was replaced. Simulations are numbered in the order of the file
    names, numbers in names by value.

    Args:
        sources: Folder, searched with its subfolders, or files ``pinocchio.<redshift>.<run>.catalog.out`` and folders.
        path: Database to write.
        simulator: What paints; it says the lines and their redshifts.
        projections: Maps of each line per simulation, in random directions from random points of the box (Moriwaki et
            al. 2020, section 2.1: 100 of each of 300 realisations).
        seed: Seed of the directions, points and luminosities, not negative. Those of a simulation depend on it and on
            the number of the simulation alone.
        box_size: Comoving side of the boxes in Mpc, where there is no parameter file.
        hubble: h of the catalogues, where there is no parameter file.
        mass_unit: ``"Msun/h"`` or ``"Msun"``, for binary catalogues without parameter file.
        progress: Called as ``progress(done, total)`` at the begin and after each simulation.

    Returns:
        ``path``.

    Raises:
        FileNotFoundError: If a folder or file does not exist, or a folder holds no catalogues.
        FileExistsError: If ``path`` exists.
        TypeError: If ``projections`` or ``seed`` is not an integer.
        ValueError: If a catalogue is not usable, no catalogue is near the redshift of a line, two runs share a random
            seed, cosmologies differ, or the simulator cannot paint a box; names the files.
    """
    path = pathlib.Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already. Choose another output file, or delete it first.")
    projections = _integer("projections", projections, 1)
    seed = _integer("seed", seed, 0)
    lines = _lines(simulator)
    names = _find_files(sources)
    simulations = _group(names)
    given = {"box_size": box_size, "hubble": hubble, "mass_unit": mass_unit}
    chosen = [{line: _nearest(runs, line, redshift, given) for line, redshift in lines.items()} for runs in simulations]
    _check_cosmology(chosen, simulator)
    _warn_of_missing_haloes(chosen, simulator)
    plan = _plan(chosen, simulations, names, simulator, projections, seed)
    with DatabaseWriter.open(path, plan) as writer:
        todo = np.flatnonzero(~writer.finished).tolist()
        done = len(simulations) - len(todo)
        if done:
            logger.info("%s: resuming with %d of %d simulations finished.", path, done, len(simulations))
        if progress is not None:
            progress(done, len(simulations))
        for number in todo:
            try:
                catalogues = _read(chosen[number])
                maps = simulator.paint(catalogues, projections=projections, seed=_paint_seed(seed, number))
                writer.write(number, maps)
            except ValueError as error:
                message = str(error)
                if not any(each.path.name in message for each in chosen[number].values()):
                    message = f"{simulations[number][0]}: {message}"
                if not done:
                    # Nothing to resume: the next attempt may have other arguments.
                    writer.partial.unlink(missing_ok=True)
                    raise ValueError(message) from error
                raise ValueError(
                    f"{message} {done} of {len(simulations)} simulations are finished and kept in {writer.partial}: "
                    f"replace this one and run the same again to resume, or delete that file to go on without it."
                ) from error
            done += 1
            if progress is not None:
                progress(done, len(simulations))
        return writer.finish()


def halo_cosmology(sources: str | os.PathLike | Iterable[str | os.PathLike]) -> dict[str, float]:
    """Cosmology of halo catalogues, from the first parameter file that is found beside one.

    Args:
        sources: As in `convert_halo_catalogues`.

    Returns:
        omega_m, omega_b, h, sigma_8 and n_s, those that are there; empty without parameter file.

    Raises:
        FileNotFoundError: If a folder or file does not exist, or a folder holds no catalogues.
        ValueError: If a name is no catalogue's, or a parameter file is not usable.
    """
    for runs in _group(_find_files(sources)):
        for run in runs:
            if run.parameters is not None:
                return dict(run.parameters.cosmology)
    return {}


def _integer(name: str, value: int, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer, got {value!r}.")
    if value < low:
        raise ValueError(f"{name}: expected at least {low}, got {value}.")
    return int(value)


def _lines(simulator: HaloPainter) -> dict[str, float]:
    attributes = simulator.attributes()
    return dict(zip(map(str, attributes["lines"]), map(float, attributes["line_redshifts"]), strict=True))


def _natural(name: object) -> list:
    """Key that puts run 9 before run 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", str(name)) if part]


def _find_files(sources: str | os.PathLike | Iterable[str | os.PathLike]) -> dict[pathlib.Path, str]:
    """Catalogues without the number of a part -> how they are called in the database."""
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    found: dict[pathlib.Path, str] = {}
    count = 0
    for source in map(pathlib.Path, sources):
        count += 1
        if source.is_dir():
            files = [each for each in source.rglob("pinocchio.*.catalog.out*") if NAME.fullmatch(each.name)]
            if not files:
                others = sorted(each.name for each in source.iterdir())[:SHOWN]
                raise FileNotFoundError(
                    f"{source}: expected catalogues pinocchio.<redshift>.<run>.catalog.out, there or in subfolders, "
                    f"got {others or 'nothing'}. Give the folder in which PINOCCHIO ran."
                )
            found.update({_base(each): _base(each).relative_to(source).as_posix() for each in files})
            continue
        if not NAME.fullmatch(source.name):
            if not source.exists():
                raise FileNotFoundError(f"{source}: there is no such file or folder. Give your halo catalogues.")
            raise ValueError(
                f"{source}: expected a name such as pinocchio.1.3000.run.catalog.out, which says redshift and run. "
                f"Give the catalogue its own name."
            )
        base = _base(source)
        if not source.exists() and not base.with_name(base.name + ".0").exists():
            raise FileNotFoundError(f"{source}: there is no such file or folder. Give your halo catalogues.")
        found.setdefault(base, base.name)
    if not count:
        raise ValueError("sources: expected a folder or at least one file, got an empty list.")
    return {each: found[each] for each in sorted(found, key=_natural)}


def _base(path: pathlib.Path) -> pathlib.Path:
    return path if NAME.fullmatch(path.name)["part"] is None else path.with_suffix("")


def _group(files: Iterable[pathlib.Path]) -> list[list[HaloRun]]:
    """Simulations in the order of folders and runs, each with the runs it is made of."""
    runs: dict[tuple[pathlib.Path, str], dict[float, pathlib.Path]] = {}
    for path in files:
        name = NAME.fullmatch(path.name)
        runs.setdefault((path.parent, name["run"]), {})[float(name["redshift"])] = path
    folders: dict[pathlib.Path, list[str]] = {}
    for folder, name in runs:
        folders.setdefault(folder, []).append(name)
    parameters = {folder: find_parameter_files(folder, names) for folder, names in folders.items()}
    simulations: dict[object, list[HaloRun]] = {}
    for folder, name in sorted(runs, key=lambda key: (_natural(key[0]), _natural(key[1]))):
        run = HaloRun(folder, name, runs[folder, name], parameters[folder].get(name))
        together = simulations.setdefault((folder, name) if run.seed is None else run.seed, [])
        for other in together:
            _check_same_box(run, other)
        together.append(run)
    return list(simulations.values())


def _check_same_box(run: HaloRun, other: HaloRun) -> None:
    """Runs of one random seed have to be other redshifts of the same box."""
    one, two = run.parameters, other.parameters
    double = sorted(set(run.paths) & set(other.paths))
    if double:
        problem = f"both have a catalogue at z = {double[0]:g}"
    elif (one.mass_unit, one.grid_cells, one.cosmology) != (two.mass_unit, two.grid_cells, two.cosmology) or (
        not np.isclose(one.box_size, two.box_size)
    ):
        problem = "their boxes, grids, cosmologies or units differ"
    else:
        return
    raise ValueError(
        f"{run} and {other} share the random seed {run.seed}, and so their matter, but {problem}. Maps of one would "
        f"not be independent of maps of the other: leave one out, or run it again with a seed of its own."
    )


def _nearest(runs: list[HaloRun], line: str, redshift: float, given: dict) -> PinocchioCatalogue:
    there = {each: (path, run) for run in runs for each, path in run.paths.items()}
    nearest = min(there, key=lambda each: abs(each - redshift))
    if not abs(nearest - redshift) <= REDSHIFT_TOLERANCE:
        raise ValueError(
            f"{runs[0]}: expected a catalogue within {REDSHIFT_TOLERANCE:g} of z = {redshift:.4g}, where {line} is "
            f"seen, got catalogues at z = {', '.join(f'{each:g}' for each in sorted(there))}. Write one for this "
            f"redshift (OutputList), or choose other lines or another observed wavelength."
        )
    path, run = there[nearest]
    return PinocchioCatalogue.from_file(path, parameters=run.parameters, **given)


def _check_cosmology(chosen: list[dict[str, PinocchioCatalogue]], simulator: HaloPainter) -> None:
    painted = json.loads(str(simulator.attributes().get("cosmology", "{}")))
    for catalogue in (each for catalogues in chosen for each in catalogues.values()):
        known = {} if catalogue.parameters is None else catalogue.parameters.cosmology
        for name, key in COSMOLOGY_NAMES.items():
            if name in known and key in painted:
                expected, got = painted[key], known[name]
                if not np.isclose(expected, got, rtol=COSMOLOGY_TOLERANCE, atol=0.0):
                    raise ValueError(
                        f"{catalogue.path}: expected haloes of the cosmology that maps are painted in, {name} = "
                        f"{expected:g}, got {got:g} by {catalogue.parameters.path.name}. Sizes on the sky and "
                        f"intensities would be wrong: convert haloes of each cosmology by themselves, in their own."
                    )


def _warn_of_missing_haloes(chosen: list[dict[str, PinocchioCatalogue]], simulator: HaloPainter) -> None:
    smallest = getattr(simulator, "minimum_mass", None)
    parameters = [each.parameters for catalogues in chosen for each in catalogues.values()]
    thresholds = [each.mass_threshold for each in parameters if each is not None and each.mass_threshold is not None]
    if smallest is not None and thresholds and max(thresholds) > smallest * (1.0 + COSMOLOGY_TOLERANCE):
        logger.warning(
            "Haloes of %.3g Msun and more shine, but the catalogues begin at %.3g Msun (MinHaloMass times the mass of "
            "a particle): the light of smaller haloes is missing from the maps.",
            smallest, max(thresholds),
        )  # fmt: skip


def _read(chosen: dict[str, PinocchioCatalogue]) -> dict[str, HaloCatalogue]:
    """Haloes for each line; a catalogue of two lines is read once."""
    haloes: dict[pathlib.Path, HaloCatalogue] = {}
    for catalogue in chosen.values():
        if catalogue.path not in haloes:
            haloes[catalogue.path] = catalogue.read()
    return {line: haloes[catalogue.path] for line, catalogue in chosen.items()}


def _paint_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([PAINT_STREAM, seed, number]).generate_state(1)[0] >> 1)


def _plan(
    chosen: list[dict[str, PinocchioCatalogue]],
    simulations: list[list[HaloRun]],
    names: dict[pathlib.Path, str],
    simulator: HaloPainter,
    projections: int,
    seed: int,
) -> DatabasePlan:
    catalogues = [list(each.values()) for each in chosen]
    settings = dataclasses.asdict(simulator) if dataclasses.is_dataclass(simulator) else {}
    attributes = simulator.attributes()
    attributes.update(
        simulator="PINOCCHIO",
        simulator_version=f"haloes painted by {simulator.name} {simulator.version}",
        simulator_settings=json.dumps(settings, sort_keys=True, default=_json_value),
        seed=seed,
        projections=projections,
        catalogue_redshifts=np.array([[each.redshift for each in row] for row in catalogues]),
        box_sizes=np.array([[each.box_size for each in row] for row in catalogues]),
        description=(
            f"{attributes.get('description', '')}; haloes of PINOCCHIO, from {names[catalogues[0][0].path]} to "
            f"{names[catalogues[-1][-1].path]}"
        ).removeprefix("; "),
    )
    for line in chosen[0]:
        attributes[f"catalogues_{line}"] = np.array([names[each[line].path] for each in chosen])
    parameters = [each.parameters for row in catalogues for each in row]
    thresholds = [None if each is None else each.mass_threshold for each in parameters]
    if None not in thresholds:
        attributes["mass_thresholds"] = np.array(thresholds).reshape(len(catalogues), -1)
    seeds = [runs[0].seed for runs in simulations]
    return DatabasePlan(
        task=simulator.task,
        fields=simulator.fields,
        parameters=(),
        parameter_values=np.zeros((len(chosen), 0)),
        simulation=np.repeat(np.arange(len(chosen)), projections),
        seeds=None if None in seeds else np.array(seeds, np.int64),
        attributes=attributes,
    )


def _json_value(value):
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
