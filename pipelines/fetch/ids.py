"""Ids as people have them → PMCIDs; what the ID converter said of one is kept, so that it is not asked again.

ids/<id>      role "record": {"doi": …, "mid": …, "pmcid": …, "pmid": …}, or why there is none
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from medloom.connectors import settings
from medloom.connectors.http import Http
from medloom.connectors.id_converter import convert, kind_of
from medloom.pipelines.fetch.articles import FAULTS, Row
from medloom.pipelines.fetch.job import Ledger, Taken, refused_row
from medloom.schemas.keys import canonical_json
from medloom.schemas.raw import RawZone


@dataclass(frozen=True)
class Ids:
    """Turns ids of any kind into PMCIDs, by what the raw zone knows of them and else by the service.

    Attributes:
        refresh: ask again for those that the service knew nothing of.
    """

    raw: RawZone
    http: Http
    ledger: Ledger
    refresh: bool = False

    def pmcids(self, ids: Sequence[str]) -> list[str]:
        """Return the PMCIDs of articles, each once; ids without one are refused in the ledger.

        Raises:
            ConfigError: a text is no id.
            SourceError, RetryLater: as `medloom.connectors.id_converter.convert` does.
        """
        once = list(dict.fromkeys(ids))
        others = [one for one in once if kind_of(one) != "pmcid"]
        known = {row["name"]: row for row in self.raw.rows(map(_name, others)).to_pylist()}
        pending = [one for one in others if self._is_open(known.get(_name(one)))]
        self._ask(pending)
        said = {row["name"]: row for row in self.raw.rows(map(_name, others)).to_pylist()} if pending else known
        found = []
        for one in once:
            row = said.get(_name(one))
            if row is None:
                found.append(one.upper().partition(".")[0])
            elif row["outcome"] == "kept":
                found.append(json.loads(self.raw.read(row["digest"]))["pmcid"])
            elif one not in pending:
                taken = Taken(asked=1)
                taken.refuse(row["reason"])
                self.ledger.add(taken)
        return list(dict.fromkeys(found))

    def _is_open(self, row: Row | None) -> bool:
        again = (*FAULTS, "article.not_found")  # an article comes to PMC months after its DOI
        return row is None or (self.refresh and row["reason"].startswith(again))

    def _ask(self, ids: Sequence[str]) -> None:
        converted = convert(self.http, ids)
        now, url = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), settings.service_url("idconv")
        for one, found in converted.known.items():
            digest, size = self.raw.put(canonical_json(asdict(found)).encode())
            row = {
                "name": _name(one), "article": _name(one), "role": "record", "url": url, "digest": digest,
                "size": size, "retrieved_at": now, "outcome": "kept",
            }  # fmt: skip
            self.ledger.add(Taken(rows=[row]))
        for one, refused in converted.refused.items():
            taken = Taken(asked=1)
            taken.refuse(refused.reason, refused_row(_name(one), refused, article=_name(one), role="record", url=url))
            self.ledger.add(taken)
        self.ledger.flush()


def _name(one: str) -> str:
    return f"ids/{one.lower()}"
