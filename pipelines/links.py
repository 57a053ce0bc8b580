"""Links of a build's units, as `media` and its workers read them: which objects make each unit, in order."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medloom.pipelines.tables.changes import REFUSED
from medloom.pipelines.tables.known import LINKS
from medloom.schemas.build import Build, conform
from medloom.schemas.plan import Shards
from medloom.schemas.shard import ShardName
from medloom.schemas.store import Store
from medloom.schemas.tables import LINK

Links = dict[str, list[dict[str, Any]]]


def links_by_unit(store: Store, units: list[str] | None = None) -> Links:
    """Return the links of units in order, each with the name of the "part" that it stands in."""
    return _by_unit(_read(store, units))


def withdrawn_units(build: Build) -> dict[str, dict[str, Any]]:
    """Return the row of "withdrawal" by unit: what a source took back is not read or asked about again."""
    return {row["unit"]: row for row in build.table("withdrawal").to_pylist()}


class ShardLinks:
    """The links of every shard of a build; they stand in columns and become dicts for one shard at a time."""

    def __init__(self, store: Store, shards: Shards):
        links = _read(store, None)
        shard = shards.ordinals(links["unit"])
        order = np.argsort(shard, kind="stable")
        self._links = links.take(pa.array(order))
        self._starts = dict(zip(shards, np.searchsorted(shard[order], np.arange(len(shards))), strict=True))
        self._ends = dict(zip(shards, np.searchsorted(shard[order], np.arange(len(shards)), side="right"), strict=True))

    def __getitem__(self, shard: ShardName) -> Links:
        start, end = int(self._starts[shard]), int(self._ends[shard])
        return _by_unit(self._links.slice(start, end - start))


def _read(store: Store, units: list[str] | None) -> pa.Table:
    among = ("unit", units) if units is not None else None
    schema = LINK.append(pa.field("part", pa.string()))
    parts = []
    for name in store.names(LINKS):
        rows = conform(store.read_table(f"{LINKS}/{name}", among=among), LINK)
        rows = rows.filter(pc.not_equal(rows["key"], REFUSED))
        parts.append(rows.append_column("part", pa.array([name] * rows.num_rows, pa.string())))
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _by_unit(table: pa.Table) -> Links:
    links: Links = {}
    for row in table.to_pylist():
        links.setdefault(row["unit"], []).append(row)
    return {unit: sorted(rows, key=lambda r: (r["order"], r["key"], r["url"])) for unit, rows in links.items()}
