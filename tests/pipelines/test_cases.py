"""Cases: a patient's story part by part, and a diagnosis that is asked for only where it is not given away."""

from dataclasses import replace
from typing import Any

from tests.pipelines.papers import figure, mention, paper, paragraph

from medloom.connectors.case_reports import mark_sections
from medloom.pipelines.tasks.cases import WORDINGS, CaseQuestions, Cases
from medloom.pipelines.unit import UnitView
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Example, Part

STORY = (
    "A 40-year-old man presented with cough. CT showed a round mass (Fig. 1). Resection was advised. "
    "The biopsy was read (Fig. 2), and a diagnosis of sarcoidosis was made. He was discharged."
)
FIGURES = (figure("f1", "CT of the chest."), figure("f2", "The biopsy."))


def case(
    *texts: str, titles: tuple[str, ...] = ("Case presentation",), is_case_report: bool = True, **more: Any
) -> UnitView:
    sections = [{"sec_id": f"s{i}", "path": [t], "title": t, "role": "", "patient": 0} for i, t in enumerate(titles)]
    mark_sections(sections)
    told = tuple({**paragraph(f"p{i}", text), "sec_id": f"s{i}"} for i, text in enumerate(texts))
    mentions = tuple(
        mention(par, f"Fig. {n}", f"f{n}") for par in told for n in (1, 2) if f"Fig. {n}" in par["text"]
    )  # fmt: skip
    view = paper(figures=FIGURES, paragraphs=told, mentions=mentions, **more)
    return replace(view, sections=tuple(sections), article={**view.article, "is_case_report": is_case_report})


def made(task: Cases | CaseQuestions, unit: UnitView) -> tuple[list[Example], list[Refusal]]:
    rows = list(task.examples(unit, "fingerprint", None))
    return [r for r in rows if isinstance(r, Example)], [r for r in rows if isinstance(r, Refusal)]


def test_a_story_is_told_part_by_part_with_each_figure_before_the_part_that_cites_it():
    (row,), refused = made(Cases(), case(STORY))
    assert refused == []
    assert row.turns[0].role == "document"
    assert row.turns[0].parts == (
        Part(text="History: A 40-year-old man presented with cough.\n"),
        Part(media="pmc1-1-f1"),
        Part(text="Findings: CT showed a round mass (Fig. 1). Resection was advised.\n"),
        Part(media="pmc1-1-f2"),
        Part(text="Diagnosis: The biopsy was read (Fig. 2), and a diagnosis of sarcoidosis was made.\n"),
        Part(text="Follow-up: He was discharged.\n"),
    )
    assert row.labels == ("history", "findings", "diagnosis", "follow-up")
    assert all(STORY[e.start : e.end] == e.text for e in row.evidence)
    assert "".join(e.text for e in row.evidence) == STORY


def test_every_patient_has_a_row_and_the_discussion_none():
    unit = case(
        "A man presented with pain (Fig. 1).", "A woman presented with fever.", "Pain is common.",
        titles=("Case 1", "Case 2", "Discussion"),
    )  # fmt: skip
    rows, _ = made(Cases(), unit)
    assert [row.measured for row in rows] == [{"patient": 1.0, "media": 1.0}, {"patient": 2.0, "media": 0.0}]
    assert "common" not in str(rows)
    assert len({row.example_id for row in rows}) == 2


def test_figures_beyond_the_limit_are_refused_as_rows():
    (row,), (refused,) = made(Cases(max_media=1), case(STORY))
    assert row.media == ("pmc1-1-f1",)
    assert (refused.key, refused.reason) == ("pmc1-1-f2", "case.max_media")


def test_the_diagnosis_is_asked_for_with_what_came_before_it():
    (row,), refused = made(CaseQuestions(), case(STORY))
    assert refused == []
    user, assistant = row.turns
    assert [part.media for part in user.parts if part.media] == ["pmc1-1-f1"]  # the second is cited with the answer
    assert user.parts[-1].text.startswith("A 40-year-old man presented with cough. CT showed a round mass (Fig. 1).")
    assert user.parts[-1].text.partition("\n")[2] in WORDINGS
    assert "sarcoidosis" not in user.parts[-1].text
    assert "discharged" not in user.parts[-1].text
    assert assistant.parts == (Part(text="sarcoidosis"),)
    (evidence,) = row.evidence
    assert STORY[evidence.start : evidence.end] == evidence.text
    assert "sarcoidosis" in evidence.text


def test_a_diagnosis_that_the_text_before_it_gives_away_is_refused():
    told = STORY.replace("presented with cough", "with known sarcoidosis presented with cough")
    rows, (refused,) = made(CaseQuestions(), case(told))
    assert (rows, refused.reason) == ([], "case.leak")


def test_a_diagnosis_that_was_not_made_is_no_answer():
    for words in ("a differential diagnosis of sarcoidosis was made", "no diagnosis of sarcoidosis was made"):
        rows, (refused,) = made(CaseQuestions(), case(STORY.replace("a diagnosis of sarcoidosis was made", words)))
        assert (rows, refused.reason) == ([], "case.no_diagnosis")


def test_a_question_needs_a_figure_that_was_kept():
    rows, (refused,) = made(CaseQuestions(), case(STORY, refused=("pmc1-1-f1", "pmc1-1-f2")))
    assert (rows, refused.reason) == ([], "case.no_figure")


def test_what_is_no_case_report_gives_nothing():
    for task in (Cases(), CaseQuestions()):
        assert made(task, case(STORY, is_case_report=False)) == ([], [])
    assert made(CaseQuestions(), case(STORY, lang="pt")) == ([], [])
