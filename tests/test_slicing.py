import numpy as np
import pytest

from keras_cosmo.slicing import slice_lightcone, slice_positions, sliced_shape


def coordinates_cone(shape):
    """A cone whose every cell holds its own coordinates: 10000 x + 100 y + line-of-sight index."""
    x, y, z = np.indices(shape)
    return 10000.0 * x + 100.0 * y + z


def test_paper_geometry():
    assert slice_positions(200, 1.5).tolist() == [0, 40, 80, 120, 160]
    assert sliced_shape((200, 200, 2200), 1.5) == (10, 100, 2200)


def test_every_image_holds_the_right_cells():
    cone = coordinates_cone((6, 6, 7))
    images = slice_lightcone(cone, 1.5, slices=2, spacing=4.5, parts=2, axes=(0, 1))
    assert images.shape == (8, 3, 7)
    assert images.dtype == np.float32
    expected = [
        cone[0, :3], cone[0, 3:], cone[3, :3], cone[3, 3:],
        cone[:3, 0], cone[3:, 0], cone[:3, 3], cone[3:, 3],
    ]  # fmt: skip
    np.testing.assert_array_equal(images, expected)


def test_line_of_sight_stays_last_and_whole():
    cone = coordinates_cone((4, 4, 9))
    images = slice_lightcone(cone, 1.0, slices=1, parts=1, axes=(1,))
    np.testing.assert_array_equal(images[0] % 100, np.tile(np.arange(9), (4, 1)))


def test_leftover_cells_are_dropped_at_the_far_end():
    cone = coordinates_cone((7, 7, 3))
    images = slice_lightcone(cone, 1.0, slices=1, parts=2)
    np.testing.assert_array_equal(images, [cone[0, :3], cone[0, 3:6]])


def test_only_the_slices_are_read():
    class Recorder:
        shape = (8, 8, 4)
        keys = ()

        def __getitem__(self, key):
            self.keys = (*self.keys, key)
            return np.zeros((8, 4))

    recorder = Recorder()
    slice_lightcone(recorder, 1.0, slices=2, spacing=4.0, axes=(0, 1))
    assert recorder.keys == (0, 4, (slice(None), 0), (slice(None), 4))


def test_spacing_is_rounded_to_whole_cells():
    assert slice_positions(50, 1.5, slices=3, spacing=20.0).tolist() == [0, 13, 27]


@pytest.mark.parametrize(
    ("shape", "arguments", "error", "message"),
    [
        ((50, 50, 9), {}, ValueError, "5 slices 60.0 Mpc apart need 161 cells .* has 50. Take at most 2 slices"),
        ((50, 50, 9), {"slices": 0}, ValueError, "slices: expected at least 1, got 0"),
        ((50, 50, 9), {"slices": 1.5}, TypeError, "slices: expected an integer, got 1.5"),
        ((50, 50, 9), {"slices": True}, TypeError, "slices: expected an integer"),
        ((50, 50, 9), {"slices": 2, "spacing": -1}, ValueError, "spacing: expected a positive distance"),
        ((50, 50, 9), {"slices": 2, "spacing": 0.1}, ValueError, "less than one cell"),
        ((50, 50, 9), {"slices": 1, "parts": 0}, ValueError, "parts: expected 1 to 50"),
        ((50, 50, 9), {"slices": 1, "parts": 51}, ValueError, "parts: expected 1 to 50"),
        ((50, 50, 9), {"slices": 1, "parts": 2.0}, TypeError, "parts: expected an integer"),
        ((50, 50, 9), {"slices": 1, "axes": (2,)}, ValueError, "Axis 2 is the line of sight"),
        ((50, 50, 9), {"slices": 1, "axes": ()}, ValueError, "axes: expected"),
        ((50, 50, 9), {"slices": 1, "axes": (0, 0)}, ValueError, "axes: expected"),
        ((50, 40, 9), {"slices": 1, "axes": (0, 1)}, ValueError, "20 and 25 cells wide; choose one axis"),
        ((50, 9), {"slices": 1}, ValueError, "expected three axes"),
    ],
)
def test_errors(shape, arguments, error, message):
    with pytest.raises(error, match=message):
        sliced_shape(shape, 1.5, **arguments)
    with pytest.raises(error, match=message):
        slice_lightcone(np.zeros(shape), 1.5, **arguments)


def test_cell_size_must_be_positive():
    with pytest.raises(ValueError, match="cell_size: expected a positive size"):
        slice_positions(10, 0.0)
