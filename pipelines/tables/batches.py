"""Batches: what is new at the sources in pieces of bounded size, so that the driver holds one piece and not the whole.

A build of few objects is one batch. In a larger one articles come first, in the order of their names, and what is left
(figure files that no article shows) last; the pieces are cut by counts and bytes alone, so that a run that was killed
goes on with the same pieces, on any number of cores.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medloom.pipelines.recipe import Source
from medloom.pipelines.sources.cases import Cases
from medloom.pipelines.sources.papers import Papers
from medloom.pipelines.tables.known import Known
from medloom.pipelines.tables.pictures import Pictures, papers_showing
from medloom.schemas.build import Build

BATCH_OBJECTS = 1 << 15  # a dict row of a link is about 1 KB: some 100 MB of the driver
BATCH_BYTES = 4 << 30
_ARTICLE = r"(?i)\.n?xml$"  # a hint for the order only: what a file is, its bytes say


@dataclass(frozen=True)
class Work:
    """What to read of one source at once.

    Attributes:
        objects: rows of `OBJECT`, out of the whole `listing`.
        pictures: the picture files of the listing, among which those of figures are looked for.
        again: whether all units change although their objects are as they were (their terms changed).
    """

    source: Source
    objects: pa.Table
    listing: pa.Table
    pictures: Pictures
    again: bool = False


@dataclass(frozen=True)
class Wanted:
    """What of a source must be read; `fresh` of the objects are new or changed."""

    work: Work
    fresh: int


def wanted(build: Build, source: Source, listing: pa.Table, known: Known) -> Wanted | None:
    """Return what of a source must be read; None when nothing is new.

    Of papers: what is new or changed, and the articles that new figure files may belong to. Of scans: everything.
    """
    fresh = known.fresh(source.name, listing)
    if not fresh.num_rows:
        return None
    pictures = Pictures(listing)
    if not isinstance(source, Papers):
        again = bool(pc.any(pc.equal(fresh["url"], source.sources_file)).as_py())
        return Wanted(Work(source, listing, listing, pictures, again), fresh.num_rows)
    mine = known.of(source.name)
    urls = fresh["url"]
    if mine.num_rows:
        showing = pa.array(sorted(papers_showing(build, Pictures(fresh))), pa.string())
        own = mine.filter(pc.and_(pc.is_in(mine["unit"], showing), pc.equal(mine["key"], "")))
        urls = pa.chunked_array([*urls.chunks, *own["url"].chunks], pa.string())
    read = listing.filter(pc.is_in(listing["url"], urls.combine_chunks()))
    return Wanted(Work(source, read, listing, pictures), fresh.num_rows)


def batches(all_wanted: list[Wanted], listings: Mapping[str, pa.Table], known: Known) -> Iterator[list[Work]]:
    """Give what is wanted in batches; `known` grows by each before the next is asked for."""
    works = [one.work for one in all_wanted]
    if sum(listing.num_rows for listing in listings.values()) <= BATCH_OBJECTS:
        if works:
            yield works
        return
    for together in _sharing(works):
        work = together[0]
        if not isinstance(work.source, Papers):  # a series is known by all its slices: never cut
            yield together
            continue
        named = pc.match_substring_regex(work.objects["url"], _ARTICLE)
        for piece in _pieces(work.objects.filter(named)):
            yield [replace(work, objects=piece)]
        # The files that articles were found to show are known by now.
        for piece in _pieces(known.fresh(work.source.name, work.objects.filter(pc.invert(named)))):
            yield [replace(work, objects=piece)]


def _sharing(works: list[Work]) -> list[list[Work]]:
    """Return works whose sources number the same patients together: a patient's split is decided once, by them all."""
    found: dict[tuple[str, str], list[Work]] = {}
    for work in works:
        patients = work.source.spec.patients if isinstance(work.source, Cases) else ""
        found.setdefault((patients, "" if patients else work.source.name), []).append(work)
    return list(found.values())


def _pieces(objects: pa.Table) -> Iterator[pa.Table]:
    sizes = objects["size"].to_numpy()
    start = 0
    while start < len(sizes):
        filled = np.cumsum(sizes[start : start + BATCH_OBJECTS])
        n = max(1, int(np.searchsorted(filled, BATCH_BYTES, side="right")))
        yield objects.slice(start, n)
        start += n
