import numpy as np
import pytest

from keras_cosmo.data.augmentation import (
    augment_lightcones,
    augment_periodic_squares,
    augment_squares,
    flip_lightcones,
    shift_periodic,
    square_symmetry,
)

AUGMENTATIONS = (augment_lightcones, flip_lightcones, augment_squares, shift_periodic, augment_periodic_squares)


def maps_of(count, *shape):
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 2)])
def test_pure_in_the_generator(augment, shape):
    maps = maps_of(50, *shape)
    before = maps.copy()
    first = augment(maps, np.random.default_rng(1))
    assert first.dtype == maps.dtype
    np.testing.assert_array_equal(first, augment(maps, np.random.default_rng(1)))
    assert not np.array_equal(first, augment(maps, np.random.default_rng(2)))
    np.testing.assert_array_equal(maps, before)
    for one, out in zip(maps, first, strict=True):
        np.testing.assert_array_equal(np.sort(one, axis=None), np.sort(out, axis=None))
    # Targets of the same shape are moved like their inputs.
    np.testing.assert_array_equal(augment(3 * maps, np.random.default_rng(1)), 3 * first)


def test_lightcones_reach_every_flip_and_shift_and_keep_the_line_of_sight():
    maps = np.repeat(maps_of(1, 5, 7), 400, axis=0)
    expected = {np.roll(image, shift, axis=0).tobytes() for image in (maps[0], maps[0][::-1]) for shift in range(5)}
    assert {out.tobytes() for out in augment_lightcones(maps, np.random.default_rng(0))} == expected
    assert {out.tobytes() for out in flip_lightcones(maps, np.random.default_rng(0))} == {
        maps[0].tobytes(),
        maps[0][::-1].tobytes(),
    }


def test_squares_reach_all_eight_symmetries():
    image = maps_of(1, 4, 4)[0]
    symmetries = [square_symmetry(image, element).tobytes() for element in range(8)]
    assert len(set(symmetries)) == 8
    assert symmetries[0] == image.tobytes()
    np.testing.assert_array_equal(square_symmetry(image, 1)[3, 0], image[0, 0])
    np.testing.assert_array_equal(square_symmetry(image, 4), np.fliplr(image))
    # A group: two symmetries after each other are a third.
    for first in range(8):
        for second in range(8):
            assert square_symmetry(square_symmetry(image, first), second).tobytes() in symmetries
    outputs = augment_squares(np.repeat(image[None], 200, axis=0), np.random.default_rng(0))
    assert {out.tobytes() for out in outputs} == set(symmetries)


def test_squares_are_the_dihedral_group():
    """Not just any group of 8: five elements of order two, two of order four; and it does not commute."""
    image = maps_of(1, 5, 5)[0]
    names = {square_symmetry(image, element).tobytes(): element for element in range(8)}
    table = [[names[square_symmetry(square_symmetry(image, a), b).tobytes()] for b in range(8)] for a in range(8)]
    assert all(sorted(row) == list(range(8)) for row in table)
    orders = []
    for element in range(8):
        order, power = 1, element
        while power != 0:
            power, order = table[power][element], order + 1
        orders.append(order)
    assert sorted(orders) == [1, 2, 2, 2, 2, 2, 4, 4]
    assert any(table[a][b] != table[b][a] for a in range(8) for b in range(8))


def test_periodic_shifts_reach_every_place():
    image = maps_of(1, 3, 4)[0]
    expected = {np.roll(image, (down, right), axis=(0, 1)).tobytes() for down in range(3) for right in range(4)}
    outputs = shift_periodic(np.repeat(image[None], 400, axis=0), np.random.default_rng(0))
    assert {out.tobytes() for out in outputs} == expected


def test_errors():
    with pytest.raises(ValueError, match=r"expected square maps, got shape \(2, 4, 5\)"):
        augment_squares(maps_of(2, 4, 5), np.random.default_rng(0))
    with pytest.raises(ValueError, match="element: expected 0 to 7, got 8"):
        square_symmetry(np.zeros((2, 2)), 8)
    for augment in AUGMENTATIONS:
        with pytest.raises(ValueError, match=r"expected maps of shape \(batch, height, width"):
            augment(maps_of(2, 4), np.random.default_rng(0))
