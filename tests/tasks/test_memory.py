"""Whole runs, from the scan to the export, on some maps and on ten times as many: what they keep in memory."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import small_coeval
import small_hydrogen
import small_lightcones
import small_lines

REPOSITORY = pathlib.Path(__file__).parents[2]
FEW, TIMES = 300, 10


def lightcones(path, count):
    return small_lightcones.write(path, simulations=count // 2, per_simulation=2, shape=(32, 512))


def boxes(path, count):
    return small_coeval.write(path, simulations=count // 10, per_simulation=10, side=64, redshifts=(15.0,))


def lines(path, count):
    return small_lines.write(path, fields=small_lines.maps(count, side=64))


def hydrogen(path, count):
    known = small_hydrogen.values(count // 10)
    return small_hydrogen.write(path, known=known, fields={"hi": small_hydrogen.maps(known, 10, side=96)})


RUNS = {
    "regression": ("train_regression.py", lightcones, ["--filters", "2", "2", "--kernel-size", "3"]),
    "matter": ("train_matter.py", boxes, ["--widths", "2", "4", "--redshifts", "15"]),
    "astro": (
        "train_astro.py",
        boxes,
        ["--widths", "2", "4", "--regression-widths", "4", "4", "4", "--redshifts", "15", "--encoder", "scratch"],
    ),
    "separation": ("train_separation.py", lines, ["--depth", "3", "--width", "2", "--no-l1-baseline"]),
    "higlow": (
        "train_higlow.py",
        hydrogen,
        [
            *("--blocks", "1", "--steps", "1", "--width", "4", "--posterior-maps", "1", "--grid-cells", "12"),
            *("--generated-maps", "2", "--moment-epochs", "0"),
        ],
    ),
}


def peak(folder, data, app, flags) -> int:
    command = [sys.executable, pathlib.Path(__file__).with_name("watched_run.py"), REPOSITORY / "apps" / app]
    flags = [*flags, "--data", data, "--out", folder / "run", "--saved-models", folder / "saved_models"]
    result = subprocess.run(
        [*command, "--epochs", "1", "--batch-size", "16", *flags], capture_output=True, text=True, cwd=folder
    )
    assert result.returncode == 0, result.stderr
    return int(result.stdout.splitlines()[-1].removeprefix("peak "))


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("task", RUNS)
def test_ten_times_the_maps_in_the_same_memory(task, tmp_path):
    app, write, flags = RUNS[task]
    peaks, sizes = [], []
    for count in (FEW, TIMES * FEW):
        folder = tmp_path / str(count)
        folder.mkdir()
        data = write(folder / "maps.h5", count)
        sizes.append(data.stat().st_size)
        peaks.append(peak(folder, data, app, flags))
        data.unlink()
    more = sizes[1] - sizes[0]
    assert more > 80e6
    # What is allowed is for numbers of each map, and for the allocator; a part of the maps in float64 would be more.
    assert peaks[1] - peaks[0] < 0.25 * more, (np.array(peaks) / 1e6, np.array(sizes) / 1e6)
