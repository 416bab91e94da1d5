"""Cost of one training step of the dust network, with its loss, in both precisions.

    python benchmarks/dust_step.py [--networks paper quick] [--side 64] [--channels 64] [--batch-size 64] [--steps 2]
                                   [--rounds 2]

Each measurement runs in a process of its own (A B A B), so that the peak memory is its own. Prints images per second of
wall time and of processor time, the seconds before the first step was done, the peak resident memory, the share of the
wall time that the loss takes, and the ratio of the two precisions. "paper" are the default widths, "quick" a quarter.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

NETWORKS = {"paper": ((64, 128, 256, 512), 1024), "quick": ((16, 32, 64, 128), 256)}


def measure(arguments, network: str, precision: str) -> dict:
    """Time the steps after a first one that compiles."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_cosmo.losses import CorrelationLoss
    from keras_cosmo.models.dust_unet import DustUNet

    begin = time.perf_counter()
    widths, bottleneck = NETWORKS[network]
    side = arguments.side
    model = DustUNet(arguments.channels, (side, side), widths=widths, bottleneck=bottleneck, dtype=precision)
    loss = CorrelationLoss(pixel_size=23.4 * 64 / side)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    generator = np.random.default_rng(0)
    hi = tf.constant(generator.standard_normal((arguments.batch_size, side, side, arguments.channels), "float32"))
    dust = tf.reduce_mean(hi, -1, keepdims=True)
    target = tf.concat([dust, tf.ones_like(dust)], -1)
    step = tf.function(lambda hi, target: model.train_step((hi, target)))

    @tf.function
    def loss_alone(target, dust):
        with tf.GradientTape() as tape:
            tape.watch(dust)
            value = loss(target, dust)
        return tape.gradient(value, dust)

    float(step(hi, target)["loss"])
    first = time.perf_counter() - begin
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(arguments.steps):
        # Read, so that an accelerator has finished.
        last = float(step(hi, target)["loss"])
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    loss_alone(target, dust).numpy()
    loss_wall = time.perf_counter()
    for _ in range(arguments.steps):
        loss_alone(target, dust).numpy()
    loss_wall = time.perf_counter() - loss_wall
    images = arguments.batch_size * arguments.steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "linux" else 1e9)
    return {
        "network": network,
        "precision": precision,
        "parameters": sum(weight.shape.num_elements() for weight in model.trainable_weights),
        "images_per_second": images / wall,
        "images_per_processor_second": images / processor,
        "first_step_seconds": first,
        "share_of_the_loss": loss_wall / wall,
        "peak_gigabytes": peak,
        "loss": last,
    }


def main(argv=None) -> int:
    """Measure both precisions in turn, for every network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", choices=tuple(NETWORKS), nargs="+", default=list(NETWORKS))
    parser.add_argument("--side", type=int, default=64, help="pixels per side of the cutouts")
    parser.add_argument("--channels", type=int, default=64, help="velocity channels")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="times each precision is measured")
    parser.add_argument("--one", choices=("float32", "mixed_bfloat16"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps(measure(arguments, arguments.networks[0], arguments.one)))
        return 0
    for network in arguments.networks:
        speeds = {"float32": [], "mixed_bfloat16": []}
        for precision in tuple(speeds) * arguments.rounds:
            command = [sys.executable, __file__, "--networks", network, "--one", precision]
            for name in ("side", "channels", "batch_size", "steps"):
                command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                print(result.stderr, file=sys.stderr)
                return result.returncode
            row = json.loads(result.stdout.splitlines()[-1])
            speeds[precision].append(row["images_per_processor_second"])
            row = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
            print(row, flush=True)
        ratios = [b / a for a, b in zip(*speeds.values(), strict=True)]
        print("mixed_bfloat16 / float32, images per processor second:", ", ".join(f"{ratio:.2f}" for ratio in ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
