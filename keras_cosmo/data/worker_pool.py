"""Worker processes that can be stopped at any moment."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class WorkerPool:
    """Processes of one thread each, started by "spawn": safe whatever threads (TensorFlow's, BLAS') this process has.

    Ctrl-C reaches the main process only, and the workers do not outlive it. Processes start with the first calls; a
    script that uses them needs ``if __name__ == "__main__"``.

    Args:
        workers: Number of processes, at least 1.

    Example:
        >>> pool = WorkerPool(2)
        >>> try:
        ...     pool.submit(divmod, 7, 2).result()
        ... finally:
        ...     pool.kill()
        (3, 1)
    """

    def __init__(self, workers: int):
        context = multiprocessing.get_context("spawn")
        self._executor = concurrent.futures.ProcessPoolExecutor(workers, context, _initialize_worker)

    def submit(self, function: Callable, *arguments) -> concurrent.futures.Future:
        """Run a function in one of the processes.

        Args:
            function: Importable by the processes; what it returns or raises has to be picklable.
            *arguments: Its arguments, picklable.

        Returns:
            Future of what it returns.

        Raises:
            concurrent.futures.BrokenExecutor: If a process died; then the future of every call that was not done
                raises it too, and a new pool is needed.
        """
        # Processes are started here and inherit the mask: Ctrl-C reaches the main process only, even while they start.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._executor.submit(function, *arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def kill(self) -> None:
        """End all processes at once, whatever they are doing."""
        # ProcessPoolExecutor itself would wait for running simulations, which can take an hour.
        processes = list((getattr(self._executor, "_processes", None) or {}).values())
        manager = getattr(self._executor, "_executor_manager_thread", None)
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        # Its thread closes pipes that Python, if it exits meanwhile, would still write to.
        if manager is not None:
            manager.join(timeout=10.0)


def _initialize_worker() -> None:
    """One thread per worker, and no life after the death of the main process."""
    for variable in THREAD_VARIABLES:
        os.environ[variable] = "1"
    import threadpoolctl

    # The variables reach libraries that are loaded later, this call those that NumPy has loaded already.
    threadpoolctl.threadpool_limits(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
