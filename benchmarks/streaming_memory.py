"""A training on more maps than fit into memory: what it keeps of them, and how fast it is against maps in memory.

    python benchmarks/streaming_memory.py [--gigabytes N] [--steps 12] [--batch-size 8] [--folder DIR] [--rounds 2]
                                          [--precision float32] [--figure FILE] [--json FILE]

Writes a database of light-cones of 100 x 2200 cells in float32, 1.05 times as large as the memory of the machine unless
``--gigabytes`` says otherwise, and makes the regression network of the paper train on the beginning of an epoch, each
time in a process of its own:

``disk``       as any run does: the file is scanned, split and normalised, and batches are read in random order over the
               whole training part
``memory``     the same steps with the same maps, which were all read into an array before
``one batch``  the same steps with one batch that was read before: what TensorFlow and the network need alone
``batches``    no network; the batches of the paper, 200 maps each, are read from the disk and thrown away

The file holds 64 different light-cones that are repeated, each time rescaled, so that no two maps are equal and nothing
can be compressed or shared. Every second the system is asked to drop it from its cache, as if it were far larger still.
It is deleted at the end, whatever happens; what it needs of the disk is checked first.

Memory is ``RssAnon`` of the process, looked at ten times a second: what it has of its own, without the pages of files,
which the system takes back when it needs them; ``beyond`` is what is more than with ``one batch``. ``read`` is what
came from the disk while the steps were made, of what they asked for; the system reads some of it ahead.
"""

import itertools
import os
import pathlib
import shutil
import sys
import tempfile
import threading
import time

import side_by_side

SHAPE = (100, 2200)
MAP_BYTES = 4 * SHAPE[0] * SHAPE[1]
DIFFERENT, BLOCK = 64, 256
PER_SIMULATION = 10
PAPER_BATCH = 200
SAMPLES_SHOWN = 400
WHO = ("disk", "memory", "one batch", "batches")
# Steps whose clock does not count: the graph is made, and the first batches are waited for.
WARM_UP = 2
AHEAD = 8


class Watch(threading.Thread):
    """Looks at the memory of this process ten times a second, and keeps a file out of the system's cache."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path = path
        self.begin = time.perf_counter()
        self.rows, self.phases = [], []
        self.start()

    def run(self):
        """Look, and wait."""
        while True:
            for _ in range(10):
                self.look()
                time.sleep(0.1)
            drop_from_cache(self.path)

    def look(self) -> float:
        """Gigabytes of memory of its own, now."""
        status = memory()
        self.rows.append((time.perf_counter() - self.begin, status["RssAnon"], status["RssFile"]))
        return status["RssAnon"]

    def phase(self, name: str) -> None:
        """From now on it is this that is done."""
        self.phases.append((time.perf_counter() - self.begin, name, self.look()))

    def peak(self, name: str) -> float:
        """Most memory during one phase."""
        begin = next(when for when, phase, _ in self.phases if phase == name)
        end = min((when for when, _, _ in self.phases if when > begin), default=float("inf"))
        return max(row[1] for row in self.rows if begin <= row[0] <= end)

    def shown(self) -> list:
        """Some of the rows, for a figure."""
        return [[round(value, 3) for value in row] for row in self.rows[:: 1 + len(self.rows) // SAMPLES_SHOWN]]


def measure(request: dict) -> dict:
    """Images per second and memory of one kind of training."""
    watch = Watch(request["file"])
    watch.phase("imports")
    import dataclasses

    import keras
    import tensorflow as tf

    from keras_cosmo.data.database import Database
    from keras_cosmo.tasks.regression import PAPER, RegressionTask

    keras.utils.set_random_seed(1)
    # TensorFlow takes what it needs for itself at the first operation.
    tf.zeros(1).numpy()
    watch.phase("scan")
    task, database = RegressionTask(), Database(request["file"])
    size = PAPER_BATCH if request["who"] == "batches" else request["batch_size"]
    preset = dataclasses.replace(PAPER, batch_size=size)
    begin = time.perf_counter(), time.process_time()
    prepared = task.prepare(preset, database, seed=1)
    scan = time.perf_counter() - begin[0], time.process_time() - begin[1]
    steps = request["steps"] + WARM_UP
    watch.phase("network")
    if request["who"] == "batches":

        def step(batch):
            return batch[0].shape

    else:
        model = task.model(preset, database, prepared.normalization, request["precision"])
        step = tf.function(lambda batch: model.train_step(batch))
    # More than are made, so that as many are read ahead at the end as at the beginning.
    batches = batches_of(request["who"], prepared.training, steps + AHEAD)
    drop_from_cache(request["file"])
    watch.phase("training")
    disk = read_bytes()
    iterator = iter(batches)
    for _ in range(WARM_UP):
        step(next(iterator))
    begin = time.perf_counter(), time.process_time()
    for _ in range(request["steps"]):
        step(next(iterator))
    wall, processor = time.perf_counter() - begin[0], time.process_time() - begin[1]
    images = request["steps"] * prepared.training.batch_size
    peak = watch.peak("training")
    watch.phase("end")
    return {
        "clock_images_per_second": images / wall,
        "processor_images_per_second": images / processor,
        "read_gigabytes": (read_bytes() - disk) / 1e9,
        "asked_gigabytes": steps * prepared.training.batch_size * MAP_BYTES / 1e9,
        "scan_clock_seconds": scan[0],
        "scan_processor_seconds": scan[1],
        "scan_peak_gigabytes": watch.peak("scan"),
        "imports_gigabytes": next(level for _, name, level in watch.phases if name == "scan"),
        "peak_gigabytes": peak,
        "resident_gigabytes": side_by_side.peak_gigabytes(),
        "phases": watch.phases,
        "samples": watch.shown(),
    }


def batches_of(who: str, pipeline, steps: int):
    """The batches of the first steps, from the disk or from memory."""
    import numpy as np
    import tensorflow as tf

    if who in ("disk", "batches"):
        return pipeline.training(0, steps)
    if who == "one batch":
        maps, targets = (tf.constant(array) for array in pipeline.load(0))
        return tf.data.Dataset.from_tensors((maps, targets)).repeat(steps)
    # The maps of these steps, in the order of the file, as an array of a whole set would have them.
    wanted = np.unique(np.concatenate([pipeline.step_indices(step) for step in range(steps)]))
    pipeline.database = InMemory(pipeline.database, pipeline.inputs, wanted)
    return pipeline.training(0, steps)


class InMemory:
    """A database whose maps are in an array; it reads as `keras_cosmo.data.database.Database` does."""

    def __init__(self, database, field, indices):
        self.targets, self.indices = database.targets, indices
        self.maps = database.read(field, indices)

    def read(self, field, indices, check_finite=False):
        """Copies of maps."""
        return self.maps[self.indices.searchsorted(indices)]


def memory() -> dict:
    """Gigabytes of this process by kind."""
    found = {}
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.startswith("Rss"):
            found[key] = int(value.split()[0]) * 1024 / 1e9
    return found


def read_bytes() -> int:
    """What this process has had read from a disk."""
    lines = pathlib.Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))


def drop_from_cache(path) -> None:
    """Ask the system to forget the pages of a file that it holds in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def write(path: pathlib.Path, count: int) -> None:
    """The database, block by block, without leaving it in the system's cache."""
    import h5py
    import numpy as np

    from keras_cosmo.quantities import Parameter

    low, high = np.array([(10.0, 250.0), (38.0, 42.0), (4.0, 6.0), (0.1, 1.5)]).T
    names = ("zeta", "log10_L_X", "log10_T_vir", "E_0")
    parameters = [Parameter(name=name, low=a, high=b) for name, a, b in zip(names, low, high, strict=True)]
    generator = np.random.default_rng(0)
    simulations = count // PER_SIMULATION
    unit = generator.uniform(size=(simulations, len(names)))
    places = np.linspace(0.0, 1.0, SHAPE[1])
    base = 10.0 * generator.standard_normal((DIFFERENT, *SHAPE), np.float32)
    waves = [np.cos((column + 1) * np.pi * places).astype(np.float32) for column in range(len(names))]
    simulation = np.repeat(np.arange(simulations), PER_SIMULATION)
    with h5py.File(path, "w") as file:
        maps = file.create_dataset("maps/brightness_temp", (len(simulation), *SHAPE), np.float32)
        maps.attrs["units"] = "mK"
        table = file.create_dataset("parameters", data=low + unit * (high - low))
        for key, values in (
            ("names", [parameter.name for parameter in parameters]),
            ("units", ["" for _ in parameters]),
            ("prior_low", low),
            ("prior_high", high),
        ):
            table.attrs[key] = values
        file["simulation"] = simulation
        for start in range(0, len(simulation), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(simulation)))
            block = np.empty((len(rows), *SHAPE), np.float32)
            for row, number in zip(block, rows, strict=True):
                np.multiply(base[number % DIFFERENT], np.float32(1.0 + number / count), out=row)
                row += sum(np.float32(40.0 * x) * wave for x, wave in zip(unit[simulation[number]], waves, strict=True))
            maps[rows[0] : rows[-1] + 1] = block
            file.flush()
            drop_from_cache(path)
        file.attrs.update({"task": "regression", "simulator": "made-up", "simulator_version": "1"})
        file.attrs.update({"cell_size": 1.5, "cell_size_units": "Mpc", "redshifts": np.linspace(6.0, 30.0, SHAPE[1])})
        file.attrs["status"] = "complete"
    drop_from_cache(path)


def compare(arguments) -> dict:
    """Write the set, train on it in all ways, print the table, draw, and delete the set."""
    total = side_by_side.machine()["memory_gigabytes"]
    gigabytes = arguments.gigabytes or 1.05 * total
    count = int(gigabytes * 1e9 / MAP_BYTES) // PER_SIMULATION * PER_SIMULATION
    folder = pathlib.Path(tempfile.mkdtemp(dir=arguments.folder, prefix="streaming-"))
    try:
        free = shutil.disk_usage(folder).free / 1e9
        if free < gigabytes + 2.0:
            raise SystemExit(
                f"{folder}: {gigabytes:.1f} GB are to be written and 2 left, but {free:.1f} GB are free. Give another "
                "--folder, or fewer --gigabytes."
            )
        path = folder / "lightcones.h5"
        begin = time.perf_counter()
        write(path, count)
        about = f"{count:,} light-cones, {path.stat().st_size / 1e9:.1f} GB; memory of the machine: {total} GB"
        print(f"{about}; written in {time.perf_counter() - begin:.0f} s", flush=True)
        common = {"file": str(path)}
        common |= {key: getattr(arguments, key) for key in ("steps", "batch_size", "precision")}
        requests = {who: {**common, "who": who} for who in WHO[:2]}
        results = side_by_side.alternate(__file__, requests, arguments.rounds)
        results |= side_by_side.alternate(__file__, {who: {**common, "who": who} for who in WHO[2:]}, 1)
    finally:
        shutil.rmtree(folder)
    found = {"set": {"maps": count, "gigabytes": count * MAP_BYTES / 1e9, "memory_gigabytes": total}, "rows": results}
    report(about, arguments, results)
    if arguments.figure:
        draw(results, found["set"], arguments.figure)
    return found


def report(about: str, arguments, results) -> None:
    """The table."""
    alone = min(row["peak_gigabytes"] for row in results["one batch"])
    rows = []
    for who in WHO:
        best, peak = side_by_side.merged(results[who]), max(row["peak_gigabytes"] for row in results[who])
        cells = [who]
        for key in ("processor_images_per_second", "clock_images_per_second"):
            # The others are not measured in turn with it.
            cells += [best[key], side_by_side.ratio(results, who, "memory", key) if who == "disk" else None]
        read = f"{best['read_gigabytes']:.2f} of {best['asked_gigabytes']:.2f}"
        rows.append([*cells, read, peak, None if who == "batches" else peak - alone])
    first = results["disk"][0]
    print(f"\n{about}\n{arguments.steps} steps of {arguments.batch_size} images, {arguments.precision}")
    heads = [
        "images per second of",
        "processor",
        "to memory",
        "clock",
        "to memory",
        "read, GB",
        "RssAnon, GB",
        "beyond",
    ]
    print(side_by_side.table(heads, rows))
    print(
        f"scan of the whole file, once: {first['scan_clock_seconds']:.0f} s of the clock, "
        f"{first['scan_processor_seconds']:.0f} s of the processor, RssAnon {first['scan_peak_gigabytes']:.2f} GB "
        f"(before it: {first['imports_gigabytes']:.2f}); kept: {results['memory'][0]['scan_clock_seconds']:.1f} s"
    )


def draw(results, about, path) -> None:
    """Memory over time, phase by phase."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    from keras_cosmo.figures.style import figure_style

    with figure_style():
        figure, panels = plt.subplots(len(WHO), 1, figsize=(7.0, 8.0), layout="constrained")
        highest = max(sum(sample[1:]) for who in WHO for sample in results[who][0]["samples"])
        for axes, who in zip(panels, WHO, strict=True):
            run = results[who][0]
            seconds, anonymous, files = np.array(run["samples"]).T
            axes.fill_between(seconds, anonymous, alpha=0.35, lw=0, label="its own (RssAnon)")
            axes.plot(seconds, anonymous + files, lw=1.0, label="and pages of files")
            for (when, name, _), (end, _, _) in itertools.pairwise(run["phases"]):
                axes.axvline(when, color="0.6", lw=0.7)
                # Others are over at once.
                if end - when > 0.08 * seconds[-1]:
                    axes.text(when, 0.97, f" {name}", transform=axes.get_xaxis_transform(), va="top", fontsize=8)
            axes.set(ylabel="memory [GB]", title=who, xlim=(0, seconds[-1]), ylim=(0, 1.25 * highest))
        panels[0].legend(loc="upper center", ncols=2)
        panels[-1].set_xlabel("time [s]")
        figure.suptitle(
            f"{about['gigabytes']:.1f} GB of light-cones on a machine with {about['memory_gigabytes']:.1f} GB of memory"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
        plt.close(figure)
    print(f"figure: {path}")


def main(argv=None) -> int:
    """Train from the disk and from memory in turn."""
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--gigabytes", type=float, help="size of the set (default: 1.05 times the machine's memory)")
    parser.add_argument("--steps", type=int, default=12, help="steps of training that are timed")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument("--folder", type=pathlib.Path, help="where the set is written (default: a temporary folder)")
    parser.add_argument("--figure", type=pathlib.Path, metavar="FILE", help="draw memory over time into this file")
    arguments = parser.parse_args(argv)
    for name in ("steps", "batch_size"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(arguments, name)}")
    if arguments.gigabytes is not None and arguments.gigabytes * 1e9 < 30 * PER_SIMULATION * MAP_BYTES:
        parser.error(f"--gigabytes: expected at least {30 * PER_SIMULATION * MAP_BYTES / 1e9:.2f}")
    return side_by_side.run(arguments, measure, compare)


if __name__ == "__main__":
    sys.exit(main())
