"""Batches: pieces of bounded size find what one piece finds, and a run that was killed goes on with the same pieces."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import sources
from tests.pipelines.conftest import Built

from medloom.pipelines import steps
from medloom.pipelines.sources.listing import OBJECT
from medloom.pipelines.tables import batches, job
from medloom.pipelines.tables.known import read_links
from medloom.schemas.store import Store

TABLES = ("article", "section", "paragraph", "figure", "mention", "group", "quarantine", "series")
SMALL = 7


def papers(tmp_path: Path) -> Built:
    """Twelve articles, some figures without a file, and files that are nobody's: text, a picture, a copy."""
    folder = tmp_path / "source" / "papers"
    sources.write_papers(folder, 12)
    (folder / "loose.png").write_bytes(sources.picture_bytes(7, "png"))
    (folder / "broken.xml").write_text("<article>")
    (folder / "notes.txt").write_text("nothing")
    shutil.copy(folder / "a002.xml", folder / "copy-of-a002.xml")
    recipe = sources.write_recipe(tmp_path / "papers.py", sources='(Papers("papers", source + "/papers"),)')
    return Built(tmp_path / "source", recipe, tmp_path / "out", {})


def made(papers: Built, out: Path) -> Built:
    return Built(papers.source, papers.recipe, out, steps.tables(sources.step(out, papers.source), papers.recipe))


def rows(built: Built) -> dict[str, list[str]]:
    tables = {name: sorted(map(repr, built.build.table(name).to_pylist())) for name in TABLES}
    return tables | {"links": sorted(map(repr, read_links(Store(str(built.out))).to_pylist()))}


@pytest.mark.slow
def test_small_batches_find_what_one_batch_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = papers(tmp_path)
    whole = made(source, tmp_path / "whole")
    monkeypatch.setattr(batches, "BATCH_OBJECTS", SMALL)
    cut = made(source, tmp_path / "cut")
    assert rows(cut) == rows(whole)
    assert len(list((cut.out / "private" / "links").iterdir())) == 3  # or it was one batch
    units = {unit["unit"] for planned in whole.build.shards.values() for unit in planned}
    assert {unit["unit"] for planned in cut.build.shards.values() for unit in planned} == units


@pytest.mark.slow
def test_a_run_that_was_killed_between_batches_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batches, "BATCH_OBJECTS", SMALL)
    source = papers(tmp_path)
    unbroken = made(source, tmp_path / "unbroken")
    appended, calls = job.append, []

    def append(*args: Any, **options: Any) -> Any:
        done = appended(*args, **options)
        calls.append(done)
        if len(calls) == 2:
            raise KeyboardInterrupt  # links are written, the plan is not
        return done

    with monkeypatch.context() as patched:
        patched.setattr(job, "append", append)
        with pytest.raises(KeyboardInterrupt):
            made(source, tmp_path / "broken")
    broken = made(source, tmp_path / "broken")
    assert sources.state_of(broken.manifest) == sources.state_of(unbroken.manifest)
    assert rows(broken) == rows(unbroken)


@pytest.mark.slow
def test_what_comes_later_leaves_every_part_and_place_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batches, "BATCH_OBJECTS", SMALL)
    source = papers(tmp_path)
    built = made(source, tmp_path / "out")
    before = sources.facts_of(built.out)
    sources.write_papers(source.source / "papers", 3, first=50)
    made(source, tmp_path / "out")
    after = sources.facts_of(built.out)
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed <= {"manifest.json"}
    assert built.build.table("article").num_rows == 15


@settings(deadline=None)
@given(st.lists(st.integers(0, 1 << 32), max_size=60))
def test_pieces_hold_every_object_once_in_order_and_stay_below_the_limits(sizes: list[int]):
    columns = {
        "url": [f"{i:03d}" for i in range(len(sizes))],
        "size": sizes,
        "mtime_ns": sizes,
        "etag": [""] * len(sizes),
    }
    objects = pa.table(columns, schema=OBJECT)
    pieces = list(batches._pieces(objects))
    assert [url for piece in pieces for url in piece["url"].to_pylist()] == columns["url"]
    for piece in pieces:
        assert 1 <= piece.num_rows <= batches.BATCH_OBJECTS
        assert piece.num_rows == 1 or np.sum(piece["size"].to_numpy()) <= batches.BATCH_BYTES
