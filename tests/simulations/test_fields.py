import numpy as np
import pytest
from powerbox import get_power

from keras_cosmo.simulations.cosmology import Cosmology
from keras_cosmo.simulations.fields import Filter, PlaneDraw

CELL = 3.0
FILTERS = (
    Filter("cell", CELL),
    Filter("sharp_k", 6.0, cell_size=CELL),
    Filter("tophat", 9.0, cell_size=CELL),
    Filter("tophat", 20.0),
)


@pytest.fixture(scope="module")
def draws():
    draw = PlaneDraw(Cosmology().background(), (128, 256), CELL, FILTERS)
    return np.array([draw(np.random.default_rng(seed)) for seed in range(40)])


def in_plane_power(background, q, window_product):
    """Power of a plane at in-plane wavenumber q, by direct integration across the plane."""
    across = np.linspace(0.0, 20.0, 200001)
    k = np.hypot(q, across)
    power = np.exp(np.interp(np.log(k), np.log(background.wavenumbers), np.log(background.power)))
    return np.trapezoid(power * window_product(k), across) / np.pi


def test_variance_of_filtered_fields(draws):
    background = Cosmology().background()
    for index, smoothing in enumerate(FILTERS):
        measured = (draws[:, index] ** 2).mean(axis=(1, 2))
        error = 3.0 * measured.std(ddof=1) / np.sqrt(len(measured))
        # Modes longer than the plane are missing from it: a few percent of the variance for the widest filter.
        expected = background.filtered_deviation(smoothing) ** 2
        assert abs(measured.mean() - expected) < error + 0.06 * expected


@pytest.mark.parametrize("index", [0, 2])
def test_power_spectrum_of_the_plane(index):
    background = Cosmology().background()
    draw = PlaneDraw(background, (128, 128), CELL, FILTERS, padding=0.0)  # periodic along both axes
    side = 128 * CELL
    spectra = []
    for seed in range(40):
        plane = draw(np.random.default_rng(seed))[index]
        measured = get_power(plane, (side, side), bins=12, ignore_zero_mode=True, bins_upto_boxlen=True)
        spectra.append(measured.power)
    spectra = np.array(spectra)
    error = spectra.std(axis=0, ddof=1) / np.sqrt(len(spectra))
    for q, power, sigma in zip(measured.bin_centres, spectra.mean(axis=0), error, strict=True):
        if not 0.1 < q < 0.6:
            continue
        # A bin is wide: the spectrum at its centre stands for it to a tenth.
        expected = in_plane_power(background, q, lambda k: FILTERS[index](k) ** 2)
        assert abs(power - expected) < 3.0 * sigma + 0.12 * expected + 1e-3 * spectra.max()


def test_correlation_between_filters(draws):
    background = Cosmology().background()
    cross = (draws[:, 0] * draws[:, 2]).mean(axis=(1, 2))
    k = background.wavenumbers
    expected = np.trapezoid(background.power * FILTERS[0](k) * FILTERS[2](k) * k**3, np.log(k)) / (2.0 * np.pi**2)
    assert abs(cross.mean() - expected) < 3.0 * cross.std(ddof=1) / np.sqrt(len(cross)) + 0.03 * expected


def test_density_is_isotropic_and_the_velocity_gradient_is_not(draws):
    def axes(plane):
        modes = np.abs(np.fft.fft2(plane[:, :128])) ** 2
        return modes[3:20, 0].sum(), modes[0, 3:20].sum()

    density = np.array([axes(plane) for plane in draws[:, 0]]).mean(axis=0)
    gradient = np.array([axes(plane) for plane in draws[:, -1]]).mean(axis=0)
    assert 0.75 < density[0] / density[1] < 1.33
    assert gradient[0] < 0.1 * gradient[1]


def test_velocity_gradient_follows_density_with_kaiser_weights(draws):
    # <mu^2 delta delta> = <delta^2> / 3 in three dimensions, on the scales that both filters keep.
    smooth = draws[:, 3]
    ratio = (draws[:, -1] * smooth).mean(axis=(1, 2)) / (draws[:, 0] * smooth).mean(axis=(1, 2))
    assert abs(ratio.mean() - 1.0 / 3.0) < 3.0 * ratio.std(ddof=1) / np.sqrt(len(ratio)) + 0.02


def test_periodic_across_the_sky_only(draws):
    field = draws[:, 3]
    across = np.corrcoef(field[:, 0].ravel(), field[:, -1].ravel())[0, 1]
    along = np.corrcoef(field[:, :, 0].ravel(), field[:, :, -1].ravel())[0, 1]
    assert across > 0.95
    assert along < 0.8


def test_pure_function_of_the_generator():
    draw = PlaneDraw(Cosmology().background(), (16, 33), CELL, FILTERS)
    first, again, other = (draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert len(first) == len(FILTERS) + 1
    for a, b, c in zip(first, again, other, strict=True):
        assert a.shape == (16, 33)
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)
        assert abs(np.corrcoef(a.ravel(), c.ravel())[0, 1]) < 0.9


def test_box_size_removes_long_modes():
    background = Cosmology().background()
    smooth = (Filter("tophat", 20.0),)
    full = PlaneDraw(background, (64, 64), CELL, smooth)
    boxed = PlaneDraw(background, (64, 64), CELL, smooth, box_size=75.0)
    variance = [np.mean([np.var(d(np.random.default_rng(s))[0]) for s in range(10)]) for d in (full, boxed)]
    assert variance[1] < 0.7 * variance[0]


def test_filters_have_the_right_shape():
    k = np.array([1e-4, 0.2, 5.0])
    for kind in ("tophat", "sharp_k", "cell"):
        window = Filter(kind, 2.0)(k)
        assert window[0] == pytest.approx(1.0, abs=1e-3)
        assert abs(window[2]) < 0.1
    assert Filter("tophat", 2.0)(np.array([1.0])) == pytest.approx(3.0 * (np.sin(2) - 2 * np.cos(2)) / 8.0)
    cut = (9.0 * np.pi / 2.0) ** (1.0 / 3.0) / 2.0
    np.testing.assert_array_equal(Filter("sharp_k", 2.0)(np.array([0.999, 1.001]) * cut), [1.0, 0.0])


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda b: Filter("gauss", 1.0), "expected kind 'tophat', 'sharp_k' or 'cell', got 'gauss'"),
        (lambda b: Filter("cell", 0.0), "expected a positive scale in Mpc, got 0.0"),
        (lambda b: PlaneDraw(b, (1, 8), 1.0, FILTERS), r"expected shape \(n_perp, n_los\)"),
        (lambda b: PlaneDraw(b, (8, 8), -1.0, FILTERS), "expected a positive cell_size in Mpc, got -1.0"),
        (
            lambda b: PlaneDraw(b, (8, 8), 1.0, FILTERS, box_size=0.0),
            "expected box_size None or positive in Mpc, got 0.0",
        ),
        (lambda b: PlaneDraw(b, (8, 8), 1.0, ()), "expected at least one filter, got none"),
    ],
)
def test_bad_arguments_are_refused(build, match):
    with pytest.raises(ValueError, match=match):
        build(Cosmology().background())
