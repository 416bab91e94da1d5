"""Gaussian density fields on a plane cut through a three-dimensional universe, drawn without the third dimension."""

import dataclasses

import numpy as np
import scipy.fft

from keras_cosmo.simulations.cosmology import Background

SHARP_K_RADIUS = (9.0 * np.pi / 2.0) ** (-1.0 / 3.0)
"""A sharp cut at wavenumber k encloses the volume of a sphere of radius R if k R SHARP_K_RADIUS = 1."""

CELL_RADIUS = (3.0 / (4.0 * np.pi)) ** (1.0 / 3.0)
"""Radius of the sphere with the volume of a cubic cell, in units of the cell."""


@dataclasses.dataclass(frozen=True)
class Filter:
    """An isotropic smoothing filter.

    Args:
        kind: ``"tophat"`` (sphere of radius ``scale``), ``"sharp_k"`` (no modes beyond the wavenumber that
            belongs to a sphere of radius ``scale``: k = (9 pi / 2)^(1/3) / scale) or ``"cell"`` (what a particle
            mesh with cells of side ``scale`` keeps: displacements smoothed over the sphere of a cell's volume,
            then cloud-in-cell assignment and an average over the cell, to second order in k).
        scale: In Mpc.
        cell_size: Apply also what a particle mesh of this cell size (Mpc) keeps, as when a gridded field is filtered.

    Raises:
        ValueError: If the kind is unknown or the scale is not positive.
    """

    kind: str
    scale: float
    cell_size: float | None = None

    def __post_init__(self):
        if self.kind not in ("tophat", "sharp_k", "cell"):
            raise ValueError(f"Filter: expected kind 'tophat', 'sharp_k' or 'cell', got {self.kind!r}.")
        if not 0.0 < self.scale < np.inf:
            raise ValueError(f"Filter: expected a positive scale in Mpc, got {self.scale}.")

    def __call__(self, wavenumber):
        """Fourier transform of the filter at ``wavenumber`` in 1/Mpc."""
        x = np.asarray(wavenumber) * self.scale
        grid = 1.0 if self.cell_size is None else _mesh(np.asarray(wavenumber) * self.cell_size)
        if self.kind == "sharp_k":
            return (x * SHARP_K_RADIUS <= 1.0) * grid
        if self.kind == "cell":
            return _mesh(x) * grid
        return _sphere(x) * grid


def _mesh(x):
    # Cloud-in-cell is 1/12 of the exponent; the other 1/24, one more average over a cell, is calibrated on the power
    # of 50 light-cones of 21cmFAST at redshift 27.
    return np.exp(-(x**2) / 8.0) * _sphere(CELL_RADIUS * x)


def _sphere(x):
    x = np.maximum(x, 1e-2)
    return 3.0 * (np.sin(x) - x * np.cos(x)) / x**3


class PlaneDraw:
    """Joint draws of one density field under several filters, and of its velocity gradient, on a plane.

    A plane through an isotropic Gaussian field is itself a Gaussian field, and so are all its filtered versions,
    jointly. At in-plane wavenumber q their covariance is

        C_ij(q) = (1 / pi) Int_0^inf dk_perp P(k) W_i(k) W_j(k),    k^2 = q^2 + k_perp^2,

    so that a draw costs one two-dimensional Fourier transform per filter, and no three-dimensional box is needed.
    The gradient of the peculiar velocity along the line of sight has W = W_v / k^2 times k_los^2, where W_v is the
    sphere of a cell's volume and one factor k_los that of a central difference between cells.

    The first axis (across the sky) is periodic. The second (line of sight) is drawn longer than asked for and cut,
    so that its two ends are unrelated.

    Args:
        background: Cosmology tables.
        shape: ``(n_perp, n_los)`` cells.
        cell_size: Side of a cell in Mpc.
        filters: Filters of the density fields.
        padding: Fraction of extra cells along the line of sight.
        box_size: Leave out the modes that a periodic box of this side in Mpc does not hold: those longer than it.

    Raises:
        ValueError: If a size is not positive or no filter is given.

    Example:
        >>> draw = PlaneDraw(Cosmology().background(), (32, 64), 6.0, (Filter("tophat", 6.0),))
        >>> density, gradient = draw(np.random.default_rng(0))
        >>> density.shape
        (32, 64)
    """

    def __init__(
        self,
        background: Background,
        shape: tuple[int, int],
        cell_size: float,
        filters: tuple[Filter, ...],
        padding: float = 0.06,
        box_size: float | None = None,
    ):
        if len(shape) != 2 or min(shape) < 2:
            raise ValueError(f"PlaneDraw: expected shape (n_perp, n_los) of at least (2, 2), got {tuple(shape)}.")
        if not 0.0 < cell_size < np.inf:
            raise ValueError(f"PlaneDraw: expected a positive cell_size in Mpc, got {cell_size}.")
        if box_size is not None and not 0.0 < box_size < np.inf:
            raise ValueError(f"PlaneDraw: expected box_size None or positive in Mpc, got {box_size}.")
        if not filters:
            raise ValueError("PlaneDraw: expected at least one filter, got none.")
        self.filters = tuple(filters)
        self.n_los = shape[1]
        self.drawn_shape = (shape[0], scipy.fft.next_fast_len(int(np.ceil(shape[1] * (1.0 + padding))), True))
        k_perp = 2.0 * np.pi * scipy.fft.fftfreq(self.drawn_shape[0], cell_size)
        k_los = 2.0 * np.pi * scipy.fft.rfftfreq(self.drawn_shape[1], cell_size)
        in_plane = np.hypot(k_perp[:, None], k_los[None])
        nodes = np.geomspace(0.9 * in_plane[in_plane > 0].min(), 1.05 * in_plane.max(), 200)
        velocity_filter = Filter("tophat", CELL_RADIUS * cell_size)
        longest = 0.0 if box_size is None else 2.0 * np.pi / box_size
        roots = _covariance_roots(background, nodes, self.filters, velocity_filter, longest)

        # Half-complex storage: the modes with k_los = 0 (and Nyquist) keep only their real part after the transform
        # across the sky, so they need twice the variance.
        multiplicity = np.full(len(k_los), np.sqrt(0.5))
        multiplicity[0] = 1.0
        if self.drawn_shape[1] % 2 == 0:
            multiplicity[-1] = 1.0
        area = np.prod(self.drawn_shape) * cell_size**2
        log_in_plane = np.log(np.maximum(in_plane, nodes[0]))
        gradient = k_los * np.sin(k_los * cell_size) / cell_size / np.maximum(in_plane, nodes[0]) ** 2
        n_fields = len(self.filters) + 1
        self._blocks: list[list[tuple[int, slice, int, np.ndarray]]] = []
        for i in range(n_fields):
            peak = np.sqrt(np.sum(roots[:, i] ** 2, axis=-1) * nodes).max()
            row = []
            for j in range(i + 1):
                relevant = np.abs(roots[:, i, j]) * np.sqrt(nodes) > 4e-3 * peak
                if not relevant.any():
                    continue
                cut = nodes[min(np.flatnonzero(relevant)[-1] + 1, len(nodes) - 1)]
                columns = int(np.searchsorted(k_los, cut, side="right"))
                rows = int(np.sum(np.abs(k_perp) <= cut) + 1) // 2
                factor = np.interp(log_in_plane, np.log(nodes), roots[:, i, j]) / np.sqrt(area) * multiplicity
                if i == 1:
                    factor = factor * gradient
                factor = factor.astype(np.float32)
                if 2 * rows >= len(k_perp):
                    row.append((j, slice(None), columns, factor[:, :columns]))
                else:
                    row.append((j, slice(rows), columns, factor[:rows, :columns].copy()))
                    row.append((j, slice(-rows, None), columns, factor[-rows:, :columns].copy()))
            self._blocks.append(row)
        self._noise_columns = [
            max((columns for row in self._blocks for source, _, columns, _ in row if source == j), default=1)
            for j in range(n_fields)
        ]

    def __call__(self, generator: np.random.Generator) -> list[np.ndarray]:
        """One draw.

        Args:
            generator: Source of random numbers; the only input.

        Returns:
            A list of float32 arrays ``(n_perp, n_los)``: the linear density contrast at redshift zero under each
            filter, then the line-of-sight velocity gradient in the same units, with the opposite sign (mu^2 delta).
        """
        n_perp, n_los = self.drawn_shape
        noises = []
        for columns in self._noise_columns:
            noise = generator.standard_normal((n_perp, columns, 2), dtype=np.float32)
            noises.append(noise.view(np.complex64)[..., 0])
        fields = []
        for blocks in self._blocks:
            modes = np.zeros((n_perp, max(columns for _, _, columns, _ in blocks)), np.complex64)
            for j, rows, columns, factor in blocks:
                modes[rows, :columns] += factor * noises[j][rows, :columns]
            # Filtered fields have few columns of modes, so each axis is transformed by itself.
            modes = scipy.fft.ifft(modes, axis=0, norm="forward", overwrite_x=True)
            field = scipy.fft.irfft(modes, n_los, axis=1, norm="forward", overwrite_x=True)
            fields.append(field[:, : self.n_los])
        return [fields[0], *fields[2:], fields[1]]


def _covariance_roots(background, nodes, filters, velocity_filter, smallest_wavenumber) -> np.ndarray:
    """Lower triangular roots ``(n_nodes, n_fields, n_fields)`` of the in-plane covariance at wavenumbers ``nodes``."""
    smallest = min(f.scale for f in filters)
    across = np.concatenate([[0.0], np.geomspace(1e-5, 40.0 / smallest, 1200)])
    k = np.hypot(nodes[:, None], across[None])
    weights = np.zeros_like(across)
    weights[1:] += 0.5 * np.diff(across)
    weights[:-1] += 0.5 * np.diff(across)
    power = np.exp(np.interp(np.log(k), np.log(background.wavenumbers), np.log(background.power)))
    power = np.where(k >= smallest_wavenumber, power, 0.0)
    # The velocity gradient is k_los^2 / k^2 = (k_los^2 / q^2) (q^2 / k^2): the first factor is applied per mode.
    # It comes second, before the wider filters, because the order of a triangular root decides who mixes with whom.
    windows = [filters[0](k), velocity_filter(k) * (nodes[:, None] / k) ** 2, *(f(k) for f in filters[1:])]
    windows = np.stack(windows) * np.sqrt(power * weights / np.pi)
    covariance = np.einsum("ika,jka->kij", windows, windows, optimize=True)
    deviation = np.sqrt(np.einsum("kii->ki", covariance))
    floor = 1e-7 * deviation.max(axis=0)
    scale = np.maximum(deviation, floor)
    correlation = covariance / scale[:, :, None] / scale[:, None, :]
    # Neighbouring filters are almost degenerate at small wavenumbers; the small diagonal keeps the root real.
    identity = np.eye(len(windows))
    correlation = np.where(deviation[:, :, None] * deviation[:, None, :] > 0, correlation, identity)
    return np.linalg.cholesky(correlation + 1e-5 * identity) * np.where(deviation > floor, deviation, 0.0)[:, :, None]
