"""The one road every run takes: data, network, training, measurement, figures, report, SavedModel.

A run folder holds::

    config.json         resolved preset, seed, versions, data and their checksum, split, normalisation
    history.csv         losses and learning rate of every epoch
    checkpoints/        last-* to resume from, best.npz
    tensorboard/        events
    metrics.json        what was measured on the test part, baselines, the paper's values
    predictions.csv     truth and prediction of every test map
    figures/*.png       and report.html, the page to open first
    model.keras         the trained network
"""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import platform
import re
import sys

from keras_cosmo import __version__
from keras_cosmo.tasks.presets import Parser, add_preset_flags, fail, resolve_preset

logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "mixed_bfloat16")
# Settings that may change between the start of a run and its continuation.
FREE_ON_RESUME = ("preset/epochs", "out", "resume", "saved_models", "simulation_workers", "cache", "checkpoint_seconds")


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
        simulation_workers: Processes that simulate.
        checkpoint_seconds: Seconds between checkpoints.
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

    def to_json(self) -> dict:
        """Plain values, as in ``config.json``."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))


def main(task, argv=None) -> int:
    """Run a task from the command line; returns the exit status."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("keras_cosmo").setLevel(logging.INFO)
    try:
        arguments = vars(parser(task).parse_args(argv))
        summary = arguments.pop("summary", False)
        settings = settings_from(task, arguments)
    except (ValueError, OSError) as error:
        return fail(str(error), 2)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        if summary:
            print_summary(task, settings)
        else:
            run(task, settings, progress=True)
    except (ValueError, OSError, FloatingPointError, RuntimeError, ImportError) as error:
        logger.debug("Traceback", exc_info=True)
        return fail(str(error))
    except KeyboardInterrupt:
        return fail("stopped. Continue with the same command and --resume.", 130)
    return 0


def parser(task) -> Parser:
    """Command line of ``apps/train_<task>.py``; flags that are not given leave no trace."""
    result = Parser(
        prog=f"train_{task.name}.py", description=f"{task.title}\n{task.paper.citation}", argument_default=None
    )
    absent = {"default": _absent()}
    result.add_argument("--preset", choices=list(task.presets), help="sizes and recipe [quick]", **absent)
    result.add_argument(
        "--data", type=pathlib.Path, help="database file; without it the embedded simulator makes one", **absent
    )
    result.add_argument("--out", type=pathlib.Path, help=f"run folder [runs/{task.name}-<preset>]", **absent)
    result.add_argument("--seed", type=int, help="seed of everything random [0]", **absent)
    result.add_argument(
        "--resume", action="store_true", help="continue the run in --out after a stop or kill", **absent
    )
    result.add_argument("--precision", choices=PRECISIONS, help="of the convolutions [float32]", **absent)
    result.add_argument("--deterministic", action="store_true", help="deterministic kernels, slower", **absent)
    result.add_argument(
        "--start-from", type=pathlib.Path, metavar="RUN", help="run folder whose network is the start", **absent
    )
    result.add_argument(
        "--start-normalization",
        choices=("keep", "refit"),
        help="keep the normalisation of --start-from, or refit it on the new training part [keep]",
        **absent,
    )
    result.add_argument("--saved-models", type=pathlib.Path, help="folder for SavedModels [saved_models]", **absent)
    result.add_argument(
        "--cache", type=pathlib.Path, help="folder for embedded simulations [~/.cache/keras_cosmo]", **absent
    )
    result.add_argument("--simulation-workers", type=int, help="processes that simulate [all cores]", **absent)
    result.add_argument("--checkpoint-seconds", type=float, help="seconds between checkpoints [30]", **absent)
    result.add_argument(
        "--summary", action="store_true", help="print the network with its parameter counts and stop", **absent
    )
    add_preset_flags(result, type(next(iter(task.presets.values()))))
    return result


def _absent():
    import argparse

    return argparse.SUPPRESS


def settings_from(task, arguments: dict) -> RunSettings:
    """Settings from the flags that were given; a resumed run takes all others from its ``config.json``.

    Raises:
        ValueError: If a flag contradicts the run that is resumed; the message names each difference.
        FileNotFoundError: If there is no run to resume.
    """
    arguments = dict(arguments)
    fields = [field.name for field in dataclasses.fields(next(iter(task.presets.values())))]
    changes = {name: arguments.pop(name) for name in fields if name in arguments}
    resume = arguments.get("resume", False)
    out = arguments.get("out")
    if not resume:
        name = arguments.pop("preset", "quick")
        arguments["out"] = out or pathlib.Path("runs") / f"{task.name}-{name}"
        return RunSettings(preset_name=name, preset=resolve_preset(task.presets, name, changes), **arguments)

    name = arguments.pop("preset", None)
    out = out or pathlib.Path("runs") / f"{task.name}-{name or 'quick'}"
    saved = read_config(out, task.name)["settings"]
    preset_values = {key: tuple(value) if isinstance(value, list) else value for key, value in saved["preset"].items()}
    preset = resolve_preset(task.presets, name or saved["preset_name"], {**preset_values, **changes})
    paths = ("out", "data", "start_from", "saved_models", "cache")
    kept = {
        key: pathlib.Path(value) if key in paths and value is not None else value
        for key, value in saved.items()
        if key not in ("preset", "preset_name")
    }
    settings = RunSettings(
        preset_name=name or saved["preset_name"], preset=preset, **{**kept, **arguments, "out": out, "resume": True}
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


def read_config(folder, task_name: str) -> dict:
    """``config.json`` of a run folder.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it belongs to another task.
    """
    path = pathlib.Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no run: expected {path}, which every training run writes first.")
    config = json.loads(path.read_text())
    if config.get("task") != task_name:
        raise ValueError(f"{folder} is a run of task {config.get('task')!r}, expected {task_name!r}.")
    return config


def print_summary(task, settings: RunSettings) -> None:
    """Print the network at the size of the data, or of the preset."""
    from keras_cosmo.data.database import Database

    database = Database(settings.data) if settings.data else None
    task.model(settings.preset, database, None, settings.precision).summary()


def run(task, settings: RunSettings, progress: bool = False) -> dict:
    """Train, measure, draw and export; returns the metrics.

    Args:
        task: `keras_cosmo.tasks.task.Task`.
        settings: `RunSettings`.
        progress: Show progress bars.

    Raises:
        ValueError: For data, settings or checkpoints that do not fit; nothing is trained then.
        FileNotFoundError: For missing files.
    """
    _check_folder(settings)
    import keras

    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"keras_cosmo needs Keras on TensorFlow, got backend {keras.backend.backend()!r}: set "
            "KERAS_BACKEND=tensorflow."
        )
    import tensorflow as tf

    from keras_cosmo.data.database import Database
    from keras_cosmo.training.trainer import Trainer

    start = read_config(settings.start_from, task.name) if settings.start_from else None
    database = Database(settings.data or simulate(task, settings, progress))
    logger.info("Data: %s (%d maps of %d simulations)", database.path, database.n_maps, database.n_simulations)
    prepared = task.prepare(settings.preset, database, settings.seed)
    if start and settings.start_normalization == "keep":
        prepared.normalization = start["normalization"]
    config = {
        "task": task.name,
        "settings": settings.to_json(),
        "data": {
            "path": str(database.path.resolve()),
            "fingerprint": prepared.fingerprint,
            "simulations": database.n_simulations,
            "maps": database.n_maps,
            "simulator": f"{database.attributes.get('simulator')} {database.attributes.get('simulator_version')}",
        },
        "split": prepared.split.to_json(),
        "normalization": prepared.normalization,
        "normalization_from": str(settings.start_from)
        if start and settings.start_normalization == "keep"
        else "training part",
        "versions": package_versions(),
    }
    _claim_folder(settings, config, task.name)

    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(settings.seed)
    model = task.model(settings.preset, database, prepared.normalization, settings.precision)
    if start:
        copy_weights(settings.start_from / "model.keras", model)
        logger.info(
            "Start: the network of %s, normalisation %s.",
            settings.start_from,
            "kept" if settings.start_normalization == "keep" else "refitted on the new training part",
        )
    trainer = Trainer(model, settings.out, progress=progress, checkpoint_seconds=settings.checkpoint_seconds)
    history = trainer.fit(
        prepared.training,
        prepared.validation.evaluation(),
        epochs=settings.preset.epochs,
        callbacks=task.callbacks(settings.preset),
        resume=settings.resume,
    )
    if trainer.interrupted is not None:
        if trainer.interrupted.name == "SIGTERM":
            raise KeyboardInterrupt
        logger.info("Stopped early; measuring the best weights so far. --resume trains on.")
    if trainer.best_weights.exists():
        trainer.load_best()
    return finish(task, settings, model, prepared, history, config)


def finish(task, settings, model, prepared, history, config) -> dict:
    """Measure on the test part and write metrics, predictions, figures, report and SavedModel."""
    from keras_cosmo.export.saved_model import export_saved_model
    from keras_cosmo.figures.report import write_report
    from keras_cosmo.figures.style import save_figures

    evaluation = task.evaluate(settings.preset, model, prepared, settings.seed)
    metrics = {
        **evaluation.metrics,
        **{f"paper/{name}": value for name, value in task.paper.values.items()},
        "epochs": len(next(iter(history.values()), [])),
    }
    _write(settings.out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    _write_predictions(settings.out / "predictions.csv", evaluation.columns)
    figures = task.figures(settings.preset, model, prepared, evaluation, history) if history else {}
    save_figures({name: figure for name, (figure, _) in figures.items()}, settings.out / "figures")
    aside = settings.out / "aside.keras"
    model.save(aside)
    aside.replace(settings.out / "model.keras")
    exported = export_saved_model(
        model,
        settings.saved_models / task.model_name,
        task.signatures(settings.preset, model, prepared),
        metadata={
            "task": task.name,
            "paper": task.paper.citation,
            "keras_cosmo": __version__,
            "data": {key: value for key, value in config["data"].items() if key != "path"},
            "normalization": config["normalization"],
            "metrics": metrics,
        },
    )
    report = settings.out / "report.html"
    write_report(
        report,
        title=task.title,
        subtitle=f"{task.paper.citation}; run {settings.out.name}",
        summary=[
            ("data", f"{config['data']['simulator']}, {config['data']['maps']} maps"),
            ("checksum", prepared.fingerprint),
            ("split", _split_text(prepared)),
            ("preset", settings.preset_name),
            ("precision", settings.precision),
            ("seed", str(settings.seed)),
            ("normalisation", config["normalization_from"]),
            ("epochs", str(metrics["epochs"])),
            ("SavedModel", str(exported)),
        ],
        tables=[*evaluation.tables, _preset_table(settings.preset)],
        figures=[(name.replace("_", " "), caption, figure) for name, (figure, caption) in figures.items()],
        citations=[(f"{task.paper.citation}: {task.paper.title}", task.paper.bibtex)],
        notes=[],
    )
    for table in evaluation.tables:
        sys.stdout.write("\n" + text_table(table) + "\n")
    sys.stdout.write(f"\nreport      {report}\nmetrics     {settings.out / 'metrics.json'}\nSavedModel  {exported}\n")
    return metrics


def simulate(task, settings: RunSettings, progress: bool) -> pathlib.Path:
    """Make the preset's data with the embedded simulator, or find them in the cache."""
    from keras_cosmo.data.campaign import run_campaign

    simulator = task.simulator(settings.preset)
    count = task.simulations(settings.preset)
    plan = json.dumps(
        [dataclasses.asdict(simulator), simulator.version, count, settings.seed], sort_keys=True, default=str
    )
    cache = settings.cache or default_cache()
    path = cache / f"{task.name}-{hashlib.sha256(plan.encode()).hexdigest()[:16]}.h5"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        logger.info("Simulating %d light-cones into %s", count, path)
        run_campaign(
            simulator,
            path,
            count=count,
            seed=settings.seed,
            workers=settings.simulation_workers or os.cpu_count() or 1,
            progress=_bar(count) if progress else None,
        )
    return path


def default_cache() -> pathlib.Path:
    """Folder for embedded simulations: ``$KERAS_COSMO_CACHE``, else the user's cache folder."""
    if "KERAS_COSMO_CACHE" in os.environ:
        return pathlib.Path(os.environ["KERAS_COSMO_CACHE"])
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "keras_cosmo"


def copy_weights(path, model) -> None:
    """Copy the weights of a saved network into a new one of the same architecture, layer by layer.

    Raises:
        FileNotFoundError: If the run has not finished and so saved no network.
        ValueError: If a layer is missing or has weights of another shape.
    """
    import keras

    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the run to start from has not finished. Finish it with --resume.")
    saved = {layer.name: layer.get_weights() for layer in keras.models.load_model(path, compile=False).layers}
    for layer in model.layers:
        shapes = [tuple(weight.shape) for weight in layer.weights]
        given = [weight.shape for weight in saved.get(layer.name, [])]
        if shapes != given:
            raise ValueError(
                f"Layer {layer.name!r} of this network has weights of shape {shapes}, that of {path} {given}. "
                "Start from a run on maps of the same size, with the same network."
            )
        layer.set_weights(saved.get(layer.name, []))


def package_versions() -> dict:
    """Versions of Python and of the packages that decide a result."""
    from importlib.metadata import version

    names = ("tensorflow", "keras", "numpy", "scipy", "h5py", "scikit-learn", "pyccl")
    return {"python": platform.python_version(), "keras_cosmo": __version__, **{name: version(name) for name in names}}


def text_table(table) -> str:
    """A report table as aligned text."""
    rows = [[str(cell) for cell in row] for row in [table.header, *table.rows]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([table.title, *lines, *([re.sub(r"\s+", " ", table.note)] if table.note else [])])


def _check_folder(settings):
    out = settings.out
    if settings.resume:
        return
    if (out / "config.json").exists():
        raise ValueError(
            f"--out {out} holds another run. Continue it with --resume, or choose another --out (or remove the folder)."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is not empty: choose another folder.")


def _claim_folder(settings, config, task_name):
    """Write ``config.json``, or check that the data are still those of the run that is resumed."""
    if settings.resume:
        before = read_config(settings.out, task_name)
        for key in ("fingerprint", "maps", "simulations"):
            if before["data"][key] != config["data"][key]:
                raise ValueError(
                    f"The data changed since {settings.out} was started: {key} was {before['data'][key]}, now "
                    f"{config['data'][key]} ({config['data']['path']}). Resume with the same data, or train anew."
                )
    settings.out.mkdir(parents=True, exist_ok=True)
    _write(settings.out / "config.json", json.dumps(config, indent=2) + "\n")


def _write(path, text):
    aside = path.with_name(path.name + ".partial")
    aside.write_text(text)
    aside.replace(path)


def _write_predictions(path, columns):
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(_number(value) for value in row) for row in rows)]
    _write(path, "\n".join(lines) + "\n")


def _number(value):
    value = value.item() if hasattr(value, "item") else value
    return f"{value:.7g}" if isinstance(value, float) else str(int(value))


def _split_text(prepared):
    split = prepared.split
    return f"by simulation: {len(split.train)} training, {len(split.validation)} validation, {len(split.test)} test"


def _preset_table(preset):
    from keras_cosmo.figures.report import Table

    rows = [
        [field.metadata["text"], _text(getattr(preset, field.name)), _text(field.default), field.metadata["source"]]
        for field in dataclasses.fields(preset)
    ]
    return Table(title="Recipe", header=["", "this run", "paper", "source"], rows=rows, note="")


def _text(value):
    return ", ".join(str(entry) for entry in value) if isinstance(value, tuple) else str(value)


def _bar(count):
    from tqdm import tqdm

    bar = tqdm(total=count, unit="simulation", desc="simulating")

    def progress(done, total):
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return progress
