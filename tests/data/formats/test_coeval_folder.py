import json
import logging
import pathlib

import numpy as np
import pytest
from coeval_files import CELL_SIZE, CELLS, COSMOLOGY, boxes, raw_names, write_modern, write_old, write_raw, write_runs

from keras_cosmo.data.database import Database
from keras_cosmo.data.formats.coeval_folder import convert_coeval
from keras_cosmo.data.formats.coeval_simulations import CoevalSimulation
from keras_cosmo.data.formats.py21cmfast_coeval import Py21cmfastCoeval
from keras_cosmo.quantities import Parameter
from keras_cosmo.slicing import slice_box

PARAMETERS = (
    Parameter(name="log10_L_X", low=40.0, high=41.0),
    Parameter(name="log10_M_min", low=8.0, high=9.0),
    Parameter(name="log10_N_gamma", low=3.0, high=4.0),
)
CUT = {"slabs": 3, "slab_cells": 2}
OPTIONS = {"parameters": PARAMETERS, "velocity_gradient": "included", **CUT}


def write_set(folder, *, count=3, redshifts=(10.0, 15.0), writer=write_modern, **options):
    """Several simulations with several redshifts each."""
    folder.mkdir(exist_ok=True)
    for simulation in range(count):
        for redshift in redshifts:
            seed = 10 + simulation
            writer(
                folder / f"coeval_{seed}_{redshift:g}.h5", seed=seed, redshift=redshift,
                arrays=boxes(1000 * seed + int(redshift)), astrophysics={"L_X": 40.0 + 0.1 * simulation}, **options,
            )  # fmt: skip
    return folder


@pytest.mark.parametrize("writer", [write_modern, write_old])
def test_files_of_two_redshifts(tmp_path, writer):
    seen = []
    out = convert_coeval(
        write_set(tmp_path / "boxes", writer=writer), tmp_path / "out.h5", progress=lambda *pair: seen.append(pair),
        **OPTIONS,
    )  # fmt: skip
    assert out == tmp_path / "out.h5"
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    database = Database(out).require("matter", ("brightness_temp_z10", "density_z15"), [p.name for p in PARAMETERS])
    assert list(database.fields) == ["brightness_temp_z10", "brightness_temp_z15", "density_z10", "density_z15"]
    assert (database.fields["brightness_temp_z10"].unit, database.fields["density_z10"].unit) == ("mK", "")
    assert database.n_maps == 9
    np.testing.assert_array_equal(database.simulation, np.repeat([0, 1, 2], 3))
    np.testing.assert_allclose(database.parameter_values[:, 0], [40.0, 40.1, 40.2])
    np.testing.assert_allclose(database.parameter_values[:, 1:], [[8.7, np.log10(5000)]] * 3)
    for simulation in range(3):
        for redshift in (10, 15):
            arrays = boxes(1000 * (10 + simulation) + redshift)
            for field in ("brightness_temp", "density"):
                maps = database.read(f"{field}_z{redshift}", np.arange(3) + 3 * simulation)
                np.testing.assert_array_equal(maps, slice_box(arrays[field], **CUT))


def test_attributes(tmp_path):
    out = convert_coeval(write_set(tmp_path / "boxes"), tmp_path / "out.h5", dtype="float16", **OPTIONS)
    attributes = Database(out).attributes
    np.testing.assert_array_equal(attributes["redshifts"], [10.0, 15.0])
    np.testing.assert_array_equal(attributes["seeds"], [10, 11, 12])
    assert (attributes["cell_size"], attributes["cell_size_units"]) == (CELL_SIZE, "Mpc")
    assert (attributes["slab_cells"], attributes["projection"]) == (2, "mean")
    assert attributes["periodic_across_sky"]
    assert json.loads(attributes["cosmology"]) == {**COSMOLOGY, "SIGMA_8": 0.81}
    assert (attributes["simulator"], attributes["simulator_version"]) == ("py21cmfast", "4.1.1")
    assert "in redshift space as in the files" in attributes["description"]
    assert "18 Mpc wide; 3 slabs of 2 cells per box, mean" in attributes["description"]


def test_some_redshifts_some_labels_and_the_sum(tmp_path):
    folder = write_set(tmp_path / "boxes", redshifts=(10.0, 12.304, 15.0))
    options = {**OPTIONS, "parameters": PARAMETERS[1:2], "projection": "sum"}
    database = Database(convert_coeval(folder, tmp_path / "out.h5", redshifts=(15, 12.3), **options))
    assert list(database.fields) == ["brightness_temp_z12.304", "brightness_temp_z15", "density_z12.304", "density_z15"]
    assert database.parameter_names == ("log10_M_min",)
    expected = slice_box(boxes(11012)["density"], **CUT, projection="sum")
    np.testing.assert_array_equal(database.read("density_z12.304", [3, 4, 5]), expected)


def write_cache(folder, seeds=(1, 2), redshifts=(10.0, 15.0)):
    """Folders as the cache of 21cmFAST 4 has them."""
    for seed in seeds:
        for redshift in redshifts:
            place = folder / "hash" / str(seed) / "hash" / f"{redshift:.4f}"
            (place / "hash").mkdir(parents=True)
            common = {"seed": seed, "redshift": redshift, "arrays": boxes(100 * seed + int(redshift))}
            # The matter box was made by another run, with other sources.
            write_modern(place / "PerturbedField.h5", only="PerturbedField", astrophysics={"L_X": 39.0}, **common)
            write_modern(place / "hash" / "BrightnessTemp.h5", only="BrightnessTemp", **common)
            write_modern(place / "hash" / "IonizedBox.h5", only="IonizedBox", **common)
    return folder


def test_cache(tmp_path):
    database = Database(
        convert_coeval(
            write_cache(tmp_path / "cache"),
            tmp_path / "out.h5",
            redshifts=15,
            **{**OPTIONS, "velocity_gradient": "apply"},
        )
    )
    np.testing.assert_allclose(database.parameter_values[:, 0], 40.5)
    np.testing.assert_array_equal(database.attributes["seeds"], [1, 2])
    np.testing.assert_array_equal(database.read("density_z15", [3, 4, 5]), slice_box(boxes(215)["density"], **CUT))
    raw = slice_box(boxes(215)["brightness_temp"], **CUT)
    difference = np.abs(database.read("brightness_temp_z15", [3, 4, 5]) - raw)
    assert difference.max() > 0.1
    assert "applied when converted" in database.attributes["description"]


def test_the_folders_of_the_paper(tmp_path):
    folder = write_runs(tmp_path / "runs", count=11)
    # What else lies about in such folders.
    (folder / "Simulation_1" / "Boxes" / "updated_vz_z010.16_12_18Mpc").write_bytes(b"velocities")
    (folder / "Simulation_1" / "Log_files").mkdir()
    options = {**OPTIONS, "velocity_gradient": None}
    database = Database(convert_coeval(folder, tmp_path / "out.h5", redshifts=(10.16,), **options))
    assert list(database.fields) == ["brightness_temp_z10.16", "density_z10.16"]
    # By number, not by name: Simulation_2 before Simulation_10.
    factor = np.log10(1 + np.arange(11))
    np.testing.assert_allclose(database.parameter_values, np.stack([40 + factor, 8 + factor, 3 + factor], axis=1))
    maps = database.read("brightness_temp_z10.16", [3, 4, 5])
    np.testing.assert_array_equal(maps, slice_box(boxes(200)["brightness_temp"], **CUT))
    assert "seeds" not in database.attributes
    assert "cosmology" not in database.attributes
    assert database.cell_size == CELL_SIZE
    assert database.attributes["simulator"] == "21cmFAST"


def test_boxes_without_header_and_without_labels(tmp_path):
    for number in (1, 2):
        write_raw(tmp_path / f"run_{number}", seed=number)
    folders = [tmp_path / "run_1", tmp_path / "run_2"]
    with pytest.raises(ValueError, match=r"parameter_table: boxes without header do not hold their parameters"):
        convert_coeval(folders, tmp_path / "out.h5", **OPTIONS)
    database = Database(convert_coeval(folders, tmp_path / "out.h5", **{**OPTIONS, "parameters": ()}))
    assert (database.n_simulations, database.parameter_names) == (2, ())
    table = tmp_path / "table.txt"
    table.write_text("1 1e8 1e40 1e3\n2 2e8 2e40 2e3\n")
    database = Database(convert_coeval(folders, tmp_path / "labels.h5", parameter_table=table, **OPTIONS))
    np.testing.assert_allclose(database.parameter_values[:, 1], np.log10([1e8, 2e8]))


def test_of_boxes_with_and_without_velocities_the_wanted_are_taken(tmp_path):
    real_space = boxes(7)
    for number in (1, 2):
        folder = write_raw(tmp_path / f"run_{number}", seed=number)
        name = raw_names()["brightness_temp"].replace("_v3", "")
        real_space["brightness_temp"].astype("<f4").tofile(folder / name)
    folders, options = [tmp_path / "run_1", tmp_path / "run_2"], {**OPTIONS, "parameters": ()}
    for state, expected in (("included", boxes(1)), (None, boxes(1)), ("absent", real_space)):
        out = convert_coeval(folders, tmp_path / f"{state}.h5", **{**options, "velocity_gradient": state})
        maps = Database(out).read("brightness_temp_z10.16", [0, 1, 2])
        np.testing.assert_array_equal(maps, slice_box(expected["brightness_temp"], **CUT))


def test_resumes_after_a_kill(tmp_path, monkeypatch):
    folder, out = write_set(tmp_path / "boxes"), tmp_path / "out.h5"
    original, calls = CoevalSimulation.maps, []

    def dies(self, *arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(self.name)
        return original(self, *arguments)

    monkeypatch.setattr(CoevalSimulation, "maps", dies)
    with pytest.raises(KeyboardInterrupt):
        convert_coeval(folder, out, **OPTIONS)
    assert not out.exists()
    seen = []
    monkeypatch.setattr(CoevalSimulation, "maps", lambda self, *a: seen.append(self.name) or original(self, *a))
    convert_coeval(folder, out, **OPTIONS)
    assert len(seen) == 1
    assert "coeval_12" in seen[0]
    whole = convert_coeval(folder, tmp_path / "whole.h5", **OPTIONS)
    assert out.read_bytes() == whole.read_bytes()


def other(tmp_path, **options):
    """A set of three, with a file more that does not fit."""
    folder = write_set(tmp_path / "boxes", redshifts=(10.0,))
    write_modern(folder / "extra.h5", **{"seed": 99, "redshift": 10.0, **options})
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arrays": boxes(1, 8)}, r"extra\.h5 and .*coeval_10_10\.h5 do not belong together: expected the same shape"),
        ({"simulation": {"BOX_LEN": 24.0}}, r"extra\.h5 and .*: expected the same cell size in Mpc, got 2 and 1.5"),
        ({"cosmology": {"OMm": 0.3}}, r"extra\.h5 and .*: expected the same cosmology, got {'OMm': .*0.3.*0.31"),
        ({"redshift": 11.0}, r"extra\.h5 and .* have other redshifts: expected 21-cm boxes at z = 10, got z = 11"),
        ({"seed": 10, "astrophysics": {"L_X": 40.0}}, r"hold the same simulation: random seed 10, redshift 10 and all"),
        ({"seed": 10}, r"share a random seed, .*: .*extra\.h5 and .*coeval_10_10\.h5 \(seed 10\)\. A network"),
        ({"flags": {"USE_TS_FLUCT": False}}, r"extra\.h5: log10_L_X = 40.5 cannot be a label: .*\(1 of 4 files\)"),
        ({"arrays": {"density": boxes()["density"]}}, r"extra\.h5: no 21-cm box belongs .* seed is 99, .*\[10, 11"),
        (
            {"arrays": {"brightness_temp": boxes()["brightness_temp"]}},
            r"extra\.h5: no matter box belongs .*: expected one at z = 10 with random seed 99, got .* none",
        ),
    ],
)  # fmt: skip
def test_files_that_do_not_belong_together(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        convert_coeval(other(tmp_path, **options), tmp_path / "out.h5", **OPTIONS)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arrays": boxes(1, 8)}, "shape, got"),
        ({"simulation": {"BOX_LEN": 24.0}}, "box length in Mpc, got 18 and 24"),
        ({"cosmology": {"hlittle": 0.7}}, "cosmology, got"),
        ({"simulation": {"DIM": 48}}, "simulation_options.DIM, got 36 and 48"),
        ({"seed": 2}, None),
        ({"redshift": 11.0}, None),
    ],
)
def test_matter_of_another_run_is_refused(tmp_path, options, message):
    folder = tmp_path / "boxes"
    folder.mkdir()
    write_modern(folder / "tb.h5", only="BrightnessTemp")
    write_modern(folder / "matter.h5", only="PerturbedField", **options)
    expected = rf"tb\.h5 and .*matter\.h5 do not belong together though .*: expected the same {message}"
    if message is None:
        expected = r"(matter\.h5: no 21-cm box belongs .* seed is 2|tb\.h5: no matter box belongs)"
    with pytest.raises(ValueError, match=expected):
        convert_coeval(folder, tmp_path / "out.h5", **OPTIONS)


def test_the_same_matter_twice(tmp_path):
    folder = tmp_path / "boxes"
    folder.mkdir()
    write_modern(folder / "tb.h5", only="BrightnessTemp")
    for name in ("a.h5", "b.h5"):
        write_modern(folder / name, only="PerturbedField")
    with pytest.raises(ValueError, match=r"a\.h5 and .*b\.h5 hold the same matter box: random seed 1, redshift 10"):
        convert_coeval(folder, tmp_path / "out.h5", **OPTIONS)


def test_matter_alone(tmp_path):
    folder = tmp_path / "boxes"
    folder.mkdir()
    write_modern(folder / "matter.h5", only="PerturbedField")
    with pytest.raises(ValueError, match=r"expected boxes of brightness temperature, got matter alone in 1 files"):
        convert_coeval(folder, tmp_path / "out.h5", **OPTIONS)


def test_repeated_seeds_can_be_allowed(tmp_path, caplog):
    # Of one run and of another with other sources; in the cache both have one matter box.
    folder = write_cache(tmp_path / "cache", redshifts=(10.0,))
    place = folder / "hash" / "1" / "hash" / "10.0000" / "other"
    place.mkdir()
    write_modern(place / "BrightnessTemp.h5", only="BrightnessTemp", astrophysics={"L_X": 40.1}, arrays=boxes(110))
    with pytest.raises(ValueError, match=r"share a random seed"):
        convert_coeval(folder, tmp_path / "out.h5", **OPTIONS)
    with caplog.at_level(logging.WARNING):
        out = convert_coeval(folder, tmp_path / "out.h5", allow_repeated_seeds=True, **OPTIONS)
    assert "1 of 3 simulations share a random seed with another one" in caplog.text
    database = Database(out)
    np.testing.assert_array_equal(database.read("density_z10", [0, 1, 2]), database.read("density_z10", [3, 4, 5]))


def test_other_settings_and_versions_are_warned_of(tmp_path, caplog):
    folder = other(tmp_path, astrophysics={"F_STAR10": -1.0}, flags={"INHOMO_RECO": True})
    write_modern(folder / "extra_2.h5", seed=98, astrophysics={"F_STAR10": -1.3}, flags={"INHOMO_RECO": False})
    write_modern(folder / "a_first.h5", seed=97, astrophysics={"F_STAR10": -1.3}, flags={"INHOMO_RECO": False})
    write_old(folder / "b_old.h5", seed=96)
    with caplog.at_level(logging.WARNING):
        convert_coeval(folder, tmp_path / "out.h5", **OPTIONS)
    assert "Settings other than the labels differ between the simulations: astro_options.INHOMO_RECO" in caplog.text
    assert "astro_params.F_STAR10" in caplog.text
    assert "several versions of 21cmFAST come together: 3.3.1, 4.1.1" in caplog.text


def test_redshifts_are_checked(tmp_path):
    folder = write_set(tmp_path / "boxes")
    for redshifts, message in (
        ((12,), r"there is no box at z = 12 in .*coeval_10_10\.h5, which has z = 10, 15. Ask for some of these"),
        ((10, 10.004), r"redshifts: expected at least one, each once, got \[10, 10.004\]"),
        ((), "redshifts: expected at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            convert_coeval(folder, tmp_path / "out.h5", redshifts=redshifts, **OPTIONS)
    (folder / "coeval_11_15.h5").unlink()
    with pytest.raises(ValueError, match=r"coeval_11_10\.h5 and .* have other redshifts: .* z = 10, 15, got z = 10\."):
        convert_coeval(folder, tmp_path / "out.h5", **OPTIONS)
    assert Database(convert_coeval(folder, tmp_path / "out.h5", redshifts=(10,), **OPTIONS)).n_simulations == 3


@pytest.mark.parametrize(
    ("writer", "options", "state", "message"),
    [
        (write_modern, {}, None, "does not say whether velocities are included .* 'apply' corrects boxes as Coeval"),
        (
            write_old,
            {},
            "apply",
            "velocities are included in its brightness temperature, but velocity_gradient is 'appl",
        ),
        (write_old, {}, "absent", "velocities are included .* is 'absent'"),
        (write_old, {"global_parameters": {"T_USE_VELOCITIES": 0}}, None, "is in real space, .* is None"),
        (write_old, {"global_parameters": {"T_USE_VELOCITIES": 0}}, "included", "is in real space, without velocities"),
        (
            write_modern,
            {"arrays": {k: v for k, v in boxes().items() if k != "velocity_z"}},
            "apply",
            "the velocity gradient needs the box velocity_z",
        ),
    ],
)
def test_state_of_the_velocities(tmp_path, writer, options, state, message):
    writer(tmp_path / "a.h5", **options)
    with pytest.raises(ValueError, match=rf"a\.h5: .*{message}"):
        convert_coeval(tmp_path / "a.h5", tmp_path / "out.h5", **{**OPTIONS, "velocity_gradient": state})


def test_real_space_on_request_and_as_the_files_say(tmp_path):
    write_old(tmp_path / "a.h5", global_parameters={"T_USE_VELOCITIES": 0})
    out = convert_coeval(tmp_path / "a.h5", tmp_path / "real.h5", **{**OPTIONS, "velocity_gradient": "absent"})
    assert "in real space, without velocity gradient" in Database(out).attributes["description"]
    write_old(tmp_path / "b.h5")
    out = convert_coeval(tmp_path / "b.h5", tmp_path / "redshift.h5", **{**OPTIONS, "velocity_gradient": None})
    assert "in redshift space" in Database(out).attributes["description"]


def test_boxes_of_the_c_code_are_checked(tmp_path):
    folder = write_runs(tmp_path / "runs")
    run = folder / "Simulation_2" / "Boxes"
    matter = run / raw_names("010.16")["density"]
    content = matter.read_bytes()
    convert = {**OPTIONS, "redshifts": (10.16,)}
    matter.write_bytes(content[:-4])
    with pytest.raises(ValueError, match=r"Simulation_2/Boxes/updated_.*010.16_12_18Mpc: the file is truncated"):
        convert_coeval(folder, tmp_path / "out.h5", **convert)
    # Of a redshift that is not asked for, nobody cares.
    assert convert_coeval(folder, tmp_path / "late.h5", **{**OPTIONS, "redshifts": (15.78,)}).exists()
    matter.unlink()
    with pytest.raises(ValueError, match=r"no matter box belongs .* at z = 10.16, got matter boxes at z = none"):
        convert_coeval(folder, tmp_path / "out.h5", **convert)
    (run / matter.name.replace("18Mpc", "24Mpc")).write_bytes(content)
    with pytest.raises(ValueError, match=r"do not belong together: expected the same box length in Mpc, got 18 and 24"):
        convert_coeval(folder, tmp_path / "out.h5", **convert)
    matter.write_bytes(content)
    with pytest.raises(ValueError, match=r"are both boxes of density at z = 10.16. Move one elsewhere"):
        convert_coeval(folder, tmp_path / "out.h5", **convert)


def test_runs_of_the_c_code_are_checked(tmp_path):
    folder = write_runs(tmp_path / "runs", redshifts=("010.16",))
    table = folder / "params_simulation_mturn_lumx_ngamma.txt"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:2]))
    with pytest.raises(ValueError, match=r"Simulation_3: expected a folder whose name ends in a number from 1 to 2"):
        convert_coeval(folder, tmp_path / "out.h5", **OPTIONS)
    table.write_text("\n".join(lines))
    (folder / "Simulation_4" / "Boxes").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"Simulation_4/Boxes: expected boxes delta_T_.* Remove the folder"):
        convert_coeval(folder, tmp_path / "out.h5", **OPTIONS)
    write_raw(folder / "Simulation_4" / "Boxes")
    (folder / "Simulation_4" / "Boxes" / raw_names()["brightness_temp"]).unlink()
    with pytest.raises(ValueError, match=r"Simulation_4: expected boxes of brightness temperature .* matter alone"):
        convert_coeval(folder, tmp_path / "out.h5", **OPTIONS)


def test_other_lines_of_sight_are_refused(tmp_path):
    folder = write_raw(tmp_path / "run_1")
    (folder / raw_names()["brightness_temp"]).rename(folder / raw_names()["brightness_temp"].replace("v3", "v1"))
    with pytest.raises(ValueError, match=r"velocities are included along axis 0, expected the last one"):
        convert_coeval(folder, tmp_path / "out.h5", **{**OPTIONS, "parameters": ()})


@pytest.mark.parametrize("value", [np.nan, 1e6])
def test_bad_pixels_leave_nothing_behind(tmp_path, value):
    folder = write_set(tmp_path / "boxes")
    arrays = boxes(12015)
    arrays["brightness_temp"][0, 0, 0] = value
    write_modern(folder / "coeval_12_15.h5", seed=12, redshift=15.0, arrays=arrays, astrophysics={"L_X": 40.2})
    message = "expected finite values" if np.isnan(value) else "do not fit float16"
    with pytest.raises(ValueError, match=rf"coeval_12_1[05]\.h5: .*{message}.* Nothing was kept of .*out\.h5"):
        convert_coeval(folder, tmp_path / "out.h5", **OPTIONS, dtype="float16")
    assert not list(tmp_path.glob("out*"))


def test_arguments_are_checked(tmp_path):
    folder, out = write_set(tmp_path / "boxes"), tmp_path / "out.h5"
    zeta = Parameter(name="zeta", low=0.0, high=1.0)
    for options, error, message in (
        ({"parameters": (zeta,)}, ValueError, r"parameters: expected some of \['log10_L_X', .*got \['zeta'\]"),
        ({"parameters": PARAMETERS[:1] * 2}, ValueError, "each at most once"),
        ({"projection": "max"}, ValueError, "projection: expected one of"),
        ({"velocity_gradient": "yes"}, ValueError, r"velocity_gradient: expected one of \['included', 'apply', 'abs"),
        ({"slabs": 20}, ValueError, r"coeval_10_10\.h5: slabs: a box of 12 cells cannot be divided into 20 equal"),
        ({"slab_cells": 5}, ValueError, r"coeval_10_10\.h5: slab_cells: 3 slabs of 5 cells overlap"),
        ({"slabs": 3.0}, TypeError, "slabs: expected an integer"),
        ({"dtype": "int8"}, ValueError, "dtype: expected one of"),
        ({"parameter_table": tmp_path / "t.txt"}, ValueError, "parameter_table: expected none, since these files hold"),
    ):
        with pytest.raises(error, match=message):
            convert_coeval(folder, out, **{**OPTIONS, **options})
    out.write_text("something")
    with pytest.raises(FileExistsError, match="exists already"):
        convert_coeval(folder, out, **OPTIONS)


def test_sources_are_checked(tmp_path):
    out = tmp_path / "out.h5"
    with pytest.raises(ValueError, match="sources: expected a folder or at least one file, got an empty list"):
        convert_coeval([], out, **OPTIONS)
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such file or folder"):
        convert_coeval(tmp_path / "nowhere", out, **OPTIONS)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "note.txt").write_text("x")
    with pytest.raises(
        FileNotFoundError, match=r"folder: expected files ending in .h5 or .hdf5, .* got \['note.txt'\]"
    ):
        convert_coeval(folder, out, **OPTIONS)
    with pytest.raises(ValueError, match=r"note\.txt: expected an HDF5 file"):
        convert_coeval(folder / "note.txt", out, **OPTIONS)
    mixed = [write_raw(tmp_path / "run_1"), write_modern(tmp_path / "a.h5")]
    with pytest.raises(ValueError, match=r"12_18Mpc and .*a\.h5 do not belong together: one is a box without header"):
        convert_coeval(mixed, out, **OPTIONS)


def test_large_boxes_are_read_once(tmp_path, monkeypatch):
    reads = []
    original = Py21cmfastCoeval._read
    monkeypatch.setattr(
        Py21cmfastCoeval, "_read", lambda self, *piece: reads.append((pathlib.Path(self.path).name, *piece))
        or original(self, *piece),
    )  # fmt: skip
    convert_coeval(write_set(tmp_path / "boxes", count=1, redshifts=(10.0,)), tmp_path / "out.h5", **OPTIONS)
    assert reads == [("coeval_10_10.h5", field, 0, CELLS) for field in ("brightness_temp", "density")]
