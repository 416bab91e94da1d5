# ruff: noqa: T201
# %% [markdown]
# # Matter behind 21-cm maps
#
# The U-Net of [Villanueva-Domingo & Villaescusa-Navarro 2021](https://arxiv.org/abs/2006.14305) draws the matter from
# a 21-cm map at redshift 15, here of small boxes that are simulated first.

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
from keras_cosmo.figures.matter import reconstruction
from keras_cosmo.losses import StandardizedMeanSquaredError
from keras_cosmo.models.matter_unet import MatterUNet
from keras_cosmo.models.wiener_filter import WienerFilter
from keras_cosmo.simulations.coeval import CoevalSimulator
from keras_cosmo.statistics.spectra import compare_spectra, over_maps

SIMULATIONS, EPOCHS, WIDTHS = 150, 6, (8, 16, 32)
FOLDER = pathlib.Path("runs/examples/matter")
FOLDER.mkdir(parents=True, exist_ok=True)
keras.utils.set_random_seed(0)

# %% Periodic boxes of 48 Mpc, cut into slabs: the 21-cm signal in mK, and the overdensity of the same slab.
simulator = CoevalSimulator(box_cells=32, slabs=8, redshifts=(15.0,))
database = Database(run_campaign(simulator, FOLDER / "boxes.h5", count=SIMULATIONS, design="latin-hypercube"))
split = split_by_simulation(database.simulation, (0.8, 0.1, 0.1))
train, validation, test = (split.maps(part, database.simulation) for part in ("train", "validation", "test"))
signal, matter = fields = "brightness_temp_z15", "density_z15"


def batches(maps, augment=None):
    """Pairs of 21-cm maps and matter maps."""
    return MapPipeline(database, (signal,), (matter,), maps, 16, seed=0, augment=augment)


# %% The U-Net, from mK to overdensity, with ``fit`` of Keras.
scan = database.scan()
signals, matters = (fit_normalization(scan, field, train) for field in fields)
unet = MatterUNet(
    widths=WIDTHS,
    padding="periodic",
    input_mean=signals.mean,
    input_standard_deviation=signals.standard_deviation,
    output_mean=matters.mean,
    output_standard_deviation=matters.standard_deviation,
)
loss = StandardizedMeanSquaredError([matters.standard_deviation])
unet.compile(keras.optimizers.Adam(2e-3), loss, jit_compile=False)
pairs = batches(train, augment_periodic_squares)
steps = pairs.steps_per_epoch
unet.fit(
    pairs.training(0, EPOCHS * steps),
    validation_data=batches(validation).evaluation(),
    epochs=EPOCHS,
    steps_per_epoch=steps,
    shuffle=False,
    verbose=0,
)

# %% Overdensity of unseen boxes, beside the best linear filter.
maps, true = database.read(signal, test)[..., None], database.read(matter, test)
wiener = WienerFilter().fit((x.numpy(), y.numpy()) for x, y in batches(train).evaluation())
predicted = {"U-Net": unet.predict(maps, verbose=0)[..., 0], "Wiener filter": wiener.predict(maps)[..., 0]}
metrics = {}
for name, overdensity in predicted.items():
    spectra = compare_spectra(true, overdensity, database.cell_size).at([0.7])
    correlation = over_maps(spectra.correlation, database.simulation[test])
    metrics[name] = correlation.mean[0]
    print(f"{name}: r(k = 0.7 / Mpc) = {correlation.mean[0]:.3f} ± {correlation.standard_error[0]:.3f}")

# %% The map with the largest contrast: a prediction is an overdensity, as the truth is.
row = int(np.argmax(true.std(axis=(1, 2))))
print(f"densest cell: 1 + overdensity = {1 + true[row].max():.2f}, predicted {1 + predicted['U-Net'][row].max():.2f}")
figure = reconstruction(
    maps[row, ..., 0],
    true[row],
    predicted["U-Net"][row],
    database.cell_size,
    redshift=15.0,
    baseline=predicted["Wiener filter"][row],
)
figure.savefig(FOLDER / "figure.png", dpi=50)
unet.save(FOLDER / "model.keras")
