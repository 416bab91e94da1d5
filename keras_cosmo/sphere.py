"""Filters on the sphere, for HEALPix maps."""

import numbers

import numpy as np

NEGLIGIBLE = 1e-3
"""`low_pass` leaves out what its filter reduces to less than this share of the amplitude."""


def butterworth(ell, cutoff: float, order: float) -> np.ndarray:
    """Amplitude factor of a Butterworth low-pass, 1 / sqrt(1 + (ell / cutoff)^(2 order)).

    It is 1 at multipole 0, 1 / sqrt(2) at the cutoff and falls as ell^-order beyond.

    Args:
        ell: Multipoles.
        cutoff: Multipole at which half of the power is left. Zhang et al. (2019, section 2): 460.
        order: How steep the filter is. The paper does not say.

    Raises:
        ValueError: If the cutoff or the order is not a positive number.

    Example:
        >>> butterworth([0.0, 460.0, 920.0], cutoff=460, order=4).round(4)
        array([1.    , 0.7071, 0.0624])
    """
    for name, value in (("cutoff", cutoff), ("order", order)):
        if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0.0 < value < np.inf:
            raise ValueError(f"`{name}` of the low-pass: expected a positive number, got {value!r}.")
    # In logarithms, so that no power of a large multipole overflows.
    with np.errstate(divide="ignore"):
        ratio = 2.0 * order * np.log(np.asarray(ell, np.float64) / cutoff)
    return np.exp(-0.5 * np.logaddexp(0.0, ratio))


def low_pass(maps, cutoff: float, order: float = 4, lmax: int | None = None, iterations: int = 3) -> np.ndarray:
    """HEALPix maps without their small scales, filtered in spherical harmonics with `butterworth`.

    Zhang et al. (2019, section 2) filter dust and HI "with resolution ell < 460", so that scales smaller than the
    pixels of their cutouts are not aliased into larger ones.

    Args:
        maps: ``(n_pixels,)`` or ``(n_maps, n_pixels)`` in RING order, finite.
        cutoff: Multipole at which half of the power is left, up to 3 nside - 1.
        order: Of the filter. The paper gives none; 4 is an assumption.
        lmax: Largest multipole kept. By default 3 nside - 1, or less where the filter leaves less than 0.001 of the
            amplitude.
        iterations: Of the harmonic analysis, as in ``healpy.map2alm``: more are slower and more accurate.

    Returns:
        Float32 maps of the same shape; the mean of each map is kept. The filtering is done in float64.

    Raises:
        ValueError: If the pixels are not those of a HEALPix map, a value is not finite, or a number is outside its
            range.

    Example:
        >>> maps = np.random.default_rng(0).standard_normal((2, 12 * 32**2))
        >>> low_pass(maps, cutoff=40).shape
        (2, 12288)
    """
    nside = nside_of(maps)
    finest = 3 * nside - 1
    factor = butterworth(np.arange(finest + 1), cutoff, order)
    if cutoff > finest:
        raise ValueError(
            f"`cutoff` of the low-pass: expected at most 3 nside - 1 = {finest} for maps of nside {nside}, got "
            f"{cutoff:g}. These pixels hold nothing beyond it: filter maps of a larger nside, or leave the filter out."
        )
    if lmax is None:
        lmax = int(np.flatnonzero(factor >= NEGLIGIBLE)[-1])
    elif isinstance(lmax, bool) or not isinstance(lmax, numbers.Integral) or not 1 <= lmax <= finest:
        raise ValueError(f"`lmax` of the low-pass: expected an integer in [1, {finest}], 3 nside - 1, got {lmax!r}.")
    return filter_harmonics(maps, factor[: lmax + 1], iterations)


def filter_harmonics(maps, factor, iterations: int = 3) -> np.ndarray:
    """HEALPix maps whose spherical harmonics are multiplied by a factor of the multipole.

    Args:
        maps: ``(n_pixels,)`` or ``(n_maps, n_pixels)`` in RING order, finite.
        factor: ``(lmax + 1,)`` with ``lmax`` up to 3 nside - 1; larger multipoles are left out.
        iterations: Of the harmonic analysis, as in ``healpy.map2alm``.

    Returns:
        Float32 maps of the same shape.

    Raises:
        ValueError: If the pixels are not those of a HEALPix map, a value is not finite, or an argument has a wrong
            shape or range.
    """
    import healpy

    nside = nside_of(maps)
    maps, factor = np.asarray(maps), np.asarray(factor, np.float64)
    if factor.ndim != 1 or not 1 <= len(factor) <= 3 * nside or not np.isfinite(factor).all():
        raise ValueError(
            f"`factor`: expected finite numbers for multipoles 0 to 3 nside - 1 = {3 * nside - 1} at most, got shape "
            f"{factor.shape}."
        )
    if isinstance(iterations, bool) or not isinstance(iterations, numbers.Integral) or not 0 <= iterations <= 100:
        raise ValueError(f"`iterations`: expected an integer in [0, 100], got {iterations!r}.")
    lmax = len(factor) - 1
    result = np.empty(maps.shape, np.float32)
    rows = result.reshape(-1, maps.shape[-1])
    for i, values in enumerate(maps.reshape(rows.shape)):
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError(
                f"map {i}: {np.count_nonzero(~np.isfinite(values))} of {len(values)} pixels are not finite, and would "
                f"spread over the whole sphere. Fill them in first."
            )
        # The mean apart: equal weights of all pixels give it exactly, and it does not leak into the highest multipoles.
        mean = values.mean()
        values -= mean
        harmonics = healpy.map2alm(values, lmax=lmax, iter=int(iterations), pol=False)
        healpy.almxfl(harmonics, factor, inplace=True)
        rows[i] = healpy.alm2map(harmonics, nside, lmax=lmax, pol=False) + factor[0] * mean
    return result


def nside_of(maps) -> int:
    """HEALPix nside of ``(n_pixels,)`` or ``(n_maps, n_pixels)`` maps.

    Raises:
        ValueError: If there is no such nside, or the array has another shape.

    Example:
        >>> nside_of(np.zeros((3, 768)))
        8
    """
    shape = np.shape(maps)
    n_pixels = shape[-1] if shape else 0
    nside = round((n_pixels / 12) ** 0.5)
    if len(shape) not in (1, 2) or not nside or 12 * nside**2 != n_pixels or nside & (nside - 1):
        raise ValueError(
            f"maps: expected shape (n_pixels,) or (n_maps, n_pixels) with the 12 nside^2 pixels of a HEALPix map and "
            f"nside a power of two, got shape {shape}."
        )
    return nside
