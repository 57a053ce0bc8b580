"""The forms over real articles: every span exact, and the same text and spans after they were read again."""

import json
import os
from pathlib import Path

import pytest
from tests.pipelines.papers import medium

from medloom.connectors.jats import parse_article
from medloom.pipelines.exports.anchors import Anchors
from medloom.pipelines.exports.papers import Paper, PaperPicture, PaperText
from medloom.pipelines.import_ import import_
from medloom.pipelines.tasks.interleaved import PARAGRAPH_END, Interleaved
from medloom.pipelines.unit import UnitView
from medloom.schemas.errors import Refusal
from medloom.schemas.shard import ShardName

CORPUS = os.environ.get("MEDLOOM_TEST_CORPUS", "")
pytestmark = pytest.mark.skipif(
    not Path(CORPUS, "pmc/xml").is_dir() or not CORPUS, reason="needs MEDLOOM_TEST_CORPUS, the folder of checking data"
)


def view_of(path: Path) -> UnitView:
    """What a task sees of an article all of whose figures were kept."""
    tables = parse_article(path.read_bytes(), source=path.name)
    article = tables["article"][0]
    keys = [m["key"] for f in tables["figure"] for m in f["media"] if m["role"] == "figure"]
    return UnitView(
        unit=article["article_key"], source="papers", group="g", split="train", licence="", terms_id="cc-by",
        article=article, sections=tuple(tables["section"]), paragraphs=tuple(tables["paragraph"]),
        figures=tuple(tables["figure"]), mentions=tuple(tables["mention"]), media={key: medium(key) for key in keys},
    )  # fmt: skip


def paper_of(view: UnitView, *, ids: dict[str, str] | None = None) -> Paper:
    """The article with all its windows live; `ids` name pictures by their key, else their place does."""
    made = [row for row in Interleaved().examples(view, "print", None) if not isinstance(row, Refusal)]
    figures = {m["key"]: figure for figure in view.figures for m in figure["media"]}
    pictures = {
        key: PaperPicture((ids or {}).get(key) or f"g{place}", figures[key], {"key": key}, {})
        for place, key in enumerate(view.media)
    }
    return Paper(ShardName("train", 0), view, pictures, [], {row.example_id: True for row in made}, "print")


def spans(text: PaperText) -> list[tuple[str, int, int]]:
    return [(r.id, r.start, r.end) for r in text.references]


def test_real_papers_leave_and_come_back_with_every_span(tmp_path):
    (tmp_path / "in").mkdir()
    before: dict[str, PaperText] = {}
    n_spans = 0
    for number, path in enumerate(sorted(Path(CORPUS, "pmc/xml").glob("*.xml"))):
        view = view_of(path)
        if not (text := paper_of(view).text).text:
            continue
        n_spans += len(text.references)
        words = {p["text"][m["start"] : m["end"]] for m in view.mentions for p in view.paragraphs
                 if p["par_id"] == m["par_id"]}  # fmt: skip
        assert all(text.text[r.start : r.end] in words for r in text.references)
        assert "".join(text.text[start:end] for start, end in text.sentences) == text.text
        body = [p["text"] for p in view.paragraphs if p["where"] == "body" and p["text"]]
        assert text.text == PARAGRAPH_END.join(body).rstrip()
        before[f"PMC{number + 1}"] = text
        references = [{"id": r.id, "start": r.start, "end": r.end} for r in text.references]
        paper = {"info": {"pmc": str(number + 1)}, "text": text.text, "img_ref": references}
        (tmp_path / f"in/PMC{number + 1}.json").write_text(json.dumps(paper))
    counts = import_("pmc_inline", str(tmp_path / "in"), str(tmp_path / "to"))["counts"]
    assert counts["article"]["made"] == len(before) > 80
    assert counts["reference"] == {"in": n_spans, "made": n_spans, "refused": {}}
    same_text = same_spans = 0
    for name, text in before.items():
        view = view_of(tmp_path / f"to/papers/{name}.xml")
        ids = {m["key"]: f["xml_id"] for f in view.figures for m in f["media"]}
        again = paper_of(view, ids=ids).text
        same_text += again.text == text.text
        same_spans += len(set(spans(text)) & set(spans(again)))
    print(f"{len(before)} papers, {n_spans} spans; back come {same_text} of the texts and {same_spans} of the spans")
    assert same_text == len(before)
    assert same_spans >= 0.998 * n_spans


def test_every_text_of_a_real_paper_is_spans_and_comes_back():
    literal = said = 0
    for path in sorted(Path(CORPUS, "pmc/xml").glob("*.xml")):
        view = view_of(path)
        anchors = Anchors.of(view)
        for row in Interleaved(captions=True).examples(view, "print", None):
            for part in () if isinstance(row, Refusal) else row.turns[0].parts:
                if part.text:
                    pieces = anchors.pieces(part.text)
                    assert anchors.text(pieces) == part.text
                    literal += sum(len(piece.get("text", "").strip()) for piece in pieces)
                    said += len(part.text)
    print(f"{literal} of {said} characters stand in no article's text")
    assert literal < 0.01 * said
