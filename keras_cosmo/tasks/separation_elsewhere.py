"""A trained separation measured on maps from elsewhere, such as those painted on haloes of PINOCCHIO."""

import dataclasses
import json
import logging
import pathlib
import shlex
import sys

from keras_cosmo.tasks.report_parts import now, report_parts
from keras_cosmo.tasks.run import check_folder, text_table
from keras_cosmo.tasks.seen_simulations import seen_simulations
from keras_cosmo.tasks.separation import SeparationTask, observed_range
from keras_cosmo.tasks.separation_measures import evaluate, figures
from keras_cosmo.tasks.series import without_nan, write_json
from keras_cosmo.tasks.settings import RunSettings, read_config
from keras_cosmo.tasks.task import check_network, load_start

logger = logging.getLogger(__name__)

ALL_LINES, ONE_LINE = 0.2, 0.1
"""Fractions by which all lines, or one alone, may be brighter or fainter than in training: section 3.2 of the paper."""


@dataclasses.dataclass(frozen=True)
class AllForTest:
    """In place of a split: every simulation belongs to the test.

    Args:
        name: What the data are called, such as the name of the file.
    """

    name: str

    @property
    def tested(self) -> str:
        """What its maps are called in tables and captions."""
        return f"all maps of {self.name}"

    def maps(self, part, simulation):
        """All maps."""
        import numpy as np

        return np.arange(len(simulation))

    def describe(self):
        """One line for reports."""
        return "all maps are measured; none of these simulations is known to have been trained on"


def measure_elsewhere(run, data, out) -> dict:
    """Measure the network of a run on all maps of another database, beside its baselines, and draw the figures.

    Nothing is fitted to the new maps: the network and its normalisation are those of the run, the linear baselines
    those of its training part, and if ``<run>-l1`` is there, its network is measured, too. ``out`` receives
    ``metrics.json``, ``figures`` and ``report.html``. A warning is logged if the lines are brighter or fainter than
    those of the training part by more than the paper's networks tolerate (section 3.2).

    Args:
        run: Folder of a finished run of the separation task.
        data: Database of line maps, of the size and pixels that the network was trained on.
        out: New folder.

    Returns:
        The metrics.

    Raises:
        FileNotFoundError: If the run has not finished, or its own data are gone, which the baselines need.
        ValueError: If the maps do not fit the run, or it was trained on some of their simulations.
    """
    import numpy as np

    from keras_cosmo.data.database import Database

    run, out = pathlib.Path(run), pathlib.Path(out)
    task = SeparationTask()
    config = read_config(run, task.name)
    preset = task.presets["paper"]
    saved = config["settings"]["preset"]
    values = {
        field.name: tuple(saved[field.name]) if isinstance(saved[field.name], list) else saved[field.name]
        for field in dataclasses.fields(preset)
        if field.name in saved
    }
    preset = dataclasses.replace(preset, **values)
    check_folder(RunSettings(preset_name="", preset=preset, out=out))
    if preset.ensemble > 1:
        raise ValueError(f"{run} is an ensemble of {preset.ensemble} networks: give one of them, {run / 'member-1'}.")
    # Whatever is wrong with a path is said before TensorFlow is imported, which takes seconds.
    check_network(run / "model.keras")
    own, database = Database(config["data"]["path"]), Database(data)
    _check_alike(task, preset, own, database)
    task.check(preset, database)
    import keras_cosmo.models.line_separator  # noqa: F401  (registers what the saved network is made of)
    from keras_cosmo.figures.report import write_report
    from keras_cosmo.figures.style import save_figures

    model = load_start(run / "model.keras")
    baseline = run.with_name(run.name + "-l1") / "model.keras"
    if baseline.is_file():
        task.companions["L1 only"] = load_start(baseline)
    prepared = task.prepare(preset, own, config["settings"]["seed"])
    if prepared.fingerprint != config["data"]["fingerprint"]:
        raise ValueError(f"{own.path}: its content changed since {run} was trained on it. Train anew.")
    scan = database.scan()
    task.check_intensities(database, scan, task.fields(preset))
    _check_unseen(run, config, database, scan)
    familiar = brightness(task, preset, own, np.unique(prepared.training.indices), database, scan)
    if familiar["warning"]:
        logger.warning("%s: %s", database.path, familiar["warning"])
    prepared = dataclasses.replace(
        prepared, database=database, split=AllForTest(database.path.name), fingerprint=scan.fingerprint
    )
    measured = {
        "path": str(database.path.resolve()),
        "fingerprint": prepared.fingerprint,
        "simulations": database.n_simulations,
        "maps": database.n_maps,
        "simulator": f"{database.attributes.get('simulator')} {database.attributes.get('simulator_version')}",
    }
    logger.info("Measuring %s on %d maps of %s.", run, database.n_maps, database.path)
    evaluation = evaluate(task, preset, model, prepared)
    drawn = figures(task, preset, prepared, evaluation, {})
    save_figures({name: figure for name, (figure, _) in drawn.items()}, out / "figures")
    write_report(
        out / "report.html",
        title=f"{task.title}: maps from elsewhere",
        subtitle=f"{task.paper.citation}; network of {run.name}",
        summary=[
            ("data", f"{database.n_simulations} simulations, {database.n_maps} maps"),
            ("network", str(run)),
            ("finished", now()),
            ("split", prepared.split.describe()),
            *(
                (f"mean {line}", f"{mean:.3e} (training: {familiar['trained'][line]:.3e})")
                for line, mean in familiar["means"].items()
            ),
            (
                "maps outside the training",
                f"{familiar['outside']:.0%} have a total mean below or above that of all training maps",
            ),
        ],
        tables=evaluation.tables,
        figures=[(name.replace("_", " "), caption, figure) for name, (figure, caption) in drawn.items()],
        **report_parts(
            task,
            {**{key: value for key, value in config.items() if key not in ("started", "workers")}, "data": measured},
            split=prepared.split.describe(),
            command=shlex.join(
                ["python", "apps/evaluate_separation.py", "--run", str(run), "--data", str(data), "--out", str(out)]
            ),
            more=[("finished", now()), ("checksum of the training's data", config["data"]["fingerprint"])],
        ),
    )
    metrics = evaluation.metrics | {f"mean_intensity/{line}": mean for line, mean in familiar["means"].items()}
    metrics["maps_outside_training"] = familiar["outside"]
    write_json(out / "metrics.json", json.loads(json.dumps(without_nan(metrics))))
    for table in evaluation.tables:
        sys.stdout.write("\n" + text_table(table) + "\n")
    sys.stdout.write(f"\nreport      {out / 'report.html'}\nmetrics     {out / 'metrics.json'}\n")
    return metrics


def brightness(task, preset, own, training, other, scan) -> dict:
    """How bright the lines of other maps are beside those of training, which a separation depends on.

    Args:
        task: `keras_cosmo.tasks.separation.SeparationTask`.
        preset: Preset of the run.
        own: Database of the run.
        training: Its maps that the network was trained on.
        other: Database of the other maps.
        scan: Scan of ``other``.

    Returns:
        ``means`` and ``trained``: line -> mean intensity of all maps, in training without a random amplitude;
        ``outside``: share of the maps whose mean over all lines is beyond that of every training map; ``warning``:
        text, empty if nothing is unusual.
    """
    fields = dict(zip(preset.lines, task.fields(preset), strict=True))
    before = own.scan()
    trained = {line: float(before.mean[field][training].mean()) for line, field in fields.items()}
    means = {line: float(scan.mean[field].mean()) for line, field in fields.items()}
    low, high = observed_range(preset, [before.mean[field][training] for field in fields.values()])
    total = sum(scan.mean[field] for field in fields.values())
    outside = float(((total < low) | (total > high)).mean())
    ratios = {line: means[line] / trained[line] for line in fields}
    unlike = max(ratios.values()) / min(ratios.values()) > 1.0 + ONE_LINE
    far = [line for line, ratio in ratios.items() if not 1.0 - ALL_LINES <= ratio <= 1.0 + ALL_LINES]
    warning = ""
    if far or unlike:
        found = ", ".join(f"{line} {ratio:.2f}" for line, ratio in ratios.items())
        warning = (
            f"mean intensities are not those of training ({found} times as bright). The networks of the paper stand "
            f"{ALL_LINES:.0%} in all lines alike, but not more than {ONE_LINE:.0%} in one alone: look at the bias of "
            "the means, and train with --amplitude-scatter."
        )
    return {"means": means, "trained": trained, "outside": outside, "warning": warning}


def _check_unseen(run, config, database, scan):
    """Raise ``ValueError`` for maps that the network was trained on."""
    seen = seen_simulations(config, database, scan.fingerprint)
    if seen:
        raise ValueError(
            f"{database.path}: {run} was trained on {len(seen)} of its {database.n_simulations} simulations, or on "
            "others with the same seeds. Give maps that it has not seen; its own test part is measured in "
            f"{run / 'metrics.json'}."
        )


def _check_alike(task, preset, own, other):
    """Raise ``ValueError`` for maps of another size, pixel or beam than the network knows."""
    fields = task.fields(preset)
    missing = [field for field in fields if field not in other.fields]
    if missing:
        raise ValueError(
            f"{other.path}: expected the fields {', '.join(fields)}, whose lines the network separates, got "
            f"{', '.join(other.fields)}. Make the maps with them."
        )
    facts = [("map shape", own.fields[fields[0]].shape, other.fields[fields[0]].shape)]
    for name in ("cell_size", "beam_sigma", "observed_wavelength", "resolving_power"):
        before, now = own.attributes.get(name), other.attributes.get(name)
        if before is not None and now is not None:
            facts.append((name, round(float(before), 6), round(float(now), 6)))
    different = [f"{name} {now} where it was trained with {before}" for name, before, now in facts if before != now]
    if different:
        raise ValueError(f"{other.path}: {'; '.join(different)}. Make the maps like those of {own.path}.")
