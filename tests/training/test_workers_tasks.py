"""Apps with ``--workers 2`` whose training is tested nowhere else: losses of one process with the same batch."""

import csv
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import small_coeval
import small_skies

APPS = pathlib.Path(__file__).parents[2] / "apps"
COEVAL = ["--batch-size", "8", "--widths", "4", "8", "--redshifts", "15"]
# Rates so small that rounding does not grow within a few updates; dropout and augmentation are as in the presets.
RUNS = {
    "matter": (small_coeval, [*COEVAL, "--learning-rate", "1e-5"]),
    "astro": (
        small_coeval,
        [*COEVAL, "--regression-widths", "8", "8", "--encoder", "scratch", "--learning-rate", "1e-5"],
    ),
    "dust": (
        small_skies,
        [
            *(
                "--batch-size",
                "8",
                "--fractions",
                "0.5",
                "0.25",
                "0.25",
                "--cutout-cells",
                "16",
                "--pixel-size",
                "93.6",
            ),
            *("--widths", "4", "8", "--bottleneck", "8", "--train-cutouts", "44", "--test-cutouts", "8"),
            *("--validation-cutouts", "12", "--learning-rate", "1e-5"),
        ],
    ),
}
TOLERANCE = 1e-5
# Correlations near zero have the rounding of those near one.
NEAR_ZERO = 1e-7


def history(app, folder, *flags):
    """Columns of ``history.csv`` of a run of an app."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, APPS / f"train_{app}.py", "--out", folder, "--saved-models", folder, *flags]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


@pytest.mark.slow
@pytest.mark.parametrize("task", RUNS)
def test_two_workers_of_an_app_equal_one_process(task, tmp_path):
    small, flags = RUNS[task]
    flags = ["--data", small.write(tmp_path / "maps.h5"), "--epochs", "3", *flags]
    alone = history(task, tmp_path / "one", *flags)
    together = history(task, tmp_path / "two", *flags, "--workers", "2")
    assert alone.keys() == together.keys()
    assert len(alone["loss"]) == len(set(alone["loss"])) == 3
    for name, values in alone.items():
        np.testing.assert_allclose(together[name], values, rtol=TOLERANCE, atol=NEAR_ZERO, err_msg=f"{task} {name}")
