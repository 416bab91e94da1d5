import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from sky_files import channel_velocities, smooth_sky, write_hpx_map, write_spectra, write_table

from keras_cosmo.data.formats import healpix_cube
from keras_cosmo.data.formats.healpix_cube import HealpixCube
from keras_cosmo.data.formats.hi4pi import open_cube

NSIDE = 16
PIXELS = np.arange(12 * NSIDE**2)
LONGITUDE, LATITUDE = healpy.pix2ang(NSIDE, PIXELS, lonlat=True)
VELOCITIES = channel_velocities(12, -7.0)
LOW, HIGH = VELOCITIES[2] - 0.1, VELOCITIES[8] + 0.1
TAKEN = VELOCITIES[2:9]
TRUE = np.stack([smooth_sky(LONGITUDE, LATITUDE, velocity) for velocity in TAKEN])
SPECTRA = np.stack([smooth_sky(LONGITUDE, LATITUDE, velocity) for velocity in VELOCITIES]).astype(np.float32)
SPECTRA[3, 5], SPECTRA[4, 2000] = np.nan, np.nan


def planes(cube):
    return np.stack([cube.plane(i, NSIDE) for i in range(cube.n_channels)])


@pytest.mark.parametrize("parts", [1, 5])
@pytest.mark.parametrize("nest", [False, True])
@pytest.mark.parametrize("how", ["vector keys", "keys of pixel lists", "given"])
def test_spectra_in_tables(tmp_path, parts, nest, how):
    options = {"parts": parts, "nest": nest, "velocities": None if how == "given" else VELOCITIES}
    if how == "keys of pixel lists":
        options["repeat_keys"] = "T"
    paths = write_spectra(tmp_path, SPECTRA, **options)
    given = {"velocities": VELOCITIES} if how == "given" else {}
    cube = open_cube(tmp_path if parts > 1 else paths[0], velocity_low=LOW, velocity_high=HIGH, **given)
    assert isinstance(cube, HealpixCube)
    assert (cube.nside, cube.n_channels, cube.coordinates) == (NSIDE, 7, "galactic")
    np.testing.assert_allclose(cube.velocities, TAKEN, rtol=1e-9)
    np.testing.assert_array_equal(planes(cube), SPECTRA[2:9])
    assert cube.plane(0, NSIDE).dtype == np.float32


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("nest", [False, True])
@pytest.mark.parametrize("dtype", ["f4", ">f8"])
def test_arrays(tmp_path, transposed, nest, dtype):
    values = SPECTRA[:, healpy.nest2ring(NSIDE, PIXELS)] if nest else SPECTRA
    np.save(tmp_path / "cube.npy", (values.T if transposed else values).astype(dtype))
    np.savetxt(tmp_path / "velocities.txt", VELOCITIES)
    cube = open_cube(
        tmp_path / "cube.npy", velocities=tmp_path / "velocities.txt", ordering="NESTED" if nest else "RING",
        velocity_low=LOW, velocity_high=HIGH,
    )  # fmt: skip
    np.testing.assert_array_equal(planes(cube), SPECTRA[2:9])
    np.testing.assert_allclose(cube.velocities, TAKEN, rtol=1e-9)
    assert (cube.nside, cube.coordinates) == (NSIDE, "galactic")


def test_temporary_files_and_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(healpix_cube, "IN_MEMORY", 0)
    monkeypatch.setattr(healpix_cube, "ROWS", 100)
    write_spectra(tmp_path, SPECTRA, velocities=VELOCITIES)
    ends = {"velocity_low": LOW, "velocity_high": HIGH}
    np.testing.assert_array_equal(planes(open_cube(tmp_path, **ends)), SPECTRA[2:9])
    np.save(tmp_path / "cube.npy", SPECTRA.T)
    options = {"velocities": VELOCITIES, "ordering": "RING", **ends}
    np.testing.assert_array_equal(planes(open_cube(tmp_path / "cube.npy", **options)), SPECTRA[2:9])
    monkeypatch.setattr(healpix_cube.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(
        OSError, match=r"GB free for a temporary file of 7 channels, got 0.0 GB. Make room, or set TMPDIR"
    ):
        open_cube(tmp_path / "cube.npy", **options).plane(0, NSIDE)


def test_parts_that_are_missing_or_double(tmp_path, caplog):
    paths = write_spectra(tmp_path, SPECTRA, velocities=VELOCITIES)
    ends = {"velocity_low": LOW, "velocity_high": HIGH}
    found = planes(open_cube(paths[1:], **ends))
    assert "768 of 3072 pixels of the sky are in none of the 3 files, and are NaN" in caplog.text
    assert np.isnan(found[:, :768]).all()
    np.testing.assert_array_equal(found[:, 768:], SPECTRA[2:9, 768:])
    (tmp_path / "HPX_005.fit").write_bytes(paths[0].read_bytes())
    with pytest.raises(ValueError, match=r"HPX_005.fit: pixel \d+ is in an earlier part as well. Give each part once"):
        open_cube(tmp_path, **ends).plane(0, NSIDE)
    with pytest.raises(ValueError, match="paths: expected each file once, got one of them twice"):
        open_cube([paths[0], paths[0]], **ends)
    (tmp_path / "other").mkdir()
    coarse = np.ones((12, 192), np.float32)
    other = write_spectra(tmp_path / "other", coarse, velocities=VELOCITIES)
    with pytest.raises(ValueError, match=r"expected the same NSIDE and coordinates, got 4 galactic and 16 galactic"):
        open_cube([paths[0], other[1]], **ends)
    other = write_spectra(tmp_path / "other", SPECTRA, velocities=VELOCITIES + 0.5)
    with pytest.raises(ValueError, match=r"do not belong together: expected the same velocities, got 12 channels"):
        open_cube([paths[0], other[1]], **ends)


def test_no_data_in_tables(tmp_path):
    """By weight, per channel or per spectrum; or by value."""
    ends = {"velocity_low": LOW, "velocity_high": HIGH, "velocities": VELOCITIES}
    spectra = np.nan_to_num(SPECTRA).T
    weights = np.ones(len(PIXELS))
    weights[[2, 9, 11]] = 0.0, -1.0, np.nan
    columns = [
        fits.Column("PIXEL", "J", array=PIXELS),
        fits.Column("DATA", "12E", array=spectra, unit="mK"),
        fits.Column("WEIGHT", "E", array=weights),
    ]
    path = write_table(tmp_path / "a.fits", columns, {"NSIDE": NSIDE, "ORDERING": "RING", "COORDSYS": "G"})
    found = planes(open_cube(path, **ends))
    assert np.flatnonzero(np.isnan(found).any(axis=0)).tolist() == [2, 9, 11]
    good = weights > 0
    np.testing.assert_allclose(found[:, good], spectra.T[2:9, good] * 1e-3, rtol=1e-6)
    spectra = spectra.copy()
    spectra[7, 4] = -1.6375e30
    columns = [fits.Column("SPECTRA", "12D", array=spectra)]
    path = write_table(tmp_path / "b.fits", columns, {"NSIDE": NSIDE, "ORDERING": "RING", "COORDSYS": "G"})
    assert np.argwhere(np.isnan(planes(open_cube(path, **ends)))).tolist() == [[2, 7]]


def test_spectra_in_equatorial_pixels(tmp_path):
    """They come back in galactic ones."""
    place = SkyCoord(LONGITUDE * u.deg, LATITUDE * u.deg, frame="fk5").galactic
    values = np.stack([smooth_sky(place.l.deg, place.b.deg, velocity) for velocity in VELOCITIES]).astype(np.float32)
    np.save(tmp_path / "cube.npy", values)
    cube = open_cube(
        tmp_path / "cube.npy", velocities=VELOCITIES, ordering="RING", coordinates="equatorial", velocity_low=LOW,
        velocity_high=HIGH,
    )  # fmt: skip
    assert cube.coordinates == "equatorial"
    assert np.abs(planes(cube) - TRUE).max() < 0.05


def test_other_resolutions(tmp_path):
    np.save(tmp_path / "cube.npy", SPECTRA)
    cube = HealpixCube(tmp_path / "cube.npy", LOW, HIGH, VELOCITIES, "RING", "galactic")
    coarse = cube.plane(0, 4)
    np.testing.assert_allclose(coarse, healpy.ud_grade(SPECTRA[2].astype(float), 4), rtol=1e-6)
    fine = cube.plane(0, 32)
    assert (fine.shape, fine.dtype) == ((12288,), np.float32)


def test_what_arrays_need(tmp_path, caplog):
    path = tmp_path / "cube.npy"
    ends = {"velocity_low": LOW, "velocity_high": HIGH}
    np.save(path, SPECTRA)
    for given in ({}, {"velocities": VELOCITIES}, {"ordering": "RING"}):
        with pytest.raises(ValueError, match=r"says neither its velocities nor its ordering. Give velocities \(km/s"):
            open_cube(path, **given, **ends)
    options = {"velocities": VELOCITIES, "ordering": "RING", **ends}
    open_cube(path, **options)
    assert "the coordinates are not known; galactic ones are assumed" in caplog.text
    with pytest.raises(ValueError, match="ordering: expected 'RING' or 'NESTED', got 'ring'"):
        open_cube(path, **{**options, "ordering": "ring"})
    with pytest.raises(ValueError, match="coordinates: expected galactic, equatorial or ecliptic, got 'G'"):
        open_cube(path, **options, coordinates="G")
    np.save(tmp_path / "two.npy", SPECTRA)
    with pytest.raises(ValueError, match=r"expected one .npy file with all channels, got 2 files"):
        open_cube([path, tmp_path / "two.npy"], **options)
    for shape in ((11, 3072), (12, 3071), (12, 12), (3072, 13)):
        np.save(path, np.zeros(shape))
        with pytest.raises(
            ValueError, match=r"expected 12 channels, as there are velocities, along one axis and 12 ns"
        ):
            open_cube(path, **options)
    for array in (np.zeros((12, 4, 768)), np.zeros((12, 3072), complex)):
        np.save(path, array)
        with pytest.raises(ValueError, match=r"expected numbers of shape \(channels, pixels\) or \(pixels, channels\)"):
            open_cube(path, **options)
    np.save(path, SPECTRA)
    content = path.read_bytes()
    for damaged in (content[:-100], b"", b"\x93NUMPY", b"PK" + content):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=rf"is no array as numpy.save writes it, or is truncated \({len(damaged)} by"
        ):
            open_cube(path, **options)
    np.save(path, np.array([None, {}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"is no array as numpy.save writes it"):
        open_cube(path, **options)


def test_what_tables_need(tmp_path, caplog):
    ends = {"velocity_low": LOW, "velocity_high": HIGH}
    path = write_spectra(tmp_path, SPECTRA, parts=1)[0]
    with pytest.raises(
        ValueError, match=r"expected the radio velocity along the spectra \(1CTYP4 = 'VRAD'\), got nothing. Give veloci"
    ):
        open_cube(path, **ends)
    with pytest.raises(ValueError, match=r"velocities: expected 12 for the channels of .*HPX_001.fit, got 3"):
        open_cube(path, velocities=[1, 2, 3], **ends)
    with pytest.raises(ValueError, match=r"HPX_001.fit and the argument velocities do not belong together"):
        open_cube(
            write_spectra(tmp_path, SPECTRA, parts=1, velocities=VELOCITIES)[0], velocities=VELOCITIES + 1.0, **ends
        )
    ends["velocities"] = VELOCITIES
    with pytest.raises(ValueError, match=r"expected a column 'SPECTRA', got HPXINDEX, GLON, GLAT, DATA, WDATA"):
        open_cube(path, column="SPECTRA", **ends)
    with pytest.raises(
        ValueError, match=r"expected a spectrum in each row of the column GLON, got values of shape \(\)"
    ):
        open_cube(path, column="GLON", **ends)
    path = write_hpx_map(tmp_path / "NHI_HPX.fits", SPECTRA[0])
    with pytest.raises(
        ValueError, match=r"expected a column with spectra, one of \['DATA', .*, got \['HPXINDEX',.*'NHI'"
    ):
        open_cube(path, **ends)
    columns = [fits.Column("DATA", "12E", array=SPECTRA.T, unit="Jy")]
    keys = {"NSIDE": NSIDE, "ORDERING": "RING"}
    path = write_table(tmp_path / "a.fits", columns, keys)
    with pytest.raises(ValueError, match=r"expected brightness temperature in K or mK \(unit of DATA\), got Jy"):
        open_cube(path, **ends)
    columns = [fits.Column("DATA", "12E", array=SPECTRA.T, unit="K")]
    cube = open_cube(write_table(path, columns, keys), **ends)
    assert cube.coordinates == "galactic"
    assert "the coordinates are not known; galactic ones are assumed" in caplog.text
    np.testing.assert_array_equal(planes(cube), SPECTRA[2:9])
    path = write_table(path, columns, {"NSIDE": NSIDE})
    with pytest.raises(ValueError, match="its ordering is not known"):
        open_cube(path, **ends)
    np.testing.assert_array_equal(planes(open_cube(path, ordering="RING", **ends)), SPECTRA[2:9])
