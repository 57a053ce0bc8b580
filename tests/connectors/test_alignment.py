"""How well mentions find their figures: M1–M5 over the corpus, against a truth read from the XML by other means."""

import os

import pytest

from tests.connectors import alignment_truth as truth

CORPUS = os.environ.get("MEDLOOM_TEST_CORPUS", "")
pytestmark = pytest.mark.skipif(
    not CORPUS, reason="needs MEDLOOM_TEST_CORPUS: it does not name the folder of checking data"
)


def test_paragraphs_find_the_figures_that_their_cross_references_name(capsys: pytest.CaptureFixture[str]) -> None:
    m1 = truth.measured_pairs(CORPUS)
    with capsys.disabled():
        print(f"\n{m1}")
    assert m1.true > 1300
    assert m1.both / m1.true >= 0.998, m1.wrong
    assert m1.told <= 3
    assert m1.both / m1.found >= 0.9975, m1.wrong
    assert (m1.both + m1.told) / m1.found >= 0.998, m1.wrong


def test_labelled_mentions_name_exactly_their_figures_and_panels(capsys: pytest.CaptureFixture[str]) -> None:
    m2 = truth.measured_labels(CORPUS)
    with capsys.disabled():
        print(f"\n{m2}")
    assert m2.mentions == 30
    assert (m2.figures, m2.panels) >= (30, 30), m2.wrong
    assert m2.sentences >= 29
    assert m2.qualifiers >= 30


def test_figures_keep_their_captions_and_their_graphics(capsys: pytest.CaptureFixture[str]) -> None:
    m4 = truth.measured_figures(CORPUS)
    with capsys.disabled():
        print(f"\n{m4}")
    assert not m4.strange
    assert m4.captions > 600
    assert m4.right_captions / m4.captions >= 0.995, m4.wrong
    assert m4.graphics > 600
    assert m4.right_graphics / m4.graphics >= 0.995, m4.wrong


def test_offsets_are_exact_and_captions_stay_out_of_paragraphs(capsys: pytest.CaptureFixture[str]) -> None:
    m5 = truth.measured_offsets(CORPUS)
    with capsys.disabled():
        print(f"\n{m5}")
    assert not m5.wrong
    assert m5.leaks == 0


def test_every_figure_cross_reference_is_held_by_exactly_one_mention() -> None:
    held = 0
    for file, article, rows in truth.articles(CORPUS):
        for xref, mentions in truth.covering(article, rows):
            assert mentions == 1, (file, mentions, xref.get("rid"), "".join(xref.itertext()))
            held += 1
    assert held > 2300
