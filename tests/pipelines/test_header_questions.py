import re
from collections import Counter

import pytest
from tests.pipelines.papers import figure, medium, paper, scan

from medloom.pipelines.tasks.header_questions import MODALITIES, PLANES, WORDINGS, HeaderQuestions


def _rows(unit, **fields):
    return list(HeaderQuestions(**fields).examples(unit, "fingerprint", None))


def _options(question: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-D])\. (.+)$", question, re.MULTILINE))


def _ct(key: str):
    return medium(key, layout="volume", modality="CT", plane="axial")


def test_each_medium_is_asked_about_modality_and_plane_in_both_forms():
    rows = _rows(scan(_ct("ct-abc"), _ct("ct-abc-1")))
    assert len(rows) == 8
    assert len({r.example_id for r in rows}) == 8
    assert [r.labels for r in rows[:4]] == [("CT",), ("CT",), ("axial",), ("axial",)]
    assert rows[1].turns[1].parts[0].text == "Computed tomography (CT)."
    assert rows[3].turns[1].parts[0].text == "Axial."
    assert {e.text for e in rows[0].evidence + rows[2].evidence} == {"modality: CT", "plane: axial"}
    assert {(e.where, e.start, e.end) for r in rows for e in r.evidence} == {("header:ct-abc", 0, 0)}


@pytest.mark.parametrize("modality", sorted(MODALITIES))
def test_the_right_option_is_among_distinct_options_and_its_letter_is_the_answer(modality):
    media = [medium(f"s-{n}", modality=modality) for n in range(30)]
    for row in _rows(scan(*media), forms=("choice",), kinds=("modality",)):
        options = _options(row.turns[0].parts[1].text)
        assert sorted(options) == ["A", "B", "C", "D"]
        assert len(set(options.values())) == 4
        letter, words = row.turns[1].parts[0].text.split(". ", 1)
        assert options[letter] == words == MODALITIES[modality]


def test_options_that_may_both_be_right_are_never_offered_together():
    radiographic = {MODALITIES[m] for m in ("CR", "MG", "XA")}
    nuclear = {MODALITIES[m] for m in ("PT", "NM")}
    for modality in MODALITIES:
        media = [medium(f"s-{n}", modality=modality) for n in range(60)]
        for row in _rows(scan(*media), forms=("choice",), kinds=("modality",)):
            words = set(_options(row.turns[0].parts[1].text).values())
            for kin in (radiographic, nuclear):
                if MODALITIES[modality] in kin:
                    assert words & kin == {MODALITIES[modality]}


@pytest.mark.parametrize(("kind", "n_options", "critical"), [("modality", 4, 16.27), ("plane", 3, 13.82)])
def test_every_letter_is_as_often_right(kind, n_options, critical):
    media = [_ct(f"s-{n}") for n in range(1200)]
    rows = _rows(scan(*media), forms=("choice",), kinds=(kind,))
    counts = Counter(r.turns[1].parts[0].text[0] for r in rows)
    expected = len(rows) / n_options
    chi2 = sum((counts[letter] - expected) ** 2 / expected for letter in "ABCD"[:n_options])
    assert sum(counts.values()) == 1200
    assert chi2 < critical  # the 0.999 quantile for n_options - 1 degrees of freedom


def test_what_the_header_leaves_open_is_not_asked():
    assert _rows(scan(medium("s", modality="OT"))) == []
    assert _rows(scan(medium("s", modality="label", plane="oblique"))) == []
    assert {r.labels for r in _rows(scan(medium("s", modality="US")))} == {("US",)}
    assert {r.labels for r in _rows(scan(medium("s", modality="", plane=""), modality="MR", plane="coronal"))} == {
        ("MR",), ("coronal",),
    }  # fmt: skip


def test_figures_of_papers_have_no_header():
    assert _rows(paper(figures=(figure("f1", "Axial CT."),))) == []


def test_rows_outlive_their_neighbours():
    every = {r.example_id: r for r in _rows(scan(_ct("a"), _ct("b")))}
    alone = {r.example_id: r for r in _rows(scan(_ct("b")), forms=("choice",))}
    assert len(alone) == 2
    assert all(every[name] == row for name, row in alone.items())


def test_no_wording_gives_an_answer_away():
    said = {word for words in (*MODALITIES.values(), *PLANES) for word in re.findall(r"[a-z]+", words.lower())}
    asked = {word for kind in WORDINGS.values() for text in kind for word in re.findall(r"[a-z]+", text.lower())}
    assert said & asked <= {"imaging"}
