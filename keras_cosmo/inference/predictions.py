"""Predictions of an exported model for a whole database, as CSV."""

import csv
import logging
import pathlib

import numpy as np

from keras_cosmo.data.database import Database
from keras_cosmo.files import written_aside
from keras_cosmo.inference.saved_model_predictor import SavedModelPredictor, check_batch_size

logger = logging.getLogger(__name__)

# Differences from the training data beyond which maps are of another geometry, not of another rounding.
REDSHIFT_TOLERANCE, CELL_SIZE_TOLERANCE = 0.05, 1e-3


def write_predictions(model, data, out, batch_size: int = 64) -> dict[str, str]:
    """Run a SavedModel over every map of a database and write one CSV row per map.

    Maps are read batch by batch, so the database may be larger than memory. The file is written aside and
    renamed, so that it is complete or absent. If redshifts or cell size are known for both and differ from those of
    the training data, a warning is logged.

    Args:
        model: SavedModel version folder, or the folder of its versions.
        data: Database file whose fields have the names of the model's inputs.
        out: CSV file to write: ``map, simulation, <output>...``.
        batch_size: Maps per call.

    Returns:
        Output name -> unit.

    Raises:
        FileNotFoundError: If model or data are missing.
        ValueError: If the model asks for fields the database lacks, for maps of another shape or unit, or has outputs
            that are not one number per map; if a map is not finite, the batch size is not positive, ``out`` is a
            folder, or files are damaged.
    """
    check_batch_size(batch_size)
    out = pathlib.Path(out)
    if out.is_dir():
        raise ValueError(f"{out}: expected the CSV file to write, got a folder. Give a file name, such as {out}/p.csv.")
    if not out.parent.is_dir():
        raise FileNotFoundError(
            f"{out}: the folder {out.parent} does not exist. Make it first, or choose another --out."
        )
    predictor = SavedModelPredictor(model)
    arrays = {name: shape[1:] for name, shape in predictor.outputs.items() if len(shape) != 1}
    if arrays:
        raise ValueError(
            f"{predictor.folder} returns arrays {arrays}, expected one number per map: a CSV cannot hold them. "
            f"docs/serving.md says how to call such a model; apps/separate_maps.py and apps/predict_sky.py write maps."
        )
    database = Database(data).require(fields=tuple(predictor.inputs))
    check_fields(predictor, database)
    warn_of_other_geometry(predictor, database)
    logger.info("Model: %s", predictor.folder)
    with written_aside(out, "run the same again") as aside, aside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["map", "simulation", *predictor.output_names])
        for start in range(0, database.n_maps, batch_size):
            indices = range(start, min(start + batch_size, database.n_maps))
            inputs = {name: database.read(name, indices, check_finite=True) for name in predictor.inputs}
            outputs = predictor.predict(batch_size=batch_size, **inputs)
            columns = [values.tolist() for values in outputs.values()]
            simulations = database.simulation[start : indices.stop].tolist()
            for row in zip(indices, simulations, *columns, strict=True):
                writer.writerow([*row[:2], *(f"{value:.7g}" for value in row[2:])])
    return {name: predictor.units.get(name, "") for name in predictor.output_names}


def check_fields(predictor: SavedModelPredictor, database: Database) -> None:
    """Raise ``ValueError`` if maps that the model takes have another shape or unit in the database."""
    for name, (_, *expected) in predictor.inputs.items():
        field = database.fields[name]
        fits = len(expected) == len(field.shape) and all(
            want in (None, have) for want, have in zip(expected, field.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"{database.path}: maps of {name!r} have shape {field.shape}, but the model {predictor.folder} expects "
                f"shape {tuple(expected)}. Cut or simulate maps of that shape, or train a model on maps of this shape."
            )
        unit = predictor.units.get(name)
        if unit is not None and unit != field.unit:
            raise ValueError(
                f"{database.path}: maps of {name!r} are in {field.unit!r}, but the model {predictor.folder} expects "
                f"{unit!r}. Convert the maps, and set the attribute 'units' of /maps/{name} to {unit!r}."
            )


def warn_of_other_geometry(predictor: SavedModelPredictor, database: Database) -> None:
    """Log a warning if redshifts or cell size of the database differ from those the model was trained with."""
    differences = []
    trained, here = _numbers(predictor, "redshifts"), database.redshifts
    if trained is not None and here is not None:
        if len(trained) != len(here):
            differences.append(f"{len(here)} redshifts instead of {len(trained)}")
        elif not np.max(np.abs(here - trained)) <= REDSHIFT_TOLERANCE:
            differences.append(f"redshifts that differ by up to {np.max(np.abs(here - trained)):.3g}")
    trained, here = _numbers(predictor, "cell_size"), database.cell_size
    if trained is not None and here is not None and not abs(here - trained[0]) <= CELL_SIZE_TOLERANCE * trained[0]:
        differences.append(f"cells of {here:g} instead of {trained[0]:g}")
    if differences:
        logger.warning(
            "%s: not the geometry of the model's training data: %s. The predictions may be wrong; use maps of the same "
            "geometry.", database.path, ", ".join(differences),
        )  # fmt: skip


def _numbers(predictor, name):
    """Fact about the training data as an array, or None if it is not known."""
    value = predictor.facts.get(name)
    try:
        return None if value is None else np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{predictor.folder}/assets.extra/keras_cosmo.json: expected numbers for {name!r}, got {value!r}. Export "
            f"the model again."
        ) from error
