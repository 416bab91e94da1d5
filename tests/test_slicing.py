import numpy as np
import pytest

from keras_cosmo.slicing import slab_starts, slice_box, slice_lightcone, slice_positions, sliced_shape


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


def test_slabs_are_spread_as_in_the_paper():
    assert slab_starts(200).tolist() == list(range(0, 200, 10))
    assert slab_starts(64, slabs=8, slab_cells=4).tolist() == [0, 8, 16, 24, 32, 40, 48, 56]
    assert slab_starts(12, slabs=3, slab_cells=4).tolist() == [0, 4, 8]


@pytest.mark.parametrize(("projection", "divisor"), [("mean", 3), ("sum", 1)])
def test_every_map_holds_the_right_cells(projection, divisor):
    box = coordinates_cone((4, 5, 8))
    maps = slice_box(box, slabs=2, slab_cells=3, projection=projection)
    assert maps.shape == (2, 4, 5)
    assert maps.dtype == np.float32
    expected = [box[:, :, :3].sum(axis=2) / divisor, box[:, :, 4:7].sum(axis=2) / divisor]
    np.testing.assert_allclose(maps, expected, rtol=1e-7)


def test_projections_are_exact_in_float32():
    # One million and small steps: sums in float32 would lose them.
    box = np.float32(1e6) + np.arange(64, dtype=np.float32)[None, None, :] / 16
    maps = slice_box(np.broadcast_to(box, (2, 2, 64)), slabs=1, slab_cells=64)
    np.testing.assert_array_equal(maps, np.float32(np.mean(box, dtype=np.float64)))


def test_only_the_slabs_are_read():
    class Recorder:
        shape = (2, 2, 8)
        keys = ()

        def __getitem__(self, key):
            self.keys = (*self.keys, key[2])
            return np.zeros((2, 2, 2))

    recorder = Recorder()
    slice_box(recorder, slabs=2, slab_cells=2)
    assert recorder.keys == (slice(0, 2), slice(4, 6))


@pytest.mark.parametrize(
    ("cells", "arguments", "error", "message"),
    [
        (64, {}, ValueError, "slabs: a box of 64 cells cannot be divided into 20 equal parts. Take 16 slabs"),
        (7, {"slabs": 2, "slab_cells": 1}, ValueError, "slabs: a box of 7 cells .* Take 1 slabs"),
        (7, {"slabs": 2, "slab_cells": 9}, ValueError, "slabs: a box of 7 cells .* Take 1 slabs"),
        (64, {"slabs": 8, "slab_cells": 9}, ValueError, "8 slabs of 9 cells overlap .* at most 8 cells"),
        (64, {"slabs": 0}, ValueError, "slabs: expected at least 1, got 0"),
        (64, {"slab_cells": 0}, ValueError, "slab_cells: expected at least 1, got 0"),
        (64, {"slabs": 8.0}, TypeError, "slabs: expected an integer, got 8.0"),
        (64, {"slab_cells": True}, TypeError, "slab_cells: expected an integer, got True"),
    ],
)
def test_errors_of_slabs(cells, arguments, error, message):
    with pytest.raises(error, match=message):
        slab_starts(cells, **arguments)
    with pytest.raises(error, match=message):
        slice_box(np.zeros((2, 2, cells)), **arguments)


def test_errors_of_boxes():
    with pytest.raises(ValueError, match=r"box: expected three axes \(x, y, line of sight\), got shape \(8, 8\)"):
        slice_box(np.zeros((8, 8)))
    with pytest.raises(ValueError, match=r"projection: expected one of \['mean', 'sum'\], got 'max'"):
        slice_box(np.zeros((8, 8, 8)), slabs=2, projection="max")
