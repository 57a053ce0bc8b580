"""Stated words: what a public source says of a scan beside it, its report and questions with their answers."""

from dataclasses import dataclass
from typing import Any

from medloom.pipelines.tasks.stated_questions import ANSWER, QUESTION


@dataclass(frozen=True)
class StatedWords:
    """What is said of one scan.

    Attributes:
        text: its report, "" for none.
        questions: (question, answer, class that the answer means, as "left kidney", or "").
    """

    text: str = ""
    questions: tuple[tuple[str, str, str], ...] = ()

    def paragraphs(self, unit: str) -> list[dict[str, Any]]:
        """Return the questions and answers as rows of "paragraph"; `scope_id` is the class that an answer means."""
        rows: list[dict[str, Any]] = []
        for number, (question, answer, meant) in enumerate(self.questions):
            for where, text in ((QUESTION, question), (ANSWER, answer)):
                rows.append({
                    "article_key": unit, "par_id": f"{where}-{number}", "sec_id": f"question-{number}",
                    "scope_id": meant, "where": where, "order": len(rows), "text": text,
                })  # fmt: skip
        return rows


def stated_words(entry: dict[str, Any]) -> StatedWords:
    """Return what an entry of a source's file of terms says; what has another form says nothing."""
    text, questions = entry.get("text"), entry.get("questions")
    found = [_question(given) for given in questions] if isinstance(questions, list) else []
    kept = tuple(question for question in found if question is not None)
    return StatedWords(text if isinstance(text, str) else "", kept)


def _question(given: Any) -> tuple[str, str, str] | None:
    if not isinstance(given, dict):
        return None
    question, answer = given.get("question"), given.get("answer")
    if not isinstance(question, str) or not isinstance(answer, str) or not question.strip() or not answer.strip():
        return None
    mask = given.get("mask") or {}
    meant = f"{mask.get('side', '')} {mask.get('name', '')}".strip() if isinstance(mask, dict) else ""
    return question, answer, meant
