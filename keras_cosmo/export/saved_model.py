"""SavedModels with named signatures in physical units, in the folder layout of TensorFlow Serving.

Layout::

    <base>/<name>/<version>/saved_model.pb
                            variables/
                            assets.extra/keras_cosmo.json               what the model is, inputs, outputs, units
                            assets.extra/tf_serving_warmup_requests
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable

import tensorflow as tf

from keras_cosmo.export.request_checks import blank_rows, check_request
from keras_cosmo.export.versions import versions
from keras_cosmo.export.warmup import write_warmup_requests

__all__ = ["Signature", "export_saved_model", "versions"]

ASIDE_PREFIX = "aside-"
# What a SavedModel can hold, to tell our unfinished exports from folders of other origin.
SAVED_MODEL_ITEMS = frozenset({"saved_model.pb", "variables", "assets", "assets.extra", "fingerprint.pb"})


@dataclasses.dataclass(frozen=True)
class Signature:
    """One function that a SavedModel offers.

    The exported function refuses inputs whose shape is not that of ``inputs``, whose batches are empty or of unequal
    length, and returns NaN in every row for which an input holds NaN or infinity; the other rows are not touched.

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
    package, in ``tf.saved_model.load``, in TensorFlow Serving and in the C++ loader. What earlier exports that were
    killed left under ``folder`` is removed first.

    Args:
        model: Keras model that owns the variables.
        folder: ``<base>/<name>``; the last part is the name the model is served under.
        signatures: Signature name -> `Signature`; one must be ``"serving_default"``.
        metadata: JSON-able facts to keep beside the model.

    Returns:
        The new version folder, ``folder/<integer>``, one above the highest number that any entry has for a name.

    Raises:
        ValueError: If ``serving_default`` is missing, or an input or output is not float32, int or string, or
            has no batch dimension.
        OSError: If the SavedModel could not be written, such as on a full disk; nothing is left behind.
    """
    folder = pathlib.Path(folder)
    if "serving_default" not in signatures:
        raise ValueError(f"`signatures`: one must be named 'serving_default', got {sorted(signatures)}.")
    module = tf.Module(name=folder.name)
    module.model_variables = [variable.value for variable in model.variables]
    functions = {name: _trace(name, signature) for name, signature in signatures.items()}
    module.functions = functions

    with _clear_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _remove_stale(folder):
            aside = pathlib.Path(tempfile.mkdtemp(prefix=ASIDE_PREFIX, dir=folder))
            try:
                _write(aside, folder.name, module, signatures, functions, metadata or {})
                return _rename_to_next_version(aside, folder)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise


def _trace(name, signature):
    def call(**inputs):
        checked, finite = check_request(inputs, signature.inputs)
        return {key: blank_rows(value, finite) for key, value in signature.function(**checked).items()}

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


def _write(aside, name, module, signatures, functions, metadata):
    tf.saved_model.save(module, str(aside), signatures=functions)
    write_warmup_requests(aside, name, [(key, value.example) for key, value in signatures.items()])
    facts = {
        "name": name,
        "signatures": {
            key: {
                "inputs": {each: _describe(spec, value.units[each]) for each, spec in value.inputs.items()},
                "outputs": {
                    each: _describe(spec, value.units[each]) for each, spec in functions[key].structured_outputs.items()
                },
            }
            for key, value in signatures.items()
        },
        **metadata,
    }
    (aside / "assets.extra" / "keras_cosmo.json").write_text(json.dumps(facts, indent=2) + "\n")
    aside.chmod(0o755)


def _rename_to_next_version(aside, folder):
    while True:
        # Any entry counts: a plain file with the number is in the way as much as a folder.
        taken = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        version = folder / str(1 + max(taken, default=0))
        try:
            return aside.rename(version)
        except OSError as error:
            # Another process took the number first; it is in the next listing.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


@contextlib.contextmanager
def _remove_stale(folder):
    """Remove what dead exports left in ``folder``, and keep what this one makes there from being removed.

    Every living export holds a shared lock on the folder, so that whoever gets it alone sees dead ones only.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Not got: another export lives, or the file system has no locks. Then everything stays.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in folder.iterdir():
                if _is_unfinished_export(path):
                    shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _is_unfinished_export(path):
    ours = re.fullmatch(re.escape(ASIDE_PREFIX) + "[a-z0-9_]{8}", path.name) and path.is_dir() and not path.is_symlink()
    return bool(ours) and {entry.name for entry in path.iterdir()} <= SAVED_MODEL_ITEMS


@contextlib.contextmanager
def _clear_errors(folder):
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
        reason = " ".join(f"{type(error).__name__}: {reason}".split())
        if isinstance(error, (PermissionError, FileExistsError, NotADirectoryError)):
            hint = "Is it a folder, and may you write there? Correct that, or give another folder"
        else:
            hint = "Is the disk full? Free space, or give another folder"
        raise OSError(
            f"{folder}: could not write the SavedModel ({reason}). {hint}, and export again; nothing was left behind."
        ) from error
