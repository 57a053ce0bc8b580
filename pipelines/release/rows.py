"""Spark over builds: the media and examples of a release as rows, without pixels."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from medloom.quality.checks import SOFT_CHECKS, is_content, run_checks
from medloom.schemas.build import Build, conform
from medloom.schemas.keys import canonical_json
from medloom.schemas.store import Store
from medloom.schemas.tables import EXAMPLE, INDEX, RELEASE_ROW, STATE

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

MEDIA = pa.schema([
    ("build", pa.int32()), ("key", pa.string()), ("unit", pa.string()), ("group", pa.string()), ("split", pa.string()),
    ("layout", pa.string()), ("modality", pa.string()), ("shape", pa.string()), ("terms_id", pa.string()),
    ("pixel_digest", pa.string()), ("phash", pa.string()), ("voxel_digest", pa.string()), ("drawn", pa.string()),
    ("states", pa.list_(pa.struct(list(STATE)))),
])  # fmt: skip
EXAMPLES = pa.schema([
    ("example_id", pa.string()), ("build", pa.int32()), ("source", pa.string()), ("unit", pa.string()),
    ("group", pa.string()), ("split", pa.string()), ("task", pa.string()), ("language", pa.string()),
    ("generator", pa.string()), ("licence", pa.string()), ("terms_id", pa.string()), ("media", pa.list_(pa.string())),
    ("labels", pa.list_(pa.string())), ("part", pa.string()), ("row", pa.int32()),
    ("states", pa.list_(pa.struct(list(STATE)))),
])  # fmt: skip
FILE = pa.schema([("build", pa.int32()), ("url", pa.string()), ("path", pa.string())])


def media_rows(spark: "SparkSession", builds: list[Build]) -> "DataFrame":
    """Return a row of `MEDIA` per medium and build; the same key may stand in several builds."""
    files = [
        {"build": i, "url": build.store.absolute_url, "path": shard.index(layout)}
        for i, build in enumerate(builds)
        for shard, ledger in build.ledgers()
        for layout in sorted(ledger["tars"])
    ]
    return map_files(spark, files, _read_index, MEDIA).persist()


def example_rows(spark: "SparkSession", builds: list[Build]) -> "DataFrame":
    """Return a row of `EXAMPLES` per example; an example that several builds hold stands with the first of them."""
    from pyspark.sql import Window
    from pyspark.sql import functions as sf

    files = [
        {"build": i, "url": build.store.absolute_url, "path": path}
        for i, build in enumerate(builds)
        for task, fingerprint in sorted(build.manifest()["recipe"]["tasks"].items())
        for path in build.example_parts(task, fingerprint[:12])
    ]
    rows = map_files(spark, files, _read_examples, EXAMPLES)
    first = Window.partitionBy("example_id").orderBy("build", "part", "row")
    return rows.withColumn("nth", sf.row_number().over(first)).where("nth = 1").drop("nth").persist()


def map_files(spark: "SparkSession", files: list[dict[str, Any]], read: Any, schema: pa.Schema) -> "DataFrame":
    """Return the rows of `schema` that `read` makes of batches of `FILE` rows."""
    from pyspark.sql.pandas.types import from_arrow_schema

    table = pa.Table.from_pylist(files, schema=FILE)
    parts = max(1, min(len(files), spark.sparkContext.defaultParallelism * 4))
    return spark.createDataFrame(table).repartition(parts, "path").mapInArrow(read, from_arrow_schema(schema))


def _read_index(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for file in (row for batch in batches for row in batch.to_pylist()):
        table = conform(Store(file["url"]).read_table(file["path"]), INDEX)
        rows = [_medium(file, row) for row in table.to_pylist() if is_content(row)]
        yield from pa.Table.from_pylist(rows, schema=MEDIA).to_batches()


def _medium(file: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: row[name] for name in MEDIA.names if name in row}
    shape = "x".join(map(str, row["shape"]))
    drawn = sorted([label["name"], label["side"], label["voxels"]] for label in row["labels"] or ())
    return {
        **kept, "build": file["build"], "shape": shape, "phash": row["phash"] or "", "states": _failing([row]),
        "voxel_digest": row["voxel_digest"] or "", "drawn": canonical_json(drawn),
    }  # fmt: skip


def _read_examples(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for file in (row for batch in batches for row in batch.to_pylist()):
        table = conform(Store(file["url"]).read_table(file["path"]), EXAMPLE)
        rows = [_example(file, i, row) for i, row in enumerate(table.to_pylist())]
        yield from pa.Table.from_pylist(rows, schema=EXAMPLES).to_batches()


def _example(file: dict[str, Any], i: int, row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: row[name] for name in EXAMPLES.names if name in row}
    return {**kept, "build": file["build"], "part": file["path"], "row": i, "states": _failing([row])}


def _failing(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the states that follow from soft checks that failed."""
    severity = {check.name: check.severity for check in SOFT_CHECKS}
    return [
        {"scope": v.scope, "id": v.subject, "state": "withheld", "reason": v.reason, "by": f"check:{v.check}"}
        for v in run_checks(rows, SOFT_CHECKS)
        if v.outcome == "fail" and severity[v.check] == "withhold"
    ]


def release_rows(examples: "DataFrame", media: "DataFrame") -> "DataFrame":
    """Return rows of `RELEASE_ROW`: examples with layouts, modalities and shapes of their media, in order."""
    from pyspark.sql import functions as sf

    used = examples.select("example_id", "build", sf.posexplode("media").alias("at", "key"))
    stored = media.select("build", "key", "layout", "modality", "shape")
    facts = used.join(stored, ["build", "key"]).groupBy("example_id")
    ordered = facts.agg(sf.sort_array(sf.collect_list(sf.struct("at", "layout", "modality", "shape"))).alias("m"))
    none = sf.array().cast("array<string>")
    columns = {"layouts": "layout", "modalities": "modality", "shapes": "shape"}
    joined = examples.join(ordered, "example_id", "left")
    for name, field in columns.items():
        joined = joined.withColumn(name, sf.coalesce(sf.col(f"m.{field}"), none))
    tier = sf.when(sf.col("generator").contains("@"), "model").when(sf.size("labels") > 0, "rule").otherwise("source")
    return joined.withColumn("tier", tier).select(*(name for name in RELEASE_ROW.names if name != "media_at"))


def rank() -> "Column":
    """Return how near a row's split is to training: of two splits that hold the same thing, the larger loses it."""
    from pyspark.sql import functions as sf

    return sf.when(sf.col("split") == "test", 0).when(sf.col("split") == "train", 2).otherwise(1)


def said_of(examples: "DataFrame", name: Literal["key", "unit"]) -> "DataFrame":
    """Return (`name`, said): what the labels of all examples of a medium or of a unit say, where any has labels."""
    from pyspark.sql import functions as sf

    subject = sf.explode("media") if name == "key" else sf.col("unit")
    labelled = examples.where(sf.size("labels") > 0).select("task", "labels", subject.alias(name))
    said = sf.to_json(sf.sort_array(sf.collect_set(sf.struct("task", "labels"))))
    return labelled.groupBy(name).agg(said.alias("said"))
