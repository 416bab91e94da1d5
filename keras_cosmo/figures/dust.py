"""Figures of the prediction of dust from the Galactic HI velocity cube (Zhang et al. 2019, arXiv:1904.13265).

Arrays in, a Matplotlib Figure out. Models go by their names; those of `MODELS` have a colour, a line style and a marker
of their own in all figures. Cutouts are ``(row, column)`` as from `keras_cosmo.gnomonic.GnomonicGrid`: the first row is
the lowest, and without a rotation north is up and east to the left.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Patch
from matplotlib.ticker import MaxNLocator

from keras_cosmo.figures.style import (
    CYCLE,
    PALETTE,
    axes_in_inches,
    check_array,
    draw_map,
    figure_style,
    source_colours,
    unit_text,
)
from keras_cosmo.statistics.cutout_correlation import band_correlations

#: Names of the models that look the same in all figures.
MODELS = ("U-Net", "integrated intensity", "linear combination", "linear by scale")
_LINES = dict(zip(MODELS, ("-", (0, (5, 2)), "-.", (0, (3, 1, 1, 1, 1, 1))), strict=True))
_MARKERS = dict(zip(MODELS, ("^", "s", "o", "D"), strict=True))
_ELL_LABEL = r"multipole $\ell$"
_BAND_LABELS = (r"$r_{50}$", r"$r_{150}$")
_BAND_TITLES = (r"$r_{50}$: $\ell_\mathrm{F} \leq \ell < 100$", r"$r_{150}$: $100 \leq \ell < 200$")
_VELOCITY_LABEL = r"LSR velocity [km s$^{-1}$]"
_MASKED = "#9CA3AF"
_DUST_COLOURS = "inferno"
# Points of a sky in a Mollweide panel.
_SKY_WIDTH = 1000
# Directions of these are drawn as points, with this many at most.
_MOST_POINTS = 3000


def model_colours(names: Sequence[str]) -> dict[str, str]:
    """Colours by model, the same in every figure for those of `MODELS`."""
    others = [name for name in names if name not in MODELS]
    colours = source_colours([*MODELS, *others])
    return {name: colours[name] for name in names}


def velocity_profile(velocities, mean_intensity, velocity_range: tuple[float, float] | None = (-64.5, 17.0)) -> Figure:
    """Figure 1: intensity summed over random unmasked pointings against velocity.

    Args:
        velocities: Centres of the channels in km/s, ``(n_channels,)``.
        mean_intensity: Total or mean brightness temperature of the pointings in K, ``(n_channels,)``.
        velocity_range: Range that is used, marked with dotted lines; the paper's contains most of the emission. The
            part of the total within it is given in the title.

    Raises:
        ValueError: On shapes that do not match.
    """
    velocities, intensity = _pair(velocities, mean_intensity, "velocities", "mean_intensity")
    with figure_style():
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(velocities, intensity, drawstyle="steps-mid", color=PALETTE["network"])
        axes.axhline(0.0, color=PALETTE["guide"], linewidth=0.7)
        if velocity_range is not None:
            low, high = velocity_range
            inside = (velocities >= low) & (velocities <= high)
            part = intensity[inside].sum() / intensity.sum() if intensity.sum() else np.nan
            for edge in (low, high):
                axes.axvline(edge, color=PALETTE["truth"], linestyle=":", linewidth=1.2)
            axes.set_title(f"{low:g} to {high:g} km s$^{{-1}}$ (dotted): {100 * part:.1f}% of the emission", loc="left")
        axes.set(xlabel=_VELOCITY_LABEL, ylabel="mean brightness temperature [K]")
        axes.grid(True)
        return figure


def cutouts(true, predictions: Mapping[str, np.ndarray], pixel_size: float, mask=None) -> Figure:
    """Figure 3: the true dust of one cutout and its predictions, each divided by its largest pixel as in the paper.

    Titles give r50 and r150 of this cutout, averaged over single modes, of the maps as they are.

    Args:
        true: True dust times mask, ``(side, side)``.
        predictions: Predictions times mask by model, same shape, in any unit.
        pixel_size: Side of a pixel in arcmin.
        mask: Weights 0 to 1, ``(side, side)``; pixels below 0.5 are grey.

    Raises:
        ValueError: On shapes that do not match, or if there is no prediction.
    """
    true = check_array(true, 2, "true", "(side, side)")
    _some(predictions, "predictions", '{"U-Net": map}')
    images = {
        name: _same_shape(image, true.shape, f"predictions[{name!r}]", "true") for name, image in predictions.items()
    }
    hidden = np.zeros(true.shape, dtype=bool)
    if mask is not None:
        hidden = _same_shape(mask, true.shape, "mask", "true") < 0.5
    size, left, right, between, top, bottom, gap = 2.7, 0.6, 0.85, 0.2, 0.5, 0.5, 0.5
    columns = 2 if len(images) < 4 else 3
    rows = -(-(1 + len(images)) // columns)
    panels = {"truth": ("true dust", true)}
    for name, image in images.items():
        r = band_correlations(true[None], image[None], pixel_size)[0]
        scores = ", ".join(f"{label} = {value:.2f}" for label, value in zip(_BAND_LABELS, r, strict=True))
        panels[name] = (f"{name}\n{scores}", image)
    colormap = colormaps[_DUST_COLOURS].with_extremes(bad=_MASKED)
    with figure_style():
        across = left + columns * (size + between) - between + right
        total = top + rows * (size + gap) - gap + bottom
        figure = Figure(figsize=(across, total))
        shown = [np.ma.masked_array(_normalised(image), hidden) for _, image in panels.values()]
        lowest = min(float(np.percentile(image.compressed(), 0.5)) for image in shown if image.count())
        norm = Normalize(min(lowest, 0.95), 1.0)
        for place, ((title, _), image) in enumerate(zip(panels.values(), shown, strict=True)):
            row, column = divmod(place, columns)
            edge = bottom + (rows - 1 - row) * (size + gap)
            axes = axes_in_inches(figure, left + column * (size + between), edge, size, size)
            # The row of a cutout goes up.
            picture = draw_map(axes, image.T, pixel_size / 60.0, norm=norm, cmap=colormap)
            axes.set_title(title, fontsize="small", pad=4)
            last = place + columns >= len(panels)
            axes.tick_params(labelleft=column == 0, labelbottom=last)
            axes.set(xlabel="deg" if last else "", ylabel="deg" if column == 0 else "")
        bar = axes_in_inches(figure, across - right + 0.08, bottom, 0.12, total - top - bottom)
        figure.colorbar(picture, cax=bar, label="intensity / largest pixel", extend="min")
        return figure


def realisations(reference, scores: Mapping[str, np.ndarray], reference_name: str = "integrated intensity") -> Figure:
    """Figure 4: r50 and r150 of every cutout, of the other models against those of the integrated intensity.

    Points above the dashed diagonal are cutouts on which the model is better; the legend counts them.

    Args:
        reference: r50 and r150 of the reference, ``(n_cutouts, 2)``.
        scores: By model, the same of the same cutouts.
        reference_name: Name of the reference.

    Raises:
        ValueError: On shapes that do not match, values that are not finite, or if there is no model.
    """
    reference = _scores(reference, "reference")
    _some(scores, "scores", '{"U-Net": r}')
    scores = {name: _scores(values, f"scores[{name!r}]") for name, values in scores.items()}
    for name, values in scores.items():
        _same_shape(values, reference.shape, f"scores[{name!r}]", "reference")
    colours = model_colours([*scores, reference_name])
    size = float(np.clip(300 / np.sqrt(len(reference)), 4, 30))
    with figure_style():
        figure = Figure(figsize=(9.2, 4.9), layout="constrained")
        for column, axes in enumerate(figure.subplots(1, 2)):
            x = reference[:, column]
            every = np.concatenate([x, *(values[:, column] for values in scores.values())])
            low, high = every.min(), every.max()
            margin = 0.04 * (high - low) or 0.05
            low, high = low - margin, min(high + margin, 1.0)
            axes.plot([-1, 1], [-1, 1], color=PALETTE["truth"], linestyle=(0, (5, 3)), linewidth=1.0, zorder=4)
            handles = []
            for name, values in scores.items():
                wins = int(np.sum(values[:, column] > x))
                label = f"{name}: higher in {wins} of {len(x)}"
                marker = _MARKERS.get(name, "D")
                axes.scatter(
                    x,
                    values[:, column],
                    s=size,
                    marker=marker,
                    color=colours[name],
                    alpha=0.5,
                    linewidth=0,
                    label=label,
                    zorder=3 if name == "U-Net" else 2,
                )
                handles.append(Line2D([], [], linestyle="", marker=marker, color=colours[name], label=label))
            axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", title=_BAND_TITLES[column])
            axes.set_xlabel(f"{_BAND_LABELS[column]}, {reference_name}")
            axes.set_ylabel(f"{_BAND_LABELS[column]}, other models")
            axes.legend(handles=handles, loc="lower right")
            axes.grid(True)
        return figure


def correlation_by_multipole(
    ell, sets: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], bands: bool = True
) -> Figure:
    """Figures 5 and 7: mean correlation coefficient against multipole, one panel per set, such as training and test.

    Bands are one error of the mean to each side.

    Args:
        ell: Mean multipole of each bin, ``(n,)``.
        sets: By title of the set and by model, mean and error of the mean, each ``(n,)``; an error may be None.
        bands: Mark the bands of r50 and r150.

    Raises:
        ValueError: On shapes that do not match, or if there is nothing to draw.
    """
    ell = check_array(ell, 1, "ell", "(n,)")
    _some(sets, "sets", '{"training": {"U-Net": (mean, error)}}')
    with figure_style():
        figure = Figure(figsize=(0.7 + 4.3 * len(sets), 4.2), layout="constrained")
        grid = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
        for axes, (title, models) in zip(grid, sets.items(), strict=True):
            _some(models, f"sets[{title!r}]", '{"U-Net": (mean, error)}')
            _draw_models(axes, ell, models, f"sets[{title!r}]")
            if bands:
                _mark_bands(axes, ell)
            axes.set(title=title, xlabel=_ELL_LABEL)
        _correlation_axis(grid)
        grid[0].set_ylabel(r"mean $r(\ell)$")
        _legend(figure, grid)
        return figure


def correlation_weights(ell, means: Mapping[float, np.ndarray], references: Mapping | None = None) -> Figure:
    """Figure 6: mean correlation coefficient on the test set for several weights lambda of the correlation in the loss.

    Args:
        ell: Mean multipole of each bin, ``(n,)``.
        means: By lambda, the mean of the network trained with it, ``(n,)``.
        references: By model, the mean of others, ``(n,)``.

    Raises:
        ValueError: On shapes that do not match, or if there is no lambda.
    """
    ell = check_array(ell, 1, "ell", "(n,)")
    _some(means, "means", "{30: mean}")
    weights = sorted(means)
    with figure_style():
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.subplots()
        for place, weight in enumerate(weights):
            mean = _same_shape(means[weight], ell.shape, f"means[{weight!r}]", "ell")
            # Yellow at the end of the colour map is too light for a line.
            colour = colormaps["viridis"](0.86 * place / max(len(weights) - 1, 1))
            style = ("-", (0, (5, 2)), "-.", ":")[place % 4]
            axes.plot(ell, mean, color=colour, linestyle=style, label=rf"U-Net, $\lambda = {weight:g}$")
        if references:
            colours = model_colours(list(references))
            for name, values in references.items():
                mean = _same_shape(values, ell.shape, f"references[{name!r}]", "ell")
                axes.plot(ell, mean, color=colours[name], linestyle=":", linewidth=2.0, label=name)
        _mark_bands(axes, ell)
        _correlation_axis([axes])
        axes.set(xlabel=_ELL_LABEL, ylabel=r"mean $r(\ell)$, test")
        axes.legend(loc="best")
        return figure


def transfer_by_multipole(
    ell,
    transfer: Mapping[str, tuple[np.ndarray, np.ndarray]],
    template_coefficient: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> Figure:
    """Amplitude of the predictions, to which the correlation is blind: T = sqrt(P_predicted / P_true) by multipole.

    Bands are one error of the mean to each side.

    Args:
        ell: Mean multipole of each bin, ``(n,)``.
        transfer: By model, mean and error of the mean of the transfer function, each ``(n,)``; an error may be None.
        template_coefficient: By model, the same of the slope of the regression of the truth on the prediction, what a
            template has to be multiplied by; drawn in a second panel.

    Raises:
        ValueError: On shapes that do not match, or if there is no model.
    """
    ell = check_array(ell, 1, "ell", "(n,)")
    _some(transfer, "transfer", '{"U-Net": (mean, error)}')
    panels = [("transfer", transfer, r"transfer function $T(\ell)$")]
    if template_coefficient:
        label = r"$P_\mathrm{cross}\,/\,P_\mathrm{predicted}$"
        panels.append(("template_coefficient", template_coefficient, label))
    with figure_style():
        figure = Figure(figsize=(0.7 + 4.8 * len(panels), 4.2), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (name, models, label) in zip(grid, panels, strict=True):
            axes.axhline(1.0, color=PALETTE["truth"], linewidth=0.9)
            ends = _draw_models(axes, ell, models, name)
            low, high = min(0.8, ends[0]), max(1.2, ends[1])
            axes.set_ylim(max(low - 0.05, -0.5), min(high + 0.05, 3.0))
            axes.set(xlabel=_ELL_LABEL, ylabel=label)
            axes.grid(True)
        grid[0].set_title("amplitude of the prediction (1 is right)")
        if template_coefficient:
            grid[1].set_title("factor that a template needs")
        _legend(figure, grid)
        return figure


def linear_weights(velocities, weights: Mapping[str, np.ndarray], unit: str = "uK_RJ K^-1") -> Figure:
    """Weights of linear models against velocity: how much dust one kelvin of HI in a channel stands for.

    Args:
        velocities: Centres of the channels in km/s, ``(n_channels,)``.
        weights: By model, ``(n_channels,)``.
        unit: Of the weights.

    Raises:
        ValueError: On shapes that do not match, or if there is no model.
    """
    velocities = check_array(velocities, 1, "velocities", "(n_channels,)")
    _some(weights, "weights", '{"linear combination": weights}')
    colours = model_colours(list(weights))
    with figure_style():
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0.0, color=PALETTE["truth"], linewidth=0.9)
        for name, values in weights.items():
            values = _same_shape(values, velocities.shape, f"weights[{name!r}]", "velocities")
            style = _LINES.get(name, "-") if len(weights) > 1 else "-"
            axes.plot(
                velocities,
                values,
                drawstyle="steps-mid",
                color=colours[name],
                linestyle=style,
                label=name,
            )
        axes.set(xlabel=_VELOCITY_LABEL, ylabel=f"weight [{_unit(unit)}]")
        axes.legend(loc="best")
        axes.grid(True)
        return figure


def velocity_importance(velocities, drop: Mapping[str, np.ndarray], mean_intensity=None) -> Figure:
    """How much the correlation falls when one range of velocities is taken out of the input (occlusion).

    Args:
        velocities: Lower and upper end of each range in km/s, ``(n_ranges, 2)``, or their centres ``(n_ranges,)``.
        drop: By name of the score, such as ``"r50"`` and ``"r150"`` or by model, the mean of the score with all
            velocities less that without the range, ``(n_ranges,)``, or a pair of that and its error.
        mean_intensity: Velocities and mean brightness temperatures ``(2, n_channels)`` of the spectrum, drawn in grey
            behind, for a model may use a range because there is much gas.

    Raises:
        ValueError: On shapes that do not match, or if there is no score.
    """
    centres, widths = check_array(velocities, np.ndim(velocities), "velocities", "(n_ranges, 2) or (n_ranges,)"), None
    if centres.ndim == 2 and centres.shape[1] == 2:
        centres, widths = centres.mean(axis=1), 0.5 * np.abs(centres[:, 1] - centres[:, 0])
    if centres.ndim != 1:
        raise ValueError(f"velocities: expected shape (n_ranges, 2) or (n_ranges,), got {np.shape(velocities)}.")
    _some(drop, "drop", '{"r50": drop}')
    colours = dict(zip(drop, CYCLE, strict=False)) if not set(drop) & set(MODELS) else model_colours(list(drop))
    labels = dict(zip(("r50", "r150"), _BAND_LABELS, strict=True))
    with figure_style():
        figure = Figure(figsize=(6.8, 4.2), layout="constrained")
        axes = figure.subplots()
        if mean_intensity is not None:
            spectrum = check_array(mean_intensity, 2, "mean_intensity", "(2, n_channels)")
            behind = axes.twinx()
            behind.fill_between(*spectrum, step="mid", color=PALETTE["guide"], alpha=0.25, linewidth=0)
            behind.set_ylabel("mean brightness temperature [K]", color=PALETTE["guide"])
            axes.set_zorder(behind.get_zorder() + 1)
            axes.patch.set_visible(False)
        axes.axhline(0.0, color=PALETTE["truth"], linewidth=0.9)
        for name, values in drop.items():
            value, error = _with_error(values, centres.shape, f"drop[{name!r}]", "velocities")
            axes.errorbar(
                centres,
                value,
                error,
                widths,
                fmt="o",
                markersize=3.5,
                elinewidth=1.3,
                color=colours.get(name, PALETTE["accent"]),
                label=labels.get(name, name),
            )
        if mean_intensity is not None:
            # Both axes have their zero at one height.
            low, high = axes.get_ylim()
            top = 1.05 * spectrum[1].max()
            axes.set_ylim(low, max(high, 0.1 * abs(low)))
            low, high = axes.get_ylim()
            if high > 0 and top > 0:
                behind.set_ylim(top * low / high, top)
        axes.set(xlabel=_VELOCITY_LABEL, ylabel="loss of mean correlation")
        axes.set_title("one range of velocities taken out", loc="left")
        axes.legend(loc="best")
        axes.grid(True, axis="y")
        return figure


def sky_maps(
    maps: Mapping[str, np.ndarray], unit: str = "uK_RJ", coordinates: str = "galactic", shared: Sequence[str] = ()
) -> Figure:
    """Whole skies in Mollweide projection, such as the true dust, its prediction, their scatter and the residual.

    Longitude grows to the left and the centre is at 0, as is usual for the sky. Maps of both signs have a colour scale
    that is symmetric about zero. 99% of the pixels lie between the ends of a scale.

    Args:
        maps: By title, HEALPix maps in RING order ``(n_pixels,)``; NaN and `healpy.UNSEEN` are masked and drawn grey.
        unit: Of the maps.
        coordinates: Name of the coordinates, for the caption.
        shared: Titles of maps that have one colour scale together.

    Raises:
        ValueError: If there is no map, one is no HEALPix map or has no pixel with a value, or a shared title is
            unknown.
    """
    _some(maps, "maps", '{"truth": map}')
    known = {title: _sky(values, f"maps[{title!r}]") for title, values in maps.items()}
    unknown = [title for title in shared if title not in known]
    if unknown:
        raise ValueError(f"shared: expected titles of maps, {', '.join(known)}, got {', '.join(unknown)}.")
    together = [known[title].compressed() for title in shared]
    columns = 1 if len(known) == 1 else 2
    rows = -(-len(known) // columns)
    with figure_style():
        figure = Figure(figsize=(5.4 * columns, 3.45 * rows + 0.25))
        width, height, bottom = 5.0, 2.5, 0.25
        for place, (title, values) in enumerate(known.items()):
            row, column = divmod(place, columns)
            left, edge = 0.2 + 5.4 * column, bottom + 3.45 * (rows - 1 - row)
            axes = axes_in_inches(figure, left, edge + 0.55, width, height)
            norm, colormap = _sky_scale(np.concatenate(together) if title in shared else values.compressed())
            picture = _draw_sky(axes, values, norm, colormap)
            axes.set_title(f"{title} [{_unit(unit)}]" if unit else title)
            bar = axes_in_inches(figure, left + 0.15 * width, edge + 0.4, 0.7 * width, 0.1)
            figure.colorbar(picture, cax=bar, orientation="horizontal", extend="both", ticks=MaxNLocator(5))
        text = (
            f"{coordinates} coordinates, longitude 0 in the centre and growing to the left, lines every 60 and 30 deg"
        )
        figure.text(0.5, 0.06 / figure.get_size_inches()[1], text, ha="center", fontsize="x-small")
        return figure


def sky_areas(mask, areas: Mapping[str, np.ndarray], coordinates: str = "galactic") -> Figure:
    """Where the centres of training, validation and test cutouts lie, over the mask.

    Args:
        mask: Weights 0 to 1 in RING order, ``(n_pixels,)``; pixels below 0.5 are grey.
        areas: By name, either which pixels belong to an area, booleans ``(n_pixels,)`` in RING order, or longitude and
            latitude of centres in degrees, ``(2, n)``, of which 3000 are drawn at most.
        coordinates: Name of the coordinates, for the caption.

    Raises:
        ValueError: If there is no area, a map is no HEALPix map, or an area is neither booleans nor positions.
    """
    mask = _sky(mask, "mask")
    _some(areas, "areas", '{"training": booleans}')
    order = ("training", "validation", "test")
    fixed = dict(zip(order, (CYCLE[0], CYCLE[5], CYCLE[1]), strict=True))
    free = [colour for colour in CYCLE if colour not in fixed.values()]
    others = [name for name in areas if name not in fixed]
    colours = {name: fixed[name] if name in fixed else free[others.index(name) % len(free)] for name in areas}
    checked = {name: _area(values, f"areas[{name!r}]") for name, values in areas.items()}
    with figure_style():
        figure = Figure(figsize=(7.2, 4.6))
        axes = axes_in_inches(figure, 0.3, 0.75, 6.6, 3.3)
        hidden = np.where(mask.filled(0.0) < 0.5, 1.0, np.nan)
        grey = ListedColormap([_MASKED]).with_extremes(bad="white")
        _draw_sky(axes, np.ma.masked_invalid(hidden), Normalize(0, 1), grey, graticule=False)
        for name, values in checked.items():
            if values.dtype == bool:
                colormap = ListedColormap([colours[name]]).with_extremes(bad=(0, 0, 0, 0))
                image = np.ma.masked_array(np.ones(len(values)), ~values)
                _draw_sky(axes, image, Normalize(0, 1), colormap, graticule=False, alpha=0.45)
            else:
                step = max(1, -(-values.shape[1] // _MOST_POINTS))
                x, y = _projector().ang2xy(*values[:, ::step], lonlat=True)
                axes.plot(x, y, ".", markersize=2.5, color=colours[name], alpha=0.6, zorder=2.5)
        _draw_graticule(axes)
        handles = [Patch(color=colours[name], alpha=0.6, label=name) for name in checked]
        handles.append(Patch(color=_MASKED, label="masked"))
        axes.set_title("centres of the cutouts")
        figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.06), ncols=len(handles))
        text = (
            f"{coordinates} coordinates, longitude 0 in the centre and growing to the left, lines every 60 and 30 deg"
        )
        figure.text(0.5, 0.06 / figure.get_size_inches()[1], text, ha="center", fontsize="x-small")
        return figure


def _some(mapping: Mapping, name: str, example: str) -> None:
    if not mapping:
        raise ValueError(f"{name}: expected at least one, such as {example}, got none.")


def _same_shape(values, shape: tuple[int, ...], name: str, of: str) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != shape:
        raise ValueError(f"{name}: expected the shape of {of}, {shape}, got {array.shape}.")
    return array.astype(np.promote_types(array.dtype, np.float32), copy=False)


def _pair(first, second, name: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    first = check_array(first, 1, name, "(n,)")
    return first, _same_shape(second, first.shape, other, name)


def _scores(values, name: str) -> np.ndarray:
    values = check_array(values, 2, name, "(n_cutouts, 2)").astype(np.float64)
    if values.shape[1] != 2 or not np.isfinite(values).all():
        raise ValueError(
            f"{name}: expected finite r50 and r150 of each cutout, (n_cutouts, 2), got shape {values.shape}"
            f"{'' if np.isfinite(values).all() else ' with NaN or infinities'}."
        )
    return values


def _with_error(values, shape: tuple[int, ...], name: str, of: str) -> tuple[np.ndarray, np.ndarray | None]:
    """A mean, or a pair of it and its error, which may be None."""
    if isinstance(values, tuple):
        if len(values) != 2:
            raise ValueError(f"{name}: expected a mean and its error, got {len(values)} arrays.")
        mean, error = values
    else:
        mean, error = values, None
    mean = _same_shape(mean, shape, name, of)
    return mean, None if error is None else _same_shape(error, shape, f"{name}, error", of)


def _unit(unit: str) -> str:
    """`unit_text` with the Rayleigh-Jeans temperature written as it is in papers."""
    text = unit_text(unit)
    for prefix, symbol in (("uK", r"$\mu$K"), ("mK", "mK"), ("K", "K")):
        text = text.replace(f"{prefix}_RJ", rf"{symbol}$_\mathrm{{RJ}}$")
    return text.replace("$$", "")


def _normalised(image: np.ndarray) -> np.ndarray:
    """An image over its largest pixel; as it is if none is positive."""
    largest = np.max(image)
    return image / largest if largest > 0 else image


def _draw_models(axes: Axes, x: np.ndarray, models: Mapping, name: str) -> tuple[float, float]:
    """Means as lines, errors as bands; the lowest and the highest mean are returned."""
    colours = model_colours(list(models))
    lowest, highest = np.inf, -np.inf
    for model, values in models.items():
        mean, error = _with_error(values, x.shape, f"{name}[{model!r}]", "ell")
        if error is not None:
            axes.fill_between(x, mean - error, mean + error, color=colours[model], alpha=0.22, linewidth=0)
        axes.plot(x, mean, color=colours[model], linestyle=_LINES.get(model, ":"), label=model)
        lowest, highest = np.nanmin(mean, initial=lowest), np.nanmax(mean, initial=highest)
    return float(lowest), float(highest)


def _legend(figure: Figure, grid: Sequence[Axes]) -> None:
    """One legend for all panels, above them."""
    handles = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = min(len(handles), 2 * len(grid))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)


def _mark_bands(axes: Axes, ell: np.ndarray) -> None:
    """Thin lines at the ends of the bands of r50 and r150, with their names above."""
    for low, high, label in ((0.0, 100.0, _BAND_LABELS[0]), (100.0, 200.0, _BAND_LABELS[1])):
        if high > ell[-1]:
            continue
        axes.axvline(high, color=PALETTE["guide"], linewidth=0.8, linestyle=":", zorder=1)
        place = 0.5 * (max(low, ell[0]) + high)
        axes.text(
            place,
            0.98,
            label,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize="small",
            color=PALETTE["guide"],
        )


def _correlation_axis(grid: Sequence[Axes]) -> None:
    """From below the lowest mean to 1, with room for the names of the bands above."""
    means = np.concatenate([line.get_ydata() for axes in grid for line in axes.lines if len(line.get_ydata()) > 2])
    means = means[np.isfinite(means)]
    low = means.min(initial=0.95)
    span = 1.0 - low
    grid[0].set_ylim(low - 0.08 * span, 1.0 + 0.12 * span)
    for axes in grid:
        axes.grid(True)


def _sky(values, name: str) -> np.ma.MaskedArray:
    import healpy

    values = check_array(values, 1, name, "(n_pixels,)").astype(np.float64)
    if not healpy.isnpixok(len(values)):
        raise ValueError(f"{name}: expected a HEALPix map of 12 nside^2 pixels, got {len(values)}.")
    masked = np.ma.masked_array(values, ~np.isfinite(values) | (values < -1e30))
    if not masked.count():
        raise ValueError(f"{name}: expected pixels with values, got a map that is masked everywhere.")
    return masked


def _area(values, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype == bool and values.ndim == 1:
        import healpy

        if healpy.isnpixok(len(values)):
            return values
    elif values.ndim == 2 and values.shape[0] == 2 and np.issubdtype(values.dtype, np.number):
        return values.astype(np.float64)
    raise ValueError(
        f"{name}: expected booleans (n_pixels,) of a HEALPix map or longitude and latitude (2, n) in degrees, "
        f"got shape {values.shape} of {values.dtype}."
    )


def _sky_scale(values: np.ndarray) -> tuple[Normalize, Colormap]:
    low, high = np.percentile(values, [0.5, 99.5])
    if low < -0.05 * high:
        end = max(-low, high) or 1.0
        return Normalize(-end, end), colormaps["RdBu_r"].with_extremes(bad=_MASKED)
    high = high if high > low else low + 1e-3 * max(abs(low), 1.0)
    return Normalize(low, high), colormaps[_DUST_COLOURS].with_extremes(bad=_MASKED)


def _projector():
    # healpy loads pyplot; nothing of it is used here, and it is loaded only when a sky is drawn.
    from healpy.projector import MollweideProj

    return MollweideProj(xsize=_SKY_WIDTH)


def _draw_sky(axes: Axes, values: np.ma.MaskedArray, norm, colormap, graticule: bool = True, alpha=None):
    """A sky as an ellipse; what is masked on it in the colour of bad values, and nothing outside."""
    import healpy

    projector = _projector()
    nside = healpy.npix2nside(len(values))

    def pixel(x, y, z):
        return healpy.vec2pix(nside, x, y, z)

    number = projector.projmap(np.arange(len(values), dtype=np.float64), pixel)
    on_sky = np.isfinite(number)
    index = np.where(on_sky, number, 0).astype(np.int64)
    image = np.ma.masked_array(values.filled(0.0)[index], np.ma.getmaskarray(values)[index])
    picture = axes.imshow(
        image,
        origin="lower",
        extent=projector.get_extent(),
        norm=norm,
        cmap=colormap,
        alpha=alpha,
        interpolation="nearest",
        zorder=1.5,
    )
    picture.set_clip_path(Ellipse((0, 0), 4, 2, transform=axes.transData))
    axes.set(xlim=(-2.02, 2.02), ylim=(-1.02, 1.02), aspect="equal")
    axes.axis("off")
    if graticule:
        _draw_graticule(axes)
    return picture


def _draw_graticule(axes: Axes) -> None:
    projector = _projector()
    turn, rise = np.linspace(-179.999, 179.999, 361), np.linspace(-90.0, 90.0, 181)
    lines = [(turn, np.full(turn.shape, latitude)) for latitude in (-60.0, -30.0, 0.0, 30.0, 60.0)]
    lines += [(np.full(rise.shape, longitude), rise) for longitude in (-120.0, -60.0, 0.0, 60.0, 120.0)]
    for longitude, latitude in lines:
        x, y = projector.ang2xy(longitude, latitude, lonlat=True)
        axes.plot(x, y, color="#1F2937", linewidth=0.4, alpha=0.45, zorder=2.0)
    axes.add_patch(Ellipse((0, 0), 4, 2, fill=False, edgecolor="#1F2937", linewidth=0.8, zorder=2.2))
