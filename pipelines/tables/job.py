"""The step `tables`: what is new at the sources becomes rows, links, groups with their splits, and places in the plan.

It appends: part N holds what the N-th run that found something found. `private/links` is written after the tables and
the plan after it, so that a run that was killed is done again as a whole, with the same result.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from medloom.connectors.settings import identity
from medloom.pipelines.recipe import LoadedRecipe, Recipe, Source
from medloom.pipelines.sources.listing import OBJECT, list_objects
from medloom.pipelines.sources.papers import Papers
from medloom.pipelines.tables.changes import Changes, changes
from medloom.pipelines.tables.found import Found
from medloom.pipelines.tables.papers import papers_showing, read_papers
from medloom.pipelines.tables.scans import read_scans
from medloom.schemas.build import Build, conform
from medloom.schemas.errors import BugError, RetryLater
from medloom.schemas.plan import cut, read_plan, split_of
from medloom.schemas.store import Store
from medloom.schemas.tables import LINK, PLAN, TABLES

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SORTED_BY = {
    "group": ["unit"],
    "quarantine": ["source", "unit", "key", "reason", "detail"],
    "links": ["unit", "order", "key", "url"],
}  # rows of papers come in the order of their articles' keys and, within one, of its text
LINKS = "private/links"
LASTING = ("group", "verdict")  # tables whose rows are never taken out
TASK_BYTES = 32 << 20  # source bytes per parsing task: a few seconds of work
FILE_BYTES = 512 << 20  # source bytes per file of a table part, which is held in memory once


@dataclass(frozen=True)
class TablesDone:
    """What one run of the step found: objects new or changed, units added, units whose objects changed."""

    objects: int
    added: int
    changed: int


@dataclass(frozen=True)
class _Work:
    """What to read of one source: these objects, out of the whole listing; `fresh` of them are new or changed."""

    source: Source
    objects: pa.Table
    listing: pa.Table
    fresh: set[str]


def make_tables(loaded: LoadedRecipe, store: Store, *, master: str) -> TablesDone:
    """Bring the tables, the links and the plan of the build at `store` up to date with its sources.

    Raises:
        SourceError: a source's folder is not there or holds nothing.
        ConfigError: a secret or a setting is missing.
        BugError: a reader failed on an object in a way that is no refusal.
    """
    part = _next_part(store)
    known = read_links(store).to_pylist()
    listings = [(source, list_objects(source.root)) for source in loaded.recipe.sources]
    work = [w for source, listing in listings if (w := _wanted(store, source, listing, known)) is not None]
    done = TablesDone(0, 0, 0)
    if work:
        from medloom.pipelines.spark import session

        with spark_faults():
            spark = session(master, name=f"medloom tables {loaded.recipe.name}")
            found = _found(spark, work, known, dict((s.name, listing) for s, listing in listings))
            changed = changes(known, found)
            added = _append(store, loaded.recipe, found, changed, part)
        done = TablesDone(sum(len(w.fresh) for w in work), added, len(changed.units & {r["unit"] for r in known}))
    _extend_plan(store, loaded.recipe)
    return done


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


def read_links(store: Store) -> pa.Table:
    """Return the build's links: which objects make each unit, and what its tokens stand for."""
    parts = [conform(store.read_table(f"{LINKS}/{n}"), LINK) for n in store.names(LINKS)]
    return pa.concat_tables(parts) if parts else LINK.empty_table()


def _next_part(store: Store) -> int:
    """Return the number of the next part, once what a killed run left above it is gone."""
    number = len(store.names(LINKS))
    for name in TABLES:
        store.sweep(f"tables/{name}")
        for file in store.names(f"tables/{name}"):
            if int(file[5:10]) >= number:
                store.delete(f"tables/{name}/{file}")
    store.sweep(LINKS)
    store.sweep("plan")
    return number


def _wanted(store: Store, source: Source, listing: pa.Table, known: list[dict[str, Any]]) -> _Work | None:
    """Return what of a source must be read; None when nothing is new."""
    mine = [row for row in known if row["source"] == source.name]
    seen = {tuple(row[n] for n in OBJECT.names) for row in mine}
    rows = listing.to_pylist()
    fresh = {row["url"] for row in rows if tuple(row[n] for n in OBJECT.names) not in seen}
    if not fresh:
        return None
    if not isinstance(source, Papers):
        return _Work(source, listing, listing, fresh)
    figures = Build(store.url).table("figure", ["article_key", "media"]) if mine else TABLES["figure"].empty_table()
    again = papers_showing(fresh, figures)
    read = fresh | {row["url"] for row in mine if row["unit"] in again and row["key"] == ""}
    return _Work(source, listing.filter(pc.is_in(listing["url"], pa.array(sorted(read), pa.string()))), listing, fresh)


def _found(
    spark: "SparkSession", work: list[_Work], known: list[dict[str, Any]], listings: dict[str, pa.Table]
) -> list[Found]:
    """Read the wanted objects of each source."""
    there = {name: set(listing["url"].to_pylist()) for name, listing in listings.items()}
    found: list[Found] = []
    for one in work:
        size = int(pc.sum(one.objects["size"]).as_py() or 0)
        partitions = max(spark.sparkContext.defaultParallelism, min(size // TASK_BYTES, one.objects.num_rows))
        if isinstance(one.source, Papers):
            name = one.source.name
            owners = {
                row["unit"]: row["url"] if row["source"] == name else ""
                for row in known
                if row["key"] == "" and row["url"] in there.get(row["source"], ())
            } | {link["unit"]: "" for earlier in found for link in earlier.links}
            found.append(
                read_papers(
                    spark, one.source, one.objects, listing=one.listing, owners=owners, partitions=partitions,
                    files=1 + size // FILE_BYTES,
                )
            )  # fmt: skip
        else:
            who, again = identity(one.source.deidentify), one.source.sources_file in one.fresh
            found.append(read_scans(spark, one.source, one.objects, identity=who, partitions=partitions, again=again))
    return found


def _append(store: Store, recipe: Recipe, found: list[Found], changed: Changes, part: int) -> int:
    """Write part `part` of the tables, take superseded rows out of older parts, then commit by writing the links.

    Returns the number of units added.
    """
    writer = _Parts(store, part, changed.units)
    for one in found:
        for tables in one.tables():
            writer.write(tables)
    refused = [{name: row[name] for name in TABLES["quarantine"].names} for row in changed.quarantine]
    writer.write({"quarantine": _sorted(refused, "quarantine", TABLES["quarantine"])})
    groups = _groups(store, recipe, found)
    if groups.num_rows:
        store.write_table(f"tables/group/{_file(part, 0)}", groups)
    gone = (changed.replaced | changed.units) - writer.same
    _drop_units(store, [f"tables/{name}" for name in TABLES if name not in LASTING], gone, below=part)
    _drop_units(store, [LINKS], changed.replaced, below=part)
    store.write_table(f"{LINKS}/{_file(part, 0)}", _sorted(changed.links, "links", LINK))
    return groups.num_rows


class _Parts:
    """Writes the rows of `units` that are not in the tables already; `same` are the units that are."""

    def __init__(self, store: Store, part: int, units: set[str]):
        self.store, self.part, self.units = store, part, units
        self.same: set[str] = set()
        self._files: dict[str, int] = {}

    def write(self, tables: dict[str, pa.Table]) -> None:
        """Write the next rows of some tables, all rows of a unit at once."""
        rows = {name: _only(table, self.units) for name, table in tables.items()}
        if self.part:
            now = {name: _by_unit(name, table) for name, table in rows.items()}
            units = sorted(set().union(*now.values()))
            before = {name: _by_unit(name, self._before(name, units)) for name in tables}
            same = {u for u in units if all(before[name].get(u) == now[name].get(u) for name in tables)}
            rows = {name: _only(table, set(units) - same) for name, table in rows.items()}
            self.same |= same
        for name, table in rows.items():
            if table.num_rows:
                file = self._files[name] = self._files.get(name, -1) + 1
                self.store.write_table(f"tables/{name}/{_file(self.part, file)}", table)

    def _before(self, name: str, units: list[str]) -> pa.Table:
        paths = [f"tables/{name}/{n}" for n in self.store.names(f"tables/{name}") if int(n[5:10]) < self.part]
        among = (_unit_column(name), units)
        parts = [conform(self.store.read_table(path, among=among), TABLES[name]) for path in paths]
        return pa.concat_tables(parts) if parts else TABLES[name].empty_table()


def _by_unit(name: str, table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    units: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        units.setdefault(row[_unit_column(name)], []).append(row)
    return units


def _groups(store: Store, recipe: Recipe, found: list[Found]) -> pa.Table:
    """Return "group" rows of units that have none: the split is a salted hash of the group alone."""
    have = set(Build(store.url).table("group", ["unit"])["unit"].to_pylist())
    rows = [
        {
            "unit": unit, "source": one.source, "group": group, "split_by": "hash",
            "split": split_of(group, salt=recipe.salt, shares=recipe.shares),
        }
        for one in found for unit, group in one.groups.items() if unit not in have
    ]  # fmt: skip
    return _sorted(rows, "group", TABLES["group"])


def _sorted(rows: list[dict[str, Any]], name: str, schema: pa.Schema) -> pa.Table:
    keys = SORTED_BY[name]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: [row[k] for k in keys]), schema=schema)


def _file(part: int, i: int) -> str:
    return f"part-{part:05d}.parquet" if i == 0 else f"part-{part:05d}-{i:03d}.parquet"


def _unit_column(name: str) -> str:
    return "unit" if name == "links" or "unit" in TABLES[name].names else "article_key"


def _only(table: pa.Table, units: set[str]) -> pa.Table:
    column = "article_key" if "article_key" in table.column_names else "unit"
    return table.filter(pc.is_in(table[column], pa.array(sorted(units), pa.string())))


def _drop_units(store: Store, folders: list[str], units: set[str], *, below: int) -> None:
    """Take the rows of `units` out of all parts before `below`."""
    for folder in folders if units and below else []:
        for name in store.names(folder):
            if int(name[5:10]) >= below:
                continue
            table = store.read_table(f"{folder}/{name}")
            column = "article_key" if "article_key" in table.column_names else "unit"
            left = table.filter(pc.invert(pc.is_in(table[column], pa.array(sorted(units), pa.string()))))
            if left.num_rows < table.num_rows:
                store.write_table(f"{folder}/{name}", left)


def _extend_plan(store: Store, recipe: Recipe) -> None:
    """Append the units that have a group but no place yet; a unit keeps its shard for ever."""
    plan, groups = read_plan(store), Build(store.url).table("group")
    new = groups.filter(pc.invert(pc.is_in(groups["unit"], plan["unit"].combine_chunks())))
    parts = [name for name in store.names("plan") if name.endswith(".parquet")]
    if not new.num_rows and parts:  # a first run leaves a plan even when all was refused, so that the gate can say so
        return
    sizes = {
        row["unit"]: row["source_bytes"]
        for table, column in (("article", "article_key"), ("series", "unit"))
        for row in Build(store.url)
        .table(table, [column, "source_bytes"])
        .rename_columns(["unit", "source_bytes"])
        .to_pylist()
    }
    new = new.append_column("source_bytes", pa.array([sizes.get(u, 0) for u in new["unit"].to_pylist()], pa.int64()))
    taken: dict[str, int] = {}
    for row in plan.select(["split", "shard"]).to_pylist():
        taken[row["split"]] = max(taken.get(row["split"], 0), row["shard"] + 1)
    rows = cut(new, taken=taken, shard_bytes=recipe.shard_bytes)
    store.write_table(f"plan/part-{len(parts):05d}.parquet", rows.cast(PLAN))
