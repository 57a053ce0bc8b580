"""Saved screens are refused of patients and taken as pictures of public sources, and headers reach the stages."""

from pathlib import Path
from typing import Any

import pytest
from tests import sources

from medloom.pipelines.sources.scans import Scans
from medloom.pipelines.sources.work import UnitMade, UnitWork
from medloom.schemas.medium import Medium

SECONDARY = "1.2.840.10008.5.1.4.1.1.7"


class Keep:
    """A stage that remembers what it was given."""

    version = "1"

    def __init__(self) -> None:
        self.media: list[Medium] = []

    def __call__(self, medium: Medium) -> list[Medium]:
        self.media.append(medium)
        return [medium]


def read(source: Scans, folder: Path, stage: Any = None, **elements: Any) -> UnitMade:
    """Read a unit of one object."""
    path = folder / "a.dcm"
    sources.write_slice(path, patient="P", series=1, k=0, **elements)
    series = {
        "unit": "u", "format": "dicom", "modality": "CT", "body_part": "", "plane": "", "text": "",
        "terms_id": "private", "licence": "", "attribution": "",
    }  # fmt: skip
    links = ({"key": "", "url": "a.dcm", "size": 1},)
    work = UnitWork(
        unit="u", source=source.name, group="g", split="train", rows={"series": [series], "figure": []},
        paths={"a.dcm": str(path)}, links=links, digests={"a.dcm": "d"}, stages=(stage,) if stage else (),
        key_id="none",
    )  # fmt: skip
    return source.read(work)


def test_a_saved_screen_is_refused_of_patients_alone(tmp_path):
    for source, kept in (
        (Scans("s", "x"), 0),
        (Scans("s", "x", captures="read"), 1),
        (Scans("s", "x", deidentify="off"), 1),
    ):
        made = read(source, tmp_path, SOPClassUID=SECONDARY, Modality="OT")
        assert len(made.samples) == kept
        assert [row.reason for row in made.refused] == ["dicom.screen_capture"] * (1 - kept)
        assert made.taken + made.made == len(made.samples) + len(made.refused)


@pytest.mark.parametrize(
    ("elements", "stated"),
    [
        ({}, ()),
        ({"BurnedInAnnotation": "YES"}, ("burned_in",)),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, ("derived",)),
        ({"RecognizableVisualFeatures": "NO"}, ("features_removed",)),
    ],
)
def test_what_a_header_states_of_identity_reaches_the_stages_and_no_file(tmp_path, elements, stated):
    stage = Keep()
    made = read(Scans("s", "x"), tmp_path, stage, **elements)
    assert [medium.stated for medium in stage.media] == [stated]
    assert b"stated" not in made.samples[0].members["json"].data
