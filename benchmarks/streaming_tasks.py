"""Every task trained from its database on disk, from arrays in memory, and with batches that lie ready.

    python benchmarks/streaming_tasks.py [--tasks regression matter ...] [--preset quick] [--precision mixed_bfloat16]
                                         [--seconds 10] [--folder DIR] [--rounds 3] [--json FILE]

Each task's embedded simulator writes a database, which is split and normalised as in any run. Three processes then make
as many steps in turn:

``disk``    as any run does: batches in random order over the whole training part, augmented, checked to be finite; the
            file is dropped from the system's cache before
``memory``  the same examples, made before, in two arrays: ``Dataset.from_tensor_slices(...).shuffle(...).batch(...)``
``ready``   with one of these batches again and again: what the network costs alone

Images per second of the processor and of the clock. The networks are those of the preset, in bfloat16 unless
``--precision`` says otherwise, which is when the pipeline weighs most; the flow is in float32.
"""

import pathlib
import sys
import tempfile
import time

import side_by_side
from streaming_memory import drop_from_cache

from keras_cosmo.tasks.all_tasks import TASKS

# Simulations of each database: some tens of megabytes.
SIMULATIONS = {"regression": 200, "matter": 60, "astro": 60, "separation": 400, "dust": 1, "higlow": 100}
# Steps whose seconds do not count: the graph is made, and the first batches are waited for.
WARM_UP, AHEAD = 3, 8
WHO = ("disk", "memory", "ready")


def preset_of(name: str, preset: str):
    """A task and its preset."""
    import dataclasses

    from keras_cosmo.tasks.all_tasks import task_named

    task = task_named(name)
    # No trained U-Net is there to start from.
    changes = {"encoder": "scratch"} if name == "astro" else {}
    return task, dataclasses.replace(task.presets[preset], **changes)


def measure(request: dict) -> dict:
    """Write the database, or train in one of the three ways."""
    task, preset = preset_of(request["task"], request["preset"])
    if request["who"] == "write":
        from keras_cosmo.data.campaign import run_campaign

        run_campaign(task.simulator(preset), request["file"], count=SIMULATIONS[task.name], seed=5, workers=0)
        return {}
    import keras
    import tensorflow as tf

    from keras_cosmo.data.database import Database

    keras.utils.set_random_seed(1)
    prepared = task.prepare(preset, Database(request["file"]), seed=1)
    precision = "float32" if task.name == "higlow" else request["precision"]
    model = task.model(preset, prepared.database, prepared.normalization, precision)
    step = tf.function(lambda batch: model.train_step(batch))
    steps, pipeline = request["steps"], prepared.training
    # As many are read ahead at the end as at the beginning.
    batches = pipeline.training(0, WARM_UP + steps + AHEAD)
    if request["who"] == "memory":
        arrays = tuple(tf.concat(parts, 0) for parts in zip(*batches, strict=True))
        batches = tf.data.Dataset.from_tensor_slices(arrays).shuffle(len(arrays[0]), seed=1)
        batches = batches.batch(preset.batch_size, drop_remainder=True).prefetch(2)
    elif request["who"] == "ready":
        batches = [next(iter(batches))] * (WARM_UP + steps)
    else:
        drop_from_cache(request["file"])
    iterator = iter(batches)
    for _ in range(WARM_UP):
        float(step(next(iterator))["loss"])
    begin = time.perf_counter(), time.process_time()
    for _ in range(steps):
        logs = step(next(iterator))
    float(logs["loss"])
    wall, processor = time.perf_counter() - begin[0], time.process_time() - begin[1]
    images = steps * preset.batch_size
    return {
        "processor_per_second": images / processor,
        "clock_per_second": images / wall,
        "processor_seconds": processor,
        "steps": steps,
        "batch_size": preset.batch_size,
        "peak_gigabytes": side_by_side.peak_gigabytes(),
    }


def compare(arguments) -> dict:
    """Measure every task and print the table."""
    found, rows = {}, []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for task in arguments.tasks:
            request = {"task": task, "preset": arguments.preset, "precision": arguments.precision}
            request |= {"file": str(pathlib.Path(folder) / f"{task}.h5")}
            side_by_side.isolated(__file__, {**request, "who": "write"})
            megabytes = pathlib.Path(request["file"]).stat().st_size / 1e6
            # As many steps as fill the time.
            trial = side_by_side.isolated(__file__, {**request, "who": "ready", "steps": 2})
            steps = max(2, round(arguments.seconds * 2 / trial["processor_seconds"]))
            requests = {who: {**request, "who": who, "steps": steps} for who in WHO}
            results = side_by_side.alternate(__file__, requests, arguments.rounds)
            pathlib.Path(request["file"]).unlink()
            best = {who: side_by_side.merged(measured) for who, measured in results.items()}
            row = [task, f"{megabytes:.0f}", f"{steps} x {best['disk']['batch_size']:.0f}"]
            for key in ("processor_per_second", "clock_per_second"):
                row += [best[who][key] for who in WHO]
                for other in WHO[1:]:
                    rounds = side_by_side.ratios_by_round(results, "disk", other, key)
                    row.append(" ".join(map(side_by_side.cell, rounds)))
            rows.append(row)
            found[task] = {"megabytes": megabytes, "rows": results}
    heads = ["task", "MB", "images"]
    for quantity in ("processor", "clock"):
        heads += [f"{quantity}: disk", "memory", "ready", "disk / memory", "disk / ready"]
    print()
    print(side_by_side.table(heads, rows))
    return found


def main(argv=None) -> int:
    """Measure the tasks that are asked for."""
    parser = side_by_side.parser(__doc__, rounds=3)
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    parser.add_argument("--preset", choices=("quick", "paper"), default="quick", help="networks and maps (quick)")
    parser.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="mixed_bfloat16")
    parser.add_argument("--seconds", type=float, default=10.0, help="processor time of one measurement, about")
    parser.add_argument("--folder", type=pathlib.Path, help="where databases are written (default: a temporary folder)")
    return side_by_side.run(parser.parse_args(argv), measure, compare)


if __name__ == "__main__":
    sys.exit(main())
