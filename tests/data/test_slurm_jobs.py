import importlib.util
import os
import pathlib
import re
import signal
import sys

import pytest

pytest.importorskip("dask_jobqueue")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

from fake_simulator import FakeSimulator

from keras_cosmo.data.campaign import run_campaign
from keras_cosmo.data.dask_workers import DaskWorkers
from keras_cosmo.data.slurm_jobs import SlurmJobs

# A queue system of one machine: jobs are processes, and their numbers those of their groups.
SBATCH = """#!/bin/sh
if [ "$1" = --test-only ]; then {test}; fi
cp "$1" {folder}/submitted.sh
setsid sh {folder}/submitted.sh > {folder}/job.log 2>&1 &
echo "Submitted batch job $!" | tee -a {folder}/jobs
"""
SCANCEL = """#!/bin/sh
echo "$1" >> {folder}/cancelled
kill -TERM -- "-$1"
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Make commands sbatch and scancel, and end their jobs."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(test="echo 'sbatch: Job 7 to start at once' >&2; exit 0"):
        for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
            (folder / name).write_text(text.format(folder=tmp_path, test=test))
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    yield make
    for job in re.findall(r"\d+", (tmp_path / "jobs").read_text()) if (tmp_path / "jobs").exists() else ():
        try:
            os.killpg(int(job), signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_the_script_says_what_was_asked_for():
    jobs = SlurmJobs(
        jobs=4, cores=16, memory="40GiB", walltime="04:00:00", partition="compute", account="abc", interface="lo",
        setup=("module load python", "export A=1"), logs=None,
    )  # fmt: skip
    lines = jobs.script().splitlines()
    for line in (
        "#SBATCH -p compute", "#SBATCH -A abc", "#SBATCH --cpus-per-task=16", "#SBATCH --mem=40G",
        "#SBATCH -t 04:00:00", "module load python", "export A=1",
    ):  # fmt: skip
        assert line in lines
    command = next(line for line in lines if "dask_worker" in line)
    assert command.startswith(f"{sys.executable} -m distributed.cli.dask_worker tcp://SCHEDULER:PORT ")
    # 16 processes of one thread, that leave ten minutes before the end, give or take ten minutes.
    for words in (
        "--nthreads 1", "--nworkers 16", "--memory-limit 2.50GiB", "--interface lo", "--lifetime 13200s",
        "--lifetime-stagger 600s",
    ):  # fmt: skip
        assert words in command
    assert (jobs.threads, jobs.minimum, SlurmJobs(jobs=4, minimum_jobs=0).minimum) == (64, 4, 0)
    assert "#SBATCH --mem=16G" in SlurmJobs().script()
    assert "SBATCH -p" not in SlurmJobs().script()


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [
        ("30", 1800), ("30:10", 1810), ("04:00:00", 14400), ("1-12", 129600), ("1-12:30", 131400),
        ("2-00:00:05", 172805),
    ],
)  # fmt: skip
def test_walltimes_are_read_as_sbatch_does(walltime, seconds):
    assert SlurmJobs(walltime=walltime).seconds == seconds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "expected jobs to be an integer >= 1, got 0"),
        ({"cores": 1.5}, "expected cores to be an integer >= 1, got 1.5"),
        ({"minimum_jobs": -1}, "expected minimum_jobs to be an integer >= 0, got -1"),
        ({"minimum_jobs": 2}, "expected minimum_jobs <= jobs, got 2 and 1"),
        ({"walltime": "soon"}, "expected a walltime in minutes, or such as 04:00:00 or 1-12:00:00, got 'soon'"),
        ({"walltime": "4"}, "expected a walltime of 5 minutes or more, got '4'"),
        ({"memory": "much"}, "expected memory such as '16GB', got 'much'"),
    ],
)
def test_jobs_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=f"SlurmJobs: {message}"):
        SlurmJobs(**options)


def test_what_slurm_says_beforehand(slurm, monkeypatch, caplog):
    caplog.set_level("INFO")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        with pytest.raises(FileNotFoundError, match="SLURM's command sbatch is not on this machine"):
            SlurmJobs().cluster()
    slurm("echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(ValueError, match="SLURM would not take the jobs: sbatch: error: invalid partition specified"):
        SlurmJobs(partition="gpu").cluster()
    slurm()
    SlurmJobs().check()
    assert "SLURM would take the jobs (sbatch: Job 7 to start at once)" in caplog.text
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "dask_jobqueue" else object())
    with pytest.raises(ImportError, match=r"dask-jobqueue is not installed. Run: pip install '.\[cluster\]'"):
        SlurmJobs().script()


def test_campaign_in_jobs(tmp_path, slurm, monkeypatch):
    slurm()
    folder = pathlib.Path(__file__).parent
    jobs = SlurmJobs(
        jobs=1,
        cores=2,
        interface="lo",
        setup=(f"export PYTHONPATH={folder}{os.pathsep}{folder.parents[1]}:$PYTHONPATH",),
    )
    monkeypatch.chdir(tmp_path)
    local = run_campaign(FakeSimulator(), tmp_path / "local.h5", count=8, seed=5, workers=0)
    with DaskWorkers(jobs.cluster(), worker_timeout=60.0, expected=jobs.threads) as workers:
        path = run_campaign(FakeSimulator(), tmp_path / "a.h5", count=8, seed=5, cluster=workers)
    assert path.read_bytes() == local.read_bytes()
    assert "#SBATCH -J keras-cosmo" in (tmp_path / "submitted.sh").read_text()
    job = re.search(r"\d+", (tmp_path / "jobs").read_text())[0]
    assert job in (tmp_path / "cancelled").read_text().split()
