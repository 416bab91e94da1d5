"""Cutting three-dimensional light-cones and boxes into images.

Light-cones are cut along the line of sight (Gillet et al. 2019, section 2.2 and figure 2), boxes into slabs across it
(Villanueva-Domingo & Villaescusa-Navarro 2021, section III.1). One set of functions for what is simulated and for what
is read from files, so that a network trained on one sees the same geometry in the other. Pure NumPy.
"""

import numpy as np

PROJECTIONS = ("mean", "sum")
"""Ways to make one map of the cells of a slab."""


def slice_positions(n_cells: int, cell_size: float, *, slices: int = 5, spacing: float = 60.0) -> np.ndarray:
    """Cell indices of slices that are ``spacing`` apart, the first one at index 0.

    Args:
        n_cells: Cells across the sky along the axis normal to the slices.
        cell_size: Side of a cell in Mpc.
        slices: Number of slices (5 in Gillet et al. 2019, section 2.2).
        spacing: Distance between neighbouring slices in Mpc (60 in Gillet et al. 2019, section 2.2); rounded to
            the nearest whole cell.

    Returns:
        Integer array ``(slices,)``.

    Raises:
        TypeError: If ``slices`` is not an integer.
        ValueError: If an argument is not positive, if ``spacing`` rounds to less than one cell, or if the last
            slice would lie outside the cone.

    Example:
        >>> slice_positions(200, 1.5, slices=5, spacing=60.0).tolist()
        [0, 40, 80, 120, 160]
    """
    if isinstance(slices, bool) or not isinstance(slices, int | np.integer):
        raise TypeError(f"slices: expected an integer, got {slices!r}.")
    if slices < 1:
        raise ValueError(f"slices: expected at least 1, got {slices}.")
    if not cell_size > 0:
        raise ValueError(f"cell_size: expected a positive size in Mpc, got {cell_size}.")
    if not spacing > 0:
        raise ValueError(f"spacing: expected a positive distance in Mpc, got {spacing}.")
    positions = np.round(np.arange(slices) * (spacing / cell_size)).astype(int)
    if slices > 1 and np.diff(positions).min() < 1:
        raise ValueError(f"spacing: {spacing} Mpc is less than one cell of {cell_size} Mpc; slices would coincide.")
    if positions[-1] >= n_cells:
        most = 1 + int((n_cells - 1) * cell_size / spacing)
        raise ValueError(
            f"slices: {slices} slices {spacing} Mpc apart need {positions[-1] + 1} cells of {cell_size} Mpc across "
            f"the sky, but the cone has {n_cells}. Take at most {most} slices, or bring them closer together."
        )
    return positions


def sliced_shape(
    shape: tuple[int, int, int],
    cell_size: float,
    *,
    slices: int = 5,
    spacing: float = 60.0,
    parts: int = 2,
    axes: tuple[int, ...] = (0,),
) -> tuple[int, int, int]:
    """Shape of what :func:`slice_lightcone` returns, with every check and without reading the cone.

    Args:
        shape: Shape of the cone, ``(nx, ny, n_los)``.
        cell_size: Side of a cell in Mpc.
        slices: Slices per transverse axis.
        spacing: Distance between neighbouring slices in Mpc.
        parts: Images each slice is cut into across the sky.
        axes: Transverse axes normal to the slices: ``(0,)``, ``(1,)`` or ``(0, 1)``.

    Returns:
        ``(len(axes) * slices * parts, n_perpendicular // parts, n_los)``.

    Raises:
        TypeError: If ``slices`` or ``parts`` is not an integer.
        ValueError: If the cone is not three-dimensional, an argument is out of range, the cone is too small, or
            two axes would give images of different shapes.

    Example:
        >>> sliced_shape((200, 200, 2200), 1.5)
        (10, 100, 2200)
    """
    shape = tuple(int(size) for size in shape)
    if len(shape) != 3:
        raise ValueError(f"lightcone: expected three axes (nx, ny, line of sight), got shape {shape}.")
    if isinstance(parts, bool) or not isinstance(parts, int | np.integer):
        raise TypeError(f"parts: expected an integer, got {parts!r}.")
    axes = tuple(axes)
    if not axes or len(set(axes)) != len(axes) or not set(axes) <= {0, 1}:
        raise ValueError(
            f"axes: expected (0,), (1,) or (0, 1), got {axes}. Axis 2 is the line of sight and stays whole."
        )
    widths = []
    for axis in axes:
        slice_positions(shape[axis], cell_size, slices=slices, spacing=spacing)
        across = shape[1 - axis]
        if not 1 <= parts <= across:
            raise ValueError(f"parts: expected 1 to {across} (cells across the sky), got {parts}.")
        widths.append(across // parts)
    if len(set(widths)) > 1:
        raise ValueError(
            f"axes: a cone of shape {shape} gives images {widths[0]} and {widths[1]} cells wide; choose one axis."
        )
    return len(axes) * slices * parts, widths[0], shape[2]


def slice_lightcone(
    lightcone,
    cell_size: float,
    *,
    slices: int = 5,
    spacing: float = 60.0,
    parts: int = 2,
    axes: tuple[int, ...] = (0,),
) -> np.ndarray:
    """Images of a light-cone along the line of sight (Gillet et al. 2019, section 2.2 and figure 2).

    ``slices`` planes parallel to the line of sight are taken ``spacing`` apart and each is cut into ``parts``
    images across the sky. The paper takes 5 slices 60 Mpc apart, each halved: ten images of 100 x 2200 cells out
    of a cone of 200 x 200 x 2200. Images of one cone are correlated: split them by simulation.

    Args:
        lightcone: Array ``(nx, ny, n_los)``, line of sight last, or an open HDF5 dataset of that shape, of which
            only the slices are read.
        cell_size: Side of a cell in Mpc.
        slices: Slices per transverse axis.
        spacing: Distance between neighbouring slices in Mpc, rounded to whole cells.
        parts: Images each slice is cut into across the sky. Cells left over when the width is not a multiple of
            ``parts`` are dropped at the far end.
        axes: Transverse axes normal to the slices. ``(0, 1)`` doubles the number of images.

    Returns:
        float32 array ``(len(axes) * slices * parts, n_perpendicular // parts, n_los)``, ordered by axis, slice,
        part.

    Raises:
        TypeError: If ``slices`` or ``parts`` is not an integer.
        ValueError: As :func:`sliced_shape`.

    Example:
        >>> cone = np.zeros((20, 20, 30))
        >>> slice_lightcone(cone, 1.5, slices=2, spacing=15.0).shape
        (4, 10, 30)
    """
    shape = sliced_shape(lightcone.shape, cell_size, slices=slices, spacing=spacing, parts=parts, axes=axes)
    images = np.empty(shape, np.float32)
    row, width = 0, shape[1]
    for axis in axes:
        for position in slice_positions(lightcone.shape[axis], cell_size, slices=slices, spacing=spacing):
            plane = lightcone[int(position)] if axis == 0 else lightcone[:, int(position)]
            for part in range(parts):
                images[row] = plane[part * width : (part + 1) * width]
                row += 1
    return images


def slab_starts(n_cells: int, *, slabs: int = 20, slab_cells: int = 4) -> np.ndarray:
    """First cells of slabs that are spread evenly along the line of sight of a box.

    Args:
        n_cells: Cells along the line of sight.
        slabs: Number of slabs; it must divide ``n_cells``. The paper: 20 of a box of 200 cells, one every 10 cells.
        slab_cells: Cells that each slab is thick, at most the distance between slabs. The paper: 4, that is 6 Mpc.

    Returns:
        Integer array ``(slabs,)``.

    Raises:
        TypeError: If an argument is not an integer.
        ValueError: If an argument is less than 1, the box cannot be divided evenly, or the slabs would overlap.

    Example:
        >>> slab_starts(200, slabs=20, slab_cells=4).tolist()[:4]
        [0, 10, 20, 30]
    """
    for name, value in (("n_cells", n_cells), ("slabs", slabs), ("slab_cells", slab_cells)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name}: expected an integer, got {value!r}.")
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}.")
    if n_cells % slabs:
        divisors = [count for count in range(1, n_cells + 1) if n_cells % count == 0 and n_cells // count >= slab_cells]
        nearest = min(divisors, key=lambda count: abs(count - slabs)) if divisors else 1
        raise ValueError(
            f"slabs: a box of {n_cells} cells cannot be divided into {slabs} equal parts. Take {nearest} slabs."
        )
    if slab_cells > n_cells // slabs:
        raise ValueError(
            f"slab_cells: {slabs} slabs of {slab_cells} cells overlap in a box of {n_cells} cells. Take slabs of at "
            f"most {n_cells // slabs} cells, or fewer slabs."
        )
    return np.arange(slabs) * (n_cells // slabs)


def slice_box(box, *, slabs: int = 20, slab_cells: int = 4, projection: str = "mean") -> np.ndarray:
    """Maps of slabs of a box, projected along the line of sight (Villanueva-Domingo & Villaescusa-Navarro 2021, III.1).

    Maps of one box are correlated: split them by simulation.

    Args:
        box: Array ``(nx, ny, nz)``, line of sight last, or an open HDF5 dataset of that shape.
        slabs: Number of slabs, spread evenly; it must divide ``nz``. The paper: 20.
        slab_cells: Cells that each slab is thick. The paper: 4.
        projection: ``"mean"`` keeps the unit and the value of the field whatever the thickness; ``"sum"`` is what the
            public code of the paper does.

    Returns:
        float32 array ``(slabs, nx, ny)``.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If the box is not three-dimensional, the projection is unknown, or as :func:`slab_starts`.

    Example:
        >>> slice_box(np.ones((8, 8, 8)), slabs=2, slab_cells=4, projection="sum")[:, 0, 0].tolist()
        [4.0, 4.0]
    """
    if len(box.shape) != 3:
        raise ValueError(f"box: expected three axes (x, y, line of sight), got shape {tuple(box.shape)}.")
    if projection not in PROJECTIONS:
        raise ValueError(f"projection: expected one of {list(PROJECTIONS)}, got {projection!r}.")
    starts = slab_starts(int(box.shape[2]), slabs=slabs, slab_cells=slab_cells)
    maps = np.stack([np.sum(box[:, :, start : start + slab_cells], axis=-1, dtype=np.float64) for start in starts])
    return (maps / slab_cells if projection == "mean" else maps).astype(np.float32)
