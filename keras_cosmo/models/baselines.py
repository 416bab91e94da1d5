"""Linear models that a network has to beat on the same test split."""

from collections.abc import Iterable, Sequence

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

_ALPHAS = tuple(10.0 ** (exponent / 3) for exponent in range(-9, 16))


class GlobalSignalRidge:
    """Ridge regression from the global 21-cm signal and its scatter across the sky to the parameters.

    It sees no shapes at all: a network that reads more than the mean history of a light-cone must score higher.
    Features and targets are standardised with the numbers of the training part only, and the strength of
    the ridge is chosen for each parameter by cross-validation within the training part.

    Args:
        bins: Number of line-of-sight bins; each gives two features.
        alphas: Ridge strengths to choose from, for standardised features and targets.
        folds: Number of cross-validation folds over simulations.

    Input shape:
        Maps ``(n, n_perp, n_los)`` in any one unit, line of sight last; or features ``(n, 2 * bins)``.

    Output shape:
        ``(n, n_parameters)`` in the units of the targets.

    Raises:
        ValueError: If ``bins``, ``alphas`` or ``folds`` is out of range, and on data of a wrong shape or not finite.

    Example:
        >>> baseline = GlobalSignalRidge(bins=32)
        >>> train = baseline.features_from_batches(batches)                  # doctest: +SKIP
        >>> predicted = baseline.fit(train, targets, simulation).predict(test_maps)  # doctest: +SKIP

    The paper (Gillet et al. 2019) has no baseline; this one is ours.
    """

    def __init__(self, bins: int = 64, alphas: Sequence[float] = _ALPHAS, folds: int = 5):
        if bins < 1:
            raise ValueError(f"bins: expected at least 1, got {bins}.")
        if folds < 2:
            raise ValueError(f"folds: expected at least 2, got {folds}.")
        if len(alphas) == 0 or not all(np.isfinite(alpha) and alpha > 0 for alpha in alphas):
            raise ValueError(f"alphas: expected positive ridge strengths, got {alphas}.")
        self.bins = bins
        self.alphas = alphas
        self.folds = folds
        self._regressor = None

    def features(self, maps) -> np.ndarray:
        """Mean and standard deviation across the sky in line-of-sight bins, float64 ``(n, 2 * bins)``.

        Args:
            maps: Shape ``(n, n_perp, n_los)``. Both numbers are taken cell by cell along the line of sight, then
                averaged over the cells of a bin; the first ``bins`` features are the means.
        """
        maps = np.asarray(maps)
        if maps.ndim != 3:
            raise ValueError(f"maps: expected shape (n, n_perp, n_los), got {maps.shape}; drop a channel axis first.")
        if maps.shape[2] < self.bins:
            raise ValueError(
                f"maps: expected at least {self.bins} cells along the line of sight (one per bin), "
                f"got {maps.shape[2]}; use fewer bins."
            )
        edges = np.arange(self.bins + 1) * maps.shape[2] // self.bins
        table = np.empty((len(maps), 2 * self.bins))
        # One map at a time: a float64 copy of a whole batch of large maps would double its memory.
        for row, image in zip(table, maps, strict=True):
            signal = np.stack([image.mean(axis=0, dtype=np.float64), image.std(axis=0, dtype=np.float64)])
            row[:] = (np.add.reduceat(signal, edges[:-1], axis=1) / np.diff(edges)).ravel()
        return table

    def features_from_batches(self, batches: Iterable) -> np.ndarray:
        """Features of maps that come in batches ``(batch, n_perp, n_los)``, in their order."""
        tables = [self.features(maps) for maps in batches]
        if not tables:
            raise ValueError("batches: expected at least one batch of maps, got none.")
        return np.concatenate(tables)

    def fit(self, inputs, targets, simulation=None) -> "GlobalSignalRidge":
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
            raise ValueError("GlobalSignalRidge is not fitted: call fit with the training part first.")
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
        table = inputs if inputs.ndim == 2 else self.features(inputs)
        table = np.asarray(table, dtype=np.float64)
        if table.shape[1] != 2 * self.bins:
            raise ValueError(
                f"inputs: expected maps (n, n_perp, n_los) or features (n, {2 * self.bins}), got {table.shape}."
            )
        if not np.isfinite(table).all():
            raise ValueError("inputs: expected finite maps or features, got NaN or infinity.")
        return table
