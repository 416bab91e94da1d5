"""What the HIGlow task measures and draws: posteriors and their calibration, generated maps and their statistics."""

import logging
import math

from keras_cosmo.tasks.task import Evaluation

logger = logging.getLogger(__name__)

FLOW, CORRECTED, FIELD, MOMENTS = "HIGlow", "HIGlow, corrected", "Gaussian field", "moment network"
# Begin of their keys in metrics.json.
KEYS = {
    FLOW: "",
    CORRECTED: "corrected/",
    FIELD: "baseline/gaussian_field/",
    f"{FIELD}, corrected": "baseline/gaussian_field/corrected/",
    MOMENTS: "baseline/moment_network/",
}
LEVELS = (0.5, 0.68, 0.95)
LIKELIHOOD_BATCH = 400
SAMPLED_AT_ONCE = 32
# Maps of each of so many test simulations whose nearest training maps are looked for, among so many.
NEAREST_SIMULATIONS, NEAREST_MAPS, NEAREST_TRAINING = 16, 2, 12000
# Relative; beyond it samples and densities no longer belong together.
LARGEST_INVERSION_ERROR = 1e-3
FEW_SAMPLES = 100
GRID_PARAMETERS = 2
SHOWN_MAPS = 4


def evaluate(task, preset, model, prepared, seed) -> Evaluation:
    """Posteriors of validation maps correct those of the test maps; samples at the parameters of the test."""
    import numpy as np

    from keras_cosmo.models.gaussian_field import GaussianField
    from keras_cosmo.statistics.posterior_convolution import PosteriorConvolution

    database, split = prepared.database, prepared.split
    parameters = database.parameters
    training = split.maps("train", database.simulation)
    field = task.field(database)
    training_maps, training_parameters = database.stored(field, training), database.targets(training)
    gaussian = GaussianField(degree_of(len(split.train), len(parameters))).fit(training_maps, training_parameters)
    chosen = {part: task.chosen(preset, prepared, part) for part in ("validation", "test")}
    likelihoods = {
        FLOW: lambda maps, values: np.asarray(model.log_prob(maps, values)),
        FIELD: gaussian.log_prob,
    }
    _, true, simulation = chosen["test"]
    metrics, mended, numbers, corrections = {}, {}, {}, {}
    for name, likelihood in likelihoods.items():
        posteriors = {}
        for part, (maps, _, _) in chosen.items():
            logger.info(
                "%s: posteriors of %d %s maps; some minutes for thousands of points each.", name, len(maps), part
            )
            posteriors[part] = grid(preset, likelihood, maps, parameters)
        found = temperature_of(posteriors["validation"], *chosen["validation"][1:])
        ends = [[getattr(parameter, end) for parameter in parameters] for end in ("low", "high")]
        corrections[name] = PosteriorConvolution.fit(posteriors["validation"], chosen["validation"][1], *ends)
        metrics |= {
            f"{KEYS[name]}temperature": found.temperature,
            f"{KEYS[name]}temperature_standard_error": found.standard_error,
            f"{KEYS[name]}temperature_at_bound": int(found.at_bound),
        }
        metrics[f"{KEYS[name]}correction/temperature"] = corrections[name].temperature
        deviation = np.sqrt(np.diagonal(corrections[name].covariance))
        for row, parameter in enumerate(parameters):
            metrics[f"{KEYS[name]}correction/error/{parameter.name}"] = float(deviation[row])
            for column, other in enumerate(parameters[:row]):
                correlation = corrections[name].covariance[row, column] / (deviation[row] * deviation[column])
                metrics[f"{KEYS[name]}correction/correlation/{other.name}/{parameter.name}"] = float(correlation)
        corrected = [corrections[name].apply(posterior) for posterior in posteriors["test"]]
        for label, found in ((name, posteriors["test"]), (f"{name}, corrected", corrected)):
            mended[label], numbers[label] = found, numbers_of(found, true, parameters)
            scores = posterior_scores(found, numbers[label], true, simulation, database.parameter_names)
            metrics |= {f"{KEYS[label]}{key}": value for key, value in scores.items()}
    metrics |= {f"prior_rms/{p.name}": (p.high - p.low) / np.sqrt(12.0) for p in parameters}
    if preset.moment_epochs:
        found = moment_scores(preset, prepared, training_maps, training_parameters, chosen["test"], seed)
        metrics |= {f"{KEYS[MOMENTS]}{key}": value for key, value in found.items()}
    metrics["log_prob_per_pixel"] = float(np.mean(likelihoods[FLOW](*chosen["test"][:2])) / training_maps[0].size)
    metrics[f"{KEYS[FIELD]}log_prob_per_pixel"] = float(
        np.mean(likelihoods[FIELD](*chosen["test"][:2])) / training_maps[0].size
    )
    metrics |= inversion_error(model, chosen["test"][0][:16], chosen["test"][1][:16])
    samples = generate(preset, model, gaussian, prepared, task, seed)
    compared = compare_samples(preset, samples, database, training_maps)
    for name in (FLOW, FIELD):
        metrics |= {f"{KEYS[name]}{key}": value for key, value in sample_scores(compared, name).items()}
    metrics["test_maps"], metrics["test_simulations"] = len(true), len(np.unique(simulation))
    columns = {"posteriors": posterior_columns(mended, true, simulation, database.parameter_names)}
    return Evaluation(
        metrics=metrics,
        tables=tables(preset, metrics, database.parameter_names, task.paper_values(preset)),
        arrays={
            "true": true,
            "simulation": simulation,
            "posteriors": mended,
            "correction": corrections[FLOW],
            "numbers": numbers,
            "samples": samples,
            "compared": compared,
        },
        columns=columns,
    )


def grid(preset, likelihood, maps, parameters) -> list:
    """Posterior of each map on a grid over the prior; of more than two parameters as weighted samples."""
    from keras_cosmo.inference.posterior import grid_posteriors, importance_posterior

    if len(parameters) > GRID_PARAMETERS:
        return [importance_posterior(likelihood, image, parameters, batch_size=LIKELIHOOD_BATCH) for image in maps]
    return grid_posteriors(likelihood, maps, parameters, preset.grid_cells, batch_size=LIKELIHOOD_BATCH)


def degree_of(simulations, parameters) -> int:
    """Degree of the polynomials in the parameters, 2 at most, that has half as many terms as there are simulations."""
    return max(degree for degree in range(3) if 2 * math.comb(parameters + degree, degree) <= max(simulations, 2))


def temperature_of(posteriors, true, simulation):
    """The factor on the log-likelihood that is best for the posteriors of the validation maps: how sure they are."""
    from keras_cosmo.statistics.calibration import fit_temperature

    return fit_temperature(posteriors, true, simulation, bounds=(1e-3, 10.0))


def numbers_of(posteriors, true, parameters):
    """Numbers that are uniform if the posteriors are right."""
    from keras_cosmo.statistics.calibration import calibration_numbers

    return calibration_numbers(
        posteriors, true, [parameter.low for parameter in parameters], [parameter.high for parameter in parameters]
    )


def posterior_scores(posteriors, numbers, true, simulation, names) -> dict:
    """Errors of the posterior means, widths and coverage."""
    import numpy as np

    from keras_cosmo.statistics.calibration import calibration_scores

    mean = np.array([posterior.mean for posterior in posteriors])
    deviation = np.array([posterior.standard_deviation for posterior in posteriors])
    scores = calibration_scores(numbers, names, simulation, levels=LEVELS)
    for column, name in enumerate(names):
        scores |= error_scores((mean - true)[:, column], simulation, name)
        scores[f"posterior_standard_deviation/{name}"] = float(deviation[:, column].mean())
    at_truth = [float(posterior.log_density(row)) for posterior, row in zip(posteriors, true, strict=True)]
    scores["log_posterior_at_truth"] = float(np.mean(at_truth))
    if len(names) > GRID_PARAMETERS:
        samples = np.array([posterior.effective_samples for posterior in posteriors])
        scores["effective_samples/least"] = float(samples.min())
        scores["effective_samples/median"] = float(np.median(samples))
        scores[f"effective_samples/below_{FEW_SAMPLES}"] = float(np.mean(samples < FEW_SAMPLES))
    return scores


def error_scores(error, simulation, name) -> dict:
    """Root mean square error, its standard error over simulations, and mean error of one parameter."""
    import numpy as np

    from keras_cosmo.statistics.sky_bootstrap import block_bootstrap

    square = block_bootstrap(error**2, simulation)
    rmse = float(np.sqrt(square.mean))
    return {
        f"rmse/{name}": rmse,
        f"rmse_standard_error/{name}": float(square.standard_error) / (2.0 * rmse) if rmse > 0 else 0.0,
        f"bias/{name}": float(error.mean()),
    }


def moment_scores(preset, prepared, maps, parameters, test, seed) -> dict:
    """A network that predicts mean and deviation of the posterior, trained here on the same training maps."""
    import keras
    import numpy as np

    from keras_cosmo.bijectors.map_transform import transform_constants
    from keras_cosmo.data.augmentation import augment_periodic_squares
    from keras_cosmo.losses import MomentLoss
    from keras_cosmo.models.moment_network import MomentNetwork
    from keras_cosmo.optimizers import Adam

    mean, deviation = transform_constants("log10-standardise", maps, minimum=1e-10)
    known = prepared.database.parameters
    network = MomentNetwork(
        maps.shape[1:],
        [parameter.name for parameter in known],
        [parameter.low for parameter in known],
        [parameter.high for parameter in known],
        input_mean=float(mean),
        input_standard_deviation=float(deviation),
        widths=moment_widths(maps.shape[1]),
        seed=seed,
    )
    steps = max(1, len(maps) // preset.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps * preset.moment_epochs)
    network.compile(Adam(rate), MomentLoss(network.prior_standard_deviation))
    generator = np.random.default_rng(seed)
    for _ in range(preset.moment_epochs):
        order = generator.permutation(len(maps))
        for step in range(steps):
            rows = order[step * preset.batch_size : (step + 1) * preset.batch_size]
            turned = augment_periodic_squares(maps[rows], generator) if preset.symmetries == "random" else maps[rows]
            network.train_on_batch(np.ascontiguousarray(turned, np.float32), parameters[rows].astype(np.float32))
    mean, deviation = network.moments(test[0])
    scores = {}
    for column, parameter in enumerate(known):
        error = mean[:, column] - test[1][:, column]
        scores |= error_scores(error, test[2], parameter.name)
        scores[f"posterior_standard_deviation/{parameter.name}"] = float(deviation[:, column].mean())
        pull = error / deviation[:, column]
        scores[f"root_mean_square_pull/{parameter.name}"] = float(np.sqrt(np.mean(pull**2)))
        # Of a Gaussian posterior, which is all that a network of two moments has.
        for level, width in zip(LEVELS, (0.6745, 0.9945, 1.96), strict=True):
            scores[f"coverage_{100 * level:g}/{parameter.name}"] = float(np.mean(np.abs(pull) <= width))
    return scores


def moment_widths(side) -> tuple:
    """Channels of the moment network: as many poolings by 2 as the maps allow, four at most."""
    return (16, 32, 64, 128)[: min(4, (side & -side).bit_length() - 1)]


def inversion_error(model, maps, parameters) -> dict:
    """Largest relative error of maps that went to latent variables and back."""
    import numpy as np

    back = np.asarray(model.from_latent(model.latent(maps, parameters), parameters.astype(maps.dtype)))
    error = float(np.max(np.abs(back / maps - 1.0)))
    if not error <= LARGEST_INVERSION_ERROR:
        logger.warning(
            "Maps that went through the flow and back differ by up to %.2g of their value: samples and densities no "
            "longer belong together. Train with a lower learning rate, or fewer steps.",
            error,
        )
    return {"inversion_error": error}


def generate(preset, model, gaussian, prepared, task, seed) -> dict:
    """Maps of the test simulations, and as many generated with the parameters of each as asked for."""
    import numpy as np

    from keras_cosmo.files import disk_array

    database = prepared.database
    maps = prepared.split.maps("test", database.simulation)
    ids, first = np.unique(database.simulation[maps], return_index=True)
    values = database.targets(maps[first])
    generator = np.random.default_rng(seed)
    shape = (len(ids) * preset.generated_maps, *database.fields[task.field(database)].shape)
    # On disk and a few at a time, as there may be more than the memory holds.
    made = {name: disk_array(shape) for name in (FLOW, FIELD)}
    some = max(1, SAMPLED_AT_ONCE // preset.generated_maps)
    for start in range(0, len(ids), some):
        part = values[start : start + some]
        rows = slice(start * preset.generated_maps, (start + len(part)) * preset.generated_maps)
        drawn = model.sample(part.astype(np.float32), preset.generated_maps, seed=generator.integers(2**31, size=2))
        made[FLOW][rows] = np.moveaxis(np.asarray(drawn), 0, 1).reshape(-1, *shape[1:])
        drawn = gaussian.sample(part, preset.generated_maps, int(generator.integers(2**31)))
        # Infinite where the fit is so poor that no number is large enough.
        with np.errstate(over="ignore"):
            made[FIELD][rows] = drawn.reshape(-1, *shape[1:])
    return {
        "true": database.stored(task.field(database), maps),
        "simulation": database.simulation[maps],
        "ids": ids,
        "parameters": values,
        "generated_simulation": np.repeat(ids, preset.generated_maps),
        **made,
    }


def compare_samples(preset, samples, database, training) -> dict:
    """Spectra, pixels and nearest training maps of generated and unseen maps."""
    from keras_cosmo.bijectors.map_transform import transform_constants
    from keras_cosmo.statistics import map_samples

    # Ten times beyond what the training maps hold is no map of theirs.
    lowest, highest = transform_constants("log10-minmax", training)
    limits = {"low": 10.0 ** (lowest - 1.0), "high": 10.0 ** (highest + 1.0)}
    ids = samples["simulation"], samples["generated_simulation"]
    result = {"check": {}, "spectra": {}, "by_simulation": {}, "pixels": {}, "moments": {}}
    for name in (FLOW, FIELD):
        pair = samples["true"], samples[name]
        result["check"][name] = map_samples.check_samples(samples[name], log10=True, **limits)
        # If all have failed, that is the result.
        if not result["check"][name].used.any():
            continue
        result["spectra"][name] = map_samples.compare_sample_spectra(*pair, database.cell_size, *ids, **limits)
        result["by_simulation"][name] = map_samples.compare_spectra_by_simulation(
            *pair, database.cell_size, *ids, **limits
        )
        result["pixels"][name] = map_samples.compare_pixels(*pair, *ids, **limits)
        result["moments"][name] = map_samples.compare_moments(*pair, *ids, **limits)
    if result["check"][FLOW].used.any():
        chosen = samples["ids"][:: max(1, len(samples["ids"]) // NEAREST_SIMULATIONS)]
        few, unseen = (some_of_each(each, chosen) for each in reversed(ids))
        result["training"] = training[:: -(-len(training) // NEAREST_TRAINING)]
        result["searched"] = len(result["training"]) / len(training)
        result["generated"] = samples[FLOW][few]
        result["memorization"] = map_samples.memorization_test(
            result["generated"], samples["true"][unseen], result["training"], ids[1][few], ids[0][unseen]
        )
    return result


def some_of_each(simulation, chosen):
    """Places of some maps of each of the chosen simulations."""
    import numpy as np

    places = [np.flatnonzero(simulation == number) for number in chosen]
    return np.concatenate([own[:: max(1, len(own) // NEAREST_MAPS)][:NEAREST_MAPS] for own in places])


def sample_scores(compared, name) -> dict:
    """Numbers of the generated maps of one model; NaN if all have failed."""
    import numpy as np

    scores = {"failed_samples": compared["check"][name].failure_rate}
    measured = name in compared["spectra"]
    if measured:
        spectra, pixels = compared["spectra"][name], compared["pixels"][name]
        errors = {
            "power_mean": (spectra.mean_error, spectra.mean_error_standard_error),
            "power_scatter": (spectra.scatter_error, spectra.scatter_error_standard_error),
        }
    else:
        errors = dict.fromkeys(("power_mean", "power_scatter"), (np.full(3, np.nan),) * 2)
    for key, (error, uncertain) in errors.items():
        for label, part in ({"": slice(None)} | scales(len(error))).items():
            scores[f"{key}_error{label}"] = average(np.abs(error[part]))
            # Wavenumbers of one map are far from independent: the mean of their errors, not the error of their mean.
            scores[f"{key}_error_standard_error{label}"] = average(uncertain[part])
            scores[f"{key}_bias{label}"] = average(error[part])
    scores |= conditional_scores(compared["by_simulation"].get(name))
    if measured:
        moments = compared["moments"][name]
        for kind, error in (("mean", moments.mean_error), ("scatter", moments.scatter_error)):
            for moment, value in zip(moments.names, error, strict=True):
                scores[f"moment_{kind}_bias/{moment}"] = float(value)
    scores["pixel_distance"] = float(pixels.wasserstein) if measured else np.nan
    scores["pixel_distance_expected"] = float(pixels.wasserstein_expected) if measured else np.nan
    if name == FLOW:
        test = compared.get("memorization")
        scores["probability_nearer_to_training"] = float(test.probability_nearer) if test else np.nan
        scores["probability_nearer_to_training_standard_error"] = (
            float(test.probability_nearer_standard_error) if test else np.nan
        )
        scores["training_maps_searched"] = compared.get("searched", np.nan)
    return scores


def scales(count) -> dict:
    """Names of three thirds of the wavenumbers, and where they are."""
    ends = [round(count * third / 3) for third in range(4)]
    return {
        f"/{label}": slice(first, last)
        for label, first, last in zip(("large", "middle", "small"), ends[:-1], ends[1:], strict=True)
    }


def conditional_scores(spectra, sets=200, seed=0) -> dict:
    """P(k) at fixed parameters: errors of the mean and of the scatter for each simulation, medians and rms over them.

    A median, as the true maps of one simulation share its field, whose chance is in the mean of each; errors are those
    of the median over simulations drawn with replacement.
    """
    import numpy as np

    keys = ("conditional_power_bias", "conditional_scatter_bias")
    if spectra is None:
        return {f"{key}/{label}": np.nan for key in keys for label in ("large", "middle", "small")}
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(spectra.simulation), size=(sets, len(spectra.simulation)))
    scores = {}
    for label, part in scales(len(spectra.k)).items():
        of_mean = np.array([average(row) for row in spectra.mean_error[:, part]])
        relative = [
            np.array([average(row) for row in (scatter[:, part] / spectra.true_mean[:, part]) ** 2])
            for scatter in (spectra.generated_scatter, spectra.true_scatter)
        ]
        # A simulation whose generated maps all failed has neither; one with a single map has no scatter.
        known = np.isfinite(of_mean)
        medians = [np.median(of_mean[rows][known[rows]]) for rows in drawn if known[rows].any()]
        scores[f"conditional_power_bias{label}"] = float(np.median(of_mean[known])) if known.any() else np.nan
        scores[f"conditional_power_bias_standard_error{label}"] = float(np.std(medians)) if medians else np.nan
        known = np.isfinite(relative[0]) & np.isfinite(relative[1])
        relative = [np.where(known, values, 0.0) for values in relative]
        sums = [np.concatenate([[values.sum()], values[drawn].sum(axis=1)]) for values in relative]
        filled = sums[1] > 0
        ratio, *ratios = np.sqrt(sums[0][filled] / sums[1][filled]) - 1.0 if filled[0] else (np.nan, np.nan)
        scores[f"conditional_scatter_bias{label}"] = float(ratio)
        scores[f"conditional_scatter_bias_standard_error{label}"] = float(np.std(ratios))
    return scores


def average(values) -> float:
    """Mean of the values that are known; NaN without any."""
    import numpy as np

    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else np.nan


def posterior_columns(posteriors, true, simulation, names) -> dict:
    """True parameters, posterior means and deviations of every test map, as a file."""
    import numpy as np

    columns = {"simulation": simulation}
    for column, name in enumerate(names):
        columns[f"{name}_true"] = true[:, column]
        for label, suffix in ((FLOW, ""), (CORRECTED, "_corrected"), (FIELD, "_gaussian_field")):
            columns[f"{name}_mean{suffix}"] = np.array([p.mean[column] for p in posteriors[label]])
            columns[f"{name}_standard_deviation{suffix}"] = np.array(
                [p.standard_deviation[column] for p in posteriors[label]]
            )
    return columns


def tables(preset, metrics, names, paper) -> list:
    """What is printed last and opens the report."""
    from keras_cosmo.figures.report import Table

    models = (FLOW, CORRECTED, FIELD, f"{FIELD}, corrected", *((MOMENTS,) if preset.moment_epochs else ()))

    def cell(name, key, digits=3):
        value = metrics.get(f"{KEYS[name]}{key}")
        what, *of = key.split("/", 1)
        error = metrics.get(f"{KEYS[name]}{'/'.join([f'{what}_standard_error', *of])}", math.nan)
        text = "" if value is None else f"{value:.{digits}f}"
        return f"{text} ± {error:.{digits}f}" if math.isfinite(error) else text

    rows = []
    for name in names:
        wanted = f"rmse/{name}"
        rows.append(
            [
                f"rms error of {name}",
                *(cell(model, wanted) for model in models),
                f"{metrics[f'prior_rms/{name}']:.3f}",
                f"{paper[wanted]:.3f}" if wanted in paper else "",
            ]
        )
        rows.append(
            [
                f"posterior width of {name}",
                *(cell(model, f"posterior_standard_deviation/{name}") for model in models),
                "",
                "",
            ]
        )
    for level in LEVELS:
        key = f"coverage_{100 * level:g}"
        for name in (*names, "joint"):
            rows.append([f"{level:.0%} region holds {name}", *(cell(m, f"{key}/{name}", 2) for m in models), "", ""])
    rows.append(["log posterior at the truth", *(cell(m, "log_posterior_at_truth", 2) for m in models), "", ""])
    rows.append(["best single temperature", cell(FLOW, "temperature"), "", cell(FIELD, "temperature")])
    for key, text in (("least", "least"), ("median", "median")) if len(names) > GRID_PARAMETERS else ():
        rows.append([f"effective samples, {text}", *(cell(m, f"effective_samples/{key}", 0) for m in models)])
    for row in rows:
        row += [""] * (len(models) + 3 - len(row))
    first = Table(
        title=f"Posterior of {metrics['test_maps']} unseen maps of {metrics['test_simulations']} simulations",
        header=["", *models, "prior", "paper*"],
        rows=rows,
        note=(
            f"Means of the posterior {'on a grid' if len(names) <= GRID_PARAMETERS else 'by weighted samples'}, for "
            "the uniform prior (equation 2). Corrected: log-likelihood times a temperature, posterior convolved with a "
            "Gaussian error of the parameters, both fitted on the validation part. A best single temperature "
            "below 1 says that a likelihood is too sure. Gaussian field: of log10, its spectrum fitted as a function "
            "of the parameters. Moment network: trained for mean and deviation alone. Errors are over simulations, as "
            "maps of one share its field. *As published, on maps of CAMELS of simulations that are in the training "
            "too; shown for orientation, not reached or missed here."
        ),
    )
    rows = [
        [label, *(cell(model, key, digits) for model in (FLOW, FIELD))]
        for label, key, digits in (
            ("mean P(k), absolute error", "power_mean_error", 3),
            ("- large scales", "power_mean_error/large", 3),
            ("- middle scales", "power_mean_error/middle", 3),
            ("- small scales", "power_mean_error/small", 3),
            ("scatter of P(k), absolute error", "power_scatter_error", 3),
            ("P(k) at fixed parameters, bias, large scales", "conditional_power_bias/large", 3),
            ("- middle scales", "conditional_power_bias/middle", 3),
            ("- small scales", "conditional_power_bias/small", 3),
            ("scatter of P(k) at fixed parameters, bias, large scales", "conditional_scatter_bias/large", 3),
            ("- middle scales", "conditional_scatter_bias/middle", 3),
            ("- small scales", "conditional_scatter_bias/small", 3),
            ("distance of the pixel distributions [dex]", "pixel_distance", 4),
            ("the same if the distributions were equal [dex]", "pixel_distance_expected", 4),
            ("generated maps that failed", "failed_samples", 4),
            ("log-density of unseen maps per pixel [nats]", "log_prob_per_pixel", 4),
            ("nearer to the training than unseen maps", "probability_nearer_to_training", 2),
            ("largest relative error of maps there and back", "inversion_error", 6),
        )
    ]
    second = Table(
        title="Generated maps, against unseen maps with the same parameters",
        header=["", FLOW, FIELD],
        rows=rows,
        note=(
            "Power spectra of log10 of the maps, fractional errors, averaged over thirds of the wavenumbers; their "
            "uncertainties are those of single wavenumbers, from the bootstrap over simulations. At fixed parameters: "
            "medians over the test simulations, whose true maps share one field, so that at large scales their scatter "
            "is smaller than that of independent maps. Distance: Wasserstein, of log10 of the pixels. "
            "Nearer to the training: probability that a generated map has a nearer training map than an unseen one, "
            "0.5 for maps that are new, 1 for copies. Maps that are not finite, not positive or ten times beyond the "
            "training's range have failed; they are counted, not hidden."
        ),
    )
    return [first, second]


def draw_figures(task, preset, prepared, evaluation, history) -> dict:
    """Figures 2 and 3 of the paper, the calibration, and what is nearest in the training maps."""
    import numpy as np

    from keras_cosmo.figures import higlow as draw
    from keras_cosmo.figures.regression import loss_history

    database, arrays = prepared.database, evaluation.arrays
    parameters, samples, compared = database.parameters, arrays["samples"], arrays["compared"]
    cell_size, unit = database.cell_size, database.fields[task.field(database)].unit
    count = len(samples["ids"])
    # Spread over the first parameter.
    order = np.argsort(samples["parameters"][:, 0])[(2 * np.arange(SHOWN_MAPS) + 1) * count // (2 * SHOWN_MAPS)]
    ids = samples["ids"][order]
    titles = [draw.parameter_title(samples["parameters"][row], parameters) for row in order]
    real = np.stack([samples["true"][np.flatnonzero(samples["simulation"] == number)[0]] for number in ids])
    made = np.stack([samples[FLOW][samples["generated_simulation"] == number][:2] for number in ids])
    figures = {
        "generated_maps": (
            draw.generated_maps(real, made, cell_size, titles, unit),
            "Unseen maps (top) and maps generated with the same parameters (figure 2A).",
        ),
        "spectra": (
            draw.spectra(compared["spectra"]),
            "Mean and standard deviation of the power spectrum over generated and unseen maps (figure 2B).",
        ),
        "conditional_spectra": (
            draw.conditional_spectra(compared["by_simulation"], ids.tolist(), titles),
            "The same at the parameters of single simulations (figure 2C).",
        ),
        "pixel_distributions": (
            draw.pixel_distributions(compared["pixels"]),
            "Distribution of the pixels of generated and unseen maps.",
        ),
        "calibration": (
            draw.calibration(arrays["numbers"][FLOW], parameters, arrays["simulation"], arrays["numbers"][CORRECTED]),
            "Ranks of the truth and coverage of credible regions, as trained and as corrected on the validation part.",
        ),
        "estimated_against_true": (
            draw.estimated_against_true(
                arrays["true"],
                np.array([posterior.mean for posterior in arrays["posteriors"][CORRECTED]]),
                parameters,
                simulation=arrays["simulation"],
                paper={name.removeprefix("rmse/"): value for name, value in task.paper_values(preset).items()},
            ),
            "Posterior means of unseen maps against the true parameters (figure 3B).",
        ),
        "loss_history": (
            loss_history(history, "negative log-likelihood per pixel [nats]"),
            "Negative log-likelihood per pixel on training and validation maps after each epoch; learning rate.",
        ),
    }
    if "memorization" in compared:
        test = compared["memorization"]
        rows = np.flatnonzero(test.generated.check.used)[:SHOWN_MAPS]
        figures["nearest_training_maps"] = (
            draw.nearest_training_maps(
                compared["generated"][rows],
                test.generated.aligned(compared["training"])[rows],
                test.generated.distance[rows],
                cell_size,
                test.generated.distance,
                test.unseen.distance,
                unit,
            ),
            "Generated maps and the training maps most like them, up to shifts and turns.",
        )
    if len(parameters) == 2:
        rows = np.arange(0, len(arrays["true"]), max(1, len(arrays["true"]) // SHOWN_MAPS))[:SHOWN_MAPS]
        chosen = [arrays["posteriors"][CORRECTED][row] for row in rows]
        names = [parameter.name for parameter in parameters]
        marginals = [posterior.marginal(*names) for posterior in chosen]
        figures["posteriors"] = (
            draw.posteriors(
                [axes for axes, _ in marginals], [density for _, density in marginals], arrays["true"][rows], parameters
            ),
            "Posterior of single unseen maps, as corrected on the validation part (figure 3A).",
        )
    else:
        row = len(arrays["true"]) // 2
        posterior = arrays["posteriors"][CORRECTED][row]
        figures["posteriors"] = (
            draw.corner(posterior.samples, parameters, posterior.weights, arrays["true"][row]),
            "Posterior of one unseen map, as corrected on the validation part.",
        )
    return figures
