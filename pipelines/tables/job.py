"""The step `tables`: what is new at the sources becomes rows, links, groups with their splits, and places in the plan.

It appends: part N holds what the N-th batch found. `private/links` is written after the tables and the plan after it,
so that a run that was killed is done again from the batch that it was at, with the same result.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from medloom.connectors.settings import identity
from medloom.pipelines.recipe import LoadedRecipe, Source
from medloom.pipelines.sources.cases import Cases
from medloom.pipelines.sources.labelled import Labelled
from medloom.pipelines.sources.listing import list_objects
from medloom.pipelines.sources.members import list_objects as list_members
from medloom.pipelines.sources.papers import Papers
from medloom.pipelines.tables.batches import Work, batches, wanted
from medloom.pipelines.tables.cases import read_cases
from medloom.pipelines.tables.changes import changes
from medloom.pipelines.tables.found import Found
from medloom.pipelines.tables.known import Known, read_links
from medloom.pipelines.tables.labelled import read_labelled
from medloom.pipelines.tables.papers import read_papers
from medloom.pipelines.tables.parts import append, next_part
from medloom.pipelines.tables.places import Places
from medloom.pipelines.tables.scans import read_scans
from medloom.pipelines.tables.withdrawals import write_withdrawals
from medloom.schemas.build import Build
from medloom.schemas.errors import BugError, RetryLater
from medloom.schemas.store import Store

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TASK_BYTES = 32 << 20  # source bytes per parsing task: a few seconds of work
FILE_BYTES = 128 << 20  # source bytes per file of a table part, which is held in memory once


@dataclass(frozen=True)
class TablesDone:
    """What one run of the step found: objects new or changed, units added, units whose objects changed."""

    objects: int
    added: int
    changed: int


def make_tables(loaded: LoadedRecipe, store: Store, *, master: str) -> TablesDone:
    """Bring the tables, the links and the plan of the build at `store` up to date with its sources.

    Raises:
        SourceError: a source's folder is not there or holds nothing.
        ConfigError: a secret or a setting is missing.
        BugError: a reader failed on an object in a way that is no refusal.
    """
    from medloom.pipelines.spark import session

    part, recipe, build = next_part(store), loaded.recipe, Build(store.url)
    listings = _listings(recipe.sources)
    known, places = Known(read_links(store)), Places(store, recipe)
    new = [w for s in recipe.sources if (w := wanted(build, s, listings[s.name], known)) is not None]
    added = changed = 0
    for works in batches(new, listings, known):
        with spark_faults():
            found = _found(session(master, name=f"medloom tables {recipe.name}"), works, known, listings)
            around = known.around(found)
            changes_ = changes(around, found)
            known_units = {row["unit"] for row in around}
            groups, sizes = append(store, recipe, found, changes_, part=part, known_units=known_units)
        places.add(groups, sizes)
        known.add(changes_.links, replaced=changes_.replaced)
        part, added = part + 1, added + groups.num_rows
        changed += len(changes_.units & known_units)
    places.begin()
    write_withdrawals(store, recipe, known)
    return TablesDone(sum(one.fresh for one in new), added, changed)


def _listings(sources: tuple[Source, ...]) -> dict[str, pa.Table]:
    """Return the objects of each source by its name: of public sets that share a folder, each its own."""
    sets = {s.name: s for s in sources if isinstance(s, Cases)}
    others = [source for source in sources if source.name not in sets]
    found = {s.name: (list_objects if isinstance(s, Papers) else list_members)(s.root) for s in others}
    whole = {root: list_members(root) for root in {source.root for source in sets.values()}}
    for name, source in sets.items():
        mine = [source.takes(url) for url in whole[source.root]["url"].to_pylist()]
        found[name] = whole[source.root].filter(pa.array(mine, pa.bool_()))
    return found


def _found(spark: "SparkSession", works: list[Work], known: Known, listings: Mapping[str, pa.Table]) -> list[Found]:
    """Read the objects of a batch, source by source."""
    found: list[Found] = []
    for one in works:
        size = int(pc.sum(one.objects["size"]).as_py() or 0)
        partitions = max(spark.sparkContext.defaultParallelism, min(size // TASK_BYTES, one.objects.num_rows))
        if isinstance(one.source, Papers):
            before = {link["unit"]: "" for earlier in found for link in earlier.links}
            owners = partial(_owners, known=known, source=one.source.name, listings=listings, before=before)
            files = 1 + size // FILE_BYTES
            found.append(read_papers(spark, one.source, one, owners=owners, partitions=partitions, files=files))
        elif isinstance(one.source, Cases):
            who = identity(one.source.deidentify)
            found.append(read_cases(one.source, one.objects, identity=who, again=one.again))
        elif isinstance(one.source, Labelled):
            who = identity(one.source.deidentify)
            found.append(read_labelled(one.source, one.objects, identity=who, again=one.again))
        else:
            who = identity(one.source.deidentify)
            found.append(
                read_scans(spark, one.source, one.objects, identity=who, partitions=partitions, again=one.again)
            )
    return found


def _owners(
    keys: list[str], *, known: Known, source: str, listings: Mapping[str, pa.Table], before: dict[str, str]
) -> dict[str, str]:
    return known.owners(keys, source, listings) | {key: "" for key in keys if key in before}


@contextmanager
def spark_faults() -> Iterator[None]:
    """Turn what a worker of Spark raised into our own errors."""
    from pyspark.errors import PySparkException

    try:
        yield
    except PySparkException as fault:
        bug = re.search(rf"{BugError.__name__}: (.*)", str(fault))
        if bug:
            raise BugError(bug[1]) from fault
        if "No space left on device" in str(fault):
            raise RetryLater("Spark's scratch disk is full; free some space and run the same command again") from fault
        raise
