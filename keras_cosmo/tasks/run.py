"""The one road every run takes: data, network, training, measurement, figures, report, SavedModel.

A run folder holds::

    config.json         resolved preset, seed, versions, data and their checksum, split, normalisation
    history.csv         losses and learning rate of every epoch
    checkpoints/        last-* to resume from, best.npz
    tensorboard/        events
    metrics.json        what was measured on the test part, baselines, the paper's values
    *.csv               predictions and binned residuals on the test part
    figures/*.png       and report.html, the page to open first
    model.keras         the trained network
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
import pathlib
import platform
import re
import sys

from keras_cosmo import __version__
from keras_cosmo.files import written_aside
from keras_cosmo.progress import progress_callback
from keras_cosmo.tasks.report_parts import now, report_parts
from keras_cosmo.tasks.settings import RunSettings, read_config
from keras_cosmo.tasks.task import check_network

logger = logging.getLogger(__name__)


def run(task, settings: RunSettings, progress: bool = False) -> dict:
    """Train, measure, draw and export; returns the metrics.

    Args:
        task: `keras_cosmo.tasks.task.Task`.
        settings: `RunSettings`.
        progress: Show progress bars.

    Raises:
        ValueError: For data, settings or checkpoints that do not fit; nothing is trained then.
        FileNotFoundError: For missing files.
        OSError: If a file cannot be written.
        FloatingPointError: If the training loss is no longer finite.

    The seed of Keras and, with ``deterministic``, the determinism of TensorFlow are set for the whole process.
    """
    check_folder(settings)
    import keras

    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"keras_cosmo needs Keras on TensorFlow, got backend {keras.backend.backend()!r}: set "
            "KERAS_BACKEND=tensorflow."
        )
    from keras_cosmo.data.database import Database
    from keras_cosmo.tasks.train import train

    before = read_config(settings.out, task.name) if settings.resume else None
    start = read_config(settings.start_from, *task.starts_from) if settings.start_from and not before else None
    database = Database(settings.data or _data_of(before, start, task) or simulate(task, settings, progress))
    logger.info("Data: %s (%d maps of %d simulations)", database.path, database.n_maps, database.n_simulations)
    prepared = task.prepare(settings.preset, database, settings.seed)
    normalization_from = "training part"
    if before:
        # The constants are part of the network, so they stay those of the first start, whatever they came from.
        _check_same_data(before, prepared, settings)
        prepared.normalization, normalization_from = before["normalization"], before["normalization_from"]
    elif start:
        task.check_start(settings, start, prepared)
        if settings.start_normalization == "keep":
            prepared.normalization = task.normalization_of_start(start, prepared.normalization)
            normalization_from = str(settings.start_from)
    config = {
        "task": task.name,
        "settings": settings.to_json(),
        "workers": settings.team.count if settings.team else 1,
        "data": {
            "path": str(database.path.resolve()),
            "fingerprint": prepared.fingerprint,
            "simulations": database.n_simulations,
            "maps": database.n_maps,
            "simulator": f"{database.attributes.get('simulator')} {database.attributes.get('simulator_version')}",
            "seed": int(database.attributes["seed"]) if "seed" in database.attributes else None,
        },
        "parameters": list(database.parameter_names),
        "split": prepared.split.to_json(),
        "normalization": prepared.normalization,
        "normalization_from": normalization_from,
        "started": before.get("started", "unknown") if before else now(),
        "versions": package_versions(),
    }

    def begin():
        # Only when everything could be built: a run that could not begin leaves no folder that blocks the next try.
        settings.out.mkdir(parents=True, exist_ok=True)
        _write(settings.out / "config.json", json.dumps(config, indent=2) + "\n")

    model, trainer = train(task, settings, prepared, normalization_from, begin, progress)
    history = trainer.history
    if trainer.interrupted is not None:
        if trainer.interrupted.name == "SIGTERM":
            raise KeyboardInterrupt
        which = "best" if task.keeps_best(settings.preset) else "last"
        logger.info("Stopped early; measuring the %s weights so far. --resume trains on.", which)
    elif trainer.steps_made == 0 and (measured := _finished(settings.out, history)):
        logger.info("This run is finished: see %s. Nothing was trained or exported.", settings.out / "report.html")
        return measured
    if trainer.best_weights.exists() and task.keeps_best(settings.preset):
        trainer.load_best(model)
    task.finalize(settings.preset, model, prepared)
    return finish(task, settings, model, prepared, history, config)


def finish(task, settings, model, prepared, history, config) -> dict:
    """Measure on the test part and write metrics, predictions, figures, report and SavedModel."""
    from keras_cosmo.export.saved_model import export_saved_model
    from keras_cosmo.figures.report import write_report
    from keras_cosmo.figures.style import save_figures

    logger.info("Measuring on the test part, with the baseline.")
    evaluation = task.evaluate(settings.preset, model, prepared, settings.seed)
    metrics = {
        **evaluation.metrics,
        **{f"paper/{name}": value for name, value in task.paper_values(settings.preset).items()},
        "epochs": len(next(iter(history.values()), [])),
    }
    for name, columns in evaluation.columns.items():
        _write_columns(settings.out / f"{name}.csv", columns)
    logger.info("Drawing figures, then exporting the SavedModel.")
    figures = task.figures(settings.preset, model, prepared, evaluation, history) if history else {}
    drawn = save_figures({name: figure for name, (figure, _) in figures.items()}, settings.out / "figures")
    with written_aside(settings.out / "model.keras") as aside:
        model.save(aside)
    exported = export_saved_model(
        task.served(model),
        settings.saved_models / task.model_name,
        task.signatures(settings.preset, model, prepared, evaluation),
        metadata={
            "task": task.name,
            "paper": task.paper.citation,
            "keras_cosmo": __version__,
            "data": {key: value for key, value in config["data"].items() if key != "path"},
            "redshifts": None if prepared.database.redshifts is None else prepared.database.redshifts.tolist(),
            "cell_size": task.cell_size(settings.preset, prepared.database),
            "normalization": config["normalization"],
            "preset": config["settings"]["preset"],
            "run": str(settings.out.name),
            "metrics": _without_nan(metrics),
        },
    )
    report = settings.out / "report.html"
    write_report(
        report,
        title=task.title,
        subtitle=f"{task.paper.citation}; run {settings.out.name}",
        summary=[
            ("data", f"{config['data']['simulations']} simulations, {config['data']['maps']} maps"),
            ("preset", settings.preset_name),
            ("epochs", str(metrics["epochs"])),
            ("seed", str(settings.seed)),
            ("finished", now()),
            ("split", prepared.split.describe()),
        ],
        tables=evaluation.tables,
        figures=[(name.replace("_", " "), caption, drawn[name]) for name, (_, caption) in figures.items()],
        **report_parts(
            task,
            config,
            split=prepared.split.describe(),
            more=[("epochs", str(metrics["epochs"])), ("finished", now()), ("SavedModel", str(exported))],
        ),
    )
    # Last, so that a folder with metrics is a finished one.
    _write(settings.out / "metrics.json", json.dumps(_without_nan(metrics), indent=2, allow_nan=False) + "\n")
    for table in evaluation.tables:
        sys.stdout.write("\n" + text_table(table) + "\n")
    sys.stdout.write(f"\nreport      {report}\nmetrics     {settings.out / 'metrics.json'}\nSavedModel  {exported}\n")
    return metrics


def simulate(task, settings: RunSettings, progress: bool) -> pathlib.Path:
    """Make the preset's data with the embedded simulator, or find them in the cache."""
    from keras_cosmo.data.campaign import run_campaign

    simulator = task.simulator(settings.preset)
    count = task.simulations(settings.preset)
    plan = [dataclasses.asdict(simulator), simulator.version, count, settings.seed, task.design]
    plan = json.dumps(plan, sort_keys=True, default=str)
    cache = settings.cache or default_cache()
    path = cache / f"{simulator.task}-{hashlib.sha256(plan.encode()).hexdigest()[:16]}.h5"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        logger.info("Making %d simulations into %s", count, path)
        run_campaign(
            simulator,
            path,
            count=count,
            seed=settings.seed,
            design=task.design,
            workers=settings.simulation_workers or os.cpu_count() or 1,
            progress=progress_callback("simulation") if progress else None,
        )
    return path


def default_cache() -> pathlib.Path:
    """Folder for embedded simulations: ``$KERAS_COSMO_CACHE``, else the user's cache folder."""
    if "KERAS_COSMO_CACHE" in os.environ:
        return pathlib.Path(os.environ["KERAS_COSMO_CACHE"])
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "keras_cosmo"


def package_versions() -> dict:
    """Versions of Python and of the packages that decide a result."""
    from importlib.metadata import version

    names = ("tensorflow", "keras", "tensorflow-probability", "numpy", "scipy", "h5py", "astropy", "healpy")
    names += ("scikit-learn", "pyccl")
    return {"python": platform.python_version(), "keras_cosmo": __version__, **{name: version(name) for name in names}}


def text_table(table) -> str:
    """A report table as aligned text."""
    rows = [[str(cell) for cell in row] for row in [table.header, *table.rows]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([table.title, *lines, *([re.sub(r"\s+", " ", table.note)] if table.note else [])])


def check_files(task, settings: RunSettings) -> None:
    """Look at every file and folder that the command line names, before TensorFlow is imported, which takes seconds.

    The run itself checks them again, and more of them.

    Raises:
        ValueError: If something else is where a run, a database or a folder is expected.
        FileNotFoundError: If a file is missing.
        OSError: If a folder cannot be written to.
    """
    check_folder(settings)
    for flag, path in (("--out", settings.out), ("--saved-models", settings.saved_models), ("--cache", settings.cache)):
        if path is not None:
            _check_place(flag, path)
    if settings.start_from and not settings.resume:
        read_config(settings.start_from, *task.starts_from)
        network = settings.start_from / "model.keras"
        # A comparison of several runs has no network of its own; the task says which runs to choose from.
        if network.exists() or not any(settings.start_from.glob("*/config.json")):
            check_network(network)
    if settings.data:
        from keras_cosmo.data.database import Database

        Database(settings.data)


def _check_place(flag, path):
    """Raise ``OSError`` if no folder can be made there."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(f"{flag} {path}: {there} is a file, expected a folder. Choose another one.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{flag} {path}: the folder {there} cannot be written to. Choose another one.")


def check_folder(settings: RunSettings) -> None:
    """Raise ``ValueError`` if the run folder holds something else."""
    out = settings.out
    if settings.resume:
        return
    if (out / "config.json").exists():
        raise ValueError(
            f"--out {out} holds another run. Continue it with --resume, or choose another --out (or remove the folder)."
        )
    if out.exists() and (not out.is_dir() or any(".partial" not in path.name for path in out.iterdir())):
        raise ValueError(f"--out {out} exists and is not empty: choose another folder.")


def _finished(out, history):
    """Metrics of the folder, if they were measured after the last epoch that was trained; else None."""
    path = out / "metrics.json"
    metrics = json.loads(path.read_text()) if path.exists() else {}
    return metrics if metrics.get("epochs") == len(next(iter(history.values()), [])) else None


def _data_of(before, start, task):
    """Database of the run that is resumed or started from, if it is still there and is the one to use."""
    for config in (before, start if start and start["task"] in task.earlier_tasks else None):
        path = pathlib.Path(config["data"]["path"]) if config else None
        if path and path.is_file():
            logger.info("Taking the data of the run %s.", "that is resumed" if config is before else "to start from")
            return path
    return None


def _check_same_data(before, prepared, settings):
    now = {
        "fingerprint": prepared.fingerprint,
        "maps": prepared.database.n_maps,
        "simulations": prepared.database.n_simulations,
    }
    for key, value in now.items():
        if before["data"][key] != value:
            raise ValueError(
                f"The data changed since {settings.out} was started: {key} was {before['data'][key]}, now {value} "
                f"({prepared.database.path}). Resume with the same data, or train anew."
            )


def _write(path, text):
    with written_aside(path) as aside:
        aside.write_text(text)


def _write_columns(path, columns):
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(_number(value) for value in row) for row in rows)]
    _write(path, "\n".join(lines) + "\n")


def _without_nan(metrics):
    """NaN and infinity, numbers that could not be measured, are null in JSON."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in metrics.items()
    }


def _number(value):
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, str):
        return value
    return f"{value:.7g}" if isinstance(value, float) else str(int(value))
