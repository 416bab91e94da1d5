"""The part of a run that all workers do together: build, train, and hand the trained network to the chief."""

import contextlib
import dataclasses
import logging

from keras_cosmo.tasks.settings import RunSettings, settings_from_json

logger = logging.getLogger(__name__)


def train(task, settings: RunSettings, prepared, normalization_from: str, begin=None, progress: bool = False):
    """Build the network, start or resume it, and train it; with a team, call the other workers to do the same.

    Args:
        task: `keras_cosmo.tasks.task.Task`.
        settings: Of the run.
        prepared: `keras_cosmo.tasks.task.Prepared`.
        normalization_from: Where the normalisation comes from, for a message.
        begin: Called when everything could be built, before the first step.
        progress: Show a progress bar.

    Returns:
        The trained network, for this process alone, and the `keras_cosmo.training.trainer.Trainer` that trained it.

    Raises:
        As `keras_cosmo.tasks.run.run`.
    """
    import keras
    import tensorflow as tf

    from keras_cosmo.training.trainer import Trainer

    team = settings.team
    if team and team.is_chief:
        team.busy = True
        _call(settings, prepared, normalization_from)

    def build():
        return task.model(settings.preset, prepared.database, prepared.normalization, settings.precision)

    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(settings.seed)
    with team.strategy.scope() if team else contextlib.nullcontext():
        model = build()
        trainer = Trainer(
            model,
            settings.out,
            workers=team,
            progress=progress,
            checkpoint_seconds=settings.checkpoint_seconds,
            advice=task.advice,
        )
        trainer.check_batch(prepared.training)
        if settings.start_from and not trainer.has_checkpoint:
            task.copy_start(settings.start_from / "model.keras", model)
            logger.info(
                "Start: the network of %s, normalisation %s.",
                settings.start_from,
                "refitted on the new training part" if normalization_from == "training part" else "kept",
            )
        callbacks = task.callbacks(settings.preset)
    if begin:
        begin()
    trainer.fit(
        prepared.training,
        prepared.validation,
        epochs=settings.preset.epochs,
        callbacks=callbacks,
        resume=settings.resume,
    )
    if not team:
        return model, trainer
    team.busy = False
    # What follows is the chief's alone, with a network that asks nothing of the others.
    alone = build()
    trainer.copy_into(alone)
    return alone, trainer


def follow(task, team) -> int:
    """Train along with the chief, one run after the other, until it says that there is no more to do.

    Args:
        task: As the chief's.
        team: `keras_cosmo.training.workers.Workers` of this process.

    Returns:
        Exit status of the chief.

    Raises:
        As `keras_cosmo.tasks.run.run`.
    """
    from keras_cosmo.data.database import Database

    while "status" not in (message := team.tell()):
        settings = settings_from_json(task, message["settings"])
        settings = dataclasses.replace(settings, team=team)
        try:
            database = Database(message["data"])
            prepared = task.prepare(settings.preset, database, settings.seed)
            if prepared.fingerprint != message["fingerprint"]:
                raise ValueError(f"{database.path}: worker {team.index} sees other data than the chief.")
        except Exception:
            team.sums([1.0])
            raise
        if team.sums([0.0])[0] == 0:
            prepared.normalization = message["normalization"]
            train(task, settings, prepared, message["normalization_from"])
    return message["status"]


def _call(settings, prepared, normalization_from):
    """Tell the others what to train, and wait until they have prepared the same data."""
    settings.team.tell(
        {
            "settings": dataclasses.replace(settings, out=settings.out.resolve()).to_json(),
            "data": str(prepared.database.path.resolve()),
            "fingerprint": prepared.fingerprint,
            "normalization": prepared.normalization,
            "normalization_from": normalization_from,
        }
    )
    failed = int(settings.team.sums([0.0])[0])
    if failed:
        raise RuntimeError(f"{failed} of {settings.team.count} workers could not read the data; see what they printed.")
