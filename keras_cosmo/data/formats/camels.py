"""Maps of the CAMELS Multifield Dataset (CMD) and the tables of their parameters, to one database.

Maps are arrays ``(n_maps, side, side)`` in ``.npy`` files, called such as ``Maps_HI_IllustrisTNG_LH_z=0.00.npy``
(Villaescusa-Navarro et al. 2022, ApJS 259, 61); map i is of simulation i // 15: slabs of 5 Mpc/h, 5 along each axis of
a periodic box of 25 Mpc/h. The file that Friedman & Hassan (2022) used, ``Images_HI_IllustrisTNG_z=5.99.npy``, is laid
out in the same way. Tables of parameters have one row per simulation and come in three forms::

    params_LH_IllustrisTNG.txt            Omega_m sigma_8 A_SN1 A_AGN1 A_SN2 A_AGN2, numbers only
    CosmoAstroSeed_IllustrisTNG_LH.txt    #Name Omega_m sigma_8 A_SN1 A_AGN1 A_SN2 A_AGN2 seed, and rows LH_0 0.309 ...
    CAMELs_params.csv                     Name,,,,,,,seed with names left blank, and rows LH_0,0.309,...

The Latin hypercubes are uniform in Omega_m, sigma_8 and the logarithms of the four amplitudes of feedback. Labels are
what they are uniform in, `CAMELS_PARAMETERS`: posteriors and networks take every label's prior as uniform.
"""

import dataclasses
import json
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy.stats import kstest

from keras_cosmo.data.database_writer import DatabasePlan, DatabaseWriter
from keras_cosmo.quantities import MapField, Parameter

logger = logging.getLogger(__name__)

MAPS_PER_SIMULATION = 15
"""3 axes times 5 slabs."""

SURFACE_DENSITY_UNIT = "Msun/h (Mpc/h)^-2"

CAMELS_FIELDS = {
    "Mgas": (SURFACE_DENSITY_UNIT, "surface density of gas"),
    "Vgas": ("km/s", "velocity of gas"),
    "T": ("K", "temperature of gas"),
    "P": ("h^2 Msun (km/s)^2 kpc^-3", "pressure of gas"),
    "Z": ("", "metallicity of gas"),
    "HI": (SURFACE_DENSITY_UNIT, "surface density of neutral hydrogen"),
    "ne": ("h^2 cm^-3 (Mpc/h)", "column of electrons"),
    "B": ("G", "magnetic field"),
    "MgFe": ("", "magnesium over iron"),
    "Mcdm": (SURFACE_DENSITY_UNIT, "surface density of dark matter"),
    "Vcdm": ("km/s", "velocity of dark matter"),
    "Mstar": (SURFACE_DENSITY_UNIT, "surface density of stars"),
    "Mtot": (SURFACE_DENSITY_UNIT, "surface density of all matter"),
}
"""Prefix in file names -> unit and what it is, from the documentation of CMD."""

CAMELS_COLUMNS = ("Omega_m", "sigma_8", "A_SN1", "A_AGN1", "A_SN2", "A_AGN2")
"""Of the tables, in this order."""

LOGARITHM = "log10_"


def _amplitude(name: str, factor: float, description: str) -> Parameter:
    """Logarithm of an amplitude of feedback from 1 / factor to the factor."""
    return Parameter(
        name=f"{LOGARITHM}A_{name}",
        low=float(np.log10(1.0 / factor)),
        high=float(np.log10(factor)),
        symbol=rf"\log_{{10}} A_\mathrm{{{name}}}",
        description=description,
    )


CAMELS_PARAMETERS = (
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
    _amplitude("SN1", 4.0, "feedback of supernovae, first"),
    _amplitude("AGN1", 4.0, "feedback of AGN, first"),
    _amplitude("SN2", 2.0, "feedback of supernovae, second"),
    _amplitude("AGN2", 2.0, "feedback of AGN, second"),
)
"""Labels, in the order of the columns, with the ranges of the Latin hypercubes (LH), in which they are uniform:
Villaescusa-Navarro et al. (2021, ApJ 915, 71)."""

SUITE_PARAMETERS = {"Astrid": (_amplitude("AGN2", 4.0, "feedback of AGN, second"),)}
"""Suite -> labels whose range is another one: Info_Astrid_L25n256_6params.csv of the documentation of CAMELS, and the
tables themselves. Those of IllustrisTNG, SIMBA, Swift-EAGLE and Magneticum have the ranges of `CAMELS_PARAMETERS`, also
where the Info files of the last two give 0.25 to 4 for A_AGN2."""

COSMOLOGY = {"hlittle": 0.6711, "OMb": 0.049, "POWER_INDEX": 0.9624}
"""What all simulations have in common (Villaescusa-Navarro et al. 2021), named as in 21cmFAST files."""

SETS = "LH|CV|1P|EX|BE|SB[0-9]+"
# Simulations without gas are called Nbody, or after the ones with gas that share their initial conditions.
SUITE = rf"(?P<suite>(?:Nbody_(?!(?:{SETS})[_.]))?[A-Za-z-]+)"
MAP_NAME = re.compile(rf"(?:Maps|Images)_(?P<field>[A-Za-z]+)_{SUITE}(?:_(?P<set>{SETS}))?(?:_z=[0-9.]+)?\.npy")
TABLE_NAME = re.compile(
    rf"(?:params|CosmoAstroSeed(?:_params)?)_(?:(?P<before>{SETS})_)?{SUITE}(?:_L[0-9]+n[0-9]+)?"
    rf"(?:_(?P<after>{SETS}))?\.(?:txt|csv)"
)
REDSHIFT_IN_NAME = re.compile(r"z=([0-9]+(?:\.[0-9]+)?)")
NUMBERED_ROW = re.compile(r"(?:LH|CV|EX|BE|SB[0-9]+)_([0-9]+)")
# Wide enough for all sets: beyond, the columns are others.
POSSIBLE = {"Omega_m": (0.02, 1.0), "sigma_8": (0.1, 3.0)}
SHOWN = 5
# Tables have five decimals.
ROUNDING = 1e-5
# Of a sample from the prior, one in a thousand would be reported.
LEAST_P_VALUE = 1e-3
# Of pixels that a floor raises.
MANY_RAISED = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class CamelsTable:
    """Parameters of CAMELS simulations, one row each.

    Args:
        path: The file it was read from.
        columns: Name -> ``(n_simulations,)`` values, in the order of the file.
        seeds: ``(n_simulations,)`` random seeds, or None if the file has none.
    """

    path: pathlib.Path
    columns: dict[str, np.ndarray]
    seeds: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """Number of simulations."""
        return len(next(iter(self.columns.values())))


def convert_camels(
    maps_npy: str | os.PathLike,
    parameters_file: str | os.PathLike,
    path: str | os.PathLike,
    *,
    field: str | None = None,
    side: int | None = 64,
    simulations: Iterable[int] | None = None,
    parameter_names: Sequence[str] | None = None,
    redshift: float | None = None,
    box_size: float = 25.0,
    floor: float | None = None,
    dtype: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> pathlib.Path:
    """Write maps of one field of CAMELS and their parameters to a database (task ``"higlow"``).

    Maps are read from a memory map, one simulation at a time, so that files may be larger than the memory. The database
    appears under ``path`` when it is complete; after a kill the same call goes on where it stopped. Pixels that are
    zero or negative, which no logarithm takes, are kept, counted and reported in a warning; a ``floor`` raises them.

    Args:
        maps_npy: Maps ``(15 * n_simulations, side, side)``; see the top of this module.
        parameters_file: Table of the parameters of all simulations in the file; see the top of this module.
        path: Database to write.
        field: What is mapped, such as ``"HI"``; None takes it from the name of the file. The maps of ``"HI"`` are
            called ``hi`` in the database.
        side: Pixels along each side of the maps in the database. Larger maps are averaged; where ``side`` does not
            divide theirs, pixels across a border count with the share of their area. None keeps the maps as they are.
        simulations: Which simulations to take, by their rows in the table; None takes all. Those of the database are
            numbered from 0; its root attribute ``simulation_numbers`` has the rows.
        parameter_names: Which parameters become labels: columns of the table, or ``log10_`` and a column, for its
            logarithm. ``A_SN1`` and ``log10_A_SN1`` both mean the label ``log10_A_SN1``, in which the Latin hypercube
            is uniform; likewise ``A_AGN1``, ``A_SN2`` and ``A_AGN2``. Columns beyond the six get the range that they
            have in the table. None takes those of `CAMELS_PARAMETERS` that the table has, of simulations without gas
            (``Nbody``) the first two, but not those that are equal in all simulations.
        redshift: None takes it from the name of the file.
        box_size: Side of the maps in Mpc/h.
        floor: Pixels below it are raised to it, after averaging, in the unit of the field; how many is reported, in a
            warning if more than 1%: many pixels of exactly the same value have no density that a flow could learn.
            None leaves all pixels as they are.
        dtype: ``"float32"`` or ``"float16"``, how maps are stored.
        progress: Called as ``progress(done, total)`` at the begin and after each simulation.

    Returns:
        ``path``.

    Raises:
        FileNotFoundError: If a file does not exist.
        FileExistsError: If ``path`` exists.
        TypeError: If ``side`` or a number of a simulation is not an integer.
        ValueError: If a file is not usable, maps and table do not belong together, a pixel is not finite or does not
            fit ``dtype``, maps would have to be enlarged, ``box_size`` or ``floor`` is not positive, the names of the
            files contradict the arguments, or a label lies outside of the range of its suite in some simulations or is
            equal in all of them.

    Example:
        >>> convert_camels(
        ...     "Maps_HI_IllustrisTNG_LH_z=0.00.npy", "params_LH_IllustrisTNG.txt", "hi.h5",
        ...     parameter_names=("Omega_m", "sigma_8"),
        ... )  # doctest: +SKIP
    """
    maps_npy, path = pathlib.Path(maps_npy), pathlib.Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already. Choose another output file, or delete it first.")
    if not 0.0 < box_size < np.inf:
        raise ValueError(f"box_size: expected a positive size in Mpc/h, got {box_size}.")
    if floor is not None and not 0.0 < floor < np.inf:
        raise ValueError(f"floor: expected a positive number in the unit of the maps, got {floor}.")
    if not maps_npy.is_file():
        raise FileNotFoundError(f"{maps_npy}: there is no such file of maps. Give a .npy file of CAMELS.")
    field, suite, collection = _what_is_mapped(maps_npy, field)
    redshift = _redshift(maps_npy, redshift)
    maps = open_camels_maps(maps_npy)
    table = read_camels_parameters(parameters_file)
    _check_together(maps_npy, maps, table, suite, collection)
    weights = _averaging(maps_npy, maps.shape[1], side)
    chosen = _choose_simulations(simulations, table)
    parameters, labels = _choose_labels(parameter_names, table, suite, chosen)
    _warn_of_repeated_seeds(table, chosen)
    unit, description = CAMELS_FIELDS[field]
    cells = maps.shape[1] if weights is None else len(weights)
    attributes = {
        "cell_size": float(box_size) / cells,
        "cell_size_units": "Mpc/h",
        "periodic_across_sky": True,
        "redshifts": np.array([redshift]),
        "cosmology": json.dumps(_common_cosmology(table)),
        "simulator": "CAMELS",
        "simulator_version": " ".join(part for part in (suite, collection) if part) or "unknown suite",
        "simulation_numbers": chosen,
        "maps_file": maps_npy.name,
        "parameters_file": table.path.name,
        **({} if floor is None else {"floor": float(floor)}),
        "description": (
            f"{description} at redshift {redshift:g} from {maps_npy.name}, {len(chosen)} of {table.rows} simulations, "
            f"{MAPS_PER_SIMULATION} maps each, {cells} x {cells} pixels"
            f"{'' if cells == maps.shape[1] else f' averaged from {maps.shape[1]} x {maps.shape[1]}'}"
        ),
    }
    plan = DatabasePlan(
        task="higlow",
        fields={field.lower(): MapField(unit=unit, shape=(cells, cells), description=description)},
        parameters=parameters,
        parameter_values=labels,
        simulation=np.repeat(np.arange(len(chosen)), MAPS_PER_SIMULATION),
        seeds=None if table.seeds is None else table.seeds[chosen],
        attributes=attributes,
        dtype=dtype,
    )
    return _write(path, plan, maps_npy, maps, weights, floor, progress)


def open_camels_maps(path: str | os.PathLike) -> np.memmap:
    """Memory map of a file of CAMELS maps.

    Args:
        path: ``.npy`` file.

    Returns:
        ``(n_maps, side, side)``, read only.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no array of real numbers in the ``.npy`` format, or of another shape.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of maps. Give a .npy file of CAMELS.")
    try:
        maps = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{path}: expected an array in the .npy format, complete, got something else ({error}). Give a file such "
            f"as Maps_HI_IllustrisTNG_LH_z=0.00.npy, or download it again."
        ) from error
    if maps.dtype.kind not in "fiu":
        raise ValueError(f"{path}: expected maps of real numbers, got {maps.dtype}. Give the maps themselves.")
    if maps.ndim != 3 or maps.shape[1] != maps.shape[2] or 0 in maps.shape:
        raise ValueError(
            f"{path}: expected maps of shape (n_maps, side, side), got {maps.shape}. Give 2D maps, and remove axes of "
            f"length 1."
        )
    return maps


def read_camels_parameters(path: str | os.PathLike) -> CamelsTable:
    """Read a table of the parameters of CAMELS simulations; the forms are at the top of this module.

    Args:
        path: Text file, columns separated by blanks or commas. Columns without names are `CAMELS_COLUMNS`, or the
            first of them. Values are those of the file, without logarithms.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If columns cannot be named, a row has another number of columns or is no simulation's in turn, or a
            value is no finite number or cannot be of its parameter; names the line.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such table of parameters. Correct the path.")
    header, rows = None, []
    for number, line in enumerate(path.read_text(errors="replace").lstrip("\ufeff").splitlines(), start=1):
        cells = [cell.strip() for cell in line.split(",")] if "," in line else line.split()
        if not any(cells):
            continue
        bare = cells[1:] if cells[0] == "#" else [cells[0].lstrip("# "), *cells[1:]]
        if not rows and header is None and (bare[:1] in (["Name"], ["name"]) or CAMELS_COLUMNS[0] in bare):
            header = bare
        elif not line.lstrip().startswith("#"):
            rows.append((number, cells))
    if not rows:
        raise ValueError(f"{path}: expected one row of parameters per simulation, got none. Give another table.")
    names = _column_names(path, header, rows[0])
    columns: dict[str, list[float]] = {name: [] for name in names if name.lower() != "name"}
    for index, (number, cells) in enumerate(rows):
        if len(cells) != len(names):
            raise ValueError(f"{path}: line {number}: expected {len(names)} columns, got {len(cells)}. Correct it.")
        for name, cell in zip(names, cells, strict=True):
            if name.lower() != "name":
                columns[name].append(_value(path, number, name, cell))
            elif (label := NUMBERED_ROW.fullmatch(cell)) and int(label[1]) != index:
                raise ValueError(
                    f"{path}: line {number}: expected simulation {index}, since map i is of row i // "
                    f"{MAPS_PER_SIMULATION}, got {cell}. Give the rows of all simulations of the maps, in order."
                )
    seeds = columns.pop("seed", None)
    return CamelsTable(
        path=path,
        columns={name: np.array(values) for name, values in columns.items()},
        seeds=None if seeds is None else np.array(seeds).astype(np.int64),
    )


def _column_names(path: pathlib.Path, header: list[str] | None, first_row: tuple[int, list[str]]) -> list[str]:
    count = len(first_row[1])
    known = list(CAMELS_COLUMNS)
    if header is None:
        header = [""] * count
        if not _is_number(first_row[1][0]):
            header[0] = "Name"
    if len(header) != count:
        raise ValueError(
            f"{path}: expected a name for each of the {count} columns, got {len(header)} names: {' '.join(header)}. "
            f"Correct the first line."
        )
    blank = [column for column, name in enumerate(header) if not name]
    if blank and (not 2 <= len(blank) <= len(known) or set(header) & set(known)):
        raise ValueError(
            f"{path}: expected columns with names, or 2 to {len(known)} without ({', '.join(known)} in this order), "
            f"got {len(blank)} without. Name them in the first line, such as '#Name {' '.join(known)} seed'."
        )
    names = list(header)
    for column, name in zip(blank, known, strict=False):
        names[column] = name
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: expected columns of different names, got {' '.join(names)}. Correct the first line.")
    missing = [name for name in known[:2] if name not in names]
    if missing:
        raise ValueError(
            f"{path}: expected the columns {' and '.join(known[:2])}, got {' '.join(names)}. Name them so."
        )
    return ["seed" if name.lower() == "seed" else name for name in names]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _value(path: pathlib.Path, number: int, name: str, cell: str) -> float:
    value = float(cell) if _is_number(cell) else np.nan
    if not np.isfinite(value):
        raise ValueError(f"{path}: line {number}: expected {name} to be a finite number, got {cell!r}. Correct it.")
    low, high = POSSIBLE.get(name, (-np.inf, np.inf))
    if not low <= value <= high:
        raise ValueError(
            f"{path}: line {number}: expected {name} in [{low:g}, {high:g}], got {value:g}. Are the columns in another "
            f"order? Name them in the first line."
        )
    return value


def _what_is_mapped(maps_npy: pathlib.Path, field: str | None) -> tuple[str, str, str]:
    """Field, suite and set; the last two are "" where the name does not say them."""
    found = MAP_NAME.fullmatch(maps_npy.name)
    said = found.groupdict(default="") if found else {"field": "", "suite": "", "set": ""}
    known = {each.lower(): each for each in CAMELS_FIELDS}
    if field is not None and field.lower() not in known:
        raise ValueError(f"field: expected one of {', '.join(CAMELS_FIELDS)}, got {field!r}.")
    of_name = known.get(said["field"].lower())
    if field is None and of_name is None:
        raise ValueError(
            f"{maps_npy}: the name does not say what is mapped, as that of Maps_HI_IllustrisTNG_LH_z=0.00.npy does. "
            f"Give field, one of {', '.join(CAMELS_FIELDS)}."
        )
    if field is not None and of_name is not None and field.lower() != of_name.lower():
        raise ValueError(f"field: expected {of_name}, as {maps_npy.name} says, got {field!r}. Leave it out, or rename.")
    return of_name or known[field.lower()], said["suite"], said["set"]


def _redshift(maps_npy: pathlib.Path, redshift: float | None) -> float:
    found = REDSHIFT_IN_NAME.search(maps_npy.name)
    said = float(found[1]) if found else None
    if redshift is None and said is None:
        raise ValueError(f"{maps_npy}: the name does not say the redshift (z=5.99). Give redshift.")
    if redshift is not None and not 0.0 <= redshift < np.inf:
        raise ValueError(f"redshift: expected a number of at least 0, got {redshift}.")
    if None not in (said, redshift) and not np.isclose(said, redshift, rtol=0.0, atol=0.005):
        raise ValueError(f"redshift: expected {said:g}, as {maps_npy.name} says, got {redshift:g}. Leave it out.")
    return float(said if redshift is None else redshift)


def _check_together(maps_npy: pathlib.Path, maps: np.ndarray, table: CamelsTable, suite: str, collection: str) -> None:
    if len(maps) % MAPS_PER_SIMULATION:
        raise ValueError(
            f"{maps_npy}: expected {MAPS_PER_SIMULATION} maps per simulation, got {len(maps)} maps in all, which is no "
            f"multiple. Give the whole file."
        )
    count = len(maps) // MAPS_PER_SIMULATION
    if table.rows != count:
        raise ValueError(
            f"{table.path}: expected the parameters of {count} simulations, as {maps_npy.name} has {len(maps)} maps, "
            f"{MAPS_PER_SIMULATION} per simulation, got {table.rows}. Give the table of the same set."
        )
    name = TABLE_NAME.fullmatch(table.path.name)
    if not name:
        return
    # Simulations without gas have the parameters of those with gas.
    suites = (suite.removeprefix("Nbody_"), name["suite"].removeprefix("Nbody_"))
    pairs = [(collection, name["before"] or name["after"])] + [suites] * ("Nbody" not in suites)
    for of_maps, of_table in pairs:
        if of_maps and of_table and of_maps != of_table:
            raise ValueError(
                f"{table.path}: expected the parameters of {of_maps}, as the maps in {maps_npy.name} are, got those of "
                f"{of_table}. Give the table of the same suite and set, or rename it if its name is wrong."
            )


def _averaging(maps_npy: pathlib.Path, cells: int, side: int | None) -> np.ndarray | None:
    """Matrix ``(side, cells)`` that averages a row of pixels, or None to leave maps as they are."""
    if side is None or side == cells:
        return None
    if isinstance(side, bool) or not isinstance(side, int | np.integer):
        raise TypeError(f"side: expected an integer or None, got {side!r}.")
    if side < 1 or side > cells:
        raise ValueError(
            f"side: expected 1 to {cells}, the pixels along the maps in {maps_npy.name}, got {side}. Maps can be "
            f"averaged, not enlarged."
        )
    edges = np.arange(side + 1) * (cells / side)
    low, high = np.maximum(edges[:-1, None], np.arange(cells)), np.minimum(edges[1:, None], np.arange(cells) + 1)
    return np.maximum(high - low, 0.0) * (side / cells)


def _choose_simulations(simulations: Iterable[int] | None, table: CamelsTable) -> np.ndarray:
    if simulations is None:
        return np.arange(table.rows)
    chosen = list(simulations)
    for number in chosen:
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise TypeError(f"simulations: expected integers, got {number!r}.")
    outside = [number for number in chosen if not 0 <= number < table.rows]
    if outside or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"simulations: expected different numbers from 0 to {table.rows - 1}, at least one, got "
            f"{outside[:SHOWN] or chosen[:SHOWN]}."
        )
    return np.array(sorted(chosen), np.int64)


def _choose_labels(
    names: Sequence[str] | None, table: CamelsTable, suite: str, chosen: np.ndarray
) -> tuple[tuple[Parameter, ...], np.ndarray]:
    """Labels and their values ``(n_simulations, n_labels)``."""
    said = TABLE_NAME.fullmatch(table.path.name)
    suite = suite or (said["suite"] if said else "")
    known = _parameters_of_suite(suite)
    if names is None:
        count = 2 if suite.startswith("Nbody") else len(known)
        labels = [found for name in list(known)[:count] if (found := _label(name, table, known))]
    else:
        names = [names] if isinstance(names, str) else list(names)
        labels = [_label(name, table, known) for name in names]
        if not labels or None in labels or len(set(labels)) < len(labels):
            raise ValueError(
                f"parameter_names: expected some of {', '.join(table.columns)}, the columns of {table.path.name}, or "
                f"log10_ and such a name, each at most once, got {', '.join(map(str, names)) or 'none'}."
            )
    values = [_label_values(label, table, chosen) for label in labels]
    varied = [np.ptp(column[chosen]) != 0.0 for column in values]
    constant = ", ".join(name for (name, _), varies in zip(labels, varied, strict=True) if not varies)
    where = f"all {len(chosen)} simulations that are taken of {table.path.name}"
    if constant and not (names is None and any(varied)):
        raise ValueError(
            f"parameter_names: expected labels that differ between simulations, got {constant}, equal in {where}. "
            f"{'Take more simulations' if names is None else 'Leave out what is equal'}, or another set, such as LH."
        )
    if constant:
        logger.warning("%s are no labels: each is equal in %s.", constant, where)
        labels, values = ([each for each, use in zip(every, varied, strict=True) if use] for every in (labels, values))
    parameters = tuple(
        known.get(name) or Parameter(name=name, low=float(np.nanmin(column)), high=float(np.nanmax(column)))
        for (name, _), column in zip(labels, values, strict=True)
    )
    values = np.stack(values, axis=1)[chosen]
    for parameter, column in zip(parameters, values.T, strict=True):
        _check_prior(parameter, column, table, suite)
    return parameters, values


def _parameters_of_suite(suite: str) -> dict[str, Parameter]:
    # Simulations without gas have the parameters of those with gas.
    bare = suite.removeprefix("Nbody_").lower()
    special = {each.name: each for key, every in SUITE_PARAMETERS.items() if key.lower() == bare for each in every}
    return {parameter.name: special.get(parameter.name, parameter) for parameter in CAMELS_PARAMETERS}


def _label(name: str, table: CamelsTable, known: dict[str, Parameter]) -> tuple[str, str] | None:
    """Name of a label and of its column, or None if the table has no such column."""
    if name in table.columns:
        return (f"{LOGARITHM}{name}" if f"{LOGARITHM}{name}" in known else name), name
    column = str(name).removeprefix(LOGARITHM)
    return (name, column) if column in table.columns else None


def _label_values(label: tuple[str, str], table: CamelsTable, chosen: np.ndarray) -> np.ndarray:
    """Values of all simulations; NaN for a logarithm that is not asked for and does not exist."""
    name, column = label
    values = table.columns[column]
    if name == column:
        return values
    bad = np.count_nonzero(values[chosen] <= 0.0)
    if bad:
        raise ValueError(
            f"{table.path}: expected positive values of {column} for {name}, got {bad} of {len(chosen)} simulations "
            f"with others. Leave these simulations out (simulations), or this label (parameter_names)."
        )
    return np.log10(values, where=values > 0.0, out=np.full(values.shape, np.nan))


def _check_prior(parameter: Parameter, values: np.ndarray, table: CamelsTable, suite: str) -> None:
    """Raise ``ValueError`` if a label lies outside of its range; warn if it is not spread evenly over it."""
    name, low, high = parameter.name, parameter.low, parameter.high
    outside = ~((values >= low - ROUNDING) & (values <= high + ROUNDING))
    if outside.any():
        raise ValueError(
            f"{table.path}: expected {name} from {low:.4g} to {high:.4g}, the prior of {suite or 'an unknown suite'}, "
            f"got {np.count_nonzero(outside)} of {len(values)} simulations outside of it, the first with "
            f"{values[outside][0]:.4g}. Leave these simulations out (simulations), or this label (parameter_names); "
            f"if they are of another suite, have the names of the files say so."
        )
    p_value = kstest((values - low) / (high - low), "uniform").pvalue
    if p_value < LEAST_P_VALUE:
        logger.warning(
            "%s: the values of %s are not spread evenly from %.4g to %.4g (Kolmogorov-Smirnov test: p = %.1g), but "
            "posteriors take every value as equally probable beforehand.%s",
            table.path, name, low, high, p_value,
            f" Does {LOGARITHM}{name} fit?" if low > 0.0 and not name.startswith(LOGARITHM) else "",
        )  # fmt: skip


def _warn_of_repeated_seeds(table: CamelsTable, chosen: np.ndarray) -> None:
    if table.seeds is None:
        return
    repeated = len(chosen) - len(np.unique(table.seeds[chosen]))
    if repeated:
        logger.warning(
            "%s: %d of %d simulations share their random seed with another one, and so the matter field. Scores on "
            "a test set that shares fields with the training set mean nothing.",
            table.path, repeated, len(chosen),
        )  # fmt: skip


def _common_cosmology(table: CamelsTable) -> dict[str, float]:
    varied = table.columns.get("Omega_b")
    if varied is None or np.allclose(varied, COSMOLOGY["OMb"]):
        return dict(COSMOLOGY)
    return {name: value for name, value in COSMOLOGY.items() if name != "OMb"}


def _write(
    path: pathlib.Path,
    plan: DatabasePlan,
    maps_npy: pathlib.Path,
    maps: np.ndarray,
    weights: np.ndarray | None,
    floor: float | None,
    progress: Callable[[int, int], None] | None,
) -> pathlib.Path:
    (name,) = plan.fields
    spoilt: dict[int, int] = {}
    empty, raised, pixels, smallest = 0, 0, 0, np.inf
    with DatabaseWriter.open(path, plan) as writer:
        todo = np.flatnonzero(~writer.finished).tolist()
        done = plan.n_simulations - len(todo)
        if done:
            logger.info("%s: resuming with %d of %d simulations finished.", path, done, plan.n_simulations)
        if progress is not None:
            progress(done, plan.n_simulations)
        for done, number in enumerate(todo, start=plan.n_simulations - len(todo) + 1):
            first = int(plan.attributes["simulation_numbers"][number]) * MAPS_PER_SIMULATION
            block = np.asarray(maps[first : first + MAPS_PER_SIMULATION], np.float64)
            bad = int(np.count_nonzero(~np.isfinite(block)))
            if bad:
                spoilt[first // MAPS_PER_SIMULATION] = bad
            elif not spoilt:
                if weights is not None:
                    block = weights @ block @ weights.T
                if floor is not None:
                    raised, pixels = raised + int(np.count_nonzero(block < floor)), pixels + block.size
                    block = np.maximum(block, floor)
                empty += int(np.count_nonzero(block <= 0.0))
                smallest = min(smallest, float(block.min()))
                try:
                    _check_fits(block, plan.dtype)
                    writer.write(number, {name: block})
                except ValueError as error:
                    writer.partial.unlink(missing_ok=True)
                    raise ValueError(f"{maps_npy}: {error} Nothing was kept of {path}.") from error
            if progress is not None:
                progress(done, plan.n_simulations)
        if spoilt:
            # Without these simulations the plan is another one: what is written cannot be resumed.
            writer.partial.unlink(missing_ok=True)
            listed = ", ".join(f"{number} ({count})" for number, count in list(spoilt.items())[:SHOWN])
            raise ValueError(
                f"{maps_npy}: expected finite pixels, got {sum(spoilt.values())} that are not, in {len(spoilt)} of "
                f"{plan.n_simulations} simulations: {listed}{' ...' if len(spoilt) > SHOWN else ''}. Leave these "
                f"simulations out, or download the file again. Nothing was kept of {path}."
            )
        if raised:
            many = raised > MANY_RAISED * pixels
            logger.log(
                logging.WARNING if many else logging.INFO,
                "%s: %d of %d pixels were raised to %g.%s",
                path, raised, pixels, floor,
                " So many pixels of the same value have no density that a flow could learn; lower the floor."
                if many else "",
            )  # fmt: skip
        if empty:
            logger.warning(
                "%s: %d pixels of the database are zero or negative, the smallest is %g. They are kept; a logarithm "
                "does not take them (`floor` raises them).",
                path, empty, smallest,
            )  # fmt: skip
        return writer.finish()


def _check_fits(block: np.ndarray, dtype: str) -> None:
    """Raise ``ValueError`` if positive pixels would become zero."""
    lost = int(np.count_nonzero((block > 0.0) & ~(block.clip(max=1.0).astype(dtype) > 0.0)))
    if lost:
        raise ValueError(f"{lost} positive pixels, down to {block[block > 0.0].min():g}, would be zero in {dtype}.")
