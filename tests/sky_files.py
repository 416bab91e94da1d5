"""Maps, masks and spectra of the sky as their surveys write them, small and made up, for the tests."""

import astropy.units as u
import healpy
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits

UNSEEN = -1.6375e30
MASKS = ("GAL020", "GAL040", "GAL060", "GAL070", "GAL080", "GAL090", "GAL097", "GAL099")
VELOCITY_STEP = 1288.2149689  # m/s


def make_map(nside=16, seed=1):
    """A smooth sky with noise, in RING order; single precision."""
    x, y, z = healpy.pix2vec(nside, np.arange(12 * nside**2))
    noise = np.random.default_rng(seed).normal(0.0, 0.05, len(x))
    return (3.0 + x + 2.0 * y * z + noise).astype(np.float32)


def smooth_sky(longitude, latitude, velocity):
    """Brightness temperature in K at galactic positions in degrees and a velocity in km/s; broadcasts."""
    longitude, latitude = np.radians(longitude), np.radians(latitude)
    amplitude = 2.0 + np.cos(latitude) * np.cos(longitude - 0.5) + np.sin(latitude)
    return amplitude * np.exp(-0.5 * ((velocity - 4.0 * np.cos(latitude) * np.cos(longitude)) / 12.0) ** 2)


def table_keys(nside, ordering, coordinates, **changes):
    keys = {
        "PIXTYPE": "HEALPIX", "ORDERING": ordering, "COORDSYS": coordinates, "NSIDE": nside,
        "FIRSTPIX": 0, "LASTPIX": 12 * nside**2 - 1, "INDXSCHM": "IMPLICIT", "BAD_DATA": UNSEEN, **changes,
    }  # fmt: skip
    return {key: value for key, value in keys.items() if value is not None}


def write_table(path, columns, keys, name="MAP"):
    table = fits.BinTableHDU.from_columns(columns, name=name)
    for key, value in keys.items():
        table.header[key] = value
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)
    return path


def write_planck_map(path, values, *, column="I_ML_FULL", kind="E", before=(), after=(), **changes):
    """One pixel per row, NESTED, as the component maps of Planck; ``values`` in RING order, NaN becomes UNSEEN."""
    nside = healpy.npix2nside(len(values))
    nested = np.where(np.isfinite(values), values, UNSEEN)[healpy.nest2ring(nside, np.arange(len(values)))]
    columns = [fits.Column(column, kind, array=nested, unit="uK_RJ")]
    others = [[fits.Column(name, "E", array=np.arange(len(values))) for name in names] for names in (before, after)]
    return write_table(path, others[0] + columns + others[1], table_keys(nside, "NESTED", "GALACTIC", **changes))


def write_healpy_map(path, values, *, nest=False, column="I_ML_FULL", **options):
    """1024 pixels per row; ``values`` in RING order, NaN becomes UNSEEN."""
    nside = healpy.npix2nside(len(values))
    values = np.where(np.isfinite(values), values, healpy.UNSEEN).astype(np.float32)
    if nest:
        values = values[healpy.nest2ring(nside, np.arange(len(values)))]
    healpy.write_map(
        path, values, nest=nest, coord="G", column_names=[column], column_units="uK_RJ", dtype=np.float32,
        overwrite=True, **options,
    )  # fmt: skip
    return path


def make_masks(nside=16, apodised=False):
    """Column -> weights in RING order: the named part of the sky, away from the Galactic plane."""
    latitude = np.abs(healpy.pix2ang(nside, np.arange(12 * nside**2), lonlat=True)[1])
    masks = {}
    for name in MASKS:
        edge = np.degrees(np.arcsin(1.0 - int(name[3:]) / 100.0))
        masks[name] = np.clip((latitude - edge) / 5.0, 0, 1) if apodised else (latitude >= edge)
    return masks


def write_masks(path, masks, *, apodised=False):
    """One column per mask, 1024 pixels per row, NESTED, as the masks of the Galactic plane of Planck."""
    nside = healpy.npix2nside(len(masks[MASKS[0]]))
    order = healpy.nest2ring(nside, np.arange(12 * nside**2))
    columns = [
        fits.Column(name, "1024E" if apodised else "1024B", array=np.asarray(values)[order].reshape(-1, 1024))
        for name, values in masks.items()
    ]
    return write_table(path, columns, table_keys(nside, "NESTED", "GALACTIC"), name="GAL-MASK")


def positions(nside, pixels, nest):
    longitude, latitude = healpy.pix2ang(nside, pixels, nest=nest, lonlat=True)
    equatorial = SkyCoord(longitude * u.deg, latitude * u.deg, frame="galactic").fk5
    return {"GLON": longitude, "GLAT": latitude, "RA2000": equatorial.ra.deg, "DEC2000": equatorial.dec.deg}


def write_hpx_map(path, values, *, nest=False, rows=None, kind="D", without=(), seed=3, **changes):
    """As the column densities of HI4PI, with its rows shuffled; without ORDERING and COORDSYS unless given."""
    nside = healpy.npix2nside(len(values))
    pixels = np.random.default_rng(seed).permutation(len(values))[:rows]
    ring = healpy.nest2ring(nside, pixels) if nest else pixels
    columns = [fits.Column("HPXINDEX", "J", array=pixels)]
    for name, array in positions(nside, pixels, nest).items():
        columns.append(fits.Column(name, kind, array=array, unit="deg"))
    columns.append(fits.Column("NHI", "E", array=values[ring], unit="cm-2"))
    columns = [column for column in columns if column.name not in without]
    return write_table(path, columns, {"NSIDE": nside, **changes}, name="HI4PI-HPX")


def write_spectra(folder, cube, *, parts=4, nest=False, weights=True, velocities=None, repeat_keys="1", **changes):
    """As the HEALPix spectra of EBHIS: parts with HPXINDEX, GLON, GLAT, DATA and WDATA; ``cube`` (channels, pixels)."""
    count, n_pixels = cube.shape
    nside = healpy.npix2nside(n_pixels)
    order = np.arange(n_pixels)
    paths = []
    for number, pixels in enumerate(np.array_split(order, parts)):
        shuffled = np.random.default_rng(number).permutation(pixels)
        ring = healpy.nest2ring(nside, shuffled) if nest else shuffled
        spectra = cube[:, ring].T
        place = positions(nside, shuffled, nest)
        columns = [
            fits.Column("HPXINDEX", "J", array=shuffled),
            fits.Column("GLON", "E", array=place["GLON"], unit="deg"),
            fits.Column("GLAT", "E", array=place["GLAT"], unit="deg"),
            fits.Column("DATA", f"{count}E", array=np.nan_to_num(spectra, nan=-99.0), unit="K"),
        ]
        if weights:
            columns.append(fits.Column("WDATA", f"{count}E", array=np.isfinite(spectra).astype(np.float32)))
        keys = {"NSIDE": nside, **changes}
        if velocities is not None:
            step = (velocities[1] - velocities[0]) * 1e3
            letter = "T" if repeat_keys == "T" else "1"
            keys |= {
                f"{letter}CTYP4": "VRAD", f"{letter}CRVL4": velocities[0] * 1e3, f"{letter}CRPX4": 1.0,
                f"{letter}CDLT4": step, f"{letter}CUNI4": "m/s",
            }  # fmt: skip
        path = folder / f"HPX_{number + 1:03d}.fit"
        paths.append(write_table(path, columns, keys, name="EBHIS-HPX"))
    return paths


def channel_velocities(channels=120, first=-77.0):
    """Centres in km/s on the phase of HI4PI, about from ``first`` on."""
    number = np.round(first * 1e3 / VELOCITY_STEP - 0.07829)
    return (number + 0.07829 + np.arange(channels)) * VELOCITY_STEP / 1e3


def cube_header(velocities, shape, pixel, centre=(0.0, 0.0), *, kind="GLON", unit="m/s", **changes):
    """Header of a cube whose pixel of FITS number (nx + 1) / 2 is at longitude ``centre[0]``, and latitude 0 at 0.

    Args:
        velocities: km/s.
        shape: Rows, columns.
        pixel: Degrees.
        centre: Longitude and latitude of the middle of the grid.
    """
    pair = {"GLON": ("GLON-CAR", "GLAT-CAR"), "RA": ("RA---CAR", "DEC--CAR")}[kind]
    factor = {"m/s": 1e3, "km/s": 1.0}[unit]
    step = (velocities[1] - velocities[0]) * factor
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"], header["CTYPE3"] = *pair, "VRAD"
    header["CRVAL1"], header["CRPIX1"], header["CDELT1"] = centre[0], (shape[1] + 1) / 2, -pixel
    # CAR keeps latitude 0 as its reference.
    header["CRVAL2"], header["CRPIX2"], header["CDELT2"] = 0.0, (shape[0] + 1) / 2 - centre[1] / pixel, pixel
    header["CRVAL3"], header["CRPIX3"], header["CDELT3"] = 0.0, 1.0 - velocities[0] * factor / step, step
    header["CUNIT1"], header["CUNIT2"], header["CUNIT3"] = "deg", "deg", unit
    header["BUNIT"], header["SPECSYS"] = "K", "LSRK"
    if kind == "RA":
        header["RADESYS"], header["EQUINOX"] = "FK5", 2000.0
    for key, value in changes.items():
        if value is None:
            header.remove(key, ignore_missing=True)
        else:
            header[key] = value
    return header


def grid(header, shape):
    """Galactic longitude and latitude of the pixels in degrees, ``(rows, columns)``, by arithmetic alone."""
    longitude = header["CRVAL1"] + (np.arange(shape[1]) + 1 - header["CRPIX1"]) * header["CDELT1"]
    latitude = header["CRVAL2"] + (np.arange(shape[0]) + 1 - header["CRPIX2"]) * header["CDELT2"]
    longitude, latitude = np.meshgrid(longitude, latitude)
    if header["CTYPE1"].startswith("RA"):
        place = SkyCoord(longitude * u.deg, np.clip(latitude, -90, 90) * u.deg, frame="fk5").galactic
        return place.l.deg, place.b.deg
    return longitude, latitude


def write_cube(path, velocities, shape, pixel, centre=(0.0, 0.0), *, values=smooth_sky, dtype="f4", **changes):
    """A cube (velocity, latitude, longitude) of ``values``, a function as `smooth_sky` or an array."""
    header = cube_header(velocities, shape, pixel, centre, **changes)
    if callable(values):
        longitude, latitude = grid(header, shape)
        values = np.stack([values(longitude, latitude, velocity) for velocity in velocities])
    fits.PrimaryHDU(np.asarray(values, dtype), header).writeto(path, overwrite=True)
    return path
