"""Words that narrow a mention within its figure or panel: "left", "middle row", "panel II", "inset"."""

import re

_PLACE = (
    r"(?:left|right|top|bottom|upper|lower|middle|cent(?:er|re|ral)|inner|outer|far[\s-](?:left|right)|first|second|third|"
    r"fourth|last|1st|2nd|3rd|\dth|esquerd[ao]|direit[ao]|izquierd[ao]|derech[ao]|superior|inferior)"
)
_THING = (
    r"(?:panels?|rows?|columns?|graphs?|images?|plots?|insets?|halves|half|sides?|traces?|parts?|curves?|lanes?|bars?|"
    r"diagrams?|schematics?|blots?|gels?|maps?|histograms?|charts?|hand\s+\w+)"
)
_PLACES = rf"{_PLACE}(?:(?:[\s-]+|\s*(?:,|/|&)\s*|\s+and\s+){_PLACE})*"
_AFTER = re.compile(
    rf"[\s,;:–—]*[(\[]?\s*(?P<words>"
    rf"(?P<placed>{_PLACES}(?P<thing>[\s-]+{_THING})?)"
    rf"|(?:panels?|parts?|rows?|columns?|lanes?|class(?:es)?)\s+(?:[IVX]+|\d+|[ivx]+)(?:\s*(?:,|–|-|and|&)\s*(?:[IVX]+|\d+|[ivx]+))*"
    r"|insets?)(?![\w-])",
)
_ENDS = re.compile(r"\s*(?:$|[),;.:\]]|and\b)")
# What links words before a mention to it, and how far before it they may begin.
LINKS = (
    "of",
    "in",
    "from",
    "to",
    "on",
    "the",
    "within",
    "de",
    "del",
    "la",
    "da",
    "do",
    "na",
    "em",
    "en",
    "der",
    "von",
    ",",
)
BEFORE_REACH = 44
_BEFORE = re.compile(
    rf"(?<![\w-])(?P<words>{_PLACES}[\s-]+{_THING}|insets?|(?<=\bthe\s)(?P<side>top|bottom|left|right))"
    r"\s*(?:\s(?:of|in|from|to|on)(?:\s+the)?|(?P<comma>,))\s*$",
    re.IGNORECASE,
)


def qualifier_after(text: str, pos: int) -> str:
    """Return the words after a mention that narrow it ("left", "middle row", "panel II"), "" when there are none."""
    match = _AFTER.match(text, pos)
    if not match:
        return ""
    if match["placed"] and not match["thing"] and not _ENDS.match(text, match.end()):
        return ""
    return match["words"].strip()


def qualifier_before(before: str) -> str:
    """Return the words at the end of `before`, the text before a mention, that narrow it ("upper panel of"), or ""."""
    match = _BEFORE.search(before)
    if not match or (match["comma"] and (match["side"] or before[: match.start()].rstrip()[-1:] not in ("(", ""))):
        return ""
    return match["words"].lower()
