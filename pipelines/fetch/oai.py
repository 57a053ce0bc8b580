"""OAI-PMH: the XML of the articles that changed on given days; what the service deleted is withdrawn.

    oai/<set>/<day>      role "record": {"articles": [PMCID, …], "whole": bool}, what the list of a day held

A day that is whole is not listed again. One that is not (the run was killed, or the day is not over) is listed by
headers alone, and only what the catalog does not know is asked for.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from medloom.connectors import oai, settings
from medloom.connectors.http import Http
from medloom.connectors.oai import Harvest, Header, Record
from medloom.pipelines.fetch import gates
from medloom.pipelines.fetch.articles import Known, Row, Taker, article_row, kept_rows, known_rows, take_back
from medloom.pipelines.fetch.job import FetchDone, Ledger, Taken
from medloom.schemas.errors import ConfigError, Refused, RetryLater
from medloom.schemas.keys import canonical_json, slug
from medloom.schemas.raw import RawZone

if TYPE_CHECKING:
    from medloom.pipelines.steps import Tell

WHAT = "fetch oai"
GROUP = 5_000  # articles of days that are whole, whose rows of the catalog are looked up at once
BATCH = 100  # records between two appends to the catalog
SETTLES = timedelta(days=2)  # after which no record can still be given a day


@dataclass(frozen=True)
class Oai:
    """Articles of PubMed Central by the day they changed, their XML alone, from its OAI-PMH service.

    Attributes:
        since, until: days of change, UTC, both included; until today, unless another is named.
        set_name: of the service: pmc-open is the open access subset.
        tiers: licences that may be fetched: open (CC0, BY, BY-SA), nc, nd, other.
        limit: at most so many articles are asked for, 0 for all; what is in the raw zone counts for none.
    """

    since: date
    until: date | None = None
    set_name: str = "pmc-open"
    tiers: tuple[str, ...] = gates.DEFAULT_TIERS
    limit: int = 0

    def __post_init__(self) -> None:
        gates.check_tiers(self.tiers)
        if self.until is not None and self.until < self.since:
            raise ConfigError(f"until={self.until} is before since={self.since}")
        if self.since > _today():
            raise ConfigError(f"since={self.since} is a day to come; nothing has changed on it")
        if self.limit < 0 or not self.set_name.strip():
            raise ConfigError("limit must not be negative, and a set must be named, such as pmc-open")

    def fetch(self, raw: RawZone, http: Http, told: "Tell") -> FetchDone:
        """Keep in `raw` the articles that changed on the days, and withdraw those that were deleted."""
        ledger, before = Ledger(raw), http.requests
        run = _Run(self, raw, http, ledger)
        last = min(self.until or _today(), _today())
        days = [self.since + timedelta(days=n) for n in range((last - self.since).days + 1)]
        told.begin(WHAT, len(days))
        try:
            for day in days:
                run.day(day)
                told.piece(f"{day}: {run.line()}")
                if run.is_enough:
                    break
            run.count_whole()
        finally:
            ledger.flush()
        told.end()
        return ledger.done(http, requests_before=before)


@dataclass
class _Run:
    """One run: what is wanted, where it is entered, how much was asked of the service."""

    wanted: Oai
    raw: RawZone
    http: Http
    ledger: Ledger
    begun: int = 0
    _whole: list[str] = field(default_factory=list)  # articles of days that are whole, not yet counted

    def __post_init__(self) -> None:
        self._taker = Taker(self.raw, self.wanted.tiers)
        self._marks = {row["name"]: row for row in self.raw.rows([self._article]).to_pylist()}

    @property
    def _article(self) -> str:
        return f"oai/{self.wanted.set_name}"

    @property
    def is_enough(self) -> bool:
        """Whether as many articles were asked for as are wanted."""
        return self.left <= 0

    @property
    def left(self) -> int:
        """How many more articles may be asked for."""
        return self.wanted.limit - self.begun if self.wanted.limit else sys.maxsize

    def line(self) -> str:
        """Return how far it is."""
        total, gone = self.ledger.total, self.ledger.withdrawn
        return f"{total.kept:,} kept, {total.known:,} known, {total.refused:,} refused, {gone:,} withdrawn"

    def day(self, day: date) -> None:
        """Take what changed on a day."""
        row = self._marks.get(f"{self._article}/{day}")
        said = json.loads(self.raw.read(row["digest"])) if row else {}
        if said.get("whole"):
            self._whole += said["articles"]
            if len(self._whole) >= GROUP:
                self.count_whole()
            return
        listing = _Day(self, day)
        if row is None:
            try:
                listing.take(oai.list_records(self.http, listing.harvest))
            except Refused:  # one of a page's records is not to be trusted: each by itself then
                listing.take_missing()
        else:
            listing.take_missing()

    def count_whole(self) -> None:
        """Count what the catalog says of the articles of days that are whole, under the tiers asked for now."""
        pmcids, self._whole = list(dict.fromkeys(self._whole)), []
        for known in known_rows(self.raw, pmcids).values():
            settled = self._taker.settled(known)
            if settled is not None:
                self.ledger.add(settled)
        self.ledger.flush()

    def take(self, record: Record, known: Known) -> None:
        """Enter what a record comes to."""
        header = record.header
        if record.received is not None:
            self.begun += 1
            received = replace(record.received, pmcid=_name_of(header))
            self.ledger.add(self._taker.take(received, known, etag=_etag(header)))
            return
        taken = Taken()
        until = header.changed[:10]  # what another service gave on a later day has come back since
        rows = [row | {"etag": _etag(header)} for row in kept_rows(known) if row["retrieved_at"][:10] <= until]
        detail = f"{_name_of(header)}: the OAI-PMH service deleted it on {until}"
        take_back(taken, rows, outcome="withdrawn", reason="oai.deleted", detail=detail)
        self.ledger.add(taken)

    def known(self, header: Header, known: Known) -> bool:
        """Enter a record that the catalog has in this state, and say whether it has."""
        row = article_row(known)
        if row is None or not _is_of(row, header):
            return False
        settled = self._taker.settled(known)
        if settled is None:
            return False
        self.ledger.add(settled)
        return True

    def mark(self, day: date, articles: Iterable[str] | None = None) -> None:
        """Append what was taken, and that a day was begun, or is whole, with the articles of its list."""
        said = {"articles": sorted(articles or ()), "whole": articles is not None}
        content = canonical_json(said).encode()
        digest, size = self.raw.put(content)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        row = {
            "name": f"{self._article}/{day}", "article": self._article, "role": "record",
            "url": settings.service_url("oai"), "digest": digest, "size": size, "retrieved_at": now, "outcome": "kept",
        }  # fmt: skip
        self.ledger.add(Taken(rows=[row]))
        self.ledger.flush()


class _Day:
    """The work on one day's list."""

    def __init__(self, run: _Run, day: date):
        self.run, self.day = run, day
        self.harvest = Harvest(run.wanted.set_name, day, day)
        self.articles: set[str] = set()
        self._pending: list[Record] = []

    def take(self, records: Iterator[Record]) -> None:
        """Take the records of a list, and mark the day."""
        try:
            for record in records:
                self._pending.append(record)
                if len(self._pending) >= min(BATCH, self.run.left):
                    self._take_pending()
                    if self.run.is_enough:
                        return
        except RetryLater:
            self._take_pending()
            raise
        self._take_pending()
        self._end()

    def take_missing(self) -> None:
        """List headers alone, and take the records that the catalog does not have in their state."""
        self._take_pending()
        headers = list(oai.list_headers(self.run.http, self.harvest))
        for start in range(0, len(headers), BATCH):
            some = headers[start : start + BATCH]
            known = known_rows(self.run.raw, [_name_of(header) for header in some])
            for header in some:
                mine = known[_name_of(header)]
                if header.is_deleted:
                    self.run.take(Record(header, None), mine)
                    continue
                self.articles.add(_name_of(header))
                if not self.run.known(header, mine) and not self.run.is_enough:
                    self.run.take(oai.get_record(self.run.http, header), mine)
            self.run.mark(self.day)
        if not self.run.is_enough:
            self._end()

    def _take_pending(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        known = known_rows(self.run.raw, [_name_of(record.header) for record in pending])
        for record in pending:
            mine = known[_name_of(record.header)]
            if record.received is not None:
                self.articles.add(_name_of(record.header))
            if record.received is None or not self.run.known(record.header, mine):
                self.run.take(record, mine)
        self.run.mark(self.day)

    def _end(self) -> None:
        if self.day + SETTLES <= _today():
            self.run.mark(self.day, self.articles)


def _is_of(row: Row, header: Header) -> bool:
    """Whether a catalog's row stands for this state of a record, or for a later one from another service."""
    if row["etag"].startswith("oai:"):
        return bool(row["etag"] == _etag(header))
    return bool(row["retrieved_at"][:10] > header.changed[:10])


def _name_of(header: Header) -> str:
    """Return what a record's article is called; one whose identifier ends in no number has no PMCID."""
    return header.pmcid or f"oai-{slug(header.identifier)}"


def _etag(header: Header) -> str:
    return f"oai:{header.changed}"


def _today() -> date:
    return datetime.now(UTC).date()
