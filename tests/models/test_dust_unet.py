import checks
import keras
import numpy as np
import plain_unet
import pytest
import tensorflow as tf

from keras_cosmo.losses import CorrelationLoss
from keras_cosmo.models.dust_unet import DustUNet

SMALL = {"in_channels": 3, "widths": (4, 6), "bottleneck": 8}


def cutouts(count=3, height=16, width=24, channels=3):
    return np.random.default_rng(2).gamma(2.0, 1.0, (count, height, width, channels)).astype("float32")


def count_weights(in_channels, widths, bottleneck):
    """From figure 2: units of a 3 x 3 kernel, scale and offset; the other convolutions with biases."""

    def unit(inputs, outputs):
        return 9 * inputs * outputs + 2 * outputs

    total, inputs = 0, in_channels
    for width in (*widths, bottleneck):
        total += unit(inputs, width) + unit(width, width)
        inputs = width
    for width in reversed(widths):
        total += 4 * inputs * width + width + unit(2 * width, width) + unit(width, width)
        inputs = width
    return total + inputs + 1


def test_weights_and_grids_of_the_paper():
    model = DustUNet(map_shape=(64, 64))
    counted = sum(weight.shape.num_elements() for weight in model.trainable_weights)
    assert counted == count_weights(64, (64, 128, 256, 512), 1024) == 31_072_769
    assert f"{counted:,} trainable weights" in " ".join(DustUNet.__doc__.split())
    fixed = sum(weight.shape.num_elements() for weight in model.non_trainable_weights)
    assert fixed == 2 * (4 * (64 + 128 + 256 + 512) + 2 * 1024) == 11_776
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers}
    assert shapes["encoder_4_pooling"] == (4, 4, 512)
    assert shapes["bottleneck_dropout_2"] == (4, 4, 1024)
    assert shapes["decoder_4_concatenation"] == (8, 8, 1024)
    assert shapes["decoder_1_dropout_2"] == (64, 64, 64)
    assert shapes["physical_units"] == (64, 64, 1)
    kinds = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert len(kinds) == 18
    assert {layer.rate for layer in kinds} == {0.3}


def transplant(model, seed):
    """Random weights into the network, and the same network in plain NumPy for one cutout, channels first."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for layer in model.layers:
        if layer.weights:
            shapes = [tuple(weight.shape) for weight in layer.get_weights()]
            fan_in = np.prod(shapes[0][:-1]) if len(shapes[0]) == 4 else 1
            arrays[layer.name] = [generator.normal(0, np.sqrt(2 / fan_in), shapes[0])]
            arrays[layer.name] += [generator.uniform(0.3, 1.5, shape) for shape in shapes[1:]]
            layer.set_weights(arrays[layer.name])

    def unit(maps, block, number):
        kernel = arrays[f"{block}_convolution_{number}"][0].transpose(3, 2, 0, 1)
        maps = plain_unet.convolve(maps, kernel, np.zeros(len(kernel)))
        scale, offset, mean, variance = (
            values[:, None, None] for values in arrays[f"{block}_batch_normalization_{number}"]
        )
        return np.maximum((maps - mean) / np.sqrt(variance + 1e-3) * scale + offset, 0)

    def upsample(maps, block):
        kernel, bias = arrays[f"{block}_transposed_convolution"]
        blocks = np.einsum("ihw,yxoi->ohywx", maps, kernel)
        return blocks.reshape(len(bias), 2 * maps.shape[1], 2 * maps.shape[2]) + bias[:, None, None]

    def reference(maps):
        maps, skips = maps / np.array(model.input_scale)[:, None, None], []
        for level in range(1, len(model.widths) + 1):
            for number in (1, 2):
                maps = unit(maps, f"encoder_{level}", number)
            skips.append(maps)
            maps = plain_unet.pool(maps)
        for number in (1, 2):
            maps = unit(maps, "bottleneck", number)
        for level in range(len(model.widths), 0, -1):
            maps = np.concatenate([upsample(maps, f"decoder_{level}"), skips[level - 1]])
            for number in (1, 2):
                maps = unit(maps, f"decoder_{level}", number)
        kernel, bias = arrays["output"]
        return (np.einsum("ihw,i->hw", maps, kernel[0, 0, :, 0]) + bias[0]) * model.output_scale

    return reference


@pytest.mark.parametrize("widths", [(4, 6), (3, 4, 5, 6)])
def test_equals_the_plain_reference(widths):
    model = DustUNet(3, widths=widths, bottleneck=7, input_scale=[1.0, 2.0, 0.3], output_scale=50.0)
    reference = transplant(model, 5)
    cube = cutouts(1, 16, 32)
    expected = reference(cube[0].transpose(2, 0, 1).astype(float))
    assert expected.std() > 0
    np.testing.assert_allclose(model(cube).numpy()[0, ..., 0], expected, rtol=0, atol=2e-5 * expected.std())


def test_model_laws(tmp_path):
    model = DustUNet(**SMALL, map_shape=(16, 24), input_scale=[1.0, 2.0, 3.0], output_scale=30.0)
    model.compile(keras.optimizers.Adam(1e-3), CorrelationLoss(23.4, ((None, 200),)), run_eagerly=True)
    targets = np.concatenate([cutouts(channels=1) * 30, np.ones((3, 16, 24, 1), "float32")], axis=-1)
    checks.check_model(model, cutouts(), targets, tmp_path)


def test_a_batch_mate_never_changes_an_output():
    model = DustUNet(**SMALL)
    transplant(model, 1)
    cubes = cutouts()
    alone = model(cubes[:1]).numpy()
    for mate in (1.0, 1e6, -3.0):
        together = model(np.concatenate([cubes[:1], mate * cubes[1:]])).numpy()
        np.testing.assert_allclose(together[:1], alone, rtol=1e-5, atol=1e-5 * alone.std())
        expected = model(mate * cubes).numpy()
        np.testing.assert_allclose(
            model.predict(mate * cubes, verbose=0), expected, rtol=1e-5, atol=1e-5 * expected.std()
        )


def test_dropout_acts_in_training_only_and_follows_the_seed():
    def outputs(seed):
        keras.utils.set_random_seed(9)
        model = DustUNet(**SMALL, dropout=0.5, seed=seed)
        cubes = cutouts()
        np.testing.assert_array_equal(model(cubes), model(cubes))
        return [model(cubes, training=True).numpy() for _ in range(2)], model

    (first, second), model = outputs(3)
    assert np.abs(first - second).max() > 0
    again, _ = outputs(3)
    np.testing.assert_array_equal(again, [first, second])
    other, _ = outputs(4)
    assert np.abs(other[0] - first).max() > 0
    seeds = [layer.get_config()["seed"] for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert len(set(seeds)) == len(seeds) == 10
    rebuilt = DustUNet.from_config(model.get_config())
    assert seeds == [layer.get_config()["seed"] for layer in rebuilt.layers if isinstance(layer, keras.layers.Dropout)]
    none = DustUNet(**SMALL, dropout=0.0)
    for layer in none.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    np.testing.assert_allclose(none(cutouts(), training=True), none(cutouts()), rtol=1e-5, atol=1e-7)


def test_scales_are_inside_and_masked_pixels_stay_zero():
    inside = DustUNet(**SMALL, input_scale=[10.0, 0.5, 2.0], output_scale=300.0)
    outside = DustUNet(**SMALL)
    outside.set_weights(inside.get_weights())
    cubes = cutouts()
    cubes[:, 4:9] = 0
    np.testing.assert_allclose(
        inside(cubes * np.float32([10, 0.5, 2])), 300 * outside(cubes).numpy(), rtol=1e-4, atol=1e-4
    )
    units = inside.get_layer("network_units")(cubes).numpy()
    assert (units[:, 4:9] == 0).all()
    assert units.dtype == np.float32


def test_any_size_and_depth():
    model = DustUNet(**SMALL)
    graph = tf.function(model, input_signature=[tf.TensorSpec((None, None, None, 3))])
    for size in ((8, 12), (16, 4)):
        cubes = cutouts(2, *size)
        np.testing.assert_allclose(graph(cubes), model(cubes), rtol=1e-4, atol=1e-6)
    for widths in ((3,), (2, 3, 4, 5, 6)):
        side = 2 ** (len(widths) + 1)
        assert DustUNet(2, widths=widths, bottleneck=4)(np.zeros((1, side, 3 * side, 2))).shape == (
            1,
            side,
            3 * side,
            1,
        )


def test_bfloat16_inside_float32_outside(tmp_path):
    model = DustUNet(**SMALL, dtype="mixed_bfloat16")
    assert model.get_layer("encoder_1_convolution_1").compute_dtype == "bfloat16"
    assert model.get_layer("decoder_2_transposed_convolution").compute_dtype == "bfloat16"
    assert model.get_layer("bottleneck_dropout_1").compute_dtype == "bfloat16"
    assert [layer.compute_dtype for layer in model.layers if layer.name in ("output", "network_units")] == [
        "float32"
    ] * 2
    assert model.output.dtype == "float32"
    assert all(weight.dtype == "float32" for weight in model.weights)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    assert loaded.get_layer("encoder_1_convolution_1").compute_dtype == "bfloat16"
    single = DustUNet(**SMALL)
    reference = transplant(single, 3)
    model.set_weights(single.get_weights())
    expected = reference(cutouts(1)[0].transpose(2, 0, 1).astype(float))
    assert np.abs(model(cutouts(1)).numpy()[0, ..., 0] - expected).std() < 0.05 * expected.std()


def test_starts_as_in_keras():
    model = DustUNet(3, widths=(16, 32), bottleneck=48, seed=1)
    for name, inputs, outputs in (
        ("encoder_2_convolution_1", 16 * 9, 32 * 9),
        ("decoder_2_transposed_convolution", 48 * 4, 32 * 4),
        ("output", 16, 1),
    ):
        limit = np.sqrt(6 / (inputs + outputs))
        kernel, *bias = model.get_layer(name).get_weights()
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.25 if name == "output" else 0.05)
        assert np.abs(kernel).max() <= limit
        assert all((values == 0).all() for values in bias)
    assert not model.get_layer("encoder_1_convolution_1").use_bias
    layer = model.get_layer("encoder_1_batch_normalization_1")
    assert (layer.momentum, layer.epsilon) == (0.99, 1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"map_shape": (60, 64)},
            "with 4 poolings by 2 the height must be divisible by 16 cells, got 60; nearest: 48 and",
        ),
        ({"map_shape": 64}, r"`map_shape`: expected \(height, width\)"),
        ({"in_channels": 0}, "`in_channels`: expected an integer of at least 1"),
        ({"widths": ()}, "`widths`: expected a sequence"),
        ({"bottleneck": 2.5}, "`bottleneck`: expected an integer"),
        ({"dropout": 1.0}, "`dropout`: expected a fraction"),
        ({"input_scale": [1.0, 2.0]}, r"`input_scale`: expected one number, or 64 \(one per velocity channel\), got 2"),
        ({"input_scale": 0.0}, "`input_scale`: expected a positive"),
        ({"output_scale": float("nan")}, "`output_scale`: expected a positive"),
        ({"batch_normalization_momentum": -0.1}, "`batch_normalization_momentum`: expected a fraction"),
        ({"batch_normalization_epsilon": 0}, "`batch_normalization_epsilon`: expected a positive"),
        ({"seed": 1.5}, "`seed`: expected None or an integer"),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        DustUNet(**changes)


def test_cutouts_of_the_wrong_size():
    model = DustUNet(3, widths=(2, 2, 2, 2), bottleneck=2)
    message = "`inputs`: with 4 poolings by 2 the width must be divisible by 16 cells, got 100; nearest: 96 and 112"
    for inputs in (np.zeros((1, 64, 100, 3)), keras.Input((64, 100, 3))):
        with pytest.raises(ValueError, match=message):
            model(inputs)
    with pytest.raises(ValueError, match=message):
        model.predict(np.zeros((1, 64, 100, 3)), verbose=0)
