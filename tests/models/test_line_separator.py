import subprocess
import sys

import checks
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.models.line_separator import LineSeparator
from keras_cosmo.models.separation_generator import SeparationGenerator
from keras_cosmo.optimizers import Adam
from keras_cosmo.training.trainer import Trainer

SCALE = 3e-8
SMALL = {"scale": SCALE, "depth": 3, "width": 4}
TERMS = ["l1_halpha", "l1_oiii", "l1_total"]
ADVERSARIAL = [f"{term}_{line}" for term in ("gan", "discriminator", "accuracy") for line in ("halpha", "oiii")]


# Most tests run without a graph: making one takes longer than they do.
def batch(count=4, side=16, lines=2, seed=2):
    lines = (1e-8 * np.random.default_rng(seed).random((count, side, side, lines))).astype("float32")
    return lines.sum(-1), lines


def build(compiled=True, **changes):
    keras.utils.set_random_seed(3)
    model = LineSeparator(**{"map_shape": (16, 16), **SMALL, **changes})
    if compiled:
        model.compile(run_eagerly=True)
    return model


def copies(network):
    return [weight.numpy() for weight in network.trainable_weights]


def moved(before, network):
    return [not np.array_equal(old, new.numpy()) for old, new in zip(before, network.trainable_weights, strict=True)]


def sigmoid(x):
    return 1 / (1 + np.exp(-np.float64(x)))


def test_model_laws(tmp_path):
    model = build(scale=3.0, lines=("halpha", "oiii", "oii"), line_weights=[1.0, 2.0, 3.0])
    observed, lines = batch(lines=3)
    checks.check_model(model, observed * 1e8, lines * 1e8, tmp_path)


def test_every_trainable_weight_moves_in_one_step():
    model = build()
    before = [copies(network) for network in (model.generator, *model.discriminators)]
    model.train_on_batch(*batch())
    for old, network in zip(before, (model.generator, *model.discriminators), strict=True):
        assert all(moved(old, network)), network.name
    assert len(model.trainable_weights) == sum(map(len, before))
    assert all(int(optimizer.iterations) == 1 for optimizer in model.optimizers)


def test_losses_are_those_of_the_paper():
    """Equations 2 to 5 in NumPy, from the maps and the logits; the adversarial term as the code has it."""
    model = build(adversarial_weight=0.5, line_weights=[3.0, 5.0], total_weight=7.0, dropout=0.0)
    observed, lines = batch()
    observed = observed + np.float32(1e-9)
    # The same maps and logits as in the step: all with batch statistics, which the step has before its updates.
    predicted = model.generator(observed, training=True).numpy()
    expected = {}
    for index, (name, discriminator) in enumerate(zip(model.lines, model.discriminators, strict=True)):
        true = discriminator([observed, lines[..., index]], training=True).numpy()
        false = discriminator([observed, predicted[..., index]], training=True).numpy()
        expected[f"l1_{name}"] = np.abs(lines[..., index] - predicted[..., index]).mean() / (SCALE / 2)
        expected[f"gan_{name}"] = -np.log(sigmoid(false)).mean()
        expected[f"discriminator_{name}"] = -np.log(sigmoid(true)).mean() - np.log(1 - sigmoid(false)).mean()
        expected[f"accuracy_{name}"] = (sigmoid(true) > 0.5).mean() / 2 + (sigmoid(false) < 0.5).mean() / 2
    expected["l1_total"] = np.abs(observed - predicted.sum(-1)).mean() / (SCALE / 2)
    expected["loss"] = (
        0.5 * (expected["gan_halpha"] + expected["gan_oiii"])
        + 3 * expected["l1_halpha"]
        + 5 * expected["l1_oiii"]
        + 7 * expected["l1_total"]
    )
    logs = model.train_on_batch(observed, lines, return_dict=True)
    assert sorted(logs) == sorted(["loss", *TERMS, *ADVERSARIAL]) == sorted(expected)
    for name, value in expected.items():
        assert logs[name] == pytest.approx(value, rel=2e-5), name
    assert list(model.get_metrics_result()) == ["loss", *TERMS, *ADVERSARIAL]


def test_loss_of_testing_is_the_weighted_l1_terms():
    model = build(line_weights=[3.0, 5.0], total_weight=7.0)
    observed, lines = batch(5)
    logs = model.evaluate(observed, lines, batch_size=2, verbose=0, return_dict=True)
    assert sorted(logs) == sorted(["loss", *TERMS, *ADVERSARIAL])
    predicted = model.predict(observed, verbose=0)
    terms = np.abs(lines - predicted).mean((0, 1, 2)) / (SCALE / 2)
    total = np.abs(observed - predicted.sum(-1)).mean() / (SCALE / 2)
    # Also where the last batch is smaller.
    assert logs["loss"] == pytest.approx(3 * terms[0] + 5 * terms[1] + 7 * total, rel=1e-4)
    assert logs["l1_oiii"] == pytest.approx(terms[1], rel=1e-4)
    alone = build(line_weights=[3.0, 5.0], total_weight=7.0, adversarial_weight=0)
    alone.generator.set_weights(model.generator.get_weights())
    other = alone.evaluate(observed, lines, batch_size=2, verbose=0, return_dict=True)
    assert sorted(other) == sorted(["loss", *TERMS])
    assert other["loss"] == pytest.approx(logs["loss"], rel=1e-6)


def test_the_generators_step_moves_no_discriminator():
    model = build(compiled=False)
    still = keras.optimizers.SGD(0.0)
    model.compile(keras.optimizers.SGD(1e-3), still, run_eagerly=True)
    generator, *discriminators = [copies(network) for network in (model.generator, *model.discriminators)]
    model.train_on_batch(*batch())
    names = [
        weight.path
        for weight, change in zip(model.generator.trainable_weights, moved(generator, model.generator), strict=True)
        if change
    ]
    for block in (
        "encoder_1_",
        "encoder_3",
        "halpha_decoder_1",
        "halpha_decoder_3",
        "oiii_decoder_1",
        "oiii_decoder_3",
    ):
        assert any(block in name for name in names), block
    for old, network in zip(discriminators, model.discriminators, strict=True):
        assert not any(moved(old, network))


@pytest.mark.parametrize("index", [0, 1])
def test_the_discriminators_step_moves_that_discriminator_alone(index):
    model = build(compiled=False)
    optimizers = [keras.optimizers.SGD(0.0), keras.optimizers.SGD(0.0)]
    optimizers[index] = keras.optimizers.SGD(0.1)
    model.compile(keras.optimizers.SGD(0.0), optimizers, run_eagerly=True)
    networks = [model.generator, *model.discriminators]
    before = [copies(network) for network in networks]
    model.train_on_batch(*batch())
    changes = [moved(old, network) for old, network in zip(before, networks, strict=True)]
    assert all(changes[1 + index])
    assert not any(change for number, change in enumerate(changes) if number != 1 + index for change in change)


def test_the_discriminator_is_driven_by_its_own_loss_alone():
    """Its gradient is that of `discriminator_oiii`, computed here apart from the step."""
    model = build(compiled=False)
    model.compile(keras.optimizers.SGD(0.0), keras.optimizers.SGD(1.0), run_eagerly=True)
    observed, lines = (tf.constant(maps) for maps in batch())
    twin = build()
    predicted = twin.generator(observed, training=True)
    discriminator = twin.discriminators[1]
    with tf.GradientTape() as tape:
        true = discriminator([observed, lines[..., 1]], training=True)
        false = discriminator([observed, predicted[..., 1]], training=True)
        loss = -tf.reduce_mean(tf.math.log_sigmoid(true)) - tf.reduce_mean(tf.math.log_sigmoid(-false))
    gradients = tape.gradient(loss, [weight.value for weight in discriminator.trainable_weights])
    before = copies(model.discriminators[1])
    model.train_on_batch(observed, lines)
    for old, new, gradient in zip(before, copies(model.discriminators[1]), gradients, strict=True):
        np.testing.assert_allclose(old - new, gradient, rtol=1e-3, atol=1e-3 * np.abs(gradient).max() + 1e-7)


@pytest.mark.parametrize("adversarial_weight", [0.0, 1.0])
def test_the_generators_gradient(adversarial_weight):
    """Through both tapes the same as through one."""
    changes = {"adversarial_weight": adversarial_weight, "line_weights": [3.0, 5.0], "total_weight": 7.0}
    model, twin = build(compiled=False, **changes), build(**changes)
    model.compile(keras.optimizers.SGD(0.01), keras.optimizers.SGD(0.01), run_eagerly=True)
    observed, lines = (tf.constant(maps) for maps in batch())
    with tf.GradientTape() as tape:
        predicted = twin.generator(observed, training=True)
        unit = SCALE / 2
        loss = 7 * tf.reduce_mean(tf.abs(observed - tf.reduce_sum(predicted, -1))) / unit
        for index, weight in enumerate((3, 5)):
            loss += weight * tf.reduce_mean(tf.abs(lines[..., index] - predicted[..., index])) / unit
        for index, discriminator in enumerate(twin.discriminators):
            false = discriminator([observed, predicted[..., index]], training=True)
            loss -= tf.reduce_mean(tf.math.log_sigmoid(false))
    gradients = tape.gradient(loss, [weight.value for weight in twin.generator.trainable_weights])
    before = copies(model.generator)
    model.train_on_batch(observed, lines)
    for old, new, gradient in zip(before, copies(model.generator), gradients, strict=True):
        np.testing.assert_allclose(old - new, 0.01 * gradient, rtol=1e-3, atol=1e-5 * np.abs(gradient).max() + 1e-7)


def test_the_l1_term_of_one_line_leaves_the_other_decoder_alone():
    model = build(adversarial_weight=0, line_weights=[1.0, 0.0], total_weight=0.0)
    before = copies(model.generator)
    model.train_on_batch(*batch())
    for weight, change in zip(model.generator.trainable_weights, moved(before, model.generator), strict=True):
        assert change == ("oiii_decoder" not in weight.path), weight.path


def test_the_term_of_the_sum_moves_every_decoder():
    model = build(adversarial_weight=0, line_weights=0.0, total_weight=1.0)
    before = copies(model.generator)
    model.train_on_batch(*batch())
    assert all(moved(before, model.generator))


def test_the_adversarial_terms_alone_train_everything():
    model = build(line_weights=0, total_weight=0)
    before = [copies(network) for network in (model.generator, *model.discriminators)]
    logs = model.train_on_batch(*batch(), return_dict=True)
    assert logs["loss"] == pytest.approx(logs["gan_halpha"] + logs["gan_oiii"], rel=1e-6)
    assert logs["l1_total"] > 0
    for old, network in zip(before, (model.generator, *model.discriminators), strict=True):
        assert all(moved(old, network)), network.name


def test_without_adversarial_weight_there_are_no_discriminators():
    model = build(adversarial_weight=0)
    assert model.discriminators == []
    assert len(model.optimizers) == 1
    assert len(model.weights) == len(model.generator.weights)
    assert sorted(model.train_on_batch(*batch(), return_dict=True)) == sorted(["loss", *TERMS])
    assert build(adversarial_weight=0, map_shape=(None, None)).predict(batch(side=24)[0], verbose=0).shape[1:3] == (
        24,
        24,
    )


def test_overfits_a_batch():
    """From 0.5 (an image that is zero everywhere) to a fraction of it."""
    model = build(compiled=False, width=8, dropout=0.0)
    model.compile(keras.optimizers.Adam(2e-3, beta_1=0.5))
    generator = np.random.default_rng(0)
    lines = np.zeros((4, 16, 16, 2), "float32")
    lines[:, 4:12, :, 0] = SCALE * generator.uniform(0.2, 0.8, (4, 1, 1))
    lines[:, :, 6:10, 1] = SCALE * generator.uniform(0.2, 0.8, (4, 1, 1))
    first = None
    step = tf.function(model.train_step)
    for _ in range(60):
        model.reset_metrics()
        logs = step((tf.constant(lines.sum(-1)), tf.constant(lines)))
        first = first or float(logs["l1_halpha"])
    assert float(logs["l1_halpha"]) < 0.25 * first
    assert float(logs["l1_oiii"]) < 0.25 * first


@pytest.mark.parametrize("stochastic", [False, True])
def test_dropout_in_inference(stochastic):
    model = build(stochastic=stochastic)
    # At the start all maps are nearly the same: let dropout show.
    model.generator.set_weights([weight * 5 for weight in model.generator.get_weights()])
    observed, _ = batch()
    one, other = model.predict(observed, verbose=0), model.predict(observed, verbose=0)
    assert np.array_equal(one, other) is not stochastic


def test_a_batch_mate_changes_nothing():
    model = build()
    for _ in range(3):
        model.train_on_batch(*batch())
    field, mate, other = batch(3)[0]
    together = model.predict(np.stack([field, mate]), verbose=0)
    np.testing.assert_array_equal(together[0], model.predict(np.stack([field, other]), verbose=0)[0])
    np.testing.assert_allclose(together[0], model.predict(field[None], verbose=0)[0], rtol=0, atol=1e-5 * SCALE)


def test_bfloat16_has_float32_losses_and_outputs():
    model = build(dtype="mixed_bfloat16")
    observed, lines = batch()
    logs = model.train_step((tf.constant(observed), tf.constant(lines)))
    for name, value in logs.items():
        assert value.dtype == tf.float32
        assert np.isfinite(value), name
    precise = build(dtype="float32").train_on_batch(observed, lines, return_dict=True)
    for name in TERMS:
        assert float(logs[name]) == pytest.approx(precise[name], rel=0.02)
    assert model(observed).dtype == "float32"
    assert np.isfinite(model.predict(observed, verbose=0)).all()
    assert all(weight.dtype == "float32" for weight in model.weights)


def spy(seen, call):
    def spying(self, inputs, **options):
        seen.append(inputs)
        return call(self, inputs, **options)

    return spying


def test_bfloat16_as_global_policy(monkeypatch):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build()
        observed, _ = batch()
        seen = []
        monkeypatch.setattr(SeparationGenerator, "call", spy(seen, SeparationGenerator.call))
        assert model(observed).dtype == "float32"
        np.testing.assert_array_equal(seen[0], observed)
    finally:
        keras.config.set_dtype_policy("float32")


def test_saved_and_loaded_model_trains_on_alike(tmp_path):
    model = build(dropout=0.0, line_weights=[3.0, 5.0], line_scales=[2e-8, 1e-8])
    for seed in range(3):
        model.train_on_batch(*batch(seed=seed))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is LineSeparator
    assert loaded.get_config() == model.get_config()
    assert loaded.get_compile_config() == model.get_compile_config()
    for one, other in zip(model.optimizers, loaded.optimizers, strict=True):
        assert int(other.iterations) == 3
        for slot, twin in zip(one.variables, other.variables, strict=True):
            np.testing.assert_array_equal(slot, twin)
    for network in (model, loaded):
        network.train_on_batch(*batch(seed=9))
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    plain = build(compiled=False)
    plain.save(tmp_path / "plain.keras")
    assert keras.saving.load_model(tmp_path / "plain.keras").optimizers == []


def test_the_generator_alone(tmp_path):
    model = build()
    model.train_on_batch(*batch())
    model.generator.save(tmp_path / "generator.keras")
    generator = keras.saving.load_model(tmp_path / "generator.keras")
    assert type(generator) is SeparationGenerator
    observed, _ = batch()
    np.testing.assert_array_equal(generator.predict(observed, verbose=0), model.predict(observed, verbose=0))


def test_frozen(tmp_path):
    model = build(trainable=False)
    assert model.trainable_weights == []
    assert model.get_config()["trainable"] is False
    model.train_on_batch(*batch())
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").trainable_weights == []


def test_default_optimizers_are_those_of_the_paper():
    model = build()
    assert [type(optimizer) for optimizer in model.optimizers] == [Adam] * 3
    for optimizer in model.optimizers:
        assert float(optimizer.learning_rate) == pytest.approx(2e-4)
        assert (optimizer.beta_1, optimizer.beta_2) == (0.5, 0.999)
        assert optimizer.built


def test_optimizers_of_ones_own():
    model = build(compiled=False)
    assert model.optimizers == []
    model.compile("sgd", keras.optimizers.RMSprop(0.1))
    assert [type(optimizer) for optimizer in model.optimizers] == [keras.optimizers.SGD] + 2 * [
        keras.optimizers.RMSprop
    ]
    assert model.optimizers[1] is not model.optimizers[2]
    one, other = keras.optimizers.Adam(0.1), keras.optimizers.Adam(0.2)
    model.compile(discriminator_optimizers=[one, other])
    assert model.optimizers[1:] == [one, other]
    with pytest.raises(ValueError, match=r"expected one optimizer, or 2 \(one per discriminator\), got 1"):
        model.compile(discriminator_optimizers=[one])
    with pytest.raises(ValueError, match="an optimizer cannot serve two networks"):
        model.compile(discriminator_optimizers=[one, one])


class Data:
    """Batches that depend on the step alone."""

    steps_per_epoch = 4

    def training(self, start, stop):
        lines = np.stack([batch(seed=step)[1] for step in range(start, stop)])
        return tf.data.Dataset.from_tensor_slices((lines.sum(-1), lines))


class Stop(Exception):
    """Stands for a crash."""


def train(folder, crash_at=None):
    model = build()
    step = model.train_step
    counter = iter(range(1000))

    def crash():
        if next(counter) == crash_at:
            raise Stop

    def train_step(data):
        with tf.control_dependencies([tf.py_function(crash, [], [])]):
            return step(data)

    if crash_at is not None:
        model.train_step = train_step
    trainer = Trainer(model, folder, checkpoint_seconds=0.0)
    data = Data()
    trainer.fit(data, data.training(1000, 1002), epochs=2, resume=True)
    return trainer


@pytest.mark.parametrize("eagerly", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_crash_and_resume_equals_uninterrupted(eagerly, tmp_path):
    tf.config.run_functions_eagerly(eagerly)
    try:
        with pytest.raises(Exception, match="Stop"):
            train(tmp_path / "crashed", crash_at=5)
        resumed = train(tmp_path / "crashed")
        reference = train(tmp_path / "uninterrupted")
    finally:
        tf.config.run_functions_eagerly(False)
    assert (reference.steps_made, resumed.steps_made) == (8, 3)
    assert any("seed_generator_state" in variable.path for variable in reference.model.variables)
    for one, other in zip(reference.model.variables, resumed.model.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(reference.model.optimizers) == 3
    for one, other in zip(reference.model.optimizers, resumed.model.optimizers, strict=True):
        assert int(one.iterations) == 8
        for slot, twin in zip(one.variables, other.variables, strict=True):
            np.testing.assert_array_equal(slot, twin)
    assert resumed.history == reference.history
    assert {"val_loss", "l1_oiii", "val_gan_halpha", "learning_rate"} <= set(resumed.history)
    resumed.load_best()


TWO_REPLICAS = """
import sys
import keras, numpy as np, tensorflow as tf
from keras_cosmo.models.line_separator import LineSeparator

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
results = []
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    with strategy.scope():
        keras.utils.set_random_seed(3)
        model = LineSeparator((16, 16), scale=3e-8, depth=3, width=4, dropout=0.0)
        model.compile()
    # The two halves of a batch are the same: so are then the statistics of batch normalisation on every replica.
    half = 1e-8 * np.random.default_rng(0).random((2, 16, 16, 2), dtype="float32")
    lines = np.concatenate([half, half])
    data = tf.data.Dataset.from_tensors((lines.sum(-1), lines)).repeat(4).unbatch().batch(4, drop_remainder=True)
    step = tf.function(lambda batch: strategy.run(model.train_step, args=(batch,)))
    for batch in strategy.experimental_distribute_dataset(data):
        logs = step(batch)
    logs = [float(strategy.reduce("MEAN", logs[name], axis=None)) for name in sorted(logs)]
    results.append((logs, [weight.numpy() for weight in model.weights]))
(one, weights), (other, others) = results
np.testing.assert_allclose(one, other, rtol=1e-5)
for weight, twin in zip(weights, others, strict=True):
    np.testing.assert_allclose(weight, twin, rtol=0, atol=2e-5)
print("equal")
"""


@pytest.mark.slow
def test_two_replicas_train_as_one(tmp_path):
    path = tmp_path / "two_replicas.py"
    path.write_text(TWO_REPLICAS)
    result = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert result.stdout.strip() == "equal", result.stderr[-3000:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map_shape": (16, 60)}, "must be divisible by 8 cells"),
        ({"map_shape": (None, 16)}, "needs maps of one known size"),
        ({"scale": None}, "`scale`: expected a positive"),
        ({"adversarial_weight": -1}, "`adversarial_weight`: expected a finite number of at least 0"),
        ({"line_weights": [1.0, 2.0, 3.0]}, r"`line_weights`: expected one number, or 2 \(one per line\), got 3"),
        ({"line_weights": [1.0, -2.0]}, "`line_weights`: expected a finite number of at least 0, got -2.0"),
        ({"total_weight": float("inf")}, "`total_weight`: expected a finite number"),
        ({"adversarial_weight": 0, "line_weights": 0, "total_weight": 0}, "all are 0, so there is nothing to train on"),
        ({"seed": "a"}, "`seed`: expected None or an integer"),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        build(compiled=False, **changes)


def test_wrong_batches():
    model = build()
    observed, lines = batch()
    with pytest.raises(ValueError, match=r"`inputs`: this network takes maps of \(16, 16\) pixels, got \(24, 24\)"):
        model(np.zeros((1, 24, 24)))
    with pytest.raises(ValueError, match=r"true maps of .* must have the shape \(4, 16, 16, 2\), .* got \(4, 16, 16\)"):
        model.train_on_batch(observed, lines[..., 0])
    with pytest.raises(ValueError, match="without sample weights"):
        model.test_on_batch(observed, lines, sample_weight=np.ones(4))
    with pytest.raises(ValueError, match="expected batches"):
        model.test_on_batch(observed)
