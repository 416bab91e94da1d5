"""SavedModels with named signatures in physical units, in the folder layout of TensorFlow Serving.

Layout::

    <base>/<name>/<version>/saved_model.pb
                            variables/
                            assets.extra/keras_cosmo.json               what the model is, inputs, outputs, units
                            assets.extra/tf_serving_warmup_requests
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_cosmo.export.warmup import write_warmup_requests


@dataclasses.dataclass(frozen=True)
class Signature:
    """One function that a SavedModel offers.

    Args:
        function: Takes one tensor per input, as keyword arguments, and returns a dict of tensors whose first
            dimension is the batch. Calls the model with ``training=False``.
        inputs: Input name -> ``tf.TensorSpec`` whose first dimension is None (the batch).
        units: Unit of every input and output, by name.
        example: Input name -> one small batch, float32, sent as warm-up request.
    """

    function: Callable
    inputs: dict
    units: dict
    example: dict


def export_saved_model(model, folder, signatures: dict, metadata: dict | None = None) -> pathlib.Path:
    """Write the model as the next version under ``folder``: aside first, then renamed, since servers poll.

    The SavedModel holds the variables and traced functions only: it loads without Keras and without this
    package, in ``tf.saved_model.load``, in TensorFlow Serving and in the C++ loader.

    Args:
        model: Keras model that owns the variables.
        folder: ``<base>/<name>``; the last part is the name the model is served under.
        signatures: Signature name -> `Signature`; one must be ``"serving_default"``.
        metadata: JSON-able facts to keep beside the model.

    Returns:
        The new version folder, ``folder/<next free integer>``.

    Raises:
        ValueError: If ``serving_default`` is missing, or an input or output is not float32, int or string, or
            has no batch dimension.
    """
    folder = pathlib.Path(folder)
    if "serving_default" not in signatures:
        raise ValueError(f"`signatures`: one must be named 'serving_default', got {sorted(signatures)}.")
    module = tf.Module(name=folder.name)
    module.model_variables = [variable.value for variable in model.variables]
    functions = {name: _trace(name, signature) for name, signature in signatures.items()}
    module.functions = functions

    folder.mkdir(parents=True, exist_ok=True)
    aside = pathlib.Path(tempfile.mkdtemp(prefix="aside-", dir=folder))
    try:
        tf.saved_model.save(module, str(aside), signatures=functions)
        write_warmup_requests(aside, folder.name, [(name, value.example) for name, value in signatures.items()])
        facts = {
            "name": folder.name,
            "signatures": {
                name: {
                    "inputs": {key: _describe(spec, value.units[key]) for key, spec in value.inputs.items()},
                    "outputs": {
                        key: _describe(spec, value.units[key])
                        for key, spec in functions[name].structured_outputs.items()
                    },
                }
                for name, value in signatures.items()
            },
            **(metadata or {}),
        }
        (aside / "assets.extra" / "keras_cosmo.json").write_text(json.dumps(facts, indent=2) + "\n")
        aside.chmod(0o755)
        return _rename_to_next_version(aside, folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def versions(folder) -> list[pathlib.Path]:
    """Version folders under ``<base>/<name>``, lowest first; names that are no integers are not versions."""
    folder = pathlib.Path(folder)
    found = [path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def _trace(name, signature):
    def call(**inputs):
        return signature.function(**inputs)

    specs = {key: tf.TensorSpec(spec.shape, spec.dtype, name=key) for key, spec in signature.inputs.items()}
    function = tf.function(call, autograph=False).get_concrete_function(**specs)
    outputs = function.structured_outputs
    for key, spec in {**specs, **outputs}.items():
        if spec.shape.rank is None or spec.shape.rank < 1 or spec.dtype in (tf.bfloat16, tf.float16, tf.float64):
            raise ValueError(
                f"Signature {name!r}: expected {key!r} with the batch as first dimension and dtype float32 (or an "
                f"integer or string), got shape {spec.shape} and dtype {spec.dtype.name}."
            )
    return function


def _describe(spec, unit):
    return {"shape": spec.shape.as_list(), "dtype": spec.dtype.name, "unit": unit}


def _rename_to_next_version(aside, folder):
    while True:
        present = versions(folder)
        version = folder / str(int(present[-1].name) + 1 if present else 1)
        # Another process may take the number first: then the rename fails, and the next one is tried.
        with contextlib.suppress(OSError):
            aside.rename(version)
            return version
        if not version.exists():
            raise OSError(f"Could not rename {aside} to {version}: check permissions.")


def example_batch(spec, seed: int = 0, count: int = 1, scale: float = 1.0) -> np.ndarray:
    """A float32 batch of Gaussian numbers with the shape of a ``tf.TensorSpec``, for warm-up requests."""
    shape = (count, *spec.shape.as_list()[1:])
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype("float32")
