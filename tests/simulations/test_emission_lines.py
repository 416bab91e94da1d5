import dataclasses

import pytest

from keras_cosmo.simulations.emission_lines import HALPHA, LINES, OII_3727, OIII_5007


def test_redshifts_of_the_paper():
    assert HALPHA.redshift(1.5) == pytest.approx(1.2855, abs=1e-4)
    assert OIII_5007.redshift(1.5) == pytest.approx(1.9958, abs=1e-4)
    assert OII_3727.redshift(1.5) == pytest.approx(3.0247, abs=1e-4)


def test_luminosities_are_those_of_the_star_formation_relations():
    # Star formation rate of 1 Msun/yr before dust: Kennicutt 1998 and Ly et al. 2007.
    for line, calibration in ((HALPHA, 7.9e-42), (OIII_5007, 7.6e-42), (OII_3727, 1.4e-41)):
        assert calibration * line.coefficient == pytest.approx(1.0)
    assert (HALPHA.attenuation, OIII_5007.attenuation) == (1.0, 1.35)
    dusty = dataclasses.replace(HALPHA, attenuation=2.5)
    assert dusty.luminosity_per_star_formation == pytest.approx(HALPHA.coefficient / 10.0)


def test_lines_are_found_by_name():
    assert list(LINES) == ["halpha", "oiii", "oii"]
    assert all(line.name == name for name, line in LINES.items())


@pytest.mark.parametrize("wavelength", [0.6563, 0.5, float("nan")])
def test_a_line_is_not_seen_at_wavelengths_shorter_than_its_own(wavelength):
    with pytest.raises(ValueError, match=r"Halpha is emitted at 0.6563 um and is only seen at longer wavelengths, got"):
        HALPHA.redshift(wavelength)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "H alpha"}, "expected a name of letters, digits and underscores, got 'H alpha'"),
        ({"wavelength": 6563.0e4}, r"EmissionLine halpha: expected wavelength in \[0.05, 10000\], got 65630000"),
        ({"coefficient": 7.9e-42}, r"expected coefficient in \[1e\+35, 1e\+45\], got 7.9e-42"),
        ({"attenuation": -1.0}, r"expected attenuation in \[0, 10\], got -1.0"),
    ],
)
def test_wrong_lines_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(HALPHA, **changes)
