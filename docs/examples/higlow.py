# ruff: noqa: T201
# %% [markdown]
# # The posterior of cosmological parameters, from one HI map
#
# HIGlow ([Friedman & Hassan 2022](https://arxiv.org/abs/2211.12724)) is a conditional flow: it gives the density of a
# map for given parameters, thus the posterior of the parameters of a map, and draws new maps.

# %%
import pathlib

import keras
import numpy as np

from keras_cosmo.bijectors.map_transform import transform_constants
from keras_cosmo.data.augmentation import augment_periodic_squares
from keras_cosmo.data.campaign import run_campaign
from keras_cosmo.data.database import Database
from keras_cosmo.data.pipeline import MapPipeline
from keras_cosmo.data.splits import split_by_simulation
from keras_cosmo.figures.higlow import calibration, posteriors
from keras_cosmo.inference.posterior import grid_posteriors
from keras_cosmo.models.gaussian_field import GaussianField
from keras_cosmo.models.higlow import HIGlow
from keras_cosmo.simulations.hydrogen import HydrogenMapSimulator
from keras_cosmo.statistics.calibration import calibration_numbers
from keras_cosmo.statistics.posterior_convolution import PosteriorConvolution

SIMULATIONS, EPOCHS, BLOCKS, STEPS = 150, 5, 4, 4
FOLDER = pathlib.Path("runs/examples/higlow")
FOLDER.mkdir(parents=True, exist_ok=True)
keras.utils.set_random_seed(0)

# %% Fifteen maps of each of many boxes of 25 Mpc/h, in Msun/h (Mpc/h)^-2; posteriors of one map of each.
simulator = HydrogenMapSimulator(cells=32, particles=48)
database = Database(run_campaign(simulator, FOLDER / "hi.h5", count=SIMULATIONS, design="latin-hypercube"))
split = split_by_simulation(database.simulation, (0.6, 0.2, 0.2))
train = split.maps("train", database.simulation)
validation, test = (split.maps(part, database.simulation, 1) for part in ("validation", "test"))
names, parameters = database.parameter_names, database.parameters
low, high = ([getattr(parameter, end) for parameter in parameters] for end in ("low", "high"))

# %% The flow; its loss is the negative log-likelihood per pixel.
maps, values = database.read("hi", train), database.targets(train)
constants = transform_constants("log10-minmax", maps)
flow = HIGlow(
    maps.shape[1:], names, low, high, "log10-minmax", constants, blocks=BLOCKS, steps=STEPS, injector="channel", seed=0
)
flow.start_from(maps[::20], values[::20].astype("float32"))
flow.compile(keras.optimizers.Adam(2e-3, global_clipnorm=1.0))
pairs = MapPipeline(database, "hi", "parameters", train, 32, seed=0, augment=augment_periodic_squares)
steps = pairs.steps_per_epoch
flow.fit(pairs.training(0, EPOCHS * steps), epochs=EPOCHS, steps_per_epoch=steps, shuffle=False, verbose=0)

# %% Posteriors on a grid. Flows of images are too sure: the correction is fitted on maps kept for it.
likelihoods = {"HIGlow": flow.log_prob, "Gaussian field": GaussianField().fit(maps, values).log_prob}
true = database.targets(test)
metrics, found, numbers = {}, {}, {}
for name, likelihood in likelihoods.items():
    kept, raw = (grid_posteriors(likelihood, database.read("hi", part), parameters, 16) for part in (validation, test))
    correction = PosteriorConvolution.fit(kept, database.targets(validation), low, high)
    found[name] = [correction.apply(posterior) for posterior in raw]
    numbers[name] = [calibration_numbers(each, true, low, high) for each in (raw, found[name])]
    mean = np.array([posterior.mean for posterior in found[name]])
    metrics[name] = np.sqrt(np.mean((mean - true) ** 2, axis=0))
    print(f"{name}: rms error of {' and '.join(names)}: {metrics[name].round(3)}")

# %% One map.
first = found["HIGlow"][0]
for name, mean, deviation, simulated in zip(names, first.mean, first.standard_deviation, true[0], strict=True):
    print(f"{name} = {mean:.2f} ± {deviation:.2f} (simulated with {simulated:.2f})")
axes, densities = zip(*(posterior.marginal(*names) for posterior in found["HIGlow"][:3]), strict=True)
figure = posteriors(axes, densities, true[:3], parameters)
figure.savefig(FOLDER / "figure.png", dpi=50)

# %% Whether the posteriors are right, before and after the correction; and new maps with the parameters of the first.
checked = calibration(numbers["HIGlow"][0], parameters, database.simulation[test], numbers["HIGlow"][1])
checked.savefig(FOLDER / "calibration.png", dpi=50)
new_maps = flow.sample(true[:1].astype("float32"), n=3, seed=(1, 2))
flow.save(FOLDER / "model.keras")
