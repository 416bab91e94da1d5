import keras
import numpy as np
import pytest

from keras_cosmo.models.line_discriminator import LineDiscriminator

SCALE = 3e-8


def maps(count=3, height=16, width=24, seed=2):
    return (1e-8 * np.random.default_rng(seed).random((count, height, width))).astype("float32")


def convolve(field, kernel, bias, stride):
    """TensorFlow's "SAME" in plain NumPy."""
    size = kernel.shape[0]
    shape = [-(-side // stride) for side in field.shape[:2]]
    total = [max((n - 1) * stride + size - side, 0) for n, side in zip(shape, field.shape[:2], strict=True)]
    padded = np.pad(field, [(margin // 2, margin - margin // 2) for margin in total] + [(0, 0)])
    result = np.zeros((*shape, kernel.shape[-1])) + bias
    for i in range(size):
        for j in range(size):
            result += padded[i:, j:][: stride * shape[0] : stride, : stride * shape[1] : stride] @ kernel[i, j]
    return result


def test_weights_of_the_paper():
    model = LineDiscriminator(scale=SCALE)
    shapes = [model.get_layer(f"block_{number}_convolution").output.shape[1:] for number in range(1, 5)]
    assert shapes == [(128, 128, 64), (64, 64, 128), (32, 32, 256), (32, 32, 512)]
    assert model.get_layer("logit").kernel.shape == (32 * 32 * 512, 1)
    count = sum(weight.shape.num_elements() for weight in model.trainable_weights)
    assert count == 4_830_145
    assert count + 128 + 256 + 512 == 4_831_041
    assert [layer.name for layer in model.layers if "batch_normalization" in layer.name] == [
        f"block_{number}_batch_normalization" for number in (2, 3, 4)
    ]


@pytest.mark.parametrize("size", [(16, 24), (10, 6)])
def test_equals_the_plain_reference(size):
    model = LineDiscriminator(size, SCALE, line_scale=2e-8, width=3)
    draw = np.random.default_rng(4)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights(
                [draw.uniform(0.5, 1.5, shape), *draw.normal(0, 0.3, (2, *shape)), draw.uniform(0.3, 2.0, shape)]
            )
        elif layer.weights:
            kernel, *bias = layer.get_weights()
            fan_in = kernel[..., 0].size
            layer.set_weights(
                [draw.normal(0, fan_in**-0.5, kernel.shape), *(draw.normal(0, 0.3, b.shape) for b in bias)]
            )
    observed, line = maps(1, *size, seed=0), maps(1, *size, seed=1)
    x = np.stack([2 * np.float64(observed[0]) / SCALE - 1, 2 * np.float64(line[0]) / 2e-8 - 1], -1)
    for number in range(1, 5):
        kernel, *bias = model.get_layer(f"block_{number}_convolution").get_weights()
        x = convolve(x, np.float64(kernel), bias[0] if bias else 0.0, 2 if number < 4 else 1)
        if number > 1:
            gamma, beta, mean, variance = model.get_layer(f"block_{number}_batch_normalization").get_weights()
            x = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        x = np.maximum(x, 0.2 * x)
    kernel, bias = model.get_layer("logit").get_weights()
    expected = x.ravel() @ np.float64(kernel[:, 0]) + bias[0]
    logit = model([observed, line]).numpy()
    assert logit.shape == (1, 1)
    assert abs(expected) > 0.05
    assert logit[0, 0] == pytest.approx(expected, rel=1e-4)


def test_saved(tmp_path):
    model = LineDiscriminator((16, 24), SCALE, line_scale=2e-8, width=2, kernel_size=3, seed=4)
    model.save(tmp_path / "discriminator.keras")
    loaded = keras.saving.load_model(tmp_path / "discriminator.keras")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(loaded([maps(), maps()]), model([maps(), maps()]))


def test_bfloat16_keeps_a_float32_logit():
    model = LineDiscriminator((16, 24), SCALE, width=2, dtype="mixed_bfloat16")
    assert model.get_layer("block_2_convolution").compute_dtype == "bfloat16"
    assert model.get_layer("pair").compute_dtype == "float32"
    assert model([maps(), maps()]).dtype == "float32"


def test_a_batch_mate_changes_nothing():
    model = LineDiscriminator((16, 24), SCALE, width=2)
    (one, mate, other), (line, second, third) = maps(3), maps(3, seed=5)
    together = model([np.stack([one, mate]), np.stack([line, second])]).numpy()
    apart = model([np.stack([one, other]), np.stack([line, third])]).numpy()
    np.testing.assert_array_equal(together[0], apart[0])
    assert together[1] != apart[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map_shape": (None, 16)}, "needs maps of one known size"),
        ({"map_shape": 16}, "needs maps of one known size"),
        ({"map_shape": (16, 0)}, "`map_shape`: expected an integer"),
        ({"scale": None}, "`scale`: expected a positive"),
        ({"line_scale": -1.0}, "`line_scale`: expected a positive"),
        ({"width": 0}, "`width`: expected an integer"),
        ({"kernel_size": 2}, "`kernel_size`: expected an odd number"),
        ({"seed": 0.5}, "`seed`: expected None or an integer"),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        LineDiscriminator(**{"map_shape": (16, 16), "scale": 1.0, **changes})
