"""Build: a build folder as a reader sees it: plan, tables, ledgers, index, examples, manifest."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pyarrow as pa

from medloom.schemas import manifest as manifests
from medloom.schemas.errors import FormatError, SourceError
from medloom.schemas.plan import Shards, read_plan
from medloom.schemas.shard import ShardName, read_member, shard_name
from medloom.schemas.store import Store
from medloom.schemas.tables import EXAMPLE, INDEX, TABLES


class Build:
    """Reads a build folder by URL; it never writes."""

    def __init__(self, url: str):
        self.store = Store(url)

    @property
    def url(self) -> str:
        """Where it is."""
        return self.store.url

    def must_exist(self) -> "Build":
        """Return itself.

        Raises:
            SourceError: there is no build there.
        """
        if not self.store.names("plan"):
            raise SourceError(
                f"{self.url} is not a build: it has no plan/; `medloom build RECIPE --to {self.url}` makes one"
            )
        return self

    def manifest(self) -> dict[str, Any]:
        """The newest manifest.

        Raises:
            FormatError: the build has committed nothing yet.
        """
        newest = manifests.read_newest(self.store)
        if newest is None:
            raise FormatError(f"{self.url} has no manifest: its build never finished a step; run it again")
        return newest

    def table(self, name: str, columns: list[str] | None = None, *, units: list[str] | None = None) -> pa.Table:
        """All rows of a table of `medloom.schemas.tables.TABLES`, or those of `units`; none where it is not there."""
        schema = TABLES[name]
        if columns:
            schema = pa.schema([schema.field(c) for c in columns])
        paths = [f"tables/{name}/{n}" for n in self.store.names(f"tables/{name}")]
        unit = "article_key" if "article_key" in TABLES[name].names else "unit"
        return self._concat(paths, schema, columns, (unit, units) if units is not None else None)

    def parts(self, name: str, columns: list[str]) -> Iterator[pa.Table]:
        """Give these columns of a table file by file, so that never more than one of them is held."""
        schema = pa.schema([TABLES[name].field(c) for c in columns])
        for file in self.store.names(f"tables/{name}"):
            yield conform(self.store.read_table(f"tables/{name}/{file}", columns), schema)

    def _concat(
        self,
        paths: list[str],
        schema: pa.Schema,
        columns: list[str] | None = None,
        among: tuple[str, list[str]] | None = None,
    ) -> pa.Table:
        parts = [self.store.read_table(p, columns, among=among) for p in paths if p.endswith(".parquet")]
        if not parts:
            return schema.empty_table()
        return pa.concat_tables([conform(part, schema) for part in parts])

    @cached_property
    def shards(self) -> Shards:
        """The plan's units by shard, in order."""
        return Shards(read_plan(self.store))

    def ledger(self, shard: ShardName) -> dict[str, Any] | None:
        """What a finished shard took, kept and refused; None while it is unfinished."""
        if not self.store.exists(shard.ledger):
            return None
        return manifests.parse(self.store.read(shard.ledger), where=f"{self.url}/{shard.ledger}")

    def ledgers(self) -> Iterator[tuple[ShardName, dict[str, Any]]]:
        """All finished shards with their ledgers, by name."""
        for name in self.store.names("ledger"):
            shard = shard_name(name.removesuffix(".json"))
            ledger = self.ledger(shard)
            if ledger is not None:
                yield shard, ledger

    def index(self, shard: ShardName | None = None, columns: list[str] | None = None) -> pa.Table:
        """Index rows of one shard or of all, a row per member, only those that a ledger has committed."""
        schema = pa.schema([INDEX.field(c) for c in columns]) if columns else INDEX
        wanted = [(shard, self.ledger(shard))] if shard else list(self.ledgers())
        paths = [s.index(layout) for s, ledger in wanted if ledger for layout in sorted(ledger["tars"])]
        return self._concat(paths, schema, columns)

    def tasks(self) -> list[tuple[str, str]]:
        """(task, fingerprint12) of all examples that were made."""
        return [(t, f) for t in self.store.folders("examples") for f in self.store.folders(f"examples/{t}")]

    def example_parts(self, task: str, fingerprint12: str) -> list[str]:
        """Paths of the Parquet files of one task's examples."""
        folder = f"examples/{task}/{fingerprint12}"
        return [f"{folder}/{n}" for n in self.store.names(folder) if n.startswith("part-")]

    def examples(self, task: str | None = None, columns: list[str] | None = None) -> pa.Table:
        """All example rows, or those of one task, of the fingerprints that the newest manifest names as current."""
        current = self.manifest()["recipe"]["tasks"]
        schema = pa.schema([EXAMPLE.field(c) for c in columns]) if columns else EXAMPLE
        paths = [
            path for name, print_ in sorted(current.items()) if task in (None, name)
            for path in self.example_parts(name, print_[:12])
        ]  # fmt: skip
        return self._concat(paths, schema, columns)

    def refusals(self, tasks: dict[str, str] | None = None) -> Iterator[dict[str, Any]]:
        """Everything refused, as rows of `quarantine`: by the tables, by shards, by tasks of the current fingerprints.

        `tasks` are the fingerprints by task, None for those of the newest manifest.
        """
        for part in self.parts("quarantine", TABLES["quarantine"].names):
            yield from part.to_pylist()
        for _, ledger in self.ledgers():
            yield from ledger["refused"]
        if tasks is None:
            newest = manifests.read_newest(self.store)
            tasks = newest["recipe"]["tasks"] if newest else {}
        for task, print_ in sorted(tasks.items()):
            folder = f"examples/{task}/{print_[:12]}"
            for name in self.store.names(folder):
                if name.startswith("refused-"):
                    yield from self.store.read_table(f"{folder}/{name}").to_pylist()

    def member(self, row: dict[str, Any], shard: ShardName) -> bytes:
        """The checked bytes of the member that an index row of `shard` speaks of."""
        return read_member(self.store, shard.tar(row["layout"]), row)


def conform(part: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `part` with the columns of `schema`: missing ones (an older format) null, unknown ones left out."""
    columns = [
        part[f.name].cast(f.type) if f.name in part.column_names else pa.nulls(part.num_rows, f.type) for f in schema
    ]
    return pa.table(columns, schema=schema)
