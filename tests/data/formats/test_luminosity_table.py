import astropy.units
import numpy as np
import pytest
from astropy.table import Table

from keras_cosmo.data.formats.luminosity_table import read_luminosity_table

KEYS = {"line": "halpha", "redshift": 1.3, "dust": "applied"}
NAMES = ("log10M_lo", "log10M_hi", "L_mean", "L_std", "n_halo")
ROWS = ((10.5, 11.0, 2e40, 1e40, 900), (11.0, 11.5, 2e41, 1e41, 300), (11.5, 12.5, 0.0, 0.0, 0))


def write_csv(path, keys=(), without=(), rows=ROWS, names=NAMES):
    header = [f"# {key}: {value}" for key, value in {**KEYS, **dict(keys)}.items() if key not in without]
    lines = ["# made by hand", *header, ",".join(names), "", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_ecsv(path, keys=(), delimiter=",", units=()):
    table = Table(rows=list(ROWS), names=NAMES, meta={**KEYS, **dict(keys)})
    for name, unit in dict(units).items():
        table[name].unit = unit
    table.write(path, format="ascii.ecsv", delimiter=delimiter)
    return path


def check(bins, shift=0.0, factor=1.0):
    low, high, mean, deviation, counts = np.array(ROWS).T
    np.testing.assert_allclose(bins.log10_mass_low, low + shift, rtol=1e-12)
    np.testing.assert_allclose(bins.log10_mass_high, high + shift, rtol=1e-12)
    np.testing.assert_allclose(bins.mean, mean * factor, rtol=1e-6)
    np.testing.assert_allclose(bins.standard_deviation, deviation * factor, rtol=1e-6)
    np.testing.assert_array_equal(bins.halo_counts, counts)
    assert (bins.line, bins.redshift, bins.dust) == ("halpha", 1.3, True)


def test_csv_and_ecsv_hold_the_same_table(tmp_path):
    check(read_luminosity_table(write_csv(tmp_path / "a.csv")))
    check(read_luminosity_table(write_ecsv(tmp_path / "a.ecsv")))
    check(read_luminosity_table(str(write_ecsv(tmp_path / "b.ecsv", delimiter=" "))))
    text = (tmp_path / "a.csv").read_text()
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    check(read_luminosity_table(tmp_path / "b.csv"))


def test_the_record_is_frozen(tmp_path):
    bins = read_luminosity_table(write_csv(tmp_path / "a.csv"))
    with pytest.raises(ValueError, match="read-only"):
        bins.mean[0] = 1.0
    with pytest.raises(AttributeError):
        bins.line = "oiii"


def test_without_counts(tmp_path):
    bins = read_luminosity_table(write_csv(tmp_path / "a.csv", rows=[row[:4] for row in ROWS], names=NAMES[:4]))
    assert bins.halo_counts is None


@pytest.mark.parametrize("unit", ["Msun/h", "Msun / h", "dex(Msun/h)"])
def test_masses_with_h(tmp_path, unit):
    path = write_csv(tmp_path / "a.csv", keys={"mass_unit": unit, "h": 0.5})
    check(read_luminosity_table(path), shift=np.log10(2.0))


def test_units_of_columns(tmp_path):
    watt = {"L_mean": astropy.units.W, "L_std": astropy.units.W}
    mass = {"log10M_lo": astropy.units.Msun, "log10M_hi": astropy.units.Msun}
    check(read_luminosity_table(write_ecsv(tmp_path / "a.ecsv", units={**watt, **mass})), factor=1e7)
    cgs = {"L_mean": astropy.units.erg / astropy.units.s, "L_std": astropy.units.erg / astropy.units.s}
    dex = {"log10M_lo": astropy.units.dex(astropy.units.Msun), "log10M_hi": astropy.units.dex(astropy.units.Msun)}
    check(read_luminosity_table(write_ecsv(tmp_path / "b.ecsv", units={**cgs, **dex})))
    check(read_luminosity_table(write_csv(tmp_path / "a.csv", keys={"luminosity_unit": "W"})), factor=1e7)
    mixed = write_ecsv(tmp_path / "c.ecsv", units={**watt, "L_std": cgs["L_std"]})
    with pytest.raises(ValueError, match=r"expected one unit of L_mean and L_std \(luminosity_unit\), got W, erg/s"):
        read_luminosity_table(mixed)


@pytest.mark.parametrize(
    ("word", "dust"), [("applied", True), ("Not applied", False), ("yes", True), (False, False), ("none", False)]
)
def test_dust(tmp_path, word, dust):
    assert read_luminosity_table(write_csv(tmp_path / "a.csv", keys={"dust": word})).dust is dust
    assert read_luminosity_table(write_ecsv(tmp_path / "a.ecsv", keys={"dust": word})).dust is dust


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"line": ""},
            r"expected the header keys line, redshift, dust, got none called 'line'. Add .* '# line: halpha'",
        ),
        ({"redshift": "high"}, "expected redshift to be a number, got 'high'"),
        ({"redshift": "nan"}, "expected redshift to be finite, got nan"),
        ({"redshift": -1.3}, "expected a redshift of at least 0, got -1.3"),
        ({"dust": "1 mag"}, "expected dust to be 'applied' or 'not applied' .*, got '1 mag'"),
        ({"mass_unit": "kg"}, "expected masses in Msun or Msun/h, got 'kg'"),
        ({"mass_unit": "Msun/h"}, "masses are in Msun/h: expected the header key h"),
        ({"mass_unit": "Msun/h", "h": 70}, "expected h in 100 km/s/Mpc, such as 0.7, got 70"),
        ({"luminosity_unit": "mag"}, "expected luminosities in erg/s, or in W or Lsun, got 'mag'"),
        ({"luminosity_unit": "K"}, "expected luminosities in erg/s, or in W or Lsun, got 'K'"),
    ],
)
def test_header_keys(tmp_path, keys, message):
    with pytest.raises(ValueError, match=message):
        read_luminosity_table(write_csv(tmp_path / "a.csv", keys=keys))


@pytest.mark.parametrize("key", KEYS)
def test_missing_keys(tmp_path, key):
    with pytest.raises(ValueError, match=f"got none called '{key}'"):
        read_luminosity_table(write_csv(tmp_path / "a.csv", without=(key,)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            (11.0, 10.9, 1e41, 1e40, 1),
            "row 2: expected log10M_lo below log10M_hi, both from 5 to 17 .*, got 11 and 10.9",
        ),
        ((11.0, 11.0, 1e41, 1e40, 1), "row 2: expected log10M_lo below log10M_hi, got 11 for both"),
        ((1e11, 3e11, 1e41, 1e40, 1), "row 2: .* got 1e.11 and 3e.11. Give logarithms of masses in Msun"),
        ((11.1, 11.5, 1e41, 1e40, 1), "row 2: expected bins without gap, got one from 11.1 after one that ends at 11"),
        ((10.9, 11.5, 1e41, 1e40, 1), "row 2: expected bins that do not overlap, got one from 10.9 after .* at 11"),
        ((10.0, 10.5, 1e41, 1e40, 1), "row 2: expected bins of increasing mass, got one from 10 after"),
        ((11.0, 11.5, -1e41, 1e40, 1), r"row 2: expected L_mean of at least 0, got -1e\+41"),
        ((11.0, 11.5, 1e41, -1e40, 1), r"row 2: expected L_std of at least 0, got -1e\+40"),
        ((11.0, 11.5, "nan", 1e40, 1), "row 2: expected a finite L_mean, got nan"),
        ((11.0, 11.5, 1e41, "inf", 1), "row 2: expected a finite L_std, got inf"),
        ((11.0, 11.5, 1e41, 1e40, -2), "row 2: expected n_halo of at least 0, got -2"),
        ((11.0, 11.5, 1e41, 1e40), "line 8: expected 5 numbers with commas, got 4"),
        ((11.0, 11.5, "bright", 1e40, 1), "line 8: expected numbers, got '11.0,11.5,bright"),
    ],
)
def test_rows(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        read_luminosity_table(write_csv(tmp_path / "a.csv", rows=[ROWS[0], row]))


def test_luminosities_that_are_logarithms(tmp_path):
    with pytest.raises(ValueError, match=r"expected the largest L_mean from 1e\+25 to 1e\+50 erg/s, got 41.3"):
        read_luminosity_table(write_csv(tmp_path / "a.csv", rows=[(10.5, 11.0, 41.3, 0.3, 5)]))


def test_tables_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such table of luminosities"):
        read_luminosity_table(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="expected one row per bin of mass, got none"):
        read_luminosity_table(write_csv(tmp_path / "a.csv", rows=[]))
    with pytest.raises(
        ValueError, match=r"expected the columns .*, got log10M_lo, M, L_mean, L_std, n_halo: log10M_hi is"
    ):
        read_luminosity_table(write_csv(tmp_path / "a.csv", names=("log10M_lo", "M", *NAMES[2:])))
    (tmp_path / "a.csv").write_text("# line: halpha\n# redshift: 1\n# dust: no\n")
    with pytest.raises(ValueError, match=r"expected the columns .*, got none"):
        read_luminosity_table(tmp_path / "a.csv")
    (tmp_path / "a.ecsv").write_text("# %ECSV 1.0\n# ---\nlog10M_lo log10M_hi\n1 2\n")
    with pytest.raises(ValueError, match="cannot be read as ECSV"):
        read_luminosity_table(tmp_path / "a.ecsv")
    text = write_ecsv(tmp_path / "b.ecsv").read_text()
    (tmp_path / "a.ecsv").write_text(text.replace("2e+41", '""').replace("2e41", '""'))
    with pytest.raises(ValueError, match="row 2: expected a finite L_mean, got nan"):
        read_luminosity_table(tmp_path / "a.ecsv")
