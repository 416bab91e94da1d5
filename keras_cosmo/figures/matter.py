"""Figures of the reconstruction of matter from 21-cm maps (Villanueva-Domingo & Villaescusa-Navarro 2021, ApJ 907, 44).

Arrays in, a Matplotlib Figure out. Maps are ``(nx, ny)``; brightness temperatures are in mK, the matter field is the
overdensity, which has no unit. A network with several redshifts gets one figure for each.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy.stats import norm as normal

from keras_cosmo.figures.style import (
    PALETTE,
    axes_in_inches,
    check_array,
    draw_band,
    draw_brightness_temperature,
    draw_map,
    figure_style,
    map_scale,
    panel_size,
)
from keras_cosmo.statistics.distributions import MapDistribution
from keras_cosmo.statistics.spectra import SpectrumComparison, over_maps

MATTER_LABEL = r"overdensity $\delta$"
_ERROR_LABEL = r"$\log_{10}\,|\delta_\mathrm{predicted} - \delta_\mathrm{true}|$"
_LINES = {"truth": "-", "network": "-", "baseline": (0, (5, 2))}
# Section IV.1 of the paper: within 5% to k = 0.7 1/Mpc and within 8% to 2 1/Mpc at z = 15.
_PAPER_ACCURACY = ((0.0, 0.7, 0.05), (0.7, 2.0, 0.08))


def slices(brightness_temperature, density, redshifts, cell_size: float) -> Figure:
    """Figure 1: brightness temperature at the left and overdensity at the right, one row per redshift.

    Args:
        brightness_temperature: In mK, ``(n_redshifts, nx, ny)``.
        density: Overdensity of the same slabs, same shape.
        redshifts: Redshift of each row.
        cell_size: Side of a cell in comoving Mpc.

    Raises:
        ValueError: On shapes that do not match.
    """
    temperature = check_array(brightness_temperature, 3, "brightness_temperature", "(n_redshifts, nx, ny)")
    density = _same_shape(density, temperature, "density", "brightness_temperature")
    redshifts = np.atleast_1d(np.asarray(redshifts, dtype=np.float64))
    if redshifts.shape != (len(temperature),):
        raise ValueError(f"redshifts: expected one per map, {len(temperature)}, got shape {redshifts.shape}.")
    width, height = panel_size(temperature.shape[1:], 3.4)
    left, between, top, bottom, gap = 0.65, 1.1, 0.4, 0.5, 0.35
    with figure_style():
        total = bottom + top + len(temperature) * (height + gap) - gap
        figure = Figure(figsize=(left + 2 * (width + between), total))
        for row, redshift in enumerate(redshifts):
            edge = total - top - height - row * (height + gap)
            for column, image in enumerate((temperature[row], density[row])):
                start = left + column * (width + between)
                axes = axes_in_inches(figure, start, edge, width, height)
                bar = axes_in_inches(figure, start + width + 0.08, edge, 0.12, height)
                if column == 0:
                    draw_brightness_temperature(figure, axes, image, cell_size, bar)
                    axes.set_ylabel("Mpc")
                else:
                    picture = draw_map(axes, image, cell_size, norm=map_scale(image), cmap="viridis")
                    figure.colorbar(picture, cax=bar, label=MATTER_LABEL, extend="both")
                    axes.tick_params(labelleft=False)
                axes.set_title(f"$z = {redshift:g}$" if column == 0 else "", loc="left")
                if row == 0:
                    axes.set_title(("21 cm, redshift space", "matter, real space")[column], loc="right")
                if row == len(redshifts) - 1:
                    axes.set_xlabel("Mpc")
                else:
                    axes.tick_params(labelbottom=False)
        return figure


def reconstruction(
    brightness_temperature, true, predicted, cell_size: float, redshift: float | None = None, baseline=None
) -> Figure:
    """Figure 3: the true and the predicted matter above, the 21-cm map and the error of the prediction below.

    Matter maps share one colour scale, and so do errors. A pixel without any error is drawn as the smallest error.

    Args:
        brightness_temperature: The network's input in mK, ``(nx, ny)``.
        true: True overdensity, ``(nx, ny)``.
        predicted: Predicted overdensity, ``(nx, ny)``.
        cell_size: Side of a cell in comoving Mpc.
        redshift: For the title.
        baseline: Prediction of a linear baseline, which is drawn in a third column with its error.

    Raises:
        ValueError: On shapes that do not match.
    """
    true = check_array(true, 2, "true", "(nx, ny)")
    temperature = _same_shape(brightness_temperature, true, "brightness_temperature", "true")
    predictions = [("prediction", _same_shape(predicted, true, "predicted", "true"))]
    if baseline is not None:
        predictions.append(("linear baseline", _same_shape(baseline, true, "baseline", "true")))
    errors = [np.abs(image.astype(np.float64) - true) for _, image in predictions]
    positive = np.concatenate([error[error > 0] for error in errors])
    floor = np.percentile(positive, 0.5) if positive.size else 1e-12
    errors = [np.log10(np.maximum(error, floor)) for error in errors]
    columns = 1 + len(predictions)
    width, height = panel_size(true.shape, 3.3)
    left, right, between, top, bottom, gap = 0.65, 1.0, 0.2, 0.65 if redshift is not None else 0.35, 1.15, 0.4
    with figure_style():
        across = left + columns * (width + between) - between + right
        figure = Figure(figsize=(across, top + bottom + 2 * height + gap))
        starts = [left + column * (width + between) for column in range(columns)]
        grid = [
            [axes_in_inches(figure, start, edge, width, height) for start in starts]
            for edge in (bottom + height + gap, bottom)
        ]
        matter, error_scale = map_scale(true), map_scale(errors)
        upper = draw_map(grid[0][0], true, cell_size, norm=matter, cmap="viridis")
        grid[0][0].set_title("true matter")
        bar = axes_in_inches(figure, left, 0.5, width, 0.12)
        draw_brightness_temperature(figure, grid[1][0], temperature, cell_size, bar, orientation="horizontal")
        grid[1][0].set_title("21-cm input")
        for column, ((name, image), error) in enumerate(zip(predictions, errors, strict=True), 1):
            draw_map(grid[0][column], image, cell_size, norm=matter, cmap="viridis")
            grid[0][column].set_title(name)
            lower = draw_map(grid[1][column], error, cell_size, norm=error_scale, cmap="magma")
            grid[1][column].set_title(f"error of the {name}")
        bar = axes_in_inches(figure, starts[-1] + width + 0.08, bottom + height + gap, 0.12, height)
        figure.colorbar(upper, cax=bar, label=MATTER_LABEL, extend="both")
        bar = axes_in_inches(figure, starts[1], 0.5, starts[-1] + width - starts[1], 0.12)
        figure.colorbar(lower, cax=bar, label=_ERROR_LABEL, extend="both", orientation="horizontal")
        for row, panels in enumerate(grid):
            for column, axes in enumerate(panels):
                axes.tick_params(labelleft=column == 0, labelbottom=row == 1)
                axes.set(xlabel="Mpc" if row == 1 else "", ylabel="Mpc" if column == 0 else "")
        if redshift is not None:
            figure.suptitle(f"$z = {redshift:g}$", x=(left + (across - right)) / 2 / across)
        return figure


def spectra(
    comparisons: Mapping[str, SpectrumComparison], redshift: float | None = None, paper_accuracy: bool = True
) -> Figure:
    """Figures 4 and 7: power spectra at the left, transfer function and correlation coefficient at the right.

    Lines are means over maps, bands one standard deviation over maps to each side. On the logarithmic axis, where the
    mean less the deviation may be negative, a band of the relative deviation s reaches down to mean / (1 + s).

    Args:
        comparisons: By source, such as ``{"network": ..., "baseline": ...}``, all with the same true maps.
        redshift: For the title.
        paper_accuracy: Mark the accuracy that the paper states for z = 15, 5% to k = 0.7 1/Mpc and 8% to 2 1/Mpc, with
            thin lines.

    Raises:
        ValueError: If there is no comparison, or if they differ in wavenumbers or true spectra.
    """
    first = next(iter(comparisons.values()), None)
    if first is None:
        raise ValueError('comparisons: expected at least one, such as {"network": compare_spectra(...)}, got none.')
    for name, comparison in comparisons.items():
        if not (np.array_equal(comparison.k, first.k) and np.array_equal(comparison.true, first.true)):
            raise ValueError(
                f"comparisons: expected the wavenumbers and true spectra of the first in all, but those of {name!r} "
                f"differ; compare the same maps in the same bins."
            )
    k = first.k
    with figure_style():
        figure = Figure(figsize=(10.0, 4.8), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=[1.1, 1.0])
        left = figure.add_subplot(grid[:, 0])
        upper = figure.add_subplot(grid[0, 1])
        lower = figure.add_subplot(grid[1, 1], sharex=upper)
        left.set(xscale="log", yscale="log", ylabel=r"$P(k)$ [Mpc$^2$]")
        drawn = [_band(left, k, first.true, "truth")]
        drawn += [_band(left, k, comparison.predicted, name) for name, comparison in comparisons.items()]
        _logarithmic_limits(left, drawn, 1e-6)
        if paper_accuracy:
            left.plot([], [], color=PALETTE["guide"], linewidth=0.7, label="within 5%, 8% (paper, $z = 15$)")
        left.legend(loc="lower left")
        for axes, quantity, label in ((upper, "transfer", "$T(k)$"), (lower, "correlation", "$r(k)$")):
            if paper_accuracy:
                _accuracy(axes, k, both_sides=axes is upper)
            axes.axhline(1.0, color=PALETTE["truth"], linewidth=0.9)
            bands = [_band(axes, k, getattr(comparison, quantity), name) for name, comparison in comparisons.items()]
            _limits(axes, bands, 3.0 if axes is upper else 1.05)
            axes.set(xscale="log", ylabel=label)
        figure.align_ylabels([upper, lower])
        upper.tick_params(labelbottom=False)
        for axes in (left, lower):
            axes.set_xlabel(r"$k$ [Mpc$^{-1}$]")
        for axes in (left, upper, lower):
            axes.set_xlim(k[0] / 1.05, k[-1] * 1.05)
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(True, which="major")
        _title(figure, redshift)
        return figure


def normalized_distribution(distributions: Mapping[str, MapDistribution], redshift: float | None = None) -> Figure:
    """Figure 5: distribution of the normalised matter field, on a linear and on a logarithmic axis.

    Lines are means over maps, bands one standard deviation over maps to each side; the normal density for comparison.

    Args:
        distributions: By source, such as ``{"truth": ..., "network": ..., "baseline": ...}``.
        redshift: For the title.

    Raises:
        ValueError: If there is none.
    """
    if not distributions:
        raise ValueError('distributions: expected at least one, such as {"truth": normalized_distribution(...)}.')
    with figure_style():
        figure = Figure(figsize=(10.0, 4.2), layout="constrained")
        linear, logarithmic = figure.subplots(1, 2)
        low = min(distribution.edges[0] for distribution in distributions.values())
        high = max(distribution.edges[-1] for distribution in distributions.values())
        logarithmic.set_yscale("log")
        for axes in (linear, logarithmic):
            grid = np.linspace(low, high, 400)
            axes.plot(grid, normal.pdf(grid), ":", color=PALETTE["guide"], linewidth=1.2, label="normal", zorder=1)
            drawn = [_band(axes, d.centres, d.density, name) for name, d in distributions.items()]
            axes.set_xlabel(r"normalised overdensity $(\delta - \langle\delta\rangle) / \sigma$")
            axes.grid(True)
        linear.set(xlim=(max(low, -3.5), min(high, 4.0)), ylabel="probability density")
        linear.set_ylim(bottom=0.0)
        linear.legend()
        logarithmic.set_xlim(max(low, -4.0), high)
        _logarithmic_limits(logarithmic, drawn, 1e-4)
        _title(figure, redshift)
        return figure


def _same_shape(values, reference: np.ndarray, name: str, of: str) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != reference.shape:
        raise ValueError(f"{name}: expected the shape of {of}, {reference.shape}, got {array.shape}.")
    return array.astype(np.promote_types(array.dtype, np.float32), copy=False)


def _band(axes: Axes, x: np.ndarray, values: np.ndarray, role: str) -> tuple[np.ndarray, np.ndarray]:
    """`draw_band` in the style of a role; mean and standard deviation over maps are returned."""
    truth = role == "truth"
    # The truth is wider and below, so that both show where a prediction hits it.
    width, order = (2.4, 2) if truth else (1.6, 3)
    draw_band(axes, x, values, role, PALETTE.get(role, PALETTE["accent"]), _LINES.get(role, "-."), width, order)
    summary = over_maps(values)
    return summary.mean, summary.standard_deviation


def _accuracy(axes: Axes, k: np.ndarray, both_sides: bool) -> None:
    for low, high, accuracy in _PAPER_ACCURACY:
        ends = np.clip([low, high], k[0] / 1.05, k[-1] * 1.05)
        if ends[0] == ends[1]:
            continue
        for level in (1.0 - accuracy, 1.0 + accuracy)[: 1 + both_sides]:
            axes.plot(ends, [level, level], color=PALETTE["guide"], linewidth=0.7, zorder=1)


def _logarithmic_limits(axes: Axes, bands: list[tuple[np.ndarray, np.ndarray]], span: float) -> None:
    """All means within ``span`` of the highest band, which may fall to zero."""
    high = max(np.nanmax(mean + deviation, initial=0.0) for mean, deviation in bands)
    means = np.concatenate([mean[mean > 0] for mean, _ in bands])
    if means.size:
        axes.set_ylim(max(0.4 * means.min(), span * high), 1.8 * high)


def _limits(axes: Axes, bands: list[tuple[np.ndarray, np.ndarray]], most: float) -> None:
    ends = np.concatenate([mean + sign * deviation for mean, deviation in bands for sign in (-1, 1)])
    ends = ends[np.isfinite(ends)]
    low, high = min(0.9, ends.min(initial=0.9)), min(max(1.1, ends.max(initial=1.1)), most)
    margin = 0.04 * (high - low)
    axes.set_ylim(low - margin, high + margin)


def _title(figure: Figure, redshift: float | None) -> None:
    if redshift is not None:
        figure.suptitle(f"$z = {redshift:g}$")
