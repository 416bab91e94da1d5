"""Cost of one training step of the U-Net of the paper, on small and full-size maps, in both precisions.

    python benchmarks/unet_step.py [--sides 64 200] [--batch-size 30] [--steps 3] [--padding same]

Each precision runs in a process of its own (A B A B), so that the peak memory is its own. Prints images per second of
wall time and of processor time, the peak resident memory, and the ratio of the two precisions.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time


def measure(precision: str, side: int, batch_size: int, steps: int, padding: str) -> dict:
    """Time ``steps`` steps after a first one that compiles."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import numpy as np
    import tensorflow as tf

    from keras_cosmo.models.matter_unet import MatterUNet
    from keras_cosmo.optimizers import AdamL2

    model = MatterUNet((side, side), padding=padding, dtype=precision)
    model.compile(AdamL2(1e-3, beta_1=0.5, l2=1e-4), "mse")
    generator = np.random.default_rng(0)
    maps, targets = (
        tf.constant(generator.standard_normal((batch_size, side, side, 1), dtype="float32")) for _ in range(2)
    )
    step = tf.function(lambda batch: model.train_step(batch))
    step((maps, targets))
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step((maps, targets))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    images = batch_size * steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "linux" else 1e9)
    return {
        "side": side,
        "precision": precision,
        "parameters": sum(weight.shape.num_elements() for weight in model.trainable_weights),
        "images_per_second": images / wall,
        "images_per_processor_second": images / processor,
        "peak_gigabytes": peak,
    }


def main(argv=None) -> int:
    """Measure both precisions twice, in turn, for every side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 200], help="cells per side of the maps")
    parser.add_argument("--batch-size", type=int, default=30)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--padding", choices=("same", "periodic"), default="same")
    parser.add_argument("--one", choices=("float32", "mixed_bfloat16"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        row = measure(arguments.one, arguments.sides[0], arguments.batch_size, arguments.steps, arguments.padding)
        print(json.dumps(row))
        return 0
    for side in arguments.sides:
        speeds = {"float32": [], "mixed_bfloat16": []}
        for precision in ("float32", "mixed_bfloat16") * 2:
            command = [sys.executable, __file__, "--one", precision, "--sides", str(side)]
            command += ["--batch-size", str(arguments.batch_size), "--steps", str(arguments.steps)]
            command += ["--padding", arguments.padding]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(result.stdout.splitlines()[-1])
            speeds[precision].append(row["images_per_second"])
            print(
                {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}, flush=True
            )
        ratios = [b / a for a, b in zip(*speeds.values(), strict=True)]
        print("mixed_bfloat16 / float32, images per second:", ", ".join(f"{ratio:.2f}" for ratio in ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
