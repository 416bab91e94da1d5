"""Make a database of simulated maps: many simulations in parallel, safe against a kill, resumable.

    python apps/simulate.py lightcones --count 1000 --out cones.h5                       embedded simulator, minutes
    python apps/simulate.py lightcones --count 1000 --out cones.h5 --like other.h5       in the geometry of other.h5
    python apps/simulate.py lightcones --simulator py21cmfast --count 100 --out real.h5  hours to days

    python apps/simulate.py coeval --count 1000 --out boxes.h5                           21-cm and matter maps, z = 15
    python apps/simulate.py coeval --count 1000 --out boxes.h5 --redshifts 10 15 20 --design latin-hypercube
    python apps/simulate.py coeval --simulator py21cmfast --box-cells 64 --slabs 8 --count 100 --out real.h5     hours

    python apps/simulate.py lines --count 300 --maps 100 --out lines.h5                  intensity of emission lines
    python apps/simulate.py lines --count 1000 --out small.h5 --map-cells 64 --map-side 0.425 --lines halpha,oiii,oii
    python apps/simulate.py lines --count 1000 --out tng.h5 --luminosity-table halpha.ecsv oiii.ecsv

    python apps/simulate.py hi-maps --count 1000 --out hi.h5                             HI maps, 0.5 s per box
    python apps/simulate.py hi-maps --count 300 --out like.h5 --like camels.h5           in the geometry of camels.h5

    python apps/simulate.py skies --count 8 --out skies.h5                               Galactic HI and dust, Nside 128
    python apps/simulate.py skies --count 2 --out like.h5 --like sky.h5                  pixels and channels of sky.h5

    python apps/simulate.py hi-maps --count 20000 --out hi.h5 --scheduler tcp://node01:8786         workers of Dask
    python apps/simulate.py hi-maps --count 20000 --out hi.h5 --cluster slurm --jobs 10 --job-cores 32

21cmFAST cannot evolve haloes that outweigh a cell. With light-cones of 1.5 Mpc cells log10_T_vir is therefore drawn up
to 5.93, not up to the 6 of the paper and of the embedded simulator; from 1.65 Mpc on there is no such limit. Coeval
boxes have none.

Until complete, the database is called <out>.partial. Run the same command again to resume; --workers may differ, and
so may --scheduler and --cluster (see docs/campaigns.md).
Exit status: 0 complete, 1 failed with one line that says why, 2 wrong usage, 130 interrupted by Ctrl-C.
"""

import argparse
import contextlib
import logging
import os
import pathlib
import sys
from collections.abc import Iterable

from keras_cosmo.tasks.presets import fail

# As keras_cosmo.data.campaign.DESIGNS and keras_cosmo.slicing.PROJECTIONS, which would make --help wait for NumPy.
DESIGNS = ("uniform", "sobol", "latin-hypercube")
PROJECTIONS = ("mean", "sum")
# As keras_cosmo.simulations.halo_luminosity.RELATIONS.
RELATIONS = ("gong2017", "silva2015")


def redshift_list(text: str) -> tuple[float, ...]:
    """Numbers from text such as ``10,15,20``."""
    try:
        return tuple(float(number) for number in text.replace(",", " ").split())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers, such as 10 15 20 or 10,15,20, got {text!r}") from error


def name_list(text: str) -> tuple[str, ...]:
    """Names from text such as ``halpha,oiii``."""
    return tuple(text.replace(",", " ").split())


class Joined(argparse.Action):
    """Lists given in one word or in several, as one tuple."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Join them."""
        setattr(namespace, self.dest, tuple(entry for part in values for entry in part))


# Kind -> flag -> its type, the simulators that have this field, and its meaning.
BOTH, EMBEDDED, PY21CMFAST = ("embedded", "py21cmfast"), ("embedded",), ("py21cmfast",)
GEOMETRY = {
    "lightcones": {
        "n_perp": (int, EMBEDDED, "cells across the sky"),
        "n_los": (int, EMBEDDED, "cells along the line of sight"),
        "maps_per_simulation": (int, EMBEDDED, "images per simulation"),
        "box_size": (float, EMBEDDED, "side of a periodic box whose longest modes to drop at [Mpc]"),
        "box_cells": (int, PY21CMFAST, "cells along each side of the box"),
        "slices": (int, PY21CMFAST, "slices of each box"),
        "spacing": (float, PY21CMFAST, "distance between slices [Mpc]"),
        "parts": (int, PY21CMFAST, "images that each slice is cut into"),
        "z_min": (float, BOTH, "redshift of the nearest cell"),
        "z_max": (float, BOTH, "redshift where the light-cone ends"),
        "cell_size": (float, BOTH, "side of a cell [Mpc]"),
        "redshift_step": (float, PY21CMFAST, "ratio of (1+z) between two evolved boxes"),
    },
    "coeval": {
        "redshifts": (redshift_list, BOTH, "redshifts of the maps, such as 10 15 20"),
        "box_cells": (int, BOTH, "cells along each side of the box, and of a map"),
        "cell_size": (float, BOTH, "side of a cell [Mpc]"),
        "slabs": (int, BOTH, "slabs of each box, one map each; must divide the cells"),
        "slab_cells": (int, BOTH, "cells that a slab is thick"),
        "projection": (str, BOTH, "how the cells of a slab make a map: mean or sum"),
        "redshift_step": (float, PY21CMFAST, "ratio of (1+z) between two evolved boxes"),
    },
    "lines": {
        "lines": (name_list, EMBEDDED, "names of emission lines, such as halpha,oiii or halpha,oiii,oii"),
        "observed_wavelength": (float, EMBEDDED, "where the lines are observed [um]"),
        "resolving_power": (float, EMBEDDED, "wavelength over the width of the band"),
        "map_cells": (int, EMBEDDED, "pixels along each side of a map"),
        "map_side": (float, EMBEDDED, "side of a map [degrees]"),
        "beam_sigma": (float, EMBEDDED, "standard deviation of the Gaussian beam, 0 for none [arcmin]"),
        "maps": (int, EMBEDDED, "independent maps of each line per simulation"),
        "minimum_mass": (float, EMBEDDED, "of haloes that shine [solar masses]"),
        "amplitude_scatter": (float, EMBEDDED, "deviation of the logarithm of a factor per map"),
    },
    "hi-maps": {
        "cells": (int, EMBEDDED, "pixels along each side of a map"),
        "box_size": (float, EMBEDDED, "side of the periodic box [Mpc/h]"),
        "slabs": (int, EMBEDDED, "slabs along each of three axes, one map each"),
        "redshift": (float, EMBEDDED, "of the maps"),
        "particles": (int, EMBEDDED, "particles along each side of the box"),
        "diffuse_share": (float, EMBEDDED, "hydrogen outside of haloes over that in haloes"),
    },
    "skies": {
        "nside": (int, EMBEDDED, "HEALPix resolution, a power of two"),
        "channels": (int, EMBEDDED, "velocity channels of the HI cube"),
        "velocity_low": (float, EMBEDDED, "lowest channel centre of HI4PI that is covered [km/s]"),
        "velocity_high": (float, EMBEDDED, "highest one [km/s]"),
        "low_pass_ell": (float, EMBEDDED, "multipole of the low-pass of cube and dust, 0 for none"),
        "low_pass_order": (float, EMBEDDED, "steepness of the low-pass"),
        "uncorrelated": (float, EMBEDDED, "share of the variance of the dust that is independent of the HI"),
        "linear": (bool, EMBEDDED, "dust that is a weighted sum of the channels, and the uncorrelated share"),
        "sky_fraction": (float, EMBEDDED, "share of the sky that the mask leaves"),
        "noise": (float, EMBEDDED, "standard deviation of each pixel and channel before the low-pass [K]"),
        "cold_gain": (float, EMBEDDED, "extra dust per atom of cold gas"),
        "molecular_gain": (float, EMBEDDED, "dust of molecular gas"),
        "molecular_threshold": (float, EMBEDDED, "column beyond which cold gas is molecular, in medians"),
        "modulation": (float, EMBEDDED, "deviation of the logarithm of a smooth factor of the dust"),
        "emissivity": (float, EMBEDDED, "median dust per column of HI [uK_RJ per 1e20 atoms per cm^2]"),
    },
}


LIKE = {
    "lightcones": "take cells and redshifts from it",
    "coeval": "take cells and redshifts from it",
    "lines": "take lines, pixels, beam and band from it",
    "hi-maps": "take pixels, box, slabs and redshift from it",
    "skies": "take pixels, channels and low-pass from it",
}

KINDS = {
    "lightcones": "21-cm light-cone images for the regression task",
    "coeval": "21-cm maps and the matter maps behind them, from boxes at fixed redshifts",
    "lines": "intensity maps of emission lines, each alone, for the separation task",
    "hi-maps": "maps of neutral hydrogen after reionisation, for the HIGlow task",
    "skies": "full-sky maps of Galactic HI and dust, for the dust task",
}


# Flag -> type and meaning, and the field of keras_cosmo.data.slurm_jobs.SlurmJobs.
SLURM = {
    "jobs": (int, "jobs", "jobs at a time"),
    "minimum-jobs": (int, "minimum_jobs", "with fewer than --jobs, jobs come and go with the work (--jobs)"),
    "job-cores": (int, "cores", "cores of a job, one simulation each (8)"),
    "job-memory": (str, "memory", "memory of a job, such as 16GB (2 GiB per core)"),
    "walltime": (str, "walltime", "of a job, such as 04:00:00 (01:00:00)"),
    "partition": (str, "partition", "queue of the jobs"),
    "account": (str, "account", "that the jobs are charged to"),
    "interface": (str, "interface", "network interface by which workers reach this machine, such as ib0"),
    "job-setup": (str, "setup", "line of shell before the workers start, such as 'module load python'; repeatable"),
    "job-logs": (pathlib.Path, "logs", "folder for what the jobs print"),
}


def parse_args(argv=None) -> argparse.Namespace:
    """Flags of the command line; needs the standard library only."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, allow_abbrev=False)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind, text in KINDS.items():
        command = kinds.add_parser(kind, help=text, formatter_class=formatter, allow_abbrev=False)
        # As train_higlow.py does, and the simulations of CAMELS.
        add_campaign_flags(command, "latin-hypercube" if kind == "hi-maps" else "uniform")
        simulators = BOTH if kind in ("lightcones", "coeval") else EMBEDDED
        command.add_argument("--simulator", choices=simulators, default="embedded", help="%(default)s")
        geometry = command.add_argument_group("geometry (default: that of the simulator)")
        geometry.add_argument("--like", type=pathlib.Path, metavar="DATABASE", help=LIKE[kind])
        for name, (value, simulators, meaning) in GEOMETRY[kind].items():
            options = {"choices": PROJECTIONS} if name == "projection" else {"metavar": "VALUE"}
            if value in (redshift_list, name_list):
                options |= {"nargs": "+", "action": Joined}
            options = {"action": argparse.BooleanOptionalAction} if value is bool else {"type": value, **options}
            geometry.add_argument(
                flag_of(name),
                default=argparse.SUPPRESS,
                help=f"{meaning} ({', '.join(simulators)})",
                **options,
            )
        if kind == "lines":
            light = command.add_argument_group("light of haloes")
            light.add_argument(
                "--relation", choices=RELATIONS, default=RELATIONS[0], help="without table (%(default)s)"
            )
            light.add_argument(
                "--luminosity-scatter", type=float, default=0.3, metavar="DEX", help="likewise (%(default)s)"
            )
            light.add_argument(
                "--luminosity-table", nargs="+", default=[], metavar="FILE", help="tables, one line each"
            )
            geometry.add_argument(
                "--without-unsmoothed", action="store_true", help="leave out the maps before the beam: half the size"
            )
        add_cluster_flags(command)
    return parser.parse_args(argv)


def add_campaign_flags(parser: argparse.ArgumentParser, design: str) -> None:
    """Flags that every kind of simulation has."""
    cores = available_cores()
    parser.add_argument("--count", type=int, required=True, help="number of simulations")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE", help="database to make, .h5")
    parser.add_argument("--workers", type=int, help=f"processes here, one core each ({cores})")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and initial conditions (%(default)s)")
    parser.add_argument("--design", choices=DESIGNS, default=design, help="of the parameters (%(default)s)")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the maps (%(default)s)")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add_cluster_flags(parser: argparse.ArgumentParser) -> None:
    """Flags for simulating on other machines."""
    where = parser.add_argument_group("other machines (Dask: pip install '.[cluster]')")
    where.add_argument("--scheduler", metavar="ADDRESS", help="tcp://host:8786, or the file of a Dask scheduler")
    where.add_argument("--cluster", choices=("slurm",), help="submit jobs whose processes simulate")
    where.add_argument(
        "--worker-timeout", type=float, metavar="SECONDS", help="give up after so long without a worker (never)"
    )
    slurm = parser.add_argument_group("with --cluster slurm")
    for name, (value, field, meaning) in SLURM.items():
        action = {"action": "append"} if name == "job-setup" else {}
        slurm.add_argument(f"--{name}", dest=f"slurm_{field}", type=value, metavar="VALUE", help=meaning, **action)
    slurm.add_argument("--print-job", action="store_true", help="print the script of a job, and do nothing else")


def slurm_jobs(arguments: argparse.Namespace):
    """The jobs that the flags ask for, or None; ValueError if flags do not go together."""
    given = {field: getattr(arguments, f"slurm_{field}") for _, field, _ in SLURM.values()}
    given = {field: value for field, value in given.items() if value is not None}
    flags = [f"--{name}" for name, (_, field, _) in SLURM.items() if field in given]
    flags += ["--print-job"] if arguments.print_job else []
    if arguments.cluster and arguments.scheduler:
        raise ValueError("--cluster starts a scheduler of its own. Give it or --scheduler, not both.")
    if (arguments.cluster or arguments.scheduler) and arguments.workers is not None:
        raise ValueError("--workers is for processes on this machine. Leave it out with --scheduler or --cluster.")
    if arguments.worker_timeout is not None and not (arguments.cluster or arguments.scheduler):
        raise ValueError("--worker-timeout is for --scheduler and --cluster.")
    if not arguments.cluster:
        if flags:
            raise ValueError(f"{flags[0]} is for --cluster slurm.")
        return None
    from keras_cosmo.data.slurm_jobs import SlurmJobs

    given["setup"] = tuple(given.get("setup", ()))
    return SlurmJobs(**given)


def dask_workers(arguments: argparse.Namespace, jobs):
    """The workers to simulate on, to be used as a context manager that gives None for processes here."""
    if jobs is None and arguments.scheduler is None:
        return contextlib.nullcontext()
    from keras_cosmo.data.dask_workers import DaskWorkers, require_dask

    require_dask()
    import distributed

    # What they say about a lost scheduler, in many lines, is said here in one.
    for name in logging.root.manager.loggerDict:
        if name.startswith(distributed.__name__) and not name.startswith("distributed.deploy"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    where = arguments.scheduler if jobs is None else jobs.cluster()
    expected = 1 if jobs is None else jobs.threads
    return DaskWorkers(where, worker_timeout=arguments.worker_timeout, expected=expected)


def flag_of(name: str) -> str:
    """The flag of a simulator's field."""
    return "--" + name.replace("_", "-")


def given_geometry(arguments: argparse.Namespace) -> dict:
    """The fields of the simulator that were given; ValueError if it has no such field."""
    known = GEOMETRY[arguments.kind]
    given = {name: getattr(arguments, name) for name in known if hasattr(arguments, name)}
    for name in given:
        if arguments.simulator not in known[name][1]:
            names = ", ".join(
                flag_of(name) for name, (_, simulators, _) in known.items() if arguments.simulator in simulators
            )
            raise ValueError(f"{flag_of(name)} is not for --simulator {arguments.simulator}, which has {names}.")
    return given


def lightcone_simulator(arguments: argparse.Namespace):
    """The light-cone simulator that the flags ask for; ValueError or TypeError if it cannot be."""
    given = given_geometry(arguments)
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


def coeval_simulator(arguments: argparse.Namespace):
    """The simulator of coeval boxes that the flags ask for; ValueError or TypeError if it cannot be."""
    given = given_geometry(arguments)
    like = coeval_geometry_of(arguments.like, given) if arguments.like else {}
    if arguments.simulator == "py21cmfast":
        from keras_cosmo.simulations.py21cmfast_coeval import Py21cmfastCoevalSimulator

        return Py21cmfastCoevalSimulator(**{**like, **given})
    from keras_cosmo.simulations.coeval import CoevalSimulator

    return CoevalSimulator(**{**like, **given})


def coeval_geometry_of(path: pathlib.Path, given: Iterable[str] = ()) -> dict:
    """Cells, slabs and redshifts of a database of coeval maps, as arguments of a simulator.

    Only what is not among ``given`` is missed.
    """
    import numpy as np

    from keras_cosmo.data.database import Database
    from keras_cosmo.quantities import redshift_of_field

    database = Database(path).require(task="matter")
    found = {name: redshift_of_field(name) for name in database.fields}
    redshifts = sorted({pair[1] for pair in found.values() if pair is not None})
    shapes = {field.shape for field in database.fields.values()}
    counts = set(np.bincount(database.simulation).tolist())
    height, width = min(shapes)[:2]
    if None in found.values() or database.cell_size is None or len(shapes) > 1 or height != width or len(counts) > 1:
        raise ValueError(
            f"{path}: --like needs square maps called brightness_temp_z15 and so on, as many of each simulation, and "
            f"the root attribute cell_size; got {sorted(found)} of shapes {sorted(shapes)}, {sorted(counts)} maps per "
            f"simulation, cell_size {database.cell_size}. Give --box-cells and so on instead."
        )
    if not database.attributes.get("periodic_across_sky", True):
        raise ValueError(
            f"{path}: its maps are parts of a box (periodic_across_sky is False), which no simulator here makes. Give "
            f"--box-cells and so on instead of --like."
        )
    geometry = {
        "box_cells": height, "cell_size": database.cell_size, "redshifts": tuple(redshifts), "slabs": counts.pop(),
    }  # fmt: skip
    for name, kind in (("slab_cells", int), ("projection", str)):
        if name in database.attributes:
            geometry[name] = kind(database.attributes[name])
        elif name not in given:
            logging.info(
                "%s does not say %s: that of the simulator is taken, unless you give %s.", path, name, flag_of(name)
            )
    return geometry


def line_simulator(arguments: argparse.Namespace):
    """The simulator of line-intensity maps that the flags ask for; ValueError or TypeError if it cannot be."""
    if arguments.dtype == "float16":
        raise ValueError("--dtype float16 cannot hold intensities of 1e-9 erg/s/cm2/sr. Take float32.")
    given = given_geometry(arguments)
    like = line_geometry_of(arguments.like) if arguments.like else {}
    if arguments.without_unsmoothed:
        given["unsmoothed"] = False
    from keras_cosmo.simulations.line_intensity import LineIntensitySimulator
    from keras_cosmo.tasks.halo_light import halo_luminosity

    lines = {**like, **given}.get("lines", LineIntensitySimulator.lines)
    return LineIntensitySimulator(**{**like, **given}, luminosity=halo_luminosity(arguments, lines))


def line_geometry_of(path: pathlib.Path) -> dict:
    """Lines, pixels, beam and band of a database of line-intensity maps, as arguments of a simulator."""
    from keras_cosmo.data.database import Database

    database = Database(path).require(task="separation")
    attributes = database.attributes
    needed = ("lines", "observed_wavelength", "resolving_power", "beam_sigma")
    missing = [name for name in needed if name not in attributes]
    shapes = {field.shape for field in database.fields.values()}
    if missing or database.cell_size is None or len(shapes) > 1 or len(set(min(shapes))) > 1:
        raise ValueError(
            f"{path}: --like needs square maps and the root attributes cell_size and {', '.join(needed)}; got shapes "
            f"{sorted(shapes)}, cell_size {database.cell_size}, without {missing}. Give --map-cells and so on instead."
        )
    cells = min(shapes)[0]
    return {
        "lines": tuple(str(name) for name in attributes["lines"]),
        "map_cells": cells,
        "map_side": cells * float(database.cell_size) / 60.0,
        **{name: float(attributes[name]) for name in needed[1:]},
    }


def hydrogen_simulator(arguments: argparse.Namespace):
    """The simulator of HI maps that the flags ask for; ValueError or TypeError if it cannot be."""
    if arguments.dtype == "float16":
        raise ValueError("--dtype float16 cannot hold surface densities of 1e10 Msun/h (Mpc/h)^-2. Take float32.")
    given = given_geometry(arguments)
    like = hydrogen_geometry_of(arguments.like) if arguments.like else {}
    from keras_cosmo.simulations.hydrogen import HydrogenMapSimulator

    geometry = {**like, **given}
    if "box_size" in geometry and "particles" not in geometry:
        # As far apart as in the default box.
        particles = round(HydrogenMapSimulator.particles * geometry["box_size"] / HydrogenMapSimulator.box_size)
        geometry["particles"] = min(max(particles + particles % 2, 32), 256)
    return HydrogenMapSimulator(**geometry)


def hydrogen_geometry_of(path: pathlib.Path) -> dict:
    """Pixels, box, slabs and redshift of a database of HI maps, as arguments of a simulator."""
    import numpy as np

    from keras_cosmo.data.database import Database

    database = Database(path).require(task="higlow")
    shapes = {field.shape for field in database.fields.values()}
    counts = set(np.bincount(database.simulation).tolist())
    redshifts = () if database.redshifts is None else database.redshifts
    units = database.attributes.get("cell_size_units", "Mpc/h")
    square = len(shapes) == 1 and len(min(shapes)) == 2 and len(set(min(shapes))) == 1
    if not square or len(counts) > 1 or min(counts) % 3 or len(redshifts) != 1 or database.cell_size is None:
        raise ValueError(
            f"{path}: --like needs square maps at one redshift, as many along each of three axes of a simulation, and "
            f"the root attribute cell_size; got shapes {sorted(shapes)}, {sorted(counts)} maps per simulation, "
            f"{len(redshifts)} redshifts, cell_size {database.cell_size}. Give --cells and so on instead."
        )
    if units != "Mpc/h":
        raise ValueError(f"{path}: --like needs cell_size in Mpc/h, got {units}. Give --cells and so on instead.")
    cells = min(shapes)[0]
    return {
        "cells": cells,
        "box_size": round(cells * float(database.cell_size), 9),
        "slabs": counts.pop() // 3,
        "redshift": float(redshifts[0]),
    }


def sky_simulator(arguments: argparse.Namespace):
    """The simulator of Galactic skies that the flags ask for; ValueError or TypeError if it cannot be."""
    given = given_geometry(arguments)
    from keras_cosmo.simulations.galactic import GalacticSkySimulator

    if not arguments.like:
        return GalacticSkySimulator(**given)
    like, velocities = sky_geometry_of(arguments.like)
    simulator = GalacticSkySimulator(**{**like, **given})
    chosen = {"channels", "velocity_low", "velocity_high"} & set(given)
    # A tenth of a channel of the survey.
    if not chosen and abs(simulator.velocities - velocities).max() > 0.13:
        raise ValueError(
            f"{arguments.like}: --like needs channels of one width made of those of HI4PI, got velocities "
            f"{velocities[0]:.3f} to {velocities[-1]:.3f} km/s. Give --channels, --velocity-low and --velocity-high."
        )
    return simulator


def sky_geometry_of(path: pathlib.Path):
    """Pixels, channels and low-pass of a database of skies, as arguments of a simulator; and its velocities."""
    import numpy as np

    from keras_cosmo.data.database import Database
    from keras_cosmo.data.sky_preparation import check_sky
    from keras_cosmo.simulations.galactic import SURVEY_STEP

    attributes = check_sky(Database(path)).attributes
    velocities = np.atleast_1d(attributes["velocities"])
    width = np.diff(velocities).mean() if len(velocities) > 1 else SURVEY_STEP
    # From the centre of the first channel of the survey to that of the last; rounding must not lose either.
    half = 0.5 * (width - SURVEY_STEP) + 0.1 * SURVEY_STEP
    geometry = {
        "nside": int(attributes["nside"]),
        "channels": len(velocities),
        "velocity_low": round(float(velocities[0] - half), 6),
        "velocity_high": round(float(velocities[-1] + half), 6),
    }
    for name in ("low_pass_ell", "low_pass_order"):
        if name in attributes:
            geometry[name] = float(attributes[name])
    return geometry, velocities


def main(argv=None) -> int:
    """Run the campaign; returns the exit status."""
    arguments = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from tqdm.contrib.logging import logging_redirect_tqdm

    from keras_cosmo.data.campaign import run_campaign
    from keras_cosmo.progress import progress_callback

    try:
        simulator = SIMULATORS[arguments.kind](arguments)
        jobs = slurm_jobs(arguments)
    except (ValueError, TypeError, FileNotFoundError) as error:
        return fail(message(error, arguments), 2)
    try:
        if arguments.print_job:
            print(jobs.script())
            return 0
        with logging_redirect_tqdm(), dask_workers(arguments, jobs) as cluster:
            path = run_campaign(
                simulator,
                arguments.out,
                count=arguments.count,
                seed=arguments.seed,
                workers=available_cores() if arguments.workers is None else arguments.workers,
                cluster=cluster,
                dtype=arguments.dtype,
                design=arguments.design,
                progress=progress_callback("simulation"),
            )
    except KeyboardInterrupt as error:
        return fail(message(error, arguments), 130)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        return fail(message(error, arguments), 1)
    shapes = ", ".join(
        f"{name} {field.shape} [{field.unit}]".removesuffix(" []") for name, field in simulator.fields.items()
    )
    print(f"{path}: {arguments.count} simulations x {simulator.maps_per_simulation} maps: {shapes}")
    return 0


SIMULATORS = {
    "lightcones": lightcone_simulator,
    "coeval": coeval_simulator,
    "lines": line_simulator,
    "hi-maps": hydrogen_simulator,
    "skies": sky_simulator,
}


def message(error: BaseException, arguments) -> str:
    """One line for an error, in the words of the command line.

    The operating system's own errors do not name their file in their text.
    """
    from keras_cosmo.tasks.command_line import as_flags

    text = getattr(error, "strerror", None) or str(error) or "Interrupted."
    if getattr(error, "filename", None):
        return f"{error.filename}: {text}"
    # These are names in a file.
    if "attribute" in text:
        return text
    # "maps" is a word of other messages too.
    names = {*GEOMETRY[arguments.kind], *vars(arguments)} - {"kind", "out", "maps"}
    return as_flags(text, {name: flag_of(name) for name in names})


if __name__ == "__main__":
    sys.exit(main())
