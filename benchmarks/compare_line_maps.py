"""Compare the embedded line-intensity maps with maps painted on the haloes of PINOCCHIO catalogues.

    python benchmarks/compare_line_maps.py --halpha pinocchio.1.3000.s101.catalog.out \
        --oiii pinocchio.2.0000.s101.catalog.out --maps 60 --figure maps.png

Both sides have the same haloes' minimum mass (that of the catalogue), luminosities, slab and beam; they differ in where
the haloes are and how many there are. For every line the script prints, embedded beside PINOCCHIO:

* haloes per volume in bins of mass, against the mass function of the embedded model;
* the mean intensity, with its scatter from map to map and, for one box of a few hundred Mpc, its cosmic variance: the
  scatter over the square root of how many slabs fit into the box;
* power of maps over their mean in four bands of wavenumber, before and after the beam;
* the one-point distribution of maps over their mean after the beam: quantiles of the brightness of pixels;
* peaks per map, after the beam, more than 3 deviations above the mean (Moriwaki et al. 2020, section 3.1: 24.1 for
  Halpha and 18.9 for [OIII]).

It prints the mean intensity with the paper's minimum mass too, as nu I_nu = R I, and what it would be with the observed
density of star formation of Madau & Dickinson (2014, ARA&A 52, 415, equation 15, for the same Salpeter stars) and the
same coefficient and dust.

One box holds few independent slabs, so that its power below about 0.2 / Mpc is uncertain by tens of per cent.
"""

import argparse
import dataclasses
import itertools
import pathlib
import sys
import time

import numpy as np

from keras_cosmo.data.formats.pinocchio import read_pinocchio
from keras_cosmo.distances import SPEED_OF_LIGHT
from keras_cosmo.simulations.cosmology import MEGAPARSEC_IN_CENTIMETRES
from keras_cosmo.simulations.emission_lines import LINES
from keras_cosmo.simulations.line_intensity import LineIntensitySimulator
from keras_cosmo.statistics.peaks import find_peaks

EDGES = (0.1, 0.25, 0.5, 1.0, 2.0)  # 1/Mpc, of the bands
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
NANOWATTS = 1e6  # nW m^-2 in one erg s^-1 cm^-2


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="See the head of this file for what the numbers mean."
    )
    for name, line in LINES.items():
        parser.add_argument(f"--{name}", type=pathlib.Path, metavar="CATALOGUE", help=f"haloes of {line.label}")
    parser.add_argument("--maps", type=int, default=60, help="maps of each line and kind (default: %(default)s)")
    parser.add_argument("--map-cells", type=int, default=256, help="pixels along a side (default: %(default)s)")
    parser.add_argument("--map-side", type=float, default=1.7, help="degrees (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of both (default: %(default)s)")
    parser.add_argument("--figure", type=pathlib.Path, help="write three maps of each line and kind")
    return parser.parse_args(argv)


def power(maps, cell):
    """Power ``(maps, bands)`` of maps over their mean, in Mpc^2, with a Hann window against the maps' edges."""
    count, n, _ = maps.shape
    window = np.outer(np.hanning(n), np.hanning(n))
    axis = 2.0 * np.pi * np.fft.fftfreq(n, cell)
    k = np.hypot(axis[:, None], axis)
    contrast = maps / maps.mean(axis=(1, 2), keepdims=True) - 1.0
    square = np.abs(np.fft.fft2(contrast * window)) ** 2 * cell**2 / (window**2).sum()
    bands = [(k >= low) & (k < high) for low, high in itertools.pairwise(EDGES)]
    return np.array([[square[i][band].mean() for band in bands] for i in range(count)])


def halo_numbers(simulator, line, catalogue):
    """Edges of mass bins, numbers in the catalogue and expected numbers."""
    edges = np.arange(np.log10(simulator.minimum_mass), 14.8, 0.3)
    background = simulator.cosmology.background()
    fine = np.linspace(edges[0], edges[-1], 100 * (len(edges) - 1) + 1)
    table = np.log(background.halo_mass_function(LINES[line].redshift(simulator.observed_wavelength)) + 1e-300)
    density = np.exp(np.interp(fine, background.log10_masses, table))
    pieces = 0.5 * (density[1:] + density[:-1]) * np.diff(fine)
    expected = pieces.reshape(-1, 100).sum(axis=1) * catalogue.box_size**3
    return edges, np.histogram(np.log10(catalogue.masses), edges)[0], expected


def slab_depth(simulator, redshift):
    """Comoving depth of the slab in Mpc."""
    hubble = simulator.cosmology.background().hubble(redshift) * MEGAPARSEC_IN_CENTIMETRES / 1e5
    return SPEED_OF_LIGHT * (1.0 + redshift) / hubble / simulator.resolving_power


def observed_mean(simulator, name):
    """Mean intensity of a line with the density of star formation of Madau & Dickinson 2014."""
    line = LINES[name]
    scale = 1.0 + line.redshift(simulator.observed_wavelength)
    rate = 0.015 * scale**2.7 / (1.0 + (scale / 2.9) ** 5.6)  # Msun/yr/Mpc^3
    column = rate * line.luminosity_per_star_formation * slab_depth(simulator, scale - 1.0)
    return column / (4.0 * np.pi * scale**2 * MEGAPARSEC_IN_CENTIMETRES**2)


def compare(simulator, catalogues, maps, seed):
    """Lines of numbers, and the maps."""
    start = time.process_time()
    embedded = simulator.simulate((), seed)
    seconds = (time.process_time() - start) / maps / len(catalogues)
    start = time.process_time()
    painted = simulator.paint(catalogues, maps, seed)
    painting = (time.process_time() - start) / maps / len(catalogues)
    lines = [f"{seconds:.3f} s of processor time per embedded map with its share of set-up, {painting:.3f} s painted"]
    for name, catalogue in catalogues.items():
        line = LINES[name]
        redshift = line.redshift(simulator.observed_wavelength)
        background = simulator.cosmology.background()
        cell = background.comoving_distance(redshift) * np.deg2rad(simulator.cell_size / 60.0)
        depth = slab_depth(simulator, redshift)
        side = cell * simulator.map_cells
        slabs = max(catalogue.box_size**3 / (side**2 * depth), 1.0)
        lines.append(
            f"{line.label} at redshift {redshift:.3f} (catalogue: {catalogue.redshift:g}): slab {side:.0f} x "
            f"{side:.0f} x {depth:.0f} Mpc, {slabs:.1f} of them in the box; {maps} maps each"
        )
        edges, numbers, expected = halo_numbers(simulator, name, catalogue)
        lines.append(
            f"  haloes: {len(catalogue)}, mass function {expected.sum():.0f}, ratio "
            f"{numbers.sum() / expected.sum():.3f}"
        )
        lines.append("  log10 M        " + " ".join(f"{e:7.2f}" for e in edges[:-1][numbers > 20]))
        lines.append(
            "  ratio          " + " ".join(f"{a / b:7.2f}" for a, b in zip(numbers, expected, strict=True) if a > 20)
        )
        kinds = {
            label: {stage: result[f"intensity_{name}{stage}"].astype(float) for stage in ("", "_unsmoothed")}
            for label, result in (("embedded", embedded), ("PINOCCHIO", painted))
        }
        for label, stages in kinds.items():
            means = stages["_unsmoothed"].mean(axis=(1, 2))
            lines.append(
                f"  mean intensity {label:9s} {means.mean():.3e}, scatter {means.std() / means.mean():.3f}; expected "
                f"{simulator.mean_intensity(name):.3e}"
            )
        cosmic = kinds["embedded"]["_unsmoothed"].mean(axis=(1, 2))
        lines.append(f"  cosmic variance of the mean of one box about {cosmic.std() / cosmic.mean() / slabs**0.5:.3f}")
        bands = "  ".join(f"{f'{low:g}-{high:g}':>11}" for low, high in itertools.pairwise(EDGES))
        lines.append(f"  k [1/Mpc]                  {bands}")
        for stage, text in (("_unsmoothed", "before the beam"), ("", "after the beam")):
            ours, real = (power(kinds[label][stage], cell) for label in kinds)
            ratio = ours.mean(axis=0) / real.mean(axis=0)
            error = ours.std(axis=0) / ours.mean(axis=0) * np.sqrt(1.0 / maps + 1.0 / min(slabs, maps))
            lines.append(
                f"  power, ratio, {text:15s}"
                + "  ".join(f"{r:5.2f} ({e:4.2f})" for r, e in zip(ratio, error, strict=True))
            )
            scatter = ours.std(axis=0) / ours.mean(axis=0) / (real.std(axis=0) / real.mean(axis=0))
            lines.append("  its scatter, ratio         " + "  ".join(f"{s:5.2f}       " for s in scatter))
        pixels = [
            stages[""] / stages[""].mean(axis=(1, 2), keepdims=True)
            for stages in (kinds["embedded"], kinds["PINOCCHIO"])
        ]
        lines.append("  quantile                   " + "  ".join(f"{q:7g}" for q in QUANTILES))
        for label, values in zip(kinds, pixels, strict=True):
            lines.append(
                f"  pixel / mean, {label:9s}    " + "  ".join(f"{v:7.3f}" for v in np.quantile(values, QUANTILES))
            )
        moments = []
        for label, values in zip(kinds, pixels, strict=True):
            deviation = values.std(axis=(1, 2))
            skewness = ((values - 1.0) ** 3).mean(axis=(1, 2)) / deviation**3
            counts = find_peaks(kinds[label][""]).counts
            moments.append(
                f"{label} {deviation.mean():.3f}, {skewness.mean():.2f}, {counts.mean():.1f} +- {counts.std():.1f}"
            )
        lines.append("  deviation, skewness, peaks per map: " + "; ".join(moments))
    return lines, embedded, painted


def draw(path, simulator, embedded, painted):
    """Three maps of each line and kind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 12 * len(simulator.lines) / 2), layout="constrained")
    axes = figure.subplots(2 * len(simulator.lines), 6, squeeze=False)
    for row, name in enumerate(simulator.lines):
        for stage, field in enumerate((f"intensity_{name}_unsmoothed", f"intensity_{name}")):
            top = np.quantile(painted[field], 0.998)
            for column, (label, result) in enumerate((("embedded", embedded), ("PINOCCHIO", painted))):
                for i in range(3):
                    axis = axes[2 * row + stage, 3 * column + i]
                    axis.imshow(result[field][i], vmin=0.0, vmax=top, cmap="magma")
                    axis.set_title(f"{LINES[name].label}, {label}", fontsize=9)
                    axis.set_axis_off()
    figure.savefig(path, dpi=80)


def main(argv=None) -> int:
    args = parse_args(argv)
    paths = {name: getattr(args, name) for name in LINES if getattr(args, name) is not None}
    if not paths or args.maps < 3:
        print("Give a catalogue of at least one line, and at least 3 maps.", file=sys.stderr)
        return 2
    simulator = LineIntensitySimulator(
        lines=tuple(paths), map_cells=args.map_cells, map_side=args.map_side, maps=args.maps
    )
    for name in paths:
        mean = simulator.mean_intensity(name)
        print(
            f"{LINES[name].label}: mean intensity {mean:.3e} erg s^-1 cm^-2 sr^-1 from haloes above "
            f"{simulator.minimum_mass:.3g} Msun, nu I_nu = {simulator.resolving_power * mean:.2e} = "
            f"{simulator.resolving_power * mean * NANOWATTS:.4f} nW m^-2 sr^-1, "
            f"{mean / simulator.mean_intensity(simulator.lines[0]):.3f} of {LINES[simulator.lines[0]].label}; with the "
            f"observed star formation {simulator.resolving_power * observed_mean(simulator, name):.2e}"
        )
    catalogues = {name: read_pinocchio(path) for name, path in paths.items()}
    heaviest_minimum = max(float(catalogue.masses.min()) for catalogue in catalogues.values())
    simulator = dataclasses.replace(simulator, minimum_mass=max(heaviest_minimum * (1 - 1e-6), simulator.minimum_mass))
    lines, embedded, painted = compare(simulator, catalogues, args.maps, args.seed)
    print("\n".join(lines))
    if args.figure:
        draw(args.figure, simulator, embedded, painted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
