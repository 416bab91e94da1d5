"""Padding of maps that wrap around."""

import numbers

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cosmo")
class PeriodicPadding2D(keras.layers.Layer):
    """Pads maps with the cells from the opposite side.

    The faces of a simulation box with periodic boundaries wrap around, so a convolution of a map padded like
    this and without padding of its own sees at the border what is really there, not zeros.

    Args:
        padding: Cells to add, as an integer (every side), ``(height, width)`` (both ends of each axis) or
            ``((top, bottom), (left, right))``. Defaults to 1.
        kwargs: Of `keras.layers.Layer`, such as ``name`` and ``dtype``.

    Input shape:
        ``(batch, height, width, channels)``, height and width not smaller than the padding on either end; they
        may be unknown when a graph is built.

    Output shape:
        ``(batch, height + top + bottom, width + left + right, channels)``.

    Raises:
        ValueError: If ``padding`` is not of one of the forms above, or the map is smaller than the padding.

    Example:
        >>> keras.ops.squeeze(PeriodicPadding2D((0, 1))(keras.ops.reshape([1.0, 2.0, 3.0], (1, 1, 3, 1)))).numpy()
        array([3., 1., 2., 3., 1.], dtype=float32)
    """

    def __init__(self, padding=1, **kwargs):
        super().__init__(**kwargs)
        self.padding = _pairs(padding)

    def call(self, inputs):
        """The map with its wrapped margins."""
        for axis, (before, after) in enumerate(self.padding, start=1):
            size = inputs.shape[axis]
            if size is not None and size < max(before, after):
                raise ValueError(
                    f"`inputs`: expected maps of at least {max(before, after)} cells along axis {axis} to wrap around, "
                    f"got shape {tuple(inputs.shape)}. Use larger maps or less padding."
                )
            parts = [inputs]
            if before:
                parts.insert(0, inputs[:, -before:] if axis == 1 else inputs[:, :, -before:])
            if after:
                parts.append(inputs[:, :after] if axis == 1 else inputs[:, :, :after])
            if len(parts) > 1:
                inputs = ops.concatenate(parts, axis=axis)
        return inputs

    def compute_output_shape(self, input_shape):
        """Shape after padding, None where unknown."""
        batch, *sides, channels = input_shape
        padded = [
            None if side is None else side + sum(margins) for side, margins in zip(sides, self.padding, strict=True)
        ]
        return (batch, *padded, channels)

    def get_config(self):
        """Constructor arguments as plain values."""
        return {**super().get_config(), "padding": self.padding}


def _pairs(padding):
    """The padding as ``((top, bottom), (left, right))``."""
    pairs = (padding, padding) if isinstance(padding, numbers.Integral) else padding
    if isinstance(pairs, (tuple, list)) and len(pairs) == 2:
        pairs = tuple(
            (pair, pair) if isinstance(pair, numbers.Integral) else tuple(pair) if hasattr(pair, "__len__") else ()
            for pair in pairs
        )
        cells = [cell for pair in pairs for cell in pair]
        if len(cells) == 4 == 2 * len(pairs[0]) and all(_is_count(cell) for cell in cells):
            return tuple((int(before), int(after)) for before, after in pairs)
    raise ValueError(
        "`padding`: expected a number of cells, (height, width) or ((top, bottom), (left, right)), of integers of at "
        f"least 0, got {padding!r}."
    )


def _is_count(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 0
