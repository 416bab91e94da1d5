# ruff: noqa: T201
# %% [markdown]
# # Two emission lines in one intensity map
#
# The network of [Moriwaki et al. 2020](https://arxiv.org/abs/2002.07991) tells Halpha at z = 1.3 from [OIII] at
# z = 2.0, which an instrument at 1.5 um sees as one map. The paper trains it against discriminators, which takes long;
# here they are left out (``adversarial_weight=0``; leave out the argument to have them).

# %%
import pathlib

import keras
import numpy as np

from keras_cosmo.data.augmentation import augment_squares
from keras_cosmo.data.campaign import run_campaign
from keras_cosmo.data.database import Database
from keras_cosmo.data.mixture_pipeline import MixturePipeline
from keras_cosmo.data.splits import split_by_simulation
from keras_cosmo.figures.separation import maps as draw_maps
from keras_cosmo.models.line_separator import LineSeparator
from keras_cosmo.models.wiener_filter import WienerFilter
from keras_cosmo.simulations.line_intensity import LineIntensitySimulator
from keras_cosmo.statistics.line_maps import separation_scores
from keras_cosmo.training.trainer import Trainer

SIMULATIONS, EPOCHS, WIDTH = 1500, 8, 12
FOLDER = pathlib.Path("runs/examples/separation")
FOLDER.mkdir(parents=True, exist_ok=True)
keras.utils.set_random_seed(0)

# %% Maps of 12.75 arcmin, each line by itself; a batch adds maps of both lines, in ever new pairs.
lines, fields = ("halpha", "oiii"), ("intensity_halpha", "intensity_oiii")
simulator = LineIntensitySimulator(map_cells=32, map_side=0.2125)
database = Database(run_campaign(simulator, FOLDER / "lines.h5", count=SIMULATIONS))
split = split_by_simulation(database.simulation, (0.8, 0.1, 0.1))
train, validation, test = (split.maps(part, database.simulation) for part in ("train", "validation", "test"))
training = MixturePipeline(database, fields, train, 16, seed=0, augment=augment_squares)
validating, testing = (MixturePipeline(database, fields, part, 16, seed=0) for part in (validation, test))

# %% One encoder, one decoder per line; intensities in erg s^-1 cm^-2 sr^-1, in units of their mean inside.
scan = database.scan()
model = LineSeparator(
    training.input_shape,
    lines,
    scale=float(sum(scan.mean[field][train].mean() for field in fields)),
    depth=5,
    width=WIDTH,
    output_activation="softplus",
    adversarial_weight=0.0,
    seed=0,
)
model.compile(keras.optimizers.Adam(5e-4, beta_1=0.5))
Trainer(model, FOLDER / "run").fit(training, validating, epochs=EPOCHS)

# %% Errors on unseen maps, beside the best linear filters.
observed, true = (np.concatenate(arrays) for arrays in zip(*testing.evaluation(), strict=True))
wiener = WienerFilter()
wiener.fit((x.numpy()[..., None], y.numpy()) for x, y in MixturePipeline(database, fields, train, 16, 0).evaluation())
predicted = {"network": model.predict(observed, verbose=0), "baseline": wiener.predict(observed[..., None])}
metrics = {name: separation_scores(true, found, lines, database.cell_size) for name, found in predicted.items()}
for line in lines:
    for name, scores in metrics.items():
        error, correlation = (scores[f"{line}/pixels/{score}"] for score in ("relative_l1", "correlation"))
        print(f"{line}, {name}: mean absolute error / mean {error:.2f}, correlation of pixels {correlation:.2f}")

# %% One map in physical units.
for number, line in enumerate(lines):
    means = true[0, ..., number].mean(), predicted["network"][0, ..., number].mean()
    print("mean intensity of {}: {:.2e} erg s^-1 cm^-2 sr^-1, predicted {:.2e}".format(line, *means))
figure = draw_maps(observed[0], true[0], predicted["network"][0], lines, database.cell_size)
figure.savefig(FOLDER / "figure.png", dpi=50)
model.generator.save(FOLDER / "model.keras")
