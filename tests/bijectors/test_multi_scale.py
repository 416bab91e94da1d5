import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from keras_cosmo.bijectors.affine_injector import AffineInjector
from keras_cosmo.bijectors.multi_scale import MultiScale


def injectors(shapes, batch=2, seed=0):
    generator = np.random.default_rng(seed)
    return [AffineInjector(*generator.normal(0, 0.5, (2, batch, *shape))) for shape in shapes]


def prior(kept):
    return tf.sin(kept), 0.3 * tf.cos(2 * kept)


@pytest.mark.parametrize("priors", [None, [prior, None]])
def test_against_autodiff(check_bijector, priors):
    blocks = injectors([(4, 2, 4), (2, 1, 8), (2, 1, 4)])
    maps = np.random.default_rng(1).standard_normal((2, 8, 4))
    latent, _ = check_bijector(
        lambda: MultiScale(blocks, (8, 4), 2, squeezes=2, priors=priors, dtype=tf.float64), maps, 2, 1
    )
    assert latent.shape == (2, 32)


def test_what_a_block_finishes():
    # Without steps, the latent vector is the pixels: the second half of every square, then the rest.
    flow = MultiScale([tfp.bijectors.Identity()] * 2, (4, 4))
    maps = np.arange(16, dtype="float32").reshape(1, 4, 4)
    np.testing.assert_array_equal(flow.inverse(maps)[0], [4, 5, 6, 7, 12, 13, 14, 15, 0, 1, 2, 3, 8, 9, 10, 11])
    np.testing.assert_array_equal(flow.inverse_log_det_jacobian(np.concatenate([maps] * 3), 2), np.zeros(3))


def test_broadcasting_against_the_batch():
    blocks = injectors([(2, 2, 4), (1, 1, 8)], batch=1)
    flow = MultiScale(blocks, (4, 4), 2, dtype=tf.float64)
    one = np.random.default_rng(1).standard_normal((4, 4))
    many = np.stack([one, one])
    np.testing.assert_allclose(flow.inverse(one), flow.inverse(many))
    np.testing.assert_allclose(flow.inverse(one[None]), flow.inverse(many))
    samples = np.random.default_rng(2).standard_normal((3, 2, 16))
    maps = flow.forward(samples).numpy()
    assert maps.shape == (3, 2, 4, 4)
    for index in range(3):
        np.testing.assert_allclose(maps[index], flow.forward(samples[index]))
    log_det = flow.forward_log_det_jacobian(samples, 1)
    assert log_det.shape == (3, 2)
    np.testing.assert_allclose(log_det[1], flow.forward_log_det_jacobian(samples[1], 1))


def test_shapes():
    flow = MultiScale([tfp.bijectors.Identity()], (4, 6))
    assert flow.forward_event_shape([24]) == [4, 6]
    assert flow.inverse_event_shape([4, 6]) == [24]
    np.testing.assert_array_equal(flow.forward_event_shape_tensor([24]), [4, 6])
    np.testing.assert_array_equal(flow.inverse_event_shape_tensor([4, 6]), [24])


def test_errors():
    blocks = [tfp.bijectors.Identity()] * 2
    with pytest.raises(ValueError, match=r"`map_shape`: height and width must be divisible by 4 .* got \(4, 6\)"):
        MultiScale(blocks, (4, 6))
    with pytest.raises(ValueError, match=r"`priors`: expected 1, .* got 2"):
        MultiScale(blocks, (4, 4), priors=[None, None])
    with pytest.raises(ValueError, match=r"`squeezes`: expected 2, or one less, for 2 blocks, got 3"):
        MultiScale(blocks, (8, 8), squeezes=3)
    with pytest.raises(ValueError, match=r"expected the shape \(..., 4, 4\), got \(1, 8, 8\)"):
        MultiScale(blocks, (4, 4)).inverse(tf.zeros((1, 8, 8)))
    with pytest.raises(ValueError, match=r"expected the shape \(..., 16\), got \(1, 8\)"):
        MultiScale(blocks, (4, 4)).forward(tf.zeros((1, 8)))
