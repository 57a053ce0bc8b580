"""Lettering: which box is which panel, by the letters read in the figure, else by the order in which we read."""

from collections.abc import Sequence

from medloom.pipelines.stages.ink import Box
from medloom.pipelines.stages.letters import Glyph

PLACE = 0.25  # of a panel's height, from its top or bottom: where its letter stands
OVERLAP = 0.15  # of the shorter side that neighbours may share and still stand one after the other
_PLACES = {  # what a caption's word says: (row, column), rising; -1 for nothing
    "upper": (0, -1), "top": (0, -1), "lower": (2, -1), "bottom": (2, -1),
    "left": (-1, 0), "right": (-1, 2), "middle": (1, 1), "center": (1, 1), "centre": (1, 1),
}  # fmt: skip


def reading_order(boxes: Sequence[Box], *, axis: int) -> list[int]:
    """Return the positions of `boxes` as they are read: rows first (`axis` 0) or columns first (1).

    They are parted into bands along `axis`, or else across it, and each band again.
    """
    return _ordered(boxes, list(range(len(boxes))), axis)


def _ordered(boxes: Sequence[Box], among: list[int], axis: int) -> list[int]:
    for first in (axis, 1 - axis) if len(among) > 1 else ():
        bands = _bands(boxes, among, first)
        if len(bands) > 1:
            return [n for band in bands for n in _ordered(boxes, band, axis)]
    return sorted(among, key=lambda n: (boxes[n][0] + boxes[n][1], boxes[n]))


def _bands(boxes: Sequence[Box], among: list[int], axis: int) -> list[list[int]]:
    """Return groups that follow one another along `axis`, each box in one."""
    bands: list[list[int]] = []
    end = 0
    for n in sorted(among, key=lambda n: (boxes[n][axis], n)):
        start, stop = boxes[n][axis], boxes[n][2 + axis]
        shortest = min([stop - start, *(boxes[m][2 + axis] - boxes[m][axis] for m in (bands[-1] if bands else ()))])
        if not bands or start >= end - OVERLAP * shortest:
            bands.append([])
        bands[-1].append(n)
        end = max(end, stop)
    return bands


def words_axis(words: Sequence[str]) -> int:
    """Return the axis along which words such as "left", "top row" part a figure; -1 when they say both or neither."""
    rows, columns = zip(*(place_of(word) for word in words), strict=True) if words else ((), ())
    by_row, by_column = any(r in (0, 2) for r in rows), any(c in (0, 2) for c in columns)
    return -1 if by_row == by_column else 0 if by_row else 1


def place_of(word: str) -> tuple[int, int]:
    """Return (row, column) that a caption's word says, -1 where it says nothing."""
    row, column = -1, -1
    for part in word.lower().replace("-", " ").split():
        r, c = _PLACES.get(part, (-1, -1))
        row, column = max(row, r), max(column, c)
    return row, column


def held(boxes: Sequence[Box], glyphs: Sequence[Glyph], size: tuple[int, int]) -> list[tuple[str, ...]]:
    """Return the letters that were read at the top or bottom of each box, for boxes of a figure of `size` (Y, X)."""
    points = [(g.letter, g.centre[0] * size[0], g.centre[1] * size[1]) for g in glyphs]
    return [tuple(name for name, y, x in points if is_placed(box, (y, x))) for box in boxes]


def is_placed(box: Box, point: tuple[float, float]) -> bool:
    """Whether `point` lies in `box` where panel letters stand: in the quarter at its top or at its bottom."""
    y, x = point
    inside = box[0] <= y < box[2] and box[1] <= x < box[3]
    return inside and min(y - box[0], box[2] - y) <= PLACE * (box[2] - box[0])


def assign(boxes: Sequence[Box], letters: Sequence[str], seen: Sequence[tuple[str, ...]]) -> tuple[list[str], float]:
    """Return the letter of each box, and how sure that is (0 to 1).

    Args:
        boxes: as many as there are letters.
        letters: as declared, in order.
        seen: the letters read in each box.
    """
    ways = []
    for axis in (0, 1):
        names = [""] * len(boxes)
        for letter, n in zip(letters, reading_order(boxes, axis=axis), strict=True):
            names[n] = letter
        ways.append(names)
    read = sum(len(s) == 1 for s in seen)
    agree = [sum(s == (name,) for s, name in zip(seen, names, strict=True)) for names in ways]
    best = 0 if agree[0] >= agree[1] else 1
    wrong = read - agree[best]
    if agree[best] >= 2 * wrong:  # one in three may be a misreading
        doubt = ways[0] != ways[1] and agree[0] == agree[1]  # only the habit of reading rows first decides
        return ways[best], (0.85 if doubt else 1.0) - 0.3 * wrong / max(1, read)
    names = [s[0] if len(s) == 1 else "" for s in seen]  # each letter is read once, so no two boxes share one
    rest = iter(letter for letter in letters if letter not in names)
    for n in reading_order(boxes, axis=0):
        names[n] = names[n] or next(rest)
    return names, 0.75 if read == len(boxes) else 0.5
