from dataclasses import replace

import pytest
from tests.pipelines.papers import figure, panels, paper, scan

from medloom.pipelines.recipe import load_recipe
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.panel_captions import WORDINGS, PanelCaptions
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Example, Part
from medloom.schemas.medium import PanelBox

CAPTION = "A lung mass. (A) Axial CT of the chest. (B) The same in PET. (c, d) Cells of the mass. "
_A, _B, _CD = panels(CAPTION.rstrip(), ("A", "(A)"), ("B", "(B)"), ("C", "(c, d)"))
FIGURE = figure("f1", CAPTION) | {"panels": [_A, _B, _CD, _CD | {"letter": "D"}]}
BOXES = {"A": (0, 0, 4, 4), "B": (0, 4, 4, 8), "C": (4, 0, 8, 4), "D": (4, 4, 8, 8)}


def _unit(shown: dict, *, sure: dict[str, float] | None = None, boxes=BOXES):
    found = tuple(PanelBox(x, box, (sure or {}).get(x, 0.9)) for x, box in boxes.items())
    unit = paper(figures=(shown,))
    return replace(unit, media={key: replace(medium, panels=found) for key, medium in unit.media.items()})


def _made(unit, **fields):
    rows = list(PanelCaptions(**fields).examples(unit, "fingerprint", None))
    return [r for r in rows if isinstance(r, Example)], [r for r in rows if isinstance(r, Refusal)]


def test_each_panel_has_its_box_and_its_words_without_the_letter():
    rows, refused = _made(_unit(FIGURE))
    assert refused == []
    assert [r.turns[1].parts for r in rows] == [
        (Part(text="Axial CT of the chest."),), (Part(text="The same in PET."),), (Part(text="Cells of the mass."),),
    ]  # fmt: skip
    assert [[p.box for p in r.turns[0].parts if p.media] for r in rows] == [
        [BOXES["A"]], [BOXES["B"]], [BOXES["C"], BOXES["D"]],
    ]  # fmt: skip
    assert {r.media for r in rows} == {("pmc1-1-f1",)}
    assert {r.task for r in rows} == {"panel_caption"}


def test_what_stands_before_the_panels_is_asked_and_not_answered():
    for row in _made(_unit(FIGURE))[0]:
        before, wording = row.turns[0].parts[-1].text.split("\n")
        assert before == "A lung mass."
        assert wording in WORDINGS
        assert "lung" not in row.turns[1].parts[0].text


def test_evidence_is_the_exact_span_of_the_caption():
    for row in _made(_unit(FIGURE))[0]:
        (evidence,) = row.evidence
        assert evidence.where == "caption:pmc1-1-f1"
        assert CAPTION[evidence.start : evidence.end] == evidence.text == row.turns[1].parts[0].text


def test_a_panel_without_a_sure_box_gives_no_row():
    rows, _ = _made(_unit(FIGURE, sure={"A": 0.5, "D": 0.5}))
    assert [r.evidence[0].text for r in rows] == ["The same in PET."]
    assert rows[0].measured == {"panel_confidence": 0.9}
    assert len(_made(_unit(FIGURE, sure={"A": 0.5, "D": 0.5}), confidence=0.4)[0]) == 3
    assert _made(paper(figures=(FIGURE,))) == ([], [])
    assert _made(scan()) == ([], [])


@pytest.mark.parametrize(
    ("caption", "starts"),
    [
        ("Sections of the liver (A) and of the spleen (B) of one mouse.", [("A", "(A)"), ("B", "(B)")]),
        ("Two views. (A) Left. (B) Right.", [("A", "(A)"), ("B", "(B)")]),
        ("Maps of Franklin (left) and of Israel (right) in one week.", [("left", "left"), ("right", "right")]),
    ],
)
def test_a_caption_that_cannot_be_cut_at_its_letters_refuses_its_figure(caption, starts):
    shown = figure("f1", caption) | {"panels": panels(caption, *starts)}
    boxes = {letter: box for (letter, _), box in zip(starts, BOXES.values(), strict=False)}
    rows, refused = _made(_unit(shown, boxes=boxes))
    assert rows == []
    assert [(r.key, r.reason) for r in refused] == [("pmc1-1-f1", "panel_caption.fragments")]


@pytest.mark.parametrize("marker", ["(A) ", "A, ", "A. ", "a) ", "A: ", "[a] ", "A "])
def test_the_letter_is_left_out_however_it_is_set_off(marker):
    caption = f"{marker}Axial CT after contrast."
    shown = figure("f1", caption) | {"panels": panels(caption, ("A", marker))}
    (row,), _ = _made(_unit(shown))
    assert row.turns[1].parts[0].text == "Axial CT after contrast."
    assert row.turns[0].parts[-1].text in WORDINGS


def test_ids_are_unique_outlive_their_neighbours_and_leave_whole_captions_as_they_are(tmp_path):
    rows, _ = _made(_unit(FIGURE))
    assert len({r.example_id for r in rows}) == 3
    fewer = _made(_unit(FIGURE, boxes={"B": BOXES["B"]}))[0]
    assert fewer == [rows[1]]
    prints = [
        loaded.task_fingerprint(Captions(), "")
        for loaded in (load_recipe("pmc_captions", {"source": "x", "panels": p}).recipe for p in ("true", "false"))
    ]
    assert prints[0] == prints[1]


def test_a_panel_shows_a_figures_own_terms():
    own = FIGURE | {"terms_id": "reproduced-with-permission", "licence_override": "(c) Somebody"}
    assert {(r.licence, r.terms_id) for r in _made(_unit(own))[0]} == {("(c) Somebody", "reproduced-with-permission")}
