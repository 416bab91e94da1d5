import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import r2_score

from keras_cosmo.models.baselines import GlobalSignalRidge


def light_cones(count, seed, n_perp=6, n_los=64):
    """Maps whose global signal and scatter hold the two parameters: depth and log of the noise level."""
    generator = np.random.default_rng(seed)
    targets = generator.uniform([-200, 38], [-50, 42], (count, 2))
    trough = np.exp(-0.5 * ((np.arange(n_los) - 30) / 8) ** 2)
    noise = generator.normal(size=(count, n_perp, n_los)) * (targets[:, 1, None, None] - 36)
    return (targets[:, 0, None, None] * trough + noise).astype(np.float32), targets


def test_features_are_mean_and_scatter_in_bins():
    maps = np.random.default_rng(0).normal(size=(3, 5, 10)).astype(np.float32)
    features = GlobalSignalRidge(bins=4).features(maps)
    assert features.shape == (3, 8)
    assert features.dtype == np.float64
    # Ten cells in four bins: 2, 3, 2 and 3 cells.
    for column, cells in enumerate((slice(0, 2), slice(2, 5), slice(5, 7), slice(7, 10))):
        np.testing.assert_allclose(features[:, column], maps[:, :, cells].mean(axis=(1, 2)), rtol=1e-5, atol=1e-7)
        expected = maps.astype(float).std(axis=1)[:, cells].mean(axis=1)
        np.testing.assert_allclose(features[:, 4 + column], expected, rtol=1e-12)


def test_half_precision_maps_do_not_overflow():
    maps = np.full((1, 4, 2000), 60000.0, np.float16)
    np.testing.assert_allclose(GlobalSignalRidge(bins=2).features(maps), [[60000 - 60000 % 32] * 2 + [0, 0]])


def test_features_in_batches_are_the_same():
    maps, _ = light_cones(7, 0)
    baseline = GlobalSignalRidge(bins=8)
    batches = (maps[start : start + 3] for start in range(0, 7, 3))
    np.testing.assert_array_equal(baseline.features_from_batches(batches), baseline.features(maps))


def test_recovers_a_linear_truth_in_physical_units():
    generator = np.random.default_rng(1)
    features = generator.normal(size=(400, 8)) * [1, 10, 1e-3, 5, 1, 1, 2, 300] + 50
    weights = generator.normal(size=(8, 3)) / features.std(axis=0)[:, None]
    targets = features @ weights * [1, 100, 1e-3] + [40, -7, 0]
    baseline = GlobalSignalRidge(bins=4).fit(features[:300], targets[:300])
    assert r2_score(targets[300:], baseline.predict(features[300:]), multioutput="raw_values").min() > 1 - 1e-9


@pytest.mark.parametrize("with_groups", [True, False])
def test_targets_in_the_global_signal_are_found_in_new_maps(with_groups):
    maps, targets = light_cones(240, 2)
    simulation = np.arange(240) // 2 if with_groups else None
    baseline = GlobalSignalRidge(bins=16).fit(maps, targets, simulation)
    new_maps, new_targets = light_cones(60, 3)
    predicted = baseline.predict(new_maps)
    assert predicted.shape == (60, 2)
    assert r2_score(new_targets, predicted, multioutput="raw_values").min() > 0.9


def test_noise_without_information_is_not_fitted():
    generator = np.random.default_rng(4)
    features, targets = generator.normal(size=(200, 16)), generator.normal(size=(200, 1))
    baseline = GlobalSignalRidge(bins=8).fit(features[:100], targets[:100])
    assert r2_score(targets[100:], baseline.predict(features[100:])) > -0.15


def test_sibling_maps_do_not_weaken_the_ridge():
    """Ten near copies per simulation: a cross-validation that parts siblings would trust pure noise."""
    generator = np.random.default_rng(5)
    features = np.repeat(generator.normal(size=(30, 40)), 10, axis=0) + 1e-3 * generator.normal(size=(300, 40))
    targets = np.repeat(generator.normal(size=(30, 1)), 10, axis=0)
    simulation = np.repeat(np.arange(30), 10)
    new = generator.normal(size=(500, 40))
    grouped = GlobalSignalRidge(bins=20).fit(features, targets, simulation).predict(new)
    ungrouped = GlobalSignalRidge(bins=20).fit(features, targets).predict(new)
    assert grouped.std() < 0.3 * ungrouped.std()


def test_predictions_do_not_depend_on_their_batch():
    """Scaling comes from the training part alone: extreme maps beside a map change nothing for it."""
    maps, targets = light_cones(40, 6)
    baseline = GlobalSignalRidge(bins=8).fit(maps[:30], targets[:30], np.arange(30))
    alone = baseline.predict(maps[30:31])
    beside = baseline.predict(np.concatenate([maps[30:31], 1e4 * maps[31:]]))
    np.testing.assert_allclose(alone[0], beside[0], rtol=1e-12)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(baseline)).predict(maps[30:31]), alone)


def test_one_target_and_a_constant_feature():
    maps, targets = light_cones(20, 7)
    maps[:, :, :10] = 0
    assert GlobalSignalRidge(bins=16).fit(maps, targets[:, :1]).predict(maps).shape == (20, 1)


def test_import_needs_no_tensorflow():
    code = "import sys, keras_cosmo.models.baselines; raise SystemExit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, t: GlobalSignalRidge(bins=0), r"bins: expected at least 1, got 0"),
        (lambda m, t: GlobalSignalRidge(folds=1), r"folds: expected at least 2, got 1"),
        (lambda m, t: GlobalSignalRidge(alphas=[0.0]), r"alphas: expected positive ridge strengths"),
        (
            lambda m, t: GlobalSignalRidge().features(m[..., None]),
            r"maps: expected shape \(n, n_perp, n_los\).*channel",
        ),
        (lambda m, t: GlobalSignalRidge().features(m[..., :9]), r"at least 64 cells along the line of sight"),
        (lambda m, t: GlobalSignalRidge().features_from_batches([]), r"batches: expected at least one batch"),
        (lambda m, t: GlobalSignalRidge().predict(m), r"not fitted: call fit"),
        (lambda m, t: GlobalSignalRidge().fit(m, t[:3]), r"targets: expected shape \(12, n_parameters\), got \(3, 2\)"),
        (lambda m, t: GlobalSignalRidge().fit(m, t * np.nan), r"targets: expected finite values"),
        (lambda m, t: GlobalSignalRidge().fit(m * np.nan, t), r"inputs: expected finite maps or features"),
        (lambda m, t: GlobalSignalRidge(bins=8).fit(m[:, 0], t), r"inputs: expected maps .* or features \(n, 16\)"),
        (lambda m, t: GlobalSignalRidge().fit(m[:1], t[:1]), r"inputs: expected at least two training rows, got 1"),
        (lambda m, t: GlobalSignalRidge().fit(m, t, [1, 2]), r"simulation: expected one id per row, shape \(12,\)"),
        (lambda m, t: GlobalSignalRidge().fit(m, t, [1] * 12), r"simulation: cross-validation needs at least two"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call(*light_cones(12, 0))
