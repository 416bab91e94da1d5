"""Signatures of the exported flow: densities, samples and posteriors."""


def signatures(task, preset, model, prepared) -> dict:
    """``log_prob``, ``sample`` and ``posterior``; the last one also as ``serving_default``.

    ``posterior`` is on a grid of ``--grid-cells`` along each parameter, which it returns too, for uniform priors over
    the range of the training.
    """
    import numpy as np
    import tensorflow as tf

    from keras_cosmo.export.saved_model import Signature

    database = prepared.database
    parameters, field = database.parameters, task.field(database)
    unit, side = database.fields[field].unit, database.fields[field].shape[0]
    count = len(parameters)
    cells = max(4, round(MOST_POINTS ** (1.0 / count))) if preset.grid_cells**count > MOST_POINTS else preset.grid_cells
    axes = [p.low + (np.arange(cells) + 0.5) * (p.high - p.low) / cells for p in parameters]
    points = tf.constant(np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], -1), tf.float32)

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
            return tf.nn.log_softmax(model.log_prob(tf.repeat(image[None], len(points), axis=0), points))

        log_mass = tf.map_fn(one, maps, fn_output_signature=tf.TensorSpec([len(points)], tf.float32))
        mass = tf.exp(log_mass)
        mean = tf.matmul(mass, points)
        variance = tf.matmul(mass, tf.square(points)) - tf.square(mean)
        return {
            "log_mass": log_mass,
            "points": tf.tile(points[None], [tf.shape(maps)[0], 1, 1]),
            "mean": mean,
            "standard_deviation": tf.sqrt(tf.maximum(variance, 0.0)),
        }

    chosen = prepared.split.maps("test", database.simulation)[:1]
    example, values = database.read(field, chosen), database.targets(chosen).astype(np.float32)
    maps_spec = tf.TensorSpec([None, side, side], tf.float32)
    values_spec = tf.TensorSpec([None, count], tf.float32)
    names = ", ".join(f"{p.name} [{p.unit}]" if p.unit else p.name for p in parameters)
    of_posterior = Signature(
        function=posterior,
        inputs={"maps": maps_spec},
        units={"maps": unit, "log_mass": "", "points": names, "mean": names, "standard_deviation": names},
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


# Evaluations of the flow for the posterior of one map, at most.
MOST_POINTS = 1600
