"""The plan of a build: which unit stands in which shard; appended to, never changed."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medloom.schemas.keys import sha256_hex
from medloom.schemas.shard import ShardName
from medloom.schemas.store import Store
from medloom.schemas.tables import PLAN


def split_of(group: str, *, salt: str, shares: dict[str, float]) -> str:
    """Return the split of a group: a salted hash against cumulative `shares`, so that it never depends on others."""
    point = int(sha256_hex(f"{salt}|{group}")[:16], 16) / 2**64
    edge = 0.0
    for split, share in shares.items():
        edge += share
        if point < edge:
            return split
    return list(shares)[-1]


def cut(units: pa.Table, *, taken: dict[str, int], shard_bytes: int) -> pa.Table:
    """Return new plan rows for `units` (unit, source, group, split, source_bytes).

    Units are sorted by hash(group), then unit, and cut into shards of at most `shard_bytes` of source (one larger unit
    is a shard of its own). `taken` is how many shards each split has already: new units always open new shards.
    """
    rows = []
    for split in sorted(pc.unique(units["split"]).to_pylist()):
        part = units.filter(pc.equal(units["split"], split))
        names = zip(part["group"].to_pylist(), part["unit"].to_pylist(), strict=True)
        hashed = [(sha256_hex(group), unit, i) for i, (group, unit) in enumerate(names)]
        order = [i for _, _, i in sorted(hashed)]
        part = part.take(pa.array(order, pa.int64()))
        shard, position = _cut(part["source_bytes"].to_numpy(), shard_bytes)
        part = part.append_column("shard", pa.array(shard + taken.get(split, 0), pa.int32()))
        part = part.append_column("position", pa.array(position, pa.int32()))
        rows.append(part.select(PLAN.names).cast(PLAN))
    return pa.concat_tables(rows) if rows else PLAN.empty_table()


def _cut(sizes: np.ndarray, shard_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    shard, position = np.zeros(len(sizes), np.int32), np.zeros(len(sizes), np.int32)
    number, count, filled = 0, 0, 0
    for i, size in enumerate(sizes):
        if count and filled + size > shard_bytes:
            number, count, filled = number + 1, 0, 0
        shard[i], position[i] = number, count
        count, filled = count + 1, filled + int(size)
    return shard, position


def read_plan(store: Store) -> pa.Table:
    """Return all rows of the plan, in the order they were appended."""
    parts = [store.read_table(f"plan/{name}") for name in store.names("plan") if name.endswith(".parquet")]
    return pa.concat_tables(parts) if parts else PLAN.empty_table()


def shards_of(plan: pa.Table) -> dict[ShardName, list[dict[str, Any]]]:
    """Return the units of every shard, by position."""
    shards: dict[ShardName, list[dict[str, Any]]] = {}
    for row in plan.to_pylist():
        shards.setdefault(ShardName(row["split"], row["shard"]), []).append(row)
    return {name: sorted(rows, key=lambda r: r["position"]) for name, rows in sorted(shards.items())}
