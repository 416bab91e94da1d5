import json
import os
import subprocess
import sys

import checks
import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from keras_cosmo.bijectors import conditional_coupling, glow_steps
from keras_cosmo.models.higlow import HIGlow, NegativeLogLikelihood

NAMES, LOW, HIGH = ("Omega_m", "sigma_8"), (0.1, 0.6), (0.5, 1.0)


def flow(side=4, transform="log10-standardise", constants=(4.0, 0.7), randomised=0.05, **changes):
    settings = {"blocks": 2, "steps": 2, "width": 5, "seed": 1, **changes}
    model = HIGlow((side, side), NAMES, LOW, HIGH, transform, constants, **settings)
    generator = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(weight.numpy() + generator.normal(0, randomised, weight.shape))
    return model


def batch(count=3, side=4, seed=2):
    generator = np.random.default_rng(seed)
    return 10 ** generator.normal(4.0, 0.7, (count, side, side)), generator.uniform(LOW, HIGH, (count, 2))


@pytest.fixture(scope="module")
def shared():
    """A flow that no test trains, as every function of it is compiled once."""
    return flow(8, steps=1)


def brute_force(model, maps, parameters):
    """Log-density from the Jacobian of the whole model, by autodiff, and the normal density of the latent variables."""
    size, densities = maps[0].size, []
    for one, row in zip(maps, parameters, strict=True):
        # A copy of the map for every latent variable: one gradient is the whole Jacobian.
        copies = tf.constant(np.stack([one] * size))
        with tf.GradientTape() as tape:
            tape.watch(copies)
            latent = model._bijector(tf.constant(row[None])).inverse(copies)
            diagonal = tf.reduce_sum(tf.linalg.diag_part(latent))
        jacobian = tape.gradient(diagonal, copies).numpy().reshape(size, size)
        densities.append(np.linalg.slogdet(jacobian)[1] + scipy.stats.norm.logpdf(latent.numpy()[0]).sum())
    return np.array(densities)


CASES = {
    "text": {},
    "code": {"injector": "convolutional", "final_block": True, "transform": "log10-minmax", "constants": (1.0, 7.0)},
    "channel": {
        "injector": "channel",
        "conditional_prior": True,
        "transform": "log10-logit",
        "constants": (-5.0, 13.0),
    },
    "no transform": {"transform": "none", "constants": (), "conditional_prior": True, "final_block": True},
}


@pytest.mark.parametrize(("case", "side"), [*((case, 4) for case in CASES), ("code", 8)])
def test_density_equals_that_of_the_jacobian(case, side):
    model = flow(side, dtype="float64", randomised=0.2, **CASES[case])
    maps, parameters = batch(2, side)
    if case == "no transform":
        maps = maps / 1e4
    expected = brute_force(model, maps, parameters)
    found = model((maps, parameters))
    assert found.dtype == tf.float64
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    bijector = model._bijector(tf.constant(parameters))
    np.testing.assert_allclose(bijector.forward(tf.identity(bijector.inverse(maps))), maps, rtol=1e-8)
    if case == "code" and side == 4:
        np.testing.assert_allclose(model.log_prob(maps, parameters), expected, rtol=1e-9)
        latent = model.latent(maps, parameters)
        np.testing.assert_allclose(model.from_latent(latent, parameters), maps, rtol=1e-8)


def test_float32_is_good_to_1e_4_nats_per_pixel():
    double, single = flow(16, dtype="float64"), flow(16)
    single.set_weights(double.get_weights())
    maps, parameters = batch(4, 16)
    difference = single.log_prob(maps, parameters) - double.log_prob(maps, parameters).numpy()
    assert np.abs(difference).max() < 1e-4 * 16


def test_density_of_a_map_of_four_pixels_integrates_to_one():
    model = flow(2, "log10-standardise", (4.0, 0.5), blocks=1, randomised=0.15, dtype="float64")
    edges = np.linspace(-8, 8, 25)
    axes = np.meshgrid(*[edges] * 4, indexing="ij")
    maps = 10 ** (4.0 + 0.5 * np.stack(axes, -1).reshape(-1, 2, 2))
    log_density = model.log_prob(maps, np.array([[0.25, 0.9]])).numpy()
    # d(map) = map log(10) 0.5 d(edges), pixel by pixel.
    log_density += np.log(maps * np.log(10.0) * 0.5).sum((1, 2))
    density = np.exp(log_density).reshape([25] * 4)
    assert max(density[0].max(), density[-1].max()) < 1e-4 * density.max()
    np.testing.assert_allclose(density.sum() * (edges[1] - edges[0]) ** 4, 1.0, rtol=0.005)


def test_samples_densities_and_distribution_agree(shared):
    model = shared
    _, parameters = batch(2)
    maps = model.sample(parameters, n=3, seed=(1, 2))
    assert maps.shape == (3, 2, 8, 8)
    assert (maps.numpy() > 0).all()
    assert np.unique(maps).size > 0.98 * maps.numpy().size
    np.testing.assert_array_equal(model.sample(parameters, n=3, seed=(1, 2)), maps)
    assert not np.array_equal(model.sample(parameters, n=3, seed=(1, 3)), maps)
    assert not np.array_equal(model.sample(parameters), model.sample(parameters))
    distribution = model.distribution(parameters)
    assert (distribution.batch_shape, distribution.event_shape) == ((2,), (8, 8))
    np.testing.assert_allclose(distribution.sample(3, seed=[1, 2]), maps, rtol=1e-4)
    densities = distribution.log_prob(tf.identity(maps))
    for index in range(3):
        np.testing.assert_allclose(model.log_prob(maps[index], parameters), densities[index], rtol=1e-5)
    # The latent variables of a sample are the normal numbers that it was made of.
    latent = np.concatenate([model.latent(maps[index], parameters) for index in range(3)])
    np.testing.assert_allclose(model.from_latent(latent[:2], parameters), maps[0], rtol=1e-3)
    warm = [model.sample(parameters, n=3, temperature=t, seed=(1, 2))[0] for t in (0.5, 1.0)]
    ratio = model.latent(warm[0], parameters) / model.latent(warm[1], parameters).numpy()
    np.testing.assert_allclose(np.median(ratio), 0.5, rtol=1e-3)


def test_one_map_with_many_parameters_and_back(shared):
    model = shared
    maps, parameters = batch(3, 8)
    expected = model.log_prob(np.repeat(maps[:1], 3, 0), parameters).numpy()
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(model.log_prob(maps[:1], parameters), expected, rtol=1e-5)
    expected = model.log_prob(maps, np.repeat(parameters[:1], 3, 0))
    np.testing.assert_allclose(model.log_prob(maps, parameters[:1]), expected, rtol=1e-5)


def test_every_weight_moves_and_the_model_survives_saving(tmp_path):
    model = flow(blocks=1, steps=1, conditional_prior=True, final_block=True)
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=2.0), run_eagerly=True)
    maps, parameters = (values.astype("float32") for values in batch())
    before = [weight.numpy() for weight in model.trainable_weights]
    loss = model.train_on_batch(maps, parameters)
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert not np.array_equal(old, weight.numpy()), f"{weight.path} did not move"
    expected = model((maps, parameters)).numpy()
    assert loss > -expected.mean() / 16

    rebuilt = HIGlow.from_config(model.get_config())
    assert rebuilt.get_config() == model.get_config()
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert type(loaded) is HIGlow
    np.testing.assert_array_equal(loaded((maps, parameters)), expected)
    assert loaded.optimizer.global_clipnorm == 2.0
    assert int(loaded.optimizer.iterations) == 1

    np.savez(tmp_path / "batch.npz", maps=maps, parameters=parameters)
    code = (
        "import json, keras, numpy, keras_cosmo.models.higlow\n"
        f"data = numpy.load({str(tmp_path / 'batch.npz')!r})\n"
        f"model = keras.saving.load_model({str(path)!r})\n"
        "print(json.dumps(model((data['maps'], data['parameters'])).numpy().tolist()))\n"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    np.testing.assert_allclose(json.loads(result.stdout), expected, rtol=1e-6)


def test_fit_evaluate_and_predict():
    model = flow(randomised=0.0, blocks=1, steps=1)
    model.compile(keras.optimizers.Adam(5e-3))
    maps, parameters = (values.astype("float32") for values in batch(10))
    history = model.fit(maps, parameters, batch_size=4, epochs=3, validation_data=(maps, parameters), verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    densities = model.predict((maps, parameters), batch_size=4, verbose=0)
    np.testing.assert_allclose(densities, model.log_prob(maps, parameters), rtol=1e-5)
    np.testing.assert_allclose(model.evaluate(maps, parameters, batch_size=4, verbose=0), -densities.mean() / 16, 1e-5)
    np.testing.assert_allclose(history.history["val_loss"][-1], -densities.mean() / 16, rtol=1e-5)
    pairs = tf.data.Dataset.from_tensor_slices((maps, parameters)).batch(4)
    np.testing.assert_allclose(model.predict(pairs, verbose=0), densities, rtol=1e-5)
    weights = np.array([1.0] + [0.0] * 9, "float32")
    weighted = model.evaluate(maps, parameters, sample_weight=weights, batch_size=10, verbose=0)
    np.testing.assert_allclose(weighted, -densities[0] / 16 / 10, rtol=1e-5)


@pytest.mark.parametrize("eager", [False, True])
def test_maps_without_a_density_do_not_reach_the_weights(eager):
    model = flow(randomised=0.0, blocks=1, steps=1)
    model.compile(run_eagerly=eager)
    maps, parameters = (values.astype("float32") for values in batch(4))
    weights = model.get_weights()
    bad = maps.copy()
    bad[0, 0, 0], bad[2, 1, :3] = 0.0, np.nan
    words = r"`maps`: 4 pixels in 2 of 4 maps are not finite and positive. Leave such maps out, as .{1,2}log10-standard"
    unknown = np.where(np.arange(8).reshape(4, 2) == 3, np.nan, parameters)
    error = ValueError if eager else tf.errors.InvalidArgumentError
    for call in (model.fit, model.evaluate, lambda *pair, **options: model.predict(pair, **options)):
        with pytest.raises(error, match=words):
            call(bad, parameters, verbose=0)
        with pytest.raises(error, match="`parameters`: expected finite numbers, but 1 are not"):
            call(maps, unknown, verbose=0)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    settings = ("/iteration", "/learning_rate")
    moments = [variable for variable in model.optimizer.variables if not variable.path.endswith(settings)]
    assert len(moments) == 2 * len(model.trainable_weights)
    assert not any(np.any(variable.numpy()) for variable in moments)
    with pytest.raises(ValueError, match=words):
        model((bad, parameters))
    with pytest.raises(ValueError, match="expected finite numbers, but 1 are not"):
        model((maps, unknown))


def test_maps_outside_of_the_bounds_do_not_reach_the_weights():
    model = flow(transform="log10-logit", constants=(3.0, 5.0), blocks=1, steps=1)
    maps, parameters = (values.astype("float32") for values in batch())
    outside = np.count_nonzero((maps < 1e3) | (maps > 1e5))
    checked = tf.function(lambda *pair: model(pair))
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"{outside} pixels in .* not between 10\^3 and 10\^5"):
        checked(maps, parameters)
    maps[1, 0, 0] = 0.0
    with pytest.raises(tf.errors.InvalidArgumentError, match="1 pixels in 1 of 3 maps are not finite and positive"):
        checked(maps, parameters)
    inside = np.clip(maps, 1.1e3, 0.9e5)
    np.testing.assert_allclose(checked(inside, parameters), model.log_prob(inside, parameters), rtol=1e-5)


def test_shapes_that_the_graph_has_forgotten():
    """TensorFlow makes one graph of all shapes after batches of a second one, and knows them no longer."""
    model = flow(randomised=0.0, blocks=1, steps=1)
    model.compile()
    maps, parameters = (values.astype("float32") for values in batch())
    model.predict((maps, parameters), verbose=0)
    for wrong, got in ((maps[..., None], r"3 4 4 1"), (maps[:, :2], "3 2 4")):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=rf"`maps`: expected \(batch, 4, 4\), got the shape \[{got}\]"
        ):
            model.predict((wrong, parameters), verbose=0)
    found = model.predict((maps, parameters), verbose=0)
    np.testing.assert_allclose(found, model.log_prob(maps, parameters), rtol=1e-5)


def test_export_of_the_density(tmp_path):
    model = flow(blocks=1, steps=1)
    model.export(tmp_path / "flow", verbose=False)
    maps, parameters = (values.astype("float32") for values in batch())
    loaded = tf.saved_model.load(tmp_path / "flow")
    (found,) = loaded.signatures["serving_default"](maps=tf.constant(maps), parameters=tf.constant(parameters)).values()
    np.testing.assert_allclose(found, model.log_prob(maps, parameters), rtol=1e-6)


@pytest.mark.parametrize("argument", [{"loss": "mse"}, {"jit_compile": True}, {"metrics": ["mae"], "loss": None}])
def test_compile_says_what_is_set(argument):
    with pytest.raises(TypeError, match=f"got {', '.join(argument)}. The loss is set, .* ten times slower"):
        flow(blocks=1, steps=1).compile(**argument)


def test_start_from_training_maps():
    model = flow(8, "log10-minmax", (0.0, 10.0), randomised=0.0, blocks=1, final_block=True)
    maps, parameters = batch(20, 8)
    before = model.log_prob(maps, parameters).numpy().mean()
    model.start_from(maps, parameters)
    assert model.log_prob(maps, parameters).numpy().mean() > before + 30
    latent = model.latent(maps, parameters).numpy()
    assert 0.7 < latent.std() < 1.1
    assert abs(latent.mean()) < 0.1


def test_steps_are_computed_once(monkeypatch):
    calls = []
    plain = conditional_coupling.scale_and_shift
    # Both kinds of steps: on packed pixels in the first block, on single ones in the second.
    for module in (conditional_coupling, glow_steps):
        monkeypatch.setattr(module, "scale_and_shift", lambda *a, name=module: calls.append(name) or plain(*a))
    once = [glow_steps, conditional_coupling]
    model = flow(8, steps=2)
    maps, parameters = batch(side=8)
    model((maps, parameters))
    assert calls == [once[0]] * 2 + [once[1]] * 2
    calls.clear()
    model.distribution(parameters).sample(2, seed=[1, 2])
    assert calls == [once[1]] * 2 + [once[0]] * 2
    calls.clear()
    model.log_prob(maps, parameters)
    # One function per block, traced once.
    assert calls == once
    model.log_prob(maps[:2], parameters[:2])
    assert calls == once


def test_weights_of_the_paper():
    model = HIGlow((64, 64), NAMES, LOW, HIGH)
    expected, channels = 0, 1
    for block in range(6):
        channels *= 4
        taps = 1 if block == 5 else 9
        injector = 2 * (2 * 16 + 16 + 16 + 1)
        convolution = channels**2 + channels
        coupling = taps * (channels // 2 + 2) * 16 + 16 + 16 * 16 + 16 + taps * 16 * channels + channels
        expected += 20 * (injector + convolution + coupling)
        channels //= 2
    assert sum(weight.shape.num_elements() for weight in model.trainable_weights) == expected
    assert [block.map_shape[0] for block in model.glow_blocks] == [32, 16, 8, 4, 2, 1]
    assert [block.channels for block in model.glow_blocks] == [4, 8, 16, 32, 64, 128]
    final = HIGlow((64, 64), NAMES, LOW, HIGH, final_block=True, steps=1)
    assert (final.glow_blocks[6].channels, final.glow_blocks[6].map_shape) == (64, (1, 1))


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", None])
def test_float32_whatever_the_precision(dtype):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = flow(dtype=dtype, blocks=1, steps=1)
        maps, parameters = batch()
        model.compile()
        assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
        assert model((maps, parameters)).dtype == tf.float32
        assert model.sample(parameters, seed=(1, 2)).dtype == tf.float32
        assert model.train_step((tf.constant(maps), tf.constant(parameters)))["loss"].dtype == tf.float32
    finally:
        keras.config.set_dtype_policy(policy)


def test_loss():
    checks.check_loss(NegativeLogLikelihood(4), [0.0, 0.0], np.array([-8.0, -4.0]), 1.5)


def test_compile_defaults_to_the_optimizer_of_the_public_code():
    model = flow()
    model.compile()
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert model.optimizer.global_clipnorm == 2.0
    np.testing.assert_allclose(float(model.optimizer.learning_rate), 3e-4)


def test_seed_and_frozen_model():
    first, again, other = (flow(randomised=0.0, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(first.get_weights(), other.get_weights(), strict=True))
    frozen = flow(trainable=False)
    assert not frozen.trainable_weights
    assert frozen.get_config()["trainable"] is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map_shape": (6, 8)}, r"`map_shape`: with 2 blocks the height must be divisible by 4 cells, got 6"),
        ({"map_shape": (None, 8)}, r"`map_shape`: a flow needs \(height, width\) in pixels"),
        ({"parameter_names": "Omega_m"}, r"`parameter_names`: expected different names"),
        ({"parameter_names": ("a", "a")}, r"`parameter_names`: expected different names such as"),
        ({"parameter_low": (0.1,)}, r"`parameter_low`: expected one number, or 2 \(one per parameter\), got 1"),
        ({"parameter_low": (0.7, 0.6)}, r"expected low < high for Omega_m, got 0.7 and 0.5"),
        ({"transform": "sqrt"}, r"`transform`: expected one of"),
        ({"transform_constants": (3.0, 2.0)}, r"`transform_constants`: expected low < high"),
        ({"blocks": 0}, r"`blocks`: expected an integer of at least 1"),
        ({"injector": "cnn"}, r"`injector`: expected one of"),
        ({"smallest_scale": 1.0}, r"`smallest_scale`: expected a fraction"),
    ],
)
def test_wrong_arguments(changes, message):
    arguments = {
        "map_shape": (4, 4),
        "parameter_names": NAMES,
        "parameter_low": LOW,
        "parameter_high": HIGH,
        "blocks": 2,
        "steps": 1,
    }
    with pytest.raises(ValueError, match=message):
        HIGlow(**{**arguments, **changes})


def test_wrong_inputs():
    model = flow(randomised=0.0, steps=1)
    maps, parameters = batch()
    with pytest.raises(ValueError, match=r"`maps`: expected \(batch, 4, 4\), got the shape \(3, 4, 2\)"):
        model.log_prob(maps[:, :, :2], parameters)
    with pytest.raises(ValueError, match=r"`maps`: expected \(batch, 4, 4\), got the shape \(3, 4, 2\)"):
        model((maps[:, :, :2], parameters))
    with pytest.raises(ValueError, match=r"`parameters`: expected \(batch, 2\), the columns \['Omega_m', 'sigma_8'\]"):
        model.log_prob(maps, parameters[:, :1])
    with pytest.raises(ValueError, match=r"`parameters`: expected \(batch, 2\), .* got the shape \(3, 1\)"):
        model((maps, parameters[:, :1]))
    with pytest.raises(ValueError, match=r"HIGlow: expected a pair \(maps, parameters\), got ndarray"):
        model(maps)
    with pytest.raises(ValueError, match=r"expected as many rows in both, or one in either, got 3 and 2"):
        model.log_prob(maps, parameters[:2])
    with pytest.raises(ValueError, match=r"`parameters`: expected finite numbers, but 1 are not"):
        model.log_prob(maps, np.where(np.arange(6).reshape(3, 2) == 1, np.nan, parameters))
    with pytest.raises(ValueError, match=r"`latent`: expected \(batch, 16\), got the shape \(3, 15\)"):
        model.from_latent(np.zeros((3, 15)), parameters)
    with pytest.raises(ValueError, match=r"`seed`: expected two integers, got the shape \(\)"):
        model.sample(parameters, seed=3)
    with pytest.raises(ValueError, match=r"`n`: expected an integer of at least 1, got 0"):
        model.sample(parameters, n=0)
    with pytest.raises(ValueError, match=r"`temperature`: expected a positive, finite number"):
        model.sample(parameters, temperature=0.0)
    model.compile(run_eagerly=True)
    with pytest.raises(ValueError, match=r"HIGlow: expected batches \(maps, parameters\)"):
        model.train_step((maps,))


def test_maps_that_have_no_density():
    model = flow(randomised=0.0, steps=1)
    maps, parameters = batch()
    maps[0, 0, 0], maps[2, 1, :3] = np.nan, 0.0
    with pytest.raises(
        ValueError, match=r"4 pixels in 2 of 3 maps are not finite and positive. Leave such maps out, as"
    ):
        model.log_prob(maps, parameters)
    with pytest.raises(ValueError, match=r"1 pixels in 1 of 3 maps are not finite. Leave such maps out\."):
        flow(transform="none", constants=(), steps=1).latent(maps, parameters)
    bounded = flow(transform="log10-logit", constants=(3.0, 5.0), steps=1)
    maps, parameters = batch()
    outside = np.count_nonzero((maps < 1e3) | (maps > 1e5))
    assert outside
    with pytest.raises(
        ValueError, match=rf"{outside} pixels in .* not between 10\^3 and 10\^5. Give the transform wider"
    ):
        bounded.log_prob(maps, parameters)


def test_sampling_outside_of_the_training_range_warns(shared):
    model = shared
    with pytest.warns(UserWarning, match=r"1 of 2 rows .* Omega_m \(0.1 to 0.5\)\. The flow has seen nothing there"):
        model.sample([[0.3, 0.8], [0.6, 0.8]], seed=(1, 2))
    with pytest.warns(UserWarning, match=r"sigma_8 \(0.6 to 1\)"):
        model.from_latent(np.zeros((1, 64)), [[0.3, 0.5]])
    model.sample([[0.1, 0.6], [0.5, 1.0]], seed=(1, 2))
