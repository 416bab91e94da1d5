import doctest

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import root_mean_squared_error

from keras_cosmo.figures import higlow, style
from keras_cosmo.quantities import Parameter
from keras_cosmo.statistics.calibration import CalibrationNumbers, rank_histogram
from keras_cosmo.statistics.map_samples import (
    compare_pixels,
    compare_sample_spectra,
    compare_spectra_by_simulation,
)

PARAMETERS = (
    Parameter(name="Omega_m", low=0.1, high=0.5, symbol=r"\Omega_\mathrm{m}"),
    Parameter(name="sigma_8", low=0.6, high=1.0, symbol=r"\sigma_8"),
)
CELL = 25 / 12
SIMULATION = np.repeat(np.arange(6), 5)


def drawn(figure, tmp_path):
    """The figure as pixels; also shows that it can be written."""
    path = style.save_figures({"figure": figure}, tmp_path, dpi=40)["figure"]
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def inside(figure):
    """Every label lies within the figure and no two panels overlap."""
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.axison]
    for index, one in enumerate(boxes):
        assert figure.bbox.x0 - 1 <= one.x0 <= one.x1 <= figure.bbox.x1 + 1
        assert figure.bbox.y0 - 1 <= one.y0 <= one.y1 <= figure.bbox.y1 + 1
        for other in boxes[index + 1 :]:
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            up = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert not (across > 2 and up > 2), (one, other)


def maps(count=30, seed=0, scatter=0.4):
    return 10 ** np.random.default_rng(seed).normal(5, scatter, (count, 12, 12))


def lines(axes, **wanted):
    return [line for line in axes.lines if all(getattr(line, f"get_{k}")() == v for k, v in wanted.items())]


@pytest.mark.parametrize("rows", [1, 2])
def test_generated_maps_are_below_real_ones_on_one_scale(rows, tmp_path):
    real, generated = maps(3), maps(3 * rows, 1).reshape(3, rows, 12, 12)
    titles = [higlow.parameter_title(values, PARAMETERS) for values in ([0.1, 0.6], [0.3, 0.8], [0.5, 1.0])]
    figure = higlow.generated_maps(real, generated if rows > 1 else generated[:, 0], CELL, titles, redshift=6)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 3 * (1 + rows)
    for index, axes in enumerate(panels):
        column, row = divmod(index, 1 + rows)
        expected = real[column] if row == 0 else generated[column, row - 1]
        np.testing.assert_allclose(axes.images[0].get_array(), expected.T)
        assert axes.images[0].norm is panels[0].images[0].norm
        assert axes.images[0].get_extent() == [0, 25, 0, 25]
    assert type(panels[0].images[0].norm).__name__ == "LogNorm"
    assert panels[0].get_title() == titles[0] == r"$\Omega_\mathrm{m} = 0.1$, $\sigma_8 = 0.6$"
    assert panels[0].get_ylabel() == "simulated\nMpc/h"
    assert panels[1].get_ylabel() == "generated\nMpc/h"
    assert r"M$_\odot$/h (Mpc/h)$^{-2}$" in figure.axes[-1].get_ylabel()
    assert figure.get_suptitle() == "$z = 6$"
    inside(figure)
    drawn(figure, tmp_path)


def test_titles_of_many_parameters_have_lines():
    parameters = [Parameter(name=name, low=0, high=1) for name in "abcde"]
    assert higlow.parameter_title([1, 2, 3, 4, 5.123], parameters) == "a = 1, b = 2\nc = 3, d = 4\ne = 5.12"
    figure = higlow.generated_maps(maps(1), maps(1), CELL, ["one\ntwo\nthree"])
    inside(figure)


def test_failed_maps_are_drawn(tmp_path):
    generated = maps(2, 1)
    generated[0, 3, 3], generated[1] = np.nan, -1.0
    drawn(higlow.generated_maps(maps(2), generated, CELL), tmp_path)


def test_spectra_have_mean_scatter_and_errors(tmp_path):
    true = maps()
    comparisons = {
        name: compare_sample_spectra(true, maps(30, seed, width), CELL, SIMULATION, SIMULATION, bootstrap_sets=50)
        for name, seed, width in (("HIGlow", 1, 0.4), ("Gaussian field", 2, 0.5))
    }
    figure = higlow.spectra(comparisons, title="all parameters")
    assert len(figure.axes) == 4
    for column, part in enumerate(("mean", "scatter")):
        upper, lower = figure.axes[column], figure.axes[2 + column]
        first = comparisons["HIGlow"]
        np.testing.assert_allclose(upper.lines[0].get_ydata(), getattr(first, f"true_{part}"))
        for place, comparison in enumerate(comparisons.values()):
            np.testing.assert_allclose(upper.lines[1 + place].get_ydata(), getattr(comparison, f"generated_{part}"))
            np.testing.assert_allclose(lower.lines[place].get_ydata(), getattr(comparison, f"{part}_error"))
            error = getattr(comparison, f"{part}_error_standard_error")
            band = lower.collections[place].get_paths()[0].vertices
            np.testing.assert_allclose(np.ptp(band[band[:, 0] == first.k[0], 1]), 2 * error[0])
        assert upper.get_xscale() == upper.get_yscale() == "log"
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["simulated", *comparisons]
    assert figure.get_suptitle() == "all parameters"
    inside(figure)
    drawn(figure, tmp_path)


def test_conditional_spectra_are_those_of_the_simulations(tmp_path):
    true = maps()
    comparisons = {
        name: compare_spectra_by_simulation(true, maps(30, seed), CELL, SIMULATION, SIMULATION)
        for name, seed in (("HIGlow", 1), ("Gaussian field", 2))
    }
    figure = higlow.conditional_spectra(comparisons, [4, 1], ["one", "two"])
    upper, lower = figure.axes[0], figure.axes[2]
    one = comparisons["HIGlow"]
    np.testing.assert_allclose(upper.lines[0].get_ydata(), one.true_mean[4])
    np.testing.assert_allclose(upper.lines[1].get_ydata(), one.generated_mean[4])
    np.testing.assert_allclose(lower.lines[0].get_ydata(), one.mean_error[4])
    np.testing.assert_allclose(lower.lines[1].get_ydata(), one.generated_scatter[4] / one.true_scatter[4] - 1)
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), one.true_mean[1])
    assert [axes.get_title() for axes in figure.axes[:2]] == ["one", "two"]
    inside(figure)
    drawn(figure, tmp_path)


def test_pixel_distributions(tmp_path):
    true = maps()
    edges = np.linspace(3.0, 7.0, 31)
    comparisons = {
        name: compare_pixels(true, maps(30, seed, width), SIMULATION, SIMULATION, edges=edges, bootstrap_sets=30)
        for name, seed, width in (("HIGlow", 1, 0.4), ("Gaussian field", 2, 0.5))
    }
    figure = higlow.pixel_distributions(comparisons)
    upper, lower = figure.axes
    np.testing.assert_allclose(
        upper.patches[0].get_data().values, np.where(comparisons["HIGlow"].true > 0, comparisons["HIGlow"].true, np.nan)
    )
    texts = [text.get_text() for text in upper.get_legend().get_texts()]
    one = comparisons["HIGlow"]
    expected = f"HIGlow: $W_1 = {one.wasserstein:.2g}$ (if right, about {one.wasserstein_expected:.2g})"
    assert texts[:2] == ["simulated", expected]
    used = comparisons["HIGlow"].true > 0
    ratio = comparisons["HIGlow"].generated[used] / comparisons["HIGlow"].true[used] - 1
    np.testing.assert_allclose(lower.lines[0].get_ydata()[used], ratio)
    assert "log" in lower.get_xlabel()
    assert higlow.pixel_distributions(comparisons, "x").axes[1].get_xlabel() == "x"
    inside(figure)
    drawn(figure, tmp_path)


def gaussian(axes, mean, deviation):
    return np.exp(
        -0.5
        * sum(((a - m) / s) ** 2 for a, m, s in zip(np.meshgrid(*axes, indexing="ij"), mean, deviation, strict=True))
    )


def test_posteriors_have_truth_mean_and_contours(tmp_path):
    axes = [p.low + 0.4 * (np.arange(80) + 0.5) / 80 for p in PARAMETERS]
    means = np.array([[0.3, 0.8], [0.25, 0.85], [0.11, 0.95], [0.35, 0.7], [0.3, 0.75]])
    densities = [gaussian(axes, mean, (0.03, 0.02)) for mean in means]
    figure = higlow.posteriors(axes, densities, means + 0.01, PARAMETERS, titles=list("abcde"))
    panels = [panel for panel in figure.axes if panel.axison]
    assert len(panels) == 5
    for place, panel in enumerate(panels):
        (mean,), (true,) = lines(panel, marker="o"), lines(panel, marker="*")
        if place != 2:
            np.testing.assert_allclose(np.ravel(mean.get_data()), means[place], atol=1e-3)
        np.testing.assert_allclose(np.ravel(true.get_data()), means[place] + 0.01)
        assert panel.get_xlim() == (0.1, 0.5)
        assert panel.get_ylim() == (0.6, 1.0)
    # Half axes of the 68% and 95% regions of a Gaussian: sqrt(-2 ln(1 - p)) deviations, the outer one first.
    contours = panels[0].collections[-1].get_paths()
    for path, level in zip(contours, (0.95, 0.68), strict=True):
        np.testing.assert_allclose(np.ptp(path.vertices[:, 0]) / 2, 0.03 * np.sqrt(-2 * np.log(1 - level)), rtol=0.03)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "68%",
        "95%",
        "posterior mean",
        "true parameters",
    ]
    drawn(figure, tmp_path)
    # Each map with a grid of its own, and nothing known of the truth.
    own = higlow.posteriors(
        [axes, [axis[::2] for axis in axes]], [densities[0], densities[1][::2, ::2]], None, PARAMETERS
    )
    assert not lines(own.axes[0], marker="*")
    # A single map, and means from outside.
    one = higlow.posteriors(axes, densities[:1], means[:1], PARAMETERS, mean=[[0.2, 0.9]])
    np.testing.assert_allclose(np.ravel(lines(one.axes[0], marker="o")[0].get_data()), [0.2, 0.9])


def test_corner_has_every_pair(tmp_path):
    parameters = [*PARAMETERS, Parameter(name="A_SN1", low=0.25, high=4.0)]
    generator = np.random.default_rng(0)
    samples = np.array([0.3, 0.8, 1.5]) + generator.normal(size=(4000, 3)) * [0.05, 0.03, 0.4]
    weights = generator.random(4000)
    figure = higlow.corner(samples, parameters, weights, [0.3, 0.8, 1.5], {"moment network": samples[::2]})
    grid = np.array(figure.axes).reshape(3, 3)
    assert [[axes.axison for axes in row] for row in grid] == [[True, False, False], [True, True, False], [True] * 3]
    assert [axes.get_xlabel() for axes in grid[2]] == [style.parameter_label(p) for p in parameters]
    assert [grid[row, 0].get_ylabel() for row in (1, 2)] == [style.parameter_label(p) for p in parameters[1:]]
    for axes in grid.ravel()[[3, 6, 7]]:
        assert len(lines(axes, marker="*")) == 1
    # Panels reach over the samples and not beyond the parameter's range.
    low, high = grid[2, 2].get_xlim()
    assert 0.25 <= low < 0.5
    assert 2.5 < high < 3.6
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["68% and 95%", "moment network, 68%", "true parameters"]
    drawn(figure, tmp_path)
    higlow.corner(np.full((10, 3), 0.3), parameters)


def test_estimates_against_truth(tmp_path):
    generator = np.random.default_rng(0)
    true = np.repeat(generator.uniform([0.1, 0.6], [0.5, 1.0], (6, 2)), 5, axis=0)
    estimated = true + 0.05 * generator.normal(size=true.shape)
    spread = np.full(true.shape, 0.05)
    paper = {"Omega_m": 0.058}
    figure = higlow.estimated_against_true(true, estimated, PARAMETERS, spread, SIMULATION, paper, "posterior means")
    for place, axes in enumerate(figure.axes):
        points, means = lines(axes, marker="o")
        np.testing.assert_array_equal(points.get_data(), [true[:, place], estimated[:, place]])
        np.testing.assert_allclose(means.get_ydata(), estimated[:, place].reshape(6, 5).mean(axis=1))
        error = root_mean_squared_error(true[:, place], estimated[:, place])
        assert f"RMSE {error:.3g}" in axes.get_title()
        assert axes.get_xlim() == axes.get_ylim()
    assert figure.axes[0].get_title().endswith("(paper, other data: 0.058)")
    assert "paper" not in figure.axes[1].get_title()
    inside(figure)
    drawn(figure, tmp_path)
    bare = higlow.estimated_against_true(true[:, :1], estimated[:, :1], PARAMETERS[:1])
    assert len(lines(bare.axes[0], marker="o")) == 1


def numbers(count=30, parameters=2, seed=0, power=1.0):
    generator = np.random.default_rng(seed)
    values = generator.random((count, parameters)) ** power
    return CalibrationNumbers(values, values, generator.random(count), generator.random(count), values - 0.5)


@pytest.mark.parametrize("parameters", [2, 6])
def test_calibration_has_ranks_and_coverage(parameters, tmp_path):
    before, after = numbers(parameters=parameters, power=3.0), numbers(parameters=parameters, seed=1)
    names = [*PARAMETERS, *(Parameter(name=f"A_{index}", low=0, high=1) for index in range(4))][:parameters]
    figure = higlow.calibration(before, names, SIMULATION, after, bins=5, bootstrap_sets=20)
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == 2 * (parameters + 2)
    upper, lower = panels[0], panels[min(4, parameters + 2)]
    assert upper.get_title() == style.parameter_label(PARAMETERS[0])
    histogram = rank_histogram(before.ranks[:, 0], 5, SIMULATION)
    stairs = [patch for patch in upper.patches if hasattr(patch, "get_data")]
    np.testing.assert_allclose(stairs[0].get_data().values, histogram.counts[:, 0] / histogram.expected)
    held = np.abs(2 * before.pit[:, 0] - 1)
    np.testing.assert_allclose(lower.lines[0].get_ydata()[10], np.mean(held <= 0.5))
    assert [text.get_text() for text in lower.get_legend().get_texts()] == ["as trained", "corrected"]
    drawn(figure, tmp_path)
    if parameters == 2:
        inside(figure)
        alone = higlow.calibration(before, names, bins=5, bootstrap_sets=20)
        assert len([patch for patch in alone.axes[0].patches if hasattr(patch, "get_data")]) == 1


def test_nearest_training_maps(tmp_path):
    generated, nearest = maps(3), maps(3, 1)
    far = np.append(np.random.default_rng(0).normal(1.1, 0.05, 100), np.nan)
    figure = higlow.nearest_training_maps(generated, nearest, [0.5, 1.0, 1.2], CELL, far, far[:50] + 0.01)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 6
    np.testing.assert_allclose(panels[0].images[0].get_array(), generated[0].T)
    np.testing.assert_allclose(panels[3].images[0].get_array(), nearest[0].T)
    assert panels[0].get_title() == "distance 0.50"
    texts = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert texts[0].startswith(f"generated maps: median {np.nanmedian(far):.2f}")
    inside(figure)
    drawn(figure, tmp_path)
    inside(higlow.nearest_training_maps(generated, nearest, [0.5, 1.0, 1.2], CELL))


def test_arguments_are_checked():
    true = maps()
    spectra = {
        name: compare_sample_spectra(m, true, CELL, bootstrap_sets=3) for name, m in (("a", true), ("b", 2 * true[:9]))
    }
    by_simulation = {"a": compare_spectra_by_simulation(true, true, CELL, SIMULATION, SIMULATION)}
    pixels = {str(n): compare_pixels(true, true, edges=np.linspace(3, 7, n), bootstrap_sets=3) for n in (5, 6)}
    axes = [np.linspace(0.1, 0.5, 8), np.linspace(0.6, 1.0, 9)]
    density, values = np.ones((8, 9)), np.full((4, 2), 0.3)
    cases = [
        (lambda: higlow.generated_maps(true[0], true, CELL), r"real: expected shape \(n, nx, ny\)"),
        (lambda: higlow.generated_maps(true, true[:2], CELL), r"generated: expected the shape of real, \(30, 12, 12\)"),
        (lambda: higlow.generated_maps(-true, true, CELL), "maps: expected positive pixels for a logarithmic colour"),
        (lambda: higlow.generated_maps(true, true, CELL, ["one"]), "titles: expected 30, got 1"),
        (lambda: higlow.spectra({}), r"comparisons: expected at least one, such as .*compare_sample_spectra.*got none"),
        (
            lambda: higlow.spectra(spectra),
            "comparisons: expected the wavenumbers and true spectra .* those of 'b' differ",
        ),
        (lambda: higlow.conditional_spectra(by_simulation, [0, 9]), r"expected simulations \[0, 9\] .*'a' lacks \[9\]"),
        (lambda: higlow.pixel_distributions(pixels), "comparisons: expected the edges of the first in all"),
        (
            lambda: higlow.posteriors(axes, [density], None, PARAMETERS[:1]),
            "parameters: expected two, got 1; use corner",
        ),
        (lambda: higlow.posteriors(axes, [], None, PARAMETERS), "densities: expected at least one posterior, got none"),
        (
            lambda: higlow.posteriors(axes, [density.T], None, PARAMETERS),
            r"densities: expected shape \(8, 9\) .* map 0",
        ),
        (lambda: higlow.posteriors(axes, [-density], None, PARAMETERS), "densities: expected .* at least 0"),
        (lambda: higlow.posteriors([axes] * 3, [density], None, PARAMETERS), "axes: expected one pair, .*got 3"),
        (
            lambda: higlow.posteriors(axes, [density], values, PARAMETERS),
            r"true: expected shape \(1, 2\), got \(4, 2\)",
        ),
        (lambda: higlow.corner(values, PARAMETERS[:1]), "parameters: expected one per column, 2, got 1"),
        (lambda: higlow.corner(values, PARAMETERS, weights=np.zeros(4)), "weights: expected one number of at least 0"),
        (lambda: higlow.corner(values, PARAMETERS, true=[1]), r"true: expected one value per parameter, \(2,\)"),
        (lambda: higlow.corner(values, PARAMETERS, other={"b": values[:, :1]}), "other: expected 2 parameters of 'b'"),
        (lambda: higlow.estimated_against_true(values, values, PARAMETERS[:1]), "parameters: expected one per column"),
        (
            lambda: higlow.estimated_against_true(values, values[:2], PARAMETERS),
            "predicted: expected the shape of true",
        ),
        (lambda: higlow.estimated_against_true(values, values, PARAMETERS, values[:2]), "standard_deviation: expected"),
        (lambda: higlow.calibration(numbers(), PARAMETERS[:1]), "parameters: expected one per column, 2, got 1"),
        (lambda: higlow.calibration(numbers(), PARAMETERS, after=numbers(20)), r"after: expected the maps of before"),
        (lambda: higlow.nearest_training_maps(true, true[:2], [1], CELL), "nearest: expected the shape of generated"),
        (lambda: higlow.nearest_training_maps(true, true, [1], CELL), r"distances: expected one per map, \(30,\)"),
    ]
    for use, message in cases:
        with pytest.raises(ValueError, match=message):
            use()


def test_example():
    assert doctest.testmod(higlow).failed == 0
