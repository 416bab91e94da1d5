import errno
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from keras_cosmo.data import database_writer
from keras_cosmo.data.database import Database, write_database
from keras_cosmo.data.database_writer import DatabasePlan, DatabaseWriter, partial_path
from keras_cosmo.quantities import MapField, Parameter

PARAMETERS = (Parameter(name="a", low=0, high=1), Parameter(name="b", low=0, high=1, unit="K"))
SIMULATION = np.array([0, 1, 0, 2, 2, 1, 2])
MAPS = np.random.default_rng(0).standard_normal((7, 3, 4), np.float32)


def plan(**changes):
    arguments = {
        "task": "matter",
        "fields": {
            "density": MapField(unit="", shape=(3, 4), description="contrast"),
            "mass": MapField(unit="K", shape=(3, 4)),
        },
        "parameters": PARAMETERS,
        "parameter_values": np.linspace(0, 1, 6).reshape(3, 2),
        "simulation": SIMULATION,
        "seeds": np.array([11, 12, 13]),
        "attributes": {"cell_size": 2.0, "note": "underway "},
    }
    return DatabasePlan(**{**arguments, **changes})


def write_all(writer, order=(0, 1, 2)):
    for simulation in order:
        rows = simulation == SIMULATION
        writer.write(simulation, {"density": MAPS[rows], "mass": 2 * MAPS[rows]})


def names_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_scattered_maps_in_any_order(tmp_path):
    path = tmp_path / "a.h5"
    with DatabaseWriter.create(path, plan()) as writer:
        write_all(writer, (2, 0, 1))
        assert not path.exists()
        assert writer.finish() == path
    database = Database(path)
    np.testing.assert_array_equal(database.read("density", range(7)), MAPS)
    np.testing.assert_array_equal(database.read("mass", range(7)), 2 * MAPS)
    assert database.fields["density"].description == "contrast"
    assert database.attributes["seeds"].tolist() == [11, 12, 13]
    assert database.attributes["note"] == "underway "
    assert names_in(tmp_path) == ["a.h5"]


def test_resume_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "a.h5"
    with DatabaseWriter.open(path, plan()) as writer:
        write_all(writer, (1,))
    with DatabaseWriter.open(path, plan()) as writer:
        assert writer.finished.tolist() == [False, True, False]
        with pytest.raises(ValueError, match=r"2 of 3 simulations are not finished, first \[0, 2\]"):
            writer.finish()
        write_all(writer, (0, 2))
        writer.finish()
    np.testing.assert_array_equal(Database(path).read("density", range(7)), MAPS)


def test_maps_in_parts(tmp_path):
    """Maps that are larger than the memory; the file is the same as if they were written at once."""
    for name in ("whole.h5", "parts.h5"):
        with DatabaseWriter.create(tmp_path / name, plan()) as writer:
            if name == "whole.h5":
                write_all(writer)
            else:
                for row in range(7):
                    for first, last in ((1, 3), (0, 1)):
                        writer.write_part("density", row, first, MAPS[row, first:last].astype(float))
                        writer.write_part("mass", row, first, 2 * MAPS[row, first:last])
                assert not writer.finished.any()
                for simulation in range(3):
                    writer.mark_finished(simulation)
                assert writer.finished.all()
            writer.finish()
    assert (tmp_path / "parts.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_parts_that_do_not_fit(tmp_path, monkeypatch):
    with DatabaseWriter.create(tmp_path / "a.h5", plan()) as writer:
        with pytest.raises(ValueError, match=r"field: expected one of \['density', 'mass'\], got 'dust'"):
            writer.write_part("dust", 0, 0, MAPS[0])
        with pytest.raises(ValueError, match="row: expected 0 to 6, got 7"):
            writer.write_part("mass", 7, 0, MAPS[0])
        for first, values in ((1, MAPS[0]), (-1, MAPS[0]), (0, MAPS[0, :, :3]), (0, MAPS[0, 0])):
            with pytest.raises(
                ValueError, match=rf"expected a part of a map of mass of shape \(3, 4\), got .* from {first} on"
            ):
                writer.write_part("mass", 0, first, values)
        with pytest.raises(ValueError, match=r"expected finite pixels in mass, got nan at \(0, 0, 0\)"):
            writer.write_part("mass", 0, 2, np.full((1, 4), np.nan))
        with pytest.raises(ValueError, match="simulation: expected 0 to 2, got 3"):
            writer.mark_finished(3)

        def full(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(
            OSError, match=r"writing a part of mass failed: No space left on device. 0 of 3 simulations"
        ):
            writer.write_part("mass", 0, 0, MAPS[0])


def test_unfinished_file_is_valid_but_not_a_database(tmp_path):
    path = tmp_path / "a.h5"
    with DatabaseWriter.open(path, plan()) as writer:
        write_all(writer, (1,))
        with pytest.raises(
            FileNotFoundError, match=r"a.h5.partial is an unfinished campaign: 1 of 3 simulations are fin"
        ):
            Database(path)
        with pytest.raises(ValueError, match=r"1 of 3 simulations are finished. Run the same command again to resume"):
            Database(partial_path(path))
    with h5py.File(partial_path(path)) as file:
        assert file.attrs["status"] == "underway"
        assert file["finished"][()].tolist() == [0, 1, 0]
        np.testing.assert_array_equal(file["maps/density"][1], MAPS[1])
    shutil.copy(partial_path(path), tmp_path / "renamed.h5")
    with pytest.raises(ValueError, match="expected root attribute status 'complete', got 'underway'"):
        Database(tmp_path / "renamed.h5")


def test_one_writer_at_a_time(tmp_path):
    path = tmp_path / "a.h5"
    with DatabaseWriter.open(path, plan()), pytest.raises(RuntimeError, match="is being written by another process"):
        DatabaseWriter.open(path, plan())
    DatabaseWriter.open(path, plan()).close()


def test_existing_files_are_kept(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("x")
    with pytest.raises(FileExistsError, match="exists already"):
        DatabaseWriter.create(path, plan())
    path.unlink()
    with DatabaseWriter.create(path, plan()) as writer:
        with pytest.raises(FileExistsError, match="appeared meanwhile"):
            DatabaseWriter.create(path, plan())
        write_all(writer)
        path.write_text("x")
        with pytest.raises(FileExistsError, match="appeared meanwhile"):
            writer.finish()
    assert path.read_text() == "x"
    assert names_in(tmp_path) == ["a.h5", "a.h5.partial"]


def test_without_hard_links(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    path = tmp_path / "a.h5"
    with DatabaseWriter.create(path, plan()) as writer:
        write_all(writer)
        writer.finish()
    assert names_in(tmp_path) == ["a.h5"]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"task": "regression"}, "attribute task is matter, expected regression"),
        ({"attributes": {"cell_size": 3.0, "note": "underway "}}, "attribute cell_size is 2.0, expected 3.0"),
        ({"attributes": {"cell_size": 2.0}}, "attribute note is underway , expected none"),
        ({"seeds": np.array([11, 12, 14])}, "attribute seeds is"),
        ({"parameter_values": np.zeros((3, 2))}, "parameters of simulation 0 are"),
        ({"simulation": np.array([0, 1, 0, 2, 1, 2, 2])}, "simulation ids of the maps differ"),
        ({"dtype": "float16"}, r"maps are density float32 \(7, 3, 4\), .* expected density float16"),
        ({"fields": {"density": MapField(unit="", shape=(3, 4))}}, "maps are .*, expected density float32"),
        (
            {"parameters": (PARAMETERS[0], Parameter(name="c", low=0, high=1, unit="K"))},
            r"parameter names are \['a', 'b'\]",
        ),
    ],
)
def test_resume_with_another_plan(tmp_path, changes, difference):
    path = tmp_path / "a.h5"
    DatabaseWriter.create(path, plan()).close()
    with pytest.raises(ValueError, match=f"begun with another plan: {difference}"):
        DatabaseWriter.open(path, plan(**changes))


def test_foreign_partial_files(tmp_path):
    path = tmp_path / "a.h5"
    partial_path(path).write_text("not HDF5")
    with pytest.raises(ValueError, match=r"cannot be read as HDF5.*delete it and begin again"):
        DatabaseWriter.open(path, plan())
    with h5py.File(partial_path(path), "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match="it is not laid out as a database"):
        DatabaseWriter.open(path, plan())


def test_leftovers_of_dead_processes_are_removed(tmp_path):
    import socket

    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    # In a container a restarted process has the number of the one before it.
    (tmp_path / f".a.h5.{socket.gethostname()}-{os.getpid()}.partial").write_text("x")
    (tmp_path / f".a.h5.{socket.gethostname()}-{process.pid}.partial").write_text("x")
    (tmp_path / f".a.h5.{socket.gethostname()}-{os.getppid()}.partial").write_text("of a living process")
    DatabaseWriter.create(tmp_path / "a.h5", plan()).close()
    assert names_in(tmp_path) == [f".a.h5.{socket.gethostname()}-{os.getppid()}.partial", "a.h5.partial"]
    left = tmp_path / f".b.h5.{socket.gethostname()}-{process.pid}.partial"
    left.write_text("x")
    write_database(
        tmp_path / "b.h5", task="t", fields={"d": (MAPS, "K")}, parameters=PARAMETERS,
        parameter_values=np.zeros((3, 2)), simulation=SIMULATION, attributes={},
    )  # fmt: skip
    assert not left.exists()


# A full disk.


def test_too_little_space_is_found_first(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(2000, 1000, 1000))
    with pytest.raises(
        OSError, match=rf"the database needs {plan().data_bytes + 2**20} bytes .* 1000 bytes .* are free"
    ) as caught:
        DatabaseWriter.create(tmp_path / "a.h5", plan())
    assert caught.value.errno == errno.ENOSPC
    assert not names_in(tmp_path)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve space")
def test_space_is_really_reserved(tmp_path, monkeypatch):
    big = plan(fields={"density": MapField(unit="", shape=(300, 400))})
    with DatabaseWriter.create(tmp_path / "a.h5", big) as writer:
        assert writer.partial.stat().st_blocks * 512 >= big.data_bytes

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"the database needs .* bytes .* are free. Free some space"):
        DatabaseWriter.create(tmp_path / "b.h5", big)
    assert names_in(tmp_path) == ["a.h5.partial"]


def test_file_systems_that_cannot_reserve(tmp_path, monkeypatch, caplog):
    def unable(*arguments):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unable, raising=False)
    DatabaseWriter.create(tmp_path / "a.h5", plan()).close()
    assert "cannot reserve space in advance" in caplog.text


@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_disk_full_while_writing_leaves_a_resumable_file(tmp_path, monkeypatch, failing_call):
    path, pwrite, calls = tmp_path / "a.h5", os.pwrite, []

    def full(descriptor, view, offset):
        calls.append(offset)
        if len(calls) == failing_call:
            pwrite(descriptor, bytes(view)[: len(view) // 2], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, view, offset)

    with DatabaseWriter.create(path, plan()) as writer:
        write_all(writer, (2,))
        monkeypatch.setattr(os, "pwrite", full)
        message = r"writing simulation 0 failed: No space left on device. 1 of 3 simulations are finished and safe"
        with pytest.raises(OSError, match=message) as caught:
            write_all(writer, (0,))
        assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    with DatabaseWriter.open(path, plan()) as writer:
        assert writer.finished.tolist() == [False, False, True]
        write_all(writer, (0, 1))
        writer.finish()
    np.testing.assert_array_equal(Database(path).read("mass", range(7)), 2 * MAPS)


def test_file_size_limit_of_the_system(tmp_path):
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from keras_cosmo.data.database import write_database\n"
        "from keras_cosmo.quantities import Parameter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "write_database(sys.argv[1], task='t', fields={'d': (np.zeros((1, 300, 300)), '')}, attributes={},\n"
        "    parameters=(Parameter(name='a', low=0, high=1),), parameter_values=[[0.5]], simulation=[0])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.h5")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "File too large" in result.stderr
    assert not names_in(tmp_path)


# Arguments.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"parameter_values": np.zeros((3, 3))},
            r"parameter_values: expected shape \(n_simulations, 2\).* got \(3, 3\)",
        ),
        ({"parameter_values": np.zeros((0, 2))}, "parameter_values: expected shape"),
        ({"parameter_values": [[0, 1], [np.inf, 0], [0, 0]]}, "got inf for a of simulation 1"),
        ({"simulation": [0.0, 1.0, 2.0]}, "simulation: expected one integer per map, got float64"),
        ({"simulation": [0, 2, 2]}, r"expected ids 0 to 2 that each occur.* got 2 different ids"),
        ({"fields": {}}, "fields: expected at least one field"),
        ({"fields": {"a/b": MapField(unit="", shape=(3, 4))}}, "'a/b' cannot name a dataset"),
        ({"fields": {"a": MapField(unit="", shape=(3,))}}, r"expected a to have shape \(height, width"),
        (
            {"fields": {"a": MapField(unit="", shape=(3,))}, "attributes": {"nside": 2}},
            r"expected a to have shape \(48\[, channels\]\), as HEALPix maps of nside 2, got \(3,\)",
        ),
        ({"dtype": "float64"}, r"dtype: expected one of \('float16', 'float32'\), got 'float64'"),
        ({"seeds": [1, 2]}, r"seeds: expected one per simulation, shape \(3,\), got \(2,\)"),
        ({"attributes": {"task": "x"}}, r"attributes: \['task'\] are written by the database itself"),
    ],
)
def test_plan_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(**changes)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("underway", "attributes: x cannot be 'underway'"),
        ({"a": 1}, "attributes: x must be a number, text or an array of them, got dict"),
    ],
)
def test_attribute_errors(tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        DatabaseWriter.create(tmp_path / "a.h5", plan(attributes={"x": value}))
    assert not names_in(tmp_path)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({"density": MAPS[:2]}, r"expected the fields \['density', 'mass'\], got \['density'\]"),
        ({"density": MAPS[:2], "mass": MAPS[:3]}, r"expected mass of shape \(2, 3, 4\), got \(3, 3, 4\)"),
        ({"density": MAPS[:2], "mass": MAPS[:2] + 1j}, "expected real numbers in mass, got complex64"),
        (
            {"density": MAPS[:2] * np.nan, "mass": MAPS[:2]},
            r"finite pixels in density, got nan at \(0, 0, 0\) and 24 such",
        ),
    ],
)
def test_map_errors(tmp_path, maps, message):
    with DatabaseWriter.create(tmp_path / "a.h5", plan()) as writer:
        with pytest.raises(ValueError, match=message):
            writer.write(0, maps)
        with pytest.raises(ValueError, match="simulation: expected 0 to 2, got 3"):
            writer.write(3, maps)
        assert not writer.finished.any()


def test_status_that_cannot_be_found(tmp_path, monkeypatch):
    DatabaseWriter.create(tmp_path / "a.h5", plan()).close()
    monkeypatch.setattr(database_writer, "STATUS_UNFINISHED", b"ongoing.")
    with pytest.raises(RuntimeError, match="expected the status once in the HDF5 structures, found it 0 times"):
        DatabaseWriter.open(tmp_path / "a.h5", plan())


def test_write_database_errors_leave_nothing_behind(tmp_path):
    arguments = {
        "task": "t",
        "fields": {"d": (MAPS * 1e6, "K")},
        "parameters": PARAMETERS,
        "parameter_values": np.zeros((3, 2)),
        "simulation": SIMULATION,
        "attributes": {},
    }
    with pytest.raises(ValueError, match="do not fit float16"):
        write_database(tmp_path / "a.h5", dtype="float16", **arguments)
    assert not names_in(tmp_path)
    write_database(tmp_path / "a.h5", **arguments)
    with pytest.raises(FileExistsError, match="exists already"):
        write_database(tmp_path / "a.h5", **{**arguments, "task": "u"})
    assert Database(tmp_path / "a.h5").task == "t"
    with pytest.raises(FileNotFoundError, match=r"the folder .* does not exist"):
        write_database(tmp_path / "none" / "a.h5", **arguments)
    assert names_in(tmp_path) == ["a.h5"]


def test_without_parameters(tmp_path):
    write_database(
        tmp_path / "a.h5", task="t", fields={"d": (MAPS, "K")}, parameters=(), parameter_values=np.zeros((3, 0)),
        simulation=SIMULATION, attributes={},
    )  # fmt: skip
    assert Database(tmp_path / "a.h5").targets([0, 1]).shape == (2, 0)
