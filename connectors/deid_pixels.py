"""Objects whose pixels or bytes no header rule can clean: who may hold text in its picture, who is a document.

Nothing here looks at a pixel; it says who must be looked at, or kept apart (PS3.15, E.1 and E.3.1).
"""

from typing import TYPE_CHECKING

from medloom.connectors.dicom_headers import BROKEN, word

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_DOCUMENTS = {  # by what follows _STORAGE
    "104": "an encapsulated document", "131": "a structured display", "66": "raw data", "68.1": "a surface scan",
    "68.2": "a surface scan", "9.4.1": "a voice recording", "201": "storage management", "200": "a protocol",
}  # fmt: skip
# US, XA and RF draw text into the frame, as do captures, photographs, endoscopes, slide labels and videos.
_DRAWS_TEXT = (
    "3", "6", "7", "12", "77.1.1", "77.1.2", "77.1.4", "77.1.5", "77.1.6", "77.2", "88.59",
)  # fmt: skip
_DRAWING_MODALITIES = frozenset({"US", "XA", "RF", "SC", "OT", "ES", "XC", "GM", "SM", "OP", "IVUS", "DOC", "SR"})
_SCREENS = frozenset({"SCREEN SAVE", "SCREENSAVE", "SCREEN CAPTURE", "SCREEN", "DOSE", "DOSE_INFO", "LABEL", "OVERVIEW",
                      "REPORT", "PROT", "RESULT"})  # fmt: skip


def document(sop_class: str) -> str:
    """Return what an object is whose content no rule can clean, "" for all others."""
    kind = sop_class.removeprefix(_STORAGE) if sop_class.startswith(_STORAGE) else ""
    return next((what for start, what in _DOCUMENTS.items() if kind == start or (
        start in ("104", "131", "201", "200") and kind.startswith(f"{start}."))), "")  # fmt: skip


def may_show_text(dataset: "Dataset") -> str:
    """Return why the pixels may hold text, "" when nothing speaks for it or there are none."""
    if "PixelData" not in dataset:
        return ""
    stated = word(dataset, "BurnedInAnnotation").upper()
    if stated == "YES":
        return "the header says that text is drawn into the picture"
    types = {str(value).strip().upper() for value in _image_types(dataset)}
    kind = word(dataset, "SOPClassUID").removeprefix(_STORAGE)
    if types & _SCREENS:
        return "it is a capture of a screen, a dose report or a label"
    if kind == "7" or kind.startswith("7."):
        return "it is a secondary capture"
    if stated == "NO":
        return ""
    if any(kind == start or kind.startswith(f"{start}.") for start in _DRAWS_TEXT):
        return "such pictures often show text, and the header does not say that this one shows none"
    if word(dataset, "Modality").upper() in _DRAWING_MODALITIES:
        return "its modality often shows text, and the header does not say that this one shows none"
    return ""


def _image_types(dataset: "Dataset") -> list[str]:
    try:
        value = dataset.get("ImageType")
    except BROKEN:
        return []
    return list(value) if hasattr(value, "append") else [str(value or "")]
