"""Spark over a release's rows: who is withheld and why: soft checks, duplicates, licences, withdrawals."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from medloom.pipelines.release.near import near_duplicates
from medloom.pipelines.release.rows import rank, said_of
from medloom.pipelines.release.withdrawn import (
    UNIT_STATE,
    retracted_groups,
    states_of_units,
    withdrawn_units,
    without_gone,
)
from medloom.schemas.build import Build
from medloom.schemas.origin import TERMS
from medloom.schemas.tables import STATE

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class Policy:
    """What a release decides on top of the facts.

    Attributes:
        commercial: withhold what its terms keep from commercial use.
        checks: withhold what fails a soft check.
        duplicates: withhold images that their split holds twice, pixel for pixel, and volumes that were read with the
            same values. What stands in two splits is always withheld from the one nearer to training.
        near_duplicates: withhold pictures and articles that are nearly those of another article, within a split and
            from the training side of two, and pictures whose caption stands in another split.
    """

    commercial: bool = False
    checks: bool = True
    duplicates: bool = True
    near_duplicates: bool = True


def states(
    spark: "SparkSession", builds: list[Build], examples: "DataFrame", media: "DataFrame", policy: Policy
) -> "DataFrame":
    """Return rows of `STATE`, one per subject and reason."""
    from pyspark.sql.pandas.types import from_arrow_schema

    retracted, gone = retracted_groups(builds), withdrawn_units(builds)
    found = spark.createDataFrame(pa.Table.from_pylist(_by_query(retracted, policy), schema=STATE))
    found = found.to(from_arrow_schema(STATE))
    if policy.checks:
        for rows in (examples, media):
            found = found.unionByName(rows.selectExpr("inline(states)"))
    if gone:
        units = spark.createDataFrame(pa.Table.from_pylist(gone, schema=UNIT_STATE))
        found = found.unionByName(states_of_units(units, examples, media))
    there = {"units": sorted({row["unit"] for row in gone}), "groups": retracted}
    examples, media = (without_gone(spark, rows, **there) for rows in (examples, media))
    exact = _duplicates(examples, media, policy)
    for rows in (_straddling(examples), exact, _forbidden(media, policy)):
        found = found.unionByName(rows)
    if policy.near_duplicates:
        may = media.where(~media["terms_id"].isin(list(_forbidden_terms(policy))))
        for rows in near_duplicates(spark, builds, examples, may):
            found = found.unionByName(rows.join(exact.select("scope", "id"), ["scope", "id"], "left_anti"))
    return found.distinct()


def _by_query(retracted: list[str], policy: Policy) -> list[dict[str, str]]:
    """Return states of whole groups and of all text of some terms."""
    rows = [
        {"scope": "query", "id": f"terms_id={terms_id}", "state": "withheld", "reason": reason, "by": "policy"}
        for terms_id, reason in _forbidden_terms(policy).items()
    ]
    return rows + [
        {"scope": "group", "id": group, "state": "withheld", "reason": "article.retracted", "by": "policy"}
        for group in retracted
    ]


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


def _straddling(examples: "DataFrame") -> "DataFrame":
    """Return states of examples whose group or media stand in a stricter split too: builds may split differently."""
    from pyspark.sql import Window
    from pyspark.sql import functions as sf

    group = sf.array(sf.concat(sf.lit("group:"), "group"))
    shared = sf.concat(group, sf.transform("media", lambda key: sf.concat(sf.lit("medium:"), key)))
    rows = examples.select("example_id", rank().alias("rank"), sf.explode(shared).alias("subject"))
    best = sf.min("rank").over(Window.partitionBy("subject"))
    losing = rows.withColumn("best", best).where("rank > best").select("example_id").distinct()
    return losing.select(
        sf.lit("example").alias("scope"), sf.col("example_id").alias("id"), sf.lit("withheld").alias("state"),
        sf.lit("group.across_splits").alias("reason"), sf.lit("splits").alias("by"),
    )  # fmt: skip


def _duplicates(examples: "DataFrame", media: "DataFrame", policy: Policy) -> "DataFrame":
    """Return states of media whose pixels as stored, or whose volume as read, stand elsewhere under another key."""
    pixels = _same(examples, media, policy, "pixel_digest", "pixels")
    voxels = _same(examples, media, policy, "voxel_digest", "voxels")
    return pixels.unionByName(voxels.join(pixels.select("id", "reason"), ["id", "reason"], "left_anti"))


def _same(examples: "DataFrame", media: "DataFrame", policy: Policy, digest: str, by: str) -> "DataFrame":
    """Return states of media that share the value of the column `digest`: across splits the training side loses;
    within a split the first build's medium wins, unless their labels or what is drawn in them differ: then both stay.
    The volumes that stages made of one unit share what they were read from, and are no duplicates of each other.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as sf

    strictest = Window.partitionBy("key").orderBy("rank", "build")  # a key of several builds is one medium
    same, side = Window.partitionBy(digest), Window.partitionBy(digest, "split")
    first = side.orderBy("build", "key")
    another = sf.col("unit") != sf.first("unit").over(first) if by == "voxels" else sf.lit(True)
    shared = (
        media.where(f"{digest} <> ''")
        .withColumn("rank", rank())
        .withColumn("view", sf.row_number().over(strictest))
        .where("view = 1")
        .join(said_of(examples, "key"), "key", "left")
        .withColumn("said", sf.concat(sf.coalesce("said", sf.lit("[]")), sf.coalesce("drawn", sf.lit("[]"))))
        .withColumn("best", sf.min("rank").over(same))
        .withColumn("nth", sf.row_number().over(first))
        .withColumn("another", another)
        .withColumn("agree", sf.min("said").over(side) == sf.max("said").over(side))
    )
    across = sf.col("rank") > sf.col("best")
    within = (sf.col("nth") > 1) & sf.col("another") & sf.col("agree") & sf.lit(policy.duplicates)
    reason = sf.when(across, "duplicate.across_splits").otherwise("duplicate.exact")
    return shared.where(across | within).select(
        sf.lit("medium").alias("scope"), sf.col("key").alias("id"), sf.lit("withheld").alias("state"),
        reason.alias("reason"), sf.lit(by).alias("by"),
    )  # fmt: skip
