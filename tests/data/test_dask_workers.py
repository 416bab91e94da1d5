import concurrent.futures
import dataclasses
import importlib.util
import logging
import math
import os
import pathlib
import pickle
import sys
import time

import h5py
import numpy as np
import pytest

pytest.importorskip("distributed")
sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from dask_processes import DaskProcesses
from fake_simulator import FakeSimulator

import keras_cosmo
from keras_cosmo.data import campaign, dask_workers
from keras_cosmo.data.campaign import CampaignError, CampaignInterrupted, draw_seeds, run_campaign
from keras_cosmo.data.dask_workers import DaskWorkers, WorkersError, answer_call, environment_here

COUNT = 16


def equal(path, expected):
    with h5py.File(path) as one, h5py.File(expected) as other:
        return all(np.array_equal(one["maps"][name], other["maps"][name]) for name in ("signal", "density"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("local") / "reference.h5"
    return run_campaign(FakeSimulator(), path, count=COUNT, seed=5, workers=0)


@pytest.fixture
def processes(tmp_path):
    processes = DaskProcesses(tmp_path)
    yield processes
    processes.stop()


def after(number, act):
    """A progress function that does something once, after so many simulations."""

    def progress(done, total):
        if done >= number and not acted:
            acted.append(done)
            act()

    acted = []
    return progress


def test_workers_come_and_go_and_the_bytes_are_the_same(tmp_path, processes, reference, caplog):
    caplog.set_level(logging.INFO)
    processes.start_scheduler()
    with DaskWorkers(processes.file, worker_timeout=60.0) as workers:
        patient = DaskWorkers(workers.address, worker_timeout=0.5)
        with (
            patient,
            pytest.raises(
                CampaignError,
                match=r"No worker came at tcp://.* for \d s\. Start some.*0 of 16 simulations are finished",
            ),
        ):
            run_campaign(FakeSimulator(), tmp_path / "a.h5", count=COUNT, seed=5, cluster=patient)
        assert f"No worker yet at {workers.address}: waiting for one" in caplog.text
        first = processes.start_worker()
        run_campaign(FakeSimulator(), tmp_path / "a.h5", count=COUNT, seed=5, cluster=workers)
        assert (tmp_path / "a.h5").read_bytes() == reference.read_bytes()

        def swap():
            first.kill()
            processes.start_worker()

        slow = FakeSimulator(delay=0.05)
        run_campaign(slow, tmp_path / "b.h5", count=COUNT, seed=5, cluster=workers, progress=after(4, swap))
        assert first.wait() == -9
        assert equal(tmp_path / "b.h5", reference)
        assert f"Workers at {workers.address}: 1." in caplog.text
        # What is pending is bounded, whoever the workers are.
        asked, got, most = [], [], 0

        def argument_of(number):
            nonlocal most
            asked.append(number)
            most = max(most, len(asked) - len(got))
            return number

        for number, result in workers.run(math.factorial, range(10), argument_of):
            got.append(number)
            assert result == math.factorial(number)
        assert sorted(got) == list(range(10))
        assert most <= dask_workers.PENDING_PER_THREAD
        # Ctrl-C.

        def interrupt():
            raise KeyboardInterrupt

        with pytest.raises(CampaignInterrupted, match=r"Interrupted with 3 of 16 simulations finished"):
            run_campaign(slow, tmp_path / "c.h5", count=COUNT, seed=5, cluster=workers, progress=after(3, interrupt))
        deadline = time.monotonic() + 20.0
        while workers._client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
            assert time.monotonic() < deadline, "pending simulations are left at the scheduler"
            time.sleep(0.05)
        run_campaign(slow, tmp_path / "c.h5", count=COUNT, seed=5, cluster=workers)
        assert equal(tmp_path / "c.h5", reference)
        # Packages that differ are told once.
        there = {**environment_here(), "worker": "tcp://node07", "numpy": "1.0"}
        for _ in range(2):
            workers._compare(there)
        text = f"The worker tcp://node07 has numpy 1.0 instead of {np.__version__}: maps could differ"
        assert caplog.text.count(text) == 1


def test_scheduler_lost_and_resumed_elsewhere(tmp_path, processes, reference, caplog):
    scheduler = processes.start_scheduler()
    processes.start_worker()
    simulator, path = FakeSimulator(delay=0.05), tmp_path / "a.h5"
    with DaskWorkers(processes.file) as workers, pytest.raises(
        CampaignError, match=r"^The Dask scheduler tcp://\S+ was lost \(.*\)\. \d+ of 16 simulations are finished; "
        r"they are kept in .*a\.h5\.partial\. Run the same command again to resume\.$",
    ):  # fmt: skip
        run_campaign(simulator, path, count=COUNT, seed=5, cluster=workers, progress=after(4, scheduler.kill))
    scheduler.wait()
    with h5py.File(tmp_path / "a.h5.partial") as file:
        assert 4 <= file["finished"][()].sum() < COUNT
    processes.start_scheduler()
    processes.start_worker("--nthreads", "2")
    with DaskWorkers(processes.file, worker_timeout=60.0) as workers:
        run_campaign(simulator, path, count=COUNT, seed=5, cluster=workers)
    assert equal(path, reference)
    assert "has 2 threads, of which one is used" in caplog.text


def test_simulations_that_kill_their_workers(tmp_path, reference, monkeypatch, caplog):
    processes = DaskProcesses(tmp_path, scheduler__allowed_failures="0")
    seeds = draw_seeds(COUNT, 5).tolist()
    try:
        processes.start_scheduler()
        processes.start_worker("--nanny")
        trouble = tmp_path / "trouble"
        trouble.touch()
        simulator = FakeSimulator(bad=(seeds[3],), how="die", trouble=str(trouble))
        with DaskWorkers(processes.file, worker_timeout=60.0) as workers:
            with pytest.raises(CampaignError, match="1 of 16 simulations failed") as caught:
                run_campaign(simulator, tmp_path / "a.h5", count=COUNT, seed=5, cluster=workers)
            # Others that waited on the same worker were not given up with it.
            assert [failure.simulation for failure in caught.value.failures] == [3]
            assert "its worker died 1 times while nothing else ran" in caught.value.failures[0].reason
            assert "Workers died 1 times with simulation 3 on them; it is run again at the end, alone." in caplog.text
            trouble.unlink()
            run_campaign(simulator, tmp_path / "a.h5", count=COUNT, seed=5, cluster=workers)
            assert equal(tmp_path / "a.h5", reference)
            monkeypatch.setattr(dask_workers, "BARREN_ALLOWED", 2)
            simulator = FakeSimulator(bad=tuple(seeds), how="die")
            with pytest.raises(CampaignError, match=r"Workers of \S+ died with each of .*Usual reason: too little mem"):
                run_campaign(simulator, tmp_path / "b.h5", count=COUNT, seed=5, cluster=workers)
    finally:
        processes.stop()


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("sys.modules['keras_cosmo'] = None", "cannot simulate: .*keras_cosmo.*Install the same keras_cosmo"),
        ("import keras_cosmo; keras_cosmo.__version__ = '0.0.1'", "cannot simulate: it has keras_cosmo 0.0.1 instead"),
        ("sys.path[:] = [p for p in sys.path if not p.endswith('data')]", "No module named 'fake_simulator'"),
    ],
)
def test_workers_that_cannot_simulate(tmp_path, processes, before, message):
    processes.start_scheduler()
    processes.start_worker(before=before)
    with DaskWorkers(processes.file, worker_timeout=60.0) as workers, pytest.raises(CampaignError, match=message):
        run_campaign(FakeSimulator(), tmp_path / "a.h5", count=COUNT, seed=5, cluster=workers)


def test_what_a_worker_answers(monkeypatch):
    version = keras_cosmo.__version__
    state, result, environment = answer_call(version, pickle.dumps((divmod, 7)))
    assert (state, environment) == ("unusable", environment_here())
    assert result.startswith("TypeError: ")
    for variable in dask_workers.THREAD_VARIABLES:
        monkeypatch.setenv(variable, "7")
    assert answer_call(version, pickle.dumps((os.getenv, "OMP_NUM_THREADS")))[:2] == ("done", "1")
    assert answer_call("9.9", b"")[1] == f"it has keras_cosmo {version} instead of 9.9."
    simulator = FakeSimulator()
    plan = campaign.plan_campaign(simulator, count=1, seed=0, dtype="float32", design="uniform")
    job = campaign._Job.of(simulator, plan, 0)
    assert answer_call(version, pickle.dumps((campaign._simulate, job)))[0] == "done"
    with pytest.raises(RuntimeError, match="expected version 1 of the simulator fake, got 2"):
        campaign._simulate(dataclasses.replace(job, simulator=FakeSimulator(version="2")))


def test_wrong_arguments(tmp_path, monkeypatch):
    monkeypatch.setattr(dask_workers, "CONNECT", 0.5)
    monkeypatch.setattr(dask_workers, "STARTING", 0.5)
    for address in ("tcp://127.0.0.1:9", tmp_path / "none.json", "nowhere"):
        with pytest.raises(ConnectionError, match=r"no Dask scheduler answers \(.*\)\. Expected an address such as"):
            DaskWorkers(address)
    with pytest.raises(ValueError, match="worker_timeout: expected seconds above 0, or None, got 0"):
        DaskWorkers("tcp://127.0.0.1:9", worker_timeout=0)
    with pytest.raises(ValueError, match="expected: expected a positive number of threads, got 0"):
        DaskWorkers("tcp://127.0.0.1:9", expected=0)
    with pytest.raises(ValueError, match="executor: expected none beside a cluster"):
        run_campaign(FakeSimulator(), tmp_path / "a.h5", count=1, executor=object(), cluster=object())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"Dask is not installed. Run: pip install '.\[cluster\]'"):
        DaskWorkers("tcp://127.0.0.1:9")


def test_what_is_said_when_all_workers_leave(monkeypatch, caplog):
    class Client:
        status = "running"

        def nthreads(self):
            if counts:
                return dict(enumerate(counts.pop(0)))
            raise OSError("no route to host")

    class Workers:
        _client, _told, address, worker_timeout = Client(), set(), "tcp://node01:8786", None
        lost = DaskWorkers.lost

    monkeypatch.setattr(dask_workers, "POLL", 0.0)
    monkeypatch.setattr(dask_workers, "NANNY", 0.0)
    caplog.set_level(logging.INFO)
    counts = [[1, 1], [1], [], [], [1], []]
    census = dask_workers._Census(Workers())
    assert [census.threads() for _ in range(5)] == [2, 1, 0, 0, 1]
    lines = [record.getMessage() for record in caplog.records]
    gone = "No worker left at tcp://node01:8786: waiting for one (0 s)."
    assert lines == ["Workers at tcp://node01:8786: 2.", gone, "Workers at tcp://node01:8786: 1."]
    monkeypatch.setattr(Workers, "worker_timeout", 1e-9)
    assert census.threads() == 0
    counts.append([])
    with pytest.raises(WorkersError, match="No worker was left at tcp://node01:8786 for 0 s"):
        census.threads()
    with pytest.raises(WorkersError, match=r"The Dask scheduler tcp://node01:8786 was lost \(no route to host\)\.$"):
        census.threads()
    monkeypatch.setattr(Client, "status", "closed")
    with pytest.raises(WorkersError, match=r"was lost \(the connection was closed\)"):
        census.threads()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            RuntimeError("Error during deserialization.\nMany lines"),
            WorkersError,
            r"cannot read .* deserialization\)\.",
        ),
        (ConnectionResetError("reset"), WorkersError, r"The Dask scheduler tcp://node01:8786 was lost \(reset\)\.$"),
        (concurrent.futures.CancelledError(), WorkersError, r"was lost \(CancelledError\)\.$"),
        (TimeoutError(), TimeoutError, None),
    ],
)
def test_results_that_do_not_come(error, kind, message):
    class Future:
        def result(self, timeout):
            raise error

    workers = DaskWorkers.__new__(DaskWorkers)
    workers.address = "tcp://node01:8786"
    with pytest.raises(kind, match=message):
        workers._fetch(Future())


def test_errors_of_the_workers_can_say_how_many_died():
    assert (WorkersError("a").deaths, WorkersError("a", 4).deaths) == (0, 4)
