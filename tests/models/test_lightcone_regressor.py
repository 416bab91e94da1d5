import json

import checks
import keras
import numpy as np
import pytest

from keras_cosmo.losses import StandardizedMeanSquaredError
from keras_cosmo.models.lightcone_regressor import LightconeRegressor, minimum_map_side

NORMALIZATION = {
    "input_mean": -30.0,
    "input_standard_deviation": 50.0,
    "output_mean": [130.0, 40.0, 5.0, 0.8],
    "output_standard_deviation": [70.0, 1.2, 0.6, 0.4],
}


def compiled(**changes):
    model = LightconeRegressor(map_shape=(32, 40), **{**NORMALIZATION, **changes})
    model.compile(
        keras.optimizers.RMSprop(1e-3), StandardizedMeanSquaredError(NORMALIZATION["output_standard_deviation"])
    )
    return model


def batch(count=6):
    generator = np.random.default_rng(3)
    maps = (50 * generator.standard_normal((count, 32, 40)) - 30).astype("float32")
    return maps, generator.uniform([10, 38, 4, 0.1], [250, 42, 6, 1.5], (count, 4)).astype("float32")


def test_table_1_to_the_weight():
    model = LightconeRegressor()
    rows = {
        layer.name: (tuple(layer.output.shape[1:]), sum(w.shape.num_elements() for w in layer.trainable_weights))
        for layer in model.layers
    }
    assert rows["convolution_1"] == ((91, 2191, 8), 808)
    assert rows["pooling_1"] == ((45, 1095, 8), 0)
    assert rows["convolution_2"] == ((36, 1086, 16), 12_816)
    assert rows["pooling_2"] == ((18, 543, 16), 0)
    assert rows["flatten"] == ((156_384,), 0)
    assert rows["dense_1"] == ((64,), 10_008_640)
    assert rows["batch_normalization"] == ((64,), 128)
    assert rows["dense_2"] == ((16,), 1040)
    assert rows["dense_3"] == ((8,), 136)
    assert rows["output"] == ((4,), 36)
    assert sum(count for _, count in rows.values()) == 10_023_604
    assert model.get_layer("dropout").rate == 0.2


def test_model_laws(tmp_path):
    maps, parameters = batch()
    checks.check_model(compiled(), maps, parameters, tmp_path)


def test_normalisation_is_inside():
    """A network with normalisation equals one without, fed and read in standardised quantities."""
    maps, _ = batch()
    inside = compiled()
    outside = compiled(input_mean=0.0, input_standard_deviation=1.0, output_mean=None, output_standard_deviation=None)
    outside.set_weights(inside.get_weights())
    expected = outside.predict((maps + 30) / 50, verbose=0) * NORMALIZATION["output_standard_deviation"]
    expected += NORMALIZATION["output_mean"]
    np.testing.assert_allclose(inside.predict(maps, verbose=0), expected, rtol=1e-4)


def test_bfloat16_keeps_float32_at_the_boundary():
    model = compiled(dtype="mixed_bfloat16")
    assert model.get_layer("convolution_1").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"
    assert all(weight.dtype == "float32" for weight in model.weights)
    assert LightconeRegressor.from_config(model.get_config()).get_layer("dense_1").compute_dtype == "bfloat16"


def test_any_number_of_parameters_and_stages():
    model = LightconeRegressor((20, 30), 2, filters=(3,), kernel_size=5, dense_units=(7,), dropout=0.0)
    assert model.output.shape == (None, 2)
    assert model.get_layer("convolution_1").output.shape == (None, 16, 26, 3)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_minimum_map_is_exact(stages):
    side = minimum_map_side(stages, 10, 2)
    LightconeRegressor((side, side), filters=(2,) * stages)
    with pytest.raises(ValueError, match=f"at least {side} cells"):
        LightconeRegressor((side, side - 1), filters=(2,) * stages)


def test_wrong_lengths():
    with pytest.raises(ValueError, match="`output_mean`: expected 4 values"):
        LightconeRegressor((32, 40), output_mean=[1.0, 2.0])
    with pytest.raises(ValueError, match="`output_mean`: expected 4 values, one per parameter, got 1"):
        LightconeRegressor((32, 40), output_mean=3.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dropout": 1.0}, r"`dropout`: expected a fraction from 0 .* 1, got 1\.0"),
        ({"dropout": -0.1}, r"`dropout`: .*got -0\.1"),
        ({"dropout": np.nan}, r"`dropout`: .*got nan"),
        ({"kernel_size": 0}, r"`kernel_size`: expected an integer of at least 1, got 0"),
        ({"kernel_size": 2.5}, r"`kernel_size`: .*got 2\.5"),
        ({"pool_size": -2}, r"`pool_size`: .*got -2"),
        ({"num_parameters": 0}, r"`num_parameters`: .*got 0"),
        ({"filters": (8, 0)}, r"`filters`: .*got 0"),
        ({"filters": 8}, r"`filters`: expected a sequence of integers of at least 1, got 8"),
        ({"dense_units": (64, -1)}, r"`dense_units`: .*got -1"),
        ({"input_mean": np.inf}, r"`input_mean`: expected a finite number, got inf"),
        ({"input_standard_deviation": 0.0}, r"`input_standard_deviation`: expected a positive, finite .*got 0\.0"),
        ({"input_standard_deviation": np.nan}, r"`input_standard_deviation`: .*got nan"),
        ({"output_mean": [1, 2, np.nan, 4]}, r"`output_mean`: expected a finite number, got nan"),
        ({"output_standard_deviation": [1, 2, 0, 4]}, r"`output_standard_deviation`: .*positive.*got 0"),
        ({"output_standard_deviation": [1, 2, -3, 4]}, r"`output_standard_deviation`: .*got -3"),
        ({"output_standard_deviation": [1, 2, np.nan, 4]}, r"`output_standard_deviation`: .*got nan"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        LightconeRegressor((32, 40), **arguments)


def test_an_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match="filterz"):
        LightconeRegressor((32, 40), filterz=(8, 16))


def saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


def test_numpy_arguments_are_saved_as_plain_values(tmp_path):
    numpy = {name: np.asarray(value, "float32") for name, value in NORMALIZATION.items()}
    model = LightconeRegressor(np.array([32, 40]), np.int64(4), filters=np.array([3, 4]), **numpy)
    json.dumps(model.get_config())
    loaded = saved_and_loaded(model, tmp_path)
    assert loaded.get_config() == model.get_config()
    assert loaded.output_mean == [float(value) for value in numpy["output_mean"]]
    np.testing.assert_array_equal(loaded.predict(batch()[0], verbose=0), model.predict(batch()[0], verbose=0))


@pytest.fixture
def global_policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(("built", "loaded_under"), [("mixed_bfloat16", "float32"), ("float32", "mixed_bfloat16")])
def test_the_global_policy_is_kept(built, loaded_under, global_policy, tmp_path):
    global_policy(built)
    model = LightconeRegressor((32, 40), **NORMALIZATION)
    expected = model.predict(batch()[0], verbose=0)
    model.save(tmp_path / "model.keras")
    global_policy(loaded_under)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for layer in ("convolution_1", "dense_1", "batch_normalization"):
        assert loaded.get_layer(layer).dtype_policy.name == built
    for layer in ("input_normalization", "channel", "output", "physical_units"):
        assert loaded.get_layer(layer).dtype_policy.name == "float32"
    np.testing.assert_array_equal(loaded.predict(batch()[0], verbose=0), expected)


def test_a_policy_object_is_kept(tmp_path):
    policies = keras.dtype_policies.DTypePolicyMap("float32", {"dense_2": keras.DTypePolicy("mixed_bfloat16")})
    loaded = saved_and_loaded(LightconeRegressor((32, 40), dtype=policies), tmp_path)
    assert loaded.get_layer("dense_2").compute_dtype == "bfloat16"
    assert loaded.get_layer("dense_1").compute_dtype == "float32"
    plain = LightconeRegressor((32, 40), dtype=keras.DTypePolicy("mixed_bfloat16"))
    assert plain.get_config()["dtype"] == "mixed_bfloat16"


def test_a_frozen_model_stays_frozen(tmp_path):
    model = LightconeRegressor((32, 40), **NORMALIZATION)
    model.trainable = False
    loaded = saved_and_loaded(model, tmp_path)
    assert not loaded.trainable_weights
    np.testing.assert_array_equal(loaded.predict(batch()[0], verbose=0), model.predict(batch()[0], verbose=0))
