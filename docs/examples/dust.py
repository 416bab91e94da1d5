# ruff: noqa: T201
# %% [markdown]
# # Dust from the Galactic HI velocity cube
#
# The U-Net of [Zhang et al. 2019](https://arxiv.org/abs/1904.13265) predicts the dust of cutouts of the sky from the
# velocities of the gas. Here the sky is simulated, and coarse.

# %%
import pathlib

import keras
import numpy as np

from keras_cosmo.data.campaign import run_campaign
from keras_cosmo.data.database import Database
from keras_cosmo.data.sky_areas import north_south, smallest_guard
from keras_cosmo.data.sky_pipeline import SkyPipeline, draw_cutouts
from keras_cosmo.data.sky_split import split_skies
from keras_cosmo.figures.dust import cutouts as draw_cutout_maps
from keras_cosmo.gnomonic import GnomonicGrid
from keras_cosmo.losses import CorrelationLoss
from keras_cosmo.models.dust_unet import DustUNet
from keras_cosmo.models.integrated_intensity import IntegratedIntensity
from keras_cosmo.models.linear_combination import LinearCombination
from keras_cosmo.simulations.galactic import GalacticSkySimulator
from keras_cosmo.statistics.cutout_correlation import band_correlations
from keras_cosmo.training.trainer import Trainer

NSIDE, CUTOUTS, EPOCHS, WIDTHS = 128, 640, 8, (8, 16, 32)
FOLDER = pathlib.Path("runs/examples/dust")
FOLDER.mkdir(parents=True, exist_ok=True)
keras.utils.set_random_seed(0)

# %% Five skies of 16 velocities: the north of three to train, of one to validate, the south of the last to test.
database = Database(run_campaign(GalacticSkySimulator(nside=NSIDE, channels=16), FOLDER / "skies.h5", count=5))
split = split_skies(database.n_simulations, (0.6, 0.2, 0.2), 0, "north", "south")
grid = GnomonicGrid(side=32, pixel_size=46.8)
north, south = north_south(smallest_guard(grid, NSIDE))


def batches(skies, area, count, **options):
    """Random cutouts of one part, made when they are needed."""
    return SkyPipeline(database, draw_cutouts(database, skies, area, grid, count, seed=0), grid, 16, seed=0, **options)


training = batches(split.train, north, CUTOUTS, fresh=True)
validating, testing = batches(split.validation, north, 64), batches(split.test, south, 64)

# %% From K in every channel to uK_RJ; the loss is the paper's correlations and mean absolute difference.
hi, target = (np.concatenate(arrays) for arrays in zip(*(training.load(step) for step in range(4)), strict=True))
scale = float(target[..., 0].std())
network = DustUNet(
    hi.shape[-1],
    widths=WIDTHS,
    bottleneck=64,
    input_scale=np.sqrt((hi**2).mean(axis=(0, 1, 2))),
    output_scale=scale,
    batch_normalization_momentum=0.9,
    seed=0,
)
network.compile(keras.optimizers.Adam(2e-3), CorrelationLoss(grid.pixel_size, difference_unit=scale / 10.0))
trainer = Trainer(network, FOLDER / "run")
trainer.fit(training, validating, epochs=EPOCHS)
trainer.load_best()

# %% Correlations of large and small structure on unseen sky, beside the sum and the best combination of channels.
hi, target = (np.concatenate(arrays) for arrays in zip(*testing.evaluation(), strict=True))
true, mask = target[..., 0], target[..., 1]
seen = [training.load(step) for step in range(training.steps_per_epoch)]
models = {"integrated intensity": IntegratedIntensity().fit(seen), "linear combination": LinearCombination().fit(seen)}
predicted = {name: model.predict(hi) * mask for name, model in models.items()}
predicted["U-Net"] = network.predict(hi, verbose=0)[..., 0] * mask
metrics = {}
for name, dust in predicted.items():
    metrics[name] = np.nanmean(band_correlations(true, dust, grid.pixel_size), axis=0)
    difference = np.abs(dust - true)[mask > 0].mean()
    print("{}: r50 = {:.3f}, r150 = {:.3f}, difference {:.0f} uK_RJ".format(name, *metrics[name], difference))

# %% The cutout with the most sky in it.
row = int(np.argmax(mask.sum(axis=(1, 2))))
images = {name: dust[row] for name, dust in predicted.items()}
figure = draw_cutout_maps(true[row], images, grid.pixel_size, mask[row])
figure.savefig(FOLDER / "figure.png", dpi=50)
network.save(FOLDER / "model.keras")
