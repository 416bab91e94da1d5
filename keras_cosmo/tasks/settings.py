"""Settings of a run, from the command line or from the run that is resumed."""

import dataclasses
import json
import math
import pathlib

from keras_cosmo.tasks.presets import resolve_preset

PRECISIONS = ("float32", "mixed_bfloat16")
# What may change between the start of a run and its continuation; the data are recognised by their checksum.
FREE_ON_RESUME = (
    "preset/epochs",
    "out",
    "data",
    "resume",
    "saved_models",
    "simulation_workers",
    "cache",
    "checkpoint_seconds",
    "workers",
    "worker_timeout",
)
WORKERS_FROM = ("auto", "tf_config", "slurm")
PATHS = ("out", "data", "start_from", "saved_models", "cache")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What the command line decides about a run, beside the preset.

    Args:
        preset_name: Name of the preset that `preset` started from.
        preset: Resolved preset.
        out: Run folder.
        data: Database file, or None for the embedded simulator.
        seed: Seed of the split, the start weights, the order of the data and the simulations.
        resume: Continue the run in ``out``.
        precision: "float32" or "mixed_bfloat16".
        deterministic: Make every TensorFlow operation deterministic, at some cost in speed.
        start_from: Folder of another run, whose network is the start.
        start_normalization: "keep" that run's normalisation or "refit" it on the new training part.
        saved_models: Folder that receives ``<model>/<version>``.
        cache: Folder for embedded simulations.
        simulation_workers: Processes that simulate; 0 for all cores.
        checkpoint_seconds: Seconds between checkpoints.
        workers: Number of processes of this machine that train together, or where the workers on several machines are
            described: "tf_config", "slurm", or "auto" for one of them.
        worker_timeout: Seconds to wait for all workers at the start.
        team: `keras_cosmo.training.workers.Workers` that this process leads, or None if it trains alone.

    Raises:
        ValueError: If a number is out of range.
    """

    preset_name: str
    preset: object
    out: pathlib.Path
    data: pathlib.Path | None = None
    seed: int = 0
    resume: bool = False
    precision: str = "float32"
    deterministic: bool = False
    start_from: pathlib.Path | None = None
    start_normalization: str = "keep"
    saved_models: pathlib.Path = pathlib.Path("saved_models")
    cache: pathlib.Path | None = None
    simulation_workers: int = 0
    checkpoint_seconds: float = 30.0
    workers: int | str = 1
    worker_timeout: float = 600.0
    team: object = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self):
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed: expected an integer from 0 to 2**32 - 1, got {self.seed}.")
        if not (self.checkpoint_seconds > 0 and math.isfinite(self.checkpoint_seconds)):
            raise ValueError(f"--checkpoint-seconds: expected a positive number, got {self.checkpoint_seconds}.")
        if self.simulation_workers < 0:
            raise ValueError(f"--simulation-workers: expected 0 (all cores) or more, got {self.simulation_workers}.")
        if self.workers not in WORKERS_FROM and not (isinstance(self.workers, int) and self.workers > 0):
            raise ValueError(
                f"--workers: expected a number of processes, or one of {', '.join(WORKERS_FROM)}, got {self.workers!r}."
            )
        if not (self.worker_timeout > 0 and math.isfinite(self.worker_timeout)):
            raise ValueError(f"--worker-timeout: expected a positive number, got {self.worker_timeout}.")

    def to_json(self) -> dict:
        """Plain values, as in ``config.json``."""
        values = dataclasses.asdict(dataclasses.replace(self, team=None))
        del values["team"]
        return json.loads(json.dumps(values, default=str))


def settings_from(task, arguments: dict, check: bool = True) -> RunSettings:
    """Settings from the flags that were given; a resumed run takes all others from its ``config.json``.

    Args:
        task: `keras_cosmo.tasks.task.Task`.
        arguments: Flag -> value.
        check: Whether to ask the task if it can run with them.

    Raises:
        ValueError: If flags exclude each other, are out of range, or contradict the run that is resumed; the
            message names each difference.
        FileNotFoundError: If there is no run to resume.
    """
    arguments = dict(arguments)
    for key in PATHS[1:]:
        if key in arguments:
            arguments[key] = pathlib.Path(arguments[key]).resolve()
    fields = [field.name for field in dataclasses.fields(next(iter(task.presets.values())))]
    changes = {name: arguments.pop(name) for name in fields if name in arguments}
    name = arguments.pop("preset", None)
    out = pathlib.Path(arguments.pop("out", pathlib.Path("runs") / f"{task.name}-{name or 'quick'}"))
    if arguments.get("resume", False):
        return _resumed(task, out, name, changes, arguments)
    idle = [field for field in task.simulator_fields if field in changes] if "data" in arguments else []
    if idle:
        flags = ", ".join("--" + field.replace("_", "-") for field in idle)
        raise ValueError(f"{flags}: only for simulated data, but --data gives them already. Leave one of the two out.")
    if "start_normalization" in arguments and "start_from" not in arguments:
        raise ValueError("--start-normalization says what to do with the network of --start-from, which is not given.")
    preset = resolve_preset(task.presets, name or "quick", changes)
    settings = RunSettings(preset_name=name or "quick", preset=preset, out=out, **arguments)
    if check:
        task.check_settings(settings)
    return settings


def settings_from_json(task, saved: dict, **changes) -> RunSettings:
    """Settings from what `RunSettings.to_json` returned.

    Args:
        task: `keras_cosmo.tasks.task.Task`.
        saved: Plain values.
        changes: Fields with other values; ``preset`` as a dict of those fields of it that change.
    """
    values = {key: pathlib.Path(value) if key in PATHS and value is not None else value for key, value in saved.items()}
    values |= changes
    values["preset"] = resolve_preset(
        task.presets, values["preset_name"], {**saved["preset"], **changes.get("preset", {})}
    )
    return RunSettings(**values)


def _resumed(task, out, name, changes, arguments):
    saved = read_config(out, task.name)["settings"]
    name = name or saved["preset_name"]
    settings = settings_from_json(
        task, saved, **{**arguments, "preset_name": name, "preset": changes, "out": out, "resume": True}
    )
    differences = [
        f"{key} was {before}, now {now}"
        for key, before, now in _differences(saved, settings.to_json())
        if key not in FREE_ON_RESUME
    ]
    if differences:
        raise ValueError(
            f"{out} was started with another configuration: {'; '.join(differences)}. Resume without these flags, or "
            "choose another --out."
        )
    return settings


def _differences(before: dict, now: dict, prefix: str = ""):
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{key}/")
        elif old != new:
            yield prefix + key, old, new


def read_config(folder, *task_names: str) -> dict:
    """``config.json`` of a run folder, of one of the tasks.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is damaged or belongs to another task.
    """
    path = pathlib.Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no run: expected {path}, which every training run writes first.")
    try:
        config = json.loads(path.read_text())
        complete = {"task", "settings", "data", "split", "normalization", "parameters"} <= set(config)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}. Choose another run, or train anew.") from error
    if not complete:
        raise ValueError(f"{path} is no complete configuration of a run. Choose another run, or train anew.")
    if config["task"] not in task_names:
        expected = " or ".join(map(repr, task_names))
        raise ValueError(f"{folder} is a run of task {config['task']!r}, expected {expected}.")
    return config
