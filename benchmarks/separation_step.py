"""Cost of one training step of the line-separation networks of the paper, in both precisions.

    python benchmarks/separation_step.py [--side 256] [--depth 8] [--width 64] [--batch-size 4] [--steps 3]
                                         [--lines halpha oiii] [--without-discriminators] [--rounds 2]

Each precision runs in a process of its own (A B A B), so that the peak memory is its own. Prints images per second of
wall time and of processor time, the seconds before the first step was done, the peak resident memory, and the ratio of
the two precisions. An image is an observed map with the maps of all its lines.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time


def measure(arguments, precision: str) -> dict:
    """Time the steps after a first one that compiles."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import numpy as np
    import tensorflow as tf

    from keras_cosmo.models.line_separator import LineSeparator

    begin = time.perf_counter()
    model = LineSeparator(
        (arguments.side, arguments.side),
        arguments.lines,
        1e-7,
        depth=arguments.depth,
        width=arguments.width,
        adversarial_weight=0.0 if arguments.without_discriminators else 1.0,
        dtype=precision,
    )
    model.compile()
    generator = np.random.default_rng(0)
    shape = (arguments.batch_size, arguments.side, arguments.side, len(arguments.lines))
    lines = tf.constant(generator.gamma(0.3, 1e-8, shape).astype("float32"))
    batch = (tf.reduce_sum(lines, -1), lines)
    step = tf.function(lambda batch: model.train_step(batch))
    step(batch)
    first = time.perf_counter() - begin
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(arguments.steps):
        logs = step(batch)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    images = arguments.batch_size * arguments.steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "linux" else 1e9)
    return {
        "precision": precision,
        "parameters_generator": sum(weight.shape.num_elements() for weight in model.generator.trainable_weights),
        "parameters": sum(weight.shape.num_elements() for weight in model.trainable_weights),
        "images_per_second": images / wall,
        "images_per_processor_second": images / processor,
        "first_step_seconds": first,
        "peak_gigabytes": peak,
        "loss": float(logs["loss"]),
    }


def main(argv=None) -> int:
    """Measure both precisions in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256, help="pixels per side of the maps")
    parser.add_argument("--depth", type=int, default=8, help="convolutions of the encoder")
    parser.add_argument("--width", type=int, default=64, help="channels of the first convolution")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--lines", nargs="+", default=["halpha", "oiii"])
    parser.add_argument("--without-discriminators", action="store_true", help="the baseline with L1 terms alone")
    parser.add_argument("--rounds", type=int, default=2, help="times each precision is measured")
    parser.add_argument("--one", choices=("float32", "mixed_bfloat16"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps(measure(arguments, arguments.one)))
        return 0
    speeds = {"float32": [], "mixed_bfloat16": []}
    for precision in tuple(speeds) * arguments.rounds:
        command = [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv), "--one", precision]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            print(result.stderr, file=sys.stderr)
            return result.returncode
        row = json.loads(result.stdout.splitlines()[-1])
        speeds[precision].append(row["images_per_processor_second"])
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    ratios = [b / a for a, b in zip(*speeds.values(), strict=True)]
    print("mixed_bfloat16 / float32, images per processor second:", ", ".join(f"{ratio:.2f}" for ratio in ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
