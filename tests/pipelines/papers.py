"""Small papers and scans as tasks see them, written by hand."""

from dataclasses import replace
from typing import Any

from medloom.connectors.sentences import sentence_spans
from medloom.pipelines.unit import MediumView, UnitView


def medium(key: str, **facts: Any) -> MediumView:
    shown = {"layout": "jpg", "modality": "figure", "body_part": "", "plane": "", "shape": (8, 8, 3)}
    return MediumView(key=key, **(shown | {"spacing_mm": (), "terms_id": "cc-by"} | facts))


def figure(name: str, caption: str, *, unit: str = "pmc1-1", media: tuple[str, ...] = ("",), **facts: Any) -> dict:
    keys = [f"{unit}-{name}{suffix}" for suffix in media]
    return {
        "article_key": unit, "fig_key": f"{unit}-{name}", "xml_id": name, "scope_id": "", "order": 0,
        "label": f"Figure {name[1:]}.", "numbers": [name[1:]], "group_id": "", "parent_fig": "", "caption_title": "",
        "caption_paras": [caption], "caption": caption, "panels": [], "licence_override": "", "terms_id": "",
        "kind": "fig", "media": [{"href": key, "key": key, "md5": "", "role": "figure"} for key in keys],
    } | facts  # fmt: skip


def panels(caption: str, *starts: tuple[str, str]) -> list[dict]:
    """Panels of `caption`: (letter, the words with which its part begins), each up to the next."""
    at = [caption.index(words) for _, words in starts]
    ends = [*at[1:], len(caption)]
    return [
        {"letter": letter, "start": start, "end": end, "text": caption[start:end]}
        for (letter, _), start, end in zip(starts, at, ends, strict=True)
    ]


def paragraph(name: str, text: str, *, where: str = "body", scope: str = "") -> dict:
    return {
        "article_key": "pmc1-1", "par_id": name, "sec_id": "s1", "scope_id": scope, "where": where, "order": 0,
        "text": text,
    }  # fmt: skip


def mention(par: dict, words: str, *fig_keys: str, status: str = "resolved", **letters: list[str]) -> dict:
    """The first place of `words` in a paragraph, citing `fig_keys`, with the panels of each in `letters` (f1=["A"])."""
    start = par["text"].index(words)
    sentence = next((s, e) for s, e in sentence_spans(par["text"]) if s <= start < e)
    return {
        "article_key": "pmc1-1", "par_id": par["par_id"], "start": start, "end": start + len(words), "text": words,
        "sent_start": sentence[0], "sent_end": sentence[1], "fig_keys": [f"pmc1-1-{k}" for k in fig_keys],
        "panels": {f"pmc1-1-{k}": v for k, v in letters.items()}, "qualifier": "", "method": "rid", "confidence": 1.0,
        "where": par["where"], "status": status,
    }  # fmt: skip


def paper(*, figures: tuple[dict, ...] = (), paragraphs: tuple[dict, ...] = (), mentions: tuple[dict, ...] = (),
          refused: tuple[str, ...] = (), lang: str = "en", terms_id: str = "cc-by") -> UnitView:  # fmt: skip
    """A paper whose figures' media were all kept but `refused`."""
    keys = [m["key"] for f in figures for m in f["media"]]
    return UnitView(
        unit="pmc1-1", source="papers", group="pmc1", split="train", licence="CC BY 4.0", terms_id=terms_id,
        article={"article_key": "pmc1-1", "lang": lang}, paragraphs=paragraphs, figures=figures, mentions=mentions,
        media={key: medium(key) for key in keys if key not in refused},
    )  # fmt: skip


def scan(*media: MediumView, text: str = "", unit: str = "ct-abc", **series: Any) -> UnitView:
    facts = {"unit": unit, "modality": "", "plane": "", "text": text} | series
    return UnitView(
        unit=unit, source="scans", group="patient", split="test", licence="private", terms_id="private", series=facts,
        media={m.key: replace(m, terms_id="private") for m in media},
    )  # fmt: skip
