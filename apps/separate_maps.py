"""Separate your own observed intensity maps into maps of emission lines, with an exported network.

    python apps/separate_maps.py --model saved_models/separation --data observed.fits --out separated.fits
    python apps/separate_maps.py --model saved_models/separation_ensemble --data maps.npy --out separated.npz
    python apps/separate_maps.py --model saved_models/separation --data maps.h5 --field observed --out separated.h5

--data is a FITS image, an array (height, width) or (n, height, width) in .npy, or a database of maps, all of the number
and size of pixels that the network was trained on, in erg s^-1 cm^-2 sr^-1 (a FITS image is converted by its BUNIT).
--out receives one array per line and the residual, in the same unit, and what is known of the model. Warnings say
where the maps are not like those of the training. Exit status: 0 written, 1 failed with one line that says why, 2 wrong
usage, 130 interrupted by Ctrl-C.
"""

import argparse
import logging
import os
import pathlib
import sys

from keras_cosmo.tasks.command_line import as_flags
from keras_cosmo.tasks.presets import Parser, fail


def main(argv=None) -> int:
    """Separate and write; returns the exit status."""
    parser = Parser(prog="separate_maps.py", description=__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="SavedModel, or folder of its versions")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="observed maps: .fits, .npy or database (.h5)")
    parser.add_argument("--field", default=None, help="field of the database [intensity, observed, or the only one]")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("separated.h5"), help=".h5, .fits or .npz [separated.h5]"
    )
    parser.add_argument("--batch-size", type=int, default=16, metavar="MAPS", help="maps per call [16]")
    arguments = parser.parse_args(argv)

    logging.basicConfig(format="%(message)s")
    logging.getLogger("keras_cosmo").setLevel(logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras_cosmo.inference.separated_maps import separate_maps

    try:
        units = separate_maps(arguments.model, arguments.data, arguments.out, arguments.field, arguments.batch_size)
    except KeyboardInterrupt:
        return fail(f"stopped; {arguments.out} was not written.", 130)
    except (ValueError, OSError) as error:
        return fail(as_flags(" ".join(str(error).split()), {"field": "--field", "`batch_size`": "--batch-size"}))
    except Exception as error:
        # TensorFlow has exceptions of its own, such as for memory; everything else is a defect.
        if not type(error).__module__.startswith("tensorflow"):
            raise
        return fail(f"{' '.join(str(error).split())[:300]} If memory is short, give a smaller --batch-size.")
    print(f"{arguments.out}: {', '.join(f'{name} [{unit}]' for name, unit in units.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
