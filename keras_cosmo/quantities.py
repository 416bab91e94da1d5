"""Named physical quantities: the parameters a simulation is run with, and the fields it returns as maps."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
    """One physical parameter with its unit and prior range.

    Args:
        name: Name used in files, tables and SavedModel outputs, such as ``"log10_T_vir"``.
        low: Lower end of the prior range, in ``unit`` (of the logarithm, where the name says ``log10``).
        high: Upper end of the prior range.
        unit: Unit as text, ``""`` for a dimensionless parameter. For ``log10_X`` it is the unit of X.
        symbol: Matplotlib mathtext for figures, without unit. Defaults to the name.
        description: One line for tables and help texts.

    Raises:
        ValueError: If ``low`` is not below ``high``.
    """

    name: str
    low: float
    high: float
    unit: str = ""
    symbol: str = ""
    description: str = ""

    def __post_init__(self):
        if not self.low < self.high:
            raise ValueError(f"Parameter {self.name!r}: expected low < high, got low={self.low}, high={self.high}.")

    @property
    def label(self) -> str:
        """Axis label: symbol and unit."""
        symbol = f"${self.symbol}$" if self.symbol else self.name
        return f"{symbol} [{self.unit}]" if self.unit else symbol


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapField:
    """One field of maps, such as the 21-cm brightness temperature in mK.

    Args:
        unit: Unit as text.
        shape: Shape of one map, ``(height, width)`` or ``(height, width, channels)``; of HEALPix maps ``(pixels,)`` or
            ``(pixels, channels)``.
        description: One line.
    """

    unit: str
    shape: tuple[int, ...]
    description: str = ""


def field_at_redshift(kind: str, redshift: float) -> str:
    """Name under which databases keep a field of one redshift.

    Args:
        kind: What is mapped, such as ``"brightness_temp"`` or ``"density"``.
        redshift: Redshift of the map.

    Example:
        >>> field_at_redshift("brightness_temp", 15.0)
        'brightness_temp_z15'
        >>> field_at_redshift("density", 10.16)
        'density_z10.16'
    """
    return f"{kind}_z{redshift:g}"


def redshift_of_field(name: str) -> tuple[str, float] | None:
    """What is mapped and the redshift, from a name that `field_at_redshift` made; None for any other name.

    Example:
        >>> redshift_of_field("density_z10.16")
        ('density', 10.16)
    """
    found = re.fullmatch(r"(.+)_z(\d+(?:\.\d+)?)", name)
    return (found[1], float(found[2])) if found else None
