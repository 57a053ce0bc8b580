"""Withdrawals: units whose article the source took back or replaced after the build had read it."""

import pyarrow as pa
import pyarrow.compute as pc

from medloom.pipelines.recipe import Recipe
from medloom.pipelines.tables.known import Known
from medloom.schemas.raw import RawZone, is_raw_zone
from medloom.schemas.store import Store
from medloom.schemas.tables import TABLES

TABLE = "tables/withdrawal/part-00000.parquet"
GONE = ("withdrawn", "superseded")


def write_withdrawals(store: Store, recipe: Recipe, known: Known) -> None:
    """Write the table anew from what the catalogs of the recipe's raw zones say now; none without a raw zone."""
    rows = [
        row for source in recipe.sources if is_raw_zone(source.root) for row in _gone(source.name, source.root, known)
    ]
    schema = TABLES["withdrawal"]
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: (row["unit"], row["source"])), schema=schema)
    have = store.read_table(TABLE) if store.exists(TABLE) else schema.empty_table()
    if not have.equals(table):
        store.write_table(TABLE, table)


def _gone(source: str, root: str, known: Known) -> list[dict[str, str]]:
    """Return rows for the units whose article, or the record of it, the catalog no longer holds to be good."""
    catalog = RawZone(root).rows()
    whole = catalog.filter(pc.is_in(catalog["role"], pa.array(["article", "metadata"])))
    gone = whole.filter(pc.is_in(whole["outcome"], pa.array(GONE)))
    said = {row["article"]: row for row in gone.select(["article", "outcome", "reason", "detail"]).to_pylist()}
    named = whole.filter(
        pc.and_(pc.equal(whole["role"], "article"), pc.is_in(whole["article"], pa.array(sorted(said), pa.string())))
    )
    article_of = dict(zip(named["name"].to_pylist(), named["article"].to_pylist(), strict=True))
    mine = known.of(source)
    mine = mine.filter(pc.and_(pc.equal(mine["key"], ""), pc.is_in(mine["url"], named["name"].combine_chunks())))
    rows = [(row["unit"], said[article_of[row["url"]]]) for row in mine.to_pylist()]
    return [
        {
            "unit": unit, "source": source, "reason": why["reason"] or f"article.{why['outcome']}",
            "detail": why["detail"],
        }
        for unit, why in rows
    ]  # fmt: skip
