"""What the dust task measures and draws: correlations on unseen sky, of the network and of the simpler models."""

import dataclasses
import logging

from keras_cosmo.tasks.task import Evaluation

logger = logging.getLogger(__name__)

# Names of the models in figures and tables.
MODELS = NETWORK, INTEGRATED, LINEAR, SCALE_DEPENDENT = (
    "U-Net",
    "integrated intensity",
    "linear combination",
    "linear by scale",
)
# In files, and as the begin of their keys in metrics.json.
COLUMNS = {NETWORK: "network", INTEGRATED: "integrated", LINEAR: "linear", SCALE_DEPENDENT: "scale_dependent_linear"}
KEYS = {name: "" if name == NETWORK else f"baseline/{column}/" for name, column in COLUMNS.items()}
# Order of the tables.
SHOWN = (INTEGRATED, LINEAR, SCALE_DEPENDENT, NETWORK)
BANDS = ("r50", "r150")
# Epochs of fresh cutouts that the linear models see.
LINEAR_EPOCHS = 2
# Pixels over which masked edges are softened for the third estimator.
TAPER = 3.0
# Pointings of figure 1 and cutouts of the study of velocities.
POINTINGS, OCCLUDED_CUTOUTS, OCCLUSION_BLOCKS = 10_000, 128, 16
BOOTSTRAP_SAMPLES = 2000
HIGHEST_OF_BANDS = 200.0
INTERVAL = ("difference", "difference_low", "difference_high")
OPPOSITE_TEXT = {"north": "south", "south": "north", "east": "west", "west": "east"}


@dataclasses.dataclass
class Part:
    """Cutouts of one part with what the models make of them.

    Attributes:
        cutouts: Where they are.
        true: Dust times mask ``(n, side, side)``, uK_RJ.
        mask: Weights ``(n, side, side)``.
        predicted: Model name -> dust times mask.
        cells: Cell of the sky that each is centred in.
    """

    cutouts: object
    true: object
    mask: object
    predicted: dict
    cells: object


def evaluate(task, preset, model, prepared, seed) -> Evaluation:
    """Correlations, amplitudes and their errors on the test part; correlations on the training part for comparison."""
    import numpy as np

    from keras_cosmo.statistics.cutout_correlation import amplitudes, correlation

    if highest_multipole(prepared.database) < HIGHEST_OF_BANDS:
        logger.warning(
            "These skies have structure up to multipole %.0f only: r150, from 100 to 200, is in part of the edges of "
            "their pixels. Use maps of a higher nside.",
            highest_multipole(prepared.database),
        )
    logger.info("Fitting the linear models.")
    linear = fit_linear_models(task, preset, prepared)
    logger.info("Predicting cutouts of the training and the test area.")
    parts = {
        name: predict(task, preset, model, linear, prepared, name, most=preset.test_cutouts)
        for name in ("train", "test")
    }
    metrics, columns = {}, {}
    spectra = {
        name: by_multipole(preset, prepared.database, part, correlation, "correlation") for name, part in parts.items()
    }
    bands = {name: bands_of(preset, part) for name, part in parts.items()}
    test, r = parts["test"], bands["test"]
    for name in test.predicted:
        metrics |= {f"{KEYS[name]}{key}": value for key, value in scores_of(preset, test, r, name, seed).items()}
        for band in BANDS:
            metrics[f"{KEYS[name]}train/{band}"] = float(np.mean(bands["train"]["modes"][name][band]))
    for name in (LINEAR, SCALE_DEPENDENT, NETWORK):
        for band in BANDS:
            for estimator, suffix in (("modes", ""), ("apodised", "_apodised")):
                found = compare(r[estimator][name][band], r[estimator][INTEGRATED][band], test.cells, seed)
                metrics |= {f"{KEYS[name]}{key}{suffix}/{band}": value for key, value in found.items()}
    for band in BANDS:
        for estimator, suffix in (("modes", ""), ("apodised", "_apodised")):
            found = compare(r[estimator][NETWORK][band], r[estimator][LINEAR][band], test.cells, seed)
            metrics |= {f"over_linear/{key}{suffix}/{band}": value for key, value in found.items()}
    metrics |= {f"null/{band}": value for band, value in null_correlations(preset, test).items()}
    metrics |= independence(preset, prepared, test, r["modes"][NETWORK], seed)
    logger.info("Taking velocities out, %d at a time.", -(-len(velocities_of(prepared)) // OCCLUSION_BLOCKS))
    importance = velocity_importance(task, preset, model, prepared)
    columns = {
        "cutouts": cutout_columns(test, r["modes"]),
        **{f"correlation_{name}": spectrum_columns(found) for name, found in spectra.items()},
        "linear_weights": {"velocity": velocities_of(prepared), "weight": linear[LINEAR].weights},
    }
    return Evaluation(
        metrics=metrics,
        tables=tables(task, preset, metrics),
        arrays={
            "parts": parts,
            "spectra": spectra,
            "bands": bands,
            "linear": linear,
            "importance": importance,
            "transfer": by_multipole(preset, prepared.database, test, amplitudes, "transfer"),
            "profile": velocity_profile(prepared),
        },
        columns=columns,
    )


def velocities_of(prepared):
    """Velocity of each channel, km/s."""
    import numpy as np

    return np.atleast_1d(prepared.database.attributes["velocities"])


def fit_linear_models(task, preset, prepared) -> dict:
    """Integrated intensity and linear combinations, fitted on the training cutouts."""
    from keras_cosmo.models.integrated_intensity import IntegratedIntensity
    from keras_cosmo.models.linear_combination import LinearCombination
    from keras_cosmo.statistics.cutout_correlation import multipole_edges

    edges = multipole_edges(preset.cutout_cells, preset.pixel_size)
    # Modes in the corners of the Fourier plane lie beyond the last edge of the spectra.
    edges = (*edges[:-1].tolist(), 2.0 * float(edges[-1]))
    models = {
        INTEGRATED: IntegratedIntensity(),
        SCALE_DEPENDENT: LinearCombination(ridge=preset.ridge, bands=edges, pixel_size=preset.pixel_size),
    }
    for name in (INTEGRATED, SCALE_DEPENDENT):
        models[name].fit(training_batches(task, preset, prepared))
    # The same modes, so that they need not be summed once more.
    models[LINEAR] = models[SCALE_DEPENDENT].pooled()
    return models


def training_batches(task, preset, prepared):
    """Cutouts that the linear models are fitted on: those of the training, or fresh ones of some epochs."""
    pipeline = prepared.training
    if preset.centres == "fresh":
        batches = pipeline.training(0, pipeline.steps_per_epoch * min(preset.epochs, LINEAR_EPOCHS))
    else:
        batches = task.test_pipeline(preset, prepared, "train")[0].evaluation()
    return ((hi.numpy(), target.numpy()) for hi, target in batches)


def predict(task, preset, model, linear, prepared, name, most) -> Part:
    """What all models make of the cutouts of one part."""
    from keras_cosmo.files import disk_array
    from keras_cosmo.statistics.sky_bootstrap import sky_cells

    network = as_function(model)
    pipeline, cutouts = task.test_pipeline(preset, prepared, name, most)
    shape = (len(cutouts), preset.cutout_cells, preset.cutout_cells)
    true, mask = disk_array(shape), disk_array(shape)
    predicted = {key: disk_array(shape) for key in (INTEGRATED, LINEAR, SCALE_DEPENDENT, NETWORK)}
    row = 0
    for hi, target in pipeline.evaluation():
        rows = slice(row, row + len(target))
        true[rows], mask[rows] = target[..., 0], target[..., 1]
        for key, fitted in linear.items():
            predicted[key][rows] = fitted.predict(hi.numpy()) * mask[rows]
        predicted[NETWORK][rows] = network(hi) * mask[rows]
        row = rows.stop
    return Part(cutouts, true, mask, predicted, sky_cells(cutouts.longitude, cutouts.latitude, sky=cutouts.sky))


def as_function(model):
    """The network as a graph, which is several times faster than layer by layer: cutouts -> dust, NumPy."""
    import tensorflow as tf

    graph = tf.function(lambda hi: model(hi, training=False)[..., 0], reduce_retracing=True)
    return lambda hi: graph(tf.convert_to_tensor(hi)).numpy()


def highest_multipole(database) -> float:
    """Where the structure of the sky ends: beyond, truth and prediction share the edges of its pixels and no more."""
    limit = 3.0 * float(database.attributes["nside"]) - 1.0
    low_pass = float(database.attributes.get("low_pass_ell", 0.0))
    return min(limit, low_pass) if low_pass else limit


def edges_of(preset, database):
    """Edges of the bins of multipole, as far as the sky has structure, but over the bands of r50 and r150."""
    from keras_cosmo.statistics.cutout_correlation import multipole_edges

    edges = multipole_edges(preset.cutout_cells, preset.pixel_size)
    return edges[edges <= max(highest_multipole(database), HIGHEST_OF_BANDS + edges[1] - edges[0])]


def by_multipole(preset, database, part, measure, attribute) -> dict:
    """Model -> a quantity by multipole, with its error from the cells of the sky.

    Args:
        preset: Of the run.
        database: The skies.
        part: Cutouts and what the models make of them.
        measure: ``correlation`` or ``amplitudes`` of `keras_cosmo.statistics.cutout_correlation`.
        attribute: Of what it returns, such as ``"transfer"``.
    """
    from keras_cosmo.statistics.sky_bootstrap import block_bootstrap

    result = {}
    for name, maps in part.predicted.items():
        found = measure(part.true, maps, preset.pixel_size, edges_of(preset, database))
        summary = block_bootstrap(getattr(found, attribute), part.cells, BOOTSTRAP_SAMPLES)
        result[name] = {"ell": found.ell, "mean": summary.mean, "error": summary.standard_error}
    return result


def bands_of(preset, part) -> dict:
    """Estimator -> model -> r50 and r150 of each cutout."""
    from keras_cosmo.statistics.cutout_correlation import apodisation

    window = apodisation(part.mask, TAPER)
    estimators = {
        "modes": {},
        "bands": {"estimator": "bands"},
        "apodised": {"estimator": "bands", "mask": part.mask, "window": window},
    }
    return {
        key: {name: measured(part.true, maps, preset, **options) for name, maps in part.predicted.items()}
        for key, options in estimators.items()
    }


def measured(true, maps, preset, **options) -> dict:
    """r50 and r150 of each cutout; one without any structure, which has none, counts as 0."""
    import numpy as np

    from keras_cosmo.statistics.cutout_correlation import band_correlations

    found = np.nan_to_num(band_correlations(true, maps, preset.pixel_size, **options), nan=0.0)
    return dict(zip(BANDS, found.T, strict=True))


def null_correlations(preset, part) -> dict:
    """r50 and r150 of the dust of one cutout with the U-Net's of the next, both under both masks.

    They have nothing in common but the masks, so this is what the correlations of nothing are.
    """
    import numpy as np

    other = np.roll(np.arange(len(part.true)), 1)
    mask = part.mask * part.mask[other]
    seen = mask.reshape(len(mask), -1).mean(axis=1) >= 1.0 - preset.most_masked
    true, maps = (part.true * mask)[seen], (part.predicted[NETWORK][other] * mask)[seen]
    found = measured(true, maps, preset)
    return {band: float(values.mean()) if len(values) else np.nan for band, values in found.items()}


def scores_of(preset, part, r, name, seed) -> dict:
    """Numbers of one model on the test part."""
    import numpy as np

    from keras_cosmo.statistics.cutout_correlation import amplitudes, paper_bands
    from keras_cosmo.statistics.sky_bootstrap import block_bootstrap

    result = {}
    for band in BANDS:
        values = r["modes"][name][band]
        summary = block_bootstrap(values, part.cells, BOOTSTRAP_SAMPLES, seed)
        result[band] = float(summary.mean)
        result[f"{band}_standard_error"] = float(summary.standard_error)
        result[f"{band}_standard_deviation"] = float(np.std(values))
        for estimator in ("bands", "apodised"):
            result[f"{band}_{estimator}"] = float(np.mean(r[estimator][name][band]))
    result["cutouts_without_structure"] = int(np.sum(np.ptp(part.predicted[name], axis=(1, 2)) == 0))
    (low, middle), (_, high) = paper_bands(preset.cutout_cells, preset.pixel_size)
    found = amplitudes(part.true, part.predicted[name], preset.pixel_size, edges=[low, middle, high])
    for key in ("transfer", "gain", "template_coefficient"):
        for column, band in enumerate(BANDS):
            values = getattr(found, key)[:, column]
            known = values[np.isfinite(values)]
            result[f"{key}/{band[1:]}"] = float(known.mean()) if len(known) else float("nan")
    difference = np.abs(part.predicted[name] - part.true).sum(axis=(1, 2))
    result["mean_absolute_difference"] = float(difference.sum() / part.mask.sum())
    return result


def compare(one, other, cells, seed) -> dict:
    """Cutouts in which one model has the higher correlation, and the mean difference with its interval."""
    from keras_cosmo.statistics.sky_bootstrap import block_bootstrap, paired

    found = paired(one - other, cells, BOOTSTRAP_SAMPLES, seed)
    return {
        "wins": found.fraction,
        "wins_standard_error": float(block_bootstrap(one > other, cells, BOOTSTRAP_SAMPLES, seed).standard_error),
        "difference": found.mean,
        "difference_low": found.low,
        "difference_high": found.high,
        "cells_won": found.cells_won,
        "cells": found.cells,
        "sign_test": found.sign_test,
    }


def independence(preset, prepared, part, r, seed) -> dict:
    """How many independent cutouts the test is worth."""
    import numpy as np

    from keras_cosmo.statistics.sky_bootstrap import effective_number, independent_patches

    cutouts = part.cutouts
    patches, covered = independent_patches(
        cutouts.longitude,
        cutouts.latitude,
        cutouts.rotation,
        preset.cutout_cells * preset.pixel_size / 60.0,
        mask=np.asarray(prepared.database.memory_map("mask")),
        sky=cutouts.sky,
    )
    result = {
        "test_cutouts": len(cutouts),
        "test_skies": len(np.unique(cutouts.sky)),
        "independent_patches": patches,
        "sky_covered": covered,
    }
    for band in BANDS:
        result[f"effective_cutouts/{band}"] = float(effective_number(r[band], part.cells, BOOTSTRAP_SAMPLES, seed))
    return result


def velocity_importance(task, preset, model, prepared) -> dict:
    """Loss of r50 and r150 when some of the channels are taken out of the input, by velocity."""
    import numpy as np

    network = as_function(model)
    pipeline = task.test_pipeline(preset, prepared, most=OCCLUDED_CUTOUTS)[0]
    velocities = velocities_of(prepared)
    blocks = np.array_split(np.arange(len(velocities)), min(OCCLUSION_BLOCKS, len(velocities)))

    def correlations(channels):
        found = []
        for hi, target in pipeline.evaluation():
            cube, mask = hi.numpy(), target[..., 1].numpy()
            # The mean over the unmasked pixels instead of nothing, so that the network sees a plausible amount of gas.
            area = np.maximum(mask.sum(axis=(1, 2)), 1.0)
            mean = cube[..., channels].sum(axis=(1, 2)) / area[:, None]
            cube[..., channels] = mean[:, None, None] * mask[..., None]
            maps = network(cube) * mask
            found.append(np.stack(list(measured(target[..., 0].numpy(), maps, preset).values())))
        return np.concatenate(found, axis=1).mean(axis=1)

    whole = correlations(np.arange(0))
    drop = np.array([whole - correlations(block) for block in blocks])
    half = 0.5 * np.abs(np.diff(velocities)).mean() if len(velocities) > 1 else 0.5
    ranges = np.array([[velocities[block].min() - half, velocities[block].max() + half] for block in blocks])
    return {"ranges": ranges, "drop": dict(zip(BANDS, drop.T, strict=True))}


def velocity_profile(prepared) -> dict:
    """Mean brightness temperature of random unmasked pointings by velocity, of the first sky (figure 1)."""
    import numpy as np

    cube, _, mask = (prepared.database.memory_map(field) for field in ("hi_cube", "dust", "mask"))
    seen = np.flatnonzero(np.asarray(mask[0]) >= 0.5)
    chosen = np.random.default_rng(0).choice(seen, min(POINTINGS, len(seen)), replace=False)
    return {"velocity": velocities_of(prepared), "mean": cube[0][np.sort(chosen)].mean(axis=0, dtype=np.float64)}


def cutout_columns(part, r) -> dict:
    """Centres and correlations of the test cutouts, as a file."""
    cutouts = part.cutouts
    columns = {name: getattr(cutouts, name) for name in ("sky", "longitude", "latitude", "rotation")}
    columns["masked"] = 1.0 - part.mask.mean(axis=(1, 2))
    for name, bands in r.items():
        columns |= {f"{COLUMNS[name]}_{band}": bands[band] for band in BANDS}
    return columns


def spectrum_columns(spectra) -> dict:
    """Correlation by multipole with its error, as a file."""
    columns = {"ell": next(iter(spectra.values()))["ell"]}
    for name, found in spectra.items():
        columns[COLUMNS[name]] = found["mean"]
        columns[f"{COLUMNS[name]}_standard_error"] = found["error"]
    return columns


def tables(task, preset, metrics) -> list:
    """What is printed last and opens the report."""
    from keras_cosmo.figures.report import Table

    def value(name, key, digits=3):
        full = f"{KEYS[name]}{key}"
        return f"{metrics[full]:.{digits}f}" if full in metrics else ""

    def with_error(name, key):
        return f"{value(name, key)} ± {value(name, f'{key}_standard_error')}"

    models = SHOWN
    paper = task.paper_values(preset)
    rows = [[f"{band}, test", *(with_error(name, band) for name in models), ""] for band in BANDS]
    rows += [[f"{band}, training area", *(value(name, f"train/{band}") for name in models), ""] for band in BANDS]
    rows += [
        [
            f"better {band} than integrated",
            "",
            *(
                f"{metrics[f'{KEYS[name]}wins/{band}']:.1%} ± {metrics[f'{KEYS[name]}wins_standard_error/{band}']:.1%}"
                for name in models[1:]
            ),
            f"{paper[f'wins/{band}']:.1%}" if f"wins/{band}" in paper else "",
        ]
        for band in BANDS
    ]
    for band in BANDS:
        differences = [[metrics[f"{KEYS[name]}{key}/{band}"] for key in INTERVAL] for name in models[1:]]
        cells = ["{:.3f} ({:.3f} to {:.3f})".format(*each) for each in differences]
        rows.append([f"{band} - integrated, 95 %", "", *cells, ""])
    rows += [
        [f"{band}, power summed over the band", *(value(name, f"{band}_bands") for name in models), ""]
        for band in BANDS
    ]
    rows += [
        [f"{band}, the same, edges softened", *(value(name, f"{band}_apodised") for name in models), ""]
        for band in BANDS
    ]
    rows += [
        [
            f"better {band}, edges softened",
            "",
            *(f"{metrics[f'{KEYS[name]}wins_apodised/{band}']:.1%}" for name in models[1:]),
            "",
        ]
        for band in BANDS
    ]
    rows += [
        [f"{band} of unrelated maps, the masks alone", "", "", "", f"{metrics[f'null/{band}']:.3f}", ""]
        for band in BANDS
    ]
    rows += [
        [f"T, ell about {band[1:]}", *(value(name, f"transfer/{band[1:]}") for name in models), ""] for band in BANDS
    ]
    rows.append(
        ["mean absolute difference [uK_RJ]", *(value(name, "mean_absolute_difference", 2) for name in models), ""]
    )
    first = Table(
        title=f"Dust on unseen sky: {metrics['test_cutouts']} cutouts of the {OPPOSITE_TEXT[preset.train_area]}",
        header=["", *SHOWN, "paper*"],
        rows=rows,
        note=(
            "r50, r150: correlation of Fourier modes, mean over the modes with ell_F <= ell < 100 and 100 <= ell < 200 "
            "(section 2), mean over cutouts. ± and intervals: bootstrap over cells of the sky, as cutouts overlap; "
            "they hold what another sky would change, not what another training would. Linear by scale: weights of "
            "their own in every bin of ell. Edges softened: powers summed over the band after the mean of the unmasked "
            "pixels is subtracted and masked edges are tapered, so that the masks, which truth and prediction share, "
            "are not counted. T: square root of predicted over true power. *As published for the authors' own data; "
            "shown for orientation, not reached or missed here."
        ),
    )
    over = {band: [metrics[f"over_linear/{key}/{band}"] for key in INTERVAL] for band in BANDS}
    rows = [
        ["cutouts", str(metrics["test_cutouts"])],
        ["skies", str(metrics["test_skies"])],
        ["cutouts that fit into the sky they cover", f"{metrics['independent_patches']:.1f}"],
        ["part of the unmasked sky they cover", f"{metrics['sky_covered']:.2f}"],
    ]
    for band in BANDS:
        won, cells = metrics[f"cells_won/{band}"], metrics[f"cells/{band}"]
        rows += [
            [f"independent cutouts by the scatter of {band}", f"{metrics[f'effective_cutouts/{band}']:.1f}"],
            [f"cells of the sky in which the U-Net is better, {band}", f"{won} of {cells}"],
            [f"sign test over the cells, {band}", f"{metrics[f'sign_test/{band}']:.1g}"],
            [f"U-Net - linear combination, {band}, 95 %", "{:.3f} ({:.3f} to {:.3f})".format(*over[band])],
        ]
    second = Table(
        title="How much the test says",
        header=["", ""],
        rows=rows,
        note="Cutouts with random centres overlap: they are not as many independent trials as they are cutouts.",
    )
    return [first, second]


def draw_figures(task, preset, prepared, evaluation, history) -> dict:
    """Figures 1, 3, 4, 5 (or 7) of the paper, and where the cutouts are, amplitudes, weights and velocities."""
    import numpy as np

    from keras_cosmo.figures import dust as draw
    from keras_cosmo.figures.regression import loss_history

    arrays = evaluation.arrays
    test, spectra, r = arrays["parts"]["test"], arrays["spectra"], arrays["bands"]["test"]["modes"]
    # The cutout whose r50 is the median one: neither the best nor the worst example.
    row = int(np.argsort(r[NETWORK]["r50"])[len(test.cutouts) // 2])
    ell = spectra["test"][NETWORK]["ell"]
    shown = (INTEGRATED, LINEAR, NETWORK)
    pairs = {name: np.stack([r[name][band] for band in BANDS], axis=1) for name in shown}
    area, opposite = preset.train_area, OPPOSITE_TEXT[preset.train_area]
    profile, importance = arrays["profile"], arrays["importance"]
    centres = {
        "training": arrays["parts"]["train"].cutouts,
        "test": test.cutouts,
    }
    sky = int(test.cutouts.sky[0])
    return {
        "cutouts": (
            draw.cutouts(
                test.true[row], {name: test.predicted[name][row] for name in shown}, preset.pixel_size, test.mask[row]
            ),
            "The test cutout whose r50 is the median one: dust and what the models make of it, each divided by its "
            "brightest pixel (figure 3).",
        ),
        "realisations": (
            draw.realisations(pairs[INTEGRATED], {name: pairs[name] for name in (LINEAR, NETWORK)}),
            "Correlation of every test cutout against that of the integrated intensity (figure 4). Cutouts overlap.",
        ),
        "correlation": (
            draw.correlation_by_multipole(
                ell,
                {
                    title: {name: (found[name]["mean"], found[name]["error"]) for name in MODELS}
                    for title, found in (
                        (f"training area ({area})", spectra["train"]),
                        (f"test ({opposite})", spectra["test"]),
                    )
                },
            ),
            f"Mean correlation against multipole, trained in the {area} and tested in the {opposite} (figure "
            f"{7 if area in ('east', 'west') else 5}); bands: standard error by bootstrap over cells of the sky.",
        ),
        "transfer": (
            draw.transfer_by_multipole(
                ell, {name: (found["mean"], found["error"]) for name, found in arrays["transfer"].items()}
            ),
            "Amplitude of the predictions, which the correlation does not see: square root of predicted over true "
            "power.",
        ),
        "linear_weights": (
            draw.linear_weights(profile["velocity"], {LINEAR: arrays["linear"][LINEAR].weights}),
            "Weights of the linear combination (equation A.15); neighbouring channels are so alike that single weights "
            "mean little.",
        ),
        "velocity_importance": (
            draw.velocity_importance(
                importance["ranges"], importance["drop"], np.stack([profile["velocity"], profile["mean"]])
            ),
            "How much the U-Net loses where a range of velocities is replaced by its mean over the cutout.",
        ),
        "velocity_profile": (
            draw.velocity_profile(profile["velocity"], profile["mean"], velocity_range=None),
            f"Mean brightness temperature of {POINTINGS:,} random unmasked pointings, or of all there are (figure 1).",
        ),
        "sky_areas": (
            draw.sky_areas(
                np.asarray(prepared.database.memory_map("mask")[sky]),
                {name: np.stack([each.longitude, each.latitude]) for name, each in centres.items()},
            ),
            "Centres of training and test cutouts, on the mask of one sky.",
        ),
        "loss_history": (
            loss_history(history, "loss (equation 2.3)"),
            "Loss on training and validation cutouts after each epoch, and the learning rate. Training has dropout.",
        ),
    }
