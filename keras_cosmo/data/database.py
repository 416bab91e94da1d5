"""Strict reader of map databases: HDF5 files with maps, the parameters behind them, and their simulations.

Layout, the same for every task::

    /maps/<field>    (n_maps, height, width[, ...]) float16, float32 or float64; attribute units. Where the root
                     attribute nside is: HEALPix maps, (n_maps, 12 nside^2[, ...])
    /parameters      (n_simulations, n_parameters) float64; attributes names, units, prior_low, prior_high
    /simulation      (n_maps,) integers: the row of /parameters that a map belongs to
    /finished        (n_simulations,) uint8, optional: 1 where all maps of a simulation are written
    root attributes  task, status = "complete"; and, where known: simulator, simulator_version, cell_size,
                     cell_size_units, redshifts, cosmology (JSON), description, seed, seeds

Maps are contiguous and uncompressed where we write them, so that any map is one read at a known byte offset.
"""

import dataclasses
import difflib
import hashlib
import json
import logging
import os
import pathlib
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence

import h5py
import numpy as np

from keras_cosmo.data.aligned_array import aligned_empty
from keras_cosmo.data.database_writer import PARTIAL_SUFFIX, write_database
from keras_cosmo.data.stored_maps import StoredMaps
from keras_cosmo.quantities import MapField, Parameter

__all__ = ["Database", "Scan", "write_database"]

logger = logging.getLogger(__name__)

ROOT_ITEMS = ("maps", "parameters", "simulation", "finished")
SCAN_BLOCK_BYTES = 8 * 2**20

# What a scan found of files of this size is kept beside them: smaller ones are read anew within seconds.
REMEMBERED_BYTES = 2**30
SCAN_SUFFIX = ".scan.npz"
SCAN_VERSION = 1
# A file that changed so shortly before it was scanned could change again without another time stamp.
SETTLED_SECONDS = 2.0
SCAN_ARRAYS = ("mean", "squared_deviations", "minimum", "maximum")

# HDF5 itself is not thread-safe beyond its own lock; chunked files are read by one thread at a time.
_h5py_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Scan:
    """What one pass over all maps of a database found.

    Args:
        count: Pixels per map, for each field.
        mean: Field name -> mean of each map, ``(n_maps,)`` float64, in the unit of the field.
        squared_deviations: Field name -> sum over pixels of the squared deviation from that map's mean,
            ``(n_maps,)`` float64 (the M2 of Chan, Golub & LeVeque 1983).
        minimum, maximum: Field name -> smallest and largest pixel of each map, ``(n_maps,)`` float64.
        fingerprint: ``"sha256:..."`` of the content: maps, units, parameters and simulation ids. It does not
            depend on the order of attributes, on the file layout, or on the byte order.
    """

    count: dict[str, int]
    mean: dict[str, np.ndarray]
    squared_deviations: dict[str, np.ndarray]
    minimum: dict[str, np.ndarray]
    maximum: dict[str, np.ndarray]
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class _MapStorage:
    """Where and how the maps of one field are stored; ``offset`` is None for chunked or compressed maps."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int | None

    @property
    def pixels(self) -> int:
        return int(np.prod(self.shape))

    @property
    def map_bytes(self) -> int:
        return self.pixels * self.dtype.itemsize


class Database:
    """A database of maps, validated on opening; maps are read on demand.

    No file handle is kept, so that a database can be pickled and used from any thread or process. Maps of
    contiguous files are read by ``os.preadv`` at their byte offset, those of chunked files through h5py.

    Args:
        path: HDF5 file in the layout described at the top of this module.

    Attributes:
        path: The file.
        task: Task the maps were made for, such as ``"regression"``.
        attributes: All root attributes as plain Python values and NumPy arrays.
        fields: Field name -> unit and shape of one map, sorted by name.
        parameters: Names, units and prior ranges, in the order of the columns.
        parameter_values: ``(n_simulations, n_parameters)`` float64.
        simulation: ``(n_maps,)`` int64, the simulation that each map belongs to.
        redshifts: Root attribute ``redshifts`` as a float64 array, or None.
        cell_size: Root attribute ``cell_size`` as a float, in ``attributes["cell_size_units"]``, or None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a complete database in this layout; the message names what is missing,
            unexpected, of wrong shape, or not finite, and what to do.

    Example:
        >>> import numpy as np, tempfile, pathlib
        >>> from keras_cosmo.quantities import Parameter
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "maps.h5"
        >>> write_database(path, task="example", fields={"density": (np.ones((4, 8, 8)), "")},
        ...     parameters=(Parameter(name="sigma_8", low=0.6, high=1.0),), parameter_values=[[0.7], [0.9]],
        ...     simulation=[0, 0, 1, 1], attributes={})
        >>> database = Database(path)
        >>> database.read("density", [3, 0]).shape, database.targets([3, 0]).tolist()
        ((2, 8, 8), [[0.9], [0.7]])
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        _check_is_file(self.path)
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                if self.path.name.endswith(PARTIAL_SUFFIX):
                    raise ValueError(_unfinished_message(self.path, file))
                self._read_structure(file)
        except (OSError, KeyError, RuntimeError) as error:
            raise ValueError(_unreadable_message(self.path, error)) from error
        self._check_values()
        status = self.path.stat()
        self._identity = (status.st_size, status.st_mtime_ns)

    @property
    def n_maps(self) -> int:
        """Number of maps."""
        return len(self.simulation)

    @property
    def n_simulations(self) -> int:
        """Number of simulations."""
        return len(self.parameter_values)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the columns."""
        return tuple(parameter.name for parameter in self.parameters)

    def read(self, field: str, indices: Sequence[int] | np.ndarray, check_finite: bool = False) -> np.ndarray:
        """Maps of one field.

        Args:
            field: Name of the field.
            indices: Map indices in ``[0, n_maps)``, in any order, repeats allowed.
            check_finite: Whether a pixel that is not finite is an error.

        Returns:
            ``(len(indices), *shape)`` float32, in the unit of the field.

        Raises:
            ValueError: If the field or an index does not exist, the file changed since it was opened, or a pixel is
                not finite where this is checked.
        """
        storage = self._storage_of(field)
        indices = self._check_indices(indices)
        maps = aligned_empty((len(indices), *storage.shape))
        if storage.offset is None:
            finite = self._read_chunked(field, storage, indices, maps)
        else:
            finite = self._read_contiguous(storage, indices * storage.map_bytes, maps, check_finite)
        if check_finite and not finite:
            self._raise_not_finite(field, indices, maps)
        return maps

    def stored(
        self, field: str, indices: Sequence[int] | np.ndarray | None = None, check_finite: bool = False
    ) -> StoredMaps:
        """Some maps of one field, or all, that are read when they are sliced; see `StoredMaps`.

        Args:
            field: Name of the field.
            indices: Map indices, in any order, repeats allowed; None for all maps.
            check_finite: Whether a pixel that is not finite is an error when it is read.

        Raises:
            ValueError: If the field or an index does not exist.
        """
        return StoredMaps(self, field, np.arange(self.n_maps) if indices is None else indices, check_finite)

    def memory_map(self, field: str) -> np.memmap:
        """All maps of one field as the file holds them, read on demand: ``(n_maps, *shape)``, not writable.

        For maps so large that only some of their pixels are wanted at a time. Values are in the unit and of the dtype
        of the file, and are not checked.

        Raises:
            ValueError: If the field does not exist, is chunked or compressed, or the file changed since it was opened.
        """
        storage = self._storage_of(field)
        if storage.offset is None:
            raise ValueError(
                f"{self.path}: /maps/{field} is chunked or compressed, so single pixels cannot be read. Write it "
                f"contiguous, as write_database does."
            )
        os.close(self._open())
        return np.memmap(self.path, storage.dtype, "r", storage.offset, (self.n_maps, *storage.shape))

    def targets(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Parameters of the simulations that maps belong to, ``(len(indices), n_parameters)`` float64."""
        return self.parameter_values[self.simulation[self._check_indices(indices)]]

    def require(
        self,
        task: str | None = None,
        fields: Iterable[str] = (),
        parameters: Iterable[str] | None = None,
    ) -> "Database":
        """Check that the database is the one a task needs.

        Args:
            task: Task the maps must be made for; None accepts any.
            fields: Fields that must be there; others may be there too.
            parameters: Names of exactly the parameters, in order; None accepts any.

        Returns:
            The database itself.

        Raises:
            ValueError: If the task, a field or the parameters differ.
        """
        if task is not None and self.task != task:
            raise ValueError(
                f"{self.path}: expected a database of task {task!r}, got task {self.task!r}. Give a database "
                f"made for {task!r}, or run the task {self.task!r} on this one."
            )
        fields = (fields,) if isinstance(fields, str) else tuple(fields)
        missing = [field for field in fields if field not in self.fields]
        if missing:
            raise ValueError(
                f"{self.path}: expected the fields {list(fields)}, got {list(self.fields)}; missing: {missing}. "
                f"Make the database with these fields, or rename its datasets in /maps."
            )
        if parameters is not None and tuple(parameters) != self.parameter_names:
            expected, got = list(parameters), list(self.parameter_names)
            absent = [name for name in expected if name not in got]
            unexpected = [name for name in got if name not in expected]
            if absent or unexpected:
                difference = f"missing: {absent}; unexpected: {unexpected}"
            else:
                difference = "same names in another order"
            raise ValueError(
                f"{self.path}: expected the parameters {expected}, got {got} ({difference}). Rewrite /parameters "
                f"with exactly these columns in this order, or give another database."
            )
        return self

    def scan(self, progress: Callable[[int, int], None] | None = None) -> Scan:
        """Read every map once: moments of each map, a check that all pixels are finite, and a fingerprint.

        Memory stays below 64 MiB for contiguous files, whatever the size of the maps; chunked files need one
        whole map more. What was found of a file of 1 GiB or more is kept in ``<file>.scan.npz`` beside it, if that can
        be written, and taken from there as long as the file has the same size, inode, and times of modification and of
        the last change of anything about it. The last one is set by the system whenever the file is written to, and
        copies of the file have another. What neither shows is a medium that returns other bytes than were written:
        delete the small file to have the large one read again.

        Args:
            progress: Called as ``progress(done, total)`` with pixels of all fields.

        Raises:
            ValueError: If a pixel is not finite; names the field, the map and the simulation.
        """
        stamp = self._stamp()
        if known := self._remembered(stamp):
            logger.info("%s was read before and has not changed since.", self.path)
            return known
        scan = self._scan(progress)
        self._remember(scan, stamp)
        return scan

    def _scan(self, progress: Callable[[int, int], None] | None) -> Scan:
        digest = hashlib.sha256()
        total = sum(self.n_maps * storage.pixels for storage in self._storage.values())
        done = 0
        count, mean, squared_deviations, minimum, maximum = {}, {}, {}, {}, {}
        for field, storage in self._storage.items():
            header = [field, self.fields[field].unit, list(storage.shape), self.n_maps]
            digest.update(json.dumps(header).encode())
            count[field] = storage.pixels
            mean[field] = np.zeros(self.n_maps)
            squared_deviations[field] = np.zeros(self.n_maps)
            minimum[field] = np.full(self.n_maps, np.inf)
            maximum[field] = np.full(self.n_maps, -np.inf)
            seen = np.zeros(self.n_maps)
            for maps, pixels in self._scan_blocks(field, storage):
                digest.update(memoryview(np.ascontiguousarray(pixels, "<f4")).cast("B"))
                block = pixels.astype(np.float64)
                block_mean = block.mean(axis=1)
                if not np.isfinite(block_mean).all():
                    self._raise_not_finite(field, maps, block)
                # Of float32, which is half as much to go through.
                minimum[field][maps] = np.minimum(minimum[field][maps], pixels.min(axis=1))
                maximum[field][maps] = np.maximum(maximum[field][maps], pixels.max(axis=1))
                block -= block_mean[:, None]
                block_squared = np.einsum("mp,mp->m", block, block)
                size = block.shape[1]
                difference = block_mean - mean[field][maps]
                together = seen[maps] + size
                mean[field][maps] += difference * size / together
                squared_deviations[field][maps] += block_squared + difference**2 * seen[maps] * size / together
                seen[maps] = together
                done += pixels.size
                if progress is not None:
                    progress(done, total)
        names = [[parameter.name, parameter.unit] for parameter in self.parameters]
        digest.update(json.dumps(names).encode())
        digest.update(self.parameter_values.astype("<f8").tobytes())
        digest.update(self.simulation.astype("<i8").tobytes())
        return Scan(count, mean, squared_deviations, minimum, maximum, f"sha256:{digest.hexdigest()}")

    def _stamp(self) -> dict[str, int] | None:
        """What changes whenever the file does; None for a small file, or one that changed just now."""
        os.close(self._open())
        status = self.path.stat()
        if status.st_size < REMEMBERED_BYTES or abs(time.time() - status.st_ctime) < SETTLED_SECONDS:
            return None
        stamp = {name: getattr(status, f"st_{name}") for name in ("size", "mtime_ns", "ctime_ns", "ino")}
        return {"version": SCAN_VERSION, **stamp}

    def _remembered(self, stamp: dict[str, int] | None) -> Scan | None:
        """What an earlier scan found, if the file is still the same; None otherwise."""
        if stamp is None:
            return None
        try:
            # Opened here, as numpy.load leaves a damaged file open.
            with self._scan_path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                header = json.loads(str(kept["header"]))
                if header["stamp"] != stamp:
                    return None
                found = {name: {field: kept[f"{name}/{field}"] for field in self.fields} for name in SCAN_ARRAYS}
                return Scan(header["count"], **found, fingerprint=header["fingerprint"])
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            # Missing, cut off or of something else: the file itself is there to be read.
            return None

    def _remember(self, scan: Scan, stamp: dict[str, int] | None) -> None:
        """Keep what was found beside the file, if it did not change meanwhile and there is room."""
        if stamp is None or stamp != self._stamp():
            return
        header = {"stamp": stamp, "count": scan.count, "fingerprint": scan.fingerprint}
        arrays = {f"{name}/{field}": getattr(scan, name)[field] for name in SCAN_ARRAYS for field in self.fields}
        aside = None
        try:
            # Of a name of its own, as several workers may scan one file.
            with tempfile.NamedTemporaryFile(
                dir=self.path.parent, prefix=self.path.name, suffix=".partial", delete=False
            ) as file:
                aside = pathlib.Path(file.name)
                np.savez(file, header=json.dumps(header), **arrays)
            # Whoever may read the database may read this.
            aside.chmod(self.path.stat().st_mode & 0o666)
            aside.replace(self._scan_path)
        except OSError as error:
            logger.debug("%s could not be written (%s); the database is read again next time.", self._scan_path, error)
            if aside is not None:
                aside.unlink(missing_ok=True)

    @property
    def _scan_path(self) -> pathlib.Path:
        return self.path.with_name(self.path.name + SCAN_SUFFIX)

    def _read_structure(self, file: h5py.File) -> None:
        self.attributes = {name: _plain(value) for name, value in sorted(file.attrs.items())}
        for name, meaning in (("status", '"complete"'), ("task", "the task the maps are for")):
            if name not in self.attributes:
                raise ValueError(
                    f"{self.path}: root attribute {name!r} is missing; expected {meaning}. "
                    f"Write it, or make the database again with write_database or a campaign."
                )
        if self.attributes["status"] != "complete":
            raise ValueError(
                f"{self.path}: expected root attribute status 'complete', got {self.attributes['status']!r}: the "
                f"file was not written to its end. Resume or repeat whatever made it."
            )
        self.task = str(self.attributes["task"])
        missing = [name for name in ROOT_ITEMS[:3] if name not in file]
        if missing:
            raise ValueError(
                f"{self.path}: {_items(missing)} missing; expected {_items(ROOT_ITEMS[:3])}, got {_items(file)}. "
                f"Make the database with write_database or a campaign."
            )
        unexpected = sorted(set(file) - set(ROOT_ITEMS))
        if unexpected:
            raise ValueError(
                f"{self.path}: unexpected {_items(unexpected)}; expected only {_items(ROOT_ITEMS)}. "
                f"Remove it, or move maps into /maps."
            )
        for name in ("parameters", "simulation"):
            if not isinstance(file[name], h5py.Dataset):
                raise ValueError(f"{self.path}: expected /{name} to be a dataset, got a group. Write it as a table.")
        self._read_parameters(file["parameters"])
        self._read_simulation(file["simulation"])
        self._read_maps(file["maps"])
        if "finished" in file:
            finished = np.asarray(file["finished"][()]).astype(bool)
            if finished.shape != (self.n_simulations,) or not finished.all():
                raise ValueError(
                    f"{self.path}: /finished says that {int(finished.sum())} of {self.n_simulations} simulations are "
                    f"finished, though the status is 'complete'. Make the database again."
                )

    def _read_parameters(self, dataset: h5py.Dataset) -> None:
        where = f"{self.path}: /parameters"
        if dataset.ndim != 2 or dataset.dtype.kind not in "fiu" or dataset.shape[0] == 0:
            raise ValueError(
                f"{where}: expected numbers of shape (n_simulations, n_parameters) with at least one simulation, "
                f"got {dataset.dtype} of shape {dataset.shape}. Write one row per simulation."
            )
        columns = dataset.shape[1]
        for name in ("names", "units", "prior_low", "prior_high"):
            if name not in dataset.attrs:
                raise ValueError(
                    f"{where}: attribute {name!r} is missing; expected names, units, prior_low and prior_high, one "
                    f"entry per column. Write it."
                )
        listed = {}
        for name in ("names", "units", "prior_low", "prior_high", "symbols", "descriptions"):
            if name not in dataset.attrs:
                listed[name] = [""] * columns
                continue
            listed[name] = np.atleast_1d(_plain(dataset.attrs[name])).tolist()
            if len(listed[name]) != columns:
                raise ValueError(
                    f"{where}: expected {columns} {name}, one per column, got {len(listed[name])}: {listed[name]}. "
                    f"Correct the attribute."
                )
        if len(set(listed["names"])) != columns:
            raise ValueError(f"{where}: expected names that differ, got {listed['names']}. Rename the columns.")
        try:
            self.parameters = tuple(
                Parameter(
                    name=str(name), unit=str(unit), low=float(low), high=float(high), symbol=str(symbol),
                    description=str(description),
                )
                for name, unit, low, high, symbol, description in zip(*listed.values(), strict=True)
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"{where}: {error} Correct prior_low and prior_high.") from error
        self.parameter_values = np.asarray(dataset[()], np.float64)

    def _read_simulation(self, dataset: h5py.Dataset) -> None:
        if dataset.ndim != 1 or dataset.dtype.kind not in "iu" or dataset.shape[0] == 0:
            raise ValueError(
                f"{self.path}: /simulation: expected one integer per map, got {dataset.dtype} of shape "
                f"{dataset.shape}. Write for each map the row of /parameters it belongs to."
            )
        self.simulation = np.asarray(dataset[()], np.int64)

    def _read_maps(self, group: h5py.Group) -> None:
        if not isinstance(group, h5py.Group) or len(group) == 0:
            raise ValueError(f"{self.path}: /maps holds no field; expected at least one dataset. Write the maps.")
        self.fields, self._storage = {}, {}
        file_bytes = self.path.stat().st_size
        for name in sorted(group):
            dataset, where = group[name], f"{self.path}: /maps/{name}"
            if not isinstance(dataset, h5py.Dataset):
                raise ValueError(f"{where}: expected a dataset, got a group. Put all fields directly into /maps.")
            if dataset.dtype.kind != "f" or dataset.dtype.itemsize not in (2, 4, 8):
                raise ValueError(
                    f"{where}: expected float16, float32 or float64, got {dataset.dtype}. Convert the maps."
                )
            self._check_map_shape(where, dataset.shape)
            if dataset.shape[0] != self.n_maps:
                raise ValueError(
                    f"{where}: expected {self.n_maps} maps, as many as /simulation has entries, got "
                    f"{dataset.shape[0]}. All fields need the same maps in the same order."
                )
            if "units" not in dataset.attrs:
                raise ValueError(f"{where}: attribute 'units' is missing; expected text such as 'mK'. Write it.")
            storage = _MapStorage(dataset.dtype, dataset.shape[1:], dataset.id.get_offset())
            if dataset.id.get_storage_size() == 0 and dataset.external is None:
                raise ValueError(f"{where}: nothing was ever written into it. Make the database again.")
            if storage.offset is not None and storage.offset + self.n_maps * storage.map_bytes > file_bytes:
                raise ValueError(
                    f"{where}: the file is truncated: expected at least "
                    f"{storage.offset + self.n_maps * storage.map_bytes} bytes, got {file_bytes}. Copy it again."
                )
            description = str(_plain(dataset.attrs.get("description", "")))
            unit = str(_plain(dataset.attrs["units"]))
            self.fields[name] = MapField(unit=unit, shape=storage.shape, description=description)
            self._storage[name] = storage

    def _check_map_shape(self, where: str, shape: tuple[int, ...]) -> None:
        if "nside" in self.attributes:
            nside = int(self._numbers("nside")[0])
            if len(shape) < 2 or 0 in shape or shape[1] != 12 * nside**2:
                raise ValueError(
                    f"{where}: expected shape (n_maps, {12 * nside**2}[, channels]), HEALPix maps of nside {nside}, "
                    f"got {shape}. Reshape, or remove the root attribute nside if these are no HEALPix maps."
                )
        elif len(shape) < 3 or 0 in shape:
            raise ValueError(f"{where}: expected shape (n_maps, height, width[, channels]), got {shape}. Reshape.")

    def _check_values(self) -> None:
        outside = np.flatnonzero((self.simulation < 0) | (self.simulation >= self.n_simulations))
        if len(outside):
            raise ValueError(
                f"{self.path}: /simulation: expected ids from 0 to {self.n_simulations - 1}, the rows of /parameters, "
                f"got {self.simulation[outside[0]]} for map {outside[0]} ({len(outside)} such maps). Correct them."
            )
        without = np.flatnonzero(np.bincount(self.simulation, minlength=self.n_simulations) == 0)
        if len(without):
            raise ValueError(
                f"{self.path}: expected every simulation to have maps, got none for {len(without)} of "
                f"{self.n_simulations}, first simulation {without[0]}. Remove their rows of /parameters."
            )
        bad = np.argwhere(~np.isfinite(self.parameter_values))
        if len(bad):
            row, column = bad[0]
            raise ValueError(
                f"{self.path}: /parameters: expected finite numbers, got {self.parameter_values[row, column]} for "
                f"{self.parameter_names[column]} of simulation {row} ({len(bad)} such values). Correct them."
            )
        for column, parameter in enumerate(self.parameters):
            values = self.parameter_values[:, column]
            beyond = np.flatnonzero((values < parameter.low) | (values > parameter.high))
            if len(beyond):
                logger.warning(
                    "%s: %s of %d of %d simulations lies outside its prior range [%g, %g], first simulation %d: %g.",
                    self.path, parameter.name, len(beyond), self.n_simulations, parameter.low, parameter.high,
                    beyond[0], values[beyond[0]],
                )  # fmt: skip
        self.redshifts = self.cell_size = None
        if "redshifts" in self.attributes:
            self.redshifts = self._numbers("redshifts")
        if "cell_size" in self.attributes:
            size = self._numbers("cell_size")
            if len(size) != 1 or size[0] <= 0:
                raise ValueError(
                    f"{self.path}: root attribute 'cell_size': expected one positive number, got {size.tolist()}. "
                    f"Correct it, or remove it."
                )
            self.cell_size = float(size[0])

    def _numbers(self, name: str) -> np.ndarray:
        """A root attribute as finite numbers."""
        value = np.atleast_1d(self.attributes[name])
        if value.ndim != 1 or value.size == 0 or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            raise ValueError(
                f"{self.path}: root attribute {name!r}: expected finite numbers, got {self.attributes[name]!r}. "
                f"Correct it, or remove it."
            )
        return value.astype(np.float64)

    def _storage_of(self, field: str) -> _MapStorage:
        if field not in self._storage:
            raise ValueError(
                f"{self.path}: there is no field {field!r}; expected one of {list(self.fields)}."
                + _did_you_mean(field, self.fields)
            )
        return self._storage[field]

    def _check_indices(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        indices = np.asarray(indices)
        if indices.size == 0:
            indices = indices.astype(np.int64)
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise ValueError(
                f"indices: expected a list of map numbers, got {indices.dtype} of shape {indices.shape}. "
                f"Give integers from 0 to {self.n_maps - 1}."
            )
        if len(indices) and (indices.min() < 0 or indices.max() >= self.n_maps):
            wrong = indices.min() if indices.min() < 0 else indices.max()
            raise ValueError(f"indices: {self.path} has maps 0 to {self.n_maps - 1}, got {wrong}. Give existing maps.")
        return indices.astype(np.int64, copy=False)

    def _open(self) -> int:
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.path} was removed since it was opened. Put it back, or start again."
            ) from error
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != self._identity:
            os.close(descriptor)
            raise ValueError(
                f"{self.path} changed since it was opened (size or modification time). Open it again, and do not "
                f"write into a database that is in use."
            )
        return descriptor

    def _read_contiguous(self, storage: _MapStorage, starts: np.ndarray, out: np.ndarray, check: bool = False) -> bool:
        """Fill each row of float32 ``out`` from the bytes that begin ``starts`` after the begin of the field.

        Returns False if ``check`` is set and a pixel may not be finite.
        """
        finite = True
        rows = out.reshape(len(starts), -1) if len(starts) else ()
        # Maps of another dtype pass through one row that stays in the cache, which is several times faster than
        # converting a whole batch.
        scratch = None if storage.dtype == np.dtype("<f4") else np.empty(out[:1].size, storage.dtype)
        descriptor = self._open()
        try:
            for row, start in zip(rows, starts, strict=True):
                stored = row if scratch is None else scratch
                view, position = memoryview(stored.view(np.uint8)), storage.offset + int(start)
                while len(view):
                    got = os.preadv(descriptor, [view], position)
                    if got == 0:
                        raise ValueError(
                            f"{self.path} ended at byte {position}, in the middle of a map. Copy it again."
                        )
                    view, position = view[got:], position + got
                if scratch is not None:
                    with np.errstate(over="ignore"):
                        row[...] = scratch
                if check:
                    finite &= _looks_finite(row)
        finally:
            os.close(descriptor)
        return finite

    def _read_chunked(self, field: str, storage: _MapStorage, indices: np.ndarray, out: np.ndarray) -> bool:
        os.close(self._open())
        scratch = np.empty(storage.shape, storage.dtype)
        with _h5py_lock, h5py.File(self.path, "r", locking=False) as file, np.errstate(over="ignore"):
            dataset = file["maps"][field]
            for row, index in zip(out, indices, strict=True):
                dataset.read_direct(scratch, np.s_[int(index)])
                row[...] = scratch
        return _looks_finite(out)

    def _scan_blocks(self, field: str, storage: _MapStorage):
        """Yield slices of maps with their pixels ``(maps, pixels)``; a large map comes in several pieces."""
        block_pixels = SCAN_BLOCK_BYTES // 4
        maps_per_block = max(1, block_pixels // storage.pixels)
        for first in range(0, self.n_maps, maps_per_block):
            maps = np.arange(first, min(first + maps_per_block, self.n_maps))
            if storage.pixels <= block_pixels or storage.offset is None:
                yield maps, self.read(field, maps).reshape(len(maps), -1)
                continue
            for start in range(0, storage.pixels, block_pixels):
                pixels = np.empty((1, min(block_pixels, storage.pixels - start)), np.float32)
                begin = first * storage.map_bytes + start * storage.dtype.itemsize
                self._read_contiguous(storage, np.array([begin]), pixels)
                yield maps, pixels

    def _raise_not_finite(self, field: str, maps: np.ndarray, pixels: np.ndarray) -> None:
        for index, values in zip(maps, pixels, strict=True):
            bad = int(np.count_nonzero(~np.isfinite(values)))
            if bad:
                raise ValueError(
                    f"{self.path}: /maps/{field}: map {index} of simulation {self.simulation[index]} has {bad} pixels "
                    f"that are not finite. Remove this simulation or make it again."
                )


def _looks_finite(pixels: np.ndarray) -> bool:
    # A sum is not finite if any pixel is not, and much cheaper than isfinite while the map is in the cache. It can
    # overflow for huge finite pixels, so that False asks for a closer look.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(pixels.sum(dtype=np.float32)))


def _check_is_file(path: pathlib.Path) -> None:
    if path.is_dir():
        inside = sorted(entry.name for entry in path.glob("*.h5"))
        hint = f" It holds {inside[:5]}." if inside else ""
        raise ValueError(f"{path}: expected a database file, got a folder. Give the path of an HDF5 file.{hint}")
    if path.exists():
        return
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    if partial.exists():
        try:
            with h5py.File(partial, "r", locking=False) as file:
                raise FileNotFoundError(_unfinished_message(partial, file))
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
    hint = f" The folder {path.parent} does not exist."
    if path.parent.is_dir():
        names = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
        hint = _did_you_mean(path.name, names) or " Make it with apps/simulate.py, or correct the path."
    raise FileNotFoundError(f"{path}: there is no such file.{hint}")


def _unfinished_message(path: pathlib.Path, file: h5py.File) -> str:
    state = "an unknown number of"
    if "finished" in file:
        finished = np.asarray(file["finished"][()])
        state = f"{int(np.count_nonzero(finished))} of {len(finished)}"
    return (
        f"{path} is an unfinished campaign: {state} simulations are finished. Run the same command again to resume it; "
        f"it is renamed to {path.name.removesuffix(PARTIAL_SUFFIX)} when complete."
    )


def _unreadable_message(path: pathlib.Path, error: Exception) -> str:
    if "truncated" in str(error):
        return f"{path}: the HDF5 file is truncated ({error}). Copy it again, or make it again."
    if not h5py.is_hdf5(path):
        return f"{path}: expected an HDF5 file, got something else ({error}). Give a database, ending in .h5."
    return f"{path}: the HDF5 file cannot be read ({error}). Check permissions, copy it again, or make it again."


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def _items(names: Iterable[str]) -> str:
    return ", ".join(f"/{name}" for name in names) or "nothing"


def _plain(value):
    """HDF5 attribute as a Python scalar, a str, or an array."""
    if isinstance(value, h5py.Empty):
        return ""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray) and value.dtype.kind in "SO":
        return np.array([item.decode() if isinstance(item, bytes) else item for item in value.ravel()])
    return value.item() if isinstance(value, np.generic) else value
