"""What is measured of separated maps, on arrays alone."""

import dataclasses
import types

import numpy as np
import pytest

from keras_cosmo.simulations.line_intensity import smooth
from keras_cosmo.statistics.spectra import SpectrumComparison, power_spectrum
from keras_cosmo.tasks.separation import PRESETS
from keras_cosmo.tasks.separation_measures import (
    LARGEST_AMPLIFICATION,
    median_means,
    median_of,
    peak_figures,
    restored_spectrum,
)

CELL, BEAM = 0.4, 1.2
QUICK = PRESETS["quick"]


def prepared(beam=BEAM):
    return types.SimpleNamespace(database=types.SimpleNamespace(cell_size=CELL, attributes={"beam_sigma": beam}))


def test_undoing_the_beam_gives_the_spectrum_before_it():
    raw = 1e-9 * np.random.default_rng(1).lognormal(size=(40, 96, 96))
    # A map in the middle of a wider field, as a telescope sees it: nothing wraps around.
    seen = np.stack([smooth(field, BEAM / CELL)[16:80, 16:80] for field in raw]).astype(np.float32)
    found = restored_spectrum(QUICK, prepared(), [seen])
    white = raw.var() * CELL**2
    known = np.isfinite(found.power).all(axis=0)
    assert known.sum() >= 5
    np.testing.assert_array_equal(known, np.exp((found.k * BEAM) ** 2) <= LARGEST_AMPLIFICATION)
    # The mean of the map takes power from the largest scales.
    compared = known & (found.k > 0.5)
    np.testing.assert_allclose(found.power[:, compared].mean(axis=0) / white, 1.0, atol=0.12)
    three = restored_spectrum(QUICK, prepared(), [seen, 2.0 * seen, 0.1 * seen])
    np.testing.assert_allclose(three.power, found.power, rtol=1e-4)


def test_without_a_beam_there_is_nothing_to_undo():
    maps = np.ones((2, 16, 16))
    assert restored_spectrum(QUICK, prepared(0.0), [maps]) is None
    assert restored_spectrum(dataclasses.replace(QUICK, maps="unsmoothed"), prepared(), [maps]) is None


def test_dark_predictions_have_no_spectrum_before_the_beam():
    maps = np.zeros((2, 32, 32), np.float32)
    power = restored_spectrum(QUICK, prepared(), [maps]).power
    assert not np.nan_to_num(power).any()


def test_medians_of_networks_are_of_statistics():
    k, true = np.array([1.0]), np.array([[1.0], [2.0]])
    members = [SpectrumComparison(k, true, factor * true, true) for factor in (0.1, 2.0, 0.7)]
    median = median_of(members, ("predicted", "cross"))
    assert median.predicted == pytest.approx(0.7 * true)
    assert median.true is true
    maps = {name: np.full((2, 4, 4, 1), value) for name, value in {"a": 1.0, "b": 5.0, "c": 2.0, "Wiener": 9.0}.items()}
    maps["observed map"] = maps["a"]
    means = median_means(maps, ["a", "b", "c"])
    assert list(means) == ["median of 3", "Wiener"]
    assert means["median of 3"].tolist() == [[2.0], [2.0]]


def test_low_peaks_are_counted_as_asked(monkeypatch):
    """Thresholds below those of the curve must not silently become those of the curve."""
    from keras_cosmo.figures import separation as draw
    from keras_cosmo.statistics.peaks import find_peaks

    shown = {}
    monkeypatch.setattr(draw, "peak_statistics", lambda scores, *others, **more: shown.update(scores))
    true = np.random.default_rng(0).lognormal(size=(3, 32, 32, 2))
    preset = dataclasses.replace(QUICK, peak_threshold=0.5)
    peak_figures(preset, true, {"network": true}, np.arange(3))
    expected = len(find_peaks(true[..., 0], 0.5).map_index)
    assert expected > len(find_peaks(true[..., 0], 2.0).map_index)
    assert shown["halpha"]["network"].predicted == shown["halpha"]["network"].true == expected


def test_spectrum_of_the_prediction_is_that_of_the_maps():
    maps = np.random.default_rng(3).normal(size=(2, 32, 32))
    assert power_spectrum(maps, CELL).k == pytest.approx(restored_spectrum(QUICK, prepared(), [maps]).k)
