"""Pieces: every object in one of them, and none of them much fuller than the others."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from medloom.pipelines.sources.listing import OBJECT
from medloom.pipelines.tables.pieces import EACH_BYTES, pieces_by_bytes


def objects(sizes: list[int], ending: str = "xml") -> pa.Table:
    urls = [f"{i:05d}.{ending}" for i in range(len(sizes))]
    marks = {"url": urls, "size": sizes, "mtime_ns": [0] * len(sizes), "etag": [""] * len(sizes)}
    return pa.table(marks, schema=OBJECT)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50_000_000), max_size=80), st.integers(1, 12))
def test_every_object_is_in_one_piece_and_the_fullest_is_near_the_best(sizes: list[int], n: int):
    listed = objects(sizes)
    rows = pieces_by_bytes(listed, n).to_pylist()
    assert sorted((o["url"], o["size"]) for row in rows for o in row["objects"]) == list(
        zip(listed["url"].to_pylist(), sizes, strict=True)
    )
    assert len(rows) == min(n, len(sizes))
    if rows:
        work = [sum(EACH_BYTES + o["size"] for o in row["objects"]) for row in rows]
        assert max(work) <= sum(work) / len(work) + max(EACH_BYTES + size for size in sizes)


def test_one_large_article_has_a_piece_of_its_own():
    rows = pieces_by_bytes(objects([100_000] * 50 + [40_000_000]), 4).to_pylist()
    assert sorted(len(row["objects"]) for row in rows) == [1, 16, 17, 17]


def test_a_large_picture_weighs_no_more_than_its_opening():
    rows = pieces_by_bytes(objects([40_000_000, 10, 10, 10], ending="png"), 2).to_pylist()
    assert [len(row["objects"]) for row in rows] == [2, 2]
