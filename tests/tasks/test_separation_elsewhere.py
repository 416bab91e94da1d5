import dataclasses
import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
import small_lines

from keras_cosmo.data.database import Database
from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.seen_simulations import seen_simulations
from keras_cosmo.tasks.separation import SeparationTask
from keras_cosmo.tasks.separation_elsewhere import brightness, measure_elsewhere

FLAGS = ["--epochs", "1", "--batch-size", "4", "--depth", "3", "--width", "4", "--adversarial-weight", "0"]
FLAGS += ["--statistics-batches", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    data = small_lines.write(folder / "lines.h5")
    flags = ["--data", data, "--out", folder / "run", "--saved-models", folder / "saved_models", *FLAGS]
    assert main(SeparationTask(), list(map(str, flags))) == 0
    return folder


def test_on_its_own_test_part_the_metrics_are_those_of_the_run(folder):
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    config = json.loads((folder / "run" / "config.json").read_text())
    test = np.array(config["split"]["test"])
    fields = {name: array[test] for name, array in small_lines.maps().items()}
    other = small_lines.write(folder / "test_part.h5", fields=fields)
    found = measure_elsewhere(folder / "run", other, folder / "on_test_part")
    compared = [name for name in metrics if name.endswith(("relative_l1", "transfer_k1.4", "median_fractional_error"))]
    assert len(compared) > 20
    for name in compared:
        # The bands of a baseline too: it is fitted on the training part of the run, not on these maps.
        assert found[name] == pytest.approx(metrics[name], rel=1e-5), name
    assert {path.name for path in (folder / "on_test_part").iterdir()} == {"metrics.json", "figures", "report.html"}
    report = (folder / "on_test_part" / "report.html").read_text()
    assert "none of these simulations is known to have been trained on" in report
    for part in ("What this is not", "What was run", "python apps/evaluate_separation.py --run ", "How to cite"):
        assert part in report
    assert "unseen" not in report
    assert "test part" not in report
    assert "The map whose error is the median one (all maps of test_part.h5)" in report
    with pytest.raises(ValueError, match="not empty"):
        measure_elsewhere(folder / "run", other, folder / "on_test_part")


def seeded(count, first=0):
    return np.arange(first, first + count)


def test_maps_that_it_was_trained_on_are_refused(folder, tmp_path):
    """By the script: a process that has trained nothing has to find the classes of the saved network."""
    script = pathlib.Path(__file__).parents[2] / "apps" / "evaluate_separation.py"
    flags = ["--run", folder / "run", "--data", folder / "lines.h5", "--out", tmp_path / "out"]
    done = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True)
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert "run was trained on 27 of its 30 simulations" in error, done.stderr
    assert error.endswith("metrics.json.")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--data", "none.h5"), "none.h5: there is no such file"),
        (("--data", "text.h5"), "text.h5: expected an HDF5 file"),
        (("--data", "large.h5"), "map shape (24, 24) where it was trained with (16, 16)"),
        (("--run", "nothing"), "nothing holds no run"),
        (("--run", "damaged"), "model.keras is damaged"),
        (("--out", "text.h5"), "not empty"),
    ],
)
def test_wrong_paths_are_said_before_tensorflow_is_imported(change, message, folder, tmp_path):
    small_lines.write(tmp_path / "large.h5", fields=small_lines.maps(count=4, side=24))
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text((folder / "run" / "config.json").read_text())
    (tmp_path / "damaged" / "model.keras").write_bytes((folder / "run" / "model.keras").read_bytes()[:5000])
    script = pathlib.Path(__file__).parents[2] / "apps" / "evaluate_separation.py"
    code = f"import sys, runpy; status = runpy.run_path({str(script)!r})['main'](sys.argv[1:])\n"
    code += "sys.exit(9 if {'tensorflow', 'keras'} & set(sys.modules) else status)"
    flags = {"--run": folder / "run", "--data": folder / "lines.h5", "--out": "out"} | dict([change])
    command = [sys.executable, "-c", code, *(str(part) for pair in flags.items() for part in pair)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert message in result.stderr
    assert result.returncode == 1, result.stderr


def test_an_ensemble_is_not_one_network(folder, tmp_path):
    config = json.loads((folder / "run" / "config.json").read_text())
    config["settings"]["preset"]["ensemble"] = 3
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"an ensemble of 3 networks: give one of them, .*run/member-1"):
        measure_elsewhere(tmp_path / "run", folder / "lines.h5", tmp_path / "out")
    settings = types.SimpleNamespace(start_from=tmp_path / "run")
    with pytest.raises(ValueError, match=r"is an ensemble: start from one of its networks, such as .*run/member-1"):
        SeparationTask().check_start(settings, config, None)


def test_simulations_are_known_by_their_seeds(tmp_path):
    """A longer campaign begins with the seeds of a shorter one; PINOCCHIO has the same matter in any maps."""
    own = small_lines.write(tmp_path / "own.h5", seeds=seeded(30))
    split = {"train": [3, 4], "validation": [8], "test": [5]}
    config = {"split": split, "data": {"path": str(own), "fingerprint": "own", "simulations": 30}}

    def seen(**attributes):
        fields = attributes.pop("fields", small_lines.maps(side=8))
        (tmp_path / "other.h5").unlink(missing_ok=True)
        other = small_lines.write(tmp_path / "other.h5", fields=fields, **attributes)
        return seen_simulations(config, Database(other), "other")

    same = small_lines.maps(seed=5)
    assert seen(fields=same, seeds=seeded(30, 2)) == {1, 2, 6}
    assert seen(fields=same, seeds=seeded(30, 2), simulator="another") == set()
    assert seen(fields=same) == set()  # without seeds nothing is known
    assert seen(seeds=seeded(30, 2)) == set()  # other pixels are other random numbers
    own.unlink()
    small_lines.write(own, seeds=seeded(30), simulator="PINOCCHIO")
    assert seen(seeds=seeded(30, 2), simulator="PINOCCHIO") == {1, 2, 6}
    assert seen_simulations(config, Database(own), "own") == {3, 4, 8}
    own.unlink()
    assert seen(fields=same, seeds=seeded(30, 2)) == set()


@pytest.mark.parametrize(
    ("factors", "warned"),
    [((1.0, 1.0), False), ((1.15, 1.15), False), ((1.3, 1.3), True), ((1.05, 0.93), True), ((0.7, 0.7), True)],
)
def test_unfamiliar_brightness_is_named(factors, warned, tmp_path):
    own = Database(small_lines.write(tmp_path / "own.h5"))
    fields = small_lines.maps()
    for line, factor in zip(("halpha", "oiii"), factors, strict=True):
        fields[f"intensity_{line}"] *= factor
    other = Database(small_lines.write(tmp_path / "other.h5", fields=fields))
    training = np.arange(30)
    for pairing in ("random", "fixed"):
        preset = dataclasses.replace(SeparationTask.presets["quick"], pairing=pairing)
        found = brightness(SeparationTask(), preset, own, training, other, other.scan())
        assert bool(found["warning"]) == warned, found
        assert found["means"]["oiii"] / found["trained"]["oiii"] == pytest.approx(factors[1], rel=1e-5)
        if factors == (1.0, 1.0):
            assert found["outside"] == 0.0
        elif abs(sum(factors) - 2.0) > 0.5 and pairing == "fixed":
            assert found["outside"] > 0.5
    if warned:
        assert f"halpha {factors[0]:.2f}, oiii {factors[1]:.2f} times as bright" in found["warning"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell_size": 0.5}, "cell_size 0.5 where it was trained with 0.4"),
        ({"beam_sigma": 2.0}, "beam_sigma 2.0 where it was trained with 1.2"),
        ({"fields": small_lines.maps(side=24)}, r"map shape \(24, 24\) where it was trained with \(16, 16\)"),
        ({"unit": "mK"}, "expected intensity_halpha in erg"),
        (
            {"fields": {"intensity_oiii": small_lines.maps()["intensity_oiii"]}},
            "expected the fields intensity_halpha, intensity_oiii, whose lines the network separates, got intensity_o",
        ),
    ],
)
def test_maps_that_do_not_fit(change, message, folder, tmp_path):
    other = small_lines.write(tmp_path / "other.h5", **change)
    with pytest.raises(ValueError, match=message):
        measure_elsewhere(folder / "run", other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_that_cannot_be_measured(folder, tmp_path):
    other = small_lines.write(tmp_path / "other.h5")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        measure_elsewhere(tmp_path / "nothing", other, tmp_path / "out")
    config = json.loads((folder / "run" / "config.json").read_text())
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match="has not finished"):
        measure_elsewhere(tmp_path / "unfinished", other, tmp_path / "out")
    maps = small_lines.maps()
    maps["intensity_oiii"][0] *= 2.0
    config["data"]["path"] = str(small_lines.write(tmp_path / "changed.h5", fields=maps))
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "config.json").write_text(json.dumps(config))
    (tmp_path / "moved" / "model.keras").write_bytes((folder / "run" / "model.keras").read_bytes())
    with pytest.raises(ValueError, match="its content changed since"):
        measure_elsewhere(tmp_path / "moved", other, tmp_path / "out")
    assert Database(other).n_maps == 30


def test_the_script_in_a_process_of_its_own(folder, tmp_path):
    """Nothing but the files of the run is known there."""
    other = small_lines.write(tmp_path / "other.h5", fields=small_lines.maps(count=6, seed=9))
    app = pathlib.Path(__file__).parents[2] / "apps" / "evaluate_separation.py"
    flags = ["--run", folder / "run", "--data", other, "--out", tmp_path / "out"]
    done = subprocess.run(list(map(str, [sys.executable, app, *flags])), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Halpha, all maps of other.h5" in done.stdout
    assert "only [OIII] 5007" in done.stdout
    assert "oiii" not in done.stdout
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["test_maps"] == 6
    done = subprocess.run(list(map(str, [sys.executable, app, *flags])), capture_output=True, text=True)
    assert done.returncode == 1
    assert "not empty" in done.stderr
