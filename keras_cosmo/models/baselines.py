"""Ridge regression from the global 21-cm signal, which a network has to beat on the same test split."""

import numpy as np

from keras_cosmo.models.feature_ridge import FeatureRidge


class GlobalSignalRidge(FeatureRidge):
    """Ridge regression from the global 21-cm signal and its scatter across the sky to the parameters.

    It sees no shapes at all: a network that reads more than the mean history of a light-cone must score higher.

    Args:
        bins: Number of line-of-sight bins; each gives two features.
        options: ``alphas`` and ``folds`` of `FeatureRidge`.

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

    def __init__(self, bins: int = 64, **options):
        if bins < 1:
            raise ValueError(f"bins: expected at least 1, got {bins}.")
        super().__init__(**options)
        self.bins = bins

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

    def count_features(self, fitted):
        """Two per bin."""
        return 2 * self.bins
