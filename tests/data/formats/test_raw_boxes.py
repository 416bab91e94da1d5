import numpy as np
import pytest
from coeval_files import CELL_SIZE, CELLS, boxes, raw_names, write_raw

from keras_cosmo.data.formats import box_pieces
from keras_cosmo.data.formats.raw_boxes import RawBox, read_parameter_table
from keras_cosmo.slicing import slice_box

CUT = {"slabs": 3, "slab_cells": 2}
# Names as delta_T.c and perturb_field.c of the versions 1.2, 1.3, 2.0 and 2.1 print them.
OLD_END = "_nf0.970000_useTs1_zetaX2.0e+56_alphaX1.2_TvirminX1.0e+04_aveTb-12.30_Pop2_200_300Mpc"


@pytest.mark.parametrize(
    ("name", "field", "redshift", "axis"),
    [
        ("updated_smoothed_deltax_z010.16_200_300Mpc", "density", 10.16, None),
        ("delta_T_v3_z010.16_nf0.970000_useTs1_200_300Mpc", "brightness_temp", 10.16, 2),
        ("delta_T_v1_z020.18_nf1.000000_useTs0_200_300Mpc", "brightness_temp", 20.18, 0),
        ("delta_T_z015.78_nf0.970000_useTs1_200_300Mpc", "brightness_temp", 15.78, None),
        (f"delta_T_v3_z010.16{OLD_END}", "brightness_temp", 10.16, 2),
        (f"delta_T_v3_no_halos_z010.16{OLD_END}", "brightness_temp", 10.16, 2),
        (f"sphere_delta_T_v2_no_halos_z010.16{OLD_END}", "brightness_temp", 10.16, 1),
        (f"delta_T_no_halos_z010.16{OLD_END}", "brightness_temp", 10.16, None),
        (f"sphere_delta_T_z006.00{OLD_END}", "brightness_temp", 6.0, None),
    ],
)
def test_names(name, field, redshift, axis):
    box = RawBox.from_name(f"/somewhere/{name}")
    assert (box.field, box.redshift, box.velocity_axis) == (field, redshift, axis)
    assert (box.shape, box.cell_size) == ((200, 200, 200), 1.5)
    assert RawBox.redshift_of(name) == redshift


@pytest.mark.parametrize(
    "name",
    [
        "smoothed_deltax_z0.00_200_300Mpc",
        "updated_vz_z010.16_200_300Mpc",
        "delta_T_v3_z010.16_nf0.97_useTs1_200_300Mpc_lighttravel",
        "updated_smoothed_deltax_z010.16_200_300Mpc.part",
        "delta_T_v4_z010.16_nf0.97_useTs1_200_300Mpc",
        "xH_nohalos_z010.16_nf0.97_eff30_effPLindex0.0_HIIfilter1_RHIImax15_200_300Mpc",
    ],
)
def test_other_names_are_refused(name):
    assert RawBox.redshift_of(name) is None
    with pytest.raises(ValueError, match=r"expected a name such as updated_smoothed_deltax_z010.16_200_300Mpc"):
        RawBox.from_name(name)


def test_a_box_without_size_is_refused():
    with pytest.raises(ValueError, match="expected a positive number of cells and Mpc in the name"):
        RawBox.from_name("updated_smoothed_deltax_z010.16_200_0Mpc")


def test_order_of_the_axes(tmp_path):
    path = tmp_path / "updated_smoothed_deltax_z010.16_8_12Mpc"
    # HII_R_INDEX(x, y, z) of the C code is z + N (y + N x).
    (1 + np.arange(8**3)).astype("<f4").tofile(path)
    box = RawBox.from_file(path)
    assert (box.shape, box.cell_size) == ((8, 8, 8), 1.5)
    maps = box.maps(slabs=4, slab_cells=1)
    x, y = np.indices((8, 8))
    for slab in range(4):
        np.testing.assert_array_equal(maps[slab], 1 + 2 * slab + 8 * (y + 8 * x))


@pytest.mark.parametrize("piece_bytes", [1, 3000, 2**25])
def test_maps(tmp_path, monkeypatch, piece_bytes):
    monkeypatch.setattr(box_pieces, "PIECE_BYTES", piece_bytes)
    write_raw(tmp_path, seed=2)
    for field, name in raw_names().items():
        box = RawBox.from_file(tmp_path / name)
        assert box.cell_size == CELL_SIZE
        for projection in ("mean", "sum"):
            maps = box.maps(**CUT, projection=projection)
            assert maps.dtype == np.float32
            np.testing.assert_array_equal(maps, slice_box(boxes(2)[field], **CUT, projection=projection))


@pytest.mark.parametrize(
    ("change", "message"), [(-4, "is truncated: expected 6912 bytes"), (4, "is too long: expected")]
)
def test_files_of_another_size_are_refused(tmp_path, change, message):
    write_raw(tmp_path)
    path = tmp_path / raw_names()["density"]
    path.write_bytes(path.read_bytes()[:change] if change < 0 else path.read_bytes() + b"0" * change)
    with pytest.raises(ValueError, match=rf"_12_18Mpc: the file {message}"):
        RawBox.from_file(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        RawBox.from_file(tmp_path / raw_names()["density"])


def test_a_file_that_became_shorter_is_refused(tmp_path):
    write_raw(tmp_path)
    path = tmp_path / raw_names()["density"]
    box = RawBox.from_file(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="became shorter since it was opened"):
        box.maps(**CUT)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e7])
@pytest.mark.parametrize("field", ["density", "brightness_temp"])
def test_bad_pixels_are_refused(tmp_path, field, value):
    arrays = boxes()
    arrays[field][3, 4, 5] = value
    write_raw(tmp_path, arrays=arrays)
    with pytest.raises(ValueError, match=rf"expected finite values of {field} up to .* at cell \(3, 4, 5\)"):
        RawBox.from_file(tmp_path / raw_names()[field]).maps(**CUT)


def test_the_other_byte_order_is_refused(tmp_path):
    write_raw(tmp_path)
    path = tmp_path / raw_names()["brightness_temp"]
    boxes()["brightness_temp"].astype(">f4").tofile(path)
    with pytest.raises(ValueError, match="was written in another byte order"):
        RawBox.from_file(path).maps(**CUT)


def test_empty_density_is_refused(tmp_path):
    write_raw(tmp_path, arrays={**boxes(), "density": np.zeros((CELLS,) * 3, np.float32)})
    with pytest.raises(ValueError, match="the box of density holds only zeros"):
        RawBox.from_file(tmp_path / raw_names()["density"]).maps(**CUT)


def test_slabs_that_do_not_fit_name_the_file(tmp_path):
    write_raw(tmp_path)
    with pytest.raises(ValueError, match=r"Mpc: slabs: a box of 12 cells cannot be divided into 20"):
        RawBox.from_file(tmp_path / raw_names()["density"]).maps()


def test_parameter_table(tmp_path):
    path = tmp_path / "table.txt"
    path.write_text("# number, Mturn, L_X, N_gamma\n1 1e8 2e40 5000 7\n\n2 5e8 1e41 1e4 # last\n")
    table = read_parameter_table(path)
    np.testing.assert_allclose(table["log10_M_min"], np.log10([1e8, 5e8]))
    np.testing.assert_allclose(table["log10_L_X"], np.log10([2e40, 1e41]))
    np.testing.assert_allclose(table["log10_N_gamma"], np.log10([5000, 1e4]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one row per simulation, got an empty file"),
        ("1 1e8 2e40 5000\n1 1e8 2e40\n", "row 2: expected at least 4 columns, got 3"),
        ("1 1e8 2e40 many\n", "row 1: expected numbers, got '1 1e8 2e40 many'"),
        ("1 8.3 40.2 3.7\n", "row 1: expected M_min from 1e4 to 1e13, got 8.3. Give the values themselves, not their"),
        ("1 2e40 1e8 5000\n", "row 1: expected M_min from 1e4 to 1e13, got 2e.40"),
        ("1 1e8 nan 5000\n", "row 1: expected L_X from 1e35 to 1e45, got nan"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    path = tmp_path / "table.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"table\.txt: {message}"):
        read_parameter_table(path)


def test_missing_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt: there is no such file. Expected a table"):
        read_parameter_table(tmp_path / "nowhere.txt")
