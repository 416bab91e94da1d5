import numpy as np
import pytest

from keras_cosmo.models.wiener_filter import WienerFilter


def wavenumbers(height, width):
    """|k| of every mode of the whole plane, radians per cell."""
    return 2 * np.pi * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))


def gaussian_fields(count, height, width, power, seed):
    """Periodic Gaussian fields whose modes have the expected power ``power(k)`` (variance per cell of white noise)."""
    white = np.random.default_rng(seed).standard_normal((count, height, width))
    modes = np.fft.fft2(white) * np.sqrt(power(wavenumbers(height, width)))
    return np.fft.ifft2(modes).real[..., None]


def apply(maps, response):
    """A filter given on the whole plane, (height, width, c_in, c_out)."""
    modes = np.fft.fft2(maps, axes=(1, 2))
    return np.fft.ifft2(np.einsum("bhwi,hwio->bhwo", modes, response), axes=(1, 2)).real


def annuli(wiener_filter, height, width):
    """Nearest annulus of every mode, from the rule in the docstring."""
    index = np.rint(wavenumbers(height, width) * min(height, width) / (2 * np.pi)).astype(int)
    index[(index == 0) & (wavenumbers(height, width) > 0)] = 1
    assert index.max() + 1 == len(wiener_filter.response)
    return index


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 21), (15, 8)])
def test_recovers_a_known_isotropic_filter(height, width):
    """Two channels mixed by a filter that is constant in the annuli, in batches of different length."""
    generator = np.random.default_rng(1)
    maps = generator.standard_normal((40, height, width, 2)) * [1.0, 30.0] + [-100.0, 7.0]
    blank = WienerFilter().fit([(maps, maps)])
    index = annuli(blank, height, width)
    response = generator.standard_normal((index.max() + 1, 2, 3))
    # At k = 0 a filter does not act on the mean.
    response[0] = 1.0
    mean = maps.mean(axis=(0, 1, 2))
    targets = apply(maps - mean, response[index]) + np.array([0.5, 0.0, -3.0])
    fitted = WienerFilter(ridge=0.0).fit((maps[rows], targets[rows]) for rows in (slice(0, 7), slice(7, 40)))
    np.testing.assert_allclose(fitted.response, response, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(fitted.input_mean, mean)
    np.testing.assert_allclose(fitted.target_mean, [0.5, 0.0, -3.0], atol=1e-12)
    np.testing.assert_allclose(fitted.predict(maps), targets, rtol=1e-8, atol=1e-8)


def test_is_the_wiener_filter_of_a_field_in_white_noise():
    def power(k):
        return 4 / (1 + (k / 0.6) ** 3)

    count, noise = 400, 1.5
    field = gaussian_fields(count, 32, 32, power, 2)
    maps = 20 * (field + np.random.default_rng(3).normal(0, np.sqrt(noise), field.shape)) - 100
    fitted = WienerFilter().fit([(maps, field)])
    index, k = annuli(fitted, 32, 32), wavenumbers(32, 32)
    np.testing.assert_allclose(
        fitted.wavenumber, [k[index == annulus].mean() for annulus in range(index.max() + 1)], rtol=1e-12
    )
    found = fitted.response[:, 0, 0] * 20
    for annulus, value in enumerate(found):
        modes = power(k[index == annulus])
        expected = modes.sum() / (modes + noise).sum()
        # A mode and its conjugate are one; where k equals -k, it has one real number only.
        scatter = np.sqrt(expected * (1 - expected) / (count * max(len(modes) / 2, 1)))
        assert abs(value - expected) < 5 * scatter
    assert found[1] > 0.6 > 0.2 > found[-1]


def test_no_other_isotropic_filter_does_better():
    field = gaussian_fields(60, 24, 24, lambda k: 1 / (0.3 + k) ** 2, 4)
    generator = np.random.default_rng(5)
    tracers = [field + generator.normal(0, 1.0, field.shape), field**2 + 0.3 * field]
    maps = np.concatenate(tracers, axis=-1)
    fitted = WienerFilter().fit([(maps, field)])
    index = annuli(fitted, 24, 24)

    def scores(response):
        centred = maps - maps.mean(axis=(0, 1, 2))
        predicted, true = (
            np.fft.fft2(values[..., 0]) for values in (apply(centred, response[index]), field - field.mean())
        )
        cross, auto, true_auto = (
            np.array([np.real(values[:, index == annulus]).sum() for annulus in range(index.max() + 1)])
            for values in (predicted * true.conj(), np.abs(predicted) ** 2, np.abs(true) ** 2)
        )
        return cross / np.sqrt(auto * true_auto), true_auto - 2 * cross + auto

    correlation, error = scores(fitted.response)
    assert (correlation > 0).all()
    for size in (1e-3, 0.1, 1.0):
        for _ in range(10):
            other = fitted.response * (1 + size * generator.standard_normal(fitted.response.shape))
            other_correlation, other_error = scores(other)
            assert (other_correlation <= correlation + 1e-12).all()
            assert (other_error >= error * (1 - 1e-12)).all()


def test_identical_and_empty_channels():
    """Two copies share the weight of one; a constant channel gets none."""
    field = gaussian_fields(20, 16, 16, lambda k: 1 / (0.5 + k), 6)
    noisy = field + np.random.default_rng(7).normal(0, 0.5, field.shape)
    alone = WienerFilter().fit([(noisy, field)])
    together = WienerFilter().fit([(np.concatenate([noisy, noisy, np.full_like(noisy, 3.0)], axis=-1), field)])
    np.testing.assert_allclose(together.response[:, :2].sum(axis=1), alone.response[:, 0], rtol=1e-4)
    np.testing.assert_allclose(together.response[:, 2], 0, atol=1e-6)


@pytest.mark.parametrize("ridge", [-1.0, float("nan"), "small"])
def test_wrong_ridge(ridge):
    with pytest.raises(ValueError, match="`ridge`: expected a finite number"):
        WienerFilter(ridge)


def test_wrong_maps():
    maps = np.zeros((3, 8, 8, 1))
    with pytest.raises(ValueError, match="at least one batch"):
        WienerFilter().fit([])
    with pytest.raises(ValueError, match=r"expected pairs \(maps, targets\), got ndarray"):
        WienerFilter().fit((maps, maps))
    with pytest.raises(ValueError, match=r"`maps`: expected shape \(batch, height, width, channels\), got \(3, 8, 8\)"):
        WienerFilter().fit([(maps[..., 0], maps)])
    with pytest.raises(ValueError, match="`targets`: expected finite"):
        WienerFilter().fit([(maps, np.full_like(maps, np.nan))])
    with pytest.raises(ValueError, match="must agree in number, height and width"):
        WienerFilter().fit([(maps, maps[:2])])
    with pytest.raises(ValueError, match="as in the first batch"):
        WienerFilter().fit([(maps, maps), (maps[:, :4], maps[:, :4])])
    with pytest.raises(ValueError, match="not fitted"):
        WienerFilter().predict(maps)
    fitted = WienerFilter().fit([(maps + np.random.default_rng(0).normal(size=maps.shape), maps)])
    with pytest.raises(ValueError, match=r"fitted to maps of shape \(8, 8, 1\), got \(8, 4, 1\)"):
        fitted.predict(maps[:, :, :4])
