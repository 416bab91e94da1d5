"""Transforms between physical maps and the units of a flow, with their Jacobians."""

import math

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

TRANSFORMS = {
    "none": (),
    "log10-minmax": ("low", "high"),
    "log10-standardise": ("mean", "standard_deviation"),
    "log10-logit": ("low", "high"),
}

# Pixels that are transformed at a time.
_BLOCK_PIXELS = 2**20


def map_transform(name: str, constants=(), dtype=tf.float32) -> tfp.bijectors.Bijector:
    """Bijector from the units of a flow (``forward``) to physical maps, pixel by pixel.

    With x the physical value and u that of the flow,

    - "none": ``u = x``;
    - "log10-minmax": ``u = (log10 x - low) / (high - low)``, the preparation of the paper's maps (as its public code
      has it: 0 at the smallest, 1 at the largest pixel);
    - "log10-standardise": ``u = (log10 x - mean) / standard_deviation``;
    - "log10-logit": ``u = log(v / (1 - v))`` with ``v = (log10 x - low) / (high - low)``: every map of the flow lies
      between ``10 ** low`` and ``10 ** high``.

    The Jacobian belongs to the bijector, so that densities of flows with different transforms are all densities of
    the physical map and can be compared.

    Args:
        name: One of the above.
        constants: The two numbers of the transform, in log10 of the physical unit; none for "none".
            `transform_constants` measures them on training maps.
        dtype: Of the constants. Defaults to float32.

    Raises:
        ValueError: If the name is unknown, the number of constants is wrong, or they are out of order.

    Example:
        >>> float(map_transform("log10-minmax", (2.0, 6.0)).inverse(1e4))
        0.5
    """
    constants = check_transform(name, constants)
    if name == "none":
        return tfp.bijectors.Identity()
    # 10 ** x = exp(x log 10)
    first, second = (tf.constant(constant * math.log(10.0), dtype) for constant in constants)
    if name == "log10-logit":
        return tfp.bijectors.Chain([tfp.bijectors.Exp(), tfp.bijectors.Sigmoid(low=first, high=second)])
    scale = second - first if name == "log10-minmax" else second
    return tfp.bijectors.Chain([tfp.bijectors.Exp(), tfp.bijectors.Shift(first), tfp.bijectors.Scale(scale)])


def transform_constants(name: str, maps, margin: float = 0.01, minimum: float = 0.0) -> tuple[float, ...]:
    """Constants of a transform from training maps, which are read once, some 8 MiB at a time.

    Args:
        name: As in `map_transform`.
        maps: Training maps in physical units, any shape: an array, an open HDF5 dataset, or what is read when it is
            sliced, such as `keras_cosmo.data.stored_maps.StoredMaps`. Memory does not depend on their number.
        margin: For "log10-logit", by which fraction of their range in log10 the bounds lie beyond the smallest and
            the largest pixel, which would otherwise become infinite. Defaults to 0.01.
        minimum: Pixels below it count as it. Defaults to 0, which leaves all that have a logarithm as they are.

    Raises:
        ValueError: If the name is unknown, ``minimum`` is negative, or the maps are not positive and finite or
            constant.
    """
    _check_name(name)
    if not 0 <= minimum < math.inf:
        raise ValueError(f"`minimum`: expected a finite number of at least 0, got {minimum!r}.")
    if name == "none":
        return ()
    bad = size = count = 0
    mean = squares = 0.0
    low, high = math.inf, -math.inf
    for block in _blocks(maps):
        size += block.size
        with np.errstate(invalid="ignore"):
            block = np.where(block < minimum, minimum, block)
            bad += int(np.count_nonzero(~(np.isfinite(block) & (block > 0))))
        # What is wrong is counted in all maps; nothing else matters any more.
        if bad or not block.size:
            continue
        logarithm = np.log10(block.astype(np.float64))
        low, high = min(low, float(logarithm.min())), max(high, float(logarithm.max()))
        # The moments of all blocks together (Chan, Golub & LeVeque 1983).
        block_mean = float(logarithm.mean())
        difference, together = block_mean - mean, count + block.size
        squares += float(np.square(logarithm - block_mean).sum()) + difference**2 * count * block.size / together
        mean += difference * block.size / together
        count = together
    if bad or not size:
        raise ValueError(
            f"`maps`: {bad} of {size} pixels are not finite and positive, of which log10 cannot be taken. Leave "
            f'such maps out, add a small constant, or use the transform "none".'
        )
    if not low < high:
        raise ValueError(f"`maps`: all {size} pixels equal {10**low:g}; they cannot be normalised.")
    if name == "log10-standardise":
        return mean, math.sqrt(squares / count)
    if name == "log10-logit":
        low, high = low - margin * (high - low), high + margin * (high - low)
    return low, high


def check_transform(name: str, constants) -> tuple[float, ...]:
    """The constants as plain floats, or ``ValueError``."""
    _check_name(name)
    expected = TRANSFORMS[name]
    values = tuple(constants) if hasattr(constants, "__iter__") and not isinstance(constants, str) else (constants,)
    try:
        values = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        values = (math.nan,)
    if len(values) != len(expected) or not all(map(math.isfinite, values)):
        what = f"({', '.join(expected)}), finite numbers in log10 of the maps' unit" if expected else "()"
        raise ValueError(f"`transform_constants`: {name!r} expects {what}, got {constants!r}.")
    if expected == ("low", "high") and not values[0] < values[1]:
        raise ValueError(f"`transform_constants`: expected low < high, got {values}.")
    if expected == ("mean", "standard_deviation") and values[1] <= 0:
        raise ValueError(f"`transform_constants`: expected a positive standard deviation, got {values[1]}.")
    return values


def _blocks(maps):
    """Arrays of bounded size that hold all maps."""
    if not hasattr(maps, "shape"):
        maps = np.asarray(maps)
    if not maps.shape:
        yield np.asarray(maps)
        return
    step = max(1, _BLOCK_PIXELS // max(1, math.prod(maps.shape[1:])))
    for start in range(0, maps.shape[0], step):
        yield np.asarray(maps[start : start + step])


def _check_name(name):
    if name not in TRANSFORMS:
        raise ValueError(f"`transform`: expected one of {list(TRANSFORMS)}, got {name!r}.")
