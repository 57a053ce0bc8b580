"""Units that must not be released: their source took them back, or has a newer version of the article."""

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from medloom.schemas.build import Build

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SUPERSEDED = "article.superseded"
UNIT_STATE = pa.schema([("unit", pa.string()), ("state", pa.string()), ("reason", pa.string()), ("by", pa.string())])


def withdrawn_units(builds: list[Build]) -> list[dict[str, str]]:
    """Return a row of `UNIT_STATE` per unit and reason: what its source withdrew or superseded after it was read, and
    articles of which these builds hold a newer version, whatever became of that.

    What was withdrawn is "withdrawn", which no curator lifts; what was superseded is "withheld".
    """
    told = [row for build in builds for row in build.table("withdrawal").to_pylist()]
    found = {(row["unit"], row["reason"] or "article.withdrawn", "source") for row in told}
    versions = [
        (row["pmcid"], row["version"], row["article_key"])
        for build in builds
        for row in build.table("article", ["article_key", "pmcid", "version"]).to_pylist()
        if row["pmcid"] and row["version"]
    ]
    newest: dict[str, int] = {}
    for pmcid, version, _ in versions:
        newest[pmcid] = max(newest.get(pmcid, 0), version)
    found |= {(unit, SUPERSEDED, "versions") for pmcid, version, unit in versions if version < newest[pmcid]}
    return [
        {"unit": unit, "state": "withheld" if reason == SUPERSEDED else "withdrawn", "reason": reason, "by": by}
        for unit, reason, by in sorted(found)
    ]


def retracted_groups(builds: list[Build]) -> list[str]:
    """Return the groups of articles that say that they were retracted, or of which a notice in these builds says so.

    Every version of such an article leaves.
    """
    articles: list[dict[str, Any]] = []
    groups: dict[str, str] = {}
    for build in builds:
        names = ["article_key", "pmcid", "pmid", "doi", "is_retracted", "retracts"]
        articles += build.table("article", names).to_pylist()
        groups |= dict(zip(*build.table("group", ["unit", "group"]).to_pydict().values(), strict=True))
    taken_back = {name for row in articles for name in row["retracts"] or ()}
    return sorted({
        groups[row["article_key"]]
        for row in articles
        if row["article_key"] in groups
        and (row["is_retracted"] or not taken_back.isdisjoint({row["pmcid"], row["pmid"], (row["doi"] or "").lower()}))
    })  # fmt: skip


def states_of_units(units: "DataFrame", examples: "DataFrame", media: "DataFrame") -> "DataFrame":
    """Return rows of `STATE` for every medium and example of units, given rows of `UNIT_STATE`."""
    from pyspark.sql import functions as sf

    rows = [
        frame.join(sf.broadcast(units), "unit").select(
            sf.lit(scope).alias("scope"), sf.col(name).alias("id"), "state", "reason", "by"
        )
        for frame, scope, name in ((media, "medium", "key"), (examples, "example", "example_id"))
    ]
    return rows[0].unionByName(rows[1])


def without_gone(spark: "SparkSession", rows: "DataFrame", *, units: list[str], groups: list[str]) -> "DataFrame":
    """Return `rows` but those of `units` and `groups`: what has gone takes no one's place."""
    from pyspark.sql import functions as sf

    for column, names in (("unit", units), ("group", groups)):
        if names:
            gone = spark.createDataFrame(pa.table({column: pa.array(names, pa.string())}))
            rows = rows.join(sf.broadcast(gone), column, "left_anti")
    return rows
