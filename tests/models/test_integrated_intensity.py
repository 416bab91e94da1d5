import numpy as np
import pytest

from keras_cosmo.models.integrated_intensity import IntegratedIntensity
from keras_cosmo.models.linear_combination import LinearCombination


def cutouts(count=5, side=8, channels=3):
    generator = np.random.default_rng(3)
    hi = generator.gamma(2.0, 3.0, (count, side, side, channels)).astype("float32")
    dust = 40 * hi.sum(axis=-1) + 10 * generator.normal(size=hi.shape[:3])
    return hi, np.stack([dust, np.ones_like(dust)], axis=-1)


def test_sum_without_fit():
    hi, _ = cutouts()
    model = IntegratedIntensity()
    assert model.scale == 1
    np.testing.assert_allclose(model.predict(hi), hi.astype(float).sum(axis=-1), rtol=1e-12)
    widths = [1.0, 2.0, 0.5]
    np.testing.assert_allclose(IntegratedIntensity(widths).predict(hi), hi.astype(float) @ widths, rtol=1e-12)


def test_fit_finds_the_least_squares_factor():
    hi, target = cutouts()
    target[..., 0] += 1e4
    model = IntegratedIntensity().fit((hi[rows], target[rows]) for rows in (slice(0, 2), slice(2, 5)))
    total, dust = hi.astype(float).sum(axis=-1), target[..., 0]
    centred = total - total.mean(axis=(1, 2), keepdims=True)
    assert model.scale == pytest.approx((centred * dust).sum() / (centred**2).sum(), rel=1e-10)
    assert model.scale == pytest.approx(40, rel=0.05)
    np.testing.assert_allclose(model.predict(hi), model.scale * total, rtol=1e-12)
    wide = IntegratedIntensity(channel_width=2.0).fit([(hi, target)])
    assert wide.scale == pytest.approx(model.scale / 2, rel=1e-10)
    np.testing.assert_allclose(wide.predict(hi), model.predict(hi), rtol=1e-10)


def test_is_a_linear_combination_of_the_sum():
    hi, target = cutouts()
    model = IntegratedIntensity(pixel_size=23.4, ell_max=300.0).fit([(hi, target)])
    linear = LinearCombination(0.0, pixel_size=23.4, ell_max=300.0).fit([(hi.sum(axis=-1, keepdims=True), target)])
    assert model.scale == pytest.approx(linear.weights[0], rel=1e-5)
    assert model.scale != pytest.approx(IntegratedIntensity().fit([(hi, target)]).scale, rel=1e-4)


@pytest.mark.parametrize("width", [0.0, [1.0, -1.0], [[1.0]], [], float("nan")])
def test_wrong_width(width):
    with pytest.raises(ValueError, match="`channel_width`: expected a positive number"):
        IntegratedIntensity(width)


def test_wrong_arguments_and_cutouts():
    hi, target = cutouts()
    with pytest.raises(ValueError, match="`pixel_size`: `ell_max` and `bands` need"):
        IntegratedIntensity(ell_max=100)
    with pytest.raises(ValueError, match="expected 2 channels as `channel_width` has, got 3"):
        IntegratedIntensity([1.0, 2.0]).predict(hi)
    with pytest.raises(ValueError, match="`hi`: expected finite"):
        IntegratedIntensity().predict(hi * np.nan)
    with pytest.raises(ValueError, match="at least one batch"):
        IntegratedIntensity().fit([])
    with pytest.raises(ValueError, match="no fluctuations"):
        IntegratedIntensity().fit([(np.zeros_like(hi), target)])
