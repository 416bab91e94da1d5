"""One look for the figures of all tasks: palette, colour maps, labels and file output.

Figures are plain `matplotlib.figure.Figure` objects that belong to no window and no pyplot state, so they can be made
on machines without a display.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from keras_cosmo.quantities import Parameter
from keras_cosmo.statistics.spectra import over_maps

#: Colours by role, from the colour-blind-safe set of Wong (2011, Nature Methods 8, 441).
PALETTE = {
    "network": "#0072B2",
    "baseline": "#D55E00",
    "paper": "#7A7F87",
    "training": "#0072B2",
    "validation": "#D55E00",
    "truth": "#000000",
    "accent": "#009E73",
    "guide": "#8A9099",
}

#: Colours for lines without a role, in the order of use.
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4B5563")

#: Axis label of the differential brightness temperature.
BRIGHTNESS_LABEL = r"$\delta T_\mathrm{b}$ [mK]"

_RC = {
    "font.family": "sans-serif",
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": "medium",
    "axes.labelsize": "medium",
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#4B5563",
    "axes.labelcolor": "#1F2937",
    "axes.axisbelow": True,
    "text.color": "#1F2937",
    "xtick.color": "#4B5563",
    "ytick.color": "#4B5563",
    "xtick.labelcolor": "#1F2937",
    "ytick.labelcolor": "#1F2937",
    "xtick.labelsize": "small",
    "ytick.labelsize": "small",
    "legend.fontsize": "small",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "grid.color": "#E5E7EB",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "image.cmap": "viridis",
    "image.interpolation": "antialiased",
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}


@contextlib.contextmanager
def figure_style(font_size: float = 10.0) -> Iterator[None]:
    """Draw in the common look; the caller's Matplotlib settings come back on leaving.

    Args:
        font_size: Base size in points. All other sizes are relative to it.
    """
    cycle = matplotlib.cycler(color=CYCLE)
    with matplotlib.rc_context({**_RC, "font.size": font_size, "axes.prop_cycle": cycle}):
        yield


def brightness_temperature_colormap() -> LinearSegmentedColormap:
    """Colour map for the 21-cm brightness temperature: black at 0 mK (ionised), fire in absorption, blue in emission.

    Its centre is 0.5: use it with `brightness_temperature_norm`.
    """
    stops = [
        (0.00, "#FFF6CF"),
        (0.12, "#FBCB62"),
        (0.24, "#EE8330"),
        (0.36, "#B83A2E"),
        (0.44, "#5E1836"),
        (0.50, "#07070C"),
        (0.60, "#0C3A66"),
        (0.78, "#2387C4"),
        (1.00, "#BFEFFA"),
    ]
    colormap = LinearSegmentedColormap.from_list("keras_cosmo_brightness_temperature", stops, N=512)
    return colormap.with_extremes(bad="#9CA3AF")


def brightness_temperature_norm(maps) -> TwoSlopeNorm:
    """Colour scale with 0 mK at the centre and 99% of the pixels between its ends, which are at least 10 mK away."""
    low, high = np.percentile(np.asarray(maps, dtype=np.float64), [0.5, 99.5])
    return TwoSlopeNorm(vcenter=0.0, vmin=min(low, -10.0), vmax=max(high, 10.0))


def two_sided_ticks(norm: TwoSlopeNorm) -> np.ndarray:
    """Round ticks on both sides of the centre of a colour scale, however unequal the sides."""
    low = MaxNLocator(3).tick_values(norm.vmin, norm.vcenter)
    high = MaxNLocator(2).tick_values(norm.vcenter, norm.vmax)
    ticks = np.unique(np.concatenate([low, high]))
    return ticks[(ticks >= norm.vmin) & (ticks <= norm.vmax)]


def brightness_temperature_scale(maps) -> tuple[Normalize, Colormap]:
    """Colour scale and colour map for brightness temperatures of one redshift, which may lie far from 0 mK.

    Where the pixels have both signs, 0 mK is black as in `brightness_temperature_colormap`. Where they have one sign,
    its half of the colour map is spread over them, so that the pixels nearest to 0 mK are the darkest. 99% of the
    pixels lie between the ends.

    Args:
        maps: Brightness temperature in mK, any shape.
    """
    low, high = np.percentile(np.asarray(maps, dtype=np.float64), [0.5, 99.5])
    colormap = brightness_temperature_colormap()
    if low < 0 < high:
        # A side with few pixels must not be stretched until its noise looks like signal.
        return TwoSlopeNorm(0.0, min(low, -0.1 * high), max(high, -0.1 * low)), colormap
    half = (0.0, 0.5) if high <= 0 else (0.5, 1.0)
    colours = colormap(np.linspace(*half, 256))
    colormap = LinearSegmentedColormap.from_list("keras_cosmo_brightness_temperature_half", colours, N=256)
    margin = 1e-3 * max(abs(low), 1.0) if high == low else 0.0
    return Normalize(low - margin, high + margin), colormap.with_extremes(bad="#9CA3AF")


def map_scale(maps) -> Normalize:
    """Linear colour scale with 99% of the pixels between its ends."""
    low, high = np.percentile(np.asarray(maps, dtype=np.float64), [0.5, 99.5])
    return Normalize(low, high if high > low else low + 1e-3 * max(abs(low), 1.0))


def draw_map(axes: Axes, image, cell_size: float, **options) -> AxesImage:
    """Draw a map with its first axis to the right and its second axis up, both in the unit of the cell size.

    Args:
        axes: Where to draw.
        image: Shape ``(nx, ny)``.
        cell_size: Side of a cell, such as in Mpc.
        options: For `matplotlib.axes.Axes.imshow`, such as ``norm`` and ``cmap``.
    """
    extent = (0, image.shape[0] * cell_size, 0, image.shape[1] * cell_size)
    picture = axes.imshow(image.T, origin="lower", extent=extent, **options)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    return picture


def draw_brightness_temperature(figure: Figure, axes: Axes, image, cell_size: float, bar: Axes, **options) -> AxesImage:
    """Draw a map of brightness temperatures on its own scale, `brightness_temperature_scale`, with its colour bar.

    Args:
        figure: The figure of the axes.
        axes: Where to draw.
        image: In mK, ``(nx, ny)``.
        cell_size: Side of a cell in Mpc.
        bar: Axes of the colour bar.
        options: For `matplotlib.figure.Figure.colorbar`, such as ``orientation``.
    """
    norm, colormap = brightness_temperature_scale(image)
    picture = draw_map(axes, image, cell_size, norm=norm, cmap=colormap)
    ticks = two_sided_ticks(norm) if isinstance(norm, TwoSlopeNorm) else None
    figure.colorbar(picture, cax=bar, label=BRIGHTNESS_LABEL, extend="both", ticks=ticks, **options)
    return picture


def source_colours(sources: Iterable[str]) -> dict[str, str]:
    """Colours by source: its role's where it has one, the next free one of the cycle for every other."""
    sources = list(sources)
    free = [colour for colour in CYCLE if colour not in {PALETTE[name] for name in sources if name in PALETTE}]
    others = [name for name in sources if name not in PALETTE]
    return {name: PALETTE[name] if name in PALETTE else free[others.index(name) % len(free)] for name in sources}


def draw_band(
    axes: Axes, x, values, label: str, colour: str, linestyle="-", width: float = 1.6, zorder: float = 3.0
) -> tuple[float, float]:
    """Mean over maps as a line with a band of one standard deviation.

    On a logarithmic axis, where the mean less the deviation may be negative, a band of the relative deviation s reaches
    down to mean / (1 + s), and a mean of zero is left out.

    Args:
        axes: Where to draw; its scale must be set before.
        x: Shape ``(n,)``.
        values: Shape ``(n_maps, n)``; NaN where a map has no value.
        label: For the legend.
        colour: Of the line and the band.
        linestyle: Of the line.
        width: Of the line.
        zorder: Of the band; the line is above it.

    Returns:
        The highest end of the band and the lowest mean that are drawn.
    """
    summary = over_maps(values)
    mean, deviation = summary.mean, summary.standard_deviation
    lower = mean - deviation
    if axes.get_yscale() == "log":
        used = mean > 0
        lower = np.divide(mean**2, mean + deviation, out=np.zeros_like(mean), where=used)
        lower, mean = np.where(used, lower, np.nan), np.where(used, mean, np.nan)
    axes.fill_between(x, lower, mean + deviation, color=colour, alpha=0.16, linewidth=0, zorder=zorder)
    axes.plot(x, mean, linestyle=linestyle, linewidth=width, color=colour, label=label, zorder=zorder + 0.5)
    return float(np.nanmax(mean + deviation, initial=0.0)), float(np.nanmin(mean, initial=np.inf))


def panel_size(shape: tuple[int, int], longest: float) -> tuple[float, float]:
    """Width and height of a panel for a map ``(nx, ny)`` whose longer side is ``longest``."""
    scale = longest / max(shape)
    return shape[0] * scale, shape[1] * scale


def axes_in_inches(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """New axes at a place given in inches from the lower left corner of the figure."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def check_array(values, dimensions: int, name: str, shape: str) -> np.ndarray:
    """An array of the wanted number of axes, in float32 at least.

    Args:
        values: The array.
        dimensions: Number of axes.
        name: Name of the argument, for messages.
        shape: Its shape in words, such as ``"(n_maps, nx, ny)"``.

    Raises:
        ValueError: If the number of axes is another one or an axis is empty.
    """
    array = np.asarray(values)
    if array.ndim != dimensions or 0 in array.shape:
        raise ValueError(f"{name}: expected shape {shape}, nothing empty, got {array.shape}.")
    # Sums over half-precision maps overflow, so figures work in float32 at least.
    return array.astype(np.promote_types(array.dtype, np.float32), copy=False)


def check_titles(titles: Sequence[str] | None, count: int, name: str = "titles") -> list[str]:
    """One title per item; empty ones if there are none.

    Raises:
        ValueError: If their number is another one.
    """
    titles = [""] * count if titles is None else list(titles)
    if len(titles) != count:
        raise ValueError(f"{name}: expected {count}, got {len(titles)}.")
    return titles


def density_colormap() -> LinearSegmentedColormap:
    """Colour map for counts: from a visible light blue to dark blue, even in lightness."""
    return LinearSegmentedColormap.from_list(
        "keras_cosmo_density", ["#C9E4F5", "#6BB2DE", "#2878B0", "#124A7A", "#081C38"], N=256
    )


def unit_text(unit: str) -> str:
    """A unit as Matplotlib text: ``"erg s^-1 Msun^-1 yr"`` gets superscripts and the solar symbol."""
    unit = re.sub(r"\^(-?\d+)", r"$^{\1}$", unit)
    unit = unit.replace("Msun", r"M$_\odot$")
    return unit.replace("$$", "")


def parameter_label(parameter: Parameter) -> str:
    """Axis label of a parameter: its symbol, or name, and its unit in brackets."""
    symbol = f"${parameter.symbol}$" if parameter.symbol else parameter.name
    return f"{symbol} [{unit_text(parameter.unit)}]" if parameter.unit else symbol


def save_figures(figures: Mapping[str, Figure], folder, dpi: int = 130) -> dict[str, Path]:
    """Write figures as ``<name>.png``.

    Args:
        figures: Figures by name.
        folder: Folder to write to; made if missing.
        dpi: Dots per inch.

    Returns:
        The path of each figure, by name.

    Raises:
        ValueError: If a name would not be a plain file name.
    """
    for name in figures:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ValueError(f"figures: expected names of letters, digits, '_', '-' and '.', got {name!r}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        save_png(figure, paths[name], dpi)
    return paths


def save_png(figure: Figure, target, dpi: int = 130) -> None:
    """Write one figure as a PNG without date and software version, to a path or a binary file object."""
    with figure_style():
        figure.savefig(target, dpi=dpi, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 9})
