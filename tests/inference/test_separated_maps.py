import gzip
import json
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
import small_lines
import small_separation
from astropy import units
from astropy.io import fits
from astropy.wcs import WCS

from keras_cosmo.data.database import Database, write_database
from keras_cosmo.inference.separated_maps import check_light, read_observed, separate_maps

UNIT = "erg s^-1 cm^-2 sr^-1"
SIDE = small_separation.SIDE
PARTS = {"halpha": 0.6, "oiii": 0.3, "residual": 0.1}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_separation.write(tmp_path_factory.mktemp("models") / "separation")


def intensities(count=5, mean=1e-9, side=SIDE):
    return (mean * np.random.default_rng(1).lognormal(0.0, 0.3, (count, side, side))).astype(np.float32)


def write_fits(path, maps, unit="erg s-1 cm-2 sr-1", pixel=0.4 / 60.0):
    coordinates = WCS(naxis=2)
    coordinates.wcs.ctype, coordinates.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 2.2]
    coordinates.wcs.cdelt, coordinates.wcs.crpix = [-pixel, pixel], [4.5, 4.5]
    header = coordinates.to_header()
    if unit is not None:
        header["BUNIT"] = unit
    header["OBSERVER"], header["DATAMAX"] = "somebody", 12.0
    fits.PrimaryHDU(maps, header).writeto(path)
    return path


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_database_becomes_a_database(model, tmp_path, caplog):
    maps = intensities()
    data = small_lines.write(tmp_path / "observed.h5", fields={"observed": maps})
    out = tmp_path / "separated.h5"
    assert separate_maps(model, data, out, batch_size=2) == dict.fromkeys(PARTS, UNIT)
    database = Database(out).require("separated", tuple(PARTS))
    for name, part in PARTS.items():
        np.testing.assert_allclose(database.read(name, range(5)), part * maps, rtol=1e-5, atol=1e-15)
        assert database.fields[name].unit == UNIT
    assert database.simulation.tolist() == [0, 1, 2, 3, 4]
    assert (database.cell_size, database.attributes["cell_size_units"]) == (0.4, "arcmin")
    facts = json.loads(database.attributes["model"])
    assert facts["cell_size"] == 0.4
    assert facts["saved_model"].endswith("separation/1")
    assert "metrics" not in facts
    assert not messages(caplog)
    # Again, over the first ones; a field of any name can be asked for.
    fields = {"observed": maps, "brighter": 2 * maps}
    data = small_lines.write(tmp_path / "two.h5", fields=fields)
    separate_maps(model, data, out, "brighter")
    np.testing.assert_allclose(Database(out).read("oiii", range(5)), 0.6 * maps, rtol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["observed.h5", "separated.h5", "two.h5"]


@pytest.mark.parametrize("single", [True, False])
def test_arrays_become_arrays(single, model, tmp_path):
    maps = intensities()[0] if single else intensities()
    np.save(tmp_path / "maps.npy", maps.astype(np.float64))
    separate_maps(model, tmp_path / "maps.npy", tmp_path / "separated.npz")
    with np.load(tmp_path / "separated.npz") as found:
        assert set(found) == {*PARTS, "units", "model"}
        assert json.loads(str(found["units"])) == dict.fromkeys(PARTS, UNIT)
        assert json.loads(str(found["model"]))["observed"] == "maps.npy"
        for name, part in PARTS.items():
            np.testing.assert_allclose(found[name], part * maps, rtol=1e-5, atol=1e-15)


def test_an_image_keeps_its_coordinates(model, tmp_path, caplog):
    maps = intensities(1)[0]
    write_fits(tmp_path / "map.fits", maps)
    separate_maps(model, tmp_path / "map.fits", tmp_path / "lines.fits")
    with fits.open(tmp_path / "map.fits") as given, fits.open(tmp_path / "lines.fits") as found:
        assert [image.name for image in found] == ["PRIMARY", "HALPHA", "OIII", "RESIDUAL"]
        for name, part in PARTS.items():
            image = found[name.upper()]
            np.testing.assert_allclose(image.data, part * maps, rtol=1e-5, atol=1e-15)
            assert units.Unit(image.header["BUNIT"]) == units.Unit(UNIT)
            assert image.header["OBSERVER"] == "somebody"
            assert "DATAMAX" not in image.header
            corners = [[0, 0], [7, 3]]
            expected = WCS(given[0].header).all_pix2world(corners, 0)
            np.testing.assert_allclose(WCS(image.header).all_pix2world(corners, 0), expected)
        assert found[0].header["OBSERVED"] == "map.fits"
        assert "observed_mean_range" in str(found[0].header["COMMENT"])
        found.verify("exception")
    assert not messages(caplog)


def values_of(path):
    """Arrays of a file of separated maps."""
    if path.suffix == ".npz":
        with np.load(path) as found:
            return {name: found[name] for name in PARTS}
    if path.suffix == ".fits":
        with fits.open(path) as found:
            found.verify("exception")
            return {name: found[name.upper()].data.copy() for name in PARTS}
    return {name: Database(path).read(name, range(Database(path).n_maps)) for name in PARTS}


@pytest.mark.parametrize("given", [".npy", ".fits", ".fits.gz", ".h5"])
@pytest.mark.parametrize("ending", [".h5", ".fits", ".npz"])
def test_batches_of_any_size_give_the_same_file(given, ending, model, tmp_path):
    maps, data = intensities(), tmp_path / f"maps{given}"
    if given == ".npy":
        np.save(data, np.asfortranarray(maps))
    elif given == ".h5":
        small_lines.write(data, fields={"observed": maps})
    else:
        fits_file = write_fits(tmp_path / "maps.fits", maps[:, None])
        if given == ".fits.gz":
            data.write_bytes(gzip.compress(fits_file.read_bytes()))
    for batch_size in (2, 5):
        separate_maps(model, data, tmp_path / f"{batch_size}{ending}", batch_size=batch_size)
    one, other = (values_of(tmp_path / f"{batch_size}{ending}") for batch_size in (2, 5))
    for name, part in PARTS.items():
        np.testing.assert_allclose(one[name], part * maps, rtol=1e-5, atol=1e-15)
        np.testing.assert_array_equal(one[name], other[name])


def test_stored_integers_are_scaled(model, tmp_path):
    maps = intensities(3)
    image = fits.PrimaryHDU(maps.copy())
    image.header["BUNIT"] = "erg s-1 cm-2 sr-1"
    image.scale("int32", bscale=1e-15, bzero=1e-9)
    image.writeto(tmp_path / "maps.fits")
    np.testing.assert_allclose(read_observed(tmp_path / "maps.fits").maps, maps, atol=1e-15)
    separate_maps(model, tmp_path / "maps.fits", tmp_path / "lines.npz", batch_size=2)
    np.testing.assert_allclose(values_of(tmp_path / "lines.npz")["halpha"], 0.6 * maps, atol=1e-15)


def test_more_maps_take_no_more_memory(tmp_path):
    model = small_separation.write(tmp_path / "large", side=64)
    most = {}
    # The first few bring modules with them.
    for count in (5, 200, 1000):
        maps = np.full((count, 64, 64), 1e-9, np.float32)
        (tmp_path / "maps.h5").unlink(missing_ok=True)
        write_database(
            tmp_path / "maps.h5",
            task="separation",
            fields={"observed": (maps, UNIT)},
            parameters=(),
            parameter_values=np.zeros((5, 0)),
            simulation=np.arange(count) % 5,
            attributes={},
        )
        for data, out in (("maps.h5", "lines.h5"), ("lines.h5", "lines.fits"), ("lines.fits", "lines.npz")):
            tracemalloc.start()
            separate_maps(model, tmp_path / data, tmp_path / out, "halpha" if data == "lines.h5" else None, 50)
            most[out, count] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        found = values_of(tmp_path / "lines.npz")["oiii"]
        np.testing.assert_allclose(found, 0.3 * 0.6 * 0.6 * maps, rtol=1e-5)
    for out in ("lines.h5", "lines.fits", "lines.npz"):
        assert most[out, 1000] - most[out, 200] < 0.2 * 0.8 * maps.nbytes, (out, most)


@pytest.mark.parametrize("ending", [".h5", ".fits", ".npz"])
def test_nothing_is_left_of_a_run_that_fails(ending, model, tmp_path, monkeypatch):
    from keras_cosmo.inference.saved_model_predictor import SavedModelPredictor

    np.save(tmp_path / "maps.npy", intensities())
    whole, calls = SavedModelPredictor.predict, []

    def predict(self, **arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return whole(self, **arguments)

    monkeypatch.setattr(SavedModelPredictor, "predict", predict)
    with pytest.raises(OSError, match=r"Could not write .*: No space left on device"):
        separate_maps(model, tmp_path / "maps.npy", tmp_path / f"lines{ending}", batch_size=2)
    assert [path.name for path in tmp_path.iterdir()] == ["maps.npy"]


@pytest.mark.parametrize("shape", [(1, 1, SIDE, SIDE), (SIDE, SIDE), (3, SIDE, SIDE)])
def test_axes_that_the_lines_do_not_have_are_left_out(model, tmp_path, shape):
    """A radio image with one frequency and one polarisation, or several maps."""
    maps = intensities(3)[: shape[0] if len(shape) == 3 else 1].reshape(shape)
    coordinates = WCS(naxis=4)
    coordinates.wcs.ctype = ["RA---TAN", "DEC--TAN", "FREQ", "STOKES"]
    coordinates.wcs.crval, coordinates.wcs.crpix = [150.0, 2.2, 1.4e9, 1.0], [4.5, 4.5, 1.0, 1.0]
    coordinates.wcs.cdelt, coordinates.wcs.cunit = [-0.4 / 60, 0.4 / 60, 1e6, 1.0], ["deg", "deg", "Hz", ""]
    header = coordinates.to_header()
    header.update({"BUNIT": "erg s-1 cm-2 sr-1", "RESTFRQ": 1.42e9, "OBJECT": "a field", "DATE-OBS": "2020-01-01"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.PrimaryHDU(maps, header).writeto(tmp_path / "map.fits")
        expected = WCS(header).celestial.all_pix2world([[0, 0], [7, 3]], 0)
    separate_maps(model, tmp_path / "map.fits", tmp_path / "lines.fits")
    assert read_observed(tmp_path / "map.fits").cell_size == pytest.approx(0.4)
    with warnings.catch_warnings(), fits.open(tmp_path / "lines.fits") as found:
        warnings.simplefilter("error")
        for name, part in PARTS.items():
            image = found[name.upper()]
            lines = maps[0, 0] if len(shape) == 4 else maps
            np.testing.assert_allclose(image.data, part * lines, rtol=1e-5, atol=1e-15)
            assert not {"CTYPE3", "CTYPE4", "CRVAL3", "NAXIS4"} & set(image.header)
            assert (image.header["OBJECT"], image.header["BUNIT"]) == ("a field", "erg s-1 cm-2 sr-1")
            assert WCS(image.header).naxis == lines.ndim
            sky = WCS(image.header).celestial
            np.testing.assert_allclose(sky.all_pix2world([[0, 0], [7, 3]], 0), expected)
        found.verify("exception")


def test_units_of_an_image(tmp_path, caplog):
    maps = intensities(1)
    found = read_observed(write_fits(tmp_path / "si.fits", 1e-3 * maps.astype(np.float64)[:, None], "W m-2 sr-1"))
    np.testing.assert_allclose(found.maps, maps, rtol=1e-5)
    assert found.single
    assert found.cell_size == pytest.approx(0.4)
    assert not messages(caplog)
    read_observed(write_fits(tmp_path / "none.fits", maps, None))
    assert "none.fits: no BUNIT in the header: the map is taken to be in erg" in caplog.text
    with pytest.raises(ValueError, match=r"jy\.fits: BUNIT is 'Jy/sr', expected a unit of the intensity of a whole"):
        read_observed(write_fits(tmp_path / "jy.fits", maps, "Jy/sr"))
    with pytest.raises(ValueError, match="BUNIT is 'counts per fortnight'"):
        read_observed(write_fits(tmp_path / "odd.fits", maps, "counts per fortnight"))
    fits.PrimaryHDU(maps[0], fits.Header({"BUNIT": "erg s-1 cm-2 sr-1"})).writeto(tmp_path / "plain.fits")
    assert read_observed(tmp_path / "plain.fits").cell_size is None


@pytest.mark.parametrize(
    ("factor", "warning"),
    [
        (1.0, None),
        (8.0, "mean intensity of 5 of 5 maps .* is outside that of the training maps, 4e-10 to 4e-09"),
        (1e9, r"mean intensity of the maps is .* models give 1e-12 to 2e-06\. Is the unit right"),
        (1e-6, "models give 1e-12 to 2e-06"),
    ],
)
def test_unfamiliar_brightness_is_named(factor, warning, model, tmp_path, caplog):
    import re

    np.save(tmp_path / "maps.npy", factor * intensities())
    separate_maps(model, tmp_path / "maps.npy", tmp_path / "lines.npz")
    found = messages(caplog)
    assert len(found) == (warning is not None)
    assert all(re.search(warning, message) for message in found), found


def test_what_the_model_does_not_say_is_not_compared(tmp_path, caplog):
    model = small_separation.write(tmp_path / "other", metadata={})
    np.save(tmp_path / "maps.npy", 8 * intensities())
    separate_maps(model, tmp_path / "maps.npy", tmp_path / "lines.npz")
    assert not messages(caplog)


def test_other_pixels_are_named(model, tmp_path, caplog):
    write_fits(tmp_path / "map.fits", intensities(1)[0], pixel=1.0 / 60.0)
    separate_maps(model, tmp_path / "map.fits", tmp_path / "lines.h5")
    assert len(messages(caplog)) == 1
    assert "not the geometry of the model's training data: cells of 1 instead of 0.4" in messages(caplog)[0]


def changed(**change):
    maps = intensities()
    for place, value in change.items():
        maps[{"first": (0, 1, 2), "third": (2,)}[place]] = value
    return maps


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (changed(first=np.nan), "1 pixels in 1 of 5 maps are not finite, the first in map 0"),
        (changed(third=np.inf), "64 pixels in 1 of 5 maps are not finite, the first in map 2"),
        (changed(third=-1e-12), "the total of 1 of 5 maps is not positive, the first of map 2, whose mean is -1e-12"),
        (np.zeros((SIDE, SIDE)), "the total of 1 of 1 maps is not positive"),
        (intensities(side=16), r"maps have 16 x 16 pixels, but .*separation/1 takes 8 x 8\. Cut them"),
        (intensities(side=16)[:, :8], "maps have 8 x 16 pixels"),
        (intensities()[..., None], r"expected one map \(height, width\) or several .* the shape \(5, 8, 8, 1\)"),
        (np.zeros((0, SIDE, SIDE)), r"expected one map .* the shape \(0, 8, 8\)"),
        (intensities().astype(complex), "expected real numbers, got complex"),
        (np.array([None, 1]), "cannot be read as .npy"),
    ],
)
def test_maps_that_cannot_be_separated(array, message, model, tmp_path):
    np.save(tmp_path / "maps.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=rf"maps\.npy: {message}"):
        separate_maps(model, tmp_path / "maps.npy", tmp_path / "lines.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["maps.npy"]


def test_noise_may_make_pixels_negative():
    import dataclasses

    maps = intensities()
    maps[:, 0] = -1e-11
    data = read_observed.__annotations__["return"](None, maps, False, np.arange(5))
    check_light(dataclasses.replace(data))


def test_databases_that_do_not_fit(model, tmp_path):
    two = small_lines.write(tmp_path / "two.h5", fields={"a": intensities(), "b": intensities()})
    with pytest.raises(
        ValueError, match=r"two\.h5: expected a field intensity or observed, got a, b\. .* give field\."
    ):
        read_observed(two)
    with pytest.raises(ValueError, match=r"two\.h5: expected the fields \['c'\]"):
        read_observed(two, "c")
    jansky = small_lines.write(tmp_path / "jy.h5", fields={"observed": intensities()}, unit="Jy/sr")
    with pytest.raises(ValueError, match=r"jy\.h5: expected observed in erg .* got 'Jy/sr'\. Convert"):
        read_observed(jansky)
    only = small_lines.write(tmp_path / "only.h5", fields={"map_of_the_sky": intensities()}, cell_size_units="Mpc")
    assert read_observed(only).maps.shape == (5, SIDE, SIDE)
    assert read_observed(only).cell_size is None
    np.save(tmp_path / "a.npy", intensities())
    with pytest.raises(ValueError, match=r"a\.npy: field names one of a database"):
        read_observed(tmp_path / "a.npy", "observed")


def test_files_that_do_not_fit(model, tmp_path):
    for name in ("none.npy", "none.fits", "none.h5"):
        with pytest.raises(FileNotFoundError, match=f"{name}: there is no such file"):
            separate_maps(model, tmp_path / name, tmp_path / "lines.h5")
    np.save(tmp_path / "maps.npy", intensities())
    whole = write_fits(tmp_path / "map.fits", intensities(40)).read_bytes()
    (tmp_path / "cut.fits").write_bytes(whole[:6000])
    (tmp_path / "text.fits").write_text("hello")
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "empty.fits")
    fits.PrimaryHDU(np.ones(8, np.float32)).writeto(tmp_path / "row.fits")
    fits.PrimaryHDU(np.ones((2, 3, SIDE, SIDE), np.float32)).writeto(tmp_path / "two_axes.fits")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "maps.npy").read_bytes()[:300])
    for name, message in (
        ("cut.fits", "cannot be read as FITS"),
        ("text.fits", "cannot be read as FITS"),
        ("empty.fits", "got no extension with pixels"),
        ("row.fits", r"expected one map .* got the shape \(8,\)"),
        ("two_axes.fits", r"expected one map .* got the shape \(2, 3, 8, 8\)"),
        ("cut.npy", "cannot be read as .npy"),
    ):
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            separate_maps(model, tmp_path / name, tmp_path / "lines.h5")
    data = tmp_path / "maps.npy"
    for out, error, message in (
        ("lines.csv", ValueError, r"expected a file to write that ends in \.h5, \.hdf5, \.fits, \.npz"),
        ("no/lines.h5", FileNotFoundError, "does not exist"),
        ("folder.h5", ValueError, "got a folder"),
    ):
        (tmp_path / "folder.h5").mkdir(exist_ok=True)
        with pytest.raises(error, match=message):
            separate_maps(model, data, tmp_path / out)
    with pytest.raises(ValueError, match="these are the observed maps, which would be overwritten"):
        separate_maps(model, tmp_path / "map.fits", tmp_path / "map.fits")
    with pytest.raises(FileNotFoundError, match="No SavedModel in"):
        separate_maps(tmp_path, data, tmp_path / "lines.h5")
    with pytest.raises(ValueError, match="`batch_size`: expected an integer of at least 1, got 0"):
        separate_maps(model, data, tmp_path / "lines.h5", batch_size=0)
    assert not (tmp_path / "lines.h5").exists()


def test_models_that_do_not_separate(tmp_path):
    np.save(tmp_path / "maps.npy", intensities())
    other = small_separation.write(tmp_path / "other", metadata={"task": "matter"})
    with pytest.raises(ValueError, match=r"expected a model that separates lines, .* got one of task 'matter'"):
        separate_maps(other, tmp_path / "maps.npy", tmp_path / "lines.h5")
    other = small_separation.write(tmp_path / "kelvin", unit="mK")
    with pytest.raises(ValueError, match="it takes maps in 'mK', expected erg"):
        separate_maps(other, tmp_path / "maps.npy", tmp_path / "lines.h5")


def test_reading_needs_no_tensorflow(tmp_path):
    """So that a wrong path is said at once."""
    code = (
        "import sys, keras_cosmo.inference.separated_maps as s\n"
        "try:\n    s.separate_maps('m', 'none.npy', 'lines.h5')\n"
        "except FileNotFoundError:\n    raise SystemExit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0


def test_coordinates_that_cannot_be_read_do_not_matter(tmp_path, caplog):
    header = fits.Header({"BUNIT": "erg s-1 cm-2 sr-1", "CTYPE1": "RA---TAN", "CTYPE2": "GLAT-CAR"})
    fits.PrimaryHDU(intensities(1)[0], header).writeto(tmp_path / "map.fits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_observed(tmp_path / "map.fits").cell_size is None
    assert "The coordinates in the header cannot be read" in caplog.text
