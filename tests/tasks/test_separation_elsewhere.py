import json

import numpy as np
import pytest
import small_lines

from keras_cosmo.data.database import Database
from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.separation import SeparationTask
from keras_cosmo.tasks.separation_elsewhere import measure_elsewhere

FLAGS = ["--epochs", "1", "--batch-size", "4", "--depth", "3", "--width", "4", "--adversarial-weight", "0"]


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
    assert "none of these simulations was trained on" in (folder / "on_test_part" / "report.html").read_text()
    with pytest.raises(ValueError, match="not empty"):
        measure_elsewhere(folder / "run", other, folder / "on_test_part")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell_size": 0.5}, "cell_size 0.5 where it was trained with 0.4"),
        ({"beam_sigma": 2.0}, "beam_sigma 2.0 where it was trained with 1.2"),
        ({"fields": small_lines.maps(side=24)}, r"map shape \(24, 24\) where it was trained with \(16, 16\)"),
        ({"unit": "mK"}, "expected intensity_halpha in erg"),
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
