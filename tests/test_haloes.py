import numpy as np
import pytest

from keras_cosmo.haloes import HaloCatalogue

POSITIONS = np.array([[0.0, 1.0, 99.9], [50.0, 50.0, 50.0]])
MASSES = np.array([1e11, 3e12])


def test_a_catalogue_keeps_what_it_is_given():
    haloes = HaloCatalogue(1.3, 100.0, POSITIONS, MASSES, label="a.out", seed=7)
    assert (len(haloes), haloes.redshift, haloes.box_size, haloes.label, haloes.seed) == (2, 1.3, 100.0, "a.out", 7)
    np.testing.assert_array_equal(haloes.positions, POSITIONS)
    np.testing.assert_array_equal(haloes.masses, MASSES)


def test_arrays_are_copies_that_cannot_be_changed():
    positions = POSITIONS.copy()
    haloes = HaloCatalogue(1.3, 100.0, positions, MASSES)
    positions[0] = 3.0
    assert haloes.positions[0, 0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        haloes.positions[0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        haloes.masses[0] = 1.0


@pytest.mark.parametrize(
    ("given", "kept"), [(np.float32, np.float32), (np.float64, np.float64), (np.int64, np.float64)]
)
def test_single_precision_stays_and_integers_become_double(given, kept):
    haloes = HaloCatalogue(0.0, 100.0, POSITIONS.astype(given), MASSES.astype(given))
    assert (haloes.positions.dtype, haloes.masses.dtype) == (kept, kept)


def test_an_empty_catalogue_and_lists_are_fine():
    assert len(HaloCatalogue(1.0, 10.0, np.zeros((0, 3)), np.zeros(0))) == 0
    assert len(HaloCatalogue(1.0, 10.0, [[1.0, 2.0, 3.0]], [1e12])) == 1


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"redshift": -0.1}, ValueError, "HaloCatalogue x: expected a redshift of at least 0, got -0.1"),
        ({"redshift": np.nan}, ValueError, "expected a redshift of at least 0, got nan"),
        ({"box_size": 0.0}, ValueError, "expected a positive box_size in Mpc, got 0.0"),
        ({"seed": 1.5}, TypeError, "expected seed to be an integer or None, got 1.5"),
        ({"seed": True}, TypeError, "expected seed to be an integer or None, got True"),
        ({"positions": np.zeros((2, 2))}, ValueError, r"expected positions of shape \(n, 3\), got \(2, 2\)"),
        ({"positions": np.array([["a", "b", "c"]])}, ValueError, "expected positions to be numbers"),
        ({"masses": np.ones(3)}, ValueError, r"expected one mass per position, got masses of shape \(3,\) for 2"),
        ({"masses": np.array([1e12, 0.0])}, ValueError, "expected positive finite masses in solar masses, got 0 to"),
        ({"masses": np.array([1e12, np.nan])}, ValueError, "expected positive finite masses"),
        ({"box_size": 50.0}, ValueError, r"expected positions in \[0, 50\) Mpc, got 0 to 99.9. Wrap them"),
        ({"positions": POSITIONS - 1.0}, ValueError, r"expected positions in \[0, 100\) Mpc, got -1 to"),
        ({"positions": np.full((2, 3), np.nan)}, ValueError, r"expected positions in \[0, 100\) Mpc, got nan"),
    ],
)
def test_wrong_catalogues_are_refused(changes, error, match):
    arguments = {"redshift": 1.3, "box_size": 100.0, "positions": POSITIONS, "masses": MASSES, "label": "x"}
    with pytest.raises(error, match=match):
        HaloCatalogue(**{**arguments, **changes})
