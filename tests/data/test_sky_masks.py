import doctest
import logging

import healpy
import numpy as np
import pytest

from keras_cosmo.data import sky_masks
from keras_cosmo.data.sky_masks import cutout_shares, fractional_weights, log_fractions


def test_the_nearest_pixel_counts_in_full_or_not_at_all():
    mask = np.array([0.0, 0.49, 0.5, 1.0], np.float32)
    pixels = np.array([[[3, 2], [1, 0]]])
    shares, used = cutout_shares(mask, pixels)
    assert shares.dtype == np.float32
    assert shares.tolist() == [[[1.0, 1.0], [0.0, 0.0]]]
    assert used.tolist() == [[True, True], [False, False]]


def test_shares_are_a_mean_over_what_is_not_masked():
    generator = np.random.default_rng(1)
    pixels, weights = healpy.get_interp_weights(16, *generator.uniform(0.1, 3.0, (2, 5000)))
    mask = generator.random(3072)
    shares, used = cutout_shares(mask, pixels, weights)
    unmasked = mask[pixels] >= 0.5
    weight = np.sum(weights * unmasked, axis=0)
    np.testing.assert_array_equal(used, weight >= 0.5)
    assert 0.3 < used.mean() < 0.7
    np.testing.assert_allclose(shares.sum(axis=0), used, rtol=3e-7)
    assert not shares[~unmasked].any()
    assert not shares[:, ~used].any()
    np.testing.assert_allclose(shares[:, used], (weights * unmasked)[:, used] / weight[used], rtol=1e-6)


def test_half_of_the_weight_suffices_whatever_its_rounding():
    weights = np.array([[0.1], [0.2], [0.3], [0.4]]) / 2 + np.array([[0.15], [0.15], [0.1], [0.1]])
    for which in ((0, 3), (1, 2)):
        mask = np.zeros(4)
        mask[list(which)] = 1.0
        weights = np.full((4, 1), 0.25)
        weights[which[0]] -= 1e-16
        assert cutout_shares(mask, np.arange(4)[:, None], weights)[1].all()


@pytest.mark.parametrize(("weight", "said"), [(1.0, False), (0.0, False), (0.3, True)])
def test_fractions_are_told(weight, said, caplog):
    mask = np.ones(100)
    mask[:7] = weight
    with caplog.at_level(logging.INFO):
        log_fractions("sky.h5", fractional_weights(mask), mask.size)
    assert len(caplog.records) == said
    if said:
        assert "sky.h5: 7 of 100 pixels of the mask have a weight between 0 and 1" in caplog.text
        assert caplog.records[0].levelname == "INFO"


def test_examples_in_docstrings():
    assert doctest.testmod(sky_masks).failed == 0
