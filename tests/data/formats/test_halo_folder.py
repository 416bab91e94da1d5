import dataclasses
import json
import logging
import os
import pathlib

import numpy as np
import pytest
from halo_files import (
    HUBBLE,
    OMEGA_M,
    PARTICLE,
    SIDE,
    SMALLEST,
    file_name,
    make_haloes,
    write_ascii,
    write_joined,
    write_parameters,
    write_sliced,
)

from keras_cosmo.data.database import Database
from keras_cosmo.data.formats.halo_folder import convert_halo_catalogues, halo_cosmology
from keras_cosmo.data.formats.pinocchio import read_pinocchio
from keras_cosmo.quantities import MapField

PIXELS = 8


@dataclasses.dataclass(frozen=True)
class MassPainter:
    """Stands in for a simulator: mass of the haloes in pixels, the box shifted by a random vector."""

    lines: tuple = ("halpha", "oiii")
    line_redshifts: tuple = (1.286, 1.996)
    cosmology: tuple = (("OMm", OMEGA_M), ("hlittle", HUBBLE))
    largest_box: float = 1e4
    minimum_mass: float = 1e13
    name = "fake"
    version = "1"
    task = "separation"

    @property
    def fields(self):
        unit = "erg s^-1 cm^-2 sr^-1"
        return {f"intensity_{line}": MapField(unit=unit, shape=(PIXELS, PIXELS)) for line in self.lines}

    def attributes(self):
        return {
            "cell_size": 0.5, "cell_size_units": "arcmin", "lines": np.array(self.lines),
            "line_redshifts": np.array(self.line_redshifts), "cosmology": json.dumps(dict(self.cosmology)),
            "description": "mass of haloes",
        }  # fmt: skip

    def paint(self, catalogues, *, projections, seed):
        maps = {}
        for number, (line, haloes) in enumerate(catalogues.items()):
            if haloes.box_size > self.largest_box:
                raise ValueError(f"box of {haloes.box_size:g} Mpc is too large")
            generator = np.random.default_rng([seed, number])
            painted = []
            for _ in range(projections):
                place = np.mod(haloes.positions / haloes.box_size + generator.random(3), 1.0)
                painted.append(np.histogram2d(place[:, 0], place[:, 1], PIXELS, [[0, 1]] * 2, weights=haloes.masses)[0])
            maps[f"intensity_{line}"] = np.array(painted, np.float32)
        return maps


SIMULATOR = MassPainter()


def write_run(folder, run="s1", *, seed=1, redshifts=(1.3, 2.0), writer=write_joined, parameters=True, **options):
    folder.mkdir(parents=True, exist_ok=True)
    if parameters:
        write_parameters(folder, run=run, seed=seed, changes={"NumFiles": options.get("parts", 1)})
    return [
        writer(folder, make_haloes(seed=round(100 * seed + 10 * redshift)), redshift=redshift, run=run, **options)
        for redshift in redshifts
    ]


def test_a_folder_of_runs(tmp_path):
    folder = tmp_path / "runs"
    for seed in (10, 2, 1):
        write_run(folder, f"s{seed}", seed=seed, redshifts=(0.0, 1.3, 2.0))
    (folder / "pinocchio.s1.plc.out").write_text("# on the past light cone\n")
    (folder / "pinocchio.2.0000.s1.mf.out").write_text("# Mass function\n")
    calls = []
    out = tmp_path / "out.h5"
    given = {"simulator": SIMULATOR, "projections": 5, "seed": 3}
    assert convert_halo_catalogues(folder, out, **given, progress=lambda *call: calls.append(call)) == out
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
    database = Database(out).require("separation", ("intensity_halpha", "intensity_oiii"))
    assert (database.n_maps, database.n_simulations) == (15, 3)
    assert database.parameter_values.shape == (3, 0)
    assert database.simulation.tolist() == np.repeat([0, 1, 2], 5).tolist()
    attributes = database.attributes
    assert attributes["seeds"].tolist() == [1, 2, 10]
    for line, redshift in (("halpha", 1.3), ("oiii", 2.0)):
        assert list(attributes[f"catalogues_{line}"]) == [file_name(redshift, f"s{seed}") for seed in (1, 2, 10)]
    np.testing.assert_array_equal(attributes["catalogue_redshifts"], [[1.3, 2.0]] * 3)
    np.testing.assert_allclose(attributes["mass_thresholds"], SMALLEST * PARTICLE / HUBBLE)
    np.testing.assert_allclose(attributes["box_sizes"], SIDE / HUBBLE)
    assert (attributes["projections"], attributes["seed"], attributes["simulator"]) == (5, 3, "PINOCCHIO")
    assert attributes["simulator_version"] == "haloes painted by fake 1"
    assert json.loads(attributes["simulator_settings"])["largest_box"] == 1e4
    assert attributes["description"] == (
        "mass of haloes; haloes of PINOCCHIO, from pinocchio.1.3000.s1.catalog.out to pinocchio.2.0000.s10.catalog.out"
    )
    for line, redshift in (("halpha", 1.3), ("oiii", 2.0)):
        maps = database.read(f"intensity_{line}", np.arange(15))
        for row, seed in enumerate((1, 2, 10)):
            mass = read_pinocchio(folder / file_name(redshift, f"s{seed}")).masses.sum()
            np.testing.assert_allclose(maps[5 * row : 5 * row + 5].sum(axis=(1, 2)), mass, rtol=1e-5)
        assert len(np.unique(maps.reshape(15, -1), axis=0)) == 15
    again, other = tmp_path / "again.h5", tmp_path / "other.h5"
    convert_halo_catalogues(sorted(folder.glob("*.catalog.out")), again, **given)
    assert Database(again).scan().fingerprint == database.scan().fingerprint
    convert_halo_catalogues(folder, other, **{**given, "seed": 4})
    assert Database(other).scan().fingerprint != database.scan().fingerprint


def test_all_formats_give_the_same_maps(tmp_path):
    maps = []
    for number, (writer, options) in enumerate(
        ((write_joined, {}), (write_joined, {"length": 48}), (write_sliced, {}), (write_ascii, {}),
         (write_ascii, {"parts": 2}))
    ):  # fmt: skip
        folder = tmp_path / str(number)
        write_run(folder, writer=writer, **options)
        out = tmp_path / f"{number}.h5"
        convert_halo_catalogues(folder, out, simulator=SIMULATOR, projections=2)
        maps.append(Database(out).read("intensity_oiii", [0, 1]))
    for other in maps[1:]:
        np.testing.assert_allclose(other, maps[0], rtol=1e-5)


def test_without_parameter_files(tmp_path):
    for run in ("a", "b"):
        write_run(tmp_path / "runs" / run, "test", seed=ord(run), parameters=False)
    out = tmp_path / "out.h5"
    with pytest.raises(ValueError, match=r"a binary catalogue does not say its units"):
        convert_halo_catalogues(tmp_path / "runs", out, simulator=SIMULATOR)
    given = {"box_size": SIDE / HUBBLE, "hubble": HUBBLE, "mass_unit": "Msun/h"}
    convert_halo_catalogues(tmp_path / "runs", out, simulator=SIMULATOR, projections=2, **given)
    database = Database(out)
    assert database.n_simulations == 2
    assert "seeds" not in database.attributes
    assert "mass_thresholds" not in database.attributes
    assert list(database.attributes["catalogues_oiii"]) == [f"{folder}/{file_name(2.0)}" for folder in "ab"]


def test_runs_of_one_seed_are_one_simulation(tmp_path):
    folder = tmp_path / "runs"
    write_run(folder, "low", redshifts=(1.3,))
    write_run(folder, "high", redshifts=(2.0,))
    out = tmp_path / "out.h5"
    convert_halo_catalogues(folder, out, simulator=SIMULATOR, projections=3)
    assert (Database(out).n_simulations, Database(out).n_maps) == (1, 3)
    write_run(folder, "copy", redshifts=(1.3,))
    with pytest.raises(ValueError, match=r"run low in .* and run copy in .* share the random seed 1, .* at z = 1.3"):
        convert_halo_catalogues(folder, tmp_path / "b.h5", simulator=SIMULATOR)
    other = tmp_path / "other"
    write_run(other, "low", redshifts=(1.3,))
    write_run(other, "high", redshifts=(2.0,))
    write_parameters(other, run="high", seed=1, changes={"GridSize": 128})
    with pytest.raises(
        ValueError, match=r"share the random seed 1, .* their boxes, grids, cosmologies or units differ"
    ):
        convert_halo_catalogues(other, tmp_path / "b.h5", simulator=SIMULATOR)


def test_two_lines_of_one_catalogue(tmp_path):
    write_run(tmp_path / "runs", redshifts=(2.0,))
    simulator = MassPainter(lines=("oiii", "oiii_4959"), line_redshifts=(1.996, 2.019))
    out = tmp_path / "out.h5"
    convert_halo_catalogues(tmp_path / "runs", out, simulator=simulator, projections=2)
    maps = Database(out)
    assert not np.array_equal(maps.read("intensity_oiii", [0]), maps.read("intensity_oiii_4959", [0]))


def test_a_line_without_catalogue(tmp_path):
    write_run(tmp_path, redshifts=(1.26, 2.0, 3.0))
    message = (
        r"run s1 in .*: expected a catalogue within 0.02 of z = 1.286, where halpha is seen, got .* z = 1.26, 2, 3"
    )
    with pytest.raises(ValueError, match=message):
        convert_halo_catalogues(tmp_path, tmp_path / "out.h5", simulator=SIMULATOR)


def test_another_cosmology(tmp_path):
    write_run(tmp_path)
    simulator = MassPainter(cosmology=(("OMm", 0.3), ("hlittle", HUBBLE)))
    with pytest.raises(
        ValueError, match=r"haloes of the cosmology that maps are painted in, omega_m = 0.3, got 0.25 by para"
    ):
        convert_halo_catalogues(tmp_path, tmp_path / "out.h5", simulator=simulator)
    assert not list(tmp_path.glob("out.h5*"))


def test_cosmology_of_the_haloes(tmp_path):
    paths = write_run(tmp_path / "a", parameters=False)
    assert halo_cosmology(paths) == {}
    write_run(tmp_path / "b")
    expected = {"omega_m": OMEGA_M, "h": HUBBLE, "sigma_8": 0.8, "n_s": 0.96}
    assert halo_cosmology(tmp_path) == expected
    assert halo_cosmology([*paths, tmp_path / "b"]) == expected


def test_light_of_haloes_below_the_threshold_is_missing(tmp_path, caplog):
    write_run(tmp_path)
    threshold = SMALLEST * PARTICLE / HUBBLE
    with caplog.at_level(logging.WARNING):
        convert_halo_catalogues(
            tmp_path, tmp_path / "a.h5", simulator=MassPainter(minimum_mass=threshold), projections=1
        )
        assert not caplog.text
        convert_halo_catalogues(tmp_path, tmp_path / "b.h5", simulator=MassPainter(minimum_mass=1e11), projections=1)
    assert f"Haloes of 1e+11 Msun and more shine, but the catalogues begin at {threshold:.3g} Msun" in caplog.text


def test_resumes_after_a_damaged_catalogue(tmp_path, caplog):
    folder, out = tmp_path / "runs", tmp_path / "out.h5"
    for seed in (1, 2, 3):
        write_run(folder, f"s{seed}", seed=seed, writer=write_ascii)
    convert_halo_catalogues(folder, tmp_path / "whole.h5", simulator=SIMULATOR, projections=2)
    damaged = folder / file_name(2.0, "s2")
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-7])
    with pytest.raises(
        ValueError, match=r"s2.catalog.out: the file is truncated.* 1 of 3 simulations are finished and"
    ):
        convert_halo_catalogues(folder, out, simulator=SIMULATOR, projections=2)
    assert out.with_name("out.h5.partial").exists()
    assert not out.exists()
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match=r"was begun with another plan: attribute projections is 2, expected 3"):
        convert_halo_catalogues(folder, out, simulator=SIMULATOR, projections=3)
    calls = []
    with caplog.at_level(logging.INFO):
        convert_halo_catalogues(
            folder, out, simulator=SIMULATOR, projections=2, progress=lambda *call: calls.append(call)
        )
    assert "resuming with 1 of 3 simulations finished" in caplog.text
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_resumes_after_an_interruption(tmp_path):
    folder, out = tmp_path / "runs", tmp_path / "out.h5"
    for seed in (1, 2, 3):
        write_run(folder, f"s{seed}", seed=seed)

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_halo_catalogues(folder, out, simulator=SIMULATOR, projections=2, progress=interrupt)
    calls = []
    given = {"simulator": SIMULATOR, "projections": 2}
    convert_halo_catalogues(folder, out, **given, progress=lambda *call: calls.append(call))
    assert calls == [(2, 3), (3, 3)]
    convert_halo_catalogues(folder, tmp_path / "whole.h5", **given)
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_what_the_simulator_cannot_paint(tmp_path):
    write_run(tmp_path / "runs")
    out = tmp_path / "out.h5"
    with pytest.raises(ValueError, match=r"run s1 in .*runs: box of 142.857 Mpc is too large"):
        convert_halo_catalogues(tmp_path / "runs", out, simulator=MassPainter(largest_box=50.0))
    assert not list(tmp_path.glob("out.h5*"))


def test_damaged_headers_are_found_before_anything_is_written(tmp_path):
    folder = tmp_path / "runs"
    for seed in (1, 2):
        write_run(folder, f"s{seed}", seed=seed)
    os.truncate(folder / file_name(2.0, "s2"), 5000)
    with pytest.raises(ValueError, match=r"s2.catalog.out: the file is truncated: .*, got 5000"):
        convert_halo_catalogues(folder, tmp_path / "out.h5", simulator=SIMULATOR)
    assert not list(tmp_path.glob("out.h5*"))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"projections": 0}, ValueError, "projections: expected at least 1, got 0"),
        ({"projections": 2.0}, TypeError, "projections: expected an integer, got 2.0"),
        ({"projections": True}, TypeError, "projections: expected an integer, got True"),
        ({"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
    ],
)
def test_arguments(tmp_path, arguments, kind, message):
    with pytest.raises(kind, match=message):
        convert_halo_catalogues(tmp_path, tmp_path / "out.h5", simulator=SIMULATOR, **arguments)


def test_sources(tmp_path):
    out = tmp_path / "out.h5"
    for sources, kind, message in (
        (tmp_path / "nowhere", FileNotFoundError, "nowhere: there is no such file or folder. Give your halo"),
        (pathlib.Path(__file__), ValueError, r"expected a name such as pinocchio.1.3000.run.catalog.out"),
        (tmp_path / file_name(), FileNotFoundError, "there is no such file or folder. Give your halo catalogues"),
        (
            tmp_path,
            FileNotFoundError,
            "expected catalogues pinocchio.<redshift>.<run>.catalog.out, .*, got nothing",
        ),
        ([], ValueError, "sources: expected a folder or at least one file, got an empty list"),
    ):
        with pytest.raises(kind, match=message):
            convert_halo_catalogues(sources, out, simulator=SIMULATOR)
    out.touch()
    with pytest.raises(FileExistsError, match=r"exists already. Choose another output file"):
        convert_halo_catalogues(tmp_path, out, simulator=SIMULATOR)
