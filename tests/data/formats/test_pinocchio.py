import logging
import struct

import numpy as np
import pytest
from halo_files import (
    CELLS,
    HUBBLE,
    JOINED,
    OMEGA_M,
    PARTICLE,
    SIDE,
    SLICED,
    SMALLEST,
    file_name,
    make_haloes,
    write_ascii,
    write_joined,
    write_parameters,
    write_sliced,
)

from keras_cosmo.data.formats.pinocchio import (
    PinocchioCatalogue,
    PinocchioParameters,
    find_parameter_files,
    read_pinocchio,
)

HALOES = make_haloes()


def in_file_order(haloes, writer, options):
    """Indices of the haloes in the order that a writer puts them."""
    count, half = len(haloes["mass"]), len(haloes["mass"]) // 2
    if "slices" in options:
        slices = options["slices"]
        return np.concatenate(
            [np.arange(count)[piece][number::slices] for number in range(slices)
             for piece in (slice(0, half), slice(half, None))]
        )  # fmt: skip
    return np.concatenate([np.arange(part, count, options.get("parts", 1)) for part in range(options.get("parts", 1))])


FORMATS = [
    *((write_ascii, {"light": light, "parts": parts}) for light in (False, True) for parts in (1, 3)),
    *((write_sliced, {"length": length}) for length in SLICED),
    *((write_sliced, {"length": length, "slices": 3}) for length in SLICED),
    *((write_joined, {"length": length}) for length in JOINED),
    (write_joined, {"length": 56, "parts": 4}),
]


@pytest.mark.parametrize(("writer", "options"), FORMATS)
def test_all_formats_hold_the_same_haloes(tmp_path, writer, options):
    write_parameters(tmp_path, changes={"NumFiles": options.get("parts", 1)}, name="par101")
    haloes = read_pinocchio(writer(tmp_path, HALOES, **options))
    order = in_file_order(HALOES, writer, options)
    np.testing.assert_allclose(haloes.masses, HALOES["mass"][order] / HUBBLE, rtol=1e-6)
    np.testing.assert_allclose(haloes.positions, HALOES["final"][order] / HUBBLE, rtol=1e-6, atol=1e-5)
    assert (haloes.redshift, haloes.seed, len(haloes)) == (2.0, 7, 300)
    assert haloes.box_size == pytest.approx(SIDE / HUBBLE, rel=1e-12)
    assert haloes.label == file_name()
    assert haloes.masses.dtype == haloes.positions.dtype == np.float64


def test_units_without_h(tmp_path):
    path = write_ascii(tmp_path, HALOES, unit="")
    haloes = read_pinocchio(path, box_size=SIDE)
    np.testing.assert_allclose(haloes.positions, HALOES["final"])
    np.testing.assert_allclose(haloes.masses, HALOES["mass"], rtol=1e-6)
    assert (haloes.box_size, haloes.seed) == (SIDE, None)


def test_box_in_one_unit_and_output_in_the_other(tmp_path):
    """BoxSize in Mpc, catalogue in Msun/h; and the other way round."""
    write_parameters(tmp_path, changes={"BoxSize": SIDE / HUBBLE}, without=("BoxInH100",))
    joined = read_pinocchio(write_joined(tmp_path, HALOES))
    np.testing.assert_allclose(joined.positions, HALOES["final"] / HUBBLE, rtol=1e-6)
    write_parameters(tmp_path, without=("OutputInH100",))
    true = {**HALOES, "mass": HALOES["mass"] / HUBBLE, "final": HALOES["final"] / HUBBLE}
    catalogue = PinocchioCatalogue.from_file(write_joined(tmp_path, true))
    assert catalogue.hubble == 1.0
    np.testing.assert_allclose(catalogue.read().positions, joined.positions, rtol=1e-6)


def test_arguments_stand_in_for_the_parameter_file(tmp_path):
    path = write_joined(tmp_path, HALOES)
    with pytest.raises(ValueError, match=r"binary catalogue does not say its units, .* run 'test' .* give mass_unit"):
        read_pinocchio(path)
    with pytest.raises(ValueError, match=r"masses are in Msun/h, and there is no parameter file .* give hubble"):
        read_pinocchio(path, mass_unit="Msun/h")
    with pytest.raises(ValueError, match=r"size of the box is not known.* give box_size, the side in Mpc \(not Mpc/h"):
        read_pinocchio(path, mass_unit="Msun/h", hubble=HUBBLE)
    haloes = read_pinocchio(path, mass_unit="Msun/h", hubble=HUBBLE, box_size=SIDE / HUBBLE)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    parameters = write_parameters(elsewhere)
    for given in (parameters, str(parameters), PinocchioParameters.from_file(parameters)):
        np.testing.assert_array_equal(read_pinocchio(path, parameters=given).masses, haloes.masses)
    for name, value, message in (
        ("mass_unit", "kg", "mass_unit: expected one of"),
        ("hubble", 70.0, "hubble: expected it in 100 km/s/Mpc, such as 0.7, got 70"),
        ("box_size", -1.0, "box_size: expected a positive number of Mpc, got -1"),
    ):
        given = {"mass_unit": "Msun/h", "hubble": HUBBLE, "box_size": SIDE, name: value}
        with pytest.raises(ValueError, match=message):
            read_pinocchio(path, **given)


def test_a_renamed_catalogue(tmp_path):
    parameters = write_parameters(tmp_path)
    path = write_joined(tmp_path, HALOES).rename(tmp_path / "haloes.out")
    with pytest.raises(ValueError, match=r"redshift is not known: expected a name such as pinocchio.1.3000"):
        read_pinocchio(path, parameters=parameters)
    assert read_pinocchio(path, parameters=parameters, redshift=1.3).redshift == 1.3
    text = write_ascii(tmp_path, HALOES, redshift=1.5).rename(tmp_path / "haloes.txt")
    assert read_pinocchio(text, parameters=parameters).redshift == 1.5


def test_contradictions(tmp_path):
    text = write_ascii(tmp_path, HALOES)
    with pytest.raises(ValueError, match=r"redshift contradict each other: 1.3 from the argument redshift, 2.0 from"):
        read_pinocchio(text, redshift=1.3, hubble=HUBBLE, box_size=SIDE / HUBBLE)
    with pytest.raises(ValueError, match=r"units of mass contradict .*: Msun from the argument mass_unit, Msun/h from"):
        read_pinocchio(text, mass_unit="Msun", box_size=SIDE)
    write_parameters(tmp_path, without=("OutputInH100",))
    with pytest.raises(ValueError, match=r"Msun from the parameter file parameters_test, Msun/h from the header of"):
        read_pinocchio(text)
    write_parameters(tmp_path)
    with pytest.raises(ValueError, match=r"box_size is given as 100 Mpc, but parameters_test says 142.857 Mpc"):
        read_pinocchio(text, box_size=SIDE)
    with pytest.raises(ValueError, match=r"hubble is given as 0.67, but parameters_test says 0.7"):
        read_pinocchio(text, hubble=0.67)
    assert len(read_pinocchio(text, hubble=HUBBLE, box_size=142.857)) == 300
    other = write_parameters(tmp_path, run="other")
    with pytest.raises(
        ValueError, match=r"parameter file of the run 'test', got .*parameters_other of the run 'other'"
    ):
        read_pinocchio(text, parameters=other)


def test_the_particle_mass_tells_wrong_units(tmp_path):
    path = write_joined(tmp_path, HALOES)
    write_parameters(tmp_path, changes={"GridSize": CELLS * 2})
    with pytest.raises(
        ValueError, match=r"contradict parameters_test: expected particles of .*, got .*, 8 times as mu"
    ):
        read_pinocchio(path)
    path = write_joined(tmp_path, {**HALOES, "mass": HALOES["mass"] / HUBBLE})
    write_parameters(tmp_path)
    with pytest.raises(ValueError, match=r"1.43 times as much \(h = 0.7\). Units or parameter file are of another run"):
        read_pinocchio(path)


@pytest.mark.parametrize("factor", [HUBBLE, 1.0 / HUBBLE])
def test_the_smallest_halo_tells_wrong_units_of_light_output(tmp_path, factor):
    path = write_joined(tmp_path, {**HALOES, "mass": HALOES["mass"] * factor}, length=48)
    write_parameters(tmp_path)
    with pytest.raises(ValueError, match=r"expected the smallest halo at .* Msun \(MinHaloMass = 10 particles\), got"):
        read_pinocchio(path)


@pytest.mark.parametrize("factor", [1e-10, 1e10])
def test_absurd_masses(tmp_path, factor):
    path = write_ascii(tmp_path, {**HALOES, "mass": HALOES["mass"] * factor})
    with pytest.raises(
        ValueError, match=r"expected halo masses from 100000 to 1e\+17 Msun, got .* and 300 such haloes"
    ):
        read_pinocchio(path, hubble=HUBBLE, box_size=SIDE / HUBBLE)


def test_masses_have_to_be_positive(tmp_path):
    mass = HALOES["mass"].copy()
    mass[11] *= -1.0
    path = write_ascii(tmp_path, {**HALOES, "mass": mass})
    with pytest.raises(ValueError, match=r"expected halo masses .*, got -.* in halo 11 and 1 such haloes"):
        read_pinocchio(path, hubble=HUBBLE, box_size=SIDE / HUBBLE)


def test_the_box_has_to_fit(tmp_path):
    path = write_ascii(tmp_path, HALOES)
    with pytest.raises(ValueError, match=r"expected positions in a box of 100 Mpc, got .* \(is it in Mpc/h\?\)"):
        read_pinocchio(path, hubble=HUBBLE, box_size=SIDE)
    with pytest.raises(ValueError, match=r"expected haloes throughout a box of 204.082 Mpc, got positions from"):
        read_pinocchio(path, hubble=HUBBLE, box_size=SIDE / HUBBLE**2)
    few = write_ascii(tmp_path, make_haloes(20))
    assert len(read_pinocchio(few, hubble=HUBBLE, box_size=SIDE / HUBBLE**2)) == 20


@pytest.mark.parametrize("writer", [write_ascii, write_joined, write_sliced])
def test_positions_at_the_sides_are_wrapped(tmp_path, writer):
    """In ascii a position just below the side is printed as the side; in single precision it can be rounded up."""
    final = HALOES["final"].copy()
    final[:3] = [[SIDE, 5.0, 5.0], [5.0, -0.001, 5.0], [5.0, 5.0, -1e-15]]
    write_parameters(tmp_path)
    positions = read_pinocchio(writer(tmp_path, {**HALOES, "final": final})).positions * HUBBLE
    assert positions.min() >= 0.0
    assert positions.max() < SIDE
    np.testing.assert_allclose(positions[0], [0.0, 5.0, 5.0], atol=1e-5)
    expected = {0.0} if writer is write_ascii else {SIDE - 0.001}
    assert min(abs(positions[1, 1] - value) for value in expected) < 1e-4
    assert min(positions[2, 2], SIDE - positions[2, 2]) < 1e-4


def test_empty_catalogues(tmp_path):
    write_parameters(tmp_path)
    for writer in (write_ascii, write_joined, write_sliced):
        path = writer(tmp_path, make_haloes(0))
        with pytest.raises(ValueError, match=r"the catalogue has no haloes. Was no group as large as MinHaloMass"):
            read_pinocchio(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"the file is empty \(0 bytes\)"):
        read_pinocchio(path)


@pytest.mark.parametrize("writer", [write_joined, write_sliced])
@pytest.mark.parametrize("kept", [10, 20, 500, -1, -5000])
def test_truncated_binary(tmp_path, writer, kept):
    write_parameters(tmp_path)
    path = writer(tmp_path, HALOES)
    content = path.read_bytes()[:kept]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"the file is truncated: expected .*, got {len(content)}"):
        read_pinocchio(path)


def test_truncated_text(tmp_path):
    write_parameters(tmp_path)
    path = write_ascii(tmp_path, HALOES)
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(ValueError, match=rf"truncated: expected its last line to end, got {len(content) - 40} bytes"):
        read_pinocchio(path)
    path.write_bytes(content[:-40] + b"\n")
    with pytest.raises(ValueError, match=r"expected 12 numbers in each line: .*row"):
        read_pinocchio(path)
    path.write_bytes(content.replace(b"e+1", b"e+x", 1))
    with pytest.raises(ValueError, match=r"expected 12 numbers in each line: could not convert string"):
        read_pinocchio(path)


@pytest.mark.parametrize(("old", "new"), [(b"e+12", b"e+999"), (b"e+12", b"nan ")])
def test_text_with_numbers_that_are_not_finite(tmp_path, old, new):
    path = write_ascii(tmp_path, HALOES)
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(ValueError, match=r"expected (finite|12) numbers"):
        read_pinocchio(path, hubble=HUBBLE, box_size=SIDE / HUBBLE)


def test_damaged_binary(tmp_path):
    write_parameters(tmp_path)
    path = write_joined(tmp_path, HALOES)
    content = path.read_bytes()

    def damaged(offset, values, message, content=content):
        path.write_bytes(
            content[:offset] + struct.pack(f"<{len(values)}i", *values) + content[offset + 4 * len(values) :]
        )
        with pytest.raises(ValueError, match=message):
            read_pinocchio(path)

    damaged(12, [9], r"expected a header 8, tasks, slices or length of a record, 8, got 8, 3, 56, 9")
    damaged(4, [0], r"got 8, 0, 56, 8")
    damaged(8, [52], r"expected records of 36, 40, 48, 56, 64, 88, 96 bytes \(version 5\), got 52")
    damaged(16, [5], r"expected 4, number of haloes, 4 at byte 16 \(block 1 of 3\), got 5, 150, 4")
    damaged(28, [1], r"expected markers 8400 around block 1 of 3, got 1 and 8400")
    damaged(0, [4, 56, 4], "is a catalogue on the past light cone")
    path.write_bytes(content + b"\0" * 8)
    with pytest.raises(
        ValueError, match=rf"too long: expected {len(content)} bytes for 3 blocks, got {len(content) + 8}"
    ):
        read_pinocchio(path)
    path.write_bytes(np.frombuffer(content, "<i4").byteswap().tobytes())
    with pytest.raises(ValueError, match="the file is big-endian, expected little-endian"):
        read_pinocchio(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + content)
    with pytest.raises(ValueError, match="text or binary beginning with the number 8, got bytes 89 48"):
        read_pinocchio(path)
    content = write_sliced(tmp_path, HALOES).read_bytes()
    damaged(28, [97], r"expected records of 40, 56, 96 bytes \(version 4\), got 97", content)
    damaged(
        28 + 104,
        [97],
        r"expected markers 96 around each halo, got others around 1 of 150, the first at byte 132",
        content,
    )
    nan = np.frombuffer(np.array([np.nan], "<f8").tobytes(), "<i4").tolist()
    damaged(28 + 12, nan, "expected finite masses and positions", content)


def test_the_header_alone_tells_records_of_equal_length_apart(tmp_path):
    """96, 56 and 40 bytes occur in both versions, with positions at other places."""
    write_parameters(tmp_path)
    for length in set(SLICED) & set(JOINED):
        old = read_pinocchio(write_sliced(tmp_path, HALOES, length=length)).positions
        new = read_pinocchio(write_joined(tmp_path, HALOES, length=length)).positions
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([], "got 0 comment lines without them. They say the units"),
        (["# Group catalog for redshift 2.0"], "got 1 comment lines without them"),
        (
            ["# 2) group mass (Msun/h)", "# 6- 8) final position (Mpc)"],
            "both with or both without h .*, got Msun/h and",
        ),
        (["# Group catalog on the Past Light Cone for a minimal mass"], "is a catalogue on the past light cone"),
    ],
)
def test_text_headers(tmp_path, header, message):
    path = write_ascii(tmp_path, HALOES, header=header)
    with pytest.raises(ValueError, match=message):
        read_pinocchio(path, hubble=HUBBLE, box_size=SIDE / HUBBLE)


def test_other_columns(tmp_path):
    path = write_ascii(tmp_path, HALOES)
    path.write_text("".join(line[:60] + "\n" for line in path.read_text().splitlines()))
    with pytest.raises(ValueError, match=r"expected 12 columns, or 11 of light output, got 5 in the first line"):
        read_pinocchio(path, hubble=HUBBLE, box_size=SIDE / HUBBLE)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("pinocchio.test.plc.out", "a catalogue on the past light cone"),
        ("pinocchio.test.plc.out.3", "a catalogue on the past light cone"),
        ("pinocchio.2.0000.test.mf.out", "a mass function"),
        ("pinocchio.test.histories.out", "the merger histories"),
    ],
)
def test_other_outputs_are_refused(tmp_path, name, what):
    with pytest.raises(ValueError, match=rf"is {what}: expected a catalogue of a whole box at one redshift"):
        read_pinocchio(tmp_path / name)


def test_parts(tmp_path, caplog):
    write_parameters(tmp_path, changes={"NumFiles": 4})
    base = write_joined(tmp_path, HALOES, parts=4)
    whole = read_pinocchio(base)
    assert len(whole) == 300
    np.testing.assert_array_equal(read_pinocchio(f"{base}.2").masses, whole.masses)
    assert PinocchioCatalogue.from_file(f"{base}.2").path == base
    base.with_name(base.name + ".3").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(read_pinocchio(base)) == 225
    assert "says NumFiles = 4, but there are 3 files" in caplog.text
    base.with_name(base.name + ".1").unlink()
    with pytest.raises(FileNotFoundError, match=r"out.1: this part of the catalogue is missing; there are 2 others"):
        read_pinocchio(base)
    write_joined(tmp_path, HALOES)
    with pytest.raises(ValueError, match=r"exists beside pinocchio.2.0000.test.catalog.out.0: expected one file, or"):
        read_pinocchio(base)
    for part in (0, 2):
        base.with_name(f"{base.name}.{part}").unlink()
    write_joined(tmp_path, HALOES, parts=2)
    base.unlink()
    write_parameters(tmp_path)
    with pytest.raises(ValueError, match=r"expected NumFiles = 1 files by parameters_test, got 2"):
        read_pinocchio(base)


def test_missing_files(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no such catalogue, and no pinocchio.2.0000.test.catalog.out.0"
    ):
        read_pinocchio(tmp_path / file_name())
    with pytest.raises(FileNotFoundError, match="there is no such catalogue"):
        read_pinocchio(tmp_path / "nowhere" / file_name())
    path = write_joined(tmp_path, HALOES)
    with pytest.raises(FileNotFoundError, match="there is no such parameter file"):
        read_pinocchio(path, parameters=tmp_path / "par")


def test_parameter_files(tmp_path):
    path = write_parameters(tmp_path)
    parameters = PinocchioParameters.from_file(path)
    assert (parameters.run, parameters.seed, parameters.mass_unit) == ("test", 7, "Msun/h")
    assert (parameters.grid_cells, parameters.file_count) == (CELLS, 1)
    assert parameters.cosmology == {"h": HUBBLE, "omega_m": OMEGA_M, "sigma_8": 0.8, "n_s": 0.96}
    assert parameters.particle_mass == pytest.approx(PARTICLE / HUBBLE, rel=1e-9)
    assert parameters.mass_threshold == pytest.approx(SMALLEST * PARTICLE / HUBBLE, rel=1e-9)
    write_parameters(tmp_path, without=("Omega0", "RandomSeed", "MinHaloMass", "NumFiles"))
    parameters = PinocchioParameters.from_file(path)
    assert (parameters.particle_mass, parameters.mass_threshold) == (None, None)
    assert (parameters.seed, parameters.file_count) == (None, 1)
    assert read_pinocchio(write_joined(tmp_path, HALOES)).seed is None
    write_parameters(tmp_path, changes={"Sigma8": "0.0"}, without=("Omega0",))
    assert PinocchioParameters.from_file(path).cosmology == {"h": HUBBLE, "n_s": 0.96}
    for name, value, message in (
        ("BoxSize", "", "with RunFlag, BoxSize and Hubble100, got none with BoxSize"),
        ("BoxSize", "wide", "expected a number behind BoxSize, got 'wide'"),
        ("BoxSize", -1, "expected BoxSize to be positive, got -1"),
        ("Hubble100", 70, "expected Hubble100 in 100 km/s/Mpc, such as 0.7, got 70"),
        ("GridSize", "64.5", "expected a number behind GridSize, got '64.5'"),
    ):
        write_parameters(tmp_path, changes={name: value})
        with pytest.raises(ValueError, match=message):
            PinocchioParameters.from_file(path)


def test_the_parameter_file_of_a_run_is_found_by_its_run_flag(tmp_path):
    (tmp_path / "pinocchio.2.0000.test.mf.out").write_text("RunFlag test\n")
    (tmp_path / "large").write_text("RunFlag test\n" + "#" * 200_000)
    (tmp_path / "notes.txt").write_bytes(b"RunFlag tests\nnot RunFlag test\n\xff")
    (tmp_path / "folder").mkdir()
    assert find_parameter_files(tmp_path, ["test"]) == {}
    write_parameters(tmp_path, run="other")
    path = write_parameters(tmp_path, name="a")
    assert find_parameter_files(tmp_path, ["test", "no"])["test"].path == path
    write_parameters(tmp_path, name="b")
    assert find_parameter_files(tmp_path, ["test", "no"])["test"].path == path
    write_parameters(tmp_path, name="b", seed=8)
    with pytest.raises(ValueError, match=r"a and .*b are parameter files of the same run 'test' and differ"):
        find_parameter_files(tmp_path, ["test"])


def test_run_names_with_dots(tmp_path):
    write_parameters(tmp_path, run="planck.s1.v2")
    catalogue = PinocchioCatalogue.from_file(write_joined(tmp_path, HALOES, run="planck.s1.v2", redshift=12.0))
    assert (catalogue.run, catalogue.redshift) == ("planck.s1.v2", 12.0)
