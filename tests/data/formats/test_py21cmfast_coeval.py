import pickle

import coeval_files
import h5py
import numpy as np
import pytest
from coeval_files import ASTROPHYSICS, CELL_SIZE, CELLS, boxes, write_modern, write_old

from keras_cosmo.data.formats import box_pieces
from keras_cosmo.data.formats.py21cmfast_coeval import Py21cmfastCoeval
from keras_cosmo.slicing import slice_box

CUT = {"slabs": 3, "slab_cells": 2}
SHAPE = (CELLS, CELLS, CELLS)


def test_modern_file(tmp_path):
    coeval = Py21cmfastCoeval.from_file(write_modern(tmp_path / "coeval.h5", seed=12, redshift=9.5))
    assert (coeval.version, coeval.random_seed, coeval.redshift) == ("4.1.1", 12, 9.5)
    assert (coeval.shape, coeval.cell_size, coeval.box_length) == (SHAPE, CELL_SIZE, 18.0)
    assert coeval.cosmology == {**coeval_files.COSMOLOGY, "SIGMA_8": 0.81}
    assert coeval.parameters == {"log10_L_X": 40.5, "log10_M_min": 8.7, "log10_N_gamma": np.log10(5000.0)}
    assert coeval.inactive == {}
    assert coeval.velocity_gradient is None
    assert sorted(coeval.datasets) == ["brightness_temp", "density", "tau_21", "velocity_z"]
    assert coeval.settings["astro_options.USE_TS_FLUCT"]
    # Labels, the minihaloes' copy of one, and what does not matter.
    for name in ("L_X", "L_X_MINI", "M_TURN", "POP2_ION", "N_THREADS"):
        assert not any(setting.endswith(f".{name}") for setting in coeval.settings)


def test_old_file(tmp_path):
    coeval = Py21cmfastCoeval.from_file(write_old(tmp_path / "coeval.h5", seed=5))
    assert (coeval.version, coeval.random_seed, coeval.redshift) == ("3.3.1", 5, 10.0)
    assert (coeval.shape, coeval.cell_size) == (SHAPE, CELL_SIZE)
    assert coeval.cosmology == {**coeval_files.COSMOLOGY, "SIGMA_8": 0.81}
    assert coeval.parameters == {"log10_L_X": 40.5, "log10_M_min": 8.7, "log10_N_gamma": np.log10(5000.0)}
    assert coeval.velocity_gradient is True


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"global_parameters": {"T_USE_VELOCITIES": 0}}, False),
        ({"flags": {"APPLY_RSDS": True}, "version": "3.4.0"}, True),
        # In 3.4 the flag decides, the old global parameter is there but means nothing.
        ({"flags": {"APPLY_RSDS": False}, "version": "3.4.0"}, False),
    ],
)
def test_old_files_say_whether_velocities_are_included(tmp_path, options, expected):
    assert Py21cmfastCoeval.from_file(write_old(tmp_path / "coeval.h5", **options)).velocity_gradient is expected


@pytest.mark.parametrize("writer", [write_modern, write_old])
def test_single_boxes_of_the_cache(tmp_path, writer):
    temperature = Py21cmfastCoeval.from_file(writer(tmp_path / "a.h5", only="BrightnessTemp"))
    matter = Py21cmfastCoeval.from_file(writer(tmp_path / "b.h5", only="PerturbedField"))
    assert temperature.parameters["log10_M_min"] == 8.7
    assert "density" not in temperature.datasets
    assert matter.parameters == {}
    assert (matter.random_seed, matter.redshift, matter.shape) == (1, 10.0, SHAPE)
    np.testing.assert_array_equal(matter.maps("density", **CUT), slice_box(boxes(1)["density"], **CUT))
    with pytest.raises(ValueError, match=r"a\.h5: there is no box of 'density'; expected one of \['brightness_temp'"):
        temperature.maps("density", **CUT)


@pytest.mark.parametrize("writer", [write_modern, write_old])
@pytest.mark.parametrize("piece_bytes", [1, 3000, 2**25])
def test_maps(tmp_path, monkeypatch, writer, piece_bytes):
    monkeypatch.setattr(box_pieces, "PIECE_BYTES", piece_bytes)
    coeval = pickle.loads(pickle.dumps(Py21cmfastCoeval.from_file(writer(tmp_path / "coeval.h5", seed=3))))
    for field in ("brightness_temp", "density"):
        for projection in ("mean", "sum"):
            maps = coeval.maps(field, **CUT, projection=projection)
            assert maps.shape == (3, CELLS, CELLS)
            assert maps.dtype == np.float32
            np.testing.assert_array_equal(maps, slice_box(boxes(3)[field], **CUT, projection=projection))


def test_the_line_of_sight_is_the_last_axis(tmp_path):
    arrays = boxes()
    arrays["density"] = np.broadcast_to(1.0 + np.arange(CELLS, dtype=np.float32), SHAPE)
    maps = Py21cmfastCoeval.from_file(write_modern(tmp_path / "a.h5", arrays=arrays)).maps("density", **CUT)
    np.testing.assert_array_equal(maps, np.broadcast_to(np.array([1.5, 5.5, 9.5])[:, None, None], (3, CELLS, CELLS)))


@pytest.mark.parametrize("spin_temperature", [True, False])
def test_velocity_gradient(tmp_path, spin_temperature):
    cosmology = pytest.importorskip("astropy.cosmology")
    units = pytest.importorskip("astropy.units")
    theirs = cosmology.FlatLambdaCDM(
        H0=68.0, Om0=0.31, Ob0=0.048, Tcmb0=2.7255, Neff=3.044, m_nu=[0.0, 0.0, 0.06] * units.eV
    )
    hubble = theirs.H(10.0).to_value("1/s")
    # A wave along the line of sight, whose derivative is known.
    wavenumber, place = 2 * np.pi / (CELLS * CELL_SIZE), CELL_SIZE * np.arange(CELLS)
    arrays = boxes(4)
    arrays["velocity_z"] = np.broadcast_to(0.3 * hubble / wavenumber * np.sin(wavenumber * place), SHAPE)
    gradient = 0.3 * np.cos(wavenumber * place)
    if spin_temperature:
        depth = arrays["tau_21"].astype(np.float64)
        depth[0] = arrays["tau_21"][0] = 0.0
        factor = np.ones(SHAPE)
        factor[1:] = (1 - np.exp(-depth[1:] / np.abs(1 + gradient))) / (1 - np.exp(-depth[1:]))
    else:
        factor = 1 / (1 + np.clip(gradient, -0.2, 0.2))
    path = write_modern(tmp_path / "a.h5", arrays=arrays, flags={"USE_TS_FLUCT": spin_temperature})
    coeval = Py21cmfastCoeval.from_file(path)
    maps = coeval.maps("brightness_temp", **CUT, velocities=coeval)
    np.testing.assert_allclose(maps, slice_box(arrays["brightness_temp"] * factor, **CUT), rtol=3e-6)
    np.testing.assert_array_equal(coeval.maps("density", **CUT, velocities=coeval), coeval.maps("density", **CUT))


@pytest.mark.slow
@pytest.mark.parametrize("spin_temperature", [True, False])
def test_velocity_gradient_is_that_of_21cmfast(tmp_path, spin_temperature):
    package = pytest.importorskip("py21cmfast")
    path = write_modern(tmp_path / "a.h5", seed=4, flags={"USE_TS_FLUCT": spin_temperature})
    coeval, arrays = Py21cmfastCoeval.from_file(path), boxes(4)
    inputs = package.InputParameters.from_template(
        "simple", random_seed=1, HII_DIM=CELLS, BOX_LEN=CELLS * CELL_SIZE, hlittle=0.68, OMm=0.31, OMb=0.048,
        R_BUBBLE_MAX=5.0, USE_TS_FLUCT=spin_temperature,
    )  # fmt: skip
    expected = package.rsds.include_dvdr_in_tau21(
        arrays["brightness_temp"], arrays["velocity_z"], 10.0, inputs, True, arrays["tau_21"]
    )
    maps = coeval.maps("brightness_temp", **CUT, velocities=coeval)
    np.testing.assert_allclose(maps, slice_box(expected, **CUT), rtol=1e-5)


def test_what_the_velocity_gradient_needs(tmp_path):
    modern = Py21cmfastCoeval.from_file(write_modern(tmp_path / "a.h5"))
    alone = Py21cmfastCoeval.from_file(write_modern(tmp_path / "b.h5", only="BrightnessTemp"))
    with pytest.raises(ValueError, match=r"b\.h5: the velocity gradient needs the box velocity_z, got \['brightness"):
        modern.maps("brightness_temp", **CUT, velocities=alone)
    shallow = Py21cmfastCoeval.from_file(
        write_modern(tmp_path / "c.h5", arrays={k: v for k, v in boxes().items() if k != "tau_21"})
    )
    with pytest.raises(ValueError, match=r"c\.h5: the velocity gradient needs the box tau_21"):
        shallow.maps("brightness_temp", **CUT, velocities=shallow)
    old = Py21cmfastCoeval.from_file(write_old(tmp_path / "d.h5"))
    with pytest.raises(ValueError, match=r"d\.h5: the velocity gradient cannot be applied: the file includes it"):
        old.maps("brightness_temp", **CUT, velocities=modern)
    old = Py21cmfastCoeval.from_file(write_old(tmp_path / "e.h5", global_parameters={"T_USE_VELOCITIES": 0}))
    with pytest.raises(ValueError, match=r"e\.h5: the velocity gradient cannot be applied: the file is of version 3"):
        old.maps("brightness_temp", **CUT, velocities=modern)
    later = Py21cmfastCoeval.from_file(write_modern(tmp_path / "f.h5", redshift=11.0))
    with pytest.raises(ValueError, match=r"f\.h5: expected velocities of shape .* at z = 10 .* at z = 11"):
        modern.maps("brightness_temp", **CUT, velocities=later)


@pytest.mark.parametrize(
    ("writer", "options", "name", "reason"),
    [
        (write_modern, {"flags": {"USE_TS_FLUCT": False}}, "log10_L_X", "USE_TS_FLUCT is off"),
        (write_modern, {"matter": {"SOURCE_MODEL": "CONST-ION-EFF"}}, "log10_N_gamma", "'CONST-ION-EFF'"),
        (
            write_modern,
            {"matter": {"SOURCE_MODEL": b"CONST-ION-EFF"}, "flags": {"M_MIN_in_Mass": False}},
            "log10_M_min",
            "M_MIN_in_Mass is off",
        ),
        (write_old, {"flags": {"USE_MASS_DEPENDENT_ZETA": False}}, "log10_N_gamma", "USE_MASS_DEPENDENT_ZETA is off"),
        (write_old, {"flags": {"USE_TS_FLUCT": False}}, "log10_L_X", "USE_TS_FLUCT is off"),
    ],
)  # fmt: skip
def test_parameters_without_effect_are_told(tmp_path, writer, options, name, reason):
    assert reason in Py21cmfastCoeval.from_file(writer(tmp_path / "a.h5", **options)).inactive[name]


def other_file(path, kind):
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("not HDF5")
    elif kind == "truncated":
        content = write_modern(path).read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind == "initial conditions":
        write_modern(path, only="InitialConditions")
    else:
        with h5py.File(path, "w") as file:
            file[kind] = np.zeros((2, 2, 2), np.float32)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("folder", "expected a coeval box file of 21cmFAST, got a folder"),
        ("text", "expected an HDF5 file, got something else"),
        ("truncated", "(truncated or damaged|cannot be read)"),
        ("lightcones/brightness_temp", "expected a coeval box, got a light-cone"),
        ("maps/density", r"expected coeval boxes of 21cmFAST, got an HDF5 file with \['maps'\]"),
        ("initial conditions", r"expected coeval boxes .* \['InitialConditions'\]"),
        ("BrightnessTemp/brightness_temp", "no group BrightnessTemp or PerturbedField with its inputs"),
    ],
)
def test_other_files_are_refused(tmp_path, kind, message):
    with pytest.raises(ValueError, match=rf"other\.h5: .*{message}"):
        Py21cmfastCoeval.from_file(other_file(tmp_path / "other.h5", kind))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.h5: there is no such file"):
        Py21cmfastCoeval.from_file(tmp_path / "nowhere.h5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density_group": {"redshift": 11.0}}, "expected one redshift, got 10.0 of BrightnessTemp and 11.0"),
        ({"density_group": {"seed": 9}}, "expected one random seed, got 1 of BrightnessTemp and 9 of"),
        ({"seed": 10**9, "density_group": {"seed": 10**9 + 1}}, "expected one random seed, got 1000000000 of"),
        ({"density_group": {"cosmology": {"OMm": 0.3}}}, "expected one cosmology"),
        ({"astrophysics": {"POP2_ION": 0.0}}, "expected a positive number of photons in POP2_ION, got 0.0"),
        ({"astrophysics": {"L_X": np.nan}}, "expected a finite number in the attribute L_X of astro_params"),
        ({"simulation": {"BOX_LEN": -1.0}}, "expected positive BOX_LEN and HII_DIM"),
        ({"arrays": {**boxes(), "density": boxes(1, 8)["density"]}}, "do not belong together: expected one shape"),
        ({"arrays": {**boxes(), "density": boxes()["density"][0]}}, r"expected density as real numbers of shape \(nx"),
        ({"arrays": {**boxes(), "density": boxes()["density"].astype(int)}}, "expected density as real numbers"),
        ({"arrays": {"tau_21": boxes()["tau_21"]}}, "expected a box of brightness_temp or density, got only"),
    ],
)
def test_damaged_files_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=rf"a\.h5: .*{message}"):
        Py21cmfastCoeval.from_file(write_modern(tmp_path / "a.h5", **options))


@pytest.mark.parametrize(
    ("writer", "missing", "message"),
    [
        (write_modern, "BrightnessTemp/InputParameters/astro_params/M_TURN", "expected the attribute M_TURN"),
        (write_modern, "BrightnessTemp/InputParameters/astro_params", "expected a group astro_params with parameters"),
        (write_modern, "PerturbedField/redshift", "expected the attribute redshift of PerturbedField"),
        (write_old, "_globals/Pop2_ion", "expected the attribute Pop2_ion"),
        (write_old, "_globals", "expected a group _globals"),
        (write_old, "/random_seed", "expected the attribute random_seed of the root"),
    ],
)
def test_missing_parts_are_named(tmp_path, writer, missing, message):
    path = writer(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        if missing in file:
            del file[missing]
        else:
            group, name = missing.rsplit("/", 1)
            del file[group or "/"].attrs[name]
    with pytest.raises(ValueError, match=rf"a\.h5: .*{message}"):
        Py21cmfastCoeval.from_file(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("density", np.nan, "expected finite values in density, got slabs with 1 pixels .* among 432"),
        ("brightness_temp", np.inf, "expected finite values in brightness_temp"),
        ("density", 0.0, "the box of density holds only zeros"),
    ],
)
def test_bad_pixels_are_refused(tmp_path, field, value, message):
    arrays = boxes()
    if value == 0.0:
        arrays[field] = np.zeros(SHAPE, np.float32)
    else:
        arrays[field][3, 4, 5] = value
    with pytest.raises(ValueError, match=rf"a\.h5: {message}"):
        Py21cmfastCoeval.from_file(write_modern(tmp_path / "a.h5", arrays=arrays)).maps(field, **CUT)


def test_slabs_that_do_not_fit_name_the_file(tmp_path):
    coeval = Py21cmfastCoeval.from_file(write_modern(tmp_path / "a.h5"))
    with pytest.raises(ValueError, match=r"a\.h5: slabs: a box of 12 cells cannot be divided into 20"):
        coeval.maps("density")
    with pytest.raises(ValueError, match=r"there is no box of 'tau_21'"):
        coeval.maps("tau_21", **CUT)


def test_a_file_that_changed_since_is_refused(tmp_path):
    coeval = Py21cmfastCoeval.from_file(write_modern(tmp_path / "a.h5"))
    write_modern(tmp_path / "a.h5", arrays=boxes(1, 8))
    with pytest.raises(ValueError, match=r"a\.h5: density changed since the file was opened"):
        coeval.maps("density", **CUT)


def test_a_real_setting_of_minihaloes_stays(tmp_path):
    path = write_modern(tmp_path / "a.h5", astrophysics={"L_X_MINI": 39.0})
    assert Py21cmfastCoeval.from_file(path).settings["astro_params.L_X_MINI"] == 39.0
    assert ASTROPHYSICS["L_X_MINI"] == ASTROPHYSICS["L_X"]
