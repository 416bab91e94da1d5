"""From a command to a shipped model, with small maps."""

import importlib.util
import json
import pathlib
import subprocess

import pytest

from keras_cosmo.export.model_card import read_card
from keras_cosmo.tasks import shipped_model
from keras_cosmo.tasks.fixed_set import SEED, measure_on_fixed_set
from keras_cosmo.tasks.matter import MatterTask
from keras_cosmo.tasks.regression import RegressionTask

SCRIPT = pathlib.Path(__file__).parents[2] / "apps" / "ship_model.py"
SMALL = {"simulations": 40, "n-perp": 24, "n-los": 96, "epochs": 2, "filters": "2 2", "kernel-size": 3}


def main(*arguments):
    specification = importlib.util.spec_from_file_location("ship_model", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.main([str(argument) for argument in arguments])


def flags(folder, **changes):
    for name, value in {**SMALL, **changes}.items():
        yield from (f"--{name}", *str(value).split())
    for name, place in (("out", "runs/small"), ("saved-models", "exports"), ("cache", "cache")):
        yield from (f"--{name}", folder / place)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ship")
    assert main("--to", folder / "shipped", "regression", *flags(folder)) == 0
    return folder


def test_the_card_holds_what_the_run_wrote(shipped):
    run = shipped / "runs" / "small"
    card = read_card(shipped / "shipped" / "lightcone_regressor" / "1")
    metrics = json.loads((run / "metrics.json").read_text())
    rows = {row["label"]: row for row in card["metrics"]["rows"]}
    assert card["metrics"]["columns"] == ["network", "ridge regression on the global signal", "paper"]
    assert rows["R2 of zeta"]["values"] == [metrics["r2/zeta"], metrics["baseline/r2/zeta"], 0.955]
    assert rows["R2 of zeta"]["standard_errors"][0] == metrics["r2_standard_error/zeta"]
    assert card["data"]["split"] == {"train": 32, "validation": 4, "test": 4}
    assert card["made"]["commands"] == [
        "python apps/ship_model.py regression --preset quick --simulations 40 --n-perp 24 --n-los 96 --filters 2 2 "
        "--kernel-size 3 --epochs 2 --out runs/small --seed 0"
    ]
    time = json.loads((run / "processor_time.json").read_text())
    assert card["made"]["processor_seconds"] == time["seconds"] > 1
    assert card["made"]["simulated"] is True
    zeta = card["data"]["parameters"][0]
    assert any(f"zeta {zeta['low']:g} to {zeta['high']:g}, log10_L_X" in limit for limit in card["limits"])
    assert str(shipped) not in json.dumps(card)


def test_the_fixed_set_is_made_again(shipped, tmp_path):
    folder = shipped / "shipped" / "lightcone_regressor" / "1"
    card = read_card(folder)
    again = shipped_model.measure_again(RegressionTask(), folder, card, tmp_path)
    assert again["metrics"] == pytest.approx(card["check"]["metrics"], rel=1e-5)
    assert card["check"]["seed"] == SEED != card["made"]["seed"]
    assert not [path for path in folder.parent.iterdir() if path.name != "1"]


def test_a_finished_run_is_taken_as_it_is(shipped, capsys):
    before = (shipped / "runs" / "small" / "processor_time.json").read_bytes()
    assert main("--to", shipped / "second", "regression", *flags(shipped)) == 0
    assert "MODEL_CARD.md" in capsys.readouterr().out
    assert (shipped / "runs" / "small" / "processor_time.json").read_bytes() == before
    cards = [shipped / name / "lightcone_regressor" / "1" / "card.json" for name in ("shipped", "second")]
    assert cards[0].read_bytes() == cards[1].read_bytes()


def test_what_cannot_be_shipped(shipped, tmp_path):
    run, exports = shipped / "runs" / "small", shipped / "exports"
    with pytest.raises(FileNotFoundError, match="no SavedModel of the run"):
        shipped_model.ship(RegressionTask(), run, tmp_path, tmp_path)
    config = json.loads((run / "config.json").read_text())
    other = tmp_path / "run"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match="has not finished"):
        shipped_model.ship(RegressionTask(), other, exports, tmp_path)
    for change, message in (
        ({"settings": {**config["settings"], "seed": SEED}}, "that of the fixed set"),
        ({"data": {**config["data"], "seed": SEED}}, "that of the fixed set"),
        ({"settings": {**config["settings"], "data": "a.h5"}}, "trained on a.h5; shipped models are trained on"),
        # As that of a run whose data another one takes.
        ({"data": {**config["data"], "simulator": "py21cmfast 4.1"}}, "trained on py21cmfast 4.1; shipped"),
        ({"split": {"kind": "map"}}, "a split that is not by simulation"),
    ):
        (other / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            shipped_model.ship(RegressionTask(), other, exports, tmp_path)


def test_a_stopped_training_is_said_and_counted(tmp_path, capsys, monkeypatch):
    def stopped(command):
        (tmp_path / "runs" / "small").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", stopped)
    assert main("--to", tmp_path, "regression", *flags(tmp_path)) == 130
    assert capsys.readouterr().err == "error: stopped; the same command goes on.\n"
    time = json.loads((tmp_path / "runs" / "small" / "processor_time.json").read_text())
    assert time["seconds"] == pytest.approx(0, abs=1)


def test_what_may_not_be_shipped_is_not_trained(tmp_path, capsys):
    assert main("regression", *flags(tmp_path), "--seed", SEED) == 1
    assert f"has the seed {SEED}, that of the fixed set" in capsys.readouterr().err
    assert main("regression", "--data", "a.h5", "--out", tmp_path / "runs") == 1
    assert "a.h5; shipped models are" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_what_maps_must_be_like():
    assert shipped_model.of_inputs({"redshifts": [15.0]}) == ["Redshift: 15."]
    cones = {"redshifts": [6.0, 10.0, 29.87]}
    assert shipped_model.of_inputs(cones) == ["Redshifts: 6 to 29.9 in 3 cells, along the last axis."]
    (text,) = shipped_model.of_inputs({"normalization": {"low_pass_ell": 460.0, "low_pass_order": 4.0}})
    assert "temperature times mask, with a Butterworth filter to multipole 460 of order 4" in text


def test_wrong_usage(tmp_path, capsys):
    assert main("regression", "--epochs", 0) == 2
    assert "--epochs: expected at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main("regressoin")
    assert "did you mean regression" in capsys.readouterr().err


def test_there_is_no_fixed_set_for_other_tasks(tmp_path):
    class Other(MatterTask):
        name = "other"

    with pytest.raises(ValueError, match="task 'other': no fixed set, there is one for regression, matter"):
        measure_on_fixed_set(Other(), None, None, tmp_path)
