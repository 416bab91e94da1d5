"""Apply an exported SavedModel to maps and write its predictions as CSV.

    python apps/predict.py --model saved_models/lightcone_regressor --data cones.h5 --out predictions.csv

--data is a database (apps/simulate.py, apps/convert_lightcones.py). One row per map: its number,
its simulation, and every output under its name. The units are printed, and are in assets.extra/keras_cosmo.json of the
model.
"""

import pathlib
import sys

from keras_cosmo.tasks.presets import Parser, fail


def main(argv=None) -> int:
    """Predict and write; returns the exit status."""
    parser = Parser(prog="predict.py", description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="SavedModel, or folder of its versions")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="database of maps")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("predictions.csv"), help="CSV to write")
    parser.add_argument("--batch-size", type=int, default=64, help="maps per call [64]")
    arguments = parser.parse_args(argv)

    from keras_cosmo.inference.predictions import write_predictions

    try:
        units = write_predictions(arguments.model, arguments.data, arguments.out, arguments.batch_size)
    except (ValueError, OSError) as error:
        return fail(str(error))
    print(f"{arguments.out}: {', '.join(f'{name} [{unit}]' if unit else name for name, unit in units.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
