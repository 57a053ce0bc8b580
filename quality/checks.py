"""Checks: what one stored medium or one example must satisfy, decided on its row alone, without its bytes.

A check's class name reads as the passing statement. A failed check of severity "withhold" becomes a state of a
release, which a curator can overrule; the bytes stay. What a row does not say is "unsure", never "pass".
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from medloom.schemas.keys import fingerprint
from medloom.schemas.medium import LAYOUTS, MODALITIES
from medloom.schemas.origin import TERMS
from medloom.schemas.tables import measured_values
from medloom.schemas.verdict import Outcome, Scope, Verdict

Row = Mapping[str, Any]
Severity = Literal["withhold", "warn"]
NAN = float("nan")


@dataclass(frozen=True)
class Judgement:
    """What a check says of one row: outcome, short.fixed.reason ("" for a pass) and the value behind it."""

    outcome: Outcome
    reason: str = ""
    value: float = NAN


class Check(Protocol):
    """One rule over rows of `INDEX` (scope "medium") or `EXAMPLE` (scope "example").

    Attributes:
        version: changes when an equal row would be judged otherwise.
        severity: "withhold" keeps a failing subject out of releases, "warn" only says so.
    """

    scope: ClassVar[Scope]
    version: ClassVar[str] = "1"
    severity: ClassVar[Severity] = "withhold"

    @property
    def name(self) -> str:
        """Its passing statement with its thresholds, such as `MinSide(pixels=64)`."""
        return repr(self)

    def applies(self, row: Row) -> bool:
        """Whether the rule speaks of this row at all."""
        return is_content(row) if self.scope == "medium" else "turns" in row

    def judge(self, row: Row) -> Judgement:
        """Judge a row to which the rule applies."""
        ...

    def check(self, row: Row) -> Verdict:
        """Return the verdict on a row to which the rule applies."""
        judgement = self.judge(row)
        return Verdict(
            subject=row["key"] if self.scope == "medium" else row["example_id"],
            digest=row["digest"] if self.scope == "medium" else example_digest(row),
            scope=self.scope,
            check=self.name,
            version=self.version,
            by="rule",
            outcome=judgement.outcome,
            reason=judgement.reason,
            value=judgement.value,
        )


def run_checks(rows: Iterable[Row], checks: Iterable[Check]) -> Iterator[Verdict]:
    """Give the verdict of every check on every row to which it applies, row by row.

    Rows of members that are not a medium's content (json, thumbnails, masks) get none.
    """
    checks = tuple(checks)
    for row in rows:
        for check in checks:
            if check.applies(row):
                yield check.check(row)


def is_content(row: Row) -> bool:
    """Whether an index row speaks of the image or volume itself, which is one row per medium."""
    return row.get("layout") in LAYOUTS and row.get("field") == content_field(row["layout"])


def content_field(layout: str) -> str:
    """Return the field of a layout that holds the image or volume: "jpg", "png" or "ct.b2nd"."""
    return LAYOUTS[layout][1]


def example_digest(row: Row) -> str:
    """Return the digest by which verdicts know an example: of its turns, regions and labels."""
    return fingerprint(row["turns"], row["regions"], row["labels"])


def _is_volume(row: Row) -> bool:
    return is_content(row) and str(row["layout"]).startswith("volume")


def _between(value: float | None, low: float, high: float, reason: str) -> Judgement:
    if value is None or math.isnan(value):
        return Judgement("unsure", "measured.missing")
    return Judgement("pass", "", float(value)) if low <= value <= high else Judgement("fail", reason, float(value))


@dataclass(frozen=True)
class MinSide(Check):
    """The shorter side of a picture, or the second longest of a volume, has at least `pixels`.

    The longest two sides are those of the slices in whatever plane they were acquired.
    """

    pixels: int
    scope = "medium"
    version = "2"

    def judge(self, row: Row) -> Judgement:
        """Fail "size.side"; unsure without a shape."""
        shape = row["shape"]
        sides = sorted(shape)[1:] if _is_volume(row) else shape[:2]
        return _between(min(sides, default=None), self.pixels, math.inf, "size.side")


@dataclass(frozen=True)
class MinSlices(Check):
    """A volume has at least `slices` along its shortest axis."""

    slices: int
    scope = "medium"
    severity = "warn"

    def applies(self, row: Row) -> bool:
        """Volumes only."""
        return _is_volume(row)

    def judge(self, row: Row) -> Judgement:
        """Fail "size.slices"; unsure without a shape."""
        return _between(min(row["shape"], default=None), self.slices, math.inf, "size.slices")


@dataclass(frozen=True)
class AspectPlausible(Check):
    """A picture's longer side is at most `ratio` times its shorter one: not a rule, a banner or a colour bar."""

    ratio: float
    scope = "medium"

    def applies(self, row: Row) -> bool:
        """Pictures only."""
        return is_content(row) and not _is_volume(row)

    def judge(self, row: Row) -> Judgement:
        """Fail "size.aspect"; unsure without a shape."""
        sides = row["shape"][:2]
        return _between(max(sides) / min(sides) if sides else None, 1, self.ratio, "size.aspect")


@dataclass(frozen=True)
class SpacingPlausible(Check):
    """Every spacing of a volume lies in [`low_mm`, `high_mm`]."""

    low_mm: float
    high_mm: float
    scope = "medium"

    def applies(self, row: Row) -> bool:
        """Volumes only."""
        return _is_volume(row)

    def judge(self, row: Row) -> Judgement:
        """Fail "spacing.implausible" with the worst spacing; unsure without any."""
        spacings = row["spacing_mm"] or ()
        worst = next((s for s in spacings if not self.low_mm <= s <= self.high_mm), max(spacings, default=None))
        return _between(worst, self.low_mm, self.high_mm, "spacing.implausible")


@dataclass(frozen=True)
class NotConstant(Check):
    """Its values differ: their standard deviation is above 0."""

    scope = "medium"

    def judge(self, row: Row) -> Judgement:
        """Fail "values.constant"; unsure where "std" was not measured."""
        return _between(measured_values(row["measured"]).get("std"), math.nextafter(0, 1), math.inf, "values.constant")


@dataclass(frozen=True)
class CtRangePlausible(Check):
    """A CT holds something below `air_below_hu` and nothing outside [`lowest_hu`, `highest_hu`].

    A CT whose rescale intercept was lost (about -1024, PS3.3 C.11.1.1.2) has no negative values. -8192 leaves room
    for padding values in use (-2000, -3024), 32767 for metal on an extended scale.
    """

    air_below_hu: float = -50
    lowest_hu: float = -8192
    highest_hu: float = 32767
    scope = "medium"

    def applies(self, row: Row) -> bool:
        """Volumes of modality CT whose values are still those that were measured: a preset's have the unit "1"."""
        return _is_volume(row) and row["modality"] == "CT" and (row.get("units") or "HU") in ("HU", "arbitrary")

    def judge(self, row: Row) -> Judgement:
        """Fail "ct.no_air" or "ct.range"; unsure where "min" and "max" were not measured."""
        measured = measured_values(row["measured"])
        lowest = _between(measured.get("min"), self.lowest_hu, math.inf, "ct.range")
        highest = _between(measured.get("max"), -math.inf, self.highest_hu, "ct.range")
        for judgement in (lowest, highest):
            if judgement.outcome != "pass":
                return judgement
        return _between(measured["min"], self.lowest_hu, self.air_below_hu, "ct.no_air")


@dataclass(frozen=True)
class AffineKnown(Check):
    """The place of a volume in the patient was stated by its source, not assumed."""

    scope = "medium"
    severity = "warn"

    def applies(self, row: Row) -> bool:
        """Volumes whose source measured "affine_known" (1 or 0)."""
        return _is_volume(row) and "affine_known" in measured_values(row["measured"])

    def judge(self, row: Row) -> Judgement:
        """Fail "affine.assumed"."""
        return _between(measured_values(row["measured"])["affine_known"], 1, 1, "affine.assumed")


@dataclass(frozen=True)
class ModalityKnown(Check):
    """The modality is one of our vocabulary and says more than "other"."""

    scope = "medium"
    severity = "warn"

    def judge(self, row: Row) -> Judgement:
        """Fail "modality.unknown"."""
        known = row["modality"] in MODALITIES and row["modality"] != "OT"
        return Judgement("pass") if known else Judgement("fail", "modality.unknown")


@dataclass(frozen=True)
class NoFace(Check):
    """No face can be told from a volume: it shows no head, or its source says that faces were removed."""

    scope = "medium"
    severity = "warn"

    def applies(self, row: Row) -> bool:
        """Volumes of CT, MR and PT, which hold the skin."""
        return _is_volume(row) and row["modality"] in ("CT", "MR", "PT")

    def judge(self, row: Row) -> Judgement:
        """Fail "face.possible"; unsure where nobody looked."""
        face = row.get("face")
        if not face:
            return Judgement("unsure", "face.unknown")
        return Judgement("fail", "face.possible") if face == "possible" else Judgement("pass")


@dataclass(frozen=True)
class TermsKnown(Check):
    """A row of the table of terms says what its licence permits."""

    scope = "medium"
    severity = "warn"

    def judge(self, row: Row) -> Judgement:
        """Fail "terms.unknown"."""
        known = row["terms_id"] in TERMS and row["terms_id"] != "unknown"
        return Judgement("pass") if known else Judgement("fail", "terms.unknown")


@dataclass(frozen=True)
class HasText(Check):
    """The words of an example that are to be learned, the assistant's or a document's, have `min_characters`."""

    min_characters: int
    scope = "example"

    def judge(self, row: Row) -> Judgement:
        """Fail "text.short"."""
        parts = [p for turn in row["turns"] if turn["role"] != "user" for p in turn["parts"]]
        length = sum(len((p["text"] or "").strip()) for p in parts)
        return _between(length, self.min_characters, math.inf, "text.short")


@dataclass(frozen=True)
class TurnsAlternate(Check):
    """A dialogue goes user, assistant, user, assistant … and ends with the assistant; a paper is one document."""

    scope = "example"

    def judge(self, row: Row) -> Judgement:
        """Fail "turns.order" with the number of turns."""
        roles = [turn["role"] for turn in row["turns"]]
        alternating = len(roles) % 2 == 0 and roles == ["user", "assistant"] * (len(roles) // 2)
        good = roles == ["document"] or (bool(roles) and alternating)
        return Judgement("pass" if good else "fail", "" if good else "turns.order", float(len(roles)))


@dataclass(frozen=True)
class RefersToMedia(Check):
    """It speaks of at least one image or volume."""

    scope = "example"

    def judge(self, row: Row) -> Judgement:
        """Fail "media.none"."""
        return _between(len(row["media"] or ()), 1, math.inf, "media.none")


@dataclass(frozen=True)
class EvidenceCoversItsText(Check):
    """The offsets of every piece of evidence span as many characters as its words have."""

    scope = "example"

    def applies(self, row: Row) -> bool:
        """Examples with evidence from a text; a header has no offsets."""
        return "turns" in row and any(not e["where"].startswith("header:") for e in row["evidence"] or ())

    def judge(self, row: Row) -> Judgement:
        """Fail "evidence.offsets" with the number of pieces that disagree."""
        spans = [e for e in row["evidence"] if not e["where"].startswith("header:")]
        wrong = sum(e["end"] - e["start"] != len(e["text"]) or not e["text"] for e in spans)
        return _between(wrong, 0, 0, "evidence.offsets")


SOFT_CHECKS: tuple[Check, ...] = (
    MinSide(pixels=64),
    MinSlices(slices=3),
    AspectPlausible(ratio=8),
    SpacingPlausible(low_mm=0.05, high_mm=20),
    NotConstant(),
    CtRangePlausible(),
    AffineKnown(),
    ModalityKnown(),
    NoFace(),
    TermsKnown(),
    HasText(min_characters=1),
    TurnsAlternate(),
    EvidenceCoversItsText(),
)
