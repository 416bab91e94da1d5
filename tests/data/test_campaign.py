import concurrent.futures
import dataclasses
import io
import json
import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from fake_simulator import FakeSimulator

from keras_cosmo.data import campaign
from keras_cosmo.data.campaign import CampaignError, draw_parameters, draw_seeds, run_campaign
from keras_cosmo.data.database import Database
from keras_cosmo.quantities import Parameter

SCRIPT = pathlib.Path(__file__).parent / "run_fake_campaign.py"
SEEDS = draw_seeds(12, 5)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("campaign") / "reference.h5"
    run_campaign(FakeSimulator(), path, count=12, seed=5, workers=0)
    return path.read_bytes()


def start(path, workers, when):
    command = [sys.executable, str(SCRIPT), str(path), "12", str(workers), when]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finished_in(path):
    with h5py.File(path, "r") as file:
        return file["finished"][()].astype(bool)


def names_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


def children_of(process):
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == process and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def is_running(process):
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_content_is_what_the_simulator_returns(tmp_path):
    simulator = FakeSimulator(maps_per_simulation=3)
    path = run_campaign(simulator, tmp_path / "a.h5", count=4, seed=5)
    database = Database(path).require("regression", ("signal", "density"), ("a", "b"))
    assert database.simulation.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert database.parameters == simulator.parameters
    assert database.attributes["seed"] == 5
    assert database.attributes["design"] == "uniform"
    assert database.attributes["simulator"] == "fake"
    assert database.attributes["simulator_version"] == "1"
    assert json.loads(database.attributes["simulator_settings"]) == json.loads(
        json.dumps(dataclasses.asdict(simulator))
    )
    for simulation in range(4):
        values = database.parameter_values[simulation]
        expected = simulator.simulate(values, int(database.attributes["seeds"][simulation]))
        for field in ("signal", "density"):
            maps = database.read(field, np.flatnonzero(database.simulation == simulation))
            np.testing.assert_array_equal(maps, expected[field])


def test_same_bytes_for_any_number_of_workers(tmp_path, reference):
    for workers in (1, 2):
        path = run_campaign(FakeSimulator(), tmp_path / f"{workers}.h5", count=12, seed=5, workers=workers)
        assert path.read_bytes() == reference


def test_same_bytes_from_any_executor_in_any_order(tmp_path, reference):
    class Backwards(concurrent.futures.Executor):
        """Runs what came last first, a moment after it came."""

        def __init__(self):
            self.held = []

        def submit(self, function, *arguments):
            future = concurrent.futures.Future()
            self.held.append((future, function, arguments))
            threading.Timer(0.05, self.run_one).start()
            return future

        def run_one(self):
            future, function, arguments = self.held.pop()
            order.append(arguments[0].simulation)
            future.set_result(function(*arguments))

    order = []
    path = tmp_path / "a.h5"
    assert run_campaign(FakeSimulator(), path, count=12, seed=5, workers=2, executor=Backwards()) == path
    assert path.read_bytes() == reference
    assert order != sorted(order)


def test_executor_that_breaks(tmp_path):
    class Broken(concurrent.futures.Executor):
        def submit(self, function, *arguments):
            raise concurrent.futures.BrokenExecutor("no route to host")

    with pytest.raises(CampaignError, match=r"executor broke down \(no route to host\).*finished simulations are kept"):
        run_campaign(FakeSimulator(), tmp_path / "a.h5", count=3, executor=Broken())


@pytest.mark.parametrize(("when", "finished"), [("create", None), ("write", 3), ("flag", 3), ("status", 12)])
def test_killed_and_resumed_gives_the_same_bytes(tmp_path, reference, when, finished):
    path, partial = tmp_path / "a.h5", tmp_path / "a.h5.partial"
    process = start(path, 0, when)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not path.exists()
    assert partial.exists() is (finished is not None)
    if finished is not None:
        assert finished_in(partial).sum() == finished
    seen = []
    run_campaign(FakeSimulator(), path, count=12, seed=5, progress=lambda *step: seen.append(step))
    assert seen == [(done, 12) for done in range(finished or 0, 13)]
    assert path.read_bytes() == reference
    assert names_in(tmp_path) == ["a.h5"]


def test_killed_between_the_two_names(tmp_path, reference):
    path = tmp_path / "a.h5"
    process = start(path, 0, "rename")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    run_campaign(FakeSimulator(), path, count=12, seed=5)
    assert path.read_bytes() == reference
    assert names_in(tmp_path) == ["a.h5"]


@pytest.mark.skipif(not pathlib.Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_killed_with_workers_leaves_no_process_behind(tmp_path, reference):
    path = tmp_path / "a.h5"
    process = start(path, 2, "slow")
    while process.stdout.readline().strip() != "3":
        assert process.poll() is None
    children = children_of(process.pid)
    process.kill()
    process.communicate(timeout=60)
    assert len(children) >= 2
    done = finished_in(tmp_path / "a.h5.partial")
    assert 3 <= done.sum() < 12
    settings = FakeSimulator(delay=0.2)
    with pytest.raises(ValueError, match=r"another plan: attribute simulator_settings is .*delay.*expected"):
        run_campaign(FakeSimulator(), path, count=12, seed=5)
    run_campaign(settings, path, count=12, seed=5, workers=2)
    with h5py.File(path) as file, h5py.File(io.BytesIO(reference)) as expected:
        for field in ("signal", "density"):
            np.testing.assert_array_equal(file["maps"][field], expected["maps"][field])
    deadline = time.monotonic() + 20
    while any(is_running(child) for child in children):
        assert time.monotonic() < deadline, "worker processes outlive the campaign"
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_stops_cleanly_and_resumes(tmp_path, workers):
    path = tmp_path / "a.h5"
    process = start(path, workers, "slow")
    while process.stdout.readline().strip() != "2":
        assert process.poll() is None
    # A terminal sends Ctrl-C to all processes of the group, workers too.
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"Interrupted with \d+ of 12 simulations finished.*Run the same command again to resume", output)
    assert "Traceback" not in errors
    assert not path.exists()
    done = int(finished_in(tmp_path / "a.h5.partial").sum())
    assert 2 <= done < 12
    seen = []
    run_campaign(FakeSimulator(delay=0.2), path, count=12, seed=5, workers=2, progress=lambda *s: seen.append(s))
    assert seen[0] == (done, 12)
    assert len(seen) == 13 - done


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raise", "ArithmeticError: no convergence"),
        ("nan", r"expected finite pixels in signal, got nan at \(1, 2, 3\) and 1 such"),
        ("shape", r"expected signal of shape \(2, 6, 7\), got \(2, 5, 7\)"),
        ("field", r"expected the fields \['density', 'signal'\], got \['signal'\]"),
    ],
)
def test_failed_simulations_are_named_and_only_they_are_retried(tmp_path, reference, how, reason):
    path, trouble = tmp_path / "a.h5", tmp_path / "trouble"
    trouble.touch()
    simulator = FakeSimulator(bad=(int(SEEDS[2]), int(SEEDS[7])), how=how, trouble=str(trouble))
    with pytest.raises(CampaignError, match=reason) as caught:
        run_campaign(simulator, path, count=12, seed=5)
    message = str(caught.value)
    assert "2 of 12 simulations failed" in message
    assert f"simulation 7 (seed {SEEDS[7]}; a=" in message
    assert [failure.simulation for failure in caught.value.failures] == [2, 7]
    assert not path.exists()
    assert np.flatnonzero(~finished_in(tmp_path / "a.h5.partial")).tolist() == [2, 7]
    trouble.unlink()
    seen = []
    run_campaign(simulator, path, count=12, seed=5, progress=lambda *step: seen.append(step))
    assert seen == [(10, 12), (11, 12), (12, 12)]
    database = Database(path)
    reference_path = tmp_path / "reference.h5"
    reference_path.write_bytes(reference)
    assert database.scan().fingerprint == Database(reference_path).scan().fingerprint


def test_values_beyond_float16_are_a_failure(tmp_path):
    simulator = FakeSimulator(bad=(int(SEEDS[2]),), how="huge")
    with pytest.raises(CampaignError, match=r"density has values up to 1e\+06 that do not fit float16.*Store float32"):
        run_campaign(simulator, tmp_path / "a.h5", count=4, seed=5, dtype="float16")


def test_many_failures_are_listed_shortly(tmp_path):
    simulator = FakeSimulator(bad=tuple(SEEDS.tolist()))
    with pytest.raises(CampaignError, match=r"and 2 more: simulations \[10, 11\]"):
        run_campaign(simulator, tmp_path / "a.h5", count=12, seed=5)


def test_dead_worker_costs_only_what_was_in_flight(tmp_path, reference):
    trouble = tmp_path / "trouble"
    trouble.touch()
    simulator = FakeSimulator(bad=(int(SEEDS[4]),), how="die", trouble=str(trouble))
    path = tmp_path / "a.h5"
    with pytest.raises(
        CampaignError, match=r"1 of 12 .*\n.*simulation 4 .*worker process died 2 times while it ran alone"
    ):
        run_campaign(simulator, path, count=12, seed=5, workers=2)
    assert np.flatnonzero(~finished_in(tmp_path / "a.h5.partial")).tolist() == [4]
    trouble.unlink()
    run_campaign(simulator, path, count=12, seed=5, workers=2)
    np.testing.assert_array_equal(Database(path).attributes["seeds"], SEEDS)


def test_pool_that_never_works_ends_with_an_explanation(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "DEATHS_ALLOWED", 100)
    monkeypatch.setattr(campaign, "BARREN_POOLS_ALLOWED", 2)
    simulator = FakeSimulator(bad=tuple(SEEDS.tolist()), how="die")
    with pytest.raises(CampaignError, match=r"Worker processes died 3 times in a row.*too little memory for 2 workers"):
        run_campaign(simulator, tmp_path / "a.h5", count=12, seed=5, workers=2)


def test_complete_database_is_left_alone(tmp_path, caplog):
    path = run_campaign(FakeSimulator(), tmp_path / "a.h5", count=3, seed=5)
    before = path.stat().st_mtime_ns
    seen = []
    with caplog.at_level(logging.INFO):
        run_campaign(FakeSimulator(), path, count=3, seed=5, progress=lambda *step: seen.append(step))
    assert "already complete" in caplog.text
    assert seen == [(3, 3)]
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"count": 4}, "it has 3 simulations, expected 4"),
        ({"seed": 6}, "attribute seed is 5, expected 6"),
        ({"design": "sobol"}, "attribute design is uniform, expected sobol"),
        ({"dtype": "float16"}, r"maps are density float32 .*, expected density float16"),
        ({"simulator": FakeSimulator(version="2")}, "attribute simulator_settings is"),
        ({"simulator": FakeSimulator(size=7)}, "attribute redshifts is"),
    ],
)
def test_other_plan_is_refused(tmp_path, change, difference):
    arguments = {"simulator": FakeSimulator(), "count": 3, "seed": 5}
    path = tmp_path / "a.h5"
    run_campaign(path=path, **arguments)
    with pytest.raises(FileExistsError, match=f"made with other arguments: {difference}"):
        run_campaign(path=path, **{**arguments, **change})
    path.rename(tmp_path / "a.h5.partial")
    with pytest.raises(ValueError, match=f"begun with another plan: {difference}.*or delete it"):
        run_campaign(path=path, **{**arguments, **change})


def test_other_file_in_the_way(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("precious notes")
    with pytest.raises(FileExistsError, match="exists and is not a database"):
        run_campaign(FakeSimulator(), path, count=3)
    assert path.read_text() == "precious notes"
    with pytest.raises(ValueError, match="expected the file to write, got a folder"):
        run_campaign(FakeSimulator(), tmp_path, count=3)
    with pytest.raises(FileNotFoundError, match=r"the folder .* does not exist"):
        run_campaign(FakeSimulator(), tmp_path / "no" / "a.h5", count=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "count: expected a positive number"),
        ({"count": 2.5}, "count: expected a positive number"),
        ({"seed": -1}, "seed: expected an integer >= 0"),
        ({"workers": -1}, "workers: expected an integer >= 0"),
        ({"dtype": "int8"}, "dtype: expected one of"),
        ({"design": "latin"}, "design: expected one of"),
    ],
)
def test_arguments_are_checked(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run_campaign(FakeSimulator(), tmp_path / "a.h5", **{"count": 3, **change})
    assert not names_in(tmp_path)


@pytest.mark.parametrize("design", ["uniform", "sobol"])
def test_designs_fill_the_priors_and_can_be_extended(design):
    from scipy.stats import kstest

    parameters = (Parameter(name="a", low=10, high=250), Parameter(name="b", low=-1.5, high=0.1))
    values = draw_parameters(parameters, 1000, 7, design)
    np.testing.assert_array_equal(values[:13], draw_parameters(parameters, 13, 7, design))
    assert not np.array_equal(values, draw_parameters(parameters, 1000, 8, design))
    for column, parameter in zip(values.T, parameters, strict=True):
        assert kstest(column, "uniform", (parameter.low, parameter.high - parameter.low)).pvalue > 0.01
    unit = (values - [10, -1.5]) / [240, 1.6]
    occupied = len({tuple(cell) for cell in np.floor(unit * 32).astype(int)})
    # 1000 points in 1024 cells: independent draws leave exp(-1000/1024) of the cells empty, a (0,2)-net nearly none.
    assert (
        occupied == pytest.approx(1024 * (1 - np.exp(-1000 / 1024)), rel=0.1)
        if design == "uniform"
        else occupied == 1000
    )


def test_latin_hypercube_has_one_value_in_each_part_of_every_prior():
    parameters = (Parameter(name="a", low=10, high=250), Parameter(name="b", low=-1.5, high=0.1))
    values = draw_parameters(parameters, 50, 7, "latin-hypercube")
    unit = (values - [10, -1.5]) / [240, 1.6]
    for column in unit.T:
        assert sorted(np.floor(column * 50).astype(int)) == list(range(50))
    np.testing.assert_array_equal(values, draw_parameters(parameters, 50, 7, "latin-hypercube"))
    assert not np.array_equal(values, draw_parameters(parameters, 50, 8, "latin-hypercube"))


def test_one_simulation_and_no_parameters():
    assert draw_parameters((Parameter(name="a", low=0, high=1),), 1, 0, "sobol").shape == (1, 1)
    assert draw_parameters((), 5, 0).shape == (5, 0)


def test_seeds_differ_even_where_draws_collide(monkeypatch):
    seeds = draw_seeds(3000, 1)
    assert len(set(seeds.tolist())) == 3000
    assert seeds.min() >= 0
    assert seeds.max() < 2**31
    np.testing.assert_array_equal(seeds[:10], draw_seeds(10, 1))

    class Narrow(np.random.SeedSequence):
        def generate_state(self, n_words, dtype):
            return super().generate_state(n_words, dtype) >> np.uint32(25)

    monkeypatch.setattr(np.random, "SeedSequence", Narrow)
    narrow = draw_seeds(50, 1)
    assert len(set(narrow.tolist())) == 50
    np.testing.assert_array_equal(narrow[:20], draw_seeds(20, 1))
