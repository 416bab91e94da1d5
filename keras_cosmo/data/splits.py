"""Split of a database into training, validation and test simulations.

Always by simulation, never by map: maps of one simulation share initial conditions and parameters, so a split by map
would let the test see what was trained on.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Simulation ids of the three parts.

    Args:
        train: Sorted simulation ids, int64.
        validation: Sorted simulation ids.
        test: Sorted simulation ids.

    Raises:
        ValueError: If a part is empty, not sorted, has repeated ids, or shares ids with another part.

    Example:
        >>> split = split_by_simulation([0, 0, 1, 1, 2, 2], fractions=(0.34, 0.33, 0.33), seed=1)
        >>> len(split.train), split.maps("train", [0, 0, 1, 1, 2, 2], per_simulation=1).size
        (1, 1)
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def __post_init__(self):
        for part in PARTS:
            ids = np.array(getattr(self, part))
            if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
                raise ValueError(
                    f"{part}: expected at least one simulation id, got {ids.dtype} of shape {ids.shape}. "
                    f"Give a list of integers."
                )
            if ids.min() < 0 or (np.diff(ids) <= 0).any():
                raise ValueError(f"{part}: expected sorted ids >= 0 that differ, got {ids[:10].tolist()}. Sort them.")
            ids = ids.astype(np.int64)
            ids.flags.writeable = False
            object.__setattr__(self, part, ids)
        self.check_disjoint()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Split):
            return NotImplemented
        return all(np.array_equal(getattr(self, part), getattr(other, part)) for part in PARTS)

    __hash__ = None

    def check_disjoint(self) -> None:
        """Raise ValueError if a simulation is in two parts."""
        for index, first in enumerate(PARTS):
            for second in PARTS[index + 1 :]:
                shared = np.intersect1d(getattr(self, first), getattr(self, second))
                if len(shared):
                    raise ValueError(
                        f"split: simulations {shared[:10].tolist()} are in {first} and in {second}. "
                        f"Put each simulation into one part only."
                    )

    def maps(self, part: str, simulation: Sequence[int] | np.ndarray, per_simulation: int | None = None) -> np.ndarray:
        """Indices of the maps of one part, sorted.

        Args:
            part: ``"train"``, ``"validation"`` or ``"test"``.
            simulation: ``(n_maps,)`` simulation id of each map.
            per_simulation: Take only the first so many maps of each simulation; None takes all.

        Raises:
            ValueError: If the part is unknown, a simulation of it has no maps, or fewer than ``per_simulation``.
        """
        if part not in PARTS:
            raise ValueError(f"part: expected one of {PARTS}, got {part!r}.")
        if per_simulation is not None and per_simulation < 1:
            raise ValueError(f"per_simulation: expected at least 1 or None, got {per_simulation}.")
        simulation, wanted = np.asarray(simulation), getattr(self, part)
        order = np.argsort(simulation, kind="stable")
        first = np.searchsorted(simulation[order], wanted, side="left")
        available = np.searchsorted(simulation[order], wanted, side="right") - first
        needed = per_simulation or 1
        if available.min() < needed:
            short = np.flatnonzero(available < needed)[0]
            raise ValueError(
                f"split: expected at least {needed} maps of simulation {wanted[short]} ({part}), got "
                f"{available[short]}. Use the split with the database it was made for, or lower per_simulation."
            )
        take = available if per_simulation is None else np.full_like(available, per_simulation)
        chosen = [order[start : start + number] for start, number in zip(first, take, strict=True)]
        return np.sort(np.concatenate(chosen)).astype(np.int64)

    def describe(self) -> str:
        """One line for reports."""
        counts = [len(getattr(self, part)) for part in PARTS]
        return "by simulation: {} training, {} validation, {} test".format(*counts)

    def to_json(self) -> dict[str, list[int]]:
        """Lists of ids that :mod:`json` can write."""
        return {part: getattr(self, part).tolist() for part in PARTS}

    @classmethod
    def from_json(cls, content: Mapping[str, Sequence[int]]) -> "Split":
        """Split from what :meth:`to_json` returned.

        Raises:
            ValueError: If a part is missing or unexpected, or the ids are not a valid split.
        """
        if set(content) != set(PARTS):
            raise ValueError(f"split: expected the parts {list(PARTS)}, got {sorted(content)}.")
        return cls(**{part: np.array(content[part]) for part in PARTS})


def split_by_simulation(
    simulation: Sequence[int] | np.ndarray,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> Split:
    """Random split of the simulations.

    Args:
        simulation: ``(n_maps,)`` simulation id of each map.
        fractions: Fractions of train, validation and test; their sum is 1. Validation and test are rounded to
            whole simulations, train gets the rest.
        seed: Seed of the permutation.

    Raises:
        ValueError: If the fractions are not positive with sum 1, or a part would be empty; says how many
            simulations are needed at least.
    """
    fractions = tuple(float(fraction) for fraction in fractions)
    if len(fractions) != 3 or not min(fractions) > 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"fractions: expected three positive numbers (train, validation, test) with sum 1, got {fractions}."
        )
    ids = np.unique(np.asarray(simulation))
    if ids.size == 0 or ids.dtype.kind not in "iu":
        raise ValueError(
            f"simulation: expected the integer simulation id of each map, got {ids.dtype}, {ids.size} ids."
        )
    sizes = _sizes(len(ids), fractions)
    if min(sizes) < 1:
        needed = len(ids) + 1
        while min(_sizes(needed, fractions)) < 1:
            needed += 1
        raise ValueError(
            f"split: {len(ids)} simulations cannot be split into {fractions}: the parts would have {sizes}. At least "
            f"{needed} simulations are needed. Make more simulations, or give other fractions."
        )
    shuffled = np.random.default_rng(seed).permutation(ids)
    n_train, n_validation, _ = sizes
    return Split(
        train=np.sort(shuffled[:n_train]),
        validation=np.sort(shuffled[n_train : n_train + n_validation]),
        test=np.sort(shuffled[n_train + n_validation :]),
    )


def _sizes(count: int, fractions: tuple[float, float, float]) -> tuple[int, int, int]:
    validation, test = (int(fraction * count + 0.5) for fraction in fractions[1:])
    return count - validation - test, validation, test
