"""Printed questions and their answers, and cross-references without words, as the parser reads them."""

from medloom.connectors.jats import parse_article


def parsed(body: str) -> dict:
    figures = "".join(f'<fig id="F{i}"><label>Figure {i}</label><graphic href="g{i}"/></fig>' for i in (1, 2))
    ids = '<article-id pub-id-type="pmc">1</article-id>'
    text = f"<article><front><article-meta>{ids}</article-meta></front><body>{body}{figures}</body></article>"
    return parse_article(text.encode(), source="a.xml")


def test_questions_answers_and_explanations_are_no_text_of_the_body():
    tables = parsed(
        "<sec id='s'><title>Quiz</title><p>Before.</p><question-wrap><label>1</label><question><p>What does "
        "<xref ref-type='fig' rid='F2'>Figure 2</xref> show?</p><list><list-item><p>A. Air</p></list-item></list>"
        "</question><answer-set><answer><p>Air.</p><explanation><p>It is black.</p></explanation></answer></answer-set>"
        "</question-wrap><p>After.</p></sec>"
    )
    assert [(p["where"], p["text"], p["sec_id"]) for p in tables["paragraph"]] == [
        ("body", "Before.", "s"), ("question", "What does Figure 2 show?", "s"), ("question", "A. Air", "s"),
        ("answer", "Air.", "s"), ("explanation", "It is black.", "s"), ("body", "After.", "s"),
    ]  # fmt: skip
    (mention,) = tables["mention"]
    assert (mention["where"], mention["fig_keys"]) == ("question", ["pmc1-1/article/F2"])


def test_a_cross_reference_without_words_means_all_its_figures():
    (mention,) = parsed("<p>It is seen<xref ref-type='fig' rid='F1 F2'/>. More.</p>")["mention"]
    assert (mention["start"], mention["end"], mention["text"]) == (10, 10, "")
    assert mention["fig_keys"] == ["pmc1-1/article/F1", "pmc1-1/article/F2"]
