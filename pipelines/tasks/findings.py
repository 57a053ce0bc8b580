"""Findings: what a table of labels says of an image, asked openly, as yes or no, and by place; no model is needed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from medloom.pipelines.tasks.rows import Rows, chosen, conversation, shuffled
from medloom.pipelines.unit import MediumView, UnitView
from medloom.schemas.ask import Ask
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Box, Example, Region

Form = Literal["open", "closed", "where"]
NORMAL = "no finding"

OPEN = (
    "Which findings does this image show?",
    "List what is abnormal here.",
    "What would you report of this image?",
    "Name the findings that can be seen.",
)
CLOSED = (
    "Does this image show {name}?",
    "Is there {name}?",
    "Can {name} be seen here?",
    "Is {name} present in this image?",
)
WHERE = (
    "Where is the {name}?",
    "Show the region of the {name}.",
    "Which part of the image shows the {name}?",
)


@dataclass(frozen=True)
class Findings:
    """Rows of an image's findings.

    "open": all that is present, in the order of the table, or that nothing was found where the table says so.
    "closed": of each finding that is present one question with the answer yes, and as many with the answer no, of those
    that the table states as absent (one where nothing is present). "where": of each finding with boxes all of them,
    each a region. What is uncertain, and what the table does not speak of, is never asked.
    """

    task: ClassVar[str] = "findings"
    version: ClassVar[str] = "1"
    asks: ClassVar[bool] = False

    forms: tuple[Form, ...] = ("open", "closed", "where")

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give the rows of a unit's one image; what has no findings gives none."""
        if not unit.findings or len(unit.media) != 1:
            return
        (medium,) = unit.media.values()
        rows = Rows(self, unit, fingerprint, "en", f"findings:{self.version}")
        presence = _presence(unit.findings)
        if "open" in self.forms:
            yield from _open(rows, medium, presence)
        if "closed" in self.forms:
            yield from _closed(rows, medium, presence)
        if "where" in self.forms:
            yield from _where(rows, medium, unit.findings)


def _presence(findings: tuple[dict[str, Any], ...]) -> dict[str, str]:
    """Return {name: "present" or "absent"}; what is said both ways, or is uncertain, is left out."""
    said: dict[str, set[str]] = {}
    for finding in findings:
        if not finding["box"]:
            said.setdefault(finding["name"], set()).add(finding["presence"])
    drawn = {finding["name"] for finding in findings if finding["box"] and finding["presence"] == "present"}
    for name in drawn - said.keys():
        said[name] = {"present"}
    return {name: next(iter(how)) for name, how in said.items() if len(how) == 1 and how <= {"present", "absent"}}


def _open(rows: Rows, medium: MediumView, presence: dict[str, str]) -> Iterator[Example]:
    present = [name for name, how in presence.items() if how == "present" and name != NORMAL]
    if not present and presence.get(NORMAL) != "present":
        return
    answer = ", ".join(present) or "No finding."
    turns = conversation([medium.key], chosen(OPEN, seed=f"{medium.key}|open"), answer)
    yield rows.example(f"{medium.key}|open", turns=turns, labels=tuple(present) or (NORMAL,))


def _closed(rows: Rows, medium: MediumView, presence: dict[str, str]) -> Iterator[Example]:
    asked = {name: how for name, how in presence.items() if name != NORMAL}
    yes = [name for name, how in asked.items() if how == "present"]
    no = shuffled([name for name, how in asked.items() if how == "absent"], seed=medium.key)[: max(len(yes), 1)]
    for name, answer in [(name, "Yes.") for name in yes] + [(name, "No.") for name in no]:
        question = chosen(CLOSED, seed=f"{medium.key}|{name}").format(name=name)
        turns = conversation([medium.key], question, answer)
        yield rows.example(f"{medium.key}|closed|{name}", turns=turns, labels=(answer[:-1].lower(), name))


def _where(rows: Rows, medium: MediumView, findings: tuple[dict[str, Any], ...]) -> Iterator[Example]:
    boxes: dict[str, list[Box]] = {}
    for finding in findings:
        if finding["box"] and finding["presence"] == "present":
            boxes.setdefault(finding["name"], []).append(_within(finding["box"], medium))
    for name, found in boxes.items():
        once = list(dict.fromkeys(box for box in found if box))
        if not once:
            continue
        regions = tuple(Region(medium.key, box=box, phrase=name, name=name) for box in once)
        answer = "; ".join(f"y {y0} to {y1}, x {x0} to {x1}" for y0, x0, y1, x1 in once)
        turns = conversation([medium.key], chosen(WHERE, seed=f"{medium.key}|{name}|where").format(name=name), answer)
        yield rows.example(f"{medium.key}|where|{name}", turns=turns, regions=regions, labels=(name,))


def _within(box: list[float], medium: MediumView) -> Box:
    """Return a box in whole pixels of the image, outwards, () when nothing of it lies in the image."""
    height, width = medium.shape[:2]
    y0, x0 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    y1, x1 = min(height, math.ceil(box[2])), min(width, math.ceil(box[3]))
    return (y0, x0, y1, x1) if y0 < y1 and x0 < x1 else ()
