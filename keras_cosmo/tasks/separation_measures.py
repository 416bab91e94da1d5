"""What is measured of separated maps, and drawn (Moriwaki et al. 2020, section 3)."""

import logging
import sys

from keras_cosmo.tasks.report_parts import now, series_parts
from keras_cosmo.tasks.run import text_table
from keras_cosmo.tasks.task import Evaluation

logger = logging.getLogger(__name__)

NETWORK = "network"
OBSERVED, MEAN_RATIO, WIENER = "observed map", "mean ratio", "Wiener filter"
FACTORS = (0.8, 0.9, 1.0, 1.1, 1.2)
"""Factors on the lines, section 3.2 of the paper."""
CURVE_THRESHOLDS = (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)
BATCH = 16
ROBUSTNESS_MAPS = 300
"""Test maps that the robustness is measured on, at most: its errors are smaller than what it shows."""
LARGEST_AMPLIFICATION, TAPER = 20.0, 0.2
"""Undoing the beam: largest factor on the power, and part of the side over which maps are tapered before.

Maps of 64 pixels of 0.4 arcmin, cut out of wider ones with a white spectrum and a beam of 1.2 arcmin, get their power
back within 7 % from 0.5 per arcmin on. At a factor of 80 it would be 30 % too high.
"""
ROUNDING = 3e-8
"""Standard deviation of the rounding to float32, relative."""
UNSEEN = "unseen simulations"
"""What the maps of a test part are called in tables and captions."""

# Row of the tables -> score, whether it has a standard error, and format.
ROWS = (
    ("peaks: precision", "peaks/precision", "{:.3f}"),
    ("peaks: recall", "peaks/recall", "{:.3f}"),
    ("peaks per map", "peaks/predicted", "{:.2f}"),
    ("mean intensity: median error", "mean/median_fractional_error", "{:+.3f}"),
    ("mean intensity: half width of 68 %", "mean/half_width_fractional_error", "{:.3f}"),
    ("T(k = 0.3/arcmin)", "transfer_k0.3", "{:.3f}"),
    ("T(k = 0.7/arcmin)", "transfer_k0.7", "{:.3f}"),
    ("T(k = 1.4/arcmin)", "transfer_k1.4", "{:.3f}"),
    ("r(k = 0.3/arcmin)", "correlation_k0.3", "{:.3f}"),
    ("r(k = 0.7/arcmin)", "correlation_k0.7", "{:.3f}"),
    ("r(k = 1.4/arcmin)", "correlation_k1.4", "{:.3f}"),
    ("distance of the PDFs", "pdf_distance", "{:.3f}"),
    ("mean absolute error / mean", "pixels/relative_l1", "{:.3f}"),
)


def evaluate(task, preset, model, prepared) -> Evaluation:
    """Scores of the network, of networks to compare with and of the baselines on the same test maps.

    Args:
        task: `keras_cosmo.tasks.separation.SeparationTask`; its ``companions`` are measured too.
        preset: Preset of the run.
        model: `keras_cosmo.models.line_separator.LineSeparator`.
        prepared: Data of the run.
    """
    pipeline, maps = task.test_pipeline(preset, prepared)
    simulation = prepared.database.simulation[maps]
    separators = {NETWORK: _separate(model)}
    separators |= {name: _separate(companion) for name, companion in task.companions.items()}
    separators |= baselines(task, preset, prepared)
    observed, true, predicted = predict(pipeline, separators)
    metrics, scores = {}, {}
    for name, lines in predicted.items():
        scores[name] = score(preset, prepared.database, true, lines, simulation)
        prefix = "" if name == NETWORK else f"baseline/{name}/"
        metrics |= {f"{prefix}{key}": value for key, value in scores[name].items()}
    varied = {} if task.is_baseline else robustness(task, preset, model, prepared)
    metrics |= {
        f"robustness/{case}/x{factor:g}/{key}": value
        for (case, factor), values in varied.items()
        for key, value in values.items()
    }
    metrics["test_maps"], metrics["test_simulations"] = len(maps), len(set(simulation.tolist()))
    of = tested(prepared)
    tables = [line_table(task, preset, number, scores, of) for number in range(len(preset.lines))]
    if varied:
        tables.append(robustness_table(preset, varied, of))
    arrays = {"maps": maps, "simulation": simulation, "observed": observed, "true": true, "predicted": predicted}
    arrays["robustness"] = varied
    return Evaluation(metrics=metrics, tables=tables, arrays=arrays, columns=_columns(preset, prepared, arrays))


def tested(prepared) -> str:
    """What the maps are called that are measured: those of the test part, or those from elsewhere."""
    return getattr(prepared.split, "tested", UNSEEN)


def baselines(task, preset, prepared) -> dict:
    """Name -> function from observed maps ``(batch, height, width)`` to lines; fitted on the training part."""
    import numpy as np

    from keras_cosmo.models.wiener_filter import WienerFilter

    # That of the training part, which another database than that of the test may hold.
    own = prepared.training
    training = task.pipeline(preset, own.database, np.unique(own.indices), 0).evaluation(BATCH)
    wiener = WienerFilter().fit((maps.numpy()[..., None], lines.numpy()) for maps, lines in training)
    means = np.array([prepared.normalization["mean_intensity"][line] for line in preset.lines])
    ratio = means / means.sum()
    return {
        OBSERVED: lambda maps: np.repeat(maps[..., None], len(ratio), axis=-1),
        MEAN_RATIO: lambda maps: maps[..., None] * ratio,
        WIENER: lambda maps: wiener.predict(maps[..., None]),
    }


def predict(pipeline, separators: dict) -> tuple:
    """Observed maps, true lines and predicted lines of every separator, as arrays in temporary files."""
    from keras_cosmo.files import disk_array

    count = len(pipeline.indices)
    observed = disk_array((count, *pipeline.input_shape))
    true = disk_array((count, *pipeline.target_shape))
    predicted = {name: disk_array((count, *pipeline.target_shape)) for name in separators}
    row = 0
    for maps, lines in pipeline.evaluation(BATCH):
        rows = slice(row, row + len(maps))
        observed[rows], true[rows] = maps, lines
        for name, separate in separators.items():
            predicted[name][rows] = separate(maps.numpy())
        row = rows.stop
    return observed, true, predicted


def score(preset, database, true, predicted, simulation) -> dict:
    """`keras_cosmo.statistics.line_maps.separation_scores` as the preset asks for them."""
    from keras_cosmo.statistics.line_maps import separation_scores

    return separation_scores(
        true,
        predicted,
        preset.lines,
        database.cell_size,
        simulation,
        peaks={"threshold": preset.peak_threshold},
        radius=preset.peak_radius,
    )


def robustness(task, preset, model, prepared) -> dict:
    """Scores when all lines or one alone are brighter or fainter than in training, and before the beam.

    Section 3.2 of the paper: factors up to 20 %. Returns (case, factor) -> scores.
    """
    import dataclasses

    cases = {("all lines", factor): (factor,) * len(preset.lines) for factor in FACTORS}
    for number, line in enumerate(preset.lines):
        for factor in FACTORS:
            factors = [1.0] * len(preset.lines)
            factors[number] = factor
            cases[f"only {line}", factor] = tuple(factors)
    separators = {NETWORK: _separate(model)}

    def measure(preset, **options):
        pipeline, maps = task.test_pipeline(preset, prepared, most=ROBUSTNESS_MAPS, **options)
        _, true, predicted = predict(pipeline, separators)
        return score(preset, prepared.database, true, predicted[NETWORK], prepared.database.simulation[maps])

    results, known = {}, {}
    for case, factors in cases.items():
        if factors not in known:
            known[factors] = measure(preset, amplitudes=factors)
        results[case] = known[factors]
    raw = dataclasses.replace(preset, maps="unsmoothed")
    if preset.maps == "smoothed" and set(task.fields(raw)) <= set(prepared.database.fields):
        results["unsmoothed", 1.0] = measure(raw)
    return results


def line_table(task, preset, number, scores, of=UNSEEN):
    """All scores of one line, the network beside every baseline, of what the maps are called."""
    from keras_cosmo.figures.report import Table

    line = preset.lines[number]
    paper = task.paper_values(preset)
    rows = []
    for label, key, form in ROWS:
        cells = []
        for values in scores.values():
            name = f"{line}/{key}"
            if name not in values:
                cells.append("–")
                continue
            error = values.get(f"{name}_standard_error")
            cells.append(form.format(values[name]) + (f" ± {error:.3f}" if error is not None else ""))
        rows.append([label, *cells, f"{paper[f'{line}/{key}']:.2f}" if f"{line}/{key}" in paper else ""])
        if key == "peaks/predicted":
            true = next(iter(scores.values()))[f"{line}/peaks/true"]
            rows[-1][0] = f"peaks per map (true: {true:.2f})"
    return Table(
        title=f"{line_label(line)}, {of}",
        header=["", *scores, "paper*"],
        rows=rows,
        note=(
            f"Peaks: local maxima above {preset.peak_threshold:g} sigma of their own map, matched within "
            f"{preset.peak_radius:g} pixels. T: square root of predicted over true power, r: correlation coefficient, "
            "means over maps; ± is the standard error over simulations. Wiener filter: the best linear isotropic "
            "separation, fitted on the training part; mean ratio: the observed map times the mean share of the line. "
            "*As published for the authors' own data; shown for orientation, not reached or missed here."
        ),
    )


def robustness_table(preset, varied, of=UNSEEN):
    """Error of the mean intensity and peaks when lines are made brighter or fainter."""
    from keras_cosmo.figures.report import Table

    keys = ("mean/median_fractional_error", "mean/half_width_fractional_error", "peaks/precision", "peaks/recall")
    rows = []
    for (case, factor), values in varied.items():
        cells = [f"{values[f'{line}/{key}']:.3f}" for line in preset.lines for key in keys]
        rows.append([case_label(case, line_label), f"{factor:g}", *cells])
    header = ["case", "factor"]
    for line in preset.lines:
        header += [f"{line_label(line)} {name}" for name in ("bias", "half width", "precision", "recall")]
    return Table(
        title=f"Robustness: lines made brighter or fainter than they are, {of}",
        header=header,
        rows=rows,
        note="Factor: on the intensity of all lines, or of the named one alone. Bias: median fractional error of the "
        "mean intensity of a map; half width: half of its central 68 %. Maps before the beam: the network was not "
        f"trained on such. On {ROBUSTNESS_MAPS} maps at most.",
    )


def figures(task, preset, prepared, evaluation, history) -> dict:
    """Figures 1 to 3 of the paper, peaks, distributions, correlation and leakage, robustness, losses."""
    import numpy as np

    from keras_cosmo.figures import separation as draw
    from keras_cosmo.statistics.peaks import find_peaks

    arrays, database = evaluation.arrays, prepared.database
    lines, cell_size, of = preset.lines, database.cell_size, tested(prepared)
    true, predicted = arrays["true"], arrays["predicted"]
    network = predicted[NETWORK]
    errors = [float(np.abs(network[row] - true[row]).mean()) for row in range(len(true))]
    row = int(np.argsort(errors)[len(errors) // 2])
    options = {"threshold": preset.peak_threshold}

    def peaks_of(maps):
        return [find_peaks(maps[row : row + 1, ..., number], **options) for number in range(len(lines))]

    result = {
        "maps": (
            draw.maps(
                arrays["observed"][row],
                true[row],
                network[row],
                lines,
                cell_size,
                true_peaks=peaks_of(true),
                predicted_peaks=peaks_of(network),
                radius=preset.peak_radius,
            ),
            f"The map whose error is the median one ({of}): observed and true maps above, the network's below "
            "(figure 1). Circles are peaks; dashed ones have no counterpart.",
        ),
        "mean_intensity": (
            draw.mean_intensity(
                true.mean(axis=(1, 2), dtype=np.float64),
                {name: predicted[name].mean(axis=(1, 2), dtype=np.float64) for name in predicted if name != OBSERVED},
                lines,
            ),
            f"Mean intensity of every map ({of}), predicted against true (figure 2).",
        ),
    }
    result |= spectra_figures(task, preset, prepared, arrays)
    result |= peak_figures(preset, true, predicted, arrays["simulation"], of=of)
    if arrays["robustness"]:
        result["robustness"] = (
            robustness_figure(preset, arrays["robustness"]),
            f"Scores when all lines, or one alone, are made brighter or fainter than they are ({of}; section 3.2).",
        )
    if history:
        result["losses"] = (
            draw.losses(history),
            "Losses of the generator and the discriminators in each epoch; L1 in units of half the scale.",
        )
    return result


def spectra_figures(task, preset, prepared, arrays, members=()) -> dict:
    """Power spectra, correlation, leakage and distributions of the network and the baselines.

    With the names of several networks as ``members``, what is shown of them is their median, map by map.
    """
    import dataclasses

    from keras_cosmo.figures import separation as draw
    from keras_cosmo.statistics.distributions import normalized_distribution
    from keras_cosmo.statistics.line_maps import line_spectra, line_transfer
    from keras_cosmo.statistics.spectra import power_spectrum

    lines, cell_size = preset.lines, prepared.database.cell_size
    true = arrays["true"]
    predicted = {name: maps for name, maps in arrays["predicted"].items() if name not in (OBSERVED, MEAN_RATIO)}
    spectra = {name: line_spectra(true, maps, cell_size) for name, maps in predicted.items()}
    comparisons = {
        line: {name: each.line(number) for name, each in spectra.items()} for number, line in enumerate(lines)
    }
    restored = {
        line: restored_spectrum(preset, prepared, [predicted[name][..., number] for name in members or (NETWORK,)])
        for number, line in enumerate(lines)
    }
    comparisons = {
        line: _one_for_all(sources, members, ("predicted", "cross")) for line, sources in comparisons.items()
    }
    transfers = {name: line_transfer(each, arrays["simulation"]) for name, each in spectra.items()}
    transfers = _one_for_all(transfers, members, ("coefficients", "standard_error"))
    raw = dataclasses.replace(preset, maps="unsmoothed")
    unsmoothed = None
    if preset.maps == "smoothed" and set(task.fields(raw)) <= set(prepared.database.fields):
        unsmoothed = {
            line: power_spectrum(prepared.database.stored(field, arrays["maps"]), cell_size)
            for line, field in zip(lines, task.fields(raw), strict=True)
        }
    distributions = {}
    for number, line in enumerate(lines):
        found = {name: normalized_distribution(maps[..., number]) for name, maps in predicted.items()}
        found = _one_for_all(found, members, ("density",))
        distributions[line] = {"truth": normalized_distribution(true[..., number]), **found}
    return {
        "power_spectra": (
            draw.power_spectra(comparisons, unsmoothed, {line: power for line, power in restored.items() if power}),
            "Power spectra of true and predicted maps below, their difference in units of the scatter of the true "
            "ones above (figure 3); grey: before the beam; dotted: the prediction with the beam undone (footnote 5), "
            f"where that multiplies the power by {LARGEST_AMPLIFICATION:g} at most, of maps tapered at their sides.",
        ),
        "correlation_and_leakage": (
            draw.correlation_and_leakage(comparisons, transfers),
            "Above, correlation of each predicted line with its true map. Below, how much of every true line is in the "
            "prediction, scale by scale: 1 of the line itself (solid) and 0 of the others (dashed, what leaks in) "
            "would be a perfect separation.",
        ),
        "distributions": (
            draw.distributions(distributions),
            f"Distribution of normalised pixels over maps ({tested(prepared)}).",
        ),
    }


def median_of(records, names):
    """Several networks as one: the median of the named arrays of their records (section 3.2)."""
    import numpy as np

    return records[0]._replace(**{name: np.median([getattr(each, name) for each in records], axis=0) for name in names})


def _one_for_all(sources, members, names):
    """Sources of which the members are one, first."""
    if not members:
        return sources
    median = median_of([sources[name] for name in members], names)
    others = {name: source for name, source in sources.items() if name not in members}
    return {f"median of {len(members)}": median, **others}


def restored_spectrum(preset, prepared, members):
    """Power spectrum of predicted maps of one line with the beam undone, the median of several networks.

    None for maps without a beam. Power that rounding to float32 may have left is subtracted, and where it matters, or
    where the factor would be large, there is NaN.
    """
    import numpy as np

    from keras_cosmo.statistics.beam import unsmooth_power
    from keras_cosmo.statistics.line_maps import apodize
    from keras_cosmo.statistics.spectra import power_spectrum

    database = prepared.database
    sigma = float(database.attributes.get("beam_sigma", 0.0)) if preset.maps == "smoothed" else 0.0
    if not sigma:
        return None
    spectra = [power_spectrum(apodize(maps, TAPER), database.cell_size) for maps in members]
    rounding = ROUNDING * max(float(np.abs(maps[:BATCH]).mean()) for maps in members)
    power = unsmooth_power(
        spectra[0].k,
        np.median([spectrum.power for spectrum in spectra], axis=0),
        sigma,
        noise_power=(rounding * database.cell_size) ** 2,
        largest_amplification=LARGEST_AMPLIFICATION,
    )
    return spectra[0]._replace(power=power)


def peak_figures(preset, true, predicted, simulation, agreement=None, of=UNSEEN) -> dict:
    """Precision and recall of the network and of the baselines."""
    from keras_cosmo.figures import separation as draw
    from keras_cosmo.statistics.peaks import find_peaks, precision_recall_curve, score_peaks

    scores, curves = {}, {}
    for number, line in enumerate(preset.lines):
        truth = find_peaks(true[..., number], preset.peak_threshold)
        lowest = min(CURVE_THRESHOLDS[0], preset.peak_threshold)
        found = {name: find_peaks(maps[..., number], lowest) for name, maps in predicted.items()}
        options = {"radius": preset.peak_radius, "simulation": simulation}
        scores[line] = {
            name: score_peaks(truth, peaks.above(preset.peak_threshold), **options) for name, peaks in found.items()
        }
        curves[line] = {
            name: precision_recall_curve(truth, peaks, CURVE_THRESHOLDS, **options) for name, peaks in found.items()
        }
    return {
        "peaks": (
            draw.peak_statistics(scores, curves, agreement, paper=set(preset.lines) == {"halpha", "oiii"}),
            f"Peaks found in maps ({of}): precision and recall, and their course with the height that is asked of a "
            "predicted peak. Values of the paper are for its own data.",
        )
    }


def robustness_figure(preset, varied):
    """Figure of the scores against the factor on the lines."""
    from keras_cosmo.figures import separation as draw

    cases = list(dict.fromkeys(case for case, _ in varied if case != "unsmoothed"))
    labels = {
        "median fractional error of the mean": "mean/median_fractional_error",
        "precision of peaks": "peaks/precision",
        "recall of peaks": "peaks/recall",
    }
    values = {
        label: {
            case_label(case, draw.line_label): {
                line: [varied[case, factor][f"{line}/{key}"] for factor in FACTORS] for line in preset.lines
            }
            for case in cases
        }
        for label, key in labels.items()
    }
    return draw.robustness(FACTORS, values)


def compare_members(task, settings, members, prepared, metrics, config) -> dict:
    """Measure the networks of an ensemble together, draw, export, and write the page of the ensemble.

    Returns:
        ``metrics`` and those of all networks together.
    """
    import dataclasses
    import json

    import numpy as np

    from keras_cosmo.export.saved_model import export_saved_model
    from keras_cosmo.figures import separation as draw
    from keras_cosmo.figures.report import Table, write_report
    from keras_cosmo.figures.style import save_figures
    from keras_cosmo.statistics.line_maps import ensemble_scores
    from keras_cosmo.statistics.peaks import agreement_curve, find_peaks
    from keras_cosmo.tasks.series import without_nan, write_json

    preset, lines, count = settings.preset, settings.preset.lines, len(members)
    logger.info("Measuring the %d networks together.", count)
    pipeline, maps = task.test_pipeline(preset, prepared)
    simulation = prepared.database.simulation[maps]
    names = [f"member {number}" for number in range(1, count + 1)]
    separators = {name: _separate(member) for name, member in zip(names, members, strict=True)}
    separators |= {name: _separate(companion) for name, companion in task.companions.items()}
    separators |= baselines(task, preset, prepared)
    _, true, predicted = predict(pipeline, separators)
    scores = {name: score(preset, prepared.database, true, each, simulation) for name, each in predicted.items()}
    together = ensemble_scores(
        true,
        [predicted[name] for name in names],
        lines,
        simulation,
        cell_size=prepared.database.cell_size,
        peaks={"threshold": preset.peak_threshold},
        radius=preset.peak_radius,
    )
    metrics = {**metrics, **together}
    for name in predicted:
        if name not in names:
            metrics |= {f"baseline/{name}/{key}": value for key, value in scores[name].items()}
    tables = [line_table(task, preset, number, scores) for number in range(len(lines))]
    paper = {("halpha", 5): 0.91, ("oiii", 5): 0.60} if count == 5 and task.paper_values(preset) else {}
    rows = []
    for line in lines:
        for networks in range(1, count + 1):
            cells = [f"{together[f'{line}/peaks/{key}_{networks}_of_{count}']:.3f}" for key in ("precision", "recall")]
            quoted = paper.get((line, networks))
            rows.append([line_label(line), f"{networks} of {count}", *cells, f"{quoted:.2f}" if quoted else ""])
    tables.insert(
        0,
        Table(
            title="Peaks that several networks agree on",
            header=["line", "networks", "precision", "recall", "precision, paper*"],
            rows=rows,
            note="Every network was trained on a part of its own of the training simulations, the network of L1 losses "
            "and the filter on all of them. *As published for the "
            "authors' own data; shown for orientation, not reached or missed here.",
        ),
    )
    medians = {
        "mean: median error": "mean/median_fractional_error_of_median",
        "mean: half width of 68 %": "mean/half_width_fractional_error_of_median",
        "mean: rms": "mean/rms_fractional_error_of_median",
    }
    medians |= {
        f"P / P_true at {key.rpartition('_')[2]}": key
        for key in (name.removeprefix(f"{lines[0]}/") for name in together)
        if key.startswith("power_ratio_of_median")
    }
    tables.insert(
        1,
        Table(
            title="Statistics of a map: median over the networks",
            header=["line", *medians],
            rows=[
                [line_label(line), *(f"{together[f'{line}/{key}']:.3f}" for key in medians.values())] for line in lines
            ],
            note="Fractional error of the mean intensity; predicted over true power in bands named after their mean "
            "wavenumber in 1/arcmin. The maps themselves are not averaged (section 3.1).",
        ),
    )
    agreement = {}
    for number, line in enumerate(lines):
        found = [find_peaks(predicted[name][..., number], preset.peak_threshold) for name in names]
        truth = find_peaks(true[..., number], preset.peak_threshold)
        agreement[line] = agreement_curve(truth, found, preset.peak_radius, simulation=simulation)
    errors = [float(np.abs(predicted[names[0]][row] - true[row]).mean()) for row in range(len(true))]
    row = int(np.argsort(errors)[len(errors) // 2])
    arrays = {"true": true, "predicted": predicted, "simulation": simulation, "maps": maps}
    drawn = {
        "disagreement": (
            draw.disagreement(
                true[row], np.stack([predicted[name][row] for name in names]), lines, prepared.database.cell_size
            ),
            "One unseen map: the scatter between the networks beside the error of their mean.",
        ),
        "mean_intensity": (
            draw.mean_intensity(true.mean(axis=(1, 2), dtype=np.float64), median_means(predicted, names), lines),
            f"Mean intensity of every unseen map: median of the {count} networks against the truth (figure 2).",
        ),
        **peak_figures(preset, true, predicted, simulation, agreement),
        **spectra_figures(task, preset, prepared, arrays, names),
    }
    save_figures({name: figure for name, (figure, _) in drawn.items()}, settings.out / "figures")
    exported = export_saved_model(
        _Members(members),
        settings.saved_models / f"{task.model_name}_ensemble",
        task.ensemble_signatures(preset, members, prepared),
        metadata={
            "task": task.name,
            "paper": task.paper.citation,
            "networks": count,
            "data": {key: value for key, value in config["data"].items() if key != "path"},
            "cell_size": prepared.database.cell_size,
            "normalization": prepared.normalization,
            "preset": dataclasses.asdict(preset),
            "metrics": without_nan(together),
        },
    )
    report = settings.out / "report.html"
    write_report(
        report,
        title=f"{task.title}: {count} networks",
        subtitle=f"{task.paper.citation}; run {settings.out.name}",
        summary=[
            ("data", f"{config['data']['simulations']} simulations, {config['data']['maps']} maps"),
            ("networks", str(count)),
            ("preset", settings.preset_name),
            ("finished", now()),
            ("split", prepared.split.describe()),
        ],
        tables=tables,
        figures=[(name.replace("_", " "), caption, figure) for name, (figure, caption) in drawn.items()],
        **series_parts(task, settings, config, more=[("SavedModel", str(exported))]),
    )
    path = settings.out / "metrics.json"
    write_json(path, json.loads(json.dumps(without_nan(metrics))))
    for table in tables:
        sys.stdout.write("\n" + text_table(table) + "\n")
    sys.stdout.write(f"\nreport      {report}\nmetrics     {path}\nSavedModel  {exported}\n")
    return metrics


def median_means(predicted, names) -> dict:
    """Mean intensities of maps: the median of several networks, and those of everything else but the observed map."""
    import numpy as np

    means = {name: maps.mean(axis=(1, 2), dtype=np.float64) for name, maps in predicted.items() if name != OBSERVED}
    median = np.median([means[name] for name in names], axis=0)
    return {f"median of {len(names)}": median} | {name: each for name, each in means.items() if name not in names}


def case_label(case: str, label) -> str:
    """A case of the robustness in words; ``label`` writes the name of a line."""
    line = case.removeprefix("only ")
    words = {"all lines": "all lines alike", "unsmoothed": "maps before the beam"}
    return words.get(case, f"only {label(line)}")


def line_label(name: str) -> str:
    """A line as plain text."""
    from keras_cosmo.simulations.emission_lines import LINES

    return LINES[name].label if name in LINES else name


class _Members:
    """The variables of several networks, as an export wants them."""

    def __init__(self, members):
        self.variables = [variable for member in members for variable in member.generator.variables]


def _separate(model):
    return lambda maps: model(maps, training=False)


def _columns(preset, prepared, arrays):
    """Mean intensity of every test map, for further use."""
    import numpy as np

    table = {"map": arrays["maps"], "simulation": arrays["simulation"]}
    for number, line in enumerate(preset.lines):
        table[f"{line}_true"] = arrays["true"][..., number].mean(axis=(1, 2), dtype=np.float64)
        for name, maps in arrays["predicted"].items():
            table[f"{line}_{name.replace(' ', '_')}"] = maps[..., number].mean(axis=(1, 2), dtype=np.float64)
    return {"mean_intensities": table}
