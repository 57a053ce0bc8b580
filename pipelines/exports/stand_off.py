"""Stand-off: examples without a word or a pixel of their articles, for whoever has copies of these."""

import posixpath
from typing import Any

from medloom.pipelines.exports.anchors import RUN_WORDS, Anchors
from medloom.pipelines.exports.papers import Paper
from medloom.pipelines.exports.writing import MEDIA, Writing

UNBOUND = True  # it holds neither text nor pixels, so that terms keep nothing back


def export(to: Writing) -> None:
    """Stand-off: every live example of a paper as offsets into the article's text and digests of its pictures.

    - `examples.jsonl`: the example's row, in which each text is a list of `pieces`: `{"where", "start", "end",
      "sha256"}` for what stands in the article (half-open characters of a paragraph `paragraph:ID` or a caption
      `caption:FIGURE` as MedLoom's parser numbers them, with 16 hex digits of the sha256 of the words), `{"text"}` for
      what does not: wordings of ours, blank lines, fewer than three words in a row. A medium is its key and box. A
      label of three words or more is pieces too, lower-cased where `lower` says so.
    - `articles.jsonl`: PMCID, version, DOI, licence, whom to name, and the sha256 of the XML that was read.
    - `media.jsonl`: of each picture the figure's id and reference, the name and sha256 of the file that was read, the
      sha256 of its decoded pixels, sides, and the boxes of its panels.

    `medloom import stand_off THIS --source FOLDER --to DIR` fills texts and pictures in from a folder of the articles
    and their figure files, and holds every piece against its digest. Since nothing of the articles is in it, terms that
    forbid redistribution keep nothing back; withheld and withdrawn examples, and what a model wrote about an article
    that permits no derivatives, stay.
    """
    for paper in to.papers():
        anchors = Anchors.of(paper.view)
        for row in paper.examples:
            to.article(paper)
            to.example(row)
            to.line("examples.jsonl", _without_words(row, anchors))
        for key in dict.fromkeys(key for row in paper.examples for key in row["media"] or ()):
            _medium(paper, key, to)


def _without_words(row: dict[str, Any], anchors: Anchors) -> dict[str, Any]:
    turns = [{"role": turn["role"], "parts": [_part(part, anchors) for part in turn["parts"]]} for turn in row["turns"]]
    evidence = [_evidence(said, anchors) for said in row["evidence"] or ()]
    regions = [{**region, "phrase": anchors.pieces(region["phrase"] or "")} for region in row["regions"] or ()]
    labels = [_label(label, anchors) for label in row["labels"] or ()]
    return {**row, "turns": turns, "evidence": evidence, "regions": regions, "labels": labels}


def _label(label: str, anchors: Anchors) -> str | dict[str, Any]:
    """Return a label as it is, or as pieces where it has words of the article; `lower` says that it is lower-cased."""
    if len(label.split()) < RUN_WORDS:
        return label
    for where, text in anchors.texts.items():
        at = text.lower().find(label)
        if at >= 0 and text[at : at + len(label)].lower() == label:
            return {"pieces": [anchors.span(where, at, at + len(label))], "lower": True}
    return {"pieces": anchors.pieces(label), "lower": False}


def _part(part: dict[str, Any], anchors: Anchors) -> dict[str, Any]:
    if part["media"]:
        return {"media": part["media"], "box": list(part["box"] or ())}
    return {"pieces": anchors.pieces(part["text"])}


def _evidence(said: dict[str, Any], anchors: Anchors) -> dict[str, Any]:
    where, start, end = said["where"], said["start"], said["end"]
    exact = anchors.texts.get(where, "")[start:end] == said["text"]
    pieces = [anchors.span(where, start, end)] if exact else anchors.pieces(said["text"] or "")
    return {"where": where, "start": start, "end": end, "pieces": pieces}


def _medium(paper: Paper, key: str, to: Writing) -> None:
    picture, facts = paper.pictures[key], to.facts(paper, paper.pictures[key])
    to.medium(key)
    href = next((m["href"] for m in picture.figure["media"] if m["key"] == key), "")
    to.line(MEDIA, {
        "key": key, "unit": paper.view.unit, "article": paper.name, "id": picture.id, "href": href,
        "name": posixpath.basename(facts["fetched_object"]), "source_sha256": facts["digest"],
        "pixels_sha256": facts["pixel_digest"], "format": picture.row["layout"], "height": facts["height"],
        "width": facts["width"], "terms_id": facts["terms_id"], "licence": facts["licence"],
        "attribution": facts["attribution"],
        "panels": [
            {"letter": p.letter, "box": list(p.box), "confidence": p.confidence} for p in paper.view.media[key].panels
        ],
    })  # fmt: skip
