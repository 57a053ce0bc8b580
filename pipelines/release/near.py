"""Near-duplicates across articles: who of a cluster is withheld and why.

A cluster of one group is left alone: the pictures of an article, and the versions of an article, are its own affair.
"""

import logging
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from medloom.pipelines.release.links import LINK, WINDOW, Clusters, links, picture_nodes
from medloom.pipelines.release.rows import rank, said_of
from medloom.pipelines.release.texts import overlapping, texts
from medloom.pipelines.release.withdrawn import states_of_units
from medloom.quality import minhash, phash
from medloom.quality.minhash import ARTICLE, CAPTION, TextKind
from medloom.schemas.build import Build, conform
from medloom.schemas.tables import STATE

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)

PICTURE = "picture"  # beside the kinds of texts
ACROSS, IMAGE, TEXT = "near_duplicate.across_splits", "near_duplicate.image", "near_duplicate.text"
MAX_GROUPS = 20  # a caption of more articles is a form to fill in (PRISMA's, a journal's), not a copy
RULES = {
    "phash": {"bits": phash.BITS, "distance": phash.MAX_DISTANCE, "bands": phash.BANDS, "cells": phash.BAND_CELLS},
    "minhash": {"permutations": minhash.PERMUTATIONS, "bands": minhash.BANDS, "caption_groups": MAX_GROUPS},
    **{kind.name: [kind.run_words, kind.min_words, kind.min_overlap] for kind in (ARTICLE, CAPTION)},
}


def near_duplicates(
    spark: "SparkSession", builds: list[Build], examples: "DataFrame", media: "DataFrame"
) -> list["DataFrame"]:
    """Return rows of `STATE`, in parts.

    Across splits the training side loses. Within a split the article of the first build that has them keeps its
    pictures and its examples, unless the labels differ: then all stay. A caption that stands twice in one split
    withholds nothing, since it stands below two pictures.

    Raises:
        ConfigError: the library that hashes texts is missing.
    """
    from pyspark.sql import functions as sf

    minhash.must_be_installed()  # here, not in a task
    written = {kind: texts(spark, builds, kind).persist() for kind in (ARTICLE, CAPTION)}
    holders = _holders(examples, media, written).persist()
    if holders.isEmpty():
        return []
    clustered = holders.join(spark.createDataFrame(_clusters(spark, media, written)), "node", "left")
    losing = _losing(clustered.withColumn("cluster", sf.coalesce("cluster", "node")), examples).persist()
    reason = sf.when(sf.col("across"), ACROSS).otherwise(sf.when(sf.col("kind") == PICTURE, IMAGE).otherwise(TEXT))
    named = losing.select("name", "kind", sf.lit("withheld").alias("state"), reason.alias("reason"), "by")
    of_media = named.where(f"kind <> '{ARTICLE.name}'").selectExpr("'medium' AS scope", "name AS id", *STATE.names[2:])
    of_units = named.where(f"kind = '{ARTICLE.name}'").selectExpr("name AS unit", "state", "reason", "by")
    return [of_media, states_of_units(of_units, examples, media)]


def _holders(examples: "DataFrame", media: "DataFrame", written: dict[TextKind, "DataFrame"]) -> "DataFrame":
    """Return (kind, name, node, build, group, split) of all that can be near something: a medium's key or a unit."""
    where = ("build", "group", "split")
    pictures = media.where("phash <> ''").selectExpr(f"'{PICTURE}' AS kind", "key AS name", "phash AS node", *where)
    units = media.select("unit", *where).unionByName(examples.select("unit", *where)).distinct()
    found = pictures
    for kind, places in ((CAPTION, media.selectExpr("key AS name", *where)), (ARTICLE, units.toDF("name", *where))):
        texts_there = written[kind].select("build", "name", "node").join(places, ["build", "name"])
        found = found.unionByName(texts_there.selectExpr(f"'{kind.name}' AS kind", "name", "node", *where))
    return found


def _clusters(spark: "SparkSession", media: "DataFrame", written: dict[TextKind, "DataFrame"]) -> pa.Table:
    """Return rows of `CLUSTER`, and log how many there are, the largest of each kind, and what was crowded.

    The links are collected: some 500 bytes for each node that has a near-duplicate.
    """
    nodes = picture_nodes(media)
    for found in written.values():
        nodes = nodes.unionByName(found.select("node", "bands").dropDuplicates(["node"]))
    made = conform(links(nodes.persist()).toArrow(), LINK)
    crowded, pairs = made.filter(pc.is_null(made["other"])), made.filter(pc.is_valid(made["other"]))
    joined = Clusters()
    for name in (PICTURE, *(kind.name for kind in written)):
        of_kind = pc.starts_with(pairs["one"], f"{name}:")
        if name == PICTURE:
            of_kind = pc.invert(pc.match_substring(pairs["one"], ":"))
        mine = pairs.filter(of_kind)
        for kind in (kind for kind in written if kind.name == name):
            mine = overlapping(spark, written[kind], mine, kind)
        for one, other in zip(mine["one"].to_pylist(), mine["other"].to_pylist(), strict=True):
            joined.join(one, other)
    table = joined.table()
    _tell(table, crowded.num_rows)
    return table


def _tell(table: pa.Table, crowded: int) -> None:
    if table.num_rows:
        sizes = table.group_by("cluster").aggregate([([], "count_all")])["count_all"].to_pylist()
        log.info("near-duplicates: %d hashes in %d clusters, the largest of %d", sum(sizes), len(sizes), max(sizes))
    if crowded:
        log.warning(
            "near-duplicates: %d bands are shared by more than %d hashes each; there each hash was compared with %d "
            "others only", crowded, WINDOW + 1, WINDOW,
        )  # fmt: skip


def _losing(rows: "DataFrame", examples: "DataFrame") -> "DataFrame":
    """Return (kind, name, across, by) of what each cluster withholds, given `_holders` with their cluster."""
    from pyspark.sql import Window
    from pyspark.sql import functions as sf

    strictest = Window.partitionBy("kind", "name").orderBy("rank", "build")  # a name of several builds is one thing
    whole, side = Window.partitionBy("cluster"), Window.partitionBy("cluster", "split")
    found = (
        rows.withColumn("rank", rank())
        .withColumn("view", sf.row_number().over(strictest))
        .where("view = 1")
        .withColumn("nth", sf.dense_rank().over(whole.orderBy("group")))
        .withColumn("n_groups", sf.max("nth").over(whole))
        .where(f"n_groups > 1 AND (kind <> '{CAPTION.name}' OR n_groups <= {MAX_GROUPS})")
    )
    said = said_of(examples, "key").selectExpr(f"'{PICTURE}' AS kind", "key AS name", "said")
    said = said.unionByName(said_of(examples, "unit").selectExpr(f"'{ARTICLE.name}' AS kind", "unit AS name", "said"))
    found = found.join(said, ["kind", "name"], "left").withColumn("said", sf.coalesce("said", sf.lit("[]")))
    first, agree = sf.first("group").over(side.orderBy("build", "name")), sf.min("said").over(side)
    within = (sf.col("group") != first) & (agree == sf.max("said").over(side)) & (sf.col("kind") != CAPTION.name)
    found = found.withColumn("across", sf.col("rank") > sf.min("rank").over(whole)).withColumn("within", within)
    by = sf.when(sf.col("kind") == PICTURE, "phash").otherwise(sf.concat("kind", sf.lit("s")))
    return found.where("across OR within").select("kind", "name", "across", by.alias("by"))
