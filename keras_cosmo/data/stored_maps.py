"""Maps of a database that are read when they are sliced."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

BATCH_BYTES = 16 * 2**20


class StoredMaps:
    """Some maps of one field of a database, which stay in the file until they are sliced.

    It stands for an array of maps wherever one is read in batches, as by `keras_cosmo.statistics.spectra.map_batches`
    and all that is built on it, by `keras_cosmo.models.gaussian_field.GaussianField` and by
    `keras_cosmo.bijectors.map_transform.transform_constants`: what these need of memory then does not depend on the
    number of maps. ``numpy.asarray`` of it reads them all.

    Args:
        database: `keras_cosmo.data.database.Database`.
        field: Name of the field.
        indices: Numbers of the maps, in any order, repeats allowed.
        check_finite: Whether a pixel that is not finite is an error when it is read.

    Attributes:
        shape: ``(n_maps, *shape of a map)``.
        dtype: float32, whatever the file has.
        indices: As given.

    Raises:
        ValueError: If the field or a map does not exist; on reading as `Database.read`.
        IndexError: On an index beyond the maps.

    Example:
        >>> maps = database.stored("density", range(1000))  # doctest: +SKIP
        >>> maps.shape, maps[10:20].shape, maps[[5, 3]].shape, maps[7].shape  # doctest: +SKIP
        ((1000, 64, 64), (10, 64, 64), (2, 64, 64), (64, 64))
    """

    def __init__(self, database, field: str, indices: Sequence[int] | np.ndarray, check_finite: bool = False):
        if field not in database.fields:
            raise ValueError(f"{database.path}: there is no field {field!r}; expected one of {list(database.fields)}.")
        self.database = database
        self.field = field
        self.indices = np.array(indices)
        if self.indices.size == 0:
            self.indices = self.indices.astype(np.int64)
        self.check_finite = bool(check_finite)
        if self.indices.ndim != 1 or self.indices.dtype.kind not in "iu":
            raise ValueError(
                f"indices: expected a list of map numbers, got {self.indices.dtype} of shape {self.indices.shape}."
            )
        if len(self.indices) and not 0 <= self.indices.min() <= self.indices.max() < database.n_maps:
            raise ValueError(
                f"indices: {database.path} has maps 0 to {database.n_maps - 1}, got {self.indices.min()} to "
                f"{self.indices.max()}. Give existing maps."
            )
        self.shape = (len(self.indices), *database.fields[field].shape)
        self.dtype = np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of pixels of all maps."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        """Maps at an integer, a slice, integers or booleans; further entries of a tuple cut the maps that were read."""
        rows, *cut = key if isinstance(key, tuple) else (key,)
        chosen = self.indices[rows]
        maps = self.database.read(self.field, np.atleast_1d(chosen), self.check_finite)
        if np.ndim(chosen) == 0:
            return maps[0][tuple(cut)]
        return maps[(slice(None), *cut)] if cut else maps

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("Maps of a file cannot become an array without being read. Leave out copy=False.")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def batches(self, size: int | None = None) -> Iterator[np.ndarray]:
        """All maps in their order, ``size`` at a time, or as many as take 16 MiB."""
        if size is None:
            size = max(1, BATCH_BYTES // (4 * math.prod(self.shape[1:])))
        if size < 1:
            raise ValueError(f"size: expected at least 1 map at a time, got {size}.")
        return (self[start : start + size] for start in range(0, len(self), size))


def evenly_spread(indices: Sequence[int] | np.ndarray, most: int) -> np.ndarray:
    """At most so many of the entries, at equal distances from the first on, in their order.

    A part of a database that is sorted by simulation gives about as many maps of each. Nothing is random.

    Args:
        indices: Such as numbers of maps, ``(n,)``.
        most: How many to keep; all, if there are not more.

    Raises:
        ValueError: If ``most`` is not positive.

    Example:
        >>> evenly_spread(range(10), 4).tolist(), evenly_spread(range(3), 4).tolist()
        ([0, 2, 5, 7], [0, 1, 2])
    """
    if most < 1:
        raise ValueError(f"most: expected at least 1, got {most}.")
    indices = np.asarray(indices)
    return indices if len(indices) <= most else indices[len(indices) * np.arange(most) // most]
