"""E-utilities on loopback: esearch with history and limits, efetch of sets, errors inside HTTP 200, 429."""

import json
import re
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from tests.services.articles import Article
from tests.services.loopback import Asked, Reply

RELEASED = re.compile(r'AND \("(\d+)/(\d+)/(\d+)"\[pmcrdat\] : "(\d+)/(\d+)/(\d+)"\[pmcrdat\]\)$')
EPOCH = date(2020, 1, 1)


@dataclass
class Eutils:
    """The service: what it holds, and how it is spoilt.

    Attributes:
        articles: bytes of an article by the number of its PMCID.
        released: days after `EPOCH` on which an article was released; those not named have no date.
        limit: ids that a search lists at most, whatever is asked.
        forgets: how many pages of the history are lost before one is found.
        bad: numbers that make the whole efetch a 400.
        answers_for: numbers whose place in the set is taken by other bytes.
        silent: numbers that a set leaves out without a word.
    """

    articles: dict[int, bytes] = field(default_factory=dict)
    released: dict[int, int] = field(default_factory=dict)
    limit: int = 100_000
    forgets: int = 0
    bad: set[int] = field(default_factory=set)
    answers_for: dict[int, bytes] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    _searches: list[list[int]] = field(default_factory=list)

    @classmethod
    def holding(cls, *articles: Article, **spoilt: Any) -> "Eutils":
        return cls({article.number: article.xml() for article in articles}, **spoilt)

    def __call__(self, asked: Asked) -> Reply:
        if asked.path.endswith("/esearch.fcgi"):
            return self._esearch(asked.query)
        if asked.path.endswith("/efetch.fcgi"):
            return self._efetch(asked.query)
        return Reply(404)

    def _esearch(self, query: dict[str, str]) -> Reply:
        assert query["db"] == "pmc"
        assert query["tool"] == "medloom"
        if "WebEnv" in query:
            if self.forgets:
                self.forgets -= 1
                return said({"esearchresult": {"ERROR": "Unable to obtain query #1"}})
            found, key = self._searches[int(query["WebEnv"].removeprefix("MCID_"))], "1"
        elif "nonsense" in query["term"]:
            return said({"esearchresult": {"ERROR": "Invalid query: nonsense", "count": "0"}})
        else:
            found, key = self._found(query["term"]), "1"
            self._searches.append(found)
        start, most = int(query["retstart"]), min(int(query["retmax"]), self.limit)
        result: dict[str, Any] = {
            "count": str(len(found)), "retmax": str(most), "retstart": str(start), "querykey": key,
            "webenv": query.get("WebEnv", f"MCID_{len(self._searches) - 1}"),
            "idlist": [str(n) for n in found[start : min(start + most, self.limit)]],
        }  # fmt: skip
        if "[unknown]" in query["term"]:
            result["errorlist"] = {"phrasesnotfound": [], "fieldsnotfound": ["unknown"]}
        return said({"header": {"type": "esearch"}, "esearchresult": result})

    def _found(self, term: str) -> list[int]:
        window = RELEASED.search(term)
        if "NOT (" in term:
            return [n for n in sorted(self.articles) if n not in self.released]
        if not window:
            return sorted(self.articles)
        numbers = [int(n) for n in window.groups()]
        since, until = date(*numbers[:3]), date(*numbers[3:])
        day = {n: EPOCH + timedelta(days=after) for n, after in self.released.items()}
        return [n for n in sorted(self.articles) if n in day and since <= day[n] <= until]

    def _efetch(self, query: dict[str, str]) -> Reply:
        numbers = [int(n) for n in query["id"].split(",")]
        if self.bad & set(numbers):
            return Reply(400, b'{"error":"bad id","api-key":"secret"}')
        parts = []
        for n in reversed(numbers):  # never in the order asked
            if n in self.silent:
                continue
            if n in self.answers_for:
                parts.append(self.answers_for[n])
            elif n in self.articles:
                parts.append(self.articles[n])
            else:
                parts.append(b'<Reply Id="%d" error="The following PMCID is not available: %d"/>' % (n, n))
        doctype = (
            b'<!DOCTYPE pmc-articleset PUBLIC "-//NLM//DTD ARTICLE SET 2.0//EN" '
            b'"https://dtd.nlm.nih.gov/ncbi/pmc/articleset/nlm-articleset-2.0.dtd">'
        )
        body = b'<?xml version="1.0"?>\n' + doctype + b"<pmc-articleset>" + b"\n".join(parts) + b"</pmc-articleset>\n"
        return Reply(200, body, {"Content-Type": "text/xml"})


def said(value: Any) -> Reply:
    return Reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})
