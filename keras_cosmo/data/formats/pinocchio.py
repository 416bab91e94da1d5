"""Halo catalogues as PINOCCHIO 4 and 5 write them (Monaco et al. 2002, MNRAS 331, 587), ascii and binary.

Facts about the files, from the writer's own source (``src/write_halos.c``, ``src/fragment.h``, ``src/pinocchio.h`` of
versions 4.1 and 5.1) and from files it wrote:

- A catalogue is ``pinocchio.<redshift>.<run>.catalog.out``, or several files of this name with ``.0``, ``.1``, ...
  (``NumFiles`` of the parameter file).
- Ascii: comment lines, the first with the redshift, then with the units; group number, mass, initial position, final
  position, velocity, and the number of particles unless written with ``LIGHT_OUTPUT``. Positions have two decimals, so
  that one just below the side of the box is printed as the side itself.
- Binary is little-endian with Fortran's length markers, and says neither units nor redshift. Its header is four
  integers, ``8, tasks, x, 8``. x up to 10 is the number of slices (version 4): after each ``4, n, 4`` come n records,
  each between two markers. A larger x is the length of a record (version 5, and light output of version 4): the n
  records of a task lie together between two markers. 96 bytes occur in both, and so do 56 and 40, in another order:
  the header alone tells which.
- Masses and lengths are in units with h if the parameter file has ``OutputInH100``. ``BoxSize`` there is in Mpc/h if it
  has ``BoxInH100``, in Mpc otherwise, whatever the units of the catalogue.
- Masses are whole numbers of particles, ``MinHaloMass`` or more.
"""

import dataclasses
import logging
import os
import pathlib
import re
from collections.abc import Iterable

import numpy as np

from keras_cosmo.haloes import HaloCatalogue

logger = logging.getLogger(__name__)

NAME = re.compile(r"pinocchio\.(?P<redshift>\d+\.\d+)\.(?P<run>.+)\.catalog\.out(?:\.(?P<part>\d+))?")
OTHER_OUTPUTS = {
    ".plc.out": "a catalogue on the past light cone",
    ".mf.out": "a mass function",
    ".histories.out": "the merger histories",
    ".nz.out": "the number of haloes on the past light cone",
}
MASS_UNITS = ("Msun", "Msun/h")
# Anything that forms stars; units such as 1e10 Msun, and wrong byte order, are outside.
MASS_RANGE = (1e5, 1e17)
COSMOLOGY = {"omega_m": "Omega0", "omega_b": "OmegaBaryon", "sigma_8": "Sigma8", "n_s": "PrimordialIndex"}
LARGEST_PARAMETER_FILE = 10**5
CRITICAL_DENSITY = 2.775499745e11
"""Critical density in h^2 Msun / Mpc^3, as in ``src/cosmo.c``."""
TOLERANCE = 1e-3
MASS_TOLERANCE = 2e-3
REDSHIFT_TOLERANCE = 1e-3
# Of the side of the box, and of the two decimals of ascii files: what rounding may add.
ROUNDING, DECIMALS = 1e-4, 0.011
# Haloes fill their box: this many within this part of it have another one.
ENOUGH, FILLED = 200, 0.8


def _fields(kind: str, *names: str) -> list[tuple]:
    shapes = {"initial": (3,), "final": (3,), "velocity": (3,)}
    integers = {"particles", "padding"}
    fields = [(name, "<i4") if name in integers else (name, kind, shapes.get(name, ())) for name in names]
    return [("group", "<u8"), *fields]


_SLICED = ("mass", "initial", "final", "velocity", "particles", "padding")
_JOINED = ("mass", "final", "velocity", "initial")
SLICED_RECORDS = {
    96: _fields("<f8", *_SLICED),
    56: _fields("<f4", *_SLICED),
    40: _fields("<f4", "mass", "final", "velocity", "particles"),
}
"""Length of a record -> its fields, where each record stands between two markers."""
JOINED_RECORDS = {
    96: _fields("<f8", *_JOINED, "particles", "padding"),
    88: _fields("<f8", *_JOINED),
    64: _fields("<f8", "mass", "final", "velocity"),
    56: _fields("<f4", *_JOINED, "particles", "padding"),
    48: _fields("<f4", *_JOINED),
    40: _fields("<f4", "mass", "final", "velocity", "padding"),
    36: _fields("<f4", "mass", "final", "velocity"),
}
"""Length of a record -> its fields, where all records of a task stand between two markers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PinocchioParameters:
    """What a parameter file of PINOCCHIO says about the catalogues of its run.

    Args:
        path: The file.
        run: ``RunFlag``, the name of the run.
        box_size: Comoving side of the box in Mpc.
        hubble: Hubble constant in 100 km/s/Mpc, h.
        cosmology: omega_m, omega_b, h, sigma_8 and n_s, those that are there.
        seed: ``RandomSeed`` of the initial conditions, or None.
        grid_cells: Particles along a side of the box, or None.
        smallest_halo: ``MinHaloMass``, particles in the smallest halo written, or None.
        mass_unit: ``"Msun/h"`` with ``OutputInH100``, else ``"Msun"``; lengths have h in their unit likewise.
        file_count: ``NumFiles``, files of each catalogue.
    """

    path: pathlib.Path
    run: str
    box_size: float
    hubble: float
    cosmology: dict[str, float]
    seed: int | None
    grid_cells: int | None
    smallest_halo: int | None
    mass_unit: str
    file_count: int

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "PinocchioParameters":
        """Read a parameter file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no parameter file, or a value is missing or no number.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such parameter file. Correct the path.")
        words: dict[str, list[str]] = {}
        for line in path.read_text(errors="replace").splitlines():
            name, *values = re.split("[%#]", line, maxsplit=1)[0].split() or [""]
            words[name] = values
        for name in ("RunFlag", "BoxSize", "Hubble100"):
            if not words.get(name):
                raise ValueError(
                    f"{path}: expected a parameter file of PINOCCHIO with RunFlag, BoxSize and Hubble100, got none "
                    f"with {name}. Give the one the run was made with."
                )

        def number(name: str, kind: type):
            try:
                value = kind(words[name][0]) if words.get(name) else None
            except ValueError as error:
                raise ValueError(
                    f"{path}: expected a number behind {name}, got {words[name][0]!r}. Correct it."
                ) from error
            if name == "Sigma8" and value == 0:
                return None
            if value is not None and name != "RandomSeed" and not 0 < value < np.inf:
                raise ValueError(f"{path}: expected {name} to be positive, got {value}. Correct it.")
            return value

        hubble, box_size = number("Hubble100", float), number("BoxSize", float)
        if not 0.1 < hubble < 10.0:
            raise ValueError(f"{path}: expected Hubble100 in 100 km/s/Mpc, such as 0.7, got {hubble:g}. Correct it.")
        return cls(
            path=path,
            run=words["RunFlag"][0],
            box_size=box_size / hubble if "BoxInH100" in words else box_size,
            hubble=hubble,
            # Without Sigma8 (or 0, which is left out as well) the spectrum that was read in sets it.
            cosmology={
                "h": hubble,
                **{key: value for key, name in COSMOLOGY.items() if (value := number(name, float)) is not None},
            },
            seed=number("RandomSeed", int),
            grid_cells=number("GridSize", int),
            smallest_halo=number("MinHaloMass", int),
            mass_unit="Msun/h" if "OutputInH100" in words else "Msun",
            file_count=number("NumFiles", int) or 1,
        )

    @property
    def particle_mass(self) -> float | None:
        """Mass of a particle in Msun, or None if the file does not say enough."""
        omega_m = self.cosmology.get("omega_m")
        if omega_m is None or self.grid_cells is None:
            return None
        return CRITICAL_DENSITY * self.hubble**2 * omega_m * (self.box_size / self.grid_cells) ** 3

    @property
    def mass_threshold(self) -> float | None:
        """Mass of the smallest halo written in Msun, or None if the file does not say enough."""
        if self.particle_mass is None or self.smallest_halo is None:
            return None
        return self.particle_mass * self.smallest_halo


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PinocchioCatalogue:
    """A halo catalogue of PINOCCHIO: what its names, headers and parameter file say, and its haloes on demand.

    Use :meth:`from_file`. No file handle is kept.

    Args:
        path: The catalogue, without the number of a part.
        files: Its file, or its parts in order.
        ascii: Whether it is text.
        redshift: Redshift of the box.
        run: Name of the run, or "" if the name of the file does not say.
        box_size: Comoving side of the box in Mpc.
        hubble: h, by which masses and lengths are divided; 1 if their units are without h.
        parameters: The parameter file, or None.

    Example:
        >>> catalogue = PinocchioCatalogue.from_file("pinocchio.2.0000.test.catalog.out")  # doctest: +SKIP
        >>> catalogue.redshift, catalogue.box_size, len(catalogue.read())  # doctest: +SKIP
        (2.0, 182.857..., 5248)
    """

    path: pathlib.Path
    files: tuple[pathlib.Path, ...]
    ascii: bool
    redshift: float
    run: str
    box_size: float
    hubble: float
    parameters: PinocchioParameters | None

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike,
        *,
        box_size: float | None = None,
        hubble: float | None = None,
        mass_unit: str | None = None,
        redshift: float | None = None,
        parameters: PinocchioParameters | str | os.PathLike | None = None,
    ) -> "PinocchioCatalogue":
        """Read everything but the haloes, and check that binary files are complete; see `read_pinocchio`."""
        path, files = _parts(pathlib.Path(path))
        text = _is_text(files[0])
        found = NAME.fullmatch(path.name)
        run = found["run"] if found else ""
        if parameters is None:
            parameters = find_parameter_files(path.parent, [run]).get(run) if run else None
        elif not isinstance(parameters, PinocchioParameters):
            parameters = PinocchioParameters.from_file(parameters)
        _check_belongs(path, run, files, parameters)
        says_redshift, says_unit = [], []
        if redshift is not None:
            says_redshift.append(("the argument redshift", float(redshift)))
        if found:
            says_redshift.append(("its name", float(found["redshift"])))
        if mass_unit is not None:
            if mass_unit not in MASS_UNITS:
                raise ValueError(f"mass_unit: expected one of {list(MASS_UNITS)}, got {mass_unit!r}.")
            says_unit.append(("the argument mass_unit", mass_unit))
        if parameters is not None:
            says_unit.append((f"the parameter file {parameters.path.name}", parameters.mass_unit))
        for file in files:
            if text:
                header = _TextHeader.of(file)
                says_unit.append((f"the header of {file.name}", header.mass_unit))
                if header.redshift is not None:
                    says_redshift.append((f"the header of {file.name}", header.redshift))
            else:
                _blocks(file)
        if not says_redshift:
            raise ValueError(
                f"{path}: its redshift is not known: expected a name such as pinocchio.1.3000.run.catalog.out. Give it "
                f"its own name, or give redshift."
            )
        if not says_unit:
            raise ValueError(
                f"{path}: a binary catalogue does not say its units, and there is no parameter file of the run "
                f"{run!r} beside it. Put the one there it was made with, or give mass_unit ('Msun/h' if "
                f"OutputInH100 was set, else 'Msun')."
            )
        redshift = _agreed(path, "redshift", says_redshift, lambda a, b: abs(a - b) <= REDSHIFT_TOLERANCE)
        unit = _agreed(path, "units of mass", says_unit, lambda a, b: a == b)
        hubble = _number_or_parameter(path, "hubble", hubble, parameters)
        if unit == "Msun/h" and hubble is None:
            raise ValueError(
                f"{path}: masses are in Msun/h, and there is no parameter file of the run {run!r} beside it that says "
                f"h. Put it there, or give hubble, such as 0.7."
            )
        if hubble is not None and not 0.1 < hubble < 10.0:
            raise ValueError(f"hubble: expected it in 100 km/s/Mpc, such as 0.7, got {hubble:g}.")
        box_size = _number_or_parameter(path, "box_size", box_size, parameters)
        if box_size is None:
            raise ValueError(
                f"{path}: the size of the box is not known: no parameter file of the run {run!r} lies beside it. Put "
                f"it there, or give box_size, the side in Mpc (not Mpc/h)."
            )
        if not 0.0 < box_size < np.inf:
            raise ValueError(f"box_size: expected a positive number of Mpc, got {box_size:g}.")
        return cls(
            path=path,
            files=files,
            ascii=text,
            redshift=redshift,
            run=run,
            box_size=float(box_size),
            hubble=float(hubble) if unit == "Msun/h" else 1.0,
            parameters=parameters,
        )

    @property
    def seed(self) -> int | None:
        """Random seed of the initial conditions, from the parameter file."""
        return None if self.parameters is None else self.parameters.seed

    def read(self) -> HaloCatalogue:
        """The haloes, in Mpc and Msun, with positions wrapped into the box; see `read_pinocchio`."""
        parts = [(_read_text if self.ascii else _read_binary)(file) for file in self.files]
        masses = np.concatenate([part["mass"] for part in parts]) / self.hubble
        positions = np.concatenate([part["final"] for part in parts]) / self.hubble
        if not len(masses):
            raise ValueError(
                f"{self.path}: the catalogue has no haloes. Was no group as large as MinHaloMass? Run PINOCCHIO with "
                f"more particles or a smaller box, or leave this catalogue out."
            )
        self._check_masses(masses, parts)
        return HaloCatalogue(
            redshift=self.redshift,
            box_size=self.box_size,
            positions=self._wrapped(positions),
            masses=masses,
            label=self.path.name,
            seed=self.seed,
        )

    def _check_masses(self, masses: np.ndarray, parts: list[dict]) -> None:
        low, high = MASS_RANGE
        wrong = ~((masses >= low) & (masses <= high))
        if wrong.any():
            raise ValueError(
                f"{self.path}: expected halo masses from {low:g} to {high:g} Msun, got {masses[wrong][0]:g} Msun in "
                f"halo {np.flatnonzero(wrong)[0]} and {np.count_nonzero(wrong)} such haloes in all. The file is "
                f"damaged, or in other units than Msun or Msun/h."
            )
        if self.parameters is None or self.parameters.particle_mass is None:
            return
        expected, source = self.parameters.particle_mass, self.parameters.path.name
        if all(part["particles"] is not None for part in parts):
            particles = np.concatenate([part["particles"] for part in parts])
            got = float(np.median(masses / np.maximum(particles, 1)))
            if not np.isclose(got, expected, rtol=MASS_TOLERANCE, atol=0.0):
                raise ValueError(
                    f"{self.path}: masses contradict {source}: expected particles of {expected:.4g} Msun (from "
                    f"BoxSize, GridSize, Omega0 and Hubble100), got {got:.4g} Msun, {got / expected:.3g} times as "
                    f"much (h = {self.parameters.hubble:g}). Units or parameter file are of another run: correct them."
                )
        elif (threshold := self.parameters.mass_threshold) is not None:
            smallest = float(masses.min())
            # The mass function is steep: among many haloes some have the smallest mass that is written.
            upper = 1.3 if len(masses) >= ENOUGH else np.inf
            if not (1.0 - MASS_TOLERANCE) * threshold <= smallest <= upper * threshold:
                raise ValueError(
                    f"{self.path}: masses contradict {source}: expected the smallest halo at {threshold:.4g} Msun "
                    f"(MinHaloMass = {self.parameters.smallest_halo} particles), got {smallest:.4g} Msun. Units or "
                    f"parameter file are of another run: correct them."
                )

    def _wrapped(self, positions: np.ndarray) -> np.ndarray:
        low, high = positions.min(axis=0), positions.max(axis=0)
        room = ROUNDING * self.box_size + (DECIMALS / self.hubble if self.ascii else 0.0)
        if not (low.min() >= -room and high.max() <= self.box_size + room):
            raise ValueError(
                f"{self.path}: expected positions in a box of {self.box_size:g} Mpc, got {low.min():g} to "
                f"{high.max():g} Mpc. The size of the box is wrong (is it in Mpc/h?), or the file is damaged."
            )
        if len(positions) >= ENOUGH and (high - low).max() < FILLED * self.box_size:
            raise ValueError(
                f"{self.path}: expected haloes throughout a box of {self.box_size:g} Mpc, got positions from "
                f"{low.min():g} to {high.max():g} Mpc only. The size of the box is wrong: it is the side in Mpc, not "
                f"in Mpc/h."
            )
        positions = np.mod(positions, self.box_size)
        # The remainder of a tiny negative number is rounded up to the side itself.
        positions[positions >= self.box_size] = 0.0
        return positions


def read_pinocchio(
    path: str | os.PathLike,
    *,
    box_size: float | None = None,
    hubble: float | None = None,
    mass_unit: str | None = None,
    redshift: float | None = None,
    parameters: PinocchioParameters | str | os.PathLike | None = None,
) -> HaloCatalogue:
    """Read a halo catalogue of PINOCCHIO 4 or 5: ascii or binary, full or light, in one or several files.

    Units, h, the size of the box and the random seed come from the parameter file of the run, if it lies in the folder
    of the catalogue under any name; only what it does not say has to be given. Final positions are read. What is said
    twice, by header, name, parameter file or argument, has to agree.

    Args:
        path: ``pinocchio.<redshift>.<run>.catalog.out``; of several parts, the name without the last number, or any
            part.
        box_size: Comoving side of the box in Mpc, without h.
        hubble: Hubble constant in 100 km/s/Mpc, for catalogues in Msun/h and Mpc/h.
        mass_unit: ``"Msun/h"`` (lengths then in Mpc/h) or ``"Msun"`` (Mpc), for binary catalogues.
        redshift: For catalogues that were renamed.
        parameters: Parameter file of the run, or what was read from it, if it lies elsewhere.

    Returns:
        Haloes in Mpc and Msun without h, float64.

    Raises:
        FileNotFoundError: If the catalogue, one of its parts, or the parameter file does not exist.
        ValueError: If it is another output, truncated or damaged, something needed is not known, two sources contradict
            each other, masses or positions are not possible in these units and this box, or there are no haloes.

    Example:
        >>> haloes = read_pinocchio("pinocchio.2.0000.test.catalog.out", box_size=182.9, hubble=0.7)  # doctest: +SKIP
        >>> haloes.redshift, haloes.masses.min()  # doctest: +SKIP
        (2.0, 9.91...e+11)
    """
    return PinocchioCatalogue.from_file(
        path, box_size=box_size, hubble=hubble, mass_unit=mass_unit, redshift=redshift, parameters=parameters
    ).read()


def find_parameter_files(folder: str | os.PathLike, runs: Iterable[str]) -> dict[str, PinocchioParameters]:
    """Parameter files of runs in a folder, under any name; runs without one are left out.

    Args:
        folder: Where to look; not in subfolders.
        runs: Names of the runs, ``RunFlag``.

    Raises:
        ValueError: If a run has several that differ in what they say.
    """
    runs, found = set(runs), {}
    for path in sorted(pathlib.Path(folder).iterdir()):
        if path.name.startswith("pinocchio.") or not path.is_file() or path.stat().st_size > LARGEST_PARAMETER_FILE:
            continue
        flag = re.search(rb"^[ \t]*RunFlag[ \t]+(\S+)", path.read_bytes(), re.MULTILINE)
        run = flag[1].decode(errors="replace") if flag else None
        if run not in runs:
            continue
        parameters = PinocchioParameters.from_file(path)
        other = found.setdefault(run, parameters)
        if dataclasses.replace(parameters, path=other.path) != other:
            raise ValueError(
                f"{other.path} and {path} are parameter files of the same run {run!r} and differ. Remove the one that "
                f"the catalogues were not made with, or give the other as parameters."
            )
    return found


def _parts(path: pathlib.Path) -> tuple[pathlib.Path, tuple[pathlib.Path, ...]]:
    """Name of a catalogue without number, and its files."""
    for ending, description in OTHER_OUTPUTS.items():
        if re.search(re.escape(ending) + r"(\.\d+)?$", path.name):
            raise ValueError(_other_output(path, description))
    found = NAME.fullmatch(path.name)
    if found and found["part"] is not None:
        path = path.with_suffix("")
    parts = {}
    if path.parent.is_dir():
        pattern = re.compile(re.escape(path.name) + r"\.(\d+)")
        for entry in path.parent.iterdir():
            number = pattern.fullmatch(entry.name)
            if number:
                parts[int(number[1])] = entry
    if path.is_file():
        if parts:
            raise ValueError(
                f"{path} exists beside {parts[min(parts)].name}: expected one file, or parts .0, .1, ... Remove the "
                f"older of the two."
            )
        return path, (path,)
    if not parts:
        raise FileNotFoundError(f"{path}: there is no such catalogue, and no {path.name}.0 either. Correct the path.")
    missing = sorted(set(range(max(parts) + 1)) - set(parts))
    if missing:
        raise FileNotFoundError(
            f"{path}.{missing[0]}: this part of the catalogue is missing; there are {len(parts)} others up to "
            f".{max(parts)}. Copy it there."
        )
    return path, tuple(parts[number] for number in sorted(parts))


def _other_output(path: pathlib.Path, description: str) -> str:
    return (
        f"{path} is {description}: expected a catalogue of a whole box at one redshift, "
        f"pinocchio.<redshift>.<run>.catalog.out, which PINOCCHIO writes for each redshift of its OutputList. Give "
        f"that one."
    )


def _is_text(path: pathlib.Path) -> bool:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise ValueError(f"{path}: the file is empty (0 bytes). Copy it again, or run PINOCCHIO again.")
    if len(start) >= 4:
        first = int.from_bytes(start[:4], "little")
        if first == 8:
            return False
        if first in (4, 56, 104):
            raise ValueError(_other_output(path, OTHER_OUTPUTS[".plc.out"]))
        if start[:4] == b"\0\0\0\x08":
            raise ValueError(
                f"{path}: the file is big-endian, expected little-endian as on the usual machines. Write it again in "
                f"ascii (CatalogInAscii)."
            )
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return True
    raise ValueError(
        f"{path}: expected a catalogue of PINOCCHIO, text or binary beginning with the number 8, got bytes "
        f"{start[:8].hex(' ')}. Give another file, or copy it again."
    )


def _check_belongs(
    path: pathlib.Path, run: str, files: tuple[pathlib.Path, ...], parameters: PinocchioParameters | None
) -> None:
    if parameters is None:
        return
    if run and run != parameters.run:
        raise ValueError(
            f"{path}: expected the parameter file of the run {run!r}, got {parameters.path} of the run "
            f"{parameters.run!r}. Give the one it was made with."
        )
    if len(files) > parameters.file_count:
        raise ValueError(
            f"{path}: expected NumFiles = {parameters.file_count} files by {parameters.path.name}, got {len(files)}. "
            f"Remove those of another run."
        )
    if len(files) < parameters.file_count:
        logger.warning(
            "%s: %s says NumFiles = %d, but there are %d files. PINOCCHIO writes fewer if its tasks cannot be shared "
            "out; else some are missing.",
            path, parameters.path.name, parameters.file_count, len(files),
        )  # fmt: skip


def _agreed(path: pathlib.Path, what: str, said: list[tuple[str, object]], equal) -> object:
    """What all sources say; the last one is the most precise."""
    for source, value in said:
        if not equal(value, said[-1][1]):
            raise ValueError(
                f"{path}: {what} contradict each other: {value} from {source}, {said[-1][1]} from {said[-1][0]}. "
                f"Correct the one that is wrong."
            )
    return said[-1][1]


def _number_or_parameter(path, name: str, value: float | None, parameters: PinocchioParameters | None) -> float | None:
    known = None if parameters is None else getattr(parameters, name)
    if value is None:
        return known
    if known is not None and not np.isclose(value, known, rtol=TOLERANCE, atol=0.0):
        unit = " Mpc" if name == "box_size" else ""
        raise ValueError(
            f"{path}: {name} is given as {value:g}{unit}, but {parameters.path.name} says {known:g}{unit}. Leave it "
            f"out, or remove a parameter file of another run."
        )
    return value if known is None else known


@dataclasses.dataclass(frozen=True)
class _TextHeader:
    """Header of an ascii catalogue: lines before the first halo, redshift if it is there, unit, columns."""

    lines: int
    redshift: float | None
    mass_unit: str
    columns: int

    @classmethod
    def of(cls, path: pathlib.Path) -> "_TextHeader":
        comments, first = [], ""
        with path.open(errors="replace") as file:
            for line in file:
                if not line.startswith("#"):
                    first = line
                    break
                comments.append(line)
        header = "".join(comments)
        if "Past Light Cone" in header:
            raise ValueError(_other_output(path, OTHER_OUTPUTS[".plc.out"]))
        unit = re.search(r"mass\s*\((Msun(?:/h)?)\)", header)
        length = re.search(r"final position\s*\(Mpc(/h)?\)", header)
        if unit is None or length is None:
            raise ValueError(
                f"{path}: expected the header lines of PINOCCHIO, with '# 2) group mass (Msun/h)' and '# 6- 8) final "
                f"position (Mpc/h)' or without /h, got {len(comments)} comment lines without them. They say the units: "
                f"put them back."
            )
        if (length[1] is None) != (unit[1] == "Msun"):
            raise ValueError(
                f"{path}: expected masses and lengths both with or both without h in the header, got {unit[1]} and "
                f"Mpc{length[1] or ''}. Correct the header."
            )
        columns = len(first.split())
        if first and columns not in (11, 12):
            raise ValueError(
                f"{path}: expected 12 columns, or 11 of light output, got {columns} in the first line below the "
                f"header. Give the catalogue as PINOCCHIO wrote it."
            )
        redshift = re.search(r"for redshift\s+([\d.eE+-]+)", header)
        return cls(len(comments), float(redshift[1]) if redshift else None, unit[1], columns)


def _read_text(path: pathlib.Path) -> dict[str, np.ndarray | None]:
    header = _TextHeader.of(path)
    if not header.columns:
        return {"mass": np.zeros(0), "final": np.zeros((0, 3)), "particles": np.zeros(0, int)}
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        complete = file.read(1) == b"\n"
    if not complete:
        raise ValueError(
            f"{path}: the file is truncated: expected its last line to end, got {size} bytes that stop in the middle "
            f"of a line. Copy it again."
        )
    full = header.columns == 12
    try:
        table = np.loadtxt(path, skiprows=header.lines, usecols=(1, 5, 6, 7, *((11,) if full else ())), ndmin=2)
    except ValueError as error:
        raise ValueError(
            f"{path}: expected {header.columns} numbers in each line: {error} Lines are counted below the header. "
            f"Copy the file again."
        ) from error
    if not np.isfinite(table).all():
        line = int(np.argwhere(~np.isfinite(table))[0, 0]) + header.lines + 1
        raise ValueError(f"{path}: expected finite numbers, got others in line {line}. Run PINOCCHIO again.")
    return {"mass": table[:, 0], "final": table[:, 1:4], "particles": table[:, 4] if full else None}


def _blocks(path: pathlib.Path) -> tuple[np.dtype, bool, list[tuple[int, int]]]:
    """Type of a record, whether each stands between markers, and (byte, count) of the first record of each block."""
    size = path.stat().st_size
    with path.open("rb") as file:

        def integers(offset: int, count: int, what: str) -> list[int]:
            file.seek(offset)
            values = np.fromfile(file, "<i4", count)
            if len(values) < count:
                raise ValueError(
                    f"{path}: the file is truncated: expected {what} at byte {offset}, got {size} bytes in all. Copy "
                    f"it again, or run PINOCCHIO again."
                )
            return values.tolist()

        _, tasks, meaning, marker = integers(0, 4, "a header of 16 bytes")
        if marker != 8 or tasks < 1 or meaning < 1:
            raise ValueError(
                f"{path}: expected a header 8, tasks, slices or length of a record, 8, got 8, {tasks}, {meaning}, "
                f"{marker}. This is no catalogue of PINOCCHIO, or it is damaged."
            )
        sliced = meaning <= 10
        length = None if sliced else meaning
        blocks, position, expected = [], 16, tasks * meaning if sliced else tasks
        for block in range(expected):
            before, count, after = integers(position, 3, f"block {block + 1} of {expected}")
            if (before, after) != (4, 4) or count < 0:
                raise ValueError(
                    f"{path}: expected 4, number of haloes, 4 at byte {position} (block {block + 1} of {expected}), "
                    f"got {before}, {count}, {after}. The file is damaged: run PINOCCHIO again."
                )
            position += 12
            if not count:
                continue
            (first,) = integers(position, 1, f"haloes of block {block + 1}")
            length = first if length is None else length
            records = SLICED_RECORDS if sliced else JOINED_RECORDS
            if length not in records:
                raise ValueError(
                    f"{path}: expected records of {', '.join(map(str, sorted(records)))} bytes "
                    f"({'version 4' if sliced else 'version 5'}), got {length}. The file is damaged, or of a version "
                    f"of PINOCCHIO that is not known here: write it in ascii (CatalogInAscii)."
                )
            stop = position + (count * (length + 8) if sliced else count * length + 8)
            if stop > size:
                raise ValueError(
                    f"{path}: the file is truncated: expected at least {stop} bytes ({count} haloes of {length} bytes "
                    f"in block {block + 1} of {expected}), got {size}. Copy it again, or run PINOCCHIO again."
                )
            if not sliced:
                (last,) = integers(stop - 4, 1, "a marker")
                # Markers are 32 bits, whatever the length of the block.
                if any((value - count * length) % 2**32 for value in (first, last)):
                    raise ValueError(
                        f"{path}: expected markers {count * length} around block {block + 1} of {expected}, got "
                        f"{first} and {last}. The file is damaged: run PINOCCHIO again."
                    )
            blocks.append((position if sliced else position + 4, count))
            position = stop
    if position != size:
        raise ValueError(
            f"{path}: the file is too long: expected {position} bytes for {expected} blocks, got {size}. Two files "
            f"may have been joined: run PINOCCHIO again."
        )
    fields = _fields("<f4") if length is None else (SLICED_RECORDS if sliced else JOINED_RECORDS)[length]
    return np.dtype([("before", "<i4"), *fields, ("after", "<i4")] if sliced else fields), sliced, blocks


def _read_binary(path: pathlib.Path) -> dict[str, np.ndarray | None]:
    record, sliced, blocks = _blocks(path)
    total = sum(count for _, count in blocks)
    masses, positions = np.empty(total), np.empty((total, 3))
    particles = np.empty(total, np.int64) if "particles" in record.names or not total else None
    start = 0
    for offset, count in blocks:
        content = np.fromfile(path, record, count, offset=offset)
        if len(content) != count:
            raise ValueError(f"{path} became shorter since it was opened. Copy it again.")
        if sliced:
            length = record.itemsize - 8
            wrong = (content["before"] != length) | (content["after"] != length)
            if wrong.any():
                raise ValueError(
                    f"{path}: expected markers {length} around each halo, got others around "
                    f"{np.count_nonzero(wrong)} of {count}, the first at byte "
                    f"{offset + int(np.argmax(wrong)) * record.itemsize}. The file is damaged: run PINOCCHIO again."
                )
        stop = start + count
        masses[start:stop], positions[start:stop] = content["mass"], content["final"]
        if particles is not None:
            particles[start:stop] = content["particles"]
        start = stop
    if not (np.isfinite(masses).all() and np.isfinite(positions).all()):
        raise ValueError(f"{path}: expected finite masses and positions, got others. Run PINOCCHIO again.")
    return {"mass": masses, "final": positions, "particles": particles}
