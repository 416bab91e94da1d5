import numpy as np
import pytest

from keras_cosmo.bijectors.activation_normalization import ActivationNormalization


def test_against_autodiff(check_bijector):
    generator = np.random.default_rng(0)
    log_scale, shift = generator.standard_normal((2, 3))
    maps = generator.standard_normal((2, 4, 2, 3))
    latent, log_det = check_bijector(lambda: ActivationNormalization(log_scale, shift), maps, 3)
    np.testing.assert_allclose(latent, np.exp(log_scale) * maps + shift)
    np.testing.assert_allclose(log_det, 8 * log_scale.sum())


@pytest.mark.parametrize("per_channel", [True, False])
def test_starting_values_standardise(per_channel):
    maps = np.random.default_rng(1).normal([5.0, -2.0, 0.1], [3.0, 0.1, 40.0], (20, 4, 4, 3))
    start = ActivationNormalization.starting_values(maps, per_channel)
    assert start[0].shape == ((3,) if per_channel else (1,))
    normalised = ActivationNormalization(*start).inverse(maps).numpy()
    axes = (0, 1, 2) if per_channel else None
    np.testing.assert_allclose(normalised.mean(axes), 0.0, atol=1e-12)
    np.testing.assert_allclose(normalised.std(axes), 1.0)


def test_a_constant_channel_is_named():
    maps = np.random.default_rng(1).normal(size=(5, 4, 4, 3))
    maps[..., 1] = 2.0
    with pytest.raises(ValueError, match=r"channels \[1\] are constant over the 5 maps"):
        ActivationNormalization.starting_values(maps)
