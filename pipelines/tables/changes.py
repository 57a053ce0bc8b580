"""Changes: what was found at the sources, laid against what the build knows, decides which units are written.

A unit is never taken away: what is gone from its source keeps its rows, links and media. It changes when one of its
objects is new, other than it was, or no longer readable.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from medloom.pipelines.sources.listing import OBJECT
from medloom.pipelines.tables.found import Found, refused_row
from medloom.schemas.keys import Identity

REFUSED = "refused"  # key of the link of a refused object
OWN = ("", "mask")  # keys of the links of objects that make a unit
Row = dict[str, Any]


@dataclass(frozen=True)
class Changes:
    """What a run writes.

    Attributes:
        links: rows of `LINK` of the units that are new or changed; every refused object has one.
        quarantine: rows of "quarantine" of those units.
        replaced: units whose older links are taken out.
    """

    links: list[Row]
    quarantine: list[Row]
    replaced: set[str]

    @property
    def units(self) -> set[str]:
        """The units whose rows are written."""
        return {link["unit"] for link in self.links}


def changes(known: list[Row], found: list[Found]) -> Changes:
    """Return what `found` changes in a build whose links are `known`."""
    before, now, quarantine, dropped = _by_unit(known), _by_unit([]), _by_unit([]), set()
    for one in found:
        mine = [row for row in known if row["source"] == one.source]
        refused = _refused(one, mine)
        links = one.links + [_refused_link(row, one) for row in refused]
        units = _by_unit(links)
        changed = {u for u in units.keys() & before.keys() if one.again or _differs(before[u], units[u], refused)}
        lost = _lost(one, mine, changed, links)
        refused, links = refused + lost, links + [_refused_link(row, one) for row in lost]
        linked = {row["url"] for row in one.links}
        dropped |= changed | {r["unit"] for r in mine if r["key"] == REFUSED and r["url"] in linked}
        now |= _by_unit(links)
        quarantine |= _by_unit(refused)
    written = [unit for unit in now if unit in dropped or unit not in before]
    return Changes(
        [row for unit in written for row in now[unit]],
        [row for unit in written for row in quarantine.get(unit, [])],
        dropped,
    )


def _by_unit(rows: Iterable[Row]) -> dict[str, list[Row]]:
    units: dict[str, list[Row]] = {}
    for row in rows:
        units.setdefault(row["unit"], []).append(row)
    return units


def _marks(rows: list[Row]) -> set[tuple[Any, ...]]:
    return {tuple(row[name] for name in ("key", *OBJECT.names)) for row in rows}


def _differs(before: list[Row], now: list[Row], refused: list[Row]) -> bool:
    """Whether a unit has an object that is new or other than it was, or one that can no longer be read."""
    urls = {row["url"] for row in now}
    return bool(_marks(now) - _marks(before)) or any(
        row["url"] not in urls and row["url"] in {r["url"] for r in refused} for row in before
    )


def _refused(one: Found, known: list[Row]) -> list[Row]:
    """Return the rows of "quarantine", with urls, of every object that was read now and is part of no unit.

    What was the only object of a known unit is refused under the unit's name, so that the unit ends in a row.
    """
    linked, units = {row["url"] for row in one.links}, {row["unit"] for row in one.links}
    owner = {row["url"]: row["unit"] for row in known if row["key"] in OWN and row["unit"] not in units}
    refused = [row for row in one.refused if row["url"] not in linked]
    ended = linked | {row["url"] for row in refused}
    refused += [_unreferenced(one, row) for row in one.objects.to_pylist() if row["url"] not in ended]
    return [{**row, "unit": owner.get(row["url"], row["unit"])} for row in refused]


def _lost(one: Found, known: list[Row], changed: set[str], links: list[Row]) -> list[Row]:
    """Return rows for the pictures that changed units showed before, that are still there, and that nothing shows."""
    held = {row["url"] for row in links} | {row["url"] for row in known if row["unit"] not in changed}
    there = set(one.listing["url"].to_pylist())
    gone = {row["url"]: row for row in known if row["unit"] in changed and row["url"] not in held}
    return [_unreferenced(one, row) for url, row in sorted(gone.items()) if url in there]


def _unreferenced(one: Found, row: Row) -> Row:
    detail = f"{row['url']}: no figure of an article refers to it"
    marks = {name: row[name] for name in OBJECT.names}
    return refused_row(one.source, Identity(), marks, "image.unreferenced", detail)


def _refused_link(row: Row, one: Found) -> Row:
    return {
        "unit": row["unit"], "key": REFUSED, "source": one.source, **{name: row[name] for name in OBJECT.names},
        "order": 0, "original_unit": "", "original_group": "",
    }  # fmt: skip
