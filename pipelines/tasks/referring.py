"""Referring expressions: from words to the box of what they mean, and from a box to the words.

A box stands in a text as `[z0, y0, x0, z1, y1, x1]` in thousandths of the stored axes (z slices, y rows, x columns),
and exactly, as half-open indices, in the example's `regions`. It holds all of a class, however many pieces it is in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from medloom.pipelines.tasks.anatomy_words import DESCRIPTIONS
from medloom.pipelines.tasks.region_words import (
    box_words,
    capital,
    is_both_sides,
    length_words,
    longest_mm,
    overlap,
    part_of_field,
    spoken,
    the,
    touches_edge,
    volume_words,
)
from medloom.pipelines.tasks.regions import Classes, classes_of, mirrored, said, some
from medloom.pipelines.tasks.rows import Rows, chosen, conversation
from medloom.pipelines.unit import UnitView
from medloom.schemas.ask import Ask
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Example
from medloom.schemas.medium import Region

Form = Literal["name", "description"]

MOST_OVERLAP = 0.6  # intersection over union from which a box could as well mean the neighbour
HOW = "Answer as [z0, y0, x0, z1, y1, x1], in thousandths of slices, rows and columns."
FIND = (
    "Where is {the}? Give the smallest box around all of it.",
    "Find {the} and put a box around it.",
    "Give the bounding box of {the}.",
    "Locate {the} in this scan by a box.",
    "Which is the smallest box that encloses all of {the}?",
)
FIND_DESCRIBED = (
    "Find {described} and put a box around it.",
    "This is meant: {described}. Give its bounding box.",
    "Where in this scan is {described}? Answer with a box.",
    "Locate by a box {described}.",
)
FOUND = ("{The}: {box}.", "{The} lies within {box}.", "The box of {the} is {box}.", "{box} encloses {the}.")
NAME = (
    "What does the box {box} enclose?",
    "Name the structure around which the box {box} was drawn.",
    "Which structure was boxed at {box}?",
    "A box was drawn at {box} around one structure. Which?",
)
NAMED = ("{The}.", "It is {the}.", "The box encloses {the}.")
DESCRIBE = (
    "Describe what the box {box} encloses.",
    "What is inside the box {box}, how large is it, and where?",
    "Tell what was boxed at {box}, with its size and place.",
    "Write a line about the structure within {box}.",
)
BOX_IS = "A box is [z0, y0, x0, z1, y1, x1], in thousandths of slices, rows and columns."


@dataclass(frozen=True)
class ReferringComprehension:
    """Words to box: a row per class of a volume's masks by its name, and one by what is said of such a structure.

    Attributes:
        forms: "name"; "description", where `DESCRIPTIONS` has one and no other class of the volume shares it.
        most: classes of a volume that are asked for, chosen by a hash where it has more.
    """

    task: ClassVar[str] = "referring_comprehension"
    version: ClassVar[str] = "1"
    asks: ClassVar[bool] = False

    forms: tuple[Form, ...] = ("name", "description")
    most: int = 12

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give the rows of a unit's volumes with masks, classes in the order of layers and values."""
        rows = Rows(self, unit, fingerprint, "en", f"referring:{self.version}")
        for classes in classes_of(unit):
            yield from mirrored(rows, classes)
            boxed = [r for r in classes.present if not is_both_sides(r.label)]
            for region in some(boxed, self.most, seed=rows.id_of(classes.medium.key)):
                for form in self.forms:
                    if form == "name" or described(region):
                        yield _comprehension(rows, classes, region, form)


@dataclass(frozen=True)
class ReferringGeneration:
    """Box to words: a row per class of a volume's masks with its name, and one with its measured size and its place.

    A box that a neighbour's nearly equals is not asked about: nobody could tell which of them is meant.

    Attributes:
        forms: "name" is answered by the name; "description" by name, size and part of the field of view.
        most: classes of a volume that are asked about, chosen by a hash where it has more.
    """

    task: ClassVar[str] = "referring_generation"
    version: ClassVar[str] = "1"
    asks: ClassVar[bool] = False

    forms: tuple[Form, ...] = ("name", "description")
    most: int = 12

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give the rows of a unit's volumes with masks, classes in the order of layers and values."""
        rows = Rows(self, unit, fingerprint, "en", f"referring:{self.version}")
        for classes in classes_of(unit):
            yield from mirrored(rows, classes)
            boxed = [r for r in classes.present if not is_both_sides(r.label) and is_alone(r, classes.medium.regions)]
            for region in some(boxed, self.most, seed=rows.id_of(classes.medium.key)):
                for form in self.forms:
                    yield _generation(rows, classes, region, form)


def described(region: Region) -> tuple[str, ...]:
    """Return what is said of such a structure without its name, with its side; () when nothing is."""
    side = f", on the patient's {region.label.side}" if region.label.side else ""
    return tuple(f"{text}{side}" for text in DESCRIPTIONS.get(region.label.name, ()))


def facts_of(classes: Classes, region: Region) -> str:
    """Return the size and the place of a class as a clause; what the field of view cuts off has no whole size."""
    grid, place = classes.grid, f"in the {part_of_field(region.box, classes.grid)} part of the scan"
    if touches_edge(region.box, grid):
        return f"it lies {place} and reaches its edge"
    longest = length_words(longest_mm(region.box, grid))
    return f"it lies {place}, the longest side of its box is {longest}, its volume is {volume_words(region.volume_ml)}"


def is_alone(region: Region, others: Sequence[Region]) -> bool:
    """Whether no other class that is there has nearly the same box."""
    mine = (region.layer, region.value)
    return all(
        overlap(region.box, other.box) < MOST_OVERLAP
        for other in others
        if other.voxels and (other.layer, other.value) != mine
    )


def _comprehension(rows: Rows, classes: Classes, region: Region, form: Form) -> Example:
    key, words = classes.medium.key, the(region.label)
    ordinal = f"{key}|{spoken(region.label)}|{form}"
    seed = rows.id_of(ordinal)
    box = box_words(region.box, classes.grid.shape)
    phrase = words if form == "name" else chosen(described(region), seed=f"description|{seed}")
    wordings = FIND if form == "name" else FIND_DESCRIBED
    question = f"{chosen(wordings, seed=seed).format(the=words, described=phrase)} {HOW}"
    answer = chosen(FOUND, seed=f"answer|{seed}").format(the=words, The=capital(words), box=box)
    return _example(rows, classes, region, ordinal, (question, answer, phrase))


def _generation(rows: Rows, classes: Classes, region: Region, form: Form) -> Example:
    key, words = classes.medium.key, the(region.label)
    ordinal = f"{key}|{spoken(region.label)}|{form}"
    seed = rows.id_of(ordinal)
    box = box_words(region.box, classes.grid.shape)
    asked = chosen(NAME if form == "name" else DESCRIBE, seed=seed).format(box=box)
    answer = chosen(NAMED, seed=f"answer|{seed}").format(the=words, The=capital(words))
    if form == "description":
        answer = f"{capital(words)}: {facts_of(classes, region)}."
    return _example(rows, classes, region, ordinal, (f"{asked} {BOX_IS}", answer, box))


def _example(rows: Rows, classes: Classes, region: Region, ordinal: str, said_: tuple[str, str, str]) -> Example:
    key, (question, answer, phrase) = classes.medium.key, said_
    return rows.example(
        ordinal,
        turns=conversation([key], question, answer),
        labels=(spoken(region.label),),
        regions=(said(key, region, phrase),),
    )
