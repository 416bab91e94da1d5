import checks
import keras
import numpy as np
import plain_unet
import pytest
import tensorflow as tf

from keras_cosmo.losses import StandardizedMeanSquaredError
from keras_cosmo.models.matter_unet import MatterUNet

SMALL = {"widths": (4, 6)}


def maps(count=3, height=16, width=24, channels=1):
    return np.random.default_rng(2).standard_normal((count, height, width, channels)).astype("float32")


def trainable_count(model):
    return sum(weight.shape.num_elements() for weight in model.trainable_weights)


def test_weights_of_the_paper():
    model = MatterUNet((200, 200))
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers}
    assert shapes["encoder_3_pooling"] == (25, 25, 256)
    assert shapes["bottleneck_relu_2"] == (25, 25, 512)
    assert shapes["decoder_3_cropping"] == (50, 50, 256)
    assert shapes["decoder_3_concatenation"] == (50, 50, 512)
    assert shapes["decoder_1_relu_2"] == (200, 200, 64)
    assert shapes["physical_units"] == (200, 200, 1)
    assert trainable_count(model) == 8_562_497


def transplant(height, width, padding, widths, channels=(1, 1)):
    """Largest difference from the plain reference, for the same weights, relative to the scatter of the output."""
    model = MatterUNet(
        widths=widths,
        padding=padding,
        in_channels=channels[0],
        out_channels=channels[1],
        input_mean=-100.0,
        input_standard_deviation=40.0,
        output_mean=0.1,
        output_standard_deviation=2.0,
    )
    weights = plain_unet.Weights(7)
    fields = maps(1, height, width, channels[0])
    expected = plain_unet.unet(
        fields[0].transpose(2, 0, 1).astype(float), weights, widths, channels[1], padding == "periodic"
    )
    weights.into(model)
    predicted = (model(fields * 40 - 100).numpy()[0].transpose(2, 0, 1) - 0.1) / 2
    assert predicted.std() > 0.1
    return np.abs(predicted - expected).max() / expected.std()


@pytest.mark.parametrize("padding", ["same", "periodic"])
@pytest.mark.parametrize("channels", [(1, 1), (2, 3)])
def test_equals_the_plain_reference(padding, channels):
    assert transplant(16, 24, padding, (6, 5, 8), channels) < 1e-4


@pytest.mark.parametrize("padding", ["same", "periodic"])
def test_equals_the_plain_reference_at_the_paper_widths(padding):
    assert transplant(16, 24, padding, (64, 128, 256)) < 1e-4


def test_model_laws(tmp_path):
    model = MatterUNet(
        (16, 24),
        2,
        2,
        **SMALL,
        input_mean=[0.0, 1.0],
        input_standard_deviation=2.0,
        output_mean=0.5,
        output_standard_deviation=[1.0, 3.0],
    )
    model.compile(keras.optimizers.Adam(1e-3), StandardizedMeanSquaredError([1.0, 3.0]), run_eagerly=True)
    checks.check_model(model, maps(channels=2), maps(channels=2), tmp_path)


@pytest.mark.parametrize("padding", ["same", "periodic"])
@pytest.mark.parametrize(
    ("widths", "channels", "kernel_size"), [((3,), (1, 1), 3), ((2, 3, 4, 5), (3, 2), 5), ((4, 2), (2, 1), 1)]
)
def test_any_depth_width_and_channels(widths, channels, kernel_size, padding):
    model = MatterUNet((None, None), *channels, widths=widths, kernel_size=kernel_size, padding=padding)
    side = 2 ** (len(widths) + 1)
    for shape in ((2, side, 3 * side), (1, 2 * side, side)):
        assert model(np.zeros((*shape, channels[0]))).shape == (*shape, channels[1])
    assert len(model.encoder_layer_names) == 4 * len(widths)


def test_normalisation_is_inside():
    inside = MatterUNet(
        in_channels=2,
        **SMALL,
        input_mean=[-30.0, 5.0],
        input_standard_deviation=[50.0, 2.0],
        output_mean=0.1,
        output_standard_deviation=0.3,
    )
    outside = MatterUNet(in_channels=2, **SMALL)
    outside.set_weights(inside.get_weights())
    normal = maps(channels=2)
    expected = outside.predict(normal, verbose=0) * 0.3 + 0.1
    fields = normal * np.float32([50, 2]) + np.float32([-30, 5])
    np.testing.assert_allclose(inside.predict(fields, verbose=0), expected, rtol=1e-4, atol=1e-5)


def test_periodic_network_follows_a_rolled_map():
    model = MatterUNet(padding="periodic", widths=(4, 6, 5))
    weights = plain_unet.Weights(1)
    plain_unet.unet(maps(1)[0].transpose(2, 0, 1).astype(float), weights, (4, 6, 5), 1, True)
    weights.into(model)
    fields = maps()
    predicted = model(fields).numpy()
    assert predicted.std() > 0.1
    for shift in ((8, 0), (0, 8), (-8, 16)):
        rolled = model(np.roll(fields, shift, (1, 2))).numpy()
        np.testing.assert_allclose(rolled, np.roll(predicted, shift, (1, 2)), rtol=0, atol=1e-5 * predicted.std())
    zeros = MatterUNet(widths=(4, 6, 5))
    zeros.set_weights(model.get_weights())
    rolled = np.roll(zeros(fields), (8, 0), (1, 2)) - zeros(np.roll(fields, (8, 0), (1, 2)))
    assert np.abs(rolled).max() > 0.1 * predicted.std()


@pytest.mark.parametrize("padding", ["same", "periodic"])
def test_graph_of_unknown_size(padding):
    model = MatterUNet(**SMALL, padding=padding)
    graph = tf.function(model, input_signature=[tf.TensorSpec((None, None, None, 1))])
    for size in ((8, 12), (16, 4)):
        fields = maps(2, *size)
        np.testing.assert_allclose(graph(fields), model(fields), rtol=1e-4, atol=1e-6)


def test_bfloat16_keeps_float32_statistics_and_boundary(tmp_path):
    """Statistics of large, nearly equal values: in bfloat16, with 8 bits, their variance would be lost."""
    model = MatterUNet(**SMALL, dtype="mixed_bfloat16", output_mean=1.0, output_standard_deviation=0.5)
    assert model.get_layer("encoder_1_convolution_1").compute_dtype == "bfloat16"
    assert model.get_layer("output").compute_dtype == "float32"
    assert model.output.dtype == "float32"
    assert all(weight.dtype == "float32" for weight in model.weights)
    layer = model.get_layer("encoder_1_batch_normalization_1")
    values = tf.cast(np.random.default_rng(0).choice([256.0, 258.0], (64, 8, 8, 4)), "bfloat16")
    layer(values, training=True)
    reference = np.asarray(values, dtype="float64").var(axis=(0, 1, 2))
    np.testing.assert_allclose((layer.moving_variance - 0.9) / 0.1, reference, rtol=1e-3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    assert loaded.get_layer("encoder_1_convolution_1").compute_dtype == "bfloat16"


def test_starts_as_in_pytorch():
    """Uniform within 1 / sqrt(fan-in), the fan-in of a transposed convolution counted over its outputs."""
    keras.utils.set_random_seed(3)
    model = MatterUNet(widths=(16, 32))
    for name, fan_in in (
        ("encoder_1_convolution_2", 16 * 9),
        ("decoder_2_transposed_convolution", 32 * 9),
        ("decoder_1_convolution_1", 32 * 9),
    ):
        kernel, bias = model.get_layer(name).get_weights()
        limit = 1 / np.sqrt(fan_in)
        assert 0.98 * limit < np.abs(kernel).max() <= limit
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)
        assert 0.5 * limit < np.abs(bias).max() <= limit
    layer = model.get_layer("encoder_1_batch_normalization_1")
    assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map_shape": (60, 64)}, "height must be divisible by 8 cells, got 60; nearest: 56 and 64"),
        ({"map_shape": (None, 4)}, "width must be divisible by 8 cells, got 4; nearest: 8"),
        ({"map_shape": (64,)}, r"`map_shape`: expected \(height, width\)"),
        ({"map_shape": 64}, r"`map_shape`: expected \(height, width\)"),
        ({"map_shape": (64, 6.5)}, "`map_shape`: expected an integer"),
        ({"in_channels": 0}, "`in_channels`: expected an integer of at least 1"),
        ({"out_channels": True}, "`out_channels`: expected an integer"),
        ({"widths": ()}, "`widths`: expected a sequence"),
        ({"widths": (64, -1)}, "`widths`: expected an integer"),
        ({"kernel_size": 4}, "`kernel_size`: expected an odd number"),
        ({"padding": "valid"}, "`padding`: expected one of"),
        ({"batch_normalization_momentum": 1.0}, "`batch_normalization_momentum`: expected a fraction"),
        ({"batch_normalization_epsilon": 0}, "`batch_normalization_epsilon`: expected a positive"),
        ({"input_mean": float("nan")}, "`input_mean`: expected a finite"),
        ({"input_mean": [1.0, 2.0]}, r"`input_mean`: expected one number, or 1 \(one per input channel\), got 2"),
        ({"output_standard_deviation": 0.0}, "`output_standard_deviation`: expected a positive"),
        ({"output_mean": [0.0, 0.0], "out_channels": 3}, r"or 3 \(one per output channel\), got 2"),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        MatterUNet(**changes)


def test_maps_of_the_wrong_size():
    model = MatterUNet()
    message = "`inputs`: with 3 poolings by 2 the width must be divisible by 8 cells, got 100; nearest: 96 and 104"
    with pytest.raises(ValueError, match=message):
        model(np.zeros((1, 64, 100, 1)))
    with pytest.raises(ValueError, match=message):
        model(keras.Input((64, 100, 1)))
    with pytest.raises(ValueError, match=message):
        model.predict(np.zeros((1, 64, 100, 1)), verbose=0)
    fixed = MatterUNet((64, 64))
    with pytest.raises(ValueError, match=r"expected shape=\(None, 64, 64, 1\)"):
        fixed(np.zeros((1, 32, 64, 1)))
