import dataclasses

import numpy as np
import pytest

from keras_cosmo.simulations.emission_lines import HALPHA, OII_3727, OIII_5007
from keras_cosmo.simulations.halo_luminosity import HaloLuminosity, LuminosityTable

TABLE = LuminosityTable((10.5, 11.0, 12.0), (11.0, 12.0, 13.0), (1e39, 2e41, 3e42), (5e38, 1e41, 2e42), "halpha", 1.3)
MASSES = np.geomspace(5e10, 3e13, 50)


def rng():
    return np.random.default_rng(1)


def test_star_formation_rates_at_the_published_redshifts():
    relation = HaloLuminosity()
    # Gong et al. 2017, equation 6 with the rows of table 1 for redshifts 1.4 and 2.2, at 4e11 Msun.
    expected = 10**-7.70 * 4000.0**2.49 * 2.0**-2.18
    assert relation.star_formation_rate(4e11, 1.4) == pytest.approx(expected)
    assert relation.star_formation_rate(4e11, 2.2) == pytest.approx(10**-7.10 * 4000.0**2.42 * 2.0**-2.10)
    between = relation.star_formation_rate(4e11, 1.6)
    assert relation.star_formation_rate(4e11, 1.4) < between < relation.star_formation_rate(4e11, 1.8)
    assert relation.star_formation_rate(1e13, 1.4) == relation.star_formation_rate(1e14, 1.4)
    other = HaloLuminosity(relation="silva2015")
    assert other.star_formation_rate(8e11, 1.63) == pytest.approx(4.92e-9 * 8000.0**2.7 / 16.0)
    middle = other.star_formation_rate(8e11, 0.5 * (1.63 + 2.19))
    assert middle == pytest.approx(np.sqrt(4.92e-9 * 9.18e-9) * 8000.0**2.7 / 16.0)


def test_the_two_relations_agree_within_a_factor_for_common_haloes():
    masses = np.geomspace(2e11, 3e12, 10)
    ratio = HaloLuminosity().star_formation_rate(masses, 1.4) / HaloLuminosity("silva2015").star_formation_rate(
        masses, 1.4
    )
    assert ratio.min() > 0.3
    assert ratio.max() < 3.0


def test_no_scatter_gives_exact_luminosities():
    exact = HaloLuminosity(scatter=0.0)
    mean, deviation = exact.moments(HALPHA, MASSES, 1.4)
    np.testing.assert_array_equal(exact.draw(HALPHA, MASSES, 1.4, rng()), mean)
    np.testing.assert_array_equal(deviation, 0.0)
    rates = exact.star_formation_rate(MASSES, 1.4)
    np.testing.assert_allclose(mean, 10**-0.4 / 7.9e-42 * rates)


def test_log_normal_scatter_keeps_the_mean():
    relation = HaloLuminosity(scatter=0.3)
    drawn = relation.draw(OIII_5007, np.full(400_000, 1e12), 2.0, rng())
    mean, deviation = relation.moments(OIII_5007, 1e12, 2.0)
    assert drawn.mean() == pytest.approx(mean, rel=4 * deviation / mean / np.sqrt(len(drawn)))
    assert drawn.std() == pytest.approx(deviation, rel=0.03)
    assert np.log10(drawn).std() == pytest.approx(0.3, rel=0.01)


def test_a_table_gives_gaussian_luminosities_of_its_bins():
    relation = HaloLuminosity(tables=(TABLE,))
    masses = np.repeat([4e10, 5e11, 5e12, 5e13], 100_000)
    drawn = relation.draw(HALPHA, masses, 1.286, rng()).reshape(4, -1)
    mean, deviation = relation.moments(HALPHA, masses, 1.286)
    np.testing.assert_allclose(drawn.mean(axis=1), mean[::100_000], rtol=0.01)
    np.testing.assert_allclose(drawn.std(axis=1), deviation[::100_000], rtol=0.01)
    assert drawn.min() == 0.0
    # Two deviations above zero: clipping raises the mean by 0.4 %; the last bin holds for all heavier haloes.
    assert 1.0 < mean[0] / 1e39 < 1.01
    np.testing.assert_array_equal(mean[-1], mean[-100_001])


def test_a_table_without_scatter_is_exact_and_haloes_below_it_are_dark():
    exact = dataclasses.replace(TABLE, standard_deviation=(0.0, 0.0, 0.0))
    relation = HaloLuminosity(tables=(exact,))
    masses = np.array([3e10, 10**10.5, 9.9e10, 1.01e11, 5e12, 1e15])
    expected = [0.0, 1e39, 1e39, 2e41, 3e42, 3e42]
    np.testing.assert_array_equal(relation.draw(HALPHA, masses, 1.3, rng()), expected)
    mean, deviation = relation.moments(HALPHA, masses, 1.3)
    np.testing.assert_array_equal(mean, expected)
    np.testing.assert_array_equal(deviation, 0.0)
    dark, spread = HaloLuminosity(tables=(TABLE,)).moments(HALPHA, np.array([1e9]), 1.3)
    assert (dark[0], spread[0]) == (0.0, 0.0)


def test_lines_without_a_table_keep_the_relation():
    with_table, without = HaloLuminosity(tables=(TABLE,)), HaloLuminosity()
    for one, other in zip(
        with_table.moments(OIII_5007, MASSES, 2.0), without.moments(OIII_5007, MASSES, 2.0), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert hash(with_table) != hash(without)


def test_columns_may_be_arrays():
    table = LuminosityTable(*(np.array(column) for column in ([10.5], [11.0], [1e39], [0.0])), "oiii", 2.0)
    assert table.mean == (1e39,)
    assert hash(table) == hash(LuminosityTable((10.5,), (11.0,), (1e39,), (0.0,), "oiii", 2.0))


@pytest.mark.parametrize(
    ("relation", "line", "redshift", "match"),
    [
        ("gong2017", HALPHA, 0.5, "Halpha: star formation rates of gong2017 are known for redshifts 1 to 3.3"),
        ("gong2017", OII_3727, 4.0, "from redshift 4.000. Leave out the line"),
        ("silva2015", OII_3727, 3.0247, r"silva2015 are known for redshifts 1.07 to 2.19, the line is seen from"),
    ],
)
def test_redshifts_without_a_relation_are_refused(relation, line, redshift, match):
    luminosity = HaloLuminosity(relation=relation)
    with pytest.raises(ValueError, match=match):
        luminosity.moments(line, MASSES, redshift)
    with pytest.raises(ValueError, match=match):
        luminosity.draw(line, MASSES, redshift, rng())


def test_a_table_of_another_redshift_is_refused():
    with pytest.raises(ValueError, match=r"the luminosity table is for redshift 1.3, the line is seen from .* 2.000"):
        HaloLuminosity(tables=(TABLE,)).check(HALPHA, 2.0)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"relation": "kennicutt"}, ValueError, r"expected relation one of \['gong2017', 'silva2015'\], got 'kenn"),
        ({"scatter": 1.5}, ValueError, r"expected scatter in \[0, 1\] dex, got 1.5"),
        ({"scatter": float("nan")}, ValueError, "expected scatter in"),
        ({"tables": ({},)}, TypeError, "expected tables to hold LuminosityTable, got dict"),
        ({"tables": (TABLE, TABLE)}, ValueError, r"at most one table per line, got \['halpha', 'halpha'\]"),
    ],
)
def test_wrong_relations_are_refused(changes, error, match):
    with pytest.raises(error, match=match):
        HaloLuminosity(**changes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"mean": (1e39, 2e41)}, "LuminosityTable halpha: expected columns of one length, got"),
        ({"mean": 1e39}, r"expected mean to be a list of numbers, got shape \(\)"),
        ({"mean": (1e39, np.nan, 1e42)}, "mean has values that are not finite"),
        ({"mean": (1e39, -1.0, 1e42)}, "expected mean of at least 0 erg/s, got -1"),
        ({"standard_deviation": (1e39, -1.0, 1e42)}, "expected standard_deviation of at least 0 erg/s"),
        ({"log10_mass_low": (10.5, 11.1, 12.0)}, "expected bins of increasing mass without gaps or overlaps"),
        ({"log10_mass_high": (11.0, 12.1, 13.0)}, "expected bins of increasing mass without gaps or overlaps"),
        (
            {"log10_mass_low": (3e10, 1e11, 1e12), "log10_mass_high": (1e11, 1e12, 1e13)},
            "expected edges as log10 of solar masses, from 5 to 20",
        ),
        ({"redshift": -1.0}, "expected a redshift of at least 0, got -1.0"),
    ],
)
def test_wrong_tables_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(TABLE, **changes)
