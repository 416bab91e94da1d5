"""Several runs of one task after each other, in subfolders of one, to be compared."""

import contextlib
import json
import logging

from keras_cosmo.files import written_aside
from keras_cosmo.tasks.run import check_folder
from keras_cosmo.tasks.settings import RunSettings

logger = logging.getLogger(__name__)


def run_series(settings: RunSettings, runs: dict, start, task_name: str) -> tuple[dict, dict]:
    """Make the runs that are not finished yet.

    Stopped at any time, the series goes on with ``--resume``: finished runs are not made again.

    Args:
        settings: Of the series; ``settings.out`` is its folder.
        runs: Name -> settings of a run into ``settings.out / name``, in the order in which they are made.
        start: Called with the settings of one run; trains, measures and returns its metrics.
        task_name: Name of the task, for ``config.json``.

    Returns:
        Metrics of all runs, under ``<name>/...``, and the ``config.json`` of the last one.

    Raises:
        ValueError: If the folder holds something else.
        KeyboardInterrupt: If a run was stopped before its last epoch.
    """
    check_folder(settings)
    begun = settings.out / "config.json"
    if not begun.exists():
        # From now on there is something to resume; what is known of the data follows below.
        begun.parent.mkdir(parents=True, exist_ok=True)
        empty = {"data": {}, "split": {}, "normalization": {}, "parameters": []}
        write_json(begun, {"task": task_name, "settings": settings.to_json(), **empty})
    metrics, config = {}, {}
    for name, one in runs.items():
        logger.info("--- %s", name)
        try:
            measured = start(one)
        except BaseException:
            # A run that could not begin leaves no folder that blocks the next try.
            if not settings.resume and not any((one.out / "config.json").exists() for one in runs.values()):
                begun.unlink()
                with contextlib.suppress(OSError):
                    settings.out.rmdir()
            raise
        metrics |= {f"{name}/{key}": value for key, value in measured.items()}
        config = json.loads((one.out / "config.json").read_text())
        write_json(begun, {**config, "settings": settings.to_json()})
        if measured["epochs"] < one.preset.epochs:
            raise KeyboardInterrupt("stopped. Continue with the same command and --resume.")
    return metrics, config


def write_json(path, content: dict) -> None:
    """Write a JSON file whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=2) + "\n")


def without_nan(metrics: dict) -> dict:
    """NaN, a number that could not be measured, as null."""
    return {key: None if value != value else value for key, value in metrics.items()}
