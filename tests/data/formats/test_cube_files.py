import numpy as np
import pytest
from sky_files import channel_velocities

from keras_cosmo.data.formats.cube_files import (
    IMAGE_KEYS,
    KEY_NAMES,
    axis_velocities,
    check_plane,
    check_same_velocities,
    cube_paths,
    is_velocity,
    kelvin_factor,
    read_velocities,
    select_channels,
)

VELOCITIES = channel_velocities(12, -7.0)


def test_files_with_velocities(tmp_path):
    text, array = tmp_path / "velocities.txt", tmp_path / "velocities.npy"
    text.write_text("# km/s\n" + "\n".join(f"{value:.9f}" for value in VELOCITIES))
    np.save(array, VELOCITIES[::-1])
    np.testing.assert_allclose(read_velocities(text), VELOCITIES, atol=1e-9)
    np.testing.assert_array_equal(read_velocities(str(array)), VELOCITIES[::-1])
    np.testing.assert_array_equal(read_velocities([1, 2]), [1.0, 2.0])
    with pytest.raises(FileNotFoundError, match=r"nowhere.txt: there is no such file. Expected velocities in km/s"):
        read_velocities(tmp_path / "nowhere.txt")
    text.write_text("1.0\ntwo\n")
    with pytest.raises(
        ValueError, match=r"velocities.txt: expected velocities in km/s, one number per line: could not"
    ):
        read_velocities(text)
    text.write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"velocities.txt: expected the centres .*, got an array of shape \(0,\)"):
        read_velocities(text)
    array.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"velocities.npy: expected velocities in km/s"):
        read_velocities(array)
    for values in ([1.0, 1.0], [1.0, np.nan, 3.0], [1.0, 3.0, 2.0], [[1.0]], 1.0):
        with pytest.raises(
            ValueError, match="velocities: expected the centres of the channels in km/s in ascending or"
        ):
            read_velocities(values)
    with pytest.raises(ValueError, match=r"within 3000, got -64500 to 17000. Are they in m/s\? Divide them by 1000"):
        read_velocities([-64500.0, 17000.0])


def test_paths_of_files_and_folders(tmp_path):
    for name in ("b.fits", "a.FITS", "c.fit.gz", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in cube_paths(tmp_path)] == ["a.FITS", "b.fits", "c.fit.gz"]
    assert cube_paths(str(tmp_path / "notes.txt")) == (tmp_path / "notes.txt",)
    with pytest.raises(ValueError, match="paths: expected a folder or at least one file, got an empty list"):
        cube_paths([])
    with pytest.raises(ValueError, match="paths: expected each file once, got one of them twice"):
        cube_paths([tmp_path / "b.fits"] * 2)
    with pytest.raises(FileNotFoundError, match=r"d.fits: there is no such file. Correct the path"):
        cube_paths([tmp_path / "b.fits", tmp_path / "d.fits"])


def test_velocities_of_a_header():
    keys = {name: key.format(axis=3) for name, key in zip(KEY_NAMES, IMAGE_KEYS, strict=True)}
    header = {"CTYPE3": "vrad", "CRVAL3": -7000.0, "CRPIX3": 2.0, "CDELT3": 500.0, "CUNIT3": "M/S"}
    assert is_velocity(header, keys)
    assert not is_velocity({}, keys)
    expected = [-7.5, -7.0, -6.5]
    np.testing.assert_allclose(axis_velocities("a.fits", header, keys, 3, None), expected)
    np.testing.assert_allclose(axis_velocities("a.fits", {}, keys, 3, np.array(expected)), expected)
    with pytest.raises(ValueError, match=r"a.fits and the argument velocities do not belong together"):
        axis_velocities("a.fits", header, keys, 3, np.array(expected) + 0.1)
    with pytest.raises(ValueError, match=r"a.fits: expected CUNIT3 to be m/s or km/s, got Hz"):
        axis_velocities("a.fits", {**header, "CUNIT3": "Hz"}, keys, 3, None)


def test_channels_between_two_velocities():
    velocities = np.array([3.0, 2.0, 1.0, 0.0])
    assert select_channels("a", velocities, 0.5, 2.0).tolist() == [2, 1]
    assert select_channels("a", velocities, -0.5, 3.5).tolist() == [3, 2, 1, 0]
    with pytest.raises(ValueError, match=r"from -1 to 2 km/s, but the file has -0.500 to 3.500 km/s \(4 channels\)"):
        select_channels("a", velocities, -1.0, 2.0)


def test_a_twentieth_of_a_channel_is_the_same():
    check_same_velocities("one", VELOCITIES, "two", VELOCITIES + 0.05)
    with pytest.raises(ValueError, match="two and one do not belong together: expected the same velocities, got 12 ch"):
        check_same_velocities("one", VELOCITIES, "two", VELOCITIES + 0.1)


def test_units_of_temperature(caplog):
    assert [kelvin_factor("a", "BUNIT", unit) for unit in ("K", "k (Tb)", "mK")] == [1.0, 1.0, 1e-3]
    assert not caplog.text
    assert kelvin_factor("a", "BUNIT", None) == 1.0
    assert "a: the unit is not known (no BUNIT); K is assumed" in caplog.text
    with pytest.raises(ValueError, match=r"a: expected brightness temperature in K or mK \(BUNIT\), got Jy/beam"):
        kelvin_factor("a", "BUNIT", "Jy/beam")


def test_number_of_a_plane():
    assert check_plane(np.int64(3), 8.0, 4) == (3, 8)
    with pytest.raises(IndexError, match="i: expected a channel from 0 to 3, got 4"):
        check_plane(4, 8, 4)
    with pytest.raises(ValueError, match="nside: expected a power of two, such as 1024, got 3"):
        check_plane(0, 3, 4)
