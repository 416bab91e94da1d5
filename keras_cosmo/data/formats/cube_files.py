"""What the readers of spectral cubes share: lists of files, velocities of the channels, unit."""

import logging
import os
import pathlib
import warnings
from collections.abc import Iterable

import healpy
import numpy as np

logger = logging.getLogger(__name__)

SUFFIXES = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.fz")
VELOCITY_TYPES = ("VRAD", "VELO", "VELOCITY", "VELO-LSR", "VLSR")
FRAMES_OF_REST = ("", "LSRK", "LSR")
SPEED_UNITS = {"m/s": 1e-3, "m s-1": 1e-3, "m.s-1": 1e-3, "km/s": 1.0, "km s-1": 1.0, "km.s-1": 1.0}
TEMPERATURE_UNITS = {"K": 1.0, "KELVIN": 1.0, "K (TB)": 1.0, "K(TB)": 1.0}
LARGEST_VELOCITY = 3000.0
"""km/s; the line of the Galaxy is within 600, and m/s given for km/s are beyond."""
KEY_NAMES = ("type", "value", "pixel", "step", "unit")
"""What the keys of a header say about an axis."""
IMAGE_KEYS = ("CTYPE{axis}", "CRVAL{axis}", "CRPIX{axis}", "CDELT{axis}", "CUNIT{axis}")
"""The keys of an image, in that order."""
# Of a channel: how far axes of parts, or of header and argument, may be apart.
SAME = 0.05


def cube_paths(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> tuple[pathlib.Path, ...]:
    """Files of a cube, of which each exists and is named once.

    Args:
        paths: One file, several, or a folder, which stands for all its FITS files.

    Raises:
        FileNotFoundError: If a file or folder does not exist, or a folder holds no FITS files.
        ValueError: If there is no file, or one is named twice.
    """
    if isinstance(paths, str | os.PathLike):
        folder = pathlib.Path(paths)
        if not folder.is_dir():
            paths = [folder]
        else:
            paths = sorted(each for each in folder.iterdir() if each.name.lower().endswith(SUFFIXES))
            if not paths:
                others = sorted(each.name for each in folder.iterdir())[:5]
                raise FileNotFoundError(
                    f"{folder}: expected FITS files, ending in one of {list(SUFFIXES)}, got {others or 'nothing'}. "
                    f"Give the folder with the tiles (subfolders are not searched)."
                )
    paths = tuple(pathlib.Path(each) for each in paths)
    if not paths:
        raise ValueError("paths: expected a folder or at least one file, got an empty list.")
    if len(set(paths)) != len(paths):
        raise ValueError("paths: expected each file once, got one of them twice.")
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file. Correct the path.")
    return paths


def read_velocities(velocities) -> np.ndarray:
    """Centres of channels in km/s, from numbers or from a file.

    Args:
        velocities: Array ``(channels,)``, or the path of a .npy file with one or of a text file with one per line.

    Returns:
        float64 ``(channels,)``, ascending or descending as they are.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If they are no velocities in km/s.
    """
    name = "velocities"
    if isinstance(velocities, str | os.PathLike):
        path = pathlib.Path(velocities)
        name = str(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file. Expected velocities in km/s, one per line.")
        try:
            if path.suffix == ".npy":
                velocities = np.load(path, allow_pickle=False)
            else:
                # An empty file is no reason for a warning: the error below says so.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    velocities = np.loadtxt(path, ndmin=1)
        except ValueError as error:
            raise ValueError(f"{path}: expected velocities in km/s, one number per line: {error}.") from error
    velocities = np.asarray(velocities, np.float64)
    steps = np.diff(velocities) if velocities.ndim == 1 else None
    if velocities.ndim != 1 or not velocities.size or not (np.all(steps > 0) or np.all(steps < 0)):
        raise ValueError(
            f"{name}: expected the centres of the channels in km/s in ascending or descending order, got an array of "
            f"shape {velocities.shape}{'' if velocities.ndim != 1 else ' in another order, or with NaN'}."
        )
    if not np.abs(velocities).max() < LARGEST_VELOCITY:
        raise ValueError(
            f"{name}: expected velocities in km/s within {LARGEST_VELOCITY:g}, got {velocities[0]:g} to "
            f"{velocities[-1]:g}. Are they in m/s? Divide them by 1000."
        )
    return velocities


def axis_velocities(path: pathlib.Path, header, keys: dict[str, str], count: int, given) -> np.ndarray:
    """Velocities of all channels, by header or argument; both have to agree where both are there.

    Args:
        path: File, for messages.
        header: Of the cube or table.
        keys: What a key says (`KEY_NAMES`; also ``"step2"``, another key of the step) -> its name in the header.
        count: Number of channels.
        given: ``(count,)`` km/s, or None.

    Returns:
        ``(count,)`` km/s, in the order of the file.

    Raises:
        ValueError: If neither says them, or they do not agree.
    """
    if given is not None and len(given) != count:
        raise ValueError(f"velocities: expected {count} for the channels of {path}, got {len(given)}.")
    try:
        said = _header_velocities(path, header, keys, count)
    except ValueError:
        if given is None:
            raise
        return given
    if given is None:
        return said
    check_same_velocities("the argument velocities", given, path, said)
    return given


def select_channels(path: pathlib.Path, velocities: np.ndarray, low: float, high: float) -> np.ndarray:
    """Indices of the channels with centres within the ends, by ascending velocity.

    Args:
        path: File, for messages.
        velocities: ``(channels,)`` km/s, ascending or descending.
        low: Lower end in km/s.
        high: Upper end in km/s.

    Raises:
        ValueError: If the ends are not in order or not within the file, or no channel lies between them.
    """
    if not -np.inf < low < high < np.inf:
        raise ValueError(
            f"velocity_low, velocity_high: expected two velocities in km/s, the lower first, got {low}, {high}."
        )
    order = np.argsort(velocities)
    ascending = velocities[order]
    half = np.median(np.diff(ascending)) / 2 if len(ascending) > 1 else 0.0
    begin, end = ascending[0] - half, ascending[-1] + half
    # Half a channel more than the centres, and rounding.
    slack = 1e-6 * max(half, 1e-3)
    if low < begin - slack or high > end + slack:
        raise ValueError(
            f"{path}: expected velocities from {low:g} to {high:g} km/s, but the file has {begin:.3f} to {end:.3f} "
            f"km/s ({len(velocities)} channels). Choose velocity_low and velocity_high within, or give another file."
        )
    chosen = order[(ascending >= low) & (ascending <= high)]
    if not chosen.size:
        raise ValueError(
            f"{path}: no channel has its centre from {low:g} to {high:g} km/s; channels are {2 * half:.3f} km/s wide. "
            f"Choose a wider range."
        )
    return chosen


def check_same_velocities(one: object, first: np.ndarray, two: object, second: np.ndarray) -> None:
    """Check that two files, or a file and an argument, have the same channels to a twentieth of their width.

    Args:
        one: What has ``first``, for messages.
        first: ``(channels,)`` km/s.
        two: What has ``second``.
        second: ``(channels,)`` km/s.

    Raises:
        ValueError: If they differ.
    """
    if len(first) == len(second):
        width = np.abs(np.median(np.diff(first))) if len(first) > 1 else 1.0
        if np.abs(first - second).max() <= SAME * width:
            return
    raise ValueError(
        f"{two} and {one} do not belong together: expected the same velocities, got {len(second)} channels from "
        f"{second[0]:.3f} to {second[-1]:.3f} km/s and {len(first)} from {first[0]:.3f} to {first[-1]:.3f} km/s."
    )


def check_plane(i: int, nside: int, n_channels: int) -> tuple[int, int]:
    """Number of a channel and HEALPix resolution, as integers.

    Args:
        i: Channel.
        nside: Resolution.
        n_channels: Channels there are.

    Raises:
        IndexError: If there is no such channel.
        ValueError: If ``nside`` is not a power of two.
    """
    if not 0 <= i < n_channels:
        raise IndexError(f"i: expected a channel from 0 to {n_channels - 1}, got {i}.")
    if nside != int(nside) or not healpy.isnsideok(int(nside), nest=True):
        raise ValueError(f"nside: expected a power of two, such as 1024, got {nside!r}.")
    return int(i), int(nside)


def is_velocity(header, keys: dict[str, str]) -> bool:
    """Whether an axis is one of velocity, by the keys of `axis_velocities`."""
    return str(header.get(keys["type"], "")).strip().upper() in VELOCITY_TYPES


def kelvin_factor(path: pathlib.Path, key: str, unit: object) -> float:
    """Factor from the unit of a file to K; a file that says none is taken to be in K.

    Args:
        path: File, for messages.
        key: Where it says the unit, for messages.
        unit: What it says.

    Raises:
        ValueError: If it is no unit of brightness temperature.
    """
    unit = str(unit or "").strip()
    if not unit:
        logger.warning("%s: the unit is not known (no %s); K is assumed.", path, key)
        return 1.0
    if unit == "mK":
        return 1e-3
    scale = TEMPERATURE_UNITS.get(unit.upper())
    if scale is None:
        raise ValueError(f"{path}: expected brightness temperature in K or mK ({key}), got {unit}. Convert the file.")
    return scale


def _header_velocities(path: pathlib.Path, header, keys: dict[str, str], count: int) -> np.ndarray:
    kind = str(header.get(keys["type"], "")).strip().upper()
    advice = "Give velocities, the centres of the channels in km/s (LSR)."
    if kind not in VELOCITY_TYPES:
        raise ValueError(
            f"{path}: expected the radio velocity along the spectra ({keys['type']} = 'VRAD'), got "
            f"{kind or 'nothing'}. {advice}"
        )
    frame = str(header.get("SPECSYS", "")).strip().upper()
    if frame not in FRAMES_OF_REST:
        raise ValueError(
            f"{path}: expected velocities in the local standard of rest (SPECSYS = 'LSRK'), got {frame}. {advice}"
        )
    unit = " ".join(str(header.get(keys["unit"], "")).split())
    factor = {name.lower(): value for name, value in SPEED_UNITS.items()}.get(unit.lower())
    if factor is None:
        raise ValueError(f"{path}: expected {keys['unit']} to be m/s or km/s, got {unit or 'nothing'}. {advice}")
    numbers = {}
    for name in ("value", "pixel", "step"):
        value = header.get(keys[name], header.get(keys["step2"]) if name == "step" and "step2" in keys else None)
        numbers[name] = value
        if not isinstance(value, (int, float)) or not np.isfinite(value) or (name == "step" and not value):
            raise ValueError(f"{path}: expected a number for {keys[name]} in the header, got {value!r}. {advice}")
    velocities = (numbers["value"] + (np.arange(count) + 1 - numbers["pixel"]) * numbers["step"]) * factor
    if not np.abs(velocities).max() < LARGEST_VELOCITY:
        raise ValueError(
            f"{path}: expected velocities within {LARGEST_VELOCITY:g} km/s, got {velocities[0]:g} to "
            f"{velocities[-1]:g} by the header ({keys['unit']} = {unit}). {advice}"
        )
    return velocities
