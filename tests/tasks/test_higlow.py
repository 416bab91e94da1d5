import csv
import dataclasses
import functools
import json
import re
import types

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import small_hydrogen
import tensorflow as tf

from keras_cosmo.data.database import Database
from keras_cosmo.inference.posterior import GridPosterior
from keras_cosmo.models.gaussian_field import GaussianField
from keras_cosmo.models.moment_network import MomentNetwork
from keras_cosmo.quantities import Parameter
from keras_cosmo.statistics.calibration import fit_temperature
from keras_cosmo.statistics.posterior_convolution import PosteriorConvolution
from keras_cosmo.tasks import higlow_measures as measures
from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.higlow import PRESETS, HIGlowTask
from keras_cosmo.tasks.higlow_signatures import posterior_points, signatures
from keras_cosmo.tasks.settings import settings_from
from keras_cosmo.training.inversion_monitor import InversionMonitor

SIZES = {
    "blocks": 1,
    "steps": 1,
    "width": 4,
    "batch_size": 8,
    "posterior_maps": 2,
    "grid_cells": 8,
    "generated_maps": 2,
    "moment_epochs": 1,
    "epochs": 2,
}
FRACTIONS = (0.5, 0.25, 0.25)
FLAGS = ["--fractions", *map(str, FRACTIONS)]
for name, value in SIZES.items():
    FLAGS += ["--" + name.replace("_", "-"), str(value)]
SMALL = dataclasses.replace(PRESETS["quick"], **SIZES, fractions=FRACTIONS, map_cells=16, data_start=False)
NAMES = ("Omega_m", "sigma_8")
SIX = (*small_hydrogen.PARAMETERS, *(Parameter(name=name, low=-1.0, high=1.0) for name in "abcd"))
OUTSIDE = small_hydrogen.values()
OUTSIDE[3, 1] = 1.2


def run(folder, *flags):
    return main(HIGlowTask(), [*map(str, flags), "--saved-models", str(folder / "saved_models")])


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return Database(small_hydrogen.write(tmp_path_factory.mktemp("data") / "hydrogen.h5"))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    data = small_hydrogen.write(folder / "hydrogen.h5")
    assert run(folder, "--data", data, "--out", folder / "run", *FLAGS) == 0
    return folder


@pytest.fixture(scope="module")
def metrics(done):
    return json.loads((done / "run" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def served(done):
    (version,) = (done / "saved_models" / "higlow").iterdir()
    return tf.saved_model.load(str(version)).signatures


@pytest.fixture(scope="module")
def tested(done):
    """Test maps, parameters and simulations of the run."""
    task, database = HIGlowTask(), Database(done / "hydrogen.h5")
    prepared = task.prepare(SMALL, database, json.loads((done / "run" / "config.json").read_text())["settings"]["seed"])
    return task.chosen(SMALL, prepared, "test")


class KnownModel:
    """In the place of a trained flow: a likelihood of the mean of the map, and maps that are given."""

    def __init__(self, generated=None):
        self.generated = generated

    def log_prob(self, maps, parameters):
        mean = np.log10(maps).mean(axis=(1, 2))
        return -0.5 * ((mean - 5.0 + 2.0 * parameters[:, 0]) / 0.1) ** 2

    def sample(self, parameters, n, seed):
        maps = small_hydrogen.maps(parameters, n, seed=int(seed[0])).reshape(len(parameters), n, 16, 16)
        return np.moveaxis(maps, 0, 1) if self.generated is None else self.generated(np.moveaxis(maps, 0, 1))

    def latent(self, maps, parameters):
        return maps

    def from_latent(self, latent, parameters):
        return latent


def test_paper_preset_is_the_paper():
    preset, task = PRESETS["paper"], HIGlowTask()
    assert (preset.simulations, preset.map_cells, preset.blocks, preset.steps, preset.width) == (1000, 64, 6, 20, 16)
    assert (preset.epochs, preset.batch_size, preset.injector, preset.final_block) == (1000, 64, "scalar", False)
    assert (preset.transform, preset.symmetries, preset.conditional_prior, preset.data_start) == (
        "log10-minmax",
        "random",
        False,
        False,
    )
    model = task.model(preset, None, None, "float32")
    assert model.map_shape == (64, 64)
    assert model.parameter_names == NAMES
    assert (tuple(model.parameter_low), tuple(model.parameter_high)) == ((0.1, 0.6), (0.5, 1.0))
    assert [(block.channels, block.steps, block.width) for block in model.glow_blocks] == [
        (4 * 2**index, 20, 16) for index in range(6)
    ]
    assert float(model.optimizer.learning_rate) == pytest.approx(3e-4)
    assert model.optimizer.global_clipnorm == 2.0
    monitor, plateau = task.callbacks(preset)
    assert isinstance(monitor, InversionMonitor)
    assert (plateau.monitor, plateau.factor, plateau.patience, plateau.min_lr) == ("val_loss", 0.8, 10, 1e-5)
    assert task.paper_values(preset) == {"rmse/Omega_m": 0.058, "rmse/sigma_8": 0.065}


CHANGES = {
    "simulations": 9,
    "map_cells": 32,
    "redshift": 5.0,
    "fractions": (0.25, 0.5, 0.25),
    "transform": "log10-standardise",
    "blocks": 2,
    "steps": 2,
    "width": 3,
    "final_block": True,
    "injector": "scalar",
    "conditional_prior": True,
    "data_start": True,
    "symmetries": "none",
    "learning_rate": 1e-4,
    "gradient_norm": 1.0,
    "schedule": "plateau",
    "plateau_factor": 0.4,
    "plateau_patience": 3,
    "smallest_learning_rate": 1e-6,
    "batch_size": 4,
    "epochs": 7,
    "posterior_maps": 3,
    "grid_cells": 6,
    "generated_maps": 3,
    "moment_epochs": 0,
}


# These say nothing under the other schedule.
SCHEDULES = dict.fromkeys(("plateau_factor", "plateau_patience"), "plateau")


@functools.cache
def everything(preset, database):
    """All that a preset decides, as comparable values."""
    task = HIGlowTask()
    prepared = task.prepare(preset, database, seed=1)
    keras.utils.set_random_seed(1)
    model = task.model(preset, database, prepared.normalization, "float32")
    monitor, decay = task.callbacks(preset)
    assert isinstance(monitor, InversionMonitor)
    chosen = task.chosen(preset, prepared, "test")
    (posterior,) = measures.grid(preset, KnownModel().log_prob, chosen[0][:1], database.parameters)
    gaussian = types.SimpleNamespace(sample=lambda values, n, seed: np.ones((len(values), n, 16, 16)))
    return {
        "simulator": task.simulator(preset),
        "count": task.simulations(preset),
        "split": prepared.split.to_json(),
        "first step": [array.tolist() for array in prepared.training.load(1)],
        "epoch": prepared.training.steps_per_epoch,
        "normalization": prepared.normalization,
        "model": {key: value for key, value in model.get_config().items() if key != "name"},
        "weights": [float(np.abs(weight).sum()) for weight in model.get_weights()],
        "optimizer": (float(model.optimizer.learning_rate), model.optimizer.global_clipnorm),
        "decay": (
            [decay.schedule(epoch) for epoch in range(2)]
            if preset.schedule == "cosine"
            else (decay.factor, decay.patience, decay.min_lr)
        ),
        "tested": chosen[2].tolist(),
        "grid": posterior.log_likelihood.shape,
        "generated": measures.generate(preset, KnownModel(), gaussian, prepared, task, 0)["generated_simulation"].size,
        "run": (preset.epochs, preset.moment_epochs),
    }


def test_every_field_is_moved():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(SMALL)}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_matters(name, database):
    base = dataclasses.replace(SMALL, schedule=SCHEDULES.get(name, SMALL.schedule))
    changed = dataclasses.replace(base, **{name: CHANGES[name]})
    assert everything(changed, database) != everything(base, database)


def test_cosine_schedule():
    preset = dataclasses.replace(SMALL, schedule="cosine", learning_rate=1e-2, smallest_learning_rate=1e-4, epochs=4)
    monitor, decay = HIGlowTask().callbacks(preset)
    assert isinstance(monitor, InversionMonitor)
    half = (1e-2 + 1e-4) / 2
    assert [decay.schedule(epoch) for epoch in (0, 2, 4)] == pytest.approx([1e-2, half, 1e-4])


def test_run_folder(done, metrics):
    folder = done / "run"
    assert (metrics["test_maps"], metrics["test_simulations"], metrics["epochs"]) == (6, 3, 2)
    assert metrics["paper/rmse/Omega_m"] == 0.058
    for begin in ("", "corrected/", "baseline/gaussian_field/", "baseline/gaussian_field/corrected/"):
        for name in NAMES:
            assert metrics[f"{begin}rmse/{name}"] > 0
            assert metrics[f"{begin}rmse_standard_error/{name}"] > 0
            assert 0 <= metrics[f"{begin}coverage_68/{name}"] <= 1
    assert metrics["baseline/moment_network/rmse/Omega_m"] > 0
    assert metrics["inversion_error"] < 1e-3
    # Hardly trained, but with the start from the data none should fail.
    assert metrics["failed_samples"] == 0.0
    assert metrics["training_maps_searched"] == 1.0
    for kind in ("power_mean", "power_scatter"):
        assert metrics[f"{kind}_error"] >= abs(metrics[f"{kind}_bias"])
        assert metrics[f"{kind}_error_standard_error/small"] > 0
    assert np.isfinite(metrics["conditional_power_bias/large"])
    assert np.isfinite(metrics["moment_mean_bias/mean"])
    assert metrics["correction/temperature"] > 0
    assert metrics["correction/error/Omega_m"] > 0
    assert metrics["prior_rms/Omega_m"] == pytest.approx(0.4 / np.sqrt(12.0))
    expected = {"generated_maps", "spectra", "conditional_spectra", "pixel_distributions", "calibration", "posteriors"}
    expected |= {"estimated_against_true", "nearest_training_maps", "loss_history"}
    assert {path.stem for path in (folder / "figures").glob("*.png")} == expected
    with (folder / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert len(history) == 2
    assert {"loss", "val_loss", "learning_rate"} <= set(history[0])
    report = (folder / "report.html").read_text()
    assert "Posterior of 6 unseen maps of 3 simulations" in report
    assert "Errors are over simulations" in report
    for key in ("rmse{}/Omega_m", "baseline/gaussian_field/rmse{}/sigma_8"):
        assert f"{metrics[key.format('')]:.3f} ± {metrics[key.format('_standard_error')]:.3f}" in report
    without_error = f"{abs(metrics['log_posterior_at_truth']):.2f}"
    assert without_error in report
    assert f"{without_error} ±" not in report


def test_metrics_are_those_of_the_saved_network(done, metrics, served, tested):
    """Densities and posterior means of the test maps, from the SavedModel; errors from the file of posteriors."""
    maps, true, simulation = tested
    found = served["log_prob"](maps=tf.constant(maps), parameters=tf.constant(true, tf.float32))["log_prob"]
    assert metrics["log_prob_per_pixel"] == pytest.approx(np.mean(found) / 256, rel=1e-5)
    with (done / "run" / "posteriors.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["simulation"]) for row in rows] == simulation.tolist()
    answer = {key: value.numpy() for key, value in served["posterior"](maps=tf.constant(maps)).items()}
    mass = np.exp(answer["log_mass"])
    np.testing.assert_allclose(mass.sum(axis=1), 1.0, rtol=1e-4)
    np.testing.assert_allclose(answer["effective_sample_size"], 1.0 / np.sum(mass**2, axis=1), rtol=1e-4)
    as_trained = scipy.special.log_softmax(answer["log_likelihood"].astype(float), axis=1)
    temperature = metrics["correction/temperature"]
    error = np.array([metrics[f"correction/error/{name}"] for name in NAMES])
    sharp = scipy.special.softmax(temperature * as_trained, axis=1)
    correlation = metrics["correction/correlation/Omega_m/sigma_8"]
    covariance = np.outer(error, error) * [[1.0, correlation], [correlation, 1.0]]
    # The convolution as a plain sum over all pairs of points.
    kernel = scipy.stats.multivariate_normal([0.0, 0.0], covariance)
    offsets = answer["points"][0][:, None].astype(float) - answer["points"][0][None]
    expected = sharp @ kernel.pdf(offsets)
    np.testing.assert_allclose(mass, expected / expected.sum(axis=1, keepdims=True), rtol=0.02, atol=1e-5)
    weighted = np.einsum("bn,bnp->bp", mass, answer["points"])
    np.testing.assert_allclose(answer["mean"], weighted, rtol=1e-4)
    spread = answer["points"] - weighted[:, None]
    deviation = np.sqrt(np.einsum("bn,bnp->bp", mass, spread**2))
    np.testing.assert_allclose(answer["standard_deviation"], deviation, atol=2e-4)
    axes = [p.low + (np.arange(8) + 0.5) * (p.high - p.low) / 8 for p in small_hydrogen.PARAMETERS]
    np.testing.assert_allclose(np.unique(answer["points"][0, :, 0]), axes[0], rtol=1e-6)
    for row, log_mass, values in zip(rows, as_trained, true, strict=True):
        posterior = GridPosterior(axes, log_mass.reshape(8, 8))
        for column, name in enumerate(NAMES):
            assert float(row[f"{name}_true"]) == pytest.approx(values[column], rel=1e-6)
            assert float(row[f"{name}_mean"]) == pytest.approx(posterior.mean[column], rel=1e-3)
            width = float(row[f"{name}_standard_deviation"])
            assert width == pytest.approx(posterior.standard_deviation[column], rel=0.01)
    for name in NAMES:
        for begin, suffix in (("", ""), ("corrected/", "_corrected"), ("baseline/gaussian_field/", "_gaussian_field")):
            error = [float(row[f"{name}_mean{suffix}"]) - float(row[f"{name}_true"]) for row in rows]
            assert metrics[f"{begin}rmse/{name}"] == pytest.approx(np.sqrt(np.mean(np.square(error))), rel=1e-4)


def test_points_of_the_posterior():
    parameters = small_hydrogen.PARAMETERS
    assert len(posterior_points(parameters, 20)) == 400
    assert len(posterior_points(parameters, 1000)) == 1600
    assert len(posterior_points(parameters[:1], 1000)) == 1000
    more = small_hydrogen.MORE_PARAMETERS
    points = posterior_points(more, 20)
    assert points.shape == (2048, len(more))
    # Each of 16 equal parts of every range holds its share, as in no random sample.
    for column, parameter in enumerate(more):
        shares = np.histogram(points[:, column], 16, (parameter.low, parameter.high))[0]
        np.testing.assert_allclose(shares, 128, atol=1)


def test_samples_of_the_saved_network(served):
    """Every row from its own seed, whatever else is in the batch."""
    parameters = tf.constant([[0.3, 0.8]] * 3, tf.float32)
    seeds = tf.constant([[1, 2], [1, 3], [1, 2]])
    maps = served["sample"](parameters=parameters, seed=seeds)["maps"].numpy()
    assert maps.shape == (3, 16, 16)
    np.testing.assert_array_equal(maps[0], maps[2])
    assert not np.array_equal(maps[0], maps[1])
    alone = served["sample"](parameters=parameters[:1], seed=seeds[1:2])["maps"].numpy()
    np.testing.assert_allclose(alone[0], maps[1], rtol=1e-4)


def test_the_parts_share_no_simulation(database):
    prepared = HIGlowTask().prepare(SMALL, database, seed=1)
    split = prepared.split
    assert set(database.simulation[prepared.training.indices]) == set(split.train)
    assert set(database.simulation[prepared.validation.indices]) == set(split.validation)
    assert set(HIGlowTask().chosen(SMALL, prepared, "test")[2]) == set(split.test)
    assert not set(split.test) & ({*split.train} | {*split.validation})


def other_maps(path, database, ids, factor):
    """The same database with the maps of some simulations brighter."""
    everything = database.read("hi", np.arange(database.n_maps))
    everything[np.isin(database.simulation, ids)] *= factor
    return Database(small_hydrogen.write(path, fields={"hi": everything}))


def test_constants_and_start_come_from_the_training_part(tmp_path, database):
    task = HIGlowTask()
    prepared = task.prepare(SMALL, database, seed=1)
    logarithm = np.log10(database.read("hi", prepared.training.indices))
    np.testing.assert_allclose(
        prepared.normalization["transform_constants"], [logarithm.min(), logarithm.max()], rtol=1e-5
    )
    start = prepared.normalization["start_maps"]
    assert set(database.simulation[start]) == set(prepared.split.train)
    unseen = [*prepared.split.validation, *prepared.split.test]
    other = other_maps(tmp_path / "other.h5", database, unseen, 100.0)
    assert task.prepare(SMALL, other, seed=1).normalization == prepared.normalization
    models, preset = [], dataclasses.replace(SMALL, data_start=True)
    for each in (database, other):
        keras.utils.set_random_seed(1)
        models.append(task.model(preset, each, prepared.normalization, "float32"))
    for one, two in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, two)
    # Behind each injector the training maps have mean 0 and variance 1.
    latent = models[0].latent(database.read("hi", start), database.targets(start)).numpy()
    assert abs(latent.mean()) < 0.1
    assert 0.7 < latent.std() < 1.1


@pytest.fixture
def spied(monkeypatch):
    """What the baselines are fitted to."""
    seen = {"field": [], "network": [], "temperature": []}
    fit, update = GaussianField.fit, MomentNetwork.train_on_batch

    def spy_fit(self, maps, parameters):
        seen["field"].append(np.array(maps))
        return fit(self, maps, parameters)

    def spy_update(self, maps, parameters):
        seen["network"].append((np.sort(maps.sum(axis=(1, 2))), parameters))
        return update(self, maps, parameters)

    def spy_temperature(posteriors, true, simulation, **options):
        seen["temperature"].append(np.array(simulation))
        return fit_temperature(posteriors, true, simulation, **options)

    monkeypatch.setattr(GaussianField, "fit", spy_fit)
    monkeypatch.setattr(MomentNetwork, "train_on_batch", spy_update)
    monkeypatch.setattr("keras_cosmo.statistics.calibration.fit_temperature", spy_temperature)
    return seen


def test_nothing_is_fitted_to_the_test(tmp_path, database, spied):
    """Baselines see training maps alone, the temperature is that of validation maps, and all are judged on the test."""
    task = HIGlowTask()
    prepared = task.prepare(SMALL, database, seed=1)
    split = prepared.split
    first = task.evaluate(SMALL, KnownModel(), prepared, 0)
    np.testing.assert_array_equal(spied["field"][0], database.read("hi", prepared.training.indices))
    known = {tuple(row) for row in database.parameter_values[split.train].astype(np.float32)}
    assert {tuple(row) for _, parameters in spied["network"] for row in parameters} == known
    assert all(set(simulation) == set(split.validation) for simulation in spied["temperature"])
    assert set(first.arrays["simulation"]) == set(split.test)
    samples = first.arrays["samples"]
    assert set(samples["simulation"]) == set(samples["ids"]) == set(samples["generated_simulation"]) == set(split.test)
    np.testing.assert_array_equal(samples["parameters"], database.parameter_values[samples["ids"]])

    other = other_maps(tmp_path / "other.h5", database, split.test, 1.5)
    second = task.evaluate(SMALL, KnownModel(), task.prepare(SMALL, other, seed=1), 0)
    for key in ("temperature", "baseline/gaussian_field/temperature"):
        assert first.metrics[key] == second.metrics[key]
    half = len(spied["network"]) // 2
    for (one, _), (two, _) in zip(spied["network"][:half], spied["network"][half:], strict=True):
        np.testing.assert_array_equal(one, two)
    assert first.metrics["rmse/Omega_m"] < second.metrics["rmse/Omega_m"]


def test_temperature_widens_posteriors_that_are_too_narrow(database):
    """A likelihood counted four times."""

    class Narrow(KnownModel):
        def log_prob(self, maps, parameters):
            return 4.0 * super().log_prob(maps, parameters)

    preset = dataclasses.replace(SMALL, moment_epochs=0, grid_cells=16)
    prepared = HIGlowTask().prepare(preset, database, seed=1)
    found = [HIGlowTask().evaluate(preset, model, prepared, 0).metrics for model in (KnownModel(), Narrow())]
    assert not any(key.startswith("baseline/moment_network") for key in found[0])
    assert found[1]["temperature"] == pytest.approx(found[0]["temperature"] / 4.0, rel=0.02)
    assert found[1]["corrected/rmse/Omega_m"] == pytest.approx(found[0]["corrected/rmse/Omega_m"], rel=0.2)
    widths = [each["corrected/posterior_standard_deviation/Omega_m"] for each in found]
    assert widths[1] == pytest.approx(widths[0], rel=0.3)
    assert found[1]["posterior_standard_deviation/Omega_m"] < 0.7 * found[0]["posterior_standard_deviation/Omega_m"]


def test_errors_are_over_simulations():
    """More maps that repeat what the others of their simulation say make no error smaller."""
    error, ids = np.random.default_rng(0).normal(size=40), np.arange(40)
    few = measures.error_scores(error, ids, "a")
    many = measures.error_scores(np.repeat(error, 15), np.repeat(ids, 15), "a")
    assert many == pytest.approx(few)
    # Of the root mean square of n normal numbers: 1 / sqrt(2 n).
    assert few["rmse_standard_error/a"] == pytest.approx(1.0 / np.sqrt(80.0), rel=0.4)


def half_failed(maps):
    maps = maps.copy()
    maps[0, :, 3, 3] = np.nan
    return maps


@pytest.mark.parametrize(("failing", "rate"), [(lambda maps: np.full_like(maps, np.nan), 1.0), (half_failed, 0.5)])
def test_failed_samples_are_counted(database, failing, rate):
    preset = dataclasses.replace(SMALL, moment_epochs=0)
    task, model = HIGlowTask(), KnownModel(failing)
    prepared = task.prepare(preset, database, seed=1)
    evaluation = task.evaluate(preset, model, prepared, 0)
    assert evaluation.metrics["failed_samples"] == rate
    assert evaluation.metrics["baseline/gaussian_field/failed_samples"] < 0.5
    assert np.isnan(evaluation.metrics["power_mean_error"]) == (rate == 1.0)
    assert np.isfinite(evaluation.metrics["baseline/gaussian_field/power_mean_error"])
    history = {"loss": [2.0, 1.0], "val_loss": [2.0, 1.5], "learning_rate": [1e-3, 1e-3]}
    figures = task.figures(preset, model, prepared, evaluation, history)
    assert ("nearest_training_maps" in figures) == (rate < 1.0)
    assert "generated_maps" in figures


def test_samples_far_out_of_range_have_failed(database):
    preset = dataclasses.replace(SMALL, moment_epochs=0)
    prepared = HIGlowTask().prepare(preset, database, seed=1)
    found = HIGlowTask().evaluate(preset, KnownModel(lambda maps: 1e4 * maps), prepared, 0).metrics
    assert found["failed_samples"] == 1.0
    # They are left out nowhere: all their pixels lie beyond the last bin of the true ones.
    assert found["pixel_distance"] > 1.0
    assert found["moment_mean_bias/mean"] > 0


def test_many_test_simulations():
    """As many as the paper's: every simulation that is looked at for copies has generated and unseen maps."""
    known = small_hydrogen.values(100)
    true = small_hydrogen.maps(known, 15, 8)
    copies = true.reshape(100, 15, 8, 8)[:, :2].reshape(-1, 8, 8)
    ids = np.repeat(np.arange(100), 15), np.repeat(np.arange(100), 2)
    samples = {
        "true": true,
        "simulation": ids[0],
        "ids": np.arange(100),
        "generated_simulation": ids[1],
        measures.FLOW: copies,
        measures.FIELD: np.roll(copies, 3, axis=1),
    }
    training = np.concatenate([small_hydrogen.maps(known, 3, 8, seed=9), copies])
    database = types.SimpleNamespace(cell_size=1.0)
    compared = measures.compare_samples(SMALL, samples, database, training)
    scores = measures.sample_scores(compared, measures.FLOW)
    assert 32 <= len(compared["generated"]) <= 128
    assert scores["probability_nearer_to_training"] > 0.6
    np.testing.assert_allclose(compared["memorization"].generated.distance, 0.0, atol=1e-3)


def test_every_map_counts_once(tmp_path):
    """Simulations with fewer maps than are asked for give all they have."""
    known = small_hydrogen.values()
    fields = {"hi": small_hydrogen.maps(known, 3)}
    database = Database(small_hydrogen.write(tmp_path / "few.h5", known=known, fields=fields))
    preset = dataclasses.replace(SMALL, posterior_maps=15)
    prepared = HIGlowTask().prepare(preset, database, seed=1)
    maps, _, simulation = HIGlowTask().chosen(preset, prepared, "test")
    assert len(maps) == 9
    assert len({image.tobytes() for image in maps}) == 9
    assert np.bincount(simulation)[prepared.split.test].tolist() == [3, 3, 3]


def test_more_parameters_than_a_grid_is_good_for(tmp_path):
    parameters = small_hydrogen.MORE_PARAMETERS
    database = Database(small_hydrogen.write(tmp_path / "more.h5", parameters=parameters))
    preset = dataclasses.replace(SMALL, moment_epochs=0)
    task, model = HIGlowTask(), KnownModel()
    prepared = task.prepare(preset, database, seed=1)
    evaluation = task.evaluate(preset, model, prepared, 0)
    metrics = evaluation.metrics
    # The likelihood knows Omega_m alone.
    assert metrics["posterior_standard_deviation/Omega_m"] == pytest.approx(0.05, abs=0.015)
    assert metrics["posterior_standard_deviation/log10_A_SN1"] == pytest.approx(
        metrics["prior_rms/log10_A_SN1"], rel=0.1
    )
    history = {"loss": [2.0, 1.0], "val_loss": [2.0, 1.5], "learning_rate": [1e-3, 1e-3]}
    assert 1 < metrics["effective_samples/least"] <= metrics["effective_samples/median"]
    assert metrics["effective_samples/below_100"] == 0.0
    figures = task.figures(preset, model, prepared, evaluation, history)
    assert len(figures["posteriors"][0].axes) == len(parameters) ** 2


def test_six_parameters(tmp_path):
    """From the training to the saved network, as CAMELS has them."""
    known = small_hydrogen.values(simulations=24, parameters=SIX)
    data = small_hydrogen.write(tmp_path / "six.h5", parameters=SIX, known=known)
    flags = ["--data", data, "--out", tmp_path / "run", *FLAGS, "--epochs", "1", "--moment-epochs", "0"]
    assert run(tmp_path, *flags) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["effective_samples/least"] > 1
    assert (tmp_path / "run" / "figures" / "posteriors.png").exists()
    assert "effective samples, least" in (tmp_path / "run" / "report.html").read_text()
    saved = tf.saved_model.load(str(tmp_path / "saved_models" / "higlow" / "1"))
    maps = Database(data).read("hi", [0, 1])
    answer = {key: value.numpy() for key, value in saved.signatures["posterior"](maps=tf.constant(maps)).items()}
    assert answer["points"].shape == (2, 2048, 6)
    expected = np.einsum("bn,bnp->bp", np.exp(answer["log_mass"]), answer["points"])
    np.testing.assert_allclose(answer["mean"], expected, atol=1e-3)
    assert np.all(answer["effective_sample_size"] > 1)


def test_points_without_a_likelihood_have_no_mass(tmp_path, database):
    class Broken(KnownModel):
        def log_prob(self, maps, parameters):
            mean = tf.reduce_mean(maps, axis=(1, 2))
            return tf.where(parameters[:, 0] > 0.3, np.nan, -mean / 1e6 * parameters[:, 1])

    prepared = HIGlowTask().prepare(SMALL, database, seed=1)
    ends = [[getattr(parameter, end) for parameter in database.parameters] for end in ("low", "high")]
    correction = PosteriorConvolution(1.0, np.diag([1e-4, 1e-4]), *ends)
    posterior = signatures(HIGlowTask(), SMALL, Broken(), prepared, correction)["posterior"]
    answer = posterior.function(tf.constant(database.read("hi", [0])))
    mass = np.exp(answer["log_mass"])[0]
    assert mass.sum() == pytest.approx(1.0, rel=1e-5)
    # What reaches over there is the error of the parameters.
    assert mass[answer["points"][0, :, 0] > 0.35].sum() < 1e-6
    assert np.isnan(answer["log_likelihood"]).any()
    assert float(answer["mean"][0, 0]) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    ("side", "expected"), [(64, (16, 32, 64, 128)), (250, (16,)), (24, (16, 32, 64)), (256, (16, 32, 64, 128))]
)
def test_moment_network_fits_every_size(side, expected):
    widths = measures.moment_widths(side)
    assert widths == expected
    assert MomentNetwork((side, side), NAMES, 0.0, 1.0, widths=widths).map_shape == (side, side)


@pytest.mark.parametrize(
    ("simulations", "parameters", "degree"), [(12, 2, 2), (11, 2, 1), (56, 6, 2), (5, 2, 0), (1, 2, 0)]
)
def test_degree_is_what_the_simulations_determine(simulations, parameters, degree):
    assert measures.degree_of(simulations, parameters) == degree


@pytest.mark.usefixtures("undrawn_figures", "no_export")
def test_start_from_a_run_keeps_its_transform(tmp_path, done):
    """On fewer maps, in another range of parameters: constants and ranges stay those of the weights."""
    narrow = tuple(dataclasses.replace(p, low=p.low - 0.01, high=p.high + 0.01) for p in small_hydrogen.PARAMETERS)
    known = small_hydrogen.values()
    data = small_hydrogen.write(
        tmp_path / "few.h5", known=known, fields={"hi": small_hydrogen.maps(known, 2, seed=8)}, parameters=narrow
    )
    flags = ["--data", data, *FLAGS, "--epochs", "1", "--moment-epochs", "0"]
    assert run(tmp_path, *flags, "--start-from", done / "run", "--out", tmp_path / "next") == 0
    before, now = (
        json.loads((folder / "config.json").read_text())["normalization"]
        for folder in (done / "run", tmp_path / "next")
    )
    for key in ("transform", "transform_constants", "parameter_low", "parameter_high"):
        assert before[key] == now[key]
    assert before["parameter_low"] == [0.1, 0.6]
    assert max(now["start_maps"]) < 24
    network = keras.models.load_model(tmp_path / "next" / "model.keras", compile=False)
    assert list(network.parameter_low) == [0.1, 0.6]
    assert list(network.transform_constants) == before["transform_constants"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--transform", "log10-standardise"], "has --transform log10-minmax, this run log10-standardise. Choose the"),
        (["--steps", "3"], "has other weights than this one: start from a run with the same --blocks --steps --width"),
        (["--seed", "5"], "was trained on simulations that this run would test on"),
    ],
)
def test_start_from_what_does_not_fit_is_refused(tmp_path, done, capsys, flags, message):
    start = ["--data", done / "hydrogen.h5", *FLAGS, "--start-from", done / "run", *flags]
    assert run(tmp_path, *start, "--out", tmp_path / "run") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"map_cells": 24, "blocks": 4}, "--map-cells 24: with --blocks 4 maps must have a multiple of 16 pixels"),
        ({"posterior_maps": 16}, "--posterior-maps 16: a simulation has 15 maps."),
    ],
)
def test_flags_that_exclude_each_other(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        settings_from(HIGlowTask(), arguments)


KNOWN = small_hydrogen.values()
PLAIN = small_hydrogen.maps(KNOWN)


def with_zero():
    maps = PLAIN.copy()
    maps[7, 3, 3] = 0.0
    return maps


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ({"task": "matter"}, {}, "expected a database of task 'higlow', got task 'matter'"),
        ({"fields": {"hi": PLAIN[:, :, :12]}}, {}, "expected square maps with a multiple of 2 pixels on a side"),
        ({"fields": {"hi": PLAIN[:, :15, :15]}}, {}, "for --blocks 1, got (15, 15). Convert them to another --side"),
        ({"fields": {"a": PLAIN, "b": PLAIN}}, {}, "expected the field 'hi' or one field only, got ['a', 'b']"),
        ({"parameters": (), "known": KNOWN}, {}, "maps without parameters; a conditional flow needs some."),
        ({"cell_size": None}, {}, "expected the root attribute 'cell_size', which spectra need."),
        ({"fields": {"hi": with_zero()}}, {}, "1 of 60 maps of hi have pixels that are zero or negative"),
        ({"fields": {"hi": with_zero()}}, {"transform": "none"}, "zero or negative, of which no logarithm can be"),
        ({"periodic_across_sky": None}, {}, "these maps are not periodic (root attribute 'periodic_across_sky')"),
        ({"known": OUTSIDE}, {}, "sigma_8 of 5 maps lies outside of its range, 0.6 to 1"),
        (
            {"known": small_hydrogen.values(parameters=SIX), "parameters": SIX},
            {"fractions": (0.4, 0.3, 0.3)},
            "4 simulations in the training cannot tell 6 parameters apart",
        ),
        ({}, {"fractions": (0.8, 0.1, 0.1)}, "12 simulations leave 1 for validation and 1 for the test"),
    ],
)
def test_data_that_do_not_fit(tmp_path, content, changes, message):
    database = Database(small_hydrogen.write(tmp_path / "bad.h5", **content))
    with pytest.raises(ValueError, match=re.escape(message)):
        HIGlowTask().prepare(dataclasses.replace(SMALL, **changes), database, seed=0)


def test_maps_beyond_a_bounded_transform(tmp_path, database):
    preset = dataclasses.replace(SMALL, transform="log10-logit")
    unseen = HIGlowTask().prepare(SMALL, database, seed=1).split.test
    other = other_maps(tmp_path / "other.h5", database, unseen, 100.0)
    with pytest.raises(ValueError, match="of 60 maps of hi have pixels beyond all training maps, where a flow with"):
        HIGlowTask().prepare(preset, other, seed=1)


def test_other_data_that_fit(tmp_path):
    """Another field alone; maps that are not periodic, as they are."""
    database = Database(small_hydrogen.write(tmp_path / "a.h5", fields={"mgas": PLAIN}, periodic_across_sky=None))
    prepared = HIGlowTask().prepare(dataclasses.replace(SMALL, symmetries="none"), database, seed=1)
    maps, _ = prepared.training.load(0)
    np.testing.assert_array_equal(maps, database.read("mgas", prepared.training.step_indices(0)))
