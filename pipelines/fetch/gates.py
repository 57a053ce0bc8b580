"""Gates: what must hold before an article's text or a figure's bytes are fetched: open access, not retracted, a licence
of the tiers asked for, and no figure that is shown by somebody else's permission.

Tiers say what a licence takes away: "open" nothing (CC0, BY, BY-SA), "nc" commercial use, "nd" derivatives (a cropped
panel is one), "other" redistribution itself. BY-NC-ND passes only where both "nc" and "nd" are asked for.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from medloom.connectors.licences import code_terms, strictest
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.origin import TERMS

OPEN, NC, ND, OTHER = "open", "nc", "nd", "other"
TIERS = (OPEN, NC, ND, OTHER)
DEFAULT_TIERS = (OPEN,)


def tiers_of(terms_id: str) -> frozenset[str]:
    """Return the tiers that a row of `TERMS` needs; all of them must be asked for."""
    terms = TERMS[terms_id]
    if not terms.redistribution:
        return frozenset({OTHER})
    taken_away = {NC: not terms.commercial, ND: not terms.derivatives}
    return frozenset(tier for tier, is_taken in taken_away.items() if is_taken) or frozenset({OPEN})


def check_tiers(tiers: Iterable[str]) -> None:
    """Hold the tiers that a user asked for against those that there are.

    Raises:
        ConfigError: one of them is unknown, or none is named.
    """
    asked = tuple(tiers)
    unknown = sorted(set(asked) - set(TIERS))
    if unknown or not asked:
        named = ", ".join(map(repr, unknown)) or "nothing"
        raise ConfigError(f"tiers={','.join(asked)} names {named}; known are {', '.join(TIERS)}, separated by commas")


def must_be_fetchable(
    *, is_open_access: bool, is_retracted: bool, licence_code: str | None, tiers: Iterable[str]
) -> None:
    """Hold what a service's record says of an article against the gates, before its text is fetched.

    A record with no licence code, or one that we do not know, passes: the article itself may state its licence, and
    `must_be_readable` decides then.

    Raises:
        Refused("article.not_open_access"), Refused("article.retracted")
        Refused("terms.tier"): the licence is of no tier asked for.
    """
    if not is_open_access:
        raise Refused("article.not_open_access", "its record says that it is not in the open access subset")
    if is_retracted:
        raise Refused("article.retracted", "its record says that it is retracted")
    if licence_code and code_terms(licence_code) != "unknown":
        must_be_of(code_terms(licence_code), tiers, f"licence {licence_code[:40]!r} of its record")


def must_be_readable(article: Mapping[str, Any], *, licence_code: str | None, tiers: Iterable[str]) -> str:
    """Hold an article as parsed against the gates, before its media are fetched; return the terms that hold for it.

    Where the record and the article state different licences, the stricter holds; one that states none says nothing.

    Args:
        article: row of the table "article".
        licence_code: what the service's record says, None when it says nothing.

    Raises:
        Refused("article.retracted"): its own front says so, by title or link.
        Refused("terms.tier"): the licence is of no tier asked for.
    """
    if article["is_retracted"]:
        raise Refused("article.retracted", "its own front matter says that it is retracted or withdrawn")
    terms_id = stated_terms(article, licence_code=licence_code)
    must_be_of(terms_id, tiers, "licence of the article and its record")
    return terms_id


def stated_terms(article: Mapping[str, Any], *, licence_code: str | None) -> str:
    """Return the terms of an article by its own statement and its record's; the stricter, where they differ."""
    stated = {article["terms_id"], code_terms(licence_code or "")} - {"unknown"}
    return strictest(stated) if stated else "unknown"


def must_be_shown_freely(figure: Mapping[str, Any], *, terms_id: str, tiers: Iterable[str]) -> None:
    """Hold one figure against the gates, before its media are fetched: its own terms override the article's.

    Args:
        figure: row of the table "figure".
        terms_id: what holds for the article.

    Raises:
        Refused("terms.third_party"): it is reproduced by permission of somebody else.
        Refused("terms.tier"): it has a licence of its own, of no tier asked for.
    """
    own = figure["terms_id"] or terms_id
    if TERMS[own].llm_egress == "none":
        raise Refused("terms.third_party", f"figure {figure['label'] or figure['xml_id']} is reproduced by permission")
    must_be_of(own, tiers, f"licence of figure {figure['label'] or figure['xml_id']}")


def must_be_of(terms_id: str, tiers: Iterable[str], what: str) -> None:
    """Refuse terms that are of no tier asked for.

    Raises:
        Refused("terms.tier"): with the terms, and the tiers that would let them pass.
    """
    asked, needed = frozenset(tiers), tiers_of(terms_id)
    if not needed <= asked:
        needs = ",".join(t for t in TIERS if t in needed | (asked & frozenset(TIERS)))
        raise Refused("terms.tier", f"{what}: {terms_id}, which tiers={needs} would let pass")
