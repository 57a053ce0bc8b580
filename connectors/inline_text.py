"""The text of one JATS element: inline markup read through, embedded blocks set aside, white space collapsed."""

import html.entities
from typing import Any

from lxml import etree

# XML 1.0 cannot hold these two characters, so they can mark spans in a text before its white space is collapsed.
_OPEN, _CLOSE = "\x01", "\x02"


def names(text: str) -> frozenset[str]:
    """Return the words of `text` as a set."""
    return frozenset(text.split())


# Embedded in a paragraph, with paragraphs of its own; all but a footnote separate the words around them.
EMBEDDED = names(
    "fig fig-group table-wrap table-wrap-group fn fn-group supplementary-material list def-list disp-quote boxed-text "
    "statement verse-group speech array table p sec sig-block question-wrap question answer media"
)
DISPLAYED = names("disp-formula disp-formula-group chem-struct-wrap")
DROPPED = DISPLAYED | names("graphic inline-graphic object-id chem-struct index-term alt-text long-desc permissions")
# Cross-references to what is no figure need no span; they are four of five.
_LINKS_ELSEWHERE = names("bibr aff fn table disp-formula table-fn corresp author-notes sec contrib list app")
# Inline elements that change how text looks and nothing that is asked of it here.
_PLAIN = ("{*}xref", "{*}italic", "{*}sup", "{*}sub", "{*}sc", "{*}underline", "{*}monospace")
KEPT_XREF = "kept-xref"
# How `collect` treats what is not plain inline text.
_SPECIAL = {
    KEPT_XREF: "xref", "bold": "bold", "b": "bold", "inline-formula": "formula", "math": "formula", "#entity": "entity",
    "break": "space", **dict.fromkeys(EMBEDDED, "embedded"), **dict.fromkeys(DROPPED, "dropped"),
    **dict.fromkeys(DISPLAYED, "space"),
}  # fmt: skip
_WIDE_SPACES = (
    "\xa0\u2009\u202f\u2002\u2003\u200a\u2005\u2006\u2007\u2008\u2004\u2000\u2001\u2028\u2029\u205f\u3000\u1680\x85"
)


class LocalNames(dict[Any, str]):
    """Local name by tag; entity nodes, whose tag is a function, are "#entity"."""

    def __missing__(self, tag: Any) -> str:
        name = tag.rpartition("}")[2] if isinstance(tag, str) else "#entity"
        self[tag] = name
        return name


NAMES = LocalNames()


def flatten(article: etree._Element) -> None:
    """Take out of `article` its references and the tags that `collect` would read through.

    Most paragraphs then are one text node, and half of all elements are gone; libxml2 does it in a quarter of the time
    that reading those elements one by one takes.
    """
    etree.strip_elements(article, "{*}ref", with_tail=False)
    for xref in article.iter("{*}xref"):
        if xref.get("ref-type") not in _LINKS_ELSEWHERE:
            xref.tag = KEPT_XREF
    etree.strip_tags(article, *_PLAIN)


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
            marks.append((child.get("ref-type") or "", child.get("rid") or ""))
            pieces.append(_OPEN)
            collect(child, pieces, marks, embedded, bold)
            pieces.append(_CLOSE)
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


def collapse(raw: str) -> str:
    """Return `raw` with each run of white space as one space and none at its ends.

    Most text needs nothing done, and looking for what would is several times faster than splitting into words.
    """
    if "  " in raw or "\n" in raw or "\t" in raw or "\r" in raw:
        return " ".join(raw.split())
    if not raw.isascii() and any(map(raw.__contains__, _WIDE_SPACES)):
        return " ".join(raw.split())
    return raw.strip(" ")


def collapse_marked(raw: str) -> tuple[str, list[tuple[int, int]]]:
    """Return `raw` collapsed and without marks, and the marks' spans in order of their opening."""
    out: list[str] = []
    size, spaced = 0, True
    opened: list[int] = []
    spans: list[tuple[int, int]] = []
    for number, part in enumerate(collapse(raw).split(_OPEN)):
        if number:
            opened.append(len(spans))
            spans.append((size, size))
        for closing, piece in enumerate(part.split(_CLOSE)):
            if closing:
                last = opened.pop()
                spans[last] = (spans[last][0], size)
            if spaced and piece[:1] == " ":
                piece = piece[1:]
            if piece:
                out.append(piece)
                size += len(piece)
                spaced = piece[-1] == " "
    text = "".join(out).rstrip()
    return text, [_trim(text, start, end) for start, end in spans]


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
        return "".join(map(whole_text, maths.iter("{*}mi", "{*}mo", "{*}mn", "{*}mtext", "{*}ms")))
    tex = next(element.iter("{*}tex-math"), None)
    if tex is not None:
        text = whole_text(tex)
        return text.partition("\\begin{document}")[2].partition("\\end{document}")[0].strip(" $\n") or text.strip(
            " $\n"
        )
    pieces: list[str] = []
    collect(element, pieces, [], [])
    return "".join(pieces).replace(_OPEN, "").replace(_CLOSE, "")


def whole_text(element: etree._Element) -> str:
    """Return all the text in `element` as it stands."""
    return "".join(map(str, element.itertext())) if len(element) else element.text or ""


def _entity(element: etree._Element) -> str:
    """Return what an entity of HTML stands for; one that a document declares itself is never expanded."""
    return html.entities.html5.get((element.text or "")[1:], "\ufffd")
