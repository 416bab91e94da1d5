"""Jobs of the queue system SLURM whose processes simulate."""

import dataclasses
import logging
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from keras_cosmo.data.dask_workers import require_dask

logger = logging.getLogger(__name__)

# Seconds that a job needs at its end to give back what it has.
SHORTEST = 300
WALLTIME = re.compile(r"(?:(?P<days>\d+)-(?P<rest>\d+(?::\d+){0,2})|(?P<plain>\d+(?::\d+){0,2}))")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmJobs:
    """Jobs of SLURM that bring workers to a Dask scheduler in this process; written with dask-jobqueue.

    A job has one process of one thread on each of its cores. Jobs that end, at their walltime or otherwise, are
    replaced as long as there is work; shortly before their walltime their workers leave, so that a simulation that has
    not ended is moved, not counted as a death.

    Args:
        jobs: Largest number of jobs at a time.
        minimum_jobs: Smallest number while the campaign runs; None for ``jobs``. With fewer, jobs are submitted
            as simulations wait for them, and end when they idle.
        cores: Of each job.
        memory: Of each job, such as ``"16GB"``; None for 2 GiB per core.
        walltime: Of each job: minutes, ``"04:00:00"`` or ``"1-12:00:00"``, 5 minutes or more.
        partition: Queue of the jobs; None for the default one.
        account: That the jobs are charged to; None for the default one.
        interface: Network interface by which workers reach this machine, such as ``"ib0"``; None for the usual one.
        setup: Lines of shell for the job before its workers start, such as ``"module load python"``.
        logs: Folder for what the jobs print; None for where SLURM puts it.

    Raises:
        ValueError: If a number is out of range or a walltime is none.

    Example:
        >>> jobs = SlurmJobs(jobs=4, cores=16, walltime="04:00:00", partition="compute")
        >>> print(jobs.script())  # doctest: +SKIP
        #!/usr/bin/env bash
        ...
    """

    jobs: int = 1
    minimum_jobs: int | None = None
    cores: int = 8
    memory: str | None = None
    walltime: str = "01:00:00"
    partition: str | None = None
    account: str | None = None
    interface: str | None = None
    setup: tuple[str, ...] = ()
    logs: pathlib.Path | str | None = None

    def __post_init__(self):
        for name, value, low in (("jobs", self.jobs, 1), ("cores", self.cores, 1), ("minimum_jobs", self.minimum, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"SlurmJobs: expected {name} to be an integer >= {low}, got {value!r}.")
        if self.minimum > self.jobs:
            raise ValueError(f"SlurmJobs: expected minimum_jobs <= jobs, got {self.minimum} and {self.jobs}.")
        if self.seconds < SHORTEST:
            raise ValueError(f"SlurmJobs: expected a walltime of 5 minutes or more, got {self.walltime!r}.")
        if not re.fullmatch(r"\d+(\.\d+)? ?[kKMGT]i?B", self.amount):
            raise ValueError(f"SlurmJobs: expected memory such as '16GB', got {self.memory!r}.")

    @property
    def minimum(self) -> int:
        """Smallest number of jobs."""
        return self.jobs if self.minimum_jobs is None else self.minimum_jobs

    @property
    def amount(self) -> str:
        """Memory of a job."""
        return f"{2 * self.cores}GiB" if self.memory is None else self.memory

    @property
    def threads(self) -> int:
        """Workers of all jobs together."""
        return self.jobs * self.cores

    @property
    def seconds(self) -> int:
        """The walltime."""
        match = WALLTIME.fullmatch(self.walltime)
        if match is None:
            raise ValueError(
                f"SlurmJobs: expected a walltime in minutes, or such as 04:00:00 or 1-12:00:00, got {self.walltime!r}."
            )
        parts = [int(part) for part in (match["rest"] or match["plain"]).split(":")]
        # As sbatch reads them: days-hours:minutes:seconds, but minutes:seconds without days.
        units = (3600, 60, 1) if match["days"] or len(parts) == 3 else (60, 1)
        return 86400 * int(match["days"] or 0) + sum(a * b for a, b in zip(parts, units, strict=False))

    def script(self) -> str:
        """The script that is submitted for each job, with the address of no scheduler yet.

        Raises:
            ImportError: If dask-jobqueue is not installed.
        """
        _require_jobqueue()
        from dask_jobqueue.slurm import SLURMJob

        return SLURMJob(scheduler="tcp://SCHEDULER:PORT", name="JOB", **self._options()).job_script()

    def check(self) -> None:
        """Ask SLURM whether it would take such a job, without submitting it.

        Raises:
            FileNotFoundError: If there is no SLURM on this machine.
            ValueError: If it would not, with its reason.
        """
        for command in ("sbatch", "scancel"):
            if shutil.which(command) is None:
                raise FileNotFoundError(
                    f"SLURM's command {command} is not on this machine. Start on a login node of the cluster, or start "
                    f"a scheduler and workers yourself and give --scheduler."
                )
        with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
            file.write(self.script())
            file.flush()
            command = ["sbatch", "--test-only", file.name]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        said = " ".join((result.stderr or result.stdout).split())
        if result.returncode:
            raise ValueError(f"SLURM would not take the jobs: {said or f'exit status {result.returncode}'}")
        logger.info("SLURM would take the jobs (%s).", said or "no remarks")

    def cluster(self):
        """A ``dask_jobqueue.SLURMCluster`` that keeps these jobs in the queue until it is closed.

        Raises:
            ImportError: If dask-jobqueue is not installed.
            FileNotFoundError: As `check`.
            ValueError: As `check`.
        """
        _require_jobqueue()
        self.check()
        from dask_jobqueue import SLURMCluster

        cluster = SLURMCluster(scheduler_options={"dashboard_address": ":0"}, **self._options())
        # A short target asks for as many workers as simulations wait; Dask's own would call one worker enough for many
        # short ones. Jobs that have waited in a queue are not let go for a moment without work.
        cluster.adapt(
            minimum_jobs=self.minimum,
            maximum_jobs=self.jobs,
            target_duration="100ms",
            interval="2s",
            wait_count=30,
        )
        return cluster

    def _options(self) -> dict:
        margin = min(max(self.seconds // 20, 30), 600)
        return {
            "queue": self.partition,
            "account": self.account,
            "cores": self.cores,
            "processes": self.cores,
            "memory": self.amount,
            "walltime": self.walltime,
            "interface": self.interface,
            "job_name": "keras-cosmo",
            "job_script_prologue": list(self.setup),
            "log_directory": None if self.logs is None else str(self.logs),
            "python": sys.executable,
            "worker_extra_args": ["--lifetime", f"{self.seconds - 2 * margin}s", "--lifetime-stagger", f"{margin}s"],
        }


def _require_jobqueue() -> None:
    import importlib.util

    require_dask()
    if importlib.util.find_spec("dask_jobqueue") is None:
        raise ImportError("dask-jobqueue is not installed. Run: pip install '.[cluster]'")
