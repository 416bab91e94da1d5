"""Turn coeval boxes of 21cmFAST into one database of 21-cm maps and of the matter maps behind them.

    python apps/convert_coeval.py BOXES/ --out b.h5 --velocity-gradient apply                   21cmFAST 4, Coeval.save
    python apps/convert_coeval.py CACHE/ --out b.h5 --velocity-gradient apply --redshifts 15    21cmFAST 4, its cache
    python apps/convert_coeval.py BOXES/ --out b.h5                                             21cmFAST 3, Coeval.save
    python apps/convert_coeval.py RUNS/ --out b.h5 --redshifts 15.78         C code 1.2 to 2.1, Simulation_<i>/Boxes/...

21cmFAST 4 saves the brightness temperature in real space and does not say so: --velocity-gradient "apply" makes it as
seen in redshift space. Boxes of the C code need params_simulation_mturn_lumx_ngamma.txt beside the folders
Simulation_<i>, or --parameter-table; --parameters with nothing behind it converts them without labels.

Takes about as long as reading the boxes. Until complete, the database is called <out>.partial; run the same command
again to resume. Exit status: 0 complete, 1 failed with one message that says why, 2 wrong usage.
"""

import argparse
import logging
import sys

PARAMETERS = ("log10_L_X", "log10_M_min", "log10_N_gamma")


def redshift_list(text: str) -> tuple[float, ...]:
    """Numbers from text such as ``10,15,20``."""
    try:
        return tuple(float(number) for number in text.replace(",", " ").split())
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected numbers, such as 10 15 20 or 10,15,20, got {text!r}; give the boxes before the flags"
        ) from error


def main(argv: list[str] | None = None) -> int:
    """Convert; returns the exit status."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, allow_abbrev=False)
    parser.add_argument("sources", nargs="+", help="a folder of boxes, or files and folders")
    parser.add_argument("--out", required=True, metavar="FILE", help="database to make, .h5")
    parser.add_argument(
        "--redshifts", type=redshift_list, nargs="+", metavar="Z", help="which to take, such as 10 15 20 (all)"
    )
    parser.add_argument("--slabs", type=int, default=20, help="slabs of each box, one map each (%(default)s)")
    parser.add_argument("--slab-cells", type=int, default=4, help="cells that a slab is thick (%(default)s)")
    parser.add_argument("--projection", choices=("mean", "sum"), default="mean", help="of a slab (%(default)s)")
    parser.add_argument(
        "--velocity-gradient",
        choices=("included", "apply", "absent"),
        help="of the brightness temperature: in the files, to be applied here, or neither (as the files say)",
    )
    parser.add_argument("--parameters", nargs="*", choices=PARAMETERS, default=PARAMETERS, help="labels (all)")
    parser.add_argument("--parameter-table", metavar="FILE", help="parameters of boxes of the C code")
    parser.add_argument("--allow-repeated-seeds", action="store_true", help="go on if simulations share a random seed")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the maps (%(default)s)")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from keras_cosmo.data.formats.coeval_folder import convert_coeval
    from keras_cosmo.progress import progress_callback
    from keras_cosmo.simulations.coeval import COEVAL_PARAMETERS
    from keras_cosmo.tasks.command_line import as_flags
    from keras_cosmo.tasks.presets import fail

    try:
        path = convert_coeval(
            arguments.sources[0] if len(arguments.sources) == 1 else arguments.sources,
            arguments.out,
            parameters=[each for each in COEVAL_PARAMETERS if each.name in arguments.parameters],
            redshifts=None if arguments.redshifts is None else [z for part in arguments.redshifts for z in part],
            slabs=arguments.slabs,
            slab_cells=arguments.slab_cells,
            projection=arguments.projection,
            velocity_gradient=arguments.velocity_gradient,
            parameter_table=arguments.parameter_table,
            allow_repeated_seeds=arguments.allow_repeated_seeds,
            dtype=arguments.dtype,
            progress=progress_callback("simulation"),
        )
    except (OSError, ValueError, RuntimeError) as error:
        names = vars(arguments).keys() - {"sources", "out"}
        flags = {name: "--" + name.replace("_", "-") for name in names}
        return fail(as_flags(str(error), {"no parameters": "--parameters without names"} | flags))
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
