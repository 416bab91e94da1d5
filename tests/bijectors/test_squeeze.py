import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.bijectors.squeeze import Squeeze


@pytest.mark.parametrize("factor", [2, 4])
def test_against_autodiff(check_bijector, factor):
    maps = np.random.default_rng(0).standard_normal((2, 4, 8, 2))
    _, log_det = check_bijector(lambda: Squeeze(factor), maps, 3)
    np.testing.assert_array_equal(log_det, 0.0)


def test_a_square_becomes_the_channels_of_its_pixel():
    maps = np.arange(16.0).reshape(1, 4, 4, 1)
    squeezed = Squeeze().inverse(maps).numpy()
    np.testing.assert_array_equal(squeezed[0, 1, 0], [8.0, 9.0, 12.0, 13.0])


def test_shapes():
    squeeze = Squeeze()
    assert squeeze.inverse_event_shape([8, 12, 3]) == [4, 6, 12]
    assert squeeze.forward_event_shape([4, 6, 12]) == [8, 12, 3]
    np.testing.assert_array_equal(squeeze.inverse_event_shape_tensor([8, 12, 3]), [4, 6, 12])
    np.testing.assert_array_equal(squeeze.forward_event_shape_tensor([4, 6, 12]), [8, 12, 3])


def test_errors():
    with pytest.raises(ValueError, match=r"height and width must be divisible by 2, got 3 x 4"):
        Squeeze().inverse(tf.zeros((1, 3, 4, 1)))
    with pytest.raises(ValueError, match=r"6 channels must be divisible by 4"):
        Squeeze().forward(tf.zeros((1, 2, 2, 6)))
