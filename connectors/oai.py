"""OAI-PMH 2.0 of PMC: records by the day they changed, deleted ones included; each article as its own bytes.

A list comes in pages behind tokens that expire; it is gone on with from the last day seen, and nothing is given twice.
Errors come inside HTTP 200. Source: openarchives.org/OAI/openarchivesprotocol.html; "PMC OAI-PMH service".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from medloom.connectors import settings
from medloom.connectors.envelopes import Received, children, local_name, parse_envelope, received, text_of
from medloom.connectors.http import Again, Answer, Http
from medloom.schemas.errors import Refused, RetryLater, SourceError

PREFIX = "pmc"  # full text; pmc_fm is front matter, oai_dc a bibliographic record
MOST_RESTARTS = 5  # of one day's list, without anything new in between
_NUMBER = re.compile(r"(\d{1,10})$")
_END = re.compile(rb"</(?:\w+:)?OAI-PMH\s*>\s*$")


@dataclass(frozen=True)
class Harvest:
    """Which records to list.

    Attributes:
        set_name: a set of the service ("pmc-open"), "" for all.
        since, until: days of change, UTC, both included; None: no bound.
        prefix: metadata format.
    """

    set_name: str = "pmc-open"
    since: date | None = None
    until: date | None = None
    prefix: str = PREFIX


@dataclass(frozen=True)
class Header:
    """What a list says of a record.

    Attributes:
        identifier: "oai:pubmedcentral.nih.gov:7500000".
        changed: day or moment of the last change, as the service writes it ("2026-09-01").
        is_deleted: the service took the record back.
    """

    identifier: str
    changed: str
    is_deleted: bool

    @property
    def pmcid(self) -> str:
        """ "PMC7500000", "" when the identifier ends in no number."""
        number = _NUMBER.search(self.identifier)
        return f"PMC{number[1]}" if number else ""


@dataclass(frozen=True)
class Record:
    """A record: its header, and what it gave; None when it is deleted."""

    header: Header
    received: Received | None


def list_headers(http: Http, harvest: Harvest) -> Iterator[Header]:
    """Give the headers of the records of a harvest, each change once.

    Raises:
        SourceError: the service does not know the set or the format, or refuses to be asked.
        RetryLater: it does not answer, or not with XML, or tokens expire faster than they can be used.
    """
    try:
        for element, _ in _listed(http, harvest, "ListIdentifiers"):
            yield _header(element)
    except Refused as refused:
        raise RetryLater(
            f"the OAI-PMH service gives a list that cannot be read ({refused}); run the same command again later"
        ) from refused


def list_records(http: Http, harvest: Harvest) -> Iterator[Record]:
    """Give the records of a harvest with their articles, each change once.

    Raises:
        Refused("jats.…"): a page that is not to be trusted, because of one of its records; ask for each by itself.
        SourceError, RetryLater: as `list_headers` does.
    """
    for element, answer in _listed(http, harvest, "ListRecords"):
        yield _record(element, answer, harvest.prefix)


def get_record(http: Http, header: Header, *, prefix: str = PREFIX) -> Record:
    """Return one record.

    What is wrong with it is its `received.refused`: "oai.no_record", "oai.no_format" (not in this format),
    "jats.…", "http.…".

    Raises:
        SourceError, RetryLater: as `list_headers` does.
    """
    try:
        root, answer = _ask(http, {"verb": "GetRecord", "identifier": header.identifier, "metadataPrefix": prefix})
    except Refused as refused:
        return Record(header, Received.refusing(header.pmcid, refused))
    except _Said as said:
        reasons = {"idDoesNotExist": "oai.no_record", "cannotDisseminateFormat": "oai.no_format"}
        if said.code not in reasons:
            raise _not_understood(said) from None
        return Record(header, Received.refusing(header.pmcid, Refused(reasons[said.code], header.identifier)))
    found = [one for one in root.iter("{*}record") if _header(one).identifier == header.identifier]
    if not found:
        what = Refused("oai.no_record", f"{header.identifier}: the service answers with another record")
        return Record(header, Received.refusing(header.pmcid, what))
    return _record(found[0], answer, prefix)


class _Said(Exception):
    """An error inside HTTP 200: its code and what is said of it."""

    def __init__(self, code: str, text: str):
        super().__init__(code, text)
        self.code = code
        self.text = text


def _listed(http: Http, harvest: Harvest, verb: str) -> Iterator[tuple[Any, Answer]]:
    """Give the records or headers of a list, across pages and tokens that expired; what was given is passed over.

    After an expired token, the list is gone on with from the last day seen if it shows that days come in order (several
    of them, none before an earlier one); else it is cut in two by days, so that the lists get shorter than a token
    lives; a single day is asked anew.
    """
    given: set[tuple[str, str]] = set()
    pending, fruitless = [harvest], 0
    while pending:
        part = pending.pop()
        pages, before = _Pages(http, part, verb), len(given)
        try:
            for element, answer in pages.elements():
                header = _header(element)
                if (header.identifier, header.changed) not in given:
                    given.add((header.identifier, header.changed))
                    yield element, answer
            fruitless = 0
        except _Said as said:
            if said.code != "badResumptionToken":
                raise _not_understood(said) from None
            rest = [replace(part, since=pages.last_day)] if pages.in_order else _halves(http, part)
            fruitless = fruitless + 1 if rest == [part] and len(given) == before else 0
            if fruitless > MOST_RESTARTS:
                raise RetryLater(
                    "the OAI-PMH service lets its tokens expire before the next page is asked; run the same command "
                    "again: what was fetched is kept"
                ) from None
            pending += rest


def _halves(http: Http, harvest: Harvest) -> list[Harvest]:
    """Return the later and the earlier half of a harvest's days; itself, when it has but one."""
    since = harvest.since or _first_day(http)
    until = harvest.until or datetime.now(UTC).date() + timedelta(days=1)
    if since >= until:
        return [harvest]
    middle = since + (until - since) // 2
    return [replace(harvest, since=middle + timedelta(days=1)), replace(harvest, since=since, until=middle)]


def _first_day(http: Http) -> date:
    """Return the day before which the service says that nothing changed."""
    try:
        root, _ = _ask(http, {"verb": "Identify"})
    except _Said as said:
        raise _not_understood(said) from None
    day = next((_day(text_of(one, "earliestDatestamp")) for one in children(root, "Identify")), None)
    if day is None:
        raise SourceError("the OAI-PMH service does not say since when it keeps records; name a first day")
    return day


class _Pages:
    """One walk through the pages of a list, from its start until its end or until a token has expired."""

    def __init__(self, http: Http, harvest: Harvest, verb: str):
        self.http = http
        self.first: dict[str, str] = {"verb": verb, "metadataPrefix": harvest.prefix}
        self.first |= {"set": harvest.set_name} if harvest.set_name else {}
        self.first |= {"from": harvest.since.isoformat()} if harvest.since else {}
        self.first |= {"until": harvest.until.isoformat()} if harvest.until else {}
        self.first_day: date | None = None
        self.last_day: date | None = None
        self._disorder = False

    @property
    def in_order(self) -> bool:
        """Whether the days of several days came one after the other, as a list by day gives them."""
        return not self._disorder and self.first_day != self.last_day

    def elements(self) -> Iterator[tuple[Any, Answer]]:
        """Give the `record` or `header` elements of each page."""
        asked, tokens = self.first, set[str]()
        while True:
            try:
                root, answer = _ask(self.http, asked)
            except _Said as said:
                if said.code == "noRecordsMatch":
                    return
                raise
            lists = children(root, self.first["verb"])
            for element in [one for some in lists for one in some if local_name(one) in ("record", "header")]:
                self._note(_header(element).changed)
                yield element, answer
            token = text_of(lists[0], "resumptionToken") if lists else ""
            if not token:
                return
            if token in tokens:
                raise RetryLater("the OAI-PMH service gives the same page again and again; run the same command later")
            tokens.add(token)
            asked = {"verb": self.first["verb"], "resumptionToken": token}

    def _note(self, changed: str) -> None:
        day = _day(changed)
        self._disorder |= day is None or bool(self.last_day and day < self.last_day)
        self.first_day, self.last_day = self.first_day or day, day or self.last_day


def _ask(http: Http, params: dict[str, str]) -> tuple[Any, Answer]:
    """Return the root of an answer.

    Raises:
        _Said: it is an error inside HTTP 200.
        Refused: it is not to be trusted, or larger than is taken.
        SourceError: the service refuses to be asked.
    """
    try:  # no tool= and email= here: an argument that the protocol does not know is an error
        answer = http.get(f"{settings.service_url('oai')}/", params=params, max_bytes=256 << 20, check=_check_whole)
    except Refused as refused:
        if refused.reason in ("http.large", "http.truncated"):
            raise
        raise SourceError(
            f"the OAI-PMH service refuses to be asked ({refused}); see that MEDLOOM_OAI_URL is right"
        ) from refused
    root = parse_envelope(answer.content)
    for error in children(root, "error"):
        raise _Said(error.get("code") or "", " ".join("".join(error.itertext()).split())[:200])
    return root, answer


def _check_whole(answer: Answer) -> None:
    """Raise `Again` for what is no answer of OAI-PMH, or ends before its end."""
    if not _END.search(answer.content[-500:]):
        raise Again("an answer that is not OAI-PMH, or not all of it")


def _record(element: Any, answer: Answer, prefix: str) -> Record:
    header = _header(element)
    if header.is_deleted:
        return Record(header, None)
    articles = [
        one for metadata in children(element, "metadata") for one in metadata.iterchildren()
        if local_name(one) == "article"
    ]  # fmt: skip
    if len(articles) != 1 or not header.pmcid:
        what = f"{header.identifier}: {len(articles)} articles in its metadata, 1 expected"
        return Record(header, Received.refusing(header.pmcid, Refused("jats.no_article", what)))
    base = settings.service_url("oai")
    url = f"{base}/?verb=GetRecord&identifier={header.identifier}&metadataPrefix={prefix}"
    return Record(header, received(articles[0], pmcid=header.pmcid, url=url, answer=answer))


def _header(element: Any) -> Header:
    head = element if local_name(element) == "header" else next(iter(children(element, "header")), element)
    return Header(text_of(head, "identifier"), text_of(head, "datestamp"), head.get("status") == "deleted")


def _day(changed: str) -> date | None:
    try:
        return date.fromisoformat(changed[:10])
    except ValueError:
        return None


def _not_understood(said: _Said) -> SourceError:
    return SourceError(
        f"the OAI-PMH service does not give what it is asked ({said.code}: {said.text!r}); see that the set, the "
        "format and the days are right"
    )
