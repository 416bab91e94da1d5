"""What all pipelines share: the order of the examples, and batches as tf.data datasets."""

import functools
import logging

import numpy as np
import tensorflow as tf

logger = logging.getLogger(__name__)

PARALLEL_CALLS = 4
PREFETCHED_BATCHES = 2
# First word of the seed, so that the order draws from a stream of its own.
ORDER_STREAM = 0
ALL_ROWS = slice(None)


class StepPipeline:
    """Base of pipelines whose batches are a pure function of (seed, step).

    Every epoch goes through a fresh permutation of the examples, from which whole batches are taken. Training can go on
    at any step exactly as if it had never stopped, without any saved state, and at most six batches are in memory.

    Several workers can share a step: each makes its own rows of the one batch that a single process would make.

    A subclass has ``input_shape`` and ``target_shape``, the shapes of one example, `load` for a step of training, and
    `_pairs` for given examples.

    Args:
        count: Number of examples.
        batch_size: Examples per step; more than there are is reduced to all of them, with a logged warning.
        seed: Seed of the order, not negative.

    Raises:
        ValueError: If an argument is out of range.
    """

    examples = "maps"
    """What one example is, in messages."""
    input_shape: tuple[int, ...]
    target_shape: tuple[int, ...]

    def __init__(self, count: int, batch_size: int, seed: int):
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ValueError(f"batch_size: expected a positive integer, got {batch_size!r}.")
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed: expected an integer >= 0, got {seed!r}.")
        if batch_size > count:
            logger.warning("batch_size %d is reduced to %d, the number of %s.", batch_size, count, self.examples)
        self.count = int(count)
        self.seed = seed
        self.batch_size = int(min(batch_size, count))
        self.steps_per_epoch = self.count // self.batch_size
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def __getstate__(self):
        # The cache of orders cannot be pickled, and need not be.
        return {name: value for name, value in self.__dict__.items() if name != "_order"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def load(self, step: int, rows: slice = ALL_ROWS) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of one training step, float32, as NumPy arrays.

        Args:
            step: Counted from the begin of the training.
            rows: Which rows of the batch to make; they are the same whatever other rows are made.
        """
        raise NotImplementedError

    def training(self, start_step: int, total_steps: int, part: int = 0, parts: int = 1) -> tf.data.Dataset:
        """Batches of steps ``start_step`` to ``total_steps - 1``, or one part of each.

        Args:
            start_step: First step, counted from the begin of the training.
            total_steps: Step at which the training ends.
            part: Which part of every batch, from 0.
            parts: Into how many parts of equal size, in the order of its rows, every batch is divided.

        Returns:
            Dataset of ``(inputs, targets)``, float32, with static shapes ``(batch_size // parts, *input_shape)`` and
            ``(batch_size // parts, *target_shape)``.

        Raises:
            ValueError: If not ``0 <= start_step <= total_steps``, or the batch cannot be divided like that.
        """
        if not 0 <= start_step <= total_steps:
            raise ValueError(
                f"start_step, total_steps: expected 0 <= start_step <= total_steps, got {start_step}, {total_steps}."
            )
        _check_part(part, parts)
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size: {self.batch_size} {self.examples} per step cannot be divided among {parts} workers. "
                f"Choose a multiple of {parts}."
            )
        if parts == 1:
            return self._dataset(range(start_step, total_steps), self.load, self.batch_size)
        size = self.batch_size // parts
        load = functools.partial(self.load, rows=slice(part * size, (part + 1) * size))
        return self._dataset(range(start_step, total_steps), load, size)

    def evaluation(self, batch_size: int | None = None, part: int = 0, parts: int = 1) -> tf.data.Dataset:
        """All examples once, in their given order, without augmentation; the last batch may be smaller.

        Args:
            batch_size: Examples per batch; None takes that of the training.
            part: From 0; only batches ``part``, ``part + parts``, ``part + 2 * parts`` and so on are made.
            parts: Among how many workers the batches, which are the same for any number, are dealt out.
        """
        _check_part(part, parts)
        size = self.batch_size if batch_size is None else int(batch_size)
        if size < 1:
            raise ValueError(f"batch_size: expected a positive integer, got {batch_size!r}.")

        def load(step: int) -> tuple[np.ndarray, np.ndarray]:
            stop = min((int(step) + 1) * size, self.count)
            return self._pairs(np.arange(int(step) * size, stop))

        batches, rest = divmod(self.count, size)
        return self._dataset(range(part, batches + bool(rest), parts), load, None if rest else size)

    def _pairs(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of the examples at given places in their order."""
        raise NotImplementedError

    def _dataset(self, steps: range, load, batch: int | None) -> tf.data.Dataset:
        def load_batch(step):
            # Declared stateless, which it is: a stateful function would lose its parallel calls under
            # tf.config.experimental.enable_op_determinism.
            inputs, targets = tf.numpy_function(load, [step], (tf.float32, tf.float32), stateful=False)
            return (
                tf.ensure_shape(inputs, (batch, *self.input_shape)),
                tf.ensure_shape(targets, (batch, *self.target_shape)),
            )

        options = tf.data.Options()
        options.deterministic = True
        dataset = tf.data.Dataset.range(steps.start, steps.stop, steps.step)
        dataset = dataset.map(load_batch, num_parallel_calls=PARALLEL_CALLS, deterministic=True)
        return dataset.prefetch(PREFETCHED_BATCHES).with_options(options)

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([ORDER_STREAM, int(self.seed), epoch]).permutation(self.count)

    def _positions(self, step: int) -> np.ndarray:
        """Places of the examples of one training step."""
        epoch, place = divmod(int(step), self.steps_per_epoch)
        return self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]


def _check_part(part, parts):
    if not 0 <= part < parts:
        raise ValueError(f"part, parts: expected 0 <= part < parts, got {part}, {parts}.")
