"""Astrophysical parameters from 21-cm maps, on the encoder of the U-Net, and what the network looks at.

Villanueva-Domingo & Villaescusa-Navarro (2021), sections IV.3 to IV.5.
"""

import dataclasses
import pathlib

from keras_cosmo.quantities import field_at_redshift
from keras_cosmo.tasks.coeval import (
    BRIGHTNESS,
    DENSITY,
    FINE_TUNE,
    PARAMETERS,
    QUICK,
    CoevalPreset,
    CoevalTask,
    scales,
)
from keras_cosmo.tasks.presets import preset_field, show
from keras_cosmo.tasks.settings import read_config
from keras_cosmo.tasks.task import Evaluation, Task, copy_weights, load_start

# The first one meets all that can be wrong with the run to start from; the last one is exported last and so is the
# version that is served.
ENCODERS = ("frozen", "scratch", "fine-tune")


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
    "quick": dataclasses.replace(PAPER, **QUICK, regression_widths=(128, 256, 256), epochs=12),
    "fine-tune": dataclasses.replace(PAPER, **FINE_TUNE),
    "paper": PAPER,
}

BASELINE_MAPS = 100_000
"""Most training maps that the baseline is fitted to, evenly spread over the part; each costs it 0.3 kB of memory."""
SALIENCY_MAPS = 128
"""Most test maps whose saliency is measured, one of each simulation."""
SHOWN_MAPS = 3
BRIGHTEST = 0.02


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
        settings = self.with_data_of_start(settings)
        if settings.preset.encoder != "all":
            return super().run(settings, progress)
        from keras_cosmo.tasks.encoders import run_all_encoders

        return run_all_encoders(self, settings, progress)

    def with_data_of_start(self, settings):
        """Settings that name the data of the U-Net's run, where the command line names none.

        Raises:
            FileNotFoundError: If they are gone: other data would be simulated, and nothing would say so.
            ValueError: If flags ask for other simulations, or the run to start from is a comparison of three.
        """
        if settings.resume or settings.start_from is None:
            return settings
        start = read_config(settings.start_from, *self.starts_from)
        if start["settings"]["preset"].get("encoder") == "all":
            raise ValueError(
                f"--start-from {settings.start_from} holds three runs: choose one of its folders {', '.join(ENCODERS)}."
            )
        if settings.data is not None or start["task"] not in self.earlier_tasks:
            return settings
        before = self.presets[settings.preset_name]
        idle = [name for name in self.simulator_fields if getattr(settings.preset, name) != getattr(before, name)]
        if idle:
            flags = ", ".join("--" + name.replace("_", "-") for name in idle)
            raise ValueError(
                f"{flags}: only for simulated data, but the data are those of --start-from {settings.start_from}. "
                f"Leave {flags} out."
            )
        path = pathlib.Path(start["data"]["path"])
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing, the data of --start-from {settings.start_from}. Bring the file back, or give data "
                "with --data."
            )
        return dataclasses.replace(settings, data=path)

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

    def check_map_shape(self, preset, shape):
        """As for the U-Net, and large enough for the baseline."""
        from keras_cosmo.models.map_statistics_ridge import SMALLEST_SIDE

        super().check_map_shape(preset, shape)
        if min(shape) < SMALLEST_SIDE:
            raise ValueError(
                f"expected maps of {SMALLEST_SIDE} cells along each side at least, for the spectrum of the baseline, "
                f"got {shape}. Bring larger maps."
            )

    def prepare(self, preset, database, seed):
        """As for the U-Net; parameters are scaled by their prior ranges, as in the public code."""
        import numpy as np

        prepared = super().prepare(preset, database, seed)
        whole = {"database": np.arange(database.n_simulations)}
        parts = whole if preset.split == "paper" else {"training": prepared.split.train, "test": prepared.split.test}
        for part, simulations in parts.items():
            spread = np.ptp(database.parameter_values[simulations], axis=0)
            constant = [name for name, width in zip(database.parameter_names, spread, strict=True) if width == 0]
            if constant:
                raise ValueError(
                    f"{database.path}: {', '.join(constant)} has one value in all {len(simulations)} simulations of "
                    f"the {part}, so it can neither be learned nor scored. Leave it out of /parameters, or bring "
                    "simulations in which it varies."
                )
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
        """As for the U-Net; a network that predicts parameters must predict the same ones."""
        if start["task"] == self.name:
            Task.check_start(self, settings, start, prepared)
        super().check_start(settings, start, prepared)

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
        names = database.parameter_names
        looked = self.saliency(preset, model, database, maps, simulation, seed)
        metrics |= self.saliency_metrics(names, looked)
        columns = {"predictions": {"map": maps, "simulation": simulation}}
        for index, name in enumerate(names):
            columns["predictions"][f"{name}_true"] = true[:, index]
            columns["predictions"][f"{name}_predicted"] = predicted[:, index]
        return Evaluation(
            metrics=metrics,
            tables=[self.table(preset, metrics, parameters)],
            arrays={"true": true, "predicted": predicted, "simulation": simulation, "maps": maps, **looked},
            columns=columns,
        )

    def baseline(self, preset, prepared):
        """Ridge regression on summary statistics, fitted on the training part."""
        import numpy as np

        from keras_cosmo.data.stored_maps import evenly_spread
        from keras_cosmo.models.map_statistics_ridge import MapStatisticsRidge

        database, training = prepared.database, evenly_spread(np.unique(prepared.training.indices), BASELINE_MAPS)
        ridge = MapStatisticsRidge()
        batches = self.pipeline(preset, database, training).evaluation()
        features = ridge.features_from_batches(images.numpy() for images, _ in batches)
        return ridge.fit(features, database.targets(training), database.simulation[training])

    def saliency(self, preset, model, database, maps, simulation, seed):
        """Saliency for one map of each test simulation, and that of random weights, for the first input channel.

        Returns:
            ``saliency_rows`` places among ``maps``, ``saliency_maps`` ``(n, height, width)`` in mK, ``saliency`` and
            ``random_saliency`` ``(n, n_parameters, height, width)``.
        """
        import numpy as np

        from keras_cosmo.inference.saliency import randomized, saliency

        _, first = np.unique(simulation, return_index=True)
        rows = first[np.linspace(0, len(first) - 1, min(SALIENCY_MAPS, len(first))).astype(int)]
        images = self.read(preset, database, maps[rows])
        return {
            "saliency_rows": rows,
            "saliency_maps": images[..., 0],
            "saliency": saliency(model, images)[..., 0],
            "random_saliency": saliency(randomized(model, seed), images)[..., 0],
        }

    def saliency_metrics(self, names, looked):
        """What the brightest saliency pixels show, and whether random weights change them (section IV.5)."""
        from keras_cosmo.statistics.distributions import mean_at_brightest, rank_correlation
        from keras_cosmo.statistics.spectra import over_maps

        metrics = {}
        for index, name in enumerate(names):
            trained, random = (looked[kind][:, index] for kind in ("saliency", "random_saliency"))
            for key, values in (
                ("brightness_of_brightest", mean_at_brightest(looked["saliency_maps"], trained, BRIGHTEST)),
                ("rank_correlation_with_random", rank_correlation(trained, random)),
            ):
                metrics[f"saliency/{key}/{name}"] = float(over_maps(values[:, None]).mean[0])
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
            title=f"{title}, {self.tested_on(preset)}",
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

        database, arrays, tested = prepared.database, evaluation.arrays, self.tested_on(preset)
        parameters, names = database.parameters, list(database.parameter_names)
        redshift, cell_size = preset.redshifts[0], database.cell_size
        images, gradients, random = (arrays[name] for name in ("saliency_maps", "saliency", "random_saliency"))
        numbers, true = arrays["maps"][arrays["saliency_rows"]], arrays["true"][arrays["saliency_rows"]]
        # From small to large haloes, the parameter of figure 9.
        key = names.index("log10_M_min") if "log10_M_min" in names else 0
        order = np.argsort(true[:, key])
        rows = order[np.linspace(0, len(order) - 1, min(SHOWN_MAPS, len(order))).astype(int)]
        titles = [f"{names[key]} = {value:.2f}" for value in true[rows, key]]
        result = {
            "recovery": (
                draw.recovery(
                    arrays["true"],
                    {f"encoder: {preset.encoder}": arrays["predicted"]},
                    parameters,
                    simulation=arrays["simulation"],
                    redshift=redshift,
                ),
                f"Predicted against true parameters ({tested}; figure 6, figure 8 at redshift 10).",
            ),
            "saliency_pixels": (
                draw.saliency_pixels(images[rows], gradients[rows], parameters, cell_size, BRIGHTEST, titles, redshift),
                f"21-cm maps of the test ({tested}) and the pixels to which each parameter is most sensitive (figures "
                "9 and 10).",
            ),
            "saliency_statistics": (
                draw.saliency_statistics(
                    images, gradients, parameters, BRIGHTEST, database.simulation[numbers], redshift=redshift
                ),
                "Where the network looks: brightness temperature at the pixels of the largest saliency, against that "
                "of all pixels (section IV.5).",
            ),
            "saliency_randomization": (
                draw.saliency_randomization(
                    images[rows],
                    gradients[rows, key],
                    {"all layers": random[rows, key]},
                    cell_size,
                    titles,
                    redshift,
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
                    database.read(field, numbers),
                    gradients,
                    parameters,
                    BRIGHTEST,
                    database.simulation[numbers],
                    quantity=r"\delta",
                    redshift=redshift,
                ),
                "The same for the matter behind the pixels: left of zero the network looks at underdense regions.",
            )
        return result

    def signatures(self, preset, model, prepared, evaluation):
        """Brightness temperature [mK] -> parameters by name; ``saliency``: -> |d parameter / d pixel| by name."""
        import tensorflow as tf

        from keras_cosmo.export.saved_model import Signature
        from keras_cosmo.inference.saliency import gradient_saliency

        database, channels = prepared.database, len(preset.redshifts)
        names, shape = list(database.parameter_names), database.fields[self.inputs(preset)[0]].shape

        def maps_of(brightness_temp):
            # Some servers do not hold the input to the shape of the signature.
            message = f"brightness_temp: expected maps of {shape[0]} x {shape[1]} cells."
            same = tf.debugging.assert_equal(tf.shape(brightness_temp)[1:3], list(shape[:2]), message)
            with tf.control_dependencies([same]):
                maps = tf.identity(brightness_temp)
            return maps[..., None] if channels == 1 else maps

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
