"""Random transformations of batches of maps that leave their statistics unchanged.

Every function takes maps ``(batch, height, width[, channels])`` and a NumPy generator, returns new maps of the same
shape and dtype, and draws from the generator only what the shape of the batch asks for. Two sets of maps of equal
shape, transformed by generators in the same state, are therefore transformed alike, as inputs and targets must be.
"""

from collections.abc import Callable

import numpy as np

from keras_cosmo.data.aligned_array import aligned_empty

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def augment_lightcones(maps: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Flip half of the light-cones across the sky, and roll each by a random number of cells across the sky.

    Only for maps that are periodic across the sky (axis 1), that is whole boxes rather than halves of them: rolling
    any other map puts an edge into it. The line of sight (last axis of a map) is never touched, since it is a time.

    Args:
        maps: ``(batch, n_perp, n_los)``.
        generator: Source of the random numbers.
    """
    _check(maps, "augment_lightcones")
    flips = generator.random(len(maps)) < 0.5
    shifts = generator.integers(0, maps.shape[1], len(maps))
    result = aligned_empty(maps.shape, maps.dtype)
    for out, one, flip, shift in zip(result, maps, flips, shifts, strict=True):
        across = one[::-1] if flip else one
        out[shift:] = across[: len(one) - shift]
        out[:shift] = across[len(one) - shift :]
    return result


def flip_lightcones(maps: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Flip half of the light-cones across the sky (axis 1); valid for any light-cone.

    Args:
        maps: ``(batch, n_perp, n_los)``.
        generator: Source of the random numbers.
    """
    _check(maps, "flip_lightcones")
    flips = generator.random(len(maps)) < 0.5
    result = aligned_empty(maps.shape, maps.dtype)
    result[...] = maps
    result[flips] = maps[flips, ::-1]
    return result


def augment_squares(maps: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Apply to each map one of the 8 symmetries of the square (the dihedral group D4), as exact pixel permutations.

    Args:
        maps: ``(batch, size, size[, channels])``.
        generator: Source of the random numbers.

    Raises:
        ValueError: If the maps are not square.
    """
    _check(maps, "augment_squares")
    if maps.shape[1] != maps.shape[2]:
        raise ValueError(f"augment_squares: expected square maps, got shape {maps.shape}. Cut them to squares.")
    result = aligned_empty(maps.shape, maps.dtype)
    for out, one, element in zip(result, maps, generator.integers(0, 8, len(maps)), strict=True):
        out[...] = square_symmetry(one, int(element))
    return result


def shift_periodic(maps: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Roll each map by random numbers of cells along both axes; only for maps that are periodic along both.

    Args:
        maps: ``(batch, height, width[, channels])``.
        generator: Source of the random numbers.
    """
    _check(maps, "shift_periodic")
    shifts = generator.integers(0, maps.shape[1:3], (len(maps), 2))
    result = aligned_empty(maps.shape, maps.dtype)
    for out, one, shift in zip(result, maps, shifts, strict=True):
        out[...] = np.roll(one, shift, axis=(0, 1))
    return result


def augment_periodic_squares(maps: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """`augment_squares`, then `shift_periodic`: all symmetries of a square periodic map.

    Args:
        maps: ``(batch, size, size[, channels])``.
        generator: Source of the random numbers.

    Raises:
        ValueError: If the maps are not square.
    """
    return shift_periodic(augment_squares(maps, generator), generator)


def square_symmetry(image: np.ndarray, element: int) -> np.ndarray:
    """One of the 8 symmetries of the square: ``element % 4`` quarter turns, mirrored from element 4 on.

    Args:
        image: ``(size, size[, channels])``.
        element: 0 (identity) to 7.

    Raises:
        ValueError: If there is no such element.
    """
    if not 0 <= element < 8:
        raise ValueError(f"element: expected 0 to 7, got {element}.")
    turned = np.rot90(image, element % 4)
    return turned[:, ::-1] if element >= 4 else turned


def _check(maps: np.ndarray, name: str) -> None:
    if maps.ndim < 3:
        raise ValueError(f"{name}: expected maps of shape (batch, height, width[, channels]), got {maps.shape}.")
