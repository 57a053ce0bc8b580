"""Small DICOM objects made for tests: a CT series, and what highdicom or pydicom write about it.

Slices are made along the normal in the order of the paths; names of files and instance numbers run against it, so that
a reader that trusts either is found out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)

from medloom.schemas.volume import Volume

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.9396926208, 0.3420201433, 0.0, -0.3213938048, 0.8830222216, 0.3420201433)  # 20 degrees about z, then x
PATIENT = "MADE-PATIENT"


def ct_series(
    folder: Path,
    *,
    shape: tuple[int, int, int] = (6, 19, 23),
    spacing_mm: tuple[float, float, float] = (2.5, 0.8, 0.7),
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-50.0, -40.0, -300.0),
    shift_mm: Sequence[float] = (0.0, 0.0, 0.0),
    uid: str = "series",
    frame_of_reference: bool = True,
    array: np.ndarray | None = None,
) -> list[Path]:
    """Write a CT series of (Z, Y, X) and return its files, slice by slice along the normal.

    Args:
        shift_mm: what each slice is moved by in its plane against the one before it (a tilted gantry).
        uid: what all of the series' identifiers are made of.
        frame_of_reference: False leaves its UID out, as some de-identifiers do.
        array: stored values of uint16; noise when not given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if array is None:
        array = np.random.default_rng(7).integers(0, 2000, shape, dtype=np.uint16)
    row, column = np.reshape(orientation, (2, 3))
    paths = []
    for index, plane in enumerate(array):
        slice_, number = _ct_slice(uid, index), len(array) - index
        position = np.array(origin) + index * (np.cross(row, column) * spacing_mm[0] + np.array(shift_mm))
        slice_.ImagePositionPatient = [f"{value:.8g}"[:16] for value in position]
        slice_.ImageOrientationPatient = [f"{value:.10f}" for value in orientation]
        slice_.PixelSpacing = [spacing_mm[1], spacing_mm[2]]
        slice_.SliceThickness, slice_.InstanceNumber = spacing_mm[0], number
        slice_.Rows, slice_.Columns = plane.shape
        slice_.PixelData = np.ascontiguousarray(plane, "<u2").tobytes()
        if frame_of_reference:
            slice_.FrameOfReferenceUID, slice_.PositionReferenceIndicator = made_uid(uid, "frame"), ""
        paths.append(folder / f"{number:04d}.dcm")
        slice_.save_as(paths[-1], enforce_file_format=True)
    return paths


def made_uid(*parts: object) -> str:
    """Return a UID that is the same for the same parts."""
    return str(generate_uid(entropy_srcs=[repr(parts)]))


def _ct_slice(uid: str, index: int) -> Dataset:
    made = _object(CTImageStorage, made_uid(uid, "image", index), ExplicitVRLittleEndian)
    made.Modality, made.SeriesInstanceUID, made.StudyInstanceUID = "CT", made_uid(uid), made_uid("study")
    made.SeriesNumber, made.StudyID, made.AccessionNumber = 1, "1", "A-1"
    made.PatientID, made.PatientName, made.PatientBirthDate, made.PatientSex = PATIENT, "Made^Patient", "19500101", "O"
    made.StudyDate, made.StudyTime, made.ContentDate, made.ContentTime = "20200101", "101010", "20200101", "101010"
    made.ImageType, made.ReferringPhysicianName, made.Manufacturer = ["ORIGINAL", "PRIMARY", "AXIAL"], "", "made"
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 0
    made.RescaleSlope, made.RescaleIntercept, made.RescaleType = 1, -1024, "HU"
    made.KVP, made.AcquisitionNumber, made.PatientPosition = 120, 1, "HFS"
    return made


def _object(sop_class: str, sop_uid: str, syntax: str) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = sop_class, sop_uid
    made.SOPClassUID, made.SOPInstanceUID = sop_class, sop_uid
    return made


def grid_of(paths: Sequence[Path]) -> Volume:
    """Return the volume of a series made here, by the definition of its affine and by no reader of ours."""
    slices = [pydicom.dcmread(path) for path in paths]
    first, last = slices[0], slices[-1]
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.ImageOrientationPatient[:3], float) * float(first.PixelSpacing[1])
    affine[:3, 1] = np.array(first.ImageOrientationPatient[3:], float) * float(first.PixelSpacing[0])
    span = np.array(last.ImagePositionPatient, float) - np.array(first.ImagePositionPatient, float)
    affine[:3, 2] = span / (len(slices) - 1)
    affine[:3, 3] = first.ImagePositionPatient
    return Volume(np.stack([slice_.pixel_array for slice_ in slices]).astype(np.int16) - 1024, affine, units="HU")


def enhanced_of(paths: Sequence[Path], path: Path) -> Path:
    """Write the series as one multi-frame object (Legacy Converted Enhanced CT), and return its file."""
    made = hd.legacy.LegacyConvertedEnhancedCTImage(
        legacy_datasets=[pydicom.dcmread(source) for source in paths],
        series_instance_uid=made_uid("enhanced"),
        series_number=2,
        sop_instance_uid=made_uid("enhanced", "image"),
        instance_number=1,
    )
    made.save_as(path)
    return path


def segment(
    number: int, label: str, kind: Code = codes.SCT.Tissue, *, side: Code | None = None, region: Code | None = None
) -> hd.seg.SegmentDescription:
    """Return the description of a segment: free text, coded type, its laterality, the region that it is in."""
    made = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=kind,
        algorithm_type="MANUAL",
        anatomic_regions=None if region is None else [region],
    )
    if side is not None:
        made.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            CodedConcept.from_code(side)
        ]
    return made


def seg_of(
    paths: Sequence[Path],
    masks: np.ndarray,
    labels: Sequence[hd.seg.SegmentDescription],
    *,
    path: Path,
    kind: str = "BINARY",
    **changes: Any,
) -> Path:
    """Write a SEG on a series, or on one multi-frame object, and return its file.

    Args:
        masks: (Z, Y, X) of segment numbers, or (Z, Y, X, segment), slices in the order of `paths`.
        kind: "BINARY", "FRACTIONAL" or "LABELMAP".
        changes: further arguments of highdicom's Segmentation.
    """
    made = hd.seg.Segmentation(
        source_images=[pydicom.dcmread(source) for source in paths],
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=list(labels),
        series_instance_uid=made_uid("seg"),
        series_number=3,
        sop_instance_uid=made_uid("seg", path.name),
        instance_number=1,
        manufacturer="made",
        manufacturer_model_name="made",
        software_versions="1",
        device_serial_number="1",
        **changes,
    )
    made.save_as(path)
    return path


def rtstruct_of(
    paths: Sequence[Path],
    regions: Mapping[str, Sequence[tuple[float, np.ndarray]]],
    *,
    path: Path,
    kind: str = "CLOSED_PLANAR",
) -> Path:
    """Write a structure set on a series and return its file.

    Args:
        regions: name of each region to its contours, (slice, points): points are (N, 2) voxels x, y, fractions allowed
            for both.
    """
    affine = grid_of(paths).affine
    first = pydicom.dcmread(paths[0], stop_before_pixels=True)
    made = _object(RTStructureSetStorage, made_uid("rtstruct", path.name), ImplicitVRLittleEndian)
    made.Modality, made.SeriesInstanceUID, made.StudyInstanceUID = "RTSTRUCT", made_uid("rt"), first.StudyInstanceUID
    made.PatientID, made.StructureSetLabel = first.PatientID, "made"
    made.ReferencedFrameOfReferenceSequence = [_frame_of_reference(first, paths)]
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    for number, (name, contours) in enumerate(regions.items(), 1):
        roi, drawn, observed = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, name, "MANUAL"
        drawn.ReferencedROINumber = observed.ReferencedROINumber = number
        observed.ObservationNumber, observed.RTROIInterpretedType, observed.ROIInterpreter = number, "ORGAN", ""
        drawn.ContourSequence = [_contour(points, depth, affine, kind) for depth, points in contours]
        made.StructureSetROISequence.append(roi)
        made.ROIContourSequence.append(drawn)
        made.RTROIObservationsSequence.append(observed)
    made.save_as(path, enforce_file_format=True)
    return path


def _frame_of_reference(first: Dataset, paths: Sequence[Path]) -> Dataset:
    frame, study, series = Dataset(), Dataset(), Dataset()
    frame.FrameOfReferenceUID = first.get("FrameOfReferenceUID", made_uid("no frame"))
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", first.StudyInstanceUID
    series.SeriesInstanceUID, series.ContourImageSequence = first.SeriesInstanceUID, []
    for source in paths:
        image = Dataset()
        image.ReferencedSOPClassUID = CTImageStorage
        image.ReferencedSOPInstanceUID = pydicom.dcmread(source, stop_before_pixels=True).SOPInstanceUID
        series.ContourImageSequence.append(image)
    study.RTReferencedSeriesSequence = [series]
    frame.RTReferencedStudySequence = [study]
    return frame


def _contour(points: np.ndarray, depth: float, affine: np.ndarray, kind: str) -> Dataset:
    made = Dataset()
    made.ContourGeometricType, made.NumberOfContourPoints = kind, len(points)
    voxels = np.column_stack([points, np.full(len(points), depth), np.ones(len(points))])
    made.ContourData = [f"{value:.9g}" for value in (voxels @ affine.T)[:, :3].ravel()]
    return made
