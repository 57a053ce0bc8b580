"""The scorecard of a de-identification: right of required in the ten actions by which MIDI-B is judged.

It compares input and output, attribute by attribute at every level, and trusts nothing that the engine says it did. It
measures what can be measured; that nobody can be recognised it cannot tell.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from medloom.connectors import deid_rules, deid_table, deid_values, deid_words
from medloom.connectors.deid_engine import OWN, SEARCHED, holds_known, place_of
from medloom.connectors.deid_known import Known, elements, elements_of, values_of
from medloom.connectors.deid_rules import Profile
from medloom.connectors.dicom_headers import BROKEN, quiet, word

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

ACTIONS = (
    "tag_retained", "text_notnull", "text_retained", "text_removed", "date_shifted", "uid_changed", "pixels_hidden",
    "pixels_retained", "uid_consistent", "patid_consistent",
)  # fmt: skip


@dataclass
class Card:
    """Counts by action of `ACTIONS`.

    Attributes:
        right, required: how often an action was needed, and how often it was carried out.
        uids, patients: {original: what stands for it}; from them `consistent` adds the last two actions.
    """

    right: Counter[str] = field(default_factory=Counter)
    required: Counter[str] = field(default_factory=Counter)
    uids: dict[str, str] = field(default_factory=dict, repr=False)
    patients: dict[str, str] = field(default_factory=dict, repr=False)

    def count(self, action: str, is_right: bool) -> None:
        """Add one that was required."""
        self.required[action] += 1
        self.right[action] += is_right

    def add(self, other: "Card") -> None:
        """Add the counts of another object, and hold its UIDs and patient against those seen before."""
        self.right += other.right
        self.required += other.required
        for action, ours, theirs in (
            ("uid_consistent", self.uids, other.uids),
            ("patid_consistent", self.patients, other.patients),
        ):
            for old, new in theirs.items():
                self.count(action, ours.setdefault(old, new) == new)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for every action: its name, right and required."""
        return [{"action": a, "right": self.right[a], "required": self.required[a]} for a in ACTIONS]


def score(original: "Dataset", output: "Dataset", *, known: Known, profile: Profile) -> Card:
    """Return the card of one object, its pixels aside.

    Args:
        original, output: as read from their files.
        known: what identifies the study.
    """
    scoring = _Scoring(known, profile, word(original, "SOPClassUID"))
    with quiet():
        _compare(scoring, original, output, "", in_content=False)
        patient, stands_for = word(original, "PatientID"), word(output, "PatientID")
        if patient:
            scoring.card.patients[f"{word(original, 'IssuerOfPatientID')}\0{patient}"] = stands_for
    return scoring.card


@dataclass
class _Scoring:
    known: Known
    asked: Profile
    sop_class: str
    card: Card = field(default_factory=Card)
    table: deid_table.Table = field(default_factory=deid_table.load)


def _compare(scoring: _Scoring, old: "Dataset", new: "Dataset | None", around: str, *, in_content: bool) -> None:
    """Compare a data set of the original with the one in its place, None where there is none any more."""
    for tag in list(old.keys()):
        try:
            element = old[tag]
        except BROKEN:
            continue
        if tag.is_private or not values_of(element) or (around == "" and element.keyword in OWN):
            continue
        place = place_of(element, scoring.sop_class, around, in_content=in_content)
        action: str = deid_rules.choose(place, scoring.table, scoring.asked)
        there = new.get(tag) if new is not None else None
        if element.VR == "SQ":
            inside = in_content or element.keyword in deid_rules.CONTENT_SEQUENCES
            _compare_items(scoring, element, there, action, in_content=inside)
            continue
        if action == "keep" and holds_known(element, scoring.known):
            action = "scrub"
        _count(scoring.card, element, there, action)


def _compare_items(
    scoring: _Scoring, old: "DataElement", new: "DataElement | None", action: str, *, in_content: bool
) -> None:
    """Compare the items of a sequence that had to be walked through; of one that had to go, nothing may be left."""
    items = list(new.value or []) if new is not None and new.VR == "SQ" else []
    if action != "walk":
        stated = {text for element in elements_of(old) if element.VR in _WORDS for text in _texts(element)}
        inner = [element for item in items for element in elements(item) if element.VR in _WORDS]
        left = {text for element in inner for text in _texts(element)}
        scoring.card.count("text_removed", not (stated - deid_values.SILENT) & left)
        return
    for index, item in enumerate(old.value or []):
        _compare(scoring, item, items[index] if index < len(items) else None, old.keyword, in_content=in_content)


def _count(card: Card, old: "DataElement", new: "DataElement | None", action: str) -> None:
    """Add what one attribute of the original required."""
    before, after = _texts(old), _texts(new) if new is not None else []
    if action == "keep":
        card.count("tag_retained", new is not None)
        if old.VR in SEARCHED:
            card.count("text_retained", after == before)
    elif action == "age":
        card.count("tag_retained", bool(after))
    elif action == "uid":
        for number, uid in enumerate(before):
            if not deid_values.is_well_known(uid):
                stands_for = after[number] if number < len(after) else ""
                card.count("uid_changed", bool(stands_for) and stands_for != uid)
                card.uids[uid] = stands_for
    elif action == "shift" and (old.VR == "TM" or all(deid_values.dates_of(old.VR, text) for text in before)):
        if old.VR != "TM":
            card.count("date_shifted", _moved_alike(old.VR, before, after))
    elif old.VR in _WORDS or old.VR in deid_rules.DATES:
        is_clean = all(deid_words.is_plain(text) or text == deid_values.DUMMY for text in after)
        card.count("text_removed", is_clean if action == "clean" else set(after).isdisjoint(before))
        if action in ("token", "dummy"):
            card.count("text_notnull", bool(after))


_WORDS = SEARCHED | {"PN"}


def _texts(element: "DataElement") -> list[str]:
    return [text for value in values_of(element) if (text := str(value).strip(" \0"))]


def _moved_alike(vr: str, before: list[str], after: list[str]) -> bool:
    """Whether all dates of an attribute moved, by the same number of days."""
    if len(before) != len(after):
        return False
    moved = set()
    for old, new in zip(before, after, strict=True):
        days = [datetime.strptime(deid_values.dates_of(vr, text) or "19000101", "%Y%m%d") for text in (old, new)]
        moved.add((days[1] - days[0]).days)
    return len(moved) == 1 and 0 not in moved
