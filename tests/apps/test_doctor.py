import json
import os
import pathlib
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).parents[2] / "apps" / "doctor.py"


def run(*flags, **environ):
    return subprocess.run(
        [sys.executable, SCRIPT, *flags], capture_output=True, text=True, env={**os.environ, **environ}
    )


def test_this_installation(tmp_path):
    result = run(KERAS_COSMO_CACHE=str(tmp_path))
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[-1] == "Everything that the core needs works."
    for subject in (
        "Python",
        "tensorflow",
        "tensorflow-probability",
        "healpy",
        "cores",
        "memory",
        "GPU",
        "convolution",
    ):
        assert any(line.split(None, 1)[1].startswith(f"{subject}: ") for line in lines if line[:4] in ("ok  ", "note"))
    assert "GFLOP/s" in result.stdout


def test_a_broken_one_names_the_line(tmp_path):
    """Two of them: another backend, and an ordinary file in the place of the cache."""
    (tmp_path / "file").write_text("")
    result = run("--json", KERAS_BACKEND="numpy", KERAS_COSMO_CACHE=str(tmp_path / "file" / "cache"))
    assert result.returncode == 1
    broken = {each["subject"]: each for each in json.loads(result.stdout) if each["status"] == "broken"}
    assert {"KERAS_BACKEND", "cache folder"} <= set(broken)
    assert broken["KERAS_BACKEND"]["advice"] == "unset KERAS_BACKEND"


def test_without_the_package(tmp_path):
    result = subprocess.run([sys.executable, "-S", "-E", SCRIPT], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert "pip install . in the clone" in result.stdout
    assert result.stderr == ""
