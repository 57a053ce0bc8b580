"""PMC-OA: a line per picture with its caption, and one per sub-figure whose box and sub-caption are known."""

import posixpath
from collections.abc import Iterator
from typing import Any

from medloom.pipelines.exports.papers import Paper, PaperPicture
from medloom.pipelines.exports.writing import Writing
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.panel_captions import PanelCaptions
from medloom.pipelines.unit import UnitView

SERVICE = "https://pmc-oa-opendata.s3.amazonaws.com"  # the PMC Cloud Service; the addresses of the web site are refused


def export(to: Writing) -> None:
    """PMC-OA: `pmc_oa.jsonl`, a line per captioned picture, with the pictures; sub-figures as boxes with sub-captions.

    - `pmc_oa.jsonl`: `PMC_ID`, `media_id` (the figure's id in the article), `caption`, `media_url` (the object of the
      PMC Cloud Service that the article's version, and the name of the file that was read, make; "" without a PMCID;
      nobody asked whether it is there), `media_name` (the file in `images/`), then ours: `label`, `licence`,
      `terms_id`.
    - `subfigures.jsonl`, where the release has live panel captions: `PMC_ID`, `media_id`, `media_name`, `letter`, `box`
      (y0, x0, y1, x1, half-open pixels of the whole figure, which is never cut), `confidence` (of the box), `caption`
      (what the figure's caption says of that panel).
    - `images/PMCID_figid.jpg`: the pictures as stored. A PNG stays one and is called `.png`: no pixel is changed.

    A caption leaves when its own `caption` example is live.
    """
    for paper in to.papers():
        captioned = {key: row for row in paper.examples if row["task"] == Captions.task for key in row["media"] or ()}
        for key, picture in paper.pictures.items():
            if key not in captioned or not (picture.figure["caption"] or "").strip():
                continue
            row = captioned[key]
            to.article(paper)
            to.example(row)
            name = to.picture(paper, picture)
            own = {"PMC_ID": paper.name, "media_id": picture.id}
            to.line("pmc_oa.jsonl", {
                **own, "caption": picture.figure["caption"], "media_url": _url(paper, picture, to), "media_name": name,
                "label": picture.figure["label"], "licence": row["licence"], "terms_id": row["terms_id"],
            })  # fmt: skip
        for row in paper.examples:
            if row["task"] == PanelCaptions.task:
                _sub_figures(paper, row, to)


def _url(paper: Paper, picture: PaperPicture, to: Writing) -> str:
    article = paper.view.article
    if not article["pmcid"]:
        return ""
    medium = next(m for m in picture.figure["media"] if m["key"] == picture.key)
    name = posixpath.basename(to.facts(paper, picture)["fetched_object"]) or posixpath.basename(medium["href"])
    return f"{SERVICE}/{article['pmcid']}.{article['version'] or 1}/{name}"


def _sub_figures(paper: Paper, row: dict[str, Any], to: Writing) -> None:
    to.article(paper)
    to.example(row)
    for shown in sub_figures(row, paper.view):
        picture = paper.pictures[shown.pop("key")]
        name = to.picture(paper, picture)
        to.line("subfigures.jsonl", {"PMC_ID": paper.name, "media_id": picture.id, "media_name": name, **shown})


def sub_figures(row: dict[str, Any], view: UnitView) -> Iterator[dict[str, Any]]:
    """Give each box that a panel caption shows, with its letter and the words; letters may share their words."""
    words = "".join(part["text"] for turn in row["turns"] if turn["role"] == "assistant" for part in turn["parts"])
    for part in (part for turn in row["turns"] for part in turn["parts"] if part["media"]):
        box = tuple(part["box"] or ())
        panel = next((p for p in view.media[part["media"]].panels if p.box == box and p.letter), None)
        if panel:
            yield {
                "key": part["media"], "letter": panel.letter, "box": list(box), "confidence": panel.confidence,
                "caption": words,
            }  # fmt: skip
