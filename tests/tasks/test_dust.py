import csv
import dataclasses
import functools
import json
import re

import healpy
import keras
import numpy as np
import pytest
import small_skies
import tensorflow as tf

from keras_cosmo.data.database import Database
from keras_cosmo.data.sky_areas import half_sky
from keras_cosmo.statistics.cutout_correlation import band_correlations
from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.dust import PRESETS, DustTask
from keras_cosmo.tasks.dust_measures import velocity_importance
from keras_cosmo.tasks.settings import settings_from

SIZES = {
    "cutout_cells": 16,
    "pixel_size": 93.6,
    "widths": (4, 8),
    "bottleneck": 8,
    "batch_size": 8,
    "train_cutouts": 24,
    "test_cutouts": 20,
    "validation_cutouts": 8,
}
FLAGS = ["--epochs", "2", "--fractions", "0.5", "0.25", "0.25"]
for name, value in SIZES.items():
    FLAGS += ["--" + name.replace("_", "-"), *map(str, value if isinstance(value, tuple) else (value,))]
SMALL = dataclasses.replace(PRESETS["quick"], **SIZES, fractions=(0.5, 0.25, 0.25), epochs=1)


def run(folder, *flags):
    return main(DustTask(), [*map(str, flags), "--saved-models", str(folder / "saved_models")])


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return Database(small_skies.write(tmp_path_factory.mktemp("data") / "skies.h5"))


@pytest.fixture(scope="module")
def one_sky(tmp_path_factory):
    return small_skies.write(tmp_path_factory.mktemp("one") / "sky.h5", fields=small_skies.skies(1))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    data = small_skies.write(folder / "skies.h5")
    assert run(folder, "--data", data, "--out", folder / "run", *FLAGS) == 0
    return folder


def test_paper_preset_is_the_paper():
    preset = PRESETS["paper"]
    assert (preset.nside, preset.cutout_cells, preset.pixel_size, preset.most_masked) == (1024, 64, 23.4, 0.7)
    assert (preset.train_cutouts, preset.test_cutouts, preset.train_area) == (50000, 1000, "north")
    assert (preset.correlation_weight, preset.dropout, preset.batch_size, preset.epochs) == (30.0, 0.3, 64, 40)
    assert (preset.centres, preset.interpolation, preset.estimator, preset.weights) == (
        "fixed",
        "nearest",
        "modes",
        "last",
    )
    task = DustTask()
    (schedule,) = task.callbacks(preset)
    rates = [schedule.schedule(epoch, None) for epoch in (0, 9, 10, 39)]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 1e-4, 1e-6])
    model = task.model(preset, None, None, "float32")
    assert model.count_params() == 31_072_769 + 11_776
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)


CHANGES = {
    "skies": 5,
    "nside": 32,
    "dust_law": "linear",
    "uncorrelated": 0.1,
    "fractions": (0.25, 0.5, 0.25),
    "train_area": "east",
    "validation_sector": 90.0,
    "train_cutouts": 32,
    "test_cutouts": 10,
    "validation_cutouts": 9,
    "centres": "fixed",
    "cutout_cells": 20,
    "pixel_size": 80.0,
    "interpolation": "bilinear",
    "most_masked": 0.02,
    "widths": (4, 4),
    "bottleneck": 4,
    "dropout": 0.2,
    "batch_normalization_momentum": 0.5,
    "correlation_weight": 3.0,
    "study": (0.0, 3.0),
    "difference_units": 5.0,
    "estimator": "bands",
    "mean_subtracted": True,
    "learning_rate": 1e-4,
    "learning_rate_period": 1,
    "learning_rate_factor": 0.5,
    "batch_size": 4,
    "epochs": 7,
    "weights": "best",
    "ridge": 0.1,
}


@functools.cache
def everything(preset, database):
    """All that a preset decides, as comparable values."""
    task = DustTask()
    prepared = task.prepare(preset, database, seed=1)
    model = task.model(preset, database, prepared.normalization, "float32")
    (schedule,) = task.callbacks(preset)
    return {
        "simulator": task.simulator(preset),
        "count": task.simulations(preset),
        "split": str(prepared.split.to_json()),
        "first step": [array.tolist() for array in prepared.training.load(1)],
        "epoch": prepared.training.steps_per_epoch,
        "validation": prepared.validation.cutouts.latitude.tolist(),
        "test": prepared.test_cutouts.latitude.tolist(),
        "normalization": prepared.normalization,
        "model": {key: value for key, value in model.get_config().items() if key != "name"},
        "loss": model.loss.get_config(),
        "rates": [schedule.schedule(epoch, None) for epoch in range(9)],
        "run": (preset.epochs, preset.study, task.keeps_best(preset), preset.ridge),
    }


def test_every_field_is_moved():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(SMALL)}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_matters(name, database):
    changed = dataclasses.replace(SMALL, **{name: CHANGES[name]})
    assert everything(changed, database) != everything(SMALL, database)


def test_ridge_reaches_the_linear_combination(database):
    from keras_cosmo.tasks.dust_measures import LINEAR, fit_linear_models

    weights = []
    for ridge in (1e-8, 1.0):
        preset = dataclasses.replace(SMALL, ridge=ridge)
        prepared = DustTask().prepare(preset, database, seed=1)
        weights.append(fit_linear_models(DustTask(), preset, prepared)[LINEAR].weights)
    assert np.square(weights[1]).sum() < 0.9 * np.square(weights[0]).sum()


@pytest.mark.parametrize("area", ["north", "south", "east", "west"])
def test_training_never_sees_what_is_tested(database, area):
    """Neither a sky of the test, nor its half of the sky."""
    task, preset = DustTask(), dataclasses.replace(SMALL, train_area=area)
    prepared = task.prepare(preset, database, seed=1)
    split, grid = prepared.split, task.grid(preset)
    assert split.by_sky
    assert not set(split.train) & set(split.test)
    test = prepared.test_cutouts
    tested = np.unique(grid.pixels(small_skies.NSIDE, test.longitude, test.latitude, test.rotation))
    for cutouts in (prepared.training.cutouts, prepared.training.step_cutouts(5), prepared.validation.cutouts):
        seen = grid.pixels(small_skies.NSIDE, cutouts.longitude, cutouts.latitude, cutouts.rotation)
        assert not np.intersect1d(seen, tested).size
    assert set(prepared.training.cutouts.sky) == set(split.train)
    assert set(test.sky) == set(split.test)


def test_one_sky_is_divided_by_area_alone(one_sky):
    preset = dataclasses.replace(SMALL, validation_sector=90.0)
    prepared = DustTask().prepare(preset, Database(one_sky), seed=1)
    assert not prepared.split.by_sky
    pixels = {
        name: np.unique(
            DustTask().grid(preset).pixels(small_skies.NSIDE, cutouts.longitude, cutouts.latitude, cutouts.rotation)
        )
        for name, cutouts in (
            ("train", prepared.training.cutouts),
            ("validation", prepared.validation.cutouts),
            ("test", prepared.test_cutouts),
        )
    }
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not np.intersect1d(pixels[one], pixels[other]).size


def test_normalization_comes_from_the_training_area(tmp_path):
    """Of one sky: the unmasked north; what the south holds does not matter."""
    fields = small_skies.skies(1)
    preset = dataclasses.replace(SMALL, train_area="north")
    database = Database(small_skies.write(tmp_path / "a.h5", fields=fields))
    found = DustTask().prepare(preset, database, seed=0).normalization
    north = half_sky(DustTask().areas(preset, small_skies.NSIDE)["train"], small_skies.NSIDE)
    seen = north & (fields["mask"][0] > 0.5)
    np.testing.assert_allclose(
        found["input_scale"], np.sqrt(np.mean(fields["hi_cube"][0][seen] ** 2, axis=0)), rtol=1e-5
    )
    assert found["output_scale"] == pytest.approx(fields["dust"][0][seen].std(), rel=1e-5)
    for name in ("hi_cube", "dust"):
        fields[name][0, ~north] *= 10.0
    other = Database(small_skies.write(tmp_path / "b.h5", fields=fields))
    assert DustTask().prepare(preset, other, seed=0).normalization == found


def test_run_folder(done):
    folder = done / "run"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test_cutouts"] == 20
    assert metrics["paper/wins/r50"] == 0.764
    assert 1.0 < metrics["independent_patches"] < 20.0
    assert metrics["effective_cutouts/r50"] > 0
    for name in ("", "baseline/linear/", "baseline/scale_dependent_linear/"):
        assert metrics[f"{name}difference/r50"] == pytest.approx(
            metrics[f"{name}r50"] - metrics["baseline/integrated/r50"], abs=1e-6
        )
    assert metrics["baseline/linear/r50"] > metrics["baseline/integrated/r50"]
    expected = {"cutouts", "realisations", "correlation", "transfer", "linear_weights", "velocity_importance"}
    expected |= {"velocity_profile", "sky_areas", "loss_history"}
    assert {path.stem for path in (folder / "figures").glob("*.png")} == expected
    with (folder / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert {"loss", "r50", "r150", "difference", "val_r50"} <= set(history[0])
    # Equation 2.3 from its terms.
    row = {key: float(value) for key, value in history[1].items()}
    assert row["loss"] == pytest.approx(30.0 * (2.0 - row["r50"] - row["r150"]) + row["difference"], rel=1e-4)


def test_metrics_are_those_of_the_saved_network(done):
    """r50 of the file of cutouts, from the SavedModel and the skies, by hand."""
    folder = done / "run"
    with (folder / "cutouts.csv").open() as file:
        rows = list(csv.DictReader(file))
    grid = DustTask().grid(SMALL)
    fields = small_skies.skies()
    (version,) = (done / "saved_models" / "dust").iterdir()
    serve = tf.saved_model.load(str(version)).signatures["serving_default"]
    for row in rows[:3]:
        where = [float(row[key]) for key in ("longitude", "latitude", "rotation")]
        pixels = grid.pixels(small_skies.NSIDE, *where)
        cube, dust, mask = (fields[name][int(row["sky"])][pixels].astype(np.float32) for name in fields)
        found = serve(hi_cube=tf.constant((cube * mask[..., None])[None]))["dust"].numpy()[0]
        r = band_correlations((dust * mask)[None], (found * mask)[None], 93.6)[0]
        np.testing.assert_allclose(r, [float(row["network_r50"]), float(row["network_r150"])], atol=1e-3)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["r50"] == pytest.approx(np.mean([float(row["network_r50"]) for row in rows]), rel=1e-5)
    wins = np.mean([float(row["network_r50"]) > float(row["integrated_r50"]) for row in rows])
    assert metrics["wins/r50"] == pytest.approx(wins)


def test_saved_model_takes_other_sizes_and_refuses_odd_ones(done):
    (version,) = (done / "saved_models" / "dust").iterdir()
    serve = tf.saved_model.load(str(version)).signatures["serving_default"]
    assert serve(hi_cube=tf.zeros((2, 32, 24, small_skies.CHANNELS)))["dust"].shape == (2, 32, 24)
    with pytest.raises(tf.errors.InvalidArgumentError, match="hi_cube: expected sides that are multiples of 4 pixels"):
        serve(hi_cube=tf.zeros((1, 18, 16, small_skies.CHANNELS)))


def test_removed_velocities_that_carry_the_dust_are_missed(database):
    """A network that reads one channel alone loses all when that one is taken out, and nothing else."""
    inputs = keras.Input((None, None, small_skies.CHANNELS))
    model = keras.Model(inputs, inputs[..., 2:3])
    prepared = DustTask().prepare(SMALL, database, seed=1)
    drop = velocity_importance(DustTask(), SMALL, model, prepared)["drop"]["r50"]
    assert int(np.argmax(drop)) == 2
    np.testing.assert_allclose(np.delete(drop, 2), 0.0, atol=1e-6)
    assert drop[2] > 0.1


@pytest.mark.usefixtures("no_export")
def test_study_compares_weights(tmp_path, database, capsys):
    flags = ["--data", database.path, "--out", tmp_path / "study", *FLAGS, "--epochs", "1", "--study", "0", "30"]
    assert run(tmp_path, *flags) == 0
    metrics = json.loads((tmp_path / "study" / "metrics.json").read_text())
    assert metrics["weight-0/r50"] != metrics["weight-30/r50"]
    assert metrics["weight-0/baseline/linear/r50"] == metrics["weight-30/baseline/linear/r50"]
    assert "Weight of the correlations in the loss" in capsys.readouterr().out
    assert (tmp_path / "study" / "figures" / "correlation_weights.png").is_file()
    config = json.loads((tmp_path / "study" / "weight-0" / "config.json").read_text())
    assert config["settings"]["preset"]["correlation_weight"] == 0.0
    report = (tmp_path / "study" / "report.html").read_text()
    for part in ("What this is not", "What was run", "--study 0.0 30.0", "by sky (2 training", "How to cite"):
        assert part in report


@pytest.mark.usefixtures("undrawn_figures", "no_export")
def test_start_from_a_run_that_saw_the_test_is_refused(tmp_path, one_sky, capsys):
    flags = ["--data", one_sky, *FLAGS, "--epochs", "1"]
    assert run(tmp_path, *flags, "--out", tmp_path / "north") == 0
    start = ["--start-from", tmp_path / "north"]
    capsys.readouterr()
    assert run(tmp_path, *flags, *start, "--out", tmp_path / "b", "--train-area", "south") == 1
    expected = "was trained on the north of a sky, and this run tests there"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    assert run(tmp_path, *flags, *start, "--out", tmp_path / "c") == 0


def test_start_from_the_same_sky_prepared_anew_is_refused(tmp_path, one_sky, capsys):
    """There is one real sky: another low-pass or dust map of it has another checksum and is still the same sky."""
    fields = small_skies.skies(1)
    other = small_skies.write(tmp_path / "other.h5", fields={**fields, "dust": 1.001 * fields["dust"]})
    assert run(tmp_path, "--data", one_sky, *FLAGS, "--epochs", "1", "--out", tmp_path / "north") == 0
    flags = ["--data", other, *FLAGS, "--start-from", tmp_path / "north", "--train-area", "south"]
    assert run(tmp_path, *flags, "--out", tmp_path / "south") == 1
    assert "was trained on the north of a sky, and this run tests there" in capsys.readouterr().err


def test_a_sky_seen_at_another_resolution_is_recognised(tmp_path, done):
    """The embedded sky of one seed is the same at every nside."""
    from keras_cosmo.tasks.seen_simulations import seen_simulations

    config = json.loads((done / "run" / "config.json").read_text())
    seeds = {"simulator": "embedded", "seeds": np.arange(4)}
    first = small_skies.write(tmp_path / "a.h5", **seeds)
    fields = {name: np.repeat(array, 4, axis=1) for name, array in small_skies.skies().items()}
    finer = Database(small_skies.write(tmp_path / "b.h5", fields=fields, nside=32, cell_size=110.0, **seeds))
    config["data"] |= {"path": str(first), "fingerprint": "another"}
    expected = set(config["split"]["train"]) | set(config["split"]["validation"])
    assert seen_simulations(config, finer, finer.scan().fingerprint) == expected


def test_other_low_pass_is_warned_of(tmp_path, done, caplog):
    data = small_skies.write(tmp_path / "other.h5", low_pass_ell=30.0)
    run(tmp_path, "--data", data, "--out", tmp_path / "a", *FLAGS, "--epochs", "1", "--start-from", done / "run")
    assert "was trained on skies of low_pass_ell 0, now 30" in caplog.text


def test_apodised_masks_change_nothing_but_where_they_end(tmp_path):
    """Dust that is a sum of channels is predicted exactly by the linear model, whatever the weights of the mask."""
    from keras_cosmo.tasks.dust_measures import LINEAR, fit_linear_models, predict

    fields = small_skies.skies()
    _, latitude = healpy.pix2ang(small_skies.NSIDE, np.arange(fields["mask"].shape[1]), lonlat=True)
    fields["mask"] = np.broadcast_to(np.clip((np.abs(latitude) - 15.0) / 15.0, 0.0, 1.0), fields["dust"].shape)
    fields["dust"] = fields["hi_cube"] @ np.arange(1.0, 7.0)
    database = Database(small_skies.write(tmp_path / "apodised.h5", fields=fields))
    task, preset = DustTask(), dataclasses.replace(SMALL, ridge=0.0)
    prepared = task.prepare(preset, database, seed=1)
    linear = fit_linear_models(task, preset, prepared)
    part = predict(task, preset, lambda hi, training: hi[..., :1], linear, prepared, "test", 20)
    np.testing.assert_allclose(linear[LINEAR].weights, np.arange(1.0, 7.0), rtol=1e-3)
    np.testing.assert_allclose(part.predicted[LINEAR], part.true, rtol=1e-3, atol=1e-2)


def test_a_network_without_structure_loses(database):
    """A constant prediction has no correlation: it counts as 0, and no cutout is left out."""
    prepared = DustTask().prepare(SMALL, database, seed=1)
    inputs = keras.Input((None, None, small_skies.CHANNELS))
    model = keras.Model(inputs, 0.0 * inputs[..., :1])
    metrics = DustTask().evaluate(SMALL, model, prepared, 0).metrics
    assert metrics["r50"] == metrics["wins/r50"] == 0.0
    assert metrics["cutouts_without_structure"] == metrics["test_cutouts"] == 20
    assert metrics["baseline/linear/cutouts_without_structure"] == 0
    assert metrics["over_linear/difference/r50"] == pytest.approx(-metrics["baseline/linear/r50"])


def test_null_is_the_mask(tmp_path):
    """Unrelated maps: no correlation without a mask, some with one and a mean that is far from zero."""
    from keras_cosmo.tasks.dust_measures import NETWORK, Part, null_correlations

    generator = np.random.default_rng(0)
    maps = 5.0 + generator.normal(size=(2, 200, 16, 16))
    everywhere, half = np.ones((200, 16, 16)), np.ones((200, 16, 16))
    half[:, :, :6] = 0.0
    found = [
        null_correlations(SMALL, Part(None, maps[0] * mask, mask, {NETWORK: maps[1] * mask}, None))["r50"]
        for mask in (everywhere, half)
    ]
    assert abs(found[0]) < 0.03
    assert found[1] > 0.06


def test_bilinear_run_reaches_its_end(tmp_path, one_sky):
    flags = ["--data", one_sky, *FLAGS, "--epochs", "1", "--interpolation", "bilinear", "--train-area", "west"]
    assert run(tmp_path, *flags, "--out", tmp_path / "run") == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert not any(name.startswith("paper/") for name in metrics)


def test_start_from_other_channels_is_refused(tmp_path, done, capsys):
    data = small_skies.write(tmp_path / "other.h5", velocities=np.linspace(-50.0, 15.0, small_skies.CHANNELS))
    assert run(tmp_path, "--data", data, "--out", tmp_path / "a", *FLAGS, "--start-from", done / "run") == 1
    assert "takes 6 channels from -60 to 15 km/s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cutout-cells", "18"], "--cutout-cells 18: with 2 --widths cutouts must have a multiple of 4"),
        (["--study", "3", "3"], "--study: expected values that differ"),
        (["--nside", "100"], "--nside: expected a power of two, got 100"),
        (["--validation-sector", "10"], "--validation-sector 10: sector: 10 degrees wide"),
        (["--pixel-size", "300"], "cutouts of 80 deg; expected at most 60.0 deg"),
        (["--pixel-size", "5"], "cutouts have multipoles from 270 to 2160"),
    ],
)
def test_flags_that_exclude_each_other(flags, message):
    arguments = {"widths": [4, 8], "cutout_cells": 16, "pixel_size": 93.6}
    name, *values = flags
    kind = {"--nside": int, "--cutout-cells": int}.get(name, float)
    values = [kind(value) for value in values]
    arguments[name[2:].replace("-", "_")] = values if name == "--study" else values[0]
    with pytest.raises(ValueError, match=re.escape(message)):
        settings_from(DustTask(), arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "matter"}, "expected a database of task 'dust', got task 'matter'"),
        ({"ordering": "NESTED"}, "expected ordering 'RING', got 'NESTED'"),
        ({"velocities": None}, "expected root attributes that say ['velocities']"),
        ({"units": {**small_skies.UNITS, "dust": "mK"}}, "/maps/dust: expected the unit 'uK_RJ', got 'mK'"),
    ],
)
def test_data_that_do_not_fit(tmp_path, changes, message):
    database = Database(small_skies.write(tmp_path / "bad.h5", **changes))
    with pytest.raises(ValueError, match=re.escape(message)):
        DustTask().prepare(SMALL, database, seed=0)


def test_masked_sky_and_dust_that_does_not_vary(tmp_path):
    fields = small_skies.skies()
    _, latitude = healpy.pix2ang(small_skies.NSIDE, np.arange(fields["mask"].shape[1]), lonlat=True)
    database = Database(
        small_skies.write(tmp_path / "a.h5", fields={**fields, "mask": fields["mask"] * (latitude > 0)})
    )
    with pytest.raises(ValueError, match=r"random cutouts in .* have at most 70% of their pixels masked"):
        DustTask().prepare(SMALL, database, seed=0)
    flat = Database(small_skies.write(tmp_path / "b.h5", fields={**fields, "dust": np.ones_like(fields["dust"])}))
    with pytest.raises(ValueError, match="the dust does not vary over the north of the training skies"):
        DustTask().prepare(SMALL, flat, seed=0)
