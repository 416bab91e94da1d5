"""Normalisation of maps to zero mean and unit spread, fitted on the training part only."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from keras_cosmo.data.database import Scan


@dataclasses.dataclass(frozen=True)
class Normalization:
    """One mean and one standard deviation for all pixels of a field.

    Args:
        mean: In the unit of the field.
        standard_deviation: In the unit of the field, positive.

    Raises:
        ValueError: If a number is not finite, or the standard deviation is not positive.

    Example:
        >>> normalization = Normalization(mean=-20.0, standard_deviation=10.0)
        >>> float(normalization.normalize(-10.0)), float(normalization.restore(1.0))
        (1.0, -10.0)
    """

    mean: float
    standard_deviation: float

    def __post_init__(self):
        if not math.isfinite(self.mean) or not math.isfinite(self.standard_deviation) or self.standard_deviation <= 0:
            raise ValueError(
                f"Normalization: expected finite numbers and standard_deviation > 0, got mean={self.mean}, "
                f"standard_deviation={self.standard_deviation}."
            )

    def normalize(self, maps: np.ndarray) -> np.ndarray:
        """``(maps - mean) / standard_deviation``."""
        return (maps - self.mean) / self.standard_deviation

    def restore(self, maps: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`normalize`: back to the unit of the field."""
        return maps * self.standard_deviation + self.mean


def fit_normalization(scan: Scan, field: str, indices: Sequence[int] | np.ndarray) -> Normalization:
    """Mean and standard deviation over all pixels of some maps, from their moments (no second pass).

    Args:
        scan: Of the whole database.
        field: Which field.
        indices: Map indices, of the training part.

    Raises:
        ValueError: If the field is unknown, there are no maps, or all pixels are equal.
    """
    if field not in scan.mean:
        raise ValueError(f"field: expected one of {list(scan.mean)}, got {field!r}.")
    indices = np.asarray(indices)
    if indices.ndim != 1 or indices.size == 0 or indices.dtype.kind not in "iu":
        raise ValueError(f"indices: expected at least one map number, got {indices.dtype} of shape {indices.shape}.")
    n_maps = len(scan.mean[field])
    if indices.min() < 0 or indices.max() >= n_maps:
        raise ValueError(f"indices: expected map numbers 0 to {n_maps - 1}, got {indices.min()} to {indices.max()}.")
    means = scan.mean[field][indices]
    mean = means.mean()
    within = scan.squared_deviations[field][indices].sum()
    between = scan.count[field] * np.square(means - mean).sum()
    variance = (within + between) / (scan.count[field] * len(indices))
    if not variance > 0:
        raise ValueError(
            f"{field}: all pixels of the {len(indices)} maps equal {mean:g}, so they cannot be normalised. Check the "
            f"simulations, or choose another field."
        )
    return Normalization(float(mean), float(np.sqrt(variance)))
