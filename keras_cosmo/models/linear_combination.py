"""The linear model of Zhang et al. (2019): dust as a weighted sum of the velocity channels of HI."""

import itertools
import math
from collections.abc import Iterable

import numpy as np

# Multipoles this close to an edge lie on it, whatever way they were rounded.
_EDGE_TOLERANCE = 1e-9


class LinearCombination:
    """Dust as the best linear combination of HI maps, ``T' = sum_i w_i I_i`` (Zhang et al. 2019, equation 2.2).

    The weights minimise the squared difference of the Fourier modes of the training cutouts (equation A.2), in closed
    form (A.6): ``w = C_II^-1 C_TI``, with the mean spectra of the channels and their cross spectra with the dust,
    summed over modes. Nothing is trained, and there is one optimum. The same weights maximise the correlation of the
    mean spectra (A.7), and they give the prediction its amplitude. The mean of a cutout, k = 0, does not enter.

    With ``bands`` every band of multipoles has weights of its own. The paper tried such scale-dependent weights and
    found that they overfit (section 2.2).

    Args:
        ridge: Added to the diagonal of the matrix, as a fraction of its mean. Defaults to 1e-8 (ours, the paper has
            none): too little to be noticed by channels with emission or noise, but enough to give an empty channel the
            weight 0 and identical channels equal weights. 0 is the paper's formula.
        pixel_size: Side of a pixel, arcmin; needed with ``ell_max`` and ``bands``.
        ell_max: Fit to the modes with ``ell < ell_max``. Defaults to None, all modes. The weights are used on all
            scales either way.
        bands: Increasing edges of multipoles; band b is ``bands[b] <= ell < bands[b + 1]``. Defaults to None, the same
            weights on all scales, as in the paper's results. Modes outside of all bands are 0 in a prediction; its
            mean is that of the channels with the weights of the first band.

    Attributes:
        weights: Fitted weights, uK_RJ per K, ``(n_channels,)``, or ``(n_bands, n_channels)`` with ``bands``; None
            before fitting.

    Input shape:
        HI times mask, ``(batch, height, width, n_channels)``, K; targets ``(batch, height, width, 2)``: dust times
        mask, uK_RJ, and the mask.

    Output shape:
        ``(batch, height, width)``, float64, uK_RJ.

    Raises:
        ValueError: If an argument is out of range, on cutouts of a wrong shape or not finite, if a band has no mode,
            on prediction before fitting, or if the matrix is singular without a ridge.

    Example:
        >>> hi = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
        >>> dust = hi @ [1.0, 2.0, 5.0]
        >>> model = LinearCombination().fit([(hi, np.stack([dust, np.ones_like(dust)], axis=-1))])
        >>> model.weights.round(4).tolist()
        [1.0, 2.0, 5.0]

    Reference:
        Zhang, Chiang, Sheehy, Slosar & Wang 2019 (arXiv:1904.13265), section 2.2 and appendix A.

    Equation A.6 has weights for every multipole. The sum of its matrices over many modes, k and -k both counted, gives
    the weights that minimise the sum of A.2 over them. Deviations from the paper: the ridge.
    """

    def __init__(self, ridge: float = 1e-8, pixel_size: float | None = None, ell_max: float | None = None, bands=None):
        self.ridge = _number("ridge", ridge)
        if self.ridge < 0:
            raise ValueError(f"`ridge`: expected a finite number of at least 0, got {ridge!r}.")
        self.pixel_size = None if pixel_size is None else _positive("pixel_size", pixel_size)
        self.ell_max = None if ell_max is None else _positive("ell_max", ell_max)
        self.bands = None if bands is None else _check_bands(bands)
        if self.ell_max is not None and self.bands is not None:
            raise ValueError("`ell_max` and `bands`: give one of them; the last edge of `bands` is a limit as well.")
        if self.pixel_size is None and (self.ell_max is not None or self.bands is not None):
            raise ValueError("`pixel_size`: `ell_max` and `bands` need the side of a pixel in arcmin, got None.")
        self.weights = None
        self._products = None

    def fit(self, batches: Iterable) -> "LinearCombination":
        """Fit to the training cutouts, read once, batch by batch; sums are float64.

        Args:
            batches: Iterable of pairs ``(hi, target)`` of the shapes above.

        Returns:
            This object.
        """
        products = None
        for hi, target in pairs(batches):
            if products is None:
                shape, channels = hi.shape[1:3], hi.shape[3]
                band = self._bands_of_modes(shape)
                root = np.sqrt(_half_plane_count(shape))
                selections = [(band == number).nonzero() for number in range(band.max() + 1)]
                products = np.zeros((len(selections), channels + 1, channels + 1))
            elif hi.shape[3] != channels or hi.shape[1:3] != shape:
                raise ValueError(
                    f"`batches`: expected cutouts of shape {(*shape, channels)} as in the first batch, "
                    f"got {hi.shape[1:]}."
                )
            for cube, dust in zip(hi, target[..., 0], strict=True):
                # Channels first, so that every transform runs over contiguous pixels.
                fields = np.concatenate([np.moveaxis(cube, -1, 0), dust[None]]).astype(np.float64)
                modes = np.fft.rfft2(fields) * root
                for number, (rows, columns) in enumerate(selections):
                    chosen = np.ascontiguousarray(modes[:, rows, columns]).view(np.float64)
                    products[number] += chosen @ chosen.T
        if products is None:
            raise ValueError("`batches`: expected at least one batch of cutouts, got none.")
        self._products = products
        weights = np.array([self._solve(matrix) for matrix in products])
        self.weights = weights[0] if self.bands is None else weights
        return self

    def pooled(self) -> "LinearCombination":
        """The model with the same weights on all scales, fitted to all modes of the bands of this one.

        Raises:
            ValueError: Before fitting.
        """
        if self._products is None:
            raise ValueError("LinearCombination is not fitted: call fit with batches of the training part first.")
        together = LinearCombination(ridge=self.ridge)
        together._products = self._products.sum(axis=0, keepdims=True)
        together.weights = together._solve(together._products[0])
        return together

    def predict(self, hi) -> np.ndarray:
        """Dust of cutouts ``(batch, height, width, n_channels)``; with ``bands`` of any size that fills them."""
        if self.weights is None:
            raise ValueError("LinearCombination is not fitted: call fit with batches of the training part first.")
        hi = as_cutouts("hi", hi)
        if hi.shape[-1] != self.weights.shape[-1]:
            raise ValueError(f"`hi`: the model was fitted to {self.weights.shape[-1]} channels, got {hi.shape[-1]}.")
        if self.bands is None:
            return weighted_sum(hi, self.weights)
        shape = hi.shape[1:3]
        band = self._bands_of_modes(shape)
        band[0, 0] = 0
        weights = np.where(band[..., None] >= 0, self.weights[band], 0.0)
        dust = np.empty(hi.shape[:3])
        for cube, out in zip(hi, dust, strict=True):
            # Channels first, so that every transform runs over contiguous pixels.
            modes = np.fft.rfft2(np.moveaxis(cube, -1, 0).astype(np.float64))
            out[...] = np.fft.irfft2(np.einsum("cij,ijc->ij", modes, weights), s=shape)
        return dust

    def _bands_of_modes(self, shape):
        """Number of the band of every mode of ``rfft2``, -1 for modes in none of them."""
        frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
        if self.pixel_size is None:
            return np.where(frequency > 0, 0, -1)
        ell = 360.0 * 60.0 / self.pixel_size * frequency
        edges = (0.0, math.inf if self.ell_max is None else self.ell_max) if self.bands is None else self.bands
        band = np.searchsorted(np.array(edges) * (1 - _EDGE_TOLERANCE), ell, side="right") - 1
        band[(band == len(edges) - 1) | (ell == 0)] = -1
        for number, limits in enumerate(itertools.pairwise(edges)):
            if not (band == number).any():
                fundamental = 360.0 * 60.0 / self.pixel_size / max(shape)
                raise ValueError(
                    f"`{'ell_max' if self.bands is None else 'bands'}`: no Fourier mode of cutouts of {shape[0]} x "
                    f"{shape[1]} pixels of {self.pixel_size:g} arcmin lies from {limits[0]:g} to {limits[1]:g}; their "
                    f"multipoles go from {fundamental:.4g} to {ell.max():.4g}."
                )
        return band

    def _solve(self, products):
        matrix, vector = products[:-1, :-1], products[:-1, -1]
        channels = len(matrix)
        mean = np.trace(matrix) / channels
        if mean == 0:
            raise ValueError("`batches`: HI has no fluctuations in the fitted modes; is everything masked?")
        matrix = matrix + self.ridge * mean * np.eye(channels)
        size, axes = np.linalg.eigh(matrix)
        if size[0] <= channels * np.finfo(np.float64).eps * size[-1]:
            raise ValueError(
                f"The {channels} x {channels} matrix of HI spectra is singular: a channel is empty, or a combination "
                f"of the others. Leave it out, or give a `ridge` such as 1e-8 (got {self.ridge:g})."
            )
        return axes @ ((axes.T @ vector) / size)


def pairs(batches: Iterable):
    """Checked pairs ``(hi, target)`` of NumPy arrays."""
    for pair in batches:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"`batches`: expected pairs (hi, target), got {type(pair).__name__}.")
        hi, target = as_cutouts("hi", pair[0]), as_cutouts("target", pair[1])
        if target.shape != (*hi.shape[:3], 2):
            raise ValueError(
                f"`batches`: with HI of shape {hi.shape} expected targets of shape {(*hi.shape[:3], 2)}, the dust "
                f"times the mask and the mask, got {target.shape}."
            )
        yield hi, target


def as_cutouts(argument: str, values) -> np.ndarray:
    """The values as a floating-point array ``(batch, height, width, channels)``, finite."""
    values = np.asarray(values)
    if values.ndim != 4:
        raise ValueError(f"`{argument}`: expected shape (batch, height, width, channels), got {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"`{argument}`: expected finite cutouts (bad pixels 0 in map and mask), got NaN or infinity.")
    return values


def weighted_sum(hi, weights) -> np.ndarray:
    """Sum over channels in float64, cutout by cutout, so that no copy of a whole batch is made."""
    dust = np.empty(hi.shape[:3])
    for cube, out in zip(hi, dust, strict=True):
        out[...] = cube.astype(np.float64) @ weights
    return dust


def _half_plane_count(shape):
    """How often each mode of ``rfft2`` is in the whole plane."""
    columns = np.fft.rfftfreq(shape[1])
    count = np.where((columns == 0) | (columns == 0.5), 1.0, 2.0)
    return np.broadcast_to(count, (shape[0], len(columns)))


def _check_bands(bands):
    edges = tuple(bands) if hasattr(bands, "__iter__") and not isinstance(bands, str) else ()
    edges = tuple(_number("bands", edge) for edge in edges)
    if len(edges) < 2 or edges[0] < 0 or any(b <= a for a, b in itertools.pairwise(edges)):
        raise ValueError(f"`bands`: expected increasing edges of multipoles such as (0, 100, 200), got {bands!r}.")
    return edges


def _number(argument, value):
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"`{argument}`: expected a finite number, got {value!r}.")
    return number


def _positive(argument, value):
    number = _number(argument, value)
    if number <= 0:
        raise ValueError(f"`{argument}`: expected a positive number, got {value!r}.")
    return number
