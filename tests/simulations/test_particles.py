import itertools

import numpy as np
import powerbox
import pytest
import scipy.stats

from keras_cosmo.simulations.cosmology import Cosmology
from keras_cosmo.simulations.fields import CELL_RADIUS, Filter
from keras_cosmo.simulations.particles import ParticleBox

BACKGROUND = Cosmology().background()
BOX = ParticleBox(BACKGROUND, 32, 3.0)


def boxes(redshift, seeds=8, box=BOX):
    return [box.density(box.draw(np.random.default_rng(seed)), redshift) for seed in range(seeds)]


def test_power_follows_linear_theory_on_large_scales():
    k = np.geomspace(0.065, 0.4, 5)
    spectra = []
    for density in boxes(15.0, seeds=16):
        spectra.append(powerbox.get_power(density, 96.0, bins=k, bins_upto_boxlen=True).power)
    mean, error = np.mean(spectra, axis=0), np.std(spectra, axis=0) / 4.0
    # Averages of the theory over the same modes.
    axis = 2.0 * np.pi * np.fft.fftfreq(32, 3.0)
    modes = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).ravel()
    theory = np.interp(modes, BACKGROUND.wavenumbers, BACKGROUND.power) * BACKGROUND.growth(15.0) ** 2
    # Displacements are smoothed over a sphere; three particles per cell and the clouds spread the mass, with variances
    # of 2/27 and 1/6 of a cell squared.
    sphere = Filter("tophat", CELL_RADIUS * 3.0)(modes)
    theory *= (sphere * np.exp(-((modes * 3.0) ** 2) * (2.0 / 27.0 + 1.0 / 6.0) / 2.0)) ** 2
    expected = [theory[(modes >= low) & (modes < high)].mean() for low, high in itertools.pairwise(k)]
    assert np.all(np.abs(mean - expected) < 4.0 * error + 0.03 * np.array(expected))


def test_mass_is_conserved_and_never_negative():
    for density in boxes(6.0, seeds=2):
        assert density.shape == (32, 32, 32)
        assert density.dtype == np.float32
        assert abs(density.mean(dtype=float)) < 1e-6
        assert density.min() >= -1.0


def test_large_modes_grow_with_the_growth_factor():
    early, late = (np.fft.rfftn(boxes(z, seeds=1)[0]) for z in (20.0, 10.0))
    growth = BACKGROUND.growth(10.0) / BACKGROUND.growth(20.0)
    large = np.zeros(early.shape, bool)
    large[:3, :3, :3] = large[-2:, :3, :3] = True
    large[0, 0, 0] = False
    ratio = np.sum((late * early.conj()).real[large]) / np.sum(np.abs(early[large]) ** 2)
    assert ratio == pytest.approx(growth, rel=0.03)


def test_gravity_makes_the_distribution_skew():
    # Skewness over deviation is 34 / 7 + d ln sigma^2 / d ln R: Bernardeau (1994, A&A 291, 697).
    mass = np.array([0.8, 1.25]) * 27.0 * BACKGROUND.mean_matter_density
    slope = 3.0 * np.diff(np.log(BACKGROUND.sigma(mass) ** 2))[0] / np.diff(np.log(mass))[0]
    for z in (15.0, 8.0):
        density = np.stack(boxes(z, seeds=4)).astype(float)
        assert scipy.stats.skew(density.ravel()) / density.std() == pytest.approx(34.0 / 7.0 + slope, rel=0.1)


def test_finer_initial_conditions_keep_the_coarse_statistics():
    fine = ParticleBox(BACKGROUND, 32, 3.0, refinement=3)
    coarse = ParticleBox(BACKGROUND, 32, 3.0, refinement=1)
    deviation = [np.std(boxes(10.0, seeds=6, box=box)) for box in (coarse, BOX, fine)]
    assert deviation[0] == pytest.approx(deviation[1], rel=0.08)
    assert deviation[2] == pytest.approx(deviation[1], rel=0.05)


def test_directions_are_equivalent():
    power = np.mean([np.abs(np.fft.fftn(density)) ** 2 for density in boxes(10.0, seeds=12)], axis=0)
    along = [power[1:8, 0, 0].sum(), power[0, 1:8, 0].sum(), power[0, 0, 1:8].sum()]
    assert max(along) / min(along) < 1.6


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((31, 1.5), "expected an even number of cells from 8 on, got 31"),
        ((32, 0.0), "expected a positive cell_size in Mpc, got 0.0"),
        ((32, 1.5, 7), "expected refinement 1, 2, 3 or 4, got 7"),
    ],
)
def test_wrong_boxes_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        ParticleBox(BACKGROUND, *arguments)
