"""Coeval files as 21cmFAST writes them, small and made up, for the tests of what reads them."""

import h5py
import numpy as np

CELLS, CELL_SIZE = 12, 1.5
COSMOLOGY = {"hlittle": 0.68, "OMm": 0.31, "OMb": 0.048, "POWER_INDEX": 0.97}
# As users type them: M_TURN and L_X are logarithms, POP2_ION is not.
ASTROPHYSICS = {"M_TURN": 8.7, "L_X": 40.5, "POP2_ION": 5000.0, "L_X_MINI": 40.5, "MAX_DVDR": 0.2}
STRUCTURES = {"brightness_temp": "BrightnessTemp", "tau_21": "BrightnessTemp", "density": "PerturbedField",
              "velocity_z": "PerturbedField"}  # fmt: skip


def boxes(seed=1, cells=CELLS):
    """Random boxes of plausible size, the same for the same seed."""
    generator = np.random.default_rng(seed)
    shape = (cells, cells, cells)
    return {
        "brightness_temp": generator.normal(-30.0, 10.0, shape).astype(np.float32),
        "tau_21": generator.uniform(0.01, 0.1, shape).astype(np.float32),
        "density": generator.normal(0.0, 0.2, shape).astype(np.float32),
        "velocity_z": generator.normal(0.0, 1e-17, shape).astype(np.float32),
    }


def write_modern(
    path, *, seed=1, redshift=10.0, arrays=None, astrophysics=(), flags=(), matter=(), simulation=(), cosmology=(),
    only=None, density_group=(),
):  # fmt: skip
    """A file as Coeval.save of py21cmfast 4.1.1 writes it; ``only`` one group as in its cache."""
    arrays = boxes(seed) if arrays is None else arrays
    cells = next(iter(arrays.values())).shape[0]
    with h5py.File(path, "w") as file:
        file.attrs["21cmFAST-version"] = "4.1.1"
        if only is None:
            file.attrs.update({"coeval": True, "__version__": "4.1.1"})
            file.create_group("photon_nonconservation_data")
        for name in ("BrightnessTemp", "PerturbedField", "InitialConditions", "IonizedBox"):
            if only not in (None, name):
                continue
            group = file.create_group(name)
            changes = dict(density_group) if name == "PerturbedField" else {}
            if name != "InitialConditions":
                group.attrs["redshift"] = changes.get("redshift", redshift)
            inputs = group.create_group("InputParameters")
            inputs.attrs.update({"21cmFAST-version": "4.1.1", "random_seed": changes.get("seed", seed)})
            inputs["node_redshifts"] = np.linspace(35.0, redshift, 6)
            for part, values in {
                "simulation_options": {"HII_DIM": cells, "BOX_LEN": cells * CELL_SIZE, "DIM": 3 * cells,
                                       "N_THREADS": seed, **dict(simulation)},
                "cosmo_params": {**COSMOLOGY, "OMn": 0.0, **dict(cosmology), **changes.get("cosmology", {})},
                "cosmo_tables": {"USE_SIGMA_8": True, "ps_norm": 0.81},
                "astro_params": {**ASTROPHYSICS, **dict(astrophysics)},
                "astro_options": {"USE_TS_FLUCT": True, "M_MIN_in_Mass": True, **dict(flags)},
                "matter_options": {"SOURCE_MODEL": "E-INTEGRAL", "PERTURB_ALGORITHM": "2LPT", **dict(matter)},
            }.items():  # fmt: skip
                inputs.create_group(part).attrs.update(values)
            outputs = group.create_group("OutputFields")
            for field, array in arrays.items():
                if STRUCTURES[field] == name:
                    outputs[field] = array
    return path


def write_old(
    path, *, seed=1, redshift=10.0, arrays=None, astrophysics=(), flags=(), global_parameters=(), only=None,
    version="3.3.1",
):  # fmt: skip
    """A file as Coeval.save of 21cmFAST 3 writes it; ``only`` one group as in its cache."""
    arrays = boxes(seed) if arrays is None else arrays
    cells = next(iter(arrays.values())).shape[0]
    typed = {name: ASTROPHYSICS[name] for name in ("M_TURN", "L_X")}
    groups = {
        "user_params": {"HII_DIM": cells, "DIM": 3 * cells, "BOX_LEN": cells * CELL_SIZE},
        "cosmo_params": {**COSMOLOGY, "SIGMA_8": 0.81},
        "astro_params": {**typed, **dict(astrophysics)},
        "flag_options": {"USE_TS_FLUCT": True, "M_MIN_in_Mass": True, "USE_MASS_DEPENDENT_ZETA": True, **dict(flags)},
        "_globals": {"Pop2_ion": 5000.0, "T_USE_VELOCITIES": 1, **dict(global_parameters)},
    }
    if only is not None:
        groups["global_params"] = groups.pop("_globals")
    if only == "PerturbedField":
        groups = {name: groups[name] for name in ("user_params", "cosmo_params", "global_params")}
    with h5py.File(path, "w") as file:
        file.attrs.update({"redshift": redshift, "random_seed": seed, "version": version})
        for group, values in groups.items():
            file.create_group(group).attrs.update(values)
        for field, array in arrays.items():
            if only in (None, STRUCTURES[field]) and field in ("brightness_temp", "density"):
                file[f"{STRUCTURES[field]}/{field}"] = array
        if only is None:
            file["PerturbedField/velocity"] = np.zeros_like(arrays["density"])
            file["InitialConditions/lowres_density"] = np.zeros_like(arrays["density"])
    return path


def raw_names(redshift="010.16", cells=CELLS, length=18):
    """Names of the 21-cm box and of the matter box of the C code."""
    return {
        "brightness_temp": f"delta_T_v3_z{redshift}_nf0.970000_useTs1_{cells}_{length}Mpc",
        "density": f"updated_smoothed_deltax_z{redshift}_{cells}_{length}Mpc",
    }


def write_raw(folder, *, seed=1, redshift="010.16", arrays=None, names=()):
    """Boxes of one redshift as the C code of 21cmFAST writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = boxes(seed) if arrays is None else arrays
    cells = arrays["density"].shape[0]
    for field, name in {**raw_names(redshift, cells, round(cells * CELL_SIZE)), **dict(names)}.items():
        arrays[field].astype("<f4").tofile(folder / name)
    return folder


def write_runs(folder, count=3, redshifts=("010.16", "015.78"), table=True):
    """Folders Simulation_<i>/Boxes and the table of parameters beside them."""
    for number in range(1, count + 1):
        for place, redshift in enumerate(redshifts):
            write_raw(folder / f"Simulation_{number}" / "Boxes", seed=100 * number + place, redshift=redshift)
    if table:
        rows = [f"{i} {1e8 * (1 + i):e} {1e40 * (1 + i):e} {1000.0 * (1 + i):e}" for i in range(count)]
        (folder / "params_simulation_mturn_lumx_ngamma.txt").write_text("\n".join(rows) + "\n")
    return folder
