"""The grammar of in-text figure mentions: cross-references, the text around them and plain text → numbers and panels.

A mention is the longest run "WORD number panels (connector number panels)*": "Figs. 3a, b and 4" is one. A letter is
a panel when attached to its number, or listed after one, and not when what follows makes it a word or a symbol
("Fig 4, a voxel", "Figure 2; p = 0.01"). What a number means is asked of the figures, never guessed from ids.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from medloom.connectors.figures import FIG, FigureIndex, number_key, numbers_between, roman_value
from medloom.connectors.panels import AFTER_CLOSES, between, read_panels, read_qualifier, text_after

_DASH = "-–—‐‑−"
_FIG_WORD = re.compile(r"(?:[Ff]ig(?:ures?|uras?|s)?|FIG(?:URES?|URAS?|S)?|Abb(?:ildung(?:en)?)?)\.?")
_FIG_BEGINNINGS = ("Fig", "fig", "FIG", "Abb")
# What may stand before the word: "Supplementary Material, Figure", "Extended Data Fig.", the e of "eFigure".
_LEAD = re.compile(
    r"(?:(?P<extended>Extended[ -]Data)|(?P<supp>(?:[Ss]upp(?:l(?:ement(?:ary|al)?)?)?\.?|Supporting|Additional|Online)"
    r"(?:\s+(?:[Mm]aterials?|[Ii]nformation|Data|Files?|Online)[,:;]?)?))\s+$|(?<![^\W_])(?P<e>e)$"
)
_LEAD_LENGTH = 40
_BEFORE_NUMBER = re.compile(r"\s*(?:n[os]s?\.\s*|n[º°]\s*|#\s*)?[(\[]?\s*")
_NUMBER = re.compile(
    r"(?P<prefix>[SsAEB]\s?|[A-Z])?(?P<digits>\d{1,3})(?P<decimals>(?:\.\d{1,2}){0,2})(?!\d|\s?[%°]|(?:st|nd|rd|th|[ºª])\b)"
)
_FIRST_NUMBER = re.compile(r"[A-Z]?\d")
_ROMAN = re.compile(r"[IVX]{1,4}(?![^\W_])")
_SUPPLEMENT = re.compile(rf"\s*[{_DASH}]{{1,2}}\s*figures?\s+supplements?\s*", re.IGNORECASE)
_ATTACHMENT = re.compile(
    rf"\s*[{_DASH}]{{1,2}}\s*(?:figure\s+supplement\s*\d+\s*[{_DASH}]{{1,2}}\s*)?"
    r"(?:source\s+(?:data|code)|video|movie|animation|audio)(?:\s+files?)?s?\s*\d*",
    re.IGNORECASE,
)
_CONNECTOR = re.compile(
    rf"\s*(?:(?P<range>[{_DASH}]+|\b(?:to|through|thru|até|bis|à|a)\b)"
    r"|[,;/&+]\s*(?:(?:and|&|e|y|et|und|or|ou|o)\b)?|\b(?:and|e|y|et|und|or|ou|o|as\s+well\s+as)\b)\s*\(?\s*",
    re.IGNORECASE,
)
_PLURAL = re.compile(r"(?:s|S|en|ns)\.?$")
_NUMBER_BEFORE = re.compile(r"(?<![^\W_])(?P<number>S\d{1,3})[A-Za-z]?(?:[,–-][A-Za-z])*\s$")
_BEFORE_WORD = re.compile(r"[A-Za-z]?(?:[,–-][A-Za-z])*\s+Figs?\b")
_GLUED = re.compile(r"[^\W\d_]{2}|_|\.[a-z]{2,4}\b")


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


class Word(NamedTuple):
    """A word that may begin a mention: its half-open span, the series it names and the prefix of its numbers."""

    start: int
    end: int
    series: str
    prefix: str
    plural: bool


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
    other_words: re.Pattern[str] | None = None,
) -> list[Mention]:  # fmt: skip
    """Return the mentions of `text` in order; each figure cross-reference is part of exactly one.

    Args:
        references: the cross-references of the text, in order of their start.
        figures: what numbers and ids mean, seen from `scope`.
        in_caption: "(B)" after a mention starts the next panel's description there.
        other_words: matches the words by which this article labels figures besides "figure" (`word_pattern`).
    """
    return _Reader(text, list(references), figures, scope, in_caption, other_words).read()


def word_pattern(series: Iterable[str]) -> re.Pattern[str] | None:
    """Return a pattern of the label words in `series` other than "figure", None when there are none."""
    words = sorted({s for s in series if s and s != FIG and len(s) > 2}, key=lambda s: (-len(s), s))
    if not words:
        return None
    forms = [re.escape(w[:-1]).replace(r"\ ", r"\s+") + "(?:ns|m)" if w.endswith("m") else _plural(w) for w in words]
    return re.compile(rf"(?<![^\W_])(?P<word>{'|'.join(forms)})\.?", re.IGNORECASE)


def _plural(word: str) -> str:
    return re.escape(word).replace(r"\ ", r"\s+") + "s?"


@dataclass
class _Reader:
    text: str
    references: list[CrossReference]
    figures: FigureIndex
    scope: str
    in_caption: bool
    other_words: re.Pattern[str] | None
    found: list[Mention] = field(default_factory=list)

    def read(self) -> list[Mention]:
        words = list(self._words())
        anchors: list[tuple[int, int, Word | CrossReference]] = [(w.start, 0, w) for w in words]
        anchors += [(r.start, 1, r) for r in self.references if r.figure]
        anchors.sort(key=lambda a: a[:2])
        taken: set[int] = set()
        end = 0
        for start, _, anchor in anchors:
            if start < end or id(anchor) in taken:
                continue
            if isinstance(anchor, CrossReference):
                mention: Mention | None = self._from_reference(anchor, words, end)
            else:
                mention = self._from_word(anchor, anchor.start)
            if mention:
                self.found.append(mention)
                taken.update(map(id, mention.references))
                end = max(mention.end, end)
        for word in words:
            before = _NUMBER_BEFORE.search(self.text, max(0, word.start - 12), word.start)
            if before and not any(m.start < word.end and before.start() < m.end for m in self.found):
                item = Item(FIG, before["number"], (), before.start(), before.end())
                self.found.append(Mention(before.start(), word.end, (item,), supplementary=True))
        return sorted(self.found, key=lambda m: (m.start, m.end))

    def _fig_words(self) -> Iterator[re.Match[str]]:
        """Find the literal beginnings first: trying the pattern at every letter takes four times as long."""
        for beginning in _FIG_BEGINNINGS:
            start = self.text.find(beginning)
            while start >= 0:
                match = _FIG_WORD.match(self.text, start)
                if match:
                    yield match
                start = self.text.find(beginning, start + 1)

    def _words(self) -> list[Word]:
        """Return the words that may begin a mention, in order."""
        text, words = self.text, []
        for match in self._fig_words():
            start = match.start()
            lead = _LEAD.search(text, max(0, start - _LEAD_LENGTH), start) if start else None
            if lead is None and start and text[start - 1].isalpha():
                continue
            series, prefix = FIG, ""
            if lead is not None:
                start = start if re.search("[,:;]", lead[0]) else lead.start()
                series = "extended data fig" if lead["extended"] else FIG
                prefix = "S" if lead["supp"] else "e" if lead["e"] else ""
            words.append(Word(start, match.end(), series, prefix, bool(_PLURAL.search(match[0]))))
        for match in self.other_words.finditer(text) if self.other_words else ():
            series = " ".join(match["word"].lower().split())
            words.append(Word(match.start(), match.end(), series, "", bool(_PLURAL.search(match["word"]))))
        return sorted(words, key=lambda w: w.start)

    def _from_word(self, word: Word, start: int) -> Mention | None:
        before = _BEFORE_NUMBER.match(self.text, word.end)
        items, end = self._items(before.end() if before else word.end, word.series, word.prefix, word.plural)
        if not items:
            return None
        if _GLUED.match(self.text, end) and not any(r.start <= items[0].start <= r.end for r in self.references):
            return None  # a file's name or an address
        attached = _ATTACHMENT.match(self.text, items[0].end)
        supplementary = word.prefix != "" or (attached is not None)
        if attached:
            items, end = items[:1], attached.end()
        return self._mention(start, end, items, supplementary)

    def _from_reference(self, reference: CrossReference, words: list[Word], after: int) -> Mention:
        """Read a mention whose word stands inside the cross-reference, before it, or nowhere."""
        inside = next((w for w in words if reference.start <= w.start < reference.end), None)
        told = self._from_word(inside, reference.start) if inside else None
        if told is not None:
            mention = told
        else:
            number = _FIRST_NUMBER.search(self.text, reference.start, reference.end)
            before = next((w for w in words if after <= w.start and w.end <= reference.start <= w.end + 2), None)
            items, end = (
                self._items(number.start(), before.series if before else FIG, "", True)
                if number
                else ([], reference.end)
            )
            if not items:
                items, end = self._panels_only(reference)
            mention = self._mention(
                before.start if before else reference.start, max(end, reference.start), items, False
            )
        if reference in mention.references:
            return mention
        known = sorted({*mention.references, reference}, key=lambda r: (r.start, r.end))
        return mention._replace(references=tuple(known))

    def _panels_only(self, reference: CrossReference) -> tuple[list[Item], int]:
        """Read a cross-reference without a number: its text may be a panel ("B"), or words ("see above")."""
        declared = self._declared(FIG, "", reference.start, reference.end)
        letters, end = read_panels(self.text, reference.start, declared=declared, in_caption=False, spaced=True)
        if not letters or end < reference.end:
            return [Item(FIG, "", (), reference.start, reference.end)], reference.end
        return [Item(FIG, "", letters, reference.start, end)], end

    def _items(self, pos: int, series: str, prefix: str, plural: bool) -> tuple[list[Item], int]:
        items: list[Item] = []
        base, end, reach, comma = "", pos, False, False
        while True:
            token = self._number(pos, series, prefix, base, bool(items))
            if token is None or (items and not self._continues(items, token, plural, comma)):
                return items, end
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
            if not connector or _FIG_WORD.match(self.text, connector.end()):
                return items, end
            reach, comma = connector["range"] is not None, connector[0].strip() in (",", ";")
            pos = connector.end()

    def _with_panels(self, item: Item, pos: int) -> tuple[Item, int]:
        declared = self._declared(item.series, item.number, item.start, item.end)
        letters, end = read_panels(self.text, pos, declared=declared, in_caption=self.in_caption, spaced=True)
        return item._replace(panels=letters), end

    def _number(self, pos: int, series: str, prefix: str, base: str, later: bool) -> tuple[Item, int] | None:
        match = _NUMBER.match(self.text, pos)
        if not match:
            roman = None if later else _ROMAN.match(self.text, pos)
            number = str(roman_value(roman[0])) if roman else ""
            known = roman is not None and self.figures.by_label(self.scope, series, number)[0]
            return (Item(series, number, (), pos, roman.end()), roman.end()) if roman and known else None
        letter, decimals = (match["prefix"] or "").strip(), match["decimals"]
        number, end = base + number_key(letter or prefix, match["digits"], decimals), match.end()
        if decimals and not self.figures.by_label(self.scope, series, number)[0]:
            number, end = base + number_key(letter or prefix, match["digits"]), match.end("digits")
        return Item(series, number, (), pos, end), end

    def _continues(self, items: list[Item], token: tuple[Item, int], plural: bool, comma: bool) -> bool:
        """Whether a number after a connector goes on with the mention rather than counting something else.

        "Figs. 2, 10 mice" counts mice, "Figs. 2 and 10 show" does not; after a singular word numbers
        must rise.
        """
        item, end = token
        if self.text[end : end + 1] == "_":
            return False
        if any(r.figure and r.start <= item.start < r.end for r in self.references):
            return not (item.number.startswith("S") and _BEFORE_WORD.match(self.text, end))
        known = bool(self.figures.by_label(self.scope, item.series, item.number)[0])
        first_known = bool(self.figures.by_label(self.scope, items[0].series, items[0].number)[0])
        if not known and first_known and not item.number.startswith("S"):
            return False
        if item.number.startswith("S") and _BEFORE_WORD.match(self.text, end):
            return False
        follows = text_after(self.text, end)
        if follows in ("operator", "dash-word"):
            return False
        if re.match(
            r"\.\d|\s*(?:%|°|mm\b|cm\b|h\b|min\b|mg\b|days?\b|weeks?\b|months?\b|years?\b)", self.text[end : end + 8]
        ):
            return False
        if not known and re.match(r"[a-z]{2}", self.text[end : end + 2]):
            return False
        attached = re.match(r"[A-Za-z](?![^\W_])", self.text[end : end + 2]) is not None
        if plural:
            return attached or follows in AFTER_CLOSES or not comma
        rising = _order(items[-1].number) <= _order(item.number)
        return rising and (attached or follows in AFTER_CLOSES)

    def _declared(self, series: str, number: str, start: int, end: int) -> frozenset[str]:
        for reference in self.references:
            if reference.figure and reference.start <= start and start < max(reference.end, reference.start + 1):
                positions = [p for rid in reference.rids for p in self.figures.by_id(self.scope, rid)]
                labelled = self.figures.by_label(self.scope, series, number)[0]
                return self.figures.declared([p for p in positions if p in labelled] or positions)
        return self.figures.declared(self.figures.by_label(self.scope, series, number)[0])

    def _mention(self, start: int, end: int, items: list[Item], supplementary: bool) -> Mention:
        inside = [
            r for r in self.references
            if (r.start < end and r.end > start) or (r.start == r.end and start <= r.start <= end)
        ]  # fmt: skip
        figures = tuple(r for r in inside if r.figure)
        # A cross-reference of another kind (supplementary material) around the word says what it is.
        beside = not figures and bool(inside)
        if self.text[start:end].count("(") > self.text[start:end].count(")") and self.text[end : end + 1] == ")":
            end += 1
        qualifier = read_qualifier(self.text, end)
        return Mention(start, end, tuple(items), figures, qualifier, (supplementary and not figures) or beside)


def _order(number: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", number))
