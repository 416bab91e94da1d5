"""Situations of users, faked."""

import dataclasses
import importlib.metadata
import json
import os
import signal
import subprocess

import pytest
from packaging.requirements import Requirement

from keras_cosmo.tasks import installation
from keras_cosmo.tasks.installation import Finding


@pytest.fixture
def versions(monkeypatch):
    """Distributions that are said to be installed."""
    known = {"keras_cosmo": "0.1.0", "tensorflow": "2.21.0", "keras": "3.15.1", "tf-keras": "2.21.0", "numpy": "2.4.0"}
    monkeypatch.setattr(installation, "installed_version", known.get)
    groups = {
        "": ["tensorflow>=2.21", "keras>=3.15", "numpy>=2.1"],
        "21cmfast": ["21cmFAST>=4.1.1"],
        "test": ["keras>=3"],
    }
    groups = {name: [Requirement(text) for text in texts] for name, texts in groups.items()}
    monkeypatch.setattr(installation, "requirements", lambda: groups)
    return known


def statuses(findings):
    return {finding.subject: finding.status for finding in findings}


def probe(*steps):
    return "".join(json.dumps(step) + "\n" for step in steps)


STEPS = (
    {"step": "tensorflow", "cuda": None, "cudnn": None},
    {"step": "keras", "backend": "tensorflow"},
    {"step": "tensorflow_probability"},
    {"step": "devices", "gpus": []},
    {"step": "convolution", "seconds": 0.004, "gflops": 300.0},
)


def test_all_that_is_needed_is_there(versions):
    assert set(statuses(installation.packages()).values()) == {"ok"}
    assert installation.conflicts({}) == []
    found = installation.judge_probe(0, probe(*STEPS), "", {})
    assert set(statuses(found)) == {"Keras backend", "GPU", "convolution"}
    assert "300 GFLOP/s" in str(found[-1])
    assert "longer" not in str(found[-1])


def test_a_package_that_is_missing_or_too_old(versions):
    versions["keras"] = "2.15.0"
    del versions["numpy"]
    broken = {f.subject: f for f in installation.packages() if f.status == "broken"}
    assert "2.15.0, expected >=3.15" in broken["keras"].text
    assert broken["numpy"].advice == "pip install 'numpy>=2.1'"
    assert set(broken) == {"keras", "numpy"}


def test_the_package_itself_is_not_installed(versions):
    del versions["keras_cosmo"]
    (found,) = installation.packages()
    assert (found.status, found.advice) == ("broken", "pip install . in the clone")
    assert installation.extras() == []


def test_tensorflow_is_missing(versions):
    del versions["tensorflow"]
    (found,) = installation.tensorflow_at_work({})
    assert found.status == "broken"


@pytest.mark.parametrize(
    ("environ", "subject", "status", "words"),
    [
        ({"KERAS_BACKEND": "jax"}, "KERAS_BACKEND", "broken", "is 'jax', expected 'tensorflow'"),
        ({"TF_USE_LEGACY_KERAS": "1"}, "TF_USE_LEGACY_KERAS", "note", "Keras 2"),
    ],
)
def test_settings_in_the_way(environ, subject, status, words, versions):
    (found,) = installation.conflicts(environ)
    assert (found.subject, found.status) == (subject, status)
    assert words in found.text


def test_packages_in_the_way(versions):
    versions |= {"tf-keras": "2.19.0", "tensorflow-cpu": "2.20.0"}
    several, legacy = installation.conflicts({})
    assert "tensorflow 2.21.0, tensorflow-cpu 2.20.0" in several.text
    assert "2.19.0 beside TensorFlow 2.21.0" in legacy.text
    assert legacy.advice == "pip install 'tf-keras~=2.21.0'"


def test_another_backend_in_the_settings_of_keras():
    (found,) = installation.judge_probe(0, probe(STEPS[0], {"step": "keras", "backend": "torch"}), "", {})
    assert found.status == "broken"
    assert "keras.json" in found.advice


@pytest.mark.parametrize(
    ("status", "steps", "errors", "words"),
    [
        (-signal.SIGILL, (), "", "instruction that it was compiled for (at tensorflow)"),
        (-signal.SIGKILL, STEPS[:3], "", "killed by signal 9 at devices"),
        (1, STEPS[:1], "Traceback\nImportError: no libfoo.so\n", "failed at keras: ImportError: no libfoo.so"),
        (1, STEPS[:2], "ModuleNotFoundError: tf_keras", "failed at tensorflow_probability"),
        (1, (), "", "failed at tensorflow: exit status 1"),
    ],
)
def test_tensorflow_that_does_not_come_up(status, steps, errors, words):
    found = installation.judge_probe(status, probe(*steps), errors, {})[-1]
    assert found.status == "broken"
    assert words in found.text
    assert found.advice


def test_tensorflow_that_does_not_answer(versions, monkeypatch):
    def run(*arguments, timeout, **options):
        raise subprocess.TimeoutExpired(arguments, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    (found,) = installation.tensorflow_at_work({})
    assert (found.status, found.text) == ("broken", "no answer after 300 s")


def test_gpu(monkeypatch):
    assert installation.devices(["NVIDIA H100"], "12.5.1", {}).text == "NVIDIA H100, CUDA 12.5.1"
    assert (
        "hidden by CUDA_VISIBLE_DEVICES='-1'" in installation.devices([], "12.5.1", {"CUDA_VISIBLE_DEVICES": "-1"}).text
    )
    monkeypatch.setattr(installation, "nvidia_driver", lambda: False)
    assert installation.devices([], None, {}).status == "ok"
    monkeypatch.setattr(installation, "nvidia_driver", lambda: True)
    found = installation.devices([], "12.5.1", {"LD_LIBRARY_PATH": "/opt/cuda-11"})
    assert found.status == "note"
    assert "does not find a GPU; LD_LIBRARY_PATH is /opt/cuda-11" in found.text
    for word in ("tensorflow[and-cuda]", "driver", "LD_LIBRARY_PATH", "TF_CPP_MIN_LOG_LEVEL"):
        assert word in found.advice
    assert "without CUDA" in installation.devices([], None, {}).text


def test_cores_and_threads(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(installation, "cpu_quota", lambda: 2.5)
    cores, threads = installation.processor({"OMP_NUM_THREADS": "1"})
    assert cores.text.startswith("8 for this process")
    assert cores.text.endswith("limit on processor time of 2.5")
    assert (threads.status, threads.text) == ("note", "OMP_NUM_THREADS=1")
    assert installation.processor({"OMP_NUM_THREADS": "8"})[1].status == "ok"
    assert len(installation.processor({})) == 1


def test_limits_of_a_container(tmp_path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "none").write_text("max 100000\n")
    assert installation.cpu_quota(tmp_path / "cpu.max") == 1.5
    assert installation.cpu_quota(tmp_path / "none") is None
    assert installation.cpu_quota(tmp_path / "missing") is None
    (tmp_path / "meminfo").write_text("MemTotal: 64000000 kB\nMemFree: 1 kB\nMemAvailable: 32000000 kB\n")
    assert installation.memory_gigabytes(tmp_path / "meminfo", tmp_path) == (32.0, 64.0)
    (tmp_path / "memory.max").write_text("8000000000\n")
    (tmp_path / "memory.current").write_text("6000000000\n")
    assert installation.memory_gigabytes(tmp_path / "meminfo", tmp_path) == (2.0, 8.0)
    (tmp_path / "memory.max").write_text("max\n")
    assert installation.memory_gigabytes(tmp_path / "meminfo", tmp_path) == (32.0, 64.0)


def test_little_memory(monkeypatch):
    for free, total, status in ((20.0, 32.0, "ok"), (2.0, 32.0, "note"), (None, 2.0, "note"), (None, None, "ok")):
        monkeypatch.setattr(installation, "memory_gigabytes", lambda free=free, total=total: (free, total))
        assert installation.memory().status == status


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_COSMO_CACHE", str(tmp_path / "not" / "yet"))
    usage = type("Usage", (), {"free": 50e9})
    monkeypatch.setattr(installation.shutil, "disk_usage", lambda path: usage)
    assert installation.cache_folder() == Finding("cache folder", "ok", f"{tmp_path / 'not' / 'yet'}, 50 GB free")
    usage.free = 1e9
    assert installation.cache_folder().status == "note"
    (tmp_path / "not").write_text("a file")
    found = installation.cache_folder()
    assert (found.status, found.advice) == ("broken", "set KERAS_COSMO_CACHE to another folder")


def test_extras(versions):
    missing, there = installation.extras()
    assert (missing.subject, missing.status) == ("extra 21cmfast", "note")
    assert "lacks 21cmFAST" in missing.text
    assert "C compiler" in missing.advice
    assert (there.subject, there.status) == ("extra test", "ok")


def test_requirements_are_those_of_setup_cfg():
    groups = installation.requirements()
    assert {"tensorflow", "keras", "healpy", "astropy"} <= {each.name for each in groups[""]}
    assert {"test", "21cmfast", "cluster", "docs"} <= set(groups)


def test_requirements_without_a_clone(tmp_path, monkeypatch):
    lines = ["numpy>=2.1", 'dask[distributed]>=2025.1; extra == "cluster"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    extras = type("Metadata", (), {"get_all": staticmethod(lambda key: ["cluster"])})
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: extras)
    groups = installation.requirements(tmp_path)
    assert {name: [each.name for each in group] for name, group in groups.items()} == {
        "": ["numpy"],
        "cluster": ["dask"],
    }


def test_python_is_too_old(monkeypatch):
    assert installation.python_version().status == "ok"
    monkeypatch.setattr(installation, "OLDEST_PYTHON", (99, 0))
    assert installation.python_version().status == "broken"


def test_findings():
    line = Finding("GPU", "note", "none", "buy one")
    assert str(line) == "note   GPU: none\n       -> buy one."
    with pytest.raises(ValueError, match="`status`: expected one of ok, note, broken, got 'bad'"):
        dataclasses.replace(line, status="bad")
