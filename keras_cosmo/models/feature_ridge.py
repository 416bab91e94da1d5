"""Ridge regression from a few features of each map to its parameters: what a network has to beat."""

import abc
from collections.abc import Iterable, Sequence

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

_ALPHAS = tuple(10.0 ** (exponent / 3) for exponent in range(-9, 16))


class FeatureRidge(abc.ABC):
    """Ridge regression on features of maps, on the same test split as the network.

    Features and targets are standardised with the numbers of the training part only, and the strength of the ridge is
    chosen for each parameter by cross-validation within the training part. A subclass says what the features are.

    Args:
        alphas: Ridge strengths to choose from, for standardised features and targets.
        folds: Number of cross-validation folds over simulations.

    Raises:
        ValueError: If ``alphas`` or ``folds`` is out of range, and on data of a wrong shape or not finite.
    """

    def __init__(self, alphas: Sequence[float] = _ALPHAS, folds: int = 5):
        if folds < 2:
            raise ValueError(f"folds: expected at least 2, got {folds}.")
        if len(alphas) == 0 or not all(np.isfinite(alpha) and alpha > 0 for alpha in alphas):
            raise ValueError(f"alphas: expected positive ridge strengths, got {alphas}.")
        self.alphas = alphas
        self.folds = folds
        self._regressor = None

    @abc.abstractmethod
    def features(self, maps) -> np.ndarray:
        """Features of maps, float64 ``(n, n_features)``."""

    def features_from_batches(self, batches: Iterable) -> np.ndarray:
        """Features of maps that come in batches ``(batch, height, width)``, in their order."""
        tables = [self.features(maps) for maps in batches]
        if not tables:
            raise ValueError("batches: expected at least one batch of maps, got none.")
        return np.concatenate(tables)

    def fit(self, inputs, targets, simulation=None) -> "FeatureRidge":
        """Fit to the training part.

        Args:
            inputs: Training maps, or their features.
            targets: True parameters ``(n, n_parameters)`` in physical units.
            simulation: Simulation id of each row. If given, maps of one simulation stay in one fold of the
                cross-validation; otherwise it leaves out one row at a time.

        Returns:
            This object.
        """
        features = self._as_features(inputs)
        targets = np.asarray(targets, dtype=np.float64)
        if targets.ndim != 2 or len(targets) != len(features):
            raise ValueError(f"targets: expected shape ({len(features)}, n_parameters), got {targets.shape}.")
        if not np.isfinite(targets).all():
            raise ValueError("targets: expected finite values, got NaN or infinity.")
        if len(features) < 2:
            raise ValueError(f"inputs: expected at least two training rows, got {len(features)}.")
        self._regressor = TransformedTargetRegressor(
            regressor=make_pipeline(StandardScaler(), self._ridge(len(features), simulation)),
            transformer=StandardScaler(),
            check_inverse=False,
        ).fit(features, targets)
        return self

    def predict(self, inputs) -> np.ndarray:
        """Parameters of maps, or of their features, in physical units: float64 ``(n, n_parameters)``."""
        if self._regressor is None:
            raise ValueError(f"{type(self).__name__} is not fitted: call fit with the training part first.")
        features = self._as_features(inputs)
        return self._regressor.predict(features).reshape(len(features), -1)

    def _ridge(self, rows: int, simulation):
        if simulation is None:
            return RidgeCV(self.alphas, alpha_per_target=True)
        simulation = np.asarray(simulation)
        if simulation.shape != (rows,):
            raise ValueError(f"simulation: expected one id per row, shape ({rows},), got {simulation.shape}.")
        folds = min(self.folds, len(np.unique(simulation)))
        if folds < 2:
            raise ValueError("simulation: cross-validation needs at least two simulations, got 1.")
        splits = list(GroupKFold(folds).split(simulation, groups=simulation))
        return MultiOutputRegressor(RidgeCV(self.alphas, cv=splits, scoring="neg_mean_squared_error"))

    def _as_features(self, inputs) -> np.ndarray:
        inputs = np.asarray(inputs)
        table = np.asarray(inputs if inputs.ndim == 2 else self.features(inputs), dtype=np.float64)
        fitted = getattr(self._regressor, "n_features_in_", table.shape[1])
        if table.shape[1] != self.count_features(fitted):
            raise ValueError(
                f"inputs: expected maps (n, height, width) or features (n, {self.count_features(fitted)}), got "
                f"{table.shape}."
            )
        if not np.isfinite(table).all():
            raise ValueError("inputs: expected finite maps or features, got NaN or infinity.")
        return table

    def count_features(self, fitted: int) -> int:
        """Features of one map; ``fitted`` is what the regression was fitted to."""
        return fitted
