"""Throughput of the input pipeline against copying the same batches from an array in memory.

Writes a database of about 1 GB, then alternates A (pipeline: shuffled reads from the file, through tf.data) and
B (NumPy: the same shuffled batches copied from memory), so that other load on the machine hits both alike.

    python benchmarks/pipeline_speed.py [--folder DIR] [--maps 1200] [--dtype float32] [--repeats 5]
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from keras_cosmo.data.database import Database, write_database
from keras_cosmo.data.pipeline import MapPipeline
from keras_cosmo.quantities import Parameter

SHAPE = (100, 2200)


def measure(function) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, help="where the file is written (default: a temporary folder)")
    parser.add_argument("--maps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = pathlib.Path(folder) / "speed.h5"
        maps = np.random.default_rng(0).standard_normal((arguments.maps, *SHAPE), np.float32)
        write_database(
            path, task="benchmark", fields={"density": (maps, "")}, parameters=(Parameter(name="a", low=0, high=1),),
            parameter_values=np.linspace(0, 1, arguments.maps)[:, None], simulation=np.arange(arguments.maps),
            attributes={}, dtype=arguments.dtype,
        )  # fmt: skip
        pipeline = MapPipeline(Database(path), "density", None, np.arange(arguments.maps), arguments.batch_size, seed=0)
        steps = pipeline.steps_per_epoch

        def from_file():
            for _ in pipeline.training(0, steps):
                pass

        def from_memory():
            for step in range(steps):
                maps[pipeline.step_indices(step)]

        gigabytes = steps * pipeline.batch_size * np.prod(SHAPE) * 4 / 1e9
        from_file()
        ratios = []
        for repeat in range(arguments.repeats):
            file, memory = measure(from_file), measure(from_memory)
            ratios.append(memory[0] / file[0])
            print(
                f"{repeat}: file {gigabytes / file[0]:.2f} GB/s ({gigabytes / file[1]:.2f} per CPU second), memory "
                f"{gigabytes / memory[0]:.2f} GB/s ({gigabytes / memory[1]:.2f}), ratio {ratios[-1]:.2f}"
            )
        print(f"pipeline / memory copy, median of {len(ratios)}: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
