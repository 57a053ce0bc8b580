from dataclasses import replace

from tests.pipelines.papers import figure, mention, paper, paragraph

from medloom.pipelines.tasks.stated_questions import StatedQuestions
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Evidence

FIGURES = (figure("f1", "One."), figure("f2", "Two."), figure("f3", "Three."))


def made(*paragraphs, mentions=(), refused=()):
    unit = paper(figures=FIGURES, paragraphs=paragraphs, mentions=mentions, refused=refused)
    return list(StatedQuestions().examples(unit, "print", None))


def in_section(par: dict, name: str) -> dict:
    return par | {"sec_id": name}


def test_a_question_that_cites_kept_figures_is_an_example_word_for_word():
    asked = paragraph("p1", "What does Figure 1 show?", where="question")
    more = paragraph("p2", "And Figure 2?", where="question")
    first, second = paragraph("p3", "A mass.", where="answer"), paragraph("p4", "It grew.", where="answer")
    (row,) = made(
        paragraph("p0", "Text."), asked, more, first, second,
        mentions=(mention(asked, "Figure 1", "f1"), mention(more, "Figure 2", "f2")),
    )  # fmt: skip
    user, assistant = row.turns
    assert [part.media or part.text for part in user.parts] == [
        "pmc1-1-f1", "pmc1-1-f2", "What does Figure 1 show?\nAnd Figure 2?",
    ]  # fmt: skip
    assert assistant.parts[0].text == "A mass.\nIt grew."
    assert row.evidence == (Evidence("paragraph:p3", 0, 7, "A mass."), Evidence("paragraph:p4", 0, 8, "It grew."))


def test_questions_end_with_their_answer_or_their_section():
    asked = [paragraph(f"p{i}", f"Figure {i}?", where="question") for i in (1, 2, 3)]
    answers = [paragraph(f"a{i}", f"Answer {i}.", where="answer") for i in (1, 2)]
    cites = tuple(mention(par, f"Figure {i}", f"f{i}") for i, par in enumerate(asked, 1))
    rows = made(asked[0], answers[0], asked[1], answers[1], mentions=cites)
    assert [[t.parts[-1].text for t in row.turns] for row in rows] == [
        ["Figure 1?", "Answer 1."], ["Figure 2?", "Answer 2."],
    ]  # fmt: skip
    apart = made(in_section(asked[0], "a"), in_section(asked[1], "b"), in_section(answers[1], "b"), mentions=cites)
    lost, kept = apart
    assert isinstance(lost, Refusal)
    assert lost.reason == "question.no_answer"
    assert kept.turns[0].parts[-1].text == "Figure 2?"


def test_what_cannot_be_an_example_is_refused_as_a_row():
    asked = paragraph("p1", "What of Figure 1 and Figure 2?", where="question")
    answer = paragraph("p2", "A mass.", where="answer")
    cites = (mention(asked, "Figure 1", "f1"), mention(asked, "Figure 2", "f2"))
    for paragraphs, mentions, refused, reason in (
        ((asked, answer), (), (), "question.no_figure"),
        ((asked, answer), (mention(asked, "Figure 1", "f1", status="unresolved"),), (), "question.no_figure"),
        ((asked, answer), cites, ("pmc1-1-f2",), "question.figure_missing"),
        ((asked,), cites, (), "question.no_answer"),
        ((asked, paragraph("p2", "", where="answer")), cites, (), "question.no_answer"),
    ):
        (row,) = made(*paragraphs, mentions=mentions, refused=refused)
        assert isinstance(row, Refusal)
        assert row.reason == reason
    assert made(paragraph("p1", "Is Figure 1 seen?"), mentions=()) == []
    assert made(answer) == []


def test_ids_do_not_change_with_what_stands_behind():
    asked = paragraph("p1", "Figure 1?", where="question")
    answer, more = paragraph("p2", "Yes.", where="answer"), paragraph("p3", "Figure 2?", where="question")
    cites = (mention(asked, "Figure 1", "f1"), mention(more, "Figure 2", "f2"))
    (alone,) = made(asked, answer, mentions=cites[:1])
    first, *_ = made(asked, answer, more, paragraph("p4", "No.", where="answer"), mentions=cites)
    assert first.example_id == alone.example_id
    assert replace(first) == alone
