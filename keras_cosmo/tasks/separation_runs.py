"""Runs of the separation task that belong together: the GAN beside the network of L1 losses alone, and ensembles."""

import dataclasses
import json
import logging

from keras_cosmo.tasks.run import check_folder, run
from keras_cosmo.tasks.settings import RunSettings, read_config

logger = logging.getLogger(__name__)

L1_ONLY = "L1 only"


def run_with_baseline(task, settings: RunSettings, progress: bool = False) -> dict:
    """One network, and before it the same generator trained without discriminators, as a baseline in its tables.

    The baseline is a run of its own in ``<out>-l1``, which is taken as it is if it is there and finished.

    Raises:
        As `keras_cosmo.tasks.run.run`; ``ValueError`` if ``<out>-l1`` holds another run.
        KeyboardInterrupt: If the baseline was stopped before its last epoch.
    """
    check_folder(settings)
    preset = settings.preset
    if preset.l1_baseline and preset.adversarial_weight > 0:
        task.companions[L1_ONLY] = train_l1_only(task, settings, progress)
    return run(task, settings, progress)


def train_l1_only(task, settings: RunSettings, progress: bool):
    """The network of ``<out>-l1``, trained if need be."""
    import keras

    out = settings.out.with_name(settings.out.name + "-l1")
    # Of a baseline the best weights are measured: here the loss that is watched is what it is trained for.
    changes = {"adversarial_weight": 0.0, "l1_baseline": False, "ensemble": 1, "weights": "best"}
    preset = dataclasses.replace(settings.preset, **changes)
    there = (out / "config.json").exists()
    one = dataclasses.replace(settings, preset=preset, out=out, resume=there, start_from=None)
    if there:
        before, ours = read_config(out, task.name)["settings"], one.to_json()
        for saved in (before, ours):
            # More epochs are trained on; what was trained longer serves as it is.
            saved["preset"] = {key: value for key, value in saved["preset"].items() if key != "epochs"}
        other = [key for key in ("preset", "seed", "precision") if before[key] != ours[key]]
        if other:
            raise ValueError(
                f"{out} holds a baseline of another {' and '.join(other)}. Remove that folder, choose another --out, "
                "or give --no-l1-baseline."
            )
    logger.info("--- baseline: the same network without discriminators, into %s", out)
    again = f"stopped in the baseline {out}. The same command goes on with it."
    try:
        measured = run(task.without_discriminators(), one, progress)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(again) from error
    if measured["epochs"] < preset.epochs:
        raise KeyboardInterrupt(again)
    logger.info("--- the network with discriminators, into %s", settings.out)
    return keras.models.load_model(out / "model.keras", compile=False)


def run_ensemble(task, settings: RunSettings, progress: bool = False) -> dict:
    """Networks that differ in start weights and training data, measured one by one and together (section 3.1).

    Every network is trained on a part of its own of the training simulations, into ``<out>/member-<i>``; all are
    measured on the same test part. Stopped at any time, it goes on with ``--resume``.

    Returns:
        Metrics of the members under ``member-<i>/...``, of all together without prefix.

    Raises:
        As `keras_cosmo.tasks.run.run`.
    """
    import keras

    from keras_cosmo.data.database import Database
    from keras_cosmo.tasks.separation_measures import compare_members
    from keras_cosmo.tasks.series import run_series

    preset, count = settings.preset, settings.preset.ensemble
    runs = {f"member-{number}": _member(settings, number) for number in range(1, count + 1)}
    finished = settings.out / "metrics.json"
    metrics, config = run_series(settings, runs, lambda one: run(task, one, progress), task.name)
    if settings.resume and finished.exists():
        logger.info("This ensemble is finished: see %s.", settings.out / "report.html")
        return json.loads(finished.read_text())
    if preset.l1_baseline and preset.adversarial_weight > 0:
        task.companions[L1_ONLY] = train_l1_only(task, settings, progress)
    members = [keras.models.load_model(one.out / "model.keras", compile=False) for one in runs.values()]
    prepared = task.prepare(dataclasses.replace(preset, ensemble=1), Database(config["data"]["path"]), settings.seed)
    return compare_members(task, settings, members, prepared, metrics, config)


def _member(settings, number):
    """Settings of one network: its part of the data, and a seed of its own for weights and order."""
    out = settings.out / f"member-{number}"
    count = settings.preset.ensemble
    preset = dataclasses.replace(settings.preset, ensemble=1, parts=count, part=number, l1_baseline=False)
    return dataclasses.replace(
        settings, preset=preset, out=out, resume=settings.resume and (out / "config.json").exists()
    )
