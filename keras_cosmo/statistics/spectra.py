"""Power spectra of periodic two-dimensional maps, and how well one set of maps reproduces another, scale by scale.

Conventions, those of cosmology and of the package powerbox with its default ``a = b = 1``:

- The Fourier transform is ``F(k) = integral d^2r f(r) exp(-i k r)``, so wavenumbers are ``2 pi / wavelength``, in the
  inverse unit of the cell size: 1/Mpc for cells in Mpc, h/Mpc for cells in Mpc/h, flat-sky multipoles for radians.
- ``P(k) = <|F(k)|^2> / area``, the Fourier transform of the correlation function (equation 4.2 of
  Villanueva-Domingo & Villaescusa-Navarro 2021, ApJ 907, 44), in (unit of the field)^2 Mpc^2. White noise of variance
  ``s^2`` has ``P = s^2 cell_size^2`` at every k.
- The mean of each map is subtracted, and the mode k = 0 belongs to no bin.
- Maps are taken as periodic and no window is applied: a map that does not wrap around mixes its scales.

All sums are float64.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

# Pixels in float64 that one batch holds: 32 MiB, and its transform as much again.
_BATCH_PIXELS = 2**22
# Wavenumbers this close to an edge lie on it, whatever way they were rounded.
_EDGE_TOLERANCE = 1e-9
# Rounding leaves white noise of a few epsilon times the values of a map; power below this many is no power.
_ROUNDING = 32 * np.finfo(np.float64).eps


class PowerSpectrum(NamedTuple):
    """Power spectrum of each map.

    Args:
        k: Mean wavenumber of the modes in each bin, shape ``(n_k,)``.
        power: Shape ``(n_maps, n_k)``.
        modes: Number of modes in each bin, both signs of k counted, shape ``(n_k,)``.
    """

    k: np.ndarray
    power: np.ndarray
    modes: np.ndarray


class SpectrumComparison(NamedTuple):
    """Spectra of true and predicted maps and their cross spectrum, map by map.

    Args:
        k: Wavenumbers, shape ``(n_k,)``.
        true: Power spectrum of the true maps, ``(n_maps, n_k)``.
        predicted: Power spectrum of the predicted maps, ``(n_maps, n_k)``.
        cross: Real part of their cross spectrum, ``(n_maps, n_k)``.
    """

    k: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    cross: np.ndarray

    @property
    def transfer(self) -> np.ndarray:
        """``T = sqrt(P_predicted / P_true)`` (equation 4.3), ``(n_maps, n_k)``.

        1 is right, 0 a prediction without power, NaN a truth without power.
        """
        return np.sqrt(_ratio(self.predicted, self.true))

    @property
    def correlation(self) -> np.ndarray:
        """``r = P_cross / sqrt(P_true P_predicted)`` (equation 4.4), ``(n_maps, n_k)``.

        Between -1 and 1. NaN where one of the two has no power, as for a prediction that is the same everywhere.
        """
        return _ratio(self.cross, np.sqrt(self.true) * np.sqrt(self.predicted))

    def at(self, k) -> "SpectrumComparison":
        """The same at other wavenumbers, such as the 0.7 and 2 1/Mpc that the paper quotes.

        The three spectra are interpolated linearly between bins, so that the correlation keeps its limits.

        Args:
            k: Wavenumbers ``(n,)`` or one of them, within the first and the last of `k`.

        Raises:
            ValueError: If a wavenumber lies outside.
        """
        wanted = np.atleast_1d(np.asarray(k, dtype=np.float64))
        low, high = self.k[0], self.k[-1]
        slack = _EDGE_TOLERANCE * high
        if wanted.ndim != 1 or not np.all((wanted >= low - slack) & (wanted <= high + slack)):
            raise ValueError(
                f"k: expected wavenumbers from {low:.4g} to {high:.4g}, the first and last bin, got {wanted.tolist()}; "
                f"larger maps reach lower k, smaller cells higher k."
            )
        right = np.clip(np.searchsorted(self.k, wanted), min(1, len(self.k) - 1), len(self.k) - 1)
        left = np.maximum(right - 1, 0)
        width = np.where(right > left, self.k[right] - self.k[left], 1.0)
        weight = np.clip((wanted - self.k[left]) / width, 0.0, 1.0)
        spectra = (values[:, left] * (1.0 - weight) + values[:, right] * weight for values in self[1:])
        return SpectrumComparison(wanted, *spectra)


class MapSummary(NamedTuple):
    """Mean over maps of something measured map by map.

    Args:
        mean: Mean over maps, ``(n,)``; NaN where no map has a value.
        standard_deviation: Population standard deviation over maps, the band of the paper's figures.
        standard_error: Standard error of the mean over independent simulations: maps of one simulation are averaged
            first, for they share their large scales and parameters. NaN with fewer than two simulations.
        maps: Number of maps with a value.
    """

    mean: np.ndarray
    standard_deviation: np.ndarray
    standard_error: np.ndarray
    maps: np.ndarray


def wavenumber_edges(shape: tuple[int, int], cell_size: float) -> np.ndarray:
    """Edges of the default bins: one fundamental wide, centred on its multiples, from the first to the Nyquist one.

    The fundamental is ``2 pi`` over the longer side and the Nyquist wavenumber ``pi / cell_size``. No mode of a square
    map lies on these edges.

    Args:
        shape: Cells of a map, ``(nx, ny)``.
        cell_size: Side of a cell, such as in Mpc.

    Returns:
        Shape ``(n_k + 1,)``, in the inverse unit of the cell size.

    Raises:
        ValueError: If a side has fewer than two cells or the cell size is not positive.

    Example:
        >>> wavenumber_edges((8, 8), 2 * np.pi / 8).tolist()
        [0.5, 1.5, 2.5, 3.5, 4.5]
    """
    cells = max(_check_grid(shape, cell_size))
    fundamental = 2 * np.pi / (cells * cell_size)
    return fundamental * (np.arange(cells // 2 + 1) + 0.5)


def power_spectrum(maps, cell_size: float, edges=None) -> PowerSpectrum:
    """Power spectrum of each map.

    Args:
        maps: Real maps ``(n_maps, nx, ny)``, or an open HDF5 dataset of that shape, which is read in batches. Memory
            stays below about 200 MiB however many there are.
        cell_size: Side of a square cell, such as in Mpc.
        edges: Rising edges of the wavenumber bins, ``(n_k + 1,)``, in the inverse unit of the cell size. A mode on an
            edge belongs to the bin above it, on the last edge to the last bin. Defaults to `wavenumber_edges`. Bins
            beyond the Nyquist wavenumber hold the modes of the corners only.

    Raises:
        TypeError: If the maps are not real numbers.
        ValueError: On a wrong shape, values that are not finite, a cell size that is not positive, edges that do not
            rise, or a bin without modes.

    Example:
        >>> x = np.arange(16)
        >>> wave = np.cos(2 * np.pi * 3 * x / 16)[:, None] * np.ones(16)
        >>> spectrum = power_spectrum(wave[None], 1.0)
        >>> spectrum.power.round(12)[0].argmax()  # the third bin is centred on three fundamentals
        np.int64(2)
    """
    shape = _shape(maps, "maps")
    bins = FourierBins(shape[1:], cell_size, edges)
    power = np.empty((shape[0], len(bins.k)))
    for rows, batch in map_batches(maps, "maps"):
        transform, floor = bins.transform(batch)
        power[rows] = bins.auto(transform, floor)
    return PowerSpectrum(bins.k, power, bins.modes)


def compare_spectra(true, predicted, cell_size: float, edges=None) -> SpectrumComparison:
    """Spectra of true and predicted maps and their cross spectrum: figures 4 and 7 of the paper.

    Args:
        true: True maps ``(n_maps, nx, ny)``, an array or an open HDF5 dataset.
        predicted: Predicted maps, same shape and order.
        cell_size: As in `power_spectrum`.
        edges: As in `power_spectrum`.

    Raises:
        TypeError: If maps are not real numbers.
        ValueError: As in `power_spectrum`, and if the two shapes differ.

    Example:
        >>> maps = np.random.default_rng(0).normal(size=(3, 16, 16))
        >>> comparison = compare_spectra(maps, 0.5 * maps, cell_size=1.5)
        >>> comparison.transfer.round(3).min(), comparison.correlation.round(3).min()
        (np.float64(0.5), np.float64(1.0))
    """
    shape = _shape(true, "true")
    if _shape(predicted, "predicted") != shape:
        raise ValueError(
            f"predicted: expected the shape of true, {shape}, got {tuple(predicted.shape)}; "
            f"both must hold the same maps in the same order."
        )
    bins = FourierBins(shape[1:], cell_size, edges)
    spectra = [np.empty((shape[0], len(bins.k))) for _ in range(3)]
    for (rows, first), (_, second) in zip(map_batches(true, "true"), map_batches(predicted, "predicted"), strict=True):
        (one, one_floor), (other, other_floor) = bins.transform(first), bins.transform(second)
        spectra[0][rows] = bins.auto(one, one_floor)
        spectra[1][rows] = bins.auto(other, other_floor)
        spectra[2][rows] = bins.average((one * other.conj()).real)
    return SpectrumComparison(bins.k, *spectra)


def over_maps(values, simulation=None) -> MapSummary:
    """Mean, standard deviation and standard error over maps, such as of power, transfer or correlation.

    Maps where a value is NaN (no power, see `SpectrumComparison`) are left out of that column; `MapSummary.maps`
    says how many remain.

    Args:
        values: Shape ``(n_maps, n)``.
        simulation: Simulation id of each map, integers ``(n_maps,)``. Without it, every map counts as independent.

    Raises:
        ValueError: On wrong shapes or infinite values.

    Example:
        >>> summary = over_maps([[1.0], [3.0], [5.0], [7.0]], simulation=[0, 0, 1, 1])
        >>> summary.mean, summary.standard_error
        (array([4.]), array([2.]))
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape or np.isinf(values).any():
        raise ValueError(
            f"values: expected finite values or NaN of shape (n_maps, n), nothing empty, got shape {values.shape}"
            f"{' with infinities' if np.isinf(values).any() else ''}."
        )
    simulation = np.arange(len(values)) if simulation is None else np.asarray(simulation)
    if simulation.shape != (len(values),) or not np.issubdtype(simulation.dtype, np.integer):
        raise ValueError(
            f"simulation: expected one integer id per map, shape ({len(values)},), "
            f"got shape {simulation.shape} of {simulation.dtype}."
        )
    mean, deviation, maps = _moments(values, 0)
    ids, group = np.unique(simulation, return_inverse=True)
    known = ~np.isnan(values)
    groups = csr_array((np.ones(len(group)), (group, np.arange(len(group)))), shape=(len(ids), len(group)))
    per_simulation = _ratio(groups @ np.where(known, values - mean, 0.0), groups @ known.astype(np.float64))
    _, scatter, count = _moments(per_simulation, 1)
    return MapSummary(mean, deviation, _ratio(scatter, np.sqrt(count)), maps)


def map_batches(maps, name: str = "maps") -> Iterator[tuple[slice, np.ndarray]]:
    """Go through maps in batches of bounded size: pairs of the rows and their values as finite float64.

    Args:
        maps: Maps ``(n_maps, nx, ny)``, an array or an open HDF5 dataset.
        name: Name of the argument, for messages.

    Raises:
        TypeError: If the maps are not real numbers.
        ValueError: On a wrong shape or values that are not finite.
    """
    shape = _shape(maps, name)
    step = max(1, _BATCH_PIXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        rows = slice(start, min(start + step, shape[0]))
        batch = np.asarray(maps[rows], dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(batch).all(axis=(1, 2)))
        if bad.size:
            raise ValueError(f"{name}: expected finite values, got NaN or infinity in map {start + bad[0]}.")
        yield rows, batch


class FourierBins:
    """The Fourier modes of a half plane, sorted into bins of wavenumber with their weights.

    Args:
        shape: Shape ``(nx, ny)`` of the maps.
        cell_size: Side of a cell, such as in Mpc.
        edges: Rising edges of the bins in radians per unit of ``cell_size``, or None for those of `wavenumber_edges`.

    Raises:
        ValueError: If an argument is out of range, or a bin holds no mode.
    """

    def __init__(self, shape: tuple[int, int], cell_size: float, edges):
        edges = _check_edges(wavenumber_edges(shape, cell_size) if edges is None else edges)
        nx, ny = _check_grid(shape, cell_size)
        kx = 2 * np.pi * np.fft.fftfreq(nx, cell_size)
        ky = 2 * np.pi * np.fft.rfftfreq(ny, cell_size)
        k = np.hypot(kx[:, None], ky).ravel()
        # A real map's modes at -ky repeat those at ky, but for ky = 0 and, if ny is even, the Nyquist column.
        weight = np.full((nx, ky.size), 2.0)
        weight[:, 0] = 1.0
        if ny % 2 == 0:
            weight[:, -1] = 1.0
        weight = weight.ravel()
        slack = _EDGE_TOLERANCE * edges
        index = np.searchsorted(edges - slack, k, side="right") - 1
        index[(index == len(edges) - 1) & (k <= edges[-1] + slack[-1])] = len(edges) - 2
        inside = np.flatnonzero((index >= 0) & (index < len(edges) - 1) & (k > 0))
        count = len(edges) - 1
        modes = np.bincount(index[inside], weight[inside], minlength=count)
        empty = np.flatnonzero(modes == 0)
        if empty.size:
            low, high = edges[empty[0]], edges[empty[0] + 1]
            raise ValueError(
                f"edges: expected modes in every bin, got none from {low:.4g} to {high:.4g} ({empty.size} of {count} "
                f"bins are empty); the modes of {nx} x {ny} cells of {cell_size:g} run from {k[k > 0].min():.4g} to "
                f"{k.max():.4g}. Take wider bins."
            )
        self.modes = np.rint(modes).astype(np.int64)
        self.k = np.bincount(index[inside], weight[inside] * k[inside], minlength=count) / modes
        # |FFT|^2 of pixel values times cell_size^4 / area is P.
        scale = cell_size**2 / (nx * ny)
        entries = weight[inside] * scale / modes[index[inside]]
        self._matrix = csr_array((entries, (index[inside], inside)), shape=(count, k.size))
        self._cell_area = cell_size**2

    def transform(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Half-plane transform of each map, and the power below which there is only rounding."""
        floor = _ROUNDING**2 * self._cell_area * np.mean(batch**2, axis=(1, 2))
        return np.fft.rfft2(batch - batch.mean(axis=(1, 2), keepdims=True)), floor

    def average(self, squares: np.ndarray) -> np.ndarray:
        """Mean over the modes of each bin, ``(n_maps, n_k)``, of products of transforms, as power."""
        return (self._matrix @ squares.reshape(len(squares), -1).T).T

    def auto(self, transform: np.ndarray, floor: np.ndarray) -> np.ndarray:
        """Power spectrum of each map, ``(n_maps, n_k)``; zero where there is only rounding."""
        power = self.average(transform.real**2 + transform.imag**2)
        return np.where(power > floor[:, None], power, 0.0)


def _shape(maps, name: str) -> tuple[int, int, int]:
    if not hasattr(maps, "shape") or not hasattr(maps, "dtype"):
        raise TypeError(f"{name}: expected an array of maps, got {type(maps)}; use numpy.asarray.")
    if not (np.issubdtype(maps.dtype, np.floating) or np.issubdtype(maps.dtype, np.integer)):
        raise TypeError(f"{name}: expected real numbers, got {maps.dtype}.")
    shape = tuple(int(size) for size in maps.shape)
    if len(shape) != 3 or 0 in shape:
        raise ValueError(
            f"{name}: expected shape (n_maps, nx, ny), nothing empty, got {shape}; "
            f"use values[None] for a single map and values[..., channel] for one of several channels."
        )
    return shape


def _check_grid(shape, cell_size: float) -> tuple[int, int]:
    nx, ny = shape
    if min(nx, ny) < 2:
        raise ValueError(f"maps: expected at least 2 x 2 cells, got {nx} x {ny}.")
    if not (np.isfinite(cell_size) and cell_size > 0):
        raise ValueError(f"cell_size: expected a positive size, such as in Mpc, got {cell_size}.")
    return int(nx), int(ny)


def _check_edges(edges) -> np.ndarray:
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not np.isfinite(edges).all() or not np.all(np.diff(edges) > 0):
        raise ValueError(f"edges: expected at least two rising wavenumbers, got {edges.tolist()}.")
    if edges[0] < 0:
        raise ValueError(f"edges: expected wavenumbers of at least 0, got {edges[0]:g}.")
    return edges


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    out = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _moments(values: np.ndarray, lost: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation with ``lost`` degrees of freedom less, and number of values, NaN left out."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    mean = _ratio(np.where(known, values, 0.0).sum(axis=0), count)
    squares = np.where(known, values - np.where(count > 0, mean, 0.0), 0.0) ** 2
    return mean, np.sqrt(_ratio(squares.sum(axis=0), np.maximum(count - lost, 0))), count
