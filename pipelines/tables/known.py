"""Known: the links of a build in columns; rows become dicts only for the units that a batch touches."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medloom.pipelines.sources.listing import OBJECT
from medloom.pipelines.tables.found import Found
from medloom.schemas.build import conform
from medloom.schemas.store import Store
from medloom.schemas.tables import LINK

LINKS = "private/links"


def read_links(store: Store) -> pa.Table:
    """Return the build's links: which objects make each unit, and what its tokens stand for."""
    parts = [conform(store.read_table(f"{LINKS}/{n}"), LINK) for n in store.names(LINKS)]
    return pa.concat_tables(parts) if parts else LINK.empty_table()


class Known:
    """What a build knows of its sources' objects, kept up while batches are added."""

    def __init__(self, links: pa.Table):
        self._links = links

    def fresh(self, source: str, listing: pa.Table) -> pa.Table:
        """Return the rows of `listing` that are new or changed, by url."""
        seen = self.of(source).select(OBJECT.names)
        if not seen.num_rows:
            return listing
        return listing.join(seen, keys=OBJECT.names, join_type="left anti").sort_by("url")

    def of(self, source: str) -> pa.Table:
        """Return the links of one source."""
        return self._links.filter(pc.equal(self._links["source"], source))

    def around(self, found: list[Found]) -> list[dict[str, Any]]:
        """Return every link that bears on what `found` changes: of its units, of its objects, and of theirs."""
        units = {row["unit"] for one in found for row in (*one.links, *one.refused)}
        urls = {url for one in found for url in one.objects["url"].to_pylist()}
        urls |= {link["url"] for one in found for link in one.links}
        touched = self._among(units=units, urls=urls)
        whole = self._among(units=units | set(touched["unit"].to_pylist()))
        return self._among(units=set(whole["unit"].to_pylist()), urls=set(whole["url"].to_pylist())).to_pylist()

    def owners(self, keys: Iterable[str], source: str, listings: Mapping[str, pa.Table]) -> dict[str, str]:
        """Return {article_key: url} of the articles that have an object which is still there; "" of another source."""
        rows = self._among(units=set(keys))
        rows = rows.filter(pc.equal(rows["key"], ""))
        found: dict[str, str] = {}
        for name in pc.unique(rows["source"]).to_pylist():
            if name in listings:
                mine = rows.filter(pc.equal(rows["source"], name))
                mine = mine.filter(pc.is_in(mine["url"], listings[name]["url"].combine_chunks()))
                found |= {r["unit"]: r["url"] if name == source else "" for r in mine.to_pylist()}
        return found

    def add(self, links: list[dict[str, Any]], *, replaced: set[str]) -> None:
        """Take the links of a batch in; those of `replaced` units go first."""
        if replaced:
            self._links = self._links.filter(pc.invert(_is_in(self._links["unit"], replaced)))
        self._links = pa.concat_tables([self._links, pa.Table.from_pylist(links, schema=LINK)])

    def _among(self, *, units: set[str], urls: Collection[str] = ()) -> pa.Table:
        wanted = _is_in(self._links["unit"], units)
        if urls:
            wanted = pc.or_(wanted, _is_in(self._links["url"], urls))
        return self._links.filter(wanted)


def _is_in(column: pa.ChunkedArray, values: Collection[str]) -> pa.ChunkedArray:
    return pc.is_in(column, pa.array(sorted(values), pa.string()))
