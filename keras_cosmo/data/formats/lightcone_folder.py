"""From a folder of 21cmFAST light-cones to one database of images."""

import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from keras_cosmo.data.database_writer import PARTIAL_SUFFIX, DatabasePlan, DatabaseWriter
from keras_cosmo.data.formats.py21cmfast_lightcone import ATTRIBUTE_OF, Py21cmfastLightcone
from keras_cosmo.quantities import MapField, Parameter

logger = logging.getLogger(__name__)

SUFFIXES = (".h5", ".hdf5")
# Redshifts, cell sizes and cosmologies that agree to this are the same run settings.
TOLERANCE = 1e-5


def convert_lightcones(
    sources: str | os.PathLike | Iterable[str | os.PathLike],
    path: str | os.PathLike,
    *,
    parameters: Sequence[Parameter],
    slices: int = 5,
    spacing: float = 60.0,
    parts: int = 2,
    axes: tuple[int, ...] = (0,),
    dtype: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> pathlib.Path:
    """Slice light-cone files of 21cmFAST into one database of images, one file in memory at a time.

    Every file is checked before anything is written. The database appears under ``path`` when it is complete; after a
    kill the same call goes on where it stopped. Simulations are numbered in the order of the file names.

    A cone whose virial temperature (or another of ``parameters``) could not have acted is refused: its label would be
    a number without meaning, which no network can learn and no test would notice. The usual case is a run of the
    template const-zeta, which keeps ``M_MIN_in_Mass``. Leave the parameter out of ``parameters`` to convert it.

    Args:
        sources: Folder with files ending in .h5 or .hdf5, or the files themselves.
        path: Database to write.
        parameters: Which parameters become labels, with their prior ranges, such as
            `keras_cosmo.simulations.lightcones.LIGHTCONE_PARAMETERS`; names among zeta, log10_L_X, log10_T_vir, E_0.
        slices: Slices per transverse axis (Gillet et al. 2019, section 2.2: 5).
        spacing: Distance between neighbouring slices in Mpc (Gillet et al. 2019, section 2.2: 60).
        parts: Images each slice is cut into across the sky (Gillet et al. 2019, section 2.2: 2).
        axes: Transverse axes normal to the slices: ``(0,)``, ``(1,)`` or ``(0, 1)``.
        dtype: ``"float32"`` or ``"float16"``, how images are stored.
        progress: Called as ``progress(done, total)`` at the begin and after each light-cone.

    Returns:
        ``path``.

    Raises:
        FileNotFoundError: If the folder or a file does not exist, or the folder holds no light-cone.
        FileExistsError: If ``path`` exists.
        ValueError: If a file is not a usable light-cone, two files do not belong together, the same simulation comes
            twice, a parameter had no effect, or the slices do not fit; names the files.
    """
    path = pathlib.Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already. Choose another output file, or delete it first.")
    geometry = {"slices": slices, "spacing": spacing, "parts": parts, "axes": tuple(axes)}
    parameters = tuple(parameters)
    _check_parameters(parameters)
    cones = [Py21cmfastLightcone.from_file(file) for file in _find_files(sources, path)]
    _check_together(cones, parameters)
    plan = _plan(cones, parameters, geometry, dtype)
    with DatabaseWriter.open(path, plan) as writer:
        todo = np.flatnonzero(~writer.finished).tolist()
        if progress is not None:
            progress(len(cones) - len(todo), len(cones))
        for done, simulation in enumerate(todo, start=len(cones) - len(todo) + 1):
            try:
                writer.write(simulation, {"brightness_temp": cones[simulation].images(**geometry)})
            except ValueError as error:
                # Without this file the list of simulations is another one: what is written cannot be resumed.
                writer.partial.unlink(missing_ok=True)
                message = str(error)
                if str(cones[simulation].path) not in message:
                    message = f"{cones[simulation].path}: {message}"
                raise ValueError(f"{message} Nothing was kept of {path}.") from error
            if progress is not None:
                progress(done, len(cones))
        return writer.finish()


def _find_files(sources: str | os.PathLike | Iterable[str | os.PathLike], output: pathlib.Path) -> list[pathlib.Path]:
    if not isinstance(sources, str | os.PathLike):
        files = sorted({pathlib.Path(source) for source in sources})
        if not files:
            raise ValueError("sources: expected a folder or at least one file, got an empty list.")
        return files
    folder = pathlib.Path(sources)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder. Give the folder with your light-cone files.")
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file != output)
    if not files:
        others = sorted(file.name for file in folder.iterdir() if not file.name.endswith(PARTIAL_SUFFIX))[:5]
        raise FileNotFoundError(
            f"{folder}: expected light-cone files ending in {' or '.join(SUFFIXES)}, got {others or 'nothing'}. Give "
            f"the folder into which 21cmFAST saved its light-cones (subfolders are not searched)."
        )
    return files


def _check_parameters(parameters: tuple[Parameter, ...]) -> None:
    names = [parameter.name for parameter in parameters]
    if not names or len(set(names)) != len(names) or not set(names) <= set(ATTRIBUTE_OF):
        raise ValueError(f"parameters: expected some of {list(ATTRIBUTE_OF)}, each at most once, got {names}.")


def _check_together(cones: list[Py21cmfastLightcone], parameters: tuple[Parameter, ...]) -> None:
    first = cones[0]
    for parameter in parameters:
        spoilt = [cone for cone in cones if parameter.name in cone.inactive]
        if spoilt:
            raise ValueError(
                f"{spoilt[0].path}: {parameter.name} = {spoilt[0].parameters[parameter.name]:g} cannot be a label: "
                f"{spoilt[0].inactive[parameter.name]} ({len(spoilt)} of {len(cones)} files). Run these light-cones "
                f"again with it on, remove them, or convert without {parameter.name}."
            )
    for cone in cones[1:]:
        for what, expected, got in (
            ("shape", first.shape, cone.shape),
            ("cell size in Mpc", first.cell_size, cone.cell_size),
            ("range of redshifts", first.redshifts[[0, -1]], cone.redshifts[[0, -1]]),
        ):
            if not np.allclose(expected, got, rtol=TOLERANCE, atol=0):
                raise ValueError(
                    f"{cone.path} and {first.path} do not belong together: expected the same {what}, got "
                    f"{np.asarray(got).tolist()} and {np.asarray(expected).tolist()}. Convert them into two databases."
                )
        differing = [name for name, value in first.cosmology.items() if not _same(value, cone.cosmology[name])]
        if differing:
            raise ValueError(
                f"{cone.path} and {first.path} do not belong together: expected the same cosmology, got "
                f"{ {name: cone.cosmology[name] for name in differing} } and "
                f"{ {name: first.cosmology[name] for name in differing} }. Convert them into two databases."
            )
    _check_different(cones)
    versions = sorted({cone.version for cone in cones})
    if len(versions) > 1:
        logger.warning("Light-cones of several versions of 21cmFAST come together: %s.", ", ".join(versions))
    checkpoints = [cone for cone in cones if cone.from_checkpoints]
    if checkpoints:
        logger.warning(
            "%d of %d light-cones, such as %s, were saved in checkpoints while they ran. Unless they were saved again "
            "at the end, their brightness temperature lacks the velocity-gradient correction.",
            len(checkpoints), len(cones), checkpoints[0].path,
        )  # fmt: skip


def _check_different(cones: list[Py21cmfastLightcone]) -> None:
    seen, seeds = {}, {}
    repeated = 0
    for cone in cones:
        key = (cone.random_seed, tuple(cone.parameters.values()))
        if key in seen:
            raise ValueError(
                f"{cone.path} and {seen[key].path} hold the same simulation: random seed {cone.random_seed} and all "
                f"parameters are equal. Remove one, or it would be trained and tested on."
            )
        seen[key] = cone
        repeated += cone.random_seed in seeds
        seeds.setdefault(cone.random_seed, cone)
    if repeated:
        logger.warning(
            "%d of %d light-cones repeat the random seed, and so the initial conditions, of another one. A network can "
            "then learn the density field by heart, and the test simulations share it.",
            repeated, len(cones),
        )  # fmt: skip


def _same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return bool(np.isclose(a, b, rtol=TOLERANCE, atol=0))


def _plan(
    cones: list[Py21cmfastLightcone], parameters: tuple[Parameter, ...], geometry: dict, dtype: str
) -> DatabasePlan:
    first = cones[0]
    images, *shape = first.images_shape(**geometry)
    width = first.shape[0] * first.cell_size
    return DatabasePlan(
        task="regression",
        fields={"brightness_temp": MapField(unit="mK", shape=tuple(shape), description="21-cm brightness temperature")},
        parameters=parameters,
        parameter_values=np.array([[cone.parameters[each.name] for each in parameters] for cone in cones]),
        simulation=np.repeat(np.arange(len(cones)), images),
        seeds=np.array([cone.random_seed for cone in cones], np.int64),
        attributes={
            "simulator": "py21cmfast",
            "simulator_version": ", ".join(sorted({cone.version for cone in cones})),
            "cell_size": first.cell_size,
            "cell_size_units": "Mpc",
            "periodic_across_sky": geometry["parts"] == 1,
            "redshifts": first.redshifts,
            "cosmology": json.dumps(first.cosmology),
            "description": (
                f"{len(cones)} light-cone files of 21cmFAST, {first.path.name} to {cones[-1].path.name}, "
                f"{width:g} Mpc wide; {geometry['slices']} slices {geometry['spacing']:g} Mpc apart normal to "
                f"transverse axes {list(geometry['axes'])}, each cut into {geometry['parts']}"
            ),
        },
        dtype=dtype,
    )
