"""Apps with ``--workers``: what is said before anything starts, a worker that is killed, and how the run goes on."""

import contextlib
import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import small_lightcones

from keras_cosmo.export import saved_model
from keras_cosmo.tasks import workers
from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.regression import RegressionTask
from keras_cosmo.tasks.settings import RunSettings, settings_from, settings_from_json

APP = pathlib.Path(__file__).parents[2] / "apps" / "train_regression.py"
FLAGS = ["--epochs", "4", "--batch-size", "8", "--learning-rate", "1e-5"]


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--workers", "0"], 2, "--workers: expected a number of processes, or one of auto, tf_config, slurm, got 0"),
        (["--workers", "many"], 2, "--workers: expected a number of processes, .* got 'many'"),
        (["--workers", "2", "--worker-timeout", "0"], 2, "--worker-timeout: expected a positive number, got 0.0"),
        (["--workers", "3", "--batch-size", "8"], 1, "--batch-size 8 cannot be divided among 3 workers: .* such as 9"),
        (["--workers", "tf_config"], 1, "the variable TF_CONFIG is not set"),
        (["--workers", "slurm"], 1, "SLURM_STEP_NUM_TASKS, .* not set. Start the workers with srun"),
    ],
)
def test_said_before_anything_starts(flags, status, message, tmp_path, capsys, monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    data = small_lightcones.write(tmp_path / "cones.h5")
    assert main(RegressionTask(), ["--data", str(data), "--out", str(tmp_path / "run"), *flags]) == status
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_fewer_gpus_than_workers(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    data = small_lightcones.write(tmp_path / "cones.h5")
    flags = ["--data", str(data), "--out", str(tmp_path / "run"), "--workers", "4", "--batch-size", "8"]
    assert main(RegressionTask(), flags) == 1
    assert "--workers 4: there are 2 GPUs, and every worker needs one of its own" in capsys.readouterr().err


def test_cores_and_gpus_are_shared(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(10))
    found = workers._environments({"CUDA_VISIBLE_DEVICES": "4,7,9"}, 3)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["4", "7", "9"]
    assert {one["TF_NUM_INTRAOP_THREADS"] for one in found} == {"3"}
    found = workers._environments({"CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "5"}, 2)
    assert found == [{"TF_NUM_INTRAOP_THREADS": "5"}] * 2


def test_auto_without_a_cluster_is_one_process(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    called = []
    task = types.SimpleNamespace(run=lambda settings, progress: called.append(settings))
    settings = settings_from(RegressionTask(), {"workers": "auto"})
    assert workers.train_with_workers(task, settings) == 0
    assert called == [settings]


def test_settings_survive_json_without_the_team():
    task = RegressionTask()
    settings = settings_from(task, {"workers": 2, "batch_size": 10})
    led = RunSettings(**{**vars(settings), "team": object()})
    assert "team" not in led.to_json()
    assert settings_from_json(task, json.loads(json.dumps(led.to_json()))) == settings


@pytest.mark.parametrize(
    ("codes", "status", "message"),
    [
        ([0, 0], 0, ""),
        ([75, -9], 75, "worker 1 of 2 was killed by SIGKILL. Continue with the same command and --resume."),
        ([-9, 75], 75, "worker 0 of 2 was killed by SIGKILL"),
        ([75, 1], 1, "worker 1: no such map"),
        ([1, 75], 1, ""),
        ([130, None], 130, ""),
    ],
)
def test_status_of_the_job(codes, status, message, tmp_path, capsys):
    (tmp_path / "worker-1").write_text("begin\nno such map\n")
    processes = [types.SimpleNamespace(exitcode=code, name=f"worker {i}") for i, code in enumerate(codes)]
    ended = [process for process in processes if process.exitcode is not None]
    assert workers._status(ended, processes, [None, tmp_path / "worker-1"]) == status
    error = capsys.readouterr().err
    assert message in error
    assert bool(message) == bool(error)


def start(*flags):
    """The app in a process of its own."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, APP, *map(str, flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(folder, pattern, process):
    """Until there is such a file."""
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


def children(pid):
    """Workers that a process has started, chief first."""
    found = map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return sorted(one for one in found if b"spawn_main" in pathlib.Path(f"/proc/{one}/cmdline").read_bytes())


def left(pids):
    """Those that still run."""
    running = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            running.append(pid)
    return running


def history(folder):
    with (folder / "history.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def quiet(monkeypatch):
    """Runs in this process draw and export nothing."""
    monkeypatch.setattr(saved_model, "export_saved_model", lambda model, folder, *_, **__: folder)
    monkeypatch.setattr(RegressionTask, "figures", lambda *_: {})
    monkeypatch.setattr(RegressionTask, "signatures", lambda *_: {})


def same_curves(one, other):
    assert len(one) == len(other) == 4
    for mine, theirs in zip(one, other, strict=True):
        for name, value in mine.items():
            np.testing.assert_allclose(theirs[name], value, rtol=5e-6, err_msg=name)


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(), reason="the kernel does not list child processes")
def test_a_killed_worker_ends_the_job_and_resume_goes_on(tmp_path, monkeypatch):
    """Killed in the second epoch of eight updates; gone on with as one process, with the losses of one process."""
    quiet(monkeypatch)
    data = small_lightcones.write(tmp_path / "cones.h5")
    flags = ["--data", data, "--saved-models", tmp_path / "saved_models", *FLAGS]
    app = start(*flags, "--out", tmp_path / "two", "--workers", "2", "--checkpoint-seconds", "1e-6")
    wait_for(tmp_path, "two/checkpoints/last-1[0-4].index", app)
    pids = children(app.pid)
    assert len(pids) == 2
    os.kill(pids[1], signal.SIGKILL)
    _, error = app.communicate(timeout=120)
    assert app.returncode == 75
    last = error.strip().splitlines()[-1]
    assert last == "error: worker 1 of 2 was killed by SIGKILL. Continue with the same command and --resume."
    assert not left(pids)
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert (config["workers"], config["settings"]["workers"]) == (2, 2)
    assert len(history(tmp_path / "two")) == 1

    assert main(RegressionTask(), ["--resume", "--out", str(tmp_path / "two"), "--workers", "1"]) == 0
    assert main(RegressionTask(), list(map(str, [*flags, "--out", tmp_path / "one"]))) == 0
    same_curves(history(tmp_path / "one"), history(tmp_path / "two"))


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(), reason="the kernel does not list child processes")
@pytest.mark.parametrize("victim", ["chief", "terminate", "interrupt"])
def test_other_ends_and_two_workers_again(victim, tmp_path, monkeypatch):
    """The chief killed, SIGTERM, and Ctrl-C, after which the chief measures what there is; then two workers go on."""
    quiet(monkeypatch)
    data = small_lightcones.write(tmp_path / "cones.h5")
    flags = ["--data", data, "--saved-models", tmp_path / "saved_models", *FLAGS]
    two = ["--out", tmp_path / "two", "--workers", "2"]
    app = start(*flags, *two, "--checkpoint-seconds", "1e-6")
    wait_for(tmp_path, "two/checkpoints/last-1[0-4].index", app)
    pids = children(app.pid)
    number = {"chief": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}[victim]
    os.kill(pids[0] if victim == "chief" else app.pid, number)
    _, error = app.communicate(timeout=600)
    assert app.returncode == {"chief": 75, "terminate": 130, "interrupt": 0}[victim], error
    assert not left(pids)
    assert (tmp_path / "two" / "metrics.json").exists() == (victim == "interrupt")

    again = start("--resume", "--out", tmp_path / "two")
    _, error = again.communicate(timeout=1200)
    assert again.returncode == 0, error
    assert json.loads((tmp_path / "two" / "config.json").read_text())["workers"] == 2
    assert main(RegressionTask(), list(map(str, [*flags, "--out", tmp_path / "one"]))) == 0
    same_curves(history(tmp_path / "one"), history(tmp_path / "two"))
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert metrics[0].keys() == metrics[1].keys()


def environment_of(index, addresses):
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    return {"TF_CONFIG": json.dumps(cluster)}


def test_a_worker_that_does_not_come(tmp_path, capsys, monkeypatch):
    """Without TensorFlow, which waits for an hour."""
    from keras_cosmo.training.cluster import local_addresses

    addresses = list(local_addresses(2))
    monkeypatch.setenv("TF_CONFIG", environment_of(0, addresses)["TF_CONFIG"])
    ended = []
    monkeypatch.setattr(workers, "_end", ended.append)
    data = small_lightcones.write(tmp_path / "cones.h5")
    flags = ["--workers", "tf_config", "--worker-timeout", "0.5", "--batch-size", "8"]
    main(RegressionTask(), ["--data", str(data), "--out", str(tmp_path / "run"), *flags])
    assert ended == [1]
    assert f"Worker 1 ({addresses[1]}) did not come within 0.5 s" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
