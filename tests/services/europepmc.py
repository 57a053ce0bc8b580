"""Europe PMC's REST service on loopback: search by cursor, full text, zips of files, errors inside HTTP 200."""

import io
import json
import zipfile
from dataclasses import dataclass, field
from typing import Any

from tests.services.articles import Article
from tests.services.loopback import Asked, Reply

REST = "/europepmc/webservices/rest"


@dataclass
class EuropePmc:
    """The service.

    Attributes:
        results: what a search finds, in order; rows as `result` makes them.
        texts: full text by PMCID; others are an empty 404.
        zips: zips by PMCID; others are an empty 404.
        ending: how the last page says that it is the last: "none", "same" or "empty".
        loops: whether the cursor of the third page leads back to the first.
        counts: what it says that there is, None for the truth.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    zips: dict[str, bytes] = field(default_factory=dict)
    ending: str = "same"
    loops: bool = False
    counts: int | None = None

    def __call__(self, asked: Asked) -> Reply:
        path = asked.path.removeprefix(REST)
        if path == "/search":
            return self._search(asked.query)
        pmcid, _, what = path.strip("/").partition("/")
        held = {"fullTextXML": self.texts, "supplementaryFiles": self.zips}.get(what, {}).get(pmcid)
        if held is None:
            return Reply(404)
        kind = "application/xml" if what == "fullTextXML" else "application/zip"
        return Reply(200, held, {"Content-Type": kind})

    def _search(self, query: dict[str, str]) -> Reply:
        assert query["format"] == "json"
        size = int(query["pageSize"])
        if not 1 <= size <= 1000 or "((" in query["query"]:
            return said({"errCode": 400, "errMsg": "Invalid query"})
        at = 0 if query["cursorMark"] == "*" else int(query["cursorMark"].removeprefix("AoE/"))
        page = self.results[at : at + size]
        after = at + len(page)
        answer: dict[str, Any] = {
            "version": "6.9", "hitCount": len(self.results) if self.counts is None else self.counts,
            "request": {"queryString": query["query"], "cursorMark": query["cursorMark"], "pageSize": size},
            # as the service gives it: not quoted, so that it cannot be asked as it stands
            "nextPageUrl": f"https://example.org/search?query={query['query']}&cursorMark=AoE/{after}",
            "nextCursorMark": f"AoE/{after}",
            "resultList": {"result": page},
        }  # fmt: skip
        if self.loops and at >= 2 * size:
            answer["nextCursorMark"] = f"AoE/{size}"
        elif after >= len(self.results):
            if self.ending == "none":
                del answer["nextCursorMark"]
            elif self.ending == "same":
                answer["nextCursorMark"] = query["cursorMark"] if page else f"AoE/{after}"
        return said(answer)


def result(article: Article, **more: Any) -> dict[str, Any]:
    """Return the row of an article in a search of resultType=core."""
    kinds = ["research-article", "Journal Article"]
    return {
        "id": str(30_000_000 + article.number), "source": "MED", "pmid": str(30_000_000 + article.number),
        "pmcid": article.pmcid, "doi": f"10.9999/a.{article.number}", "title": f"Sight {article.number}.",
        "isOpenAccess": "Y", "inEPMC": "Y", "license": article.licence.lower(),
        "pubTypeList": {"pubType": [*kinds, "Retracted Publication"] if article.retracted else kinds},
    } | more  # fmt: skip


def service(*articles: Article, **facts: Any) -> EuropePmc:
    """Return a service that holds articles, each with a zip of its figures."""
    return EuropePmc(
        results=[result(article) for article in articles],
        texts={article.pmcid: article.xml() for article in articles if not article.front_only},
        zips={article.pmcid: zip_of({f"{stem}.jpg": picture(stem) for stem, _ in article.figures})
              for article in articles if article.figures},
        **facts,
    )  # fmt: skip


def zip_of(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), content)
    return held.getvalue()


def picture(stem: str) -> bytes:
    """Return bytes that begin as a JPEG does, another for each name."""
    return b"\xff\xd8\xff\xe0" + stem.encode() * 20 + b"\xff\xd9"


def said(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})
