"""From a finished run to a shipped model: its SavedModel, and a card of what the run wrote."""

import json
import logging
import pathlib
import shlex
import shutil
import tempfile

from keras_cosmo.tasks.fixed_set import SEED, measure_on_fixed_set
from keras_cosmo.tasks.report_parts import changes, command_line, limits
from keras_cosmo.tasks.settings import read_config, settings_from_json
from keras_cosmo.tasks.shown_metrics import calibration_table, metric_table

logger = logging.getLogger(__name__)

VERSION = "1"
"""Version folder of every shipped model. It stays, as the user's own exports count on and must not be in the way."""
TIME = "processor_time.json"
# Relative, of each number of the fixed set: room for other kernels, and for graphics cards that shorten float32.
TOLERANCE = 1e-2


def ship(task, run, exports, saved_models) -> pathlib.Path:
    """Copy the SavedModel of a finished run to ``<saved_models>/<name>/1`` and write its card.

    Args:
        task: `keras_cosmo.tasks.task.Task`, one of those of this package.
        run: Folder of the run.
        exports: Folder that the run exported to (``--saved-models``).
        saved_models: Folder of the shipped models. What it has of this one is replaced.

    Returns:
        The version folder.

    Raises:
        FileNotFoundError: If the run has not finished, or its SavedModel is gone.
        ValueError: If the run is damaged, of another task, of data from elsewhere, has the seed of the fixed set, or a
            split that is not by simulation.
    """
    run, saved_models = pathlib.Path(run), pathlib.Path(saved_models)
    config = read_config(run, task.name)
    settings = config["settings"]
    check_may_be_shipped(run, settings["data"], settings["seed"])
    data = config["data"]
    if not data["simulator"].startswith("embedded"):
        check_may_be_shipped(run, data["simulator"], settings["seed"])
    check_may_be_shipped(run, None, data.get("seed"))
    if "kind" in config["split"]:
        raise ValueError(f"{run} has a split that is not by simulation: its numbers are of maps that it has seen.")
    metrics = _read_metrics(run)
    source = find_export(pathlib.Path(exports) / task.model_name, run, metrics)
    base = saved_models / task.model_name
    base.mkdir(parents=True, exist_ok=True)
    from keras_cosmo.export.model_card import write_card

    with tempfile.TemporaryDirectory(prefix="ship-", dir=base) as folder:
        aside = shutil.copytree(source, pathlib.Path(folder) / VERSION)
        card = build_card(task, run, config, metrics, json.loads(_facts(aside).read_text(encoding="utf-8")))
        logger.info("Measuring %s on the fixed set.", aside)
        card["check"] = measure_on_fixed_set(task, _preset(task, settings), serve(aside), folder)
        card["check"]["tolerance"] = TOLERANCE
        write_card(aside, card)
        if (base / VERSION).exists():
            (base / VERSION).rename(pathlib.Path(folder) / "before")
        aside.rename(base / VERSION)
    return base / VERSION


def check_may_be_shipped(run, data, seed) -> None:
    """Raise ``ValueError`` for a run on data from elsewhere, or with the seed of the fixed set.

    Args:
        run: Folder of the run, for the message.
        data: What it is trained on, if that is not what its command simulates.
        seed: Of the run or of its data.
    """
    if data is not None:
        raise ValueError(
            f"{run}: trained on {data}; shipped models are trained on what their command simulates, by the embedded "
            "simulator."
        )
    if seed == SEED:
        raise ValueError(f"{run} has the seed {SEED}, that of the fixed set: it would be measured on its training.")


def find_export(folder, run, metrics: dict) -> pathlib.Path:
    """The version folder that a run exported.

    Args:
        folder: Folder of the versions.
        run: Folder of the run.
        metrics: Its ``metrics.json``, by which it is known.

    Raises:
        FileNotFoundError: If there is none.
    """
    from keras_cosmo.export.versions import versions

    for version in reversed(versions(folder)):
        facts = json.loads(_facts(version).read_text(encoding="utf-8")) if _facts(version).is_file() else {}
        if facts.get("run") == pathlib.Path(run).name and facts.get("metrics") == metrics:
            return version
    raise FileNotFoundError(
        f"{folder}: no SavedModel of the run {run}. Give the folder it exported to with --saved-models, or train anew."
    )


def serve(folder):
    """A SavedModel as a function: name of a signature and inputs -> outputs by name, NumPy."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))

    def call(signature, **inputs):
        outputs = loaded.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    return call


def measure_again(task, folder, card: dict, scratch) -> dict:
    """The fixed set of a shipped model, measured here and now; compare it with ``card["check"]``.

    Args:
        task: The task of the model.
        folder: Version folder.
        card: Of `keras_cosmo.export.model_card.read_card`.
        scratch: Folder for the maps.
    """
    return measure_on_fixed_set(task, _preset(task, card["settings"]), serve(folder), scratch)


def build_card(task, run, config: dict, metrics: dict, facts: dict) -> dict:
    """Everything about a model that its run wrote, without the fixed set and the checksums.

    Args:
        task: `keras_cosmo.tasks.task.Task`.
        run: Folder of the run.
        config: Its ``config.json``.
        metrics: Its ``metrics.json``.
        facts: ``assets.extra/keras_cosmo.json`` of its SavedModel.
    """
    settings = config["settings"]
    simulator = task.simulator(_preset(task, settings))
    time = json.loads((run / TIME).read_text()) if (run / TIME).is_file() else {}
    size = simulator.attributes()
    return {
        "name": task.model_name,
        "title": task.title,
        "task": task.name,
        "paper": f"{task.paper.citation}: {task.paper.title}",
        "licence": _licence(),
        "signatures": facts["signatures"],
        "data": {
            "simulator": _simulator_text(config),
            "simulations": config["data"]["simulations"],
            "maps": config["data"]["maps"],
            "fingerprint": config["data"]["fingerprint"],
            "split_by": _split_text(config["split"]),
            "split": {part: len(config["split"][part]) for part in ("train", "validation", "test")},
            "cell_size": facts["cell_size"],
            "cell_size_unit": size.get("cell_size_units", ""),
            "description": size["description"],
            "parameters": [
                {"name": each.name, "unit": each.unit, "low": float(each.low), "high": float(each.high)}
                for each in simulator.parameters
            ],
        },
        "metrics": metric_table(task, metrics, config),
        "calibration": calibration_table(task, metrics, config),
        "limits": _limits(task, config, facts, simulator, size),
        "made": {
            "commands": _commands(task, config, run),
            "preset": settings["preset_name"],
            "changes": changes(task, settings),
            "seed": settings["seed"],
            "precision": settings["precision"],
            "epochs": metrics["epochs"],
            "started": None if config.get("started") == "unknown" else config.get("started"),
            "processor_seconds": time.get("seconds"),
            "simulated": time.get("simulated"),
            "versions": config.get("versions", {}),
        },
        "settings": {key: settings[key] for key in ("preset_name", "preset", "seed")} | {"out": run.name},
    }


def _preset(task, settings):
    return settings_from_json(task, {**settings, "out": "."}).preset


def _facts(version):
    return version / "assets.extra" / "keras_cosmo.json"


def _read_metrics(run):
    path = run / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{run} has not finished: {path} is missing. Finish it with --resume.")
    return json.loads(path.read_text(encoding="utf-8"))


def _licence():
    from importlib.metadata import metadata

    about = metadata("keras_cosmo")
    return about.get("License-Expression") or about.get("License") or "see LICENSE"


def _simulator_text(config):
    name, _, version = config["data"]["simulator"].partition(" ")
    return f"{name} simulator of keras_cosmo {config.get('versions', {}).get('keras_cosmo', '')}, its version {version}"


def _split_text(split):
    if "train_area" in split:
        area = f"area (training {split['train_area']}, test {split['test_area']})"
        return f"simulated sky and {area}" if split["by_sky"] else area
    return "simulation"


def _limits(task, config, facts, simulator, size):
    notes = [
        note.replace("which the table Recipe shows in bold", f"see python apps/train_{task.name}.py --help")
        for note in limits(task, config["settings"], config["data"])
    ]
    shapes = []
    for name, signature in facts["signatures"].items():
        for key, each in signature["inputs"].items():
            pixels = each["shape"][1:3]
            if name == "serving_default" and len(pixels) == 2:
                text = "any size that the network takes" if None in pixels else f"{pixels[0]} x {pixels[1]} pixels"
                shapes.append(
                    f"{key} in {each['unit']}, {text}, of {facts['cell_size']:g} {size.get('cell_size_units', '')}"
                )
    notes.append(f"Maps as those of the training alone: {'; '.join(shapes)}. The training had: {size['description']}.")
    notes.extend(of_inputs(facts))
    if simulator.parameters:
        ranges = ", ".join(f"{each.name} {each.low:g} to {each.high:g}" for each in simulator.parameters)
        notes.append(f"Parameters of the training: {ranges}. Outside of these the network has seen nothing.")
    return notes


def of_inputs(facts: dict) -> list[str]:
    """What maps must be like beside unit and size, as ``assets.extra/keras_cosmo.json`` of a SavedModel has it."""
    found = []
    redshifts = facts.get("redshifts")
    if redshifts:
        low, high = min(redshifts), max(redshifts)
        text = f"Redshift: {low:g}" if low == high else f"Redshifts: {low:.3g} to {high:.3g} in {len(redshifts)} cells"
        found.append(f"{text}, along the last axis." if low != high else f"{text}.")
    normalization = facts.get("normalization", {})
    if "low_pass_ell" in normalization:
        found.append(
            "Cubes are brightness temperature times mask, with a Butterworth filter to multipole "
            f"{normalization['low_pass_ell']:g} of order {normalization['low_pass_order']:g}, as apps/prepare_sky.py "
            "makes them."
        )
    return found


def _commands(task, config, run):
    """The command that makes the model, after that of the run it starts from."""
    settings = config["settings"]
    before = []
    start = settings.get("start_from")
    if start:
        # A run beside this one is named as this one is, not by where the folders were.
        named = run.parent / pathlib.Path(start).name
        if (named / "config.json").is_file():
            there = read_config(named, *task.starts_from)
            before = [
                command_line(
                    _other(task, there["task"]), {**there["settings"], "out": f"runs/{named.name}", "cache": None}
                )
            ]
        settings = {**settings, "start_from": f"runs/{named.name}"}
    settings = {**settings, "out": f"runs/{run.name}", "data": None, "cache": None, "saved_models": "saved_models"}
    words = shlex.split(command_line(task, settings))
    return [*before, shlex.join(["python", "apps/ship_model.py", task.name, *words[2:]])]


def _other(task, name):
    if name == task.name:
        return task
    from keras_cosmo.tasks.all_tasks import task_named

    return task_named(name)
