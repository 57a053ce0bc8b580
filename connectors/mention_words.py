"""The words that may begin a mention: "Fig.", "Abbildung", and the words by which an article labels its figures."""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from medloom.connectors.figures import FIG

_FIG_WORD = re.compile(
    r"(?:[Ff]ig(?:ures?|uras?|ur(?:en|er)?|uur|g|s)?|FIG(?:URES?|URAS?|S)?|Abb(?:ildung(?:en)?)?)(?:\.s\b|'s\b|\.)?"
)
_FIG_BEGINNINGS = ("Fig", "fig", "FIG", "Abb")
# What may lead the word: "Supplementary Material, Figure", "Extended Data Fig.", "Appendix 1—figure", "eFigure".
_LEAD = re.compile(
    r"(?<![^\W_])(?:(?P<extended>Extended[ -]Data|(?-i:ED))"
    r"|(?P<appendix>Appendix(?:\s+(?:\d+|[A-Z]))?(?:\s*[-–—]+|(?=\s)))"
    r"|(?P<supp>(?:supp(?:l(?:ement(?:ary|al)?)?)?\.?|supporting|additional|online|web|SI|ESI)"
    r"(?:\s+(?:materials?|information|data|files?|online|supp(?:l\w*)?\.?|\d+))*[,:;]?))\s*$|(?<![^\W_])(?P<e>[es])$",
    re.IGNORECASE,
)
_LEAD_LENGTH = 48
MOST_WORDS = 4096  # in one paragraph; what has more is no text for readers, and costs 40 µs for each
# Few texts hold any of these, and looking for them is cheaper than trying the pattern before every word.
_LEAD_HINTS = ("upp", "xtended", "dditional", "ppendix", "nline", "SI ", "ED ", "eb ", "UPP", "XTENDED")
_PLURAL_ENDINGS = ("s", "S", "en", "gg")
_INDEFINITE = re.compile(r"(?:^|[\s(])[Aa]n?\s$")


class Word(NamedTuple):
    """A word that may begin a mention: its half-open span, the series it names and the prefix of its numbers."""

    start: int
    end: int
    series: str
    prefix: str
    plural: bool


class SeriesWords(NamedTuple):
    """The words by which an article labels figures besides "figure": their pattern, and the series of each form."""

    pattern: re.Pattern[str]
    series: dict[str, str]

    def search(self, text: str) -> bool:
        """Whether one of them stands in `text`."""
        return self.pattern.search(text) is not None


def series_words(series: Iterable[str]) -> SeriesWords | None:
    """Return the words of the labels in `series` other than "figure", None when there are none."""
    forms: dict[str, str] = {}
    for name in sorted({s for s in series if s and s != FIG and not s[-1].isdigit()}):
        if len(name) > 2 or not name.isascii():
            forms |= {form: name for form in _forms(name) if form not in forms}
    if not forms:
        return None
    alternatives = "|".join(
        ("" if _is_ideographic(form) else r"(?<![^\W_])") + re.escape(form).replace(r"\ ", r"\s+")
        for form in sorted(forms, key=lambda f: (-len(f), f))
    )
    return SeriesWords(re.compile(rf"(?P<word>{alternatives})\.?", re.IGNORECASE), forms)


def find_words(text: str, other: SeriesWords | None) -> list[Word]:
    """Return the words of `text` that may begin a mention, in order, no more than `MOST_WORDS`."""
    matches = sorted(_fig_words(text), key=re.Match.start)[:MOST_WORDS]
    led = bool(matches) and any(hint in text for hint in _LEAD_HINTS)
    words = [word for match in matches if (word := _fig_word(text, match, led))]
    for match in itertools.islice(other.pattern.finditer(text), MOST_WORDS) if other else ():
        form = " ".join(match["word"].lower().split())
        series = other.series.get(form, form) if other else form
        words.append(Word(match.start(), match.end(), series, "", form != series))
    return sorted(words, key=lambda w: w.start)


def figure_word(text: str, pos: int) -> re.Match[str] | None:
    """Return the word for figure that stands at `pos`."""
    return _FIG_WORD.match(text, pos)


def _fig_words(text: str) -> Iterator[re.Match[str]]:
    """Find the literal beginnings first: trying the pattern at every letter takes four times as long."""
    for beginning in _FIG_BEGINNINGS:
        start = text.find(beginning)
        while start >= 0:
            match = _FIG_WORD.match(text, start)
            if match:
                yield match
            start = text.find(beginning, start + 1)


def _fig_word(text: str, match: re.Match[str], led: bool) -> Word | None:
    """Return the word that `match` found with what leads it; `led` says whether `text` may hold any such lead."""
    start = match.start()
    plural = match[0].rstrip(".").endswith(_PLURAL_ENDINGS)
    glued = start > 0 and text[start - 1].isalpha() and not _is_ideographic(text[start - 1])
    window = text[max(0, start - _LEAD_LENGTH) : start] if led and not glued else ""
    tried = text[start - 1] in "eEsS" if glued else any(hint in window for hint in _LEAD_HINTS)
    lead = _LEAD.search(text, max(0, start - _LEAD_LENGTH), start) if tried else None
    if lead is None or (glued and not lead["e"]):
        if glued or (not plural and text[start] == "f" and _INDEFINITE.search(text, max(0, start - 4), start)):
            return None  # "configure"; "a figure 8"
        return Word(start, match.end(), FIG, "", plural)
    start = start if re.search("[,:;]", lead[0]) else lead.start()
    if lead["appendix"]:
        series = " ".join(lead["appendix"].lower().strip(" -–—").split())
        dashed = lead[0].rstrip().endswith(("-", "–", "—"))
        return Word(start, match.end(), series if dashed else f"{series} fig", "", plural)
    series = "extended data fig" if lead["extended"] else FIG
    return Word(start, match.end(), series, "S" if lead["supp"] else (lead["e"] or "").upper(), plural)


def _forms(name: str) -> list[str]:
    """Return a label's word with its plurals: "scheme", "schemes"; "imagem", "imagens"; "ilustração", "ilustrações"."""
    for ending, plural in (("ção", "ções"), ("ción", "ciones"), ("agen", "ágenes"), ("m", "ns"), ("el", "éis")):
        if name.endswith(ending):
            return [name, name + "s", name[: -len(ending)] + plural]
    return [name, name + "s", name + "es"]


def _is_ideographic(form: str) -> bool:
    return "\u2e80" <= form[0] <= "\u9fff"
