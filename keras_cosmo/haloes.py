"""Dark-matter haloes of one simulated periodic box, as read from files and as painted with light. Pure NumPy."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class HaloCatalogue:
    """Positions and masses of the haloes of a periodic cube at one redshift.

    Nothing here has h in its unit: readers divide lengths and masses in Mpc/h and Msun/h by h.

    Args:
        redshift: Redshift of the box, not negative.
        box_size: Comoving side of the cube in Mpc.
        positions: ``(n, 3)`` comoving positions in Mpc, each coordinate in [0, ``box_size``).
        masses: ``(n,)`` halo masses in solar masses, positive.
        label: What the catalogue is called in messages, such as its file name.
        seed: Number of the initial conditions, or None if it is not known. Catalogues with the same seed and different
            redshifts are the same piece of universe.

    Raises:
        TypeError: If the seed is not an integer.
        ValueError: If a shape is wrong, or a value is not finite or outside its range.

    Example:
        >>> haloes = HaloCatalogue(1.3, 100.0, np.array([[1.0, 2.0, 99.0]]), np.array([1e12]))
        >>> len(haloes)
        1
    """

    redshift: float
    box_size: float
    positions: np.ndarray
    masses: np.ndarray
    label: str = ""
    seed: int | None = None

    def __post_init__(self):
        name = f"HaloCatalogue {self.label}".strip()
        if not 0.0 <= self.redshift < np.inf:
            raise ValueError(f"{name}: expected a redshift of at least 0, got {self.redshift}.")
        if not 0.0 < self.box_size < np.inf:
            raise ValueError(f"{name}: expected a positive box_size in Mpc, got {self.box_size}.")
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, (int, np.integer))):
            raise TypeError(f"{name}: expected seed to be an integer or None, got {self.seed!r}.")
        positions, masses = np.asarray(self.positions), np.asarray(self.masses)
        for array, argument in ((positions, "positions"), (masses, "masses")):
            if array.dtype.kind not in "fiu":
                raise ValueError(f"{name}: expected {argument} to be numbers, got an array of {array.dtype}.")
        positions, masses = positions.astype(_float(positions)), masses.astype(_float(masses))
        if positions.ndim != 2 or positions.shape[1] != 3:
            raise ValueError(f"{name}: expected positions of shape (n, 3), got {positions.shape}.")
        if masses.shape != positions.shape[:1]:
            raise ValueError(
                f"{name}: expected one mass per position, got masses of shape {masses.shape} for {len(positions)}."
            )
        if len(positions) and not (positions.min() >= 0.0 and positions.max() < self.box_size):
            raise ValueError(
                f"{name}: expected positions in [0, {self.box_size:g}) Mpc, got {positions.min():g} to "
                f"{positions.max():g}. Wrap them into the box, and check that neither is in Mpc/h."
            )
        if len(masses) and not (masses.min() > 0.0 and masses.max() < np.inf):
            raise ValueError(
                f"{name}: expected positive finite masses in solar masses, got {masses.min():g} to {masses.max():g}."
            )
        for field, value in (("positions", positions), ("masses", masses)):
            value.flags.writeable = False
            object.__setattr__(self, field, value)

    def __len__(self):
        return len(self.masses)


def _float(array: np.ndarray) -> type:
    """Single precision stays; everything else becomes double."""
    return np.float32 if array.dtype == np.float32 else np.float64
