import doctest
import itertools

import astropy.units as u
import healpy
import numpy as np
import pytest
import scipy.stats
from astropy.coordinates import SkyCoord, angular_separation

from keras_cosmo.data import sky_areas
from keras_cosmo.data.sky_areas import SkyArea, east_west, half_sky, north_south, smallest_guard
from keras_cosmo.gnomonic import GnomonicGrid

PAPER = GnomonicGrid(side=64, pixel_size=23.4)
TILTED = SkyArea(pole_longitude=130.0, pole_latitude=-35.0, guard=20.0)


def above_the_circle(area, longitude, latitude):
    """Angle above the great circle about the pole, by astropy."""
    pole = np.radians([area.pole_longitude, area.pole_latitude])
    return 90.0 - np.degrees(angular_separation(np.radians(longitude), np.radians(latitude), *pole))


def farthest_out(area, count, seed=0):
    """Directions of the area whose cutouts come closest to its borders: on the great circle's and the sector's side."""
    generator = np.random.default_rng(seed)
    longitude, latitude = area.draw(count, generator)
    choice = np.argsort(above_the_circle(area, longitude, latitude))[: count // 20]
    border = np.arange(count // 4)
    if area.sector is not None:
        closer = SkyArea(
            area.pole_longitude, area.pole_latitude, area.guard, area.sector, area.outside, area.sector_guard + 0.5
        )
        border = np.flatnonzero(~closer.contains(longitude, latitude))
    choice = np.concatenate([choice, border])
    return longitude[choice], latitude[choice]


def touched(area, grid, nside, count, interpolation="nearest", guard=None):
    """Whether each HEALPix pixel is in one of many cutouts, with corners towards the border and in random rotations."""
    generator = np.random.default_rng(3)
    longitude, latitude = farthest_out(area, count)
    if area.sector is None:
        # Right on the border too: at the guard, all around the pole, a corner straight down.
        around = np.linspace(0, 360, 100, endpoint=False)
        pole = SkyCoord(area.pole_longitude * u.deg, area.pole_latitude * u.deg)
        border = pole.directional_offset_by(around * u.deg, (90 - area.guard) * u.deg)
        down = border.position_angle(pole).deg + 180
        longitude, latitude = np.append(border.ra.deg, longitude), np.append(border.dec.deg, latitude)
        # The corner at the lower left has the position angle 90 + 45 - psi.
        rotation = np.append(135 - down, generator.uniform(0, 360, len(longitude) - 100))
    else:
        rotation = generator.uniform(0, 360, len(longitude))
    seen = np.zeros(healpy.nside2npix(nside), bool)
    if interpolation == "nearest":
        seen[grid.pixels(nside, longitude, latitude, rotation)] = True
    else:
        pixels, weights = grid.neighbours(nside, longitude, latitude, rotation)
        seen[pixels[weights > 0]] = True
    return seen


def test_areas_of_the_paper():
    north, south = north_south()
    assert north.guard == south.guard == 17.65 == round(PAPER.half_diagonal, 2)
    latitude = np.array([17.64, 17.66, -17.64, -17.66])
    assert north.contains(123.0, latitude).tolist() == [False, True, False, False]
    assert south.contains(-57.0, latitude).tolist() == [False, False, False, True]
    # Appendix C: (198, 342) and (18, 162) degrees at the equator.
    east, west = east_west()
    longitude = np.array([17.9, 18.1, 161.9, 162.1, 197.9, 198.1, 341.9, 342.1])
    assert west.contains(longitude, 0.0).tolist() == [False, True, True, False, False, False, False, False]
    assert east.contains(longitude, 0.0).tolist() == [False, False, False, False, False, True, True, False]


@pytest.mark.parametrize("area", [*north_south(), *east_west(), TILTED, SkyArea(10.0, 20.0, -30.0)])
def test_an_area_is_a_cap_and_draws_are_uniform_in_it(area):
    longitude, latitude = area.draw(20000, np.random.default_rng(5))
    assert longitude.shape == latitude.shape == (20000,)
    assert (longitude >= 0).all()
    assert (longitude < 360).all()
    height = np.sin(np.radians(above_the_circle(area, longitude, latitude)))
    lowest = np.sin(np.radians(area.guard))
    # On a sphere the height above the great circle is uniform, and so is the azimuth about the pole.
    assert scipy.stats.kstest(height, "uniform", (lowest, 1 - lowest)).pvalue > 1e-3
    pole = SkyCoord(area.pole_longitude * u.deg, area.pole_latitude * u.deg)
    azimuth = pole.position_angle(SkyCoord(longitude * u.deg, latitude * u.deg)).deg
    assert scipy.stats.kstest(azimuth, "uniform", (0, 360)).pvalue > 1e-3
    assert area.contains(longitude, latitude).all()
    everywhere = np.random.default_rng(6).uniform(-1, 1, (2, 5000)) * [[180], [90]]
    np.testing.assert_array_equal(area.contains(*everywhere), above_the_circle(area, *everywhere) >= area.guard)


def test_latitudes_follow_the_cosine():
    # Section 2: "the declination of the cutout centers follows cos(DEC) distribution".
    _, latitude = north_south()[0].draw(20000, np.random.default_rng(7))
    low = np.sin(np.radians(17.65))
    assert scipy.stats.kstest(latitude, lambda b: (np.sin(np.radians(b)) - low) / (1 - low)).pvalue > 1e-3


def test_draws_are_a_function_of_the_generator():
    for area in (TILTED, TILTED.divide(100.0)[1]):
        first, second = (area.draw(50, np.random.default_rng(8)) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert area.draw(0, np.random.default_rng(8))[0].shape == (0,)


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("sector", [(30.0, 130.0), (300.0, 430.0), (-100.0, 120.0)])
def test_a_sector_keeps_its_guard(sector, outside):
    area = SkyArea(0.0, 90.0, 10.0, sector, outside, sector_guard=12.0)
    longitude, latitude = np.random.default_rng(9).uniform(-1, 1, (2, 4000)) * [[180], [90]]
    # Distance to the two meridians, taken point by point.
    steps = np.linspace(-90, 90, 361)
    distance = np.min(
        [
            np.degrees(angular_separation(*np.radians(np.broadcast_arrays(edge, step, longitude, latitude))))
            for edge, step in itertools.product(sector, steps)
        ],
        axis=0,
    )
    within = (longitude - sector[0]) % 360 < sector[1] - sector[0]
    sure = np.abs(distance - 12.0) > 0.02
    expected = (latitude >= 10.0) & (within != outside) & (distance >= 12.0)
    np.testing.assert_array_equal(area.contains(longitude, latitude)[sure], expected[sure])
    drawn = area.draw(4000, np.random.default_rng(10))
    assert area.contains(*drawn).all()
    # Uniform on the sphere: the mean height is that of the directions above, weighted by cos(latitude).
    weights = np.cos(np.radians(latitude[expected]))
    heights, mean = np.sin(np.radians(drawn[1])), np.average(np.sin(np.radians(latitude[expected])), weights=weights)
    assert abs(heights.mean() - mean) < 5 * heights.std() / np.sqrt(len(heights)) + 0.02


def test_azimuths_of_a_sector():
    inside = SkyArea(0.0, 90.0, 0.0, (30.0, 60.0), sector_guard=0.0)
    assert inside.contains([29.0, 31.0, 59.0, 61.0], 10.0).tolist() == [False, True, True, False]
    # About another pole they start at the meridian to the south and grow to the east there.
    west = SkyArea(90.0, 0.0, 0.0, (-10.0, 80.0), sector_guard=0.0)
    assert west.contains([90.0, 120.0, 60.0, 90.0], [-30.0, -20.0, -20.0, 30.0]).tolist() == [True, True, False, False]


@pytest.mark.parametrize("pair", [north_south(), east_west()], ids=["north_south", "east_west"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_cutouts_of_the_papers_areas_share_no_pixel(pair, interpolation):
    count = 4000 if interpolation == "nearest" else 1000
    first, second = (touched(area, PAPER, 128, count, interpolation) for area in pair)
    assert not (first & second).any()
    for area, seen in zip(pair, (first, second), strict=True):
        assert 0.1 < seen.mean() < 0.5
        assert half_sky(area, 128)[seen].all()


def test_smaller_guards_would_share_pixels():
    # The corners are 16.87 degrees from the centre, so the paper's 17.65 leave 0.78 degrees on either side.
    assert PAPER.reach == pytest.approx(16.87, abs=0.005)
    for make in (north_south, east_west):
        shared = {guard: _shared(make(guard), 256) for guard in (16.5, 16.8, smallest_guard(PAPER, 256))}
        assert [count > 0 for count in shared.values()] == [True, True, False], shared


def _shared(pair, nside):
    return int(np.logical_and(*(touched(area, PAPER, nside, 400) for area in pair)).sum())


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("nside", [8, 32])
def test_the_smallest_guard_suffices_on_coarse_maps(nside, interpolation):
    for make in (north_south, east_west):
        pair = make(smallest_guard(PAPER, nside, interpolation))
        first, second = (touched(area, PAPER, nside, 600, interpolation) for area in pair)
        assert not (first & second).any()
        assert first.any()


@pytest.mark.parametrize("area", [north_south()[0], east_west()[1]], ids=["north", "west"])
def test_cutouts_for_validation_share_no_pixel_with_those_for_training(area):
    parts = area.divide(120.0, start=75.0)
    seen = [touched(part, PAPER, 128, 4000) for part in parts]
    assert not (seen[0] & seen[1]).any()
    for part, pixels in zip(parts, seen, strict=True):
        assert pixels.any()
        assert half_sky(part, 128)[pixels].all()
    # Without a guard they would.
    parts = [SkyArea(area.pole_longitude, area.pole_latitude, 17.65, (0, 120), out, 0.0) for out in (True, False)]
    seen = [touched(part, PAPER, 128, 1000) for part in parts]
    assert (seen[0] & seen[1]).any()


def test_half_skies():
    longitude, latitude = healpy.pix2ang(16, np.arange(healpy.nside2npix(16)), lonlat=True)
    north, south = north_south()
    np.testing.assert_array_equal(half_sky(north, 16), latitude > 0)
    np.testing.assert_array_equal(half_sky(south, 16), latitude < 0)
    np.testing.assert_array_equal(half_sky(east_west()[0], 16), longitude > 180)
    assert half_sky(SkyArea(0.0, 0.0, -90.0), 16).all()
    training, validation = (half_sky(part, 16) for part in north.divide(90.0))
    on_an_edge = (longitude == 0) | (longitude == 90)
    np.testing.assert_array_equal(training | validation, (latitude > 0) & ~on_an_edge)
    np.testing.assert_array_equal(validation, (latitude > 0) & (longitude > 0) & (longitude < 90))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pole_longitude": 500.0}, "pole_longitude: expected -360 to 360 degrees, got 500.0"),
        ({"pole_latitude": float("nan")}, "pole_latitude: expected -90 to 90 degrees, got nan"),
        ({"guard": 90.0}, "guard: expected -90 to 89.9 degrees, got 90.0"),
        ({"guard": "17"}, "guard: expected -90 to 89.9 degrees, got '17'"),
        ({"outside": True}, "sector: expected two azimuths with outside or sector_guard, got None"),
        ({"sector": (90.0, 30.0)}, "sector: expected two azimuths in degrees, the second larger by less than 360"),
        ({"sector": (0.0, 90.0), "sector_guard": -1.0}, "sector_guard: expected 0 to less than 90 degrees, got -1.0"),
        ({"sector": (0.0, 30.0)}, "sector: 30 degrees wide, all directions are closer than the guard of 20 degrees"),
        ({"sector": (0.0, 330.0), "outside": True}, "sector: 30 degrees wide, all directions are closer"),
    ],
)
def test_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        SkyArea(**{"pole_longitude": 0.0, "pole_latitude": 90.0, "guard": 20.0, **changes})


def test_other_errors():
    with pytest.raises(ValueError, match="n: expected at least 0 directions, got -1"):
        TILTED.draw(-1, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"the area is divided already, at \(0.0, 90.0\). Divide the whole one"):
        TILTED.divide(90.0)[0].divide(90.0)
    with pytest.raises(ValueError, match="longitude, latitude: expected finite degrees and latitudes of -90 to 90"):
        TILTED.contains(0.0, 91.0)
    with pytest.raises(ValueError, match=r"interpolation: expected one of \['nearest', 'bilinear'\], got 'cubic'"):
        smallest_guard(PAPER, 128, "cubic")
    tiny = SkyArea(0.0, 90.0, 0.0, (0.0, 90.0), sector_guard=44.999)
    with pytest.raises(ValueError, match=r"sector: only 0 of .* directions fell into the area .* Give it more room"):
        tiny.draw(3, np.random.default_rng(0))


def test_examples_in_docstrings():
    assert doctest.testmod(sky_areas).failed == 0
