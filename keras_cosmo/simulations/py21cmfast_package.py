"""What the simulators share that run 21cmFAST through its Python package py21cmfast 4 (an optional dependency).

Written against 21cmFAST 4.1.1 (Mesinger, Furlanetto & Cen 2011, MNRAS 411, 955; Murray et al. 2020, JOSS 5, 2582).
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from keras_cosmo.quantities import Parameter

MEAN_FREE_PATH = 15.0
"""Mean free path of ionising photons in Mpc, the largest bubble filter (Gillet et al. 2019, section 2.1)."""
LOWEST_REDSHIFT, HIGHEST_REDSHIFT = 5.5, 35.0
"""Redshifts between which 21cmFAST evolves its boxes (its own defaults, Z_HEAT_MAX)."""
OLDEST_VERSION = (4, 1)

MISSING_MESSAGE = (
    "21cmFAST is not installed, or cannot be loaded ({error}). It is compiled on installation and needs a C compiler "
    "and the libraries FFTW and GSL. With root: `apt-get install gcc libfftw3-dev libgsl-dev`, then "
    "`pip install 'keras_cosmo[21cmfast]'`. Without root: `conda install -c conda-forge 21cmfast`. The embedded "
    "simulator needs none of this."
)


def import_py21cmfast():
    """The py21cmfast package.

    Raises:
        ImportError: If it is not installed, does not load, or is too old; says how to install it.
    """
    with silence():
        try:
            import py21cmfast
        except ImportError as error:
            raise ImportError(MISSING_MESSAGE.format(error=error)) from error
    version = py21cmfast.__version__
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION:
        raise ImportError(
            f"21cmFAST {version} is installed; expected 4.1.1 or newer, whose inputs differ. Run "
            f"`pip install -U 'keras_cosmo[21cmfast]'`, or `conda install -c conda-forge '21cmfast>=4.1.1'`."
        )
    return py21cmfast


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No warnings, and no messages of 21cmFAST unless its logger was given a level; its errors are raised anyway."""
    logger = logging.getLogger("py21cmfast")
    level = logger.level
    if level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def check_box(box_cells: int, cell_size: float, threads: int, redshift_step: float) -> None:
    """Check the arguments that every simulator here has.

    Args:
        box_cells: Cells along each side of the box.
        cell_size: Side of a cell in Mpc.
        threads: OpenMP threads of one simulation.
        redshift_step: Ratio of (1+z) between two evolved boxes.

    Raises:
        TypeError: If an integer argument is not an integer.
        ValueError: If an argument is out of range, or the box is narrower than three mean free paths.
    """
    for name, value in (("box_cells", box_cells), ("threads", threads)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name}: expected an integer, got {value!r}.")
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}.")
    if not 0 < cell_size < np.inf:
        raise ValueError(f"cell_size: expected a positive size in Mpc, got {cell_size}.")
    if box_cells * cell_size < 3 * MEAN_FREE_PATH:
        raise ValueError(
            f"box_cells: {box_cells} cells of {cell_size} Mpc make a box of {box_cells * cell_size:g} Mpc; expected at "
            f"least {3 * MEAN_FREE_PATH:g} Mpc, three times the mean free path of ionising photons. Take "
            f"{int(np.ceil(3 * MEAN_FREE_PATH / cell_size))} cells or more."
        )
    if not 1 < redshift_step <= 1.5:
        raise ValueError(f"redshift_step: expected a ratio above 1 and up to 1.5, got {redshift_step}.")


def evolved_redshifts(lowest: float, redshift_step: float) -> tuple[float, ...]:
    """Redshifts of the boxes that 21cmFAST evolves, descending, spaced as it does itself.

    Args:
        lowest: The last of them.
        redshift_step: Ratio of (1+z) between two of them.
    """
    redshifts = [float(lowest)]
    while redshifts[-1] < HIGHEST_REDSHIFT:
        redshifts.append((redshifts[-1] + 1.0) * redshift_step - 1.0)
    return tuple(reversed(redshifts))


def check_parameter_values(parameters: Sequence[Parameter], parameter_values: np.ndarray) -> list[float]:
    """The values as numbers, in the order of ``parameters``.

    Raises:
        ValueError: If they are not as many finite numbers.
    """
    values = np.asarray(parameter_values, np.float64)
    names = [parameter.name for parameter in parameters]
    if values.shape != (len(names),) or not np.isfinite(values).all():
        raise ValueError(f"parameter_values: expected {len(names)} finite numbers {names}, got {parameter_values}.")
    return values.tolist()


def check_seed(seed: int) -> int:
    """The seed as a plain integer.

    Raises:
        ValueError: If 21cmFAST cannot take it.
    """
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed: expected 0 to 2^31 - 1, got {seed}.")
    return int(seed)


def describe(parameters: Sequence[Parameter], parameter_values: np.ndarray, seed: int) -> str:
    """Parameters and seed of one simulation, for error messages."""
    pairs = zip(parameters, np.asarray(parameter_values, np.float64).tolist(), strict=True)
    return ", ".join(f"{parameter.name} = {value:g}" for parameter, value in pairs) + f", seed = {seed}"


def check_finite(maps: np.ndarray, simulation: str) -> None:
    """Refuse maps that are not finite.

    Args:
        maps: What 21cmFAST returned.
        simulation: Parameters and seed, from `describe`.

    Raises:
        RuntimeError: If a value is not finite; names parameters and seed.
    """
    finite = np.isfinite(maps)
    if not finite.all():
        raise RuntimeError(
            f"21cmFAST returned {np.count_nonzero(~finite)} values that are not finite for {simulation}. Leave this "
            f"point out, or take another seed."
        )
