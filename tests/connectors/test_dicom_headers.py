"""Headers give coded facts and nothing that identifies; what is no image, or hostile, is refused, quickly."""

import logging
import os
import random
import time
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR, keyword_dict

from medloom.connectors.dicom import IDENTIFYING, DicomHeader, read_header, read_series
from medloom.connectors.dicom_headers import BODY_PARTS, IMAGE_TYPES, MODALITIES, PHOTOMETRIC
from medloom.connectors.guard import Guard
from medloom.schemas.errors import Refused

SECRET = "Doe^Jane^1961"
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")  # pydicom, of what the tests plant


def _packaged(name: str) -> str:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is in no installed package")
    return str(path)


def _reason(path: Path | str) -> str:
    with pytest.raises(Refused) as error:
        read_header(path)
    return error.value.reason


def _changed(folder: Path, **elements) -> Path:
    dataset = pydicom.dcmread(_packaged("CT_small.dcm"))
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(folder / "x.dcm")
    return folder / "x.dcm"


def test_facts_of_a_header_are_those_that_pydicom_reads():
    dataset = pydicom.dcmread(_packaged("CT_small.dcm"))
    header = read_header(_packaged("CT_small.dcm"))
    assert (header.rows, header.columns) == (dataset.Rows, dataset.Columns)
    assert header.position == tuple(map(float, dataset.ImagePositionPatient))
    assert header.orientation == tuple(map(float, dataset.ImageOrientationPatient))
    assert header.pixel_spacing == tuple(map(float, dataset.PixelSpacing))
    assert header.slice_thickness == float(dataset.SliceThickness)
    assert header.series_uid == dataset.SeriesInstanceUID
    assert header.patient_id == dataset.PatientID
    assert (header.modality, header.photometric, header.bits) == ("CT", "MONOCHROME2", 16)
    assert header.transfer_syntax == "1.2.840.10008.1.2.1"
    assert header.has_pixels


def test_no_free_text_enters_however_it_is_planted(tmp_path):
    """Every text element of the standard's dictionary that can hold it holds a name."""
    dataset = pydicom.dcmread(_packaged("CT_small.dcm"))
    planted = 0
    for keyword, tag in keyword_dict.items():
        if tag >> 16 in (0, 2) or keyword in ("SpecificCharacterSet", *PIXELS) or not keyword:
            continue
        if dictionary_VR(tag) in ("LO", "LT", "PN", "SH", "ST", "UT", "UC", "AE", "CS", "UI"):
            setattr(dataset, keyword, SECRET)
            planted += 1
    assert planted > 1000
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.save_as(tmp_path / "x.dcm")
    header = read_header(tmp_path / "x.dcm")
    assert header.patient_id == SECRET
    shown = {name: value for name, value in vars(header).items() if name not in IDENTIFYING}
    assert "Doe" not in repr(shown)
    assert "Doe" not in repr(header)
    assert "Doe" not in repr(read_series([tmp_path / "x.dcm"]).refused)


PIXELS = ("PixelDataProviderURL", "TransferSyntaxUID")


def test_nothing_of_a_header_is_logged_or_warned_of(tmp_path, caplog, recwarn):
    path = _changed(tmp_path, PatientID=SECRET * 9, SOPClassUID=SECRET, Modality=SECRET.lower(), SliceThickness="1.5")
    caplog.clear()
    recwarn.clear()
    with caplog.at_level(logging.DEBUG):
        pydicom.dcmread(path).SOPClassUID  # noqa: B018  pydicom by itself quotes what it finds
        assert "Doe" in caplog.text
        caplog.clear()
        recwarn.clear()
        read_header(path)
        read_series([path])
    assert "Doe" not in caplog.text + "".join(str(warning.message) for warning in recwarn)


def test_words_are_of_fixed_vocabularies_in_every_file_at_hand():
    headers = _all_headers()
    assert len(headers) > 30
    for header in headers:
        assert header.modality in (*MODALITIES, "OT")
        assert header.body_part in ("", *BODY_PARTS.values())
        assert set(header.image_type) <= IMAGE_TYPES
        assert header.photometric in ("", *PHOTOMETRIC)
        assert header.burned_in in ("", "YES", "NO")
        for uid in (header.sop_class, header.transfer_syntax):
            assert uid == "" or uid.startswith("1.2.840.10008.")


def _all_headers() -> list[DicomHeader]:
    folder = Path(_packaged("CT_small.dcm")).parent
    found = []
    for path in sorted(folder.glob("*.dcm")):
        try:
            found.append(read_header(path))
        except Refused:
            continue
    return found


def test_words_outside_the_vocabularies_become_nothing(tmp_path):
    path = _changed(tmp_path, Modality="XC", BodyPartExamined="JANES TOE", ImageType=["ORIGINAL", "JANE", "AXIAL"])
    header = read_header(path)
    assert (header.modality, header.body_part, header.image_type) == ("OT", "", ("ORIGINAL", "AXIAL"))
    assert read_header(_changed(tmp_path, BodyPartExamined="chest")).body_part == "chest"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("liver_1frame.dcm", "dicom.not_an_image"),
        ("rtstruct.dcm", "dicom.not_an_image"),
        ("rtplan.dcm", "dicom.not_an_image"),
        ("rtdose.dcm", "dicom.not_an_image"),
        ("test-SR.dcm", "dicom.not_an_image"),
        ("waveform_ecg.dcm", "dicom.not_an_image"),
        ("ExplVR_LitEndNoMeta.dcm", "dicom.not_an_image"),
        ("dicomdirtests/DICOMDIR", "dicom.directory"),
        ("UN_sequence.dcm", "dicom.no_pixels"),
        ("no_meta.dcm", "dicom.not_dicom"),
        ("zipMR.gz", "dicom.not_dicom"),
        ("README.txt", "dicom.not_dicom"),
    ],
)
def test_what_is_no_image_is_refused_for_its_reason(name, reason):
    assert _reason(_packaged(name)) == reason


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Rows": 0}, "dicom.header"),
        ({"NumberOfFrames": -3}, "dicom.header"),
        ({"SamplesPerPixel": 7}, "dicom.header"),
        ({"Modality": "KO"}, "dicom.not_an_image"),
        ({"Modality": "PR"}, "dicom.not_an_image"),
    ],
)
def test_impossible_headers_are_refused(tmp_path, elements, reason):
    assert _reason(_changed(tmp_path, **elements)) == reason


@pytest.mark.parametrize(
    ("old", "new"), [(b"-135.803", b"Doe^Jane"), (b"-135.803", b"1e999999"), (b"-135.803", b"nan     ")]
)
def test_a_position_that_is_no_number_is_refused_without_quoting_it(tmp_path, old, new):
    data = Path(_packaged("CT_small.dcm")).read_bytes()
    place = data.index(b"\x20\x00\x32\x00DS") + 8
    (tmp_path / "x.dcm").write_bytes(data[:place] + new + data[place + len(new) :])
    with pytest.raises(Refused) as error:
        read_header(tmp_path / "x.dcm")
    assert error.value.reason == "dicom.header"
    assert "Doe" not in str(error.value)


def _series_reason(path: Path) -> str:
    start = time.monotonic()
    series = read_series([path])
    assert time.monotonic() - start < 5
    assert series.stacks == ()
    ((_, reason, _),) = series.refused
    return reason


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Rows": 65535, "Columns": 65535}, "dicom.size"),
        ({"Rows": 4000, "Columns": 4000}, "dicom.truncated"),
        ({"NumberOfFrames": 2**31 - 1}, "dicom.size"),
        ({"NumberOfFrames": 100}, "dicom.truncated"),
        ({"BitsAllocated": 1, "BitsStored": 1}, "dicom.bits"),
        ({"BitsAllocated": 64, "BitsStored": 64}, "dicom.bits"),
        ({"BitsStored": 40}, "dicom.bits"),
    ],
)
def test_sizes_that_lie_are_refused_before_pixels_are_read(tmp_path, elements, reason):
    assert _series_reason(_changed(tmp_path, **elements)) == reason


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_compressed_sizes_that_lie_are_refused(tmp_path, name):
    dataset = pydicom.dcmread(_packaged(name))
    dataset.Rows = dataset.Columns = 65535
    dataset.save_as(tmp_path / "x.dcm")
    assert _series_reason(tmp_path / "x.dcm") == "dicom.size"
    dataset.Rows = dataset.Columns = 3000
    dataset.save_as(tmp_path / "x.dcm")
    assert _series_reason(tmp_path / "x.dcm") in ("dicom.pixels", "dicom.truncated")


@pytest.mark.parametrize(
    "data",
    [b"", b"x", bytes(128) + b"DICM", b"\x08\x00\x05\x00CS", os.urandom(4000), bytes(128) + b"DICM" + os.urandom(4000)],
)
def test_other_bytes_are_refused(tmp_path, data):
    (tmp_path / "x.dcm").write_bytes(data)
    assert _series_reason(tmp_path / "x.dcm").startswith("dicom.")


def test_a_one_pixel_image_is_refused_as_a_picture(tmp_path):
    path = _changed(tmp_path, Rows=1, Columns=1, Modality="DX", PixelData=b"\0\0")
    assert _series_reason(path) == "image.too_small"


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path):
    """A seeded fuzz inside the guard, since a damaged codestream makes a native decoder abort the process."""
    names = ("CT_small", "MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "SC_rgb_small_odd_jpeg")
    seeds = [Path(_packaged(f"{name}.dcm")).read_bytes() for name in names]
    chance = random.Random(20)
    with Guard() as guard:
        for _ in range(300):
            data = bytearray(chance.choice(seeds))
            if chance.random() < 0.2:
                del data[chance.randrange(len(data)) :]
            for _ in range(chance.choice([1, 3, 10, 40])):
                data[chance.randrange(min(len(data), chance.choice([3000, len(data)])))] = chance.randrange(256)
            (tmp_path / "x.dcm").write_bytes(data)
            try:
                series = guard.call(read_series, [str(tmp_path / "x.dcm")], timeout_s=20.0)
            except Refused:
                continue
            assert len(series.stacks) + len(series.refused) >= 1
