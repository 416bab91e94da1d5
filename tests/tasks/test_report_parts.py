import dataclasses
import json
import pathlib
import re
import shlex

import numpy as np
import pytest

from keras_cosmo.data.leaking_split import LeakingSplit
from keras_cosmo.data.sky_split import split_skies
from keras_cosmo.data.splits import split_by_simulation
from keras_cosmo.tasks.astro import AstroTask
from keras_cosmo.tasks.command_line import parser
from keras_cosmo.tasks.dust import DustTask
from keras_cosmo.tasks.higlow import HIGlowTask
from keras_cosmo.tasks.matter import MatterTask
from keras_cosmo.tasks.regression import RegressionTask
from keras_cosmo.tasks.report_parts import (
    SIMULATOR_CITATIONS,
    changes,
    command_line,
    now,
    report_parts,
    series_parts,
    split_in_words,
)
from keras_cosmo.tasks.separation import SeparationTask
from keras_cosmo.tasks.settings import settings_from

ROOT = pathlib.Path(__file__).parents[2]
TASKS = (RegressionTask, MatterTask, AstroTask, SeparationTask, DustTask, HIGlowTask)


def settings(task, *flags):
    return settings_from(task, vars(parser(task).parse_args(list(flags))), check=False)


def config(task, *flags, simulator="embedded 1", **more):
    return {
        "settings": settings(task, *flags).to_json(),
        "workers": 1,
        "data": {
            "path": "/data/maps.h5",
            "fingerprint": "sha256:01",
            "simulations": 40,
            "maps": 80,
            "simulator": simulator,
        },
        "parameters": ["zeta", "E_0"],
        "normalization_from": "training part",
        "versions": {"python": "3.11.7", "keras": "3.15.1"},
        **more,
    }


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_command_makes_the_same_run(task, tmp_path):
    """Every field of every preset changed to that of another one, read back by the command line."""
    task = task()
    for name, preset in task.presets.items():
        for other in task.presets.values():
            flags = ["--preset", name, "--out", str(tmp_path / "a b"), "--seed", "7", "--precision", "mixed_bfloat16"]
            flags += ["--deterministic", "--checkpoint-seconds", "5", "--cache", str(tmp_path)]
            changed = {}
            for field in dataclasses.fields(preset):
                value = getattr(other, field.name)
                if value not in (getattr(preset, field.name), ()):
                    changed[field.name] = value
            made = settings_from(task, {**vars(parser(task).parse_args(flags)), **changed}, check=False)
            words = shlex.split(command_line(task, made.to_json()))
            assert words[:2] == ["python", f"apps/train_{task.name}.py"]
            assert (ROOT / words[1]).is_file()
            assert settings(task, *words[2:]) == made


def test_what_was_run():
    task = RegressionTask()
    known = config(task, "--epochs", "3", "--out", "runs/mine", started="2026-01-02 03:04 UTC")
    run = dict(report_parts(task, known, more=[("SavedModel", "saved_models/x/1")])["run"])
    assert run["command"] == "$ python apps/train_regression.py --preset quick --epochs 3 --out runs/mine --seed 0"
    assert run["differs from preset quick"] == f"epochs 3 (preset: {task.presets['quick'].epochs})"
    assert re.fullmatch(r"\d+ of \d+ numbers, in bold under Recipe", run["differs from the paper"])
    assert run["versions"] == "python 3.11.7, keras 3.15.1"
    assert (run["seed"], run["precision"], run["workers"]) == ("0", "float32", "1")
    assert (run["started"], run["SavedModel"]) == ("2026-01-02 03:04 UTC", "saved_models/x/1")
    assert dict(report_parts(task, config(task))["run"])["differs from preset quick"] == "nothing"
    assert dict(report_parts(task, known, command="python other.py")["run"])["command"] == "$ python other.py"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", now())


def test_the_paper_preset_has_nothing_marked():
    task = RegressionTask()
    parts = report_parts(task, config(task, "--preset", "paper"))
    assert not parts["recipe"][0].marked
    assert not any("recipe" in note for note in parts["notes"])
    marked = report_parts(task, config(task, "--preset", "paper", "--epochs", "3"))["recipe"][0]
    assert [marked.rows[row][:3] for row in marked.marked] == [["passes over the training images", "3", "100"]]


def test_the_data_and_what_the_simulator_does_not_decide(tmp_path):
    task = RegressionTask()
    data = dict(report_parts(task, config(task), split="by simulation: 3 training")["data"])
    assert data == {
        "origin": "embedded simulator, version 1",
        "file": "/data/maps.h5",
        "number": "80 maps of 40 simulations",
        "parameters": "zeta, E_0",
        "checksum": "sha256:01",
        "split": "by simulation: 3 training",
        "normalisation": "from the training part",
    }
    made = len(report_parts(task, config(task))["recipe"][0].rows)
    given = report_parts(task, config(task, "--data", str(tmp_path / "x.h5")))["recipe"][0].rows
    assert made - len(given) == len(task.simulator_fields)
    other = {**config(task, "--data", str(tmp_path / "x.h5")), "normalization_from": "runs/first"}
    assert changes(task, other["settings"]) == []
    assert dict(report_parts(task, other)["data"])["normalisation"] == "from the run runs/first"


@pytest.mark.parametrize(
    ("simulator", "origin", "entries"),
    [
        ("embedded 1", "embedded simulator, version 1", []),
        ("py21cmfast 4.1.1", "py21cmfast 4.1.1", ["Murray2020", "Mesinger2011"]),
        ("21cmFAST 1.2 to 2.1", "21cmFAST 1.2 to 2.1", ["Mesinger2011"]),
        ("PINOCCHIO haloes painted by embedded 1", "PINOCCHIO haloes painted by embedded 1", ["Monaco2002"]),
        ("CAMELS IllustrisTNG LH", "CAMELS IllustrisTNG LH", ["VillaescusaNavarro2021", "VillaescusaNavarro2022"]),
        ("None None", "maps.h5", []),
    ],
)
def test_who_made_the_data_is_cited_and_limits_what_is_known(simulator, origin, entries):
    task = HIGlowTask()
    parts = report_parts(task, config(task, simulator=simulator))
    assert dict(parts["data"])["origin"] == origin
    assert parts["citations"][0] == (f"{task.paper.citation}: {task.paper.title}", task.paper.bibtex)
    found = [re.match(r"@article\{(\w+)", bibtex)[1] for _, bibtex in parts["citations"][1:] if bibtex]
    assert found == entries
    assert len(parts["citations"]) > 1
    assert f"the numbers of this run come from {origin}. " in parts["notes"][0]
    assert any("real sky" in note for note in parts["notes"]) == (simulator == "embedded 1")
    if simulator == "None None":
        assert "that maps.h5 was made from" in parts["citations"][1][0]


def test_entries_are_those_of_the_bibliography():
    bibliography = (ROOT / "docs" / "citations.bib").read_text("utf-8")
    entries = {bibtex for citations in SIMULATOR_CITATIONS.values() for _, bibtex in citations if bibtex}
    assert len(entries) == 5
    for bibtex in entries:
        assert bibtex in bibliography


@pytest.mark.parametrize(
    "split",
    [
        split_by_simulation(np.arange(20)),
        LeakingSplit(100, (0.7, 0.15, 0.15), seed=3),
        split_skies(4, (0.5, 0.25, 0.25), seed=0, train_area="east", test_area="west"),
        split_skies(1, (0.6, 0.2, 0.2), seed=0, train_area="north", test_area="south"),
    ],
    ids=("simulations", "copies", "skies", "areas"),
)
def test_a_split_in_words_as_the_run_said_it(split):
    assert split_in_words(json.loads(json.dumps(split.to_json()))) == split.describe()


def test_several_runs_began_with_the_first(tmp_path):
    task = AstroTask()
    for name, started in (("b", "2026-01-02 03:04 UTC"), ("a", "2026-01-02 03:09 UTC"), ("c", "unknown")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"started": started}))
    several = settings(task, "--out", str(tmp_path), "--encoder", "all")
    split = split_by_simulation(np.arange(20)).to_json()
    last = config(task, "--encoder", "scratch", started="2026-01-02 03:09 UTC", split=split)
    parts = series_parts(task, several, last, more=[("SavedModel", "x/1")])
    run = dict(parts["run"])
    assert (run["started"], run["SavedModel"]) == ("2026-01-02 03:04 UTC", "x/1")
    assert "--encoder all" in run["command"]
    assert dict(parts["data"])["split"] == "by simulation: 16 training, 2 validation, 2 test"
