"""How well predicted cutouts of the sky reproduce the true ones, multipole by multipole (Zhang et al. 2019).

The cross-correlation coefficient of a true map T and a predicted map T~ (equation 2.1 of the paper) is
``r(ell) = C_TT~ / sqrt(C_TT C_T~T~)``. Two estimators of it from one cutout are in use, and they differ:

- ``"modes"``, the paper's (section 2): the coefficient of every single Fourier mode, averaged over the modes of a bin.
  The coefficient of one mode is the cosine of the phase difference of the two maps, so every mode counts the same,
  however much power it has, and amplitudes do not matter at all. For Gaussian fields of coherence rho its mean is below
  rho, see `expected_mode_average`: 0.70 for rho = 0.8.
- ``"bands"``: the ratio of cross and auto powers that were summed over the bin first. Modes count by their power, so
  that in a wide bin of a steep spectrum the lowest multipoles decide. Its mean is close to rho.

Both lie between -1 and 1 and ignore any rescaling of the prediction; `amplitudes` measures what they are blind to.

Multipoles are those of the flat sky, ``ell = 2 pi / angle``. The fundamental one of a square cutout is
``ell_F = 360 deg / (side * pixel_size)``, 14.4 for 64 pixels of 23.4 arcmin (section 2 of the paper). Maps are taken as
they come, periodic and multiplied by their mask, as in the paper. The same mask multiplies the true map and the
prediction; where the mean of the maps is not zero, its shape appears in both and is counted as correlation. ``mask``
takes the mean out and ``window``, from `apodisation`, softens the edges. On Gaussian fields with a spectrum of slope
-2.8 whose coherence falls from 0.95 to 0.1, with a mean of three standard deviations and 28% masked in holes some
pixels wide, r50 and r150 come out too high by 0.17 and 0.31 plain, by 0.02 and 0.08 with ``mask``, and by 0.02 and 0.05
with a window of 3 pixels besides (with a mean of one standard deviation 0.06 and 0.13 plain). What is left is leakage
of the better correlated large scales through holes and border. All models on the same cutouts see the same mask,
but their differences shrink as they are all pushed towards 1.

All sums are float64.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.special import hyp2f1

from keras_cosmo.statistics.spectra import FourierBins, compare_spectra, map_batches, wavenumber_edges

ESTIMATORS = ("modes", "bands")
# Modes are kept out of a band by an edge lower by more than the width that FourierBins gives to edges.
_OPEN_EDGE = 1.0 - 1e-8
# Power this far below the variance of a map is rounding and has no phase.
_ROUNDING = 32 * np.finfo(np.float64).eps


class CutoutCorrelation(NamedTuple):
    """Cross-correlation coefficient of each cutout.

    Args:
        ell: Mean multipole of the modes in each bin, shape ``(n,)``.
        correlation: Shape ``(n_cutouts, n)``, between -1 and 1; NaN where one of the two maps has no power.
        modes: Number of modes in each bin, both signs counted, shape ``(n,)``.
    """

    ell: np.ndarray
    correlation: np.ndarray
    modes: np.ndarray


class CutoutAmplitudes(NamedTuple):
    """Amplitude of the predictions, to which the correlation coefficient is blind, cutout by cutout.

    Args:
        ell: Mean multipole of the modes in each bin, shape ``(n,)``.
        transfer: ``T = sqrt(P_predicted / P_true)``, ``(n_cutouts, n)``. 1 is right.
        gain: Slope of the regression of the prediction on the truth, ``P_cross / P_true = r T``: how much of a true
            structure is in the prediction. 1 for a truth with independent noise.
        template_coefficient: Slope of the regression of the truth on the prediction, ``P_cross / P_predicted = r / T``:
            what a prediction has to be multiplied by to take out as much dust as it can. 1 for a prediction that
            needs no correction, such as the posterior mean.
    """

    ell: np.ndarray
    transfer: np.ndarray
    gain: np.ndarray
    template_coefficient: np.ndarray


def fundamental_multipole(side: int, pixel_size: float) -> float:
    """Multipole of the longest wave in a square cutout, ``ell_F = 360 deg / (side * pixel_size)``.

    Args:
        side: Pixels of a side.
        pixel_size: Side of a pixel in arcmin.

    Raises:
        ValueError: If the side has fewer than two pixels or the pixel size is not positive.

    Example:
        >>> round(fundamental_multipole(64, 23.4), 2)  # 14.4 in section 2 of the paper
        14.42
    """
    if side < 2:
        raise ValueError(f"side: expected at least 2 pixels, got {side}.")
    if not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"pixel_size: expected a positive size in arcmin, got {pixel_size}.")
    return 360.0 * 60.0 / (side * pixel_size)


def multipole_edges(side: int, pixel_size: float) -> np.ndarray:
    """Edges of the default bins: one ``ell_F`` wide, as in the paper, and centred on its multiples.

    They run from ``ell_F / 2`` to half a bin above the Nyquist multipole ``180 deg / pixel_size``, 461.5 for 23.4
    arcmin. The paper states the width only. Centred bins have no mode on an edge, where rounding would decide.

    Args:
        side: Pixels of a side.
        pixel_size: Side of a pixel in arcmin.

    Returns:
        Shape ``(side // 2 + 1,)``.

    Raises:
        ValueError: As `fundamental_multipole`.

    Example:
        >>> multipole_edges(8, 45.0)
        array([ 30.,  90., 150., 210., 270.])
    """
    fundamental_multipole(side, pixel_size)
    return wavenumber_edges((side, side), np.radians(pixel_size / 60.0))


def paper_bands(side: int, pixel_size: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The bands of r50 and r150 (section 2 of the paper): ``ell_F <= ell < 100`` and ``100 <= ell < 200``.

    Args:
        side: Pixels of a side.
        pixel_size: Side of a pixel in arcmin.

    Raises:
        ValueError: As `fundamental_multipole`.
    """
    return (fundamental_multipole(side, pixel_size), 100.0), (100.0, 200.0)


def correlation(
    true, predicted, pixel_size: float, edges=None, estimator: str = "modes", mask=None, window=None
) -> CutoutCorrelation:
    """Cross-correlation coefficient of each cutout in bins of multipole: figures 5 to 7 of the paper.

    Args:
        true: True cutouts ``(n_cutouts, side, side)``, an array or an open HDF5 dataset.
        predicted: Predicted cutouts, same shape and order, in any unit.
        pixel_size: Side of a pixel in arcmin.
        edges: Rising edges of the bins, ``(n + 1,)``; defaults to `multipole_edges`. A mode on an edge belongs to the
            bin above it.
        estimator: ``"modes"`` averages the coefficient of every mode, as in the paper; ``"bands"`` divides summed
            powers. See the top of this module.
        mask: The weights 0 to 1 that both maps were multiplied by, ``(n_cutouts, side, side)`` or ``(side, side)``.
            With it, the mean over the unmasked sky is subtracted there; without it, as in the paper, the maps stay as
            they are.
        window: Further weights by which both maps are multiplied after that, such as from `apodisation`.

    Raises:
        TypeError: If maps are not real numbers.
        ValueError: On shapes that differ, values that are not finite, an unknown estimator, edges that do not rise, a
            bin without modes, or a cutout that the mask or the window covers completely.

    Example:
        >>> maps = np.random.default_rng(0).normal(size=(3, 16, 16))
        >>> found = correlation(maps, 5.0 * maps, pixel_size=23.4)
        >>> found.correlation.shape, found.correlation.min().round(6)
        ((3, 8), np.float64(1.0))
    """
    side = _side(true, predicted)
    cell = _cell_size(side, pixel_size)
    edges = multipole_edges(side, pixel_size) if edges is None else edges
    if _check_estimator(estimator) == "bands":
        comparison = compare_spectra(*_weighted_pair(true, predicted, mask, window), cell, edges)
        return CutoutCorrelation(comparison.k, comparison.correlation, FourierBins((side, side), cell, edges).modes)
    bins = FourierBins((side, side), cell, edges)
    (found,) = _mode_averages(true, predicted, [bins], mask, window)
    return CutoutCorrelation(bins.k, found, bins.modes)


def band_correlations(
    true,
    predicted,
    pixel_size: float,
    bands: Sequence[tuple[float, float]] | None = None,
    estimator: str = "modes",
    mask=None,
    window=None,
) -> np.ndarray:
    """The paper's r50 and r150 of each cutout: the coefficient averaged over two bands of multipole (section 2).

    Args:
        true: True cutouts ``(n_cutouts, side, side)``.
        predicted: Predicted cutouts, same shape and order.
        pixel_size: Side of a pixel in arcmin.
        bands: Lowest and highest multipole of each band, ``low <= ell < high``; they may overlap. Defaults to
            `paper_bands`.
        estimator: As in `correlation`.
        mask: As in `correlation`.
        window: As in `correlation`.

    Returns:
        Shape ``(n_cutouts, n_bands)``.

    Raises:
        TypeError: As `correlation`.
        ValueError: As `correlation`, or if a band holds no mode.

    Example:
        >>> maps = np.random.default_rng(0).normal(size=(2, 64, 64))
        >>> band_correlations(maps, maps, pixel_size=23.4).round(6)
        array([[1., 1.],
               [1., 1.]])
    """
    side = _side(true, predicted)
    cell = _cell_size(side, pixel_size)
    bands = paper_bands(side, pixel_size) if bands is None else list(bands)
    _check_estimator(estimator)
    if not len(bands):
        raise ValueError("bands: expected at least one pair of multipoles, such as (14.4, 100), got none.")
    for band in bands:
        if np.shape(band) != (2,) or not 0 <= band[0] < band[1] < np.inf:
            raise ValueError(f"bands: expected pairs of a lowest and a higher multipole, got {band}.")
    edges = [(low, high * _OPEN_EDGE) for low, high in bands]
    if estimator == "bands":
        pair = _weighted_pair(true, predicted, mask, window)
        return np.concatenate([compare_spectra(*pair, cell, pair_of).correlation for pair_of in edges], axis=1)
    bins = [FourierBins((side, side), cell, pair_of) for pair_of in edges]
    return np.concatenate(_mode_averages(true, predicted, bins, mask, window), axis=1)


def amplitudes(true, predicted, pixel_size: float, edges=None, mask=None, window=None) -> CutoutAmplitudes:
    """Transfer function and regression slopes of each cutout: what the correlation coefficient does not see.

    They are ratios of powers summed over the bin.

    Args:
        true: True cutouts ``(n_cutouts, side, side)``, such as in uK_RJ.
        predicted: Predicted cutouts, same shape, order and unit.
        pixel_size: Side of a pixel in arcmin.
        edges: As in `correlation`; for the paper's two bands ``[ell_F, 100, 200]``.
        mask: As in `correlation`.
        window: As in `correlation`.

    Raises:
        TypeError: As `correlation`.
        ValueError: As `correlation`.

    Example:
        >>> maps = np.random.default_rng(0).normal(size=(2, 16, 16))
        >>> found = amplitudes(maps, 0.5 * maps, pixel_size=23.4, edges=[60.0, 200.0])
        >>> found.gain.round(6).ravel(), found.template_coefficient.round(6).ravel()
        (array([0.5, 0.5]), array([2., 2.]))
    """
    side = _side(true, predicted)
    cell = _cell_size(side, pixel_size)
    edges = multipole_edges(side, pixel_size) if edges is None else edges
    found = compare_spectra(*_weighted_pair(true, predicted, mask, window), cell, edges)
    gain, coefficient = (
        np.divide(found.cross, power, out=np.full_like(power, np.nan), where=power > 0)
        for power in (found.true, found.predicted)
    )
    return CutoutAmplitudes(found.k, found.transfer, gain, coefficient)


def apodisation(mask, width: float = 3.0, border: bool = True) -> np.ndarray:
    """Weights that fall to zero towards masked pixels and the border of the cutout as half a period of a cosine.

    A pixel at distance d from the nearest masked one, in pixels between their centres, has the weight
    ``(1 - cos(pi d / (width + 1))) / 2`` up to a distance of ``width + 1``, and 1 beyond.

    Args:
        mask: Weights 0 to 1, ``(n_cutouts, side, side)``; pixels below 0.5 count as masked.
        width: Pixels that are tapered. 0 gives 1 where the mask is open and 0 elsewhere.
        border: Treat the outside of the cutout as masked, because the Fourier transform joins opposite sides.

    Returns:
        Same shape, float64; 0 in masked pixels.

    Raises:
        ValueError: On another shape, values outside 0 to 1, or a negative width.

    Example:
        >>> apodisation(np.ones((1, 5, 5)), width=1.0)[0, 2].round(3)
        array([0.5, 1. , 1. , 1. , 0.5])
    """
    mask = np.asarray(mask, dtype=np.float64)
    if mask.ndim != 3 or 0 in mask.shape or not np.all((mask >= 0) & (mask <= 1)):
        raise ValueError(
            f"mask: expected weights from 0 to 1 of shape (n_cutouts, side, side), got shape {mask.shape}"
            f"{'' if mask.ndim != 3 or 0 in mask.shape else ' with others or NaN'}; use mask[None] for a single one."
        )
    if not (np.isfinite(width) and width >= 0):
        raise ValueError(f"width: expected a number of pixels of at least 0, got {width}.")
    window = np.empty(mask.shape)
    for row, cutout in enumerate(mask):
        is_open = np.pad(cutout >= 0.5, 1, constant_values=not border)
        # The distance to the nearest masked pixel has no meaning where there is none.
        distance = distance_transform_edt(is_open) if not is_open.all() else np.full(is_open.shape, np.inf)
        part = np.minimum(distance[1:-1, 1:-1] / (width + 1.0), 1.0)
        window[row] = 0.5 * (1.0 - np.cos(np.pi * part))
    return window


def expected_mode_average(coherence) -> np.ndarray:
    """Mean of the cosine of the phase difference of two Gaussian fields, what ``estimator="modes"`` converges to.

    A mode of two complex Gaussian fields of real coherence ``rho = P_cross / sqrt(P_1 P_2)`` has the mean
    ``pi / 4 * rho * 2F1(1/2, 1/2; 2; rho^2)``, the integral of cos over the distribution of the phase difference of two
    correlated circular Gaussian numbers. The three modes of a square map without an imaginary part have
    ``2 / pi * arcsin(rho)`` instead.

    Args:
        coherence: From -1 to 1, any shape.

    Raises:
        ValueError: If a value is outside.

    Example:
        >>> expected_mode_average([0.0, 0.5, 0.8, 1.0]).round(4)
        array([0.    , 0.4063, 0.6976, 1.    ])
    """
    coherence = np.asarray(coherence, dtype=np.float64)
    if not np.all(np.abs(coherence) <= 1):
        raise ValueError(f"coherence: expected values from -1 to 1, got {coherence.tolist()}.")
    return 0.25 * np.pi * coherence * hyp2f1(0.5, 0.5, 2.0, coherence**2)


def _mode_averages(true, predicted, bins: Sequence[FourierBins], mask, window) -> list[np.ndarray]:
    """Mean over the modes of each bin of the cosine of the phase difference, NaN where no mode has a phase."""
    averages = [np.empty((true.shape[0], len(one.k))) for one in bins]
    for rows, first, second in _weighted_batches(true, predicted, mask, window):
        one, other = np.fft.rfft2(first - _mean(first)), np.fft.rfft2(second - _mean(second))
        known = _has_phase(one, first) & _has_phase(other, second)
        phase = np.divide(one * other.conj(), np.abs(one) * np.abs(other), out=np.zeros_like(one), where=known)
        for values, these in zip(averages, bins, strict=True):
            count = these.average(known.astype(np.float64))
            total = these.average(phase.real)
            values[rows] = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return averages


def _mean(maps: np.ndarray) -> np.ndarray:
    return maps.mean(axis=(1, 2), keepdims=True)


def _has_phase(transform: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Where a mode is more than the rounding of the values of its map."""
    floor = _ROUNDING * np.sqrt(np.sum(maps**2, axis=(1, 2)))
    return np.abs(transform) > floor[:, None, None]


def _weighted_batches(true, predicted, mask, window) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    shape = tuple(true.shape)
    mask, window = _weights(mask, shape, "mask"), _weights(window, shape, "window")
    batches = zip(map_batches(true, "true"), map_batches(predicted, "predicted"), strict=True)
    for (rows, first), (_, second) in batches:
        here = [None if weights is None else weights[rows] for weights in (mask, window)]
        yield rows, _weighted(first, *here, rows.start), _weighted(second, *here, rows.start)


def _weighted_pair(true, predicted, mask, window):
    if mask is None and window is None:
        return true, predicted
    batches = list(_weighted_batches(true, predicted, mask, window))
    return tuple(np.concatenate([batch[place] for batch in batches]) for place in (1, 2))


def _weighted(maps: np.ndarray, mask, window, start: int) -> np.ndarray:
    """Maps, which are multiplied by ``mask``, less their mean over its open part, times ``window``."""
    if mask is None and window is None:
        return maps
    carried = np.ones_like(maps) if mask is None else mask
    extra = 1.0 if window is None else window
    weight = np.sum(carried * extra, axis=(1, 2), keepdims=True)
    empty = np.flatnonzero(weight <= 0)
    if empty.size:
        raise ValueError(
            f"mask: expected open pixels in every cutout, got none in cutout {start + empty[0]} (mask times window); "
            f"leave out such cutouts or taper fewer pixels."
        )
    mean = np.sum(maps * extra, axis=(1, 2), keepdims=True) / weight
    return (maps - carried * mean) * extra


def _weights(values, shape: tuple[int, int, int], name: str) -> np.ndarray | None:
    if values is None:
        return None
    values = np.asarray(values, dtype=np.float64)
    if values.shape not in (shape, shape[1:]):
        raise ValueError(
            f"{name}: expected weights of shape {shape} or {shape[1:]}, those of the cutouts, got {values.shape}."
        )
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"{name}: expected weights from 0 to 1, got others or NaN.")
    return np.broadcast_to(values, shape)


def _side(true, predicted) -> int:
    shapes = []
    for maps, name in ((true, "true"), (predicted, "predicted")):
        if not hasattr(maps, "shape"):
            raise TypeError(f"{name}: expected an array of cutouts, got {type(maps)}; use numpy.asarray.")
        shapes.append(tuple(maps.shape))
    shape = shapes[0]
    if len(shape) != 3 or shape[1] != shape[2] or 0 in shape:
        raise ValueError(
            f"true: expected square cutouts (n_cutouts, side, side), nothing empty, got {shape}; use values[None] for "
            f"a single cutout and values[..., 0] for one with a channel."
        )
    if shapes[1] != shape:
        raise ValueError(
            f"predicted: expected the shape of true, {shape}, got {shapes[1]}; both must hold the same cutouts in the "
            f"same order."
        )
    return shape[1]


def _cell_size(side: int, pixel_size: float) -> float:
    """Side of a pixel in radians, so that wavenumbers are multipoles."""
    fundamental_multipole(side, pixel_size)
    return float(np.radians(pixel_size / 60.0))


def _check_estimator(estimator: str) -> str:
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator: expected one of {', '.join(map(repr, ESTIMATORS))}, got {estimator!r}.")
    return estimator
