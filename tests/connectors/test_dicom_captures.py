"""Saved screens, dose sheets and photographs are told by their headers, images of a body are left alone."""

import io

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from medloom.connectors import dicom
from medloom.connectors.dicom_captures import capture_reason, series_kind, stated_of

CT, SC, SC_COLOUR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.4"
US, PHOTOGRAPH = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.77.1.4"
PLACE = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}


@pytest.fixture
def header(tmp_path):
    """Return a function that writes an object with these elements and reads its header."""

    def made(name: str = "a.dcm", **elements: object) -> dicom.DicomHeader:
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
        facts = {
            "SOPClassUID": CT, "SOPInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2", "Modality": "CT", "Rows": 16,
            "Columns": 16, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 8,
            "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "PixelSpacing": [1, 1],
        }  # fmt: skip
        for keyword, value in (facts | elements).items():
            setattr(data, keyword, value)
        data.PixelData = np.zeros((16, 16), np.uint8).tobytes()
        file = io.BytesIO()
        pydicom.dcmwrite(file, data)
        (tmp_path / name).write_bytes(file.getvalue())
        return dicom.read_header(tmp_path / name)

    return made


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"SOPClassUID": SC, "Modality": "OT"}, "dicom.screen_capture"),
        ({"SOPClassUID": SC_COLOUR, "Modality": "US"}, "dicom.screen_capture"),
        ({"SOPClassUID": SC, "SeriesDescription": "Dose Report"}, "dicom.dose_report"),
        ({"SeriesDescription": "PATIENT_PROTOCOL"}, "dicom.dose_report"),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"], **PLACE}, "dicom.dose_report"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], **PLACE}, "dicom.screen_capture"),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, "dicom.screen_capture"),
        ({"SeriesDescription": "3D Snapshot 4", **PLACE}, "dicom.screen_capture"),
        ({"SOPClassUID": PHOTOGRAPH, "Modality": "XC"}, "dicom.photograph"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"], **PLACE}, ""),
        ({"ImageType": ["DERIVED", "PRIMARY"]}, ""),
        ({"ImageType": ["DERIVED", "SECONDARY"], "Modality": "US", "SOPClassUID": US}, ""),
        ({"SeriesDescription": "LOW DOSE CHEST, high dose recon", **PLACE}, ""),
        (PLACE, ""),
    ],
)
def test_what_its_header_calls_it_decides(header, elements, reason):
    assert capture_reason(header(**elements)) == reason


def test_no_word_of_a_description_gets_into_the_header(header):
    made = header(SeriesDescription="Screen Save of Jane Doe")
    assert made.series_kind == "screen_capture"
    assert "Jane" not in repr(made)
    assert {series_kind(words) for words in ("Jane Doe", "", "doses", "caption")} == {""}


def test_what_is_stated_of_identity_is_told_in_words(header):
    assert stated_of(header()) == ()
    assert stated_of(header(BurnedInAnnotation="YES", ImageType=["ORIGINAL", "SECONDARY"])) == ("burned_in", "derived")
    assert stated_of(header(BurnedInAnnotation="NO")) == ()
    assert stated_of(header(RecognizableVisualFeatures="NO")) == ("features_removed",)
    assert stated_of(header(RecognizableVisualFeatures="YES")) == ()
    code, other = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113102", "DCM"  # Clean Recognizable Visual Features
    other.CodeValue, other.CodingSchemeDesignator = "113100", "DCM"  # Basic Profile
    assert stated_of(header(DeidentificationMethodCodeSequence=[other, code])) == ("features_removed",)
    assert stated_of(header(DeidentificationMethodCodeSequence=[other])) == ()


def test_one_slice_that_is_said_to_name_somebody_says_so_of_its_volume(header, tmp_path):
    for k in range(4):
        place = {**PLACE, "ImagePositionPatient": [0, 0, k]}
        header(f"{k}.dcm", SOPInstanceUID=f"1.2.{k + 1}", BurnedInAnnotation="YES" if k == 2 else "NO", **place)
    (stack,) = dicom.read_series([tmp_path / f"{k}.dcm" for k in range(4)]).stacks
    assert stack.content.shape == (4, 16, 16)
    assert stated_of(stack.header) == ("burned_in",)
