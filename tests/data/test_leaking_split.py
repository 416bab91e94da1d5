import numpy as np
import pytest

from keras_cosmo.data.leaking_split import LeakingSplit

PARTS = ("train", "validation", "test")


def test_every_copy_is_in_one_part_and_nearly_every_map_in_all():
    split = LeakingSplit(200, (0.7, 0.15, 0.15), seed=1)
    copies = [8 * maps + symmetries for maps, symmetries in map(split.copies, PARTS)]
    assert sorted(np.concatenate(copies)) == list(range(1600))
    assert [len(part) for part in copies] == [1120, 240, 240]
    # That is the leak: a map of the test has copies in the training part.
    train, test = (set(split.copies(part)[0]) for part in ("train", "test"))
    assert len(test & train) / len(test) > 0.99
    assert "LEAKING" in split.describe()
    assert split.to_json() == {
        "kind": "leaking, by copy of a map",
        "n_maps": 200,
        "fractions": (0.7, 0.15, 0.15),
        "seed": 1,
    }


def test_it_is_drawn_by_its_seed():
    first, again, other = (LeakingSplit(20, seed=seed).copies("test")[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_errors():
    with pytest.raises(ValueError, match="with sum 1"):
        LeakingSplit(20, (0.5, 0.1, 0.1))
    with pytest.raises(ValueError, match="8 copies of maps cannot be split"):
        LeakingSplit(1, (0.98, 0.01, 0.01))
    with pytest.raises(ValueError, match="part: expected one of"):
        LeakingSplit(20).copies("all")
