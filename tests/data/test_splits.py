import json

import numpy as np
import pytest

from keras_cosmo.data.splits import Split, split_by_simulation

SIMULATION = np.random.default_rng(0).permutation(np.repeat(np.arange(75), 4))


def test_parts_are_disjoint_complete_and_of_the_right_size():
    split = split_by_simulation(SIMULATION, seed=3)
    assert (len(split.train), len(split.validation), len(split.test)) == (59, 8, 8)
    assert sorted(np.concatenate([split.train, split.validation, split.test]).tolist()) == list(range(75))
    assert (np.diff(split.train) > 0).all()


def test_same_seed_same_split():
    assert split_by_simulation(SIMULATION, seed=3) == split_by_simulation(np.sort(SIMULATION), seed=3)
    assert split_by_simulation(SIMULATION, seed=3) != split_by_simulation(SIMULATION, seed=4)
    assert Split(np.array([0]), np.array([1]), np.array([2])) != 3


def test_maps_of_a_part():
    split = split_by_simulation(SIMULATION)
    maps = {part: split.maps(part, SIMULATION) for part in ("train", "validation", "test")}
    assert sorted(np.concatenate(list(maps.values())).tolist()) == list(range(300))
    for part, indices in maps.items():
        assert set(SIMULATION[indices]) == set(getattr(split, part).tolist())
        assert (np.diff(indices) > 0).all()
        first = split.maps(part, SIMULATION, per_simulation=1)
        assert first.tolist() == sorted(np.flatnonzero(s == SIMULATION)[0] for s in getattr(split, part))


def test_json():
    split = split_by_simulation(SIMULATION, seed=1)
    assert Split.from_json(json.loads(json.dumps(split.to_json()))) == split


@pytest.mark.parametrize(
    ("count", "fractions", "needed"),
    [
        (5, (0.8, 0.1, 0.1), 5),
        (4, (0.8, 0.1, 0.1), 5),
        (1, (0.8, 0.1, 0.1), 5),
        (2, (1 / 3, 1 / 3, 1 / 3), 3),
        (49, (0.98, 0.01, 0.01), 50),
    ],
)
def test_too_few_simulations(count, fractions, needed):
    if count >= needed:
        split_by_simulation(np.arange(count), fractions)
        return
    with pytest.raises(
        ValueError, match=f"{count} simulations cannot be split .* At least {needed} simulations are needed"
    ):
        split_by_simulation(np.arange(count), fractions)
    assert len(split_by_simulation(np.arange(needed), fractions).test) >= 1


@pytest.mark.parametrize(
    "fractions", [(0.8, 0.1), (0.8, 0.2, 0.0), (0.8, 0.3, -0.1), (0.5, 0.1, 0.1), (np.nan, 0.5, 0.5)]
)
def test_fractions(fractions):
    with pytest.raises(ValueError, match="fractions: expected three positive numbers"):
        split_by_simulation(SIMULATION, fractions)


def test_other_errors():
    with pytest.raises(ValueError, match="simulation: expected the integer simulation id of each map"):
        split_by_simulation([])
    with pytest.raises(ValueError, match=r"simulations \[2\] are in train and in test"):
        Split(np.array([1, 2]), np.array([3]), np.array([2, 4]))
    with pytest.raises(ValueError, match="validation: expected at least one simulation id"):
        Split(np.array([1, 2]), np.array([], int), np.array([4]))
    with pytest.raises(ValueError, match="train: expected sorted ids"):
        Split(np.array([2, 1]), np.array([3]), np.array([4]))
    with pytest.raises(ValueError, match=r"expected the parts .*, got \['train'\]"):
        Split.from_json({"train": [1]})
    split = Split(np.array([0, 1]), np.array([2]), np.array([3]))
    with pytest.raises(ValueError, match="part: expected one of"):
        split.maps("training", [0, 1, 2, 3])
    with pytest.raises(ValueError, match="per_simulation: expected at least 1 or None, got 0"):
        split.maps("train", [0, 1, 2, 3], per_simulation=0)
    with pytest.raises(ValueError, match=r"at least 2 maps of simulation 1 \(train\), got 1"):
        split.maps("train", [0, 0, 1, 2, 3], per_simulation=2)
    with pytest.raises(ValueError, match=r"at least 1 maps of simulation 3 \(test\), got 0"):
        split.maps("test", [0, 1, 2])
