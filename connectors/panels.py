"""Panel letters and qualifiers after a figure's number: "3a, b", "2A–C", "5 (B) and (C)", "9D, right panel"."""

import itertools
import re

AFTER_CLOSES = frozenset({"close", "function"})
_OPERATOR = re.compile(r"\s*[=<>≤≥≈±~×∼]|\(\d|\s+\d")
_DASH_WORD = re.compile(r"[-‐‑–—]\s?[a-zà-ÿA-Z]{2,}")
_CLOSE = re.compile(r"\s*(?:$|[)\].,;:!?”\"’/(\[&–—-])")
_FUNCTION = re.compile(
    r"\s+(?:and|or|for|in|on|of|to|from|with|by|as|see|also|at|after|before|when|where|which|that|but|while|is|are|was|"
    r"were|had|have|has|can|could|may|show\w*|depict\w*|illustrat\w*|represent\w*|demonstrat\w*|indicat\w*|display\w*|"
    r"present\w*|reveal\w*|summari\w*|report\w*|compar\w*|respectively|versus|vs|e|y|são|mostra\w*|apresenta\w*|"
    r"describ\w*|suggest\w*|provid\w*|highlight\w*|confirm\w*)\b"
)
_WORD = re.compile(r"\s+[^\W\d_]")
# A run of letters with a prime or one digit ("K′", "D2"), never a part of a word.
_LETTERS = re.compile(r"(?P<run>[A-Za-z]{1,8})(?P<mark>['′’″]{1,2}(?![A-Za-z])|[1-9](?!\d))?(?![^\W_])")
_ROMAN_TAIL = re.compile(r"[ivx]+|[IVX]{2,}")
_PANEL_WORD = re.compile(
    r"[\s,;]*[(\[]?\s*\b(?:panels?|painel|painéis|paneles)\s+(?=[(\[]?[A-Za-z](?![^\W_]))", re.IGNORECASE
)
_OPEN = re.compile(r"(?P<gap>\s*)[(\[]\s*")
_SPACE = re.compile(r"\s+")
_COMMA = re.compile(r",\s*")
_JOIN = re.compile(
    r"(?P<range>\s*[-–—‐‑−]\s*|\s+(?:to|through|thru|até|bis|a|à)\s+)"
    r"|(?P<list>\s*[,/&+]\s*(?:(?:and|&|e|y|et|und|or|ou)(?=[\s(]))?\s*|\s+(?:and|e|y|et|und|or|ou|&)\s+)",
)
_BRACKETS_MEET = re.compile(r"(?<=[)\]])(?P<list>)(?P<range>(?!))?(?=[(\[][A-Za-z][)\]])")
_DASHED = re.compile(r"[-–—‐‑](?=[A-Z](?![^\W_]))")
_CONJUNCTIONS = frozenset("aeoyuà")
_ENGLISH_WORDS = frozenset("AI")

_PLACE = (
    r"(?:left|right|top|bottom|upper|lower|middle|cent(?:er|re|ral)|inner|outer|far[\s-](?:left|right)|first|second|third|"
    r"fourth|last|1st|2nd|3rd|\dth|esquerd[ao]|direit[ao]|izquierd[ao]|derech[ao]|superior|inferior)"
)
_THING = (
    r"(?:panels?|rows?|columns?|graphs?|images?|plots?|insets?|halves|half|sides?|traces?|parts?|curves?|lanes?|bars?|"
    r"diagrams?|schematics?|blots?|gels?|maps?|histograms?|charts?|hand\s+\w+)"
)
_QUALIFIER = re.compile(
    rf"[\s,;:]*[(\[]?\s*(?P<words>"
    rf"(?P<placed>{_PLACE}(?:(?:[\s-]+|\s*(?:,|/|&)\s*|\s+and\s+){_PLACE})*(?P<thing>[\s-]+{_THING})?)"
    rf"|(?:panels?|parts?|rows?|columns?|lanes?|class(?:es)?)\s+(?:[IVX]+|\d+|[ivx]+)(?:\s*(?:,|–|-|and|&)\s*(?:[IVX]+|\d+|[ivx]+))*"
    r"|insets?)(?![\w-])",
)
_QUALIFIER_ENDS = re.compile(r"\s*(?:$|[),;.:\]]|and\b)")


def text_after(text: str, pos: int) -> str:
    """Return what follows `pos`: "operator", "dash-word", "close", "function" (a verb or preposition) or "word"."""
    if _OPERATOR.match(text, pos):
        return "operator"
    if _DASH_WORD.match(text, pos):
        return "dash-word"
    if _CLOSE.match(text, pos):
        return "close"
    if _FUNCTION.match(text, pos):
        return "function"
    return "word" if _WORD.match(text, pos) else "close"


def read_panels(
    text: str, pos: int, *, declared: frozenset[str], in_caption: bool, spaced: bool
) -> tuple[tuple[str, ...], int]:
    """Return the panel letters after the number that ends at `pos`, upper-case, and where they end.

    Args:
        declared: letters that the figure's caption declares; empty when it declares none.
        in_caption: a bracketed letter after a space then starts the next description, not a panel.
        spaced: whether a letter may follow after a space.
    """
    first = _first_letters(text, pos, declared, in_caption, spaced)
    if first is None:
        return (), pos
    letters, end, upper, bracket = first
    while (following := _next_letters(text, end, letters[-1], upper, bracket, declared)) is not None:
        more, end, bracket = following
        letters += [letter for letter in more if letter not in letters]
    return tuple(letters), end


def read_qualifier(text: str, pos: int) -> str:
    """Return the words after a mention that narrow it ("left", "middle row", "panel II"), "" when there are none."""
    match = _QUALIFIER.match(text, pos)
    if not match:
        return ""
    if match["placed"] and not match["thing"] and not _QUALIFIER_ENDS.match(text, match.end()):
        return ""
    return match["words"].strip()


def _first_letters(
    text: str, pos: int, declared: frozenset[str], in_caption: bool, spaced: bool
) -> tuple[list[str], int, bool, bool] | None:
    """Return (letters, end, upper case?, bracket still open?) of the first panels."""
    if attached := _LETTERS.match(text, pos):
        letters = _letters_of(attached, declared)
        return (letters, attached.end(), attached["run"][0].isupper(), False) if letters else None
    if named := _PANEL_WORD.match(text, pos):
        open_ = "(" in named[0] or text[named.end()] in "(["
        match = _LETTERS.match(text, named.end() + (text[named.end()] in "(["))
        letters = _letters_of(match, declared) if match else []
        if match and letters and not (letters[0] in "IVX" and letters[0] not in declared):
            return _closed(text, letters, match, open_)
        return None
    if dashed := _DASHED.match(text, pos):
        match = _LETTERS.match(text, dashed.end())
        alone = match is not None and text_after(text, match.end()) == "close"
        return ([match["run"]], match.end(), True, False) if match and alone else None
    if opened := _OPEN.match(text, pos):
        return _bracketed(text, opened, declared, in_caption)
    if not spaced:
        return None
    comma = _COMMA.match(text, pos)
    gap = comma or _SPACE.match(text, pos)
    match = _LETTERS.match(text, gap.end()) if gap else None
    if not match or not _stands_alone(text, match, declared, comma is not None):
        return None
    return _letters_of(match, declared), match.end(), match["run"].isupper(), False


def _bracketed(
    text: str, opened: re.Match[str], declared: frozenset[str], in_caption: bool
) -> tuple[list[str], int, bool, bool] | None:
    match = _LETTERS.match(text, opened.end())
    letters = _letters_of(match, declared) if match and len(match["run"]) == 1 else []
    if not match or not letters:
        return None
    after = text[match.end() : match.end() + 1]
    if after not in (")", "]") and not _JOIN.match(text, match.end()):
        return None
    if after not in (")", "]") and text_after(text, match.end()) in ("operator", "dash-word"):
        return None
    if in_caption and opened["gap"] and after in (")", "]") and re.match(r"\s+\w", text[match.end() + 1 :]):
        return None
    return _closed(text, letters, match, True)


def _closed(text: str, letters: list[str], match: re.Match[str], open_: bool) -> tuple[list[str], int, bool, bool]:
    closes = open_ and text[match.end() : match.end() + 1] in (")", "]")
    return letters, match.end() + closes, match["run"][0].isupper(), open_ and not closes


def _stands_alone(text: str, match: re.Match[str], declared: frozenset[str], after_comma: bool) -> bool:
    """Whether a letter after a space, or after a comma without a panel before it, is a panel."""
    letters = _letters_of(match, declared)
    if len(match["run"]) != 1 or not letters:
        return False
    follows = text_after(text, match.end())
    if follows in ("operator", "dash-word"):
        return False
    if after_comma and letters[0] not in declared:
        return False
    join = _JOIN.match(text, match.end())
    listed = join is not None and _LETTERS.match(text, join.end()) is not None
    if match["run"].isupper():
        if declared and letters[0] not in declared:
            return False
        return bool(declared) and not after_comma if follows in ("word", "function") and not listed else True
    bare = match["run"] in _CONJUNCTIONS - {"a"} and letters[0] not in declared
    return (follows == "close" and not bare) or (listed and follows == "function" and not after_comma and not bare)


def _next_letters(
    text: str, pos: int, last: str, upper: bool, bracket: bool, declared: frozenset[str]
) -> tuple[list[str], int, bool] | None:
    """Return (letters, end, bracket still open?) of what a connector adds, None where the list ends."""
    if bracket and text[pos : pos + 1] in (")", "]"):
        return [], pos + 1, False
    join = _BRACKETS_MEET.match(text, pos) or _JOIN.match(text, pos)
    if not join:
        return None
    opened = text[join.end() : join.end() + 1] in ("(", "[") and not bracket
    match = _LETTERS.match(text, join.end() + opened)
    letters = _letters_of(match, declared) if match else []
    if not match or not letters or match["run"][0].isupper() != upper:
        return None
    if len(match["run"]) > 1 and join[0][-1:].isspace() and not declared.issuperset(letters):
        return None
    if opened and text[match.end() : match.end() + 1] not in (")", "]"):
        return None
    if not opened and not bracket and not _goes_on(text, match, join, declared, upper):
        return None
    end = match.end() + opened
    if join["range"] is not None:
        reached = between(last, letters[0])
        letters = reached + letters[1:] if reached else []
    if not letters:
        return None
    return letters, end, bracket


def _goes_on(text: str, match: re.Match[str], join: re.Match[str], declared: frozenset[str], upper: bool) -> bool:
    follows = text_after(text, match.end())
    if follows == "operator" or (follows == "dash-word" and not _JOIN.match(text, match.end())):
        return False
    if follows == "dash-word" and not re.match(r"[-–—]\s?[A-Za-z](?![^\W_])", text[match.end() : match.end() + 4]):
        return False
    tight = join["range"] is not None and " " not in join["range"]
    if follows != "word":
        alone = match["run"].upper() in _ENGLISH_WORDS if upper else match["run"] in _CONJUNCTIONS
        return tight or not (follows == "function" and alone and match["run"].upper() not in declared)
    if tight or (join["range"] is not None and len(join["range"].strip()) == 1):
        return True
    if not upper and match["run"] in _CONJUNCTIONS:
        return False
    if upper and match["run"] in _ENGLISH_WORDS and match["run"] not in declared:
        return False
    if join["list"] is not None and join["list"].strip() in (",", "/", "&", "+"):
        return not join["list"][-1:].isspace()  # "2A,B cells" lists panels, "2A, B cells" names cells
    return not declared or match["run"].upper() in declared


def _letters_of(match: re.Match[str], declared: frozenset[str]) -> list[str]:
    """Return the panels that a run of letters names: one, one with a Roman part, or several that rise ("ABC")."""
    run, mark = match["run"], match["mark"] or ""
    mark = mark.replace("'", "′").replace("’", "′")
    if len(run) == 1:
        return [run.upper() + mark] if not (run in "Ss" and mark.isdigit()) else []  # "S3" is a number
    if _ROMAN_TAIL.fullmatch(run[1:]) and run[0] not in "ivx":
        return [run[0].upper()]
    rises = all(a < b for a, b in itertools.pairwise(run))
    letters = list(run.upper())
    if rises and set(letters) <= declared and (run.isupper() or run.islower()):
        return letters
    if run[0].isupper() and run[1:] in ("I", "V", "X"):
        return [run[0]]
    close = ord(letters[-1]) - ord(letters[0]) < 12
    return letters if rises and close and len(run) <= 4 and (run.isupper() or (run.islower() and not declared)) else []


def _rises(first: str, last: str) -> bool:
    return (first[0], first[1:]) < (last[0], last[1:]) and ord(last[0]) - ord(first[0]) < 20


def between(first: str, last: str) -> list[str]:
    """Return the panels after `first` up to and with `last`; [] when they do not rise."""
    if not _rises(first, last):
        return []
    if first[0] == last[0]:
        numbered = last[1:].isdigit() and (first[1:] or "0").isdigit()
        marks = range(int(first[1:] or "0") + 1, int(last[1:])) if numbered else ()
        return [*(f"{first[0]}{n}" for n in marks), last]
    mark = first[1:] if first[1:] == last[1:] else ""
    return [*(f"{chr(c)}{mark}" for c in range(ord(first[0]) + 1, ord(last[0]))), last]
