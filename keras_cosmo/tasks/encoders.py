"""One encoder frozen, trained along and from scratch: three runs and one table (section IV.3 of the paper)."""

import csv
import dataclasses
import math
import sys

from keras_cosmo.tasks.presets import show
from keras_cosmo.tasks.report_parts import now, series_parts
from keras_cosmo.tasks.run import text_table
from keras_cosmo.tasks.series import run_series, without_nan, write_json
from keras_cosmo.tasks.settings import RunSettings


def run_all_encoders(task, settings: RunSettings, progress: bool = False) -> dict:
    """Train the network once with each kind of encoder, into subfolders of ``--out``, and compare them.

    Stopped at any time, it goes on with ``--resume``: finished runs are not made again.

    Args:
        task: `keras_cosmo.tasks.astro.AstroTask`.
        settings: With ``--encoder all``.
        progress: Show progress bars.

    Returns:
        Metrics of the three runs, under ``<encoder>/...``.

    Raises:
        As `keras_cosmo.tasks.run.run`.
    """
    from keras_cosmo.tasks.astro import ENCODERS

    runs = {encoder: _one(settings, encoder) for encoder in ENCODERS}
    metrics, config = run_series(settings, runs, lambda one: task.run(one, progress), task.name)
    _compare(task, settings, metrics, config)
    write_json(settings.out / "metrics.json", without_nan(metrics))
    return metrics


def _one(settings, encoder):
    """Settings of one of the runs."""
    out = settings.out / encoder
    return dataclasses.replace(
        settings,
        preset=dataclasses.replace(settings.preset, encoder=encoder),
        out=out,
        start_from=None if encoder == "scratch" else settings.start_from,
        resume=settings.resume and (out / "config.json").exists(),
    )


def _compare(task, settings, metrics, config):
    """The table with the three side by side, its figures and its page."""
    from keras_cosmo.figures import astro as draw
    from keras_cosmo.figures.report import Table, write_report
    from keras_cosmo.figures.style import save_figures
    from keras_cosmo.tasks.astro import ENCODERS

    names = config["parameters"]
    predictions = {encoder: _predictions(settings.out / encoder, names) for encoder in ENCODERS}
    rows = []
    for name in [*names, "mean"]:
        row = [name]
        for encoder in ENCODERS:
            error = metrics.get(f"{encoder}/r2_standard_error/{name}")
            row.append(f"{metrics[f'{encoder}/r2/{name}']:.3f}" + (f" ± {error:.3f}" if error is not None else ""))
        row.append(f"{metrics[f'fine-tune/baseline/r2/{name}']:.3f}")
        rows.append(row)
    paper = {encoder: task.paper_values(_one(settings, encoder).preset).get("r2/mean") for encoder in ENCODERS}
    rows.append(["mean, paper*", *("" if paper[e] is None else f"{paper[e]:.2f}" for e in ENCODERS), ""])
    table = Table(
        title=f"R2 of single maps at redshift {show(settings.preset.redshifts)}, {task.tested_on(settings.preset)}",
        header=["parameter", *ENCODERS, "baseline"],
        rows=rows,
        note=(
            "The encoder of the U-Net kept as it is (frozen) or trained along (fine-tune), and one that never saw the "
            "U-Net's task (scratch). Baseline: ridge regression on summary statistics. *As published for the authors' "
            "own data; shown for orientation, not reached or missed here."
        ),
    )
    parameters = _parameters(config)
    redshift = settings.preset.redshifts[0]
    true, _, simulation = predictions[ENCODERS[0]]
    figures = {
        "recovery": (
            draw.recovery(true, {e: predictions[e][1] for e in ENCODERS}, parameters, simulation, redshift),
            "Predicted against true parameters with each encoder (figure 6; figure 8 at redshift 10).",
        ),
        "encoder_comparison": (
            draw.encoder_comparison(
                {e: {name: metrics[f"{e}/r2/{name}"] for name in names} for e in ENCODERS},
                parameters,
                {e: {name: metrics.get(f"{e}/r2_standard_error/{name}", math.nan) for name in names} for e in ENCODERS},
                {e: value for e, value in paper.items() if value is not None},
                redshift,
            ),
            "R2 of each parameter with each encoder; the paper's one number per encoder for orientation.",
        ),
    }
    save_figures({name: figure for name, (figure, _) in figures.items()}, settings.out / "figures")
    report = settings.out / "report.html"
    write_report(
        report,
        title=f"{task.title}: three encoders",
        subtitle=f"{task.paper.citation}; run {settings.out.name}",
        summary=[("U-Net", str(settings.start_from)), ("preset", settings.preset_name), ("finished", now())],
        tables=[table],
        figures=[(name.replace("_", " "), caption, figure) for name, (figure, caption) in figures.items()],
        **series_parts(task, settings, config),
    )
    sys.stdout.write("\n" + text_table(table) + f"\n\nreport      {report}\n")


def _predictions(folder, names):
    """True and predicted parameters and simulations of a run, from its file."""
    import numpy as np

    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    true, predicted = (
        np.array([[float(row[f"{name}_{kind}"]) for name in names] for row in rows]) for kind in ("true", "predicted")
    )
    return true, predicted, np.array([int(row["simulation"]) for row in rows])


def _parameters(config):
    from keras_cosmo.simulations.coeval import COEVAL_PARAMETERS

    return tuple(parameter for parameter in COEVAL_PARAMETERS if parameter.name in config["parameters"])
