import keras
import numpy as np
import pytest

from keras_cosmo.models.lightcone_regressor import LightconeRegressor
from keras_cosmo.models.replace_layers import replace_layers


def network():
    return LightconeRegressor((32, 40), input_mean=2.0, input_standard_deviation=3.0)


def test_other_layers_keep_their_weights():
    old = network()
    new = replace_layers(old, {"dense_2": keras.layers.Dense(16, "gelu", name="mine")})
    assert "mine" in [layer.name for layer in new.layers]
    np.testing.assert_array_equal(
        new.get_layer("convolution_1").get_weights()[0], old.get_layer("convolution_1").get_weights()[0]
    )
    assert not np.array_equal(new.get_layer("mine").get_weights()[0], old.get_layer("dense_2").get_weights()[0])
    assert new.get_layer("input_normalization").get_config()["mean"] == 2.0


def test_same_layer_gives_same_predictions():
    old = network()
    layer = keras.layers.Dense(16, "relu", name="mine")
    new = replace_layers(old, {"dense_2": layer})
    layer.set_weights(old.get_layer("dense_2").get_weights())
    maps = np.random.default_rng(0).standard_normal((3, 32, 40)).astype("float32")
    np.testing.assert_allclose(new.predict(maps, verbose=0), old.predict(maps, verbose=0), rtol=1e-6)


def test_frozen_layers_keep_weights_and_stay_frozen():
    old = network()
    frozen = ("convolution_1", "dense_1", "batch_normalization")
    for name in frozen:
        layer = old.get_layer(name)
        layer.set_weights([np.full_like(values, 0.5) for values in layer.get_weights()])
        layer.trainable = False
    new = replace_layers(old, {"dense_2": keras.layers.Dense(16, name="mine")})
    for one, other in zip(old.layers, new.layers, strict=True):
        if other.name == "mine":
            continue
        assert (other.name, other.trainable) == (one.name, one.trainable)
        for values, expected in zip(other.get_weights(), one.get_weights(), strict=True):
            np.testing.assert_array_equal(values, expected)
    new.compile("sgd", "mse")
    maps = np.random.default_rng(0).standard_normal((4, 32, 40)).astype("float32")
    new.train_on_batch(maps, np.ones((4, 4), "float32"))
    for name in frozen:
        for values in new.get_layer(name).get_weights():
            np.testing.assert_array_equal(values, 0.5)
    assert not np.array_equal(new.get_layer("output").get_weights()[0], old.get_layer("output").get_weights()[0])


@keras.saving.register_keras_serializable("keras_cosmo_tests")
class ForgetfulDense(keras.layers.Dense):
    """Its config does not say whether it is trainable."""

    def get_config(self):
        return {"units": self.units, "name": self.name}


def test_the_flag_is_kept_whatever_the_config_says():
    old = replace_layers(network(), {"dense_2": ForgetfulDense(16, name="mine")})
    old.get_layer("mine").trainable = False
    new = replace_layers(old, {"dense_3": keras.layers.Dense(8, name="other")})
    assert not new.get_layer("mine").trainable_weights
    assert new.get_layer("other").trainable_weights
    np.testing.assert_array_equal(new.get_layer("mine").get_weights()[0], old.get_layer("mine").get_weights()[0])


def test_errors():
    with pytest.raises(ValueError, match=r"no layer named.*'dense_9'.*dense_2"):
        replace_layers(network(), {"dense_9": keras.layers.Dense(16, name="mine")})
    with pytest.raises(ValueError, match="not built yet"):
        replace_layers(network(), {"dense_2": 16})
    with pytest.raises(ValueError, match="must return shape"):
        replace_layers(network(), {"dense_2": keras.layers.Dense(17, name="mine")})
    with pytest.raises(ValueError, match="'dense_1', as another layer"):
        replace_layers(network(), {"dense_2": keras.layers.Dense(16, name="dense_1")})
