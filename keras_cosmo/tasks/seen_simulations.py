"""Which simulations of a database a run was trained on, under whatever number and in whatever file."""

import pathlib


def seen_simulations(config: dict, database, fingerprint: str) -> set[int]:
    """Simulations of a database that the run was trained or validated on, or that share initial conditions with those.

    They are known by their numbers if the content is that of the run's own data, else by the root attribute ``seeds``:
    seeds of PINOCCHIO are those of its matter, whatever maps were made of it; the embedded simulator draws the same map
    from the same seed at equal numbers of pixels. Data of the run that are gone, or without seeds, tell nothing.

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
    if made[0] != "PINOCCHIO" and shapes[0] != shapes[1]:
        return set()
    known = {seeds[0][simulation] for simulation in used}
    return {simulation for simulation, seed in enumerate(seeds[1]) if seed in known}
