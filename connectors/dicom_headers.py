"""DICOM headers: what may be known of an object before its pixels are read, entering by allow-list.

Identifying values stand in fields of their own (`IDENTIFYING`), everything else is a number or a word of a fixed
vocabulary, so that no free text, which may hold a name, gets past this file. No error text quotes a value.
"""

import logging
import math
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydicom.errors import BytesLengthException

from medloom.connectors.dicom_captures import DOSE_TYPES, SCREEN_TYPES, series_kind
from medloom.connectors.dicom_elements import Elements, read_elements
from medloom.schemas.errors import Refused

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

COSINE_LENGTH_TOLERANCE = 0.01  # beyond it a row or column has no direction
IDENTIFYING = ("series_uid", "study_uid", "sop_uid", "patient_id", "issuer", "frame_of_reference")
MODALITIES = ("CT", "MR", "PT", "US", "CR", "DX", "MG", "XA", "NM")  # anything else is "OT"

BODY_PARTS = {  # BodyPartExamined (PS3.16, Annex L) to our vocabulary
    "ABDOMEN": "abdomen", "ABDOMENPELVIS": "abdomen", "ANKLE": "ankle", "ARM": "arm", "BLADDER": "pelvis",
    "BRAIN": "head", "BREAST": "breast", "CHEST": "chest", "CHESTABDOMEN": "chest", "CHESTABDPELVIS": "trunk",
    "CLAVICLE": "shoulder", "CSPINE": "spine", "ELBOW": "elbow", "EXTREMITY": "extremity", "EYE": "head",
    "FEMUR": "leg", "FINGER": "hand", "FOOT": "foot", "FOREARM": "arm", "HAND": "hand", "HEAD": "head",
    "HEADNECK": "head", "HEART": "heart", "HIP": "hip", "HUMERUS": "arm", "KIDNEY": "abdomen", "KNEE": "knee",
    "LEG": "leg", "LIVER": "abdomen", "LSPINE": "spine", "LUNG": "chest", "NECK": "neck", "ORBIT": "head",
    "PANCREAS": "abdomen", "PELVIS": "pelvis", "PROSTATE": "pelvis", "RIB": "chest", "SHOULDER": "shoulder",
    "SKULL": "head", "SPINE": "spine", "SSPINE": "spine", "STERNUM": "chest", "TIBIA": "leg", "TOE": "foot",
    "TSPINE": "spine", "UTERUS": "pelvis", "WHOLEBODY": "whole-body", "WRIST": "wrist",
}  # fmt: skip

# Values of ImageType and FrameType that tell frames of one series apart (PS3.3 C.7.6.1.1.2, C.8.13.3.1, C.8.15.3.1).
IMAGE_TYPES = frozenset({
    "ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "MIXED", "AXIAL", "LOCALIZER", "MOSAIC", "VFRAME", "MPR",
    "MIP", "MINIP", "REFORMATTED", "PROJECTION IMAGE", "SUBTRACT", "SUBTRACTION", "VOLUME", "M", "P", "R", "I",
    *SCREEN_TYPES, *DOSE_TYPES,
    "MAGNITUDE", "PHASE", "REAL", "IMAGINARY", "PHASE MAP", "FIELD_MAP", "B0", "M_B0", "ADC", "FA", "TRACEW", "T1",
    "T2", "T2_STAR", "T1 MAP", "T2 MAP", "WATER", "FAT", "IN_PHASE", "OPP_PHASE", "OUT_PHASE", "W", "F", "IP", "OP",
    "DIFFUSION", "PERFUSION", "FLOW_ENCODED", "VELOCITY", "FMRI", "DENSITY MAP", "DIFFUSION MAP", "ATTENUATION",
})  # fmt: skip

PHOTOMETRIC = (
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT",
    "YBR_RCT",
)  # fmt: skip

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# Objects without an image of their own, by the start of what follows _STORAGE (PS3.6, Annex A).
_NOT_IMAGES = {
    "66": "a segmentation or registration", "481": "a radiotherapy object", "88": "a report", "104": "a document",
    "11": "a presentation state", "9": "a waveform", "30": "a parametric map", "67": "a mapping", "68": "a mapping",
}  # fmt: skip
_NOT_IMAGE_MODALITIES = frozenset({
    "SEG", "SR", "PR", "KO", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "REG", "DOC", "ECG", "FID", "SMR", "PLAN",
})  # fmt: skip
_DICOMDIR = "1.2.840.10008.1.3.10"
HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "IssuerOfPatientID",
    "FrameOfReferenceUID", "Modality", "BodyPartExamined", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "ImageType", "EchoNumbers", "InstanceNumber", "AcquisitionNumber",
    "TemporalPositionIdentifier", "BurnedInAnnotation", "SeriesDescription", "SeriesNumber",
    "RecognizableVisualFeatures", "DeidentificationMethodCodeSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]  # fmt: skip

# What pydicom and its decoders raise for broken files.
BROKEN = (
    OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError, OverflowError,
    RecursionError, RuntimeError, LookupError, UnboundLocalError, BytesLengthException, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class DicomHeader:
    """Facts of one object. The fields in `IDENTIFYING` are for tokens and grouping only, and never shown.

    Attributes:
        modality: one of `MODALITIES`, else "OT".
        body_part: in our vocabulary, "" when not stated or not known.
        position: (x, y, z) in mm, LPS, of the centre of the first voxel; () when not stated.
        orientation: direction cosines of a row, then of a column; ().
        pixel_spacing: (between rows, between columns) in mm; ().
        slice_thickness: in mm, 0 when not stated.
        image_type: its values in `IMAGE_TYPES`, in their order.
        echo_number, instance_number, temporal_position: 0 when not stated.
        transfer_syntax: UID, a registered value and no identifier.
        burned_in: "YES", "NO" or "".
        series_kind: "dose_report" or "screen_capture" where the words of its description say so, else "".
        series_number: 0 when not stated.
        features_removed: whether who de-identified it says that no face or the like can be told from it any more.

    Of a multi-frame object, geometry is that of its first frame.
    """

    series_uid: str = field(repr=False)
    study_uid: str = field(repr=False)
    sop_uid: str = field(repr=False)
    patient_id: str = field(repr=False)
    issuer: str = field(repr=False)
    frame_of_reference: str = field(repr=False)
    sop_class: str
    modality: str
    body_part: str
    rows: int
    columns: int
    n_frames: int
    samples_per_pixel: int
    photometric: str
    bits: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    slice_thickness: float
    image_type: tuple[str, ...]
    echo_number: int
    instance_number: int
    temporal_position: int
    transfer_syntax: str
    has_pixels: bool
    burned_in: str
    series_kind: str = ""
    features_removed: bool = False
    series_number: int = 0

    def series_in(self, folder: str) -> str:
        """Return what tells the object's series from others: its UID; without one (some de-identified sets), the folder
        and what the slices of a series share, and "" where the object does not say where it lies.
        """
        if self.series_uid or not (self.position and self.orientation):
            return self.series_uid
        shared = (folder, self.study_uid, self.frame_of_reference, self.series_number, self.modality)
        return "/".join(map(str, (*shared, self.rows, self.columns)))


def read_header(path: str | os.PathLike[str]) -> DicomHeader:
    """Return the header of an image object, its pixels unread.

    Raises:
        Refused("dicom.not_dicom"): the file is something else, or empty.
        Refused("dicom.not_an_image"): it is a SEG, RT object, report, presentation state or document.
        Refused("dicom.directory"): it is a DICOMDIR; the files that it lists are objects of their own.
        Refused("dicom.no_pixels"): it is an image without pixel data.
        Refused("dicom.header"): what decides its shape or place is missing, impossible or cannot be read.
        Refused("dicom.truncated"): the file ends too early.
        Refused("dicom.deflated"): it inflates to too much, or not at all.
    """
    return header_of(read_elements(path, HEADER_TAGS))


def load(path: str | os.PathLike[str], tags: Sequence[str], *, pixels: bool = False) -> "tuple[Dataset, bool]":
    """Return the elements `tags` of a file, and whether pixel data follow them; `pixels` reads those too.

    Raises:
        Refused("dicom.not_dicom"), ("dicom.header"), ("dicom.truncated"), ("dicom.deflated"): as `read_elements`.
    """
    elements = read_elements(path, tags)
    dataset, place = elements.dataset(), elements.pixels
    if place is None or place.keyword != "PixelData":
        return dataset, False
    if pixels:
        with quiet():
            dataset.add_new(place.keyword, place.vr or "OW", elements.pixel_bytes())
            dataset[place.keyword].is_undefined_length = place.encapsulated
    return dataset, True


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings and log lines away: they quote values of the file."""
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def header_of(dataset: Elements) -> DicomHeader:
    """Return the facts of an object, of its elements `HEADER_TAGS`; raises as `read_header`."""
    with quiet():
        sop_class, modality = word(dataset, "SOPClassUID"), word(dataset, "Modality").upper()
        _refuse_what_is_no_image(sop_class, modality, dataset.media_class)
        has_pixels = dataset.pixels is not None and dataset.pixels.keyword == "PixelData"
        if not has_pixels:
            raise Refused("dicom.no_pixels", "the object holds no integer pixel data")
        rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
        n_frames, samples = whole(dataset, "NumberOfFrames", 1) or 1, whole(dataset, "SamplesPerPixel", 1)
        if rows < 1 or columns < 1 or n_frames < 1 or samples not in (1, 3):
            raise Refused("dicom.header", f"{rows} x {columns} pixels, {n_frames} frames, {samples} samples: no image")
        photometric = word(dataset, "PhotometricInterpretation").upper()
        position, orientation, spacing, thickness = geometry_of(dataset, 0)
        return DicomHeader(
            series_uid=word(dataset, "SeriesInstanceUID"),
            study_uid=word(dataset, "StudyInstanceUID"),
            sop_uid=word(dataset, "SOPInstanceUID"),
            patient_id=word(dataset, "PatientID"),
            issuer=word(dataset, "IssuerOfPatientID"),
            frame_of_reference=word(dataset, "FrameOfReferenceUID"),
            sop_class=sop_class if sop_class.startswith("1.2.840.10008.") else "",
            modality=modality if modality in MODALITIES else "OT",
            body_part=BODY_PARTS.get(word(dataset, "BodyPartExamined").upper().replace(" ", ""), ""),
            rows=rows,
            columns=columns,
            n_frames=n_frames,
            samples_per_pixel=samples,
            photometric=photometric if photometric in PHOTOMETRIC else "",
            bits=whole(dataset, "BitsStored") or whole(dataset, "HighBit", -1) + 1 or whole(dataset, "BitsAllocated"),
            position=position,
            orientation=orientation,
            pixel_spacing=spacing,
            slice_thickness=thickness,
            image_type=image_types(dataset, "ImageType"),
            echo_number=whole(dataset, "EchoNumbers"),
            instance_number=whole(dataset, "InstanceNumber"),
            temporal_position=whole(dataset, "TemporalPositionIdentifier"),
            transfer_syntax=_registered(dataset.transfer_syntax),
            has_pixels=has_pixels,
            burned_in={"YES": "YES", "NO": "NO"}.get(word(dataset, "BurnedInAnnotation").upper(), ""),
            series_kind=series_kind(word(dataset, "SeriesDescription")),
            features_removed=_features_removed(dataset),
            series_number=whole(dataset, "SeriesNumber"),
        )


def _features_removed(dataset: "Dataset | Elements") -> bool:
    """Whether method 113102 (Clean Recognizable Visual Features, PS3.16 CID 7050) or (0028,0302) is stated."""
    codes = {word(item, "CodeValue") for item in items_of(dataset, "DeidentificationMethodCodeSequence")}
    return "113102" in codes or word(dataset, "RecognizableVisualFeatures").upper() == "NO"


def _refuse_what_is_no_image(sop_class: str, modality: str, media_class: str) -> None:
    if _DICOMDIR in (sop_class, media_class):
        raise Refused("dicom.directory", "it is a DICOMDIR; the files that it lists are read as they lie beside it")
    kind = (sop_class or media_class).removeprefix(_STORAGE)
    what = _NOT_IMAGES.get(kind.split(".")[0], "")
    if (sop_class or media_class).startswith(_STORAGE) and what:
        raise Refused("dicom.not_an_image", f"it is {what}")
    if modality in _NOT_IMAGE_MODALITIES:
        raise Refused("dicom.not_an_image", f"its modality is {modality}")


def _registered(uid: str) -> str:
    return uid if uid.startswith("1.2.840.10008.1.2") else ""


def geometry_of(
    dataset: "Dataset | Elements", frame: int
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], float]:
    """Return position, orientation, pixel spacing and slice thickness of one frame, () and 0 where not stated."""
    measures = functional_group(dataset, frame, "PixelMeasuresSequence") or dataset
    place = functional_group(dataset, frame, "PlanePositionSequence") or dataset
    turn = functional_group(dataset, frame, "PlaneOrientationSequence") or dataset
    thickness = numbers(measures, "SliceThickness", 1)
    return (
        numbers(place, "ImagePositionPatient", 3),
        _unit_cosines(numbers(turn, "ImageOrientationPatient", 6)),
        numbers(measures, "PixelSpacing", 2),
        thickness[0] if thickness else 0.0,
    )


def _unit_cosines(orientation: tuple[float, ...]) -> tuple[float, ...]:
    """Return direction cosines of length 1: three written digits put a far corner off by a millimetre.

    Those that are off by more than a hundredth are left as they are, to be refused.
    """
    lengths = [math.hypot(*part) for part in (orientation[:3], orientation[3:])]
    if not orientation or any(abs(length - 1) >= COSINE_LENGTH_TOLERANCE for length in lengths):
        return orientation
    return tuple(value / lengths[index // 3] for index, value in enumerate(orientation))


def functional_group(dataset: "Dataset | Elements", frame: int, keyword: str) -> "Dataset | None":
    """Return the item of a functional group of a frame: its own, else the shared one, else None (PS3.3 C.7.6.16)."""
    for sequence, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = items_of(dataset, sequence)
        if index < len(items):
            found = items_of(items[index], keyword)
            if found:
                return found[0]
    return None


def items_of(dataset: "Dataset | Elements", keyword: str) -> "Sequence[Dataset]":
    """Return the items of a sequence, [] when it is missing or no sequence."""
    try:
        items = dataset.get(keyword)
        return items if items is not None and hasattr(items, "append") else []
    except BROKEN as error:
        raise Refused("dicom.header", f"{keyword} cannot be read ({type(error).__name__})") from error


def word(dataset: "Dataset | Elements", keyword: str) -> str:
    """Return the first value of an element as text, "" when it is missing or empty."""
    values = _values(dataset, keyword)
    return str(values[0]).strip(" \0") if values else ""


def image_types(dataset: "Dataset | Elements", keyword: str) -> tuple[str, ...]:
    """Return the values of ImageType or FrameType that are in `IMAGE_TYPES`."""
    values = (str(value).strip().upper() for value in _values(dataset, keyword))
    return tuple(value for value in values if value in IMAGE_TYPES)


def whole(dataset: "Dataset | Elements", keyword: str, default: int = 0) -> int:
    """Return the first value of an element as an integer, `default` when it is missing or empty."""
    found = numbers(dataset, keyword, 1)
    return int(found[0]) if found else default


def numbers(dataset: "Dataset | Elements", keyword: str, count: int) -> tuple[float, ...]:
    """Return the first `count` values of an element as finite numbers, () when it is missing or has fewer.

    Raises:
        Refused("dicom.header"): a value is no finite number.
    """
    found = _finite(_values(dataset, keyword)[:count], keyword)
    return found if len(found) == count else ()


def numbers_all(dataset: "Dataset | Elements", keyword: str) -> tuple[float, ...]:
    """Return all values of an element as finite numbers; raises as `numbers`."""
    return _finite(_values(dataset, keyword), keyword)


def _finite(values: Sequence[Any], keyword: str) -> tuple[float, ...]:
    try:
        found = tuple(float(str(value)) for value in values)
    except ValueError as error:
        raise Refused("dicom.header", f"{keyword} is no number") from error
    if not all(math.isfinite(value) for value in found):
        raise Refused("dicom.header", f"{keyword} is not finite")
    return found


def _values(dataset: "Dataset | Elements", keyword: str) -> list[Any]:
    try:
        value = dataset.get(keyword)
    except BROKEN as error:
        raise Refused("dicom.header", f"{keyword} cannot be read ({type(error).__name__})") from error
    if value is None or value == "":
        return []
    return list(value) if hasattr(value, "append") else [value]
