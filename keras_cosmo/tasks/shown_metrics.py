"""Which numbers of a run stand on the card of its model, and beside which simpler models."""

import dataclasses

COVERAGES = (50, 68, 95)


@dataclasses.dataclass(frozen=True)
class Shown:
    """Numbers of one task.

    Args:
        models: Column -> begin of its keys in ``metrics.json``; the network that is served first.
        rows: Label -> key; ``{parameter}`` and ``{line}`` stand for every one of them.
        calibration: The same for what says whether amplitudes or errors are right.
        text: What is to be known of the calibration.
    """

    models: dict
    rows: dict
    calibration: dict
    text: str


_POINTS = (
    "The network returns no errors of its own: the RMSE above, and the bias and scatter here, are those of the test."
)
_AMPLITUDES = "The network returns no errors. Amplitudes: T is the square root of predicted over true power, best 1."
SHOWN = {
    "regression": Shown(
        models={"network": "", "ridge regression on the global signal": "baseline/"},
        rows={"R2 of {parameter}": "r2/{parameter}", "RMSE of {parameter}": "rmse/{parameter}"},
        calibration={"bias of {parameter}": "bias/{parameter}", "scatter of {parameter}": "scatter/{parameter}"},
        text=_POINTS,
    ),
    "matter": Shown(
        models={"U-Net": "", "Wiener filter": "baseline/"},
        rows={
            "correlation r at k = 0.2 / Mpc": "correlation/k0.2",
            "r at k = 0.7 / Mpc": "correlation/k0.7",
            "r at k = 2 / Mpc": "correlation/k2",
            "R2 of the pixels": "r2",
            "rms error of the overdensity": "rmse",
            "largest |r - 1| to k = 0.7 / Mpc": "correlation_deviation/k0.7",
            "largest |r - 1| to k = 2 / Mpc": "correlation_deviation/k2",
        },
        calibration={
            "T at k = 0.2 / Mpc": "transfer/k0.2",
            "T at k = 0.7 / Mpc": "transfer/k0.7",
            "T at k = 2 / Mpc": "transfer/k2",
            "largest |T - 1| to k = 0.7 / Mpc": "transfer_deviation/k0.7",
            "largest |T - 1| to k = 2 / Mpc": "transfer_deviation/k2",
            "distance of the PDFs": "pdf_distance",
        },
        text=_AMPLITUDES,
    ),
    "astro": Shown(
        models={"network": "", "ridge regression on summary statistics": "baseline/"},
        rows={
            "R2 of {parameter}": "r2/{parameter}",
            "R2, mean of all parameters": "r2/mean",
            "R2 of {parameter}, mean over the box": "averaged/r2/{parameter}",
            "RMSE of {parameter}": "rmse/{parameter}",
        },
        calibration={"bias of {parameter}": "bias/{parameter}", "scatter of {parameter}": "scatter/{parameter}"},
        text=_POINTS,
    ),
    "separation": Shown(
        models={
            "GAN": "",
            "the same without discriminators": "baseline/L1 only/",
            "observed map": "baseline/observed map/",
            "Wiener filter": "baseline/Wiener filter/",
        },
        rows={
            "mean absolute error / mean, {line}": "{line}/pixels/relative_l1",
            "r at k = 0.7 / arcmin, {line}": "{line}/correlation_k0.7",
            "precision of peaks, {line}": "{line}/peaks/precision",
            "recall of peaks, {line}": "{line}/peaks/recall",
        },
        calibration={
            "median error of the mean intensity, {line}": "{line}/mean/median_fractional_error",
            "T at k = 0.3 / arcmin, {line}": "{line}/transfer_k0.3",
            "T at k = 1.4 / arcmin, {line}": "{line}/transfer_k1.4",
            "distance of the PDFs, {line}": "{line}/pdf_distance",
        },
        text=_AMPLITUDES
        + " A GAN makes maps with the right statistics: for pixels and peaks compare it, above, with the filter.",
    ),
    "dust": Shown(
        models={
            "U-Net": "",
            "integrated intensity": "baseline/integrated/",
            "linear combination": "baseline/linear/",
        },
        rows={
            "correlation at multipoles 14 to 100 (r50)": "r50",
            "correlation at multipoles 100 to 200 (r150)": "r150",
            "share of cutouts with a higher r50 than the integrated intensity": "wins/r50",
            "share of cutouts with a higher r150 than the integrated intensity": "wins/r150",
            "mean absolute difference [uK_RJ]": "mean_absolute_difference",
        },
        calibration={"T at multipoles 14 to 100": "transfer/50", "T at multipoles 100 to 200": "transfer/150"},
        text=_AMPLITUDES,
    ),
    "higlow": Shown(
        models={
            "HIGlow, corrected (as served)": "corrected/",
            "HIGlow as trained": "",
            "Gaussian field, corrected": "baseline/gaussian_field/corrected/",
            "moment network": "baseline/moment_network/",
        },
        rows={
            "rms error of {parameter}": "rmse/{parameter}",
            "log posterior at the truth": "log_posterior_at_truth",
        },
        calibration={
            **{f"{level} % region holds {{parameter}}": f"coverage_{level}/{{parameter}}" for level in COVERAGES},
            **{f"{level} % region holds all": f"coverage_{level}/joint" for level in COVERAGES},
        },
        text="Share of the test maps whose posterior region holds the truth. As trained the flow is too sure; the "
        "served posterior is corrected, with numbers fitted on other simulations than those of the test.",
    ),
}


def metric_table(task, metrics: dict, config: dict) -> dict:
    """Numbers of the network beside those of simpler models and of the paper.

    Args:
        task: `keras_cosmo.tasks.task.Task`.
        metrics: ``metrics.json`` of the run.
        config: ``config.json`` of the run.

    Returns:
        ``columns``, and ``rows`` of ``label``, ``values`` and ``standard_errors``, None where there is none.
    """
    return _table(task, SHOWN[task.name].rows, metrics, config)


def calibration_table(task, metrics: dict, config: dict) -> dict:
    """As `metric_table`, for the calibration, with a ``text``."""
    return {"text": SHOWN[task.name].text, **_table(task, SHOWN[task.name].calibration, metrics, config)}


def standard_error(metrics: dict, key: str):
    """Standard error of a number; None if there is none.

    Example:
        >>> standard_error({"r2/zeta": 0.9, "r2_standard_error/zeta": 0.1}, "r2/zeta")
        0.1
    """
    parts = key.split("/")
    for place in reversed(range(len(parts))):
        name = "/".join([*parts[:place], f"{parts[place]}_standard_error", *parts[place + 1 :]])
        if name in metrics:
            return metrics[name]
    return None


def _table(task, rows, metrics, config):
    models = SHOWN[task.name].models
    found = []
    for label, key in _expanded(rows, config):
        values = [metrics.get(f"{prefix}{key}") for prefix in models.values()]
        errors = [standard_error(metrics, f"{prefix}{key}") for prefix in models.values()]
        if any(value is not None for value in values):
            found.append(
                {"label": label, "values": [*values, metrics.get(f"paper/{key}")], "standard_errors": [*errors, None]}
            )
    columns = [*models, "paper"]
    # Columns without any number are left out.
    kept = [place for place in range(len(columns)) if any(row["values"][place] is not None for row in found)]
    return {
        "columns": [columns[place] for place in kept],
        "rows": [
            {key: row[key] if key == "label" else [row[key][place] for place in kept] for key in row} for row in found
        ],
    }


def _expanded(rows, config):
    names = {"{parameter}": config["parameters"], "{line}": config["settings"]["preset"].get("lines", ())}
    for label, key in rows.items():
        kind = next((kind for kind in names if kind in key), None)
        for name in names[kind] if kind else [None]:
            yield (label.replace(kind, name), key.replace(kind, name)) if kind else (label, key)
