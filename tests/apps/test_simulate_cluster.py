"""Campaigns of the app on workers of Dask."""

import importlib.util
import logging
import pathlib
import signal
import subprocess
import sys
import time

import h5py
import pytest

pytest.importorskip("distributed")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from dask_processes import DaskProcesses

SCRIPT = pathlib.Path(__file__).parents[2] / "apps" / "simulate.py"
SMALL = ("hi-maps", "--count")


@pytest.fixture(scope="module")
def app():
    specification = importlib.util.spec_from_file_location("simulate_app", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def as_loud_as_before():
    """The app silences Dask's loggers for the rest of its process."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def finished_in(path):
    """Simulations in an unfinished database; 0 if there is none yet."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return int(file["finished"][()].sum())
    except OSError:
        return 0


def test_ctrl_c_another_worker_and_the_same_bytes(app, tmp_path, capsys):
    processes = DaskProcesses(tmp_path)
    out, partial, local = tmp_path / "a.h5", tmp_path / "a.h5.partial", tmp_path / "local.h5"
    arguments = ["lightcones", "--n-perp", "8", "--n-los", "64", "--count", "60", "--seed", "3"]
    assert app.main([*arguments, "--out", str(local), "--workers", "1"]) == 0
    command = [sys.executable, str(SCRIPT), *arguments, "--out", str(out), "--scheduler", str(processes.file)]
    try:
        processes.start_scheduler()
        worker = processes.start_worker()
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 60.0
            while not finished_in(partial):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert "simulations finished; they are kept in" in errors
        assert "Traceback" not in errors
        assert 1 <= finished_in(partial) < 60
        worker.kill()
        processes.start_worker()
        assert app.main(command[2:]) == 0
    finally:
        processes.stop()
    assert out.read_bytes() == local.read_bytes()
    assert "60 simulations x 1 maps: brightness_temp (8, 64)" in capsys.readouterr().out


def test_nobody_there_is_one_line_and_status_1(app, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("keras_cosmo.data.dask_workers.CONNECT", 0.5)
    flags = [*SMALL, "2", "--out", str(tmp_path / "a.h5")]
    assert app.main([*flags, "--scheduler", "tcp://127.0.0.1:9"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: tcp://127.0.0.1:9: no Dask scheduler answers (")
    assert len(error.strip().splitlines()) == 1
    monkeypatch.setenv("PATH", "/nowhere")
    pytest.importorskip("dask_jobqueue")
    assert app.main([*flags, "--cluster", "slurm"]) == 1
    assert "SLURM's command sbatch is not on this machine" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_dask_the_extra_is_named(app, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    flags = [*SMALL, "2", "--out", str(tmp_path / "a.h5")]
    assert app.main([*flags, "--scheduler", "tcp://127.0.0.1:9"]) == 1
    assert "Run: pip install '.[cluster]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--scheduler a:1 --cluster slurm", "--cluster starts a scheduler of its own. Give it or --scheduler"),
        ("--scheduler a:1 --workers 2", "--workers is for processes on this machine"),
        ("--worker-timeout 5", "--worker-timeout is for --scheduler and --cluster."),
        ("--scheduler a:1 --job-cores 5", "--job-cores is for --cluster slurm."),
        ("--print-job", "--print-job is for --cluster slurm."),
        ("--cluster slurm --walltime soon", "expected a walltime in minutes, or such as 04:00:00"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(app, tmp_path, capsys, flags, message):
    assert app.main([*SMALL, "2", "--out", str(tmp_path / "a.h5"), *flags.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_script_of_a_job(app, tmp_path, capsys):
    pytest.importorskip("dask_jobqueue")
    flags = ["--cluster", "slurm", "--job-cores", "32", "--partition", "long", "--job-setup", "module load python"]
    logs = tmp_path / "logs"
    more = ["--job-setup", "export A=1", "--job-logs", str(logs), "--print-job"]
    assert app.main([*SMALL, "2", "--out", str(tmp_path / "a.h5"), *flags, *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = [
        "#SBATCH -p long",
        "#SBATCH --cpus-per-task=32",
        "#SBATCH --mem=64G",
        "module load python",
        "export A=1",
    ]
    assert set(expected) <= set(lines)
    assert f"#SBATCH -o {logs}/keras-cosmo-%J.out" in lines
    assert not (tmp_path / "a.h5").exists()
