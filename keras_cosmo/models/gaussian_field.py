"""A Gaussian random field of log10 maps whose mean and power spectrum follow the parameters: a baseline for flows."""

import itertools
import math

import numpy as np

from keras_cosmo.statistics.spectra import map_batches

_LN10 = math.log(10.0)
# Fisher scoring of the spectra: the largest change of ln P at which it stops, and the most steps.
_TOLERANCE = 1e-10
_STEPS = 200
# Rounding leaves white noise of a few epsilon times the values of a map; power below this many is no power.
_ROUNDING = 32 * np.finfo(np.float64).eps
# Sampled pixels that are transformed at a time.
_BATCH_PIXELS = 2**22


class GaussianField:
    """A homogeneous, isotropic Gaussian field in log10 of the map, with mean and power spectrum given by parameters.

    ``log10 map ~ N(mean(parameters), C(parameters))``, where the covariance C is diagonal in Fourier space (the maps
    are periodic) and its eigenvalues are one power ``P_b(parameters)`` per annulus of wavenumber. The mean and each
    ``ln P_b`` are polynomials in the parameters, and so is the logarithm of the variance of the mean of a map, which
    is the annulus k = 0. The fit is the maximum of the likelihood, each map counted as independent. A flow that gives
    no better likelihood, samples or posterior has learnt no more than that; what it has not is the one-point
    distribution of the maps beyond log-normal, and phases.

    Args:
        degree: Degree of the polynomials, 0 to 3. Defaults to 2: with two parameters six coefficients per annulus.

    Attributes:
        map_shape: ``(height, width)`` of the maps, after fitting.
        parameter_low, parameter_high: Range of the training parameters, ``(n_parameters,)``. Outside, the polynomials
            are extrapolated.
        wavenumber: Mean |k| of the modes in each annulus, radians per cell, ``(n_annuli,)``; annuli are one fundamental
            mode of the shorter side wide, the first one holds k = 0 alone.
        modes: Number of modes in each annulus, both signs of k counted, ``(n_annuli,)``.

    Input shape:
        Maps ``(n, height, width)``, positive, any unit; parameters ``(n, n_parameters)``.

    Raises:
        TypeError: If maps are not real numbers.
        ValueError: If ``degree`` is out of range; on maps or parameters of a wrong shape, not finite or (maps) not
            positive; on too few different parameters or maps without power on some scale; on use before fitting.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> parameters = generator.uniform(1.0, 2.0, size=(500, 1))
        >>> maps = 10.0 ** (parameters[..., None] * generator.normal(size=(500, 8, 8)))
        >>> field = GaussianField(degree=1).fit(maps, parameters)
        >>> field.sample([[1.5]], n=3, seed=1).shape, field.log_prob(maps[:2], parameters[:2]).shape
        ((1, 3, 8, 8), (2,))

    Reference:
        Coles & Jones 1991, MNRAS 248, 1 (lognormal fields); McCullagh & Nelder 1989, Generalized Linear Models, section
        2.5 and chapter 8 (Fisher scoring; gamma distribution with logarithmic link, which is the distribution of the
        power of Gaussian modes).

    Friedman & Hassan (2022) have no such baseline; it is ours.
    """

    def __init__(self, degree: int = 2):
        if isinstance(degree, bool) or degree not in (0, 1, 2, 3):
            raise ValueError(f"`degree`: expected the degree of a polynomial from 0 to 3, got {degree!r}.")
        self.degree = int(degree)
        self.map_shape = self.wavenumber = self.modes = None
        self.parameter_low = self.parameter_high = None
        self._annulus = self._mean_weights = self._power_weights = None

    def fit(self, maps, parameters) -> "GaussianField":
        """Fit to training maps.

        Args:
            maps: Positive maps ``(n, height, width)`` in physical units: an array, an open HDF5 dataset, or what is
                read when it is sliced, such as `keras_cosmo.data.stored_maps.StoredMaps`. They are read once, in
                batches; what is kept of each is its power in every annulus.
            parameters: Parameters of each map, ``(n, n_parameters)``.

        Returns:
            This object.
        """
        shape = tuple(int(side) for side in np.shape(maps))
        if len(shape) != 3 or min(shape[1:], default=0) < 2:
            raise ValueError(f"`maps`: expected shape (n, height, width) of at least 2 x 2 cells, got {shape}.")
        table = _finite_rows("parameters", parameters)
        if len(table) != shape[0]:
            raise ValueError(f"`parameters`: expected one row per map, {shape[0]}, got {len(table)}.")
        low, high = table.min(axis=0), table.max(axis=0)
        constant = np.flatnonzero(high <= low)
        if constant.size and self.degree:
            raise ValueError(
                f"`parameters`: expected different values of every parameter, got {low[constant[0]]:g} in all rows of "
                f"column {constant[0]}; leave it out, or take degree 0."
            )
        basis = _polynomials(table, low, high, self.degree)
        rank = np.linalg.matrix_rank(basis)
        if rank < basis.shape[1] or shape[0] < basis.shape[1] + 2:
            raise ValueError(
                f"`parameters`: a polynomial of degree {self.degree} in {table.shape[1]} parameters has "
                f"{basis.shape[1]} coefficients, which {shape[0]} maps with {len(np.unique(table, axis=0))} different "
                f"parameter sets do not determine. Take more simulations or a lower degree."
            )
        annulus, weight, wavenumber, modes = _annuli(*shape[1:])
        mean, power, _ = _measure(maps, annulus, weight, modes)
        floor = (_ROUNDING * np.abs(mean).max()) ** 2
        empty = np.flatnonzero(~(power[:, 1:].max(axis=0) > floor))
        if empty.size:
            raise ValueError(
                f"`maps`: no map has power at {wavenumber[1 + empty[0]]:.4g} radians per cell; maps that are constant "
                f"or have no structure on some scale have no density."
            )
        power_weights = np.empty((basis.shape[1], len(modes)))
        power_weights[:, 1:] = _fit_log_power(basis, power[:, 1:])
        # Mean and variance of the mean depend on each other: weighted least squares in turn with the variance.
        variance = np.ones(shape[0])
        for _ in range(_STEPS):
            root = 1.0 / np.sqrt(variance)
            mean_weights = np.linalg.lstsq(basis * root[:, None], mean * root, rcond=None)[0]
            squares = (mean - basis @ mean_weights) ** 2
            if not squares.max() > (_ROUNDING * max(1.0, np.abs(mean).max())) ** 2:
                raise ValueError(
                    "`maps`: the mean of log10 of the maps is an exact function of the parameters, so that it has no "
                    "density; maps must not be normalised one by one."
                )
            power_weights[:, :1] = _fit_log_power(basis, shape[1] * shape[2] * squares[:, None])
            previous, variance = variance, np.exp(basis @ power_weights[:, 0])
            if np.abs(np.log(variance / previous)).max() < 1e-8:
                break
        self.map_shape, self.parameter_low, self.parameter_high = shape[1:], low, high
        self.wavenumber, self.modes = wavenumber, modes
        self._annulus, self._mean_weights, self._power_weights = annulus, mean_weights, power_weights
        return self

    def mean(self, parameters) -> np.ndarray:
        """Mean of log10 of the map, ``(n,)``, for parameters ``(n, n_parameters)``."""
        return self._basis(parameters) @ self._mean_weights

    def power(self, parameters) -> np.ndarray:
        """Mean power of the modes of each annulus, ``(n, n_annuli)``, for parameters ``(n, n_parameters)``.

        It is ``<|FFT|^2> / n_cells`` of log10 of the map without its mean, which for white noise is the variance of a
        cell: the power spectrum P(k) with cells of side 1. The first is k = 0, the variance of the mean of a map times
        the number of cells.
        """
        return np.exp(self._basis(parameters) @ self._power_weights)

    def variance(self, parameters) -> np.ndarray:
        """Variance of log10 of a cell about `mean`, ``(n,)``, for parameters ``(n, n_parameters)``."""
        return self.power(parameters) @ (self.modes / self.modes.sum())

    def sample(self, parameters, n: int = 1, seed: int = 0) -> np.ndarray:
        """Maps of given parameters.

        Args:
            parameters: ``(b, n_parameters)``.
            n: Maps for each row.
            seed: Seed of the draws.

        Returns:
            Physical maps ``(b, n, height, width)``, float64.
        """
        mean, power = self.mean(parameters), self.power(parameters)
        if isinstance(n, bool) or int(n) != n or n < 1:
            raise ValueError(f"`n`: expected a number of maps of at least 1, got {n!r}.")
        generator = np.random.default_rng(seed)
        maps = np.empty((len(mean), int(n), *self.map_shape))
        step = max(1, _BATCH_PIXELS // math.prod(self.map_shape))
        for image, level, spectrum in zip(maps, mean, power, strict=True):
            amplitude = np.sqrt(spectrum[self._annulus])
            for start in range(0, len(image), step):
                part = image[start : start + step]
                modes = np.fft.rfft2(generator.standard_normal(part.shape)) * amplitude
                # Infinite where the fit is so poor, far from the training, that no number is large enough.
                with np.errstate(over="ignore"):
                    part[...] = 10.0 ** (level + np.fft.irfft2(modes, s=self.map_shape))
        return maps

    def log_prob(self, maps, parameters) -> np.ndarray:
        """Natural logarithm of the density of physical maps, in nats: exact, with the Jacobian of log10.

        Args:
            maps: Positive maps ``(n, height, width)``.
            parameters: One row per map, ``(n, n_parameters)``.

        Returns:
            Shape ``(n,)``, in the inverse unit of the map to the power of the number of cells.
        """
        mean, power = self.mean(parameters), self.power(parameters)
        if len(mean) != len(maps):
            raise ValueError(f"`parameters`: expected one row per map, {len(maps)}, got {len(mean)}.")
        # Posteriors ask for one map with many parameters, row by row: it is transformed once.
        maps = np.asarray(maps)
        first = np.ones(len(maps), dtype=bool)
        first[1:] = (maps[1:] != maps[:-1]).any(axis=tuple(range(1, maps.ndim)))
        measured_mean, measured, jacobian = (values[np.cumsum(first) - 1] for values in self._measure(maps[first]))
        ratio = measured / power
        ratio[:, 0] = math.prod(self.map_shape) * (measured_mean - mean) ** 2 / power[:, 0]
        return -0.5 * ((np.log(2 * np.pi * power) + ratio) @ self.modes) + jacobian

    def log_prob_table(self, maps, parameters) -> np.ndarray:
        """`log_prob` of every map with every row of parameters, such as those of a grid for a posterior.

        Args:
            maps: Positive maps ``(n, height, width)``.
            parameters: ``(m, n_parameters)``.

        Returns:
            Shape ``(n, m)``. Every map is transformed once, so that this is far faster than `log_prob` of all pairs.
        """
        mean, power = self.mean(parameters), self.power(parameters)
        measured_mean, measured, jacobian = self._measure(maps)
        # A product of matrices for the annuli; for the mean it would be a difference of large numbers.
        table = -0.5 * (measured[:, 1:] @ (self.modes[1:] / power[:, 1:]).T)
        table += jacobian[:, None] - 0.5 * (np.log(2 * np.pi * power) @ self.modes)
        cells = math.prod(self.map_shape)
        for row, value in zip(table, measured_mean, strict=True):
            row -= 0.5 * cells * (value - mean) ** 2 / power[:, 0]
        return table

    def _basis(self, parameters) -> np.ndarray:
        if self.map_shape is None:
            raise ValueError("GaussianField is not fitted: call fit with the training part first.")
        table = _finite_rows("parameters", parameters)
        if table.shape[1] != len(self.parameter_low):
            raise ValueError(
                f"`parameters`: expected shape (n, {len(self.parameter_low)}) as fitted, got {table.shape}."
            )
        return _polynomials(table, self.parameter_low, self.parameter_high, self.degree)

    def _measure(self, maps):
        if np.ndim(maps) != 3 or np.shape(maps)[1:] != self.map_shape:
            raise ValueError(
                f"`maps`: expected shape (n, {', '.join(map(str, self.map_shape))}), got {np.shape(maps)}."
            )
        weight = _half_plane_weight(*self.map_shape)
        return _measure(maps, self._annulus, weight, self.modes)


def _measure(maps, annulus, weight, modes):
    """Of log10 of each map its mean, the power of each annulus, (n, n_annuli), and the logarithm of the Jacobian."""
    means, powers, jacobians = [], [], []
    cells = annulus.shape[0] * int(weight[0].sum())
    # Each row of the matrix averages over one annulus.
    matrix = np.zeros((annulus.size, len(modes)), dtype=np.float64)
    matrix[np.arange(annulus.size), annulus.ravel()] = weight.ravel() / (cells * modes[annulus.ravel()])
    for rows, batch in map_batches(maps):
        bad = np.flatnonzero(~(batch > 0).all(axis=(1, 2)))
        if bad.size:
            raise ValueError(
                f"`maps`: expected positive maps, of which there is a logarithm, got a pixel of "
                f"{batch[bad[0]].min():g} in map {rows.start + bad[0]}. Leave such maps out and count them, or add a "
                f"floor to all maps alike."
            )
        logarithm = np.log10(batch)
        mean = logarithm.mean(axis=(1, 2))
        transform = np.fft.rfft2(logarithm - mean[:, None, None])
        squares = (transform.real**2 + transform.imag**2).reshape(len(batch), -1)
        powers.append(squares @ matrix)
        means.append(mean)
        jacobians.append(-cells * (_LN10 * mean + math.log(_LN10)))
    return np.concatenate(means), np.concatenate(powers), np.concatenate(jacobians)


def _half_plane_weight(height: int, width: int) -> np.ndarray:
    """How often each mode of ``rfft2`` counts in the whole plane."""
    weight = np.full((height, width // 2 + 1), 2.0)
    weight[:, 0] = 1.0
    if width % 2 == 0:
        weight[:, -1] = 1.0
    return weight


def _annuli(height: int, width: int):
    """Annulus and weight of each mode of ``rfft2``, and mean |k| and number of modes of each annulus."""
    k = 2 * np.pi * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    annulus = np.rint(k * min(height, width) / (2 * np.pi)).astype(int)
    # On a long map the first annulus would hold more than k = 0.
    annulus[(annulus == 0) & (k > 0)] = 1
    _, annulus = np.unique(annulus, return_inverse=True)
    annulus = annulus.reshape(k.shape)
    weight = _half_plane_weight(height, width)
    modes = np.bincount(annulus.ravel(), weight.ravel())
    return annulus, weight, np.bincount(annulus.ravel(), (k * weight).ravel()) / modes, modes


def _polynomials(table: np.ndarray, low: np.ndarray, high: np.ndarray, degree: int) -> np.ndarray:
    """All products of at most ``degree`` parameters, each scaled to [-1, 1]: (n, n_coefficients)."""
    scaled = (2 * table - low - high) / np.where(high > low, high - low, 1.0)
    columns = [np.ones(len(table))]
    for order in range(1, degree + 1):
        for factors in itertools.combinations_with_replacement(range(table.shape[1]), order):
            columns.append(np.prod(scaled[:, factors], axis=1))
    return np.stack(columns, axis=1)


def _fit_log_power(basis: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Coefficients of ``ln P``, (n_coefficients, n_annuli), with the largest likelihood of the measured power.

    The power of Gaussian modes is gamma distributed; with a logarithmic link every step is a plain regression of
    ``power / P - 1``, and the likelihood is concave. An average of ``ln power`` would be biased where modes are few.
    """
    typical = power.mean(axis=0)
    solve = np.linalg.pinv(basis)
    start = solve @ np.log(np.maximum(power, 1e-6 * typical))
    start[0] += np.log(np.mean(power * np.exp(-basis @ start), axis=0))
    weights = start

    def loss(weights):
        exponent = basis @ weights
        return np.mean(power * np.exp(-exponent) + exponent, axis=0)

    best = loss(weights)
    for _ in range(_STEPS):
        step = solve @ (power * np.exp(-basis @ weights) - 1.0)
        # Longer steps than this overshoot where the start is far off.
        step /= np.maximum(1.0, np.abs(basis @ step).max(axis=0))
        share = np.ones(power.shape[1])
        for _ in range(30):
            value = loss(weights + share * step)
            worse = value > best + 1e-12 * np.abs(best)
            if not worse.any():
                break
            share = np.where(worse, share / 2, share)
        weights, best = weights + share * step, value
        if np.abs(basis @ (share * step)).max() < _TOLERANCE:
            break
    return weights


def _finite_rows(argument: str, values) -> np.ndarray:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(f"`{argument}`: expected shape (n, n_parameters), nothing empty, got {table.shape}.")
    if not np.isfinite(table).all():
        raise ValueError(f"`{argument}`: expected finite values, got NaN or infinity.")
    return table
