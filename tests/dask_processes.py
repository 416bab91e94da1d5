"""A Dask scheduler and workers as processes of their own, for tests that kill them."""

import contextlib
import os
import pathlib
import subprocess
import sys

TESTS = pathlib.Path(__file__).parent
# A worker's program; what a test wants different comes first.
WORKER = "import sys; {before}; sys.argv[0] = 'dask-worker'; from distributed.cli.dask_worker import main; main()"


class DaskProcesses:
    """Starts scheduler and workers on loopback, and ends all of them.

    Args:
        folder: For files and logs.
        **settings: Dask's, such as ``scheduler__allowed_failures="0"``.
    """

    def __init__(self, folder, **settings):
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.scheduler = None
        self.workers = []
        path = [str(TESTS.parent), str(TESTS / "data"), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            **{f"DASK_DISTRIBUTED__{name.upper()}": value for name, value in settings.items()},
        }

    def start_scheduler(self, port=0):
        """Start a scheduler; its file says where it is."""
        self.file.unlink(missing_ok=True)
        program = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
        self.scheduler = self._start(*program, "--no-dashboard", "--scheduler-file", str(self.file))
        return self.scheduler

    def start_worker(self, *flags, before="pass"):
        """Start a worker of one process; it dies for good when killed, unless there is ``--nanny``."""
        program = [sys.executable, "-c", WORKER.format(before=before), "--scheduler-file", str(self.file)]
        common = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self.folder)]
        # The last of two flags counts.
        self.workers.append(self._start(*program, *common, "--death-timeout", "60", *flags))
        return self.workers[-1]

    def _start(self, *command):
        with (self.folder / "dask.log").open("a") as log:
            return subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def stop(self):
        """Kill all."""
        for process in (*self.workers, self.scheduler):
            with contextlib.suppress(ProcessLookupError, AttributeError):
                os.killpg(process.pid, 9)
        for process in (*self.workers, self.scheduler):
            if process is not None:
                process.wait()
