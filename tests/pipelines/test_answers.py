import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medloom.pipelines.tasks.answers import KINDS, found


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (
            "Axial contrast-enhanced chest CT showing a 4.2 cm spiculated mass (arrow) in the right upper lobe.",
            [("modality", "CT"), ("plane", "Axial"), ("size", "4.2 cm"), ("place", "right upper lobe"),
             ("marked", "spiculated mass")],
        ),
        (
            "Sagittal T2-weighted magnetic resonance imaging (MRI) of the spine.",
            [("modality", "magnetic resonance imaging (MRI)"), ("plane", "Sagittal"), ("sequence", "T2-weighted")],
        ),
        ("18F-FDG PET/CT of the neck.", [("modality", "PET/CT")]),
        ("Section (haematoxylin and eosin, ×400).", [("stain", "haematoxylin and eosin"), ("magnification", "×400")]),
        ("Hematoxylin-eosin (H&E); 40× magnification.",
         [("stain", "Hematoxylin-eosin (H&E)"), ("magnification", "40×")]),
        ("Ultrasonography of the left kidney with a stone measuring 12 x 9 mm (white arrowheads).",
         [("modality", "Ultrasonography"), ("size", "12 x 9 mm"), ("place", "left kidney")]),
        ("Note the Auerbach's plexus (arrowheads).", [("marked", "Auerbach's plexus")]),
    ],
)  # fmt: skip
def test_the_grammar_finds_what_is_stated(sentence, expected):
    assert [(f.kind, sentence[f.start : f.end]) for f in found(sentence)] == expected


@pytest.mark.parametrize(
    "sentence",
    [
        "Cells stained with CellTracker (CT Green) were selected.",
        "The gel was exposed to X-ray film.",
        "The transverse colon and the coronal suture were normal.",
        "HEK293 cells were grown in 10-cm dishes.",
        "Scale bar, 5 mm, and a section of 5 mm lesions.",
        "The value was 2.38 (±0.015) × 106 for control cells.",
        "Images of a 40× objective.",
        "LH, left hemisphere; RH, right hemisphere.",
        "The heart is enlarged (arrow).",
        "A collection of sections was selected.",
        "PAS = sensor domain.",
        "Volume was 0.024 mm3 of tissue mass.",
    ],
)
def test_the_grammar_leaves_what_only_looks_alike(sentence):
    assert list(found(sentence)) == []


@given(st.lists(st.sampled_from(
    ["CT", "PET/CT", "axial", "T1-weighted", "MRI", "H&E,", "×400", "4 cm", "mass", "(arrow)", "left", "upper", "lobe.",
     "the", "measuring", "coronal", "X-ray", "of"]), max_size=14).map(" ".join) | st.text(max_size=60))  # fmt: skip
def test_spans_are_in_the_sentence_and_do_not_overlap_within_a_kind(sentence):
    everything = list(found(sentence))
    for kind in KINDS:
        spans = [(f.start, f.end) for f in everything if f.kind == kind]
        assert all(0 <= start < end <= len(sentence) for start, end in spans)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert all(sentence[f.start : f.end].strip() == sentence[f.start : f.end] for f in everything)
