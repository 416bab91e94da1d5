"""How well generated maps follow true ones as a distribution, and whether they are copies of the training maps.

Generated maps have no partner among the true maps, so what is compared are means and scatter over maps, distributions
of pixels, and distances to the training maps. Figure 2 of Friedman & Hassan (2022, arXiv:2211.12724, section 3.1)
compares mean and standard deviation of power spectra, of all parameters together (B) and of given parameters (C).

Conventions:

- Every function takes all generated maps, those that failed too, and returns a `SampleCheck` beside its result: maps
  that are not finite (or have no logarithm) cannot be measured and are left out there, but they are counted. Maps with
  values out of range are counted and stay in.
- ``log10=True``, the default, compares log10 of the maps, ``log10=False`` the maps.
- Maps of one simulation share a field (in CAMELS there are 15), so errors come from a bootstrap over simulations. If
  all simulations of the generated maps are among those of the true ones, such as when they were generated with the
  parameters of the test simulations, both are drawn together: then the scatter of the parameters drops out.
- True maps have to be finite, and positive with ``log10=True``. All sums are float64.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.fft

from keras_cosmo.statistics.distributions import map_moments, normalize_maps
from keras_cosmo.statistics.peaks import bootstrap_draws, find_peaks
from keras_cosmo.statistics.spectra import map_batches, power_spectrum

# Bootstrap sets at a time: their draws are (sets, n_simulations).
_SETS = 128
# Values of correlation maps at a time, few enough to stay in the processor's cache.
_BATCH_VALUES = 2**19
# Side of the coarse grid on which the training maps are searched first.
_COARSE = 16


class SampleCheck(NamedTuple):
    """Which generated maps failed; booleans ``(n_maps,)`` each.

    Args:
        finite: Every pixel is a finite number.
        positive: Every pixel is above zero; False where one is not finite.
        within: Every pixel is within the range given; False where one is not finite.
        used: The map is part of the statistics.
    """

    finite: np.ndarray
    positive: np.ndarray
    within: np.ndarray
    used: np.ndarray

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of maps: "maps", "not_finite", of the finite ones "not_positive" and "out_of_range", and "used"."""
        return {
            "maps": len(self.finite),
            "not_finite": int(np.sum(~self.finite)),
            "not_positive": int(np.sum(self.finite & ~self.positive)),
            "out_of_range": int(np.sum(self.finite & ~self.within)),
            "used": int(np.sum(self.used)),
        }

    @property
    def failure_rate(self) -> float:
        """Part of the maps that are not finite or out of range."""
        return float(np.mean(~self.within))


class SampleStatistics(NamedTuple):
    """Mean and scatter over maps of statistics measured map by map, ``(n,)`` each.

    Args:
        names: What was measured: names, or wavenumbers.
        true_mean: Mean over the true maps.
        true_scatter: Standard deviation over the true maps.
        generated_mean: Mean over the generated maps.
        generated_scatter: Standard deviation over the generated maps.
        mean_error: Fractional error of the mean, generated / true - 1; in `compare_statistics` and what follows it
            the difference of the means in units of the true scatter.
        mean_error_standard_error: Its standard error; NaN with a single simulation.
        scatter_error: Fractional error of the scatter, generated / true - 1.
        scatter_error_standard_error: Its standard error.
        check: Which generated maps failed.
    """

    names: tuple | np.ndarray
    true_mean: np.ndarray
    true_scatter: np.ndarray
    generated_mean: np.ndarray
    generated_scatter: np.ndarray
    mean_error: np.ndarray
    mean_error_standard_error: np.ndarray
    scatter_error: np.ndarray
    scatter_error_standard_error: np.ndarray
    check: SampleCheck

    @property
    def k(self) -> np.ndarray:
        """The wavenumbers, where power spectra were compared."""
        return np.asarray(self.names)


class SimulationSpectra(NamedTuple):
    """Mean and scatter of the power spectra at the parameters of each simulation.

    Args:
        k: Wavenumbers ``(n_k,)``.
        simulation: Simulation ids, rising, ``(n_simulations,)``.
        true_mean: Over the true maps of each simulation, ``(n_simulations, n_k)``.
        true_scatter: Standard deviation over them, the root of the unbiased variance (n - 1); NaN for a single map.
            They share a field, so at large scales it is smaller than that of maps from different simulations with equal
            parameters.
        generated_mean: Over the generated maps with the parameters of each simulation; NaN where none is usable.
        generated_scatter: Standard deviation over them, likewise.
        check: Which generated maps failed.
    """

    k: np.ndarray
    simulation: np.ndarray
    true_mean: np.ndarray
    true_scatter: np.ndarray
    generated_mean: np.ndarray
    generated_scatter: np.ndarray
    check: SampleCheck

    @property
    def mean_error(self) -> np.ndarray:
        """Fractional error of each mean, generated / true - 1, ``(n_simulations, n_k)``.

        That of one simulation contains the chance of its field; `keras_cosmo.statistics.spectra.over_maps` of it gives
        mean and standard error over simulations.
        """
        return _ratio(self.generated_mean, self.true_mean) - 1.0

    @property
    def deviation(self) -> np.ndarray:
        """Difference of the means in units of the true scatter, ``(n_simulations, n_k)``."""
        return _ratio(self.generated_mean - self.true_mean, self.true_scatter)

    @property
    def scatter_error(self) -> np.ndarray:
        """Fractional error of the scatter over all simulations, generated / true - 1, ``(n_k,)``.

        Of variances averaged over the simulations that have both: 0 for equal distributions, however few maps there
        are of each, which averages of standard deviations are not.
        """
        known = np.isfinite(self.true_scatter + self.generated_scatter)
        sums = (np.where(known, scatter**2, 0.0).sum(axis=0) for scatter in (self.generated_scatter, self.true_scatter))
        return np.sqrt(_ratio(*sums)) - 1.0


class PixelDistributions(NamedTuple):
    """Distributions of the pixel values of all maps, and how far apart they are.

    Args:
        edges: Edges of the bins, ``(n_bins + 1,)``, log10 of the unit of the maps or that unit.
        true: Probability density of the true pixels, ``(n_bins,)``.
        true_standard_error: Its standard error.
        generated: Probability density of the generated pixels.
        generated_standard_error: Its standard error.
        kolmogorov_smirnov: Largest difference of the cumulative distributions at the edges, 0 to 1.
        kolmogorov_smirnov_expected: About what equal distributions would give. It is the mean of the same distance of
            two random halves of the true simulations; or, if all generated maps have the parameters of true
            simulations, the mean after true and generated maps of simulations drawn at random were exchanged, for then
            the scatter of the parameters plays no part. NaN with a single simulation.
        wasserstein: Wasserstein-1 distance, the mean distance by which pixels have to be moved, in the unit of the
            edges. Pixels beyond the edges count as on them.
        wasserstein_expected: Likewise.
        check: Which generated maps failed.
    """

    edges: np.ndarray
    true: np.ndarray
    true_standard_error: np.ndarray
    generated: np.ndarray
    generated_standard_error: np.ndarray
    kolmogorov_smirnov: float
    kolmogorov_smirnov_expected: float
    wasserstein: float
    wasserstein_expected: float
    check: SampleCheck


class NearestMaps(NamedTuple):
    """Nearest training map of each map.

    Args:
        distance: Root mean square difference of the two maps, each normalised by its own mean and standard deviation,
            ``(n_maps,)``: 0 for a copy, sqrt(2) for maps without any correlation. NaN for maps that failed.
        index: Which training map, integers ``(n_maps,)``; -1 for maps that failed.
        symmetry: Element of the symmetries of the square that brings the map onto the training map: ``symmetry % 4``
            quarter turns, then mirrored from 4 on.
        shift: Cells ``(n_maps, 2)`` by which the training map then has to be rolled.
        check: Which maps failed.
    """

    distance: np.ndarray
    index: np.ndarray
    symmetry: np.ndarray
    shift: np.ndarray
    check: SampleCheck

    def aligned(self, training) -> np.ndarray:
        """The nearest training maps, rolled, turned and mirrored onto the maps, ``(n_maps, height, width)``.

        Rows of maps that failed are NaN.
        """
        found = np.full((len(self.index), *np.shape(training)[1:]), np.nan)
        for row, (index, symmetry, shift) in enumerate(zip(self.index, self.symmetry, self.shift, strict=True)):
            if index >= 0:
                image = np.roll(training[int(index)], tuple(shift), axis=(0, 1))
                # The inverse of: quarter turns first, then the mirror.
                image = image[:, ::-1] if symmetry >= 4 else image
                found[row] = np.rot90(image, -(symmetry % 4))
        return found


class MemorizationTest(NamedTuple):
    """Distance of generated maps from the training maps, against that of true maps the network has not seen.

    Args:
        generated: Nearest training map of each generated map.
        unseen: Nearest training map of each unseen map.
        ratio: Distance of each generated map over the mean distance of the unseen maps (of its simulation, where
            given), ``(n_generated,)``. About 1 for new maps, near 0 for copies; NaN for maps that failed.
        probability_nearer: Probability that a generated map is nearer to the training maps than an unseen map (of the
            same simulation, where given, then averaged over simulations). 0.5 for new maps, 1 for copies.
        probability_nearer_standard_error: Over simulations; NaN without them or with a single one.
    """

    generated: NearestMaps
    unseen: NearestMaps
    ratio: np.ndarray
    probability_nearer: float
    probability_nearer_standard_error: float


def check_samples(maps, low: float = -np.inf, high: float = np.inf, log10: bool = False) -> SampleCheck:
    """Look for generated maps that are not finite, not positive or out of range.

    Args:
        maps: ``(n_maps, nx, ny)``, all that were generated.
        low: Lowest value allowed, such as of the training maps; by default any.
        high: Highest value allowed.
        log10: Whether maps that are not positive are left out of the statistics, too.

    Raises:
        TypeError: If the maps are not real numbers.
        ValueError: On a wrong shape or a range without values.

    Example:
        >>> maps = np.ones((4, 2, 2))
        >>> maps[0, 0, 0], maps[1, 0, 0], maps[2, 0, 0] = np.nan, 0.0, 1e9
        >>> check_samples(maps, high=1e6, log10=True).counts
        {'maps': 4, 'not_finite': 1, 'not_positive': 1, 'out_of_range': 1, 'used': 2}
    """
    if not low < high:
        raise ValueError(f"high: expected a value above low, {low}, got {high}.")
    values = _as_maps("maps", maps)
    finite = np.isfinite(values).all(axis=(1, 2))
    lowest, highest = values.min(axis=(1, 2)), values.max(axis=(1, 2))
    positive = finite & (lowest > 0)
    return SampleCheck(finite, positive, finite & (lowest >= low) & (highest <= high), positive if log10 else finite)


def compare_sample_spectra(
    true,
    generated,
    cell_size: float,
    simulation=None,
    generated_simulation=None,
    *,
    edges=None,
    log10: bool = True,
    low: float = -np.inf,
    high: float = np.inf,
    bootstrap_sets: int = 1000,
    seed: int = 0,
) -> SampleStatistics:
    """Mean and scatter of the power spectra over all maps: figure 2B of the paper.

    Also for fixed parameters, if the true maps come from several simulations with equal parameters; else see
    `compare_spectra_by_simulation`.

    Args:
        true: True maps ``(n_true, nx, ny)``, which are unseen by the generator.
        generated: All generated maps ``(n_generated, nx, ny)``, with parameters drawn from the same distribution.
        cell_size: Side of a cell, such as in Mpc/h.
        simulation: Simulation id of each true map, integers ``(n_true,)``. Without it every map counts as independent.
        generated_simulation: Id of the simulation whose parameters each generated map has, or None.
        edges: Edges of the wavenumber bins, as in `keras_cosmo.statistics.spectra.power_spectrum`.
        log10: Whether log10 of the maps is compared.
        low: Generated maps with a lower value are counted; physical unit.
        high: Generated maps with a higher value are counted.
        bootstrap_sets: Number of bootstrap sets.
        seed: Seed of the bootstrap.

    Returns:
        The comparison, with fractional errors; ``k`` are the wavenumbers.

    Raises:
        TypeError: If maps are not real numbers.
        ValueError: On wrong shapes or arguments, true maps that are not finite (or not positive, with ``log10``), or
            no usable generated map.

    Example:
        >>> maps = np.random.default_rng(0).normal(size=(60, 16, 16))
        >>> compare_sample_spectra(maps, 2 * maps, 1.0, log10=False).mean_error.round(6).tolist()[:2]
        [3.0, 3.0]
    """
    true, generated, check = _pair(true, generated, log10, low, high)
    one, other = (power_spectrum(maps, cell_size, edges) for maps in (true, generated))
    return _compare(
        one.k, one.power, other.power, simulation, generated_simulation, check, bootstrap_sets, seed, fractional=True
    )


def compare_spectra_by_simulation(
    true,
    generated,
    cell_size: float,
    simulation,
    generated_simulation,
    *,
    edges=None,
    log10: bool = True,
    low: float = -np.inf,
    high: float = np.inf,
) -> SimulationSpectra:
    """Mean and scatter of the power spectra at the parameters of each simulation: figure 2C of the paper.

    Args:
        true: True maps ``(n_true, nx, ny)``.
        generated: All generated maps ``(n_generated, nx, ny)``.
        cell_size: Side of a cell, such as in Mpc/h.
        simulation: Simulation id of each true map, integers ``(n_true,)``.
        generated_simulation: Id of the simulation whose parameters each generated map has, ``(n_generated,)``.
        edges: As in `compare_sample_spectra`, and so all others.
        log10: Whether log10 of the maps is compared.
        low: Generated maps with a lower value are counted.
        high: Generated maps with a higher value are counted.

    Raises:
        TypeError: As `compare_sample_spectra`.
        ValueError: As `compare_sample_spectra`, and if a generated map's simulation has no true maps.
    """
    true, generated, check = _pair(true, generated, log10, low, high)
    ids, group = np.unique(_ids("simulation", simulation, len(true)), return_inverse=True)
    other = _known_ids(_ids("generated_simulation", generated_simulation, len(check.used)), ids)[check.used]
    one, two = (power_spectrum(maps, cell_size, edges) for maps in (true, generated))
    true_mean, true_scatter = _by_group(one.power, group, len(ids))
    mean, scatter = _by_group(two.power, other, len(ids))
    return SimulationSpectra(one.k, ids, true_mean, true_scatter, mean, scatter, check)


def compare_moments(
    true,
    generated,
    simulation=None,
    generated_simulation=None,
    *,
    log10: bool = True,
    low: float = -np.inf,
    high: float = np.inf,
    bootstrap_sets: int = 1000,
    seed: int = 0,
) -> SampleStatistics:
    """Mean, standard deviation, skewness and kurtosis of the pixels of each map, compared over maps.

    Args:
        true: As in `compare_sample_spectra`, and so all others.
        generated: All generated maps.
        simulation: Simulation id of each true map.
        generated_simulation: Of each generated map.
        log10: Whether log10 of the maps is compared.
        low: Generated maps with a lower value are counted.
        high: Generated maps with a higher value are counted.
        bootstrap_sets: Number of bootstrap sets.
        seed: Seed of the bootstrap.

    Returns:
        As `compare_statistics`.

    Raises:
        TypeError, ValueError: As `compare_sample_spectra`.
    """
    true, generated, check = _pair(true, generated, log10, low, high)
    one, other = (np.stack(map_moments(maps), axis=1) for maps in (true, generated))
    names = ("mean", "standard_deviation", "skewness", "kurtosis")
    return _compare(names, one, other, simulation, generated_simulation, check, bootstrap_sets, seed)


def compare_peak_counts(
    true,
    generated,
    thresholds: Sequence[float] = (1.0, 2.0, 3.0),
    simulation=None,
    generated_simulation=None,
    *,
    log10: bool = True,
    low: float = -np.inf,
    high: float = np.inf,
    bootstrap_sets: int = 1000,
    seed: int = 0,
) -> SampleStatistics:
    """Number of peaks of each map above thresholds in units of its own standard deviation, compared over maps.

    Args:
        true: As in `compare_sample_spectra`, and so all others.
        generated: All generated maps.
        thresholds: As in `keras_cosmo.statistics.peaks.find_peaks`, above the mean of the map.
        simulation: Simulation id of each true map.
        generated_simulation: Of each generated map.
        log10: Whether log10 of the maps is compared.
        low: Generated maps with a lower value are counted.
        high: Generated maps with a higher value are counted.
        bootstrap_sets: Number of bootstrap sets.
        seed: Seed of the bootstrap.

    Returns:
        As `compare_statistics`, with names such as "peaks above 2 sigma".

    Raises:
        TypeError, ValueError: As `compare_sample_spectra`; and without any threshold.
    """
    thresholds = [float(value) for value in thresholds]
    if not thresholds:
        raise ValueError("thresholds: expected at least one, in units of sigma, got none.")
    true, generated, check = _pair(true, generated, log10, low, high)
    tables = []
    for maps in (true, generated):
        peaks = find_peaks(maps, min(thresholds))
        tables.append(np.stack([peaks.above(value).counts for value in thresholds], axis=1).astype(np.float64))
    names = tuple(f"peaks above {value:g} sigma" for value in thresholds)
    return _compare(names, *tables, simulation, generated_simulation, check, bootstrap_sets, seed)


def compare_statistics(
    statistic: Callable[[np.ndarray], np.ndarray],
    names: Sequence[str],
    true,
    generated,
    simulation=None,
    generated_simulation=None,
    *,
    log10: bool = True,
    low: float = -np.inf,
    high: float = np.inf,
    bootstrap_sets: int = 1000,
    seed: int = 0,
) -> SampleStatistics:
    """Any statistic that is measured map by map, compared over maps.

    Args:
        statistic: Takes float64 maps ``(n, nx, ny)`` and returns ``(n, n_statistics)``.
        names: Name of each of its columns.
        true: As in `compare_sample_spectra`, and so all others.
        generated: All generated maps.
        simulation: Simulation id of each true map.
        generated_simulation: Of each generated map.
        log10: Whether log10 of the maps is compared.
        low: Generated maps with a lower value are counted.
        high: Generated maps with a higher value are counted.
        bootstrap_sets: Number of bootstrap sets.
        seed: Seed of the bootstrap.

    Returns:
        The comparison, with differences of means in units of the true scatter.

    Raises:
        TypeError: As `compare_sample_spectra`.
        ValueError: As `compare_sample_spectra`, and if the statistic returns another shape.
    """
    true, generated, check = _pair(true, generated, log10, low, high)
    names, tables = tuple(names), []
    for maps in (true, generated):
        table = np.asarray(statistic(maps), dtype=np.float64)
        if table.shape != (len(maps), len(names)):
            raise ValueError(
                f"statistic: expected an array of shape {(len(maps), len(names))}, one row per map and one column per "
                f"name, got {table.shape}."
            )
        tables.append(table)
    return _compare(names, *tables, simulation, generated_simulation, check, bootstrap_sets, seed)


def compare_pixels(
    true,
    generated,
    simulation=None,
    generated_simulation=None,
    *,
    edges=None,
    log10: bool = True,
    low: float = -np.inf,
    high: float = np.inf,
    bootstrap_sets: int = 200,
    seed: int = 0,
) -> PixelDistributions:
    """Distribution of the values of all pixels of all maps, not normalised map by map, and its distance from the truth.

    Args:
        true: As in `compare_sample_spectra`, and so all others.
        generated: All generated maps.
        simulation: Simulation id of each true map.
        generated_simulation: Of each generated map.
        edges: Rising edges of the bins. Defaults to 256 bins from the lowest to the highest true pixel.
        log10: Whether log10 of the maps is compared.
        low: Generated maps with a lower value are counted.
        high: Generated maps with a higher value are counted.
        bootstrap_sets: Number of bootstrap sets, and of random halves or exchanges.
        seed: Seed of the bootstrap.

    Raises:
        TypeError: As `compare_sample_spectra`.
        ValueError: As `compare_sample_spectra`, and on edges that do not rise.

    Example:
        >>> maps = np.random.default_rng(0).normal(size=(40, 16, 16))
        >>> round(compare_pixels(maps, maps + 0.25, log10=False, edges=np.linspace(-6, 6, 601)).wasserstein, 4)
        0.25
    """
    true, generated, check = _pair(true, generated, log10, low, high)
    if edges is None:
        lowest, highest = true.min(), true.max()
        # A single value has no bins of its own.
        margin = 0.0 if highest > lowest else max(1.0, abs(lowest)) * 1e-3
        edges = np.linspace(lowest - margin, highest + margin, 257)
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not np.isfinite(edges).all() or not np.all(np.diff(edges) > 0):
        raise ValueError(f"edges: expected at least two rising values, got {edges.tolist()}.")
    tables = [np.stack([_histogram(image, edges) for image in maps]) for maps in (true, generated)]
    densities, errors = [], []
    draws = _draws(len(true), simulation, check, generated_simulation, bootstrap_sets, seed)
    for table, (draw, group) in zip(tables, draws, strict=True):
        densities.append(table.mean(axis=0))
        errors.append(np.full(table.shape[1], np.nan))
        if draw is not None:
            sums, count = _group_sums(table, group, draw.shape[1]), np.bincount(group, minlength=draw.shape[1])
            errors[-1] = _spread(_ratio(draw @ sums, (draw @ count)[:, None]))
    if draws[1][0] is draws[0][0] and draws[0][0] is not None:
        chances = _exchanges(tables, draws, bootstrap_sets, seed)
    else:
        chances = _halves(tables[0], draws[0][1], bootstrap_sets, seed)
    inner, width = slice(1, -1), np.diff(edges)
    distances = _distances(*densities, edges)
    expected = np.mean([_distances(*pair, edges) for pair in chances], axis=0) if chances else (np.nan, np.nan)
    density, error = ([values[inner] / width for values in rows] for rows in (densities, errors))
    return PixelDistributions(
        edges,
        density[0],
        error[0],
        density[1],
        error[1],
        float(distances[0]),
        float(expected[0]),
        float(distances[1]),
        float(expected[1]),
        check,
    )


def nearest_training_maps(
    maps,
    training,
    *,
    log10: bool = True,
    symmetries: bool = True,
    periodic: bool = True,
    candidates: int | None = 16,
    low: float = -np.inf,
    high: float = np.inf,
) -> NearestMaps:
    """Nearest training map of each map, up to turns, mirror images and cyclic shifts.

    Maps are normalised by their own mean and standard deviation, so that a copy of another amplitude is found, too.
    The correlation with all cyclic shifts of a training map is one Fourier transform. The training maps are first
    searched with the largest scales only, on a grid of 16 x 16 cells, and the best candidates then with all scales.

    Args:
        maps: Maps ``(n_maps, nx, ny)``, all that were generated.
        training: Training maps ``(n_training, nx, ny)``.
        log10: Whether log10 of the maps is compared.
        symmetries: Whether the 8 symmetries of the square count as the same map (4 if the maps are not square).
        periodic: Whether cyclic shifts count as the same map.
        candidates: Training maps that are compared at all scales; None compares all of them, which takes five
            to eight times as long. Without ``periodic`` it is not used: then all are compared.
        low: Maps with a lower value are counted; physical unit.
        high: Maps with a higher value are counted.

    Raises:
        TypeError: As `compare_sample_spectra`.
        ValueError: As `compare_sample_spectra`, or if a map is the same everywhere.

    Example:
        >>> training = np.random.default_rng(0).normal(size=(20, 32, 32))
        >>> copy = np.roll(np.rot90(training[7]), (3, 5), axis=(0, 1))
        >>> found = nearest_training_maps(copy[None], training, log10=False)
        >>> int(found.index[0]), bool(found.distance[0] < 1e-4)
        (7, True)
    """
    if candidates is not None and (isinstance(candidates, bool) or int(candidates) != candidates or candidates < 1):
        raise ValueError(f"candidates: expected None or a number of training maps of at least 1, got {candidates!r}.")
    check = check_samples(maps, low, high, log10)
    library = _Library(training, log10)
    if tuple(np.shape(maps))[1:] != library.shape:
        raise ValueError(f"maps: expected the size of the training maps, {library.shape}, got {np.shape(maps)[1:]}.")
    square = library.shape[0] == library.shape[1]
    elements = [element for element in range(8) if square or element % 2 == 0] if symmetries else [0]
    count = len(check.used)
    found = NearestMaps(
        np.full(count, np.nan), np.full(count, -1), np.zeros(count, int), np.zeros((count, 2), int), check
    )
    search = _PeriodicSearch(library.patterns, candidates) if periodic else _PlainSearch(library.patterns)
    for row in np.flatnonzero(check.used):
        image = _pattern("maps", np.asarray(maps[int(row)], dtype=np.float64), int(row), log10)
        versions = np.stack([_symmetry(image, element) for element in elements])
        index, version, shift = search(versions)
        # Once more in double precision, so that a copy has a distance of 0.
        other = np.roll(library.pattern(index), shift, axis=(0, 1))
        found.distance[row] = np.sqrt(np.mean((versions[version] - other) ** 2))
        found.index[row], found.symmetry[row], found.shift[row] = index, elements[version], shift
    return found


def memorization_test(
    generated,
    unseen,
    training,
    generated_simulation=None,
    unseen_simulation=None,
    **options,
) -> MemorizationTest:
    """Whether generated maps are nearer to the training maps than true maps that the network has not seen.

    A generator that repeats its training maps, or mixes them, has likely spectra and distributions; this tells it
    apart. How near the nearest training map is depends on the parameters, for smooth maps resemble each other more:
    generate maps with the parameters of the unseen simulations and give the ids.

    Args:
        generated: All generated maps ``(n_generated, nx, ny)``.
        unseen: True maps from simulations that are not part of the training set, ``(n_unseen, nx, ny)``.
        training: Training maps ``(n_training, nx, ny)``.
        generated_simulation: Id of the simulation whose parameters each generated map has.
        unseen_simulation: Simulation id of each unseen map. Both are given or none.
        options: ``log10``, ``symmetries``, ``periodic``, ``candidates``, ``low`` and ``high`` of
            `nearest_training_maps`.

    Raises:
        TypeError: As `nearest_training_maps`.
        ValueError: As `nearest_training_maps`; if only one of the ids is given, or a generated map's simulation has no
            unseen maps; if no unseen map can be used.
    """
    if (generated_simulation is None) != (unseen_simulation is None):
        raise ValueError("generated_simulation, unseen_simulation: expected both or none of them.")
    count, other = len(generated), len(unseen)
    if unseen_simulation is None:
        ids, group, unseen_group = np.zeros(1, int), np.zeros(count, int), np.zeros(other, int)
    else:
        ids, unseen_group = np.unique(_ids("unseen_simulation", unseen_simulation, other), return_inverse=True)
        group = _known_ids(_ids("generated_simulation", generated_simulation, count), ids)
    nearest_unseen = nearest_training_maps(unseen, training, **options)
    if not nearest_unseen.check.used.all():
        raise ValueError(
            f"unseen: expected finite maps{', above zero,' if options.get('log10', True) else ''} for they are true "
            f"maps, got {nearest_unseen.check.counts}."
        )
    nearest = nearest_training_maps(generated, training, **options)
    mean = np.bincount(unseen_group, nearest_unseen.distance) / np.bincount(unseen_group)
    ratio = _ratio(nearest.distance, mean[group])
    probabilities = []
    for number in range(len(ids)):
        mine = nearest.distance[(group == number) & nearest.check.used][:, None]
        theirs = nearest_unseen.distance[unseen_group == number]
        if mine.size:
            probabilities.append(np.mean((mine < theirs) + 0.5 * (mine == theirs)))
    probability = float(np.mean(probabilities)) if probabilities else np.nan
    error = np.std(probabilities, ddof=1) / np.sqrt(len(probabilities)) if len(probabilities) > 1 else np.nan
    return MemorizationTest(nearest, nearest_unseen, ratio, probability, float(error))


class _Library:
    """Training maps, each normalised by itself, in single precision."""

    def __init__(self, training, log10: bool):
        _as_maps("training", training, copy=False)
        self.shape = tuple(int(side) for side in training.shape[1:])
        self.patterns = np.empty((int(training.shape[0]), *self.shape), np.float32)
        self._training, self._log10 = training, log10
        for rows, batch in map_batches(training, "training"):
            values = _logarithm("training", batch, rows.start) if log10 else batch
            normalized = normalize_maps(values)
            _check_patterns("training", normalized, rows.start)
            self.patterns[rows] = normalized

    def pattern(self, index: int) -> np.ndarray:
        """One map in double precision."""
        return _pattern("training", np.asarray(self._training[index], dtype=np.float64), index, self._log10)


class _PlainSearch:
    """The training map with the largest correlation, without shifts."""

    def __init__(self, patterns: np.ndarray):
        self._table = patterns.reshape(len(patterns), -1)

    def __call__(self, versions: np.ndarray):
        """Index of the training map, which version of the map fits it, and the shift."""
        table = versions.reshape(len(versions), -1).astype(np.float32) @ self._table.T
        version, index = np.unravel_index(np.argmax(table), table.shape)
        return int(index), int(version), (0, 0)


class _PeriodicSearch:
    """The training map with the largest correlation at any cyclic shift."""

    def __init__(self, patterns: np.ndarray, candidates: int | None):
        self._patterns, self._candidates = patterns, candidates
        self._coarse = None
        if candidates is not None and candidates < len(patterns) and min(patterns.shape[1:]) > _COARSE:
            step = max(1, _BATCH_VALUES // patterns[0].size)
            parts = [
                _truncate(scipy.fft.rfft2(patterns[start : start + step])) for start in range(0, len(patterns), step)
            ]
            self._coarse = np.conj(np.concatenate(parts))

    def __call__(self, versions: np.ndarray):
        """Index of the training map, which version of the map fits it, and by how much the training map is rolled."""
        transform = scipy.fft.rfft2(versions.astype(np.float32))
        rows = np.arange(len(self._patterns))
        if self._coarse is not None:
            image, score = _truncate(transform), np.empty(len(rows), np.float32)
            for part in self._parts(rows, len(versions) * _COARSE**2):
                correlation = scipy.fft.irfft2(self._coarse[part, None] * image, s=(_COARSE, _COARSE))
                score[part] = correlation.reshape(len(part), -1).max(axis=1)
            rows = np.argpartition(-score, self._candidates - 1)[: self._candidates]
        best, found = -np.inf, None
        for part in self._parts(rows, versions.size):
            other = np.conj(scipy.fft.rfft2(self._patterns[part]))
            correlation = scipy.fft.irfft2(other[:, None] * transform, s=versions.shape[1:])
            place = int(np.argmax(correlation))
            if correlation.flat[place] > best:
                best = correlation.flat[place]
                index, version, *shift = np.unravel_index(place, correlation.shape)
                found = int(part[index]), int(version), tuple(int(cells) for cells in shift)
        return found

    @staticmethod
    def _parts(rows: np.ndarray, values: int):
        step = max(1, _BATCH_VALUES // values)
        return [rows[start : start + step] for start in range(0, len(rows), step)]


def _truncate(transform: np.ndarray) -> np.ndarray:
    """The largest scales of half-plane transforms, as those of maps of `_COARSE` x `_COARSE` cells."""
    half = _COARSE // 2
    coarse = np.zeros((*transform.shape[:-2], _COARSE, half + 1), transform.dtype)
    coarse[..., :half, :half] = transform[..., :half, :half]
    coarse[..., -half + 1 :, :half] = transform[..., -half + 1 :, :half]
    return coarse


def _symmetry(image: np.ndarray, element: int) -> np.ndarray:
    turned = np.rot90(image, element % 4)
    return turned[:, ::-1] if element >= 4 else turned


def _pattern(name: str, image: np.ndarray, number: int, log10: bool) -> np.ndarray:
    image = image[None]
    normalized = normalize_maps(_logarithm(name, image, number) if log10 else image)
    _check_patterns(name, normalized, number)
    return normalized[0]


def _check_patterns(name: str, normalized: np.ndarray, start: int) -> None:
    constant = np.flatnonzero(np.isnan(normalized[:, 0, 0]))
    if constant.size:
        raise ValueError(
            f"{name}: expected maps with structure, got the same value everywhere in map {start + constant[0]}, of "
            f"which there is no distance."
        )


def _as_maps(name: str, maps, copy: bool = True):
    if not hasattr(maps, "shape") or not hasattr(maps, "dtype"):
        raise TypeError(f"{name}: expected an array of maps, got {type(maps)}; use numpy.asarray.")
    if not (np.issubdtype(maps.dtype, np.floating) or np.issubdtype(maps.dtype, np.integer)):
        raise TypeError(f"{name}: expected real numbers, got {maps.dtype}.")
    if len(maps.shape) != 3 or 0 in maps.shape:
        raise ValueError(f"{name}: expected shape (n_maps, nx, ny), nothing empty, got {tuple(maps.shape)}.")
    return np.asarray(maps) if copy else maps


def _logarithm(name: str, maps: np.ndarray, start: int = 0) -> np.ndarray:
    bad = np.flatnonzero(~(maps > 0).all(axis=(1, 2)))
    if bad.size:
        raise ValueError(
            f"{name}: expected positive values, got {maps[bad[0]].min():g} in map {start + bad[0]}; add a floor to all "
            f"maps alike, or compare the maps themselves with log10=False."
        )
    return np.log10(maps)


def _pair(true, generated, log10: bool, low: float, high: float):
    """True maps and the usable generated ones as they are compared, in float64, and which those are."""
    _as_maps("true", true, copy=False)
    check = check_samples(_as_maps("generated", generated), low, high, log10)
    if tuple(true.shape[1:]) != tuple(generated.shape[1:]):
        raise ValueError(
            f"generated: expected maps of {tuple(true.shape[1:])} cells, got {tuple(generated.shape[1:])}."
        )
    if not check.used.any():
        raise ValueError(f"generated: expected at least one map that can be measured, got {check.counts}.")
    true = np.concatenate([batch for _, batch in map_batches(true, "true")])
    generated = np.asarray(generated)[check.used].astype(np.float64)
    if log10:
        true, generated = _logarithm("true", true), np.log10(generated)
    return true, generated, check


def _compare(
    names, true, generated, simulation, generated_simulation, check, sets, seed, fractional=False
) -> SampleStatistics:
    centre = true.mean(axis=0)
    one, other = (_moments(*_sums(values, centre)) for values in (true, generated))

    def errors(one, other):
        difference = other[0] - one[0]
        scale = centre + one[0] if fractional else one[1]
        return _ratio(difference, scale), _ratio(other[1], one[1]) - 1.0

    pairs = _draws(len(true), simulation, check, generated_simulation, sets, seed)
    mean_error, scatter_error = errors(one, other)
    spreads = np.full((2, len(centre)), np.nan)
    if all(draw is not None for draw, _ in pairs):
        tables = [_tables(values, centre, *pair) for values, pair in zip((true, generated), pairs, strict=True)]
        drawn = []
        for start in range(0, sets, _SETS):
            part = slice(start, start + _SETS)
            drawn.append(errors(*(_moments(*(draw[part] @ sums for sums in table)) for draw, table in tables)))
        spreads = [_spread(np.concatenate(column)) for column in zip(*drawn, strict=True)]
    return SampleStatistics(
        names,
        centre + one[0],
        one[1],
        centre + other[0],
        other[1],
        mean_error,
        spreads[0],
        scatter_error,
        spreads[1],
        check,
    )


def _tables(values, centre, draw, group):
    """The draws and the sums of each simulation that `_moments` takes."""
    count = np.ones((len(values), 1))
    return draw, [_group_sums(part, group, draw.shape[1]) for part in (count, *_powers(values, centre))]


def _powers(values, centre):
    return values - centre, (values - centre) ** 2


def _sums(values, centre):
    return len(values), *(part.sum(axis=0) for part in _powers(values, centre))


def _moments(count, first, second):
    """Mean and population standard deviation from sums."""
    mean = _ratio(first, np.asarray(count, dtype=np.float64))
    return mean, np.sqrt(np.maximum(_ratio(second, np.asarray(count, dtype=np.float64)) - mean**2, 0.0))


def _draws(count: int, simulation, check: SampleCheck, generated_simulation, sets: int, seed: int):
    """Bootstrap draws and groups of the true maps and of the generated maps that are used."""
    true = bootstrap_draws(count, simulation, sets, seed)
    if generated_simulation is None:
        return true, bootstrap_draws(int(check.used.sum()), None, sets, seed + 1)
    ids = _ids("generated_simulation", generated_simulation, len(check.used))
    if simulation is not None and np.isin(ids, simulation).all():
        return true, (true[0], np.searchsorted(np.unique(simulation), ids[check.used]))
    return true, bootstrap_draws(int(check.used.sum()), ids[check.used], sets, seed + 1)


def _group_sums(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    return np.stack([np.bincount(group, column, minlength=groups) for column in values.T], axis=1)


def _by_group(values: np.ndarray, group: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each group, NaN without members, and root of its unbiased variance, NaN with fewer than two."""
    count = np.bincount(group, minlength=groups)[:, None]
    mean = _ratio(_group_sums(values, group, groups), count)
    return mean, np.sqrt(_ratio(_group_sums((values - mean[group]) ** 2, group, groups), count - 1))


def _halves(table: np.ndarray, group: np.ndarray, sets: int, seed: int) -> list:
    """Means over both halves of the simulations, halved at random."""
    groups = group.max() + 1
    if groups < 2:
        return []
    sums, count = _group_sums(table, group, groups), np.bincount(group)
    generator = np.random.default_rng(seed)
    pairs = []
    for _ in range(sets):
        order = generator.permutation(groups)
        parts = order[: groups // 2], order[groups // 2 :]
        pairs.append(tuple(sums[part].sum(axis=0) / count[part].sum() for part in parts))
    return pairs


def _exchanges(tables, draws, sets: int, seed: int) -> list:
    """Means over simulations after true and generated maps of about half of them were exchanged."""
    groups = draws[0][0].shape[1]
    true, generated = (_by_group(table, group, groups)[0] for table, (_, group) in zip(tables, draws, strict=True))
    true, generated = (values[~np.isnan(generated[:, 0])] for values in (true, generated))
    swapped = np.random.default_rng(seed).random((sets, len(true), 1)) < 0.5
    return [
        (np.where(swap, generated, true).mean(axis=0), np.where(swap, true, generated).mean(axis=0)) for swap in swapped
    ]


def _histogram(image: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Part of the pixels below the edges, in each bin, and above the edges."""
    inside = np.histogram(image, edges)[0]
    return np.array([np.sum(image < edges[0]), *inside, np.sum(image > edges[-1])]) / image.size


def _distances(true: np.ndarray, generated: np.ndarray, edges: np.ndarray) -> tuple[float, float]:
    """Kolmogorov-Smirnov and Wasserstein-1 distance."""
    difference = np.abs(np.cumsum(generated - true)[:-1])
    return difference.max(), np.sum(0.5 * (difference[1:] + difference[:-1]) * np.diff(edges))


def _spread(values: np.ndarray) -> np.ndarray:
    """Standard deviation over bootstrap sets; sets without a value are left out."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    mean = _ratio(np.where(known, values, 0.0).sum(axis=0), count)
    squares = np.where(known, values - mean, 0.0) ** 2
    return np.sqrt(_ratio(squares.sum(axis=0), np.maximum(count - 1, 0)))


def _ids(name: str, values, count: int) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (count,) or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(
            f"{name}: expected one integer id per map, shape ({count},), got shape {values.shape} of {values.dtype}."
        )
    return values


def _known_ids(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Place of each id among the ids of the true maps."""
    strange = np.setdiff1d(values, ids)
    if strange.size:
        raise ValueError(
            f"generated_simulation: expected ids of simulations with true maps, got {strange[:3].tolist()} "
            f"({strange.size} of them without); leave such maps out."
        )
    return np.searchsorted(ids, values)


def _ratio(numerator, denominator) -> np.ndarray:
    numerator, denominator = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    out = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)
