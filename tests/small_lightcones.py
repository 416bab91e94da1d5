"""A database of small made-up light-cones, quick to learn from, for the tests of the regression task."""

import numpy as np

from keras_cosmo.data.database import write_database
from keras_cosmo.quantities import Parameter

PARAMETERS = (
    Parameter(name="zeta", low=10.0, high=250.0),
    Parameter(name="log10_L_X", low=38.0, high=42.0, unit="erg s^-1 Msun^-1 yr"),
    Parameter(name="log10_T_vir", low=4.0, high=6.0, unit="K"),
    Parameter(name="E_0", low=0.1, high=1.5, unit="keV"),
)
SHAPE = (32, 70)


def write(path, *, simulations=40, per_simulation=2, shape=SHAPE, seed=0, parameters=PARAMETERS, **changes):
    """Write the database; ``changes`` go to `write_database`."""
    generator = np.random.default_rng(seed)
    low, high = np.array([(p.low, p.high) for p in parameters]).T
    values = generator.uniform(low, high, (simulations, len(parameters)))
    simulation = np.repeat(np.arange(simulations), per_simulation)
    unit = ((values - low) / (high - low))[simulation]
    redshift_like = np.linspace(0, 1, shape[1])
    maps = 10 * generator.standard_normal((len(simulation), *shape))
    for column in range(len(parameters)):
        maps += 40 * unit[:, column, None, None] * np.cos((column + 1) * np.pi * redshift_like)
    options = {
        "task": "regression",
        "fields": {"brightness_temp": (maps.astype("float32"), "mK")},
        "parameters": parameters,
        "parameter_values": values,
        "simulation": simulation,
        "attributes": {
            "simulator": "made-up",
            "simulator_version": "1",
            "cell_size": 1.5,
            "cell_size_units": "Mpc",
            "redshifts": np.linspace(6, 30, shape[1]),
        },
    }
    write_database(path, **{**options, **changes})
    return path
