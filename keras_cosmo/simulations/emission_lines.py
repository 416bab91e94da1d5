"""Rest-frame optical emission lines: wavelengths, luminosity per star formation rate, attenuation by dust."""

import dataclasses

INTENSITY_UNIT = "erg s^-1 cm^-2 sr^-1"
"""Unit of the maps of a line: its intensity integrated over the band."""
PLAUSIBLE_MEAN = (1e-12, 1e-6)
"""Mean intensities of one line in a band of R = 40, in that unit: what the literature spans that Moriwaki et al. (2020)
cite, with a wide margin."""


@dataclasses.dataclass(frozen=True)
class EmissionLine:
    """One emission line of star-forming galaxies: L = 10^(-attenuation / 2.5) * coefficient * SFR.

    Equation 1 of Moriwaki et al. (2020, MNRAS 496, L54), with a coefficient that does not depend on metallicity.

    Args:
        name: Name used in fields and files, such as ``"halpha"``.
        label: Plain text for tables and legends.
        symbol: Matplotlib text for figures.
        wavelength: At rest, in um.
        coefficient: Luminosity before dust, in erg/s per solar mass of stars formed per year.
        attenuation: By dust, in magnitudes.

    Raises:
        ValueError: If the name is not a word, or a number is outside its range.

    Example:
        >>> round(HALPHA.redshift(1.5), 3)
        1.286
    """

    name: str
    label: str
    symbol: str
    wavelength: float
    coefficient: float
    attenuation: float

    def __post_init__(self):
        if not self.name.isidentifier():
            raise ValueError(f"EmissionLine: expected a name of letters, digits and underscores, got {self.name!r}.")
        for field, low, high in (("wavelength", 0.05, 1e4), ("coefficient", 1e35, 1e45), ("attenuation", 0.0, 10.0)):
            value = getattr(self, field)
            if not low <= value <= high:
                raise ValueError(
                    f"EmissionLine {self.name}: expected {field} in [{low:g}, {high:g}], got {value}. Wavelengths are "
                    f"in um, coefficients in erg/s per Msun/yr, attenuations in mag."
                )

    def redshift(self, observed_wavelength: float) -> float:
        """Redshift from which the line is observed at ``observed_wavelength`` (um).

        Raises:
            ValueError: If that is not longer than the wavelength at rest.
        """
        if not observed_wavelength > self.wavelength:
            raise ValueError(
                f"observed_wavelength: {self.label} is emitted at {self.wavelength:g} um and is only seen at longer "
                f"wavelengths, got {observed_wavelength:g} um. Leave out the line, or observe at a longer wavelength."
            )
        return observed_wavelength / self.wavelength - 1.0

    @property
    def luminosity_per_star_formation(self) -> float:
        """Observable luminosity in erg/s per solar mass of stars formed per year, after dust."""
        return 10.0 ** (-self.attenuation / 2.5) * self.coefficient


HALPHA = EmissionLine("halpha", "Halpha", r"H$\alpha$", 0.6563, 1.0 / 7.9e-42, 1.0)
"""Kennicutt (1998, ARA&A 36, 189, equation 2: SFR = 7.9e-42 L, Salpeter); attenuation of Moriwaki et al. 2020."""

OIII_5007 = EmissionLine("oiii", "[OIII] 5007", r"[O$\,$III]", 0.5007, 1.0 / 7.6e-42, 1.35)
"""The stronger line of the doublet: Ly et al. (2007, ApJ 657, 738: SFR = 7.6e-42 L), attenuation of Moriwaki et al.

Moriwaki et al. compute the coefficient with Cloudy from the metallicity of each galaxy and quote only its result, a
mean intensity of about 60 % of Halpha (section 2.1). With this one coefficient for all galaxies and the star formation
rates of Gong et al. (2017) the maps have 64 %.
"""

OII_3727 = EmissionLine("oii", "[OII] 3727", r"[O$\,$II]", 0.3727, 1.0 / 1.4e-41, 0.62)
"""Both lines of the doublet: Kennicutt (1998, equation 3: SFR = 1.4e-41 L); attenuation of Gong et al. (2017, ApJ 835,
273)."""

LINES = {line.name: line for line in (HALPHA, OIII_5007, OII_3727)}
"""All lines, by name."""
