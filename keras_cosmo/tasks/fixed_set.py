"""A few maps that are always the same and in no training, and what a served network does on them.

With them a shipped model is known again: they are made in seconds wherever the package is, so none need be stored.
"""

import pathlib

SEED = 20_260
"""Of the simulations; a run with this seed would have trained on them."""
SIMULATIONS = {"regression": 16, "matter": 2, "astro": 6, "separation": 16, "dust": 1, "higlow": 4}
CUTOUTS = 24


def measure_on_fixed_set(task, preset, serve, folder) -> dict:
    """Make the maps and measure a served network on them.

    Args:
        task: `keras_cosmo.tasks.task.Task`, one of those of this package.
        preset: Of the run that the network is of.
        serve: Takes the name of a signature and its inputs as keyword arguments, returns its outputs by name, NumPy.
        folder: Where the maps are written meanwhile.

    Returns:
        ``seed``, ``simulations``, ``maps``; ``inputs``, mean and standard deviation of what the network was given, by
        which one sees whether it was the same; and ``metrics``, named as those of a run.

    Raises:
        ValueError: If there is no fixed set for the task.
    """
    from keras_cosmo.data.campaign import run_campaign
    from keras_cosmo.data.database import Database

    if task.name not in SIMULATIONS:
        raise ValueError(f"task {task.name!r}: no fixed set, there is one for {', '.join(SIMULATIONS)}.")
    path = pathlib.Path(folder) / f"fixed-{task.name}.h5"
    database = Database(run_campaign(task.simulator(preset), path, count=SIMULATIONS[task.name], seed=SEED, workers=0))
    inputs, metrics = _MEASURES[task.name](task, preset, serve, database)
    return {
        "seed": SEED,
        "simulations": database.n_simulations,
        "maps": len(inputs),
        "inputs": {
            "mean": float(inputs.mean(dtype="float64")),
            "standard_deviation": float(inputs.std(dtype="float64")),
        },
        "metrics": {name: float(value) for name, value in metrics.items()},
    }


def _everything(database):
    import numpy as np

    return np.arange(database.n_maps)


def _regression(task, preset, serve, database):
    maps = database.read(task.field, _everything(database))
    return maps, _errors(serve("serving_default", brightness_temp=maps), database)


def _astro(task, preset, serve, database):
    maps = task.read(preset, database, _everything(database))
    maps = maps[..., 0] if maps.shape[-1] == 1 else maps
    return maps, _errors(serve("serving_default", brightness_temp=maps), database)


def _errors(served, database):
    """Root mean square error of each parameter."""
    import numpy as np

    from keras_cosmo.statistics.scores import rmse

    predicted = np.stack([served[name] for name in database.parameter_names], axis=-1)
    found = rmse(database.targets(_everything(database)), predicted)
    return {f"rmse/{name}": value for name, value in zip(database.parameter_names, found, strict=True)}


def _matter(task, preset, serve, database):
    import numpy as np

    ids = _everything(database)
    maps = np.stack([database.read(field, ids) for field in task.inputs(preset)], axis=-1)
    maps = maps[..., 0] if maps.shape[-1] == 1 else maps
    true = np.stack([database.read(field, ids) for field in task.outputs(preset)], axis=-1)
    predicted = serve("serving_default", brightness_temp=maps)["overdensity"].reshape(true.shape)
    scores, _ = task.measure(true[..., 0], predicted[..., 0], database.cell_size, database.simulation)
    kept = ("transfer/k0.2", "transfer/k0.7", "correlation/k0.2", "correlation/k0.7", "rmse", "r2")
    return maps, {name: scores[name] for name in kept if name in scores}


def _separation(task, preset, serve, database):
    import numpy as np

    from keras_cosmo.tasks.separation_measures import score

    ids = _everything(database)
    true = np.stack([database.read(field, ids) for field in task.fields(preset)], axis=-1)
    maps = true.sum(axis=-1)
    served = serve("serving_default", intensity=maps)
    predicted = np.stack([served[line] for line in preset.lines], axis=-1)
    scores = score(preset, database, true, predicted, database.simulation)
    kept = ("pixels/relative_l1", "pixels/correlation", "mean/median_fractional_error")
    return maps, {f"{line}/{name}": scores[f"{line}/{name}"] for line in preset.lines for name in kept}


def _dust(task, preset, serve, database):
    import numpy as np

    from keras_cosmo.data.sky_pipeline import draw_cutouts
    from keras_cosmo.tasks.dust_measures import measured

    area = task.areas(preset, int(database.attributes["nside"]))["test"]
    cutouts = draw_cutouts(database, [0], area, task.grid(preset), CUTOUTS, SEED, preset.most_masked)
    batches = list(task.pipeline(preset, database, cutouts, 0).evaluation())
    maps, target = (np.concatenate([batch[side].numpy() for batch in batches]) for side in (0, 1))
    true, mask = target[..., 0], target[..., 1]
    predicted = serve("serving_default", hi_cube=maps)["dust"] * mask
    metrics = {band: values.mean() for band, values in measured(true, predicted, preset).items()}
    metrics["mean_absolute_difference"] = np.abs(predicted - true).sum(dtype="float64") / mask.sum()
    return maps, metrics


def _higlow(task, preset, serve, database):
    """One map of each simulation: each takes as many evaluations of the flow as the posterior has points."""
    import numpy as np

    from keras_cosmo.statistics.scores import rmse

    _, first = np.unique(database.simulation, return_index=True)
    maps, true = database.read(task.field(database), first), database.targets(first)
    posterior = serve("posterior", maps=maps)
    found = rmse(true, posterior["mean"])
    metrics = {f"corrected/rmse/{name}": value for name, value in zip(database.parameter_names, found, strict=True)}
    deviation = posterior["standard_deviation"].mean(axis=0)
    for name, value in zip(database.parameter_names, deviation, strict=True):
        metrics[f"corrected/posterior_standard_deviation/{name}"] = value
    log_prob = serve("log_prob", maps=maps, parameters=true.astype(np.float32))["log_prob"]
    metrics["log_prob_per_pixel"] = log_prob.mean() / maps[0].size
    return maps, metrics


_MEASURES = {
    "regression": _regression,
    "matter": _matter,
    "astro": _astro,
    "separation": _separation,
    "dust": _dust,
    "higlow": _higlow,
}
