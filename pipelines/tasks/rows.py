"""What every kind of example shares: its row with the unit's facts and terms, and choices that only a hash decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from medloom.pipelines.unit import Task, UnitView
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Evidence, Example, Part, Region, Turn
from medloom.schemas.keys import example_id, sha256_hex

T = TypeVar("T")


def shuffled(options: Sequence[T], *, seed: str) -> list[T]:
    """Return `options` in an order that only `seed` and their own text decide; every order is as likely."""
    return sorted(options, key=lambda option: sha256_hex(f"{seed}|{option}"))


def chosen(options: Sequence[T], *, seed: str) -> T:
    """Return one of `options` by a hash of `seed`; adding an option may change the choice, a neighbour may not."""
    return options[int(sha256_hex(seed)[:16], 16) % len(options)]


def conversation(media: Sequence[str], question: str, answer: str) -> tuple[Turn, ...]:
    """Return a user turn of `media`, then `question`, and an assistant turn of `answer`."""
    asked = (*(Part(media=key) for key in media), Part(text=question))
    return Turn("user", asked), Turn("assistant", (Part(text=answer),))


def terms_of(unit: UnitView, figure: dict[str, Any]) -> str:
    """Return the terms of a figure's caption: its own where it has them, else the article's."""
    return str(figure["terms_id"] or unit.terms_id)


def language_of(unit: UnitView) -> str:
    """Return the BCP 47 primary language of an article, "en" where it states none (the default of JATS)."""
    stated = str(unit.article.get("lang") or "en")
    return stated.replace("_", "-").split("-")[0].lower()


@dataclass(frozen=True)
class Rows:
    """Makes the rows of one task for one unit, all with the same facts of the unit.

    Attributes:
        task: whose rows they are.
        unit: what they are made from.
        fingerprint: of the task, by which ids are made.
        language, generator: of every row.
    """

    task: Task
    unit: UnitView
    fingerprint: str
    language: str
    generator: str

    def id_of(self, ordinal: str) -> str:
        """Return the id of the row that `ordinal` names within the unit."""
        return example_id(self.task.task, self.fingerprint, self.unit.unit, ordinal)

    def example(
        self,
        ordinal: str,
        *,
        turns: tuple[Turn, ...],
        figure: dict[str, Any] | None = None,
        labels: tuple[str, ...] = (),
        evidence: tuple[Evidence, ...] = (),
        measured: dict[str, float] | None = None,
        regions: tuple[Region, ...] = (),
    ) -> Example:
        """Return a row; its licence and terms are those of `figure` where that has its own, else the unit's."""
        override = str(figure["licence_override"] or "") if figure else ""
        return Example(
            example_id=self.id_of(ordinal),
            unit=self.unit.unit, group=self.unit.group, split=self.unit.split, source=self.unit.source,
            task=self.task.task, language=self.language, generator=self.generator,
            licence=override or self.unit.licence,
            terms_id=terms_of(self.unit, figure) if figure else self.unit.terms_id,
            turns=turns, labels=labels, evidence=evidence, measured=measured or {}, regions=regions,
        )  # fmt: skip

    def refusal(self, key: str, reason: str, detail: str) -> Refusal:
        """Return what was refused and why, as a row."""
        return Refusal(self.unit.unit, key, self.unit.source, self.task.task, reason, detail)
