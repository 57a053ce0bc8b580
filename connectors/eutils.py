"""E-utilities of NCBI, for PMC: esearch finds articles, efetch gives their XML.

Its errors come inside HTTP 200, and its lists end at a limit without a word: both are looked for here. Rates, retries
and secrets are `medloom.connectors.http`'s. Source: "Entrez Programming Utilities Help", NBK25501.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from medloom.connectors import settings
from medloom.connectors.batches import batches, by_halves
from medloom.connectors.envelopes import Received, children, local_name, parse_envelope, received
from medloom.connectors.http import Again, Answer, Http
from medloom.schemas.errors import ConfigError, Refused, RetryLater, SourceError

log = logging.getLogger(__name__)

LIMIT = 9_999  # ids that one search is trusted to list: beyond, NCBI's databases cut, each at a number of its own
PAGE = 2_000
BATCH = 100  # articles of one efetch: about 15 MB
LONGEST_TERM = 4_000  # characters; longer ones do not fit a URL
DATE_FIELDS = ("pmcrdat", "edat", "pdat")  # release in PMC, entry, publication; [crdt] finds nothing in db=pmc
FIRST_DAY = date(1900, 1, 1)

# An error that another try does not mend: the user's.
_MISTAKE = re.compile(r"empty (?:term|result)|invalid|syntax|unknown|can ?not (?:parse|understand)|mismatch", re.I)
_BUSY = re.compile(r"rate limit|too many|temporar|unavailable|timed? ?out|backend|forwarding", re.I)


@dataclass(frozen=True)
class Window:
    """Days of a date field, both included; `None` has no window."""

    since: date
    until: date

    def halves(self) -> "tuple[Window, Window]":
        """Return its earlier and its later half; only of more than one day."""
        middle = self.since + (self.until - self.since) // 2
        return Window(self.since, middle), Window(middle + timedelta(days=1), self.until)


@dataclass(frozen=True)
class Search:
    """A query of PMC.

    Attributes:
        term: in Entrez's words ('"case reports"[Filter] AND open_access[Filter]').
        since, until: days of `date_field` between which an article must lie, both included; None: no bound.
        date_field: one of `DATE_FIELDS`.
    """

    term: str
    since: date | None = None
    until: date | None = None
    date_field: str = "pmcrdat"

    def __post_init__(self) -> None:
        if not self.term.strip():
            raise ConfigError("E-utilities cannot search for nothing: give a query such as 'open_access[Filter]'")
        if len(self.term) > LONGEST_TERM:
            raise ConfigError(
                f"the query has {len(self.term)} characters, and {LONGEST_TERM} fit a request; shorten it"
            )
        if self.date_field not in DATE_FIELDS:
            raise ConfigError(f"date_field={self.date_field!r} is none of {', '.join(DATE_FIELDS)}")

    def window(self) -> Window | None:
        """The days asked for; None when neither bound is given."""
        if self.since is None and self.until is None:
            return None
        return Window(self.since or FIRST_DAY, self.until or _tomorrow())

    def within(self, window: Window | None) -> str:
        """Return the term for one window."""
        if window is None:
            return self.term
        since, until = f"{window.since:%Y/%m/%d}", f"{window.until:%Y/%m/%d}"
        return f'({self.term}) AND ("{since}"[{self.date_field}] : "{until}"[{self.date_field}])'

    def undated(self) -> str:
        """Return the term for articles that stand in no window."""
        return f'({self.term}) NOT ("1900/01/01"[{self.date_field}] : "3000/12/31"[{self.date_field}])'


@dataclass(frozen=True)
class Found:
    """One page of a search: how many there are in all, the ids of this page, and where its rest is kept.

    `ignored` are words of the query that the service did not know and passed over.
    """

    count: int
    ids: tuple[str, ...]
    web_env: str
    query_key: str
    ignored: tuple[str, ...]


def count(http: Http, search: Search) -> int:
    """Return how many articles a search finds.

    Raises:
        SourceError: the service does not understand the query.
    """
    return _esearch(http, search.within(search.window()), most=0).count


def find(http: Http, search: Search) -> Iterator[tuple[str, ...]]:
    """Give the PMCIDs ("PMC123") that a search finds, page by page, each once.

    What finds more than `LIMIT` is asked for in windows of days, halved until each holds less; articles without a date
    come last.

    Raises:
        SourceError: the service does not understand the query, passes over a part of it, or does not list what it
            counts, since one day holds more than it lists.
    """
    whole = search.window()
    first = _esearch(http, search.within(whole))
    if first.ignored:
        raise SourceError(
            f"E-utilities does not know {', '.join(map(repr, first.ignored))} and would search without; mend the query"
        )
    if first.count <= LIMIT:
        yield from _pages(http, search.within(whole), first)
        return
    pending = [whole or Window(FIRST_DAY, _tomorrow())]
    while pending:
        window = pending.pop()
        found = _esearch(http, search.within(window))
        if found.count > LIMIT and window.since < window.until:
            earlier, later = window.halves()
            pending += [later, earlier]
        else:
            yield from _pages(http, search.within(window), found)
    if whole is None:
        yield from _pages(http, search.undated(), _esearch(http, search.undated()))


def fetch(http: Http, pmcids: Sequence[str], *, batch: int = BATCH) -> Iterator[Received]:
    """Give one `Received` for each of `pmcids`: the article's own bytes, or why there are none. Order is not kept.

    Refusals: "article.not_found" (the service says so), "article.not_given" (it says nothing),
    "article.not_open_access" (only the front is given), "jats.…" (XML not to be trusted), "http.status", "http.large",
    "http.truncated".

    Raises:
        SourceError: the service refuses whatever it is asked.
        RetryLater: it does not answer.
    """
    base = settings.service_url("eutils")

    def ask(some: Sequence[str]) -> tuple[Answer, Any]:
        numbers = ",".join(pmcid.removeprefix("PMC") for pmcid in some)
        params = {"db": "pmc", "retmode": "xml", "id": numbers, **settings.ncbi_params()}
        answer = http.get(f"{base}/efetch.fcgi", params=params, max_bytes=256 << 20, check=_check_efetch)
        return answer, parse_envelope(answer.content)

    for some in batches(pmcids, batch):
        for asked, answer in by_halves(some, ask, service="E-utilities"):
            if isinstance(answer, Refused):
                yield Received.refusing(asked[0], answer)
            else:
                yield from _matched(asked, *answer)


def _matched(asked: Sequence[str], answer: Answer, root: Any) -> Iterator[Received]:
    """Give what an answer holds for each id, found by the ids that stand in it: it may leave out any of them."""
    found: dict[str, Received] = {}
    base = f"{settings.service_url('eutils')}/efetch.fcgi?db=pmc&retmode=xml&id="
    for article in children(root, "article") if local_name(root) != "article" else [root]:
        one = received(article, pmcid="", url=base, answer=answer)
        one = replace(one, url=base + one.pmcid.removeprefix("PMC"))
        known = found.get(one.pmcid)
        if known is None or known.version < one.version:
            found[one.pmcid] = one
    said = {_pmcid(reply.get("Id") or reply.get("id") or ""): _said(reply) for reply in children(root, "Reply")}
    for pmcid in asked:
        if pmcid in found:
            yield found.pop(pmcid)
        elif pmcid in said:
            yield Received.refusing(pmcid, Refused("article.not_found", f"{pmcid}: {said[pmcid]}"))
        else:
            what = f"{pmcid}: E-utilities gives no article of that id and does not say why"
            yield Received.refusing(pmcid, Refused("article.not_given", what))
    if found:
        log.warning("E-utilities gave %d articles that it was not asked for: passed over", len(found))


def _pages(http: Http, term: str, found: Found) -> Iterator[tuple[str, ...]]:
    """Give the ids of a search whose first page is `found`; the other pages come from the service's history."""
    seen: dict[str, None] = {}
    page, anew = found, 0
    while True:
        fresh = tuple(pmcid for pmcid in page.ids if pmcid not in seen)
        seen |= dict.fromkeys(page.ids)
        if fresh:
            yield fresh
        if len(seen) >= found.count or not page.ids:
            break
        try:
            asked = f"#{found.query_key}" if found.web_env else term
            page = _esearch(http, asked, start=len(seen), web_env=found.web_env)
        except _HistoryLost as fault:
            anew += 1
            if anew > 3:
                raise RetryLater(f"E-utilities forgets a search before it is listed ({fault}); run it again") from fault
            found = _esearch(http, term)
            page = found
    if len(seen) < found.count:
        raise SourceError(
            f"E-utilities counts {found.count} articles for {term!r} and lists {len(seen)}; narrow the query, so that "
            "no day holds that many"
        )


class _HistoryLost(Exception):
    """The service no longer has the search that a page was asked of."""


def _esearch(http: Http, term: str, *, start: int = 0, most: int | None = None, web_env: str = "") -> Found:
    params: dict[str, str | int] = {
        "db": "pmc", "term": term, "retmode": "json", "usehistory": "y", "retstart": start,
        "retmax": PAGE if most is None else most,
        **({"WebEnv": web_env} if web_env else {}), **settings.ncbi_params(),
    }  # fmt: skip
    url = f"{settings.service_url('eutils')}/esearch.fcgi"
    result: dict[str, Any] = {}

    def check(answer: Answer) -> None:
        result.clear()
        result.update(_esearch_result(answer, in_history=bool(web_env)))

    try:
        http.get(url, params=params, check=check)
    except Refused as refused:
        raise SourceError(
            f"E-utilities refuses a search ({refused}); see that the query, MEDLOOM_EUTILS_URL and MEDLOOM_NCBI_KEY "
            "are right"
        ) from refused
    missed = result.get("errorlist") or {}
    ignored = [*_texts(missed.get("fieldsnotfound")), *_texts(missed.get("phrasesnotfound"))]
    total = int(result["count"])
    return Found(
        total, tuple(map(_pmcid, _texts(result.get("idlist")))), str(result.get("webenv") or ""),
        str(result.get("querykey") or "1"), tuple(ignored) if total or missed.get("fieldsnotfound") else (),
    )  # fmt: skip


def _esearch_result(answer: Answer, *, in_history: bool) -> dict[str, Any]:
    """Return the `esearchresult` of an answer.

    Raises:
        Again: the service fails inside HTTP 200.
        SourceError: it does not understand the query.
    """
    try:
        # Entrez leaves control characters in strings, which JSON forbids.
        said = json.loads(answer.content, strict=False)
        result = said.get("esearchresult") or {}
        fault = str(said.get("error") or result.get("ERROR") or "")
        if not fault and not str(result.get("count", "")).isdigit():
            raise Again("an answer without a count")
    except (ValueError, AttributeError) as fault_:
        raise Again("an answer that is no JSON object") from fault_
    if not fault:
        return dict(result)
    if in_history and not _BUSY.search(fault):
        raise _HistoryLost("the search is not in its history")
    raise _fault_of(fault)


def _fault_of(fault: str) -> Exception:
    """Return what the text of an error inside HTTP 200 stands for; it may quote the request, and with it a key."""
    if _BUSY.search(fault) or not _MISTAKE.search(fault):
        return Again("an error inside HTTP 200", after_s=1.0 if _BUSY.search(fault) else 0.0)
    for secret in filter(None, (settings.ncbi_key(), settings.email())):
        fault = fault.replace(secret, "…")
    return SourceError(f"E-utilities does not understand what it is asked: {fault[:200]!r}; mend the query")


def _check_efetch(answer: Answer) -> None:
    """Raise `Again` for an error inside HTTP 200 and for a body that ends before its end."""
    start = answer.content[:2000].lstrip()
    if start.startswith(b"{") or b"<eFetchResult" in start or b"<ERROR>" in start:
        raise _fault_of(" ".join(re.sub(rb"<[^>]*>", b" ", start).decode("utf-8", "replace").split()))
    if b"<html" in start[:500].lower():
        raise Again("an HTML page in place of articles")
    if not answer.content.rstrip().endswith((b"</pmc-articleset>", b"</article>", b"<pmc-articleset/>")):
        raise Again("articles that end before their end")


def _said(reply: Any) -> str:
    return " ".join((reply.get("error") or reply.text or "it is not there").split())[:200]


def _texts(value: Any) -> Iterable[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def _pmcid(number: str) -> str:
    return f"PMC{number.removeprefix('PMC')}"


def _tomorrow() -> date:
    return datetime.now(UTC).date() + timedelta(days=1)  # a day that has begun east of Greenwich
