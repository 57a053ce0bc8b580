"""StatedQuestions: questions and answers that a source itself states, with the figures or scans that they are about."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from medloom.pipelines.tasks.region_words import spoken
from medloom.pipelines.tasks.regions import said
from medloom.pipelines.tasks.rows import Rows, conversation, language_of
from medloom.pipelines.unit import UnitView
from medloom.schemas.ask import Ask
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Evidence, Example

QUESTION, ANSWER = "question", "answer"  # `paragraph.where` of JATS's <question> and <answer>


@dataclass
class _Pair:
    """Paragraphs of a question, then those of its answer."""

    question: list[dict[str, Any]] = field(default_factory=list)
    answer: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class StatedQuestions:
    """One row per printed question that has an answer and cites figures which were kept: its words, unchanged.

    Paragraphs of one question are joined by line breaks, those of its answer too. What is refused is a row:
    "question.no_answer", "question.no_figure" (it cites none), "question.figure_missing" (one of them was not kept).

    A question that is stated beside a scan is about all volumes and images of its unit; where its answer means a class
    of the masks, the row has that region ("question.mask_missing" when there is no such class, or several).
    """

    task: ClassVar[str] = "stated_vqa"
    version: ClassVar[str] = "1"
    asks: ClassVar[bool] = False

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give the questions of a paper or of a scan in their order."""
        rows = Rows(self, unit, fingerprint, language_of(unit), f"stated_questions:{self.version}")
        for pair in _pairs(unit):
            yield _made(rows, pair) if unit.article else _of_scan(rows, pair)


def _pairs(unit: UnitView) -> Iterator[_Pair]:
    """Give questions with their answers: a question ends where its answer has ended or another section begins."""
    pair = _Pair()
    section: tuple[str, str] = ("", "")
    for paragraph in unit.paragraphs:
        if paragraph["where"] not in (QUESTION, ANSWER):
            continue
        here = (paragraph["scope_id"], paragraph["sec_id"])
        if (here != section or (paragraph["where"] == QUESTION and pair.answer)) and pair.question:
            yield pair
            pair = _Pair()
        section = here
        (pair.question if paragraph["where"] == QUESTION else pair.answer).append(paragraph)
    if pair.question:
        yield pair


def _made(rows: Rows, pair: _Pair) -> Example | Refusal:
    unit, first = rows.unit, pair.question[0]["par_id"]
    question, answer = (_said(paragraphs) for paragraphs in (pair.question, pair.answer))
    if not question or not answer:
        return rows.refusal("", "question.no_answer", f"the question at {first} has no words, or no answer")
    asked = {paragraph["par_id"] for paragraph in pair.question}
    cited = dict.fromkeys(
        key for m in unit.mentions if m["par_id"] in asked and m["status"] == "resolved" for key in m["fig_keys"]
    )
    figures = {figure["fig_key"]: figure for figure in unit.figures}
    media = [[medium.key for medium in unit.media_of(figures[key])] for key in cited if key in figures]
    if not media:
        return rows.refusal("", "question.no_figure", f"the question at {first} cites no figure")
    if not all(media):
        return rows.refusal("", "question.figure_missing", f"a figure that the question at {first} cites was not kept")
    turns = conversation([key for keys in media for key in keys], question, answer)
    evidence = tuple(Evidence(f"paragraph:{p['par_id']}", 0, len(p["text"]), p["text"]) for p in pair.answer)
    return rows.example(first, turns=turns, evidence=evidence)


def _of_scan(rows: Rows, pair: _Pair) -> Example | Refusal:
    first, meant = pair.question[0]["par_id"], pair.question[0]["scope_id"]
    question, answer = (_said(paragraphs) for paragraphs in (pair.question, pair.answer))
    if not question or not answer:
        return rows.refusal("", "question.no_answer", f"the question at {first} has no words, or no answer")
    media = list(rows.unit.media.values())
    if not media:
        return rows.refusal("", "question.figure_missing", f"no scan that the question at {first} is about was kept")
    found = [(m.key, region) for m in media for region in m.regions if region.voxels and spoken(region.label) == meant]
    if meant and len(found) != 1:
        return rows.refusal("", "question.mask_missing", f"{len(found)} classes are the one that {first} means")
    regions = tuple(said(key, region, meant if meant in answer else "") for key, region in found if meant)
    evidence = tuple(Evidence(f"paragraph:{p['par_id']}", 0, len(p["text"]), p["text"]) for p in pair.answer)
    turns = conversation([m.key for m in media], question, answer)
    return rows.example(first, turns=turns, evidence=evidence, regions=regions)


def _said(paragraphs: list[dict[str, Any]]) -> str:
    return "\n".join(paragraph["text"] for paragraph in paragraphs if paragraph["text"])
