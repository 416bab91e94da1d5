import pytest

from keras_cosmo.quantities import Parameter, field_at_redshift, redshift_of_field


def test_label_has_symbol_and_unit():
    assert Parameter(name="E_0", low=0.1, high=1.5, unit="keV", symbol="E_0").label == "$E_0$ [keV]"
    assert Parameter(name="zeta", low=10, high=250).label == "zeta"


def test_range_must_rise():
    with pytest.raises(ValueError, match="low < high"):
        Parameter(name="zeta", low=250, high=10)


@pytest.mark.parametrize("redshift", [10.0, 15.0, 10.16, 20.18])
def test_fields_of_a_redshift_are_named_and_read_back(redshift):
    assert redshift_of_field(field_at_redshift("brightness_temp", redshift)) == ("brightness_temp", redshift)


def test_other_names_have_no_redshift():
    assert redshift_of_field("brightness_temp") is None
    assert redshift_of_field("density_zero") is None
