"""Interleaved: a paper as it is read, its text in order with each figure where the text first speaks of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from medloom.connectors.sentences import sentence_spans
from medloom.pipelines.tasks.rows import Rows, language_of, terms_of
from medloom.pipelines.unit import UnitView
from medloom.schemas.ask import Ask
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Example, Part, Turn

PARAGRAPH_END = "\n\n"  # stands after every paragraph, so that the text parts of all windows give back the paper


@dataclass(frozen=True)
class _Sentence:
    """A sentence with the white space after it, and the figures that it cites, in order."""

    paragraph: str
    scope: str
    start: int
    text: str
    figures: tuple[str, ...]


@dataclass(frozen=True)
class Interleaved:
    """One row per window of a paper: a document turn in which figures stand before the sentence that first cites them.

    Windows follow each other and hold every body paragraph exactly once; none crosses into another sub-article. A
    window ends before the sentence that would make it longer than `max_sentences` or bring more than `max_media`. A
    medium for which its sentence has no room stands at the next sentence that cites it, else it is refused as a row.
    A figure that was not kept leaves its mention in the text and nothing else.

    Attributes:
        max_sentences, max_media: of a window.
        captions: whether a figure's label and caption follow it. A caption under other terms than the article's is
            refused as a row, since one row has one `terms_id`.
    """

    task: ClassVar[str] = "interleaved"
    version: ClassVar[str] = "1"
    asks: ClassVar[bool] = False

    max_sentences: int = 50
    max_media: int = 3
    captions: bool = False

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give the windows of a paper in its order, then the media that found no room."""
        rows = Rows(self, unit, fingerprint, language_of(unit), f"interleaved:{self.version}")
        figures = {figure["fig_key"]: figure for figure in unit.figures}
        cited: dict[str, None] = {}  # media that some sentence cites, in order of their first
        placed: set[str] = set()
        window: list[tuple[_Sentence, tuple[str, ...]]] = []
        for sentence in _sentences(unit):
            here = [m.key for f in sentence.figures if f in figures for m in unit.media_of(figures[f])]
            cited |= dict.fromkeys(here)
            new = [key for key in dict.fromkeys(here) if key not in placed]
            if window and self._is_full(window, sentence, len(new)):
                yield self._example(rows, window)
                window = []
            taken = tuple(new[: self.max_media - sum(len(media) for _, media in window)])
            placed.update(taken)
            window.append((sentence, taken))
        if window:
            yield self._example(rows, window)
        for key in cited:
            if key not in placed:
                yield rows.refusal(key, "interleaved.max_media", f"a sentence cites more than {self.max_media} media")
        if self.captions:
            yield from self._refused_captions(rows, placed)

    def _is_full(self, window: list[tuple[_Sentence, tuple[str, ...]]], sentence: _Sentence, n_new: int) -> bool:
        held = sum(len(media) for _, media in window)
        too_many = n_new > 0 and held > 0 and held + n_new > self.max_media
        return len(window) >= self.max_sentences or too_many or window[-1][0].scope != sentence.scope

    def _example(self, rows: Rows, window: list[tuple[_Sentence, tuple[str, ...]]]) -> Example:
        parts: list[Part] = []
        text = ""
        for sentence, media in window:
            if media and text:
                parts.append(Part(text=text))
                text = ""
            for key in media:
                parts.append(Part(media=key))
                if caption := self._caption(rows.unit, key):
                    parts.append(Part(text=caption))
            text += sentence.text
        parts.append(Part(text=text))
        first = window[0][0]
        measured = {"sentences": float(len(window)), "media": float(sum(len(media) for _, media in window))}
        turns = (Turn("document", tuple(parts)),)
        return rows.example(f"{first.paragraph}:{first.start}", turns=turns, measured=measured)

    def _caption(self, unit: UnitView, medium: str) -> str:
        figure = _figure_of(unit, medium)
        caption = (figure["caption"] or "").strip()
        if not self.captions or not caption or terms_of(unit, figure) != unit.terms_id:
            return ""
        label = (figure["label"] or "").strip()
        return f"{label} {caption}".strip() + PARAGRAPH_END

    def _refused_captions(self, rows: Rows, placed: set[str]) -> Iterator[Refusal]:
        for figure in rows.unit.figures:
            terms = terms_of(rows.unit, figure)
            if terms != rows.unit.terms_id and (figure["caption"] or "").strip():
                for medium in rows.unit.media_of(figure):
                    if medium.key in placed:
                        detail = f"its caption is under {terms}, the article under {rows.unit.terms_id}"
                        yield rows.refusal(medium.key, "interleaved.caption_terms", detail)


def _figure_of(unit: UnitView, medium: str) -> dict[str, Any]:
    return next(f for f in unit.figures if any(m["key"] == medium for m in f["media"]))


def _sentences(unit: UnitView) -> Iterator[_Sentence]:
    """Give the sentences of the body in order; their texts joined are the paragraphs, each with `PARAGRAPH_END`."""
    mentions: dict[str, list[dict[str, Any]]] = {}
    for mention in unit.mentions:
        mentions.setdefault(mention["par_id"], []).append(mention)
    for paragraph in unit.paragraphs:
        text = paragraph["text"]
        if paragraph["where"] != "body" or not text:
            continue
        here = mentions.get(paragraph["par_id"], [])
        starts = [0, *(start for start, _ in sentence_spans(text)[1:])]
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
            cited = tuple(
                key
                for mention in here
                if start <= mention["start"] < end and mention["status"] == "resolved"
                for key in mention["fig_keys"]
            )
            ending = PARAGRAPH_END if end == len(text) else ""
            yield _Sentence(
                paragraph["par_id"], paragraph["scope_id"], start, text[start:end] + ending, tuple(dict.fromkeys(cited))
            )
