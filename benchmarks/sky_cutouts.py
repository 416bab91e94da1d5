"""Cutouts per second from a whole-sky cube in a file, against healpy's own projector.

Writes a synthetic sky of 64 channels (50 MB at nside 128, 3.2 GB at nside 1024), then alternates A (the pipeline: all
channels of a pixel at once, from the memory-mapped file) and B (healpy's projector, map after map), so that other load
on the machine hits both alike. B only projects some of the channels, from maps in memory that are contiguous, and its
time is scaled to all of them.

    python benchmarks/sky_cutouts.py [--folder DIR] [--nside 128] [--dtype float32] [--repeats 5]
"""

import argparse
import os
import pathlib
import resource
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import healpy
import numpy as np
from healpy.projector import GnomonicProj

from keras_cosmo.data.database import Database
from keras_cosmo.data.sky_areas import north_south
from keras_cosmo.data.sky_pipeline import SkyPipeline, draw_cutouts
from keras_cosmo.gnomonic import GnomonicGrid

BLOCK_PIXELS = 2**18
PAPER_CUTOUTS = 50000


def write_sky(path: pathlib.Path, nside: int, channels: int, dtype: str) -> None:
    """A sky of random numbers, of which a tenth is masked, block by block."""
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


def measure(function) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def memory() -> str:
    """Peak memory of this process; mapped pages of files count, once per pipeline, though they can be dropped."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    status = pathlib.Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    parts = {line.split()[0]: int(line.split()[1]) / 2**20 for line in lines if line.startswith("Rss")}
    now = ", ".join(f"{name[3:-1].lower()} {size:.2f}" for name, size in parts.items())
    return f"peak {peak:.2f} GB; now, in GB: {now}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, help="where the file is written (default: a temporary folder)")
    parser.add_argument("--nside", type=int, default=128)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="batches per measurement")
    parser.add_argument("--healpy-cutouts", type=int, default=16, help="cutouts per measurement of healpy")
    parser.add_argument("--healpy-channels", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    grid = GnomonicGrid()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = pathlib.Path(folder) / "sky.h5"
        write_sky(path, arguments.nside, arguments.channels, arguments.dtype)
        database = Database(path)
        count = arguments.batch_size * arguments.steps
        began = time.perf_counter()
        cutouts = draw_cutouts(database, [0], north_south()[0], grid, count, seed=0)
        print(f"drawing {count} cutouts: {count / (time.perf_counter() - began):.0f} per second")
        projected = min(arguments.healpy_channels, arguments.channels)
        cube = database.memory_map("hi_cube")[0]
        maps = [np.array(cube[:, channel], np.float32) for channel in range(projected)]
        first = cutouts.take(arguments.healpy_cutouts)

        def with_healpy():
            for where in zip(first.longitude, first.latitude, first.rotation, strict=True):
                projector = GnomonicProj(rot=where, xsize=grid.side, reso=grid.pixel_size)
                for values in maps:
                    projector.projmap(values, lambda x, y, z: healpy.vec2pix(arguments.nside, x, y, z))

        def rate(seconds, number):
            return number / seconds[0], number / seconds[1]

        options = {
            "nearest": {"interpolation": "nearest"},
            "bilinear": {"interpolation": "bilinear"},
            "nearest, fresh": {"interpolation": "nearest", "fresh": True},
        }
        for name, option in options.items():
            pipeline = SkyPipeline(database, cutouts, grid, arguments.batch_size, seed=0, **option)

            def directly(pipeline=pipeline):
                for step in range(arguments.steps):
                    pipeline.load(step)

            def through_datasets(pipeline=pipeline):
                for _ in pipeline.training(0, arguments.steps):
                    pass

            directly()
            ratios = []
            for repeat in range(arguments.repeats):
                ours, theirs = measure(directly), measure(with_healpy)
                datasets = rate(measure(through_datasets), count)
                ours = rate(ours, count)
                theirs = rate(theirs, len(first) * projected / arguments.channels)
                ratios.append(ours[1] / theirs[1])
                print(
                    f"{name}, {repeat}: pipeline {ours[0]:.0f} cutouts/s ({ours[1]:.0f} per CPU second), through "
                    f"tf.data {datasets[0]:.0f} ({datasets[1]:.0f}), healpy {theirs[0]:.1f} ({theirs[1]:.1f}), ratio "
                    f"of CPU time {ratios[-1]:.0f}"
                )
            print(f"{name}: pipeline / healpy, median of {len(ratios)}: {statistics.median(ratios):.0f}")
        print(f"memory: {memory()}")
        stored = PAPER_CUTOUTS * grid.side**2 * (arguments.channels + 1) * 4
        print(f"file: {path.stat().st_size / 1e9:.2f} GB; {PAPER_CUTOUTS} stored cutouts: {stored / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
