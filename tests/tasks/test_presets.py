import dataclasses

import pytest

from keras_cosmo.tasks.presets import Parser, add_preset_flags, preset_field, resolve_preset
from keras_cosmo.tasks.regression import PRESETS as REGRESSION


@dataclasses.dataclass(frozen=True, kw_only=True)
class Small:
    epochs: int = preset_field(100, source="table 1", text="passes")
    widths: tuple[int, ...] = preset_field((8, 16), source="table 1", text="100% of the widths")
    flip: bool = preset_field(True, source="assumption", text="whether to flip")
    kind: str = preset_field("none", source="assumption", text="kind", choices=("none", "all"))


PRESETS = {"paper": Small(), "quick": dataclasses.replace(Small(), epochs=2)}


def parsed(*flags):
    parser = Parser(prog="train.py")
    add_preset_flags(parser, PRESETS)
    return vars(parser.parse_args(list(flags)))


def test_flags_are_made_from_the_fields():
    assert parsed() == {}
    assert parsed("--epochs", "3", "--widths", "4", "5", "6", "--no-flip", "--kind", "all") == {
        "epochs": 3,
        "widths": [4, 5, 6],
        "flip": False,
        "kind": "all",
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epocs", "3"], "unknown argument '--epocs'; did you mean --epochs"),
        (["--epochs=x"], "invalid int value"),
        (["--kind", "al"], "unknown value 'al'; did you mean all"),
        (["--epoch", "3"], "did you mean --epochs"),
    ],
)
def test_bad_flags_end_with_status_2_and_the_nearest_match(flags, message, capsys):
    with pytest.raises(SystemExit) as end:
        parsed(*flags)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_help_names_every_source(capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "passes [paper: 100; quick: 2; table 1]" in text
    assert "100% of the widths [paper: 8 16; table 1]" in text


def test_resolve():
    assert resolve_preset(PRESETS, "quick", {"widths": [3]}) == Small(epochs=2, widths=(3,))
    with pytest.raises(ValueError, match="Unknown preset 'quik'; did you mean quick"):
        resolve_preset(PRESETS, "quik", {})
    with pytest.raises(ValueError, match="Unknown preset field 'epoch'; did you mean epochs"):
        resolve_preset(PRESETS, "quick", {"epoch": 1})


@pytest.mark.parametrize("presets", [REGRESSION], ids=["regression"])
def test_every_field_has_a_source(presets):
    for field in dataclasses.fields(presets["paper"]):
        source = field.metadata["source"]
        assert source.startswith(("section", "table", "figure", "equation", "assumption: ")), field.name
        assert field.metadata["text"]
        assert field.default is not None
    assert presets["paper"] == type(presets["paper"])()
