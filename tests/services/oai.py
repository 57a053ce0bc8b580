"""OAI-PMH of PMC on loopback: pages of ten behind tokens that expire, deleted records, errors inside HTTP 200."""

from dataclasses import dataclass, field, replace
from datetime import date
from xml.sax.saxutils import escape

from tests.services.articles import DEFAULT_NAMESPACE, Article
from tests.services.loopback import Asked, Reply

PREFIX = "oai:pubmedcentral.nih.gov:"


@dataclass(frozen=True)
class Kept:
    """A record: the day it changed, its article's bytes (None: deleted), and whether it is in the set pmc-open."""

    number: int
    day: date
    content: bytes | None

    @property
    def header(self) -> str:
        status = ' status="deleted"' if self.content is None else ""
        return (
            f"<header{status}><identifier>{PREFIX}{self.number}</identifier><datestamp>{self.day.isoformat()}"
            "</datestamp><setSpec>pmc-open</setSpec></header>"
        )


def kept(article: Article, day: date) -> Kept:
    return Kept(article.number, day, replace(article, namespace=DEFAULT_NAMESPACE).xml())


@dataclass
class Oai:
    """The service.

    Attributes:
        records: in the order in which it lists them.
        page: records a page.
        expires_after: pages after which, each time, a token has expired; 0: never.
        loops: whether its token leads to the page that it stands on.
    """

    records: list[Kept]
    page: int = 10
    expires_after: int = 0
    loops: bool = False
    _served: int = 0
    _tokens: dict[str, tuple[list[Kept], str]] = field(default_factory=dict)

    def __call__(self, asked: Asked) -> Reply:
        query = asked.query
        known = {"verb", "set", "metadataPrefix", "from", "until", "resumptionToken", "identifier"}
        if set(query) - known:
            return answer(error("badArgument", f"illegal argument {set(query) - known}"))
        if query["verb"] == "GetRecord":
            return self._get(query)
        if query["verb"] == "Identify":
            first = min(one.day for one in self.records)
            return answer(f"<Identify><earliestDatestamp>{first.isoformat()}</earliestDatestamp></Identify>")
        if query["verb"] not in ("ListRecords", "ListIdentifiers"):
            return answer(error("badVerb", "illegal verb"))
        if "resumptionToken" in query:
            if len(query) > 2:
                return answer(error("badArgument", "resumptionToken is exclusive"))
            self._served += 1
            if self.expires_after and self._served % self.expires_after == 0:
                self._tokens.clear()
            if query["resumptionToken"] not in self._tokens:
                return answer(error("badResumptionToken", "The value of the resumptionToken argument is invalid"))
            rest, verb = self._tokens[query["resumptionToken"]]
            return self._listed(rest, verb)
        if query.get("set", "pmc-open") != "pmc-open":
            return answer(error("badArgument", "no such set"))
        since, until = (date.fromisoformat(query[n]) if n in query else None for n in ("from", "until"))
        found = [r for r in self.records if (not since or r.day >= since) and (not until or r.day <= until)]
        return self._listed(found, query["verb"]) if found else answer(error("noRecordsMatch", "nothing"))

    def _listed(self, found: list[Kept], verb: str) -> Reply:
        page, rest = found[: self.page], found[self.page :]
        token = ""
        if rest or self.loops:
            name = f"t{len(self._tokens)}!{page[0].number}" if not self.loops else "again"
            self._tokens[name] = (found if self.loops else rest, verb)
            token = f"<resumptionToken>{escape(name)}</resumptionToken>"
        each = (lambda r: r.header) if verb == "ListIdentifiers" else record
        return answer(f"<{verb}>{''.join(map(each, page))}{token}</{verb}>")

    def _get(self, query: dict[str, str]) -> Reply:
        found = [r for r in self.records if PREFIX + str(r.number) == query["identifier"]]
        if not found:
            return answer(error("idDoesNotExist", "no such record"))
        if query["metadataPrefix"] != "pmc":
            return answer(error("cannotDisseminateFormat", "not in this format"))
        return answer(f"<GetRecord>{record(found[-1])}</GetRecord>")


def record(one: Kept) -> str:
    metadata = "" if one.content is None else f"<metadata>{one.content.decode('utf-8', 'surrogateescape')}</metadata>"
    return f"<record>{one.header}{metadata}</record>"


def error(code: str, text: str) -> str:
    return f'<error code="{code}">{escape(text)}</error>'


def answer(inside: str) -> Reply:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:schemaLocation="http://www.openarchives.org/OAI/2.0/ http://www.openarchives.org/OAI/2.0/OAI-PMH.xsd"><responseDate>2026-11-22T18:00:00Z</responseDate>'
        f"<request>https://pmc.ncbi.nlm.nih.gov/api/oai/v1/mh/</request>{inside}</OAI-PMH>\n"
    )
    return Reply(200, body.encode("utf-8", "surrogateescape"), {"Content-Type": "text/xml"})
