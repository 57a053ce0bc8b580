"""Foreign data as JATS: the one form that every recipe of papers reads, written so that its text comes back unchanged.

A reference becomes a cross-reference around its words, a picture a `fig` whose graphic is the file beside the article.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lxml import etree

from medloom.connectors.licences import read_licence
from medloom.schemas.origin import TERMS

XLINK = "http://www.w3.org/1999/xlink"
_HREF = f"{{{XLINK}}}href"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_STATED = {name: name for name in TERMS if name.startswith("cc-")} | {
    "cc0-1.0": "cc0", "public-domain": "public-domain",
}  # fmt: skip
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
PARAGRAPH_END = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Figure:
    """A figure: its id, the file of its picture without folder, label, caption and own terms, each "" when unknown."""

    id: str
    file: str
    label: str = ""
    caption: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Cited:
    """Where a text means figures: half-open characters, and their ids; no words where only the place is known."""

    start: int
    end: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question about figures, and its answer."""

    question: str
    answer: str
    ids: tuple[str, ...]


@dataclass
class Article:
    """What is known of one article.

    Attributes:
        name: PMC7500000, PMC7500000.2 for its second version, or another name.
        facts: rows of `article` by column, as far as they are known ("doi", "article_type", "licence_text", …).
        text: paragraphs with blank lines between.
        cited: by start, none overlapping another.
        note: what it was made from, kept in the article.
    """

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    cited: list[Cited] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    note: str = ""


def to_jats(article: Article) -> bytes:
    """Return the article as JATS XML; characters that XML cannot hold become U+FFFD.

    Without a licence among its facts it states none, and its terms are "unknown".
    """
    root = etree.Element("article", nsmap={"xlink": XLINK})
    if kind := article.facts.get("article_type"):
        root.set("article-type", _clean(kind))
    if lang := article.facts.get("lang"):
        root.set(_LANG, _clean(lang))
    _front(etree.SubElement(root, "front"), article)
    body = etree.SubElement(root, "body")
    section = etree.SubElement(body, "sec")
    for start, end in paragraph_spans(article.text):
        _paragraph(section, article.text, start, end, article.cited)
    for figure in article.figures:
        _figure(section, figure)
    for number, question in enumerate(article.questions, 1):
        _question(body, number, question)
    return bytes(etree.tostring(root, encoding="UTF-8", xml_declaration=True))


def _clean(value: Any) -> str:
    return _NOT_XML.sub("\ufffd", str(value))


def _add(parent: etree._Element, tag: str, text: str = "", **attributes: str) -> etree._Element:
    element = etree.SubElement(parent, tag, {k.replace("_", "-"): _clean(v) for k, v in attributes.items()})
    element.text = _clean(text) or None
    return element


def _front(front: etree._Element, article: Article) -> None:
    facts = article.facts
    if facts.get("journal"):
        group = _add(_add(front, "journal-meta"), "journal-title-group")
        _add(group, "journal-title", facts["journal"])
    meta = _add(front, "article-meta")
    for kind, value in _ids(article):
        _add(meta, "article-id", value, pub_id_type=kind)
    _add(_add(meta, "title-group"), "article-title", facts.get("title", ""))
    if authors := _authors(facts):
        contrib = _add(_add(meta, "contrib-group"), "contrib", contrib_type="author")
        _add(contrib, "collab", authors)
    if date := str(facts.get("pub_date") or ""):
        element = _add(meta, "pub-date", pub_type="epub")
        for part, value in zip(("year", "month", "day"), date.split("-"), strict=False):
            _add(element, part, value)
    _licence(meta, facts)
    if article.note:
        note = _add(_add(meta, "custom-meta-group"), "custom-meta")
        _add(note, "meta-name", "imported")
        _add(note, "meta-value", article.note)


def _ids(article: Article) -> list[tuple[str, str]]:
    """Return (pub-id-type, id) of what the article is known by."""
    found = []
    if match := re.fullmatch(r"PMC(\d+)(?:\.(\d+))?", article.name):
        versioned = ("pmcid-ver", f"PMC{match[1]}.{match[2]}") if match[2] else ("pmc", match[1])
        found.append(versioned)
    return found + [(kind, str(article.facts[kind])) for kind in ("doi", "pmid") if article.facts.get(kind)]


def _authors(facts: dict[str, Any]) -> str:
    """Return the authors out of an attribution of ours: what stands before journal, year and DOI or PMCID."""
    doi = f"https://doi.org/{facts['doi']}" if facts.get("doi") else str(facts.get("pmcid") or "")
    rest = [str(facts.get("journal") or ""), str(facts.get("pub_date") or "")[:4], doi]
    return str(facts.get("attribution") or "").removesuffix(". ".join(filter(None, rest))).removesuffix(". ")


def _licence(meta: etree._Element, facts: dict[str, Any]) -> None:
    text, url = str(facts.get("licence_text") or ""), str(facts.get("licence_url") or "")
    terms = facts.get("terms_id")
    if not (text or url or terms in _STATED):
        return
    licence = _add(_add(meta, "permissions"), "license")
    if url:
        licence.set(_HREF, _clean(url))
    if terms in _STATED and read_licence(hrefs=[url], text=text).terms_id != terms:
        licence.set("license-type", _STATED[terms])  # what stated it is not among the facts
    _add(licence, "license-p", text)


def paragraph_spans(text: str) -> Iterable[tuple[int, int]]:
    """Give the spans between blank lines that hold something."""
    start = 0
    for match in PARAGRAPH_END.finditer(text):
        if text[start : match.start()].strip():
            yield start, match.start()
        start = match.end()
    if text[start:].strip():
        yield start, len(text)


def _paragraph(section: etree._Element, text: str, start: int, end: int, cited: list[Cited]) -> None:
    paragraph = _add(section, "p")
    at = start
    for reference in cited:
        if not start <= reference.start <= reference.end <= end or reference.start < at:
            continue
        _append(paragraph, text[at : reference.start])
        words = text[reference.start : reference.end]
        for rid in (" ".join(reference.ids),) if words else reference.ids:
            _add(paragraph, "xref", words, ref_type="fig", rid=rid)
        at = reference.end
    _append(paragraph, text[at:end])


def _append(element: etree._Element, text: str) -> None:
    text = _clean(text)
    if len(element):
        element[-1].tail = (element[-1].tail or "") + text
    else:
        element.text = (element.text or "") + text


def _figure(section: etree._Element, figure: Figure) -> None:
    element = _add(section, "fig", id=figure.id)
    if figure.label:
        _add(element, "label", figure.label)
    if figure.caption.strip():
        caption = _add(element, "caption")
        for line in figure.caption.split("\n"):
            if line.strip():
                _add(caption, "p", line)
    _add(element, "graphic").set(_HREF, _clean(figure.file))
    if figure.licence:
        _add(_add(_add(element, "permissions"), "license"), "license-p", figure.licence)


def _question(body: etree._Element, number: int, question: Question) -> None:
    """Add a question with its answer in a section of its own, so that neighbours cannot be mixed up."""
    section = _add(body, "sec", id=f"question-{number}", sec_type="question")
    wrap = _add(section, "question-wrap")
    for tag, text in (("question", question.question), ("answer", question.answer)):
        element = _add(wrap, tag)
        for line in text.split("\n"):
            if line.strip():
                _add(element, "p", line)
        if tag == "question" and question.ids:
            last = element[-1] if len(element) else _add(element, "p")
            for rid in question.ids:
                _add(last, "xref", ref_type="fig", rid=rid)
