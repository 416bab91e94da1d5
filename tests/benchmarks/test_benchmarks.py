"""What the benchmarks share: ratios, tables; networks of both kinds with equally many weights."""

import json
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def side_by_side(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import side_by_side

    return side_by_side


def test_ratios_are_of_the_best_rounds(side_by_side):
    results = {
        "ours": [{"train_per_second": 4.0, "next_seconds": 2.0}, {"train_per_second": 6.0, "next_seconds": 1.0}],
        "theirs": [{"train_per_second": 3.0, "next_seconds": 5.0}, {"train_per_second": 2.0, "next_seconds": 4.0}],
    }
    assert side_by_side.merged(results["ours"]) == {"train_per_second": 6.0, "next_seconds": 1.0}
    assert side_by_side.ratio(results, "ours", "theirs", "train_per_second") == 2.0
    assert side_by_side.ratio(results, "ours", "theirs", "next_seconds") == 4.0
    assert side_by_side.ratio(results, "ours", "nobody", "next_seconds") is None
    assert side_by_side.ratio(results, "ours", "theirs", "sample_per_second") is None


def test_the_fastest_call_counts(side_by_side, monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr(side_by_side.time, "process_time", lambda: next(clock))
    assert side_by_side.fastest(lambda: None, seconds=5.0) == 1.0


def test_tables_are_markdown(side_by_side):
    assert side_by_side.table(["who", "speed"], [["ours", 1234.5], ["theirs", 0.12345], ["nobody", None]]) == (
        "| who    | speed |\n|--------|------:|\n| ours   | 1,234 |\n| theirs | 0.123 |\n| nobody |       |"
    )


def test_a_benchmark_measures_and_writes(tmp_path):
    pytest.importorskip("powerbox")
    file = tmp_path / "spectra.json"
    command = [sys.executable, FOLDER / "spectra_speed.py", "--sides", "8", "--maps", "2", "--seconds", "0"]
    result = subprocess.run([*command, "--rounds", "1", "--json", file], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "| keras_cosmo, 8 x 8 |" in result.stdout
    written = json.loads(file.read_text())
    assert written["machine"]["threads"] == 1
    assert written["machine"]["versions"]["numpy"]
    assert written["results"]["8"]["difference"] < 1e-9
    assert {len(rows) for rows in written["results"]["8"]["rows"].values()} == {1}


def test_a_failed_measurement_is_told():
    command = [sys.executable, FOLDER / "spectra_speed.py", "--sides", "1", "--rounds", "1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "at least 2" in result.stderr
    assert "exit status 1" in result.stderr


def test_rounds_are_checked():
    command = [sys.executable, FOLDER / "spectra_speed.py", "--rounds", "0"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "--rounds: expected at least 1, got 0\n"


@pytest.mark.parametrize(
    "network", ["regression", "matter", "separation", "dust", "higlow", "higlow-quick", "higlow-public"]
)
def test_both_kinds_of_a_network_have_the_same_number_of_weights(network, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(FOLDER)
    import network_speed
    import torch_networks

    shape = (48, 64) if network == "regression" else (16, 16)
    maps, targets = network_speed.batch(network, shape, 2)
    ours = network_speed.keras_model(network, shape, "float32", width=4)
    theirs = torch_networks.training_case(network, shape, maps, targets, width=4, flow=network_speed.FLOWS.get(network))
    assert network_speed.count_weights(ours) == theirs.parameters


@pytest.mark.slow
def test_a_task_from_the_disk_against_memory(tmp_path):
    file = tmp_path / "streaming.json"
    command = [sys.executable, FOLDER / "streaming_tasks.py", "--tasks", "regression", "--seconds", "0"]
    result = subprocess.run(
        [*command, "--rounds", "1", "--folder", tmp_path, "--json", file], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    (written,) = json.loads(file.read_text())["results"].values()
    assert [row["steps"] for rows in written["rows"].values() for row in rows] == [2, 2, 2]
    assert all(row["processor_per_second"] > 0 for rows in written["rows"].values() for row in rows)
    assert not list(tmp_path.glob("*/*.h5"))
