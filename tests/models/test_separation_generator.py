import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.models.separation_generator import SeparationGenerator

SCALE = 3e-8
SMALL = {"scale": SCALE, "depth": 3, "width": 4}


def maps(count=3, height=16, width=24, seed=2):
    return (1e-8 * np.random.default_rng(seed).random((count, height, width))).astype("float32")


def trainable_count(model):
    return sum(weight.shape.num_elements() for weight in model.trainable_weights)


def randomize(model, seed=7):
    """Give every layer weights of order one, running statistics included."""
    draw = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights(
                [draw.uniform(0.5, 1.5, shape), *draw.normal(0, 0.3, (2, *shape)), draw.uniform(0.3, 2.0, shape)]
            )
        elif layer.weights:
            kernel, *bias = layer.get_weights()
            fan_in = kernel[..., 0].size if isinstance(layer, keras.layers.Conv2D) else kernel[:, :, 0].size / 4
            layer.set_weights(
                [draw.normal(0, fan_in**-0.5, kernel.shape), *(draw.normal(0, 0.3, b.shape) for b in bias)]
            )


def convolve(field, kernel, bias, stride=2):
    """TensorFlow's "SAME" in plain NumPy: field (h, w, in), kernel (k, k, in, out)."""
    size = kernel.shape[0]
    shape = [-(-side // stride) for side in field.shape[:2]]
    total = [max((n - 1) * stride + size - side, 0) for n, side in zip(shape, field.shape[:2], strict=True)]
    padded = np.pad(field, [(margin // 2, margin - margin // 2) for margin in total] + [(0, 0)])
    result = np.zeros((*shape, kernel.shape[-1])) + bias
    for i in range(size):
        for j in range(size):
            result += padded[i:, j:][: stride * shape[0] : stride, : stride * shape[1] : stride] @ kernel[i, j]
    return result


def convolve_transposed(field, kernel, bias):
    """The transpose of `convolve` with stride 2: field (h, w, in), kernel (k, k, out, in)."""
    size = kernel.shape[0]
    height, width = field.shape[:2]
    before = max(size - 2, 0) // 2
    result = np.zeros((2 * height + size, 2 * width + size, kernel.shape[2]))
    for i in range(size):
        for j in range(size):
            result[i : i + 2 * height : 2, j : j + 2 * width : 2] += field @ kernel[i, j].T
    return result[before : before + 2 * height, before : before + 2 * width] + bias


def normalize(field, layer):
    gamma, beta, mean, variance = (np.float64(weight) for weight in layer.get_weights())
    return (field - mean) / np.sqrt(variance + 1e-5) * gamma + beta


def kernel_and_bias(layer):
    kernel, *bias = (np.float64(weight) for weight in layer.get_weights())
    return kernel, bias[0] if bias else 0.0


def plain_generator(model, field, lines, depth, scale):
    """Inference as the original code words it: LeakyReLU before a convolution, ReLU after concatenation."""
    x = 2 * np.float64(field)[..., None] / scale - 1
    encoded = []
    for level in range(1, depth + 1):
        if level > 1:
            x = np.maximum(x, 0.2 * x)
        x = convolve(x, *kernel_and_bias(model.get_layer(f"encoder_{level}_convolution")))
        if level > 1:
            x = normalize(x, model.get_layer(f"encoder_{level}_batch_normalization"))
        encoded.append(x)
    result = []
    for line in lines:
        x = encoded[-1]
        for number in range(1, depth + 1):
            name = f"{line}_decoder_{number}"
            layer = model.get_layer(f"{name}_transposed_convolution")
            x = convolve_transposed(np.maximum(x, 0), *kernel_and_bias(layer))
            if number < depth:
                x = normalize(x, model.get_layer(f"{name}_batch_normalization"))
                x = np.concatenate([x, encoded[depth - 1 - number]], -1)
        result.append((np.tanh(x[..., 0]) + 1) / 2 * scale)
    return np.stack(result, -1)


def test_weights_of_the_paper(monkeypatch):
    for name in ("TruncatedNormal", "RandomNormal"):
        monkeypatch.setattr(keras.initializers, name, lambda *_: "zeros")  # which takes no time
    model = SeparationGenerator(scale=SCALE)
    encoder = [model.get_layer(f"encoder_{level}_convolution") for level in range(1, 9)]
    assert [layer.output.shape[1:] for layer in encoder] == [
        (128, 128, 64),
        (64, 64, 128),
        (32, 32, 256),
        (16, 16, 512),
        (8, 8, 512),
        (4, 4, 512),
        (2, 2, 512),
        (1, 1, 512),
    ]
    for line in ("halpha", "oiii"):
        decoder = [model.get_layer(f"{line}_decoder_{number}_transposed_convolution") for number in range(1, 9)]
        assert [layer.filters for layer in decoder] == [512, 512, 512, 512, 256, 128, 64, 1]
        assert [layer.input.shape[-1] for layer in decoder] == [512, 1024, 1024, 1024, 1024, 512, 256, 128]
        names = [layer.name for layer in model.layers if layer.name.startswith(f"{line}_decoder")]
        assert sum("dropout" in name for name in names) == 3
        assert sum("batch_normalization" in name for name in names) == 7
    layers = [layer for layer in model.layers if "convolution" in layer.name]
    assert all(layer.kernel_size == (5, 5) and layer.strides == (2, 2) for layer in layers)
    dropped_biases = sum(layer.filters for layer in layers if not layer.use_bias)
    assert trainable_count(model) == 139_492_738
    assert trainable_count(model) + dropped_biases == 139_500_674
    layer = model.get_layer("encoder_2_batch_normalization")
    assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)


@pytest.mark.parametrize(("depth", "size"), [(1, (4, 2)), (3, (16, 24)), (4, (16, 16))])
def test_equals_the_plain_reference(depth, size):
    lines = ("halpha", "oiii", "oii")
    model = SeparationGenerator(size, lines, SCALE, depth=depth, width=3)
    randomize(model)
    field = maps(1, *size)
    expected = plain_generator(model, field[0], lines, depth, SCALE)
    predicted = model(field).numpy()[0]
    assert predicted.std() > 0.1 * SCALE
    assert np.abs(predicted - expected).max() < 1e-5 * SCALE


def test_starts_from_a_normal_distribution():
    keras.utils.set_random_seed(3)
    model = SeparationGenerator((16, 16), scale=1.0, depth=3, width=32)
    kernel = model.get_layer("encoder_2_convolution").get_weights()[0]
    assert np.abs(kernel).max() <= 0.04
    assert kernel.std() == pytest.approx(0.02 * 0.8796, rel=0.02)  # of a normal distribution cut at two deviations
    kernel = model.get_layer("oiii_decoder_2_transposed_convolution").get_weights()[0]
    assert kernel.std() == pytest.approx(0.02, rel=0.02)
    assert np.abs(kernel).max() > 0.06


def test_seed():
    def weights(seed):
        return SeparationGenerator((16, 16), **SMALL, seed=seed).get_weights()

    first, again, other = weights(5), weights(5), weights(6)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(np.array_equal(one, two) for one, two in zip(first, other, strict=True) if one.ndim > 1)
    kernels = [tuple(weight.ravel()[:3]) for weight in first if weight.ndim > 1]
    assert len(set(kernels)) == len(kernels)


def test_output_is_linear_in_the_scales():
    one = SeparationGenerator((16, 24), scale=1.0, depth=3, width=4)
    randomize(one)
    other = SeparationGenerator((16, 24), scale=7.0, input_scale=SCALE, line_scales=(2e-8, 5e-9), depth=3, width=4)
    other.set_weights(one.get_weights())
    expected = one(maps() / np.float32(SCALE)).numpy() * [2e-8, 5e-9]
    np.testing.assert_allclose(other(maps()), expected, rtol=1e-4)
    assert expected.max() > 1e-8


def test_bounds_of_the_output():
    tanh, softplus, linear = (
        SeparationGenerator((16, 24), **SMALL, output_activation=name) for name in ("tanh", "softplus", "linear")
    )
    randomize(tanh)
    tanh.set_weights([10 * weight if weight.ndim > 1 else weight for weight in tanh.get_weights()])
    softplus.set_weights(tanh.get_weights())
    linear.set_weights(tanh.get_weights())
    fields = maps()
    assert 0 <= tanh(fields).numpy().min() <= tanh(fields).numpy().max() <= np.float32(SCALE)
    # The three from the same values before the activation.
    values = 2 * np.float64(linear(fields)) / SCALE - 1
    assert values.max() > 3
    assert values.min() < -3
    np.testing.assert_allclose(tanh(fields), (np.tanh(values) + 1) * SCALE / 2, rtol=0, atol=1e-5 * SCALE)
    np.testing.assert_allclose(softplus(fields), np.logaddexp(0, values) * SCALE / 2, rtol=1e-4, atol=1e-5 * SCALE)
    assert softplus(fields).numpy().min() >= 0


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_batch_mate_changes_nothing(dtype):
    model = SeparationGenerator((16, 24), **SMALL, dtype=dtype)
    randomize(model)
    field, mate, other = maps(3)
    together = model(np.stack([field, mate])).numpy()
    np.testing.assert_array_equal(together[0], model(np.stack([field, other])).numpy()[0])
    np.testing.assert_allclose(together[0], model(field[None]).numpy()[0], rtol=0, atol=1e-5 * SCALE)
    assert np.abs(together[0] - together[1]).max() > 0.01 * SCALE


def test_dropout_in_inference_only_if_asked_for():
    plain = SeparationGenerator((16, 24), **SMALL, seed=1)
    stochastic = SeparationGenerator((16, 24), **SMALL, seed=1, stochastic=True)
    randomize(plain)
    stochastic.set_weights(plain.get_weights())
    np.testing.assert_array_equal(plain(maps()), plain(maps()))
    for call in (stochastic, tf.function(stochastic), lambda x: stochastic.predict(x, verbose=0)):
        assert np.abs(call(maps()) - np.asarray(call(maps()))).max() > 0.01 * SCALE
    field = maps(1)
    errors = stochastic(np.repeat(field, 300, 0)).numpy() - plain(field).numpy()
    assert np.abs(errors.mean(0)).mean() < 0.5 * np.abs(errors[0]).mean(), "dropout is not centred on the plain answer"
    before = [weight.numpy() for weight in stochastic.weights]
    stochastic(maps())
    assert all(np.array_equal(old, new.numpy()) for old, new in zip(before, stochastic.weights, strict=True))


def test_saved_alone(tmp_path):
    model = SeparationGenerator(
        (16, 24), ("halpha",), 1e-7, line_scales=[5e-8], depth=2, width=3, kernel_size=3, dropout=0.1, seed=3
    )
    randomize(model)
    model.save(tmp_path / "generator.keras")
    loaded = keras.saving.load_model(tmp_path / "generator.keras")
    assert type(loaded) is SeparationGenerator
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(loaded(maps()), model(maps()))


def test_maps_of_any_size():
    model = SeparationGenerator((None, None), **SMALL)
    graph = tf.function(model, input_signature=[tf.TensorSpec((None, None, None))])
    for size in ((8, 16), (24, 8)):
        assert model(maps(2, *size)).shape == (2, *size, 2)
        np.testing.assert_allclose(graph(maps(2, *size)), model(maps(2, *size)), rtol=1e-4)


def test_bfloat16_keeps_float32_boundary():
    model = SeparationGenerator((16, 24), **SMALL, dtype="mixed_bfloat16")
    assert model.get_layer("encoder_2_convolution").compute_dtype == "bfloat16"
    assert model.get_layer("oiii_decoder_2_dropout").compute_dtype == "bfloat16"
    assert model.get_layer("oiii_decoder_3_transposed_convolution").compute_dtype == "float32"
    assert model(maps()).dtype == "float32"
    assert all(weight.dtype == "float32" for weight in model.weights)
    precise = SeparationGenerator((16, 24), **SMALL, dtype="float32")
    randomize(precise)
    model.set_weights(precise.get_weights())
    assert 0 < np.abs(model(maps()) - precise(maps())).max() < 0.05 * SCALE


def test_bfloat16_as_global_policy_does_not_round_the_intensities():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = SeparationGenerator((16, 24), **SMALL, output_activation="linear")
        assert model.get_config()["dtype"] == "mixed_bfloat16"
        assert model.get_layer("observed_network_units").compute_dtype == "float32"
        inner = keras.Model(model.input, model.get_layer("observed_network_units").output)
        field = maps()
        np.testing.assert_allclose(inner(field), 2 * field / np.float32(SCALE) - 1, rtol=1e-6, atol=1e-6)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map_shape": (16, 60)}, r"depth 3 the width must be divisible by 8 cells, got 60; .*56 and 64"),
        ({"map_shape": (4, 8)}, "the height must be divisible by 8 cells, got 4; nearest: 8"),
        ({"map_shape": (64,)}, r"`map_shape`: expected \(height, width\) in cells"),
        ({"map_shape": (16, 8.5)}, "`map_shape`: expected an integer"),
        ({"lines": "halpha"}, "`lines`: expected names of letters"),
        ({"lines": ()}, "`lines`: expected names of letters"),
        ({"lines": ("h/alpha",)}, "`lines`: expected names of letters"),
        ({"lines": ("oiii", "oiii")}, "`lines`: expected different names"),
        ({"scale": None}, "`scale`: expected a positive, finite number, got None"),
        ({"input_scale": 0.0}, "`input_scale`: expected a positive"),
        ({"line_scales": [1.0]}, r"`line_scales`: expected one number, or 2 \(one per line\), got 1"),
        ({"depth": 0}, "`depth`: expected an integer of at least 1"),
        ({"width": 1.5}, "`width`: expected an integer of at least 1"),
        ({"kernel_size": 4}, "`kernel_size`: expected an odd number"),
        ({"dropout": 1.0}, "`dropout`: expected a fraction"),
        ({"output_activation": "relu"}, r"`output_activation`: expected one of \['tanh', 'softplus', 'linear'\]"),
        ({"seed": -1}, "`seed`: expected None or an integer of at least 0"),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        SeparationGenerator(**{"map_shape": (16, 16), **SMALL, **changes})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 16, 20), "`inputs`: with depth 3 the width must be divisible"),
        ((1, 16, 16), r"`inputs`: this network takes maps of \(16, 24\) pixels, got \(16, 16\)"),
        ((1, 16, 24, 1), r"`inputs`: expected intensity maps \(batch, height, width\), got the shape"),
    ],
)
def test_maps_of_the_wrong_size(shape, message):
    with pytest.raises(ValueError, match=message):
        SeparationGenerator((16, 24), **SMALL)(np.zeros(shape))
