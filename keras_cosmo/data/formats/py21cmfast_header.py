"""What the light-cone and coeval files of 21cmFAST have in common: opening them, and reading their attributes."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

import h5py
import numpy as np

COSMOLOGY_NAMES = ("hlittle", "OMm", "OMb", "POWER_INDEX")


@dataclasses.dataclass(frozen=True)
class HeaderReader:
    """Reads a file of 21cmFAST with error messages that name it and what was expected.

    Args:
        path: The file.
        noun: What it should hold, such as ``"light-cone"``.
        writer: What writes such files, such as ``"LightCone.save"``.
    """

    path: pathlib.Path
    noun: str
    writer: str

    @contextlib.contextmanager
    def open(self) -> Iterator[h5py.File]:
        """The open file; errors on the way become errors about this file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a readable HDF5 file.
        """
        path = self.path
        if path.is_dir():
            raise ValueError(f"{path}: expected a {self.noun} file of 21cmFAST, got a folder. Give one file in it.")
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: there is no such file. Expected a {self.noun} that 21cmFAST wrote with {self.writer}; "
                f"correct the path."
            )
        try:
            file = h5py.File(path, "r", locking=False)
        except PermissionError:
            raise
        except OSError as error:
            if h5py.is_hdf5(path):
                raise ValueError(
                    f"{path}: the HDF5 file is truncated or damaged ({error}). Copy it again, or run the {self.noun} "
                    f"again."
                ) from error
            raise ValueError(
                f"{path}: expected an HDF5 file, got something else ({path.stat().st_size} bytes). Give a {self.noun} "
                f"that 21cmFAST wrote with {self.writer}."
            ) from error
        with file:
            try:
                yield file
            except (OSError, KeyError, RuntimeError) as error:
                raise ValueError(
                    f"{path}: the file cannot be read ({error}). It was changed or is damaged: copy it again, or run "
                    f"the {self.noun} again."
                ) from error

    def attributes(self, file: h5py.Group, group: str) -> dict:
        """Attributes of a group that must be there."""
        if group not in file:
            raise ValueError(
                f"{self.path}: expected a group {group} with parameters, got none. Save the {self.noun} again."
            )
        return dict(file[group].attrs)

    def number(self, attributes: Mapping, name: str, group: str) -> float:
        """A finite number among attributes of ``group``."""
        if name not in attributes:
            raise ValueError(
                f"{self.path}: expected the attribute {name} of {group}, got {sorted(attributes)}. Save the "
                f"{self.noun} again with 21cmFAST 3.0 or newer."
            )
        value = attributes[name]
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self.path}: expected a number in the attribute {name} of {group}, got {value!r}."
            ) from error
        if not np.isfinite(number):
            raise ValueError(f"{self.path}: expected a finite number in the attribute {name} of {group}, got {number}.")
        return number

    def cell_size(self, attributes: Mapping, group: str) -> float:
        """Side of a cell in Mpc."""
        length, cells = (self.number(attributes, name, group) for name in ("BOX_LEN", "HII_DIM"))
        if length <= 0 or cells < 1:
            raise ValueError(
                f"{self.path}: expected positive BOX_LEN and HII_DIM in {group}, got {length:g} and {cells:g}. The "
                f"file is damaged: run the {self.noun} again."
            )
        return length / cells

    def cosmology(self, attributes: Mapping, tables: h5py.Group | None = None) -> dict[str, float | None]:
        """Cosmological parameters; SIGMA_8 is None where the file does not say.

        Args:
            attributes: Of the group ``cosmo_params``.
            tables: Group ``cosmo_tables`` of version 4, which has no ``SIGMA_8`` among its parameters.
        """
        cosmology = {name: self.number(attributes, name, "cosmo_params") for name in COSMOLOGY_NAMES}
        sigma_8 = attributes.get("SIGMA_8")
        if sigma_8 is None and tables is not None and tables.attrs.get("USE_SIGMA_8", False):
            sigma_8 = tables.attrs.get("ps_norm")
        return {**cosmology, "SIGMA_8": None if sigma_8 is None else float(sigma_8)}


def text(value) -> str:
    """Text from an attribute, which may be bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
