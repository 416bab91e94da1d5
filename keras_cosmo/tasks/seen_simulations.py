"""Which simulations a network was trained on, so that nothing is tested on them."""

import pathlib

from keras_cosmo.tasks.presets import show

# Tasks whose embedded simulator draws the same structures from one seed, whatever the number of pixels.
SAME_AT_EVERY_RESOLUTION = ("dust",)


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


def seen_simulations(config: dict, database, fingerprint: str) -> set[int]:
    """Simulations of a database that the run was trained or validated on, or that share initial conditions with those.

    They are known by their numbers if the content is that of the run's own data, else by the root attribute ``seeds``:
    seeds of PINOCCHIO are those of its matter, whatever maps were made of it; an embedded sky is the same at every
    resolution, and of other embedded simulations the map of a seed is the same at equal numbers of pixels. Data of the
    run that are gone, or without seeds, tell nothing.

    Args:
        config: ``config.json`` of the run.
        database: `keras_cosmo.data.database.Database`.
        fingerprint: Of the content of ``database``, from its scan.

    Returns:
        Numbers of simulations in ``database``.
    """
    import numpy as np

    from keras_cosmo.data.database import Database

    split = config["split"]
    # A leaking split has copies of maps of every simulation in its training part.
    every = range(config["data"]["simulations"])
    used = sorted({*split["train"], *split["validation"]}) if "train" in split else list(every)
    if config["data"]["fingerprint"] == fingerprint:
        return set(used)
    path = pathlib.Path(config["data"]["path"])
    if not path.is_file():
        return set()
    own = Database(path)
    seeds = [np.atleast_1d(each.attributes.get("seeds", ())).tolist() for each in (own, database)]
    made = [each.attributes.get("simulator") for each in (own, database)]
    shapes = [(next(iter(each.fields.values())).shape, each.cell_size) for each in (own, database)]
    if made[0] is None or made[0] != made[1] or len(seeds[0]) != config["data"]["simulations"]:
        return set()
    if made[0] != "PINOCCHIO" and database.task not in SAME_AT_EVERY_RESOLUTION and shapes[0] != shapes[1]:
        return set()
    known = {seeds[0][simulation] for simulation in used}
    return {simulation for simulation, seed in enumerate(seeds[1]) if seed in known}
