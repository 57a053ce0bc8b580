"""Scores of a model's answers, and how sure they are: intervals by resampling groups, since examples of one patient
or article are not independent.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medloom.schemas.example import Example

RESAMPLES, RESAMPLES_OF_TEXT, SEED = 1000, 200, 0
_OPTION = re.compile(r"^([A-Z])[.)] (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Answered:
    """What the model did with one example; a row of rows.parquet.

    Attributes:
        nll, text_bytes: summed negative log-likelihood in nats of the answer's bytes, and how many there are.
        options: how many a closed question offers, 0 for others.
        answer: the right option or the reference text, "" for documents.
        correct, blind_correct, majority_correct: of a closed question: whether the likeliest option is right, with and
            without its media, and whether the option that is right most often in this split is.
        said: greedy answer to an open question, None where none was generated.
        cut: bytes and media that did not fit.
    """

    example_id: str
    task: str
    group: str
    nll: float
    text_bytes: int
    options: int = 0
    answer: str = ""
    correct: bool = False
    blind_correct: bool = False
    majority_correct: bool = False
    said: str | None = None
    cut: int = 0


def options_of(example: Example) -> tuple[tuple[str, ...], int]:
    """Return what a closed question offers ("A. axial", …) and which is right, ((), -1) for any other example.

    Closed are those whose last turn is an assistant's and repeats one of at least two lettered lines of the question.
    """
    if len(example.turns) < 2 or example.turns[-1].role != "assistant":
        return (), -1
    question = "\n".join(part.text for part in example.turns[-2].parts if part.text)
    offered = tuple(match.group(0).strip() for match in _OPTION.finditer(question))
    said = answer_of(example)
    return (offered, offered.index(said)) if len(offered) > 1 and said in offered else ((), -1)


def answer_of(example: Example) -> str:
    """Return what the assistant's last turn says, "" for a document."""
    last = example.turns[-1]
    return "\n".join(part.text for part in last.parts if part.text).strip() if last.role == "assistant" else ""


def words_of(option: str) -> str:
    """Return an option without its letter: letters are dealt anew for each question."""
    return _OPTION.sub(r"\2", option)


def majority(answers: Sequence[str], offered: Sequence[Sequence[str]]) -> list[bool]:
    """Return whether each question is answered by whichever of its options is right most often over all questions.

    That is the best that knowing the answers' frequencies can do, so a model must beat it to have looked.
    """
    often = Counter(answers)
    return [
        max(options, key=lambda option: (often[option], option)) == answer
        for answer, options in zip(answers, offered, strict=True)
    ]


def summary(rows: Sequence[Answered]) -> dict[str, Any]:
    """Return the scores of one task's rows: each with the bounds of its 95 % interval."""
    groups = _numbered([row.group for row in rows])
    nll, size = np.array([row.nll for row in rows]), np.array([row.text_bytes for row in rows])
    found: dict[str, Any] = {
        "examples": len(rows),
        "groups": int(groups.max()) + 1,
        "truncated": sum(row.cut > 0 for row in rows),
        "nll_per_byte": ratio(nll, size, groups) if size.sum() else None,
    }
    closed = [row for row in rows if row.options]
    if closed:
        found["closed"] = _closed(closed)
    texts = [row for row in rows if row.said is not None]
    if texts:
        found["open"] = _open(texts)
    return found


def _closed(rows: Sequence[Answered]) -> dict[str, Any]:
    groups, one = _numbered([row.group for row in rows]), np.ones(len(rows))
    right, blind, often = (
        np.array([getattr(row, name) for row in rows], float)
        for name in ("correct", "blind_correct", "majority_correct")
    )
    return {
        "questions": len(rows),
        "accuracy": ratio(right, one, groups),
        "blind_accuracy": ratio(blind, one, groups),
        "blind_gap": ratio(right - blind, one, groups),
        "majority": float(often.mean()),
        "chance": float(np.mean([1 / row.options for row in rows])),
    }


def _open(rows: Sequence[Answered]) -> dict[str, Any]:
    from sacrebleu.metrics import BLEU, CHRF

    groups = _numbered([row.group for row in rows])
    said, answers = [row.said or "" for row in rows], [row.answer for row in rows]

    def score(metric: Any) -> Callable[[np.ndarray], float]:
        return lambda at: float(metric.corpus_score([said[i] for i in at], [[answers[i] for i in at]]).score)

    # effective_order: answers of fewer than four words would make every BLEU 0
    metrics = {"bleu": BLEU(effective_order=True), "chrf": CHRF()}
    return {"answers": len(rows), **{name: resampled(score(metric), groups) for name, metric in metrics.items()}}


def ratio(above: np.ndarray, below: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Return sum(above) / sum(below) with its interval; `groups` numbers each row's group from 0."""
    over, under = np.bincount(groups, above), np.bincount(groups, below)
    drawn = np.random.default_rng(SEED).integers(len(over), size=(RESAMPLES, len(over)))
    sums = under[drawn].sum(1)
    values = over[drawn].sum(1)[sums > 0] / sums[sums > 0]
    return _bounds(float(over.sum() / under.sum()), values)


def resampled(score: Callable[[np.ndarray], float], groups: np.ndarray) -> dict[str, float]:
    """Return score(all rows) with its interval, for scores that are no ratio of sums."""
    members = [np.flatnonzero(groups == g) for g in range(groups.max() + 1)]
    random = np.random.default_rng(SEED)
    draws = (random.integers(len(members), size=len(members)) for _ in range(RESAMPLES_OF_TEXT))
    values = np.array([score(np.concatenate([members[g] for g in drawn])) for drawn in draws])
    return _bounds(score(np.arange(len(groups))), values)


def _bounds(value: float, values: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return {"value": value, "low": float(low), "high": float(high)}


def _numbered(names: Sequence[str]) -> np.ndarray:
    return np.unique(np.array(names), return_inverse=True)[1]
