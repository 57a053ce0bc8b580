"""The plan of a build: which unit stands in which shard; appended to, never changed."""

from collections.abc import Iterator, Mapping
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


class Shards(Mapping[ShardName, list[dict[str, Any]]]):
    """The units of every shard, by position, in the order of the shards' names.

    The plan is kept in columns: rows become dicts for the shard that is asked for, each time that it is asked for.
    """

    def __init__(self, plan: pa.Table):
        order = [(name, "ascending") for name in ("split", "shard", "position")]
        self._plan = plan.sort_by(order).combine_chunks()
        self._spans: dict[ShardName, tuple[int, int]] = {}
        start = 0
        for end in _ends(self._plan):
            row = self._plan.slice(start, 1).to_pylist()[0]
            self._spans[ShardName(row["split"], row["shard"])] = (start, end)
            start = end

    def __getitem__(self, shard: ShardName) -> list[dict[str, Any]]:
        start, end = self._spans[shard]
        return self._plan.slice(start, end - start).to_pylist()

    def __iter__(self) -> Iterator[ShardName]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def ordinals(self, units: pa.ChunkedArray) -> np.ndarray:
        """Return, for each unit, which of the shards in their order it stands in; their number for one in none."""
        at = pc.index_in(units, value_set=self._plan["unit"].combine_chunks()).to_numpy(zero_copy_only=False)
        ends = np.array([end for _, end in self._spans.values()], np.int64)
        at = np.where(np.isnan(at.astype(float)), self._plan.num_rows, at).astype(np.int64)
        return np.searchsorted(ends, at, side="right")


def _ends(ordered: pa.Table) -> list[int]:
    """Return where the run of equal split and shard ends, for every run of the ordered plan."""
    if not ordered.num_rows:
        return []
    split = ordered["split"].combine_chunks().dictionary_encode().indices.to_numpy()
    shard = ordered["shard"].to_numpy()
    differs = (split[1:] != split[:-1]) | (shard[1:] != shard[:-1])
    return [*(np.flatnonzero(differs) + 1).tolist(), ordered.num_rows]
