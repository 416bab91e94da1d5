"""A database of small made-up 21-cm and matter maps, quick to learn from, for the tests of the two coeval tasks."""

import numpy as np

from keras_cosmo.data.database import write_database
from keras_cosmo.quantities import Parameter, field_at_redshift

PARAMETERS = (
    Parameter(name="log10_L_X", low=40.0, high=41.0, unit="erg s^-1 Msun^-1 yr"),
    Parameter(name="log10_M_min", low=8.0, high=9.0, unit="Msun"),
    Parameter(name="log10_N_gamma", low=3.0, high=4.0),
)
SIDE = 16


def arrays(*, simulations=20, per_simulation=3, side=SIDE, redshifts=(10.0, 15.0), seed=0):
    """Smooth density maps, and 21-cm maps that follow them with a slope and an offset set by the parameters."""
    generator = np.random.default_rng(seed)
    low, high = np.array([(p.low, p.high) for p in PARAMETERS]).T
    values = generator.uniform(low, high, (simulations, 3))
    simulation = np.repeat(np.arange(simulations), per_simulation)
    unit = ((values - low) / (high - low))[simulation]
    k = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)) * side
    noise = np.fft.fft2(generator.standard_normal((len(simulation), side, side)))
    linear = np.fft.ifft2(noise * np.exp(-(k**2) / 18.0)).real
    linear /= linear.std()
    fields = {}
    for redshift in redshifts:
        density = np.exp(2.0 * linear / (1.0 + redshift)) - 1.0
        slope = -(20.0 + 30.0 * unit[:, 2]) * (1.0 + unit[:, 1])
        brightness = (slope * (1.0 + 0.3 * unit[:, 1]))[:, None, None] * (1.0 + density)
        brightness += 60.0 * unit[:, 0, None, None] + 0.3 * generator.standard_normal(density.shape)
        fields[field_at_redshift("density", redshift)] = (density.astype("float32"), "")
        fields[field_at_redshift("brightness_temp", redshift)] = (brightness.astype("float32"), "mK")
    return fields, values, simulation


def write(path, *, fields=None, attributes=None, **options):
    """Write the database; ``fields`` replaces single fields, None as a field leaves it out."""
    maps, values, simulation = arrays(**options)
    maps = {name: field for name, field in {**maps, **(fields or {})}.items() if field is not None}
    write_database(
        path,
        task="matter",
        fields=maps,
        parameters=PARAMETERS,
        parameter_values=values,
        simulation=simulation,
        attributes={
            "simulator": "made-up",
            "simulator_version": "1",
            "cell_size": 1.5,
            "cell_size_units": "Mpc",
            "redshifts": np.array([10.0, 15.0]),
            "periodic_across_sky": True,
            "projection": "mean",
            "slab_cells": 4,
            **(attributes or {}),
        },
    )
    return path
