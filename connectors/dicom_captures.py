"""DICOM objects that show a screen, a sheet or a person and not a body's inside, told by their headers.

Names, dates and numbers stand in the pixels of such objects more often than not, and nothing in the header says where.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medloom.connectors.dicom_headers import DicomHeader

_STORAGE = "1.2.840.10008.5.1.4.1.1."
SECONDARY_CAPTURE = frozenset(_STORAGE + end for end in ("7", "7.1", "7.2", "7.3", "7.4"))  # PS3.4, B.5
PHOTOGRAPH = frozenset(_STORAGE + end for end in ("77.1.4", "77.1.4.1"))
SCREEN_TYPES = frozenset({"SCREEN SAVE", "SCREENSAVE", "SCREEN CAPTURE"})
DOSE_TYPES = frozenset({"DOSE_INFO", "DOSE REPORT", "CT_SOM5 PROT", "CT_SOM7 PROT"})
CROSS_SECTIONAL = ("CT", "MR", "PT", "NM", "OT")  # whose images say where they are, unless something was drawn of them

_DOSE = re.compile(r"\bdose (report|info|record|summary|page|sheet|structured)|\bpatient protocol\b")
_SCREEN = re.compile(r"\bscreen ?(save|shot|capture|dump|grab)s?\b|\bsnap ?shots?\b|\bcaptures?\b")


def series_kind(description: str) -> str:
    """Return what the words of a SeriesDescription call a series: "dose_report", "screen_capture" or ""; never them."""
    words = re.sub(r"[^a-z]+", " ", description.lower())
    if _DOSE.search(words):
        return "dose_report"
    return "screen_capture" if _SCREEN.search(words) else ""


def capture_reason(header: "DicomHeader") -> str:
    """Return why an object is no image to take from patients unseen, "" when nothing in its header says so.

    "dicom.dose_report": a sheet of doses or of the protocol; "dicom.screen_capture": a secondary capture (PS3.3
    A.8), a saved screen, or something drawn of a scan that does not say where it lies; "dicom.photograph": an
    image of the outside of a person (PS3.3 A.32.4).
    """
    kinds = set(header.image_type)
    if header.series_kind == "dose_report" or kinds & DOSE_TYPES:
        return "dicom.dose_report"
    if header.series_kind == "screen_capture" or kinds & SCREEN_TYPES or header.sop_class in SECONDARY_CAPTURE:
        return "dicom.screen_capture"
    if header.sop_class in PHOTOGRAPH:
        return "dicom.photograph"
    is_placed = bool(header.position and header.orientation)
    if {"DERIVED", "SECONDARY"} <= kinds and header.modality in CROSS_SECTIONAL and not is_placed:
        return "dicom.screen_capture"
    return ""


def stated_of(header: "DicomHeader") -> tuple[str, ...]:
    """Return the words of `medium.STATED` that hold for an object."""
    said = {
        "burned_in": header.burned_in == "YES",
        "derived": bool({"DERIVED", "SECONDARY"} & set(header.image_type)),
        "features_removed": header.features_removed,
    }
    return tuple(word for word, holds in said.items() if holds)
