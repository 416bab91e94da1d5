import dataclasses
import functools

import numpy as np
import pytest
import small_lightcones

from keras_cosmo.data.database import Database
from keras_cosmo.models.baselines import GlobalSignalRidge
from keras_cosmo.tasks.regression import PRESETS, RegressionTask

SMALL = dataclasses.replace(PRESETS["quick"], batch_size=8, epochs=1)
TASK = RegressionTask()


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return Database(small_lightcones.write(tmp_path_factory.mktemp("data") / "cones.h5"))


@functools.cache
def everything(preset, database):
    """All that a preset decides, as comparable values."""
    prepared = TASK.prepare(preset, database, seed=1)
    model = TASK.model(preset, database, prepared.normalization, "float32")
    evaluation = TASK.evaluate(preset, model, prepared, seed=1)
    return {
        "simulator": TASK.simulator(preset),
        "count": TASK.simulations(preset),
        "split": prepared.split.to_json(),
        "batch": (prepared.training.batch_size, prepared.validation.indices.tolist()),
        "augmented": prepared.training.load(0)[0].sum(axis=(1, 2)).tolist(),
        "first rows": prepared.training.load(0)[0][:, 0, 0].tolist(),
        "model": {key: value for key, value in model.get_config().items() if key != "name"},
        "learning_rate": float(model.optimizer.learning_rate),
        "callbacks": [(callback.patience, callback.factor) for callback in TASK.callbacks(preset)],
        "epochs": preset.epochs,
        "trained": [weight.path for weight in model.trainable_weights],
        "metrics": sorted(evaluation.metrics),
        "scored": evaluation.arrays["true"].shape,
    }


CHANGES = {
    "simulations": 12,
    "images_per_simulation": 3,
    "n_perp": 33,
    "n_los": 600,
    "z_min": 7.0,
    "z_max": 20.0,
    "fractions": (0.5, 0.25, 0.25),
    "evaluation_images": 2,
    "average_images": False,
    "filters": (4, 8),
    "kernel_size": 8,
    "pool_size": 1,
    "dense_units": (32, 8),
    "dropout": 0.4,
    "learning_rate": 1e-4,
    "batch_size": 4,
    "epochs": 7,
    "plateau_patience": 9,
    "plateau_factor": 0.1,
    "augmentation": "none",
    "frozen": ("convolution_1",),
}


def test_every_field_is_moved():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(SMALL)}


@pytest.mark.parametrize("field", CHANGES)
def test_moving_a_field_changes_something(field, database):
    assert getattr(SMALL, field) != CHANGES[field]
    before = everything(SMALL, database)
    after = everything(dataclasses.replace(SMALL, **{field: CHANGES[field]}), database)
    assert before != after


def test_paper_preset_has_the_numbers_of_the_paper():
    paper = PRESETS["paper"]
    assert (paper.simulations, paper.images_per_simulation, paper.batch_size, paper.epochs) == (10_000, 10, 200, 100)
    assert (paper.plateau_patience, paper.plateau_factor, paper.fractions) == (5, 0.5, (0.8, 0.1, 0.1))
    model = TASK.model(paper, None, None, "float32")
    assert sum(weight.shape.num_elements() for weight in model.trainable_weights) == 10_023_604
    assert type(model.optimizer).__name__ == "RMSprop"
    assert TASK.callbacks(paper)[0].monitor == "loss"


def test_normalisation_comes_from_the_training_part_alone(database):
    prepared = TASK.prepare(SMALL, database, seed=1)
    training = prepared.split.maps("train", database.simulation)
    maps = database.read("brightness_temp", training).astype("float64")
    constants = prepared.normalization
    np.testing.assert_allclose(constants["brightness_temp"]["mean"], maps.mean(), rtol=1e-6)
    np.testing.assert_allclose(constants["brightness_temp"]["standard_deviation"], maps.std(), rtol=1e-6)
    np.testing.assert_allclose(constants["parameters"]["mean"], database.targets(training).mean(0))
    everything_mean = database.read("brightness_temp", np.arange(database.n_maps)).astype("float64").mean()
    assert abs(everything_mean / maps.mean() - 1) > 1e-4, "the test could not tell the training part from all"


def test_no_simulation_is_in_two_parts(database):
    split = TASK.prepare(SMALL, database, seed=1).split
    parts = [
        set(database.simulation[split.maps(part, database.simulation)]) for part in ("train", "validation", "test")
    ]
    assert sum(map(len, parts)) == len(set.union(*parts)) == database.n_simulations


def test_averaging_slices_is_scored_beside_single_images(database):
    prepared = TASK.prepare(SMALL, database, seed=1)
    model = TASK.model(SMALL, database, prepared.normalization, "float32")
    evaluation = TASK.evaluate(SMALL, model, prepared, seed=1)
    metrics, columns = evaluation.metrics, evaluation.columns["predictions"]
    both = np.stack([columns["zeta_predicted"][0::2], columns["zeta_predicted"][1::2]])
    true = columns["zeta_true"][0::2]
    by_hand = 1 - ((both.mean(0) - true) ** 2).sum() / ((true - true.mean()) ** 2).sum()
    np.testing.assert_allclose(metrics["averaged/r2/zeta"], by_hand)
    np.testing.assert_allclose(
        metrics["averaged/standard_error/zeta"], (both.std(0, ddof=1) / np.sqrt(2)).mean(), rtol=1e-6
    )
    assert "baseline/r2/E_0" in metrics


def test_bad_data(tmp_path):
    tiny = small_lightcones.write(tmp_path / "tiny.h5", shape=(20, 70))
    with pytest.raises(ValueError, match=r"at least 31 cells a side, got \(20, 70\)"):
        TASK.prepare(SMALL, Database(tiny), 0)
    few = small_lightcones.write(tmp_path / "few.h5", simulations=2)
    with pytest.raises(ValueError, match="simulations"):
        TASK.prepare(SMALL, Database(few), 0)
    other = small_lightcones.write(tmp_path / "other.h5", task="matter")
    with pytest.raises(ValueError, match="regression"):
        TASK.prepare(SMALL, Database(other), 0)


def test_the_baseline_is_fitted_to_an_even_part_of_very_many_maps(database, monkeypatch):
    seen = []
    fit = GlobalSignalRidge.fit
    monkeypatch.setattr(
        GlobalSignalRidge, "fit", lambda self, *data: (seen.append([len(data[0]), *data[1:]]), fit(self, *data))[1]
    )
    prepared = TASK.prepare(SMALL, database, seed=1)
    whole = prepared.split.maps("train", database.simulation)
    TASK.baseline(prepared)
    monkeypatch.setattr("keras_cosmo.tasks.regression.BASELINE_MAPS", 16)
    TASK.baseline(prepared)
    assert [rows for rows, _, _ in seen] == [len(whole), 16]
    np.testing.assert_array_equal(seen[0][1], database.targets(whole))
    # One image of every other simulation.
    np.testing.assert_array_equal(seen[1][2], np.unique(database.simulation[whole])[::2])
