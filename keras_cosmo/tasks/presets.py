"""Presets: frozen dataclasses whose every field names its source, and the command-line flags made from them."""

import argparse
import dataclasses
import difflib
import sys


def preset_field(default, *, source: str, text: str, choices: tuple | None = None, low=None, high=None, kind=str):
    """Field of a preset dataclass.

    Args:
        default: Value in the preset "paper".
        source: Where the value comes from: a section, table or equation of the paper, or "assumption: why".
        text: What it is, with its unit.
        choices: Allowed values, for text fields.
        low: Smallest value allowed, of each entry for tuples.
        high: Largest value allowed.
        kind: Type of the entries, for a tuple that is empty by default.
    """
    limits = {"low": low, "high": high, "kind": kind}
    return dataclasses.field(default=default, metadata={"source": source, "text": text, "choices": choices, **limits})


class Parser(argparse.ArgumentParser):
    """Argument parser that names the nearest flag or choice when it meets an unknown one."""

    def __init__(self, **options):
        super().__init__(
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            usage="%(prog)s [flags]   (--help lists them)",
            **options,
        )

    def parse_args(self, args=None, namespace=None):
        """Parse, or end with exit status 2 and one line that names the nearest flag."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            self.error(f"unknown argument {unknown[0]!r}{nearest(unknown[0].split('=')[0], flags)}")
        return parsed

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action, f"unknown value {value!r}{nearest(str(value), choices)} Choose from {', '.join(choices)}."
            )


def nearest(name: str, candidates) -> str:
    """Half a sentence that suggests the nearest candidates, to follow what was not found."""
    close = difflib.get_close_matches(name, list(candidates), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else "."


def add_preset_flags(parser: argparse.ArgumentParser, presets: dict) -> None:
    """One flag per field, with the value of each preset; a flag that is not given leaves no trace in the namespace."""
    preset_class = type(next(iter(presets.values())))
    group = parser.add_argument_group("preset fields", "each changes one value of the preset")
    for field in dataclasses.fields(preset_class):
        options = {"default": argparse.SUPPRESS, "dest": field.name}
        values = {name: show(getattr(preset, field.name)) for name, preset in presets.items()}
        differing = [f"{name}: {value}" for name, value in values.items() if value != show(field.default)]
        facts = "; ".join([f"paper: {show(field.default)}", *differing, field.metadata["source"]])
        options["help"] = f"{field.metadata['text']} [{facts}]".replace("%", "%%")
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        elif isinstance(field.default, tuple):
            kind = type(field.default[0]) if field.default else field.metadata["kind"]
            group.add_argument(flag, nargs="+", type=kind, metavar="VALUE", **options)
        else:
            choices = field.metadata["choices"]
            metavar = None if choices else "VALUE"
            group.add_argument(flag, type=type(field.default), choices=choices, metavar=metavar, **options)


def resolve_preset(presets: dict, name: str, changes: dict):
    """The named preset with ``changes`` (field -> value) applied.

    Raises:
        ValueError: If the preset or a field does not exist (the message names the nearest one), or a value is out
            of range.
    """
    if name not in presets:
        raise ValueError(f"Unknown preset {name!r}{nearest(name, presets)} There are {', '.join(presets)}.")
    preset = presets[name]
    names = [field.name for field in dataclasses.fields(preset)]
    for change in changes:
        if change not in names:
            raise ValueError(f"Unknown preset field {change!r}{nearest(change, names)}")
    values = {key: tuple(value) if isinstance(getattr(preset, key), tuple) else value for key, value in changes.items()}
    resolved = dataclasses.replace(preset, **values)
    for field in dataclasses.fields(resolved):
        _check_range(field, getattr(resolved, field.name))
    return resolved


def _check_range(field, value):
    low, high = field.metadata["low"], field.metadata["high"]
    for entry in value if isinstance(value, tuple) else (value,):
        # Written so that NaN fails too.
        if (low is not None and not entry >= low) or (high is not None and not entry <= high):
            limits = f"at least {low}" if high is None else f"from {low} to {high}"
            raise ValueError(f"--{field.name.replace('_', '-')}: expected {limits}, got {show(value)}.")


def show(value) -> str:
    """A preset value as text."""
    return (" ".join(str(entry) for entry in value) or "none") if isinstance(value, tuple) else str(value)


def fail(message: str, status: int = 1) -> int:
    """Print one clear line to standard error and return the exit status."""
    sys.stderr.write(f"error: {message}\n")
    return status
