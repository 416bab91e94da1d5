"""A small database of HI maps for tests of the task with the conditional flow."""

import numpy as np

from keras_cosmo.data.database import write_database
from keras_cosmo.quantities import Parameter

UNIT = "Msun/h (Mpc/h)^-2"
PARAMETERS = (Parameter(name="Omega_m", low=0.1, high=0.5), Parameter(name="sigma_8", low=0.6, high=1.0))
MORE_PARAMETERS = (*PARAMETERS, Parameter(name="log10_A_SN1", low=float(np.log10(0.25)), high=float(np.log10(4.0))))


def values(simulations=12, parameters=PARAMETERS, seed=6):
    """Parameters of the simulations, spread evenly along each."""
    generator = np.random.default_rng(seed)
    places = [(generator.permutation(simulations) + 0.5) / simulations for _ in parameters]
    return np.stack([p.low + (p.high - p.low) * place for p, place in zip(parameters, places, strict=True)], axis=1)


def maps(known, per_simulation=5, side=16, seed=4):
    """Smooth positive periodic maps; their mean follows Omega_m, their roughness sigma_8, and a simulation's are alike.

    Args:
        known: Parameters of the simulations, ``(n, n_parameters)``.
    """
    generator = np.random.default_rng(seed)
    k = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    result = []
    for omega_m, sigma_8, *_ in known:
        noise = 0.8 * generator.standard_normal((per_simulation, side, side)) + 0.6 * generator.standard_normal(
            (1, side, side)
        )
        field = np.fft.irfft2(np.fft.rfft2(noise) * np.exp(-((6.0 * k) ** 2) / (2.0 * sigma_8)), s=(side, side))
        result.append(10.0 ** (5.0 - 2.0 * omega_m + 1.5 * sigma_8 * field))
    return np.concatenate(result).astype(np.float32)


def write(
    path, *, known=None, fields=None, simulation=None, parameters=PARAMETERS, task="higlow", unit=UNIT, **attributes
):
    """Write ``maps(values())``, or other maps, as many of each simulation; an attribute that is None is left out."""
    known = values(parameters=parameters) if known is None else known
    fields = {"hi": maps(known)} if fields is None else fields
    count = len(next(iter(fields.values())))
    attributes = {
        "cell_size": 1.5625,
        "cell_size_units": "Mpc/h",
        "redshifts": [6.0],
        "periodic_across_sky": True,
        "simulator": "small",
        "simulator_version": "1",
        **attributes,
    }
    write_database(
        path,
        task=task,
        fields={name: (array, unit) for name, array in fields.items()},
        parameters=parameters,
        parameter_values=known[:, : len(parameters)],
        simulation=np.repeat(np.arange(len(known)), count // len(known)) if simulation is None else simulation,
        attributes={key: value for key, value in attributes.items() if value is not None},
    )
    return path
