import doctest

import astropy.units as u
import healpy
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from healpy.projector import GnomonicProj

from keras_cosmo import gnomonic
from keras_cosmo.gnomonic import BLOCK_PIXELS, GnomonicGrid

PAPER = GnomonicGrid(side=64, pixel_size=23.4)


def random_centres(count, seed=0):
    generator = np.random.default_rng(seed)
    latitude = np.degrees(np.arcsin(generator.uniform(-1, 1, count)))
    return generator.uniform(0, 360, count), latitude, generator.uniform(0, 360, count)


def angles(vectors, others):
    """Angle between unit vectors in degrees, also where it is tiny."""
    return np.degrees(2 * np.arcsin(np.minimum(np.linalg.norm(vectors - others, axis=-1) / 2, 1)))


def healpy_pixels(grid, nside, longitude, latitude, rotation):
    projector = GnomonicProj(rot=(longitude, latitude, rotation), xsize=grid.side, reso=grid.pixel_size)
    numbers = np.arange(healpy.nside2npix(nside))
    return projector.projmap(numbers, lambda x, y, z: healpy.vec2pix(nside, x, y, z)).astype(int)


@pytest.mark.parametrize("nside", [16, 128, 1024])
@pytest.mark.parametrize("grid", [PAPER, GnomonicGrid(side=15, pixel_size=120.0)])
def test_pixels_are_those_of_healpy(grid, nside):
    centres = random_centres(20, seed=nside)
    pixels = grid.pixels(nside, *centres)
    assert (pixels.shape, pixels.dtype) == ((20, grid.side, grid.side), np.int64)
    for found, *centre in zip(pixels, *centres, strict=True):
        np.testing.assert_array_equal(found, healpy_pixels(grid, nside, *centre))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of the colours that gnomview would draw with
def test_images_are_those_of_gnomview():
    values = np.random.default_rng(1).standard_normal(healpy.nside2npix(64))
    expected = healpy.gnomview(
        values, rot=(123.4, -56.7, 33.3), xsize=32, reso=40.0, return_projected_map=True, no_plot=True
    )
    np.testing.assert_array_equal(values[GnomonicGrid(32, 40.0).pixels(64, 123.4, -56.7, 33.3)], expected)


@pytest.mark.parametrize("latitude", [90.0, -90.0, 0.0])
@pytest.mark.parametrize("rotation", [0.0, 90.0, -45.0, 400.0])
def test_directions_at_poles_and_equator_are_those_of_healpy(latitude, rotation):
    projector = GnomonicProj(rot=(30.0, latitude, rotation), xsize=9, reso=300.0)
    expected = np.stack(projector.xy2vec(*map(np.asarray, projector.ij2xy())), axis=-1)
    vectors = GnomonicGrid(9, 300.0).vectors(30.0, latitude, rotation)
    np.testing.assert_allclose(vectors, expected, atol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-14)


def test_directions_are_those_of_a_tangential_world_coordinate_system():
    grid = GnomonicGrid(side=10, pixel_size=90.0)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["GLON-TAN", "GLAT-TAN"], [200.0, 35.0]
    wcs.wcs.crpix, wcs.wcs.cdelt = [5.5, 5.5], [-1.5, 1.5]
    psi = np.radians(25.0)
    wcs.wcs.pc = [[np.cos(psi), np.sin(psi)], [-np.sin(psi), np.cos(psi)]]
    rows, columns = np.mgrid[:10, :10]
    longitude, latitude = wcs.wcs_pix2world(columns.ravel(), rows.ravel(), 0)
    expected = healpy.ang2vec(longitude, latitude, lonlat=True).reshape(10, 10, 3)
    assert angles(grid.vectors(200.0, 35.0, 25.0), expected).max() < 1e-9


def test_orientation():
    grid = GnomonicGrid(side=3, pixel_size=60.0)
    centre = SkyCoord(40 * u.deg, 30 * u.deg)

    def position_angle(row, column, rotation):
        longitude, latitude = healpy.vec2ang(grid.vectors(40.0, 30.0, rotation)[row, column], lonlat=True)
        return float(centre.position_angle(SkyCoord(longitude[0] * u.deg, latitude[0] * u.deg)).deg)

    # Position angles go from north through east: up is north, left is east.
    assert (position_angle(2, 1, 0.0) + 180) % 360 == pytest.approx(180, abs=1e-6)
    assert position_angle(1, 0, 0.0) == pytest.approx(90, abs=1e-6)
    # A rotation takes the left from east to north and the top from north to west.
    assert position_angle(2, 1, 20.0) == pytest.approx(340, abs=1e-6)
    assert position_angle(1, 0, 20.0) == pytest.approx(70, abs=1e-6)


def test_a_cutout_does_not_depend_on_its_company():
    centres = random_centres(70)
    assert 70 * PAPER.side**2 > BLOCK_PIXELS
    together, weights = PAPER.neighbours(256, *centres)
    pixels, vectors = PAPER.pixels(256, *centres), PAPER.vectors(*centres)
    for place in (0, 63, 64, 69):
        alone = [centre[place] for centre in centres]
        np.testing.assert_array_equal(PAPER.pixels(256, *alone), pixels[place])
        np.testing.assert_array_equal(PAPER.vectors(*alone), vectors[place])
        np.testing.assert_array_equal(PAPER.neighbours(256, *alone)[0], together[place])
        np.testing.assert_array_equal(PAPER.neighbours(256, *alone)[1], weights[place])


def test_neighbours_interpolate_as_healpy():
    values = np.random.default_rng(2).standard_normal(healpy.nside2npix(32))
    longitude, latitude, rotation = random_centres(5)
    grid = GnomonicGrid(12, 60.0)
    pixels, weights = grid.neighbours(32, longitude, latitude, rotation)
    assert pixels.shape == weights.shape == (5, 12, 12, 4)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-12)
    colatitude, azimuth = healpy.vec2ang(grid.vectors(longitude, latitude, rotation).reshape(-1, 3))
    expected = healpy.get_interp_val(values, colatitude, azimuth).reshape(5, 12, 12)
    np.testing.assert_allclose((values[pixels] * weights).sum(axis=-1), expected, atol=1e-9)


def test_project_inverts_vectors():
    centres = random_centres(6)
    vectors = PAPER.vectors(*centres)
    rows, columns = np.mgrid[:64, :64]
    for place in range(6):
        x, y, front = PAPER.project(3.0 * vectors[place].reshape(-1, 3), *(centre[place] for centre in centres))
        assert front.all()
        np.testing.assert_allclose(x, columns.ravel(), atol=1e-10)
        np.testing.assert_allclose(y, rows.ravel(), atol=1e-10)
    x, y, front = PAPER.project(vectors[0].reshape(-1, 3), *centres)
    assert x.shape == y.shape == front.shape == (6, 4096)
    np.testing.assert_allclose(x[0], columns.ravel(), atol=1e-10)


def test_project_agrees_with_healpy_and_knows_what_is_behind():
    pixels = np.arange(healpy.nside2npix(8))
    vectors = np.stack(healpy.pix2vec(8, pixels), axis=-1)
    x, y, front = PAPER.project(vectors, 77.0, -20.0, 130.0)
    projector = GnomonicProj(rot=(77.0, -20.0, 130.0), xsize=64, reso=23.4)
    expected_x, expected_y = projector.vec2xy(*vectors.T)
    np.testing.assert_array_equal(front, np.isfinite(expected_x))
    scale = np.radians(23.4 / 60)
    np.testing.assert_allclose(x, 31.5 + expected_x / scale, rtol=1e-9)
    np.testing.assert_allclose(y, 31.5 + expected_y / scale, rtol=1e-9)
    assert np.isnan(x[~front]).all()
    assert np.isnan(y[~front]).all()
    assert 0 < front.sum() < len(front)


def test_sizes():
    # Section 2 of Zhang et al. 2019: 24.96 degrees, ell_F = 14.4, no centre below 17.65 degrees.
    assert PAPER.fundamental == pytest.approx(360 / 24.96)
    assert PAPER.fundamental == pytest.approx(14.4, abs=0.05)
    assert PAPER.half_diagonal == pytest.approx(17.65, abs=0.005)
    centre = healpy.ang2vec(10.0, 20.0, lonlat=True)
    farthest = angles(PAPER.vectors(10.0, 20.0, 30.0), centre).max()
    assert PAPER.reach == pytest.approx(farthest, abs=1e-10)
    assert GnomonicGrid(1, 10.0).reach == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"side": 64.0}, TypeError, "side: expected an integer number of pixels, got 64.0"),
        ({"side": True}, TypeError, "side: expected an integer"),
        ({"side": 0}, ValueError, "side: expected at least 1 pixel, got 0"),
        ({"pixel_size": 0.0}, ValueError, "pixel_size: expected a positive size in arcmin"),
        ({"pixel_size": float("nan")}, ValueError, "pixel_size: expected a positive size"),
        ({"pixel_size": 200.0}, ValueError, "an image of at most 180 degrees, got 64 pixels of 200.0 arcmin"),
    ],
)
def test_grid_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        GnomonicGrid(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0, 1.0], [0.0, 1.0, 2.0], 0.0), r"arrays of one shape, got shapes \[\(2,\), \(3,\), \(\)\]"),
        ((np.zeros((2, 2)), 0.0, 0.0), r"expected numbers or arrays \(n,\), got shape \(2, 2\)"),
        ((0.0, 91.0, 0.0), "latitude: expected -90 to 90 degrees, got 91.0"),
        ((0.0, 0.0, np.inf), "rotation: expected finite degrees, got inf"),
    ],
)
def test_centres(arguments, message):
    with pytest.raises(ValueError, match=message):
        PAPER.vectors(*arguments)


@pytest.mark.parametrize("nside", [0, 100, 64.0, True])
def test_nside(nside):
    with pytest.raises(ValueError, match="nside: expected a power of two, got"):
        PAPER.pixels(nside, 0.0, 0.0)
    with pytest.raises(ValueError, match="nside: expected a power of two, got"):
        PAPER.neighbours(nside, 0.0, 0.0)


def test_directions_of_wrong_shape():
    with pytest.raises(ValueError, match=r"vectors: expected directions of shape \(m, 3\), got \(3, 5\)"):
        PAPER.project(np.zeros((3, 5)), 0.0, 0.0)


def test_examples_in_docstrings():
    assert doctest.testmod(gnomonic).failed == 0
