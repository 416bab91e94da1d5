"""Model cards: what a shipped SavedModel is, how it was made and how well it does, as JSON and as a page to read."""

import hashlib
import json
import pathlib

CARD, PAGE = "card.json", "MODEL_CARD.md"


def file_checksums(folder) -> dict:
    """Size and SHA-256 of every file below a folder, but for the card itself.

    Args:
        folder: Version folder of a SavedModel.

    Returns:
        Path below the folder -> ``{"bytes": ..., "sha256": ...}``, sorted by path.

    Raises:
        FileNotFoundError: If there is no SavedModel in the folder.
    """
    folder = pathlib.Path(folder)
    if not (folder / "saved_model.pb").is_file():
        raise FileNotFoundError(f"{folder}: no SavedModel, expected saved_model.pb in it. Give a version folder.")
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (CARD, PAGE):
            content = path.read_bytes()
            found[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return found


def read_card(folder) -> dict:
    """The card of a shipped model, after its files were compared with the checksums in it.

    Args:
        folder: Version folder of a shipped model.

    Raises:
        FileNotFoundError: If there is no card or no SavedModel.
        ValueError: If the card is damaged, or files are missing, added or changed.

    Example:
        >>> read_card("saved_models/matter/1")["licence"]  # doctest: +SKIP
        'MIT'
    """
    path = pathlib.Path(folder) / CARD
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: no model card, expected {CARD}. Models that you exported yourself have none."
        )
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        expected = dict(card["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}). Check the file out again: git checkout -- {path}"
        ) from error
    found = file_checksums(folder)
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(
            f"{folder}: {', '.join(wrong)} {'differs' if len(wrong) == 1 else 'differ'} from the checksums of {CARD}. "
            f"Check the model out again: git checkout -- {folder}"
        )
    return card


def write_card(folder, card: dict) -> None:
    """Write ``card.json`` and ``MODEL_CARD.md`` into the folder of a model.

    Args:
        folder: Version folder of a SavedModel.
        card: As `keras_cosmo.tasks.shipped_model.build_card` makes it; the checksums are added here.

    Raises:
        FileNotFoundError: If there is no SavedModel in the folder.
    """
    card = {**card, "files": file_checksums(folder)}
    folder = pathlib.Path(folder)
    (folder / CARD).write_text(json.dumps(card, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(card_page(card), encoding="utf-8")


def card_page(card: dict) -> str:
    """The card as a page of Markdown."""
    made, data, check = card["made"], card["data"], card["check"]
    parts = [
        f"# {card['title']}: `{card['name']}`",
        f"The network of {card['paper']}, trained on maps of the {data['simulator']}. Licence: {card['licence']}. "
        f"Size: {sum(each['bytes'] for each in card['files'].values()) / 1e6:.1f} MB without this card.",
        "## What it takes and returns",
        *(_signature(name, signature) for name, signature in card["signatures"].items()),
        "## Data and split",
        _list(
            [
                f"{data['maps']} maps of {data['simulations']} simulations; {data['simulator']}",
                f"split by {data['split_by']}: "
                + ", ".join(f"{count} {part}" for part, count in data["split"].items()),
                f"pixels of {data['cell_size']:g} {data['cell_size_unit']}",
                *(
                    f"{name}{f' [{unit}]' if unit else ''} from {low:g} to {high:g}"
                    for name, unit, low, high in _ranges(data)
                ),
                f"checksum of the data: `{data['fingerprint']}`",
            ]
        ),
        "## Metrics",
        "On the test part, which the network has not seen. ± is the standard error; it holds nothing of what another "
        "training would change. The paper's column is what its authors published for their own data, for orientation.",
        _table(card["metrics"]),
        "## Calibration",
        card["calibration"]["text"],
        *([_table(card["calibration"])] if card["calibration"]["rows"] else []),
        "## Limits",
        _list(card["limits"]),
        "## How it was made",
        "\n".join(f"    {command}" for command in made["commands"]),
        _list(
            [
                f"seed {made['seed']}, {made['epochs']} epochs, precision {made['precision']}",
                "differs from the preset `" + made["preset"] + "`: " + (", ".join(made["changes"]) or "nothing"),
                *([f"started {made['started']}"] if made["started"] else []),
                *(
                    [
                        f"processor time: {made['processor_seconds'] / 60:.0f} minutes"
                        + ("" if made["simulated"] else ", the simulations not counted, which were there already")
                    ]
                    if made["processor_seconds"]
                    else []
                ),
                "versions: " + ", ".join(f"{name} {version}" for name, version in made["versions"].items()),
            ]
        ),
        "## Fixed set",
        f"{check['maps']} maps (simulations: {check['simulations']}) with the seed {check['seed']}, which no training "
        "has; `tests/saved_models` makes them again, loads the model and compares what it measures with these numbers, "
        f"to {check['tolerance']:g} of each. They are few maps: the quality is under Metrics.",
        _rows(["", "fixed set"], [[name, f"{value:.6g}"] for name, value in check["metrics"].items()]),
        "## Files",
        _rows(
            ["file", "bytes", "SHA-256"],
            [[f"`{name}`", str(each["bytes"]), f"`{each['sha256']}`"] for name, each in card["files"].items()],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _signature(name, signature):
    lines = [f"Signature `{name}`:", ""]
    for part in ("inputs", "outputs"):
        for key, each in signature[part].items():
            shape = ", ".join("any" if size is None else str(size) for size in each["shape"])
            unit = f", {each['unit']}" if each["unit"] else ""
            lines.append(f"- {part[:-1]} `{key}`: {each['dtype']} ({shape}){unit}")
    return "\n".join(lines)


def _ranges(data):
    return [(each["name"], each["unit"], each["low"], each["high"]) for each in data["parameters"]]


def _table(table):
    rows = []
    for row in table["rows"]:
        cells = []
        for value, error in zip(row["values"], row["standard_errors"], strict=True):
            if value is None:
                cells.append("")
            else:
                cells.append(f"{value:.3g}" + (f" ± {error:.2g}" if error else ""))
        rows.append([row["label"], *cells])
    return _rows(["", *table["columns"]], rows)


def _rows(header, rows):
    lines = [[cell.replace("|", "\\|") for cell in row] for row in [header, ["---"] * len(header), *rows]]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def _list(items):
    return "\n".join(f"- {item}" for item in items)
