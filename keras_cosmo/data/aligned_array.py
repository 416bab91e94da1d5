"""Arrays that TensorFlow takes over without a copy."""

import numpy as np

# Bytes; what TensorFlow asks of the memory of a tensor.
ALIGNMENT = 64


def aligned_empty(shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
    """Uninitialised array on a boundary of 64 bytes; others are copied when they become tensors.

    Example:
        >>> aligned_empty((3, 5)).ctypes.data % 64
        0
    """
    dtype = np.dtype(dtype)
    size = dtype.itemsize * int(np.prod(shape))
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
