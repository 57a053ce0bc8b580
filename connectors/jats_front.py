"""The front of a JATS article → its row of `article`: ids, dates, licence, authors, whether it is a case report."""

import hashlib
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lxml import etree

from medloom.connectors.inline_text import NAMES, plain_text, whole_text
from medloom.connectors.jats_text import XLINK_HREF, XML_LANG
from medloom.connectors.licences import Licence, read_licence
from medloom.schemas.keys import sha256_hex, slug

_PMCID = re.compile(r"^(?:PMC)?(\d+)(?:\.(\d+))?$", re.IGNORECASE)
_PMC_TYPES = ("pmcid-ver", "pmcid", "pmc", "accession", "pmc-uid", "pmcaid")
_CASE_TITLE = re.compile(
    r"\bcase (?:report|stud(?:y|ies) of a patient|series)s?\b|\breports? of (?:a|one|two|three|\d+) (?:rare )?cases?\b"
    r"|\brelatos? de casos?\b|\binformes? de casos?\b|\breporte de (?:un )?casos?\b|\bcasos? cl[ií]nicos?\b",
    re.IGNORECASE,
)
_CASE_WORD = re.compile(
    r"^(?:clinical )?case[- ](?:reports?|stud(?:y|ies)|series)$|^relatos? de casos?$", re.IGNORECASE
)
_CASE_SECTION = re.compile(
    r"^(?:\d+\.?\s*)?(?:case (?:presentations?|reports?|descriptions?|histor(?:y|ies)|summary)|cases?(?: \d+)?"
    r"|patient information|(?:relato|descri[çc][ãa]o|informe) d[eo] caso|presentaci[óo]n del caso)\.?$",
    re.IGNORECASE,
)
_CASE_SEC_TYPES = frozenset({"cases", "case-report", "case-presentation"})
_WITHDRAWN_TITLE = re.compile(r"^\W*(?:RETRACTED|WITHDRAWN|Retracted|Withdrawn)(?: ARTICLE| Article)?\W*[:\]]")
_WITHDRAWN_LINKS = frozenset({"retraction-forward", "retracted-by", "retraction", "withdrawal-forward"})
_TAKES_BACK = frozenset({"retracted-article", "withdrawn-article"})
_ID_IN_LINK = re.compile(r"(10\.\d{4,9}/\S+)|\b(PMC\d+)|^(\d{1,8})$", re.IGNORECASE)
# Dates of release to an archive say nothing of when the article appeared.
_DATE_ORDER = ("epub", "pub", "ppub", "epub-ppub", "collection", "")
_MONTH_NAMES = "jan feb mar apr may jun jul aug sep oct nov dec"
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES.split(), 1)}


@dataclass(frozen=True)
class Source:
    """The bytes that an article was read from, and what they are called."""

    name: str
    data: bytes


def front_of(article: etree._Element) -> tuple[etree._Element | None, etree._Element | None]:
    """Return (article-meta, journal-meta) of `article`, None for what is missing."""
    front = next((child for child in article if NAMES[child.tag] == "front"), None)
    parts = {NAMES[child.tag]: child for child in front} if front is not None else {}
    return parts.get("article-meta"), parts.get("journal-meta")


@dataclass(frozen=True)
class Front:
    """What the front matter states; texts are collapsed, "" where nothing is stated.

    Attributes:
        pmcid: "PMC7500000"; version: 1 when none is stated; doi: as given.
        lang: primary subtag, lower-case ("en").
        pub_date: "2021-05-03", "2021-05" or "2021".
        links: `related-article-type` of every related article.
        retracts: ids of the articles that this notice takes back: DOI (lower-case), "PMC…" or PMID.
    """

    pmcid: str
    version: int
    doi: str
    pmid: str
    title: str
    journal: str
    pub_date: str
    article_type: str
    lang: str
    authors: tuple[str, ...]
    subjects: tuple[str, ...]
    keywords: tuple[str, ...]
    links: tuple[str, ...]
    retracts: tuple[str, ...]
    licence: Licence

    def article_key(self, source: str) -> str:
        """The unit's key: PMCID and version, else the DOI's digest, else that of the source's base name."""
        if self.pmcid:
            return f"{slug(self.pmcid)}-{self.version}"
        if self.doi:
            return f"doi-{sha256_hex(self.doi.lower())[:12]}"
        return f"file-{sha256_hex(posixpath.basename(source.rstrip('/')))[:12]}"

    @property
    def attribution(self) -> str:
        """Whom to name: authors (three, then "et al."), journal, year and DOI in one line."""
        names = ", ".join(self.authors[:3]) + (", et al." if len(self.authors) > 3 else "")
        doi = f"https://doi.org/{self.doi}" if self.doi else ""
        parts = [names, self.journal, self.pub_date[:4], doi or self.pmcid]
        return ". ".join(
            p.rstrip(".") if i == 0 and not p.endswith("al.") else p for i, p in enumerate(parts) if p
        ).replace("al.. ", "al. ")


def read_front(article: etree._Element) -> Front:
    """Return what the front matter of `article` states."""
    meta, journal = front_of(article)
    ids = {e.get("pub-id-type", ""): whole_text(e).strip() for e in _all(meta, "article-id")}
    pmcid, version = _pmc(ids, meta)
    return Front(
        pmcid=pmcid, version=version, doi=ids.get("doi", ""), pmid=ids.get("pmid", ""),
        title=plain_text(next(_all(meta, "article-title"), None)),
        journal=plain_text(next(_all(journal, "journal-title"), None))
        or plain_text(next(_all(journal, "abbrev-journal-title", "journal-id"), None)),
        pub_date=_pub_date(_all(meta, "pub-date")), article_type=(article.get("article-type") or "").lower(),
        lang=(article.get(XML_LANG) or "").lower().replace("_", "-").partition("-")[0],
        authors=tuple(_authors(meta)), subjects=tuple(map(plain_text, _all(meta, "subject"))),
        keywords=tuple(map(plain_text, _all(meta, "kwd"))),
        links=tuple(e.get("related-article-type") or "" for e in _all(meta, "related-article")),
        retracts=tuple(filter(None, map(_retracted_id, _all(meta, "related-article")))),
        licence=_licence(meta),
    )  # fmt: skip


def _retracted_id(related: etree._Element) -> str:
    """Return the id of the article that a notice takes back, "" where the link says something else."""
    if (related.get("related-article-type") or "").lower().replace(" ", "-") not in _TAKES_BACK:
        return ""
    said = (related.get(XLINK_HREF) or whole_text(related)).strip()
    match = _ID_IN_LINK.search(said)
    return next(filter(None, match.groups()), "").rstrip(".").lower().replace("pmc", "PMC") if match else ""


def article_row(
    front: Front, source: Source, sections: Iterable[dict[str, Any]], n_figs: int, parser: str
) -> dict[str, Any]:
    """Return the row of `article`; `sections` are those of the article itself."""
    rules = case_rules(front, sections)
    return {
        "article_key": front.article_key(source.name), "pmcid": front.pmcid, "version": front.version, "doi": front.doi,
        "pmid": front.pmid, "title": front.title, "journal": front.journal, "pub_date": front.pub_date,
        "article_type": front.article_type, "lang": front.lang, "licence_code": front.licence.code,
        "licence_url": front.licence.url, "licence_text": front.licence.text,
        "licence_evidence": front.licence.evidence, "licence_conflict": front.licence.conflict,
        "terms_id": front.licence.terms_id, "attribution": front.attribution, "is_retracted": is_retracted(front),
        "is_case_report": bool(rules), "case_rules": rules, "n_figs": n_figs, "source": source.name,
        "source_md5": hashlib.md5(source.data, usedforsecurity=False).hexdigest(),
        "source_digest": sha256_hex(source.data), "source_bytes": len(source.data), "parser_version": parser,
        "retracts": list(front.retracts),
    }  # fmt: skip


def is_retracted(front: Front) -> bool:
    """Whether the article itself is retracted or withdrawn; a notice about another article is not."""
    return bool(_WITHDRAWN_TITLE.match(front.title)) or any(link in _WITHDRAWN_LINKS for link in front.links)


def case_rules(front: Front, sections: Iterable[dict[str, Any]]) -> list[str]:
    """Return which rules call the article a case report, in a fixed order; publishers mark them in different ways."""
    titles = list(sections)
    fired = {
        "article-type": front.article_type in ("case-report", "case-study"),
        "subject": any(map(_CASE_WORD.match, front.subjects)),
        "title": bool(_CASE_TITLE.search(front.title)),
        "keyword": any(map(_CASE_WORD.match, front.keywords)),
        "section-title": any(_CASE_SECTION.match(section["title"]) for section in titles),
        "sec-type": any(section["sec_type"] in _CASE_SEC_TYPES for section in titles),
    }
    return [rule for rule, fires in fired.items() if fires]


def _all(element: etree._Element | None, *names: str) -> Iterator[etree._Element]:
    return iter(()) if element is None else element.iter(*(f"{{*}}{name}" for name in names))


def _pmc(ids: dict[str, str], meta: etree._Element | None) -> tuple[str, int]:
    found = [m for kind in _PMC_TYPES if kind in ids and (m := _PMCID.match(ids[kind]))]
    if not found:
        return "", 1
    stated = [m[2] for m in found if m[2]]
    stated += [
        (e.text or "").strip() for e in _all(meta, "article-version") if e.get("article-version-type") == "pmc-version"
    ]
    version = next((int(v) for v in stated if v.isdigit() and int(v) > 0), 1)
    return f"PMC{found[0][1]}", version


def _pub_date(dates: Iterable[etree._Element]) -> str:
    known = [(d.get("pub-type") or d.get("date-type") or "", _date(d)) for d in dates]
    ranked = [(_DATE_ORDER.index(kind), -len(date), date) for kind, date in known if kind in _DATE_ORDER and date]
    return min(ranked)[2] if ranked else ""


def _date(element: etree._Element) -> str:
    parts = {NAMES[child.tag]: whole_text(child).strip() for child in element}
    year, month, day = parts.get("year", ""), parts.get("month", ""), parts.get("day", "")
    number = int(month) if month.isdigit() else _MONTHS.get(month[:3].lower(), 0)
    if not re.fullmatch(r"\d{4}", year):
        return ""
    if not 1 <= number <= 12:
        return year
    return f"{year}-{number:02d}-{int(day):02d}" if day.isdigit() and 1 <= int(day) <= 31 else f"{year}-{number:02d}"


def _authors(meta: etree._Element | None) -> Iterator[str]:
    for contrib in _all(meta, "contrib"):
        if contrib.get("contrib-type", "author") != "author":
            continue
        parts = {
            NAMES[e.tag]: plain_text(e)
            for e in contrib.iter("{*}surname", "{*}given-names", "{*}collab", "{*}string-name")
        }
        name = " ".join(filter(None, (parts.get("given-names"), parts.get("surname"))))
        if name or parts.get("collab") or parts.get("string-name"):
            yield name or parts.get("collab") or parts["string-name"]


def _licence(meta: etree._Element | None) -> Licence:
    permissions = (
        next((child for child in meta if NAMES[child.tag] == "permissions"), None) if meta is not None else None
    )
    licences = list(_all(permissions, "license"))
    text = " ".join(" ".join(whole_text(p).split()) for p in _all(permissions, "license-p", "p"))
    if not text:  # old articles say it in the statement of copyright
        text = " ".join(plain_text(e) for e in [*licences, *_all(meta, "copyright-statement")]).strip()
    refs = list(_all(permissions, "license_ref"))
    return read_licence(
        refs=[(e.text or "").strip() for e in refs],
        hrefs=[e.get(XLINK_HREF) or "" for e in licences],
        links=[e.get(XLINK_HREF) or "" for e in _all(permissions, "ext-link", "uri")],
        types=[e.get("license-type") or "" for e in licences] + [e.get("content-type") or "" for e in refs],
        text=text,
    )
