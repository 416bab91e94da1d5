"""Simulations on the workers of a Dask scheduler, which may come, go and die while a campaign runs.

The process that asks is the one that writes the database, as with processes of its own; workers only return maps.
Dask is imported when it is asked for.
"""

import collections
import concurrent.futures
import contextlib
import functools
import importlib.metadata
import importlib.util
import logging
import numbers
import os
import pathlib
import pickle
import platform
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator

import keras_cosmo
from keras_cosmo.data.worker_pool import THREAD_VARIABLES

logger = logging.getLogger(__name__)

# As many as are running, and as many again, so that no worker waits for this process.
PENDING_PER_THREAD = 2
POLL = 1.0  # s
REMINDER = 60.0  # s between two messages that there are no workers
NANNY = 5.0  # s without workers that are not worth a message
CONNECT = 10.0  # s
STARTING = 60.0  # s that a scheduler may take before it writes its file
# A result that is lost with its worker after it was announced is made again; the others need not wait for that.
FETCH = 600.0  # s
# So many calls that killed several workers each, before any came back: it is not the calls.
BARREN_ALLOWED = 5
# What decides the last digits of maps.
PACKAGES = ("numpy", "scipy", "healpy", "pyccl", "21cmFAST")
DONE, UNUSABLE = "done", "unusable"
# A simulator need not stand several threads of one process.
_ONE_AT_A_TIME = threading.Lock()


class WorkersError(RuntimeError):
    """Scheduler or workers cannot go on; what came back before is valid.

    Args:
        message: What to tell the user.
        deaths: How many workers died of it.
    """

    def __init__(self, message: str, deaths: int = 0):
        super().__init__(message)
        self.deaths = deaths


class DaskWorkers:
    """Workers of a Dask scheduler, for `keras_cosmo.data.campaign.run_campaign`.

    The scheduler repeats a call whose worker dies on another one. When it gives up (``allowed-failures`` in its
    configuration: after four deaths, unless set otherwise), the call can still be innocent: Dask also counts those that
    only waited on a worker that died. It is therefore repeated when all others are done, alone, and given up if that
    kills as many workers again.

    Use it as a context manager, which closes the connection in the end.

    Args:
        address: Of the scheduler, such as ``"tcp://node01:8786"``; or the file that it wrote (``dask scheduler
            --scheduler-file``); or a cluster object such as ``dask.distributed.LocalCluster``, which is then closed
            together with this.
        worker_timeout: Seconds without any worker after which to give up; None to wait for as long as it takes.
        expected: Threads that the workers will have. So many calls are asked for twice over before workers are there,
            from which an adaptive cluster learns how large to become.

    Raises:
        ImportError: If Dask is not installed.
        ValueError: If an argument is out of range.
        ConnectionError: If no scheduler answers.

    Example:
        >>> from dask.distributed import LocalCluster  # doctest: +SKIP
        >>> with DaskWorkers(LocalCluster(n_workers=2, threads_per_worker=1)) as workers:  # doctest: +SKIP
        ...     sorted(workers.run(math.factorial, range(4), lambda number: number))
        [(0, 1), (1, 1), (2, 2), (3, 6)]
    """

    def __init__(self, address, *, worker_timeout: float | None = None, expected: int = 1):
        require_dask()
        if worker_timeout is not None and not (isinstance(worker_timeout, numbers.Real) and worker_timeout > 0):
            raise ValueError(f"worker_timeout: expected seconds above 0, or None, got {worker_timeout!r}.")
        if isinstance(expected, bool) or not isinstance(expected, numbers.Integral) or expected < 1:
            raise ValueError(f"expected: expected a positive number of threads, got {expected!r}.")
        self.worker_timeout = worker_timeout
        self.expected = int(expected)
        self._cluster = None if isinstance(address, (str, os.PathLike)) else address
        self._client = _connect(address)
        self.address = self._client.scheduler.address
        self._told = set()

    def run(
        self, function: Callable, calls: Iterable[int], argument_of: Callable[[int], object]
    ) -> Iterator[tuple[int, object]]:
        """Call ``function(argument_of(number))`` on the workers, and yield what it returns as it comes, in any order.

        Two calls per thread of the workers are pending at a time, and results stay on the workers until this process
        takes them, one by one, so that no side fills up with results. Whoever closes the iterator cancels what is
        pending; calls that are running end on their workers and are forgotten.

        Args:
            function: Importable by the workers. Has one thread, and its process to itself.
            calls: Numbers of the calls, all different.
            argument_of: Number -> argument, picklable.

        Yields:
            Number and what the function returned, or a `WorkersError` if it killed its workers again and again.

        Raises:
            WorkersError: If the scheduler is lost, workers lack a package or have another version of this one, there
                is none for ``worker_timeout``, or every call kills its workers.
        """
        waiting, suspects, repeated, pending = collections.deque(calls), collections.deque(), set(), {}
        arrived, token, submitted, barren = queue.SimpleQueue(), uuid.uuid4().hex[:8], 0, 0
        census, portable = _Census(self), _portable()
        try:
            while waiting or suspects or pending:
                threads = census.threads()
                source, limit = waiting, PENDING_PER_THREAD * max(threads, self.expected)
                if not waiting and not pending:
                    source, limit = suspects, 1
                while source and len(pending) < limit:
                    number, submitted = source.popleft(), submitted + 1
                    call = pickle.dumps((function, argument_of(number)))
                    # A name of its own for every attempt: Dask would answer for the same one with the failure before.
                    key = f"simulate-{token}-{number}-{submitted}"
                    future = self._client.submit(portable, keras_cosmo.__version__, call, key=key, pure=False)
                    pending[number] = future
                    future.add_done_callback(functools.partial(_announce, arrived, number))
                try:
                    number = arrived.get(timeout=POLL)
                except queue.Empty:
                    continue
                try:
                    result = self._fetch(pending[number])
                except TimeoutError:
                    arrived.put(number)
                    continue
                del pending[number]
                if not threads:
                    # Somebody has come since.
                    census.expire()
                if not isinstance(result, WorkersError):
                    barren = 0
                    yield number, result
                elif number in repeated:
                    yield number, result
                else:
                    logger.warning(
                        "Workers died %d times with simulation %d on them; it is run again at the end, alone.",
                        result.deaths, number,
                    )  # fmt: skip
                    repeated.add(number)
                    suspects.append(number)
                    barren += 1
                    if barren >= BARREN_ALLOWED:
                        raise WorkersError(
                            f"Workers of {self.address} died with each of the simulations {sorted(repeated)} on them, "
                            f"and none came back. Usual reason: too little memory for each worker (--memory-limit of "
                            f"`dask worker`, or that of the job); their logs tell more."
                        )
        finally:
            if pending and self._client.status == "running":
                with contextlib.suppress(OSError, TimeoutError, concurrent.futures.CancelledError):
                    self._client.cancel(list(pending.values()))

    def close(self) -> None:
        """Close the connection, and the cluster if one was given."""
        for closing in (self._client, self._cluster):
            if closing is not None:
                with contextlib.suppress(OSError, TimeoutError, concurrent.futures.CancelledError):
                    closing.close(timeout=CONNECT)

    def __enter__(self) -> "DaskWorkers":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _fetch(self, future):
        """Result of a call that is done; a `WorkersError` is returned if its workers died."""
        from distributed.scheduler import KilledWorker

        try:
            state, result, environment = future.result(timeout=FETCH)
        except concurrent.futures.CancelledError as error:
            raise self.lost(error) from error
        except KilledWorker as error:
            deaths = error.allowed_failures + 1
            return WorkersError(f"its worker died {deaths} times while nothing else ran (out of memory?)", deaths)
        except TimeoutError:
            raise
        except OSError as error:
            raise self.lost(error) from error
        except Exception as error:
            raise WorkersError(
                f"Scheduler or workers of {self.address} cannot read what they are sent ({type(error).__name__}: "
                f"{_first_line(error)}). Give them the same versions of Python and Dask as here, and start again."
            ) from error
        if state == UNUSABLE:
            raise WorkersError(
                f"The worker {environment['worker']} cannot simulate: {result} Install the same keras_cosmo for its "
                f"Python ({environment['python']}), and start it again."
            )
        self._compare(environment)
        return result

    def _compare(self, environment: dict) -> None:
        """Say once where a worker has other packages than this process."""
        own = environment_here()
        others = [name for name in own if name != "worker" and environment.get(name) != own[name]]
        text = ", ".join(f"{name} {environment.get(name)} instead of {own[name]}" for name in others)
        if text and text not in self._told:
            self._told.add(text)
            logger.warning(
                "The worker %s has %s: maps could differ in their last digits from those made here.",
                environment["worker"], text,
            )  # fmt: skip

    def lost(self, error: BaseException) -> WorkersError:
        """What to raise when the scheduler does not answer, or has forgotten what it was asked for."""
        reason = getattr(error, "reason", None) or _first_line(error)
        return WorkersError(f"The Dask scheduler {self.address} was lost ({reason}).")


class _Census:
    """How many threads there are, asked for once in a while; says so when there are none."""

    def __init__(self, workers: DaskWorkers):
        self._workers = workers
        self._threads, self._asked, self._said, self._seen = 0, -POLL, None, False
        self._none_since = time.monotonic()

    def expire(self) -> None:
        """Ask again the next time, however short ago the last answer was."""
        self._asked = -POLL

    def threads(self) -> int:
        now, workers = time.monotonic(), self._workers
        if now - self._asked < POLL:
            return self._threads
        client = workers._client
        if client.status != "running":
            raise workers.lost(ConnectionError("the connection was closed"))
        try:
            counts = client.nthreads()
        except (OSError, TimeoutError, concurrent.futures.CancelledError) as error:
            raise workers.lost(error) from error
        before, self._threads, self._asked = self._threads, sum(counts.values()), time.monotonic()
        if self._threads:
            if not before:
                logger.info("Workers at %s: %d.", workers.address, len(counts))
            if max(counts.values()) > 1 and "threads" not in workers._told:
                workers._told.add("threads")
                logger.warning(
                    "A worker of %s has %d threads, of which one is used: simulations run one at a time in each "
                    "process. Start workers with --nthreads 1, and --nworkers for more of them.",
                    workers.address, max(counts.values()),
                )  # fmt: skip
            self._said, self._seen = None, True
            return self._threads
        if before:
            self._none_since = now
        waited = now - self._none_since
        if workers.worker_timeout is not None and waited >= workers.worker_timeout:
            raise WorkersError(
                f"No worker {'was left' if self._seen else 'came'} at {workers.address} for {waited:.0f} s. Start "
                f"some, such as `dask worker {workers.address} --nthreads 1`, or wait for longer."
            )
        # A nanny replaces a worker in a few seconds.
        if waited >= (NANNY if self._seen else 0.0) and (self._said is None or now - self._said >= REMINDER):
            logger.info(
                "No worker %s at %s: waiting for one (%.0f s).",
                "left" if self._seen else "yet", workers.address, waited,
            )  # fmt: skip
            self._said = now
        return 0


def require_dask() -> None:
    """Raise a clear ImportError if Dask is not installed."""
    if importlib.util.find_spec("distributed") is None:
        raise ImportError("Dask is not installed. Run: pip install '.[cluster]'")


def _connect(address):
    """A client of a scheduler."""
    from dask.distributed import Client

    options = {"timeout": CONNECT, "set_as_default": False}
    if not isinstance(address, (str, os.PathLike)):
        return Client(address, **options)
    text = os.fspath(address)
    try:
        if "://" in text or (":" in text and not pathlib.Path(text).exists()):
            return Client(text, **options)
        deadline = time.monotonic() + STARTING
        if not pathlib.Path(text).exists():
            logger.info("Waiting up to %.0f s for the scheduler file %s.", STARTING, text)
        while not pathlib.Path(text).exists():
            if time.monotonic() > deadline:
                raise ConnectionError("there is no such scheduler file")
            time.sleep(0.1)
        return Client(scheduler_file=text, **options)
    except (OSError, ValueError, TypeError) as error:
        raise ConnectionError(
            f"{text}: no Dask scheduler answers ({_first_line(error)}). Expected an address such as "
            f"tcp://node01:8786, or the file of `dask scheduler --scheduler-file FILE`; is it running?"
        ) from error


def _portable() -> Callable:
    """The function that workers call.

    Dask reads a nested function from its code, without any import: neither a scheduler nor a worker without this
    package stumbles over it, and the worker can say what is missing.
    """

    def simulate(version, call):
        try:
            from keras_cosmo.data.dask_workers import answer_call
        except ImportError as error:
            import platform
            import socket

            environment = {"worker": socket.gethostname(), "python": platform.python_version()}
            return "unusable", f"{error}.", environment
        return answer_call(version, call)

    return simulate


def answer_call(version: str, call: bytes) -> tuple[str, object, dict]:
    """What a worker does: run a pickled call, with one thread, alone in its process.

    Args:
        version: Of this package, where the call comes from.
        call: Pickled function and argument.

    Returns:
        ``"done"`` and the result, or ``"unusable"`` and what is wrong with this worker; and `environment_here`.
    """
    environment = environment_here()
    if version != keras_cosmo.__version__:
        return UNUSABLE, f"it has keras_cosmo {keras_cosmo.__version__} instead of {version}.", environment
    import threadpoolctl

    # These reach libraries that are loaded later, the limits those that are there already.
    for variable in THREAD_VARIABLES:
        os.environ[variable] = "1"
    try:
        with _ONE_AT_A_TIME:
            function, argument = pickle.loads(call)
            with threadpoolctl.threadpool_limits(1):
                return DONE, function(argument), environment
    except Exception as error:
        return UNUSABLE, f"{type(error).__name__}: {_first_line(error)}.", environment


@functools.cache
def environment_here() -> dict[str, str]:
    """Name of this worker, and versions of Python and of the packages that decide the last digits."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "none"
    return {"worker": _worker_name(), "python": platform.python_version(), **versions}


def _worker_name() -> str:
    try:
        from distributed import get_worker

        return f"{get_worker().address} on {socket.gethostname()}"
    except (ImportError, ValueError):
        return socket.gethostname()


def _announce(arrived: queue.SimpleQueue, number: int, future) -> None:
    arrived.put(number)


def _first_line(error: BaseException) -> str:
    """An error in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
