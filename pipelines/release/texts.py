"""Articles and captions of builds as texts to compare, in Spark: near-duplicates by MinHash, then word by word."""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from medloom.pipelines.release.links import LINK, NODE, band_lists
from medloom.pipelines.release.rows import FILE, map_files
from medloom.quality import minhash
from medloom.quality.minhash import ARTICLE, CAPTION, TextKind
from medloom.schemas.build import Build, conform
from medloom.schemas.store import Store
from medloom.schemas.tables import TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# `name` is the unit of an article, the medium of a caption; `node` the digest of its words: equal texts are one node.
TEXT = pa.schema([
    ("build", pa.int32()), ("url", pa.string()), ("path", pa.string()), ("name", pa.string()), *NODE,
])  # fmt: skip
_RUNS = pa.schema([("node", pa.string()), ("runs", pa.list_(pa.int64()))])
_AT_ONCE = 200  # texts whose runs are held in memory
_TABLE = {ARTICLE: "paragraph", CAPTION: "figure"}


def texts(spark: "SparkSession", builds: list[Build], kind: TextKind) -> "DataFrame":
    """Return a row of `TEXT` for every article or caption that is long enough to be compared."""
    table = _TABLE[kind]
    files = [
        {"build": i, "url": build.store.absolute_url, "path": f"tables/{table}/{name}"}
        for i, build in enumerate(builds)
        for name in build.store.names(f"tables/{table}")
        if name.endswith(".parquet")
    ]

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for file in (row for batch in batches for row in batch.to_pylist()):
            for found in _texts_of(file, kind):
                keys = minhash.band_keys(minhash.run_hashes([runs for _, _, runs in found]))
                rows = [{**file, "name": name, "node": node} for name, node, _ in found]
                table = pa.Table.from_pylist(rows, schema=pa.schema(list(TEXT)[:-1]))
                yield from table.append_column(TEXT.field("bands"), band_lists(keys)).to_batches()

    return map_files(spark, files, read, TEXT)


def _texts_of(file: dict[str, Any], kind: TextKind) -> Iterator[list[tuple[str, str, list[str]]]]:
    """Give, some at a time, (name, node, runs) of the texts of a table's file."""
    some: list[tuple[str, str, list[str]]] = []
    for name, text in _ARTICLES_OR_CAPTIONS[kind](file):
        found = minhash.words(text)
        runs = minhash.runs(found, kind)
        if runs:
            digest = hashlib.sha256(" ".join(found).encode()).hexdigest()[:32]
            some.append((name, f"{kind.name}:{digest}", runs))
        if len(some) == _AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def _articles(file: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Give (unit, what its body tells) of each article: not captions, tables or references, which others may quote."""
    columns = ["article_key", "where", "order", "text"]
    bodies: dict[str, list[tuple[int, str]]] = {}
    for batch in _table(file, "paragraph", columns).to_batches():
        for row in batch.to_pylist():
            if row["where"] == "body":
                bodies.setdefault(row["article_key"], []).append((row["order"], row["text"]))
    for unit, paragraphs in bodies.items():
        yield unit, " ".join(text for _, text in sorted(paragraphs))


def _captions(file: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Give (key of the medium, caption) of each figure."""
    for row in _table(file, "figure", ["caption", "media"]).to_pylist():
        for medium in row["media"] or ():
            if medium["key"]:
                yield medium["key"], row["caption"] or ""


_ARTICLES_OR_CAPTIONS = {ARTICLE: _articles, CAPTION: _captions}


def _table(file: dict[str, Any], name: str, columns: list[str]) -> pa.Table:
    schema = pa.schema([TABLES[name].field(column) for column in columns])
    return conform(Store(file["url"]).read_table(file["path"], columns), schema)


def overlapping(spark: "SparkSession", found: "DataFrame", pairs: pa.Table, kind: TextKind) -> pa.Table:
    """Return those rows of `LINK` whose texts' runs overlap enough, given rows of `TEXT`.

    MinHash says which pairs to look at; their runs are read again, so that a link never rests on an estimate.
    """
    from pyspark.sql import functions as sf

    if not pairs.num_rows:
        return pairs
    wanted = pa.chunked_array([*pairs["one"].chunks, *pairs["other"].chunks]).unique()
    runs = _runs(spark, found, pa.table({"node": wanted}), kind)
    both = spark.createDataFrame(pairs).join(runs.toDF("one", "runs"), "one").join(runs.toDF("other", "more"), "other")
    overlap = sf.size(sf.array_intersect("runs", "more")) / sf.size(sf.array_union("runs", "more"))
    return conform(both.where(overlap >= kind.min_overlap).select("one", "other").toArrow(), LINK)


def _runs(spark: "SparkSession", found: "DataFrame", wanted: pa.Table, kind: TextKind) -> "DataFrame":
    """Return the hashes of the runs of the texts that are `wanted`, each once, read from the files that hold them."""
    from pyspark.sql import functions as sf

    one_each = found.join(spark.createDataFrame(wanted), "node").groupBy("node")
    held = one_each.agg(sf.min(sf.struct("build", "url", "path")).alias("at")).select("node", "at.*").toArrow()
    nodes_of: dict[tuple[int, str, str], set[str]] = {}
    for row in held.to_pylist():
        nodes_of.setdefault((row["build"], row["url"], row["path"]), set()).add(row["node"])

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for file in (row for batch in batches for row in batch.to_pylist()):
            left = set(nodes_of[file["build"], file["url"], file["path"]])
            for some in _texts_of(file, kind):
                kept = {node: runs for _, node, runs in some if node in left}
                left -= kept.keys()
                hashes = [np.array(h, np.uint64).view(np.int64) for h in minhash.run_hashes(list(kept.values()))]
                yield pa.record_batch([pa.array(kept, pa.string()), pa.array(hashes, _RUNS.field("runs").type)], _RUNS)

    files = [dict(zip(FILE.names, place, strict=True)) for place in sorted(nodes_of)]
    return map_files(spark, files, read, _RUNS)
