import gzip
import logging

import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.coordinates import BarycentricMeanEcliptic, SkyCoord
from astropy.io import fits
from sky_files import (
    MASKS,
    UNSEEN,
    make_map,
    make_masks,
    positions,
    table_keys,
    write_healpy_map,
    write_hpx_map,
    write_masks,
    write_planck_map,
    write_table,
)

from keras_cosmo.data.formats.healpix_maps import HealpixMap, read_healpix, read_mask, rotate_to_galactic, to_nside

NSIDE = 16
SKY = make_map(NSIDE)
SKY[[7, 1000]] = np.nan

FORMATS = {
    "planck": (write_planck_map, {}, "NESTED"),
    "planck double": (write_planck_map, {"kind": "D"}, "NESTED"),
    "healpy ring": (write_healpy_map, {}, "RING"),
    "healpy nested": (write_healpy_map, {"nest": True}, "NESTED"),
    "healpy partial": (write_healpy_map, {"partial": True}, "RING"),
    "hpx": (write_hpx_map, {"COORDSYS": "GALACTIC"}, "RING"),
    "hpx without keys": (write_hpx_map, {}, "RING"),
    "hpx single precision": (write_hpx_map, {"kind": "E"}, "RING"),
    "hpx nested": (write_hpx_map, {"nest": True}, "NESTED"),
    "hpx nested with ordering": (write_hpx_map, {"nest": True, "ORDERING": "NEST"}, "NESTED"),
    "hpx without nside": (write_hpx_map, {"NSIDE": None}, "RING"),
}


def write(path, writer, options):
    if options.get("NSIDE", 0) is None:
        write_hpx_map(path, SKY)
        with fits.open(path, mode="update") as file:
            del file[1].header["NSIDE"]
        return path
    return writer(path, SKY, **options)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("compressed", [False, True])
def test_all_formats_hold_the_same_map(tmp_path, name, compressed):
    writer, options, ordering = FORMATS[name]
    path = write(tmp_path / "map.fits", writer, options)
    if compressed:
        path = tmp_path / "map.fits.gz"
        path.write_bytes(gzip.compress((tmp_path / "map.fits").read_bytes()))
    found = read_healpix(path)
    np.testing.assert_array_equal(found.values, SKY)
    assert (found.nside, found.ordering, found.coordinates, found.path) == (NSIDE, ordering, "galactic", path)
    assert found.values.dtype == (np.float64 if name == "planck double" else np.float32)
    assert found.values.dtype.isnative
    assert found.column in ("I_ML_FULL", "NHI")
    assert found.unit in ("uK_RJ", "cm-2")
    assert found.good == pytest.approx(1.0 - 2.0 / len(SKY))


def test_pixels_of_the_nested_order_are_reordered(tmp_path):
    """Value = nested number, by one arithmetic that is not the reader's."""
    numbers = np.arange(12 * NSIDE**2, dtype=np.float32)
    path = write_table(
        tmp_path / "map.fits",
        [fits.Column("I_ML_FULL", "E", array=numbers, unit="uK_RJ")],
        table_keys(NSIDE, "NESTED", "G"),
    )
    values = read_healpix(path).values
    longitude, latitude = healpy.pix2ang(NSIDE, np.arange(12 * NSIDE**2), nest=True, lonlat=True)
    np.testing.assert_array_equal(values[healpy.ang2pix(NSIDE, longitude, latitude, lonlat=True)], numbers)


def test_latitudes_of_a_shuffled_table(tmp_path):
    pixels = np.arange(12 * 8**2)
    latitude = healpy.pix2ang(8, pixels, lonlat=True)[1].astype(np.float32)
    found = read_healpix(write_hpx_map(tmp_path / "NHI_HPX.fits", latitude))
    np.testing.assert_array_equal(found.values, latitude)
    assert found.header["EXTNAME"] == "HI4PI-HPX"
    assert found.columns == ("HPXINDEX", "GLON", "GLAT", "RA2000", "DEC2000", "NHI")


@pytest.mark.parametrize("kind", ["E", "D"])
@pytest.mark.parametrize("bad", [UNSEEN, -1e31, np.nan, np.inf, -np.inf])
def test_bad_pixels_in_both_precisions(tmp_path, kind, bad):
    """-1.6375e30 in single precision is another number than in double."""
    values = np.ones(12 * NSIDE**2)
    values[5] = bad
    path = write_table(
        tmp_path / "map.fits", [fits.Column("I", kind, array=values)], table_keys(NSIDE, "RING", "G", BAD_DATA=None)
    )
    found = read_healpix(path).values
    assert np.flatnonzero(np.isnan(found)).tolist() == [5]
    assert np.nanmax(found) == np.nanmin(found) == 1.0


def test_other_marks_of_bad_pixels(tmp_path):
    values = np.ones(12 * NSIDE**2, np.float32)
    values[3] = -999.9
    keys = table_keys(NSIDE, "RING", "G", BAD_DATA=-999.9)
    path = write_table(tmp_path / "map.fits", [fits.Column("I", "E", array=values)], keys)
    assert np.flatnonzero(np.isnan(read_healpix(path).values)).tolist() == [3]
    counts = np.arange(12 * NSIDE**2)
    path = write_table(tmp_path / "map.fits", [fits.Column("N_OBS", "J", array=counts, null=9)], keys)
    found = read_healpix(path)
    assert np.flatnonzero(np.isnan(found.values)).tolist() == [9]
    assert (found.values.dtype, found.values[-1]) == (np.float64, counts[-1])


def test_parts_of_the_sky(tmp_path):
    path = write_hpx_map(tmp_path / "part.fits", SKY, rows=500)
    found = read_healpix(path)
    kept = np.isfinite(found.values)
    assert np.count_nonzero(kept) >= 498
    np.testing.assert_array_equal(found.values[kept], SKY[kept])
    with fits.open(path, mode="update") as file:
        del file[1].header["NSIDE"]
    np.testing.assert_array_equal(read_healpix(path).values, found.values)
    keys = table_keys(NSIDE, "RING", "G", FIRSTPIX=100, LASTPIX=299)
    path = write_table(tmp_path / "range.fits", [fits.Column("I", "E", array=SKY[100:300])], keys)
    found = read_healpix(path).values
    np.testing.assert_array_equal(found[100:300], SKY[100:300])
    assert np.isnan(found[:100]).all()
    assert np.isnan(found[300:]).all()


def test_the_column(tmp_path, caplog):
    path = write_planck_map(tmp_path / "map.fits", SKY, column="I_ML", before=["TEMP_ML"], after=["I_MEAN", "BETA_ML"])
    with caplog.at_level(logging.INFO):
        assert read_healpix(path).column == "I_ML"
    assert "reading the column I_ML of TEMP_ML, I_ML, I_MEAN, BETA_ML" in caplog.text
    other = read_healpix(path, "beta_ml")
    assert (other.column, other.unit) == ("BETA_ML", "")
    assert other.values[healpy.nest2ring(NSIDE, 17)] == 17.0
    with pytest.raises(
        ValueError, match=r"expected a column 'I_ML_FULL', got TEMP_ML, I_ML, I_MEAN, BETA_ML. Name one of"
    ):
        read_healpix(path, "I_ML_FULL")
    for before, column, expected in (
        (["FIRST"], "dust_map", "dust_map"),
        (["FIRST", "I"], "dust_map", "I"),
        (["FIRST"], "OTHER", "FIRST"),
    ):
        write_planck_map(path, SKY, column=column, before=before)
        assert read_healpix(path).column == expected


def test_the_table_with_the_column_is_found(tmp_path):
    path = write_planck_map(tmp_path / "map.fits", SKY)
    other = write_planck_map(tmp_path / "other.fits", 2.0 * SKY, column="Q_ML_FULL")
    with fits.open(other) as second, fits.open(path, mode="append") as file:
        file.append(second[1])
    np.testing.assert_array_equal(read_healpix(path, "Q_ML_FULL").values, 2.0 * SKY)
    np.testing.assert_array_equal(read_healpix(path).values, SKY)


@pytest.mark.parametrize(
    ("key", "word", "expected"),
    [
        ("COORDSYS", "G", "galactic"),
        ("COORDSYS", "Galactic", "galactic"),
        ("COORDSYS", "C", "equatorial"),
        ("COORDSYS", "CELESTIAL", "equatorial"),
        ("COORDSYS", "E", "ecliptic"),
        ("FRAME", "galactic", "galactic"),
        ("FRAME", "icrs", "equatorial"),
        ("COORDSYS", "", ""),
        ("COORDSYS", "unknown", ""),
    ],
)
def test_coordinates(tmp_path, key, word, expected):
    keys = table_keys(NSIDE, "RING", None, **{key: word})
    path = write_table(tmp_path / "map.fits", [fits.Column("I", "E", array=SKY)], keys)
    assert read_healpix(path).coordinates == expected
    if not expected:
        assert read_healpix(path, coordinates="ecliptic").coordinates == "ecliptic"
    else:
        other = "equatorial" if expected == "galactic" else "galactic"
        with pytest.raises(ValueError, match=rf"coordinates are given as {other}, but the header says {expected}"):
            read_healpix(path, coordinates=other)


def test_coordinates_that_are_not_known(tmp_path):
    keys = table_keys(NSIDE, "RING", "SUPERGALACTIC")
    path = write_table(tmp_path / "map.fits", [fits.Column("I", "E", array=SKY)], keys)
    with pytest.raises(ValueError, match=r"expected coordinates such as galactic, .*COORDSYS.*, got SUPERGALACTIC"):
        read_healpix(path)
    assert read_healpix(path, coordinates="galactic").coordinates == "galactic"
    with pytest.raises(ValueError, match=r"coordinates: expected one of .*'galactic'.*, got 'G'"):
        read_healpix(path, coordinates="G")


def test_positions_say_the_coordinates(tmp_path):
    """A table in equatorial pixels with galactic positions beside them."""
    pixels = np.arange(12 * NSIDE**2)
    place = SkyCoord(*healpy.pix2ang(NSIDE, pixels, lonlat=True), unit="deg", frame="fk5")
    columns = [
        fits.Column("PIX", "J", array=pixels),
        fits.Column("GLON", "D", array=place.galactic.l.deg),
        fits.Column("GLAT", "D", array=place.galactic.b.deg),
        fits.Column("T", "E", array=SKY),
    ]
    path = write_table(tmp_path / "map.fits", columns, {"NSIDE": NSIDE})
    found = read_healpix(path)
    assert (found.coordinates, found.ordering) == ("equatorial", "RING")
    path = write_table(tmp_path / "map.fits", columns, {"NSIDE": NSIDE, "COORDSYS": "G"})
    with pytest.raises(ValueError, match=r"say no ordering, galactic, but by their positions \(GLON, GLAT\) the pixel"):
        read_healpix(path)
    path = write_hpx_map(tmp_path / "map.fits", SKY, without=("GLON", "GLAT"), nest=True)
    found = read_healpix(path)
    assert (found.coordinates, found.ordering) == ("galactic", "NESTED")
    np.testing.assert_array_equal(found.values, SKY)


def test_the_ordering_has_to_be_known(tmp_path):
    path = write_planck_map(tmp_path / "map.fits", SKY, ORDERING=None)
    with pytest.raises(ValueError, match=r"its ordering is not known: there is no ORDERING in the header.* Give order"):
        read_healpix(path)
    np.testing.assert_array_equal(read_healpix(path, ordering="NESTED").values, SKY)
    with pytest.raises(ValueError, match="ordering: expected 'RING' or 'NESTED', got 'nested'"):
        read_healpix(path, ordering="nested")
    write_planck_map(path, SKY)
    with pytest.raises(ValueError, match="ordering is given as RING, but the header says NESTED"):
        read_healpix(path, ordering="RING")
    path = write_planck_map(path, SKY, ORDERING="NUNIQ")
    with pytest.raises(ValueError, match="expected ORDERING to be RING or NESTED, got NUNIQ"):
        read_healpix(path)
    path = write_hpx_map(path, SKY, without=("GLON", "GLAT", "RA2000", "DEC2000"))
    with pytest.raises(ValueError, match="its ordering is not known"):
        read_healpix(path)
    np.testing.assert_array_equal(read_healpix(path, ordering="RING").values, SKY)


def test_contradictions_with_the_positions(tmp_path):
    path = write_hpx_map(tmp_path / "map.fits", SKY, ORDERING="NESTED")
    with pytest.raises(ValueError, match=r"say NESTED, .* by their positions \(GLON, GLAT\) .* in RING, galactic"):
        read_healpix(path)
    path = write_hpx_map(path, SKY)
    with pytest.raises(ValueError, match=r"say NESTED, .* by their positions .* in RING, galactic"):
        read_healpix(path, ordering="NESTED")
    with fits.open(path, mode="update") as file:
        file[1].data["GLAT"] *= -1.0
    with pytest.raises(ValueError, match=r"do not lie at their positions \(GLON, GLAT\), neither in RING nor in NESTE"):
        read_healpix(path)
    path = write_hpx_map(path, SKY, ORDERING="RING", NSIDE=32)
    with pytest.raises(ValueError, match=r"do not lie at their positions .* for NSIDE = 32"):
        read_healpix(path)
    # Without pixel numbers, the order of the rows is compared.
    place = positions(NSIDE, np.arange(12 * NSIDE**2), nest=True)
    columns = [fits.Column(name, "D", array=place[name]) for name in ("GLON", "GLAT")]
    columns.append(fits.Column("I", "E", array=SKY))
    path = write_table(path, columns, table_keys(NSIDE, "RING", "G"))
    with pytest.raises(ValueError, match=r"say RING, galactic, but by their positions .* in NESTED, galactic"):
        read_healpix(path)


def test_pixel_numbers(tmp_path):
    path = write_hpx_map(tmp_path / "map.fits", SKY, without=("GLON", "GLAT", "RA2000", "DEC2000"), ORDERING="RING")
    with fits.open(path, mode="update") as file:
        file[1].data["HPXINDEX"][10] = file[1].data["HPXINDEX"][11]
        twice = int(file[1].data["HPXINDEX"][11])
    with pytest.raises(ValueError, match=rf"expected each pixel once, got pixel {twice} 2 times in the column HPXINDE"):
        read_healpix(path)
    with fits.open(path, mode="update") as file:
        file[1].data["HPXINDEX"][10] = 3072
    with pytest.raises(ValueError, match=r"expected pixel numbers from 0 to 3071 in the column HPXINDEX, got 3072"):
        read_healpix(path)
    path = write_planck_map(path, SKY, INDXSCHM="EXPLICIT")
    with pytest.raises(ValueError, match=r"INDXSCHM = EXPLICIT, and so expected a column with pixel numbers, one of"):
        read_healpix(path)


def test_the_number_of_pixels(tmp_path):
    path = write_planck_map(tmp_path / "map.fits", SKY, NSIDE=32, LASTPIX=12287)
    with pytest.raises(ValueError, match=r"expected 12288 pixels for NSIDE = 32, got 3072 in the column I_ML_FULL"):
        read_healpix(path)
    path = write_planck_map(path, SKY, NSIDE=0)
    with pytest.raises(ValueError, match="expected NSIDE to be a positive integer, got 0"):
        read_healpix(path)
    path = write_planck_map(path, SKY, NSIDE=None)
    assert read_healpix(path).nside == NSIDE
    values = np.arange(12 * 3**2, dtype=np.float32)
    path = write_table(path, [fits.Column("I", "E", array=values)], table_keys(3, "RING", "G"))
    np.testing.assert_array_equal(read_healpix(path).values, values)
    path = write_table(path, [fits.Column("I", "E", array=values)], table_keys(3, "NESTED", "G"))
    with pytest.raises(ValueError, match="expected NSIDE to be a power of two for the ordering NESTED, got 3"):
        read_healpix(path)
    path = write_hpx_map(path, SKY, rows=100, without=("GLON", "GLAT", "RA2000", "DEC2000"), PIXTYPE="HEALPIX")
    with fits.open(path, mode="update") as file:
        del file[1].header["NSIDE"]
    with pytest.raises(ValueError, match=r"its resolution is not known: the header has no NSIDE, and 100 rows are not"):
        read_healpix(path, ordering="RING")


def test_spectra_are_no_map(tmp_path):
    spectra = np.ones((12 * NSIDE**2, 5), np.float32)
    columns = [fits.Column("HPXINDEX", "J", array=np.arange(len(spectra))), fits.Column("DATA", "5E", array=spectra)]
    path = write_table(tmp_path / "map.fits", columns, table_keys(NSIDE, "RING", "G"))
    with pytest.raises(
        ValueError, match=r"expected one value of DATA for each pixel number in HPXINDEX, got 5.*open_c"
    ):
        read_healpix(path)
    path = write_table(tmp_path / "map.fits", columns[1:], table_keys(NSIDE, "RING", "G"))
    with pytest.raises(
        ValueError, match=r"expected 3072 pixels for NSIDE = 16, got 15360 in the column DATA .*open_cu"
    ):
        read_healpix(path)


def test_text_is_no_map(tmp_path):
    path = write_table(
        tmp_path / "map.fits", [fits.Column("NAME", "3A", array=["abc"] * 3072)], table_keys(NSIDE, "RING", "G")
    )
    with pytest.raises(ValueError, match=r"expected numbers, got .* in the column NAME"):
        read_healpix(path)


def test_other_files(tmp_path):
    path = tmp_path / "map.fits"
    with pytest.raises(FileNotFoundError, match=r"map.fits: there is no such file"):
        read_healpix(path)
    for content in (b"", b"<!DOCTYPE html><html>", b"\x89HDF\r\n\x1a\n" * 1000, gzip.compress(b"nothing")):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"expected a FITS file, got one of {len(content)} bytes that begins with"
        ):
            read_healpix(path)
    image = fits.PrimaryHDU(np.zeros((4, 6)))
    image.header["CTYPE1"], image.header["CTYPE2"] = "GLON-CAR", "GLAT-CAR"
    image.writeto(path, overwrite=True)
    with pytest.raises(
        ValueError, match=r"expected a HEALPix table.*got an image of 6 x 4 pixels with the axes GLON-C"
    ):
        read_healpix(path)
    fits.PrimaryHDU().writeto(path, overwrite=True)
    with pytest.raises(ValueError, match=r"expected a HEALPix table.*, got no data"):
        read_healpix(path)
    write_table(path, [fits.Column("MASS", "E", array=np.ones(5))], {}, name="HALOES")
    with pytest.raises(ValueError, match=r"got a table HALOES of 5 rows with the columns MASS"):
        read_healpix(path)
    table = fits.TableHDU.from_columns([fits.Column("A", "E10.3", array=np.ones(5))])
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)
    with pytest.raises(ValueError, match=r"got an ascii table"):
        read_healpix(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kept", [100, 3000, 4000, 9000, -3000])
def test_truncated_files(tmp_path, compressed, kept):
    path = write_planck_map(tmp_path / "map.fits", SKY)
    content = path.read_bytes()
    # The last block is filled up with zeros: what counts is the data.
    assert len(content) % 2880 == 0
    path.write_bytes(content[:kept])
    if compressed:
        path.write_bytes(gzip.compress(content)[: kept // 5 if kept > 0 else -100])
    with pytest.raises(ValueError, match=r"truncated|expected a FITS file"):
        read_healpix(path)


def test_what_a_truncated_file_is_told(tmp_path):
    path = write_planck_map(tmp_path / "map.fits", SKY)
    content = path.read_bytes()
    path.write_bytes(content[:-3000])
    with pytest.raises(
        ValueError, match=rf"truncated: expected at least \d+ bytes by its header, got {len(content) - 3000}"
    ):
        read_healpix(path)
    path.write_bytes(gzip.compress(content[:-3000]))
    with pytest.raises(ValueError, match=rf"by its header when decompressed, got {len(content) - 3000}. Download it"):
        read_healpix(path)
    packed = gzip.compress(content)
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"the file is truncated or damaged \(Compressed file ended"):
        read_healpix(path)


# ---- Masks.


@pytest.mark.parametrize("apodised", [False, True])
def test_masks(tmp_path, caplog, apodised):
    masks = make_masks(NSIDE, apodised)
    path = write_masks(tmp_path / "mask.fits", masks, apodised=apodised)
    for name in MASKS:
        with caplog.at_level(logging.INFO):
            mask = read_mask(path, name)
        np.testing.assert_array_equal(mask.values, masks[name].astype(np.float32))
        assert (mask.values.dtype, mask.column, mask.ordering) == (np.float32, name, "NESTED")
    assert "the mask GAL099 keeps" in caplog.text
    with pytest.raises(ValueError, match=r"expected the name of one of the masks GAL020, .*GAL099. Name one"):
        read_mask(path)
    coarse = read_mask(path, "GAL070", nside=4)
    expected = healpy.ud_grade(masks["GAL070"].astype(float), 4)
    np.testing.assert_allclose(coarse.values, expected, atol=1e-6)
    assert (coarse.nside, coarse.values.size) == (4, 192)


def test_a_mask_alone(tmp_path):
    mask = make_masks(NSIDE, apodised=True)["GAL060"]
    mask[[3, 4]] = np.nan
    found = read_mask(write_healpy_map(tmp_path / "mask.fits", mask, nest=True, column="LR72"))
    np.testing.assert_array_equal(found.values, np.nan_to_num(mask).astype(np.float32))
    found = read_mask(write_hpx_map(tmp_path / "part.fits", mask.astype(np.float32), rows=1500))
    assert found.values.min() == 0.0
    assert not np.isnan(found.values).any()
    boolean = write_table(
        tmp_path / "mask.fits", [fits.Column("MASK", "L", array=mask > 0.5)], table_keys(NSIDE, "RING", "G")
    )
    np.testing.assert_array_equal(read_mask(boolean).values, (mask > 0.5).astype(np.float32))
    mask[[3, 4]] = 1.0 + 1e-6, -1e-6
    found = read_mask(write_healpy_map(tmp_path / "mask.fits", mask))
    assert found.values[[3, 4]].tolist() == [1.0, 0.0]
    mask[3] = 1.5
    with pytest.raises(
        ValueError, match=r"expected weights from 0 \(masked\) to 1 \(kept\) .*, got 1.5 in pixel 3 .* 1 s"
    ):
        read_mask(write_healpy_map(tmp_path / "mask.fits", mask))
    with pytest.raises(ValueError, match=r"expected weights from 0 .* and 30\d\d such pixels"):
        read_mask(write_healpy_map(tmp_path / "mask.fits", SKY * 10.0 + 20.0))


# ---- Resolutions and coordinates.


def test_coarser_is_the_mean_of_the_good(tmp_path):
    whole = make_map(NSIDE).astype(np.float64)
    np.testing.assert_allclose(to_nside(whole, 4), healpy.ud_grade(whole, 4), rtol=1e-12)
    values = whole.copy()
    children = healpy.nest2ring(NSIDE, np.arange(16))
    parent = healpy.nest2ring(4, 0)
    values[children[:8]] = np.nan
    assert to_nside(values, 4)[parent] == pytest.approx(whole[children[8:]].mean(), rel=1e-12)
    values[children[8]] = np.nan
    assert np.isnan(to_nside(values, 4)[parent])
    assert to_nside(values, 4, minimum_good=0.4)[parent] == pytest.approx(whole[children[9:]].mean(), rel=1e-12)
    values[children] = np.nan
    assert np.flatnonzero(np.isnan(to_nside(values, 4, minimum_good=1e-3))).tolist() == [parent]
    assert to_nside(SKY, 4).dtype == np.float32
    path = write_planck_map(tmp_path / "map.fits", SKY)
    found = read_healpix(path, nside=4)
    np.testing.assert_array_equal(found.values, to_nside(SKY, 4))
    assert (found.nside, found.ordering) == (4, "NESTED")
    assert isinstance(found, HealpixMap)
    lost = read_healpix(path, nside=4, minimum_good=1.0)
    assert np.count_nonzero(np.isnan(lost.values)) == 2


def test_finer():
    values = make_map(4).astype(np.float64)
    np.testing.assert_array_equal(to_nside(values, 16, upgrade="copy"), healpy.ud_grade(values, 16))
    centres = healpy.pix2ang(16, np.arange(12 * 16**2))
    np.testing.assert_allclose(to_nside(values, 16), healpy.get_interp_val(values, *centres), rtol=1e-12)
    same = to_nside(values, 4)
    np.testing.assert_array_equal(same, values)
    assert same is not values
    values[:] = 2.0
    values[50] = np.nan
    finer = to_nside(values, 16)
    inside = healpy.nest2ring(16, np.arange(16) + 16 * healpy.ring2nest(4, 50))
    assert np.isnan(finer[inside]).any()
    np.testing.assert_allclose(finer[np.isfinite(finer)], 2.0)
    assert np.count_nonzero(np.isnan(to_nside(values, 16, minimum_good=1.0))) > np.count_nonzero(np.isnan(finer))


@pytest.mark.parametrize("coordinates", ["equatorial", "ecliptic"])
def test_rotation_to_galactic(coordinates):
    """A pattern that is linear in the unit vector; the frames are astropy's."""
    nside = 64
    frame = "fk5" if coordinates == "equatorial" else BarycentricMeanEcliptic(equinox="J2000")
    longitude, latitude = healpy.pix2ang(nside, np.arange(12 * nside**2), lonlat=True)
    own = SkyCoord(longitude * u.deg, latitude * u.deg, frame=frame).galactic

    def pattern(longitude, latitude):
        return healpy.ang2vec(longitude, latitude, lonlat=True) @ [1.0, -2.0, 3.0]

    rotated = rotate_to_galactic(pattern(own.l.deg, own.b.deg), coordinates)
    error = rotated - pattern(longitude, latitude)
    assert np.abs(error).max() < 1.5e-2
    assert np.std(error) < 1e-3
    bad = pattern(own.l.deg, own.b.deg).astype(np.float32)
    bad[9000] = np.nan
    rotated = rotate_to_galactic(bad, coordinates)
    assert rotated.dtype == np.float32
    lost = np.flatnonzero(np.isnan(rotated))
    assert 0 < len(lost) < 5
    centre = healpy.ang2vec(own.l.deg[9000], own.b.deg[9000], lonlat=True)
    assert (np.array(healpy.pix2vec(nside, lost)).T @ centre).min() > np.cos(np.radians(1.5))
    strict = rotate_to_galactic(bad, coordinates, minimum_good=1.0)
    assert np.count_nonzero(np.isnan(strict)) > len(lost)
    assert np.abs(rotated - pattern(longitude, latitude))[np.isfinite(rotated)].max() < 0.1


def test_galactic_stays_as_it_is():
    same = rotate_to_galactic(SKY, "galactic")
    np.testing.assert_array_equal(same, SKY)
    assert same is not SKY


def test_wrong_arguments(tmp_path):
    with pytest.raises(
        ValueError, match=r"values: expected a map of 12 nside\^2 pixels, got an array of shape \(13,\)"
    ):
        to_nside(np.ones(13), 4)
    for nside in (3, 0, 4.5):
        with pytest.raises(ValueError, match=f"nside: expected a power of two, such as 512, got {nside}"):
            to_nside(SKY, nside)
    with pytest.raises(ValueError, match="the nside of values: expected a power of two, such as 512, got 3"):
        to_nside(np.ones(12 * 9), 4)
    with pytest.raises(ValueError, match="upgrade: expected 'bilinear' or 'copy', got 'cubic'"):
        to_nside(SKY, 32, upgrade="cubic")
    for good in (0.0, 1.1, np.nan):
        with pytest.raises(ValueError, match="minimum_good: expected more than 0 up to 1, got"):
            to_nside(SKY, 4, minimum_good=good)
    with pytest.raises(ValueError, match="minimum_good: expected"):
        rotate_to_galactic(SKY, "equatorial", minimum_good=2.0)
    with pytest.raises(ValueError, match=r"coordinates: expected one of .*, got ''. If the file does not say, give"):
        rotate_to_galactic(SKY, "")
    path = write_planck_map(tmp_path / "map.fits", SKY)
    with pytest.raises(ValueError, match="nside: expected a power of two"):
        read_healpix(path, nside=100)
