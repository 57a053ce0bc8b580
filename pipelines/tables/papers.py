"""Spark over papers: parse each article once and find the file of each of its figures."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from medloom.connectors import jats
from medloom.connectors.guard import Guard, GuardBug
from medloom.connectors.images import sniff
from medloom.pipelines.sources.listing import OBJECT, read_object
from medloom.pipelines.sources.papers import Papers
from medloom.pipelines.tables.batches import Work
from medloom.pipelines.tables.found import Found, reading_bug, refused_row
from medloom.pipelines.tables.pictures import base_of, names_of
from medloom.pipelines.tables.pieces import pieces_by_bytes
from medloom.schemas.build import conform
from medloom.schemas.errors import Refused
from medloom.schemas.keys import Identity, sha256_hex
from medloom.schemas.tables import TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PAPER_TABLES = ("article", "section", "paragraph", "figure", "mention")
PARSE_TIMEOUT_S = 120.0
HELD_BYTES = 4 << 20  # source bytes after which rows go to Spark; a batch for each article costs a sixth more
PICTURES = ("jpg", "png", "tiff", "gif")

_GRAPHIC = pa.struct([("key", pa.string()), ("base", pa.string()), ("names", pa.list_(pa.string()))])
_PARSED = pa.schema([
    *OBJECT,
    ("format", pa.string()), ("reason", pa.string()), ("detail", pa.string()),
    ("article_key", pa.string()), ("folder", pa.string()), ("paper", pa.string()), ("file", pa.int32()),
    ("graphics", pa.list_(_GRAPHIC)),
    *[(name, pa.list_(pa.struct(list(TABLES[name])))) for name in PAPER_TABLES],
])  # fmt: skip


def read_papers(
    spark: "SparkSession",
    source: Papers,
    work: Work,
    *,
    owners: Callable[[list[str]], dict[str, str]],
    partitions: int,
    files: int,
) -> Found:
    """Return what the articles and pictures among the objects of `work` came to.

    Args:
        owners: gives, of these keys of articles, the url of the object that each is known by; "" when another source
            has it.
        partitions: tasks that share the parsing.
        files: into how many pieces the tables are given.
    """
    objects = work.objects
    parsed = parse_papers(spark, source.root, objects, partitions=partitions, files=files).persist()
    facts = _decided(spark, parsed, work.pictures.among(_stems(parsed))).toArrow().to_pylist()
    articles = [f for f in facts if f["article_key"] and f["key"] is None]
    marks = {row["url"]: row for row in objects.to_pylist()}
    kept = _kept(articles, owners(sorted({f["article_key"] for f in articles})), set(marks))
    unit_of = {url: unit for unit, url in kept.items()}
    links = [_link(source, unit, "", marks[url], 0) for unit, url in sorted(kept.items())]
    for fact in facts:
        if fact["key"] is not None and fact["url"] in unit_of:
            picture = {name: fact[f"picture_{name}"] for name in OBJECT.names}
            links.append(_link(source, unit_of[fact["url"]], fact["key"], picture, 1))
    copy = "an article of the same key comes before it"
    refused = [
        refused_row(source.name, Identity(), marks[f["url"]], f["reason"], f"{f['url']}: {f['detail']}")
        for f in facts if f["key"] is None and f["reason"]
    ] + [
        refused_row(source.name, Identity(), marks[f["url"]], "article.duplicate", f"{f['url']}: {copy}")
        for f in articles if f["url"] not in unit_of
    ]  # fmt: skip

    def tables() -> Iterator[dict[str, pa.Table]]:
        wanted = pa.array(sorted(unit_of), pa.string())
        for number in range(files):
            part = parsed.where(f"article_key <> '' and file = {number}").select("url", "article_key", *PAPER_TABLES)
            rows = part.toArrow()
            yield _flat(rows.filter(pc.is_in(rows["url"], wanted)).sort_by("article_key"))
        parsed.unpersist()

    return Found(source.name, objects, work.listing, links, refused, {unit: group_of(unit) for unit in kept}, tables)


def parse_papers(spark: "SparkSession", root: str, objects: pa.Table, *, partitions: int, files: int) -> "DataFrame":
    """Return a row for each object: the rows of its tables, or the reason why it has none (see `read_papers`)."""
    from pyspark.sql.pandas.types import from_arrow_schema

    return (
        spark.createDataFrame(pieces_by_bytes(objects, partitions))
        .repartitionByRange(partitions, "piece")
        .mapInArrow(lambda batches: _parse(batches, root, files), from_arrow_schema(_PARSED))
    )


def group_of(article_key: str) -> str:
    """Return the group of an article: all its versions together."""
    return re.sub(r"^(pmc\d+)-\d+$", r"\1", article_key)


def _kept(articles: list[dict[str, Any]], owners: dict[str, str], read: set[str]) -> dict[str, str]:
    """Return {article_key: url} of the articles that are no second copy: who has a key keeps it, else the first url."""
    urls: dict[str, list[str]] = {}
    for fact in articles:
        urls.setdefault(fact["article_key"], []).append(fact["url"])
    kept = {}
    for key, mine in urls.items():
        owner = owners.get(key)
        if owner is None or (owner in read and owner not in mine):  # nobody's, or its owner became another article
            kept[key] = min(mine)
        elif owner in mine:
            kept[key] = owner
    return kept


def _link(source: Papers, unit: str, key: str, row: dict[str, Any], order: int) -> dict[str, Any]:
    return {
        "unit": unit, "key": key, "source": source.name, **{name: row[name] for name in OBJECT.names}, "order": order,
        "original_unit": "", "original_group": "",
    }  # fmt: skip


def _flat(rows: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of each table out of rows that hold lists of them, in order."""
    flat = {}
    for name in PAPER_TABLES:
        structs = pc.list_flatten(rows[name].combine_chunks())
        flat[name] = conform(pa.Table.from_struct_array(structs), TABLES[name])
    return flat


def _parse(batches: Iterator[pa.RecordBatch], root: str, files: int) -> Iterator[pa.RecordBatch]:
    """Read and parse each object; a row for every one, with its tables or with the reason why not."""
    held: list[dict[str, Any]] = []
    size = 0
    with Guard() as guard:
        for row in (row for batch in batches for piece in batch.to_pylist() for row in piece["objects"]):
            held.append(_parse_one(guard, root, row, files))
            size += row["size"]
            if size >= HELD_BYTES:
                yield from pa.Table.from_pylist(held, schema=_PARSED).to_batches()
                held, size = [], 0
    yield from pa.Table.from_pylist(held, schema=_PARSED).to_batches()


def _parse_one(guard: Guard, root: str, row: dict[str, Any], files: int) -> dict[str, Any]:
    folder, _, name = row["url"].rpartition("/")
    parsed: dict[str, Any] = {
        **row, "format": "", "reason": "", "detail": "", "article_key": "", "folder": folder,
        "paper": name.rpartition(".")[0] or name, "file": 0, "graphics": [], **{table: [] for table in PAPER_TABLES},
    }  # fmt: skip
    try:
        if name.startswith("."):
            raise Refused("source.hidden_file", "a file whose name starts with a dot; delete it or rename it")
        parsed["format"] = kind = sniff(read_object(root, row["url"], etag=row["etag"], limit_bytes=4096))
        if kind in PICTURES:
            return parsed
        if kind != "xml":
            raise Refused("source.format", f"{kind} is neither JATS XML nor a picture")
        if row["size"] > jats.MAX_BYTES:
            raise Refused("jats.large", f"{row['size']} bytes, the limit is {jats.MAX_BYTES}")
        data = read_object(root, row["url"], etag=row["etag"])
        # Not a function of this module: the child then imports lxml alone, which takes a quarter of the time.
        tables = guard.call(partial(jats.parse_article, source=row["url"]), data, timeout_s=PARSE_TIMEOUT_S)
    except Refused as refused:
        return parsed | {"reason": refused.reason, "detail": refused.detail}
    except GuardBug as fault:
        raise reading_bug(fault, Identity(), row["url"]) from None
    key = tables["article"][0]["article_key"]
    shared = {"article_key": key, "file": int(sha256_hex(key)[:8], 16) % files, "graphics": _graphics(tables["figure"])}
    return parsed | tables | shared


def _graphics(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the names, without extension, of files that each figure's graphic may be."""
    found = []
    for figure in figures:
        for media in figure["media"]:
            if media["role"] == "figure" and media["href"]:
                base = base_of(media["href"])
                found.append({"key": media["key"], "base": base, "names": names_of(base)})
    return found


def _decided(spark: "SparkSession", parsed: "DataFrame", pictures: pa.Table) -> "DataFrame":
    """Return a row for each object (`key` null), and one for each figure that has a file, with the best of its files.

    A file's name, its name without extension, or the last part of an `info:doi/…` or URL; in the article's folder, in
    a folder named after the article's file, or anywhere if it is the only one.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as sf

    rivals = Window.partitionBy("url", "key")
    best = rivals.orderBy("near", "by_name", "form", sf.desc("picture_size"), "picture_url")
    by_name = sf.when(sf.col("name") == sf.col("base"), 0).when(sf.col("stem") == sf.col("base"), 1).otherwise(2)
    last_folder = sf.element_at(sf.split("in_folder", "/"), -1)
    near = sf.when(sf.col("in_folder") == sf.col("folder"), 0).when(last_folder == sf.col("paper"), 1).otherwise(2)
    found = (
        parsed.select("url", "article_key", "folder", "paper", sf.explode("graphics").alias("g"))
        .select("url", "article_key", "folder", "paper", "g.key", "g.base", sf.explode("g.names").alias("stem"))
        .join(spark.createDataFrame(pictures), "stem")
        .withColumns({"by_name": by_name, "near": near})
        .withColumns({"nearest": sf.min("near").over(rivals), "folders": sf.collect_set("in_folder").over(rivals)})
        .where("nearest < 2 or size(folders) = 1")
        .withColumn("nth", sf.row_number().over(best))
        .where("nth = 1")
        .select("url", "article_key", "key", *[f"picture_{name}" for name in OBJECT.names])
    )
    objects = parsed.select("url", "format", "reason", "detail", "article_key")
    return objects.unionByName(found, allowMissingColumns=True)


def _stems(parsed: "DataFrame") -> pa.Array:
    """Return the names, without extension, that files of the figures of a batch may have."""
    from pyspark.sql import functions as sf

    graphics = parsed.select(sf.explode("graphics").alias("g"))
    stems = graphics.select(sf.explode("g.names").alias("stem")).distinct().toArrow()["stem"]
    return stems.combine_chunks().sort()
