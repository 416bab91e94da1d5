import numpy as np
import pytest
import scipy.signal

from keras_cosmo.bijectors.conditional_coupling import ConditionalCoupling


def weights(channels, n_parameters, width=5, side=3, seed=0, scale=0.5):
    generator = np.random.default_rng(seed)
    shapes = [
        (side, side, channels // 2 + n_parameters, width),
        (width,),
        (1, 1, width, width),
        (width,),
        (side, side, width, channels),
        (channels,),
    ]
    return [generator.normal(0, scale, shape) for shape in shapes]


@pytest.mark.parametrize(("height", "width", "side"), [(4, 2, 3), (1, 3, 3), (1, 1, 3), (1, 1, 1)])
def test_against_autodiff(check_bijector, height, width, side):
    generator = np.random.default_rng(1)
    maps, condition = generator.standard_normal((2, height, width, 4)), generator.uniform(-1, 1, (2, 2))
    values = weights(4, 2, side=side)
    check_bijector(lambda: ConditionalCoupling(condition, values, 0.3), maps, 3)


@pytest.mark.parametrize("sides", [(4, 5), (1, 1)])
def test_equals_plain_convolutions(sides):
    generator = np.random.default_rng(2)
    maps, condition = generator.standard_normal((1, *sides, 4)), generator.uniform(-1, 1, (1, 2))
    values = weights(4, 2)

    def convolve(x, kernel, bias):
        inputs, outputs = kernel.shape[2:]
        planes = [
            sum(scipy.signal.correlate2d(x[..., i], kernel[..., i, o], "same") for i in range(inputs))
            for o in range(outputs)
        ]
        return np.stack(planes, -1) + bias

    x = np.concatenate([maps[0, ..., :2], np.broadcast_to(condition[0], (*sides, 2))], -1)
    x = np.maximum(convolve(x, *values[:2]), 0)
    x = np.maximum(convolve(x, *values[2:4]), 0)
    raw, shift = np.split(convolve(x, *values[4:]), 2, -1)
    scale = 0.5 / (1 + np.exp(-raw - 2)) + 0.5
    latent = ConditionalCoupling(condition, values).inverse(maps).numpy()[0]
    np.testing.assert_array_equal(latent[..., :2], maps[0, ..., :2])
    np.testing.assert_allclose(latent[..., 2:], scale * (maps[0, ..., 2:] + shift), rtol=1e-10)


def test_scales_stay_within_their_bounds():
    generator = np.random.default_rng(3)
    maps, condition = 100 * generator.standard_normal((4, 4, 4, 4)), np.zeros((4, 2))
    coupling = ConditionalCoupling(condition, weights(4, 2, scale=3.0), 0.5)
    below = np.concatenate([maps[..., :2], np.zeros((4, 4, 4, 2))], -1)
    above = np.concatenate([maps[..., :2], np.ones((4, 4, 4, 2))], -1)
    scale = (coupling.inverse(above) - coupling.inverse(below)).numpy()[..., 2:]
    assert scale.min() > 0.5 - 1e-9
    assert scale.max() < 1 + 1e-9
    assert scale.std() > 0.1
