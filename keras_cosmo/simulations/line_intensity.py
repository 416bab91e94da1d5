"""Intensity maps of emission lines: random slabs of haloes, or given halo catalogues, painted with light."""

import dataclasses
import functools
import json
import logging
import zlib
from collections.abc import Mapping

import numpy as np
import scipy.fft
import scipy.optimize
import scipy.special
from scipy.spatial.transform import Rotation

from keras_cosmo.haloes import HaloCatalogue
from keras_cosmo.quantities import MapField, Parameter
from keras_cosmo.simulations.cosmology import MEGAPARSEC_IN_CENTIMETRES, Background, Cosmology
from keras_cosmo.simulations.emission_lines import INTENSITY_UNIT, LINES, EmissionLine
from keras_cosmo.simulations.halo_luminosity import REDSHIFT_TOLERANCE, HaloLuminosity

logger = logging.getLogger(__name__)

_PAPER = Cosmology(
    omega_m=0.316, omega_b=0.0494, h=0.673, sigma_8=0.811, n_s=0.965, transfer_function="eisenstein_hu_1998"
)
"""Omega_m and h of Moriwaki et al. (2020, section 1). The paper does not give the other three: here they are those of
Planck Collaboration (2020, A&A 641, A6), which it cites."""

_SPEED_OF_LIGHT = 2.99792458e5  # km/s
_KILOMETRES_PER_MEGAPARSEC = MEGAPARSEC_IN_CENTIMETRES / 1e5
_ARCMINUTE = np.pi / 180.0 / 60.0
_CLASSES = 8  # of halo mass that share one bias
_ORDERS = 40  # of the Hermite expansion of the light
_BEAM_REACH = 5.0  # deviations of the beam: what is farther away has no light here
_HEAVIEST = 15.5  # log10 of solar masses
_VIRIAL_DENSITY = 200.0  # of haloes in units of the mean, Tinker et al. 2005
_STREAMS = {"simulate": 0, "paint": 1}


@dataclasses.dataclass(frozen=True)
class LineIntensitySimulator:
    """Maps of the intensity of redshifted emission lines, each line alone, as Moriwaki et al. (2020) make them.

    Each line comes from a slab of the universe at its own redshift, as deep as the spectral resolution: c (1 + z) /
    (H R). Haloes in the slab shine with `HaloLuminosity`; L / (4 pi D_L^2) per solid angle of a pixel is the intensity,
    integrated over the band, and R times it is nu I_nu. A Gaussian beam smooths a field that is wider than the map.

    `simulate` draws the haloes itself: Poisson numbers with the mass function of Watson et al. (2013) in a nearly
    log-normal density, whose correlation is that of haloes: the non-linear matter correlation function (halofit) times
    the bias of each mass (Sheth & Tormen 1999) and its dependence on scale, with no pairs closer than the sum of their
    virial radii (Tinker et al. 2005, ApJ 631, 41, appendix B); its skewness is that of second-order perturbation
    theory. `paint` takes haloes from catalogues, such as those of PINOCCHIO, which the paper uses.

    Args:
        lines: Names from `LINES`. The paper: Halpha from redshift 1.3 and [OIII] from 2.0.
        observed_wavelength: In um. The paper: 1.5.
        resolving_power: R = wavelength / width of the band, 2 to 1000. The paper: 40. The statistics of `simulate` are
            those of slabs deeper than haloes are correlated, R up to about 300.
        map_cells: Pixels along each side, 16 to 1024. The paper: 256.
        map_side: In degrees. The paper: 1.7, that is pixels of 0.4 arcmin.
        beam_sigma: Standard deviation of the Gaussian beam in arcmin, 0 for none. The paper: 1.2.
        maps: Maps of each line per simulation, all independent.
        unsmoothed: Whether to return the maps before the beam too; without a beam they are the same and left out.
        minimum_mass: Of the haloes that shine, in solar masses. The paper: 3e10 / h.
        amplitude_scatter: Standard deviation of the logarithm of a factor that multiplies whole maps, drawn for each,
            with mean 1: for lines whose mean is uncertain. The paper has none.
        cosmology: Cosmological parameters.
        luminosity: How haloes shine.

    Raises:
        TypeError: If a number of cells or maps is not an integer, or ``luminosity`` is of another type.
        ValueError: If an argument is outside its range, or luminosities of a line are not known at its redshift.

    Example:
        >>> simulator = LineIntensitySimulator(map_cells=64, map_side=0.425, unsmoothed=False)
        >>> maps = simulator.simulate((), seed=1)
        >>> {name: array.shape for name, array in maps.items()}
        {'intensity_halpha': (1, 64, 64), 'intensity_oiii': (1, 64, 64)}

    Deviations from Moriwaki et al. 2020: `simulate` draws every map from its own random field instead of 100
    projections of one PINOCCHIO box, and halo luminosities come from a published relation instead of Illustris-TNG
    (give a `LuminosityTable` for theirs). As there, haloes are points in real space, at one redshift, and rays are
    parallel. ``benchmarks/compare_line_maps.py`` measures the agreement with PINOCCHIO.
    """

    lines: tuple[str, ...] = ("halpha", "oiii")
    observed_wavelength: float = 1.5
    resolving_power: float = 40.0
    map_cells: int = 256
    map_side: float = 1.7
    beam_sigma: float = 1.2
    maps: int = 1
    unsmoothed: bool = True
    minimum_mass: float = 3e10 / 0.673
    amplitude_scatter: float = 0.0
    cosmology: Cosmology = _PAPER
    luminosity: HaloLuminosity = dataclasses.field(default_factory=HaloLuminosity)

    def __post_init__(self):
        for name, low, high in (("map_cells", 16, 1024), ("maps", 1, 100000)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"LineIntensitySimulator: expected {name} to be an integer, got {value!r}.")
            if not low <= value <= high:
                raise ValueError(f"LineIntensitySimulator: expected {name} in [{low}, {high}], got {value}.")
        lines = (self.lines,) if isinstance(self.lines, str) else tuple(self.lines)
        unknown = [name for name in lines if name not in LINES]
        if unknown or not lines or len(set(lines)) < len(lines):
            raise ValueError(
                f"LineIntensitySimulator: expected lines to be different names out of {list(LINES)}, got {lines}."
            )
        object.__setattr__(self, "lines", lines)
        for name, low, high in (
            ("resolving_power", 2.0, 1e3),
            ("map_side", 0.01, 20.0),
            ("minimum_mass", 1e8, 1e14),
            ("amplitude_scatter", 0.0, 2.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"LineIntensitySimulator: expected {name} in [{low:g}, {high:g}], got {value}.")
        widest = self.map_side * 60.0 / 4.0
        if not 0.0 <= self.beam_sigma <= widest:
            raise ValueError(
                f"LineIntensitySimulator: expected beam_sigma in [0, {widest:g}] arcmin, a quarter of the map, got "
                f"{self.beam_sigma}."
            )
        if not isinstance(self.luminosity, HaloLuminosity):
            raise TypeError(
                f"LineIntensitySimulator: expected luminosity to be a HaloLuminosity, got "
                f"{type(self.luminosity).__name__}."
            )
        for name in lines:
            self.luminosity.check(LINES[name], LINES[name].redshift(self.observed_wavelength))

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
        return "separation"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """No parameters are varied."""
        return ()

    @property
    def maps_per_simulation(self) -> int:
        """Maps of each field."""
        return self.maps

    @property
    def fields(self) -> dict[str, MapField]:
        """The maps `simulate` and `paint` return."""
        fields = {}
        shape = (self.map_cells, self.map_cells)
        for name, line in zip(self.lines, self._lines, strict=True):
            text = f"intensity of {line.label} from redshift {line.redshift(self.observed_wavelength):.3f} alone"
            beam = f"after a beam of {self.beam_sigma:g} arcmin" if self.beam_sigma else "without a beam"
            fields[f"intensity_{name}"] = MapField(unit=INTENSITY_UNIT, shape=shape, description=f"{text}, {beam}")
            if self._both:
                fields[f"intensity_{name}_unsmoothed"] = MapField(
                    unit=INTENSITY_UNIT, shape=shape, description=f"{text}, before the beam"
                )
        return fields

    @property
    def cell_size(self) -> float:
        """Side of a pixel in arcmin."""
        return self.map_side * 60.0 / self.map_cells

    def attributes(self) -> dict:
        """What a database records of the maps' geometry and cosmology."""
        return {
            "cell_size": self.cell_size,
            "cell_size_units": "arcmin",
            "periodic_across_sky": False,
            "beam_sigma": float(self.beam_sigma),
            "observed_wavelength": float(self.observed_wavelength),
            "resolving_power": float(self.resolving_power),
            "lines": list(self.lines),
            "line_redshifts": np.array([line.redshift(self.observed_wavelength) for line in self._lines]),
            "cosmology": json.dumps(self.cosmology.attributes()),
            "description": (
                f"{self.map_cells} x {self.map_cells} maps of {self.map_side:g} degrees of "
                f"{', '.join(line.label for line in self._lines)} at {self.observed_wavelength:g} um, R = "
                f"{self.resolving_power:g}, from haloes above {self.minimum_mass:.3g} Msun"
            ),
        }

    def simulate(self, parameter_values, seed: int) -> dict[str, np.ndarray]:
        """Maps of one simulation.

        Args:
            parameter_values: Empty: there are no parameters.
            seed: Integer from 0 to 2**31 - 1. The maps of a line are a function of the seed and the line alone.

        Returns:
            ``(maps, map_cells, map_cells)`` float32 arrays ``intensity_<line>`` and, if asked for,
            ``intensity_<line>_unsmoothed``, in erg s^-1 cm^-2 sr^-1. Lines are independent of each other.

        Raises:
            ValueError: If parameters are given, or the seed is outside its range.
        """
        if np.shape(parameter_values) not in ((0,), ()) or np.size(parameter_values):
            raise ValueError(
                f"parameter_values: expected none, shape (0,), got shape {np.shape(parameter_values)}. Line maps have "
                f"no parameters."
            )
        result = self._empty(self.maps)
        for name, generator in self._generators("simulate", seed):
            field = _field(self, name)
            for i in range(self.maps):
                self._store(result, name, i, field.draw(generator), generator)
        return result

    def paint(self, catalogues: Mapping[str, HaloCatalogue], projections: int, seed: int) -> dict[str, np.ndarray]:
        """Maps of given haloes, projected along random directions from random origins.

        The periodic box is repeated where the slab is larger than the box, so that a map may show the same haloes more
        than once; the paper's boxes of 280 Mpc/h are larger than its maps. Each halo keeps its luminosity in all
        projections.

        Args:
            catalogues: A catalogue for every line of the simulator, at its redshift within 0.1. Haloes below
                ``minimum_mass`` are left out.
            projections: Number of maps of each line. The paper: 100 per catalogue.
            seed: Integer from 0 to 2**31 - 1, of luminosities, directions and origins. The first projections are the
                same whatever their number.

        Returns:
            As `simulate`, with ``projections`` maps.

        Raises:
            TypeError: If a catalogue is of another type.
            ValueError: If a line has no catalogue or one of another redshift, or a number is outside its range.

        Example:
            >>> rng = np.random.default_rng(0)
            >>> haloes = HaloCatalogue(1.3, 100.0, rng.uniform(0.0, 100.0, (50, 3)), np.full(50, 1e12))
            >>> simulator = LineIntensitySimulator(lines=("halpha",), map_cells=64, map_side=0.425)
            >>> simulator.paint({"halpha": haloes}, projections=3, seed=0)["intensity_halpha"].shape
            (3, 64, 64)
        """
        if isinstance(projections, bool) or not isinstance(projections, (int, np.integer)) or projections < 1:
            raise ValueError(f"projections: expected a positive number of maps, got {projections!r}.")
        if set(catalogues) != set(self.lines):
            raise ValueError(
                f"catalogues: expected one for each line {list(self.lines)}, got {list(catalogues)}. Give what is "
                f"missing, or a simulator with these lines."
            )
        for name in self.lines:
            catalogue, redshift = catalogues[name], LINES[name].redshift(self.observed_wavelength)
            if not isinstance(catalogue, HaloCatalogue):
                raise TypeError(f"catalogues: expected a HaloCatalogue for {name}, got {type(catalogue).__name__}.")
            if abs(catalogue.redshift - redshift) > REDSHIFT_TOLERANCE:
                raise ValueError(
                    f"catalogues: {LINES[name].label} at {self.observed_wavelength:g} um is from redshift "
                    f"{redshift:.3f}, the catalogue {catalogue.label} is at redshift {catalogue.redshift:g}. Give one "
                    f"within {REDSHIFT_TOLERANCE:g}."
                )
        result = self._empty(int(projections))
        for name, generator in self._generators("paint", seed):
            catalogue, slab = catalogues[name], _slab(self, name)
            shining = catalogue.masses >= self.minimum_mass
            positions = np.asarray(catalogue.positions[shining], np.float64)
            luminosities = self.luminosity.draw(
                slab.line, catalogue.masses[shining].astype(float), slab.redshift, generator
            )
            if max(slab.wide, slab.depth) > catalogue.box_size:
                logger.info(
                    "%s: the slab of %s is %.0f x %.0f x %.0f Mpc, wider than the box of %.0f Mpc, which is repeated.",
                    catalogue.label, slab.line.label, slab.wide, slab.wide, slab.depth, catalogue.box_size,
                )  # fmt: skip
            for i in range(int(projections)):
                # A quaternion of four Gaussian numbers is a rotation without preferred direction.
                rotation = Rotation.from_quat(generator.standard_normal(4)).as_matrix()
                origin = generator.uniform(0.0, catalogue.box_size, 3)
                rows, columns, chosen = slab.select(positions, catalogue.box_size, rotation, origin)
                light = slab.project(rows, columns, luminosities[chosen])
                self._store(result, name, i, light, generator)
        return result

    def mean_intensity(self, line: str) -> float:
        """Mean intensity of ``line`` that `simulate` draws from, in erg s^-1 cm^-2 sr^-1: the integral over haloes."""
        slab = _slab(self, self._known(line))
        _, density, mean, _ = slab.haloes()
        return float(np.sum(density * mean) * slab.intensity_per_column * slab.depth)

    def power_spectrum(self, line: str, wavenumber) -> np.ndarray:
        """Expected power of maps of ``line`` before pixels and beam, in units of the squared mean times Mpc^2.

        Projected clustering plus the shot noise of haloes of different luminosity.

        Args:
            line: One of ``lines``.
            wavenumber: Comoving, across the sky, in 1/Mpc.
        """
        slab = _slab(self, self._known(line))
        return slab.projected_power(np.asarray(wavenumber, float)) + slab.shot_noise

    @property
    def _lines(self) -> tuple[EmissionLine, ...]:
        return tuple(LINES[name] for name in self.lines)

    @property
    def _both(self) -> bool:
        return bool(self.unsmoothed and self.beam_sigma > 0.0)

    def _known(self, line: str) -> str:
        if line not in self.lines:
            raise ValueError(f"line: expected one of {list(self.lines)}, got {line!r}.")
        return line

    def _empty(self, maps: int) -> dict[str, np.ndarray]:
        return {name: np.empty((maps, *field.shape), np.float32) for name, field in self.fields.items()}

    def _generators(self, stream: str, seed):
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**31:
            raise ValueError(f"LineIntensitySimulator: expected seed to be an integer in [0, 2**31), got {seed!r}.")
        for name in self.lines:
            yield name, np.random.default_rng([_STREAMS[stream], int(seed), zlib.crc32(name.encode())])

    def _store(self, result, name, number, light, generator):
        """Keep the map in the middle of a wider field of light, before and after the beam."""
        if self.amplitude_scatter:
            width = self.amplitude_scatter
            light = light * np.exp(width * generator.standard_normal() - 0.5 * width**2)
        margin, cells = _margin(self), self.map_cells
        middle = slice(margin, margin + cells)
        if self._both:
            result[f"intensity_{name}_unsmoothed"][number] = light[middle, middle]
        if self.beam_sigma:
            light = smooth(light, self.beam_sigma / self.cell_size)
        result[f"intensity_{name}"][number] = light[middle, middle]


def smooth(field: np.ndarray, sigma: float) -> np.ndarray:
    """A field after a Gaussian beam of ``sigma`` cells; what is farther than a margin from the edges is exact.

    Args:
        field: ``(n, n)``; it is continued periodically, so that the beam moves light across the edges.
        sigma: Standard deviation in cells.
    """
    shape = tuple(scipy.fft.next_fast_len(n, real=True) for n in field.shape)
    across = np.exp(-2.0 * (np.pi * sigma * scipy.fft.fftfreq(shape[0])) ** 2)
    along = np.exp(-2.0 * (np.pi * sigma * scipy.fft.rfftfreq(shape[1])) ** 2)
    modes = scipy.fft.rfft2(field, shape)
    smoothed = scipy.fft.irfft2(modes * across[:, None] * along, shape)[: field.shape[0], : field.shape[1]]
    # Rounding of the transforms can leave dark pixels slightly negative.
    return np.maximum(smoothed, 0.0)


def _margin(simulator: LineIntensitySimulator) -> int:
    """Cells around the map whose light the beam may bring in."""
    return int(np.ceil(_BEAM_REACH * simulator.beam_sigma / simulator.cell_size))


class _Slab:
    """Geometry of the slab that one line comes from, its haloes and their clustering."""

    def __init__(self, simulator: LineIntensitySimulator, name: str):
        self.simulator, self.line = simulator, LINES[name]
        self.redshift = self.line.redshift(simulator.observed_wavelength)
        self.background: Background = simulator.cosmology.background()
        self.hubble = self.background.hubble(self.redshift) * _KILOMETRES_PER_MEGAPARSEC  # km/s/Mpc
        self.depth = _SPEED_OF_LIGHT * (1.0 + self.redshift) / self.hubble / simulator.resolving_power
        self.cell = self.background.comoving_distance(self.redshift) * simulator.cell_size * _ARCMINUTE
        self.cells = simulator.map_cells + 2 * _margin(simulator)
        self.wide = self.cells * self.cell
        # Of one erg/s per Mpc^2: L / (4 pi D_L^2) over the solid angle, (distance / D_L)^2 = (1 + z)^-2.
        self.intensity_per_column = 1.0 / (4.0 * np.pi * (1.0 + self.redshift) ** 2 * MEGAPARSEC_IN_CENTIMETRES**2)

    @functools.cache  # noqa: B019 - slabs live as long as their cache
    def haloes(self, steps: int = 480) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Halo masses, their number density in 1/Mpc^3, mean and deviation of their luminosity in erg/s."""
        edges = np.linspace(np.log10(self.simulator.minimum_mass), _HEAVIEST, steps + 1)
        middle = 0.5 * (edges[1:] + edges[:-1])
        table = np.log(self.background.halo_mass_function(self.redshift) + 1e-300)
        density = np.exp(np.interp(middle, self.background.log10_masses, table)) * np.diff(edges)
        mean, deviation = self.simulator.luminosity.moments(self.line, 10.0**middle, self.redshift)
        return 10.0**middle, density, mean, deviation

    @functools.cached_property
    def bias(self) -> np.ndarray:
        """Bias of `haloes`."""
        masses = np.log10(self.haloes()[0])
        return np.interp(masses, self.background.log10_masses, self.background.halo_bias(self.redshift))

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """Share of the light from each of `haloes`."""
        _, density, mean, _ = self.haloes()
        light = density * mean
        if not light.sum() > 0.0:
            raise ValueError(
                f"LineIntensitySimulator: no halo above {self.simulator.minimum_mass:g} Msun shines in "
                f"{self.line.label}. Check the masses of its LuminosityTable."
            )
        return light / light.sum()

    @property
    def shot_noise(self) -> float:
        """Of the projected light over its mean, in Mpc^2."""
        _, density, mean, deviation = self.haloes()
        return float(np.sum(density * (mean**2 + deviation**2)) / np.sum(density * mean) ** 2 / self.depth)

    @functools.cached_property
    def correlation(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances in Mpc, and the light-weighted correlation function of haloes."""
        k, power = self.background.wavenumbers, self.background.nonlinear_power(self.redshift)
        step = np.log(k[1] / k[0])
        offset = scipy.fft.fhtoffset(step, mu=0.5, bias=0.0)
        # Half a wavelength of the largest wavenumbers is far below the size of haloes.
        damped = power * np.exp(-((k / 200.0) ** 2))
        transformed = scipy.fft.fht(damped * k**1.5, step, mu=0.5, offset=offset)
        distance = np.exp(offset) / k[::-1]
        matter = transformed / (2.0 * np.pi * distance) ** 1.5
        chosen = (distance > 0.02) & (distance < 2000.0)
        distance, matter = distance[chosen], matter[chosen]
        positive = np.maximum(matter, -0.5)
        scale_dependence = (1.0 + 1.17 * positive) ** 1.49 / (1.0 + 0.69 * positive) ** 2.09

        masses = self.haloes()[0]
        thin = slice(None, None, 4)
        radii = (masses[thin] * 0.75 / np.pi / _VIRIAL_DENSITY / self.background.mean_matter_density) ** (1.0 / 3.0)
        share = self.weights.reshape(-1, 4).sum(axis=1)
        biased = (self.weights * self.bias).reshape(-1, 4).sum(axis=1)
        nearest = (radii[:, None] + radii).ravel()
        order = np.argsort(nearest)
        apart, biased_apart = (
            np.interp(distance, nearest[order], np.cumsum(np.outer(column, column).ravel()[order]), left=0.0)
            for column in (share, biased)
        )
        return distance, biased_apart * scale_dependence * matter - (1.0 - apart)

    def projected_correlation(self, across: np.ndarray) -> np.ndarray:
        """Correlation of the mean over the depth of the slab at distances across the sky in Mpc."""
        distance, correlation = self.correlation
        offsets = np.sinh(np.linspace(0.0, np.arcsinh(self.depth / 0.02), 300)) * 0.02
        separation = np.hypot(np.asarray(across)[..., None], offsets)
        values = np.interp(np.log(separation), np.log(distance), correlation, right=0.0)
        return 2.0 * np.trapezoid(values * (1.0 - offsets / self.depth), offsets, axis=-1) / self.depth

    def projected_power(self, wavenumber: np.ndarray) -> np.ndarray:
        """Of the clustering of light in the slab over its mean, in Mpc^2."""
        across = np.geomspace(0.02, 1000.0, 4000)
        kernel = scipy.special.j0(np.multiply.outer(wavenumber, across)) * 2.0 * np.pi * across**2
        return np.trapezoid(kernel * self.projected_correlation(across), np.log(across), axis=-1)

    @functools.cached_property
    def reduced_skewness(self) -> float:
        """Third moment of the projected light over its squared variance, at second order of perturbation theory.

        Bernardeau (1995, A&A 301, 309) for projected matter, 36/7 - 3/2 (n + 2), with the slope n of the linear
        spectrum where its variance is 1; Fry & Gaztanaga (1993, ApJ 413, 447) for biased tracers.
        """
        background = self.background
        deviation = background.mass_deviations * background.growth(self.redshift)
        slope = np.gradient(2.0 * np.log(deviation), np.log(10.0) / 3.0 * background.log10_masses)
        n = -3.0 - np.interp(0.0, -np.log(deviation), slope)
        masses = np.log10(self.haloes()[0])
        second = np.interp(masses, background.log10_masses, background.second_order_bias(self.redshift))
        first, second = np.sum(self.weights * self.bias), np.sum(self.weights * second)
        return float((36.0 / 7.0 - 1.5 * (n + 2.0)) / first + 3.0 * second / first**2)

    def project(self, rows, columns, luminosities) -> np.ndarray:
        """Intensity ``(cells, cells)`` of light at pixels ``rows`` and ``columns``."""
        index = rows * self.cells + columns
        light = np.bincount(index, luminosities, self.cells**2).reshape(self.cells, self.cells)
        return light * (self.intensity_per_column / self.cell**2)

    def select(self, positions, box_size, rotation, origin):
        """Pixels of the periodic images of ``positions`` inside the slab around ``origin``, and which halo each is."""
        half = 0.5 * np.array((self.wide, self.wide, self.depth))
        wrapped = positions - origin
        wrapped -= box_size * np.round(wrapped / box_size)
        reach = np.abs(rotation) @ half
        images = [np.arange(-n, n + 1) for n in np.ceil(reach / box_size - 0.5).clip(0).astype(int)]
        rows, columns, chosen = [], [], []
        diagonal = np.sqrt(3.0) * 0.5 * box_size
        for shift in np.stack(np.meshgrid(*images, indexing="ij"), axis=-1).reshape(-1, 3) * box_size:
            if np.any(np.abs(shift @ rotation) > half + diagonal):
                continue
            near = np.flatnonzero(np.all(np.abs(wrapped + shift) <= reach, axis=1))
            seen = (wrapped[near] + shift) @ rotation
            inside = np.all(np.abs(seen) < half, axis=1)
            pixels = np.floor((seen[inside, :2] + half[:2]) / self.cell).astype(np.int64)
            pixels = np.minimum(pixels, self.cells - 1)
            rows.append(pixels[:, 0])
            columns.append(pixels[:, 1])
            chosen.append(near[inside])
        return np.concatenate(rows), np.concatenate(columns), np.concatenate(chosen)


class _HaloField:
    """Random haloes in a slab: Poisson numbers in a projected density with given correlation and skewness.

    The density of each class of mass is a function of one Gaussian field g: a log-normal that is stretched downwards
    and cut off at zero, max(0, 1 + stretch (exp(r s g - r^2 s^2 / 2) - 1)), where r is the bias of the class over that
    of the light. The width s and the stretch are those with which the light has the variance of the target correlation
    and the skewness of perturbation theory; the correlation of g is that which these functions turn into the target.
    """

    def __init__(self, slab: _Slab):
        self.slab = slab
        masses, density, _, _ = slab.haloes()
        # Classes of equal light, so that where most of it comes from the bias is resolved best.
        number = np.minimum((np.cumsum(slab.weights) - 0.5 * slab.weights) * _CLASSES, _CLASSES - 1).astype(int)
        edges = np.linspace(np.log10(slab.simulator.minimum_mass), _HEAVIEST, len(masses) + 1)
        self.classes = []
        for i in np.unique(number):
            members = slice(np.searchsorted(number, i), np.searchsorted(number, i, side="right"))
            cumulative = np.concatenate([[0.0], np.cumsum(density[members])])
            self.classes.append((cumulative[-1], cumulative / cumulative[-1], edges[members.start : members.stop + 1]))
        sums = [np.bincount(number, values)[np.unique(number)] for values in (slab.weights, slab.weights * slab.bias)]
        self.shares, self.ratios = sums[0], sums[1] / np.maximum(sums[0], 1e-300) / sums[1].sum()
        self._nodes = np.linspace(-9.0, 9.0, 3601)
        self._probability = np.exp(-0.5 * self._nodes**2)
        self._probability /= self._probability.sum()
        self._prepare()

    def _density(self, gaussian, ratio, width, stretch):
        """Density of one class, not normalized."""
        exponential = np.exp(type(gaussian.flat[0])(ratio * width) * gaussian - 0.5 * (ratio * width) ** 2)
        return np.maximum(stretch * exponential + (1.0 - stretch), 0.0)

    def _means(self, width, stretch):
        """Mean of `_density` of each class."""
        return [np.sum(self._probability * self._density(self._nodes, r, width, stretch)) for r in self.ratios]

    def _light(self, width, stretch):
        """Light at each node, with mean 1."""
        classes = zip(self.shares, self.ratios, self._means(width, stretch), strict=True)
        return sum(share * self._density(self._nodes, r, width, stretch) / mean for share, r, mean in classes)

    def _width(self, stretch, variance):
        """Width with which the light has a variance."""

        def excess(width):
            return np.sum(self._probability * self._light(width, stretch) ** 2) - 1.0 - variance

        return scipy.optimize.brentq(excess, 1e-3, 3.0, xtol=1e-6)

    def _shape_of_density(self, variance):
        """Width and stretch of the density with a variance and the skewness of perturbation theory."""

        def excess(stretch):
            light = self._light(self._width(stretch, variance), stretch)
            return np.sum(self._probability * (light - 1.0) ** 3) / variance**2 - self.slab.reduced_skewness

        low, high = 0.5, 4.0
        if excess(high) > 0.0 or excess(low) < 0.0:
            stretch = high if excess(high) > 0.0 else low
        else:
            stretch = scipy.optimize.brentq(excess, low, high, xtol=1e-3)
        return self._width(stretch, variance), stretch

    def _prepare(self):
        """Amplitudes of the modes of the Gaussian field."""
        slab = self.slab
        side = scipy.fft.next_fast_len(slab.cells + min(slab.cells, max(slab.cells // 2, 64)), real=True)
        radius = np.geomspace(0.25 * slab.cell, np.sqrt(2.0) * (side // 2 + 2) * slab.cell, 300)
        target = self._pixel_means(np.arange(side // 2 + 1), radius, slab.projected_correlation(radius))
        fold = np.minimum(np.arange(side), side - np.arange(side))
        # Haloes that keep a distance are less than Poisson random on the smallest scales. No density does that.
        spectrum = scipy.fft.rfft2(target[np.ix_(fold, fold)]).real
        target = scipy.fft.irfft2(np.maximum(spectrum, 0.0), (side, side))
        self.width, self.stretch = self._shape_of_density(float(target[0, 0]))
        self.means = self._means(self.width, self.stretch)

        # Covariance of the light as a power series of that of g, from the light's Hermite coefficients.
        light = self._light(self.width, self.stretch)
        before, polynomial, squares = np.zeros_like(light), np.ones_like(light), []
        for order in range(_ORDERS):
            squares.append(np.sum(self._probability * light * polynomial) ** 2)
            following = (self._nodes * polynomial - np.sqrt(order) * before) / np.sqrt(order + 1.0)
            before, polynomial = polynomial, following
        correlation = np.linspace(-1.0, 1.0, 4001)
        covariance = np.polynomial.polynomial.polyval(correlation, [0.0, *squares[1:]])
        gaussian = np.interp(target, np.maximum.accumulate(covariance), correlation)
        spectrum = np.maximum(scipy.fft.rfft2(gaussian).real, 0.0)
        spectrum /= scipy.fft.irfft2(spectrum, (side, side))[0, 0]
        self.side, self.amplitude = side, np.sqrt(spectrum).astype(np.float32)

    def _pixel_means(self, index, radius, correlation):
        """Correlation between square pixels ``(n, n)`` apart from that between points at distances ``radius``."""
        log_radius = np.log(radius)

        def at(distance):
            return np.interp(np.log(np.maximum(distance, radius[0])), log_radius, correlation)

        cell = self.slab.cell
        result = at(cell * np.hypot(index[:, None], index))
        # Close pairs of pixels: mean over where in their pixels two points are.
        close = min(len(index), 6)
        points = np.arange(-15, 16) / 16.0
        weight = (1.0 - np.abs(points)) / 16.0
        shifts = cell * (index[:close, None] + points)
        distance = np.hypot(shifts[:, None, :, None], shifts[None, :, None, :])
        result[:close, :close] = np.einsum("ijab,a,b->ij", at(distance), weight, weight)
        return result

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Intensity ``(cells, cells)`` of one slab."""
        slab, n = self.slab, self.slab.cells
        modes = scipy.fft.rfft2(rng.standard_normal((self.side, self.side), dtype=np.float32))
        modes *= self.amplitude
        gaussian = scipy.fft.irfft2(modes, (self.side, self.side))[:n, :n].ravel()
        column = slab.cell**2 * slab.depth
        pixels, masses = [], []
        for (density, cumulative, edges), ratio, mean in zip(self.classes, self.ratios, self.means, strict=True):
            expected = self._density(gaussian, ratio, self.width, self.stretch)
            ladder = np.cumsum(expected, dtype=np.float64) * (density * column / mean)
            count = rng.poisson(ladder[-1])
            places = np.searchsorted(ladder, np.sort(rng.random(count)) * ladder[-1], side="right")
            pixels.append(np.minimum(places, n * n - 1))
            masses.append(np.interp(rng.random(count), cumulative, edges))
        pixels, masses = np.concatenate(pixels), 10.0 ** np.concatenate(masses)
        luminosities = slab.simulator.luminosity.draw(slab.line, masses, slab.redshift, rng)
        return slab.project(pixels // n, pixels % n, luminosities)


@functools.lru_cache(maxsize=16)
def _slab(simulator: LineIntensitySimulator, name: str) -> _Slab:
    return _Slab(simulator, name)


@functools.lru_cache(maxsize=8)
def _field(simulator: LineIntensitySimulator, name: str) -> _HaloField:
    return _HaloField(_slab(simulator, name))
