from dataclasses import replace

from tests.pipelines.papers import figure, medium, paper, scan

from medloom.pipelines.tasks.captions import FIGURE_WORDINGS, SCAN_WORDINGS, Captions
from medloom.schemas.example import Part

FIGURES = (
    figure("f1", "  Axial CT of the chest. A mass (arrow).\n"),
    figure("f2", "Two images.", media=("a", "b")),
    figure("f3", "Never kept."),
    figure("f4", "  \n"),
    figure("f5", "By permission.", terms_id="reproduced-with-permission", licence_override="(c) Somebody"),
)


def _rows(unit, **fields):
    return list(Captions(**fields).examples(unit, "fingerprint", None))


def test_a_row_per_kept_captioned_medium_with_the_whole_caption():
    unit = paper(figures=FIGURES, refused=("pmc1-1-f3",))
    rows = _rows(unit)
    assert [r.media for r in rows] == [("pmc1-1-f1",), ("pmc1-1-f2a",), ("pmc1-1-f2b",), ("pmc1-1-f5",)]
    first = rows[0]
    assert [t.role for t in first.turns] == ["user", "assistant"]
    assert first.turns[0].parts[0] == Part(media="pmc1-1-f1")
    assert first.turns[0].parts[1].text in FIGURE_WORDINGS
    assert first.turns[1].parts == (Part(text="Axial CT of the chest. A mass (arrow)."),)
    assert (first.unit, first.group, first.split, first.source) == ("pmc1-1", "pmc1", "train", "papers")


def test_evidence_is_the_exact_span_of_the_caption():
    captions = {f"caption:{f['fig_key']}": f["caption"] for f in FIGURES}
    for row in _rows(paper(figures=FIGURES)):
        (evidence,) = row.evidence
        assert captions[evidence.where][evidence.start : evidence.end] == evidence.text == row.turns[1].parts[0].text


def test_a_figures_own_terms_override_the_articles():
    rows = {r.media[0]: r for r in _rows(paper(figures=FIGURES))}
    assert (rows["pmc1-1-f1"].licence, rows["pmc1-1-f1"].terms_id) == ("CC BY 4.0", "cc-by")
    assert (rows["pmc1-1-f5"].licence, rows["pmc1-1-f5"].terms_id) == ("(c) Somebody", "reproduced-with-permission")


def test_ids_are_unique_and_outlive_their_neighbours():
    rows = {r.media[0]: r for r in _rows(paper(figures=FIGURES))}
    assert len({r.example_id for r in rows.values()}) == len(rows)
    alone = _rows(paper(figures=FIGURES[1:2], refused=("pmc1-1-f2a",)))
    assert alone == [rows["pmc1-1-f2b"]]
    other = next(iter(Captions().examples(paper(figures=FIGURES), "another", None)))
    assert other.example_id != rows["pmc1-1-f1"].example_id


def test_a_scan_with_a_report_gives_the_report_for_each_of_its_media():
    unit = scan(medium("ct-abc"), medium("ct-abc-1"), text=" No acute finding. ")
    rows = _rows(unit, report_language="fr")
    assert [r.media for r in rows] == [("ct-abc",), ("ct-abc-1",)]
    assert {r.turns[1].parts[0].text for r in rows} == {"No acute finding."}
    assert {r.language for r in rows} == {"fr"}
    assert all(r.turns[0].parts[1].text in SCAN_WORDINGS for r in rows)
    assert {(e.where, e.start, e.end, e.text) for r in rows for e in r.evidence} == {
        ("header:ct-abc", 0, 0, "No acute finding.")
    }
    assert _rows(scan(medium("ct-abc"))) == []
    assert [r.turns[1].parts[0].text for r in _rows(scan(medium("ct-abc", text="From the case.")))] == [
        "From the case."
    ]


def test_languages_are_primary_codes_and_english_where_none_is_stated():
    for stated, language in (("", "en"), ("EN", "en"), ("pt-BR", "pt"), ("de_DE", "de")):
        unit = paper(figures=FIGURES[:1], lang=stated)
        assert [r.language for r in _rows(unit)] == [language]
    unit = replace(paper(figures=FIGURES[:1]), article={"article_key": "pmc1-1", "lang": None})
    assert [r.language for r in _rows(unit)] == ["en"]


def test_a_thumbnail_that_shares_its_figures_key_gives_no_second_row():
    shown = figure("f1", "Axial CT.")
    copies = [*shown["media"], shown["media"][0] | {"href": "f1-small.gif", "role": "thumbnail"}]
    assert [r.media for r in _rows(paper(figures=(shown | {"media": copies},)))] == [("pmc1-1-f1",)]
