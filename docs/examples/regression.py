# ruff: noqa: T201
# %% [markdown]
# # Parameters of a 21-cm light-cone
#
# The network of [Gillet et al. 2019](https://arxiv.org/abs/1805.02699) reads four astrophysical parameters from one
# image: here of small light-cones, simulated first, which all together takes a minute of one core.

# %%
import pathlib

import keras

from keras_cosmo.data.augmentation import augment_lightcones
from keras_cosmo.data.campaign import run_campaign
from keras_cosmo.data.database import Database
from keras_cosmo.data.normalization import fit_normalization
from keras_cosmo.data.pipeline import MapPipeline
from keras_cosmo.data.splits import split_by_simulation
from keras_cosmo.figures.regression import predicted_against_true
from keras_cosmo.losses import StandardizedMeanSquaredError
from keras_cosmo.models.baselines import GlobalSignalRidge
from keras_cosmo.models.lightcone_regressor import LightconeRegressor
from keras_cosmo.simulations.lightcones import LightconeSimulator
from keras_cosmo.statistics.scores import r2
from keras_cosmo.training.trainer import Trainer

SIMULATIONS, EPOCHS = 2000, 15
FOLDER = pathlib.Path("runs/examples/regression")
FOLDER.mkdir(parents=True, exist_ok=True)
keras.utils.set_random_seed(0)

# %% Light-cones in a database (run again, this opens it), divided by simulation.
simulator = LightconeSimulator(n_perp=32, n_los=256)
database = Database(run_campaign(simulator, FOLDER / "cones.h5", count=SIMULATIONS))
split = split_by_simulation(database.simulation, (0.8, 0.1, 0.1))
train, validation, test = (split.maps(part, database.simulation) for part in ("train", "validation", "test"))
training = MapPipeline(database, "brightness_temp", "parameters", train, 32, seed=0, augment=augment_lightcones)
validating = MapPipeline(database, "brightness_temp", "parameters", validation, 32, seed=0)

# %% The network takes mK and returns parameters in their own units; what lies between is of the training part alone.
image, parameters = fit_normalization(database.scan(), "brightness_temp", train), database.targets(train)
network = LightconeRegressor(
    training.input_shape,
    input_mean=image.mean,
    input_standard_deviation=image.standard_deviation,
    output_mean=parameters.mean(axis=0),
    output_standard_deviation=parameters.std(axis=0),
)
network.compile(keras.optimizers.RMSprop(1e-3), StandardizedMeanSquaredError(parameters.std(axis=0)))
trainer = Trainer(network, FOLDER / "run")
trainer.fit(training, validating, epochs=EPOCHS)
trainer.load_best()

# %% R2 on light-cones that were never seen, beside ridge regression on the global signal.
maps, true = database.read("brightness_temp", test), database.targets(test)
predicted = network.predict(maps, verbose=0)
ridge = GlobalSignalRidge().fit(database.read("brightness_temp", train), parameters, database.simulation[train])
baseline = ridge.predict(maps)
metrics = {"network": r2(true, predicted), "baseline": r2(true, baseline)}
for name, score, simple in zip(database.parameter_names, *metrics.values(), strict=True):
    print(f"R2 of {name}: {score:.2f}, ridge regression {simple:.2f}")

# %% One light-cone in physical units: what the network says, and what it was simulated with.
for parameter, found, simulated in zip(database.parameters, predicted[0], true[0], strict=True):
    print(f"{parameter.name}: {found:.3g} {parameter.unit} (simulated with {simulated:.3g})")

# %% Predicted against true, with the residuals on both sides.
figure = predicted_against_true(true, predicted, database.parameters, baseline)
figure.savefig(FOLDER / "figure.png", dpi=60)
network.save(FOLDER / "model.keras")
