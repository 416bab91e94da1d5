import numpy as np
import pytest

from keras_cosmo.bijectors.affine_injector import AffineInjector


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (2, 1, 1, 3), (2, 4, 2, 3)])
def test_against_autodiff(check_bijector, shape):
    generator = np.random.default_rng(0)
    log_scale, shift = generator.standard_normal((2, *shape))
    maps = generator.standard_normal((2, 4, 2, 3))
    latent, _ = check_bijector(lambda: AffineInjector(log_scale, shift), maps, 3)
    np.testing.assert_allclose(latent, np.exp(log_scale) * maps + shift)
