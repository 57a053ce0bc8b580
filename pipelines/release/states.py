"""Spark over a release's rows: who is withheld and why: soft checks, duplicates, licences, retractions."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from medloom.schemas.build import Build
from medloom.schemas.origin import TERMS
from medloom.schemas.tables import STATE

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


@dataclass(frozen=True)
class Policy:
    """What a release decides on top of the facts.

    Attributes:
        commercial: withhold what its terms keep from commercial use.
        checks: withhold what fails a soft check.
        duplicates: withhold images that their split holds twice, pixel for pixel. What stands in two splits is always
            withheld from the one nearer to training.
    """

    commercial: bool = False
    checks: bool = True
    duplicates: bool = True


def states(
    spark: "SparkSession", builds: list[Build], examples: "DataFrame", media: "DataFrame", policy: Policy
) -> "DataFrame":
    """Return rows of `STATE`, one per subject and reason."""
    from pyspark.sql.pandas.types import from_arrow_schema

    found = spark.createDataFrame(pa.Table.from_pylist(_by_query(builds, policy), schema=STATE))
    found = found.to(from_arrow_schema(STATE))
    if policy.checks:
        for rows in (examples, media):
            found = found.unionByName(rows.selectExpr("inline(states)"))
    for rows in (_straddling(examples), _duplicates(examples, media, policy), _forbidden(media, policy)):
        found = found.unionByName(rows)
    return found.distinct()


def _by_query(builds: list[Build], policy: Policy) -> list[dict[str, str]]:
    """Return states of whole groups and of all text of some terms."""
    rows = [
        {"scope": "query", "id": f"terms_id={terms_id}", "state": "withheld", "reason": reason, "by": "policy"}
        for terms_id, reason in _forbidden_terms(policy).items()
    ]
    for build in builds:
        retracted = build.table("article", ["article_key", "is_retracted"]).to_pylist()
        groups = dict(zip(*build.table("group", ["unit", "group"]).to_pydict().values(), strict=True))
        rows += [
            {"scope": "group", "id": groups[r["article_key"]], "state": "withheld", "reason": "article.retracted",
             "by": "policy"}
            for r in retracted if r["is_retracted"] and r["article_key"] in groups
        ]  # fmt: skip
    return rows


def _forbidden_terms(policy: Policy) -> dict[str, str]:
    """Return the reason by terms_id of what the policy keeps out."""
    out = {"unknown": "terms.unknown"}
    if policy.commercial:
        out = {name: "terms.non_commercial" for name, terms in TERMS.items() if not terms.commercial} | out
    return out


def _forbidden(media: "DataFrame", policy: Policy) -> "DataFrame":
    from pyspark.sql import functions as sf

    reasons = _forbidden_terms(policy)
    pairs = [sf.lit(x) for pair in reasons.items() for x in pair]
    reason = sf.element_at(sf.create_map(*pairs), sf.col("terms_id"))
    out = media.where(sf.col("terms_id").isin(list(reasons)))
    return out.select(
        sf.lit("medium").alias("scope"), sf.col("key").alias("id"), sf.lit("withheld").alias("state"),
        reason.alias("reason"), sf.lit("policy").alias("by"),
    )  # fmt: skip


def _rank() -> "Column":
    """Of two splits that hold the same thing, the one with the larger rank loses it."""
    from pyspark.sql import functions as sf

    return sf.when(sf.col("split") == "test", 0).when(sf.col("split") == "train", 2).otherwise(1)


def _straddling(examples: "DataFrame") -> "DataFrame":
    """Return states of examples whose group or media stand in a stricter split too: builds may split differently."""
    from pyspark.sql import Window
    from pyspark.sql import functions as sf

    group = sf.array(sf.concat(sf.lit("group:"), "group"))
    shared = sf.concat(group, sf.transform("media", lambda key: sf.concat(sf.lit("medium:"), key)))
    rows = examples.select("example_id", _rank().alias("rank"), sf.explode(shared).alias("subject"))
    best = sf.min("rank").over(Window.partitionBy("subject"))
    losing = rows.withColumn("best", best).where("rank > best").select("example_id").distinct()
    return losing.select(
        sf.lit("example").alias("scope"), sf.col("example_id").alias("id"), sf.lit("withheld").alias("state"),
        sf.lit("group.across_splits").alias("reason"), sf.lit("splits").alias("by"),
    )  # fmt: skip


def _duplicates(examples: "DataFrame", media: "DataFrame", policy: Policy) -> "DataFrame":
    """Return states of media whose pixels stand elsewhere under another key: across splits the training side loses;
    within a split the first build's medium wins, unless their labels differ: then both stay.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as sf

    said = (
        examples.where(sf.size("labels") > 0)
        .select("task", "labels", sf.explode("media").alias("key"))
        .groupBy("key")
        .agg(sf.to_json(sf.sort_array(sf.collect_set(sf.struct("task", "labels")))).alias("said"))
    )
    strictest = Window.partitionBy("key").orderBy("rank", "build")  # a key of several builds is one medium
    same = Window.partitionBy("pixel_digest")
    first = Window.partitionBy("pixel_digest", "split").orderBy("build", "key")
    shared = (
        media.where("pixel_digest <> ''")
        .withColumn("rank", _rank())
        .withColumn("view", sf.row_number().over(strictest))
        .where("view = 1")
        .join(said, "key", "left")
        .withColumn("said", sf.coalesce("said", sf.lit("[]")))
        .withColumn("best", sf.min("rank").over(same))
        .withColumn("nth", sf.row_number().over(first))
        .withColumn("agree", sf.size(sf.collect_set("said").over(Window.partitionBy("pixel_digest", "split"))) == 1)
    )
    across = sf.col("rank") > sf.col("best")
    within = (sf.col("nth") > 1) & sf.col("agree") & sf.lit(policy.duplicates)
    reason = sf.when(across, "duplicate.across_splits").otherwise("duplicate.exact")
    return shared.where(across | within).select(
        sf.lit("medium").alias("scope"), sf.col("key").alias("id"), sf.lit("withheld").alias("state"),
        reason.alias("reason"), sf.lit("pixels").alias("by"),
    )  # fmt: skip
