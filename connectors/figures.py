"""What the figures of an article are called and declare: labels as numbers, captions as panels, look-up by scope.

A label is never taken from an id: ids are offset from labels, and one label may name several numbers.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

FIG = "fig"  # the series of every word for "figure", in any language
_LAST_FIG_WORD = re.compile(r"\sfig(?:ure)?s?$")  # "Extended Data Figure" is "Extended Data Fig."
_LETTER_LIST = r"[A-Za-z](?:\s*(?:[-–—,&/]|,?\s*\band\b|\bto\b|\bthrough\b|\be\b|\by\b)\s*[A-Za-z])*"
_FIG_WORD = re.compile(r"^(?:e?fig(?:s|g|ure|ures|ura|uras|ur|uren|uur)?|abb(?:ildung(?:en)?)?)$")
_SUPPLEMENT = re.compile(r"^fig\w*\.?\s*(\d+)\s*[-–—]+\s*figure\s+supplement\s*(\d+)", re.IGNORECASE)
_APPENDIX = re.compile(
    r"^(appendix\s*\d*)\s*[-–—]+\s*figure\s*(\d+)(?:\s*[-–—]+\s*figure\s+supplement\s*(\d+))?", re.IGNORECASE
)
_PANEL_ONLY = re.compile(r"^[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:]?$")
_SUPPLEMENTARY = re.compile(
    r"^(?:supp\w*\.?|supporting|online|additional|web)\s+"
    r"(?:(?:information|material)s?\s+|(?:materials?|data|files?)(?:\s*\d+)?[:,;]?\s+(?=fig))?",
    re.IGNORECASE,
)
_OWN_PANEL = re.compile(r"^fig(?:ure|ura)?\.?\s*\d{1,3}\s?[(]?([A-Za-z])[)]?[.:]?$", re.IGNORECASE)
_LABEL = re.compile(
    r"^(?P<word>[^\W\d][^\d]*?)[\s.#:]*(?P<rest>(?:\d|(?<![A-Za-z])(?:(?:EV|ED|[A-Z])[.-]?\d|[IVX]+\b)).*)$", re.DOTALL
)
_NUMBER = re.compile(r"(?<![A-Za-z\d.])(?:(EV|ED|[A-Z])[.-]?)?(\d{1,3})((?:\.\d{1,2})*)(?!\d)")
_CHAPTER = re.compile(r"(\d{1,2})[-–](\d{1,2})(?![\d.])")  # "Figure 2-1"; a range would rise
_ROMAN = re.compile(r"^[IVX]{1,5}\b")
_RANGE = re.compile(r"^\s*(?:[-–—‐‑−]|to|a|à|até|bis)\s*$")

# Both begin with a character class, which the pattern engine finds fast; the second is searched in "\\n" + caption.
_IN_BRACKETS = re.compile(rf"[(\[]({_LETTER_LIST})[)\]](?:\s?[-–—]\s?[(\[]([A-Za-z])[)\]])?(?=[\s:.,;\w]|$)")
_AT_START = re.compile(rf"[.;:)\n]\s?({_LETTER_LIST})[.,):]\s+(?=\S)")
_LIST_TOKEN = re.compile(r"[-–—]|\bto\b|\bthrough\b|(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
_LIST_AND = re.compile(r"\band\b|(?<=\s)[ey]\b(?=\s+\w)")
_CITED = re.compile(r"(?:fig(?:s|ure|ures|ura|uras)?\.?\s*\w*|panels?|see|tables?\s*\w*)\s*$", re.IGNORECASE)
_PLACES = ("upper", "lower", "top", "bottom", "left", "right", "middle", "cent")
_WORD_PANEL = re.compile(
    r"(?:^|(?<=[.;:] )|(?<=\n)|\()((?:Upper|Lower|Top|Bottom|Left|Right|Middle|Cent(?:er|re))"
    r"(?:[ -](?:left|right|middle|cent(?:er|re)))?(?: (?:panel|row|column|image|graph|plot)s?)?)\)?[:,)]",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class Label:
    """What a figure's label says.

    Attributes:
        series: "fig", or the label's own word ("scheme", "author response image"); "" without a label.
        numbers: "3", "S1", "1.2", "1s2" (second supplement of figure 1); several for a compound label.
        panel: upper-case letter when the label is only that ("(b)"), or ends with it ("Figure 1B").
    """

    series: str = ""
    numbers: tuple[str, ...] = ()
    panel: str = ""


@dataclass(frozen=True)
class Panel:
    """A panel that a caption declares: an upper-case letter (or "left", "top row") and its half-open span."""

    letter: str
    start: int
    end: int


def read_label(text: str) -> Label:
    """Return what `text`, a label such as "Figuras 7 e 8" or "Figure 1—figure supplement 2.", says."""
    text = text.strip()
    if match := _PANEL_ONLY.match(text):
        return Label(panel=match[1].upper())
    if match := _SUPPLEMENT.match(text):
        return Label(FIG, (f"{int(match[1])}s{int(match[2])}",))
    if match := _APPENDIX.match(text):
        supplement = f"s{int(match[3])}" if match[3] else ""
        return Label(" ".join(match[1].lower().split()), (f"{int(match[2])}{supplement}",))
    supplementary = _SUPPLEMENTARY.match(text)
    match = _LABEL.match(text[supplementary.end() :] if supplementary else text)
    if not match:
        return Label(series_of(text)) if text else Label()
    numbers = _numbers(match["rest"])
    if text[:4].lower() == "efig":
        numbers = [f"E{n}" for n in numbers]
    own = _OWN_PANEL.match(text)
    if supplementary:
        numbers = [n if n.startswith("S") else f"S{n}" for n in numbers]
    return Label(series_of(match["word"]), tuple(numbers), own[1].upper() if own else "")


def series_of(word: str) -> str:
    """Return the series that `word` names: "fig" for words for figure, else the word itself, lower-cased."""
    word = " ".join(re.sub(r"[^\w\s]", " ", word).lower().split())
    return FIG if _FIG_WORD.match(word) else _LAST_FIG_WORD.sub(" fig", word)


def number_key(prefix: str, digits: str, decimals: str = "") -> str:
    """Return the form in which numbers are compared: "02" is "2", "s1" is "S1"."""
    return f"{prefix.upper()}{int(digits)}{decimals}"


def roman_value(text: str) -> int:
    """Return the value of a Roman numeral of I, V and X."""
    values = [{"I": 1, "V": 5, "X": 10}[c] for c in text]
    return sum(-v if v < max(values[i:]) else v for i, v in enumerate(values))


def numbers_between(first: str, last: str) -> list[str]:
    """Return the numbers strictly between two of one kind ("3", "6" or "1s2", "1s4"), [] for other pairs."""
    a, b = re.fullmatch(r"(.*?)(\d+)", first), re.fullmatch(r"(.*?)(\d+)", last)
    if not a or not b or a[1] != b[1] or not 0 < int(b[2]) - int(a[2]) < 30:
        return []
    return [f"{a[1]}{n}" for n in range(int(a[2]) + 1, int(b[2]))]


def declared_panels(caption: str, bold: Iterable[tuple[int, int]] = ()) -> list[Panel]:
    """Return the panels that `caption` declares, in order, each reaching to the next.

    Styles: "(A)", "A, " or "A. " at a sentence's start, a bold letter, "Left:". Letters must rise from A, which is
    what tells "(n)" or "(p)" from a panel; the style that yields most letters is the caption's.
    """
    styles = (
        _rising(
            [
                (m.start(), f"{m[1]}–{m[2]}" if m[2] else m[1])
                for m in _IN_BRACKETS.finditer(caption)
                if not _is_cited(caption, m)
            ]
        ),
        _rising([(m.start(1) - 1, m[1]) for m in _AT_START.finditer("\n" + caption)]),
        _rising([(a, caption[a:b].strip(" ().,:;")) for a, b in bold]),
    )
    best = max(styles, key=_count_letters)
    if _count_letters(best) < 2:
        lowered = caption.lower()
        named = any(map(lowered.__contains__, _PLACES))
        best = [(m.start(1), [m[1].lower()]) for m in _WORD_PANEL.finditer(caption)] if named else []
    panels = []
    for position, (start, letters) in enumerate(best):
        following = best[position + 1][0] if position + 1 < len(best) else len(caption)
        end = start + len(caption[start:following].rstrip())
        panels += [Panel(letter, start, end) for letter in letters]
    return panels


def expand_letters(text: str) -> list[str]:
    """Return the upper-case letters of a list such as "a–c, e"; [] when it does not rise."""
    if len(text) == 1:
        return [text.upper()]
    tokens = _LIST_TOKEN.findall(_LIST_AND.sub(",", text))
    letters: list[str] = []
    reach = False
    for token in tokens:
        if len(token) > 1 or not token.isalpha():
            reach = True
            continue
        letter = token.upper()
        if letters and letter <= letters[-1]:
            return []
        first = ord(letters[-1]) + 1 if reach and letters else ord(letter)
        letters += [chr(c) for c in range(first, ord(letter) + 1)]
        reach = False
    return letters


def _numbers(rest: str) -> list[str]:
    if roman := _ROMAN.match(rest):
        return [str(roman_value(roman[0]))]
    if (chapter := _CHAPTER.match(rest)) and int(chapter[2]) <= int(chapter[1]):
        return [f"{int(chapter[1])}-{int(chapter[2])}"]
    numbers: list[str] = []
    end = 0
    for match in _NUMBER.finditer(rest):
        between = rest[end : match.start()]
        if numbers and not re.fullmatch(r"\s*(?:[,&/]|and|e|y|et|und|[-–—‐‑−]|to|a|à|até|bis|\s)*\s*", between):
            break
        number = number_key(match[1] or "", match[2], match[3])
        if numbers and _RANGE.match(between):
            numbers += numbers_between(numbers[-1], number)
        numbers.append(number)
        end = match.end()
    return numbers


def _count_letters(found: list[tuple[int, list[str]]]) -> int:
    return len({letter for _, letters in found for letter in letters})


def _is_cited(caption: str, match: re.Match[str]) -> bool:
    start = match.start()
    if start and (caption[start - 1].isalnum() or caption[start - 1] == "_"):
        return True
    return bool(_CITED.search(caption, max(0, start - 16), start))


def _rising(markers: list[tuple[int, str]]) -> list[tuple[int, list[str]]]:
    """Return the markers whose letters rise from A, each with its letters, all in one case."""
    found: list[tuple[int, list[str]]] = []
    last, case = "@", None
    for start, text in markers:
        if last == "@" and "A" not in text and "a" not in text:
            continue
        letters = expand_letters(text)
        first_case = text[:1].isupper()
        if not letters or (case is not None and first_case != case) or not 0 < ord(letters[0]) - ord(last) <= 2:
            continue
        if last == "@" and letters[0] != "A":
            continue
        found.append((start, letters))
        last, case = letters[-1], first_case
    return found


@dataclass
class FigureIndex:
    """Figures by id and by label, seen from a scope: the nearest sub-article first, then its parents.

    Attributes:
        parents: enclosing scope of each scope, None for the article itself.
        ids: positions by (scope, id); a group stands for its children.
        labels: positions by (scope, series, number).
        panels: letters that the caption of each figure declares, by position.
        own_panel: the letter of a figure that is one panel of its parent, by position.
    """

    parents: Mapping[str, str | None]
    ids: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    labels: dict[tuple[str, str, str], tuple[int, ...]] = field(default_factory=dict)
    panels: dict[int, frozenset[str]] = field(default_factory=dict)
    own_panel: dict[int, str] = field(default_factory=dict)

    def by_id(self, scope: str, rid: str) -> tuple[int, ...]:
        """Positions of the figures that `rid` means, () when it means none."""
        here = self.ids.get((scope, rid))
        if here is not None:
            return here
        for near in self._outwards(scope):
            if (near, rid) in self.ids:
                return self.ids[near, rid]
        return next((found for (_, known), found in self.ids.items() if known == rid), ())

    def by_label(self, scope: str, series: str, number: str) -> tuple[tuple[int, ...], bool]:
        """Positions of the figures labelled so, and whether they stand in `scope` itself."""
        here = self.labels.get((scope, series, number))
        if here is not None:
            return here, True
        for near in self._outwards(scope):
            if (near, series, number) in self.labels:
                return self.labels[near, series, number], False
        return (), False

    def declared(self, positions: Iterable[int]) -> frozenset[str]:
        """Panel letters that these figures declare."""
        letters: frozenset[str] = frozenset()
        for position in positions:
            letters |= self.panels.get(position, letters)
            if position in self.own_panel:
                letters |= {self.own_panel[position]}
        return letters

    def _outwards(self, scope: str) -> Iterable[str]:
        near: str | None = scope
        while near is not None:
            yield near
            near = self.parents.get(near)
