"""Maps of a box that is larger than it should be in memory."""

import pathlib
from collections.abc import Callable

import numpy as np

from keras_cosmo.slicing import slice_box

PIECE_BYTES = 32 * 2**20


def slice_in_pieces(
    read: Callable[[int, int], np.ndarray], shape: tuple[int, int, int], path: pathlib.Path, **slabs
) -> np.ndarray:
    """What `keras_cosmo.slicing.slice_box` gives, from pieces of the box along its first axis, each read once.

    A slab is a few cells of every row along the line of sight, so that reading slab by slab would read nearly all of a
    file for each of them.

    Args:
        read: Called as ``read(start, stop)``; returns ``(stop - start, ny, nz)`` of the box.
        shape: ``(nx, ny, nz)`` of the box.
        path: File to name in errors.
        **slabs: ``slabs``, ``slab_cells`` and ``projection``.

    Returns:
        float32 array ``(slabs, nx, ny)``.

    Raises:
        ValueError: If the slabs do not fit; names the file.
    """
    rows = max(1, PIECE_BYTES // (4 * shape[1] * shape[2]))
    parts = []
    for start in range(0, shape[0], rows):
        piece = read(start, min(start + rows, shape[0]))
        try:
            parts.append(slice_box(piece, **slabs))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return np.concatenate(parts, axis=1)
