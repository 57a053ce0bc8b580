"""Volumes whose values are known everywhere, and what a resampler made wrong of them.

Places are in mm from the first voxel's centre, along (z, y, x). Values are integers of 16 bits, as a scan's are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SHAPE, SPACING_MM = (120, 512, 512), (2.5, 0.7, 0.7)
AMPLITUDE = 1000.0  # of a tone
SMOOTH = ((60.0, (0.0, 0.0, 1 / 18)), (60.0, (0.0, 1 / 22, 0.0)), (50.0, (1 / 24, 0.0, 1 / 40)))  # 1 / mm along z, y, x


@dataclass(frozen=True, eq=False)
class Grid:
    """Where a resampler says its voxels are: centre of the first and distance, mm along (z, y, x)."""

    shape: tuple[int, ...]
    first_mm: tuple[float, ...]
    spacing_mm: tuple[float, ...]

    def along(self, axis: int) -> np.ndarray:
        """Places of the voxel centres along one axis, shaped to be broadcast."""
        places = self.first_mm[axis] + self.spacing_mm[axis] * np.arange(self.shape[axis])
        return places.reshape([-1 if n == axis else 1 for n in range(3)])


NATIVE = Grid(SHAPE, (0.0, 0.0, 0.0), SPACING_MM)


def body() -> np.ndarray:
    """A noisy body of soft tissue and bone in air, int16: what is timed."""
    z, y, x = np.ogrid[-1:1:120j, -1:1:512j, -1:1:512j]
    inside = x**2 / 0.7 + y**2 / 0.5 + z**2 / 4 < 1
    bone = (x - 0.2) ** 2 + y**2 < 0.02
    noise = np.random.default_rng(0).normal(0, 14, SHAPE) * (0.3 + inside)
    return np.rint(np.where(inside, 40 + 300 * bone, -1000) + noise).astype(np.int16)


def smooth(grid: Grid) -> np.ndarray:
    """Waves of 18 mm and more (rms 69.6): what every grid here can hold, though slices of 9.4 mm only just."""
    parts = [a * np.cos(2 * np.pi * sum(f * grid.along(n) for n, f in enumerate(per_mm))) for a, per_mm in SMOOTH]
    return np.broadcast_to(sum(parts), grid.shape)


def tone(grid: Grid, axis: int, per_mm: float) -> np.ndarray:
    """One wave along one axis."""
    return np.broadcast_to(AMPLITUDE * np.cos(2 * np.pi * per_mm * grid.along(axis)), grid.shape)


def stored(values: np.ndarray) -> np.ndarray:
    """Values as a scan holds them."""
    return np.rint(values).astype(np.int16)


def interior(array: np.ndarray) -> np.ndarray:
    """An array without an eighth at each side, where edges are repeated."""
    return array[tuple(slice(n // 8 + 1, n - n // 8 - 1) for n in array.shape)]


Resampler = Callable[[np.ndarray], tuple[np.ndarray, Grid]]


def error_of(resampler: Resampler) -> float:
    """Root mean square error on the smooth phantom, at the places that the resampler names."""
    made, grid = resampler(stored(smooth(NATIVE)))
    return float(np.sqrt(np.mean(interior(made.astype(np.float64) - smooth(grid)) ** 2)))


def leak_of(resampler: Resampler, axis: int, per_mm: float) -> float:
    """Share of a tone's amplitude that is left; 0 is right for one that the new grid cannot hold."""
    made, _ = resampler(stored(tone(NATIVE, axis, per_mm)))
    return float(np.sqrt(2 * np.mean(interior(made.astype(np.float64)) ** 2)) / AMPLITUDE)
