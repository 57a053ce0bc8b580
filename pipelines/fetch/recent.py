"""The catalog's rows of articles, looked up for many at once, and what this run added since the last append."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medloom.pipelines.fetch.articles import known_rows
from medloom.schemas.raw import RawZone

MANY = 2000  # rows that wait to be appended
Row = dict[str, Any]


class Recent:
    """What is known of articles while a run goes on, by PMCID and name."""

    def __init__(self, raw: RawZone):
        self._raw = raw
        self._held: dict[str, dict[str, Row]] = {}
        self._new: dict[str, dict[str, Row]] = {}
        self._count = 0

    def look_up(self, pmcids: Sequence[str]) -> None:
        """Look up articles that are asked for next, at once, and forget those before."""
        self._held = known_rows(self._raw, [pmcid for pmcid in dict.fromkeys(pmcids) if pmcid])

    def of(self, pmcids: Sequence[str]) -> Mapping[str, Mapping[str, Row]]:
        """Return the rows of articles."""
        others = [pmcid for pmcid in dict.fromkeys(pmcids) if pmcid and pmcid not in self._held]
        found = (known_rows(self._raw, others) if others else {}) | self._held
        return {pmcid: found.get(pmcid, {}) | self._new.get(pmcid, {}) for pmcid in pmcids}

    def add(self, rows: Iterable[Row]) -> bool:
        """Note rows that will be appended; return whether they have become many."""
        for row in rows:
            self._new.setdefault(row["article"].partition(".")[0], {})[row["name"]] = row
            self._count += 1
        return self._count >= MANY

    def appended(self) -> None:
        """Forget the notes: the catalog has them now."""
        for pmcid, rows in self._new.items():
            if pmcid in self._held:
                self._held[pmcid] |= rows
        self._new, self._count = {}, 0
