"""The step `tables`: what is new at the sources becomes rows, links, groups with their splits, and places in the plan.

It appends: part N holds what the N-th run that found something found. `private/links` is written after the tables and
the plan after it, so that a run that was killed is done again as a whole, with the same result.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medloom.connectors.settings import identity
from medloom.pipelines.recipe import LoadedRecipe, Recipe, Source
from medloom.pipelines.sources.listing import OBJECT, list_objects
from medloom.pipelines.sources.papers import Papers
from medloom.pipelines.tables.papers import paper_tables
from medloom.pipelines.tables.scans import scan_tables
from medloom.schemas.build import Build, conform
from medloom.schemas.plan import cut, read_plan, split_of
from medloom.schemas.store import Store
from medloom.schemas.tables import LINK, PLAN, TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SORTED_BY = {
    "article": ["article_key"],
    "section": ["article_key", "order"],
    "paragraph": ["article_key", "order"],
    "figure": ["article_key", "order", "fig_key"],
    "mention": ["article_key", "par_id", "start", "end"],
    "series": ["unit"],
    "group": ["unit"],
    "quarantine": ["source", "unit", "key", "reason"],
    "links": ["unit", "order", "key", "url"],
}
LINKS = "private/links"
TASK_BYTES = 32 << 20  # source bytes per parsing task: a few seconds of work
FILE_BYTES = 8 << 30  # source bytes per file of a table part


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
    """
    part = _next_part(store)
    known = read_links(store)
    wanted = {source.name: _wanted(source, known) for source in loaded.recipe.sources}
    work = {name: w for name, w in wanted.items() if w is not None}
    done = TablesDone(0, 0, 0)
    if work:
        from medloom.pipelines.spark import session

        spark = session(master, name=f"medloom tables {loaded.recipe.name}")
        frames = _frames(spark, loaded.recipe, work)
        with tempfile.TemporaryDirectory(prefix="medloom-spark-") as scratch:
            done = _append(store, loaded.recipe, frames, known, part, Path(scratch), work)
        spark.catalog.clearCache()
    _extend_plan(store, loaded.recipe)
    return done


def read_links(store: Store) -> pa.Table:
    """Return the build's links: which objects make each unit, and what its tokens stand for."""
    parts = [conform(store.read_table(f"{LINKS}/{n}"), LINK) for n in store.names(LINKS)]
    return pa.concat_tables(parts) if parts else LINK.empty_table()


def _next_part(store: Store) -> int:
    """Return the number of the next part, once what a killed run left above it is gone."""
    number = len(store.names(LINKS))
    for name in TABLES:
        for file in store.names(f"tables/{name}"):
            if int(file[5:10]) >= number:
                store.delete(f"tables/{name}/{file}")
    return number


@dataclass(frozen=True)
class _Work:
    """What to read of one source: these objects, out of the whole listing."""

    objects: pa.Table
    listing: pa.Table


def _wanted(source: Source, known: pa.Table) -> _Work | None:
    """Return what of a source must be read; None when nothing is new."""
    listing = list_objects(source.root)
    mine = known.filter(pc.equal(known["source"], source.name))
    seen = {(r["url"], r["size"], r["mtime_ns"], r["etag"]) for r in mine.select(OBJECT.names).to_pylist()}
    rows = listing.to_pylist()
    fresh = [r for r in rows if tuple(r[n] for n in OBJECT.names) not in seen]
    if not fresh:
        return None
    if isinstance(source, Papers):
        again = _papers_touched_by({r["url"] for r in fresh}, mine, listing)
        fresh = [r for r in rows if r["url"] in again]
        return _Work(pa.Table.from_pylist(fresh, schema=OBJECT), listing)
    return _Work(listing, listing)


def _papers_touched_by(fresh: set[str], mine: pa.Table, listing: pa.Table) -> set[str]:
    """Return `fresh` and the articles to read again: when a figure file is new or changed, those that may show it."""
    papers = (".xml", ".nxml")
    if all(url.lower().endswith(papers) for url in fresh):
        return fresh
    own = mine.filter(pc.equal(mine["key"], ""))
    stems = {url.rpartition("/")[0] for url in fresh}
    near = {
        url for url in own["url"].to_pylist()
        if url.lower().endswith(papers)
        and (url.rpartition("/")[0] in stems or any(s.endswith(_stem(url)) for s in stems))
    }  # fmt: skip
    here = set(listing["url"].to_pylist())
    return fresh | (near & here)


def _stem(url: str) -> str:
    return url.rpartition("/")[2].rpartition(".")[0]


def _frames(spark: "SparkSession", recipe: Recipe, work: dict[str, _Work]) -> dict[str, "DataFrame"]:
    """Return the new rows of each table over all sources; "unit" and "links" among them."""
    frames: dict[str, DataFrame] = {}
    for name, wanted in work.items():
        source = recipe.source(name)
        cores = spark.sparkContext.defaultParallelism
        size = int(pc.sum(wanted.objects["size"]).as_py() or 0)
        partitions = max(cores, min(size // TASK_BYTES, wanted.objects.num_rows))
        if isinstance(source, Papers):
            found = paper_tables(spark, source, wanted.objects, wanted.listing, partitions=partitions)
        else:
            who = identity(source.deidentify)
            found = scan_tables(spark, source, wanted.objects, identity=who, partitions=partitions)
        found["links"] = found["links"].unionByName(_refused_links(spark, found["quarantine"], wanted.objects))
        found["quarantine"] = found["quarantine"].drop("url")
        for table, frame in found.items():
            frames[table] = frames[table].unionByName(frame) if table in frames else frame
    return frames


def _refused_links(spark: "SparkSession", quarantine: "DataFrame", objects: pa.Table) -> "DataFrame":
    """Return links of refused objects, so that they are not read again until they change."""
    from pyspark.sql import functions as sf

    return quarantine.join(spark.createDataFrame(objects), "url").select(
        "unit", sf.lit("refused").alias("key"), "source", *OBJECT.names, sf.lit(0).alias("order"),
        sf.lit("").alias("original_unit"), sf.lit("").alias("original_group"),
    )  # fmt: skip


def _append(
    store: Store, recipe: Recipe, frames: dict[str, "DataFrame"], known: pa.Table, part: int, scratch: Path,
    work: dict[str, _Work],
) -> TablesDone:  # fmt: skip
    """Write part `part` of every table, take superseded rows out of older parts, then commit by writing the links."""
    files = 1 + sum(int(pc.sum(w.objects["size"]).as_py() or 0) for w in work.values()) // FILE_BYTES
    frames["group"] = _grouped(frames.pop("unit"), recipe)
    for name in SORTED_BY:
        if name in frames:
            _write_frame(frames[name], scratch / name, name, files)
    links = conform(pa.concat_tables(pq.read_table(p) for p in _parts(scratch / "links")), LINK)
    moved = _moved_units(known, links)
    news = links.filter(pc.invert(pc.is_in(links["unit"], pa.array(moved.unchanged, pa.string()))))
    keep = set(news["unit"].to_pylist())
    grouped = set(Build(store.url).table("group", ["unit"])["unit"].to_pylist())
    added = 0
    for name in SORTED_BY:
        for i, path in enumerate(_parts(scratch / name) if name != "links" else []):
            units = keep - grouped if name == "group" else keep  # a group and its split never change
            table = _only(conform(pq.read_table(path), TABLES[name]), units)
            added += table.num_rows if name == "group" else 0
            if table.num_rows:
                store.write_table(f"tables/{name}/{_file(part, i)}", table)
    _drop_units(store, [f"tables/{name}" for name in TABLES if name != "group"], moved.changed, below=part)
    _drop_units(store, [LINKS], moved.changed, below=part)
    store.write_table(f"{LINKS}/{_file(part, 0)}", news)
    return TablesDone(sum(w.objects.num_rows for w in work.values()), added, len(moved.changed))


@dataclass(frozen=True)
class _Moved:
    unchanged: list[str]
    changed: list[str]


def _moved_units(known: pa.Table, links: pa.Table) -> _Moved:
    """Tell units whose objects are just as they were from those that were known with other objects."""

    def by_unit(table: pa.Table) -> dict[str, set[tuple[Any, ...]]]:
        units: dict[str, set[tuple[Any, ...]]] = {}
        for row in table.to_pylist():
            units.setdefault(row["unit"], set()).add(tuple(row[n] for n in ("key", *OBJECT.names)))
        return units

    before, now = by_unit(known), by_unit(links)
    unchanged = [u for u in now if before.get(u) == now[u]]
    return _Moved(unchanged, sorted(u for u in now if u in before and before[u] != now[u]))


def _grouped(units: "DataFrame", recipe: Recipe) -> "DataFrame":
    """Return "group" rows: the split is a salted hash of the group alone."""
    from pyspark.sql import functions as sf

    salt, shares = recipe.salt, recipe.shares
    split = sf.udf(lambda group: split_of(group, salt=salt, shares=shares), "string")
    return units.withColumn("split", split("group")).withColumn("split_by", sf.lit("hash"))


def _write_frame(frame: "DataFrame", folder: Path, name: str, files: int) -> None:
    """Write a frame as `files` Parquet files whose rows and order depend on the rows alone."""
    keys = SORTED_BY[name]
    shared = frame.repartition(files, keys[0]) if files > 1 else frame.coalesce(1)
    shared.sortWithinPartitions(*keys).write.parquet(folder.as_uri(), mode="overwrite")


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def _file(part: int, i: int) -> str:
    return f"part-{part:05d}.parquet" if i == 0 else f"part-{part:05d}-{i:03d}.parquet"


def _only(table: pa.Table, units: set[str]) -> pa.Table:
    column = "article_key" if "article_key" in table.column_names else "unit"
    return table.filter(pc.is_in(table[column], pa.array(sorted(units), pa.string())))


def _drop_units(store: Store, folders: list[str], units: list[str], *, below: int) -> None:
    """Take the rows of `units` out of all parts before `below`."""
    for folder in folders if units else []:
        for name in store.names(folder):
            if int(name[5:10]) >= below or folder == "tables/verdict":
                continue
            table = store.read_table(f"{folder}/{name}")
            column = "article_key" if "article_key" in table.column_names else "unit"
            left = table.filter(pc.invert(pc.is_in(table[column], pa.array(units, pa.string()))))
            if left.num_rows < table.num_rows:
                store.write_table(f"{folder}/{name}", left)


def _extend_plan(store: Store, recipe: Recipe) -> None:
    """Append the units that have a group but no place yet; a unit keeps its shard for ever."""
    plan, groups = read_plan(store), Build(store.url).table("group")
    new = groups.filter(pc.invert(pc.is_in(groups["unit"], plan["unit"].combine_chunks())))
    if not new.num_rows:
        return
    sizes = {
        row["unit"]: row["source_bytes"]
        for table, column in (("article", "article_key"), ("series", "unit"))
        for row in Build(store.url)
        .table(table, [column, "source_bytes"])
        .rename_columns(["unit", "source_bytes"])
        .to_pylist()
    }
    new = new.append_column("source_bytes", pa.array([sizes[u] for u in new["unit"].to_pylist()], pa.int64()))
    taken: dict[str, int] = {}
    for row in plan.select(["split", "shard"]).to_pylist():
        taken[row["split"]] = max(taken.get(row["split"], 0), row["shard"] + 1)
    rows = cut(new, taken=taken, shard_bytes=recipe.shard_bytes)
    store.write_table(f"plan/part-{len(store.names('plan')):05d}.parquet", rows.cast(PLAN))
