"""Europe PMC: the full text of the articles that a query finds, and the files of their figures."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medloom.connectors import europepmc
from medloom.connectors.europepmc import Result
from medloom.connectors.guard import Guard
from medloom.connectors.http import Http
from medloom.pipelines.fetch import gates
from medloom.pipelines.fetch.articles import (
    FAULTS,
    Known,
    Row,
    Taker,
    article_row,
    kept_rows,
    known_rows,
    name_of,
    take_back,
)
from medloom.pipelines.fetch.europepmc_files import Files, Graphic, files_name
from medloom.pipelines.fetch.job import FetchDone, Ledger, Taken, refused_row, take_each
from medloom.pipelines.fetch.parsing import parse_guarded
from medloom.schemas.errors import ConfigError, Refused, RetryLater
from medloom.schemas.keys import slug
from medloom.schemas.raw import RawZone

if TYPE_CHECKING:
    from medloom.pipelines.steps import Tell

WHAT = "fetch europepmc"
# Reasons by which a record alone may refuse an article; another record of it may say otherwise.
_BY_RECORD = ("article.not_open_access", "article.retracted", "terms.tier")


@dataclass(frozen=True)
class EuropePmc:
    """Articles by a query of Europe PMC, with the figures they show.

    Attributes:
        query: in Europe PMC's words ('OPEN_ACCESS:Y AND LICENSE:"CC BY" AND PUB_TYPE:"Case Reports"').
        tiers: licences that may be fetched: open (CC0, BY, BY-SA), nc, nd, other.
        media: fetch the figures too.
        limit: at most so many articles are asked for, 0 for all; what is in the raw zone counts for none.
        max_bytes: no article is begun after so many bytes were kept, 0 for no bound.
        refresh: ask again for what the service failed to give.
        workers: articles that are fetched at the same time; the host's rate bounds the requests.
    """

    query: str
    tiers: tuple[str, ...] = gates.DEFAULT_TIERS
    media: bool = True
    limit: int = 0
    max_bytes: int = 0
    refresh: bool = False
    workers: int = 4

    def __post_init__(self) -> None:
        gates.check_tiers(self.tiers)
        europepmc.check_query(self.query)
        if not 1 <= self.workers <= 64 or self.limit < 0 or self.max_bytes < 0:
            raise ConfigError("workers must be 1 to 64, limit and max_bytes not negative")

    def fetch(self, raw: RawZone, http: Http, told: "Tell") -> FetchDone:
        """Keep in `raw` the articles, and the files of the figures that may be shown."""
        ledger, before = Ledger(raw), http.requests
        with Guard() as guard, tempfile.TemporaryDirectory(prefix="medloom-") as folder:
            run = _Run(self, raw, http, ledger, guard, Path(folder))
            for page in europepmc.search(http, self.query):
                run.take(page.results, told)
                if run.is_enough:
                    break
        return ledger.done(http, requests_before=before)


@dataclass
class _Run:
    """One run: what is wanted, where it is entered, how much was asked of the service."""

    wanted: EuropePmc
    raw: RawZone
    http: Http
    ledger: Ledger
    guard: Guard
    folder: Path
    begun: int = 0

    @property
    def is_enough(self) -> bool:
        """Whether as many articles were asked for, or as many bytes kept, as are wanted."""
        return (bool(self.wanted.limit) and self.begun >= self.wanted.limit) or self._is_full()

    def _is_full(self) -> bool:
        return bool(self.wanted.max_bytes) and self.ledger.bytes >= self.wanted.max_bytes

    def take(self, results: Sequence[Result], told: "Tell") -> None:
        """Take a page of results; what the catalog decides is only counted."""
        known = known_rows(self.raw, [result.pmcid or _unnamed(result) for result in results])
        pending = []
        for result in results:
            taking = _Taking(self, result, known[result.pmcid or _unnamed(result)])
            if taking.settle():
                self.ledger.add(taking.counted())
            else:
                pending.append(taking)
        while pending and not self.is_enough:
            left = self.wanted.limit - self.begun if self.wanted.limit else len(pending)
            some, pending = pending[:left], pending[left:]
            take_each(
                some, _Taking.run, self.ledger, told, what=WHAT, workers=self.wanted.workers, enough=self._is_full
            )
            self.begun += sum(taking.asks for taking in some)
        self.ledger.flush()


@dataclass
class _Taking:
    """The work on one article."""

    job: _Run
    result: Result
    known: Known
    taken: Taken = field(default_factory=Taken)
    asks: bool = False

    def counted(self) -> Taken:
        """Return what it came to: each object that has an outcome was asked for."""
        self.taken.asked = self.taken.kept + self.taken.known + self.taken.refused
        return self.taken

    def settle(self) -> bool:
        """Count an article that nothing need be asked for, and say whether it is one."""
        result, wanted = self.result, self.job.wanted
        if not result.pmcid:
            self._refuse_unasked(Refused("article.no_pmcid", f"{result.name} is not in PMC"))
            return True
        row, held = article_row(self.known), kept_rows(self.known)
        if result.is_retracted and held:
            refused = Refused("article.retracted", "its record says that it is retracted")
            self.taken.refuse(refused.reason)
            take_back(self.taken, held, outcome="withdrawn", reason=refused.reason, detail=refused.detail)
            return True
        if row is not None and row["outcome"] == "kept":
            return self._settle_kept(row)
        try:
            gates.must_be_fetchable(
                is_open_access=result.is_open_access, is_retracted=result.is_retracted,
                licence_code=result.licence_code, tiers=wanted.tiers,
            )  # fmt: skip
        except Refused as refused:
            self._refuse_unasked(refused)
            return True
        if row is None or row["reason"] == "terms.tier" or (row["reason"] in _BY_RECORD and not row["retrieved_at"]):
            return False
        if wanted.refresh and row["reason"].startswith((*FAULTS, "europepmc.")):
            return False
        self.taken.refuse(row["reason"])
        return True

    def _settle_kept(self, row: Row) -> bool:
        """Count an article that is kept, unless figures of it are still to be had."""
        media = [one for one in self.known.values() if (one["article"], one["role"]) == (row["article"], "media")]
        files = self.known.get(files_name(row["article"]))
        is_open = files is None or (self.job.wanted.refresh and files["outcome"] == "refused")
        if self.job.wanted.media and (is_open or any(one["reason"] == "terms.tier" for one in media)):
            return False
        for one in [row, *media]:
            self._count(one)
        return True

    def _count(self, row: Row) -> None:
        if row["outcome"] == "kept":
            self.taken.known += 1
        else:
            self.taken.refuse(row["reason"])

    def _refuse_unasked(self, refused: Refused) -> None:
        article = self.result.pmcid or _unnamed(self.result)
        name, role = (name_of(article, 0), "article") if self.result.pmcid else (article, "record")
        before = self.known.get(name) or article_row(self.known)
        is_same = before is not None and before["outcome"] != "kept" and before["reason"] == refused.reason
        row = refused_row(name, refused, article=article, role=role)
        self.taken.refuse(refused.reason, None if is_same else row)

    def run(self) -> Taken:
        """Return what the article came to; its objects are in the raw zone when this returns, its rows are not.

        `asks` says then whether the service was asked.
        """
        try:
            self._run()
        except RetryLater as fault:
            self.taken.later = fault
        return self.counted()

    def _run(self) -> None:
        job, row = self.job, article_row(self.known)
        if row is not None and row["digest"]:  # kept, or held for other tiers
            settled = Taker(job.raw, job.wanted.tiers).settled(self.known)
            assert settled is not None
        else:
            self.asks = True
            received = europepmc.full_text(job.http, self.result.pmcid)
            taker = Taker(job.raw, job.wanted.tiers, job.wanted.refresh)
            settled = taker.take(received, self.known, licence_code=self.result.licence_code)
            row = next((one for one in settled.rows if one["outcome"] == "kept"), None)
        self.taken = settled
        if (settled.kept or settled.known) and row is not None and job.wanted.media:
            self._figures(row)

    def _figures(self, row: Row) -> None:
        """Fetch the files of the figures that may be shown."""
        job = self.job
        try:
            article, figures = parse_guarded(job.guard, job.raw.read(row["digest"]), row["name"])
        except Refused as unread:  # the text is kept, for whoever reads it to say so too
            name = files_name(row["article"])
            self.taken.rows.append(refused_row(name, unread, article=row["article"], role="record"))
            return
        terms_id = gates.stated_terms(article, licence_code=self.result.licence_code)
        graphics = []
        for figure in figures:
            refused = _why_not_shown(figure, terms_id, job.wanted.tiers)
            graphics += [Graphic(media["href"], refused) for media in figure["media"] if media["role"] == "figure"]
        files = Files(job.raw, job.http, job.folder, row["article"], self.known, job.wanted.refresh)
        self.asks |= files.needs_zip(graphics)
        taken = files.take(graphics)
        self.taken.kept += taken.kept
        self.taken.known += taken.known
        self.taken.refused += taken.refused
        self.taken.rows += taken.rows
        self.taken.reasons += taken.reasons


def _why_not_shown(figure: Row, terms_id: str, tiers: Iterable[str]) -> Refused | None:
    try:
        gates.must_be_shown_freely(figure, terms_id=terms_id, tiers=tiers)
    except Refused as refused:
        return refused
    return None


def _unnamed(result: Result) -> str:
    """Return what an article that is not in PMC is called in the catalog."""
    return f"europepmc/{slug(result.name)}"
