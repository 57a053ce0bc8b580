import math

import numpy as np
import pytest

from medloom.model.scores import Answered, majority, options_of, ratio, resampled, summary, words_of
from medloom.schemas.example import Example, Part, Turn


def example(question: str, answer: str, role: str = "assistant") -> Example:
    turns = Turn("user", (Part(media="m"), Part(text=question))), Turn(role, (Part(text=answer),))
    return Example("e", "u", "g", "test", "t", "en", "r", "s", "l", "cc-by", turns)


def test_a_closed_question_offers_lettered_lines_and_repeats_one():
    assert options_of(example("Which?\nA. axial\nB. coronal", "B. coronal")) == (("A. axial", "B. coronal"), 1)
    assert options_of(example("Which?\nA) yes\nB) no\nC) A. maybe", "A) yes")) == (
        ("A) yes", "B) no", "C) A. maybe"),
        0,
    )


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which plane?", "Axial."),
        ("Which?\nA. axial\nB. coronal", "axial"),
        ("Which?\nA. axial", "A. axial"),
        ("Grade A. and B. of it?", "A."),
    ],
)
def test_other_questions_are_open(question, answer):
    assert options_of(example(question, answer)) == ((), -1)


def test_documents_are_not_questions():
    assert options_of(example("A. x\nB. y", "A. x", role="document")) == ((), -1)


def test_the_majority_is_counted_in_words_since_letters_are_dealt():
    assert words_of("B. axial") == "axial"
    offered = [("axial", "coronal"), ("coronal", "axial"), ("coronal", "axial"), ("sagittal", "coronal")]
    assert majority(["axial", "axial", "coronal", "sagittal"], offered) == [True, True, False, True]


def test_an_interval_over_independent_rows_is_that_of_the_binomial():
    n, p = 400, 0.3
    right = (np.arange(n) < p * n).astype(float)
    found = ratio(right, np.ones(n), np.arange(n))
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    assert found["value"] == pytest.approx(p)
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.15)


def test_an_interval_is_wider_when_rows_of_a_group_go_together():
    right = np.repeat(np.arange(20) % 2, 20).astype(float)
    alone = ratio(right, np.ones(400), np.arange(400))
    together = ratio(right, np.ones(400), np.repeat(np.arange(20), 20))
    assert together["value"] == alone["value"] == 0.5
    assert together["high"] - together["low"] == pytest.approx((alone["high"] - alone["low"]) * math.sqrt(20), rel=0.25)


def test_both_ways_of_resampling_agree():
    random = np.random.default_rng(5)
    values, groups = random.random(90), np.repeat(np.arange(30), 3)
    one, other = ratio(values, np.ones(90), groups), resampled(lambda at: float(values[at].mean()), groups)
    assert other["value"] == pytest.approx(one["value"])
    assert other["low"] == pytest.approx(one["low"], abs=0.02)
    assert other["high"] == pytest.approx(one["high"], abs=0.02)


def row(i: int, **changes) -> Answered:
    return Answered(**{"example_id": f"e{i}", "task": "t", "group": f"g{i}", "nll": 4.0, "text_bytes": 2, **changes})


def test_a_summary_keeps_closed_and_open_apart():
    pytest.importorskip("sacrebleu")
    closed = [row(i, options=4, correct=i < 3, blind_correct=i < 1, majority_correct=i < 2) for i in range(4)]
    texts = [row(i, answer="a large mass is seen", said="a large mass is seen") for i in range(4, 6)]
    found = summary([*closed, *texts, row(7, nll=10.0, cut=3)])
    assert found["nll_per_byte"]["value"] == pytest.approx(34 / 14)
    assert (found["examples"], found["groups"], found["truncated"]) == (7, 7, 1)
    assert found["closed"]["questions"] == 4
    assert found["closed"]["accuracy"]["value"] == 0.75
    assert found["closed"]["blind_accuracy"]["value"] == 0.25
    assert found["closed"]["blind_gap"]["value"] == 0.5
    assert (found["closed"]["majority"], found["closed"]["chance"]) == (0.5, 0.25)
    assert found["open"]["answers"] == 2
    assert found["open"]["bleu"]["value"] == pytest.approx(100)
    assert found["open"]["chrf"]["value"] == pytest.approx(100)
