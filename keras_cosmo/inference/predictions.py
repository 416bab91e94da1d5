"""Predictions of an exported model for a whole database, as CSV."""

import csv
import pathlib

from keras_cosmo.data.database import Database
from keras_cosmo.inference.saved_model_predictor import SavedModelPredictor


def write_predictions(model, data, out, batch_size: int = 64) -> dict[str, str]:
    """Run a SavedModel over every map of a database and write one CSV row per map.

    Maps are read batch by batch, so the database may be larger than memory. The file is written aside and
    renamed, so that it is complete or absent.

    Args:
        model: SavedModel version folder, or the folder of its versions.
        data: Database file whose fields have the names of the model's inputs.
        out: CSV file to write: ``map, simulation, <output>...``.
        batch_size: Maps per call.

    Returns:
        Output name -> unit.

    Raises:
        FileNotFoundError: If model or data are missing.
        ValueError: If the model asks for fields the database lacks, for maps of another shape, or has outputs
            that are not one number per map.
    """
    predictor = SavedModelPredictor(model)
    database = Database(data).require(fields=tuple(predictor.inputs))
    out = pathlib.Path(out)
    if not out.parent.is_dir():
        raise FileNotFoundError(
            f"{out}: the folder {out.parent} does not exist. Make it first, or choose another --out."
        )
    aside = out.with_name(out.name + ".partial")
    try:
        with aside.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["map", "simulation", *predictor.output_names])
            for start in range(0, database.n_maps, batch_size):
                indices = range(start, min(start + batch_size, database.n_maps))
                inputs = {name: database.read(name, list(indices)) for name in predictor.inputs}
                outputs = predictor.predict(batch_size=batch_size, **inputs)
                if any(values.ndim != 1 for values in outputs.values()):
                    shapes = {name: values.shape[1:] for name, values in outputs.items()}
                    raise ValueError(
                        f"{model} returns maps {shapes}, expected one number per map: a CSV cannot hold them."
                    )
                columns = [values.tolist() for values in outputs.values()]
                simulations = database.simulation[start : indices.stop].tolist()
                for row in zip(indices, simulations, *columns, strict=True):
                    writer.writerow([*row[:2], *(f"{value:.7g}" for value in row[2:])])
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return {name: predictor.units.get(name, "") for name in predictor.output_names}
