"""One small article per trap of JATS: structure, scopes, figures, metadata, and what must be refused."""

import resource
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medloom.connectors.jats import PARSER_VERSION, parse_article
from medloom.connectors.sentences import sentence_spans
from medloom.schemas.errors import Refused
from medloom.schemas.keys import is_key, sha256_hex
from medloom.schemas.origin import TERMS
from medloom.schemas.tables import TABLES, rows_to_table

HEAD = 'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML"'
PMCID = '<article-id pub-id-type="pmcid">PMC7500000</article-id>'


def article(body: str, *, meta: str = PMCID, attributes: str = "", back: str = "", more: str = "") -> bytes:
    return (
        f"<article {HEAD} {attributes}><front><article-meta>{meta}</article-meta></front>"
        f"<body>{body}</body>{back}{more}</article>"
    ).encode()


def figure(xml_id: str, label: str, caption: str = "<p>Caption.</p>", graphics: str = "") -> str:
    graphics = graphics or f'<graphic xlink:href="{xml_id}"/>'
    mark = f'id="{xml_id}"' if xml_id else ""
    return f"<fig {mark}><label>{label}</label><caption>{caption}</caption>{graphics}</fig>"


def test_every_table_has_the_columns_of_its_schema() -> None:
    body = '<sec id="s1"><title>T</title><p>See <xref ref-type="fig" rid="f1">Fig. 1</xref>B.</p></sec>'
    rows = parse_article(
        article(body + figure("f1", "Fig. 1", "<title>A.</title><p>(A) x. (B) y.</p>")), source="a.xml"
    )
    assert {name: len(table) for name, table in rows.items()} == {
        "article": 1,
        "section": 1,
        "paragraph": 3,
        "figure": 1,
        "mention": 1,
    }
    for name, table in rows.items():
        assert rows_to_table(table, TABLES[name]).to_pylist()  # type: ignore[arg-type]
    assert [list(row) for row in rows["mention"]] == [TABLES["mention"].names]
    assert rows["article"][0]["parser_version"] == PARSER_VERSION


def test_white_space_is_collapsed_and_embedded_blocks_leave_their_tails() -> None:
    inner = figure("f1", "Fig. 1", "<p>Secret caption.</p>") + "<disp-formula><label>(1)</label></disp-formula>"
    body = (
        f"<p>One\n   two {inner} three<fn><p>Aside.</p></fn>, four&#160;five "
        "<list><list-item><p>item</p></list-item></list> end.</p>"
    )
    rows = parse_article(article(body), source="a")
    assert [(p["where"], p["text"]) for p in rows["paragraph"]] == [
        ("body", "One two three, four five end."),
        ("caption", "Secret caption."),
        ("footnote", "Aside."),
        ("body", "item"),
    ]


def test_text_that_begins_with_markup_is_kept_whole() -> None:
    items = "<def-item><term><italic>w</italic>HR<sup>2</sup></term><def><p>Wing heart.</p></def></def-item>"
    rows = parse_article(article(f"<p>Terms <def-list>{items}</def-list></p>"), source="a")
    assert [p["text"] for p in rows["paragraph"]] == ["Terms", "wHR2", "Wing heart."]


def test_references_are_no_text_and_markup_around_a_mention_is_read_through() -> None:
    cited = '<italic>See <sup><xref ref-type="bibr" rid="r1">7</xref></sup> (<xref ref-type="fig" rid="f1">Fig.'
    body = f"<p>{cited} <bold>1</bold></xref></italic><sub>B</sub>) and more.</p>" + figure("f1", "Fig. 1")
    back = "<back><ref-list><title>Fig. refs</title><p>See Fig. 1.</p><ref id='r1'><note><p>Fig. 1 x</p></note></ref>"
    rows = parse_article(article(body, back=f"{back}tail</ref-list></back>"), source="a")
    texts = [p["text"] for p in rows["paragraph"]]
    assert texts == ["See 7 (Fig. 1B) and more.", "Caption.", "See Fig. 1."]
    assert [(m["text"], list(m["panels"].values())) for m in rows["mention"]] == [("Fig. 1B", [["B"]]), ("Fig. 1", [])]


def test_a_formula_is_read_once() -> None:
    formula = (
        "<inline-formula><alternatives><tex-math>\\begin{document}$x$\\end{document}</tex-math>"
        '<mml:math><mml:mi>x</mml:mi></mml:math><inline-graphic xlink:href="e1"/></alternatives></inline-formula>'
    )
    only_tex = (
        "<inline-formula><tex-math>\\usepackage{a}\\begin{document}$y^2$\\end{document}</tex-math></inline-formula>"
    )
    rows = parse_article(article(f"<p>Let {formula} be {only_tex}.</p>"), source="a")
    assert rows["paragraph"][0]["text"] == "Let x be y^2."


@pytest.mark.parametrize(
    "wrap",
    [
        "<pmc-articleset>{}</pmc-articleset>",
        '<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><GetRecord>'
        "<record><metadata>{}</metadata></record></GetRecord></OAI-PMH>",
        "\ufeff<?xml version='1.0' encoding='UTF-8'?>"
        '<!DOCTYPE article PUBLIC "-//NLM//DTD JATS" "JATS.dtd"><?pi x?><!-- c -->{}',
    ],
)
def test_envelopes_namespaces_and_prologues_are_read_through(wrap: str) -> None:
    plain = article('<p>See <xref ref-type="fig" rid="f1">Fig. 1</xref>.</p>' + figure("f1", "Fig. 1")).decode()
    spaced = plain.replace("<article ", '<article xmlns="https://jats.nlm.nih.gov/ns/archiving/1.x/" ')
    for text in (plain, spaced):
        rows = parse_article(wrap.format(text).encode(), source="a")
        assert rows["mention"][0]["fig_keys"] == ["pmc7500000-1/article/f1"]


def test_html_entities_are_read_and_unknown_ones_marked() -> None:
    rows = parse_article(b"<!DOCTYPE article SYSTEM 'x.dtd'>" + article("<p>a&nbsp;b &alpha;&odd; c</p>"), source="a")
    assert rows["paragraph"][0]["text"] == "a b α\ufffd c"


def test_sections_keep_the_path_of_titles() -> None:
    body = (
        '<sec id="s1" sec-type="cases"><title>Case <italic>one</italic>'
        "</title><sec><title>Course</title><p>Text.</p></sec></sec>"
    )
    rows = parse_article(article(body), source="a")
    assert [(s["sec_id"], s["path"], s["sec_type"], s["order"]) for s in rows["section"]] == [
        ("s1", ["Case one"], "cases", 0),
        ("sec-1", ["Case one", "Course"], "", 1),
    ]
    assert rows["paragraph"][0]["sec_id"] == "sec-1"


def test_the_same_label_means_another_figure_in_a_translation() -> None:
    mention = '<p>Ver <xref ref-type="fig" rid="f{0}">Figura 1</xref> e (Figura 1).</p>'
    inner = (
        '<sub-article article-type="translation" id="TR1">'
        f"<body>{mention.format(2)}{figure('f2', 'Figura 1')}</body></sub-article>"
    )
    rows = parse_article(article(mention.format(1) + figure("f1", "Figure 1"), more=inner), source="a")
    assert [(m["fig_keys"], m["method"], m["where"]) for m in rows["mention"]] == [
        (["pmc7500000-1/article/f1"], "rid", "body"),
        (["pmc7500000-1/article/f1"], "label_text", "body"),
        (["pmc7500000-1/TR1/f2"], "rid", "sub-article"),
        (["pmc7500000-1/TR1/f2"], "label_text", "sub-article"),
    ]
    assert {p["scope_id"] for p in rows["paragraph"]} == {"article", "TR1"}


def test_a_reply_cites_the_figures_of_its_article_but_not_stale_ones() -> None:
    reply = (
        '<sub-article id="r" article-type="reviewer-report"><body>'
        "<p>Figure 1B is fine, Figure 1D and Figure 9 are not.</p></body></sub-article>"
    )
    rows = parse_article(article(figure("f1", "Figure 1", "<p>(A) a. (B) b.</p>"), more=reply), source="a")
    assert [(m["text"], m["status"], m["confidence"]) for m in rows["mention"]] == [
        ("Figure 1B", "resolved", 0.7),
        ("Figure 1D", "unresolved", 0.0),
        ("Figure 9", "unresolved", 0.0),
    ]


def test_where_tells_captions_tables_and_titles_from_narrative() -> None:
    ref = '<xref ref-type="fig" rid="f1">Fig. 1</xref>'
    body = (
        f"<sec><title>On {ref}</title><p>Text.</p></sec><sec><title>Plain"
        f"</title></sec>{figure('f1', 'Fig. 1', f'<p>As {ref}.</p>')}"
        f"<table-wrap><caption><p>Table.</p></caption><table><tr><td>{ref}</td><td>7</td></tr></table></table-wrap>"
    )
    rows = parse_article(article(body, back=f"<back><ack><p>Thanks for {ref}.</p></ack></back>"), source="a")
    assert [(m["where"], m["text"]) for m in rows["mention"]] == [
        (w, "Fig. 1") for w in ("title", "caption", "table", "back")
    ]
    assert [(p["where"], p["text"]) for p in rows["paragraph"] if p["where"] == "table"] == [
        ("table", "Table."),
        ("table", "Fig. 1"),
    ]
    assert not any(p["text"] == "Plain" for p in rows["paragraph"])


def test_language_copies_in_a_group_are_one_figure() -> None:
    copies = "".join(
        f'<fig xml:lang="{lang}"><label>{word} 2</label><caption><p>{lang} text.'
        f'</p></caption><graphic xlink:href="g2-{lang}.tif"/></fig>'
        for lang, word in (("pt", "Figura"), ("en", "Figure"))
    )
    body = f'<fig-group id="f2">{copies}</fig-group><p>(<xref ref-type="fig" rid="f2">figuras 2 a, b</xref>)</p>'
    rows = parse_article(article(body, attributes='xml:lang="en"'), source="a")
    (only,) = rows["figure"]
    assert (only["xml_id"], only["caption"], only["numbers"]) == ("f2", "en text.", ["2"])
    assert [(m["href"], m["role"]) for m in only["media"]] == [("g2-en.tif", "figure"), ("g2-pt.tif", "alternative")]
    assert rows["mention"][0]["panels"] == {"pmc7500000-1/article/f2": ["A", "B"]}


def test_a_group_stands_for_its_children_and_panels_inherit_its_number() -> None:
    children = figure("f3a", "(a)") + figure("f3b", "(b)")
    body = f'<fig-group id="f3"><label>Figure 3</label><caption><p>Both.</p></caption>{children}</fig-group>'
    body += '<p><xref ref-type="fig" rid="f3">Figure 3</xref>; Figure 3b.</p>'
    rows = parse_article(article(body), source="a")
    assert [(f["xml_id"], f["kind"], f["numbers"], f["parent_fig"][-2:]) for f in rows["figure"]] == [
        ("f3", "group", ["3"], ""),
        ("f3a", "panel", ["3"], "f3"),
        ("f3b", "panel", ["3"], "f3"),
    ]
    assert [[k[-3:] for k in m["fig_keys"]] for m in rows["mention"]] == [["f3a", "f3b"], ["f3b"]]


def test_a_supplement_names_its_parent() -> None:
    body = figure("fig1", "Figure 1.") + figure("fig1s2", "Figure 1—figure supplement 2.")
    rows = parse_article(article(f"<fig-group>{body}</fig-group>"), source="a")
    assert [(f["numbers"], f["kind"], f["parent_fig"]) for f in rows["figure"]] == [
        (["1"], "figure", ""),
        (["1s2"], "supplement", "pmc7500000-1/article/fig1"),
    ]


def test_media_keep_their_hrefs_and_have_stable_keys() -> None:
    forms = (
        '<alternatives><graphic xlink:href="x.tif"/><graphic xlink:href="x.png" specific-use="scielo-web"/>'
        '<graphic xlink:href="x-t.jpg" specific-use="scielo-web" content-type="scielo-267x140"/></alternatives>'
    )
    body = (
        figure("F.1", "Fig 1", graphics=forms)
        + figure("f-1", "Fig 2")
        + figure("", "Fig 3", graphics='<graphic xlink:href="info:doi/10.1/a.g003"/>')
    )
    body += figure("f4", "Fig 4", graphics='<graphic xlink:href="a.jpg"/><graphic xlink:href="b.jpg"/>')
    rows = parse_article(article(body), source="a")
    media = [[(m["href"], m["role"], m["key"]) for m in f["media"]] for f in rows["figure"]]
    first, hashed = "pmc7500000-1-f-1", lambda key: f"pmc7500000-1-{sha256_hex(key)[:12]}"
    assert media == [
        [("x.tif", "figure", first), ("x.png", "alternative", first), ("x-t.jpg", "thumbnail", first)],
        [("f-1", "figure", hashed("pmc7500000-1/article/f-1"))],
        [("info:doi/10.1/a.g003", "figure", hashed("pmc7500000-1/article/2"))],
        [("a.jpg", "figure", "pmc7500000-1-f4"), ("b.jpg", "figure", "pmc7500000-1-f4-2")],
    ]
    assert all(is_key(m["key"]) and m["md5"] == "" for f in rows["figure"] for m in f["media"])


def test_caption_offsets_count_in_title_and_paragraphs_joined() -> None:
    caption = "<title>Two views</title><p>(A, B) Axial.</p><p>(C) Sagittal, n = 3 (P = 0.1).</p>"
    (row,) = parse_article(article(figure("f1", "Fig. 1", caption)), source="a")["figure"]
    assert row["caption"] == "Two views\n(A, B) Axial.\n(C) Sagittal, n = 3 (P = 0.1)."
    assert [(p["letter"], p["text"]) for p in row["panels"]] == [
        ("A", "(A, B) Axial."),
        ("B", "(A, B) Axial."),
        ("C", "(C) Sagittal, n = 3 (P = 0.1)."),
    ]
    assert all(row["caption"][p["start"] : p["end"]] == p["text"] for p in row["panels"])


def test_the_caption_of_a_file_beside_a_figure_is_no_part_of_its_caption() -> None:
    beside = "<supplementary-material><caption><p>Source data.</p></caption></supplementary-material>"
    rows = parse_article(article(figure("f1", "Fig. 1", f"<p>Ours.</p><p>{beside}</p>")), source="a")
    assert rows["figure"][0]["caption"] == "Ours."
    assert [p["text"] for p in rows["paragraph"]] == ["Ours.", "Source data."]


@pytest.mark.parametrize(
    ("meta", "source", "key"),
    [
        ('<article-id pub-id-type="pmc">13900</article-id>', "x", "pmc13900-1"),
        ('<article-id pub-id-type="pmcid-ver">PMC13900.2</article-id>', "x", "pmc13900-2"),
        (
            '<article-id pub-id-type="pmcid">PMC13900</article-id>'
            '<article-version article-version-type="pmc-version">3</article-version>',
            "x",
            "pmc13900-3",
        ),
        ('<article-id pub-id-type="doi">10.1/AbC</article-id>', "x", "doi-" + sha256_hex("10.1/abc")[:12]),
        ("", "s3://b/dir/n.xml", "file-" + sha256_hex("n.xml")[:12]),
    ],
)
def test_the_key_of_an_article(meta: str, source: str, key: str) -> None:
    row = parse_article(article("<p>x</p>", meta=meta), source=source)["article"][0]
    assert (row["article_key"], row["source"]) == (key, source)
    assert is_key(key)


def test_front_matter() -> None:
    names = "".join(
        f"<contrib contrib-type='author'><name><surname>S{i}</surname><given-names>G</given-names></name></contrib>"
        for i in range(4)
    )
    meta = (
        f'{PMCID}<article-id pub-id-type="doi">10.1/x</article-id><title-group>'
        "<article-title>A <italic>b</italic>: a case report</article-title>"
        f"</title-group><contrib-group>{names}</contrib-group>"
        "<pub-date pub-type='collection'><year>2021</year></pub-date>"
        "<pub-date pub-type='epub'><day>3</day><month>5</month><year>2020</year></pub-date>"
        "<permissions><license license-type='open-access' xlink:href='http://creativecommons.org/licenses/by-nc/4.0/'>"
        "<license-p>CC.</license-p>"
        "</license></permissions>"
    )
    data = article(
        "<sec><title>Case presentation</title><p>x</p></sec>",
        meta=meta,
        attributes='article-type="research-article" xml:lang="EN"',
    )
    row = parse_article(
        data.replace(
            b"<article-meta>", b"<journal-meta><journal-title>J Med</journal-title></journal-meta><article-meta>"
        ),
        source="a",
    )["article"][0]
    assert (row["title"], row["pub_date"], row["lang"]) == ("A b: a case report", "2020-05-03", "en")
    assert row["attribution"] == "G S0, G S1, G S2, et al. J Med. 2020. https://doi.org/10.1/x"
    assert (row["is_case_report"], row["case_rules"]) == (True, ["title", "section-title"])
    assert (row["licence_code"], row["terms_id"], row["licence_evidence"]) == (
        "CC-BY-NC-4.0",
        "cc-by-nc",
        "license_href",
    )
    assert row["terms_id"] in TERMS


def test_a_retraction_notice_means_the_figures_of_another_article() -> None:
    data = article("<p>There is a mistake in Figure 1B.</p>", attributes='article-type="retraction"')
    (mention,) = parse_article(data, source="a")["mention"]
    assert (mention["status"], mention["fig_keys"], mention["panels"]) == ("other_article", [], {})


def test_figures_reproduced_with_permission_have_terms_of_their_own() -> None:
    body = (
        figure("f1", "1", "<p>(C) A map. Reproduced with permission from Elsevier.</p>")
        + figure("f2", "2", "<p>(C) Ours. (c) 2 d.</p>")
        + figure("f3", "3").replace(
            "</fig>", "<permissions><copyright-statement>© 2001 X</copyright-statement></permissions></fig>"
        )
        + figure("f4", "4", "<p>Adapted from [3] under a Creative Commons Attribution-ShareAlike 3.0 license.</p>")
    )
    rows = parse_article(article(body), source="a")
    third = "reproduced-with-permission"
    assert [f["terms_id"] for f in rows["figure"]] == [third, "", third, "cc-by-sa"]
    assert [bool(f["licence_override"]) for f in rows["figure"]] == [True, False, True, True]


BOMB = (
    '<!DOCTYPE article [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
    + "]>"
)
QUADRATIC = f'<!DOCTYPE article [<!ENTITY a "{"x" * 100_000}">]>'


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        (BOMB.encode() + article("<p>&j;</p>"), {"jats.entities", ""}),
        (BOMB.encode() + article('<p id="&j;">x</p>'), {"jats.entities"}),
        (QUADRATIC.encode() + article(f"<p>{'&a;' * 20_000}</p>"), {"jats.entities", ""}),
        (QUADRATIC.encode() + article(f'<p id="{"&a;" * 20_000}">x</p>'), {"jats.entities"}),
        (article("<sec>" * 5_000 + "<p>x</p>" + "</sec>" * 5_000), {"jats.deep"}),
        (article("<p>" + "x" * 11_000_000 + "</p>"), {"jats.large"}),
        (article("<p>x</p>")[:-9], {"jats.malformed"}),
        (b"", {"jats.malformed"}),
        (b"%PDF-1.7", {"jats.malformed"}),
        (b"<html><body/></html>", {"jats.no_article"}),
        (b"<s>" + article("<p/>") * 2 + b"</s>", {"jats.no_article"}),
    ],
)
def test_hostile_or_unreadable_input_is_refused_fast(data: bytes, reasons: set[str]) -> None:
    started, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        rows = parse_article(data, source="a")
        reason = ""
        assert len(rows["paragraph"][0]["text"]) < 30_000  # entities were not expanded
    except Refused as refused:
        reason = refused.reason
    assert reason in reasons
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500 << 10  # kB


def test_an_external_entity_is_not_read(tmp_path: object) -> None:
    secret = f"{tmp_path}/secret.txt"
    with open(secret, "w") as file:
        file.write("s3cret")
    head = f'<!DOCTYPE article [<!ENTITY x SYSTEM "file://{secret}"><!ENTITY % p SYSTEM "file://{secret}"> %p;]>'
    rows = parse_article(head.encode() + article("<p>a &x; b</p>"), source="a")
    assert rows["paragraph"][0]["text"] == "a \ufffd b"


def test_input_above_the_limit_is_refused() -> None:
    with pytest.raises(Refused, match=r"jats\.large"):
        parse_article(article("<p>x</p>"), source="a", max_bytes=50)


def test_equal_bytes_give_equal_rows() -> None:
    data = article('<p>See <xref ref-type="fig" rid="f1">Fig. 1</xref>.</p>' + figure("f1", "Fig. 1"))
    assert parse_article(data, source="a") == parse_article(data, source="a")


@given(
    st.lists(
        st.sampled_from(
            ["Fig. ", " ", "\n", "1", "A", ", ", "(", ")", "–", "and ", "x", "\u2009", "<bold>", "<xr>", "."]
        ),
        max_size=30,
    )
)
def test_any_text_gives_exact_offsets(pieces: list[str]) -> None:
    text = "".join(
        {"<bold>": "<bold> b </bold>", "<xr>": '<xref ref-type="fig" rid="f1"> 1 </xref>'}.get(piece, piece)
        for piece in pieces
    )
    rows = parse_article(article(f"<p>{text}</p>" + figure("f1", "Fig. 1")), source="a")
    texts = {p["par_id"]: p["text"] for p in rows["paragraph"]}
    assert all(" ".join(t.split()) == t for t in texts.values())
    for m in rows["mention"]:
        assert texts[m["par_id"]][m["start"] : m["end"]] == m["text"]
        assert m["sent_start"] <= m["start"] <= m["end"] <= m["sent_end"]
    covered = "".join(m["text"] for m in rows["mention"])
    assert covered.count("1") >= pieces.count("<xr>")


def test_sentences_end_where_a_reader_ends_them() -> None:
    sentences = [
        "As in Fig. 2A and Figs. 3 and 4, J. Smith et al. found 1.26 (95% C.I. 1.1–1.4) cases, i.e. more than E. coli.",
        "The dose was 0.5 mg vs. 2 mg.",
        "It rose!",
        "(See Table 1.)",
        "Patients improved.12",
        "Dr. Who disagreed.",
    ]
    text = " ".join(sentences)
    assert [text[a:b] for a, b in sentence_spans(text)] == sentences
