"""What segments are called: names of the vocabulary get through, names of people do not."""

import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medloom.connectors.dicom_labels import is_allowed, label_of
from medloom.schemas.volume import Label
from tests.connectors.dicom_made import segment


@pytest.mark.parametrize(
    "text",
    ["Liver", "kidney_left", "Lung_L", "SpinalCord", "A_Carotid_L", "PTV_60", "GTVp", "BODY", "Nodule 1", "T12",
     "vertebrae_L1", "Peripheral zone", "Neoplasm, Primary", "white matter", "Femur_Head_L", "lung tumour"],
)  # fmt: skip
def test_words_of_anatomy_and_radiotherapy_are_allowed(text: str) -> None:
    assert is_allowed(text)


@pytest.mark.parametrize(
    "text",
    ["", "Mustermann", "Liver Mustermann", "liver (J. Doe)", "John", "WHITE", "Gray", "White^Mary", "Müller", "李Liver",
     "99000", "liver 20030417", "liver 12 03 99", "MRN 4711", "Lung nodule 99000", "L R", "Left", "1", "J", "Liver J",
     "GREEN", "ROI-1", "liver" * 20],
)  # fmt: skip
def test_what_may_be_a_name_a_date_or_a_number_is_not_allowed(text: str) -> None:
    assert not is_allowed(text)


@pytest.mark.parametrize(
    ("text", "kind", "more", "expected"),
    [
        ("Mustermann", codes.SCT.Liver, {}, Label("liver", stated="Liver")),
        ("Mustermann", codes.SCT.Kidney, {"side": codes.SCT.Left}, Label("kidney", "left", "Kidney")),
        ("Kidney_R", codes.SCT.Kidney, {}, Label("kidney", "right", "Kidney_R")),
        ("Kidney_R", codes.SCT.Kidney, {"side": codes.SCT.Left}, Label("kidney", "", "Kidney_R")),  # they contradict
        ("vertebrae_L1", codes.SCT.Vertebra, {}, Label("vertebra L1", stated="vertebrae_L1")),
        ("spleen", codes.SCT.Tissue, {}, Label("spleen", stated="spleen")),
        ("Mustermann", codes.SCT.Tissue, {}, Label("segment 7", stated="Tissue")),
        ("", codes.SCT.Neoplasm, {"region": codes.SCT.Liver}, Label("liver tumor", stated="Tumor")),
        ("", Code("T-62000", "SRT", "Mustermann"), {}, Label("liver", stated="Liver")),
        ("", Code("44714003", "SCT", "x"), {}, Label("lung upper lobe", "left", "upper lobe of left lung")),
        ("", Code("1", "99LOCAL", "Mustermann"), {}, Label("segment 7", stated="Anatomical Structure")),
        ("", Code("1", "99LOCAL", "Spleen"), {}, Label("spleen", stated="Spleen")),
    ],
)  # fmt: skip
def test_codes_and_texts_name_a_segment(text: str, kind: Code, more: dict[str, Code], expected: Label) -> None:
    assert label_of(segment(1, text, kind, **more), text=text, number=7) == expected


def test_an_item_that_says_nothing_is_numbered() -> None:
    assert label_of(Dataset(), text="", number=3) == Label("segment 3", stated="segment 3")
