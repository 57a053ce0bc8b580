"""PMC, as the PMC Cloud Service gives it: articles by id, by query or by inventory, with the figures that they show."""

import logging
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from medloom.connectors import eutils
from medloom.connectors.guard import Guard
from medloom.connectors.http import Http
from medloom.connectors.pmc import PmcCloud
from medloom.connectors.pmc_inventory import newest_report, read_report
from medloom.pipelines.fetch import gates
from medloom.pipelines.fetch.articles import known_rows
from medloom.pipelines.fetch.ids import Ids
from medloom.pipelines.fetch.inventory import Inventories
from medloom.pipelines.fetch.job import FetchDone, Ledger, Taken, take_each
from medloom.pipelines.fetch.pmc_article import Articles, Row, Wanted
from medloom.schemas.errors import ConfigError, Refused, SourceError
from medloom.schemas.raw import RawZone

if TYPE_CHECKING:
    from medloom.pipelines.steps import Tell

log = logging.getLogger(__name__)

GROUP = 5_000  # articles whose rows of the catalog are held at once
WHAT = "fetch pmc, by 100 articles"


@dataclass(frozen=True)
class Pmc:
    """Articles of PubMed Central and the figures they show, from the PMC Cloud Service (S3).

    Attributes:
        ids: PMCIDs, and DOIs or PMIDs, which the ID converter makes PMCIDs of.
        ids_file: file of ids, one a line; what follows a blank or comma is passed over.
        query: for E-utilities, in Entrez's words.
        inventory: all that the newest inventory holds and the raw zone does not; what vanished is withdrawn.
        tiers: licences that may be fetched: open (CC0, BY, BY-SA), nc, nd, other.
        limit: at most so many articles are asked for, 0 for all.
        max_bytes: no article is begun after so many bytes were kept, 0 for no bound.
        refresh: look for newer versions of known ids, and ask again for what the service failed to give.
        workers: articles that are fetched at the same time; the host's rate bounds the requests.
    """

    ids: tuple[str, ...] = ()
    ids_file: str = ""
    query: str = ""
    inventory: bool = False
    tiers: tuple[str, ...] = gates.DEFAULT_TIERS
    limit: int = 0
    max_bytes: int = 0
    refresh: bool = False
    workers: int = 8

    def __post_init__(self) -> None:
        gates.check_tiers(self.tiers)
        said = [name for name in ("ids", "ids_file", "query", "inventory") if getattr(self, name)]
        if len(said) != 1:
            found = f"{' and '.join(said)} are named" if said else "none is"
            raise ConfigError(f"say which articles: one of ids=…, ids_file=…, query=…, inventory=on; {found}")
        if not 1 <= self.workers <= 64 or self.limit < 0 or self.max_bytes < 0:
            raise ConfigError("workers must be 1 to 64, limit and max_bytes not negative")

    def fetch(self, raw: RawZone, http: Http, told: "Tell") -> FetchDone:
        """Keep the articles in `raw`: their records, XML, and the files of the figures that may be shown."""
        ledger, before = Ledger(raw), http.requests
        cloud = PmcCloud(http)
        with Guard() as guard, tempfile.TemporaryDirectory(prefix="medloom-") as folder:
            articles = Articles(raw, cloud, guard, self.tiers, self.refresh, Path(folder))
            run = _Run(self, articles, ledger, told)
            if self.inventory:
                run.inventory()
            else:
                run.by_ids(self._pmcids(http, ledger))
        return ledger.done(http, requests_before=before)

    def _pmcids(self, http: Http, ledger: Ledger) -> list[str]:
        """Return the PMCIDs of what is asked for, each once, `limit` at most."""
        if self.query:
            pages = eutils.find(http, eutils.Search(self.query))
            found = list(islice(chain.from_iterable(pages), self.limit or None))
        else:
            ids = _read_ids(Path(self.ids_file)) if self.ids_file else [one.strip() for one in self.ids if one.strip()]
            if not ids:
                raise ConfigError("no id is named; give some like PMC11370360")
            found = Ids(ledger.raw, http, ledger, self.refresh).pmcids(ids)
        return found[: self.limit or None]


def _read_ids(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(f"cannot read ids_file={path}: give a text file with an id in each line") from fault
    words = (re.split(r"[\s,;]", line.strip(), maxsplit=1)[0].strip('"') for line in lines)
    return [word for word in words if word and not word.startswith("#")]


@dataclass
class _Run:
    """One run: what is wanted, who takes it, where it is entered."""

    pmc: Pmc
    articles: Articles
    ledger: Ledger
    told: "Tell"
    begun: int = 0

    def by_ids(self, pmcids: Sequence[str]) -> None:
        for start in range(0, len(pmcids), GROUP):
            group = pmcids[start : start + GROUP]
            known = known_rows(self.articles.raw, group)
            self._take([Wanted(pmcid, {}, known[pmcid]) for pmcid in group])

    def inventory(self) -> None:
        """Bring the raw zone up to the newest inventory."""
        kept = Inventories(self.articles.raw.store)
        with kept.alone():
            self._follow(kept)

    def _follow(self, kept: Inventories) -> None:
        cloud = self.articles.cloud
        try:
            report = newest_report(cloud)
            if not kept.holds(report.stamp):
                count = kept.take(report.stamp, read_report(cloud, report))
                log.info("inventory %s: %d article versions", report.stamp, count)
        except Refused as refused:
            raise SourceError(f"cannot read the inventory of {cloud.url}: {refused}") from refused
        state, tiers = kept.state(), tuple(sorted(self.pmc.tiers))
        if state.compared and state.compared != report.stamp:
            for gone in kept.vanished(report.stamp, state.compared):
                self._take_back(gone)
            self.ledger.flush()
        kept.mark(compared=report.stamp)
        since = state.done if state.tiers == tiers and not self.pmc.refresh else ""
        if since == report.stamp:
            self.told.begin(WHAT, 0)
            self.told.end()
            return
        if self._changed(kept.changed(report.stamp, since)) and not self.ledger.later:
            kept.mark(done=report.stamp, tiers=tiers)

    def _changed(self, tables: Iterable[pa.Table]) -> bool:
        """Take the articles of tables of versions, in groups; return whether all were asked for."""
        articles = (article for table in tables for article in _articles(table))
        while group := list(islice(articles, GROUP)):
            known = self._known(group)
            if not self._take([Wanted(pmcid, versions, known[pmcid]) for pmcid, versions in group]):
                return False
        return True

    def _take(self, group: Sequence[Wanted]) -> bool:
        """Take articles; return whether all were asked for. What the catalog knows all about counts for no limit."""
        pending = []
        for wanted in group:
            settled = self.articles.settled(wanted)
            if settled is not None:
                self.ledger.add(settled)
            else:
                pending.append(wanted)
        left = self.pmc.limit - self.begun if self.pmc.limit else len(pending)
        if pending[:left]:
            take_each(
                pending[:left], self.articles.take, self.ledger, self.told, what=WHAT, workers=self.pmc.workers,
                enough=self._has_enough,
            )  # fmt: skip
        self.begun += min(left, len(pending))
        return len(pending) <= left and not self._has_enough()

    def _has_enough(self) -> bool:
        return bool(self.pmc.max_bytes) and self.ledger.bytes >= self.pmc.max_bytes

    def _take_back(self, gone: pa.Table) -> None:
        """Enter what the service holds no more: withdrawn, or superseded where it has a newer version."""
        rows = gone.to_pylist()
        known = self._known((f"PMC{row['pmc']}", [row["version"]]) for row in rows)
        for row in rows:
            pmcid, taken = f"PMC{row['pmc']}", Taken()
            is_newer = row["newest"] is not None and row["newest"] > row["version"]
            outcome, reason = ("superseded", "pmc.version") if is_newer else ("withdrawn", "pmc.vanished")
            detail = f"{pmcid}.{row['newest']} is there" if is_newer else "the service's inventory holds it no more"
            for held in known[pmcid].values():
                if held["outcome"] == "kept" and held["article"] == f"{pmcid}.{row['version']}":
                    taken.take_back(held, outcome=outcome, reason=reason, detail=detail)
            self.ledger.add(taken)

    def _known(self, wanted: Iterable[tuple[str, Iterable[int]]]) -> dict[str, dict[str, Row]]:
        """Return the catalog's rows of these versions of articles, by PMCID and name."""
        known: dict[str, dict[str, Row]] = {}
        names = []
        for pmcid, versions in wanted:
            known.setdefault(pmcid, {})
            names += [pmcid, *(f"{pmcid}.{version}" for version in versions)]
        for row in self.articles.raw.rows(names).to_pylist():
            known[row["article"].partition(".")[0]][row["name"]] = row
        return known


def _articles(table: pa.Table) -> Iterator[tuple[str, dict[int, str]]]:
    """Give the PMCID and the record's ETag of each version, article by article, out of sorted rows of `VERSION`."""
    rows = zip(*(table[name].to_pylist() for name in ("pmc", "version", "etag")), strict=True)
    for pmc, versions in groupby(rows, key=itemgetter(0)):
        yield f"PMC{pmc}", {version: etag for _, version, etag in versions}
