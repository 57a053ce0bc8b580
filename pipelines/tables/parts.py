"""Parts: the rows of one batch become part N of the tables; the links, written last, commit it."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medloom.pipelines.recipe import Recipe
from medloom.pipelines.tables.changes import Changes
from medloom.pipelines.tables.found import Found
from medloom.pipelines.tables.known import LINKS
from medloom.pipelines.tables.places import new_groups
from medloom.schemas.build import Build, conform
from medloom.schemas.store import Store
from medloom.schemas.tables import LINK, TABLES

LASTING = ("group", "verdict", "withdrawal")  # tables whose rows are never taken out with their units
WHOLE = ("withdrawal",)  # tables that are written anew by every run, and not in parts
SORTED_BY = {
    "quarantine": ["source", "unit", "key", "reason", "detail"],
    "links": ["unit", "order", "key", "url"],
}  # rows of papers come in the order of their articles' keys and, within one, of its text


def next_part(store: Store) -> int:
    """Return the number of the next part, once what a killed run left above it is gone."""
    number = len(store.names(LINKS))
    for name in TABLES:
        store.sweep(f"tables/{name}")
        for file in store.names(f"tables/{name}") if name not in WHOLE else ():
            if int(file[5:10]) >= number:
                store.delete(f"tables/{name}/{file}")
    store.sweep(LINKS)
    store.sweep("plan")
    return number


def append(
    store: Store, recipe: Recipe, found: list[Found], changed: Changes, *, part: int, known_units: set[str]
) -> tuple[pa.Table, dict[str, int]]:
    """Write part `part` of the tables, take superseded rows out of older parts, then commit by writing the links.

    Returns the rows of "group" of the units added, and the source bytes of the units written.
    """
    writer = _Parts(store, part, changed.units, known_units)
    for one in found:
        for tables in one.tables():
            writer.write(tables)
    refused = [{name: row[name] for name in TABLES["quarantine"].names} for row in changed.quarantine]
    writer.write({"quarantine": _sorted(refused, "quarantine", TABLES["quarantine"])})
    groups = new_groups(Build(store.url), recipe, found, known_units)
    if groups.num_rows:
        store.write_table(f"tables/group/{_file(part, 0)}", groups)
    gone = ((changed.replaced | changed.units) - writer.same) & known_units
    _drop_units(store, [f"tables/{name}" for name in TABLES if name not in LASTING], gone, below=part)
    _drop_units(store, [LINKS], changed.replaced, below=part)
    store.write_table(f"{LINKS}/{_file(part, 0)}", _sorted(changed.links, "links", LINK))
    return groups, writer.sizes


class _Parts:
    """Writes the rows of `units` that are not in the tables already; `same` are the units that are."""

    def __init__(self, store: Store, part: int, units: set[str], known_units: set[str]):
        self.store, self.part, self.units, self.known_units = store, part, units, known_units
        self.same: set[str] = set()
        self.sizes: dict[str, int] = {}
        self._files: dict[str, int] = {}

    def write(self, tables: dict[str, pa.Table]) -> None:
        """Write the next rows of some tables, all rows of a unit at once."""
        rows = {name: _only(table, self.units) for name, table in tables.items()}
        for name in ("article", "series"):
            if name in rows:
                columns = (rows[name][column].to_pylist() for column in (_unit_column(name), "source_bytes"))
                self.sizes |= dict(zip(*columns, strict=True))
        maybe = {name: _only(table, self.known_units) for name, table in rows.items()} if self.part else {}
        units = sorted({unit for name, table in maybe.items() for unit in table[_unit_column(name)].to_pylist()})
        if units:
            now = {name: _by_unit(name, table) for name, table in maybe.items()}
            before = {name: _by_unit(name, self._before(name, units)) for name in maybe}
            same = {u for u in units if all(before[name].get(u) == now[name].get(u) for name in maybe)}
            rows = {name: _without(table, same) for name, table in rows.items()}
            self.same |= same
        for name, table in rows.items():
            if table.num_rows:
                file = self._files[name] = self._files.get(name, -1) + 1
                self.store.write_table(f"tables/{name}/{_file(self.part, file)}", table)

    def _before(self, name: str, units: list[str]) -> pa.Table:
        paths = [f"tables/{name}/{n}" for n in self.store.names(f"tables/{name}") if int(n[5:10]) < self.part]
        among = (_unit_column(name), units)
        parts = [conform(self.store.read_table(path, among=among), TABLES[name]) for path in paths]
        return pa.concat_tables(parts) if parts else TABLES[name].empty_table()


def _by_unit(name: str, table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    units: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        units.setdefault(row[_unit_column(name)], []).append(row)
    return units


def _sorted(rows: list[dict[str, Any]], name: str, schema: pa.Schema) -> pa.Table:
    keys = SORTED_BY[name]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: [row[k] for k in keys]), schema=schema)


def _file(part: int, i: int) -> str:
    return f"part-{part:05d}.parquet" if i == 0 else f"part-{part:05d}-{i:03d}.parquet"


def _unit_column(name: str) -> str:
    return "unit" if name == "links" or "unit" in TABLES[name].names else "article_key"


def _among(table: pa.Table, units: Iterable[str]) -> pa.ChunkedArray:
    column = "article_key" if "article_key" in table.column_names else "unit"
    return pc.is_in(table[column], pa.array(sorted(units), pa.string()))


def _only(table: pa.Table, units: set[str]) -> pa.Table:
    return table.filter(_among(table, units))


def _without(table: pa.Table, units: set[str]) -> pa.Table:
    return table.filter(pc.invert(_among(table, units)))


def _drop_units(store: Store, folders: list[str], units: set[str], *, below: int) -> None:
    """Take the rows of `units` out of all parts before `below`."""
    for folder in folders if units and below else []:
        for name in store.names(folder):
            if int(name[5:10]) >= below:
                continue
            table = store.read_table(f"{folder}/{name}")
            left = _without(table, units)
            if left.num_rows < table.num_rows:
                store.write_table(f"{folder}/{name}", left)
