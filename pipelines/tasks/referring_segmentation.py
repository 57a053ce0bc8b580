"""Referring and reasoning segmentation: a mask is asked for by what is said of it, or by a fact that must be found out.

As in M3D-RefSeg there are two types of question: a description of one structure, and a question that takes reasoning,
whose answer says why. All facts are measured; each answer refers to one mask.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from medloom.pipelines.tasks.referring import BOX_IS, described, facts_of, is_alone
from medloom.pipelines.tasks.region_facts import Fact, facts_about, whole
from medloom.pipelines.tasks.region_words import box_words, capital, is_both_sides, spoken, the
from medloom.pipelines.tasks.regions import Classes, classes_of, mirrored, said, some
from medloom.pipelines.tasks.rows import Rows, chosen, conversation, shuffled
from medloom.pipelines.unit import UnitView
from medloom.schemas.ask import Ask
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Example
from medloom.schemas.medium import Region

QuestionType = Literal["description", "reasoning"]
IS_REASONING = "is_reasoning"  # measured: 1 for a question that takes reasoning, 0 for a description

DESCRIBED = (
    "Segment {what}.",
    "Give the mask of {what}.",
    "Mark {what}.",
    "Show where {what} can be seen.",
)
BOXED = (
    f"Segment the structure around which the box {{box}} was drawn. {BOX_IS}",
    f"Mark what the box {{box}} encloses. {BOX_IS}",
    f"Which voxels within {{box}} belong to the boxed structure? {BOX_IS}",
)
REASONED = (
    "Segment the one of {listed} that {asked}.",
    "One of {listed} {asked}. Find out which, and mark it.",
    "Which of {listed} {asked}? Answer with its mask.",
    "Out of {listed}, segment what {asked}, and say why.",
)
SHOWN = ("Here is {the}: {because}.", "It is {the}: {because}.", "Marked is {the}: {because}.")


@dataclass(frozen=True)
class ReferringSegmentation:
    """Rows per class of a volume's masks: by a description, by its box, and by a fact that takes reasoning.

    Attributes:
        types: of questions.
        most: classes of a volume that are asked for by each type, chosen by a hash where it has more.
    """

    task: ClassVar[str] = "referring_segmentation"
    version: ClassVar[str] = "1"
    asks: ClassVar[bool] = False

    types: tuple[QuestionType, ...] = ("description", "reasoning")
    most: int = 12

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give the rows of a unit's volumes with masks, classes in the order of layers and values."""
        rows = Rows(self, unit, fingerprint, "en", f"referring_segmentation:{self.version}")
        for classes in classes_of(unit):
            yield from mirrored(rows, classes)
            single = [r for r in classes.present if not is_both_sides(r.label)]
            chosen_ones = some(single, self.most, seed=rows.id_of(classes.medium.key))
            if "description" in self.types:
                for region in chosen_ones:
                    yield from _by_description(rows, classes, region)
            if "reasoning" in self.types:
                yield from self._reasoned(rows, classes)

    def _reasoned(self, rows: Rows, classes: Classes) -> Iterator[Example]:
        """Give one question for each class that a fact tells from two others, kinds of facts as a hash decides."""
        known = whole(classes.present, classes.grid)
        for region in some(known, self.most, seed=rows.id_of(f"{classes.medium.key}|reasoning")):
            ordinal = f"{classes.medium.key}|{spoken(region.label)}|reasoning"
            facts = facts_about(region, known, classes.grid, seed=rows.id_of(ordinal))
            if facts:
                yield _by_fact(rows, classes, ordinal, chosen(facts, seed=f"kind|{rows.id_of(ordinal)}"))


def _by_description(rows: Rows, classes: Classes, region: Region) -> Iterator[Example]:
    name = f"{classes.medium.key}|{spoken(region.label)}"
    because = facts_of(classes, region)
    if texts := described(region):
        seed = rows.id_of(f"{name}|described")
        phrase = chosen(texts, seed=f"description|{seed}")
        question = chosen(DESCRIBED, seed=seed).format(what=phrase)
        yield _example(rows, classes, region, f"{name}|described", (question, because, phrase))
    if is_alone(region, classes.medium.regions):
        box = box_words(region.box, classes.grid.shape)
        question = chosen(BOXED, seed=rows.id_of(f"{name}|boxed")).format(box=box)
        yield _example(rows, classes, region, f"{name}|boxed", (question, because, box))


def _by_fact(rows: Rows, classes: Classes, ordinal: str, fact: Fact) -> Example:
    seed = rows.id_of(ordinal)
    *first, last = shuffled([the(r.label) for r in (fact.region, *fact.others)], seed=f"order|{seed}")
    listed = f"{', '.join(first)} and {last}"
    question = chosen(REASONED, seed=seed).format(listed=listed, asked=fact.asked)
    said_ = (capital(question), fact.because, the(fact.region.label))
    return _example(rows, classes, fact.region, ordinal, said_, is_reasoning=True)


def _example(
    rows: Rows,
    classes: Classes,
    region: Region,
    ordinal: str,
    said_: tuple[str, str, str],
    *,
    is_reasoning: bool = False,
) -> Example:
    key, (question, because, phrase) = classes.medium.key, said_
    answer = chosen(SHOWN, seed=f"answer|{rows.id_of(ordinal)}").format(the=the(region.label), because=because)
    return rows.example(
        ordinal,
        turns=conversation([key], question, answer),
        labels=(spoken(region.label),),
        regions=(said(key, region, phrase),),
        measured={IS_REASONING: float(is_reasoning), "volume_ml": region.volume_ml},
    )
