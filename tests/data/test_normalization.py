import numpy as np
import pytest

from keras_cosmo.data.database import Database, write_database
from keras_cosmo.data.normalization import Normalization, fit_normalization
from keras_cosmo.quantities import Parameter


@pytest.fixture(scope="module")
def scan_and_maps(tmp_path_factory):
    generator = np.random.default_rng(0)
    maps = (1e4 + generator.standard_normal((9, 20, 30)) * np.arange(1, 10)[:, None, None]).astype(np.float32)
    path = tmp_path_factory.mktemp("normalization") / "a.h5"
    write_database(
        path, task="t", fields={"signal": (maps, "mK"), "flat": (np.full_like(maps, 7), "")}, attributes={},
        parameters=(Parameter(name="a", low=0, high=1),), parameter_values=np.full((9, 1), 0.5), simulation=range(9),
    )  # fmt: skip
    return Database(path).scan(), maps.astype(np.float64)


@pytest.mark.parametrize("indices", [[0, 3, 8], list(range(9)), [4]])
def test_equals_numpy_on_all_pixels(scan_and_maps, indices):
    scan, maps = scan_and_maps
    normalization = fit_normalization(scan, "signal", indices)
    assert normalization.mean == pytest.approx(maps[indices].mean(), rel=1e-14)
    assert normalization.standard_deviation == pytest.approx(maps[indices].std(), rel=1e-11)
    normal = normalization.normalize(maps[indices])
    assert normal.mean() == pytest.approx(0, abs=1e-10)
    assert normal.std() == pytest.approx(1)
    np.testing.assert_allclose(normalization.restore(normal), maps[indices], rtol=1e-14)


def test_errors(scan_and_maps):
    scan, _ = scan_and_maps
    with pytest.raises(ValueError, match="flat: all pixels of the 2 maps equal 7"):
        fit_normalization(scan, "flat", [0, 1])
    with pytest.raises(ValueError, match=r"field: expected one of \['flat', 'signal'\], got 'noise'"):
        fit_normalization(scan, "noise", [0])
    with pytest.raises(ValueError, match="indices: expected at least one map number"):
        fit_normalization(scan, "signal", [])
    with pytest.raises(ValueError, match="indices: expected map numbers 0 to 8, got 0 to 9"):
        fit_normalization(scan, "signal", [0, 9])


@pytest.mark.parametrize("values", [(0.0, 0.0), (0.0, -1.0), (np.nan, 1.0), (0.0, np.inf)])
def test_values(values):
    with pytest.raises(ValueError, match="expected finite numbers and standard_deviation > 0"):
        Normalization(*values)
