"""Taps: which old voxels each new one takes along one axis, and how much of each."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TIE = 1e-9  # of a new voxel: less is the rounding of an edge that two voxels share


@dataclass(frozen=True, eq=False)
class Taps:
    """Of one axis: new voxel i takes `weight[i, t]` of old voxel `start[i] + t`.

    Attributes:
        start: (new voxel,) int64, ascending; `start + T` never exceeds the number of old voxels.
        weight: (new voxel, T) float64; rows add up to 1, or to less where `padded` voxels lie outside.
    """

    start: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Axis:
    """Old and new voxels along one axis.

    Attributes:
        n_old, n_new: how many.
        step: old voxels per new one.
        first: where the first new centre stands, in old voxels (0 is the first old centre); the edges of both grids
            meet at `(step - 1) / 2`.
    """

    n_old: int
    n_new: int
    step: float
    first: float

    @property
    def centres(self) -> np.ndarray:
        """Where the new centres stand, in old voxels."""
        return np.arange(self.n_new) * self.step + self.first


def aligned(n_old: int, n_new: int, step: float) -> Axis:
    """Return the axis whose new voxels begin at the outer edge of the first old one."""
    return Axis(n_old, n_new, step, (step - 1) / 2)


def cubic(axis: Axis) -> Taps:
    """Keys' cubic convolution (IEEE TASSP 29, 1981, a = -0.5), widened by the step where that is above 1."""
    return _sampled(axis, _keys, half_width=2, scale=max(axis.step, 1.0))


def lanczos3(axis: Axis) -> Taps:
    """sinc(x) sinc(x / 3) for |x| < 3, widened by the step where that is above 1."""
    return _sampled(axis, lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0), 3, max(axis.step, 1.0))


def linear(axis: Axis) -> Taps:
    """The two nearest voxels, never widened: what SimpleITK, scipy and torch call linear."""
    return _sampled(axis, lambda x: np.maximum(1 - np.abs(x), 0.0), half_width=1, scale=1.0)


def box(axis: Axis) -> Taps:
    """The share that each old voxel has of the new one: the exact mean."""
    return overlap(axis, padded=False)


KERNELS: dict[str, Callable[[Axis], Taps]] = {"cubic": cubic, "linear": linear, "box": box, "lanczos3": lanczos3}


def overlap(axis: Axis, *, padded: bool) -> Taps:
    """Return the share that each old voxel has of the new one.

    Args:
        padded: outside there is nothing, and a row may add up to less than 1; else the edge goes on.
    """
    start = axis.centres + 0.5 - axis.step / 2
    end = start + axis.step
    index = np.floor(start).astype(np.int64)[:, np.newaxis] + np.arange(int(np.ceil(axis.step)) + 1)
    weight = np.minimum(index + 1, end[:, np.newaxis]) - np.maximum(index, start[:, np.newaxis])
    weight = weight.clip(0) / axis.step
    weight[weight < TIE] = 0
    if padded:
        weight[(index < 0) | (index >= axis.n_old)] = 0
        return _windows(axis.n_old, index, weight)
    return _windows(axis.n_old, index, weight / weight.sum(axis=1, keepdims=True))


def _keys(distance: np.ndarray) -> np.ndarray:
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _sampled(axis: Axis, kernel: Callable[[np.ndarray], np.ndarray], half_width: int, scale: float) -> Taps:
    centre = axis.centres[:, np.newaxis]
    reach = int(np.ceil(half_width * scale))
    index = np.floor(centre).astype(np.int64) + np.arange(1 - reach, reach + 1)
    weight = kernel((index - centre) / scale)
    return _windows(axis.n_old, index, weight / weight.sum(axis=1, keepdims=True))


def _windows(n_old: int, index: np.ndarray, weight: np.ndarray) -> Taps:
    """Return taps as windows inside the old axis; what stood beyond an edge is added to the voxel at the edge."""
    index = index.clip(0, n_old - 1)
    live = weight != 0
    first = np.minimum.accumulate(np.where(live, index, n_old).min(axis=1)[::-1])[::-1]  # ascending, though some are 0
    last = np.where(live, index, -1).max(axis=1)
    width = max(1, int((last - first).max()) + 1)
    start = np.minimum(first, n_old - width)
    dense = np.zeros((len(index), width))
    rows, taps = np.nonzero(live)
    np.add.at(dense, (rows, index[rows, taps] - start[rows]), weight[rows, taps])
    return Taps(start, dense)
