"""Peaks of line-intensity maps: how many there are, and how many of them a reconstruction finds.

Section 3.1 of Moriwaki et al. (2020, MNRAS 496, L54) selects "as peaks local maxima with heights greater than 3 sigma"
and counts which of them are "matched correctly". It leaves open above which level the height is measured, of which maps
sigma is the standard deviation, whether the reconstruction is measured by its own sigma, and how far apart a true and a
reconstructed peak may lie. All four are arguments here. The paper counts 24.1 Halpha and 18.9 [OIII] peaks per map of
1.7 deg. On 40 maps of our simulator of the same size and beam (`keras_cosmo.simulations.line_intensity`), heights above
the mean in units of each map's own sigma, the default, give 25.0 +- 0.8 and 22.6 +- 0.7, one sigma for all maps
22.0 +- 1.9 and 20.7 +- 1.4; measured from zero intensity there would be four times as many.

Positions are in pixels: first axis, second axis, the centre of the first pixel is (0, 0). All sums are float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import label
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from keras_cosmo.statistics.spectra import map_batches

# Rounding leaves deviations of a few epsilon times the values of a map; less than this is a constant map.
_ROUNDING = 32 * np.finfo(np.float64).eps
_NEIGHBOURS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)]
_IN_PLANE = np.zeros((3, 3, 3), int)
_IN_PLANE[1] = 1
# Distances are compared after rounding to this many pixels, so that equal ones are equal whatever their rounding.
_DISTANCE_STEP = 1e-9


class Peaks(NamedTuple):
    """Peaks of a set of maps, sorted by map and place.

    Args:
        maps: Number of maps, those without any peak too.
        map_index: Map of each peak, integers ``(n,)``.
        position: In pixels, ``(n, 2)``; the mean position of a plateau, or over the members of an ensemble.
        height: Value of the map, ``(n,)``.
        significance: ``(height - level) / sigma``, ``(n,)``; see `find_peaks`.
        agreement: Number of networks that found the peak, integers ``(n,)``; 1 for peaks of one network.
    """

    maps: int
    map_index: np.ndarray
    position: np.ndarray
    height: np.ndarray
    significance: np.ndarray
    agreement: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Number of peaks of each map, ``(maps,)``."""
        return np.bincount(self.map_index, minlength=self.maps)

    def where(self, chosen) -> "Peaks":
        """The chosen peaks only (booleans or indices)."""
        return Peaks(self.maps, *(values[chosen] for values in self[1:]))

    def above(self, threshold: float) -> "Peaks":
        """Peaks of a higher significance only."""
        return self.where(self.significance > threshold)

    def found_by(self, networks: int) -> "Peaks":
        """Peaks that at least so many networks found."""
        return self.where(self.agreement >= networks)


class PeakMatches(NamedTuple):
    """Pairs of a true and a predicted peak, each peak in at most one pair.

    Args:
        true: Index of the true peak, integers ``(n_pairs,)``, rising.
        predicted: Index of the predicted peak, integers ``(n_pairs,)``.
        distance: Distance in pixels, ``(n_pairs,)``.
    """

    true: np.ndarray
    predicted: np.ndarray
    distance: np.ndarray


class PeakScores(NamedTuple):
    """How many peaks were found, over a whole set of maps.

    Args:
        true: Number of true peaks.
        predicted: Number of predicted peaks.
        matched: Number of pairs.
        precision: ``matched / predicted``; NaN without predicted peaks.
        recall: ``matched / true``; NaN without true peaks.
        precision_standard_error: From a bootstrap over simulations; NaN with fewer than two simulations.
        recall_standard_error: Likewise.
    """

    true: int
    predicted: int
    matched: int
    precision: float
    recall: float
    precision_standard_error: float
    recall_standard_error: float


class PeakCurve(NamedTuple):
    """Scores of predicted peaks along a series of selections, such as rising thresholds.

    Args:
        selection: What is varied: thresholds in sigma, or numbers of networks that must agree, ``(n,)``.
        predicted: Number of predicted peaks, ``(n,)``.
        precision: As in `PeakScores`, ``(n,)``.
        recall: Likewise.
        precision_standard_error: Likewise.
        recall_standard_error: Likewise.
    """

    selection: np.ndarray
    predicted: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    precision_standard_error: np.ndarray
    recall_standard_error: np.ndarray


def find_peaks(
    maps,
    threshold: float = 3.0,
    *,
    about: str = "mean",
    sigma_of: str = "map",
    reference=None,
    border: int = 0,
    minimum_separation: float = 0.0,
) -> Peaks:
    """Local maxima that are higher than ``threshold`` standard deviations.

    A peak is a pixel higher than each of its 8 neighbours, or a connected plateau of equal pixels higher than every
    pixel around it, which counts once at its mean position. Pixels on the border of the map have fewer neighbours. A
    map, or a set of maps, that is the same everywhere has no sigma and no peaks.

    Args:
        maps: Real maps ``(n_maps, nx, ny)``, or an open HDF5 dataset of that shape, which is read in batches.
        threshold: In units of sigma (3 in section 3.1 of the paper).
        about: ``"mean"``: the height is measured from the mean; ``"zero"``: from zero intensity.
        sigma_of: ``"map"``: each map has its own mean and sigma; ``"set"``: all maps share those of all pixels.
        reference: Maps whose mean and sigma are used instead, such as the true maps for the predicted ones; shape of
            `maps`. Without it a prediction that is too smooth or too faint keeps its peaks, for its own sigma shrinks.
        border: Number of pixels along each side of the map in which maxima are left out.
        minimum_separation: In pixels. Of two peaks that are closer, the higher one alone counts. Defaults to 0, all of
            them, as in the paper. A beam of 3 pixels leaves hardly any two maxima closer than itself (1 of 673 peaks of
            150 embedded maps of 64 x 64 pixels), but noise of a network splits one peak into two: 15 of 286 Halpha and
            59 of 391 [OIII] peaks of a small network in these maps.

    Raises:
        TypeError: If maps are not real numbers.
        ValueError: On a wrong shape, values that are not finite, or an unknown choice.

    Example:
        >>> maps = np.zeros((1, 9, 9))
        >>> maps[0, 2, 3], maps[0, 6, 6:8] = 1.0, 2.0  # the second is a plateau of two pixels
        >>> find_peaks(maps, threshold=2.0).position.tolist()
        [[2.0, 3.0], [6.0, 6.5]]
    """
    if not np.isfinite(threshold):
        raise ValueError(f"threshold: expected a number of standard deviations, got {threshold}.")
    if isinstance(border, bool) or int(border) != border or border < 0:
        raise ValueError(f"border: expected a number of pixels, at least 0, got {border!r}.")
    if not (np.isfinite(minimum_separation) and minimum_separation >= 0):
        raise ValueError(f"minimum_separation: expected a distance in pixels, at least 0, got {minimum_separation}.")
    level, sigma = _scale(maps, about, sigma_of, reference)
    parts, count = [], 0
    for rows, batch in map_batches(maps):
        floor = np.where(sigma[rows] > 0, level[rows] + threshold * sigma[rows], np.inf)
        index, position, height = _maxima(batch, floor, int(border))
        parts.append((index + rows.start, position, height))
        count = rows.stop
    index, position, height = (np.concatenate(column) for column in zip(*parts, strict=True))
    peaks = Peaks(
        count, index, position, height, (height - level[index]) / sigma[index], np.ones(len(index), dtype=np.int64)
    )
    return peaks.where(_apart(peaks, float(minimum_separation))) if minimum_separation else peaks


def match_peaks(true: Peaks, predicted: Peaks, radius: float = 2.0, method: str = "nearest") -> PeakMatches:
    """Pair true and predicted peaks of the same map one to one.

    Args:
        true: True peaks.
        predicted: Predicted peaks of the same maps in the same order.
        radius: Largest distance in pixels. The paper does not state it; 2 pixels of 0.4 arcmin are two thirds of the
            beam's sigma of 1.2 arcmin.
        method: ``"nearest"``: the nearest pair first, then the nearest of those that are left. ``"optimal"``: as many
            pairs as possible, among these the smallest sum of distances.

    Raises:
        ValueError: If the numbers of maps differ, the radius is negative or the method unknown.

    Example:
        >>> maps = np.zeros((1, 9, 9))
        >>> maps[0, 2, 3] = 1.0
        >>> match_peaks(find_peaks(maps), find_peaks(np.roll(maps, 1, axis=1))).distance
        array([1.])
    """
    if true.maps != predicted.maps:
        raise ValueError(
            f"predicted: expected peaks of as many maps as true, {true.maps}, got {predicted.maps}; "
            f"both must come from the same maps in the same order."
        )
    if method not in ("nearest", "optimal"):
        raise ValueError(f'method: expected "nearest" or "optimal", got {method!r}.')
    first, second, distance = _pairs(true, predicted, _check_radius(radius))
    order = np.lexsort((second, first, distance))
    first, second, distance = first[order], second[order], distance[order]
    # A pair none of whose peaks has another partner is a match; only the rest needs a decision.
    alone = (np.bincount(first, minlength=len(true.map_index))[first] == 1) & (
        np.bincount(second, minlength=len(predicted.map_index))[second] == 1
    )
    decide = _nearest_first if method == "nearest" else _optimal
    rest = np.flatnonzero(~alone)
    kept = np.concatenate([np.flatnonzero(alone), rest[decide(first[rest], second[rest], distance[rest])]])
    kept = kept[np.argsort(first[kept])]
    return PeakMatches(first[kept], second[kept], distance[kept])


def score_peaks(
    true: Peaks,
    predicted: Peaks,
    radius: float = 2.0,
    *,
    method: str = "nearest",
    simulation=None,
    bootstrap_sets: int = 1000,
    seed: int = 0,
) -> PeakScores:
    """Number of true, predicted and matched peaks, precision and recall.

    Args:
        true: True peaks.
        predicted: Predicted peaks of the same maps.
        radius: As in `match_peaks`.
        method: As in `match_peaks`.
        simulation: Simulation id of each map, integers ``(n_maps,)``: the bootstrap draws whole simulations. Without
            it, every map counts as independent.
        bootstrap_sets: Number of bootstrap sets, at least 2.
        seed: Seed of the draws.

    Raises:
        ValueError: As `match_peaks`, on wrong ids, or with fewer than two bootstrap sets.

    Example:
        >>> maps = np.random.default_rng(0).normal(size=(4, 32, 32))
        >>> peaks = find_peaks(maps, 2.0)
        >>> scores = score_peaks(peaks, peaks.above(2.5))
        >>> scores.precision, scores.recall == scores.predicted / scores.true
        (1.0, True)
    """
    draws, group = bootstrap_draws(true.maps, simulation, bootstrap_sets, seed)
    return _score(true, predicted, match_peaks(true, predicted, radius, method), draws, group)


def precision_recall_curve(
    true: Peaks,
    predicted: Peaks,
    thresholds,
    radius: float = 2.0,
    *,
    method: str = "nearest",
    simulation=None,
    bootstrap_sets: int = 1000,
    seed: int = 0,
) -> PeakCurve:
    """Precision and recall against the threshold of the predicted peaks; the true peaks stay the same.

    Args:
        true: True peaks, such as those above 3 sigma.
        predicted: Predicted peaks, found with a threshold no higher than the lowest of `thresholds`.
        thresholds: In sigma, ``(n,)``.
        radius: As in `score_peaks`.
        method: As in `score_peaks`.
        simulation: As in `score_peaks`.
        bootstrap_sets: As in `score_peaks`.
        seed: As in `score_peaks`.

    Raises:
        ValueError: As `score_peaks`, or if there is no threshold.
    """
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if thresholds.ndim != 1 or not len(thresholds) or not np.isfinite(thresholds).all():
        raise ValueError(f"thresholds: expected numbers of standard deviations (n,), got {thresholds.tolist()}.")
    draws, group = bootstrap_draws(true.maps, simulation, bootstrap_sets, seed)
    selections = [predicted.above(threshold) for threshold in thresholds]
    return _curve(true, selections, thresholds, radius, method, draws, group)


def combine_peaks(members: Sequence[Peaks], radius: float = 2.0) -> Peaks:
    """Join the peaks that several networks find in the same maps into one set.

    Peaks of different networks make one if no two of them lie further apart than the radius; a group holds at most one
    peak of each network. The closest peaks are joined first. A group has the mean position, height and significance
    of its members, and their number as `Peaks.agreement`, so that ``combine_peaks(members).found_by(k)`` are the peaks
    that at least k of the n networks found: with k = n those of section 3.1 of the paper, which raise the precision of
    Halpha from 74% to 91%.

    Args:
        members: Peaks by network, of the same maps in the same order.
        radius: In pixels.

    Raises:
        ValueError: If there are none, or of different numbers of maps, or if the radius is negative.

    Example:
        >>> maps = np.zeros((1, 12, 12))
        >>> maps[0, 2, 3] = 1.0
        >>> members = [find_peaks(np.roll(maps, shift, axis=2)) for shift in (0, 1, 7)]
        >>> joined = combine_peaks(members)
        >>> joined.position.tolist(), joined.agreement.tolist()
        ([[2.0, 3.5], [2.0, 10.0]], [2, 1])
    """
    members, radius = list(members), _check_radius(radius)
    if not members or len({peaks.maps for peaks in members}) > 1:
        raise ValueError(
            f"members: expected the peaks of at least one network, all of the same maps, "
            f"got {len(members)} with {[peaks.maps for peaks in members]} maps."
        )
    network = np.repeat(np.arange(len(members)), [len(peaks.map_index) for peaks in members])
    pooled = Peaks(members[0].maps, *(np.concatenate(columns) for columns in list(zip(*members, strict=True))[1:]))
    first, second, distance = _pairs(pooled, pooled, radius)
    keep = (first < second) & (network[first] != network[second])
    first, second, distance = first[keep], second[keep], distance[keep]
    group = _join(network, first, second, distance)
    count = np.bincount(group)
    means = [
        np.bincount(group, values) / count
        for values in (pooled.position[:, 0], pooled.position[:, 1], pooled.height, pooled.significance)
    ]
    index = np.zeros(len(count), dtype=np.int64)
    index[group] = pooled.map_index
    order = np.lexsort((means[1], means[0], index))
    return Peaks(
        pooled.maps,
        index[order],
        np.stack(means[:2], axis=1)[order],
        means[2][order],
        means[3][order],
        count[order],
    )


def agreement_curve(
    true: Peaks,
    members: Sequence[Peaks],
    radius: float = 2.0,
    *,
    method: str = "nearest",
    simulation=None,
    bootstrap_sets: int = 1000,
    seed: int = 0,
) -> PeakCurve:
    """Precision and recall of the peaks that at least k of n networks found, for k from 1 to n.

    Args:
        true: True peaks.
        members: Peaks by network, as in `combine_peaks`.
        radius: In pixels, for joining the networks' peaks and for matching them with the truth.
        method: As in `score_peaks`.
        simulation: As in `score_peaks`.
        bootstrap_sets: As in `score_peaks`.
        seed: As in `score_peaks`.

    Raises:
        ValueError: As `combine_peaks` and `score_peaks`.
    """
    joined = combine_peaks(members, radius)
    draws, group = bootstrap_draws(true.maps, simulation, bootstrap_sets, seed)
    networks = np.arange(1, len(members) + 1)
    selections = [joined.found_by(count) for count in networks]
    return _curve(true, selections, networks, radius, method, draws, group)


def bootstrap_draws(maps: int, simulation, sets: int, seed: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Sets of simulations drawn with replacement, for errors of what is measured over maps.

    Args:
        maps: Number of maps.
        simulation: Simulation id of each map, integers ``(maps,)``, or None if every map is independent.
        sets: Number of bootstrap sets, at least 2.
        seed: Seed of the draws.

    Returns:
        How often each set holds each simulation, ``(sets, n_simulations)``, or None with one simulation; and which of
        the simulations each map belongs to, ``(maps,)``.

    Raises:
        ValueError: On wrong ids or fewer than two sets.

    Example:
        >>> draws, group = bootstrap_draws(4, [7, 7, 9, 9], sets=5, seed=0)
        >>> draws.sum(axis=1).tolist(), group.tolist()
        ([2, 2, 2, 2, 2], [0, 0, 1, 1])
    """
    simulation = np.arange(maps) if simulation is None else np.asarray(simulation)
    if simulation.shape != (maps,) or not np.issubdtype(simulation.dtype, np.integer):
        raise ValueError(
            f"simulation: expected one integer id per map, shape ({maps},), "
            f"got shape {simulation.shape} of {simulation.dtype}."
        )
    if sets < 2:
        raise ValueError(f"bootstrap_sets: expected at least 2, got {sets}.")
    ids, group = np.unique(simulation, return_inverse=True)
    if len(ids) < 2:
        return None, group
    return np.random.default_rng(seed).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=sets), group


def _scale(maps, about: str, sigma_of: str, reference) -> tuple[np.ndarray, np.ndarray]:
    """Level from which heights are measured and sigma, for each map."""
    if about not in ("mean", "zero"):
        raise ValueError(f'about: expected "mean" or "zero", got {about!r}.')
    if sigma_of not in ("map", "set"):
        raise ValueError(f'sigma_of: expected "map" or "set", got {sigma_of!r}.')
    source, name = (maps, "maps") if reference is None else (reference, "reference")
    if reference is not None and np.shape(reference) != np.shape(maps):
        raise ValueError(f"reference: expected the shape of maps, {np.shape(maps)}, got {np.shape(reference)}.")
    moments = [
        (batch.mean(axis=(1, 2)), batch.std(axis=(1, 2)), np.maximum(batch.max(axis=(1, 2)), -batch.min(axis=(1, 2))))
        for _, batch in map_batches(source, name)
    ]
    mean, sigma, largest = (np.concatenate(column) for column in zip(*moments, strict=True))
    if sigma_of == "set":
        overall = mean.mean()
        sigma = np.full(len(mean), np.sqrt(np.mean(sigma**2 + (mean - overall) ** 2)))
        mean, largest = np.full(len(mean), overall), np.full(len(mean), largest.max())
    sigma = np.where(sigma > _ROUNDING * largest, sigma, 0.0)
    return (mean if about == "mean" else np.zeros(len(mean))), sigma


def _maxima(batch: np.ndarray, floor: np.ndarray, border: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Map, position and height of the local maxima above the floor of each map."""
    maps, rows, columns = np.nonzero(batch > floor[:, None, None])
    value = batch[maps, rows, columns]
    highest, equal = np.ones(len(value), bool), np.zeros(len(value), bool)
    for row, column in _NEIGHBOURS:
        neighbour = _neighbour(batch, maps, rows + row, columns + column, -np.inf)
        highest &= value >= neighbour
        equal |= value == neighbour
    single = highest & ~equal
    index, position, height = maps[single], np.stack([rows, columns], axis=1)[single].astype(np.float64), value[single]
    flat = np.flatnonzero(equal)
    if flat.size:
        plateaus = _plateaus(batch, (maps[flat], rows[flat], columns[flat]), highest[flat], value[flat])
        index, position, height = (
            np.concatenate(pair) for pair in zip((index, position, height), plateaus, strict=True)
        )
        order = np.lexsort((position[:, 1], position[:, 0], index))
        index, position, height = index[order], position[order], height[order]
    last = np.array(batch.shape[1:]) - 1
    inside = np.all((position >= border) & (position <= last - border), axis=1)
    return index[inside], position[inside], height[inside]


def _plateaus(batch, pixels, highest, value) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Connected pixels of one value with nothing higher beside any of them."""
    mask = np.zeros(batch.shape, bool)
    # Touching pixels that both have nothing higher beside them have one value, so that a label is one plateau.
    mask[tuple(axis[highest] for axis in pixels)] = True
    labels, count = label(mask, _IN_PLANE)
    spoiled = np.zeros(count + 1, bool)
    spoiled[0] = True
    # A pixel of the same value that has something higher beside it spoils the plateau that it belongs to.
    maps, rows, columns = (axis[~highest] for axis in pixels)
    for row, column in _NEIGHBOURS:
        place = (maps, rows + row, columns + column)
        spoiled[_neighbour(labels, *place, 0)[_neighbour(batch, *place, -np.inf) == value[~highest]]] = True
    group = labels[pixels]
    size = np.bincount(group, minlength=count + 1)
    # A map without anything lower is no peak.
    spoiled |= size == batch.shape[1] * batch.shape[2]
    kept = np.flatnonzero(~spoiled)
    means = [np.bincount(group, axis, minlength=count + 1)[kept] / size[kept] for axis in pixels[1:]]
    member = np.zeros(count + 1, dtype=np.int64)
    member[group] = np.arange(len(group))
    return pixels[0][member[kept]], np.stack(means, axis=1), value[member[kept]]


def _apart(peaks: Peaks, separation: float) -> np.ndarray:
    """Which peaks are left, the highest first, when each rules out lower ones that are closer."""
    rank = np.empty(len(peaks.height), dtype=np.int64)
    rank[np.argsort(-peaks.height, kind="stable")] = np.arange(len(rank))
    first, second, distance = _pairs(peaks, peaks, separation)
    lower = (rank[first] < rank[second]) & (distance < separation - _DISTANCE_STEP)
    first, second = first[lower], second[lower]
    kept = np.ones(len(rank), bool)
    # What is higher than the first of a pair has been decided by its turn.
    for index in np.argsort(rank[first], kind="stable"):
        if kept[first[index]]:
            kept[second[index]] = False
    return kept


def _neighbour(values: np.ndarray, maps: np.ndarray, rows: np.ndarray, columns: np.ndarray, outside) -> np.ndarray:
    """Values at places of which some lie one pixel outside the map."""
    height, width = values.shape[1:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return np.where(inside, values[maps, np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)], outside)


def _check_radius(radius: float) -> float:
    if not (np.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius: expected a distance in pixels, at least 0, got {radius}.")
    return float(radius)


def _pairs(one: Peaks, other: Peaks, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of peaks of the same map within the radius."""
    if not len(one.map_index) or not len(other.map_index):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
    reach = radius * (1 + 1e-12) + _DISTANCE_STEP
    # Maps far apart along a third axis: one tree for all.
    trees = [
        cKDTree(np.column_stack([peaks.position, peaks.map_index * (2.0 * reach + 1.0)])) for peaks in (one, other)
    ]
    pairs = trees[0].sparse_distance_matrix(trees[1], reach, output_type="ndarray")
    steps = np.round(pairs["v"] / _DISTANCE_STEP) * _DISTANCE_STEP
    inside = steps <= radius + _DISTANCE_STEP
    return pairs["i"][inside].astype(np.int64), pairs["j"][inside].astype(np.int64), steps[inside]


def _nearest_first(first: np.ndarray, second: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Indices of the chosen pairs; the pairs come sorted by distance."""
    taken_first, taken_second, chosen = set(), set(), []
    for index, (one, other) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        if one not in taken_first and other not in taken_second:
            taken_first.add(one)
            taken_second.add(other)
            chosen.append(index)
    return np.array(chosen, dtype=np.int64)


def _optimal(first: np.ndarray, second: np.ndarray, distance: np.ndarray) -> np.ndarray:
    chosen = []
    for members in _components(first, second + 1 + first.max(initial=0)):
        rows, row = np.unique(first[members], return_inverse=True)
        columns, column = np.unique(second[members], return_inverse=True)
        # Every pair gains more than all distances together can cost.
        cost = np.zeros((len(rows), len(columns)))
        pair = np.full(cost.shape, -1)
        cost[row, column] = distance[members] - 1.0 - 2.0 * distance[members].sum()
        pair[row, column] = members
        picked = pair[linear_sum_assignment(cost)]
        chosen.append(picked[picked >= 0])
    return np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)


def _components(first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    """Indices of the pairs of each connected part of a graph; a part keeps the order of its pairs."""
    if not len(first):
        return []
    nodes = int(max(first.max(), second.max())) + 1
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(nodes, nodes))
    part = connected_components(graph.tocsr(), directed=False)[1][first]
    order = np.argsort(part, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(part[order])) + 1)


def _join(network: np.ndarray, first: np.ndarray, second: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Group of each peak: nearest pairs first, one peak of each network, all pairs of a group within the radius."""
    group = np.arange(len(network))
    for edges in _components(first, second):
        one, other = first[edges], second[edges]
        members = np.unique(np.concatenate([one, other]))
        complete = len(edges) == len(members) * (len(members) - 1) // 2
        # Pairs join different networks, so all pairs present means that no network comes twice.
        if complete:
            group[members] = members[0]
            continue
        order = np.lexsort((other, one, distance[edges]))
        near = {frozenset(pair) for pair in zip(one.tolist(), other.tolist(), strict=True)}
        parts = {member: [member] for member in members.tolist()}
        for left, right in zip(one[order].tolist(), other[order].tolist(), strict=True):
            if parts[left] is parts[right]:
                continue
            if all(frozenset((a, b)) in near for a in parts[left] for b in parts[right]):
                merged = sorted(parts[left] + parts[right])
                parts.update(dict.fromkeys(merged, merged))
        for member, part in parts.items():
            group[member] = part[0]
    return np.unique(group, return_inverse=True)[1]


def _score(true: Peaks, predicted: Peaks, matches: PeakMatches, draws, group: np.ndarray) -> PeakScores:
    found = [true.map_index, predicted.map_index, true.map_index[matches.true]]
    totals = [len(values) for values in found]

    def rate(part, whole):
        return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)

    errors = (np.nan, np.nan)
    if draws is not None:
        size = group.max() + 1
        every, guessed, right = (draws @ np.bincount(group[index], minlength=size) for index in found)
        errors = tuple(_deviation(rate(right.astype(float), whole)) for whole in (guessed, every))
    precision, recall = (float(rate(float(totals[2]), whole)) for whole in (totals[1], totals[0]))
    return PeakScores(*totals, precision, recall, *errors)


def _deviation(values: np.ndarray) -> float:
    """Standard deviation over bootstrap sets; sets without any peak have no rate."""
    known = values[~np.isnan(values)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else float("nan")


def _curve(true, selections, axis, radius, method, draws, group) -> PeakCurve:
    scores = [_score(true, peaks, match_peaks(true, peaks, radius, method), draws, group) for peaks in selections]
    columns = [np.array([getattr(score, name) for score in scores]) for name in PeakCurve._fields[1:]]
    return PeakCurve(axis, *columns)
