"""Light-cone files as 21cmFAST saves them (``LightCone.save`` of py21cmfast 3.0 to 4.2).

Facts about the files, from the writer's own source and from files it wrote:

- The last axis is the line of sight and index 0 the lowest redshift, in all versions.
- No version stores redshifts. 4.x stores distances; 3.4 does; 3.0 to 3.3 do not, and lay cells out in steps of
  n / (n - 1) cells from the distance of the lowest redshift. The cosmology is flat with radiation and neutrinos.
- Parameter attributes are what users typed: ``L_X`` and ``ION_Tvir_MIN`` are logarithms, ``NU_X_THRESH`` is in eV.
- 4.x has no ``SIGMA_8`` among the cosmological parameters; it is ``ps_norm`` of the cosmological tables.
- A 4.x run that saved checkpoints while running ends with ``last_completed_lcidx`` 0, one that did not with -1.
  What such a checkpoint file holds was written before the velocity-gradient correction, which is applied at the
  end and in memory only.
"""

import dataclasses
import os
import pathlib

import h5py
import numpy as np

from keras_cosmo.data.formats.py21cmfast_header import HeaderReader, text
from keras_cosmo.distances import comoving_distance, redshift_at_distance
from keras_cosmo.slicing import slice_lightcone, sliced_shape

FIELD = "lightcones/brightness_temp"
ATTRIBUTE_OF = {
    "zeta": "HII_EFF_FACTOR",
    "log10_L_X": "L_X",
    "log10_T_vir": "ION_Tvir_MIN",
    "E_0": "NU_X_THRESH",
}
"""Parameter of Gillet et al. 2019 -> attribute of the file; E_0 in keV is NU_X_THRESH in eV over 1000."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Py21cmfastLightcone:
    """A light-cone file of 21cmFAST: what it says about itself, and its brightness temperature on demand.

    Use :meth:`from_file`. No file handle is kept: pixels are read when asked for, and only those.

    Args:
        path: The file.
        version: Version of 21cmFAST that wrote it.
        random_seed: Seed of its initial conditions.
        shape: ``(nx, ny, n_los)`` without the pixels that 21cmFAST marks as a buffer.
        cell_size: Side of a cell in Mpc.
        distances: ``(n_los,)`` comoving distance of each cell in Mpc, increasing.
        redshifts: ``(n_los,)``, rebuilt from the distances and the cosmology of the file.
        cosmology: hlittle, OMm, OMb, POWER_INDEX and SIGMA_8 (None where the file does not say).
        parameters: zeta; log10_L_X [erg s^-1 Msun^-1 yr]; log10_T_vir [K]; E_0 [keV].
        inactive: Parameter name -> why it had no effect on this light-cone. Such a value must not become a label.
        from_checkpoints: Whether the run saved checkpoints while running. Its brightness temperature then lacks the
            velocity-gradient correction, unless it was saved once more at the end.
        buffer: Cells left out at the near and at the far end of the stored line of sight.

    Example:
        >>> cone = Py21cmfastLightcone.from_file("lightcone.h5")  # doctest: +SKIP
        >>> cone.images(slices=5, spacing=60.0).shape  # doctest: +SKIP
        (10, 100, 2200)
    """

    path: pathlib.Path
    version: str
    random_seed: int
    shape: tuple[int, int, int]
    cell_size: float
    distances: np.ndarray
    redshifts: np.ndarray
    cosmology: dict[str, float | None]
    parameters: dict[str, float]
    inactive: dict[str, str]
    from_checkpoints: bool = False
    buffer: tuple[int, int] = (0, 0)

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "Py21cmfastLightcone":
        """Read everything but the pixels.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a complete, rectilinear light-cone of 21cmFAST with a brightness temperature;
                the message says what it is instead, or what it lacks.
        """
        path = pathlib.Path(path)
        with _header(path).open() as file:
            modern = _check_is_lightcone(path, file)
            dataset = _brightness_temperature(path, file)
            record = (_read_modern if modern else _read_old)(_header(path), file)
            stored = dataset.shape
        near, far = record["buffer"]
        shape = (*stored[:2], stored[2] - near - far)
        background = {"h": record["cosmology"]["hlittle"], "omega_m": record["cosmology"]["OMm"]}
        distances, redshift = record.pop("distances"), record.pop("redshift", None)
        if distances is None:
            # Versions 3.0 to 3.3: from the lowest redshift on, with the package's own step of n / (n - 1) cells.
            first = comoving_distance(redshift, **background)
            distances = first + np.linspace(0.0, stored[2] * record["cell_size"], stored[2])
        if distances.shape != stored[2:] or shape[2] < 1 or not np.all(np.diff(distances) > 0):
            raise ValueError(
                f"{path}: expected increasing distances, one for each of the {stored[2]} cells along the line of "
                f"sight, more cells than the buffer of {near + far}, got {distances.shape}. The file is damaged: run "
                f"the light-cone again."
            )
        distances = distances[near : stored[2] - far]
        try:
            redshifts = redshift_at_distance(distances, **background)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return cls(path=path, shape=shape, distances=distances, redshifts=redshifts, **record)

    def images(
        self, *, slices: int = 5, spacing: float = 60.0, parts: int = 2, axes: tuple[int, ...] = (0,)
    ) -> np.ndarray:
        """Images along the line of sight; reads the slices and nothing else.

        Args:
            slices: Slices per transverse axis.
            spacing: Distance between neighbouring slices in Mpc.
            parts: Images each slice is cut into across the sky.
            axes: Transverse axes normal to the slices.

        Returns:
            float32 array ``(len(axes) * slices * parts, n_perpendicular // parts, n_los)`` in mK; see
            `keras_cosmo.slicing.slice_lightcone`.

        Raises:
            ValueError: If the slices do not fit, or a value is not finite.
        """
        geometry = {"slices": slices, "spacing": spacing, "parts": parts, "axes": axes}
        self.images_shape(**geometry)
        with _header(self.path).open() as file:
            dataset = _WithoutBuffer(file[FIELD], self.shape, self.buffer)
            images = slice_lightcone(dataset, self.cell_size, **geometry)
        finite = np.isfinite(images)
        if not finite.all():
            raise ValueError(
                f"{self.path}: expected finite values in {FIELD}, got {np.count_nonzero(~finite)} that are not "
                f"among the {finite.size} read. Run this light-cone again, or leave it out."
            )
        return images

    def images_shape(
        self, *, slices: int = 5, spacing: float = 60.0, parts: int = 2, axes: tuple[int, ...] = (0,)
    ) -> tuple[int, int, int]:
        """Shape of :meth:`images`, without reading any.

        Raises:
            ValueError: If the slices do not fit into the cone; names the file.
        """
        try:
            return sliced_shape(self.shape, self.cell_size, slices=slices, spacing=spacing, parts=parts, axes=axes)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error


class _WithoutBuffer:
    """A stored cone whose buffer along the line of sight is left out when it is indexed."""

    def __init__(self, dataset: h5py.Dataset, shape: tuple[int, int, int], buffer: tuple[int, int]):
        self.dataset, self.shape = dataset, shape
        self.line_of_sight = slice(buffer[0], buffer[0] + shape[2])

    def __getitem__(self, key):
        key = key if isinstance(key, tuple) else (key, slice(None))
        return self.dataset[(*key, self.line_of_sight)]


def _header(path: pathlib.Path) -> HeaderReader:
    return HeaderReader(path, "light-cone", "LightCone.save")


def _check_is_lightcone(path: pathlib.Path, file: h5py.File) -> bool:
    """Whether the file is of version 4 (True) or 3 (False); raise if it is no light-cone."""
    if "lightcones" in file and ("InputParameters" in file or file.attrs.get("lightcone", False)):
        return True
    if "lightcones" in file and "user_params" in file:
        return False
    boxes = {"InitialConditions", "PerturbedField", "IonizedBox", "BrightnessTemp", "TsBox", "PerturbField"}
    found = sorted(boxes & set(file))
    if file.attrs.get("coeval", False) or found or file.attrs.get("kind", "") in boxes:
        raise ValueError(
            f"{path}: expected a light-cone, got a coeval box of 21cmFAST (a box at one redshift, holding {found}). "
            f"Give files written by LightCone.save; make them with run_lightcone."
        )
    raise ValueError(
        f"{path}: expected a light-cone of 21cmFAST, got an HDF5 file with {sorted(file)[:8]} and no group "
        f"'lightcones'. Give files written by LightCone.save of 21cmFAST 3 or 4."
    )


def _brightness_temperature(path: pathlib.Path, file: h5py.File) -> h5py.Dataset:
    if FIELD not in file:
        raise ValueError(
            f"{path}: expected the field brightness_temp among the light-cones, got {sorted(file['lightcones'])}. Run "
            f"21cmFAST again with 'brightness_temp' among the quantities of the light-cone."
        )
    dataset = file[FIELD]
    if dataset.ndim == 2:
        raise ValueError(
            f"{path}: expected a rectilinear light-cone (nx, ny, n_los), got an angular one of shape {dataset.shape} "
            f"(directions, n_los). Run 21cmFAST again with RectilinearLightconer."
        )
    if dataset.ndim != 3 or dataset.dtype.kind != "f":
        raise ValueError(
            f"{path}: expected brightness_temp as real numbers of shape (nx, ny, n_los), got {dataset.dtype} of shape "
            f"{dataset.shape}. Run 21cmFAST again."
        )
    return dataset


def _read_modern(header: HeaderReader, file: h5py.File) -> dict:
    """Header of a file of version 4."""
    path = header.path
    if "lightcone_distances" not in file:
        raise ValueError(f"{path}: expected a dataset lightcone_distances, got none. Save the light-cone again.")
    distances = np.asarray(file["lightcone_distances"][()], np.float64)
    state = {"last_completed_lcidx": -1, "lowz_buffer_pixels": 0, "highz_buffer_pixels": 0, **file.attrs}
    reached, *buffer = (int(header.number(state, name, "the root")) for name in list(state)[:3])
    if min(buffer) < 0:
        raise ValueError(f"{path}: expected buffers of at least 0 pixels, got {buffer}. Save the light-cone again.")
    if reached > 0:
        raise ValueError(
            f"{path}: the light-cone is unfinished: cells 0 to {reached - 1} of {len(distances)} along the line "
            f"of sight are empty. Resume it with the same lightcone_filename and cache, or leave it out."
        )
    _check_not_begun(path, file)
    inputs = {
        name: header.attributes(file, f"InputParameters/{name}")
        for name in ("simulation_options", "cosmo_params", "astro_params", "astro_options", "matter_options")
    }
    source_model = text(inputs["matter_options"].get("SOURCE_MODEL", "CONST-ION-EFF"))
    not_constant = None
    if source_model != "CONST-ION-EFF":
        not_constant = f"SOURCE_MODEL is {source_model!r}, not 'CONST-ION-EFF'"
    options = inputs["simulation_options"]
    return {
        "version": text(file["InputParameters"].attrs.get("21cmFAST-version", file.attrs.get("__version__", "4"))),
        "random_seed": int(header.number(file["InputParameters"].attrs, "random_seed", "InputParameters")),
        "cell_size": header.cell_size(options, "simulation_options"),
        "distances": distances,
        "cosmology": header.cosmology(inputs["cosmo_params"], file["InputParameters"].get("cosmo_tables")),
        "parameters": _parameters(header, inputs["astro_params"]),
        "inactive": _inactive(inputs["astro_params"], inputs["astro_options"], not_constant),
        "from_checkpoints": reached == 0,
        "buffer": tuple(buffer),
    }


def _read_old(header: HeaderReader, file: h5py.File) -> dict:
    """Header of a file of version 3."""
    path = header.path
    redshift = header.number(file.attrs, "redshift", "the root")
    reached = file.attrs.get("current_redshift")
    if reached is not None and float(reached) > redshift * (1 + 1e-3):
        raise ValueError(
            f"{path}: the light-cone is unfinished: computed down to z = {float(reached):.3f}, expected z = "
            f"{redshift:.3f}. Resume it with the same lightcone_filename and cache, or leave it out."
        )
    _check_not_begun(path, file)
    inputs = {
        name: header.attributes(file, name) for name in ("user_params", "cosmo_params", "astro_params", "flag_options")
    }
    not_constant = None
    if inputs["flag_options"].get("USE_MASS_DEPENDENT_ZETA", False):
        not_constant = "USE_MASS_DEPENDENT_ZETA is on"
    return {
        "version": text(file.attrs.get("version", "3")),
        "random_seed": int(header.number(file.attrs, "random_seed", "the root")),
        "cell_size": header.cell_size(inputs["user_params"], "user_params"),
        "redshift": redshift,
        "distances": np.asarray(file["distances"][()], np.float64) if "distances" in file else None,
        "cosmology": header.cosmology(inputs["cosmo_params"]),
        "parameters": _parameters(header, inputs["astro_params"]),
        "inactive": _inactive(inputs["astro_params"], inputs["flag_options"], not_constant),
        "buffer": (0, 0),
    }


def _check_not_begun(path: pathlib.Path, file: h5py.File) -> None:
    # A file laid out for checkpoints and left before the first one looks finished, but holds only zeros.
    history = file.get("global_quantities/brightness_temp")
    if history is not None and history.size and not np.any(history[()]):
        raise ValueError(
            f"{path}: the light-cone was begun and holds only zeros. Run it again with the same lightcone_filename, or "
            f"leave it out."
        )


def _parameters(header: HeaderReader, astro_params: dict) -> dict[str, float]:
    values = {
        parameter: header.number(astro_params, attribute, "astro_params")
        for parameter, attribute in ATTRIBUTE_OF.items()
    }
    return {**values, "E_0": values["E_0"] / 1000.0}


def _inactive(astro_params: dict, options: dict, not_constant: str | None) -> dict[str, str]:
    """Parameters of the paper that could not act in this run, with the reason."""
    inactive = {}
    if not_constant is not None:
        inactive["zeta"] = f"HII_EFF_FACTOR has no effect: {not_constant}"
        inactive["log10_T_vir"] = f"ION_Tvir_MIN does not set the sources alone: {not_constant}"
    if options.get("M_MIN_in_Mass", False):
        inactive["log10_T_vir"] = "ION_Tvir_MIN has no effect: M_MIN_in_Mass is on, so that M_TURN sets the sources"
    ionizing, x_ray = astro_params.get("ION_Tvir_MIN"), astro_params.get("X_RAY_Tvir_MIN")
    if "log10_T_vir" not in inactive and x_ray is not None and not np.isclose(float(x_ray), float(ionizing)):
        inactive["log10_T_vir"] = f"it is two numbers: ION_Tvir_MIN is {ionizing:g}, X_RAY_Tvir_MIN is {x_ray:g}"
    if not options.get("USE_TS_FLUCT", True):
        inactive["log10_L_X"] = "L_X has no effect: USE_TS_FLUCT is off"
        inactive["E_0"] = "NU_X_THRESH has no effect: USE_TS_FLUCT is off"
    return inactive
