"""Named physical quantities: the parameters a simulation is run with, and the fields it returns as maps."""

import dataclasses


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
        shape: Shape of one map, ``(height, width)`` or ``(height, width, channels)``.
        description: One line.
    """

    unit: str
    shape: tuple[int, ...]
    description: str = ""
