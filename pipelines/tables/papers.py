"""Spark over papers: parse each article once, find the files of its figures, and account for every object."""

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from medloom.connectors import jats
from medloom.connectors.guard import Guard
from medloom.connectors.images import sniff
from medloom.pipelines.sources.listing import OBJECT, read_object
from medloom.pipelines.sources.papers import Papers
from medloom.schemas.errors import Refused
from medloom.schemas.keys import Identity
from medloom.schemas.tables import TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PAPER_TABLES = ("article", "section", "paragraph", "figure", "mention")
PARSE_TIMEOUT_S = 120.0
PICTURES = ("jpg", "png", "tiff", "gif")
MAX_PAPER_BYTES = 64 << 20

_PARSED = pa.schema([
    *OBJECT,
    ("format", pa.string()),
    ("reason", pa.string()),
    ("detail", pa.string()),
    *[(name, pa.list_(pa.struct(list(TABLES[name])))) for name in PAPER_TABLES],
])  # fmt: skip


def paper_tables(
    spark: "SparkSession", source: Papers, objects: pa.Table, listing: pa.Table, *, partitions: int
) -> dict[str, "DataFrame"]:
    """Return the rows of the paper tables, "quarantine", "links" and "unit" (unit, source, group, source_bytes).

    Args:
        objects: rows of `OBJECT` to read now.
        listing: rows of `OBJECT` of the whole source, among which figure files are looked for.
        partitions: tasks that share the parsing.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as sf
    from pyspark.sql.pandas.types import from_arrow_schema

    root = source.root
    parsed = (
        spark.createDataFrame(objects)
        .repartition(partitions, "url")
        .mapInArrow(lambda batches: _parse(batches, root), from_arrow_schema(_PARSED))
        .persist()
    )
    one = Window.partitionBy("article_key").orderBy("url")
    articles = (
        parsed.where("reason = '' and size(article) = 1")
        .select("url", sf.col("article")[0].alias("a"))
        .select("url", "a.*")
        .withColumn("nth", sf.row_number().over(one))
    )
    kept = articles.where("nth = 1").drop("nth")
    tables: dict[str, DataFrame] = {"article": kept.drop("url")}
    for name in PAPER_TABLES[1:]:
        rows = parsed.join(kept.select("url"), "url", "left_semi").select(sf.explode(name).alias("x")).select("x.*")
        tables[name] = rows
    tables["links"] = _links(spark, source, parsed, kept, tables["figure"], listing).persist()
    tables["quarantine"] = _refused(source, parsed, articles, tables["links"])
    tables["unit"] = kept.select(
        sf.col("article_key").alias("unit"),
        sf.lit(source.name).alias("source"),
        sf.regexp_replace("article_key", r"^(pmc\d+)-\d+$", "$1").alias("group"),  # all versions of an article
        "source_bytes",
    )
    return tables


def _parse(batches: Iterator[pa.RecordBatch], root: str) -> Iterator[pa.RecordBatch]:
    """Read and parse each object; a row for every one, with its tables or with the reason why not."""
    with Guard() as guard:
        for batch in batches:
            for row in batch.to_pylist():
                yield from pa.Table.from_pylist([_parse_one(guard, root, row)], schema=_PARSED).to_batches()


def _parse_one(guard: Guard, root: str, row: dict[str, Any]) -> dict[str, Any]:
    parsed: dict[str, Any] = {**row, "format": "", "reason": "", "detail": "", **{name: [] for name in PAPER_TABLES}}
    parsed["format"] = kind = sniff(read_object(root, row["url"], limit_bytes=4096)) if row["size"] else "empty"
    try:
        if os.path.basename(row["url"]).startswith("."):
            raise Refused("source.hidden_file", "a file whose name starts with a dot; delete it or rename it")
        if kind == "empty":
            raise Refused("source.empty_file", "the file holds no byte")
        if kind in PICTURES:
            return parsed
        if kind != "xml":
            raise Refused("source.format", f"{kind} is neither JATS XML nor a picture")
        if row["size"] > MAX_PAPER_BYTES:
            raise Refused("jats.size", f"{row['size']} bytes are more than {MAX_PAPER_BYTES}")
        data = read_object(root, row["url"])
        tables = guard.call(_tables_of, data, row["url"], timeout_s=PARSE_TIMEOUT_S)
        return parsed | tables
    except Refused as refused:
        return parsed | {"reason": refused.reason, "detail": refused.detail}


def _tables_of(data: bytes, url: str) -> dict[str, list[dict[str, Any]]]:
    tables = jats.parse_article(data, source=url)
    digests = {"source_md5": hashlib.md5(data, usedforsecurity=False).hexdigest(), "source_bytes": len(data)}
    tables["article"] = [{**tables["article"][0], **digests, "source_digest": hashlib.sha256(data).hexdigest()}]
    return tables


def _links(
    spark: "SparkSession",
    source: Papers,
    parsed: "DataFrame",
    kept: "DataFrame",
    figure: "DataFrame",
    listing: pa.Table,
) -> "DataFrame":
    """Return rows of `LINK`: the article's own file, and for each figure the best file that its href can mean.

    A file's name, its name without extension, or the last part of an `info:doi/…` or URL; in the article's folder, in
    a folder named after the article's file, or anywhere if it is the only one.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as sf

    files = spark.createDataFrame(_pictures(listing))
    graphics = (
        figure.select("article_key", sf.explode("media").alias("m"))
        .where("m.role = 'figure' and m.href <> ''")
        .join(kept.select("article_key", sf.col("url").alias("article_url")), "article_key")
        .select(
            "article_key",
            "m.key",
            sf.regexp_extract("m.href", r"(?:.*/)?(?:journal\.)?([^/]*)$", 1).alias("base"),
            sf.regexp_extract("article_url", r"^(.*?)[^/]*$", 1).alias("article_folder"),
            sf.regexp_extract("article_url", r"([^/]*?)(\.[^./]*)?$", 1).alias("article_stem"),
        )
        .withColumn("base_stem", sf.regexp_replace("base", r"\.[A-Za-z]{2,4}$", ""))
    )
    by_name = sf.when(sf.col("name") == sf.col("base"), 0).when(sf.col("stem") == sf.col("base"), 1).otherwise(2)
    near = (
        sf.when(sf.col("folder") == sf.col("article_folder"), 0)
        .when(sf.element_at(sf.split(sf.rtrim(sf.col("folder"), sf.lit("/")), "/"), -1) == sf.col("article_stem"), 1)
        .otherwise(2)
    )
    same = (files.stem == graphics.base) | (files.stem == graphics.base_stem)
    rivals = Window.partitionBy("key")
    best = Window.partitionBy("key").orderBy("near", "by_name", "form", sf.desc("size"), "url")
    chosen = (
        graphics.join(files, same)
        .withColumn("by_name", by_name)
        .withColumn("near", near)
        .withColumn("nearest", sf.min("near").over(rivals))
        .withColumn("folders", sf.size(sf.collect_set("folder").over(rivals)))
        .where("nearest < 2 or folders = 1")
        .withColumn("nth", sf.row_number().over(best))
        .where("nth = 1")
        .select(sf.col("article_key").alias("unit"), "key", "url", "size", "mtime_ns", "etag", sf.lit(1).alias("order"))
    )
    own = kept.join(parsed.select(*OBJECT.names), "url").select(
        sf.col("article_key").alias("unit"), sf.lit("").alias("key"), *OBJECT.names, sf.lit(0).alias("order")
    )
    return own.unionByName(chosen).select(
        "unit", "key", sf.lit(source.name).alias("source"), *OBJECT.names, "order",
        sf.lit("").alias("original_unit"), sf.lit("").alias("original_group"),
    )  # fmt: skip


def _pictures(listing: pa.Table) -> pa.Table:
    """Return the listing's picture files with folder, name, stem and how good their form is as a figure."""
    forms = {"jpg": 0, "jpeg": 0, "png": 0, "tif": 1, "tiff": 1, "gif": 2}
    rows = []
    for row in listing.to_pylist():
        folder, _, name = row["url"].rpartition("/")
        stem, _, ending = name.rpartition(".")
        if ending.lower() in forms and not name.startswith("."):
            form = forms[ending.lower()] + (3 if "thumb" in stem.lower() else 0)
            rows.append({**row, "folder": f"{folder}/" if folder else "", "name": name, "stem": stem, "form": form})
    extra = [("folder", pa.string()), ("name", pa.string()), ("stem", pa.string()), ("form", pa.int32())]
    return pa.Table.from_pylist(rows, schema=pa.schema([*OBJECT, *extra]))


def _refused(source: Papers, parsed: "DataFrame", articles: "DataFrame", links: "DataFrame") -> "DataFrame":
    """Return quarantine rows for what is no article, a second copy of one, or a picture that no figure shows."""
    from pyspark.sql import functions as sf

    token = sf.udf(lambda kind, value: Identity().token(kind, value), "string")
    copies = articles.where("nth > 1").select("url", sf.lit("article.duplicate").alias("why"))
    unused = parsed.where(sf.col("format").isin(*PICTURES) & (sf.col("reason") == "")).select("url")
    unused = unused.join(links.select("url"), "url", "left_anti").select(
        "url", sf.lit("image.unreferenced").alias("why")
    )
    late = parsed.join(copies.unionByName(unused), "url").select(
        "url", "size", sf.col("why").alias("reason"), _named(sf)
    )
    early = parsed.where("reason <> ''").select(
        "url", "size", "reason", sf.concat_ws(": ", "url", "detail").alias("detail")
    )
    return late.unionByName(early).select(
        token(sf.lit("object"), "url").alias("unit"), sf.lit("").alias("key"), sf.lit(source.name).alias("source"),
        sf.lit("tables").alias("stage"), "reason", "detail", sf.col("size").alias("source_bytes"), "url",
    )  # fmt: skip


def _named(sf: Any) -> Any:
    copy = sf.lit(": an article of the same key comes before it")
    alone = sf.lit(": no figure of an article refers to it")
    return sf.concat("url", sf.when(sf.col("why") == "article.duplicate", copy).otherwise(alone)).alias("detail")
