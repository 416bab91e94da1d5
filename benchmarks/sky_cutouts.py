"""Cutouts per second from a whole-sky cube in a file, against healpy's own projector.

    python benchmarks/sky_cutouts.py [--folder DIR] [--nside 128] [--dtype float32] [--rounds 2] [--json FILE]

Writes a synthetic sky of 64 channels (50 MB at nside 128, 3.2 GB at nside 1024), and cuts maps out of it: the pipeline
all channels of a pixel at once, from the memory-mapped file, with the nearest pixel, bilinear, or from fresh centres
(one new cutout per map and epoch); healpy's projector map after map. healpy only projects some of the channels, from
maps in memory that are contiguous, and its time is scaled to all of them. ``load`` is the pipeline's own work,
``tf.data`` what a training gets; both per second of the processor. ``drawing`` is the choice of centres and rotations.
"""

import pathlib
import sys
import tempfile
import time

import side_by_side

BLOCK_PIXELS = 2**18
PAPER_CUTOUTS = 50000
WHO = {
    "nearest": {"interpolation": "nearest"},
    "bilinear": {"interpolation": "bilinear"},
    "nearest, fresh": {"interpolation": "nearest", "fresh": True},
    "healpy": None,
}
REFERENCE = "healpy"


def write_sky(path: pathlib.Path, nside: int, channels: int, dtype: str) -> None:
    """A sky of random numbers, of which a tenth is masked, block by block."""
    import h5py
    import healpy
    import numpy as np

    pixels = healpy.nside2npix(nside)
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for name, shape, unit in (("hi_cube", (channels,), "K"), ("dust", (), "uK_RJ"), ("mask", (), "")):
            dataset = file.create_dataset(f"maps/{name}", (1, pixels, *shape), dtype)
            dataset.attrs["units"] = unit
            for first in range(0, pixels, BLOCK_PIXELS):
                block = slice(first, min(first + BLOCK_PIXELS, pixels))
                values = generator.random((block.stop - block.start, *shape), np.float32)
                dataset[0, block] = values > 0.1 if name == "mask" else values
        parameters = file.create_dataset("parameters", (1, 0), np.float64)
        for name in ("names", "units"):
            parameters.attrs.create(name, [], shape=(0,), dtype=h5py.string_dtype())
        for name in ("prior_low", "prior_high"):
            parameters.attrs[name] = np.zeros(0)
        file["simulation"] = np.zeros(1, np.int64)
        file.attrs.update({"status": "complete", "task": "dust", "nside": nside, "ordering": "RING"})


def measure(request: dict) -> dict:
    """Cutouts per processor second."""
    from keras_cosmo.data.database import Database
    from keras_cosmo.data.sky_areas import north_south
    from keras_cosmo.data.sky_pipeline import draw_cutouts
    from keras_cosmo.gnomonic import GnomonicGrid

    grid, database = GnomonicGrid(), Database(request["file"])
    count = request["batch_size"] * request["steps"]
    begin = time.process_time()
    cutouts = draw_cutouts(database, [0], north_south()[0], grid, count, seed=0)
    found = {"drawing_per_second": count / (time.process_time() - begin)}
    if request["who"] == REFERENCE:
        found["load_per_second"] = with_healpy(request, database, cutouts.take(request["healpy_cutouts"]), grid)
    else:
        found.update(with_pipeline(request, database, cutouts, grid))
    return {**found, "peak_gigabytes": side_by_side.peak_gigabytes()}


def with_pipeline(request, database, cutouts, grid) -> dict:
    """The pipeline alone, and through tf.data."""
    from keras_cosmo.data.sky_pipeline import SkyPipeline

    pipeline = SkyPipeline(database, cutouts, grid, request["batch_size"], seed=0, **WHO[request["who"]])
    count, steps = request["batch_size"] * request["steps"], request["steps"]

    def directly():
        for step in range(steps):
            pipeline.load(step)

    def through_datasets():
        for _ in pipeline.training(0, steps):
            pass

    directly()
    return {
        "load_per_second": count / side_by_side.fastest(directly, request["seconds"]),
        "tf_data_per_second": count / side_by_side.fastest(through_datasets, request["seconds"]),
    }


def with_healpy(request, database, cutouts, grid) -> float:
    """Cutouts per second of its projector, if it did all channels."""
    import healpy
    import numpy as np
    from healpy.projector import GnomonicProj

    nside, channels = request["nside"], request["channels"]
    projected = min(request["healpy_channels"], channels)
    cube = database.memory_map("hi_cube")[0]
    maps = [np.array(cube[:, channel], np.float32) for channel in range(projected)]

    def project():
        for where in zip(cutouts.longitude, cutouts.latitude, cutouts.rotation, strict=True):
            projector = GnomonicProj(rot=where, xsize=grid.side, reso=grid.pixel_size)
            for values in maps:
                projector.projmap(values, lambda x, y, z: healpy.vec2pix(nside, x, y, z))

    return len(cutouts) * projected / channels / side_by_side.fastest(project, request["seconds"])


def compare(arguments) -> dict:
    """Measure the pipeline in three settings, and healpy, and print the table."""
    names = ("nside", "channels", "dtype", "batch_size", "steps", "healpy_cutouts", "healpy_channels", "seconds")
    common = {name: getattr(arguments, name) for name in names}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = pathlib.Path(folder) / "sky.h5"
        write_sky(path, arguments.nside, arguments.channels, arguments.dtype)
        gigabytes = path.stat().st_size / 1e9
        requests = {who: {**common, "file": str(path), "who": who} for who in WHO}
        results = side_by_side.alternate(__file__, requests, arguments.rounds)
    rows = []
    for who, measured in results.items():
        best = side_by_side.merged(measured)
        ratio = side_by_side.ratio(results, who, REFERENCE, "load_per_second")
        row = [who, best["load_per_second"], ratio, best.get("tf_data_per_second")]
        rows.append([*row, best["drawing_per_second"], best["peak_gigabytes"]])
    print(f"\ncutouts per second: nside {arguments.nside}, {arguments.channels} channels, {arguments.dtype}")
    print(side_by_side.table(["", "load", "ratio", "tf.data", "drawing", "peak, GB"], rows))
    stored = PAPER_CUTOUTS * 64**2 * (arguments.channels + 1) * 4 / 1e9
    print(f"file: {gigabytes:.2f} GB; {PAPER_CUTOUTS:,} stored cutouts: {stored:.1f} GB")
    print("the peak counts pages of the mapped file, which the system can drop")
    return {"request": common, "rows": results, "file_gigabytes": gigabytes, "stored_gigabytes": stored}


def main(argv=None) -> int:
    """Measure the pipeline and healpy in turn."""
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--folder", type=pathlib.Path, help="where the file is written (default: a temporary folder)")
    parser.add_argument("--nside", type=int, default=128)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="batches per measurement")
    parser.add_argument("--healpy-cutouts", type=int, default=16, help="cutouts per measurement of healpy")
    parser.add_argument("--healpy-channels", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="processor time of one measurement, at least")
    return side_by_side.run(parser.parse_args(argv), measure, compare)


if __name__ == "__main__":
    sys.exit(main())
