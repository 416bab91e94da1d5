import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from keras_cosmo.bijectors import glow_steps
from keras_cosmo.bijectors.affine_injector import AffineInjector
from keras_cosmo.bijectors.conditional_coupling import ConditionalCoupling
from keras_cosmo.bijectors.glow_steps import GlowSteps, border_classes
from keras_cosmo.bijectors.invertible_convolution import InvertibleConvolution

N_STEPS = 3


def tensors(channels, batch, n_parameters=2, width=5, classes=(), seed=0):
    """Arguments of `GlowSteps`, away from any start."""
    generator = np.random.default_rng(seed)

    def normal(*shape, scale=0.3):
        return generator.normal(0, scale, (N_STEPS, *shape))

    permutation = np.stack([np.eye(channels)[generator.permutation(channels)] for _ in range(N_STEPS)])
    sign = generator.choice([-1.0, 1.0], (N_STEPS, channels))
    square = (channels, channels)
    convolution = [permutation, normal(*square), normal(*square), sign, normal(channels)]
    coupling = [
        normal(3, 3, channels // 2 + n_parameters, width),
        normal(width),
        normal(1, 1, width, width),
        normal(width),
        normal(3, 3, width, channels),
        normal(channels),
    ]
    injector = [normal(batch, *classes, channels) for _ in range(2)]
    return generator.uniform(-1, 1, (batch, n_parameters)), injector, convolution, coupling


def plain(condition, injector, convolution, coupling, shape):
    """The same out of the simple bijectors; the first of a chain is the last towards the latent variables."""
    chain = []
    for step in range(N_STEPS):
        values = [value[step] for value in injector]
        if values[0].ndim == 2:
            values = [value[:, None, None] for value in values]
        else:
            rows, columns = (border_classes(side) for side in shape)
            values = [value[:, rows][:, :, columns] for value in values]
        chain += [
            AffineInjector(*values),
            InvertibleConvolution(*(value[step] for value in convolution)),
            ConditionalCoupling(condition, [value[step] for value in coupling]),
        ]
    return tfp.bijectors.Chain(chain)


CASES = {
    "matrix per map, two pixels at once": (4, (4, 2), ()),
    "four pixels at once": (4, (2, 4), ()),
    "single pixels": (4, (3, 3), ()),
    "scale per pixel": (8, (2, 2), ()),
    "one pixel": (4, (1, 1), ()),
    "by position": (4, (4, 2), (4, 2)),
}


@pytest.mark.parametrize("case", list(CASES))
def test_against_autodiff_and_the_simple_bijectors(check_bijector, case):
    channels, shape, classes = CASES[case]
    maps = np.random.default_rng(1).standard_normal((2, *shape, channels))
    values = tensors(channels, 2, classes=classes)
    latent, log_det = check_bijector(lambda: GlowSteps(*values), maps, 3)
    reference = plain(*values, shape)
    np.testing.assert_allclose(latent, reference.inverse(maps), rtol=1e-8)
    np.testing.assert_allclose(log_det, reference.inverse_log_det_jacobian(maps, 3), rtol=1e-8)


def test_large_maps_take_the_injector_of_their_class():
    maps = np.random.default_rng(1).standard_normal((2, 9, 3, 4))
    values = tensors(4, 2, classes=(5, 3))
    bijector, reference = GlowSteps(*values), plain(*values, (9, 3))
    np.testing.assert_allclose(bijector.inverse(maps), reference.inverse(maps), rtol=1e-8)
    log_det = bijector.inverse_log_det_jacobian(tf.constant(maps), 3)
    np.testing.assert_allclose(log_det, reference.inverse_log_det_jacobian(maps, 3), rtol=1e-8)
    np.testing.assert_allclose(bijector.forward(tf.identity(bijector.inverse(maps))), maps, rtol=1e-8)


def test_several_maps_share_a_row_of_the_condition():
    values = tensors(4, 2)
    maps = np.random.default_rng(1).standard_normal((6, 4, 4, 4))
    together = GlowSteps(*values).inverse(maps).numpy()
    for index in range(0, 6, 2):
        np.testing.assert_allclose(together[index : index + 2], GlowSteps(*values).inverse(maps[index : index + 2]))


@pytest.mark.parametrize("graph", [False, True])
def test_the_couplings_are_called_once_per_value_and_log_determinant(monkeypatch, graph):
    calls = []
    plain = glow_steps.scale_and_shift
    monkeypatch.setattr(glow_steps, "scale_and_shift", lambda *arguments: calls.append(1) or plain(*arguments))
    values = tensors(4, 2)

    def both(maps):
        bijector = GlowSteps(*values)
        return bijector.inverse(maps), bijector.inverse_log_det_jacobian(maps, 3)

    (tf.function(both) if graph else both)(tf.constant(np.ones((2, 4, 4, 4))))
    # In a graph all steps share one traced function.
    assert len(calls) == (1 if graph else N_STEPS)


def test_the_density_of_two_pixels_integrates_to_one():
    values = tensors(2, 1)
    edges = np.linspace(-14, 14, 501)
    maps = np.stack(np.meshgrid(edges, edges, indexing="ij"), -1).reshape(-1, 1, 1, 2)
    bijector = GlowSteps(*values)
    latent = tfp.distributions.Independent(tfp.distributions.Normal(np.zeros((1, 1, 2)), 1.0), 3)
    density = np.exp(tfp.distributions.TransformedDistribution(latent, bijector).log_prob(maps))
    assert density.reshape(501, 501)[[0, -1]].max() < 1e-8
    assert density.reshape(501, 501)[:, [0, -1]].max() < 1e-8
    np.testing.assert_allclose(density.sum() * (edges[1] - edges[0]) ** 2, 1.0, rtol=1e-4)


def test_border_classes():
    np.testing.assert_array_equal(border_classes(3), [0, 1, 2])
    np.testing.assert_array_equal(border_classes(5), [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(border_classes(8), [0, 1, 2, 2, 2, 2, 3, 4])
