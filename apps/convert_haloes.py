"""Paint halo catalogues of PINOCCHIO with emission lines, many projections of each, into one database.

    python apps/convert_haloes.py RUNS/ --out haloes.h5                     Halpha and [OIII] at 1.5 um, 100 projections
    python apps/convert_haloes.py RUNS/ --out haloes.h5 --lines halpha oiii oii --projections 10
    python apps/convert_haloes.py RUNS/ --out haloes.h5 --luminosity-table halpha.ecsv oiii.ecsv
    python apps/convert_haloes.py RUNS/ --out haloes.h5 --box-size 416 --hubble 0.673     without parameter files

RUNS holds files pinocchio.<redshift>.<run>.catalog.out, ascii or binary, of PINOCCHIO 4 or 5, and the parameter files
they were made with, in subfolders if you like. Each line needs a catalogue within 0.02 of the redshift it is seen from:
1.286 (Halpha), 1.996 ([OIII]), 3.025 ([OII]) at 1.5 um. Cosmology, size of the box and units come from the parameter
files. All projections of the catalogues of one run count as one simulation.

Luminosities come from published star formation rates, or from a table per line, ECSV or CSV: log10M_lo and log10M_hi
[Msun], L_mean and L_std [erg/s], header keys line, redshift, and dust ("applied" or "not applied").

Until complete, the database is called <out>.partial; run the same command again to resume. Exit status: 0 complete,
1 failed with one message that says why, 2 wrong usage.
"""

import argparse
import logging
import sys

# As keras_cosmo.simulations.emission_lines.LINES, which would make --help wait for NumPy.
LINES = ("halpha", "oiii", "oii")
# As keras_cosmo.simulations.halo_luminosity.RELATIONS.
RELATIONS = ("gong2017", "silva2015")
# What the library calls otherwise than the flag.
OTHER_NAMES = {"scatter": "--luminosity-scatter", "a LuminosityTable": "--luminosity-table"}


def main(argv: list[str] | None = None) -> int:
    """Convert; returns the exit status."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, allow_abbrev=False)
    parser.add_argument("sources", nargs="+", help="a folder of catalogues, or files and folders")
    parser.add_argument("--out", required=True, metavar="FILE", help="database to make, .h5")
    parser.add_argument("--projections", type=int, default=100, help="maps per simulation and line (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of projections and luminosities (%(default)s)")
    parser.add_argument("--lines", nargs="+", choices=LINES, default=["halpha", "oiii"], help="(halpha oiii)")
    parser.add_argument("--observed-wavelength", type=float, default=1.5, help="in um (%(default)s)")
    parser.add_argument("--resolving-power", type=float, default=40.0, help="of the channel (%(default)s)")
    parser.add_argument("--map-cells", type=int, default=256, help="pixels along a side of a map (%(default)s)")
    parser.add_argument("--map-side", type=float, default=1.7, help="of a map, in degrees (%(default)s)")
    parser.add_argument("--beam-sigma", type=float, default=1.2, help="Gaussian beam, in arcmin (%(default)s)")
    parser.add_argument("--minimum-mass", type=float, metavar="MSUN", help="of haloes that shine (3e10 Msun/h)")
    parser.add_argument("--no-unsmoothed", action="store_true", help="leave out the maps before the beam")
    parser.add_argument("--relation", choices=RELATIONS, default=RELATIONS[0], help="without table (%(default)s)")
    parser.add_argument("--luminosity-scatter", type=float, default=0.3, metavar="DEX", help="likewise (%(default)s)")
    parser.add_argument("--luminosity-table", nargs="+", default=[], metavar="FILE", help="tables, one line each")
    parser.add_argument("--box-size", type=float, metavar="MPC", help="comoving side of the boxes in Mpc, not Mpc/h")
    parser.add_argument("--hubble", type=float, metavar="H", help="h of the catalogues, such as 0.673")
    parser.add_argument("--mass-unit", choices=("Msun", "Msun/h"), help="of binary catalogues without parameter file")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from keras_cosmo.data.formats.halo_folder import convert_halo_catalogues
    from keras_cosmo.progress import progress_callback
    from keras_cosmo.tasks.command_line import as_flags
    from keras_cosmo.tasks.presets import fail

    sources = arguments.sources[0] if len(arguments.sources) == 1 else arguments.sources
    try:
        path = convert_halo_catalogues(
            sources,
            arguments.out,
            simulator=make_simulator(sources, arguments),
            projections=arguments.projections,
            seed=arguments.seed,
            box_size=arguments.box_size,
            hubble=arguments.hubble,
            mass_unit=arguments.mass_unit,
            progress=progress_callback("simulation"),
        )
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        names = {name: "--" + name.replace("_", "-") for name in vars(arguments) if name not in ("sources", "out")}
        return fail(as_flags(str(error), names | OTHER_NAMES))
    print(path)
    return 0


def make_simulator(sources, arguments):
    """What paints, in the cosmology of the haloes."""
    import dataclasses

    from keras_cosmo.data.formats.halo_folder import halo_cosmology
    from keras_cosmo.simulations.line_intensity import LineIntensitySimulator
    from keras_cosmo.tasks.halo_light import halo_luminosity

    options = {} if arguments.minimum_mass is None else {"minimum_mass": arguments.minimum_mass}
    simulator = LineIntensitySimulator(
        lines=tuple(arguments.lines),
        observed_wavelength=arguments.observed_wavelength,
        resolving_power=arguments.resolving_power,
        map_cells=arguments.map_cells,
        map_side=arguments.map_side,
        beam_sigma=arguments.beam_sigma,
        unsmoothed=not arguments.no_unsmoothed,
        luminosity=halo_luminosity(arguments, arguments.lines),
        **options,
    )
    known = halo_cosmology(sources)
    if not known and arguments.hubble is not None:
        known = {"h": arguments.hubble}
    return dataclasses.replace(simulator, cosmology=dataclasses.replace(simulator.cosmology, **known))


if __name__ == "__main__":
    sys.exit(main())
