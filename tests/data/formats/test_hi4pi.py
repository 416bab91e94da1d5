import itertools
import logging

import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from scipy.interpolate import RegularGridInterpolator
from sky_files import (
    VELOCITY_STEP,
    channel_velocities,
    cube_header,
    smooth_sky,
    write_cube,
    write_spectra,
)

from keras_cosmo.data.formats import hi4pi
from keras_cosmo.data.formats.hi4pi import Hi4piCube, open_cube

NSIDE = 16
PIXELS = np.arange(12 * NSIDE**2)
LONGITUDE, LATITUDE = healpy.pix2ang(NSIDE, PIXELS, lonlat=True)
VELOCITIES = channel_velocities(12, -7.0)
LOW, HIGH = VELOCITIES[2] - 0.1, VELOCITIES[8] + 0.1
TAKEN = VELOCITIES[2:9]
TRUE = np.stack([smooth_sky(LONGITUDE, LATITUDE, velocity) for velocity in TAKEN])
SPECTRA = np.stack([smooth_sky(LONGITUDE, LATITUDE, velocity) for velocity in VELOCITIES]).astype(np.float32)
SPECTRA[3, 5], SPECTRA[4, 2000] = np.nan, np.nan
WHOLE = {"shape": (181, 363), "pixel": 1.0}
"""All of the sky with 3 columns more than 360 degrees, as in HI4PI."""


def planes(cube, nside=NSIDE):
    return np.stack([cube.plane(i, nside) for i in range(cube.n_channels)])


def bilinear(image, header, longitude, latitude):
    """Bilinear interpolation on a grid of the whole sky by scipy, in the frame of the file."""
    step = 360.0 / abs(header["CDELT1"])
    assert step == round(step)
    x = (longitude - header["CRVAL1"]) / header["CDELT1"] + header["CRPIX1"] - 1
    y = (latitude - header["CRVAL2"]) / header["CDELT2"] + header["CRPIX2"] - 1
    first = image[:, : int(step)]
    periodic = np.concatenate([first, first[:, :1]], axis=1)
    rows, columns = (np.arange(size) for size in periodic.shape)
    interpolate = RegularGridInterpolator((rows, columns), periodic.astype(float), bounds_error=False, fill_value=None)
    return interpolate(np.stack([np.clip(y, 0, rows[-1]), np.mod(x, step)], axis=-1))


# ---- The channels.


@pytest.mark.parametrize(("channels", "first", "begin"), [(933, None, 416), (943, None, 421), (120, -77.3, 10)])
@pytest.mark.parametrize("unit", ["m/s", "km/s"])
def test_the_64_channels_of_the_paper(tmp_path, channels, first, begin, unit):
    """Zhang et al. 2019: 64 maps from -64.5 to 17 km/s; where they are in the file depends on the file."""
    if first is None:
        pixel = 466.92171 + (channels - 933) / 2
        velocities = (np.arange(channels) + 1 - pixel) * VELOCITY_STEP / 1e3
    else:
        velocities = channel_velocities(channels, first)
    values = np.broadcast_to(np.arange(channels)[:, None, None], (channels, 15, 27))
    path = write_cube(tmp_path / "CAR.fits", velocities, (15, 27), 1.0, (100.0, 20.0), values=values, unit=unit)
    cube = Hi4piCube(path, -64.5, 17.0)
    assert cube.n_channels == 64
    np.testing.assert_allclose(cube.velocities[[0, -1]], [-64.310, 16.848], atol=1e-3)
    np.testing.assert_allclose(np.diff(cube.velocities), VELOCITY_STEP / 1e3, rtol=1e-6)
    for i in (0, 40, 63):
        plane = cube.plane(i, NSIDE)
        np.testing.assert_allclose(plane[np.isfinite(plane)], begin + i, rtol=3e-7)
    assert plane.dtype == np.float32
    # 27 by 15 degrees, in HEALPix pixels.
    inside = (np.abs(LONGITUDE - 100.0) < 13.4) & (np.abs(LATITUDE - 20.0) < 7.4)
    outside = (np.abs(LONGITUDE - 100.0) > 13.6) | (np.abs(LATITUDE - 20.0) > 7.6)
    assert np.isfinite(plane[inside]).all()
    assert np.isnan(plane[outside]).all()


def test_channels_by_falling_velocity(tmp_path):
    rising = Hi4piCube(write_cube(tmp_path / "a.fits", VELOCITIES, (9, 9), 2.0), LOW, HIGH)
    falling = Hi4piCube(write_cube(tmp_path / "b.fits", VELOCITIES[::-1], (9, 9), 2.0), LOW, HIGH)
    np.testing.assert_allclose(rising.velocities, TAKEN, rtol=1e-9)
    np.testing.assert_allclose(falling.velocities, rising.velocities, rtol=1e-9)
    np.testing.assert_allclose(planes(falling), planes(rising), rtol=1e-6)


def test_velocities_that_the_file_has_not(tmp_path):
    path = write_cube(tmp_path / "cube.fits", VELOCITIES, (9, 9), 2.0)
    begin, end = VELOCITIES[0] - 0.644107, VELOCITIES[-1] + 0.644107
    for low, high in ((-64.5, 17.0), (LOW, 17.0), (begin - 0.01, HIGH)):
        with pytest.raises(
            ValueError,
            match=rf"from {low:g} to {high:g} km/s, but the file has {begin:.3f} to {end:.3f} km/s \(12 channels\)",
        ):
            Hi4piCube(path, low, high)
    assert Hi4piCube(path, begin, end).n_channels == 12
    with pytest.raises(
        ValueError, match=r"no channel has its centre from .*; channels are 1.288 km/s wide. Choose a w"
    ):
        Hi4piCube(path, VELOCITIES[3] + 0.1, VELOCITIES[3] + 0.2)
    for low, high in ((3.0, -3.0), (np.nan, 3.0), (-np.inf, 3.0)):
        with pytest.raises(ValueError, match="velocity_low, velocity_high: expected two velocities in km/s, the lower"):
            Hi4piCube(path, low, high)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"CTYPE3": "FREQ"},
            r"expected the radio velocity along the spectra \(CTYPE3 = 'VRAD'\), got FREQ. Give veloc",
        ),
        ({"CTYPE3": None}, r"\(CTYPE3 = 'VRAD'\), got nothing"),
        ({"SPECSYS": "BARYCENT"}, r"expected velocities in the local standard of rest .*, got BARYCENT"),
        ({"CUNIT3": None}, "expected CUNIT3 to be m/s or km/s, got nothing"),
        ({"CUNIT3": "Hz"}, "expected CUNIT3 to be m/s or km/s, got Hz"),
        ({"CUNIT3": "km/s"}, r"expected velocities within 3000 km/s, got -7.* \(CUNIT3 = km/s\)"),
        ({"CRVAL3": None}, "expected a number for CRVAL3 in the header, got None"),
        ({"CDELT3": 0.0}, "expected a number for CDELT3 in the header, got 0.0"),
    ],
)
def test_axes_of_velocity_that_are_not_understood(tmp_path, changes, message):
    path = write_cube(tmp_path / "cube.fits", VELOCITIES, (9, 9), 2.0, **changes)
    with pytest.raises(ValueError, match=message):
        Hi4piCube(path, LOW, HIGH)
    np.testing.assert_array_equal(Hi4piCube(path, LOW, HIGH, VELOCITIES).velocities, TAKEN)


@pytest.mark.parametrize("kind", ["VELO", "VELO-LSR", "vrad"])
def test_other_names_of_the_velocity(tmp_path, kind):
    path = write_cube(tmp_path / "cube.fits", VELOCITIES, (9, 9), 2.0, CTYPE3=kind, SPECSYS=None, CUNIT3="M/S")
    np.testing.assert_allclose(Hi4piCube(path, LOW, HIGH).velocities, TAKEN, rtol=1e-9)


def test_steps_in_a_matrix(tmp_path):
    """CDi_j instead of CDELTi."""
    changes = {f"CDELT{axis}": None for axis in (1, 2, 3)}
    path = write_cube(tmp_path / "cube.fits", VELOCITIES, (9, 9), 2.0)
    plain = Hi4piCube(path, LOW, HIGH)
    header = cube_header(VELOCITIES, (9, 9), 2.0)
    with fits.open(path, mode="update") as file:
        for axis, key in enumerate(changes, start=1):
            file[0].header[f"CD{axis}_{axis}"] = header[key]
            del file[0].header[key]
    matrix = Hi4piCube(path, LOW, HIGH)
    np.testing.assert_allclose(matrix.velocities, plain.velocities, rtol=1e-12)
    np.testing.assert_array_equal(planes(matrix), planes(plain))


def test_velocities_beside_the_header(tmp_path):
    path = write_cube(tmp_path / "cube.fits", VELOCITIES, (9, 9), 2.0)
    np.testing.assert_allclose(Hi4piCube(path, LOW, HIGH, VELOCITIES).velocities, TAKEN)
    with pytest.raises(
        ValueError, match=r"cube.fits and the argument velocities do not belong together: expected the s"
    ):
        Hi4piCube(path, LOW, HIGH, VELOCITIES + 0.3)
    with pytest.raises(ValueError, match=r"velocities: expected 12 for the channels of .*cube.fits, got 11"):
        Hi4piCube(path, LOW, HIGH, VELOCITIES[1:])


# ---- The grid.


@pytest.mark.parametrize("kind", ["GLON", "RA"])
@pytest.mark.parametrize(
    ("shape", "centre"),
    [
        ((181, 363), 0.0),
        ((181, 360), 0.0),
        ((180, 360), 0.5),
        ((181, 363), 180.0),
        ((183, 363), 37.25),
        ((181, 361), 0.0),
    ],
)
def test_the_whole_sky_is_interpolated_as_by_scipy(tmp_path, kind, shape, centre):
    """With a margin of columns, without, and with rows that end half a pixel before the poles."""
    path = write_cube(tmp_path / "CAR.fits", VELOCITIES, shape, 1.0, (centre, 0.0), kind=kind)
    cube = Hi4piCube(path, LOW, HIGH)
    assert cube.coordinates == {"GLON": "galactic", "RA": "equatorial"}[kind]
    with fits.open(path) as file:
        header, image = file[0].header, np.array(file[0].data[4])
    place = SkyCoord(LONGITUDE * u.deg, LATITUDE * u.deg, frame="galactic")
    if kind == "RA":
        place = SkyCoord(place.fk5.ra, place.fk5.dec)
        expected = bilinear(image, header, place.ra.deg, place.dec.deg)
    else:
        expected = bilinear(image, header, LONGITUDE, LATITUDE)
    found = cube.plane(2, NSIDE)
    # Galactic positions by healpy and by astropy differ by 1e-7, of which a degree is a row.
    np.testing.assert_allclose(found, expected, atol=3e-6 if kind == "GLON" else 3e-5)
    assert np.abs(found - TRUE[2]).max() < (2e-3 if shape[0] > 180 else 0.02)


def test_the_seam_and_the_poles(tmp_path):
    """A field that grows along longitude: no pixel may be a mean across the circle."""
    shape = (37, 75)
    header = cube_header(VELOCITIES, shape, 5.0)

    def latitude(longitude, latitude, velocity):
        return latitude + 0.0 * longitude

    path = write_cube(tmp_path / "CAR.fits", VELOCITIES, shape, 5.0, values=latitude)
    found = Hi4piCube(path, LOW, HIGH).plane(0, 64)
    centres = healpy.pix2ang(64, np.arange(12 * 64**2), lonlat=True)
    np.testing.assert_allclose(found, centres[1], atol=2e-5)
    assert header["CRPIX1"] == 38.0
    # The margin blank, on one side and on the other.
    with fits.open(path) as file:
        values = np.array(file[0].data)
    for blank in ([0, 1, 2], [72, 73, 74], [0, 73]):
        changed = values.copy()
        changed[:, :, blank] = np.nan
        path = write_cube(tmp_path / "blank.fits", VELOCITIES, shape, 5.0, values=changed)
        np.testing.assert_array_equal(Hi4piCube(path, LOW, HIGH).plane(0, 64), found)


def write_tiles(folder, width, height, overlap, kind="GLON"):
    """Tiles of ``width`` by ``height`` degrees over the whole sky with pixels of 2 degrees.

    With an overlap of 1, neighbours share a column; with 0 they meet between two.
    """
    paths = []
    for row, column in itertools.product(range(180 // height), range(360 // width)):
        centre = ((column + 0.5) * width, -90.0 + (row + 0.5) * height)
        shape = (height // 2 + overlap, width // 2 + overlap)
        path = folder / f"CAR_{'ABCDEFGHI'[row]}{column + 1:02d}.fits"
        paths.append(write_cube(path, VELOCITIES, shape, 2.0, centre, kind=kind))
    return paths


@pytest.mark.parametrize("kind", ["GLON", "RA"])
def test_tiles_are_the_whole(tmp_path, kind):
    whole = Hi4piCube(write_cube(tmp_path / "CAR.fits", VELOCITIES, (91, 183), 2.0, (180.0, 0.0), kind=kind), LOW, HIGH)
    folder = tmp_path / "tiles"
    folder.mkdir()
    write_tiles(folder, 60, 60, 1, kind)
    tiles = open_cube(folder, velocity_low=LOW, velocity_high=HIGH)
    assert isinstance(tiles, Hi4piCube)
    assert (len(tiles.paths), tiles.n_channels, tiles.coordinates) == (18, 7, whole.coordinates)
    np.testing.assert_allclose(planes(tiles), planes(whole), atol=3e-6)


def test_tiles_that_only_touch(tmp_path, caplog):
    """Between the outermost centres of two tiles, the nearest pixel counts: no pixel of the sky is lost."""
    paths = write_tiles(tmp_path, 60, 60, 0)
    with caplog.at_level(logging.INFO):
        found = planes(Hi4piCube(paths, LOW, HIGH))
    assert "18 files cover 100.0 % of the sky" in caplog.text
    assert np.abs(found - TRUE).max() < 0.1
    part = Hi4piCube(paths[3:], LOW, HIGH).plane(0, NSIDE)
    # Right at a border, the tile next to it has the pixel as well.
    known = np.isfinite(part)
    assert 0.82 < known.mean() < 0.9
    assert np.abs(part[known] - TRUE[0][known]).max() < 0.1
    assert not known[(LONGITUDE > 1) & (LONGITUDE < 179) & (LATITUDE < -31)].any()


@pytest.mark.parametrize("kind", ["GLON", "RA"])
@pytest.mark.parametrize("centre", [(0.0, 0.0), (180.0, 80.0), (270.0, -80.0), (30.0, 60.0)])
def test_the_disc_around_a_tile_holds_all_of_it(tmp_path, monkeypatch, kind, centre):
    """Pixels are looked for near a tile alone; looking at the whole sky finds no others."""
    path = write_cube(tmp_path / "CAR.fits", VELOCITIES, (21, 21), 1.0, centre, kind=kind)
    found = Hi4piCube(path, LOW, HIGH).plane(0, 256)
    monkeypatch.setattr(hi4pi, "LARGEST_DISC", 0.0)
    np.testing.assert_array_equal(Hi4piCube(path, LOW, HIGH).plane(0, 256), found)
    assert np.isfinite(found).any()


def test_other_projections(tmp_path):
    """A tile about the north pole: tangent plane."""
    shape = (41, 41)
    header = cube_header(VELOCITIES, shape, 1.0, CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN", CRVAL2=90.0)
    longitude, latitude = WCS(header).celestial.wcs_pix2world(*np.meshgrid(np.arange(41), np.arange(41)), 0)
    values = np.stack([smooth_sky(longitude, latitude, velocity) for velocity in VELOCITIES])
    path = tmp_path / "TAN.fits"
    fits.PrimaryHDU(values.astype("f4"), header).writeto(path)
    found = planes(Hi4piCube(path, LOW, HIGH))
    known = np.isfinite(found[0])
    assert known[LATITUDE > 71].all()
    assert not known[LATITUDE < 60].any()
    assert np.abs(found - TRUE)[:, LATITUDE > 71].max() < 2e-3


def test_blank_pixels_stay_blank(tmp_path):
    """A HEALPix pixel is blank if one of its four neighbours is."""
    shape, pixel = (91, 183), 2.0
    values = np.ones((12, *shape), np.float32)
    header = cube_header(VELOCITIES, shape, pixel)
    row, column = 60, 40
    values[4, row, column] = np.nan
    values[5, row, column] = -1.6375e30
    path = write_cube(tmp_path / "CAR.fits", VELOCITIES, shape, pixel, values=values)
    cube = Hi4piCube(path, LOW, HIGH)
    longitude = header["CRVAL1"] + (column + 1 - header["CRPIX1"]) * header["CDELT1"]
    latitude = header["CRVAL2"] + (row + 1 - header["CRPIX2"]) * header["CDELT2"]
    centres = healpy.pix2ang(64, np.arange(12 * 64**2), lonlat=True)
    distance = np.abs((centres[0] - longitude + 180.0) % 360.0 - 180.0), np.abs(centres[1] - latitude)
    near = (distance[0] < pixel - 1e-6) & (distance[1] < pixel - 1e-6)
    assert near.any()
    for i in (2, 3):
        plane = cube.plane(i, 64)
        np.testing.assert_array_equal(np.isnan(plane), near)
        assert np.nanmax(np.abs(plane - 1.0)) < 1e-6


def test_a_neighbour_without_weight_does_not_count(tmp_path):
    """Centres at latitude 0 lie on a row of pixels: the row above is blank and does not matter."""
    values = np.ones((12, 91, 183), np.float32)
    values[:, 46:] = np.nan
    path = write_cube(tmp_path / "CAR.fits", VELOCITIES, (91, 183), 2.0, values=values)
    plane = Hi4piCube(path, LOW, HIGH).plane(0, NSIDE)
    assert np.isfinite(plane[LATITUDE < 1e-9]).all()
    assert np.isnan(plane[LATITUDE > 1e-9]).all()


@pytest.mark.parametrize("how", ["stokes before", "stokes after", "extension", "integers", "mK", "no unit", "gz", "fz"])
def test_the_same_cube_in_other_files(tmp_path, how, caplog):
    path = write_cube(tmp_path / "CAR.fits", VELOCITIES, (91, 183), 2.0)
    expected = planes(Hi4piCube(path, LOW, HIGH))
    with fits.open(path) as file:
        header, values = file[0].header.copy(), np.array(file[0].data)
    other, tolerance = tmp_path / "other.fits", 0.0
    if how == "stokes after":
        hdu = fits.PrimaryHDU(values[None], header)
        hdu.header["CTYPE4"] = "STOKES"
    elif how == "stokes before":
        hdu = fits.PrimaryHDU(values[:, None], None)
        for key in header:
            if key not in hdu.header:
                hdu.header[key.replace("3", "4")] = header[key]
        hdu.header["CTYPE3"] = "STOKES"
    elif how == "integers":
        hdu = fits.ImageHDU(values, header)
        hdu.scale("int16", bscale=1e-4, bzero=3.0)
        hdu.header["BLANK"] = -32768
        hdu.data[:, 70, 70] = -32768
        hdu, tolerance = fits.PrimaryHDU(hdu.data, hdu.header), 1e-4
        hdu.header["BSCALE"], hdu.header["BZERO"] = 1e-4, 3.0
    elif how == "mK":
        hdu, tolerance = fits.PrimaryHDU(values * np.float32(1e3), header), 1e-6
        hdu.header["BUNIT"] = "mK"
    elif how == "no unit":
        del header["BUNIT"]
        hdu = fits.PrimaryHDU(values, header)
    elif how == "fz":
        # Lossless for integers alone.
        hdu, tolerance = fits.CompImageHDU(values, header, quantize_level=1e4), 1e-3
    else:
        hdu = fits.ImageHDU(values, header)
    hdus = [hdu] if isinstance(hdu, fits.PrimaryHDU) else [fits.PrimaryHDU(), hdu]
    other = other.with_name("other.fits" + {"gz": ".gz", "fz": ".fz"}.get(how, ""))
    fits.HDUList(hdus).writeto(other)
    cube = open_cube(other, velocity_low=LOW, velocity_high=HIGH)
    found = planes(cube)
    if how == "integers":
        lost = np.isnan(found[0])
        assert 0 < np.count_nonzero(lost) < 5
        found[:, lost] = expected[:, lost]
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    assert ("the unit is not known (no BUNIT); K is assumed" in caplog.text) == (how == "no unit")
    assert ("is decompressed for every channel" in caplog.text) == (how in ("gz", "fz"))


def test_blocks_and_resolutions(tmp_path, monkeypatch):
    path = write_cube(tmp_path / "CAR.fits", VELOCITIES, **WHOLE)
    cube = Hi4piCube(path, LOW, HIGH)
    expected = cube.plane(0, NSIDE)
    assert cube.plane(0, 8).shape == (768,)
    monkeypatch.setattr(hi4pi, "BLOCK", 1000)
    np.testing.assert_array_equal(cube.plane(0, NSIDE), expected)
    np.testing.assert_array_equal(Hi4piCube(path, LOW, HIGH).plane(0, NSIDE), expected)
    assert cube.nside is None
    for i in (-1, 7):
        with pytest.raises(IndexError, match=f"i: expected a channel from 0 to 6, got {i}"):
            cube.plane(i, NSIDE)
    for nside in (3, 0, 2.5):
        with pytest.raises(ValueError, match=rf"nside: expected a power of two, such as 1024, got {nside}"):
            cube.plane(0, nside)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"CTYPE1": "GLAT-CAR", "CTYPE2": "GLON-CAR"},
            r"expected longitude and latitude first.*, got the axes GLAT-CAR, G",
        ),
        ({"CTYPE1": "VRAD", "CTYPE3": "GLON-CAR"}, r"got the axes VRAD, GLAT-CAR, GLON-CAR"),
        ({"CTYPE1": None}, r"got the axes \?, GLAT-CAR, VRAD"),
        (
            {"CTYPE1": "GLON-XYZ", "CTYPE2": "GLAT-XYZ"},
            r"world coordinates of longitude and latitude are not readable \(",
        ),
        ({"BUNIT": "Jy/beam"}, r"expected brightness temperature in K or mK \(BUNIT\), got Jy/beam"),
        ({"kind": "RA", "RADESYS": "FK4", "EQUINOX": 1950.0}, r"expected coordinates of J2000 .*, got FK4 1950"),
        ({"kind": "RA", "RADESYS": None, "EQUINOX": 1950.0}, r"expected coordinates of J2000 .*, got equinox 1950"),
    ],
)
def test_cubes_that_are_not_understood(tmp_path, changes, message):
    path = write_cube(tmp_path / "cube.fits", VELOCITIES, (9, 9), 2.0, values=np.ones((12, 9, 9)), **changes)
    with pytest.raises(ValueError, match=message):
        Hi4piCube(path, LOW, HIGH)


def test_two_long_axes_besides_the_sky(tmp_path):
    header = cube_header(VELOCITIES, (9, 9), 2.0, CTYPE4="STOKES")
    fits.PrimaryHDU(np.ones((4, 12, 9, 9)), header).writeto(tmp_path / "cube.fits")
    with pytest.raises(
        ValueError, match=r"got the axes GLON-CAR, GLAT-CAR, VRAD, STOKES. Write it so, with one spectru"
    ):
        Hi4piCube(tmp_path / "cube.fits", LOW, HIGH)


def test_tiles_that_do_not_belong_together(tmp_path):
    first = write_cube(tmp_path / "a.fits", VELOCITIES, (9, 9), 2.0)
    other = write_cube(tmp_path / "b.fits", VELOCITIES + 0.4, (9, 9), 2.0, (20.0, 0.0))
    with pytest.raises(
        ValueError, match=r"b.fits and .*a.fits do not belong together: expected the same velocities, got"
    ):
        Hi4piCube([first, other], LOW, HIGH)
    other = write_cube(tmp_path / "b.fits", VELOCITIES, (9, 9), 2.0, (20.0, 0.0), kind="RA")
    with pytest.raises(
        ValueError, match=r"expected the same coordinates, got equatorial and galactic. Open them as two"
    ):
        Hi4piCube([first, other], LOW, HIGH)
    # One of them has more channels at its ends: it does not matter.
    longer = channel_velocities(20, VELOCITIES[0] - 4 * VELOCITY_STEP / 1e3)
    other = write_cube(tmp_path / "b.fits", longer, (9, 9), 2.0, (16.0, 0.0))
    alone = planes(Hi4piCube(other, LOW, HIGH))
    both = planes(Hi4piCube([first, other], LOW, HIGH))
    known = np.isfinite(alone) & ~np.isfinite(planes(Hi4piCube(first, LOW, HIGH)))
    np.testing.assert_array_equal(both[known], alone[known])


def test_truncated_cubes(tmp_path):
    path = write_cube(tmp_path / "CAR.fits", VELOCITIES, (91, 183), 2.0)
    content = path.read_bytes()
    path.write_bytes(content[:-5000])
    with pytest.raises(
        ValueError,
        match=rf"CAR.fits: the file is truncated: expected at least \d+ bytes by its header, got {len(content) - 5000}",
    ):
        open_cube(path, velocity_low=LOW, velocity_high=HIGH)


# ---- Any format.


def test_all_formats_hold_the_same_sky(tmp_path):
    """One sky, on the grid and on HEALPix: the same but for the interpolation."""
    whole = np.nan_to_num(SPECTRA)
    np.save(tmp_path / "cube.npy", whole)
    write_spectra(tmp_path, whole, velocities=VELOCITIES)
    write_cube(tmp_path / "CAR.fits", VELOCITIES, **WHOLE)
    write_cube(tmp_path / "EQ.fits", VELOCITIES, **WHOLE, kind="RA")
    (tmp_path / "tiles").mkdir()
    write_tiles(tmp_path / "tiles", 60, 60, 1)
    ends = {"velocity_low": LOW, "velocity_high": HIGH}
    cubes = [
        open_cube(tmp_path / "cube.npy", velocities=VELOCITIES, ordering="RING", **ends),
        open_cube([tmp_path / f"HPX_{part:03d}.fit" for part in (1, 2, 3, 4)], **ends),
        open_cube(tmp_path / "CAR.fits", **ends),
        open_cube(tmp_path / "EQ.fits", **ends),
        open_cube(tmp_path / "tiles", **ends),
    ]
    known = np.isfinite(SPECTRA[2:9])
    for cube, tolerance in zip(cubes, (0.0, 0.0, 2e-3, 2e-3, 6e-3), strict=True):
        np.testing.assert_allclose(cube.velocities, TAKEN, rtol=1e-9)
        np.testing.assert_allclose(planes(cube)[known], SPECTRA[2:9][known], rtol=0, atol=tolerance)


def test_what_is_no_cube(tmp_path):
    ends = {"velocity_low": LOW, "velocity_high": HIGH}
    with pytest.raises(FileNotFoundError, match=r"CAR.fits: there is no such file. Correct the path"):
        open_cube(tmp_path / "CAR.fits", **ends)
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(
        FileNotFoundError, match=r"expected FITS files, ending in one of .*, got \['notes.txt'\]. Give t"
    ):
        open_cube(tmp_path, **ends)
    with pytest.raises(ValueError, match="paths: expected a folder or at least one file, got an empty list"):
        open_cube([], **ends)
    with pytest.raises(
        ValueError, match=r"notes.txt: expected a FITS file, got one of 7 bytes that begins with b'nothi"
    ):
        open_cube(tmp_path / "notes.txt", **ends)
    path = tmp_path / "NHI.fits"
    fits.PrimaryHDU(np.ones((4, 6))).writeto(path)
    with pytest.raises(
        ValueError, match=r"or a HEALPix table with a spectrum per row, got an image of 6 x 4 pixels wit"
    ):
        open_cube(path, **ends)
    cube = write_cube(tmp_path / "CAR.fits", VELOCITIES, (9, 9), 2.0)
    with pytest.raises(
        ValueError, match=r"NHI.fits: expected a cube of longitude, latitude and velocity, got an image"
    ):
        open_cube([cube, path], **ends)
    with pytest.raises(ValueError, match=r"whose header says everything: leave out ordering, column"):
        open_cube(cube, ordering="RING", column="DATA", **ends)
