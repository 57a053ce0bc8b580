"""Panel letters after a figure's number ("3a, b", "2A–C", "5 (B) and (C)", "panels a–c") or before its word.

A letter directly after the number is a panel. One after a space or a comma is a panel only when what follows does not
make it a word ("4, a voxel"), a symbol ("2, p = 0.01"), a name ("C. elegans", "H&E", "B cells") or a title's part.
"""

import itertools
import re

AFTER_CLOSES = frozenset({"close", "function"})
_OPERATOR = re.compile(r"\s*[=<>≤≥≈±~×∼]|\(\d|\s+\d")
_DASH_WORD = re.compile(r"(?:[-‐‑–—]\s?|/)[a-zà-ÿA-Z]{2,}")
_CLOSE = re.compile(r"\s*(?:$|[)\].,;:!?”\"’/(\[&–—-])")
_FUNCTION = re.compile(
    r"\s+(?:and|or|for|in|on|of|to|from|with|by|as|see|also|at|after|before|when|where|which|that|but|while|is|are|was|"
    r"were|had|have|has|can|could|may|show\w*|depict\w*|illustrat\w*|represent\w*|demonstrat\w*|indicat\w*|display\w*|"
    r"present\w*|reveal\w*|summari\w*|report\w*|compar\w*|respectively|versus|vs|e|y|são|mostra\w*|apresenta\w*|"
    r"describ\w*|suggest\w*|provid\w*|highlight\w*|confirm\w*|et|und|montr\w+|zeig\w+|muestra\w*|left|right|top|bottom|"
    r"upper|lower|middle|inset)\b"
)
_WORD = re.compile(r"\s+[^\W\d_]")
# No article stands before these, so an "A" before them is a panel.
_DETERMINER = re.compile(r"\s+(?:the|an?|we|it|this|these|those|there|our|its|both|each)\b")
# What a letter names: "B cells", "K channels", "b values", "B and T cells".
_LETTER_NOUN = re.compile(
    r"(?:\s*(?:,|/|\band\b|\bor\b)\s*[A-Za-z][A-Z+\d]{0,4})*[\s-]+(?:cells?|lymphocytes?|lymphomas?|leuka?emias?|"
    r"lineages?|subsets?|channels?|currents?|box(?:es)?|domains?|chains?|helix|helices|subunits?|alleles?|genes?|"
    r"genotypes?|haplotypes?|strains?|virus(?:es)?|viral|receptors?|proteins?|waves?|peaks?|values?|bands?|"
    r"test(?:s|ing)?|scores?|scans?|ratios?|axis|axes|phases?|cycles?|sites?|loops?|segments?|isoforms?|peptides?|"
    r"mutants?|toxins?|vitamins?|antigens?|bodies|fib(?:er|re)s?|variants?|groups?|types?|class(?:es)?|antagonists?|"
    r"agonists?|synthase|kinases?|levels?|factors?|coordinates?)\b"
)
_ISOTOPE = re.compile(r"[-–]\d|\.[a-z]\.")  # "F-18", "e.g."
_SPECIES = re.compile(r"\.\s?(?!part|panel|see\b|and\b|arrow|scale|bar|left\b|right\b)[a-z]{3,}")
_STAIN = re.compile(r"(?:H\s?(?:&|\+|and)\s?E|m/z)(?![^\W_])")
_ENUMERATES = re.compile(r"[)\]]\s+(?:[Ff]ig|FIG|Abb|[Tt]ab)")  # "Fig. 2, b) Fig. 3"
_VERB = re.compile(
    r"\s+(?:is|are|was|were|shows?|depicts?|illustrates?|represents?|demonstrates?|indicates?|displays?|presents?|reveals?)\b"
)
# A run of letters with a prime or one digit ("K′", "D2"), never a part of a word.
_NO_WORD = r"(?![^\W_\u2e80-\u9fff])"  # no spaces part the words of Chinese and Japanese
_LETTERS = re.compile(rf"(?P<run>[A-Za-z]{{1,8}})(?P<mark>['′’″ʹʺ]{{1,3}}(?![A-Za-z])|[1-9](?!\d))?{_NO_WORD}")
# "2A12": the numbers of references, which stand in superscript.
_CITED_LETTER = re.compile(r"(?P<run>[A-Za-z])(?P<mark>(?!))?(?=\d{2,3}(?:[,–-]\d{1,3})*(?![\w.]))")
_NUMBERED_ON = re.compile(r"[-–](?P<last>[2-9])(?![\w.])")
_COUNT_OR_GENE = re.compile(r"\s?/|,\d")  # after "F4", "F1"
_PAIR = re.compile(r"[/-][A-Za-z]\s+[^\W\d_]")
_ROMAN_TAIL = re.compile(r"[ivx]+|[IVX]{2,}")
_ROMAN_MORE = re.compile(r"(?:\s?[,–-]\s?[ivx]{1,4}(?![^\W_]))+")
_ROMAN = r"[(\[]?x?(?:ix|iv|vi{0,3}|i{1,3})[)\]]?"
_ROMAN_LIST = re.compile(rf"\s*,?\s*(?P<list>{_ROMAN}(?:\s*(?:,|[-–—]|&|\b(?:and|to)\b)\s*{_ROMAN})*)(?![^\W_])")
_ROMAN_TOKEN = re.compile(r"[ivx]+|[-–—]|\bto\b")
_ROMANS = tuple(
    tens + ones for tens in ("", "x") for ones in ("", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix")
)
_PANEL_WORD = re.compile(
    r"[\s,;:–—-]*[(\[]?\s*\b(?P<word>(?:sub-?)?(?:panels?|pannels?|painel|painéis|paneles|parts?|figures?|images?|frames?|"
    r"graphs?|plots?|sections?)|Teil)\s+(?=[(\[]?[A-Za-z](?![^\W_]))",
    re.IGNORECASE,
)
_OPEN = re.compile(r"(?P<gap>\s*(?:,\s*)?)[(\[]\s*")
_SPACE = re.compile(r"\s+")
_COMMA = re.compile(r"[,:]\s*")
_JOIN = re.compile(
    r"(?P<range>\s*[-–—‐‑−]\s*|\s+(?:to|through|thru|até|bis|a|à)\s+)"
    r"|(?P<list>[、，和及与]|\s*[,/&+;]\s*(?:(?:and|&|e|y|et|und|or|ou)(?=\s*[\s(][(\[]?[A-Za-z](?![^\W_])))?\s*"
    r"|\s+(?:and|e|y|et|und|or|ou|&|vs\.?|versus)\s+)",
)
_BRACKETS_MEET = re.compile(r"(?<=[)\]])(?P<list>)(?P<range>(?!))?(?=[(\[][A-Za-z][)\]])")
_LOOSE = re.compile(
    r"\)(?:(?P<range>\s?[-–—]\s?)|(?P<list>(?:\s?[,;&]\s?|\s)(?:and\s|e\s|y\s|und\s|et\s)?))(?=[A-Za-z]\))"
)
_ATTACHED_BY_MARK = re.compile(r"[-‐‑–—.:](?=[A-Za-z](?![^\W_]))")
_PRIMES = ("", "′", "″", "‴")
_CONJUNCTIONS = frozenset("aeoyuà")
_ENGLISH_WORDS = frozenset("AI")
_BEFORE = re.compile(r"\bpan(?:els?|nels?|eles|éis|el)\s+|\bpain(?:el|éis)\s+", re.IGNORECASE)
_OF_FIGURE = re.compile(
    r"\s*(?:\b(?:of|in|from|on|within|de|del|de la|da|do|na|em|en|der|von)\b\s*(?:the\s+)?|,\s*)[(\[]?$"
)


def text_after(text: str, pos: int) -> str:
    """Return what follows `pos`: "operator", "dash-word", "close", "function" (a verb or preposition) or "word"."""
    before = text[pos - 1 : pos]
    if _OPERATOR.match(text, pos) or (before.isupper() and _SPECIES.match(text, pos)):
        return "operator"
    if before.isalpha() and _ISOTOPE.match(text, pos):
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
    if (numerals := _roman_list(text, pos)) is not None:
        return numerals
    first = _first_letters(text, pos, declared, in_caption, spaced)
    if first is None:
        return (), pos
    letters, end, upper, bracket = first
    while (following := _next_letters(text, end, letters[-1], upper, bracket, declared)) is not None:
        more, end, bracket = following
        letters += [letter for letter in more if letter not in letters]
    if text[end : end + 1] == ")" and text.count(")", pos, end) > text.count("(", pos, end):
        end += 1  # "9 a)–e)"
    return tuple(letters), end


def panels_before(before: str, *, declared: frozenset[str]) -> tuple[tuple[str, ...], int]:
    """Return the panels that the text before a figure's word ends with ("panels C and D of "), and its length."""
    words = list(_BEFORE.finditer(before))
    pos = words[-1].end() if words else len(before)
    bracket = before[pos : pos + 1] in ("(", "[")
    match = _LETTERS.match(before, pos + bracket)
    letters = _letters_of(match, declared) if match else []
    if not match or not letters:
        return (), 0
    end, upper = match.end() + (bracket and before[match.end() : match.end() + 1] in (")", "]")), match["run"].isupper()
    while (following := _next_letters(before, end, letters[-1], upper, False, declared)) is not None:
        more, end, _ = following
        letters += [letter for letter in more if letter not in letters]
    link, start = _OF_FIGURE.match(before, end), words[-1].start()
    if not link or (link[0].startswith(",") and before[start - 1 : start] not in ("(", "")):
        return (), 0
    return tuple(letters), len(before) - start


def between(first: str, last: str) -> list[str]:
    """Return the panels after `first` up to and with `last`; [] when they do not rise."""
    if not _rises(first, last):
        return []
    if first[0] == last[0]:
        numbered = last[1:].isdigit() and (first[1:] or "0").isdigit()
        marks = [str(n) for n in range(int(first[1:] or "0") + 1, int(last[1:]))] if numbered else []
        if first[1:] in _PRIMES and last[1:] in _PRIMES:
            marks = list(_PRIMES[_PRIMES.index(first[1:]) + 1 : _PRIMES.index(last[1:])])
        return [*(f"{first[0]}{mark}" for mark in marks), last]
    mark = first[1:] if first[1:] == last[1:] else ""
    return [*(f"{chr(c)}{mark}" for c in range(ord(first[0]) + 1, ord(last[0]))), last]


def _rises(first: str, last: str) -> bool:
    return (first[0], first[1:]) < (last[0], last[1:]) and ord(last[0]) - ord(first[0]) < 20


def _roman_list(text: str, pos: int) -> tuple[tuple[str, ...], int] | None:
    """Read panels that are small Roman numerals ("i–iii"); one "i", "v" or "x" alone is a letter."""
    match = _ROMAN_LIST.match(text, pos)
    if (
        not match
        or text_after(text, match.end()) in ("operator", "dash-word")
        or _ENUMERATES.match(text, match.end() - 1)
    ):
        return None
    tokens = _ROMAN_TOKEN.findall(match["list"])
    if all(len(token) == 1 for token in tokens):
        return None
    numerals: list[str] = []
    reach = False
    for token in tokens:
        if token not in _ROMANS:
            reach = True
            continue
        first = _ROMANS.index(numerals[-1]) + 1 if reach and numerals else _ROMANS.index(token)
        numerals += [n for n in _ROMANS[first : _ROMANS.index(token) + 1] if n not in numerals]
        reach = False
    return tuple(n.upper() for n in numerals), match.end()


def _first_letters(
    text: str, pos: int, declared: frozenset[str], in_caption: bool, spaced: bool
) -> tuple[list[str], int, bool, bool] | None:
    """Return (letters, end, upper case?, bracket still open?) of the first panels."""
    if attached := _LETTERS.match(text, pos) or _CITED_LETTER.match(text, pos):
        letters = _letters_of(attached, declared)
        end = attached.end()
        if len(letters) < len(attached["run"]) and (more := _ROMAN_MORE.match(text, end)):
            end = more.end()  # "5Bi–iii"
        if letters:
            return letters, end, attached["run"][0].isupper(), False
    if named := _PANEL_WORD.match(text, pos):
        return _named(text, named, declared)
    if marked := _ATTACHED_BY_MARK.match(text, pos):
        match = _LETTERS.match(text, marked.end())
        alone = match is not None and text_after(text, match.end()) == "close"
        if not match or not alone or (marked[0] in ".:" and text[match.end() : match.end() + 1] == "."):
            return None
        return [match["run"].upper()], match.end(), match["run"].isupper(), False
    if attached:
        return None
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


def _named(text: str, named: re.Match[str], declared: frozenset[str]) -> tuple[list[str], int, bool, bool] | None:
    """Read the letters after "panel", "part" and the like; "part I" and "panel II" are no letters."""
    open_ = "(" in named[0] or text[named.end()] in "(["
    match = _LETTERS.match(text, named.end() + (text[named.end()] in "(["))
    letters = _letters_of(match, declared) if match else []
    if not match or not letters or (letters[0] in "IVX" and letters[0] not in declared):
        return None
    if named["word"].lower() not in ("panel", "panels") and text_after(text, match.end()) not in AFTER_CLOSES:
        return None
    return _closed(text, letters, match, open_)


def _bracketed(
    text: str, opened: re.Match[str], declared: frozenset[str], in_caption: bool
) -> tuple[list[str], int, bool, bool] | None:
    match = _LETTERS.match(text, opened.end())
    letters = _letters_of(match, declared) if match and len(match["run"]) == 1 else []
    if not match or not letters or _STAIN.match(text, match.start()):
        return None
    after = text[match.end() : match.end() + 1]
    if after not in (")", "]") and not _JOIN.match(text, match.end()):
        return None
    if after not in (")", "]") and text_after(text, match.end()) in ("operator", "dash-word"):
        return None
    if after in (")", "]") and opened["gap"]:
        word_follows = re.match(r"\s+\w", text[match.end() + 1 : match.end() + 4]) is not None
        if (in_caption and word_follows) or ("," in opened["gap"] and text_after(text, match.end() + 1) != "close"):
            return None
    return _closed(text, letters, match, True)


def _closed(text: str, letters: list[str], match: re.Match[str], open_: bool) -> tuple[list[str], int, bool, bool]:
    closes = open_ and text[match.end() : match.end() + 1] in (")", "]")
    return letters, match.end() + closes, match["run"][0].isupper(), open_ and not closes


def _stands_alone(text: str, match: re.Match[str], declared: frozenset[str], after_comma: bool) -> bool:
    """Whether a letter after a space, or after a comma without a panel before it, is a panel."""
    letters = _letters_of(match, declared)
    if len(match["run"]) != 1 or not letters or _STAIN.match(text, match.start()):
        return False
    follows = text_after(text, match.end())
    if follows in ("operator", "dash-word"):
        return False
    known, upper = letters[0][0] in declared, match["run"].isupper()
    listed = _listed(text, match)
    if not listed and _PAIR.match(text, match.end()):
        return False  # "A-P axis", "A/B testing"
    if (match["mark"] or "").isdigit() and not (known and follows == "close" and not after_comma):
        return False
    if after_comma:
        if _ENUMERATES.match(text, match.end()):
            return False
        ends = text[match.end() : match.end() + 1] in (")", "]") or (known and follows == "close")
        return (ends or listed) and (known or (not declared and letters[0] < ("M" if upper else "I")))
    if not upper:
        bare = match["run"] in _CONJUNCTIONS - {"a"} and not known
        told = follows == "close" or (listed and follows == "function") or _VERB.match(text, match.end()) is not None
        return not bare and told
    if declared and not known:
        return listed
    if follows in AFTER_CLOSES or listed:
        return follows == "close" or listed or match["run"] != "I"
    return bool(_DETERMINER.match(text, match.end())) or (
        known and match["run"] not in _ENGLISH_WORDS and not _LETTER_NOUN.match(text, match.end())
    )


def _listed(text: str, match: re.Match[str]) -> bool:
    """Whether another letter is listed after the one that `match` holds, and stands for no thing of its own."""
    join = _JOIN.match(text, match.end())
    other = _LETTERS.match(text, join.end()) if join else None
    if not other or len(other["run"]) > 1 or other["run"].isupper() != match["run"].isupper():
        return False
    follows = text_after(text, other.end())
    return follows in AFTER_CLOSES or (
        follows == "word"
        and not _LETTER_NOUN.match(text, other.end())
        and (other["run"].isupper() or other["run"] not in _CONJUNCTIONS)
    )


def _next_letters(
    text: str, pos: int, last: str, upper: bool, bracket: bool, declared: frozenset[str]
) -> tuple[list[str], int, bool] | None:
    """Return (letters, end, bracket still open?) of what a connector adds, None where the list ends."""
    if bracket and text[pos : pos + 1] in (")", "]"):
        return [], pos + 1, False
    if last[1:].isdigit() and (numbered := _NUMBERED_ON.match(text, pos)):
        return between(last, f"{last[0]}{numbered['last']}"), numbered.end(), bracket
    loose = None if bracket else _LOOSE.match(text, pos)
    join = loose or _BRACKETS_MEET.match(text, pos) or _JOIN.match(text, pos)
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
    if not opened and not bracket and not loose and not _goes_on(text, match, join, last, declared):
        return None
    end = match.end() + opened
    if join["range"] is not None:
        reached = between(last, letters[0])
        letters = reached + letters[1:] if reached else []
    return (letters, end, bracket) if letters else None


def _goes_on(text: str, match: re.Match[str], join: re.Match[str], last: str, declared: frozenset[str]) -> bool:
    """Whether a letter after a connector is the next panel rather than a word or a name of its own."""
    follows, run = text_after(text, match.end()), match["run"]
    letter, upper, tight = run[0].upper(), run[0].isupper(), not re.search(r"\s", join[0])
    if follows == "operator" or _STAIN.match(text, match.start()):
        return False
    if follows == "dash-word" and not re.match(r"[-–—]\s?[A-Za-z](?![^\W_])", text[match.end() : match.end() + 4]):
        return False
    sure = letter in declared and follows == "close" and not _COUNT_OR_GENE.match(text, match.end())
    if (match["mark"] or "").isdigit() and not last[1:].isdigit() and not sure:
        return False  # "D2 receptors"
    listing = (join["list"] or "").strip()
    if listing == ";":
        return follows == "close" and (tight or letter in declared)
    if not tight and declared and letter > chr(ord(max(declared)[0]) + 2) and ord(letter) - ord(last[0]) > 3:
        return False
    if tight and join["range"] is not None:
        return True
    if not tight and _LETTER_NOUN.match(text, match.end()):
        return False
    if follows != "word":
        alone = run in _ENGLISH_WORDS or run in _CONJUNCTIONS
        return not (follows == "function" and alone and letter not in declared)
    if join["range"] is not None and len(join["range"].strip()) == 1:
        return not declared or letter in declared
    if (run in _CONJUNCTIONS) or (run in _ENGLISH_WORDS and run not in declared):
        return False
    if listing in (",", "/", "&", "+"):
        follows_on = ord(letter) - ord(last[0]) == 1 and letter in declared
        return tight or (not upper and follows_on)  # "2A,B cells" lists panels, "2A, B cells" names cells
    return not declared or letter in declared


def _letters_of(match: re.Match[str], declared: frozenset[str]) -> list[str]:
    """Return the panels that a run of letters names: one, one with a Roman part, or several that rise ("ABC")."""
    run, mark = match["run"], match["mark"] or ""
    if mark and not mark.isdigit():
        mark = _PRIMES[min(sum(2 if c in "″ʺ" else 1 for c in mark), 3)]
    if len(run) == 1:
        return [run.upper() + mark] if not (run in "Ss" and mark.isdigit()) else []  # "S3" is a number
    if _ROMAN_TAIL.fullmatch(run[1:]) and run[0] not in "ivx":
        return [run[0].upper()]
    rises = all(a < b for a, b in itertools.pairwise(run))
    letters = list(run.upper())
    if rises and set(letters) <= declared and (run.isupper() or run.islower()):
        return letters
    if run[0].isupper() and (run[1:] in ("I", "V", "X") or (len(run) == 2 and run[1] in "abcdefgh")):
        return [run[0]]
    close = ord(letters[-1]) - ord(letters[0]) < 12
    return letters if rises and close and len(run) <= 4 and (run.isupper() or (run.islower() and not declared)) else []
