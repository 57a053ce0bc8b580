"""The engine on a canary that fills the whole table, and on a study whose objects refer to each other."""

import copy
import io
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from medloom.connectors import deid_engine, deid_file, deid_types
from medloom.connectors.deid_file import Task, Written, convert
from medloom.connectors.deid_known import Known
from medloom.connectors.deid_rules import profile
from medloom.schemas.errors import Refused
from medloom.schemas.keys import Identity
from tests.connectors.deid_measures import levels, unchanged
from tests.connectors.deid_objects import ROOT, canary, ct, private_block, save, study

IDENTITY = Identity(b"k" * 32)


def converted(path: Path, folder: Path, name: str = "research", **asked) -> tuple[Written, Dataset]:
    written = convert(Task(str(path), str(folder), IDENTITY, profile(name), Known(), **asked))
    return written, pydicom.dcmread(folder / written.file)


def deidentified(dataset: Dataset, name: str = "research") -> Dataset:
    deid_engine.deidentify(dataset, identity=IDENTITY, profile=profile(name))
    return dataset


@pytest.fixture(scope="module")
def canary_file(tmp_path_factory) -> Path:
    return save(canary(), tmp_path_factory.mktemp("canary") / "Zebedee.dcm")


@pytest.fixture(scope="module", params=["basic", "research"])
def pair(request, canary_file, tmp_path_factory) -> tuple[str, Dataset, Dataset, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    written, output = converted(canary_file, folder, request.param)
    return request.param, pydicom.dcmread(canary_file), output, folder / written.file


def test_no_attribute_of_the_table_keeps_its_value_at_any_level(pair):
    name, original, output, _ = pair
    top, n_top, nested, n_nested = unchanged(original, output)
    assert n_top > 500
    assert n_nested > 3000
    if name == "research":  # the option keeps the time of day, and only that
        top = [tag for tag in top if dictionary_VR(tag) != "TM"]
        nested = [tag for tag in nested if dictionary_VR(tag) != "TM"]
    assert [keyword_for_tag(tag) for tag in top] == []
    assert sorted({keyword_for_tag(tag) for tag in nested}) == []


def test_nothing_private_no_overlay_no_curve_and_no_group_length_is_left(pair):
    _, _, output, _ = pair
    for level in levels(output):
        for tag in level.keys():  # noqa: SIM118  iterating gives elements
            assert not tag.is_private
            assert tag.group & 0xFF00 not in (0x5000, 0x6000)
            assert tag.element != 0


def test_file_and_preamble_hold_nothing_of_the_original(pair):
    _, _, output, path = pair
    data = path.read_bytes()
    assert data[:128] == bytes(128)
    assert not any(word in data.lower() for word in (b"quizzical", b"zanzibar", b"zebedee", ROOT.encode(), b"p4712"))
    assert output.file_meta.MediaStorageSOPInstanceUID == output.SOPInstanceUID
    assert output.file_meta.ImplementationClassUID == deid_engine.IMPLEMENTATION_UID
    kept = {element.keyword for element in output.file_meta}
    assert kept == {
        "FileMetaInformationGroupLength", "FileMetaInformationVersion", "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID", "TransferSyntaxUID", "ImplementationClassUID", "ImplementationVersionName",
    }  # fmt: skip


def test_the_object_says_what_was_done_to_it(pair):
    name, _, output, _ = pair
    assert output.PatientIdentityRemoved == "YES"
    codes = [item.CodeValue for item in output.DeidentificationMethodCodeSequence]
    assert codes == [code for code, _ in profile(name).codes]
    assert {item.CodingSchemeDesignator for item in output.DeidentificationMethodCodeSequence} == {"DCM"}
    assert output.LongitudinalTemporalInformationModified == ("MODIFIED" if name == "research" else "REMOVED")
    assert output.get("BurnedInAnnotation", "") != "NO"


@pytest.mark.parametrize("name", ["basic", "research"])
def test_what_an_iod_needs_stays(tmp_path, name):
    for path in study(tmp_path / "in"):
        original = pydicom.dcmread(path)
        _, output = converted(path, tmp_path / "out", name)
        first, second = deid_types.needed(original.SOPClassUID)
        assert len(first) > 10
        for keyword in first & set(original.dir()):
            assert output.get(keyword) not in (None, ""), (path.name, keyword)
        assert {keyword for keyword in second if keyword in original} <= set(output.dir())


def referenced(dataset: Dataset) -> Iterator[str]:
    for level in levels(dataset):
        if "ReferencedSOPInstanceUID" in level:
            yield level.ReferencedSOPInstanceUID


@pytest.mark.parametrize("name", ["basic", "research"])
def test_references_between_ct_seg_and_sr_stay_whole(tmp_path, name):
    paths = study(tmp_path / "in")
    outputs = [converted(path, tmp_path / "out", name)[1] for path in paths]
    there = {output.SOPInstanceUID for output in outputs}
    assert len(there) == 5
    *images, seg, sr = outputs
    assert set(referenced(seg)) == {image.SOPInstanceUID for image in images}
    assert set(referenced(sr)) == there - {sr.SOPInstanceUID}
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == images[0].SeriesInstanceUID
    assert len({output.StudyInstanceUID for output in outputs}) == 1
    assert len({output.FrameOfReferenceUID for output in (*images, seg)}) == 1
    assert len({output.PatientID for output in outputs}) == 1
    assert images[0].PatientID == IDENTITY.token("patient", "\0P4711")
    old = {uid for path in paths for uid in referenced(pydicom.dcmread(path))}
    assert not old & there


def test_a_report_keeps_its_codes_and_measurements_and_loses_its_names(tmp_path):
    _, sr = converted(study(tmp_path / "in")[-1], tmp_path / "out")
    text = str(sr)
    assert "Zebedee" not in text
    values = [level.NumericValue for level in levels(sr) if "NumericValue" in level]
    assert values == [12.5]
    assert "118565006" in text
    assert {str(level.PersonName) for level in levels(sr) if "PersonName" in level} == {"REMOVED"}
    _, basic = converted(tmp_path / "in" / "sr.dcm", tmp_path / "basic", "basic")
    assert not [level.NumericValue for level in levels(basic) if level.get("NumericValue")]


def test_the_basic_profile_leaves_the_shape_of_a_report_only():
    report = ct()
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    items = [Dataset(), Dataset()]
    for item in items:
        item.ValueType, item.TextValue, item.NumericValue = "TEXT", "left lung mass", "12.5"
        item.UID = "1.3.6.1.4.1.9.9"
    report.ContentSequence = items
    cleaned = deidentified(copy.deepcopy(report)).ContentSequence
    assert [item.TextValue for item in cleaned] == ["left lung mass"] * 2
    blank = deidentified(report, "basic").ContentSequence
    assert [(item.TextValue, item.NumericValue, item.UID[:5]) for item in blank] == [("REMOVED", 0, "2.25.")]


def test_dates_move_together_and_patients_apart(tmp_path):
    days = {}
    for patient in ("P1", "P2", "P3"):
        first = converted(save(ct(patient=patient), tmp_path / f"{patient}a.dcm"), tmp_path / "out")[1]
        later = ct(patient=patient, day="20160301", series="2")
        later.AcquisitionDateTime = "20160301121314.5"
        second = converted(save(later, tmp_path / f"{patient}b.dcm"), tmp_path / "out")[1]
        moved = [datetime.strptime(image.StudyDate, "%Y%m%d") for image in (first, second)]
        assert (moved[1] - moved[0]).days == (datetime(2016, 3, 1) - datetime(2015, 4, 12)).days
        assert second.AcquisitionDateTime == f"{second.StudyDate}121314.5"
        assert second.StudyTime == "121314"
        days[patient] = (moved[0] - datetime(2015, 4, 12)).days
    assert len(set(days.values())) == 3
    assert all(-365 <= shift <= -1 for shift in days.values())


def test_the_same_object_and_secret_give_the_same_bytes(tmp_path):
    path = save(ct(), tmp_path / "a.dcm")
    first, _ = converted(path, tmp_path / "one")
    second, _ = converted(path, tmp_path / "two")
    assert first.file == second.file
    assert (tmp_path / "one" / first.file).read_bytes() == (tmp_path / "two" / second.file).read_bytes()
    other = convert(Task(str(path), str(tmp_path / "three"), Identity(b"l" * 32), profile("research"), Known()))
    assert other.file != first.file


def test_a_text_outside_the_table_goes_when_it_repeats_an_identifier():
    image = ct()
    image.ConvolutionKernel = "B30f for Zebedee"
    image.SoftwareVersions = ["VA20", "acc-90210"]
    image.FilterType = "done 12.04.2015"
    image.ProtocolName = "Chest Zebedee routine"
    image.Manufacturer = "Zebedee"
    output = deidentified(image)
    assert not {"ConvolutionKernel", "SoftwareVersions", "FilterType"} & set(output.dir())
    assert "Manufacturer" in output  # type 2
    assert not output.Manufacturer
    assert output.ProtocolName == "Chest routine"
    assert deidentified(ct()).ConvolutionKernel == "B30f"


def test_standard_attributes_outside_the_table_stay():
    original, output = ct(), deidentified(ct())
    for keyword in (
        "Rows",
        "PixelSpacing",
        "ImageOrientationPatient",
        "RescaleIntercept",
        "KVP",
        "ImageType",
        "Modality",
    ):
        assert output[keyword].value == original[keyword].value


def test_unknown_attributes_and_those_of_other_kinds_go():
    image = ct()
    image.add_new(0x00093001, "LO", "odd group without a creator")
    image.add_new(0x0008FF01, "LO", "not in the dictionary")
    image.add_new(0x00041500, "CS", "IMAGES")
    image.PatientAge = "103Y"
    output = deidentified(image, "research-patient")
    assert not {0x00093001, 0x0008FF01, 0x00041500} & {int(tag) for tag in output.keys()}  # noqa: SIM118
    assert output.PatientAge == "090Y"
    assert output.PatientSex == "F"


def diffusion() -> Dataset:
    image = ct()
    block = image.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    block.add_new(0x0E, "FD", [0.0, 0.6, 0.8])
    block.add_new(0x0D, "CS", "ZEBEDEE")
    block.add_new(0x0F, "SH", "Fast")
    private_block(image)
    return image


def test_safe_private_numbers_stay_under_their_option_only(tmp_path):
    _, output = converted(save(diffusion(), tmp_path / "in.dcm"), tmp_path / "out", "research-private")
    private = {int(tag) for tag in output.keys() if tag.is_private}  # noqa: SIM118
    assert private == {0x00190010, 0x0019100C, 0x0019100E}
    assert output[0x0019100C].value == 1000
    assert list(output[0x0019100E].value) == [0.0, 0.6, 0.8]
    assert not [tag for tag in deidentified(diffusion()).keys() if tag.is_private]  # noqa: SIM118


def test_safe_private_numbers_stay_in_implicit_vr(tmp_path):
    image = diffusion()
    image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    _, output = converted(save(image, tmp_path / "in.dcm"), tmp_path / "out", "research-private")
    private = {int(tag) for tag in output.keys() if tag.is_private}  # noqa: SIM118
    assert private == {0x00190010, 0x0019100C, 0x0019100E}


def test_big_endian_pixels_stay(tmp_path):
    image = ct()
    image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    image.PixelData = np.arange(256, dtype=">i2").tobytes()
    _, output = converted(save(image, tmp_path / "in.dcm"), tmp_path / "out")
    assert output.PixelData == image.PixelData
    assert output.file_meta.TransferSyntaxUID == ExplicitVRBigEndian


def test_uids_may_be_retained(tmp_path):
    written, output = converted(save(ct(), tmp_path / "in.dcm"), tmp_path / "out", "retain-uids")
    assert output.SOPInstanceUID == written.original_uid
    assert written.file.count("P4711") == 0
    assert ct().SOPInstanceUID not in written.file


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID"])
def test_an_object_without_its_names_is_refused(keyword):
    image = ct()
    delattr(image, keyword)
    with pytest.raises(Refused, match=f"deid.header: {keyword} is missing"):
        deidentified(image)


def test_deep_nesting_is_refused(tmp_path):
    image = inner = ct()
    for _ in range(60):
        item = Dataset()
        item.PatientName = "Zebedee"
        inner.ReferencedSeriesSequence = [item]
        inner = item
    with pytest.raises(Refused, match=r"deid\.depth|deid\.header"):
        deid_file.survey(str(save(image, tmp_path / "deep.dcm")))
    with pytest.raises(Refused, match=r"deid\.depth"):
        deidentified(image)


def test_an_object_without_study_and_series_is_cleaned_like_any_other(tmp_path):
    image = ct()
    del image.StudyInstanceUID, image.SeriesInstanceUID, image.PatientID
    path = save(image, tmp_path / "in.dcm")
    assert deid_file.survey(str(path)).study == image.SOPInstanceUID
    written, output = converted(path, tmp_path / "out")
    assert re.fullmatch(r"[a-z2-7]{16}/[a-z2-7]{16}\.dcm", written.file)
    assert output.StudyDate < "20150412"


def test_class_and_uid_come_from_the_file_meta_where_the_data_set_leaves_them_empty(tmp_path):
    whole = save(ct(), tmp_path / "whole.dcm")
    image = pydicom.dcmread(whole)
    del image.SOPInstanceUID
    image.SOPClassUID = ""
    pydicom.dcmwrite(tmp_path / "empty.dcm", image)
    assert converted(tmp_path / "empty.dcm", tmp_path / "a")[0].file == converted(whole, tmp_path / "b")[0].file


@pytest.mark.parametrize("name", ["basic", "research"])
def test_texts_that_the_table_does_not_name_keep_no_word_outside_the_vocabulary(name):
    made = ct()
    for keyword in ("SegmentLabel", "DocumentTitle", "OwnerID", "TrackingID", "ContentDescription", "FrameLabel"):
        setattr(made, keyword, "Frobnicate")
    made.PatientBirthDateInAlternativeCalendar = "1369-06-25 H"
    kept = str(deidentified(made, name))
    assert "Frobnicate" not in kept
    assert "1369" not in kept


@pytest.mark.parametrize("text", ["chest 12.04.2015", "CT head 12.04.1950", "chest 7.5.69", "chest 12 and 03 and 45"])
def test_no_piece_of_a_date_stays_in_a_cleaned_description(text):
    made = ct()
    made.SeriesDescription = text
    kept = deidentified(made).SeriesDescription
    assert not re.search(r"12\.04|7\.5|03|45", kept)
    assert kept.startswith(("chest", "CT head"))


def test_bytes_behind_the_last_pixel_keep_an_object_apart(tmp_path):
    made = ct()
    made.PixelData += b"Zebedee Quentin 19500412"
    with pytest.raises(Refused, match="behind its last pixel"):
        converted(save(made, tmp_path / "a.dcm"), tmp_path / "out", pixels="keep")


def test_a_comment_in_a_jpeg_frame_keeps_an_object_apart(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(file, "JPEG", comment=b"Zebedee Quentin")
    made = ct()
    made.Rows = made.Columns = 32
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit = 7
    made.PixelData = encapsulate([file.getvalue()])
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made["PixelData"].is_undefined_length = True
    with pytest.raises(Refused, match="comments or application data"):
        converted(save(made, tmp_path / "a.dcm"), tmp_path / "out", pixels="keep")
