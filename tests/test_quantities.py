import pytest

from keras_cosmo.quantities import Parameter


def test_label_has_symbol_and_unit():
    assert Parameter(name="E_0", low=0.1, high=1.5, unit="keV", symbol="E_0").label == "$E_0$ [keV]"
    assert Parameter(name="zeta", low=10, high=250).label == "zeta"


def test_range_must_rise():
    with pytest.raises(ValueError, match="low < high"):
        Parameter(name="zeta", low=250, high=10)
