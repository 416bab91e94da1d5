"""What is installed, what works, and what to do about the rest: the findings of ``apps/doctor.py``.

Nothing here imports TensorFlow: it is tried in a process of its own, which may fail or be killed.
"""

import configparser
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys

from keras_cosmo import __version__
from keras_cosmo.tasks.run import default_cache

STATUSES = ("ok", "note", "broken")
OLDEST_PYTHON = (3, 11)
PROBE_SECONDS = 300.0
# Distributions that all write into the folder "tensorflow".
TENSORFLOWS = ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tf-nightly", "intel-tensorflow", "tensorflow-rocm")
REFERENCE_GFLOPS = 200.0
"""1e9 operations per second in the convolution: both cores, idle, of the machine that the documented times are of."""
LITTLE_MEMORY, LITTLE_DISK = 4.0, 5.0
"""GB, below which the first command may not get through."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
GPU_ADVICE = (
    "pip install 'tensorflow[and-cuda]' brings the CUDA libraries; nvidia-smi must name a driver that is new enough "
    "for them; LD_LIBRARY_PATH must not point to other CUDA libraries (unset it and try again); with "
    "TF_CPP_MIN_LOG_LEVEL=0 TensorFlow says which library it misses"
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        subject: What was looked at.
        status: "ok", "note" (works, but worth knowing) or "broken" (the core of the package does not work).
        text: What was found.
        advice: What to do; empty if nothing.
    """

    subject: str
    status: str
    text: str
    advice: str = ""

    def __post_init__(self):
        if self.status not in STATUSES:
            raise ValueError(f"`status`: expected one of {', '.join(STATUSES)}, got {self.status!r}.")

    def __str__(self):
        line = f"{self.status:7}{self.subject}: {self.text}"
        return f"{line}\n       -> {self.advice}." if self.advice else line


def examine(environ=None) -> list[Finding]:
    """All findings.

    Args:
        environ: Environment variables; defaults to those of this process.

    Example:
        >>> findings = examine()  # doctest: +SKIP
        >>> any(finding.status == "broken" for finding in findings)  # doctest: +SKIP
        False
    """
    environ = os.environ if environ is None else environ
    found = [python_version(), *packages(), *conflicts(environ), *processor(environ), memory(), cache_folder()]
    found += tensorflow_at_work(environ)
    return [*found, *extras()]


def installed_version(name: str) -> str | None:
    """Version of an installed distribution; None if there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements(clone=pathlib.Path(__file__).parents[2]) -> dict[str, list]:
    """``packaging.requirements.Requirement`` lists: of the core under "", of the extras under their names.

    Read from ``setup.cfg`` where the package runs from a clone, since what an editable installation noted once may be
    older than the files; else as they were installed.

    Args:
        clone: Folder that may hold ``setup.cfg``.
    """
    from packaging.requirements import Requirement

    settings = configparser.ConfigParser()
    settings.read(clone / "setup.cfg", encoding="utf-8")
    if settings.get("metadata", "name", fallback=None) == "keras_cosmo":
        texts = {"": settings["options"]["install_requires"], **settings["options.extras_require"]}
        return {name: [Requirement(line) for line in text.split("\n") if line] for name, text in texts.items()}
    installed = [Requirement(text) for text in importlib.metadata.requires("keras_cosmo") or []]
    names = ["", *(importlib.metadata.metadata("keras_cosmo").get_all("Provides-Extra") or [])]
    groups = {name: [each for each in installed if _belongs(each, name)] for name in names}
    return {name: [each for each in group if not name or each not in groups[""]] for name, group in groups.items()}


def _belongs(requirement, extra):
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def python_version() -> Finding:
    """Version and place of Python."""
    text = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("Python", "broken", text, "3.11 or newer is needed: make a virtual environment with one")
    return Finding("Python", "ok", text)


def packages() -> list[Finding]:
    """The package itself and what it cannot do without."""
    place = pathlib.Path(__file__).parents[1]
    if installed_version("keras_cosmo") is None:
        return [
            Finding(
                "keras_cosmo", "broken", f"{__version__} in {place}, but not installed", "pip install . in the clone"
            )
        ]
    result = [Finding("keras_cosmo", "ok", f"{__version__} ({place})")]
    return result + [_judge(requirement) for requirement in requirements()[""]]


def _judge(requirement):
    version = installed_version(requirement.name)
    wanted = str(requirement.specifier)
    if version is None:
        return Finding(requirement.name, "broken", "missing", f"pip install '{requirement.name}{wanted}'")
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(
            requirement.name,
            "broken",
            f"{version}, expected {wanted}",
            f"pip install --upgrade '{requirement.name}{wanted}', best in a new virtual environment",
        )
    return Finding(requirement.name, "ok", version)


def conflicts(environ) -> list[Finding]:
    """Packages and settings that are known to get in each other's way."""
    result = []
    backend = environ.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        result.append(
            Finding("KERAS_BACKEND", "broken", f"is {backend!r}, expected 'tensorflow'", "unset KERAS_BACKEND")
        )
    if environ.get("TF_USE_LEGACY_KERAS", "0") not in ("", "0", "False", "false"):
        result.append(
            Finding(
                "TF_USE_LEGACY_KERAS",
                "note",
                "is set, which makes tf.keras Keras 2; this package does not use tf.keras",
                "unset it unless another program needs it",
            )
        )
    several = [f"{name} {version}" for name in TENSORFLOWS if (version := installed_version(name))]
    if len(several) > 1:
        result.append(
            Finding(
                "TensorFlow",
                "note",
                f"several distributions write into the same folder: {', '.join(several)}",
                "make a new virtual environment with one of them",
            )
        )
    tensorflow, legacy = installed_version("tensorflow"), installed_version("tf-keras")
    if tensorflow and legacy and tensorflow.split(".")[:2] != legacy.split(".")[:2]:
        result.append(
            Finding(
                "tf-keras",
                "note",
                f"{legacy} beside TensorFlow {tensorflow}; TensorFlow Probability needs the same minor version",
                f"pip install 'tf-keras~={'.'.join(tensorflow.split('.')[:2])}.0'",
            )
        )
    return result


def processor(environ) -> list[Finding]:
    """Cores and how many threads are allowed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"{cores} for this process, {os.cpu_count()} in the machine"
    quota = cpu_quota()
    if quota is not None and quota < cores:
        text += f", but a limit on processor time of {quota:.2g}"
    result = [Finding("cores", "ok", text)]
    limits = {name: environ[name] for name in THREAD_VARIABLES if environ.get(name)}
    if limits:
        text = ", ".join(f"{name}={value}" for name, value in limits.items())
        few = any(value.isdecimal() and 0 < int(value) < cores for value in limits.values())
        advice = "unset them to train on all cores; keep them where several programs share the machine" if few else ""
        result.append(Finding("threads", "note" if few else "ok", text, advice))
    return result


def cpu_quota(path="/sys/fs/cgroup/cpu.max") -> float | None:
    """Cores' worth of processor time that a container may use; None without a limit."""
    try:
        quota, period = pathlib.Path(path).read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def memory() -> Finding:
    """Memory of the machine, or of the container if that is less."""
    free, total = memory_gigabytes()
    if total is None:
        return Finding("memory", "ok", "not told by this system")
    text = f"{total:.1f} GB" + ("" if free is None else f", {free:.1f} GB of them free")
    if (total if free is None else free) < LITTLE_MEMORY:
        return Finding("memory", "note", text, "close other programs, or give smaller --batch-size and --workers")
    return Finding("memory", "ok", text)


def memory_gigabytes(proc="/proc/meminfo", cgroup="/sys/fs/cgroup") -> tuple[float | None, float | None]:
    """Free and total memory in GB of the machine, or of the container if that is less; None where not known."""
    free = total = None
    try:
        lines = dict(line.split(":", 1) for line in pathlib.Path(proc).read_text(encoding="utf-8").splitlines())
        free, total = (int(lines[name].split()[0]) / 1e6 for name in ("MemAvailable", "MemTotal"))
    except (OSError, ValueError, KeyError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    try:
        limit, used = (
            int((pathlib.Path(cgroup) / name).read_text(encoding="utf-8")) / 1e9
            for name in ("memory.max", "memory.current")
        )
    except (OSError, ValueError):
        return free, total
    if total is not None and limit < total:
        return min(free if free is not None else limit, limit - used), limit
    return free, total


def cache_folder() -> Finding:
    """Where simulations are kept: may it be written to, and is there room."""
    folder = default_cache()
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            "cache folder",
            "broken",
            f"{folder}: {there} cannot be written to",
            "set KERAS_COSMO_CACHE to another folder",
        )
    free = shutil.disk_usage(there).free / 1e9
    text = f"{folder}, {free:.0f} GB free" if free >= 10 else f"{folder}, {free:.1f} GB free"
    if free < LITTLE_DISK:
        return Finding("cache folder", "note", text, "make room, or set KERAS_COSMO_CACHE to a folder on another disk")
    return Finding("cache folder", "ok", text)


def tensorflow_at_work(environ) -> list[Finding]:
    """TensorFlow, Keras and TensorFlow Probability imported, devices, and one timed convolution."""
    if installed_version("tensorflow") is None or installed_version("keras") is None:
        return [Finding("TensorFlow at work", "broken", "not tried, as it or Keras is missing", "see above")]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "keras_cosmo.training.device_probe"],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            env=dict(environ),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [
            Finding(
                "TensorFlow at work",
                "broken",
                f"no answer after {PROBE_SECONDS:.0f} s",
                "is the machine overloaded, or the Python on a slow network disk? Try again",
            )
        ]
    return judge_probe(done.returncode, done.stdout, done.stderr, environ)


def judge_probe(status: int, output: str, errors: str, environ) -> list[Finding]:
    """Findings from what `keras_cosmo.training.device_probe` wrote.

    Args:
        status: Exit status; negative if a signal ended it.
        output: Lines of JSON.
        errors: What went to standard error.
        environ: Environment variables.
    """
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    steps = {line["step"]: line for line in lines}
    result = []
    if "keras" in steps:
        backend = steps["keras"]["backend"]
        if backend != "tensorflow":
            # A file of settings chooses it as well as the environment.
            result.append(
                Finding(
                    "Keras backend",
                    "broken",
                    f"is {backend!r}, expected 'tensorflow'",
                    "set KERAS_BACKEND=tensorflow, or correct ~/.keras/keras.json",
                )
            )
            return result
        result.append(Finding("Keras backend", "ok", backend))
    if "devices" in steps:
        result.append(devices(steps["devices"]["gpus"], steps["tensorflow"]["cuda"], environ))
    if "convolution" in steps:
        result.append(convolution(**{key: steps["convolution"][key] for key in ("seconds", "gflops")}))
    if status != 0:
        result.append(_failed_probe(status, errors, steps))
    return result


def _failed_probe(status, errors, steps):
    order = ("tensorflow", "keras", "tensorflow_probability", "devices", "convolution")
    step = next(name for name in (*order, "the end") if name not in steps)
    if status == -signal.SIGILL:
        text = f"the processor lacks an instruction that it was compiled for (at {step})"
        advice = "the packages of TensorFlow need AVX; use another machine, or a build from source"
    elif status < 0:
        text, advice = f"killed by signal {-status} at {step}", "is there enough memory? Then reinstall TensorFlow"
    else:
        last = errors.strip().splitlines()[-1] if errors.strip() else f"exit status {status}"
        text = f"failed at {step}: {last[:300]}"
        advice = "reinstall in a new virtual environment; packages that were upgraded one by one often do not fit"
        if step == "tensorflow_probability":
            advice = "TensorFlow Probability needs tf-keras of the minor version of TensorFlow: pip install tf-keras"
    return Finding("TensorFlow at work", "broken", text, advice)


def devices(gpus: list[str], cuda: str | None, environ) -> Finding:
    """GPUs that TensorFlow uses, or why there may be none."""
    if gpus:
        return Finding("GPU", "ok", f"{', '.join(gpus)}, CUDA {cuda}")
    hidden = environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return Finding("GPU", "ok", f"hidden by CUDA_VISIBLE_DEVICES={hidden!r}; the processor is used")
    if not nvidia_driver():
        return Finding("GPU", "ok", "none in this machine; the processor is used, for which the quick presets are made")
    if cuda is None:
        text, advice = "there is an NVIDIA driver, but this TensorFlow was built without CUDA", GPU_ADVICE
    else:
        text, advice = "there is an NVIDIA driver, but TensorFlow does not find a GPU", GPU_ADVICE
    if environ.get("LD_LIBRARY_PATH"):
        text += f"; LD_LIBRARY_PATH is {environ['LD_LIBRARY_PATH']}"
    return Finding("GPU", "note", text, advice)


def nvidia_driver() -> bool:
    """Whether this machine has a driver of NVIDIA."""
    return pathlib.Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def convolution(seconds: float, gflops: float) -> Finding:
    """The timed convolution, beside that of the machine on which the documented times were measured."""
    text = f"{1e3 * seconds:.1f} ms, {gflops:.0f} GFLOP/s (2 idle cores, as of the times in the documentation: "
    text += f"{REFERENCE_GFLOPS:.0f}; a GPU: thousands)"
    if gflops < 0.5 * REFERENCE_GFLOPS:
        text += "; trainings take longer than documented if this is so whenever nothing else runs"
    return Finding("convolution", "ok", text)


def extras() -> list[Finding]:
    """Optional groups of packages: there, or what is missing for them."""
    if installed_version("keras_cosmo") is None:
        return []
    result = []
    for name, wanted in requirements().items():
        if not name:
            continue
        lacking = [each.name for each in wanted if _judge(each).status != "ok"]
        if not lacking:
            text = ", ".join(f"{each.name} {installed_version(each.name)}" for each in wanted)
            result.append(Finding(f"extra {name}", "ok", text))
            continue
        advice = f"if you need it: pip install '.[{name}]' in the clone"
        if name == "21cmfast":
            advice += ", with a C compiler, FFTW and GSL (or conda install -c conda-forge 21cmfast)"
        result.append(Finding(f"extra {name}", "note", f"not there (lacks {', '.join(lacking)})", advice))
    return result
