"""Who may import whom, kept by parsing the imports."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "keras_cosmo"
FLOORS = {
    "quantities": 0,
    "slicing": 0,
    "files": 0,
    "progress": 0,
    "distances": 0,
    "haloes": 0,
    "sphere": 0,
    "gnomonic": 0,
    "simulations": 0,
    "statistics": 0,
    "layers": 0,
    "losses": 0,
    "metrics": 0,
    "optimizers": 0,
    "bijectors": 0,
    "models": 1,
    "data": 1,
    "training": 2,
    "inference": 2,
    "figures": 2,
    "export": 2,
    "tasks": 3,
}
STRANGERS = [{"models", "data"}, {"models", "simulations"}, {"data", "simulations"}]
NO_TENSORFLOW = (
    "quantities",
    "slicing",
    "haloes",
    "sphere",
    "gnomonic",
    "simulations",
    "statistics",
    "layers",
    "losses",
    "metrics",
    "optimizers",
    "models",
    "figures",
)


def imports(source: str):
    """Modules that a source file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# A tape for several networks at once, and operations of TensorFlow that are not in Keras.
MAY_USE_TENSORFLOW = (
    "models/line_separator.py",
    "models/higlow.py",
    "layers/batch_normalization.py",
    "layers/packed_convolution.py",
    "layers/rectified_pooling.py",
    "layers/small_map_convolution.py",
    "layers/dropout.py",
    "optimizers.py",
)


def violations(room: str, source: str):
    """Imports of a file in ``room`` that go up, or across where that is forbidden, or to a foreign library."""
    for module in imports(source):
        parts = module.split(".")
        if parts[0] == "keras_cosmo" and len(parts) > 1 and parts[1] in FLOORS:
            if FLOORS[parts[1]] > FLOORS[room] or {room, parts[1]} in STRANGERS:
                yield module
        elif (
            (parts[0] in ("tensorflow", "tensorflow_probability") and room in NO_TENSORFLOW)
            or (parts[0] == "keras" and room in ("simulations", "statistics", "figures"))
            or parts[0] == "apps"
        ):
            yield module


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    found = list(violations(room, path.read_text()))
    allowed = ["tensorflow"] if path.relative_to(PACKAGE).as_posix() in MAY_USE_TENSORFLOW else []
    assert found == allowed


def test_every_room_has_a_floor():
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if not path.name.startswith("__")}
    assert rooms <= set(FLOORS)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("models", "from keras_cosmo.data.database import Database"),
        ("data", "import keras_cosmo.tasks.run"),
        ("simulations", "def f():\n    import tensorflow as tf"),
        ("layers", "from keras_cosmo import models"),
        ("figures", "import keras"),
    ],
)
def test_a_planted_violation_is_caught(room, source):
    assert list(violations(room, source))


def test_only_cosmology_imports_pyccl():
    users = [
        path.stem for path in PACKAGE.rglob("*.py") if any(m.startswith("pyccl") for m in imports(path.read_text()))
    ]
    assert users == ["cosmology"]


def test_import_loads_no_heavy_library():
    code = (
        "import sys, keras_cosmo, keras_cosmo.tasks.regression, keras_cosmo.tasks.run\n"
        "print([m for m in ('tensorflow', 'keras', 'matplotlib', 'h5py', 'sklearn', 'pyccl') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
