"""The ID converter on loopback: at its new address, the old one leading there.

A bad id makes the whole call a 400.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from tests.services.loopback import Asked, Reply, redirect

NEW, OLD = "/tools/idconv/api/v1/articles/", "/pmc/utils/idconv/v1.0/"
LIKE = {"pmcid": "PMC", "pmid": "", "doi": "10.", "mid": "NIHMS"}


@dataclass
class IdConverter:
    """The service.

    Attributes:
        articles: records, with the keys pmcid, pmid (a number), doi, mid, of which some may be missing.
        bad: ids that it calls invalid.
        silent: ids of which an answer says nothing.
    """

    articles: list[dict[str, Any]]
    bad: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)

    def __call__(self, asked: Asked) -> Reply:
        if asked.path == OLD:
            return redirect(f"{NEW}?{asked.raw.partition('?')[2]}")
        if asked.path != NEW:
            return Reply(404)
        kind, ids = asked.query["idtype"], asked.query["ids"].split(",")
        if kind == "doi" and any(not one.startswith("10.") for one in ids):  # a DOI with a comma, asked with its kind
            ids = [asked.query["ids"]]
        wrong = [one for one in ids if not one.upper().startswith(LIKE[kind].upper()) or one in self.bad]
        if wrong or len(ids) > 200:
            fault = {"status": "error", "errors": [{"code": f"invalid_{kind}s", "value": ",".join(wrong)}]}
            return Reply(400, json.dumps(fault).encode(), {"Content-Type": "application/json"})
        records = [self._record(kind, one) for one in reversed(ids) if one not in self.silent]
        said = {"status": "ok", "response-date": "2026-11-22 18:00:00", "records": records}
        return Reply(200, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def _record(self, kind: str, one: str) -> dict[str, Any]:
        for article in self.articles:
            if str(article.get(kind, "")).lower() == one.lower():
                return article | {"requested-id": one}
        return {"requested-id": one, kind: one, "status": "error", "errmsg": "Identifier not found in PMC"}
