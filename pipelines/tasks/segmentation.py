"""Semantic segmentation in words: a class is asked for by its name, and the answer refers to its mask, or says that
there is none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from medloom.pipelines.tasks.region_words import capital, none_of, spoken, the
from medloom.pipelines.tasks.regions import Classes, classes_of, mirrored, said, some
from medloom.pipelines.tasks.rows import Rows, chosen, conversation
from medloom.pipelines.unit import UnitView
from medloom.schemas.ask import Ask
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Example
from medloom.schemas.medium import Region

WORDINGS = (
    "Segment {the} in this scan.",
    "Give the mask of {the}.",
    "Mark every voxel of {the}.",
    "Outline {the} in three dimensions.",
    "Which voxels belong to {the}? Mark them.",
    "Delineate {the} slice by slice.",
    "I need a segmentation of {the}.",
    "Show by a mask where {the} can be seen.",
)
ANSWERS = (
    "Here is {the}.",
    "This is the mask of {the}.",
    "The marked voxels are those of {the}.",
    "Marked: {the}.",
)
ABSENT = ("{No} in this scan.", "Nothing to mark: {no} in this scan.", "{No} here, so the mask is empty.")


@dataclass(frozen=True)
class Segmentation:
    """One row per class of a volume's masks, its mask in `regions`; some rows ask for a class that is not there.

    A class that was not labelled in the unit is never asked for, neither is one whose name another class shares.

    Attributes:
        most: classes of a volume that are asked for, of those there; chosen by a hash where it has more.
        most_absent: of those that were labelled and are not there; never more than are asked of the others.
    """

    task: ClassVar[str] = "segmentation"
    version: ClassVar[str] = "1"
    asks: ClassVar[bool] = False

    most: int = 24
    most_absent: int = 6

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give the rows of a unit's volumes with masks, classes in the order of layers and values."""
        rows = Rows(self, unit, fingerprint, "en", f"segmentation:{self.version}")
        for classes in classes_of(unit):
            yield from mirrored(rows, classes)
            key = classes.medium.key
            present = some(classes.present, self.most, seed=rows.id_of(f"{key}|present"))
            absent = some(classes.absent, min(self.most_absent, len(present)), seed=rows.id_of(f"{key}|absent"))
            for region in (*present, *absent):
                yield _example(rows, classes, region)


def _example(rows: Rows, classes: Classes, region: Region) -> Example:
    key, name, words = classes.medium.key, spoken(region.label), the(region.label)
    ordinal = f"{key}|{name}"
    seed = rows.id_of(ordinal)
    question = chosen(WORDINGS, seed=seed).format(the=words)
    if not region.voxels:
        none = none_of(region.label)
        answer = chosen(ABSENT, seed=f"answer|{seed}").format(no=none, No=capital(none))
        return rows.example(ordinal, turns=conversation([key], question, answer), labels=(f"no {name}",))
    answer = chosen(ANSWERS, seed=f"answer|{seed}").format(the=words)
    return rows.example(
        ordinal,
        turns=conversation([key], question, answer),
        labels=(name,),
        regions=(said(key, region, words),),
        measured={"volume_ml": region.volume_ml},
    )
