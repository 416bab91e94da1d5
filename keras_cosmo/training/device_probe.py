"""What TensorFlow finds on this machine, told step by step by a process of its own.

    python -m keras_cosmo.training.device_probe

One line of JSON after each step, so that whoever reads them sees how far a process came that the system killed, as it
does where the processor lacks instructions that TensorFlow was compiled for.
"""

import json
import os
import sys
import time

# Batch, side of the maps, channels in and out, side of the kernel.
CONVOLUTION = (16, 64, 32, 3)
REPEATS = 5


def steps():
    """Yield one dict per step: ``step`` and what was found.

    Example:
        >>> next(steps())["step"]  # doctest: +SKIP
        'tensorflow'
    """
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    yield {"step": "tensorflow", "cuda": build.get("cuda_version"), "cudnn": build.get("cudnn_version")}
    import keras

    yield {"step": "keras", "backend": keras.backend.backend()}
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow_probability  # noqa: F401

    yield {"step": "tensorflow_probability"}
    yield {"step": "devices", "gpus": [gpu_name(tf, gpu) for gpu in tf.config.list_physical_devices("GPU")]}
    seconds = min(timed_convolutions(tf))
    batch, side, channels, kernel = CONVOLUTION
    operations = 2.0 * batch * side**2 * channels**2 * kernel**2
    yield {"step": "convolution", "seconds": seconds, "gflops": operations / seconds / 1e9}


def gpu_name(tf, gpu) -> str:
    """Name of a GPU, as its driver gives it."""
    return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)


def timed_convolutions(tf) -> list[float]:
    """Seconds of `REPEATS` convolutions of the size `CONVOLUTION`, compiled before."""
    batch, side, channels, kernel = CONVOLUTION
    maps = tf.random.stateless_uniform((batch, side, side, channels), seed=(1, 2))
    weights = tf.random.stateless_uniform((kernel, kernel, channels, channels), seed=(3, 4))

    @tf.function
    def convolve():
        return tf.reduce_sum(tf.nn.conv2d(maps, weights, 1, "SAME"))

    float(convolve())
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        float(convolve())
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> int:
    """Write a line of JSON for each step."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for step in steps():
        sys.stdout.write(json.dumps(step) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
