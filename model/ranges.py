"""From pieces of files that are wanted to the ranges that are asked for: neighbours together, nothing twice."""

from collections.abc import Sequence
from dataclasses import dataclass

Piece = tuple[str, int, int]  # path, start, end: the bytes [start, end) of a file


@dataclass(frozen=True)
class Ranges:
    """What to ask for, and where each piece is in the answers.

    Attributes:
        requests: ranges of files, by path and start; no two of a file overlap.
        places: of each piece, in the order given: the number of its request, and where in that it starts.
    """

    requests: tuple[Piece, ...]
    places: tuple[tuple[int, int], ...]

    @property
    def size_bytes(self) -> int:
        """Bytes that the requests bring."""
        return sum(end - start for _, start, end in self.requests)


def plan_ranges(pieces: Sequence[Piece], *, gap: int = 0, largest: int = 64 << 20) -> Ranges:
    """Return the requests that bring `pieces`.

    Args:
        pieces: may repeat and overlap; what is wanted twice is asked for once.
        gap: bytes between two pieces that are rather read than asked around.
        largest: a request stops growing beyond this size, in bytes; a piece is never cut.
    """
    requests: list[Piece] = []
    places: list[tuple[int, int]] = [(0, 0)] * len(pieces)
    for number in sorted(range(len(pieces)), key=pieces.__getitem__):
        path, start, end = pieces[number]
        if requests:
            last_path, first, last = requests[-1]
            joined = max(last, end)
            fits = joined - first <= largest or start < last
            if path == last_path and start <= last + gap and fits:
                requests[-1] = (path, first, joined)
                places[number] = (len(requests) - 1, start - first)
                continue
        requests.append((path, start, end))
        places[number] = (len(requests) - 1, 0)
    return Ranges(tuple(requests), tuple(places))
