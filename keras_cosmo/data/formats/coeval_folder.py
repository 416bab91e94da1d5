"""From coeval boxes of 21cmFAST to one database of 21-cm and matter maps."""

import json
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from keras_cosmo.data.database_writer import DatabasePlan, DatabaseWriter
from keras_cosmo.data.formats.coeval_simulations import (
    SHOWN,
    TOLERANCE,
    CoevalSimulation,
    box_difference,
    cosmology_difference,
    find_coeval_files,
    read_simulations,
    redshift_key,
)
from keras_cosmo.data.formats.py21cmfast_coeval import ATTRIBUTE_OF, Py21cmfastCoeval
from keras_cosmo.data.formats.raw_boxes import RawBox, read_parameter_table
from keras_cosmo.quantities import MapField, Parameter, field_at_redshift
from keras_cosmo.slicing import PROJECTIONS, slab_starts

logger = logging.getLogger(__name__)

PARAMETER_TABLE = "params_simulation_mturn_lumx_ngamma.txt"
VELOCITY_GRADIENTS = ("included", "apply", "absent")
# A redshift that was asked for is in a box whose own differs by less than this: names have two decimals.
REDSHIFT_TOLERANCE = 0.005


def convert_coeval(
    sources: str | os.PathLike | Iterable[str | os.PathLike],
    path: str | os.PathLike,
    *,
    parameters: Sequence[Parameter],
    redshifts: Sequence[float] | None = None,
    slabs: int = 20,
    slab_cells: int = 4,
    projection: str = "mean",
    velocity_gradient: str | None = None,
    parameter_table: str | os.PathLike | None = None,
    allow_repeated_seeds: bool = False,
    dtype: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> pathlib.Path:
    """Project slabs of 21-cm boxes and of the matter boxes behind them into one database (task ``"matter"``).

    One simulation is all redshifts of one random seed and one set of parameters. Every file is checked before anything
    is written. The database appears under ``path`` when it is complete; after a kill the same call goes on where it
    stopped. Simulations are numbered in the order of the file names, numbers in names by value.

    Sources can be

    - files of ``Coeval.save`` of 21cmFAST 3 or 4, several redshifts of a simulation in several files;
    - files ``BrightnessTemp.h5`` and ``PerturbedField.h5`` of the cache of 21cmFAST 4, paired by seed and redshift;
    - boxes without header of 21cmFAST 1.2 to 2.1, each simulation in its own folder. A folder of
      ``Simulation_<i>/Boxes`` with the table ``params_simulation_mturn_lumx_ngamma.txt`` is that of
      Villanueva-Domingo & Villaescusa-Navarro (2021); row i of the table, counted from 1, is of ``Simulation_<i>``.

    Args:
        sources: Folder, or files and folders.
        path: Database to write.
        parameters: Which parameters become labels, with their prior ranges, such as
            `keras_cosmo.simulations.coeval.COEVAL_PARAMETERS`; names among log10_L_X, log10_M_min, log10_N_gamma.
            Empty for boxes without header whose parameters are unknown.
        redshifts: Which redshifts to take, each to 0.005. None takes all, which must be the same in all simulations.
        slabs: Slabs of each box, spread evenly; it must divide the cells along the line of sight (paper: 20).
        slab_cells: Cells that each slab is thick (paper: 4).
        projection: ``"mean"``, or ``"sum"`` as the paper's public code; see `keras_cosmo.slicing.slice_box`.
        velocity_gradient: What the boxes of brightness temperature are: ``"included"``, in redshift space;
            ``"absent"``, in real space, and left so; ``"apply"``, in real space, and corrected here as
            ``Coeval.include_dvdr_in_tau21`` does (21cmFAST 4 only; agrees with it to 4e-6 mK). Needed where the files
            do not say, that is for 21cmFAST 4, whose ``Coeval.save`` writes real space.
        parameter_table: Text file with the parameters of boxes without header; see
            `keras_cosmo.data.formats.raw_boxes.read_parameter_table`.
        allow_repeated_seeds: Whether simulations may share a random seed, and so the matter field. A network then only
            has to learn that field by heart (paper, footnote 3).
        dtype: ``"float32"`` or ``"float16"``, how maps are stored.
        progress: Called as ``progress(done, total)`` at the begin and after each simulation.

    Returns:
        ``path``.

    Raises:
        FileNotFoundError: If a folder or file does not exist, or the folder holds no boxes.
        FileExistsError: If ``path`` exists.
        ValueError: If a file is not usable, boxes do not belong together, a redshift is not there, the same simulation
            or random seed comes twice, a parameter had no effect, or the slabs do not fit; names the files.
    """
    path = pathlib.Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already. Choose another output file, or delete it first.")
    parameters = tuple(parameters)
    cut = {"slabs": slabs, "slab_cells": slab_cells, "projection": projection}
    _check_arguments(parameters, projection, velocity_gradient)
    files = find_coeval_files(sources, path)
    simulations = read_simulations(files, velocity_gradient)
    redshifts = _choose_redshifts(simulations, redshifts)
    _check_pairs(simulations, redshifts)
    _check_slabs(simulations[0], cut)
    _check_alike(simulations)
    _check_different(simulations, allow_repeated_seeds)
    state = _check_velocity_gradient(simulations, velocity_gradient)
    _read_labels(simulations, parameters, parameter_table, sources)
    plan = _plan(simulations, redshifts, parameters, cut, state, dtype)
    with DatabaseWriter.open(path, plan) as writer:
        todo = np.flatnonzero(~writer.finished).tolist()
        if progress is not None:
            progress(len(simulations) - len(todo), len(simulations))
        for done, number in enumerate(todo, start=len(simulations) - len(todo) + 1):
            try:
                writer.write(number, simulations[number].maps(cut, velocity_gradient == "apply"))
            except ValueError as error:
                # Without this simulation the list is another one: what is written cannot be resumed.
                writer.partial.unlink(missing_ok=True)
                message = str(error)
                if not any(str(box.path) in message for box in simulations[number].boxes()):
                    message = f"{simulations[number].name}: {message}"
                raise ValueError(f"{message} Nothing was kept of {path}.") from error
            if progress is not None:
                progress(done, len(simulations))
        return writer.finish()


def _check_arguments(parameters: tuple[Parameter, ...], projection: str, velocity_gradient: str | None) -> None:
    names = [parameter.name for parameter in parameters]
    if len(set(names)) != len(names) or not set(names) <= set(ATTRIBUTE_OF):
        raise ValueError(f"parameters: expected some of {list(ATTRIBUTE_OF)}, each at most once, got {names}.")
    if projection not in PROJECTIONS:
        raise ValueError(f"projection: expected one of {list(PROJECTIONS)}, got {projection!r}.")
    if velocity_gradient is not None and velocity_gradient not in VELOCITY_GRADIENTS:
        raise ValueError(f"velocity_gradient: expected one of {list(VELOCITY_GRADIENTS)}, got {velocity_gradient!r}.")


def _choose_redshifts(simulations: list[CoevalSimulation], redshifts: Sequence[float] | None) -> list[str]:
    first = simulations[0]
    there = sorted(first.temperature, key=float)
    if redshifts is None:
        chosen = there
    else:
        chosen = []
        for redshift in np.atleast_1d(np.asarray(redshifts, np.float64)).tolist():
            nearest = min(there, key=lambda key: abs(float(key) - redshift))
            if not abs(float(nearest) - redshift) < REDSHIFT_TOLERANCE:
                raise ValueError(
                    f"redshifts: there is no box at z = {redshift:g} in {first.name}, which has z = "
                    f"{', '.join(there)}. Ask for some of these."
                )
            chosen.append(nearest)
        if not chosen or len(set(chosen)) != len(chosen):
            raise ValueError(f"redshifts: expected at least one, each once, got {list(redshifts)}.")
    for simulation in simulations:
        missing = [key for key in chosen if key not in simulation.temperature]
        more = sorted(set(simulation.temperature) - set(chosen), key=float) if redshifts is None else []
        if missing or more:
            raise ValueError(
                f"{simulation.name} and {first.name} have other redshifts: expected 21-cm boxes at z = "
                f"{', '.join(chosen)}, got z = {', '.join(sorted(simulation.temperature, key=float))}. Choose "
                f"redshifts that all simulations have, or remove this one."
            )
        simulation.keep(sorted(chosen, key=float))
        for box in simulation.boxes():
            if isinstance(box, RawBox):
                box.check_size()
    return sorted(chosen, key=float)


def _check_pairs(simulations: list[CoevalSimulation], redshifts: list[str]) -> None:
    for simulation in simulations:
        for key in redshifts:
            box = simulation.temperature[key]
            if key not in simulation.matter:
                raise ValueError(
                    f"{box.path}: no matter box belongs to this 21-cm box: expected one at z = {key}"
                    f"{'' if simulation.seed is None else f' with random seed {simulation.seed}'}, got matter boxes at "
                    f"z = {', '.join(sorted(simulation.matter, key=float)) or 'none'}. Add it, or leave this redshift "
                    f"or simulation out."
                )
            difference = box_difference(box, simulation.matter[key])
            if difference:
                raise ValueError(
                    f"{box.path} and {simulation.matter[key].path} do not belong together: expected the same "
                    f"{difference}. Give boxes of one run."
                )


def _check_slabs(simulation: CoevalSimulation, cut: dict) -> None:
    box = simulation.first()
    try:
        slab_starts(box.shape[2], slabs=cut["slabs"], slab_cells=cut["slab_cells"])
    except ValueError as error:
        raise ValueError(f"{box.path}: {error}") from error


def _check_alike(simulations: list[CoevalSimulation]) -> None:
    first = simulations[0].first()
    varied: set[str] = set()
    for simulation in simulations:
        for box in simulation.temperature.values():
            if box.shape != first.shape:
                difference = f"shape, got {box.shape} and {first.shape}"
            elif not np.isclose(box.cell_size, first.cell_size, rtol=TOLERANCE, atol=0):
                difference = f"cell size in Mpc, got {box.cell_size:g} and {first.cell_size:g}"
            else:
                difference = "" if isinstance(box, RawBox) else cosmology_difference(box, first)
            if difference:
                raise ValueError(
                    f"{box.path} and {first.path} do not belong together: expected the same {difference}. Convert them "
                    f"into two databases."
                )
            if not isinstance(box, RawBox):
                names = box.settings.keys() & first.settings.keys()
                varied |= {name for name in names if not np.array_equal(box.settings[name], first.settings[name])}
    if varied:
        shown = sorted(varied)
        logger.warning(
            "Settings other than the labels differ between the simulations: %s%s. Maps with the same labels can then "
            "differ for reasons that no network can know.",
            ", ".join(shown[:SHOWN]), " ..." if len(shown) > SHOWN else "",
        )  # fmt: skip
    versions = {box.version for each in simulations for box in each.temperature.values() if not isinstance(box, RawBox)}
    if len(versions) > 1:
        logger.warning("Boxes of several versions of 21cmFAST come together: %s.", ", ".join(sorted(versions)))


def _check_different(simulations: list[CoevalSimulation], allow_repeated_seeds: bool) -> None:
    seen: dict[int, CoevalSimulation] = {}
    repeated = []
    for simulation in simulations:
        if simulation.seed is None:
            continue
        if simulation.seed in seen:
            repeated.append((simulation, seen[simulation.seed]))
        seen.setdefault(simulation.seed, simulation)
    if not repeated:
        return
    pairs = "; ".join(f"{one.name} and {other.name} (seed {one.seed})" for one, other in repeated[:SHOWN])
    more = f" and {len(repeated) - SHOWN} more" if len(repeated) > SHOWN else ""
    if not allow_repeated_seeds:
        raise ValueError(
            f"Simulations share a random seed, and so the matter field: {pairs}{more}. A network would only have to "
            f"learn that field by heart. Run them again with seeds of their own, give one of each, or allow repeated "
            f"seeds to go on all the same."
        )
    logger.warning(
        "%d of %d simulations share a random seed with another one, and so the matter field: %s%s. Scores on a test "
        "set that shares fields with the training set mean nothing.",
        len(repeated), len(simulations), pairs, more,
    )  # fmt: skip


def _check_velocity_gradient(simulations: list[CoevalSimulation], velocity_gradient: str | None) -> str:
    """What the maps will be, in words."""
    for simulation in simulations:
        for box in simulation.temperature.values():
            if isinstance(box, RawBox):
                recorded = box.velocity_axis is not None
                if box.velocity_axis not in (None, 2):
                    raise ValueError(
                        f"{box.path}: velocities are included along axis {box.velocity_axis}, expected the last one, "
                        f"which is the line of sight of the maps. Run delta_T again with VELOCITY_COMPONENT 3."
                    )
            else:
                recorded = box.velocity_gradient
            _check_recorded(box, recorded, velocity_gradient)
            if velocity_gradient == "apply":
                box.check_velocities(simulation.matter[redshift_key(box.redshift)])
    if velocity_gradient == "absent":
        return "in real space, without velocity gradient"
    if velocity_gradient == "apply":
        return "with the velocity-gradient correction along the line of sight, applied when converted"
    return "in redshift space as in the files"


def _check_recorded(box: Py21cmfastCoeval | RawBox, recorded: bool | None, velocity_gradient: str | None) -> None:
    if recorded is None and velocity_gradient is None:
        raise ValueError(
            f"{box.path}: the file does not say whether velocities are included in its brightness temperature. Say it "
            f"with velocity_gradient: 'apply' corrects boxes as Coeval.save of 21cmFAST 4 writes them, 'included' if "
            f"yours were corrected before saving, 'absent' to keep real space."
        )
    if recorded and velocity_gradient not in (None, "included"):
        raise ValueError(
            f"{box.path}: velocities are included in its brightness temperature, but velocity_gradient is "
            f"{velocity_gradient!r}. Give 'included', or boxes in real space."
        )
    if recorded is False and velocity_gradient != "absent":
        raise ValueError(
            f"{box.path}: its brightness temperature is in real space, without velocities, and cannot be corrected "
            f"here; velocity_gradient is {velocity_gradient!r}. Give boxes in redshift space, or 'absent' to keep real "
            f"space."
        )


def _read_labels(
    simulations: list[CoevalSimulation],
    parameters: tuple[Parameter, ...],
    parameter_table: str | os.PathLike | None,
    sources: str | os.PathLike | Iterable[str | os.PathLike],
) -> None:
    raw = isinstance(simulations[0].first(), RawBox)
    if not raw:
        if parameter_table is not None:
            raise ValueError("parameter_table: expected none, since these files hold their own parameters.")
        _check_active(simulations, parameters)
        return
    if not parameters:
        return
    if parameter_table is None:
        folder = pathlib.Path(sources) if isinstance(sources, str | os.PathLike) else None
        parameter_table = folder / PARAMETER_TABLE if folder is not None else None
        if parameter_table is None or not parameter_table.exists():
            raise ValueError(
                f"parameter_table: boxes without header do not hold their parameters; expected a table, or "
                f"{PARAMETER_TABLE} in the folder given. Give it, or convert without labels (no parameters)."
            )
    table = read_parameter_table(parameter_table)
    rows = len(next(iter(table.values())))
    for simulation in simulations:
        number = re.search(r"(\d+)$", pathlib.Path(simulation.name).resolve().name)
        if number is None or not 1 <= int(number[1]) <= rows:
            raise ValueError(
                f"{simulation.name}: expected a folder whose name ends in a number from 1 to {rows}, its row in "
                f"{parameter_table}. Rename the folder, or complete the table."
            )
        simulation.values = {name: float(values[int(number[1]) - 1]) for name, values in table.items()}


def _check_active(simulations: list[CoevalSimulation], parameters: tuple[Parameter, ...]) -> None:
    boxes = [box for simulation in simulations for box in simulation.temperature.values()]
    for parameter in parameters:
        spoilt = [box for box in boxes if parameter.name in box.inactive]
        if spoilt:
            raise ValueError(
                f"{spoilt[0].path}: {parameter.name} = {spoilt[0].parameters[parameter.name]:g} cannot be a label: "
                f"{spoilt[0].inactive[parameter.name]} ({len(spoilt)} of {len(boxes)} files). Run these simulations "
                f"again with it on, remove them, or convert without {parameter.name}."
            )


def _plan(
    simulations: list[CoevalSimulation],
    redshifts: list[str],
    parameters: tuple[Parameter, ...],
    cut: dict,
    state: str,
    dtype: str,
) -> DatabasePlan:
    first = simulations[0].first()
    fields = {}
    for key in redshifts:
        for kind, unit, description in (
            ("brightness_temp", "mK", f"21-cm brightness temperature, z = {key}, {state}"),
            ("density", "", f"overdensity of matter in real space, z = {key}"),
        ):
            fields[field_at_redshift(kind, float(key))] = MapField(
                unit=unit, shape=first.shape[:2], description=description
            )
    attributes = {
        "cell_size": first.cell_size,
        "cell_size_units": "Mpc",
        "redshifts": np.array([float(key) for key in redshifts]),
        "periodic_across_sky": True,
        "projection": cut["projection"],
        "slab_cells": int(cut["slab_cells"]),
        "description": (
            f"Coeval boxes of {len(simulations)} simulations of 21cmFAST, {simulations[0].name} to "
            f"{simulations[-1].name}, {first.shape[0] * first.cell_size:g} Mpc wide; {cut['slabs']} slabs of "
            f"{cut['slab_cells']} cells per box, {cut['projection']} along the line of sight (last axis); "
            f"brightness_temp {state}, density in real space"
        ),
    }
    if isinstance(first, RawBox):
        attributes.update(simulator="21cmFAST", simulator_version="1.2 to 2.1")
    else:
        versions = {box.version for each in simulations for box in each.temperature.values()}
        attributes.update(
            simulator="py21cmfast",
            simulator_version=", ".join(sorted(versions)),
            cosmology=json.dumps(first.cosmology),
        )
    seeds = [simulation.seed for simulation in simulations]
    return DatabasePlan(
        task="matter",
        fields=fields,
        parameters=parameters,
        parameter_values=np.array(
            [[simulation.values[each.name] for each in parameters] for simulation in simulations]
        ).reshape(len(simulations), len(parameters)),
        simulation=np.repeat(np.arange(len(simulations)), cut["slabs"]),
        seeds=None if None in seeds else np.array(seeds, np.int64),
        attributes=attributes,
        dtype=dtype,
    )
