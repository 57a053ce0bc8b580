"""Lanes: which rows may share a global batch, and the endless row of draws of each lane."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medloom.model.order import Shuffled, ShuffledByShard, Turns
from medloom.schemas.errors import FormatError

BUCKETS = (None, "dimension", "shape")
EVERYTHING = "all"  # the one lane without buckets
DIMENSIONS = ("text", "2d", "3d", "mixed")  # at 2 * has a volume + has a picture
PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm"})
SMALLEST_PX, LARGEST_PX = 64, 4096  # size classes of pictures: smaller and larger ones share the outermost
_NONE = np.zeros(0, np.int64)


def lanes_of(rows: pa.Table, buckets: str | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the lanes of release rows, sorted, and which of them each row belongs to, int32.

    "dimension" parts rows by their media: "text" (none), "2d", "3d" and "mixed". "shape" parts them further: volumes
    by their shapes ("3d 32x256x256"), pictures by the power of two that their longest side does not exceed ("2d 512").
    None leaves all in one lane.

    Raises:
        FormatError: a row has not as many shapes as layouts.
    """
    if buckets is None:
        return (EVERYTHING,), np.zeros(rows.num_rows, np.int32)
    owner, layouts = flat(rows["layouts"])
    layouts = pc.fill_null(layouts, "")
    is_picture = _of_each(layouts, _is_picture).astype(bool)
    has_picture, has_volume = (_any(owner[some], rows.num_rows) for some in (is_picture, ~is_picture))
    parts = [(2 * has_volume + has_picture, list(DIMENSIONS))]
    if buckets == "shape":
        parts += _shapes(rows, owner, is_picture)
    code = np.zeros(rows.num_rows, np.int64)
    for number, words in parts:
        code = code * len(words) + number
    found, code = np.unique(code, return_inverse=True)
    places = np.unravel_index(found, [len(words) for _, words in parts])
    spelled = [[words[at] for at in place.tolist()] for place, (_, words) in zip(places, parts, strict=True)]
    names = [" ".join(word for word in name if word) for name in zip(*spelled, strict=True)]
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), np.int32)
    rank[order] = np.arange(len(names))
    return tuple(names[number] for number in order), rank[code]


def _shapes(rows: pa.Table, owner: np.ndarray, is_picture: np.ndarray) -> list[tuple[np.ndarray, list[str]]]:
    """Return codes of rows and the words they stand for: the size class of pictures, the shapes of volumes."""
    shape_owner, shapes = flat(rows["shapes"])
    shapes = pc.fill_null(shapes, "")
    if not np.array_equal(owner, shape_owner):
        raise FormatError("the release's rows have not as many shapes as layouts; make a new release")
    largest = np.zeros(rows.num_rows, np.int64)
    np.maximum.at(largest, owner[is_picture], _of_each(shapes, _size_class)[is_picture])
    sides, pixels = np.unique(largest, return_inverse=True)
    ends = np.cumsum(np.bincount(owner[~is_picture], minlength=rows.num_rows))
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    volumes = pa.ListArray.from_arrays(offsets, shapes.filter(pa.array(~is_picture)))
    joined = pc.dictionary_encode(pc.binary_join(volumes, "+"))
    return [
        (pixels, [str(side) if side else "" for side in sides.tolist()]),
        (np.asarray(joined.indices), joined.dictionary.to_pylist()),
    ]


def _is_picture(layout: str) -> bool:
    return layout.rsplit(".", 1)[-1].lower() in PICTURES


def _size_class(shape: str) -> int:
    """Return the power of two that the longest side of a "(Y)x(X)x(C)" picture does not exceed; 0 of "", not known."""
    sides = [int(side) for side in shape.split("x")[:2] if side.isdigit()]
    longest = min(max(sides, default=0), LARGEST_PX)
    return max(SMALLEST_PX, 1 << (longest - 1).bit_length()) if longest else 0


def flat(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Return of a list column the row that each value stands in, int64, and the values one after another."""
    lists = column.combine_chunks()
    return np.asarray(pc.list_parent_indices(lists)).astype(np.int64), pc.list_flatten(lists)


def _of_each(values: pa.Array, function: Callable[[str], Any]) -> np.ndarray:
    """Return function(value) of each value as int64; it is called once for every distinct one."""
    coded = pc.dictionary_encode(values)
    known = np.array([function(value) for value in coded.dictionary.to_pylist()], np.int64)
    return known[np.asarray(coded.indices)]


def _any(rows: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(rows, minlength=count) > 0


@dataclass(frozen=True, eq=False)
class Queue:
    """The rows of one source in one lane, drawn epoch after epoch.

    Attributes:
        rows: of the release.
        epochs: the order of their draws.
        drawn: draws that earlier segments of the run have had.
        left: those among them that were never given (int64, ascending): they come first.
    """

    rows: np.ndarray
    epochs: Shuffled | ShuffledByShard
    drawn: int = 0
    left: np.ndarray = field(default_factory=lambda: _NONE)

    def ordinals(self, draws: np.ndarray) -> np.ndarray:
        """Return the numbers that draws of this segment have among all draws of the queue, int64."""
        found = draws + (self.drawn - len(self.left))
        early = draws < len(self.left)
        found[early] = self.left[draws[early]]
        return found

    def rows_at(self, draws: np.ndarray) -> np.ndarray:
        """Return the row of the release that each draw of this segment takes, int64."""
        return self.rows[self.epochs.members(self.ordinals(draws))].astype(np.int64)

    def state(self, drawn: int, not_given: np.ndarray = _NONE) -> list[Any]:
        """Return [drawn, left] for a following segment, after `drawn` draws of this one of which some were not given.

        Args:
            not_given: draws below `drawn` that were not given, ascending.
        """
        missing = np.concatenate([not_given, np.arange(drawn, max(drawn, len(self.left)))])
        had = self.drawn + max(0, drawn - len(self.left))
        return [had, sorted(int(ordinal) for ordinal in self.ordinals(missing))]


@dataclass(frozen=True, eq=False)
class Lane:
    """One lane: its sources take turns by their shares, and each goes through its own epochs.

    Attributes:
        name: of the lane.
        queues: by name of the source; EVERYTHING for all sources of a run without a mix.
        turns: over the queues.
    """

    name: str
    queues: Mapping[str, Queue]
    turns: Turns

    @property
    def size(self) -> int:
        """Rows of all sources."""
        return sum(len(queue.rows) for queue in self.queues.values())

    @cached_property
    def draws_per_epoch(self) -> int:
        """The fewest draws in which each source has as many as it has rows."""
        sizes = [len(queue.rows) for queue in self.queues.values()]
        return max(self.turns.first_after(k, size) for k, size in enumerate(sizes))

    def rows_at(self, start: int, count: int) -> np.ndarray:
        """Return the rows that draws start … start+count-1 of the lane take, int64."""
        who, before = self.turns.deal(start, count)
        rows = np.zeros(count, np.int64)
        for k, queue in enumerate(self.queues.values()):
            mine = np.flatnonzero(who == k)
            if len(mine):
                rows[mine] = queue.rows_at(before[mine])
        return rows

    def state(self, drawn: int, *, not_given: np.ndarray = _NONE) -> dict[str, list[Any]]:
        """Return the state of each source after `drawn` draws of the lane, of which `not_given` (ascending) were not
        given.
        """
        start = int(not_given[0]) if len(not_given) else drawn
        who, before = self.turns.deal(start, drawn - start)
        missing = not_given - start
        return {
            name: queue.state(self.turns.before(k, drawn), before[missing[who[missing] == k]])
            for k, (name, queue) in enumerate(self.queues.items())
        }


def shares_of(sizes: Mapping[str, Mapping[str, int]], mix: Mapping[str, int]) -> dict[str, dict[str, Fraction]]:
    """Return by lane and source how often it is drawn, from how many rows it has there and the weights of the mix.

    A source spreads its weight over its rows, whatever lanes they are in, so that its rows come equally often. Without
    a mix every row weighs the same.
    """
    totals: dict[str, int] = {}
    for sources in sizes.values():
        for source, size in sources.items():
            totals[source] = totals.get(source, 0) + size
    return {
        lane: {s: Fraction(mix[s] * n, totals[s]) if mix else Fraction(n) for s, n in sources.items()}
        for lane, sources in sizes.items()
    }
