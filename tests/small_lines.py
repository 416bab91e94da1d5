"""A small database of line maps for tests of the separation task."""

import numpy as np

from keras_cosmo.data.database import write_database

UNIT = "erg s^-1 cm^-2 sr^-1"


def maps(count=30, side=16, seed=4):
    """Smooth positive maps of two lines, and rougher ones before the beam."""
    generator = np.random.default_rng(seed)
    result = {}
    for line, mean in (("halpha", 6e-10), ("oiii", 4e-10)):
        noise = generator.standard_normal((count, side, side))
        smooth = sum(np.roll(noise, (i, j), axis=(1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 3.0
        result[f"intensity_{line}"] = (mean * np.exp(0.6 * smooth)).astype(np.float32)
        result[f"intensity_{line}_unsmoothed"] = (mean * np.exp(noise)).astype(np.float32)
    return result


def write(path, *, fields=None, unit=UNIT, task="separation", **attributes):
    """Write ``maps()``, or other fields, one map per simulation; an attribute that is None is left out."""
    fields = maps() if fields is None else fields
    count = len(next(iter(fields.values())))
    attributes = {
        "cell_size": 0.4,
        "cell_size_units": "arcmin",
        "beam_sigma": 1.2,
        "simulator": "small",
        "simulator_version": "1",
        **attributes,
    }
    write_database(
        path,
        task=task,
        fields={name: (array, unit) for name, array in fields.items()},
        parameters=(),
        parameter_values=np.zeros((count, 0)),
        simulation=np.arange(count),
        attributes={key: value for key, value in attributes.items() if value is not None},
    )
    return path
