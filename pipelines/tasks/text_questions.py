"""TextQuestions: rules choose an answer and the sentence it stands in; a language model only phrases the question."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from medloom.connectors.llm import permitted
from medloom.connectors.sentences import sentence_spans
from medloom.pipelines.tasks.answers import OF_THE_IMAGE, Found, Kind, found
from medloom.pipelines.tasks.rows import Rows, conversation, language_of, terms_of
from medloom.pipelines.unit import UnitView
from medloom.quality import grounding
from medloom.schemas.ask import Ask, Request
from medloom.schemas.errors import ConfigError, Refusal, Refused
from medloom.schemas.example import Evidence, Example
from medloom.schemas.origin import TERMS

ATTEMPTS_PER_QUESTION = 3  # candidates tried for each question wanted: what a weak model costs stays bounded

SYSTEM = (
    "You write exam questions about medical images. Students see the image and your question, nothing else. "
    "Reply with JSON only."
)
ASKS_FOR: dict[Kind, tuple[str, str]] = {  # what the question must ask for, and one that names no organ and no finding
    "modality": ("the imaging modality", "Which imaging technique was used here?"),
    "plane": ("the plane of the image", "In which plane is this image?"),
    "sequence": ("the MR sequence or weighting", "Which MR sequence is shown here?"),
    "stain": ("the stain of the section", "With which stain was this section prepared?"),
    "magnification": ("the magnification", "At which magnification is this section shown?"),
    "size": ("the size of the finding", "How large is the finding?"),
    "place": ("where the finding is, with its side", "Where is the finding located?"),
    "marked": ("what the arrow marks", "Which finding does the arrow mark in this image?"),
}
QUESTION_SCHEMA: dict[str, Any] = {
    "type": "object",
    # Small models run on past the question: the pattern lets them end only with "?".
    "properties": {"question": {"type": "string", "pattern": "^[A-Z][A-Za-z0-9 ,'/-]{10,120}\\?$"}},
    "required": ["question"],
    "additionalProperties": False,
}
ANSWER_SYSTEM = (
    "You answer questions from one sentence, with its own words, as shortly as you can. Reply with JSON only."
)
ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class _Candidate:
    """An answer in its sentence: `where` and `start` place the sentence in its source, `panel` is "" for the whole."""

    figure: dict[str, Any]
    where: str
    start: int
    sentence: str
    panel: str
    phrase: Found

    @property
    def answer(self) -> str:
        return self.sentence[self.phrase.start : self.phrase.end]

    @property
    def ordinal(self) -> str:
        """Names the candidate by its own place, so that its id outlives its neighbours."""
        at = f"{self.start + self.phrase.start}:{self.start + self.phrase.end}"
        return f"{self.figure['fig_key']}|{self.where}|{at}|{self.phrase.kind}"


@dataclass(frozen=True)
class TextQuestions:
    """Up to `per_unit` questions per paper about its kept figures, each with the sentence that its answer stands in.

    What is refused is a row: "terms.llm_egress" (nothing was sent), "vqa.language", "vqa.ambiguous", "vqa.negated",
    "vqa.form", "vqa.refers_to_text", "vqa.leak", "vqa.ungrounded", "vqa.round_trip", and "llm.…" of the model. At most
    `ATTEMPTS_PER_QUESTION * per_unit` candidates are asked about, one of each kind before a second of any.

    Attributes:
        per_unit: questions kept of one paper.
        round_trip_f1: least token F1, 0..1, between the answer and the model's answer from the sentence alone.
    """

    task: ClassVar[str] = "text_vqa"
    version: ClassVar[str] = "1"
    asks: ClassVar[bool] = True

    per_unit: int = 4
    round_trip_f1: float = 0.5

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give the questions of a paper and what was refused; scans give none.

        Raises:
            ConfigError: there is no model to ask.
            RetryLater: it cannot be reached.
        """
        if ask is None:
            raise ConfigError(
                "the task text_vqa asks a language model and none is named: --set llm=embedded, or --set llm=URL with "
                "its key in MEDLOOM_LLM_KEY"
            )
        generator = f"{ask.model}@{ask.digest[:12]}+text_questions:{self.version}"
        rows = Rows(self, unit, fingerprint, "en", generator)
        candidates = list(_candidates(unit))
        if candidates and language_of(unit) != "en":
            yield rows.refusal("", "vqa.language", f"the rules read English and the article is {language_of(unit)}")
            return
        sendable: list[_Candidate] = []
        yield from _forbidden(rows, candidates, ask, sendable)
        clear: list[_Candidate] = []
        yield from _ambiguous(rows, sendable, clear)
        kept = 0
        for candidate in _by_turns(clear)[: ATTEMPTS_PER_QUESTION * self.per_unit]:
            if kept == self.per_unit:
                return
            try:
                yield self._example(rows, candidate, ask)
                kept += 1
            except Refused as refused:
                yield rows.refusal(rows.id_of(candidate.ordinal), refused.reason, refused.detail)

    def _example(self, rows: Rows, candidate: _Candidate, ask: Ask) -> Example:
        phrase = candidate.phrase
        if grounding.negated(candidate.sentence, phrase.start, phrase.end):
            raise Refused("vqa.negated", f"{phrase.kind} of {candidate.where} is said to be absent")
        question = _phrased(candidate, ask)
        _check(question, candidate)
        f1 = self._round_trip(question, candidate, ask)
        media = [medium.key for medium in rows.unit.media_of(candidate.figure)]
        shown = f"Look at panel {candidate.panel}. {question}" if candidate.panel else question
        end = candidate.start + len(candidate.sentence)
        evidence = (
            Evidence(candidate.where, candidate.start, end, candidate.sentence),
            Evidence(
                candidate.where, candidate.start + phrase.start, candidate.start + phrase.end, candidate.answer
            ),
        )  # fmt: skip
        return rows.example(
            candidate.ordinal,
            turns=conversation(media, shown, candidate.answer),
            figure=candidate.figure if candidate.where.startswith("caption:") else None,
            labels=(phrase.kind,),
            evidence=evidence,
            measured={"round_trip_f1": f1},
        )

    def _round_trip(self, question: str, candidate: _Candidate, ask: Ask) -> float:
        """Return the F1 of the model's own answer from the sentence alone, or refuse when it is too low."""
        prompt = f"Sentence: {candidate.sentence}\nQuestion: {question}"
        said = _field(ask(Request(ANSWER_SYSTEM, prompt, ANSWER_SCHEMA, max_tokens=96)).text, "answer")
        f1 = max(grounding.token_f1(said, words) for words in (candidate.answer, candidate.phrase.name))
        if f1 < self.round_trip_f1:
            raise Refused("vqa.round_trip", f"{candidate.phrase.kind} of {candidate.where}: token F1 is {f1:.2f}")
        return f1


def _phrased(candidate: _Candidate, ask: Ask) -> str:
    """Return the model's question, its white space collapsed."""
    asked_for, example = ASKS_FOR[candidate.phrase.kind]
    prompt = (
        f"Example of a question that asks for {asked_for}: {example}\n"
        f"Sentence: {candidate.sentence}\nAnswer: {candidate.answer}\n"
        f"Write one question about the image that asks for {asked_for}. Use words of the sentence. "
        "Do not say the answer, and do not mention any text, caption, article or figure number.\nQuestion:"
    )
    return " ".join(_field(ask(Request(SYSTEM, prompt, QUESTION_SCHEMA, max_tokens=96)).text, "question").split())


def _field(text: str, name: str) -> str:
    """Return the one string of a JSON answer.

    Raises:
        Refused("llm.schema"): it is not what the schema asked for.
    """
    try:
        said = json.loads(text)
    except ValueError:
        raise Refused("llm.schema", "the answer is not JSON") from None
    if not isinstance(said, dict) or set(said) != {name} or not isinstance(said[name], str):
        raise Refused("llm.schema", f"the answer is not an object with the one string {name!r}")
    return said[name]


def _check(question: str, candidate: _Candidate) -> None:
    """Refuse a question that is malformed, speaks of the text, gives its answer away or makes something up."""
    what = f"{candidate.phrase.kind} of {candidate.where}"
    if not grounding.well_formed(question):
        raise Refused("vqa.form", f"{what}: {len(question.split())} words, ends with {question[-1:]!r}")
    if grounding.refers_to_text(question):
        raise Refused("vqa.refers_to_text", what)
    if grounding.leaks(question, (candidate.answer, *candidate.phrase.also)):
        raise Refused("vqa.leak", what)
    if grounding.ungrounded(question, candidate.sentence):
        raise Refused("vqa.ungrounded", f"{what}: it names what its sentence does not")


def _candidates(unit: UnitView) -> Iterator[_Candidate]:
    """Give the answers in captions of figures with kept media, and in body sentences that cite one figure only."""
    paragraphs = {p["par_id"]: p for p in unit.paragraphs if p["where"] == "body"}
    for figure in unit.figures:
        if not unit.media_of(figure):
            continue
        caption = figure["caption"] or ""
        for start, end in sentence_spans(caption):
            for phrase in found(caption[start:end]):
                panel = _panel_at(figure, start + phrase.start)
                yield _Candidate(figure, f"caption:{figure['fig_key']}", start, caption[start:end], panel, phrase)
        for start, end, par_id, panel in _citing(unit, figure["fig_key"], paragraphs):
            sentence = paragraphs[par_id]["text"][start:end]
            for phrase in found(sentence):
                yield _Candidate(figure, f"paragraph:{par_id}", start, sentence, panel, phrase)


def _citing(unit: UnitView, fig_key: str, paragraphs: dict[str, dict[str, Any]]) -> Iterator[tuple[int, int, str, str]]:
    """Give (start, end, paragraph, panel) of the body sentences that cite this figure and, of it, at most one panel."""
    cited: dict[tuple[str, int, int], tuple[set[str], set[str]]] = {}
    for mention in unit.mentions:
        if mention["par_id"] in paragraphs:
            place = (mention["par_id"], mention["sent_start"], mention["sent_end"])
            figures, panels = cited.setdefault(place, (set(), set()))
            figures.update(mention["fig_keys"] if mention["status"] == "resolved" else ["not resolved"])
            panels.update(dict(mention["panels"] or ()).get(fig_key) or ())
    for (par_id, start, end), (figures, panels) in cited.items():
        if figures == {fig_key} and len(panels) <= 1:
            yield start, end, par_id, min(panels, default="")


def _panel_at(figure: dict[str, Any], offset: int) -> str:
    """Return the letter of the panel whose part of the caption holds `offset`, "" without one or with one panel."""
    letters = {panel["letter"] for panel in figure["panels"]}
    here = [panel["letter"] for panel in figure["panels"] if panel["start"] <= offset < panel["end"]]
    return here[0] if len(letters) > 1 and len(here) == 1 else ""


def _forbidden(rows: Rows, candidates: list[_Candidate], ask: Ask, sendable: list[_Candidate]) -> Iterator[Refusal]:
    """Add to `sendable` what its terms let go to this model, and give one refusal per source of what they do not."""
    refused: set[str] = set()
    for candidate in candidates:
        of_caption = candidate.where.startswith("caption:")
        terms = terms_of(rows.unit, candidate.figure) if of_caption else rows.unit.terms_id
        if permitted(ask, egress=TERMS[terms].llm_egress):
            sendable.append(candidate)
        elif candidate.where not in refused:
            refused.add(candidate.where)
            detail = f"{candidate.where} is under {terms}, whose text may not go to a {ask.egress} model"
            yield rows.refusal(candidate.figure["fig_key"], "terms.llm_egress", detail)


def _ambiguous(rows: Rows, candidates: list[_Candidate], clear: list[_Candidate]) -> Iterator[Refusal]:
    """Add to `clear` one candidate per figure, panel, kind and name; refuse kinds that one image answers twice."""
    names: dict[tuple[str, str, Kind], dict[str, None]] = {}
    for c in candidates:
        if c.phrase.kind in OF_THE_IMAGE:
            for panel in {c.panel, ""}:  # what a panel says the whole figure says too
                names.setdefault((c.figure["fig_key"], panel, c.phrase.kind), {})[c.phrase.name] = None
    seen: set[tuple[str, str, Kind, str]] = set()
    for c in candidates:
        place = (c.figure["fig_key"], c.panel, c.phrase.kind)
        several = len(names.get(place, ())) > 1
        mark = (*place, "" if several else c.phrase.name)
        if mark in seen:
            continue
        seen.add(mark)
        if several:
            detail = (
                f"{c.phrase.kind} of {c.figure['fig_key']} has {len(names[place])} answers: {', '.join(names[place])}"
            )
            yield rows.refusal(rows.id_of(c.ordinal), "vqa.ambiguous", detail)
        else:
            clear.append(c)


def _by_turns(candidates: list[_Candidate]) -> list[_Candidate]:
    """Return `candidates` with one of each kind before a second of any, in the order of the paper."""
    counts: dict[Kind, int] = {}
    ranked: list[tuple[int, _Candidate]] = []
    for candidate in candidates:
        rank = counts.get(candidate.phrase.kind, 0)
        counts[candidate.phrase.kind] = rank + 1
        ranked.append((rank, candidate))
    return [candidate for _, candidate in sorted(ranked, key=lambda pair: pair[0])]
