import json

import numpy as np
import pytest

from keras_cosmo.data.sky_split import split_skies

AREAS = {"train_area": "north", "test_area": "south"}


def test_several_skies_are_divided_by_sky_and_area():
    split = split_skies(10, (0.6, 0.2, 0.2), 0, **AREAS)
    together = np.concatenate([split.train, split.validation, split.test])
    np.testing.assert_array_equal(np.sort(together), np.arange(10))
    assert (len(split.train), len(split.validation), len(split.test)) == (6, 2, 2)
    assert split.by_sky
    expected = "by sky (6 training, 2 validation, 2 test) and by area: trained in the north, tested in the south"
    assert split.describe() == expected
    assert json.loads(json.dumps(split.to_json()))["test"] == split.test.tolist()
    assert split_skies(10, (0.6, 0.2, 0.2), 1, **AREAS).test.tolist() != split.test.tolist()


@pytest.mark.parametrize(("count", "words"), [(1, "one sky"), (2, "each of 2 skies")])
def test_few_skies_are_divided_by_area_alone(count, words):
    split = split_skies(count, (0.6, 0.2, 0.2), 0, **AREAS)
    assert not split.by_sky
    assert split.train.tolist() == split.validation.tolist() == split.test.tolist() == list(range(count))
    assert split.describe() == f"by area of {words}: trained in the north, tested in the south"


def test_errors():
    with pytest.raises(ValueError, match="expected two different areas, got 'north' twice"):
        split_skies(4, (0.6, 0.2, 0.2), 0, "north", "north")
    with pytest.raises(ValueError, match="3 simulations cannot be split"):
        split_skies(3, (0.9, 0.05, 0.05), 0, **AREAS)
