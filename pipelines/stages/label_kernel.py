"""Label kernel: a new voxel of a label map takes the class that has the largest share of it; the lower class wins ties.

The same as mixing a 0/1 volume of each class and taking the largest, without making any: of each new voxel the few old
ones it covers are counted by class, and rows are visited only where there is something.
"""

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from medloom.pipelines.stages.kernel import Memory, compiled
from medloom.pipelines.stages.taps import TIE, Taps


def labels_on(array: np.ndarray, taps: tuple[Taps, Taps, Taps]) -> np.ndarray:
    """Return a label map (Z, Y, X) of uint8 or uint16 on the grid that `taps` (along z, y and x) lead to.

    What a row of taps lacks to 1 lies outside and is background.
    """
    memory = Memory.of(array)
    made = np.zeros([axis.start.size for axis in taps], array.dtype.newbyteorder("="))
    walk = np.array([memory.start, *memory.steps])
    extents = np.empty((array.shape[0], array.shape[1], 2), np.int64)
    _extents(extents, memory.flat, walk, array.shape[2])
    _vote(made, memory.flat, walk, extents, *((axis.start, axis.weight) for axis in taps), _scratch(taps))
    return made


def keep_small(
    made: np.ndarray, array: np.ndarray, taps: tuple[Taps, Taps, Taps], lost: Sequence[int], boxes: np.ndarray,
    counts: np.ndarray,
) -> list[int]:  # fmt: skip
    """Give each lost class the one voxel of `made` of which it has the largest share; return those that got one.

    A voxel that is the last of another class stays its own.

    Args:
        lost: classes of `array` that `made` lacks.
        boxes: by class, half-open, in `array`.
        counts: by class, voxels in `made`; brought up to date.
    """
    memory = Memory.of(array)
    walk = np.array([memory.start, *memory.steps])
    kept = []
    for label in lost:
        reach = np.array([
            _reached(axis, int(boxes[label][n]), int(boxes[label][n + 3])) for n, axis in enumerate(taps)
        ])  # fmt: skip
        share, z, y, x = _best(made, memory.flat, walk, label, reach, counts, *((t.start, t.weight) for t in taps))
        if share > 0:
            counts[made[z, y, x]] -= 1
            counts[label] += 1
            made[z, y, x] = label
            kept.append(label)
    return kept


def _reached(axis: Taps, first: int, end: int) -> tuple[int, int]:
    """Return the half-open range of new voxels that take anything of the old ones from `first` to `end`."""
    (new,) = np.nonzero((axis.start < end) & (axis.start + axis.weight.shape[1] > first))
    return (int(new[0]), int(new[-1]) + 1) if new.size else (0, 0)


def _scratch(taps: tuple[Taps, Taps, Taps]) -> tuple[np.ndarray, np.ndarray]:
    """Return room for the classes in one new voxel, and for their shares."""
    most = int(np.prod([axis.weight.shape[1] for axis in taps]))
    return np.zeros(most, np.int64), np.zeros(most)


@compiled
def _extents(extents: Any, flat: Any, walk: Any, n_x: Any) -> None:
    """Find of each row the half-open range that holds all of its foreground."""
    start, step_z, step_y, step_x = walk
    for z in range(extents.shape[0]):
        for y in range(extents.shape[1]):
            place = start + z * step_z + y * step_y
            first, end = n_x, 0
            for x in range(n_x):
                if flat[place + x * step_x] != 0:
                    first = min(first, x)
                    end = x + 1
            extents[z, y] = first, end


@compiled
def _vote(
    made: Any, flat: Any, walk: Any, extents: Any, along_z: Any, along_y: Any, along_x: Any, scratch: Any
) -> None:
    starts_z, weights_z = along_z
    starts_y, weights_y = along_y
    starts_x, weights_x = along_x
    start, step_z, step_y, step_x = walk
    width_z, width_y, width_x = weights_z.shape[1], weights_y.shape[1], weights_x.shape[1]
    classes, shares = scratch
    for z in range(made.shape[0]):
        for y in range(made.shape[1]):
            first, end = flat.size, 0
            for old_z in range(starts_z[z], starts_z[z] + width_z):
                for old_y in range(starts_y[y], starts_y[y] + width_y):
                    first, end = min(first, extents[old_z, old_y, 0]), max(end, extents[old_z, old_y, 1])
            if end == 0:
                continue
            for x in range(made.shape[2]):
                if starts_x[x] + width_x <= first or starts_x[x] >= end:
                    continue
                place = start + starts_z[z] * step_z + starts_y[y] * step_y + starts_x[x] * step_x
                found = 0
                for tap_z in range(width_z):
                    for tap_y in range(width_y):
                        share_zy = weights_z[z, tap_z] * weights_y[y, tap_y]
                        if share_zy == 0:
                            continue
                        row = place + tap_z * step_z + tap_y * step_y
                        for tap_x in range(width_x):
                            value = flat[row + tap_x * step_x]
                            share = share_zy * weights_x[x, tap_x]
                            if value != 0 and share != 0:
                                found = _add(classes, shares, found, value, share)
                made[z, y, x] = _winner(classes, shares, found)


@numba.njit(nogil=True, inline="always")
def _add(classes: Any, shares: Any, found: Any, value: Any, share: Any) -> Any:
    for n in range(found):
        if classes[n] == value:
            shares[n] += share
            return found
    classes[found] = value
    shares[found] = share
    return found + 1


@numba.njit(nogil=True, inline="always")
def _winner(classes: Any, shares: Any, found: Any) -> Any:
    background = 1.0
    most = 0.0
    for n in range(found):
        background -= shares[n]
        most = max(most, shares[n])
    if background >= most - TIE:
        return 0
    winner = -1
    for n in range(found):
        if shares[n] >= most - TIE and (winner < 0 or classes[n] < winner):
            winner = classes[n]
    return winner


@compiled
def _best(
    made: Any, flat: Any, walk: Any, label: Any, reach: Any, counts: Any, along_z: Any, along_y: Any, along_x: Any
) -> Any:
    """Return the largest share that `label` has of any voxel it may take, and that voxel."""
    starts_z, weights_z = along_z
    starts_y, weights_y = along_y
    starts_x, weights_x = along_x
    start, step_z, step_y, step_x = walk
    best = 0.0, 0, 0, 0
    for z in range(reach[0, 0], reach[0, 1]):
        for y in range(reach[1, 0], reach[1, 1]):
            for x in range(reach[2, 0], reach[2, 1]):
                if made[z, y, x] != 0 and counts[made[z, y, x]] <= 1:
                    continue
                place = start + starts_z[z] * step_z + starts_y[y] * step_y + starts_x[x] * step_x
                share = 0.0
                for tap_z in range(weights_z.shape[1]):
                    for tap_y in range(weights_y.shape[1]):
                        row = place + tap_z * step_z + tap_y * step_y
                        for tap_x in range(weights_x.shape[1]):
                            if flat[row + tap_x * step_x] == label:
                                share += weights_z[z, tap_z] * weights_y[y, tap_y] * weights_x[x, tap_x]
                if share > best[0] + TIE:
                    best = share, z, y, x
    return best
