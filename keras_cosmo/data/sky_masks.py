"""Masks of the sky: which pixels are used, and what they give to the pixels of a cutout."""

import logging

import numpy as np

logger = logging.getLogger(__name__)

MASKED_BELOW = 0.5
"""Pixels with a smaller weight of the mask are masked; all others count in full."""


def cutout_shares(mask: np.ndarray, pixels: np.ndarray, weights: np.ndarray | None = None):
    """What each HEALPix pixel gives to the pixels of a cutout, and which of these are used.

    Weights of a mask become 0 or 1, at `MASKED_BELOW`. If they were kept, a network would see m * I and have to find
    the fraction m in it, which the HI does not tell, and a map of the sky made of its predictions would be m * T.

    Args:
        mask: Weights 0 to 1, ``(n_pixels,)``.
        pixels: HEALPix pixels around each pixel of the cutout, ``(k, ...)``: one for the nearest, four for bilinear
            interpolation.
        weights: Of these in the interpolation, same shape, with sums of 1 along the first axis. None: ``pixels`` is
            ``(1, ...)``, the nearest.

    Returns:
        Float32 shares ``(k, ...)``, which add up to 1, the weighted mean over the neighbours that are not masked, where
        these have at least half of the weight; 0 elsewhere. And whether that is so, booleans ``(...)``.

    Example:
        >>> mask = np.array([1.0, 0.6, 0.4])
        >>> shares, used = cutout_shares(mask, np.array([[0, 0], [2, 2]]), np.array([[0.75, 0.25], [0.25, 0.75]]))
        >>> shares.tolist(), used.tolist()
        ([[1.0, 0.0], [0.0, 0.0]], [True, False])
    """
    unmasked = mask[pixels] >= MASKED_BELOW
    if weights is None:
        return unmasked.astype(np.float32), unmasked[0]
    shares = weights * unmasked
    total = shares.sum(axis=0)
    # Two of four neighbours have half of the weight, but for rounding.
    used = total >= MASKED_BELOW - 1e-9
    shares *= used / np.where(used, total, 1.0)
    return shares.astype(np.float32), used


def fractional_weights(mask: np.ndarray) -> int:
    """How many pixels of a mask have a weight between 0 and 1."""
    return int(np.count_nonzero((mask > 0.0) & (mask < 1.0)))


def log_fractions(source, count: int, n_pixels: int) -> None:
    """Say, as information, that weights of a mask between 0 and 1 become 0 or 1.

    Args:
        source: What the mask is of, for the message.
        count: How many such pixels there are; with 0 nothing is said.
        n_pixels: Of how many.
    """
    if count:
        logger.info(
            "%s: %d of %d pixels of the mask have a weight between 0 and 1: those of at least %g are used in full, the "
            "others are masked.",
            source, count, n_pixels, MASKED_BELOW,
        )  # fmt: skip
