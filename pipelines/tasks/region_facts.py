"""Facts by which one class of a scan stands out among a few: measured, and with a margin that no rounding can take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from medloom.pipelines.tasks.region_words import (
    Grid,
    box_mm,
    length_words,
    relations,
    spoken,
    the,
    three_digits,
    touches_edge,
    volume_words,
)
from medloom.pipelines.tasks.rows import chosen, shuffled
from medloom.schemas.medium import Region

Kind = Literal["largest", "smallest", "threshold", "furthest", "relation"]

RATIO = 1.25  # of two volumes, from which one is called larger
MARGIN_MM = 5.0  # by which one must reach further than another, and never less than a voxel
OTHERS = 2  # how many others it stands out among
_ENDS = (  # place in (x0, y0, z0, x1, y1, z1) LPS mm, its sign, and the words
    (0, -1, "to the patient's right"), (3, 1, "to the patient's left"), (1, -1, "forward"), (4, 1, "backward"),
    (2, -1, "down"), (5, 1, "up"),
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """What is true of one class and of none of the others.

    Attributes:
        kind: of fact.
        region: of which it is true.
        others: of which it is not, in the order in which they are named.
        asked: the fact as a question goes on after "Which of … ": "has the largest volume".
        because: the numbers, as an answer goes on after the name: "it measures 1,520 mL, the others …".
    """

    kind: Kind
    region: Region
    others: tuple[Region, ...]
    asked: str
    because: str


def whole(regions: Sequence[Region], grid: Grid) -> list[Region]:
    """Return the classes that end inside of the scan, so that their volumes and ends are those of the structure."""
    return [r for r in regions if not touches_edge(r.box, grid)]


def facts_about(region: Region, others: Sequence[Region], grid: Grid, *, seed: str) -> list[Fact]:
    """Return at most one fact of each kind by which `region` stands out among `OTHERS` of the others.

    Args:
        region, others: classes that end inside of the scan.
        seed: decides which of the others are named, and which direction, threshold or neighbour is asked for.
    """
    order = {spoken(r.label): r for r in others if r is not region}
    mixed = [order[name] for name in shuffled(list(order), seed=seed)]
    made = [_of_volume("largest", region, mixed), _of_volume("smallest", region, mixed), _threshold(region, mixed)]
    made += [_furthest(region, mixed, grid, seed), _relation(region, mixed, grid, seed)]
    return [fact for fact in made if fact is not None]


def is_larger(region: Region, other: Region) -> bool:
    """Whether a class is larger than another beyond doubt."""
    return region.volume_ml >= RATIO * other.volume_ml


def _among(others: Sequence[Region], beaten: Callable[[Region], bool]) -> tuple[Region, ...]:
    """Return the first `OTHERS` of which the fact is not true, () when there are fewer."""
    found = [other for other in others if beaten(other)][:OTHERS]
    return tuple(found) if len(found) == OTHERS else ()


def _of_volume(kind: Literal["largest", "smallest"], region: Region, mixed: Sequence[Region]) -> Fact | None:
    is_most = kind == "largest"
    others = _among(mixed, lambda o: is_larger(region, o) if is_most else is_larger(o, region))
    return Fact(kind, region, others, f"has the {kind} volume", _volumes(region, others)) if others else None


def _threshold(region: Region, mixed: Sequence[Region]) -> Fact | None:
    others = _among(mixed, lambda o: region.volume_ml >= RATIO**2 * o.volume_ml)
    if not others:
        return None
    limit = (region.volume_ml * max(o.volume_ml for o in others)) ** 0.5  # at least RATIO away from both
    return Fact("threshold", region, others, f"has a volume above {volume_words(limit)}", _volumes(region, others))


def _volumes(region: Region, others: Sequence[Region]) -> str:
    rest = " and ".join(f"{the(o.label)} {volume_words(o.volume_ml)}" for o in others)
    return f"its volume is {volume_words(region.volume_ml)}, that of {rest}"


def _furthest(region: Region, mixed: Sequence[Region], grid: Grid, seed: str) -> Fact | None:
    margin = max(MARGIN_MM, *grid.spacing_mm)
    mine = box_mm(region.box, grid)
    found = []
    for at, sign, words in _ENDS:
        others = _among(mixed, lambda o, at=at, sign=sign: sign * (mine[at] - box_mm(o.box, grid)[at]) >= margin)  # type: ignore[misc]
        if others:
            ahead = min(sign * (mine[at] - box_mm(o.box, grid)[at]) for o in others)
            because = f"it ends {length_words(ahead)} beyond the next of them"
            found.append(Fact("furthest", region, others, f"reaches furthest {words}", because))
    return _one(found, seed)


def _relation(region: Region, mixed: Sequence[Region], grid: Grid, seed: str) -> Fact | None:
    found = []
    for base in mixed:
        for words in relations(region.box, base.box, grid):
            others = _among(
                [o for o in mixed if o is not base],
                lambda o, base=base, words=words: words not in relations(o.box, base.box, grid),  # type: ignore[misc]
            )
            if others:
                because = f"all of it lies {words} {the(base.label)}, which is not so of the others"
                found.append(Fact("relation", region, others, f"lies wholly {words} {the(base.label)}", because))
    return _one(found, seed)


def _one(facts: Sequence[Fact], seed: str) -> Fact | None:
    return chosen(facts, seed=f"fact|{seed}") if facts else None


def nearby_numbers(value: float, *, seed: str, n: int = 4, ratio: float = 1.6) -> list[str]:
    """Return `value` and n - 1 others, ascending, to three digits; its rank among them is as often any."""
    rank = chosen(range(n), seed=f"rank|{seed}")
    return [three_digits(value * ratio ** (i - rank)) for i in range(n)]
