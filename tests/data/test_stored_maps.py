import h5py
import numpy as np
import pytest

from keras_cosmo.bijectors.map_transform import transform_constants
from keras_cosmo.data.database import Database, write_database
from keras_cosmo.data.stored_maps import StoredMaps, evenly_spread
from keras_cosmo.models.gaussian_field import GaussianField
from keras_cosmo.quantities import Parameter
from keras_cosmo.statistics import spectra
from keras_cosmo.statistics.distributions import distribution_distance, map_moments

PARAMETER = Parameter(name="a", low=0.0, high=1.0)
MAPS = np.random.default_rng(0).lognormal(size=(40, 6, 8)).astype(np.float32)
VALUES = np.linspace(0.0, 1.0, 40)[:, None]
CHOSEN = np.array([7, 3, 3, 39, 0, 12])


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "maps.h5"
    write_database(
        path,
        task="example",
        fields={"density": (MAPS, "K")},
        parameters=(PARAMETER,),
        parameter_values=VALUES,
        simulation=np.arange(40),
        attributes={},
    )
    return Database(path)


KEYS = [
    2,
    -1,
    slice(None),
    slice(1, 4),
    slice(4, 100, 2),
    slice(3, 3),
    [4, 0],
    np.array([True, False, True, False, False, True]),
    (slice(1, 3), slice(None), 4),
    (2, slice(1, 3)),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_slices_are_those_of_an_array(database, key):
    found, expected = database.stored("density", CHOSEN)[key], MAPS[CHOSEN][key]
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_shape_without_reading(database, monkeypatch):
    monkeypatch.setattr(Database, "read", None)
    maps = database.stored("density", CHOSEN)
    assert (maps.shape, maps.ndim, maps.size, len(maps), maps.dtype) == ((6, 6, 8), 3, 288, 6, np.float32)
    assert np.shape(maps) == maps.shape
    assert database.stored("density").shape == MAPS.shape
    assert database.stored("density", []).shape == (0, 6, 8)


def test_as_an_array(database):
    maps = database.stored("density", CHOSEN)
    np.testing.assert_array_equal(np.asarray(maps), MAPS[CHOSEN])
    assert np.asarray(maps, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="Leave out copy=False"):
        np.array(maps, copy=False)


@pytest.mark.parametrize("size", [1, 4, 6, 100])
def test_batches_hold_every_map_once(database, size):
    batches = list(database.stored("density", CHOSEN).batches(size))
    assert {len(batch) for batch in batches[:-1]} <= {size}
    np.testing.assert_array_equal(np.concatenate(batches), MAPS[CHOSEN])


def test_batches_are_bounded(database, monkeypatch):
    monkeypatch.setattr("keras_cosmo.data.stored_maps.BATCH_BYTES", 3 * 48 * 4 + 1)
    assert [len(batch) for batch in database.stored("density").batches()] == [3] * 13 + [1]
    monkeypatch.setattr("keras_cosmo.data.stored_maps.BATCH_BYTES", 1)
    assert [len(batch) for batch in database.stored("density").batches()] == [1] * 40


def test_statistics_are_those_of_the_array(database, monkeypatch):
    """Spectra, moments, distances, the Gaussian field and the constants of a transform, from pieces of the file."""
    monkeypatch.setattr(spectra, "_BATCH_PIXELS", 7 * 48)
    monkeypatch.setattr("keras_cosmo.bijectors.map_transform._BLOCK_PIXELS", 7 * 48)
    read, largest = Database.read, []

    def counted(self, field, indices, *more):
        largest.append(len(indices))
        return read(self, field, indices, *more)

    monkeypatch.setattr(Database, "read", counted)
    stored = database.stored("density", np.arange(40))
    found, expected = spectra.power_spectrum(stored, 1.5), spectra.power_spectrum(MAPS, 1.5)
    np.testing.assert_array_equal(found.power, expected.power)
    for one, other in zip(map_moments(stored), map_moments(MAPS), strict=True):
        np.testing.assert_array_equal(one, other)
    assert distribution_distance(stored, MAPS**2) == distribution_distance(MAPS, MAPS**2)
    one, other = (GaussianField(1).fit(maps, VALUES) for maps in (stored, MAPS))
    np.testing.assert_array_equal(one.power([[0.3]]), other.power([[0.3]]))
    np.testing.assert_array_equal(one.log_prob(stored[:5], VALUES[:5]), other.log_prob(MAPS[:5], VALUES[:5]))
    logarithm = np.log10(MAPS.astype(np.float64))
    assert transform_constants("log10-minmax", stored) == (logarithm.min(), logarithm.max())
    expected = logarithm.mean(), logarithm.std()
    np.testing.assert_allclose(transform_constants("log10-standardise", stored), expected, rtol=1e-13)
    assert max(largest) == 7


def test_maps_that_are_not_finite(tmp_path):
    path = tmp_path / "maps.h5"
    write_database(
        path,
        task="example",
        fields={"density": (MAPS[:3], "")},
        parameters=(PARAMETER,),
        parameter_values=VALUES[:3],
        simulation=np.arange(3),
        attributes={},
    )
    with h5py.File(path, "r+") as file:
        file["maps/density"][1, 2, 3] = np.nan
    database = Database(path)
    assert np.isnan(database.stored("density")[1, 2, 3])
    with pytest.raises(ValueError, match=r"map 1 of simulation 1 has 1 pixels that are not finite"):
        database.stored("density", check_finite=True)[:]


@pytest.mark.parametrize(
    ("field", "indices", "message"),
    [
        ("densty", [0], r"there is no field 'densty'; expected one of \['density'\]"),
        ("density", [40], r"has maps 0 to 39, got 40 to 40. Give existing maps"),
        ("density", [3, -1], r"has maps 0 to 39, got -1 to 3"),
        ("density", [0.5], r"indices: expected a list of map numbers, got float64 of shape \(1,\)"),
        ("density", [[1]], r"indices: expected a list of map numbers, got int64 of shape \(1, 1\)"),
    ],
)
def test_wrong_maps(database, field, indices, message):
    with pytest.raises(ValueError, match=message):
        StoredMaps(database, field, indices)


def test_wrong_use(database):
    with pytest.raises(ValueError, match="size: expected at least 1 map at a time, got 0"):
        database.stored("density").batches(0)
    with pytest.raises(IndexError):
        database.stored("density")[40]
    with pytest.raises(ValueError, match="most: expected at least 1, got 0"):
        evenly_spread([1, 2], 0)


def test_evenly_spread():
    simulation = np.repeat(np.arange(50), 20)
    kept = evenly_spread(np.arange(1000), 150)
    assert len(np.unique(kept)) == 150
    assert (kept[0], kept.max() > 990) == (0, True)
    assert np.bincount(simulation[kept]).tolist() == [3] * 50
    np.testing.assert_array_equal(evenly_spread(CHOSEN, 6), CHOSEN)
