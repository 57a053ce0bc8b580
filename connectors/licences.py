"""Licence evidence → terms: what an article or one of its figures may be used for, and where that is stated.

Evidence is read strongest first: `ali:license_ref`, `license/@xlink:href`, links in the licence's text,
`@license-type`, the text itself. Waivers that cover only the data (CC0 inside a CC BY article) are no evidence.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# From the most to the least restrictive: where evidence disagrees, the first of those found holds.
_STRICTEST = (
    "reproduced-with-permission", "unknown", "tdm", "cc-by-nc-nd", "cc-by-nc-sa", "cc-by-nc", "cc-by-nd", "cc-by-sa",
    "cc-by", "cc0-1.0", "public-domain",
)  # fmt: skip
_FAMILY = {"cc0-1.0": "free", "public-domain": "free"}  # two names for the same permissions: no disagreement
_CODES = {
    "cc-by": "CC-BY", "cc-by-sa": "CC-BY-SA", "cc-by-nd": "CC-BY-ND", "cc-by-nc": "CC-BY-NC",
    "cc-by-nc-sa": "CC-BY-NC-SA", "cc-by-nc-nd": "CC-BY-NC-ND", "cc0-1.0": "CC0-1.0", "public-domain": "public-domain",
    "tdm": "TDM",
}  # fmt: skip
_URL = re.compile(
    r"creativecommons\.org/(?:licen[cs]es/(?P<code>by(?:-(?:nc|nd|sa))*)|publicdomain/(?P<pd>zero|mark))"
    r"(?:/(?P<version>\d\.\d))?",
    re.IGNORECASE,
)
_SHORT = re.compile(r"\bCC[ -]?(?P<code>BY(?:[ -](?:NC|ND|SA))*|0|Zero)\b(?:[ -]?(?P<version>\d\.\d))?", re.IGNORECASE)
_TYPE = re.compile(r"^cc-?(?P<code>by(?:-?(?:nc|nd|sa))*|0|zero)-?(?:licen[cs]e)?$", re.IGNORECASE)
_CREATIVE = re.compile(
    r"creative\s+commons\W{0,4}(?:licen\w+\s+)?(?P<what>attribution|atribui\w+|atribuci\w+|cc0|zero|public domain)",
    re.IGNORECASE,
)
_NC = re.compile(r"non[\s-]*commercial|n[ãa]o[\s-]*comercial|no[\s-]*comercial|\bby[\s-]nc\b", re.IGNORECASE)
_ND = re.compile(r"no[\s-]*(?:deriv|modification)|sem[\s-]*deriva|sin[\s-]*deriva|\bnc-nd\b|\bby-nd\b", re.IGNORECASE)
_SA = re.compile(r"share[\s-]*alike|compartil?h?\w*\s*igual|\bnc-sa\b|\bby-sa\b", re.IGNORECASE)
# Each flag with stems of which one stands in all that its pattern finds.
_FLAGS = (
    ("nc", ("comercial", "commercial", "by-nc", "by nc"), _NC),
    ("nd", ("deriv", "modification", "-nd"), _ND),
    ("sa", ("alike", "igual", "-sa"), _SA),
)
_PUBLIC = re.compile(
    r"public domain (?:declaration|mark)|lies? in the public domain|is in the public domain|free of known copyright",
    re.IGNORECASE,
)
_FREE = re.compile(r"free of all copyright|creative commons (?:cc0|zero)", re.IGNORECASE)
_DATA_WAIVER = re.compile(r"\bdata\b[^.]{0,80}(?:made available|contained|in this article)|waiver", re.IGNORECASE)
_VERSION = re.compile(r"(?:attribution|atribui\w+|atribuci\w+|licen\w+)\D{0,40}?(\d\.\d)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[a-z)\]/])\.\s+(?=[A-Z])")

# One of these stems stands in everything that the two patterns below find; looking for it first is 20 times faster.
_STEMS = (
    "permission",
    "adapt",
    "modif",
    "repro",
    "reprint",
    "republ",
    "redraw",
    "courtesy",
    "©",
    "copyright",
    "creative",
)
_THIRD_PARTY = re.compile(
    r"\b(?:re)?(?:produced|printed|published|used|drawn|adapted|modified|taken|shown)\s+(?:here\s+)?"
    r"(?:,\s*)?(?:with|by)\s+(?:the\s+)?(?:kind\s+|written\s+)?permission"
    r"|\bwith\s+(?:the\s+)?(?:kind\s+)?permission\s+(?:from|of)\s+[^.,;]{0,60}(?:press|publishers?|publishing|elsevier|springer|wiley|ref)\b"
    r"|\b(?:adapted|modified|reproduced|reprinted|republished|redrawn|adaptad[oa]|modificad[oa]|reproduzid[oa])"
    r"(?:\s+and\s+\w+)?\s+(?:from|after|de|do|da)\b"
    r"|\bcourtesy\s*(?:of\b|:)"
    r"|©|\bcopyright\s*(?:\(c\)|by\b|held\b|owned\b|of\b|(?:19|20)\d\d)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Evidence:
    """One statement about a licence.

    Attributes:
        where: "license_ref", "license_href", "license_link", "license_type" or "license_text".
        terms_id: row of `medloom.schemas.origin.TERMS`.
        code: the licence in SPDX's words, with its version where stated ("CC-BY-4.0", "CC-BY").
        url: the address that states it, "" when words do.
    """

    where: str
    terms_id: str
    code: str
    url: str = ""


@dataclass(frozen=True)
class Licence:
    """What the evidence adds up to; `conflict` says that statements disagree, and then the strictest holds."""

    code: str
    url: str
    text: str
    evidence: str
    conflict: bool
    terms_id: str


def read_licence(
    *, refs: Sequence[str] = (), hrefs: Sequence[str] = (), links: Sequence[str] = (), types: Sequence[str] = (),
    text: str = "",
) -> Licence:  # fmt: skip
    """Return what a `permissions` element adds up to; terms "unknown" when nothing in it is known.

    Args:
        refs: texts of `ali:license_ref`.
        hrefs: `license/@xlink:href`.
        links: addresses of `ext-link` in `license-p`.
        types: `@license-type` and `license_ref/@content-type`.
        text: the text of the licence, white space collapsed.
    """
    words = words_evidence(text)
    found = [*_from_urls("license_ref", refs), *_from_urls("license_href", hrefs)]
    # A link to CC0 beside one to CC BY is the data waiver of the article's text.
    linked = _from_urls("license_link", links)
    found += [e for e in linked if e.terms_id != "cc0-1.0" or not (found or words) or _FREE.search(text)]
    found += [e for e in map(_from_type, types) if e]
    found += words
    if not found:
        return Licence("", "", text, "", False, "unknown")
    conflict = len({_FAMILY.get(e.terms_id, e.terms_id) for e in found}) > 1
    holds = min(found, key=lambda e: _STRICTEST.index(e.terms_id)) if conflict else found[0]
    versioned = next((e.code for e in found if e.terms_id == holds.terms_id and e.code[-1:].isdigit()), holds.code)
    url = next((e.url for e in found if e.terms_id == holds.terms_id and e.url), "")
    return Licence(versioned, url, text, holds.where, conflict, holds.terms_id)


def words_evidence(text: str) -> list[Evidence]:
    """Return what free text states, at most one statement; sentences about a waiver for data are passed over."""
    kept = [s for s in _SENTENCE_END.split(text) if not _DATA_WAIVER.search(s)] or [""]
    text = ". ".join(kept)
    url = _URL.search(text)
    if url:
        return [_evidence("license_text", _terms_of(url), url["version"])]
    if _FREE.search(text):
        return [_evidence("license_text", "cc0-1.0", None)]
    if _PUBLIC.search(text):
        return [_evidence("license_text", "public-domain", None)]
    creative, short = _CREATIVE.search(text), _SHORT.search(text)
    if not creative and not short:
        return []
    if creative and not creative["what"].lower().startswith("a"):
        return [_evidence("license_text", "public-domain" if "domain" in creative["what"].lower() else "cc0-1.0", None)]
    if short and short["code"].lower() in ("0", "zero"):
        return [_evidence("license_text", "cc0-1.0", None)]
    lowered = text.lower()
    flags = [flag for flag, stems, pattern in _FLAGS if any(map(lowered.__contains__, stems)) and pattern.search(text)]
    version = _VERSION.search(text)
    stated = short["version"] if short else None
    return [_evidence("license_text", _cc("by", flags), version[1] if version else stated)]


def code_terms(code: str) -> str:
    """Return the terms that a service's licence code stands for ("CC BY-NC-ND", "cc0", "TDM"), else "unknown"."""
    code = code.strip()
    if code.lower() == "tdm":
        return "tdm"
    match = _SHORT.fullmatch(code)
    if not match:
        return "public-domain" if code.lower().replace("-", " ") in ("public domain", "pd") else "unknown"
    stated = match["code"].lower()
    return "cc0-1.0" if stated in ("0", "zero") else _cc("by", re.split("[ -]", stated)[1:])


def strictest(terms_ids: Iterable[str]) -> str:
    """Return the terms that permit least among those that an article may have."""
    return min(terms_ids, key=_STRICTEST.index)


def figure_terms(permissions: str, caption: str) -> tuple[str, str]:
    """Return (statement, terms_id) of a figure's own terms; ("", "") when the article's hold for it.

    A Creative Commons licence named for the figure is its terms; other permissions of its own, and words such as
    "reproduced with permission", "adapted from" or "© 2020 Elsevier", make it "reproduced-with-permission".

    Args:
        permissions: text of the figure's own `permissions`, with the addresses in it.
        caption: caption and attribution, white space collapsed.
    """
    lowered = caption.lower()
    if not permissions and not any(map(lowered.__contains__, _STEMS)):
        return "", ""
    stated = _first_sentence_with(_THIRD_PARTY, caption)
    for statement in (permissions, stated, _first_sentence_with(_CREATIVE, caption)):
        words = words_evidence(statement)
        if words:
            return statement, words[0].terms_id
    statement = permissions or stated
    return (statement, "reproduced-with-permission") if statement else ("", "")


def _from_urls(where: str, urls: Sequence[str]) -> list[Evidence]:
    matches = [(url, _URL.search(url)) for url in urls]
    return [_evidence(where, _terms_of(m), m["version"], url.strip()) for url, m in matches if m]


def _from_type(stated: str) -> Evidence | None:
    match = _TYPE.match(stated.strip())
    if match:
        code = match["code"].lower()
        flags = [flag for flag in ("nc", "nd", "sa") if flag in code[2:]]
        return _evidence("license_type", "cc0-1.0" if code in ("0", "zero") else _cc("by", flags), None)
    return _evidence("license_type", "public-domain", None) if stated.strip() == "public-domain" else None


def _terms_of(url: re.Match[str]) -> str:
    if url["pd"]:
        return "cc0-1.0" if url["pd"].lower() == "zero" else "public-domain"
    return _cc("by", url["code"].lower().split("-")[1:])


def _cc(base: str, flags: Sequence[str]) -> str:
    ordered = [flag for flag in ("nc", "nd", "sa") if flag in flags]
    if "nd" in ordered and "sa" in ordered:  # no such licence; the stricter flag holds
        ordered.remove("sa")
    return "-".join(["cc", base, *ordered])


def _evidence(where: str, terms_id: str, version: str | None, url: str = "") -> Evidence:
    code = _CODES[terms_id]
    return Evidence(where, terms_id, f"{code}-{version}" if version and code.startswith("CC-BY") else code, url)


def _first_sentence_with(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    if not match:
        return ""
    start = max((m.end() for m in _SENTENCE_END.finditer(text, 0, match.start())), default=0)
    # Two sentences: the licence often follows the permission ("… Copyright 2020, Wiley", "… under CC BY 4.0").
    ends = [m.start() + 1 for m in _SENTENCE_END.finditer(text, match.end())][:2]
    return text[start : ends[-1] if len(ends) == 2 else len(text)]
