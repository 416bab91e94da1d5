"""Matter maps from 21-cm maps (Villanueva-Domingo & Villaescusa-Navarro 2021, sections III.2 to IV.2)."""

import dataclasses

from keras_cosmo.quantities import field_at_redshift
from keras_cosmo.tasks.coeval import BRIGHTNESS, DENSITY, FINE_TUNE, QUICK, CoevalPreset, CoevalTask, scales
from keras_cosmo.tasks.presets import preset_field, show
from keras_cosmo.tasks.task import Evaluation


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatterPreset(CoevalPreset):
    """Every number of the recipe, with its source; the defaults are the paper's."""

    target_redshifts: tuple[float, ...] = preset_field(
        (),
        source="section III.3: a map and its target are of one redshift",
        text="redshifts of the matter maps; none: those of the 21-cm maps",
        low=6,
        high=34,
        kind=float,
    )


PAPER = MatterPreset()
PRESETS = {
    "quick": dataclasses.replace(PAPER, **QUICK, epochs=6),
    "fine-tune": dataclasses.replace(PAPER, **FINE_TUNE),
    "paper": PAPER,
}

WAVENUMBERS = (0.2, 0.7, 2.0)
"""Where the table quotes T and r, in 1/Mpc; the paper quotes the last two (section IV.1)."""


class MatterTask(CoevalTask):
    """21-cm map -> matter map with the U-Net of table II."""

    name = "matter"
    title = "Matter maps from 21-cm maps"
    model_name = "matter"
    presets = PRESETS

    def paper_values(self, preset):
        """Section IV.1 states how far T and r are from 1 at redshift 15; IV.4 gives no numbers for redshift 10.

        For r the text has 2 h/Mpc, for T 2 1/Mpc; the axes of figure 4 are in 1/Mpc, which is taken for both.
        """
        if (tuple(preset.redshifts), self.targets(preset)) != ((15.0,), (15.0,)):
            return {}
        return {
            f"{name}_deviation/k{limit:g}": value
            for name in ("transfer", "correlation")
            for limit, value in ((0.7, 0.05), (2.0, 0.08))
        }

    def targets(self, preset) -> tuple:
        """Redshifts of the matter maps."""
        return tuple(preset.target_redshifts) or tuple(preset.redshifts)

    def all_redshifts(self, preset):
        """Of inputs and targets."""
        return tuple(sorted({*preset.redshifts, *self.targets(preset)}))

    def outputs(self, preset):
        """Matter maps."""
        return tuple(field_at_redshift(DENSITY, redshift) for redshift in self.targets(preset))

    def read_fields(self, preset):
        """Both sides of the pairs."""
        return (*self.inputs(preset), *self.outputs(preset))

    def build(self, preset, database, normalization, dtype):
        """`MatterUNet` for maps of any size."""
        from keras_cosmo.models.matter_unet import MatterUNet

        arguments = {}
        if normalization:
            for side, fields in (("input", self.inputs(preset)), ("output", self.outputs(preset))):
                arguments[f"{side}_mean"], arguments[f"{side}_standard_deviation"] = scales(normalization, fields)
        return MatterUNet(
            in_channels=len(preset.redshifts),
            out_channels=len(self.targets(preset)),
            widths=preset.widths,
            kernel_size=preset.kernel_size,
            padding=self.resolved_padding(preset, database),
            batch_normalization_momentum=preset.batch_normalization_momentum,
            dtype=dtype,
            **arguments,
        )

    def compile(self, preset, model, normalization):
        """Adam with L2 and the mean squared error of the normalised maps (section III.3)."""
        from keras_cosmo.losses import StandardizedMeanSquaredError

        fields = self.outputs(preset)
        scale = scales(normalization, fields)[1] if normalization else [1.0] * len(fields)
        model.compile(optimizer=self.optimizer(preset), loss=StandardizedMeanSquaredError(scale))

    def check_redshifts(self, settings, start):
        """Raise ``ValueError`` if the run ``start`` maps other redshifts, or to others."""
        before, now = (
            (tuple(preset["redshifts"]), tuple(preset["target_redshifts"]) or tuple(preset["redshifts"]))
            for preset in (start["settings"]["preset"], dataclasses.asdict(settings.preset))
        )
        if before != now:
            raise ValueError(
                f"--start-from {settings.start_from} maps redshifts {show(before[0])} to {show(before[1])}, this run "
                f"{show(now[0])} to {show(now[1])}. Choose the same --redshifts and --target-redshifts."
            )

    def baseline(self, preset, prepared):
        """Wiener filter, fitted on the training part."""
        from keras_cosmo.models.wiener_filter import WienerFilter

        return WienerFilter().fit(
            (maps.numpy(), targets.numpy()) for maps, targets in self.fitted(preset, prepared).evaluation()
        )

    def fitted(self, preset, prepared):
        """The training maps, each once and as it is."""
        import numpy as np

        return self.pipeline(preset, prepared.database, np.unique(prepared.training.indices))

    def evaluate(self, preset, model, prepared, seed):
        """Spectra, transfer function, cross-correlation and PDF on the test part, beside the Wiener filter."""
        import numpy as np

        from keras_cosmo.files import disk_array

        pipeline, maps = self.test_pipeline(preset, prepared)
        simulation = prepared.database.simulation[maps]
        baseline = self.baseline(preset, prepared)
        shape = (len(maps), *pipeline.target_shape)
        # On disk, as a test part may be larger than what is left of memory.
        fields = {name: disk_array(shape) for name in ("true", "network", "baseline")}
        row = 0
        for inputs, targets in pipeline.evaluation():
            rows = slice(row, row + len(targets))
            fields["true"][rows] = targets
            fields["network"][rows] = model(inputs, training=False)
            fields["baseline"][rows] = baseline.predict(inputs.numpy())
            row = rows.stop
        redshifts = self.targets(preset)
        metrics, tables, columns = {}, [], {}
        arrays = {"maps": maps, "simulation": simulation, **fields}
        for channel, redshift in enumerate(redshifts):
            one = {name: field[..., channel] for name, field in fields.items()}
            measured = {
                name: self.measure(one["true"], one[name], prepared.database.cell_size, simulation)
                for name in ("network", "baseline")
            }
            prefix = f"z{redshift:g}/" if len(redshifts) > 1 else ""
            for name, (scores, comparison) in measured.items():
                kind = "baseline/" if name == "baseline" else ""
                metrics |= {f"{kind}{prefix}{key}": value for key, value in scores.items()}
                arrays[f"{name} spectra z{redshift:g}"] = comparison
            columns |= self.columns(redshift, measured, simulation)
            tables.append(self.table(preset, redshift, {name: scores for name, (scores, _) in measured.items()}))
        metrics["test_maps"], metrics["test_simulations"] = len(maps), len(np.unique(simulation))
        return Evaluation(metrics=metrics, tables=tables, arrays=arrays, columns=columns)

    def measure(self, true, predicted, cell_size, simulation):
        """Numbers of one set of predicted maps, and its spectra."""
        import numpy as np

        from keras_cosmo.statistics.distributions import distribution_distance, map_moments
        from keras_cosmo.statistics.spectra import compare_spectra, over_maps

        comparison = compare_spectra(true, predicted, cell_size)
        scores = {}
        for name in ("transfer", "correlation"):
            summary = over_maps(getattr(comparison, name), simulation)
            for limit in WAVENUMBERS[1:]:
                seen = summary.mean[comparison.k <= limit + 1e-9]
                if seen.size and limit <= comparison.k[-1] * 1.05:
                    scores[f"{name}_deviation/k{limit:g}"] = float(np.abs(seen - 1.0).max())
        inside = [k for k in WAVENUMBERS if comparison.k[0] <= k <= comparison.k[-1]]
        at = comparison.at(inside) if inside else None
        for name in ("transfer", "correlation"):
            for column, k in enumerate(inside):
                summary = over_maps(getattr(at, name)[:, column : column + 1], simulation)
                scores[f"{name}/k{k:g}"] = float(summary.mean[0])
                scores[f"{name}_standard_error/k{k:g}"] = float(summary.standard_error[0])
                scores[f"{name}_standard_deviation/k{k:g}"] = float(summary.standard_deviation[0])
        moments = map_moments(true), map_moments(predicted)
        squares = [((true[row] - predicted[row]).astype("float64") ** 2).mean() for row in range(len(true))]
        variance = np.mean(moments[0].standard_deviation ** 2) + np.var(moments[0].mean)
        scores["rmse"] = float(np.sqrt(np.mean(squares)))
        scores["r2"] = float(1.0 - np.mean(squares) / variance)
        scores["pdf_distance"] = distribution_distance(true, predicted)
        for name, each in (("skewness", moments[1]), ("skewness_true", moments[0])):
            scores[name] = float(over_maps(each.skewness[:, None]).mean[0])
        return scores, comparison

    def columns(self, redshift, measured, simulation):
        """Spectra as a file: mean and standard deviation over maps, standard error over simulations."""
        from keras_cosmo.statistics.spectra import over_maps

        table = {"k": measured["network"][1].k}
        for name, (_, comparison) in measured.items():
            quantities = {"power": "predicted", "transfer": "transfer", "correlation": "correlation"}
            if name == "network":
                quantities = {"true_power": "true", **quantities}
            for key, attribute in quantities.items():
                summary = over_maps(getattr(comparison, attribute), simulation)
                column = key if key == "true_power" else f"{name}_{key}"
                table[column] = summary.mean
                table[f"{column}_standard_deviation"] = summary.standard_deviation
                table[f"{column}_standard_error"] = summary.standard_error
        return {f"spectra_z{redshift:g}": table}

    def table(self, preset, redshift, scores):
        """The table that is printed last and opens the report."""
        from keras_cosmo.figures.report import Table

        def cell(values, name, error=None):
            if name not in values:
                return "–"
            text = f"{values[name]:.3f}"
            return text if error is None else f"{text} ± {values[error]:.3f}"

        paper = self.paper_values(preset)
        rows = []
        for name, symbol in (("transfer", "T"), ("correlation", "r")):
            for k in WAVENUMBERS:
                key, error = f"{name}/k{k:g}", f"{name}_standard_error/k{k:g}"
                if key in scores["network"]:
                    values = [cell(scores[kind], key, error) for kind in ("network", "baseline")]
                    rows.append([f"{symbol}(k = {k:g}/Mpc)", *values, ""])
        for name, symbol in (("transfer", "T"), ("correlation", "r")):
            for k in WAVENUMBERS[1:]:
                key = f"{name}_deviation/k{k:g}"
                values = [cell(scores[kind], key) for kind in ("network", "baseline")]
                rows.append(
                    [f"largest |{symbol} - 1| to {k:g}/Mpc", *values, f"{paper[key]:.2f}" if key in paper else ""]
                )
        for key, label in (
            ("rmse", "rms error of the overdensity"),
            ("r2", "R2 of the pixels"),
            ("pdf_distance", "distance of the PDFs"),
        ):
            rows.append([label, *(cell(scores[kind], key) for kind in ("network", "baseline")), ""])
        return Table(
            title=f"Matter maps at redshift {redshift:g}, {self.tested_on(preset)}",
            header=["", "U-Net", "Wiener filter", "paper*"],
            rows=rows,
            note=(
                "Means over test maps; ± is the standard error over simulations. Wiener filter: the best linear "
                "isotropic reconstruction, fitted on the training part. Distance of the PDFs: Kolmogorov-Smirnov, of "
                "normalised pixels. *As published for the authors' own data (1000 boxes of 300 Mpc); shown for "
                "orientation, not reached or missed here."
            ),
        )

    def figures(self, preset, model, prepared, evaluation, history):
        """Figures 1, 3, 4 (7) and 5 of the paper, from this run."""
        import numpy as np

        from keras_cosmo.figures import matter as draw
        from keras_cosmo.figures.regression import loss_history
        from keras_cosmo.statistics.distributions import normalized_distribution

        database, arrays = prepared.database, evaluation.arrays
        cell_size, redshifts, tested = database.cell_size, self.targets(preset), self.tested_on(preset)
        # The map whose error is the median one: neither the best nor the worst example.
        squares = [np.mean((arrays["network"][row] - arrays["true"][row]) ** 2) for row in range(len(arrays["maps"]))]
        row = int(np.argsort(squares)[len(squares) // 2])
        number = int(arrays["maps"][row])
        both = [z for z in self.all_redshifts(preset) if z in preset.redshifts and z in redshifts]
        result = {}
        if both:
            images = [
                np.stack([database.read(field_at_redshift(kind, z), [number])[0] for z in both])
                for kind in (BRIGHTNESS, DENSITY)
            ]
            result["slices"] = (
                draw.slices(*images, both, cell_size),
                f"21-cm signal in redshift space and matter in real space of one test slab ({tested}; figure 1).",
            )
        inputs = self.test_pipeline(preset, prepared)[0]
        batch, place = divmod(row, inputs.batch_size)
        seen = next(iter(inputs.evaluation().skip(batch)))[0].numpy()[place]
        for channel, redshift in enumerate(redshifts):
            suffix = f"_z{redshift:g}" if len(redshifts) > 1 else ""
            nearest = int(np.argmin([abs(z - redshift) for z in preset.redshifts]))
            result[f"reconstruction{suffix}"] = (
                draw.reconstruction(
                    seen[..., nearest],
                    *(arrays[name][row, ..., channel] for name in ("true", "network")),
                    cell_size,
                    redshift=redshift,
                    baseline=arrays["baseline"][row, ..., channel],
                ),
                f"The test map whose error is the median one ({tested}): truth, prediction, 21-cm input and error "
                "(figure 3).",
            )
            spectra = {name: arrays[f"{name} spectra z{redshift:g}"] for name in ("network", "baseline")}
            result[f"spectra{suffix}"] = (
                draw.spectra(spectra, redshift, paper_accuracy=bool(self.paper_values(preset))),
                f"Power spectrum, transfer function and cross-correlation coefficient over test maps ({tested}), mean "
                "and standard deviation (figure 4; figure 7 at redshift 10).",
            )
            densities = {"truth": "true", "network": "network", "baseline": "baseline"}
            densities = {role: normalized_distribution(arrays[name][..., channel]) for role, name in densities.items()}
            result[f"distribution{suffix}"] = (
                draw.normalized_distribution(densities, redshift),
                f"Distribution of the normalised overdensity over test maps ({tested}), mean and standard deviation "
                "(figure 5).",
            )
        result["loss_history"] = (
            loss_history(history),
            "Loss on training and validation maps after each epoch, and the learning rate.",
        )
        return result

    def signatures(self, preset, model, prepared, evaluation):
        """``serving_default``: brightness temperature [mK] -> overdensity, for maps of any size the network takes."""
        import tensorflow as tf

        from keras_cosmo.export.saved_model import Signature

        database, channels, multiple = prepared.database, len(preset.redshifts), 2 ** len(preset.widths)
        one_out = len(self.targets(preset)) == 1

        def reconstruct(brightness_temp):
            sides = tf.shape(brightness_temp)[1:3]
            message = f"brightness_temp: expected sides that are multiples of {multiple} cells."
            with tf.control_dependencies([tf.debugging.assert_equal(sides % multiple, 0, message)]):
                maps = tf.identity(brightness_temp)
            density = model(maps[..., None] if channels == 1 else maps, training=False)
            return {"overdensity": density[..., 0] if one_out else density}

        shape = [None, None, None] if channels == 1 else [None, None, None, channels]
        example = self.pipeline(preset, database, self.test_pipeline(preset, prepared)[1][:1])
        example = next(iter(example.evaluation()))[0].numpy()
        return {
            "serving_default": Signature(
                function=reconstruct,
                inputs={BRIGHTNESS: tf.TensorSpec(shape, tf.float32)},
                units={BRIGHTNESS: "mK", "overdensity": ""},
                example={BRIGHTNESS: example[..., 0] if channels == 1 else example},
            )
        }
