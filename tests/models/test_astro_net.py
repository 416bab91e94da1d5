import checks
import keras
import numpy as np
import plain_unet
import pytest

from keras_cosmo.losses import StandardizedMeanSquaredError
from keras_cosmo.models.astro_net import AstroNet
from keras_cosmo.models.matter_unet import MatterUNet

SMALL = {
    "map_shape": (24, 16),
    "encoder_widths": (3, 4),
    "widths": (5, 6),
    "dense_units": 7,
    "input_mean": -100.0,
    "input_standard_deviation": 40.0,
    "output_mean": [40.0, 8.0, 3.0],
    "output_standard_deviation": [1.0, 1.0, 1.0],
}
UNET = {"widths": (3, 4), "input_mean": -100.0, "input_standard_deviation": 40.0}


def batch(count=8):
    generator = np.random.default_rng(2)
    maps = (40 * generator.standard_normal((count, 24, 16, 1)) - 100).astype("float32")
    return maps, generator.uniform([40, 8, 3], [41, 9, 4], (count, 3)).astype("float32")


def compiled(**changes):
    model = AstroNet(**{**SMALL, **changes})
    # Eagerly: the networks are small, and graphs take longer to make than a few steps.
    loss = StandardizedMeanSquaredError([1.0, 1.0, 1.0])
    model.compile(keras.optimizers.Adam(1e-2), loss, run_eagerly=True)
    return model


def trained_unet(**changes):
    """A U-Net whose running means and variances are no longer those it starts with."""
    unet = MatterUNet(**{**UNET, **changes})
    unet.compile(keras.optimizers.Adam(1e-2), "mse", run_eagerly=True)
    maps, _ = batch()
    for _ in range(3):
        unet.train_on_batch(maps, np.zeros((len(maps), 24, 16, 1), "float32"))
    return unet


def trainable_count(model):
    return sum(weight.shape.num_elements() for weight in model.trainable_weights)


def encoder_weights(model):
    return [weight for name in model.encoder_layer_names for weight in model.get_layer(name).get_weights()]


def test_table_3_to_the_weight():
    model = AstroNet()
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers}
    assert shapes["encoder_3_pooling"] == (25, 25, 256)
    assert [shapes[f"regression_relu_{number}"] for number in (1, 2, 3)] == [(13, 13, 512), (7, 7, 1028), (4, 4, 1028)]
    assert (shapes["dense"], shapes["output"]) == ((100,), (3,))
    assert model.get_layer("dropout").rate == 0.2
    assert trainable_count(model) == 18_226_683
    model.trainable_encoder = False
    assert trainable_count(model) == 17_080_635


@pytest.mark.parametrize("trainable_encoder", [True, False])
def test_model_laws(tmp_path, trainable_encoder):
    maps, parameters = batch()
    checks.check_model(compiled(trainable_encoder=trainable_encoder, dropout=0.0), maps, parameters, tmp_path)


@pytest.mark.parametrize("padding", ["same", "periodic"])
@pytest.mark.parametrize(
    ("encoder_widths", "widths", "height", "width"),
    [((3, 5), (4, 6, 5), 20, 36), ((4,), (6,), 8, 6), ((64, 128, 256), (512,), 16, 24)],
)
def test_equals_the_plain_reference(padding, encoder_widths, widths, height, width):
    """Odd and even sizes before the units with stride 2, which pad alike on both sides."""
    model = AstroNet(
        (height, width),
        2,
        3,
        encoder_widths=encoder_widths,
        widths=widths,
        dense_units=11,
        padding=padding,
        output_mean=[40.0, 8.0, 3.0],
        output_standard_deviation=[1.0, 2.0, 3.0],
    )
    weights = plain_unet.Weights(5)
    maps = np.random.default_rng(1).standard_normal((1, height, width, 2)).astype("float32")
    expected = plain_unet.astro_net(
        maps[0].transpose(2, 0, 1).astype(float), weights, encoder_widths, widths, 11, 3, padding == "periodic"
    )
    weights.into(model)
    np.testing.assert_allclose((model(maps)[0] - [40.0, 8.0, 3.0]) / [1.0, 2.0, 3.0], expected, rtol=0, atol=1e-4)


def test_encoder_is_that_of_the_unet():
    unet = trained_unet()
    model = compiled()
    assert model.encoder_layer_names == unet.encoder_layer_names
    model.copy_encoder(unet)
    maps, _ = batch()
    ours, theirs = (
        keras.Model(network.input, network.get_layer("encoder_2_pooling").output) for network in (model, unet)
    )
    np.testing.assert_array_equal(ours(maps), theirs(maps))


@pytest.mark.parametrize("trainable_encoder", [True, False])
def test_training_leaves_the_unet_alone(trainable_encoder):
    unet = trained_unet()
    before = [weight.copy() for weight in unet.get_weights()]
    model = compiled(trainable_encoder=trainable_encoder)
    model.copy_encoder(unet)
    start = encoder_weights(model)
    maps, parameters = batch()
    for _ in range(3):
        model.train_on_batch(maps, parameters)
    for old, now in zip(before, unet.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    # Running means and variances of a fixed encoder stay too.
    moved = [not np.array_equal(old, now) for old, now in zip(start, encoder_weights(model), strict=True)]
    assert all(moved) if trainable_encoder else not any(moved)
    assert all(layer.trainable for layer in unet.layers)
    assert len(unet.trainable_weights) == len(MatterUNet(**UNET).trainable_weights)


def test_training_the_unet_on_leaves_the_copy_alone():
    unet, model = trained_unet(), compiled()
    model.copy_encoder(unet)
    start = encoder_weights(model)
    unet.train_on_batch(batch()[0], np.ones((8, 24, 16, 1), "float32"))
    for old, now in zip(start, encoder_weights(model), strict=True):
        np.testing.assert_array_equal(old, now)


@pytest.mark.parametrize("start", [True, False])
def test_trainability_survives_saving(tmp_path, start):
    model = AstroNet(**SMALL, trainable_encoder=start)
    for flag in (start, not start):
        model.trainable_encoder = flag
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.trainable_encoder is flag
        assert len(loaded.trainable_weights) == len(model.trainable_weights)
    model.trainable = False
    model.save(tmp_path / "model.keras")
    assert not keras.saving.load_model(tmp_path / "model.keras").trainable_weights


def test_normalisation_is_inside():
    inside = compiled()
    outside = compiled(input_mean=0.0, input_standard_deviation=1.0, output_mean=0.0)
    outside.set_weights(inside.get_weights())
    maps, _ = batch()
    expected = outside.predict((maps + 100) / 40, verbose=0) + np.array([40, 8, 3])
    np.testing.assert_allclose(inside.predict(maps, verbose=0), expected, rtol=1e-5)


def test_bfloat16_keeps_float32_at_the_boundary():
    model = compiled(dtype="mixed_bfloat16")
    assert model.get_layer("regression_convolution_1").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"
    assert all(weight.dtype == "float32" for weight in model.weights)
    assert AstroNet.from_config(model.get_config()).get_layer("dense").compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_mean": -90.0}, r"this AstroNet has input_mean=\(-100.0,\). Build it with input_mean=\(-90.0,\)"),
        ({"input_standard_deviation": 30.0}, r"Build it with input_standard_deviation=\(30.0,\)"),
        ({"widths": (3, 5)}, r"Build it with encoder_widths=\(3, 5\)"),
        ({"in_channels": 2}, "Build it with in_channels=2, input_mean="),
        ({"padding": "periodic"}, "Build it with padding='periodic'"),
        ({"kernel_size": 5}, "Build it with kernel_size=5"),
        ({"batch_normalization_epsilon": 1e-3}, "Build it with batch_normalization_epsilon=0.001"),
    ],
)
def test_encoders_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        compiled().copy_encoder(MatterUNet(**{**UNET, **changes}))


def test_only_a_unet_has_the_encoder():
    with pytest.raises(TypeError, match="`matter_unet`: expected a MatterUNet, got Sequential"):
        compiled().copy_encoder(keras.Sequential())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map_shape": (22, 16)}, "height must be divisible by 4 cells, got 22; nearest: 20 and 24"),
        ({"map_shape": (None, 16)}, r"needs maps of one known size, got \(None, 16\)"),
        ({"num_parameters": 0}, "`num_parameters`: expected an integer"),
        ({"encoder_widths": "64"}, "`encoder_widths`: expected a sequence"),
        ({"widths": (0,)}, "`widths`: expected an integer"),
        ({"dense_units": 1.5}, "`dense_units`: expected an integer"),
        ({"dropout": 1.0}, "`dropout`: expected a fraction"),
        ({"padding": "valid"}, "`padding`: expected one of"),
        ({"output_mean": [1.0, 2.0]}, r"`output_mean`: expected one number, or 3 \(one per parameter\), got 2"),
        ({"output_standard_deviation": [1.0, 0.0, 1.0]}, "`output_standard_deviation`: expected a positive"),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        AstroNet(**{**SMALL, **changes})


def test_maps_of_the_wrong_size():
    with pytest.raises(ValueError, match=r"expected shape=\(None, 24, 16, 1\)"):
        AstroNet(**SMALL)(np.zeros((1, 24, 24, 1)))
