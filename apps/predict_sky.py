"""Predict the dust of a whole sky from its HI velocity cube with an exported network, and write it as HEALPix FITS.

    python apps/predict_sky.py --model saved_models/dust --data sky.h5 --out dust.fits
    python apps/predict_sky.py --model saved_models/dust --data skies.h5 --sky 3 --rotations 4 --out dust_3.fits

--data is a database of skies (apps/prepare_sky.py, or that which apps/train_dust.py simulates and names), with the
velocity channels that the network was trained on. Overlapping patches are predicted and blended; the columns of the
file are DUST, SCATTER (the standard deviation between patches) and PATCHES (their number), in RING order and galactic
coordinates, with healpy's bad value -1.6375e30 where the mask hides the sky (a weight below 0.5; all other weights
count as 1). The column UNSEEN is 1 in the half of the sky that the network was not trained on, where the model says
which that is. A picture of the prediction and the scatter, and of the dust of the database and the difference where it
has dust, lies beside it: dust.png beside dust.fits.

Exit status: 0 written, 1 failed with one line that says why, 2 wrong usage, 130 interrupted by Ctrl-C.
"""

import argparse
import logging
import os
import pathlib
import sys

from keras_cosmo.tasks.command_line import as_flags
from keras_cosmo.tasks.presets import Parser, fail

FLAGS = {
    "centres_nside": "--centres-nside",
    "rotations": "--rotations",
    "batch_size": "--batch-size",
}


def main(argv=None) -> int:
    """Predict and write; returns the exit status."""
    parser = Parser(prog="predict_sky.py", description=__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="SavedModel, or folder of its versions")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="database of skies")
    parser.add_argument("--sky", type=int, default=0, metavar="N", help="number of the sky in the database [0]")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("dust.fits"), metavar="FILE",
        help=".fits or .fits.gz to write; an existing file is replaced [dust.fits]",
    )  # fmt: skip
    parser.add_argument(
        "--centres-nside", type=int, default=None, metavar="NSIDE",
        help="patches are centred on the pixels of this HEALPix resolution [as fine as the patches need: 8]",
    )  # fmt: skip
    parser.add_argument(
        "--rotations", type=int, default=1, metavar="N", help="orientations in which each patch is predicted [1]"
    )
    parser.add_argument("--batch-size", type=int, default=16, metavar="PATCHES", help="patches per call [16]")
    parser.add_argument(
        "--figure", action=argparse.BooleanOptionalAction, default=True, help="draw the sky into a .png [yes]"
    )
    arguments = parser.parse_args(argv)

    logging.basicConfig(format="%(message)s")
    logging.getLogger("keras_cosmo").setLevel(logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras_cosmo.inference.sky_prediction import write_sky_prediction
    from keras_cosmo.progress import progress_callback

    try:
        facts = write_sky_prediction(
            arguments.model,
            arguments.data,
            arguments.out,
            sky=arguments.sky,
            centres_nside=arguments.centres_nside,
            rotations=arguments.rotations,
            batch_size=arguments.batch_size,
            progress=progress_callback("patch"),
        )
    except KeyboardInterrupt:
        return fail(f"stopped; {arguments.out} was not written.", 130)
    except (ValueError, OSError) as error:
        return fail(as_flags(" ".join(str(error).split()), FLAGS))
    except Exception as error:
        # TensorFlow has exceptions of its own, such as for memory; everything else is a defect.
        if not type(error).__module__.startswith("tensorflow"):
            raise
        return fail(f"{' '.join(str(error).split())[:300]} If memory is short, give a smaller --batch-size.")
    print(
        f"{arguments.out}: DUST [{facts['unit']}] on {100 * facts['share']:.1f} % of the sky, {facts['patches']:g} "
        f"patches at a typical pixel; {facts['trained']}"
    )
    if arguments.figure:
        try:
            picture = draw(arguments.data, arguments.sky, arguments.out, facts["unit"])
        except KeyboardInterrupt:
            return fail(f"stopped; {arguments.out} is there, the picture is not.", 130)
        except (ValueError, OSError) as error:
            return fail(f"{arguments.out} is there, the picture is not: {' '.join(str(error).split())}")
        print(f"{picture}: the same as a picture")
    return 0


def draw(data, sky, out, unit):
    """Draw a predicted sky beside its file, with the dust of the database where it has some; returns the path."""
    import healpy
    import numpy as np

    from keras_cosmo.data.database import Database
    from keras_cosmo.figures.dust import sky_maps
    from keras_cosmo.figures.style import save_png
    from keras_cosmo.files import written_aside

    predicted, scatter = (np.where(each > -1e30, each, np.nan) for each in healpy.read_map(out, field=(0, 1)))
    maps, shared = {"predicted dust": predicted}, ()
    database = Database(data)
    if "dust" in database.fields:
        dust = np.where(np.isfinite(predicted), database.read("dust", np.array([sky]))[0], np.nan)
        maps = {"dust of the database": dust, **maps, "difference": predicted - dust}
        shared = tuple(maps)[:2]
    maps["scatter between patches"] = scatter
    path = out.with_name(out.name.removesuffix(".gz").removesuffix(".fits") + ".png")
    with written_aside(path) as aside:
        save_png(sky_maps(maps, unit, shared=shared), aside)
    return path


if __name__ == "__main__":
    sys.exit(main())
