"""Astrophysical parameters from 21-cm light-cone images (Gillet et al. 2019)."""

import dataclasses

from keras_cosmo.tasks.presets import nearest, preset_field
from keras_cosmo.tasks.task import Evaluation, Paper, Prepared, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegressionPreset:
    """Every number of the recipe, with its source; the defaults are the paper's."""

    simulations: int = preset_field(10_000, source="section 2.1", text="number of light-cones to simulate", low=3)
    images_per_simulation: int = preset_field(
        10, source="section 2.2, figure 2", text="images of each simulated light-cone", low=1
    )
    n_perp: int = preset_field(100, source="section 2.2", text="image cells across the sky", low=8)
    n_los: int = preset_field(2200, source="section 2.1", text="image cells along the line of sight", low=8)
    z_min: float = preset_field(6.0, source="section 2.1", text="lowest redshift of the image", low=5.9, high=33)
    z_max: float = preset_field(30.0, source="section 2.1", text="highest redshift of the image", low=6, high=34)
    fractions: tuple[float, ...] = preset_field(
        (0.8, 0.1, 0.1),
        source="section 3.5",
        text="training, validation and test fractions of the simulations",
        low=0,
        high=1,
    )
    evaluation_images: int = preset_field(
        1, source="section 3.5, footnote 6", text="images of each validation and test light-cone that are scored", low=1
    )
    average_images: bool = preset_field(
        True,
        source="assumption: the paper scores single images",
        text="also score the mean prediction over all images of a test light-cone, with its error",
    )
    filters: tuple[int, ...] = preset_field((8, 16), source="table 1", text="filters of each convolution", low=1)
    kernel_size: int = preset_field(10, source="table 1", text="side of the convolution filters in cells", low=1)
    pool_size: int = preset_field(2, source="table 1", text="side of the max pooling in cells", low=1)
    dense_units: tuple[int, ...] = preset_field(
        (64, 16, 8), source="table 1", text="neurons of the hidden layers", low=1
    )
    dropout: float = preset_field(0.2, source="section 3.5", text="fraction dropped after flattening", low=0, high=0.99)
    learning_rate: float = preset_field(
        1e-3,
        source="assumption: not stated, the default of Keras",
        text="learning rate of RMSprop at the start",
        low=1e-12,
        high=10.0,
    )
    batch_size: int = preset_field(200, source="table 1", text="images per update", low=1)
    epochs: int = preset_field(100, source="table 1", text="passes over the training images", low=1)
    plateau_patience: int = preset_field(
        5, source="table 1", text="epochs without a lower training loss before the learning rate falls", low=1
    )
    plateau_factor: float = preset_field(
        0.5, source="table 1", text="factor on the learning rate at a plateau", low=1e-6, high=0.999
    )
    augmentation: str = preset_field(
        "none",
        source="assumption: the paper has none",
        text="random changes of the training images across the sky: flip, flip and periodic shift, or (auto) the shift "
        "only where the database says that its maps are periodic",
        choices=("none", "flip", "flip-and-shift", "auto"),
    )
    frozen: tuple[str, ...] = preset_field(
        (), source="assumption: the paper trains all layers", text="names of layers whose weights are not trained"
    )


PAPER = RegressionPreset()
PRESETS = {
    "quick": dataclasses.replace(
        PAPER,
        simulations=8000,
        images_per_simulation=1,
        n_perp=32,
        n_los=512,
        batch_size=64,
        epochs=50,
        plateau_patience=2,
        augmentation="auto",
    ),
    # For the start from a network that was trained on other light-cones, with --start-from.
    "fine-tune": dataclasses.replace(
        PAPER,
        learning_rate=3e-5,
        batch_size=24,
        epochs=30,
        plateau_patience=10,
        augmentation="auto",
        frozen=("batch_normalization",),
    ),
    "paper": PAPER,
}

PARAMETERS = ("zeta", "log10_L_X", "log10_T_vir", "E_0")
BASELINE_BINS = 64
BASELINE_MAPS = 100_000
"""Most training maps that the baseline is fitted to, evenly spread over the part; each costs it 1 kB of memory."""
RESIDUAL_BINS = 20


class RegressionTask(Task):
    """Light-cone image -> zeta, L_X, T_vir, E_0 with the network of Table 1."""

    name = "regression"
    title = "Astrophysical parameters from 21-cm light-cone images"
    model_name = "lightcone_regressor"
    presets = PRESETS
    simulator_fields = ("simulations", "images_per_simulation", "n_perp", "n_los", "z_min", "z_max")
    field = "brightness_temp"
    unit = "mK"
    paper = Paper(
        citation="Gillet, Mesinger, Greig, Liu & Ucci 2019, MNRAS 484, 282 (arXiv:1805.02699)",
        title="Deep learning from 21-cm tomography of the cosmic dawn and reionization",
        bibtex=(
            "@article{Gillet2019,\n  author = {Gillet, Nicolas and Mesinger, Andrei and Greig, Bradley and Liu, Adrian "
            "and Ucci, Graziano},\n  title = {Deep learning from 21-cm tomography of the cosmic dawn and "
            "reionization},\n  journal = {Monthly Notices of the Royal Astronomical Society},\n  volume = {484},\n"
            "  pages = {282},\n  year = {2019},\n  eprint = {1805.02699}\n}"
        ),
        values={
            "r2/zeta": 0.955,
            "r2/log10_L_X": 0.987,
            "r2/log10_T_vir": 0.997,
            "r2/E_0": 0.728,
            "scatter/log10_T_vir": 0.028,
            "scatter/log10_L_X": 0.11,
        },
    )

    def check_settings(self, settings):
        """Frozen layers are for networks that are trained already."""
        if settings.preset.frozen and settings.start_from is None:
            raise ValueError(
                f"Preset {settings.preset_name!r} freezes {', '.join(settings.preset.frozen)}, which makes sense only "
                "for a network that is trained already. Name its run with --start-from, or choose another preset."
            )

    def simulator(self, preset):
        """Embedded light-cones at the preset's geometry."""
        from keras_cosmo.simulations.lightcones import LightconeSimulator

        return LightconeSimulator(
            n_perp=preset.n_perp,
            n_los=preset.n_los,
            z_min=preset.z_min,
            z_max=preset.z_max,
            maps_per_simulation=preset.images_per_simulation,
        )

    def simulations(self, preset):
        """Number of light-cones."""
        return preset.simulations

    def prepare(self, preset, database, seed):
        """Split by simulation; normalise image and parameters with the training part."""
        from keras_cosmo.data import augmentation
        from keras_cosmo.data.normalization import fit_normalization
        from keras_cosmo.data.pipeline import MapPipeline
        from keras_cosmo.data.splits import split_by_simulation

        self._check(preset, database)
        split = split_by_simulation(database.simulation, preset.fractions, seed)
        if len(split.test) < 2:
            raise ValueError(
                f"{database.path}: {database.n_simulations} simulations leave {len(split.test)} for the test, but R2 "
                "needs 2 at least. Bring more simulations, or choose other --fractions."
            )
        training = split.maps("train", database.simulation)
        validation = split.maps("validation", database.simulation, preset.evaluation_images)
        scan = database.scan()
        image = fit_normalization(scan, self.field, training)
        targets = database.targets(training)
        normalization = {
            self.field: {"mean": image.mean, "standard_deviation": image.standard_deviation},
            "parameters": {
                "mean": targets.mean(axis=0).tolist(),
                "standard_deviation": targets.std(axis=0).tolist(),
            },
        }
        augment = {
            "none": None,
            "flip": augmentation.flip_lightcones,
            "flip-and-shift": augmentation.augment_lightcones,
        }
        periodic = database.attributes.get("periodic_across_sky")
        if preset.augmentation == "flip-and-shift" and periodic is not None and not periodic:
            raise ValueError(
                f"{database.path}: its maps are not periodic across the sky, so --augmentation flip-and-shift would "
                "put seams into them. Choose flip or auto."
            )
        augment["auto"] = augment["flip-and-shift" if periodic else "flip"]
        return Prepared(
            database=database,
            split=split,
            training=MapPipeline(
                database,
                self.field,
                "parameters",
                training,
                preset.batch_size,
                seed,
                augment=augment[preset.augmentation],
            ),
            validation=MapPipeline(
                database, self.field, "parameters", validation, min(preset.batch_size, len(validation)), seed
            ),
            normalization=normalization,
            fingerprint=scan.fingerprint,
        )

    def _check(self, preset, database):
        """Everything that training, figures and export will ask of the data, before any of them begins."""
        from keras_cosmo.models.lightcone_regressor import check_map_shape

        database.require(task=self.name, fields=(self.field,))
        if database.fields[self.field].unit != self.unit:
            raise ValueError(
                f"{database.path}: expected {self.field} in {self.unit}, got {database.fields[self.field].unit!r}. "
                "Convert the maps and correct the attribute `units`."
            )
        names = database.parameter_names
        if list(names) != [name for name in PARAMETERS if name in names]:
            raise ValueError(
                f"{database.path}: expected the parameters {', '.join(PARAMETERS)} (or some of them) in this order, "
                f"got {', '.join(names)}. Reorder or rename the columns of /parameters."
            )
        for attribute in ("redshifts", "cell_size"):
            if getattr(database, attribute) is None:
                raise ValueError(
                    f"{database.path}: expected the root attribute {attribute!r} (per line-of-sight cell, in Mpc), "
                    "which figures and export need. Add it."
                )
        shape = database.fields[self.field].shape
        try:
            check_map_shape(shape, len(preset.filters), preset.kernel_size, preset.pool_size)
        except ValueError as error:
            raise ValueError(f"{database.path}: {error}") from error

    def build(self, preset, database, normalization, dtype):
        """`LightconeRegressor` at the size of the data."""
        from keras_cosmo.models.lightcone_regressor import LightconeRegressor

        model = LightconeRegressor(
            map_shape=database.fields[self.field].shape if database else (preset.n_perp, preset.n_los),
            num_parameters=len(database.parameters) if database else 4,
            filters=preset.filters,
            kernel_size=preset.kernel_size,
            pool_size=preset.pool_size,
            dense_units=preset.dense_units,
            dropout=preset.dropout,
            dtype=dtype,
            **(self.model_arguments(normalization) if normalization else {}),
        )
        names = [layer.name for layer in model.layers]
        for name in preset.frozen:
            if name not in names:
                raise ValueError(f"--frozen: no layer {name!r}{nearest(name, names)} There are {', '.join(names)}.")
            model.get_layer(name).trainable = False
        return model

    def compile(self, preset, model, normalization):
        """RMSprop and the mean squared error of standardised parameters (section 3.3)."""
        import keras

        from keras_cosmo.losses import StandardizedMeanSquaredError

        num_parameters = model.output.shape[-1]
        scale = normalization["parameters"]["standard_deviation"] if normalization else [1.0] * num_parameters
        model.compile(
            optimizer=keras.optimizers.RMSprop(preset.learning_rate), loss=StandardizedMeanSquaredError(scale)
        )

    def model_arguments(self, normalization):
        """Arguments of `LightconeRegressor` that hold the normalisation."""
        image, parameters = normalization[self.field], normalization["parameters"]
        return {
            "input_mean": image["mean"],
            "input_standard_deviation": image["standard_deviation"],
            "output_mean": parameters["mean"],
            "output_standard_deviation": parameters["standard_deviation"],
        }

    def callbacks(self, preset):
        """Learning rate on a plateau of the training loss (section 3.3)."""
        import keras

        return [
            keras.callbacks.ReduceLROnPlateau(
                monitor="loss", factor=preset.plateau_factor, patience=preset.plateau_patience, min_delta=0.0
            )
        ]

    def evaluate(self, preset, model, prepared, seed):
        """R2, RMSE, bias and scatter of the network and of the global-signal baseline on unseen simulations."""
        import numpy as np

        from keras_cosmo.data.pipeline import MapPipeline
        from keras_cosmo.statistics.scores import average_by_simulation, scores

        database, split, parameters = prepared.database, prepared.split, prepared.database.parameters
        all_images = split.maps("test", database.simulation)
        scored = np.isin(all_images, split.maps("test", database.simulation, preset.evaluation_images))
        simulation = database.simulation[all_images]
        true = database.targets(all_images)
        images = MapPipeline(database, self.field, "parameters", all_images, batch_size=preset.batch_size, seed=seed)
        predicted = np.concatenate([model(maps, training=False).numpy() for maps, _ in images.evaluation()]).astype(
            "float64"
        )

        metrics = scores(true[scored], predicted[scored], parameters, simulation[scored], seed=seed)
        names = database.parameter_names
        tables = {"predictions": {"map": all_images, "simulation": simulation, "scored": scored}}
        for index, name in enumerate(names):
            tables["predictions"][f"{name}_true"] = true[:, index]
            tables["predictions"][f"{name}_predicted"] = predicted[:, index]
        average = average_by_simulation(predicted, simulation)
        if preset.average_images and len(average.simulation) < len(all_images):
            _, first = np.unique(simulation, return_index=True)
            averaged = scores(true[first], average.mean, parameters, average.simulation, seed=seed)
            metrics |= {f"averaged/{name}": value for name, value in averaged.items()}
            error = np.nanmean(average.standard_error, axis=0)
            metrics |= {
                f"averaged/standard_error/{name}": float(value) for name, value in zip(names, error, strict=True)
            }
            tables["averaged_predictions"] = {"simulation": average.simulation}
            for index, name in enumerate(names):
                tables["averaged_predictions"][f"{name}_true"] = true[first, index]
                tables["averaged_predictions"][f"{name}_predicted"] = average.mean[:, index]
                tables["averaged_predictions"][f"{name}_standard_error"] = average.standard_error[:, index]
        baseline = self.baseline(prepared)
        baseline_predicted = baseline.predict(
            baseline.features_from_batches(database.stored(self.field, all_images[scored]).batches())
        )
        metrics |= {
            f"baseline/{name}": value
            for name, value in scores(
                true[scored], baseline_predicted, parameters, simulation[scored], seed=seed
            ).items()
        }
        tables["binned_residuals"] = self.binned(true[scored], predicted[scored], parameters)
        arrays = {"true": true[scored], "predicted": predicted[scored], "baseline": baseline_predicted}
        return Evaluation(
            metrics=metrics, tables=[self.score_table(metrics, parameters)], arrays=arrays, columns=tables
        )

    def binned(self, true, predicted, parameters):
        """Bias and scatter given the true and given the predicted value (section 4.2), as columns of a table."""
        import numpy as np

        from keras_cosmo.statistics.scores import binned_residuals

        columns = {key: [] for key in ("parameter", "given", "from", "to", "count", "bias", "scatter")}
        for index, parameter in enumerate(parameters):
            edges = np.linspace(parameter.low, parameter.high, RESIDUAL_BINS + 1)
            residual = predicted[:, index] - true[:, index]
            for given, values in (("true", true), ("predicted", predicted)):
                bins = binned_residuals(values[:, index], residual, edges)
                columns["parameter"] += [parameter.name] * RESIDUAL_BINS
                columns["given"] += [given] * RESIDUAL_BINS
                columns["from"] += edges[:-1].tolist()
                columns["to"] += edges[1:].tolist()
                columns["count"] += [int(count) for count in bins.counts]
                columns["bias"] += bins.mean.tolist()
                columns["scatter"] += bins.standard_deviation.tolist()
        return columns

    def baseline(self, prepared):
        """Ridge regression on the global signal and its scatter, fitted on the training part."""
        from keras_cosmo.data.stored_maps import evenly_spread
        from keras_cosmo.models.baselines import GlobalSignalRidge

        database = prepared.database
        training = evenly_spread(prepared.split.maps("train", database.simulation), BASELINE_MAPS)
        ridge = GlobalSignalRidge(bins=min(BASELINE_BINS, database.fields[self.field].shape[1]))
        features = ridge.features_from_batches(database.stored(self.field, training).batches())
        return ridge.fit(features, database.targets(training), database.simulation[training])

    def score_table(self, metrics, parameters):
        """The table that is printed last and opens the report."""
        from keras_cosmo.figures.report import Table

        averaged = any(name.startswith("averaged/r2") for name in metrics)
        rows = []
        for parameter in parameters:
            name = parameter.name
            error = metrics.get(f"r2_standard_error/{name}")
            row = [
                name + (f" [{parameter.unit}]" if parameter.unit else ""),
                f"{metrics[f'r2/{name}']:.3f}" + (f" ± {error:.3f}" if error is not None else ""),
                *([f"{metrics[f'averaged/r2/{name}']:.3f}"] if averaged else []),
                f"{metrics[f'baseline/r2/{name}']:.3f}",
                f"{self.paper.values[f'r2/{name}']:.3f}" if f"r2/{name}" in self.paper.values else "",
                f"{metrics[f'rmse/{name}']:.3g}",
                f"{metrics[f'bias/{name}']:+.2g}",
                f"{metrics[f'scatter/{name}']:.3g}",
            ]
            rows.append(row)
        header = ["parameter", "R2", *(["R2, mean of images"] if averaged else []), "R2 baseline", "R2 paper*"]
        return Table(
            title="Recovery on unseen simulations",
            header=[*header, "RMSE", "bias", "scatter"],
            rows=rows,
            note=(
                "Test simulations only. Baseline: ridge regression on the global signal and its scatter across the "
                "sky. *As published for the authors' own data, 10 images of each of 8000 light-cones; shown for "
                "orientation, not reached or missed here. ± is the standard error over simulations (bootstrap)."
            ),
        )

    def figures(self, preset, model, prepared, evaluation, history):
        """Figures 1, 4, 5, A1, A2 and table 2 of the paper, from this run."""
        import keras
        import numpy as np

        from keras_cosmo.figures import regression as draw
        from keras_cosmo.layers.rectified_pooling import RectifiedMaxPooling2D

        database, parameters = prepared.database, prepared.database.parameters
        arrays, metrics = evaluation.arrays, evaluation.metrics
        test = prepared.split.maps("test", database.simulation, 1)
        targets = database.targets(test)
        names = list(database.parameter_names)
        # Two light-cones as unlike as the test part offers, as in figures 1 and A2.
        order = np.argsort(targets[:, names.index("log10_L_X")] if "log10_L_X" in names else targets[:, 0])
        pair = [int(order[len(order) // 10]), int(order[-1 - len(order) // 10])]
        images = database.read(self.field, test[pair])
        titles = [
            ", ".join(f"{name} = {value:.4g}" for name, value in zip(names, targets[index], strict=True))
            for index in pair
        ]
        geometry = {"redshifts": database.redshifts, "cell_size": database.cell_size, "titles": titles}
        baseline = {
            name.removeprefix("baseline/"): value for name, value in metrics.items() if name.startswith("baseline/")
        }
        table = {
            source: {name: values[f"r2/{name}"] for name in names if f"r2/{name}" in values}
            for source, values in (("network", metrics), ("baseline", baseline), ("paper", self.paper.values))
        }
        table = {source: values for source, values in table.items() if values}
        errors = {
            "network": {
                name: metrics[f"r2_standard_error/{name}"] for name in names if f"r2_standard_error/{name}" in metrics
            }
        }
        result = {
            "lightcones": (
                draw.lightcone_images(images, **geometry),
                "Two unseen light-cone images, as figure 1 of the paper.",
            ),
            "loss_history": (
                draw.loss_history(history),
                "Loss on training and validation images after each epoch, and the learning rate (figure 4).",
            ),
            "predicted_against_true": (
                draw.predicted_against_true(arrays["true"], arrays["predicted"], parameters, arrays["baseline"]),
                "Predicted against true parameters of unseen simulations; below, the residual given the truth, at the "
                "side given the prediction (figure 5).",
            ),
            "scores": (
                draw.score_comparison(table, parameters, errors),
                "R2 of the network, of the baseline on the same split, and as published (table 2).",
            ),
        }
        convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        # Where the first convolution was swapped for another kind of layer, there are no filters to draw.
        if convolutions and convolutions[0].kernel.shape[2] == 1:
            first = convolutions[0]
            response = first.output
            # Unless it was swapped for another, the layer behind begins with ReLU.
            if isinstance(model.layers[model.layers.index(first) + 1], RectifiedMaxPooling2D):
                response = keras.ops.relu(response)
            responses = keras.Model(model.input, response)(images, training=False)
            result["first_layer_filters"] = (
                draw.first_layer_filters(np.asarray(first.kernel)),
                "Filters of the first convolution after training (figure A1).",
            )
            result["first_layer_responses"] = (
                draw.first_layer_responses(
                    images,
                    np.moveaxis(keras.ops.convert_to_numpy(keras.ops.cast(responses, "float32")), -1, 1),
                    **geometry,
                ),
                "Responses of the first convolution to the two light-cones (figure A2).",
            )
        return result

    def signatures(self, preset, model, prepared, evaluation):
        """``serving_default``: brightness temperature [mK] -> parameters by name, in their own units."""
        import tensorflow as tf

        from keras_cosmo.export.saved_model import Signature

        database = prepared.database
        names = list(database.parameter_names)
        n_perp, n_los = database.fields[self.field].shape

        def predict(brightness_temp):
            return dict(zip(names, tf.unstack(model(brightness_temp, training=False), axis=-1), strict=True))

        return {
            "serving_default": Signature(
                function=predict,
                inputs={self.field: tf.TensorSpec([None, n_perp, n_los], tf.float32)},
                units={self.field: self.unit, **{parameter.name: parameter.unit for parameter in database.parameters}},
                example={self.field: database.read(self.field, prepared.split.maps("test", database.simulation)[:1])},
            )
        }
