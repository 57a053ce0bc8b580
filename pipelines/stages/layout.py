"""Layout: a figure cut along its gutters into panels, as many as are asked for or as many as nobody could doubt.

Recursive cuts along rows and columns that are blank (the XY-cut of Nagy and Seth, 1984), chosen together: of all ways
to cut a figure into n pieces, the cheapest, where a narrow gutter, a gutter left uncut inside a piece, a sliver, and a
piece with no letter or two of them cost. Panels that touch are cut along straight edges, which count for less.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from medloom.pipelines.stages.ink import Box, Ink, Steps
from medloom.pipelines.stages.lettering import PLACE

THIN = 0.05  # of the figure's size: a narrower piece is a letter, an axis title or a scale bar of its neighbour
FULL = 0.6  # share of ink from which a line is the side of a photograph or the frame of a chart
SOLID = 0.85  # share of ink that a photograph's lines have
STRAY = 0.06  # share of ink that a gutter between two such lines may hold: a letter, what JPEG leaves
WIDE = 0.045  # of the figure's size: a blank band of this width is certainly a gutter
SURE = 0.8  # strength from which a gutter parts two photographs or frames
MAX_GAPS, MAX_EDGES, MAX_NODES, MAX_DEPTH = 30, 6, 160, 7
SLIVER = 0.35  # of the side of a square panel: narrower is hardly a panel
SMALLEST = 0.6  # of a panel's mean area: a smaller region is not cut
EDGE_WEIGHT = 0.6  # of an edge, against a gutter
Point = tuple[float, float]


@dataclass(frozen=True)
class Gap:
    """A gutter between two pieces: its first line, the line after its last, how surely it is one (0 to 1)."""

    start: int
    end: int
    strength: float
    edge: bool = False

    @property
    def middle(self) -> int:
        """Where it is cut."""
        return (self.start + self.end) // 2


@dataclass(frozen=True)
class Pieces:
    """A way to cut a region.

    Attributes:
        cost: lower is likelier.
        boxes: of the pieces, in the order of the cuts.
        weakest: strength of the weakest gutter that was cut, 1 without a cut.
        left: strength of the strongest gutter that was not.
        edges: whether an edge had to stand for a gutter.
    """

    cost: float
    boxes: tuple[Box, ...]
    weakest: float = 1.0
    left: float = 0.0
    edges: bool = False


@dataclass
class Cutter:
    """Cuts one figure; keeps what it found of each region.

    Attributes:
        ink: what stands on the sheet.
        steps: where luminance changes; None leaves panels that touch uncut.
        most: pieces to cut into at most.
        letters: (y, x) of the panel letters that were read, in cells.
        axis: 0 or 1 when the first cut must part rows or columns, as a caption's "top" or "left" says; -1 for either.
    """

    ink: Ink
    steps: Steps | None
    most: int
    letters: tuple[Point, ...] = ()
    axis: int = -1
    rivals: dict[int, list[Pieces]] = field(default_factory=dict)
    _known: dict[Box, dict[int, Pieces]] = field(default_factory=dict)
    _cores: dict[Box, Box] = field(default_factory=dict)
    _gutters: dict[tuple[Box, int, int], list[Gap]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _, _, height, width = self.ink.box
        self.size = float(np.sqrt(height * width))
        self.thin = max(4, min(self.size * THIN, 0.5 * min(height, width)))
        self.area = 1
        self.end = 0

    def cut(self) -> dict[int, Pieces]:
        """Return the cheapest way for every number of pieces that can be had; {} for a blank figure."""
        whole = self.ink.trimmed(self.ink.box)
        if whole is None:
            return {}
        self.area = _area(whole)
        found = self._cut_with(whole, 0)
        if self.letters and self._misses(found):
            other = self._cut_with(whole, 1)
            if self.most in other and (self.most not in found or other[self.most].cost < found[self.most].cost):
                found = other
            else:
                self.end = 0
        for axis in (0, 1):  # by either first cut: two that cost the same say that nobody can know
            for count, pieces in self._cut_along(whole, axis, 0).items() if self.axis in (-1, axis) else ():
                self.rivals.setdefault(count, []).append(pieces)
        return found

    def _cut_with(self, whole: Box, end: int) -> dict[int, Pieces]:
        """Return the cheapest ways when letters stand at the top (`end` 0) or at the bottom (1) of their panels."""
        self.end = end
        self._known.clear()
        return self._best(whole, 0)

    def _misses(self, found: dict[int, Pieces]) -> bool:
        """Whether a letter stands elsewhere than at the top of its piece."""
        boxes = found[self.most].boxes if self.most in found else ()
        return any(not any(_placed(box, letter, 0) for box in boxes) for letter in self.letters)

    def _best(self, box: Box, depth: int) -> dict[int, Pieces]:
        if box in self._known:
            return self._known[box]
        self._known[box] = {1: self._leaf(box)}  # also what a region is when the budget ends
        small = _area(box) * self.most < SMALLEST * self.area
        if depth < MAX_DEPTH and len(self._known) < MAX_NODES and self.most > 1 and not small:
            found = dict(self._known[box])
            for axis in (0, 1) if depth or self.axis < 0 else (self.axis,):
                for count, pieces in self._cut_along(box, axis, depth).items():
                    if count not in found or pieces.cost < found[count].cost:
                        found[count] = pieces
            self._known[box] = found
        return self._known[box]

    def _cut_along(self, box: Box, axis: int, depth: int) -> dict[int, Pieces]:
        """Return the cheapest ways to cut `box` first along `axis`, by number of pieces from 2."""
        found: dict[int, Pieces] = {}
        for gaps in self._choices(box, axis):
            children = list(self._children(box, axis, gaps))
            if not 2 <= len(children) <= self.most or (found and len(self._known) >= MAX_NODES):
                continue
            ways = {
                0: Pieces(1.3 * sum(1 - g.strength for g in gaps), (), min(g.strength for g in gaps), 0.0, gaps[0].edge)
            }
            for number, child in enumerate(children):
                best, room = self._best(child, depth + 1), self.most - (len(children) - number - 1)
                ways = _joined(ways, best, room)
            for count, pieces in ways.items():
                if count not in found or pieces.cost < found[count].cost:
                    found[count] = pieces
        return found

    def _leaf(self, box: Box) -> Pieces:
        left = max((g.strength for axis in (0, 1) for g in self._gaps(box, axis) if not g.edge), default=0.0)
        height, width = box[2] - box[0], box[3] - box[1]
        share = _area(box) * self.most / self.area
        cost = 0.7 * left + (1.5 if share < 0.04 else 0.5 if share < 0.15 else 0.0)
        cost += 0.3 * (max(height, width) > 6 * min(height, width))
        cost += 0.6 * (min(height, width) < SLIVER * self.size / self.most**0.5)
        inside = [(y, x) for y, x in self.letters if box[0] <= y < box[2] and box[1] <= x < box[3]]
        cost += -_placed(box, inside[0], self.end) if len(inside) == 1 else 0.8 * max(0, len(inside) - 1)
        return Pieces(cost, (box,), 1.0, left)

    def _choices(self, box: Box, axis: int) -> list[tuple[Gap, ...]]:
        """Return sets of gutters along which `box` may be cut at once."""
        found = self._sets(box, axis, self._gaps(box, axis))
        if self.letters:
            found |= self._sets(box, axis, self._beside_letters(box) if axis == 0 else self._gaps(box, axis, 1))
        return [gaps for gaps in sorted(found, key=lambda s: [g.start for g in s]) if gaps]

    def _beside_letters(self, box: Box) -> list[Gap]:
        """Return the gutters between rows next to letters: above those at the top, below those at the bottom."""
        core = self._core(box)
        gaps = _gaps(self.ink, core, 0, self.size)
        chosen: set[Gap] = set()
        for y, x in self.letters:
            beside = [g for g in gaps if (g.end <= y if self.end == 0 else g.start >= y)]
            if beside and core[0] <= y < core[2] and box[1] <= x < box[3]:
                chosen.add(beside[-1] if self.end == 0 else beside[0])
        return _apart(sorted(chosen, key=lambda g: g.start), 0, core, self.thin)

    def _sets(self, box: Box, axis: int, gaps: list[Gap]) -> set[tuple[Gap, ...]]:
        """Return the sets of `gaps` that are worth a try: all, the widest, those of groups, those before letters."""
        if not gaps:
            return set()
        found = {tuple(gaps)}
        ranked = sorted(gaps, key=lambda g: (-g.strength, g.start - g.end, g.start))
        for number in range(1, len(ranked)):  # those that stand out from the rest
            if number == 1 or ranked[number].strength < 0.85 * ranked[number - 1].strength:
                found.add(tuple(sorted(ranked[:number], key=lambda g: g.start)))
        for size in range(2, (len(gaps) + 1) // 2 + 1):  # equal groups of neighbours: 3 × 2 pictures for A to C
            if (len(gaps) + 1) % size == 0:
                found.add(tuple(gaps[size - 1 :: size]))
        if self.letters:
            found.add(self._before_letters(box, axis, gaps))
        return found

    def _before_letters(self, box: Box, axis: int, gaps: list[Gap]) -> tuple[Gap, ...]:
        """Return the gutters behind which a piece with a letter begins; what has none belongs to the piece before."""
        places = [p[axis] for p in self.letters if all(box[a] <= p[a] < box[2 + a] for a in (0, 1))]
        ends = [*(g.middle for g in gaps[1:]), box[2 + axis]]
        chosen = [g for g, end in zip(gaps, ends, strict=True) if any(g.middle <= place < end for place in places)]
        lettered_first = any(place < gaps[0].middle for place in places)
        return tuple(chosen if lettered_first else chosen[1:])

    def _children(self, box: Box, axis: int, gaps: tuple[Gap, ...]) -> Iterator[Box]:
        """Give the regions between gutters, without blank margins; what crosses a gutter goes to none of them."""
        core = self._core(box)
        across = 1 - axis
        low, high = core[across], core[2 + across]
        if self._blank_at(box, axis, gaps, box[across], core[across]):
            low = box[across]
        if self._blank_at(box, axis, gaps, core[2 + across], box[2 + across]):
            high = box[2 + across]
        cuts = [box[axis], *(gap.middle for gap in gaps), box[2 + axis]]
        for first, last in pairwise(cuts):
            child = self.ink.trimmed(_box(axis, first, last, low, high))
            if child is not None:
                yield child

    def _blank_at(self, box: Box, axis: int, gaps: tuple[Gap, ...], low: int, high: int) -> bool:
        """Whether a margin strip of `box` is blank where it is cut: else it belongs to several pieces, or to none."""
        if low >= high:
            return True
        strip = self.ink.profile(_box(axis, box[axis], box[2 + axis], low, high), axis)
        return all(strip[gap.middle - box[axis]] == 0 for gap in gaps)

    def _parted(self, core: Box, axis: int) -> bool:
        """Whether gutters part `core` along `axis`."""
        gaps = _gaps(self.ink, core, axis, self.size)
        return bool(_apart(gaps, axis, core, self.thin))

    def _core(self, box: Box) -> Box:
        """Return `box` without the thin strips at its sides: titles, axis labels, letters."""
        if box in self._cores:
            return self._cores[box]
        core = list(box)
        for _ in range(3):
            before = tuple(core)
            for axis in (0, 1):
                gaps = _gaps(self.ink, _as_box(core), axis, self.size)
                if not gaps:
                    continue
                share, start = self.ink.profile(_as_box(core), axis), core[axis]
                first, last = share[: gaps[0].start - start], share[gaps[-1].end - start :]
                if len(first) < self.thin and first.max() < FULL:  # a line of ink is a frame's side, no strip of text
                    core[axis] = gaps[0].end
                if len(last) < self.thin and last.max() < FULL and gaps[-1].start > core[axis]:
                    core[2 + axis] = gaps[-1].start
                core = list(self.ink.trimmed(_as_box(core)) or core)
            if before == tuple(core):
                break
        self._cores[box] = _as_box(core)
        return self._cores[box]

    def _gaps(self, box: Box, axis: int, lean: int = 0) -> list[Gap]:
        """Return the gutters of `box` that part pieces which are not thin; edges where it has no gutter at all.

        A thin piece goes to its nearer neighbour, or to the one after it (`lean` 1).
        """
        if (box, axis, lean) in self._gutters:
            return self._gutters[box, axis, lean]
        core = self._core(box)
        gaps = _gaps(self.ink, core, axis, self.size)
        if len(gaps) > MAX_GAPS:
            gaps = sorted(sorted(gaps, key=lambda g: (-g.strength, g.start))[:MAX_GAPS], key=lambda g: g.start)
        gaps = _apart(gaps, axis, core, self.thin, lean)
        large = _area(core) * self.most > self.area
        if not gaps and self.steps is not None and large and not self._parted(core, 1 - axis):
            gaps = _edges(self.steps, core, axis, self.thin)
        self._gutters[box, axis, lean] = gaps
        return gaps


def _placed(box: Box, letter: Point, end: int) -> float:
    """Return what a letter is worth for `box`: most in a corner of its top (`end` 0) or its bottom (1)."""
    if not all(box[a] <= letter[a] < box[2 + a] for a in (0, 1)):
        return 0.0
    height, width = box[2] - box[0], box[3] - box[1]
    down = (letter[0] - box[0], box[2] - letter[0])[end] / height
    aside = min(letter[1] - box[1], box[3] - letter[1]) / width
    return 0.0 if down > PLACE else (0.9 if aside < 0.25 else 0.5) * (1 - down)


def _joined(ways: dict[int, Pieces], more: dict[int, Pieces], room: int) -> dict[int, Pieces]:
    """Return the cheapest ways to have the pieces of both, up to `room`, by number of pieces."""
    found: dict[int, Pieces] = {}
    for count, a in ways.items():
        for extra, b in more.items():
            total = count + extra
            if total <= room and (total not in found or a.cost + b.cost < found[total].cost):
                found[total] = Pieces(
                    a.cost + b.cost,
                    a.boxes + b.boxes,
                    min(a.weakest, b.weakest),
                    max(a.left, b.left),
                    a.edges or b.edges,
                )
    return found


def _gaps(ink: Ink, box: Box, axis: int, size: float) -> list[Gap]:
    """Return the blank bands across `box`, in order; a thin line all along the middle of one is a part of it."""
    share = ink.profile(box, axis)
    blank = share == 0
    for start, end in _runs(share > 0.97) if blank.any() else ():
        if end - start <= max(3, 0.005 * size) and start > 0 and end < len(share) and blank[start - 1] and blank[end]:
            blank[start:end] = True
    inner = [(a, b) for a, b in _runs(blank) if a > 0 and b < len(share)]
    found = [Gap(box[axis] + a, box[axis] + b, _strength(share, a, b, size)) for a, b in inner]
    photographs = int(np.count_nonzero(share >= SOLID)) >= 16
    for start, end in (
        _runs((share <= STRAY) | blank) if photographs else ()
    ):  # photographs with a letter, or noise, in the gutter
        sides = share[max(0, start - 8) : start], share[end : end + 8]
        if start and 2 <= end - start <= 0.08 * size and all(len(side) == 8 and side.min() >= SOLID for side in sides):
            first, last = box[axis] + start, box[axis] + end
            found = [g for g in found if g.end <= first or g.start >= last]
            found.append(Gap(first, last, _strength(share, start, end, size)))
    return sorted((g for g in found if g.strength > 0), key=lambda g: g.start)


def _strength(share: np.ndarray, start: int, end: int, size: float) -> float:
    """Return how surely the blank lines from `start` to `end` are a gutter: by their width and what stands beside."""
    sides = share[max(0, start - 3) : start].max() >= FULL, share[end : end + 3].max() >= FULL
    width = min(1.0, (end - start) / (WIDE * size))
    if all(sides):
        return SURE + (1 - SURE) * width if end - start >= 2 else 0.6
    return (SURE - 0.1) * width + 0.08 * any(sides) if end - start >= 3 else 0.0


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return the half-open spans in which `mask` holds."""
    changes = (np.flatnonzero(mask[1:] != mask[:-1]) + 1).tolist()
    ends = [*([0] if mask[0] else []), *changes, *([len(mask)] if mask[-1] else [])]
    return list(zip(ends[::2], ends[1::2], strict=True))


def _apart(gaps: list[Gap], axis: int, core: Box, thin: float, lean: int = 0) -> list[Gap]:
    """Return `gaps` without those that part a thin piece from the neighbour it belongs to."""
    gaps = list(gaps)
    while gaps:
        ends = [core[axis], *(g.end for g in gaps)]
        starts = [*(g.start for g in gaps), core[2 + axis]]
        lengths = [b - a for a, b in zip(ends, starts, strict=True)]
        shortest = int(np.argmin(lengths))
        if lengths[shortest] >= thin:
            break
        beside = [n for n in (shortest - 1, shortest) if 0 <= n < len(gaps)]
        # Text beside a chart belongs to the chart on its right, and below the one above, where both are about as near.
        habit = {beside[0]: (0.8, 1.25)[axis], beside[-1]: (1.25, 0.8)[axis]} if len(beside) > 1 else {}
        gaps.pop(min(beside, key=lambda n: (n * -lean, (gaps[n].end - gaps[n].start) * habit.get(n, 1.0), -n)))
    return gaps


def _edges(steps: Steps, box: Box, axis: int, thin: float) -> list[Gap]:
    """Return the straight edges across most of `box`, as gutters without width."""
    share = steps.profile(box, axis)
    if len(share) < 4 * thin:
        return []
    around = np.convolve(np.pad(share, 6, mode="edge"), np.ones(13) / 13, mode="valid")
    stands_out = (share >= 0.3) & (share >= 1.8 * around) & (share >= around + 0.2)
    found: list[Gap] = []
    for place in np.flatnonzero(stands_out).tolist():
        strength = EDGE_WEIGHT * float(share[place])
        if not thin <= place <= len(share) - thin:
            continue
        at = box[axis] + place
        if found and at - found[-1].start < thin:
            if strength > found[-1].strength:
                found[-1] = Gap(at, at, strength, edge=True)
            continue
        found.append(Gap(at, at, strength, edge=True))
    return sorted(sorted(found, key=lambda g: -g.strength)[:MAX_EDGES], key=lambda g: g.start)


def grown(boxes: Sequence[Box], bounds: Box) -> list[Box]:
    """Return `boxes` grown half-way to their neighbours and up to `bounds`, so that none is cut off its dark margin."""
    for axis in (1, 0):
        out = []
        for box in boxes:
            beside = [b for b in boxes if b[1 - axis] < box[3 - axis] and box[1 - axis] < b[3 - axis]]
            before = max(
                (b[2 + axis] for b in beside if b[2 + axis] <= box[axis]), default=2 * bounds[axis] - box[axis]
            )
            after = min(
                (b[axis] for b in beside if b[axis] >= box[2 + axis]), default=2 * bounds[2 + axis] - box[2 + axis]
            )
            first, last = (before + box[axis]) // 2, (after + box[2 + axis]) // 2
            out.append(_box(axis, first, last, box[1 - axis], box[3 - axis]))
        boxes = out
    return list(boxes)


def _box(axis: int, first: int, last: int, low: int, high: int) -> Box:
    return (first, low, last, high) if axis == 0 else (low, first, high, last)


def _as_box(values: list[int]) -> Box:
    y0, x0, y1, x1 = values
    return y0, x0, y1, x1


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
