"""The grammar of mentions, one sentence per trap; `[rid|text]` stands for a figure cross-reference."""

import time

import pytest

from medloom.connectors.figures import FigureIndex, declared_panels, read_label
from medloom.connectors.jats import parse_article
from medloom.connectors.mentions import CrossReference, find_mentions
from medloom.connectors.sentences import sentence_spans
from tests.connectors.figure_articles import cases, figures_in, mentions, told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # several ids in one cross-reference; the panel belongs to the number before it
        ("see [f5 f6|Figures 5 and 6A].", [("Figures 5 and 6A", {"f5": "", "f6": "A"})]),
        ("see [f2 f6|Figures 2C, 6F].", [("Figures 2C, 6F", {"f2": "C", "f6": "F"})]),
        ("see [f2 f3|Figures 2B,C and 3A,B].", [("Figures 2B,C and 3A,B", {"f2": "BC", "f3": "AB"})]),
        ("see [f2|Figure 2A/9D].", [("Figure 2A/9D", {"f2": "A", "f9": "D"})]),
        # ranges
        ("see [f4|Fig. 4]–[f7|7].", [("Fig. 4–7", {"f4": "", "f5": "", "f6": "", "f7": ""})]),
        ("see [f6|Figures 6] to [f8|8].", [("Figures 6 to 8", {"f6": "", "f7": "", "f8": ""})]),
        ("see Figs. [f1|1][f2|]–[f3|3].", [("Figs. 1–3", {"f1": "", "f2": "", "f3": ""})]),
        (
            "see Figs [f1|1]–[f3|3], [f5|5] and [f8|8].",
            [("Figs 1–3, 5 and 8", {"f1": "", "f2": "", "f3": "", "f5": "", "f8": ""})],
        ),
        ("see [f7 f8 f9 f10|Figures 7–10].", [("Figures 7–10", {"f7": "", "f8": "", "f9": "", "f10": ""})]),
        # panels in the tail
        ("see [f3|Fig. 3]a, b and [f4|4].", [("Fig. 3a, b and 4", {"f3": "AB", "f4": ""})]),
        ("see ([f5|Figure 5] B and C).", [("Figure 5 B and C", {"f5": "BC"})]),
        ("as [f1|Fig. 1] (a),(b) and (c) in", [("Fig. 1 (a),(b) and (c)", {"f1": "ABC"})]),
        ("as [f1|Fig. 1](a)(b)(c) in", [("Fig. 1(a)(b)(c)", {"f1": "ABC"})]),
        ("see [f9|Fig. 9] B&E.", [("Fig. 9 B&E", {"f9": "BE"})]),
        ("see [f2|Fig. 2]A–C.", [("Fig. 2A–C", {"f2": "ABC"})]),
        ("see [f9|Figure 9B,D–G].", [("Figure 9B,D–G", {"f9": "BDEFG"})]),
        ("see [f5|Figs. 5A–5D].", [("Figs. 5A–5D", {"f5": "ABCD"})]),
        ("see [f3|Fig. 3A through C].", [("Fig. 3A through C", {"f3": "ABC"})]),
        ("see [f2|Figure 2], panels A and B.", [("Figure 2, panels A and B", {"f2": "AB"})]),
        ("see [f2|Figure 2]-B.", [("Figure 2-B", {"f2": "B"})]),
        ("see [f3|Figure 3]A′–C′.", [("Figure 3A′–C′", {"f3": "A′B′C′"})]),
        ("see [f9|Figure 9]AIV and", [("Figure 9AIV", {"f9": "A"})]),
        ("see [f1|Fig 1A and 1B].", [("Fig 1A and 1B", {"f1": "AB"})]),
        ("see [f1|A] of it", [("A", {"f1": "A"})]),
        # letters that are no panels
        ("in [f4|Fig 4], a voxel is", [("Fig 4", {"f4": ""})]),
        ("([f2|Figure 2]; p = 0.01)", [("Figure 2", {"f2": ""})]),
        ("([f2|Figure 2], p = 0.01)", [("Figure 2", {"f2": ""})]),
        ("([f3|Fig. 3A]; z = 4.3)", [("Fig. 3A", {"f3": "A"})]),
        ("([f1|Figure 1A and B, P]=0.010)", [("Figure 1A and B", {"f1": "AB"})]),
        ("[f2|Figure 2] K-channel", [("Figure 2", {"f2": ""})]),
        ("[f2|Figure 2] D-loop", [("Figure 2", {"f2": ""})]),
        ("([f2|Figure 2] B = 3)", [("Figure 2", {"f2": ""})]),
        ("[f2|Figure 2]A, B cells were", [("Figure 2A", {"f2": "A"})]),
        ("[f2|Figure 2]A and B show", [("Figure 2A and B", {"f2": "AB"})]),
        ("[f2|Figure 2]A and x-axis", [("Figure 2A", {"f2": "A"})]),
        ("([f3|Fig. 3A], F(1,20) = 3)", [("Fig. 3A", {"f3": "A"})]),
        ("[f8|Fig. 8], 2nd column", [("Fig. 8", {"f8": ""})]),
        ("[f1|Fig. 1], 3 days later", [("Fig. 1", {"f1": ""})]),
        ("na [f2|Figura 2] e na", [("Figura 2", {"f2": ""})]),
        # the word outside, a broken word, other series
        ("(Figure [f2|2A,C,E,I], left)", [("Figure 2A,C,E,I", {"f2": "ACEI"})]),
        ("como (i[img|magem 4]) foi", [("imagem 4", {"img": ""})]),
        ("[sch1|Scheme 1] shows", [("Scheme 1", {"sch1": ""})]),
        ("(Figura [f8|8]b)", [("Figura 8b", {"f8": "B"})]),
        ("as [f1|shown above] and", [("shown above", {"f1": ""})]),
        ("nas [c78|Figuras 17], [c78|18] e [f10|10] , da", [("Figuras 17, 18 e 10", {"c78": "", "f10": ""})]),
        # supplements of a figure
        ("see [s1 s2|Figure1—figure supplement 1A,2].", [("Figure1—figure supplement 1A,2", {"s1": "A", "s2": ""})]),
        (
            "see [s1 s2 s3|Figure 1—figure supplements 1/2/3].",
            [("Figure 1—figure supplements 1/2/3", {"s1": "", "s2": "", "s3": ""})],
        ),
        ("see Figure 1–figure supplement 1–3.", [("Figure 1–figure supplement 1–3", {"s1": "", "s2": "", "s3": ""})]),
        ("see [s1|Figure 1—figure supplement 1], [s2|2].", [("Figure 1—figure supplement 1, 2", {"s1": "", "s2": ""})]),
        # plain text
        ("Fig.1,2, and 3 were drawn", [("Fig.1,2, and 3", {"f1": "", "f2": "", "f3": ""})]),
        ("in Figure 5D.", [("Figure 5D", {"f5": "D"})]),
        ("in FIGURES 2 & 3.", [("FIGURES 2 & 3", {"f2": "", "f3": ""})]),
        ("[f2|Figures 2] and 3 were", [("Figures 2 and 3", {"f2": "", "f3": ""})]),
        ("Author response image 1 shows", [("Author response image 1", {"ari": ""})]),
        ("Fig. 5; Fig. 6C", [("Fig. 5", {"f5": ""}), ("Fig. 6C", {"f6": "C"})]),
        ("Configure 2, the figure 2-fold, fig1data.txt", [("figure 2", {"f2": ""})]),
    ],
)
def test_a_mention_names_its_figures_and_panels(text: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert told(mentions(text)) == expected


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("see Figure S1.", "supplementary"),
        ("see Figs S6C and S7A.", "supplementary"),
        ("see S1 Fig.", "supplementary"),
        ("see Supplementary Figure 1.", "supplementary"),
        ("see eFigure 2.", "supplementary"),
        ("see [sup1|Figure 9—source data 2].", "supplementary"),
        ("see Figure 9—source data 2.", "supplementary"),
        ("see Figure 3—video 1.", "supplementary"),
        ("see Extended Data Fig. 2.", "supplementary"),
        ("see Figure 99.", "unresolved"),
        ("see Fig. 1 in Smith et al.", "other_article"),
        ("see Fig. 3 of the same paper.", "other_article"),
        ("in Smith et al. (2010), Fig. 3 shows", "other_article"),
        ("their Figure 2", "other_article"),
        ("it is [22: 50, 62–65, fig. 2].", "other_article"),
        ("it is [1: 302; Fig. 2].", "resolved"),
        ("plain Fig. 2 here", "resolved"),
    ],
)
def test_what_plain_text_may_mean(text: str, status: str) -> None:
    (mention,) = mentions(text)
    assert mention["status"] == status
    assert bool(mention["fig_keys"]) == (status == "resolved")


@pytest.mark.parametrize(
    ("text", "qualifier"),
    [
        ("([f9|Fig 9D], right panel)", "right panel"),
        ("([f9|Fig. 9] (middle row))", "middle row"),
        ("([f2|Fig. 2]A, left)", "left"),
        ("([f2|Fig. 2]; left and right panels, resp.)", "left and right panels"),
        ("([f7|Figure 7A], panels I and II)", "panels I and II"),
        ("([f4|Figure 4], part 2)", "part 2"),
        ("([f1|Fig 1E] inset)", "inset"),
        ("In [f3|Figure 3D], lower rates led", ""),
    ],
)
def test_words_that_narrow_a_mention_are_its_qualifier(text: str, qualifier: str) -> None:
    (mention,) = mentions(text)
    assert mention["qualifier"] == qualifier
    assert qualifier not in mention["text"] or not qualifier


NUMBERS = cases("""
    ([f1|1], [f2|2] and [f4|4]) => f1 f2 f4
    Figs. [f1|1], [f2|2], [f4|4]–[f6|6] => f1 f2 f4 f5 f6
    [f1|Fig. 1]–[f3|Fig. 3] => f1 f2 f3
    [f1|Figure 1] to [f3|Figure 3] => f1 f2 f3
    Compare [f1|Figure 1] to [f3|Figure 3] => f1 f3
    [f1|Figuras 1] a [f3|3] e [f5|5] => f1 f2 f3 f5
    ([f1|Figs. 1]A and [f2|2]B) => f1:A f2:B
    ([f1|Figure 1A]; [f2|2B,C]; [f3|3]) => f1:A f2:BC f3
    ([f1|Fig. 1], [f2|Fig. 2]) => f1 f2
    in [f2|Fig. 2]12 shows => f2
    Figures 2, 3A, and 4B–D => f2 f3:A f4:BCD
    (Figs. 1 and 2, respectively) => f1 f2
    (Fig. 2, 3 and 5) => f2 f3 f5
    (Figs. II and III) => f2 f3
    (Fig. IIa) => f2:A
    (Table 1 and Figure 2) => f2
    (Figs. 1, 2 and Table 3) => f1 f2
    (Figs. 1, 2, and S1) => f1 f2
    (Fig. 2, 3D reconstruction) => f2
    (Fig. 2, 3T MRI) => f2
    (Fig. 1, 24 h) => f1
    (Fig. 1, 5 μm) => f1
    ([f1|Fig. 1], 3:1) => f1
    (Fig. 1, 5′ end) => f1
    (Figs. 1 and 5-HT) => f1
    (Fig. 1; cases 2, 3) => f1
    (Fig. 1A and 4F) => f1:A f4:F
    (Fig. 1 and 2 C, D) => f1 f2:CD
    (Figs.1-3,5) => f1 f2 f3 f5
    ([f1|Fig. 1], 4 × 3 cm) => f1
    In Figure 2, 3 of 5 => f2
    Figure 2 and 10 mice => f2
    See Fig. 2 and 3 patients => f2
    (Figure 2.1) => -
    shown in Figure 2.12 The => f2
    (Fig. 1-1) => -
    a figure 8 coil => -
    a figure-8 coil => -
    (Fig. 1 and Supplementary Fig. 2) => f1
    (Fig. [f2|2]a, c, Supplementary Fig. 3b) => f2:AC
    (Fig 1A, 2B, S2 Fig) => f1:A f2:B
""")

WORDS = cases("""
    (Figure-1) => f1
    (Fig.: 2B) => f2:B
    (Figure No. 2) => f2
    (Fig. (2A)) => f2:A
    (Fig.s 1 and 2) => f1 f2
    (FIGS. 1 and 2) => f1 f2
    (Figg. 1 e 2) => f1 f2
    (Abbildungen 1 und 2) => f1 f2
    Abbildungen 2 bis 4 => f2 f3 f4
    (figures 1 à 3) => f1 f2 f3
    (Figuras 2 y 3) => f2 f3
    如图Fig. 2A所示 => f2:A
    (Gráficos 1 e 2) => gr1 gr2
    (Schemes 1 and 2) => sch1 sch2
    (Plates III and IV) => pl3 pl4
    (Plate III, A) => pl3:A
    (Fig. A1) => fa1
    (Figures B.2 and B.3) => fb2 fb3
    (Figs EV1 and EV2B) => ev1 ev2:B
    (Fig. S9A–C) => fs9:ABC
    (Supplementary Figure 9A) => fs9:A
    (Appendix 1—figures 2 and 3) => ap2 ap3
    (Appendix 1—figure 2A,B) => ap2:AB
    (Appendix 2—figure 2) => -
    see Appendix 1—figure 2 and [f1|Figure 1]. => ap2 f1
    in the Appendix, Figure 1 shows => f1
    (Extended Data Figs. 3 and 4a) => ed3 ed4:A
    (Figure 1—figure supplement 1 and 2A) => s1 s2:A
    ([f1|Figure 1], [s1|Figure 1—figure supplement 1], [s2|2]) => f1 s1 s2
""")


@pytest.mark.parametrize(("text", "expected"), NUMBERS)
def test_numbers_are_listed_and_reach_over_others(text: str, expected: str) -> None:
    assert figures_in(text) == expected


@pytest.mark.parametrize(("text", "expected"), WORDS)
def test_many_words_name_figures(text: str, expected: str) -> None:
    assert figures_in(text) == expected


@pytest.mark.parametrize(
    ("labels", "text", "expected"),
    [
        ({"z1": "图1", "z2": "图 2"}, "结果如图1所示，见图2A和B。", "z1 z2:AB"),
        ({"r1": "Рис. 1", "r2": "Рис. 2"}, "на рис. 1 и 2", "r1 r2"),
        ({"i1": "Imagen 1", "i2": "Imagen 2"}, "(Imágenes 1 y 2)", "i1 i2"),
        ({"g1": "Graph 1", "b1": "Box 1"}, "(Graph 1A–C and boxes 1)", "b1 g1:ABC"),
        ({"g1": "Graph 1"}, "graphic 1", "-"),
        ({"t1": "Table 1", "f1": "Fig 1"}, "(Table 1 and Fig. 1)", "f1 t1"),
        ({"c1": "Figure 1-1", "c2": "Figure 2-1", "c3": "Figure 2-2"}, "(Figs. 2-1A and 2-2)", "c2:A c3"),
        ({"d1": "Figure 1.1", "d2": "Figure 1.2"}, "(Figs 1.1 and 1.2B)", "d1 d2:B"),
        ({"f1": "FIG1", "f2": "Figure (2)"}, "(Figures 1 and 2)", "f1 f2"),
        ({"e1": "eFigure 1", "f1": "Figure 1"}, "(eFigure 1)", "e1"),
        ({"s4": "Additional file 1: Figure S4"}, "(Additional file 1: Figure S4)", "s4"),
        ({"a": "Appendix 1—figure 1—figure supplement 2."}, "(Appendix 1—figure 1—figure supplement 2)", "a"),
    ],
)
def test_labels_of_the_article_say_what_words_mean(labels: dict[str, str], text: str, expected: str) -> None:
    assert figures_in(text, labels=labels) == expected


@pytest.mark.parametrize(
    "text",
    [
        "see Fig. 1 of ref 12.", "see Figure 3 in Smith and Jones [12].", "see Figure 3 by Smith et al.",
        "see Fig. 2 in [23, 24] and so", "(see [23], Fig. 2)", "(Smith 2010: fig. 2)", "Smith (2010: figs 2–4)",
        "Smith et al.'s Figure 2", "see Fig. 4 in our previous paper", "Figure 2 of the paper by Smith",
        "see Smith (2010) Fig. 2", "the original Figure 2", "(see Figure 4 in Smith, Jones and Li 2019)",
    ],
)  # fmt: skip
def test_figures_of_other_works_are_not_ours(text: str) -> None:
    (mention,) = mentions(text)
    assert (mention["status"], mention["fig_keys"]) == ("other_article", [])


@pytest.mark.parametrize(
    "text",
    [
        "see Fig. 2 in Supplementary Material.", "see Figure 2 in S1 File.", "see Figure 2 in Additional file 1.",
        "(sFigure 1)", "(Web Figure 1)", "(Appendix Fig S1)", "(SI Appendix, Fig. S3)",
        "(online supplemental figure 2)",
        "(Additional file 3: Fig. S2a, b)", "(Extended Data Figure 1-1)", "(S1A and S1B Fig)", "(figs. S3, A and B)",
    ],
)  # fmt: skip
def test_figures_in_files_beside_are_supplementary(text: str) -> None:
    (mention,) = mentions(text)
    assert (mention["status"], mention["fig_keys"]) == ("supplementary", [])


@pytest.mark.parametrize(
    "text",
    [
        "(Smith et al., 2010) (Fig. 2)", "[12] (Fig. 2)", "in Figure 2 [12].", "Following [12], Figure 2 shows",
        "In May 2010, Fig. 2 shows", "previous results (Figure 2)", "Figure 2 from the same patient",
        "Figures 1 and S1 in the Supplement", "Figure 2 of the previous section",
        "Figure 2 of this article", "[f2|Figure 2] in Smith et al.",
    ],
)  # fmt: skip
def test_a_citation_nearby_does_not_take_a_figure_away(text: str) -> None:
    (mention,) = mentions(text)
    assert (mention["status"], len(mention["fig_keys"])) == ("resolved", 1)


@pytest.mark.parametrize(
    "unit",
    ["Fig. 1A, ", "((((", "Fig. 1, 2, ", "a, b, c, ", "panel A of Fig. 1, ", "upper left, ", "A. ", "S1 Fig ",
     "Fig. 1.1-1",
     "Supplementary information data file online 1 2 ", "Fig. 1 i, ii, iii, ", "Smith, 2010, "],
)  # fmt: skip
def test_time_grows_with_the_length_of_a_paragraph_and_no_faster(unit: str) -> None:
    figures = FigureIndex({"article": None}, labels={("article", "fig", "1"): (0,)}, panels={0: frozenset("ABC")})

    def seconds(size: int) -> float:
        text = "Fig. 1A upper " + unit * (size // len(unit))
        started = time.process_time()
        find_mentions(text, references=[], figures=figures, scope="article", in_caption=False)
        sentence_spans(text)
        return time.process_time() - started

    # Five times the text may take five times as long, not 25 times.
    assert seconds(250_000) < 12 * max(min(seconds(50_000) for _ in range(2)), 0.02)


def test_a_cross_reference_of_another_type_to_a_figure_is_one_all_the_same() -> None:
    article = (
        '<article><front/><body><p>see <xref ref-type="scheme" rid="f1">Scheme 1</xref>b</p><fig id="f1">'
        "<label>Scheme 1</label><caption><p>It.</p></caption></fig></body></article>"
    )
    (mention,) = parse_article(article.encode(), source="a")["mention"]
    assert (mention["text"], mention["method"], list(mention["panels"].values())) == ("Scheme 1b", "rid", [["B"]])


def test_many_cross_references_are_read_one_by_one() -> None:
    figures = FigureIndex({"article": None}, ids={("article", "f1"): (0,)}, labels={("article", "fig", "1"): (0,)})
    count, text = 3000, "1, "
    references = [CrossReference(i * len(text), i * len(text) + 1, ("f1",)) for i in range(count)]
    found = find_mentions(
        text * count, references=references, figures=figures, scope="article", in_caption=False, other_words=None
    )
    assert [r for m in found for r in m.references] == references


def test_in_a_caption_a_bracketed_letter_starts_the_next_panel() -> None:
    text = "(A) as used in [f1|Figures 1] and [f2|2]; (B) used in [f3|Figure 3] (C) used in [f4|Figure 4]."
    found = [m for m in mentions(text, where="caption") if m["where"] == "caption"]
    assert told(found) == [
        ("Figures 1 and 2", {"f1": "", "f2": ""}),
        ("Figure 3", {"f3": ""}),
        ("Figure 4", {"f4": ""}),
    ]


def test_methods_say_how_a_mention_is_known() -> None:
    text = "[f1|Fig. 1]; [f1 f2|Figs 1, 2]; [f4|Fig. 4]–[f7|7]; [f2|Figures 2] and 3; Fig. 5."
    assert [(m["method"], m["confidence"]) for m in mentions(text)] == [
        ("rid", 1.0),
        ("rid_multi", 1.0),
        ("range_fill", 0.95),
        ("tail", 0.95),
        ("label_text", 0.8),
    ]


@pytest.mark.parametrize(
    ("label", "series", "numbers"),
    [
        ("Fig. 1.", "fig", ("1",)),
        ("FIGURA 02:", "fig", ("2",)),
        ("Figuras 7 e 8", "fig", ("7", "8")),
        ("Figures 3–5", "fig", ("3", "4", "5")),
        ("Figure 1—figure supplement 2.", "fig", ("1s2",)),
        ("Supplementary Figure 3", "fig", ("S3",)),
        ("Figure S2", "fig", ("S2",)),
        ("Figure IV", "fig", ("4",)),
        ("Scheme 1", "scheme", ("1",)),
        ("Author response image 2.", "author response image", ("2",)),
        ("Fig. 2.10", "fig", ("2.10",)),
        ("Quadro", "quadro", ()),
        ("", "", ()),
    ],
)
def test_labels_are_read_as_numbers(label: str, series: str, numbers: tuple[str, ...]) -> None:
    assert (read_label(label).series, read_label(label).numbers) == (series, numbers)


@pytest.mark.parametrize(
    ("caption", "letters"),
    [
        ("(A) One. (B–D) Two (n = 3). (E) Three.", "ABCDE"),
        ("A, One. B, Two.", "AB"),
        ("a) One b) two", ""),
        ("Mean (n) and (p).", ""),
        ("Left: one. Right: two.", "left right"),
        ("(a)–(c) One, (d) two", "ABCD"),
        ("As in Fig. 2 (A) and (B).", ""),
    ],
)
def test_captions_declare_their_panels(caption: str, letters: str) -> None:
    found = [p.letter for p in declared_panels(caption)]
    assert (" " if " " in letters else "").join(found) == letters


def test_bold_letters_declare_panels() -> None:
    caption = "Views. a, one; b, two"
    assert [p.letter for p in declared_panels(caption, [(7, 8), (15, 16)])] == ["A", "B"]
