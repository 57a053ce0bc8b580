"""Panel letters around a figure's number, one line per form, and the letters that are none."""

import pytest

from tests.connectors.figure_articles import cases, figures_in, mentions

PANELS_NAMED = cases("""
    in [f1|Figs 1A]–[f1|C]. => f1:ABC
    ([f1|Figure 1A], [f1|B]) => f1:AB
    ([f1|Fig. 1a], [f1|b] and [f1|d]) => f1:ABD
    ([f3|Figures 3][f3|A] and [f3|B]) => f3:AB
    ([f1|1]([f1|a])) => f1:A
    [f1|Figures 1(A)]–[f1|(C)] => f1:ABC
    (Figures [f1|1(a)]–[f1|1(c)] and 3(b)) => f1:ABC f3:B
    (Figs. [f1|1]a, b, [f2|2]c and [f3|3]) => f1:AB f2:C f3
    in Fig. 1a-c and e. => f1:ABCE
    (Fig. 1a–c, e and g–i) => f1:ABCEGHI
    in Figures 1A, 2B and C. => f1:A f2:BC
    in Figure 1A/B, then Fig. 2A/2B. => f1:AB f2:AB
    (Fig. 1A;B) => f1:AB
    (Figs. 1A; 2B) => f1:A f2:B
    (Figure 1a and b vs. c) => f1:ABC
    (Fig. 1A versus 1B) => f1:AB
    (Fig. 1A, B and 2 C, D) => f1:AB f2:CD
    (Figs. 2C, 3A, and 4, A and B) => f2:C f3:A f4:AB
    (Fig. 1, B) => f1:B
    (Fig. 1, A through C) => f1:ABC
    (Fig. 1, (A)) => f1:A
    ([f2|Fig. 2]: A, B) => f2:AB
    [f2|Fig. 2] b shows => f2:B
    ([f1|Figure 1A], [f1|Panel B]) => f1:A f1:B
    ([f1|Figure 1]-A, B) => f1:AB
    ([f2|Fig. 2]A,B,D)[12] => f2:ABD
    in [f2|Fig. 2A],13,14 => f2:A
    (Fig. 1 [A]) => f1:A
    (Fig. 1.A) => f1:A
    (Fig. 1:A) => f1:A
    (Fig. 2(a), 2(b)) => f2:AB
    (Figs. 1 (A,B) and 2 (C)) => f1:AB f2:C
    (Figs. 9 a)-e)) => f9:ABCDE
    in Fig. 9a), b) and c) we => f9:ABC
    (Fig. 1a, b arrows) => f1:AB
    (Fig. 1 A, red circle) => f1:A
    (Fig. 2 (A, arrow)) => f2:A
    in Fig. 2, A and B are => f2:AB
    in Figure 2 B and C we => f2:BC
    shown in Fig. 2 B shows => f2:B
    (Fig. 5 J–K) => f5:JK
    (Fig 5Bi–iii) => f5:B
    (Fig 5B(ii)) => f5:B
    (Figure 2Aa) => f2:A
    Fig. 2i–iv => f2:IIIIIIIV
    Fig. 2(ii) => f2:II
    (Figure 3A1–A3) => f3:A1A2A3
    (Figure 2A1–3) => f2:A1A2A3
    Figure 2A1 and A2 => f2:A1A2
    (Figure 2A–A″) => f2:AA′A″
    (Fig. 2A, A′, A″) => f2:AA′A″
    (Figure 3, panels C and D) => f3:CD
    (Figure [f3|3], Panel A-C) => f3:ABC
    (Fig. 1, panels a, c & e) => f1:ACE
    (Figure 2 – panel B) => f2:B
    (Fig. 3, parts A and B) => f3:AB
    as in panel C of Figure 3. => f3:C
    as in panels C and D of [f3|Figure 3]. => f3:CD
    panels (A) and (B) of [f2|Fig. 2] => f2:AB
    (Panel A, Figure 2) => f2:A
    ([f1|panel A in Figure 1]) => f1:A
    painel B da Figura 2 => f2:B
    (Figura 1, painéis A e B) => f1:AB
    (Figuras 2A, 2B e 2C) => f2:ABC
    (Abb. 1a und b) => f1:AB
    (Fig. 1A et B) => f1:AB
    (Fig. 2A, E) => f2:AE
    in [f2|Fig. 2A]3 shows => f2:A
    in [f2|Fig. 2]A12 and => f2:A
""")

NO_PANELS = cases("""
    in [f4|Fig. 4] a voxel => f4
    in Figure 4, a similar trend => f4
    shown in [f2|Figure 2] A total of 20 => f2
    shown in Fig. 1.A total of => f1
    Figure 2 A 45-year-old => f2
    [f1|Figure 1] A 3D model => f1
    in Fig. 2, A is the amplitude => f2
    in Fig. 2, I observed => f2
    in Fig. 3 B cells were => f3
    in Fig. 3A and B cells were => f3:A
    in Fig. 2, B and T cells => f2
    [f1|Figure 1A], B and NK cells => f1:A
    in Figure 2 T lymphocytes => f2
    in Figure 2A, E-cadherin and N-cadherin => f2:A
    (Fig. 2, C. elegans) => f2
    in Fig. 2A and E. coli => f2:A
    (Fig. 2 H&E stain) => f2
    (Fig. 2A,B, H & E) => f2:AB
    (Fig. 2A, T2) => f2:A
    (Fig. 2A and D2 receptors) => f2:A
    in Figure 2A and F4/80 => f2:A
    in Figure 2A, C57BL/6 => f2:A
    [f1|Figure 1A], F-18 FDG => f1:A
    [f1|Figure 1] C/EBP => f1
    [f1|Figure 1] A-P axis => f1
    [f1|Figure 1a] and e.g. the => f1:A
    (Fig. 2 n = 5) => f2
    (Fig. 2, R2 = 0.5) => f2
    (Fig. 2B; F1,20 = 5.3) => f2:B
    (Fig. 2, t(18) = 2) => f2
    (Fig. 2B, y axis) => f2:B
    (Fig. 2 (i.e. the first)) => f2
    a) Fig. 2, b) Fig. 3 => f2 f3
    (i) Fig. 2, (ii) Fig. 3 => f2 f3
    Fig. 2 (m/z 300) => f2
    Fig. 2A, i.p. injection => f2:A
    Fig. 2 x and y coordinates => f2
    ([f1|Fig. 1], group B) => f1
    ([f1|Fig. 1], Case A) => f1
    na Figura 2 a distribuição => f2
    na Figura 2 e a distribuição => f2
    expert panel A, Figure 2 => f2
    solar panel of Figure 2 => f2
    Figure 2, image analysis => f2
    Figure 2. Panel A => f2
""")

WITHOUT_DECLARED_PANELS = cases("""
    (Fig. 1, B) => f1:B
    (Fig. 1, A and B) => f1:AB
    in Fig. 1 A and B the => f1:AB
    (Fig. 4 i–iii) => f4:IIIIII
    (Fig. 2, P) => f2
    in Fig. 3 B cells => f3
    in Figure 2 A total => f2
""")


@pytest.mark.parametrize(("text", "expected"), PANELS_NAMED)
def test_letters_around_a_number_are_panels(text: str, expected: str) -> None:
    assert figures_in(text) == expected


@pytest.mark.parametrize(("text", "expected"), NO_PANELS)
def test_letters_that_stand_for_something_else_are_no_panels(text: str, expected: str) -> None:
    assert figures_in(text) == expected


@pytest.mark.parametrize(("text", "expected"), WITHOUT_DECLARED_PANELS)
def test_letters_are_told_apart_where_the_caption_declares_none(text: str, expected: str) -> None:
    assert figures_in(text, panels="Just a caption.") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(A) as in [f1|Fig. 1] (B) other", "f1"),
        ("(A) as in [f1|Fig. 1A] B, other", "f1:A"),
        ("As in [f1|Fig. 1], (B) other", "f1"),
    ],
)
def test_the_next_description_of_a_caption_is_no_panel_of_the_mention(text: str, expected: str) -> None:
    assert figures_in(text, where="caption") == expected


@pytest.mark.parametrize(
    ("text", "qualifier"),
    [
        ("(Fig. 1, left and right)", "left and right"),
        ("(Fig. 1a, top right)", "top right"),
        ("(Fig. 1 – left panel)", "left panel"),
        ("(Figure 2A, B (upper panels))", "upper panels"),
        ("the upper panel of Figure 2 shows", "upper panel"),
        ("the inset of [f2|Fig. 2B] shows", "inset"),
        ("(left panel, Fig. 2)", "left panel"),
        ("the top of Fig. 2", "top"),
        ("([f1|Fig. 1]B, lanes 2 and 3)", "lanes 2 and 3"),
        ("fourth run from top in Fig. 2", ""),
        ("shown in Fig. 3, left ventricular mass", ""),
        ("the panel in Figure 2", ""),
    ],
)
def test_words_around_a_mention_narrow_it(text: str, qualifier: str) -> None:
    (mention,) = mentions(text)
    assert mention["qualifier"] == qualifier


def test_panels_named_before_a_figure_are_part_of_the_mention() -> None:
    (mention,) = mentions("As in panels C and D of [f3|Figure 3], it")
    assert mention["text"] == "panels C and D of Figure 3"
    assert mention["method"] == "rid"
    first, second = mentions("see panel a in Fig. 3 and panel b in Fig. 4")
    assert [first["text"], second["text"]] == ["panel a in Fig. 3", "panel b in Fig. 4"]


@pytest.mark.parametrize(
    ("labels", "text", "expected"),
    [
        ({"a": "Figure 1A", "b": "Figure 1B", "c": "Figure 1C"}, "(Figure 1B)", "b:B"),
        ({"a": "Figure 1A", "b": "Figure 1B", "c": "Figure 1C"}, "(Figures [a|1A]–[c|1C])", "a:A b:B c:C"),
        ({"a": "Figure 1A", "b": "Figure 1B", "c": "Figure 1C"}, "([a|Figure 1A], [b|B])", "a:A b:B"),
        ({"p": "Figure 1", "a": "(a)", "b": "(b)"}, "(Figure 1a)", "a:A"),
        ({"p": "Figure 1", "a": "(a)", "b": "(b)"}, "([b|Fig. 1b])", "b:B"),
    ],
)
def test_a_figure_of_its_own_may_be_one_panel(labels: dict[str, str], text: str, expected: str) -> None:
    assert figures_in(text, labels=labels) == expected
