"""Checks that every member of a family has to pass."""

import keras
import numpy as np


def check_model(model, inputs, targets, tmp_path, *, trainable_count=None):
    """A compiled model: batch independence, every weight moves, config and ``.keras`` round trips."""
    if trainable_count is not None:
        assert sum(weight.shape.num_elements() for weight in model.trainable_weights) == trainable_count
    alone = model.predict(inputs[:1], verbose=0)
    together = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(alone, together[:1], rtol=1e-4, atol=1e-5)

    rebuilt = model.__class__.from_config(model.get_config())
    assert [tuple(weight.shape) for weight in rebuilt.weights] == [tuple(weight.shape) for weight in model.weights]
    assert rebuilt.get_config() == model.get_config()

    before = [weight.numpy() for weight in model.trainable_weights]
    for _ in range(3):
        loss = model.train_on_batch(inputs, targets)
    assert np.isfinite(loss).all()
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert not np.array_equal(old, weight.numpy()), f"{weight.path} did not move"

    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0))


def check_loss(loss, y_true, y_pred, expected):
    """A loss: the number computed by hand, and a config round trip by its registered name."""
    np.testing.assert_allclose(float(loss(y_true, y_pred)), expected, rtol=1e-6)
    config = keras.saving.serialize_keras_object(loss)
    assert config["registered_name"].startswith("keras_cosmo>")
    again = keras.saving.deserialize_keras_object(config)
    np.testing.assert_allclose(float(again(y_true, y_pred)), expected, rtol=1e-6)
