"""The grammar of in-text figure mentions: cross-references, the text around them and plain text → numbers and panels.

A mention is the longest run "WORD number panels (connector number panels)*": "Figs. 3a, b and 4" is one. A letter is
a panel when attached to its number, or listed after one, and not when what follows makes it a word or a symbol
("Fig 4, a voxel", "Figure 2; p = 0.01"). What a number means is asked of the figures, never guessed from ids.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from medloom.connectors.figures import FIG, FigureIndex, number_key, numbers_between, roman_value
from medloom.connectors.mention_words import SeriesWords, Word, figure_word, find_words
from medloom.connectors.panels import AFTER_CLOSES, between, panels_before, read_panels, text_after
from medloom.connectors.qualifiers import BEFORE_REACH, LINKS, qualifier_after, qualifier_before

_DASH = "-–—‐‑−"
_BEFORE_NUMBER = re.compile(
    r"\s*(?:[Nn][os]s?\.\s*|[Nn][º°]\s*|#\s*|number\s+|:\s*|(?<=[a-zA-Z.])[-–](?=\d))?[(\[]?\s*"
)
_NUMBER = re.compile(
    r"(?P<prefix>(?:EV|ED|SI|[SsAEB]\s?|[A-Z])(?:[.-](?=\d))?)?(?P<digits>\d{1,3})(?P<decimals>(?:\.\d{1,2}){0,2})"
    r"(?!\d|\s?[%°]|(?:st|nd|rd|th|[ºª])\b)"
)
# "Fig. 2.12 The": a sentence's end with the number of a reference in superscript, no figure 2.12.
_CITED_END = re.compile(r"(?:[,–-]\d{1,3})*(?:\s+[A-Z\"“(]|\s*$)")
_CHAPTER = re.compile(r"[-–‐](\d{1,2})(?![\d.])")
_FIRST_NUMBER = re.compile(r"(?:EV|ED|[A-Z])?[.-]?\d")
_ROMAN = re.compile(r"[IVX]{1,4}(?=[a-h]?(?![^\W_]))")
_SUPPLEMENT = re.compile(rf"\s*[{_DASH}]{{1,2}}\s*fig(?:ures?|s)?\.?\s+supp(?:lements?|l?s?\.)\s*", re.IGNORECASE)
_ATTACHMENT = re.compile(
    rf"\s*[{_DASH}]{{1,2}}\s*(?:figure\s+supplement\s*\d+\s*[{_DASH}]{{1,2}}\s*)?"
    r"(?:source\s+(?:data|code)|video|movie|animation|audio)(?:\s+files?)?s?\s*\d*",
    re.IGNORECASE,
)
_CONNECTOR = re.compile(
    rf"\s*(?:(?P<range>[{_DASH}～]+|\b(?:to|through|thru|até|bis|à|a)\b)"
    r"|[、，和及与и]|[,;/&+]\s*(?:(?:and|&|e|y|et|und|or|ou|o)\b)?"
    r"|\b(?:and|e|y|et|und|or|ou|o|as\s+well\s+as|vs\.?|versus)(?!\w))\s*\(?\s*",
    re.IGNORECASE,
)
_NUMBER_BEFORE = re.compile(r"(?<![^\W_])(?P<number>S\d{1,3})[A-Za-z]?(?:[,–-][A-Za-z])*\s$")
_BEFORE_WORD = re.compile(r"[A-Za-z]?(?:[,–-][A-Za-z])*\s+Figs?\b")
_GLUED = re.compile(r"[^\W\d_\u2e80-\u9fff]{2}|_|\.[a-z]{2,4}\b")
_COUNTED = re.compile(
    r"[.:]\d|[′″'’α-ωΑ-Ω]|\s*(?:%|°|×|(?:[mµμnck]m|[µμnm]g|[mµμ][lL]|min|hrs?|hours?|days?|dpi|dpf|hpf|hpi|weeks?|wks?|months?|years?|"
    r"yrs?|fold|times)\b)|\s(?:[hsdgmlL]|patients?|mice|rats|cells|animals|subjects|cases|samples)\b"
)
# What makes "Fig. 1 to Fig. 3" two figures and no range.
_COMPARED = re.compile(
    r"compar|relative|similar|contrast|from|refer|according|chang|mov|renam|add|equivalent|analog", re.IGNORECASE
)
_PART_OF = re.compile(r"\s+(?:out\s+)?(?:of|in|from)\b")
# Letters that make a number a measure ("3D", "3T", "4x") when nothing else speaks for a panel.
_MEASURES = frozenset("DTXdxhsgm")
_LONGEST = 64  # numbers in one mention; what lists more is no text for readers


class CrossReference(NamedTuple):
    """An `xref` as it lies in a paragraph's text: a half-open span (empty for an empty element), ids and `ref-type`."""

    start: int
    end: int
    rids: tuple[str, ...]
    kind: str = "fig"

    @property
    def figure(self) -> bool:
        """Whether it refers to a figure."""
        return self.kind == "fig"


class Item(NamedTuple):
    """One number of a mention, with its panels.

    Attributes:
        series, number: as in `medloom.connectors.figures.Label`; number "" when a cross-reference names none.
        panels: upper-case letters, in order.
        start, end: where the number stands.
        filled: the number stands in no text: a range runs over it.
    """

    series: str
    number: str
    panels: tuple[str, ...] = ()
    start: int = 0
    end: int = 0
    filled: bool = False


class Mention(NamedTuple):
    """One mention as the text has it.

    Attributes:
        start, end: half-open span in the paragraph's text; the qualifier lies outside.
        items: its numbers in order.
        references: the cross-references that are part of it.
        qualifier: words that narrow it within its panels ("left", "top row").
        supplementary: it means a file beside the article (source data, a video, "eFigure 1").
    """

    start: int
    end: int
    items: tuple[Item, ...]
    references: tuple[CrossReference, ...] = ()
    qualifier: str = ""
    supplementary: bool = False


def find_mentions(
    text: str, *, references: Sequence[CrossReference], figures: FigureIndex, scope: str, in_caption: bool,
    other_words: SeriesWords | None = None,
) -> list[Mention]:  # fmt: skip
    """Return the mentions of `text` in order; each figure cross-reference is part of exactly one.

    Args:
        references: the cross-references of the text, in order of their start.
        figures: what numbers and ids mean, seen from `scope`.
        in_caption: "(B)" after a mention starts the next panel's description there.
        other_words: the words by which this article labels figures besides "figure".
    """
    return _Reader(text, list(references), figures, scope, in_caption, other_words).read()


@dataclass
class _Reader:
    text: str
    references: list[CrossReference]
    figures: FigureIndex
    scope: str
    in_caption: bool
    other_words: SeriesWords | None
    found: list[Mention] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    read_to: int = 0

    def read(self) -> list[Mention]:
        self.starts = [r.start for r in self.references]
        words = find_words(self.text, self.other_words)
        anchors: list[tuple[int, int, Word | CrossReference]] = [(w.start, 0, w) for w in words]
        anchors += [(r.start, 1, r) for r in self.references if r.figure]
        anchors.sort(key=lambda a: a[:2])
        taken: set[int] = set()
        starts = [w.start for w in words]
        for start, _, anchor in anchors:
            if start < self.read_to or id(anchor) in taken:
                continue
            if isinstance(anchor, CrossReference):
                first = bisect_left(starts, max(self.read_to, anchor.start - 60))
                mention: Mention | None = self._from_reference(
                    anchor, words[first : bisect_left(starts, max(anchor.end, anchor.start + 1))]
                )
            else:
                mention = self._from_word(anchor, anchor.start)
            if mention:
                self.found.append(mention)
                taken.update(map(id, mention.references))
                self.read_to = max(mention.end, self.read_to)
        self._numbers_before(words)
        return sorted(self.found, key=lambda m: (m.start, m.end))

    def _numbers_before(self, words: list[Word]) -> None:
        """Add mentions whose number stands before the word: "S1 Fig"."""
        known = [(m.start, m.end) for m in self.found]
        begins = [start for start, _ in known]
        for word in words:
            window = self.text[max(0, word.start - 12) : word.start]
            before = _NUMBER_BEFORE.search(self.text, word.start - len(window), word.start) if "S" in window else None
            if not before:
                continue
            nearest = bisect_left(begins, word.end) - 1
            if nearest < 0 or known[nearest][1] <= before.start():
                item = Item(FIG, before["number"], (), before.start(), before.end())
                self.found.append(Mention(before.start(), word.end, (item,), supplementary=True))

    def _from_word(self, word: Word, start: int) -> Mention | None:
        before = _BEFORE_NUMBER.match(self.text, word.end)
        pos = before.end() if before else word.end
        if before and before[0].startswith(("-", "–")) and self.text[word.start].islower() and not self._around(pos):
            return None  # "figure-8"
        items, end = self._items(pos, word.series, word.prefix, word.plural)
        if not items:
            return None
        if _GLUED.match(self.text, end) and not self._around(items[0].start):
            return None  # a file's name or an address
        attached = _ATTACHMENT.match(self.text, items[0].end)
        beside = word.prefix != "" or word.series.startswith(("extended", "appendix"))
        supplementary = attached is not None or (beside and not any(map(self._labelled, items)))
        if attached:
            items, end = items[:1], attached.end()
        return self._mention(start, end, items, supplementary, word.start)

    def _from_reference(self, reference: CrossReference, words: list[Word]) -> Mention:
        """Read a mention whose word stands inside the cross-reference, before it, or nowhere."""
        inside = next((w for w in words if reference.start <= w.start < reference.end), None)
        told = self._from_word(inside, reference.start) if inside else None
        if told is not None:
            mention = told
        else:
            number = _FIRST_NUMBER.search(self.text, reference.start, reference.end)
            before = next((w for w in words if self.read_to <= w.start and w.end <= reference.start <= w.end + 2), None)
            items, end = (
                self._items(number.start(), before.series if before else FIG, "", True)
                if number
                else ([], reference.end)
            )
            if not items:
                items, end = self._panels_only(reference)
            start = before.start if before else reference.start
            mention = self._mention(start, max(end, reference.start), items, False, start)
        if reference in mention.references:
            return mention
        known = sorted({*mention.references, reference}, key=lambda r: (r.start, r.end))
        return mention._replace(references=tuple(known))

    def _panels_only(self, reference: CrossReference) -> tuple[list[Item], int]:
        """Read a cross-reference without a number: its text may be a panel ("B"), or words ("see above")."""
        declared = self._declared(Item(FIG, ""), reference)
        letters, end = read_panels(self.text, reference.start, declared=declared, in_caption=False, spaced=True)
        if not letters or end < reference.end:
            return [Item(FIG, "", (), reference.start, reference.end)], reference.end
        return [Item(FIG, "", letters, reference.start, end)], end

    def _items(self, pos: int, series: str, prefix: str, plural: bool) -> tuple[list[Item], int]:
        items: list[Item] = []
        base, end, reach, comma, roman = "", pos, False, False, False
        while len(items) < _LONGEST:
            token = self._number(pos, series, prefix, base, bool(items) and not roman)
            if token is None or (items and not self._continues(items, token, plural, comma)):
                break
            roman = self.text[pos] in "IVX"
            item, pos = token
            if items and reach:
                filled = numbers_between(items[-1].number, item.number)
                items += [Item(series, n, (), item.start, item.start, True) for n in filled]
            supplement = None if base else _SUPPLEMENT.match(self.text, pos)
            if supplement and not items:
                base, pos = f"{item.number}s", supplement.end()
                continue
            item, pos = self._with_panels(item, pos)
            if items and reach and item.panels and items[-1].panels and items[-1].number == item.number:
                item = item._replace(panels=(*between(items[-1].panels[-1], item.panels[0])[:-1], *item.panels))
            items.append(item)
            end = pos
            connector = _CONNECTOR.match(self.text, pos)
            if not connector:
                break
            reach, comma = connector["range"] is not None, connector[0].strip() in (",", ";")
            pos = connector.end()
            if again := figure_word(self.text, pos):
                if not reach or (connector["range"].isalpha() and _COMPARED.search(self.text, max(0, pos - 90), pos)):
                    break
                pos = again.end() + (self.text[again.end() : again.end() + 1] == " ")  # "Fig. 1–Fig. 3"
        return items, end

    def _with_panels(self, item: Item, pos: int) -> tuple[Item, int]:
        text, around = self.text, self._around(item.start)
        declared = self._declared(item, around)
        if around and around.end > pos and text[around.end : around.end + 1].isdigit():
            text = text[: around.end]  # the number of a reference in superscript
        letters, end = read_panels(text, pos, declared=declared, in_caption=self.in_caption, spaced=True)
        return item._replace(panels=letters), end

    def _number(self, pos: int, series: str, prefix: str, base: str, later: bool) -> tuple[Item, int] | None:
        match = _NUMBER.match(self.text, pos)
        if not match:
            roman = None if later else _ROMAN.match(self.text, pos)
            number = str(roman_value(roman[0])) if roman else ""
            known = roman is not None and self.figures.by_label(self.scope, series, number)[0]
            return (Item(series, number, (), pos, roman.end()), roman.end()) if roman and known else None
        around = self._around(pos) if match.end() - match.start("digits") > 1 else None
        if around and pos < around.end < match.end("digits"):
            match = _NUMBER.match(self.text, pos, around.end) or match  # a reference's number in superscript follows
        letter, decimals = (match["prefix"] or "").strip(" .-"), match["decimals"]
        number, end = base + number_key(letter or prefix, match["digits"], decimals), match.end()
        if decimals and not self.figures.by_label(self.scope, series, number)[0]:
            outside = around is not None and around.end <= match.end("digits")
            if outside or _CITED_END.match(self.text, end):
                number, end = base + number_key(letter or prefix, match["digits"]), match.end("digits")
        chapter = None if decimals else _CHAPTER.match(self.text, end)
        if chapter and int(chapter[1]) <= int(match["digits"]):
            number, end = f"{number}-{int(chapter[1])}", chapter.end()
        return Item(series, number, (), pos, end), end

    def _continues(self, items: list[Item], token: tuple[Item, int], plural: bool, comma: bool) -> bool:
        """Whether a number after a connector goes on with the mention rather than counting something else.

        "Figs. 2, 10 mice" counts mice, "Figs. 2 and 10 show" does not; after a singular word numbers
        must rise.
        """
        item, end = token
        if self.text[end : end + 1] == "_":
            return False
        around = self._around(item.start)
        if item.number.startswith("S") and _BEFORE_WORD.match(self.text, end):
            return False
        if around is not None and around.end > item.start:
            return True
        known = self._labelled(item)
        if not known and self._labelled(items[0]) and not item.number.startswith("S"):
            return False
        follows = text_after(self.text, end)
        if follows in ("operator", "dash-word") or _COUNTED.match(self.text, end):
            return False
        if not known and re.match(r"[a-z]{2}", self.text[end : end + 2]):
            return False
        attached = re.match(r"[A-Za-z](?![^\W_])", self.text[end : end + 2])
        if attached:
            if text_after(self.text, end + 1) in ("word", "operator", "dash-word") and (comma or not plural):
                return False
            if attached[0] in _MEASURES and not plural and not items[-1].panels:
                return False
        if comma and not plural and _PART_OF.match(self.text, end):
            return False
        if plural:
            return attached is not None or follows in AFTER_CLOSES or not comma
        rising = _order(items[-1].number) <= _order(item.number)
        spaced = follows == "word" and not comma and bool(self._with_panels(item, end)[0].panels)
        return rising and (attached is not None or spaced or follows in AFTER_CLOSES)

    def _around(self, pos: int) -> CrossReference | None:
        """The figure cross-reference that holds `pos`."""
        if not self.references:
            return None
        for index in range(bisect_right(self.starts, pos) - 1, max(-1, bisect_left(self.starts, pos) - 4), -1):
            reference = self.references[index]
            if reference.figure and pos < max(reference.end, reference.start + 1):
                return reference
        return None

    def _labelled(self, item: Item) -> bool:
        return bool(self.figures.by_label(self.scope, item.series, item.number)[0])

    def _declared(self, item: Item, reference: CrossReference | None) -> frozenset[str]:
        labelled = self.figures.by_label(self.scope, item.series, item.number)[0]
        if reference is None:
            return self.figures.declared(labelled)
        positions = [p for rid in reference.rids for p in self.figures.by_id(self.scope, rid)]
        return self.figures.declared([p for p in positions if p in labelled] or positions)

    def _mention(self, start: int, end: int, items: list[Item], supplementary: bool, word: int) -> Mention:
        """Put a mention together; `word` is where its word stands, before which panels may be named."""
        first = max(0, bisect_left(self.starts, start) - 4)
        near = self.references[first : bisect_right(self.starts, end)]
        inside = [
            r for r in near if (r.start < end and r.end > start) or (r.start == r.end and start <= r.start <= end)
        ]
        figures = tuple(r for r in inside if r.figure)
        # A cross-reference of another kind (supplementary material) around the word says what it is.
        beside = not figures and bool(inside)
        if self.text[start:end].count("(") > self.text[start:end].count(")") and self.text[end : end + 1] == ")":
            end += 1
        qualifier = qualifier_after(self.text, end)
        before = self.text[max(self.read_to, word - BEFORE_REACH) : word]
        if before and before.rstrip().endswith(LINKS):
            if len(items) == 1 and not items[0].panels and "pa" in before.lower():
                declared = self._declared(items[0], self._around(items[0].start))
                letters, length = panels_before(before, declared=declared)
                items, start = [items[0]._replace(panels=letters)], min(start, word - length)
            qualifier = qualifier or qualifier_before(before)
        return Mention(start, end, tuple(items), figures, qualifier, (supplementary and not figures) or beside)


def _order(number: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", number))
