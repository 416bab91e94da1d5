import subprocess
import sys

import healpy
import matplotlib
import numpy as np
import pytest
from healpy.projector import MollweideProj
from matplotlib.colors import to_hex
from PIL import Image
from scipy.ndimage import gaussian_filter

from keras_cosmo.figures import dust, style
from keras_cosmo.statistics.cutout_correlation import band_correlations

PIXEL = 23.4
VELOCITIES = np.linspace(-120, 120, 61)
ELL = 14.4 * np.arange(1, 31)
R = np.random.default_rng(0).uniform(0.5, 0.9, (40, 2))


def cutout(seed=0):
    return np.exp(gaussian_filter(np.random.default_rng(seed).normal(size=(64, 64)), 3, mode="wrap") * 6)


def falling(level, slope=1e-4):
    return level - slope * ELL, 0.01 + 0 * ELL


def drawn(figure, tmp_path):
    """The figure as pixels; also shows that it can be written."""
    path = style.save_figures({"figure": figure}, tmp_path, dpi=50)["figure"]
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def inside(figure):
    """Every label lies within the figure and no two panels overlap."""
    figure.canvas.draw()
    box = figure.bbox
    # Two axes at one place are the two scales of one panel.
    panels = {axes.get_position().bounds: axes for axes in figure.axes}
    boxes = [axes.get_tightbbox() for axes in panels.values()]
    legends = [legend.get_tightbbox() for legend in figure.legends]
    texts = [text.get_window_extent() for text in figure.texts]
    for tight in [*boxes, *legends, *texts]:
        assert box.x0 - 1 <= tight.x0 <= tight.x1 <= box.x1 + 1, tight
        assert box.y0 - 1 <= tight.y0 <= tight.y1 <= box.y1 + 1, tight
    everything = [*boxes, *legends, *texts]
    for index, one in enumerate(everything):
        for other in everything[index + 1 :]:
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            up = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert not (across > 2 and up > 2), (one, other)


def line(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return found


def test_models_look_the_same_in_all_figures():
    one = dust.model_colours(["U-Net", "linear combination"])
    other = dust.model_colours(["linear by scale", "another", "linear combination", "integrated intensity"])
    assert one["linear combination"] == other["linear combination"]
    colours = [*dust.model_colours(dust.MODELS).values(), other["another"]]
    assert len(set(colours)) == 5
    figures = [
        dust.correlation_by_multipole(ELL, {"test": {"linear combination": falling(0.8)}}),
        dust.correlation_by_multipole(ELL, {"test": {name: falling(0.8) for name in dust.MODELS}}),
        dust.linear_weights(VELOCITIES, {"linear combination": VELOCITIES}),
        dust.transfer_by_multipole(ELL, {name: falling(1.0) for name in dust.MODELS[::-1]}),
    ]
    assert {line(figure.axes[0], "linear combination").get_color() for figure in figures} == {one["linear combination"]}
    points = dust.realisations(R, {"linear combination": R}).axes[0].collections[0]
    assert to_hex(points.get_facecolor()[0]) == one["linear combination"].lower()


def test_velocity_profile(tmp_path):
    intensity = np.exp(-0.5 * ((VELOCITIES + 5) / 12) ** 2)
    figure = dust.velocity_profile(VELOCITIES, intensity)
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), np.stack([VELOCITIES, intensity], 1))
    dotted = [found.get_xdata()[0] for found in axes.lines if found.get_linestyle() == ":"]
    assert dotted == [-64.5, 17.0]
    used = intensity[(VELOCITIES >= -64.5) & (VELOCITIES <= 17)].sum() / intensity.sum()
    assert f"{100 * used:.1f}% of the emission" in axes.get_title(loc="left")
    inside(figure)
    assert drawn(figure, tmp_path).std() > 5
    assert not dust.velocity_profile(VELOCITIES, intensity, None).axes[0].get_title(loc="left")


@pytest.mark.parametrize("count", [1, 3, 4])
def test_cutouts_are_divided_by_their_largest_pixel_and_masked_in_grey(count, tmp_path):
    mask = np.ones((64, 64))
    mask[:20, 40:] = 0.0
    true = cutout() * mask
    names = ["integrated intensity", "linear combination", "U-Net", "linear by scale"][:count]
    predictions = {name: (10 * true + place * cutout(place + 1)) * mask for place, name in enumerate(names)}
    figure = dust.cutouts(true, predictions, PIXEL, mask)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == count + 1
    for axes, image in zip(shown, [true, *predictions.values()], strict=True):
        array = axes.images[0].get_array()
        # Rows go up: the first row of the cutout is the first of an image with its origin below.
        np.testing.assert_allclose(array.filled(-1), np.where(mask > 0, image / image.max(), -1))
        assert axes.images[0].origin == "lower"
        assert axes.images[0].get_clim() == shown[0].images[0].get_clim()
        np.testing.assert_allclose(axes.images[0].get_extent(), [0, 24.96, 0, 24.96])
        assert to_hex(axes.images[0].get_cmap().get_bad()) == "#9ca3af"
    assert shown[0].get_title() == "true dust"
    for axes, (name, image) in zip(shown[1:], predictions.items(), strict=True):
        r50, r150 = band_correlations(true[None], image[None], PIXEL)[0]
        assert axes.get_title() == f"{name}\n$r_{{50}}$ = {r50:.2f}, $r_{{150}}$ = {r150:.2f}"
    inside(figure)
    assert drawn(figure, tmp_path).std() > 10


def test_empty_cutouts_can_be_drawn(tmp_path):
    drawn(dust.cutouts(np.zeros((64, 64)), {"U-Net": cutout()}, PIXEL), tmp_path)
    drawn(dust.cutouts(cutout(), {"U-Net": -cutout()}, PIXEL), tmp_path)


def test_realisations_count_wins(tmp_path):
    better = R + np.random.default_rng(1).uniform(-0.02, 0.1, R.shape)
    figure = dust.realisations(R, {"linear combination": R - 0.01, "U-Net": better})
    for column, axes in enumerate(figure.axes):
        np.testing.assert_allclose(axes.collections[1].get_offsets(), np.stack([R, better], -1)[:, column])
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            "linear combination: higher in 0 of 40",
            f"U-Net: higher in {np.sum(better[:, column] > R[:, column])} of 40",
        ]
        x, y = axes.lines[0].get_data()
        np.testing.assert_array_equal(x, y)
        low, high = axes.get_xlim()
        every = np.concatenate([R[:, column], better[:, column]])
        assert low < every.min()
        assert every.max() < high <= 1.0
        assert axes.get_ylim() == (low, high)
        assert "integrated intensity" in axes.get_xlabel()
    inside(figure)
    assert drawn(figure, tmp_path).std() > 5


def test_correlation_by_multipole(tmp_path):
    sets = {
        "training: north": {name: falling(0.95 - 0.05 * place) for place, name in enumerate(dust.MODELS)},
        "test: south": {"U-Net": falling(0.9), "integrated intensity": (falling(0.8)[0], None)},
    }
    figure = dust.correlation_by_multipole(ELL, sets)
    assert [axes.get_title() for axes in figure.axes] == list(sets)
    for axes, models in zip(figure.axes, sets.values(), strict=True):
        for name, (mean, _) in models.items():
            np.testing.assert_array_equal(line(axes, name).get_xydata(), np.stack([ELL, mean], 1))
        assert len(axes.collections) == sum(error is not None for _, error in models.values())
        assert axes.get_ylim()[0] < 0.75
        marks = [found.get_xdata()[0] for found in axes.lines if len(found.get_xdata()) == 2]
        assert marks == [100.0, 200.0]
    band = figure.axes[1].collections[0].get_paths()[0].vertices
    np.testing.assert_allclose([band[:, 1].max(), band[:, 1].min()], [0.9 - 1e-4 * ELL[0] + 0.01, 0.9 - 0.0432 - 0.01])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(dust.MODELS)
    inside(figure)
    drawn(figure, tmp_path)
    plain = dust.correlation_by_multipole(ELL, {"one": {"another": falling(0.5)}}, bands=False)
    assert not plain.axes[0].texts


def test_weights_of_the_correlation(tmp_path):
    means = {weight: falling(0.9 - 0.1 / (1 + weight))[0] for weight in (30, 0, 120, 1, 10)}
    figure = dust.correlation_weights(ELL, means, {"integrated intensity": falling(0.7)[0]})
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [rf"U-Net, $\lambda = {weight}$" for weight in (0, 1, 10, 30, 120)] + ["integrated intensity"]
    np.testing.assert_array_equal(line(axes, labels[3]).get_ydata(), means[30])
    assert len({found.get_color() for found in axes.lines[:5]}) == 5
    inside(figure)
    drawn(figure, tmp_path)
    dust.correlation_weights(ELL, {30: means[30]})


def test_transfer(tmp_path):
    figure = dust.transfer_by_multipole(ELL, {"U-Net": falling(0.9), "linear combination": falling(0.4)})
    (axes,) = figure.axes
    np.testing.assert_array_equal(line(axes, "U-Net").get_ydata(), falling(0.9)[0])
    assert axes.get_ylim()[0] < 0.35 < 1.0 < axes.get_ylim()[1]
    both = dust.transfer_by_multipole(ELL, {"U-Net": falling(0.9)}, {"U-Net": (falling(9.0)[0], None)})
    assert len(both.axes) == 2
    # A scale that is off by a factor of nine does not hide the others.
    assert both.axes[1].get_ylim()[1] == 3.0
    for each in (figure, both):
        inside(each)
        drawn(each, tmp_path)


def test_weights_and_importance_of_velocities(tmp_path):
    weights = np.sin(VELOCITIES / 20)
    figure = dust.linear_weights(VELOCITIES, {"linear combination": weights})
    np.testing.assert_array_equal(
        line(figure.axes[0], "linear combination").get_xydata(), np.stack([VELOCITIES, weights], 1)
    )
    assert figure.axes[0].get_ylabel() == r"weight [$\mu$K$_\mathrm{RJ}$ K$^{-1}$]"
    inside(figure)
    drawn(figure, tmp_path)
    edges = np.linspace(-60, 20, 9)
    ranges = np.stack([edges[:-1], edges[1:]], axis=1)
    drop = {"r50": np.linspace(-0.01, 0.05, 8), "r150": (np.linspace(0, 0.03, 8), np.full(8, 0.002))}
    figure = dust.velocity_importance(ranges, drop, np.stack([VELOCITIES, np.exp(-((VELOCITIES / 20) ** 2))]))
    axes, behind = figure.axes
    for container, values in zip(axes.containers, (drop["r50"], drop["r150"][0]), strict=True):
        np.testing.assert_allclose(container.lines[0].get_xydata(), np.stack([ranges.mean(axis=1), values], 1))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["$r_{50}$", "$r_{150}$"]
    (low, high), (lowest, highest) = axes.get_ylim(), behind.get_ylim()
    np.testing.assert_allclose(low / high, lowest / highest)
    inside(figure)
    drawn(figure, tmp_path)
    centres = dust.velocity_importance(ranges.mean(axis=1), {"U-Net": drop["r50"]})
    np.testing.assert_allclose(centres.axes[0].containers[0].lines[0].get_xdata(), ranges.mean(axis=1))
    drawn(centres, tmp_path)


def test_skies_are_those_of_healpy(tmp_path):
    nside = 8
    true = np.random.default_rng(0).uniform(1, 2, 12 * nside**2)
    masked = true.copy()
    masked[300:400] = np.nan
    masked[500:520] = healpy.UNSEEN
    maps = {"truth": masked, "prediction": 3 * true, "scatter": 0.1 * true, "residual": true - 1.5}
    figure = dust.sky_maps(maps, shared=("truth", "prediction"))
    shown = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in shown] == [rf"{title} [$\mu$K$_\mathrm{{RJ}}$]" for title in maps]
    projector = MollweideProj(xsize=1000)
    expected = projector.projmap(true, lambda x, y, z: healpy.vec2pix(nside, x, y, z))
    number = projector.projmap(np.arange(true.size, dtype=float), lambda x, y, z: healpy.vec2pix(nside, x, y, z))
    on_sky = np.isfinite(expected)
    array = shown[0].images[0].get_array()
    hidden = np.isin(number, np.flatnonzero(~(masked > 0)))
    np.testing.assert_array_equal(np.ma.getmaskarray(array)[on_sky], hidden[on_sky])
    np.testing.assert_array_equal(array[on_sky & ~hidden], expected[on_sky & ~hidden])
    limits = [axes.images[0].get_clim() for axes in shown]
    assert limits[0] == limits[1] != limits[2]
    assert limits[3][0] == -limits[3][1]
    assert to_hex(shown[0].images[0].get_cmap().get_bad()) == "#9ca3af"
    inside(figure)
    pixels = drawn(figure, tmp_path)
    assert pixels.std() > 20
    # White outside the ellipse: the corners of the first panel.
    height, width = pixels.shape[:2]
    box = shown[0].get_position()
    assert np.all(pixels[int((1 - box.y1) * height) + 2, int(box.x0 * width) + 2] == 255)
    drawn(dust.sky_maps({"flat": np.ones(12), "zero": np.zeros(12)}, unit=""), tmp_path)


def test_the_sky_has_north_up_and_longitude_growing_to_the_left(tmp_path):
    longitude, latitude = healpy.pix2ang(16, np.arange(12 * 16**2), lonlat=True)
    image = dust.sky_maps({"latitude": latitude}).axes[0].images[0]
    assert image.origin == "lower"
    array = image.get_array()
    assert array[450, 500] > 50 > -50 > array[50, 500]
    array = dust.sky_maps({"east": np.where(longitude < 180, longitude, longitude - 360)}).axes[0].images[0].get_array()
    assert array[250, 250] > 60
    assert array[250, 750] < -60


def test_areas(tmp_path):
    longitude, latitude = healpy.pix2ang(16, np.arange(12 * 16**2), lonlat=True)
    mask = (np.abs(latitude) > 15).astype(float)
    generator = np.random.default_rng(0)
    centres = np.stack([generator.uniform(0, 360, 5000), -np.degrees(np.arcsin(generator.uniform(0.3, 1, 5000)))])
    areas = {"training": latitude > 18, "validation": (latitude > 18) & (longitude < 90), "test": centres}
    figure = dust.sky_areas(mask, areas)
    (axes,) = figure.axes
    assert len(axes.images) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*areas, "masked"]
    points = [found for found in axes.lines if found.get_marker() == "."]
    assert len(points) == 1
    assert len(points[0].get_xdata()) == 2500
    assert np.all(points[0].get_ydata() < 0)
    inside(figure)
    pixels = drawn(figure, tmp_path)
    # The masked band in the middle is grey.
    height, width = pixels.shape[:2]
    box = axes.get_position()
    row, column = int((1 - 0.5 * (box.y0 + box.y1)) * height), int((0.3 * box.x1 + 0.7 * box.x0) * width)
    np.testing.assert_allclose(pixels[row + 2, column], [156, 163, 175], atol=3)


def test_drawing_leaves_no_trace():
    before = dict(matplotlib.rcParams)
    dust.correlation_by_multipole(ELL, {"test": {"U-Net": falling(0.8)}})
    dust.sky_maps({"one": np.arange(12.0)})
    assert dict(matplotlib.rcParams) == before
    from matplotlib import pyplot

    assert not pyplot.get_fignums()
    code = (
        "import sys, keras_cosmo.figures.dust;"
        "raise SystemExit('tensorflow' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SKY = np.ones(48)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dust.velocity_profile(VELOCITIES, ELL), r"mean_intensity: expected the shape of velocities, \(61,\)"),
        (lambda: dust.velocity_profile(SKY[None], SKY[None]), r"velocities: expected shape \(n,\)"),
        (lambda: dust.cutouts(cutout(), {}, PIXEL), r"predictions: expected at least one.*U-Net"),
        (lambda: dust.cutouts(cutout()[None], {"U-Net": cutout()}, PIXEL), r"true: expected shape \(side, side\)"),
        (lambda: dust.cutouts(cutout(), {"a": SKY}, PIXEL), r"predictions\['a'\]: expected the shape of true"),
        (lambda: dust.cutouts(cutout(), {"a": cutout()}, PIXEL, SKY), r"mask: expected the shape of true"),
        (lambda: dust.realisations(R, {}), r"scores: expected at least one"),
        (lambda: dust.realisations(R[:, 0], {"a": R}), r"reference: expected shape \(n_cutouts, 2\)"),
        (lambda: dust.realisations(R, {"a": R[1:]}), r"scores\['a'\]: expected the shape of reference, \(40, 2\)"),
        (lambda: dust.realisations(R * np.nan, {"a": R}), r"reference: expected finite r50 and r150.*with NaN"),
        (lambda: dust.correlation_by_multipole(ELL, {}), r"sets: expected at least one"),
        (lambda: dust.correlation_by_multipole(ELL, {"test": {}}), r"sets\['test'\]: expected at least one"),
        (
            lambda: dust.correlation_by_multipole(ELL, {"test": {"a": (SKY, None)}}),
            r"sets\['test'\]\['a'\]: expected the shape of ell",
        ),
        (
            lambda: dust.correlation_by_multipole(ELL, {"test": {"a": (ELL, SKY)}}),
            r"sets\['test'\]\['a'\], error: expected the shape of ell",
        ),
        (
            lambda: dust.correlation_by_multipole(ELL, {"test": {"a": (ELL, ELL, ELL)}}),
            r"sets\['test'\]\['a'\]: expected a mean and its error, got 3",
        ),
        (lambda: dust.correlation_weights(ELL, {}), r"means: expected at least one"),
        (lambda: dust.correlation_weights(ELL, {30: SKY}), r"means\[30\]: expected the shape of ell"),
        (lambda: dust.correlation_weights(ELL, {30: ELL}, {"a": SKY}), r"references\['a'\]: expected the shape of ell"),
        (lambda: dust.transfer_by_multipole(ELL, {}), r"transfer: expected at least one"),
        (lambda: dust.transfer_by_multipole(ELL, {"a": (SKY, None)}), r"transfer\['a'\]: expected the shape of ell"),
        (lambda: dust.linear_weights(VELOCITIES, {}), r"weights: expected at least one"),
        (lambda: dust.linear_weights(VELOCITIES, {"a": SKY}), r"weights\['a'\]: expected the shape of velocities"),
        (
            lambda: dust.velocity_importance(np.ones((4, 3)), {"a": SKY}),
            r"velocities: expected shape \(n_ranges, 2\) or",
        ),
        (lambda: dust.velocity_importance(VELOCITIES, {}), r"drop: expected at least one"),
        (lambda: dust.velocity_importance(VELOCITIES, {"a": SKY}), r"drop\['a'\]: expected the shape of velocities"),
        (
            lambda: dust.velocity_importance(VELOCITIES, {"a": VELOCITIES}, SKY),
            r"mean_intensity: expected shape \(2, n_channels\)",
        ),
        (lambda: dust.sky_maps({}), r"maps: expected at least one"),
        (lambda: dust.sky_maps({"a": np.ones(13)}), r"maps\['a'\]: expected a HEALPix map .* got 13"),
        (
            lambda: dust.sky_maps({"a": SKY * np.nan}),
            r"maps\['a'\]: expected pixels with values, got a map that is masked",
        ),
        (lambda: dust.sky_maps({"a": SKY}, shared=("b",)), r"shared: expected titles of maps, a, got b"),
        (lambda: dust.sky_areas(SKY, {}), r"areas: expected at least one"),
        (lambda: dust.sky_areas(np.ones(13), {"a": SKY > 0}), r"mask: expected a HEALPix map"),
        (lambda: dust.sky_areas(SKY, {"a": SKY}), r"areas\['a'\]: expected booleans .* got shape \(48,\) of float64"),
        (lambda: dust.sky_areas(SKY, {"a": np.ones(13) > 0}), r"areas\['a'\]: expected booleans"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
