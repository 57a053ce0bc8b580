"""Places: every new unit gets a group's split and a shard, recorded once and kept for ever."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medloom.pipelines.recipe import Recipe
from medloom.pipelines.tables.found import Found
from medloom.schemas.build import Build
from medloom.schemas.plan import cut, read_plan, split_of
from medloom.schemas.store import Store
from medloom.schemas.tables import PLAN, TABLES


def new_groups(build: Build, recipe: Recipe, found: list[Found], known_units: set[str]) -> pa.Table:
    """Return rows of "group" for the units that have none.

    The split is the group's recorded one, else the official one of its units, the most protected where they differ,
    else a salted hash of the group alone.
    """
    maybe = sorted(known_units & {unit for one in found for unit in one.groups})
    have = set(build.table("group", ["unit"], units=maybe)["unit"].to_pylist()) if maybe else set()
    stated = _stated(build, found)
    rows = []
    for one in found:
        for unit, group in one.groups.items():
            if unit not in have:
                split, by = stated.get(group) or (split_of(group, salt=recipe.salt, shares=recipe.shares), "hash")
                rows.append({"unit": unit, "source": one.source, "group": group, "split": split, "split_by": by})
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["unit"]), schema=TABLES["group"])


def _stated(build: Build, found: list[Found]) -> dict[str, tuple[str, str]]:
    """Return split and what decided it, by group, of the groups whose split a source states or the build has."""
    stating = [one for one in found if one.splits is not None]
    if not stating:
        return {}
    stated: dict[str, tuple[str, str]] = {}
    for one in stating:
        for unit, split in (one.splits or {}).items():
            before, _ = stated.get(one.groups[unit], (split, ""))
            stated[one.groups[unit]] = min(before, split, key=_PROTECTED.index), "official"
    named = pa.array(sorted({group for one in stating for group in one.groups.values()}), pa.string())
    recorded = build.table("group", ["group", "split", "split_by"])
    kept = recorded.filter(pc.is_in(recorded["group"], named)).to_pylist()
    return stated | {row["group"]: (row["split"], row["split_by"]) for row in kept}


_PROTECTED = ("test", "validation", "train")  # which of two official splits of one patient holds


class Places:
    """The plan of a build: units that have a group but no place get one, in shards of their own."""

    def __init__(self, store: Store, recipe: Recipe):
        self._store, self._recipe = store, recipe
        plan = read_plan(store)
        self._parts = len([name for name in store.names("plan") if name.endswith(".parquet")])
        last = plan.group_by("split").aggregate([("shard", "max")]).to_pylist()
        self._taken: dict[str, int] = {row["split"]: row["shard_max"] + 1 for row in last}
        build = Build(store.url)
        groups = build.table("group")
        missed = groups.filter(pc.invert(pc.is_in(groups["unit"], plan["unit"].combine_chunks())))
        if missed.num_rows:  # a run that was killed gave them groups and no places
            self.add(missed, _sizes(build, missed["unit"].to_pylist()))

    def add(self, groups: pa.Table, sizes: dict[str, int]) -> None:
        """Append the units of rows of "group" to the plan; `sizes` are their source bytes."""
        if not groups.num_rows:
            return
        bytes_ = pa.array([sizes.get(unit, 0) for unit in groups["unit"].to_pylist()], pa.int64())
        rows = cut(
            groups.append_column("source_bytes", bytes_), taken=self._taken, shard_bytes=self._recipe.shard_bytes
        )
        self._write(rows.cast(PLAN))
        for row in rows.group_by("split").aggregate([("shard", "max")]).to_pylist():
            self._taken[row["split"]] = row["shard_max"] + 1

    def begin(self) -> None:
        """Leave a plan even when a first run refused everything, so that the gate can say so."""
        if not self._parts:
            self._write(PLAN.empty_table())

    def _write(self, rows: pa.Table) -> None:
        self._store.write_table(f"plan/part-{self._parts:05d}.parquet", rows)
        self._parts += 1


def _sizes(build: Build, units: list[str]) -> dict[str, int]:
    found: dict[str, Any] = {}
    for table, column in (("article", "article_key"), ("series", "unit")):
        rows = build.table(table, [column, "source_bytes"], units=units)
        found |= dict(zip(rows[column].to_pylist(), rows["source_bytes"].to_pylist(), strict=True))
    return found
