"""The grammar of mentions, one sentence per trap; `[rid|text]` stands for a figure cross-reference."""

import re
from html import escape
from typing import Any

import pytest

from medloom.connectors.figures import declared_panels, read_label
from medloom.connectors.jats import parse_article

PANELS = "(A) a. (B) b. (C) c. (D) d. (E) e."
LABELS = {f"f{n}": f"Figure {n}" for n in range(1, 11)} | {
    "s1": "Figure 1—figure supplement 1.",
    "s2": "Figure 1—figure supplement 2.",
    "s3": "Figure 1—figure supplement 3.",
    "c78": "Figuras 17 e 18",
    "sch": "Scheme 1",
    "ari": "Author response image 1.",
    "img": "Imagem 4",
}


def mentions(text: str, where: str = "p", panels: str = PANELS) -> list[dict[str, Any]]:
    def xref(match: re.Match[str]) -> str:
        kind = "supplementary-material" if match[1].startswith("sup") else "fig"
        return f'<xref ref-type="{kind}" rid="{match[1]}">{match[2]}</xref>'

    inner = re.sub(r"\[([a-z][\w ]*)\|(.*?)\]", xref, escape(text))
    figures = "".join(
        f'<fig id="{i}"><label>{label}</label><caption><p>{panels}</p></caption></fig>' for i, label in LABELS.items()
    )
    if where == "caption":
        inner = f'<fig id="host"><label>Figure 30</label><caption><p>{inner}</p></caption></fig>'
    else:
        inner = f"<p>{inner}</p>"
    rows = parse_article(f"<article><front/><body>{inner}{figures}</body></article>".encode(), source="a")
    return rows["mention"]


def told(found: list[dict[str, Any]]) -> list[tuple[str, dict[str, str]]]:
    """What mentions say: (text, panels by figure's id)."""
    return [(m["text"], {k.rpartition("/")[2]: "".join(m["panels"].get(k, [])) for k in m["fig_keys"]}) for m in found]


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
        ("[sch|Scheme 1] shows", [("Scheme 1", {"sch": ""})]),
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
        ("see Extended Data Fig. 2.", "unresolved"),
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
