"""Statistics of batch normalisation, averaged over many batches after training."""

import keras


def recalibrate_batch_statistics(model, batches) -> int:
    """Replace the running means and variances of all batch normalisations by averages over batches.

    The running averages that training leaves behind are of its last few batches, which is too few for layers that see
    few pixels, such as the bottleneck of a generator, and they were taken while the weights still moved. Here all
    weights stand still, every batch counts the same, and dropout is off, as it is in inference (Wu & Johnson 2021,
    arXiv:2105.07576, section 3).

    Args:
        model: Keras model; weights that are trained are not touched.
        batches: Iterable of inputs of the model, of the training part and of the size of training batches.

    Returns:
        Number of batches.

    Raises:
        ValueError: If there is no batch.
    """
    layers = list(leaf_layers(model))
    normalizations = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    dropouts = [layer for layer in layers if isinstance(layer, keras.layers.Dropout)]
    kept = [layer.momentum for layer in normalizations], [layer.rate for layer in dropouts]
    count = 0
    try:
        for layer in dropouts:
            layer.rate = 0.0
        for batch in batches:
            for layer in normalizations:
                # The average of all batches so far: the first one replaces what was there.
                layer.momentum = count / (count + 1)
            model(batch, training=True)
            count += 1
    finally:
        for layer, momentum in zip(normalizations, kept[0], strict=True):
            layer.momentum = momentum
        for layer, rate in zip(dropouts, kept[1], strict=True):
            layer.rate = rate
    if not count:
        raise ValueError("`batches`: expected at least one batch, got none.")
    return count


def leaf_layers(model):
    """Layers of a model and of the models inside it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaf_layers(layer)
        else:
            yield layer
