"""Signatures of the exported flow: densities, samples and posteriors."""

# Parameters of which a posterior is laid on a grid; of more of them on points spread over the prior.
GRID_PARAMETERS = 2
# Evaluations of the flow for the posterior of one map: at most on a grid; and as many spread points.
MOST_GRID_POINTS, SPREAD_POINTS = 1600, 2048
SPREAD_SEED = 0


def posterior_points(parameters, cells):
    """Points that stand for the uniform prior, ``(n_points, n_parameters)`` float32, all with the same weight.

    Centres of a grid of ``cells`` along each of one or two parameters (fewer if there are more than
    `MOST_GRID_POINTS`); of more parameters a scrambled Sobol sequence (Owen 1998), as a grid would be too coarse.

    Args:
        parameters: Parameters with their ranges.
        cells: Cells along each parameter.
    """
    import numpy as np

    low, high = (np.array([getattr(parameter, end) for parameter in parameters]) for end in ("low", "high"))
    count = len(parameters)
    if count > GRID_PARAMETERS:
        from scipy.stats import qmc

        unit = qmc.Sobol(count, scramble=True, rng=np.random.default_rng(SPREAD_SEED)).random(SPREAD_POINTS)
    else:
        cells = min(cells, round(MOST_GRID_POINTS ** (1.0 / count)))
        axis = (np.arange(cells) + 0.5) / cells
        unit = np.stack([values.ravel() for values in np.meshgrid(*[axis] * count, indexing="ij")], axis=-1)
    return (low + (high - low) * unit).astype(np.float32)


def signatures(task, preset, model, prepared, correction) -> dict:
    """``posterior`` (also as ``serving_default``), ``log_prob`` and ``sample``.

    ``posterior`` is for uniform priors over the range of the training, at the points that it returns: ``log_mass`` is
    corrected (`PosteriorConvolution`, fitted on the validation part), as are ``mean``, ``standard_deviation`` and
    ``effective_sample_size`` (how many points carry the posterior: below some ten, mean and deviation are
    rough); ``log_likelihood`` is that of the flow itself, for other priors. Points where it is not finite have no mass.
    All are plain sums over the points, where ``metrics.json`` has interpolated between them.
    """
    import numpy as np
    import tensorflow as tf

    from keras_cosmo.export.saved_model import Signature

    database = prepared.database
    parameters, field = database.parameters, task.field(database)
    unit, side = database.fields[field].unit, database.fields[field].shape[0]
    points = tf.constant(posterior_points(parameters, preset.grid_cells))
    # Units in which the error of the parameters is 1.
    whitened = points @ tf.constant(np.linalg.inv(np.linalg.cholesky(correction.covariance)).T, tf.float32)

    def log_prob(maps, parameters):
        return {"log_prob": model.log_prob(maps, parameters)}

    def sample(parameters, seed):
        # A row of seeds for each row of parameters, as servers join and split batches along the first axis.
        maps = tf.map_fn(
            lambda pair: model.sample(pair[0][None], 1, seed=pair[1])[0, 0],
            (parameters, seed),
            fn_output_signature=tf.TensorSpec([side, side], tf.float32),
        )
        return {"maps": maps}

    def posterior(maps):
        def one(image):
            return model.log_prob(tf.repeat(image[None], len(points), axis=0), points)

        log_likelihood = tf.map_fn(one, maps, fn_output_signature=tf.TensorSpec([len(points)], tf.float32))
        finite = tf.where(tf.math.is_finite(log_likelihood), log_likelihood, -np.inf)
        sharp = tf.nn.softmax(correction.temperature * finite)
        square = tf.reduce_sum(tf.square(whitened), axis=1)
        distance = square[:, None] + square[None] - 2.0 * tf.matmul(whitened, whitened, transpose_b=True)
        blurred = tf.matmul(sharp, tf.exp(-0.5 * tf.maximum(distance, 0.0)))
        log_mass = tf.math.log(blurred) - tf.math.log(tf.reduce_sum(blurred, axis=1, keepdims=True))
        mass = tf.exp(log_mass)
        mean = tf.matmul(mass, points)
        variance = tf.reduce_sum(mass[..., None] * tf.square(points - mean[:, None]), axis=1)
        return {
            "points": tf.tile(points[None], [tf.shape(maps)[0], 1, 1]),
            "log_likelihood": log_likelihood,
            "log_mass": log_mass,
            "mean": mean,
            "standard_deviation": tf.sqrt(variance),
            "effective_sample_size": 1.0 / tf.reduce_sum(tf.square(mass), axis=1),
        }

    chosen = prepared.split.maps("test", database.simulation)[:1]
    example, values = database.read(field, chosen), database.targets(chosen).astype(np.float32)
    maps_spec = tf.TensorSpec([None, side, side], tf.float32)
    values_spec = tf.TensorSpec([None, len(parameters)], tf.float32)
    names = ", ".join(f"{p.name} [{p.unit}]" if p.unit else p.name for p in parameters)
    of_posterior = Signature(
        function=posterior,
        inputs={"maps": maps_spec},
        units={
            "maps": unit,
            "points": names,
            "log_likelihood": "nats",
            "log_mass": "nats",
            "mean": names,
            "standard_deviation": names,
            "effective_sample_size": "",
        },
        example={"maps": example},
    )
    return {
        "serving_default": of_posterior,
        "posterior": of_posterior,
        "log_prob": Signature(
            function=log_prob,
            inputs={"maps": maps_spec, "parameters": values_spec},
            units={"maps": unit, "parameters": names, "log_prob": "nats"},
            example={"maps": example, "parameters": values},
        ),
        "sample": Signature(
            function=sample,
            inputs={"parameters": values_spec, "seed": tf.TensorSpec([None, 2], tf.int32)},
            units={"parameters": names, "seed": "", "maps": unit},
            example={"parameters": values, "seed": np.array([[1, 2]], np.int32)},
        ),
    }
