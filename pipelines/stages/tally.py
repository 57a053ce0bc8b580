"""Tally: one compiled pass over an array of integers: how often each value occurs, and in which box."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from medloom.pipelines.stages.kernel import Memory, compiled

COUNTERS = 4
PART = 1 << 17  # values: 256 KiB of 16 bits
_SLOTS = 1 << 18  # of the hash table that counts distinct values: a power of two, four times their limit


def histogram(array: np.ndarray) -> np.ndarray:
    """Return how often each value of an integer array (Z, Y, X) occurs, from the lowest of its type on; int64."""
    size = 2 ** (8 * array.itemsize)
    counts = np.zeros((COUNTERS, size), dtype=np.int64)
    for part in _parts(array):
        _count(counts, part.view(f"u{array.itemsize}"))
    total = counts.sum(axis=0)
    return np.roll(total, size // 2) if array.dtype.kind == "i" else total


def regions(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each value of a label map (Z, Y, X) occurs, and its half-open boxes (value, 6), int64.

    A box is (z0, y0, x0, z1, y1, x1), six zeros for a value that does not occur.
    """
    size = 2 ** (8 * array.itemsize)
    counts = np.zeros(size, np.int64)
    boxes = np.concatenate([np.full((size, 3), np.iinfo(np.int64).max), np.zeros((size, 3), np.int64)], axis=1)
    memory = Memory.of(array)
    _enclose(counts, boxes, memory.flat, np.array([memory.start, *memory.steps]), array.shape)
    boxes[counts == 0] = 0
    return counts, boxes


def extent(array: np.ndarray) -> tuple[float, float]:
    """Return the least and the greatest value of an array (Z, Y, X); NaN when there is one."""
    ends = [(part.min(), part.max()) for part in _parts(array)]
    return float(np.min([low for low, _ in ends])), float(np.max([high for _, high in ends]))


def measure_floats(array: np.ndarray, max_distinct: int) -> dict[str, float]:
    """Return what `measure_volume` does, of finite float32 values and without sorting them.

    Percentiles are exact: the upper 16 bits of each value are counted, then the lower 16 of those that share the upper
    ones of the rank looked for.
    """
    upper, distinct = np.zeros(1 << 16, np.int64), np.zeros(_SLOTS, np.uint32)
    total, n_distinct, (low, high) = 0.0, 0, extent(array)
    for part in _parts(array):
        keys = _ordered(part)
        total += _sum(part)
        _count_upper(upper, keys)
        if n_distinct < max_distinct:
            n_distinct = _count_distinct(distinct, n_distinct, max_distinct, keys)
    mean = total / array.size
    spread, above = 0.0, 0
    for part in _parts(array):
        squares, more = _deviations(part, mean)
        spread, above = spread + squares, above + more
    p01, p99 = (_ranked(array, upper, share * array.size) for share in (0.01, 0.99))
    return {
        "min": low, "max": high, "mean": mean, "std": float(np.sqrt(spread / array.size)), "p01": p01, "p99": p99,
        "foreground_fraction": above / array.size, "n_distinct": float(n_distinct),
    }  # fmt: skip


def _ordered(values: np.ndarray) -> np.ndarray:
    """Return float32 values as uint32 of the same order, with -0 as 0, and never 0."""
    bits = (values + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _ranked(array: np.ndarray, upper: np.ndarray, rank: float) -> float:
    """Return the value of the smallest index at which at least `rank` values are not above it."""
    cumulative = np.cumsum(upper)
    top = int(np.searchsorted(cumulative, rank))
    lower = np.zeros(1 << 16, np.int64)
    for part in _parts(array):
        _count_lower(lower, _ordered(part), top)
    below = int(cumulative[top] - upper[top])
    key = np.uint32(top << 16 | int(np.searchsorted(np.cumsum(lower) + below, rank)))
    bits = key ^ np.uint32(1 << 31) if key >> 31 else ~key
    return float(np.array(bits, np.uint32).view(np.float32))


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Give all values of an array once, in any order, in contiguous pieces that stay in the processor's cache."""
    memory = Memory.of(array)
    if memory.flat.size == array.size:
        for start in range(0, array.size, PART):
            yield memory.flat[start : start + PART]
    else:
        for plane in array:
            yield Memory.of(np.ascontiguousarray(plane)[np.newaxis]).flat


@compiled
def _count(counts: Any, flat: Any) -> None:
    whole = flat.size - flat.size % COUNTERS
    for n in range(0, whole, COUNTERS):  # neighbours are often equal, and one counter would wait for itself
        counts[0, flat[n]] += 1
        counts[1, flat[n + 1]] += 1
        counts[2, flat[n + 2]] += 1
        counts[3, flat[n + 3]] += 1
    for n in range(whole, flat.size):
        counts[0, flat[n]] += 1


@compiled
def _sum(values: Any) -> Any:
    total = 0.0
    for value in values:
        total += value
    return total


@compiled
def _deviations(values: Any, mean: Any) -> Any:
    """Return the sum of squared distances from the mean, and how many values lie above it."""
    squares, above = 0.0, 0
    for value in values:
        squares += (value - mean) ** 2
        above += value > mean
    return squares, above


@compiled
def _count_upper(counts: Any, keys: Any) -> None:
    for key in keys:
        counts[key >> np.uint32(16)] += 1


@compiled
def _count_lower(counts: Any, keys: Any, top: Any) -> None:
    for key in keys:
        if key >> np.uint32(16) == top:
            counts[key & np.uint32(0xFFFF)] += 1


@compiled
def _count_distinct(table: Any, found: Any, limit: Any, keys: Any) -> Any:
    """Add keys to a hash table of open addresses, in which 0 is an empty slot; return how many there are by now."""
    last = np.uint64(table.size - 1)
    for key in keys:
        slot = (np.uint64(key) * np.uint64(2654435761) >> np.uint64(14)) & last  # Knuth's multiplicative hash
        while table[slot] != 0 and table[slot] != key:
            slot = (slot + np.uint64(1)) & last
        if table[slot] == 0:
            table[slot] = key
            found += 1
            if found >= limit:
                break
    return found


@compiled
def _enclose(counts: Any, boxes: Any, flat: Any, walk: Any, shape: Any) -> None:
    start, step_z, step_y, step_x = walk
    for z in range(shape[0]):
        for y in range(shape[1]):
            place = start + z * step_z + y * step_y
            x = 0
            while x < shape[2]:
                value = flat[place + x * step_x]
                first = x
                while x < shape[2] and flat[place + x * step_x] == value:
                    x += 1
                counts[value] += x - first
                box = boxes[value]
                box[0], box[1], box[2] = min(box[0], z), min(box[1], y), min(box[2], first)
                box[3], box[4], box[5] = max(box[3], z + 1), max(box[4], y + 1), max(box[5], x)
