import numpy as np
import pytest

from keras_cosmo.data.database import Database, write_database
from keras_cosmo.data.initial_conditions import find_repeated_initial_conditions


def write(path, maps, per_simulation=2):
    simulation = np.repeat(np.arange(len(maps) // per_simulation), per_simulation)
    write_database(
        path,
        task="matter",
        fields={"density_z15": (maps.astype("float32"), "")},
        parameters=(),
        parameter_values=np.zeros((len(maps) // per_simulation, 0)),
        simulation=simulation,
        attributes={},
    )
    return Database(path)


def smooth_maps(count, side=64, seed=0):
    """Gaussian maps with a red spectrum, as density is."""
    k = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)) * side
    noise = np.fft.fft2(np.random.default_rng(seed).standard_normal((count, side, side)))
    maps = np.fft.ifft2(noise / np.maximum(k, 1.0)).real
    return maps / maps.std(axis=(1, 2), keepdims=True)


def test_independent_fields_are_not_confused(tmp_path):
    assert find_repeated_initial_conditions(write(tmp_path / "a.h5", smooth_maps(400)), "density_z15") == []


@pytest.mark.parametrize(
    "change",
    [
        lambda maps: maps,
        lambda maps: maps.astype("float16"),
        lambda maps: 0.7 * maps,  # linear growth
        lambda maps: np.exp(0.3 * maps) - 1.0,  # and some that is not linear
    ],
)
def test_planted_repeats_are_named(tmp_path, change):
    maps = smooth_maps(40)
    maps[[6, 7]] = change(maps[[0, 1]])
    maps[[30, 31]] = change(maps[[0, 1]])
    maps[[20, 21]] = change(maps[[10, 11]])
    found = find_repeated_initial_conditions(write(tmp_path / "a.h5", maps), "density_z15")
    assert found == [(0, 3, 15), (5, 10)]


def test_constant_maps_and_odd_sides(tmp_path):
    maps = smooth_maps(8, side=37)
    maps[:4] = 0.0
    assert find_repeated_initial_conditions(write(tmp_path / "a.h5", maps), "density_z15") == []


def test_errors(tmp_path):
    database = write(tmp_path / "a.h5", smooth_maps(4))
    with pytest.raises(ValueError, match=r"there is no field 'density_z10'; expected one of"):
        find_repeated_initial_conditions(database, "density_z10")
