"""The verify pass finds what is left behind, and real files leave nothing."""

import re
from collections import Counter
from pathlib import Path

import data_store
import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset

from medloom.connectors import deid_engine, deid_file, deid_score, deid_verify
from medloom.connectors.deid_file import Task, convert
from medloom.connectors.deid_known import Known, collect
from medloom.connectors.deid_rules import profile
from medloom.connectors.dicom_headers import quiet
from medloom.schemas.errors import Refused
from medloom.schemas.keys import Identity
from tests.connectors.deid_measures import levels
from tests.connectors.deid_objects import ROOT, canary, ct, private_block, save, study

IDENTITY = Identity(b"k" * 32)
LARGEST_BYTES = 3_000_000


def task(path: Path, folder: Path, **asked) -> Task:
    return Task(str(path), str(folder), IDENTITY, profile("research"), Known(), **asked)


def found(change, folder: Path) -> set[tuple[str, str]]:
    """What the verify pass says of a de-identified CT into which `change` put something of the original again."""
    original, output = ct(), ct()
    deid_engine.deidentify(output, identity=IDENTITY, profile=profile("research"))
    change(output)
    path = save(output, folder / "output.dcm")
    leaks = deid_verify.leaks(
        path, pydicom.dcmread(path), original, known=collect(original), profile=profile("research")
    )
    return {(leak.where, leak.kind) for leak in leaks}


def nested(**values) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def test_an_output_as_it_should_be_has_no_leak(tmp_path):
    assert found(lambda output: None, tmp_path) == set()


@pytest.mark.parametrize(
    ("change", "where", "kind"),
    [
        (lambda o: setattr(o, "PatientID", "P4711"), "PatientID", "value of the original"),
        (lambda o: setattr(o, "PatientAddress", "nowhere"), "PatientAddress", "attribute that must go"),
        (lambda o: setattr(o, "StudyDate", "20150412"), "StudyDate", "value of the original"),
        (lambda o: setattr(o, "ProtocolName", "for Zebedee"), "ProtocolName", "name of the original"),
        (lambda o: setattr(o, "ConvolutionKernel", "acc-90210"), "ConvolutionKernel", "identifier of the original"),
        (lambda o: setattr(o, "FilterType", "2015-04-12"), "FilterType", "date of the original"),
        (lambda o: setattr(o, "FrameOfReferenceUID", f"{ROOT}5.4711"), "FrameOfReferenceUID", "value of the original"),
        (
            lambda o: setattr(o, "ReferencedSeriesSequence", [nested(SeriesInstanceUID=f"{ROOT}4.4711.1")]),
            "SeriesInstanceUID", "UID of the original",
        ),
        (
            lambda o: setattr(o, "ReferencedSeriesSequence", [nested(AccessionNumber="ACC-90210")]),
            "AccessionNumber", "value of the original",
        ),
        (private_block, "private", "private attribute"),
        (lambda o: o.add_new(0x60003000, "OW", b"\0\0"), "unknown", "attribute that must go"),
        (lambda o: setattr(o, "ICCProfile", b"by Zebedee"), "header bytes", "name of the original"),
        (lambda o: setattr(o, "ICCProfile", b" 12.04.2015 "), "header bytes", "date of the original"),
        (lambda o: setattr(o, "preamble", b"Zebedee".ljust(128)), "preamble", "bytes of the original"),
    ],
)  # fmt: skip
def test_what_is_put_back_is_found(tmp_path, change, where, kind):
    assert (where, kind) in found(change, tmp_path)


def test_a_name_in_another_character_set_is_found(tmp_path):
    original, output = ct(), ct()
    original.SpecificCharacterSet = output.SpecificCharacterSet = "ISO_IR 144"
    original.PatientName = output.PatientName = "Люкceмбypг"
    deid_engine.deidentify(output, identity=IDENTITY, profile=profile("research"))
    output.ICCProfile = b"x " + "ЛЮКCEМБYPГ".encode("iso8859_5") + b" y"
    path = save(output, tmp_path / "output.dcm")
    leaks = deid_verify.leaks(
        path, pydicom.dcmread(path), original, known=collect(original), profile=profile("research")
    )
    assert {leak.where for leak in leaks} == {"header bytes"}


def test_a_leak_deletes_the_output_and_names_no_value(tmp_path):
    image = ct()
    image.ICCProfile = b"made for Zebedee"
    with pytest.raises(Refused, match=re.escape("deid.leak")) as refused:
        convert(task(save(image, tmp_path / "in.dcm"), tmp_path / "out"))
    assert "header bytes" in str(refused.value)
    assert "zebedee" not in str(refused.value).lower()
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_what_another_object_of_the_study_states_is_searched_too(tmp_path):
    path = save(ct(), tmp_path / "in.dcm")
    known = Known(names=frozenset({"acme"}))
    convert(Task(str(path), str(tmp_path / "out"), IDENTITY, profile("research"), known))
    output = pydicom.dcmread(next((tmp_path / "out").rglob("*.dcm")))
    assert not output.Manufacturer
    assert output.ManufacturerModelName == "Scanner 9"


def real_files() -> list[Path]:
    """The files that come with pydicom and with pydicom-data."""
    folders = (Path(pydicom.data.__file__).parent, Path(data_store.__file__).parent / "data")
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in files if path.stat().st_size < LARGEST_BYTES and path.suffix not in (".py", ".pyc")]


def identifiers(original: Dataset) -> set[str]:
    """What a person would call identifying, read without the engine: names, ids, days, UIDs of the makers."""
    found = set()
    for level in levels(original):
        for element in level:
            for value in element.value if hasattr(element.value, "append") else [element.value]:
                text = str(value).strip()
                if element.VR == "PN":
                    found |= {part for part in re.split(r"[\^= ,.]", text) if len(part) >= 4 and not part.isdigit()}
                elif element.VR in ("DA", "UI") or element.keyword in ("PatientID", "AccessionNumber", "StationName"):
                    found.add(text)
    found -= {"Name", "Test", "Anonymous", "anonymous", "Unknown", "unknown"}  # they stand where there is no name
    return {text for text in found if len(text) >= 4 and not text.startswith("1.2.840.10008.")}


def texts_of(output: Dataset) -> tuple[set[str], set[str]]:
    """Every part of every text of an output, codes aside, and the dates as they stand now."""
    elements = [element for level in levels(output) for element in level if element.VR not in ("SQ", "OB", "OW", "UN")]
    parts = {p for e in elements if e.VR != "CS" for p in re.split(r"[\^= ,\\\[\]']", str(e.value))}
    return parts, {part for e in elements if e.VR in ("DA", "DT") for part in re.split(r"[ ,\[\]']", str(e.value))}


@pytest.mark.parametrize("name", ["research", "basic"])
def test_real_files_leave_none_of_their_identifiers(tmp_path, name):
    card, reasons, n_searched = deid_score.Card(), Counter(), 0
    for number, path in enumerate(real_files()[:: 2 if name == "basic" else 1]):
        asked = Task(str(path), str(tmp_path / str(number)), IDENTITY, profile(name), Known(), "keep")
        try:
            written = convert(asked)
        except Refused as refused:
            reasons[refused.reason] += 1
            if refused.reason != "deid.no_pixels":
                continue
            output = deid_file.read(str(path))  # a header by itself: the engine must clean it all the same
            deid_engine.deidentify(output, identity=IDENTITY, profile=profile(name))
        else:
            card.add(written.card)
            output = pydicom.dcmread(tmp_path / str(number) / written.file, stop_before_pixels=True)
        with quiet():
            stands, moved = texts_of(output)
            theirs = identifiers(pydicom.dcmread(path, stop_before_pixels=True, force=True))
        n_searched += len(theirs)
        assert not (theirs & stands) - moved, path.name
    assert reasons["deid.leak"] == 0
    assert sum(reasons.values()) - reasons["deid.no_pixels"] < 50
    assert n_searched > 700
    rows = {row["action"]: row for row in card.rows()}
    for action in (*deid_score.ACTIONS[:6], *deid_score.ACTIONS[7:]):
        assert rows[action]["right"] == rows[action]["required"], action
    assert rows["uid_changed"]["required"] > 300


def test_the_scorecard_counts_what_is_wrong():
    original, output = ct(), ct()
    known = collect(original)
    card = deid_score.score(original, output, known=known, profile=profile("research"))
    assert card.right["uid_changed"] == card.right["date_shifted"] == 0
    assert card.required["uid_changed"] == 4
    assert card.required["date_shifted"] == 4
    assert card.right["text_removed"] < card.required["text_removed"]
    deid_engine.deidentify(output, identity=IDENTITY, profile=profile("research"))
    del output.KVP
    output.ConvolutionKernel = "B31f"
    output.PatientID = ""
    card = deid_score.score(original, output, known=known, profile=profile("research"))
    assert card.required["tag_retained"] - card.right["tag_retained"] == 1
    assert card.required["text_retained"] - card.right["text_retained"] == 2  # KVP is a number written as text
    assert card.required["text_notnull"] - card.right["text_notnull"] == 1


def test_an_inconsistent_uid_or_patient_is_counted():
    run = deid_score.Card()
    for new in ("2.25.1", "2.25.1", "2.25.2"):
        run.add(deid_score.Card(uids={"1.2.3": new}, patients={"P": new}))
    rows = {row["action"]: (row["right"], row["required"]) for row in run.rows()}
    assert rows["uid_consistent"] == rows["patid_consistent"] == (2, 3)


@pytest.mark.parametrize("length", [0, 1, 100, 131, 140, 300, 700, 1000])
def test_a_truncated_file_is_refused_or_leaves_nothing(tmp_path, length):
    whole = save(ct(), tmp_path / "whole.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:length])
    with pytest.raises(Refused, match=r"deid\.|dicom\."):
        convert(task(tmp_path / "cut.dcm", tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_every_flipped_byte_is_refused_or_leaves_nothing(tmp_path):
    whole = save(ct(), tmp_path / "whole.dcm").read_bytes()
    for position in range(132, 1500, 19):
        data = bytearray(whole)
        data[position] ^= 0x55
        (tmp_path / "bad.dcm").write_bytes(data)
        try:
            written = convert(task(tmp_path / "bad.dcm", tmp_path / str(position)))
        except Refused:
            continue
        output = (tmp_path / str(position) / written.file).read_bytes().lower()
        assert b"zebedee" not in output
        assert b"90210" not in output


def test_what_may_show_text_is_kept_apart(tmp_path):
    for sop_class, change, reason in (
        ("1.2.840.10008.5.1.4.1.1.6.1", {}, "deid.pixels"),
        ("1.2.840.10008.5.1.4.1.1.7", {"BurnedInAnnotation": "NO"}, "deid.pixels"),
        ("1.2.840.10008.5.1.4.1.1.12.1", {}, "deid.pixels"),
        ("1.2.840.10008.5.1.4.1.1.2", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "deid.pixels"),
        ("1.2.840.10008.5.1.4.1.1.2", {"BurnedInAnnotation": "YES"}, "deid.pixels"),
        ("1.2.840.10008.5.1.4.1.1.104.1", {}, "deid.document"),
        ("1.2.840.10008.5.1.4.1.1.66", {}, "deid.document"),
        ("1.3.12.2.1107.5.9.1", {}, "deid.class"),
    ):
        image = ct()
        image.SOPClassUID = sop_class
        for keyword, value in change.items():
            setattr(image, keyword, value)
        with pytest.raises(Refused, match=re.escape(reason)):
            convert(task(save(image, tmp_path / "in.dcm"), tmp_path / "out"))
    ultrasound = ct()
    ultrasound.SOPClassUID, ultrasound.BurnedInAnnotation = "1.2.840.10008.5.1.4.1.1.6.1", "NO"
    assert convert(task(save(ultrasound, tmp_path / "in.dcm"), tmp_path / "out")).card.required["pixels_hidden"] == 0


def blacken(dataset: Dataset) -> bool:
    """Cleans pixels as a caller would: by taking all of them away."""
    dataset.PixelData = bytes(len(dataset.PixelData))
    return True


def test_pixels_that_the_caller_cleans_are_let_through_and_said_to_be_clean(tmp_path):
    image = ct()
    image.BurnedInAnnotation = "YES"
    path = save(image, tmp_path / "in.dcm")
    written = convert(task(path, tmp_path / "out", clean_pixels=blacken))
    output = pydicom.dcmread(tmp_path / "out" / written.file)
    assert output.BurnedInAnnotation == "NO"
    assert "113101" in [item.CodeValue for item in output.DeidentificationMethodCodeSequence]
    assert set(output.PixelData) == {0}
    assert (written.card.right["pixels_hidden"], written.card.required["pixels_hidden"]) == (1, 1)
    with pytest.raises(Refused, match=re.escape("deid.pixels")):
        convert(task(path, tmp_path / "other", clean_pixels=lambda dataset: False))


def test_a_second_object_of_the_same_uid_is_refused(tmp_path):
    path = save(ct(), tmp_path / "in.dcm")
    convert(task(path, tmp_path / "out"))
    with pytest.raises(Refused, match=re.escape("deid.duplicate")):
        convert(task(path, tmp_path / "out"))


def test_what_is_known_of_a_study_is_never_shown(tmp_path):
    surveyed = deid_file.survey(str(save(canary(), tmp_path / "in.dcm")))
    assert len(surveyed.known.days) > 100
    assert "zanzibar" not in repr(surveyed).lower()
    assert ROOT not in repr(task(study(tmp_path / "s")[0], tmp_path))
