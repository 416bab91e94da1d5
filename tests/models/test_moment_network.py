import checks
import keras
import numpy as np
import pytest

from keras_cosmo.losses import MomentLoss
from keras_cosmo.models.moment_network import MomentNetwork

SMALL = {
    "map_shape": (8, 12),
    "parameter_names": ("Omega_m", "sigma_8"),
    "parameter_low": (0.1, 0.6),
    "parameter_high": (0.5, 1.0),
    "input_mean": 8.0,
    "input_standard_deviation": 0.5,
    "widths": (4, 6),
    "dense_units": 8,
    "seed": 1,
}


def batch(count=8):
    generator = np.random.default_rng(2)
    maps = (10 ** generator.normal(8, 0.5, (count, 8, 12))).astype("float32")
    return maps, generator.uniform([0.1, 0.6], [0.5, 1.0], (count, 2)).astype("float32")


def compiled(**changes):
    model = MomentNetwork(**{**SMALL, **changes})
    # Eagerly: the networks are small, and graphs take longer to make than a few steps.
    model.compile(keras.optimizers.Adam(1e-2), MomentLoss(model.prior_standard_deviation), run_eagerly=True)
    return model


def test_model_laws(tmp_path):
    checks.check_model(compiled(), *batch(), tmp_path)


def test_moments_and_their_order():
    model = compiled()
    maps, _ = batch()
    outputs = model.predict(maps, verbose=0)
    assert outputs.shape == (8, 4)
    assert outputs.dtype == np.float32
    mean, deviation = model.moments(maps, batch_size=3)
    np.testing.assert_allclose(np.concatenate([mean, deviation], axis=1), outputs, rtol=1e-5)
    assert (deviation > 0).all()
    # Without training about the centre of the prior and its standard deviation.
    np.testing.assert_allclose(mean.mean(axis=0), [0.3, 0.8], atol=0.3)
    assert model.prior_standard_deviation == pytest.approx([0.4 / np.sqrt(12)] * 2)
    zero = MomentNetwork(**SMALL)
    for name in ("mean", "standard_deviation"):
        layer = zero.get_layer(name)
        layer.kernel.assign(0 * layer.kernel)
    np.testing.assert_allclose(zero(maps)[0], [0.3, 0.8, *zero.prior_standard_deviation], rtol=1e-6)


def test_normalisation_is_inside():
    """log10, then the normalisation; ranges of the parameters."""
    inside = compiled()
    outside = compiled(
        input_mean=0.0, input_standard_deviation=1.0, parameter_low=(0.0, 0.0), parameter_high=(1.0, 1.0)
    )
    outside.set_weights(inside.get_weights())
    maps, _ = batch()
    plain = outside.predict(10 ** ((np.log10(maps) - 8.0) / 0.5), verbose=0)
    unit = (plain - [0.5, 0.5, 0.0, 0.0]) * 0.4 + [0.3, 0.8, 0.0, 0.0]
    np.testing.assert_allclose(inside.predict(maps, verbose=0), unit, rtol=1e-3)


def test_maps_wrap_around():
    maps, _ = batch()
    model = compiled()
    rolled = np.roll(maps, (4, 8), axis=(1, 2))
    np.testing.assert_allclose(model.predict(rolled, verbose=0), model.predict(maps, verbose=0), rtol=1e-4, atol=1e-5)
    assert np.abs(model.predict(np.roll(maps, 1, axis=1), verbose=0) - model.predict(maps, verbose=0)).max() > 1e-4


def test_values_below_the_minimum():
    maps, _ = batch(1)
    model = compiled(minimum=1e3)
    spoiled, floored = maps.copy(), maps.copy()
    spoiled[0, :2, 0], floored[0, :2, 0] = [0.0, -5.0], 1e3
    np.testing.assert_array_equal(model.predict(spoiled, verbose=0), model.predict(floored, verbose=0))
    spoiled[0, 0, 0] = np.nan
    assert np.isnan(model.predict(spoiled, verbose=0)).all()


def test_seed_and_size():
    paper = MomentNetwork((64, 64), ("Omega_m", "sigma_8"), (0.1, 0.6), (0.5, 1.0))
    assert sum(weight.shape.num_elements() for weight in paper.trainable_weights) == 105_924
    first, second = (MomentNetwork(**SMALL) for _ in range(2))
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    other = MomentNetwork(**{**SMALL, "seed": 2})
    assert not np.array_equal(first.get_layer("dense").kernel, other.get_layer("dense").kernel)


def test_bfloat16_keeps_float32_at_the_boundary():
    model = compiled(dtype="mixed_bfloat16")
    assert model.get_layer("convolution_1").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"
    assert all(weight.dtype == "float32" for weight in model.weights)
    assert MomentNetwork.from_config(model.get_config()).get_layer("dense").compute_dtype == "bfloat16"
    maps, _ = batch()
    exact = compiled()
    exact.set_weights(model.get_weights())
    np.testing.assert_allclose(model.predict(maps, verbose=0), exact.predict(maps, verbose=0), atol=0.05)


def test_learns_a_known_posterior_mean_and_standard_deviation():
    """White noise of 16 cells about a level with a uniform prior: the posterior is a truncated normal distribution.

    Where the prior cuts it off, it is skewed and narrower.
    """
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(1)

    def draw(count):
        level = generator.uniform(0.0, 1.0, (count, 1))
        return (10 ** (level[..., None] + generator.normal(0, 0.8, (count, 4, 4)))).astype("float32"), level

    model = MomentNetwork(
        (4, 4), ("level",), 0.0, 1.0, input_mean=0.5, input_standard_deviation=0.85, widths=(8,), dense_units=16, seed=3
    )
    maps, level = draw(8_000)
    steps = 10 * len(maps) // 64
    rate = keras.optimizers.schedules.CosineDecay(1e-2, steps)
    model.compile(keras.optimizers.Adam(rate), MomentLoss(model.prior_standard_deviation))
    model.fit(maps, level, batch_size=64, epochs=10, verbose=0)
    maps, _ = draw(1000)
    mean, deviation = model.moments(maps)
    grid = np.linspace(0.0005, 0.9995, 1000)
    average = np.log10(maps.astype(float)).mean(axis=(1, 2))
    posterior = np.exp(-0.5 * ((grid - average[:, None]) / (0.8 / 4)) ** 2)
    posterior /= posterior.sum(axis=1, keepdims=True)
    expected = posterior @ grid
    width = np.sqrt(posterior @ grid**2 - expected**2)
    assert np.sqrt(np.mean((mean[:, 0] - expected) ** 2)) < 0.03
    assert np.sqrt(np.mean((deviation[:, 0] - width) ** 2)) < 0.02
    assert deviation.mean() == pytest.approx(width.mean(), rel=0.05)
    # The width varies, and the network knows where.
    assert np.corrcoef(deviation[:, 0], width)[0, 1] > 0.8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map_shape": (10, 12)}, "`map_shape`: with 2 poolings by 2 the height must be divisible by 4 cells, got 10"),
        ({"map_shape": (None, 12)}, r"`map_shape`: expected the size of the maps, got \(None, 12\)"),
        ({"parameter_names": ("a", "a")}, "`parameter_names`: expected different names"),
        ({"parameter_names": "Omega_m"}, "`parameter_names`: expected names"),
        ({"parameter_low": (0.1, 0.2, 0.3)}, "`parameter_low`: expected one number, or 2"),
        ({"parameter_high": (0.5, np.inf)}, "`parameter_high`: expected a finite number"),
        ({"parameter_high": (0.5, 0.6)}, "`parameter_high`: expected values above `parameter_low`"),
        ({"input_mean": np.nan}, "`input_mean`: expected a finite number"),
        ({"input_standard_deviation": 0.0}, "`input_standard_deviation`: expected a positive, finite number"),
        ({"minimum": 0.0}, "`minimum`: expected a positive, finite number"),
        ({"widths": ()}, "`widths`: expected a sequence"),
        ({"dense_units": 0}, "`dense_units`: expected an integer"),
        ({"seed": -1}, "`seed`: expected None or an integer"),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        MomentNetwork(**{**SMALL, **changes})
