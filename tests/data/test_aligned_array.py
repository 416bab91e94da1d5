import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.data.aligned_array import aligned_empty


@pytest.mark.parametrize("shape", [(), (1,), (3, 5, 7), (200, 33)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_begins_on_a_boundary(shape, dtype):
    for _ in range(5):
        array = aligned_empty(shape, dtype)
        assert (array.shape, array.dtype, array.ctypes.data % 64) == (shape, np.dtype(dtype), 0)
        array[...] = 3
        assert array.sum() == 3 * array.size


def test_becomes_a_tensor_where_it_is():
    made = []

    def make(step):
        array = aligned_empty((100, 100))
        array[...] = step
        made.append(array.ctypes.data)
        return array

    dataset = tf.data.Dataset.range(3).map(lambda step: tf.numpy_function(make, [step], tf.float32, stateful=False))
    tensors = list(dataset)
    assert sorted(np.asarray(tensor).ctypes.data for tensor in tensors) == sorted(made)
    assert [tensor.numpy().mean() for tensor in tensors] == [0.0, 1.0, 2.0]
