"""Figures of generated HI maps and of the posterior of their parameters (Friedman & Hassan 2022, arXiv:2211.12724).

Arrays and results of `keras_cosmo.statistics` in, a Matplotlib Figure out. Maps are ``(n_maps, nx, ny)`` and positive,
parameters ``(n_maps, n_parameters)`` in physical units. Models go by their names; the first one is blue, the second
orange. The learning curve is `keras_cosmo.figures.regression.loss_history`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from scipy.ndimage import gaussian_filter

from keras_cosmo.figures.style import (
    CYCLE,
    PALETTE,
    axes_in_inches,
    check_array,
    check_titles,
    draw_map,
    figure_style,
    panel_size,
    parameter_label,
    unit_text,
)
from keras_cosmo.quantities import Parameter
from keras_cosmo.statistics.calibration import (
    LEVELS,
    CalibrationNumbers,
    central_credibility,
    coverage,
    rank_histogram,
)
from keras_cosmo.statistics.map_samples import PixelDistributions, SampleStatistics, SimulationSpectra
from keras_cosmo.statistics.scores import average_by_simulation, rmse

#: Unit of the maps in the database.
HI_UNIT = "Msun/h (Mpc/h)^-2"
#: Probabilities of one and two standard deviations, of the contours.
CONTOURS = (0.68, 0.95)

_LENGTH_LABEL = "Mpc/h"
_K_LABEL = r"$k$ [$h$ Mpc$^{-1}$]"
_LINES = ("-", (0, (5, 2)), "-.", (0, (3, 1, 1, 1, 1, 1)), ":")
_MAP_COLOURS = "inferno"
_COLUMNS = 4
# Colours of a posterior: white where there is none.
_DENSITY = LinearSegmentedColormap.from_list(
    "keras_cosmo_posterior", ["#FFFFFF", "#BFDDF0", "#56A3D5", "#14598F"], N=256
)


def generated_maps(
    real,
    generated,
    cell_size: float,
    titles: Sequence[str] | None = None,
    unit: str = HI_UNIT,
    redshift: float | None = None,
) -> Figure:
    """Figure 2A: real maps above generated ones with the same parameters, all on one logarithmic colour scale.

    Args:
        real: One map for each set of parameters, ``(n, nx, ny)``.
        generated: One for each, same shape; or ``(n, rows, nx, ny)`` with several.
        cell_size: Side of a cell in Mpc/h.
        titles: Parameters of each column, such as from `parameter_title`.
        unit: Of the maps.
        redshift: For the title.

    Raises:
        ValueError: On shapes that do not match, or real maps without positive pixels.
    """
    real = check_array(real, 3, "real", "(n, nx, ny)")
    generated = np.asarray(generated)
    generated = generated[:, None] if generated.ndim == 3 else generated
    if generated.ndim != 4 or generated.shape[0] != len(real) or generated.shape[2:] != real.shape[1:]:
        raise ValueError(
            f"generated: expected the shape of real, {real.shape}, or several maps for each, got {generated.shape}."
        )
    titles = check_titles(titles, len(real))
    norm, colormap = _logarithmic_scale(real), _map_colours()
    width, height = panel_size(real.shape[1:], 2.1)
    lines = max(title.count("\n") + 1 if title else 0 for title in titles)
    left, right, between, gap, bottom = 0.85, 1.0, 0.12, 0.12, 0.5
    top = 0.12 + 0.2 * lines + (0.25 if redshift is not None else 0.0)
    rows = 1 + generated.shape[1]
    with figure_style():
        across = left + len(real) * (width + between) - between + right
        total = top + rows * (height + gap) - gap + bottom
        figure = Figure(figsize=(across, total))
        for column, title in enumerate(titles):
            for row, image in enumerate([real[column], *generated[column]]):
                edge = total - top - height - row * (height + gap)
                axes = axes_in_inches(figure, left + column * (width + between), edge, width, height)
                picture = draw_map(axes, image, cell_size, norm=norm, cmap=colormap)
                axes.tick_params(labelleft=column == 0, labelbottom=row == rows - 1)
                if row == 0:
                    axes.set_title(title, fontsize="small")
                if row == rows - 1:
                    axes.set_xlabel(_LENGTH_LABEL)
                if column == 0:
                    axes.set_ylabel(f"{'simulated' if row == 0 else 'generated'}\n{_LENGTH_LABEL}")
        bar = axes_in_inches(figure, across - right + 0.1, bottom, 0.13, total - top - bottom)
        figure.colorbar(picture, cax=bar, label=f"HI surface density [{unit_text(unit)}]", extend="both")
        if redshift is not None:
            figure.suptitle(
                f"$z = {redshift:g}$", x=(left + 0.5 * (across - left - right)) / across, y=1 - 0.06 / total, va="top"
            )
        return figure


def parameter_title(values, parameters: Sequence[Parameter]) -> str:
    """Values of the parameters as a title, two to a line.

    Args:
        values: Shape ``(n_parameters,)``.
        parameters: In the order of the values.

    Example:
        >>> parameter_title([0.3, 0.81], [Parameter(name="a", low=0, high=1), Parameter(name="b", low=0, high=1)])
        'a = 0.3, b = 0.81'
    """
    parts = [
        f"${p.symbol} = {value:.3g}$" if p.symbol else f"{p.name} = {value:.3g}"
        for p, value in zip(parameters, values, strict=True)
    ]
    return "\n".join(", ".join(parts[start : start + 2]) for start in range(0, len(parts), 2))


def spectra(
    comparisons: Mapping[str, SampleStatistics], quantity: str = r"\log_{10}\,\Sigma_\mathrm{HI}", title: str = ""
) -> Figure:
    """Figure 2B: mean (left) and standard deviation (right) over maps of P(k), with their errors below.

    The lower panels have the fractional error of each model with bands of one standard error, from a bootstrap over
    simulations, and a dotted line at 10% to each side.

    Args:
        comparisons: By model, such as ``{"HIGlow": compare_sample_spectra(...), "Gaussian field": ...}``, all against
            the same true maps in the same bins.
        quantity: Symbol in mathtext of what the spectra are of, without dollar signs.
        title: Of the figure.

    Raises:
        ValueError: If there is no comparison, or they differ in wavenumbers or true spectra.
    """
    first = _first(comparisons, "comparisons", '{"HIGlow": compare_sample_spectra(...)}')
    for name, comparison in comparisons.items():
        same = np.array_equal(comparison.k, first.k) and np.array_equal(comparison.true_mean, first.true_mean)
        if not same:
            raise ValueError(
                f"comparisons: expected the wavenumbers and true spectra of the first in all, but those of {name!r} "
                f"differ; compare with the same true maps in the same bins."
            )
    k = first.k
    with figure_style():
        figure = Figure(figsize=(9.6, 5.2), layout="constrained")
        grid = figure.subplots(2, 2, sharex=True, height_ratios=[2.2, 1.0])
        for column, part in enumerate(("mean", "scatter")):
            upper, lower = grid[:, column]
            upper.plot(k, getattr(first, f"true_{part}"), color=PALETTE["truth"], linewidth=2.4, label="simulated")
            for (name, comparison), colour, line in _models(comparisons):
                upper.plot(k, getattr(comparison, f"generated_{part}"), color=colour, linestyle=line, label=name)
                _error_band(
                    lower, k, getattr(comparison, f"{part}_error"), getattr(comparison, f"{part}_error_standard_error"),
                    colour, line,
                )  # fmt: skip
            upper.set(xscale="log", yscale="log", title=f"{('mean', 'standard deviation')[column]} over maps")
            _reference_lines(lower, [getattr(c, f"{part}_error") for c in comparisons.values()])
            lower.set_xlabel(_K_LABEL)
            upper.grid(True, which="major")
        grid[0, 0].set_ylabel(rf"$P(k)$ of ${quantity}$ [(Mpc/h)$^2$]")
        grid[1, 0].set_ylabel("generated /\nsimulated $- 1$")
        grid[0, 0].legend()
        _wavenumber_axis(grid[1], k)
        figure.align_ylabels(grid[:, 0])
        if title:
            figure.suptitle(title)
        return figure


def conditional_spectra(
    comparisons: Mapping[str, SimulationSpectra],
    simulations: Sequence[int],
    titles: Sequence[str] | None = None,
    quantity: str = r"\log_{10}\,\Sigma_\mathrm{HI}",
) -> Figure:
    """Figure 2C: mean and standard deviation of P(k) over the maps of single simulations, with ratios below.

    Lines are means, bands one standard deviation over maps to each side (down to mean / (1 + s) for a relative
    deviation s, for the axis is logarithmic).

    Args:
        comparisons: By model, from `compare_spectra_by_simulation`, all with the same true maps.
        simulations: Ids of the simulations that are drawn, one column each.
        titles: Parameters of each.
        quantity: Symbol in mathtext of what the spectra are of, without dollar signs.

    Raises:
        ValueError: If there is no comparison, or one lacks a simulation.
    """
    first = _first(comparisons, "comparisons", '{"HIGlow": compare_spectra_by_simulation(...)}')
    titles = check_titles(titles, len(simulations))
    for name, comparison in comparisons.items():
        missing = sorted(set(simulations) - set(comparison.simulation.tolist()))
        if missing or not np.array_equal(comparison.k, first.k):
            raise ValueError(
                f"comparisons: expected simulations {list(simulations)} in the same bins in all, but {name!r} lacks "
                f"{missing} or has other bins."
            )
    k = first.k
    with figure_style():
        figure = Figure(figsize=(1.0 + 2.9 * len(simulations), 4.9), layout="constrained")
        grid = figure.subplots(2, len(simulations), sharex=True, sharey="row", squeeze=False, height_ratios=[2.0, 1.0])
        for column, (simulation, title) in enumerate(zip(simulations, titles, strict=True)):
            upper, lower = grid[:, column]
            upper.set(xscale="log", yscale="log")
            row = int(np.flatnonzero(first.simulation == simulation)[0])
            _draw_spread(
                upper, k, first.true_mean[row], first.true_scatter[row], "simulated", PALETTE["truth"], "-", 2.2
            )
            for (name, comparison), colour, line in _models(comparisons):
                place = int(np.flatnonzero(comparison.simulation == simulation)[0])
                mean, scatter = comparison.generated_mean[place], comparison.generated_scatter[place]
                _draw_spread(upper, k, mean, scatter, name, colour, line, 1.6)
                lower.plot(k, mean / first.true_mean[row] - 1, color=colour, linestyle=line)
                lower.plot(k, scatter / first.true_scatter[row] - 1, color=colour, linestyle=":", linewidth=1.2)
            lower.axhline(0.0, color=PALETTE["truth"], linewidth=0.9)
            lower.set_xlabel(_K_LABEL)
            lower.grid(True)
            upper.grid(True, which="major")
            upper.set_title(title, fontsize="small")
        grid[1, 0].set_ylim(*_error_limits([line.get_ydata() for axes in grid[1] for line in axes.lines], 1.5))
        grid[0, 0].set_ylabel(rf"$P(k)$ of ${quantity}$ [(Mpc/h)$^2$]")
        grid[1, 0].set_ylabel("generated /\nsimulated $- 1$")
        grid[0, 0].legend()
        handles = [
            Line2D([], [], color=PALETTE["guide"], linestyle=line, label=label)
            for line, label in (("-", "mean"), (":", "standard deviation"))
        ]
        grid[1, -1].legend(handles=handles, fontsize="x-small", ncols=2, loc="upper left", handlelength=1.6)
        _wavenumber_axis(grid[1], k)
        return figure


def pixel_distributions(
    comparisons: Mapping[str, PixelDistributions], label: str | None = None, title: str = ""
) -> Figure:
    """Distribution of the pixels of real and generated maps, with ratios below.

    Bands are one standard error, from a bootstrap over simulations. The legend has the Wasserstein-1 distance, and what
    it would be about if both distributions were the same.

    Args:
        comparisons: By model, from `compare_pixels`, all with the same true maps and edges.
        label: Of the axis; by default log10 of the HI surface density.
        title: Of the figure.

    Raises:
        ValueError: If there is none, or their edges differ.
    """
    first = _first(comparisons, "comparisons", '{"HIGlow": compare_pixels(...)}')
    if any(not np.array_equal(comparison.edges, first.edges) for comparison in comparisons.values()):
        raise ValueError("comparisons: expected the edges of the first in all, got others; compare in the same bins.")
    centres = 0.5 * (first.edges[1:] + first.edges[:-1])
    with figure_style():
        figure = Figure(figsize=(6.8, 5.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1.0])
        upper.set_yscale("log")
        upper.stairs(_positive(first.true), first.edges, color=PALETTE["truth"], linewidth=2.2, label="simulated")
        errors = []
        for (name, comparison), colour, line in _models(comparisons):
            expected = comparison.wasserstein_expected
            text = f"{name}: $W_1 = {comparison.wasserstein:.2g}$"
            text += f" (if right, about {expected:.2g})" if np.isfinite(expected) else ""
            upper.plot(centres, _positive(comparison.generated), color=colour, linestyle=line, label=text)
            ratio = np.divide(comparison.generated, first.true, out=np.full(len(centres), np.nan), where=first.true > 0)
            spread = np.hypot(
                _over(comparison.generated_standard_error, first.true),
                ratio * _over(first.true_standard_error, first.true),
            )
            _error_band(lower, centres, ratio - 1, spread, colour, line)
            errors.append(ratio - 1)
        _reference_lines(lower, errors)
        largest = max(first.true.max(), *(comparison.generated.max() for comparison in comparisons.values()))
        upper.set_ylim(1e-5 * largest, 2.0 * largest)
        shown = np.flatnonzero(
            np.max([first.true, *(c.generated for c in comparisons.values())], axis=0) > 1e-5 * largest
        )
        upper.set_xlim(first.edges[shown[0]], first.edges[shown[-1] + 1])
        upper.set_ylabel("probability density of a pixel")
        lower.set_ylabel("generated /\nsimulated $- 1$")
        lower.set_xlabel(rf"$\log_{{10}}$ HI surface density [{unit_text(HI_UNIT)}]" if label is None else label)
        upper.grid(True)
        upper.legend()
        figure.align_ylabels([upper, lower])
        if title:
            figure.suptitle(title)
        return figure


def posteriors(
    axes, densities, true, parameters: Sequence[Parameter], mean=None, titles: Sequence[str] | None = None
) -> Figure:
    """Figure 3A: posterior density of single maps with the true parameters, the mean, and contours of 68% and 95%.

    Args:
        axes: Parameters of the cells' centres, ``(n_1,)`` and ``(n_2,)``: one pair for all maps or one pair for each.
        densities: Posterior of each map, ``(n_1, n_2)`` each, such as of ``GridPosterior.marginal(0, 1)``; need not be
            normalised.
        true: True parameters ``(n_maps, 2)``; None if they are not known.
        parameters: The two parameters; their ranges are the limits of the panels.
        mean: Posterior means ``(n_maps, 2)``; by default those of the grids.
        titles: One title per map.

    Raises:
        ValueError: On shapes that do not match or densities that are negative or zero everywhere.
    """
    densities = [np.asarray(density, dtype=np.float64) for density in densities]
    if len(parameters) != 2:
        raise ValueError(f"parameters: expected two, got {len(parameters)}; use corner for more.")
    if not densities:
        raise ValueError("densities: expected at least one posterior, got none.")
    pairs = list(axes)
    single = len(pairs) == 2 and all(np.ndim(values) == 1 and np.size(values) > 2 for values in pairs)
    pairs = [pairs] * len(densities) if single else pairs
    if len(pairs) != len(densities):
        raise ValueError(f"axes: expected one pair, or one for each of {len(densities)} maps, got {len(pairs)}.")
    pairs = [[np.asarray(values, dtype=np.float64) for values in pair] for pair in pairs]
    for index, (pair, density) in enumerate(zip(pairs, densities, strict=True)):
        if density.shape != tuple(map(len, pair)) or not np.all(density >= 0) or not density.sum() > 0:
            raise ValueError(
                f"densities: expected shape {tuple(map(len, pair))} and values of at least 0, not all zero, for map "
                f"{index}, got shape {density.shape}."
            )
    places = {"true": true, "mean": mean}
    for name, values in places.items():
        if values is not None and np.shape(values) != (len(densities), 2):
            raise ValueError(f"{name}: expected shape ({len(densities)}, 2), got {np.shape(values)}.")
    if mean is None:
        mean = [_grid_mean(pair, density) for pair, density in zip(pairs, densities, strict=True)]
    titles = check_titles(titles, len(densities))
    columns = min(_COLUMNS, len(densities))
    rows = -(-len(densities) // columns)
    with figure_style():
        figure = Figure(figsize=(0.8 + 2.5 * columns, 0.9 + 2.45 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for place, panel in enumerate(grid.ravel()):
            if place >= len(densities):
                panel.set_axis_off()
                continue
            _draw_density(panel, pairs[place], densities[place])
            panel.plot(*mean[place], "o", color=PALETTE["baseline"], markersize=5, zorder=5)
            if true is not None:
                panel.plot(*np.asarray(true)[place], "*", color=PALETTE["truth"], markersize=10, zorder=6)
            panel.set_title(titles[place], fontsize="small")
            panel.set(xlim=(parameters[0].low, parameters[0].high), ylim=(parameters[1].low, parameters[1].high))
            panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            below = place + columns >= len(densities)
            panel.tick_params(labelbottom=below)
            panel.set_xlabel(parameter_label(parameters[0]) if below else "")
        for panel in grid[:, 0]:
            panel.set_ylabel(parameter_label(parameters[1]))
        _posterior_legend(figure, true is not None)
        return figure


def corner(
    samples,
    parameters: Sequence[Parameter],
    weights=None,
    true=None,
    other: Mapping[str, np.ndarray] | None = None,
    bins: int = 32,
) -> Figure:
    """Posterior of more than two parameters: each one on the diagonal, each pair below with contours of 68% and 95%.

    Args:
        samples: Draws from the posterior, ``(n, n_parameters)``.
        parameters: In the order of the columns; panels reach over the samples, within their ranges.
        weights: Of the samples, ``(n,)``.
        true: True parameters ``(n_parameters,)``.
        other: Samples of other posteriors of the same map by name, of equal weight, drawn as 68% contours.
        bins: Number along each axis.

    Raises:
        ValueError: On shapes that do not match.
    """
    samples = check_array(samples, 2, "samples", "(n, n_parameters)").astype(np.float64)
    count = len(parameters)
    if samples.shape[1] != count:
        raise ValueError(f"parameters: expected one per column, {samples.shape[1]}, got {count}.")
    weights = np.ones(len(samples)) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != (len(samples),) or not np.all(weights >= 0) or not weights.sum() > 0:
        raise ValueError(
            f"weights: expected one number of at least 0 per sample, not all 0, got shape {weights.shape}."
        )
    if true is not None and np.shape(true) != (count,):
        raise ValueError(f"true: expected one value per parameter, ({count},), got {np.shape(true)}.")
    sets = {"": (samples, weights)}
    for name, values in (other or {}).items():
        values = check_array(values, 2, f"other[{name!r}]", "(n, n_parameters)").astype(np.float64)
        if values.shape[1] != count:
            raise ValueError(f"other: expected {count} parameters of {name!r}, got {values.shape[1]}.")
        sets[name] = (values, np.ones(len(values)))
    edges = [_corner_edges(column, parameter, sets, true, bins) for column, parameter in enumerate(parameters)]
    with figure_style():
        figure = Figure(figsize=(0.9 + 1.75 * count, 0.9 + 1.7 * count), layout="constrained")
        grid = figure.subplots(count, count, sharex="col", squeeze=False)
        for row in range(count):
            for column in range(count):
                axes = grid[row, column]
                if column > row:
                    axes.set_axis_off()
                    continue
                if column == row:
                    _draw_marginals(axes, sets, row, edges[row])
                    if true is not None:
                        axes.axvline(true[row], color=PALETTE["truth"], linewidth=1.2, linestyle="--")
                else:
                    _draw_pair(axes, sets, (column, row), (edges[column], edges[row]))
                    if true is not None:
                        axes.plot(true[column], true[row], "*", color=PALETTE["truth"], markersize=9, zorder=6)
                    axes.set_ylim(edges[row][0], edges[row][-1])
                axes.set_xlim(edges[column][0], edges[column][-1])
                axes.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
                axes.yaxis.set_major_locator(MaxNLocator(3, prune="both"))
                axes.tick_params(labelbottom=row == count - 1, labelleft=0 == column < row, left=column < row)
                axes.set_xlabel(parameter_label(parameters[column]) if row == count - 1 else "")
                axes.set_ylabel(parameter_label(parameters[row]) if 0 == column < row else "")
        handles = [Line2D([], [], color=PALETTE["network"], label="68% and 95%")]
        handles += [
            Line2D([], [], color=colour, linestyle=line, label=f"{name}, 68%")
            for name, (colour, line) in zip(list(sets)[1:], _styles(), strict=False)
        ]
        if true is not None:
            handles.append(
                Line2D(
                    [], [], color=PALETTE["truth"], marker="*", linestyle="--", markersize=9, label="true parameters"
                )
            )
        figure.legend(handles=handles, loc="upper right", bbox_to_anchor=(0.98, 0.98))
        return figure


def estimated_against_true(
    true,
    estimated,
    parameters: Sequence[Parameter],
    standard_deviation=None,
    simulation=None,
    paper: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Figure 3B: posterior means against true parameters, with the root-mean-square error of single maps in the title.

    Args:
        true: True parameters ``(n_maps, n_parameters)``.
        estimated: Posterior means, same shape.
        parameters: In the order of the columns.
        standard_deviation: Posterior standard deviations, same shape, drawn as error bars.
        simulation: Simulation id of each map, integers; the means over the maps of each are drawn over the points.
        paper: The paper's error by parameter, such as ``{"Omega_m": 0.058}``, for the title; it was measured on other
            data, with maps of simulations that the network had seen.
        title: Of the figure.

    Raises:
        ValueError: On shapes that do not match or values that are not finite.
    """
    errors = rmse(true, estimated)
    true, estimated = np.asarray(true, dtype=np.float64), np.asarray(estimated, dtype=np.float64)
    if len(parameters) != true.shape[1]:
        raise ValueError(f"parameters: expected one per column, {true.shape[1]}, got {len(parameters)}.")
    if standard_deviation is not None and np.shape(standard_deviation) != true.shape:
        raise ValueError(
            f"standard_deviation: expected the shape of true, {true.shape}, got {np.shape(standard_deviation)}."
        )
    means = None
    if simulation is not None:
        means = [average_by_simulation(values, simulation).mean for values in (true, estimated)]
    columns = min(3, len(parameters))
    rows = -(-len(parameters) // columns)
    faint = float(np.clip(60 / np.sqrt(len(true)) / 10, 0.08, 0.7))
    with figure_style():
        figure = Figure(figsize=(0.5 + 3.5 * columns, 0.4 + 3.5 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for place, axes in enumerate(grid.ravel()):
            if place >= len(parameters):
                axes.set_axis_off()
                continue
            parameter = parameters[place]
            x, y = true[:, place], estimated[:, place]
            if standard_deviation is not None:
                spread = np.asarray(standard_deviation, dtype=np.float64)[:, place]
                axes.errorbar(x, y, spread, fmt="none", ecolor=PALETTE["network"], elinewidth=0.6, alpha=0.5 * faint)
            axes.plot(x, y, "o", color=PALETTE["network"], markersize=3, alpha=faint, markeredgewidth=0)
            if means is not None:
                axes.plot(
                    means[0][:, place], means[1][:, place], "o", color=PALETTE["baseline"], markersize=4,
                    markeredgecolor="white", markeredgewidth=0.4,
                )  # fmt: skip
            low, high = min(parameter.low, x.min(), y.min()), max(parameter.high, x.max(), y.max())
            margin = 0.03 * (high - low)
            limits = (low - margin, high + margin)
            axes.plot(limits, limits, color=PALETTE["truth"], linewidth=0.9)
            axes.set(
                xlim=limits,
                ylim=limits,
                xlabel="true",
                ylabel="estimated (posterior mean)" if place % columns == 0 else "",
            )
            axes.set_aspect("equal")
            published = (paper or {}).get(parameter.name)
            extra = f" (paper, other data: {published:.3g})" if published is not None else ""
            axes.set_title(f"{parameter_label(parameter)}: RMSE {errors[place]:.3g}{extra}", fontsize="small")
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axes.grid(True)
        if means is not None:
            handles = [
                Line2D([], [], color=PALETTE[colour], marker="o", markersize=size, linestyle="none", label=label)
                for colour, size, label in (("network", 3, "map"), ("baseline", 4, "mean of a simulation's maps"))
            ]
            grid[0, 0].legend(handles=handles, loc="upper left", fontsize="x-small")
        if title:
            figure.suptitle(title)
        return figure


def calibration(
    before: CalibrationNumbers,
    parameters: Sequence[Parameter],
    simulation=None,
    after: CalibrationNumbers | None = None,
    bins: int = 10,
    labels: tuple[str, str] = ("as trained", "corrected"),
    bootstrap_sets: int = 500,
) -> Figure:
    """Whether posteriors are right: ranks above, and how often credible regions hold the truth below.

    One column per parameter (rank of the truth, central intervals), one for the joint regions of highest density and
    one for TARP. The bands are 95% of what right posteriors give, for each bin by itself, and one standard error of the
    coverage. A curve below the diagonal belongs to posteriors that are too narrow, and so does one of TARP that is
    above it at low and below it at high levels.

    Args:
        before: Numbers of the posteriors, from `keras_cosmo.statistics.calibration.calibration_numbers`.
        parameters: In the order of the columns.
        simulation: Simulation id of each map, integers ``(n_maps,)``.
        after: Of the corrected ones, of the same maps.
        bins: Of the histograms.
        labels: Names of the two.
        bootstrap_sets: Of the bootstrap over simulations.

    Raises:
        ValueError: If the numbers of parameters differ, and as the functions of `keras_cosmo.statistics.calibration`.
    """
    if len(parameters) != before.pit.shape[1]:
        raise ValueError(f"parameters: expected one per column, {before.pit.shape[1]}, got {len(parameters)}.")
    if after is not None and after.pit.shape != before.pit.shape:
        raise ValueError(f"after: expected the maps of before, {before.pit.shape}, got {after.pit.shape}.")
    sets = [(before, labels[0], PALETTE["baseline"], (0, (5, 2)))]
    if after is not None:
        sets.append((after, labels[1], PALETTE["network"], "-"))
    titles = [parameter_label(parameter) for parameter in parameters] + ["all parameters", "TARP"]
    columns = min(_COLUMNS, len(titles))
    rows = -(-len(titles) // columns)
    with figure_style():
        figure = Figure(figsize=(0.6 + 2.75 * columns, 0.5 + 4.7 * rows), layout="constrained")
        grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[0.75, 1.0] * rows)
        for axes in grid.ravel():
            axes.set_axis_off()
        for place, title in enumerate(titles):
            row, column = divmod(place, columns)
            upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
            for axes in (upper, lower):
                axes.set_axis_on()
            for numbers, label, colour, line in sets:
                tested, held = _calibration_columns(numbers, place)
                histogram = rank_histogram(tested, bins, simulation)
                counts, edges = histogram.counts[:, 0] / histogram.expected, histogram.edges
                if numbers is sets[-1][0]:
                    ends = histogram.low[0] / histogram.expected, histogram.high[0] / histogram.expected
                    upper.axhspan(*ends, color="#E5E7EB", zorder=0)
                upper.stairs(counts, edges, color=colour, linestyle=line, linewidth=1.6, label=label)
                curve = coverage(held, LEVELS, simulation, bootstrap_sets)
                levels = np.concatenate([[0.0], curve.levels, [1.0]])
                observed = np.concatenate([[0.0], curve.observed[:, 0], [1.0]])
                error = np.concatenate([[0.0], np.nan_to_num(curve.standard_error[:, 0]), [0.0]])
                lower.fill_between(levels, observed - error, observed + error, color=colour, alpha=0.2, linewidth=0)
                lower.plot(levels, observed, color=colour, linestyle=line, label=label)
            upper.axhline(1.0, color=PALETTE["truth"], linewidth=0.9)
            upper.set(xlim=(0, 1), title=title, xlabel=_rank_label(place, len(parameters)))
            upper.set_ylim(0.0, max(2.0, 1.05 * upper.dataLim.y1))
            lower.plot([0, 1], [0, 1], color=PALETTE["truth"], linewidth=0.9)
            lower.set(
                xlim=(0, 1),
                ylim=(0, 1),
                aspect="equal",
                xlabel="credible level" if place != len(titles) - 1 else "level",
            )
            lower.grid(True)
            if column == 0:
                upper.set_ylabel("maps / expected")
                lower.set_ylabel("part that holds the truth")
        grid[1, 0].legend(loc="upper left", fontsize="x-small")
        return figure


def nearest_training_maps(
    generated,
    nearest,
    distances,
    cell_size: float,
    all_distances=None,
    unseen_distances=None,
    unit: str = HI_UNIT,
) -> Figure:
    """Generated maps above the most similar training maps, and how far apart they are.

    At the right the distances of all generated maps from their nearest training maps, with those of real maps that the
    network has not seen: if generated maps were much nearer, they would be copies.

    Args:
        generated: Generated maps ``(n, nx, ny)``.
        nearest: Nearest training map of each, shifted, turned and mirrored onto it, same shape.
        distances: Their distances, ``(n,)``: root mean square difference of the normalised maps.
        cell_size: Side of a cell in Mpc/h.
        all_distances: Of all generated maps; NaN for those that failed.
        unseen_distances: Of real maps that the network has not seen.
        unit: Of the maps.

    Raises:
        ValueError: On shapes that do not match.
    """
    generated = check_array(generated, 3, "generated", "(n, nx, ny)")
    nearest, distances = np.asarray(nearest), np.asarray(distances, dtype=np.float64)
    if nearest.shape != generated.shape:
        raise ValueError(f"nearest: expected the shape of generated, {generated.shape}, got {nearest.shape}.")
    if distances.shape != (len(generated),):
        raise ValueError(f"distances: expected one per map, ({len(generated)},), got {distances.shape}.")
    norm, colormap = _logarithmic_scale(np.concatenate([generated, nearest])), _map_colours()
    width, height = panel_size(generated.shape[1:], 2.0)
    left, between, gap, bottom, top, bar_room, plot = 0.95, 0.12, 0.12, 0.5, 0.35, 1.05, 3.3
    histogram = all_distances is not None
    with figure_style():
        across = left + len(generated) * (width + between) + bar_room + (plot + 0.75 if histogram else 0.0)
        total = top + 2 * height + gap + bottom
        figure = Figure(figsize=(across, total))
        for row, (name, images) in enumerate((("generated", generated), ("nearest in\ntraining", nearest))):
            for column, image in enumerate(images):
                edge = bottom + (1 - row) * (height + gap)
                axes = axes_in_inches(figure, left + column * (width + between), edge, width, height)
                picture = draw_map(axes, image, cell_size, norm=norm, cmap=colormap)
                axes.tick_params(labelleft=column == 0, labelbottom=row == 1)
                axes.set_xlabel(_LENGTH_LABEL if row else "")
                axes.set_ylabel(f"{name}\n{_LENGTH_LABEL}" if column == 0 else "")
                if row == 0:
                    axes.set_title(f"distance {distances[column]:.2f}", fontsize="small")
        start = left + len(generated) * (width + between)
        bar = axes_in_inches(figure, start, bottom, 0.13, 2 * height + gap)
        figure.colorbar(picture, cax=bar, label=f"HI surface density [{unit_text(unit)}]", extend="both")
        if histogram:
            axes = axes_in_inches(figure, start + bar_room + 0.55, bottom, plot, 2 * height + gap)
            _draw_distances(axes, all_distances, unseen_distances)
        return figure


def _draw_distances(axes: Axes, generated, unseen) -> None:
    sets = [("generated maps", generated, PALETTE["network"])]
    if unseen is not None:
        sets.append(("real maps, unseen", unseen, PALETTE["truth"]))
    sets = [(name, np.asarray(values, dtype=np.float64), colour) for name, values, colour in sets]
    sets = [(name, values[np.isfinite(values)], colour) for name, values, colour in sets]
    everything = np.concatenate([values for _, values, _ in sets])
    edges = np.linspace(0.0, max(np.sqrt(2.0), 1.02 * everything.max(initial=0.0)), 41)
    for name, values, colour in sets:
        if values.size:
            axes.hist(values, edges, weights=np.full(values.size, 1 / values.size), histtype="step", color=colour,
                      linewidth=1.8, label=f"{name}: median {np.median(values):.2f}")  # fmt: skip
    axes.axvline(np.sqrt(2.0), color=PALETTE["guide"], linestyle=":", label="no correlation")
    axes.set(xlim=(0, edges[-1]), xlabel="distance from the nearest training map", ylabel="part of the maps")
    axes.set_ylim(0, 1.35 * max(axes.dataLim.y1, 1e-3))
    axes.legend(loc="upper left", fontsize="x-small")
    axes.grid(True)


def _calibration_columns(numbers: CalibrationNumbers, place: int) -> tuple[np.ndarray, np.ndarray]:
    """What should be uniform in a column, and the probability of the smallest region that holds the truth."""
    if place < numbers.pit.shape[1]:
        return numbers.ranks[:, place], central_credibility(numbers.pit[:, place])
    values = numbers.credibility if place == numbers.pit.shape[1] else numbers.tarp
    return values, values


def _rank_label(place: int, parameters: int) -> str:
    if place < parameters:
        return "rank of the truth"
    return "credibility of the truth" if place == parameters else "part nearer than the truth"


def _draw_density(axes: Axes, pair, density: np.ndarray) -> None:
    x, y = pair
    axes.pcolormesh(x, y, density.T, cmap=_DENSITY, shading="nearest", rasterized=True, zorder=1)
    _draw_contours(axes, pair, density, CONTOURS, PALETTE["network"], ("--", "-"))


def _draw_contours(axes: Axes, pair, density: np.ndarray, levels, colour: str, lines) -> None:
    """Contours at the borders of the smallest regions that hold the levels."""
    ordered = np.sort(density.ravel())[::-1]
    cumulative = np.cumsum(ordered) / ordered.sum()
    heights = [ordered[min(np.searchsorted(cumulative, level), len(ordered) - 1)] for level in sorted(levels)[::-1]]
    keep = np.concatenate([[True], np.diff(heights) > 0]) & (np.array(heights) < density.max())
    heights = np.array(heights)[keep]
    if heights.size:
        # Contours close at the edge of the box where the density does not fall to zero there.
        padded = np.pad(density, 1)
        x, y = (np.concatenate([[2 * a[0] - a[1]], a, [2 * a[-1] - a[-2]]]) for a in pair)
        styles = np.array(lines, dtype=object)[keep] if len(lines) > 1 else list(lines)
        axes.contour(x, y, padded.T, levels=heights, colors=colour, linestyles=list(styles), linewidths=1.2, zorder=4)


def _corner_edges(column: int, parameter: Parameter, sets, true, bins: int) -> np.ndarray:
    """Bins over nearly all of the samples and the truth, within the parameter's range."""
    ends = []
    for samples, weights in sets.values():
        order = np.argsort(samples[:, column])
        cumulative = np.cumsum(weights[order]) / weights.sum()
        ends.append(np.interp([0.001, 0.999], cumulative, samples[order, column]))
    ends = np.concatenate([*ends, [] if true is None else [true[column]]])
    margin = 0.1 * np.ptp(ends) or 0.05 * (parameter.high - parameter.low)
    low, high = max(ends.min() - margin, parameter.low), min(ends.max() + margin, parameter.high)
    return np.linspace(low, high, bins + 1) if low < high else np.linspace(parameter.low, parameter.high, bins + 1)


def _draw_marginals(axes: Axes, sets, column: int, edges: np.ndarray) -> None:
    styles = iter(_styles())
    for name, (samples, weights) in sets.items():
        counts, _ = np.histogram(samples[:, column], edges, weights=weights)
        colour, line = next(styles) if name else (PALETTE["network"], "-")
        height = counts / (counts.max() or 1.0)
        if name:
            axes.stairs(height, edges, color=colour, linestyle=line, linewidth=1.3)
        else:
            axes.stairs(height, edges, fill=True, color="#BFDDF0")
            axes.stairs(height, edges, color=colour, linewidth=1.3)
    axes.set_ylim(0.0, 1.12)


def _draw_pair(axes: Axes, sets, columns: tuple[int, int], edges) -> None:
    centres = [0.5 * (e[1:] + e[:-1]) for e in edges]
    styles = iter(_styles())
    for name, (samples, weights) in sets.items():
        density, _, _ = np.histogram2d(samples[:, columns[0]], samples[:, columns[1]], edges, weights=weights)
        # Counts are noisy: contours of a histogram smoothed by one bin, without loss at the edges of the box.
        density = gaussian_filter(density, 1.0, mode="nearest")
        if not density.any():
            continue
        if name:
            colour, line = next(styles)
            _draw_contours(axes, centres, density, CONTOURS[:1], colour, (line,))
        else:
            _draw_density(axes, centres, density)


def _posterior_legend(figure: Figure, truth: bool) -> None:
    handles = [
        Line2D([], [], color=PALETTE["network"], linestyle="-", label="68%"),
        Line2D([], [], color=PALETTE["network"], linestyle="--", label="95%"),
        Line2D([], [], color=PALETTE["baseline"], marker="o", markersize=5, linestyle="none", label="posterior mean"),
    ]
    if truth:
        handles.append(
            Line2D([], [], color=PALETTE["truth"], marker="*", markersize=9, linestyle="none", label="true parameters")
        )
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))


def _grid_mean(pair, density: np.ndarray) -> np.ndarray:
    total = density.sum()
    return np.array([density.sum(axis=1) @ pair[0], density.sum(axis=0) @ pair[1]]) / total


def _styles():
    return zip(CYCLE[1:], _LINES[1:], strict=False)


def _models(comparisons: Mapping):
    """Each model with its colour and line."""
    for index, item in enumerate(comparisons.items()):
        yield item, CYCLE[index % len(CYCLE)], _LINES[index % len(_LINES)]


def _first(comparisons: Mapping, name: str, example: str):
    if not comparisons:
        raise ValueError(f"{name}: expected at least one, such as {example}, got none.")
    return next(iter(comparisons.values()))


def _draw_spread(axes: Axes, k, mean, scatter, label: str, colour: str, line, width: float) -> None:
    lower = np.divide(mean**2, mean + scatter, out=np.full(len(k), np.nan), where=mean > 0)
    axes.fill_between(k, lower, mean + scatter, color=colour, alpha=0.16, linewidth=0)
    axes.plot(k, mean, color=colour, linestyle=line, linewidth=width, label=label)


def _error_band(axes: Axes, x, error, standard_error, colour: str, line) -> None:
    spread = np.nan_to_num(standard_error)
    axes.fill_between(x, error - spread, error + spread, color=colour, alpha=0.22, linewidth=0)
    axes.plot(x, error, color=colour, linestyle=line)


def _reference_lines(axes: Axes, errors: Sequence[np.ndarray]) -> None:
    axes.axhline(0.0, color=PALETTE["truth"], linewidth=0.9)
    for level in (-0.1, 0.1):
        axes.axhline(level, color=PALETTE["guide"], linewidth=0.8, linestyle=":")
    axes.set_ylim(*_error_limits(errors, 1.5))
    axes.grid(True)


def _error_limits(errors: Sequence[np.ndarray], most: float) -> tuple[float, float]:
    """Limits that hold nearly all errors, at least 20% to each side and not much more than ``most``."""
    values = np.concatenate([np.asarray(error, dtype=np.float64) for error in errors])
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [1, 99]) if values.size else (0.0, 0.0)
    return float(max(min(1.15 * low, -0.2), -1.05)), float(min(max(1.15 * high, 0.2), most))


def _wavenumber_axis(panels, k: np.ndarray) -> None:
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xlim(k[0] / 1.05, k[-1] * 1.05)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _logarithmic_scale(maps) -> LogNorm:
    values = np.asarray(maps, dtype=np.float64)
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        raise ValueError("maps: expected positive pixels for a logarithmic colour scale, got none.")
    low, high = np.percentile(values, [0.5, 99.8])
    return LogNorm(low, high if high > low else 1.001 * low)


def _map_colours():
    return colormaps[_MAP_COLOURS].with_extremes(bad="#9CA3AF")


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)


def _over(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=denominator > 0)
