"""Sentences of scholarly text: what a full stop ends and what it does not; `|` marks the expected cuts."""

import pytest

from medloom.connectors.sentences import sentence_spans


@pytest.mark.parametrize(
    "marked",
    [
        "It is shown in Fig. 1. |The next (Figs. 2 and 3) follows.",
        "As in Smith et al. (2010), it grew. |Dr. Li agreed.",
        "We saw it, i.e. NHS eyes and e.g. Bennett. |Then it ended.",
        "See No. 5 and p. 17 of ref. 4. |We go on.",
        "It was designated yes or no. |We defined more.",
        "It was stained for 30 min. |Excess stain was rinsed for 20 ms. |Eye movements were recorded.",
        "Kept overnight at 4°C. |Sections were rinsed for 5 sec. |The movie shows it.",
        "Typed for HLA-DR. |The median was 3. |A second was 4.",
        "Incubated with amphotericin B. |Following this, K. Watanabe gave more.",
        "Named for Kieran S. O'Brien and J. Smith. |It is so.",
        "Error bars are mean ± s.e.m. |Box plots follow.",
        "The sign of Δ. |Shared means follow.",
        "It grew in all cases. (Fig. 3A). |The next one (Fig. 3B) did not.",
        "A. Left panel: survival. |B. Right panel: death.",
        "It was (Nov. 20, 2020) told. |The end.",
        "Conus lyelli sp. nov. (A-L) and C. elegans were seen. |Both are new.",
        "The dose was 3.5 mg. |In 1998, 12 mice died in 1999. |12 lived.",
        "It fell.12 |Others rose (see [3]). |“So it is.” |It ends?",
    ],
)
def test_full_stops_end_sentences_and_not_abbreviations(marked: str) -> None:
    sentences = [part.strip() for part in marked.split("|")]
    text = " ".join(sentences)
    assert [text[start:end] for start, end in sentence_spans(text)] == sentences


def test_spans_rise_and_leave_out_white_space_only() -> None:
    text = "One. Two et al. (3) said so.  Four!  "
    spans = sentence_spans(text)
    assert [text[start:end] for start, end in spans] == ["One.", "Two et al. (3) said so.", "Four!  "]
    assert sentence_spans("") == [(0, 0)]
