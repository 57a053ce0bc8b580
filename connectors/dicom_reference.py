"""DICOM objects that say something about images: what a SEG, RTSTRUCT or parametric map refers to, pixels unread.

The identifiers it returns are for tokens and for joining with series only; no error text quotes one.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from medloom.connectors.dicom_elements import Elements, read_elements
from medloom.connectors.dicom_headers import items_of, quiet, word
from medloom.schemas.errors import Refused

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

ReferenceKind = Literal["seg", "rtstruct", "parametric"]
_STORAGE = "1.2.840.10008.5.1.4.1.1."
KINDS: dict[str, ReferenceKind] = {  # by SOP class, PS3.6 Annex A
    f"{_STORAGE}66.4": "seg",
    f"{_STORAGE}66.7": "seg",  # label map
    f"{_STORAGE}481.3": "rtstruct",
    f"{_STORAGE}30": "parametric",
}
_BY_MODALITY: dict[str, ReferenceKind] = {"SEG": "seg", "RTSTRUCT": "rtstruct"}  # of an object without its SOP class
KIND_TAGS = ["SOPClassUID", "Modality"]
_TAGS = [
    *KIND_TAGS, "StudyInstanceUID", "PatientID", "IssuerOfPatientID", "FrameOfReferenceUID", "SegmentationType",
    "ReferencedSeriesSequence", "StudiesContainingOtherReferencedInstancesSequence", "SourceImageSequence",
    "ReferencedFrameOfReferenceSequence",
]  # fmt: skip
_FRAME_TAGS = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ROIContourSequence"]


@dataclass(frozen=True)
class Reference:
    """What an object is about.

    Attributes:
        kind: "seg", "rtstruct" or "parametric".
        series_uids: series that it names, in its order; () when it names images only.
        sop_uids: images that it names, in its order.
        frame_of_reference: "" when not stated (de-identified sets), then only the names of images join it.
        study_uid, patient_id, issuer: of the object.
        transforms: what reading its masks does to the stored values ("seg-threshold(0.5)").
    """

    kind: ReferenceKind
    series_uids: tuple[str, ...] = field(repr=False)
    sop_uids: tuple[str, ...] = field(repr=False)
    frame_of_reference: str = field(repr=False)
    study_uid: str = field(repr=False)
    patient_id: str = field(repr=False)
    issuer: str = field(repr=False)
    transforms: tuple[str, ...] = ()


def read_reference(path: str | os.PathLike[str]) -> Reference:
    """Return what a SEG, RTSTRUCT or parametric map refers to; the elements of its frames are read only if nothing
    before them names an image.

    Raises:
        Refused("reference.kind"): it is something else, among it an image.
        Refused("dicom.not_dicom"), ("dicom.header"), ("dicom.deflated"): as `dicom.read_header`.
    """
    with quiet():
        elements = read_elements(path, _TAGS)
        kind = kind_of(elements)
        series, images = _named(elements)
        if not series and not images:
            images = _named_by_frames(read_elements(path, _FRAME_TAGS))
        return Reference(
            kind=kind,
            series_uids=series,
            sop_uids=images,
            frame_of_reference=_frame_of_reference(elements),
            study_uid=word(elements, "StudyInstanceUID"),
            patient_id=word(elements, "PatientID"),
            issuer=word(elements, "IssuerOfPatientID"),
            transforms=transforms_of(elements) if kind == "seg" else (),
        )


def kind_of(elements: Elements) -> ReferenceKind:
    """Return which kind of object a loaded object is.

    Raises:
        Refused("reference.kind")
    """
    sop_class = word(elements, "SOPClassUID") or elements.media_class
    kind = KINDS.get(sop_class) or (None if sop_class else _BY_MODALITY.get(word(elements, "Modality").upper()))
    if kind is None:
        raise Refused("reference.kind", "it is no segmentation, structure set or parametric map")
    return kind


def transforms_of(elements: Elements) -> tuple[str, ...]:
    """Return what a segmentation's values go through before they are masks: a fraction counts from one half on."""
    return ("seg-threshold(0.5)",) if word(elements, "SegmentationType").upper() == "FRACTIONAL" else ()


def _frame_of_reference(elements: Elements) -> str:
    found = word(elements, "FrameOfReferenceUID")
    for item in items_of(elements, "ReferencedFrameOfReferenceSequence"):  # of a structure set
        found = found or word(item, "FrameOfReferenceUID")
    return found


def _named(elements: Elements) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the series and the images that an object names outside of its frames."""
    series = list(items_of(elements, "ReferencedSeriesSequence"))
    for study in items_of(elements, "StudiesContainingOtherReferencedInstancesSequence"):
        series += items_of(study, "ReferencedSeriesSequence")
    for frame_of_reference in items_of(elements, "ReferencedFrameOfReferenceSequence"):
        for study in items_of(frame_of_reference, "RTReferencedStudySequence"):
            series += items_of(study, "RTReferencedSeriesSequence")
    images = [word(item, "ReferencedSOPInstanceUID") for item in items_of(elements, "SourceImageSequence")]
    for item in series:
        for keyword in ("ReferencedInstanceSequence", "ContourImageSequence"):
            images += [word(image, "ReferencedSOPInstanceUID") for image in items_of(item, keyword)]
    return _once(word(item, "SeriesInstanceUID") for item in series), _once(iter(images))


def _named_by_frames(elements: Elements) -> tuple[str, ...]:
    """Return the images that the frames of a segmentation, or the contours of a structure set, were drawn on."""
    images: list[Dataset | Elements] = []
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in items_of(elements, keyword):
            for derivation in items_of(group, "DerivationImageSequence"):
                images += items_of(derivation, "SourceImageSequence")
    for roi in items_of(elements, "ROIContourSequence"):
        for contour in items_of(roi, "ContourSequence"):
            images += items_of(contour, "ContourImageSequence")
    return _once(word(image, "ReferencedSOPInstanceUID") for image in images)


def _once(values: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))
