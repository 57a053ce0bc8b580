import json
from contextlib import contextmanager

import pytest
from tests.connectors.llm_servers import completion, proxy, real_server
from tests.pipelines.papers import figure, medium, mention, panels, paper, paragraph, scan

from medloom.connectors.llm import ChatModel, Patience, Remembering, ResponseStore
from medloom.pipelines.tasks.text_questions import ATTEMPTS_PER_QUESTION, TextQuestions
from medloom.schemas.errors import ConfigError, Refusal, RetryLater
from medloom.schemas.example import Example, Part

CAPTION = "Axial CT of the chest in a man. A spiculated mass (arrow) in the right upper lobe."
P1 = paragraph("p1", "He coughed. A stone measuring 12 mm was found by ultrasound (Fig. 2). No effusion was seen.")
FIGURES = (figure("f1", CAPTION), figure("f2", "The kidney."))
UNIT = paper(figures=FIGURES, paragraphs=(P1,), mentions=(mention(P1, "Fig. 2", "f2"),))
QUICK = Patience(attempts=2, timeout_s=20.0, longest_wait_s=0.05)


def said(question: str) -> tuple:
    return completion(json.dumps({"question": question}))


def told(answer: str) -> tuple:
    return completion(json.dumps({"answer": answer}))


@contextmanager
def scripted(*replies: tuple):
    """A server that says `replies` one after the other, and a model that asks it."""
    with proxy() as server:
        server.faults = list(replies)
        yield ChatModel(server.url, model="scripted", patience=QUICK), server


def _made(unit, ask, **fields):
    rows = list(TextQuestions(**fields).examples(unit, "fingerprint", ask))
    return [r for r in rows if isinstance(r, Example)], [r for r in rows if isinstance(r, Refusal)]


def _one(caption: str, **facts):
    return paper(figures=(figure("f1", caption, **facts),))


GOOD = {
    "CT": "Which imaging technique was used here?",
    "Axial": "In which plane is the chest shown?",
    "right upper lobe": "Where does the mass lie?",
    "spiculated mass": "What does the arrow point at?",
    "12 mm": "How large is the stone?",
    "ultrasound": "Which imaging technique was used here?",
}


def test_a_grounded_question_becomes_a_row_with_its_evidence():
    with scripted(said("  Which imaging\n technique was used here? "), told("CT")) as (ask, _):
        (row,), refused = _made(UNIT, ask, per_unit=1)
    assert refused == []
    assert row.turns[0].parts == (Part(media="pmc1-1-f1"), Part(text="Which imaging technique was used here?"))
    assert row.turns[1].parts == (Part(text="CT"),)
    assert row.generator == f"scripted@{ask.digest[:12]}+text_questions:1"
    assert row.labels == ("modality",)
    assert row.measured == {"round_trip_f1": 1.0}
    sentence, span = row.evidence
    assert sentence.where == span.where == "caption:pmc1-1-f1"
    assert CAPTION[sentence.start : sentence.end] == sentence.text == "Axial CT of the chest in a man."
    assert CAPTION[span.start : span.end] == span.text == "CT"


def test_every_kind_is_asked_once_before_any_twice_and_spans_are_exact_in_their_sources():
    sources = {"caption:pmc1-1-f1": CAPTION, "paragraph:p1": P1["text"]}
    order = ["CT", "Axial", "right upper lobe", "spiculated mass", "12 mm", "ultrasound"]
    replies = [r for answer in order for r in (said(GOOD[answer]), told(answer))]
    with scripted(*replies) as (ask, server):
        rows, refused = _made(UNIT, ask, per_unit=6)
        assert server.asked == 12
    assert refused == []
    assert [r.turns[1].parts[0].text for r in rows] == order
    assert [r.labels[0] for r in rows] == ["modality", "plane", "place", "marked", "size", "modality"]
    for row in rows:
        for evidence in row.evidence:
            assert sources[evidence.where][evidence.start : evidence.end] == evidence.text
        assert row.evidence[1].text == row.turns[1].parts[0].text
    assert rows[4].media == ("pmc1-1-f2",)
    assert len({r.example_id for r in rows}) == 6


@pytest.mark.parametrize(
    ("replies", "reason", "n_asked"),
    [
        ((said("Which part of the CT is shown?"),), "vqa.leak", 1),
        ((said("Is this computed tomography or something else?"),), "vqa.leak", 1),
        ((said("Which modality is shown here"),), "vqa.form", 1),
        ((said("Modality?"),), "vqa.form", 1),
        ((said("Which modality does the caption mention?"),), "vqa.refers_to_text", 1),
        ((said("Which modality is shown in Figure 2?"),), "vqa.refers_to_text", 1),
        ((said("Which modality shows the left chest?"),), "vqa.ungrounded", 1),
        ((said("Which technique shows the cyst in the liver?"),), "vqa.ungrounded", 1),
        ((said(GOOD["CT"]), told("MRI")), "vqa.round_trip", 2),
        ((said(GOOD["CT"]), told("")), "vqa.round_trip", 2),
        ((completion("cut", finish="length"),), "llm.truncated", 1),
        ((completion('{"query": "x"}'),), "llm.schema", 1),
        ((completion('{"question": 5}'),), "llm.schema", 1),
        ((completion("[]"),), "llm.schema", 1),
        ((said(GOOD["CT"]), completion("{}")), "llm.schema", 2),
    ],
)
def test_what_is_not_grounded_is_refused_with_its_reason(replies, reason, n_asked):
    unit = _one("CT of the chest in a man.")
    with scripted(*replies) as (ask, server):
        rows, (refused,) = _made(unit, ask)
        assert server.asked == n_asked
    assert rows == []
    assert (refused.reason, refused.stage, refused.unit, refused.source) == (reason, "text_vqa", "pmc1-1", "papers")
    with scripted(said(GOOD["CT"]), told("CT")) as (ask, _):
        (row,), _ = _made(unit, ask)
    assert row.example_id == refused.key  # the key names the row that would have been


def test_a_negated_answer_is_refused_before_the_model_is_asked():
    with scripted() as (ask, server):
        rows, refused = _made(_one("There is no mass (arrow)."), ask)
        assert server.seen == []
    assert (rows, [r.reason for r in refused]) == ([], ["vqa.negated"])


def test_an_image_with_two_answers_of_one_kind_is_ambiguous_unless_panels_part_them():
    caption = "A: Axial CT of a man. B: Coronal MRI of him."
    with scripted() as (ask, server):
        rows, refused = _made(_one(caption), ask)
        assert server.seen == []
    assert (rows, [r.reason for r in refused]) == ([], ["vqa.ambiguous"] * 2)
    with scripted(said(GOOD["CT"]), told("CT"), said("In which plane is the image?"), told("axial")) as (ask, _):
        rows, refused = _made(_one(caption, panels=panels(caption, ("A", "A:"), ("B", "B:"))), ask, per_unit=2)
    assert refused == []
    assert [r.turns[0].parts[1].text for r in rows] == [
        "Look at panel A. Which imaging technique was used here?",
        "Look at panel A. In which plane is the image?",
    ]


def test_a_sentence_about_a_whole_figure_is_ambiguous_when_a_panel_says_otherwise():
    caption = "A: CT of a man. B: The same man."
    par = paragraph("p1", "He had an MRI (Fig. 1).")
    parted = figure("f1", caption, panels=panels(caption, ("A", "A:"), ("B", "B:")))
    unit = paper(figures=(parted,), paragraphs=(par,), mentions=(mention(par, "Fig. 1", "f1"),))
    with scripted(said(GOOD["CT"]), told("CT")) as (ask, _):
        rows, refused = _made(unit, ask)
    assert [r.turns[1].parts[0].text for r in rows] == ["CT"]
    assert [r.reason for r in refused] == ["vqa.ambiguous"]


def test_a_sentence_that_cites_several_figures_or_panels_or_is_no_body_text_is_not_used():
    par = paragraph("p1", "CT is in Fig. 1 and Fig. 2. MRI is in Fig. 1A and B. PET is in Fig. 1 and Fig. 9.")
    table = paragraph("p2", "Ultrasound is in Fig. 1.", where="table")
    unit = paper(
        figures=(figure("f1", "A man."), figure("f2", "A woman.")),
        paragraphs=(par, table),
        mentions=(
            mention(par, "Fig. 1 and Fig. 2", "f1"), mention(par, "Fig. 2", "f2"),
            mention(par, "Fig. 1A and B", "f1", f1=["A", "B"]),
            mention(par, "Fig. 1 and Fig. 9", "f1"), mention(par, "Fig. 9", status="unresolved"),
            mention(table, "Fig. 1", "f1"),
        ),
    )  # fmt: skip
    with scripted() as (ask, server):
        assert _made(unit, ask) == ([], [])
        assert server.seen == []


class Remote:
    """A model elsewhere that must never be asked."""

    model, digest, egress = "remote", "0" * 64, "remote"

    def __call__(self, request):
        raise AssertionError("text left for a remote model")


@pytest.mark.parametrize("terms_id", ["tdm", "private", "credentialed", "unknown"])
def test_text_that_terms_keep_here_is_refused_and_never_sent(terms_id):
    unit = paper(figures=FIGURES, paragraphs=(P1,), mentions=(mention(P1, "Fig. 2", "f2"),), terms_id=terms_id)
    rows, refused = _made(unit, Remote())
    assert rows == []
    assert [(r.reason, r.key) for r in refused] == [
        ("terms.llm_egress", "pmc1-1-f1"), ("terms.llm_egress", "pmc1-1-f2"),
    ]  # fmt: skip


def test_a_caption_by_permission_goes_to_no_model_while_the_articles_own_text_does():
    caption = figure("f2", "Coronal MRI of the kidney.", terms_id="reproduced-with-permission")
    unit = paper(figures=(caption,), paragraphs=(P1,), mentions=(mention(P1, "Fig. 2", "f2"),))
    replies = (said(GOOD["ultrasound"]), told("ultrasound"), said(GOOD["12 mm"]), told("12 mm"))
    with scripted(*replies) as (ask, server):
        rows, refused = _made(unit, ask)
        assert b"Coronal" not in b"".join(body for *_, body in server.seen)
    assert [(r.key, r.reason) for r in refused] == [("pmc1-1-f2", "terms.llm_egress")]
    assert [(r.turns[1].parts[0].text, r.terms_id) for r in rows] == [("ultrasound", "cc-by"), ("12 mm", "cc-by")]


def test_figures_without_a_kept_medium_and_scans_give_no_question():
    with scripted() as (ask, server):
        assert _made(paper(figures=FIGURES, refused=("pmc1-1-f1", "pmc1-1-f2")), ask) == ([], [])
        assert _made(scan(medium("ct-abc"), text="Axial CT of a mass."), ask) == ([], [])
        assert server.seen == []


def test_an_article_in_another_language_is_refused_as_one():
    with scripted() as (ask, server):
        rows, refused = _made(paper(figures=FIGURES, lang="pt"), ask)
        assert server.seen == []
    assert (rows, [(r.reason, r.key) for r in refused]) == ([], [("vqa.language", "")])


def test_attempts_are_bounded_however_much_is_refused():
    caption = " ".join(
        f"A {word} mass (arrow)." for word in ("round", "oval", "flat", "large", "small", "pale", "dark")
    )
    with scripted(*[said("no question")] * 20) as (ask, server):
        rows, refused = _made(_one(caption), ask, per_unit=2)
        assert server.asked == ATTEMPTS_PER_QUESTION * 2
    assert (rows, len(refused)) == ([], ATTEMPTS_PER_QUESTION * 2)


def test_rows_outlive_their_neighbours():
    def script(*answers: str) -> list[tuple]:
        return [reply for answer in answers for reply in (said(GOOD[answer]), told(answer))]

    with scripted(*script("ultrasound", "12 mm")) as (ask, _):
        alone, _ = _made(paper(figures=FIGURES[1:], paragraphs=(P1,), mentions=UNIT.mentions), ask)
    with scripted(*script("CT", "Axial", "right upper lobe", "spiculated mass", "12 mm", "ultrasound")) as (ask, _):
        among, _ = _made(UNIT, ask, per_unit=6)
    assert [among[5], among[4]] == alone


def test_no_model_is_the_users_to_mend_and_a_dead_one_is_worth_retrying():
    with pytest.raises(ConfigError, match="MEDLOOM_LLM_KEY"):
        _made(UNIT, None)
    with scripted() as (ask, _):
        pass
    with pytest.raises(RetryLater):
        _made(UNIT, ask)


def test_a_real_small_model_gives_the_same_rows_twice_and_only_grounded_ones(tmp_path):
    with real_server() as server, proxy(server.url) as between:
        ask = Remembering(ChatModel(between.url), ResponseStore(str(tmp_path)))
        first = _made(UNIT, ask)
        n_asked = between.asked
        assert n_asked > 0
        assert _made(UNIT, ask) == first
        assert between.asked == n_asked
    rows, refused = first
    assert rows
    assert len(rows) + len(refused) <= ATTEMPTS_PER_QUESTION * 4
    for row in rows:
        question, answer = row.turns[0].parts[-1].text, row.turns[1].parts[0].text
        assert question.endswith("?")
        assert answer.lower() not in question.lower().split()
        assert row.measured["round_trip_f1"] >= 0.5
    assert {r.reason.split(".")[0] for r in refused} <= {"vqa", "llm"}
