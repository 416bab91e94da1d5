import numpy as np
import pytest

from keras_cosmo.data.aligned_array import aligned_empty


@pytest.mark.parametrize("shape", [(), (1,), (3, 5, 7), (200, 33)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_begins_on_a_boundary(shape, dtype):
    for _ in range(5):
        array = aligned_empty(shape, dtype)
        assert (array.shape, array.dtype, array.ctypes.data % 64) == (shape, np.dtype(dtype), 0)
        array[...] = 3
        assert array.sum() == 3 * array.size
