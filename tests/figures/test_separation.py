import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from keras_cosmo.figures import separation, style
from keras_cosmo.simulations.emission_lines import LINES as LINE_TABLE
from keras_cosmo.statistics.distributions import normalized_distribution
from keras_cosmo.statistics.line_maps import line_spectra, line_transfer
from keras_cosmo.statistics.peaks import (
    PeakScores,
    agreement_curve,
    find_peaks,
    match_peaks,
    precision_recall_curve,
    score_peaks,
)
from keras_cosmo.statistics.spectra import over_maps, power_spectrum

CELL = 0.4
LINES = ("halpha", "oiii")


def intensities(count=6, shape=(48, 40), seed=0, lines=2):
    noise = np.random.default_rng(seed).normal(size=(count, *shape, lines))
    return 5e-10 * np.exp(gaussian_filter(noise, (0, 2, 2, 0), mode="wrap") * 4)


def prediction(true, seed=1):
    return 0.8 * true + 0.2 * intensities(len(true), true.shape[1:3], seed, true.shape[-1])


def drawn(figure, tmp_path):
    """The figure as pixels; also shows that it can be written."""
    path = style.save_figures({"figure": figure}, tmp_path, dpi=60)["figure"]
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def panels(figure):
    """Axes with maps; colour bars are not among them."""
    return [axes for axes in figure.axes if axes.images]


def line(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return found


def inside(figure):
    """Every label lies within the figure and no two panels overlap."""
    figure.canvas.draw()
    box = figure.bbox
    for legend in figure.legends:
        assert box.x0 - 1 <= legend.get_tightbbox().x0 <= legend.get_tightbbox().x1 <= box.x1 + 1
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for axes, tight in zip(figure.axes, boxes, strict=True):
        assert box.x0 - 1 <= tight.x0 <= tight.x1 <= box.x1 + 1, axes.get_title()
        assert box.y0 - 1 <= tight.y0 <= tight.y1 <= box.y1 + 1, axes.get_title()
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            up = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert not (across > 2 and up > 2), (one, other)


@pytest.mark.parametrize("lines", [("halpha",), LINES, ("halpha", "oiii", "oii")])
def test_maps_show_truth_above_and_prediction_below(lines, tmp_path):
    true = intensities(1, lines=len(lines))
    predicted = prediction(true)[0]
    true = true[0]
    figure = separation.maps(true.sum(-1), true, predicted, lines, CELL)
    shown = panels(figure)
    assert len(shown) == 2 * (1 + len(lines))
    images = [true.sum(-1), predicted.sum(-1)]
    for index in range(len(lines)):
        images += [true[..., index], predicted[..., index]]
    power = 1e-9 if true.sum(-1).max() > 1e-9 else 1e-10
    for axes, image in zip(shown, images, strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), image.T / power)
        assert axes.images[0].get_extent() == [0, 48 * CELL, 0, 40 * CELL]
    for upper, lower in zip(shown[::2], shown[1::2], strict=True):
        assert upper.images[0].get_clim() == lower.images[0].get_clim()
    np.testing.assert_allclose(shown[2].images[0].get_clim(), np.percentile(true[..., 0] / power, [0.1, 99.9]))
    assert [axes.get_title() for axes in shown[:4]] == [
        "observed",
        "sum of the predictions",
        r"true H$\alpha$",
        r"predicted H$\alpha$",
    ]
    (text,) = figure.texts
    assert r"10^{-9}" in text.get_text()
    assert "erg s" in text.get_text()
    position = shown[0].get_position()
    width, height = figure.get_size_inches() * (position.width, position.height)
    np.testing.assert_allclose(height / width, 40 / 48)
    inside(figure)
    assert drawn(figure, tmp_path).std() > 10


def test_peaks_are_circled_and_false_ones_dashed(tmp_path):
    true = intensities(1)
    predicted = prediction(true)
    peaks = [[find_peaks(values[..., index], 2.0) for index in (0, 1)] for values in (true, predicted)]
    figure = separation.maps(true[0].sum(-1), true[0], predicted[0], LINES, CELL, *peaks)
    shown = panels(figure)
    for index in (0, 1):
        truth, guess = (shown[2 + 2 * index + row].collections for row in (0, 1))
        right = match_peaks(peaks[0][index], peaks[1][index]).predicted
        assert 0 < len(right) < len(peaks[1][index].map_index)
        assert len(truth[0].get_offsets()) == len(peaks[0][index].map_index)
        np.testing.assert_allclose(
            np.sort(guess[0].get_offsets(), axis=0),
            np.sort((peaks[1][index].position[right] + 0.5) * CELL, axis=0),
        )
        assert len(guess[1].get_offsets()) == len(peaks[1][index].map_index) - len(right)
        assert guess[1].get_linestyle() != guess[0].get_linestyle()
        # A circle lies on the bright pixel.
        x, y = truth[0].get_offsets()[0]
        assert true[0, int(x / CELL), int(y / CELL), index] == peaks[0][index].height[0]
    assert "dashed" in figure.texts[0].get_text()
    drawn(figure, tmp_path)


def test_flat_and_dark_maps_can_be_drawn(tmp_path):
    true = intensities(1)[0]
    drawn(separation.maps(true.sum(-1), true, np.zeros_like(true), LINES, CELL), tmp_path)
    drawn(separation.maps(0 * true[..., 0], 0 * true, 0 * true, LINES, CELL), tmp_path)
    inside(separation.disagreement(true, np.zeros((2, *true.shape)), LINES, CELL))


def test_mean_intensities(tmp_path):
    true = intensities(300).mean(axis=(1, 2)) * np.random.default_rng(0).uniform(0.7, 1.3, (300, 2))
    error = 0.05 * np.random.default_rng(1).normal(size=true.shape)
    sources = {"network": true * (1 + error), "linear filter": true * (1.1 + 3 * error)}
    figure = separation.mean_intensity(true, sources, LINES)
    for column, axes in enumerate(figure.axes):
        points = {found.get_label(): found.get_offsets() for found in axes.collections}
        power = 10.0 ** np.floor(np.log10(true.max()))
        for name, values in sources.items():
            np.testing.assert_allclose(points[name], np.stack([true, values], -1)[:, column] / power)
        x, y = axes.lines[0].get_data()
        np.testing.assert_array_equal(x, y)
        slopes = sorted(round(found.get_ydata()[1] / found.get_xdata()[1], 6) for found in axes.lines)
        assert slopes == [0.8, 0.9, 1.0, 1.1, 1.2]
        fractional = sources["network"][:, column] / true[:, column] - 1
        texts = [text.get_text() for text in axes.texts]
        assert any(f"network: {100 * np.median(fractional):+.1f}%" in text for text in texts)
        assert axes.get_title() == separation.line_label(LINES[column])
        colours = {text.get_text().split(":")[0]: text.get_color() for text in axes.texts}
        assert colours["network"] == style.PALETTE["network"] != colours["linear filter"]
    inside(figure)
    drawn(figure, tmp_path)


def spectra():
    true = intensities(8, (40, 40))
    sources = {"network": prediction(true), "linear filter": 0.4 * true, "L1 only": prediction(true, 5)}
    found = {name: line_spectra(true, values, CELL) for name, values in sources.items()}
    return found, {name: {k: v.line(index) for k, v in found.items()} for index, name in enumerate(LINES)}


def test_power_spectra(tmp_path):
    _, comparisons = spectra()
    raw = {name: power_spectrum(intensities(8, seed=9)[..., index], CELL) for index, name in enumerate(LINES)}
    figure = separation.power_spectra(comparisons, raw)
    for column, name in enumerate(LINES):
        upper, lower = figure.axes[column], figure.axes[2 + column]
        truth = comparisons[name]["network"].true
        np.testing.assert_allclose(line(lower, "truth").get_ydata(), truth.mean(axis=0))
        np.testing.assert_allclose(line(lower, "truth before the beam").get_ydata(), raw[name].power.mean(axis=0))
        for place, (source, comparison) in enumerate(comparisons[name].items()):
            difference = ((comparison.predicted - truth) / truth.std(axis=0)).mean(axis=0)
            np.testing.assert_allclose(line(upper, source).get_ydata(), difference)
            mean, deviation = comparison.predicted.mean(axis=0), comparison.predicted.std(axis=0)
            if place:
                np.testing.assert_allclose(line(lower, source).get_ydata(), mean)
            else:
                (bars,) = lower.containers
                np.testing.assert_allclose(bars.lines[0].get_ydata(), mean)
                ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
                np.testing.assert_allclose(ends[:, 1], mean + deviation)
                np.testing.assert_allclose(ends[:, 0], mean**2 / (mean + deviation))
        assert lower.get_xscale() == lower.get_yscale() == "log"
        assert upper.get_title() == separation.line_label(name)
        assert "arcmin" in lower.get_xlabel()
    assert figure.axes[0].get_ylim()[0] < -1 < 1 < figure.axes[0].get_ylim()[1]
    inside(figure)
    drawn(figure, tmp_path)
    assert len(separation.power_spectra({"halpha": {"network": comparisons["halpha"]["network"]}}).axes) == 2


def test_spectra_with_the_beam_undone():
    _, comparisons = spectra()
    restored = power_spectrum(intensities(8, seed=9)[..., 1], CELL)
    restored.power[:, -3:] = np.nan
    restored.power[:, 0] = -1.0
    figure = separation.power_spectra(comparisons, restored={"oiii": restored})
    shown = line(figure.axes[3], "network, beam undone").get_ydata()
    np.testing.assert_allclose(shown[1:-3], restored.power[:, 1:-3].mean(axis=0))
    assert np.isnan(shown[[0, -3, -2, -1]]).all()
    assert not [each for each in figure.axes[2].lines if "undone" in str(each.get_label())]
    figure.canvas.draw()


def test_many_wavenumbers_get_few_error_bars():
    true = intensities(2, (128, 128))
    comparison = line_spectra(true, true, CELL).line(0)
    (bars,) = separation.power_spectra({"halpha": {"network": comparison}}).axes[1].containers
    places = bars.lines[0].get_xdata()
    assert 10 < len(places) <= 22 < len(comparison.k)
    assert set(places) <= set(comparison.k)


def test_a_prediction_without_power_can_be_drawn(tmp_path):
    true = intensities(3)
    comparison = line_spectra(true, np.full_like(true, 1e-10), CELL)
    by_line = {name: {"network": comparison.line(index)} for index, name in enumerate(LINES)}
    drawn(separation.power_spectra(by_line), tmp_path)
    drawn(separation.correlation_and_leakage(by_line, {"network": line_transfer(comparison)}), tmp_path)


def peak_inputs():
    true = intensities(8)
    sources = {"network": prediction(true), "L1 only": prediction(true, 7)}
    truth = [find_peaks(true[..., index], 2.0) for index in (0, 1)]
    scores, curves, votes = {}, {}, {}
    for index, name in enumerate(LINES):
        found = {key: find_peaks(values[..., index], 1.0) for key, values in sources.items()}
        scores[name] = {key: score_peaks(truth[index], peaks.above(2.0)) for key, peaks in found.items()}
        curves[name] = {
            key: precision_recall_curve(truth[index], peaks, [1.0, 2.0, 3.0, 90.0]) for key, peaks in found.items()
        }
        votes[name] = agreement_curve(truth[index], list(found.values()))
    return scores, curves, votes


def test_peak_statistics(tmp_path):
    scores, curves, votes = peak_inputs()
    figure = separation.peak_statistics(scores, curves, votes)
    grid = np.array(figure.axes).reshape(2, 3)
    for row, name in enumerate(LINES):
        bars, curve, vote = grid[row]
        paper = separation.PAPER_PEAKS[name]
        values = [score for source in scores[name].values() for score in (source.precision, source.recall)]
        heights = [bar.get_height() for bar in bars.patches]
        np.testing.assert_allclose(heights, [*values, paper["precision"], paper["recall"]])
        # The threshold without any predicted peak has no precision and is not drawn.
        drawn_curve = curves[name]["network"]
        np.testing.assert_allclose(curve.lines[0].get_xdata(), drawn_curve.recall[:3])
        np.testing.assert_allclose(curve.lines[0].get_ydata(), drawn_curve.precision[:3])
        point = line(curve, "paper").get_data()
        np.testing.assert_allclose(np.ravel(point), [paper["recall"], paper["precision"]])
        np.testing.assert_allclose(vote.containers[0].lines[0].get_ydata(), votes[name].precision)
        assert line(vote, "precision, paper").get_data() == ([5], [paper["agreed"][1]])
        assert separation.line_label(name) in bars.get_ylabel()
        # Hatched, not filled: the paper's value was measured on other maps.
        assert bars.patches[-1].get_hatch()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["network", "L1 only", "paper (their maps)"]
    inside(figure)
    drawn(figure, tmp_path)


def test_the_values_of_the_paper():
    for name, precision, recall, agreed in (("halpha", 0.74, 0.76, 0.91), ("oiii", 0.29, 0.27, 0.60)):
        paper = separation.PAPER_PEAKS[name]
        assert (round(paper["precision"], 2), round(paper["recall"], 2)) == (precision, recall)
        assert round(paper["agreed"][1], 2) == agreed


def test_peak_bars_alone_and_without_the_paper():
    scores, _, _ = peak_inputs()
    inside(separation.peak_statistics(scores))
    figure = separation.peak_statistics(scores, paper=False)
    assert len(figure.axes) == 2
    assert len(figure.axes[0].patches) == 4
    assert "paper (their maps)" not in [text.get_text() for text in figure.legends[0].get_texts()]
    nothing = PeakScores(10, 0, 0, np.nan, 0.0, np.nan, 0.0)
    figure = separation.peak_statistics({"civ": {"network": nothing}})
    assert [text.get_text() for text in figure.axes[0].texts] == ["none", "0.00"]
    assert len(figure.axes[0].patches) == 2
    inside(figure)


def test_distributions(tmp_path):
    true = intensities(5)
    sources = {"truth": true, "network": prediction(true), "linear filter": 0.5 * true**0.5}
    values = {
        name: {key: normalized_distribution(maps[..., index]) for key, maps in sources.items()}
        for index, name in enumerate(LINES)
    }
    figure = separation.distributions(values)
    for axes, name in zip(figure.axes, LINES, strict=True):
        for source, distribution in values[name].items():
            mean = distribution.density.mean(axis=0)
            np.testing.assert_allclose(line(axes, source).get_ydata(), np.where(mean > 0, mean, np.nan))
        assert axes.get_yscale() == "log"
        assert axes.get_title() == separation.line_label(name)
    inside(figure)
    drawn(figure, tmp_path)


def test_correlation_and_leakage(tmp_path):
    found, comparisons = spectra()
    transfers = {name: line_transfer(found[name]) for name in ("network", "linear filter")}
    figure = separation.correlation_and_leakage(comparisons, transfers)
    for column, name in enumerate(LINES):
        upper, lower = figure.axes[column], figure.axes[2 + column]
        for source, comparison in comparisons[name].items():
            np.testing.assert_allclose(line(upper, source).get_ydata(), over_maps(comparison.correlation).mean)
        curves = [found.get_ydata() for found in lower.lines if len(found.get_xdata()) == len(comparison.k)]
        expected = []
        for transfer in transfers.values():
            expected += [transfer.coefficients[:, column, column], transfer.coefficients[:, column, 1 - column]]
        np.testing.assert_allclose(curves, expected)
        labels = [text.get_text() for text in lower.get_legend().get_texts()]
        assert labels == [f"of true {separation.line_label(LINES[index])}" for index in (column, 1 - column)]
        assert upper.get_title() == f"predicted {separation.line_label(name)}"
        # Curves lie anywhere in the panels: legends are outside of them.
        figure.canvas.draw()
        assert lower.get_legend().get_tightbbox().y1 < lower.get_window_extent().y0
        assert upper.get_legend() is None
    (sources,) = figure.legends
    assert [text.get_text() for text in sources.get_texts()] == ["network", "linear filter", "L1 only"]
    inside(figure)
    drawn(figure, tmp_path)
    assert len(separation.correlation_and_leakage(comparisons, {}).axes) == 2


FACTORS = np.array([0.8, 0.9, 1.0, 1.1, 1.2])
VALUES = {
    "fractional error of the mean": {
        "all lines": {"halpha": 0.01 * FACTORS, "oiii": -0.02 * FACTORS},
        "only halpha": {"halpha": 0.5 * (FACTORS - 1), "oiii": 1 - FACTORS},
    },
    "peak precision": {"all lines": {"halpha": 0.7 * FACTORS}},
}


def test_robustness(tmp_path):
    errors = {"fractional error of the mean": {"all lines": {"halpha": 0.1 * FACTORS}}}
    figure = separation.robustness(FACTORS, VALUES, errors, trained=(0.95, 1.05))
    grid = np.array(figure.axes).reshape(2, 2)
    for row, (label, cases) in enumerate(VALUES.items()):
        assert grid[row, 0].get_ylabel() == label
        for column, name in enumerate(LINES):
            bars = {bar.get_label(): bar for bar in grid[row, column].containers}
            expected = {case: table[name] for case, table in cases.items() if name in table}
            assert set(bars) == set(expected)
            for case, values in expected.items():
                np.testing.assert_allclose(bars[case].lines[0].get_ydata(), values)
                np.testing.assert_allclose(bars[case].lines[0].get_xdata(), FACTORS, atol=0.02)
    ends = grid[0, 0].containers[0].lines[2][0].get_segments()[0][:, 1]
    np.testing.assert_allclose(ends, [0.008 - 0.08, 0.008 + 0.08])
    # A line at zero where values have both signs, next to the one at the factor 1.
    assert [len(axes.get_lines()) for axes in grid[:, 0]] == [2 + 2, 1 + 1]
    inside(figure)
    drawn(figure, tmp_path)


def test_disagreement(tmp_path):
    true = intensities(1)[0]
    members = np.stack([prediction(true[None], seed)[0] for seed in (1, 2, 3)])
    figure = separation.disagreement(true, members, LINES, CELL)
    shown = panels(figure)
    assert len(shown) == 6
    power = 10.0 ** np.floor(np.log10(true.max()))
    for row in (0, 1):
        truth, deviation, error = (axes.images[0].get_array().T for axes in shown[3 * row : 3 * row + 3])
        np.testing.assert_allclose(truth, true[..., row] / power)
        np.testing.assert_allclose(deviation, members[..., row].std(axis=0, ddof=1) / power)
        np.testing.assert_allclose(error, np.abs(members.mean(axis=0) - true)[..., row] / power)
        assert shown[3 * row + 1].images[0].get_clim() == shown[3 * row + 2].images[0].get_clim()
    inside(figure)
    drawn(figure, tmp_path)


def history(epochs=4, names=LINES):
    epoch = np.arange(1.0, epochs + 1)
    columns = {"loss": 3 / epoch, "l1_total": 0.1 / epoch, "val_l1_total": 0.11 / epoch, "accuracy_halpha": 0 * epoch}
    for name in names:
        columns |= {f"l1_{name}": 0.2 / epoch, f"gan_{name}": 0.5 * epoch, f"discriminator_{name}": 1.3 / epoch}
    return columns


def test_losses(tmp_path):
    columns = history()
    figure = separation.losses(columns)
    maps, generator, discriminators = figure.axes
    np.testing.assert_array_equal(line(maps, r"H$\alpha$").get_ydata(), columns["l1_halpha"])
    np.testing.assert_array_equal(line(maps, "sum of the lines").get_ydata(), columns["l1_total"])
    np.testing.assert_array_equal(line(generator, r"H$\alpha$").get_ydata(), columns["gan_halpha"])
    np.testing.assert_array_equal(line(discriminators, r"H$\alpha$").get_ydata(), columns["discriminator_halpha"])
    # One legend for all panels, every entry once, no name of a column.
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    parts = ["sum of the lines", r"H$\alpha$", r"[O$\,$III]"]
    assert labels == [*parts, "training", "validation", "discriminator undecided"]
    assert not any(axes.get_legend() for axes in figure.axes)
    levels = [axes.get_lines()[-1].get_ydata()[0] for axes in (generator, discriminators)]
    np.testing.assert_allclose(levels, [np.log(2), 2 * np.log(2)])
    inside(figure)
    drawn(figure, tmp_path)
    table = np.zeros(3, dtype=[("epoch", "i8"), ("l1_total", "f8")])
    table["epoch"] = [5, 6, 7]
    plain = separation.losses(table)
    assert len(plain.axes) == 1
    assert line(plain.axes[0], "sum of the lines").get_xdata().tolist() == [5, 6, 7]
    assert [text.get_text() for text in plain.legends[0].get_texts()] == ["sum of the lines", "training"]
    drawn(separation.losses(history(1)), tmp_path)
    drawn(separation.losses(history(40)), tmp_path)


def test_lines_are_written_as_the_simulator_writes_them():
    assert separation.line_label("oii") == LINE_TABLE["oii"].symbol
    assert separation.line_label("civ") == "civ"


def test_colours_of_sources_differ():
    names = ["network", "baseline", "a", "b", "c", "truth"]
    colours = style.source_colours(names)
    assert list(colours) == names
    assert len(set(colours.values())) == len(names)
    assert colours["network"] == style.PALETTE["network"]


def test_figures_leave_no_global_state():
    before = dict(matplotlib.rcParams)
    separation.losses(history())
    assert dict(matplotlib.rcParams) == before
    code = (
        "import sys, keras_cosmo.figures.separation;"
        "raise SystemExit('tensorflow' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


MAP = intensities(1)[0]
ONE = MAP[..., 0]


def compared(values, other=None):
    return line_spectra(values, values if other is None else other, CELL).line(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: separation.maps(ONE, ONE, MAP, LINES, CELL), r"true: expected shape \(nx, ny, n_lines\)"),
        (lambda: separation.maps(ONE, MAP, MAP[1:], LINES, CELL), r"predicted: expected the shape of true, .*\(47, 40"),
        (lambda: separation.maps(ONE[1:], MAP, MAP, LINES, CELL), r"observed: expected the shape of the lines"),
        (lambda: separation.maps(ONE, MAP, MAP, ("halpha",), CELL), r"lines: expected 2 names.* \['halpha'\]"),
        (
            lambda: separation.maps(ONE, MAP, MAP, LINES, CELL, [find_peaks(intensities(2)[..., 0])] * 2),
            r"true_peaks: expected the peaks of one map for each of 2 lines.*\[2, 2\] maps",
        ),
        (
            lambda: separation.maps(ONE, MAP, MAP, LINES, CELL, None, [find_peaks(ONE[None])]),
            r"predicted_peaks: .* got 1 sets",
        ),
        (lambda: separation.mean_intensity(ONE, {}, LINES), r"lines: expected 40 names"),
        (lambda: separation.mean_intensity(ONE[:, :2], {}, LINES), r"predictions: expected at least one entry"),
        (
            lambda: separation.mean_intensity(ONE[:, :2], {"network": ONE}, LINES),
            r"predictions\['network'\]: expected the shape of true",
        ),
        (lambda: separation.power_spectra({}), r"comparisons: expected at least one entry"),
        (lambda: separation.power_spectra({"halpha": {}}), r"comparisons\['halpha'\]: expected at least one entry"),
        (
            lambda: separation.power_spectra(
                {"halpha": {"network": compared(intensities(2)), "other": compared(intensities(2, seed=4))}}
            ),
            r"comparisons: expected the wavenumbers and true spectra of the first source.*'other' differ",
        ),
        (
            lambda: separation.power_spectra({"halpha": {"network": compared(intensities(2))}}, {"oiii": None}),
            r"unsmoothed: expected lines of \['halpha'\], got \['oiii'\]",
        ),
        (
            lambda: separation.power_spectra({"halpha": {"network": compared(intensities(2))}}, None, {"oiii": None}),
            r"restored: expected lines of \['halpha'\], got \['oiii'\]",
        ),
        (lambda: separation.peak_statistics({}), r"scores: expected at least one entry"),
        (
            lambda: separation.peak_statistics(peak_inputs()[0], {"civ": {}}),
            r"curves: expected lines of \['halpha', 'oiii'\], got \['civ'\]",
        ),
        (lambda: separation.distributions({}), r"values: expected at least one entry"),
        (
            lambda: separation.correlation_and_leakage(
                {"halpha": {"network": compared(intensities(2))}},
                {"network": line_transfer(line_spectra(intensities(2), intensities(2), CELL))},
            ),
            r"transfers: expected coefficients of 1 lines.* \(2, 2\) for 'network'",
        ),
        (lambda: separation.robustness([1.0, 0.9], VALUES), r"factors: expected rising factors"),
        (lambda: separation.robustness(FACTORS, {}), r"values: expected at least one entry"),
        (
            lambda: separation.robustness(FACTORS[:4], VALUES),
            r"values: expected one value per factor, 4, for .* \(5,\)",
        ),
        (lambda: separation.disagreement(MAP, MAP, LINES, CELL), r"members: expected shape \(n_networks, nx, ny"),
        (lambda: separation.disagreement(MAP, MAP[None], LINES, CELL), r"members: expected at least two networks"),
        (lambda: separation.losses({"loss": [1.0]}), r"history: expected columns such as 'l1_total'.* \['loss'\]"),
        (
            lambda: separation.losses({"l1_total": [1.0], "l1_halpha": [1.0, 2.0]}),
            r"history: expected columns of one length",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
