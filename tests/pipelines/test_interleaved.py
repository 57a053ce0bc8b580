from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pipelines.papers import figure, mention, paper, paragraph

from medloom.pipelines.tasks.interleaved import PARAGRAPH_END, Interleaved
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Example, Part

P1 = paragraph("p1", "We saw a man. A mass is seen (Fig. 1). It grew.")
P2 = paragraph("p2", "Figure 2 shows the node and Fig. 1 the mass. He left.")
FIGURES = (figure("f1", "The mass."), figure("f2", "The node."))
MENTIONS = (mention(P1, "Fig. 1", "f1"), mention(P2, "Figure 2", "f2"), mention(P2, "Fig. 1", "f1"))


def _made(unit, **fields):
    rows = list(Interleaved(**fields).examples(unit, "fingerprint", None))
    return [r for r in rows if isinstance(r, Example)], [r for r in rows if isinstance(r, Refusal)]


def _text(rows):
    return "".join(p.text for r in rows for t in r.turns for p in t.parts)


def test_a_figure_stands_before_the_sentence_that_first_cites_it():
    (row,), refused = _made(paper(figures=FIGURES, paragraphs=(P1, P2), mentions=MENTIONS))
    assert refused == []
    assert [t.role for t in row.turns] == ["document"]
    assert row.turns[0].parts == (
        Part(text="We saw a man. "),
        Part(media="pmc1-1-f1"),
        Part(text="A mass is seen (Fig. 1). It grew.\n\n"),
        Part(media="pmc1-1-f2"),
        Part(text="Figure 2 shows the node and Fig. 1 the mass. He left.\n\n"),
    )
    assert row.measured == {"sentences": 5.0, "media": 2.0}


def test_captions_follow_their_figure_when_asked_for():
    (row,), _ = _made(paper(figures=FIGURES, paragraphs=(P1,), mentions=MENTIONS[:1]), captions=True)
    assert row.turns[0].parts[1:3] == (Part(media="pmc1-1-f1"), Part(text="Figure 1. The mass.\n\n"))


def test_a_caption_under_other_terms_is_left_out_and_said_so():
    figures = (figure("f1", "The mass.", terms_id="reproduced-with-permission"), FIGURES[1])
    rows, refused = _made(paper(figures=figures, paragraphs=(P1, P2), mentions=MENTIONS), captions=True)
    assert "Figure 2. The node." in _text(rows)
    assert "Figure 1. The mass." not in _text(rows)
    assert [(r.key, r.reason) for r in refused] == [("pmc1-1-f1", "interleaved.caption_terms")]


def test_a_refused_figure_leaves_its_mention_and_no_medium():
    unit = paper(figures=FIGURES, paragraphs=(P1, P2), mentions=MENTIONS, refused=("pmc1-1-f1",))
    rows, refused = _made(unit)
    assert (rows[0].media, refused) == (("pmc1-1-f2",), [])
    assert "A mass is seen (Fig. 1)." in _text(rows)


def test_only_resolved_mentions_bring_a_figure_and_only_the_body_is_told():
    abstract = paragraph("p0", "In short (Fig. 2).", where="abstract")
    lost = mention(P2, "Figure 2", "f2", status="other_article")
    unit = paper(figures=FIGURES, paragraphs=(abstract, P1, P2), mentions=(mention(abstract, "Fig. 2", "f2"), lost))
    rows, refused = _made(unit)
    assert (rows[0].media, refused) == ((), [])
    assert "In short" not in _text(rows)


def test_a_window_ends_before_the_medium_that_is_one_too_many():
    rows, _ = _made(paper(figures=FIGURES, paragraphs=(P1, P2), mentions=MENTIONS), max_media=1)
    assert [r.media for r in rows] == [("pmc1-1-f1",), ("pmc1-1-f2",)]
    assert rows[1].turns[0].parts[0] == Part(media="pmc1-1-f2")


def test_a_medium_without_room_stands_at_its_next_mention_else_it_is_refused():
    crowd = paragraph("p1", "See Figs. 1 and 2. More follows. Again Figure 2.")
    figures = (*FIGURES, figure("f3", "Third."))
    mentions = (mention(crowd, "Figs. 1 and 2", "f1", "f2", "f3"), mention(crowd, "Figure 2", "f2"))
    rows, refused = _made(paper(figures=figures, paragraphs=(crowd,), mentions=mentions), max_media=1)
    assert [r.media for r in rows] == [("pmc1-1-f1",), ("pmc1-1-f2",)]
    assert [(r.key, r.reason) for r in refused] == [("pmc1-1-f3", "interleaved.max_media")]


def test_windows_do_not_cross_into_another_sub_article():
    other = paragraph("p2", P2["text"], scope="sub1")
    rows, _ = _made(paper(figures=FIGURES, paragraphs=(P1, other), mentions=MENTIONS))
    assert [r.media for r in rows] == [("pmc1-1-f1",), ("pmc1-1-f2",)]


def test_ids_outlive_their_neighbours():
    both, _ = _made(paper(figures=FIGURES, paragraphs=(P1, P2), mentions=MENTIONS), max_media=1)
    first, _ = _made(paper(figures=FIGURES[:1], paragraphs=(P1,), mentions=MENTIONS[:1]), max_media=1)
    assert len({r.example_id for r in both}) == 2
    assert first == both[:1]


_sentence = st.text(alphabet="abX .)\n(é。", min_size=1, max_size=12).map(lambda s: f"A{s}. ")


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_windows_hold_every_paragraph_once_and_every_cited_medium_once_or_refused(data):
    texts = data.draw(st.lists(st.lists(_sentence, min_size=1, max_size=6).map("".join) | st.just(""), max_size=5))
    pars = [paragraph(f"p{n}", t, scope=data.draw(st.sampled_from(["", "s"]))) for n, t in enumerate(texts)]
    names = ("f1", "f2", "f3", "f4", "f5")
    mentions = []
    for par in pars:
        for _ in range(data.draw(st.integers(0, 3)) if par["text"] else 0):
            at = data.draw(st.integers(0, len(par["text"]) - 1))
            cited = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=5, unique=True))
            found = mention(par, par["text"][0], *cited)
            mentions.append(found | {"start": at, "end": at + 1})
    kept = data.draw(st.sets(st.sampled_from(names)))
    refused_bytes = tuple(f"pmc1-1-{n}" for n in names if n not in kept)
    unit = paper(
        figures=tuple(figure(n, "c") for n in names), paragraphs=tuple(pars), mentions=tuple(mentions),
        refused=refused_bytes,
    )  # fmt: skip
    limits = {"max_sentences": data.draw(st.integers(1, 6)), "max_media": data.draw(st.integers(1, 3))}
    rows, refused = _made(unit, **limits)
    assert _text(rows) == "".join(t + PARAGRAPH_END for t in texts if t)
    placed = [p.media for r in rows for t in r.turns for p in t.parts if p.media]
    cited_kept = {k for m in mentions for k in m["fig_keys"]} - set(refused_bytes)
    assert sorted([*placed, *(r.key for r in refused)]) == sorted(cited_kept)
    assert all(r.measured["sentences"] <= limits["max_sentences"] for r in rows)
    assert all(len(r.media) == r.measured["media"] <= limits["max_media"] for r in rows)
    assert len({r.example_id for r in rows}) == len(rows)
