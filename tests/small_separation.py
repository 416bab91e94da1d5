"""A separation whose answer is known, as a SavedModel, for tests of what applies one."""

import keras
import tensorflow as tf

from keras_cosmo.export.saved_model import Signature, export_saved_model
from keras_cosmo.simulations.emission_lines import INTENSITY_UNIT

SIDE = 8
RANGE = [4e-10, 4e-9]
FACTS = {
    "task": "separation",
    "cell_size": 0.4,
    "normalization": {"observed_mean_range": RANGE},
    "preset": {"lines": ["halpha", "oiii"]},
    "metrics": {"halpha/peaks/recall": 0.7},
}


def write(folder, metadata=None, unit=INTENSITY_UNIT, side=SIDE):
    """Halpha is 0.6 of the observed map, [OIII] 0.3, and a tenth is left."""
    maps = keras.Input((side, side), name="intensity")
    network = keras.Model(maps, keras.layers.Rescaling(0.6)(maps))

    def separate(intensity):
        halpha = network(intensity, training=False)
        return {"halpha": halpha, "oiii": 0.5 * halpha, "residual": intensity - 1.5 * halpha}

    signature = Signature(
        separate,
        {"intensity": tf.TensorSpec([None, side, side], tf.float32)},
        dict.fromkeys(("intensity", "halpha", "oiii", "residual"), unit),
        {"intensity": tf.zeros((1, side, side)).numpy()},
    )
    export_saved_model(network, folder, {"serving_default": signature}, FACTS if metadata is None else metadata)
    return folder
