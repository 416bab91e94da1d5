"""Throughput of the input pipeline against plain sequential reads of the same file, and against copies in memory.

    python benchmarks/pipeline_speed.py [--folder DIR] [--maps 600] [--dtype float32] [--rounds 3] [--json FILE]

Writes a database (0.5 GB) and goes through it in three ways, in turn: the pipeline reads whole epochs of batches in
random order and hands them on through tf.data; ``sequential`` reads the file from its beginning to its end into one
buffer the size of a batch and does nothing with it, which is the most a disk can give; ``memory`` copies the pipeline's
batches from an array in memory. Gigabytes are those of the file, per second of the clock and of the processor. After
the first pass the file lies in the system's cache, so that this is not the speed of the disk, but that of everything
above it; for the disk itself take a file larger than the memory.
"""

import pathlib
import sys
import tempfile
import time

import side_by_side

SHAPE = (100, 2200)
WHO = ("pipeline", "sequential", "memory")


def measure(request: dict) -> dict:
    """Gigabytes of the file per second, of the best of some passes."""
    function = {"pipeline": through_pipeline, "sequential": sequentially, "memory": from_memory}[request["who"]](
        request
    )
    size = 2 if request["dtype"] == "float16" else 4
    gigabytes = request["maps"] // request["batch_size"] * request["batch_size"] * SHAPE[0] * SHAPE[1] * size / 1e9
    function()
    wall, processor = [], []
    for _ in range(request["passes"]):
        begin = time.perf_counter(), time.process_time()
        function()
        wall.append(time.perf_counter() - begin[0])
        processor.append(time.process_time() - begin[1])
    return {
        "clock_per_second": gigabytes / min(wall),
        "processor_per_second": gigabytes / min(processor),
        "peak_gigabytes": side_by_side.peak_gigabytes(),
    }


def pipeline(request):
    """The input pipeline of a training."""
    import numpy as np

    from keras_cosmo.data.database import Database
    from keras_cosmo.data.pipeline import MapPipeline

    maps = np.arange(request["maps"])
    return MapPipeline(Database(request["file"]), "density", None, maps, request["batch_size"], seed=0)


def through_pipeline(request):
    """One epoch in random order, as a training gets it."""
    import itertools

    batches = pipeline(request)
    epochs = itertools.count()

    def one_epoch():
        first = next(epochs) * batches.steps_per_epoch
        for _ in batches.training(first, first + batches.steps_per_epoch):
            pass

    return one_epoch


def sequentially(request):
    """The whole file in one go."""
    size = 2 if request["dtype"] == "float16" else 4
    buffer = bytearray(request["batch_size"] * SHAPE[0] * SHAPE[1] * size)

    def whole_file():
        with pathlib.Path(request["file"]).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    return whole_file


def from_memory(request):
    """The same batches from an array."""
    import numpy as np

    batches = pipeline(request)
    maps = np.array(batches.database.memory_map("density"))

    def one_epoch():
        for step in range(batches.steps_per_epoch):
            maps[batches.step_indices(step)]

    return one_epoch


def write(path, arguments) -> None:
    """A database of random maps."""
    import numpy as np

    from keras_cosmo.data.database import write_database
    from keras_cosmo.quantities import Parameter

    maps = np.random.default_rng(0).standard_normal((arguments.maps, *SHAPE), np.float32)
    write_database(
        path,
        task="benchmark",
        fields={"density": (maps, "")},
        parameters=(Parameter(name="a", low=0, high=1),),
        parameter_values=np.linspace(0, 1, arguments.maps)[:, None],
        simulation=np.arange(arguments.maps),
        attributes={},
        dtype=arguments.dtype,
    )


def compare(arguments) -> dict:
    """Measure all three ways and print the table."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = pathlib.Path(folder) / "speed.h5"
        write(path, arguments)
        common = {name: getattr(arguments, name) for name in ("maps", "batch_size", "dtype", "passes")}
        requests = {who: {**common, "file": str(path), "who": who} for who in WHO}
        results = side_by_side.alternate(__file__, requests, arguments.rounds)
    rows = []
    for who in WHO:
        best = side_by_side.merged(results[who])
        row = [who]
        for key in ("processor_per_second", "clock_per_second"):
            row += [best[key], side_by_side.ratio(results, who, WHO[1], key)]
        rows.append([*row, best["peak_gigabytes"]])
    print(f"\n{arguments.maps} maps of {SHAPE[0]} x {SHAPE[1]} cells, {arguments.dtype}, in the system's cache")
    heads = ["GB per second of", "processor", "ratio", "clock", "ratio", "peak, GB"]
    print(side_by_side.table(heads, rows))
    return {"request": common, "rows": results}


def main(argv=None) -> int:
    """Measure the pipeline, plain reads and copies in turn."""
    parser = side_by_side.parser(__doc__, rounds=3)
    parser.add_argument("--folder", type=pathlib.Path, help="where the file is written (default: a temporary folder)")
    parser.add_argument("--maps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--passes", type=int, default=3, help="passes over the file, of which the fastest counts")
    return side_by_side.run(parser.parse_args(argv), measure, compare)


if __name__ == "__main__":
    sys.exit(main())
