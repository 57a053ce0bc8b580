"""Pieces: the objects of a batch shared out among tasks by bytes, so that one large article holds up no other."""

import heapq
import re

import pyarrow as pa

from medloom.pipelines.sources.listing import OBJECT

PIECE = pa.schema([("piece", pa.int32()), ("objects", pa.list_(pa.struct(list(OBJECT))))])
EACH_BYTES = 20_000  # what opening an object costs, as bytes of an article; of what is no article only the head is read
_ARTICLE = re.compile(r"\.n?xml$", re.IGNORECASE)


def pieces_by_bytes(objects: pa.Table, n: int) -> pa.Table:
    """Return rows of `PIECE`: `objects` (rows of `OBJECT`) in at most `n` pieces of nearly equal work.

    The largest object goes first, each to the piece that has least (longest processing time first, Graham 1969: the
    fullest piece is at most 4/3 of the best division). In a piece they stand by url.
    """
    rows = objects.to_pylist()
    order = sorted(range(len(rows)), key=lambda i: (-_work(rows[i]), rows[i]["url"]))
    filled = [(0, piece) for piece in range(min(n, len(rows)))]
    shared: list[list[int]] = [[] for _ in filled]
    for i in order:
        work, piece = heapq.heappop(filled)
        shared[piece].append(i)
        heapq.heappush(filled, (work + _work(rows[i]), piece))
    held = [{"piece": piece, "objects": [rows[i] for i in sorted(mine)]} for piece, mine in enumerate(shared)]
    return pa.Table.from_pylist(held, schema=PIECE)


def _work(row: dict[str, object]) -> int:
    return EACH_BYTES + (int(str(row["size"])) if _ARTICLE.search(str(row["url"])) else 0)
