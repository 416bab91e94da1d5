"""Losses in physical units, differentiable, written in ``keras.ops``, and metrics that follow their terms."""

import math

import keras
import numpy as np
from keras import ops

CORRELATION_ESTIMATORS = ("modes", "bands")
MOMENT_GRADIENTS = ("moments", "paper")
# Multipoles this close to an edge lie on it, whatever way they were rounded.
_EDGE_TOLERANCE = 1e-9
# A mode whose amplitude is below this many rounding errors of the map has no phase to speak of.
_ROUNDING = 32


@keras.saving.register_keras_serializable("keras_cosmo")
class StandardizedMeanSquaredError(keras.losses.Loss):
    """Mean squared error of quantities in physical units, each in units of its own standard deviation.

    Networks of this package take and return physical units, so that a saved model needs no companion
    file. The loss divides the residual by the standard deviation that the training targets have, which
    makes it the mean squared error between standardised quantities (Gillet et al. 2019, section 3.3):

    ``loss = mean over parameters of ((y_pred - y_true) / standard_deviation)**2``

    Args:
        standard_deviation: Sequence of positive floats, one per parameter, in the parameter's unit.
        reduction: As in ``keras.losses.Loss``.
        name: Name of the loss.

    Call arguments:
        y_true, y_pred: Tensors of shape ``(batch, parameters)``, physical units.

    Raises:
        ValueError: If a standard deviation is not positive and finite.

    Example:
        >>> loss = StandardizedMeanSquaredError([10.0, 0.5])
        >>> float(loss([[100.0, 40.0]], [[110.0, 40.5]]))
        1.0
    """

    def __init__(
        self,
        standard_deviation,
        reduction="sum_over_batch_size",
        name="standardized_mean_squared_error",
        **kwargs,
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.standard_deviation = [float(value) for value in standard_deviation]
        if not all(0 < value < float("inf") for value in self.standard_deviation):
            raise ValueError(
                "StandardizedMeanSquaredError: expected positive finite `standard_deviation` for every parameter, "
                f"got {self.standard_deviation}. A parameter that never varies cannot be learned: leave it out."
            )

    def call(self, y_true, y_pred):
        """Squared standardised residual, averaged over the last axis: ``(batch, n)`` -> ``(batch,)``."""
        y_pred = ops.convert_to_tensor(y_pred)
        y_true = ops.cast(y_true, y_pred.dtype)
        residual = (y_pred - y_true) / ops.convert_to_tensor(self.standard_deviation, dtype=y_pred.dtype)
        return ops.mean(ops.square(residual), axis=-1)

    def get_config(self):
        """Configuration that rebuilds the loss."""
        return {**super().get_config(), "standard_deviation": self.standard_deviation}


@keras.saving.register_keras_serializable("keras_cosmo")
class CorrelationLoss(keras.losses.Loss):
    """One minus the correlation in bands of multipoles, and the mean absolute difference (Zhang et al. 2019, eq. 2.3).

    ``loss = correlation_weight * sum over bands of (1 - r) + mean over pixels of |T - T'| / difference_unit``

    for every cutout, with the true dust T and the prediction T', both times the mask. With the default estimator r is
    the average over the Fourier modes of the band of ``Re(T T'*) / (|T| |T'|)``, which needs only the phases: the paper
    computes "the cross-correlation coefficients on individual Fourier modes first" (section 2). The sky is taken as
    flat, the multipole of a mode is ``ell = 2 pi / wavelength``, and the mean of a cutout (ell = 0) never enters.
    A mode in which T or T' has no power, down to rounding, counts as r = 0 and sends no gradient, so that a cutout
    without any dust, or a prediction that is the same everywhere, has a loss of ``correlation_weight`` per band.

    Args:
        pixel_size: Side of a pixel, arcmin; the paper's is 23.4.
        bands: Pairs ``(lowest, highest)`` of multipoles, ``lowest <= ell < highest``. None for the lowest is the
            fundamental mode of the cutout, 360 degrees over its longer side, and for the highest no limit. Defaults
            to the paper's, whose correlations it calls r50 and r150.
        correlation_weight: The paper's lambda. Defaults to 30: with T in the unit of ``difference_unit``, the paper
            finds no gain above it (section 2.3 and appendix B).
        difference_unit: Intensity that counts as 1 in the second term, uK_RJ. Defaults to 1.
        estimator: "modes" as above, or "bands" for ``sum Re(T T'*) / sqrt(sum |T|^2 sum |T'|^2)`` over the modes of
            the band, in which bright modes count more.
        mean_subtracted: Whether the mean over the unmasked pixels is taken off T and T' before they are transformed,
            so that the mask does not imprint its own pattern times that mean. Defaults to False, as in the paper.
        reduction, name, dtype: As in ``keras.losses.Loss``. Less than float32 is computed in float32.

    Call arguments:
        y_true: ``(batch, height, width, 2)``: dust times mask, uK_RJ, and the mask, 0 to 1.
        y_pred: ``(batch, height, width, 1)``: predicted dust, uK_RJ, not yet multiplied by the mask.

    Raises:
        ValueError: If an argument is out of range; on call, if the shapes are others, height or width is unknown, or a
            band contains no mode of such cutouts.

    Example:
        >>> loss = CorrelationLoss(pixel_size=23.4, difference_unit=100.0)
        >>> dust = np.random.default_rng(0).gamma(2.0, 100.0, (1, 64, 64, 1))
        >>> target = np.concatenate([dust, np.ones_like(dust)], axis=-1)
        >>> round(float(loss(target, dust + 50.0)), 4)
        0.5

    Reference:
        Zhang, Chiang, Sheehy, Slosar & Wang 2019 (arXiv:1904.13265), section 2, equations 2.1 and 2.3.

    The difference is a mean over all pixels of the cutout, masked ones included, as in the paper: there it is 0.
    Deviations from the paper: none with the defaults. ``difference_unit``, other bands, "bands" and
    ``mean_subtracted`` are ours.
    """

    def __init__(
        self,
        pixel_size,
        bands=((None, 100.0), (100.0, 200.0)),
        correlation_weight=30.0,
        difference_unit=1.0,
        estimator="modes",
        mean_subtracted=False,
        reduction="sum_over_batch_size",
        name="correlation_loss",
        **kwargs,
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.pixel_size = _positive("pixel_size", pixel_size, "arcmin")
        self.bands = _check_bands(bands)
        self.correlation_weight = _number("correlation_weight", correlation_weight)
        if not 0 <= self.correlation_weight < math.inf:
            raise ValueError(f"`correlation_weight`: expected a finite number of at least 0, got {correlation_weight}.")
        self.difference_unit = _positive("difference_unit", difference_unit, "uK_RJ")
        self.estimator = _check_estimator(estimator)
        self.mean_subtracted = bool(mean_subtracted)

    def call(self, y_true, y_pred):
        """Loss of every cutout, ``(batch,)``."""
        true, predicted, mask = _masked_maps(y_true, y_pred)
        correlations = _correlations(
            true, predicted, mask, self.pixel_size, self.bands, self.estimator, self.mean_subtracted
        )
        difference = ops.mean(ops.abs(true - predicted), axis=(1, 2)) / self.difference_unit
        return self.correlation_weight * ops.sum(1.0 - correlations, axis=-1) + difference

    def metrics(self):
        """Its terms one by one, for ``Model.compile(loss=loss, metrics=loss.metrics())``.

        Returns:
            A `CorrelationMetric` for each band, called "r50" and "r150" with the default bands, after the middle of
            the band (counted from 0, as in the paper), and a `MaskedDifference`, called "difference".
        """
        return [
            *(
                CorrelationMetric(self.pixel_size, band, self.estimator, self.mean_subtracted, name=_band_name(band))
                for band in self.bands
            ),
            MaskedDifference(self.difference_unit),
        ]

    def get_config(self):
        """Configuration that rebuilds the loss."""
        return {
            **super().get_config(),
            "pixel_size": self.pixel_size,
            "bands": self.bands,
            "correlation_weight": self.correlation_weight,
            "difference_unit": self.difference_unit,
            "estimator": self.estimator,
            "mean_subtracted": self.mean_subtracted,
        }


@keras.saving.register_keras_serializable("keras_cosmo")
class CorrelationMetric(keras.metrics.Mean):
    """Mean over cutouts of the correlation in one band of multipoles, the r of `CorrelationLoss`.

    Args:
        pixel_size: Side of a pixel, arcmin.
        band: Pair ``(lowest, highest)`` of multipoles, as in `CorrelationLoss`. Defaults to the paper's r50.
        estimator: "modes" or "bands", as there.
        mean_subtracted: As there.
        name, dtype: As in ``keras.metrics.Metric``. The name defaults to "r" and the middle of the band.

    Raises:
        ValueError: As `CorrelationLoss`.

    Example:
        >>> metric = CorrelationMetric(23.4, (100, 200))
        >>> metric.name
        'r150'
    """

    def __init__(self, pixel_size, band=(None, 100.0), estimator="modes", mean_subtracted=False, name=None, dtype=None):
        (self.band,) = _check_bands([band])
        super().__init__(name=name or _band_name(self.band), dtype=dtype)
        self.pixel_size = _positive("pixel_size", pixel_size, "arcmin")
        self.estimator = _check_estimator(estimator)
        self.mean_subtracted = bool(mean_subtracted)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add the cutouts of a batch; shapes as in `CorrelationLoss`."""
        maps = _masked_maps(y_true, y_pred)
        values = _correlations(*maps, self.pixel_size, (self.band,), self.estimator, self.mean_subtracted)
        super().update_state(values[:, 0], sample_weight)

    def get_config(self):
        """Configuration that rebuilds the metric."""
        return {
            **super().get_config(),
            "pixel_size": self.pixel_size,
            "band": self.band,
            "estimator": self.estimator,
            "mean_subtracted": self.mean_subtracted,
        }


@keras.saving.register_keras_serializable("keras_cosmo")
class MaskedDifference(keras.metrics.Mean):
    """Mean over pixels of ``|T - T'| / difference_unit``, the second term of `CorrelationLoss`.

    Both maps are multiplied by the mask.

    Args:
        difference_unit: Intensity that counts as 1, uK_RJ. Defaults to 1.
        name, dtype: As in ``keras.metrics.Metric``.

    Raises:
        ValueError: As `CorrelationLoss`.
    """

    def __init__(self, difference_unit=1.0, name="difference", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.difference_unit = _positive("difference_unit", difference_unit, "uK_RJ")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add the cutouts of a batch; shapes as in `CorrelationLoss`."""
        true, predicted, _ = _masked_maps(y_true, y_pred)
        values = ops.mean(ops.abs(true - predicted), axis=(1, 2)) / self.difference_unit
        super().update_state(values, sample_weight)

    def get_config(self):
        """Configuration that rebuilds the metric."""
        return {**super().get_config(), "difference_unit": self.difference_unit}


@keras.saving.register_keras_serializable("keras_cosmo")
class MomentLoss(keras.losses.Loss):
    """Loss whose minimum is the posterior mean and standard deviation (moment network; Jeffrey & Wandelt 2020).

    ``loss = sum over parameters of log(mean (m - t)^2) + log(mean ((m - t)^2 - s^2)^2)``

    with the true parameter t, the predicted mean m and standard deviation s, and means over the batch (Villaescusa-
    Navarro et al. 2022, who sum: a batch of n then adds ``2 log n`` per parameter). The logarithms weigh parameters and
    terms alike, whatever their size.

    As a formula for gradients the logarithm of a batch has two faults. In a small batch the few large residuals are
    also what the sum is divided by: for a Gaussian posterior the s of the smallest expected loss is 0.80, 0.89, 0.94
    and 0.97 of the true one with batches of 8, 16, 32 and 64 (0.99 with 128). And the second term pulls the mean of
    a skewed posterior away from where it should be. So by default the value is that of the formula, but the gradient
    is that of ``(m - t)^2 / (mean s^2)`` and, with m held fixed, ``((m - t)^2 - s^2)^2 / (2 mean s^4)``, with the
    divisors held fixed, too. They are what the sums would be for a Gaussian posterior, so the terms weigh the same,
    and the minimum lies at the posterior mean and standard deviation for every size of batch and posterior.

    Args:
        standard_deviation: Sequence of positive floats, one per parameter, in the parameter's unit, such as of the
            prior or the training targets. It only says what counts as small in ``floor``.
        gradient: "moments" as above, or "paper" for the gradient of the formula itself.
        floor: Added inside the first logarithm in units of ``standard_deviation**2``, and its square inside the second
            one, so that value and gradient are finite for batches without any residual, even those of a single map.
            Defaults to 1e-6, a residual of a thousandth of ``standard_deviation``.
        reduction, name, dtype: As in ``keras.losses.Loss``. The loss of a batch is one number, so that no reduction
            changes it. Less than float32 is computed in float32.

    Call arguments:
        y_true: ``(batch, parameters)``, physical units.
        y_pred: ``(batch, 2 * parameters)``, physical units: first the means, then the standard deviations.

    Raises:
        ValueError: If an argument is out of range; on call, if the shapes are others or with ``sample_weight``.

    Example:
        >>> loss = MomentLoss([1.0])
        >>> round(float(loss([[0.0], [0.0]], [[2.0, 1.0], [-2.0, 1.0]])), 4)  # log 4 + log 9
        3.5835

    Reference:
        Jeffrey & Wandelt 2020 (arXiv:2011.05991); Villaescusa-Navarro et al. 2022, ApJS 259, 61 (arXiv:2109.10915),
        on the CAMELS Multifield Dataset.

    Deviations from the papers: means for sums, the floor, and the gradient unless ``gradient="paper"``.
    """

    def __init__(
        self,
        standard_deviation,
        gradient="moments",
        floor=1e-6,
        reduction="sum_over_batch_size",
        name="moment_loss",
        **kwargs,
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        values = tuple(standard_deviation) if hasattr(standard_deviation, "__iter__") else (standard_deviation,)
        self.standard_deviation = [_positive("standard_deviation", value, "the parameter's unit") for value in values]
        if not self.standard_deviation:
            raise ValueError("`standard_deviation`: expected one per parameter, got none.")
        if gradient not in MOMENT_GRADIENTS:
            raise ValueError(f"`gradient`: expected one of {list(MOMENT_GRADIENTS)}, got {gradient!r}.")
        self.gradient = gradient
        self.floor = _positive("floor", floor, "standard_deviation**2")

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Loss of a batch, one number."""
        if sample_weight is not None:
            raise ValueError("`sample_weight`: MomentLoss has one value for the whole batch and takes no weights.")
        return super().__call__(y_true, y_pred)

    def call(self, y_true, y_pred):
        """Loss of a batch, one number."""
        y_pred = ops.convert_to_tensor(y_pred)
        y_true = ops.convert_to_tensor(y_true)
        count = len(self.standard_deviation)
        if len(y_pred.shape) != 2 or y_pred.shape[1] != 2 * count or tuple(y_true.shape[1:]) != (count,):
            raise ValueError(
                f"MomentLoss of {count} parameters: expected `y_true` of shape (batch, {count}) and `y_pred` of shape "
                f"(batch, {2 * count}), means and then standard deviations, got {tuple(y_true.shape)} and "
                f"{tuple(y_pred.shape)}."
            )
        dtype = keras.backend.result_type(y_pred.dtype, "float32")
        unit = ops.convert_to_tensor(self.standard_deviation, dtype=dtype)
        y_pred = ops.cast(y_pred, dtype)
        residual = (y_pred[:, :count] - ops.cast(y_true, dtype)) / unit
        variance = ops.square(y_pred[:, count:] / unit)
        squares = ops.square(residual)
        if self.gradient == "paper":
            first, second = (ops.mean(term, axis=0) for term in (squares, ops.square(squares - variance)))
            return ops.sum(ops.log(first + self.floor) + ops.log(second + self.floor**2))
        fixed = ops.stop_gradient(variance)
        first = ops.mean(squares, axis=0)
        second = ops.mean(ops.square(ops.stop_gradient(squares) - variance), axis=0)
        slope = first / (ops.mean(fixed, axis=0) + self.floor)
        slope += second / (2.0 * ops.mean(ops.square(fixed), axis=0) + self.floor**2)
        value = ops.log(first + self.floor) + ops.log(second + self.floor**2)
        # The value of the second expression with the gradient of the first.
        return ops.sum(slope + ops.stop_gradient(value - slope))

    def get_config(self):
        """Configuration that rebuilds the loss."""
        return {
            **super().get_config(),
            "standard_deviation": self.standard_deviation,
            "gradient": self.gradient,
            "floor": self.floor,
        }


def _masked_maps(y_true, y_pred):
    """True and predicted maps, both times the mask, and the mask, each (batch, height, width), at least float32."""
    y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
    if len(y_true.shape) != 4 or y_true.shape[-1] != 2:
        raise ValueError(
            "`y_true`: expected (batch, height, width, 2), the dust times the mask and the mask, got the shape "
            f"{tuple(y_true.shape)}."
        )
    if len(y_pred.shape) != 4 or y_pred.shape[-1] != 1:
        raise ValueError(f"`y_pred`: expected (batch, height, width, 1), got the shape {tuple(y_pred.shape)}.")
    dtype = "float64" if keras.backend.standardize_dtype(y_pred.dtype) == "float64" else "float32"
    y_true, y_pred = ops.cast(y_true, dtype), ops.cast(y_pred, dtype)
    mask = y_true[..., 1]
    return y_true[..., 0], y_pred[..., 0] * mask, mask


def _correlations(true, predicted, mask, pixel_size, bands, estimator, mean_subtracted):
    """Correlation of every map in every band, (batch, n_bands)."""
    dtype = keras.backend.standardize_dtype(predicted.dtype)
    matrices = [ops.convert_to_tensor(matrix, dtype=dtype) for matrix in _transform(true.shape[1:], pixel_size, bands)]
    weights = matrices.pop()
    modes = [_modes(maps, mask, matrices, mean_subtracted) for maps in (true, predicted)]
    (true_real, true_imaginary), (real, imaginary) = modes
    cross = true_real * real + true_imaginary * imaginary
    true_power = ops.square(true_real) + ops.square(true_imaginary)
    power = ops.square(real) + ops.square(imaginary)
    if estimator == "bands":
        cross, true_power, power = (
            ops.sum(values[:, None] * weights, axis=-1) for values in (cross, true_power, power)
        )
    floor = (_ROUNDING * float(np.finfo(dtype).eps)) ** 2 * true.shape[1] * true.shape[2]
    there = ops.logical_and(true_power > floor, power > floor)
    # The second `where` alone would still send the gradient 0 * infinity.
    norm = ops.sqrt(ops.where(there, true_power, 1.0)) * ops.sqrt(ops.where(there, power, 1.0))
    correlations = ops.where(there, cross / norm, 0.0)
    if estimator == "modes":
        correlations = ops.sum(correlations[:, None] * weights, axis=-1)
    return correlations


def _modes(maps, mask, matrices, mean_subtracted):
    """Real and imaginary parts of the Fourier modes of each map, (batch, n_modes), in units of its largest value."""
    cos_x, sin_x, cos_y, sin_y = matrices
    # A constant factor and, without k = 0, a constant offset change no correlation, so neither needs a gradient.
    largest = ops.stop_gradient(ops.max(ops.abs(maps), axis=(1, 2), keepdims=True))
    maps = maps / ops.where(largest > 0, largest, 1.0)
    if mean_subtracted:
        area = ops.sum(mask, axis=(1, 2), keepdims=True)
        maps = maps - mask * (ops.sum(maps, axis=(1, 2), keepdims=True) / ops.where(area > 0, area, 1.0))
    maps = maps - ops.stop_gradient(ops.mean(maps, axis=(1, 2), keepdims=True))
    cos, sin = ops.matmul(maps, cos_x), ops.matmul(maps, sin_x)
    real = ops.matmul(cos_y, cos) - ops.matmul(sin_y, sin)
    imaginary = -(ops.matmul(sin_y, cos) + ops.matmul(cos_y, sin))
    number = cos_y.shape[0] * cos_x.shape[1]
    return ops.reshape(real, (-1, number)), ops.reshape(imaginary, (-1, number))


def _transform(shape, pixel_size, bands):
    """Matrices that take maps to the Fourier modes of the bands.

    Returns:
        Cosines and sines for the columns, ``(width, n_x)``, and for the rows, ``(n_y, height)``, of the half plane of
        ``numpy.fft.rfft2``; and the share of each mode in the average over the whole plane, ``(n_bands, n_y * n_x)``.
    """
    if len(shape) != 2 or None in shape:
        raise ValueError(f"The correlation needs maps of known height and width, got {tuple(shape)}.")
    height, width = shape
    rows, columns = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    full_circle = 360.0 * 60.0 / pixel_size
    ell = full_circle * np.hypot(rows[:, None], columns)
    # The half plane lacks the conjugates of all columns but the first and, for an even width, the last.
    count = np.full(ell.shape, 2.0)
    count[:, (columns == 0) | (columns == 0.5)] = 1.0
    weights = []
    for low, high in bands:
        inside = (ell > 0) & (ell >= (low or 0.0) * (1 - _EDGE_TOLERANCE))
        inside &= ell < (math.inf if high is None else high * (1 - _EDGE_TOLERANCE))
        if not inside.any():
            raise ValueError(
                f"`bands`: no Fourier mode of maps of {height} x {width} pixels of {pixel_size:g} arcmin lies in "
                f"{(low, high)}; their multipoles go from {full_circle / max(height, width):.4g} to {ell.max():.4g}."
            )
        weights.append(np.where(inside, count, 0.0) / count[inside].sum())
    weights = np.array(weights)
    used_rows, used_columns = weights.any(axis=(0, 2)), weights.any(axis=(0, 1))
    angle_x = 2 * np.pi * np.outer(np.arange(width), columns[used_columns])
    angle_y = 2 * np.pi * np.outer(rows[used_rows], np.arange(height))
    weights = weights[:, used_rows][:, :, used_columns].reshape(len(weights), -1)
    return np.cos(angle_x), np.sin(angle_x), np.cos(angle_y), np.sin(angle_y), weights


def _check_bands(bands):
    """Bands as tuples of plain floats or None."""
    bands = tuple(bands) if hasattr(bands, "__iter__") else ()
    if not bands or any(not hasattr(band, "__len__") or isinstance(band, str) or len(band) != 2 for band in bands):
        raise ValueError(
            f"`bands`: expected pairs of multipoles such as ((None, 100), (100, 200)), got {bands or 'none'}."
        )
    checked = []
    for low, high in bands:
        band = tuple(None if edge is None else _number("bands", edge) for edge in (low, high))
        first, last = (0.0 if band[0] is None else band[0]), (math.inf if band[1] is None else band[1])
        if not 0 <= first < last:
            raise ValueError(f"`bands`: expected 0 <= lowest < highest multipole, or None, got {(low, high)}.")
        checked.append(band)
    return tuple(checked)


def _band_name(band):
    """Such as "r50" for a band up to 100 and "r150" for 100 to 200."""
    low, high = band
    return f"r_from_{low or 0:g}" if high is None else f"r{((low or 0.0) + high) / 2:g}"


def _check_estimator(estimator):
    if estimator not in CORRELATION_ESTIMATORS:
        raise ValueError(f"`estimator`: expected one of {list(CORRELATION_ESTIMATORS)}, got {estimator!r}.")
    return estimator


def _number(argument, value):
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"`{argument}`: expected a number, got {value!r}.") from None


def _positive(argument, value, unit):
    number = _number(argument, value)
    if not 0 < number < math.inf:
        raise ValueError(f"`{argument}`: expected a positive, finite number of {unit}, got {value!r}.")
    return number
