"""What SEG and RTSTRUCT objects refer to."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from medloom.connectors.dicom_reference import read_reference
from medloom.schemas.errors import Refused
from tests.connectors import dicom_made as made


def _objects(folder: Path) -> tuple[list[Path], Path, Path]:
    paths = made.ct_series(folder / "ct", shape=(3, 20, 24))
    masks = np.zeros((3, 20, 24), np.uint8)
    masks[:, 4:8, 5:9] = 1
    seg = made.seg_of(paths, masks, [made.segment(1, "Liver")], path=folder / "seg.dcm")
    square = np.array([(4, 4), (9, 4), (9, 9), (4, 9)], float)
    return paths, seg, made.rtstruct_of(paths, {"Liver": [(1, square)]}, path=folder / "rt.dcm")


def test_segmentations_and_structure_sets_name_their_series_and_images(tmp_path: Path) -> None:
    paths, seg, rtstruct = _objects(tmp_path)
    images = {pydicom.dcmread(path).SOPInstanceUID for path in paths}
    for kind, path in (("seg", seg), ("rtstruct", rtstruct)):
        reference = read_reference(path)
        assert reference.kind == kind
        assert reference.series_uids == (made.made_uid("series"),)
        assert set(reference.sop_uids) == images
        assert reference.frame_of_reference == made.made_uid("series", "frame")
        assert reference.study_uid == made.made_uid("study")
        assert reference.patient_id == made.PATIENT
        assert repr(reference) == f"Reference(kind={kind!r}, transforms=())"


def test_images_named_by_frames_alone_are_found(tmp_path: Path) -> None:
    paths, seg, _ = _objects(tmp_path)
    dataset = pydicom.dcmread(seg)
    for keyword in ("ReferencedSeriesSequence", "SourceImageSequence"):
        if keyword in dataset:
            del dataset[keyword]
    dataset.save_as(seg)
    reference = read_reference(seg)
    assert reference.series_uids == ()
    assert set(reference.sop_uids) == {pydicom.dcmread(path).SOPInstanceUID for path in paths}


def test_images_and_other_files_are_refused(tmp_path: Path) -> None:
    paths, _, _ = _objects(tmp_path)
    with pytest.raises(Refused, match=r"reference\.kind"):
        read_reference(paths[0])
    text = tmp_path / "notes.txt"
    text.write_text("no object of DICOM, but long enough to be looked at" * 10)
    with pytest.raises(Refused, match=r"dicom\."):
        read_reference(text)
