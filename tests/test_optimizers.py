import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.optimizers import AdamL2
from keras_cosmo.training.trainer import Trainer

CENTER, STIFFNESS = np.array([0.3, 0.1, -1.0, 0.0]), np.array([1.0, 1e-6, 10.0, 1e-8])
START = np.array([1.0, -2.0, 3.0, 1e-3])


def gradient(weight):
    return 2 * STIFFNESS * (weight - CENTER)


def after_six_steps(**settings):
    weight = keras.Variable(START, dtype="float64")
    optimizer = AdamL2(0.05, beta_1=0.5, **settings)
    for _ in range(6):
        optimizer.apply([tf.constant(gradient(weight.numpy()))], [weight])
    return weight.numpy()


def plain_adam(weight, gradients, rate=1e-2, beta_1=0.5, beta_2=0.999, epsilon=1e-8, l2=0.0):
    """Kingma & Ba (2015), Algorithm 1, with L2 in the gradient."""
    first = second = np.zeros_like(weight)
    for step, value in enumerate(gradients, start=1):
        value = value + l2 * weight
        first = beta_1 * first + (1 - beta_1) * value
        second = beta_2 * second + (1 - beta_2) * value**2
        weight = weight - rate * (first / (1 - beta_1**step)) / (np.sqrt(second / (1 - beta_2**step)) + epsilon)
    return weight


def test_equals_pytorch():
    """Numbers of torch.optim.Adam 2.13 in float64 for the same quadratic; `epsilon` matters in the second."""
    decayed = [0.717087508426, -1.705461216001, 2.702651949484, -0.009940507508]
    np.testing.assert_allclose(after_six_steps(l2=0.1), decayed, rtol=1e-6)
    sluggish = [0.7175184891011, -1.987929740235, 2.702648924858, 9.999400011738e-04]
    np.testing.assert_allclose(after_six_steps(epsilon=1e-4), sluggish, rtol=1e-6)


@pytest.mark.parametrize(("l2", "beta_1"), [(0.0, 0.5), (0.05, 0.5), (0.05, 0.0)])
def test_equals_plain_numpy(l2, beta_1):
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((3, 4))
    gradients = generator.standard_normal((8, 3, 4)) * 10.0 ** generator.integers(-9, 1, (3, 4))
    variable = keras.Variable(weight, dtype="float64")
    optimizer = AdamL2(1e-2, beta_1=beta_1, l2=l2)
    for value in gradients:
        optimizer.apply([tf.constant(value)], [variable])
    np.testing.assert_allclose(variable, plain_adam(weight, gradients, beta_1=beta_1, l2=l2), rtol=1e-6)


def network(dtype=None):
    keras.utils.set_random_seed(4)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(2, 3, bias_initializer="ones", dtype=dtype),
            keras.layers.BatchNormalization(beta_initializer="ones", dtype=dtype),
            keras.layers.Flatten(dtype=dtype),
            keras.layers.Dense(1, bias_initializer="ones", dtype="float32"),
        ]
    )


def test_regularises_every_trainable_weight_and_not_the_reported_loss():
    """With a loss of zero gradient only the regularisation moves the weights: one learning rate towards zero."""
    model = network()
    model.compile(AdamL2(1e-2, l2=1e-3), loss=lambda y_true, y_pred: 0 * y_pred)
    before = [weight.numpy() for weight in model.trainable_weights]
    assert len(before) == 6
    assert model.train_on_batch(np.ones((4, 6, 6, 1)), np.ones((4, 1))) == 0
    for old, weight in zip(before, model.trainable_weights, strict=True):
        moved = np.abs(old) > 0.02
        assert moved.any()
        np.testing.assert_allclose((np.abs(old) - np.abs(weight))[moved], 1e-2, rtol=1e-2)


def test_same_steps_as_half_the_strength_in_a_regularizer():
    regularizer = keras.regularizers.L2(0.05 / 2)
    inputs, targets = np.random.default_rng(1).standard_normal((2, 8, 3)).astype("float32")
    models = []
    for settings, l2 in (({}, 0.05), ({"kernel_regularizer": regularizer, "bias_regularizer": regularizer}, 0.0)):
        keras.utils.set_random_seed(2)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, bias_initializer="ones", **settings)])
        model.compile(AdamL2(1e-2, l2=l2), "mse")
        for _ in range(5):
            model.train_on_batch(inputs, targets)
        models.append(model)
    for ours, theirs in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_config_round_trip(tmp_path):
    optimizer = AdamL2(2e-3, beta_1=0.5, beta_2=0.99, epsilon=1e-6, l2=1e-4, clipnorm=1.0)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert type(again) is AdamL2
    assert again.get_config() == optimizer.get_config()

    model = network()
    model.compile(optimizer, "mse")
    inputs, targets = np.ones((4, 6, 6, 1)), np.zeros((4, 1))
    model.train_on_batch(inputs, targets)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert (loaded.optimizer.l2, int(loaded.optimizer.iterations)) == (1e-4, 1)
    for one in (model, loaded):
        one.train_on_batch(inputs, targets)
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("wrapped", [False, True])
def test_mixed_precision(wrapped):
    model = network("mixed_float16" if wrapped else "mixed_bfloat16")
    optimizer = AdamL2(1e-2, l2=1e-4)
    model.compile(keras.mixed_precision.LossScaleOptimizer(optimizer, 128.0) if wrapped else optimizer, "mse")
    inputs, targets = np.random.default_rng(0).standard_normal((4, 6, 6, 1)), np.zeros((4, 1))
    before = [weight.numpy() for weight in model.trainable_weights]
    for _ in range(3):
        model.train_on_batch(inputs, targets)
    assert int(optimizer.iterations) == 3
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert np.isfinite(weight).all()
        assert not np.array_equal(old, weight)


class Data:
    steps_per_epoch = 4

    def training(self, start_step, total_steps):
        generator = np.random.default_rng(0)
        inputs = generator.standard_normal((100, 4, 6, 6, 1)).astype("float32")[start_step:total_steps]
        return tf.data.Dataset.from_tensor_slices((inputs, inputs.mean(axis=(2, 3))))


def test_in_the_trainer_with_a_plateau(tmp_path):
    model = network()
    model.compile(AdamL2(1e-2, beta_1=0.5, l2=1e-4), "mse")
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=1, min_delta=1e9)
    history = Trainer(model, tmp_path, monitor="loss").fit(Data(), None, epochs=3, callbacks=[plateau])
    assert history["learning_rate"] == pytest.approx([1e-2, 1e-2, 1e-3])
    again = network()
    again.compile(AdamL2(1e-2, beta_1=0.5, l2=1e-4), "mse")
    for index, batch in enumerate(Data().training(0, 12)):
        # The plateau needs one epoch to compare with and one to wait.
        again.optimizer.learning_rate = 1e-2 if index < 8 else 1e-3
        again.train_on_batch(*batch)
    for ours, theirs in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("l2", [-1e-4, float("nan"), float("inf"), "1e-4", True])
def test_wrong_strength(l2):
    with pytest.raises(ValueError, match="`l2`: expected a finite number"):
        AdamL2(l2=l2)


@pytest.mark.parametrize(("argument", "value"), [("weight_decay", 1e-4), ("amsgrad", True)])
def test_what_it_does_not_have(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}`: AdamL2"):
        AdamL2(**{argument: value})
