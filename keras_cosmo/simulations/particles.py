"""Matter density of a periodic box, from particles displaced by Lagrangian perturbation theory."""

import numpy as np
import scipy.fft

from keras_cosmo.simulations.cosmology import Background
from keras_cosmo.simulations.fields import CELL_RADIUS, Filter


class ParticleBox:
    """Density of a periodic box of particles displaced by second-order Lagrangian perturbation theory.

    Follows 21cmFAST 4.1.1: Gaussian initial conditions on a grid finer than the cells; displacements smoothed over the
    sphere of a cell's volume, one per cell; all mass of a cell moves together, as 3 x 3 x 3 particles, and is shared
    among cells by cloud-in-cell assignment (Hockney & Eastwood 1981). Second-order displacements: Scoccimarro (1998,
    MNRAS 299, 1097), appendix D.

    Args:
        background: Cosmology tables.
        cells: Cells along each side; even.
        cell_size: In Mpc.
        refinement: Cells of the initial conditions per cell and side.
        first_redshift: Particles start here, with the density of linear theory (21cmFAST ``INITIAL_REDSHIFT``).

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> box = ParticleBox(Cosmology().background(), 32, 1.5)
        >>> box.density(box.draw(np.random.default_rng(0)), 10.0).shape
        (32, 32, 32)

    Deviations from 21cmFAST: two instead of three cells of the initial conditions per cell and side; the source of
    the second-order displacements is built from the modes that the coarse grid holds.
    """

    def __init__(
        self,
        background: Background,
        cells: int,
        cell_size: float,
        refinement: int = 2,
        first_redshift: float = 300.0,
    ):
        if cells < 8 or cells % 2:
            raise ValueError(f"ParticleBox: expected an even number of cells from 8 on, got {cells}.")
        if not 0.0 < cell_size < np.inf:
            raise ValueError(f"ParticleBox: expected a positive cell_size in Mpc, got {cell_size}.")
        if refinement not in (1, 2, 3, 4):
            raise ValueError(f"ParticleBox: expected refinement 1, 2, 3 or 4, got {refinement}.")
        self.background = background
        self.cells, self.cell_size, self.refinement = cells, cell_size, refinement
        # The growing mode of matter and cosmological constant at high redshift.
        self._first_growth = background.growth(50.0) * 51.0 / (1.0 + first_redshift)
        fine = cells * refinement
        self._axis = _wavenumbers(fine, cell_size / refinement)
        wavenumber = np.sqrt(_squared(self._axis))
        log_power = np.interp(
            np.log(np.maximum(wavenumber, 1e-4)), np.log(background.wavenumbers), np.log(background.power)
        )
        amplitude = np.exp(0.5 * log_power) * np.float32((cell_size / refinement) ** -1.5)
        amplitude[0, 0, 0] = 0.0
        self._amplitude = amplitude.astype(np.float32)
        smoothing = Filter("tophat", CELL_RADIUS * cell_size)
        sphere = smoothing(wavenumber)
        wavenumber[0, 0, 0] = 1.0
        self._gradient = (sphere / wavenumber**2).astype(np.float32)
        self._coarse_axis = _wavenumbers(cells, cell_size)
        coarse = _squared(self._coarse_axis)
        coarse[0, 0, 0] = 1.0
        self._inverse_square = 1.0 / coarse
        # Three particles a third of a cell apart smooth what they carry; the initial contrast shall not be.
        spread = [(1.0 + 2.0 * np.cos(k * np.float32(cell_size / 3.0))) / 3.0 for k in self._coarse_axis]
        self._sharpened = (1.0 / (spread[0] * spread[1] * spread[2])).astype(np.float32)
        self._coarse_sphere = smoothing(np.sqrt(coarse)).astype(np.float32)

    def draw(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Initial conditions, scaled to redshift zero with linear theory.

        Returns:
            Linear contrast of the particles of each cell ``(cells, cells, cells)``, and displacements in Mpc of first
            and second order, ``(3, cells, cells, cells)`` each, growing with the growth factor and with its square.
        """
        fine = self.cells * self.refinement
        modes = scipy.fft.rfftn(generator.standard_normal((fine, fine, fine), dtype=np.float32))
        modes *= self._amplitude
        coarse = self._coarse_modes(modes)
        linear = scipy.fft.irfftn(coarse * self._sharpened, (self.cells,) * 3)
        smooth = modes * self._gradient
        first = np.stack([self._sampled(smooth * (1j * k)) for k in self._axis])
        del smooth
        second = self._second_order(coarse)
        return linear, first, second

    def density(self, initial: tuple[np.ndarray, np.ndarray, np.ndarray], redshift: float) -> np.ndarray:
        """Density contrast at a redshift, ``(cells, cells, cells)`` float32, of what `draw` returned."""
        linear, first, second = initial
        growth, start = self.background.growth(redshift), self._first_growth
        n, single = self.cells, np.float32
        cells, shares = [], []
        for axis in range(3):
            position = first[axis] * single((growth - start) / self.cell_size)
            position += second[axis] * single(3.0 / 7.0 * (growth**2 - start**2) / self.cell_size)
            base = np.floor(position - single(0.5))
            offset = position - base
            index = np.arange(n, dtype=np.int32).reshape([-1 if i == axis else 1 for i in range(3)])
            base = base.astype(np.int32) + index
            cells.append([(base + step) % n for step in range(3)])
            shares.append([_cloud_share(offset - single(step)) for step in range(3)])
        density = np.zeros(n**3)
        mass = 1.0 + linear * single(start)
        for i in range(3):
            for j in range(3):
                row, share = (cells[0][i] * n + cells[1][j]) * n, shares[0][i] * shares[1][j] * mass
                for k in range(3):
                    density += np.bincount((row + cells[2][k]).ravel(), (share * shares[2][k]).ravel(), n**3)
        return (density / density.mean() - 1.0).astype(np.float32).reshape(n, n, n)

    def _sampled(self, modes):
        """Field of fine modes at the corner of each cell."""
        n, ratio = self.cells, self.refinement
        folded = modes.reshape(ratio, n, ratio, n, -1).sum(axis=(0, 2))
        field = scipy.fft.irfftn(folded, (n, n, n * ratio), overwrite_x=True)[:, :, ::ratio]
        return field * np.float32(1.0 / ratio**2)

    def _coarse_modes(self, modes):
        """The modes that a grid of the cells holds, without those at its Nyquist wavenumber."""
        n, ratio = self.cells, self.refinement
        keep = np.concatenate([np.arange(n // 2), np.arange(n * ratio - n // 2, n * ratio)])
        coarse = modes[np.ix_(keep, keep, np.arange(n // 2 + 1))] * np.float32(1.0 / ratio**3)
        coarse[n // 2] = coarse[:, n // 2] = coarse[:, :, n // 2] = 0.0
        return coarse

    def _second_order(self, modes):
        shape = (self.cells,) * 3
        k = self._coarse_axis
        potential = modes * self._inverse_square
        diagonal = [scipy.fft.irfftn(potential * (k[i] * k[i]), shape, overwrite_x=True) for i in range(3)]
        source = diagonal[0] * (diagonal[1] + diagonal[2]) + diagonal[1] * diagonal[2]
        for i, j in ((0, 1), (0, 2), (1, 2)):
            source -= scipy.fft.irfftn(potential * (k[i] * k[j]), shape, overwrite_x=True) ** 2
        smooth = scipy.fft.rfftn(source) * (self._inverse_square * self._coarse_sphere)
        return np.stack([scipy.fft.irfftn(smooth * (1j * component), shape, overwrite_x=True) for component in k])


def _cloud_share(distance):
    """Share of three equal particles, a third of a cell apart, that falls to a cell at ``distance`` in cells."""
    third = np.float32(1.0 / 3.0)
    share = sum(np.maximum(1.0 - np.abs(distance + shift), 0.0) for shift in (-third, np.float32(0.0), third))
    return share * third


def _wavenumbers(cells, cell_size):
    """Components of the wavenumber in 1/Mpc on the half-complex grid, each in a shape to broadcast."""
    full = (2.0 * np.pi * scipy.fft.fftfreq(cells, cell_size)).astype(np.float32)
    half = (2.0 * np.pi * scipy.fft.rfftfreq(cells, cell_size)).astype(np.float32)
    return full[:, None, None], full[None, :, None], half[None, None, :]


def _squared(axis):
    return axis[0] ** 2 + axis[1] ** 2 + axis[2] ** 2
