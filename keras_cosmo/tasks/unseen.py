"""The network that a run starts from must not have been trained on the simulations that the run tests on."""

from keras_cosmo.tasks.presets import show
from keras_cosmo.tasks.seen_simulations import seen_simulations


def check_unseen(settings, start: dict, prepared) -> None:
    """Raise ``ValueError`` if the run ``start`` was trained on simulations of the test part.

    Args:
        settings: Of the run that begins.
        start: ``config.json`` of the run it starts from.
        prepared: Data of the run that begins.
    """
    seen = seen_simulations(start, prepared.database, prepared.fingerprint)
    shared = sorted(seen & set(prepared.split.test.tolist()))
    if shared and "train" not in start["split"]:
        raise ValueError(
            f"--start-from {settings.start_from} was trained with --split paper, on maps of all simulations, those "
            "of this run's test among them. Start from a run with --split simulation."
        )
    if shared:
        raise ValueError(
            f"--start-from {settings.start_from} was trained on simulations that this run would test on "
            f"({show(tuple(shared[:5]))}{' ...' if len(shared) > 5 else ''}): the splits differ. Use --seed "
            f"{start['settings']['seed']} and --fractions {show(tuple(start['settings']['preset']['fractions']))} "
            "as that run, on the same data, or on simulations with seeds of their own."
        )
