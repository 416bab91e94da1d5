"""Campaigns: many simulations, run in parallel, written to one database; safe against a kill, resumable, exact.

Parameters and seed of simulation i depend on the campaign's seed, on i and on the design alone, and so do its maps.
The database is therefore the same, byte for byte, for any number of workers, in any order, and after any number of
interruptions.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import logging
import os
import pathlib
import traceback
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from keras_cosmo.data.dask_workers import DaskWorkers, WorkersError
from keras_cosmo.data.database_writer import (
    DatabasePlan,
    DatabaseWriter,
    convert_maps,
    difference_from_plan,
    partial_path,
)
from keras_cosmo.data.worker_pool import WorkerPool
from keras_cosmo.quantities import MapField, Parameter

logger = logging.getLogger(__name__)

DESIGNS = ("uniform", "sobol", "latin-hypercube")
# First words of the seeds, so that parameters and initial conditions draw from different streams.
PARAMETER_STREAM, SIMULATION_STREAM, SOBOL_STREAM, LATIN_STREAM = 0, 1, 2, 3
PENDING_PER_WORKER = 2
# A simulation that runs alone in the pool and still kills its worker this often is given up.
DEATHS_ALLOWED = 2
# The pool is not rebuilt more often than this without a simulation finished in between.
BARREN_POOLS_ALLOWED = 5
FAILURES_SHOWN = 10


class Simulator(Protocol):
    """What a campaign asks of a simulator: a picklable frozen dataclass with these members."""

    name: str
    version: str
    task: str
    parameters: tuple[Parameter, ...]
    fields: dict[str, MapField]
    maps_per_simulation: int

    def simulate(self, parameter_values: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """``(maps_per_simulation, *shape)`` of every field; a pure function of its arguments."""

    def attributes(self) -> dict:
        """Root attributes for the database."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A simulation that gave no maps.

    Args:
        simulation: Which one.
        parameter_values: Its parameters, ``name=value`` as text.
        seed: Its seed.
        reason: What went wrong, in one line.
        details: Traceback, or "".
    """

    simulation: int
    parameter_values: str
    seed: int
    reason: str
    details: str = ""

    def __str__(self):
        return f"simulation {self.simulation} (seed {self.seed}; {self.parameter_values}): {self.reason}"


class CampaignError(RuntimeError):
    """Some simulations of a campaign failed; the others are kept in the unfinished file.

    Args:
        message: What to tell the user.
        failures: One record per failed simulation.
    """

    def __init__(self, message: str, failures: Sequence[Failure] = ()):
        super().__init__(message)
        self.failures = tuple(failures)


class CampaignInterrupted(KeyboardInterrupt):
    """Ctrl-C stopped a campaign; its message says how to resume."""


def run_campaign(
    simulator: Simulator,
    path: str | os.PathLike,
    *,
    count: int,
    seed: int = 0,
    workers: int = 1,
    dtype: str = "float32",
    design: str = "uniform",
    progress: Callable[[int, int], None] | None = None,
    executor: concurrent.futures.Executor | None = None,
    cluster: DaskWorkers | None = None,
) -> pathlib.Path:
    """Run all simulations that are not in the database yet, and complete it.

    The database appears under ``path`` only when complete; until then it is ``<path>.partial``. Call again with the
    same arguments to resume after a kill, a full disk, or failed simulations; ``workers`` may differ.

    Args:
        simulator: What to run.
        path: Database to make.
        count: Number of simulations.
        seed: Seed of the campaign, not negative.
        workers: Processes, each limited to one thread. 0 and 1 run in this process, without any pool.
        dtype: ``"float32"`` or ``"float16"``, how maps are stored.
        design: ``"uniform"`` for independent draws within the priors, ``"sobol"`` for a scrambled Sobol sequence, which
            covers the priors more evenly, ``"latin-hypercube"`` for one value in each of ``count`` equal parts of
            every prior.
        progress: Called as ``progress(done, total)`` once at the begin, where ``done`` counts the simulations that
            were in the file already, and after each finished simulation.
        executor: Where to run instead; ``workers`` then only bounds how many results are pending.
        cluster: Workers of a Dask scheduler to run on instead; ``workers`` then means nothing.

    Returns:
        ``path``.

    Raises:
        ValueError: If an argument is out of range, or an unfinished file follows another plan.
        FileExistsError: If ``path`` exists and is another database.
        CampaignError: If simulations failed, after all others were run; or at once if there is nothing left to run them
            on.
        OSError: If the disk is full.
        CampaignInterrupted: On Ctrl-C.
    """
    path = pathlib.Path(path)
    if isinstance(workers, bool) or not isinstance(workers, (int, np.integer)) or workers < 0:
        raise ValueError(f"workers: expected an integer >= 0, got {workers!r}.")
    if executor is not None and cluster is not None:
        raise ValueError("executor: expected none beside a cluster. Give one of the two.")
    plan = plan_campaign(simulator, count=count, seed=seed, dtype=dtype, design=design)
    if path.is_dir():
        raise ValueError(f"{path}: expected the file to write, got a folder. Give a file name ending in .h5.")
    if path.exists():
        _check_already_complete(path, plan)
        if progress is not None:
            progress(plan.n_simulations, plan.n_simulations)
        return path
    with DatabaseWriter.open(path, plan) as writer:
        todo = np.flatnonzero(~writer.finished).tolist()
        done = plan.n_simulations - len(todo)
        if done:
            logger.info("%s: resuming with %d of %d simulations finished.", path, done, plan.n_simulations)
        if progress is not None:
            progress(done, plan.n_simulations)
        runs = _run(simulator, plan, todo, int(workers), executor, cluster)
        failures = []
        try:
            for simulation, result in runs:
                if isinstance(result, Failure):
                    # The traceback of the first tells enough; ten thousand of them would hide it.
                    logger.error("%s%s", result, "" if failures else f"\n{result.details}".rstrip())
                    failures.append(result)
                    continue
                writer.write(simulation, result)
                done += 1
                if progress is not None:
                    progress(done, plan.n_simulations)
        except KeyboardInterrupt as error:
            raise CampaignInterrupted(
                f"Interrupted with {done} of {plan.n_simulations} simulations finished; they are kept in "
                f"{writer.partial}. Run the same command again to resume."
            ) from error
        except WorkersError as error:
            raise CampaignError(
                f"{error} {done} of {plan.n_simulations} simulations are finished; they are kept in {writer.partial}. "
                f"Run the same command again to resume.",
                failures,
            ) from error
        finally:
            runs.close()
        if failures:
            raise CampaignError(_failure_message(failures, plan, writer.partial), failures)
        return writer.finish()


def plan_campaign(simulator: Simulator, *, count: int, seed: int, dtype: str, design: str) -> DatabasePlan:
    """Plan of the database that a campaign makes: parameters, seeds and attributes, before anything runs.

    Args:
        simulator: What will run.
        count: Number of simulations.
        seed: Seed of the campaign.
        dtype: How maps are stored.
        design: One of `DESIGNS`.

    Raises:
        ValueError: If an argument is out of range.
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise ValueError(f"count: expected a positive number of simulations, got {count!r}.")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed: expected an integer >= 0, got {seed!r}.")
    settings = dataclasses.asdict(simulator) if dataclasses.is_dataclass(simulator) else {}
    attributes = {
        **simulator.attributes(),
        "simulator": simulator.name,
        "simulator_version": simulator.version,
        "simulator_settings": json.dumps(settings, sort_keys=True, default=_json_value),
        "seed": int(seed),
        "design": design,
    }
    return DatabasePlan(
        task=simulator.task,
        fields=simulator.fields,
        parameters=simulator.parameters,
        parameter_values=draw_parameters(simulator.parameters, int(count), int(seed), design),
        simulation=np.repeat(np.arange(count), simulator.maps_per_simulation),
        seeds=draw_seeds(int(count), int(seed)),
        attributes=attributes,
        dtype=dtype,
    )


def draw_parameters(parameters: Sequence[Parameter], count: int, seed: int, design: str = "uniform") -> np.ndarray:
    """Parameters of a campaign, ``(count, n_parameters)`` float64, uniform within the priors.

    Row i depends on (seed, i, design) alone, so that a longer campaign begins with the rows of a shorter one; only a
    latin hypercube is another one for every count.

    Args:
        parameters: With their prior ranges.
        count: Number of simulations.
        seed: Seed of the campaign.
        design: ``"uniform"``, or ``"sobol"`` for a Sobol sequence scrambled after Owen (1998), or ``"latin-hypercube"``
            (McKay, Beckman & Conover 1979), both from SciPy.

    Raises:
        ValueError: If the design is unknown.
    """
    if design not in DESIGNS:
        raise ValueError(f"design: expected one of {DESIGNS}, got {design!r}.")
    low = np.array([parameter.low for parameter in parameters])
    high = np.array([parameter.high for parameter in parameters])
    if not len(parameters):
        return np.zeros((count, 0))
    if design == "sobol":
        from scipy.stats import qmc

        engine = qmc.Sobol(len(parameters), scramble=True, rng=np.random.default_rng([SOBOL_STREAM, seed]))
        unit = engine.random_base2(int(np.ceil(np.log2(max(count, 1)))))[:count]
    elif design == "latin-hypercube":
        from scipy.stats import qmc

        unit = qmc.LatinHypercube(len(parameters), rng=np.random.default_rng([LATIN_STREAM, seed])).random(count)
    else:
        unit = np.stack([np.random.default_rng([PARAMETER_STREAM, seed, i]).random(len(low)) for i in range(count)])
    return low + (high - low) * unit


def draw_seeds(count: int, seed: int) -> np.ndarray:
    """Seeds of the simulations of a campaign, ``(count,)`` int64 in [0, 2**31), all different.

    Args:
        count: Number of simulations.
        seed: Seed of the campaign.
    """
    seeds, taken = np.empty(count, np.int64), set()
    for simulation in range(count):
        # Among 10,000 draws of 31 bits two are equal with a chance of 2 %; then the next word is taken.
        words, drawn = 1, None
        while drawn is None or drawn in taken:
            sequence = np.random.SeedSequence([SIMULATION_STREAM, seed, simulation])
            drawn = int(sequence.generate_state(words, np.uint32)[-1] >> 1)
            words += 1
        taken.add(drawn)
        seeds[simulation] = drawn
    return seeds


def _run(simulator, plan: DatabasePlan, todo: list[int], workers: int, executor, cluster):
    """Yield (simulation, maps or Failure) as they come."""
    if cluster is not None:
        yield from _run_on_cluster(cluster, simulator, plan, todo)
    elif executor is not None:
        yield from _run_in_executor(executor, simulator, plan, todo, max(1, workers))
    elif workers <= 1:
        for simulation in todo:
            yield _simulate(_Job.of(simulator, plan, simulation))
    else:
        yield from _run_in_pool(simulator, plan, todo, min(workers, max(1, len(todo))))


def _run_on_cluster(cluster: DaskWorkers, simulator, plan: DatabasePlan, todo: list[int]):
    jobs = functools.partial(_Job.of, simulator, plan)
    with contextlib.closing(cluster.run(_simulate, todo, jobs)) as runs:
        for simulation, result in runs:
            yield (simulation, jobs(simulation).failure(str(result))) if isinstance(result, WorkersError) else result


def _run_in_executor(
    executor: concurrent.futures.Executor, simulator, plan: DatabasePlan, todo: list[int], workers: int
):
    waiting, pending = collections.deque(todo), {}
    try:
        while waiting or pending:
            while waiting and len(pending) < PENDING_PER_WORKER * workers:
                simulation = waiting.popleft()
                pending[executor.submit(_simulate, _Job.of(simulator, plan, simulation))] = simulation
            finished, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in finished:
                pending.pop(future)
                yield future.result()
    except concurrent.futures.BrokenExecutor as error:
        raise CampaignError(
            f"The executor broke down ({error}); finished simulations are kept. Run again with a new "
            f"executor to resume."
        ) from error
    finally:
        for future in pending:
            future.cancel()


def _run_in_pool(simulator, plan: DatabasePlan, todo: list[int], workers: int):
    """As above, in processes of our own; a worker that dies costs only the simulations it could have been running.

    After a death it is unknown whose fault it was. All simulations in flight are then repeated one at a time, so that
    one which kills its worker cannot take others with it.
    """
    waiting, suspects = collections.deque(todo), collections.deque()
    deaths, pending, barren_pools = collections.Counter(), {}, 0
    pool = WorkerPool(workers)
    try:
        while waiting or suspects or pending:
            source, limit = (suspects, 1) if suspects else (waiting, PENDING_PER_WORKER * workers)
            broken = False
            try:
                while source and len(pending) < limit:
                    future = pool.submit(_simulate, _Job.of(simulator, plan, source[0]))
                    pending[future] = source.popleft()
            except concurrent.futures.BrokenExecutor:
                broken = True
            finished, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in finished:
                try:
                    result = future.result()
                except concurrent.futures.BrokenExecutor:
                    broken = True
                    continue
                pending.pop(future)
                barren_pools = 0
                yield result
            if not broken:
                continue
            lost, pending = sorted(pending.values()), {}
            logger.warning("A worker process died; simulations %s are run again.", lost)
            barren_pools += 1
            if barren_pools > BARREN_POOLS_ALLOWED:
                raise CampaignError(
                    f"Worker processes died {barren_pools} times in a row, before any simulation finished (last: "
                    f"{lost}). Usual reasons: too little memory for {workers} workers, a simulator that other "
                    f"processes cannot import, or a script without "
                    f"`if __name__ == '__main__'`. Try workers=1 to see its own error; finished simulations are kept."
                )
            pool.kill()
            pool = WorkerPool(workers)
            if limit == 1 and len(lost) == 1:
                deaths[lost[0]] += 1
                if deaths[lost[0]] >= DEATHS_ALLOWED:
                    # One simulation that always dies must not look like a pool that never works.
                    barren_pools = 0
                    reason = f"its worker process died {DEATHS_ALLOWED} times while it ran alone (out of memory?)"
                    yield lost[0], _Job.of(simulator, plan, lost[0]).failure(reason)
                    continue
            suspects.extendleft(reversed(lost))
    finally:
        pool.kill()


@dataclasses.dataclass(frozen=True)
class _Job:
    simulator: Simulator
    simulation: int
    parameter_values: np.ndarray
    seed: int
    dtype: str
    version: str

    @classmethod
    def of(cls, simulator, plan: DatabasePlan, simulation: int) -> "_Job":
        values, seed = plan.parameter_values[simulation], int(plan.seeds[simulation])
        return cls(simulator, simulation, values, seed, plan.dtype, simulator.version)

    def failure(self, reason: str, details: str = "") -> Failure:
        names = [parameter.name for parameter in self.simulator.parameters]
        values = ", ".join(f"{name}={value:.6g}" for name, value in zip(names, self.parameter_values, strict=True))
        return Failure(self.simulation, values, self.seed, reason, details)


def _simulate(job: _Job) -> tuple[int, dict[str, np.ndarray] | Failure]:
    """Run one simulation and convert its maps; errors come back as records, since not every exception pickles."""
    simulator = job.simulator
    if simulator.version != job.version:
        raise RuntimeError(f"expected version {job.version} of the simulator {simulator.name}, got {simulator.version}")
    try:
        maps = simulator.simulate(job.parameter_values.copy(), job.seed)
        return job.simulation, convert_maps(maps, simulator.fields, simulator.maps_per_simulation, job.dtype)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return job.simulation, job.failure(reason, traceback.format_exc())


def _check_already_complete(path: pathlib.Path, plan: DatabasePlan) -> None:
    try:
        difference = difference_from_plan(path, plan)
    except ValueError as error:
        raise FileExistsError(f"{path} exists and is not a database. Choose another output file.") from error
    if difference:
        raise FileExistsError(
            f"{path} exists and was made with other arguments: {difference}. Choose another output file, or delete it."
        )
    partial = partial_path(path)
    if partial.exists() and partial.samefile(path):
        partial.unlink()
    logger.info("%s is already complete.", path)


def _failure_message(failures: list[Failure], plan: DatabasePlan, partial: pathlib.Path) -> str:
    failures = sorted(failures, key=lambda failure: failure.simulation)
    shown = "\n".join(f"  {failure}" for failure in failures[:FAILURES_SHOWN])
    rest = [failure.simulation for failure in failures[FAILURES_SHOWN:]]
    more = f"\n  and {len(rest)} more: simulations {rest}" if rest else ""
    return (
        f"{len(failures)} of {plan.n_simulations} simulations failed; the others are kept in {partial}. Run the same "
        f"command again to retry only these:\n{shown}{more}"
    )


def _json_value(value):
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
