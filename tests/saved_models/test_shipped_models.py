"""The shipped models are whole, small, known to git, and still do what their cards say."""

import json
import pathlib
import re
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from keras_cosmo.export.model_card import card_page, read_card
from keras_cosmo.tasks.all_tasks import TASKS, task_named
from keras_cosmo.tasks.shipped_model import VERSION, measure_again
from keras_cosmo.tasks.shown_metrics import SHOWN

ROOT = pathlib.Path(__file__).parents[2]
SAVED_MODELS = ROOT / "saved_models"
NAMES = {task_named(name).model_name: name for name in TASKS}
MODELS = {model: name for model, name in NAMES.items() if (SAVED_MODELS / model / VERSION).is_dir()}
LARGEST, LARGEST_TOGETHER = 8e6, 40e6


def folder(model):
    return SAVED_MODELS / model / VERSION


def size(path):
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


@pytest.mark.parametrize("model", MODELS)
def test_it_is_whole_and_does_what_its_card_says(model, tmp_path):
    card = read_card(folder(model))
    measured = measure_again(task_named(MODELS[model]), folder(model), card, tmp_path)
    check = card["check"]
    # First whether the maps are the same, so that a change of the simulator is not taken for one of the network.
    assert measured["inputs"] == pytest.approx(check["inputs"], rel=1e-4, abs=0)
    assert (measured["maps"], measured["seed"]) == (check["maps"], check["seed"])
    assert measured["seed"] != card["made"]["seed"]
    # Float32 sums in another order, on another machine, move these by less than the tolerance.
    assert measured["metrics"] == pytest.approx(check["metrics"], rel=check["tolerance"], abs=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_card_and_page_say_the_same(model):
    card = json.loads((folder(model) / "card.json").read_text(encoding="utf-8"))
    page = (folder(model) / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert page == card_page(card)
    assert card["made"]["commands"][-1].startswith(f"python apps/ship_model.py {MODELS[model]} ")
    assert card["licence"] == "MIT"
    assert len(card["metrics"]["columns"]) > 1
    for table, expected in (("metrics", SHOWN[card["task"]].rows), ("calibration", SHOWN[card["task"]].calibration)):
        labels = [row["label"] for row in card[table]["rows"]]
        assert all(any(label.startswith(text.split("{")[0]) for label in labels) for text in expected)
        assert all(row["values"][0] is not None for row in card[table]["rows"])
    # Neither a path of the machine it was made on nor a number that was not measured.
    assert not re.search(r"(?<![\w:/.)])/\w+/|\bnan\b", page)
    facts = json.loads((folder(model) / "assets.extra" / "keras_cosmo.json").read_text(encoding="utf-8"))
    assert card["signatures"] == facts["signatures"]
    served = tf.saved_model.load(str(folder(model))).signatures
    assert set(served) == set(card["signatures"])


def test_every_task_has_one():
    assert set(MODELS) == set(NAMES)


def test_they_are_small():
    sizes = {model: size(folder(model)) for model in MODELS}
    assert max(sizes.values()) < LARGEST, sizes
    assert sum(sizes.values()) < LARGEST_TOGETHER, sizes


def test_git_knows_them_and_not_the_users_own():
    def ignored(path):
        command = ["git", "check-ignore", "--no-index", "--quiet", path]
        return subprocess.run(command, cwd=ROOT, capture_output=True).returncode

    if ignored("README.md") not in (0, 1):
        pytest.skip("not a clone of git")
    for model in MODELS:
        for path in folder(model).rglob("*"):
            assert ignored(path) == 1, path
        assert ignored(f"saved_models/{model}/2/saved_model.pb") == 0
    assert ignored("saved_models/mine/1/saved_model.pb") == 0


def test_the_lines_of_the_readme_run(monkeypatch):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Shipped models")[1].split("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(ROOT)
    names = {}
    exec(code, names)
    true, predicted = names["maps"]["density_z15"], names["matter"].numpy()
    correlation = np.corrcoef(true.ravel(), predicted.ravel())[0, 1]
    assert f"{correlation:.2f}" == re.search(r"the pixels of the two correlate with (0\.\d\d)", section)[1]


def test_the_table_of_the_readme_is_that_of_the_cards():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Shipped models")[1].split("\n## ")[0]
    for model in MODELS:
        (row,) = (line for line in section.splitlines() if line.startswith(f"| [`{model}`]"))
        card = read_card(folder(model))
        megabytes, measured, simpler = (cell.strip() for cell in row.strip("|").split("|")[1:4])
        assert megabytes == f"{size(folder(model)) / 1e6:.1f}"
        (label, value), (column, other) = measured.rsplit(" ", 1), simpler.rsplit(" ", 1)
        tables = [table for table in (card["metrics"], card["calibration"]) if table["rows"]]
        ((found, columns),) = (
            (each["values"], table["columns"]) for table in tables for each in table["rows"] if each["label"] == label
        )
        assert value == f"{found[0]:.3g}"
        assert other == f"{found[columns.index(column)]:.3g}"
        # The best of the simpler models, not a weak one.
        others = {
            name: number
            for name, number in zip(columns[1:], found[1:], strict=True)
            if number is not None and name not in ("paper", "HIGlow as trained")
        }
        best = 1.0 if label.startswith("T ") else 0.0 if "error" in label else float("inf")
        distance = (lambda number: -number) if best == float("inf") else (lambda number, best=best: abs(number - best))
        assert column == min(others, key=lambda name: distance(others[name]))
