import numpy as np
import pytest
from sklearn.metrics import r2_score, root_mean_squared_error

from keras_cosmo.quantities import Parameter
from keras_cosmo.statistics import scores as s

PARAMETERS = (
    Parameter(name="zeta", low=10.0, high=250.0),
    Parameter(name="log10_L_X", low=38.0, high=42.0, unit="erg s^-1 Msun^-1 yr"),
    Parameter(name="E_0", low=0.1, high=1.5, unit="keV"),
)


@pytest.fixture
def pair():
    generator = np.random.default_rng(3)
    true = generator.uniform([10, 38, 0.1], [250, 42, 1.5], (200, 3))
    return true, true + generator.normal(size=true.shape) * [10, 0.1, 0.3] + [2, -0.05, 0.1]


def test_scores_agree_with_scikit_learn(pair):
    true, predicted = pair
    np.testing.assert_allclose(s.r2(true, predicted), r2_score(true, predicted, multioutput="raw_values"), rtol=1e-11)
    expected = root_mean_squared_error(true, predicted, multioutput="raw_values")
    np.testing.assert_allclose(s.rmse(true, predicted), expected, rtol=1e-14)


def test_hand_numbers():
    true, predicted = [[1.0], [2.0], [3.0], [4.0]], [[1.0], [2.0], [3.0], [6.0]]
    # Residuals 0, 0, 0, 2; total sum of squares 2.25 + 0.25 + 0.25 + 2.25 = 5.
    np.testing.assert_allclose(s.r2(true, predicted), [1 - 4 / 5], rtol=1e-15)
    np.testing.assert_allclose(s.rmse(true, predicted), [1.0], rtol=1e-15)
    np.testing.assert_allclose(s.bias(true, predicted), [0.5], rtol=1e-15)
    np.testing.assert_allclose(s.scatter(true, predicted), [np.sqrt(0.75)], rtol=1e-15)


def test_an_offset_of_the_targets_costs_no_digits():
    generator = np.random.default_rng(0)
    # Multiples of 2^-20 below 1 stay exact after adding 2^30.
    true = generator.integers(0, 2**20, (500, 2)) / 2**20
    predicted = true + generator.integers(-1000, 1000, (500, 2)) / 2**20
    offset = 2.0**30
    np.testing.assert_allclose(s.r2(true + offset, predicted + offset), s.r2(true, predicted), rtol=1e-9)
    ids = np.arange(500) // 2
    np.testing.assert_allclose(
        s.bootstrap_r2(true + offset, predicted + offset, ids, 50), s.bootstrap_r2(true, predicted, ids, 50), rtol=1e-9
    )
    shifted = s.average_by_simulation(predicted + offset, ids)
    np.testing.assert_allclose(shifted.mean - offset, s.average_by_simulation(predicted, ids).mean, atol=1e-6)


def test_laws(pair):
    true, predicted = pair
    np.testing.assert_allclose(s.r2(true, true), 1.0)
    np.testing.assert_allclose(s.r2(true, np.broadcast_to(true.mean(axis=0), true.shape)), 0.0, atol=1e-12)
    np.testing.assert_allclose(
        s.rmse(true, predicted) ** 2, s.bias(true, predicted) ** 2 + s.scatter(true, predicted) ** 2, rtol=1e-12
    )
    # The score of a parameter does not depend on its unit.
    np.testing.assert_allclose(s.r2(1e3 * true + 7, 1e3 * predicted + 7), s.r2(true, predicted), rtol=1e-9)


def test_the_prior_mean_scores_one_prior_standard_deviation():
    # The midpoint rule has exactly the uniform distribution's mean; its variance is (1 - 1/n^2) of the uniform one's.
    n = 1000
    unit = (np.arange(n) + 0.5) / n
    true = np.stack([p.low + (p.high - p.low) * unit for p in PARAMETERS], axis=1)
    predicted = np.tile([(p.low + p.high) / 2 for p in PARAMETERS], (n, 1))
    np.testing.assert_allclose(s.rmse_over_prior(true, predicted, PARAMETERS), np.sqrt(1 - 1 / n**2), rtol=1e-10)


def test_binned_residuals_by_hand():
    binned = s.binned_residuals([0.0, 0.9, 1.0, 3.0, 9.0], [1.0, 3.0, 5.0, 7.0, 100.0], [0, 1, 2, 2.5, 3])
    assert binned.counts.tolist() == [2, 1, 0, 1]
    np.testing.assert_array_equal(binned.mean, [2.0, 5.0, np.nan, 7.0])
    np.testing.assert_array_equal(binned.standard_deviation, [1.0, np.nan, np.nan, np.nan])


def test_binned_residuals_of_nothing():
    binned = s.binned_residuals([], [], [0, 1, 2])
    assert binned.counts.tolist() == [0, 0]
    assert np.isnan(binned.mean).all()
    assert np.isnan(binned.standard_deviation).all()


def test_binned_residuals_against_a_loop():
    generator = np.random.default_rng(5)
    reference, residual = generator.uniform(size=(2, 3000))
    edges = np.linspace(0, 1, 8)
    binned = s.binned_residuals(reference, residual + 40.0, edges)
    for index in range(7):
        inside = (reference >= edges[index]) & (reference < edges[index + 1])
        assert binned.counts[index] == inside.sum()
        np.testing.assert_allclose(binned.mean[index], 40 + residual[inside].mean(), rtol=1e-12)
        np.testing.assert_allclose(binned.standard_deviation[index], residual[inside].std(), rtol=1e-9)


def test_average_by_simulation():
    predictions = np.array([[1.0, 40.0], [10.0, 41.0], [3.0, 42.0], [5.0, 41.0]])
    average = s.average_by_simulation(predictions, np.array([7, 2, 7, 7]))
    assert average.simulation.tolist() == [2, 7]
    np.testing.assert_allclose(average.mean, [[10, 41], [3, 41]], rtol=1e-14)
    # Three slices 1, 3, 5: sample variance 4, error of the mean sqrt(4 / 3).
    np.testing.assert_allclose(average.standard_error[1], [np.sqrt(4 / 3), np.sqrt(1 / 3)], rtol=1e-14)
    assert np.isnan(average.standard_error[0]).all()


def test_bootstrap_repeats_with_its_seed_and_shrinks_with_more_simulations():
    generator = np.random.default_rng(1)
    true = generator.uniform(size=(1600, 1))
    predicted = true + 0.1 * generator.normal(size=true.shape)
    ids = np.arange(1600)
    error = s.bootstrap_r2(true, predicted, ids, 400, seed=4)
    np.testing.assert_array_equal(error, s.bootstrap_r2(true, predicted, ids, 400, seed=4))
    assert error != s.bootstrap_r2(true, predicted, ids, 400, seed=5)
    small = s.bootstrap_r2(true[:100], predicted[:100], ids[:100], 400)
    assert 2.5 < (small / error).item() < 6.5


def test_bootstrap_matches_the_scatter_of_fresh_samples():
    generator = np.random.default_rng(2)

    def sample():
        true = generator.uniform(size=(300, 1))
        return true, true + 0.15 * generator.normal(size=true.shape)

    scatter = np.std([s.r2(*sample()) for _ in range(400)])
    error = np.mean([s.bootstrap_r2(*sample(), np.arange(300), 200, seed=k) for k in range(10)])
    np.testing.assert_allclose(error, scatter, rtol=0.2)


def test_bootstrap_draws_simulations_not_maps(pair):
    true, predicted = (table[:50] for table in pair)
    once = s.bootstrap_r2(true, predicted, np.arange(50), 300)
    copies = [np.repeat(table, 10, axis=0) for table in (true, predicted)]
    np.testing.assert_allclose(s.bootstrap_r2(*copies, np.repeat(np.arange(50), 10), 300), once, rtol=1e-9)


def test_bootstrap_leaves_out_sets_without_spread():
    true, residual = np.array([[1.0], [1.0], [2.0]]), np.array([[0.1], [0.0], [0.1]])
    error = s.bootstrap_r2(true, true + residual, np.arange(3), 200)
    assert np.isfinite(error).all()


def test_flat_scores(pair):
    true, predicted = pair
    table = s.scores(true, predicted, PARAMETERS)
    keys = {f"{score}/{p.name}" for score in ("r2", "rmse", "rmse_over_prior", "bias", "scatter") for p in PARAMETERS}
    assert set(table) == keys
    assert all(type(value) is float for value in table.values())
    assert table["bias/log10_L_X"] == s.bias(true, predicted)[1]
    np.testing.assert_allclose(table["rmse_over_prior/zeta"], table["rmse/zeta"] / (240 / np.sqrt(12)), rtol=1e-14)
    with_error = s.scores(true, predicted, PARAMETERS, simulation=np.arange(200) // 2, bootstrap_sets=50)
    assert set(with_error) - keys == {f"r2_standard_error/{p.name}" for p in PARAMETERS}
    assert set(s.scores(true, predicted, PARAMETERS, simulation=np.zeros(200, int))) == keys


def test_float32_predictions_are_scored_in_float64(pair):
    true, predicted = pair
    single = predicted.astype(np.float32)
    np.testing.assert_array_equal(s.r2(true, single), s.r2(true, single.astype(np.float64)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, p: s.r2(t, p[:10]), r"predicted: expected the shape of true, \(200, 3\), got \(10, 3\)"),
        (lambda t, p: s.r2(t[:, 0], p[:, 0]), r"true: expected shape \(n, n_parameters\).*got \(200,\); use values"),
        (
            lambda t, p: s.rmse(t, np.where(t > 200, np.nan, p)),
            r"predicted: expected finite values, got NaN.*first: row",
        ),
        (lambda t, p: s.r2(t[:1], p[:1]), r"true: R2 needs at least two different true values.*1 rows of column 0"),
        (lambda t, p: s.scores(t, p, PARAMETERS[:2]), r"parameters: expected one per column, 3, got 2"),
        (lambda t, p: s.rmse_over_prior(t, p, PARAMETERS[:2]), r"parameters: expected one per column, 3, got 2"),
        (lambda t, p: s.bootstrap_r2(t, p, np.zeros(200, int)), r"simulation: a bootstrap .* needs at least two"),
        (lambda t, p: s.bootstrap_r2(t, p, np.arange(200), 1), r"n: expected at least two bootstrap sets, got 1"),
        (
            lambda t, p: s.bootstrap_r2(t, p, np.arange(20)),
            r"simulation: expected one integer id per row, shape \(200,\)",
        ),
        (lambda t, p: s.average_by_simulation(p, np.ones(200)), r"simulation: expected one integer id.*float64"),
        (lambda t, p: s.binned_residuals(t, p, [0, 1]), r"reference and residual: expected two arrays of one shape"),
        (lambda t, p: s.binned_residuals(t[:, 0], p[:, 0], [1, 1]), r"edges: expected at least two rising values"),
        (lambda t, p: s.binned_residuals([np.inf], [0], [0, 1]), r"reference and residual: expected finite values"),
    ],
)
def test_errors_say_what_to_do(pair, call, message):
    with pytest.raises(ValueError, match=message):
        call(*pair)
