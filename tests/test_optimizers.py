import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.optimizers import Adam, AdamL2
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
@pytest.mark.parametrize("optimizer", [lambda: AdamL2(1e-2, l2=1e-4), lambda: Adam(1e-2)])
def test_mixed_precision(wrapped, optimizer):
    model = network("mixed_float16" if wrapped else "mixed_bfloat16")
    optimizer = optimizer()
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


OPERATION = "ResourceApplyAdam"
SHAPES = ((3, 4), (5,), ())


def weights_and_gradients(steps=20, start=None, dtype="float32"):
    """Weights of several shapes, and for every step their gradients, over ten powers of ten."""
    generator = np.random.default_rng(3)
    values = [np.full(shape, start) if start is not None else generator.standard_normal(shape) for shape in SHAPES]
    gradients = [
        [generator.standard_normal(shape) * 10.0 ** generator.integers(-7, 3, shape) for shape in SHAPES]
        for _ in range(steps)
    ]
    variables = [keras.Variable(value, dtype=dtype, name=f"weight_{index}") for index, value in enumerate(values)]
    return variables, [[tf.constant(one, dtype) for one in step] for step in gradients]


def operations(graph):
    """Types of the operations of a graph, those of its branches too."""
    return re.findall(r'\bop: "(\w+)"', str(graph.as_graph_def()))


def rows_of(gradient):
    return tf.IndexedSlices(gradient, tf.range(gradient.shape[0]), tf.shape(gradient))


def updated(optimizer, steps=20, sparse=False, **start):
    """Weights after some steps, and the number of TensorFlow's own updates in the graph of one."""
    variables, gradients = weights_and_gradients(steps, **start)
    optimizer.build(variables)

    def with_rows(gradients):
        if sparse:
            gradients = [rows_of(one) if one.shape.rank else one for one in gradients]
        tf.distribute.get_strategy().run(lambda: optimizer.apply(gradients, variables))

    step = tf.function(with_rows, autograph=False)
    found = operations(step.get_concrete_function(gradients[0]).graph)
    for one in gradients:
        step(one)
    return [variable.numpy() for variable in variables], found.count(OPERATION)


def plain_keras_adam(weight, gradients, rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    """Kingma & Ba (2015), end of section 2: epsilon before the bias correction."""
    first = second = np.zeros_like(weight)
    for step, value in enumerate(gradients, start=1):
        first = beta_1 * first + (1 - beta_1) * value
        second = beta_2 * second + (1 - beta_2) * value**2
        corrected = rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        weight = weight - corrected * first / (np.sqrt(second) + epsilon)
    return weight


@pytest.mark.parametrize(
    ("optimizer", "plain"),
    [
        (lambda: Adam(1e-3), lambda weight, gradients: plain_keras_adam(weight, gradients, 1e-3)),
        (
            lambda: AdamL2(1e-3, epsilon=1e-4, l2=0.5),
            lambda weight, gradients: plain_adam(weight, gradients, 1e-3, 0.9, epsilon=1e-4, l2=0.5),
        ),
    ],
)
def test_the_operation_equals_plain_numpy(optimizer, plain):
    """From zero, so that the digits of the steps are seen, not only those of the weights."""
    found, count = updated(optimizer(), start=0.0)
    assert count == len(SHAPES)
    _, gradients = weights_and_gradients(start=0.0)
    for index, shape in enumerate(SHAPES):
        expected = plain(np.zeros(shape), [step[index].numpy().astype("float64") for step in gradients])
        np.testing.assert_allclose(found[index], expected, rtol=1e-5, atol=1e-8)


def decay():
    return keras.optimizers.schedules.CosineDecay(1e-3, 20)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"learning_rate": decay},
        {"epsilon": 1e-3},
        {"clipnorm": 0.1},
        {"global_clipnorm": 0.1},
        {"clipvalue": 0.01},
        {"weight_decay": 0.1},
        {"loss_scale_factor": 8.0},
        {"gradient_accumulation_steps": 4},
        {"use_ema": True, "ema_overwrite_frequency": 3},
    ],
    ids=lambda settings: next(iter(settings), "none"),
)
def test_equals_keras_with_one_operation_for_each_weight(settings):
    def make(kind):
        rate = settings.get("learning_rate", lambda: 1e-3)()
        return kind(**{**settings, "learning_rate": rate})

    one, other = make(Adam), make(keras.optimizers.Adam)
    found, count = updated(one)
    expected, none = updated(other)
    assert (count, none) == (len(SHAPES), 0)
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-7)
    assert [variable.path for variable in one.variables] != []
    names = [[variable.name for variable in optimizer.variables] for optimizer in (one, other)]
    assert names[0] == names[1]
    for value, wanted in zip(one.variables, other.variables, strict=True):
        # 1 - beta_2 in float32, see `Adam`.
        rtol = 2e-5 if value.name.endswith("velocity") else 1e-6
        np.testing.assert_allclose(value, wanted, rtol=rtol, atol=1e-7)


def test_what_the_operation_does_not_have_is_keras():
    check_keras_itself(amsgrad=True)


def check_keras_itself(dtype="float32", **settings):
    found, count = updated(Adam(1e-3, **settings), dtype=dtype)
    assert count == 0
    expected, _ = updated(keras.optimizers.Adam(1e-3, **settings), dtype=dtype)
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(value, wanted)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_weights_that_are_not_float32_are_left_to_keras(dtype):
    check_keras_itself(dtype)


def test_gradients_of_rows_are_left_to_keras():
    """As of `Embedding`; the weight without rows has a dense gradient and the operation."""
    found, count = updated(Adam(1e-3), sparse=True)
    assert count == 1
    for value, wanted in zip(found, updated(keras.optimizers.Adam(1e-3), sparse=True)[0], strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_other_strategies_are_left_to_keras():
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        check_keras_itself()


def test_other_backends_are_left_to_keras(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    check_keras_itself()


def examples():
    inputs = np.random.default_rng(1).standard_normal((8, 6, 6, 1)).astype("float32")
    return inputs, inputs.mean(axis=(1, 2))


def plain_network():
    """Without batch normalisation, before which gradients of biases are rounding, and Adam divides by their size."""
    keras.utils.set_random_seed(4)
    layers = [keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((6, 6, 1)), *layers])


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 2}], ids=str)
def test_ways_to_run_a_model(options):
    models = []
    for kind in (Adam, keras.optimizers.Adam):
        model = plain_network()
        model.compile(kind(1e-3), "mse", **{"jit_compile": False, **options})
        inputs, targets = examples()
        model.fit(inputs, targets, batch_size=4, epochs=2, shuffle=False, verbose=0)
        models.append(model)
    for value, wanted in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_each_goes_on_where_the_other_stopped(turned, tmp_path):
    """Through Keras's file of weights, which holds the optimizer's variables, and through TensorFlow's checkpoint."""
    first, second = (keras.optimizers.Adam, Adam) if turned else (Adam, keras.optimizers.Adam)
    batch = examples()
    model = plain_network()
    model.compile(first(1e-3), "mse", jit_compile=False)
    for _ in range(3):
        model.train_on_batch(*batch)
    model.save_weights(tmp_path / "after.weights.h5")
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(tmp_path / "checkpoint")
    before = [variable.numpy() for variable in model.optimizer.variables]

    others = [plain_network(), plain_network()]
    for other in others:
        other.compile(second(1e-3), "mse", jit_compile=False)
        other.optimizer.build(other.trainable_variables)
    others[0].load_weights(tmp_path / "after.weights.h5")
    checkpoint = tf.train.Checkpoint(model=others[1], optimizer=others[1].optimizer)
    checkpoint.read(tmp_path / "checkpoint").assert_existing_objects_matched().assert_consumed()
    model.train_on_batch(*batch)
    for other in others:
        assert type(other.optimizer) is second
        for value, wanted in zip(other.optimizer.variables, before, strict=True):
            np.testing.assert_array_equal(value, wanted)
        other.train_on_batch(*batch)
        for value, wanted in zip(other.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [Adam, keras.optimizers.Adam])
def test_saved_model_keeps_its_optimizer(kind, tmp_path):
    batch = examples()
    model = plain_network()
    model.compile(kind(2e-3, epsilon=1e-5, clipnorm=1.0), "mse")
    model.train_on_batch(*batch)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is kind
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for one in (model, loaded):
        one.train_on_batch(*batch)
    for value, wanted in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_registered_name():
    assert keras.saving.get_registered_name(Adam) == "keras_cosmo>Adam"


@pytest.mark.parametrize("optimizer", [Adam(0.1), AdamL2(0.1)])
def test_update_step_by_itself(optimizer):
    """With the learning rate as Keras hands it over, of a gradient in another dtype: the first step is known."""
    weight = keras.Variable([1.0, -1.0])
    optimizer.build([weight])
    optimizer.update_step(tf.constant([2.0, -3.0], "float16"), weight, 0.1)
    np.testing.assert_allclose(weight, [0.9, -0.9], rtol=1e-5)


REPLICAS = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from test_optimizers import Adam, AdamL2, examples, operations, OPERATION

def train(kind, strategy):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "relu"),
                                  keras.layers.Dense(1)])
        model.compile(kind(1e-3), "mse", jit_compile=False)
        model.optimizer.build(model.trainable_variables)
    inputs, targets = examples()
    batch = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors((inputs, targets)).repeat(5)
                                                     .unbatch().batch(8))
    step = tf.function(lambda data: strategy.run(model.train_step, args=(data,)), autograph=False)
    for data in batch:
        step(data)
    types = operations(step.get_concrete_function(data).graph)
    return model.get_weights(), types.count(OPERATION), strategy.num_replicas_in_sync

def l2(rate):
    return AdamL2(rate, l2=0.1)

for kind, plain in ((Adam, keras.optimizers.Adam), (l2, l2)):
    expected, *_ = train(plain, tf.distribute.get_strategy())
    for make in (lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), tf.distribute.MultiWorkerMirroredStrategy):
        found, count, replicas = train(kind, make())
        assert count == 4 * replicas, (kind, count, replicas)
        for value, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
print("all the same")
"""


def test_of_several_replicas():
    """In another process: logical devices are made before TensorFlow starts."""
    folder = str(pathlib.Path(__file__).parent)
    result = subprocess.run([sys.executable, "-c", REPLICAS, folder], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.endswith("all the same\n")
