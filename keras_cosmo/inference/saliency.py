"""Which pixels of a map a network's outputs depend on."""

import random

import keras
import numpy as np
import tensorflow as tf

METHODS = ("gradient", "smoothgrad", "integrated_gradients")


def saliency(
    model,
    maps,
    method="gradient",
    *,
    outputs=None,
    absolute=True,
    samples=32,
    noise=0.1,
    steps=64,
    reference=None,
    seed=0,
    batch_size=8,
) -> np.ndarray:
    """Saliency maps of a network that returns a few numbers per map, such as `AstroNet`.

    Methods:
    - "gradient": ``d output / d pixel`` (the paper's "vanilla gradient"; Simonyan et al. 2014), in output units per
      input unit, such as dex per mK. For parameters scaled to [0, 1], as the authors have them, divide by the width
      of the parameter's range.
    - "smoothgrad": mean of the gradients at ``samples`` maps with Gaussian noise added (Smilkov et al. 2017), same
      unit.
    - "integrated_gradients": each pixel's share of ``output(map) - output(reference)``, in output units
      (Sundararajan et al. 2017): its difference from the reference times the mean of the gradients at ``steps``
      midpoints on the straight line between the two. Over all pixels the signed shares add up to that
      difference.

    Args:
        model: Keras model with outputs ``(batch, n_outputs)``. It is used in inference mode.
        maps: ``(batch, height, width)`` or ``(batch, height, width, channels)``, as the model takes them, such as mK.
        method: One of the above.
        outputs: Indices of the outputs to look at. Defaults to all.
        absolute: Whether to return moduli, as in the paper, or signed values. Defaults to True.
        samples: Of "smoothgrad". Defaults to 32.
        noise: Of "smoothgrad": standard deviation of the noise as a fraction of the range of values that each map
            (and channel) has. Defaults to 0.1, the lower end of what its authors recommend.
        steps: Of "integrated_gradients". Defaults to 64.
        reference: Of "integrated_gradients": what counts as a map without information, anything that broadcasts to
            ``maps``. Defaults to the model's ``input_mean`` (a flat map), or 0 if it has none.
        seed: Of "smoothgrad". The noise of a map depends on it and on the map's place in ``maps`` only.
        batch_size: Maps per call of the model; bounds the memory. Defaults to 8.

    Returns:
        float32 array ``(batch, n_outputs, height, width)``, and a last axis of channels where the maps have one.

    Raises:
        ValueError: If an argument is out of range, a map is not finite, or the model returns something else than a
            row of numbers per map.

    Example:
        >>> maps = np.random.default_rng(0).normal(-100, 40, (2, 64, 64, 1))
        >>> saliency(AstroNet((64, 64)), maps).shape  # doctest: +SKIP
        (2, 3, 64, 64, 1)

    Reference:
        Villanueva-Domingo & Villaescusa-Navarro 2021, ApJ 907, 44 (arXiv:2006.14305), section IV.5 and Figs. 9, 10.
    """
    maps = np.asarray(maps, dtype=np.float32)
    if method not in METHODS:
        raise ValueError(f"`method`: expected one of {list(METHODS)}, got {method!r}.")
    if maps.ndim not in (3, 4) or not maps.size:
        raise ValueError(f"`maps`: expected shape (batch, height, width) or with channels last, got {maps.shape}.")
    if not np.isfinite(maps).all():
        raise ValueError("`maps`: expected finite maps, got NaN or infinity.")
    for name, value in (("samples", samples), ("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"`{name}`: expected at least 1, got {value}.")
    if not 0 < noise < np.inf:
        raise ValueError(f"`noise`: expected a positive fraction of the range of a map, got {noise}.")
    reference = np.asarray(getattr(model, "input_mean", 0.0) if reference is None else reference, dtype=np.float32)
    try:
        reference = np.broadcast_to(reference, maps.shape)
    except ValueError as error:
        raise ValueError(f"`reference`: shape {reference.shape} does not broadcast to maps of {maps.shape}.") from error
    outputs = _indices(model, outputs)
    # Traced once here, so that several calls for several networks do not look like one function that is traced anew.
    traced = tf.function(lambda batch: gradient_saliency(model, batch, outputs, absolute=False)).get_concrete_function(
        tf.TensorSpec((None, *maps.shape[1:]), tf.float32)
    )

    def gradients(batch):
        return traced(tf.convert_to_tensor(batch))

    result = np.empty((len(maps), len(outputs), *maps.shape[1:]), np.float32)
    for start in range(0, len(maps), batch_size):
        rows = slice(start, start + batch_size)
        if method == "gradient":
            result[rows] = gradients(maps[rows])
        elif method == "smoothgrad":
            result[rows] = _smooth(gradients, maps[rows], samples, noise, seed, start)
        else:
            result[rows] = _integrated(gradients, maps[rows], reference[rows], steps)
    return np.abs(result, out=result) if absolute else result


def gradient_saliency(model, maps, outputs=None, absolute=True):
    """Gradients of the outputs with respect to the maps, in TensorFlow operations only.

    It works inside a ``tf.function``, so it can be part of an exported signature.

    Args:
        model: Keras model with outputs ``(batch, n_outputs)``. It is used in inference mode.
        maps: float32 tensor ``(batch, height, width[, channels])``; the batch may be of unknown size.
        outputs: Indices of the outputs. Defaults to all.
        absolute: Whether to return moduli, as in the paper, or signed values. Defaults to True.

    Returns:
        Tensor ``(batch, n_outputs, height, width[, channels])``, output units per input unit.

    Raises:
        ValueError: If the model does not return a row of numbers per map, or an index is out of range.
    """
    outputs = _indices(model, outputs)
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(maps)
        rows = model(maps, training=False)
        columns = [rows[:, index] for index in outputs]
    # A map's output depends on that map only, so the gradient of the sum over the batch has each map's own.
    none = tf.UnconnectedGradients.ZERO
    gradients = tf.stack([tape.gradient(column, maps, unconnected_gradients=none) for column in columns], axis=1)
    return tf.abs(gradients) if absolute else gradients


def randomized(model, seed=0):
    """A copy of the network with the weights of an untrained one.

    Saliency maps that hardly differ between the two show edges of the map rather than what the network has learnt
    (the "model parameter randomization test" of Adebayo et al. 2018); compare them with
    `keras_cosmo.statistics.distributions.rank_correlation`. Running means and variances of batch normalisation start
    anew too; fixed scalings of input and output stay.

    Args:
        model: Keras model that can be rebuilt from its configuration.
        seed: Of the new weights; the same for the same model and seed.

    Returns:
        A new model, not compiled.
    """
    # Keras initializers without a seed of their own take one from here. Text, as a number could be the seed that the
    # training started from, whose weights are not independent of the trained ones.
    state = random.getstate()
    random.seed(f"randomized {seed}")
    try:
        copy = model.__class__.from_config(model.get_config())
    finally:
        random.setstate(state)
    for old, new in zip(model.layers, copy.layers, strict=True):
        if isinstance(old, keras.layers.Normalization) and old.weights:
            new.set_weights(old.get_weights())
            new.finalize_state()
    return copy


def _smooth(gradients, maps, samples, noise, seed, start):
    deviation = noise * np.ptp(maps, axis=(1, 2), keepdims=True)
    generators = [np.random.default_rng((seed, start + row)) for row in range(len(maps))]
    total = 0.0
    for _ in range(samples):
        draw = np.stack([generator.standard_normal(maps.shape[1:], np.float32) for generator in generators])
        total = total + gradients(maps + deviation * draw).numpy()
    return total / samples


def _integrated(gradients, maps, reference, steps):
    total = 0.0
    for step in range(steps):
        total = total + gradients(reference + (step + 0.5) / steps * (maps - reference)).numpy()
    return total / steps * (maps - reference)[:, None]


def _indices(model, outputs):
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] is None:
        raise ValueError(f"`model`: expected one output of shape (batch, n_outputs), got {shape}.")
    outputs = range(shape[1]) if outputs is None else [outputs] if np.ndim(outputs) == 0 else outputs
    outputs = [int(index) for index in outputs]
    if not outputs or not all(0 <= index < shape[1] for index in outputs):
        raise ValueError(f"`outputs`: expected indices from 0 to {shape[1] - 1}, got {outputs}.")
    return outputs
