"""Whether simulations that should be independent grew from the same initial conditions.

A network that is to find the matter behind a 21-cm map learns the matter by heart if all maps show the same one
(Villanueva-Domingo & Villaescusa-Navarro 2021, footnote 3), and a test simulation with the initial conditions of a
training simulation measures memory. Nothing else in a database need show it: names, parameters and 21-cm maps differ.
"""

import logging
from collections.abc import Iterator

import numpy as np

from keras_cosmo.data.database import Database

logger = logging.getLogger(__name__)

COARSE_CELLS = 16
"""Pixels along a side of the maps that are compared in all pairs."""
COARSE_CORRELATION = 0.7
"""Simulations whose coarse maps agree better than this are looked at in full."""
FULL_CORRELATION = 0.9
"""Simulations whose full maps agree better than this have the same initial conditions.

Independent ones agree by chance. Among 9,696 pairs of simulations by 21cmFAST (96 Mpc, 64 cells, z = 15, two slabs of
6 Mpc each) the correlation is 0.07 in coarse and 0.05 in full maps (root mean square), and at most 0.30 and 0.21.
"""
BATCH_SIMULATIONS = 32
BLOCK_ROWS = 512


def find_repeated_initial_conditions(database: Database, field: str) -> list[tuple[int, ...]]:
    """Groups of simulations that show the same field, whatever their names and parameters say.

    Two maps of every simulation, the first one and one in the middle, are compared with those of every other one:
    coarse-grained to 16 x 16 pixels in all pairs, then in full where the coarse maps are alike. The correlation does
    not see factors and offsets, so that the same initial conditions are found at another growth factor, projection or
    precision, and with the sign reversed (paired simulations). Simulations with equal entries in the root attribute
    ``seeds`` make a group too. Copies that were shifted, rotated or cut elsewhere are not found.

    Cost: two maps read per simulation; 5,000 simulations in seconds, in some tens of MB.

    Args:
        database: With the maps of a simulation in the same order of slabs for all.
        field: A field that the initial conditions alone determine, such as ``"density_z15"``; 21-cm maps of equal
            initial conditions can be alike or not.

    Returns:
        Groups of two simulations or more, each ascending, in the order of their first members; empty if all differ.

    Raises:
        ValueError: If the database has no such field.

    Example:
        >>> import tempfile, pathlib
        >>> from keras_cosmo.data.database import write_database
        >>> maps = np.random.default_rng(1).normal(size=(3, 32, 32)).astype("f4")
        >>> maps[2] = 0.7 * maps[0]
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "maps.h5"
        >>> write_database(path, task="example", fields={"density": (maps, "")}, parameters=(),
        ...     parameter_values=np.zeros((3, 0)), simulation=[0, 1, 2], attributes={})
        >>> find_repeated_initial_conditions(Database(path), "density")
        [(0, 2)]
    """
    chosen = _chosen_maps(database.simulation)
    groups = _Groups(len(chosen))
    for one, other in _equal_seeds(database):
        groups.join(one, other)
    for one, other in _alike(_coarse_vectors(database, field, chosen)):
        # A pair of which this is known already costs nothing, even if all simulations are copies of one.
        if groups.of(one) == groups.of(other):
            continue
        vectors = [_standardized(database.read(field, chosen[simulation])) for simulation in (one, other)]
        if abs(float(vectors[0] @ vectors[1])) > FULL_CORRELATION:
            groups.join(one, other)
    return groups.listed()


class _Groups:
    """Disjoint sets of simulations."""

    def __init__(self, count: int):
        self._parent = list(range(count))

    def of(self, member: int) -> int:
        while self._parent[member] != member:
            self._parent[member] = self._parent[self._parent[member]]
            member = self._parent[member]
        return member

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.of(one), self.of(other)))
        self._parent[high] = low

    def listed(self) -> list[tuple[int, ...]]:
        members: dict[int, list[int]] = {}
        for member in range(len(self._parent)):
            members.setdefault(self.of(member), []).append(member)
        return [tuple(group) for group in members.values() if len(group) > 1]


def _equal_seeds(database: Database) -> Iterator[tuple[int, int]]:
    seeds = np.atleast_1d(database.attributes.get("seeds", ()))
    if len(seeds) != database.n_simulations:
        if len(seeds):
            logger.warning(
                "%s: the root attribute seeds has %d entries for %d simulations; seeds are not compared.",
                database.path, len(seeds), database.n_simulations,
            )  # fmt: skip
        return
    first: dict = {}
    for simulation, seed in enumerate(seeds.tolist()):
        if seed in first:
            yield first[seed], simulation
        first.setdefault(seed, simulation)


def _chosen_maps(simulation: np.ndarray) -> np.ndarray:
    """Indices ``(n_simulations, 1 or 2)`` of the first map of each simulation and of one in the middle."""
    order, counts = np.argsort(simulation, kind="stable"), np.bincount(simulation)
    first, fewest = np.cumsum(counts) - counts, int(counts.min())
    places = [0] if fewest < 2 else [0, fewest // 2]
    return np.stack([order[first + place] for place in places], axis=1)


def _coarse_vectors(database: Database, field: str, chosen: np.ndarray) -> np.ndarray:
    """Coarse maps of each simulation as one vector of norm 1, ``(n_simulations, pixels)`` float32."""
    vectors = []
    for start in range(0, len(chosen), BATCH_SIMULATIONS):
        batch = chosen[start : start + BATCH_SIMULATIONS]
        maps = database.read(field, batch.ravel())
        # A map without any structure has none but rounding after the averages, which could be alike.
        flat = np.ptp(maps.reshape(len(maps), -1), axis=1) == 0
        coarse = _coarse(maps)
        coarse[flat] = 0.0
        coarse = coarse.reshape(len(batch), batch.shape[1], -1)
        vectors.append(np.stack([_standardized(each) for each in coarse]).astype(np.float32))
    return np.concatenate(vectors)


def _coarse(maps: np.ndarray) -> np.ndarray:
    """Means of blocks of nearly equal size, at most 16 along each side."""
    coarse = maps.astype(np.float64)
    for axis in (1, 2):
        cells = coarse.shape[axis]
        edges = np.linspace(0, cells, min(COARSE_CELLS, cells) + 1).round().astype(int)
        shape = [1] * coarse.ndim
        shape[axis] = -1
        coarse = np.add.reduceat(coarse, edges[:-1], axis=axis) / np.diff(edges).reshape(shape)
    return coarse


def _standardized(maps: np.ndarray) -> np.ndarray:
    """Maps of one simulation as one vector of norm 1 at most, whose products are the mean correlation of the maps."""
    vectors = maps.reshape(len(maps), -1).astype(np.float64)
    vectors -= vectors.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True) * np.sqrt(len(maps))
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0).ravel()


def _alike(vectors: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs (smaller, larger) whose coarse maps are alike, block by block."""
    for start in range(0, len(vectors), BLOCK_ROWS):
        correlation = np.abs(vectors[start : start + BLOCK_ROWS] @ vectors[: start + BLOCK_ROWS].T)
        rows, columns = np.nonzero(correlation > COARSE_CORRELATION)
        for row, column in zip((rows + start).tolist(), columns.tolist(), strict=True):
            if column < row:
                yield column, row
