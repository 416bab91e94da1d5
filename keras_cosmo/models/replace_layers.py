"""Swap layers of a network for one's own."""

import keras


def replace_layers(model: keras.Model, replacements: dict) -> keras.Model:
    """Return a new functional model in which the named layers are replaced, all others rebuilt alike.

    The weights of the layers that stay are copied, and so is whether each is trainable: frozen layers stay
    frozen. The new ones keep the start and the trainable flag that they came with. The compile state is not
    copied: compile the result.

    Args:
        model: A functional Keras model, such as `LightconeRegressor`.
        replacements: Layer name -> ``keras.layers.Layer`` (not yet built). Its input and output must fit
            the neighbours, and its ``call`` must take the arguments that the old layer's takes; register its
            class (``keras.saving.register_keras_serializable``) so that the result can be saved.

    Raises:
        ValueError: If a name is not a layer of the model (the message lists what there is), or a
            replacement does not keep the shape that the following layers were given.

    Example:
        >>> network = replace_layers(LightconeRegressor((40, 64)), {"dense_2": keras.layers.Dense(16, "gelu")})
    """
    names = [layer.name for layer in model.layers]
    unknown = sorted(set(replacements) - set(names))
    if unknown:
        raise ValueError(f"`replacements`: no layer named {unknown}; this model has {names}.")
    for name, layer in replacements.items():
        if not isinstance(layer, keras.layers.Layer) or layer.weights:
            raise ValueError(f"`replacements[{name!r}]`: expected a Keras layer that is not built yet, got {layer!r}.")
        if layer.name != name and layer.name in names:
            raise ValueError(
                f"`replacements[{name!r}]` is called {layer.name!r}, as another layer of this model: give it a name of "
                f"its own, {type(layer).__name__}(..., name='my_layer')."
            )

    def clone(layer):
        return replacements.get(layer.name) or layer.__class__.from_config(layer.get_config())

    # A plain functional model: Keras clones only models that keep the stock `get_config`.
    inputs, outputs = (ends[0] if len(ends) == 1 else ends for ends in (model.inputs, model.outputs))
    plain = keras.Model(inputs, outputs, name=model.name)
    result = keras.models.clone_model(plain, clone_function=clone)
    for old, new in zip(plain.layers, result.layers, strict=True):
        if old.name in replacements:
            if new.output.shape != old.output.shape:
                raise ValueError(
                    f"`replacements[{old.name!r}]` must return shape {old.output.shape} as the layer it replaces, "
                    f"got {new.output.shape}."
                )
        else:
            new.set_weights(old.get_weights())
            # Only where it differs: setting it on a nested model would overwrite the flags of its layers.
            if new.trainable != old.trainable:
                new.trainable = old.trainable
    return result
