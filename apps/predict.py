"""Apply an exported SavedModel to maps and write its predictions as CSV.

    python apps/predict.py --model saved_models/lightcone_regressor --data cones.h5 --out predictions.csv

--data is a database (apps/simulate.py, apps/convert_lightcones.py). One row per map: its number,
its simulation, and every output under its name. The units are printed, and are in assets.extra/keras_cosmo.json of the
model. Exit status: 0 written, 1 failed with one line that says why, 2 wrong usage, 130 interrupted by Ctrl-C.
"""

import argparse
import logging
import os
import pathlib
import sys

from keras_cosmo.tasks.presets import Parser, fail


def main(argv=None) -> int:
    """Predict and write; returns the exit status."""
    parser = Parser(prog="predict.py", description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="SavedModel, or folder of its versions")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="database of maps")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("predictions.csv"), help="CSV to write")
    parser.add_argument("--batch-size", type=positive_integer, default=64, metavar="MAPS", help="maps per call [64]")
    arguments = parser.parse_args(argv)

    logging.basicConfig(format="%(message)s")
    logging.getLogger("keras_cosmo").setLevel(logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras_cosmo.inference.predictions import write_predictions

    try:
        units = write_predictions(arguments.model, arguments.data, arguments.out, arguments.batch_size)
    except KeyboardInterrupt:
        return fail(f"stopped; {arguments.out} was not written.", 130)
    except (ValueError, OSError) as error:
        return fail(one_line(error))
    except Exception as error:
        # TensorFlow has exceptions of its own, such as for memory; everything else is a defect.
        if not type(error).__module__.startswith("tensorflow"):
            raise
        return fail(f"{one_line(error)[:300]} If memory is short, give a smaller --batch-size.")
    print(f"{arguments.out}: {', '.join(f'{name} [{unit}]' if unit else name for name, unit in units.items())}")
    return 0


def positive_integer(text: str) -> int:
    """An integer of at least 1, or wrong usage."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return value


def one_line(error: Exception) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
