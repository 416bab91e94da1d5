"""Versions of a model, as TensorFlow Serving finds them; needs no TensorFlow."""

import pathlib


def versions(folder) -> list[pathlib.Path]:
    """Version folders under ``<base>/<name>``, lowest first; names that are no integers are not versions."""
    folder = pathlib.Path(folder)
    found = [path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))
