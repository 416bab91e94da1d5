"""A small database of Galactic skies for tests of the dust task."""

import healpy
import numpy as np

from keras_cosmo.data.database import write_database

NSIDE, CHANNELS = 16, 6
UNITS = {"hi_cube": "K", "dust": "uK_RJ", "mask": ""}


def skies(count=4, seed=3):
    """Smooth positive velocity cubes, dust that depends on them, and a mask about the equator."""
    generator = np.random.default_rng(seed)
    pixels = healpy.nside2npix(NSIDE)
    coarse = healpy.ang2pix(4, *healpy.pix2ang(NSIDE, np.arange(pixels)))
    cube = np.exp(
        generator.normal(size=(count, 192, CHANNELS))[:, coarse]
        + 0.5 * generator.normal(size=(count, pixels, CHANNELS))
    )
    dust = cube @ np.linspace(1.0, 3.0, CHANNELS) + 0.3 * cube[..., 1] * cube[..., 2]
    _, latitude = healpy.pix2ang(NSIDE, np.arange(pixels), lonlat=True)
    mask = np.broadcast_to(np.abs(latitude) > 20.0, dust.shape)
    return {"hi_cube": cube, "dust": 10.0 * dust, "mask": mask.astype(float)}


def write(path, *, fields=None, units=UNITS, task="dust", **attributes):
    """Write ``skies()``, or other fields, one sky per simulation; an attribute that is None is left out."""
    fields = skies() if fields is None else fields
    count = len(fields["dust"])
    attributes = {
        "nside": NSIDE,
        "ordering": "RING",
        "coordinates": "galactic",
        "velocities": np.linspace(-60.0, 15.0, CHANNELS),
        "low_pass_ell": 0.0,
        "low_pass_order": 4.0,
        "cell_size": float(healpy.nside2resol(NSIDE, arcmin=True)),
        "cell_size_units": "arcmin",
        "simulator": "small",
        "simulator_version": "1",
        **attributes,
    }
    write_database(
        path,
        task=task,
        fields={name: (np.asarray(array, np.float32), units[name]) for name, array in fields.items()},
        parameters=(),
        parameter_values=np.zeros((count, 0)),
        simulation=np.arange(count),
        attributes={key: value for key, value in attributes.items() if value is not None},
    )
    return path
