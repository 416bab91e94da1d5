import dataclasses
import json
import logging

import numpy as np
import pytest
import scipy.stats

from keras_cosmo.data.database import Database
from keras_cosmo.data.database_writer import DatabaseWriter, partial_path
from keras_cosmo.data.formats.camels import (
    CAMELS_COLUMNS,
    CAMELS_FIELDS,
    CAMELS_PARAMETERS,
    convert_camels,
    open_camels_maps,
    read_camels_parameters,
)
from keras_cosmo.simulations.hydrogen import HYDROGEN_PARAMETERS, SURFACE_DENSITY_UNIT

NAMES = [parameter.name for parameter in CAMELS_PARAMETERS]
COUNT, SIDE = 4, 16
# Three of the real table, the first of its 1000 rows, and one made up.
ROWS = np.array(
    [
        [0.309, 0.979, 3.11234, 1.12194, 0.6685, 0.53182],
        [0.3026, 0.9394, 3.42001, 3.96137, 1.03311, 1.1607],
        [0.4282, 0.753, 0.70613, 0.37423, 1.96292, 0.6272],
        [0.1154, 0.8234, 1.23, 2.2, 0.9, 1.5],
    ]
)
# The Latin hypercubes are uniform in these.
LABELS = np.c_[ROWS[:, :2], np.log10(ROWS[:, 2:])]


def write_maps(path, *, count=COUNT, side=SIDE, change=()):
    """Maps that say which they are: 10^(simulation % 30 + map / 100), times a pattern of mean 1."""
    numbers = np.arange(15 * count)
    pattern = 1.0 + 0.5 * np.sin(np.arange(side**2) * np.pi * 2.0 / side**2).reshape(side, side)
    maps = 10.0 ** (numbers // 15 % 30 + 0.01 * (numbers % 15))[:, None, None] * pattern
    for index, value in change:
        maps[index] = value
    np.save(path, maps.astype(np.float32))
    return path


def write_plain(path, rows=ROWS):
    np.savetxt(path, rows, fmt="%.5f")
    return path


def write_seeds(
    path, rows=ROWS, label="LH", header="#Name  Omega_m  sigma_8  A_SN1  A_AGN1  A_SN2  A_AGN2  seed", seeds=None
):
    seeds = range(5, 5 + len(rows)) if seeds is None else seeds
    lines = [
        f"  {label}_{i} {' '.join(f'{value:.5f}' for value in row)} {seed}"
        for i, (row, seed) in enumerate(zip(rows, seeds, strict=True))
    ]
    path.write_text("\n".join([header, *lines]) + "\n\n")
    return path


def write_csv(path, rows=ROWS):
    lines = [f"LH_{i},{','.join(map(str, row))},{i}" for i, row in enumerate(rows.tolist())]
    path.write_text("Name,,,,,,,seed\n" + "\n".join(lines))
    return path


@pytest.fixture
def maps(tmp_path):
    return write_maps(tmp_path / "Maps_HI_IllustrisTNG_LH_z=0.00.npy")


@pytest.fixture
def table(tmp_path):
    return write_plain(tmp_path / "params_LH_IllustrisTNG.txt")


def expected_maps():
    numbers = np.arange(15 * COUNT)
    return 10.0 ** (numbers // 15 + 0.01 * (numbers % 15))


def test_every_form_of_table_holds_the_same(tmp_path):
    plain = read_camels_parameters(write_plain(tmp_path / "params_IllustrisTNG.txt"))
    seeds = read_camels_parameters(write_seeds(tmp_path / "CosmoAstroSeed_IllustrisTNG_L25n256_LH.txt"))
    csv = read_camels_parameters(write_csv(tmp_path / "CAMELs_params.csv"))
    for each in (plain, seeds, csv):
        assert tuple(each.columns) == CAMELS_COLUMNS
        assert each.rows == COUNT
        np.testing.assert_allclose(np.stack(list(each.columns.values()), axis=1), ROWS, atol=1e-9)
    assert plain.seeds is None
    assert seeds.seeds.tolist() == [5, 6, 7, 8]
    assert csv.seeds.tolist() == [0, 1, 2, 3]


def test_other_forms_of_table(tmp_path):
    two = read_camels_parameters(write_plain(tmp_path / "two.txt", ROWS[:, :2]))
    assert list(two.columns) == NAMES[:2]
    path = tmp_path / "named.txt"
    np.savetxt(path, ROWS[:, [1, 0]], header="sigma_8 Omega_m")
    np.testing.assert_allclose(read_camels_parameters(path).columns["Omega_m"], ROWS[:, 0])
    path.write_text("# made by hand\n#\nLH_0 0.3 0.8\nLH_1 0.2 0.7\n")
    np.testing.assert_allclose(read_camels_parameters(path).columns["sigma_8"], [0.8, 0.7])
    path.write_text("#Name Omega_m sigma_8 Omega_b seed\n1P_p1_n2 0.1 0.8 0.049 67\n1P_p1_n1 0.2 0.8 0.01 67\n")
    one = read_camels_parameters(path)
    assert list(one.columns) == ["Omega_m", "sigma_8", "Omega_b"]
    assert one.seeds.tolist() == [67, 67]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("# only a comment\n", "expected one row of parameters per simulation, got none"),
        ("0.3 0.8 1 1 1 1\n0.3 0.8 1\n", "line 2: expected 6 columns, got 3"),
        ("0.3\n", "expected columns with names, or 2 to 6 without .* got 1 without"),
        ("0.3 0.8 1 1 1 1 1\n", "got 7 without. Name them in the first line, such as '#Name Omega_m"),
        ("0.3 nan\n", "line 1: expected sigma_8 to be a finite number, got 'nan'"),
        ("LH_0 0.3 high\n", "line 1: expected sigma_8 to be a finite number, got 'high'"),
        ("0.8 0.3\n3.0 0.3\n", r"line 2: expected Omega_m in \[0.02, 1\], got 3. Are the columns in another order"),
        ("LH_0 0.3 0.8\nLH_2 0.3 0.8\n", "line 2: expected simulation 1, since map i is of row i // 15, got LH_2"),
        ("#Name Omega_m sigma_8\n0.3 0.8\n", "expected a name for each of the 2 columns, got 3 names"),
        ("#Name Omega_m A_SN1\nLH_0 0.3 0.8\n", "expected the columns Omega_m and sigma_8, got Name Omega_m A_SN1"),
        ("#Name Omega_m sigma_8 sigma_8\nLH_0 1 1 1\n", "expected columns of different names"),
        ("Name,Omega_m,,\nLH_0,0.3,0.8,1\n", "got 2 without"),
    ],
)
def test_wrong_tables(tmp_path, text, match):
    path = tmp_path / "params.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=match) as error:
        read_camels_parameters(path)
    assert "params.txt" in str(error.value)


def test_missing_files(tmp_path, maps, table):
    with pytest.raises(FileNotFoundError, match="there is no such table of parameters"):
        convert_camels(maps, tmp_path / "no.txt", tmp_path / "o.h5")
    with pytest.raises(FileNotFoundError, match="there is no such file of maps"):
        convert_camels(tmp_path / "Maps_HI_SIMBA_LH_z=0.00.npy", table, tmp_path / "o.h5")


def test_wrong_map_files(tmp_path):
    path = tmp_path / "a.npy"
    path.write_text("no maps")
    with pytest.raises(ValueError, match=r"expected an array in the .npy format, complete"):
        open_camels_maps(path)
    np.save(path, np.ones((15, 8, 8)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="download it again"):
        open_camels_maps(path)
    np.save(path, np.ones((15, 8, 8), complex))
    with pytest.raises(ValueError, match="expected maps of real numbers, got complex128"):
        open_camels_maps(path)
    for shape in ((15, 8, 8, 1), (15, 8, 9), (0, 8, 8), (8, 8)):
        np.save(path, np.ones(shape))
        with pytest.raises(ValueError, match="expected maps of shape"):
            open_camels_maps(path)


def test_database_of_all_maps(tmp_path, maps, table):
    calls = []
    out = convert_camels(maps, table, tmp_path / "hi.h5", side=8, progress=lambda *call: calls.append(call))
    assert calls == [(done, COUNT) for done in range(COUNT + 1)]
    database = Database(out).require("higlow", ("hi",))
    assert database.parameters == CAMELS_PARAMETERS
    assert database.parameter_names == (
        "Omega_m", "sigma_8", "log10_A_SN1", "log10_A_AGN1", "log10_A_SN2", "log10_A_AGN2",
    )  # fmt: skip
    np.testing.assert_allclose(database.parameter_values, LABELS, atol=1e-9)
    np.testing.assert_array_equal(database.simulation, np.repeat(np.arange(COUNT), 15))
    assert database.fields["hi"].unit == "Msun/h (Mpc/h)^-2"
    assert database.fields["hi"].shape == (8, 8)
    stored = database.read("hi", np.arange(60))
    original = np.load(maps).reshape(60, 8, 2, 8, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(stored, original, rtol=1e-6)
    np.testing.assert_allclose(stored.mean(axis=(1, 2)), expected_maps(), rtol=1e-5)
    attributes = database.attributes
    assert database.redshifts.tolist() == [0.0]
    assert (database.cell_size, attributes["cell_size_units"]) == (25.0 / 8, "Mpc/h")
    assert attributes["periodic_across_sky"]
    assert (attributes["simulator"], attributes["simulator_version"]) == ("CAMELS", "IllustrisTNG LH")
    assert json.loads(attributes["cosmology"]) == {"hlittle": 0.6711, "OMb": 0.049, "POWER_INDEX": 0.9624}
    assert attributes["simulation_numbers"].tolist() == [0, 1, 2, 3]
    assert "averaged from 16 x 16" in attributes["description"]
    assert "seeds" not in attributes


def test_files_of_higlow(tmp_path):
    maps = write_maps(tmp_path / "Images_HI_IllustrisTNG_z=5.99.npy")
    out = convert_camels(
        maps, write_csv(tmp_path / "CAMELs_params.csv"), tmp_path / "hi.h5", side=None, parameter_names=NAMES[:2]
    )
    database = Database(out)
    assert database.redshifts.tolist() == [5.99]
    assert database.parameters == HYDROGEN_PARAMETERS
    assert database.attributes["seeds"].tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(database.read("hi", np.arange(60)), np.load(maps))


def test_units_are_those_of_the_embedded_simulator():
    assert CAMELS_FIELDS["HI"][0] == SURFACE_DENSITY_UNIT
    assert CAMELS_PARAMETERS[:2] == HYDROGEN_PARAMETERS


@pytest.mark.parametrize("side", [5, 7, 11])
def test_averages_over_parts_of_pixels(tmp_path, table, side):
    generator = np.random.default_rng(0)
    maps = tmp_path / "Maps_HI_IllustrisTNG_LH_z=0.00.npy"
    np.save(maps, generator.uniform(1.0, 2.0, (60, SIDE, SIDE)).astype(np.float32))
    stored = Database(convert_camels(maps, table, tmp_path / "o.h5", side=side)).read("hi", np.arange(60))
    # Every pixel cut into side x side: then whole blocks are averaged.
    fine = np.load(maps)[:2].repeat(side, axis=1).repeat(side, axis=2).astype(float)
    np.testing.assert_allclose(stored[:2], fine.reshape(2, side, SIDE, side, SIDE).mean(axis=(2, 4)), rtol=1e-5)
    np.testing.assert_allclose(stored.mean(axis=(1, 2)), np.load(maps).mean(axis=(1, 2)), rtol=1e-5)


def test_some_simulations_and_parameters(tmp_path, maps):
    seeds = write_seeds(tmp_path / "CosmoAstroSeed_IllustrisTNG_LH.txt")
    out = convert_camels(
        maps, seeds, tmp_path / "o.h5", simulations=(3, 1), parameter_names=("sigma_8", "A_AGN2"), side=None
    )
    database = Database(out)
    assert database.parameter_names == ("sigma_8", "log10_A_AGN2")
    np.testing.assert_allclose(database.parameter_values, LABELS[[1, 3]][:, [1, 5]], atol=1e-9)
    np.testing.assert_allclose([each.high for each in database.parameters], [1.0, np.log10(2.0)])
    np.testing.assert_array_equal(database.read("hi", np.arange(30)), np.load(maps)[np.r_[15:30, 45:60]])
    assert database.attributes["seeds"].tolist() == [6, 8]
    assert database.attributes["simulation_numbers"].tolist() == [1, 3]
    assert "2 of 4 simulations" in database.attributes["description"]


@pytest.mark.parametrize(
    ("name", "field", "version"),
    [
        ("Maps_Mgas_SIMBA_CV_z=0.00.npy", "mgas", "SIMBA CV"),
        ("Maps_T_Astrid_1P_z=1.50.npy", "t", "Astrid 1P"),
        ("Maps_Mtot_Nbody_IllustrisTNG_LH_z=0.00.npy", "mtot", "Nbody_IllustrisTNG LH"),
        ("Maps_Mtot_Nbody_LH_z=0.00.npy", "mtot", "Nbody LH"),
        ("Maps_ne_Swift-EAGLE_SB28_z=0.00.npy", "ne", "Swift-EAGLE SB28"),
        ("Images_HI_IllustrisTNG_z=5.99.npy", "hi", "IllustrisTNG"),
    ],
)
def test_names_say_field_suite_and_set(tmp_path, name, field, version):
    table = write_plain(tmp_path / "parameters.txt")
    out = convert_camels(write_maps(tmp_path / name), table, tmp_path / "o.h5", side=None)
    database = Database(out)
    assert list(database.fields) == [field]
    assert database.attributes["simulator_version"] == version
    # Simulations without gas know nothing of feedback.
    assert database.parameter_names == tuple(NAMES[:2] if "Nbody" in name else NAMES)


def test_arguments_say_what_the_name_does_not(tmp_path, table):
    maps = write_maps(tmp_path / "hydrogen.npy")
    with pytest.raises(
        ValueError, match=r"hydrogen.npy: the name does not say what is mapped.* Give field, one of Mgas"
    ):
        convert_camels(maps, table, tmp_path / "o.h5")
    with pytest.raises(ValueError, match=r"hydrogen.npy: the name does not say the redshift"):
        convert_camels(maps, table, tmp_path / "o.h5", field="HI")
    database = Database(convert_camels(maps, table, tmp_path / "o.h5", field="hi", redshift=6.0, box_size=50.0, side=8))
    assert (list(database.fields), database.redshifts.tolist()) == (["hi"], [6.0])
    assert database.cell_size == 50.0 / 8
    assert database.attributes["simulator_version"] == "unknown suite"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"field": "HII"}, "field: expected one of Mgas, .*, got 'HII'"),
        ({"field": "Mgas"}, "field: expected HI, as Maps_HI_IllustrisTNG_LH_z=0.00.npy says, got 'Mgas'"),
        ({"redshift": 6.0}, "redshift: expected 0, as Maps_HI.* says, got 6"),
        ({"redshift": -1.0}, "redshift: expected a number of at least 0, got -1"),
        ({"box_size": 0.0}, "box_size: expected a positive size in Mpc/h, got 0"),
        ({"floor": 0.0}, "floor: expected a positive number in the unit of the maps, got 0"),
        ({"side": 17}, "side: expected 1 to 16, .* got 17. Maps can be averaged, not enlarged"),
        ({"side": 0}, "side: expected 1 to 16"),
        ({"simulations": (0, 4)}, r"simulations: expected different numbers from 0 to 3, at least one, got \[4\]"),
        ({"simulations": (1, 1)}, r"got \[1, 1\]"),
        ({"simulations": ()}, r"got \[\]"),
        ({"parameter_names": ("Omega_b",)}, "parameter_names: expected some of Omega_m, sigma_8, .* got Omega_b"),
        ({"parameter_names": ("log10_Omega_b",)}, "or log10_ and such a name, each at most once, got log10_Omega_b"),
        ({"parameter_names": ("A_SN1", "log10_A_SN1")}, "each at most once, got A_SN1, log10_A_SN1"),
        ({"parameter_names": ()}, "got none"),
        ({"parameter_names": ("sigma_8", "sigma_8")}, "each at most once, got sigma_8, sigma_8"),
        ({"dtype": "float64"}, "dtype: expected one of"),
    ],
)
def test_wrong_arguments(tmp_path, maps, table, arguments, match):
    with pytest.raises(ValueError, match=match):
        convert_camels(maps, table, tmp_path / "o.h5", **{"side": None, **arguments})
    assert not (tmp_path / "o.h5").exists()
    assert not partial_path(tmp_path / "o.h5").exists()


def test_wrong_types(tmp_path, maps, table):
    with pytest.raises(TypeError, match=r"side: expected an integer or None, got 8.0"):
        convert_camels(maps, table, tmp_path / "o.h5", side=8.0)
    with pytest.raises(TypeError, match=r"simulations: expected integers, got 1.5"):
        convert_camels(maps, table, tmp_path / "o.h5", side=None, simulations=[1.5])


def test_output_exists(tmp_path, maps, table):
    (tmp_path / "o.h5").touch()
    with pytest.raises(FileExistsError, match="exists already"):
        convert_camels(maps, table, tmp_path / "o.h5")


def test_maps_and_table_belong_together(tmp_path, maps):
    fewer = write_plain(tmp_path / "params_IllustrisTNG.txt", ROWS[:3])
    with pytest.raises(ValueError, match=r"expected the parameters of 4 simulations, .* 60 maps, 15 per.* got 3"):
        convert_camels(maps, fewer, tmp_path / "o.h5", side=None)
    for name, got in (
        ("params_LH_SIMBA.txt", "SIMBA"),
        ("params_CV_IllustrisTNG.txt", "CV"),
        ("CosmoAstroSeed_SIMBA_L25n256_LH.txt", "SIMBA"),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected the parameters of .*, got those of {got}"):
            convert_camels(maps, write_plain(tmp_path / name), tmp_path / "o.h5", side=None)
    for i, name in enumerate(("params_LH_Nbody_IllustrisTNG.txt", "params_Nbody_LH.txt", "params_IllustrisTNG.txt")):
        convert_camels(maps, write_plain(tmp_path / name), tmp_path / f"{i}.h5", side=None)
    odd = tmp_path / "Maps_HI_IllustrisTNG_CV_z=0.00.npy"
    np.save(odd, np.ones((61, 8, 8), np.float32))
    with pytest.raises(ValueError, match="expected 15 maps per simulation, got 61 maps in all"):
        convert_camels(odd, fewer, tmp_path / "o.h5", side=None)


def test_pixels_that_are_not_finite(tmp_path, table):
    maps = write_maps(
        tmp_path / "Maps_HI_IllustrisTNG_LH_z=0.00.npy",
        change=(((20, 3, 4), np.nan), ((21, 0, 0), np.inf), ((59, 15, 15), np.nan)),
    )
    with pytest.raises(ValueError, match=r"got 3 that are not, in 2 of 4 simulations: 1 \(2\), 3 \(1\)") as error:
        convert_camels(maps, table, tmp_path / "o.h5", side=8)
    assert "Leave these simulations out" in str(error.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([maps.name, table.name])
    assert Database(convert_camels(maps, table, tmp_path / "o.h5", side=8, simulations=(0, 2))).n_maps == 30


def test_zero_and_negative_pixels_are_kept_and_reported(tmp_path, table, caplog):
    maps = write_maps(
        tmp_path / "Maps_HI_IllustrisTNG_LH_z=0.00.npy", change=(((20, 3, 4), 0.0), ((50, slice(0, 4)), -2.0))
    )
    with caplog.at_level(logging.WARNING):
        out = convert_camels(maps, table, tmp_path / "o.h5", side=None)
    assert f"{1 + 4 * SIDE} pixels of the database are zero or negative, the smallest is -2" in caplog.text
    np.testing.assert_array_equal(Database(out).read("hi", np.arange(60)), np.load(maps))


def test_floor_raises_pixels(tmp_path, table, caplog):
    maps = write_maps(
        tmp_path / "Maps_HI_IllustrisTNG_LH_z=0.00.npy", change=(((20, 3, 4), 0.0), ((50, slice(0, 4)), -2.0))
    )
    content = np.load(maps)
    floor = float(np.quantile(content[content > 0], 0.1))
    with caplog.at_level(logging.INFO):
        out = convert_camels(maps, table, tmp_path / "o.h5", side=None, floor=floor)
    np.testing.assert_array_equal(Database(out).read("hi", np.arange(60)), np.maximum(content, np.float32(floor)))
    assert f"{np.count_nonzero(content < floor)} of {content.size} pixels were raised to {floor:g}" in caplog.text
    assert "zero or negative" not in caplog.text
    assert Database(out).attributes["floor"] == floor
    (record,) = (each for each in caplog.records if "were raised" in each.message)
    assert record.levelno == logging.WARNING
    assert "So many pixels of the same value have no density that a flow could learn" in record.message
    caplog.clear()
    with caplog.at_level(logging.INFO):
        convert_camels(maps, table, tmp_path / "p.h5", side=None, floor=1e-3)
    (record,) = (each for each in caplog.records if "were raised" in each.message)
    assert f"{1 + 4 * SIDE} of {content.size}" in record.message
    assert record.levelno == logging.INFO


def test_half_precision_has_to_hold_the_pixels(tmp_path, table):
    maps = write_maps(tmp_path / "Maps_HI_IllustrisTNG_LH_z=0.00.npy")
    convert_camels(maps, table, tmp_path / "a.h5", side=None, dtype="float16")
    np.testing.assert_allclose(Database(tmp_path / "a.h5").read("hi", [17]), np.load(maps)[[17]], rtol=1e-3)
    large = write_maps(tmp_path / "Maps_HI_IllustrisTNG_CV_z=0.00.npy", change=(((40, 1, 1), 1e9),))
    plain = write_plain(tmp_path / "parameters.txt")
    with pytest.raises(ValueError, match=r"values up to 1e.09 that do not fit float16.* Nothing was kept of"):
        convert_camels(large, plain, tmp_path / "b.h5", side=None, dtype="float16")
    small = write_maps(tmp_path / "Maps_B_IllustrisTNG_CV_z=0.00.npy", change=(((40, 1, 1), 1e-12),))
    with pytest.raises(ValueError, match="1 positive pixels, down to 1e-12, would be zero in float16"):
        convert_camels(small, plain, tmp_path / "b.h5", side=None, dtype="float16")
    assert not partial_path(tmp_path / "b.h5").exists()


def test_repeated_seeds_are_reported(tmp_path, maps, caplog):
    table = write_seeds(tmp_path / "table.txt", label="EX", seeds=[7, 8, 7, 7])
    with caplog.at_level(logging.WARNING):
        convert_camels(maps, table, tmp_path / "o.h5", side=None)
    assert "2 of 4 simulations share their random seed" in caplog.text


def test_parameters_beyond_the_six(tmp_path, maps):
    header = "#Name Omega_m sigma_8 A_SN1 A_AGN1 A_SN2 A_AGN2 Omega_b WindFree seed"
    rows = np.c_[ROWS, [0.03, 0.049, 0.06, 0.05], np.full(4, 10.0)]
    table = write_seeds(tmp_path / "table.txt", rows, label="SB28", header=header)
    out = convert_camels(maps, table, tmp_path / "o.h5", side=None, parameter_names=("Omega_m", "Omega_b"))
    database = Database(out)
    assert (database.parameters[1].low, database.parameters[1].high) == (0.03, 0.06)
    assert "OMb" not in json.loads(database.attributes["cosmology"])
    with pytest.raises(
        ValueError, match=r"got WindFree, equal in all 4 simulations that are taken of table.txt. Leave out"
    ):
        convert_camels(maps, table, tmp_path / "p.h5", side=None, parameter_names=("Omega_m", "WindFree"))
    logarithm = Database(convert_camels(maps, table, tmp_path / "l.h5", side=None, parameter_names=("log10_Omega_b",)))
    np.testing.assert_allclose(logarithm.parameter_values[:, 0], np.log10([0.03, 0.049, 0.06, 0.05]))
    np.testing.assert_allclose(logarithm.parameters[0].low, np.log10(0.03))


def hypercube(count, high_agn_2=2.0, seed=0):
    """A Latin hypercube as that of CAMELS: uniform in Omega_m, sigma_8 and the logarithms of the amplitudes."""
    generator = np.random.default_rng(seed)
    places = (np.array([generator.permutation(count) for _ in range(6)]).T + 0.5) / count
    factors = np.array([4.0, 4.0, 2.0, high_agn_2])
    return np.c_[0.1 + 0.4 * places[:, 0], 0.6 + 0.4 * places[:, 1], factors ** (2.0 * places[:, 2:] - 1.0)]


@pytest.mark.parametrize(("suite", "high"), [("IllustrisTNG", 2.0), ("Astrid", 4.0), ("Nbody_Astrid", 4.0)])
def test_the_hypercube_is_uniform_in_the_labels(tmp_path, suite, high, caplog):
    maps = write_maps(tmp_path / f"Maps_HI_{suite}_LH_z=0.00.npy", count=200, side=2)
    table = write_plain(tmp_path / "table.txt", hypercube(200, high))
    with caplog.at_level(logging.WARNING):
        out = convert_camels(maps, table, tmp_path / "o.h5", side=None, parameter_names=CAMELS_COLUMNS)
    assert "not spread evenly" not in caplog.text
    database = Database(out)
    for parameter, values in zip(database.parameters, database.parameter_values.T, strict=True):
        prior = scipy.stats.uniform(parameter.low, parameter.high - parameter.low)
        assert scipy.stats.kstest(values, prior.cdf).pvalue > 0.999, parameter.name
    np.testing.assert_allclose(database.parameters[5].low, -np.log10(high))


@pytest.mark.parametrize("name", ["A_SN1", "log10_A_SN1"])
def test_both_names_mean_the_logarithm(tmp_path, maps, table, name):
    database = Database(convert_camels(maps, table, tmp_path / "o.h5", side=None, parameter_names=("Omega_m", name)))
    assert database.parameter_names == ("Omega_m", "log10_A_SN1")
    np.testing.assert_allclose(database.parameter_values, LABELS[:, [0, 2]], atol=1e-9)
    assert database.parameters[1] == CAMELS_PARAMETERS[2]


def test_simulations_outside_of_the_range_of_their_suite(tmp_path, maps):
    rows = ROWS.copy()
    rows[2:, 5] = 3.1, 0.3
    table = write_plain(tmp_path / "table.txt", rows)
    with pytest.raises(
        ValueError,
        match=r"log10_A_AGN2 from -0.301 to 0.301, the prior of IllustrisTNG, got 2 of 4 simulations outside of it, "
        r"the first with 0.4914. Leave these simulations out \(simulations\), or this label",
    ):
        convert_camels(maps, table, tmp_path / "o.h5", side=None)
    assert not (tmp_path / "o.h5").exists()
    assert Database(convert_camels(maps, table, tmp_path / "a.h5", side=None, simulations=(0, 1))).n_maps == 30
    # The table says the suite where the maps do not.
    unnamed, of_suite = maps.rename(tmp_path / "maps.npy"), tmp_path / "CosmoAstroSeed_Astrid_L25n256_LH.txt"
    with pytest.raises(ValueError, match="the prior of an unknown suite, got 2 of 4"):
        convert_camels(unnamed, table, tmp_path / "o.h5", side=None, field="HI", redshift=0.0)
    out = convert_camels(unnamed, write_seeds(of_suite, rows), tmp_path / "b.h5", side=None, field="HI", redshift=0.0)
    np.testing.assert_allclose(Database(out).parameters[5].high, np.log10(4.0))


def test_amplitudes_without_a_logarithm(tmp_path, maps):
    """Simulations of the set EX have no feedback."""
    rows = ROWS.copy()
    rows[1, 2] = 0.0
    table = write_seeds(tmp_path / "table.txt", rows, label="EX")
    with pytest.raises(ValueError, match=r"expected positive values of A_SN1 for log10_A_SN1, got 1 of 4 simulations"):
        convert_camels(maps, table, tmp_path / "o.h5", side=None)
    out = convert_camels(maps, table, tmp_path / "o.h5", side=None, simulations=(0, 2, 3))
    np.testing.assert_allclose(Database(out).parameter_values, LABELS[[0, 2, 3]], atol=1e-9)


def test_parameters_that_do_not_vary_are_no_labels(tmp_path, caplog):
    maps = write_maps(tmp_path / "Maps_HI_IllustrisTNG_CV_z=0.00.npy")
    fiducial = np.tile([0.3, 0.8, 1.0, 1.0, 1.0, 1.0], (COUNT, 1))
    table = write_seeds(tmp_path / "CosmoAstroSeed_IllustrisTNG_L25n256_CV.txt", fiducial, label="CV")
    with pytest.raises(
        ValueError, match=r"got Omega_m, sigma_8, log10_A_SN1, .* equal in all 4 simulations .* such as LH"
    ):
        convert_camels(maps, table, tmp_path / "o.h5", side=None)
    rows = fiducial.copy()
    rows[:, [0, 3]] = ROWS[:, [0, 3]]
    table = write_seeds(tmp_path / "table.txt", rows, label="CV")
    with pytest.raises(ValueError, match=r"got sigma_8, equal in all 4 simulations"):
        convert_camels(maps, table, tmp_path / "o.h5", side=None, parameter_names=NAMES[:2])
    with caplog.at_level(logging.WARNING):
        out = convert_camels(maps, table, tmp_path / "o.h5", side=None)
    assert Database(out).parameter_names == ("Omega_m", "log10_A_AGN1")
    assert "sigma_8, log10_A_SN1, log10_A_SN2, log10_A_AGN2 are no labels" in caplog.text
    # Equal in the simulations that are taken, though not in the table.
    table = write_plain(tmp_path / "two.txt", np.where(np.arange(4)[:, None] < 2, ROWS[:1], ROWS[2:3]))
    with pytest.raises(ValueError, match="got Omega_m, equal in all 2 simulations"):
        convert_camels(maps, table, tmp_path / "p.h5", side=None, simulations=(0, 1), parameter_names=("Omega_m",))


def test_labels_that_are_not_uniform_are_reported(tmp_path, caplog):
    maps = write_maps(tmp_path / "Maps_HI_IllustrisTNG_LH_z=0.00.npy", count=200, side=2)
    rows = np.c_[hypercube(200), 10.0 ** np.linspace(-1.0, 1.0, 200)]
    header = "#Name Omega_m sigma_8 A_SN1 A_AGN1 A_SN2 A_AGN2 ASN3 seed"
    table = write_seeds(tmp_path / "table.txt", rows, header=header)
    with caplog.at_level(logging.WARNING):
        convert_camels(maps, table, tmp_path / "o.h5", side=None, parameter_names=("Omega_m", "ASN3"))
    assert "the values of ASN3 are not spread evenly from 0.1 to 10" in caplog.text
    assert "Does log10_ASN3 fit?" in caplog.text
    assert "values of Omega_m" not in caplog.text
    caplog.clear()
    convert_camels(maps, table, tmp_path / "p.h5", side=None, parameter_names=("Omega_m", "log10_ASN3"))
    assert "not spread evenly" not in caplog.text


def test_goes_on_after_a_kill(tmp_path, maps, table, monkeypatch, caplog):
    class Killed(Exception):
        pass

    whole = convert_camels(maps, table, tmp_path / "whole.h5", side=8)
    write = DatabaseWriter.write

    def write_two(self, simulation, arrays):
        if simulation == 2:
            raise Killed
        write(self, simulation, arrays)

    monkeypatch.setattr(DatabaseWriter, "write", write_two)
    with pytest.raises(Killed):
        convert_camels(maps, table, tmp_path / "o.h5", side=8)
    assert not (tmp_path / "o.h5").exists()
    monkeypatch.setattr(DatabaseWriter, "write", write)
    with pytest.raises(ValueError, match="was begun with another plan"):
        convert_camels(maps, table, tmp_path / "o.h5", side=4)
    calls = []
    with caplog.at_level(logging.INFO):
        convert_camels(maps, table, tmp_path / "o.h5", side=8, progress=lambda *call: calls.append(call))
    assert calls == [(2, 4), (3, 4), (4, 4)]
    assert "resuming with 2 of 4 simulations finished" in caplog.text
    assert (tmp_path / "o.h5").read_bytes() == whole.read_bytes()


def test_no_more_than_one_simulation_is_read_at_a_time(tmp_path, table, monkeypatch):
    maps = write_maps(tmp_path / "Maps_HI_IllustrisTNG_LH_z=0.00.npy")
    lengths = []
    write = DatabaseWriter.write
    monkeypatch.setattr(
        DatabaseWriter, "write", lambda self, i, arrays: (lengths.append(len(arrays["hi"])), write(self, i, arrays))
    )
    convert_camels(maps, table, tmp_path / "o.h5", side=None)
    assert lengths == [15] * COUNT
    assert isinstance(open_camels_maps(maps), np.memmap)
    assert dataclasses.is_dataclass(read_camels_parameters(table))
