"""PMC-Inline as published with RadFM: a JSON per paper with its text and the spans that mean a picture."""

import json
from typing import Any

from medloom.pipelines.exports.papers import Paper, PaperPicture, PaperText
from medloom.pipelines.exports.writing import Writing
from medloom.pipelines.tasks.interleaved import Interleaved
from medloom.schemas.errors import Refused


def export(to: Writing) -> None:
    """PMC-Inline as published: `{"info", "text", "img_ref": [{"id", "start", "end"}]}` per paper, and its pictures.

    - `papers/PMCID.json`: `info` holds `article-type`, `pmid`, `pmc` (digits) and `doi`. `text[start:end]` are the
      words that mean the picture `id`, in characters; a mention of several pictures has an entry for each.
    - `images/PMCID_figid.jpg`: the pictures as stored. A PNG stays one and is called `.png`: no pixel is changed.

    The text is that of the windows of interleaved text that are live: body paragraphs, each ended by a blank line,
    without titles, captions, tables, references and authors. Pictures that no sentence means are kept back.
    """
    for paper in to.papers():
        text = live_text(paper, to)
        if text is None:
            continue
        ids = paper.view.article
        info = {
            "article-type": ids["article_type"], "pmid": ids["pmid"], "pmc": ids["pmcid"].removeprefix("PMC"),
            "doi": ids["doi"],
        }  # fmt: skip
        references = [{"id": r.id, "start": r.start, "end": r.end} for r in text.references]
        write_paper(paper, to, {"info": info, "text": text.text, "img_ref": references})
        for picture in meant(paper, text):
            to.picture(paper, picture)


def live_text(paper: Paper, to: Writing) -> PaperText | None:
    """Return the text of a paper, counting the windows it is made of; None, counted, where it has none."""
    if not any(paper.windows.values()):
        to.back("articles", "text.no_live_window")
        return None
    try:
        text = paper.text
    except Refused as refused:
        to.back("articles", refused.reason)
        return None
    to.noted["mentions without a picture that may leave"] += text.unshown
    to.article(paper)
    for row in paper.examples:
        if row["task"] == Interleaved.task:
            to.example(row)
    return text


def meant(paper: Paper, text: PaperText) -> list[PaperPicture]:
    """Return the pictures that a text refers to, in the order of the paper's figures."""
    ids = {r.id for r in text.references}
    return [picture for picture in paper.pictures.values() if picture.id in ids]


def write_paper(paper: Paper, to: Writing, value: Any) -> None:
    """Write the JSON file of a paper."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    to.store.write(f"papers/{paper.name}.json", text.encode("utf-8", "replace") + b"\n")
