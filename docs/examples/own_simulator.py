"""A simulator of one's own: blobs whose number and width are the parameters, a thousand of them into a database.

    python docs/examples/own_simulator.py blobs.h5

A campaign runs it in parallel, goes on after a kill, and writes the layout that all tasks read.
"""

import dataclasses
import sys
from typing import ClassVar

import numpy as np

from keras_cosmo.data.campaign import run_campaign
from keras_cosmo.quantities import MapField, Parameter


@dataclasses.dataclass(frozen=True)
class BlobSimulator:
    """Gaussian blobs at random places of a periodic map.

    Args:
        side: Cells along each side.
        maps_per_simulation: Maps with the same parameters.
    """

    name: ClassVar[str] = "blobs"
    version: ClassVar[str] = "1"
    task: ClassVar[str] = "blobs"
    parameters: ClassVar[tuple] = (
        Parameter(name="number", low=1.0, high=30.0),
        Parameter(name="width", low=1.0, high=4.0, unit="cells"),
    )

    side: int = 32
    maps_per_simulation: int = 2

    @property
    def fields(self):
        """What a map is made of."""
        return {"density": MapField(shape=(self.side, self.side), unit="")}

    def simulate(self, parameter_values, seed):
        """Fields by name, ``(maps, side, side)``; the same for the same arguments."""
        number, width = parameter_values
        generator = np.random.default_rng(seed)
        k = np.hypot(np.fft.fftfreq(self.side)[:, None], np.fft.rfftfreq(self.side))
        maps = np.zeros((self.maps_per_simulation, self.side, self.side))
        for each in maps:
            places = generator.integers(0, self.side, (round(number), 2))
            np.add.at(each, tuple(places.T), 1.0)
        smooth = np.fft.rfft2(maps) * np.exp(-2.0 * (np.pi * k * width) ** 2)
        return {"density": np.fft.irfft2(smooth, s=maps.shape[1:]).astype(np.float32)}

    def attributes(self):
        """What else the database says about the maps."""
        return {"cell_size": 1.0, "cell_size_units": "cells", "periodic_across_sky": True}


if __name__ == "__main__":
    run_campaign(BlobSimulator(), sys.argv[1], count=1000, seed=0, workers=2)
