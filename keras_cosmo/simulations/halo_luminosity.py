"""Line luminosities of dark-matter haloes: from published star formation rates, or from a table of mass bins."""

import dataclasses

import numpy as np
import scipy.special

from keras_cosmo.simulations.emission_lines import EmissionLine

RELATIONS = ("gong2017", "silva2015")
"""Star formation rates of haloes that `HaloLuminosity` knows."""

REDSHIFT_TOLERANCE = 0.1
"""Largest difference in redshift between a line and a table or catalogue that is used for it."""

# Gong et al. (2017, ApJ 835, 273), table 1: redshift, a, b, c of SFR = 10^a (M/1e8)^b (1 + M/4e11)^c.
_GONG = np.array(
    (
        (1.0, -7.90, 2.50, -2.18),
        (1.4, -7.70, 2.49, -2.18),
        (1.8, -7.50, 2.49, -2.25),
        (2.2, -7.10, 2.42, -2.10),
        (2.7, -6.78, 2.36, -2.20),
        (3.3, -6.30, 2.25, -2.20),
    )
)
_GONG_BREAK, _GONG_FLAT = 4e11, 1e13  # Msun; the rate does not rise above the second
# Silva et al. (2015, ApJ 806, 209): redshift, M0 of SFR = M0 (M/1e8)^2.7 (1 + M/8e11)^-4.
_SILVA = np.array(((1.07, 2.64e-9), (1.63, 4.92e-9), (2.19, 9.18e-9)))


@dataclasses.dataclass(frozen=True)
class LuminosityTable:
    """Mean and standard deviation of a line's luminosity in bins of halo mass, as measured in a simulation.

    Args:
        log10_mass_low: ``(n,)`` lower edges, log10 of solar masses (no h), increasing.
        log10_mass_high: ``(n,)`` upper edges; each the lower edge of the next bin.
        mean: ``(n,)`` mean luminosity of the haloes in a bin, erg/s, after dust.
        standard_deviation: ``(n,)`` of the luminosity, erg/s.
        line: Name of the line.
        redshift: Of the simulation.

    Raises:
        ValueError: If the bins are not contiguous, or a value is not finite or negative.

    Example:
        >>> LuminosityTable((10.5, 11.5), (11.5, 13.0), (1e39, 2e41), (0.0, 1e41), "halpha", 1.3).line
        'halpha'
    """

    log10_mass_low: tuple[float, ...]
    log10_mass_high: tuple[float, ...]
    mean: tuple[float, ...]
    standard_deviation: tuple[float, ...]
    line: str
    redshift: float

    def __post_init__(self):
        name = f"LuminosityTable {self.line}"
        columns = {}
        for field in ("log10_mass_low", "log10_mass_high", "mean", "standard_deviation"):
            column = np.asarray(getattr(self, field), float)
            if column.ndim != 1 or not len(column):
                raise ValueError(f"{name}: expected {field} to be a list of numbers, got shape {column.shape}.")
            if not np.isfinite(column).all():
                raise ValueError(f"{name}: {field} has values that are not finite: {column}.")
            columns[field] = column
            object.__setattr__(self, field, tuple(column.tolist()))
        lengths = {field: len(column) for field, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{name}: expected columns of one length, got {lengths}.")
        low, high = columns["log10_mass_low"], columns["log10_mass_high"]
        if not (np.all(high > low) and np.allclose(low[1:], high[:-1], atol=1e-6)):
            raise ValueError(
                f"{name}: expected bins of increasing mass without gaps or overlaps, got {low} to {high}. Haloes "
                f"in a gap would have no light: widen a neighbouring bin."
            )
        if low.min() < 5.0 or high.max() > 20.0:
            raise ValueError(
                f"{name}: expected edges as log10 of solar masses, from 5 to 20, got {low.min():g} to {high.max():g}."
            )
        for field in ("mean", "standard_deviation"):
            if columns[field].min() < 0.0:
                raise ValueError(f"{name}: expected {field} of at least 0 erg/s, got {columns[field].min():g}.")
        if not 0.0 <= self.redshift < np.inf:
            raise ValueError(f"{name}: expected a redshift of at least 0, got {self.redshift}.")


@dataclasses.dataclass(frozen=True)
class HaloLuminosity:
    """Luminosity of a line as a function of halo mass, with scatter.

    By default L = 10^(-A / 2.5) C SFR(M, z) (`EmissionLine`), with the star formation rates that Gong et al. (2017,
    ApJ 835, 273, equation 6 and table 1) fit to the semi-analytic galaxies of Guo et al. (2013), and log-normal
    scatter around that mean. A line with a `LuminosityTable` takes its mean and deviation from there instead and draws
    from a Gaussian, as Moriwaki et al. (2020, section 2.1) do; draws below zero become zero.

    Args:
        relation: ``"gong2017"``, for redshifts 1 to 3.3, or ``"silva2015"``, the fit of Silva et al. (2015, ApJ 806,
            209), for redshifts 1.07 to 2.19. Coefficients are interpolated in redshift.
        scatter: Standard deviation of log10 L at fixed mass, in dex; the mean of L does not depend on it. Ours: neither
            paper gives one.
        tables: Tables that replace the relation, at most one per line. Haloes below the lowest bin have no light,
            haloes above the highest bin that of the highest bin.

    Raises:
        TypeError: If a table is not a `LuminosityTable`.
        ValueError: If the relation is unknown, the scatter out of range, or a line has two tables.

    Example:
        >>> from keras_cosmo.simulations.emission_lines import HALPHA
        >>> mean, deviation = HaloLuminosity(scatter=0.0).moments(HALPHA, 1e12, 1.286)
        >>> f"{mean:.2e} {deviation:.0f}"
        '5.38e+41 0'

    Deviations from Moriwaki et al. 2020: without a table, one coefficient for all metallicities and log-normal
    scatter.
    """

    relation: str = "gong2017"
    scatter: float = 0.3
    tables: tuple[LuminosityTable, ...] = ()

    def __post_init__(self):
        if self.relation not in RELATIONS:
            raise ValueError(f"HaloLuminosity: expected relation one of {list(RELATIONS)}, got {self.relation!r}.")
        if not 0.0 <= self.scatter <= 1.0:
            raise ValueError(f"HaloLuminosity: expected scatter in [0, 1] dex, got {self.scatter}.")
        tables = tuple(self.tables)
        for table in tables:
            if not isinstance(table, LuminosityTable):
                raise TypeError(f"HaloLuminosity: expected tables to hold LuminosityTable, got {type(table).__name__}.")
        names = [table.line for table in tables]
        if len(set(names)) < len(names):
            raise ValueError(f"HaloLuminosity: expected at most one table per line, got {names}.")
        object.__setattr__(self, "tables", tables)

    def check(self, line: EmissionLine, redshift: float) -> None:
        """ValueError unless luminosities of ``line`` are known at ``redshift``."""
        table = self._table(line)
        if table is not None:
            if abs(table.redshift - redshift) > REDSHIFT_TOLERANCE:
                raise ValueError(
                    f"{line.label}: the luminosity table is for redshift {table.redshift:g}, the line is seen from "
                    f"redshift {redshift:.3f}. Give a table within {REDSHIFT_TOLERANCE:g} of it."
                )
            return
        nodes = (_GONG if self.relation == "gong2017" else _SILVA)[:, 0]
        if not nodes[0] <= redshift <= nodes[-1]:
            raise ValueError(
                f"{line.label}: star formation rates of {self.relation} are known for redshifts {nodes[0]:g} to "
                f"{nodes[-1]:g}, the line is seen from redshift {redshift:.3f}. Leave out the line, observe at another "
                f"wavelength, or give a LuminosityTable."
            )

    def star_formation_rate(self, mass, redshift: float) -> np.ndarray:
        """Mean star formation rate in solar masses per year.

        Args:
            mass: Halo masses in solar masses.
            redshift: Redshift within the range of the relation.
        """
        mass = np.asarray(mass, float)
        if self.relation == "silva2015":
            amplitude = np.exp(np.interp(redshift, _SILVA[:, 0], np.log(_SILVA[:, 1])))
            return amplitude * (mass / 1e8) ** 2.7 * (1.0 + mass / 8e11) ** -4.0
        a, b, c = (np.interp(redshift, _GONG[:, 0], column) for column in _GONG[:, 1:].T)
        mass = np.minimum(mass, _GONG_FLAT)
        return 10.0**a * (mass / 1e8) ** b * (1.0 + mass / _GONG_BREAK) ** c

    def moments(self, line: EmissionLine, mass, redshift: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the luminosities that `draw` returns, in erg/s.

        Args:
            line: The emission line.
            mass: Halo masses in solar masses.
            redshift: From which the line is seen.

        Raises:
            ValueError: If luminosities are not known at the redshift.
        """
        self.check(line, redshift)
        table = self._table(line)
        if table is None:
            mean = line.luminosity_per_star_formation * self.star_formation_rate(mass, redshift)
            return mean, mean * np.sqrt(np.expm1((self.scatter * np.log(10.0)) ** 2))
        mean, deviation = self._binned(table, mass)
        # Of a Gaussian whose negative values are set to zero.
        height = np.where(deviation > 0.0, mean / np.where(deviation > 0.0, deviation, 1.0), np.inf)
        positive = scipy.special.ndtr(height)
        density = np.exp(-0.5 * height**2) / np.sqrt(2.0 * np.pi)
        clipped = mean * positive + deviation * density
        square = (mean**2 + deviation**2) * positive + mean * deviation * density
        return clipped, np.sqrt(np.maximum(square - clipped**2, 0.0))

    def draw(self, line: EmissionLine, mass, redshift: float, rng: np.random.Generator) -> np.ndarray:
        """Luminosities of haloes in erg/s.

        Args:
            line: The emission line.
            mass: ``(n,)`` halo masses in solar masses.
            redshift: From which the line is seen.
            rng: Source of randomness; one Gaussian number is drawn per halo, whatever the scatter.

        Raises:
            ValueError: If luminosities are not known at the redshift.
        """
        self.check(line, redshift)
        noise = rng.standard_normal(np.shape(mass))
        table = self._table(line)
        if table is not None:
            mean, deviation = self._binned(table, mass)
            return np.maximum(mean + deviation * noise, 0.0)
        width = self.scatter * np.log(10.0)
        mean = line.luminosity_per_star_formation * self.star_formation_rate(mass, redshift)
        return mean * np.exp(width * noise - 0.5 * width**2) if width else mean

    def _table(self, line: EmissionLine) -> LuminosityTable | None:
        return next((table for table in self.tables if table.line == line.name), None)

    @staticmethod
    def _binned(table: LuminosityTable, mass) -> tuple[np.ndarray, np.ndarray]:
        edges = np.append(table.log10_mass_low, np.inf)
        index = np.searchsorted(edges, np.log10(mass), side="right") - 1
        return tuple(
            np.where(index >= 0, np.take(column, np.maximum(index, 0)), 0.0)
            for column in (table.mean, table.standard_deviation)
        )
