"""PMC-CaseReport: questions and answers about the pictures of case reports, with the text before them."""

from typing import Any

from medloom.pipelines.exports.papers import Paper, PaperText
from medloom.pipelines.exports.writing import Writing
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.cases import CaseQuestions
from medloom.pipelines.tasks.panel_captions import PanelCaptions
from medloom.schemas.errors import Refused

CAPTIONS = (Captions.task, PanelCaptions.task)  # a request for a caption is no question
_EMPTY = PaperText("", (), (), 0, 0)


def export(to: Writing) -> None:
    """PMC-CaseReport: a CSV per split with PMC_id, img_ref, context, question, answer and inline, and the pictures.

    - `case_report_SPLIT.csv`: a row per live question about pictures of a case report. `img_ref` is a Python list of
      ids; `context` the paper's live text before the first sentence that cites one of them, all of it where none does;
      `inline` that sentence. Context and inline are "" where the release has no live window of interleaved text; a
      question for the diagnosis has its own context, which ends before the diagnosis, and no inline.
    - `images/PMCID_figid.jpg`: always called .jpg, since the loader makes the name out of the id; a picture stored as
      PNG is a PNG inside, unchanged, which decoders go by.

    A field that begins with `=`, `+`, `-`, `@`, tab or return has an apostrophe before it, so that no spreadsheet runs
    it; a field that begins with apostrophes and one of these has one more. `medloom import` takes it away again.
    Captions are no questions, and articles that no rule calls a case report are kept back.
    """
    for paper in to.papers():
        asked = [row for row in paper.examples if _asks(row)]
        if not paper.view.article["is_case_report"]:
            to.back("articles", "form.no_case_report")
            to.back("examples", "form.no_case_report", len(paper.examples))
            continue
        if not asked:
            continue
        text = _text(paper)
        to.article(paper)
        for row in asked:
            pictures = [paper.pictures[key] for key in row["media"]]
            for picture in pictures:
                to.picture(paper, picture, always_jpg=True)
            to.example(row)
            said = columns(row, [picture.id for picture in pictures], text)
            to.row(f"case_report_{paper.view.split}.csv", {"PMC_id": paper.name, **said})


def columns(row: dict[str, Any], ids: list[str], text: PaperText) -> dict[str, str]:
    """Return what the CSV says of a question, but for its article; `ids` are those of its pictures."""
    context, inline = _before(text, set(ids))
    question, answer = (_said(turn) for turn in row["turns"])
    if row["task"] == CaseQuestions.task:  # it brings its own: what the case says before the diagnosis
        (context, _, question), inline = question.rpartition("\n"), ""
    return {"img_ref": repr(ids), "context": context, "question": question, "answer": answer, "inline": inline}


def _asks(row: dict[str, Any]) -> bool:
    roles = [turn["role"] for turn in row["turns"]]
    return bool(row["media"]) and roles == ["user", "assistant"] and row["task"] not in CAPTIONS


def _said(turn: dict[str, Any]) -> str:
    return "\n".join(part["text"] for part in turn["parts"] if part["text"])


def _text(paper: Paper) -> PaperText:
    try:
        return paper.text if any(paper.windows.values()) else _EMPTY
    except Refused:
        return _EMPTY


def _before(text: PaperText, ids: set[str]) -> tuple[str, str]:
    """Return the text before the first sentence that cites one of `ids`, and that sentence."""
    first = next((r.start for r in text.references if r.id in ids), -1)
    for start, end in text.sentences:
        if start <= first < end:
            return text.text[:start], text.text[start:end].rstrip()
    return text.text, ""
