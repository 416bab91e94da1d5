import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import Normalize, TwoSlopeNorm
from PIL import Image

from keras_cosmo.figures import matter, style
from keras_cosmo.statistics.distributions import normalized_distribution
from keras_cosmo.statistics.spectra import compare_spectra, over_maps

CELL = 1.5


def density(count=6, shape=(24, 24), seed=0):
    noise = np.random.default_rng(seed).normal(size=(count, *shape))
    k = np.hypot(*np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n, CELL) for n in shape), indexing="ij"))
    return np.fft.ifft2(np.fft.fft2(noise) / (0.3 + k)).real * 0.1


def drawn(figure, tmp_path):
    """The figure as pixels; also shows that it can be written."""
    path = style.save_figures({"figure": figure}, tmp_path, dpi=60)["figure"]
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def bars(figure):
    return [axes for axes in figure.axes if not axes.images]


def line(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return found


def inside(figure):
    """Every label lies within the figure and no two panels overlap."""
    figure.canvas.draw()
    box = figure.bbox
    for axes in figure.axes:
        tight = axes.get_tightbbox()
        assert box.x0 - 1 <= tight.x0 <= tight.x1 <= box.x1 + 1, axes.get_title()
        assert box.y0 - 1 <= tight.y0 <= tight.y1 <= box.y1 + 1, axes.get_title()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            up = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert not (across > 2 and up > 2), (one, other)


def test_slices_show_both_fields_of_each_redshift(tmp_path):
    fields = density(3, (20, 30))
    temperature = np.stack([-20 + 30 * fields[0], 40 * fields[1], 15 + 20 * fields[2]])
    figure = matter.slices(temperature, fields.astype(np.float16), [20, 15, 10.5], CELL)
    shown = panels(figure)
    assert len(shown) == 6
    for row, redshift in enumerate(["20", "15", "10.5"]):
        left, right = shown[2 * row], shown[2 * row + 1]
        np.testing.assert_array_equal(left.images[0].get_array(), temperature[row].T)
        np.testing.assert_array_equal(right.images[0].get_array(), fields[row].astype(np.float16).T)
        assert left.images[0].get_extent() == [0, 20 * CELL, 0, 30 * CELL]
        assert left.get_title("left") == f"$z = {redshift}$"
    assert [axes.get_ylabel() for axes in bars(figure)] == [style.BRIGHTNESS_LABEL, matter.MATTER_LABEL] * 3
    assert [axes.get_xlabel() for axes in shown] == [""] * 4 + ["Mpc"] * 2
    assert {axes.get_ylabel() for axes in shown[::2]} == {"Mpc"}
    # A cell is as wide as it is high.
    position = shown[0].get_position()
    width, height = figure.get_size_inches() * (position.width, position.height)
    np.testing.assert_allclose(height / width, 30 / 20)
    assert isinstance(shown[2].images[0].norm, TwoSlopeNorm)
    inside(figure)
    assert drawn(figure, tmp_path).std() > 10


def test_one_redshift():
    figure = matter.slices(density(1), density(1), 15.0, CELL)
    assert len(panels(figure)) == 2
    inside(figure)


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("redshift", [None, 15.0])
def test_reconstruction_shares_its_scales(baseline, redshift, tmp_path):
    true = density(1)[0]
    predicted, linear = true + 0.01 * density(1, seed=1)[0], 0.3 * true
    predicted[3, 4] = true[3, 4]
    temperature = -20 + 30 * true
    figure = matter.reconstruction(temperature, true, predicted, CELL, redshift, linear if baseline else None)
    shown = {axes.get_title(): axes for axes in panels(figure)}
    extra = {"linear baseline": linear} if baseline else {}
    names = ["true matter", "prediction", *extra, "21-cm input", "error of the prediction"]
    assert list(shown) == names + [f"error of the {name}" for name in extra]
    for name, values in {"true matter": true, "prediction": predicted, **extra, "21-cm input": temperature}.items():
        np.testing.assert_array_equal(shown[name].images[0].get_array(), values.T)
    matter_limits = {shown[name].images[0].get_clim() for name in ("true matter", "prediction", *extra)}
    assert matter_limits == {tuple(np.percentile(true, [0.5, 99.5]))}
    for name, values in {"prediction": predicted, **extra}.items():
        error = shown[f"error of the {name}"].images[0].get_array().T
        exact = values == true
        np.testing.assert_allclose(error[~exact].max(), np.log10(np.abs(values - true).max()))
        assert np.isfinite(error).all()
    assert error.shape == true.shape
    labels = {axes.get_ylabel() or axes.get_xlabel() for axes in bars(figure)}
    assert len(labels) == 3
    assert any("log" in label for label in labels)
    assert (figure.get_suptitle() == "$z = 15$") == (redshift is not None)
    inside(figure)
    drawn(figure, tmp_path)


def test_a_perfect_reconstruction_can_be_drawn(tmp_path):
    true = density(1)[0]
    drawn(matter.reconstruction(np.zeros_like(true), true, true, CELL), tmp_path)


def comparisons():
    true = density(10)
    network = 0.9 * true + 0.05 * density(10, seed=1)
    return {
        "network": compare_spectra(true, network, CELL),
        "baseline": compare_spectra(true, 0.2 * true + 0.1 * density(10, seed=2), CELL),
    }


def test_spectra_are_means_over_maps_with_bands(tmp_path):
    both = comparisons()
    figure = matter.spectra(both, 15)
    power, transfer, correlation = figure.axes
    expected = {"truth": both["network"].true, **{name: both[name].predicted for name in both}}
    for name, values in expected.items():
        np.testing.assert_allclose(line(power, name).get_ydata(), values.mean(axis=0))
        np.testing.assert_array_equal(line(power, name).get_xdata(), both["network"].k)
    for axes, quantity in ((transfer, "transfer"), (correlation, "correlation")):
        for name, band in zip(both, axes.collections, strict=True):
            values = getattr(both[name], quantity)
            np.testing.assert_allclose(line(axes, name).get_ydata(), values.mean(axis=0))
            corners = band.get_paths()[0].vertices
            first = corners[np.isclose(corners[:, 0], both[name].k[0]), 1]
            np.testing.assert_allclose(
                [first.min(), first.max()], values[:, 0].mean() + values[:, 0].std() * np.array([-1, 1])
            )
    assert (power.get_xlabel(), power.get_ylabel()) == (r"$k$ [Mpc$^{-1}$]", r"$P(k)$ [Mpc$^2$]")
    assert (transfer.get_ylabel(), correlation.get_ylabel()) == ("$T(k)$", "$r(k)$")
    assert power.get_xscale() == power.get_yscale() == transfer.get_xscale() == "log"
    assert figure.get_suptitle() == "$z = 15$"
    assert [text.get_text() for text in power.get_legend().get_texts()][:3] == ["truth", "network", "baseline"]
    drawn(figure, tmp_path)


def test_the_accuracy_of_the_paper_is_marked_where_it_is_stated():
    true = density(2, (200, 200))
    comparison = {"network": compare_spectra(true, true, CELL)}
    _, transfer, correlation = matter.spectra(comparison).axes
    k = comparison["network"].k

    def guides(axes):
        return sorted(
            (round(float(y[0]), 2), *np.round(x, 6))
            for x, y in (found.get_data() for found in axes.lines)
            if len(x) == 2 and y[0] != 1
        )

    start, two = round(k[0] / 1.05, 6), 2.0
    low = [(0.92, 0.7, two), (0.95, start, 0.7)]
    assert guides(transfer) == [*low, (1.05, start, 0.7), (1.08, 0.7, two)]
    assert guides(correlation) == low
    assert transfer.get_ylim()[0] < 0.92
    assert transfer.get_ylim()[1] > 1.08
    plain = matter.spectra(comparison, paper_accuracy=False)
    assert guides(plain.axes[1]) == []
    assert len(plain.axes[0].get_legend().get_texts()) == 2


def test_a_band_wider_than_its_mean_stays_on_the_logarithmic_axis():
    true = density(40, (16, 16)) * np.geomspace(0.01, 10, 40)[:, None, None]
    comparison = compare_spectra(true, true, CELL)
    summary = over_maps(comparison.true)
    assert np.any(summary.standard_deviation > summary.mean)
    band = matter.spectra({"network": comparison}).axes[0].collections[0]
    lower = band.get_paths()[0].vertices[:, 1].min()
    ratio = summary.standard_deviation / summary.mean
    np.testing.assert_allclose(lower, (summary.mean / (1 + ratio)).min())


def test_a_constant_prediction_can_be_drawn(tmp_path):
    true = density(3)
    figure = matter.spectra({"network": compare_spectra(true, np.full(true.shape, 0.1), CELL)}, 10)
    assert np.isnan(line(figure.axes[2], "network").get_ydata()).all()
    drawn(figure, tmp_path)


def test_normalized_distributions(tmp_path):
    distributions = {
        "truth": normalized_distribution(np.exp(density(8))),
        "network": normalized_distribution(density(8, seed=1)),
        "smooth": normalized_distribution(density(8, seed=2)),
    }
    figure = matter.normalized_distribution(distributions, 10)
    linear, logarithmic = figure.axes
    for axes in (linear, logarithmic):
        for name, distribution in distributions.items():
            mean = distribution.density.mean(axis=0)
            found = line(axes, name)
            np.testing.assert_array_equal(found.get_xdata(), distribution.centres)
            expected = np.where(mean > 0, mean, np.nan) if axes is logarithmic else mean
            np.testing.assert_allclose(found.get_ydata(), expected)
        assert r"\delta" in axes.get_xlabel()
        assert line(axes, "normal").get_ydata().max() == pytest.approx(1 / np.sqrt(2 * np.pi), rel=1e-3)
    assert linear.get_ylabel() == "probability density"
    assert (linear.get_yscale(), logarithmic.get_yscale()) == ("linear", "log")
    drawn(figure, tmp_path)


def test_brightness_scales_keep_zero_black_and_use_the_range():
    norm, colormap = style.brightness_temperature_scale(np.linspace(-100, -60, 1000))
    assert type(norm) is Normalize
    cold, warm = colormap(norm(-100))[:3], colormap(norm(-60))[:3]
    assert min(cold) > 0.7 > 0.1 > max(warm)
    norm, colormap = style.brightness_temperature_scale(np.linspace(5, 20, 1000))
    assert max(colormap(norm(5))[:3]) < 0.1
    assert colormap(norm(20))[2] > 0.9
    norm, colormap = style.brightness_temperature_scale(np.append(np.linspace(-20, 0, 1000), 0.1 * np.ones(20)))
    assert max(colormap(norm(0.0))[:3]) < 0.1
    # A sliver of emission does not get the whole blue half.
    assert norm.vmax >= 1.9
    for flat in (0.0, -30.0, 4.0):
        norm, _ = style.brightness_temperature_scale(np.full((3, 3), flat))
        assert norm.vmin < norm.vmax
    assert style.map_scale(np.zeros((3, 3))).vmax > 0


def test_figures_leave_no_global_state():
    before = dict(matplotlib.rcParams)
    matter.spectra(comparisons())
    assert dict(matplotlib.rcParams) == before
    code = (
        "import sys, keras_cosmo.figures.matter, keras_cosmo.figures.astro;"
        "raise SystemExit('tensorflow' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


MAP = density(1)[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: matter.slices(MAP, MAP, [15], CELL),
            r"brightness_temperature: expected shape \(n_redshifts, nx, ny\)",
        ),
        (
            lambda: matter.slices(MAP[None], MAP[None, 1:], [15], CELL),
            r"density: expected the shape of brightness_temperature, \(1, 24, 24\), got \(1, 23, 24\)",
        ),
        (
            lambda: matter.slices(MAP[None], MAP[None], [15, 10], CELL),
            r"redshifts: expected one per map, 1, got .*\(2,\)",
        ),
        (lambda: matter.reconstruction(MAP, MAP[None], MAP, CELL), r"true: expected shape \(nx, ny\)"),
        (lambda: matter.reconstruction(MAP[1:], MAP, MAP, CELL), r"brightness_temperature: expected the shape of true"),
        (lambda: matter.reconstruction(MAP, MAP, MAP[1:], CELL), r"predicted: expected the shape of true"),
        (lambda: matter.reconstruction(MAP, MAP, MAP, CELL, 15, MAP[1:]), r"baseline: expected the shape of true"),
        (lambda: matter.spectra({}), r"comparisons: expected at least one"),
        (
            lambda: matter.spectra({**comparisons(), "other": compare_spectra(MAP[None], MAP[None], CELL)}),
            r"comparisons: expected the wavenumbers and true spectra of the first.*'other' differ",
        ),
        (lambda: matter.normalized_distribution({}), r"distributions: expected at least one"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
