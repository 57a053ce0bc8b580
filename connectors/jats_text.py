"""One pre-order walk over a JATS article: sections, paragraphs with cross-reference spans, and figures.

A paragraph is a `p` (or another element that holds text itself, such as a title) without what is embedded in it:
figures, tables, formulas, footnotes and lists are left out, the text after them is kept, and their own paragraphs are
paragraphs of their own. White space is collapsed before offsets are taken, so every offset counts in `text`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

from lxml import etree

from medloom.connectors.inline_text import (
    DROPPED,
    KEPT_XREF,
    NAMES,
    collapse,
    collapse_marked,
    collect,
    has_figure_word,
    names,
    plain_text,
)
from medloom.connectors.mentions import CrossReference

XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
ARTICLE_SCOPE = "article"

_SECTIONS = names("sec app ack abstract trans-abstract notes glossary bio")
_SCOPES = frozenset({"sub-article", "response"})
# Holds neither text nor figures of the article.
_SKIPPED = DROPPED | names(
    "journal-meta processing-meta contrib-group aff aff-alternatives author-notes pub-date history volume issue "
    "issue-title fpage lpage elocation-id self-uri kwd-group funding-group counts custom-meta-group custom-meta "
    "article-id article-categories title-group related-article related-object pub-history conference product ref "
    "label alternatives sec-meta article-version article-version-alternatives subj-group supplement "
    "issue-id issue-part issue-sponsor page-range isbn ext-link uri date colgroup col #entity"
)
_NARRATIVE = names("body abstract back front sub-article")
_ASKED = names("question answer explanation")
_ALL_TEXT = etree.XPath("string()")


class Place(NamedTuple):
    """Where the walk stands.

    Attributes:
        scope: the article or one of its sub-articles.
        where: "body", "abstract", "back", "front", "sub-article", or "caption", "table", "title", "footnote",
            "question", "answer", "explanation" anywhere in them.
        sec_id, path: the section and the titles that lead to it.
        sparse: only paragraphs that mention a figure are kept (table cells, titles).
    """

    scope: str
    where: str
    sec_id: str = ""
    path: tuple[str, ...] = ()
    sparse: bool = False

    def at(self, where: str, *, sparse: bool = False) -> "Place":
        """The same place as part of something else; what is sparse stays so."""
        return Place(self.scope, where, self.sec_id, self.path, self.sparse or sparse)


@dataclass(slots=True)
class Paragraph:
    """A paragraph's row with what the row does not hold: spans of cross-references and of bold text."""

    row: dict[str, Any]
    references: Sequence[CrossReference]
    bold: Sequence[tuple[int, int]]
    tag: str
    sparse: bool


@dataclass
class FigureElement:
    """A `fig` (or a group that stands for one) where the walk met it.

    Attributes:
        element: the `fig` or `fig-group`.
        place: where it stands.
        group: the group that it belongs to, None outside one.
        merged: the figures of a group without ids of their own, of which it is made.
        caption: positions of its caption's paragraphs, by the figure element they belong to.
    """

    element: etree._Element
    place: Place
    group: etree._Element | None = None
    merged: list[etree._Element] = field(default_factory=list)
    caption: dict[etree._Element, list[int]] = field(default_factory=dict)


@dataclass
class Walk:
    """What one walk over an article leaves; `article_key` stands in every row.

    Attributes:
        sections: rows of `section`.
        paragraphs: in reading order.
        figures: in document order.
        parents: enclosing scope by scope, None for the article.
        scope_types: what each sub-article is ("translation", "decision-letter").
        n_own_sections: how many of the sections, from the first on, are of the article itself.
    """

    article_key: str
    sections: list[dict[str, Any]] = field(default_factory=list)
    paragraphs: list[Paragraph] = field(default_factory=list)
    figures: list[FigureElement] = field(default_factory=list)
    parents: dict[str, str | None] = field(default_factory=lambda: {ARTICLE_SCOPE: None})
    scope_types: dict[str, str] = field(default_factory=dict)
    n_own_sections: int = 0
    _sec_ids: set[str] = field(default_factory=set)
    _beside: set[int] = field(default_factory=set)  # paragraphs of supplementary files, no part of a figure's caption

    def article(self, root: etree._Element) -> None:
        """Walk the whole article; sub-articles and responses come after the article itself."""
        self._scope(root, Place(ARTICLE_SCOPE, "body"))

    def _scope(self, root: etree._Element, place: Place) -> None:
        main = place.scope == ARTICLE_SCOPE
        inner: list[etree._Element] = []
        for part in root:
            name = NAMES[part.tag]
            if name in _SCOPES:
                inner.append(part)
            elif name in ("front", "front-stub"):
                self._children(part, place.at("front") if main else place)
            elif name in ("body", "back", "floats-group"):
                self._children(part, place.at("back") if main and name == "back" else place)
        if main:
            self.n_own_sections = len(self.sections)
        for part in inner:
            scope = self._new_scope(part, place.scope)
            title = next((plain_text(t) for t in part.iter("{*}article-title")), "")
            kind = part.get("article-type") or part.get("response-type") or NAMES[part.tag]
            self.scope_types[scope] = kind
            sec_id = self._section(scope, (title,), title, kind)
            self._scope(part, Place(scope, "sub-article", sec_id, (title,)))

    def _new_scope(self, element: etree._Element, parent: str) -> str:
        scope = element.get("id") or f"sub-article-{len(self.parents)}"
        scope = scope if scope not in self.parents else f"{scope}-{len(self.parents)}"
        self.parents[scope] = parent
        return scope

    def _section(self, xml_id: str, path: tuple[str, ...], title: str, sec_type: str) -> str:
        sec_id = xml_id if xml_id and xml_id not in self._sec_ids else f"sec-{len(self.sections)}"
        self._sec_ids.add(sec_id)
        self.sections.append({
            "article_key": self.article_key, "sec_id": sec_id, "path": list(path), "title": title, "sec_type": sec_type,
            "order": len(self.sections), "role": "", "patient": 0,
        })  # fmt: skip
        return sec_id

    def _children(self, element: etree._Element, place: Place) -> None:
        for child in element:
            self._visit(child, place)

    def _visit(self, element: etree._Element, place: Place) -> None:
        name = NAMES[element.tag]
        if name == "p":
            self._block(element, place, name)
        elif name in _SKIPPED:
            return
        elif name in _SECTIONS:
            self._open_section(element, place, name)
        elif name == "title":
            where = "title" if place.where in _NARRATIVE else place.where
            self._block(element, place.at(where, sparse=True), name)
        elif name == "fig":
            self._figure(FigureElement(element, place), [element])
        elif name == "fig-group":
            self._figure_group(element, place)
        elif name in ("table-wrap", "table", "array"):
            self._table(element, place.at("table"))
        elif name == "fn":
            self._children(element, place.at("footnote") if place.where != "table" else place)
        elif name in _ASKED:
            self._children(element, place.at(name))
        elif name == "ref-list":
            for child in element.iterchildren("{*}p", "{*}title", "{*}sec", "{*}ref-list"):
                self._visit(child, place)
        elif name in ("supplementary-material", "media"):
            first = len(self.paragraphs)
            self._children(element, place.at("caption"))
            self._beside.update(range(first, len(self.paragraphs)))
        elif element.text and not element.text.isspace():
            self._block(element, place, name)
        else:
            self._children(element, place)

    def _open_section(self, element: etree._Element, place: Place, name: str) -> None:
        heading = next((child for child in element if NAMES[child.tag] == "title"), None)
        title = plain_text(heading)
        if not title and name in ("abstract", "trans-abstract", "ack"):
            title = "Acknowledgements" if name == "ack" else "Abstract"
        path = (*place.path, title) if title else place.path
        sec_type = element.get("sec-type") or element.get("abstract-type") or ("" if name == "sec" else name)
        where = "abstract" if name.endswith("abstract") and place.where == "front" else place.where
        sec_id = self._section(element.get("id") or "", path, title, sec_type)
        inner = Place(place.scope, where, sec_id, path)
        for child in element:
            if child is not heading or len(child) or has_figure_word(title):
                self._visit(child, inner)

    def _table(self, element: etree._Element, place: Place) -> None:
        """Keep captions and notes; of cells only those that mention a figure."""
        for child in element:
            name = NAMES[child.tag]
            if name in ("tbody", "thead", "tfoot", "tr", "table", "alternatives"):
                self._cells(child, place.at(place.where, sparse=True))
            elif name == "caption":
                for part in child:
                    self._block(part, place, NAMES[part.tag])
            else:
                self._visit(child, place)

    def _cells(self, element: etree._Element, place: Place) -> None:
        if not _may_mention(element):
            return
        for cell in element.iter("{*}td", "{*}th"):
            if len(cell) or has_figure_word(cell.text or ""):
                self._block(cell, place, "td")

    def _figure(self, figure: FigureElement, parts: list[etree._Element]) -> None:
        self.figures.append(figure)
        place = figure.place.at("caption")
        for part in parts:
            first = len(self.paragraphs)
            for child in part:
                if NAMES[child.tag] == "caption":
                    for line in child:
                        name = NAMES[line.tag]
                        if name == "title":
                            self._block(line, place, name)
                        else:
                            self._visit(line, place)
            figure.caption[part] = [i for i in range(first, len(self.paragraphs)) if i not in self._beside]

    def _figure_group(self, group: etree._Element, place: Place) -> None:
        children = [child for child in group if NAMES[child.tag] == "fig"]
        if children and not any(child.get("id") for child in children) and (group.get("id") or _translated(children)):
            self._figure(FigureElement(group, place, group, children), children)
            return
        if any(NAMES[child.tag] in ("label", "caption") for child in group):
            self._figure(FigureElement(group, place, group), [group])
        for child in group:
            if NAMES[child.tag] == "fig":
                self._figure(FigureElement(child, place, group), [child])
            elif NAMES[child.tag] != "caption":
                self._visit(child, place)

    def _block(self, element: etree._Element, place: Place, tag: str) -> None:
        """Add the paragraph that `element` holds, then those embedded in it."""
        references: Sequence[CrossReference] = ()
        bold: Sequence[tuple[int, int]] = ()
        embedded: list[etree._Element] = []
        if len(element):
            pieces: list[str] = []
            marks: list[tuple[str, str]] = []
            collect(element, pieces, marks, embedded, place.where == "caption")
            if marks:
                text, spans = collapse_marked("".join(pieces))
                references, bold = _told_apart(marks, spans)
            else:
                text = collapse("".join(pieces))
        else:
            text = collapse(element.text or "")
        if (text or references) and (not place.sparse or references or has_figure_word(text)):
            order = len(self.paragraphs)
            row = {
                "article_key": self.article_key, "par_id": f"p{order}", "sec_id": place.sec_id,
                "scope_id": place.scope, "where": place.where, "order": order, "text": text,
            }  # fmt: skip
            self.paragraphs.append(Paragraph(row, references, bold, tag, place.sparse))
        for inner in embedded:
            self._visit(inner, place)


def _told_apart(
    marks: list[tuple[str, str]], spans: list[tuple[int, int]]
) -> tuple[list[CrossReference], list[tuple[int, int]]]:
    """Return the cross-references by their start, and the bold spans."""
    references, bold = [], []
    for (kind, value), (start, end) in zip(marks, spans, strict=True):
        if kind == "bold":
            bold.append((start, end))
        else:
            references.append(CrossReference(start, end, tuple(value.split()), kind))
    references.sort(key=itemgetter(0, 1))
    return references, bold


def _may_mention(element: etree._Element) -> bool:
    if any(x.get("ref-type") == "fig" for x in element.iter(KEPT_XREF)):
        return True
    return has_figure_word(str(_ALL_TEXT(element)))


def _translated(children: list[etree._Element]) -> bool:
    languages = [child.get(XML_LANG) for child in children]
    return len(languages) > 1 and None not in languages and len(set(languages)) == len(languages)
