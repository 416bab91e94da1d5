"""Boxes without header as the C code of 21cmFAST 1.2 to 2.1 writes them, and a parameter table beside them.

Facts about the files, from ``Programs/delta_T.c`` and ``Programs/perturb_field.c`` of andreimesinger/21cmFAST:

- Little-endian float32 (what C writes on the usual machines), ``N**3`` values, C order, no header. Everything else is
  in the name, whose last two parts are always the cells along a side and the side in Mpc, rounded to a whole number.
- ``updated_smoothed_deltax_z%06.2f_%i_%.0fMpc`` is the overdensity in real space.
- ``delta_T_v%i_z%06.2f_nf%f_useTs%i_%i_%.0fMpc`` is the brightness temperature in mK; 1.2 and 1.3 have more parts after
  ``useTs``, and can have ``sphere_`` in front and ``_no_halos`` before ``_z``. ``v3`` says that velocities along the
  last axis are included (``v1``, ``v2``: the first and second). Without such a part none are.

Nothing says the cosmology, the random seed or the parameters of a run.
"""

import dataclasses
import os
import pathlib
import re

import numpy as np

from keras_cosmo.data.formats.box_pieces import slice_in_pieces

NAME = re.compile(
    r"(?P<kind>updated_smoothed_deltax|(?:sphere_)?delta_T(?:_v(?P<axis>[123]))?(?:_no_halos)?)"
    r"_z(?P<redshift>\d+(?:\.\d+)?)(?:_(?P<details>.+))?_(?P<cells>\d+)_(?P<length>\d+)Mpc"
)
DTYPE = np.dtype("<f4")
# Nothing physical reaches these; wrong byte order or another format does at once.
LARGEST = {"brightness_temp": 1e5, "density": 1e6}

TABLE_COLUMNS = ("log10_M_min", "log10_L_X", "log10_N_gamma")
"""Columns 1 to 3 of a parameter table, as logarithms; column 0 is skipped."""
PLAUSIBLE = {"log10_M_min": (4.0, 13.0), "log10_L_X": (35.0, 45.0), "log10_N_gamma": (1.0, 7.0)}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RawBox:
    """A box without header: what its name says, and maps of it on demand.

    Use :meth:`from_file`. No file handle is kept: the box is read when asked for, piece by piece.

    Args:
        path: The file.
        field: ``"brightness_temp"`` [mK] or ``"density"``.
        redshift: Redshift, to two decimals.
        shape: ``(n, n, n)``.
        cell_size: Side of a cell in Mpc, from the box length to a whole Mpc.
        velocity_axis: Axis along which velocities are included in the brightness temperature, 0 to 2, or None if they
            are not.

    Example:
        >>> RawBox.redshift_of("updated_smoothed_deltax_z010.16_200_300Mpc")
        10.16
        >>> box = RawBox.from_file("delta_T_v3_z010.16_nf0.97_useTs1_200_300Mpc")  # doctest: +SKIP
        >>> box.maps(slabs=20, slab_cells=4).shape  # doctest: +SKIP
        (20, 200, 200)
    """

    path: pathlib.Path
    field: str
    redshift: float
    shape: tuple[int, int, int]
    cell_size: float
    velocity_axis: int | None

    @staticmethod
    def redshift_of(name: str) -> float | None:
        """Redshift in the name of a file, or None if no file of such a name is read here."""
        found = NAME.fullmatch(name)
        return None if found is None else float(found["redshift"])

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "RawBox":
        """Read the name and compare the size of the file with it.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the name is no box's, or the file has another size.
        """
        box = cls.from_name(path)
        box.check_size()
        return box

    @classmethod
    def from_name(cls, path: str | os.PathLike) -> "RawBox":
        """Read the name alone, for a quick look at many files.

        Raises:
            ValueError: If the name is no box's.
        """
        path = pathlib.Path(path)
        found = NAME.fullmatch(path.name)
        if found is None:
            raise ValueError(
                f"{path}: expected a name such as updated_smoothed_deltax_z010.16_200_300Mpc or "
                f"delta_T_v3_z010.16_nf0.97_useTs1_200_300Mpc, as 21cmFAST 1.2 to 2.1 writes. Give such files under "
                f"their own names: nothing else says redshift, cells and box length."
            )
        cells, length = int(found["cells"]), float(found["length"])
        if cells < 1 or length <= 0:
            raise ValueError(f"{path}: expected a positive number of cells and Mpc in the name. Correct the name.")
        return cls(
            path=path,
            field="density" if found["kind"] == "updated_smoothed_deltax" else "brightness_temp",
            redshift=float(found["redshift"]),
            shape=(cells, cells, cells),
            cell_size=length / cells,
            velocity_axis=None if found["axis"] is None else int(found["axis"]) - 1,
        )

    def check_size(self) -> None:
        """Compare the size of the file with its name.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it has another size.
        """
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: there is no such file. Correct the path.")
        cells, size = self.shape[0], self.path.stat().st_size
        expected = cells**3 * DTYPE.itemsize
        if size != expected:
            state = "is truncated" if size < expected else "is too long"
            raise ValueError(
                f"{self.path}: the file {state}: expected {expected} bytes ({cells}^3 cells of 4 bytes, by its "
                f"name), got {size}. Copy it again, or run the simulation again."
            )

    def maps(self, *, slabs: int = 20, slab_cells: int = 4, projection: str = "mean") -> np.ndarray:
        """Maps of slabs; reads the box once, in pieces.

        Args:
            slabs: Number of slabs, spread evenly; it must divide the cells.
            slab_cells: Cells that each slab is thick.
            projection: ``"mean"`` or ``"sum"``; see `keras_cosmo.slicing.slice_box`.

        Returns:
            float32 array ``(slabs, n, n)`` in mK, or without unit.

        Raises:
            ValueError: If the slabs do not fit, or a value is not finite or absurdly large; names the file.
        """
        plane = self.shape[1] * self.shape[2]

        def read(start: int, stop: int) -> np.ndarray:
            count = (stop - start) * plane
            piece = np.fromfile(self.path, DTYPE, count, offset=start * plane * DTYPE.itemsize)
            if piece.size != count:
                raise ValueError(f"{self.path} became shorter since it was opened. Copy it again.")
            piece = piece.reshape(stop - start, *self.shape[1:])
            with np.errstate(invalid="ignore"):
                wrong = ~(np.abs(piece) <= LARGEST[self.field])
            if wrong.any():
                x, y, z = np.argwhere(wrong)[0].tolist()
                raise ValueError(
                    f"{self.path}: expected finite values of {self.field} up to {LARGEST[self.field]:g}, got "
                    f"{piece[x, y, z]:g} at cell {(start + x, y, z)}. The file is damaged, or was "
                    f"written in another byte order: run the simulation again."
                )
            return piece

        maps = slice_in_pieces(read, self.shape, self.path, slabs=slabs, slab_cells=slab_cells, projection=projection)
        if self.field == "density" and not maps.any():
            raise ValueError(f"{self.path}: the box of density holds only zeros. Run the simulation again.")
        return maps


def read_parameter_table(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Parameters of simulations from a text file, such as ``params_simulation_mturn_lumx_ngamma.txt``.

    Row i belongs to ``Simulation_<i+1>``. Column 0 is skipped; columns 1 to 3 are the threshold mass in Msun, the X-ray
    luminosity in erg s^-1 Msun^-1 yr and the number of ionising photons, all three as they are, not as logarithms.

    Args:
        path: The file.

    Returns:
        log10_M_min, log10_L_X and log10_N_gamma, each ``(n_simulations,)``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such table; names the row.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such file. Expected a table of parameters, one row per simulation: a number, "
            f"threshold mass, X-ray luminosity, ionising photons."
        )
    rows = [line.partition("#")[0].split() for line in path.read_text(errors="replace").splitlines()]
    rows = [row for row in rows if row]
    if not rows:
        raise ValueError(f"{path}: expected one row per simulation, got an empty file.")
    table = {name: np.empty(len(rows)) for name in TABLE_COLUMNS}
    for number, row in enumerate(rows, start=1):
        try:
            values = [float(word) for word in row[1:4]]
        except ValueError as error:
            raise ValueError(f"{path}: row {number}: expected numbers, got {' '.join(row)!r}. Correct it.") from error
        if len(values) < len(TABLE_COLUMNS):
            raise ValueError(f"{path}: row {number}: expected at least 4 columns, got {len(row)}. Correct it.")
        for name, value in zip(TABLE_COLUMNS, values, strict=True):
            low, high = PLAUSIBLE[name]
            if not 10.0**low <= value <= 10.0**high:
                raise ValueError(
                    f"{path}: row {number}: expected {name.removeprefix('log10_')} from 1e{low:g} to 1e{high:g}, got "
                    f"{value:g}. Give the values themselves, not their logarithms, with the threshold mass in column "
                    f"1, the X-ray luminosity in column 2 and the photons in column 3."
                )
            table[name][number - 1] = np.log10(value)
    return table
