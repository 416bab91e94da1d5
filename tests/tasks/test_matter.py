import csv
import dataclasses
import functools
import json
import re
import shutil

import numpy as np
import pytest
import small_coeval
import tensorflow as tf

from keras_cosmo.data.database import Database
from keras_cosmo.statistics.spectra import compare_spectra
from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.matter import PRESETS, MatterTask
from keras_cosmo.tasks.settings import settings_from

TASK = MatterTask()
SMALL = dataclasses.replace(PRESETS["quick"], batch_size=8, epochs=1, widths=(4, 8), redshifts=(15.0,))
FLAGS = ["--epochs", "2", "--batch-size", "8", "--widths", "4", "8"]


def run(folder, *flags):
    return main(TASK, [*map(str, flags), "--saved-models", str(folder / "saved_models")])


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return Database(small_coeval.write(tmp_path_factory.mktemp("data") / "boxes.h5"))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    data = small_coeval.write(folder / "boxes.h5")
    assert run(folder, "--data", data, "--out", folder / "run", *FLAGS, "--epochs", "6") == 0
    return folder


@functools.cache
def everything(preset, database):
    """All that a preset decides, as comparable values."""
    prepared = TASK.prepare(preset, database, seed=1)
    model = TASK.model(preset, database, prepared.normalization, "float32")
    maps, targets = prepared.training.load(3)
    return {
        "simulator": TASK.simulator(preset),
        "count": TASK.simulations(preset),
        "split": str(prepared.split.to_json()),
        "batches": (prepared.training.batch_size, prepared.training.steps_per_epoch),
        "first rows": (maps[:, 0, :3].tolist(), targets[:, 0, :3].tolist()),
        "model": {key: value for key, value in model.get_config().items() if key != "name"},
        "optimizer": {k: v for k, v in model.optimizer.get_config().items() if k != "name"},
        "callbacks": [(callback.patience, callback.factor) for callback in TASK.callbacks(preset)],
        "epochs": preset.epochs,
    }


CHANGES = {
    "simulations": 12,
    "box_cells": 128,
    "cell_size": 2.0,
    "slabs": 8,
    "slab_cells": 2,
    "projection": "sum",
    "redshifts": (10.0,),
    "target_redshifts": (10.0,),
    "fractions": (0.5, 0.25, 0.25),
    "split": "paper",
    "symmetries": "all",
    "shifts": "none",
    "widths": (4, 6),
    "kernel_size": 5,
    "padding": "same",
    "batch_normalization_momentum": 0.5,
    "learning_rate": 1e-4,
    "beta_1": 0.9,
    "beta_2": 0.99,
    "l2": 0.0,
    "batch_size": 4,
    "epochs": 7,
    "plateau_patience": 9,
    "plateau_factor": 0.5,
}


def test_every_field_is_moved():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(SMALL)}


@pytest.mark.parametrize("field", CHANGES)
def test_moving_a_field_changes_something(field, database):
    assert getattr(SMALL, field) != CHANGES[field]
    before = everything(SMALL, database)
    after = everything(dataclasses.replace(SMALL, **{field: CHANGES[field]}), database)
    assert before != after


def test_paper_preset_is_the_paper():
    model = TASK.model(PRESETS["paper"], None, None, "float32")
    assert sum(weight.shape.num_elements() for weight in model.trainable_weights) == 8_562_497
    config = model.optimizer.get_config()
    assert (config["beta_1"], config["beta_2"], config["l2"]) == (0.5, 0.999, 1e-4)


def test_an_epoch_of_the_paper_shows_every_map_in_all_symmetries(database):
    preset = dataclasses.replace(SMALL, symmetries="all", shifts="none")
    training = TASK.prepare(preset, database, seed=1).training
    maps = len(np.unique(training.indices))
    assert len(training.indices) == 8 * maps
    assert {tuple(pair) for pair in zip(training.indices, training.symmetries, strict=True)} == {
        (index, symmetry) for index in np.unique(training.indices) for symmetry in range(8)
    }


def test_normalisation_is_that_of_the_training_part_alone(tmp_path):
    fields, _, simulation = small_coeval.arrays()
    prepared = TASK.prepare(SMALL, Database(small_coeval.write(tmp_path / "a.h5")), seed=1)
    brightness = fields["brightness_temp_z15"][0]
    train = np.isin(simulation, prepared.split.train)
    np.testing.assert_allclose(
        prepared.normalization["brightness_temp_z15"]["mean"], brightness[train].mean(), rtol=1e-5
    )
    # Another test part must not move it.
    brightness[np.isin(simulation, prepared.split.test)] += 1000.0
    path = small_coeval.write(tmp_path / "b.h5", fields={"brightness_temp_z15": (brightness, "mK")})
    assert TASK.prepare(SMALL, Database(path), seed=1).normalization == prepared.normalization


def test_what_a_run_leaves_behind(done):
    folder = done / "run"
    assert {path.stem for path in (folder / "figures").iterdir()} == {
        "slices",
        "reconstruction",
        "spectra",
        "distribution",
        "loss_history",
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["paper/transfer_deviation/k0.7"] == 0.05
    assert metrics["baseline/r2"] > 0.5, "the made-up maps are nearly linear in the density"
    assert (done / "saved_models" / "matter" / "1" / "saved_model.pb").exists()
    report = (folder / "report.html").read_text()
    assert "Wiener filter" in report
    with (folder / "spectra_z15.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"k", "true_power", "network_transfer", "baseline_correlation_standard_error"} <= set(rows[0])


def test_metrics_are_those_of_the_served_model(done):
    """From the SavedModel and the database alone."""
    config = json.loads((done / "run" / "config.json").read_text())
    metrics = json.loads((done / "run" / "metrics.json").read_text())
    database = Database(done / "boxes.h5")
    maps = np.flatnonzero(np.isin(database.simulation, config["split"]["test"]))
    served = tf.saved_model.load(str(done / "saved_models" / "matter" / "1")).signatures["serving_default"]
    predicted = served(brightness_temp=tf.constant(database.read("brightness_temp_z15", maps)))["overdensity"].numpy()
    true = database.read("density_z15", maps)
    np.testing.assert_allclose(metrics["rmse"], np.sqrt(np.mean((predicted - true) ** 2)), rtol=1e-4)
    comparison = compare_spectra(true, predicted, 1.5)
    np.testing.assert_allclose(metrics["correlation/k0.7"], comparison.at(0.7).correlation.mean(), rtol=1e-3)
    np.testing.assert_allclose(metrics["transfer/k0.7"], comparison.at(0.7).transfer.mean(), rtol=1e-3)


def test_served_model_takes_maps_of_other_sizes(done):
    served = tf.saved_model.load(str(done / "saved_models" / "matter" / "1")).signatures["serving_default"]
    assert served(brightness_temp=tf.zeros((2, 24, 32)))["overdensity"].shape == (2, 24, 32)
    with pytest.raises(tf.errors.InvalidArgumentError, match="multiples of 4 cells"):
        served(brightness_temp=tf.zeros((2, 18, 32)))


@pytest.mark.usefixtures("undrawn_figures", "no_export")
def test_interrupted_run_resumed_equals_uninterrupted(done, tmp_path):
    assert run(tmp_path, "--data", done / "boxes.h5", "--out", tmp_path / "run", *FLAGS) == 0
    assert run(tmp_path, "--out", tmp_path / "run", "--resume", "--epochs", "6") == 0
    for name in ("history.csv", "spectra_z15.csv"):
        assert (tmp_path / "run" / name).read_text() == (done / "run" / name).read_text()


def test_several_redshifts_become_channels(done, tmp_path):
    flags = ["--redshifts", "15", "10", "--target-redshifts", "10", "15", "--epochs", "1", "--batch-size", "8"]
    assert run(tmp_path, "--data", done / "boxes.h5", "--out", tmp_path / "run", "--widths", "4", *flags) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"z10/r2", "z15/r2", "baseline/z10/r2", "baseline/z15/r2"} <= set(metrics)
    # Two channels, each a linear map of the density: the Wiener filter sees both.
    assert metrics["baseline/z15/r2"] > 0.7
    served = tf.saved_model.load(str(tmp_path / "saved_models" / "matter" / "1")).signatures["serving_default"]
    assert served(brightness_temp=tf.zeros((2, 16, 16, 2)))["overdensity"].shape == (2, 16, 16, 2)


@pytest.mark.usefixtures("no_export")
def test_the_leaking_split_says_so(done, tmp_path, capsys):
    flags = ["--split", "paper", "--epochs", "1", "--batch-size", "8", "--widths", "4"]
    assert run(tmp_path, "--data", done / "boxes.h5", "--out", tmp_path / "run", *flags) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["split"]["kind"].startswith("leaking")
    report = (tmp_path / "run" / "report.html").read_text()
    assert "LEAKING" in report
    assert "unseen" not in report
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test_maps"] == 72
    capsys.readouterr()
    flags = ["--epochs", "1", "--batch-size", "8", "--widths", "4", "--start-from", tmp_path / "run"]
    assert run(tmp_path, "--data", done / "boxes.h5", "--out", tmp_path / "next", *flags) == 1
    assert "was trained with --split paper, on maps of all simulations" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn_figures", "no_export")
def test_start_from_another_run(done, tmp_path, capsys):
    flags = ["--data", done / "boxes.h5", "--start-from", done / "run", *FLAGS]
    assert run(tmp_path, *flags, "--out", tmp_path / "run", "--learning-rate", "1e-9", "--l2", "0") == 0
    histories = [list(csv.DictReader((p / "run" / "history.csv").read_text().splitlines())) for p in (done, tmp_path)]
    best = min(float(row["val_loss"]) for row in histories[0])
    np.testing.assert_allclose(float(histories[1][0]["val_loss"]), best, rtol=0.2)
    assert run(tmp_path, *flags, "--out", tmp_path / "other", "--redshifts", "10") == 1
    assert "maps redshifts 15.0 to 15.0, this run 10.0 to 10.0" in capsys.readouterr().err
    # With another seed the test would be simulations that the network was trained on.
    assert run(tmp_path, *flags, "--out", tmp_path / "other", "--seed", "1") == 1
    assert re.search(r"trained on simulations that this run would test on .* Use --seed 0", capsys.readouterr().err)
    assert not (tmp_path / "other").exists()


def test_a_start_with_the_same_random_seeds(done, tmp_path):
    """A longer campaign begins with the initial conditions of the shorter one, whatever else differs."""
    import h5py

    start = json.loads((done / "run" / "config.json").read_text())
    paths = [shutil.copy(done / "boxes.h5", tmp_path / "first.h5")]
    paths.append(small_coeval.write(tmp_path / "second.h5", simulations=30, seed=8))
    start["data"]["path"] = str(paths[0])
    prepared = TASK.prepare(SMALL, Database(paths[1]), seed=1)
    settings = settings_from(TASK, {"start_from": done / "run", "data": paths[1], "out": tmp_path / "run"})
    for seeds, refused in ((None, False), (np.arange(30) + 50, False), (np.arange(30), True)):
        for path, these in zip(paths, (np.arange(20), seeds), strict=True):
            with h5py.File(path, "r+") as file:
                if these is not None:
                    file.attrs["seeds"] = these
        prepared.database = Database(paths[1])
        if refused:
            with pytest.raises(ValueError, match="on the same data, or on simulations with seeds of their own"):
                TASK.check_start(settings, start, prepared)
        else:
            TASK.check_start(settings, start, prepared)
    # The seeds of another code mean other boxes.
    with h5py.File(paths[1], "r+") as file:
        file.attrs["simulator"] = "another"
    prepared.database = Database(paths[1])
    TASK.check_start(settings, start, prepared)


def test_a_start_from_maps_of_another_projection_is_noticed(done, tmp_path, caplog):
    """Sums of four cells where the network has learnt means."""
    start = json.loads((done / "run" / "config.json").read_text())
    for factor, warned in ((1.0, False), (4.0, True)):
        fields, _, _ = small_coeval.arrays(seed=5)
        fields = {name: (factor * maps, unit) for name, (maps, unit) in fields.items()}
        path = small_coeval.write(tmp_path / f"{factor}.h5", fields=fields)
        prepared = TASK.prepare(SMALL, Database(path), seed=0)
        settings = settings_from(TASK, {"start_from": done / "run", "data": path, "out": tmp_path / "run"})
        caplog.clear()
        TASK.check_start(settings, start, prepared)
        assert ("are both projected alike" in caplog.text) == warned


def bad_fields():
    fields, _, _ = small_coeval.arrays()
    brightness, density = fields["brightness_temp_z15"][0], fields["density_z15"][0]
    repeated = density.copy()
    repeated[3:6] = density[:3]  # the maps of simulation 1 are those of simulation 0
    return {
        "unit": ({"brightness_temp_z15": (brightness, "K")}, r"expected brightness_temp_z15 in mK, got 'K'"),
        "density unit": ({"density_z15": (density, "g/cm^3")}, r"expected density_z15 in no unit \(overdensity\)"),
        "missing density": ({"density_z15": None}, "missing: .*density_z15"),
        "no such redshift": (
            {"brightness_temp_z15": None},
            r"no maps at redshift 15; there are 10\. Choose among them with --redshifts",
        ),
        "shapes": ({"density_z15": (density[:, :8, :8], "")}, r"square maps of one shape in all fields, got"),
        "divisible": (
            {name: (field[:, :15, :15], unit) for name, (field, unit) in fields.items()},
            "divisible by",
        ),
        "not finite": ({"density_z15": (np.where(density == density[7, 3, 4], np.nan, density), "")}, "map 7"),
        "repeated": (
            {"density_z15": (repeated, ""), "density_z10": (repeated, "")},
            r"simulations with the same initial conditions: 0, 1\.",
        ),
    }


@pytest.mark.parametrize("kind", bad_fields())
def test_bad_data_leaves_no_run_folder(kind, tmp_path, capsys):
    fields, message = bad_fields()[kind]
    if kind == "not finite":
        path = small_coeval.write(tmp_path / "boxes.h5")
        import h5py

        with h5py.File(path, "r+") as file:
            file["maps/density_z15"][7, 3, 4] = np.nan
    else:
        path = small_coeval.write(tmp_path / "boxes.h5", fields=fields)
    assert run(tmp_path, "--data", path, "--out", tmp_path / "run", *FLAGS) == 1
    error = capsys.readouterr().err
    assert re.search(message, error, re.DOTALL), error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("attributes", "flags", "message"),
    [
        ({"periodic_across_sky": False}, ["--shifts", "always"], "its maps are not periodic, so --shifts always"),
        ({"cell_size": None}, [], "expected the root attribute 'cell_size'"),
        ({}, ["--redshifts", "15", "15"], "--redshifts: expected each redshift once"),
        ({}, ["--target-redshifts", "15", "15"], "--target-redshifts: expected each redshift once"),
        ({"cell_size_units": "Mpc/h"}, [], "expected the root attribute 'cell_size' in Mpc, got 'Mpc/h'"),
        ({}, ["--target-redshifts", "20"], "no maps at redshift 20; there are 10, 15"),
        ({}, ["--fractions", "0.9", "0.05", "0.05"], "leave 1 for the test"),
    ],
)
def test_settings_that_do_not_fit_the_data(attributes, flags, message, tmp_path, capsys):
    path = small_coeval.write(tmp_path / "boxes.h5", attributes={k: v for k, v in attributes.items() if v is not None})
    if attributes.get("cell_size", 0) is None:
        import h5py

        with h5py.File(path, "r+") as file:
            del file.attrs["cell_size"]
    assert run(tmp_path, "--data", path, "--out", tmp_path / "run", *FLAGS, *flags) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--box-cells", "20", "--slabs", "4", "--widths", "4", "4", "4"], "--box-cells 20: .* divisible by 8 cells"),
        (["--simulations", "5"], "--simulations: 5 simulations leave 1 for the test"),
        (["--simulations", "20", "--fractions", "0.8", "0.2", "0.2"], "--simulations: fractions: expected three"),
    ],
)
def test_nothing_is_simulated_that_could_not_be_used(flags, message, tmp_path, capsys):
    assert run(tmp_path, "--out", tmp_path / "run", "--cache", tmp_path / "cache", *flags) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not any((tmp_path / name).exists() for name in ("cache", "run"))


def test_redshifts_are_those_of_the_names_of_fields(database):
    TASK.check(dataclasses.replace(SMALL, redshifts=(15.0000001,)), database)
    with pytest.raises(ValueError, match="--redshifts: expected each redshift once"):
        TASK.check(dataclasses.replace(SMALL, redshifts=(15.0, 15.0000001)), database)


def test_paper_values_are_for_redshift_15_alone():
    pairs = [((15.0,), ()), ((15.0,), (15.0,)), ((15.0,), (10.0,)), ((10.0,), ()), ((10.0, 15.0), (15.0,))]
    presets = [dataclasses.replace(SMALL, redshifts=one, target_redshifts=other) for one, other in pairs]
    assert [bool(TASK.paper_values(preset)) for preset in presets] == [True, True, False, False, False]


def test_padding_and_shifts_follow_the_data(tmp_path):
    for periodic, padding in ((True, "periodic"), (False, "same")):
        path = small_coeval.write(tmp_path / f"{periodic}.h5", attributes={"periodic_across_sky": periodic})
        database = Database(path)
        assert TASK.resolved_padding(SMALL, database) == padding
        assert TASK.augmentation(SMALL, database).__name__ == (
            "augment_periodic_squares" if periodic else "augment_squares"
        )
