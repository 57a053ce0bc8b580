"""New values for old ones: UIDs, tokens, shifted dates, capped ages, and dummies by value representation."""

import re
from datetime import date, timedelta
from typing import Any

from medloom.schemas.keys import Identity

DUMMY = "REMOVED"
_DICOM_ROOT = "1.2.840.10008."
_CODE_SYSTEMS = "2.16.840.1.113883.6."  # HL7's registered code systems, such as SNOMED CT's
_DUMMIES: dict[str, Any] = {
    "AE": DUMMY, "CS": DUMMY, "LO": DUMMY, "SH": DUMMY, "UC": DUMMY, "LT": DUMMY, "ST": DUMMY, "UT": DUMMY,
    "PN": DUMMY, "AS": "000Y", "DA": "19000101", "TM": "000000", "DT": "19000101000000", "IS": "0", "DS": "0",
    "UR": "urn:removed", "FL": 0.0, "FD": 0.0, "US": 0, "SS": 0, "UL": 0, "SL": 0, "UV": 0, "SV": 0, "AT": 0,
}  # fmt: skip
SILENT = frozenset(map(str, _DUMMIES.values()))  # texts that tell nothing, wherever they stand
_OLDEST_YEARS = 89
_DATE = re.compile(r"(\d{4})(\.?)(\d{2})\2(\d{2})")
_DATETIME = re.compile(r"(\d{4})(?:(\d{2})(?:(\d{2})((?:\d{2}){0,3}(?:\.\d{1,6})?))?)?([+-]\d{4})?")
_TIME = re.compile(r"\d{2}(?::?\d{2}(?::?\d{2}(?:\.\d{1,6})?)?)?")
_AGE = re.compile(r"(\d{3})([DWMY])")
_PER_YEAR = {"D": 366, "W": 53, "M": 12, "Y": 1}


def is_well_known(uid: str) -> bool:
    """Whether a UID names something of the standard or a code system, and is too short to hold an identifier."""
    root = next((root for root in (_DICOM_ROOT, _CODE_SYSTEMS) if uid.startswith(root)), "")
    parts = uid.removeprefix(root).split(".")
    return bool(root) and len(uid) <= 40 and all(part.isdigit() and len(part) <= 5 for part in parts)


def new_uid(uid: str, identity: Identity) -> str:
    """Return the UID that stands for `uid` everywhere: 2.25. and 128 bits of its HMAC; well-known ones stay."""
    return uid if not uid or is_well_known(uid) else f"2.25.{identity.number('uid', uid, bits=128)}"


def shift_days(patient: str, identity: Identity) -> int:
    """Return by how many days all dates of a patient move, -365 to -1."""
    return -1 - identity.number("date-shift", patient, bits=64) % 365


def shifted(vr: str, text: str, days: int) -> str:
    """Return a DA, DT or TM moved by whole days; a TM stays as it is.

    Raises:
        ValueError: it is none, or leaves the calendar.
    """
    text = text.strip(" \0")
    if vr == "TM":
        if not _TIME.fullmatch(text):
            raise ValueError("no time")
        return text
    if vr == "DA":
        found = _DATE.fullmatch(text)
        if not found:
            raise ValueError("no date")
        return f"{_moved(found[1], found[3], found[4], days):%Y%m%d}".zfill(8)
    found = _DATETIME.fullmatch(text)
    if not found:
        raise ValueError("no date and time")
    moved = f"{_moved(found[1], found[2] or '01', found[3] or '01', days):%Y%m%d}".zfill(8)
    digits = 4 + sum(len(found[part] or "") for part in (2, 3))
    return moved[:digits] + (found[4] or "") + (found[5] or "")


def _moved(year: str, month: str, day: str, days: int) -> date:
    try:
        return date(int(year), int(month), int(day)) + timedelta(days=days)
    except OverflowError as error:
        raise ValueError("out of the calendar") from error


def dates_of(vr: str, text: str) -> str:
    """Return the day that a DA or DT states as YYYYMMDD, "" when it states none."""
    found = (_DATE if vr == "DA" else _DATETIME).match(text.strip(" \0"))
    if not found:
        return ""
    year, month, day = (found[1], found[3], found[4]) if vr == "DA" else (found[1], found[2], found[3])
    return f"{year}{month}{day}" if month and day else ""


def capped_age(text: str) -> str:
    """Return an age, those above 89 years as 090Y (HIPAA's safe harbour, 45 CFR 164.514(b)(2)(i)(C)).

    Raises:
        ValueError: it is none.
    """
    found = _AGE.fullmatch(text.strip(" \0"))
    if not found:
        raise ValueError("no age")
    years = int(found[1]) / _PER_YEAR[found[2]]
    return "090Y" if years >= _OLDEST_YEARS + 1 else found[0]


def dummy(vr: str) -> Any:
    """Return a value of a VR that says nothing."""
    if vr in _DUMMIES:
        return _DUMMIES[vr]
    if vr.startswith("US or") or vr == "US":
        return 0
    return b"\0" * 8  # OB, OW, OF, OD, OL, OV, UN: a length that all of them allow
