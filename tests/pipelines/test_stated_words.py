"""What a public source says of a scan becomes its caption, and questions with the region that they mean."""

from dataclasses import replace

from tests.pipelines.masks import abdomen

from medloom.pipelines.tables.stated_words import StatedWords, stated_words
from medloom.pipelines.tasks.stated_questions import StatedQuestions
from medloom.schemas.errors import Refusal
from medloom.schemas.tables import TABLES

LEFT = {"name": "kidney", "side": "left"}
ENTRY = {
    "terms_id": "cc-by", "text": "A large liver.", "questions": [
        {"question": "What is large?", "answer": "The liver is."},
        {"question": "Mark the left one.", "answer": "Here is the left kidney.", "mask": LEFT},
        {"question": "Where is the bladder?", "answer": "Below.", "mask": {"name": "urinary bladder", "side": ""}},
        {"question": " ", "answer": "x"}, {"question": "x"}, "x", {"question": 1, "answer": 2},
    ],
}  # fmt: skip


def test_words_are_rows_of_questions_and_answers():
    words = stated_words(ENTRY)
    assert words.text == "A large liver."
    assert [meant for _, _, meant in words.questions] == ["", "left kidney", "urinary bladder"]
    rows = words.paragraphs("ct-abc")
    assert [set(row) for row in rows] == [set(TABLES["paragraph"].names)] * 6
    assert [(row["where"], row["order"]) for row in rows[:2]] == [("question", 0), ("answer", 1)]
    assert len({row["par_id"] for row in rows}) == 6


def test_what_has_another_form_says_nothing():
    for entry in ({}, {"text": 7, "questions": "x"}, {"questions": None}):
        assert stated_words(entry) == StatedWords()


def test_questions_stated_beside_a_scan_are_rows_with_their_region():
    unit = replace(abdomen(), paragraphs=tuple(stated_words(ENTRY).paragraphs("ct-abc")))
    plain, masked, missing = StatedQuestions().examples(unit, "print", None)
    assert [turn.parts[-1].text for turn in plain.turns] == ["What is large?", "The liver is."]
    assert (plain.media, plain.regions) == (("ct-abc",), ())
    (region,) = masked.regions
    assert (region.name, region.side, region.phrase) == ("kidney", "left", "left kidney")
    assert region.box == next(r.box for r in unit.media["ct-abc"].regions if r.label.side == "left")
    assert isinstance(missing, Refusal)
    assert missing.reason == "question.mask_missing"  # labelled, and not there


def test_a_question_about_a_scan_that_was_not_kept_is_refused():
    unit = replace(abdomen(), paragraphs=tuple(stated_words(ENTRY).paragraphs("ct-abc")), media={})
    assert [r.reason for r in StatedQuestions().examples(unit, "print", None)] == ["question.figure_missing"] * 3
