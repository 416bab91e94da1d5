"""Model cards: checksums of files, and a page that says what the card says."""

import hashlib
import json

import pytest

from keras_cosmo.export.model_card import card_page, file_checksums, read_card, write_card

CARD = {
    "name": "blobs",
    "title": "Blobs from maps",
    "paper": "Somebody 2020: Blobs",
    "licence": "MIT",
    "signatures": {
        "serving_default": {
            "inputs": {"maps": {"shape": [None, 8, 9], "dtype": "float32", "unit": "mK"}},
            "outputs": {"number": {"shape": [None], "dtype": "float32", "unit": ""}},
        }
    },
    "data": {
        "simulator": "embedded simulator",
        "simulations": 10,
        "maps": 20,
        "fingerprint": "sha256:ab",
        "split_by": "simulation",
        "split": {"train": 8, "validation": 1, "test": 1},
        "cell_size": 1.5,
        "cell_size_unit": "Mpc",
        "parameters": [{"name": "zeta", "unit": "", "low": 5.0, "high": 200.0}],
    },
    "metrics": {
        "columns": ["network", "paper"],
        "rows": [{"label": "R2 of zeta", "values": [0.91234, None], "standard_errors": [0.0123, None]}],
    },
    "calibration": {"text": "No errors.", "columns": [], "rows": []},
    "limits": ["Small maps only."],
    "made": {
        "commands": ["python apps/ship_model.py blobs"],
        "preset": "quick",
        "changes": ["width 8 (preset: 16)"],
        "seed": 0,
        "precision": "float32",
        "epochs": 3,
        "started": "2026-01-02 03:04 UTC",
        "processor_seconds": 600.0,
        "simulated": False,
        "versions": {"python": "3.11"},
    },
    "check": {"seed": 5, "simulations": 2, "maps": 4, "metrics": {"rmse": 0.25}, "tolerance": 1e-3},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "variables" / "variables.index").write_bytes(b"")
    write_card(tmp_path, CARD)
    return tmp_path


def test_checksums_are_those_of_the_files(folder):
    card = read_card(folder)
    assert card["files"]["saved_model.pb"] == {"bytes": 5, "sha256": hashlib.sha256(b"graph").hexdigest()}
    assert list(card["files"]) == ["saved_model.pb", "variables/variables.index"]
    assert {name: card[name] for name in CARD} == json.loads(json.dumps(CARD))


def test_page_says_what_the_card_says(folder):
    page = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert page == card_page(read_card(folder))
    for text in (
        "# Blobs from maps: `blobs`",
        "- input `maps`: float32 (any, 8, 9), mK",
        "- split by simulation: 8 train, 1 validation, 1 test",
        "- zeta from 5 to 200",
        "| R2 of zeta | 0.912 ± 0.012 |  |",
        "- Small maps only.",
        "    python apps/ship_model.py blobs",
        "width 8 (preset: 16)",
        "processor time: 10 minutes, the simulations not counted, which were there already",
        "| rmse | 0.25 |",
        hashlib.sha256(b"graph").hexdigest(),
    ):
        assert text in page, text


def test_what_is_unknown_is_left_out():
    made = {**CARD["made"], "started": None, "processor_seconds": None, "changes": []}
    page = card_page({**CARD, "made": made, "files": {}})
    assert "processor time" not in page
    assert "started" not in page
    assert "differs from the preset `quick`: nothing" in page


def test_bars_in_labels_are_not_ends_of_cells():
    rows = [{"label": "largest |r - 1|", "values": [0.1], "standard_errors": [None]}]
    page = card_page({**CARD, "metrics": {**CARD["metrics"], "columns": ["network"], "rows": rows}, "files": {}})
    assert r"| largest \|r - 1\| | 0.1 |" in page


def test_changed_files_are_found(folder):
    (folder / "saved_model.pb").write_bytes(b"grapH")
    with pytest.raises(ValueError, match=r"saved_model\.pb differs from the checksums of card\.json"):
        read_card(folder)
    (folder / "more").write_text("")
    with pytest.raises(ValueError, match=r"more, saved_model\.pb differ from the checksums.*git checkout -- "):
        read_card(folder)


def test_missing_and_damaged_cards(folder, tmp_path_factory):
    (folder / "card.json").write_text("{")
    with pytest.raises(ValueError, match=r"card\.json is damaged \(JSONDecodeError"):
        read_card(folder)
    for files in ("[]", "null", "3"):
        (folder / "card.json").write_text(f'{{"files": {files}}}')
        if files != "[]":
            with pytest.raises(ValueError, match=r"card\.json is damaged \(TypeError"):
                read_card(folder)
    (folder / "card.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model card, expected card\.json"):
        read_card(folder)
    with pytest.raises(FileNotFoundError, match=r"no SavedModel, expected saved_model\.pb"):
        file_checksums(tmp_path_factory.mktemp("empty"))
