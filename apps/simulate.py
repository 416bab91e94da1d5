"""Make a database of simulated maps: many simulations in parallel, safe against a kill, resumable.

    python apps/simulate.py lightcones --count 1000 --out cones.h5                       embedded simulator, minutes
    python apps/simulate.py lightcones --count 1000 --out cones.h5 --like other.h5       in the geometry of other.h5
    python apps/simulate.py lightcones --simulator py21cmfast --count 100 --out real.h5  hours to days

21cmFAST cannot evolve haloes that outweigh a cell. With cells of 1.5 Mpc log10_T_vir is therefore drawn up to 5.93, not
up to the 6 of the paper and of the embedded simulator; from 1.65 Mpc on there is no such limit.

Until complete, the database is called <out>.partial. Run the same command again to resume; --workers may differ.
Exit status: 0 complete, 1 failed with one line that says why, 2 wrong usage, 130 interrupted by Ctrl-C.
"""

import argparse
import logging
import os
import pathlib
import sys

from keras_cosmo.tasks.presets import fail

# Flag -> simulators that have this field.
GEOMETRY = {
    "n_perp": (int, ("embedded",), "cells across the sky"),
    "n_los": (int, ("embedded",), "cells along the line of sight"),
    "maps_per_simulation": (int, ("embedded",), "images per simulation"),
    "box_size": (float, ("embedded",), "side of a periodic box whose longest modes to drop at [Mpc]"),
    "box_cells": (int, ("py21cmfast",), "cells along each side of the box"),
    "slices": (int, ("py21cmfast",), "slices of each box"),
    "spacing": (float, ("py21cmfast",), "distance between slices [Mpc]"),
    "parts": (int, ("py21cmfast",), "images that each slice is cut into"),
    "z_min": (float, ("embedded", "py21cmfast"), "redshift of the nearest cell"),
    "z_max": (float, ("embedded", "py21cmfast"), "redshift where the light-cone ends"),
    "cell_size": (float, ("embedded", "py21cmfast"), "side of a cell [Mpc]"),
}


def parse_args(argv=None) -> argparse.Namespace:
    """Flags of the command line; needs the standard library only."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, allow_abbrev=False)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    lightcones = kinds.add_parser(
        "lightcones",
        help="21-cm light-cone images for the regression task",
        formatter_class=formatter,
        allow_abbrev=False,
    )
    add_campaign_flags(lightcones)
    lightcones.add_argument("--simulator", choices=("embedded", "py21cmfast"), default="embedded", help="%(default)s")
    geometry = lightcones.add_argument_group("geometry (default: that of the simulator)")
    geometry.add_argument("--like", type=pathlib.Path, metavar="DATABASE", help="take cells and redshifts from it")
    for name, (kind, simulators, text) in GEOMETRY.items():
        flag, text = "--" + name.replace("_", "-"), f"{text} ({', '.join(simulators)})"
        geometry.add_argument(flag, type=kind, default=argparse.SUPPRESS, metavar="VALUE", help=text)
    return parser.parse_args(argv)


def add_campaign_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that every kind of simulation has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--count", type=int, required=True, help="number of simulations")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE", help="database to make, .h5")
    parser.add_argument("--workers", type=int, default=cores, help="processes, one core each (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and initial conditions (%(default)s)")
    parser.add_argument(
        "--design", choices=("uniform", "sobol"), default="uniform", help="of the parameters (%(default)s)"
    )
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the maps (%(default)s)")


def lightcone_simulator(arguments: argparse.Namespace):
    """The simulator that the flags ask for; ValueError or TypeError if it cannot be."""
    given = {name: getattr(arguments, name) for name in GEOMETRY if hasattr(arguments, name)}
    for name in given:
        if arguments.simulator not in GEOMETRY[name][1]:
            flags = [flag for flag, (_, simulators, _) in GEOMETRY.items() if arguments.simulator in simulators]
            names = ", ".join("--" + flag.replace("_", "-") for flag in flags)
            raise ValueError(
                f"--{name.replace('_', '-')} is not for --simulator {arguments.simulator}, which has {names}."
            )
    like = geometry_of(arguments.like, arguments.simulator) if arguments.like else {}
    if arguments.simulator == "py21cmfast":
        from keras_cosmo.simulations.py21cmfast import Py21cmfastLightconeSimulator

        return Py21cmfastLightconeSimulator(**{**like, **given})
    if {"cell_size", "z_max"} <= set(given):
        raise ValueError("--z-max has no effect beside --cell-size in the embedded simulator. Give --n-los instead.")
    from keras_cosmo.simulations.lightcones import LightconeSimulator

    return LightconeSimulator(**{**like, **given})


def geometry_of(path: pathlib.Path, simulator: str) -> dict:
    """Cells and redshifts of a light-cone database, as arguments of a simulator."""
    from keras_cosmo.data.database import Database

    database = Database(path).require(task="regression", fields=("brightness_temp",))
    if database.redshifts is None or database.cell_size is None:
        raise ValueError(f"{path}: --like needs the root attributes redshifts and cell_size. Give --n-perp and so on.")
    shape = database.fields["brightness_temp"].shape
    if len(shape) != 2 or len(database.redshifts) != shape[1]:
        raise ValueError(
            f"{path}: --like needs maps (n_perp, n_los) and one redshift per cell along the line of sight, got shape "
            f"{shape} and {len(database.redshifts)} redshifts. Give --n-perp and so on."
        )
    n_perp, n_los = shape
    geometry = {"z_min": float(database.redshifts[0]), "cell_size": database.cell_size}
    if simulator == "py21cmfast":
        # Whole boxes, as wide as the images.
        return {**geometry, "z_max": float(database.redshifts[-1]), "box_cells": n_perp, "slices": 1, "parts": 1}
    return {**geometry, "n_perp": n_perp, "n_los": n_los}


def main(argv=None) -> int:
    """Run the campaign; returns the exit status."""
    arguments = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from tqdm.contrib.logging import logging_redirect_tqdm

    from keras_cosmo.data.campaign import run_campaign
    from keras_cosmo.progress import progress_callback

    try:
        simulator = lightcone_simulator(arguments)
    except (ValueError, TypeError, FileNotFoundError) as error:
        return fail(message(error), 2)
    try:
        with logging_redirect_tqdm():
            path = run_campaign(
                simulator,
                arguments.out,
                count=arguments.count,
                seed=arguments.seed,
                workers=arguments.workers,
                dtype=arguments.dtype,
                design=arguments.design,
                progress=progress_callback("simulation"),
            )
    except KeyboardInterrupt as error:
        return fail(message(error), 130)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        return fail(message(error), 1)
    shapes = ", ".join(f"{name} {field.shape} [{field.unit}]" for name, field in simulator.fields.items())
    print(f"{path}: {arguments.count} simulations x {simulator.maps_per_simulation} maps: {shapes}")
    return 0


def message(error: BaseException) -> str:
    """One line for an error; the operating system's own do not name their file in their text."""
    text = getattr(error, "strerror", None) or str(error) or "Interrupted."
    return f"{error.filename}: {text}" if getattr(error, "filename", None) else text


if __name__ == "__main__":
    sys.exit(main())
