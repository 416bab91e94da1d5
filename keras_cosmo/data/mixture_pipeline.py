"""Batches of observed maps that are sums of several components, and of the components themselves."""

from collections.abc import Sequence

import numpy as np
import scipy.fft

from keras_cosmo.data.augmentation import Augmentation
from keras_cosmo.data.database import Database
from keras_cosmo.data.pipeline import AUGMENTATION_STREAM, ORDER_STREAM, MapPipeline
from keras_cosmo.data.step_pipeline import ALL_ROWS

PAIRINGS = ("random", "fixed")
"""Ways to combine maps of different components into one observation."""

# First words of the seeds, beside those of order and augmentation.
NOISE_STREAM, AMPLITUDE_STREAM, EVALUATION_NOISE_STREAM = 2, 3, 4


class MixturePipeline(MapPipeline):
    """Batches of (observed, components): the sum of several fields, and the fields that were added.

    Emission lines that fall on one observed wavelength come from distances so different that their maps are
    independent (Moriwaki et al. 2020, MNRAS 496, L54, section 2.1). With ``pairing="random"`` every component therefore
    has a permutation of its own in each epoch, so that N maps of each of two components make N^2 observations. Only
    maps of ``indices`` are paired, so parts of a split stay apart. Evaluation always adds the maps of one row.

    Like those of `MapPipeline`, the batches of each training step are a pure function of (seed, step), noise included;
    those of evaluation are the same at every reading.

    Args:
        database: Where the maps are.
        components: Fields to add, of one shape and unit.
        indices: Maps to use, without repeats.
        batch_size: Observations per step.
        seed: Seed of order, augmentation, amplitudes and noise.
        augment: As for `MapPipeline`; every component is transformed by itself.
        pairing: ``"random"``, or ``"fixed"`` for the same rows of all components in training too.
        amplitudes: Factor on each component, in training and in evaluation; None: 1.
        amplitude_scatter: Standard deviation of the natural logarithm of a further random factor on every component of
            every training map, of median 1. Evaluation has none.
        noise: Standard deviation of white Gaussian noise per pixel, in the unit of the fields, added to the observed
            map in training and in evaluation.
        noise_smoothing: Standard deviation in pixels of the Gaussian that the noise is smoothed with, as the maps were;
            0 leaves it white.
        background: Constant added to the observed map, in the unit of the fields, such as a residual continuum.
        background_scatter: Standard deviation of the background from map to map, as a fraction of it.

    Raises:
        ValueError: If fields have different shapes or units, or an argument is out of range.

    Example:
        >>> pipeline = MixturePipeline(database, ("intensity_halpha", "intensity_oiii"), range(100), 4, seed=1)
        ... # doctest: +SKIP
        >>> for observed, lines in pipeline.training(0, 10): ...  # doctest: +SKIP
    """

    def __init__(
        self,
        database: Database,
        components: Sequence[str],
        indices: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int,
        augment: Augmentation | None = None,
        pairing: str = "random",
        amplitudes: Sequence[float] | None = None,
        amplitude_scatter: float = 0.0,
        noise: float = 0.0,
        noise_smoothing: float = 0.0,
        background: float = 0.0,
        background_scatter: float = 0.0,
    ):
        components = tuple(components)
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing: expected one of {list(PAIRINGS)}, got {pairing!r}.")
        for name, value in (
            ("amplitude_scatter", amplitude_scatter),
            ("noise", noise),
            ("noise_smoothing", noise_smoothing),
            ("background", background),
            ("background_scatter", background_scatter),
        ):
            if not (value >= 0 and np.isfinite(value)):
                raise ValueError(f"{name}: expected a finite number of at least 0, got {value!r}.")
        super().__init__(database, components, components, indices, batch_size, seed, augment)
        units = {field: database.fields[field].unit for field in components}
        if len(set(units.values())) > 1:
            raise ValueError(f"components: expected fields of one unit to add, got {units}. Convert them.")
        amplitudes = (1.0,) * len(components) if amplitudes is None else tuple(float(factor) for factor in amplitudes)
        if len(amplitudes) != len(components) or not all(factor > 0 and np.isfinite(factor) for factor in amplitudes):
            raise ValueError(
                f"amplitudes: expected a positive factor for each of the {len(components)} components, got "
                f"{amplitudes}."
            )
        self.components = components
        self.pairing = pairing
        self.amplitudes = np.array(amplitudes, np.float32)
        self.amplitude_scatter = float(amplitude_scatter)
        self.noise = float(noise)
        self.noise_smoothing = float(noise_smoothing)
        self.background = float(background)
        self.background_scatter = float(background_scatter)
        self.input_shape = self.target_shape[:-1]

    def component_indices(self, step: int) -> np.ndarray:
        """Maps of one training step, one row per component, ``(n_components, batch_size)``."""
        epoch, place = divmod(int(step), self.steps_per_epoch)
        rows = slice(place * self.batch_size, (place + 1) * self.batch_size)
        orders = [self._order((epoch, self._stream(number))) for number in range(len(self.components))]
        return np.stack([self.indices[order[rows]] for order in orders])

    def step_indices(self, step: int) -> np.ndarray:
        """Maps of the first component in one training step, ``(batch_size,)``."""
        return self.component_indices(step)[0]

    def load(self, step: int, rows: slice = ALL_ROWS) -> tuple[np.ndarray, np.ndarray]:
        """Observed maps ``(batch_size, height, width)`` and components ``(..., n_components)`` of one training step."""
        step = int(step)
        parts = []
        for number, indices in enumerate(self.component_indices(step)[:, rows]):
            maps = self._read(self.components[number], indices)
            if self.augment is not None:
                key = [AUGMENTATION_STREAM, int(self.seed), step]
                key += [number] if self.pairing == "random" else []
                maps = self._transformed(maps, key, rows)
            parts.append(maps)
        targets = np.stack(parts, axis=-1) * self.amplitudes
        if self.amplitude_scatter:
            generator = np.random.default_rng([AMPLITUDE_STREAM, int(self.seed), step])
            draws = generator.standard_normal((self.batch_size, len(self.components)))[rows]
            targets *= np.exp(self.amplitude_scatter * draws)[:, None, None].astype(np.float32)
        generator = np.random.default_rng([NOISE_STREAM, int(self.seed), step])
        return self._observe(targets, [generator], self.batch_size, rows), targets

    def _pairs(self, positions):
        """Rows of the database, for evaluation."""
        targets = self._read(self.components, self.indices[positions]) * self.amplitudes
        # A generator for each map, so that its noise does not depend on the size of the batch.
        generators = [
            np.random.default_rng([EVALUATION_NOISE_STREAM, int(self.seed), int(index)])
            for index in self.indices[positions]
        ]
        return self._observe(targets, generators, 1), targets

    def _observe(self, targets, generators, drawn, rows=ALL_ROWS):
        """The sum of the components with background and noise.

        There is one generator for all maps, or one for each. Each draws for ``drawn`` maps, of which ``rows`` are here.
        """
        # Summed in float64, so that the order of the components does not matter.
        observed = targets.sum(axis=-1, dtype=np.float64)
        if self.noise or self.background:
            for maps, generator in zip(np.array_split(observed, len(generators)), generators, strict=True):
                if self.background:
                    levels = 1.0 + self.background_scatter * generator.standard_normal(drawn)[rows]
                    maps += self.background * levels[:, None, None]
                if self.noise:
                    maps += self.noise * self._smooth(generator.standard_normal((drawn, *maps.shape[1:]))[rows])
        return observed.astype(np.float32)

    def _smooth(self, noise):
        """Noise after a periodic Gaussian; its variance falls as that of noise in the sky would."""
        if not self.noise_smoothing:
            return noise
        height, width = noise.shape[1:]
        k_squared = np.square(2 * np.pi * np.fft.fftfreq(height))[:, None]
        k_squared = k_squared + np.square(2 * np.pi * np.fft.rfftfreq(width))
        beam = np.exp(-0.5 * k_squared * self.noise_smoothing**2)
        return scipy.fft.irfft2(scipy.fft.rfft2(noise) * beam, s=(height, width))

    def _stream(self, number):
        return number if self.pairing == "random" else 0

    def _draw_order(self, epoch_and_component):
        epoch, component = epoch_and_component
        generator = np.random.default_rng([ORDER_STREAM, int(self.seed), epoch, component])
        return generator.permutation(len(self.indices))
