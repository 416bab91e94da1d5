"""One network for each weight of the correlations in the loss, side by side (appendix B, figure 6)."""

import csv
import dataclasses
import sys

from keras_cosmo.tasks.dust_measures import BANDS, COLUMNS, INTEGRATED, KEYS, LINEAR, NETWORK
from keras_cosmo.tasks.report_parts import now, series_parts
from keras_cosmo.tasks.run import text_table
from keras_cosmo.tasks.series import run_series, without_nan, write_json
from keras_cosmo.tasks.settings import RunSettings


def run_study(task, settings: RunSettings, progress: bool = False) -> dict:
    """Train one network for each value of ``--study``, into subfolders of ``--out``, and compare them.

    Stopped at any time, it goes on with ``--resume``: finished runs are not made again.

    Args:
        task: `keras_cosmo.tasks.dust.DustTask`.
        settings: With ``--study``.
        progress: Show progress bars.

    Returns:
        Metrics of all runs, under ``weight-<value>/...``.

    Raises:
        As `keras_cosmo.tasks.run.run`.
    """
    runs = {f"weight-{weight:g}": _one(settings, weight) for weight in settings.preset.study}
    metrics, config = run_series(settings, runs, lambda one: task.run(one, progress), task.name)
    _compare(task, settings, runs, metrics, config)
    write_json(settings.out / "metrics.json", without_nan(metrics))
    return metrics


def _one(settings, weight):
    """Settings of one of the runs."""
    out = settings.out / f"weight-{weight:g}"
    return dataclasses.replace(
        settings,
        preset=dataclasses.replace(settings.preset, correlation_weight=weight, study=()),
        out=out,
        resume=settings.resume and (out / "config.json").exists(),
    )


def _compare(task, settings, runs, metrics, config):
    """The table with all weights, figure 6 and their page."""
    from keras_cosmo.figures import dust as draw
    from keras_cosmo.figures.report import Table, write_report
    from keras_cosmo.figures.style import save_figures

    rows = []
    for weight, name in zip(settings.preset.study, runs, strict=True):
        row = [f"{weight:g}"]
        for band in BANDS:
            row.append(f"{metrics[f'{name}/{band}']:.3f} ± {metrics[f'{name}/{band}_standard_error']:.3f}")
            row.append(f"{metrics[f'{name}/wins/{band}']:.1%}")
        row += [f"{metrics[f'{name}/transfer/{band[1:]}']:.2f}" for band in BANDS]
        rows.append([*row, f"{metrics[f'{name}/mean_absolute_difference']:.2f}"])
    first = next(iter(runs))
    for model in (INTEGRATED, LINEAR):
        key = f"{first}/{KEYS[model]}".removesuffix("/")
        row = [model]
        for band in BANDS:
            row.append(f"{metrics[f'{key}/{band}']:.3f} ± {metrics[f'{key}/{band}_standard_error']:.3f}")
            row.append(f"{metrics[f'{key}/wins/{band}']:.1%}" if model == LINEAR else "")
        row += [f"{metrics[f'{key}/transfer/{band[1:]}']:.2f}" for band in BANDS]
        rows.append([*row, f"{metrics[f'{key}/mean_absolute_difference']:.2f}"])
    table = Table(
        title="Weight of the correlations in the loss, on unseen sky",
        header=["weight", "r50", "wins", "r150", "wins", "T(50)", "T(150)", "mean |difference| [uK_RJ]"],
        rows=rows,
        note=(
            "Wins: test cutouts in which r is higher than that of the integrated intensity. The paper finds lower "
            "correlations for smaller weights, lowest without correlations (0), and no change from 30 on. A weight "
            "chosen by this table is chosen on the test cutouts, in the paper as here."
        ),
    )
    spectra = {weight: _spectra(one.out) for weight, one in zip(settings.preset.study, runs.values(), strict=True)}
    common = next(iter(spectra.values()))
    figure = draw.correlation_weights(
        common["ell"],
        {weight: found[COLUMNS[NETWORK]] for weight, found in spectra.items()},
        {name: common[COLUMNS[name]] for name in (INTEGRATED, LINEAR)},
    )
    save_figures({"correlation_weights": figure}, settings.out / "figures")
    report = settings.out / "report.html"
    write_report(
        report,
        title=f"{task.title}: weights of the correlations",
        subtitle=f"{task.paper.citation}; run {settings.out.name}",
        summary=[("weights", str(len(runs))), ("preset", settings.preset_name), ("finished", now())],
        tables=[table],
        figures=[("correlation weights", "Mean correlation on the test cutouts against multipole (figure 6).", figure)],
        **series_parts(task, settings, config),
    )
    sys.stdout.write("\n" + text_table(table) + f"\n\nreport      {report}\n")


def _spectra(folder) -> dict:
    """Correlation by multipole of a run's test, from its file."""
    import numpy as np

    with (folder / "correlation_test.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
