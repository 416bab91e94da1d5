"""The sky in HI and dust: clouds of the Galaxy with their velocities, and the dust they hold."""

import dataclasses
import numbers

import numpy as np
import scipy.special

from keras_cosmo.quantities import MapField, Parameter
from keras_cosmo.sphere import butterworth, filter_harmonics

COLUMN_PER_KELVIN = 1.823e18
"""HI atoms per cm^2 for 1 K km/s of optically thin emission (Draine 2011, Physics of the Interstellar and Intergalactic
Medium, equation 8.18)."""

SURVEY_STEP = 1.2882150
"""Channel spacing of HI4PI in km/s; one of its channels is at 600.20722 km/s below zero."""

_SURVEY_START = -600.207218
_COLUMN_UNIT = 1e20  # cm^-2
_LOWEST_SINE = 0.06  # of the latitude: columns grow no more below 3.4 degrees
_LARGEST_STRUCTURE = 8  # multipole below which the power of the fields is flat
_MASK_SMOOTHING = 5.0  # degrees
_NARROWEST = 0.8  # km/s, the thermal dispersion of hydrogen of 80 K
_CHUNK = 1 << 16  # pixels at a time
_STREAMS = ("gas", "noise", "modulation", "independent")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GasPhase:
    """One kind of HI gas on the sky.

    Args:
        column: Median column towards the pole in 1e20 atoms per cm^2.
        latitude_exponent: p of the dependence |sin b|^-p; 1 is a flat layer.
        contrast: Standard deviation of the logarithm of the column.
        slope: Of the angular power spectrum of that logarithm.
        velocity: Mean velocity in km/s (LSR).
        velocity_scatter: Standard deviation of the velocity over the sky in km/s.
        width: Median of the velocity dispersion in km/s; nowhere is it below 0.8.
        width_scatter: Standard deviation of its logarithm.
        dust: Dust per atom in units of that of gas without narrow lines near the Sun.
        cold: Whether narrow lines carry more dust and dense columns turn molecular.
        shared: Whether the gas follows the structure that phases have in common and the rotation of the Galaxy.
    """

    column: float
    latitude_exponent: float
    contrast: float
    slope: float
    velocity: float
    velocity_scatter: float
    width: float
    width_scatter: float
    dust: float
    cold: bool = False
    shared: bool = True


PHASES = {
    "cold": GasPhase(
        column=0.9, latitude_exponent=1.0, contrast=0.8, slope=-2.9, velocity=-2.0, velocity_scatter=8.0,
        width=2.2, width_scatter=0.7, dust=1.15, cold=True,
    ),
    "warm": GasPhase(
        column=1.4, latitude_exponent=0.8, contrast=0.4, slope=-3.3, velocity=-3.0, velocity_scatter=8.0,
        width=8.5, width_scatter=0.15, dust=0.85,
    ),
    "low velocity": GasPhase(
        column=0.45, latitude_exponent=1.0, contrast=0.9, slope=-2.8, velocity=-9.0, velocity_scatter=8.0,
        width=3.5, width_scatter=0.7, dust=1.0, cold=True,
    ),
    "intermediate velocity": GasPhase(
        column=0.2, latitude_exponent=0.2, contrast=1.2, slope=-2.7, velocity=-42.0, velocity_scatter=9.0,
        width=6.0, width_scatter=0.25, dust=0.75, shared=False,
    ),
}  # fmt: skip
"""Gas phases of the embedded sky.

Sources: about 60 % of the HI near the Sun is warm (Heiles & Troland 2003, ApJ 586, 1067, abstract); hydrogen of 8000 K
has a dispersion of 8.1 km/s, cold gas of 70 K with turbulence of Mach 3 (the same abstract) one of about 2 km/s. All
else is an assumption: columns that add up to some 3e20 cm^-2 at the pole, intermediate-velocity clouds that approach at
about 40 km/s and hold less dust, and the amount and slope of the structure.
"""


@dataclasses.dataclass(frozen=True)
class GalacticSkySimulator:
    """Full-sky maps of Galactic HI in velocity channels and of dust, a stand-in for the data of Zhang et al. (2019).

    Four phases of gas (`PHASES`) have log-normal columns over |sin b|, and velocities and widths that vary over the sky
    as Gaussian fields; the channels hold the mean brightness temperature of optically thin lines. Dust is a sum over
    phases in which HI spectra tell more than their integral: narrow lines of cold gas carry more dust per atom, and
    where the column of cold gas passes a threshold, part of the hydrogen is molecular, has dust and no HI. A smooth
    modulation (dust temperature) and an independent sky are not in the HI at all. The mask hides the brightest dust.

    The numbers are chosen so that in cutouts as in the paper the band-power correlation with the dust (multipoles 14 to
    100, 100 to 200; mean over 150 southern cutouts of each of five skies with the defaults) is 0.76 and 0.74 for the
    integrated intensity, 0.78 and 0.78 for the best sum of channels on the north, and 0.89 and 0.89 for `dust_of_gas`,
    low-passed as the dust is.

    Args:
        nside: HEALPix resolution, a power of two from 8 to 4096. The paper: 1024.
        channels: Number of channels, all of one width. The paper: 64.
        velocity_low: In km/s (LSR). The channels cover those HI4PI channels whose centres are between
            ``velocity_low`` and ``velocity_high``. The paper (section 2): -64.5.
        velocity_high: In km/s. The paper: 17. Its range holds 64 HI4PI channels from -64.31 to 16.85.
        low_pass_ell: Multipole of the low-pass of cube and dust, 0 for none. The paper: 460. Fields of nside 128 end
            at multipole 383, where it leaves 0.9 of the amplitude, so that it does little there.
        low_pass_order: Steepness of the low-pass. An assumption.
        uncorrelated: Share of the variance of the dust outside the mask that is independent of the HI. Over the whole
            sky the correlation of a prediction with the dust is so limited to about the root of the rest; in single
            cutouts it may be more or less. The independent dust grows as |sin b|^-0.3 towards the Galactic plane, which
            it has in common with the HI, so that it is not quite without correlation. All an assumption.
        linear: Whether the dust is a weighted sum of the channels (`channel_weights`) instead, as stored and with
            their noise, plus the uncorrelated share: a sky on which no method can beat the best linear one.
        sky_fraction: Share of the sky that the mask leaves. The paper: 0.72.
        noise: Standard deviation in K of each pixel and channel before the low-pass. HI4PI (the paper, section 2):
            0.043.
        cold_gain: Extra dust per atom of cold phases with dispersions of 2 km/s and less, in units of that of broad
            lines; it falls as 1 / dispersion. An assumption, more than in nature, so that there is something to learn.
        molecular_gain: Dust of molecular gas in units of the HI column beyond the threshold. An assumption.
        molecular_threshold: Column towards the pole, in medians of the phase, beyond which gas is molecular. An
            assumption.
        modulation: Standard deviation of the logarithm of a smooth factor of the dust. An assumption.
        emissivity: Median dust brightness per column of HI in uK_RJ at 545 GHz per 1e20 atoms per cm^2. Planck
            Collaboration (2014, A&A 566, A55): 0.14 MJy/sr at high latitude, that is 15.3 uK_RJ; 16 is an assumption
            close to it.

    Raises:
        TypeError: If a whole number or switch is of another type.
        ValueError: If an argument is outside its range.

    Example:
        >>> simulator = GalacticSkySimulator(nside=16)
        >>> sky = simulator.simulate((), seed=1)
        >>> {name: array.shape for name, array in sky.items()}
        {'hi_cube': (1, 3072, 64), 'dust': (1, 3072), 'mask': (1, 3072)}

    Deviations from Zhang et al. 2019: a simulated sky instead of HI4PI and Planck COMMANDER, with a binary mask of its
    own instead of LR72, at nside 128 by default. No optical depth, beam or point sources. North and south differ by
    chance alone.
    """

    nside: int = 128
    channels: int = 64
    velocity_low: float = -64.5
    velocity_high: float = 17.0
    low_pass_ell: float = 460.0
    low_pass_order: float = 4.0
    uncorrelated: float = 0.2
    linear: bool = False
    sky_fraction: float = 0.72
    noise: float = 0.043
    cold_gain: float = 12.0
    molecular_gain: float = 1.2
    molecular_threshold: float = 1.4
    modulation: float = 0.08
    emissivity: float = 16.0

    def __post_init__(self):
        for name, low, high in (("nside", 8, 4096), ("channels", 1, 1024)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise TypeError(f"GalacticSkySimulator: expected {name} to be an integer, got {value!r}.")
            if not low <= value <= high:
                raise ValueError(f"GalacticSkySimulator: expected {name} in [{low}, {high}], got {value}.")
        if self.nside & (self.nside - 1):
            raise ValueError(f"GalacticSkySimulator: expected nside to be a power of two, got {self.nside}.")
        if not isinstance(self.linear, (bool, np.bool_)):
            raise TypeError(f"GalacticSkySimulator: expected linear to be True or False, got {self.linear!r}.")
        for name, low, high in (
            ("velocity_low", -470.0, 470.0),
            ("velocity_high", -470.0, 470.0),
            ("low_pass_ell", 0.0, 1e5),
            ("low_pass_order", 0.5, 100.0),
            ("uncorrelated", 0.0, 0.95),
            ("sky_fraction", 0.05, 1.0),
            ("noise", 0.0, 100.0),
            ("cold_gain", 0.0, 100.0),
            ("molecular_gain", 0.0, 100.0),
            ("molecular_threshold", 0.0, 100.0),
            ("modulation", 0.0, 2.0),
            ("emissivity", 1e-3, 1e3),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise TypeError(f"GalacticSkySimulator: expected {name} to be a number, got {value!r}.")
            if not low <= value <= high:
                raise ValueError(f"GalacticSkySimulator: expected {name} in [{low:g}, {high:g}], got {value}.")
        if 0.0 < self.low_pass_ell < 1.0:
            raise ValueError(
                f"GalacticSkySimulator: expected low_pass_ell to be 0 for no low-pass, or at least 1, got "
                f"{self.low_pass_ell}."
            )
        if not len(self._survey_channels()):
            raise ValueError(
                f"GalacticSkySimulator: expected velocity_low below velocity_high with a channel of the survey, every "
                f"{SURVEY_STEP:.4f} km/s, in between, got {self.velocity_low} and {self.velocity_high}."
            )

    @property
    def name(self) -> str:
        """Name recorded in databases."""
        return "embedded"

    @property
    def version(self) -> str:
        """Version of the physics: changes whenever the same seed gives other maps."""
        return "1"

    @property
    def task(self) -> str:
        """Task whose maps these are."""
        return "dust"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """No parameters are varied."""
        return ()

    @property
    def maps_per_simulation(self) -> int:
        """A simulation is one sky."""
        return 1

    @property
    def n_pixels(self) -> int:
        """Pixels of a map."""
        return 12 * self.nside**2

    @property
    def cell_size(self) -> float:
        """Side of a pixel in arcmin, the root of its solid angle."""
        return float(np.degrees(np.sqrt(4.0 * np.pi / self.n_pixels)) * 60.0)

    @property
    def velocities(self) -> np.ndarray:
        """Centres of the channels ``(channels,)`` in km/s (LSR), increasing."""
        edges = self._edges()
        return 0.5 * (edges[1:] + edges[:-1])

    @property
    def channel_weights(self) -> np.ndarray:
        """``(channels,)`` weights in uK_RJ per K that the dust of ``linear`` gives the channels, all positive.

        They rise with velocity, from gas with a third of the dust (intermediate velocities) to local gas, with a step
        at -28 km/s, and change by a fifth within local gas. An assumption.
        """
        velocity = self.velocities
        local = 1.0 / (1.0 + np.exp(-(velocity + 28.0) / 6.0))
        shape = 0.35 + 0.65 * local * (1.0 + 0.2 * np.sin(2.0 * np.pi * velocity / 30.0))
        width = np.diff(self._edges())
        return self.emissivity * shape * width * COLUMN_PER_KELVIN / _COLUMN_UNIT

    @property
    def fields(self) -> dict[str, MapField]:
        """The maps `simulate` returns."""
        filtered = f", low-passed at multipole {self.low_pass_ell:g}" if self.low_pass_ell else ""
        return {
            "hi_cube": MapField(
                unit="K",
                shape=(self.n_pixels, self.channels),
                description=f"HI brightness temperature in velocity channels, HEALPix RING, galactic{filtered}",
            ),
            "dust": MapField(
                unit="uK_RJ",
                shape=(self.n_pixels,),
                description=f"dust brightness at 545 GHz, HEALPix RING, galactic{filtered}",
            ),
            "mask": MapField(
                unit="", shape=(self.n_pixels,), description="1 where the sky is used, 0 where the dust is brightest"
            ),
        }

    def attributes(self) -> dict:
        """What a database records of the maps' geometry."""
        return {
            "nside": int(self.nside),
            "ordering": "RING",
            "coordinates": "galactic",
            "velocities": self.velocities,
            "low_pass_ell": float(self.low_pass_ell),
            "low_pass_order": float(self.low_pass_order),
            "cell_size": self.cell_size,
            "cell_size_units": "arcmin",
            "periodic_across_sky": False,
            "linear": bool(self.linear),
            "uncorrelated": float(self.uncorrelated),
            "description": (
                f"simulated Galactic sky at nside {self.nside}: HI in {self.channels} channels from "
                f"{self.velocities[0]:.2f} to {self.velocities[-1]:.2f} km/s, and dust, "
                f"{'linear' if self.linear else 'not linear'} in them and {100 * self.uncorrelated:g} % independent"
            ),
        }

    def simulate(self, parameter_values, seed: int) -> dict[str, np.ndarray]:
        """Maps of one sky.

        Args:
            parameter_values: Empty: there are no parameters.
            seed: Integer from 0 to 2**31 - 1. One seed is the same clouds at every ``nside``, with more or less detail.

        Returns:
            Float32 maps in RING order and galactic coordinates: ``hi_cube`` ``(1, n_pixels, channels)`` in K, ``dust``
            ``(1, n_pixels)`` in uK_RJ, ``mask`` ``(1, n_pixels)`` with 0 or 1. Cube and dust are not multiplied by the
            mask. Noise, and the low-pass beside the brightest clouds, can make pixels negative.

        Raises:
            ValueError: If parameters are given, or the seed is outside its range.
        """
        if np.shape(parameter_values) not in ((0,), ()) or np.size(parameter_values):
            raise ValueError(
                f"parameter_values: expected none, shape (0,), got shape {np.shape(parameter_values)}. The Galactic "
                f"sky has no parameters."
            )
        generators = self._generators(seed)
        columns, velocities, widths = self._gas(generators["gas"])
        cube = self._lines(columns, velocities, widths)
        for start in range(0, self.n_pixels, _CHUNK) if self.noise else ():
            part = cube[start : start + _CHUNK]
            part += np.float32(self.noise) * generators["noise"].standard_normal(part.shape, np.float32)
        held = cube @ self.channel_weights.astype(np.float32) if self.linear else self._held_dust(columns, widths)
        if self.modulation and not self.linear:
            held *= np.exp(np.float32(self.modulation) * self._random_field(generators["modulation"], -3.2))
        dust = held + self._independent_dust(held, generators["independent"])
        mask = self._mask(dust)
        if self.low_pass_ell:
            for i in range(self.channels):
                cube[:, i] = self._low_passed(cube[:, i])
            dust = self._low_passed(dust)
        return {"hi_cube": cube[None], "dust": dust[None].astype(np.float32), "mask": mask[None]}

    def dust_of_gas(self, seed: int) -> np.ndarray:
        """``(n_pixels,)`` dust in uK_RJ that the gas of each phase holds, without modulation, other dust or low-pass.

        What a perfect separation of the phases would predict; spectra in which phases overlap tell less.

        Args:
            seed: As for `simulate`, whose dust this belongs to.

        Raises:
            ValueError: If the dust is ``linear``, or the seed is outside its range.
        """
        if self.linear:
            raise ValueError("dust_of_gas: with linear=True the dust is the sum of `channel_weights` times channels.")
        columns, _, widths = self._gas(self._generators(seed)["gas"])
        return self._held_dust(columns, widths)

    def _generators(self, seed) -> dict[str, np.random.Generator]:
        if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**31:
            raise ValueError(f"GalacticSkySimulator: expected seed to be an integer in [0, 2**31), got {seed!r}.")
        return {name: np.random.default_rng([i, int(seed)]) for i, name in enumerate(_STREAMS)}

    def _survey_channels(self) -> np.ndarray:
        """Centres of the HI4PI channels in the velocity range."""
        first = np.ceil((self.velocity_low - _SURVEY_START) / SURVEY_STEP - 1e-6)
        last = np.floor((self.velocity_high - _SURVEY_START) / SURVEY_STEP + 1e-6)
        return _SURVEY_START + SURVEY_STEP * np.arange(first, last + 1.0)

    def _edges(self) -> np.ndarray:
        """Edges of the channels: of those of the survey, or of as many as asked for over the same range."""
        centres = self._survey_channels()
        half = 0.5 * SURVEY_STEP
        return np.linspace(centres[0] - half, centres[-1] + half, self.channels + 1)

    def _latitude(self) -> tuple[np.ndarray, np.ndarray]:
        """|sin b|, not below a floor, and sin(2 l) cos(b), of all pixels."""
        import healpy

        x, y, z = healpy.pix2vec(self.nside, np.arange(self.n_pixels))
        cosine = np.maximum(np.hypot(x, y), 1e-12)
        return np.maximum(np.abs(z), _LOWEST_SINE).astype(np.float32), (2.0 * x * y / cosine).astype(np.float32)

    def _random_field(self, generator: np.random.Generator, slope: float) -> np.ndarray:
        """Gaussian field ``(n_pixels,)`` with mean 0, variance 1 and power of multipoles ell^slope."""
        import healpy

        # Its own generator, and multipole by multipole, so that other resolutions see the same large scales.
        generator = np.random.default_rng(generator.integers(2**63, size=2))
        lmax = 3 * self.nside - 1
        ell, m = healpy.Alm.getlm(lmax)
        amplitude = np.maximum(ell, _LARGEST_STRUCTURE) ** (0.5 * slope) * np.where(m > 0, np.sqrt(0.5), 1.0)
        amplitude[ell < 2] = 0.0
        numbers_ = generator.standard_normal((lmax + 1) ** 2)
        real = numbers_[ell**2 + np.maximum(2 * m - 1, 0)]
        imaginary = np.where(m > 0, numbers_[ell**2 + 2 * m], 0.0)
        harmonics = amplitude * (real + 1j * imaginary)
        variance = np.sum(np.where(m > 0, 2.0, 1.0) * np.abs(harmonics) ** 2) / (4.0 * np.pi)
        return healpy.alm2map(harmonics / np.sqrt(variance), self.nside, lmax=lmax).astype(np.float32)

    def _gas(self, generator):
        """Columns in 1e20 cm^-2, central velocities and dispersions in km/s of the phases, each ``(n_pixels,)``."""
        sine, rotation = self._latitude()
        common = self._random_field(generator, -2.9)
        columns, velocities, widths = [], [], []
        for phase in PHASES.values():
            structure = self._random_field(generator, phase.slope)
            if phase.shared:
                structure = np.float32(0.5) * common + np.float32(np.sqrt(0.75)) * structure
            layer = sine**-phase.latitude_exponent
            columns.append(np.float32(phase.column) * np.exp(phase.contrast * structure) * layer)
            velocity = phase.velocity + phase.velocity_scatter * self._random_field(generator, -3.4)
            velocities.append(velocity - 6.0 * rotation if phase.shared else velocity)
            width = phase.width * np.exp(phase.width_scatter * self._random_field(generator, -2.6))
            widths.append(np.maximum(width, _NARROWEST))
        return columns, velocities, widths

    def _lines(self, columns, velocities, widths) -> np.ndarray:
        """Brightness temperature ``(n_pixels, channels)``: Gaussian lines, averaged over each channel."""
        edges = self._edges().astype(np.float32)
        cube = np.zeros((self.n_pixels, self.channels), np.float32)
        kelvin = _COLUMN_UNIT / COLUMN_PER_KELVIN / float(edges[1] - edges[0])
        for start in range(0, self.n_pixels, _CHUNK):
            part = slice(start, start + _CHUNK)
            for column, velocity, width in zip(columns, velocities, widths, strict=True):
                below = scipy.special.ndtr((edges - velocity[part, None]) / width[part, None])
                cube[part] += (kelvin * column[part, None]).astype(np.float32) * np.diff(below, axis=1)
        return cube

    def _held_dust(self, columns, widths) -> np.ndarray:
        """Dust ``(n_pixels,)`` in uK_RJ of the gas of all phases."""
        sine, _ = self._latitude()
        dust = np.zeros(self.n_pixels, np.float32)
        for phase, column, width in zip(PHASES.values(), columns, widths, strict=True):
            if phase.cold:
                layer = sine**-phase.latitude_exponent
                molecular = np.maximum(column - self.molecular_threshold * phase.column * layer, 0.0)
                dust += phase.dust * column * (1.0 + self.cold_gain * np.minimum(2.0 / width, 1.0))
                dust += self.molecular_gain * molecular
            else:
                dust += phase.dust * column
        return dust * np.float32(self.emissivity / np.median(dust / sum(columns)))

    def _independent_dust(self, held, generator) -> np.ndarray:
        """Dust that knows nothing of the HI, with its share of the variance where the sky is used."""
        sine, _ = self._latitude()
        other = np.exp(np.float32(0.8) * self._random_field(generator, -2.6)) * sine**-0.3
        used = self._mask(held) > 0.0
        share = np.sqrt(self.uncorrelated / (1.0 - self.uncorrelated))
        return other * np.float32(share * np.std(held[used], dtype=float) / np.std(other[used], dtype=float))

    def _low_passed(self, values) -> np.ndarray:
        """A map ``(n_pixels,)`` after the Butterworth filter."""
        finest = 3 * self.nside - 1
        factor = butterworth(np.arange(finest + 1), self.low_pass_ell, self.low_pass_order)
        if self.low_pass_ell <= finest:
            return filter_harmonics(values, factor, iterations=1)
        # A filter that lets pass the finest multipole of these pixels: what it takes out, so that the map is not also
        # cut off there, which would leave rings around bright clouds.
        return values + filter_harmonics(values, factor - 1.0, iterations=1)

    def _mask(self, dust) -> np.ndarray:
        """1 in the share of the sky where smoothed dust is faintest, exact to one pixel."""
        import healpy

        beam = healpy.gauss_beam(np.radians(_MASK_SMOOTHING), lmax=min(3 * self.nside - 1, 300))
        smooth = filter_harmonics(dust, beam, iterations=1)
        mask = np.zeros(self.n_pixels, np.float32)
        mask[np.argsort(smooth, kind="stable")[: round(self.sky_fraction * self.n_pixels)]] = 1.0
        return mask
