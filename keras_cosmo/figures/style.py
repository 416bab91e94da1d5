"""One look for the figures of all tasks: palette, colour maps, labels and file output.

Figures are plain `matplotlib.figure.Figure` objects that belong to no window and no pyplot state, so they can be made
on machines without a display.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_cosmo.quantities import Parameter

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
