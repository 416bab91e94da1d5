"""Figures of the light-cone regression (Gillet et al. 2019, MNRAS 484, 282): arrays in, a Matplotlib Figure out.

Light-cone images are ``(n_perp, n_los)`` in mK, line of sight last, lowest redshift first; parameters are
``(n, n_parameters)`` in physical units.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from keras_cosmo.figures.style import (
    CYCLE,
    PALETTE,
    brightness_temperature_colormap,
    brightness_temperature_norm,
    check_array,
    check_titles,
    density_colormap,
    figure_style,
    parameter_label,
    two_sided_ticks,
)
from keras_cosmo.quantities import Parameter
from keras_cosmo.statistics.scores import binned_residuals, r2

# Figure 5 of the paper: T_vir and L_X above, zeta and E_0 below.
_PAPER_ORDER = ("log10_T_vir", "log10_L_X", "zeta", "E_0")
_REDSHIFT_TICKS = (5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 25, 30, 35, 40, 50)
_FEW_POINTS = 500
_HISTORY_COLUMNS = ("epoch", "loss", "val_loss", "learning_rate")


def lightcone_images(maps, redshifts, cell_size: float, titles: Sequence[str] | None = None) -> Figure:
    """Figure 1: light-cone images with redshift above, comoving distance below and one colour bar.

    The transverse axis is stretched where the true proportions would leave a thread; both axes carry their Mpc.

    Args:
        maps: Brightness temperature in mK, ``(n, n_perp, n_los)``.
        redshifts: Redshift of each cell along the line of sight, ``(n_los,)``, rising.
        cell_size: Side of a cell in comoving Mpc.
        titles: One title per image.

    Raises:
        ValueError: On shapes that do not match or redshifts that do not rise.
    """
    maps = check_array(maps, 3, "maps", "(n, n_perp, n_los)")
    redshifts = _redshifts(redshifts, maps.shape[2], "maps")
    titles = check_titles(titles, len(maps))
    n_perp, n_los = maps.shape[1:]
    with figure_style():
        width, panel = 11.0, 9.2 * np.clip(n_perp / n_los, 0.09, 0.6)
        top, between, bottom = (0.85, 0.75, 0.55) if any(titles) else (0.62, 0.45, 0.55)
        height = top + len(maps) * panel + (len(maps) - 1) * between + bottom
        figure = Figure(figsize=(width, height))
        norm, colormap = brightness_temperature_norm(maps), brightness_temperature_colormap()
        for index, (image, title) in enumerate(zip(maps, titles, strict=True)):
            bottom_edge = height - top - panel - index * (panel + between)
            axes = figure.add_axes((0.06, bottom_edge / height, 9.2 / width, panel / height))
            _draw_lightcone(axes, image, cell_size, norm, colormap)
            _redshift_axis(axes, redshifts, cell_size, label=index == 0)
            axes.set_ylabel("Mpc")
            if title:
                axes.set_title(title, loc="left", pad=20 if index else 34, fontsize="small")
            if index == len(maps) - 1:
                axes.set_xlabel("comoving distance along the line of sight [Mpc]")
            else:
                axes.tick_params(labelbottom=False)
        bar_height = min(height - top - bottom, 3.0)
        bar = figure.add_axes(
            (0.913, (bottom + (height - top - bottom - bar_height) / 2) / height, 0.011, bar_height / height)
        )
        figure.colorbar(ScalarMappable(norm, colormap), cax=bar, extend="both", ticks=two_sided_ticks(norm))
        bar.set_ylabel(r"$\delta T_\mathrm{b}$ [mK]")
        return figure


def global_signals(maps, redshifts, labels: Sequence[str] | None = None) -> Figure:
    """Global signal of a handful of light-cones: mean brightness temperature against redshift.

    Args:
        maps: Brightness temperature in mK, ``(n, n_perp, n_los)``.
        redshifts: Redshift of each cell along the line of sight, ``(n_los,)``, rising.
        labels: One label per light-cone, for the legend.
    """
    maps = check_array(maps, 3, "maps", "(n, n_perp, n_los)")
    redshifts = _redshifts(redshifts, maps.shape[2], "maps")
    labels = check_titles(labels, len(maps), "labels")
    with figure_style():
        figure = Figure(figsize=(7.0, 4.0), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(0.0, color=PALETTE["guide"], linewidth=0.8)
        for index, (image, label) in enumerate(zip(maps, labels, strict=True)):
            style = ("-", "--", ":", "-.")[index // len(CYCLE) % 4]
            signal = image.mean(axis=0, dtype=np.float64)
            axes.plot(redshifts, signal, style, label=label or None, linewidth=1.3)
        axes.set_xlim(redshifts[0], redshifts[-1])
        axes.set_xlabel("redshift $z$")
        axes.set_ylabel(r"mean $\delta T_\mathrm{b}$ [mK]")
        axes.grid(True)
        if any(labels):
            axes.legend()
        return figure


def loss_history(history, loss_name: str = "mean squared error") -> Figure:
    """Figure 4: training and validation loss against epoch, with the learning rate below.

    Args:
        history: Columns ``loss`` and, where present, ``val_loss``, ``learning_rate`` and ``epoch`` (counted from 0 or
            1 as the caller likes): a mapping of sequences or a structured array. NaN marks epochs without a value.
        loss_name: Label of the loss axis.

    Raises:
        ValueError: If ``loss`` is missing or the columns differ in length.
    """
    columns = _history_columns(history)
    epoch = columns["epoch"]
    with figure_style():
        has_rate = np.isfinite(columns["learning_rate"]).any()
        figure = Figure(figsize=(7.0, 4.6 if has_rate else 3.8), layout="constrained")
        rows = figure.subplots(
            2 if has_rate else 1, 1, sharex=True, squeeze=False, height_ratios=[4, 1][: 1 + has_rate]
        )
        axes = rows[0, 0]
        for key, label, style in (("loss", "training", "-"), ("val_loss", "validation", "--")):
            known = np.isfinite(columns[key])
            if known.any():
                marker = "o" if known.sum() < 3 else None
                axes.plot(epoch[known], columns[key][known], style, color=PALETTE[label], label=label, marker=marker)
        validation = columns["val_loss"]
        if np.isfinite(validation).any():
            best = int(np.nanargmin(validation))
            label = f"lowest validation loss, epoch {epoch[best]:g}"
            axes.plot(epoch[best], validation[best], "o", color=PALETTE["validation"], markersize=6, label=label)
        losses = np.concatenate([columns["loss"], validation])
        # A log-likelihood may be negative; only then the axis cannot be logarithmic.
        if np.nanmin(losses) > 0:
            _plain_log_axis(axes)
        axes.set_ylabel(loss_name)
        axes.grid(True, which="major")
        axes.legend()
        rows[-1, 0].set_xlabel("epoch")
        rows[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
        if has_rate:
            rate = rows[1, 0]
            known = np.isfinite(columns["learning_rate"])
            rate.step(epoch[known], columns["learning_rate"][known], where="mid", color=PALETTE["accent"])
            rate.set_yscale("log")
            rates = np.unique(columns["learning_rate"][known][[0, -1]])
            rate.set_yticks(rates, [f"{value:.3g}" for value in rates])
            rate.yaxis.set_minor_locator(NullLocator())
            rate.set_ylabel("learning\nrate")
            rate.grid(True, which="major")
            figure.align_ylabels()
        return figure


def predicted_against_true(true, predicted, parameters: Sequence[Parameter], baseline=None) -> Figure:
    """Figure 5: predicted against true values, with the residual given the truth and given the prediction.

    In each panel the centre shows every prediction (a two-dimensional histogram with logarithmic counts, or single
    points if there are few), below it mean and standard deviation of the residual (predicted minus true) in bins of the
    true value, and at its left the same in bins of the predicted value. A bin with a single entry has no standard
    deviation and is drawn as a point without error bar. The limits hold all true values and 99% of the predictions:
    predictions beyond them are drawn at the edge of the histogram, and are not in the panel at the left.

    Args:
        true: True parameters ``(n, n_parameters)`` in physical units.
        predicted: Predicted parameters, same shape.
        parameters: The parameters, in the order of the columns. The four of the paper are drawn in the paper's order,
            T_vir and L_X above, zeta and E_0 below; others in the order given.
        baseline: Predictions of a baseline for the same rows, drawn in the residual panels for comparison.

    Raises:
        ValueError: On shapes that do not match, values that are not finite, or a parameter that does not vary.
    """
    scores = r2(true, predicted)
    true, predicted = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if len(parameters) != true.shape[1]:
        raise ValueError(f"parameters: expected one per column, {true.shape[1]}, got {len(parameters)}.")
    baseline_scores = None if baseline is None else r2(true, baseline)
    baseline = None if baseline is None else np.asarray(baseline, dtype=np.float64)
    order = _paper_order(parameters)
    columns = 1 if len(order) == 1 else 2
    rows = -(-len(order) // columns)
    with figure_style():
        figure = Figure(figsize=(5.6 * columns, 4.9 * rows))
        for place, column in enumerate(order):
            row, side = divmod(place, columns)
            box = (side / columns, 1 - (row + 1) / rows, 1 / columns, 1 / rows)
            texts = [f"$R^2 = {scores[column]:.3f}$"]
            if baseline_scores is not None:
                texts.append(f"baseline ${baseline_scores[column]:.3f}$")
            _draw_recovery(
                figure,
                box,
                true[:, column],
                predicted[:, column],
                parameters[column],
                texts,
                None if baseline is None else baseline[:, column],
            )
        return figure


def first_layer_filters(kernels) -> Figure:
    """Figure A1: the filters of the first convolution, on one colour scale (weights have no unit).

    Args:
        kernels: Shape ``(height, width, 1, n)``, as Keras stores them.

    Raises:
        ValueError: If the shape is another one.
    """
    kernels = check_array(kernels, 4, "kernels", "(height, width, 1, n)")
    if kernels.shape[2] != 1:
        raise ValueError(
            f"kernels: expected one input channel, shape (height, width, 1, n), got {kernels.shape}; "
            f"pass kernels[:, :, channel, None] for one of several."
        )
    count = kernels.shape[3]
    columns = int(np.ceil(np.sqrt(count * 2))) if count > 4 else count
    rows = -(-count // columns)
    limit = float(np.abs(kernels).max()) or 1.0
    with figure_style():
        figure = Figure(figsize=(1.9 * columns + 1.0, 2.05 * rows + 0.2), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for index, axes in enumerate(grid.ravel()):
            if index >= count:
                axes.set_axis_off()
                continue
            picture = axes.imshow(
                kernels[:, :, 0, index], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest"
            )
            axes.set_title(f"filter {index + 1}", fontsize="small")
            axes.xaxis.set_major_locator(NullLocator())
            axes.yaxis.set_major_locator(NullLocator())
        figure.colorbar(picture, ax=grid, label="weight", shrink=0.8, pad=0.02)
        return figure


def first_layer_responses(
    images, responses, redshifts, cell_size: float = 1.5, titles: Sequence[str] | None = None
) -> Figure:
    """Figure A2: one or more light-cone images and the first convolution's response to them, filter by filter.

    Each filter has one colour scale for all light-cones, from zero (black), so that a filter silent for one of them
    shows as black there. A response smaller than its image (valid padding) is drawn centred.

    Args:
        images: Brightness temperature in mK, ``(m, n_perp, n_los)``, or one image.
        responses: Activations ``(m, n_filters, height, width)``, or ``(n_filters, height, width)`` for one image.
        redshifts: Redshift of each cell along the line of sight, ``(n_los,)``, rising.
        cell_size: Side of a cell in comoving Mpc.
        titles: One title per light-cone.

    Raises:
        ValueError: On shapes that do not match.
    """
    images, responses = np.asarray(images), np.asarray(responses)
    if images.ndim == 2 and responses.ndim == 3:
        images, responses = images[None], responses[None]
    images = check_array(images, 3, "images", "(m, n_perp, n_los)")
    responses = check_array(responses, 4, "responses", "(m, n_filters, height, width)")
    too_large = responses.shape[2] > images.shape[1] or responses.shape[3] > images.shape[2]
    if len(images) != len(responses) or too_large:
        raise ValueError(
            f"responses: expected (m, n_filters, height, width) for the {len(images)} images of "
            f"{images.shape[1:]}, got {responses.shape}; move the channel axis to the second place."
        )
    redshifts = _redshifts(redshifts, images.shape[2], "images")
    titles = check_titles(titles, len(images))
    filters = responses.shape[1]
    high = np.array([np.percentile(responses[:, index], 99.5) for index in range(filters)])
    high = np.where(high > 0, high, np.maximum(responses.max(axis=(0, 2, 3)), 1e-12))
    with figure_style():
        width, strip, gap, top, bottom = 11.0, 0.42, 0.06, 0.75, 0.35
        block = top + (filters + 1) * (strip + gap)
        height = block * len(images) + bottom
        figure = Figure(figsize=(width, height))
        norm, colormap = brightness_temperature_norm(images), brightness_temperature_colormap()
        extent = (images.shape[2] * cell_size, images.shape[1] * cell_size)
        for place, (image, channels, title) in enumerate(zip(images, responses, titles, strict=True)):
            for row in range(filters + 1):
                edge = height - place * block - top - strip - row * (strip + gap)
                axes = figure.add_axes((0.08, edge / height, 0.9, strip / height))
                if row == 0:
                    _draw_lightcone(axes, image, cell_size, norm, colormap)
                    _redshift_axis(axes, redshifts, cell_size, label=True)
                    if title:
                        axes.set_title(title, loc="left", pad=34, fontsize="small")
                else:
                    response = channels[row - 1]
                    margin = [(extent[axis] - response.shape[1 - axis] * cell_size) / 2 for axis in (0, 1)]
                    axes.imshow(
                        response,
                        cmap="inferno",
                        norm=Normalize(0.0, high[row - 1]),
                        aspect="auto",
                        origin="lower",
                        extent=(margin[0], extent[0] - margin[0], margin[1], extent[1] - margin[1]),
                    )
                    axes.set_xlim(0, extent[0])
                    axes.set_ylim(0, extent[1])
                axes.set_ylabel(
                    "input" if row == 0 else f"filter {row}", rotation=0, ha="right", va="center", fontsize="small"
                )
                axes.yaxis.set_major_locator(NullLocator())
                last = place == len(images) - 1 and row == filters
                axes.tick_params(bottom=last, labelbottom=last)
        axes.set_xlabel("comoving distance along the line of sight [Mpc]")
        return figure


def score_comparison(
    table: Mapping[str, Mapping[str, float]],
    parameters: Sequence[Parameter],
    errors: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Table 2 as a figure: R2 of the network, of baselines and of the paper, side by side for each parameter.

    Args:
        table: R2 by source and parameter name, such as ``{"network": {"zeta": 0.9}, "paper": {"zeta": 0.955}}``. The
            source ``"paper"`` is marked as measured on other data. A parameter may be missing from a source.
        parameters: The parameters, in the order of drawing (the paper's four in the paper's order).
        errors: Standard errors in the same form, where known.

    Raises:
        ValueError: If the table is empty or names an unknown parameter.
    """
    names = {parameter.name for parameter in parameters}
    unknown = sorted({name for scores in table.values() for name in scores} - names)
    if not table or unknown:
        raise ValueError(
            f"table: expected at least one source with scores for {sorted(names)}, "
            f"got sources {sorted(table)} and unknown parameters {unknown}."
        )
    parameters = [parameters[index] for index in _paper_order(parameters)]
    positions = np.arange(len(parameters))
    width = 0.8 / len(table)
    values = [value for scores in table.values() for value in scores.values() if np.isfinite(value)]
    floor = max(min([0.0, *values]), -0.5)
    with figure_style():
        figure = Figure(figsize=(max(5.0, 1.0 + 0.55 * len(table) * len(parameters)), 3.8), layout="constrained")
        axes = figure.add_subplot()
        for index, (source, scores) in enumerate(table.items()):
            heights = np.array([scores.get(parameter.name, np.nan) for parameter in parameters])
            known = errors.get(source, {}) if errors else {}
            spread = np.array([known.get(parameter.name, np.nan) for parameter in parameters])
            colour = PALETTE.get(source, CYCLE[(index + 2) % len(CYCLE)])
            paper = {"facecolor": "white", "edgecolor": colour, "hatch": "////"} if source == "paper" else {}
            x = positions + (index - (len(table) - 1) / 2) * width
            axes.bar(
                x,
                heights,
                0.92 * width,
                color=colour if source != "paper" else None,
                label="paper (their data)" if source == "paper" else source,
                **paper,
            )
            shown = np.isfinite(heights) & np.isfinite(spread)
            axes.errorbar(
                x[shown], heights[shown], spread[shown], fmt="none", ecolor="#1F2937", elinewidth=1.0, capsize=2.5
            )
            for here, value, error in zip(x, heights, np.nan_to_num(spread), strict=True):
                if np.isfinite(value):
                    text_height = min(max(value + error, 0.0), 1.0) + 0.015
                    axes.text(here, text_height, f"${value:.3f}$", ha="center", va="bottom", fontsize="x-small")
        axes.axhline(0.0, color="#4B5563", linewidth=0.8)
        axes.axhline(1.0, color=PALETTE["guide"], linewidth=0.8, linestyle=":")
        axes.set_xticks(positions, [parameter_label(parameter).split(" [")[0] for parameter in parameters])
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(floor * 1.1, 1.1)
        axes.set_ylabel("$R^2$")
        axes.grid(True, axis="y")
        figure.legend(loc="outside upper center", ncols=len(table))
        return figure


def _plain_log_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _draw_lightcone(axes: Axes, image, cell_size, norm, colormap) -> None:
    n_perp, n_los = image.shape
    axes.imshow(
        image,
        norm=norm,
        cmap=colormap,
        aspect="auto",
        origin="lower",
        extent=(0, n_los * cell_size, 0, n_perp * cell_size),
    )


def _redshift_axis(axes: Axes, redshifts: np.ndarray, cell_size: float, label: bool) -> None:
    ticks = [z for z in _REDSHIFT_TICKS if redshifts[0] - 0.01 <= z <= redshifts[-1] + 0.01]
    if len(ticks) < 4:
        ticks = MaxNLocator(6).tick_values(redshifts[0], redshifts[-1])
        ticks = ticks[(ticks >= redshifts[0]) & (ticks <= redshifts[-1])]
    centres = (np.arange(len(redshifts)) + 0.5) * cell_size
    top = axes.twiny()
    top.set_xlim(axes.get_xlim())
    top.set_xticks(np.interp(ticks, redshifts, centres), [f"{z:g}" for z in ticks])
    if label:
        top.set_xlabel("redshift $z$")


def _draw_recovery(figure, box, true, predicted, parameter, texts, baseline) -> None:
    left, bottom, width, height = box

    def place(x, y, w, h):
        return figure.add_axes((left + x * width, bottom + y * height, w * width, h * height))

    centre = place(0.34, 0.35, 0.5, 0.55)
    side = place(0.135, 0.35, 0.19, 0.55)
    below = place(0.34, 0.125, 0.5, 0.21)
    low, high = _limits(true, predicted, parameter)
    centre.set(xlim=(low, high), ylim=(low, high))
    centre.plot([low, high], [low, high], color=PALETTE["truth"], linewidth=0.9, linestyle="--", zorder=3)
    if len(true) < _FEW_POINTS:
        centre.plot(true, predicted, "o", color=PALETTE["network"], alpha=0.65, markersize=4, markeredgewidth=0)
    else:
        grid = np.linspace(low, high, 61 if len(true) > 5000 else 41)
        counts = np.histogram2d(np.clip(true, low, high), np.clip(predicted, low, high), [grid, grid])[0]
        norm = LogNorm(1, max(counts.max(), 2))
        mesh = centre.pcolormesh(grid, grid, np.ma.masked_less(counts.T, 1), cmap=density_colormap(), norm=norm)
        bar = place(0.855, 0.35, 0.022, 0.55)
        ticks = np.outer(10 ** np.arange(6), [1, 2, 5]).ravel()
        bar_axis = figure.colorbar(mesh, cax=bar, ticks=ticks[ticks <= norm.vmax])
        bar_axis.minorticks_off()
        bar_axis.formatter = FuncFormatter(lambda value, _: f"{value:.0f}")
        bar.set_title("count", fontsize="small")
    for line, (text, role) in enumerate(zip(texts, ("network", "baseline"), strict=False)):
        centre.text(
            0.04, 0.96 - 0.085 * line, text, transform=centre.transAxes, va="top", color=PALETTE[role], zorder=4
        )
    centre.set_title(parameter_label(parameter))
    centre.tick_params(labelbottom=False, labelleft=False)

    # Bins wide enough to hold about eight points on average keep a small test set readable.
    edges = np.linspace(low, high, int(np.clip(len(true) / 8, 3, 24)) + 1)
    span = 1.15 * max(
        _draw_residuals(axes, reference, predicted - true, edges, vertical, PALETTE["network"], 0.0)
        for axes, reference, vertical in ((below, true, False), (side, predicted, True))
    )
    if baseline is not None:
        for axes, reference, vertical in ((below, true, False), (side, baseline, True)):
            other = _draw_residuals(axes, reference, baseline - true, edges, vertical, PALETTE["baseline"], 0.22)
            span = max(span, min(1.15 * other, 2.5 * span))
    below.set(xlim=(low, high), ylim=(-span, span), xlabel="true", ylabel="residual")
    side.set(ylim=(low, high), xlim=(-span, span), ylabel="predicted", xlabel="residual")
    below.axhline(0.0, color=PALETTE["truth"], linewidth=0.9, linestyle="--")
    side.axvline(0.0, color=PALETTE["truth"], linewidth=0.9, linestyle="--")
    side.xaxis.tick_top()
    side.xaxis.set_label_position("top")
    for axis in (below.yaxis, side.xaxis):
        axis.set_major_locator(MaxNLocator(3, symmetric=True))
    for axis in (centre.xaxis, centre.yaxis, below.xaxis, side.yaxis):
        axis.set_major_locator(MaxNLocator(5))


def _draw_residuals(axes: Axes, reference, residual, edges, vertical: bool, colour: str, shift: float) -> float:
    binned = binned_residuals(reference, residual, edges)
    used = binned.counts > 0
    positions = (edges[:-1] + (0.5 + shift) * np.diff(edges))[used]
    # NaN where a bin has one entry: Matplotlib then draws the point alone.
    mean, deviation = binned.mean[used], binned.standard_deviation[used]
    style = {"fmt": "o", "color": colour, "markersize": 3, "elinewidth": 1.2}
    if vertical:
        axes.errorbar(mean, positions, xerr=deviation, **style)
    else:
        axes.errorbar(positions, mean, yerr=deviation, **style)
    return float(np.max(np.abs(mean) + np.nan_to_num(deviation), initial=0.0)) or 1e-3 * float(edges[-1] - edges[0])


def _limits(true, predicted, parameter: Parameter) -> tuple[float, float]:
    """Prior range, widened for predictions outside it but not for the last half per cent of them."""
    low, high = np.percentile(predicted, [0.5, 99.5])
    low, high = min(parameter.low, low, true.min()), max(parameter.high, high, true.max())
    margin = 0.02 * (high - low)
    return low - margin, high + margin


def _paper_order(parameters: Sequence[Parameter]) -> list[int]:
    names = [parameter.name for parameter in parameters]
    if sorted(names) == sorted(_PAPER_ORDER):
        return [names.index(name) for name in _PAPER_ORDER]
    return list(range(len(names)))


def _history_columns(history) -> dict[str, np.ndarray]:
    names = history.dtype.names if isinstance(history, np.ndarray) else tuple(history)
    if "loss" not in (names or ()):
        raise ValueError(f"history: expected a column 'loss', got {sorted(names or ())}.")
    columns = {name: np.asarray(history[name], dtype=np.float64) for name in names if name in _HISTORY_COLUMNS}
    epochs = len(columns["loss"])
    lengths = {name: len(values) for name, values in columns.items()}
    if epochs == 0 or set(lengths.values()) != {epochs}:
        raise ValueError(f"history: expected columns of one length, at least one epoch, got lengths {lengths}.")
    columns.setdefault("epoch", np.arange(1.0, epochs + 1))
    for name in ("val_loss", "learning_rate"):
        columns.setdefault(name, np.full(epochs, np.nan))
    if not np.isfinite(columns["loss"]).any():
        raise ValueError("history: expected finite values in column 'loss', got none.")
    return columns


def _redshifts(redshifts, n_los: int, name: str) -> np.ndarray:
    redshifts = np.asarray(redshifts, dtype=np.float64)
    if redshifts.shape != (n_los,) or not np.all(np.diff(redshifts) > 0):
        raise ValueError(
            f"redshifts: expected {n_los} rising values, one per line-of-sight cell of {name}, "
            f"got shape {redshifts.shape}."
        )
    return redshifts
