"""What all benchmarks share: measurements side by side, each in a process of its own with one thread.

A script hands `alternate` one request per contender, a dictionary that JSON can hold. The script is then started again
for every request, in turn (A B A B) and with ``--one REQUEST``, and answers with one line of JSON. Libraries see one
thread, so that seconds of the processor mean something on a busy machine, and every process has a peak memory of its
own. Of repeated measurements the least disturbed counts: the fewest seconds, the most per second.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
THREADS += ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
PACKAGES = ("keras_cosmo", "tensorflow", "keras", "tensorflow-probability", "torch", "numpy", "scipy", "h5py", "healpy")
PACKAGES += ("powerbox", "21cmFAST", "pyccl")
# Processor features on which the speed of bfloat16 and of convolutions hangs.
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def parser(documentation: str, rounds: int = 2) -> argparse.ArgumentParser:
    """Command line of a benchmark, with the options that all of them have."""
    found = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--rounds", type=int, default=rounds, help="times each is measured (default: %(default)s)")
    found.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all numbers to this file")
    found.add_argument("--one", type=json.loads, metavar="REQUEST", help=argparse.SUPPRESS)
    return found


def run(arguments: argparse.Namespace, measure, compare) -> int:
    """Answer one request, or do the whole benchmark.

    Args:
        arguments: From a `parser`.
        measure: ``(request) -> dict``, called in a process of its own.
        compare: ``(arguments) -> dict``, which prints the tables and returns what is written as JSON.

    Returns:
        Exit status.
    """
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one)))
        return 0
    if arguments.rounds < 1:
        print(f"--rounds: expected at least 1, got {arguments.rounds}", file=sys.stderr)
        return 2
    about = machine()
    print(describe(about), flush=True)
    try:
        results = compare(arguments)
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        print(f"{' '.join(map(str, error.cmd))}: exit status {error.returncode}", file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"machine": about, "results": results}, indent=1) + "\n")
        print(f"numbers: {arguments.json}")
    return 0


def alternate(script, requests: dict[str, dict], rounds: int) -> dict[str, list[dict]]:
    """Measure every request in turn, ``rounds`` times.

    Args:
        script: File of the benchmark.
        requests: A request for each contender.
        rounds: Times each is measured.

    Returns:
        The answers of each contender, one per round.

    Raises:
        subprocess.CalledProcessError: If a measurement failed.
    """
    results = {name: [] for name in requests}
    for number in range(rounds):
        for name, request in requests.items():
            began = time.perf_counter()
            results[name].append(isolated(script, request))
            seconds = time.perf_counter() - began
            # What was measured is not lost if a later measurement fails or is broken off.
            numbers = ", ".join(f"{key} {cell(v)}" for key, v in results[name][-1].items() if isinstance(v, float))
            text = f"  round {number + 1} of {rounds}, {name}, {seconds:.0f} s by the clock: {numbers}"
            print(text, file=sys.stderr, flush=True)
    return results


def isolated(script, request: dict) -> dict:
    """The answer to one request, from a process of its own with one thread."""
    environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(script), "--one", json.dumps(request)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def fastest(function, seconds: float = 3.0, least: int = 2) -> float:
    """Processor seconds of the fastest of some calls: ``least`` at least, more until ``seconds`` are over."""
    taken = []
    while len(taken) < least or sum(taken) < seconds:
        begin = time.process_time()
        function()
        taken.append(time.process_time() - begin)
    return min(taken)


def peak_gigabytes() -> float:
    """Peak resident memory of this process."""
    # What `getrusage` says on Linux can be that of the process which started this one.
    peak = _key_values("/proc/self/status").get("VmHWM", "").split()
    if peak:
        return int(peak[0]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "linux" else 1e9)


def merged(rows: list[dict]) -> dict:
    """One row of several rounds: the most of ``..._per_second``, the least of ``..._seconds``, else the last."""
    found = dict(rows[-1])
    for key, value in found.items():
        choose = max if key.endswith("per_second") else min if key.endswith("seconds") else None
        if choose and isinstance(value, (int, float)):
            found[key] = choose(row[key] for row in rows)
    return found


def ratio(results: dict[str, list[dict]], name: str, reference: str, key: str) -> float | None:
    """How many times faster ``name`` is than ``reference``, from the best of each; None where one has no such number.

    ``key`` ends with ``per_second`` or ``seconds``.
    """
    if reference not in results or any(key not in rows[0] for rows in (results[name], results[reference])):
        return None
    ours, theirs = (merged(results[who])[key] for who in (name, reference))
    return ours / theirs if key.endswith("per_second") else theirs / ours


def ratios_by_round(results: dict[str, list[dict]], name: str, reference: str, key: str) -> list[float]:
    """The same round by round, which says how far the load of the machine disturbed it; empty where there is none."""
    if reference not in results:
        return []
    pairs = zip(results[name], results[reference], strict=True)
    found = [ratio({name: [ours], reference: [theirs]}, name, reference, key) for ours, theirs in pairs]
    return [value for value in found if value is not None]


def table(heads, rows) -> str:
    """Text table, as Markdown has it: the first column to the left, numbers to the right."""
    cells = [[cell(value) for value in row] for row in [heads, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = [
        "| " + " | ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ) + " |"
        for row in cells
    ]  # fmt: skip
    rule = "|" + "|".join("-" * (width + 2) if column == 0 else "-" * (width + 1) + ":" for column, width in
                          enumerate(widths)) + "|"  # fmt: skip
    return "\n".join([lines[0], rule, *lines[1:]])


def cell(value) -> str:
    """Three digits that mean something; whole numbers in full."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def machine() -> dict:
    """Processor, memory, threads and versions, none of which needs an import."""
    information = _key_values("/proc/cpuinfo")
    memory = _key_values("/proc/meminfo").get("MemTotal", "").split()
    flags = information.get("flags", "").split()
    return {
        "processor": information.get("model name") or platform.processor() or platform.machine(),
        "features": [name for name in FEATURES if name in flags],
        "cores": os.cpu_count(),
        "threads": 1,
        "memory_gigabytes": round(int(memory[0]) / 1e6, 1) if memory else None,
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := installed(name))},
    }


def describe(about: dict) -> str:
    """Machine and versions as text."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['processor']} ({', '.join(about['features'])}), {about['cores']} cores, load {about['load']}; one "
        f"thread, processor seconds\n{versions}"
    )


def installed(package: str) -> str | None:
    """Version of an installed package, found without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _key_values(path: str) -> dict[str, str]:
    """The lines ``key : value`` of a file of the system, empty where there is none; the first of each key."""
    file = pathlib.Path(path)
    found = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found
