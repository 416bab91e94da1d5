"""GPUs of this machine, without waiting for TensorFlow."""

import subprocess


def visible_gpus(environment: dict) -> list[str]:
    """Names, for CUDA_VISIBLE_DEVICES, of the NVIDIA GPUs that a process with this environment sees.

    Args:
        environment: Such as ``os.environ``.

    Example:
        >>> visible_gpus({"CUDA_VISIBLE_DEVICES": "0,2"}), visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"})
        (['0', '2'], [])
    """
    if "CUDA_VISIBLE_DEVICES" in environment:
        names = [name.strip() for name in environment["CUDA_VISIBLE_DEVICES"].split(",")]
        return [name for name in names if name not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]
