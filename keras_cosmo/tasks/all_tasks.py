"""The tasks of this package by name."""

import importlib

TASKS = {
    "regression": "RegressionTask",
    "matter": "MatterTask",
    "astro": "AstroTask",
    "separation": "SeparationTask",
    "dust": "DustTask",
    "higlow": "HIGlowTask",
}


def task_named(name: str):
    """The task of this name.

    Raises:
        ValueError: If there is none.

    Example:
        >>> task_named("matter").model_name
        'matter'
    """
    if name not in TASKS:
        raise ValueError(f"Unknown task {name!r}. There are {', '.join(TASKS)}.")
    return getattr(importlib.import_module(f"keras_cosmo.tasks.{name}"), TASKS[name])()
