"""Numbers for cards, from metrics as runs write them."""

import pytest

from keras_cosmo.tasks.all_tasks import TASKS, task_named
from keras_cosmo.tasks.shown_metrics import SHOWN, calibration_table, metric_table, standard_error

LINES = {"parameters": [], "settings": {"preset": {"lines": ["halpha", "oiii"]}}}


def test_every_task_is_there_by_name():
    assert set(SHOWN) == set(TASKS)
    assert [task_named(name).name for name in TASKS] == list(TASKS)
    with pytest.raises(ValueError, match=r"Unknown task 'glow'\. There are regression, matter"):
        task_named("glow")


def test_the_network_stands_beside_simpler_models_and_the_paper():
    metrics = {
        "halpha/pixels/relative_l1": 0.27,
        "oiii/pixels/relative_l1": 0.43,
        "baseline/Wiener filter/oiii/pixels/relative_l1": 0.38,
        "oiii/peaks/recall": 0.1,
        "oiii/peaks/recall_standard_error": 0.02,
        "paper/oiii/peaks/recall": 0.27,
    }
    table = metric_table(task_named("separation"), metrics, LINES)
    # Columns that no number stands in are left out, as are rows.
    assert table["columns"] == ["GAN", "Wiener filter", "paper"]
    rows = {row["label"]: row for row in table["rows"]}
    assert list(rows) == [
        "mean absolute error / mean, halpha",
        "mean absolute error / mean, oiii",
        "recall of peaks, oiii",
    ]
    assert rows["mean absolute error / mean, oiii"]["values"] == [0.43, 0.38, None]
    assert rows["recall of peaks, oiii"]["values"] == [0.1, None, 0.27]
    assert rows["recall of peaks, oiii"]["standard_errors"] == [0.02, None, None]


def test_the_calibration_of_posteriors_is_that_of_the_served_ones_first():
    config = {"parameters": ["Omega_m"], "settings": {"preset": {}}}
    metrics = {"coverage_68/Omega_m": 0.39, "corrected/coverage_68/Omega_m": 0.64}
    table = calibration_table(task_named("higlow"), metrics, config)
    assert table["columns"] == ["HIGlow, corrected (as served)", "HIGlow as trained"]
    assert table["rows"] == [
        {"label": "68 % region holds Omega_m", "values": [0.64, 0.39], "standard_errors": [None, None]}
    ]
    assert "too sure" in table["text"]


@pytest.mark.parametrize(
    ("key", "error"),
    [("r2/zeta", "r2_standard_error/zeta"), ("r50", "r50_standard_error"), ("a/b/c", "a/b_standard_error/c")],
)
def test_standard_errors_are_found_by_name(key, error):
    assert standard_error({error: 0.5}, key) == 0.5
    assert standard_error({}, key) is None
