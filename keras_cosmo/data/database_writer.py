"""Writer of map databases that a kill at any moment cannot damage.

A database is made in three steps. The whole file is laid out beforehand under ``<name>.partial``: parameters, seeds,
attributes, and maps as contiguous, reserved, empty space. Then HDF5 is closed for good, and each simulation is
written by plain ``pwrite`` at known byte offsets, its maps first and its flag in ``/finished`` last, so that the
file is valid HDF5 with exactly the finished simulations marked whenever the process dies. When all are there, the
status becomes "complete" and the file is renamed: under its final name a database is never incomplete.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import logging
import os
import pathlib
import shutil
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence

import h5py
import numpy as np

from keras_cosmo.quantities import MapField, Parameter

logger = logging.getLogger(__name__)

PARTIAL_SUFFIX = ".partial"
# Two words of equal length, so that one can replace the other in place in a closed HDF5 file.
STATUS_UNFINISHED, STATUS_COMPLETE = b"underway", b"complete"
MAP_DTYPES = ("float16", "float32")
# Room for HDF5's own structures beside the data, for the check of free space.
METADATA_BYTES = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatabasePlan:
    """Everything about a database but its pixels; known before the first simulation runs.

    Args:
        task: Task the maps are for.
        fields: Field name -> unit and shape of one map.
        parameters: Names, units and prior ranges, in the order of the columns.
        parameter_values: ``(n_simulations, n_parameters)``.
        simulation: ``(n_maps,)`` integers, the simulation that each map belongs to.
        seeds: ``(n_simulations,)`` integers, the seed of each simulation, or None where there is none.
        attributes: Further root attributes: numbers, text and arrays of numbers.
        dtype: ``"float32"`` or ``"float16"``, how maps are stored.

    Raises:
        ValueError: If shapes do not fit each other, a value is not finite, or a name is not usable.
    """

    task: str
    fields: Mapping[str, MapField]
    parameters: Sequence[Parameter]
    parameter_values: np.ndarray
    simulation: np.ndarray
    seeds: np.ndarray | None = None
    attributes: Mapping[str, object] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"

    def __post_init__(self):
        parameters = tuple(self.parameters)
        values = np.array(self.parameter_values, np.float64)
        if values.ndim != 2 or len(values) == 0 or values.shape[1] != len(parameters):
            raise ValueError(
                f"parameter_values: expected shape (n_simulations, {len(parameters)}), one column per parameter, got "
                f"{values.shape}. Give one row per simulation."
            )
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(
                f"parameter_values: expected finite numbers, got {values[row, column]} for "
                f"{parameters[column].name} of simulation {row}. Leave this simulation out, or correct it."
            )
        simulation = np.array(self.simulation)
        if simulation.ndim != 1 or simulation.dtype.kind not in "iu":
            raise ValueError(
                f"simulation: expected one integer per map, got {simulation.dtype} of shape {simulation.shape}. "
                f"Give for each map the row of parameter_values it belongs to."
            )
        if not np.array_equal(np.unique(simulation), np.arange(len(values))):
            raise ValueError(
                f"simulation: expected ids 0 to {len(values) - 1} that each occur, one per row of parameter_values, "
                f"got {len(np.unique(simulation))} different ids. Remove simulations without maps, and number from 0."
            )
        if not self.fields:
            raise ValueError("fields: expected at least one field, got none. Give {name: MapField(...)}.")
        for name, field in self.fields.items():
            if not name or "/" in name or name.startswith("."):
                raise ValueError(f"fields: {name!r} cannot name a dataset. Use letters, digits and underscores.")
            nside = self.attributes.get("nside")
            if len(field.shape) < 2 - (nside is not None) or min(field.shape) < 1:
                raise ValueError(
                    f"fields: expected {name} to have shape (height, width[, channels]), got {tuple(field.shape)}."
                )
            if nside is not None and field.shape[0] != 12 * int(nside) ** 2:
                raise ValueError(
                    f"fields: expected {name} to have shape ({12 * int(nside) ** 2}[, channels]), as HEALPix maps of "
                    f"nside {nside}, got {tuple(field.shape)}."
                )
        if str(self.dtype) not in MAP_DTYPES:
            raise ValueError(f"dtype: expected one of {MAP_DTYPES}, got {self.dtype!r}.")
        seeds = self.seeds
        if seeds is not None:
            seeds = np.array(seeds, np.int64)
            if seeds.shape != (len(values),):
                raise ValueError(f"seeds: expected one per simulation, shape ({len(values)},), got {seeds.shape}.")
        reserved = sorted({"task", "seeds", "status"} & set(self.attributes))
        if reserved:
            raise ValueError(f"attributes: {reserved} are written by the database itself. Leave them out.")
        object.__setattr__(self, "parameters", parameters)
        object.__setattr__(self, "parameter_values", values)
        object.__setattr__(self, "simulation", simulation.astype(np.int32))
        object.__setattr__(self, "seeds", seeds)
        object.__setattr__(self, "fields", dict(sorted(self.fields.items())))
        object.__setattr__(self, "attributes", dict(sorted(self.attributes.items())))

    @property
    def n_maps(self) -> int:
        """Number of maps."""
        return len(self.simulation)

    @property
    def n_simulations(self) -> int:
        """Number of simulations."""
        return len(self.parameter_values)

    @property
    def data_bytes(self) -> int:
        """Bytes of maps, parameters, ids and flags together."""
        pixels = sum(int(np.prod(field.shape)) for field in self.fields.values())
        tables = self.parameter_values.nbytes + self.simulation.nbytes + self.n_simulations
        return self.n_maps * pixels * np.dtype(self.dtype).itemsize + tables

    def root_attributes(self) -> dict[str, object]:
        """All root attributes but the status."""
        attributes = {"task": self.task, **self.attributes}
        if self.seeds is not None:
            attributes["seeds"] = self.seeds
        return attributes


class DatabaseWriter:
    """Writes the simulations of one planned database, in any order; safe against a kill at any moment.

    Use :meth:`create` or :meth:`open` rather than the constructor, and use it as a context manager. Only one writer at
    a time can have a file. The maps of a simulation reach the disk before its flag is set, which keeps the promise in a
    power failure too.

    Args:
        path: Final path of the database; ``<path>.partial`` exists already.
        plan: What the database will hold.

    Raises:
        ValueError: If the file follows another plan; the message names the first difference.
        RuntimeError: If another process is writing the file.

    Example:
        >>> with DatabaseWriter.open("maps.h5", plan) as writer:  # doctest: +SKIP
        ...     for simulation in np.flatnonzero(~writer.finished):
        ...         writer.write(simulation, {"density": run(plan.parameter_values[simulation])})
        ...     writer.finish()
    """

    def __init__(self, path: str | os.PathLike, plan: DatabasePlan):
        self.path = pathlib.Path(path)
        self.plan = plan
        self.partial = partial_path(self.path)
        self._descriptor = _open_locked(self.partial)
        try:
            difference = difference_from_plan(self.partial, plan)
            if difference:
                raise ValueError(
                    f"{self.partial} was begun with another plan: {difference}. Give the same arguments as before to "
                    f"resume it, choose another output file, or delete it to begin again."
                )
            with _open_to_read(self.partial) as file:
                self._offsets = {name: file["maps"][name].id.get_offset() for name in plan.fields}
                self._flags_offset = file["finished"].id.get_offset()
                self._finished = file["finished"][()].astype(bool)
            self._status_offset = _find_status(self._descriptor, self.partial, (STATUS_UNFINISHED, STATUS_COMPLETE))
        except BaseException:
            self.close()
            raise
        self._map_order = np.argsort(plan.simulation, kind="stable")
        self._first_of = np.searchsorted(plan.simulation[self._map_order], np.arange(plan.n_simulations + 1))

    @classmethod
    def create(cls, path: str | os.PathLike, plan: DatabasePlan) -> "DatabaseWriter":
        """Lay out a new file.

        Raises:
            FileExistsError: If the database or an unfinished one exists.
            OSError: If the disk has not enough room; says how many bytes are needed and free.
        """
        path = pathlib.Path(path)
        if path.exists():
            raise FileExistsError(f"{path} exists already. Choose another output file, or delete it first.")
        _lay_out(path, plan)
        return cls(path, plan)

    @classmethod
    def open(cls, path: str | os.PathLike, plan: DatabasePlan) -> "DatabaseWriter":
        """Resume the unfinished file if there is one, else create it.

        Raises:
            ValueError: If there is one that was begun with another plan.
        """
        return cls(path, plan) if partial_path(path).exists() else cls.create(path, plan)

    @property
    def finished(self) -> np.ndarray:
        """``(n_simulations,)`` bool, a copy: which simulations are completely in the file."""
        return self._finished.copy()

    def write(self, simulation: int, maps: Mapping[str, np.ndarray]) -> None:
        """Write all maps of one simulation, then mark it as finished.

        Args:
            simulation: Which one.
            maps: Field name -> ``(maps of this simulation, *shape)``; converted to the dtype of the plan.

        Raises:
            ValueError: If fields or shapes differ from the plan, or a value is not finite in the stored dtype.
            OSError: If writing fails, for example on a full disk; the file stays resumable.
        """
        self._check_simulation(simulation)
        rows = self._map_order[self._first_of[simulation] : self._first_of[simulation + 1]]
        stored = convert_maps(maps, self.plan.fields, len(rows), self.plan.dtype)
        with self._said_where_it_failed(f"simulation {simulation}"):
            for name, block in stored.items():
                for first, last in _runs(rows):
                    offset = self._offsets[name] + int(rows[first]) * block[0].nbytes
                    _write_at(self._descriptor, block[first:last], offset)
        self.mark_finished(simulation)

    def write_part(self, field: str, row: int, first: int, values: np.ndarray) -> None:
        """Write a part of one map, for maps that are larger than the memory; `mark_finished` has to follow.

        Args:
            field: Name of the field.
            row: Which map.
            first: Where the part begins along the first axis of the map.
            values: ``(length, *shape[1:])``; converted to the dtype of the plan.

        Raises:
            ValueError: If the part does not lie within a map of the plan, or a value is not finite in the stored
                dtype.
            OSError: As `write`.
        """
        if field not in self.plan.fields:
            raise ValueError(f"field: expected one of {list(self.plan.fields)}, got {field!r}.")
        if not 0 <= row < self.plan.n_maps:
            raise ValueError(f"row: expected 0 to {self.plan.n_maps - 1}, got {row}.")
        length, *rest = self.plan.fields[field].shape
        values = np.asarray(values)
        if values.shape[1:] != tuple(rest) or not 0 <= first <= first + len(values) <= length:
            raise ValueError(
                f"values: expected a part of a map of {field} of shape {(length, *rest)}, got shape {values.shape} "
                f"from {first} on."
            )
        part = MapField(unit=self.plan.fields[field].unit, shape=values.shape)
        block = convert_maps({field: values[np.newaxis]}, {field: part}, 1, self.plan.dtype)[field]
        size = int(np.prod(rest)) * block.itemsize
        with self._said_where_it_failed(f"a part of {field}"):
            _write_at(self._descriptor, block, self._offsets[field] + (int(row) * length + int(first)) * size)

    def mark_finished(self, simulation: int) -> None:
        """Mark a simulation as finished, all parts of which are written.

        Args:
            simulation: Which one.

        Raises:
            ValueError: If there is no such simulation.
            OSError: As `write`.
        """
        self._check_simulation(simulation)
        with self._said_where_it_failed(f"simulation {simulation}"):
            _synchronize(self._descriptor)
            _write_at(self._descriptor, np.ones(1, np.uint8), self._flags_offset + int(simulation))
        self._finished[simulation] = True

    def _check_simulation(self, simulation: int) -> None:
        if not 0 <= simulation < self.plan.n_simulations:
            raise ValueError(f"simulation: expected 0 to {self.plan.n_simulations - 1}, got {simulation}.")

    @contextlib.contextmanager
    def _said_where_it_failed(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(
                error.errno,
                f"{self.partial}: writing {what} failed: {error.strerror}. "
                f"{int(self._finished.sum())} of {self.plan.n_simulations} simulations are finished and safe; "
                f"free some space (or repair the disk) and run the same command again to resume",
            ) from error

    def finish(self) -> pathlib.Path:
        """Mark the database as complete and give it its final name.

        Raises:
            ValueError: If a simulation is not finished yet.
            FileExistsError: If the final name was taken meanwhile.
        """
        missing = np.flatnonzero(~self._finished)
        if len(missing):
            raise ValueError(
                f"{self.partial}: {len(missing)} of {self.plan.n_simulations} simulations are not finished, first "
                f"{missing[:10].tolist()}. Write them before finish()."
            )
        _write_at(self._descriptor, np.frombuffer(STATUS_COMPLETE, np.uint8), self._status_offset)
        _synchronize(self._descriptor)
        _move_without_overwriting(self.partial, self.path)
        _synchronize_folder(self.path.parent)
        self.close()
        return self.path

    def close(self) -> None:
        """Release the file; an unfinished one can be resumed."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "DatabaseWriter":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def write_database(
    path: str | os.PathLike,
    *,
    task: str,
    fields: Mapping[str, tuple[np.ndarray, str]],
    parameters: Sequence[Parameter],
    parameter_values: np.ndarray,
    simulation: np.ndarray,
    attributes: Mapping[str, object],
    dtype: str = "float32",
) -> None:
    """Write a database from maps that are already in memory; it appears under its name only when complete.

    Args:
        path: Where to.
        task: Task the maps are for.
        fields: Field name -> maps ``(n_maps, height, width[, channels])`` and their unit.
        parameters: Names, units and prior ranges.
        parameter_values: ``(n_simulations, n_parameters)``.
        simulation: ``(n_maps,)`` integers, the row of ``parameter_values`` that each map belongs to.
        attributes: Further root attributes, such as ``cell_size`` and ``redshifts``; ``seeds`` too.
        dtype: ``"float32"`` or ``"float16"``.

    Raises:
        FileExistsError: If the file exists.
        ValueError: If shapes do not fit, or a value is not finite in the stored dtype.
    """
    path = pathlib.Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already. Choose another file, or delete it first.")
    arrays = {name: np.asarray(array) for name, (array, _) in fields.items()}
    attributes = dict(attributes)
    plan = DatabasePlan(
        task=task,
        fields={name: MapField(unit=unit, shape=arrays[name].shape[1:]) for name, (_, unit) in fields.items()},
        parameters=parameters,
        parameter_values=parameter_values,
        simulation=simulation,
        seeds=attributes.pop("seeds", None),
        attributes=attributes,
        dtype=dtype,
    )
    stored = convert_maps(arrays, plan.fields, plan.n_maps, dtype)
    aside = _aside(path)
    try:
        _create_hdf5(aside, plan, STATUS_COMPLETE, flags=False)
        with _open_to_read(aside) as file:
            offsets = {name: file["maps"][name].id.get_offset() for name in plan.fields}
        descriptor = os.open(aside, os.O_RDWR)
        try:
            for name, block in stored.items():
                _write_at(descriptor, block, offsets[name])
            _synchronize(descriptor)
        finally:
            os.close(descriptor)
        _move_without_overwriting(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def partial_path(path: str | os.PathLike) -> pathlib.Path:
    """Name of the unfinished file that becomes ``path``."""
    path = pathlib.Path(path)
    return path.with_name(path.name + PARTIAL_SUFFIX)


def convert_maps(
    maps: Mapping[str, np.ndarray], fields: Mapping[str, MapField], count: int, dtype: str
) -> dict[str, np.ndarray]:
    """Maps of one simulation, checked and in the byte format they are stored in.

    Args:
        maps: Field name -> ``(count, *shape)``.
        fields: What is expected.
        count: Expected number of maps.
        dtype: Dtype of the stored maps.

    Raises:
        ValueError: If a field is missing or unexpected, a shape is wrong, a pixel is not finite, or does not fit
            the dtype.
    """
    if set(maps) != set(fields):
        raise ValueError(f"maps: expected the fields {sorted(fields)}, got {sorted(maps)}.")
    stored = {}
    for name, field in fields.items():
        array, expected = np.asarray(maps[name]), (count, *field.shape)
        if array.shape != expected:
            raise ValueError(f"maps: expected {name} of shape {expected}, got {array.shape}.")
        if array.dtype.kind not in "fiu":
            raise ValueError(f"maps: expected real numbers in {name}, got {array.dtype}.")
        finite = np.isfinite(array)
        if not finite.all():
            where = tuple(np.argwhere(~finite)[0].tolist())
            raise ValueError(
                f"maps: expected finite pixels in {name}, got {array[where]} at {where} and "
                f"{int(np.count_nonzero(~finite))} such pixels in all."
            )
        with np.errstate(over="ignore"):
            stored[name] = np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<"))
        if not np.isfinite(stored[name]).all():
            largest = np.abs(array).max()
            raise ValueError(
                f"maps: {name} has values up to {largest:g} that do not fit {dtype} (largest "
                f"{np.finfo(dtype).max:g}). Store float32, or use another unit."
            )
    return stored


def difference_from_plan(path: pathlib.Path, plan: DatabasePlan) -> str:
    """First difference between what a file was laid out for and a plan, as text; empty if there is none."""
    with _open_to_read(path) as file:
        got = {name: _comparable(value) for name, value in file.attrs.items() if name != "status"}
        expected = {name: _comparable(value) for name, value in plan.root_attributes().items()}
        # The number of simulations is named first: when it differs, seeds and parameters differ as well.
        found = {name: file[name] for name in ("maps", "parameters", "simulation") if name in file}
        if len(found) < 3:
            return "it is not laid out as a database"
        if found["parameters"].shape[0] != plan.n_simulations:
            return f"it has {found['parameters'].shape[0]} simulations, expected {plan.n_simulations}"
        for name in sorted(set(got) | set(expected), key=lambda name: (name == "seeds", name)):
            if got.get(name) != expected.get(name):
                return (
                    f"attribute {name} is {_shortened(got.get(name, 'missing'))}, expected "
                    f"{_shortened(expected.get(name, 'none'))}"
                )
        layouts = {name: (dataset.shape, dataset.dtype) for name, dataset in found["maps"].items()}
        planned = {
            name: ((plan.n_maps, *field.shape), np.dtype(plan.dtype).newbyteorder("<"))
            for name, field in plan.fields.items()
        }
        if layouts != planned:
            return f"maps are {_describe(layouts)}, expected {_describe(planned)}"
        for name, field in plan.fields.items():
            if found["maps"][name].attrs["units"] != field.unit:
                return f"unit of {name} is {found['maps'][name].attrs['units']!r}, expected {field.unit!r}"
        for name, value in _parameter_attributes(plan).items():
            if _comparable(found["parameters"].attrs.get(name)) != _comparable(value):
                return f"parameter {name} are {_comparable(found['parameters'].attrs.get(name))}, expected {value}"
        if not np.array_equal(found["parameters"][()], plan.parameter_values):
            row = np.flatnonzero((found["parameters"][()] != plan.parameter_values).any(axis=1))[0]
            return (
                f"parameters of simulation {row} are {found['parameters'][row]}, expected {plan.parameter_values[row]}"
            )
        if not np.array_equal(found["simulation"][()], plan.simulation):
            return "simulation ids of the maps differ"
    return ""


def _lay_out(path: pathlib.Path, plan: DatabasePlan) -> None:
    """Create ``<path>.partial`` aside and give it its name only when it is whole."""
    partial, aside = partial_path(path), _aside(path)
    try:
        _create_hdf5(aside, plan, STATUS_UNFINISHED, flags=True)
        descriptor = os.open(aside, os.O_RDWR)
        try:
            _find_status(descriptor, aside, (STATUS_UNFINISHED,))
            _synchronize(descriptor)
        finally:
            os.close(descriptor)
        _move_without_overwriting(aside, partial)
        _synchronize_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _aside(path: pathlib.Path) -> pathlib.Path:
    """Where this process lays out a file; removes what processes left there that were killed while they did."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist. Make it first.")
    prefix = f".{path.name}.{socket.gethostname()}-"
    for entry in sorted(path.parent.iterdir()):
        owner = entry.name.removeprefix(prefix).removesuffix(PARTIAL_SUFFIX)
        if owner.isdigit() and entry.name == f"{prefix}{owner}{PARTIAL_SUFFIX}" and not _is_alive(int(owner)):
            logger.info("Removing %s, left behind by a process that is gone.", entry)
            entry.unlink(missing_ok=True)
    return path.with_name(f"{prefix}{os.getpid()}{PARTIAL_SUFFIX}")


def _is_alive(process: int) -> bool:
    """Whether another process is running; what bears our own number is of one before us, as happens in containers."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _create_hdf5(path: pathlib.Path, plan: DatabasePlan, status: bytes, flags: bool) -> None:
    needed, free = plan.data_bytes + METADATA_BYTES, shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, _no_space_message(path.parent, needed, free))
    try:
        _write_layout(path, plan, status, flags)
        with _open_to_read(path) as file:
            extents = [
                (file["maps"][name].id.get_offset(), file["maps"][name].id.get_storage_size()) for name in plan.fields
            ]
        descriptor = os.open(path, os.O_RDWR)
        try:
            for offset, size in extents:
                _reserve(descriptor, offset, size)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        free = shutil.disk_usage(path.parent).free
        raise OSError(errno.ENOSPC, _no_space_message(path.parent, needed, free)) from error


def _write_layout(path: pathlib.Path, plan: DatabasePlan, status: bytes, flags: bool) -> None:
    file_creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    file_access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    group_creation = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    # Without time stamps, equal content is equal bytes.
    file_creation.set_obj_track_times(False)
    group_creation.set_obj_track_times(False)
    # The format of HDF5 1.8 is the oldest that takes attributes over 64 kB, such as the seeds of 10,000 simulations.
    file_access.set_libver_bounds(h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V18)
    file_access.set_alignment(2**16, 2**12)
    file_id = h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_EXCL, fcpl=file_creation, fapl=file_access)
    with h5py.File(file_id) as file:
        file.attrs["status"] = status.decode()
        for name, value in plan.root_attributes().items():
            file.attrs[name] = _storable(name, value)
        maps = h5py.Group(h5py.h5g.create(file.id, b"maps", gcpl=group_creation))
        for name, field in plan.fields.items():
            dtype = np.dtype(plan.dtype).newbyteorder("<")
            dataset = _empty_dataset(maps, name, (plan.n_maps, *field.shape), dtype)
            dataset.attrs["units"] = field.unit
            if field.description:
                dataset.attrs["description"] = field.description
        parameters = file.create_dataset("parameters", data=plan.parameter_values.astype("<f8"))
        for name, value in _parameter_attributes(plan).items():
            parameters.attrs[name] = value
        file.create_dataset("simulation", data=plan.simulation.astype("<i4"))
        if flags:
            file.create_dataset("finished", data=np.zeros(plan.n_simulations, np.uint8))


def _empty_dataset(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    return h5py.Dataset(h5py.h5d.create(group.id, name.encode(), h5py.h5t.py_create(dtype), space, dcpl=creation))


def _parameter_attributes(plan: DatabasePlan) -> dict[str, np.ndarray]:
    text = h5py.string_dtype()
    return {
        "names": np.array([parameter.name for parameter in plan.parameters], text),
        "units": np.array([parameter.unit for parameter in plan.parameters], text),
        "symbols": np.array([parameter.symbol for parameter in plan.parameters], text),
        "descriptions": np.array([parameter.description for parameter in plan.parameters], text),
        "prior_low": np.array([parameter.low for parameter in plan.parameters], np.float64),
        "prior_high": np.array([parameter.high for parameter in plan.parameters], np.float64),
    }


def _storable(name: str, value: object) -> object:
    if isinstance(value, (str, bool, int, float, np.generic)):
        if value == STATUS_UNFINISHED.decode():
            raise ValueError(f"attributes: {name} cannot be {value!r}, which marks unfinished files. Reword it.")
        return value
    array = np.asarray(value)
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind == "U":
        return array.astype(h5py.string_dtype())
    raise ValueError(
        f"attributes: {name} must be a number, text or an array of them, got {type(value).__name__}. "
        f"Use json.dumps for anything else."
    )


def _comparable(value: object) -> object:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_comparable(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


def _shortened(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) < 400 else f"{text[:200]} ... {text[-100:]}"


def _describe(layouts: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> str:
    return ", ".join(f"{name} {dtype.name} {shape}" for name, (shape, dtype) in sorted(layouts.items()))


def _open_to_read(path: pathlib.Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read as HDF5 ({error}). It was not made by this package, or the disk damaged it: "
            f"delete it and begin again."
        ) from error


def _open_locked(path: pathlib.Path) -> int:
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise RuntimeError(
            f"{path} is being written by another process. Wait for it, or choose another output file."
        ) from error
    except OSError as error:
        logger.warning("%s: this file system has no locks (%s); do not run two campaigns on it.", path, error)
    return descriptor


def _find_status(descriptor: int, path: pathlib.Path, words: tuple[bytes, ...]) -> int:
    """Byte offset of the root attribute ``status`` in a closed file.

    HDF5 keeps a variable-length text as its length in 8 bytes, then the text (HDF5 File Format Specification 3.0,
    section III.E "Global Heap"). Raw data are left out of the search.
    """
    with _open_to_read(path) as file:
        datasets = [*file["maps"].values(), file["parameters"], file["simulation"]]
        extents = sorted(
            (dataset.id.get_offset(), dataset.id.get_storage_size())
            for dataset in datasets
            if dataset.id.get_offset() is not None
        )
    hits = []
    for start, stop in _gaps(extents, os.fstat(descriptor).st_size):
        content = os.pread(descriptor, stop - start, start)
        for word in words:
            pattern = struct.pack("<Q", len(word)) + word
            position = content.find(pattern)
            while position >= 0:
                hits.append(start + position + 8)
                position = content.find(pattern, position + 1)
    if len(hits) != 1:
        raise RuntimeError(
            f"{path}: expected the status once in the HDF5 structures, found it {len(hits)} times. Remove attributes "
            f"whose whole text is one of {[word.decode() for word in words]}."
        )
    return hits[0]


def _gaps(extents: list[tuple[int, int]], end: int) -> Iterator[tuple[int, int]]:
    position = 0
    for offset, size in extents:
        if offset > position:
            yield position, offset
        position = max(position, offset + size)
    if end > position:
        yield position, end


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Slices of ``rows`` within which the rows follow each other."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    return zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True)


def _write_at(descriptor: int, array: np.ndarray, offset: int) -> None:
    view = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    while len(view):
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _reserve(descriptor: int, offset: int, size: int) -> None:
    # macOS has no posix_fallocate; there the file is sparse, and a full disk shows while writing.
    if hasattr(os, "posix_fallocate") and size:
        try:
            os.posix_fallocate(descriptor, offset, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            logger.warning("This file system cannot reserve space in advance; a full disk shows only while writing.")


def _synchronize(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)


def _synchronize_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_without_overwriting(source: pathlib.Path, target: pathlib.Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError as error:
        raise FileExistsError(
            f"{target} appeared meanwhile, made by another process. Use that one, or delete it."
        ) from error
    except OSError:
        # File systems without hard links: a rename, with a short moment in which another file could be lost.
        if target.exists():
            raise FileExistsError(f"{target} appeared meanwhile, made by another process.") from None
        source.rename(target)
        return
    source.unlink()


def _no_space_message(folder: pathlib.Path, needed: int, free: int) -> str:
    return (
        f"{folder}: the database needs {needed} bytes ({needed / 1e9:.2f} GB), {free} bytes ({free / 1e9:.2f} GB) are "
        f"free. Free some space, choose another folder, fewer or smaller maps, or float16"
    )
