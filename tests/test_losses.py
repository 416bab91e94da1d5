import checks
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.losses import (
    CorrelationLoss,
    CorrelationMetric,
    MaskedDifference,
    MomentLoss,
    StandardizedMeanSquaredError,
)


def test_by_hand():
    # ((10/10)^2 + (1/0.5)^2) / 2 and ((0)^2 + (0.5/0.5)^2) / 2, averaged.
    loss = StandardizedMeanSquaredError([10.0, 0.5])
    checks.check_loss(loss, [[100.0, 40.0], [50.0, 41.0]], [[110.0, 41.0], [50.0, 40.5]], (2.5 + 0.5) / 2)


def test_is_mean_squared_error_of_standardised_quantities():
    generator = np.random.default_rng(1)
    true, predicted, scale = generator.normal(size=(50, 3)), generator.normal(size=(50, 3)), np.array([0.1, 2.0, 30.0])
    expected = np.mean(((predicted - true) / scale) ** 2)
    checks.check_loss(StandardizedMeanSquaredError(scale), true, predicted, expected)


@pytest.mark.parametrize("scale", [[0.0, 1.0], [-1.0], [float("nan")], [float("inf")]])
def test_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="positive finite `standard_deviation`"):
        StandardizedMeanSquaredError(scale)


PIXEL = 23.4
BANDS = ((None, 100.0), (100.0, 200.0))


def dust_maps(count=3, height=64, width=64, seed=0):
    """Smooth true and predicted dust with a common part and a mean, and a mask of which a tenth is 0."""
    generator = np.random.default_rng(seed)
    shape = (count, height, width)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    common, first, second = (
        np.fft.ifft2(np.fft.fft2(generator.normal(size=shape)) / (0.03 + frequency)).real for _ in range(3)
    )
    mask = (generator.uniform(size=shape) > 0.1).astype(float)
    true, predicted = 50.0 + common + 0.5 * first, 40.0 + common + 0.5 * second
    return np.stack([true * mask, mask], axis=-1), predicted[..., None]


def correlations(true, predicted, bands, estimator, pixel=PIXEL):
    """From NumPy's transform, every mode of the whole plane once, (count, n_bands)."""
    ell = 360 / (pixel / 60) * np.hypot(np.fft.fftfreq(true.shape[1])[:, None], np.fft.fftfreq(true.shape[2]))
    true, predicted = np.fft.fft2(true), np.fft.fft2(predicted)
    found = []
    for low, high in bands:
        inside = (ell > 0) & (ell >= (low or 0)) & (ell < (high or np.inf))
        a, b = true[:, inside], predicted[:, inside]
        if estimator == "modes":
            found.append(((a * b.conj()).real / (abs(a) * abs(b))).mean(axis=1))
        else:
            power = (abs(a) ** 2).sum(axis=1) * (abs(b) ** 2).sum(axis=1)
            found.append((a * b.conj()).real.sum(axis=1) / np.sqrt(power))
    return np.array(found).T


def expected_loss(y_true, y_pred, bands=BANDS, weight=30.0, unit=1.0, estimator="modes"):
    true, predicted = y_true[..., 0], y_pred[..., 0] * y_true[..., 1]
    r = correlations(true, predicted, bands, estimator)
    return weight * (1 - r).sum(axis=1) + abs(true - predicted).mean(axis=(1, 2)) / unit


@pytest.mark.parametrize("estimator", ["modes", "bands"])
def test_correlation_loss_equals_numpy(estimator):
    y_true, y_pred = dust_maps()
    expected = expected_loss(y_true, y_pred, unit=7.0, estimator=estimator)
    loss = CorrelationLoss(PIXEL, difference_unit=7.0, estimator=estimator)
    np.testing.assert_allclose(loss.call(y_true, y_pred), expected, rtol=1e-12)
    checks.check_loss(loss, y_true, y_pred, expected.mean())
    single = loss.call(y_true.astype("float32"), y_pred.astype("float32"))
    assert keras.backend.standardize_dtype(single.dtype) == "float32"
    np.testing.assert_allclose(single, expected, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 15), (9, 8), (7, 20)])
@pytest.mark.parametrize("estimator", ["modes", "bands"])
def test_every_mode_counts_once(height, width, estimator):
    """Bands up to the highest mode, where a conjugate is in the half plane, outside of it, or the mode itself."""
    y_true, y_pred = dust_maps(2, height, width)
    bands = ((None, None), (300.0, None), (None, 300.0), (250.0, 640.0))
    loss = CorrelationLoss(PIXEL, bands, estimator=estimator)
    expected = expected_loss(y_true, y_pred, bands, estimator=estimator)
    np.testing.assert_allclose(loss.call(y_true, y_pred), expected, rtol=1e-10)


def test_lowest_multipole_is_in_the_band_that_begins_there():
    y_true, y_pred = dust_maps(2)
    fundamental = 360 / (64 * PIXEL / 60)
    assert fundamental == pytest.approx(14.4, abs=0.03)
    first = CorrelationLoss(PIXEL, ((fundamental, 100), (100, 200))).call(y_true, y_pred)
    np.testing.assert_array_equal(first, CorrelationLoss(PIXEL).call(y_true, y_pred))


def test_equal_maps_differ_by_the_second_term_only():
    """Rescaled or shifted by a constant, a map without a mask still correlates perfectly; turned over, it does not."""
    y_true, _ = dust_maps(1)
    y_true[..., 1] = 1.0
    dust = y_true[..., :1]
    loss = CorrelationLoss(PIXEL, correlation_weight=10.0, difference_unit=2.0)
    assert float(loss(y_true, dust)) == pytest.approx(0, abs=1e-4)
    assert float(loss(y_true, dust + 4)) == pytest.approx(2, abs=1e-4)
    assert float(loss(y_true, 3 * dust)) == pytest.approx(abs(dust).mean(), rel=1e-5)
    assert float(loss(y_true, -dust)) == pytest.approx(40 + abs(dust).mean(), rel=1e-5)


def test_masked_pixels_of_the_prediction_do_not_matter():
    y_true, y_pred = dust_maps()
    other = np.where(y_true[..., 1:] > 0, y_pred, 1e6)
    loss = CorrelationLoss(PIXEL)
    np.testing.assert_array_equal(loss.call(y_true, y_pred), loss.call(y_true, other))


def test_mean_subtracted():
    """Without the means of the unmasked pixels, a constant added to either map changes no correlation."""
    y_true, y_pred = dust_maps()
    mask = y_true[..., 1]
    loss = CorrelationLoss(PIXEL, mean_subtracted=True, correlation_weight=1.0)

    def correlation(true, predicted):
        difference = abs(true[..., 0] - predicted[..., 0] * mask).mean(axis=(1, 2))
        return 2 - (np.asarray(loss.call(true, predicted)) - difference)

    maps = []
    for values in (y_true[..., 0], y_pred[..., 0]):
        mean = (values * mask).sum(axis=(1, 2), keepdims=True) / mask.sum(axis=(1, 2), keepdims=True)
        maps.append((values - mean) * mask)
    expected = correlations(*maps, BANDS, "modes").sum(axis=1)
    np.testing.assert_allclose(correlation(y_true, y_pred), expected, rtol=1e-9)
    np.testing.assert_allclose(correlation(y_true, y_pred + 1000), expected, rtol=1e-9)
    assert abs(correlations(y_true[..., 0], y_pred[..., 0] * mask, BANDS, "modes").sum(axis=1) - expected).max() > 0.01


@pytest.mark.parametrize("estimator", ["modes", "bands"])
@pytest.mark.parametrize("mean_subtracted", [False, True])
def test_gradient_equals_finite_differences(estimator, mean_subtracted):
    y_true, y_pred = (tf.constant(values) for values in dust_maps(2, 16, 12))
    loss = CorrelationLoss(
        PIXEL, ((None, 200), (200, 500)), estimator=estimator, mean_subtracted=mean_subtracted, dtype="float64"
    )
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        value = loss(y_true, y_pred)
    gradient = tape.gradient(value, y_pred)
    generator = np.random.default_rng(4)
    for _ in range(5):
        direction = generator.normal(size=y_pred.shape)
        step = 1e-5 * direction
        slope = (float(loss(y_true, y_pred + step)) - float(loss(y_true, y_pred - step))) / 2e-5
        assert float(tf.reduce_sum(gradient * direction)) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("estimator", ["modes", "bands"])
@pytest.mark.parametrize("mean_subtracted", [False, True])
def test_maps_without_power(estimator, mean_subtracted, dtype):
    """All-zero and constant predictions, a cutout that is all masked, and one without dust: r = 0, finite slopes."""
    y_true, y_pred = (values[:1] for values in dust_maps())
    unmasked = np.concatenate([y_true[..., :1], np.ones_like(y_pred)], axis=-1)
    trues = np.concatenate([y_true, unmasked, np.zeros_like(y_true), unmasked * [0, 1]])
    predictions = np.concatenate([np.zeros_like(y_pred), np.full_like(y_pred, 70.1), y_pred, y_pred])
    trues, predictions = tf.constant(trues, dtype), tf.constant(predictions, dtype)
    loss = CorrelationLoss(PIXEL, estimator=estimator, mean_subtracted=mean_subtracted, dtype=dtype)
    with tf.GradientTape() as tape:
        tape.watch(predictions)
        values = loss.call(trues, predictions)
    difference = abs(trues[..., 0] - predictions[..., 0] * trues[..., 1]).numpy().mean(axis=(1, 2))
    np.testing.assert_allclose(values, 60 + difference, rtol=1e-5)
    gradient = tape.gradient(values, predictions).numpy()
    assert np.isfinite(gradient).all()
    assert (abs(gradient) <= 1.001 / 64**2).all()
    assert (gradient[2] == 0).all()


def test_tiny_and_huge_units():
    """Squares of which would leave the range of float32."""
    y_true, y_pred = dust_maps()
    expected = CorrelationLoss(PIXEL).call(y_true, y_pred)
    for unit in (1e-25, 1e25):
        loss = CorrelationLoss(PIXEL, difference_unit=unit)
        scaled = (y_true * [unit, 1]).astype("float32"), (y_pred * unit).astype("float32")
        np.testing.assert_allclose(loss.call(*scaled), expected, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_single(dtype):
    y_true, y_pred = (tf.cast(values, dtype) for values in dust_maps())
    value = CorrelationLoss(PIXEL).call(y_true, y_pred)
    assert value.dtype == tf.float32
    expected = CorrelationLoss(PIXEL).call(tf.cast(y_true, "float64"), tf.cast(y_pred, "float64"))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_terms_are_followed_one_by_one():
    y_true, y_pred = (values.astype("float32") for values in dust_maps(5))
    loss = CorrelationLoss(PIXEL, difference_unit=3.0)
    metrics = loss.metrics()
    assert [metric.name for metric in metrics] == ["r50", "r150", "difference"]
    for rows in (slice(0, 2), slice(2, 5)):
        for metric in metrics:
            metric.update_state(y_true[rows], y_pred[rows])
    r50, r150, difference = (float(metric.result()) for metric in metrics)
    expected = correlations(y_true[..., 0], y_pred[..., 0] * y_true[..., 1], BANDS, "modes").mean(axis=0)
    np.testing.assert_allclose([r50, r150], expected, rtol=1e-5)
    assert 30 * (2 - r50 - r150) + difference == pytest.approx(float(loss(y_true, y_pred)), rel=1e-5)
    metrics[0].update_state(y_true, y_pred, sample_weight=np.zeros(5))
    assert float(metrics[0].result()) == pytest.approx(r50)
    for metric in metrics:
        config = keras.saving.serialize_keras_object(metric)
        assert config["registered_name"].startswith("keras_cosmo>")
        assert keras.saving.deserialize_keras_object(config).get_config() == metric.get_config()
        metric.reset_state()
        assert float(metric.result()) == 0


def test_training_lowers_the_loss_and_logs_its_terms():
    y_true, _ = (values.astype("float32") for values in dust_maps(8, 32, 32))
    hi = y_true[..., :1] / 10
    model = keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Conv2D(1, 1)])
    loss = CorrelationLoss(PIXEL, difference_unit=10.0)
    model.compile(keras.optimizers.Adam(0.3), loss, metrics=loss.metrics())
    history = model.fit(hi, y_true, epochs=10, batch_size=4, verbose=0).history
    assert set(history) == {"loss", "r50", "r150", "difference"}
    assert history["loss"][-1] < history["loss"][0]
    terms = 30 * (2 - history["r50"][-1] - history["r150"][-1]) + history["difference"][-1]
    assert terms == pytest.approx(history["loss"][-1], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_size": 0}, "`pixel_size`: expected a positive, finite number of arcmin, got 0"),
        ({"pixel_size": "small"}, "`pixel_size`: expected a number, got 'small'"),
        ({"bands": ()}, "`bands`: expected pairs"),
        ({"bands": 100}, "`bands`: expected pairs"),
        ({"bands": (0, 100)}, "`bands`: expected pairs"),
        ({"bands": ((200, 100),)}, "`bands`: expected 0 <= lowest < highest"),
        ({"bands": ((-5, 100),)}, "`bands`: expected 0 <= lowest < highest"),
        ({"bands": ((0, float("nan")),)}, "`bands`: expected 0 <= lowest < highest"),
        ({"correlation_weight": -1}, "`correlation_weight`: expected a finite number of at least 0"),
        ({"difference_unit": float("inf")}, "`difference_unit`: expected a positive, finite number of uK_RJ"),
        ({"estimator": "mean"}, r"`estimator`: expected one of \['modes', 'bands'\], got 'mean'"),
    ],
)
def test_correlation_loss_wrong_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        CorrelationLoss(**{"pixel_size": PIXEL, **changes})


def test_correlation_loss_wrong_maps():
    y_true, y_pred = dust_maps(1, 16, 16)
    loss = CorrelationLoss(PIXEL)
    with pytest.raises(ValueError, match=r"`y_true`: expected \(batch, height, width, 2\).*\(1, 16, 16, 1\)"):
        loss(y_true[..., :1], y_pred)
    with pytest.raises(ValueError, match=r"`y_pred`: expected \(batch, height, width, 1\).*\(1, 16, 16, 2\)"):
        loss(y_true, y_true)
    with pytest.raises(
        ValueError, match=r"no Fourier mode of maps of 16 x 16 .* in \(None, 20.0\).*from 57.69 to 652.7"
    ):
        CorrelationLoss(PIXEL, ((None, 20),))(y_true, y_pred)
    unknown = tf.function(loss, input_signature=[tf.TensorSpec((None, None, None, n)) for n in (2, 1)])
    with pytest.raises(ValueError, match="needs maps of known height and width"):
        unknown(y_true, y_pred)


def test_metric_names():
    assert CorrelationMetric(PIXEL, (200, 300)).name == "r250"
    assert CorrelationMetric(PIXEL, (200, None)).name == "r_from_200"
    assert CorrelationMetric(PIXEL, (200, None), name="small").name == "small"
    with pytest.raises(ValueError, match="`estimator`: expected one of"):
        CorrelationMetric(PIXEL, estimator="mean")
    with pytest.raises(ValueError, match="`difference_unit`: expected a positive"):
        MaskedDifference(0.0)


def moment_batch(count=40, seed=0):
    """True parameters, and predicted means and standard deviations of the size of the residuals."""
    generator = np.random.default_rng(seed)
    true = generator.normal([0.3, 8.0], [0.1, 2.0], (count, 2))
    mean = true + generator.normal(0, [0.05, 1.0], (count, 2))
    return true, np.concatenate([mean, generator.uniform([0.02, 0.5], [0.1, 2.0], (count, 2))], axis=1)


@pytest.mark.parametrize("gradient", ["moments", "paper"])
def test_moment_loss_by_hand(gradient):
    """The formula of the paper with means for sums, whatever the unit and the kind of gradient."""
    true, predicted = moment_batch()
    residual, deviation = predicted[:, :2] - true, predicted[:, 2:]
    expected = np.log((residual**2).mean(axis=0)) + np.log(((residual**2 - deviation**2) ** 2).mean(axis=0))
    # In units of the standard deviation: minus twice and four times its logarithm.
    expected = expected.sum() - 6 * np.log(0.1 * 2.0)
    loss = MomentLoss([0.1, 2.0], gradient, floor=1e-9)
    checks.check_loss(loss, true, predicted, expected)
    assert float(loss(true[:1], predicted[:1])) == pytest.approx(
        np.log(
            (residual[:1] / [0.1, 2]) ** 2 * ((residual[:1] / [0.1, 2]) ** 2 - (deviation[:1] / [0.1, 2]) ** 2) ** 2
        ).sum(),
        rel=1e-5,
    )


def gradient_of(loss, true, predicted):
    predicted = tf.convert_to_tensor(predicted)
    with tf.GradientTape() as tape:
        tape.watch(predicted)
        value = loss(tf.convert_to_tensor(true), predicted)
    return tape.gradient(value, predicted).numpy()


def test_paper_gradient_is_that_of_its_formula():
    true, predicted = moment_batch(6)
    loss = MomentLoss([0.1, 2.0], "paper")
    step = 1e-6 * np.random.default_rng(1).normal(size=predicted.shape)
    expected = (loss.call(true, predicted + step) - loss.call(true, predicted - step)) / 2
    assert np.sum(gradient_of(loss.call, true, predicted) * step) == pytest.approx(float(expected), rel=1e-6)


def test_moment_gradient_by_hand():
    """Of (m - t)^2 / (mean s^2) and, with m fixed, ((m - t)^2 - s^2)^2 / (2 mean s^4), divisors fixed."""
    true, predicted = moment_batch(6)
    residual, deviation = predicted[:, :2] - true, predicted[:, 2:]
    first = 2 * residual / 6 / (deviation**2).mean(axis=0)
    second = -4 * deviation * (residual**2 - deviation**2) / 6 / (2 * (deviation**4).mean(axis=0))
    found = gradient_of(MomentLoss([0.1, 2.0], floor=1e-9).call, true, predicted)
    np.testing.assert_allclose(found, np.concatenate([first, second], axis=1), rtol=1e-6)


@pytest.mark.parametrize("batch", [2, 8, 64])
def test_mean_gradient_is_zero_at_the_moments_of_a_skewed_posterior(batch):
    """Parameters drawn from a gamma distribution; one column per batch. The formula's own gradient is not zero."""
    count = 100_000 // batch
    true = np.random.default_rng(3).gamma(2.0, 1.0, (batch, count))
    predicted = np.repeat([[2.0, np.sqrt(2.0)]], count, axis=1).repeat(batch, axis=0)
    pulls = {}
    for gradient in ("moments", "paper"):
        found = gradient_of(MomentLoss(np.ones(count), gradient).call, true, predicted).sum(axis=0).reshape(2, count)
        pulls[gradient] = found.mean(axis=1) / (found.std(axis=1) / np.sqrt(count))
    assert np.abs(pulls["moments"]).max() < 4
    assert np.abs(pulls["paper"]).max() > 6


@pytest.mark.parametrize("gradient", ["moments", "paper"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_moment_loss_is_finite_in_batches_without_residuals(gradient, dtype):
    true = np.array([[0.5]], dtype)
    for predicted in ([[0.5, 0.0]], [[0.5, 0.1]], [[0.25, 0.25]], [[0.5, 1e-4]], [[3.0, 0.5]]):
        predicted = np.array(predicted, dtype)
        value = MomentLoss([1.0], gradient)(true, predicted)
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        assert np.isfinite(value)
        assert np.isfinite(gradient_of(MomentLoss([1.0], gradient), true, predicted)).all()


def test_moment_loss_wrong_arguments():
    for value in ([0.0], [-1.0, 1.0], [float("nan")], 0.0):
        with pytest.raises(ValueError, match="`standard_deviation`: expected a positive, finite number"):
            MomentLoss(value)
    with pytest.raises(ValueError, match="`standard_deviation`: expected one per parameter, got none"):
        MomentLoss([])
    with pytest.raises(ValueError, match=r"`gradient`: expected one of \['moments', 'paper'\], got 'exact'"):
        MomentLoss([1.0], "exact")
    with pytest.raises(ValueError, match="`floor`: expected a positive, finite number"):
        MomentLoss([1.0], floor=0.0)
    true, predicted = moment_batch(3)
    for wrong in ((true, predicted[:, :3]), (true[:, :1], predicted), (true, predicted[..., None])):
        with pytest.raises(ValueError, match=r"expected `y_true` of shape \(batch, 2\) and `y_pred` of shape"):
            MomentLoss([0.1, 2.0])(*wrong)
    with pytest.raises(ValueError, match="takes no weights"):
        MomentLoss([0.1, 2.0])(true, predicted, sample_weight=np.ones(3))
