"""Every script: help without heavy libraries, clear usage errors."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "apps").glob("*.py"))
# The others are what the benchmarks share.
BENCHMARKS = sorted(
    path for path in (ROOT / "benchmarks").glob("*.py") if path.stem not in ("side_by_side", "torch_networks")
)
NETWORKS = {"tensorflow", "keras", "torch"}
HEAVY = NETWORKS | {"matplotlib", "h5py", "sklearn", "pyccl", "scipy"}


def run(script, *flags):
    return subprocess.run([sys.executable, "-X", "importtime", script, *flags], capture_output=True, text=True)


@pytest.mark.parametrize("script", [*SCRIPTS, *BENCHMARKS], ids=lambda path: path.stem)
def test_help_loads_no_heavy_library(script):
    result = run(script, "--help")
    assert result.returncode == 0
    assert "usage" in result.stdout
    modules = {line.split("|")[-1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line}
    assert "argparse" in modules
    assert not modules & (HEAVY if script in SCRIPTS else NETWORKS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_unknown_flag_is_wrong_usage(script):
    result = run(script, "--no-such-flag")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_the_scripts_that_the_readme_names_exist():
    readme = (ROOT / "README.md").read_text()
    named = {word.strip("`") for word in readme.split() if word.startswith("apps/") and word.strip("`").endswith(".py")}
    assert named
    assert named <= {f"apps/{path.name}" for path in SCRIPTS}
