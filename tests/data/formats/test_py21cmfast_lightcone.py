import json
import logging
import pathlib
import pickle

import h5py
import numpy as np
import pytest

from keras_cosmo.data.database import Database
from keras_cosmo.data.formats.lightcone_folder import convert_lightcones
from keras_cosmo.data.formats.py21cmfast_lightcone import ATTRIBUTE_OF, Py21cmfastLightcone
from keras_cosmo.distances import comoving_distance
from keras_cosmo.simulations.lightcones import LIGHTCONE_PARAMETERS
from keras_cosmo.slicing import slice_lightcone

CELLS, LINE_OF_SIGHT, CELL_SIZE = 8, 40, 1.5
COSMOLOGY = {"hlittle": 0.68, "OMm": 0.31, "OMb": 0.048, "POWER_INDEX": 0.97}
BACKGROUND = {"h": 0.68, "omega_m": 0.31}
# As users type them: L_X and ION_Tvir_MIN are logarithms, NU_X_THRESH is in eV.
ASTROPHYSICS = {"HII_EFF_FACTOR": 42.0, "L_X": 40.5, "ION_Tvir_MIN": 4.7, "NU_X_THRESH": 300.0}
GEOMETRY = {"slices": 2, "spacing": 6.0, "parts": 2}
# Distance to z = 8.2 for this cosmology, from astropy 8.0 with the neutrinos of 21cmFAST.
FIRST_DISTANCE = comoving_distance(8.2, **BACKGROUND)


def cone(seed=0):
    """Brightness temperature whose line-of-sight index is the value plus a small pattern across the sky."""
    across = np.random.default_rng(seed).integers(0, 8, (CELLS, CELLS, 1)) / 16
    return (np.arange(LINE_OF_SIGHT) + across).astype(np.float32)


def write_modern(path, *, seed=1, astrophysics=(), flags=(), cosmology=(), tb=None, distances=None, attributes=()):
    """A file as LightCone.save of py21cmfast 4.1.1 writes it."""
    tb = cone(seed) if tb is None else tb
    with h5py.File(path, "w") as file:
        file.attrs.update({
            "__version__": "4.1.1", "lightcone": True, "last_completed_node": -1, "last_completed_lcidx": -1,
            "lowz_buffer_pixels": 0, "highz_buffer_pixels": 0, **dict(attributes),
        })  # fmt: skip
        if distances is None:
            distances = FIRST_DISTANCE + CELL_SIZE * np.arange(LINE_OF_SIGHT)
        file["lightcone_distances"] = distances
        file["lightcones/brightness_temp"] = tb
        file["lightcones/density"] = np.zeros_like(tb)
        file["global_quantities/brightness_temp"] = np.linspace(-50.0, 10.0, 6)
        file.create_group("photon_nonconservation_data")
        inputs = file.create_group("InputParameters")
        inputs.attrs.update({"21cmFAST-version": "4.1.1", "random_seed": seed})
        inputs["node_redshifts"] = np.linspace(21.39, 8.0, 6)
        for group, values in {
            "simulation_options": {"HII_DIM": CELLS, "BOX_LEN": CELLS * CELL_SIZE, "DIM": 3 * CELLS},
            "cosmo_params": {**COSMOLOGY, "OMn": 0.0, "OMk": 0.0, "OMr": 8.6e-5, **dict(cosmology)},
            "cosmo_tables": {"USE_SIGMA_8": True, "ps_norm": 0.81},
            "astro_params": {**ASTROPHYSICS, "X_RAY_Tvir_MIN": 4.7, "M_TURN": 8.7, **dict(astrophysics)},
            "astro_options": {"USE_TS_FLUCT": True, "M_MIN_in_Mass": False, **dict(flags)},
            "matter_options": {"SOURCE_MODEL": "CONST-ION-EFF", "PERTURB_ALGORITHM": "2LPT"},
        }.items():
            inputs.create_group(group).attrs.update(values)
    return path


def write_old(path, *, distances=None, seed=1, flags=(), attributes=()):
    """A file as LightCone.save of 21cmFAST 3 writes it; 3.4 has distances, 3.0 to 3.3 have not."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"redshift": 8.2, "random_seed": seed, "version": "3.3.1", **dict(attributes)})
        for group, values in {
            "user_params": {"HII_DIM": CELLS, "DIM": 3 * CELLS, "BOX_LEN": CELLS * CELL_SIZE},
            "cosmo_params": {**COSMOLOGY, "SIGMA_8": 0.81},
            "astro_params": dict(ASTROPHYSICS),
            "flag_options": {"USE_TS_FLUCT": True, "M_MIN_in_Mass": False, "USE_MASS_DEPENDENT_ZETA": False,
                             **dict(flags)},
            "_globals": {"ZPRIME_STEP_FACTOR": 1.02},
        }.items():  # fmt: skip
            file.create_group(group).attrs.update(values)
        file["lightcones/brightness_temp"] = cone(seed)
        file["lightcones/xH_box"] = np.ones_like(cone())
        file["global_quantities/brightness_temp"] = np.linspace(-50.0, 10.0, 6)
        file["node_redshifts"] = np.linspace(21.39, 8.0, 6)
        if distances is not None:
            file["distances"] = distances
    return path


def test_modern_file(tmp_path):
    lightcone = Py21cmfastLightcone.from_file(write_modern(tmp_path / "cone.h5", seed=12))
    assert lightcone.version == "4.1.1"
    assert lightcone.random_seed == 12
    assert lightcone.shape == (CELLS, CELLS, LINE_OF_SIGHT)
    assert lightcone.cell_size == CELL_SIZE
    assert lightcone.cosmology == {**COSMOLOGY, "SIGMA_8": 0.81}
    assert lightcone.parameters == {"zeta": 42.0, "log10_L_X": 40.5, "log10_T_vir": 4.7, "E_0": 0.3}
    assert lightcone.inactive == {}
    assert not lightcone.from_checkpoints
    np.testing.assert_allclose(lightcone.redshifts[0], 8.2, atol=1e-8)
    np.testing.assert_allclose(
        comoving_distance(lightcone.redshifts, **BACKGROUND), FIRST_DISTANCE + CELL_SIZE * np.arange(LINE_OF_SIGHT)
    )


def test_redshifts_agree_with_astropy(tmp_path):
    cosmology = pytest.importorskip("astropy.cosmology")
    units = pytest.importorskip("astropy.units")
    theirs = cosmology.FlatLambdaCDM(
        H0=68.0, Om0=0.31, Ob0=0.048, Tcmb0=2.7255, Neff=3.044, m_nu=[0.0, 0.0, 0.06] * units.eV
    )
    distances = theirs.comoving_distance(6.0).value + 60.0 * np.arange(LINE_OF_SIGHT)
    lightcone = Py21cmfastLightcone.from_file(write_modern(tmp_path / "cone.h5", distances=distances))
    expected = cosmology.z_at_value(theirs.comoving_distance, distances[[0, 20, -1]] * units.Mpc).value
    np.testing.assert_allclose(lightcone.redshifts[[0, 20, -1]], expected, atol=1e-4)


def test_old_file_with_distances(tmp_path):
    distances = FIRST_DISTANCE + CELL_SIZE * np.arange(LINE_OF_SIGHT)
    lightcone = Py21cmfastLightcone.from_file(write_old(tmp_path / "cone.h5", distances=distances, seed=5))
    assert lightcone.version == "3.3.1"
    assert lightcone.random_seed == 5
    assert lightcone.cosmology == {**COSMOLOGY, "SIGMA_8": 0.81}
    assert lightcone.parameters["E_0"] == 0.3
    np.testing.assert_allclose(lightcone.distances, distances)


def test_old_file_without_distances(tmp_path):
    lightcone = Py21cmfastLightcone.from_file(write_old(tmp_path / "cone.h5"))
    np.testing.assert_allclose(lightcone.redshifts[0], 8.2, atol=1e-8)
    # The package's own convention: n cells over n - 1 steps.
    np.testing.assert_allclose(np.diff(lightcone.distances), CELL_SIZE * LINE_OF_SIGHT / (LINE_OF_SIGHT - 1))


@pytest.mark.parametrize("writer", [write_modern, write_old])
def test_images(tmp_path, writer):
    lightcone = pickle.loads(pickle.dumps(Py21cmfastLightcone.from_file(writer(tmp_path / "cone.h5"))))
    images = lightcone.images(**GEOMETRY, axes=(0, 1))
    assert images.shape == lightcone.images_shape(**GEOMETRY, axes=(0, 1)) == (8, CELLS // 2, LINE_OF_SIGHT)
    assert images.dtype == np.float32
    # Line of sight last, lowest redshift first.
    np.testing.assert_array_equal(np.floor(images), np.broadcast_to(np.arange(LINE_OF_SIGHT), images.shape))
    np.testing.assert_array_equal(images, slice_lightcone(cone(1), CELL_SIZE, **GEOMETRY, axes=(0, 1)))


def test_buffer_is_left_out(tmp_path):
    path = write_modern(tmp_path / "cone.h5", attributes={"lowz_buffer_pixels": 3, "highz_buffer_pixels": 5})
    lightcone = Py21cmfastLightcone.from_file(path)
    assert lightcone.shape == (CELLS, CELLS, LINE_OF_SIGHT - 8)
    np.testing.assert_allclose(lightcone.distances[0], FIRST_DISTANCE + 3 * CELL_SIZE)
    for axes in ((0,), (1,)):
        image = lightcone.images(slices=1, parts=1, axes=axes)[0]
        np.testing.assert_array_equal(np.floor(image[0]), np.arange(3, LINE_OF_SIGHT - 5))


def test_file_without_tables_has_no_sigma_8(tmp_path):
    path = write_modern(tmp_path / "cone.h5")
    with h5py.File(path, "r+") as file:
        del file["InputParameters/cosmo_tables"]
    assert Py21cmfastLightcone.from_file(path).cosmology["SIGMA_8"] is None


@pytest.mark.parametrize(
    ("change", "names", "reason"),
    [
        ({"flags": {"M_MIN_in_Mass": True}}, {"log10_T_vir"}, "M_MIN_in_Mass is on"),
        ({"astrophysics": {"X_RAY_Tvir_MIN": 5.0}}, {"log10_T_vir"}, "ION_Tvir_MIN is 4.7, X_RAY_Tvir_MIN is 5"),
        ({"flags": {"USE_TS_FLUCT": False}}, {"log10_L_X", "E_0"}, "USE_TS_FLUCT is off"),
    ],
)
def test_parameters_that_could_not_act_are_named(tmp_path, change, names, reason):
    inactive = Py21cmfastLightcone.from_file(write_modern(tmp_path / "cone.h5", **change)).inactive
    assert set(inactive) == names
    assert all(reason in text for text in inactive.values())


def test_mass_dependent_sources_have_no_zeta(tmp_path):
    path = write_old(tmp_path / "old.h5", flags={"USE_MASS_DEPENDENT_ZETA": True})
    assert set(Py21cmfastLightcone.from_file(path).inactive) == {"zeta", "log10_T_vir"}
    path = write_modern(tmp_path / "modern.h5")
    with h5py.File(path, "r+") as file:
        file["InputParameters/matter_options"].attrs["SOURCE_MODEL"] = "E-INTEGRAL"
    assert "SOURCE_MODEL is 'E-INTEGRAL'" in Py21cmfastLightcone.from_file(path).inactive["zeta"]


def change(edit):
    """A writer of a modern file that is spoilt by ``edit(file)`` afterwards."""

    def write(path):
        write_modern(path)
        with h5py.File(path, "r+") as file:
            edit(file)

    return write


def delete(*names):
    return change(lambda file: [file.pop(name) for name in names])


def replace_tb(array):
    def edit(file):
        del file["lightcones/brightness_temp"]
        file["lightcones/brightness_temp"] = array

    return change(edit)


def truncate(path):
    write_modern(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def write_coeval_modern(path):
    with h5py.File(path, "w") as file:
        file.attrs["coeval"] = True
        file["BrightnessTemp/OutputFields/brightness_temp"] = np.zeros((4, 4, 4))
        file.create_group("BrightnessTemp/InputParameters")


def write_coeval_old(path):
    with h5py.File(path, "w") as file:
        file.create_group("user_params")
        file["BrightnessTemp/brightness_temp"] = np.zeros((4, 4, 4))


def write_other_hdf5(path):
    with h5py.File(path, "w") as file:
        file["maps/brightness_temp"] = np.zeros((4, 4, 4))


def drop_attribute(group, name):
    return change(lambda file: file[group].attrs.pop(name))


ZEROS = np.zeros((CELLS, LINE_OF_SIGHT), np.float32)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_text("not HDF5"), r"expected an HDF5 file, got something else \(8 bytes\)"),
        (lambda path: path.touch(), r"expected an HDF5 file, got something else \(0 bytes\)"),
        (lambda path: path.mkdir(), "expected a light-cone file of 21cmFAST, got a folder"),
        (truncate, "the HDF5 file is truncated or damaged .* Copy it again"),
        (write_coeval_modern, "got a coeval box of 21cmFAST"),
        (write_coeval_old, "got a coeval box of 21cmFAST"),
        (write_other_hdf5, r"got an HDF5 file with \['maps'\] and no group 'lightcones'"),
        (delete("lightcones/brightness_temp"), r"expected the field brightness_temp .*, got \['density'\]"),
        (delete("lightcone_distances"), "expected a dataset lightcone_distances"),
        (delete("InputParameters/astro_params"), "expected a group InputParameters/astro_params"),
        (replace_tb(ZEROS), r"got an angular one of shape \(8, 40\)"),
        (replace_tb(np.zeros((8, 8, 40), int)), "expected brightness_temp as real numbers"),
        (replace_tb(np.zeros((8, 8, 30), np.float32)), "expected increasing distances, one for each of the 30 cells"),
        (change(lambda file: file.attrs.modify("last_completed_lcidx", 17)), "unfinished: cells 0 to 16 of 40"),
        (
            change(lambda file: file["global_quantities/brightness_temp"].write_direct(np.zeros(6))),
            "was begun and holds only zeros",
        ),
        (drop_attribute("InputParameters/astro_params", "NU_X_THRESH"), "expected the attribute NU_X_THRESH of astro"),
        (drop_attribute("InputParameters/cosmo_params", "OMm"), "expected the attribute OMm of cosmo_params"),
        (drop_attribute("InputParameters/simulation_options", "HII_DIM"), "expected the attribute HII_DIM"),
        (drop_attribute("InputParameters", "random_seed"), "expected the attribute random_seed"),
        (
            change(lambda file: file["InputParameters/astro_params"].attrs.modify("L_X", np.nan)),
            "expected a finite number in the attribute L_X",
        ),
        (
            change(lambda file: file["InputParameters/astro_params"].attrs.create("L_X", "high")),
            "expected a number in the attribute L_X of astro_params, got 'high'",
        ),
        (
            lambda path: write_old(path, attributes={"current_redshift": 12.0, "current_index": 9}),
            "unfinished: computed down to z = 12.000, expected z = 8.200",
        ),
    ],
)
def test_unusable_files_are_named(tmp_path, spoil, message):
    path = tmp_path / "cone.h5"
    spoil(path)
    with pytest.raises(ValueError, match=message) as caught:
        Py21cmfastLightcone.from_file(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.h5: there is no such file"):
        Py21cmfastLightcone.from_file(tmp_path / "nowhere.h5")


def test_old_checkpoints_that_are_complete_are_read(tmp_path):
    path = write_old(tmp_path / "cone.h5", attributes={"current_redshift": 8.0, "current_index": 39})
    assert Py21cmfastLightcone.from_file(path).shape[2] == LINE_OF_SIGHT


def test_values_that_are_not_finite(tmp_path):
    tb = cone()
    tb[0, 1, 5] = np.nan
    lightcone = Py21cmfastLightcone.from_file(write_modern(tmp_path / "cone.h5", tb=tb))
    with pytest.raises(ValueError, match=r"cone\.h5: expected finite values .*, got 1 that are not among the 640"):
        lightcone.images(**GEOMETRY)


@pytest.mark.parametrize(
    ("group", "name", "value", "message"),
    [
        ("InputParameters/simulation_options", "HII_DIM", 0, "expected positive BOX_LEN and HII_DIM"),
        ("InputParameters/simulation_options", "BOX_LEN", -30.0, "expected positive BOX_LEN and HII_DIM"),
        ("InputParameters/cosmo_params", "hlittle", 68.0, "distance: expected 0 to .* Check unit and cosmology"),
        ("/", "last_completed_lcidx", "x", "expected a number in the attribute last_completed_lcidx of the root"),
        ("/", "lowz_buffer_pixels", -5, r"expected buffers of at least 0 pixels, got \[-5, 0\]"),
    ],
)
def test_numbers_that_cannot_be(tmp_path, group, name, value, message):
    path = write_modern(tmp_path / "cone.h5")
    with h5py.File(path, "r+") as file:
        file[group].attrs[name] = value
    with pytest.raises(ValueError, match=rf"cone\.h5: {message}"):
        Py21cmfastLightcone.from_file(path)


@pytest.mark.parametrize("signature", [b"HEAP", b"SNOD", b"TREE"])
def test_damaged_structures(tmp_path, signature):
    path = write_modern(tmp_path / "cone.h5")
    content = path.read_bytes()
    assert signature in content
    path.write_bytes(content.replace(signature, b"????"))
    with pytest.raises(ValueError, match=r"cone\.h5: the (HDF5 )?file (cannot be read|is truncated or damaged)"):
        Py21cmfastLightcone.from_file(path)


def test_slices_that_do_not_fit(tmp_path):
    lightcone = Py21cmfastLightcone.from_file(write_modern(tmp_path / "cone.h5"))
    with pytest.raises(ValueError, match=r"cone\.h5: slices: 5 slices 60.0 Mpc apart need 161 cells"):
        lightcone.images()


def test_file_removed_meanwhile(tmp_path):
    lightcone = Py21cmfastLightcone.from_file(write_modern(tmp_path / "cone.h5"))
    write_other_hdf5(lightcone.path)
    with pytest.raises(ValueError, match=r"cannot be read .* changed or is damaged"):
        lightcone.images(**GEOMETRY)


def write_folder(folder, count=3):
    folder.mkdir()
    for index in range(count):
        # Written in another order than that of the names.
        number = (index + 1) % count
        write_modern(folder / f"cone_{number}.h5", seed=number, astrophysics={"HII_EFF_FACTOR": 20.0 + number})
    return folder


def convert(source, path, **arguments):
    return convert_lightcones(source, path, **{"parameters": LIGHTCONE_PARAMETERS, **GEOMETRY, **arguments})


def test_folder_becomes_a_database(tmp_path):
    calls = []
    path = convert(write_folder(tmp_path / "cones"), tmp_path / "out.h5", progress=lambda *done: calls.append(done))
    database = Database(path)
    assert database.task == "regression"
    assert database.parameters == LIGHTCONE_PARAMETERS
    assert set(ATTRIBUTE_OF) == set(database.parameter_names)
    np.testing.assert_allclose(database.parameter_values, [[20.0 + i, 40.5, 4.7, 0.3] for i in range(3)])
    assert database.simulation.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert database.fields["brightness_temp"].shape == (CELLS // 2, LINE_OF_SIGHT)
    assert database.fields["brightness_temp"].unit == "mK"
    assert database.cell_size == CELL_SIZE
    assert database.attributes["cell_size_units"] == "Mpc"
    assert database.attributes["simulator"] == "py21cmfast"
    assert database.attributes["simulator_version"] == "4.1.1"
    assert database.attributes["seeds"].tolist() == [0, 1, 2]
    assert json.loads(database.attributes["cosmology"]) == {**COSMOLOGY, "SIGMA_8": 0.81}
    np.testing.assert_allclose(database.redshifts[0], 8.2, atol=1e-8)
    for simulation in range(3):
        np.testing.assert_array_equal(
            database.read("brightness_temp", np.arange(4) + 4 * simulation),
            slice_lightcone(cone(simulation), CELL_SIZE, **GEOMETRY),
        )
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cones", "out.h5"]


def test_output_may_lie_in_the_folder(tmp_path):
    folder = write_folder(tmp_path / "cones")
    assert Database(convert(folder, folder / "all.h5")).n_simulations == 3


def test_list_of_files_and_fewer_parameters(tmp_path):
    folder = write_folder(tmp_path / "cones")
    files = [folder / "cone_2.h5", folder / "cone_0.h5"]
    database = Database(convert(files, tmp_path / "out.h5", parameters=LIGHTCONE_PARAMETERS[:1], dtype="float16"))
    np.testing.assert_allclose(database.parameter_values, [[20.0], [22.0]])


def test_one_file(tmp_path):
    folder = write_folder(tmp_path / "cones")
    assert Database(convert(folder / "cone_1.h5", tmp_path / "out.h5")).n_simulations == 1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"cosmology": {"OMm": 0.32}}, "range of redshifts"),
        ({"cosmology": {"POWER_INDEX": 0.96}}, "expected the same cosmology, got {'POWER_INDEX': 0.96"),
        ({"distances": FIRST_DISTANCE + 9.0 + CELL_SIZE * np.arange(LINE_OF_SIGHT)}, "the same range of redshifts"),
        ({"attributes": {"lowz_buffer_pixels": 2}}, r"the same shape, got \[8, 8, 38\] and \[8, 8, 40\]"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path, other, message):
    folder = write_folder(tmp_path / "cones")
    write_modern(folder / "cone_9.h5", seed=9, **other)
    with pytest.raises(ValueError, match=rf"cone_9\.h5 and .*cone_0\.h5 do not belong together: .*{message}"):
        convert(folder, tmp_path / "out.h5")
    assert list(tmp_path.iterdir()) == [folder]


def test_cells_of_another_size(tmp_path):
    folder = write_folder(tmp_path / "cones")
    path = write_modern(folder / "cone_9.h5", seed=9)
    with h5py.File(path, "r+") as file:
        file["InputParameters/simulation_options"].attrs["BOX_LEN"] = 24.0
    with pytest.raises(ValueError, match=r"the same cell size in Mpc, got 3.0 and 1.5"):
        convert(folder, tmp_path / "out.h5")


def test_the_same_simulation_twice(tmp_path):
    folder = write_folder(tmp_path / "cones")
    (folder / "copy.h5").write_bytes((folder / "cone_1.h5").read_bytes())
    with pytest.raises(ValueError, match=r"copy\.h5 and .*cone_1\.h5 hold the same simulation: random seed 1"):
        convert(folder, tmp_path / "out.h5")


def test_repeated_seeds_are_reported(tmp_path, caplog):
    folder = write_folder(tmp_path / "cones")
    write_modern(folder / "cone_9.h5", seed=1)
    with caplog.at_level(logging.WARNING):
        convert(folder, tmp_path / "out.h5")
    assert "1 of 4 light-cones repeat the random seed" in caplog.text


def test_checkpoints_and_versions_are_reported(tmp_path, caplog):
    folder = write_folder(tmp_path / "cones")
    path = write_modern(folder / "cone_9.h5", seed=9, attributes={"last_completed_lcidx": 0})
    with h5py.File(path, "r+") as file:
        file["InputParameters"].attrs["21cmFAST-version"] = "4.0.0"
    with caplog.at_level(logging.WARNING):
        convert(folder, tmp_path / "out.h5")
    assert "several versions of 21cmFAST come together: 4.0.0, 4.1.1" in caplog.text
    assert "1 of 4 light-cones, such as" in caplog.text
    assert "velocity-gradient" in caplog.text


def test_a_label_that_could_not_act_is_refused(tmp_path):
    folder = write_folder(tmp_path / "cones")
    write_modern(folder / "cone_9.h5", seed=9, flags={"M_MIN_in_Mass": True})
    with pytest.raises(ValueError, match=r"cone_9\.h5: log10_T_vir = 4.7 cannot be a label: .* \(1 of 4 files\)"):
        convert(folder, tmp_path / "out.h5")
    rest = [each for each in LIGHTCONE_PARAMETERS if each.name != "log10_T_vir"]
    assert Database(convert(folder, tmp_path / "out.h5", parameters=rest)).n_simulations == 4


def test_an_unusable_file_stops_before_anything_is_written(tmp_path):
    folder = write_folder(tmp_path / "cones")
    truncate(folder / "cone_9.h5")
    with pytest.raises(ValueError, match=r"cone_9\.h5: the HDF5 file is truncated"):
        convert(folder, tmp_path / "out.h5")
    assert list(tmp_path.iterdir()) == [folder]


def test_bad_pixels_leave_nothing_behind(tmp_path):
    folder = write_folder(tmp_path / "cones")
    write_modern(folder / "cone_9.h5", seed=9, tb=np.full_like(cone(), np.inf))
    with pytest.raises(ValueError, match=r"cone_9\.h5: expected finite values .* Nothing was kept"):
        convert(folder, tmp_path / "out.h5")
    assert list(tmp_path.iterdir()) == [folder]


def test_values_too_large_for_float16_name_the_file(tmp_path):
    folder = write_folder(tmp_path / "cones")
    write_modern(folder / "cone_9.h5", seed=9, tb=np.full_like(cone(), 1e6))
    with pytest.raises(ValueError, match=r"cone_9\.h5: .*do not fit float16"):
        convert(folder, tmp_path / "out.h5", dtype="float16")


def test_goes_on_after_a_kill(tmp_path):
    folder = write_folder(tmp_path / "cones")
    whole = convert(folder, tmp_path / "whole.h5")

    def kill(done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "out.h5", progress=kill)
    assert not pathlib.Path(tmp_path / "out.h5").exists()
    calls = []
    path = convert(folder, tmp_path / "out.h5", progress=lambda *done: calls.append(done))
    assert calls[0] == (1, 3)
    assert Database(path).scan().fingerprint == Database(whole).scan().fingerprint


def test_arguments_of_the_conversion(tmp_path):
    folder, out = write_folder(tmp_path / "cones"), tmp_path / "out.h5"
    with pytest.raises(ValueError, match=r"parameters: expected some of .*, got \[\]"):
        convert(folder, out, parameters=())
    with pytest.raises(ValueError, match=r"slices: 9 slices 6\.0 Mpc apart need"):
        convert(folder, out, slices=9)
    with pytest.raises(ValueError, match="dtype: expected one of"):
        convert(folder, out, dtype="int8")
    with pytest.raises(ValueError, match="sources: expected a folder or at least one file"):
        convert([], out)
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        convert(tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "note.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"expected light-cone files .*, got \['note.txt'\]"):
        convert(tmp_path / "empty", out)
    out.touch()
    with pytest.raises(FileExistsError, match="exists already"):
        convert(folder, out)
