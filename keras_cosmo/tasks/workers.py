"""Several processes for one run: started here on one machine, or found by TF_CONFIG or SLURM on several."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time

from keras_cosmo import __version__
from keras_cosmo.tasks.command_line import attempt, prepare_process
from keras_cosmo.tasks.presets import fail
from keras_cosmo.tasks.settings import RunSettings
from keras_cosmo.tasks.train import follow
from keras_cosmo.training.cluster import WORKER_LOST_STATUS, Cluster, cluster_from, local_addresses
from keras_cosmo.training.gpus import visible_gpus

logger = logging.getLogger(__name__)

# How long the others have to end by themselves, with a message of their own, when one process has ended.
GRACE_SECONDS = 3.0
THREAD_VARIABLES = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


def train_with_workers(task, settings: RunSettings) -> int:
    """Run a task on several workers: as one of them, or as the process that starts them all on this machine.

    Returns:
        Exit status; a process that is a worker itself does not return, but ends.

    Raises:
        ValueError: If the batch cannot be divided among the workers, or the environment does not describe any.
        OSError: If there are fewer GPUs than workers.
    """
    if isinstance(settings.workers, int):
        check_batch(settings, settings.workers)
        return _start_all(task, settings)
    cluster = cluster_from(os.environ, settings.workers)
    check_batch(settings, cluster.count)
    if cluster.count == 1:
        task.run(settings, progress=True)
        return 0
    _end(attempt(lambda: take_part(task, settings, cluster), settings))


def check_batch(settings: RunSettings, count: int) -> None:
    """Raise ``ValueError`` if the preset's batch cannot be divided among so many workers."""
    if settings.preset.batch_size % count:
        raise ValueError(
            f"--batch-size {settings.preset.batch_size} cannot be divided among {count} workers: choose a multiple of "
            f"{count}, such as {-(-settings.preset.batch_size // count) * count}, or another number of --workers."
        )


def take_part(task, settings: RunSettings, cluster: Cluster) -> int:
    """Be one of the workers: lead the run as the chief, or follow it. Returns the exit status."""
    from keras_cosmo.training.rendezvous import meet

    meet(cluster, settings.worker_timeout, _purpose(task, settings))
    from keras_cosmo.training.worker_lost import WorkerLost
    from keras_cosmo.training.workers import Workers

    team = Workers(cluster)
    logger.info("%d workers train together.", team.count)
    if not team.is_chief:
        return follow(task, team)
    try:
        task.run(dataclasses.replace(settings, team=team), progress=True)
    except BaseException as error:
        # The others wait for the next run; where they take part in one, they find out by themselves.
        if not team.busy:
            with contextlib.suppress(WorkerLost):
                team.tell({"status": 130 if isinstance(error, KeyboardInterrupt) else 1})
        raise
    # A worker that was lost after the training takes nothing away.
    with contextlib.suppress(WorkerLost):
        team.tell({"status": 0})
    return 0


def _purpose(task, settings) -> str:
    """What all workers must agree on, for people and as a checksum."""
    values = {key: value for key, value in settings.to_json().items() if key != "worker_timeout"}
    checksum = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    return f"{task.name} into {settings.out} (keras_cosmo {__version__}, flags {checksum})"


def _end(status: int) -> None:
    """End this process at once: TensorFlow would wait for workers that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _start_all(task, settings) -> int:
    """Start the workers on this machine and wait for them; whatever happens, none is left behind."""
    count = settings.workers
    environments = _environments(os.environ, count)
    addresses = local_addresses(count)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        outputs = [None, *(pathlib.Path(folder) / f"worker-{index}" for index in range(1, count))]
        processes = [
            context.Process(
                target=_be_worker,
                args=(task, settings, Cluster(addresses, index), environments[index], outputs[index]),
                name=f"worker {index}",
            )
            for index in range(count)
        ]
        # The chief alone hears of Ctrl-C, from here, and tells the others; none may hear of it from the terminal.
        heard = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, heard)
        try:
            with _quiet_tracker():
                for process in processes:
                    process.start()
            with _handing_on(processes[0]):
                signal.pthread_sigmask(signal.SIG_UNBLOCK, heard)
                ended = _wait(processes)
                return _status(ended, processes, outputs)
        finally:
            for process in processes:
                if process.pid:
                    process.kill()
                    process.join()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, heard)


@contextlib.contextmanager
def _quiet_tracker():
    """Context in which processes start whose locks may be cleared away after them without a warning."""
    name, before = "PYTHONWARNINGS", os.environ.get("PYTHONWARNINGS")
    ours = "ignore::UserWarning:multiprocessing.resource_tracker"
    os.environ[name] = ours if before is None else f"{before},{ours}"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _handing_on(chief):
    """Context in which Ctrl-C and SIGTERM go to the chief."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hand_on(number, frame):
        if chief.is_alive():
            os.kill(chief.pid, number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes) -> list:
    """Wait until all have ended, or a while after one failed; returns those that ended, in that order."""
    ended, deadline = [], None
    while len(ended) < len(processes):
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            break
        running = {process.sentinel: process for process in processes if process not in ended}
        for sentinel in multiprocessing.connection.wait(list(running), timeout=left):
            process = running[sentinel]
            process.join()
            ended.append(process)
            if deadline is None and (process.exitcode != 0 or process is processes[0]):
                deadline = time.monotonic() + GRACE_SECONDS
    return ended


def _status(ended, processes, outputs) -> int:
    """Exit status of the job, after a line about workers that failed without one."""
    if processes[0].exitcode == 0:
        return 0
    killed = [process for process in ended if process.exitcode < 0]
    failed = [process for process in ended if process.exitcode > 0]
    # Of one that was killed the others only know that it is gone.
    causes = [process for process in failed if process.exitcode != WORKER_LOST_STATUS]
    for process in causes:
        number = processes.index(process)
        lines = _lines(outputs[number])
        if lines:
            sys.stderr.write(f"{process.name}: {lines[-1]}\n")
    if causes:
        return causes[0].exitcode
    for process in killed:
        name = signal.Signals(-process.exitcode).name
        # Behind a progress bar.
        sys.stderr.write("\n")
        fail(f"{process.name} of {len(processes)} was killed by {name}. Continue with the same command and --resume.")
    return WORKER_LOST_STATUS


def _lines(path) -> list:
    return path.read_text(errors="replace").splitlines() if path and path.exists() else []


def _environments(environment, count: int) -> list:
    """Variables to set in each process: its share of the processor cores, and a GPU of its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {name: str(max(1, cores // count)) for name in THREAD_VARIABLES if name not in environment}
    gpus = visible_gpus(environment)
    if not gpus:
        return [threads] * count
    if len(gpus) < count:
        raise ValueError(
            f"--workers {count}: there are {len(gpus)} GPUs, and every worker needs one of its own. Start at most "
            f"{len(gpus)}, or train without GPUs with CUDA_VISIBLE_DEVICES=-1."
        )
    return [{**threads, "CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus[:count]]


def _be_worker(task, settings, cluster, environment, output):
    """Body of a process that `_start_all` started."""
    os.environ.update(environment)
    if output is not None:
        # What the chief prints is enough; the last line is shown if this worker fails.
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
    # Out of reach of the terminal's Ctrl-C.
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare_process()
    _end(attempt(lambda: take_part(task, settings, cluster), settings))


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
