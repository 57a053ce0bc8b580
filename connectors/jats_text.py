"""One pre-order walk over a JATS article: sections, paragraphs with cross-reference spans, and figures.

A paragraph is a `p` (or another element that holds text itself, such as a title) without what is embedded in it:
figures, tables, formulas, footnotes and lists are left out, the text after them is kept, and their own paragraphs are
paragraphs of their own. White space is collapsed before offsets are taken, so every offset counts in `text`.
"""

import html.entities
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lxml import etree

from medloom.connectors.mentions import CrossReference

XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
ARTICLE_SCOPE = "article"

# XML 1.0 cannot hold these two characters, so they can mark spans in a text before its white space is collapsed.
_OPEN, _CLOSE = "\x01", "\x02"
_MARKS = re.compile("([\x01\x02])")

_SECTIONS = frozenset("sec app ack abstract trans-abstract notes glossary bio".split())
_SCOPES = frozenset({"sub-article", "response"})
# Embedded in a paragraph, with paragraphs of its own; all but a footnote separate the words around them.
_EMBEDDED = frozenset(
    "fig fig-group table-wrap table-wrap-group fn fn-group supplementary-material list def-list disp-quote boxed-text "
    "statement verse-group speech array table p sec sig-block question-wrap question answer".split()
)
_DISPLAYED = frozenset("disp-formula disp-formula-group chem-struct-wrap".split())
_DROPPED = _DISPLAYED | frozenset(
    "graphic inline-graphic media object-id chem-struct index-term alt-text long-desc permissions".split()
)
# Holds neither text nor figures of the article.
_SKIPPED = _DROPPED | frozenset(
    "journal-meta processing-meta contrib-group aff aff-alternatives author-notes pub-date history volume issue "
    "issue-title fpage lpage elocation-id self-uri kwd-group funding-group counts custom-meta-group custom-meta "
    "article-id article-categories title-group related-article related-object pub-history conference product ref "
    "label alternatives sec-meta article-version article-version-alternatives subj-group supplement "
    "issue-id issue-part issue-sponsor page-range isbn ext-link uri date colgroup col".split()
)
_NARRATIVE = frozenset("body abstract back front sub-article".split())
# How `collect` treats what is not plain inline text.
_SPECIAL = {
    "xref": "xref", "bold": "bold", "b": "bold", "inline-formula": "formula", "math": "formula", "#entity": "entity",
    "break": "space", **dict.fromkeys(_EMBEDDED, "embedded"), **dict.fromkeys(_DROPPED, "dropped"),
    **dict.fromkeys(_DISPLAYED, "space"),
}  # fmt: skip
_ASCII_SPACES = "\n\t\r"
_SPACES = "\n\t\r\xa0\u2009\u202f\u2002\u2003\u200a\u2005\u2006\u2007\u2008\u2004\u2000\u2001\u2028\u2029\u205f\u3000\u1680\x85"
_LINKS_ELSEWHERE = frozenset("bibr aff fn table disp-formula table-fn corresp author-notes sec contrib list app".split())
_ALL_TEXT = etree.XPath("string()")


class LocalNames(dict[Any, str]):
    """Local name by tag; entity nodes, whose tag is a function, are "#entity"."""

    def __missing__(self, tag: Any) -> str:
        name = tag.rpartition("}")[2] if isinstance(tag, str) else "#entity"
        self[tag] = name
        return name


NAMES = LocalNames()


class Place(NamedTuple):
    """Where the walk stands.

    Attributes:
        scope: the article or one of its sub-articles.
        where: "body", "abstract", "back", "front", "sub-article", or "caption", "table", "title", "footnote"
            anywhere in them.
        sec_id, path: the section and the titles that lead to it.
        sparse: only paragraphs that mention a figure are kept (table cells, titles).
    """

    scope: str
    where: str
    sec_id: str = ""
    path: tuple[str, ...] = ()
    sparse: bool = False


@dataclass
class Paragraph:
    """A paragraph's row with what the row does not hold: spans of cross-references and of bold text."""

    row: dict[str, Any]
    references: list[CrossReference]
    bold: list[tuple[int, int]]
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
                self._children(part, place._replace(where="front") if main else place)
            elif name in ("body", "back", "floats-group"):
                self._children(part, place._replace(where="back") if main and name == "back" else place)
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
            "order": len(self.sections),
        })  # fmt: skip
        return sec_id

    def _children(self, element: etree._Element, place: Place) -> None:
        for child in element:
            self._visit(child, place)

    def _visit(self, element: etree._Element, place: Place) -> None:
        name = NAMES[element.tag]
        if name == "p":
            self._block(element, place, name)
        elif name in _SKIPPED or name == "#entity":
            return
        elif name in _SECTIONS:
            self._open_section(element, place, name)
        elif name == "title":
            where = "title" if place.where in _NARRATIVE else place.where
            self._block(element, place._replace(where=where, sparse=True), name)
        elif name == "fig":
            self._figure(FigureElement(element, place), [element])
        elif name == "fig-group":
            self._figure_group(element, place)
        elif name in ("table-wrap", "table", "array"):
            self._table(element, place._replace(where="table"))
        elif name == "fn":
            self._children(element, place._replace(where="footnote") if place.where != "table" else place)
        elif name == "ref-list":
            for child in element.iterchildren("{*}p", "{*}title", "{*}sec", "{*}ref-list"):
                self._visit(child, place)
        elif name == "supplementary-material":
            first = len(self.paragraphs)
            self._children(element, place._replace(where="caption"))
            self._beside.update(range(first, len(self.paragraphs)))
        elif element.text and not element.text.isspace():
            self._block(element, place, name)
        else:
            self._children(element, place)

    def _open_section(self, element: etree._Element, place: Place, name: str) -> None:
        title = next((plain_text(child) for child in element if NAMES[child.tag] == "title"), "")
        if not title and name in ("abstract", "trans-abstract", "ack"):
            title = "Acknowledgements" if name == "ack" else "Abstract"
        path = (*place.path, title) if title else place.path
        sec_type = element.get("sec-type") or element.get("abstract-type") or ("" if name == "sec" else name)
        where = "abstract" if name.endswith("abstract") and place.where == "front" else place.where
        sec_id = self._section(element.get("id") or "", path, title, sec_type)
        self._children(element, Place(place.scope, where, sec_id, path))

    def _table(self, element: etree._Element, place: Place) -> None:
        """Keep captions and notes; of cells only those that mention a figure."""
        for child in element:
            name = NAMES[child.tag]
            if name in ("tbody", "thead", "tfoot", "tr", "table", "alternatives"):
                if _may_mention(child):
                    for cell in child.iter("{*}td", "{*}th"):
                        self._block(cell, place._replace(sparse=True), "td")
            elif name == "caption":
                for part in child:
                    self._block(part, place, NAMES[part.tag])
            else:
                self._visit(child, place)

    def _figure(self, figure: FigureElement, parts: list[etree._Element]) -> None:
        self.figures.append(figure)
        place = figure.place._replace(where="caption")
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
        pieces: list[str] = []
        marks: list[tuple[str, str]] = []
        embedded: list[etree._Element] = []
        collect(element, pieces, marks, embedded, place.where == "caption")
        raw = "".join(pieces)
        references: list[CrossReference] = []
        bold: list[tuple[int, int]] = []
        if marks:
            text, spans = _collapse_marked(raw)
            for (kind, value), (start, end) in zip(marks, spans, strict=True):
                if kind == "bold":
                    bold.append((start, end))
                else:
                    references.append(CrossReference(start, end, tuple(value.split()), kind))
            references.sort(key=lambda r: (r.start, r.end))
        else:
            text = collapse(raw)
        if (text or references) and (not place.sparse or references or has_figure_word(text)):
            order = len(self.paragraphs)
            row = {
                "article_key": self.article_key, "par_id": f"p{order}", "sec_id": place.sec_id,
                "scope_id": place.scope, "where": place.where, "order": order, "text": text,
            }  # fmt: skip
            self.paragraphs.append(Paragraph(row, references, bold, tag, place.sparse))
        for inner in embedded:
            self._visit(inner, place)


def collect(
    element: etree._Element, pieces: list[str], marks: list[tuple[str, str]], embedded: list[etree._Element],
    bold: bool = False,
) -> None:  # fmt: skip
    """Append the text of `element` to `pieces`, its marked spans to `marks`, what is embedded to `embedded`."""
    if element.text:
        pieces.append(element.text)
    for child in element:
        special = _SPECIAL.get(NAMES[child.tag])
        if special is None or (special == "bold" and not bold):
            if len(child):
                collect(child, pieces, marks, embedded, bold)
            elif child.text:
                pieces.append(child.text)
        elif special == "xref":
            _collect_reference(child, pieces, marks, embedded, bold)
        elif special == "embedded":
            embedded.append(child)
            if NAMES[child.tag] != "fn":
                pieces.append(" ")
        elif special == "bold":
            marks.append(("bold", ""))
            pieces.append(_OPEN)
            collect(child, pieces, marks, embedded)
            pieces.append(_CLOSE)
        elif special == "formula":
            pieces.append(_formula(child))
        elif special == "entity":
            pieces.append(_entity(child))
        elif special == "space":
            pieces.append(" ")
        if child.tail:
            pieces.append(child.tail)


def _collect_reference(
    element: etree._Element, pieces: list[str], marks: list[tuple[str, str]], embedded: list[etree._Element], bold: bool
) -> None:
    kind = element.get("ref-type") or ""
    if kind in _LINKS_ELSEWHERE:
        collect(element, pieces, marks, embedded, bold)
        return
    marks.append((kind, element.get("rid") or ""))
    pieces.append(_OPEN)
    collect(element, pieces, marks, embedded, bold)
    pieces.append(_CLOSE)


def collapse(raw: str) -> str:
    """Return `raw` with each run of white space as one space and none at its ends.

    Most text needs nothing done, and looking for what would is several times faster than splitting into words.
    """
    odd = _ASCII_SPACES if raw.isascii() else _SPACES
    if "  " in raw or any(map(raw.__contains__, odd)):
        return " ".join(raw.split())
    return raw.strip(" ")


def has_figure_word(text: str) -> bool:
    """Whether `text` may hold a word for figure; three scans for a literal are faster than one for a pattern."""
    return "Fig" in text or "fig" in text or "FIG" in text or "Abb" in text


def plain_text(element: etree._Element | None) -> str:
    """Return the text of `element`, white space collapsed, without what is embedded in it; "" for None."""
    if element is None:
        return ""
    if not len(element):
        return collapse(element.text or "")
    pieces: list[str] = []
    marks: list[tuple[str, str]] = []
    collect(element, pieces, marks, [])
    text = "".join(pieces)
    return collapse(text.replace(_OPEN, "").replace(_CLOSE, "") if marks else text)


def _collapse_marked(raw: str) -> tuple[str, list[tuple[int, int]]]:
    """Return `raw` collapsed and without marks, and the marks' spans in order of their opening."""
    out: list[str] = []
    size, spaced = 0, True
    opened: list[int] = []
    spans: list[tuple[int, int]] = []
    for piece in filter(None, _MARKS.split(collapse(raw))):
        if piece == _OPEN:
            opened.append(len(spans))
            spans.append((size, size))
        elif piece == _CLOSE:
            last = opened.pop()
            spans[last] = (spans[last][0], size)
        else:
            if spaced and piece[0] == " ":
                piece = piece[1:]
            out.append(piece)
            size += len(piece)
            spaced = piece[-1] == " " if piece else spaced
    text = "".join(out).rstrip()
    return text, [_trim(text, start, end) for start, end in spans]


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    start, end = min(start, len(text)), min(end, len(text))
    while start < end and text[start] == " ":
        start += 1
    while end > start and text[end - 1] == " ":
        end -= 1
    return start, end


def _formula(element: etree._Element) -> str:
    """Return one branch of a formula: its MathML, else its TeX body, else its text."""
    maths = element if NAMES[element.tag] == "math" else next(element.iter("{*}math"), None)
    if maths is not None:
        return "".join(t for e in maths.iter("{*}mi", "{*}mo", "{*}mn", "{*}mtext", "{*}ms") for t in e.itertext())
    tex = next(element.iter("{*}tex-math"), None)
    if tex is not None:
        text = "".join(tex.itertext())
        return text.partition("\\begin{document}")[2].partition("\\end{document}")[0].strip(" $\n") or text.strip(" $\n")
    pieces: list[str] = []
    collect(element, pieces, [], [])
    return "".join(pieces).replace(_OPEN, "").replace(_CLOSE, "")


def _entity(element: etree._Element) -> str:
    """Return what an entity of HTML stands for; one that a document declares itself is never expanded."""
    return html.entities.html5.get((element.text or "")[1:], "\ufffd")


def _may_mention(element: etree._Element) -> bool:
    if any(x.get("ref-type") == "fig" for x in element.iter("{*}xref")):
        return True
    return has_figure_word(_ALL_TEXT(element))


def _translated(children: list[etree._Element]) -> bool:
    languages = [child.get(XML_LANG) for child in children]
    return len(languages) > 1 and None not in languages and len(set(languages)) == len(languages)
