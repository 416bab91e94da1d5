"""What the report of every run says beside its results: what was run, on which data, its limits, how to cite it."""

import dataclasses
import datetime
import inspect
import json
import pathlib
import shlex

from keras_cosmo.tasks.presets import show
from keras_cosmo.tasks.settings import RunSettings

_PY21CMFAST = (
    "Murray et al. 2020, JOSS 5, 2582 (arXiv:2010.15121): the simulator of the data, 21cmFAST",
    "@article{Murray2020,\n  author = {Murray, Steven G. and Greig, Bradley and Mesinger, Andrei and Mu\\~{n}oz, "
    "Julian B. and Qin, Yuxiang and Park, Jaehong and Watkinson, Catherine A.},\n  title = {{21cmFAST} v3: A "
    "{Python}-integrated {C} code for generating {3D} realizations of the cosmic 21cm signal},\n  journal = {Journal "
    "of Open Source Software},\n  volume = {5},\n  pages = {2582},\n  year = {2020},\n  eprint = {2010.15121}\n}",
)
_21CMFAST = (
    "Mesinger, Furlanetto & Cen 2011, MNRAS 411, 955 (arXiv:1003.3878): the simulator of the data, 21cmFAST",
    "@article{Mesinger2011,\n  author = {Mesinger, Andrei and Furlanetto, Steven and Cen, Renyue},\n  title = "
    "{{21cmFAST}: a fast, seminumerical simulation of the high-redshift 21-cm signal},\n  journal = {Monthly Notices "
    "of the Royal Astronomical Society},\n  volume = {411},\n  pages = {955},\n  year = {2011},\n  "
    "eprint = {1003.3878}\n}",
)
_PINOCCHIO = (
    "Monaco, Theuns & Taffoni 2002, MNRAS 331, 587 (arXiv:astro-ph/0109323): the haloes of the data, PINOCCHIO",
    "@article{Monaco2002,\n  author = {Monaco, Pierluigi and Theuns, Tom and Taffoni, Giuliano},\n  title = {The "
    "{PINOCCHIO} algorithm: pinpointing orbit-crossing collapsed hierarchical objects in a linear density field},\n  "
    "journal = {Monthly Notices of the Royal Astronomical Society},\n  volume = {331},\n  pages = {587},\n  year = "
    "{2002},\n  eprint = {astro-ph/0109323}\n}",
)
_CAMELS = (
    "Villaescusa-Navarro et al. 2021, ApJ 915, 71 (arXiv:2010.00619): the simulations of the data, CAMELS",
    "@article{VillaescusaNavarro2021,\n  author = {{Villaescusa-Navarro}, Francisco and others},\n  title = {The "
    "{CAMELS} Project: Cosmology and Astrophysics with Machine-learning Simulations},\n  journal = {The Astrophysical "
    "Journal},\n  volume = {915},\n  pages = {71},\n  year = {2021},\n  eprint = {2010.00619}\n}",
)
_CAMELS_MAPS = (
    "Villaescusa-Navarro et al. 2022, ApJS 259, 61 (arXiv:2109.10915): maps of the data, CAMELS Multifield Data Set",
    "@article{VillaescusaNavarro2022,\n  author = {{Villaescusa-Navarro}, Francisco and others},\n  title = {The "
    "{CAMELS} Multifield Data Set: Learning the Universe's Fundamental Parameters with Artificial Intelligence},\n  "
    "journal = {The Astrophysical Journal Supplement Series},\n  volume = {259},\n  pages = {61},\n  year = {2022},\n  "
    "eprint = {2109.10915}\n}",
)
#: First word of a database's simulator -> publications to cite with its data.
SIMULATOR_CITATIONS = {
    "py21cmfast": (_PY21CMFAST, _21CMFAST),
    "21cmFAST": (_21CMFAST,),
    "PINOCCHIO": (_PINOCCHIO,),
    "CAMELS": (_CAMELS, _CAMELS_MAPS),
    "embedded": (
        (
            "The data were made by the embedded simulator of keras_cosmo, which is cited with the package; its "
            "documentation names the equations and where they come from.",
            "",
        ),
    ),
}


def report_parts(task, config: dict, *, split: str = "", command: str | None = None, more=()) -> dict:
    """Arguments of `keras_cosmo.figures.report.write_report` that are alike for every task.

    Args:
        task: `keras_cosmo.tasks.task.Task`.
        config: ``config.json`` of the run; with the data that were measured, where those are others.
        split: One line about the split.
        command: Command line. Defaults to the one that makes the run.
        more: Further pairs of label and value for "What was run".

    Returns:
        ``run``, ``data``, ``recipe``, ``notes`` and ``citations``.
    """
    settings, data = config["settings"], config["data"]
    changed = changes(task, settings)
    table = recipe_table(task, settings)
    started = [("started", config["started"])] if "started" in config else []
    return {
        "run": [
            ("command", f"$ {command or command_line(task, settings)}"),
            (f"differs from preset {settings['preset_name']}", ", ".join(changed) or "nothing"),
            ("differs from the paper", f"{len(table.marked)} of {len(table.rows)} numbers, in bold under Recipe"),
            *([("start", f"network of {settings['start_from']}")] if settings.get("start_from") else []),
            ("seed", str(settings["seed"])),
            ("precision", settings["precision"] + (", deterministic" if settings.get("deterministic") else "")),
            ("workers", str(config.get("workers", 1))),
            *started,
            *([("resumed", "yes, once or more")] if settings.get("resume") else []),
            *more,
            ("versions", ", ".join(f"{name} {version}" for name, version in config.get("versions", {}).items())),
        ],
        "data": [
            ("origin", _origin(data)),
            ("file", data["path"]),
            ("number", f"{data['maps']} maps of {data['simulations']} simulations"),
            ("parameters", ", ".join(config["parameters"]) or "none"),
            ("checksum", data["fingerprint"]),
            *([("split", split)] if split else []),
            ("normalisation", f"from {_sourced(config)}"),
        ],
        "recipe": [table],
        "notes": limits(task, settings, data),
        "citations": [(f"{task.paper.citation}: {task.paper.title}", task.paper.bibtex), *data_citations(data)],
    }


def series_parts(task, settings: RunSettings, config: dict, *, more=()) -> dict:
    """`report_parts` of several runs in subfolders that are compared.

    Args:
        task: `keras_cosmo.tasks.task.Task`.
        settings: Of the series.
        config: ``config.json`` of one of its runs.
        more: As in `report_parts`.
    """
    begun = [json.loads(path.read_text()).get("started") for path in settings.out.glob("*/config.json")]
    begun = sorted(each for each in begun if each and each != "unknown")
    together = {key: value for key, value in config.items() if key != "started"} | {"settings": settings.to_json()}
    together |= {"started": begun[0]} if begun else {}
    more = [("finished", now()), *more]
    return report_parts(task, together, split=split_in_words(config["split"]), more=more)


def split_in_words(split: dict) -> str:
    """One line about a split as ``config.json`` has it."""
    from keras_cosmo.data.leaking_split import LeakingSplit
    from keras_cosmo.data.sky_split import SkySplit
    from keras_cosmo.data.splits import Split

    if "train_area" in split:
        return SkySplit(**split).describe()
    if "kind" in split:
        return LeakingSplit(**{key: value for key, value in split.items() if key != "kind"}).describe()
    return Split.from_json(split).describe()


def command_line(task, settings: dict) -> str:
    """The command that makes a run, from its settings as plain values (`RunSettings.to_json`)."""
    own = type(task).__module__.startswith("keras_cosmo.")
    words = ["python", f"apps/train_{task.name}.py" if own else pathlib.Path(inspect.getfile(type(task))).name]
    words += ["--preset", settings["preset_name"]]
    for field, value, _ in _changed(task, settings):
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    for field in dataclasses.fields(RunSettings):
        value = settings.get(field.name)
        if field.name in ("preset_name", "preset", "resume", "team") or value is None:
            continue
        if field.name in ("out", "seed") or value != (
            str(field.default) if isinstance(field.default, pathlib.Path) else field.default
        ):
            flag = "--" + field.name.replace("_", "-")
            words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)


def changes(task, settings: dict) -> list[str]:
    """What was set otherwise than in the named preset, such as ``epochs 3 (preset: 20)``."""
    return [f"{field.name} {show(value)} (preset: {show(named)})" for field, value, named in _changed(task, settings)]


def recipe_table(task, settings: dict):
    """The preset beside the paper's."""
    from keras_cosmo.figures.report import Table

    fields = [(field, value) for field, value, _ in _values(task, settings)]
    rows = [
        [field.metadata["text"], show(value), show(field.default), field.metadata["source"]] for field, value in fields
    ]
    return Table(
        title="Recipe",
        header=["", "this run", "paper", "source"],
        rows=rows,
        note="In bold: otherwise than the paper.",
        marked=[number for number, (field, value) in enumerate(fields) if value != field.default],
    )


def limits(task, settings: dict, data: dict) -> list[str]:
    """What the numbers of a report do not say."""
    table = recipe_table(task, settings)
    embedded = data["simulator"].startswith("embedded")
    notes = [
        "Not a comparison with the paper: its values, where a table or figure shows them, come from its authors' own "
        f"data, split and training; the numbers of this run come from {_origin(data)}. They stand beside each other "
        "for orientation."
    ]
    if table.marked:
        notes.append(
            f"Not the paper's recipe: {len(table.marked)} of {len(table.rows)} numbers differ, which the table Recipe "
            "shows in bold."
        )
    if embedded:
        notes.append(
            "Not a measurement on the real sky: the embedded simulator is fast and approximate. A network trained on "
            "its maps knows those; on maps of another simulator or a telescope it can be wrong without a sign of it. "
            "Measure it on such maps, or train it on them, before it is used there."
        )
    else:
        notes.append(
            "Not a statement about other maps: the network knows maps like those it was trained on. On maps of another "
            "simulator, resolution, noise or telescope it can be wrong without a sign of it."
        )
    notes.append(
        "Not the scatter between trainings: each network was trained once. Where a ± stands, it is over the data "
        "of the test, and holds nothing of what another training would change."
    )
    return notes


def data_citations(data: dict) -> list[tuple[str, str]]:
    """What to cite for the data, as pairs of text and BibTeX entry."""
    name = data["simulator"].split()[0]
    if name in SIMULATOR_CITATIONS:
        return list(SIMULATOR_CITATIONS[name])
    return [(f"Data: cite the simulation or survey that {_origin(data)} was made from.", "")]


def now() -> str:
    """Date and time in UTC, to the minute."""
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def _values(task, settings):
    """Field, value of the run and value of the named preset, of every number of the recipe.

    Fields that only the simulator reads are left out for data from elsewhere.
    """
    named = task.presets[settings["preset_name"]]
    for field in dataclasses.fields(named):
        if settings.get("data") and field.name in task.simulator_fields:
            continue
        before = getattr(named, field.name)
        value = settings["preset"].get(field.name, before)
        yield field, tuple(value) if isinstance(value, list) else value, before


def _changed(task, settings):
    return [row for row in _values(task, settings) if row[1] != row[2]]


def _origin(data) -> str:
    """Simulator of the data, or their file where there is none."""
    if data["simulator"].startswith("None"):
        return pathlib.Path(data["path"]).name
    name, _, version = data["simulator"].partition(" ")
    return f"embedded simulator, version {version}" if name == "embedded" else data["simulator"]


def _sourced(config) -> str:
    source = config.get("normalization_from", "training part")
    return f"the {source}" if source == "training part" else f"the run {source}"
