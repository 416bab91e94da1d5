"""A simulator of a few pixels that misbehaves on demand; imported by tests and by the processes they start."""

import dataclasses
import os
import pathlib
import time

import numpy as np

from keras_cosmo.quantities import MapField, Parameter


@dataclasses.dataclass(frozen=True)
class FakeSimulator:
    """Maps are white noise around the first parameter.

    Args:
        maps_per_simulation: Maps.
        size: Pixels on a side.
        bad: Seeds that fail while the file ``trouble`` exists (or always, if that is empty).
        how: What a bad seed does: raise, nan, shape, field, huge, die, interrupt.
        trouble: File that must exist for trouble.
        delay: Seconds per simulation.
        name, version, task: As recorded in the database.
    """

    maps_per_simulation: int = 2
    size: int = 6
    bad: tuple[int, ...] = ()
    how: str = "raise"
    trouble: str = ""
    delay: float = 0.0
    name: str = "fake"
    version: str = "1"
    task: str = "regression"

    @property
    def parameters(self):
        return (Parameter(name="a", low=1.0, high=2.0, unit="K"), Parameter(name="b", low=-1.0, high=1.0))

    @property
    def fields(self):
        shape = (self.size, self.size + 1)
        return {"signal": MapField(unit="mK", shape=shape), "density": MapField(unit="", shape=shape)}

    def attributes(self):
        return {"cell_size": 1.5, "cell_size_units": "Mpc", "redshifts": np.arange(self.size + 1.0)}

    def simulate(self, parameter_values, seed):
        time.sleep(self.delay)
        generator = np.random.default_rng(seed)
        shape = (self.maps_per_simulation, self.size, self.size + 1)
        maps = {
            name: np.float32(parameter_values[0]) + generator.standard_normal(shape, np.float32) for name in self.fields
        }
        if seed in self.bad and (not self.trouble or pathlib.Path(self.trouble).exists()):
            self._misbehave(maps)
        return maps

    def _misbehave(self, maps):
        if self.how == "raise":
            raise ArithmeticError("no convergence")
        if self.how == "nan":
            maps["signal"][1, 2, 3] = np.nan
        if self.how == "shape":
            maps["signal"] = maps["signal"][:, 1:]
        if self.how == "field":
            del maps["density"]
        if self.how == "huge":
            maps["density"][0, 0, 0] = 1e6
        if self.how == "die":
            os._exit(9)
        if self.how == "interrupt":
            raise KeyboardInterrupt
