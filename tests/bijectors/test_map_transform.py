import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from keras_cosmo.bijectors.map_transform import TRANSFORMS, map_transform, transform_constants

CONSTANTS = {
    "none": (),
    "log10-minmax": (2.0, 7.0),
    "log10-standardise": (4.0, 1.5),
    "log10-logit": (1.0, 8.0),
}


def maps():
    return 10 ** np.random.default_rng(0).uniform(2.5, 6.5, (2, 2, 3))


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_against_autodiff(check_bijector, name):
    check_bijector(lambda: map_transform(name, CONSTANTS[name], tf.float64), maps(), 2)


def test_values():
    logarithm = np.log10(maps())
    expected = {
        "none": maps(),
        "log10-minmax": (logarithm - 2) / 5,
        "log10-standardise": (logarithm - 4) / 1.5,
        "log10-logit": scipy.special.logit((logarithm - 1) / 7),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(map_transform(name, CONSTANTS[name], tf.float64).inverse(maps()), values)


def test_constants_of_training_maps():
    logarithm = np.log10(maps())
    low, high = logarithm.min(), logarithm.max()
    assert transform_constants("none", maps()) == ()
    np.testing.assert_allclose(transform_constants("log10-minmax", maps()), (low, high))
    np.testing.assert_allclose(transform_constants("log10-standardise", maps()), (logarithm.mean(), logarithm.std()))
    margin = 0.01 * (high - low)
    np.testing.assert_allclose(transform_constants("log10-logit", maps()), (low - margin, high + margin))
    for name in TRANSFORMS:
        transform = map_transform(name, transform_constants(name, maps()), tf.float64)
        assert np.isfinite(transform.inverse(maps())).all()


@pytest.mark.parametrize("pixels", [1, 5, 12, 100])
def test_constants_do_not_depend_on_how_many_maps_are_looked_at_together(monkeypatch, pixels):
    logarithm = np.log10(maps())
    expected = {
        "log10-minmax": (logarithm.min(), logarithm.max()),
        "log10-standardise": (logarithm.mean(), logarithm.std()),
    }
    monkeypatch.setattr("keras_cosmo.bijectors.map_transform._BLOCK_PIXELS", pixels)
    for name, constants in expected.items():
        np.testing.assert_allclose(transform_constants(name, maps()), constants, rtol=1e-14)
        np.testing.assert_allclose(transform_constants(name, maps().tolist()), constants, rtol=1e-14)
    # A large mean and a small scatter: differences of squares would leave nothing of it.
    narrow = 1e6 * (1.0 + 1e-7 * np.random.default_rng(1).standard_normal((50, 4, 4)))
    found = transform_constants("log10-standardise", narrow)
    np.testing.assert_allclose(found, (np.log10(narrow).mean(), np.log10(narrow).std()), rtol=1e-8)
    assert transform_constants("log10-minmax", np.array([3.0, 1000.0])) == (np.log10(3.0), 3.0)


def test_constants_of_maps_with_a_floor():
    faint = maps()
    faint[0, 0] = (0.0, 1e-20, -3.0)
    logarithm = np.log10(np.maximum(faint, 1e-10))
    found = transform_constants("log10-standardise", faint, minimum=1e-10)
    np.testing.assert_allclose(found, (logarithm.mean(), logarithm.std()), rtol=1e-14)
    with pytest.raises(ValueError, match="`minimum`: expected a finite number of at least 0, got -1"):
        transform_constants("log10-minmax", faint, minimum=-1)


def test_bad_pixels_of_all_blocks_are_counted(monkeypatch):
    monkeypatch.setattr("keras_cosmo.bijectors.map_transform._BLOCK_PIXELS", 3)
    bad = np.ones((5, 3))
    bad[0, 0] = bad[4, 1] = 0.0
    bad[3, 2] = np.inf
    with pytest.raises(ValueError, match=r"3 of 15 pixels are not finite and positive"):
        transform_constants("log10-minmax", bad)


@pytest.mark.parametrize(
    ("name", "constants", "message"),
    [
        ("log", (), r"`transform`: expected one of \['none', .*\], got 'log'"),
        ("none", (1.0,), r"`transform_constants`: 'none' expects \(\), got \(1.0,\)"),
        ("log10-minmax", (), r"expects \(low, high\), finite numbers in log10 of the maps' unit, got \(\)"),
        ("log10-minmax", "ab", r"expects \(low, high\), finite numbers"),
        ("log10-minmax", (1.0, np.nan), r"expects \(low, high\), finite numbers"),
        ("log10-logit", (2.0, 1.0), r"expected low < high, got \(2.0, 1.0\)"),
        ("log10-standardise", (2.0, 0.0), r"expected a positive standard deviation, got 0.0"),
    ],
)
def test_wrong_transforms(name, constants, message):
    with pytest.raises(ValueError, match=message):
        map_transform(name, constants)


def test_maps_that_cannot_be_transformed():
    bad = maps()
    bad[0, 0, 0], bad[1, 0, 0] = 0.0, np.nan
    with pytest.raises(ValueError, match=r"2 of 12 pixels are not finite and positive"):
        transform_constants("log10-minmax", bad)
    with pytest.raises(ValueError, match=r"all 4 pixels equal 3"):
        transform_constants("log10-minmax", np.full((1, 2, 2), 3.0))
    with pytest.raises(ValueError, match=r"`transform`: expected one of"):
        transform_constants("sqrt", maps())
