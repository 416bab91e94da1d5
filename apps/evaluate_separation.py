"""Measure a trained separation on maps from elsewhere, which it has never seen.

    python apps/convert_haloes.py CATALOGUES --out pinocchio.h5 --map-cells 64 --map-side 0.425
    python apps/evaluate_separation.py --run runs/separation-quick --data pinocchio.h5

Nothing is fitted to these maps. The folder --out (default <run>-on-<name of the data>) receives metrics.json, figures
and report.html. Exit status: 0 done, 1 failed with one line that says why, 2 wrong usage.
"""

import argparse
import logging
import os
import pathlib
import sys

from keras_cosmo.tasks.presets import Parser, fail


def main(argv=None) -> int:
    """Run from the command line; returns the exit status."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("keras_cosmo").setLevel(logging.INFO)
    parser = Parser(prog="evaluate_separation.py", description=__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("--run", type=pathlib.Path, required=True, help="run folder of apps/train_separation.py")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="database of line maps")
    parser.add_argument("--out", type=pathlib.Path, default=None, help="new folder")
    arguments = parser.parse_args(argv)
    out = arguments.out or arguments.run.with_name(f"{arguments.run.name}-on-{arguments.data.stem}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras_cosmo.tasks.separation_elsewhere import measure_elsewhere

    try:
        measure_elsewhere(arguments.run, arguments.data, out)
    except (ValueError, OSError) as error:
        return fail(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
