"""The split of the public code of Villanueva-Domingo & Villaescusa-Navarro (2021), to measure how much it flatters."""

import dataclasses

import numpy as np

from keras_cosmo.data.splits import PARTS

SYMMETRIES = 8


@dataclasses.dataclass(frozen=True)
class LeakingSplit:
    """Random split of the eight symmetric copies of every map, whatever simulation they come from.

    Copies of one map, and maps of one simulation, are in training, validation and test at once, so that the test
    measures memory as well as skill. Never use it to report a result: it is here to be compared with
    `keras_cosmo.data.splits.Split` (which is by simulation) on the same data.

    Args:
        n_maps: Number of maps.
        fractions: Fractions of train, validation and test; their sum is 1.
        seed: Seed of the permutation.

    Raises:
        ValueError: If the fractions are not three positive numbers with sum 1, or a part would be empty.

    Example:
        >>> maps, symmetries = LeakingSplit(100, (0.7, 0.15, 0.15), seed=0).copies("test")
        >>> len(maps), int(symmetries.max())
        (120, 7)
    """

    n_maps: int
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 0

    def __post_init__(self):
        fractions = tuple(float(fraction) for fraction in self.fractions)
        if len(fractions) != 3 or not min(fractions) > 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError(
                f"fractions: expected three positive numbers (train, validation, test) with sum 1, got {fractions}."
            )
        object.__setattr__(self, "fractions", fractions)
        if min(len(self.copies(part)[0]) for part in PARTS) < 1:
            raise ValueError(f"split: {SYMMETRIES * self.n_maps} copies of maps cannot be split into {fractions}.")

    def copies(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Map numbers and symmetries (0 to 7, `square_symmetry`) of one part, ``(n,)`` each.

        Args:
            part: ``"train"``, ``"validation"`` or ``"test"``.

        Raises:
            ValueError: If the part is unknown.
        """
        if part not in PARTS:
            raise ValueError(f"part: expected one of {PARTS}, got {part!r}.")
        total = SYMMETRIES * self.n_maps
        first = int(self.fractions[0] * total + 0.5)
        second = first + int(self.fractions[1] * total + 0.5)
        bounds = {"train": (0, first), "validation": (first, second), "test": (second, total)}[part]
        chosen = np.random.default_rng(self.seed).permutation(total)[slice(*bounds)]
        return tuple(np.divmod(np.sort(chosen), SYMMETRIES))

    def to_json(self) -> dict:
        """How the split was drawn."""
        return {"kind": "leaking, by copy of a map", **dataclasses.asdict(self)}

    def describe(self) -> str:
        """One line for reports."""
        counts = [len(self.copies(part)[0]) for part in PARTS]
        return (
            "LEAKING, by copy of a map as in the public code of the paper: {} training, {} validation, {} test".format(
                *counts
            )
        )
