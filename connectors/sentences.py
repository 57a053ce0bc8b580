"""Sentence spans of scholarly text: a small splitter that knows "Fig.", "et al.", initials and decimals."""

import re

# What ends in a full stop without ending a sentence; lower-case, without the stop.
_ABBREVIATION_LIST = (
    "al app approx art bd ca cf ch chap co coloc corp dept dr ed eds eg eq eqs eqn eqns etc ex ext fig figs figura "
    "figuras ie inc jr lab ltd max min mr mrs ms nº no nos nr p par pg pl pp prof pt ref refs resp sec sect ser sp "
    "spp sr ss st subsp suppl supp tab univ v var vol vols vs wt abb bzw dra sra pág págs cap"
)
_ABBREVIATIONS = frozenset(_ABBREVIATION_LIST.split())
# A full stop (or ! ?), closing marks, perhaps the number of a reference set in superscript, then a new beginning.
_END = re.compile(
    r"[.!?]+(?:[\"”’'»)\]]+|(?<=[^\d\s]\.)\d{1,3}(?:[,–-]\d{1,3})*(?=\s))?\s+(?=[\"“‘'«(\[¿¡]*[A-Z0-9À-ÞΑ-Ω])"
)
_LAST_WORD = re.compile(r"[^\W\d_]+$")
# Words that begin sentences and never follow an initial: "vitamin C. These …" against "J. Smith".
_OPENERS = re.compile(
    r"(?:The|These|This|Those|That|In|It|We|Our|A|An|However|For|To|As|At|On|By|Here|There|They|Its|When|While|Thus|"
    r"Therefore|Moreover|Furthermore|Although|Both|Each|All|No|Note|Data|Error|Scale|Bars?)\b"
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return the half-open spans of the sentences of `text`, in order; what lies between them is white space."""
    spans, start = [], 0
    for match in _END.finditer(text):
        if _ends(text, match, start):
            spans.append((start, len(text[: match.end()].rstrip())))
            start = match.end()
    if start < len(text) or not spans:
        spans.append((start, len(text)))
    return spans


def _ends(text: str, match: re.Match[str], start: int) -> bool:
    stop = match.start()
    if text[stop] != ".":
        return True
    if text[match.end()].isdigit() and _LAST_WORD.search(text, max(start, stop - 12), stop) is None:
        return not text[stop - 1 : stop].isspace()  # "in 1998. 12 mice" ends, " . 5" does not
    word = _LAST_WORD.search(text, max(start, stop - 24), stop)
    if word is None:
        return True
    if word[0].lower() in _ABBREVIATIONS:
        # "etc." and "al." may end one; only a word that cannot follow them says so.
        return word[0].lower() in ("al", "etc") and bool(_OPENERS.match(text, match.end()))
    if len(word[0]) == 1 and word[0].isupper() and not text[word.start() - 1 : word.start()].isdigit():
        return bool(_OPENERS.match(text, match.end()))
    before = text[max(0, word.start() - 2) : word.start()]
    return not (len(word[0]) == 1 and before.endswith("."))  # "i.e.", "e.g.", "p.m."
