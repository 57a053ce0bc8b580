"""The tasks over real articles: runs where MEDLOOM_TEST_CORPUS names the folder that holds `pmc/xml`."""

import os
from pathlib import Path

import pytest
from tests.pipelines.papers import medium

from medloom.connectors.jats import parse_article
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.interleaved import PARAGRAPH_END, Interleaved
from medloom.pipelines.tasks.text_questions import TextQuestions
from medloom.pipelines.unit import UnitView
from medloom.schemas.ask import Answer, Request
from medloom.schemas.example import Example

CORPUS = os.environ.get("MEDLOOM_TEST_CORPUS", "")
ARTICLES = sorted(Path(CORPUS, "pmc", "xml").glob("*.xml")) if CORPUS else []

pytestmark = pytest.mark.skipif(
    not ARTICLES, reason="needs MEDLOOM_TEST_CORPUS: it does not name the folder of real articles"
)


class Reader:
    """An `Ask` that asks the same grounded question and answers with the whole sentence it is given."""

    model, digest, egress = "reader", "0" * 64, "local"

    def __call__(self, request: Request) -> Answer:
        sentence = request.prompt.removeprefix("Sentence: ").split("\n", 1)[0]
        if request.schema and "question" in request.schema["properties"]:
            return Answer('{"question": "What can be seen in this image?"}', 1, 1, remembered=False)
        return Answer(
            f'{{"answer": "{"".join(c for c in sentence if c.isalnum() or c == " ")}"}}', 1, 1, remembered=False
        )


def _views() -> list[UnitView]:
    views = []
    for file in ARTICLES:
        rows = parse_article(file.read_bytes(), source=file.name)
        article = rows["article"][0]
        keys = [m["key"] for figure in rows["figure"] for m in figure["media"] if m["key"]]
        views.append(
            UnitView(
                unit=article["article_key"], source="pmc", group=article["article_key"], split="train",
                licence=article["licence_code"], terms_id=article["terms_id"], article=article,
                paragraphs=tuple(rows["paragraph"]), figures=tuple(rows["figure"]), mentions=tuple(rows["mention"]),
                media={key: medium(key) for key in keys},
            )
        )  # fmt: skip
    return views


def test_windows_of_real_papers_give_back_their_bodies_and_ids_are_unique():
    ids: list[str] = []
    for view in _views():
        rows = [r for r in Interleaved().examples(view, "f", None) if isinstance(r, Example)]
        told = "".join(p.text for r in rows for t in r.turns for p in t.parts)
        assert told == "".join(p["text"] + PARAGRAPH_END for p in view.paragraphs if p["where"] == "body" and p["text"])
        placed = [key for r in rows for key in r.media]
        assert len(set(placed)) == len(placed)
        ids += [r.example_id for r in rows]
    assert len(set(ids)) == len(ids) > 100


def test_evidence_in_real_papers_is_the_exact_span_it_names():
    n_evidence = 0
    for view in _views():
        sources = {f"caption:{f['fig_key']}": f["caption"] for f in view.figures}
        sources |= {f"paragraph:{p['par_id']}": p["text"] for p in view.paragraphs}
        rows = [*Captions().examples(view, "f", None)]
        rows += TextQuestions(per_unit=9, round_trip_f1=0.0).examples(view, "f", Reader())
        made = [r for r in rows if isinstance(r, Example)]
        assert len({r.example_id for r in made}) == len(made)
        for row in made:
            for evidence in row.evidence:
                assert sources[evidence.where][evidence.start : evidence.end] == evidence.text
                n_evidence += 1
    assert n_evidence > 300
