"""Which skies, and which part of each, are trained on and tested on."""

import dataclasses

import numpy as np

from keras_cosmo.data.splits import split_by_simulation

# Fewer cannot be divided into training, validation and test.
FEWEST_SKIES = 3


@dataclasses.dataclass(frozen=True, eq=False)
class SkySplit:
    """Skies and areas of training, validation and test.

    There is one real sky, so it is divided by area (Zhang et al. 2019, section 2: one Galactic hemisphere to train,
    the other to test). Several simulated skies are divided by sky as well: what is tested is the test area of skies of
    which nothing was seen.

    Args:
        train, validation, test: Numbers of skies, sorted.
        train_area: Name of the area that training and validation cutouts are centred in, such as ``"north"``.
        test_area: Name of the area of the test.
        by_sky: Whether the three parts have different skies.

    Example:
        >>> split_skies(1, (0.6, 0.2, 0.2), seed=0, train_area="north", test_area="south").describe()
        'by area of one sky: trained in the north, tested in the south'
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    train_area: str
    test_area: str
    by_sky: bool

    def describe(self) -> str:
        """One line for reports."""
        if self.by_sky:
            counts = "{} training, {} validation, {} test".format(
                *map(len, (self.train, self.validation, self.test)),
            )
            return f"by sky ({counts}) and by area: trained in the {self.train_area}, tested in the {self.test_area}"
        skies = "one sky" if len(self.test) == 1 else f"each of {len(self.test)} skies"
        return f"by area of {skies}: trained in the {self.train_area}, tested in the {self.test_area}"

    def to_json(self) -> dict:
        """Plain values that :mod:`json` can write."""
        return {
            **{part: getattr(self, part).tolist() for part in ("train", "validation", "test")},
            "train_area": self.train_area,
            "test_area": self.test_area,
            "by_sky": self.by_sky,
        }


def split_skies(n_skies: int, fractions, seed: int, train_area: str, test_area: str) -> SkySplit:
    """By sky and area where there are three skies or more, else by area alone.

    Args:
        n_skies: Number of skies.
        fractions: Fractions of train, validation and test skies; their sum is 1.
        seed: Seed of the permutation of the skies.
        train_area: Name of the area of training and validation.
        test_area: Name of the area of the test; the two do not touch.

    Raises:
        ValueError: As `keras_cosmo.data.splits.split_by_simulation`; if the areas are the same.
    """
    if train_area == test_area:
        raise ValueError(f"train_area, test_area: expected two different areas, got {train_area!r} twice.")
    skies = np.arange(n_skies)
    if n_skies < FEWEST_SKIES:
        return SkySplit(skies, skies, skies, train_area, test_area, by_sky=False)
    split = split_by_simulation(skies, fractions, seed)
    return SkySplit(split.train, split.validation, split.test, train_area, test_area, by_sky=True)
