"""Parsing in the guarded child, by a function whose module imports nothing that the child does not need."""

from typing import Any

from medloom.connectors import jats
from medloom.connectors.guard import Guard, GuardBug
from medloom.schemas.errors import BugError, Refused

TIMEOUT_S = 120.0
Row = dict[str, Any]


def parse_guarded(guard: Guard, data: bytes, name: str) -> tuple[Row, list[Row]]:
    """Return an article's row of "article" and its rows of "figure".

    Raises:
        Refused: as `jats.parse_article` does, or because the parser crashed or hung.
        BugError: the parser failed in a way that is no refusal.
    """
    if len(data) > jats.MAX_BYTES:
        raise Refused("jats.large", f"{len(data)} bytes, the limit is {jats.MAX_BYTES}")
    try:
        return guard.call(article_and_figures, data, name, timeout_s=TIMEOUT_S)
    except GuardBug as fault:
        raise BugError(f"reading {name} failed: {str(fault).strip().splitlines()[-1]}") from None


def article_and_figures(data: bytes, name: str) -> tuple[Row, list[Row]]:
    """Return the two tables' rows; called in the guarded child."""
    tables = jats.parse_article(data, source=name)
    return tables["article"][0], tables["figure"]
