import hashlib
import logging
import os
import pickle
import shutil
import threading
import time

import h5py
import numpy as np
import pytest

from keras_cosmo.data import database as database_module
from keras_cosmo.data.database import Database, write_database
from keras_cosmo.quantities import MapField, Parameter

PARAMETERS = (Parameter(name="zeta", low=10, high=250, symbol=r"\zeta"), Parameter(name="T", low=4, high=6, unit="K"))
MAPS = np.random.default_rng(0).standard_normal((6, 4, 5), np.float32)
DENSITY = np.random.default_rng(1).standard_normal((6, 3, 3), np.float32)
VALUES = np.array([[20.0, 4.5], [200.0, 5.5], [100.0, 5.0]])
SIMULATION = np.array([2, 0, 1, 0, 1, 2])


def write(path, **changes):
    arguments = {
        "task": "regression",
        "fields": {"brightness_temp": (MAPS, "mK"), "density": (DENSITY, "")},
        "parameters": PARAMETERS,
        "parameter_values": VALUES,
        "simulation": SIMULATION,
        "attributes": {"cell_size": 1.5, "cell_size_units": "Mpc", "redshifts": np.linspace(6, 30, 5), "seed": 3},
    }
    write_database(path, **{**arguments, **changes})
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "maps.h5")


def test_content(path):
    database = Database(str(path))
    assert database.path == path
    assert database.task == "regression"
    assert database.fields == {
        "brightness_temp": MapField(unit="mK", shape=(4, 5)),
        "density": MapField(unit="", shape=(3, 3)),
    }
    assert database.parameters == PARAMETERS
    assert database.parameter_names == ("zeta", "T")
    assert (database.n_maps, database.n_simulations, database.cell_size) == (6, 3, 1.5)
    np.testing.assert_array_equal(database.redshifts, np.linspace(6, 30, 5))
    np.testing.assert_array_equal(database.simulation, SIMULATION)
    assert database.attributes["status"] == "complete"
    assert database.attributes["seed"] == 3
    assert database.require("regression", ("density",), ("zeta", "T")) is database


def test_read_any_order_with_repeats(path):
    database = Database(path)
    maps = database.read("brightness_temp", [5, 0, 0, 3])
    assert maps.dtype == np.float32
    np.testing.assert_array_equal(maps, MAPS[[5, 0, 0, 3]])
    np.testing.assert_array_equal(database.targets([5, 0, 0, 3]), VALUES[[2, 2, 2, 0]])
    assert database.read("density", []).shape == (0, 3, 3)
    assert database.read("density", np.arange(0)).shape == (0, 3, 3)


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("chunks", [None, (2, 4, 5)])
def test_every_dtype_byte_order_and_layout(path, dtype, chunks):
    with h5py.File(path, "r+") as file:
        del file["maps/brightness_temp"]
        options = {"chunks": chunks, "compression": "gzip" if chunks else None}
        file["maps"].create_dataset("brightness_temp", data=MAPS.astype(dtype), **options).attrs["units"] = "mK"
    database = Database(path)
    np.testing.assert_array_equal(
        database.read("brightness_temp", [4, 1, 1]), MAPS.astype(dtype)[[4, 1, 1]].astype("f4")
    )
    np.testing.assert_allclose(database.scan().mean["brightness_temp"], MAPS.mean(axis=(1, 2)), atol=2e-3)


def test_files_written_by_plain_h5py(tmp_path):
    path = tmp_path / "plain.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"task": "matter", "status": np.bytes_("complete")})
        file.create_dataset("maps/density", data=MAPS).attrs["units"] = "overdensity"
        table = file.create_dataset("parameters", data=VALUES)
        table.attrs["names"] = np.array([b"zeta", b"T"])
        table.attrs["units"] = np.array(["", "K"], h5py.string_dtype())
        table.attrs["prior_low"], table.attrs["prior_high"] = [10, 4], [250, 6]
        file["simulation"] = SIMULATION
    database = Database(path)
    assert database.parameter_names == ("zeta", "T")
    assert database.redshifts is None
    assert database.cell_size is None
    np.testing.assert_array_equal(database.read("density", [2]), MAPS[[2]])


def test_pickle_and_threads(path):
    database = pickle.loads(pickle.dumps(Database(path)))
    failures = []

    def read(seed):
        for indices in np.random.default_rng(seed).integers(0, 6, (50, 4)):
            if not np.array_equal(database.read("brightness_temp", indices), MAPS[indices]):
                failures.append(indices)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_no_file_stays_open(path):
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208
    database = Database(path)
    database.read("density", [0])
    assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208


def test_maps_are_contiguous_and_equal_content_is_equal_bytes(path, tmp_path):
    with h5py.File(path) as file:
        assert file["maps/brightness_temp"].id.get_offset() is not None
    # Longer than the resolution of the time stamps in HDF5.
    time.sleep(1.1)
    assert write(tmp_path / "again.h5").read_bytes() == path.read_bytes()


def test_more_than_64_kilobytes_of_attributes(tmp_path):
    path = write(tmp_path / "a.h5", attributes={"redshifts": np.arange(20000.0)})
    np.testing.assert_array_equal(Database(path).redshifts, np.arange(20000.0))


@pytest.mark.parametrize("block_bytes", [2**23, 7 * 4, 3 * 20 * 4])
def test_scan_moments_and_fingerprint(path, monkeypatch, block_bytes):
    monkeypatch.setattr(database_module, "SCAN_BLOCK_BYTES", block_bytes)
    seen = []
    scan = Database(path).scan(progress=lambda *step: seen.append(step))
    for field, maps in (("brightness_temp", MAPS), ("density", DENSITY)):
        maps = maps.reshape(6, -1).astype(np.float64)
        assert scan.count[field] == maps.shape[1]
        np.testing.assert_allclose(scan.mean[field], maps.mean(axis=1), rtol=1e-13)
        np.testing.assert_allclose(scan.squared_deviations[field], maps.var(axis=1) * maps.shape[1], rtol=1e-12)
        np.testing.assert_array_equal(scan.minimum[field], maps.min(axis=1))
        np.testing.assert_array_equal(scan.maximum[field], maps.max(axis=1))
    assert seen[-1] == (6 * 20 + 6 * 9, 6 * 20 + 6 * 9)
    digest = hashlib.sha256()
    digest.update(b'["brightness_temp", "mK", [4, 5], 6]' + MAPS.tobytes())
    digest.update(b'["density", "", [3, 3], 6]' + DENSITY.tobytes())
    digest.update(b'[["zeta", ""], ["T", "K"]]' + VALUES.tobytes() + SIMULATION.astype("<i8").tobytes())
    assert scan.fingerprint == f"sha256:{digest.hexdigest()}"


def test_fingerprint_depends_on_content_alone(path, tmp_path):
    fingerprint = Database(path).scan().fingerprint
    other = tmp_path / "other.h5"
    with h5py.File(path) as source, h5py.File(other, "w") as target:
        for name in reversed(list(source.attrs)):
            target.attrs[name] = source.attrs[name]
        for name in ("simulation", "parameters"):
            source.copy(name, target)
        for name in ("density", "brightness_temp"):
            copy = target.create_dataset(f"maps/{name}", data=source["maps"][name][()].astype(">f4"), chunks=True)
            copy.attrs["units"] = source["maps"][name].attrs["units"]
    assert Database(other).scan().fingerprint == fingerprint
    changed = MAPS.copy()
    changed[3, 2, 1] = np.nextafter(changed[3, 2, 1], np.float32(9))
    for number, changes in enumerate(
        (
            {"fields": {"brightness_temp": (changed, "mK"), "density": (DENSITY, "")}},
            {"fields": {"brightness_temp": (MAPS, "K"), "density": (DENSITY, "")}},
            {"parameter_values": VALUES * (1 + 1e-15)},
            {"simulation": [2, 0, 1, 0, 2, 1]},
        )
    ):
        assert Database(write(tmp_path / f"{number}.h5", **changes)).scan().fingerprint != fingerprint


@pytest.fixture
def kept(path, monkeypatch):
    """A database whose scan is kept however small it is, and what reads the file."""
    monkeypatch.setattr(database_module, "REMEMBERED_BYTES", 0)
    monkeypatch.setattr(database_module, "SETTLED_SECONDS", 0.0)
    scans = []
    whole = Database._scan
    monkeypatch.setattr(Database, "_scan", lambda self, progress: (scans.append(self.path), whole(self, progress))[1])
    return path, scans


def same(one, other):
    for name in ("mean", "squared_deviations", "minimum", "maximum"):
        for field in ("brightness_temp", "density"):
            np.testing.assert_array_equal(getattr(one, name)[field], getattr(other, name)[field])
    return (one.count, one.fingerprint) == (other.count, other.fingerprint)


def test_a_scan_is_kept(kept):
    path, scans = kept
    path.chmod(0o644)
    first = Database(path).scan()
    assert same(Database(path).scan(), first)
    assert scans == [path]
    assert sorted(file.name for file in path.parent.iterdir()) == ["maps.h5", "maps.h5.scan.npz"]
    assert path.with_name("maps.h5.scan.npz").stat().st_mode & 0o777 == 0o644


def test_a_kept_scan_is_of_this_content(kept, tmp_path):
    path, scans = kept
    first = Database(path).scan()
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    changed = MAPS.copy()
    changed[0, 0, 0] += 1.0
    with h5py.File(path, "r+") as file:
        file["maps/brightness_temp"][...] = changed
    # As whoever wants to hide it, or a tool that keeps times, would.
    os.utime(path, ns=times)
    assert (path.stat().st_mtime_ns, len(scans)) == (times[1], 1)
    second = Database(path).scan()
    assert len(scans) == 2
    assert second.fingerprint != first.fingerprint
    assert second.mean["brightness_temp"][0] > first.mean["brightness_temp"][0]
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in list(tmp_path.glob("maps.h5*")):
        shutil.copy2(file, folder)
    assert same(Database(folder / "maps.h5").scan(), second)
    assert scans[-1] == folder / "maps.h5"
    assert same(Database(path).scan(), second)
    assert len(scans) == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "field", "version", "list"])
def test_a_damaged_kept_scan_is_of_no_use(kept, monkeypatch, damage):
    path, scans = kept
    first = Database(path).scan()
    aside = path.with_name("maps.h5.scan.npz")
    with np.load(aside) as file:
        arrays = dict(file)
    if damage == "cut":
        aside.write_bytes(aside.read_bytes()[:200])
    elif damage == "empty":
        aside.write_bytes(b"")
    elif damage == "other":
        aside.write_text("something else")
    elif damage == "field":
        del arrays["mean/density"]
        np.savez(aside, **arrays)
    elif damage == "version":
        monkeypatch.setattr(database_module, "SCAN_VERSION", 2)
    else:
        np.savez(aside, **{**arrays, "header": "[1, 2]"})
    assert same(Database(path).scan(), first)
    assert scans == [path, path]
    assert same(Database(path).scan(), first)
    assert scans == [path, path]


def test_where_nothing_can_be_kept(kept, monkeypatch):
    path, scans = kept

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    first = Database(path).scan()
    assert same(Database(path).scan(), first)
    assert scans == [path, path]
    assert [file.name for file in path.parent.iterdir()] == ["maps.h5"]


def test_small_and_new_files_are_read_anew(kept, monkeypatch):
    path, scans = kept
    monkeypatch.setattr(database_module, "SETTLED_SECONDS", 1e6)
    Database(path).scan()
    monkeypatch.setattr(database_module, "SETTLED_SECONDS", 0.0)
    monkeypatch.setattr(database_module, "REMEMBERED_BYTES", path.stat().st_size + 1)
    Database(path).scan()
    assert len(scans) == 2
    assert [file.name for file in path.parent.iterdir()] == ["maps.h5"]


def test_a_file_that_changes_while_it_is_read_is_not_kept(kept):
    path, scans = kept

    def touch(done, total):
        path.chmod(0o640 if done < total else 0o600)

    Database(path).scan(touch)
    assert len(scans) == 1
    assert [file.name for file in path.parent.iterdir()] == ["maps.h5"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("block_bytes", [2**23, 7 * 4])
def test_pixels_that_are_not_finite(path, monkeypatch, bad, block_bytes):
    monkeypatch.setattr(database_module, "SCAN_BLOCK_BYTES", block_bytes)
    with h5py.File(path, "r+") as file:
        file["maps/brightness_temp"][4, 1, 2] = bad
    database = Database(path)
    message = "/maps/brightness_temp: map 4 of simulation 1 has 1 pixels that are not finite"
    with pytest.raises(ValueError, match=message):
        database.scan()
    with pytest.raises(ValueError, match=message):
        database.read("brightness_temp", [0, 4, 2], check_finite=True)
    assert np.isfinite(database.read("brightness_temp", [0, 2], check_finite=True)).all()
    assert not np.isfinite(database.read("brightness_temp", [4])).all()


def test_huge_but_finite_pixels_are_no_error(tmp_path):
    path = write(tmp_path / "a.h5", fields={"density": (np.full((6, 8, 8), 3e38, np.float32), "")})
    assert (Database(path).read("density", [1], check_finite=True) == np.float32(3e38)).all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cell_size", "big", "expected finite numbers, got 'big'"),
        ("cell_size", np.nan, "expected finite numbers, got nan"),
        ("cell_size", -1.0, "expected one positive number"),
        ("cell_size", np.array([1.0, 2.0]), "expected one positive number"),
        ("redshifts", np.array([6.0, np.inf]), "expected finite numbers"),
        ("redshifts", "6 to 30", "expected finite numbers"),
    ],
)
def test_geometry_that_cannot_be(path, name, value, message):
    with h5py.File(path, "r+") as file:
        file.attrs[name] = value
    with pytest.raises(ValueError, match=f"maps.h5: root attribute '{name}': {message}"):
        Database(path)


def test_numbers_stored_as_arrays_of_one(path):
    with h5py.File(path, "r+") as file:
        file.attrs["cell_size"], file.attrs["redshifts"] = np.array([1.5]), 6
    database = Database(path)
    assert database.cell_size == 1.5
    assert database.redshifts.tolist() == [6.0]


# Errors of the file itself.


def test_missing_file(path):
    with pytest.raises(FileNotFoundError, match=r"map.h5: there is no such file. Did you mean 'maps.h5'\?"):
        Database(path.with_name("map.h5"))
    with pytest.raises(FileNotFoundError, match=r"there is no such file. Make it with apps/simulate.py"):
        Database(path.with_name("something_else"))
    with pytest.raises(FileNotFoundError, match=r"The folder .* does not exist"):
        Database(path.parent / "nowhere" / "maps.h5")


def test_folder(path):
    with pytest.raises(ValueError, match=r"expected a database file, got a folder.*\['maps.h5'\]"):
        Database(path.parent)


def test_not_hdf5(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("zeta,T\n1,2\n")
    with pytest.raises(ValueError, match="expected an HDF5 file, got something else"):
        Database(path)


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.02])
def test_truncated(path, keep):
    size = path.stat().st_size
    os.truncate(path, int(size * keep))
    with pytest.raises(ValueError, match=r"truncated|cannot be read"):
        Database(path)


def test_dataset_beyond_the_end(path, monkeypatch):
    with h5py.File(path) as file:
        end = file["maps/density"].id.get_offset() + DENSITY.nbytes
    # HDF5 itself finds shortened files; a file that grew wrongly is imitated by a wrong size.
    original = type(path).stat

    def short(self, **options):
        status = original(self, **options)
        return os.stat_result((*status[:6], end - 1, *status[7:])) if self == path else status

    monkeypatch.setattr(type(path), "stat", short)
    with pytest.raises(
        ValueError, match=f"/maps/density: the file is truncated: expected at least {end} bytes, got {end - 1}"
    ):
        Database(path)


def test_file_that_changes_or_vanishes_while_in_use(path):
    database = Database(path)
    shutil.copy(path, path.with_name("copy.h5"))
    path.unlink()
    with pytest.raises(FileNotFoundError, match="was removed since it was opened"):
        database.read("density", [0])
    write(path, parameter_values=VALUES * 1.01)
    with pytest.raises(ValueError, match="changed since it was opened"):
        database.read("density", [0])


# Errors of the content; each changes one thing in a valid file.


def delete(name):
    def change(file):
        del file[name]

    return change


def replace(name, data, **attributes):
    def change(file):
        kept = dict(file[name].attrs)
        del file[name]
        file[name] = data
        file[name].attrs.update({**kept, **attributes})

    return change


def attribute(where, name, value=None):
    def change(file):
        del file[where].attrs[name]
        if value is not None:
            file[where].attrs[name] = value

    return change


def add(name, data):
    def change(file):
        file[name] = data

    return change


def never_written(file):
    del file["maps/density"]
    file["maps"].create_dataset("density", (6, 3, 3), "f4").attrs["units"] = ""


ERRORS = [
    (delete("maps"), "/maps missing; expected /maps, /parameters, /simulation, got /parameters, /simulation"),
    (delete("parameters"), "/parameters missing"),
    (delete("simulation"), "/simulation missing"),
    (add("note", 1), "unexpected /note; expected only /maps, /parameters, /simulation, /finished"),
    (attribute("/", "status"), "root attribute 'status' is missing"),
    (attribute("/", "task"), "root attribute 'task' is missing"),
    (attribute("/", "status", "writing"), "expected root attribute status 'complete', got 'writing'"),
    (attribute("parameters", "names"), "/parameters: attribute 'names' is missing"),
    (attribute("parameters", "prior_low"), "/parameters: attribute 'prior_low' is missing"),
    (attribute("parameters", "names", ["a", "b", "c"]), r"expected 2 names, one per column, got 3: \['a', 'b', 'c'\]"),
    (attribute("parameters", "names", ["a", "a"]), r"expected names that differ, got \['a', 'a'\]"),
    (attribute("parameters", "prior_low", [300.0, 4.0]), "'zeta': expected low < high"),
    (replace("parameters", VALUES[:, 0]), r"expected numbers of shape \(n_simulations, n_parameters\)"),
    (replace("parameters", [[1.0, 2.0], [np.nan, 1.0], [2.0, 3.0]]), "got nan for zeta of simulation 1"),
    (replace("simulation", [0, 1, 2, 3, 0, 0]), r"expected ids from 0 to 2, .* got 3 for map 3 \(1"),
    (replace("simulation", [0, 1, 2, -1, 0, 0]), "got -1 for map 3"),
    (replace("simulation", [0, 0, 2, 2, 0, 0]), "to have maps, got none for 1 of 3, first simulation 1"),
    (replace("simulation", [0.0] * 6), "/simulation: expected one integer per map, got float64"),
    (replace("simulation", [0, 1, 2]), "brightness_temp: expected 3 maps, as many as /simulation has entries, got 6"),
    (replace("maps/density", DENSITY[:4]), "/maps/density: expected 6 maps, as many as /simulation has entries, got 4"),
    (replace("maps/density", DENSITY.astype(int)), "/maps/density: expected float16, float32 or float64, got int64"),
    (replace("maps/density", DENSITY[:, 0, 0]), r"/maps/density: expected shape \(n_maps, height, width"),
    (attribute("maps/density", "units"), "/maps/density: attribute 'units' is missing"),
    (add("maps/z10/density", DENSITY), "/maps/z10: expected a dataset, got a group"),
    (never_written, "/maps/density: nothing was ever written into it"),
    (add("finished", np.array([1, 0, 1], np.uint8)), "/finished says that 2 of 3 simulations are finished"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_content_errors(path, change, message):
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=message) as caught:
        Database(path)
    assert str(path) in str(caught.value)


def test_no_field(path):
    with h5py.File(path, "r+") as file:
        del file["maps/density"], file["maps/brightness_temp"]
    with pytest.raises(ValueError, match="/maps holds no field"):
        Database(path)


def test_parameters_as_group(path):
    with h5py.File(path, "r+") as file:
        del file["parameters"]
        file.create_group("parameters")
    with pytest.raises(ValueError, match="expected /parameters to be a dataset, got a group"):
        Database(path)


def test_outside_the_prior_is_a_warning(tmp_path, caplog):
    path = write(tmp_path / "a.h5", parameter_values=[[20, 4.5], [251, 5.5], [100, 5]])
    with caplog.at_level(logging.WARNING):
        Database(path)
    assert "zeta of 1 of 3 simulations lies outside its prior range [10, 250], first simulation 1: 251" in caplog.text


def test_requirements(path):
    database = Database(path)
    with pytest.raises(ValueError, match="expected a database of task 'matter', got task 'regression'"):
        database.require("matter")
    with pytest.raises(ValueError, match=r"expected the fields \['density', 'mass'\], got .*; missing: \['mass'\]"):
        database.require(fields=("density", "mass"))
    with pytest.raises(ValueError, match=r"missing: \['E_0'\]; unexpected: \['T'\]"):
        database.require(parameters=("zeta", "E_0"))
    with pytest.raises(
        ValueError, match=r"expected the parameters \['T', 'zeta'\], got .* \(same names in another order"
    ):
        database.require(parameters=("T", "zeta"))


def test_bad_indices_and_fields(path):
    database = Database(path)
    with pytest.raises(ValueError, match=r"has maps 0 to 5, got 6"):
        database.read("density", [0, 6])
    with pytest.raises(ValueError, match=r"has maps 0 to 5, got -1"):
        database.targets([-1])
    with pytest.raises(ValueError, match="expected a list of map numbers, got float64"):
        database.read("density", [0.5])
    with pytest.raises(ValueError, match="expected a list of map numbers"):
        database.read("density", 3)
    with pytest.raises(ValueError, match=r"no field 'densty'; expected one of .* Did you mean 'density'\?"):
        database.read("densty", [0])


@pytest.fixture
def sky(tmp_path):
    """Two HEALPix skies of nside 2: a cube of three channels and a map."""
    cube = np.arange(2 * 48 * 3, dtype=np.float32).reshape(2, 48, 3)
    write_database(
        tmp_path / "sky.h5",
        task="dust",
        fields={"hi_cube": (cube, "K"), "dust": (cube[..., 0] * 2, "uK_RJ")},
        parameters=(),
        parameter_values=np.zeros((2, 0)),
        simulation=[0, 1],
        attributes={"nside": 2},
    )
    return tmp_path / "sky.h5", cube


def test_healpix_maps(sky):
    database = Database(sky[0])
    assert {name: field.shape for name, field in database.fields.items()} == {"dust": (48,), "hi_cube": (48, 3)}
    np.testing.assert_array_equal(database.read("hi_cube", [1])[0], sky[1][1])
    assert database.scan().mean["dust"] == pytest.approx(2 * sky[1][..., 0].mean(axis=1))


def test_healpix_maps_have_the_pixels_of_their_nside(sky):
    with h5py.File(sky[0], "r+") as file:
        del file["maps/dust"]
        file["maps/dust"] = np.ones((2, 47), np.float32)
        file["maps/dust"].attrs["units"] = "uK_RJ"
    with pytest.raises(ValueError, match=r"/maps/dust: expected shape \(n_maps, 48\[, channels\]\), HEALPix maps of n"):
        Database(sky[0])


def test_memory_map(sky, path, tmp_path):
    mapped = Database(sky[0]).memory_map("hi_cube")
    np.testing.assert_array_equal(mapped[1, [5, 2]], sky[1][1, [5, 2]])
    with pytest.raises(ValueError, match="read-only"):
        mapped[0, 0, 0] = 1
    with h5py.File(path, "r+") as file:
        del file["maps/density"]
        file.create_dataset("maps/density", data=DENSITY, chunks=(1, *DENSITY.shape[1:])).attrs["units"] = ""
    with pytest.raises(ValueError, match="/maps/density is chunked or compressed, so single pixels cannot be read"):
        Database(path).memory_map("density")
