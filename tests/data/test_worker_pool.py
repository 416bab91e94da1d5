import concurrent.futures
import operator
import os
import time

import pytest

from keras_cosmo.data.worker_pool import THREAD_VARIABLES, WorkerPool


@pytest.fixture
def pool():
    pool = WorkerPool(2)
    yield pool
    pool.kill()


def test_results_and_errors_come_back_from_other_processes(pool):
    assert pool.submit(divmod, 7, 2).result(timeout=60) == (3, 1)
    assert pool.submit(os.getpid).result(timeout=60) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result(timeout=60)


def test_one_thread_for_each_process(pool, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = [pool.submit(os.getenv, variable).result(timeout=60) for variable in THREAD_VARIABLES]
    assert found == ["1"] * len(THREAD_VARIABLES)


def test_kill_does_not_wait_for_what_is_running(pool):
    process = pool.submit(os.getpid).result(timeout=60)
    running = [pool.submit(time.sleep, 600.0) for _ in range(3)]
    begin = time.monotonic()
    pool.kill()
    assert time.monotonic() - begin < 30.0
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert all(future.cancelled() or future.exception(timeout=30.0) for future in running)


def test_a_process_that_dies_breaks_the_pool(pool):
    assert pool.submit(operator.add, 1, 1).result(timeout=60) == 2
    with pytest.raises(concurrent.futures.BrokenExecutor):
        pool.submit(os._exit, 1).result(timeout=60)
    with pytest.raises(concurrent.futures.BrokenExecutor):
        pool.submit(operator.add, 1, 1)
