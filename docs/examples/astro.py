# ruff: noqa: T201
# %% [markdown]
# # Astrophysics from one 21-cm map
#
# The second network of [Villanueva-Domingo & Villaescusa-Navarro 2021](https://arxiv.org/abs/2006.14305) reads three
# parameters of the first galaxies from a 21-cm map; its saliency shows which pixels they depend on. The paper starts
# from the encoder of its U-Net (``copy_encoder``); here the encoder is trained from scratch.

# %%
import pathlib

import keras
import numpy as np

from keras_cosmo.data.augmentation import augment_periodic_squares
from keras_cosmo.data.campaign import run_campaign
from keras_cosmo.data.database import Database
from keras_cosmo.data.normalization import fit_normalization
from keras_cosmo.data.pipeline import MapPipeline
from keras_cosmo.data.splits import split_by_simulation
from keras_cosmo.figures.astro import saliency_pixels
from keras_cosmo.inference.saliency import saliency
from keras_cosmo.losses import StandardizedMeanSquaredError
from keras_cosmo.models.astro_net import AstroNet
from keras_cosmo.models.map_statistics_ridge import MapStatisticsRidge
from keras_cosmo.simulations.coeval import CoevalSimulator
from keras_cosmo.statistics.scores import r2

SIMULATIONS, EPOCHS, WIDTHS = 300, 12, (16, 32, 64)
FOLDER = pathlib.Path("runs/examples/astro")
FOLDER.mkdir(parents=True, exist_ok=True)
keras.utils.set_random_seed(0)

# %% Periodic boxes of 48 Mpc at redshift 10, cut into slabs: the 21-cm signal in mK, with the parameters of its box.
simulator = CoevalSimulator(box_cells=32, slabs=8, redshifts=(10.0,))
database = Database(run_campaign(simulator, FOLDER / "boxes.h5", count=SIMULATIONS, design="latin-hypercube"))
split = split_by_simulation(database.simulation, (0.8, 0.1, 0.1))
train, validation, test = (split.maps(part, database.simulation) for part in ("train", "validation", "test"))
signal = "brightness_temp_z10"
training = MapPipeline(database, (signal,), "parameters", train, 16, seed=0, augment=augment_periodic_squares)
validating = MapPipeline(database, (signal,), "parameters", validation, 16, seed=0)

# %% From mK to parameters in their own units, with ``fit`` of Keras.
image, parameters = fit_normalization(database.scan(), signal, train), database.targets(train)
network = AstroNet(
    database.fields[signal].shape,
    encoder_widths=WIDTHS,
    widths=(64, 64),
    padding="periodic",
    input_mean=image.mean,
    input_standard_deviation=image.standard_deviation,
    output_mean=parameters.mean(axis=0),
    output_standard_deviation=parameters.std(axis=0),
)
network.compile(keras.optimizers.Adam(1e-3), StandardizedMeanSquaredError(parameters.std(axis=0)), jit_compile=False)
steps = training.steps_per_epoch
network.fit(
    training.training(0, EPOCHS * steps),
    validation_data=validating.evaluation(),
    epochs=EPOCHS,
    steps_per_epoch=steps,
    shuffle=False,
    verbose=0,
)

# %% R2 on maps of boxes that were never seen, beside ridge regression on moments, quantiles and power spectrum.
maps, true = database.read(signal, test)[..., None], database.targets(test)
predicted = network.predict(maps, verbose=0)
ridge = MapStatisticsRidge().fit(database.read(signal, train)[..., None], parameters, database.simulation[train])
metrics = {"network": r2(true, predicted), "baseline": r2(true, ridge.predict(maps))}
for name, score, simple in zip(database.parameter_names, *metrics.values(), strict=True):
    print(f"R2 of {name}: {score:.2f}, ridge regression {simple:.2f}")

# %% Three maps, and the 2 % of their pixels that each parameter depends on most.
rows = np.unique(database.simulation[test], return_index=True)[1][:3]
derivatives = saliency(network, maps[rows])[..., 0]  # each parameter's unit per mK
titles = [
    f"log10 L_X = {found:.2f} (simulated: {simulated:.2f})"
    for found, simulated in zip(predicted[rows, 0], true[rows, 0], strict=True)
]
figure = saliency_pixels(maps[rows, ..., 0], derivatives, database.parameters, database.cell_size, titles=titles)
figure.savefig(FOLDER / "figure.png", dpi=50)
network.save(FOLDER / "model.keras")
