"""Objects whose pixels or bytes no header rule can clean: who may hold text in its picture, who is a document.

Nothing here looks at a pixel; it says who must be looked at, or kept apart (PS3.15, E.1 and E.3.1).
"""

import re
from typing import TYPE_CHECKING

from medloom.connectors.dicom_headers import BROKEN, whole, word

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
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
_JPEG = ("50", "51", "57", "70", "80", "81")  # by what follows 1.2.840.10008.1.2.4.
_SOI = re.compile(rb"\xff\xd8(?=\xff[\xc0-\xfe])")
_HARMLESS = {0xE0: b"JFIF\0", 0xE8: b"SPIFF\0", 0xEE: b"Adobe"}  # application segments that say how to decode
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


def carries_more(dataset: "Dataset") -> str:
    """Return what stands in the pixel data beside pixels, "" when nothing is seen there.

    Bytes behind the last pixel of uncompressed data, and comments and application segments of JPEG frames. Comments of
    JPEG 2000 are not looked at: most encoders write their own name there.
    """
    value = dataset.get("PixelData")
    if not isinstance(value, bytes):
        return ""
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", "")) if hasattr(dataset, "file_meta") else ""
    if syntax in _NATIVE:
        names = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
        rows, columns, samples, bits = (whole(dataset, name, 1) for name in names)
        needed = rows * columns * samples * (whole(dataset, "NumberOfFrames", 1) or 1) * bits // 8
        return "bytes stand behind its last pixel" if len(value) > needed + 1 else ""
    if syntax.removeprefix("1.2.840.10008.1.2.4.") in _JPEG and any(_comments(part) for part in _SOI.split(value)[1:]):
        return "its frames carry comments or application data"
    return ""


def _comments(frame: bytes) -> bool:
    """Whether a JPEG frame, without its first two bytes, holds a comment or the segment of an application."""
    at = 0
    while at + 4 <= len(frame) and frame[at] == 0xFF and frame[at + 1] != 0xDA:
        marker, size = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4])
        harmless = _HARMLESS.get(marker)
        if marker == 0xFE or (0xE0 <= marker <= 0xEF and not (harmless and frame[at + 4 :].startswith(harmless))):
            return True
        at += 2 + max(size, 2)
    return False
