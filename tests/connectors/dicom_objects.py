"""DICOM objects written from scratch: small series whose voxels and places are known."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT, MR, PET, SC, ENHANCED_CT = (
    f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "4", "128", "7", "2.1")
)  # fmt: skip
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.48, 0.64, 0.6)


def image_object(pixels: np.ndarray, **elements) -> FileDataset:
    """Return an object of (Y, X), (frame, Y, X) or (Y, X, 3) pixels; an element given as None is left out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    shape = pixels.shape[:-1] if colour else pixels.shape
    bits = 8 * pixels.dtype.itemsize
    defaults = {
        "SOPClassUID": CT, "SOPInstanceUID": generate_uid(), "SeriesInstanceUID": "1.2.3", "Modality": "CT",
        "PatientID": "P1", "PatientName": "Doe^Jane", "Rows": shape[-2], "Columns": shape[-1],
        "SamplesPerPixel": 3 if colour else 1, "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "PlanarConfiguration": 0,
        "PixelRepresentation": int(pixels.dtype.kind == "i"), "RescaleSlope": 1, "RescaleIntercept": 0,
        "PixelSpacing": [0.75, 0.5], "ImageOrientationPatient": list(AXIAL), "SliceThickness": 99,
        "SpacingBetweenSlices": 99, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }  # fmt: skip
    for name, value in {**defaults, **elements}.items():
        if value is not None:
            setattr(made, name, value)
    made.PixelData = np.ascontiguousarray(pixels).tobytes()
    return made


def normal(orientation) -> np.ndarray:
    """Return the direction at right angles to a plane of direction cosines."""
    return np.cross(orientation[:3], orientation[3:])


def slices(count: int = 5, step: float = 2.5, orientation=AXIAL, dtype=np.int16, **elements) -> list[FileDataset]:
    """A series whose slice k holds 1000 k + a ramp, `step` mm apart along its normal from (10, 20, 30)."""
    made = []
    for k in range(count):
        pixels = (np.arange(12 * 16).reshape(12, 16) + 1000 * k).astype(dtype)
        place = np.array([10.0, 20.0, 30.0]) + k * step * normal(orientation)
        fields = {"ImagePositionPatient": list(place), "ImageOrientationPatient": list(orientation)}
        made.append(image_object(pixels, **{**fields, "InstanceNumber": k + 1, **elements}))
    return made


def written(folder: Path, datasets) -> list[Path]:
    """Write data sets as 000.dcm, 001.dcm, … and return their paths."""
    paths = []
    for number, dataset in enumerate(datasets):
        path = folder / f"{number:03d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def enhanced() -> FileDataset:
    """An enhanced object: 3 places by 2 times, its frames shuffled, another slope per frame."""
    frames = [(place, time) for time in (1, 2) for place in (2, 0, 1)]
    pixels = np.stack([np.full((12, 16), 10 * place + time, np.int16) for place, time in frames])
    made = image_object(
        pixels, SOPClassUID=ENHANCED_CT, NumberOfFrames=6, ImageOrientationPatient=None, RescaleSlope=None
    )
    del made.PixelSpacing, made.SliceThickness, made.RescaleIntercept
    shared = Dataset()
    shared.PlaneOrientationSequence = Sequence([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(SAGITTAL)
    shared.PixelMeasuresSequence = Sequence([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = [0.75, 0.5]
    shared.PixelMeasuresSequence[0].SliceThickness = 9
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    items = []
    for place, time in frames:
        item = Dataset()
        item.PlanePositionSequence = Sequence([Dataset()])
        item.PlanePositionSequence[0].ImagePositionPatient = list(np.array([1.0, 2, 3]) + 4 * place * normal(SAGITTAL))
        item.FrameContentSequence = Sequence([Dataset()])
        item.FrameContentSequence[0].TemporalPositionIndex = time
        item.PixelValueTransformationSequence = Sequence([Dataset()])
        item.PixelValueTransformationSequence[0].RescaleSlope = time
        item.PixelValueTransformationSequence[0].RescaleIntercept = -100
        items.append(item)
    made.PerFrameFunctionalGroupsSequence = Sequence(items)
    return made
