"""Europe PMC: search by cursor, full text as JATS, and the zip of an article's files.

Errors come inside HTTP 200, and an article that it does not give is an empty 404. Source: "Europe PMC RESTful Web
Service", europepmc.org/RestfulWebService.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medloom.connectors import settings
from medloom.connectors.envelopes import Received, local_name, parse_envelope, received
from medloom.connectors.http import Again, Answer, Http
from medloom.schemas.errors import ConfigError, Refused, RetryLater, SourceError

PAGE = 500  # 1 to 1,000; a result of resultType=core has about 8 KB
LONGEST_QUERY = 4_000  # characters; the service answers 414 above some 12,000 of the whole URL, which quotes threefold
MAX_ARTICLE_BYTES = 64 << 20
MAX_ZIP_BYTES = 1 << 30

_PMCID = re.compile(r"PMC[1-9]\d{0,9}")
_RETRACTED = re.compile(r"retracted publication|withdrawn", re.IGNORECASE)
_RETRACTS = re.compile(r"retraction in|retracted by|withdrawn", re.IGNORECASE)
_RETRY_CODES = frozenset({408, 425, 429}) | frozenset(range(500, 600))


@dataclass(frozen=True)
class Result:
    """What a search says of an article.

    Attributes:
        pmcid: "PMC7500000", "" when it is not in PMC.
        source, source_id: by which Europe PMC knows it ("MED", "38867410").
        is_open_access: in the open access subset of Europe PMC.
        is_retracted: by its type of publication or a link to a retraction.
        licence_code: as stated ("cc by"), "" when nothing is.
    """

    pmcid: str
    source: str
    source_id: str
    is_open_access: bool
    is_retracted: bool
    licence_code: str

    @property
    def name(self) -> str:
        """What to call it: its PMCID, else source and id."""
        return self.pmcid or f"{self.source}-{self.source_id}"


@dataclass(frozen=True)
class Page:
    """One page of a search: how many results there are in all, and those of this page."""

    count: int
    results: tuple[Result, ...]


def check_query(query: str) -> None:
    """Hold a query against what a request takes.

    Raises:
        ConfigError: it is empty, or too long.
    """
    if not query.strip() or len(query) > LONGEST_QUERY:
        raise ConfigError(
            f"a query of {len(query)} characters: Europe PMC takes 1 to {LONGEST_QUERY}, such as "
            "'OPEN_ACCESS:Y AND PUB_TYPE:\"Case Reports\"'"
        )


def search(http: Http, query: str, *, page: int = PAGE) -> Iterator[Page]:
    """Give the pages of a search, each result once.

    Raises:
        ConfigError: the query is empty, or longer than a request may be.
        SourceError: the service does not understand the query, or refuses to be asked.
        RetryLater: it does not answer, or gives fewer results than it counts.
    """
    check_query(query)
    cursor, cursors, seen, listed = "*", set[str](), set[str](), 0
    while True:
        said = _page(http, query, cursor, page)
        rows = (said.get("resultList") or {}).get("result") or []
        results = {result.name: result for result in map(_result, rows)}
        fresh = tuple(result for name, result in results.items() if name not in seen)
        seen |= set(results)
        listed += len(rows)
        yield Page(int(said["hitCount"]), fresh)
        following = str(said.get("nextCursorMark") or "")
        if not following or following == cursor or not rows:
            break
        cursors.add(cursor)
        if following in cursors:
            raise RetryLater("Europe PMC gives the same page of a search again; run the same command again later")
        cursor = following
    if listed < 0.99 * int(said["hitCount"]):  # the index changes a little while it is read
        raise RetryLater(
            f"Europe PMC counts {said['hitCount']} results and lists {listed}; run the same command again: what was "
            "fetched is kept"
        )


def full_text(http: Http, pmcid: str) -> Received:
    """Return the JATS of an article, or why there is none.

    Refusals: "europepmc.no_full_text" (an empty 404: not open access, or unknown), "article.not_open_access" (only its
    front), "jats.…", "http.…".

    Raises:
        SourceError: the service refuses to be asked.
        RetryLater: it does not answer.
    """
    url = f"{settings.service_url('europepmc')}/{_checked(pmcid)}/fullTextXML"
    try:
        answer = http.get(url, params=_courtesy(), max_bytes=MAX_ARTICLE_BYTES, check=_check_full_text)
        root = parse_envelope(answer.content)
    except Refused as refused:
        return Received.refusing(pmcid, _no_full_text(pmcid, refused))
    articles = [root] if local_name(root) == "article" else list(root.iter("{*}article"))
    if len(articles) != 1:
        what = f"{pmcid}: {len(articles)} articles in its full text, 1 expected"
        return Received.refusing(pmcid, Refused("jats.no_article", what))
    return received(articles[0], pmcid=pmcid, url=url, answer=answer)


def files_zip(http: Http, pmcid: str, *, to: Path) -> Answer:
    """Write the zip of an article's files, its pictures among them, to the file `to`.

    Raises:
        Refused("europepmc.no_files"): there is none.
        Refused("http.large" | "http.truncated"): above `MAX_ZIP_BYTES`, or never whole.
        SourceError: the service refuses to be asked.
        RetryLater: it does not answer.
    """
    url = files_url(pmcid)
    try:
        answer = http.download(url, to=to, max_bytes=MAX_ZIP_BYTES)
    except Refused as refused:
        if refused.reason in ("http.not_found", "http.gone"):
            raise Refused("europepmc.no_files", f"{pmcid}: Europe PMC has no files of it") from refused
        raise
    with open(to, "rb") as file:
        start = file.read(2000)
    if start.startswith(b"PK"):
        return answer
    to.unlink()
    code = _error_code(start)
    if code in (404, 410):
        raise Refused("europepmc.no_files", f"{pmcid}: Europe PMC has no files of it")
    if code in _RETRY_CODES:
        raise RetryLater(f"Europe PMC fails with {code} inside HTTP 200; run the same command again later")
    raise Refused("europepmc.no_zip", f"{pmcid}: what Europe PMC gives as its files is no zip")


def files_url(pmcid: str) -> str:
    """Return where the zip of an article's files is."""
    return f"{settings.service_url('europepmc')}/{_checked(pmcid)}/supplementaryFiles"


def _page(http: Http, query: str, cursor: str, size: int) -> dict[str, Any]:
    """Return the page of a search at a cursor; its URL is made anew, since the one that a page names is not quoted."""
    params: dict[str, str | int] = {
        "query": query, "resultType": "core", "format": "json", "pageSize": size, "cursorMark": cursor, **_courtesy(),
    }  # fmt: skip
    said: dict[str, Any] = {}

    def check(answer: Answer) -> None:
        said.clear()
        said.update(_search_result(answer))

    try:
        http.get(f"{settings.service_url('europepmc')}/search", params=params, check=check)
    except Refused as refused:
        raise SourceError(
            f"Europe PMC refuses a search ({refused}); see that the query and MEDLOOM_EUROPEPMC_URL are right"
        ) from refused
    return said


def _search_result(answer: Answer) -> dict[str, Any]:
    code = _error_code(answer.content)
    if code in _RETRY_CODES:
        raise Again(f"error {code} inside HTTP 200")
    if code:
        raise SourceError(f"Europe PMC does not understand the query (error {code} inside HTTP 200); mend it")
    try:
        said = json.loads(answer.content)
        int(said["hitCount"])
    except (ValueError, TypeError, KeyError) as fault:
        raise Again("an answer that is no page of results") from fault
    return dict(said)


def _check_full_text(answer: Answer) -> None:
    """Raise for what is no article: an error inside HTTP 200, nothing at all, a body that ends before its end."""
    code = _error_code(answer.content)
    if code in _RETRY_CODES:
        raise Again(f"error {code} inside HTTP 200")
    if code or not answer.content.strip():
        raise Refused("http.not_found", f"error {code} inside HTTP 200" if code else "an empty answer")
    if b"<html" in answer.content[:500].lower():
        raise Again("an HTML page in place of an article")
    if not answer.content.rstrip().endswith(b">"):
        raise Again("an article that ends before its end")


def _no_full_text(pmcid: str, refused: Refused) -> Refused:
    """Return what a refusal of an article's text comes to; one that is not about the article ends the run."""
    if refused.reason in ("http.not_found", "http.gone"):
        return Refused("europepmc.no_full_text", f"{pmcid}: Europe PMC does not give its full text")
    if refused.reason.startswith(("jats.", "http.large", "http.truncated", "http.status")):
        return refused
    raise SourceError(f"Europe PMC refuses to be asked ({refused}); see that MEDLOOM_EUROPEPMC_URL is right")


def _error_code(content: bytes) -> int:
    """Return the code of an error inside HTTP 200, 0 when it is none."""
    if not content[:20].lstrip().startswith(b"{") or len(content) > 10_000:
        return 0
    try:
        return int(json.loads(content).get("errCode") or 0)
    except (ValueError, TypeError):
        return 0


def _result(row: dict[str, Any]) -> Result:
    kinds = " ".join((row.get("pubTypeList") or {}).get("pubType") or [])
    links = (row.get("commentCorrectionList") or {}).get("commentCorrection") or []
    title = str(row.get("title") or "")
    is_retracted = (
        bool(_RETRACTED.search(kinds))
        or any(_RETRACTS.search(str(link.get("type") or "")) for link in links)
        or title.upper().startswith(("RETRACTED:", "RETRACTED ARTICLE", "WITHDRAWN:"))
    )
    pmcid = str(row.get("pmcid") or "")
    return Result(
        pmcid=pmcid if _PMCID.fullmatch(pmcid) else "",
        source=str(row.get("source") or ""),
        source_id=str(row.get("id") or ""),
        is_open_access=row.get("isOpenAccess") == "Y",
        is_retracted=is_retracted,
        licence_code=str(row.get("license") or ""),
    )


def _checked(pmcid: str) -> str:
    """Return an id as it may stand in a path."""
    if not _PMCID.fullmatch(pmcid):
        raise Refused("article.no_pmcid", f"{pmcid[:40]!r} is no PMCID")
    return pmcid


def _courtesy() -> dict[str, str]:
    return {"email": settings.email()} if settings.email() else {}
