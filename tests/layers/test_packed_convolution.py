import pytest

from keras_cosmo.layers.packed_convolution import filter_pixels, input_pixels


@pytest.mark.parametrize(
    ("channels", "of_float32", "of_bfloat16"), [(1, 8, 8), (3, 4, 8), (8, 2, 4), (16, 1, 2), (40, 1, 1)]
)
def test_pixels_fill_a_register(channels, of_float32, of_bfloat16):
    assert filter_pixels(channels, "float32") == input_pixels(channels, 2, "float32") == of_float32
    assert filter_pixels(channels, "bfloat16") == of_bfloat16
    assert input_pixels(channels, 2, "bfloat16") == input_pixels(channels, 1, "float32") == 1
