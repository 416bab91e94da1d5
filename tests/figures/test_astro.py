import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr
from sklearn.metrics import r2_score

from keras_cosmo.figures import astro, style
from keras_cosmo.quantities import Parameter
from keras_cosmo.statistics.distributions import brightest_pixels, normalize_maps

PARAMETERS = (
    Parameter(name="log10_L_X", low=40.0, high=41.0, unit="erg s^-1 Msun^-1 yr", symbol=r"\log_{10} L_X"),
    Parameter(name="log10_M_min", low=8.0, high=9.0, unit="Msun", symbol=r"\log_{10} M_\mathrm{min}"),
    Parameter(name="log10_N_gamma", low=3.0, high=4.0),
)
CELL = 1.5


def drawn(figure, tmp_path):
    """The figure as pixels; also shows that it can be written."""
    path = style.save_figures({"figure": figure}, tmp_path, dpi=60)["figure"]
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def inside(figure):
    """Every label lies within the figure and no two panels overlap."""
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for index, one in enumerate(boxes):
        assert figure.bbox.x0 - 1 <= one.x0 <= one.x1 <= figure.bbox.x1 + 1
        assert figure.bbox.y0 - 1 <= one.y0 <= one.y1 <= figure.bbox.y1 + 1
        for other in boxes[index + 1 :]:
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            up = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert not (across > 2 and up > 2), (one, other)


def predictions(simulations=30, maps=4, seed=0):
    generator = np.random.default_rng(seed)
    values = generator.uniform([40, 8, 3], [41, 9, 4], (simulations, 3))
    ids = np.repeat(np.arange(simulations) + 7, maps)
    true = np.repeat(values, maps, axis=0)
    return (
        true,
        {name: true + s * generator.normal(size=true.shape) for name, s in (("frozen", 0.2), ("trained", 0.1))},
        ids,
    )


def points(axes):
    return [line.get_data() for line in axes.lines if line.get_marker() == "o"]


def test_recovery_has_a_panel_per_network_and_parameter(tmp_path):
    true, networks, ids = predictions()
    figure = astro.recovery(true, networks, PARAMETERS, ids, redshift=15)
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes[:3]] == [style.parameter_label(p) for p in PARAMETERS]
    assert [figure.axes[index].get_ylabel() for index in (0, 3)] == ["frozen\npredicted", "trained\npredicted"]
    assert {axes.get_xlabel() for axes in figure.axes[3:]} == {"true"}
    for index, axes in enumerate(figure.axes):
        row, column = divmod(index, 3)
        predicted = networks[["frozen", "trained"][row]][:, column]
        (x, y), (mean_x, mean_y) = points(axes)
        np.testing.assert_array_equal(x, true[:, column])
        np.testing.assert_array_equal(y, predicted)
        np.testing.assert_allclose(mean_x, true[::4, column])
        np.testing.assert_allclose(mean_y, predicted.reshape(-1, 4).mean(axis=1))
        texts = [text.get_text() for text in axes.texts]
        assert texts[0] == f"$R^2 = {r2_score(true[:, column], predicted):.3f}$"
        assert texts[1] == f"means ${r2_score(mean_x, mean_y):.3f}$"
        assert axes.get_xlim() == axes.get_ylim() == figure.axes[column].get_xlim()
        assert axes.get_xlim()[0] < PARAMETERS[column].low < PARAMETERS[column].high < axes.get_xlim()[1]
    assert figure.get_suptitle() == "$z = 15$"
    inside(figure)
    drawn(figure, tmp_path)


def test_recovery_of_single_maps_of_one_parameter():
    true, networks, _ = predictions()
    figure = astro.recovery(true[:, :1], {"": networks["frozen"][:, :1]}, PARAMETERS[:1])
    (axes,) = figure.axes
    assert len(points(axes)) == len(axes.texts) == 1
    assert axes.get_ylabel() == "predicted"


TABLE = {
    "frozen": {"log10_L_X": 0.7, "log10_M_min": 0.8, "log10_N_gamma": 0.9},
    "trained": {"log10_L_X": 0.95, "log10_M_min": -2.0, "log10_N_gamma": 0.9},
}


def markers(axes, **wanted):
    """Places of the markers of a colour and kind."""
    return [
        line.get_data()
        for line in axes.lines
        if line.get_linestyle() == "None"
        and all(getattr(line, f"get_{key}")() == value for key, value in wanted.items())
    ]


def test_encoder_comparison_has_the_mean_and_the_paper(tmp_path):
    errors = {"frozen": {"log10_L_X": 0.05, "mean": 0.02}}
    figure = astro.encoder_comparison(TABLE, PARAMETERS, errors, {"frozen": 0.76}, redshift=15)
    (axes,) = figure.axes
    (frozen,) = markers(axes, label="frozen")
    np.testing.assert_allclose(frozen[1], [0.7, 0.8, 0.9, 0.8])
    ((_, paper),) = markers(axes, label="frozen, paper (their data)")
    assert paper == [0.76]
    (segments,) = [container.lines[2][0].get_segments() for container in axes.containers[:1]]
    np.testing.assert_allclose([segment[:, 1] for segment in segments], [[0.65, 0.75], [0.78, 0.82]])
    # A score far below zero is an arrow at the floor with its number.
    (trained,) = markers(axes, label="trained")
    np.testing.assert_allclose(trained[1], [0.95, np.nan, 0.9, -0.05])
    assert "$-2.00$" in [text.get_text() for text in axes.texts]
    assert axes.get_ylim()[0] > -0.7
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == [r"$\log_{10} L_X$", r"$\log_{10} M_\mathrm{min}$", "log10_N_gamma", "mean"]
    assert axes.get_ylabel() == "$R^2$"
    assert axes.get_title() == "$z = 15$"
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["frozen", "frozen, paper (their data)", "trained"]
    drawn(figure, tmp_path)


def test_a_mean_given_is_drawn_and_a_missing_one_is_not():
    figure = astro.encoder_comparison({"a": {"log10_L_X": 0.5, "mean": 0.3}, "b": {"log10_L_X": 0.5}}, PARAMETERS)
    (a,), (b,) = (markers(figure.axes[0], label=name) for name in "ab")
    np.testing.assert_array_equal(a[1], [0.5, np.nan, np.nan, 0.3])
    np.testing.assert_array_equal(b[1], [0.5, np.nan, np.nan, np.nan])


def maps_and_saliency(count=2, shape=(20, 30), seed=0):
    generator = np.random.default_rng(seed)
    maps = -20 + 5 * generator.normal(size=(count, *shape))
    return maps, generator.normal(size=(count, 3, *shape))


@pytest.mark.parametrize("redshift", [None, 10])
def test_saliency_pixels_marks_the_brightest(redshift, tmp_path):
    maps, saliency = maps_and_saliency()
    figure = astro.saliency_pixels(maps, saliency, PARAMETERS, CELL, 0.05, ["one", "two"], redshift)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 8
    assert [axes.get_title() for axes in panels[1:4]] == [
        r"$\log_{10} L_X$",
        r"$\log_{10} M_\mathrm{min}$",
        "log10_N_gamma",
    ]
    for row in range(2):
        np.testing.assert_array_equal(panels[4 * row].images[0].get_array(), maps[row].T)
        assert panels[4 * row].get_title("left") == ["one", "two"][row]
        chosen = brightest_pixels(saliency[row], 0.05)
        for column in range(3):
            axes = panels[4 * row + 1 + column]
            (pixels,) = axes.collections
            cells = np.round(pixels.get_offsets() / CELL - 0.5).astype(int)
            expected = np.argwhere(chosen[column])
            assert sorted(map(tuple, cells)) == sorted(map(tuple, expected))
            np.testing.assert_allclose(pixels.get_array(), np.abs(saliency[row, column])[tuple(cells.T)])
            # All parameters of a row share the scale.
            assert pixels.get_clim() == (0, np.abs(saliency[row]).max())
            assert axes.get_xlim() == (0, 30)
            assert axes.get_ylim() == (0, 45)
    bars = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel() not in ("", "Mpc")]
    assert bars.count(style.BRIGHTNESS_LABEL) == bars.count("saliency / largest") == 2
    assert {axes.get_xlabel() for axes in panels[4:]} == {"Mpc"}
    inside(figure)
    drawn(figure, tmp_path)


def test_larger_saliency_is_darker_and_darker_than_the_map():
    def lightness(colours):
        linear = np.asarray(colours)[:, :3]
        return np.where(linear > 0.04045, ((linear + 0.055) / 1.055) ** 2.4, linear / 12.92) @ [0.2126, 0.7152, 0.0722]

    red, grey = lightness(astro._RED(np.linspace(0, 1, 50))), lightness(astro._GREY(np.linspace(0, 1, 50)))
    assert np.all(np.diff(red) < 0)
    assert red.max() < 0.75 * grey.min()


def test_the_grey_map_is_light_where_the_coloured_one_is():
    maps, saliency = maps_and_saliency(1)
    figure = astro.saliency_pixels(maps, saliency, PARAMETERS, CELL)
    grey = [axes for axes in figure.axes if axes.images][1].images[0].get_array().T
    # In absorption the coldest pixels are the lightest.
    assert spearmanr(grey, maps[0], axis=None).statistic < -0.95


def test_saliency_of_one_parameter_and_without_any_gradient(tmp_path):
    maps, saliency = maps_and_saliency(1)
    figure = astro.saliency_pixels(maps, np.zeros_like(saliency[:, :1]), PARAMETERS[:1], CELL)
    assert len([axes for axes in figure.axes if axes.images]) == 2
    drawn(figure, tmp_path)


def test_saliency_statistics_measure_where_the_network_looks(tmp_path):
    maps, saliency = maps_and_saliency(12)
    saliency[:, 0] = np.exp(normalize_maps(maps))
    saliency[:, 1] = -np.exp(-normalize_maps(maps))
    ids = np.repeat(np.arange(4), 3)
    figure = astro.saliency_statistics(maps, saliency, PARAMETERS, 0.1, ids, redshift=15)
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    values = np.sort(normalize_maps(maps).reshape(12, -1), axis=1)
    warm, cold = values[:, -60:].mean(axis=1), values[:, :60].mean(axis=1)
    error = warm.reshape(4, 3).mean(axis=1).std(ddof=1) / 2
    assert labels[0] == "all pixels: mean 0"
    assert labels[1] == rf"$\log_{{10}} L_X$: mean ${warm.mean():+.2f}$$\pm{error:.2f}$"
    assert labels[2].startswith(rf"$\log_{{10}} M_\mathrm{{min}}$: mean ${cold.mean():+.2f}$")
    assert "10%" in axes.get_legend().get_title().get_text()
    everything, first = axes.patches[0].get_data(), axes.patches[1].get_data()
    np.testing.assert_array_equal(
        everything.values, np.histogram(normalize_maps(maps), everything.edges)[0] / maps.size / 0.25
    )
    chosen = brightest_pixels(saliency[:, 0], 0.1)
    np.testing.assert_allclose(
        first.values, np.histogram(normalize_maps(maps)[chosen], first.edges)[0] / chosen.sum() / 0.25
    )
    assert r"\delta T_\mathrm{b}" in axes.get_xlabel()
    drawn(figure, tmp_path)


def test_a_constant_map_is_left_out_of_the_statistics(tmp_path):
    maps, saliency = maps_and_saliency(3)
    expected = astro.saliency_statistics(maps[[0, 2]], saliency[[0, 2]], PARAMETERS)
    maps[1] = 0.0
    found = astro.saliency_statistics(maps, saliency, PARAMETERS, quantity=r"\delta")
    for one, other in zip(found.axes[0].patches, expected.axes[0].patches, strict=True):
        np.testing.assert_allclose(one.get_data().values, other.get_data().values)
    assert "normalised $\\delta$" in found.axes[0].get_xlabel()
    drawn(found, tmp_path)


def test_randomization_gives_the_rank_correlation(tmp_path):
    maps, saliency = maps_and_saliency(2)
    trained = saliency[:, 0]
    randomized = {"last layer": -2.0 * trained, "all layers": saliency[:, 1]}
    figure = astro.saliency_randomization(maps, trained, randomized, CELL, ["one", "two"], 15)
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in panels[1:4]] == [
        "trained network",
        "random weights: last layer",
        "random weights: all layers",
    ]
    for row in range(2):
        first, second, third = panels[4 * row + 1 : 4 * row + 4]
        size = np.abs(trained[row])
        np.testing.assert_allclose(first.images[0].get_array(), (size / np.percentile(size, 99.5)).T)
        assert not first.texts
        assert second.texts[0].get_text() == "rank correlation $1.00$"
        expected = spearmanr(size, np.abs(saliency[row, 1]), axis=None).statistic
        assert third.texts[0].get_text() == f"rank correlation ${expected:.2f}$"
        assert first.images[0].get_clim() == third.images[0].get_clim() == (0, 1)
    inside(figure)
    drawn(figure, tmp_path)


def test_randomization_without_gradients(tmp_path):
    maps, saliency = maps_and_saliency(1)
    figure = astro.saliency_randomization(maps, saliency[:, 0], {"all": np.zeros_like(maps)}, CELL)
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["rank correlation $nan$"]
    drawn(figure, tmp_path)


TRUE, NETWORKS, _ = predictions(5)
MAPS, SALIENCY = maps_and_saliency()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: astro.recovery(TRUE[:, 0], NETWORKS, PARAMETERS), r"true: expected shape \(n_maps, n_parameters\)"),
        (lambda: astro.recovery(TRUE, NETWORKS, PARAMETERS[:2]), r"parameters: expected one per column, 3, got 2"),
        (lambda: astro.recovery(TRUE, {}, PARAMETERS), r"predictions: expected at least one"),
        (lambda: astro.recovery(TRUE, {"a": TRUE[1:]}, PARAMETERS), r"predicted: expected the shape of true"),
        (lambda: astro.recovery(TRUE, NETWORKS, PARAMETERS, [1, 2]), r"simulation: expected one integer id per row"),
        (lambda: astro.encoder_comparison({}, PARAMETERS), r"table: expected at least one network"),
        (lambda: astro.encoder_comparison({"a": {"x": 1.0}}, PARAMETERS), r"unknown parameters \['x'\]"),
        (
            lambda: astro.encoder_comparison(TABLE, PARAMETERS, paper={"other": 0.5}),
            r"paper: expected networks of the table, \['frozen', 'trained'\], got \['other'\]",
        ),
        (
            lambda: astro.saliency_pixels(MAPS[0], SALIENCY, PARAMETERS, CELL),
            r"maps: expected shape \(n_maps, nx, ny\)",
        ),
        (
            lambda: astro.saliency_pixels(MAPS, SALIENCY[:, 0], PARAMETERS, CELL),
            r"saliency: expected shape \(n_maps, n_parameters, nx, ny\), \(2, 3, 20, 30\) .* got \(2, 20, 30\)",
        ),
        (lambda: astro.saliency_pixels(MAPS, SALIENCY, PARAMETERS, CELL, titles=["a"]), r"titles: expected 2, got 1"),
        (lambda: astro.saliency_pixels(MAPS, SALIENCY, PARAMETERS, CELL, 0), r"fraction: expected a part"),
        (lambda: astro.saliency_statistics(MAPS, SALIENCY[:, :2], PARAMETERS), r"saliency: expected shape"),
        (lambda: astro.saliency_statistics(MAPS, SALIENCY[:, :0], ()), r"saliency: expected shape"),
        (lambda: astro.saliency_randomization(MAPS, MAPS, {}, CELL), r"randomized: expected at least one"),
        (
            lambda: astro.saliency_randomization(MAPS, MAPS, {"all": SALIENCY}, CELL),
            r"saliency of 'random weights: all': expected the shape of maps, .* one parameter at a time",
        ),
        (
            lambda: astro.saliency_randomization(MAPS, SALIENCY, {"all": MAPS}, CELL),
            r"saliency of 'trained network': expected the shape",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
