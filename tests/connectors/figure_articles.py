"""Small articles with labelled figures, to read mentions in: `[rid|text]` stands for a figure cross-reference."""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from medloom.connectors.jats import parse_article

PANELS = "(A) a. (B) b. (C) c. (D) d. (E) e. (F) f."
LABELS = {f"f{n}": f"Figure {n}" for n in range(1, 11)} | {
    "s1": "Figure 1—figure supplement 1.", "s2": "Figure 1—figure supplement 2.", "s3": "Figure 1—figure supplement 3.",
    "c78": "Figuras 17 e 18", "sch1": "Scheme 1", "sch2": "Scheme 2", "ari": "Author response image 1.",
    "img": "Imagem 4", "pl3": "Plate III", "pl4": "Plate IV", "ap2": "Appendix 1—figure 2.",
    "ap3": "Appendix 1—figure 3.", "fa1": "Figure A1", "fb2": "Figure B.2", "fb3": "Figure B.3",
    "ed3": "Extended Data Fig. 3", "ed4": "Extended Data Figure 4", "ev1": "Figure EV1.", "ev2": "Figure EV2.",
    "fs9": "Figure S9", "gr1": "Gráfico 1", "gr2": "Gráfico 2",
}  # fmt: skip


def mentions(
    text: str, where: str = "p", panels: str = PANELS, labels: Mapping[str, str] = LABELS
) -> list[dict[str, Any]]:
    """Return the rows of `mention` of an article whose one paragraph (or caption) is `text`."""

    def xref(match: re.Match[str]) -> str:
        kind = "supplementary-material" if match[1].startswith("sup") else "fig"
        return f'<xref ref-type="{kind}" rid="{match[1]}">{match[2]}</xref>'

    inner = re.sub(r"\[([a-z][\w ]*)\|(.*?)\]", xref, escape(text, quote=False))
    figures = "".join(
        f'<fig id="{i}"><label>{label}</label><caption><p>{panels}</p></caption></fig>' for i, label in labels.items()
    )
    if where == "caption":
        inner = f'<fig id="host"><label>Figure 30</label><caption><p>{inner}</p></caption></fig>'
    else:
        inner = f"<p>{inner}</p>"
    rows = parse_article(f"<article><front/><body>{inner}{figures}</body></article>".encode(), source="a")
    return [m for m in rows["mention"] if where == "p" or m["where"] == "caption"]


def told(found: list[dict[str, Any]]) -> list[tuple[str, dict[str, str]]]:
    """What mentions say: (text, panels by figure's id)."""
    return [(m["text"], {k.rpartition("/")[2]: "".join(m["panels"].get(k, [])) for k in m["fig_keys"]}) for m in found]


def figures_in(text: str, **article: Any) -> str:
    """What all mentions of `text` say together: "f1:AB f2", sorted, "-" for none."""
    pairs = {
        f"{figure}:{letters}".rstrip(":")
        for _, meant in told(mentions(text, **article))
        for figure, letters in meant.items()
    }
    return " ".join(sorted(pairs)) or "-"


def cases(table: str) -> list[tuple[str, str]]:
    """Return (text, expected) of each line "text => expected" of `table`."""
    lines = [line.strip() for line in table.strip().splitlines()]
    return [
        (text, " ".join(sorted(expected.split()))) for text, _, expected in (line.partition(" => ") for line in lines)
    ]
