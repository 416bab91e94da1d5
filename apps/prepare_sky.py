r"""Turn the HI cube of a survey, a dust map and a mask into one sky for apps/train_dust.py, as Zhang et al. 2019 do.

    python apps/prepare_sky.py --cube ALLSKY_CAR.fits --dust COM_CompMap_ThermalDust-commander_2048_R2.00.fits \
        --mask HFI_Mask_GalPlane-apo0_2048_R2.00.fits --mask-column GAL070 --nside 1024 --workers 4 --out sky.h5
    python apps/prepare_sky.py --cube CAR_*.fits --dust dust.fits --mask mask.fits --nside 1024 --out sky.h5    tiles
    python apps/prepare_sky.py --cube cube.npy --cube-velocities velocities.txt --ordering RING \
        --coordinates galactic --dust dust.fits --nside 128 --low-pass 0 --out sky.h5                no mask, no filter

The cube is an HI4PI cube or its tiles in FITS, HEALPix tables with a spectrum per pixel, or .npy (channels, pixels).
Channels from -64.5 to 17 km/s are put on HEALPix pixels, filtered below multipole 460, and so is the dust; pixels
without data get weight 0 in the mask. At nside 1024 with 64 channels the file has 3.3 GB, and as much again is needed
beside it until it is complete; tables with a spectrum per pixel need 3.2 GB more in the temporary folder (TMPDIR).
There, the 65 filters take about 17 s of processor time each, 20 minutes in all on one core; --workers shares them.

Until then it is called <out>.partial, with a folder <out>.partial.planes; after a kill, the same command with --resume
goes on. Exit status: 0 complete, 1 failed with one message that says why, 2 wrong usage, 130 interrupted.
"""

import argparse
import logging
import sys

ORDERINGS = ("RING", "NESTED")
COORDINATES = ("galactic", "equatorial", "ecliptic")
# Arguments that messages of the library name.
FLAGS = {
    "low_pass_ell": "--low-pass",
    "low_pass_order": "--low-pass-order",
    "cutoff": "--low-pass",
    "velocity_low and velocity_high": "--velocities",
    "cube_velocities": "--cube-velocities",
    "(column=...)": "(--cube-column, --dust-column or --mask-column)",
    "velocities": "--cube-velocities",
    "ordering": "--ordering",
    "coordinates": "--coordinates",
    "nside": "--nside",
    "paths": "--cube",
}


def main(argv: list[str] | None = None) -> int:
    """Prepare; returns the exit status."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, allow_abbrev=False)
    parser.add_argument("--cube", nargs="+", required=True, metavar="FILE", help="HI cube, its tiles, or their folder")
    parser.add_argument("--cube-velocities", metavar="FILE", help="km/s of each channel, text or .npy, for .npy cubes")
    parser.add_argument("--cube-column", metavar="NAME", help="column of spectra, for HEALPix tables with several")
    parser.add_argument("--dust", required=True, metavar="FILE", help="dust map, HEALPix FITS in uK_RJ")
    parser.add_argument("--dust-column", metavar="NAME", help="its column (that of the dust intensity)")
    parser.add_argument("--mask", metavar="FILE", help="0..1, HEALPix FITS; from 0.5 on used (all pixels with data)")
    parser.add_argument("--mask-column", metavar="NAME", help="its column, needed if there are several")
    parser.add_argument("--nside", type=int, help="of the sky; paper: 1024 (that of the files, if it is the same)")
    parser.add_argument(
        "--velocities", nargs=2, type=float, default=[-64.5, 17.0], metavar=("LOW", "HIGH"),
        help="channels with their centre in this range, in km/s (-64.5 17)",
    )  # fmt: skip
    parser.add_argument("--low-pass", type=float, default=460.0, metavar="ELL", help="Butterworth, 0 = none (460)")
    parser.add_argument("--low-pass-order", type=float, default=4.0, metavar="ORDER", help="of the filter (4)")
    parser.add_argument("--ordering", choices=ORDERINGS, help="of HEALPix files whose header has none")
    parser.add_argument("--coordinates", choices=COORDINATES, help="likewise")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the channels (%(default)s)")
    parser.add_argument("--out", required=True, metavar="FILE", help="database to make, .h5")
    parser.add_argument("--resume", action="store_true", help="go on with what was begun")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # It tells of every single transform.
    logging.getLogger("healpy").setLevel(logging.WARNING)

    from keras_cosmo.data.sky_preparation import prepare_sky, summarize_sky
    from keras_cosmo.progress import progress_callback
    from keras_cosmo.tasks.command_line import as_flags
    from keras_cosmo.tasks.presets import fail

    try:
        path = prepare_sky(
            arguments.out,
            cube=arguments.cube,
            dust=arguments.dust,
            mask=arguments.mask,
            cube_velocities=arguments.cube_velocities,
            cube_column=arguments.cube_column,
            dust_column=arguments.dust_column,
            mask_column=arguments.mask_column,
            ordering=arguments.ordering,
            coordinates=arguments.coordinates,
            nside=arguments.nside,
            velocities=tuple(arguments.velocities),
            low_pass_ell=arguments.low_pass,
            low_pass_order=arguments.low_pass_order,
            workers=arguments.workers,
            resume=arguments.resume,
            progress=progress_callback("map"),
        )
        print(summarize_sky(path))
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        return fail(as_flags(str(error), FLAGS))
    except KeyboardInterrupt:
        return fail("interrupted. What is done is kept; give --resume to go on.", 130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
