"""Kernel: separable resampling of one array, compiled, a stripe of rows at a time so that nothing of full size is made.

A stripe of `STRIPE` output rows is carried through all slices: of each slice its rows are mixed along y into rows of
floats, those along x, and the last few such stripes stand in a ring, out of which the slices of the output are mixed,
rounded and clipped; where there are few new slices, the mixing along z comes first instead. Every tap is one IEEE fused
multiply-add, in a fixed order and never reassociated, so that the same input gives the same bytes in every process and
on every machine.
"""

# T taps: old voxels that one new voxel takes; K old voxels that LANES neighbouring new voxels take together.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from medloom.pipelines.stages.taps import Taps
from medloom.pipelines.stages.vectors import (
    LANES,
    ROWS,
    finish_four,
    finish_one,
    mix_block,
    mix_four,
    mix_four_flipped,
    mix_one,
    mix_one_flipped,
    prefetch,
)

STRIPE = 16  # rows, a multiple of ROWS
SLAB = 32  # slices gathered at once where x is not the fastest axis in memory: a cache line of 16-bit values


def compiled(function: Callable[..., Any]) -> Any:
    """Return `function` compiled, without the GIL, and kept beside its file or in the user's cache folder.

    A read-only installation without a home has neither: then it is compiled in each process.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


@dataclass(frozen=True, eq=False)
class Memory:
    """An array as its memory and how to walk it, so that views, flips and permutations need no copy.

    Attributes:
        flat: read-only, contiguous, native.
        start: place of voxel (0, 0, 0) in `flat`.
        steps: places between neighbours along z, y and x; negative when the axis is flipped.
    """

    flat: np.ndarray
    start: int
    steps: tuple[int, int, int]

    @classmethod
    def of(cls, array: np.ndarray) -> "Memory":
        """Return the memory of `array` (Z, Y, X), copied only where it is of foreign byte order or unaligned."""
        size = array.itemsize
        if not array.dtype.isnative or not array.flags.aligned or any(s % size for s in array.strides):
            array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
        steps = [s // size for s in array.strides]
        ends = [(n - 1) * s for n, s in zip(array.shape, steps, strict=True)]
        lowest = array[tuple(slice(None, None, -1) if s < 0 else slice(None) for s in steps)]
        length = 1 + sum(abs(end) for end in ends)
        flat = np.lib.stride_tricks.as_strided(lowest, (length,), (size,), writeable=False)
        return cls(flat, -sum(end for end in ends if end < 0), (steps[0], steps[1], steps[2]))


def values_on(array: np.ndarray, taps: tuple[Taps, Taps, Taps], *, low: float, high: float) -> np.ndarray:
    """Return `array` (Z, Y, X) mixed by `taps` (along z, y and x), rounded half to even and clipped to [low, high].

    Args:
        array: int16, uint16 or uint8, mixed in float32, or float32, mixed in float64; any strides; finite.
    """
    along_z, along_y, along_x = taps
    work = np.float64 if array.dtype.kind == "f" else np.float32
    if array.shape[2] < LANES:
        array = np.pad(array, ((0, 0), (0, 0), (0, LANES - array.shape[2])))
    memory, n_new, n_x = Memory.of(array), along_x.start.size, array.shape[2]
    starts, weights = _blocks(along_x, work)
    made = np.empty((along_z.start.size, along_y.start.size, max(n_new, LANES)), array.dtype.newbyteorder("="))
    n_rows, width_z, mixed = _rows_of_a_stripe(along_y), along_z.weight.shape[1], starts.size * LANES
    z_first = _z_first(array.shape, taps, weights.shape[1] * mixed)
    gathered = abs(memory.steps[2]) != 1
    slab = np.empty((max(SLAB, 2 * width_z), n_rows, n_x) if gathered else (0, n_rows, n_x), made.dtype)
    seen = slab.reshape(-1)
    seen.flags.writeable = False  # of one type with the memory
    old_rows = np.zeros((n_rows if z_first else 0, n_x), work)
    rows = np.zeros((STRIPE, n_x + weights.shape[1]), work)
    ring = np.zeros((1 if z_first else width_z, STRIPE, mixed), work)
    _mix(
        made, (memory.flat, seen), np.array([memory.start, *memory.steps]), slab, (array.shape[0], z_first),
        ((along_z.start, along_z.weight.astype(work)), (along_y.start, along_y.weight.astype(work)), (starts, weights)),
        (old_rows, old_rows.reshape(-1), rows, ring, ring.reshape(-1)),
        np.ones(ring.shape[0], work), (work(low), work(high)),
    )  # fmt: skip
    return made if n_new >= LANES else np.ascontiguousarray(made[:, :, :n_new])


def _z_first(shape: tuple[int, ...], taps: tuple[Taps, Taps, Taps], products_x: int) -> bool:
    """Return whether mixing along z before y and x takes fewer products than after: where there are few new slices.

    Args:
        products_x: that a row takes along x.
    """
    (n_z, width_z), (n_y, width_y), _ = (axis.weight.shape for axis in taps)
    old_slices = min(shape[0], n_z * width_z)
    in_plane = n_y * (width_y * shape[2] + products_x)
    after = old_slices * in_plane + n_z * width_z * n_y * taps[2].start.size
    return n_z * (width_z * shape[1] * shape[2] + in_plane) < after


def _rows_of_a_stripe(along_y: Taps) -> int:
    """Return how many old rows the most demanding stripe takes."""
    first = np.arange(0, along_y.start.size, STRIPE)
    last = np.minimum(first + STRIPE, along_y.start.size) - 1
    return int((along_y.start[last] - along_y.start[first]).max()) + along_y.weight.shape[1]


def _blocks(along_x: Taps, work: type) -> tuple[np.ndarray, np.ndarray]:
    """Return taps of LANES new voxels at a time: where each block starts, (block,), and (block, K, lane) weights.

    Most weights are 0; but that way all lanes take the same old voxel at once, and no lane gathers.
    """
    n_new, width = along_x.weight.shape
    n_blocks = -(-max(n_new, LANES) // LANES)
    block, lane = np.divmod(np.arange(n_new), LANES)
    starts = np.zeros(n_blocks, np.int64)
    starts[: block[-1] + 1] = along_x.start[::LANES]
    offset = along_x.start - starts[block]
    weights = np.zeros((n_blocks, int(offset.max()) + width, LANES), work)
    tap = np.arange(width)
    weights[block[:, np.newaxis], offset[:, np.newaxis] + tap, lane[:, np.newaxis]] = along_x.weight
    return starts, weights


@compiled
def _mix(
    made: Any, sources: Any, walk: Any, slab: Any, how: Any, taps: Any, room: Any, turned: Any, limits: Any
) -> None:
    (starts_z, weights_z), (starts_y, weights_y), along_x = taps
    old_rows, old_flat, rows, ring, ring_flat = room
    n_z, z_first = how
    width_z, n_x = weights_z.shape[1], slab.shape[2]
    for y0 in range(0, made.shape[1], STRIPE):
        y1 = min(y0 + STRIPE, made.shape[1])
        first = starts_y[y0]
        place = (n_z, first, starts_y[y1 - 1] + weights_y.shape[1] - first)
        ready, held = 0, (0, 0)
        for z in range(made.shape[0]):
            start_z = starts_z[z]
            if z_first:
                held = _hold(slab, held, sources, walk, place, start_z, start_z + width_z)
                source, start, step_z, step_y, step_x = _found(slab, held, sources, walk, place, start_z)
                for row in range(place[2]):
                    _mix_row(old_rows[row], source, start + row * step_y, step_z, step_x, weights_z[z], n_x)
                for y in range(y0, y1):
                    _mix_row(rows[y - y0], old_flat, (starts_y[y] - first) * n_x, n_x, 1, weights_y[y], n_x)
                _along_x(ring[0], rows, y1 - y0, along_x)
            else:
                for old in range(max(ready, start_z), start_z + width_z):
                    held = _hold(slab, held, sources, walk, place, old, old + 1)
                    source, start, _, step_y, step_x = _found(slab, held, sources, walk, place, old)
                    for y in range(y0, y1):
                        at = start + (starts_y[y] - first) * step_y
                        _mix_row(rows[y - y0], source, at, step_y, step_x, weights_y[y], n_x)
                    _along_x(ring[old % width_z], rows, y1 - y0, along_x)
                    ready = old + 1
                for tap in range(width_z):  # a slot of the ring holds the tap that came round to it
                    turned[(start_z + tap) % width_z] = weights_z[z, tap]
            for y in range(y0, y1):
                _finish_row(made[z, y], ring_flat, (y - y0) * ring.shape[2], STRIPE * ring.shape[2], turned, limits)


@numba.njit(nogil=True)
def _hold(slab: Any, held: Any, sources: Any, walk: Any, place: Any, z: Any, end: Any) -> Any:
    """Make slices from `z` to `end` ready and return what slices are in the slab: the memory is asked for as many more,
    since stripes jump from slice to slice, which no hardware foresees; or they are gathered.
    """
    n_z, first, count = place
    start, step_z, step_y, step_x = walk
    if slab.size == 0:
        line = 64 // slab.itemsize
        ahead = end - z if held[1] else 0
        for old in range(max(held[1], z) + ahead, min(end + ahead, n_z)):
            for row in range(first, first + count):
                for x in range(0, slab.shape[2], line):
                    prefetch(sources[0], start + old * step_z + row * step_y + x * step_x)
        return z, end
    if end <= held[1]:
        return held
    last = min(z + slab.shape[0], n_z)
    _gather(slab, last - z, count, sources[0], start + z * step_z + first * step_y, walk)
    return z, last


@numba.njit(nogil=True)
def _found(slab: Any, held: Any, sources: Any, walk: Any, place: Any, z: Any) -> Any:
    """Return where slice `z` of the stripe starts: the memory, its index there, and the steps along z, y and x."""
    start, step_z, step_y, step_x = walk
    if slab.size == 0:
        return sources[0], start + z * step_z + place[1] * step_y, step_z, step_y, step_x
    pitch = slab.shape[1] * slab.shape[2]
    return sources[1], (z - held[0]) * pitch, pitch, slab.shape[2], 1


@numba.njit(nogil=True)
def _mix_row(out: Any, flat: Any, first: Any, pitch: Any, step_x: Any, weights: Any, n_x: Any) -> None:
    x = 0
    while x + 4 * LANES <= n_x:
        if step_x > 0:
            mix_four(out, x, flat, first + x, pitch, weights)
        else:
            mix_four_flipped(out, x, flat, first - x, pitch, weights)
        x += 4 * LANES
    while x < n_x:
        x = min(x, n_x - LANES)  # the last vector overlaps the one before: its lanes come out the same again
        if step_x > 0:
            mix_one(out, x, flat, first + x, pitch, weights)
        else:
            mix_one_flipped(out, x, flat, first - x, pitch, weights)
        x += LANES


@numba.njit(nogil=True)
def _along_x(out: Any, rows: Any, n_rows: Any, along_x: Any) -> None:
    starts, weights = along_x
    for block in range(starts.size):
        for row in range(0, n_rows, ROWS):
            mix_block(out[row:], block * LANES, rows[row:], starts[block], weights[block])


@numba.njit(nogil=True)
def _finish_row(out: Any, flat: Any, first: Any, pitch: Any, weights: Any, limits: Any) -> None:
    low, high = limits
    n_x, x = out.size, 0
    while x + 4 * LANES <= n_x:
        finish_four(out, x, flat, first + x, pitch, weights, low, high)
        x += 4 * LANES
    while x < n_x:
        x = min(x, n_x - LANES)
        finish_one(out, x, flat, first + x, pitch, weights, low, high)
        x += LANES


@numba.njit(nogil=True)
def _gather(slab: Any, n_z: Any, n_y: Any, flat: Any, start: Any, walk: Any) -> None:
    """Copy rows of `n_z` slices into `slab`, in the order in which they stand in memory."""
    _, step_z, step_y, step_x = walk
    n_x = slab.shape[2]
    if abs(step_z) < abs(step_y):
        for y in range(n_y):
            for x in range(n_x):
                for z in range(n_z):
                    slab[z, y, x] = flat[start + z * step_z + y * step_y + x * step_x]
    else:
        for z in range(n_z):
            for x in range(n_x):
                for y in range(n_y):
                    slab[z, y, x] = flat[start + z * step_z + y * step_y + x * step_x]
