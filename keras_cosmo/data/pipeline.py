"""From a database of maps to batches for training and evaluation."""

from collections.abc import Sequence

import numpy as np

from keras_cosmo.data.aligned_array import aligned_empty
from keras_cosmo.data.augmentation import Augmentation, square_symmetry
from keras_cosmo.data.database import Database
from keras_cosmo.data.step_pipeline import ALL_ROWS, ORDER_STREAM, StepPipeline

PARAMETERS = "parameters"
# First word of the seed, beside that of the order.
AUGMENTATION_STREAM = 1

__all__ = ["AUGMENTATION_STREAM", "ORDER_STREAM", "MapPipeline"]


class MapPipeline(StepPipeline):
    """Batches of maps and their targets; the content of each step is a pure function of (seed, step).

    Every epoch goes through a fresh permutation of the maps, from which whole batches are taken, so that no map comes
    twice in an epoch. Training can therefore go on at any step exactly as if it had never stopped, without any saved
    state, and at most six batches are in memory whatever the size of the database.

    Args:
        database: Where the maps are.
        inputs: One field, or a tuple of fields that become the channels (a new last axis) of one input.
        targets: ``"parameters"`` (or None) for the parameters of each map's simulation, or one field or a tuple of
            fields as for ``inputs``.
        indices: Maps to use, without repeats.
        batch_size: Maps per step; more than there are maps is reduced to all of them, with a logged warning.
        seed: Seed of order and augmentation, not negative.
        augment: ``augment(maps, generator)`` from :mod:`keras_cosmo.data.augmentation`. It is applied to input maps
            and target maps with generators in the same state; parameters are left as they are. None: no augmentation.
        symmetries: For square maps, which symmetry of the square (0 to 7, `square_symmetry`) each entry of ``indices``
            is turned by before ``augment``, in training and in evaluation, target maps with their inputs. A map may
            then come several times, once in every symmetry. None: maps are taken as they are.

    Raises:
        ValueError: If a field or a map does not exist, or an argument is out of range.

    Example:
        >>> pipeline = MapPipeline(database, "density", None, range(100), 20, seed=1)  # doctest: +SKIP
        >>> for maps, parameters in pipeline.training(start_step=0, total_steps=10): ...  # doctest: +SKIP
    """

    def __init__(
        self,
        database: Database,
        inputs: str | tuple[str, ...],
        targets: str | tuple[str, ...] | None,
        indices: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int,
        augment: Augmentation | None = None,
        symmetries: Sequence[int] | np.ndarray | None = None,
    ):
        self.database = database
        self.inputs = inputs
        self.targets = PARAMETERS if targets is None else targets
        self.indices = np.array(indices)
        self.augment = augment
        self.symmetries = None if symmetries is None else np.array(symmetries)
        if self.indices.ndim != 1 or self.indices.size == 0 or self.indices.dtype.kind not in "iu":
            raise ValueError(
                f"indices: expected at least one map number, got {self.indices.dtype} of shape {self.indices.shape}. "
                f"Check the split."
            )
        if self.indices.min() < 0 or self.indices.max() >= database.n_maps:
            raise ValueError(
                f"indices: {database.path} has maps 0 to {database.n_maps - 1}, got {self.indices.min()} to "
                f"{self.indices.max()}. Use the split that was made for this database."
            )
        if self.symmetries is not None:
            self._check_symmetries()
        elif len(np.unique(self.indices)) != len(self.indices):
            raise ValueError("indices: expected every map once, got repeated maps. Remove the repeats.")
        super().__init__(len(self.indices), batch_size, seed)
        self.input_shape = self._shape("inputs", self.inputs)
        self.target_shape = self._shape("targets", self.targets)
        if self.symmetries is not None:
            for argument, source, shape in (("inputs", self.inputs, self.input_shape), ("targets", self.targets, None)):
                shape = self.target_shape if shape is None else shape
                if source != PARAMETERS and shape[0] != shape[1]:
                    raise ValueError(f"symmetries: expected square maps, got {argument} of shape {shape}.")

    def step_indices(self, step: int) -> np.ndarray:
        """Maps of one training step, ``(batch_size,)``."""
        return self.indices[self._positions(step)]

    def load(self, step: int, rows: slice = ALL_ROWS) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of one training step, or of some rows of it, float32, as NumPy arrays."""
        maps, targets = self._pairs(self._positions(step)[rows])
        if self.augment is not None:
            maps = self._augmented(maps, step, rows)
            if self.targets != PARAMETERS:
                targets = self._augmented(targets, step, rows)
        return maps, targets

    def _pairs(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets at places in ``indices``, turned by their symmetries."""
        pair = [self._read(source, self.indices[positions]) for source in (self.inputs, self.targets)]
        if self.symmetries is not None:
            for maps, source in zip(pair, (self.inputs, self.targets), strict=True):
                if source != PARAMETERS:
                    for row, symmetry in enumerate(self.symmetries[positions]):
                        maps[row] = square_symmetry(maps[row], int(symmetry)).copy()
        return tuple(pair)

    def _check_symmetries(self) -> None:
        if self.symmetries.shape != self.indices.shape or self.symmetries.dtype.kind not in "iu":
            raise ValueError(
                f"symmetries: expected one integer per entry of indices, shape {self.indices.shape}, got "
                f"{self.symmetries.dtype} of shape {self.symmetries.shape}."
            )
        if self.symmetries.min() < 0 or self.symmetries.max() > 7:
            raise ValueError(f"symmetries: expected 0 to 7, got {self.symmetries.min()} to {self.symmetries.max()}.")
        if len(np.unique(8 * self.indices.astype(np.int64) + self.symmetries)) != len(self.indices):
            raise ValueError("symmetries: expected every map in every symmetry once at most, got repeats.")

    def _augmented(self, maps: np.ndarray, step: int, rows: slice) -> np.ndarray:
        return self._transformed(maps, [AUGMENTATION_STREAM, int(self.seed), int(step)], rows)

    def _transformed(self, maps: np.ndarray, key: list[int], rows: slice) -> np.ndarray:
        """Rows of a batch, augmented with the random numbers that belong to them."""
        batch = maps
        if rows != ALL_ROWS:
            # What is drawn depends on the size of the batch. Zeros in place of the maps of others cost next to nothing.
            batch = np.zeros((self.batch_size, *maps.shape[1:]), maps.dtype)
            batch[rows] = maps
        result = self.augment(batch, np.random.default_rng(key))
        if result.shape != batch.shape:
            raise ValueError(f"augment: expected maps of shape {batch.shape} back, got {result.shape}.")
        return np.ascontiguousarray(result[rows], np.float32)

    def _read(self, source: str | tuple[str, ...], indices: np.ndarray) -> np.ndarray:
        if source == PARAMETERS:
            return self.database.targets(indices).astype(np.float32)
        if isinstance(source, str):
            return self.database.read(source, indices, check_finite=True)
        maps = aligned_empty((len(indices), *self.database.fields[source[0]].shape, len(source)))
        for channel, field in enumerate(source):
            maps[..., channel] = self._read(field, indices)
        return maps

    def _shape(self, argument: str, source: str | tuple[str, ...]) -> tuple[int, ...]:
        if source == PARAMETERS and argument == "targets":
            return (len(self.database.parameters),)
        fields = (source,) if isinstance(source, str) else tuple(source)
        unknown = [field for field in fields if field not in self.database.fields]
        if not fields or unknown:
            raise ValueError(
                f"{argument}: expected fields of {self.database.path}, which are {list(self.database.fields)}, got "
                f"{source!r}. Correct the name."
            )
        shapes = {field: self.database.fields[field].shape for field in fields}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"{argument}: expected fields of one shape to stack as channels, got {shapes}.")
        shape = shapes[fields[0]]
        return shape if isinstance(source, str) else (*shape, len(fields))
