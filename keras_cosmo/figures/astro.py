"""Figures of astrophysical parameters from 21-cm maps and of saliency.

They follow Villanueva-Domingo & Villaescusa-Navarro (2021, ApJ 907, 44), sections IV.3 to IV.5.
Arrays in, a Matplotlib Figure out. Parameters are ``(n_maps, n_parameters)`` in physical units, maps
``(n_maps, nx, ny)`` in mK, saliency maps ``(n_maps, n_parameters, nx, ny)``: the derivative of a network's output with
respect to its input, of which the absolute value is shown.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN
from matplotlib.ticker import MaxNLocator

from keras_cosmo.figures.style import (
    CYCLE,
    PALETTE,
    axes_in_inches,
    brightness_temperature_scale,
    check_array,
    check_titles,
    draw_brightness_temperature,
    draw_map,
    figure_style,
    panel_size,
    parameter_label,
)
from keras_cosmo.quantities import Parameter
from keras_cosmo.statistics.distributions import (
    brightest_pixels,
    mean_at_brightest,
    normalize_maps,
    rank_correlation,
)
from keras_cosmo.statistics.scores import average_by_simulation, r2
from keras_cosmo.statistics.spectra import over_maps

# Scores below this say no more than that a network failed; they are drawn as an arrow down to it.
_FLOOR = -0.5
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Light greys for the map and reds for the pixels: the pixels stay the darker ones without colour, too.
_GREY = LinearSegmentedColormap.from_list("keras_cosmo_light_grey", ["#AEB4BB", "#FFFFFF"], N=256)
_RED = LinearSegmentedColormap.from_list("keras_cosmo_red", ["#F2694B", "#C4161C", "#4A000A"], N=256)


def recovery(
    true,
    predictions: Mapping[str, np.ndarray],
    parameters: Sequence[Parameter],
    simulation=None,
    redshift: float | None = None,
) -> Figure:
    """Figures 6 and 8: predicted against true parameters, one column per parameter and one row per network.

    Every map is a faint point; with ``simulation`` the mean prediction over the maps of each simulation is drawn over
    them. R2 is that of single maps, as in the paper, and below it that of the means.

    Args:
        true: True parameters ``(n_maps, n_parameters)``.
        predictions: Predicted parameters by network, such as ``{"frozen encoder": ..., "trained encoder": ...}``.
        parameters: The parameters, in the order of the columns.
        simulation: Simulation id of each map, integers ``(n_maps,)``.
        redshift: For the title.

    Raises:
        ValueError: On shapes that do not match, values that are not finite, or a parameter that does not vary.
    """
    true = check_array(true, 2, "true", "(n_maps, n_parameters)").astype(np.float64)
    if len(parameters) != true.shape[1]:
        raise ValueError(f"parameters: expected one per column, {true.shape[1]}, got {len(parameters)}.")
    if not predictions:
        raise ValueError('predictions: expected at least one, such as {"frozen encoder": values}, got none.')
    with figure_style():
        rows, columns = len(predictions), len(parameters)
        figure = Figure(figsize=(0.6 + 3.2 * columns, 1.0 + 3.1 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        scores = {name: r2(true, predicted) for name, predicted in predictions.items()}
        predictions = {name: np.asarray(predicted, dtype=np.float64) for name, predicted in predictions.items()}
        limits = [
            _limits(true[:, column], [predicted[:, column] for predicted in predictions.values()], parameter)
            for column, parameter in enumerate(parameters)
        ]
        for panels, (name, predicted) in zip(grid, predictions.items(), strict=True):
            means = None
            if simulation is not None:
                means = [average_by_simulation(values, simulation).mean for values in (true, predicted)]
            for column, axes in enumerate(panels):
                averaged = None if means is None else [values[:, column] for values in means]
                _draw_recovery(
                    axes, true[:, column], predicted[:, column], averaged, limits[column], scores[name][column]
                )
            panels[0].set_ylabel(f"{name}\npredicted" if name else "predicted")
        for axes, parameter in zip(grid[0], parameters, strict=True):
            axes.set_title(parameter_label(parameter))
        for axes in grid[-1]:
            axes.set_xlabel("true")
        _title(figure, redshift)
        return figure


def encoder_comparison(
    table: Mapping[str, Mapping[str, float]],
    parameters: Sequence[Parameter],
    errors: Mapping[str, Mapping[str, float]] | None = None,
    paper: Mapping[str, float] | None = None,
    redshift: float | None = None,
) -> Figure:
    """R2 of several networks for each parameter and its mean over parameters, the number that the paper quotes.

    Args:
        table: R2 by network and parameter name, such as ``{"frozen": {"log10_L_X": 0.8, ...}, ...}``. The name
            ``"mean"`` overrides the mean over parameters.
        parameters: The parameters, in the order of drawing.
        errors: Standard errors in the same form, where known.
        paper: The paper's mean R2 by network, drawn as hollow markers; it was measured on other data.
        redshift: For the title.

    Raises:
        ValueError: If the table is empty or names an unknown parameter, or the paper's values an unknown network.
    """
    names = [parameter.name for parameter in parameters]
    unknown = sorted({name for scores in table.values() for name in scores} - {*names, "mean"})
    if not table or unknown:
        raise ValueError(
            f"table: expected at least one network with scores for {names}, "
            f"got networks {list(table)} and unknown parameters {unknown}."
        )
    strangers = sorted(set(paper or {}) - set(table))
    if strangers:
        raise ValueError(f"paper: expected networks of the table, {list(table)}, got {strangers}.")
    with figure_style():
        figure = Figure(figsize=(max(5.5, 1.5 + 0.42 * len(table) * (len(names) + 1)), 3.9), layout="constrained")
        axes = figure.add_subplot()
        bottom = 0.0
        for index, (network, scores) in enumerate(table.items()):
            known = [scores[name] for name in names if name in scores]
            mean = scores.get("mean", float(np.mean(known)) if len(known) == len(names) else np.nan)
            values = np.array([*(scores.get(name, np.nan) for name in names), mean], dtype=np.float64)
            spread = (errors or {}).get(network, {})
            spread = np.array([spread.get(name, np.nan) for name in [*names, "mean"]], dtype=np.float64)
            x = np.arange(len(values)) + 0.75 * ((index + 0.5) / len(table) - 0.5)
            style = {"color": CYCLE[index % len(CYCLE)], "linestyle": "none", "markersize": 7}
            marker = _MARKERS[index % len(_MARKERS)]
            axes.plot(x, np.where(values >= _FLOOR, values, np.nan), marker=marker, label=network, **style)
            below = values < _FLOOR
            axes.plot(x[below], np.full(below.sum(), _FLOOR), marker=CARETDOWN, **style)
            shown = ~below & np.isfinite(values) & np.isfinite(spread)
            axes.errorbar(x[shown], values[shown], spread[shown], fmt="none", ecolor=style["color"], capsize=2.5)
            if network in (paper or {}):
                label = f"{network}, paper (their data)"
                hollow = {"markerfacecolor": "none", "markeredgewidth": 1.4, "marker": marker, "label": label}
                axes.plot(x[-1] + 0.08, paper[network], **hollow, **style)
            for here, value, error in zip(x, values, np.nan_to_num(spread), strict=True):
                if np.isfinite(value):
                    above = value - error < _FLOOR + 0.1
                    place = {"ha": "center", "va": "bottom" if above else "top", "textcoords": "offset points"}
                    height = max(value + error, _FLOOR) if above else value - error
                    axes.annotate(
                        f"${value:.2f}$", (here, height), (0, 6 if above else -6), fontsize="x-small", **place
                    )
            bottom = min(bottom, np.nanmin(values - np.nan_to_num(spread), initial=0.0))
        axes.axhline(0.0, color="#4B5563", linewidth=0.8)
        axes.axhline(1.0, color=PALETTE["guide"], linewidth=0.8, linestyle=":")
        axes.axvline(len(names) - 0.5, color=PALETTE["guide"], linewidth=0.8)
        labels = [_symbol(parameter) for parameter in parameters]
        axes.set_xticks(np.arange(len(names) + 1), [*labels, "mean"])
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.5, len(names) + 0.5)
        axes.set_ylim(max(bottom, _FLOOR) - 0.12, 1.08)
        axes.set_ylabel("$R^2$")
        axes.grid(True, axis="y")
        figure.legend(loc="outside upper center", ncols=min(len(table) + len(paper or {}), 3))
        if redshift is not None:
            axes.set_title(f"$z = {redshift:g}$")
        return figure


def saliency_pixels(
    maps,
    saliency,
    parameters: Sequence[Parameter],
    cell_size: float,
    fraction: float = 0.02,
    titles: Sequence[str] | None = None,
    redshift: float | None = None,
) -> Figure:
    """Figures 9 and 10: 21-cm maps with the pixels of the largest saliency in red, the darker the larger.

    One row per map: the map in colour, then for each parameter the map in grey under its brightest pixels. The reds
    of a row are on one scale, from 0 to the row's largest saliency.

    Args:
        maps: Brightness temperature in mK, ``(n_maps, nx, ny)``.
        saliency: Derivative of each parameter's output, ``(n_maps, n_parameters, nx, ny)``.
        parameters: The parameters, in the order of the saliency.
        cell_size: Side of a cell in comoving Mpc.
        fraction: Part of the pixels that is marked.
        titles: One title per map.
        redshift: For the title.

    Raises:
        ValueError: On shapes that do not match or a fraction outside (0, 1].
    """
    maps, saliency = _maps_and_saliency(maps, saliency, parameters)
    titles = check_titles(titles, len(maps))
    with figure_style():
        figure, grid, bars = _rows_of_maps(maps, 1 + len(parameters), cell_size, titles, redshift)
        for row, (image, gradients) in enumerate(zip(maps, saliency, strict=True)):
            scale = Normalize(0.0, float(gradients.max()) or 1.0)
            chosen = brightest_pixels(gradients, fraction)
            norm, colormap = brightness_temperature_scale(image)
            # The grey of a pixel is the lightness of its colour in the first panel, whatever the sign.
            grey = colormap(norm(image))[..., :3] @ np.array([0.2126, 0.7152, 0.0722])
            for column, parameter in enumerate(parameters):
                axes = grid[row][1 + column]
                draw_map(axes, grey, cell_size, norm=Normalize(0.0, 1.0), cmap=_GREY)
                _draw_pixels(axes, gradients[column], chosen[column], cell_size, scale)
                if row == 0:
                    axes.set_title(_symbol(parameter))
            figure.colorbar(ScalarMappable(Normalize(0.0, 1.0), _RED), cax=bars[row], label="saliency / largest")
        return figure


def saliency_statistics(
    maps,
    saliency,
    parameters: Sequence[Parameter],
    fraction: float = 0.02,
    simulation=None,
    quantity: str = r"\delta T_\mathrm{b}",
    redshift: float | None = None,
) -> Figure:
    """Where a network looks: values of the map at the pixels of the largest saliency against those of all pixels.

    Each map is normalised by its own mean and standard deviation. The legend has the mean at the brightest pixels with
    its standard error: above 0 the network looks at pixels warmer than the mean of their map, which at z = 15 are the
    underdense ones (section IV.5 of the paper).

    Args:
        maps: Brightness temperature, or another field of the same slabs such as the density, ``(n_maps, nx, ny)``.
        saliency: Derivative of each parameter's output, ``(n_maps, n_parameters, nx, ny)``.
        parameters: The parameters, in the order of the saliency.
        fraction: Part of the pixels of each map that counts as brightest.
        simulation: Simulation id of each map, for the standard error.
        quantity: Symbol of the field in mathtext, without dollar signs.
        redshift: For the title.

    Raises:
        ValueError: On shapes that do not match or a fraction outside (0, 1].
    """
    maps, saliency = _maps_and_saliency(maps, saliency, parameters)
    normalized = normalize_maps(maps)
    usable = ~np.isnan(normalized[:, 0, 0])
    edges = np.linspace(-5.0, 5.0, 41)
    with figure_style():
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.add_subplot()
        everywhere = _histogram(normalized[usable], edges)
        axes.stairs(everywhere, edges, fill=True, color="#D1D5DB", label="all pixels: mean 0")
        for index, parameter in enumerate(parameters):
            gradients = saliency[:, index]
            chosen = brightest_pixels(gradients, fraction)
            density = _histogram(normalized[usable][chosen[usable]], edges)
            summary = over_maps(mean_at_brightest(maps, gradients, fraction)[:, None], simulation)
            mean, error = summary.mean[0], summary.standard_error[0]
            symbol = _symbol(parameter)
            label = f"{symbol}: mean ${mean:+.2f}$" + (rf"$\pm{error:.2f}$" if np.isfinite(error) else "")
            style = {"color": CYCLE[index % len(CYCLE)], "linestyle": ("-", "--", "-.", ":")[index % 4]}
            axes.stairs(density, edges, linewidth=1.8, label=label, **style)
            axes.axvline(mean, ymax=0.06, linewidth=2.2, **style)
        axes.axvline(0.0, color=PALETTE["guide"], linewidth=0.8)
        axes.set_xlim(-4.0, 4.0)
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel(rf"normalised ${quantity}$ of the pixel [standard deviations of its map]")
        axes.set_ylabel("probability density")
        axes.legend(title=f"most salient {100 * fraction:g}% of the pixels:", alignment="left")
        _title(figure, redshift)
        return figure


def saliency_randomization(
    maps,
    trained,
    randomized: Mapping[str, np.ndarray],
    cell_size: float,
    titles: Sequence[str] | None = None,
    redshift: float | None = None,
) -> Figure:
    """Saliency of the trained network beside that of the same network with random weights (Adebayo et al. 2018).

    A saliency that says something about what was learnt differs from that of random weights: the rank correlation
    (Spearman) of the absolute values with those of the trained network, given in each panel, is then well below 1.

    Args:
        maps: Brightness temperature in mK, ``(n_maps, nx, ny)``.
        trained: Saliency of the trained network for one parameter, ``(n_maps, nx, ny)``.
        randomized: Saliency of randomised networks, by what was randomised, such as ``{"all layers": ...}``.
        cell_size: Side of a cell in comoving Mpc.
        titles: One title per map.
        redshift: For the title.

    Raises:
        ValueError: On shapes that do not match.
    """
    maps = check_array(maps, 3, "maps", "(n_maps, nx, ny)")
    if not randomized:
        raise ValueError('randomized: expected at least one, such as {"all layers": saliency}, got none.')
    sources = {"trained network": trained, **{f"random weights: {name}": values for name, values in randomized.items()}}
    for name, values in sources.items():
        if np.shape(values) != maps.shape:
            raise ValueError(
                f"saliency of {name!r}: expected the shape of maps, {maps.shape}, got {np.shape(values)}; "
                f"pass one parameter at a time."
            )
    titles = check_titles(titles, len(maps))
    with figure_style():
        figure, grid, bars = _rows_of_maps(maps, 1 + len(sources), cell_size, titles, redshift)
        for row, bar in enumerate(bars):
            sizes = [np.abs(np.asarray(values[row], dtype=np.float64)) for values in sources.values()]
            for axes, name, size in zip(grid[row][1:], sources, sizes, strict=True):
                highest = float(np.percentile(size, 99.5)) or float(size.max()) or 1.0
                picture = draw_map(axes, size / highest, cell_size, norm=Normalize(0.0, 1.0), cmap="inferno")
                if size is not sizes[0]:
                    axes.text(
                        0.03,
                        0.97,
                        f"rank correlation ${rank_correlation(sizes[0], size):.2f}$",
                        transform=axes.transAxes,
                        va="top",
                        fontsize="small",
                        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2.0},
                    )
                if row == 0:
                    axes.set_title(name)
            figure.colorbar(picture, cax=bar, label="saliency / its 99.5th percentile", extend="max")
        return figure


def _rows_of_maps(
    maps, columns: int, cell_size: float, titles: Sequence[str], redshift: float | None
) -> tuple[Figure, list[list[Axes]], list[Axes]]:
    """A row of panels per map: the map with its colour bar, then empty panels with one bar at their right."""
    width, height = panel_size(maps.shape[1:], 3.0)
    left, right, between, gap, bottom, space = 0.65, 0.95, 0.95, 0.15, 0.5, 0.35
    top = 0.4 if redshift is None else 0.7
    across = left + width + between + (columns - 1) * (width + gap) - gap + right
    total = top + len(maps) * (height + space) - space + bottom
    figure = Figure(figsize=(across, total))
    starts = [left, *(left + width + between + column * (width + gap) for column in range(columns - 1))]
    grid, bars = [], []
    for row, (image, title) in enumerate(zip(maps, titles, strict=True)):
        edge = total - top - height - row * (height + space)
        panels = [axes_in_inches(figure, start, edge, width, height) for start in starts]
        bar = axes_in_inches(figure, left + width + 0.08, edge, 0.12, height)
        draw_brightness_temperature(figure, panels[0], image, cell_size, bar)
        panels[0].set_title(title, loc="left")
        panels[0].set_ylabel("Mpc")
        last = row == len(maps) - 1
        for column, axes in enumerate(panels):
            axes.tick_params(labelbottom=last, labelleft=column == 0)
            axes.set_xlabel("Mpc" if last else "")
        grid.append(panels)
        bars.append(axes_in_inches(figure, starts[-1] + width + 0.08, edge, 0.12, height))
    _title(figure, redshift)
    return figure, grid, bars


def _limits(true, predictions, parameter: Parameter) -> tuple[float, float]:
    """Prior range, widened for predictions outside it but not for the last half per cent of them."""
    ends = np.concatenate([np.percentile(predicted, [0.5, 99.5]) for predicted in predictions])
    low, high = min(parameter.low, ends.min(), true.min()), max(parameter.high, ends.max(), true.max())
    margin = 0.03 * (high - low)
    return low - margin, high + margin


def _draw_recovery(axes: Axes, true, predicted, averaged, limits: tuple[float, float], score: float) -> None:
    low, high = limits
    # Thousands of maps must not cover the means, handfuls must be seen.
    alpha = float(np.clip(150.0 / len(true), 0.12, 0.6))
    axes.plot([low, high], [low, high], "--", color=PALETTE["truth"], linewidth=0.9, zorder=4)
    axes.plot(true, predicted, "o", color=PALETTE["network"], alpha=alpha, markersize=3, markeredgewidth=0, zorder=2)
    texts = [f"$R^2 = {score:.3f}$"]
    if averaged is not None:
        axes.plot(
            *averaged,
            "o",
            color=PALETTE["baseline"],
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            zorder=3,
        )
        if np.ptp(averaged[0]) > 0:
            texts.append(f"means ${r2(averaged[0][:, None], averaged[1][:, None])[0]:.3f}$")
    for line, (text, role) in enumerate(zip(texts, ("network", "baseline"), strict=False)):
        place = {"va": "top", "transform": axes.transAxes, "zorder": 5}
        axes.text(0.04, 0.96 - 0.09 * line, text, color=PALETTE[role], **place)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def _maps_and_saliency(maps, saliency, parameters: Sequence[Parameter]) -> tuple[np.ndarray, np.ndarray]:
    maps = check_array(maps, 3, "maps", "(n_maps, nx, ny)")
    saliency = np.asarray(saliency)
    expected = (len(maps), len(parameters), *maps.shape[1:])
    if saliency.shape != expected or not parameters:
        raise ValueError(
            f"saliency: expected shape (n_maps, n_parameters, nx, ny), {expected} for these maps and parameters, "
            f"got {saliency.shape}."
        )
    return maps, np.abs(saliency.astype(np.float64))


def _draw_pixels(axes: Axes, sizes, chosen, cell_size: float, scale: Normalize) -> None:
    x, y = np.nonzero(chosen)
    values = sizes[chosen]
    order = np.argsort(values)
    places = ((x + 0.5) * cell_size)[order], ((y + 0.5) * cell_size)[order]
    # Squares of a pixel's size, but large enough to be seen in maps of many pixels.
    points = 72.0 * axes.get_position().width * axes.get_figure().get_size_inches()[0] / len(sizes)
    axes.scatter(*places, s=max(points, 1.8) ** 2, c=values[order], marker="s", cmap=_RED, norm=scale, linewidths=0)


def _histogram(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(values, edges)[0] / (max(values.size, 1) * np.diff(edges))


def _symbol(parameter: Parameter) -> str:
    return parameter_label(parameter).split(" [")[0]


def _title(figure: Figure, redshift: float | None) -> None:
    if redshift is not None:
        figure.suptitle(f"$z = {redshift:g}$")
