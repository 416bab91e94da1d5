import checks
import numpy as np
import pytest

from keras_cosmo.losses import StandardizedMeanSquaredError


def test_by_hand():
    # ((10/10)^2 + (1/0.5)^2) / 2 and ((0)^2 + (0.5/0.5)^2) / 2, averaged.
    loss = StandardizedMeanSquaredError([10.0, 0.5])
    checks.check_loss(loss, [[100.0, 40.0], [50.0, 41.0]], [[110.0, 41.0], [50.0, 40.5]], (2.5 + 0.5) / 2)


def test_is_mean_squared_error_of_standardised_quantities():
    generator = np.random.default_rng(1)
    true, predicted, scale = generator.normal(size=(50, 3)), generator.normal(size=(50, 3)), np.array([0.1, 2.0, 30.0])
    expected = np.mean(((predicted - true) / scale) ** 2)
    checks.check_loss(StandardizedMeanSquaredError(scale), true, predicted, expected)


@pytest.mark.parametrize("scale", [[0.0, 1.0], [-1.0], [float("nan")], [float("inf")]])
def test_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="positive finite `standard_deviation`"):
        StandardizedMeanSquaredError(scale)
