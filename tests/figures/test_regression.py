import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from PIL import Image
from sklearn.metrics import r2_score

from keras_cosmo.figures import regression, style
from keras_cosmo.quantities import Parameter

PARAMETERS = (
    Parameter(name="zeta", low=10.0, high=250.0, symbol=r"\zeta"),
    Parameter(name="log10_L_X", low=38.0, high=42.0, unit="erg s^-1 Msun^-1 yr", symbol="L_X"),
    Parameter(name="log10_T_vir", low=4.0, high=6.0, unit="K", symbol="T_v"),
    Parameter(name="E_0", low=0.1, high=1.5, unit="keV"),
)
REDSHIFTS = np.linspace(6.0, 14.0, 81)


def recovery(count, seed=0):
    generator = np.random.default_rng(seed)
    low, high = np.array([[p.low, p.high] for p in PARAMETERS]).T
    true = generator.uniform(low, high, (count, 4))
    return true, true + 0.05 * (high - low) * generator.normal(size=true.shape)


def drawn(figure, tmp_path):
    """The figure as pixels; also shows that it can be written."""
    path = style.save_figures({"figure": figure}, tmp_path)["figure"]
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def axes_with(figure, **labels):
    return [axes for axes in figure.axes if all(getattr(axes, f"get_{key}")() == text for key, text in labels.items())]


def light_cones(count=2):
    z = np.interp(np.arange(81), np.arange(81), REDSHIFTS)
    return (-100 * np.exp(-0.5 * (z - 10) ** 2) + 5)[None, None] * np.ones((count, 20, 1))


def test_lightcone_images_show_the_maps_on_both_axes(tmp_path):
    maps = light_cones(2).astype(np.float16)
    figure = regression.lightcone_images(maps, REDSHIFTS, 1.5, ["faint", "bright"])
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 2
    for panel, image, title in zip(panels, maps, ["faint", "bright"], strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array(), image.astype(np.float32))
        assert panel.images[0].get_extent() == [0, 81 * 1.5, 0, 20 * 1.5]
        assert panel.get_title("left") == title
        assert panel.images[0].norm.vcenter == 0
    assert panels[-1].get_xlabel().endswith("[Mpc]")
    (top,) = axes_with(figure, xlabel="redshift $z$")
    ticks = dict(zip([t.get_text() for t in top.get_xticklabels()], top.get_xticks(), strict=True))
    # z = 10 is cell 40 of 0 to 80, whose centre lies at 40.5 cells.
    np.testing.assert_allclose(ticks["10"], 40.5 * 1.5)
    assert top.get_xlim() == panels[0].get_xlim()
    assert any("mK" in axes.get_ylabel() for axes in figure.axes)
    assert drawn(figure, tmp_path).std() > 10


def test_a_narrow_redshift_range_still_gets_ticks():
    figure = regression.lightcone_images(light_cones(1)[:, :, :8], REDSHIFTS[:8], 1.5)
    (top,) = axes_with(figure, xlabel="redshift $z$")
    assert len(top.get_xticks()) >= 3


def test_zero_brightness_is_black_and_signs_differ():
    norm, colormap = style.brightness_temperature_norm([-200.0, 30.0]), style.brightness_temperature_colormap()
    colours = colormap(norm([-150.0, 0.0, 25.0]))[:, :3]
    assert colours[1].max() < 0.1
    assert colours[0, 0] > colours[0, 2] + 0.3
    assert colours[2, 2] > colours[2, 0] + 0.1
    ticks = style.two_sided_ticks(norm)
    assert ticks.min() < 0 < ticks.max()
    assert 0 in ticks


def test_brightness_norm_of_a_flat_map_is_usable():
    norm = style.brightness_temperature_norm(np.zeros((3, 3)))
    assert (norm.vmin, norm.vmax) == (-10, 10)


def test_global_signals_are_means_across_the_sky(tmp_path):
    maps = np.random.default_rng(0).normal(size=(3, 20, 81)).astype(np.float32)
    figure = regression.global_signals(maps, REDSHIFTS, ["a", "b", "c"])
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 81]
    assert [line.get_label() for line in lines] == ["a", "b", "c"]
    for line, image in zip(lines, maps, strict=True):
        np.testing.assert_allclose(line.get_ydata(), image.mean(axis=0, dtype=float))
        np.testing.assert_array_equal(line.get_xdata(), REDSHIFTS)
    assert "mK" in figure.axes[0].get_ylabel()
    drawn(figure, tmp_path)


HISTORY = {
    "epoch": [1, 2, 3, 4],
    "loss": [1.0, 0.5, 0.25, 0.2],
    "val_loss": [1.1, 0.6, np.nan, 0.7],
    "learning_rate": [1e-3, 1e-3, 5e-4, 5e-4],
    "seconds": [9, 9, 9, 9],
}


def test_loss_history_has_both_losses_and_the_learning_rate(tmp_path):
    figure = regression.loss_history(HISTORY)
    loss, rate = figure.axes
    training, validation, best = loss.lines
    np.testing.assert_array_equal(training.get_ydata(), HISTORY["loss"])
    np.testing.assert_array_equal(validation.get_xdata(), [1, 2, 4])
    assert (best.get_xdata(), best.get_ydata()) == (2, 0.6)
    assert "epoch 2" in best.get_label()
    assert loss.get_yscale() == rate.get_yscale() == "log"
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), HISTORY["learning_rate"])
    assert rate.get_xlabel() == "epoch"
    drawn(figure, tmp_path)


def test_loss_history_reads_structured_arrays_and_missing_columns(tmp_path):
    table = np.array(
        list(zip(HISTORY["loss"], HISTORY["val_loss"], strict=True)), [("loss", float), ("val_loss", float)]
    )
    figure = regression.loss_history(table)
    assert len(figure.axes) == 1
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), [1, 2, 3, 4])
    drawn(regression.loss_history({"loss": [0.5]}), tmp_path)


def test_negative_losses_get_a_linear_axis():
    assert regression.loss_history({"loss": [1.0, -1.0]}).axes[0].get_yscale() == "linear"


def test_predicted_against_true_follows_the_paper(tmp_path):
    true, predicted = recovery(2000)
    figure = regression.predicted_against_true(true, predicted, PARAMETERS)
    centres = [
        axes for axes in figure.axes if any(isinstance(c, QuadMesh) for c in axes.collections) and axes.get_title()
    ]
    centres = [axes for axes in centres if axes.get_title() != "count"]
    assert [axes.get_title().split(" [")[0] for axes in centres] == ["$T_v$", "$L_X$", r"$\zeta$", "E_0"]
    corners = [axes.get_position().corners().min(axis=0) for axes in centres]
    assert corners[0][1] == corners[1][1] > corners[2][1] == corners[3][1]
    assert corners[0][0] == corners[2][0] < corners[1][0] == corners[3][0]
    for axes, column in zip(centres, [2, 1, 0, 3], strict=True):
        (mesh,) = axes.collections
        assert isinstance(mesh.norm, LogNorm)
        assert mesh.get_array().sum() == 2000
        assert f"{r2_score(true[:, column], predicted[:, column]):.3f}" in axes.texts[0].get_text()
        assert axes.get_xlim() == axes.get_ylim()
        assert axes.get_xlim()[0] <= PARAMETERS[column].low < PARAMETERS[column].high <= axes.get_xlim()[1]
    drawn(figure, tmp_path)


def test_the_histogram_has_the_truth_along_x():
    true = np.repeat([[0.0], [1.0]], 400, axis=0) + np.linspace(0, 1e-3, 800)[:, None]
    predicted = np.repeat([[0.1], [0.2]], 400, axis=0)
    parameter = Parameter(name="p", low=0.0, high=1.0)
    figure = regression.predicted_against_true(true, predicted, [parameter])
    (mesh,) = figure.axes[0].collections
    edges_x, edges_y = mesh.get_coordinates()[0, :, 0], mesh.get_coordinates()[:, 0, 1]
    row, column = np.argwhere(np.ma.filled(mesh.get_array(), 0) > 0)[-1]
    assert edges_x[column] <= 1.0 <= edges_x[column + 1]
    assert edges_y[row] <= 0.2 <= edges_y[row + 1]


def bars(axes):
    return [(line.get_segments(), container.lines[0]) for container in axes.containers for line in container.lines[2]]


def test_residual_panels_are_binned_by_truth_and_by_prediction():
    """A prediction of half the truth: residual -t/2 in bins of the truth, and -p in bins of the prediction."""
    true = np.linspace(0.001, 1, 1000)[:, None]
    figure = regression.predicted_against_true(true, 0.5 * true, [Parameter(name="p", low=0.0, high=1.0)])
    (below,) = axes_with(figure, xlabel="true", ylabel="residual")
    (side,) = axes_with(figure, xlabel="residual", ylabel="predicted")
    x, y = below.containers[0].lines[0].get_data()
    np.testing.assert_allclose(y[1:-1], -0.5 * x[1:-1], atol=2e-3)
    x, y = side.containers[0].lines[0].get_data()
    np.testing.assert_allclose(x[1:-2], -y[1:-2], atol=2e-3)
    assert len(x) < len(below.containers[0].lines[0].get_data()[0])
    ((segments, _),) = bars(below)
    width = 1.04 / 24
    # Uniform truths in a bin of this width scatter by width / sqrt(12); the residual by half of that.
    np.testing.assert_allclose(np.diff(segments[5], axis=0)[0], [0, width / np.sqrt(12)], atol=1e-3)


def test_a_baseline_is_scored_and_drawn_beside_the_network(tmp_path):
    true, predicted = recovery(60)
    baseline = np.broadcast_to(true.mean(axis=0), true.shape) + 0.2 * (true - true.mean(axis=0))
    figure = regression.predicted_against_true(true, predicted, PARAMETERS, baseline)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert sum(text.startswith("baseline $0.360") for text in texts) == 4
    (below, *_) = axes_with(figure, xlabel="true", ylabel="residual")
    assert len(below.containers) == 2
    drawn(figure, tmp_path)


def test_a_bin_with_one_entry_has_no_error_bar(tmp_path):
    true = np.array([0.1, 0.12, 0.14, 0.16, 0.5, 0.9, 0.92, 0.94])[:, None]
    predicted = true + np.array([0.01, -0.02, 0.03, 0.0, 0.05, -0.01, 0.02, 0.01])[:, None]
    figure = regression.predicted_against_true(true, predicted, [Parameter(name="p", low=0.0, high=1.0)])
    (below,) = axes_with(figure, xlabel="true", ylabel="residual")
    (side,) = axes_with(figure, xlabel="residual", ylabel="predicted")
    for axes, along in ((below, 1), (side, 0)):
        ((segments, points),) = bars(axes)
        assert len(points.get_xdata()) == 3
        lengths = [np.ptp(segment[:, along]) if len(segment) else np.nan for segment in segments]
        np.testing.assert_array_equal(np.isnan(lengths), [False, True, False])
        assert min(lengths[0], lengths[2]) > 0
        np.testing.assert_allclose(points.get_data()[along][1], 0.05)
    drawn(figure, tmp_path)


@pytest.mark.parametrize("parameters", range(1, 7))
@pytest.mark.parametrize("count", [8, 600])
def test_any_number_of_parameters(count, parameters, tmp_path):
    generator = np.random.default_rng(0)
    true = generator.uniform(size=(count, parameters))
    names = [Parameter(name=f"p_{index}", low=0.0, high=1.0) for index in range(parameters)]
    figure = regression.predicted_against_true(true, 0.9 * true, names)
    assert len(axes_with(figure, xlabel="true")) == parameters
    if parameters in (1, 3):
        drawn(figure, tmp_path)


def test_few_points_are_drawn_one_by_one():
    true, predicted = recovery(8)
    figure = regression.predicted_against_true(true, predicted, PARAMETERS)
    (centre,) = [axes for axes in figure.axes if axes.get_title() == "E_0 [keV]"]
    (points,) = [line for line in centre.lines if line.get_marker() == "o"]
    np.testing.assert_array_equal(points.get_xdata(), true[:, 3])
    np.testing.assert_array_equal(points.get_ydata(), predicted[:, 3])


def test_first_layer_filters_share_one_scale(tmp_path):
    kernels = np.random.default_rng(0).normal(size=(10, 10, 1, 8))
    figure = regression.first_layer_filters(kernels)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == 8
    for index, image in enumerate(images):
        np.testing.assert_array_equal(image.get_array(), kernels[:, :, 0, index].astype(float))
        assert image.get_clim() == (-np.abs(kernels).max(), np.abs(kernels).max())
    drawn(figure, tmp_path)
    drawn(regression.first_layer_filters(np.zeros((3, 3, 1, 3))), tmp_path)


def test_first_layer_responses_are_centred_under_their_light_cones(tmp_path):
    images = light_cones(2)
    responses = np.random.default_rng(0).uniform(size=(2, 3, 11, 72))
    responses[1, 2] = 0.0
    figure = regression.first_layer_responses(images, responses, REDSHIFTS, 2.0, ["one", "two"])
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_ylabel() for axes in panels] == ["input", "filter 1", "filter 2", "filter 3"] * 2
    np.testing.assert_array_equal(panels[5].images[0].get_array(), responses[1, 0])
    assert panels[5].images[0].get_extent() == [9.0, 153.0, 9.0, 31.0]
    assert panels[5].get_xlim() == panels[4].get_xlim() == (0, 162)
    # One scale per filter for both light-cones: a silent filter is black, not stretched.
    assert panels[3].images[0].get_clim() == panels[7].images[0].get_clim()
    drawn(figure, tmp_path)


def test_first_layer_responses_of_one_light_cone(tmp_path):
    figure = regression.first_layer_responses(light_cones(1)[0], np.zeros((2, 20, 81)), REDSHIFTS)
    assert len([axes for axes in figure.axes if axes.images]) == 3
    drawn(figure, tmp_path)


TABLE = {"network": {"zeta": 0.9, "E_0": -3.0}, "baseline": {"zeta": 0.1}, "paper": {"zeta": 0.955, "E_0": 0.728}}


def test_score_comparison_marks_the_paper_as_other_data(tmp_path):
    figure = regression.score_comparison(TABLE, [PARAMETERS[0], PARAMETERS[3]], {"network": {"zeta": 0.02}})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["network", "baseline", "paper (their data)"]
    axes = figure.axes[0]
    heights = [bar.get_height() for container in axes.containers[:1] for bar in container]
    assert heights == [0.9, -3.0]
    assert "$0.955$" in [text.get_text() for text in axes.texts]
    assert axes.get_ylim()[0] > -1
    assert [label.get_text() for label in axes.get_xticklabels()] == [r"$\zeta$", "E_0"]
    drawn(figure, tmp_path)


def test_figures_leave_no_global_state():
    before = dict(matplotlib.rcParams)
    regression.loss_history(HISTORY)
    assert dict(matplotlib.rcParams) == before
    code = (
        "import sys, keras_cosmo.figures.regression, keras_cosmo.figures.report;"
        "raise SystemExit('tensorflow' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_units_and_labels():
    assert style.unit_text("erg s^-1 Msun^-1 yr") == r"erg s$^{-1}$ M$_\odot^{-1}$ yr"
    assert style.parameter_label(PARAMETERS[0]) == r"$\zeta$"
    assert style.parameter_label(PARAMETERS[3]) == "E_0 [keV]"


def test_saved_figures_are_equal_files(tmp_path):
    first = style.save_figures({"loss": regression.loss_history(HISTORY)}, tmp_path / "a" / "b", dpi=50)["loss"]
    second = style.save_figures({"loss": regression.loss_history(HISTORY)}, tmp_path / "c", dpi=50)["loss"]
    assert first == tmp_path / "a" / "b" / "loss.png"
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as image:
        assert image.width == 350


def test_colours_are_told_apart_with_colour_blindness():
    """Deuteranopia after Vienot et al. 1999 in linear RGB: the pairs used together stay far apart."""
    matrix = np.array([[0.29275, 0.70725, -0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])

    def seen(role):
        rgb = np.array(matplotlib.colors.to_rgb(style.PALETTE[role]))
        return matrix @ np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)

    for one, other in (("network", "baseline"), ("training", "validation")):
        assert np.linalg.norm(seen(one) - seen(other)) > 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: regression.lightcone_images(np.ones((20, 81)), REDSHIFTS, 1.5),
            r"maps: expected shape \(n, n_perp, n_los\)",
        ),
        (
            lambda: regression.lightcone_images(light_cones(), REDSHIFTS[::-1], 1.5),
            r"redshifts: expected 81 rising values",
        ),
        (
            lambda: regression.global_signals(light_cones(), REDSHIFTS[1:]),
            r"redshifts: expected 81 .* got shape \(80,\)",
        ),
        (lambda: regression.lightcone_images(light_cones(), REDSHIFTS, 1.5, ["a"]), r"titles: expected 2, got 1"),
        (lambda: regression.global_signals(light_cones(), REDSHIFTS, ["a"]), r"labels: expected 2, got 1"),
        (
            lambda: regression.loss_history({"val_loss": [1.0]}),
            r"history: expected a column 'loss', got \['val_loss'\]",
        ),
        (
            lambda: regression.loss_history({"loss": [1.0], "val_loss": [1.0, 2.0]}),
            r"columns of one length.*'val_loss': 2",
        ),
        (lambda: regression.loss_history({"loss": []}), r"at least one epoch"),
        (lambda: regression.loss_history({"loss": [np.nan]}), r"finite values in column 'loss', got none"),
        (lambda: regression.predicted_against_true(*recovery(9), PARAMETERS[:2]), r"one per column, 4, got 2"),
        (
            lambda: regression.predicted_against_true(*recovery(9), PARAMETERS, np.ones((9, 2))),
            r"predicted: expected the shape",
        ),
        (
            lambda: regression.first_layer_filters(np.ones((3, 3, 2, 4))),
            r"kernels: expected one input channel.*channel, None",
        ),
        (lambda: regression.first_layer_filters(np.ones((3, 3))), r"kernels: expected shape \(height, width, 1, n\)"),
        (
            lambda: regression.first_layer_responses(light_cones(), np.ones((2, 11, 72, 90)), REDSHIFTS),
            r"responses: expected \(m, n_filters, height, width\) for the 2 images.*move the channel axis",
        ),
        (lambda: regression.score_comparison({}, PARAMETERS), r"table: expected at least one source"),
        (lambda: regression.score_comparison({"network": {"x": 1.0}}, PARAMETERS), r"unknown parameters \['x'\]"),
        (lambda: style.save_figures({"a/b": None}, "."), r"figures: expected names of letters.*'a/b'"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
