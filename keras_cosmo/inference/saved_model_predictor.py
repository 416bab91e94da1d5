"""Predictions from an exported SavedModel, without its Keras model."""

import json
import numbers
import pathlib

import numpy as np
import tensorflow as tf

from keras_cosmo.export.saved_model import versions


class SavedModelPredictor:
    """Loads a SavedModel and runs one of its signatures on arrays, batch by batch.

    Args:
        folder: A version folder (with ``saved_model.pb``), or the model's folder, whose highest version is taken.
        signature: Name of the signature. Defaults to "serving_default".

    Raises:
        FileNotFoundError: If there is no SavedModel in the folder.
        ValueError: If the signature does not exist, or files of the SavedModel are damaged.

    Attributes:
        inputs: Input name -> shape with None for the batch.
        outputs: Output name -> shape with None for the batch.
        units: Name -> unit, for inputs and outputs; empty for models of other origin.
        facts: All that ``assets.extra/keras_cosmo.json`` says about the model; empty for models of other origin.
    """

    def __init__(self, folder, signature: str = "serving_default"):
        folder = pathlib.Path(folder)
        if not (folder / "saved_model.pb").exists():
            present = versions(folder)
            if not present or not (present[-1] / "saved_model.pb").exists():
                raise FileNotFoundError(
                    f"No SavedModel in {folder}: expected saved_model.pb there or in a numbered version folder below. "
                    "A training run prints the folder of the model it exports."
                )
            folder = present[-1]
        self.folder = folder
        self._loaded = _load(folder)
        if signature not in self._loaded.signatures:
            raise ValueError(f"{folder} has no signature {signature!r}; it has {sorted(self._loaded.signatures)}.")
        self._function = self._loaded.signatures[signature]
        specs = self._function.structured_input_signature[1]
        self.inputs = {name: tuple(spec.shape.as_list()) for name, spec in specs.items()}
        self.outputs = {
            name: tuple(spec.shape.as_list()) for name, spec in sorted(self._function.structured_outputs.items())
        }
        self.output_names = list(self.outputs)
        self.units, self.facts = {}, {}
        path = folder / "assets.extra" / "keras_cosmo.json"
        if path.exists():
            self._read_facts(path, signature)

    def _read_facts(self, path, signature):
        try:
            self.facts = json.loads(path.read_text(encoding="utf-8"))
            described = self.facts["signatures"][signature]
            units = {
                part: {name: str(value["unit"]) for name, value in described[part].items()}
                for part in ("inputs", "outputs")
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is damaged ({type(error).__name__}: {error}): expected JSON that describes the signature "
                f"{signature!r}. Export the model again, or remove this file to do without units."
            ) from error
        if set(units["inputs"]) != set(self.inputs) or set(units["outputs"]) != set(self.output_names):
            raise ValueError(
                f"{path} is of another model: it describes {[list(names) for names in units.values()]}, the SavedModel "
                f"has {[list(self.inputs), self.output_names]}. Export the model again."
            )
        # The order of the file is the order of the parameters; TensorFlow sorts names.
        self.output_names = list(units["outputs"])
        self.units = {**units["inputs"], **units["outputs"]}

    def predict(self, batch_size: int = 64, **inputs) -> dict[str, np.ndarray]:
        """Outputs by name for whole arrays.

        Args:
            batch_size: Maps per call.
            **inputs: One array per input, the batch first; finite, in the unit that `units` states.

        Raises:
            ValueError: If an input is missing or unknown, is empty, has a wrong shape or holds NaN or infinity, or
                the batch size is not positive.
        """
        check_batch_size(batch_size)
        if set(inputs) != set(self.inputs):
            raise ValueError(f"Expected the inputs {sorted(self.inputs)}, got {sorted(inputs)}.")
        arrays = {name: np.asarray(value, dtype="float32") for name, value in inputs.items()}
        for name, array in arrays.items():
            expected = self.inputs[name]
            if array.ndim != len(expected) or any(
                want not in (None, have) for want, have in zip(expected, array.shape, strict=True)
            ):
                raise ValueError(f"Input {name!r}: expected shape {expected} (None: any), got {array.shape}.")
            if not np.isfinite(array).all():
                bad = sorted({int(index) for index in np.argwhere(~np.isfinite(array))[:, 0]})
                raise ValueError(f"Input {name!r}: maps {bad[:10]} hold NaN or infinity. Mask or leave them out first.")
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(f"Expected the same number of maps, at least one, for every input, got {counts}.")
        count = next(iter(counts.values()))
        parts = []
        for start in range(0, count, batch_size):
            tensors = {name: tf.constant(array[start : start + batch_size]) for name, array in arrays.items()}
            parts.append(self._function(**tensors))
        return {name: np.concatenate([part[name].numpy() for part in parts]) for name in self.output_names}


def check_batch_size(batch_size) -> None:
    """Raise ``ValueError`` unless it is a positive integer."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, numbers.Integral) or batch_size < 1:
        raise ValueError(f"`batch_size`: expected an integer of at least 1, got {batch_size!r}.")


def _load(folder):
    try:
        return tf.saved_model.load(str(folder))
    # TensorFlow has no error of its own for this: what it raises depends on the bytes that are missing.
    except (tf.errors.OpError, OSError, LookupError, ValueError, AttributeError, TypeError) as error:
        reason = " ".join(str(getattr(error, "message", error)).split())[:300]
        raise ValueError(
            f"{folder}: the SavedModel cannot be read ({type(error).__name__}: {reason}); saved_model.pb or a file "
            f"under variables/ is damaged or missing. Copy the whole folder again, or export the model again."
        ) from error
