"""Sentence spans of scholarly text: a small splitter that knows "Fig.", "et al.", initials and decimals."""

import re

# What ends in a full stop without ending a sentence; lower-case, without the stop.
_ABBREVIATION_LIST = (
    "al app approx art bd bzw ca cap cf ch chap cit co coloc corp dept dr dra ed eds eg eq eqs eqn eqns etc ex ext fig "
    "figs figg figura figuras gen ie inc incl jr lab ltd max mr mrs ms nº no nos nov nr obs p par pág págs pers pg pl "
    "pls pp prof pt ref refs resp sect ser sp spec spp sr sra ss st subsp suppl supp tab tabs univ v var viz vol vols "
    "vs wt abb jan feb apr aug sept oct dec"
)
_ABBREVIATIONS = frozenset(_ABBREVIATION_LIST.split())
# Abbreviations that are words or units too: "answered no. We", "for 5 ms. Then", "with 3 pt. The".
_WORDS_TOO_LIST = "al apr art aug cap co dec etc ex feb jan lab max ms no nov oct par pt sept st var wt"
_WORDS_TOO = frozenset(_WORDS_TOO_LIST.split())
# A full stop (or ! ?), closing marks, perhaps the number of a reference set in superscript, then a new beginning.
_END = re.compile(
    r"[.!?]+(?:[\"”’'»)\]]+|(?<=[^\d\s]\.)\d{1,3}(?:[,–-]\d{1,3})*(?=\s))?\s+(?=[\"“‘'«(\[¿¡]*[A-Z0-9À-ÞΑ-Ω])"
)
# Words that begin sentences and never follow an initial: "vitamin C. These …" against "J. Smith".
_OPENERS = re.compile(
    r"[\"“‘'«(\[¿¡]*(?:The|These|This|Those|That|In|It|We|Our|A|An|However|For|To|As|At|On|By|Here|There|They|Their|Its|If|"
    r"When|While|Where|Whereas|What|Thus|Then|Therefore|Moreover|Furthermore|Additionally|Although|Because|Since|Both|Each|"
    r"All|No|Not|Note|Data|Error|Scale|Bars?|Values|Images?|Arrows?|Arrowheads?|Figures?|Figs?|Tables?|Left|Right|Top|"
    r"Bottom|Upper|Lower|Mean|Mice|Cells|Animals|Patients|Samples|Sections|Results|Two|Three|One|Most|Many|Some|Several|"
    r"Such|Other|Another|Using|Given|Following|Based|Compared|Comparing|Consistent|Consistently|First|Second|Third|Next|"
    r"Finally|Interestingly|Importantly|Similarly|Simultaneously|Overall|Taken|Together|Among|After|Before|During|Between|"
    r"From|With|Within|Without|Of|Upon|Under|Also|Again|But|And|So|Yet|See|Os?|As|Em|Na|Um|Uma|El|Los?|Las?|Les?|En|Se|Já|"
    r"Der|Die|Das|Es)(?![\w'’-])"
)
# "It grew. (Fig. 3A). The" has its first full stop too early.
_AFTERTHOUGHT = re.compile(r"\((?:see\s+)?(?:[Ff]ig|FIG|[Tt]able|Supp)[^()]{0,60}\)\s?\.")
_DOTTED_ENDS = frozenset(("s.e.m", "s.e", "s.d", "p.i", "h.p.i", "d.p.i"))


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return the half-open spans of the sentences of `text`, in order; what lies between them is white space."""
    spans, start = [], 0
    for match in _END.finditer(text):
        if _ends(text, match, start):
            spans.append((start, match.start() + len(match[0].rstrip())))
            start = match.end()
    if start < len(text) or not spans:
        spans.append((start, len(text)))
    return spans


def _ends(text: str, match: re.Match[str], start: int) -> bool:
    stop = match.start()
    if text[stop] != "." or match[0].startswith(".."):
        return True
    if text[match.end()] == "(" and _AFTERTHOUGHT.match(text, match.end()):
        return False
    token = text[max(start, text.rfind(" ", max(start, stop - 24), stop) + 1) : stop]
    letters = token if token.isalpha() else _last_letters(token)
    if not letters:
        # "in 1998. 12 mice" ends, " . 5" does not
        return not text[match.end()].isdigit() or not text[stop - 1 : stop].isspace()
    if len(letters) > 1:
        return letters.lower() not in _ABBREVIATIONS or _ends_abbreviated(text, match.end(), token, letters)
    if len(token) == stop - start or letters in ("p", "v"):
        return False  # a caption's "A. Left panel", "p. 17"
    if letters.isupper():
        before = token[-2:-1]
        plain = letters < "[" or "À" <= letters <= "Þ"
        if "." not in token and (not plain or before.isdigit() or before in ("°", "-", "+")):
            return True  # "at 37°C. The", "sign of Δ. Shared"
        return bool(_OPENERS.match(text, match.end()))
    if token[-2:-1] != ".":
        return True
    dotted = re.split(r"[(\[±]", token.lower())[-1]
    if dotted in _DOTTED_ENDS and (dotted[0] == "s" or text[match.end()] != "("):
        return True
    return dotted not in ("i.e", "e.g") and bool(_OPENERS.match(text, match.end()))  # "i.v.", "p.m."


def _last_letters(token: str) -> str:
    """Return the letters that `token` ends with."""
    size = len(token)
    while size and token[size - 1].isalpha():
        size -= 1
    return token[size:]


def _ends_abbreviated(text: str, following: int, token: str, letters: str) -> bool:
    """Whether what looks like an abbreviation ends a sentence all the same."""
    if letters.isupper() and letters not in ("FIG", "FIGS", "EQ", "NO"):
        return True  # "HLA-DR. The"
    if letters not in _WORDS_TOO:
        return False
    if token[: len(token) - len(letters)].isdigit() or (
        text[following].isalpha() and _after_number(text, following, token)
    ):
        return True
    return bool(_OPENERS.match(text, following))


def _after_number(text: str, following: int, token: str) -> bool:
    """Whether `token`, which ends right before `following`, is the unit of a number: "20 ms"."""
    if token not in ("ms", "pt", "wt"):
        return False
    before = text[max(0, following - len(token) - 16) : following].rpartition(token)[0].rstrip()
    return before[-1:].isdigit()
