"""From a database to batches for training and evaluation, as tf.data datasets."""

import functools
import logging
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_cosmo.data.augmentation import Augmentation, square_symmetry
from keras_cosmo.data.database import Database

logger = logging.getLogger(__name__)

PARAMETERS = "parameters"
PARALLEL_CALLS = 4
PREFETCHED_BATCHES = 2
# First words of the seeds, so that order and augmentation draw from different streams.
ORDER_STREAM, AUGMENTATION_STREAM = 0, 1


class MapPipeline:
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
        self.seed = seed
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
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ValueError(f"batch_size: expected a positive integer, got {batch_size!r}.")
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed: expected an integer >= 0, got {seed!r}.")
        if batch_size > len(self.indices):
            logger.warning("batch_size %d is reduced to %d, the number of maps.", batch_size, len(self.indices))
        self.batch_size = int(min(batch_size, len(self.indices)))
        self.steps_per_epoch = len(self.indices) // self.batch_size
        self.input_shape = self._shape("inputs", self.inputs)
        self.target_shape = self._shape("targets", self.targets)
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)
        if self.symmetries is not None:
            for argument, source, shape in (("inputs", self.inputs, self.input_shape), ("targets", self.targets, None)):
                shape = self.target_shape if shape is None else shape
                if source != PARAMETERS and shape[0] != shape[1]:
                    raise ValueError(f"symmetries: expected square maps, got {argument} of shape {shape}.")

    def step_indices(self, step: int) -> np.ndarray:
        """Maps of one training step, ``(batch_size,)``."""
        return self.indices[self._positions(step)]

    def load(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of one training step, float32, as NumPy arrays."""
        maps, targets = self._pairs(self._positions(step))
        if self.augment is not None:
            maps = self._augmented(maps, step)
            if self.targets != PARAMETERS:
                targets = self._augmented(targets, step)
        return maps, targets

    def training(self, start_step: int, total_steps: int) -> tf.data.Dataset:
        """Batches of steps ``start_step`` to ``total_steps - 1``.

        Args:
            start_step: First step, counted from the begin of the training.
            total_steps: Step at which the training ends.

        Returns:
            Dataset of ``(inputs, targets)``, float32, with static shapes ``(batch_size, *input_shape)`` and
            ``(batch_size, *target_shape)``.

        Raises:
            ValueError: If not ``0 <= start_step <= total_steps``.
        """
        if not 0 <= start_step <= total_steps:
            raise ValueError(
                f"start_step, total_steps: expected 0 <= start_step <= total_steps, got {start_step}, {total_steps}."
            )
        return self._dataset(start_step, total_steps, self.load, self.batch_size)

    def evaluation(self, batch_size: int | None = None) -> tf.data.Dataset:
        """All maps once, in the order of ``indices``, without augmentation; the last batch may be smaller.

        Args:
            batch_size: Maps per batch; None takes that of the training.
        """
        size = self.batch_size if batch_size is None else int(batch_size)
        if size < 1:
            raise ValueError(f"batch_size: expected a positive integer, got {batch_size!r}.")

        def load(step: int) -> tuple[np.ndarray, np.ndarray]:
            stop = min((int(step) + 1) * size, len(self.indices))
            return self._pairs(np.arange(int(step) * size, stop))

        batches, rest = divmod(len(self.indices), size)
        return self._dataset(0, batches + bool(rest), load, None if rest else size)

    def _dataset(self, start: int, stop: int, load, batch: int | None) -> tf.data.Dataset:
        def load_batch(step):
            # Declared stateless, which it is: a stateful function would lose its parallel calls under
            # tf.config.experimental.enable_op_determinism.
            maps, targets = tf.numpy_function(load, [step], (tf.float32, tf.float32), stateful=False)
            return (
                tf.ensure_shape(maps, (batch, *self.input_shape)),
                tf.ensure_shape(targets, (batch, *self.target_shape)),
            )

        options = tf.data.Options()
        options.deterministic = True
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        dataset = tf.data.Dataset.range(start, stop)
        dataset = dataset.map(load_batch, num_parallel_calls=PARALLEL_CALLS, deterministic=True)
        return dataset.prefetch(PREFETCHED_BATCHES).with_options(options)

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([ORDER_STREAM, int(self.seed), epoch]).permutation(len(self.indices))

    def _positions(self, step: int) -> np.ndarray:
        """Places in ``indices`` of one training step."""
        epoch, place = divmod(int(step), self.steps_per_epoch)
        return self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

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

    def _augmented(self, maps: np.ndarray, step: int) -> np.ndarray:
        generator = np.random.default_rng([AUGMENTATION_STREAM, int(self.seed), int(step)])
        result = self.augment(maps, generator)
        if result.shape != maps.shape:
            raise ValueError(f"augment: expected maps of shape {maps.shape} back, got {result.shape}.")
        return np.ascontiguousarray(result, np.float32)

    def _read(self, source: str | tuple[str, ...], indices: np.ndarray) -> np.ndarray:
        if source == PARAMETERS:
            return self.database.targets(indices).astype(np.float32)
        if isinstance(source, str):
            return self.database.read(source, indices, check_finite=True)
        return np.stack([self._read(field, indices) for field in source], axis=-1)

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
