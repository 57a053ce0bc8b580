"""The table as installed, and how codes, options and types come to an action."""

import re
from collections import Counter

import pytest
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from medloom.connectors import deid_rules, deid_table, deid_types
from medloom.connectors.deid_rules import Place, choose, profile
from medloom.schemas.errors import ConfigError

TABLE = deid_table.load()
CT, SR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.33"


def action(keyword: str, sop_class: str = CT, *, around: str = "", name: str = "basic") -> str:
    tag = tag_for_keyword(keyword)
    type_ = deid_types.type_of(sop_class, around, keyword)
    return choose(Place(tag, keyword, dictionary_VR(tag), type_), TABLE, profile(name))


def test_the_newest_table_is_read():
    assert TABLE.edition >= "2026c"
    assert len(TABLE.codes) > 640
    counts = Counter(TABLE.codes.values())
    assert set(counts) == {"X", "Z", "D", "U", "X/Z", "X/D", "Z/D", "X/Z/D", "X/Z/U*"}
    assert counts["X"] > 400


@pytest.mark.parametrize(
    ("keyword", "code"),
    [  # as printed in PS3.15 Table E.1-1
        ("PatientName", "Z"), ("PatientID", "Z/D"), ("PatientAge", "X"), ("SOPInstanceUID", "U"),
        ("ContentDate", "Z/D"), ("StationName", "X/Z/D"), ("SeriesDate", "X/D"), ("SourceImageSequence", "X/Z/U*"),
        ("PersonName", "D"),
        ("Rows", ""), ("ConvolutionKernel", ""),
    ],
)  # fmt: skip
def test_codes_are_those_of_the_standard(keyword, code):
    assert TABLE.code(tag_for_keyword(keyword)) == code


@pytest.mark.parametrize(("tag", "code"), [(0x60003000, "X"), (0x60164000, "X"), (0x60000010, ""), (0x501E3000, "X")])
def test_repeating_groups_are_found_by_their_mask(tag, code):
    assert TABLE.code(tag) == code


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(deid_table.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape("medloom[deid]")):
        deid_table.load.__wrapped__()


@pytest.mark.parametrize(
    ("keyword", "sop_class", "expected"),
    [
        ("StationName", CT, "remove"), ("PatientID", CT, "token"), ("PatientName", CT, "empty"),
        ("StudyDate", CT, "empty"), ("SeriesDate", CT, "remove"), ("PatientAge", CT, "remove"),
        ("ContentDate", CT, "empty"), ("ContentDate", SR, "dummy"), ("ContentSequence", SR, "dummy"),
        ("SOPInstanceUID", CT, "uid"), ("SOPClassUID", CT, "uid"), ("Rows", CT, "keep"),
        ("ReferencedImageSequence", CT, "remove"), ("SharedFunctionalGroupsSequence", CT, "walk"),
    ],
)  # fmt: skip
def test_the_basic_profile_chooses_by_the_type_in_the_iod(keyword, sop_class, expected):
    assert action(keyword, sop_class) == expected


def test_a_choice_never_goes_below_what_a_type_needs():
    """Type 1 keeps a value, type 2 keeps the attribute, whatever compound code the table has."""
    for tag, code in TABLE.codes.items():
        keyword = keyword_for_tag(tag)
        if not keyword or tag >> 16 < 8:
            continue
        for type_, allowed in (
            ("1", {"dummy", "token", "uid", "walk"}),
            ("2", {"empty", "dummy", "token", "uid", "walk"}),
        ):
            place = Place(tag, keyword, dictionary_VR(tag), type_)
            assert choose(place, TABLE, profile("basic")) in allowed, (keyword, code, type_)


@pytest.mark.parametrize(
    ("keyword", "name", "expected"),
    [
        ("StudyDate", "research", "shift"), ("PatientBirthDate", "research", "empty"),
        ("StudyTime", "research", "shift"), ("StudyDescription", "research", "clean"),
        ("ProtocolName", "research", "clean"),
        ("ContentSequence", "research", "walk"), ("PatientAge", "research", "remove"),
        ("PatientAge", "research-patient", "age"), ("PatientSex", "research-patient", "keep"),
        ("SOPInstanceUID", "retain-uids", "keep"), ("InstitutionName", "research", "remove"),
        ("ReasonForStudy", "research", "clean"), ("DeviceDescription", "research", "remove"),
    ],
)  # fmt: skip
def test_options_replace_their_rows(keyword, name, expected):
    assert action(keyword, name=name) == expected


@pytest.mark.parametrize(
    ("tag", "keyword"),
    [(0x60000010, "OverlayRows"), (0x60023000, "OverlayData"), (0x50000005, "CurveDimensions"), (0x00100000, "Group"),
     (0x00020016, "SourceApplicationEntityTitle"), (0x00041500, "ReferencedFileID"), (0x0008FF01, "")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["basic", "research"])
def test_overlays_curves_lengths_and_the_unknown_go_whatever_an_iod_says(tag, keyword, name):
    assert choose(Place(tag, keyword, "LO", "1"), TABLE, profile(name)) == "remove"


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"known are basic, research, .*retain-uids"):
        profile("anonymous")


def test_profiles_state_their_codes_of_cid_7050():
    assert [code for code, _ in profile("basic").codes] == ["113100"]
    assert [code for code, _ in profile("research").codes] == ["113100", "113104", "113105", "113107"]
    assert set(deid_rules.profiles()) >= {"basic", "research", "retain-uids"}
