"""Checks of constructor arguments, shared by the networks."""

import itertools
import math
import numbers
import random

import keras


def finite(argument: str, value, positive: bool = False) -> float:
    """The value as a plain float, which JSON can hold."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (positive and number <= 0):
        expected = "positive, finite" if positive else "finite"
        raise ValueError(f"`{argument}`: expected a {expected} number, got {value!r}. Measure it on the training data.")
    return number


def fraction(argument: str, value) -> float:
    """A fraction from 0 up to, but not including, 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ValueError(f"`{argument}`: expected a fraction from 0 up to, but not including, 1, got {value!r}.")
    return float(value)


def positive_integer(argument: str, value) -> int:
    """An integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{argument}`: expected an integer of at least 1, got {value!r}.")
    return int(value)


def positive_integers(argument: str, values) -> tuple[int, ...]:
    """At least one integer, each at least 1."""
    if isinstance(values, str) or not hasattr(values, "__len__") or not len(values):
        raise ValueError(f"`{argument}`: expected a sequence of integers of at least 1, got {values!r}.")
    return tuple(positive_integer(argument, value) for value in values)


def odd_integer(argument: str, value) -> int:
    """An odd integer of at least 1."""
    value = positive_integer(argument, value)
    if value % 2 == 0:
        raise ValueError(f"`{argument}`: expected an odd number of cells, so that a filter has a centre, got {value}.")
    return value


def finite_per_axis(argument: str, values, count: int, what: str, positive: bool = False) -> tuple[float, ...]:
    """``count`` plain floats, one per ``what``; one number is taken for all of them."""
    values = _per_axis(argument, values, count, what)
    return tuple(finite(argument, value, positive) for value in values)


def one_of(argument: str, value, choices: tuple) -> str:
    """One of the listed words."""
    if value not in choices:
        raise ValueError(f"`{argument}`: expected one of {list(choices)}, got {value!r}.")
    return value


def divisible_shape(argument: str, map_shape, halvings: int, *, what: str, remedy: str) -> tuple:
    """``(height, width)`` as plain integers or None; ``ValueError`` where a side is not divisible by ``2**halvings``.

    Args:
        argument: Name of the argument, for messages.
        map_shape: ``(height, width)`` in cells, None for any size.
        halvings: How often a network halves the maps.
        what: What halves them, such as ``"3 poolings by 2"``.
        remedy: What else than cutting the maps would help, such as ``"use another number of `widths`"``.
    """
    if not hasattr(map_shape, "__len__") or isinstance(map_shape, str) or len(map_shape) != 2:
        raise ValueError(f"`{argument}`: expected (height, width) in cells, None for any size, got {map_shape!r}.")
    sides = tuple(None if side is None else positive_integer(argument, side) for side in map_shape)
    factor = 2**halvings
    for axis, side in zip(("height", "width"), sides, strict=True):
        if side is not None and side % factor:
            below = side // factor * factor
            nearest = f"{below} and {below + factor}" if below else f"{factor}"
            raise ValueError(
                f"`{argument}`: with {what} the {axis} must be divisible by {factor} cells, got {side}; "
                f"nearest: {nearest}. Cut the maps, or {remedy}."
            )
    return sides


def policy_config(policy):
    """A dtype policy by its name, or as Keras serialises it where it is more than a name."""
    if type(policy) is keras.dtype_policies.DTypePolicy:
        return policy.name
    return keras.dtype_policies.serialize(policy)


def non_negative(argument: str, value) -> float:
    """A finite number of at least 0, such as the weight of a term of a loss."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < math.inf:
        raise ValueError(f"`{argument}`: expected a finite number of at least 0, got {value!r}.")
    return float(value)


def non_negative_per_axis(argument: str, values, count: int, what: str) -> tuple[float, ...]:
    """``count`` finite numbers of at least 0, one per ``what``; one number is taken for all of them."""
    values = _per_axis(argument, values, count, what)
    return tuple(non_negative(argument, value) for value in values)


def layer_names(argument: str, values) -> tuple[str, ...]:
    """At least one name, all different, each fit to be part of a layer's name."""
    names = () if isinstance(values, str) or not hasattr(values, "__iter__") else tuple(values)
    if not names or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise ValueError(
            f'`{argument}`: expected names of letters, digits and "_" such as ("halpha", "oiii"), got {values!r}.'
        )
    if len(set(names)) < len(names):
        raise ValueError(f"`{argument}`: expected different names, got {values!r}.")
    return names


def layer_seeds(seed):
    """Without end, one seed per layer: different integers that follow from ``seed``, or None if it is None."""
    if seed is None:
        return itertools.repeat(None)
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise ValueError(f"`seed`: expected None or an integer of at least 0, got {seed!r}.")
    draw = random.Random(int(seed))
    return iter(lambda: draw.randrange(2**31), None)


def _per_axis(argument, values, count, what):
    if not hasattr(values, "__len__") or getattr(values, "ndim", 1) == 0:
        values = [values] * count
    if len(values) != count:
        raise ValueError(f"`{argument}`: expected one number, or {count} (one per {what}), got {len(values)}.")
    return values
