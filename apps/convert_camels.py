"""Turn maps of the CAMELS Multifield Dataset and the table of their parameters into one database.

    python apps/convert_camels.py Maps_HI_IllustrisTNG_LH_z=0.00.npy params_LH_IllustrisTNG.txt --out hi.h5
    python apps/convert_camels.py Images_HI_IllustrisTNG_z=5.99.npy CAMELs_params.csv --out hi.h5     files of HIGlow
    python apps/convert_camels.py Maps_Mtot_Nbody_SIMBA_LH_z=0.00.npy params_LH_SIMBA.txt --out m.h5 --simulations 0-99
    python apps/convert_camels.py MAPS.npy TABLE --out t.h5 --field T --redshift 1 --parameters Omega_m sigma_8

Maps are an array (15 for each row of the table, side, side), the 15 of a row one after another. The table has a row of
numbers per simulation, Omega_m sigma_8 A_SN1 A_AGN1 A_SN2 A_AGN2 in this order, or names in its first line. The four
amplitudes become labels as their logarithms, in which CAMELS spread them evenly.

Field, suite, set and redshift come from the name of the file; where it says others than --field or --redshift, or than
the name of the table, nothing is written. Maps larger than --side are averaged. Pixels that are zero or negative, of
which a flow cannot take the logarithm, are kept and reported; --floor raises them.

Labels are what the Latin hypercubes are uniform in: Omega_m, sigma_8 and the logarithms log10_A_SN1, log10_A_AGN1,
log10_A_SN2, log10_A_AGN2. --parameters takes the names of the columns of the table and those with log10_ before; A_SN1
and log10_A_SN1 mean the same label, the logarithm. If a simulation lies outside of the range of its suite, or a label
is equal in all of them, nothing is written.

Takes about as long as reading the maps, and the memory of one simulation. Until complete, the database is called
<out>.partial; run the same command again to resume. Exit status: 0 complete, 1 failed with one message that says why,
2 wrong usage.
"""

import argparse
import logging
import sys


def number_list(text: str) -> list[int]:
    """Numbers from text such as ``0-99,120``."""
    numbers = []
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()) or part.endswith("-"):
            raise argparse.ArgumentTypeError(f"expected numbers, such as 0-99 or 3,5,8-11, got {text!r}")
        if last and int(last) < int(first):
            raise argparse.ArgumentTypeError(f"expected the smaller number first, got {part!r}")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


# What the library says of its arguments, and the flag.
FLAGS = {
    **{name: "--" + name for name in ("field", "side", "simulations", "redshift", "floor")},
    **{f"Give {name}": f"Give --{name}" for name in ("field", "redshift")},
    "box_size": "--box-size",
    "parameter_names": "--parameters",
    "simulations out (simulations)": "simulations out (--simulations)",
}


def main(argv: list[str] | None = None) -> int:
    """Convert; returns the exit status."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, allow_abbrev=False)
    parser.add_argument("maps", help="file of maps, .npy")
    parser.add_argument("table", help="their parameters: params_*.txt, CosmoAstroSeed_*.txt or .csv")
    parser.add_argument("--out", required=True, metavar="FILE", help="database to make, .h5")
    parser.add_argument("--field", help="what is mapped, such as HI or Mgas (as the name of the maps says)")
    parser.add_argument(
        "--side", type=int, default=64, help="pixels along each side of the maps made; 0: as they are (%(default)s)"
    )
    parser.add_argument(
        "--simulations", type=number_list, nargs="+", metavar="N", help="rows of the table, such as 0-99 (all)"
    )
    parser.add_argument("--parameters", nargs="+", metavar="NAME", help="labels (of the six of CAMELS those that vary)")
    parser.add_argument("--redshift", type=float, metavar="Z", help="of the maps (as their name says)")
    parser.add_argument("--box-size", type=float, default=25.0, help="side of the maps in Mpc/h (%(default)s)")
    parser.add_argument(
        "--floor", type=float, metavar="VALUE", help="raise pixels below it to it, in the unit of the maps (none)"
    )
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the maps (%(default)s)")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from keras_cosmo.data.database import Database
    from keras_cosmo.data.formats.camels import convert_camels
    from keras_cosmo.progress import progress_callback
    from keras_cosmo.tasks.command_line import as_flags
    from keras_cosmo.tasks.presets import fail

    try:
        path = convert_camels(
            arguments.maps,
            arguments.table,
            arguments.out,
            field=arguments.field,
            side=arguments.side or None,
            simulations=None if arguments.simulations is None else [n for part in arguments.simulations for n in part],
            parameter_names=arguments.parameters,
            redshift=arguments.redshift,
            box_size=arguments.box_size,
            floor=arguments.floor,
            dtype=arguments.dtype,
            progress=progress_callback("simulation"),
        )
    except (OSError, ValueError, RuntimeError) as error:
        return fail(as_flags(str(error), FLAGS))
    database = Database(path)
    ((field, kind),) = database.fields.items()
    print(f"{path}: {database.n_simulations} simulations x 15 maps: {field} {kind.shape} [{kind.unit}]")
    print("labels: " + ", ".join(f"{label.name} {label.low:.4g} to {label.high:.4g}" for label in database.parameters))
    return 0


if __name__ == "__main__":
    sys.exit(main())
