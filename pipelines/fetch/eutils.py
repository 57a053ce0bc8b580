"""E-utilities: the XML of the articles that a query of PMC finds; media are to be had from the PMC Cloud Service."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import islice
from typing import TYPE_CHECKING

from medloom.connectors import eutils
from medloom.connectors.batches import batches
from medloom.connectors.http import Http
from medloom.connectors.id_converter import kind_of
from medloom.pipelines.fetch import gates
from medloom.pipelines.fetch.articles import Taker, known_rows
from medloom.pipelines.fetch.ids import Ids
from medloom.pipelines.fetch.job import FetchDone, Ledger
from medloom.schemas.errors import ConfigError
from medloom.schemas.raw import RawZone

if TYPE_CHECKING:
    from medloom.pipelines.steps import Tell

WHAT = "fetch eutils"
GROUP = 2_000  # articles whose rows of the catalog are looked up at once


@dataclass(frozen=True)
class Eutils:
    """Articles of PubMed Central by query or by any kind of id, their XML alone, from NCBI's E-utilities.

    Attributes:
        query: in Entrez's words ('"case reports"[Filter] AND cc_by_license[Filter]'); the open access filter is added.
        ids: PMCIDs, PMIDs, DOIs or manuscript ids, in place of a query.
        since, until: days of `date_field` between which an article must lie, both included.
        date_field: pmcrdat (release in PMC), edat (entry) or pdat (publication).
        tiers: licences that may be fetched: open (CC0, BY, BY-SA), nc, nd, other.
        limit: at most so many articles are asked for, 0 for all; what is in the raw zone counts for none.
        refresh: ask again for what the service failed to give.
    """

    query: str = ""
    ids: tuple[str, ...] = ()
    since: date | None = None
    until: date | None = None
    date_field: str = "pmcrdat"
    tiers: tuple[str, ...] = gates.DEFAULT_TIERS
    limit: int = 0
    refresh: bool = False

    def __post_init__(self) -> None:
        gates.check_tiers(self.tiers)
        if bool(self.query.strip()) == bool(self.ids):
            raise ConfigError("say which articles: either query=… or ids=…")
        if self.ids and (self.since or self.until):
            raise ConfigError("since and until are of a query, and ids are given")
        if self.limit < 0:
            raise ConfigError(f"limit={self.limit} is negative; give 0 for all")
        for one in self.ids:
            kind_of(one)
        if self.query.strip():
            self.search()

    def search(self) -> eutils.Search:
        """What is asked of the service: other articles than open access ones would come as their front only."""
        term = f"({self.query.strip()}) AND open_access[Filter]"
        return eutils.Search(term, self.since, self.until, self.date_field)

    def fetch(self, raw: RawZone, http: Http, told: "Tell") -> FetchDone:
        """Keep in `raw` the XML of the articles that is not there."""
        ledger, before = Ledger(raw), http.requests
        run = _Run(self, raw, http, ledger)
        found = run.found()
        total = len(self.ids) or eutils.count(http, self.search())
        told.begin(WHAT, -(-total // GROUP))
        try:
            while not run.is_enough and (group := list(islice(found, GROUP))):
                run.take(group)
                told.piece(run.line())
        finally:
            ledger.flush()
        told.end()
        return ledger.done(http, requests_before=before)


@dataclass
class _Run:
    """One run: what is wanted, where it is entered, how much was asked of the service."""

    wanted: Eutils
    raw: RawZone
    http: Http
    ledger: Ledger
    begun: int = 0

    def found(self) -> Iterator[str]:
        """Give the PMCIDs that are wanted."""
        if self.wanted.ids:
            yield from Ids(self.raw, self.http, self.ledger, self.wanted.refresh).pmcids(self.wanted.ids)
            return
        for page in eutils.find(self.http, self.wanted.search()):
            yield from page

    @property
    def is_enough(self) -> bool:
        """Whether as many articles were asked for as are wanted."""
        return bool(self.wanted.limit) and self.begun >= self.wanted.limit

    def take(self, pmcids: Sequence[str]) -> None:
        """Take a group of articles, batch by batch."""
        taker = Taker(self.raw, self.wanted.tiers, self.wanted.refresh)
        known = known_rows(self.raw, pmcids)
        pending = []
        for pmcid in pmcids:
            settled = taker.settled(known[pmcid])
            if settled is not None:
                self.ledger.add(settled)
            else:
                pending.append(pmcid)
        left = self.wanted.limit - self.begun if self.wanted.limit else len(pending)
        for some in batches(pending[:left], eutils.BATCH):
            for received in eutils.fetch(self.http, some):
                self.ledger.add(taker.take(received, known[received.pmcid]))
            self.ledger.flush()
        self.begun += len(pending[:left])

    def line(self) -> str:
        """Return how far it is."""
        total = self.ledger.total
        return f"{total.kept:,} kept, {total.known:,} known, {total.refused:,} refused, {self.ledger.bytes:,} bytes"
