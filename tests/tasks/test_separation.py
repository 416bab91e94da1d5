import csv
import dataclasses
import functools
import json
import re
import shutil

import keras
import numpy as np
import pytest
import small_lines
import tensorflow as tf

from keras_cosmo.data.database import Database
from keras_cosmo.inference.separated_maps import separate_maps
from keras_cosmo.statistics.line_maps import separation_scores
from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.separation import PRESETS, SeparationTask
from keras_cosmo.tasks.separation_measures import FACTORS, evaluate
from keras_cosmo.tasks.settings import settings_from

FLAGS = ["--epochs", "2", "--batch-size", "4", "--depth", "3", "--width", "4", "--statistics-batches", "4"]
SMALL = dataclasses.replace(PRESETS["quick"], depth=3, width=4, batch_size=4, epochs=1, l1_baseline=False)


def run(folder, *flags):
    return main(SeparationTask(), [*map(str, flags), "--saved-models", str(folder / "saved_models")])


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return Database(small_lines.write(tmp_path_factory.mktemp("data") / "lines.h5"))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    data = small_lines.write(folder / "lines.h5")
    assert run(folder, "--data", data, "--out", folder / "run", *FLAGS) == 0
    return folder


def test_paper_preset_is_the_paper():
    preset = PRESETS["paper"]
    assert (preset.map_cells, preset.map_side, preset.beam_sigma, preset.resolving_power) == (256, 1.7, 1.2, 40.0)
    assert (preset.line_weight, preset.total_weight, preset.batch_size, preset.epochs) == (100.0, 100.0, 4, 8)
    assert (preset.learning_rate, preset.beta_1, preset.beta_2) == (2e-4, 0.5, 0.999)
    assert preset.simulations * preset.fractions[0] == 30000
    assert preset.output_activation == "tanh"
    task = SeparationTask()
    model = task.model(preset, None, None, "float32")
    assert len(model.discriminators) == len(preset.lines) == 2
    optimizer = model.optimizers[0]
    assert (float(optimizer.learning_rate), optimizer.beta_1, optimizer.beta_2) == (pytest.approx(2e-4), 0.5, 0.999)
    assert len(model.optimizers) == 3


CHANGES = {
    "simulations": 12,
    "lines": ("oiii", "halpha"),
    "observed_wavelength": 1.4,
    "resolving_power": 50.0,
    "map_cells": 32,
    "map_side": 0.3,
    "beam_sigma": 1.0,
    "maps": "unsmoothed",
    "fractions": (0.5, 0.25, 0.25),
    "pairing": "fixed",
    "symmetries": "none",
    "amplitude_scatter": 0.1,
    "noise": 1e-10,
    "continuum": 1e-10,
    "continuum_scatter": 0.1,
    "depth": 2,
    "width": 6,
    "kernel_size": 3,
    "dropout": 0.1,
    "output_activation": "tanh",
    "scale": "brightest",
    "scale_factor": 3.0,
    "adversarial_weight": 2.0,
    "line_weight": 10.0,
    "total_weight": 10.0,
    "learning_rate": 1e-3,
    "beta_1": 0.9,
    "beta_2": 0.99,
    "batch_size": 5,
    "epochs": 7,
    "weights": "best",
    "statistics_batches": 7,
    "parts": 2,
    "part": 2,
    "ensemble": 2,
    "l1_baseline": True,
    "peak_threshold": 1.0,
    "peak_radius": 0.5,
}


@functools.cache
def everything(preset, database):
    """All that a preset decides, as comparable values."""
    task = SeparationTask()
    prepared = task.prepare(preset, database, seed=1)
    model = task.model(preset, database, prepared.normalization, "float32")
    observed, lines = prepared.training.load(2)
    return {
        "simulator": task.simulator(preset),
        "count": task.simulations(preset),
        "split": str(prepared.split.to_json()),
        "training": prepared.training.indices.tolist(),
        "batches": (prepared.training.batch_size, prepared.training.steps_per_epoch),
        "first rows": (observed[:, 0].tolist(), lines[:, 0].tolist()),
        "model": {key: value for key, value in model.get_config().items() if key != "name"},
        "optimizer": {k: v for k, v in model.optimizers[0].get_config().items() if k != "name"},
        "run": (preset.epochs, task.keeps_best(preset), preset.ensemble, preset.l1_baseline, preset.statistics_batches),
        "peaks": (preset.peak_threshold, preset.peak_radius),
    }


def test_every_field_is_moved():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(SMALL)}


@pytest.mark.parametrize("field", CHANGES)
def test_moving_a_field_changes_something(field, database):
    start = dataclasses.replace(SMALL, continuum=2e-10 if field == "continuum_scatter" else 0.0)
    start = dataclasses.replace(start, parts=2 if field == "part" else 1)
    assert everything(start, database) != everything(dataclasses.replace(start, **{field: CHANGES[field]}), database)


def test_normalisation_is_that_of_the_training_part_alone(tmp_path):
    fields = small_lines.maps()
    first = Database(small_lines.write(tmp_path / "a.h5", fields=fields))
    prepared = SeparationTask().prepare(SMALL, first, seed=3)
    for array in fields.values():
        array[prepared.split.test] *= 7.0
        array[prepared.split.validation] *= 5.0
    other = SeparationTask().prepare(SMALL, Database(small_lines.write(tmp_path / "b.h5", fields=fields)), seed=3)
    assert other.normalization == prepared.normalization
    training = fields["intensity_halpha"][prepared.split.train]
    assert prepared.normalization["mean_intensity"]["halpha"] == pytest.approx(training.mean(dtype=float), rel=1e-6)


def test_what_a_run_leaves_behind(done):
    left = {path.name for path in (done / "run").iterdir()}
    assert {"config.json", "history.csv", "metrics.json", "model.keras", "report.html", "mean_intensities.csv"} <= left
    figures = {path.stem for path in (done / "run" / "figures").iterdir()}
    assert {"maps", "mean_intensity", "power_spectra", "peaks", "robustness", "losses"} <= figures
    metrics = json.loads((done / "run" / "metrics.json").read_text())
    assert metrics["paper/halpha/peaks/recall"] == 0.76
    for name in ("L1 only", "observed map", "mean ratio", "Wiener filter"):
        assert f"baseline/{name}/oiii/peaks/precision" in metrics
    for case in ("all lines", "only halpha", "only oiii"):
        for factor in FACTORS:
            assert f"robustness/{case}/x{factor:g}/halpha/mean/median_fractional_error" in metrics
    assert "robustness/unsmoothed/x1/oiii/pixels/relative_l1" in metrics
    with (done / "run" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert {"l1_halpha", "l1_total", "gan_oiii", "discriminator_oiii", "val_loss"} <= set(rows[0])
    with (done / "run-l1" / "history.csv").open() as file:
        assert not any(name.startswith(("gan", "discr")) for name in next(csv.reader(file)))


def test_metrics_are_those_of_the_served_model(done):
    """From the exported files alone: maps of the test part, separated by the SavedModel, scored here."""
    config = json.loads((done / "run" / "config.json").read_text())
    database = Database(config["data"]["path"])
    maps = np.array(config["split"]["test"])  # one map per simulation
    true = np.stack([database.read(f"intensity_{line}", maps) for line in ("halpha", "oiii")], axis=-1)
    served = tf.saved_model.load(str(done / "saved_models" / "separation" / "1")).signatures["serving_default"]
    found = {name: value.numpy() for name, value in served(intensity=tf.constant(true.sum(-1))).items()}
    assert set(found) == {"halpha", "oiii", "residual"}
    predicted = np.stack([found["halpha"], found["oiii"]], axis=-1)
    np.testing.assert_allclose(found["residual"], true.sum(-1) - predicted.sum(-1), atol=1e-15)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"intensity \[2,24,16\] .*expected shape \[\?,16,16\]"):
        served(intensity=tf.zeros((2, 24, 16)))
    scores = separation_scores(true, predicted, ("halpha", "oiii"), 0.4, maps)
    metrics = json.loads((done / "run" / "metrics.json").read_text())
    for name in ("halpha/mean/median_fractional_error", "oiii/transfer_k1.4", "oiii/peaks/recall"):
        expected = metrics[name]
        assert scores[name] == pytest.approx(expected, rel=1e-4) or (expected is None and np.isnan(scores[name]))


def test_baselines_know_what_they_may(done):
    metrics = json.loads((done / "run" / "metrics.json").read_text())
    # The observed map holds more light than any line; the mean ratio knows the mean shares, the filter the spectra.
    assert metrics["baseline/observed map/halpha/mean/median_fractional_error"] > 0.3
    assert abs(metrics["baseline/mean ratio/halpha/mean/median_fractional_error"]) < 0.2
    errors = [metrics[f"baseline/{name}/oiii/pixels/relative_l1"] for name in ("Wiener filter", "observed map")]
    assert errors[0] < errors[1]


def test_tables_name_lines_by_their_labels(done):
    report = (done / "run" / "report.html").read_text()
    for text in ("only Halpha", "only [OIII] 5007", "all lines alike", "maps before the beam", "unseen simulations"):
        assert text in report
    for text in ("only halpha", "only oiii", "other.h5"):
        assert text not in report


def test_what_was_familiar_is_known_to_the_served_model(done, tmp_path):
    facts = (done / "saved_models" / "separation" / "1" / "assets.extra" / "keras_cosmo.json").read_text()
    config = json.loads((done / "run" / "config.json").read_text())
    maps = small_lines.maps()
    train = config["split"]["train"]
    ends = [
        sum(function(maps[f"intensity_{line}"][train].mean(axis=(1, 2))) for line in ("halpha", "oiii"))
        for function in (min, max)
    ]
    low, high = json.loads(facts)["normalization"]["observed_mean_range"]
    assert [low, high] == pytest.approx(ends, rel=1e-5)
    changes = {"pairing": "fixed", "continuum": 1e-9, "continuum_scatter": 0.1, "amplitude_scatter": 0.2}
    preset = dataclasses.replace(SMALL, **changes)
    prepared = SeparationTask().prepare(preset, Database(done / "lines.h5"), 0)
    total = sum(maps[f"intensity_{line}"][prepared.split.train].mean(axis=(1, 2)) for line in ("halpha", "oiii"))
    expected = [np.exp(-0.4) * total.min() + 0.8e-9, np.exp(0.4) * total.max() + 1.2e-9]
    assert prepared.normalization["observed_mean_range"] == pytest.approx(expected, rel=1e-5)


def test_an_observed_map_through_the_script(done, tmp_path, capsys):
    """From what a run exported to maps of the lines."""
    maps = small_lines.maps()
    observed = maps["intensity_halpha"] + maps["intensity_oiii"]
    np.save(tmp_path / "observed.npy", observed)
    units = separate_maps(done / "saved_models" / "separation", tmp_path / "observed.npy", tmp_path / "lines.npz")
    assert set(units) == {"halpha", "oiii", "residual"}
    model = keras.models.load_model(done / "run" / "model.keras", compile=False)
    expected = np.asarray(model(observed, training=False))
    with np.load(tmp_path / "lines.npz") as found:
        np.testing.assert_allclose(found["oiii"], expected[..., 1], rtol=1e-4, atol=1e-14)
        np.testing.assert_allclose(found["halpha"] + found["oiii"] + found["residual"], observed, rtol=1e-4)


def test_summary_counts_the_weights_of_each_network(tmp_path, capsys):
    assert run(tmp_path, "--preset", "paper", "--summary") == 0
    printed = capsys.readouterr().out
    # docs/separation.md: 139,492,738 and 4,830,145 trainable ones; the moments of Adam are none of the network.
    assert "Trainable params: 139,492,738" in printed
    assert printed.count("Trainable params: 4,830,145") == 2
    assert "Optimizer" not in printed
    counts = [int(number.replace(",", "")) for number in re.findall(r" Total params: ([\d,]+)", printed)]
    assert len(counts) == 3
    last = printed.strip().splitlines()[-1]
    assert last == (
        f"Weights: generator {counts[0]:,}, discriminator_halpha {counts[1]:,}, discriminator_oiii {counts[2]:,}; "
        f"{sum(counts):,} in all."
    )


@pytest.mark.usefixtures("undrawn_figures", "no_export")
def test_it_learns(done, tmp_path):
    flags = ["--adversarial-weight", "0", "--epochs", "60", "--batch-size", "8", "--learning-rate", "2e-3"]
    assert run(tmp_path, "--data", done / "lines.h5", "--out", tmp_path / "run", *FLAGS, *flags) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["halpha/pixels/relative_l1"] < metrics["baseline/observed map/halpha/pixels/relative_l1"]
    assert metrics["halpha/pixels/correlation"] > 0.3
    assert not (tmp_path / "run-l1").exists()  # it is that network itself


@pytest.mark.usefixtures("undrawn_figures", "no_export")
def test_interrupted_run_resumed_equals_uninterrupted(done, tmp_path):
    data = done / "lines.h5"
    assert run(tmp_path, "--data", data, "--out", tmp_path / "run", *FLAGS, "--epochs", "1") == 0
    assert run(tmp_path, "--out", tmp_path / "run", "--resume", "--epochs", "2", "--no-l1-baseline") in (1, 2)
    assert run(tmp_path, "--out", tmp_path / "run", "--resume", "--epochs", "2") == 0
    for name in ("run", "run-l1"):
        networks = [keras.models.load_model(each / name / "model.keras", compile=False) for each in (done, tmp_path)]
        for one, other in zip(*(network.weights for network in networks), strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"{name} {one.path}")


def test_the_last_weights_are_measured_unless_asked_for_the_best(done, tmp_path):
    with np.load(done / "run" / "checkpoints" / "best.npz") as best:
        first = best["00000"]
    assert not SeparationTask().keeps_best(PRESETS["paper"])
    assert SeparationTask().keeps_best(dataclasses.replace(SMALL, weights="best"))
    model = keras.models.load_model(done / "run" / "model.keras", compile=False)
    with (done / "run" / "history.csv").open() as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file)]
    same = np.array_equal(first, model.get_weights()[0])
    assert same == (int(np.argmin(losses)) == 1)


def test_ensemble(done, tmp_path, capsys):
    flags = ["--data", done / "lines.h5", "--out", tmp_path / "run", *FLAGS, "--ensemble", "2", "--epochs", "1"]
    assert run(tmp_path, *flags) == 0
    printed = capsys.readouterr().out
    assert "Peaks that several networks agree on" in printed
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for key in ("member-1/halpha/peaks/recall", "halpha/peaks/precision_2_of_2", "baseline/L1 only/oiii/pdf_distance"):
        assert key in metrics
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"disagreement", "mean_intensity", "power_spectra", "peaks"} <= figures
    assert "halpha/power_ratio_of_median_k1.4" in metrics
    assert "Statistics of a map: median over the networks" in printed
    report = (tmp_path / "run" / "report.html").read_text()
    for part in ("What this is not", "What was run", "--ensemble 2", "by simulation: ", "separation_ensemble"):
        assert part in report
    configs = [json.loads((tmp_path / "run" / f"member-{i}" / "config.json").read_text()) for i in (1, 2)]
    assert configs[0]["split"] == configs[1]["split"]
    database = Database(done / "lines.h5")
    parts = []
    for number in (1, 2):
        preset = dataclasses.replace(SMALL, parts=2, part=number)
        parts.append(set(SeparationTask().prepare(preset, database, 0).training.indices.tolist()))
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == set(configs[0]["split"]["train"])

    served = tf.saved_model.load(str(tmp_path / "saved_models" / "separation_ensemble" / "1"))
    observed = tf.constant(small_lines.maps()["intensity_halpha"][:3])
    found = {key: value.numpy() for key, value in served.signatures["serving_default"](intensity=observed).items()}
    members = [keras.models.load_model(tmp_path / "run" / f"member-{i}" / "model.keras", compile=False) for i in (1, 2)]
    both = np.stack([member(observed, training=False).numpy() for member in members])
    np.testing.assert_allclose(found["oiii"], both.mean(axis=0)[..., 1], rtol=1e-4)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"intensity \[1,32,32\] .*expected shape \[\?,16,16\]"):
        served.signatures["serving_default"](intensity=tf.zeros((1, 32, 32)))
    np.testing.assert_allclose(found["oiii_disagreement"], both.std(axis=0, ddof=1)[..., 1], rtol=1e-2, atol=1e-14)

    # Finished: nothing is trained again.
    assert run(tmp_path, "--out", tmp_path / "run", "--resume") == 0


def test_members_start_from_weights_of_their_own(done):
    database = Database(done / "lines.h5")
    weights = []
    for number in (1, 2):
        keras.utils.set_random_seed(0)
        preset = dataclasses.replace(SMALL, parts=2, part=number)
        weights.append(SeparationTask().build(preset, database, {"scale": 1e-9}, "float32").get_weights()[0])
    assert not np.array_equal(*weights)


@pytest.mark.usefixtures("undrawn_figures", "no_export")
def test_start_from_another_run(done, tmp_path, capsys):
    flags = ["--data", done / "lines.h5", *FLAGS, "--no-l1-baseline", "--learning-rate", "1e-12", "--epochs", "1"]
    assert run(tmp_path, "--out", tmp_path / "next", "--start-from", done / "run", *flags) == 0
    first, second = (
        keras.models.load_model(folder / "model.keras", compile=False).generator
        for folder in (done / "run", tmp_path / "next")
    )
    for one, other in zip(first.trainable_weights, second.trainable_weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert (
        run(tmp_path, "--out", tmp_path / "x", "--start-from", done / "run", *flags, "--lines", "oiii", "halpha") == 1
    )
    assert "Choose the same --lines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        ({"task": "matter"}, (), "task"),
        ({"unit": "Jy/sr"}, (), "expected intensity_halpha in erg"),
        ({"cell_size": None}, (), "'cell_size_units' = 'arcmin'"),
        ({"cell_size_units": "Mpc"}, (), "'cell_size_units' = 'arcmin'"),
        ({"drop": "intensity_oiii"}, (), "no maps of oiii; there are halpha"),
        ({"drop": "intensity_oiii_unsmoothed"}, ("--maps", "unsmoothed"), "no unsmoothed maps"),
        ({}, ("--depth", "5"), "divisible by"),
        ({}, ("--lines", "halpha"), "two different lines"),
        ({}, ("--lines", "halpha,oiii"), "names separated by spaces"),
        ({}, ("--lines", "halpha", "oii"), "no maps of oii"),
        ({}, ("--part", "2"), "there are 1 --parts only"),
        ({}, ("--parts", "2", "--ensemble", "2"), "--ensemble divides the training part itself"),
        ({}, ("--line-weight", "0", "--total-weight", "0", "--adversarial-weight", "0"), "nothing to learn"),
        ({"negative": True}, (), "intensity_halpha is negative in 1 maps, the first one number 3"),
        ({"dark": True}, (), "intensity_oiii is zero everywhere in 1 maps, the first one number 5"),
        ({"oblong": True}, (), "expected square maps"),
        ({}, ("--parts", "25", "--part", "25"), "simulations to train on only"),
        ({}, ("--ensemble", "25"), "there are 24 simulations to train on only"),
    ],
)
def test_bad_data_and_flags_leave_no_run_folder(change, flags, message, tmp_path, capsys):
    fields = small_lines.maps()
    change = dict(change)
    if name := change.pop("drop", None):
        del fields[name]
    if change.pop("negative", False):
        fields["intensity_halpha"][3, 2, 2] = -1e-12
    if change.pop("dark", False):
        fields["intensity_oiii"][5] = 0.0
    if change.pop("oblong", False):
        fields = {name: array[:, :8] for name, array in fields.items()}
    data = small_lines.write(tmp_path / "lines.h5", fields=fields, **change)
    assert run(tmp_path, "--data", data, "--out", tmp_path / "run", *FLAGS, *flags) in (1, 2)
    error = capsys.readouterr().err
    assert re.search(re.escape(message), error), error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "run-l1").exists()


@pytest.mark.parametrize(("cells", "nearest"), [(24, "32"), (48, "32 or 64")])
def test_maps_too_small_for_the_network_are_never_simulated(cells, nearest, tmp_path, capsys):
    flags = ["--map-cells", cells, "--depth", "5", "--out", tmp_path / "run", "--cache", tmp_path / "cache"]
    assert run(tmp_path, *flags) == 2
    assert f"a multiple of 32 pixels on a side, such as {nearest}." in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_intensities_far_from_any_model_are_named(tmp_path, caplog):
    fields = {name: 1e12 * array for name, array in small_lines.maps().items()}
    SeparationTask().prepare(SMALL, Database(small_lines.write(tmp_path / "lines.h5", fields=fields)), 0)
    assert "models give 1e-12 to 1e-06" in caplog.text


@pytest.mark.parametrize(("name", "value"), [("noise", 1.0), ("continuum", 1e-6)])
def test_additions_that_drown_the_lines_are_named(name, value, database, caplog):
    SeparationTask().prepare(dataclasses.replace(SMALL, **{name: value}), database, 0)
    assert re.search(rf"--{name} {value:g} erg .* the lines have a mean of 1\.\d\de-09 in all", caplog.text)
    caplog.clear()
    SeparationTask().prepare(dataclasses.replace(SMALL, noise=5e-9, continuum=5e-9), database, 0)
    assert not caplog.text


def test_a_start_that_saw_the_test_is_refused(done, tmp_path, capsys):
    flags = ["--data", done / "lines.h5", *FLAGS, "--no-l1-baseline", "--epochs", "1", "--start-from", done / "run"]
    assert run(tmp_path, "--out", tmp_path / "next", *flags, "--seed", "5") == 1
    assert "was trained on simulations that this run would test on" in capsys.readouterr().err
    assert not (tmp_path / "next").exists()


def test_robustness_maps_are_spread_over_the_test_part(database):
    task = SeparationTask()
    preset = dataclasses.replace(SMALL, fractions=(0.3, 0.1, 0.6))
    prepared = task.prepare(preset, database, 0)
    every = task.test_pipeline(preset, prepared)[1]
    pipeline, maps = task.test_pipeline(preset, prepared, most=6)
    assert len(every) == 18
    assert maps.tolist() == every[::3].tolist() == pipeline.indices.tolist()
    assert len(task.test_pipeline(preset, prepared, most=100)[1]) == 18


def test_a_baseline_of_another_run_is_refused(done, tmp_path, capsys):
    data = done / "lines.h5"
    flags = ["--data", data, "--out", done / "run", *FLAGS]
    assert run(tmp_path, *flags) == 1  # the folder holds a run
    assert "holds another run" in capsys.readouterr().err
    shutil.copytree(done / "run-l1", tmp_path / "other-l1")
    assert run(tmp_path, "--data", data, "--out", tmp_path / "other", *FLAGS, "--width", "6") == 1
    assert "holds a baseline of another preset" in capsys.readouterr().err


def test_noise_is_in_the_observed_map_alone(database):
    task = SeparationTask()
    prepared = task.prepare(dataclasses.replace(SMALL, noise=1e-10), database, 0)
    observed, lines = prepared.training.load(0)
    assert np.abs(observed - lines.sum(-1)).max() > 1e-12
    assert lines.min() > 0


def test_three_lines(tmp_path):
    fields = small_lines.maps()
    fields["intensity_oii"] = 0.2 * fields["intensity_halpha"][::-1]
    data = small_lines.write(tmp_path / "lines.h5", fields=fields)
    flags = ["--lines", "halpha", "oiii", "oii", *FLAGS, "--epochs", "1", "--no-l1-baseline"]
    assert run(tmp_path, "--data", data, "--out", tmp_path / "run", *flags) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "oii/leakage_from_halpha_k1.4" in metrics
    assert not any(name.startswith("paper/") for name in metrics)


def test_evaluation_is_the_same_twice(done, database):
    task, settings = SeparationTask(), settings_from(SeparationTask(), {"data": database.path, "out": "x"})
    preset = dataclasses.replace(SMALL, noise=1e-11)
    prepared = task.prepare(preset, database, settings.seed)
    model = keras.models.load_model(done / "run" / "model.keras", compile=False)
    first, second = (evaluate(task, preset, model, prepared).metrics for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
