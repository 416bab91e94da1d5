"""Turn light-cone files of 21cmFAST (3.x or 4.x, written by LightCone.save) into one database of images.

    python apps/convert_lightcones.py MY_CONES/ --out cones.h5                         5 slices 60 Mpc apart, halved
    python apps/convert_lightcones.py MY_CONES/ --out cones.h5 --slices 2 --parts 1    for smaller boxes
    python apps/train_regression.py --data cones.h5                                    then

Takes about as long as copying the slices. Until complete, the database is called <out>.partial; run the same command
again to resume. Exit status: 0 complete, 1 failed with one message that says why, 2 wrong usage.
"""

import argparse
import logging
import sys

PARAMETERS = ("zeta", "log10_L_X", "log10_T_vir", "E_0")


def main(argv: list[str] | None = None) -> int:
    """Convert; returns the exit status."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, allow_abbrev=False)
    parser.add_argument("sources", nargs="+", help="a folder of light-cone files, or the files")
    parser.add_argument("--out", required=True, metavar="FILE", help="database to make, .h5")
    parser.add_argument("--slices", type=int, default=5, help="slices per transverse axis (%(default)s)")
    parser.add_argument("--spacing", type=float, default=60.0, help="distance between slices [Mpc] (%(default)s)")
    parser.add_argument("--parts", type=int, default=2, help="images each slice is cut into (%(default)s)")
    parser.add_argument("--axes", type=int, nargs="+", default=[0], help="axes normal to the slices: 0, 1 or 0 1 (0)")
    parser.add_argument("--parameters", nargs="+", choices=PARAMETERS, default=PARAMETERS, help="labels (all)")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the maps (%(default)s)")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from keras_cosmo.data.formats.lightcone_folder import convert_lightcones
    from keras_cosmo.progress import progress_callback
    from keras_cosmo.simulations.lightcones import LIGHTCONE_PARAMETERS
    from keras_cosmo.tasks.command_line import as_flags
    from keras_cosmo.tasks.presets import fail

    try:
        path = convert_lightcones(
            arguments.sources[0] if len(arguments.sources) == 1 else arguments.sources,
            arguments.out,
            parameters=[each for each in LIGHTCONE_PARAMETERS if each.name in arguments.parameters],
            slices=arguments.slices,
            spacing=arguments.spacing,
            parts=arguments.parts,
            axes=tuple(arguments.axes),
            dtype=arguments.dtype,
            progress=progress_callback("light-cone"),
        )
    except (OSError, ValueError, RuntimeError) as error:
        names = vars(arguments).keys() - {"sources", "out"}
        return fail(as_flags(str(error), {name: "--" + name.replace("_", "-") for name in names}))
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
