"""DICOM objects to de-identify: a canary that fills every attribute of the table, and a CT, SEG and SR of one study."""

import datetime
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medloom.connectors import deid_table

ROOT = "1.3.6.1.4.1.55555."
# Attributes that cannot stand in an object as the table names them: of commands, of directories, and after the end.
UNTESTABLE_GROUPS = (0x0000, 0x0002, 0x0004, 0xFFFA, 0xFFFC)


def value_for(vr: str, tag: int):
    """A value of a VR that no other attribute of the canary has."""
    code = f"{tag:08X}"
    number = int(code, 16) % 9000
    day = datetime.date(1951, 1, 1) + datetime.timedelta(days=number)
    second = f"{tag % 24:02}{tag // 24 % 60:02}{tag // 1440 % 60:02}"
    if vr in ("AE", "CS", "SH"):
        return f"QZ{code}"
    if vr in ("LO", "LT", "ST", "UC", "UT"):
        return f"Quizzical {code}"
    return {
        "PN": f"Zanzibar{code}^Q{code}", "DA": f"{day:%Y%m%d}", "TM": second, "DT": f"{day:%Y%m%d}{second}",
        "AS": f"{1 + number % 80:03}Y", "UI": f"{ROOT}{tag}", "UR": f"http://quizzical/{code}", "DS": f"{number}.25",
        "IS": f"{number + 10}", "US": 1 + number, "UN": code.encode(), "OB": code.encode(),
    }[vr]  # fmt: skip


def testable() -> list[int]:
    """Tags of the table's rows that an object can hold and the standard's dictionary knows."""
    tags = [tag for tag in deid_table.load().codes if tag >> 16 not in UNTESTABLE_GROUPS]
    return sorted(tag for tag in tags if dictionary_has_tag(tag))


def fill(dataset: Dataset, tags: list[int]) -> None:
    """Give a data set a value for every attribute; in each sequence, one of some thirty of the table's attributes."""
    plain = [tag for tag in testable() if dictionary_VR(tag) != "SQ"]
    for number, tag in enumerate(tags):
        vr = dictionary_VR(tag)
        if vr == "SQ":
            item = Dataset()
            fill(item, plain[number % 17 :: 17])
            dataset.add(DataElement(tag, "SQ", Sequence([item])))
        elif tag not in dataset or vr != "UI":
            dataset.add(DataElement(tag, vr, value_for(vr, tag)))


def private_block(dataset: Dataset) -> None:
    """Add a private block that names somebody."""
    block = dataset.private_block(0x0029, "QUIZZICAL 01", create=True)
    block.add_new(0x10, "LO", "Quizzical private")
    block.add_new(0x11, "OB", b"Quizzical bytes!")


def ct(*, number: int = 1, patient: str = "P4711", day: str = "20150412", series: str = "1") -> Dataset:
    """A small CT image with the attributes that its IOD needs."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.SourceApplicationEntityTitle = "QUIZZICAL_AE"
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, f"{ROOT}2.{patient[1:]}.{series}.{number}"
    image.StudyInstanceUID, image.SeriesInstanceUID = f"{ROOT}3.{patient[1:]}", f"{ROOT}4.{patient[1:]}.{series}"
    image.FrameOfReferenceUID = f"{ROOT}5.{patient[1:]}"
    image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = patient, "Zebedee^Quentin", "", "F"
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = day
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "121314"
    image.AccessionNumber, image.ReferringPhysicianName, image.StudyID = "ACC-90210", "Dr^Foxtrot", "S-77001"
    image.Modality, image.Manufacturer, image.ManufacturerModelName = "CT", "ACME", "Scanner 9"
    image.InstitutionName, image.StudyDescription = "Quizzical Infirmary", "CT chest of Zebedee with contrast"
    image.SeriesNumber, image.InstanceNumber, image.PositionReferenceIndicator = 1, number, ""
    image.ImageType, image.ConvolutionKernel = ["ORIGINAL", "PRIMARY", "AXIAL"], "B30f"
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 2.5 * number], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness, image.KVP, image.AcquisitionNumber = [0.7, 0.7], 2.5, 120, 1
    image.Rows = image.Columns = 16
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 1
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = -1024, 1, "HU"
    image.PixelData = np.arange(256, dtype="<i2").tobytes()
    return image


def canary() -> Dataset:
    """A CT in which every testable attribute has a value, at top level, in a functional group, in each sequence."""
    image = ct(patient="P4712")
    fill(image, testable())
    inside = Dataset()
    fill(inside, testable())
    private_block(inside)
    image.SharedFunctionalGroupsSequence = [inside]
    private_block(image)
    image.add_new(0x60000010, "US", 16)
    image.add_new(0x60003000, "OW", b"Quizzical overlay".ljust(32))
    image.add_new(0x50000010, "US", 1)
    image.add_new(0x00100000, "UL", 4711)
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.preamble = b"Quizzical preamble".ljust(128)
    return image


def save(dataset: Dataset, path: Path) -> Path:
    """Write a data set as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def study(folder: Path) -> list[Path]:
    """Write three CT slices, a SEG on them and an SR that refers to both, of one patient."""
    images = [ct(number=number) for number in (1, 2, 3)]
    paths = [save(image, folder / f"ct{number}.dcm") for number, image in enumerate(images)]
    mask = np.zeros((3, 16, 16), np.uint8)
    mask[:, 4:8, 4:8] = 1
    segment = hd.seg.SegmentDescription(
        1, "Zebedee liver", codes.SCT.Organ, codes.SCT.Liver, hd.seg.SegmentAlgorithmTypeValues.MANUAL
    )
    common = {"manufacturer": "ACME", "series_number": 9, "instance_number": 1}
    seg = hd.seg.Segmentation(
        images, mask, hd.seg.SegmentationTypeValues.BINARY, [segment], series_instance_uid=f"{ROOT}4.9",
        sop_instance_uid=f"{ROOT}2.9", manufacturer_model_name="m", software_versions="1",
        device_serial_number="SN-314159", content_creator_name="Foxtrot^Golf", **common,
    )  # fmt: skip
    paths.append(save(seg, folder / "seg.dcm"))
    person = hd.sr.PersonObserverIdentifyingAttributes("Zebedee^Quentin")
    observer = hd.sr.ObserverContext(codes.DCM.Person, person)
    sources = [hd.sr.SourceImageForSegmentation.from_source_image(image) for image in images]
    referenced = hd.sr.ReferencedSegment(seg.SOPClassUID, seg.SOPInstanceUID, 1, source_images=sources)
    group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        hd.sr.TrackingIdentifier(uid=f"{ROOT}7.1", identifier="Zebedee 1"), referenced_segment=referenced,
        measurements=[hd.sr.Measurement(codes.SCT.Volume, 12.5, unit=codes.UCUM.CubicMillimeter)],
    )  # fmt: skip
    report = hd.sr.MeasurementReport(
        hd.sr.ObservationContext(observer), codes.LN.CTUnspecifiedBodyRegion, imaging_measurements=[group]
    )
    sr = hd.sr.Comprehensive3DSR(
        [*images, seg], report, series_instance_uid=f"{ROOT}4.8", sop_instance_uid=f"{ROOT}2.8",
        institution_name="Quizzical Infirmary", **common,
    )  # fmt: skip
    sr.SeriesDate = sr.ContentDate = "20150413"
    return [*paths, save(sr, folder / "sr.dcm")]
