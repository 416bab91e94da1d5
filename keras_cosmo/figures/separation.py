"""Figures of the separation of emission lines (Moriwaki et al. 2020, MNRAS 496, L54).

Arrays in, a Matplotlib Figure out. Maps are in erg s^-1 cm^-2 sr^-1, cells in arcmin, wavenumbers in 1/arcmin. Lines go
by their names, such as ``"halpha"`` and ``"oiii"``; sources of a prediction by theirs, such as ``"network"`` and the
names of baselines, in the order of drawing. Values of the paper were measured on other maps and are marked as its own.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from scipy.stats import norm as normal

from keras_cosmo.figures.style import (
    PALETTE,
    axes_in_inches,
    check_array,
    draw_band,
    draw_map,
    figure_style,
    panel_size,
    source_colours,
)
from keras_cosmo.simulations.emission_lines import LINES
from keras_cosmo.statistics.distributions import MapDistribution, rank_correlation
from keras_cosmo.statistics.line_maps import LineTransfer, mean_accuracy, power_residual
from keras_cosmo.statistics.peaks import PeakCurve, Peaks, PeakScores, match_peaks
from keras_cosmo.statistics.spectra import PowerSpectrum, SpectrumComparison, over_maps

#: Section 3.1 of the paper, 1,000 test maps: counts of peaks, of one network and of those that five networks agree on.
PAPER_PEAKS = {
    "halpha": {"precision": 18262 / 24800, "recall": 18262 / 24089, "agreed": (5, 13018 / 14332, 13018 / 24089)},
    "oiii": {"precision": 5095 / 17631, "recall": 5095 / 18859, "agreed": (5, 539 / 895, 539 / 18859)},
}
_UNIT = r"erg s$^{-1}$ cm$^{-2}$ sr$^{-1}$"
_K_LABEL = r"$k$ [arcmin$^{-1}$]"
_MAP_COLOURS = "inferno"
_PEAK, _FALSE_PEAK = "#FFFFFF", "#4DE1FF"
# More error bars than this on a logarithmic axis cover each other.
_MOST_BARS = 22
# Title, loss of a discriminator that cannot decide, and first letters of the columns.
_LOSS_PANELS = (
    ("mean absolute error (L1)", None, "l1_"),
    ("generator, adversarial term", np.log(2.0), "gan_"),
    ("discriminators", 2 * np.log(2.0), "discriminator_"),
)


def line_label(name: str) -> str:
    """A line as Matplotlib text: its symbol, or its name if the simulator does not know it."""
    return LINES[name].symbol if name in LINES else name


def maps(
    observed,
    true,
    predicted,
    lines: Sequence[str],
    cell_size: float,
    true_peaks: Sequence[Peaks] | None = None,
    predicted_peaks: Sequence[Peaks] | None = None,
    radius: float = 2.0,
) -> Figure:
    """Figure 1: the observed map and the true lines above, the sum of the predicted lines and these below.

    Each column has one colour scale with 99.8% of the true pixels between its ends, all in one power of ten.

    Args:
        observed: Observed map ``(nx, ny)``.
        true: True lines ``(nx, ny, n_lines)``.
        predicted: Predicted lines, same shape.
        lines: Name of each line.
        cell_size: Side of a cell in arcmin.
        true_peaks: Peaks of this one map for each line, drawn as circles.
        predicted_peaks: The same of the predicted lines; those without a true peak are dashed where that is known.
        radius: Largest distance of matching peaks in pixels.

    Raises:
        ValueError: On shapes that do not match, or peaks of more than one map.
    """
    true, predicted, lines = _lines(true, predicted, lines)
    observed = check_array(observed, 2, "observed", "(nx, ny)")
    if observed.shape != true.shape[:2]:
        raise ValueError(f"observed: expected the shape of the lines, {true.shape[:2]}, got {observed.shape}.")
    known = _one_map(true_peaks, len(lines), "true_peaks")
    guessed = _one_map(predicted_peaks, len(lines), "predicted_peaks")
    columns = [("observed", observed, "sum of the predictions", predicted.sum(axis=-1))]
    columns += [
        (f"true {line_label(name)}", true[..., i], f"predicted {line_label(name)}", predicted[..., i])
        for i, name in enumerate(lines)
    ]
    scales = [_intensity_scale(column[1]) for column in columns]
    power = _power_of_ten(max(scale.vmax for scale in scales))
    width, height = panel_size(observed.shape, 2.9)
    left, right, between, top, bottom, gap = 0.65, 0.2, 0.2, 0.35, 1.1, 0.35
    with figure_style():
        across = left + len(columns) * (width + between) - between + right
        figure = Figure(figsize=(across, top + 2 * height + gap + bottom))
        for column, (upper, first, lower, second) in enumerate(columns):
            start = left + column * (width + between)
            norm = Normalize(scales[column].vmin / power, scales[column].vmax / power)
            for row, (title, image) in enumerate(((upper, first), (lower, second))):
                axes = axes_in_inches(figure, start, bottom + (1 - row) * (height + gap), width, height)
                picture = draw_map(axes, image / power, cell_size, norm=norm, cmap=_MAP_COLOURS)
                axes.set_title(title)
                axes.tick_params(labelleft=column == 0, labelbottom=row == 1)
                axes.set(xlabel="arcmin" if row == 1 else "", ylabel="arcmin" if column == 0 else "")
                if column:
                    peaks = (known, guessed)[row][column - 1]
                    truth = known[column - 1] if row else None
                    _circles(axes, peaks, truth, cell_size, radius)
            bar = axes_in_inches(figure, start, 0.52, width, 0.11)
            figure.colorbar(picture, cax=bar, orientation="horizontal", extend="both", ticks=MaxNLocator(5))
        middle = (left + (across - left - right) / 2) / across
        text = f"intensity [{_with_power(power)}]"
        if true_peaks is not None and predicted_peaks is not None:
            text += "; dashed circles: no true peak there"
        figure.text(middle, 0.1 / figure.get_size_inches()[1], text, ha="center")
        return figure


def mean_intensity(true, predictions: Mapping[str, np.ndarray], lines: Sequence[str]) -> Figure:
    """Figure 2: predicted against true mean intensity of every map, one panel per line.

    The diagonal, 10% (dashed) and 20% (dotted) to each side. The text gives median and half of the central 68% of the
    fractional error.

    Args:
        true: True mean of each map and line, ``(n_maps, n_lines)``.
        predictions: Predicted means of the same shape by source, such as ``{"network": ..., "baseline": ...}``. The
            first is drawn on top.
        lines: Name of each line.

    Raises:
        ValueError: On shapes that do not match, values that are not finite, or a true mean that is not positive.
    """
    true = check_array(true, 2, "true", "(n_maps, n_lines)").astype(np.float64)
    lines = _names(lines, true.shape[1])
    _some(predictions, "predictions", '{"network": means}')
    predictions = {
        name: _same_shape(values, true, f"predictions[{name!r}]", "true") for name, values in predictions.items()
    }
    colours = source_colours(predictions)
    power = _power_of_ten(true.max())
    with figure_style():
        figure = Figure(figsize=(0.4 + 4.1 * len(lines), 5.0), layout="constrained")
        grid = figure.subplots(1, len(lines), squeeze=False)[0]
        for column, (axes, line) in enumerate(zip(grid, lines, strict=True)):
            x = true[:, column] / power
            every = np.concatenate([x, *(values[:, column] / power for values in predictions.values())])
            low, high = min(x.min(), np.percentile(every, 0.5)), max(x.max(), np.percentile(every, 99.5))
            margin = 0.05 * (high - low) or 0.05 * high
            low, high = max(low - margin, 0.0), high + margin
            ends = np.array([low, high])
            axes.plot(ends, ends, color=PALETTE["truth"], linewidth=1.0, zorder=4)
            for part, style in ((0.1, (0, (5, 3))), (0.2, ":")):
                for factor in (1 - part, 1 + part):
                    axes.plot(ends, factor * ends, color=PALETTE["truth"], linewidth=0.8, linestyle=style, zorder=4)
            size = float(np.clip(200 / np.sqrt(len(x)), 3, 30))
            for place, (name, values) in reversed(list(enumerate(predictions.items()))):
                accuracy = mean_accuracy(true[:, column], values[:, column], bootstrap_sets=2)
                axes.scatter(
                    x,
                    values[:, column] / power,
                    s=size,
                    color=colours[name],
                    alpha=0.55,
                    linewidth=0,
                    label=name,
                    zorder=3 - 0.1 * place,
                )
                axes.text(
                    0.04,
                    0.96 - 0.075 * place,
                    f"{name}: {100 * accuracy.median:+.1f}% $\\pm$ {100 * accuracy.half_width:.1f}%",
                    transform=axes.transAxes,
                    va="top",
                    color=colours[name],
                    fontsize="small",
                    zorder=5,
                    bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1.0},
                )
            axes.set(xlim=(low, high), ylim=(low, high), title=line_label(line), aspect="equal")
            axes.set_xlabel(f"true mean [{_with_power(power)}]", fontsize="small")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(5))
        grid[0].set_ylabel("predicted mean")
        return figure


def power_spectra(
    comparisons: Mapping[str, Mapping[str, SpectrumComparison]],
    unsmoothed: Mapping[str, PowerSpectrum] | None = None,
    restored: Mapping[str, PowerSpectrum] | None = None,
) -> Figure:
    """Figure 3: power spectra of each line below, predicted less true power in units of sigma_true above.

    Below, the band is one standard deviation of the true maps, error bars are those of the first source and dashed
    lines the means of the others; the light band is the truth before the beam, and the dotted line the prediction of
    the first source with the beam undone. Bands that would reach below zero end at mean / (1 + relative deviation).
    Above are means over maps, with the central band of the paper, one sigma_true.

    Args:
        comparisons: By line and by source, such as ``{"halpha": {"network": ..., "baseline": ...}}``; all of one line
            with the same true maps.
        unsmoothed: By line, the spectrum of the true maps before the beam.
        restored: By line, the spectrum of the first source from `keras_cosmo.statistics.beam.unsmooth_power`, NaN where
            it cannot be had.

    Raises:
        ValueError: If there is no comparison, or if those of one line differ in wavenumbers or true spectra.
    """
    _check_comparisons(comparisons)
    unsmoothed = _only_known(unsmoothed, comparisons, "unsmoothed")
    restored = _only_known(restored, comparisons, "restored")
    with figure_style():
        figure = Figure(figsize=(0.7 + 4.3 * len(comparisons), 5.8), layout="constrained")
        grid = figure.subplots(2, len(comparisons), sharex="col", sharey="row", squeeze=False, height_ratios=[2, 3])
        for (line, sources), upper, lower in zip(comparisons.items(), grid[0], grid[1], strict=True):
            colours = source_colours(sources)
            first = next(iter(sources.values()))
            lower.set(xscale="log", yscale="log")
            if line in unsmoothed:
                spectrum = unsmoothed[line]
                draw_band(lower, spectrum.k, spectrum.power, "truth before the beam", "#9CA3AF", width=1.0, zorder=1.0)
            highest, lowest = draw_band(lower, first.k, first.true, "truth", PALETTE["truth"], width=2.2, zorder=2)
            upper.axhspan(-1, 1, color=PALETTE["truth"], alpha=0.09, linewidth=0)
            upper.axhline(0.0, color=PALETTE["truth"], linewidth=0.9)
            for place, (name, comparison) in enumerate(sources.items()):
                summary = over_maps(comparison.predicted)
                if place == 0:
                    shown = _spread(first.k)
                    mean = np.where(summary.mean > 0, summary.mean, np.nan)
                    lower.errorbar(
                        first.k[shown],
                        mean[shown],
                        np.stack([_downward(summary), summary.standard_deviation])[:, shown],
                        fmt="o",
                        markersize=3.5,
                        elinewidth=1.1,
                        color=colours[name],
                        label=name,
                        zorder=4,
                    )
                    if line in restored:
                        undone = restored[line]
                        power = np.asarray(undone.power).mean(axis=0)
                        # Where noise was subtracted a mean may be negative.
                        power = np.where(power > 0, power, np.nan)
                        label = f"{name}, beam undone"
                        lower.plot(undone.k, power, color=colours[name], linestyle=":", label=label, zorder=3.5)
                else:
                    lower.plot(first.k, summary.mean, color=colours[name], linestyle=(0, (5, 2)), label=name, zorder=3)
                residual = power_residual(comparison.true, comparison.predicted)
                upper.plot(
                    first.k,
                    residual.mean,
                    color=colours[name],
                    linestyle="-" if place == 0 else (0, (5, 2)),
                    label=name,
                )
            lower.set_ylim(bottom=_floor(lowest, highest, 2e-6))
            upper.set_title(line_label(line))
            lower.set_xlabel(_K_LABEL)
            _wavenumber_axis(lower, first.k)
            for axes in (upper, lower):
                axes.grid(True, which="major")
        ends = np.array([axes.dataLim.intervaly for axes in grid[0]])
        low, high = max(ends.min(initial=-1.3), -6.0), min(ends.max(initial=1.3), 6.0)
        grid[0, 0].set_ylim(low - 0.1, high + 0.1)
        grid[0, 0].set_ylabel(r"$(P - P_\mathrm{true})\,/\,\sigma_\mathrm{true}$")
        grid[1, 0].set_ylabel(f"$P(k)$ [({_UNIT})$^2$ arcmin$^2$]")
        grid[1, -1].legend(loc="lower left")
        figure.align_ylabels(grid[:, 0])
        return figure


def peak_statistics(
    scores: Mapping[str, Mapping[str, PeakScores]],
    curves: Mapping[str, Mapping[str, PeakCurve]] | None = None,
    agreement: Mapping[str, PeakCurve] | None = None,
    paper: bool = True,
) -> Figure:
    """Peaks of each line: precision and recall as bars, precision against recall, and the vote of several networks.

    Args:
        scores: By line and by source, such as ``{"halpha": {"network": ..., "baseline": ...}}``.
        curves: By line and by source, from `keras_cosmo.statistics.peaks.precision_recall_curve`.
        agreement: By line, from `keras_cosmo.statistics.peaks.agreement_curve`.
        paper: Mark the paper's values for the lines it has.

    Raises:
        ValueError: If there are no scores, or curves of lines without scores.
    """
    _some(scores, "scores", '{"halpha": {"network": score_peaks(...)}}')
    curves = _only_known(curves, scores, "curves")
    agreement = _only_known(agreement, scores, "agreement")
    names = list(dict.fromkeys(name for sources in scores.values() for name in sources))
    colours = source_colours([*names, *(name for sources in curves.values() for name in sources if name not in names)])
    panels = ["bars"] + ["curve"] * bool(curves) + ["vote"] * bool(agreement)
    with figure_style():
        figure = Figure(figsize=(0.4 + 3.7 * len(panels), 0.5 + 3.0 * len(scores)), layout="constrained")
        grid = figure.subplots(len(scores), len(panels), squeeze=False)
        for row, (line, sources) in zip(grid, scores.items(), strict=True):
            reference = PAPER_PEAKS.get(line) if paper else None
            for axes, panel in zip(row, panels, strict=True):
                if panel == "bars":
                    _draw_peak_bars(axes, sources, names, colours, reference)
                elif panel == "curve":
                    _draw_peak_curve(axes, curves.get(line, {}), sources, colours, reference)
                else:
                    _draw_votes(axes, agreement.get(line), reference)
                axes.set_ylim(0.0, 1.05)
                axes.grid(True, axis="y" if panel == "bars" else "both")
            row[0].set_ylabel(f"{line_label(line)} peaks")
        for axes, panel in zip(grid[0], panels, strict=True):
            axes.set_title({"bars": "", "curve": "precision, threshold varied", "vote": "vote of networks"}[panel])
        handles = [Patch(color=colours[name], label=name) for name in colours]
        if paper and any(line in PAPER_PEAKS for line in scores):
            handles.append(
                Patch(facecolor="white", edgecolor=PALETTE["paper"], hatch="////", label="paper (their maps)")
            )
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 2 * len(panels)))
        return figure


def distributions(values: Mapping[str, Mapping[str, MapDistribution]]) -> Figure:
    """Distribution of the normalised pixels of each line, on a logarithmic axis.

    Lines are means over maps, bands one standard deviation over maps; the normal density for comparison.

    Args:
        values: By line and by source, such as ``{"halpha": {"truth": ..., "network": ...}}``, from
            `keras_cosmo.statistics.distributions.normalized_distribution`.

    Raises:
        ValueError: If there is none.
    """
    _some(values, "values", '{"halpha": {"truth": normalized_distribution(...)}}')
    with figure_style():
        figure = Figure(figsize=(0.7 + 4.3 * len(values), 3.9), layout="constrained")
        grid = figure.subplots(1, len(values), sharey=True, squeeze=False)[0]
        ends = []
        for axes, (line, sources) in zip(grid, values.items(), strict=True):
            colours = source_colours(sources)
            axes.set_yscale("log")
            for place, (name, distribution) in enumerate(sources.items()):
                truth = name == "truth"
                highest, lowest = draw_band(
                    axes,
                    distribution.centres,
                    distribution.density,
                    name,
                    colours[name],
                    linestyle="-" if place < 2 else (0, (5, 2)),
                    width=2.2 if truth else 1.6,
                    zorder=2 if truth else 3,
                )
                ends.append((highest, lowest))
            low, high = axes.dataLim.intervalx
            x = np.linspace(low, high, 400)
            axes.plot(x, normal.pdf(x), ":", color=PALETTE["guide"], linewidth=1.2, label="normal", zorder=1)
            axes.set(title=line_label(line), xlim=(low, high), xlabel=r"$(I - \langle I\rangle)\,/\,\sigma$")
            axes.grid(True)
        highest, lowest = max(end[0] for end in ends), min(end[1] for end in ends)
        grid[0].set_ylim(_floor(lowest, highest, 1e-5), 1.8 * highest)
        grid[0].set_ylabel("probability density")
        grid[-1].legend()
        return figure


def correlation_and_leakage(
    comparisons: Mapping[str, Mapping[str, SpectrumComparison]],
    transfers: Mapping[str, LineTransfer],
) -> Figure:
    """Correlation coefficient above; below, how much of each true line there is in the prediction of each line.

    Bands are one standard deviation over maps above and two standard errors below.

    Args:
        comparisons: By line and by source; the lines in the order of the maps.
        transfers: By source, from `keras_cosmo.statistics.line_maps.line_transfer`.

    Raises:
        ValueError: If there is no comparison, those of one line differ in wavenumbers or true spectra, or the
            transfers have another number of lines.
    """
    _check_comparisons(comparisons)
    lines = list(comparisons)
    for name, transfer in transfers.items():
        if transfer.coefficients.shape[1:] != (len(lines), len(lines)):
            raise ValueError(
                f"transfers: expected coefficients of {len(lines)} lines, those of comparisons, "
                f"got {transfer.coefficients.shape[1:]} for {name!r}."
            )
    names = list(dict.fromkeys([*(name for sources in comparisons.values() for name in sources), *transfers]))
    colours = source_colours(names)
    styles = ["-", (0, (5, 2)), ":", "-."]
    with figure_style():
        rows = 2 if transfers else 1
        figure = Figure(figsize=(0.7 + 4.3 * len(lines), 0.9 + 2.9 * rows), layout="constrained")
        grid = figure.subplots(rows, len(lines), sharex="col", sharey="row", squeeze=False)
        lowest, coefficients = 0.0, [0.0, 1.0]
        for index, (line, sources) in enumerate(comparisons.items()):
            upper = grid[0, index]
            upper.set_xscale("log")
            upper.axhline(1.0, color=PALETTE["truth"], linewidth=0.9)
            for name, comparison in sources.items():
                draw_band(upper, comparison.k, comparison.correlation, name, colours[name])
                lowest = min(lowest, np.nanmin(over_maps(comparison.correlation).mean, initial=0.0))
            k = next(iter(sources.values())).k
            upper.set_title(f"predicted {line_label(line)}")
            upper.grid(True)
            if not transfers:
                upper.set_xlabel(_K_LABEL)
                _wavenumber_axis(upper, k)
                continue
            lower = grid[1, index]
            for level in (0.0, 1.0):
                lower.axhline(level, color=PALETTE["truth"], linewidth=0.9)
            order = [index, *(other for other in range(len(lines)) if other != index)]
            for name, transfer in transfers.items():
                for style, other in zip(styles, order, strict=False):
                    value, error = transfer.coefficients[:, index, other], transfer.standard_error[:, index, other]
                    lower.plot(transfer.k, value, color=colours[name], linestyle=style)
                    lower.fill_between(
                        transfer.k, value - 2 * error, value + 2 * error, color=colours[name], alpha=0.16, linewidth=0
                    )
                    coefficients += [np.nanmin(value, initial=0.0), np.nanmax(value, initial=1.0)]
            handles = [
                Line2D([], [], color=PALETTE["guide"], linestyle=style, label=f"of true {line_label(lines[other])}")
                for style, other in zip(styles, order, strict=False)
            ]
            # Below the curves, which may lie anywhere between 0 and 1.
            lower.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.19), ncols=len(handles))
            lower.grid(True)
            lower.set_xlabel(_K_LABEL)
            _wavenumber_axis(lower, k)
        grid[0, 0].set(ylabel="correlation with the true line $r(k)$", ylim=(max(lowest - 0.05, -1.05), 1.05))
        if transfers:
            low, high = max(min(coefficients), -0.5), min(max(coefficients), 1.6)
            grid[1, 0].set(ylabel="part that is in the prediction", ylim=(low - 0.08, high + 0.08))
        handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 2 * len(lines)))
        figure.align_ylabels(grid[:, 0])
        return figure


def robustness(
    factors,
    values: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    spread: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]] | None = None,
    trained: tuple[float, float] | None = None,
) -> Figure:
    """Scores against a factor on the intensity of all lines or of one alone (section 3.2 of the paper).

    Args:
        factors: Factors ``(n,)``, rising.
        values: By the axis label of a score, by case and by line, such as ``{"fractional error of the mean": {"all
            lines": {"halpha": [...], "oiii": [...]}, "only halpha": ...}}``, ``(n,)`` each: one row per score, one
            column per line.
        spread: Error bars in the same form, where known.
        trained: Range of factors that the networks were trained with, shaded.

    Raises:
        ValueError: If there is nothing to draw, lengths differ, or the factors do not rise.
    """
    factors = np.asarray(factors, dtype=np.float64)
    if factors.ndim != 1 or not len(factors) or not np.all(np.diff(factors) > 0):
        raise ValueError(f"factors: expected rising factors (n,), got {factors.tolist()}.")
    _some(values, "values", '{"fractional error of the mean": {"all lines": {"halpha": [...]}}}')
    lines = list(dict.fromkeys(line for cases in values.values() for row in cases.values() for line in row))
    cases = list(dict.fromkeys(case for rows in values.values() for case in rows))
    colours = source_colours(cases)
    with figure_style():
        figure = Figure(figsize=(0.7 + 4.2 * len(lines), 0.7 + 2.7 * len(values)), layout="constrained")
        grid = figure.subplots(len(values), len(lines), sharex=True, sharey="row", squeeze=False)
        shift = 0.12 * np.min(np.diff(factors)) if len(factors) > 1 else 0.0
        for row, (label, table) in zip(grid, values.items(), strict=True):
            signed = any(np.min(here, initial=0.0) < 0 for case in table.values() for here in case.values())
            for axes, line in zip(row, lines, strict=True):
                if trained is not None:
                    axes.axvspan(*trained, color=PALETTE["guide"], alpha=0.18, linewidth=0)
                axes.axvline(1.0, color=PALETTE["guide"], linewidth=0.8)
                if signed:
                    axes.axhline(0.0, color=PALETTE["truth"], linewidth=0.9)
                for place, case in enumerate(cases):
                    if line not in table.get(case, {}):
                        continue
                    here = np.asarray(table[case][line], dtype=np.float64)
                    errors = ((spread or {}).get(label, {}).get(case, {})).get(line)
                    errors = None if errors is None else np.asarray(errors, dtype=np.float64)
                    if here.shape != factors.shape or (errors is not None and errors.shape != factors.shape):
                        raise ValueError(
                            f"values: expected one value per factor, {len(factors)}, for {label!r}, {case!r}, "
                            f"{line!r}, got {here.shape}{'' if errors is None else f' and errors {errors.shape}'}."
                        )
                    axes.errorbar(
                        factors + (place - (len(cases) - 1) / 2) * shift,
                        here,
                        errors,
                        fmt="o" if place == 0 else "sD^vPX"[(place - 1) % 6],
                        linestyle="-" if place == 0 else (0, (5, 2)),
                        markersize=4,
                        elinewidth=1.0,
                        linewidth=1.3,
                        color=colours[case],
                        label=case,
                    )
                axes.grid(True)
            row[0].set_ylabel(label)
        for axes, line in zip(grid[0], lines, strict=True):
            axes.set_title(line_label(line))
        for axes in grid[-1]:
            axes.set_xlabel("factor on the intensity")
        handles = grid[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=min(len(cases), 2 * len(lines)))
        return figure


def disagreement(true, members, lines: Sequence[str], cell_size: float) -> Figure:
    """Where the networks of an ensemble disagree, and where their mean is wrong.

    One row per line: the truth, the standard deviation between the networks and the absolute error of their mean on one
    colour scale. The text is the rank correlation of the last two over pixels.

    Args:
        true: True lines of one map, ``(nx, ny, n_lines)``.
        members: Predictions of each network, ``(n_networks, nx, ny, n_lines)``, at least two.
        lines: Name of each line.
        cell_size: Side of a cell in arcmin.

    Raises:
        ValueError: On shapes that do not match or with fewer than two networks.
    """
    members = check_array(members, 4, "members", "(n_networks, nx, ny, n_lines)")
    if len(members) < 2:
        raise ValueError("members: expected at least two networks, got 1.")
    mean = members.mean(axis=0)
    true, mean, lines = _lines(true, mean, lines)
    deviation, error = members.std(axis=0, ddof=1), np.abs(mean - true)
    power = _power_of_ten(true.max())
    width, height = panel_size(true.shape[:2], 2.8)
    left, right, between, top, bottom, gap = 0.95, 0.9, 0.2, 0.35, 0.5, 0.3
    with figure_style():
        across = left + 3 * width + 2 * between + right + 0.75
        total = top + len(lines) * (height + gap) - gap + bottom
        figure = Figure(figsize=(across, total))
        for row, line in enumerate(lines):
            edge = bottom + (len(lines) - 1 - row) * (height + gap)
            scale = _intensity_scale(true[..., row])
            shared = Normalize(0.0, float(np.percentile([deviation[..., row], error[..., row]], 99.5)) / power or 1e-3)
            starts = [left, left + width + 0.75 + between, left + 2 * width + 0.75 + 2 * between]
            norms = [Normalize(scale.vmin / power, scale.vmax / power), shared, shared]
            images = [true[..., row], deviation[..., row], error[..., row]]
            titles = ["truth", f"deviation between {len(members)} networks", "|error| of their mean"]
            for column, (start, norm, image, title) in enumerate(zip(starts, norms, images, titles, strict=True)):
                axes = axes_in_inches(figure, start, edge, width, height)
                colours = _MAP_COLOURS if column == 0 else "viridis"
                picture = draw_map(axes, image / power, cell_size, norm=norm, cmap=colours)
                axes.tick_params(labelleft=column == 0, labelbottom=row == len(lines) - 1)
                axes.set_xlabel("arcmin" if row == len(lines) - 1 else "")
                axes.set_ylabel(f"{line_label(line)}\narcmin" if column == 0 else "")
                if row == 0:
                    axes.set_title(title)
                if column == 1:
                    text = f"rank correlation {float(rank_correlation(images[1], images[2])):.2f}"
                    axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize="small", color="white")
                if column != 1:
                    bar = axes_in_inches(figure, start + width + 0.08, edge, 0.11, height)
                    label = f"[{_with_power(power)}]" if column == 2 else ""
                    bar_axis = figure.colorbar(picture, cax=bar, extend="both" if column == 0 else "max")
                    bar_axis.set_label(label, fontsize="small")
        return figure


def losses(history) -> Figure:
    """Losses against epoch: one panel each for the L1 terms, the adversarial terms of the generator and discriminators.

    Solid lines are means over the training maps of an epoch, dashed ones those of the validation part after it. A
    discriminator that cannot tell true maps from predicted ones has the loss 2 ln 2, and the generator's adversarial
    term is then ln 2 (dotted guides).

    Args:
        history: Columns of `keras_cosmo.models.line_separator.LineSeparator`, a mapping of sequences or a structured
            array: ``l1_<line>``, ``l1_total``, ``gan_<line>`` and ``discriminator_<line>``, those of validation with
            ``val_`` before; ``epoch`` where present.

    Raises:
        ValueError: If there is no such column, or their lengths differ.
    """
    names = list(history.dtype.names if isinstance(history, np.ndarray) else history)
    panels = [
        (title, guide, columns)
        for title, guide, prefix in _LOSS_PANELS
        if (columns := [name for name in names if name.startswith(prefix)])
    ]
    if not panels:
        raise ValueError(f"history: expected columns such as 'l1_total' or 'gan_halpha', got {names}.")
    wanted = [name for _, _, columns in panels for name in columns]
    wanted += [f"val_{name}" for name in wanted if f"val_{name}" in names]
    table = {name: np.asarray(history[name], dtype=np.float64) for name in wanted}
    lengths = {name: len(values) for name, values in table.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ValueError(f"history: expected columns of one length, at least one epoch, got {lengths}.")
    epochs = len(next(iter(table.values())))
    epoch = np.asarray(history["epoch"], dtype=np.float64) if "epoch" in names else np.arange(1.0, epochs + 1)
    parts = list(dict.fromkeys(name.split("_", 1)[1] for name in wanted if not name.startswith("val_")))
    colours = source_colours([part for part in parts if part != "total"]) | {"total": PALETTE["truth"]}
    dashes = (0, (4, 2))
    with figure_style():
        figure = Figure(figsize=(0.6 + 3.8 * len(panels), 3.9), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, guide, columns) in zip(grid, panels, strict=True):
            for name in columns:
                part = name.split("_", 1)[1]
                marker = {"marker": "o", "markersize": 4} if epochs < 13 else {}
                axes.plot(epoch, table[name], "-", color=colours[part], label=_loss_label(part), **marker)
                if f"val_{name}" in table:
                    marker = {"marker": "o", "markersize": 4, "markerfacecolor": "white"} if epochs < 13 else {}
                    axes.plot(epoch, table[f"val_{name}"], linestyle=dashes, color=colours[part], **marker)
            if guide is not None:
                axes.axhline(guide, color=PALETTE["guide"], linestyle=":", linewidth=1.4)
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylim(bottom=0.0)
            axes.grid(True)
        handles = [Line2D([], [], color=colours[part], label=_loss_label(part)) for part in parts]
        guides = [("training", "-")]
        guides += [("validation", dashes)] if any(name.startswith("val_") for name in table) else []
        guides += [("discriminator undecided", ":")] if any(guide is not None for _, guide, _ in panels) else []
        handles += [Line2D([], [], color=PALETTE["guide"], linestyle=style, label=label) for label, style in guides]
        # Beside one panel alone they would not fit into one row.
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if len(panels) > 1 else 3)
        return figure


def _loss_label(part: str) -> str:
    return "sum of the lines" if part == "total" else line_label(part)


def _lines(true, predicted, lines) -> tuple[np.ndarray, np.ndarray, list[str]]:
    true = check_array(true, 3, "true", "(nx, ny, n_lines)").astype(np.float64)
    return true, _same_shape(predicted, true, "predicted", "true"), _names(lines, true.shape[-1])


def _names(lines, count: int) -> list[str]:
    names = [lines] if isinstance(lines, str) else list(lines)
    if len(names) != count:
        raise ValueError(f"lines: expected {count} names, one per line, got {names}.")
    return names


def _same_shape(values, reference: np.ndarray, name: str, of: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != reference.shape:
        raise ValueError(f"{name}: expected the shape of {of}, {reference.shape}, got {array.shape}.")
    return array


def _some(values: Mapping, name: str, example: str) -> None:
    if not values:
        raise ValueError(f"{name}: expected at least one entry, such as {example}, got none.")


def _only_known(values: Mapping | None, known: Mapping, name: str) -> Mapping:
    strangers = sorted(set(values or {}) - set(known))
    if strangers:
        raise ValueError(f"{name}: expected lines of {list(known)}, got {strangers}.")
    return values or {}


def _check_comparisons(comparisons: Mapping[str, Mapping[str, SpectrumComparison]]) -> None:
    _some(comparisons, "comparisons", '{"halpha": {"network": compare_spectra(...)}}')
    for line, sources in comparisons.items():
        _some(sources, f"comparisons[{line!r}]", '{"network": compare_spectra(...)}')
        first = next(iter(sources.values()))
        for name, comparison in sources.items():
            if not (np.array_equal(comparison.k, first.k) and np.array_equal(comparison.true, first.true)):
                raise ValueError(
                    f"comparisons: expected the wavenumbers and true spectra of the first source in all, but those of "
                    f"{name!r} differ for {line!r}; compare the same maps in the same bins."
                )


def _one_map(peaks: Sequence[Peaks] | None, count: int, name: str) -> list[Peaks | None]:
    if peaks is None:
        return [None] * count
    peaks = list(peaks)
    if len(peaks) != count or any(item.maps != 1 for item in peaks):
        raise ValueError(
            f"{name}: expected the peaks of one map for each of {count} lines, got {len(peaks)} sets of "
            f"{[item.maps for item in peaks]} maps; use find_peaks(maps[index : index + 1])."
        )
    return peaks


def _circles(axes: Axes, peaks: Peaks | None, truth: Peaks | None, cell_size: float, radius: float) -> None:
    if peaks is None:
        return
    right = np.ones(len(peaks.map_index), bool)
    if truth is not None:
        right[:] = False
        right[match_peaks(truth, peaks, radius).predicted] = True
    for chosen, colour, style in ((right, _PEAK, "solid"), (~right, _FALSE_PEAK, (0, (2, 1)))):
        # Pixel centres lie half a cell from the corner at which the axes begin.
        x, y = ((peaks.position[chosen] + 0.5) * cell_size).T
        axes.scatter(x, y, s=60, facecolors="none", edgecolors=colour, linewidths=1.2, linestyles=[style])


def _intensity_scale(image: np.ndarray) -> Normalize:
    low, high = np.percentile(np.asarray(image, dtype=np.float64), [0.1, 99.9])
    return Normalize(low, high if high > low else low + 1e-3 * max(abs(low), 1e-30))


def _power_of_ten(value: float) -> float:
    return 10.0 ** np.floor(np.log10(value)) if value > 0 else 1.0


def _with_power(power: float) -> str:
    exponent = round(np.log10(power))
    return rf"$10^{{{exponent}}}$ {_UNIT}" if exponent else _UNIT


def _downward(summary) -> np.ndarray:
    """Lower error bars that stay above zero on a logarithmic axis."""
    mean, deviation = summary.mean, summary.standard_deviation
    return mean - np.divide(mean**2, mean + deviation, out=np.zeros_like(mean), where=mean > 0)


def _floor(lowest: float, highest: float, span: float) -> float:
    return max(0.5 * lowest, span * highest)


def _spread(k: np.ndarray) -> np.ndarray:
    """Indices of wavenumbers that are about even on a logarithmic axis."""
    if len(k) <= _MOST_BARS:
        return np.arange(len(k))
    wanted = np.geomspace(k[0], k[-1], _MOST_BARS)
    return np.unique(np.abs(np.log(k[:, None] / wanted)).argmin(axis=0))


def _wavenumber_axis(axes: Axes, k: np.ndarray) -> None:
    axes.set_xlim(k[0] / 1.1, k[-1] * 1.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_peak_bars(axes: Axes, sources, names, colours, reference) -> None:
    shown = [*names, *(["paper"] if reference else [])]
    width = 0.84 / len(shown)
    for place, name in enumerate(shown):
        x = np.arange(2) + (place - (len(shown) - 1) / 2) * width
        if name == "paper" and name not in sources:
            heights, errors = np.array([reference["precision"], reference["recall"]]), np.full(2, np.nan)
            look = {"facecolor": "white", "edgecolor": PALETTE["paper"], "hatch": "////", "linewidth": 0.8}
        elif name in sources:
            score = sources[name]
            heights = np.array([score.precision, score.recall])
            errors = np.array([score.precision_standard_error, score.recall_standard_error])
            look = {"color": colours[name]}
        else:
            continue
        axes.bar(x, np.nan_to_num(heights), 0.92 * width, **look)
        known = np.isfinite(heights) & np.isfinite(errors)
        axes.errorbar(
            x[known], heights[known], errors[known], fmt="none", ecolor="#1F2937", elinewidth=1.0, capsize=2.0
        )
        for here, value, error in zip(x, heights, np.nan_to_num(errors), strict=True):
            text = f"{value:.2f}" if np.isfinite(value) else "none"
            top = min(np.nan_to_num(value) + error + 0.015, 0.99)
            axes.text(here, top, text, ha="center", va="bottom", fontsize="x-small")
    axes.set_xticks([0, 1], ["precision", "recall"])
    axes.tick_params(axis="x", length=0)


def _draw_peak_curve(axes: Axes, curves, sources, colours, reference) -> None:
    for name, curve in curves.items():
        known = np.isfinite(curve.precision) & np.isfinite(curve.recall)
        recall, precision = curve.recall[known], curve.precision[known]
        error = np.nan_to_num(curve.precision_standard_error[known])
        axes.fill_between(recall, precision - error, precision + error, color=colours[name], alpha=0.2, linewidth=0)
        axes.plot(recall, precision, "-", color=colours[name], linewidth=1.5)
    for name, score in sources.items():
        axes.plot(score.recall, score.precision, "o", color=colours[name], markersize=5)
    if reference:
        axes.plot(
            reference["recall"], reference["precision"], "*", color=PALETTE["paper"], markersize=11, label="paper"
        )
    axes.set(xlim=(0.0, 1.02), xlabel="recall")


def _draw_votes(axes: Axes, curve: PeakCurve | None, reference) -> None:
    axes.set_xlabel("networks that must agree")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if curve is None:
        return
    for name, colour, style in (("precision", "network", "-o"), ("recall", "accent", "--s")):
        axes.errorbar(
            curve.selection,
            getattr(curve, name),
            np.nan_to_num(getattr(curve, f"{name}_standard_error")),
            fmt=style,
            color=PALETTE[colour],
            markersize=4.5,
            elinewidth=1.0,
            label=name,
        )
        if reference:
            axes.plot(
                reference["agreed"][0],
                reference["agreed"][1 if name == "precision" else 2],
                "*",
                markerfacecolor="white",
                markeredgecolor=PALETTE[colour],
                markersize=11,
                label=f"{name}, paper",
            )
    axes.set_xlim(0.7, max(curve.selection.max(), reference["agreed"][0] if reference else 0) + 0.3)
    axes.legend(loc="best")
