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


def transform_constants(name: str, maps, margin: float = 0.01) -> tuple[float, ...]:
    """Constants of a transform from training maps.

    Args:
        name: As in `map_transform`.
        maps: Training maps in physical units, any shape.
        margin: For "log10-logit", by which fraction of their range in log10 the bounds lie beyond the smallest and
            the largest pixel, which would otherwise become infinite. Defaults to 0.01.

    Raises:
        ValueError: If the name is unknown, or the maps are not positive and finite or constant.
    """
    _check_name(name)
    if name == "none":
        return ()
    maps = np.asarray(maps)
    bad = int(np.count_nonzero(~(np.isfinite(maps) & (maps > 0))))
    if bad or not maps.size:
        raise ValueError(
            f"`maps`: {bad} of {maps.size} pixels are not finite and positive, of which log10 cannot be taken. Leave "
            f'such maps out, add a small constant, or use the transform "none".'
        )
    logarithm = np.log10(maps.astype(np.float64))
    low, high = float(logarithm.min()), float(logarithm.max())
    if not low < high:
        raise ValueError(f"`maps`: all {maps.size} pixels equal {10**low:g}; they cannot be normalised.")
    if name == "log10-standardise":
        return float(logarithm.mean()), float(logarithm.std())
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


def _check_name(name):
    if name not in TRANSFORMS:
        raise ValueError(f"`transform`: expected one of {list(TRANSFORMS)}, got {name!r}.")
