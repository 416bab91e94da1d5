"""Compare the embedded light-cones with 21cmFAST's, simulation by simulation with equal parameters and geometry.

    python benchmarks/compare_lightcones.py --data lightcones_21cmfast.h5 --figure docs/lightcones_against_21cmfast.png

The data file is a database of real cones in the layout of keras_cosmo (task "regression", field "brightness_temp").
The script draws, for four simulations, the mean signal, its scatter over the sky and the power spectrum at three
redshifts, and prints errors over all simulations. Half a minute for 75 simulations of 50 x 2085 cells.

The figure in docs/ shows 75 simulations of 75 Mpc boxes. The physics was chosen while looking at the first 50 of them:
--simulations 50 75 gives the numbers of the others.
"""

import argparse
import itertools
import pathlib
import sys

import numpy as np

from keras_cosmo.data.database import Database
from keras_cosmo.figures import style
from keras_cosmo.simulations.lightcones import LightconeSimulator

FIELD = "brightness_temp"
MEAN_REDSHIFTS = np.array([6.5, 7, 7.5, 8, 8.5, 9, 9.5, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 24, 26, 28])
POWER_REDSHIFTS = (8.5, 12.0, 16.0)
BANDS = ((0.08, 0.3), (0.3, 0.8), (0.8, 2.1))  # 1/Mpc


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="See the head of this file for what the numbers mean."
    )
    parser.add_argument("--data", type=pathlib.Path, required=True, help="database of real light-cones (HDF5)")
    parser.add_argument("--figure", type=pathlib.Path, default=pathlib.Path("lightcones_against_21cmfast.png"))
    parser.add_argument("--planes", type=int, default=4, help="embedded planes per simulation (default: 4)")
    parser.add_argument(
        "--simulations", type=int, nargs=2, metavar=("FIRST", "END"), help="use simulations FIRST to END - 1 only"
    )
    parser.add_argument(
        "--box-size", type=float, default=75.0, help="side of the real simulations' box in Mpc (default: 75)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first embedded simulation (default: 0)")
    return parser.parse_args(argv)


def windows(redshifts, cells, at):
    """Index ranges of ``cells`` cells around each redshift."""
    starts = [int(np.argmin(np.abs(redshifts - z))) - cells // 2 for z in at]
    return [slice(max(start, 0), max(start, 0) + cells) for start in starts]


def mean_and_scatter(maps, redshifts):
    """Mean over maps and cells around `MEAN_REDSHIFTS`, and the standard deviation over the sky."""
    cut = windows(redshifts, maps.shape[1], MEAN_REDSHIFTS)
    mean = np.array([maps[:, :, w].mean() for w in cut])
    scatter = np.array([maps[:, :, w].std(axis=1).mean() for w in cut])
    return mean, scatter


def power_spectra(maps, redshifts, cell_size):
    """Power of square patches around `POWER_REDSHIFTS` in mK^2 Mpc^2: fine bins and `BANDS`, and the bin centres."""
    side = maps.shape[1]
    axis = 2.0 * np.pi * np.fft.fftfreq(side, cell_size)
    k = np.hypot(axis[:, None], axis[None])
    steps = np.geomspace(0.5, side / 2.0, 12)
    edges = axis[1] * np.maximum(steps, np.arange(12) + 0.5)
    fine, bands = [], []
    for window in windows(redshifts, side, POWER_REDSHIFTS):
        patch = maps[:, :, window]
        patch = patch - patch.mean(axis=(1, 2), keepdims=True)
        power = (np.abs(np.fft.fft2(patch)) ** 2).mean(axis=0) * cell_size**2 / side**2
        fine.append([power[(k >= low) & (k < high)].mean() for low, high in itertools.pairwise(edges)])
        bands.append([power[(k >= low) & (k < high)].mean() for low, high in BANDS])
    return np.array(fine), np.array(bands), np.sqrt(edges[1:] * edges[:-1])


def measure(maps, redshifts, cell_size):
    mean, scatter = mean_and_scatter(maps, redshifts)
    fine, bands, k = power_spectra(maps, redshifts, cell_size)
    return {"mean": mean, "scatter": scatter, "power": fine, "bands": bands, "k": k}


def compare(database, planes, seed, simulations, box_size):
    """Statistics of both kinds of cones, one row per simulation."""
    n_perp, n_los = database.fields[FIELD].shape
    redshifts = np.asarray(database.redshifts, float)
    simulator = LightconeSimulator(
        n_perp=n_perp,
        n_los=n_los,
        z_min=round(float(redshifts[0]), 3),
        cell_size=float(database.cell_size),
        maps_per_simulation=planes,
        box_size=box_size,
    )
    rows = []
    for i in simulations:
        real = database.read(FIELD, np.flatnonzero(database.simulation == i))
        ours = simulator.simulate(database.parameter_values[i], seed + int(i))[FIELD]
        rows.append(
            (
                measure(ours, simulator.redshifts, database.cell_size),
                measure(real, redshifts, database.cell_size),
            )
        )
    stack = [{name: np.array([row[kind][name] for row in rows]) for name in rows[0][0]} for kind in (0, 1)]
    return stack[0], stack[1]


def report(ours, real):
    """Lines of numbers over all simulations."""
    lines = [
        "embedded against 21cmFAST: mean T_b in mK; scatter over the sky as a ratio where the real one exceeds 0.5 mK",
        f"{'z':>5} {'bias':>7} {'rms':>7} {'r':>6}   {'scatter ratio':>13} {'spread':>7} {'r':>6} {'n':>4}",
    ]
    for j, z in enumerate(MEAN_REDSHIFTS):
        error = ours["mean"][:, j] - real["mean"][:, j]
        bright = real["scatter"][:, j] > 0.5
        line = f"{z:5.1f} {error.mean():7.2f} {np.sqrt((error**2).mean()):7.2f} "
        line += f"{correlation(ours['mean'][:, j], real['mean'][:, j]):6.3f}   "
        if bright.sum() > 2:
            a, b = (np.log(np.maximum(x["scatter"][bright, j], 0.05)) for x in (ours, real))
            line += f"{np.exp(np.median(a - b)):13.2f} {(a - b).std():7.2f} {correlation(a, b):6.3f} {bright.sum():4d}"
        lines.append(line)
    error = ours["mean"] - real["mean"]
    lines.append(f"rms error of the mean over all redshifts: {np.sqrt((error**2).mean()):.2f} mK")
    error = ours["scatter"] - real["scatter"]
    lines.append(f"rms error of the scatter over all redshifts: {np.sqrt((error**2).mean()):.2f} mK")
    names = [f"{low:g}-{high:g}" for low, high in BANDS]
    lines.append(f"power ratio, median (spread of the logarithm) over simulations; k in 1/Mpc: {', '.join(names)}")
    for j, z in enumerate(POWER_REDSHIFTS):
        bright = real["bands"][:, j].mean(axis=-1) > 5.0
        if bright.any():
            ratio = np.log(np.maximum(ours["bands"][bright, j], 0.05) / real["bands"][bright, j])
            cells = [f"{np.exp(np.median(r)):.2f} ({r.std():.2f})" for r in ratio.T]
            lines.append(f"{z:5.1f} {'  '.join(cells)}   n = {bright.sum()}")
    return lines


def correlation(a, b):
    return float(np.corrcoef(a, b)[0, 1]) if min(a.std(), b.std()) > 0 else float("nan")


def spread_choice(database, simulations, count=4):
    """Simulations far apart in parameter space, the first being the one nearest the middle."""
    low = np.array([p.low for p in database.parameters])
    high = np.array([p.high for p in database.parameters])
    unit = (database.parameter_values[simulations] - low) / (high - low)
    chosen = [int(np.argmin(np.linalg.norm(unit - 0.5, axis=1)))]
    while len(chosen) < min(count, len(simulations)):
        distance = np.linalg.norm(unit[:, None] - unit[chosen][None], axis=2).min(axis=1)
        chosen.append(int(np.argmax(distance)))
    return chosen


def label(values):
    zeta, luminosity, temperature, threshold = values
    return (
        rf"$\zeta$ = {zeta:.0f}, $\log L_X$ = {luminosity:.1f}, $\log T_\mathrm{{vir}}$ = {temperature:.1f}, "
        rf"$E_0$ = {threshold:.2f} keV"
    )


def draw(database, ours, real, chosen, simulations):
    """The figure: one column per simulation; mean, scatter, power spectra."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    real_points = {"color": style.PALETTE["truth"], "marker": "o", "ms": 3.5, "lw": 0}
    with style.figure_style():
        figure = Figure(figsize=(3.3 * len(chosen), 8.6), layout="constrained")
        axes = figure.subplots(3, len(chosen), squeeze=False, height_ratios=(1.0, 1.0, 1.15))
        for column, i in enumerate(chosen):
            top, middle, bottom = axes[:, column]
            for row, name in ((top, "mean"), (middle, "scatter")):
                row.plot(MEAN_REDSHIFTS, real[name][i], zorder=3, **real_points)
                row.plot(MEAN_REDSHIFTS, ours[name][i], color=style.PALETTE["network"])
                row.set_xlim(6, 28.5)
                row.grid(True)
                row.set_xlabel("redshift")
            top.axhline(0.0, color=style.PALETTE["guide"], lw=0.8)
            top.set_title(label(database.parameter_values[simulations[i]]).replace(", $\\log T", ",\n$\\log T"))
            for j, z in enumerate(POWER_REDSHIFTS):
                scale = real["k"][i] ** 2 / (2.0 * np.pi)
                colour = style.CYCLE[j]
                floor = 1e-3
                theirs, mine = (np.maximum(scale * x["power"][i, j], floor) for x in (real, ours))
                if theirs.max() < 10 * floor:
                    continue
                bottom.loglog(real["k"][i], theirs, color=colour, marker="o", ms=3.5, lw=0)
                bottom.loglog(real["k"][i], mine, color=colour, label=f"z = {z:g}")
            bottom.grid(True)
            bottom.set_ylim(0.1, 1e4)
            bottom.set_xlabel("k [1/Mpc]")
            bottom.legend(loc="upper left", ncols=3, handlelength=1.2, columnspacing=0.8)
        axes[0, 0].set_ylabel(r"mean $T_b$ [mK]")
        axes[1, 0].set_ylabel(r"scatter of $T_b$ over the sky [mK]")
        axes[2, 0].set_ylabel(r"$k^2 P_{2D}(k) / 2\pi$ [mK$^2$]")
        handles = [
            Line2D([], [], color=style.PALETTE["truth"], marker="o", ms=4, lw=0, label="21cmFAST"),
            Line2D([], [], color=style.PALETTE["network"], label="embedded simulator, same parameters"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
        return figure


def main(argv=None) -> int:
    args = parse_args(argv)
    database = Database(args.data)
    first, end = args.simulations or (0, database.n_simulations)
    if not 0 <= first < end <= database.n_simulations:
        print(f"--simulations: expected 0 <= FIRST < END <= {database.n_simulations}, got {first} {end}")
        return 2
    simulations = np.arange(first, end)
    ours, real = compare(database, args.planes, args.seed, simulations, args.box_size)
    print("\n".join(report(ours, real)))
    figure = draw(database, ours, real, spread_choice(database, simulations), simulations)
    args.figure.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.figure, dpi=110)
    print(f"figure: {args.figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
