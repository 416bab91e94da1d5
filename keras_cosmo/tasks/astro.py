"""Astrophysical parameters from 21-cm maps, on the encoder of the U-Net, and what the network looks at.

Villanueva-Domingo & Villaescusa-Navarro (2021), sections IV.3 to IV.5.
"""

import dataclasses

from keras_cosmo.quantities import field_at_redshift
from keras_cosmo.tasks.coeval import BRIGHTNESS, DENSITY, PARAMETERS, CoevalPreset, CoevalTask, scales
from keras_cosmo.tasks.presets import preset_field, show
from keras_cosmo.tasks.task import Evaluation, copy_weights, load_start

# The last one is exported last and so is the version that is served.
ENCODERS = ("scratch", "frozen", "fine-tune")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AstroPreset(CoevalPreset):
    """Every number of the recipe, with its source; the defaults are the paper's."""

    encoder: str = preset_field(
        "fine-tune",
        source="section IV.3",
        text="the encoder of the U-Net of --start-from trained along or frozen, a new one from scratch, or (all) the "
        "three after each other, into subfolders, with one table",
        choices=(*ENCODERS, "all"),
    )
    regression_widths: tuple[int, ...] = preset_field(
        (512, 1028, 1028),
        source="table III; the public code has 512 1024 1024",
        text="filters of the units with stride 2 after the encoder",
        low=1,
    )
    dense_units: int = preset_field(100, source="table III", text="neurons of the fully connected layer", low=1)
    dropout: float = preset_field(0.2, source="section IV.3", text="fraction dropped after it", low=0, high=0.99)
    epochs: int = preset_field(20, source="section IV.3", text="passes over the training maps", low=1)


PAPER = AstroPreset()
PRESETS = {
    "quick": dataclasses.replace(
        PAPER,
        simulations=300,
        box_cells=64,
        slabs=16,
        widths=(16, 32, 64),
        regression_widths=(128, 256, 256),
        symmetries="random",
        shifts="auto",
        padding="auto",
        epochs=12,
        plateau_patience=3,
    ),
    "fine-tune": dataclasses.replace(
        PAPER,
        symmetries="random",
        shifts="auto",
        padding="auto",
        learning_rate=2e-4,
        epochs=60,
    ),
    "paper": PAPER,
}

SALIENCY_MAPS = 3
BRIGHTEST = 0.02
RANDOMISED_MAPS = 16


class AstroTask(CoevalTask):
    """21-cm map -> L_X, M_min, N_gamma with the network of table III."""

    name = "astro"
    title = "Astrophysical parameters from 21-cm maps"
    model_name = "astro"
    presets = PRESETS
    earlier_tasks = ("matter",)

    def check_settings(self, settings):
        """The encoder of a U-Net needs a U-Net."""
        encoder = settings.preset.encoder
        if encoder == "scratch" and settings.start_from is not None:
            raise ValueError("--encoder scratch starts from nothing, but --start-from is given. Leave one of them out.")
        if encoder != "scratch" and settings.start_from is None:
            raise ValueError(
                f"--encoder {encoder} takes the encoder of a trained U-Net: name its run with --start-from (the folder "
                "that apps/train_matter.py made), or choose --encoder scratch."
            )
        if settings.start_normalization != "keep":
            raise ValueError(
                "--start-normalization refit: an encoder needs the normalisation it was trained with. Leave it out."
            )

    def run(self, settings, progress=False):
        """Train one network, or all three and compare them."""
        if settings.preset.encoder != "all":
            return super().run(settings, progress)
        from keras_cosmo.tasks.encoders import run_all_encoders

        return run_all_encoders(self, settings, progress)

    def paper_values(self, preset):
        """The text quotes one number for all parameters together (sections IV.3 and IV.4)."""
        quoted = {
            ("frozen", (15.0,)): 0.76,
            ("fine-tune", (15.0,)): 0.89,
            ("fine-tune", (10.0,)): 0.97,
        }
        value = quoted.get((preset.encoder, tuple(preset.redshifts)))
        return {} if value is None else {"r2/mean": value}

    def outputs(self, preset):
        """Parameters."""
        return "parameters"

    def read_fields(self, preset):
        """The 21-cm maps."""
        return self.inputs(preset)

    def check(self, preset, database):
        """As for the U-Net, and the parameters."""
        super().check(preset, database)
        names = database.parameter_names
        if not names or list(names) != [name for name in PARAMETERS if name in names]:
            raise ValueError(
                f"{database.path}: expected the parameters {', '.join(PARAMETERS)} (or some of them) in this order, "
                f"got {', '.join(names) or 'none'}. Reorder or rename the columns of /parameters."
            )

    def prepare(self, preset, database, seed):
        """As for the U-Net; parameters are scaled by their prior ranges, as in the public code."""
        prepared = super().prepare(preset, database, seed)
        prepared.normalization["parameters"] = {
            "low": [float(parameter.low) for parameter in database.parameters],
            "range": [float(parameter.high - parameter.low) for parameter in database.parameters],
        }
        return prepared

    def build(self, preset, database, normalization, dtype):
        """`AstroNet` at the size of the data."""
        from keras_cosmo.models.astro_net import AstroNet

        arguments = {}
        if normalization:
            mean, deviation = scales(normalization, self.inputs(preset))
            arguments = {
                "input_mean": mean,
                "input_standard_deviation": deviation,
                "output_mean": normalization["parameters"]["low"],
                "output_standard_deviation": normalization["parameters"]["range"],
            }
        fields = self.inputs(preset)
        return AstroNet(
            database.fields[fields[0]].shape if database else (preset.box_cells, preset.box_cells),
            in_channels=len(fields),
            num_parameters=len(database.parameters) if database else len(PARAMETERS),
            encoder_widths=preset.widths,
            widths=preset.regression_widths,
            kernel_size=preset.kernel_size,
            dense_units=preset.dense_units,
            dropout=preset.dropout,
            trainable_encoder=preset.encoder != "frozen",
            padding=self.resolved_padding(preset, database),
            batch_normalization_momentum=preset.batch_normalization_momentum,
            dtype=dtype,
            **arguments,
        )

    def compile(self, preset, model, normalization):
        """Adam with L2 and the mean squared error of the scaled parameters (section IV.3)."""
        from keras_cosmo.losses import StandardizedMeanSquaredError

        scale = normalization["parameters"]["range"] if normalization else [1.0] * model.num_parameters
        model.compile(optimizer=self.optimizer(preset), loss=StandardizedMeanSquaredError(scale))

    def check_redshifts(self, settings, start):
        """Raise ``ValueError`` if the run ``start`` reads other redshifts."""
        before, now = tuple(start["settings"]["preset"]["redshifts"]), tuple(settings.preset.redshifts)
        if before != now:
            raise ValueError(
                f"--start-from {settings.start_from} reads redshifts {show(before)}, this run {show(now)}. Choose "
                f"--redshifts {show(before)}, or another run to start from."
            )

    def check_start(self, settings, start, prepared):
        """The encoder must be of the same redshifts, and must not have seen the test."""
        super().check_start(settings, start, prepared)
        self.check_redshifts(settings, start)
        same_data = start["data"]["fingerprint"] == prepared.fingerprint
        if not same_data or settings.preset.split == "paper":
            return
        seen = {*start["split"].get("train", ()), *start["split"].get("validation", ())}
        shared = sorted(seen & set(prepared.split.test.tolist()))
        if shared or "train" not in start["split"]:
            raise ValueError(
                f"--start-from {settings.start_from} was trained on simulations that this run would test on "
                f"({show(tuple(shared[:5]))}, ...): the splits differ. Use --seed {start['settings']['seed']} and the "
                "--fractions of that run."
            )

    def normalization_of_start(self, start, own):
        """Maps as the U-Net had them; parameters by their own ranges."""
        return {**own, **{field: start["normalization"][field] for field in own if field != "parameters"}}

    def copy_start(self, path, model):
        """The encoder of a U-Net, or all weights of another network of this kind."""
        from keras_cosmo.models.matter_unet import MatterUNet

        network = load_start(path)
        if isinstance(network, MatterUNet):
            try:
                model.copy_encoder(network)
            except ValueError as error:
                raise ValueError(
                    f"--start-from {path.parent}: {error} The flags are --widths, --kernel-size, --padding."
                ) from error
        else:
            copy_weights(path, model)

    def evaluate(self, preset, model, prepared, seed):
        """R2 of the network and of ridge regression on summary statistics, for maps and for means over a box."""
        import numpy as np

        from keras_cosmo.statistics.scores import average_by_simulation, scores

        database, parameters = prepared.database, prepared.database.parameters
        pipeline, maps = self.test_pipeline(preset, prepared)
        simulation, true = database.simulation[maps], database.targets(maps)
        ridge = self.baseline(preset, prepared)
        predicted, features = [], []
        for images, _ in pipeline.evaluation():
            predicted.append(model(images, training=False).numpy())
            features.append(ridge.features(images.numpy()))
        predicted = np.concatenate(predicted).astype("float64")
        guesses = {"": predicted, "baseline/": ridge.predict(np.concatenate(features))}
        _, first = np.unique(simulation, return_index=True)
        metrics, averages = {}, {}
        for kind, guess in guesses.items():
            metrics |= _with_mean(kind, scores(true, guess, parameters, simulation, seed=seed))
            averages[kind] = average_by_simulation(guess, simulation)
            if preset.split != "paper":  # where a box is seen in parts, its mean says nothing
                averaged = scores(true[first], averages[kind].mean, parameters, averages[kind].simulation, seed=seed)
                metrics |= _with_mean(f"{kind}averaged/", averaged)
        metrics["test_maps"], metrics["test_simulations"] = len(maps), len(first)
        metrics |= self.saliency_metrics(preset, model, prepared, maps, seed)
        names = database.parameter_names
        columns = {"predictions": {"map": maps, "simulation": simulation}}
        for index, name in enumerate(names):
            columns["predictions"][f"{name}_true"] = true[:, index]
            columns["predictions"][f"{name}_predicted"] = predicted[:, index]
        return Evaluation(
            metrics=metrics,
            tables=[self.table(preset, metrics, parameters)],
            arrays={"true": true, "predicted": predicted, "simulation": simulation, "maps": maps},
            columns=columns,
        )

    def baseline(self, preset, prepared):
        """Ridge regression on summary statistics, fitted on the training part."""
        import numpy as np

        from keras_cosmo.models.map_statistics_ridge import MapStatisticsRidge

        database, training = prepared.database, np.unique(prepared.training.indices)
        ridge = MapStatisticsRidge()
        batches = self.pipeline(preset, database, training).evaluation()
        features = ridge.features_from_batches(images.numpy() for images, _ in batches)
        return ridge.fit(features, database.targets(training), database.simulation[training])

    def saliency_metrics(self, preset, model, prepared, maps, seed):
        """What the brightest saliency pixels show, and whether random weights change them (section IV.5)."""
        import numpy as np

        from keras_cosmo.inference.saliency import randomized, rank_correlation, saliency
        from keras_cosmo.statistics.distributions import brightest_pixels, normalize_maps

        chosen = maps[np.linspace(0, len(maps) - 1, min(RANDOMISED_MAPS, len(maps))).astype(int)]
        images = self.read(preset, prepared.database, chosen)
        gradients = saliency(model, images)
        random = saliency(randomized(model, seed=seed), images)
        likeness = rank_correlation(gradients, random)
        values = normalize_maps(images[..., 0])
        metrics = {}
        for index, name in enumerate(prepared.database.parameter_names):
            pixels = brightest_pixels(gradients[:, index, ..., 0], BRIGHTEST)
            metrics[f"saliency/brightness_of_brightest/{name}"] = float(values[pixels].mean())
            metrics[f"saliency/rank_correlation_with_random/{name}"] = float(np.nanmean(likeness[:, index]))
        return metrics

    def read(self, preset, database, maps):
        """21-cm maps ``(n, height, width, channels)``."""
        import numpy as np

        return np.stack([database.read(field, maps) for field in self.inputs(preset)], axis=-1)

    def table(self, preset, metrics, parameters):
        """The table that is printed last and opens the report."""
        from keras_cosmo.figures.report import Table

        rows = []
        for name, unit in [*((parameter.name, parameter.unit) for parameter in parameters), ("mean", "")]:
            error = metrics.get(f"r2_standard_error/{name}")
            averaged = metrics.get(f"averaged/r2/{name}")
            paper = self.paper_values(preset).get(f"r2/{name}")
            rows.append(
                [
                    f"{name} [{unit}]" if unit else name,
                    f"{metrics[f'r2/{name}']:.3f}" + (f" ± {error:.3f}" if error is not None else ""),
                    "–" if averaged is None else f"{averaged:.3f}",
                    f"{metrics[f'baseline/r2/{name}']:.3f}",
                    "" if paper is None else f"{paper:.2f}",
                    f"{metrics[f'rmse/{name}']:.3g}" if f"rmse/{name}" in metrics else "",
                ]
            )
        title = f"Parameters from single maps at redshift {show(preset.redshifts)}, encoder: {preset.encoder}"
        return Table(
            title=title + (", LEAKING split" if preset.split == "paper" else ", unseen simulations"),
            header=["parameter", "R2", "R2, mean over the box", "R2 baseline", "R2 paper*", "RMSE"],
            rows=rows,
            note=(
                "Baseline: ridge regression on mean, moments, quantiles and power spectrum of a map. ± is the standard "
                "error over simulations (bootstrap). *As published for the authors' own data, one number for the three "
                "parameters; shown for orientation, not reached or missed here."
            ),
        )

    def figures(self, preset, model, prepared, evaluation, history):
        """Figures 6 (8), 9 and 10 of the paper, from this run."""
        import numpy as np

        from keras_cosmo.figures import astro as draw
        from keras_cosmo.figures.regression import loss_history
        from keras_cosmo.inference.saliency import randomized, saliency

        database, arrays = prepared.database, evaluation.arrays
        parameters, names = database.parameters, list(database.parameter_names)
        redshift, cell_size = preset.redshifts[0], database.cell_size
        _, first = np.unique(arrays["simulation"], return_index=True)
        # From small to large haloes, the parameter of figure 9.
        key = names.index("log10_M_min") if "log10_M_min" in names else 0
        order = first[np.argsort(arrays["true"][first, key])]
        rows = order[np.linspace(0, len(order) - 1, min(SALIENCY_MAPS, len(order))).astype(int)]
        images = self.read(preset, database, arrays["maps"][rows])
        gradients = saliency(model, images)[..., 0]
        random = saliency(randomized(model, seed=0), images)[..., 0]
        titles = [f"{names[key]} = {arrays['true'][row, key]:.2f}" for row in rows]
        many = arrays["maps"][first]
        seen = self.read(preset, database, many)
        sensitivity = saliency(model, seen)[..., 0]
        result = {
            "recovery": (
                draw.recovery(
                    arrays["true"],
                    {f"encoder: {preset.encoder}": arrays["predicted"]},
                    parameters,
                    simulation=arrays["simulation"],
                    redshift=redshift,
                ),
                "Predicted against true parameters of unseen simulations (figure 6; figure 8 at redshift 10).",
            ),
            "saliency_pixels": (
                draw.saliency_pixels(images[..., 0], gradients, parameters, cell_size, BRIGHTEST, titles, redshift),
                "21-cm maps of unseen simulations and the pixels to which each parameter is most sensitive (figures 9 "
                "and 10).",
            ),
            "saliency_statistics": (
                draw.saliency_statistics(
                    seen[..., 0], sensitivity, parameters, BRIGHTEST, database.simulation[many], redshift=redshift
                ),
                "Where the network looks: brightness temperature at the pixels of the largest saliency, against that "
                "of all pixels (section IV.5).",
            ),
            "saliency_randomization": (
                draw.saliency_randomization(
                    images[..., 0], gradients[:, key], {"all layers": random[:, key]}, cell_size, titles, redshift
                ),
                f"Saliency for {names[key]} of the trained network and of one with random weights: if they were alike, "
                "saliency would say nothing about what was learned.",
            ),
            "loss_history": (
                loss_history(history),
                "Loss on training and validation maps after each epoch, and the learning rate.",
            ),
        }
        field = field_at_redshift(DENSITY, redshift)
        if field in database.fields:
            result["saliency_density"] = (
                draw.saliency_statistics(
                    database.read(field, many),
                    sensitivity,
                    parameters,
                    BRIGHTEST,
                    database.simulation[many],
                    quantity=r"\delta",
                    redshift=redshift,
                ),
                "The same for the matter behind the pixels: left of zero the network looks at underdense regions.",
            )
        return result

    def signatures(self, preset, model, prepared):
        """Brightness temperature [mK] -> parameters by name; ``saliency``: -> |d parameter / d pixel| by name."""
        import tensorflow as tf

        from keras_cosmo.export.saved_model import Signature
        from keras_cosmo.inference.saliency import gradient_saliency

        database, channels = prepared.database, len(preset.redshifts)
        names, shape = list(database.parameter_names), database.fields[self.inputs(preset)[0]].shape

        def maps_of(brightness_temp):
            return brightness_temp[..., None] if channels == 1 else brightness_temp

        def predict(brightness_temp):
            return dict(zip(names, tf.unstack(model(maps_of(brightness_temp), training=False), axis=-1), strict=True))

        def sensitivity(brightness_temp):
            gradients = gradient_saliency(model, maps_of(brightness_temp))
            gradients = gradients[..., 0] if channels == 1 else gradients
            return dict(zip(names, tf.unstack(gradients, axis=1), strict=True))

        spec = {BRIGHTNESS: tf.TensorSpec([None, *shape, *([channels] if channels > 1 else [])], tf.float32)}
        example = self.read(preset, database, self.test_pipeline(preset, prepared)[1][:1])
        example = {BRIGHTNESS: example[..., 0] if channels == 1 else example}
        units = {parameter.name: parameter.unit for parameter in database.parameters}
        per_pixel = {name: "1/mK" if name.startswith("log10_") else f"{unit}/mK" for name, unit in units.items()}
        return {
            "serving_default": Signature(
                function=predict, inputs=spec, units={BRIGHTNESS: "mK", **units}, example=example
            ),
            "saliency": Signature(
                function=sensitivity, inputs=spec, units={BRIGHTNESS: "mK", **per_pixel}, example=example
            ),
        }


def _with_mean(prefix, values):
    """Scores under a prefix, with the mean R2 over parameters, which is what the public code calls R2."""
    r2 = [value for name, value in values.items() if name.startswith("r2/")]
    return {**{f"{prefix}{name}": value for name, value in values.items()}, f"{prefix}r2/mean": sum(r2) / len(r2)}
