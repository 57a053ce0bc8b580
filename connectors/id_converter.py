"""ID converter of PMC: from a PMCID, PMID, DOI or manuscript id of an article to its others.

Source: "PMC ID Converter API", pmc.ncbi.nlm.nih.gov/tools/id-converter-api.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from medloom.connectors import settings
from medloom.connectors.batches import batches, by_halves
from medloom.connectors.http import Again, Answer, Http
from medloom.schemas.errors import ConfigError, Refused

MOST_IDS = 200  # a call
# A DOI may hold a comma, by which the service cuts its list; such a one is asked for alone.
_KINDS = {
    "pmcid": re.compile(r"PMC[1-9]\d{0,9}(?:\.\d{1,3})?", re.IGNORECASE),
    "doi": re.compile(r"10\.\d{4,9}/\S{1,200}"),
    "mid": re.compile(r"(?:NIHMS|EMS|UKMS|WTMS|CAMS|HHMIMS|NASAMS|HALMS|PCMS)[A-Z]*-?\d{1,10}", re.IGNORECASE),
    "pmid": re.compile(r"[1-9]\d{0,8}"),
}


@dataclass(frozen=True)
class Identifiers:
    """One article's ids, "" for those that it has not; `pmcid` is "PMC123", without version."""

    pmcid: str
    pmid: str
    doi: str
    mid: str


@dataclass(frozen=True)
class Converted:
    """What each asked id came to: the article's ids, or why there are none ("article.not_found", "http.status")."""

    known: dict[str, Identifiers] = field(default_factory=dict)
    refused: dict[str, Refused] = field(default_factory=dict)


def kind_of(text: str) -> str:
    """Return which kind of id `text` is: "pmcid", "doi", "mid" or "pmid".

    Raises:
        ConfigError: it is none of them.
    """
    for kind, form in _KINDS.items():
        if form.fullmatch(text):
            return kind
    raise ConfigError(
        f"{text[:80]!r} is no PMCID (PMC7500000), PMID (38867410), DOI (10.1002/npr2.12456) or manuscript id "
        "(NIHMS12345)"
    )


def convert(http: Http, ids: Iterable[str]) -> Converted:
    """Return the other ids of articles, for ids of any kind; each asked id is in `known` or in `refused`.

    Raises:
        ConfigError: a text is no id.
        SourceError: the service refuses whatever it is asked.
        RetryLater: it does not answer.
    """
    kinds: dict[str, list[str]] = {}
    for one in ids:
        kinds.setdefault(kind_of(one), []).append(one)
    converted = Converted()
    for kind, mine in sorted(kinds.items()):
        together = [one for one in mine if "," not in one]
        alone = [(one,) for one in dict.fromkeys(mine) if "," in one]
        for some in [*batches(together, MOST_IDS), *alone]:
            for asked, records in by_halves(some, partial(_ask, http, kind), service="the ID converter"):
                if isinstance(records, Refused):
                    converted.refused[asked[0]] = records
                else:
                    _match(asked, records, converted)
    return converted


def _ask(http: Http, kind: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    params = {"ids": ",".join(ids), "idtype": kind, "format": "json", **settings.ncbi_params()}
    params.pop("api_key", None)  # of E-utilities alone
    found: list[dict[str, Any]] = []

    def check(answer: Answer) -> None:
        found[:] = _records(answer)

    http.get(f"{settings.service_url('idconv')}/", params=params, check=check)
    return found


def _records(answer: Answer) -> list[dict[str, Any]]:
    """Return the records of an answer.

    Raises:
        Again: it is no such answer.
        Refused("http.status"): an error inside HTTP 200.
    """
    try:
        said = json.loads(answer.content)
        records = said.get("records")
        if said.get("status") == "error" and not records:
            raise Refused("http.status", "ID converter: an error inside HTTP 200")
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise Again("an answer without records")
    except (ValueError, AttributeError) as fault:
        raise Again("an answer that is no JSON object") from fault
    return records


def _match(asked: Sequence[str], records: list[dict[str, Any]], converted: Converted) -> None:
    """Enter each asked id by the `requested-id` of its record, whatever its place in the answer."""
    answered = {str(record.get("requested-id") or "").lower(): record for record in records}
    for one in asked:
        record = answered.get(one.lower())
        if record is None:
            converted.refused[one] = Refused("article.not_given", f"{one}: the ID converter says nothing of it")
        elif record.get("status") == "error" or not record.get("pmcid"):
            said = " ".join(str(record.get("errmsg") or "it is not in PMC").split())[:200]
            converted.refused[one] = Refused("article.not_found", f"{one}: {said}")
        else:
            pmcid = str(record["pmcid"]).partition(".")[0]
            others = (str(record.get(name) or "") for name in ("pmid", "doi", "mid"))
            converted.known[one] = Identifiers(pmcid, *others)
