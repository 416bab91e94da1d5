"""Tables of the luminosity of a line in bins of halo mass, as measured in a simulation of galaxies.

One file per line, ECSV or plain CSV. ECSV as astropy writes it, the header keys in ``meta``. Plain CSV::

    # line: halpha
    # redshift: 1.3
    # dust: applied
    log10M_lo,log10M_hi,L_mean,L_std,n_halo
    10.5,11.0,2.1e40,1.5e40,23110
    11.0,11.5,2.4e41,1.8e41,7840

Masses are in Msun and luminosities in erg/s, unless ``mass_unit`` and ``luminosity_unit`` (in ECSV also the units of
the columns) say otherwise. ``Msun/h`` needs ``h``.
"""

import csv
import dataclasses
import os
import pathlib
import re

import numpy as np

COLUMNS = ("log10M_lo", "log10M_hi", "L_mean", "L_std")
COUNT_COLUMN = "n_halo"
REQUIRED_KEYS = {"line": "halpha", "redshift": "1.3", "dust": "applied"}
"""Header key -> an example."""
DUST_WORDS = {"applied": True, "yes": True, "true": True, "not applied": False, "no": False, "none": False,
              "false": False}  # fmt: skip
# Beyond these a column holds something else: no logarithms, logarithms where there should be none, other units.
LOG10_MASS_RANGE = (5.0, 17.0)
LUMINOSITY_RANGE = (1e25, 1e50)
EDGE_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LuminosityBins:
    r"""Luminosity of one line in bins of halo mass.

    Args:
        path: The file it was read from.
        line: Name of the line, such as ``"halpha"``.
        redshift: Redshift of the haloes.
        dust: Whether the luminosities are attenuated by dust already.
        log10_mass_low: ``(n,)`` lower edges of the bins, logarithm of the halo mass in Msun without h.
        log10_mass_high: ``(n,)`` upper edges; each is the lower edge of the next bin.
        mean: ``(n,)`` mean luminosity in erg/s.
        standard_deviation: ``(n,)`` standard deviation of the luminosity between haloes, in erg/s.
        halo_counts: ``(n,)`` number of haloes that each bin was measured with, or None.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "halpha.csv"
        >>> _ = path.write_text(
        ...     "# line: halpha\n# redshift: 1.3\n# dust: applied\n"
        ...     "log10M_lo,log10M_hi,L_mean,L_std\n10.5,11,2e40,1e40\n11,11.5,2e41,1e41\n"
        ... )
        >>> bins = read_luminosity_table(path)
        >>> bins.line, bins.redshift, bins.mean.tolist()
        ('halpha', 1.3, [2e+40, 2e+41])
    """

    path: pathlib.Path
    line: str
    redshift: float
    dust: bool
    log10_mass_low: np.ndarray
    log10_mass_high: np.ndarray
    mean: np.ndarray
    standard_deviation: np.ndarray
    halo_counts: np.ndarray | None = None


def read_luminosity_table(path: str | os.PathLike) -> LuminosityBins:
    """Read a table of luminosities in bins of halo mass; the layout is at the top of this module.

    Args:
        path: ECSV or CSV file with the columns ``log10M_lo``, ``log10M_hi``, ``L_mean``, ``L_std`` and optionally
            ``n_halo``, and the header keys ``line``, ``redshift``, ``dust`` (``applied`` or ``not applied``), and ``h``
            if masses are in Msun/h.

    Returns:
        The bins, in Msun and erg/s.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column or key is missing, a value is no finite number or not possible in its unit, or bins are
            not in order, overlap, or leave a gap; names the row.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such table of luminosities. Correct the path.")
    text = path.read_text(errors="replace")
    keys, columns, units = (_read_ecsv if text.lstrip("\ufeff").startswith("# %ECSV") else _read_csv)(path, text)
    for key, example in REQUIRED_KEYS.items():
        if keys.get(key) is None or not str(keys[key]).strip():
            raise ValueError(
                f"{path}: expected the header keys {', '.join(REQUIRED_KEYS)}, got none called {key!r}. Add a line "
                f"such as '# {key}: {example}', or the key to meta in ECSV."
            )
    for name in COLUMNS:
        if name not in columns:
            raise ValueError(
                f"{path}: expected the columns {', '.join(COLUMNS)}, got {', '.join(columns) or 'none'}: {name} is "
                f"missing. Name it so."
            )
    for name, values in columns.items():
        if name in (*COLUMNS, COUNT_COLUMN) and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"{path}: row {row + 1}: expected a finite {name}, got {values[row]}. Correct it.")
    low, high, mean, deviation = (columns[name] for name in COLUMNS)
    if not len(low):
        raise ValueError(f"{path}: expected one row per bin of mass, got none. Complete the table.")
    shift = -np.log10(_h_in_mass(path, keys, units))
    factor = _luminosity_factor(path, keys, units)
    low, high, mean, deviation = low + shift, high + shift, mean * factor, deviation * factor
    _check_masses(path, low, high)
    low[1:] = high[:-1]
    _check_luminosities(path, mean, deviation)
    counts = columns.get(COUNT_COLUMN)
    if counts is not None and (counts < 0).any():
        row = int(np.argmax(counts < 0))
        raise ValueError(f"{path}: row {row + 1}: expected {COUNT_COLUMN} of at least 0, got {counts[row]:g}.")
    dust = str(keys["dust"]).strip().lower()
    if dust not in DUST_WORDS:
        raise ValueError(
            f"{path}: expected dust to be 'applied' or 'not applied' (attenuation is in the luminosities or not), got "
            f"{keys['dust']!r}. Correct it."
        )
    redshift = _number(path, keys, "redshift")
    if redshift < 0:
        raise ValueError(f"{path}: expected a redshift of at least 0, got {redshift:g}. Correct it.")
    for array in (low, high, mean, deviation):
        array.flags.writeable = False
    return LuminosityBins(
        path=path,
        line=str(keys["line"]).strip(),
        redshift=redshift,
        dust=DUST_WORDS[dust],
        log10_mass_low=low,
        log10_mass_high=high,
        mean=mean,
        standard_deviation=deviation,
        halo_counts=counts,
    )


def _read_csv(path: pathlib.Path, text: str) -> tuple[dict, dict[str, np.ndarray], dict[str, str]]:
    keys: dict[str, str] = {}
    names: list[str] | None = None
    rows: list[list[float]] = []
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        if line.lstrip().startswith("#"):
            found = re.fullmatch(r"\s*#+\s*(\w+)\s*:\s*(.*?)\s*", line)
            if found:
                keys[found[1]] = found[2]
            continue
        if not line.strip():
            continue
        cells = [cell.strip() for cell in next(csv.reader([line]))]
        if names is None:
            names = cells
            continue
        if len(cells) != len(names):
            raise ValueError(
                f"{path}: line {number}: expected {len(names)} numbers with commas, got {len(cells)}. Correct it."
            )
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: expected numbers, got {line!r}. Correct it.") from error
    table = np.array(rows, float).reshape(len(rows), len(names or ()))
    return keys, {name: table[:, column] for column, name in enumerate(names or ())}, {}


def _read_ecsv(path: pathlib.Path, text: str) -> tuple[dict, dict[str, np.ndarray], dict[str, str]]:
    from astropy.table import Table

    try:
        table = Table.read(text, format="ascii.ecsv")
    # astropy raises errors of many kinds of its own and of its parsers.
    except Exception as error:
        raise ValueError(
            f"{path}: cannot be read as ECSV: {error}. Correct it, or give plain CSV without the line '# %ECSV'."
        ) from error
    columns, units = {}, {}
    for name in table.colnames:
        if name not in (*COLUMNS, COUNT_COLUMN):
            continue
        try:
            columns[name] = np.ma.filled(np.ma.asarray(table[name]).astype(float), np.nan)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: expected numbers in the column {name}, got {table[name].dtype}.") from error
        units[name] = "" if table[name].unit is None else str(table[name].unit)
    return dict(table.meta), columns, units


def _number(path: pathlib.Path, keys: dict, name: str) -> float:
    try:
        value = float(keys[name])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected {name} to be a number, got {keys[name]!r}. Correct it.") from error
    if not np.isfinite(value):
        raise ValueError(f"{path}: expected {name} to be finite, got {value}. Correct it.")
    return value


def _common_unit(path: pathlib.Path, keys: dict, key: str, units: dict[str, str], names: tuple[str, str]) -> str:
    """What a header key and the units of two columns say, without blanks; "" if nothing does."""
    said = {re.sub(r"\s", "", str(text)) for text in (keys.get(key, ""), *(units.get(name, "") for name in names))}
    said.discard("")
    if len(said) > 1:
        raise ValueError(
            f"{path}: expected one unit of {names[0]} and {names[1]} ({key}), got {', '.join(sorted(said))}. Correct "
            f"them."
        )
    return said.pop() if said else ""


def _h_in_mass(path: pathlib.Path, keys: dict, units: dict[str, str]) -> float:
    """What masses are to be divided by."""
    unit = _common_unit(path, keys, "mass_unit", units, COLUMNS[:2])
    bare = re.sub(r"^dex\((.*)\)$", r"\1", unit)
    mass = re.fullmatch(r"(Msun|solMass|M_sun|Msol)(/h|/littleh|h-1|h\^-1)?", bare)
    if unit and mass is None:
        raise ValueError(f"{path}: expected masses in Msun or Msun/h, got {unit!r}. Convert them.")
    if mass is None or mass[2] is None:
        return 1.0
    if keys.get("h") is None:
        raise ValueError(f"{path}: masses are in {unit}: expected the header key h. Add a line such as '# h: 0.6774'.")
    h = _number(path, keys, "h")
    if not 0.1 < h < 10.0:
        raise ValueError(f"{path}: expected h in 100 km/s/Mpc, such as 0.7, got {h:g}. Correct it.")
    return h


def _luminosity_factor(path: pathlib.Path, keys: dict, units: dict[str, str]) -> float:
    """What luminosities are to be multiplied by to be in erg/s."""
    unit = _common_unit(path, keys, "luminosity_unit", units, COLUMNS[2:])
    if unit in ("", "erg/s"):
        return 1.0
    from astropy import units as astropy_units

    try:
        return float(astropy_units.Unit(unit).to("erg/s"))
    except (ValueError, TypeError, astropy_units.UnitConversionError) as error:
        raise ValueError(f"{path}: expected luminosities in erg/s, or in W or Lsun, got {unit!r}.") from error


def _check_masses(path: pathlib.Path, low: np.ndarray, high: np.ndarray) -> None:
    lowest, highest = LOG10_MASS_RANGE
    for row, (left, right) in enumerate(zip(low, high, strict=True)):
        if not lowest <= left <= right <= highest:
            raise ValueError(
                f"{path}: row {row + 1}: expected log10M_lo below log10M_hi, both from {lowest:g} to {highest:g} "
                f"(log10 of Msun), got {left:g} and {right:g}. Give logarithms of masses in Msun."
            )
        if right - left < EDGE_TOLERANCE:
            raise ValueError(f"{path}: row {row + 1}: expected log10M_lo below log10M_hi, got {left:g} for both.")
        if row and abs(left - high[row - 1]) > EDGE_TOLERANCE:
            if left < low[row - 1]:
                problem = "bins of increasing mass"
            else:
                problem = "bins without gap" if left > high[row - 1] else "bins that do not overlap"
            raise ValueError(
                f"{path}: row {row + 1}: expected {problem}, got one from {left:g} after one that ends at "
                f"{high[row - 1]:g}. Sort or correct them; where nothing shines, put a bin with L_mean 0."
            )


def _check_luminosities(path: pathlib.Path, mean: np.ndarray, deviation: np.ndarray) -> None:
    for name, values in (("L_mean", mean), ("L_std", deviation)):
        if (values < 0).any():
            row = int(np.argmax(values < 0))
            raise ValueError(f"{path}: row {row + 1}: expected {name} of at least 0, got {values[row]:g} erg/s.")
    low, high = LUMINOSITY_RANGE
    if not low <= mean.max() <= high:
        raise ValueError(
            f"{path}: expected the largest L_mean from {low:g} to {high:g} erg/s, got {mean.max():g}. Give "
            f"luminosities, not their logarithms, in erg/s, or say luminosity_unit."
        )
