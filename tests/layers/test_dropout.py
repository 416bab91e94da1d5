import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.layers.dropout import Dropout
from keras_cosmo.training.replicas import train_as_one

RATES = (0.05, 0.2, 0.3, 0.5)
SHAPE = (16, 50, 51, 7)
DTYPES = ("float32", "bfloat16")


def dropped(rate, seed=1, shape=SHAPE, dtype="float32"):
    """Outputs of ones, in float64."""
    layer = Dropout(rate, seed=seed, dtype=dtype)
    outputs = layer(np.ones(shape, "float32"), training=True)
    assert outputs.dtype == dtype
    return tf.cast(outputs, "float64").numpy()


def operations(layer, dtype="float32", shape=(None, 5)):
    """Names of the operations in the graph of a training call."""
    graph = tf.function(lambda x: layer(x, training=True)).get_concrete_function(tf.TensorSpec(shape, dtype)).graph
    return {node.op for node in graph.as_graph_def().node}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rate", RATES)
def test_share_and_factor(rate, dtype):
    """Binomial numbers of kept units; one factor, the inverse of their probability."""
    outputs = dropped(rate, dtype=dtype)
    deviation = np.sqrt(rate * (1 - rate) / outputs.size)
    assert abs(np.mean(outputs != 0) - (1 - rate)) < 5 * deviation
    factor = np.unique(outputs)[1:]
    # The threshold is within 1/2 of 65536 (1 - rate); bfloat16 has eight digits.
    assert factor == pytest.approx([1 / (1 - rate)], rel={"float32": 2e-5, "bfloat16": 2**-8}[dtype])
    if dtype == "float32":
        assert abs(np.mean(outputs) - 1) < 5 * deviation / (1 - rate)


def test_the_factor_is_the_inverse_of_the_probability():
    """With a rate far from a multiple of 1/65536: 2^16 (1 - rate) = 1.5 keeps two values of 2^16."""
    rate = 1 - 1.5 / 2**16
    outputs = dropped(rate, shape=(2**22,))
    np.testing.assert_array_equal(np.unique(outputs), [0, 2**15])
    expected = outputs.size / 2**15
    assert abs(np.sum(outputs != 0) - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("rate", RATES)
def test_units_are_independent(rate):
    """Correlations along every axis, within the four parts of an integer, and between the examples of a batch."""
    kept = (dropped(rate) != 0) - (1 - rate)
    flat = kept.ravel()
    size = flat.size // 4 * 4
    parts = flat[:size].reshape(-1, 4).T
    pairs = [(flat[:-lag], flat[lag:]) for lag in (1, 2, 3, 4, 5, 8, 16, 64, 7, 7 * 51)]
    pairs += [(parts[i], parts[j]) for i in range(4) for j in range(i)]
    pairs += [(kept[0], example) for example in kept[1:]]
    for one, other in pairs:
        correlation = np.mean(one * other) / (rate * (1 - rate))
        assert abs(correlation) < 5 / np.sqrt(one.size)
    # Every part is fair by itself, and so are groups of four: numbers of kept units are binomial.
    for part in parts:
        assert abs(part.mean()) < 5 * np.sqrt(rate * (1 - rate) / part.size)
    variance = np.sum(parts, 0).var() / (4 * rate * (1 - rate))
    assert variance == pytest.approx(1, abs=5 * np.sqrt(2.5 / parts.shape[1]))


def test_calls_and_seeds():
    layer, again, other = Dropout(0.5, seed=3), Dropout(0.5, seed=3), Dropout(0.5, seed=4)
    ones = np.ones((100, 99), "float32")
    first, second = (layer(ones, training=True).numpy() for _ in range(2))
    np.testing.assert_array_equal(again(ones, training=True), first)
    np.testing.assert_array_equal(again(ones, training=True), second)
    for outputs in (second, other(ones, training=True).numpy()):
        correlation = np.mean((first - 1) * (outputs - 1))
        assert abs(correlation) < 5 / np.sqrt(ones.size)


def test_the_state_goes_on_as_that_of_keras():
    """So that a checkpoint of the variables is all there is to resume from."""
    states = []
    for cls in (keras.layers.Dropout, Dropout):
        keras.utils.set_random_seed(5)
        layer = cls(0.3)
        states.append([layer.seed_generator.state.numpy()])
        for training in (True, False, True):
            layer(np.ones((2, 3), "float32"), training=training)
            states[-1].append(layer.seed_generator.state.numpy())
    np.testing.assert_array_equal(*states)

    resumed = Dropout(0.3)
    (state,) = resumed.variables
    state.assign(states[1][-1])
    ones = np.ones((9, 9), "float32")
    np.testing.assert_array_equal(resumed(ones, training=True), layer(ones, training=True))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 5), (0, 4), (3, 1, 7)])
def test_any_number_of_units(shape):
    layer = Dropout(0.5, seed=2)
    outputs = layer(tf.ones(shape), training=True)
    assert outputs.shape == shape
    assert np.isin(outputs, (0, 2)).all()


def test_masks_of_more_units_begin_with_those_of_fewer():
    """The padding of the last integer is all that is thrown away."""
    whole = dropped(0.5, shape=(8,))
    for size in range(1, 8):
        np.testing.assert_array_equal(dropped(0.5, shape=(size,)), whole[:size])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient(dtype):
    layer = Dropout(0.3, seed=1, dtype=dtype)
    generator = np.random.default_rng(0)
    inputs, upstream = (tf.cast(generator.normal(size=(31, 17)), dtype) for _ in range(2))

    @tf.function
    def run(inputs, upstream):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
        return outputs, tape.gradient(outputs, inputs, output_gradients=upstream)

    outputs, gradient = run(inputs, upstream)
    factors = tf.cast(dropped(0.3, shape=(31, 17), dtype=dtype), dtype)
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(outputs, inputs * factors)
    np.testing.assert_array_equal(gradient, upstream * factors)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_graphs_of_any_batch(policy):
    """A graph drops what the call without one drops; the compiled one too; no floats are drawn."""
    layers = [Dropout(0.3, seed=7, dtype=policy) for _ in range(2)]
    specification = [tf.TensorSpec((None, 5), layers[0].compute_dtype)]
    run = tf.function(lambda inputs: layers[0](inputs, training=True), input_signature=specification)
    assert run.get_concrete_function().output_shapes == (None, 5)
    for rows in (3, 4, 1):
        inputs = tf.ones((rows, 5), layers[0].compute_dtype)
        np.testing.assert_array_equal(run(inputs), layers[1](inputs, training=True))

    found = operations(layers[0], layers[0].compute_dtype)
    assert "StatelessRandomUniformFullIntV2" in found
    assert "StatelessRandomUniformV2" not in found
    # The name is that of the operation of Keras's layer.
    assert "StatelessRandomUniformV2" in operations(keras.layers.Dropout(0.3, dtype=policy), layers[0].compute_dtype)


def test_compiled_by_xla():
    layers = [Dropout(0.3, seed=7) for _ in range(2)]
    run = tf.function(lambda inputs: layers[0](inputs, training=True), jit_compile=True)
    inputs = tf.ones((3, 5))
    for _ in range(2):
        np.testing.assert_array_equal(run(inputs), layers[1](inputs, training=True))


@pytest.mark.parametrize("case", ["inference", "rate 0", "rate 1", "hardly any", "noise_shape", "float64", "float16"])
def test_everything_else_is_left_to_keras(case, monkeypatch):
    monkeypatch.setattr(tf, "bitcast", None)
    rate = {"rate 0": 0.0, "rate 1": 1.0, "hardly any": 1e-6}.get(case, 0.3)
    options = {"noise_shape": (None, 1)} if case == "noise_shape" else {}
    options["dtype"] = case if "float" in case else "float32"
    inputs = np.random.default_rng(0).normal(size=(4, 30)).astype(options["dtype"])
    expected, found = (
        cls(rate, seed=1, **options)(inputs, training=case != "inference") for cls in (keras.layers.Dropout, Dropout)
    )
    np.testing.assert_array_equal(found, expected)
    if case in ("inference", "rate 0"):
        np.testing.assert_array_equal(found, inputs)


def test_other_backends_are_left_to_keras(monkeypatch):
    layers = [cls(0.3, seed=1) for cls in (keras.layers.Dropout, Dropout)]
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    ones = np.ones((4, 30), "float32")
    np.testing.assert_array_equal(*(layer(ones, training=True) for layer in layers))


def test_wrong_rate():
    with pytest.raises(ValueError, match=r"rate=1\.5"):
        Dropout(1.5)


def test_saved_files_of_keras_are_read(tmp_path):
    def model(cls):
        return keras.Sequential([keras.Input((6,)), cls(0.4, seed=2, name="one"), keras.layers.Dense(3)])

    theirs, ours = model(keras.layers.Dropout), model(Dropout)
    inputs = np.ones((5, 6), "float32")
    theirs(inputs, training=True)
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    ours.load_weights(tmp_path / "theirs.weights.h5")
    np.testing.assert_array_equal(ours(inputs), theirs(inputs))
    found, expected = ([variable.path for variable in network.variables] for network in (ours, theirs))
    assert [path.split("/")[-1] for path in found] == [path.split("/")[-1] for path in expected]
    assert ours.get_layer("one").get_config() == theirs.get_layer("one").get_config()

    ours.save(tmp_path / "ours.keras")
    loaded = keras.models.load_model(tmp_path / "ours.keras")
    assert type(loaded.get_layer("one")) is Dropout
    np.testing.assert_array_equal(loaded(inputs), theirs(inputs))
    # Neither layer's files have the state: it starts again from the seed.
    np.testing.assert_array_equal(loaded(inputs, training=True), ours(inputs, training=True))


@pytest.mark.parametrize("features", [4, 5])
def test_replicas_drop_what_one_process_drops(features, monkeypatch):
    def model():
        return keras.Sequential([keras.Input((features,)), Dropout(0.5, seed=1)])

    inputs = np.random.default_rng(0).normal(size=(6, features)).astype("float32")
    expected = model()(inputs, training=True)
    for number in range(2):
        replica = model()
        train_as_one(replica, [])
        context = types.SimpleNamespace(replica_id_in_sync_group=number, num_replicas_in_sync=2)
        rows = slice(3 * number, 3 * number + 3)
        monkeypatch.setattr(tf.distribute, "get_replica_context", lambda context=context: context)
        np.testing.assert_array_equal(replica.layers[0].call(inputs[rows], training=True), expected[rows])
        monkeypatch.undo()
        assert "StatelessRandomUniformFullIntV2" in operations(replica.layers[0], shape=(None, features))
