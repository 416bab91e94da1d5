import logging

import numpy as np
import pytest

from keras_cosmo.data import initial_conditions
from keras_cosmo.data.database import Database, write_database
from keras_cosmo.data.initial_conditions import find_repeated_initial_conditions

SIDE = 32


def fields(count, slabs=3, side=SIDE, seed=0):
    """Maps ``(count, slabs, side, side)`` with most power on large scales, as those of matter have."""
    generator = np.random.default_rng(seed)
    k = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    k[0, 0] = np.inf
    noise = np.fft.rfft2(generator.standard_normal((count, slabs, side, side)))
    return np.fft.irfft2(noise / k, s=(side, side)).astype(np.float32)


def database(tmp_path, maps, *, dtype="float32", simulation=None, **attributes):
    count, slabs = maps.shape[:2]
    path = tmp_path / f"maps_{len(list(tmp_path.iterdir()))}.h5"
    write_database(
        path, task="matter", fields={"density_z15": (maps.reshape(count * slabs, *maps.shape[2:]), "")},
        parameters=(), parameter_values=np.zeros((count, 0)), attributes=attributes, dtype=dtype,
        simulation=np.repeat(np.arange(count), slabs) if simulation is None else simulation,
    )  # fmt: skip
    return Database(path)


def find(*arguments, **options):
    return find_repeated_initial_conditions(database(*arguments, **options), "density_z15")


@pytest.mark.parametrize("slabs", [1, 2, 3])
def test_independent_fields_are_different(tmp_path, slabs):
    assert find(tmp_path, fields(300, slabs)) == []


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "change",
    [
        lambda maps: maps,
        lambda maps: maps.astype(np.float16).astype(np.float32),
        lambda maps: 0.68 * maps,
        lambda maps: 4.0 * maps + 1.0,
        lambda maps: -maps,
        lambda maps: maps + 0.02 * maps.std() * fields(1, seed=5)[0],
        lambda maps: np.expm1(0.3 * maps / maps.std()),
    ],
    ids=["equal", "rounded", "growth", "summed", "paired", "noisy", "evolved"],
)
def test_copies_are_found(tmp_path, dtype, change):
    maps = fields(40)
    maps[33], maps[17] = change(maps[4]), change(maps[25])
    assert find(tmp_path, maps, dtype=dtype) == [(4, 33), (17, 25)]


def test_groups_of_many(tmp_path, monkeypatch):
    monkeypatch.setattr(initial_conditions, "BLOCK_ROWS", 7)
    monkeypatch.setattr(initial_conditions, "BATCH_SIMULATIONS", 4)
    maps = fields(30)
    maps[[8, 29, 13]] = maps[2]
    maps[[21]] = maps[20]
    assert find(tmp_path, maps) == [(2, 8, 13, 29), (20, 21)]
    assert find(tmp_path, np.repeat(fields(1), 30, axis=0)) == [tuple(range(30))]


def test_maps_of_a_simulation_need_not_be_neighbours(tmp_path):
    maps = fields(6, 2)
    maps[5] = maps[1]
    scattered = np.concatenate([maps[:, 0], maps[:, 1]]).reshape(6, 2, SIDE, SIDE)
    assert find(tmp_path, scattered, simulation=np.tile(np.arange(6), 2)) == [(1, 5)]


def test_one_slab_in_common_is_not_enough(tmp_path):
    maps = fields(4, 2)
    maps[3, 0] = maps[0, 0]
    assert find(tmp_path, maps) == []


def test_alike_in_the_large_only(tmp_path):
    maps = fields(4)
    spectrum = np.fft.rfft2(maps[0])
    small = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)) > 0.06
    maps[3] = np.fft.irfft2(np.where(small, np.fft.rfft2(maps[3]), spectrum), s=(SIDE, SIDE))
    assert find(tmp_path, maps) == []


@pytest.mark.parametrize("shape", [(10, 10), (17, 40), (33, 33, 2)])
def test_any_shape_of_maps(tmp_path, shape):
    maps = np.random.default_rng(2).standard_normal((20, 2, *shape)).astype(np.float32)
    maps[11] = 2.0 * maps[3]
    assert find(tmp_path, maps) == [(3, 11)]


def test_flat_maps_show_nothing(tmp_path):
    maps = fields(5)
    maps[1:3] = 0.1
    assert find(tmp_path, maps) == []


def test_seeds(tmp_path, caplog):
    assert find(tmp_path, fields(5), seeds=np.array([3, 4, 5, 4, 3])) == [(0, 4), (1, 3)]
    assert find(tmp_path, fields(5), seeds=np.arange(5)) == []
    foreign = database(tmp_path, fields(5))
    foreign.attributes["seeds"] = np.array([3, 3])
    with caplog.at_level(logging.WARNING):
        assert find_repeated_initial_conditions(foreign, "density_z15") == []
    assert "seeds has 2 entries for 5 simulations; seeds are not compared" in caplog.text


def test_unknown_field(tmp_path):
    with pytest.raises(ValueError, match="there is no field 'density_z10'"):
        find_repeated_initial_conditions(database(tmp_path, fields(2)), "density_z10")


def test_coarse_maps_are_means_of_blocks():
    maps = np.arange(64.0 * 64.0).reshape(1, 64, 64)
    expected = maps.reshape(1, 16, 4, 16, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(initial_conditions._coarse(maps), expected)


@pytest.mark.slow
def test_thousands_of_simulations(tmp_path):
    maps = np.random.default_rng(0).standard_normal((5000, 2, 64, 64), np.float32)
    maps[4321] = 0.3 * maps[77]
    assert find(tmp_path, maps, dtype="float16") == [(77, 4321)]
