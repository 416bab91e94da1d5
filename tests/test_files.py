import errno
import os

import numpy as np
import pytest

from keras_cosmo.files import disk_array, written_aside


def test_whole_or_absent(tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="no"), written_aside(target) as aside:  # noqa: PT012
        aside.write_text("half")
        raise RuntimeError("no")
    assert target.read_text() == "old"
    with written_aside(target) as aside:
        aside.write_text("new")
        assert target.read_text() == "old"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.csv", "new")]


def test_disk_full_names_the_file_and_what_to_do(tmp_path):
    with (
        pytest.raises(OSError, match=r"a\.csv: No space left.*Make room, then try again\."),
        written_aside(tmp_path / "a.csv", "try again"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_disk_array_goes_with_its_file():
    array = disk_array((3, 2))
    assert (array.shape, array.dtype) == ((3, 2), np.float32)
    assert not array.any()
    array[1] = 5.0
    assert array.sum() == 10.0
    assert disk_array((3, 2)).sum() == 0.0


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no way to ask for room here")
def test_disk_array_without_room():
    with pytest.raises(OSError, match=r"No room for 4e\+06 GB in .* set TMPDIR to a folder"):
        disk_array((10**6, 10**9))
